"""PostgreSQL's comparison operators for typed values, where the result is certain on this side.

``holds`` takes an operator of the filter language, a typed value of a row and the literals of the filter, and
returns one of SQL's three values (True, False, None for NULL) or ``"unknowable"``: the order of text depends
on the server's collation, a regular expression is PostgreSQL's own, a literal such as ``'now'`` has a meaning
only on the server. ``"unknowable"`` costs one read of the row; a wrong answer would make the table wrong
(promise 7), so every doubtful case is unknowable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import numpy as np

from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.patterns import like
from notebook_rt.model.types import decode

Truth: TypeAlias = bool | Literal["unknowable"] | None
UNKNOWABLE: Final = "unknowable"

_TEXTS: Final = frozenset({"text", "varchar", "name"})
_TIMES: Final = frozenset({"timestamptz", "timestamp", "date", "time"})
# Extension types with their own equality: two different texts may be equal.
_NOT_ENUMS: Final = frozenset(
    {"citext", "hstore", "ltree", "lquery", "cube", "seg", "isbn", "ean13", "vector", "halfvec"}
    | {"sparsevec", "geometry", "geography", "box2d", "box3d", "raster", "json", "jsonb", "xml"}
    | {"bytea", "interval", "timetz", "money", "inet", "cidr", "macaddr", "macaddr8", "bit"}
    | {"varbit", "point", "line", "lseg", "box", "path", "polygon", "circle", "tsvector"}
    | {"tsquery", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange", "oid"}
    | {"int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange"}
    | {"datemultirange", "pg_lsn", "record", "xid", "cid", "tid", "char", "unknown"}
)
_FLOAT: Final = re.compile(
    r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf(inity)?)\s*",
    re.ASCII | re.IGNORECASE,
)
_ISO: Final = {
    "timestamptz": re.compile(
        r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d(:?\d\d)?)\Z"
    ),
    "timestamp": re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?\Z"),
    "date": re.compile(r"\d{4}-\d\d-\d\d\Z"),
    "time": re.compile(r"\d\d:\d\d:\d\d(\.\d{1,6})?\Z"),
}


def holds(operator: str, value: Any, literals: tuple[str, ...], pg_type: str) -> Truth:
    """Return ``value operator literal`` as PostgreSQL evaluates it.

    Examples
    --------
    >>> holds("eq", 5, ("5",), "int8"), holds("neq", None, ("5",), "int8")
    (True, None)
    >>> holds("gt", "b", ("a",), "text")
    'unknowable'
    """
    if operator == "is":
        return _is(value, literals[0], pg_type)
    if operator == "isdistinct":
        # A literal that the type cannot read is an error on the server, NULL or not.
        if value is None:
            return True if _sign("", literals[0], pg_type, probe=True) != UNKNOWABLE else UNKNOWABLE
        sign = _sign(value, literals[0], pg_type)
        return UNKNOWABLE if sign == UNKNOWABLE else sign != 0
    if operator == "in" and not literals:
        return False  # = ANY('{}') compares nothing, so NULL is not NULL here
    if value is None:
        return None
    if operator == "in":
        return _in(value, literals, pg_type)
    if operator in ("match", "imatch"):
        return UNKNOWABLE
    if operator in ("like", "ilike"):
        return _like(operator, value, literals[0], pg_type)
    return _compare(operator, value, literals[0], pg_type)


def _is(value: Any, keyword: str, pg_type: str) -> Truth:
    if keyword == "null":
        return value is None
    if pg_type != "bool":
        return UNKNOWABLE
    if keyword == "unknown":
        return value is None
    return value is not None and bool(value) is (keyword == "true")


def _in(value: Any, literals: tuple[str, ...], pg_type: str) -> Truth:
    answers = [_compare("eq", value, literal, pg_type) for literal in literals]
    if True in answers:
        return True
    return UNKNOWABLE if UNKNOWABLE in answers else False


def _compare(operator: str, value: Any, literal: str, pg_type: str) -> Truth:
    sign = _sign(value, literal, pg_type)
    if sign == UNKNOWABLE:
        return UNKNOWABLE
    if sign == "different":  # not equal; only the server knows which is greater
        return {"eq": False, "neq": True}.get(operator, UNKNOWABLE)
    assert isinstance(sign, int)
    match operator:
        case "eq":
            return sign == 0
        case "neq":
            return sign != 0
        case "lt":
            return sign < 0
        case "lte":
            return sign <= 0
        case "gt":
            return sign > 0
        case _:
            return sign >= 0


def literal(pg_type: str, text: str) -> Any:
    """Return a filter's literal as a value that compares with typed values of ``pg_type``.

    None if it cannot be read here with certainty.
    """
    comparer = _comparer(pg_type)
    try:
        return None if comparer is None else comparer[0](text)
    except (ValueError, InvalidOperation, ArithmeticError):
        return None


_Sign: TypeAlias = int | Literal["different", "unknowable"]


def _sign(value: Any, literal: str, pg_type: str, *, probe: bool = False) -> _Sign:
    """Return -1, 0 or 1 as ``value`` is less than, equal to or greater than the literal.

    With ``probe``, check only whether the literal can be read as ``pg_type``.
    """
    comparer = _comparer(pg_type)
    if comparer is None:
        return UNKNOWABLE
    read, order = comparer
    try:
        theirs = read(literal)
    except (ValueError, InvalidOperation, ArithmeticError):
        return UNKNOWABLE
    if probe:
        return 0
    try:
        return order(value, theirs)
    except (TypeError, ValueError, ArithmeticError):
        return UNKNOWABLE


def _comparer(
    pg_type: str,
) -> tuple[Callable[[str], Any], Callable[[Any, Any], _Sign]] | None:
    if pg_type in INT_LIMITS:
        return (lambda text: _read_int(text, INT_LIMITS[pg_type])), _three_way
    if pg_type == "numeric":
        return _read_numeric, _order_numeric
    if pg_type == "float8":
        return _read_float, _order_float
    if pg_type == "float4":
        return (lambda text: float(np.float32(_read_float(text)))), _order_float4
    if pg_type == "bool":
        return _read_bool, lambda a, b: _three_way(bool(a), b)
    if pg_type in _TEXTS:
        return str, _order_text
    if pg_type == "bpchar":
        return (lambda text: text.rstrip(" ")), lambda a, b: _order_text(a.rstrip(" "), b)
    if pg_type == "uuid":
        return (lambda text: _read_uuid(text)), lambda a, b: _three_way(str(a).lower(), b)
    if pg_type in _TIMES:
        return (lambda text: _read_time(text, pg_type)), _order_time
    if pg_type.startswith("_") or pg_type in _NOT_ENUMS:
        return None
    return str, _order_text  # an enum: its labels are equal or not; their order belongs to the type


def _three_way(mine: Any, theirs: Any) -> _Sign:
    return int(mine > theirs) - int(mine < theirs)


def _order_text(mine: str, theirs: str) -> _Sign:
    return 0 if mine == theirs else "different"


def _read_int(text: str, limit: int) -> int:
    if not re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII):
        raise ValueError(text)
    number = int(text)
    if not -limit <= number < limit:
        raise ValueError(text)
    return number


def _read_float(text: str) -> float:
    if not _FLOAT.fullmatch(text):
        raise ValueError(text)
    number = float(text)
    if math.isinf(number) and "inf" not in text.lower():
        raise ValueError(text)  # out of range is an error in PostgreSQL
    return number


def _order_float(mine: Any, theirs: float) -> _Sign:
    """Compare floats in PostgreSQL's order: NaN equals NaN and is greater than every number."""
    mine = float(mine)
    if math.isnan(mine) or math.isnan(theirs):
        return _three_way(math.isnan(mine), math.isnan(theirs))
    return _three_way(mine, theirs)


