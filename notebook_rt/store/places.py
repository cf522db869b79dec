"""Rows that are no longer there, in an order that only the server knows.

In go the orders that the server has told of a table's rows, one after the other; out comes a view of any
state of it. A place belongs to values, not to a row: what the server has once put before something else is
before it in every state. Values that it never placed come last, as in the table itself (`Ordered`).
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
"""How many values are kept, for each that there is, and at the least."""


class Places:
    """The order of values, as the server has told it. Replaced as one: whoever reads needs no lock."""

    def __init__(self, by: Sequence[OrderBy]) -> None:
        self.by = tuple(by)
        self._places: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def learn(self, table: Table, keys: Sequence[Key], without: Collection[Key] = ()) -> None:
        """The server has these rows in this order; ``without`` those that show something else here."""
        with table.lock:
            there = dict(zip(table.keys(), self._values(table), strict=True))
        told = dict.fromkeys(there[key] for key in keys if key in there and key not in without)
        if len(self._places) > _SHARE * len(told) + _LEAST:
            self._places = {}
        # What it says now counts. What it does not speak of stays behind what it was behind.
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
        """It is another login's table."""
        self._places = {}

    def of(self, table: Table) -> np.ndarray:
        """The place of each row of ``table``, in its own order."""
        places = self._places
        last = len(places)
        return np.array([places.get(value, last) for value in self._values(table)], "i8")

    def _values(self, table: Table) -> list[Hashable]:
        """What a row's place belongs to: the values that it is sorted by, and a key that is sorted there."""
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
