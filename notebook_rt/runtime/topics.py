"""The private topics on which the database broadcasts tables' changes, each shared by its tables.

A socket joins a topic once, but a session may show one table in several ways (filters, columns). The topic's
owner in the registry is therefore a ``SharedTopic``, which forwards events to each of its followers. A
follower that is added later gets the current state: that the topic is joined, and that changes flow.

The changes of one transaction to several tables are applied as one (``sync/table/together.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

from notebook_rt.errors import AuthError, NotebookRTError
from notebook_rt.net.registry import Place
from notebook_rt.sync.events import Binding, Change
from notebook_rt.sync.table.broadcast import EVENT
from notebook_rt.sync.table.together import Sent, Together

if TYPE_CHECKING:
    from notebook_rt.net.websocket.topic import SocketChannel

REPLICATING: Final = "Replication connection established"
NOT_REPLICATING: Final = "Replication connection was not established in time"
"""The server's messages about a join that asked for ``replication_ready``."""


class Follower(Protocol):
    """A table whose changes arrive on a topic."""

    place: Place

    def joined(self, channel: SocketChannel) -> None: ...

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None: ...

    def evicted(self) -> None: ...

    def system(self, payload: Mapping[str, Any]) -> None: ...

    def message(self, payload: object) -> None:
        """Take a message of the log, after the ones that were received before it."""

    def catch_up_messages(self) -> None:
        """Take the messages that were received before."""

    def take_messages(self, payloads: Sequence[object]) -> Callable[[], None]:
        """Apply messages of the log; return a function that publishes them. The caller holds the lock."""

    def gap(self, reason: str) -> None: ...


class SharedTopic:
    """See the module. The topic's owner in the registry."""

    def __init__(self, name: str, topics: Topics) -> None:
        self._name = name
        self._topics = topics
        self._followers: list[Follower] = []
        self._channel: SocketChannel | None = None
        self._confirmation: Mapping[str, Any] | None = None
        """The server's confirmation of this join, once changes flow."""

    def add(self, follower: Follower) -> None:
        self._followers.append(follower)

    def remove(self, follower: Follower) -> None:
        self._followers.remove(follower)

    def report_state(self, follower: Follower) -> None:
        """Send the current state to a follower that has just taken its place."""
        if self._channel is not None:
            follower.joined(self._channel)
            if self._confirmation is not None:
                follower.system(self._confirmation)

    @property
    def streams(self) -> bool:
        """Whether the database's messages arrive."""
        return self._confirmation is not None

    @property
    def here(self) -> list[Follower]:
        return [follower for follower in self._followers if follower.place.taken]

    # Called by the registry (registry.Owner)

    def config(self) -> Mapping[str, Any]:
        return {
            "broadcast": {"ack": False, "self": False, "replication_ready": True},
            "presence": {"key": "", "enabled": False},
            "private": True,
        }

    def bindings(self) -> tuple[Binding, ...]:
        return ()

    def joined(self, channel: SocketChannel) -> None:
        self._topics.retry_now()
        self._channel, self._confirmation = channel, None
        for follower in self.here:
            follower.joined(channel)

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        self._topics.retry_now()
        self._channel = self._confirmation = None
        for follower in self.here:
            follower.lost(reason, error)

    def evicted(self) -> None:
        self._topics.retry_now()
        self._channel = self._confirmation = None
        for follower in self.here:
            follower.evicted()

    def token_refused(self, error: AuthError) -> None:
        """Ignored: reads are refused, too, and report it."""

    def change(self, change: Change | None) -> None:
        pass

    def system(self, payload: Mapping[str, Any]) -> None:
        self._topics.retry_now()
        if payload.get("status") == "ok" and payload.get("message") == REPLICATING:
            self._confirmation = payload
        for follower in self.here:
            follower.system(payload)

    def broadcast(self, payload: Mapping[str, Any]) -> None:
        if payload.get("event") == EVENT:
            self._topics.received(Sent(self._name, payload.get("payload")))

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        pass

    def gap(self, reason: str) -> None:
        self._topics.retry_now()
        for follower in self.here:
            follower.gap(reason)


class Topics:
    """A session's shared topics, by name.

    Parameters
    ----------
    lock
        Held while changes are applied to tables: its holder sees all of a transaction or nothing.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._topics: dict[str, tuple[SharedTopic, int]] = {}
        self._lock = lock
        self._together = Together()
        self._timer: asyncio.TimerHandle | None = None

    def received(self, sent: Sent) -> None:
        """Take a message of the log."""
        streaming = [name for name, (topic, _) in self._topics.items() if topic.streams]
        self._apply(self._together.add(sent, streaming, time.monotonic()))

    def retry_now(self) -> None:
        """Apply the waiting messages before the next event."""
        self._apply(self._together.take_all())

    def _take_due(self) -> None:
        self._apply(self._together.take(time.monotonic()))

    def _apply(self, messages: Sequence[Sent]) -> None:
        if len({sent.topic for sent in messages}) < 2:
            for sent in messages:
                for follower in self._followers(sent.topic):
                    follower.message(sent.payload)
        else:
            self._apply_as_one(messages)
        for name in self._together.take_lost():
            for follower in self._followers(name):
                follower.gap("a part of a transaction was lost; it is read from the log")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._together.due
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, due - time.monotonic()), self._take_due)

    def _apply_as_one(self, messages: Sequence[Sent]) -> None:
        """Apply messages to all tables before any of them is published."""
        payloads: dict[Follower, list[object]] = {}
        for sent in messages:
            for follower in self._followers(sent.topic):
                payloads.setdefault(follower, []).append(sent.payload)
        for follower in payloads:
            follower.catch_up_messages()
        with self._lock:
            tell = [follower.take_messages(each) for follower, each in payloads.items()]
        for one in tell:
            one()

    def _followers(self, name: str) -> Sequence[Follower]:
        topic, _ = self._topics.get(name, (None, 0))
        return () if topic is None else topic.here

    def follow(self, name: str, follower: Follower) -> SharedTopic:
        """Add a follower; return the one owner of the topic ``name``."""
        topic, followers = self._topics.get(name, (SharedTopic(name, self), 0))
        self._topics[name] = topic, followers + 1
        topic.add(follower)
        return topic

    def unfollow(self, name: str, follower: Follower) -> None:
        """Remove a follower, and the topic with the last one."""
        topic, followers = self._topics.pop(name)
        topic.remove(follower)
        if followers > 1:
            self._topics[name] = topic, followers - 1
