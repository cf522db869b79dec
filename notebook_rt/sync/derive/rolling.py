"""``rolling(window, on=, by=).agg(...)``: for each row, functions of its group in the time before it.

The build is pandas' own ``groupby(by).rolling(window, on=on).agg``. A changed row affects the windows
that reach back to it: these are computed again from their values, so no rounding errors of removed values
remain. The rows of a group must be in the order of their times, as in pandas.
"""

from __future__ import annotations

import datetime as dt
import math
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_object_dtype

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Row, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn, take
from notebook_rt.store.encode import NULL_MOMENT
from notebook_rt.store.touched import HIDDEN_PREFIX, RANK, Delta, Place
from notebook_rt.sync.derive.aggregates import meant
from notebook_rt.sync.derive.comparing import check_values, refuse_unfit
from notebook_rt.sync.derive.groups import NO_GROUP, Groups
from notebook_rt.sync.derive.operator import Columns, Operator, RebuildError, known, rank_column
from notebook_rt.sync.derive.source import Source

_GROUPED: Final = frozenset({"int", "bool", "text"})
_NUMBERS: Final = frozenset({"int", "float", "bool"})
_MOMENTS: Final = frozenset({"timestamptz", "timestamp"})
_GAP: Final = 1 << 10
"""Gap between the positions of two groups, for groups inserted between them."""
_HIGHEST: Final = 2**62
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def _sum(values: Sequence[float]) -> float:
    return math.fsum(values)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _var(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    middle = _mean(values)
    return math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)


def _std(values: Sequence[float]) -> float | None:
    found = _var(values)
    return None if found is None else math.sqrt(found)


def _median(values: Sequence[float]) -> float:
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


_FUNCTIONS: Final[dict[str, Callable[[Sequence[float]], float | None]]] = {
    "sum": _sum,
    "mean": _mean,
    "var": _var,
    "std": _std,
    "min": min,
    "max": max,
    "median": _median,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "nunique": lambda values: len(set(values)),
}
"""Functions of the values of a window (at least one), in order."""
FUNCTIONS: Final = tuple(sorted({"count", *_FUNCTIONS}))
"""The functions that ``agg`` accepts by name."""


