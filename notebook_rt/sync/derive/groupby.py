"""``groupby(by).agg(...)``: one row per group, as in pandas, sorted by the groups' values.

The build is pandas' own ``agg`` over stored codes. A group with a change gets a state
for each of its columns (``aggregates.py``), created from its current rows; from then on, the cost of a change
depends on that state, not on the size of the group. A Python function is called again with all
values of each changed group.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import (
    is_bool_dtype,
    is_datetime64_any_dtype,
    is_float_dtype,
    is_integer_dtype,
    is_object_dtype,
    is_string_dtype,
)

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Column, Kind, Schema, fits, is_same
from notebook_rt.store.column import ColumnStore, family
from notebook_rt.store.columns import column_of
from notebook_rt.store.dense import Positions
from notebook_rt.store.encode import moments
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.aggregates import State, check_known, state_of, supported
from notebook_rt.sync.derive.comparing import (
    check_values,
    has_nan,
    has_negative_zero,
    refuse_unfit,
)
from notebook_rt.sync.derive.groups import NO_GROUP, Groups, Ranked, typed
from notebook_rt.sync.derive.operator import (
    Columns,
    Operator,
    RebuildError,
    known,
    rank_column,
    ranked,
)
from notebook_rt.sync.derive.source import Source

Function: TypeAlias = str | Callable[[pd.Series], Any]

_GAP: Final = 16
"""Gap between the ranks of two groups, for groups inserted between them. Ranks are small because operators on
the result keep arrays by rank."""
_ALL: Final = -1
"""The bits of all states of a group."""
_GROUPED: Final = frozenset({"int", "float", "bool", "text", "timestamptz", "timestamp", "date"})


class Aggregate(msgspec.Struct, frozen=True):
    """One column of the result: a function of a column's values."""

    name: str
    column: str
    function: Function


