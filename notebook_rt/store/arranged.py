"""A derived table as it is shown, with its index and with pandas' dtypes.

From a table in the order of its hidden column `RANK`, and the dtypes that pandas' expression would return,
it makes the view. Where pandas' dtype for a column differs from the table's own, pandas' is used: rows
filtered from a nullable column stay nullable, even without a null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_object_dtype

from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Key
from notebook_rt.store.arrays import objects
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.store.touched import HIDDEN_PREFIX, RANK


class Arranged(Ordered):
    """The rows of ``table``, which is in the order of its ranks.

    ``index`` names the columns that are shown as the index: by default the key; if empty, a RangeIndex.
    """

    def __init__(self, table: Table, index: Sequence[str] | None = None) -> None:
        hidden = [name for name in table.schema.names if name.startswith(HIDDEN_PREFIX)]
        super().__init__(table, (OrderBy(RANK),), None, hidden)
        self.index = table.schema.key if index is None else tuple(index)
        self.dtypes: Mapping[str, Any] = {}
        """The dtype of each column and each level of the index, by name."""
        self.blank: Mapping[str, str] = {}
        """Maps columns that are empty without a partner to the hidden column that marks such rows."""
        self._cast: Mapping[str, Any] | None = None

    def snapshot(self) -> pd.DataFrame:
        with self.table.lock:
            if self._cast is not self.dtypes:
                self._cast, self._snapshot = self.dtypes, None
            return super().snapshot()

    def to_arrow(self) -> pa.Table:
        with self.table.lock:
            whole = self.table.to_arrow()
            whole = whole.drop_columns(
                [name for name in self.carried if name in whole.column_names]
            )
            return whole

    def __len__(self) -> int:
        return len(self.table)

    def keys(self) -> list[Key]:
        return list(self.table.keys())

    def _places(self) -> np.ndarray:
        return np.arange(len(self.table))

    def _shown(self, shown: pd.DataFrame) -> pd.DataFrame:
        changed = {
            name: self._as_pandas(name, shown[name], self.dtypes[name])
            for name, dtype in zip(self.table.shown_names, shown.dtypes, strict=True)
            if name in self.dtypes and self._differs(name, dtype)
        }
        if changed:
            shown = shown.assign(**changed)
        if self.index == self.table.schema.key:
            index = self._index(shown.index)
        elif not self.index:
            index = pd.RangeIndex(len(shown))
        else:
            of_key = {*self.index} & {*self.table.schema.key}
            levels = [
                self._level(name, shown.index).array if name in of_key else shown[name].array
                for name in self.index
            ]
            shown = shown.drop(columns=[name for name in self.index if name not in of_key])
            if len(levels) == 1:
                index = pd.Index(levels[0], dtype=levels[0].dtype, name=self.index[0])
            else:
                index = pd.MultiIndex.from_arrays(levels, names=self.index)
        if index is not shown.index:
            shown = shown.copy(deep=False)
            shown.index = index
        return shown

    def _differs(self, name: str, dtype: Any) -> bool:
        wanted = self.dtypes[name]
        return dtype != wanted or (name in self.blank and is_object_dtype(wanted))

    def _index(self, index: pd.Index) -> pd.Index:
        levels = [self._level(name, index) for name in self.table.schema.key]
        if isinstance(index, pd.MultiIndex):
            return pd.MultiIndex.from_arrays(levels, names=index.names)
        return levels[0]

    def _level(self, name: str, index: pd.Index) -> pd.Index:
        """Return a column of the key as an index level, with its dtype; ``index`` contains it."""
        wanted, level = self.dtypes.get(name), index
        if isinstance(index, pd.MultiIndex):
            level = index.get_level_values(name)
        return level if wanted is None or level.dtype == wanted else level.astype(wanted)

    def _as_pandas(self, name: str, column: pd.Series, wanted: Any) -> pd.Series:
        """Return ``column`` with the dtype that pandas gives it; if that is object, its typed values."""
        if not is_object_dtype(wanted):
            return as_dtype(column, wanted)
        values = self.table.columns()[
            name
        ].everything()  # not `arrays`: its timestamps have no time zone
        found = objects(self._blanked(name, values))
        return pd.Series(found, column.index, dtype=object, copy=False)

    def _blanked(self, name: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return values with NaN, as in pandas, for a missing partner."""
        if name not in self.blank:
            return values
        says = self.blank[name]
        alone = self.table.arrays([says])[says].tolist()
        return [np.nan if one else value for one, value in zip(alone, values, strict=True)]


def as_dtype(column: pd.Series, wanted: Any) -> pd.Series:
    """Return a table's own column with the dtype that pandas gives it, which is not object."""
    if column.dtype == "Int64" and wanted == np.dtype("float64"):
        return pd.Series(column.to_numpy("float64", na_value=np.nan), column.index, copy=False)
    return column.astype(wanted)
