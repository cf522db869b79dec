"""The columns of a table: typed values in, pandas arrays out, without a copy on a read (promise 12).

There are three kinds of columns with one interface:

* `FixedColumn`: numbers, booleans and timestamps, in a ``Dense`` of their own numpy dtype, with another one
  for the mask as soon as there is a null;
* `TextColumn`: Arrow chunks, pandas' own ``str``. A step makes new chunks of those that it changes; chunks
  never change, so snapshots share them. A step that changes most of them makes one long chunk of all, and
  the next one that changes few cuts it: a chunk then has at most 512 rows. Replacing one costs some 10 µs,
  and joining two thousand of them 100 to 400 µs;
* `ObjectColumn`: everything that numpy has no number for, and temporarily any other column that contains
  a value which does not fit its type (``model.types``).

A step may turn one into another, so `advance` returns the column that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from types import NoneType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from notebook_rt.model.types import Backend, Kind, Numeric, arrow_type, dtype, fits
from notebook_rt.store import cumulative
from notebook_rt.store.arrays import exact_arrow, objects
from notebook_rt.store.column import ColumnStore, Parts, differing, family
from notebook_rt.store.dense import Buffer, Dense, Positions, Step
from notebook_rt.store.encode import CLASSES, NULL_MOMENT, STORED, encode, moments, unequal
from notebook_rt.store.frozen import freeze

_UTC_DTYPE: Final = pd.DatetimeTZDtype("us", "UTC")
cumulative.copy_read_only()


def column_of(
    values: Sequence[Any], pg_type: str, backend: Backend, numeric: Numeric
) -> ColumnStore:
    """Return the store that fits ``values``."""
    found = family(pg_type, numeric)
    if found == "text" and set(map(type, values)) <= {str, NoneType}:
        with suppress(UnicodeEncodeError):  # half of a surrogate pair, which Arrow does not support
            return TextColumn(pa.array(values, pa.large_string()), pg_type, backend, numeric)
    encoded = encode(values, found) if found in STORED else None
    if encoded is not None:
        return FixedColumn(*encoded, pg_type, backend, numeric)
    return ObjectColumn(values, pg_type, backend, numeric)


def of_parts(parts: Parts, pg_type: str, backend: Backend, numeric: Numeric) -> ColumnStore:
    """Return the column that holds ``parts``; it owns writable arrays from now on."""
    if isinstance(parts.data, pa.ChunkedArray):
        return TextColumn(one_chunk(parts.data), pg_type, backend, numeric)
    if parts.data.dtype == object:
        return ObjectColumn(parts.data.tolist(), pg_type, backend, numeric)
    return FixedColumn(parts.data, parts.mask, pg_type, backend, numeric)


def one_chunk(chunks: pa.ChunkedArray) -> pa.Array:
    """Return all chunks as one; a single one is not copied."""
    if chunks.num_chunks == 1:
        return chunks.chunk(0)
    return pa.concat_arrays(chunks.chunks or [pa.array([], chunks.type)])


def pick(column: ColumnStore, places: Positions) -> ColumnStore:
    """Return a separate column of the values at ``places``."""
    return column_of(column.values(places), column.pg_type, column.backend, column.numeric)


def shared(column: ColumnStore) -> ColumnStore:
    """Return a separate column of all values, sharing memory until either of the two takes a step."""
    return of_parts(column.parts(), column.pg_type, column.backend, column.numeric)


def take(column: ColumnStore, places: Positions) -> ColumnStore:
    """Return a separate column of the values at ``places``; null where the place is -1."""
    if not len(column):
        blank = [None] * len(places)
        return column_of(blank, column.pg_type, column.backend, column.numeric)
    if isinstance(column, FixedColumn):
        return column.taken(places)
    if isinstance(column, TextColumn):
        absent = places < 0
        wanted = pa.array(places, mask=absent if absent.any() else None)
        taken = column.chunked().take(wanted).combine_chunks()
        return TextColumn(taken, column.pg_type, column.backend, column.numeric)
    values = column.values(places)
    for at in np.flatnonzero(places < 0).tolist():
        values[at] = None
    return column_of(values, column.pg_type, column.backend, column.numeric)


# --- fixed width ------------------------------------------------------------------------------


class FixedColumn(ColumnStore):
    """Numbers, booleans and timestamps."""

    def __init__(
        self,
        data: NDArray[Any],
        mask: NDArray[Any] | None,
        pg_type: str,
        backend: Backend,
        numeric: Numeric,
    ) -> None:
        super().__init__(pg_type, backend, numeric)
        self._data = Dense(data)
        self._mask: Dense | None = None
        self._moment = self.kind in ("timestamptz", "timestamp", "date")
        if mask is not None:
            self._mask = Dense(mask)

    def __len__(self) -> int:
        return self._data.size

    @property
    def nbytes(self) -> int:
        return self._data.nbytes + (self._mask.nbytes if self._mask else 0)

    def values(self, places: Positions) -> list[Any]:
        found = self._data.peek()[places]
        if self._moment:
            return moments(found, self.kind)
        values: list[Any] = found.tolist()
        if self._mask is not None:
            nulls = self._mask.peek()[places]
            if nulls.any():
                values = [
                    None if null else value for value, null in zip(values, nulls, strict=True)
                ]
        return values

    def value(self, place: int) -> Any:
        if self._moment:
            return moments(self._data.peek()[place : place + 1], self.kind)[0]
        if self._mask is not None and self._mask.peek().item(place):
            return None
        return self._data.peek().item(place)

    def null_count(self) -> int:
        if self._moment:
            return int((self._data.peek() == NULL_MOMENT).sum())
        return 0 if self._mask is None else int(self._mask.peek().sum())

    def taken(self, places: Positions) -> ColumnStore:
        """See ``take``."""
        data = self._data.peek()[places]
        mask = None if self._mask is None else self._mask.peek()[places]
        absent = places < 0
        if absent.any():
            data[absent] = NULL_MOMENT if self._moment else np.nan if self.kind == "float" else 0
            if not self._moment:
                mask = absent if mask is None else mask | absent
        return FixedColumn(data, mask, self.pg_type, self.backend, self.numeric)

    def pick(self, places: Positions) -> ColumnStore:
        mask = None if self._mask is None else self._mask.peek()[places]
        data = self._data.peek()[places]
        return FixedColumn(data, mask, self.pg_type, self.backend, self.numeric)

    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        encoded = encode(values, self.kind)
        if (
            encoded is None
        ):  # one value that does not fit must not affect the comparison of the others
            return unequal(self.values(places), values)
        return self._differs(places, *encoded)

    def _differs(
        self, places: Positions, data: NDArray[Any], nulls: NDArray[Any] | None
    ) -> NDArray[np.bool_]:
        mine = self._data.peek()[places]
        found: NDArray[np.bool_] = data != mine
        if self.kind == "float":
            found &= ~(np.isnan(data) & np.isnan(mine))
        if self._mask is not None or nulls is not None:
            found |= self._nulls(places) != (False if nulls is None else nulls)
        return found

    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        new, more = encode(values, self.kind), encode(added, self.kind)
        if new is None or more is None:
            stand_in = ObjectColumn(self.everything(), self.pg_type, self.backend, self.numeric)
            return stand_in.advance(step, places, values, added)
        (data, nulls), (tail, tail_nulls) = new, more
        if len(places):
            differs = self._differs(places, data, nulls)
            if not differs.all():
                places, data = places[differs], data[differs]
                nulls = None if nulls is None else nulls[differs]
        if not len(places) and not step.moves:
            return self, False
        if self._mask is None and (nulls is not None or tail_nulls is not None):
            self._mask = Dense(np.zeros(len(self), bool))
        self._data.advance(step, places, data, tail)
        if self._mask is not None:
            self._mask.advance(
                step,
                places,
                np.zeros(len(data), bool) if nulls is None else nulls,
                np.zeros(len(tail), bool) if tail_nulls is None else tail_nulls,
            )
        return self, True

    def series(self, index: pd.Index) -> pd.Series:
        guard = self._data.guard
        if isinstance(guard, pd.Series) and guard.index is index:
            return guard
        data, mask, array = self._shown()
        guard = pd.Series(array, index=index, copy=False)
        if data is None:
            return guard  # Arrow's arrays are never written to: no guard is needed
        resting = _resting(self.kind, self.backend, mask is not None)
        if resting is None:
            return guard.copy()
        self._data.share(guard, (data, array), resting[0])
        if mask is not None and self._mask is not None:
            self._mask.share(guard, (mask, array), resting[1])
        return guard

    def array(self) -> Any:
        return self._shown()[2]

    def _shown(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None, Any]:
        """Return views of the data and of the mask, and the array that pandas shows over them."""
        if self.backend == "pyarrow":
            return None, None, pd.arrays.ArrowExtensionArray(self.arrow())
        data, mask = self._data.view(), self._shown_mask()
        return data, mask, _array_maker(self.kind, self.backend)(data, mask)

    def numpy(self) -> NDArray[Any]:
        if self._moment:
            return self._data.view().view("M8[us]")
        if self._mask is not None and self._mask.peek().any():
            return objects(self.everything())
        return self._data.view()

    def parts(self) -> Parts:
        return Parts(self._data.view(), None if self._mask is None else self._mask.view())

    def arrow(self) -> pa.Array:
        data: NDArray[Any] = self._data.view()
        nulls: NDArray[Any] | None = None
        if self._moment:
            nulls = data == NULL_MOMENT
        elif self._mask is not None:
            nulls = self._mask.view()
        validity = None
        if nulls is not None and nulls.any():
            validity = pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        if self.kind == "bool":
            data = np.packbits(data, bitorder="little")
        elif self.kind == "date":
            data = (data // 86_400_000_000).astype("int32")
        of = arrow_type("float8" if self.kind == "float" else self.pg_type)
        return pa.Array.from_buffers(of, len(self), [validity, pa.py_buffer(data)])

    @staticmethod
    def joined(parts: Sequence[FixedColumn]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return the data and the mask of columns of one type, one after the other."""
        data = np.concatenate([part._data.peek() for part in parts])
        if not any(part._mask for part in parts):
            return data, None
        masks = [part._nulls(np.arange(len(part))) for part in parts]
        return data, np.concatenate(masks)

    def _nulls(self, places: Positions) -> NDArray[np.bool_]:
        if self._mask is None:
            return np.zeros(len(places), bool)
        found: NDArray[np.bool_] = self._mask.peek()[places]
        return found

    def _shown_mask(self) -> NDArray[Any] | None:
        """Return the mask for pandas, if the dtype has one."""
        if self._moment:
            return None
        if self.backend is None and (
            self.kind == "float" or self._mask is None or not self._mask.peek().any()
        ):
            return None
        if self._mask is None:
            self._mask = Dense(np.zeros(len(self), bool))
        return self._mask.view()


