"""The columnar table: what is seen, as one pandas DataFrame (promises 2, 3.8 and 12).

In go batches of typed operations and pages of undecoded rows, out come typed rows by key and
snapshots, whose index is the key and whose order is: as loaded, then as arrived; a deletion moves
nothing. One thread writes, any thread reads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from notebook_rt.store.arrays import index_of, objects, pandas_array
from notebook_rt.store.order import OrderBy, Ordered
from notebook_rt.store.types import Backend, Column, Schema, equal
from notebook_rt.sync.rows import Key, Op, Row, RowChange, Upsert, WireRow


class Table:
    """A keyed, ordered, columnar table that implements ``sync.rows.Rows``.

    Parameters
    ----------
    schema : Schema
        The columns and the key.
    dtype_backend : {None, "numpy_nullable", "pyarrow"}
        As in pandas' readers; the dtypes are those of ``store.types``.

    Examples
    --------
    >>> from notebook_rt.sync.rows import Upsert
    >>> table = Table(Schema((Column("id", "int8"), Column("name", "text")), key=("id",)))
    >>> _ = table.apply([Upsert(7, {"id": 7, "name": "seven"})])
    >>> table.snapshot().loc[7, "name"]
    'seven'
    """

    def __init__(self, schema: Schema, dtype_backend: Backend = None) -> None:
        self.schema = schema
        self.dtype_backend = dtype_backend
        self.version = 0
        self._rows: dict[Key, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._snapshot: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def get(self, key: Key) -> dict[str, Any] | None:
        """The whole row, typed, or None."""
        with self._lock:
            row = self._rows.get(key)
            return None if row is None else dict(row)

    def keys(self) -> Iterator[Key]:
        """The keys, in the promised order."""
        with self._lock:
            return iter(list(self._rows))

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change; return what changed if asked."""
        with self._lock:
            before = self._collapse(self._rows, ops)
            changes = self._changed(before)
            if changes:
                self.version += 1
                self._snapshot = None
        return changes if want_changes else []

    def load(self) -> TableLoad:
        """Begin to collect a whole new table."""
        return TableLoad(self)

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are not here or differ in a given column."""
        found: list[tuple[Key, Row]] = []
        for wire in page:
            row = self.schema.decode(wire)
            key = self.schema.key_of(row)
            mine = self._rows.get(key)
            if mine is None or any(not equal(mine[name], row[name]) for name in row):
                found.append((key, row))
        return found

    def snapshot(self) -> pd.DataFrame:
        """The table as a DataFrame of the user's own; the same object until something changed."""
        with self._lock:
            if self._snapshot is None:
                columns = {name: self._array(name) for name in self.schema.names}
                index = index_of(self.schema, columns)
                names = [name for name in columns if name not in self.schema.key]
                self._snapshot = pd.DataFrame(
                    {name: columns[name] for name in names}, index=index, columns=names
                )
            return self._snapshot

    def arrays(self, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns as numpy arrays in the promised order, for vectorised audits; never written to.

        int64 and float64 columns without nulls are of those dtypes, datetimes ``M8[us]`` with NaT
        for null, everything else (and int or bool with nulls) object, with None for null.
        """
        with self._lock:
            return {name: self._numpy(name) for name in columns}

    def add_column(self, column: Column) -> None:
        """Add a column that the server's table has got; its values are null."""
        with self._lock:
            self.schema = Schema(
                (*self.schema.columns, column), self.schema.key, self.schema.numeric
            )
            for row in self._rows.values():
                row[column.name] = None
            self._touch()

    def drop_column(self, name: str) -> None:
        """Drop a column that the server's table has lost."""
        with self._lock:
            rest = tuple(column for column in self.schema.columns if column.name != name)
            self.schema = Schema(rest, self.schema.key, self.schema.numeric)
            for row in self._rows.values():
                row.pop(name)
            self._touch()

    def ordered(self, by: Sequence[OrderBy], limit: int | None = None) -> Ordered:
        """A view of this table in the order of ``by``, the key breaking ties (promise 8)."""
        return Ordered(self, by, limit)

    def _touch(self) -> None:
        self.version += 1
        self._snapshot = None

    def _array(self, name: str) -> Any:
        values = [row[name] for row in self._rows.values()]
        return pandas_array(
            values, self.schema.types[name], self.dtype_backend, self.schema.numeric
        )

    def _numpy(self, name: str) -> np.ndarray:
        values = [row[name] for row in self._rows.values()]
        pg_type = self.schema.types[name]
        array = pandas_array(values, pg_type, None, self.schema.numeric)
        found = array.asi8.view("M8[us]") if hasattr(array, "asi8") else np.asarray(array)
        if found.dtype.kind in "ibM" or (found.dtype.kind == "f" and None not in values):
            return found
        return objects(values)

    def _collapse(
        self, rows: dict[Key, dict[str, Any]], ops: Sequence[Op]
    ) -> dict[Key, dict[str, Any] | None]:
        before: dict[Key, dict[str, Any] | None] = {}
        for op in ops:
            old = rows.get(op.key)
            if op.key not in before:
                before[op.key] = old
            if isinstance(op, Upsert):
                base = old if old is not None else dict.fromkeys(self.schema.names)
                given = {n: v for n, v in op.row.items() if n in self.schema.types}
                rows[op.key] = {**base, **given}
            elif old is not None:
                del rows[op.key]
        return before

    def _changed(self, before: Mapping[Key, dict[str, Any] | None]) -> list[RowChange]:
        changes = []
        for key, old in before.items():
            new = self._rows.get(key)
            if old is None and new is not None:
                changes.append(RowChange("insert", key, None, dict(new)))
            elif old is not None and new is None:
                changes.append(RowChange("delete", key, dict(old), None))
            elif old is not None and new is not None and not equal(old, new):
                changes.append(RowChange("update", key, dict(old), dict(new)))
        return changes


class TableLoad:
    """A whole table being collected beside the one that is seen (``sync.rows.Load``)."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._rows: dict[Key, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, page: Sequence[WireRow]) -> None:
        """Add a page of undecoded rows; a key seen before is overwritten."""
        schema = self._table.schema
        for wire in page:
            row = {**dict.fromkeys(schema.names), **schema.decode(wire)}
            self._rows[schema.key_of(row)] = row

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected with ``ops`` laid over it, as one change."""
        table = self._table
        with table._lock:
            table._collapse(self._rows, ops)
            before: dict[Key, dict[str, Any] | None] = dict(table._rows)
            for key in self._rows:
                before.setdefault(key, None)
            table._rows = self._rows
            table._touch()
            return table._changed(before) if want_changes else []
