"""``when`` on what is computed: which rows of each value begin and stop to match.

In go the values of ``map`` or of SQL, a DataFrame each; out come the `Turn`s that ``sync/watch.py`` makes
of them. A row is told from others by the index, so that has to be one that does so.
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
"""A filter as of ``where``, or a function of a row."""


class Judge:
    """Judges the rows of each value by a condition. Not thread-safe.

    Parameters
    ----------
    what : str
        What the values are of, for errors.
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
        """When `due` is to be called."""
        return self._watch.next_due

    def due(self, now: float) -> list[Turn]:
        """What is to be told by now, at monotonic ``now``."""
        return self._watch.due(now)

    def judge(self, value: Any, now: float) -> tuple[list[Turn], Exception | None]:
        """The turns that a new value makes, and what the condition has raised first.

        A row that the condition cannot judge stays as it was.

        Raises
        ------
        DerivationError
            If the value has no rows that can be told apart, or lacks a column of the filter.
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
        """Raise what `judge` raises of such a value, and look at none of its rows."""
        self._matches(self._flat(value)[1])

    def _flat(self, value: Any) -> tuple[pd.Index[Any], pd.DataFrame]:
        """What tells the rows apart, and the rows, its levels among their columns where they are named."""
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
    """The rows, of typed values as those of a live frame."""
    names = [str(name) for name in flat.columns]
    columns = [_values(flat.iloc[:, at]) for at in range(len(names))]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _values(column: pd.Series[Any]) -> list[Any]:
    """Python's own, None for null."""
    moments = pd.api.types.is_datetime64_any_dtype(column.dtype)
    return [
        None if null else one.to_pydatetime(warn=False) if moments else one
        for one, null in zip(column.tolist(), column.isna(), strict=True)
    ]


def _schema(flat: pd.DataFrame) -> Schema:
    """What a filter compares the columns as."""
    columns = [Column(str(name), _type(flat.iloc[:, at])) for at, name in enumerate(flat.columns)]
    return Schema(tuple(columns), (columns[0].name,))


def _type(column: pd.Series[Any]) -> str:
    """The type of PostgreSQL by which values of a column are compared."""
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
