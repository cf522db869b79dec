"""The faults as values, and the parts of a frame that the proxy needs for them.

In: the text of a frame. Out: its topic, its kind and its table (``Frame``), or the same change as
the server sends it when the row is over 1 MiB (``truncated``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal[
    "change", "heartbeat", "reply", "system", "broadcast", "presence", "close"
]

# Rules ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRule:
    """Which frames of the server: by ``chance``, ``kind``, the table of a change, and the numbers of
    messages that tell a table's changes by broadcast (None: any).
    """

    chance: float = 1.0
    kind: Kind | None = "change"
    table: str | None = None
    numbers: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(FrameRule):
    """The frame never arrives. ``Drop(kind="heartbeat")``: unanswered while TCP lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Double(FrameRule):
    """The frame arrives twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(FrameRule):
    """The frame arrives up to ``seconds`` late: out of order with other topics and with REST.

    ``in_order=False``: within its topic, too, which the real server never does.
    """

    seconds: float = 0.5
    in_order: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate(FrameRule):
    """A change arrives as a 413: values above 64 bytes are absent keys (docs/design/wire.md, "Values")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp(FrameRule):
    """Instead of the frame the socket closes with ``code``; 1006: without a word."""

    code: int = 1006


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRule:
    """Which requests: by ``chance``, what the path contains, and the method (None: any).

    A socket's handshake is a request whose path contains ``/websocket``.
    """

    chance: float = 1.0
    path: str = "/rest/"
    method: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(RequestRule):
    """The connection breaks before the server hears of the request, or after it has acted: before
    its answer, or in the middle of it.
    """

    when: Literal["before", "after", "within"] = "before"


def lost_answers(chance: float = 1.0) -> tuple[Cut, ...]:
    """The server acts on a write, and nobody hears of it."""
    return tuple(
        Cut(chance=chance, path="/", method=method, when="after")
        for method in ("POST", "PATCH", "DELETE")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall(RequestRule):
    """The server acts at once, its answer arrives up to ``seconds`` late: an old truth.

    With ``path="/websocket"``, open sockets carry nothing either way while the rule stands.
    """

    seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(RequestRule):
    """The answer of a gateway, without asking the server: 401, 429, 503 …"""

    status: int = 503
    retry_after: int | None = None
    body: bytes | None = None
    """As it stands; None: JSON, as a gateway of the platform words it."""


Rule: TypeAlias = FrameRule | RequestRule

# Frames -----------------------------------------------------------------------------------------

LARGE: Final = 64


@dataclass(frozen=True, slots=True)
class Frame:
    topic: str
    kind: Kind
    table: str | None
    number: int | None = None

    @classmethod
    def read(cls, text: str | bytes) -> Frame:
        if isinstance(text, bytes):  # a broadcast of version 2: four sizes, then what they are of
            topic_size, event_size, meta_size = text[1:4]
            start = 5 + topic_size + event_size + meta_size
            return cls(text[5 : 5 + topic_size].decode(), "broadcast", None, _number(text[start:]))
        message = msgspec.json.decode(text, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
        raw_topic, raw_event, payload = (
            message[2:5]
            if isinstance(message, list)
            else (message["topic"], message["event"], message["payload"])
        )
        topic = msgspec.json.decode(raw_topic, type=str)
        event = msgspec.json.decode(raw_event, type=str)
        if event == "postgres_changes":
            return cls(topic, "change", msgspec.json.decode(payload, type=_Payload).data.table)
        if event in ("INSERT", "UPDATE", "DELETE"):  # the old style of a join without config
            return cls(topic, "change", msgspec.json.decode(payload, type=_Data).table)
        if event == "broadcast":
            body = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
            return cls(topic, "broadcast", None, _number(bytes(body.get("payload", b""))))
        if topic == "phoenix":
            return cls(topic, "heartbeat", None)
        return cls(topic, _KINDS.get(event, "reply"), None)


def _number(payload: bytes) -> int | None:
    """The number of a message that tells a table's changes (docs/design/broadcast.md)."""
    try:
        return msgspec.json.decode(payload, type=_Numbered).n
    except msgspec.MsgspecError:  # somebody else's broadcast
        return None


_KINDS: Final[dict[str, Kind]] = {
    "phx_reply": "reply",
    "system": "system",
    "presence_state": "presence",
    "presence_diff": "presence",
    "phx_close": "close",
    "phx_error": "close",
}


class _Data(msgspec.Struct):
    table: str


class _Numbered(msgspec.Struct):
    n: int


class _Payload(msgspec.Struct):
    data: _Data


def truncated(text: str) -> str:
    """A change's frame as if its row were over 1 MiB; numbers keep their digits.

    >>> frame = '{"payload":{"data":{"record":{"a":1.000,"b":"%s"},"errors":null}}}' % ("x" * 65)
    >>> truncated(frame)
    '{"payload":{"data":{"record":{"a":1.000},"errors":["Error 413: Payload Too Large"]}}}'
    """
    decode, encode = msgspec.json.decode, msgspec.json.encode
    message: Any = decode(text, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
    where: Any = 4 if isinstance(message, list) else "payload"
    payload = decode(message[where], type=dict[str, msgspec.Raw])
    data = decode(payload["data"], type=dict[str, msgspec.Raw])
    for name in ("record", "old_record"):
        if bytes(data.get(name, b"null")) != b"null":
            values = decode(data[name], type=dict[str, msgspec.Raw])
            kept = {n: v for n, v in values.items() if len(bytes(v).strip(b'"')) <= LARGE}
            data[name] = msgspec.Raw(encode(kept))
    data["errors"] = msgspec.Raw(b'["Error 413: Payload Too Large"]')
    payload["data"] = msgspec.Raw(encode(data))
    message[where] = msgspec.Raw(encode(payload))
    return encode(message).decode()
