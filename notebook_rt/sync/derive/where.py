"""``where``: the rows that a filter selects, equal to ``df[mask]``.

The filter has the syntax and semantics of table filters (``model/predicates.py``), applied to the
values that the input shows: a numeric shown as float64 is compared as one. Conditions that only the
server can evaluate (the order of text, a regular expression) are refused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from notebook_rt.errors import DerivationError
from notebook_rt.model.filters import AnyOf, Condition, Filter
from notebook_rt.model.predicates import literal
from notebook_rt.model.rows import Delete, Op, Row, Upsert
from notebook_rt.model.types import Schema, canonical, kind
from notebook_rt.store.touched import RANK, Delta
from notebook_rt.sync.derive.operator import Columns, Operator, known, rank_column, ranked
from notebook_rt.sync.derive.source import Source

Mask = NDArray[np.bool_]

_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class Where(Operator):
    """The rows that ``filter`` selects."""

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.why_empty = filter.why_empty

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        known(source, self.filter.columns, f"where {str(self.filter)!r}")
        schema = source.schema
        self._schema = compared(schema)
        readable(self.filter, self._schema)
        rows = np.flatnonzero(selected(self.filter, source, self._schema))
        ranks = rank_column(source.ranks(rows), source.table.dtype_backend)
        columns = {**source.picked(rows, schema.names), RANK: ranks}
        return ranked(schema.columns, schema.key, schema), columns

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        gone: list[Op] = []
        come: list[tuple[int, Op]] = []
        for delta in deltas[0]:
            old, new = delta.old, delta.new
            was = old is not None and self._selects(old.row)
            if new is not None and self._selects(new.row):
                rank = new.rank
                come.append((rank, Upsert(delta.key, {**new.row, RANK: rank})))
                if was and old is not None and old.rank != rank:
                    gone.append(Delete(delta.key))  # it is inserted again at its new position
            elif was:
                gone.append(Delete(delta.key))
        come.sort(key=lambda ranked: ranked[0])
        return [*gone, *(op for _, op in come)]

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        return sources[0].dtypes()

    def _selects(self, row: Row) -> bool:
        return _certain(self.filter.matches(row, self._schema), self.filter)


def selects(filter: Filter, schema: Schema) -> Callable[[Row], bool]:
    """Return a function that returns whether ``filter`` selects a row of this schema, as `Where` does."""
    types = compared(schema)
    return lambda row: _certain(filter.matches(row, types), filter)


def compared(schema: Schema) -> Schema:
    """Return the schema with the types for comparison: a numeric shown as float is compared as one."""
    if schema.numeric == "decimal":
        return schema
    columns = [
        replace(column, pg_type="float8") if kind(column.pg_type) == "decimal" else column
        for column in schema.columns
    ]
    return Schema(tuple(columns), schema.key, schema.numeric)


def readable(filter: Filter, schema: Schema) -> None:
    """Raise for an invalid literal of a number, timestamp, boolean or uuid, with the correct form."""
    for condition in filter.conditions:
        if isinstance(condition, AnyOf):
            for one in condition.alternatives:
                readable(one, schema)
            continue
        pg_type = canonical(schema.types[condition.column])
        if condition.operator not in _COMPARE and condition.operator not in ("in", "isdistinct"):
            continue
        for text in condition.values:
            if literal(pg_type, text) is None and (why := _unreadable(text, pg_type)):
                raise DerivationError(
                    f"{condition.to_realtime()!r}: {why}, for column {condition.column!r}"
                )


def _unreadable(text: str, pg_type: str) -> str:
    """Return the error of a literal of this type with the correct form; empty for other types."""
    if pg_type == "uuid":
        return f"{text!r} is no uuid"
    match kind(pg_type):
        case "int":
            return f"{text!r} is no {pg_type}"
        case "float" | "decimal":
            return f"{text!r} is no number"
        case "bool":
            return f"{text!r} is neither true nor false"
        case "timestamptz" | "timestamp" | "date" | "time" as of:
            return f"write {_as_moment(text, of)}, not {text!r}"
    return ""


def _as_moment(text: str, of: str) -> str:
    """Return a timestamp in the accepted form, the one meant by ``text`` if it is clear."""
    moment = pd.Timestamp("2026-01-31T14:05:00")
    if of != "time" and text[:1].isdigit():
        with suppress(ValueError):
            moment = pd.Timestamp(text)
    naive = moment.tz_localize(None).isoformat()
    match of:
        case "timestamptz" if moment.tz is None:
            return f"the zone, {naive}Z for UTC or such as {naive}+02:00"
        case "timestamptz":
            return moment.isoformat()
        case "timestamp":
            return f"{naive}, without a zone"
    date, _, time = naive.partition("T")
    return date if of == "date" else time


def selected(filter: Filter, source: Source, schema: Schema) -> Mask:
    """Return which rows of a whole table ``filter`` selects."""
    masks = [
        np.logical_or.reduce([selected(one, source, schema) for one in condition.alternatives])
        if isinstance(condition, AnyOf)
        else _holds(condition, source, schema)
        for condition in filter.conditions
    ]
    if len(masks) == 1:
        return masks[0]
    return np.logical_and.reduce(masks) if masks else np.ones(len(source), bool)


def _holds(condition: Condition, source: Source, schema: Schema) -> Mask:
    name = condition.column
    pg_type = canonical(schema.types[name])
    values = source.arrays([name])[name]
    if condition.operator in _COMPARE and values.dtype.kind in "ifM":
        wanted = literal(pg_type, condition.value)
        if wanted is not None and pg_type != "float4" and not isinstance(wanted, str):
            return _compared(condition, values, wanted)
    codes, distinct = _distinct(source, name, values)
    verdicts = [_certain(condition.holds({name: one}, schema), condition) for one in distinct]
    return np.array(verdicts, bool)[codes] if len(verdicts) else np.zeros(len(codes), bool)


def _compared(condition: Condition, values: NDArray[Any], wanted: Any) -> Mask:
    """Compare numbers or timestamps with a literal; NaN is greater than every number, as in PostgreSQL."""
    if values.dtype.kind == "M":
        moment = pd.Timestamp(wanted)
        naive = moment if moment.tz is None else moment.tz_convert("UTC").tz_localize(None)
        wanted = naive.as_unit("us").to_datetime64()
    compare = _COMPARE[condition.operator]
    if values.dtype.kind == "f" and wanted != wanted:
        found = compare(np.isnan(values).astype("i1"), np.int8(1))
    elif values.dtype.kind == "f" and condition.operator in ("gt", "gte"):
        found = np.asarray(values <= wanted if condition.operator == "gt" else values < wanted)
        np.logical_not(found, out=found)
    else:
        found = compare(values, wanted)
    if condition.negated:
        found = ~found
    return np.asarray(found & ~np.isnat(values) if values.dtype.kind == "M" else found)


def _distinct(
    source: Source, name: str, values: NDArray[Any]
) -> tuple[NDArray[np.int64], list[Any]]:
    """Return each row's position among the distinct values of a column, and these values, typed."""
    if values.dtype.kind == "b":
        return values.astype("int64"), [False, True]
    if values.dtype.kind in "if":
        codes, distinct = pd.factorize(values, use_na_sentinel=False)
        return codes, distinct.tolist()
    if kind(source.schema.types[name]) == "text":
        codes, texts = pd.factorize(source.series(name).array)
        found = [*texts.tolist(), None]
        return codes, [None if one is pd.NA or one != one else one for one in found]
    typed = source.picked(np.arange(len(values)), [name])[name].everything()
    return np.arange(len(typed)), typed


def _certain(verdict: bool | None, what: Filter | Condition) -> bool:
    if verdict is None:
        text = what.to_realtime() if isinstance(what, Condition) else str(what)
        raise DerivationError(
            f"where {text!r}: only the server can decide this (the order of text, a pattern, a form of "
            "a value that is its own); filter the table itself, or use map"
        )
    return verdict
