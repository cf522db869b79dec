"""Columns of typed values as they are recorded: packed, put one after another, and picked from.

Each is a ``Parts``, the layout in which a table's column holds its values, so a state that is put together
of them becomes a table without decoding a value.
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
"""Bytes of text up to which offsets have 32 bits."""


def pack(values: Sequence[Any], pg_type: str, numeric: Numeric) -> Parts:
    """Typed values as a column has them; text with offsets of 32 bits, which a table's have not."""
    of = family(pg_type, numeric)
    encoded = encode(values, of) if of in STORED else None
    if encoded is not None:
        return Parts(*encoded)
    if of == "text" and set(map(type, values)) <= {str, NoneType}:
        with suppress(UnicodeEncodeError):  # half of a surrogate pair, which Arrow has not
            texts = pa.array(values, pa.string())
            if isinstance(texts, pa.StringArray) and texts.nbytes < _MOST_SHORT:
                return Parts(pa.chunked_array([texts]))
    parts = column_of(values, pg_type, None, numeric).parts()
    if isinstance(parts.data, pa.ChunkedArray) and parts.data.nbytes < _MOST_SHORT:
        return Parts(parts.data.cast(pa.string()))
    return parts


def transposed(rows: Sequence[Row], names: Sequence[str]) -> Iterable[tuple[str, Sequence[Any]]]:
    """Of each column its values.

    Raises
    ------
    KeyError
        If a row has none of a column.
    """
    if len(names) < 2 or not rows:
        return [(name, [row[name] for row in rows]) for name in names]
    # Row by row: a dict is looked into while it is in the processor's cache.
    return zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True)


def join(parts: Sequence[Parts], pg_type: str, numeric: Numeric) -> Parts:
    """Columns of one type, one after the other."""
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
    """The values at ``places``, as a column of its own."""
    data = parts.data
    if isinstance(data, pa.ChunkedArray):
        taken = one_chunk(data).take(pa.array(places)).cast(pa.large_string())
        return Parts(pa.chunked_array([taken]))
    return Parts(data[places], None if parts.mask is None else parts.mask[places])


def values(parts: Parts, pg_type: str, numeric: Numeric) -> list[Any]:
    """The typed values."""
    return of_parts(parts.own(), pg_type, None, numeric).everything()


def length(parts: Parts) -> int:
    return len(parts.data)


def nbytes(parts: Parts) -> int:
    """Bytes of memory in use; of Python's objects an estimate."""
    data = parts.data
    if isinstance(data, pa.ChunkedArray):
        return int(data.nbytes)
    size = data.nbytes + (0 if parts.mask is None else parts.mask.nbytes)
    if data.dtype == object:
        size += sum(map(_weight, data.tolist()))
    return size


def numbered(schema: Schema, columns: Mapping[str, Parts]) -> Keys:
    """The keys of whole columns, numbered in the order of their rows."""
    first = columns[schema.key[0]]
    one = len(schema.key) == 1 and kind(schema.types[schema.key[0]]) == "int"
    if one and isinstance(first.data, np.ndarray) and first.data.dtype == "int64":
        return Keys.numbered(first.data)
    return Keys.numbered(keys_of(schema, columns))


def keys_of(schema: Schema, columns: Mapping[str, Parts]) -> list[Any]:
    """The keys of rows whose columns, the key's among them, hold these parts."""
    return schema.keys_in(
        [values(columns[name], schema.types[name], schema.numeric) for name in schema.key]
    )


def rows_of(schema: Schema, columns: Mapping[str, Parts]) -> list[dict[str, Any]]:
    """Rows, typed, of the columns that are given."""
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
    """Whether each value is greater than the one before."""
    return bool((found[1:] > found[:-1]).all())
