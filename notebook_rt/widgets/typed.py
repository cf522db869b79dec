"""Converts a text typed into a cell to a value of its column, or to a sentence that explains the problem.

Input: a text (None for null) and the column's PostgreSQL type. Output: a Python value as ``LiveFrame.edit``
takes it. Whether the column accepts the value is checked by the frame, and then by the server.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from notebook_rt.model.types import Column

_INTEGERS: Final = {"int2": 15, "int4": 31, "int8": 63}
_GROUPS: Final = re.compile(r"[,_\s]")
_GROUPED: Final = re.compile(
    r"[-+]?\d{1,3}(?:(?:,\d{2,3})*,\d{3}|(?:\s\d{3})+)(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE
)
"""Thousands separated by commas (India's in groups of two digits except the last) or spaces, as in
``editors.js``."""
_EXAMPLE: Final = {"a whole number": "1,000", "a number": "1,000.5"}
_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0"})


def parse_typed(column: Column, text: str | None) -> Any:
    """Return the value of ``text`` in ``column``.

    Raises
    ------
    ValueError
        With a sentence for the user.

    >>> parse_typed(Column("price", "float8"), "1,250.5")
    1250.5
    """
    kind = column.pg_type
    if text == "" and kind not in ("text", "varchar", "bpchar", "citext"):
        text = None
    parser = _PARSERS.get(kind)
    return text if text is None or parser is None else parser(text, kind)


def _integer(text: str, kind: str) -> int:
    digits = _digits(text, "a whole number")
    try:
        value = int(digits)
    except ValueError:
        raise ValueError(f"“{text}” is not a whole number") from None
    bits = _INTEGERS[kind]
    if not -(2**bits) <= value < 2**bits:
        raise ValueError(f"{value} is too large for {kind}")
    return value


def _float(text: str, kind: str) -> float:
    digits = _digits(text, "a number")
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"“{text}” is not a number") from None


def _numeric(text: str, kind: str) -> Decimal:
    digits = _digits(text, "a number")
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise ValueError(f"“{text}” is not a number") from None


def _digits(text: str, what: str) -> str:
    """Return the number without thousands separators; a comma anywhere else is an error.

    “1,5” is one and a half to users of a decimal comma, and never 15.
    """
    digits = text.strip().replace("−", "-")
    if not _GROUPS.search(digits):
        return digits
    if not _GROUPED.fullmatch(digits):
        raise ValueError(
            f"“{text}” is not {what}: a comma groups thousands, as in {_EXAMPLE[what]}"
        )
    return _GROUPS.sub("", digits)


def _bool(text: str, kind: str) -> bool:
    word = text.strip().casefold()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"“{text}” is neither true nor false")


def _date(text: str, kind: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"“{text}” is not a date like 2026-03-31") from None


def _time(text: str, kind: str) -> dt.time:
    try:
        return dt.time.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"“{text}” is not a time like 14:30:00") from None


def _timestamp(text: str, kind: str) -> dt.datetime:
    try:
        value = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"“{text}” is not a time like 2026-03-31 14:30") from None
    if kind == "timestamptz":
        return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
    return value.replace(tzinfo=None)


def _uuid(text: str, kind: str) -> str:
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise ValueError(f"“{text}” is not a UUID") from None


def _json(text: str, kind: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"This is not JSON: {error}") from None


def _array(text: str, kind: str) -> list[Any]:
    value = _json(text, kind)
    if not isinstance(value, list):
        raise ValueError("An array is written like [1, 2, 3]")
    return value


_PARSERS: Final[dict[str, Any]] = {
    **dict.fromkeys(_INTEGERS, _integer),
    "float4": _float,
    "float8": _float,
    "numeric": _numeric,
    "bool": _bool,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamp,
    "uuid": _uuid,
    "json": _json,
    "jsonb": _json,
    **{
        f"_{kind}": _array for kind in ("int4", "int8", "text", "float8", "bool", "numeric", "uuid")
    },
}
