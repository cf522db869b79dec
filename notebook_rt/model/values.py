"""Values of PostgreSQL's types: from JSON, to JSON, to text, and whether two are equal.

``model.types`` has the mapping and its reasons.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from notebook_rt.model.kinds import Kind, Numeric, Source, built_in, canonical, element, kind
from notebook_rt.model.rows import Json

_UTC: Final = dt.UTC
INT64: Final = range(-(2**63), 2**63)

JSON_DEPTH: Final = 100
"""Maximum nesting of lists and objects in a json cell. Code that reads a cell recurses, some two Python
frames a level, on a stack of 1,000 frames that a notebook also uses; documents have ten levels."""

NUMERIC_DIGITS: Final = 150_000
"""More digits than PostgreSQL's numeric has on either side of the point (131,072 and 16,383)."""


_DIMENSIONS: Final = 6
"""Maximum for a PostgreSQL array."""

_INT_DIGITS: Final = 600
"""Python may be configured not to print ints of more than 640 digits; PostgreSQL's have 19."""


class UndecodedJson(str):
    """The text of a json value that a cell cannot hold (promise 14).

    It is nested deeper than `JSON_DEPTH`, or contains a number past float's range or with thousands of
    digits, or half of a surrogate pair.
    """

    __slots__ = ()


class NestedKey(str):
    """A list or an object used as a key: its JSON text, names sorted."""

    __slots__ = ()


# --- JSON to typed ---------------------------------------------------------------------------


def _int(value: Json) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) > _INT_DIGITS:
        return _digits(value)
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        return _unfit(value)
    if isinstance(value, (float, Decimal)) and number != value:
        return _unfit(value)
    return number


def _float(value: Json) -> Any:
    if type(value) is float:
        return value
    try:
        number = float(value)
    except OverflowError:  # an int
        return _digits(Decimal(value))
    except (ValueError, TypeError):
        return _unfit(value)
    if isinstance(value, Decimal) and math.isinf(number) and value.is_finite():
        return _digits(value)
    return number


def _digits(value: Decimal) -> str:
    """Return a number as PostgreSQL writes a numeric; with an exponent if it has too many digits for one."""
    return format(value, "f") if abs(value.adjusted()) < NUMERIC_DIGITS else str(value)


def _decimal(value: Json) -> Any:
    try:
        # A float's shortest text is what the JSON contained; its binary value is not.
        number = Decimal(repr(value) if isinstance(value, float) else value)
    except (InvalidOperation, ValueError, TypeError):
        return _unfit(value)
    if number.is_snan() or (number.is_finite() and abs(number.adjusted()) >= NUMERIC_DIGITS):
        return str(
            value
        )  # PostgreSQL has no such value, and arithmetic with it raises or never ends
    return number


def _bool(value: Json) -> Any:
    if isinstance(value, str):
        return {"true": True, "t": True, "false": False, "f": False}.get(value, value)
    return _unfit(value)


def _timestamptz(value: Json) -> Any:
    try:
        moment = dt.datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return _unfit(value)
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
        return _unfit(value)


def _date(value: Json) -> Any:
    try:
        return dt.date.fromisoformat(value)
    except (ValueError, TypeError):
        return _unfit(value)


def _time(value: Json) -> Any:
    try:
        # "24:00:00" is a time in PostgreSQL and not in Python: it stays text.
        return dt.time.fromisoformat(value)
    except (ValueError, TypeError):
        return _unfit(value)


def _bytes(value: Json) -> Any:
    # REST sends "\xdead", the socket "dead" (design/wire.md "Values"); hex never begins with a backslash.
    try:
        return bytes.fromhex(value[2:] if value.startswith("\\x") else value)
    except (ValueError, AttributeError):
        return _unfit(value)


def _json(value: Json) -> Any:
    """Undo ``exact_numbers`` inside json: its numbers are floats, whichever way they came.

    A value that a cell cannot hold becomes its text.
    """
    try:
        return _held_json(value, JSON_DEPTH)
    except _UnheldError:
        return UndecodedJson(ascii_json(value))


class _UnheldError(Exception):
    """A cell cannot hold this JSON."""


def _held_json(value: Json, depth: int) -> Any:
    if isinstance(value, str):
        if not value.isascii() and not _encodable(value):
            raise _UnheldError
        return value
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _UnheldError
        return value
    if isinstance(value, list):
        if not depth:
            raise _UnheldError
        return [_held_json(item, depth - 1) for item in value]
    if isinstance(value, dict):
        if not depth:
            raise _UnheldError
        return {_held_json(k, 0): _held_json(item, depth - 1) for k, item in value.items()}
    return value


