"""The topics and their members: fan-out of broadcasts, presence of each topic.

In: joins, leaves, broadcasts, presence calls. Out: frames on the members' sockets. A public and a private
topic with the same name are two topics. A frame is created once for each protocol version.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from notebook_rt.local.realtime.presence import Diff, Presence
from notebook_rt.local.realtime.protocol import (
    UserBroadcast,
    Version,
    dumps,
    frame,
    user_broadcast,
)

Frame = str | bytes
Encode = Callable[[Version], Frame | None]
TopicKey = tuple[str, bool]
"""The name without `realtime:`, and whether it is private."""


class Member(Protocol):
    """The interface of a joined channel."""

    vsn: Version
    key: TopicKey
    presence_key: str
    presence_enabled: bool

    def __hash__(self) -> int: ...

    def push(self, event: str, payload: str, with_join_ref: bool = True) -> None: ...

    def send(self, frame_: Frame) -> None: ...

    def rebind(self, delay: float) -> None: ...

    def fail(self, message: str) -> None: ...


class Topic:
    """The channels of one topic, oldest first, and its presence."""

    __slots__ = ("channels", "presence")

    def __init__(self) -> None:
        self.channels: dict[Member, None] = {}
        self.presence = Presence()


class Hub:
    """All topics of the tenant. ``on_presence`` is called with the delivered diffs."""

    def __init__(self, on_presence: Callable[[int], None]) -> None:
        self._topics: dict[TopicKey, Topic] = {}
        self._on_presence = on_presence

    def channels(self) -> list[Member]:
        return [channel for topic in self._topics.values() for channel in topic.channels]

    def members(self, key: TopicKey) -> list[Member]:
        topic = self._topics.get(key)
        return list(topic.channels) if topic else []

    def join(self, channel: Member) -> None:
        self._topics.setdefault(channel.key, Topic()).channels[channel] = None

    def leave(self, channel: Member) -> None:
        """Remove a channel; the others are notified that it is no longer present."""
        topic = self._topics.get(channel.key)
        if topic is None:
            return
        topic.channels.pop(channel, None)
        diff = topic.presence.untrack(channel)
        if not topic.channels:
            del self._topics[channel.key]
        elif diff is not None:
            self._send_diff(channel.key, diff)

    def send(self, key: TopicKey, encode: Encode, exclude: Member | None = None) -> int:
        """Send a frame to all members of a topic, or all except one; return their number."""
        frames: dict[Version, Frame | None] = {}
        members = [member for member in self.members(key) if member is not exclude]
        for channel in members:
            vsn = channel.vsn
            if vsn not in frames:
                frames[vsn] = encode(vsn)
            made = frames[vsn]
            if made is not None:
                channel.send(made)
        return len(members)

    def broadcast(self, key: TopicKey, payload: str, exclude: Member | None = None) -> int:
        """Relay a broadcast's payload (JSON text) unchanged."""
        topic = f"realtime:{key[0]}"
        return self.send(key, lambda vsn: frame(vsn, topic, "broadcast", payload), exclude)

    def user_broadcast(
        self, key: TopicKey, message: UserBroadcast, exclude: Member | None = None
    ) -> int:
        """Relay a broadcast in its binary form."""
        topic = f"realtime:{key[0]}"
        return self.send(key, lambda vsn: user_broadcast(vsn, topic, message), exclude)

    def first(self, key: TopicKey, vsn: Version) -> Member | None:
        """Return the first member of a topic that uses this protocol version."""
        topic = self._topics.get(key)
        return next((c for c in topic.channels if c.vsn == vsn), None) if topic else None

    def presence_state(self, key: TopicKey) -> str:
        """Return the members of a topic, as JSON."""
        topic = self._topics.get(key)
        return dumps(topic.presence.state()) if topic else "{}"

    def track(self, channel: Member, payload: dict[str, object]) -> None:
        ref = secrets.token_urlsafe(12)
        diff = self._topics[channel.key].presence.track(channel, channel.presence_key, payload, ref)
        if diff is not None:
            self._send_diff(channel.key, diff)

    def untrack(self, channel: Member) -> None:
        diff = self._topics[channel.key].presence.untrack(channel)
        if diff is not None:
            self._send_diff(channel.key, diff)

    def _send_diff(self, key: TopicKey, diff: Diff) -> None:
        payload = dumps(diff)
        topic = f"realtime:{key[0]}"
        members = [each for each in self._topics[key].channels if each.presence_enabled]
        for channel in members:
            channel.send(frame(channel.vsn, topic, "presence_diff", payload))
        self._on_presence(len(members))
