"""JSON as stored in this machine's files: any value of a row, restored unchanged."""

from __future__ import annotations

import msgspec

from notebook_rt.model.decode import decode_json
from notebook_rt.model.rows import Json
from notebook_rt.model.values import ascii_json

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder().decode


def encode(value: Json) -> bytes:
    """Return JSON for the file, of any depth, and with half a surrogate pair, as in a server's row."""
    try:
        return _encode(value)
    except (RecursionError, UnicodeEncodeError):
        return ascii_json(value, exact_numbers=True).encode()


def decode(text: str | bytes) -> Json:
    """Decode the result of `encode`; raise msgspec.DecodeError if the file is damaged."""
    try:
        return _decode(text)
    except (RecursionError, msgspec.DecodeError) as error:
        try:
            return decode_json(text)
        except ValueError:
            raise msgspec.DecodeError(str(error)) from error
