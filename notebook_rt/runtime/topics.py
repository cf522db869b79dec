"""The private topics on which the database broadcasts tables' changes, each shared by its tables.

A socket joins a topic once, and a session may show one table in several ways (filters, columns). So the
topic's owner in the registry is a ``SharedTopic``, which hands on what it hears to each of its followers;
one that comes later is told what the others know: that it is joined, and that changes flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from notebook_rt.errors import AuthError, NotebookRTError
from notebook_rt.net.registry import Place
from notebook_rt.net.websocket.topic import SocketChannel
from notebook_rt.sync.events import Binding, Change

REPLICATING: Final = "Replication connection established"
NOT_REPLICATING: Final = "Replication connection was not established in time"
"""What the server says to a join that asked for ``replication_ready``."""


class Follower(Protocol):
    """A table whose changes come on a topic."""

    place: Place

    def joined(self, channel: SocketChannel) -> None: ...

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None: ...

    def evicted(self) -> None: ...

    def system(self, payload: Mapping[str, Any]) -> None: ...

    def broadcast(self, payload: Mapping[str, Any]) -> None: ...

    def gap(self, reason: str) -> None: ...


class SharedTopic:
    """See the module. The topic's owner in the registry."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []
        self._channel: SocketChannel | None = None
        self._confirmation: Mapping[str, Any] | None = None
        """What the server has said of this join, once changes flow."""

    def add(self, follower: Follower) -> None:
        self._followers.append(follower)

    def remove(self, follower: Follower) -> None:
        self._followers.remove(follower)

    def tell_state(self, follower: Follower) -> None:
        """Tell a follower that has just taken its place what the others know."""
        if self._channel is not None:
            follower.joined(self._channel)
            if self._confirmation is not None:
                follower.system(self._confirmation)

    @property
    def _here(self) -> list[Follower]:
        return [follower for follower in self._followers if follower.place.taken]

    # What the registry tells (registry.Owner)

    def config(self) -> Mapping[str, Any]:
        return {
            "broadcast": {"ack": False, "self": False, "replication_ready": True},
            "presence": {"key": "", "enabled": False},
            "private": True,
        }

    def bindings(self) -> tuple[Binding, ...]:
        return ()

    def joined(self, channel: SocketChannel) -> None:
        self._channel, self._confirmation = channel, None
        for follower in self._here:
            follower.joined(channel)

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        self._channel = self._confirmation = None
        for follower in self._here:
            follower.lost(reason, error)

    def evicted(self) -> None:
        self._channel = self._confirmation = None
        for follower in self._here:
            follower.evicted()

    def token_refused(self, error: AuthError) -> None:
        """Reads are refused, too, and say so."""

    def change(self, change: Change | None) -> None:
        pass

    def system(self, payload: Mapping[str, Any]) -> None:
        if payload.get("status") == "ok" and payload.get("message") == REPLICATING:
            self._confirmation = payload
        for follower in self._here:
            follower.system(payload)

    def broadcast(self, payload: Mapping[str, Any]) -> None:
        for follower in self._here:
            follower.broadcast(payload)

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        pass

    def gap(self, reason: str) -> None:
        for follower in self._here:
            follower.gap(reason)


class Topics:
    """A session's shared topics, by name."""

    def __init__(self) -> None:
        self._topics: dict[str, tuple[SharedTopic, int]] = {}

    def follow(self, name: str, follower: Follower) -> SharedTopic:
        """The one owner of the topic ``name``, with one follower more."""
        topic, followers = self._topics.get(name, (SharedTopic(), 0))
        self._topics[name] = topic, followers + 1
        topic.add(follower)
        return topic

    def unfollow(self, name: str, follower: Follower) -> None:
        """One follower less; with the last, the topic goes."""
        topic, followers = self._topics.pop(name)
        topic.remove(follower)
        if followers > 1:
            self._topics[name] = topic, followers - 1
