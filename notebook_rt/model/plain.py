"""Converts a user's values to JSON's types: numpy and pandas values, moments, Decimals, sets.

Input: arguments of a function, the payload of a broadcast, presence data, values for a json column. Output:
the same with only JSON's own types, as PostgreSQL and other clients read them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

_MISSING: Final = frozenset({"NaTType", "NAType"})
"""pandas' types of missing values; pandas is not imported for them."""


def seconds(timeout: float | None, what: str = "timeout") -> float | None:
    """Return a user's number of seconds as a float.

    Raises
    ------
    TypeError
        If it is not a number.

    Examples
    --------
    >>> seconds(2), seconds(None)
    (2.0, None)
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not hasattr(timeout, "__float__"):
        instead = "; until(condition) waits for a row" if callable(timeout) else ""
        raise TypeError(f"{what} must be a number of seconds, not {timeout!r}{instead}")
    return float(timeout)


def duration(given: float, what: str) -> float:
    """Return a user's number of seconds, which must be finite and not negative.

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is negative or infinite.
    """
    found = seconds(given, what)
    if found is None or not 0 <= found < math.inf:
        raise ValueError(f"{what} must be a number of seconds, not {given!r}")
    return found


def json_text(value: Any, what: str) -> str:
    """Return ``value`` as JSON, with sorted names.

    Raises
    ------
    TypeError, ValueError
        If a part of it cannot be written as JSON; the message names ``what``.

    Examples
    --------
    >>> json_text({"on": dt.date(2024, 1, 2), "n": {1}}, "params")
    '{"n": [1], "on": "2024-01-02"}'
    """
    try:
        return json.dumps(value, default=as_plain, sort_keys=True, allow_nan=False)
    except RecursionError:
        raise ValueError(f"{what}: it is nested too deep for JSON") from None
    except (TypeError, ValueError) as error:
        at = _not_finite(value) if isinstance(error, ValueError) else None
        said = error if at is None else f"{at} has no form in JSON; None is null"
        raise type(error)(f"{what}: {said}") from None


def _not_finite(value: Any) -> str | None:
    """Return where in dicts and lists the first float is that JSON cannot represent, and its value."""
    left = [("", value)]
    seen: set[int] = set()
    while left:
        where, one = left.pop()
        if isinstance(one, float) and not math.isfinite(one):
            return f"{where}: {one}" if where else str(one)
        if isinstance(one, dict | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            parts = one.items() if isinstance(one, dict) else enumerate(one)
            left += reversed([(f"{where}[{name!r}]", part) for name, part in parts])
        elif hasattr(one, "tolist"):  # numpy's
            left.append((where, as_plain(one)))
    return None


def plain(value: Any, what: str) -> Any:
    """Return ``value`` with only JSON's types; raise like `json_text`."""
    return json.loads(json_text(value, what))


def as_json(value: Any) -> Any:
    """Return a row's value with only JSON's types; a float that is not finite becomes PostgreSQL's text."""
    if isinstance(value, dict):
        return {str(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float):
        return value
    return as_plain(value)


def as_plain(value: Any) -> Any:
    """Convert one value that JSON cannot represent to one that it can; raise TypeError otherwise."""
    if type(value).__name__ in _MISSING:
        return None
    if hasattr(value, "isoformat"):  # dates, times, moments, also pandas'
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, pandas' Series
        kind = getattr(value.dtype, "kind", "")
        if kind in ("M", "m"):  # nanoseconds would become a bare number
            value = value.astype(f"{kind}8[us]")
        return value.tolist()
    if isinstance(value, dt.timedelta):
        return f"{value.total_seconds()} seconds"
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, set | frozenset):
        return list(value)
    raise TypeError(f"{value!r} has no form in JSON")
