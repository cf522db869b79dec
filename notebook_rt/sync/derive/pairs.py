"""The pairs of rows that a batch of changes creates and removes, for ``join.py``.

A `Side` is one of the two tables, with its rows by their join values before and after the batch. `Pairs`
goes through the changes of both sides and returns the operations of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np

from notebook_rt.model.rows import Delete, Key, Op, Row, Upsert
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.comparing import check_values
from notebook_rt.sync.derive.groups import NO_GROUP, Groups
from notebook_rt.sync.derive.operator import RebuildError
from notebook_rt.sync.derive.source import Source

_MANY: Final = 4096
"""Maximum number of pairs that a step changes, or a quarter of the result."""


class Paired(Protocol):
    """The interface of a join for its pairs."""

    @property
    def keeps_left(self) -> bool:
        """Whether a left row without a partner is kept."""

    @property
    def keeps_right(self) -> bool:
        """Whether a right row without a partner is kept."""

    def pair(self, left: Place | None, right: Place | None) -> tuple[Key, int]:
        """Return the key and the rank of a pair."""

    def row(self, left: Place | None, right: Place | None) -> dict[str, Any]:
        """Return the result's row for a pair."""


class Side:
    """One of the tables: its rows by their join values, before and after a batch of changes."""

    def __init__(self, source: Source, by: tuple[str, ...], since: Sequence[Delta]) -> None:
        self._by = by
        self._source = source
        self._by_key = by == source.table.schema.key and source.lasting
        self._groups = None if self._by_key else Groups(source, by, nulls=True, since=since)

    def begin(self, source: Source, deltas: Sequence[Delta]) -> None:
        """Take the changes without applying them yet."""
        self._source, self.deltas = source, deltas
        self._known: dict[tuple[Any, ...], list[Place]] = {}
        self._old = {delta.key: delta for delta in deltas} if self._by_key else {}
        self._was = {delta.old.rank: delta.old for delta in deltas if delta.old is not None}
        self._now = {delta.new.rank: delta.new for delta in deltas if delta.new is not None}
        self.moved = [delta for delta in deltas if self._moves(delta)]
        self.moved_to = {delta.new.rank for delta in self.moved if delta.new is not None}
        schema = source.schema
        check_values(deltas, {name: schema.types[name] for name in self._by}, schema.numeric)

    def _moves(self, delta: Delta) -> bool:
        old, new = delta.old, delta.new
        if old is None or new is None or old.rank != new.rank:
            return True
        return any(old.row[name] != new.row[name] for name in self._by)

    def values(self, row: Row) -> tuple[Any, ...]:
        """Return the join values of a row; NaN is null."""
        return tuple(
            [None if (value := row[n]) is None or value != value else value for n in self._by]
        )

    def touched(self) -> dict[tuple[Any, ...], None]:
        """Return the current and previous join values of the moved rows."""
        places = [place for delta in self.moved for place in (delta.old, delta.new)]
        return dict.fromkeys(self.values(place.row) for place in places if place is not None)

    def move(self) -> None:
        """Apply the changes."""
        self._known = {}
        self._old = {}
        self._was = self._now
        groups = self._groups
        if groups is None:
            return
        for delta in self.moved:
            if delta.old is not None:
                groups.drop(delta.old.rank)
        for delta in self.moved:
            if delta.new is not None:
                groups.put(delta.new.rank, groups.code_of(self.values(delta.new.row)))

    def any(self, values: tuple[Any, ...]) -> bool:
        """Return whether there are rows with these join values."""
        if self._groups is None:
            return bool(self.rows(values))
        code = self._groups.code(values)
        return code is not None and len(self._groups.members(code)) > 0

    def rows(self, values: tuple[Any, ...]) -> list[Place]:
        """Return the rows with these join values."""
        found = self._known.get(values)
        if found is None:
            found = self._known[values] = self._look_up(values)
        return found

    def _look_up(self, values: tuple[Any, ...]) -> list[Place]:
        if self._groups is None:
            key = self._source.table.schema.key_of(dict(zip(self._by, values, strict=True)))
            delta = self._old.get(key)
            place = self._source.table.place(key) if delta is None else delta.old
            return [] if place is None else [place]
        code = self._groups.code(values)
        ranks = [] if code is None or code == NO_GROUP else self._groups.members(code).tolist()
        unchanged = [rank for rank in ranks if rank not in self._was]
        there = {**self._was, **self._fetched(unchanged)}
        return [there[rank] for rank in ranks]

    def _fetched(self, ranks: Sequence[int]) -> dict[int, Place]:
        """Return rows without a change."""
        if not ranks:
            return {}
        places = self._source.places(np.array(ranks, "int64"))
        columns = self._source.table.columns()
        if len(ranks) == 1:
            [rank], at = ranks, int(places[0])
            return {rank: Place(rank, {name: one.value(at) for name, one in columns.items()})}
        values = zip(*(column.values(places) for column in columns.values()), strict=True)
        return {
            rank: Place(rank, dict(zip(columns, row, strict=True)))
            for rank, row in zip(ranks, values, strict=True)
        }

    @property
    def nbytes(self) -> int:
        """The approximate memory in bytes."""
        return 0 if self._groups is None else self._groups.nbytes