class ComputedFloats(FixedColumn):
    """Floats that pandas has computed, where null is NaN; the mask is computed when first needed.

    A DataFrame is shown without it, and computing it takes a fifth of the time of a million products.
    """

    def __init__(
        self, data: NDArray[Any], pg_type: str, backend: Backend, numeric: Numeric
    ) -> None:
        self._checked = False
        self._found: Dense | None = None
        super().__init__(data, None, pg_type, backend, numeric)

    @property
    def _mask(self) -> Dense | None:
        # Every step reads it before it writes (`advance`), so the mask is made from the computed data.
        if not self._checked:
            self._checked = True
            data = self._data.peek()
            if len(data) and np.isnan(data.min()):  # much faster than checking each
                self._found = Dense(np.isnan(data))
        return self._found

    @_mask.setter
    def _mask(self, mask: Dense | None) -> None:
        self._found = mask


_Maker = Callable[[NDArray[Any], NDArray[Any] | None], Any]


@lru_cache
def _array_maker(of: Kind, backend: Backend) -> _Maker:
    """Return the function that makes pandas' array over a view of the data, and of the mask."""
    if of == "timestamptz":
        return lambda data, _: pd.array(data.view("M8[us]"), copy=False).view(_UTC_DTYPE)
    if of in ("timestamp", "date"):
        return lambda data, _: pd.array(data.view("M8[us]"), copy=False)
    masked: dict[Kind, Callable[..., Any]] = {
        "int": pd.arrays.IntegerArray,
        "float": pd.arrays.FloatingArray,
        "bool": pd.arrays.BooleanArray,
    }
    return lambda data, mask: data if mask is None else masked[of](data, mask)


