"""A column of text in Arrow chunks, pandas' own ``str`` (promise 12).

In go steps, out comes a chunked array in which only the chunks that a step touched are new: chunks
never change, so snapshots share them and need no second buffer. A step that touches most of them
makes one long chunk of all, and the next one that touches few cuts it: a chunk then has at most
512 rows. Replacing one costs some 10 µs, and putting two thousand of them together 100 to 400 µs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from types import NoneType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from notebook_rt.model.types import Backend, Numeric, dtype
from notebook_rt.store.arrays import objects
from notebook_rt.store.columns import ColumnStore, ObjectColumn, differing
from notebook_rt.store.dense import Positions, Step

CHUNK: Final = 512
_POOL: Final = pa.system_memory_pool()
"""Arrow's own pool gives freed memory back at once, and then a new chunk pays for its pages: 40 µs
against 10."""

_MANY: Final = 2
"""With more changes a chunk than that, all of them are made anew in one pass."""


class TextColumn(ColumnStore):
    """Text with nulls."""

    def __init__(
        self, values: pa.Array, pg_type: str, backend: Backend, numeric: Numeric = "float"
    ) -> None:
        super().__init__(pg_type, backend, numeric)
        self._array: pa.ChunkedArray | None = None
        self._renew(values)

    def _renew(self, values: pa.Array) -> None:
        self._chunks: list[pa.Array] = [values] if len(values) else []
        self._measure(np.array([len(values)] if len(values) else [], "int64"))

    def _shorten(self) -> None:
        """Cut what is longer than a chunk should be."""
        if len(self._lengths) and int(self._lengths.max()) > CHUNK:
            self._chunks = [piece for chunk in self._chunks for piece in _cut(chunk)]
            self._measure(np.fromiter(map(len, self._chunks), "int64", len(self._chunks)))

    def _measure(self, lengths: Positions) -> None:
        """Note the chunks' lengths, which are not asked for again: a thousand calls take long."""
        self._lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

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

    def value(self, place: int) -> Any:
        owner = int(self._starts.searchsorted(place, "right")) - 1
        return self._chunks[owner][place - int(self._starts[owner])].as_py()

    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        pairs = zip(self.values(places), values, strict=True)
        return np.fromiter((a != b for a, b in pairs), bool, len(values))

    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        if set(map(type, values)) | set(map(type, added)) <= {str, NoneType}:
            with suppress(UnicodeEncodeError):  # half of a surrogate pair: nothing has changed yet
                return self._advance(step, places, values, added)
        stand_in = ObjectColumn(self.everything(), self.pg_type, self.backend, self.numeric)
        return stand_in.advance(step, places, values, added)

    def _advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        if self.made_anew(len(places) + len(step.gone)):
            if not self._renew_changed(step, places, values, added):
                return self, False
            self._array = None
            return self, True
        places, values = differing(self, places, values)
        if not values and not step.moves:
            return self, False
        new, more = pa.array(values, pa.large_string()), pa.array(added, pa.large_string())
        self._array = None
        if values or len(step.gone):
            self._shorten()
            self._replace(places, new, step.gone)
        if added:
            self._append(more)
        if len(self._chunks) > 16 + 4 * len(self) // CHUNK:
            self._renew(pa.concat_arrays(self._chunks))
        return self, True

    def made_anew(self, changes: int) -> bool:
        """Whether a step of so many updates and deletions makes all chunks anew, in Arrow's C++."""
        return changes > _MANY * (1 + len(self) // CHUNK)

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

    def _renew_changed(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> bool:
        """Make all chunks anew, in one pass, if anything is other than before."""
        new, more = pa.array(values, pa.large_string()), pa.array(added, pa.large_string())
        both = pa.concat_arrays([*self._chunks, new, more])
        old = both.take(pa.array(places))
        same = pc.or_(
            pc.fill_null(pc.equal(old, new), fill_value=False),
            pc.and_(old.is_null(), new.is_null()),
        )
        differs = ~same.to_numpy(zero_copy_only=False)
        if not differs.any() and not step.moves:
            return False
        order = np.empty(step.after, "int64")
        order[: step.kept] = step.staying
        order[step.landing(places[differs])] = len(self) + np.flatnonzero(differs)
        order[step.kept :] = np.arange(len(both) - len(more), len(both))
        self._renew(pc.take(both, pa.array(order), boundscheck=False))
        return True

    def _replace(self, places: Positions, new: pa.Array, gone: Positions) -> None:
        """Make the chunks anew that hold one of ``places`` or of ``gone``."""
        where = np.concatenate([places, gone])
        what = np.concatenate([np.arange(len(places)), np.full(len(gone), -1)])
        order = np.argsort(where, kind="stable")
        where, what = where[order], what[order]
        owners = np.searchsorted(self._starts, where, "right") - 1
        inside, sources = (where - self._starts[owners]).tolist(), what.tolist()
        cuts = [*np.flatnonzero(np.diff(owners, prepend=-1)).tolist(), len(owners)]
        for first, last in pairwise(cuts):
            owner = int(owners[first])
            changes = zip(inside[first:last], sources[first:last], strict=True)
            self._chunks[owner] = _changed(self._chunks[owner], changes, new)
        if len(gone):
            left = np.bincount(np.searchsorted(self._starts, gone, "right") - 1)
            self._lengths[: len(left)] -= left
            if not self._lengths.all():
                self._chunks = [chunk for chunk in self._chunks if len(chunk)]
            self._measure(self._lengths[self._lengths > 0])

    def _append(self, added: pa.Array) -> None:
        lengths = self._lengths
        if len(lengths) and lengths[-1] < CHUNK:
            added = pa.concat_arrays([self._chunks.pop(), added], memory_pool=_POOL)
            lengths = lengths[:-1]
        cut = list(_cut(added))
        self._chunks += cut
        self._measure(np.concatenate([lengths, np.array(list(map(len, cut)), "int64")]))


def _cut(values: pa.Array) -> Iterator[pa.Array]:
    for start in range(0, len(values), CHUNK):
        yield values.slice(start, CHUNK)


def _changed(chunk: pa.Array, changes: Iterable[tuple[int, int]], new: pa.Array) -> pa.Array:
    """``chunk`` with ``changes``: places in it, each with a place in ``new``, or -1 to leave."""
    pieces, at = [], 0
    for place, source in changes:
        if place > at:
            pieces.append(chunk.slice(at, place - at))
        if source >= 0:
            pieces.append(new.slice(source, 1))
        at = place + 1
    if at < len(chunk) or not pieces:
        pieces.append(chunk.slice(at))
    return pa.concat_arrays(pieces, memory_pool=_POOL)