class Pairs:
    """The pairs that a batch creates and removes."""

    def __init__(self, join: Paired, left: Side, right: Side, rows: int) -> None:
        self._join, self._left, self._right = join, left, right
        self._keeps_left, self._keeps_right = join.keeps_left, join.keeps_right
        self._was: dict[Key, tuple[int, str]] = {}
        self._now: dict[Key, tuple[int, str, Place | None, Place | None]] = {}
        self._fresh: set[Key] = set()
        self._most = max(_MANY, rows // 4)

    def before(self) -> None:
        """Record the pairs of moving rows before the batch."""
        left, right = self._left, self._right
        for delta in left.moved:
            if delta.old is not None:
                partners = right.rows(left.values(delta.old.row))
                for partner in partners:
                    self._note(delta.old, partner)
                if not partners and self._keeps_left:
                    self._note(delta.old, None)
        for delta in right.moved:
            if delta.old is not None:
                partners = left.rows(right.values(delta.old.row))
                for partner in partners:
                    self._note(partner, delta.old)
                if not partners and self._keeps_right:
                    self._note(None, delta.old)
        for one, other in self._unmatched():
            self._note(one, other)

    def after(self) -> None:
        """Record the pairs of changed rows after the batch."""
        left, right = self._left, self._right
        for delta in left.deltas:
            if delta.new is not None:
                partners = right.rows(left.values(delta.new.row))
                for partner in partners:
                    self._make(delta.new, partner)
                if not partners and self._keeps_left:
                    self._make(delta.new, None)
        for delta in right.deltas:
            if delta.new is not None:
                partners = left.rows(right.values(delta.new.row))
                for partner in partners:
                    self._make(partner, delta.new)
                if not partners and self._keeps_right:
                    self._make(None, delta.new)
        for one, other in self._unmatched():
            self._make(one, other, fresh=True)

    def _unmatched(self) -> Iterable[tuple[Place | None, Place | None]]:
        """Return rows without a partner that may get one or have lost theirs."""
        left, right = self._left, self._right
        if self._keeps_left:
            for values in right.touched():
                if not right.any(values):
                    yield from ((place, None) for place in left.rows(values))
        if self._keeps_right:
            for values in left.touched():
                if not left.any(values):
                    yield from ((None, place) for place in right.rows(values))

    def _note(self, left: Place | None, right: Place | None) -> None:
        key, rank = self._join.pair(left, right)
        self._was[key] = rank, _which(left, right)

    def _make(self, left: Place | None, right: Place | None, *, fresh: bool = False) -> None:
        key, rank = self._join.pair(left, right)
        self._now[key] = rank, _which(left, right), left, right
        if (
            fresh
            or (left is not None and left.rank in self._left.moved_to)
            or (right is not None and right.rank in self._right.moved_to)
        ):
            self._fresh.add(key)
        if len(self._now) > self._most:
            raise RebuildError

    def ops(self, counts: dict[str, int]) -> list[Op]:
        """Return the operations from the old to the new pairs; ``counts``: the pairs by their sides."""
        now = self._now
        ops: list[Op] = []
        for key, (rank, which) in self._was.items():
            counts[which] -= 1
            if key not in now or now[key][0] != rank:
                ops.append(Delete(key))  # it is gone, or is inserted again at its new position
        for key in self._fresh:
            counts[now[key][1]] += 1
        for key, (rank, _, left, right) in sorted(now.items(), key=lambda item: item[1][0]):
            ops.append(Upsert(key, {**self._join.row(left, right), RANK: rank}))
        return ops


def _which(left: Place | None, right: Place | None) -> str:
    """Return which sides of a pair exist."""
    return "left" if right is None else "right" if left is None else "both"
