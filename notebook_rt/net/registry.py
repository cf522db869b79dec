"""The channel registry: one channel per topic, counted, within the limit, joined at a limited pace.

It carries out the decisions of ``sync/connection/joins.py`` over the ``Socket``, and notifies each topic's
owner (a table, a ``Channel``) of the result. An owner is notified only about its current join.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from notebook_rt.errors import (
    AuthError,
    ChannelRefusedError,
    NotebookRTError,
    RateLimitedError,
    ServerError,
    TokenExpiredError,
)
from notebook_rt.options import Options
from notebook_rt.sync.connection.joins import Effect, Evicted, Join, Joins, Leave, Priority
from notebook_rt.sync.events import Binding, Change

if TYPE_CHECKING:  # the implementation of the socket is imported when it is opened (supervisor.py)
    from notebook_rt.net.websocket.socket import Socket
    from notebook_rt.net.websocket.topic import SocketChannel

_FINAL = ("Unauthorized", "PrivateOnly", "TopicNameRequired", "RealtimeDisabledForTenant")
_RATE_LIMITED = (
    "ChannelRateLimitReached",
    "ConnectionRateLimitReached",
    "ClientJoinRateLimitReached",
    "DatabaseConnectionRateLimitReached",
)
RATE_LIMITED_WAIT = 30.0
_TOKEN_REFUSED = ("InvalidJWTToken", "InvalidJWTExpiration", "MalformedJWT", "JwtSignatureError")
_EXPIRED = "Token has expired"
"""The server's only message for a token that has expired by its clock."""


CHANGES_ONLY: Final[Mapping[str, Any]] = {
    "broadcast": {"ack": False, "self": False},
    "presence": {"key": "", "enabled": False},
    "private": False,
}
"""The ``config`` of a join for Postgres Changes, without the bindings."""


class Owner(Protocol):
    """The owner of a topic. Its methods are called on the loop."""

    def config(self) -> Mapping[str, Any]:
        """The join's ``config`` without the bindings."""

    def bindings(self) -> tuple[Binding, ...]: ...

    def joined(self, channel: SocketChannel) -> None: ...

    def lost(self, reason: str, error: NotebookRTError | None = None) -> None:
        """Handle that the channel is gone or could not be joined; with an error, the server refused it."""

    def evicted(self) -> None:
        """Handle that there is no place for this channel now."""

    def token_refused(self, error: AuthError) -> None:
        """Handle that the server refuses the access token for a join, and that there is no other token."""

    def change(self, change: Change | None) -> None: ...

    def system(self, payload: Mapping[str, Any]) -> None: ...

    def broadcast(self, payload: Mapping[str, Any]) -> None: ...

    def presence(self, event: str, payload: Mapping[str, Any]) -> None: ...

    def gap(self, reason: str) -> None: ...


class Place:
    """An owner's place in the registry: a subscription for each of its handles, or none.

    Owners with a higher priority and more subscriptions keep their channels if there are too few.
    """

    def __init__(self, registry: Registry, topic: str, owner: Owner, priority: Priority) -> None:
        self.taken = False
        self._registry = registry
        self._topic = topic
        self._owner = owner
        self._priorities = [priority]

    @property
    def crowded(self) -> bool:
        """Whether a channel is wanted, but all allowed channels are in use by others; from any thread."""
        return self.taken and self._registry.state_of(self._topic) == "evicted"

    def take(self) -> None:
        """Subscribe."""
        if not self.taken:
            self.taken = True
            for priority in self._priorities:
                self._registry.want(self._topic, self._owner, priority)

    def leave(self) -> None:
        """Unsubscribe all handles; the channel is left."""
        if self.taken:
            self.taken = False
            for priority in self._priorities:
                self._registry.unwant(self._topic, priority)

    def move(self, topic: str, owner: Owner) -> None:
        """Set another topic and its owner; not while the current one is subscribed."""
        self._topic, self._owner = topic, owner

    def share(self, priority: Priority) -> None:
        """Add a handle."""
        self._priorities.append(priority)
        if self.taken:
            self._registry.want(self._topic, self._owner, priority)

    def unshare(self, priority: Priority) -> None:
        """Remove a handle that is not the last."""
        self._priorities.remove(priority)
        if self.taken:
            self._registry.unwant(self._topic, priority)


