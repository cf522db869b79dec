"""A proxy in front of REST that loses answers after the server has acted, and does worse."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web


@dataclass
class CuttingProxy:
    """What it does to each request; set from the test's thread."""

    target: str
    port: int = 0
    cut: float = 0.0
    """The share of writes whose answer is lost after the server acted."""
    drop: float = 0.0
    """The share of requests that are lost before they reach it."""
    refuse: bool = False
    """Nobody answers: every connection breaks before anything is sent on."""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Said to the next writes instead of asking the server: status and headers."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    dice: random.Random = field(default_factory=lambda: random.Random(5))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        writes = request.method != "GET"
        body = await request.read()
        lost = self.dice.random()
        if self.refuse or lost < self.drop:
            return self._hang_up(request)
        if writes and self.answers:
            status, headers = self.answers.pop(0)
            return web.json_response({"message": "no"}, status=status, headers=headers)
        self.requests.append((request.method, request.path_qs))
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with (
            request.app[_CLIENT].request(
                request.method, self.target + request.raw_path, data=body, headers=headers
            ) as answer,
        ):
            content = await answer.read()
        if writes and lost > 1 - self.cut:
            return self._hang_up(request)
        kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
        return web.Response(status=answer.status, body=content, headers=kept)

    def _hang_up(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


_CLIENT = web.AppKey("client", aiohttp.ClientSession)
_HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding"}


@contextmanager
def cutting_proxy(target: str) -> Iterator[CuttingProxy]:
    """Run one on a thread of its own."""
    proxy = CuttingProxy(target)
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        async with aiohttp.ClientSession(auto_decompress=True) as client:
            app[_CLIENT] = client
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            proxy.port = runner.addresses[0][1]
            started.set()
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