Counts = tuple[int, ...]


@lru_cache
def _resting(of: Kind, backend: Backend, masked: bool) -> tuple[Counts, Counts] | None:
    """Return the reference counts of a column's data and mask, and of their guard, without readers.

    They are measured: a guard is made as in `FixedColumn.series`; a frame of it must raise a count, and
    deleting the frame must restore the counts. None if this pandas shares memory in a way that the counts
    do not show: then every snapshot is a copy.
    """
    data, mask = Buffer(np.zeros(2, STORED.get(of, "object"))), Buffer(np.zeros(2, bool))
    view, nulls = data.shown(2), mask.shown(2)
    array = _array_maker(of, backend)(view, nulls if masked else None)
    index, kept = pd.RangeIndex(2), None if of in STORED else object
    guard: Any = pd.Series(array, index=index, copy=False, dtype=kept)
    data.share(guard, (view, array), ())
    if masked:
        mask.share(guard, (nulls, array), ())
    del view, nulls, array, guard
    resting = data.counts(), mask.counts()
    frame = pd.DataFrame({"x": data.guard}, index=index, copy=False)
    seen = data.counts(), mask.counts()
    del frame
    sound = seen > resting and (data.counts(), mask.counts()) == resting
    return resting if sound else None


# --- objects ----------------------------------------------------------------------------------


