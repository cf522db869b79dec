"""A few rows of a DataFrame as binary columns, and the cells in which two of them differ.

Input: a column's array and the requested positions. Output: ``Cells``, comparable and packed into bytes that
``decode.js`` reads with typed arrays. Numbers, times and booleans are sent as 64-bit floats or bytes;
everything else is sent as text, long text cut (the rest is fetched on request for that cell).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from notebook_rt.model.coerce import missing

Kind: TypeAlias = Literal["number", "bool", "instant", "local", "text"]
LONG = 160
"""Characters of a text that are sent to the browser without a request."""
NULL, CUT = 1, 2
_SAFE = 2**53
"""A smaller integer is exactly a float; this one may be the next one, rounded."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Some cells of one column. ``flags`` has ``NULL`` and ``CUT`` per cell."""

    kind: Kind
    values: npt.NDArray[np.float64] | list[str]
    flags: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.flags)

    def changed(self, before: Cells) -> npt.NDArray[np.int32]:
        """Return where this differs from ``before``, which has the same number of cells."""
        if self.kind != before.kind:
            return np.arange(len(self), dtype=np.int32)
        if isinstance(self.values, list):
            assert isinstance(before.values, list)
            pairs = zip(self.values, before.values, strict=True)
            differ = np.fromiter((a != b for a, b in pairs), bool, len(self))
        else:
            assert not isinstance(before.values, list)
            both_nan = np.isnan(self.values) & np.isnan(before.values)
            differ = (self.values != before.values) & ~both_nan
        return np.flatnonzero(differ | (self.flags != before.flags)).astype(np.int32)

    def take(self, where: npt.NDArray[np.int32]) -> Cells:
        """Return the cells at ``where``."""
        if isinstance(self.values, list):
            return Cells(self.kind, [self.values[i] for i in where], self.flags[where])
        return Cells(self.kind, self.values[where], self.flags[where])


class Pack:
    """Collects arrays in one buffer, each aligned to 8 bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, content: bytes) -> list[int]:
        """Add ``content`` and return its offset and length in bytes."""
        at = self._size
        padding = -len(content) % 8
        self._parts += [content, b"\0" * padding]
        self._size += len(content) + padding
        return [at, len(content)]

    def add_cells(self, cells: Cells) -> dict[str, Any]:
        """Describe ``cells`` for the message's header."""
        header: dict[str, Any] = {"kind": cells.kind, "flags": self.add(cells.flags.tobytes())}
        if isinstance(cells.values, list):
            encoded = [value.encode("utf-8", "replace") for value in cells.values]
            ends = np.cumsum([len(value) for value in encoded], dtype=np.int32)
            header["ends"] = self.add(ends.tobytes())
            header["values"] = self.add(b"".join(encoded))
        else:
            header["values"] = self.add(np.ascontiguousarray(cells.values).tobytes())
        return header

    def bytes(self) -> bytes:
        return b"".join(self._parts)


def text_of(value: Any, pg_type: str = "") -> str:
    """Return a value as readable text: JSON for containers, hex for bytes, a date without a time."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple | np.ndarray):
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        return json.dumps(plain, ensure_ascii=False, default=str)
    if isinstance(value, bytes | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, dt.datetime):
        if pg_type == "date":
            return value.date().isoformat()
        return value.isoformat(sep=" ")
    return str(value)


def cells(array: Any, positions: npt.NDArray[np.intp]) -> Cells:
    """Return the cells of a column's ``array`` at ``positions``."""
    dtype = array.dtype
    if isinstance(dtype, pd.StringDtype) and _in_a_row(positions):
        # Taking from Arrow's chunks scans all of them; a slice does not.
        return _texts(array[int(positions[0]) : int(positions[-1]) + 1])
    few = array.take(positions)
    if isinstance(dtype, np.dtype) and dtype.kind in "iuf":  # most frequent: no pandas checks
        return _exact(few, always=dtype.kind == "f") or _texts(few)
    if isinstance(dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_dtype(dtype):
        kind: Kind = "instant" if isinstance(dtype, pd.DatetimeTZDtype) else "local"
        null = np.asarray(pd.isna(few))
        stamps = np.asarray(few, dtype="datetime64[us]").astype(np.int64).astype(np.float64)
        return Cells(kind, np.where(null, 0.0, stamps), null.astype(np.uint8))
    if pd.api.types.is_bool_dtype(dtype):
        return _fixed("bool", few)
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        exact = pd.api.types.is_float_dtype(dtype)
        fixed = None if _is_decimal(dtype) else _exact(few, always=exact)
        if fixed is not None:
            return fixed
    return _texts(few)


def _exact(few: Any, *, always: bool) -> Cells | None:
    """Return numbers as floats; unless ``always``, None if one of them might be rounded."""
    fixed = _fixed("number", few)
    assert not isinstance(fixed.values, list)
    return fixed if always or bool((np.abs(fixed.values) < _SAFE).all()) else None


def _in_a_row(positions: npt.NDArray[np.intp]) -> bool:
    return len(positions) > 0 and bool((np.diff(positions) == 1).all())


def _is_decimal(dtype: Any) -> bool:
    return isinstance(dtype, pd.ArrowDtype) and "decimal" in str(dtype)


def _fixed(kind: Kind, few: Any) -> Cells:
    null = np.asarray(pd.isna(few)).astype(np.uint8)
    if isinstance(few.dtype, np.dtype):
        values = np.asarray(few, dtype=np.float64)
    else:
        values = np.asarray(few.to_numpy(dtype=np.float64, na_value=np.nan))
    return Cells(kind, values, null)


def _texts(few: Sequence[Any]) -> Cells:
    flags = np.zeros(len(few), dtype=np.uint8)
    texts: list[str] = []
    # Item by item, Arrow's strings take six times as long.
    values = few.tolist() if isinstance(few, pd.api.extensions.ExtensionArray) else few
    for i, value in enumerate(values):
        if missing(value):
            flags[i] = NULL
            texts.append("")
            continue
        text = text_of(value)
        if len(text) > LONG:
            flags[i] = CUT
            text = text[:LONG]
        texts.append(text)
    return Cells("text", texts, flags)


def shape_of(dtype: Any, pg_type: str) -> str:
    """Return how a column is shown and edited: the word that ``cell.js`` and ``editors.js`` use."""
    if pg_type in ("json", "jsonb") or pg_type.startswith("_"):
        return "json"
    if pg_type in ("date", "timestamptz", "timestamp", "bool"):
        return pg_type
    if isinstance(dtype, pd.DatetimeTZDtype):
        return "timestamptz"
    if pd.api.types.is_datetime64_dtype(dtype):
        return "timestamp"
    if pd.api.types.is_bool_dtype(dtype):
        return "bool"
    if pd.api.types.is_numeric_dtype(dtype) or pg_type == "numeric":
        return "integer" if pd.api.types.is_integer_dtype(dtype) else "number"
    return "text"
