"""The socket of a session: opened on request, its frames passed to their channels.

One attempt to connect and no reconnecting (``sync/connection/supervisor.py`` decides), frames up to 8 MiB,
each decoded once, changes passed directly to their table, heartbeats with a ref and a checked answer, no
hidden buffering. The underlying protocol is in ``upstream.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, Final, Protocol

import msgspec
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from notebook_rt.errors import (
    AuthError,
    NotebookRTError,
    RateLimitedError,
    ServerError,
    UnreachableError,
)
from notebook_rt.net.address import is_loopback
from notebook_rt.net.answers import named_error, read_answer
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.websocket.frames import ChangeFrame, UnknownFrame, decode_frame
from notebook_rt.net.websocket.intake import Intake
from notebook_rt.net.websocket.topic import ChannelListener, SocketChannel
from notebook_rt.net.websocket.traffic import Traffic
from notebook_rt.net.websocket.upstream import Carrier
from notebook_rt.options import Options
from notebook_rt.sync.usage import Counts, Usage

logger = logging.getLogger("notebook_rt")
_quiet = logging.getLogger("notebook_rt.websockets")
"""Logger for ``websockets``, whose debug log has the URL (with the key) and every frame (with tokens)."""
_quiet.setLevel(logging.WARNING)
logging.getLogger("realtime").addHandler(logging.NullHandler())


COUNTS: Final[Mapping[str, Counts]] = {
    "broadcast": "message",
    "presence": "presence",
    "presence_diff": "presence",
    "presence_state": "presence",
}
"""The events that count toward a plan's limits, in addition to changes."""
CLOSE_SECONDS: Final = 1.0
"""Maximum seconds for the server's part of the closing handshake."""


