"""Decide whether a null received over the socket is a true null (promise 11).

The socket sends NaN and the infinities as null (design/wire.md "Values"), so each null of a float or numeric
column may be a number, and only a read by key can decide. In most tables all are true nulls: after a number
of consecutive reads that returned a true null, a column's nulls are trusted. Once a read shows a number that
is not finite, they are never trusted again, because more such values may follow. Nulls that were wrongly
trusted meanwhile are found by the next audit, which reads every row touched by a change; it is requested at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from notebook_rt.model.rows import Row, WireRow
from notebook_rt.model.types import NOT_FINITE, Schema, kind

TRUE_NULLS: Final = 20
"""Number of consecutive reads that must return a null before a column's nulls are trusted."""


class Nulls:
    """The state of the nulls of each float and numeric column of one table."""

    def __init__(self, schema: Schema) -> None:
        numbers = [
            n for n, pg_type in schema.types.items() if kind(pg_type) in ("float", "decimal")
        ]
        self.uncertain = dict.fromkeys(numbers, 0)
        """The columns whose nulls may be numbers, with the number of consecutive true nulls read."""
        self._watched = numbers
        """The columns without such a number so far."""
        self.betrayed = False
        """Whether nulls were trusted for a column that turned out to have such numbers."""

    def learn(self, records: Iterable[WireRow], row: Row) -> None:
        """Take ``row``, which was read because of the ``records`` received over the socket."""
        told = {n for record in records for n in self.uncertain if record.get(n, 0) is None}
        for name in told.intersection(self._watched):
            if (
                row.get(name, 0) is None
            ):  # a row does not contain a column that was dropped meanwhile
                self.uncertain[name] += 1
                if self.uncertain[name] == TRUE_NULLS:
                    del self.uncertain[name]

    def scan(self, page: Sequence[WireRow]) -> None:
        """Search a page of whole rows, in REST's format, for numbers that are not finite."""
        for name in list(self._watched):
            values = [row.get(name) for row in page]
            texts = str in set(map(type, values))  # a page without one is recognized at once
            if texts and any(value.__class__ is str and value in NOT_FINITE for value in values):
                self._watched.remove(name)
                self.betrayed = self.betrayed or name not in self.uncertain
                self.uncertain[name] = 0