class _Entry:
    """One topic: listens to its channel, and informs the state machine and the owner."""

    def __init__(self, registry: Registry, topic: str, owner: Owner) -> None:
        self.registry = registry
        self.topic = topic
        self.owner = owner
        self.channel: SocketChannel | None = None
        self.token_error: AuthError | None = None
        """Why the token was refused at the last join, until one succeeds."""
        self._expired = False
        self.change = owner.change  # passed directly to the owner
        self.broadcast = owner.broadcast
        self.presence = owner.presence

    def channel_joined(self) -> None:
        self.token_error = None
        joins, unconfirmed = self.registry.joins, bool(self.owner.bindings())
        now = time.monotonic()
        self.registry.carry_out(joins.joined(self.topic, now, unconfirmed=unconfirmed))
        if self.channel is not None:
            self.registry.push_token_if_it_changed(self.channel)
            self.owner.joined(self.channel)

    def channel_failed(self, reason: str) -> None:
        code = reason.partition(":")[0]
        final = code in _FINAL
        wait = RATE_LIMITED_WAIT if code in _RATE_LIMITED else 0.0
        error: NotebookRTError
        if reason.startswith(_TOKEN_REFUSED):
            error = self._token_refused(reason)
        elif final:
            error = ChannelRefusedError(self.topic, reason)
        elif wait:
            error = RateLimitedError(f'channel "{self.topic}"', wait, reason)
        else:
            error = ServerError(f'channel "{self.topic}"', 500, reason)
        self._gone(reason, error, wait, final)

    def channel_closed(self) -> None:
        self._gone("closed by the server", None, 0.0, False)

    def _gone(self, reason: str, error: NotebookRTError | None, wait: float, final: bool) -> None:
        expired, self._expired = self._expired, False
        if expired:
            error = self._token_refused(_EXPIRED)
        self.registry.channel_gone(self, isinstance(error, AuthError))
        self.owner.lost(reason, error)
        now = time.monotonic()
        self.registry.carry_out(self.registry.joins.failed(self.topic, now, wait, final))

    def _token_refused(self, reason: str) -> AuthError:
        url = self.registry.url
        ended = _EXPIRED in reason
        error = TokenExpiredError(url, reason) if ended else AuthError("access token", url, reason)
        self.token_error = error
        return error

    def system(self, payload: Mapping[str, Any]) -> None:
        if payload.get("extension") == "postgres_changes" and payload.get("status") == "ok":
            self.registry.carry_out(self.registry.joins.confirmed(self.topic))
        elif str(payload.get("message")).startswith(_EXPIRED):
            self._expired = True  # the channel's close comes next
        self.owner.system(payload)


