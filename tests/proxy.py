"""A faulty proxy: one loopback port in front of a project, for HTTP and websocket, frame-aware.

What comes in: the address of a project and, while it runs, rules (``Drop``, ``Double``, ``Delay``,
``Truncate``, ``HangUp``, ``Cut``, ``Stall``, ``Answer``), small frozen values with a chance and a
scope, and actions (``down``, ``up``, ``close_sockets``, ``close_channels``). What goes out: the same
traffic with these faults in it, and counts of it and of what was done to it.

It runs on a thread of its own, so sync tests use it in-process; its chance comes from one seed. The
design's promises 1 to 10 and its section 5 are shown through it.

>>> with Proxy(stack.url) as proxy:  # doctest: +SKIP
...     session = nrt.connect(proxy.url, key)
...     proxy.rules = (Drop(), Answer(503, chance=0.5))  # no change arrives, half of REST fails
...     proxy.heal()
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import aiohttp
from aiohttp import web
from yarl import URL

from tests.faults.rules import (
    Answer,
    Cut,
    Delay,
    Double,
    Drop,
    Frame,
    FrameRule,
    HangUp,
    RequestRule,
    Rule,
    Stall,
    Truncate,
    lost_answers,
    truncated,
)
from tests.ports import free_port
from tests.waiting import scaled

__all__ = [
    "Answer",
    "Cut",
    "Delay",
    "Double",
    "Drop",
    "HangUp",
    "Proxy",
    "Rule",
    "Stall",
    "Truncate",
    "lost_answers",
]

_HOP: Final = frozenset(
    {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "content-length"}
)
_CONFIRMATION: Final = "Subscribed to PostgreSQL"
_WORDS: Final = {
    401: {"code": "PGRST301", "message": "JWT could not be verified"},
    404: {"code": "PGRST202", "message": "Could not find the function"},
    429: {"message": "API rate limit exceeded"},
    503: {"message": "name resolution failed"},
}


class Proxy:
    """See the module. ``url`` is what the client is given; ``rules`` may be set at any time."""

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target = target
        self.rules: tuple[Rule, ...] = ()
        self.counts: Counter[str] = Counter()
        """Requests by method, frames by kind, those ``passed`` on, and what was done by the rule's name."""
        self.dice = random.Random(seed)
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._sockets: set[_Relay] = set()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """No more faults. What was delayed still comes."""
        self.rules = ()

    def down(self) -> None:
        """Nobody listens any more and every connection is gone, as with a killed server."""
        self._wait(self._down())

    def up(self) -> None:
        """The server is back, on the same port."""
        self._wait(self._up())

    def close_sockets(self, code: int = 1006) -> None:
        """Close every websocket: with this code, or (1006) by breaking its connection."""
        self._wait(self._close_sockets(code))

    def close_channels(self, message: str = "Token has expired 0 seconds ago") -> None:
        """``system`` error and ``phx_close`` on every joined topic; the sockets stay."""
        self._wait(self._close_channels(message))

    @property
    def sockets(self) -> int:
        """How many websockets are open."""
        return len(self._sockets)

    @property
    def confirmed(self) -> list[int]:
        """How often the server has said, of each join there is, that its changes flow."""
        return [
            join.confirmed for relay in list(self._sockets) for join in list(relay.joins.values())
        ]

    # Its life

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._wait(self._start())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(scaled(10))
        self._loop.close()

    def _wait(self, coro: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coro, self._loop).result(scaled(30))

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=120),
        )
        self._server = web.Server(self._handle)
        await self._up()

    async def _end(self) -> None:
        await self._down()
        await self._server.shutdown(0.1)
        # aiohttp does not wait for the handlers of connections that broke under them.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.close()

    async def _up(self) -> None:
        if self._listener is None:
            self._listener = await self._loop.create_server(self._server, "127.0.0.1", self.port)

    async def _down(self) -> None:
        if self._listener is not None:
            # asyncio never closes a connection that it is just accepting when the listener closes.
            for socket in self._listener.sockets:
                self._loop.remove_reader(socket.fileno())
            await asyncio.sleep(0.01)
            self._listener.close()
            self._listener = None
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        for relay in list(self._sockets):
            await relay.close(1006)

    async def _close_sockets(self, code: int) -> None:
        for relay in list(self._sockets):
            await relay.close(code)

    async def _close_channels(self, message: str) -> None:
        for relay in list(self._sockets):
            await relay.close_channels(message)

    # Chance

    def requests(self, request: web.BaseRequest) -> list[RequestRule]:
        """The rules that this request meets, counted."""
        return [
            rule
            for rule in self.rules
            if isinstance(rule, RequestRule)
            and rule.path in request.path
            and rule.method in (None, request.method)
            and self._happens(rule)
        ]

    def frames(self, frame: Frame) -> list[FrameRule]:
        """The rules that this frame meets, counted."""
        return [
            rule
            for rule in self.rules
            if isinstance(rule, FrameRule)
            and rule.kind in (None, frame.kind)
            and rule.table in (None, frame.table)
            and (rule.numbers is None or frame.number in rule.numbers)
            and self._happens(rule)
        ]

    def _happens(self, rule: Rule) -> bool:
        happens = rule.chance >= 1.0 or self.dice.random() < rule.chance
        if happens:
            self.counts[type(rule).__name__] += 1
        return happens

    async def stalled(self) -> None:
        """While the sockets are stalled."""
        while self._stalls():  # noqa: ASYNC110 - rules are set from another thread
            await asyncio.sleep(0.01)

    def _stalls(self) -> bool:
        return any(isinstance(rule, Stall) and "/websocket" in rule.path for rule in self.rules)

    # HTTP

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.counts[request.method] += 1
        rules = self.requests(request)
        cut = next((rule for rule in rules if isinstance(rule, Cut)), None)
        if cut is not None and cut.when == "before":
            return _break(request)
        for rule in rules:
            if isinstance(rule, Answer):
                headers = {} if rule.retry_after is None else {"Retry-After": str(rule.retry_after)}
                if rule.body is not None:
                    return web.Response(status=rule.status, body=rule.body, headers=headers)
                words = _WORDS.get(rule.status, {"message": "no"})
                return web.json_response(words, status=rule.status, headers=headers)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay(request)
        return await self._forward(request, cut, rules)

    async def _forward(
        self, request: web.BaseRequest, cut: Cut | None, rules: list[RequestRule]
    ) -> web.StreamResponse:
        body = await request.read()
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP]
        try:
            async with self._client.request(
                request.method,
                URL(self.target + request.raw_path, encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            ) as answer:
                content = await answer.read()
        except aiohttp.ClientError:
            return _break(request)
        for rule in rules:
            if isinstance(rule, Stall):
                await asyncio.sleep(self.dice.uniform(0, rule.seconds))
        kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in _HOP]
        if cut is None:
            response = web.Response(status=answer.status, body=content)
            response.headers.clear()
            response.headers.extend(kept)
            return response
        if cut.when == "within" and content:
            part = web.StreamResponse(status=answer.status)
            part.headers.extend(kept)
            part.content_length = len(content)
            await part.prepare(request)
            await part.write(content[: len(content) // 2])
        return _break(request)

    # Websockets

    async def _relay(self, request: web.BaseRequest) -> web.StreamResponse:
        address = URL(self.target + request.raw_path, encoded=True)
        try:
            headers = [
                (k, v)
                for k, v in request.headers.items()
                if k.lower() not in _HOP and not k.lower().startswith("sec-websocket-")
            ]
            server = await self._client.ws_connect(
                address, headers=headers, max_msg_size=0, compress=0
            )
        except aiohttp.WSServerHandshakeError as error:
            return web.json_response({"error": error.message}, status=error.status)
        except aiohttp.ClientError:
            return _break(request)
        client = web.WebSocketResponse(max_msg_size=0, compress=False, timeout=1.0)
        await client.prepare(request)
        self.counts["sockets"] += 1
        relay = _Relay(self, request, client, server)
        self._sockets.add(relay)
        try:
            await relay.run()
        finally:
            self._sockets.discard(relay)
        return client


@dataclass
class _Join:
    """A topic that is joined."""

    ref: str
    confirmed: int = 0
    """How many of the server's words that its changes flow were passed on."""


class _Relay:
    """One websocket: the client's end, the server's end, and what is on its way to the client."""

    def __init__(
        self,
        proxy: Proxy,
        request: web.BaseRequest,
        client: web.WebSocketResponse,
        server: aiohttp.ClientWebSocketResponse,
    ) -> None:
        self.proxy = proxy
        self.request = request
        self.client = client
        self.server = server
        self.joins: dict[str, _Join] = {}
        """By topic."""
        self.v2 = "vsn=2" in request.query_string
        self._late: list[tuple[float, int, str | bytes]] = []
        """Frames with the time they are due, as a heap."""
        self._due_after: dict[str, float] = {}
        """By topic: nothing of it may arrive earlier, so that it stays in order."""
        self._wake = asyncio.Event()
        self._numbers = itertools.count()

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(each) for each in (self._up(), self._down(), self._send_late())
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.server.close()

    async def close(self, code: int) -> None:
        if code == 1006:
            _abort(self.request)
        else:
            await self.client.close(code=code)
        await self.server.close()

    async def close_channels(self, message: str) -> None:
        for topic, join in list(self.joins.items()):
            del self.joins[topic]
            ref = join.ref
            leave = {"topic": topic, "event": "phx_leave", "payload": {}, "ref": "proxy"}
            await self.server.send_str(self._text({**leave, "join_ref": ref}))
            error = {
                "message": message,
                "status": "error",
                "extension": "system",
                "channel": topic.removeprefix("realtime:"),
            }
            for event, payload, its_ref in (("system", error, None), ("phx_close", {}, ref)):
                frame = {"topic": topic, "event": event, "payload": payload, "ref": its_ref}
                await self._send(self._text({**frame, "join_ref": ref}))

    def _text(self, frame: dict[str, Any]) -> str:
        if self.v2:
            return json.dumps(
                [frame["join_ref"], *(frame[n] for n in ("ref", "topic", "event", "payload"))]
            )
        return json.dumps({name: frame[name] for name in ("ref", "event", "payload", "topic")})

    async def _up(self) -> None:
        """From the client to the server."""
        async for message in self.client:
            await self.proxy.stalled()
            if message.type == aiohttp.WSMsgType.TEXT:
                self._note(message.data)
                await self.server.send_str(message.data)
            elif message.type == aiohttp.WSMsgType.BINARY:
                await self.server.send_bytes(message.data)
        await self.server.close(code=self.client.close_code or 1000)

    def _note(self, text: str) -> None:
        try:
            frame = json.loads(text)
            if isinstance(frame, list):
                frame = dict(zip(("join_ref", "ref", "topic", "event"), frame, strict=False))
        except ValueError:
            return
        if frame.get("event") == "phx_join":
            self.joins[frame["topic"]] = _Join(str(frame.get("ref")))
            self.proxy.counts["joins"] += 1
        elif frame.get("event") == "phx_leave":
            self.joins.pop(frame["topic"], None)

    async def _down(self) -> None:
        """From the server to the client."""
        async for message in self.server:
            await self.proxy.stalled()
            if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                await self._pass(message.data)
        code = self.server.close_code
        if code in (None, 1006):
            _abort(self.request)
        else:
            await self.client.close(code=code)

    async def _pass(self, text: str | bytes) -> None:
        frame = Frame.read(text)
        if frame.topic not in self.joins and frame.kind != "heartbeat":
            return  # the server's word on a channel that we closed behind its back
        counts = self.proxy.counts
        counts[frame.kind] += 1
        copies, delay, in_order = 1, 0.0, True
        for rule in self.proxy.frames(frame):
            match rule:
                case Drop():
                    return
                case HangUp():
                    await self.close(rule.code)
                    return
                case Double():
                    copies += 1
                case Truncate() if frame.kind == "change" and isinstance(text, str):
                    text = truncated(text)
                case Delay():
                    delay += self.proxy.dice.uniform(0, rule.seconds)
                    in_order &= rule.in_order
        for _ in range(copies):
            await self._deliver(text, frame.topic, delay, in_order)

    async def _deliver(self, text: str | bytes, topic: str, delay: float, in_order: bool) -> None:
        now = self.proxy._loop.time()
        due = now + delay
        if in_order:
            due = self._due_after[topic] = max(due, self._due_after.get(topic, 0.0))
        if due <= now and not self._late:
            await self._send(text)
        else:
            heapq.heappush(self._late, (due, next(self._numbers), text))
            self._wake.set()

    async def _send(self, frame: str | bytes) -> None:
        if isinstance(frame, str):
            await self.client.send_str(frame)
        else:
            await self.client.send_bytes(frame)
        self.proxy.counts["passed"] += 1
        if isinstance(frame, str) and _CONFIRMATION in frame:
            read = Frame.read(frame)
            if read.kind == "system" and read.topic in self.joins:
                self.joins[read.topic].confirmed += 1

    async def _send_late(self) -> None:
        while True:
            if not self._late:
                self._wake.clear()
                await self._wake.wait()
            now = self.proxy._loop.time()
            if self._late[0][0] <= now:
                await self._send(heapq.heappop(self._late)[2])
            else:
                await asyncio.sleep(min(0.005, self._late[0][0] - now))


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _break(request: web.BaseRequest) -> web.Response:
    _abort(request)
    return web.Response()
