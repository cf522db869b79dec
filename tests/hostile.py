"""A project whose websocket is answered by an attacker, while REST is passed through unchanged.

In: the address of a project, and what the attacker does with each websocket, a coroutine of its reader,
its writer and the head of the request. Out: ``url``, and how many websockets were asked for. It runs
on a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from tests.relay import Relay

Attack: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


class HostileSocket(Relay):
    """See the module; a context manager."""

    def __init__(self, target: str, attack: Attack) -> None:
        super().__init__(target)
        self._attack = attack
        self.sockets = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/websocket" in head.partition(b"\r\n")[0]:
                self.sockets += 1
                await self._attack(reader, writer, head.decode())
            else:
                await self._pass_through(head, reader, writer)
        writer.transport.abort()

    async def _pass_through(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        there, back = await asyncio.open_connection(*self._target)
        back.write(head)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, back))
                both.create_task(_copy(there, writer))
        finally:
            back.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.write_eof()


def accepted(head: str, more: str = "") -> bytes:
    """The answer that opens the websocket asked for in ``head``; ``more`` are further header lines."""
    found = re.search(r"Sec-WebSocket-Key: (\S+)", head, re.IGNORECASE)
    assert found is not None
    digest = hashlib.sha1((found[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n{more}\r\n"
    ).encode()


def frame(first: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame with this first byte (FIN, RSV, opcode), which says that it is ``length`` bytes long."""
    size = len(payload) if length is None else length
    if size < 126:
        return bytes([first, size]) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and the payload of the client's next frame."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2))
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
