"""The parts of an operation that the queue's file stores as JSON."""

from __future__ import annotations

from typing import Final

from notebook_rt.edits.ops import Json, Op
from notebook_rt.model.stored import decode, encode

_BODY: Final = (
    "key",
    "values",
    "base",
    "types",
    "rules",
    "version",
    "own_key",
    "upsert",
    "drawn",
    "event",
    "private",
    "repeatable",
    "xmin",
    "untold",
)


def body(op: Op) -> str:
    """Return the stored parts of an operation as one JSON document, without empty parts."""
    return encode({name: value for name in _BODY if (value := getattr(op, name))}).decode()


def fields_of_body(text: str | bytes) -> dict[str, Json]:
    """Return the fields of ``body``."""
    fields = decode(text)
    if not isinstance(fields, dict):
        raise TypeError("an operation's body is an object")
    return {name: value for name, value in fields.items() if name in _BODY}
