"""Values of PostgreSQL's types: from JSON, to JSON, to text, and whether two are equal.

``store.types`` says which and why.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from notebook_rt.store.kinds import Kind, Numeric, Source, built_in, canonical, element, kind
from notebook_rt.sync.rows import Json

_UTC: Final = dt.UTC
INT64: Final = range(-(2**63), 2**63)

# --- JSON to typed ---------------------------------------------------------------------------


def _int(value: Json) -> Any:
    if type(value) is int:
        return value
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return value
    if isinstance(value, (float, Decimal)) and number != value:
        return value
    return number


def _float(value: Json) -> Any:
    if type(value) is float:
        return value
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return value


def _decimal(value: Json) -> Any:
    if type(value) is Decimal:
        return value
    try:
        # A float's shortest text is what the JSON said, its binary value is not.
        return Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError, TypeError):
        return value


def _bool(value: Json) -> Any:
    if isinstance(value, str):
        return {"true": True, "t": True, "false": False, "f": False}.get(value, value)
    return value


def _timestamptz(value: Json) -> Any:
    try:
        moment = dt.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return value
    if moment.tzinfo is _UTC:
        return moment
    try:
        return moment.replace(tzinfo=_UTC) if moment.tzinfo is None else moment.astimezone(_UTC)
    except OverflowError:
        return value


def _timestamp(value: Json) -> Any:
    try:
        return dt.datetime.fromisoformat(value).replace(tzinfo=None)
    except (ValueError, TypeError):
        return value


def _date(value: Json) -> Any:
    try:
        return dt.date.fromisoformat(value)
    except (ValueError, TypeError):
        return value


def _time(value: Json) -> Any:
    try:
        # "24:00:00" is a time to PostgreSQL and none to Python: it stays text.
        return dt.time.fromisoformat(value)
    except (ValueError, TypeError):
        return value


def _bytes(value: Json) -> Any:
    # REST sends "\xdead", the socket "dead" (WIRE.md "Values"); hex never begins with a backslash.
    try:
        return bytes.fromhex(value[2:] if value.startswith("\\x") else value)
    except (ValueError, AttributeError):
        return value


def _json(value: Json) -> Any:
    """Undo ``exact_numbers`` inside json: its numbers are floats whichever way they came."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _json(item) for name, item in value.items()}
    return value


def _same(value: Json) -> Any:
    return value


_DECODERS: Final[dict[Kind, Callable[[Json], Any]]] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "timestamptz": _timestamptz,
    "timestamp": _timestamp,
    "date": _date,
    "time": _time,
    "bytes": _bytes,
    "json": _json,
    "text": _same,
}


_DONE: Final[dict[Callable[[Json], Any], type]] = {
    _int: int,
    _float: float,
    _decimal: Decimal,
    _bool: bool,
    _same: object,
}


def typed_class(decode: Callable[[Json], Any]) -> type:
    """The class whose instances ``decode`` leaves as they are: object if it is all, else one, or
    NoneType if it is none.
    """
    return _DONE.get(decode, type(None))


@lru_cache(maxsize=4096)
def decoder(pg_type: str, numeric: Numeric = "float") -> Callable[[Json], Any]:
    """The function that makes a typed value of a non-null JSON value of ``pg_type``."""
    family = kind(pg_type)
    if family == "decimal":
        return _decimal if numeric == "decimal" else _float
    if family != "array":
        return _DECODERS[family]
    item = decoder(element(pg_type), numeric)

    def nested(value: Json) -> Any:
        if isinstance(value, list):
            return [nested(one) for one in value]
        return None if value is None else item(value)

    return nested


def decode(
    pg_type: str, value: Json, source: Source = "rest", *, numeric: Numeric = "float"
) -> Any:
    r"""Make a typed value of a JSON value.

    Parameters
    ----------
    pg_type : str
        The type's name, ``int8``, ``_text``, an enum's name.
    value
        The JSON value; None is null for every type.
    source : {"rest", "socket"}
        Who sent it. The two differ in bytea only, and its forms tell themselves apart; what the
        socket cannot say at all is found by `lossy`.
    numeric : {"float", "decimal"}
        What ``numeric`` becomes. Exact only if the JSON was decoded with ``exact_numbers``.

    Examples
    --------
    >>> decode("timestamptz", "2024-01-02T03:04:05.6+02:00").isoformat()
    '2024-01-02T01:04:05.600000+00:00'
    >>> decode("bytea", r"\xdeadbeef", "rest") == decode("bytea", "deadbeef", "socket")
    True
    >>> decode("timestamptz", "infinity")
    'infinity'
    """
    return None if value is None else decoder(pg_type, numeric)(value)


