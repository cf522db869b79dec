"""``select``: selected and computed columns, equal to ``df.assign(...)[columns]``.

A computed column is a function of a DataFrame, called with all rows first and later with the changed
rows. It must therefore compute row by row, which is checked with single rows at each build. The check cannot
detect functions that read other data than columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_object_dtype, is_unsigned_integer_dtype

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Key, Op
from notebook_rt.model.types import Backend, Column, Numeric, Schema, equal
from notebook_rt.store.column import ColumnStore, family
from notebook_rt.store.columns import ComputedFloats, FixedColumn, TextColumn, column_of
from notebook_rt.store.encode import NULL_MOMENT, stamps
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.expression import Formula, parsed
from notebook_rt.sync.derive.groupby import type_of
from notebook_rt.sync.derive.groups import typed
from notebook_rt.sync.derive.operator import (
    Columns,
    Operator,
    RebuildError,
    known,
    placed,
    rank_column,
    ranked,
)
from notebook_rt.sync.derive.source import Source

_FIXED: Final[Mapping[str, tuple[str, Any]]] = {
    "int": ("int64", 0),
    "float": ("float64", np.nan),
    "bool": ("bool", False),
}
"""The numpy dtype of a kind, and its placeholder for null."""

Expression: TypeAlias = str | Callable[[pd.DataFrame], Any]


class Select(Operator):
    """Selected and computed columns; without a name, all columns."""

    def __init__(self, columns: Sequence[str], computed: Mapping[str, Expression]) -> None:
        self.columns = tuple(dict.fromkeys(columns))
        self.computed = {
            name: parsed(one) if isinstance(one, str) else one for name, one in computed.items()
        }
        for name, one in self.computed.items():
            if not callable(one):
                raise DerivationError(
                    f'select "{name}": a function of a DataFrame or a text such as "price * size", '
                    f"not {one!r}"
                )

        self._formulas = True
        """Whether each creates a new column whose memory nothing else refers to. A function could keep the
        DataFrame that it is called with."""
        self.of_no_rows = all(isinstance(one, Formula) for one in self.computed.values())
        before: set[str] = set()
        for name, one in self.computed.items():
            self._formulas &= (
                isinstance(one, Formula) and one.makes and one.columns.isdisjoint(before)
            )
            before.add(name)

    # The whole

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        schema = self._schema = source.schema
        known(source, self.columns, f"select {', '.join(self.columns)}")
        for name in self.computed:
            if name in source.held:
                raise DerivationError(f'select "{name}": the key is not computed; use map')
        shown = dict.fromkeys([*(self.columns or schema.names), *self.computed])
        held = source.held
        self._names = [name for name in shown if name not in held]
        self._kept = [*held, *(name for name in self._names if name not in self.computed)]
        columns = source.whole(self._kept)
        self._given = source.dtypes()
        self._made = self._compute(source.frame)
        self._types = {name: _type(one, name, schema) for name, one in self._made.items()}
        for name, one in self._made.items():
            columns[name] = self._stored(source, name, one, copy=not self._formulas)
        self._check_rows(source, columns)
        self._computed_dtypes = {name: one.dtype for name, one in self._made.items()}
        self._shown = self._dtypes(self._given)
        del self._made
        columns[RANK] = rank_column(source.ranks(), source.table.dtype_backend)
        made = [schema.column(name) for name in held]
        made += [
            Column(name, self._types[name]) if name in self._types else schema.column(name)
            for name in self._names
        ]
        return ranked(made, schema.key, schema), columns

    def _compute(self, frame: pd.DataFrame) -> dict[str, pd.Series]:
        """Return the computed columns of a frame."""
        if not self.computed:
            return {}
        try:
            if self._formulas:
                return {name: one(frame) for name, one in self.computed.items()}
            found = frame.assign(**self.computed)
        except DerivationError:
            raise
        except Exception as error:
            raise DerivationError(
                f"select {', '.join(self.computed)}: {type(error).__name__}: {error}"
            ) from error
        return {name: found[name] for name in self.computed}

    def _stored(
        self, source: Source, name: str, series: pd.Series, *, copy: bool = True
    ) -> ColumnStore:
        backend, numeric = source.table.dtype_backend, self._schema.numeric
        return stored(series, self._types[name], backend, numeric, copy=copy)

    def _check_rows(self, source: Source, columns: Columns) -> None:
        """Raise if a single row gives another value or dtype."""
        dtypes = [*self._given.items(), *((name, one.dtype) for name, one in self._made.items())]
        objects = {name for name, of in dtypes if is_object_dtype(of)}
        tried = [
            name
            for name, one in self.computed.items()
            if not (isinstance(one, Formula) and one.by_row(objects))
        ]
        rows = len(source)
        for at in {0, rows // 2, rows - 1} if tried and rows > 1 else ():
            alone = self._compute(source.frame.iloc[at : at + 1])
            for name in tried:
                one = alone[name]
                if one.dtype != self._made[name].dtype:
                    raise DerivationError(
                        f'select "{name}": the dtype is {one.dtype} of one row and '
                        f"{self._made[name].dtype} of all: it depends on the values; cast it, or use map"
                    )
                [mine] = self._stored(source, name, one).everything()
                whole = columns[name].value(at)
                if not _alike(mine, whole):
                    raise DerivationError(
                        f'select "{name}": it is {mine!r} of a row alone and {whole!r} of the same row '
                        "among all: it is not computed row by row; use map"
                    )

    # What changes

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        [source], [changes] = sources, deltas
        if self.computed and source.dtypes() != self._given:
            raise RebuildError
        new = [(delta.key, delta.new) for delta in changes if delta.new is not None]
        gone = [
            delta.key
            for delta in changes
            if delta.old is not None and (delta.new is None or delta.new.rank != delta.old.rank)
        ]
        computed = self._computed([place for _, place in new], source) if new else {}
        come: list[tuple[Key, Place]] = []
        for at, (key, place) in enumerate(new):
            row = {name: place.row[name] for name in self._kept}
            row.update((name, values[at]) for name, values in computed.items())
            come.append((key, Place(place.rank, row)))
        return placed(gone, come)

    def _computed(self, places: Sequence[Place], source: Source) -> dict[str, list[Any]]:
        """Return the computed values of changed rows, by column."""
        if not self.computed:
            return {}
        try:
            found = self._compute(source.framed([place.row for place in places]))
        except (DerivationError, pa.ArrowException) as error:
            raise RebuildError from error
        if any(one.dtype != self._computed_dtypes[name] for name, one in found.items()):
            raise RebuildError
        return {name: self._stored(source, name, one).everything() for name, one in found.items()}

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        given = sources[0].dtypes()
        if given is not self._given:
            self._given, self._shown = given, self._dtypes(given)
        return self._shown

    def _dtypes(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        kept = {name: given[name] for name in self._kept if name in given}  # of what is not hidden
        return {**kept, **self._computed_dtypes}


def _type(series: pd.Series, name: str, schema: Schema) -> str:
    """Return the PostgreSQL type for a computed column."""
    found, what = series.dtype, f'select "{name}"'
    if is_object_dtype(found):
        exact = all(isinstance(one, Decimal) or one is None or one != one for one in series.array)
        if exact and schema.numeric == "decimal":
            return "numeric"
    if isinstance(found, pd.ArrowDtype) and pa.types.is_timestamp(found.pyarrow_dtype):
        return "timestamp" if found.pyarrow_dtype.tz is None else "timestamptz"
    if is_unsigned_integer_dtype(found):
        raise DerivationError(f"{what}: its result is {found}, which is not kept up; use map")
    return type_of(found, what)


def stored(
    series: pd.Series, pg_type: str, backend: Backend, numeric: Numeric, *, copy: bool
) -> ColumnStore:
    """Return a column of values computed by pandas; without ``copy``, it shares their memory if possible."""
    kind = family(pg_type, numeric)
    if kind in ("int", "float", "bool"):
        of, null = _FIXED[kind]
        if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f" and kind == "float":
            data = series.to_numpy(of)
            data = data.copy() if copy else np.ascontiguousarray(data)
            return ComputedFloats(data, pg_type, backend, numeric)
        mask = _nulls(series)
        data = series.to_numpy(of) if mask is None else series.to_numpy(of, na_value=null)
        data = data.copy() if copy else np.ascontiguousarray(data)
        return FixedColumn(data, mask, pg_type, backend, numeric)
    if kind in ("timestamptz", "timestamp"):
        return FixedColumn(_microseconds(series, kind), None, pg_type, backend, numeric)
    if kind == "text":
        texts = pa.array(series.array, pa.large_string(), from_pandas=True)
        whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        return TextColumn(whole, pg_type, backend, numeric)
    return column_of(typed(series.array, kind), pg_type, backend, numeric)


def _nulls(series: pd.Series) -> np.ndarray | None:
    """Return which values are null; None if there are none."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iub":
        return None
    nulls = np.array(series.isna(), bool)
    return nulls if nulls.any() else None


def _microseconds(series: pd.Series, kind: str) -> np.ndarray:
    if isinstance(series.dtype, pd.ArrowDtype):
        found = pa.array(series.array)
        whole = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
        return stamps(whole)
    moments = series.dt.tz_convert("UTC").dt.tz_localize(None) if kind == "timestamptz" else series
    found = moments.to_numpy("M8[us]").astype("int64")
    return np.where(np.isnat(moments.to_numpy("M8[us]")), NULL_MOMENT, found)


def _alike(mine: Any, whole: Any) -> bool:
    """Return whether values are equal, except for rounding by another order of a sum."""
    if isinstance(mine, float) and isinstance(whole, float):
        return math.isclose(mine, whole, rel_tol=1e-9) or equal(mine, whole)
    return equal(mine, whole)
