"""The order of rows by some columns, as ``DataFrame.sort_values(kind="stable")`` gives it.

In go whole tables, out comes pandas' own order of their rows; in goes a row, out comes a key: keys sort as
the rows do. Rows that are alike keep the order of the input, so their rank is the key's end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import total_ordering
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Row
from notebook_rt.store.dense import Positions
from notebook_rt.store.touched import Delta
from notebook_rt.sync.derive.comparing import COMPARED, check_values, has_nan, refuse_unfit
from notebook_rt.sync.derive.operator import known
from notebook_rt.sync.derive.source import Source

NaPosition: TypeAlias = Literal["first", "last"]
SortKey: TypeAlias = tuple[Any, ...]


@total_ordering
class Reversed:
    """A value that sorts the other way round."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and bool(self.value == other.value)

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.value < self.value)

    def __hash__(self) -> int:
        return hash(self.value)


class Ordering:
    """See the module. ``what`` says in errors who asks."""

    def __init__(
        self,
        by: str | Sequence[str],
        ascending: bool | Sequence[bool],
        na_position: NaPosition,
        what: str,
    ) -> None:
        self.by = (by,) if isinstance(by, str) else tuple(by)
        every = isinstance(ascending, bool | np.bool_)
        self.ascending = (bool(ascending),) * len(self.by) if every else tuple(map(bool, ascending))  # type: ignore[arg-type]  # a sequence, if it is no bool
        self.na_position: NaPosition = na_position
        self.what = f"{what} {', '.join(self.by)}"
        if not self.by or len(self.ascending) != len(self.by):
            raise DerivationError(f"{self.what}: columns, and as many directions or one for all")
        if len(set(self.by)) < len(self.by):
            raise DerivationError(f"{self.what}: a column twice")
        if na_position not in ("first", "last"):
            raise DerivationError(f"{self.what}: na_position must be 'first' or 'last'")
        self._null = 1 if na_position == "last" else -1

    @property
    def asked(self) -> tuple[object, ...]:
        """What was asked for; of two orderings that are the same, the same."""
        return self.by, self.ascending, self.na_position

    def check(self, source: Source) -> None:
        """Refuse columns that are not sorted here as pandas sorts them."""
        known(source, self.by, self.what)
        columns = source.table.columns()
        self._types = {name: source.schema.types[name] for name in self.by}
        self._numeric = source.schema.numeric
        self._nan = source.table.dtype_backend is None  # then NaN is null
        for name in self.by:
            column = columns[name]
            if column.kind not in COMPARED:
                raise DerivationError(f'{self.what}: "{name}" is {column.kind}; use map')
            refuse_unfit(column, name, self.what)
            if not self._nan and has_nan(column):
                raise DerivationError(
                    f'{self.what}: "{name}" holds NaN, which the nullable dtypes tell apart from null; '
                    "use map"
                )

    def check_values(self, deltas: Iterable[Delta]) -> None:
        """Build anew where a row holds what `check` refuses."""
        check_values(deltas, self._types, self._numeric, nan=not self._nan)

    def positions(self, source: Source) -> Positions:
        """The positions of all rows, in order."""
        return self._sorted([source.series(name).array for name in self.by])

    def first(self, source: Source, count: int) -> Positions:
        """The positions of the first ``count`` rows in order; the others are not sorted."""
        columns = [source.series(name).array for name in self.by]
        values = source.arrays(self.by[:1])[self.by[0]]
        if values.dtype.kind not in "if" or not 0 < count < len(values):
            return self._sorted(columns)[:count]
        if values.dtype.kind == "f" and np.isnan(values).any():
            return self._sorted(columns)[:count]
        at = count - 1 if self.ascending[0] else len(values) - count
        last = np.partition(values, at)[at]
        did_you_mean = np.flatnonzero(values <= last if self.ascending[0] else values >= last)
        return did_you_mean[self._sorted([column.take(did_you_mean) for column in columns])][:count]

    def _sorted(self, columns: Sequence[Any]) -> Positions:
        frame = pd.DataFrame({f"{at}": one for at, one in enumerate(columns)}, copy=False)
        names = list(frame.columns)
        found = frame.sort_values(
            names[0] if len(names) == 1 else names,
            ascending=self.ascending[0] if len(names) == 1 else list(self.ascending),
            na_position=self.na_position,
            kind="stable",
        )
        return found.index.to_numpy()

    def key(self, row: Row, rank: int) -> SortKey:
        """What the row sorts by."""
        found: list[Any] = []
        for name, ascending in zip(self.by, self.ascending, strict=True):
            value = row[name]
            if value is None or value != value:
                found += (self._null, 0)
            elif ascending:
                found += (0, value)
            else:
                found += (0, -value if type(value) in (int, float) else Reversed(value))
        return (*found, rank)

    def keys(self, source: Source, positions: Positions) -> list[SortKey]:
        """The keys of the rows at these positions."""
        ranks = source.ranks(positions).tolist()
        picked = source.picked(positions, self.by)
        columns = [picked[name].everything() for name in self.by]
        return [
            self.key(dict(zip(self.by, values, strict=True)), rank)
            for rank, *values in zip(ranks, *columns, strict=True)
        ]
