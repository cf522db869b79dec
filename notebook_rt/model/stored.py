"""JSON as this machine's files hold it: any value of a row, back as it was."""

from __future__ import annotations

import msgspec

from notebook_rt.model.decode import decode_json
from notebook_rt.model.rows import Json
from notebook_rt.model.values import ascii_json

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
