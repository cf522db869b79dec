"""Typed values to numbers and back, as a column of fixed width stores them in its buffers.

It converts typed values (``store.types``) to numpy arrays, and back. Dates and timestamps are
microseconds since 1970, with pandas' NaT for null.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from itertools import repeat
from operator import sub
from types import NoneType
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.model.types import Kind, arrow_type, equal

NULL_MOMENT: Final = np.iinfo("int64").min
"""pandas' value for NaT; no Python datetime comes near it."""

CLASSES: Final[dict[Kind, type]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "timestamptz": dt.datetime,
    "timestamp": dt.datetime,
    "date": dt.date,
    "text": str,
}
"""The class of a fitting typed value."""

STORED: Final[dict[Kind, str]] = {
    "int": "int64",
    "float": "float64",
    "bool": "bool",
    "timestamptz": "int64",
    "timestamp": "int64",
    "date": "int64",
}
"""The numpy dtype of the kinds stored as numbers."""

_EPOCHS: Final[dict[Kind, Any]] = {
    "timestamptz": dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
    "timestamp": dt.datetime(1970, 1, 1),
    "date": dt.date(1970, 1, 1),
}
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_FEW: Final = 32
"""Up to this number of moments, Python's arithmetic is faster than a call of Arrow."""


def encode(values: Sequence[Any], of: Kind) -> tuple[NDArray[Any], NDArray[np.bool_] | None] | None:
    """Return typed values as numbers, and which are null if any is; None if a value does not fit."""
    if not values:
        return np.empty(0, STORED[of]), None
    classes = set(map(type, values))
    nulls = NoneType in classes
    if classes - {CLASSES[of], NoneType}:
        return None
    mask = None
    if nulls:
        mask = np.fromiter((value is None for value in values), bool, len(values))
    if of in _EPOCHS:
        return _microseconds(values, mask, of), None
    if nulls:
        blank: Any = np.nan if of == "float" else 0
        values = [blank if value is None else value for value in values]
    try:
        return np.fromiter(values, STORED[of], len(values)), mask
    except OverflowError:  # past 64 bits
        return None


def _microseconds(
    values: Sequence[Any], nulls: NDArray[np.bool_] | None, of: Kind
) -> NDArray[np.int64]:
    """Return moments as numbers; Arrow converts durations in a quarter of the time of moments."""
    epoch = _EPOCHS[of]
    if nulls is not None:
        values = [epoch if value is None else value for value in values]
    found: NDArray[np.int64]
    try:
        since = list(map(sub, values, repeat(epoch)))
    except TypeError:  # a moment with an unexpected time zone, or without an expected one
        found = stamps(pa.array(values, arrow_type(of)))
    else:
        if len(since) <= _FEW:
            found = np.array([one // _MICROSECOND for one in since], "int64")
        else:
            found = np.array(pa.array(since, pa.duration("us")).cast(pa.int64()))
    if nulls is not None:
        found[nulls] = NULL_MOMENT
    return found


def unequal(mine: Sequence[Any], values: Sequence[Any]) -> NDArray[np.bool_]:
    """Return where two sequences of typed values differ."""
    pairs = zip(mine, values, strict=True)
    return np.fromiter((not equal(a, b) for a, b in pairs), bool, len(values))


def stamps(array: pa.Array) -> NDArray[np.int64]:
    """Return Arrow's dates or timestamps as microseconds since 1970, with pandas' NaT for null."""
    found = array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.int64())
    if found.null_count:
        found = found.fill_null(NULL_MOMENT)
    # A copy if Arrow returned its own memory: a Dense owns what it writes to.
    return np.array(found.to_numpy(zero_copy_only=False))


def moments(found: NDArray[Any], of: Kind) -> list[Any]:
    """Return the datetimes or dates of microseconds since 1970, with None for NaT."""
    if of == "date":
        days: list[Any] = found.view("M8[us]").astype("M8[D]").tolist()
        return days
    values: list[Any] = found.view("M8[us]").tolist()
    if of == "timestamp":
        return values
    return [value and value.replace(tzinfo=dt.UTC) for value in values]
