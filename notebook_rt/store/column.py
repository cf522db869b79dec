"""The interface of every column of a table, however its values are stored (``columns.py``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.model.types import Backend, Kind, Numeric, kind
from notebook_rt.store.dense import Positions, Step


class Parts(msgspec.Struct, frozen=True, eq=False):
    """The contents of a column, in its own layout; they never change."""

    data: NDArray[Any] | pa.ChunkedArray
    """Numbers, booleans, timestamps in microseconds; objects; Arrow's chunks of text."""
    mask: NDArray[np.bool_] | None = None
    """Which of the numbers are null, if any is."""

    def own(self) -> Parts:
        """Return a writable copy, with text in the type of a table's column."""
        if isinstance(self.data, pa.ChunkedArray):  # Arrow's chunks never change
            return Parts(self.data.cast(pa.large_string()))
        return Parts(self.data.copy(), None if self.mask is None else self.mask.copy())


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
        """Return the typed values at ``places``."""

    @abstractmethod
    def differs(self, places: Positions, values: Sequence[Any]) -> NDArray[np.bool_]:
        """Return where ``values`` differ from the values at ``places``."""

    @abstractmethod
    def advance(
        self, step: Step, places: Positions, values: Sequence[Any], added: Sequence[Any]
    ) -> tuple[ColumnStore, bool]:
        """Apply a step: set ``values`` at ``places`` (before it), remove rows, append ``added``.

        Return the column that replaces this one, and whether anything has changed.
        """

    @abstractmethod
    def null_count(self) -> int:
        """Return the number of null values."""

    def unfit_count(self) -> int:
        """Return the number of values that do not fit the column's type."""
        return 0

    def value(self, place: int) -> Any:
        """Return the typed value at one place."""
        return self.values(np.array([place]))[0]

    @abstractmethod
    def series(self, index: pd.Index) -> pd.Series:
        """Return the column over ``index`` for a snapshot; the earlier one while nothing has changed."""

    @abstractmethod
    def array(self) -> Any:
        """Return the column as the array of a new index, over a read-only view."""

    @abstractmethod
    def numpy(self) -> NDArray[Any]:
        """Return the column for vectorised work: see ``Table.arrays``."""

    @abstractmethod
    def arrow(self) -> pa.Array | pa.ChunkedArray | None:
        """Return the column as Arrow has it, sharing memory if the layout allows; None if not possible."""

    @abstractmethod
    def parts(self) -> Parts:
        """Return the current contents, without a copy; `columns.of_parts` makes a column from them."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory in use."""

    def everything(self) -> list[Any]:
        """Return every typed value."""
        return self.values(np.arange(len(self)))


def differing(
    column: ColumnStore, places: Positions, values: Sequence[Any]
) -> tuple[Positions, Sequence[Any]]:
    """Return the ``values`` that differ from those at ``places``, with their places."""
    if not len(places):
        return places, values
    differs = column.differs(places, values)
    if differs.all():
        return places, values
    return places[differs], [values[at] for at in np.flatnonzero(differs).tolist()]


def family(pg_type: str, numeric: Numeric) -> Kind:
    """Return the kind of ``pg_type``, where a numeric that is not exact is a float."""
    found = kind(pg_type)
    return "float" if found == "decimal" and numeric == "float" else found
