"""Typed values as bytes and back, exactly: the same value and class, whatever its column's type.

Types of MessagePack are written directly; an integer beyond 64 bits, a ``Decimal``, a date or time, and
text with half of a surrogate pair are extensions.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Schema

_INT64: Final = range(-(2**63), 2**63)
_DIRECT: Final = frozenset((bool, bytes, float, type(None)))


def dump(value: Any) -> bytes:
    """Return the bytes of a typed value, or of a list of them."""
    return msgspec.msgpack.encode(_plain(value))


def load(raw: bytes | memoryview) -> Any:
    """Return the value that `dump` wrote.

    Raises
    ------
    ValueError
        If the bytes are not from `dump`.
    """
    try:
        return _decoder.decode(raw)
    except (ArithmeticError, TypeError, msgspec.DecodeError) as error:
        raise ValueError(f"no value: {error}") from error


def dump_ops(ops: Sequence[Op], schema: Schema) -> list[Any]:
    """Return operations on rows of ``schema`` for `dump`, without columns that it does not have."""
    known = schema.types
    found: list[list[Any]] = []
    for op in ops:
        told: list[Any] = [dump_key(op.key, schema)]
        if not isinstance(op, Delete):
            told.append({name: value for name, value in op.row.items() if name in known})
        found.append(told)
    return found


def load_ops(told: Sequence[Sequence[Any]], schema: Schema) -> list[Op]:
    """Return the operations that `dump_ops` returned."""
    found: list[Op] = []
    for key, *row in told:
        made = key_of(key, schema)
        found.append(Upsert(made, row[0]) if row else Delete(made))
    return found


def dump_key(key: Key, schema: Schema) -> list[Any]:
    """Return the values of a key's columns."""
    return list(schema.values_of(key).values())


def key_of(values: Sequence[Any], schema: Schema) -> Key:
    """Return the key with these values of its columns."""
    return schema.key_of(dict(zip(schema.key, values, strict=True)))


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _DIRECT:
        return value
    if kind is str:
        return value if _is_whole(value) else _ext(5, value.encode("utf-8", "surrogatepass"))
    if kind is int:
        return value if value in _INT64 else _ext(1, hex(value).encode())
    if kind is Decimal:
        return _ext(2, str(value).encode())
    if kind is dt.datetime or kind is dt.date or kind is dt.time:
        return _ext(_MOMENTS[kind], value.isoformat().encode())
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    if isinstance(value, dict):
        if all(type(name) is str and _is_whole(name) for name in value):
            return {name: _plain(item) for name, item in value.items()}
        pairs = [[_plain(name), _plain(item)] for name, item in value.items()]
        return _ext(7, msgspec.msgpack.encode(pairs))
    if isinstance(value, str):  # a user's enum
        return _plain(str(value))
    raise TypeError(f"{kind.__name__} is not a typed value")


def _is_whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _ext(code: int, raw: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, raw)


_MOMENTS: Final[dict[type, int]] = {dt.datetime: 3, dt.date: 4, dt.time: 6}
_READ: Final[dict[int, Callable[[bytes], Any]]] = {
    1: lambda raw: int(raw, 16),
    2: lambda raw: Decimal(raw.decode()),
    3: lambda raw: _in_utc(dt.datetime.fromisoformat(raw.decode())),
    4: lambda raw: dt.date.fromisoformat(raw.decode()),
    5: lambda raw: raw.decode("utf-8", "surrogatepass"),
    6: lambda raw: dt.time.fromisoformat(raw.decode()),
    7: lambda raw: dict(load(raw)),
}


def _in_utc(at: dt.datetime) -> dt.datetime:
    return at if at.tzinfo is None or at.utcoffset() else at.replace(tzinfo=dt.UTC)


def _extended(code: int, raw: memoryview) -> Any:
    read = _READ.get(code)
    if read is None:
        raise ValueError(f"no extension {code}")
    return read(bytes(raw))


_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_extended)