def lossy(pg_type: str, value: Json) -> bool:
    """Whether ``value``, come over the socket, may not be the true one (WIRE.md "Values").

    NaN and infinities arrive as null, ``char(n)`` and ``bit(n)`` are cut to one character: such a
    row must be fetched.
    """
    name = canonical(pg_type)
    if name.startswith("_"):
        if isinstance(value, list):
            return any(lossy(name if isinstance(v, list) else name[1:], v) for v in value)
        return False
    if name in ("bpchar", "bit"):
        return value is not None
    return value is None and kind(name) in ("float", "decimal")


def may_be_lossy(pg_type: str) -> bool:
    """Whether the socket may send another value than the true one for some value of ``pg_type``."""
    name = canonical(pg_type).lstrip("_")
    return name in ("bpchar", "bit") or kind(name) in ("float", "decimal")


# --- typed to JSON and text -------------------------------------------------------------------


def _number_text(value: float | Decimal) -> str:
    if value != value:
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value) if isinstance(value, float) else format(value, "f")


def to_json(pg_type: str, value: Any) -> Json:
    """Make of a typed value what goes into the JSON body of a write.

    Numbers that JSON has no word for, and Decimals, go as text: PostgreSQL reads them exactly.
    """
    family = kind(pg_type)
    if value is None or family == "json":
        return value
    if isinstance(value, list) and family == "array":
        inner = element(pg_type)
        return [to_json(pg_type if isinstance(one, list) else inner, one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else _number_text(value)
    if isinstance(value, Decimal):
        return _number_text(value)
    if isinstance(value, (bytes, dt.date, dt.time)):
        return to_rest(pg_type, value)
    return value


def to_rest(pg_type: str, value: Any) -> str:
    r"""Make of a typed value the text that PostgreSQL reads it from, as PostgREST's filters need.

    Quoting for the filter language is the caller's.

    Examples
    --------
    >>> to_rest("_text", ["a", 'b,"c', None])
    '{"a","b,\\"c",NULL}'
    """
    family = kind(pg_type)
    if value is None:
        return "null"
    if family == "json":
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, Decimal)):
        return _number_text(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_array_item(element(pg_type), one) for one in value) + "}"
    return str(value)


def _array_item(pg_type: str, value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list) and kind(pg_type) != "json":
        return "{" + ",".join(_array_item(pg_type, one) for one in value) + "}"
    text = to_rest(pg_type, value)
    if kind(pg_type) in ("int", "float", "decimal", "bool"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- what is of its type ------------------------------------------------------------------------

_CLASSES: Final[dict[Kind, tuple[type, ...]]] = {
    "float": (float,),
    "bool": (bool,),
    "timestamptz": (dt.datetime,),
    "timestamp": (dt.datetime,),
    "date": (dt.date,),
    "time": (dt.time,),
    "bytes": (bytes,),
    "json": (object,),
    "array": (list,),
    "text": (str,),
}


def fits(pg_type: str, value: Any, *, numeric: Numeric = "float") -> bool:
    """Whether a typed, non-null value is of its type's own class, not a text or JSON kept as is."""
    family = kind(pg_type)
    if family == "int":
        return type(value) is int and value in INT64
    if family == "decimal":
        return isinstance(value, Decimal if numeric == "decimal" else float)
    if family == "text":
        return isinstance(value, str) and _encodable(value)
    return isinstance(value, _CLASSES[family])


def _encodable(text: str) -> bool:
    """Whether ``text`` is Unicode: no half of a surrogate pair, which neither UTF-8 nor Arrow has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


NOT_FINITE: Final = frozenset(("NaN", "Infinity", "-Infinity"))
"""How REST writes what JSON has no number for."""


def may_be_of(pg_type: str, value: Json) -> bool:
    """Whether REST may write a value of ``pg_type``, one of PostgreSQL's own, as ``value``."""
    if value is None or not built_in(pg_type):
        return True
    match kind(pg_type):
        case "json":
            return True
        case "array":
            return isinstance(value, list)
        case "bool":
            return isinstance(value, bool)
        case "int" | "float" | "decimal":
            number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
            return number or (isinstance(value, str) and value in NOT_FINITE)
        case _:
            return isinstance(value, str)


def equal(a: Any, b: Any) -> bool:
    """Whether two typed values are the same: None is None, NaN is NaN, JSON true is not 1."""
    if a is b:
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(item, b[name]) for name, item in a.items())
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b) or bool(a != a and b != b)
