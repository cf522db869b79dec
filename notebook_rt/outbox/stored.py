"""What the queue's file stores as JSON: an operation's body, a merge decision, any value of a row."""

from __future__ import annotations

from typing import Final

import msgspec

from notebook_rt.edits.ops import Json, Op
from notebook_rt.model.decode import decode_json
from notebook_rt.model.values import ascii_json

_BODY: Final = (
    "key",
    "values",
    "base",
    "types",
    "rules",
    "version",
    "own_key",
    "drawn",
    "event",
    "private",
    "repeatable",
    "xmin",
    "untold",
)
_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder().decode


def encode(value: Json) -> bytes:
    """JSON for the file: at any depth, and with half a surrogate pair, as a server's row may have it."""
    try:
        return _encode(value)
    except (RecursionError, UnicodeEncodeError):
        return ascii_json(value, exact_numbers=True).encode()


def decode(text: str | bytes) -> Json:
    """What `encode` has written; raises msgspec.DecodeError where the file is damaged."""
    try:
        return _decode(text)
    except (RecursionError, msgspec.DecodeError) as error:
        try:
            return decode_json(text)
        except ValueError:
            raise msgspec.DecodeError(str(error)) from error


def body(op: Op) -> str:
    """What of an operation is stored as one JSON document; empty parts are left out."""
    return encode({name: value for name in _BODY if (value := getattr(op, name))}).decode()


def unbody(text: str | bytes) -> dict[str, Json]:
    """The fields of ``body``."""
    fields = decode(text)
    if not isinstance(fields, dict):
        raise TypeError("an operation's body is an object")
    return {name: value for name, value in fields.items() if name in _BODY}
