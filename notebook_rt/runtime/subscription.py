"""The subscription of one table: its channel, and the server's messages there.

In: events of the registry about the table's own channel, or of a ``SharedTopic`` on which the database
broadcasts. Out: events for the table's machine, in order, through its ``Buffer``. The machine decides what to
join. Everything here runs on the loop thread.
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
"""Number of joins without a stream of broadcasts after which another source is used."""


class Subscriber(Observed, Protocol):
    """The receiver of the changes: a table's driver."""

    @property
    def answered(self) -> bool:
        """Whether REST has answered whether the table exists."""

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        """Return the meaning of Realtime's ``message``, and whether it is final."""

    def handle(self, event: Event) -> Callable[[], None]:
        """Let the machine process ``event``; return a function that carries out the effects."""


class Subscription:
    """See the module docstring. ``topic`` names the table's own channel, which this owns in the registry."""

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
        """Realtime's message when it refused the table; reported once REST has answered."""
        self._subscriber = subscriber
        self._topic = topic
        self._buffer = buffer
        self._followed: tuple[str, SharedTopic] | None = None
        """The topic on which the database broadcasts its changes."""
        self._unstreamed = 0
        """Consecutive joins for which the server reported that it does not stream broadcasts."""
        self._unjoined = False
        """Whether there was no join since the login changed: messages still belong to the previous one."""

    def rejoin(self) -> None:
        """Join the machine's bindings or topic, which others may have joined already."""
        machine = self._subscriber.machine
        self._follow(machine.topic)
        if self._followed is not None:
            if not self.place.taken:
                self.place.take()
                self._followed[1].report_state(self)
        elif self.place.taken:
            self._services.registry.rejoin(self._topic)
        elif machine.bindings:
            self.place.take()

    def close(self) -> None:
        self.place.leave()
        self._follow(None)

    def leave_login(self) -> None:
        """Ignore all messages until another login has joined."""
        self.place.leave()
        self._unjoined = True

    def _follow(self, name: str | None) -> None:
        """Use the topic of this name; None: the table's own channel."""
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

    def report_refused(self) -> None:
        """Report a refusal. Realtime has one message for a table that does not exist, has no key, or is not
        published; REST distinguishes these, so its answer is awaited.
        """
        if self.refused is not None and self._subscriber.answered:
            message, self.refused = self.refused, None
            self._buffer.event(Refused(*self._subscriber.refusal(message)))

    # Events of the channel (registry.Owner)

    def config(self) -> Mapping[str, Any]:
        return CHANGES_ONLY

    def bindings(self) -> tuple[Binding, ...]:
        return self._subscriber.machine.bindings

    def joined(self, channel: SocketChannel) -> None:
        self._unjoined = False
        self._buffer.event(Joined())

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        if error is not None:
            # A topic that is refused finally: use another source, if allowed.
            by_topic = self._subscriber.machine.topic is not None
            self._buffer.event(
                Refused(error, final=isinstance(error, ChannelRefusedError) and by_topic)
            )
        self._buffer.event(Lost(reason))

    def evicted(self) -> None:
        self._buffer.event(Lost(self._services.registry.shortage))

    def token_refused(self, error: AuthError) -> None:
        """Do nothing: reads are refused, too, and report it."""

    def change(self, change: Change | None) -> None:
        if self._counts(1):
            self._buffer.change(change)

    def system(self, payload: Mapping[str, Any]) -> None:
        message, ok = str(payload.get("message", "")), payload.get("status") == "ok"
        if self._subscriber.machine.topic is not None:
            self._streamed(message, ok)
        elif payload.get("extension") != "postgres_changes":
            self._services.metrics.last_error = message
            # no doubt: the announced disconnection is a gap when it happens
            self._buffer.event(Hint(""))
        elif ok:
            self._buffer.event(Confirmed())
        else:
            self.refused = message
            self.report_refused()

    def _streamed(self, message: str, ok: bool) -> None:
        """Handle the server's message whether a topic streams broadcasts from the database."""
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
        """Do nothing: broadcast changes arrive as `message`, by the table's topic."""

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        pass

    def gap(self, reason: str, missed: bool = True) -> None:
        self._buffer.event(Gap(reason, missed))

    # Events of the topic (topics.Follower)

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
        """Return whether changes belong to this login, and count them."""
        if self._unjoined:
            return False
        if self._services.rate.count(number, time.monotonic()):
            self._services.on_overload()
        return True
