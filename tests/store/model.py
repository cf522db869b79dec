"""The table as a dict of dicts: the columnar table must equal it after each operation.

It makes its frame anew from Python values on every read, with nothing but pandas' and Arrow's own
constructors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from notebook_rt.model.rows import Key, Op, Row, RowChange, Upsert, WireRow
from notebook_rt.model.types import (
    Backend,
    Column,
    Numeric,
    Schema,
    arrow_type,
    dtype,
    equal,
    fits,
    kind,
)
from notebook_rt.store.arrays import exact_arrow, objects


class Model:
    """``sync.rows.Rows``, slow and obvious."""

    def __init__(self, schema: Schema, backend: Backend) -> None:
        self.schema = schema
        self.backend: Backend = backend
        self.rows: dict[Key, dict[str, Any]] = {}
        self.places: list[Key] = []
        """The keys of the rows, and of those that come back to their place."""

    def apply(self, ops: Sequence[Op]) -> list[RowChange]:
        before = {op.key: self.rows.get(op.key) for op in ops}
        for op in ops:
            old = self.rows.get(op.key)
            if isinstance(op, Upsert):
                given = {n: v for n, v in op.row.items() if n in self.schema.types}
                self.rows[op.key] = {**(old or dict.fromkeys(self.schema.names)), **given}
                if op.key not in self.places:
                    self.places.append(op.key)
                continue
            self.rows.pop(op.key, None)
            if op.key in self.places and not (op.keeps_place and old is not None):
                self.places.remove(op.key)
        self.rows = {key: self.rows[key] for key in self.places if key in self.rows}
        return self.changes(before)

    def replace(self, pages: Sequence[Sequence[WireRow]], ops: Sequence[Op]) -> list[RowChange]:
        before: dict[Key, dict[str, Any] | None] = dict(self.rows)
        self.rows = {}
        for page in pages:
            for wire in page:
                row = {**dict.fromkeys(self.schema.names), **self.schema.decode(wire)}
                self.rows[self.schema.key_of(row)] = row
        self.places = list(self.rows)
        self.apply(ops)
        return self.changes(before | {key: before.get(key) for key in self.rows})

    def changes(self, before: Mapping[Key, dict[str, Any] | None]) -> list[RowChange]:
        found = []
        for key, old in before.items():
            new = self.rows.get(key)
            if old is None and new is not None:
                found.append(RowChange("insert", key, None, new))
            elif old is not None and new is None:
                found.append(RowChange("delete", key, old, None))
            elif not equal(old, new):
                found.append(RowChange("update", key, old, new))
        return found

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        rows = [self.schema.decode(wire) for wire in page]
        keyed = [(self.schema.key_of(row), row) for row in rows]
        return [
            (key, row)
            for key, row in keyed
            if key not in self.rows
            or any(not equal(value, self.rows[key][name]) for name, value in row.items())
        ]

    def add_column(self, column: Column) -> None:
        columns = (*self.schema.columns, column)
        self.schema = Schema(columns, self.schema.key, self.schema.numeric)
        for row in self.rows.values():
            row[column.name] = None

    def drop_column(self, name: str) -> None:
        rest = tuple(column for column in self.schema.columns if column.name != name)
        self.schema = Schema(rest, self.schema.key, self.schema.numeric)
        for row in self.rows.values():
            del row[name]

    def frame(self) -> pd.DataFrame:
        arrays = {
            name: pandas_array(
                [row[name] for row in self.rows.values()],
                pg_type,
                self.backend,
                self.schema.numeric,
            )
            for name, pg_type in self.schema.types.items()
        }
        index = index_of(self.schema, arrays)
        names = [name for name in arrays if name not in self.schema.key]
        series = {
            name: pd.Series(arrays[name], index=index, dtype=arrays[name].dtype) for name in names
        }
        return pd.DataFrame(series, index=index, columns=pd.Index(names))


def pandas_array(
    values: Sequence[Any], pg_type: str, backend: Backend = None, numeric: Numeric = "float"
) -> Any:
    """The array of ``values`` with the dtype that ``store.types`` promises for them."""
    mask = np.fromiter((value is None for value in values), bool, len(values))
    wanted = dtype(pg_type, backend, nulls=bool(mask.any()), numeric=numeric)
    if not all(value is None or fits(pg_type, value, numeric=numeric) for value in values):
        return objects(values)
    if backend == "pyarrow":
        if isinstance(wanted, pd.ArrowDtype):
            return pd.arrays.ArrowExtensionArray(
                pa.array(values, wanted.pyarrow_dtype, from_pandas=False)
            )
        exact = exact_arrow(values) if kind(pg_type) == "decimal" else None
        return objects(values) if exact is None else pd.arrays.ArrowExtensionArray(exact)
    if isinstance(wanted, pd.DatetimeTZDtype) or wanted == np.dtype("M8[us]"):
        return moments(pa.array(values, arrow_type(pg_type)))
    if isinstance(wanted, pd.Float64Dtype):
        numbers = np.array([0.0 if value is None else value for value in values], "float64")
        return pd.arrays.FloatingArray(numbers, mask)
    return objects(values) if wanted == np.dtype(object) else pd.array(list(values), dtype=wanted)


def moments(array: pa.Array) -> Any:
    """An Arrow array of timestamps or dates as pandas' own datetime64[us] array."""
    naive = pa.timestamp("us", getattr(array.type, "tz", None))
    stamps = array.cast(naive).cast(pa.int64()).fill_null(np.iinfo("int64").min)
    found = pd.array(stamps.to_numpy(zero_copy_only=False).view("M8[us]"), dtype="M8[us]")
    return found if naive.tz is None else found.tz_localize("UTC")


def index_of(schema: Schema, columns: Mapping[str, Any]) -> Any:
    """The index that the key's columns make: flat, or a MultiIndex for a composite key."""
    arrays = [columns[name] for name in schema.key]
    if len(arrays) == 1:
        return pd.Index(arrays[0], name=schema.key[0], dtype=arrays[0].dtype)
    return pd.MultiIndex.from_arrays(arrays, names=list(schema.key))
