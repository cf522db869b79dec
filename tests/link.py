"""A link with a round-trip time: a TCP relay on loopback that forwards every byte with a delay.

In: the address of a project and the round trip in seconds. Out: ``url``, the same project further
away. It breaks nothing and changes nothing (``proxy.py`` does that), and bandwidth is not limited. It
runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from tests.relay import Relay


class Link(Relay):
    """See the module; a context manager."""

    def __init__(self, target: str, round_trip: float) -> None:
        super().__init__(target)
        self._one_way = round_trip / 2
        self.connections = 0
        """How many were opened, in all."""
        self.at_once = 0
        """On how many of them something was asked, at most, while the others' answers had not come."""
        self._asking: set[asyncio.StreamWriter] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection(*self._target)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._relay(reader, back, partial(self._asked, writer)))
            both.create_task(self._relay(there, writer, partial(self._asking.discard, writer)))

    def _asked(self, writer: asyncio.StreamWriter) -> None:
        self._asking.add(writer)
        self.at_once = max(self.at_once, len(self._asking))

    async def _relay(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, came: Callable[[], None]
    ) -> None:
        """Read as it comes, write ``_one_way`` seconds after, in order."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    sink.close()
                    return
                sink.write(data)
                await sink.drain()

        writing = asyncio.create_task(write())
        try:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    came()
                    waiting.put_nowait((loop.time() + self._one_way, data))
            waiting.put_nowait((loop.time() + self._one_way, b""))
            with contextlib.suppress(ConnectionError):
                await writing
        finally:
            writing.cancel()
            sink.close()
