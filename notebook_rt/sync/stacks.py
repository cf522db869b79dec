"""Pending edits by row, in their order, followed through changes of a row's key.

A stack belongs to the *root*: the key that the row has on the server. An edit that gives the row
another key does not move its stack; the server's word that it has the new key does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from notebook_rt.store.types import Schema
from notebook_rt.sync.merge import Edit
from notebook_rt.sync.rows import Key


class Stacks:
    """The edits of one table; ``schema`` names its key."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._stacks: dict[Key, list[Edit]] = {}
        self._root: dict[Key, Key] = {}
        """A key that an edit gives to a row, to the key that the row has on the server."""
        self._of: dict[str, Key] = {}
        """An edit's id to its root."""

    def __iter__(self) -> Iterator[Edit]:
        """Every edit; those of one row in order."""
        return (edit for stack in self._stacks.values() for edit in stack)

    def root(self, key: Key) -> Key:
        """The server's key of the row that is seen under ``key``."""
        return self._root.get(key, key)

    def root_of(self, op: str) -> Key | None:
        """The root of an edit, by its id; None: it is not here."""
        return self._of.get(op)

    def of(self, key: Key) -> Sequence[Edit]:
        """The edits of the row that is seen (or was) under ``key``."""
        return self._stacks.get(self.root(key), ())

    def about(self, key: Key) -> bool:
        """Whether an edit changes the row of this key, or gives the key to a row."""
        return key in self._stacks or key in self._root

    def keys_of(self, root: Key) -> list[Key]:
        """The server's key of a row, and those that its edits give to it."""
        return [root, *(key for key, its in self._root.items() if its == root)]

    def add(self, edit: Edit) -> tuple[Key, ...]:
        """Add an edit, or put it in the place of one with its id; its root and the key it gives."""
        root = self._of.get(edit.id)
        if root is None:
            root = self.root(edit.key)
            self._stacks.setdefault(root, []).append(edit)
            self._of[edit.id] = root
        else:
            stack = self._stacks[root]
            stack[next(i for i, one in enumerate(stack) if one.id == edit.id)] = edit
        new = self.new_key(edit)
        if new in (edit.key, root):
            return (root,)
        self._root[new] = root
        return (root, new)

    def take(self, op: str) -> Edit:
        """Take an edit out."""
        root = self._of.pop(op)
        stack = self._stacks[root]
        edit = next(one for one in stack if one.id == op)
        stack.remove(edit)
        if not stack:
            del self._stacks[root]
        if self.new_key(edit) != edit.key:
            self._root.pop(self.new_key(edit), None)
        return edit

    def move(self, root: Key, new: Key) -> None:
        """The row has its new key on the server too: what was edited after goes with it."""
        later = self._stacks.pop(root, [])
        if later:
            self._stacks.setdefault(new, []).extend(later)
        for edit in later:
            self._of[edit.id] = new
            given = self.new_key(edit)
            if given != edit.key:
                self._root[given] = new

    def sent(self, ids: Iterable[str]) -> None:
        """Note that edits are on their way."""
        for op in ids:
            root = self._of.get(op)
            if root is not None:
                stack = self._stacks[root]
                stack[:] = [replace(e, sent=True) if e.id == op else e for e in stack]

    def new_key(self, edit: Edit) -> Key:
        """The row's key after the edit."""
        names = self._schema.key
        if edit.kind != "update" or not any(name in edit.values for name in names):
            return edit.key
        old = edit.key if len(names) > 1 else (edit.key,)
        named = dict(zip(names, old, strict=True))  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
        return self._schema.key_of(
            {**named, **{n: edit.values[n] for n in edit.values if n in named}}
        )
