"""The presence of a topic: keys with their metas, and the diffs for the members. Pure.

In: track and untrack of members. Out: diffs as `{"joins": …, "leaves": …}`, None if nothing changed. The
caller creates the reference of a meta.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

Meta = dict[str, Any]
Diff = dict[str, dict[str, dict[str, list[Meta]]]]


@dataclass(slots=True)
class Presence:
    """A topic's members: a member is one join, and has one key and one meta."""

    _members: dict[Hashable, tuple[str, Meta]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._members)

    def state(self) -> dict[str, dict[str, list[Meta]]]:
        """Every key with its metas."""
        state: dict[str, dict[str, list[Meta]]] = {}
        for key, meta in self._members.values():
            state.setdefault(key, {"metas": []})["metas"].append(meta)
        return state

    def track(self, member: Hashable, key: str, payload: dict[str, Any], ref: str) -> Diff | None:
        """Set a member's payload; return None if it is unchanged.

        >>> Presence().track("socket 1", "ann", {"n": 1}, "ref1")
        {'joins': {'ann': {'metas': [{'phx_ref': 'ref1', 'n': 1}]}}, 'leaves': {}}
        """
        meta: Meta = {"phx_ref": ref}
        leaves: dict[str, dict[str, list[Meta]]] = {}
        if member in self._members:
            _, before = self._members[member]
            if {k: v for k, v in before.items() if k not in ("phx_ref", "phx_ref_prev")} == payload:
                return None
            meta["phx_ref_prev"] = before["phx_ref"]
            leaves = {key: {"metas": [before]}}
        meta |= payload
        self._members[member] = (key, meta)
        return {"joins": {key: {"metas": [meta]}}, "leaves": leaves}

    def untrack(self, member: Hashable) -> Diff | None:
        """Remove a member; return None if it was not present."""
        if member not in self._members:
            return None
        key, meta = self._members.pop(member)
        return {"joins": {}, "leaves": {key: {"metas": [meta]}}}
