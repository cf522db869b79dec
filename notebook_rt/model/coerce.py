"""Converts a user's values for a column to typed values: numpy and pandas scalars, moments, lists, text.

Input: any Python value. Output: a typed value (``store.types``), or a ValueError that explains the problem:
the server would refuse the value, or store another one than is shown here.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from notebook_rt.model.kinds import Kind, Numeric, built_in, canonical, element, kind
from notebook_rt.model.plain import as_plain
from notebook_rt.model.rows import Json
from notebook_rt.model.values import (
    INT64,
    JSON_DEPTH,
    UndecodedJson,
    decode,
    decoder,
    fits,
    hstore_text,
    to_rest,
)

_PLAIN: Final[dict[Kind, type]] = {"int": int, "float": float, "bool": bool}
"""The class of a type's typed values, where a user's value of that class is already one."""
_FAR_MOMENT: Final = re.compile(
    r"-?infinity|\d{5,}-\d\d-\d\d.*|\d{4,}-\d\d-\d\d.* BC|([\d-]+[ T])?24:00(:00(\.0+)?)?([+-].*)?"
)
"""Values that PostgreSQL has and ``datetime`` has not: far years, and the end of a day."""
_AS_IN: Final[dict[Kind, str]] = {
    "date": "2024-12-31",
    "timestamptz": "2024-12-31T18:00:00+01:00",
    "timestamp": "2024-12-31T18:00:00",
    "time": "18:00:00",
}
"""The text form of a moment, with unambiguous day and month."""
_UUID: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}")


def coerce(pg_type: str, value: Any, *, numeric: Numeric = "float") -> Any:
    """Make a typed value from a user's value: numpy scalars, Timestamps, dates, ISO text.

    NaN, NaT and NA are null, as in pandas; in a column of floats NaN is a number.

    Raises
    ------
    ValueError
        If ``value`` is not a value of ``pg_type``.

    Examples
    --------
    >>> coerce("int8", np.int64(7)), coerce("date", pd.Timestamp("2024-01-02 05:00"))
    (7, datetime.date(2024, 1, 2))
    """
    family = kind(pg_type)
    if value.__class__ is _PLAIN.get(family) and (family != "int" or value in INT64):
        return value
    given = value = _of_python(value)
    missing = value.__class__ is float and value != value and family not in ("float", "decimal")
    if value is None or missing:
        return None
    if family == "json":
        return _coerce_json(value)
    if family == "array":
        return _coerce_array(pg_type, value, numeric)
    if family in ("timestamptz", "timestamp", "date") and isinstance(value, dt.date):
        return _coerce_moment(family, value)
    if family == "text":
        return _coerce_text(pg_type, value)
    if family == "float" or (family == "decimal" and numeric == "float"):
        value = decode("float8", value)
    elif (family, value.__class__) in (("bytes", bytes), ("time", dt.time)):
        return value
    typed = decoder(pg_type, numeric)(value)
    if family == "float" and _overflows(given, typed):
        raise _no_value(pg_type, given)
    if not fits(pg_type, typed, numeric=numeric) and not _is_text_moment(family, typed):
        raise _no_value(pg_type, value)
    return typed


def _overflows(given: Any, value: Any) -> bool:
    """Return whether a finite number became infinity because it is out of float's range."""
    if value.__class__ is not float or not math.isinf(value):
        return False
    if isinstance(given, Decimal):
        return given.is_finite()
    return isinstance(given, int) or (isinstance(given, str) and any(map(str.isdigit, given)))


def _of_python(value: Any) -> Any:
    """Return a numpy or pandas value as Python's own; None for pandas' missing values."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    elif isinstance(value, np.timedelta64):
        value = pd.Timedelta(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime(warn=False)
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    return value


def missing(value: Any) -> bool:
    """Return whether ``value`` is a missing value of Python or pandas.

    Examples
    --------
    >>> [missing(value) for value in (None, float("nan"), pd.NA, pd.NaT, 0, "")]
    [True, True, True, True, False, False]
    """
    nothing = value is None or value is pd.NA or value is pd.NaT
    return nothing or (isinstance(value, float) and value != value)


def _no_value(pg_type: str, value: Any) -> ValueError:
    name, as_in = canonical(pg_type), _AS_IN.get(kind(pg_type))
    if name.startswith("_"):
        name = f"{name.lstrip('_')}[]"
    hint = "" if as_in is None else f"; write it as in {as_in}"
    return ValueError(f"{value!r} is no value of the PostgreSQL type {name}{hint}")


def _coerce_text(pg_type: str, value: Any) -> Any:
    if isinstance(value, dict) and canonical(pg_type) == "hstore":
        return hstore_text(value)
    if isinstance(value, dict) and not built_in(pg_type):
        return _coerce_json(value)  # a row of a composite type, as its cell shows it
    if isinstance(value, (dict, pd.Series, pd.Index, pd.DataFrame)):
        raise _no_value(pg_type, value)
    text = value if isinstance(value, str) else to_rest(pg_type, value)
    if canonical(pg_type) == "uuid" and not _UUID.fullmatch(text):
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise _no_value(pg_type, value) from None
    if not fits(pg_type, text):
        raise _no_value(pg_type, value)
    if "\0" in text:
        raise ValueError(f"PostgreSQL has no text with a zero in it: {text!r}")
    return text


def _coerce_array(pg_type: str, value: Any, numeric: Numeric) -> list[Any]:
    if isinstance(value, (tuple, set, frozenset, pd.Series, pd.Index)):
        value = list(value)
    if not isinstance(value, list):
        raise _no_value(pg_type, value)
    inner = element(pg_type)
    return [
        _coerce_array(pg_type, one, numeric)
        if isinstance(one, (list, tuple, np.ndarray))
        else coerce(inner, one, numeric=numeric)
        for one in map(_of_python, value)
    ]


def _coerce_json(value: Any) -> Json:
    """Return the value as the server will store it, so that the shown value does not change on the answer."""
    if isinstance(value, UndecodedJson):
        raise ValueError("this is the text of JSON that a cell cannot hold; write it with SQL")
    try:
        text = json.dumps(value, default=_json_item, allow_nan=False, ensure_ascii=False)
        typed = decode("jsonb", json.loads(text.encode()))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"this cannot be written as JSON: {error}") from None
    if isinstance(typed, UndecodedJson):
        raise ValueError(f"JSON in a cell is nested at most {JSON_DEPTH} deep")
    return typed


def _json_item(value: Any) -> Json:
    return float(value) if isinstance(value, Decimal) else as_plain(value)


def _coerce_moment(family: Kind, value: dt.date) -> dt.date:
    if family == "date":
        return value.date() if isinstance(value, dt.datetime) else value
    if not isinstance(value, dt.datetime):
        value = dt.datetime.combine(value, dt.time())
    if family == "timestamp":
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)


def _is_text_moment(family: Kind, value: Any) -> bool:
    moment = family in ("timestamptz", "timestamp", "date", "time") and isinstance(value, str)
    return moment and _FAR_MOMENT.fullmatch(value) is not None
