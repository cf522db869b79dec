"""The connection of a session: carries out the decisions of ``sync/connection/supervisor.py``.

It opens and closes the socket, sends heartbeats, runs the only timer, and notifies the registry and the
listeners of state changes. Everything here runs on the loop thread.

Importing the socket's implementation (``websocket/``, the ``realtime`` package with pydantic) takes a third
of the time of importing pandas. So it is imported with the first socket, on another thread, and after the
tables that are read from the disk: the two would share one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final

from notebook_rt.errors import NotebookRTError, UnreachableError
from notebook_rt.model.classify import classify
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.loop import LoopThread
from notebook_rt.net.registry import Registry
from notebook_rt.net.websocket.traffic import Traffic
from notebook_rt.options import Options
from notebook_rt.sync.connection.supervisor import (
    Beat,
    Close,
    Event,
    Heard,
    Latency,
    Open,
    Opened,
    OpenFailed,
    RefreshToken,
    Retry,
    Silence,
    SocketClosed,
    Start,
    State,
    StateChanged,
    Stop,
    Supervisor,
    Tick,
    WakeAt,
)
from notebook_rt.sync.usage import Usage

if TYPE_CHECKING:
    from notebook_rt.net.websocket.socket import Socket

CARRIER: Final = "notebook_rt.net.websocket.socket"
UNASKED_SECONDS: Final = 0.25
"""Seconds for which a process' first session waits for a request before it opens its socket."""