class GroupBy(Operator):
    """One row per group of ``by``."""

    counted = True

    def __init__(self, by: Sequence[str], aggregates: Sequence[Aggregate]) -> None:
        self.by = tuple(by)
        self.aggregates = tuple(aggregates)
        names = [*by, *(one.name for one in aggregates)]
        if not by or not aggregates or len(set(names)) < len(names):
            raise DerivationError(
                "groupby(by).agg(name=(column, function)): columns to group by, and names that are "
                f"all different; not {', '.join(names) or 'nothing'}"
            )
        self.used = tuple(dict.fromkeys(one.column for one in aggregates))
        self._named = [(one, one.function) for one in aggregates if isinstance(one.function, str)]
        self._called = [
            (one, one.function) for one in aggregates if not isinstance(one.function, str)
        ]
        self.of_no_rows = not self._called
        for one, function in self._named:
            check_known(function, one.column)

    # The whole

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        schema = self._schema = source.schema
        self._check(source)
        backend = self._backend = source.table.dtype_backend
        groups = self._groups = Groups(source, self.by)
        self._past: dict[str, Past] = {}
        self._states: dict[int, list[State]] = {}
        self._kept = list(
            dict.fromkeys(
                (one.column, state_of(function, self._kinds[one.column]))
                for one, function in self._named
                if function != "size"
            )
        )
        self._results = [
            (
                one.name,
                function,
                -1
                if function == "size"
                else self._kept.index((one.column, state_of(function, self._kinds[one.column]))),
            )
            for one, function in self._named
        ]
        """The columns computed from states, each with the position of its state; -1: the number of rows."""
        self._shown: dict[int, dict[str, Any]] = {}
        """The last reported rows of the groups with states."""
        self._keys: dict[tuple[Any, ...], Key] = {}
        inside = groups.codes >= 0
        self._sizes = np.bincount(groups.codes[inside], minlength=len(groups.values)).tolist()
        self._order = sorted(groups.values)
        self._ranks = self._spaced()
        found = self._aggregated(source, groups.codes)
        self._types = {one.name: self._type(one, found[one.name].dtype) for one in self.aggregates}
        self._dtypes: tuple[Mapping[str, Any], bool, Mapping[str, Any]] | None = None
        """The columns of the result by their source."""
        self._built = source.dtypes(), {name: one.dtype for name, one in found.items()}
        order = np.array([groups.code(values) for values in self._order], "int64")
        columns: dict[str, ColumnStore] = {}
        for at, name in enumerate(self.by):
            values = [key[at] for key in self._order]
            columns[name] = column_of(values, schema.types[name], backend, schema.numeric)
        for name, pg_type in self._types.items():
            values = typed(found[name].array.take(order), family(pg_type, schema.numeric))
            columns[name] = column_of(values, pg_type, backend, schema.numeric)
        columns[RANK] = rank_column(np.array(list(self._ranks.values()), "int64"), backend)
        made = [Column(name, schema.types[name]) for name in self.by]
        made += [Column(name, pg_type) for name, pg_type in self._types.items()]
        self._result = ranked(made, self.by, schema)
        return self._result, columns

    def _check(self, source: Source) -> None:
        """Raise for inputs that cannot be updated incrementally."""
        known(source, (*self.by, *self.used), f"groupby {', '.join(self.by)}")
        columns = source.table.columns()
        self._kinds = {name: columns[name].kind for name in (*self.by, *self.used)}
        for name in self.by:
            if self._kinds[name] not in _GROUPED:
                raise DerivationError(
                    f'groupby "{name}": rows are not grouped by {self._kinds[name]}; use map'
                )
        for one, function in self._named:
            supported(function, self._kinds[one.column], one.column)
        for name in self._kinds:
            if source.table.dtype_backend and has_nan(columns[name]):
                raise DerivationError(
                    f'groupby: "{name}" holds NaN, which the nullable dtypes tell apart from null; use map'
                )
            if name in self._compared_in_arrow(source) and has_negative_zero(columns[name]):
                raise DerivationError(
                    f'groupby: "{name}" holds -0.0, which Arrow tells apart from 0.0; use map'
                )
            refuse_unfit(columns[name], name, "groupby")

    def _compared_in_arrow(self, source: Source) -> set[str]:
        """The columns whose values are compared by Arrow."""
        if source.table.dtype_backend != "pyarrow":
            return set()
        counted = {one.column for one, function in self._named if function == "nunique"}
        return {*self.by, *counted}

    def _aggregated(self, source: Source, codes: NDArray[np.int64]) -> dict[str, pd.Series]:
        """Return pandas' own result, one row per group, in the order of the codes."""
        values = pd.DataFrame({name: source.series(name) for name in self.used}, copy=False)
        given = {f"{at}": (one.column, one.function) for at, one in enumerate(self.aggregates)}
        # Codes of categories, so that pandas does not search the groups again; -1 is in no category.
        by = pd.Categorical.from_codes(
            codes, categories=pd.RangeIndex(int(codes.max(initial=-1)) + 1)
        )
        found = values.groupby(pd.CategoricalIndex(by), observed=False).agg(**given)
        return {one.name: found[f"{at}"] for at, one in enumerate(self.aggregates)}

    def _type(self, one: Aggregate, dtype: Any) -> str:
        if one.function in ("first", "last", "min", "max") or (
            one.function == "sum" and self._kinds[one.column] == "decimal"
        ):
            return self._schema.types[one.column]
        return type_of(dtype, f'agg of "{one.column}"')

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        now, empty = sources[0].dtypes(), not self._order
        if self._dtypes is None or self._dtypes[0] is not now or self._dtypes[1] != empty:
            self._dtypes = now, empty, self._dtypes_of(now)
        return self._dtypes[2]

    def _dtypes_of(self, now: Mapping[str, Any]) -> Mapping[str, Any]:
        then, built = self._built
        found = {name: now[name] for name in self.by}
        if self._order:  # pandas checks the values of an index of objects
            truth = np.dtype("bool")
            found |= {
                n: truth for n in self.by if is_object_dtype(now[n]) and self._kinds[n] == "bool"
            }
        for one in self.aggregates:
            found[one.name] = built[one.name]
            if now[one.column] != then[one.column] and isinstance(one.function, str):
                found[one.name] = dtype_of(one.function, now[one.column])
        return found

    # What changes

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        [source], [changes] = sources, deltas
        used = [delta for delta in changes if self._matters(delta)]
        if not used:
            return []
        self._check_values(source, used)
        for name, _ in self._kept:
            if name not in self._past:
                self._past[name] = Past(source, name, changes)
        touched: dict[int, int] = {}
        moving = [delta for delta in used if not self._stays(delta, touched)]
        for delta in moving:  # all removals before any addition, which may take a freed rank
            if delta.old is not None:
                self._leave(delta.old, touched)
        for delta in moving:
            if delta.new is not None:
                self._come(delta.new, touched)
        return self._make_ops(source, touched)

    def _matters(self, delta: Delta) -> bool:
        """Return whether a used column has changed."""
        old, new = delta.old, delta.new
        if old is None or new is None or old.rank != new.rank:
            return True
        mine, theirs = old.row, new.row
        for name in self._kinds:
            value, other = mine[name], theirs[name]
            if value is not other and value != other:
                return True
        return False

    def _check_values(self, source: Source, deltas: Sequence[Delta]) -> None:
        """Rebuild if a row has a value that `_check` refuses, or if a function of the user may return
        another dtype."""
        if self._called and source.dtypes() != self._built[0]:
            raise RebuildError
        types, numeric = self._schema.types, self._schema.numeric
        used = {name: types[name] for name in self._kinds}
        backend = self._backend is not None
        check_values(deltas, used, numeric, nan=backend, negative_zero=backend)

    def _stays(self, delta: Delta, touched: dict[int, int]) -> bool:
        """Update only the states of changed columns for a row that stays in its group; return False if it
        moves.
        """
        old, new = delta.old, delta.new
        if old is None or new is None or old.rank != new.rank:
            return False
        was, now = old.row, new.row
        if any(not is_same(was[name], now[name]) for name in self.by):
            return False
        rank = old.rank
        code = int(self._groups.by_rank[rank])
        if code == NO_GROUP:
            moved = 0
        else:
            states, moved = self._states_of(code), 0
            for at, (name, _) in enumerate(self._kept):
                value, other = was[name], now[name]
                if not is_same(value, other):
                    states[at].remove(rank, value)
                    states[at].add(rank, other)
                    moved |= 1 << at
            touched[code] = touched.get(code, 0) | moved
        for name, past in self._past.items():
            if was[name] is not now[name]:
                past.set(rank, now[name])
        return True

    def _leave(self, place: Place, touched: dict[int, int]) -> None:
        code = int(self._groups.by_rank[place.rank])
        if code != NO_GROUP:
            self._move(code, place, come=False)
            self._sizes[code] -= 1
            touched[code] = _ALL
        self._groups.drop(place.rank)

    def _come(self, place: Place, touched: dict[int, int]) -> None:
        values = self._groups.values_of(place.row)
        code = NO_GROUP if values is None else self._groups.code_of(values)
        if code == len(self._sizes):
            self._sizes.append(0)
        if code != NO_GROUP:
            self._move(code, place, come=True)
            self._sizes[code] += 1
            touched[code] = _ALL
        self._groups.put(place.rank, code)
        for name, past in self._past.items():
            past.set(place.rank, place.row[name])

    def _move(self, code: int, place: Place, *, come: bool) -> None:
        """Add a row to the states of a group, or remove it."""
        for state, (name, _) in zip(self._states_of(code), self._kept, strict=True):
            (state.add if come else state.remove)(place.rank, place.row[name])

    def _states_of(self, code: int) -> list[State]:
        states = self._states.get(code)
        if states is None:
            states = self._states[code] = self._new_states(code)
        return states

    def _new_states(self, code: int) -> list[State]:
        states = [made(self._kinds[name]) for name, made in self._kept]
        if self._sizes[code]:
            ranks = self._groups.members(code)
            for state, (name, _) in zip(states, self._kept, strict=True):
                numbers = self._past[name].numbers(ranks)
                if numbers is None:
                    state.fill(ranks.tolist(), self._past[name].get(ranks))
                else:
                    state.fill_numbers(ranks, numbers)
        return states

    @property
    def nbytes(self) -> int:
        """Return the approximate memory in bytes without the result; a value in a state counts as 40."""
        held: int = sum(
            self._sizes[code] * 40 * len(states) for code, states in self._states.items()
        )
        return held + self._groups.nbytes + sum(past.nbytes for past in self._past.values())

    # Changes of the result

    def _make_ops(self, source: Source, touched: Mapping[int, int]) -> list[Op]:
        """Return the operations; ``touched``: the changed states of each group, as bits."""
        called = self._call(source, [code for code in touched if self._sizes[code]])
        ops: list[Op] = []
        moved = False
        for code, bits in touched.items():
            values = self._groups.values[code]
            if not self._sizes[code]:
                self._states.pop(code, None)
                self._shown.pop(code, None)
                if values in self._ranks:
                    del self._order[bisect_left(self._order, values)], self._ranks[values]
                    ops.append(Delete(self._key(values)))
                continue
            row: dict[str, Any] = {}
            shown = self._shown.get(code)
            if shown is None:
                shown = self._shown[code] = {}
                bits = _ALL
                row = dict(zip(self.by, values, strict=True))
                if values not in self._ranks:
                    moved |= not self._rank(values)
                row[RANK] = self._ranks[values]
            states = self._states_of(code) if self._kept else ()
            for name, function, at in self._results:
                if at < 0:
                    result = self._sizes[code]
                elif bits >> at & 1:
                    result = _present(states[at].result(function))
                else:
                    continue
                if name not in shown or not is_same(shown[name], result):
                    row[name] = shown[name] = result
            row |= called.get(code, {})
            if row:
                ops.append(Upsert(self._key(values), row))
        if moved:
            self._ranks = self._spaced()
            ranks = self._ranks.items()
            ops += [Upsert(self._key(values), {RANK: rank}) for values, rank in ranks]
        return ops

    def _key(self, values: tuple[Any, ...]) -> Key:
        key = self._keys.get(values)
        if key is None:
            key = self._keys[values] = self._result.key_of(dict(zip(self.by, values, strict=True)))
        return key

    def _rank(self, values: tuple[Any, ...]) -> bool:
        """Give a new group a rank between its neighbors'; return False if there is no room."""
        order, ranks = self._order, self._ranks
        at = bisect_left(order, values)
        below = ranks[order[at - 1]] if at else 0
        above = ranks[order[at]] if at < len(order) else below + 2 * _GAP
        insort(order, values)
        ranks[values] = (below + above) // 2
        return below < ranks[values] < above

    def _spaced(self) -> dict[tuple[Any, ...], int]:
        """Return the ranks of all groups with the initial gaps."""
        return {values: at * _GAP for at, values in enumerate(self._order, 1)}

    def _call(self, source: Source, codes: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return the results of the user's functions for groups, by column."""
        if not self._called or not codes:
            return {}
        found: dict[int, dict[str, Any]] = {code: {} for code in codes}
        ranks = source.ranks()
        places = {code: np.searchsorted(ranks, self._groups.members(code)) for code in codes}
        for one, function in self._called:
            series = source.series(one.column)
            pg_type = self._types[one.name]
            for code, at in places.items():
                result = function(series.iloc[at])
                [value] = typed([result], family(pg_type, self._schema.numeric))
                if value is not None and not fits(pg_type, value):
                    raise RebuildError
                if value is None and self._result_has_no_null(one.name):
                    raise RebuildError
                found[code][one.name] = value
        return found

    def _result_has_no_null(self, name: str) -> bool:
        """Return whether a null would change the dtype that pandas infers."""
        return self._built[1][name] in (np.dtype("int64"), np.dtype("bool"))


class Past:
    """The values of a column by rank, as they were before ``deltas``."""

    def __init__(self, source: Source, name: str, deltas: Sequence[Delta]) -> None:
        self._kind: Kind = source.table.columns()[name].kind
        values = source.arrays([name])[name]
        self._values = Ranked(source.ranks(), np.array(values))
        for delta in deltas:
            if delta.old is not None:
                self.set(delta.old.rank, delta.old.row[name])

    def set(self, rank: int, value: Any) -> None:
        """Record the value of a row."""
        dtype = self._values.values.dtype.kind
        if dtype == "M":
            value = np.datetime64("NaT") if value is None else np.datetime64(_naive(value), "us")
        elif value is None and dtype != "O":
            self._values.values = self._values.values.astype(object)
        self._values[rank] = value

    def get(self, ranks: Positions) -> list[Any]:
        """Return the typed values of rows."""
        found = self._values.get(ranks)
        return moments(found.view("i8"), self._kind) if found.dtype.kind == "M" else found.tolist()

    def numbers(self, ranks: Positions) -> NDArray[Any] | None:
        """Return the values of rows, if they are ints and floats."""
        return self._values.get(ranks) if self._values.values.dtype.kind in "if" else None

    @property
    def nbytes(self) -> int:
        """The approximate memory in bytes."""
        return self._values.nbytes


def _naive(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, dt.datetime) else value


def _present(value: Any) -> Any:
    """Return a result; NaN is null."""
    return None if isinstance(value, float) and value != value else value


def type_of(dtype: Any, what: str) -> str:
    """Return the PostgreSQL type for values computed by pandas."""
    for test, pg_type in (
        (is_bool_dtype, "bool"),
        (is_integer_dtype, "int8"),
        (is_float_dtype, "float8"),
        (is_string_dtype, "text"),
    ):
        if not is_object_dtype(dtype) and test(dtype):
            return pg_type
    if is_datetime64_any_dtype(dtype):
        return "timestamp" if getattr(dtype, "tz", None) is None else "timestamptz"
    raise DerivationError(f"{what}: its result is {dtype}, which is not kept up; use map")


@lru_cache(maxsize=1024)
def dtype_of(function: str, dtype: Any) -> Any:
    """Return the dtype of pandas' ``function`` for a column of ``dtype``."""
    if isinstance(dtype, np.dtype):
        values = pd.Series(np.zeros(1, dtype)) if dtype.kind != "O" else pd.Series([Decimal(0)])
    else:
        values = pd.Series(pd.array([None], dtype=dtype))
    frame = pd.DataFrame({"by": [0], "value": values})
    return frame.groupby("by").agg(found=("value", function))["found"].dtype
