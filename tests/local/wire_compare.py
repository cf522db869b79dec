"""Decide whether a frame equals a recorded one.

In: a recorded frame and one that was received. Out: nothing, or `DifferentError`. What may differ
(binding ids, refs of presence, ids of messages) must differ in the same way all through a
transcript: what was equal stays equal.
"""

import json
import re
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def topic_of(frame: str | bytes) -> str:
    """The topic that a frame belongs to, whatever its version."""
    if isinstance(frame, bytes):
        skip = {4: 5, 2: 3}[frame[0]]
        return frame[skip : skip + frame[1]].decode()
    if frame.startswith("["):
        return found(r'^\[[^,]*,[^,]*,"([^"]*)"', frame)
    return found(r'"topic":"([^"]*)"}$', frame)


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, text[:200]
    return match.group(1)


class DifferentError(Exception):
    """Two frames that are not the same."""


def _is_id(value: Any) -> bool:
    """Whether it is an id that is made anew each time (the tables' own uuids are not)."""
    return (
        isinstance(value, str)
        and _UUID.fullmatch(value) is not None
        and len(set(value[:8])) > 1
        and not value.startswith("a0eebc99")
    )


def parsed(frame: str | bytes) -> Any:
    if isinstance(frame, bytes):
        kind, sizes = frame[0], frame[1:4]
        if kind == 2:
            return ["binary push", frame[1:].decode(errors="replace")]
        body = frame[5:]
        names = [body[: sizes[0]], body[sizes[0] : sum(sizes[:2])]]
        meta = body[sum(sizes[:2]) : sum(sizes)]
        payload: Any = body[sum(sizes) :]
        if frame[4] == 1:
            payload = _json(payload.decode())
        return [kind, frame[4], *names, json.loads(meta or b"null"), payload]
    return _json(frame)


def _json(text: str) -> Any:
    # What was cut out of a long run does not count; nor does, then, the number of bytes.
    text = re.sub(r"x{40,}(\.\.\.<\d+ bytes>\.\.\.x{40,})?", "x…x", text)
    try:
        return json.loads(text, parse_float=_Number, parse_int=_Number.whole)
    except ValueError:
        return text


class _Number(str):
    """A number as it stands: 1.50 is not 1.5."""

    @staticmethod
    def whole(text: str) -> Any:
        return int(text) if len(text) < 12 else _Number(text)


def cut_like(wanted: str | bytes, got: str | bytes) -> str | bytes:
    """Cut a frame as the recorder did, so that the two can be compared."""
    if isinstance(wanted, bytes) or isinstance(got, bytes) or "bytes>..." not in wanted:
        return got
    return f"{got[:3000]}...<{len(got.encode())} bytes>...{got[-800:]}"


class Comparison:
    """Compares the frames of one transcript."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[str, Any], Any] = {}

    def same(self, wanted: Any, got: Any, name: str = "") -> None:
        """Compare; whatever may differ is put aside.

        Raises
        ------
        DifferentError
            Something else differs.
        """
        if name == "commit_timestamp" and wanted is not None:
            if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(got)):
                raise DifferentError(f"commit_timestamp {got!r}")
        elif name in ("phx_ref", "phx_ref_prev") or _is_id(wanted):
            self._paired("text", wanted, got)
        elif name == "ids":
            known = {wanted: got for (kind, wanted), got in self._pairs.items() if kind == "id"}
            if sorted(known.get(i, i) for i in wanted) != sorted(got):
                raise DifferentError(f"ids {got}, recorded {wanted}")
        elif isinstance(wanted, dict) and isinstance(got, dict):
            self._same_keys(wanted, got, name)
        elif isinstance(wanted, list) and isinstance(got, list):
            if len(wanted) != len(got):
                raise DifferentError(f"{name}: {len(got)} items, recorded {len(wanted)}")
            for one, other in zip(wanted, got, strict=True):
                self.same(one, other, name)
        elif name == "id" and isinstance(wanted, int) and wanted > 100_000:
            self._paired("id", wanted, got)
        elif type(wanted) is not type(got) or wanted != got:
            raise DifferentError(f"{name}: {str(got)[:300]!r}, recorded {str(wanted)[:300]!r}")

    def _same_keys(self, wanted: dict[str, Any], got: dict[str, Any], name: str) -> None:
        rest = [key for key in got if key not in wanted]
        for key, value in wanted.items():
            if key in got:
                self.same(value, got[key], key)
            elif _is_id(key) and rest:
                self._paired("text", key, rest[0])
                self.same(value, got[rest.pop(0)], key)
            else:
                raise DifferentError(f"{name}: no {key!r} in {str(got)[:300]}")
        if rest:
            raise DifferentError(f"{name}: {rest} not recorded")

    def _paired(self, kind: str, wanted: Any, got: Any) -> None:
        """What differs must differ in the same way every time."""
        if type(wanted) is not type(got) or self._pairs.setdefault((kind, wanted), got) != got:
            raise DifferentError(f"{got!r} where {wanted!r} was recorded")
