"""Export of a table through Arrow: for pyarrow, polars, DuckDB.

The result is a ``pyarrow.Table`` that shares the columns' memory where the layouts agree: numbers,
timestamps and text do; booleans are packed to bits, dates converted to days, objects converted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from notebook_rt.model.types import Schema, to_json, to_rest
from notebook_rt.store.column import ColumnStore


def arrow_table(schema: Schema, columns: Mapping[str, ColumnStore]) -> pa.Table:
    """Return the columns, key columns first as in the schema, as a ``pyarrow.Table``."""
    arrays = {}
    for name, column in columns.items():
        found = column.arrow()
        if found is None:
            texts = [_text(schema.types[name], value) for value in column.everything()]
            found = pa.array(texts, pa.large_string())
        arrays[name] = found
    return pa.table(arrays)


def _text(pg_type: str, value: Any) -> str | None:
    if value is None:
        return value
    if isinstance(value, str):
        return value.encode(
            errors="replace"
        ).decode()  # Arrow does not support half a surrogate pair
    if isinstance(value, (list, dict)):
        return json.dumps(to_json(pg_type, value))  # Decimals as text: JSON has no NaN
    return to_rest(pg_type, value)
