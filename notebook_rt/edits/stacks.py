"""Pending edits of one table in the order in which they were made, and the keys they link.

An edit names its row by the key under which the view showed it then. An edit that changes a row's key
links the two keys: later edits under the new key, or under an old key that now belongs to another row,
can only be computed together. `linked` returns such a group, with its edits in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from notebook_rt.edits.merge import Edit
from notebook_rt.model.rows import Key
from notebook_rt.model.types import Schema


class Linked(msgspec.Struct, frozen=True):
    """Keys that edits link, and these edits in order."""

    keys: tuple[Key, ...]
    edits: Sequence[Edit]


class Stacks:
    """The edits of one table; ``schema`` names its key."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._edits: dict[str, Edit] = {}
        self._number: dict[str, int] = {}
        """Each edit's position in the order."""
        self._next = 0
        self._about: dict[Key, set[str]] = {}
        """Maps a key to the edits that change the row under it, or give it to a row."""

    def __iter__(self) -> Iterator[Edit]:
        """Iterate over all edits, in order."""
        return iter(self._edits.values())

    def get(self, op: str) -> Edit | None:
        """Return an edit by its id."""
        return self._edits.get(op)

    def about(self, key: Key) -> bool:
        """Return whether an edit changes the row of this key, or gives the key to a row."""
        return key in self._about

    def naming(self, key: Key) -> list[Edit]:
        """Return the edits that change the row of this key, or give the key to a row."""
        return [self._edits[op] for op in self._about.get(key, ())]

    def linked(self, key: Key) -> Linked:
        """Return the keys that edits link with this one, and the edits of their rows."""
        ops = self._about.get(key)
        if ops is None:
            return Linked((key,), ())
        keys, found = {key: None}, set(ops)
        open_keys = [key]
        while open_keys:
            for op in self._about.get(open_keys.pop(), ()):
                found.add(op)
                for one in self.keys_of(self._edits[op]):
                    if one not in keys:
                        keys[one] = None
                        open_keys.append(one)
        return Linked(tuple(keys), [self._edits[op] for op in sorted(found, key=self._number.get)])  # type: ignore[arg-type]  # each has a number

    def of(self, key: Key) -> Sequence[Edit]:
        """Return the edits of the row that the view shows under ``key``; if it shows none, those of the row
        that it last showed there.
        """
        here: dict[Key, list[Edit]] = {}
        left: dict[Key, list[Edit]] = {}
        for edit in self.linked(key).edits:
            new = self.new_key(edit)
            edits = here.setdefault(edit.key, [])
            edits.append(edit)
            if new != edit.key:
                here[new] = left[edit.key] = here.pop(edit.key)
        return here.get(key) or left.get(key) or ()

    def root(self, key: Key) -> Key:
        """Return the server's key of the row that the view shows (or showed) under ``key``."""
        edits = self.of(key)
        return edits[0].key if edits else key

    def add(self, edit: Edit) -> None:
        """Add an edit, or replace the one with its id."""
        known = self._edits.get(edit.id)
        if known is None:
            self._number[edit.id] = self._next
            self._next += 1
        else:
            self._unlink(known)
        self._edits[edit.id] = edit
        for key in self.keys_of(edit):
            self._about.setdefault(key, set()).add(edit.id)

    def take(self, op: str) -> Edit:
        """Remove and return an edit."""
        edit = self._edits.pop(op)
        del self._number[op]
        self._unlink(edit)
        return edit

    def sent(self, ids: Iterable[str]) -> None:
        """Note that edits are in flight."""
        for op in ids:
            if op in self._edits:
                self._edits[op] = replace(self._edits[op], sent=True)

    def keys_of(self, edit: Edit) -> tuple[Key, ...]:
        """Return the row's key before the edit and, if it differs, after it."""
        new = self.new_key(edit)
        return (edit.key,) if new == edit.key else (edit.key, new)

    def new_key(self, edit: Edit) -> Key:
        """Return the row's key after the edit."""
        names = self._schema.key
        if edit.kind != "update" or not any(name in edit.values for name in names):
            return edit.key
        old = edit.key if len(names) > 1 else (edit.key,)
        named = dict(zip(names, old, strict=True))  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
        return self._schema.key_of(
            {**named, **{n: edit.values[n] for n in edit.values if n in named}}
        )

    def _unlink(self, edit: Edit) -> None:
        for key in self.keys_of(edit):
            ops = self._about[key]
            ops.discard(edit.id)
            if not ops:
                del self._about[key]
