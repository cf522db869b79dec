"""Whether a null that came over the socket is one (promise 11).

The socket sends NaN and the infinities as null (design/wire.md "Values"), so behind each null of a float or
numeric column may be a number, and only a read by key can tell. In most tables all are nulls: after so
many reads in a row that brought a true null, a column's nulls are believed. As soon as a read shows
a number that is not finite they are not, and never again: one such value says that more may come.
What was believed wrongly meanwhile the next audit finds, since it reads every row that a change has
touched; it is asked for at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from notebook_rt.model.rows import Row, WireRow
from notebook_rt.model.types import NOT_FINITE, Schema, kind

TRUE_NULLS: Final = 20
"""Reads in a row that must have brought a null before nulls of a column are believed."""


class Nulls:
    """What is known of the nulls of each float and numeric column of one table."""

    def __init__(self, schema: Schema) -> None:
        numbers = [
            n for n, pg_type in schema.types.items() if kind(pg_type) in ("float", "decimal")
        ]
        self.uncertain = dict.fromkeys(numbers, 0)
        """The columns whose nulls may be numbers, with the true nulls read in a row."""
        self._watched = numbers
        """The columns that have shown no such number yet."""
        self.betrayed = False
        """Whether nulls were believed of a column that now shows it has other values."""

    def learn(self, records: Iterable[WireRow], row: Row) -> None:
        """``row`` was read because of what the socket said in ``records``."""
        told = {n for record in records for n in self.uncertain if record.get(n, 0) is None}
        for name in told.intersection(self._watched):
            if row.get(name, 0) is None:  # a column that was dropped meanwhile is in no row
                self.uncertain[name] += 1
                if self.uncertain[name] == TRUE_NULLS:
                    del self.uncertain[name]

    def scan(self, page: Sequence[WireRow]) -> None:
        """Look for numbers that are not finite in a page of whole rows, as REST wrote them."""
        for name in list(self._watched):
            values = [row.get(name) for row in page]
            texts = str in set(map(type, values))  # a page without one is told at once
            if texts and any(value.__class__ is str and value in NOT_FINITE for value in values):
                self._watched.remove(name)
                self.betrayed = self.betrayed or name not in self.uncertain
                self.uncertain[name] = 0
