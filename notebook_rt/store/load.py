"""The pages of a whole table, collected as columns (promise 2).

Its input is pages of undecoded rows; its output is the columns and keys of the resulting table
(``table.TableLoad``). Each page is converted to columns at once, so that a load needs the memory of one
page in addition to the table, not a table of Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import pyarrow as pa

from notebook_rt.model.rows import Json, Key, Op, Upsert, WireRow
from notebook_rt.model.types import Backend, Kind, Numeric, Schema, arrow_type, decoded, decoder
from notebook_rt.store.column import ColumnStore, family
from notebook_rt.store.columns import (
    FixedColumn,
    ObjectColumn,
    TextColumn,
    column_of,
)
from notebook_rt.store.encode import stamps
from notebook_rt.store.keys import Keys

_AS_JSON: Final[dict[Kind, type]] = {"int": int, "float": float, "bool": bool, "text": str}
"""Kinds whose typed values are equal to the JSON values, if these have this class."""


class Pages:
    """The pages of a whole table as columns, its keys, and the rows that occurred twice."""

    def __init__(self, schema: Schema, backend: Backend) -> None:
        self.keys = Keys()
        self.again: list[Op] = []
        """Operations that overwrite an earlier row with the same key."""
        self._schema = schema
        self._backend: Backend = backend
        self._parts: dict[str, list[ColumnStore]] = {name: [] for name in schema.names}

    def __len__(self) -> int:
        return len(self.keys)

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        """Add a page of undecoded rows, with their ``keys`` if known; a row with an already known key is
        overwritten.
        """
        self.prepare(page, keys)()

    def prepare(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> Callable[[], None]:
        """Do most of the work of `extend`, while earlier pages may still be missing; the returned function
        does the rest.
        """
        schema = self._schema
        keys = schema.keys_of(page) if keys is None else keys
        columns = {
            column.name: page_column(
                _values(page, column.name), column.pg_type, self._backend, schema.numeric
            )
            for column in schema.columns
        }
        return partial(self._add, page, keys, columns)

    def _add(
        self, page: Sequence[WireRow], keys: list[Key], columns: Mapping[str, ColumnStore]
    ) -> None:
        if len(set(keys)) < len(keys) or not self.keys.isdisjoint(keys):
            self.prepare(*self._first_seen(page, keys))()
            return
        start = len(self.keys)
        self.keys.update(zip(keys, range(start, start + len(keys)), strict=True))
        for name, column in columns.items():
            self._parts[name].append(column)

    def columns(self) -> dict[str, ColumnStore]:
        """Return the columns, if there are rows."""
        whole = {name: joined(parts) for name, parts in self._parts.items()}
        return {name: column for name, column in whole.items() if column is not None}

    def _first_seen(
        self, page: Sequence[WireRow], keys: list[Key]
    ) -> tuple[list[WireRow], list[Key]]:
        """Return the rows whose keys are new; the others overwrite them when the load is complete."""
        rows: dict[Key, WireRow] = {}
        known = self.keys.numbers(keys)
        for key, row in zip(keys, page, strict=True):
            if key in rows or key in known:
                blank = dict.fromkeys(self._schema.names)
                self.again.append(Upsert(key, blank | self._schema.decode(row)))
            else:
                rows[key] = row
        return list(rows.values()), list(rows)


def _values(page: Sequence[WireRow], name: str) -> list[Json]:
    """Return a column of a page; None where a row lacks it."""
    try:
        return list(map(itemgetter(name), page))
    except KeyError:
        return [row.get(name) for row in page]


def page_column(
    values: list[Json], pg_type: str, backend: Backend, numeric: Numeric
) -> ColumnStore:
    """Return a column of a page's JSON values."""
    of = family(pg_type, numeric)
    if of in ("timestamptz", "timestamp") and set(map(type, values)) <= {str, NoneType}:
        try:
            moments = pa.array(values, pa.string()).cast(arrow_type(pg_type))
            return FixedColumn(stamps(moments), None, pg_type, backend, numeric)
        except (pa.ArrowInvalid, UnicodeEncodeError):
            pass  # infinity, BC, half of a surrogate pair, or a format that only the slow path supports
    if of not in _AS_JSON or not set(map(type, values)) <= {_AS_JSON[of], NoneType}:
        values = decoded(decoder(pg_type, numeric), values)
    return column_of(values, pg_type, backend, numeric)


def joined(parts: list[ColumnStore]) -> ColumnStore | None:
    """Return one column from the parts of a load; None if no part has a row."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return None
    first = parts[0]
    of: tuple[str, Backend, Numeric] = (first.pg_type, first.backend, first.numeric)
    fixed = [part for part in parts if isinstance(part, FixedColumn)]
    if len(fixed) == len(parts):
        data, mask = FixedColumn.joined(fixed)
        return FixedColumn(data, mask, *of)
    texts = [part.chunked() for part in parts if isinstance(part, TextColumn)]
    if len(texts) == len(parts):
        return TextColumn(pa.concat_arrays([chunk for text in texts for chunk in text.chunks]), *of)
    values: list[Any] = [value for part in parts for value in part.everything()]
    return ObjectColumn(values, *of)
