"""Rows that no longer exist, in an order that only the server knows.

From the successive orders of a table's rows that the server has reported, it makes a view of any state
of the table. A place belongs to values, not to a row: values that the server once put before others are
before them in every state. Values that it never placed come last, as in the table itself (`Ordered`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from itertools import chain
from typing import Any, Final

import numpy as np

from notebook_rt.model.order import OrderBy, known_here
from notebook_rt.model.rows import Key
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table

_SHARE: Final = 4
_LEAST: Final = 10_000
"""Number of values kept per reported value, and the minimum."""


class Places:
    """The server's order of values. It is replaced as one object: readers need no lock."""

    def __init__(self, by: Sequence[OrderBy]) -> None:
        self.by = tuple(by)
        self._places: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def learn(self, table: Table, keys: Sequence[Key], without: Collection[Key] = ()) -> None:
        """Record the server's order of these rows, except ``without``, which have other values here."""
        with table.lock:
            there = dict(zip(table.keys(), self._values(table), strict=True))
        told = dict.fromkeys(there[key] for key in keys if key in there and key not in without)
        if len(self._places) > _SHARE * len(told) + _LEAST:
            self._places = {}
        # The new order takes precedence. A value not in it stays behind the value that it followed.
        behind: dict[Hashable, list[Hashable]] = {}
        start = last = object()
        for value in self._places:
            if value in told:
                last = value
            else:
                behind.setdefault(last, []).append(value)
        order = chain(behind.get(start, ()), *((value, *behind.get(value, ())) for value in told))
        self._places = {value: place for place, value in enumerate(order)}

    def forget(self) -> None:
        """Forget everything: the table belongs to another login now."""
        self._places = {}

    def of(self, table: Table) -> np.ndarray:
        """Return the place of each row of ``table``, in the table's order."""
        places = self._places
        last = len(places)
        return np.array([places.get(value, last) for value in self._values(table)], "i8")

    def _values(self, table: Table) -> list[Hashable]:
        """Return the values that places belong to: those sorted by, and a key that only the server sorts."""
        names = [term.column for term in self.by]
        key = [OrderBy(name) for name in table.schema.key]
        if len(known_here(key, table.schema.types)) < len(key):
            names += table.schema.key
        columns = table.arrays(list(dict.fromkeys(names)))
        return list(zip(*(map(_hashable, columns[name].tolist()) for name in names), strict=True))


def _hashable(value: Any) -> Hashable:
    return repr(value) if isinstance(value, list | dict) else value


class Placed(Ordered):
    """``table`` in the order of ``places``, whatever its rows become."""

    def __init__(
        self,
        table: Table,
        by: Sequence[OrderBy],
        places: Places,
        limit: int | None = None,
        carried: Collection[str] = (),
    ) -> None:
        super().__init__(table, by, limit, carried)
        self._by_value = places

    def _ranks(self) -> list[np.ndarray]:
        return [self._by_value.of(self.table)]
