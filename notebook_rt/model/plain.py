"""What an analyst has in hand as JSON has it: numpy's and pandas' values, moments, Decimals, sets.

In: arguments of a function, the payload of a broadcast, what presence shows, what a json column is
to hold. Out: the same, of nothing but JSON's own types, as PostgreSQL and other clients read them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

_MISSING: Final = frozenset({"NaTType", "NAType"})
"""pandas' types of what is missing, which is not imported for them."""


def seconds(timeout: float | None, what: str = "timeout") -> float | None:
    """What was given as a number of seconds.

    Raises
    ------
    TypeError
        If it is no number.

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
    """What was given as a number of seconds that is not negative, and has an end.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is negative or infinite.
    """
    found = seconds(given, what)
    if found is None or not 0 <= found < math.inf:
        raise ValueError(f"{what} must be a number of seconds, not {given!r}")
    return found


def json_text(value: Any, what: str) -> str:
    """``value`` as JSON, the names in it sorted.

    Raises
    ------
    TypeError, ValueError
        If something in it has no form in JSON; ``what`` says where.

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
    """Where the first float that JSON has no form for is in dicts and lists, and what it is."""
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
    """``value`` of nothing but JSON's types; raises as `json_text` does."""
    return json.loads(json_text(value, what))


def as_json(value: Any) -> Any:
    """A value of a row of nothing but JSON's types; a float that is not a number as PostgreSQL's text."""
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
    """One value that JSON has no form for as one that it has; raises TypeError."""
    if type(value).__name__ in _MISSING:
        return None
    if hasattr(value, "isoformat"):  # dates, times, moments, pandas' too
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
