"""A column of text in Arrow chunks, pandas' own ``str`` (promise 12).

In go steps, out comes a chunked array in which only the chunks that a step touched are new: chunks
never change, so snapshots share them and need no second buffer. A chunk has at most 512 rows:
replacing one costs some 5 µs, and putting two thousand of them together 60 µs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import NoneType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.store.arrays import objects
from notebook_rt.store.columns import ColumnStore, ObjectColumn
from notebook_rt.store.dense import Positions, Step
from notebook_rt.store.types import Backend, Numeric, dtype

CHUNK: Final = 512
_MANY: Final = 64
"""With more changes in a chunk than that, one ``take`` beats putting stretches together."""


class TextColumn(ColumnStore):
    """Text with nulls."""

    def __init__(
        self, values: pa.Array, pg_type: str, backend: Backend, numeric: Numeric = "float"
    ) -> None:
        super().__init__(pg_type, backend, numeric)
        self._chunks: list[pa.Array] = list(_cut(values))
        self._count()
        self._array: pa.ChunkedArray | None = None

    def _count(self) -> None:
        lengths = [len(chunk) for chunk in self._chunks]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype="int64")])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def nbytes(self) -> int:
        return sum(chunk.nbytes for chunk in self._chunks)

    def values(self, places: Positions) -> list[Any]:
        chunks = self._chunks
        owners = np.searchsorted(self._starts, places, "right") - 1
        inside = places - self._starts[owners]
        if len(places) > len(self) // 2:
            everything = self.chunked().to_pylist()
            return [everything[place] for place in places.tolist()]
        return [
            chunks[owner][place].as_py()
            for owner, place in zip(owners.tolist(), inside.tolist(), strict=True)
        ]

    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        pairs = zip(self.values(places), values, strict=True)
        return np.fromiter((a != b for a, b in pairs), bool, len(values))

    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> ColumnStore:
        if not set(map(type, values)) | set(map(type, added)) <= {str, NoneType}:
            return ObjectColumn(
                self.everything(), self.pg_type, self.backend, self.numeric
            ).advance(step, places, values, added)
        self._array = None
        if len(places) or len(step.gone):
            self._replace(places, pa.array(values, pa.large_string()), step.gone)
        if added:
            self._append(pa.array(added, pa.large_string()))
        self._count()
        if len(self._chunks) > 16 + 4 * len(self) // CHUNK:
            self._chunks = list(_cut(pa.concat_arrays(self._chunks)))
            self._count()
        return self

    def series(self, index: pd.Index) -> pd.Series:
        # A new array a snapshot: one that a user had may have been written to through `.array`.
        return pd.Series(self.array(), index=index, copy=False)

    def array(self) -> Any:
        if self.backend == "pyarrow":
            return pd.arrays.ArrowExtensionArray(self.chunked())
        return dtype("text", self.backend).__from_arrow__(self.chunked())

    def numpy(self) -> NDArray[Any]:
        return objects(self.everything())

    def arrow(self) -> pa.ChunkedArray:
        return self.chunked()

    def chunked(self) -> pa.ChunkedArray:
        """The chunks as one array."""
        if self._array is None:
            self._array = pa.chunked_array(self._chunks, pa.large_string())
        return self._array

    def everything(self) -> list[Any]:
        found: list[Any] = self.chunked().to_pylist()
        return found

    def _replace(self, places: Positions, new: pa.Array, gone: Positions) -> None:
        """Make the chunks anew that hold one of ``places`` or of ``gone``."""
        where = np.concatenate([places, gone])
        what = np.concatenate([np.arange(len(places)), np.full(len(gone), -1)])
        order = np.argsort(where, kind="stable")
        where, what = where[order], what[order]
        owners = np.searchsorted(self._starts, where, "right") - 1
        inside = (where - self._starts[owners]).tolist()
        cuts = [*np.flatnonzero(np.diff(owners, prepend=-1)).tolist(), len(owners)]
        emptied = False
        for first, last in pairwise(cuts):
            owner = int(owners[first])
            changes = list(zip(inside[first:last], what[first:last].tolist(), strict=True))
            chunk = _changed(self._chunks[owner], changes, new)
            self._chunks[owner] = chunk
            emptied |= not len(chunk)
        if emptied:
            self._chunks = [chunk for chunk in self._chunks if len(chunk)]

    def _append(self, added: pa.Array) -> None:
        if self._chunks and len(self._chunks[-1]) < CHUNK:
            added = pa.concat_arrays([self._chunks.pop(), added])
        self._chunks.extend(_cut(added))


def _cut(values: pa.Array) -> Iterator[pa.Array]:
    for start in range(0, len(values), CHUNK):
        yield values.slice(start, CHUNK)


def _changed(chunk: pa.Array, changes: list[tuple[int, int]], new: pa.Array) -> pa.Array:
    """``chunk`` with ``changes``: places in it, each with a place in ``new``, or -1 to leave."""
    if len(changes) > _MANY:
        places = np.arange(len(chunk))
        for place, source in changes:
            places[place] = source if source < 0 else len(chunk) + source
        return pa.concat_arrays([chunk, new]).take(pa.array(places[places >= 0]))
    pieces, at = [], 0
    for place, source in changes:
        if place > at:
            pieces.append(chunk.slice(at, place - at))
        if source >= 0:
            pieces.append(new.slice(source, 1))
        at = place + 1
    if at < len(chunk) or not pieces:
        pieces.append(chunk.slice(at))
    return pa.concat_arrays(pieces)
