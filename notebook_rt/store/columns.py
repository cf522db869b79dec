"""The columns of a table: typed values in, pandas arrays out, without a copy on a read (promise 12).

There are three ways to keep a column, one interface for all:

* `FixedColumn`: numbers, truth and moments, in a ``Dense`` of their own numpy dtype, with another one for
  the mask as soon as there is a null;
* `TextColumn` (``store.text``): Arrow chunks of which a step replaces the ones it touches;
* `ObjectColumn`: everything that numpy has no number for, and for a time any other column that
  holds a value which does not fit its type (``store.types``).

A step may turn one into another, so `advance` returns the column that takes its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from types import NoneType
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.store.arrays import exact_arrow, objects
from notebook_rt.store.dense import Buffer, Dense, Positions, Step
from notebook_rt.store.encode import CLASSES, NULL_MOMENT, STORED, encode, moments, unequal
from notebook_rt.store.frozen import freeze
from notebook_rt.store.types import Backend, Kind, Numeric, arrow_type, fits, kind

_UTC_DTYPE: Final = pd.DatetimeTZDtype("us", "UTC")
_NOTHING: Final = np.empty(0, "int64")


class ColumnStore(ABC):
    """One column's values, in the table's order."""

    def __init__(self, pg_type: str, backend: Backend, numeric: Numeric) -> None:
        self.pg_type = pg_type
        self.backend = backend
        self.numeric = numeric
        self.kind: Kind = family(pg_type, numeric)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def values(self, places: Positions) -> list[Any]:
        """The typed values at ``places``."""

    @abstractmethod
    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        """Where ``values`` are other than what is at ``places``."""

    @abstractmethod
    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        """Take a step: set ``values`` at ``places`` (before it), let rows go, append ``added``.

        Returns the column that takes this one's place, and whether anything is other than before.
        """

    def value(self, place: int) -> Any:
        """The typed value at one place."""
        return self.values(np.array([place]))[0]

    @abstractmethod
    def series(self, index: pd.Index) -> pd.Series:
        """The column over ``index`` for a snapshot; an earlier one's while nothing changed."""

    @abstractmethod
    def array(self) -> Any:
        """The column as the array of a new index, over a read-only view."""

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """The column for vectorised work: see ``Table.arrays``."""

    @abstractmethod
    def arrow(self) -> pa.Array | pa.ChunkedArray | None:
        """The column as Arrow has it, sharing memory where the layout allows; None if it cannot."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory in use."""

    def pick(self, places: Positions) -> ColumnStore:
        """A column of its own of the values at ``places``."""
        return column_of(self.values(places), self.pg_type, self.backend, self.numeric)

    def everything(self) -> list[Any]:
        """Every typed value."""
        return self.values(np.arange(len(self)))


def differing(
    column: ColumnStore, places: Positions, values: Sequence[Any]
) -> tuple[Positions, Sequence[Any]]:
    """The ``values`` that are other than what is at ``places``, and where."""
    if not len(places):
        return places, values
    differs = column.differs(places, values)
    if differs.all():
        return places, values
    return places[differs], [values[at] for at in np.flatnonzero(differs).tolist()]


def family(pg_type: str, numeric: Numeric) -> Kind:
    """The kind of ``pg_type``, where a numeric that is not exact is a float."""
    found = kind(pg_type)
    return "float" if found == "decimal" and numeric == "float" else found


def column_of(
    values: Sequence[Any], pg_type: str, backend: Backend, numeric: Numeric
) -> ColumnStore:
    """The store that fits ``values``."""
    from notebook_rt.store.text import TextColumn

    found = family(pg_type, numeric)
    if found == "text" and set(map(type, values)) <= {str, NoneType}:
        with suppress(UnicodeEncodeError):  # half of a surrogate pair, which Arrow has not
            return TextColumn(pa.array(values, pa.large_string()), pg_type, backend, numeric)
    encoded = encode(values, found) if found in STORED else None
    if encoded is not None:
        return FixedColumn(*encoded, pg_type, backend, numeric)
    return ObjectColumn(values, pg_type, backend, numeric)


# --- fixed width ------------------------------------------------------------------------------


