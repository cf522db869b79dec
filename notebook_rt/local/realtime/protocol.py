"""The two serializers of a Phoenix channel: what a frame says, and a message as a frame.

Version 1.0.0 is a JSON object, 2.0.0 a JSON array or a binary frame. In: a frame's text or
bytes. Out: `Message`, or None for what the real server ignores. Pure. JSON that goes out and was
JSON already (a row, a relayed payload) is passed through as text: numbers of any length survive.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Version = Literal["1.0.0", "2.0.0"]
VERSIONS: tuple[Version, ...] = ("1.0.0", "2.0.0")

MAX_DEPTH = 100
"""How deep JSON may be nested that the server itself has to read; what it only relays, as it likes."""

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
        """The payload parsed; None when it is not JSON, or nested too deep."""
        if not isinstance(self.payload, str):
            return None
        try:
            return loads(self.payload)
        except ValueError:
            return None


Ref = str | int | float | bool | None
"""What a client numbers its messages by; it is sent back as it came."""


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
    """Compact JSON, as Elixir's Jason writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """JSON that somebody sent, to be read and to be written again.

    Raises
    ------
    ValueError
        It is no JSON, has half a surrogate pair, or is nested too deep.
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
    """How deep JSON is nested; an upper bound where that is small."""
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
    """Whether JSON says nothing but text: half a surrogate pair could be sent to nobody."""
    if not _SURROGATE.search(text):
        return True
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return True


def decode_text(vsn: Version, text: str) -> Message | None:
    """Read a text frame; None when it is no message (the real server ignores it)."""
    try:
        read = _decode1(text) if vsn == "1.0.0" else _decode2(text)
        payload = bytes(read.payload).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not _is_text(payload):
        return None
    return Message(read.join_ref, read.ref, read.topic, read.event, payload)


def decode_binary(data: bytes) -> Message | None:
    """Read a binary frame of version 2.0.0: a push of raw bytes, or a user's broadcast."""
    try:
        if data[:1] == bytes([PUSH]) and len(data) >= 5:
            (join_ref, ref, topic, event), body = _cut(data[5:], data[1:5])
            return Message(join_ref or None, ref or None, topic, event, body)
        if data[:1] == bytes([USER_BROADCAST_PUSH]) and len(data) >= 7:
            (join_ref, ref, topic, event, meta), body = _cut(data[7:], data[1:6])
            payload = UserBroadcast(event, body, data[6] == 1, meta)
            return Message(join_ref or None, ref or None, topic, "broadcast", payload)
    except ValueError:  # too short, or no UTF-8
        return None
    return None


def _cut(body: bytes, sizes: bytes) -> tuple[list[str], bytes]:
    """The texts of those sizes that ``body`` begins with, and the rest."""
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
    """A user's broadcast as subscribers get it; None: version 1 has no form for raw bytes, nor for
    what is said to be JSON and is not: it would be read as parts of the frame."""
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
