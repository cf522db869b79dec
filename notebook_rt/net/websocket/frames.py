"""One websocket frame of the server, decoded once: a ``Change`` for a table, or a ``Frame``.

Nearly all frames of a live table are changes, so these are decoded in one pass by a typed decoder. Frames
that it rejects (a number beyond the range of float, an unknown envelope) are decoded again, slowly and
leniently: a frame is lost only if it is not JSON.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec

from notebook_rt.model.decode import decode_json
from notebook_rt.model.types import Column
from notebook_rt.sync.events import Change

_MARK: Final = b'"postgres_changes"'
_BROADCAST: Final = b'"realtime:nrt:'
"""The prefix of the topics on which the database broadcasts tables' changes."""
_KINDS: Final = frozenset({"INSERT", "UPDATE", "DELETE"})
_CHANGE_EVENTS: Final = _KINDS | {"postgres_changes", "TRUNCATE"}
"""Events that contain changes; joins of the old style use the kinds themselves."""
_KEYS: Final = frozenset({"topic", "event", "payload", "ref", "join_ref"})


_UNREADABLE: Final = (ValueError, TypeError, KeyError, ArithmeticError, RecursionError)
"""Exceptions of decoding; ``msgspec.DecodeError`` is a ValueError."""


class Frame(msgspec.Struct, frozen=True):
    """Any other frame of protocol 1.0.0."""

    topic: str
    event: str
    payload: Any
    ref: str | None
    unknown_keys: int = 0
    """Number of unknown keys in the envelope."""


class ChangeFrame(msgspec.Struct, frozen=True):
    topic: str
    change: Change | None
    """None: a change of an unknown kind, so a change may be lost."""


class UnknownFrame(msgspec.Struct, frozen=True):
    """A frame of another protocol, or one that is not JSON."""

    perhaps_a_change: bool


class _Data(msgspec.Struct):
    type: str
    columns: msgspec.Raw = msgspec.Raw(b"[]")
    commit_timestamp: str | None = None
    errors: list[str] | str | None = None
    record: dict[str, Any] | None = None
    old_record: dict[str, Any] | None = None


class _Payload(msgspec.Struct):
    data: _Data


class _Envelope(msgspec.Struct):
    topic: str
    event: str
    payload: _Payload


_FAST: Final = msgspec.json.Decoder(_Envelope)
_EXACT: Final = msgspec.json.Decoder(_Envelope, float_hook=Decimal)


def decode_frame(frame: bytes, exact_numbers: bool = False) -> Frame | ChangeFrame | UnknownFrame:
    """Decode one frame; never raises, for any bytes."""
    if _MARK in frame:
        try:
            envelope = (_EXACT if exact_numbers else _FAST).decode(frame)
            if envelope.event == "postgres_changes":
                data = envelope.payload.data
                columns, commit = _columns(bytes(data.columns)), data.commit_timestamp
                return ChangeFrame(
                    envelope.topic,
                    _change(data.type, data.record, data.old_record, columns, commit, data.errors),
                )
        except _UNREADABLE:
            pass
    return _leniently(frame, exact_numbers)


def _leniently(frame: bytes, exact_numbers: bool) -> Frame | ChangeFrame | UnknownFrame:
    try:
        of_a_table = _MARK in frame or _BROADCAST in frame
        message = decode_json(frame, exact_numbers and of_a_table)
    except _UNREADABLE:
        # A binary broadcast of a 2.0.0 client arrives as broken JSON (docs/design/wire.md): not a change.
        return UnknownFrame(b"postgres_changes" in frame)
    if not isinstance(message, dict):  # protocol 2.0.0 has its event in an array
        events = message if isinstance(message, list) else ()
        return UnknownFrame(any(_carries_changes(event) for event in events))
    topic, event, payload = message.get("topic"), message.get("event"), message.get("payload")
    if not isinstance(topic, str) or not isinstance(event, str):
        return UnknownFrame(_carries_changes(event))
    if event not in _CHANGE_EVENTS:
        ref, unknown_keys = message.get("ref"), len(message.keys() - _KEYS)
        return Frame(topic, event, payload, None if ref is None else str(ref), unknown_keys)
    data = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(data, dict) or not all(
        isinstance(data.get(record), dict | None) for record in ("record", "old_record")
    ):
        return ChangeFrame(topic, None)
    try:
        change = _change(
            data.get("type", ""),
            data.get("record"),
            data.get("old_record"),
            _columns(msgspec.json.encode(data.get("columns") or [])),
            data.get("commit_timestamp"),
            data.get("errors"),
        )
    except _UNREADABLE:
        return ChangeFrame(topic, None)
    return ChangeFrame(topic, change)


def _carries_changes(event: object) -> bool:
    return isinstance(event, str) and event in _CHANGE_EVENTS


def _change(
    kind: str,
    record: Mapping[str, Any] | None,
    old_record: Mapping[str, Any] | None,
    columns: tuple[Column, ...],
    commit_timestamp: str | None,
    errors: list[str] | str | None,
) -> Change | None:
    if kind not in _KINDS:
        return None
    return Change(
        kind,  # type: ignore[arg-type]  # one of _KINDS
        record,
        old_record,
        columns,
        None if commit_timestamp is None else _seconds(commit_timestamp),
        () if errors is None else (errors,) if isinstance(errors, str) else tuple(errors),
    )


@lru_cache(maxsize=1024)
def _columns(raw: bytes) -> tuple[Column, ...]:
    """Cache the columns, which are the same in every change of a table."""
    columns = tuple(Column(c["name"], c["type"]) for c in msgspec.json.decode(raw))
    if not all(isinstance(c.name, str) and isinstance(c.pg_type, str) for c in columns):
        raise TypeError("a column whose name or type is not a string")
    return columns


@lru_cache(maxsize=64)
def _seconds(timestamp: str) -> float:
    """Cache the timestamp, which is the same in all changes of a transaction."""
    moment = dt.datetime.fromisoformat(timestamp)
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