def _order_float4(mine: Any, theirs: float) -> _Sign:
    return _order_float(float(np.float32(mine)), theirs)


def _read_numeric(text: str) -> Decimal:
    _read_float(re.sub(r"[eE][+-]?\d+", "", text))  # the same spellings, without the range
    return Decimal(text.strip())


def _order_numeric(mine: Any, theirs: Decimal) -> _Sign:
    if isinstance(mine, float):
        # A float64 stands for all numerics that round to it: unequal floats decide, equal ones do not.
        sign = _order_float(mine, float(theirs))
        exact = math.isnan(mine) or math.isinf(mine)
        return sign if sign != 0 or (exact and not theirs.is_finite()) else UNKNOWABLE
    mine = Decimal(mine)
    if mine.is_nan() or theirs.is_nan():
        return _three_way(mine.is_nan(), theirs.is_nan())
    return _three_way(mine, theirs)


def _read_bool(text: str) -> bool:
    word = text.strip().lower()
    if (
        word == "1"
        or (word and ("true".startswith(word) or "yes".startswith(word)))
        or word == "on"
    ):
        return True
    if word == "0" or (word and ("false".startswith(word) or "no".startswith(word))):
        return False
    if word in ("of", "off"):
        return False
    raise ValueError(text)


def _read_uuid(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise ValueError(text)
    return str(UUID(text))


def _read_time(text: str, pg_type: str) -> Any:
    if not _ISO[pg_type].match(text):
        raise ValueError(text)  # words such as 'now', an unknown zone, the session's date style
    return decode(pg_type, text, "rest")


def _order_time(mine: Any, theirs: Any) -> _Sign:
    if isinstance(mine, str) or isinstance(theirs, str):
        return UNKNOWABLE  # 'infinity' and dates that Python cannot hold
    if type(mine) is not type(theirs):
        return UNKNOWABLE
    return _three_way(mine, theirs)


def _like(operator: str, value: Any, pattern: str, pg_type: str) -> Truth:
    if pg_type not in _TEXTS or not isinstance(value, str):
        return UNKNOWABLE
    if operator == "ilike":
        if not (value.isascii() and pattern.isascii()):
            return UNKNOWABLE  # case folding depends on the locale
        value, pattern = value.lower(), pattern.lower()
    found = like(value, pattern)
    return UNKNOWABLE if found is None else found