def ascii_json(value: Json, *, exact_numbers: bool = False) -> str:
    """Return ``value`` as ASCII JSON, at any depth; the same whichever way it came.

    With ``exact_numbers`` every digit of a Decimal is kept, else only the digits of a float.
    """
    parts: list[str] = []
    left: list[Any] = [value]
    while left:
        one = left.pop()
        if isinstance(one, _Mark):
            parts.append(one)
        elif isinstance(one, list):
            parts.append("[")
            left.append(_END_OF_LIST)
            for at in range(len(one) - 1, -1, -1):
                left.append(one[at])
                if at:
                    left.append(_COMMA)
        elif isinstance(one, dict):
            parts.append("{")
            left.append(_END_OF_OBJECT)
            comma = len(one)
            for name, item in reversed(one.items()):
                comma -= 1
                left.append(item)
                left.append(_Mark(f"{', ' if comma else ''}{json.dumps(name)}: "))
        elif isinstance(one, Decimal) and exact_numbers:
            parts.append(str(one))
        elif isinstance(one, Decimal):
            number = float(one)
            parts.append(repr(number) if math.isfinite(number) else _digits(one))
        else:
            parts.append(json.dumps(one))
    return "".join(parts)


class _Mark(str):
    """A piece of JSON's own syntax, not a string in it."""

    __slots__ = ()


_COMMA, _END_OF_LIST, _END_OF_OBJECT = _Mark(", "), _Mark("]"), _Mark("}")


def _unfit(value: Json) -> Any:
    """Return a JSON value that is not of its column's type: unchanged, if a cell can hold it."""
    return _json(value)


def _text(value: Json) -> Any:
    return value if value.__class__ is str else _unfit(value)


def _hstore(value: Json) -> Any:
    """Return PostgreSQL's text of an hstore; REST sends an object, the socket this text."""
    if not isinstance(value, dict) or not all(isinstance(v, str | None) for v in value.values()):
        return _text(value)
    return hstore_text(value)


def hstore_text(pairs: Mapping[str, Any]) -> str:
    """Return an hstore as PostgreSQL writes it.

    >>> hstore_text({"a": "1", "b": None})
    '"a"=>"1", "b"=>NULL'
    """

    def quoted(value: Any) -> str:
        if value is None:
            return "NULL"
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'

    return ", ".join(f"{quoted(name)}=>{quoted(value)}" for name, value in pairs.items())


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
    "text": _text,
}


_DONE: Final[dict[Callable[[Json], Any], type]] = {
    _int: int,
    _float: float,
    _bool: bool,
    _text: str,
    _hstore: str,
}


def typed_class(decode: Callable[[Json], Any]) -> type:
    """Return the class whose instances ``decode`` returns unchanged; NoneType if there is none."""
    return _DONE.get(decode, type(None))


def decoded(decode: Callable[[Json], Any], values: Sequence[Json]) -> list[Any]:
    """Return ``decode(value)`` for each value, None for null; in one step if all are alike.

    >>> decoded(decoder("float8"), [1, 2.5]), decoded(decoder("float8"), [1, None])
    ([1.0, 2.5], [1.0, None])
    """
    whole = _WHOLE.get(decode)
    if whole is not None:
        with suppress(TypeError, ValueError, OverflowError):
            return whole(values)
    return [None if value is None else decode(value) for value in values]


def _floats(values: Sequence[Any]) -> list[Any]:
    if not set(map(type, values)) <= {int, float}:
        raise TypeError
    return list(map(float, values))


def _moments_in_utc(values: Sequence[Any]) -> list[Any]:
    moments = list(map(dt.datetime.fromisoformat, values))
    if not all(moment.tzinfo is _UTC for moment in moments):
        raise ValueError
    return moments


_WHOLE: Final[dict[Callable[[Json], Any], Callable[[Sequence[Any]], list[Any]]]] = {
    _float: _floats,
    _timestamptz: _moments_in_utc,
}
"""Decoders of many values at a time; they raise if the result might differ."""