class FixedColumn(ColumnStore):
    """Numbers, truth and moments."""

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

    def pick(self, places: Positions) -> ColumnStore:
        mask = None if self._mask is None else self._mask.peek()[places]
        data = self._data.peek()[places]
        return FixedColumn(data, mask, self.pg_type, self.backend, self.numeric)

    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        encoded = encode(values, self.kind)
        if encoded is None:  # a value that would not fit says nothing of those beside it
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
            return guard  # Arrow's arrays are never written to: there is nothing to guard
        resting = _resting(self.kind, self.backend, mask is not None)
        if resting is None:
            return guard.copy()
        self._data.lend(guard, (data, array), resting[0])
        if mask is not None and self._mask is not None:
            self._mask.lend(guard, (mask, array), resting[1])
        return guard

    def array(self) -> Any:
        return self._shown()[2]

    def _shown(self) -> tuple[NDArray[Any] | None, NDArray[Any] | None, Any]:
        """Views of the data and of the mask, and the array that pandas shows over them."""
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
        """The data and the mask of columns of one type, one after the other."""
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
        """The mask for pandas, where the dtype has one."""
        if self._moment:
            return None
        if self.backend is None and (
            self.kind == "float" or self._mask is None or not self._mask.peek().any()
        ):
            return None
        if self._mask is None:
            self._mask = Dense(np.zeros(len(self), bool))
        return self._mask.view()


_Maker = Callable[[NDArray[Any], NDArray[Any] | None], Any]


@lru_cache
def _array_maker(of: Kind, backend: Backend) -> _Maker:
    """The function that makes pandas' array over a view of the data, and of the mask."""
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
    """The reference counts of a column's data and mask, and of their guard, when nobody reads them.

    Found by trying: a guard is made as `FixedColumn.series` makes one, and a frame of it must be
    seen to raise a count, and dropping it to bring the counts back. None if this pandas shares
    memory in a way that the counts do not show: then every snapshot is a copy.
    """
    data, mask = Buffer(np.zeros(2, STORED.get(of, "object"))), Buffer(np.zeros(2, bool))
    view, nulls = data.shown(2), mask.shown(2)
    array = _array_maker(of, backend)(view, nulls if masked else None)
    index, kept = pd.RangeIndex(2), None if of in STORED else object
    guard: Any = pd.Series(array, index=index, copy=False, dtype=kept)
    data.lend(guard, (view, array), ())
    if masked:
        mask.lend(guard, (nulls, array), ())
    del view, nulls, array, guard
    resting = data.counts(), mask.counts()
    frame = pd.DataFrame({"x": data.guard}, index=index, copy=False)
    seen = data.counts(), mask.counts()
    del frame
    sound = seen > resting and (data.counts(), mask.counts()) == resting
    return resting if sound else None


# --- objects ----------------------------------------------------------------------------------


class ObjectColumn(ColumnStore):
    """Python objects: json, arrays, bytes, times, Decimals; and what does not fit its type."""

    def __init__(
        self, values: Sequence[Any], pg_type: str, backend: Backend, numeric: Numeric
    ) -> None:
        super().__init__(pg_type, backend, numeric)
        self._data = Dense(objects(self._kept(values)))
        self._odd = self._count_odd(values)

    def __len__(self) -> int:
        return self._data.size

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

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
        if self._odd:
            self._odd -= self._count_odd(self.values(np.concatenate([places, step.gone])))
        self._odd += self._count_odd(values) + self._count_odd(added)
        self._data.advance(step, places, objects(self._kept(values)), objects(self._kept(added)))
        if not self._odd and self.kind in CLASSES:
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
        self._data.lend(made, (array, array), resting[0])
        return made

    def array(self) -> Any:
        if self.backend == "pyarrow" and self.kind in ("time", "bytes", "decimal"):
            found = self.arrow()
            if found is not None:
                return pd.arrays.ArrowExtensionArray(found)
        return self._data.view()

    def numpy(self) -> NDArray[Any]:
        return self._data.view()

    def arrow(self) -> pa.Array | None:
        if self.kind == "decimal":
            return exact_arrow(self.everything())
        wanted = arrow_type(self.pg_type)
        if self._odd or (wanted is None and self.kind != "array"):
            return None
        try:
            made = pa.array(self.everything(), wanted)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            return None
        return None if _has_empty_struct(made.type) else made

    def _kept(self, values: Sequence[Any]) -> Sequence[Any]:
        return [freeze(value) for value in values] if self.kind in ("json", "array") else values

    def _count_odd(self, values: Sequence[Any]) -> int:
        """How many of ``values`` do not fit the column's type."""
        if self.kind not in CLASSES:
            return 0
        return sum(
            value is not None and not fits(self.pg_type, value, numeric=self.numeric)
            for value in values
        )


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Whether a struct without fields is in it, which an empty object is and no Parquet file takes."""
    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_has_empty_struct(kind.field(n).type) for n in range(kind.num_fields))
