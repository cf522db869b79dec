"""Which rows belong together: by the values of some columns, each row in at most one group.

Shared by ``groupby``, ``distinct`` and ``join``. A group is an int, its code; rows are known by their
ranks. A row with a null among the values is in no group (or, with ``nulls``, null is a value). Kept is the
group of each row, in an array by rank; which rows a group has is found by looking it through.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from notebook_rt.model.rows import Row
from notebook_rt.model.types import Kind
from notebook_rt.store.dense import Positions
from notebook_rt.sync.derive.source import Source

NO_GROUP = -1


class Groups:
    """See the module; made of a whole table."""

    def __init__(self, source: Source, by: Sequence[str], *, nulls: bool = False) -> None:
        self.by = tuple(by)
        self._nulls = nulls
        columns = source.table.columns()
        self.kinds: tuple[Kind, ...] = tuple(columns[name].kind for name in by)
        ranks = source.ranks()
        self.codes, self.values = self._factorized(source)
        """The group of each row, in the table's order, and the values of each group."""
        self._code_of = {values: code for code, values in enumerate(self.values)}
        self.by_rank = np.full(int(ranks.max(initial=-1)) + 1, NO_GROUP, "int32")
        self.by_rank[ranks] = self.codes

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
        if rank >= len(self.by_rank):
            more = np.full(rank + 1 + len(self.by_rank) // 8, NO_GROUP, "int32")
            more[: len(self.by_rank)] = self.by_rank
            self.by_rank = more
        self.by_rank[rank] = code

    def drop(self, rank: int) -> int:
        """Let a row go; returns the group that it was in."""
        code = int(self.by_rank[rank])
        self.by_rank[rank] = NO_GROUP
        return code

    def members(self, code: int) -> Positions:
        """The ranks of the rows of a group, rising."""
        return np.flatnonzero(self.by_rank == code)


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
    return value