class Registry:
    """All channels of a session. Used on the loop thread."""

    def __init__(
        self,
        url: str,
        options: Options,
        random: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, Any], str], object],
        closed_by_server: Callable[[bool], None],
    ) -> None:
        self.url = url
        self.socket: Socket | None = None
        """The socket, from its first opening on."""
        self.needed = asyncio.Event()
        """Set once a channel will be wanted."""
        self.joins = Joins(options, random)
        self._spawn = spawn
        self._closed_by_server = closed_by_server
        self._entries: dict[str, _Entry] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lost = ""
        """Why the socket could not be opened or is gone; empty while open, and before the first attempt."""

    def want(self, topic: str, owner: Owner, priority: Priority) -> None:
        """Add a subscriber of ``topic``. The first one supplies the owner."""
        if topic not in self._entries:
            self._entries[topic] = _Entry(self, topic, owner)
            if self._lost:
                owner.lost(self._lost)
        self.needed.set()
        self.carry_out(self.joins.want(topic, priority, time.monotonic()))

    def unwant(self, topic: str, priority: Priority) -> None:
        """Remove a subscriber; with the last one, the channel is left."""
        self.carry_out(self.joins.unwant(topic, priority, time.monotonic()))
        if topic not in self.joins.topics():
            self._entries.pop(topic, None)

    def rejoin(self, topic: str) -> None:
        """Leave and join again."""
        self.carry_out(self.joins.rejoin(topic, time.monotonic()))

    def retry_now(self) -> None:
        """Retry all waiting joins now, with the backoff reset."""
        self.carry_out(self.joins.retry_now(time.monotonic()))

    def connected(self, connected: bool, reason: str) -> None:
        """Handle that the socket has opened or is gone."""
        self._lost = "" if connected else reason
        if not connected:
            for entry in list(self._entries.values()):
                if entry.channel is not None:
                    entry.channel.socket._remove_channel(entry.channel)
                    entry.channel = None
                entry.owner.lost(reason)
        self.carry_out(self.joins.socket(connected, time.monotonic()))

    def gap(self, reason: str) -> None:
        for entry in self._entries.values():
            entry.owner.gap(reason)

    async def push_token(self) -> None:
        """Send the current access token to every joined channel; later joins contain it."""
        if self.socket is None:
            return  # it opens with the token of that time
        self.socket.access_token = self.socket.credentials.spoken
        for entry in list(self._entries.values()):
            if entry.channel is not None and entry.channel.is_joined:
                await self._push_token(entry.channel)

    def push_token_if_it_changed(self, channel: SocketChannel) -> None:
        """Send the token to one channel, unless its join is unanswered."""
        if channel.joined_as != channel.socket.access_token:
            self._spawn(self._push_token(channel), "tell a channel of the token")

    async def _push_token(self, channel: SocketChannel) -> None:
        with contextlib.suppress(ConnectionError):
            await channel.push_without_answer(
                "access_token", {"access_token": channel.socket.access_token}
            )

    def token_refused(self) -> None:
        """Notify the owners whose joins were refused that there is no other token."""
        for entry in list(self._entries.values()):
            if entry.token_error is not None:
                entry.owner.token_refused(entry.token_error)

    def channel_gone(self, entry: _Entry, for_the_token: bool) -> None:
        if entry.channel is not None:
            entry.channel.socket._remove_channel(entry.channel)
            entry.channel = None
        self._closed_by_server(for_the_token)

    @property
    def shortage(self) -> str:
        """A sentence about wanting more channels than allowed, and what to do; from any thread."""
        most = self.joins.options.max_channels
        return (
            f"more channels are wanted than Options.max_channels allows, {most:g}; raise it (a connection "
            'may have 100), close what you do not need, or give priority="high" to what matters'
        )

    def channels(self) -> dict[str, str]:
        """Return the state of each topic; from any thread."""
        return {topic: self.state_of(topic) for topic in list(self._entries)}

    def state_of(self, topic: str) -> Literal["out", "joining", "joined", "evicted"]:
        """Return the state of a topic, ``out`` if nobody wants it; from any thread."""
        return self.joins.state_of(topic)

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            entry = self._entries.get(effect.topic)
            if entry is None:
                continue
            match effect:
                case Join(topic):
                    assert self.socket is not None  # `connected` was reported
                    channel = self.socket.open_channel(topic, entry.owner.config(), entry)
                    entry.channel = channel
                    self._spawn(channel.subscribe_to(entry.owner.bindings()), f"join {topic}")
                case Leave(topic):
                    left, entry.channel = entry.channel, None
                    if left is not None:
                        self._spawn(left.leave(), f"leave {topic}")
                        entry.owner.lost("left")
                case Evicted(_):
                    entry.owner.evicted()
        self._rearm()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.joins.wake_at
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.carry_out(self.joins.tick(time.monotonic()))