@lru_cache(maxsize=4096)
def decoder(pg_type: str, numeric: Numeric = "float") -> Callable[[Json], Any]:
    """Return the function that makes a typed value from a non-null JSON value of ``pg_type``."""
    family = kind(pg_type)
    if family == "decimal":
        return _decimal if numeric == "decimal" else _float
    if canonical(pg_type) == "hstore":
        return _hstore
    if family != "array":
        return _DECODERS[family]
    item = decoder(element(pg_type), numeric)
    if item is _json:
        return _json

    def nested(value: Json, left: int = _DIMENSIONS) -> Any:
        if isinstance(value, list) and left:
            return [nested(one, left - 1) for one in value]
        return None if value is None else item(value)

    return nested


def decode(
    pg_type: str, value: Json, source: Source = "rest", *, numeric: Numeric = "float"
) -> Any:
    r"""Make a typed value from a JSON value.

    Parameters
    ----------
    pg_type : str
        The type's name, ``int8``, ``_text``, an enum's name.
    value
        The JSON value; None is null for every type.
    source : {"rest", "socket"}
        The sender. The two differ in bytea only, whose forms can be told apart; `lossy` finds the values that
        the socket cannot send at all.
    numeric : {"float", "decimal"}
        The Python type for ``numeric``. Exact only if the JSON was decoded with ``exact_numbers``.

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
    """Return whether ``value``, from the socket, may not be the true one (docs/design/wire.md "Values").

    NaN and infinities arrive as null, ``char(n)`` and ``bit(n)`` are cut to one character: such a row must be
    fetched.
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
    """Return whether the socket may send a wrong value for some value of ``pg_type``."""
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
    """Return the JSON of a typed value for the body of a write.

    Numbers that JSON cannot represent, and Decimals, are sent as text: PostgreSQL reads them exactly. An
    `UndecodedJson` can be the base of a write, but is never written.
    """
    family = kind(pg_type)
    if isinstance(value, UndecodedJson):
        return str(value)
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
    r"""Return the text from which PostgreSQL reads a typed value, as PostgREST's filters need it.

    The caller must quote it for the filter language.

    Examples
    --------
    >>> to_rest("_text", ["a", 'b,"c', None])
    '{"a","b,\\"c",NULL}'
    """
    family = kind(pg_type)
    if value is None:
        return "null"
    if isinstance(value, NestedKey):
        return to_rest(pg_type, json.loads(value))
    if family == "json":
        return value if isinstance(value, UndecodedJson) else json.dumps(value, ensure_ascii=False)
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


# --- whether a value is of its type -------------------------------------------------------------

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
    """Return whether a typed, non-null value is of its type's own class, not a text or JSON kept as is."""
    family = kind(pg_type)
    if family == "int":
        return type(value) is int and value in INT64
    if family == "decimal":
        return isinstance(value, Decimal if numeric == "decimal" else float)
    if family == "text":
        return isinstance(value, str) and _encodable(value)
    return isinstance(value, _CLASSES[family])


def _encodable(text: str) -> bool:
    """Return whether ``text`` is Unicode: UTF-8 and Arrow have no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


NOT_FINITE: Final = frozenset(("NaN", "Infinity", "-Infinity"))
"""The texts in REST's JSON for values that are not JSON numbers."""


def may_be_of(pg_type: str, value: Json) -> bool:
    """Return whether REST may send ``value`` for a value of ``pg_type``, a built-in type of PostgreSQL."""
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


_ATOMS: Final = frozenset({int, float, str, bool, dt.datetime, dt.date, Decimal})
"""Classes whose instances are `equal` exactly if ``==`` is true."""


def equal(a: Any, b: Any) -> bool:
    """Return whether two typed values are the same: None is None, NaN is NaN, JSON true is not 1."""
    if a is b:
        return True
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(item, b[name]) for name, item in a.items())
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b) or bool(a != a and b != b)


_EXACT: Final = _ATOMS - {float, Decimal}
"""Classes whose equal values cannot be told apart."""


def is_same(a: Any, b: Any) -> bool:
    """Return whether one of two typed values can replace the other, as far as a quick check shows.

    It cannot for 0.0 and -0.0, or 1.0 and 1.00 as decimals, which are `equal`.
    """
    if a is b:
        return True
    known = b.__class__
    if a.__class__ is not known:
        return False
    return bool((known in _EXACT or (known is float and b)) and a == b)


def differs(row: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Return whether a column of ``row`` differs in ``known``; a column missing there counts as null."""
    for name, value in row.items():
        mine = known.get(name)
        if mine is value:
            continue
        if mine.__class__ is value.__class__ and value.__class__ in _ATOMS and mine == value:
            continue
        if not equal(mine, value):
            return True
    return False
