"""The pairs of rows that a batch of changes makes and unmakes, for ``join.py``.

A `Side` is one of the two tables, its rows by what they are joined by, as they were before the batch and
then as they are. `Pairs` goes through what changed on either side, and gives the operations of the result.
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
"""Pairs that a step touches at most, or a quarter of the result."""


class Paired(Protocol):
    """What a join knows of a pair."""

    @property
    def keeps_left(self) -> bool:
        """Whether a row on the left without a partner stays."""

    @property
    def keeps_right(self) -> bool:
        """Whether a row on the right without a partner stays."""

    def pair(self, left: Place | None, right: Place | None) -> tuple[Key, int]:
        """The key and the rank of a pair."""

    def row(self, left: Place | None, right: Place | None) -> dict[str, Any]:
        """What the result holds of a pair."""


class Side:
    """One of the tables: its rows by what they are joined by, before a batch of changes and after it."""

    def __init__(self, source: Source, by: tuple[str, ...], since: Sequence[Delta]) -> None:
        self._by = by
        self._source = source
        self._by_key = by == source.table.schema.key and source.lasting
        self._groups = None if self._by_key else Groups(source, by, nulls=True, since=since)

    def begin(self, source: Source, deltas: Sequence[Delta]) -> None:
        """Take the changes, without following them yet."""
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
        """What a row is joined by; NaN is null."""
        return tuple(
            [None if (value := row[n]) is None or value != value else value for n in self._by]
        )

    def touched(self) -> dict[tuple[Any, ...], None]:
        """What the rows that moved are and were joined by."""
        places = [place for delta in self.moved for place in (delta.old, delta.new)]
        return dict.fromkeys(self.values(place.row) for place in places if place is not None)

    def move(self) -> None:
        """Follow the changes."""
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
        """Whether there are rows that are joined by these values."""
        if self._groups is None:
            return bool(self.rows(values))
        code = self._groups.code(values)
        return code is not None and len(self._groups.members(code)) > 0

    def rows(self, values: tuple[Any, ...]) -> list[Place]:
        """The rows that are joined by these values."""
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
        """Rows that no change is about."""
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
        """Bytes of memory in use, about."""
        return 0 if self._groups is None else self._groups.nbytes


class Pairs:
    """The pairs that a batch makes and unmakes."""

    def __init__(self, join: Paired, left: Side, right: Side, rows: int) -> None:
        self._join, self._left, self._right = join, left, right
        self._keeps_left, self._keeps_right = join.keeps_left, join.keeps_right
        self._was: dict[Key, tuple[int, str]] = {}
        self._now: dict[Key, tuple[int, str, Place | None, Place | None]] = {}
        self._fresh: set[Key] = set()
        self._most = max(_MANY, rows // 4)

    def before(self) -> None:
        """Note the pairs of what moves, as they are."""
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
        for one, other in self._lonely():
            self._note(one, other)

    def after(self) -> None:
        """Note the pairs of what has changed, as they are now."""
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
        for one, other in self._lonely():
            self._make(one, other, fresh=True)

    def _lonely(self) -> Iterable[tuple[Place | None, Place | None]]:
        """Rows without a partner whose partners may come or have gone."""
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
        """What makes the old pairs the new ones; ``counts`` are of the pairs by who is there."""
        now = self._now
        ops: list[Op] = []
        for key, (rank, which) in self._was.items():
            counts[which] -= 1
            if key not in now or now[key][0] != rank:
                ops.append(Delete(key))  # it is no more, or comes again at its new place
        for key in self._fresh:
            counts[now[key][1]] += 1
        for key, (rank, _, left, right) in sorted(now.items(), key=lambda item: item[1][0]):
            ops.append(Upsert(key, {**self._join.row(left, right), RANK: rank}))
        return ops


def _which(left: Place | None, right: Place | None) -> str:
    """Who of a pair is there."""
    return "left" if right is None else "right" if left is None else "both"
