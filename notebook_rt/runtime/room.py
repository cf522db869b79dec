"""A channel on the loop thread: broadcasts and presence of one topic, over the registry.

Implements what the user's handle, ``Channel``, asks for. A broadcast is sent over the joined socket, else
over REST, else it is queued. Presence is throttled, and tracked again after every rejoin.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from notebook_rt.errors import (
    AuthError,
    ChannelRefusedError,
    ClosedError,
    NotebookRTError,
    RefusedError,
    WaitTimeoutError,
)
from notebook_rt.model.classify import classify
from notebook_rt.model.http import Request
from notebook_rt.model.signal import Signal
from notebook_rt.net.registry import Place
from notebook_rt.runtime.callbacks import Subscribers
from notebook_rt.runtime.feed import PATIENCE
from notebook_rt.runtime.services import Services
from notebook_rt.runtime.topics import NOT_REPLICATING, REPLICATING
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.connection.presence import Meta, People, Person, Throttle
from notebook_rt.sync.events import Binding, Change
from notebook_rt.tracebacks import fresh

if TYPE_CHECKING:
    from notebook_rt.net.websocket.topic import SocketChannel

logger = logging.getLogger("notebook_rt")

JOIN_POLL: Final = 0.1
"""Seconds between two checks whether an awaited join can still be answered."""

STATE_SECONDS: Final = 3.0
"""The longest time that ``wait`` waits for the presence state of a joined channel: a policy may hide it, and
then no state is sent."""

FREE_BYTES: Final = 256_000
"""Bytes of a payload that every plan accepts."""
TOO_LARGE: Final = "payload_size_exceeded"

RoomStatus: TypeAlias = Literal["joining", "joined", "waiting", "refused", "closed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One broadcast as it was received."""

    event: str
    payload: Any
    at: float
    """Seconds since the epoch, by this machine's clock."""
    meta: Mapping[str, Any]
    """Set by the server: ``id`` for broadcasts from the database, ``replayed``."""


