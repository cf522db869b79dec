"""An operator's input: a table, and its changes since the last read.

In: a table of the store, or a view of one. Out: its columns, ranks and dtypes as a whole, in the order of the
view, and `Delta`s if the changes suffice. Hold the table's lock while using it.

Each row has a rank, an int that is unique in the table at that time; ranks increase in the
table's order. For a table they are the row numbers, for a derived one its column `RANK`. A view with its own
order, or limited to the first rows, has no lasting ranks: it is read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_object_dtype

from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import Column, Schema, dtype, fits, key_part
from notebook_rt.model.values import INT64
from notebook_rt.store.arranged import Arranged, as_dtype
from notebook_rt.store.arrays import objects
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import column_of, shared, take
from notebook_rt.store.dense import Positions
from notebook_rt.store.encode import CLASSES
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.store.touched import HIDDEN_PREFIX, Delta


class Source:
    """See the module docstring."""

    def __init__(self, table: Table, view: Ordered | None = None) -> None:
        self.table = table
        self.view = view
        self.lasting = view is None or isinstance(view, Arranged)
        """Whether the ranks last, so that changes can be followed."""
        self._follower = table.follow()
        self._version = -1
        self._census: Census | None = None

    @property
    def schema(self) -> Schema:
        """The shown columns and the key."""
        schema, carried = self.table.schema, frozenset[str]()
        if self.view is not None:
            carried = self.view.carried
        if not carried:
            return schema
        return schema.project([name for name in schema.names if name not in carried])

    @property
    def held(self) -> tuple[str, ...]:
        """Return the key of a row and its index value, which a result keeps beside the columns.

        They differ if the key is hidden, as for a join with the keys of both sides.
        """
        return tuple(dict.fromkeys((*self.table.schema.key, *self.levels)))

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the index; empty for a RangeIndex."""
        return self.view.index if isinstance(self.view, Arranged) else self.table.schema.key

    @property
    def moved(self) -> bool:
        """Whether the table may have changed since the last call of `deltas`."""
        if not self.lasting:
            return self._version != self.table.version
        return bool(self._follower) or self._version < 0

    def deltas(self) -> list[Delta] | None:
        """Return the changes since the last call; None: read the whole table."""
        if not self.lasting:
            changed = self._version != self.table.version
            self._version, self._census = self.table.version, None
            return None if changed else []
        found = self.table.take_touched(self._follower)
        if found is None or self._version < 0:
            self._version, self._census = 0, None
            return None
        if self._census is not None:
            self._census.count(found)
        return found

    def forget(self) -> None:
        """Let the next call of `deltas` read the whole table."""
        self._follower.reset()
        self._version = -1

    # The whole

    @property
    def frame(self) -> pd.DataFrame:
        """Return the snapshot that the user sees."""
        return self.table.snapshot() if self.view is None else self.view.snapshot()

    def series(self, name: str) -> pd.Series:
        """Return a column as the user sees it, or an index level as a column."""
        frame = self.frame
        if name in self.levels:
            level = frame.index.get_level_values(name)
            return pd.Series(level.array, frame.index, name=name, copy=False)
        return frame[name]

    def arrays(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return columns as `Table.arrays` does."""
        found = self.table.arrays(names)
        places = self._places()
        return found if places is None else {name: one[places] for name, one in found.items()}

    def ranks(self, positions: Positions | None = None) -> Positions:
        """Return the ranks of all rows or of these positions; without lasting ranks, the positions."""
        if not self.lasting:
            return np.arange(len(self.frame)) if positions is None else positions
        return self.table.ranks(positions)

    def places(self, ranks: Positions) -> Positions:
        """Return the positions of the rows with these ranks in the table."""
        return self.table.numbered(ranks)

    def rows(self, positions: Positions) -> Positions:
        """Return the table positions of these view positions; -1 is kept."""
        places = self._places()
        if places is None or not len(places):
            return positions
        return np.where(positions < 0, -1, places[positions])

    def picked(self, rows: Positions, names: Iterable[str]) -> dict[str, ColumnStore]:
        """Return new columns of the rows at these positions of the view."""
        places = self._places()
        rows = rows if places is None else places[rows]
        columns = self.table.columns()
        return {name: take(columns[name], rows) for name in names}

    def whole(self, names: Iterable[str]) -> dict[str, ColumnStore]:
        """Return new columns of all rows."""
        places = self._places()
        if places is not None:
            return self.picked(np.arange(len(places)), names)
        columns = self.table.columns()
        return {name: shared(columns[name]) for name in names}

    def __len__(self) -> int:
        return len(self.table) if self.view is None else len(self.view)

    # Some rows

    def row(self, key: Key) -> dict[str, Any] | None:
        """Return the row shown for a key; None without one."""
        return self.table.get(key) if self.view is None else self.view.get(key)

    def of_ranks(self, ranks: Positions) -> dict[int, tuple[Key, dict[str, Any]]]:
        """Return the rows with these ranks, each with its key."""
        if not len(ranks):
            return {}
        schema = self.schema
        picked = self.picked(np.searchsorted(self.ranks(), ranks), schema.names)
        values = zip(*(picked[name].everything() for name in schema.names), strict=True)
        rows = [dict(zip(schema.names, one, strict=True)) for one in values]
        return {
            rank: (schema.key_of(row), row) for rank, row in zip(ranks.tolist(), rows, strict=True)
        }

    def framed(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return typed rows as a DataFrame with the dtypes of `frame`."""
        dtypes, names = self.dtypes(), self.levels
        arrays = {
            column.name: self._array(column, [row[column.name] for row in rows], dtypes)
            for column in self.schema.columns
            if not column.name.startswith(HIDDEN_PREFIX)
        }
        levels = [arrays.pop(name) for name in names]
        if len(levels) == 1:
            index = pd.Index(levels[0], name=names[0], dtype=levels[0].dtype)
        else:
            index = pd.MultiIndex.from_arrays(levels, names=list(names))
        frame = pd.DataFrame(dict(enumerate(arrays.values())), index=index)
        frame.columns = pd.Index(list(arrays))
        return frame

    def _array(self, column: Column, values: Sequence[Any], dtypes: Mapping[str, Any]) -> Any:
        wanted = dtypes[column.name]
        if is_object_dtype(wanted):
            key = column.name in self.levels
            return objects([key_part(value) for value in values] if key else values)
        backend, numeric = self.table.dtype_backend, self.schema.numeric
        array = column_of(values, column.pg_type, backend, numeric).array()
        return array if array.dtype == wanted else as_dtype(pd.Series(array), wanted).array

    def _places(self) -> Positions | None:
        """The table positions of the view's rows; None: the table in its own order."""
        return None if self.lasting or self.view is None else self.view.positions()

    # dtypes

    def dtypes(self) -> Mapping[str, Any]:
        """Return the dtype of each column and index level, as the user sees them."""
        if isinstance(self.view, Arranged):
            return self.view.dtypes
        if self.view is not None:
            return frame_dtypes(self.frame)
        if self._census is None:
            self._census = Census(self)
        return self._census.dtypes()


def frame_dtypes(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the dtypes of a DataFrame by name, including its index."""
    index = frame.index
    levels = index.levels if isinstance(index, pd.MultiIndex) else [index]
    named = [*zip(index.names, (level.dtype for level in levels), strict=True)]
    named += frame.dtypes.items()
    return {str(name): dtype for name, dtype in named}


def is_plain(value: Any, known: type) -> bool:
    """Return whether a value fits a type of this class by a quick check; otherwise `fits` decides."""
    if value.__class__ is not known:
        return False
    if isinstance(value, str):
        return value.isascii()
    return known is not int or value in INT64


class Census:
    """The number of values of each column that are null or do not fit its type, which decides the dtype.

    Updated with the changes, so that the dtypes are known without a step of the columns.
    """

    def __init__(self, source: Source) -> None:
        schema, backend = source.schema, source.table.dtype_backend
        self._schema, self._backend = schema, backend
        self._frame: Callable[[], pd.DataFrame] = lambda: source.frame
        self._nulls: dict[str, int] = {}
        self._unfit: dict[str, int] = {}
        self._types: dict[str, tuple[type, str]] = {}
        """The class of values that fit a column, and its type."""
        self._varying: list[str] = []
        """Columns whose dtype depends on other properties and is looked up."""
        self._known: dict[str, Any] | None = None
        columns = source.table.columns()
        for name in schema.names:
            column = columns[name]
            known = CLASSES.get(column.kind)
            if known is None:
                if backend == "pyarrow":
                    self._varying.append(name)
                continue
            self._types[name] = known, column.pg_type
            self._nulls[name] = column.null_count()
            self._unfit[name] = column.unfit_count()

    def count(self, deltas: Iterable[Delta]) -> None:
        """Count changes."""
        for delta in deltas:
            old = None if delta.old is None else delta.old.row
            new = None if delta.new is None else delta.new.row
            if old is None:
                self._note(new or {}, {}, 1)
            elif new is None:
                self._note(old, {}, -1)
            else:
                self._note(old, new, -1)
                self._note(new, old, 1)

    def _note(self, row: Row, other: Row, sign: int) -> None:
        """Count the values of a row that differ from another one."""
        for name, (known, pg_type) in self._types.items():
            value = row[name]
            if other and value is other[name]:
                continue
            if value is None:
                self._add(self._nulls, name, sign)
            elif not is_plain(value, known) and not fits(
                pg_type, value, numeric=self._schema.numeric
            ):
                self._add(self._unfit, name, sign)

    def _add(self, counts: dict[str, int], name: str, sign: int) -> None:
        before = counts[name]
        counts[name] = before + sign
        if not before or not counts[name]:
            self._known = None

    def dtypes(self) -> Mapping[str, Any]:
        """Return the current dtypes; the same object until one may have changed."""
        if self._known is None or self._varying:
            schema = self._schema
            seen = frame_dtypes(self._frame()) if self._varying else {}
            found = {
                name: seen[name]
                if name in seen and name in self._varying
                else self._of(name, pg_type)
                for name, pg_type in schema.types.items()
            }
            if self._known != found:
                self._known = found
        assert self._known is not None  # just found
        return self._known

    def _of(self, name: str, pg_type: str) -> Any:
        if self._unfit.get(name):
            return np.dtype(object)
        nulls = bool(self._nulls.get(name))
        return dtype(pg_type, self._backend, nulls=nulls, numeric=self._schema.numeric)
