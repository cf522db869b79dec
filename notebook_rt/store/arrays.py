"""Typed values of a column to a pandas array of the promised dtype (promise 11).

In go typed values with None for null, out comes the array that a DataFrame or its index holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from notebook_rt.store.types import Backend, Numeric, Schema, arrow_type, dtype, fits, kind


def objects(values: Sequence[Any]) -> np.ndarray:
    """``values`` as a one-dimensional object array, lists and all."""
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found


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
        return exact_array(values) if kind(pg_type) == "decimal" else objects(values)
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


def exact_array(values: Sequence[Decimal | None]) -> Any:
    """Decimals as an Arrow-backed array; as objects where Arrow has no such decimal."""
    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return objects(values)  # NaN, infinities, over 76 digits
    if not pa.types.is_decimal(found.type):
        found = found.cast(pa.decimal128(38, 0))  # nothing but nulls
    return pd.arrays.ArrowExtensionArray(found)


def index_of(schema: Schema, columns: Mapping[str, Any]) -> Any:
    """The index that the key's columns make: flat, or a MultiIndex for a composite key."""
    arrays = [columns[name] for name in schema.key]
    if len(arrays) == 1:
        return pd.Index(arrays[0], name=schema.key[0])
    return pd.MultiIndex.from_arrays(arrays, names=list(schema.key))
