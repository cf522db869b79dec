"""One client's connection: frames in, frames out, its channels, its limits.

In: an accepted websocket. `run` returns at the end of the connection. Messages are handled in the order of
their arrival; frames are sent from a queue, so that a client that does not read does not delay others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from aiohttp import WSCloseCode, WSMsgType, web

from notebook_rt.local.realtime import join, private, tokens
from notebook_rt.local.realtime.channel import Channel
from notebook_rt.local.realtime.join import JoinRefusedError
from notebook_rt.local.realtime.protocol import (
    Message,
    Version,
    decode_binary,
    decode_text,
    dumps,
    frame,
)
from notebook_rt.local.realtime.tokens import Claims, TokenRefusedError

if TYPE_CHECKING:
    from notebook_rt.local.realtime.hub import Frame
    from notebook_rt.local.realtime.tenant import Tenant

log = logging.getLogger(__name__)

PREFIX = "realtime:"


class Socket:
    """A connection and its channels, by topic."""

    def __init__(
        self,
        tenant: Tenant,
        websocket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        vsn: Version,
        api_key: Claims,
    ) -> None:
        self.tenant = tenant
        self.vsn = vsn
        self._websocket = websocket
        self._transport = transport
        self._api_key = api_key
        self._channels: dict[str, Channel] = {}
        self._queue: deque[Frame] = deque()
        self._filled = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing_code: int | None = None
        self._received = time.monotonic()

    async def run(self) -> None:
        """Serve until the end of the connection."""
        writer = asyncio.create_task(self._write())
        watch = asyncio.create_task(self._close_when_idle())
        limit = asyncio.create_task(self._close_without_login())
        self.tenant.sockets.add(self)
        try:
            async for received in self._websocket:
                self._received = time.monotonic()
                message = None
                if received.type == WSMsgType.TEXT:
                    message = decode_text(self.vsn, received.data)
                elif received.type == WSMsgType.BINARY and self.vsn == "2.0.0":
                    message = decode_binary(received.data)
                if message is not None:
                    await self._handle(message, len(received.data))
        finally:
            self.tenant.sockets.discard(self)
            for channel in list(self._channels.values()):
                channel.abandon()
            for task in (writer, watch, limit, *self._tasks):
                task.cancel()

    # --- frames out

    def send(self, made: Frame) -> None:
        """Queue a frame."""
        self._queue.append(made)
        self._filled.set()

    def reply(self, topic: str, join_ref: Any, ref: Any, response: Any, status: str = "ok") -> None:
        payload = f'{{"status":"{status}","response":{dumps(response)}}}'
        self.send(frame(self.vsn, topic, "phx_reply", payload, join_ref, ref))

    async def close(self, code: int) -> None:
        """Close after the queue has been sent."""
        if self._queue:
            self._closing_code = code
            self._filled.set()
        else:
            await self._websocket.close(code=code)

    async def _write(self) -> None:
        patience = self.tenant.options.slow_reader_timeout
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            self._filled.clear()
            try:
                async with asyncio.timeout(patience) as deadline:
                    while self._queue:
                        deadline.reschedule(loop.time() + patience)
                        made = self._queue[0]
                        try:
                            if isinstance(made, str):
                                await self._websocket.send_str(made)
                            else:
                                await self._websocket.send_bytes(made)
                        except UnicodeEncodeError:
                            log.exception("a frame was dropped")
                        self._queue.popleft()
                if self._closing_code is not None:
                    await self._websocket.close(code=self._closing_code)
            except (TimeoutError, ConnectionError):
                # The client does not read: cut the connection (1006); its queue is lost.
                self._queue.clear()
                self.abort()
                return

    def abort(self) -> None:
        """Cut the connection without a closing frame."""
        if self._transport is not None:
            self._transport.abort()

    async def _close_when_idle(self) -> None:
        timeout = self.tenant.options.idle_timeout
        idle = 0.0
        while idle < timeout:
            await asyncio.sleep(timeout - idle)
            idle = time.monotonic() - self._received
        await self._websocket.close(code=WSCloseCode.OK)

    async def _close_without_login(self) -> None:
        """Cut a connection without a login on any channel, as a hosted project does after a day."""
        await asyncio.sleep(self.tenant.options.login_timeout)
        if not any(channel.claims.role == "authenticated" for channel in self._channels.values()):
            await self._websocket.close(code=WSCloseCode.OK)

    # --- messages in

    async def _handle(self, message: Message, size: int) -> None:
        topic, event = message.topic, message.event
        channel = self._channels.get(topic)
        if topic == "phoenix" and event == "heartbeat":
            self.reply(topic, message.join_ref, message.ref, {})
        elif event == "phx_join" and topic.startswith(PREFIX):
            await self._join(message, channel)
        elif channel is not None and event == "phx_leave":
            if message.join_ref == channel.join_ref:  # ignore an outdated leave
                channel.reply(message.ref, {})
                channel.close()
        elif channel is not None:
            await channel.handle(message, size)
        elif event == "phx_leave":
            self.reply(topic, None, message.ref, {})
        else:
            self.reply(topic, None, message.ref, {"reason": "unmatched topic"}, "error")

    async def _join(self, message: Message, before: Channel | None) -> None:
        try:
            channel = await self._admitted(message, before)
        except (JoinRefusedError, TokenRefusedError) as refused:
            # Answered with a delay, to slow down a client that retries in a loop.
            self._later(self._refuse(message, str(refused)))
            return
        self._channels[message.topic] = channel
        await channel.open(message, before)

    async def _admitted(self, message: Message, before: Channel | None) -> Channel:
        name = message.topic.removeprefix(PREFIX)
        config = join.read(name, message.json())
        if before is None and len(self._channels) >= self.tenant.options.max_channels:
            raise JoinRefusedError("ChannelRateLimitReached: Too many channels")
        token = config.access_token
        claims = self._api_key if token is None else self.claims_of(token)
        if claims.expires <= time.time():
            raise tokens.expired(claims.expires)
        channel = Channel(self, name, message.ref, config, claims)
        if config.private:
            channel.policies = await private.policies(self.tenant.callers, name, claims)
            if "broadcast" not in channel.policies.read:
                raise JoinRefusedError(
                    "Unauthorized: You do not have permissions to read from this Channel "
                    f"topic: {name}"
                )
        return channel

    async def _refuse(self, message: Message, reason: str) -> None:
        await asyncio.sleep(self.tenant.options.join_error_delay)
        self.reply(message.topic, message.join_ref, message.ref, {"reason": reason}, "error")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def claims_of(self, token: str) -> Claims:
        """Return the claims of a token; an `sb_…` key represents the connection's key."""
        return self._api_key if token.startswith("sb_") else self.tenant.verify(token)

    def forget(self, channel: Channel) -> None:
        """Handle a closed channel, whose topic may have been joined again meanwhile."""
        if self._channels.get(channel.topic) is channel:
            del self._channels[channel.topic]

    async def disconnect(self) -> None:
        """Disconnect the client like the real server."""
        payload = '{"message":"Server requested disconnect","status":"ok","extension":"system"}'
        for channel in list(self._channels.values()):
            channel.push("system", payload)
        await self.close(WSCloseCode.SERVICE_RESTART)
