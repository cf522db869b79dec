"""Recorded columns of typed values: pack, concatenate and select them.

Each is a ``Parts``, the layout of a table's column, so a state assembled from them becomes a table without
decoding a value.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from types import NoneType
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.model.rows import Row
from notebook_rt.model.types import Numeric, Schema, kind
from notebook_rt.store.arrays import objects
from notebook_rt.store.column import Parts, family
from notebook_rt.store.columns import column_of, of_parts, one_chunk
from notebook_rt.store.dense import Positions
from notebook_rt.store.encode import STORED, encode
from notebook_rt.store.keys import Keys

_MOST_SHORT: Final = 1 << 30
"""Bytes of text up to which 32-bit offsets suffice."""


def pack(values: Sequence[Any], pg_type: str, numeric: Numeric) -> Parts:
    """Return typed values in a column's layout; text with 32-bit offsets, unlike a table's columns."""
    of = family(pg_type, numeric)
    encoded = encode(values, of) if of in STORED else None
    if encoded is not None:
        return Parts(*encoded)
    if of == "text" and set(map(type, values)) <= {str, NoneType}:
        with suppress(UnicodeEncodeError):  # an unpaired surrogate, which Arrow does not support
            texts = pa.array(values, pa.string())
            if isinstance(texts, pa.StringArray) and texts.nbytes < _MOST_SHORT:
                return Parts(pa.chunked_array([texts]))
    parts = column_of(values, pg_type, None, numeric).parts()
    if isinstance(parts.data, pa.ChunkedArray) and parts.data.nbytes < _MOST_SHORT:
        return Parts(parts.data.cast(pa.string()))
    return parts


def transposed(rows: Sequence[Row], names: Sequence[str]) -> Iterable[tuple[str, Sequence[Any]]]:
    """Return the values of each column.

    Raises
    ------
    KeyError
        If a row has no value for a column.
    """
    if len(names) < 2 or not rows:
        return [(name, [row[name] for row in rows]) for name in names]
    # Row by row, so that each dict is read while it is in the processor's cache.
    return zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True)


def join(parts: Sequence[Parts], pg_type: str, numeric: Numeric) -> Parts:
    """Concatenate columns of one type."""
    if len(parts) == 1:
        return parts[0]
    datas = [one.data for one in parts]
    texts = [one for one in datas if isinstance(one, pa.ChunkedArray)]
    if len(texts) == len(parts):
        of = pa.string()
        if any(one.type != of for one in texts) or sum(one.nbytes for one in texts) >= _MOST_SHORT:
            of = pa.large_string()
        chunks = [chunk for text in texts for chunk in text.cast(of).chunks]
        whole = one_chunk(pa.chunked_array(chunks, of))
        return Parts(pa.chunked_array([whole]))
    arrays = [one for one in datas if isinstance(one, np.ndarray)]
    if len(arrays) == len(parts) and len({one.dtype for one in arrays}) == 1:
        mask = None
        if any(one.mask is not None for one in parts):
            mask = np.concatenate(
                [
                    np.zeros(len(data), bool) if one.mask is None else one.mask
                    for one, data in zip(parts, arrays, strict=True)
                ]
            )
        return Parts(np.concatenate(arrays), mask)
    return Parts(objects([value for one in parts for value in values(one, pg_type, numeric)]))


def pick(parts: Parts, places: Positions) -> Parts:
    """Return the values at ``places`` as a new column."""
    data = parts.data
    if isinstance(data, pa.ChunkedArray):
        taken = one_chunk(data).take(pa.array(places)).cast(pa.large_string())
        return Parts(pa.chunked_array([taken]))
    return Parts(data[places], None if parts.mask is None else parts.mask[places])


def values(parts: Parts, pg_type: str, numeric: Numeric) -> list[Any]:
    """Return the typed values."""
    return of_parts(parts.own(), pg_type, None, numeric).everything()


def length(parts: Parts) -> int:
    return len(parts.data)


def nbytes(parts: Parts) -> int:
    """Return the bytes of memory in use; for Python objects an estimate."""
    data = parts.data
    if isinstance(data, pa.ChunkedArray):
        return int(data.nbytes)
    size = data.nbytes + (0 if parts.mask is None else parts.mask.nbytes)
    if data.dtype == object:
        size += sum(map(_weight, data.tolist()))
    return size


def numbered(schema: Schema, columns: Mapping[str, Parts]) -> Keys:
    """Return the keys of whole columns, numbered in the order of the rows."""
    first = columns[schema.key[0]]
    one = len(schema.key) == 1 and kind(schema.types[schema.key[0]]) == "int"
    if one and isinstance(first.data, np.ndarray) and first.data.dtype == "int64":
        return Keys.numbered(first.data)
    return Keys.numbered(keys_of(schema, columns))


def keys_of(schema: Schema, columns: Mapping[str, Parts]) -> list[Any]:
    """Return the keys of rows whose columns, including the key columns, are given."""
    return schema.keys_in(
        [values(columns[name], schema.types[name], schema.numeric) for name in schema.key]
    )


def rows_of(schema: Schema, columns: Mapping[str, Parts]) -> list[dict[str, Any]]:
    """Return the typed rows of the given columns."""
    types = schema.types
    lists = [values(parts, types[name], schema.numeric) for name, parts in columns.items()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def _weight(value: Any) -> int:
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        size += sum(_weight(key) + _weight(one) for key, one in value.items())
    elif isinstance(value, list | tuple):
        size += sum(map(_weight, value))
    return size


def rising(found: NDArray[Any]) -> bool:
    """Return whether each value is greater than the previous one."""
    return bool((found[1:] > found[:-1]).all())
