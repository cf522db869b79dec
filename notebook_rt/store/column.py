"""What every column of a table can do, whatever holds its values (``columns.py``)."""

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
    """What a column holds, in the layout in which it holds it; it never changes."""

    data: NDArray[Any] | pa.ChunkedArray
    """Numbers, truth, moments in microseconds; objects; Arrow's chunks of text."""
    mask: NDArray[np.bool_] | None = None
    """Which of the numbers are null, where one is."""

    def own(self) -> Parts:
        """A copy that may be written to, with text as a table's column has it."""
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

    @abstractmethod
    def null_count(self) -> int:
        """How many values are null."""

    def odd_count(self) -> int:
        """How many values do not fit the column's type."""
        return 0

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

    @abstractmethod
    def parts(self) -> Parts:
        """What it holds as it is now, without a copy; `columns.of_parts` makes a column of it."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory in use."""

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
