"""Which rows belong together: by the values of some columns, each row in at most one group.

Shared by ``groupby``, ``distinct`` and ``join``. A group is an int, its code; rows are known by their
ranks. A row with a null among the values is in no group (or, with ``nulls``, null is a value). Kept is the
group of each row, by rank. Which rows a group has is found by looking that through, until it was asked a few
times; then the rows are sorted by their groups, once.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from notebook_rt.model.rows import Row
from notebook_rt.model.types import Kind
from notebook_rt.store.dense import Positions
from notebook_rt.store.touched import Delta
from notebook_rt.sync.derive.source import Source

NO_GROUP = -1
_SCANS: Final = 16
"""Looks through all rows that take as long as to sort them by their groups."""
_SPREAD: Final = 4
"""An array by rank is at most so much longer than the table."""
_RECENT: Final = 4096
"""Ranks that are kept in a dict at most, or an eighth of those in the arrays."""


class Ranked:
    """A value for each rank; of a rank that is not there, anything.

    An array by rank, where that is not much longer than the table. Else ranks are far apart (a merge's
    are): then two arrays, the ranks rising, and a dict of the ranks that came since.
    """

    def __init__(self, ranks: Positions, values: NDArray[Any], blank: Any = 0) -> None:
        self._blank = blank
        self._recent: dict[int, Any] = {}
        self._ranks: Positions | None = ranks
        self.values = values
        highest = int(ranks.max(initial=-1))
        if highest < _SPREAD * len(ranks) + _RECENT:
            self._ranks = None
            self.values = np.full(highest + 1, blank, values.dtype)
            self.values[ranks] = values

    @property
    def ranks(self) -> Positions:
        """The rank of each of the values."""
        return np.arange(len(self.values)) if self._ranks is None else self._ranks

    def _place(self, rank: int) -> int:
        if self._ranks is None:
            return rank
        place = int(self._ranks.searchsorted(rank))
        return place if place < len(self._ranks) and self._ranks.item(place) == rank else -1

    def __getitem__(self, rank: int) -> Any:
        if rank in self._recent:
            return self._recent[rank]
        return self.values[self._place(rank)]

    def __setitem__(self, rank: int, value: Any) -> None:
        if self._ranks is None:
            if rank >= len(self.values):
                size = rank + 1 + len(self.values) // 8
                more = np.full(size, self._blank, self.values.dtype)
                more[: len(self.values)] = self.values
                self.values = more
            self.values[rank] = value
            return
        place = -1 if rank in self._recent else self._place(rank)
        if place >= 0:
            self.values[place] = value
            return
        self._recent[rank] = value
        if len(self._recent) > max(_RECENT, len(self._ranks) // 8):
            self.flush()

    def flush(self) -> None:
        """Have everything in the arrays."""
        if self._recent:
            ranks = np.fromiter(self._recent, "int64", len(self._recent))
            values = np.empty(len(ranks), self.values.dtype)
            values[:] = list(self._recent.values())
            ranks = np.concatenate([self.ranks, ranks])
            order = np.argsort(ranks, kind="stable")
            self._ranks, self._recent = ranks[order], {}
            self.values = np.concatenate([self.values, values])[order]

    def where(self, value: Any) -> Positions:
        """The ranks that have this value, rising."""
        self.flush()
        found = np.flatnonzero(self.values == value)
        return found if self._ranks is None else self._ranks[found]

    def get(self, ranks: Positions) -> NDArray[Any]:
        """The values of many ranks."""
        if self._ranks is None:
            return self.values[ranks]
        self.flush()
        return self.values[self._ranks.searchsorted(ranks)]

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, about."""
        held = 0 if self._ranks is None else self._ranks.nbytes
        return held + self.values.nbytes + 150 * len(self._recent)


