"""``top``: the first rows in the order of columns, equal to ``sort_values(kind="stable").head(n)``.

The state is a sorted list of the first rows, more than are shown; of the others only the number is kept.
A removed row is replaced by the next one in the list. When the list is exhausted, all rows are searched.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Row, Upsert
from notebook_rt.model.types import Schema
from notebook_rt.store.touched import RANK, Delta
from notebook_rt.sync.derive.operator import (
    Columns,
    Operator,
    RebuildError,
    rank_column,
    ranked,
)
from notebook_rt.sync.derive.ordering import Ordering, SortKey
from notebook_rt.sync.derive.source import Source

_GAP: Final = 16
"""Gap between the ranks of two rows when they are spaced."""
_RESERVE: Final = 256
"""Number of rows kept in addition to those shown."""

Entry: TypeAlias = tuple[SortKey, Key]


class Top(Operator):
    """The first ``count`` rows in order."""

    def __init__(self, count: int, ordering: Ordering) -> None:
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise DerivationError(f"top: the number of rows must be a whole number, not {count!r}")
        self.count = int(count)
        self.ordering = ordering
        self._kept = max(1, 2 * self.count + _RESERVE)

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        self.ordering.check(source)
        schema = source.schema
        self._names = schema.names
        order = self._fill(source)[: self.count]
        self._ranks = self._spaced([key for _, key in self._entries[: self.count]])
        ranks = np.array(list(self._ranks.values()), "int64")
        columns = {
            **source.picked(order, schema.names),
            RANK: rank_column(ranks, source.table.dtype_backend),
        }
        return ranked(schema.columns, schema.key, schema), columns

    @property
    def nbytes(self) -> int:
        return 200 * len(self._entries)

    def _fill(self, source: Source) -> np.ndarray:
        """Create the list from all rows; return the positions of its rows."""
        order = self.ordering.first(source, self._kept)
        keys = source.picked(order, source.schema.key)
        parts = zip(*(column.everything() for column in keys.values()), strict=True)
        named = [source.schema.key_of(dict(zip(keys, one, strict=True))) for one in parts]
        self._entries: list[Entry] = list(
            zip(self.ordering.keys(source, order), named, strict=True)
        )
        self._end = self._entries[-1][0] if len(order) < len(source) else None
        """Rows that sort after it are not in the list; None: all rows are."""
        return order

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        [source], [changes] = sources, deltas
        self.ordering.check_values(changes)
        self._follow(source, changes)
        shown = [key for _, key in self._entries[: self.count]]
        here, before = set(shown), self._ranks
        ops: list[Op] = [Delete(key) for key in before if key not in here]
        rows: dict[Key, Row] = {
            delta.key: delta.new.row
            for delta in changes
            if delta.new is not None and delta.key in here
        }
        for key in shown:
            if key not in before and key not in rows:
                place = source.table.place(key)  # the row of a view lacks a hidden key
                assert place is not None  # it is in the list
                rows[key] = place.row
        self._ranks = self._ranked(shown, {*before} - self._moved)
        for key in shown:
            rank = self._ranks[key]
            if key in rows:
                ops.append(Upsert(key, {**{n: rows[key][n] for n in self._names}, RANK: rank}))
            elif rank != before[key]:
                ops.append(Upsert(key, {RANK: rank}))
        return ops

    def _follow(self, source: Source, changes: Sequence[Delta]) -> None:
        """Update the list."""
        entries, end = self._entries, self._end
        self._moved: set[Key] = set()
        come: list[Entry] = []
        for delta in changes:
            old, new = delta.old, delta.new
            was = None if old is None else self.ordering.key(old.row, old.rank)
            now = None if new is None else self.ordering.key(new.row, new.rank)
            if was == now:
                continue
            self._moved.add(delta.key)
            if was is not None and (end is None or was <= end):
                at = bisect_left(entries, (was,))
                if at == len(entries) or entries[at] != (was, delta.key):
                    raise RebuildError  # the row differs from the one in the list
                del entries[at]
            if now is not None and (end is None or now <= end):
                come.append((now, delta.key))
        for entry in come:
            insort(entries, entry, key=lambda one: one[0])
        if len(entries) > 2 * self._kept:
            del entries[self._kept :]
            self._end = entries[-1][0]
        elif len(entries) < self.count and end is not None:
            self._fill(source)

    def _ranked(self, shown: Sequence[Key], stay: set[Key]) -> dict[Key, int]:
        """Return the ranks of the shown rows: rows that stay keep theirs if there is room."""
        found: dict[Key, int] = {}
        new: list[Key] = []
        below = 0
        for key in shown:
            if key not in stay:
                new.append(key)
                continue
            above = self._ranks[key]
            if above - below <= len(new):
                return self._spaced(shown)
            for at, one in enumerate(new, 1):
                found[one] = below + at * (above - below) // (len(new) + 1)
            found[key] = below = above
            new.clear()
        return found | {key: below + at * _GAP for at, key in enumerate(new, 1)}

    def _spaced(self, shown: Sequence[Key]) -> dict[Key, int]:
        return {key: at * _GAP for at, key in enumerate(shown, 1)}

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        return sources[0].dtypes()