class Rolling(Operator):
    """For each row, functions of the rows of its group in the ``window`` that ends with it."""

    counted = True

    def __init__(
        self,
        window: str | pd.Timedelta,
        on: str,
        by: Sequence[str],
        columns: Mapping[str, tuple[str, str]],
    ) -> None:
        self.window, self.on, self.by, self.columns = window, on, tuple(by), dict(columns)
        try:
            self._reach = pd.Timedelta(window) // _MICROSECOND
        except (ValueError, TypeError) as error:
            raise DerivationError(
                f"rolling: {window!r} is not a time, such as '5min'; {error}"
            ) from None
        if isinstance(window, int | float):
            raise DerivationError(
                f"rolling: a window is a time, such as '5min'; one of {window!r} rows is not kept up; use map"
            )
        if self._reach <= 0:
            raise DerivationError(f"rolling: the window must be longer than zero, not {window!r}")
        names = [*self.by, on, *self.columns]
        if not self.by or not self.columns or len(set(names)) < len(names):
            raise DerivationError(
                "rolling(window, on=, by=).agg(name=(column, function)): columns to group by, and names that "
                f"are all different; not {', '.join(names)}"
            )
        if len(set(self.columns.values())) < len(self.columns):
            raise DerivationError("rolling: pandas takes a function of a column once")
        for name, (column, function) in self.columns.items():
            if column in (*self.by, on):
                raise DerivationError(
                    f'rolling "{name}": rows are grouped by or rolled on "{column}"'
                )
            if function not in FUNCTIONS:
                raise DerivationError(
                    f'rolling "{name}": no function {function!r} of "{column}" is kept up'
                    f"{meant(function, FUNCTIONS)}; there are {', '.join(FUNCTIONS)}; use map for others"
                )
        self._index = self.index = (*self.by, on)
        self._used = tuple(dict.fromkeys(column for column, _ in self.columns.values()))

    # The whole

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        self._check(source)
        schema = self._schema = source.schema
        groups = Groups(source, self.by)
        self._groups: Groups | None = None
        codes = groups.codes
        self._order = sorted(groups.values)
        self._places = {values: at * _GAP for at, values in enumerate(self._order, 1)}
        ordered = np.array([self._places[values] for values in groups.values] or [0], "int64")
        inside = np.flatnonzero(codes >= 0)
        rows = inside[np.argsort(ordered[codes[inside]], kind="stable")]
        ranks = source.ranks()
        self._factor = 1 << (2 * int(ranks.max(initial=0)) + 1024).bit_length()
        self._lasting = source.lasting and 4 * int(ordered.max()) * self._factor < _HIGHEST
        found = self._rolled(source, rows, ordered[codes[rows]])
        backend, table = source.table.dtype_backend, source.table.columns()
        places = source.rows(rows)
        columns: dict[str, ColumnStore] = {n: take(table[n], places) for n in self._index}
        made = [Column(name, schema.types[name]) for name in self._index]
        for name in self.columns:
            values = found[name].to_numpy("float64", copy=True)
            nulls = np.isnan(values)
            mask = nulls if nulls.any() else None
            columns[name] = FixedColumn(values, mask, "float8", backend, "float")
            made.append(Column(name, "float8"))
        keys = source.table.schema.key
        for name in keys:
            columns[HIDDEN_PREFIX + name] = take(table[name], places)
            made.append(Column(HIDDEN_PREFIX + name, table[name].pg_type))
        made.append(Column(RANK, "int8"))
        lasting = ordered[codes[rows]] * self._factor + ranks[rows]
        columns[RANK] = rank_column(lasting if self._lasting else np.arange(len(rows)), backend)
        self._result = Schema(
            tuple(made), tuple(HIDDEN_PREFIX + name for name in keys), schema.numeric
        )
        self._keys = keys
        return self._result, columns

    def _check(self, source: Source) -> None:
        """Raise for inputs that cannot be updated incrementally."""
        known(source, (*self.by, self.on, *self._used), f"rolling by {', '.join(self.by)}")
        columns = source.table.columns()
        for names, kinds, what in (
            (self.by, _GROUPED, "grouped by"),
            ((self.on,), _MOMENTS, "rolled on"),
            (self._used, _NUMBERS, "numbers of"),
        ):
            for name in names:
                column = columns[name]
                if column.kind not in kinds:
                    raise DerivationError(
                        f'rolling: rows are not {what} "{name}", which is {column.kind}; use map'
                    )
                refuse_unfit(column, name, "rolling")
        if columns[self.on].null_count():
            raise DerivationError(f'rolling: "{self.on}" must not be null, as in pandas; use map')

    def _rolled(
        self, source: Source, rows: NDArray[np.int64], groups: NDArray[np.int64]
    ) -> pd.DataFrame:
        """Return pandas' own result, in the order of ``rows``."""
        on = source.series(self.on).array.take(rows)
        times = pd.Series(on).to_numpy("M8[us]").view("i8")
        if ((times[1:] < times[:-1]) & (groups[1:] == groups[:-1])).any():
            raise self._unordered()
        values: dict[str, Any] = {"\0by": groups, "\0on": on}
        values |= {name: source.series(name).array.take(rows) for name in self._used}
        frame = pd.DataFrame(values, copy=False)
        return frame.groupby("\0by").rolling(self.window, on="\0on").agg(**self.columns)

    def _unordered(self) -> DerivationError:
        return DerivationError(
            f'rolling: the rows of a group are not in the order of "{self.on}", as pandas asks; '
            "order the table by it, or use map"
        )

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        now = sources[0].dtypes()
        found = {name: now[name] for name in self._index}
        if self._order:  # pandas checks the values of an index of objects
            found |= {
                name: np.dtype("bool")
                for name in self.by
                if is_object_dtype(now[name]) and self._schema.types[name] == "bool"
            }
        return {**found, **dict.fromkeys(self.columns, np.dtype("float64"))}

    # What changes

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        [source], [changes] = sources, deltas
        used = [delta for delta in changes if self._matters(delta)]
        if not used:
            return []
        if not self._lasting:
            raise RebuildError
        self._check_values(used)
        if self._groups is None:
            self._groups = Groups(source, self.by, since=changes)
        groups = self._groups
        gone: dict[Key, int | None] = {}
        events: dict[int, list[tuple[int, int]]] = {}
        for delta in used:
            if delta.old is not None:
                code = groups.drop(delta.old.rank)
                if code != NO_GROUP:
                    gone[self._key(delta.old.row)] = self._rank(code, delta.old)
                    events.setdefault(code, []).append(self._event(delta.old))
        for delta in used:
            if delta.new is not None:
                values = groups.values_of(delta.new.row)
                code = NO_GROUP if values is None else groups.code_of(values)
                groups.put(delta.new.rank, code)
                if code != NO_GROUP:
                    events.setdefault(code, []).append(self._event(delta.new))
        now: list[tuple[int, Key, dict[str, Any]]] = []
        for code, of in events.items():
            now += self._windows(source, code, of)
        now.sort(key=lambda found: found[0])
        stays = {key: rank for rank, key, _ in now}
        ops: list[Op] = [Delete(key) for key, rank in gone.items() if stays.get(key) != rank]
        return [*ops, *(Upsert(key, row) for _, key, row in now)]

    def _matters(self, delta: Delta) -> bool:
        """Return whether a used column has changed."""
        old, new = delta.old, delta.new
        if old is None or new is None or old.rank != new.rank:
            return True
        return any(old.row[n] != new.row[n] for n in (*self.by, self.on, *self._used))

    def _check_values(self, deltas: Sequence[Delta]) -> None:
        """Rebuild if a row has a value that `_check` refuses."""
        if any(delta.new is not None and delta.new.row[self.on] is None for delta in deltas):
            raise RebuildError
        types, numeric = self._schema.types, self._schema.numeric
        used = dict.fromkeys((*self.by, self.on, *self._used))
        check_values(deltas, {name: types[name] for name in used}, numeric)

    def _key(self, row: Row) -> Key:
        return self._result.key_of({HIDDEN_PREFIX + name: row[name] for name in self._keys})

    def _event(self, place: Place) -> tuple[int, int]:
        """Return the current or previous position of a row in its group: its rank and time."""
        return place.rank, _microseconds(place.row[self.on])

    def _rank(self, code: int, place: Place) -> int:
        assert self._groups is not None  # created by a step
        values = self._groups.values[code]
        if values not in self._places:
            self._insert(values)
        if place.rank >= self._factor:
            raise RebuildError
        return self._places[values] * self._factor + place.rank

    def _insert(self, values: tuple[Any, ...]) -> None:
        """Give a new group a position between its neighbors."""
        order, places = self._order, self._places
        at = bisect_left(order, values)
        below = places[order[at - 1]] if at else 0
        above = places[order[at]] if at < len(order) else below + 2 * _GAP
        place = (below + above) // 2
        if place == below or place * self._factor >= _HIGHEST:
            raise RebuildError
        insort(order, values)
        places[values] = place

    def _windows(
        self, source: Source, code: int, events: Sequence[tuple[int, int]]
    ) -> list[tuple[int, Key, dict[str, Any]]]:
        """Return the results of the windows that reach back to one of ``events``."""
        assert self._groups is not None  # created by a step
        ranks = self._groups.members(code)
        if not len(ranks):
            return []
        places = source.places(ranks)
        columns = source.table.columns()
        times = columns[self.on].numpy()[places].view("i8")
        if (times[1:] < times[:-1]).any() or times[0] == NULL_MOMENT:
            raise self._unordered()
        reached: set[int] = set()
        for rank, time in events:
            first = int(ranks.searchsorted(rank))
            reached.update(range(first, int(times.searchsorted(time + self._reach))))
        if not reached:
            return []
        rows = sorted(reached)
        starts = times.searchsorted(times[rows] - self._reach, "right").tolist()
        begin = min(starts)
        held = places[begin : rows[-1] + 1]
        values = {name: columns[name].values(held) for name in self._used}
        keys = [columns[name].values(places[rows]) for name in self._keys]
        moments = columns[self.on].values(places[rows])
        group = dict(zip(self.by, self._groups.values[code], strict=True))
        found = []
        for at, start, moment, *key in zip(rows, starts, moments, *keys, strict=True):
            rank = int(ranks[at])
            row = dict(zip(self._keys, key, strict=True))
            whole = {HIDDEN_PREFIX + name: value for name, value in row.items()}
            whole |= {**group, self.on: moment, RANK: self._rank(code, Place(rank, row))}
            for name, (column, function) in self.columns.items():
                whole[name] = _of(function, values[column][start - begin : at + 1 - begin])
            found.append((whole[RANK], self._result.key_of(whole), whole))
        return found

    @property
    def nbytes(self) -> int:
        """Return the approximate memory in bytes, without the result."""
        return 0 if self._groups is None else self._groups.nbytes


def _of(function: str, window: Sequence[Any]) -> float | None:
    """Return ``function`` of a window; as in pandas, an infinity is counted and otherwise ignored."""
    there = [float(value) for value in window if value is not None and value == value]
    if function == "count":
        return float(len(there))
    finite = [value for value in there if not math.isinf(value)]
    if not finite:
        return None
    found = _FUNCTIONS[function](finite)
    return None if found is None else float(found)


def _microseconds(moment: dt.datetime) -> int:
    return (moment.replace(tzinfo=None) - dt.datetime(1970, 1, 1)) // _MICROSECOND
