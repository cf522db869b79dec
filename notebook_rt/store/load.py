"""Collecting a whole table beside the one that is seen (promise 2).

In go pages of undecoded rows, column by column; out comes, in one stroke, the table they make with
the operations that arrived meanwhile laid over it. A page becomes columns at once, so that what a
load needs besides the table it makes is a page, not a table of Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from notebook_rt.store.columns import (
    ColumnStore,
    FixedColumn,
    ObjectColumn,
    column_of,
    family,
)
from notebook_rt.store.encode import stamps
from notebook_rt.store.keys import Keys
from notebook_rt.store.text import TextColumn
from notebook_rt.store.types import Backend, Kind, Numeric, arrow_type, decoder
from notebook_rt.sync.rows import Json, Key, Op, RowChange, Upsert, WireRow

if TYPE_CHECKING:
    from notebook_rt.store.table import Table

_AS_JSON: Final[dict[Kind, type]] = {"int": int, "float": float, "bool": bool, "text": str}
"""Kinds whose typed values are what JSON gives, if it gives this class."""


class TableLoad:
    """A whole table being collected (``sync.rows.Load``)."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._schema = table.schema
        self._parts: dict[str, list[ColumnStore]] = {name: [] for name in table.schema.names}
        self._keys = Keys()
        self._again: list[Op] = []

    def __len__(self) -> int:
        return len(self._keys)

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        """Add a page of undecoded rows, with their ``keys`` where they are known; a key seen before
        is overwritten.
        """
        schema = self._schema
        keys = schema.keys_of(page) if keys is None else keys
        if len(set(keys)) < len(keys) or not self._keys.isdisjoint(keys):
            page, keys = self._first_seen(page, keys)
        start = len(self._keys)
        self._keys.update(zip(keys, range(start, start + len(keys)), strict=True))
        for column in schema.columns:
            values = [row.get(column.name) for row in page]
            self._parts[column.name].append(
                page_column(values, column.pg_type, self._table.dtype_backend, schema.numeric)
            )

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected with ``ops`` laid over it, as one change."""
        table = self._table
        new = type(table)(self._schema, table.dtype_backend)
        new._columns = {
            name: joined(parts) or new._columns[name] for name, parts in self._parts.items()
        }
        self._keys.settle()  # once: page by page it takes longer
        new._keys = self._keys
        new._born = new._next = len(self._keys)
        new.apply(self._again)
        with table.lock:
            for column in table.schema.columns:
                if column.name not in new.schema.types:
                    new.add_column(column)
            for name in set(new.schema.names) - set(table.schema.names):
                new.drop_column(name)
            new.apply(ops)
            changes = _changes(table, new) if want_changes else []
            table._adopt(new)
        return changes

    def _first_seen(
        self, page: Sequence[WireRow], keys: list[Key]
    ) -> tuple[list[WireRow], list[Key]]:
        """The rows whose keys are new; the others overwrite them when the load is whole."""
        rows: dict[Key, WireRow] = {}
        known = self._keys.numbers(keys)
        for key, row in zip(keys, page, strict=True):
            if key in rows or key in known:
                blank = dict.fromkeys(self._schema.names)
                self._again.append(Upsert(key, blank | self._schema.decode(row)))
            else:
                rows[key] = row
        return list(rows.values()), list(rows)


def page_column(
    values: list[Json], pg_type: str, backend: Backend, numeric: Numeric
) -> ColumnStore:
    """A column of a page's JSON values."""
    of = family(pg_type, numeric)
    if of in ("timestamptz", "timestamp") and set(map(type, values)) <= {str, NoneType}:
        try:
            moments = pa.array(values, pa.string()).cast(arrow_type(pg_type))
            return FixedColumn(stamps(moments), None, pg_type, backend, numeric)
        except pa.ArrowInvalid:
            pass  # infinity, BC, or a form that only the slow way knows
    if of not in _AS_JSON or not set(map(type, values)) <= {_AS_JSON[of], NoneType}:
        decode = decoder(pg_type, numeric)
        values = [None if value is None else decode(value) for value in values]
    return column_of(values, pg_type, backend, numeric)


def joined(parts: list[ColumnStore]) -> ColumnStore | None:
    """One column of the parts of a load; None of none."""
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


def _changes(old: Table, new: Table) -> list[RowChange]:
    """What is different in ``new``: what is gone, then what is new or changed, in its order."""
    from notebook_rt.store.table import changes_between

    old._take_step()
    new._take_step()
    was, now = old._keys.as_dict(), new._keys.as_dict()
    gone = [key for key in was if key not in now]
    both = [key for key in now if key in was]
    before = old._places([was[key] for key in both])
    after = new._places([now[key] for key in both])
    differs = np.zeros(len(both), bool)
    for name, column in new._columns.items():
        differs |= column.differs(after, old._columns[name].values(before))
    moved = {both[at] for at in np.flatnonzero(differs).tolist()}
    keys = [*gone, *(key for key in now if key in moved or key not in was)]
    return list(changes_between(old._rows(keys), new._rows(keys)))
