"""``when`` on computed values: which rows of each value begin and stop matching.

Input: the values of ``map`` or of SQL, each a DataFrame. Output: the `Turn`s that ``sync/watch.py`` makes of
them. Rows are identified by the index, so it must be unique.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

import pandas as pd

from notebook_rt.errors import DerivationError
from notebook_rt.model.filters import FilterSource, parse
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import Column, Schema
from notebook_rt.quoting import did_you_mean
from notebook_rt.sync.derive.where import readable, selects
from notebook_rt.sync.watch import Turn, Watch

Condition: TypeAlias = FilterSource | Callable[[dict[str, Any]], object]
"""A filter as for ``where``, or a function of a row."""


class Judge:
    """Judges the rows of each value by a condition. Not thread-safe.

    Parameters
    ----------
    what : str
        What the values belong to, for error messages.
    condition, at_once, debounce
        As ``MappedFrame.when`` takes them.

    Raises
    ------
    FilterError
        If the condition is a filter that cannot be read.
    """

    def __init__(
        self,
        what: str,
        condition: Condition,
        *,
        at_once: bool = False,
        debounce: float = 0.0,
    ) -> None:
        self._what = what
        self._function = condition if callable(condition) else None
        self._filter = None if callable(condition) else parse(condition)
        self._watch = Watch(at_once=at_once, debounce=debounce)

    @property
    def next_due(self) -> float | None:
        """When to call `due`."""
        return self._watch.next_due

    def due(self, now: float) -> list[Turn]:
        """Return the turns that are due at monotonic ``now``."""
        return self._watch.due(now)

    def judge(self, value: Any, now: float) -> tuple[list[Turn], Exception | None]:
        """Return the turns that a new value makes, and the first error that the condition raised.

        A row that the condition cannot judge keeps its state.

        Raises
        ------
        DerivationError
            If the rows of the value cannot be identified, or it lacks a column of the filter.
        """
        index, flat = self._flat(value)
        matches = self._matches(flat)
        matching: dict[Key, Row] = {}
        others: dict[Key, Row] = {}
        wrong: Exception | None = None
        for key, row in zip(index, _rows(flat), strict=True):
            try:
                chosen = matches(row)
            except Exception as error:
                wrong, chosen = wrong or error, self._watch.matches(key)
            (matching if chosen else others)[key] = row
        return self._watch.whole(matching, others, now), wrong

    def check(self, value: Any) -> None:
        """Raise the errors that `judge` raises for such a value, without looking at its rows."""
        self._matches(self._flat(value)[1])

    def _flat(self, value: Any) -> tuple[pd.Index[Any], pd.DataFrame]:
        """Return the index, and the rows with the named index levels among their columns."""
        if isinstance(value, pd.Series):
            value = value.to_frame("value" if value.name is None else value.name)
        if not isinstance(value, pd.DataFrame):
            raise DerivationError(
                f"{self._what}: when looks at the rows of a DataFrame, and this is a {type(value).__name__}"
            )
        index: pd.Index[Any] = value.index
        if (isinstance(index, pd.RangeIndex) and index.name is None) or not index.is_unique:
            raise DerivationError(
                f"{self._what}: its index does not tell rows apart: end the function of map with "
                '.set_index("column"), or give key="column" to sql'
            )
        return index, value if set(index.names) == {None} else value.reset_index()

    def _matches(self, flat: pd.DataFrame) -> Callable[[Row], object]:
        if self._function is not None:
            function = self._function
            return lambda row: function(dict(row))
        assert self._filter is not None
        schema = _schema(flat)
        for name in self._filter.columns:
            if name not in schema.types:
                hint, there = did_you_mean(name, list(schema.types)), ", ".join(schema.types)
                raise DerivationError(f'{self._what}: no column "{name}"{hint}; there are {there}')
        readable(self._filter, schema)
        return selects(self._filter, schema)


def _rows(flat: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Iterate over the rows, with typed values like those of a live frame."""
    names = [str(name) for name in flat.columns]
    columns = [_values(flat.iloc[:, at]) for at in range(len(names))]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _values(column: pd.Series[Any]) -> list[Any]:
    """Return Python's own values, None for null."""
    moments = pd.api.types.is_datetime64_any_dtype(column.dtype)
    return [
        None if null else one.to_pydatetime(warn=False) if moments else one
        for one, null in zip(column.tolist(), column.isna(), strict=True)
    ]


def _schema(flat: pd.DataFrame) -> Schema:
    """Return the types that a filter compares the columns as."""
    columns = [Column(str(name), _type(flat.iloc[:, at])) for at, name in enumerate(flat.columns)]
    return Schema(tuple(columns), (columns[0].name,))


def _type(column: pd.Series[Any]) -> str:
    """Return the PostgreSQL type by which the values of a column are compared."""
    types, dtype = pd.api.types, column.dtype
    if types.is_datetime64_any_dtype(dtype):
        return "timestamp" if getattr(dtype, "tz", None) is None else "timestamptz"
    if types.is_object_dtype(dtype):
        found = {type(one) for one in column.dropna()}
        return next((name for one, name in _OF_OBJECTS.items() if found == {one}), "text")
    if types.is_bool_dtype(dtype):
        return "bool"
    if types.is_integer_dtype(dtype):
        return "int8"
    return "float8" if types.is_float_dtype(dtype) else "text"


_OF_OBJECTS: Final[dict[type, str]] = {
    bool: "bool",
    int: "int8",
    float: "float8",
    Decimal: "numeric",
    dt.date: "date",
    dt.datetime: "timestamptz",
    UUID: "uuid",
}
