"""The two serializers of a Phoenix channel: what a frame says, and a message as a frame.

Version 1.0.0 is a JSON object, 2.0.0 a JSON array or a binary frame. In: a frame's text or
bytes. Out: `Message`, or None for what the real server ignores. Pure. JSON that goes out and was
JSON already (a row, a relayed payload) is passed through as text: numbers of any length survive.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Version = Literal["1.0.0", "2.0.0"]
VERSIONS: tuple[Version, ...] = ("1.0.0", "2.0.0")

PUSH, BROADCAST, USER_BROADCAST_PUSH, USER_BROADCAST = 0, 2, 3, 4


@dataclass(frozen=True, slots=True)
class UserBroadcast:
    """A broadcast as its sender wrote it: a payload in bytes, said to be JSON or not."""

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
        """The payload parsed; None when it is not JSON."""
        return json.loads(self.payload) if isinstance(self.payload, str) else None


class _Frame1(msgspec.Struct):
    topic: str
    event: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    ref: Any = None
    join_ref: Any = None


class _Frame2(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    join_ref: Any
    ref: Any
    topic: str
    event: str
    payload: msgspec.Raw


_decode1 = msgspec.json.Decoder(_Frame1).decode
_decode2 = msgspec.json.Decoder(_Frame2).decode


def dumps(value: Any) -> str:
    """Compact JSON, as Elixir's Jason writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def decode_text(vsn: Version, text: str) -> Message | None:
    """Read a text frame; None when it is no message (the real server ignores it)."""
    try:
        read = _decode1(text) if vsn == "1.0.0" else _decode2(text)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    payload = bytes(read.payload).decode()
    return Message(read.join_ref, read.ref, read.topic, read.event, payload)


def decode_binary(data: bytes) -> Message | None:
    """Read a binary frame of version 2.0.0: a push of raw bytes, or a user's broadcast."""
    try:
        if data[0] == PUSH:
            sizes, body = data[1:5], data[5:]
            join_ref, ref, topic, event = _cut(body, sizes)
            return Message(join_ref or None, ref or None, topic, event, bytes(body[sum(sizes) :]))
        if data[0] == USER_BROADCAST_PUSH:
            sizes, encoding, body = data[1:6], data[6], data[7:]
            join_ref, ref, topic, event, meta = _cut(body, sizes)
            payload = UserBroadcast(event, body[sum(sizes) :], encoding == 1, meta)
            return Message(join_ref or None, ref or None, topic, "broadcast", payload)
    except (IndexError, UnicodeDecodeError):
        return None
    return None


def _cut(body: bytes, sizes: bytes) -> list[str]:
    if len(body) < sum(sizes):
        raise IndexError("shorter than its header says")
    parts, start = [], 0
    for size in sizes:
        parts.append(body[start : start + size].decode())
        start += size
    return parts


def frame(
    vsn: Version, topic: str, event: str, payload: str, join_ref: Any = None, ref: Any = None
) -> str:
    """A text frame; `payload` is JSON text. Version 1 never carries the join's ref."""
    if vsn == "1.0.0":
        return (
            f'{{"ref":{dumps(ref)},"event":{dumps(event)},"payload":{payload},'
            f'"topic":{dumps(topic)}}}'
        )
    return f"[{dumps(join_ref)},{dumps(ref)},{dumps(topic)},{dumps(event)},{payload}]"


def raw_broadcast(vsn: Version, topic: str, event: str, payload: bytes) -> str | bytes:
    """A binary push as subscribers get it. Version 1 gets what no JSON parser accepts."""
    if vsn == "1.0.0":
        return frame(vsn, topic, event, '%{error: "unable to parse response"}')
    head = (topic.encode(), event.encode())
    return bytes([BROADCAST, *map(len, head)]) + b"".join(head) + payload


def user_broadcast(vsn: Version, topic: str, message: UserBroadcast) -> str | bytes | None:
    """A user's broadcast as subscribers get it; None: version 1 has no form for raw bytes."""
    if vsn == "2.0.0":
        head = (topic.encode(), message.event.encode(), message.meta.encode())
        sizes = bytes([USER_BROADCAST, *map(len, head), 1 if message.is_json else 0])
        return sizes + b"".join(head) + message.payload
    if not message.is_json:
        return None
    meta = f'"meta":{message.meta},' if message.meta else ""
    payload = message.payload.decode(errors="replace")
    body = f'{{"event":{dumps(message.event)},{meta}"payload":{payload},"type":"broadcast"}}'
    return frame(vsn, topic, "broadcast", body)