class Connection:
    """One project's socket, kept open.

    Parameters
    ----------
    refresh : async callable
        Gets a new access token; returns True if there is one.
    clock : callable
        Returns the server's time in seconds since the epoch.
    on_state : callable
        Called with each new state and its reason.
    on_latency : callable
        Called with each heartbeat's round trip, in seconds.
    usage : Usage
        Counts the frames.
    on_silence : callable
        Called repeatedly while ``silent`` is true, and when it no longer is.
    on_limit : callable
        Called when the rate of messages comes near its limit.
    known : callable
        Converts the reason why the socket could not be opened, with the knowledge about this server.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        options: Options,
        thread: LoopThread,
        refresh: Callable[[], Awaitable[bool]],
        clock: Callable[[], float],
        on_state: Callable[[State, str], None],
        on_latency: Callable[[float], None],
        on_silence: Callable[[], None],
        usage: Usage,
        on_limit: Callable[[], None],
        known: Callable[[NotebookRTError], NotebookRTError],
    ) -> None:
        self.machine = Supervisor(options, random.random)
        self.traffic = Traffic()
        self.registry = Registry(url, options, random.random, thread.spawn, self._channel_closed)
        self.credentials = credentials
        self._options = options
        self._usage = usage
        self._exact_numbers = False
        self.last_error: NotebookRTError | None = None
        """Why the socket could not be opened, until it is."""
        self._thread = thread
        self._refresh = refresh
        self._clock = clock
        self._on_state = on_state
        self._on_latency = on_latency
        self._on_silence = on_silence
        self._on_limit = on_limit
        self._known = known
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._fed: list[Event] = []
        self._feeding = False

    @property
    def socket(self) -> Socket | None:
        """None until it is opened for the first time."""
        return self.registry.socket

    def keep_exact_numbers(self) -> None:
        """Keep ``numeric`` as Decimal, because a table needs it."""
        self._exact_numbers = True
        if self.socket is not None:
            self.socket.exact_numbers = True

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def silent(self) -> bool:
        """Whether no frame arrives and an answer is later than usual on this connection. From any thread."""
        return self.machine.silent and self.traffic.last_frame_at <= self.machine.received_at

    def start(self) -> None:
        self._feed(Start())

    def retry(self, cause: str) -> None:
        """Retry now, with the backoff reset: ``"network"``, ``"visible"``, ``"user"`` or ``"token"``."""
        if cause in ("network", "visible", "user", "token"):
            self._feed(Retry(cause))  # type: ignore[arg-type]  # just checked
            self.registry.retry_now()

    async def stop(self) -> None:
        """Close the socket properly, and keep it closed."""
        ws = None if self.socket is None else self.socket.ws
        self._feed(Stop())
        for task in (self._opening, self._refreshing):
            if task is not None:
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if ws is not None:
            await ws.wait_closed()

    async def set_token(self, token: str | None) -> None:
        """Send a new access token to the channels, and retry with it."""
        self.credentials.access_token = token
        await self.registry.push_token()
        self.retry("token")

    # Called by the socket (SocketListener)

    def socket_closed(self, code: int | None, reason: str, here: bool) -> None:
        if self.machine.socket is not None:
            self._feed(SocketClosed(self.machine.socket, code, reason, here))

    def heartbeat_answered(self, ref: str) -> None:
        if self.machine.socket is not None:
            self._feed(Heard(self.machine.socket, ref))

    def limit_near(self) -> None:
        self._on_limit()

    def frame_unreadable(self, reason: str) -> None:
        self.registry.gap(reason)

    def _channel_closed(self, for_the_token: bool) -> None:
        """Get a new token first, because an expired one closes every channel (docs/design/wire.md)."""
        expires_at = self.credentials.expires_at
        if for_the_token or (expires_at is not None and expires_at <= self._clock() + 5):
            self._refresh_soon()

    # Effects

    def _feed(self, event: Event) -> None:
        # An effect may cause another event (a listener that closes): one after the other.
        self._fed.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._fed:
                now, wall = time.monotonic(), time.time()
                # Every frame is a sign of life, not only the answer to a heartbeat.
                self.machine.received_at = max(self.machine.received_at, self.traffic.last_frame_at)
                for effect in self.machine.handle(self._fed.pop(0), now, wall):
                    self._carry_out(effect)
        finally:
            self._feeding = False

    def _carry_out(self, effect: object) -> None:
        match effect:
            case Open(number):
                self._opening = self._thread.spawn(self._open(number), "open a socket")
            case Close(_, _):
                if self._opening is not None and not self._opening.done():
                    self._opening.cancel()
                if self.socket is not None and (ws := self.socket.detach()) is not None:
                    from notebook_rt.net.websocket.socket import hang_up

                    self._thread.spawn(hang_up(ws), "close a socket")
            case Beat(_, ref) if self.socket is not None:
                self._thread.spawn(self.socket.beat(ref), "heartbeat")
            case Latency(seconds):
                self._on_latency(seconds)
            case Silence():
                self._on_silence()
            case RefreshToken():
                self._refresh_soon()
            case StateChanged(state, reason):
                self.registry.connected(state == "connected", reason)
                self._on_state(state, reason)
            case WakeAt(at):
                if self._timer is not None:
                    self._timer.cancel()
                delay = max(0.0, at - time.monotonic())
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(delay, self._feed, Tick())

    async def _open(self, number: int) -> None:
        try:
            socket = await self._carrier()
            await socket.open()
        except NotebookRTError as error:
            self.last_error = known = self._known(error)
            said = known.what if isinstance(known, UnreachableError) else str(known)
            self._feed(OpenFailed(number, classify(error), said))
        else:
            self.last_error = None
            self._feed(Opened(number))

    async def _carrier(self) -> Socket:
        """Return a socket to open; import its implementation if necessary."""
        if self.socket is None:
            if CARRIER not in sys.modules:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UNASKED_SECONDS):
                        await self.registry.needed.wait()
            await asyncio.to_thread(import_module, CARRIER)
            from notebook_rt.net.websocket.socket import Socket

            self.registry.socket = Socket(
                self.registry.url, self.credentials, self._options, self, self._usage, self.traffic
            )
            self.registry.socket.exact_numbers = self._exact_numbers
            return self.registry.socket
        return self.socket

    def _refresh_soon(self) -> None:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._thread.spawn(self._try_refresh(), "refresh the token")

    async def _try_refresh(self) -> None:
        if await self._refresh():
            self.retry("token")
        else:
            self.registry.token_refused()
