"""A table in the order of some columns, limited to the first rows (promise 8).

It returns a table's keys and snapshot in the order of the server's ``order by``: nulls last ascending and
first descending unless specified otherwise, with the key breaking ties. Where the server's order cannot
be computed here (text has a collation, an enum its declaration), the server is asked, and the caller
passes the keys in the server's order to `Ordered.rank`. Rows are sorted by the terms before the first
such one. Among rows that are equal in these, the shown rows stay, each at the position that the server
last reported; rows without a position follow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from notebook_rt.model.order import OrderBy, known_here, nulls_first
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import dtype, kind
from notebook_rt.store.columns import column_of
from notebook_rt.store.table import Table


class Ordered:
    """The first ``limit`` rows of ``table`` in the order of ``by``; follows the table.

    ``carried`` are columns that the table has only for the order: they are not shown.
    """

    def __init__(
        self,
        table: Table,
        by: Sequence[OrderBy],
        limit: int | None = None,
        carried: Collection[str] = (),
    ) -> None:
        self.table = table
        self.by = tuple(by)
        self.limit = limit
        self.carried = frozenset(carried)
        terms = (*self.by, *(OrderBy(name) for name in table.schema.key))
        self.known = known_here(terms, table.schema.types)
        """The first terms, by which rows are sorted here."""

        self.sortable = len(self.known) == len(terms)
        """Whether the order is known here; if not, `rank` must be called."""

        self._ranked: dict[Key, int] = {}
        self._staying: frozenset[Key] = frozenset()
        """The rows that were last shown, since the server reported its order."""

        self._order: tuple[int, np.ndarray] | None = None
        self._shown_keys: tuple[np.ndarray, frozenset[Key]] | None = None
        """The places for which the keys were last collected, and these keys."""

        self._snapshot: tuple[pd.DataFrame, pd.DataFrame] | None = None

    def __len__(self) -> int:
        with self.table.lock:
            return len(self._places())

    def keys(self) -> list[Key]:
        """Return the keys of the view, in order."""
        with self.table.lock:
            keys = list(self.table.keys())
            return [keys[place] for place in self._places()]

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return what the view shows under a typed ``key``; None: no row, or one outside ``limit``."""
        with self.table.lock:
            row = None if self.beyond([key]) else self.table.get(key)
            return None if row is None else self.visible(row)

    def beyond(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of ``keys`` that the table has, but outside ``limit``."""
        with self.table.lock:
            if self.limit is None or len(self.table) <= self.limit:
                return []
            places = self._places()
            if self._shown_keys is None or self._shown_keys[0] is not places:
                self._shown_keys = (places, frozenset(self.keys()))
            shown = self._shown_keys[1]
            return [key for key in keys if key not in shown and key in self.table]

    def snapshot(self) -> pd.DataFrame:
        """Return the view as a DataFrame that the user owns; the same object until something changes."""
        with self.table.lock:
            whole = self.table.snapshot()
            if self._snapshot is None or self._snapshot[0] is not whole:
                self._snapshot = (whole, self._shown(whole))
            return self._snapshot[1]

    def visible(self, row: Row) -> dict[str, Any]:
        """Return the shown part of a row."""
        return {name: value for name, value in row.items() if name not in self.carried}

    def _shown(self, whole: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the view; their dtypes do not depend on rows beyond ``limit``."""
        table, places = self.table, self._places()
        shown = whole.take(places)
        if self.carried:
            shown = shown.drop(columns=list(self.carried))
        if len(places) == len(whole):
            return shown
        schema, backend = table.schema, table.dtype_backend
        for name in shown.columns:
            pg_type, numeric = schema.types[name], schema.numeric
            if shown[name].dtype != dtype(pg_type, backend, numeric=numeric):
                values = table.arrays([name])[name][places].tolist()
                shown[name] = column_of(values, pg_type, backend, numeric).series(shown.index)
        return shown

    def to_arrow(self) -> pa.Table:
        """Return the view as `Table.to_arrow` returns the table; its rows are copied into the order."""
        with self.table.lock:
            return self.table.to_arrow().drop_columns(list(self.carried)).take(self._places())

    def positions(self) -> np.ndarray:
        """Return the positions in the table of the rows of the view, in order."""
        with self.table.lock:
            return self._places()

    def rank(self, keys: Sequence[Key]) -> None:
        """Set the server's order of ``keys``, for an order that cannot be computed here."""
        with self.table.lock:
            self._ranked = {key: place for place, key in enumerate(keys)}
            self._staying = frozenset()
            self._order = self._snapshot = None

    @property
    def ranked(self) -> list[Key]:
        """The keys in the order last set by `rank`; empty if it is known here."""
        return list(self._ranked)

    @property
    def ranking(self) -> Mapping[Key, int]:
        """Each key's position in that order; a new object after each `rank`."""
        return self._ranked

    def _places(self) -> np.ndarray:
        state = self._state()
        if self._order is None or self._order[0] != state:
            places = self._sorted([] if self.sortable else self._ranks())[: self.limit]
            if self.limit is not None and not self.sortable:
                keys = list(self.table.keys())
                self._staying = frozenset([keys[place] for place in places])
            self._order = (state, places)
        return self._order[1]

    def _state(self) -> int:
        """Return a number that changes when the order may have changed."""
        return self.table.version

    def _ranks(self) -> list[np.ndarray]:
        """Return the sort keys for rows that are equal in everything known here."""
        keys, last = list(self.table.keys()), len(self._ranked)
        ranks = np.array([self._ranked.get(key, last) for key in keys], "i8")
        if not self._staying:
            return [ranks]
        return [np.array([key not in self._staying for key in keys], bool), ranks]

    def _sorted(self, ranks: Sequence[np.ndarray]) -> np.ndarray:
        columns = self.table.arrays([term.column for term in self.known])
        keys: list[np.ndarray] = []
        for term in self.known:
            nulls, nans, codes = _codes(columns[term.column], self.table.schema.types[term.column])
            keys += [nulls != nulls_first(term), nans != term.desc, -codes if term.desc else codes]
        keys += ranks
        return np.lexsort([key for key in reversed(keys) if key.any()] or [np.zeros(len(keys[0]))])


def _codes(values: np.ndarray, pg_type: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the nulls and the NaNs are, and numbers that sort as the other values do.

    In PostgreSQL a NaN is greater than every number.
    """
    none = np.zeros(len(values), bool)
    if values.dtype.kind == "M":
        nulls = np.isnat(values)
        return nulls, none, np.where(nulls, 0, values.view("i8"))
    if values.dtype.kind in "ib":
        return none, none, values.astype("i8")
    if values.dtype.kind == "f":
        nans = np.isnan(values)
        return none, nans, np.where(nans, 0, values)
    nulls = np.fromiter((value is None for value in values), bool, len(values))
    nans = np.fromiter((value != value for value in values), bool, len(values))
    kept = values[~nulls & ~nans].tolist()
    ranks = {value: rank for rank, value in enumerate(_distinct(kept, pg_type))}
    codes = np.zeros(len(values), "i8")
    codes[~nulls & ~nans] = [ranks[value] for value in kept]
    return nulls, nans, codes


def _distinct(values: Iterable[Any], pg_type: str) -> list[Any]:
    moment = kind(pg_type) in ("timestamptz", "timestamp", "date", "time")
    return sorted(set(values), key=_moment if moment else None)


def _moment(value: Any) -> tuple[int, Any]:
    """Return a sort key that orders moments beyond the range of datetime among those in it."""
    if not isinstance(value, str):
        return (0, value)
    if value.endswith("infinity"):
        return (-3 if value.startswith("-") else 3, "")
    year, _, rest = value.partition("-")
    if value.endswith(" BC"):
        return (-2, (-int(year), rest))
    return (2, (int(year) if year.isdigit() else 0, rest))
