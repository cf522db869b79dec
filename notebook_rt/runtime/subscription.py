"""How one table's changes come: its place on a channel, and what the server says there.

In: what the registry tells of the table's own channel, or a ``SharedTopic`` of one on which the database
broadcasts. Out: events for the table's machine, in order, through its ``Buffer``. The machine says what
to join. Everything here runs on the loop thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from notebook_rt.errors import AuthError, ChannelRefusedError, NotebookRTError, ServerError
from notebook_rt.net.registry import CHANGES_ONLY, Place
from notebook_rt.runtime.buffer import Buffer
from notebook_rt.runtime.observed import Observed
from notebook_rt.runtime.topics import NOT_REPLICATING, REPLICATING, SharedTopic
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.events import (
    Binding,
    Change,
    Confirmed,
    Event,
    Gap,
    Hint,
    Joined,
    Lost,
    ReceivedMessages,
    Refused,
)

if TYPE_CHECKING:
    from notebook_rt.net.websocket.topic import SocketChannel

STREAM_TRIES: Final = 3
"""Joins of which the server says that it does not stream broadcasts, before changes come another way."""


class Subscriber(Observed, Protocol):
    """Whose changes they are: a table's driver."""

    @property
    def answered(self) -> bool:
        """Whether REST has said whether there is such a table."""

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        """What Realtime's ``message`` means, and whether it is final."""

    def handle(self, event: Event) -> Callable[[], None]:
        """Have the machine take ``event``; what this returns carries out what it says."""


class Subscription:
    """See the module. ``topic`` names the table's own channel, of which this is the owner in the registry."""

    def __init__(
        self,
        subscriber: Subscriber,
        topic: str,
        buffer: Buffer,
        priority: Priority,
    ) -> None:
        self._services = services = subscriber.services
        self.place = Place(services.registry, topic, self, priority)
        self.refused: str | None = None
        """What Realtime said when it refused the table; told once REST has spoken."""
        self._subscriber = subscriber
        self._topic = topic
        self._buffer = buffer
        self._followed: tuple[str, SharedTopic] | None = None
        """The topic on which the database broadcasts its changes."""
        self._unstreamed = 0
        """Joins in a row of which the server said that it does not stream broadcasts."""
        self._unjoined = False
        """Nobody has joined since another login: what comes yet under the same topic is the last one's."""

    def rejoin(self) -> None:
        """Join what the machine says: its bindings, or a topic that others may have joined already."""
        machine = self._subscriber.machine
        self._follow(machine.topic)
        if self._followed is not None:
            if not self.place.taken:
                self.place.take()
                self._followed[1].tell_state(self)
        elif self.place.taken:
            self._services.registry.rejoin(self._topic)
        elif machine.bindings:
            self.place.take()

    def close(self) -> None:
        self.place.leave()
        self._follow(None)

    def leave_login(self) -> None:
        """Take nothing more of what comes, until another login has joined."""
        self.place.leave()
        self._unjoined = True

    def _follow(self, name: str | None) -> None:
        """Have the place on the topic of this name; None: on the table's own."""
        if name == (self._followed and self._followed[0]):
            return
        self.place.leave()
        if self._followed is not None:
            self._services.topics.unfollow(self._followed[0], self)
            self._followed = None
        if name is None:
            self.place.move(self._topic, self)
        else:
            shared = self._services.topics.follow(name, self)
            self._followed = name, shared
            self.place.move(name, shared)

    def tell_refused(self) -> None:
        """Realtime has one sentence for a table that is not there, has no key, is not published;
        REST tells them apart, so it speaks first.
        """
        if self.refused is not None and self._subscriber.answered:
            message, self.refused = self.refused, None
            self._buffer.event(Refused(*self._subscriber.refusal(message)))

    # What the channel tells (registry.Owner)

    def config(self) -> Mapping[str, Any]:
        return CHANGES_ONLY

    def bindings(self) -> tuple[Binding, ...]:
        return self._subscriber.machine.bindings

    def joined(self, channel: SocketChannel) -> None:
        self._unjoined = False
        self._buffer.event(Joined())

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        if error is not None:
            # A topic that is refused for good: changes come another way, if they may.
            by_topic = self._subscriber.machine.topic is not None
            self._buffer.event(
                Refused(error, final=isinstance(error, ChannelRefusedError) and by_topic)
            )
        self._buffer.event(Lost(reason))

    def evicted(self) -> None:
        self._buffer.event(Lost(self._services.registry.crowd))

    def token_refused(self, error: AuthError) -> None:
        """Reads are refused, too, and say so."""

    def change(self, change: Change | None) -> None:
        if self._counts(1):
            self._buffer.change(change)

    def system(self, payload: Mapping[str, Any]) -> None:
        message, ok = str(payload.get("message", "")), payload.get("status") == "ok"
        if self._subscriber.machine.topic is not None:
            self._streamed(message, ok)
        elif payload.get("extension") != "postgres_changes":
            self._services.metrics.last_error = message
            # no doubt: what it announces (a cut) is a gap when it comes
            self._buffer.event(Hint(""))
        elif ok:
            self._buffer.event(Confirmed())
        else:
            self.refused = message
            self.tell_refused()

    def _streamed(self, message: str, ok: bool) -> None:
        """The server has said of a topic that broadcasts from the database come, or another word."""
        if ok and message == REPLICATING:
            self._unstreamed = 0
            self._buffer.event(Confirmed())
        elif message == NOT_REPLICATING:
            self._unstreamed += 1
            error = ServerError(f'streaming table "{self._subscriber.name}"', 500, message)
            self._buffer.event(Refused(error, final=self._unstreamed >= STREAM_TRIES))
        elif not ok:
            self._services.metrics.last_error = message
            self._buffer.event(Gap(message))

    def broadcast(self, payload: Mapping[str, Any]) -> None:
        """Changes by broadcast come as `message`, by the table's topic."""

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        pass

    def gap(self, reason: str, missed: bool = True) -> None:
        self._buffer.event(Gap(reason, missed))

    # What the topic tells (topics.Follower)

    def message(self, payload: object) -> None:
        if self._counts(1):
            self._buffer.message(payload)

    def catch_up_messages(self) -> None:
        self._buffer.flush()

    def take_messages(self, payloads: Sequence[object]) -> Callable[[], None]:
        if not self._counts(len(payloads)):
            return lambda: None
        return self._subscriber.handle(ReceivedMessages(payloads))

    def _counts(self, number: int) -> bool:
        """Whether changes that came are this login's; counted, then."""
        if self._unjoined:
            return False
        if self._services.rate.came(number, time.monotonic()):
            self._services.on_overload()
        return True
