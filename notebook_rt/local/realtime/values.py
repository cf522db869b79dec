"""Convert a column's text, as logged by PostgreSQL, to the JSON that the real server sends.

In: PostgreSQL's text form and the type. Out: JSON text. Common types are converted here; for types that only
PostgreSQL can convert (composites, types with a cast to json) `encoder` returns None, and PostgreSQL creates
the row. Values that the real server loses through wal2json and a cast by name are lost here, too
(`docs/design/wire.md`, "Values"): NaN and infinities are null, bytea has no `\\x`, `char(n)` and `bit(n)`
keep one character.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Encoder = Callable[[str], str]

_VECTORS = ("int2vector", "oidvector")
"""Arrays to the catalog, but not in their text."""
MAX_DIGITS = 131_072 + 16_383
"""Maximum digits of a numeric; a json may contain `1e999999999`, which must not be expanded."""

_quote = json.encoder.encode_basestring


@dataclass(frozen=True, slots=True)
class PgType:
    """A type of the catalog. `kind` is pg_type.typtype, `element` an array's element type."""

    oid: int
    name: str
    kind: str
    sql: str
    element: "PgType | None" = None
    base: "PgType | None" = None
    json_cast: bool = False


def encoder(kind: PgType) -> Encoder | None:
    """Return the JSON encoder of a type; None: use PostgreSQL (`to_jsonb`)."""
    if kind.base is not None:
        return encoder(kind.base)
    if kind.element is not None:
        item = _element_encoder(kind.element)
        if item is not None and kind.name in _VECTORS:
            return lambda text: "[" + ", ".join(map(item, text.split())) + "]"
        return None if item is None else _array_encoder(item)
    if kind.name in _ENCODERS:
        return _ENCODERS[kind.name]
    if kind.kind == "c" or kind.json_cast:
        return None
    return _quote


def _boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def _number(text: str) -> str:
    """Format a float or numeric like jsonb: all digits, no exponent, no sign on zero."""
    if text[-1] in "Nny":  # NaN, Infinity, -Infinity
        return "null"
    if "e" in text:
        number = Decimal(text)
        if abs(number.adjusted()) > MAX_DIGITS:
            raise ValueError("more digits than a numeric has")
        text = format(number, "f")
    return "0" if text == "-0" else text


def _element_number(text: str) -> str:
    # Inside an array they went through a cast, not through wal2json's number.
    return _quote(text) if text[-1] in "Nny" else _number(text)


def _timestamp(text: str) -> str:
    return _quote(text.replace(" ", "T", 1)) if text[-1] != "y" else _quote(text)


def _timestamptz(text: str) -> str:
    if text[-1] == "y":  # infinity
        return _quote(text)
    text = text.replace(" ", "T", 1)
    if text.endswith(" BC"):
        return _quote(text[:-3] + ":00 BC")
    return _quote(text + ":00")


def _json(text: str) -> str:
    """Format JSON like jsonb: the last of duplicate keys, keys by length, numbers without exponent.

    It is returned unchanged, which is also JSON, if jsonb cannot contain it (an unpaired surrogate, a
    number with too many digits) or if it is nested too deeply to be parsed here.
    """
    try:
        made = jsonb(json.loads(text, parse_float=_Number, parse_int=_Number))
        if "\\u" in text:
            made.encode()
    except (RecursionError, ValueError):
        return text
    return made


class _Number(str):
    __slots__ = ()


def jsonb(value: Any) -> str:
    """Format a parsed JSON value in jsonb's order of keys and with its spaces."""
    match value:
        case _Number():
            return _number(value.lower())
        case str():
            return _quote(value)
        case dict():
            keys = sorted(value, key=key_order)
            return "{" + ", ".join(f"{_quote(key)}: {jsonb(value[key])}" for key in keys) + "}"
        case list():
            return "[" + ", ".join(map(jsonb, value)) + "]"
    return json.dumps(value)


def key_order(key: str) -> tuple[int, bytes]:
    """Return the sort key of a key in a jsonb object: shorter ones first, then by bytes."""
    data = key.encode()
    return len(data), data


def _identity(text: str) -> str:
    return text


def _first(text: str) -> str:
    return _quote(text[:1])


def _bytea(text: str) -> str:
    return _quote(text.removeprefix("\\x"))


_ENCODERS: dict[str, Encoder] = {
    **dict.fromkeys(("int2", "int4", "int8"), _identity),
    **dict.fromkeys(("numeric", "float4", "float8"), _number),
    "bool": _boolean,
    "jsonb": _identity,
    "json": _json,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "bytea": _bytea,
    **dict.fromkeys(("bpchar", "bit"), _first),
}

# Elements of an array are only cast with it: a NaN is text, a bytea keeps its `\x`.
_ELEMENTS: dict[str, Encoder] = {
    **dict.fromkeys(("numeric", "float4", "float8"), _element_number),
    "bytea": _quote,
}


def _element_encoder(kind: PgType) -> Encoder | None:
    return _ELEMENTS.get(kind.name) or encoder(kind)


def _array_encoder(item: Encoder) -> Encoder:
    def array(text: str) -> str:
        return _nested(parse_array(text), item)

    return array


def _nested(value: list[Any] | str | None, item: Encoder) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_nested(member, item) for member in value) + "]"
    return "null" if value is None else item(value)


def parse_array(text: str) -> list[Any]:
    r"""Parse PostgreSQL's array text to nested lists of text and None.

    >>> parse_array('{a,"b,\\"c",NULL,{}}')
    ['a', 'b,"c', None, []]
    """
    at = text.index("{")  # a lower bound other than one comes first: [0:1]={1,2}
    result, _ = _array(text, at + 1)
    return result


def _array(text: str, at: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while text[at] != "}":
        if text[at] == ",":
            at += 1
        elif text[at] == "{":
            item, at = _array(text, at + 1)
            items.append(item)
        elif text[at] == '"':
            word, at = quoted(text, at)
            items.append(word)
        else:
            end = at
            while text[end] not in ",}":
                end += 1
            word = text[at:end]
            items.append(None if word == "NULL" else word)
            at = end
    return items, at + 1


def quoted(text: str, at: int) -> tuple[str, int]:
    """Return the content of the quotes that open at `at`, and their end."""
    out: list[str] = []
    at += 1
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out), at + 1
