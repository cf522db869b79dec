"""Typed values of what a user passed: Python's, numpy's and pandas' own, and text.

In: a PostgreSQL type and anything. Out: the value as ``store.values`` has it, or a ValueError that
says how it is written. What only the server can judge (an enum's labels, a network's address) is
left to it.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Final
from uuid import UUID

import numpy as np
import pandas as pd

from notebook_rt.store.kinds import Kind, Numeric, canonical, kind
from notebook_rt.store.values import INT64, decoder, fits, to_rest

_PLAIN: Final[dict[Kind, type]] = {"int": int, "float": float, "bool": bool, "text": str}
"""The class of the typed values of a type, where a user's value of that class is one already."""
_FAR: Final = re.compile(r"\d{5,6}-\d\d-\d\d([T ].*)?|\d{4,}-\d\d-\d\d([T ].*)? BC")
"""A date past the year 9999 or before Christ."""
_AS_IN: Final[dict[Kind, str]] = {
    "date": "2024-12-31",
    "timestamptz": "2024-12-31T18:00:00+01:00",
    "timestamp": "2024-12-31T18:00:00",
    "time": "18:00:00",
}
"""How a text says a moment: day and month cannot be taken for each other."""


def coerce(pg_type: str, value: Any, *, numeric: Numeric = "float") -> Any:
    """Make a typed value of what a user passed: numpy scalars, Timestamps, dates, ISO text.

    Raises
    ------
    ValueError
        If ``value`` is no value of ``pg_type``.

    Examples
    --------
    >>> coerce("int8", np.int64(7)), coerce("date", pd.Timestamp("2024-01-02 05:00"))
    (7, datetime.date(2024, 1, 2))
    """
    family = kind(pg_type)
    uuid = canonical(pg_type) == "uuid"
    plain = value.__class__ is _PLAIN.get(family) and not uuid
    if plain and (family != "int" or value in INT64):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic) and not isinstance(value, np.datetime64):
        value = value.item()
    elif isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        value = value.to_pydatetime(warn=False)
    if family in ("timestamptz", "timestamp", "date") and isinstance(value, dt.date):
        return _coerce_moment(family, value)
    if isinstance(value, tuple | set | frozenset) and family == "array":
        value = list(value)
    if family == "text":
        text = value if isinstance(value, str) else to_rest(pg_type, value)
        return _coerce_uuid(text) if uuid else text
    if family == "float" or (family == "decimal" and numeric == "float"):
        value = decoder("float8")(value)
    elif isinstance(value, (bytes, dt.time)):
        return value
    typed = decoder(pg_type, numeric)(value)
    if not fits(pg_type, typed, numeric=numeric) and not _is_text_moment(family, typed):
        raise _no_value(pg_type, value)
    return typed


def _no_value(pg_type: str, value: Any) -> ValueError:
    name, as_in = canonical(pg_type), _AS_IN.get(kind(pg_type))
    if name.startswith("_"):
        name = f"{name.lstrip('_')}[]"
    hint = "" if as_in is None else f"; write it as in {as_in}"
    return ValueError(f"{value!r} is no value of the PostgreSQL type {name}{hint}")


def _coerce_uuid(text: str) -> str:
    """As the server writes it: a key in capitals would not be found."""
    try:
        return str(UUID(text))
    except ValueError:
        raise _no_value("uuid", text) from None


def _coerce_moment(family: Kind, value: dt.date) -> dt.date:
    if family == "date":
        return value.date() if isinstance(value, dt.datetime) else value
    if not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time())
    if family == "timestamp":
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _is_text_moment(family: Kind, value: Any) -> bool:
    """Whether it is one that PostgreSQL has and Python has not, which stays text."""
    if not isinstance(value, str):
        return False
    if family == "time":
        return value == "24:00:00"
    if family not in ("timestamptz", "timestamp", "date"):
        return False
    return value in ("infinity", "-infinity") or _FAR.fullmatch(value) is not None