class _Connect(connect):
    """Connects without following redirects, which would send the tokens of every join to another server."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class SocketListener(Protocol):
    """The owner of the socket. Its methods are called on the loop, and must not raise."""

    def socket_closed(self, code: int | None, reason: str, here: bool) -> None:
        """Handle that the socket is gone; ``here``: this side closed it because of what the server sent."""

    def heartbeat_answered(self, ref: str) -> None: ...

    def frame_unreadable(self, reason: str) -> None:
        """Handle an unreadable frame, which may have been a change of any table."""

    def limit_near(self) -> None:
        """Handle that the rate of messages is near the limit of the plan."""


class Socket(Carrier):
    """A client of one project. ``open`` makes one attempt; the listener is notified of the end."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        options: Options,
        listener: SocketListener,
        usage: Usage | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        super().__init__(f"{url}/realtime/v1", credentials.key, int(max(1.0, options.join_timeout)))
        self.project_url = url
        self.options = options
        self.credentials = credentials
        self.listener = listener
        self.exact_numbers = False
        """Whether a table keeps ``numeric`` as Decimal."""
        self.usage = Usage(options.plan) if usage is None else usage
        self.traffic = Traffic() if traffic is None else traffic
        self.access_token: str | None = credentials.spoken
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make one attempt to open a socket.

        Raises
        ------
        NotebookRTError
            `UnreachableError`, `AuthError`, `RateLimitedError` or `ServerError`.
        """
        self.access_token = self.credentials.spoken
        try:
            ws = await _Connect(
                self.endpoint_url(),
                open_timeout=2 * self.options.connect_timeout,
                close_timeout=CLOSE_SECONDS,
                max_size=self.options.max_frame_bytes,
                compression=None,
                create_connection=partial(Intake, on_message=self._dispatch),  # type: ignore[arg-type]  # used as a factory only
                ping_interval=None,  # the protocol's heartbeat checks more: the server, not only TCP
                logger=_quiet,
                proxy=None if is_loopback(self.project_url) else True,
            )
        except InvalidStatus as error:
            raise _refused(self.project_url, error) from None  # its text quotes headers
        except InvalidURI:
            raise UnreachableError(
                self.project_url, "this is not a URL"
            ) from None  # its text has the key
        except (OSError, TimeoutError, WebSocketException, EOFError) as error:
            reason = str(error) or "no answer in time"
            raise UnreachableError(self.project_url, reason) from None  # its text quotes headers
        self.ws = ws
        self.traffic.last_frame_at = time.monotonic()
        self._watching = asyncio.get_running_loop().create_task(
            self._watch(ws), name="notebook_rt-socket"
        )

    def detach(self) -> ClientConnection | None:
        """Detach the socket without notifying the listener, and return it to be closed."""
        ws, self.ws = self.ws, None
        task, self._watching = self._watching, None
        if task is not None:
            task.cancel()
        self.orphan_channels()
        return ws

    async def _watch(self, ws: ClientConnection) -> None:
        """Wait for the end of the socket, and notify the listener."""
        await ws.wait_closed()
        if self.ws is ws:
            self.ws = None
            self._watching = None
            self.orphan_channels()
            # Sent and not answered: the server broke the protocol or a limit, and this side closed it.
            protocol = ws.protocol
            here = protocol.close_sent is not None and not protocol.close_rcvd_then_sent
            close = protocol.close_sent if here else protocol.close_rcvd
            code, reason = (None, "") if close is None else (close.code, close.reason)
            self.listener.socket_closed(code, reason, here)

    def _dispatch(self, raw: bytes) -> None:
        self.traffic.frames += 1
        self.traffic.bytes_received += len(raw)
        self.traffic.last_frame_at = time.monotonic()
        try:
            self._take(raw)
        except Exception as error:  # no frame that was read may be lost without a gap (promise 3)
            logger.exception("a frame of %d bytes", len(raw))
            self.listener.frame_unreadable(f"a frame that could not be taken: {error!r:.200}")

    def _take(self, raw: bytes) -> None:
        frame = decode_frame(raw, self.exact_numbers)
        if isinstance(frame, ChangeFrame):
            self._count(raw, "message")
            channel = self.channels.get(frame.topic)
            if isinstance(channel, SocketChannel):
                channel.listener.change(frame.change)
            return
        if isinstance(frame, UnknownFrame):
            self._count(raw, "nothing")
            self.traffic.unknown += 1
            if frame.perhaps_a_change:
                self.listener.frame_unreadable("a frame that cannot be read")
            return
        self._count(raw, COUNTS.get(frame.event, "nothing"))
        channel = self.channels.get(frame.topic)
        self.traffic.unknown += frame.unknown_keys
        if isinstance(channel, SocketChannel):
            self.traffic.unknown += channel.receive(frame.event, frame.payload, frame.ref)
        elif frame.topic == "phoenix":
            if frame.event == "phx_reply" and frame.ref:
                self.listener.heartbeat_answered(frame.ref)
            else:
                self.traffic.unknown += 1

    def _count(self, raw: bytes, counts: Counts) -> None:
        if self.usage.received(len(raw), counts, self.traffic.last_frame_at):
            self.listener.limit_near()

    async def transmit(self, fields: Mapping[str, Any]) -> None:
        """Send now. Without a socket nothing is kept for later, which is the queue's task.

        Raises
        ------
        ConnectionError
            If the socket is gone.
        """
        ws = self.ws
        if ws is None:
            raise ConnectionError("not connected")
        encoded = msgspec.json.encode(fields)
        try:
            await ws.send(encoded, text=True)
        except ConnectionClosed as error:
            raise ConnectionError("the connection was lost") from error
        counts = COUNTS.get(str(fields["event"]), "nothing")
        if self.usage.sent(len(encoded), counts, time.monotonic()):
            self.listener.limit_near()

    async def beat(self, ref: str) -> None:
        with contextlib.suppress(ConnectionError):  # the receive loop detects that too
            await self.transmit(
                {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": ref}
            )

    def open_channel(
        self, topic: str, config: Mapping[str, Any], listener: ChannelListener
    ) -> SocketChannel:
        """Return the channel of ``topic`` (without ``realtime:``), registered but not joined."""
        return SocketChannel(self, f"realtime:{topic}", deepcopy(dict(config)), listener)


async def hang_up(ws: ClientConnection) -> None:
    """Close a socket, with a closing handshake if the other side responds.

    ``close`` first waits for space in the send buffer, forever if the other side does not read.
    """
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await ws.close()
    finally:
        ws.transport.abort()


def _refused(url: str, error: InvalidStatus) -> NotebookRTError:
    """Return the named error for a handshake with another answer than 101."""
    response = error.response
    said = {name: response.headers.get_all(name) for name in response.headers}
    headers = {name.lower(): values[0] for name, values in said.items() if len(values) == 1}
    answer = read_answer(response.status_code, headers, response.body or b"", time.time())
    words = answer.error_fields.get("message") or response.reason_phrase
    named = named_error("connecting", answer if answer.page else replace(answer, body=words), url)
    if answer.page and answer.status >= 400 and isinstance(named, UnreachableError):
        return named
    if answer.status in (401, 403):
        return AuthError("key", url, words)
    if isinstance(named, RateLimitedError | ServerError):
        return named
    return UnreachableError(url, f"the websocket was answered with {answer.status}: {words}")
