"""The values of a key's column as numbers, so that a span of them can be cut.

In: a value, or a number and a type of PostgreSQL. Out: the one for the other, in the same order.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any, Final

from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.types import canonical, kind

_LARGEST: Final = {
    **{name: limit - 1 for name, limit in INT_LIMITS.items()},
    "oid": 2**32 - 1,
    "uuid": 2**128 - 1,
}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def number(value: Any) -> int | None:
    """A number that sorts as PostgreSQL sorts ``value``; None: there is none.

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
    """The value of a column of ``pg_type`` whose `number` is ``at``; None: no value is so large."""
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
    """Whether the values of ``pg_type`` have numbers."""
    return canonical(pg_type) == "uuid" or kind(pg_type) in (
        "int",
        "timestamptz",
        "timestamp",
        "date",
    )


def has_counted_runs(pg_type: str) -> bool:
    """Whether the first and the last value of a column may tell how many there are of it."""
    return is_numbered(pg_type) and canonical(pg_type) != "uuid"