class Groups:
    """See the module; made of a whole table, as it was before the changes ``since``."""

    def __init__(
        self,
        source: Source,
        by: Sequence[str],
        *,
        nulls: bool = False,
        since: Sequence[Delta] = (),
    ) -> None:
        self.by = tuple(by)
        self._nulls = nulls
        columns = source.table.columns()
        self.kinds: tuple[Kind, ...] = tuple(columns[name].kind for name in by)
        ranks = source.ranks()
        self.codes, self.values = self._factorized(source)
        """The group of each row, in the table's order, and the values of each group."""
        self._code_of = {values: code for code, values in enumerate(self.values)}
        self.by_rank = Ranked(ranks, self.codes.astype("int32"), NO_GROUP)
        self._scans = 0
        self._sorted: tuple[Positions, NDArray[np.int64]] | None = None
        """The ranks in the order of their groups, and where each group begins."""
        self._members: dict[int, list[int]] = {}
        """The ranks of the groups that have changed since they were sorted."""
        for delta in since:
            if delta.new is not None:
                self.drop(delta.new.rank)
        for delta in since:
            if delta.old is not None:
                values = self.values_of(delta.old.row)
                self.put(delta.old.rank, NO_GROUP if values is None else self.code_of(values))

    def _factorized(self, source: Source) -> tuple[NDArray[np.int64], list[tuple[Any, ...]]]:
        codes: NDArray[np.int64] | None = None
        distinct: list[tuple[Any, ...]] = [()]
        for name, kind in zip(self.by, self.kinds, strict=True):
            one, found = pd.factorize(source.series(name).array)
            values = typed(found, kind)
            if self._nulls and (one < 0).any():
                one = np.where(one < 0, len(values), one)
                values.append(None)
            if codes is None:
                codes, distinct = one, [(value,) for value in values]
                continue
            together = np.where((codes < 0) | (one < 0), -1, codes * len(values) + one)
            codes, pairs = pd.factorize(np.where(together < 0, -1, together))
            lost = np.flatnonzero(pairs < 0)
            if len(lost):  # the code of the rows in no group
                [at] = lost.tolist()
                codes = np.where(codes == at, -1, codes - (codes > at))
                pairs = np.delete(pairs, at)
            distinct = [
                (*distinct[pair // len(values)], values[pair % len(values)])
                for pair in pairs.tolist()
            ]
        assert codes is not None  # there is a column at least
        return codes.astype("int64"), distinct

    def values_of(self, row: Row) -> tuple[Any, ...] | None:
        """The values by which a row is grouped; None: it is in no group."""
        values = tuple(
            [None if (value := row[name]) is None or value != value else value for name in self.by]
        )
        return None if not self._nulls and None in values else values

    def code(self, values: tuple[Any, ...]) -> int | None:
        """The group of these values; None: no row has had them yet."""
        return self._code_of.get(values)

    def code_of(self, values: tuple[Any, ...]) -> int:
        """The group of these values; a new one if no row has had them yet."""
        known = self._code_of.get(values)
        if known is None:
            known = self._code_of[values] = len(self.values)
            self.values.append(values)
        return known

    def put(self, rank: int, code: int) -> None:
        """Put a row into a group."""
        self.by_rank[rank] = code
        if self._sorted is not None and code != NO_GROUP:
            insort(self._changing(code), rank)

    def drop(self, rank: int) -> int:
        """Let a row go; returns the group that it was in."""
        code = int(self.by_rank[rank])
        self.by_rank[rank] = NO_GROUP
        if self._sorted is not None and code != NO_GROUP:
            members = self._changing(code)
            del members[bisect_left(members, rank)]
        return code

    def members(self, code: int) -> Positions:
        """The ranks of the rows of a group, rising."""
        if self._sorted is None:
            self._scans += 1
            if self._scans <= _SCANS:
                return self.by_rank.where(code)
            self._sort()
        if code in self._members:
            return np.array(self._members[code], "int64")
        return self._slice(code)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, about."""
        found = self.by_rank.nbytes + 250 * len(self.values)
        if self._sorted is not None:
            found += sum(one.nbytes for one in self._sorted)
        return found + sum(40 * len(ranks) for ranks in self._members.values())

    def _changing(self, code: int) -> list[int]:
        """The ranks of a group, to be changed."""
        if code not in self._members:
            self._members[code] = self._slice(code).tolist()
        return self._members[code]

    def _slice(self, code: int) -> Positions:
        assert self._sorted is not None
        ranks, starts = self._sorted
        if code + 1 >= len(starts):  # it is newer than that
            return ranks[:0]
        return ranks[starts[code] : starts[code + 1]]

    def _sort(self) -> None:
        """Sort the ranks by their groups."""
        self.by_rank.flush()
        codes = self.by_rank.values
        low = (codes & 0xFFFF).astype("uint16")  # numpy sorts 16 bits by counting
        order = np.argsort(low, kind="stable")
        if len(self.values) >= 0xFFFF:
            high = (codes >> 16).astype("uint16")
            order = order[np.argsort(high[order], kind="stable")]
        count = np.bincount(codes[codes >= 0], minlength=len(self.values))
        # Rows in no group come last: -1 is the highest of the numbers without a sign.
        self._sorted = self.by_rank.ranks[order], np.concatenate([[0], np.cumsum(count)])


def typed(found: Iterable[Any], kind: Kind) -> list[Any]:
    """Values as pandas has them, typed."""
    return [_typed(value, kind) for value in found]


def _typed(value: Any, kind: Kind) -> Any:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        moment = value.to_pydatetime()
        if kind == "date":
            return moment.date()
        return moment.astimezone(dt.UTC) if kind == "timestamptz" else moment
    if isinstance(value, np.generic):
        value = value.item()
    if value != value:
        return None
    if kind == "int" and isinstance(value, float):  # there are nulls beside it
        return int(value)
    return value
