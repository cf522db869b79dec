"""``sort``: the rows in the order of columns, equal to ``df.sort_values(by, kind="stable")``.

The rank of a row in the result is a number between its neighbors'. The rows are kept in blocks, each with its
own range of ranks: a block becomes a list with its first change. If there is no rank between two
neighbors, the ranks of the block are respaced; if the block has no room left, all ranks are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Schema
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import shared
from notebook_rt.store.dense import Positions
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

_BLOCK: Final = 64
"""Initial number of rows of a block."""
_LONGEST: Final = 1024
"""Maximum rows of a block whose ranks are respaced; above it all ranks are."""
_GAP: Final = 16
"""Gap between the ranks of two rows when they are spaced."""

Entry: TypeAlias = tuple[SortKey, Key, int]
"""A row: its sort values, its key, its rank in the result."""


class Sort(Operator):
    """All rows, in order."""

    def __init__(self, ordering: Ordering) -> None:
        self.ordering = ordering

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        self.ordering.check(source)
        schema = source.schema
        self._names = schema.names
        order = self.ordering.positions(source)
        columns = source.picked(order, schema.names)
        blocks = self._blocks = Blocks(self.ordering, schema, columns, source.ranks(order))
        columns[RANK] = rank_column(blocks.ranks(), source.table.dtype_backend)
        return ranked(schema.columns, schema.key, schema), columns

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        self.ordering.check_values(deltas[0])
        ops: list[Op] = []
        come: list[tuple[SortKey, Key]] = []
        for delta in deltas[0]:
            old, new = delta.old, delta.new
            was = None if old is None else self.ordering.key(old.row, old.rank)
            now = None if new is None else self.ordering.key(new.row, new.rank)
            if was != now:
                if was is not None:
                    self._blocks.remove(was)
                if now is not None:
                    come.append((now, delta.key))
            if new is None:
                ops.append(Delete(delta.key))
        come.sort(key=lambda one: one[0])
        moved: dict[Key, int] = {}
        for now, key in come:
            moved |= self._blocks.insert(now, key)
        for delta in deltas[0]:
            if delta.new is not None:
                row = {name: delta.new.row[name] for name in self._names}
                if delta.key in moved:
                    row[RANK] = moved.pop(delta.key)
                ops.append(Upsert(delta.key, row))
        return [*ops, *(Upsert(key, {RANK: rank}) for key, rank in moved.items())]

    @property
    def nbytes(self) -> int:
        return self._blocks.nbytes

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        return sources[0].dtypes()


class Blocks:
    """Sorted rows with their ranks; see the module docstring."""

    def __init__(
        self, ordering: Ordering, schema: Schema, columns: Columns, inputs: Positions
    ) -> None:
        self._ordering = ordering
        self._schema = schema
        names = dict.fromkeys([*ordering.by, *schema.key])
        self._columns: dict[str, ColumnStore] = {name: shared(columns[name]) for name in names}
        self._inputs = inputs
        """The ranks of the rows in the input."""
        self._rows = len(inputs)
        self._start = _GAP * (_BLOCK + self._rows // _BLOCK)
        """The first rank, which leaves room before it."""
        count = max(1, -(-self._rows // _BLOCK))
        self._lists: list[list[Entry] | None] = [None] * count
        self._separators: dict[int, SortKey] = {}

    @property
    def nbytes(self) -> int:
        """The approximate memory in bytes."""
        columns = sum(column.nbytes for column in self._columns.values())
        entries = sum(map(len, filter(None, self._lists)))
        return columns + self._inputs.nbytes + 8 * len(self._lists) + 200 * entries

    def ranks(self) -> Positions:
        """Return the initial ranks of all rows."""
        return self._start + _GAP * np.arange(self._rows)

    def remove(self, sort_key: SortKey) -> None:
        """Remove a row."""
        block = self._list(self._find(sort_key))
        at = bisect_left(block, (sort_key,))
        assert block[at][0] == sort_key
        del block[at]

    def insert(self, sort_key: SortKey, key: Key) -> dict[Key, int]:
        """Insert a row; return the new ranks, including its own."""
        number = self._find(sort_key)
        block = self._list(number)
        at = bisect_left(block, (sort_key,))
        rank = self._between(number, block, at)
        block.insert(at, (sort_key, key, -1 if rank is None else rank))
        if rank is not None:
            return {key: rank}
        return self._space(number, block)

    def _between(self, number: int, block: list[Entry], at: int) -> int | None:
        """Return a rank before the row at ``at``; None if there is no room."""
        low, high = self._range(number)
        below = block[at - 1][2] if at else low - 1
        if at == len(block) and high is None:
            return below + _GAP
        above = block[at][2] if at < len(block) else high
        assert above is not None
        if number == at == 0 and block and above > _GAP:
            return above - _GAP
        rank = (below + above) // 2
        return rank if below < rank < above else None

    def _space(self, number: int, block: list[Entry]) -> dict[Key, int]:
        """Respace the ranks of a block; return the changed ones."""
        low, high = self._range(number)
        width = _GAP * len(block) if high is None else high - low
        if len(block) > min(_LONGEST, width // 2):
            raise RebuildError
        found: dict[Key, int] = {}
        for at, (sort_key, key, before) in enumerate(block):
            rank = low + at * width // len(block)
            if rank != before:
                block[at] = sort_key, key, rank
                found[key] = rank
        return found

    def _range(self, number: int) -> tuple[int, int | None]:
        """Return the range of ranks of a block, the end excluded; None: no end."""
        low = self._start + _GAP * _BLOCK * number if number else 0
        return low, None if number == len(self._lists) - 1 else self._start + _GAP * _BLOCK * (
            number + 1
        )

    def _find(self, sort_key: SortKey) -> int:
        """Return the block of a row."""
        return bisect_right(range(1, len(self._lists)), sort_key, key=self._separator)

    def _separator(self, number: int) -> SortKey:
        """Return the sort values of a block's first row at its creation."""
        found = self._separators.get(number)
        if found is None:
            at = number * _BLOCK
            row = {name: self._columns[name].value(at) for name in self._ordering.by}
            found = self._ordering.key(row, int(self._inputs[at]))
            self._separators[number] = found
        return found

    def _list(self, number: int) -> list[Entry]:
        block = self._lists[number]
        if block is None:
            first = number * _BLOCK
            places = np.arange(first, min(first + _BLOCK, self._rows))
            values = [column.values(places) for column in self._columns.values()]
            block = self._lists[number] = []
            rows = zip(places.tolist(), self._inputs[places].tolist(), *values, strict=True)
            for at, inner, *one in rows:
                row = dict(zip(self._columns, one, strict=True))
                sort_key = self._ordering.key(row, inner)
                block.append((sort_key, self._schema.key_of(row), self._start + _GAP * at))
        return block