class ObjectColumn(ColumnStore):
    """Python objects: json, arrays, bytes, times, Decimals; and values that do not fit their type."""

    def __init__(
        self, values: Sequence[Any], pg_type: str, backend: Backend, numeric: Numeric
    ) -> None:
        super().__init__(pg_type, backend, numeric)
        self._data = Dense(objects(self._kept(values)))
        self._unfit = self._count_unfit(values)

    def __len__(self) -> int:
        return self._data.size

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    def null_count(self) -> int:
        return sum(value is None for value in self._data.peek().tolist())

    def unfit_count(self) -> int:
        return self._unfit

    def values(self, places: Positions) -> list[Any]:
        found: list[Any] = self._data.peek()[places].tolist()
        return found

    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        return unequal(self.values(places), values)

    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        places, values = differing(self, places, values)
        if not values and not step.moves:
            return self, False
        if self._unfit:
            self._unfit -= self._count_unfit(self.values(np.concatenate([places, step.gone])))
        self._unfit += self._count_unfit(values) + self._count_unfit(added)
        self._data.advance(step, places, objects(self._kept(values)), objects(self._kept(added)))
        if not self._unfit and self.kind in CLASSES:
            return column_of(self.everything(), self.pg_type, self.backend, self.numeric), True
        return self, True

    def series(self, index: pd.Index) -> pd.Series:
        guard = self._data.guard
        if isinstance(guard, pd.Series) and guard.index is index:
            return guard
        array = self.array()
        made: pd.Series = pd.Series(array, index=index, copy=False, dtype=array.dtype)
        if not isinstance(array, np.ndarray):
            return made
        resting = _resting("json", None, False)
        if resting is None:
            return made.copy()
        self._data.share(made, (array, array), resting[0])
        return made

    def array(self) -> Any:
        if self.backend == "pyarrow" and self.kind in ("time", "bytes", "decimal"):
            found = self.arrow()
            if found is not None:
                return pd.arrays.ArrowExtensionArray(found)
        return self._data.view()

    def numpy(self) -> NDArray[Any]:
        return self._data.view()

    def parts(self) -> Parts:
        return Parts(self._data.view())

    def arrow(self) -> pa.Array | None:
        if self.kind == "decimal":
            return exact_arrow(self.everything())
        wanted = arrow_type(self.pg_type)
        if self._unfit or (wanted is None and self.kind != "array"):
            return None
        try:
            made = pa.array(self.everything(), wanted)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
            return None
        return None if _has_empty_struct(made.type) else made

    def _kept(self, values: Sequence[Any]) -> Sequence[Any]:
        return [freeze(value) for value in values] if self.kind in ("json", "array") else values

    def _count_unfit(self, values: Sequence[Any]) -> int:
        """Return how many of ``values`` do not fit the column's type."""
        if self.kind not in CLASSES:
            return 0
        return sum(
            value is not None and not fits(self.pg_type, value, numeric=self.numeric)
            for value in values
        )


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Return whether it contains a struct without fields, as of an empty object, which Parquet rejects."""
    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_has_empty_struct(kind.field(n).type) for n in range(kind.num_fields))


# --- text ----------------------------------------------------------------------

CHUNK: Final = 512
_POOL: Final = pa.system_memory_pool()
"""Arrow's own pool returns freed memory at once, and then a new chunk pays for its pages: 40 µs against
10."""

_MANY: Final = 2
"""With more changes per chunk than this, all chunks are rebuilt in one pass."""


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
        """Cut chunks that are much longer than a chunk should be."""
        if len(self._lengths) and int(self._lengths.max()) > 2 * CHUNK:
            self._chunks = [piece for chunk in self._chunks for piece in _cut(chunk)]
            self._measure(np.fromiter(map(len, self._chunks), "int64", len(self._chunks)))

    def _measure(self, lengths: Positions) -> None:
        """Store the chunks' lengths, to avoid computing them again: a thousand calls take long."""
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

    def null_count(self) -> int:
        return int(self.chunked().null_count)

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
        if self.rebuilds(len(places) + step.breaks):
            if not self._renew_changed(step, places, values, added):
                return self, False
            self._array = None
            return self, True
        places, values = differing(self, places, values)
        if not values and not step.moves:
            return self, False
        new, more = pa.array(values, pa.large_string()), pa.array(added, pa.large_string())
        self._array = None
        if values or step.breaks:
            self._shorten()
            self._replace(places, new, step.gone)
        if step.at is not None:
            self._insert(step.at, more)
        elif added:
            self._append(more)
        if len(self._chunks) > 16 + 4 * len(self) // CHUNK:
            self._renew(pa.concat_arrays(self._chunks))
        return self, True

    def rebuilds(self, changes: int) -> bool:
        """Return whether a step of that many updates and deletions rebuilds all chunks, in Arrow's C++."""
        return changes > _MANY * (1 + len(self) // CHUNK)

    def series(self, index: pd.Index) -> pd.Series:
        # A new array per snapshot: a user may have written to an earlier one through `.array`.
        return pd.Series(self.array(), index=index, copy=False)

    def array(self) -> Any:
        if self.backend == "pyarrow":
            return pd.arrays.ArrowExtensionArray(self.chunked())
        return dtype("text", self.backend).__from_arrow__(self.chunked())

    def numpy(self) -> NDArray[Any]:
        return objects(self.everything())

    def parts(self) -> Parts:
        return Parts(self.chunked())

    def arrow(self) -> pa.ChunkedArray:
        return self.chunked()

    def chunked(self) -> pa.ChunkedArray:
        """Return the chunks as one array."""
        if self._array is None:
            # At least one chunk: pandas' merge fails without any.
            chunks = self._chunks or [pa.array([], pa.large_string())]
            self._array = pa.chunked_array(chunks, pa.large_string())
        return self._array

    def everything(self) -> list[Any]:
        found: list[Any] = self.chunked().to_pylist()
        return found

    def _renew_changed(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> bool:
        """Rebuild all chunks, in one pass, if anything has changed."""
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
        kept = slice(step.kept) if step.at is None else step.positions_after(step.staying)
        order[kept] = step.staying
        order[step.positions_after(places[differs])] = len(self) + np.flatnonzero(differs)
        order[step.coming] = np.arange(len(both) - len(more), len(both))
        self._renew(pc.take(both, pa.array(order), boundscheck=False))
        return True

    def _replace(self, places: Positions, new: pa.Array, gone: Positions) -> None:
        """Rebuild the chunks that hold one of ``places`` or of ``gone``."""
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

    def _insert(self, at: Positions, added: pa.Array) -> None:
        """Insert rows, each with ``at`` rows ahead of it."""
        owners = np.minimum(
            np.searchsorted(self._starts, at, "right") - 1, max(0, len(self._chunks) - 1)
        )
        chunks = self._chunks or [added[:0]]
        inside = (at - self._starts[owners]).tolist()
        cuts = [*np.flatnonzero(np.diff(owners, prepend=-1)).tolist(), len(owners)]
        for first, last in reversed([*pairwise(cuts)]):
            owner, pieces, begun = int(owners[first]), [], 0
            for row in range(first, last):
                pieces += [
                    chunks[owner].slice(begun, inside[row] - begun),
                    added.slice(row, 1),
                ]
                begun = inside[row]
            whole = pa.concat_arrays([*pieces, chunks[owner].slice(begun)], memory_pool=_POOL)
            chunks[owner : owner + 1] = [whole] if len(whole) <= 2 * CHUNK else _cut(whole)
        self._chunks = chunks
        self._measure(np.fromiter(map(len, chunks), "int64", len(chunks)))

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
    """Return ``chunk`` with ``changes``: places in it, each with a place in ``new``, or -1 to remove it."""
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
