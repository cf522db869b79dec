"""Map the values of a key column to numbers, so that a span of them can be cut.

In: a value, or a number and a PostgreSQL type; the rows of a page. Out: the number or the value, in the same
order.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Row, WireRow
from notebook_rt.model.types import Schema, canonical, kind

SAMPLES: Final = 16
"""Number of rows of a page that are sampled for the distribution of its keys."""

Numbers: TypeAlias = tuple[int, int]
"""A key of two columns as numbers."""

_LARGEST: Final = {
    **{name: limit - 1 for name, limit in INT_LIMITS.items()},
    "oid": 2**32 - 1,
    "uuid": 2**128 - 1,
}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def number(value: Any) -> int | None:
    """Return a number that sorts as PostgreSQL sorts ``value``; None: it has no number.

    >>> number(7), number("00000000-0000-0000-0000-0000000000ff"), number("x")
    (7, 255, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=value.tzinfo or dt.UTC) - _EPOCH) // _MICROSECOND
    if isinstance(value, dt.date):
        return value.toordinal()
    if isinstance(value, str):
        try:
            return uuid.UUID(value).int
        except ValueError:
            return None
    return None


def from_number(pg_type: str, at: int) -> Any:
    """Return the value of a column of ``pg_type`` whose `number` is ``at``; None: no value is that large."""
    name = canonical(pg_type)
    if at > _LARGEST.get(name, at):
        return None
    try:
        match kind(pg_type):
            case "int":
                return at
            case "timestamptz":
                return _EPOCH + at * _MICROSECOND
            case "timestamp":
                return (_EPOCH + at * _MICROSECOND).replace(tzinfo=None)
            case "date":
                return dt.date.fromordinal(at)
    except (OverflowError, ValueError):
        return None
    return str(uuid.UUID(int=at)) if name == "uuid" else None


def is_numbered(pg_type: str) -> bool:
    """Return whether the values of ``pg_type`` have numbers."""
    return canonical(pg_type) == "uuid" or kind(pg_type) in (
        "int",
        "timestamptz",
        "timestamp",
        "date",
    )


def has_counted_runs(pg_type: str) -> bool:
    """Return whether a column's first and last value can indicate the number of values."""
    return is_numbered(pg_type) and canonical(pg_type) != "uuid"


class KeyNumbers:
    """The keys of a table in one order, typed and as numbers; columns are given by their place in the key."""

    def __init__(self, schema: Schema, order: Sequence[OrderBy]) -> None:
        self._schema = schema
        self._order = order
        self.types = [schema.types.get(term.column, "text") for term in order]

    def row(self, row: WireRow) -> Row:
        """Return the typed key of a row, by column."""
        return self._schema.decode({term.column: row[term.column] for term in self._order})

    def last(self, rows: Sequence[WireRow]) -> Row:
        """Return the typed key of the last row."""
        return self.row(rows[-1])

    def of(self, row: Row | None) -> Row | None:
        """Return the key columns of a typed row."""
        return None if row is None else {term.column: row[term.column] for term in self._order}

    def number(self, row: Row | None, place: int) -> int | None:
        """Return the number of one column; None: it has no number."""
        return None if row is None else number(row[self._order[place].column])

    def pair(self, row: Row | None) -> Numbers | None:
        """Return a key of two columns as numbers; None: it is not such a key."""
        if row is None or len(self._order) != 2:
            return None
        first, second = self.number(row, 0), self.number(row, 1)
        return None if first is None or second is None else (first, second)

    def row_of(self, pair: Numbers) -> Row:
        """Return the key of two columns with these numbers, between two existing keys."""
        return {
            term.column: from_number(pg_type, at)
            for term, pg_type, at in zip(self._order, self.types, pair, strict=True)
        }

    def sample(self, rows: Sequence[WireRow]) -> list[tuple[int, Numbers]]:
        """Return a sample of a page, including the first and last row: places and keys. Empty if the key does
        not have two columns with numbers.
        """
        found, last = [], len(rows) - 1
        for place in sorted({*range(0, last, max(1, last // SAMPLES)), last}):
            numbers = self.pair(self.row(rows[place]))
            if numbers is None:
                return []
            found.append((place, numbers))
        return found

    def has_more(self, place: int) -> bool:
        """Return whether the key has columns after this one."""
        return place + 1 < len(self._order)

    def is_numbered(self, row: Row | None, place: int) -> bool:
        """Return whether this column has numbers, and this row has one."""
        return is_numbered(self.types[place]) and self.number(row, place) is not None

    def is_text(self, place: int) -> bool:
        return kind(self.types[place]) == "text"
