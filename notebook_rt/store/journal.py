"""A table that can compute what a batch changed after the batch was applied.

Computing the old and the new rows of a change costs more than applying it, and in a flood of changes most
of them are never accessed: ``.log`` keeps the latest thousand. So with ``defer`` set, ``apply`` returns
`LaterChanges`: the batch's operations are noted, and the rows computed when they are first accessed, at
the latest before the columns change (``Table._before_step``: until then the columns still hold the rows
from before the first noted batch). Changes that are no longer referenced by then are never computed.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final

from notebook_rt.model.rows import Delete, Key, LaterChanges, Op, RowChange
from notebook_rt.model.types import Backend, Schema
from notebook_rt.store.contents import changes_between
from notebook_rt.store.table import Table

_MOST: Final = 16_384
"""Number of noted operations; beyond it the columns take a step, however few rows are concerned."""


class JournalledTable(Table):
    """A ``Table`` whose ``apply`` may compute the changes later.

    Examples
    --------
    >>> from notebook_rt.model.types import Column
    >>> from notebook_rt.model.rows import Upsert
    >>> table = JournalledTable(Schema((Column("id", "int8"), Column("n", "int8")), key=("id",)))
    >>> table.defer = True
    >>> first = table.apply([Upsert(7, {"n": 1})], want_changes=True)
    >>> _ = table.apply([Upsert(7, {"n": 2})], want_changes=True)
    >>> [change.new for change in first]
    [{'id': 7, 'n': 1}]
    """

    def __init__(self, schema: Schema, dtype_backend: Backend = None) -> None:
        self.defer = False
        """Whether ``apply`` defers computing the changes, if they are requested."""
        self._journal: list[tuple[Sequence[Op], weakref.ref[LaterChanges] | None]] = []
        """The batches since the columns' last step; empty if none of them is deferred."""
        self._noted = 0
        self._left: dict[Key, int] = {}
        """Rows of the columns that noted batches deleted: maps their keys to their numbers."""
        super().__init__(schema, dtype_backend)

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        later = want_changes and self.defer and bool(ops)
        with self.lock:
            if not later:
                if self._journal:
                    self._note(ops, None)
                return super().apply(ops, want_changes=want_changes)
            if not self._journal or self._noted > _MOST:
                self._take_step()
            told = LaterChanges(len(ops), self._work_out)
            self._note(ops, weakref.ref(told))
            super().apply(ops)
            return told

    def _note(self, ops: Sequence[Op], told: weakref.ref[LaterChanges] | None) -> None:
        self._journal.append((ops, told))
        self._noted += len(ops)
        for op in ops:
            if op.__class__ is Delete:
                number = self._held.keys.get(op.key)
                if number is not None and self._held.holds(number):
                    self._left.setdefault(op.key, number)

    def _work_out(self) -> None:
        with self.lock:
            self._take_step()

    def _before_step(self) -> None:
        """Compute the changes still referenced, while the columns hold the rows from before the step."""
        if not self._journal:
            return
        journal, left = self._journal, self._left
        self._journal, self._left, self._noted = [], {}, 0
        held = [(ops, None if told is None else told()) for ops, told in journal]
        keys = dict.fromkeys(op.key for ops, told in held if told is not None for op in ops)
        if not keys:
            return
        rows = self._rows_of_the_columns(keys, left)
        first = next(at for at, (_, told) in enumerate(held) if told is not None)
        self._play(self._last_words([ops for ops, _ in held[:first]], rows.keys()), rows)
        for ops, told in held[first:]:
            old = {op.key: rows[op.key] for op in ops} if told is not None else {}
            self._play(ops, rows)
            if told is not None:
                told.resolve(list(changes_between(old, {key: rows[key] for key in old})))

    def _last_words(self, batches: Sequence[Sequence[Op]], keys: Iterable[Key]) -> list[Op]:
        """Return the operations on ``keys`` that no later one overrides, in their order."""
        unsaid, found, known = set(keys), [], self._held.blank.keys()
        for ops in reversed(batches):
            for op in reversed(ops):
                if op.key in unsaid:
                    found.append(op)
                    if isinstance(op, Delete) or op.row.keys() >= known:
                        unsaid.discard(op.key)
        found.reverse()
        return found

    def _rows_of_the_columns(
        self, keys: dict[Key, None], left: dict[Key, int]
    ) -> dict[Key, dict[str, Any] | None]:
        """Return the rows of ``keys`` as the columns hold them, without changes noted since."""
        held = self._held
        numbers = {**held.keys.numbers(keys), **{key: left[key] for key in keys if key in left}}
        there = {key: number for key, number in numbers.items() if held.holds(number)}
        return {**dict.fromkeys(keys), **held.stored(there)}

    def _play(self, ops: Sequence[Op], rows: dict[Key, dict[str, Any] | None]) -> None:
        """Apply ``ops`` to the ``rows`` that they concern; the dicts in it are not modified."""
        known = self._held.blank
        for op in ops:
            if op.key not in rows:
                continue
            if isinstance(op, Delete):
                rows[op.key] = None
                continue
            row = rows[op.key] or self._held.whole(op.key, {})
            given = {name: value for name, value in op.row.items() if name in known}
            rows[op.key] = {**row, **given}
