"""For any answers on the websocket, the table stays correct by polling, and reports that it polls.

REST is the real stack's; the websocket is an attacker's (``tests/hostile.py``).
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.options import Options
from tests.hostile import Attack, HostileSocket, accepted, frame, read_frame
from tests.test_terminal import is_text
from tests.waiting import scaled, throughout, until

OPTIONS = Options(
    connect_timeout=1.0,
    join_timeout=1.0,
    heartbeat_interval=0.3,
    heartbeat_timeout=2.0,
    stale_check=0.2,
    backoff_base=0.1,
    backoff_max=0.5,
    poll_interval=0.2,
    poll_max=0.5,
    max_frame_bytes=1_000_000,
)
MEMORY = 150_000_000
"""Bytes by which the process may grow meanwhile: pandas' first snapshot, and a few frames."""
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x00\r\u202e\x9b"

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


async def a_handshake_drop_by_drop(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head).removesuffix(b"\r\n") + b"X-More: ")
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.01)
        await writer.drain()


async def a_handshake_without_end(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head).removesuffix(b"\r\n"))
    while True:
        writer.write(b"X-More: " + b"a" * 8000 + b"\r\n")
        await writer.drain()


async def a_refusal_without_end(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        await writer.drain()


async def a_frame_byte_by_byte(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head) + frame(0x81, b"", 900_000))
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.002)
        await writer.drain()


async def a_small_frame_byte_by_byte(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head))
    await asyncio.sleep(0.05)
    writer.write(frame(0x81, b"", 60_000))
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.002)
        await writer.drain()


async def a_frame_over_the_limit(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head))
    await asyncio.sleep(0.05)
    writer.write(frame(0x81, b"", 1 << 40))
    while True:
        writer.write(b"a" * 65536)
        await writer.drain()


async def parts_over_the_limit(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head) + frame(0x01, b"a"))
    while True:
        writer.write(frame(0x00, b"a" * 60_000))
        await writer.drain()


async def empty_parts_without_end(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head) + frame(0x01, b""))
    while True:
        writer.write(frame(0x00, b"") * 10_000)
        await writer.drain()


async def no_answer_to_the_join(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head))
    while True:
        opcode, data = await read_frame(reader)
        if opcode == 8:
            return
        said = json.loads(data)
        if said["event"] == "heartbeat":
            answer = {"topic": "phoenix", "event": "phx_reply", "ref": said["ref"],
                      "payload": {"status": "ok", "response": {}}}  # fmt: skip
            writer.write(frame(0x81, json.dumps(answer).encode()))


async def a_hostile_farewell(reader: Reader, writer: Writer, head: str) -> None:
    reason = ESCAPES.encode()
    reason += b"a" * (123 - len(reason))
    writer.write(accepted(head) + frame(0x88, (4000).to_bytes(2) + reason))
    await reader.read()


async def a_farewell_in_no_unicode(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head) + frame(0x88, (4000).to_bytes(2) + b"\xff\x9b"))
    await reader.read()


@functools.cache
def bomb() -> bytes:
    """Made once: each connection is sent it."""
    packed = zlib.compressobj(wbits=-15)
    return packed.compress(b"a" * 50_000_000) + packed.flush(zlib.Z_SYNC_FLUSH)


async def a_deflated_frame(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head) + frame(0xC1, bomb()[:-4]))
    await reader.read()


async def deflate_that_nobody_asked_for(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head, "Sec-WebSocket-Extensions: permessage-deflate\r\n"))
    await reader.read()


async def a_503(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(b"HTTP/1.1 503 No\r\nRetry-After: 31536000000\r\nContent-Length: 4\r\n\r\n\x1b[2J")
    await reader.read()


async def pings_and_no_ear(reader: Reader, writer: Writer, head: str) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's types lack it
    writer.write(accepted(head))
    while True:
        writer.write(frame(0x89, b"a" * 125) * 1000)
        await writer.drain()


async def words_that_mean_nothing(reader: Reader, writer: Writer, head: str) -> None:
    writer.write(accepted(head))
    for word in (b"", b"[]", b"\x00", b'"\xff"', b"[" * 100_000, b'{"topic":"phoenix","event":7}'):
        writer.write(frame(0x81, word) + frame(0x82, word))
    await reader.read()


ATTACKS: tuple[tuple[Attack, str], ...] = (
    (a_handshake_drop_by_drop, "timed out during opening handshake"),
    (a_handshake_without_end, "handshake"),
    (a_refusal_without_end, "handshake"),
    (a_frame_byte_by_byte, "no answer to a heartbeat"),
    (a_small_frame_byte_by_byte, "no answer to a heartbeat"),
    (a_frame_over_the_limit, "closed here (1009)"),
    (parts_over_the_limit, "closed here (1009)"),
    (empty_parts_without_end, "closed here (1008)"),
    (no_answer_to_the_join, "no answer to the join"),
    (a_hostile_farewell, "closed by the server (4000)"),
    (a_farewell_in_no_unicode, "closed here (1007)"),
    (a_deflated_frame, "closed here (1002)"),
    (deflate_that_nobody_asked_for, "extensions"),
    (a_503, "the server answered 503"),
    (pings_and_no_ear, "closed here (1008)"),
    (words_that_mean_nothing, "no answer to"),
)
"""And what the table says of each, as why it polls."""


def memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize(("attack", "why"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_a_table_stays_true_by_polling(
    stack: LocalStack, make_table: Callable[..., str], attack: Attack, why: str
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'one', 1)")
    before = memory()
    with HostileSocket(stack.url, attack) as hostile:
        rt = nrt.connect(hostile.url, stack.anon_key, options=OPTIONS)
        live = rt.table(table)
        until(lambda: live.status == "polling", 20, what=lambda: repr(live))
        until(lambda: hostile.sockets > 0)
        until(lambda: rt.health.status == "polling", what=lambda: repr(rt.health))
        until(lambda: why in repr(live) and live.status == "polling", what=lambda: repr(live))
        for number in (2, 3, 4):
            stack.sql(f"insert into {table} values ({number}, 'more', 1)")
            until(lambda number=number: number in live.df.index, what=lambda: repr(live))  # type: ignore[misc]  # a lambda with a default
        throughout(lambda: rt.health.status != "healthy", 0.5, what=lambda: repr(rt.health))
        said = (
            rt.health.reason,
            repr(rt.health),
            repr(live),
            repr(rt),
            str(rt.metrics["last_error"]),
        )
        for text in said:
            assert is_text(text)
        began = time.monotonic()
        rt.close()
        assert time.monotonic() - began < scaled(5)
    assert memory() - before < MEMORY
