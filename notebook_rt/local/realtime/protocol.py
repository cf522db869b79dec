"""The two serializers of a Phoenix channel: decode frames, and encode messages. Pure.

Version 1.0.0 is a JSON object, 2.0.0 a JSON array or a binary frame. In: a frame's text or bytes. Out:
`Message`, or None for frames that the real server ignores. Existing JSON (a row, a relayed payload) is passed
through as text, so that numbers of any length are preserved.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Version = Literal["1.0.0", "2.0.0"]
VERSIONS: tuple[Version, ...] = ("1.0.0", "2.0.0")

MAX_DEPTH = 100
"""Maximum nesting of JSON that the server reads; relayed JSON is not limited."""

PUSH, BROADCAST, USER_BROADCAST_PUSH, USER_BROADCAST = 0, 2, 3, 4


@dataclass(frozen=True, slots=True)
class UserBroadcast:
    """A broadcast as sent: a payload in bytes, declared as JSON or not."""

    event: str
    payload: bytes
    is_json: bool
    meta: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A frame from a client. `payload` is JSON text, raw bytes or a `UserBroadcast`."""

    join_ref: Any
    ref: Any
    topic: str
    event: str
    payload: str | bytes | UserBroadcast

    def json(self) -> Any:
        """The parsed payload; None if it is not JSON, or nested too deeply."""
        if not isinstance(self.payload, str):
            return None
        try:
            return loads(self.payload)
        except ValueError:
            return None


Ref = str | int | float | bool | None
"""The number of a client's message, which is sent back unchanged."""


class _Frame1(msgspec.Struct):
    topic: str
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    ref: Ref = None
    join_ref: Ref = None


class _Frame2(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    join_ref: Ref
    ref: Ref
    topic: str
    event: str
    payload: msgspec.Raw


_decode1 = msgspec.json.Decoder(_Frame1).decode
_decode2 = msgspec.json.Decoder(_Frame2).decode


def dumps(value: Any) -> str:
    """Encode compact JSON, like Elixir's Jason."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """Decode JSON of a client that will be encoded again.

    Raises
    ------
    ValueError
        If it is not JSON, has an unpaired surrogate, or is nested too deeply.
    """
    text = text.decode() if isinstance(text, bytes) else text
    if _depth(text) > MAX_DEPTH:
        raise ValueError("JSON nested too deep")
    if not _is_text(text):
        raise ValueError("JSON with half a surrogate pair")
    return json.loads(text)


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """Return the nesting of JSON; if it is small, an upper bound."""
    most = text.count("[") + text.count("{")
    if most <= MAX_DEPTH:
        return most
    depth = most = 0
    for token in _TOKENS.findall(text):
        if token in "[{":
            depth += 1
            most = max(most, depth)
        elif token in "]}":
            depth -= 1
    return most


def _is_text(text: str) -> bool:
    """Return whether JSON contains only valid text: an unpaired surrogate cannot be sent."""
    if not _SURROGATE.search(text):
        return True
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def decode_text(vsn: Version, text: str) -> Message | None:
    """Decode a text frame; None if it is not a message (the real server ignores it)."""
    try:
        read = _decode1(text) if vsn == "1.0.0" else _decode2(text)
        payload = bytes(read.payload).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not _is_text(payload):
        return None
    return Message(read.join_ref, read.ref, read.topic, read.event, payload)


def decode_binary(data: bytes) -> Message | None:
    """Decode a binary frame of version 2.0.0: a push of raw bytes, or a user's broadcast."""
    try:
        if data[:1] == bytes([PUSH]) and len(data) >= 5:
            (join_ref, ref, topic, event), body = _cut(data[5:], data[1:5])
            return Message(join_ref or None, ref or None, topic, event, body)
        if data[:1] == bytes([USER_BROADCAST_PUSH]) and len(data) >= 7:
            (join_ref, ref, topic, event, meta), body = _cut(data[7:], data[1:6])
            payload = UserBroadcast(event, body, data[6] == 1, meta)
            return Message(join_ref or None, ref or None, topic, "broadcast", payload)
    except ValueError:  # too short, or not UTF-8
        return None
    return None


def _cut(body: bytes, sizes: bytes) -> tuple[list[str], bytes]:
    """Split the strings with these sizes from the beginning of ``body``; return them and the rest."""
    if len(body) < sum(sizes):
        raise ValueError("shorter than its header says")
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size].decode())
        start += size
    return parts, bytes(body[start:])


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return _is_text(text)


def frame(
    vsn: Version, topic: str, event: str, payload: str, join_ref: Any = None, ref: Any = None
) -> str:
    """Encode a text frame; `payload` is JSON text. Version 1 never contains the join's ref."""
    if vsn == "1.0.0":
        return (
            f'{{"ref":{dumps(ref)},"event":{dumps(event)},"payload":{payload},'
            f'"topic":{dumps(topic)}}}'
        )
    return f"[{dumps(join_ref)},{dumps(ref)},{dumps(topic)},{dumps(event)},{payload}]"


def raw_broadcast(vsn: Version, topic: str, event: str, payload: bytes) -> str | bytes:
    """Encode a binary push for subscribers. Version 1 gets a form that no JSON parser accepts."""
    if vsn == "1.0.0":
        return frame(vsn, topic, event, '%{error: "unable to parse response"}')
    head = (topic.encode(), event.encode())
    return bytes([BROADCAST, *map(len, head)]) + b"".join(head) + payload


def user_broadcast(vsn: Version, topic: str, message: UserBroadcast) -> str | bytes | None:
    """Encode a user's broadcast for subscribers; None: version 1 has no form for raw bytes, or for a
    payload declared as JSON that is not, which would be parsed as a part of the frame."""
    if vsn == "2.0.0":
        head = (topic.encode(), message.event.encode(), message.meta.encode())
        sizes = bytes([USER_BROADCAST, *map(len, head), 1 if message.is_json else 0])
        return sizes + b"".join(head) + message.payload
    payload = message.payload.decode(errors="replace")
    if not message.is_json or not _is_json(payload) or not _is_json(message.meta or "null"):
        return None
    meta = f'"meta":{message.meta},' if message.meta else ""
    body = f'{{"event":{dumps(message.event)},{meta}"payload":{payload},"type":"broadcast"}}'
    return frame(vsn, topic, "broadcast", body)