class Room:
    """See the module. The topic's owner in the registry."""

    def __init__(
        self,
        topic: str,
        services: Services,
        *,
        private: bool,
        priority: Priority,
        presence_key: str,
        receive_own: bool,
        replay: Mapping[str, int] | None,
    ) -> None:
        self.topic = topic
        self.services = services
        self.private = private
        self.presence_key = presence_key
        self.receive_own = receive_own
        self.replay = replay
        self._ended: Literal["refused", "closed"] | None = None
        self.error: NotebookRTError | None = None
        self.reason = ""
        """Why it is not joined, if the server gave a reason."""
        self.messages: deque[Message] = deque(maxlen=services.options.log_size)
        self.subscribers = Subscribers()
        self.listeners: Signal[Message] = Signal()
        """Callbacks for each message; they run on the loop and must be quick."""
        self.presence_listeners: Signal[list[Person], list[Person]] = Signal()
        """Called with the people who joined and those who left."""
        self._asks_for_replication = private
        """The database sends to private channels by default. The server closes a channel that asks for it
        where it cannot replicate; such a channel is joined again without asking."""
        self.replicating = False
        """Whether the server reports, for this join, that broadcasts from the database reach it."""
        self.people = People()
        self.holds: object = None
        """Kept alive while this client is tracked: the handle that tracks it."""
        self.presence_enabled = False
        self._throttle = Throttle(services.options.presence_calls, services.options.presence_window)
        self._channel: SocketChannel | None = None
        self._joined = asyncio.Event()
        self._has_presence = asyncio.Event()
        """Set once the presence state of this join was received."""
        self._timer: asyncio.TimerHandle | None = None
        self.place = Place(services.registry, topic, self, priority)

    @property
    def status(self) -> RoomStatus:
        """As ``Channel.status`` has it; from any thread."""
        if self._ended is not None:
            return self._ended
        if self._channel is not None:
            return "joined"
        state = self.services.registry.state_of(self.topic)
        return "joining" if state == "joining" else "waiting"

    def start(self) -> None:
        self.place.take()

    def ask_again(self) -> None:
        """Join again if it was refused: a new token or a changed policy may have fixed that."""
        if self._ended == "refused":
            self._ended, self.error = None, None
            self._joined.clear()
            if self.services.registry.state_of(self.topic) != "joining":  # with the current token
                self.services.registry.rejoin(self.topic)

    def close(self) -> None:
        if self._ended != "closed":
            self._ended = "closed"
            self.holds = None
            self._joined.set()
            if self._timer is not None:
                self._timer.cancel()
            self.place.leave()

    # Called by the registry (registry.Owner)

    def config(self) -> Mapping[str, Any]:
        broadcast: dict[str, Any] = {"ack": True, "self": self.receive_own}
        if self._asks_for_replication:  # a server that does not know this ignores it
            broadcast["replication_ready"] = True
        if self.replay is not None:
            broadcast["replay"] = dict(self.replay)
        return {
            "broadcast": broadcast,
            "presence": {"key": self.presence_key, "enabled": self.presence_enabled},
            "private": self.private,
        }

    def bindings(self) -> tuple[Binding, ...]:
        return ()

    def joined(self, channel: SocketChannel) -> None:
        self._channel, self.replicating = channel, False
        self._has_presence.clear()
        self._ended, self.error, self.reason = None, None, ""
        self._joined.set()
        self._throttle.rejoined()
        self._call_presence()
        self.services.on_facts()

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        self._channel, self.replicating = None, False
        if self._ended == "closed":
            return
        if error is not None:
            self.reason = reason
            self.services.metrics.last_error = str(error)
        if isinstance(error, ChannelRefusedError):
            self._refuse(error)
        elif not (isinstance(error, AuthError) and self._ended == "refused"):
            self._ended, self.error = None, None
            self._joined.clear()

    def token_refused(self, error: AuthError) -> None:
        if self._channel is None and self._ended != "closed":
            self._refuse(error)

    def _refuse(self, error: NotebookRTError) -> None:
        """Make ``wait`` and ``send`` raise the error, until the channel is joined after all."""
        self._ended, self.error = "refused", error
        self._joined.set()
        self.services.on_facts()

    def evicted(self) -> None:
        self.lost(self.services.registry.shortage)
        self.services.on_facts()

    def change(self, change: Change | None) -> None:
        pass

    def system(self, payload: Mapping[str, Any]) -> None:
        if payload.get("status") == "ok" and payload.get("message") == REPLICATING:
            self.replicating = True
        elif payload.get("status") == "error":
            if payload.get("message") == NOT_REPLICATING:
                self._asks_for_replication = False
            self.services.metrics.last_error = f'channel "{self.topic}": {payload.get("message")}'

    def gap(self, reason: str) -> None:
        pass

    def broadcast(self, payload: Mapping[str, Any]) -> None:
        meta = payload.get("meta")
        message = Message(
            str(payload.get("event", "")),
            payload.get("payload"),
            time.time(),
            meta if isinstance(meta, dict) else {},
        )
        self.messages.append(message)
        self.listeners.notify(message)

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        if self._channel is None:
            return
        came, gone = self.people.update(self._channel.presence.state, time.time())
        self.presence_listeners.notify(came, gone)
        if event == "presence_state":
            self._has_presence.set()

    # Called for the user

    async def wait_joined(self) -> None:
        """Wait until the channel is joined and, with presence, its state is known.

        Raise an error if the server refuses the channel or, after some patience, if the server cannot be
        reached.
        """
        patience = PATIENCE
        while not self._joined.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._joined.wait()
            error = None if self._joined.is_set() else self.services.unreachable()
            if error is not None:
                raise fresh(error)
            patience = 0.5
        if self._ended == "closed":
            raise ClosedError(f'channel "{self.topic}"')
        if self.error is not None:
            raise fresh(self.error)
        if self.presence_enabled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STATE_SECONDS):
                    await self._has_presence.wait()

    async def send(self, event: str, payload: Any, ack: bool) -> bool:
        """Send now, over the socket or REST. Return False if that is not possible now (queue it).

        Raises
        ------
        NotebookRTError
            If the server refuses it or the channel; `WaitTimeoutError` if ``ack`` was requested and none
            arrived, or a private channel's join was not answered.
        """
        if self.private and not self._joined.is_set():
            await self._wait_for_the_join()
        if self._ended == "closed":
            raise ClosedError(f'channel "{self.topic}"')
        if self.error is not None:
            raise fresh(self.error)
        message = {"type": "broadcast", "event": event, "payload": payload}
        size = len(msgspec.json.encode(payload))
        # The server silently drops a larger message, unless it is asked for an acknowledgement.
        ack = ack or size > FREE_BYTES
        channel = self._channel
        if channel is not None:
            try:
                if not ack:
                    await channel.push_without_answer("broadcast", message)
                    return True
                seconds = self.services.options.join_timeout
                status, answer = await channel.ask("broadcast", message, seconds)
            except ConnectionError:
                pass
            except TimeoutError as error:
                raise WaitTimeoutError(
                    f'channel "{self.topic}": no acknowledgement of "{event}" in {seconds:g} s; a '
                    "private channel that does not let this login write never answers"
                ) from error
            else:
                if status == "ok":
                    return True
                reason = str(answer.get("reason", answer))
                if reason == TOO_LARGE:
                    kilobytes = math.ceil(size / 1000)
                    reason += (
                        f": it has {kilobytes:,} KB; the free plan takes 256 KB, others 3,000 KB"
                    )
                raise RefusedError(f'broadcast "{event}"', 413, reason=reason)
        return await self._post(event, payload)

    async def _wait_for_the_join(self) -> None:
        """Wait until the join is answered, at most ``Options.join_timeout``.

        Over REST the server accepts a broadcast to a private channel and silently drops it if the login may
        not write; only the answer to the join says that it is refused. Do not wait if no answer can come now:
        the server cannot be reached, or the maximum number of channels is in use.

        Raises
        ------
        WaitTimeoutError
            If the server can be reached and does not answer.
        """
        services, seconds = self.services, self.services.options.join_timeout
        try:
            async with asyncio.timeout(seconds):
                while not (
                    self._joined.is_set()
                    or services.unreachable()
                    or services.registry.state_of(self.topic) == "evicted"
                ):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(JOIN_POLL):
                            await self._joined.wait()
        except TimeoutError:
            raise WaitTimeoutError(
                f'channel "{self.topic}": its join was not answered in {seconds:g} s, and only that says '
                "whether this login may send to a private channel; nothing was sent: send it again, or "
                "raise Options.join_timeout"
            ) from None

    async def _post(self, event: str, payload: Any) -> bool:
        message = {
            "topic": self.topic,
            "event": event,
            "payload": payload,
            "private": self.private,
        }
        try:
            body = {"messages": [message]}
            answer = await self.services.rest.request(
                Request("POST", "/realtime/v1/api/broadcast", body=body)
            )
        except NotebookRTError as error:
            if classify(error).kind in ("network", "server", "rate_limit"):
                return False
            raise
        return answer.empty  # an answer with a body is a proxy's: nothing was sent

    def enable_presence(self) -> None:
        """Ask for presence; a channel that was joined without it joins again."""
        if not self.presence_enabled:
            self.presence_enabled = True
            self.services.registry.rejoin(self.topic)

    def track(self, meta: Meta | None) -> None:
        """Show ``meta`` to other clients; None: nothing. It is sent as soon as the throttle allows.

        Raises
        ------
        NotebookRTError
            If the server refuses the channel.
        """
        if self.error is not None and meta is not None:
            raise fresh(self.error)
        self.enable_presence()
        self._throttle.want(meta)
        self._call_presence()

    @property
    def tracked(self) -> Meta | None:
        return self._throttle.wanted

    def presence_calls(self, now: float) -> int:
        """Return how many calls the server has counted in its window; from any thread."""
        return self._throttle.used(now)

    def _call_presence(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        due = self._throttle.due(now)
        if due is None or self._channel is None or not self.presence_enabled:
            return
        if due > now:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(due - now, self._call_presence)
            return
        meta = self._throttle.take(now)
        self.services.on_facts()
        payload = {"type": "presence", "event": "untrack" if meta is None else "track"}
        self.services.thread.spawn(
            self._report_presence(self._channel, {**payload, "payload": dict(meta or {})}),
            "presence",
        )

    async def _report_presence(self, channel: SocketChannel, payload: dict[str, Any]) -> None:
        try:
            await channel.push_without_answer("presence", payload)
        except ConnectionError:
            return  # the rejoin tracks again
