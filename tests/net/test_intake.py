"""Each message is passed on once and in order, however TCP splits the bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from notebook_rt.net.websocket.intake import Intake
from notebook_rt.sync.connection.gathering import LONGEST
from tests.laws import examples
from tests.waiting import scaled

LARGEST = 200_000


class _Transport(asyncio.Transport):
    """Takes what is sent, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.pauses = 0
        self.reading = asyncio.Event()
        self.reading.set()

    def write(self, data: Any) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        assert self.reading.is_set()
        self.pauses += 1
        self.reading.clear()

    def resume_reading(self) -> None:
        assert not self.reading.is_set()
        self.reading.set()

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


def intake(loop: asyncio.AbstractEventLoop, got: list[bytes]) -> Intake:
    """A connection whose handshake is over."""
    protocol = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=LARGEST)
    found = Intake(protocol, on_message=got.append, ping_interval=None)
    next(protocol.parser)
    found.connection_made(_Transport())
    found.response = Response(101, "Switching Protocols", Headers())
    return found


def chopped(data: bytes, places: list[int]) -> Iterator[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return (data[a:b] for a, b in itertools.pairwise(ends))


def wire(frame: Frame) -> bytes:
    return frame.serialize(mask=False)


LENGTHS = st.sampled_from([0, 1, 125, 126, 127, 1000, 65_535, 65_536, 70_000])


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[bytes]]:
    """Bytes of a server, the messages in them, and the pings among them."""
    data, messages, pings = b"", [], []
    for _ in range(draw(st.integers(1, 8))):
        payload = random.Random(draw(st.integers(0, 5))).randbytes(draw(LENGTHS))
        match draw(st.sampled_from(["text", "binary", "parts", "ping"])):
            case "ping":
                pings.append(payload[:125])
                data += wire(Frame(Opcode.PING, payload[:125]))
            case "parts":
                half = len(payload) // 2
                messages.append(payload)
                data += wire(Frame(Opcode.TEXT, payload[:half], fin=False))
                if draw(st.booleans()):
                    pings.append(b"between")
                    data += wire(Frame(Opcode.PING, b"between"))
                data += wire(Frame(Opcode.CONT, payload[half:]))
            case kind:
                messages.append(payload)
                data += wire(Frame(Opcode.TEXT if kind == "text" else Opcode.BINARY, payload))
    return data, messages, pings


@given(exchanges(), st.lists(st.integers(0, 300_000), max_size=12))
@settings(max_examples=examples(150), deadline=None)
def test_every_message_comes_once_and_in_order_however_tcp_chops_it(
    exchange: tuple[bytes, list[bytes], list[bytes]], places: list[int]
) -> None:
    data, messages, pings = exchange

    async def play() -> None:
        got: list[bytes] = []
        found = intake(asyncio.get_running_loop(), got)
        for part in chopped(data, places):
            found.data_received(part)
        assert got == messages
        assert isinstance(found.transport, _Transport)
        assert len(found.transport.sent) == sum(
            len(Frame(Opcode.PONG, ping).serialize(mask=True)) for ping in pings
        )
        assert found.protocol.state is State.OPEN

    asyncio.run(play())


def _after(data: bytes, places: list[int], *, eof: bool = False) -> tuple[list[bytes], Any]:
    got: list[bytes] = []

    async def play() -> Any:
        found = intake(asyncio.get_running_loop(), got)
        for part in chopped(data, places):
            found.data_received(part)
        if eof:
            found.eof_received()
        return found.protocol

    return got, asyncio.run(play())


TEXT = wire(Frame(Opcode.TEXT, b"one"))


@given(st.lists(st.integers(0, 100), max_size=6))
@settings(deadline=None)
def test_a_close_is_heard_and_what_comes_after_it_is_not(places: list[int]) -> None:
    close = wire(Frame(Opcode.CLOSE, Close(1012, "restart").serialize()))
    got, protocol = _after(TEXT + close + TEXT, places)
    assert got == [b"one"]
    assert protocol.close_rcvd.code == 1012


@given(
    st.sampled_from(
        [
            (b"\x81\x83abcdxyz", 1002),  # masked by a server
            (b"\x81\xfe\x00\x80abcd" + bytes(128), 1002),
            (b"\xf1\x01x", 1002),  # reserved bits
            (b"\x83\x01x", 1002),  # an opcode that is none
            (wire(Frame(Opcode.CONT, b"x")), 1002),  # goes on with nothing
            (wire(Frame(Opcode.TEXT, b"a", fin=False)) + TEXT, 1002),  # a message in a message
            (wire(Frame(Opcode.TEXT, bytes(LARGEST + 1))), 1009),
        ]
    ),
    st.lists(st.integers(0, 200), max_size=6),
)
@settings(deadline=None)
def test_what_breaks_the_protocol_ends_the_connection_as_in_websockets(
    broken: tuple[bytes, int], places: list[int]
) -> None:
    data, code = broken
    got, protocol = _after(TEXT + data, places)
    assert got == [b"one"]
    assert protocol.close_sent.code == code


STREAM = 100
"""Messages at once that make a pause due, and few enough for one."""


async def test_tcp_is_left_alone_for_a_moment_while_messages_stream_in() -> None:
    """And never for longer: it is read again whatever comes."""
    got: list[bytes] = []
    found = intake(asyncio.get_running_loop(), got)
    transport = found.transport
    assert isinstance(transport, _Transport)
    found.data_received(TEXT)
    assert not transport.pauses  # one is taken as it comes
    for _ in range(3):
        await asyncio.wait_for(transport.reading.wait(), scaled(5))
        pauses = transport.pauses
        found.data_received(TEXT * (STREAM if not pauses else 1))
        assert transport.pauses == pauses + 1
        assert not transport.reading.is_set()
        found.data_received(TEXT)  # what TLS had read before: taken, and no second pause
        assert transport.pauses == pauses + 1
    assert got == [b"one"] * (STREAM + 6)
    await asyncio.wait_for(transport.reading.wait(), scaled(5))


async def test_an_end_while_tcp_is_left_alone_is_heard_and_nothing_is_read_after_it() -> None:
    found = intake(asyncio.get_running_loop(), [])
    transport = found.transport
    assert isinstance(transport, _Transport)
    found.data_received(TEXT * STREAM)
    assert not transport.reading.is_set()
    found.connection_lost(None)
    assert found.protocol.state is State.CLOSED
    await asyncio.sleep(4 * LONGEST)
    assert not transport.reading.is_set()


async def test_no_pause_comes_between_a_close_and_its_end() -> None:
    found = intake(asyncio.get_running_loop(), [])
    assert isinstance(found.transport, _Transport)
    found.data_received(TEXT * STREAM + wire(Frame(Opcode.CLOSE, Close(1012, "").serialize())))
    assert found.transport.reading.is_set()


async def test_what_streams_in_over_tcp_is_taken_whole_and_in_order_over_the_pauses() -> None:
    got: list[bytes] = []
    whole = asyncio.Event()
    pauses = []

    class Counting(Intake):
        def _read_on(self) -> None:
            pauses.append(len(got))
            super()._read_on()

    def take(message: bytes) -> None:
        got.append(message)
        if len(got) == 1200:
            whole.set()

    def made(*args: Any, **kwargs: Any) -> Counting:
        return Counting(*args, on_message=take, **kwargs)

    async def stream(connection: ServerConnection) -> None:
        for number in range(1200):
            await connection.send(str(number))
            if number % 60 == 59:
                await asyncio.sleep(0.001)
        await connection.wait_closed()

    async with serve(stream, "127.0.0.1", 0) as serving:
        port = next(iter(serving.sockets)).getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}/",
            create_connection=made,  # type: ignore[arg-type]  # a factory is all it is called as
            ping_interval=None,
        ):
            await asyncio.wait_for(whole.wait(), scaled(20))
    assert got == [str(number).encode() for number in range(1200)]
    assert pauses


def test_an_end_in_the_middle_of_a_frame_is_no_clean_one() -> None:
    got, protocol = _after(TEXT + TEXT[:3], [], eof=True)
    assert got == [b"one"]
    assert isinstance(protocol.parser_exc, EOFError)


async def test_frames_right_behind_the_handshake_are_taken_too() -> None:
    """In one packet with the answer, and one of them not whole."""

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(
            line.split(": ")[1]
            for line in head.split("\r\n")
            if line.lower().startswith("sec-websocket-key")
        )
        accept = base64.b64encode(
            hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        )
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + TEXT + TEXT[:1]
        )
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(TEXT[1:] + TEXT)
        await reader.read()
        writer.close()

    got: list[bytes] = []
    whole = asyncio.Event()

    def take(message: bytes) -> None:
        got.append(message)
        if len(got) == 3:
            whole.set()

    def made(*args: Any, **kwargs: Any) -> Intake:
        return Intake(*args, on_message=take, **kwargs)

    serving = await asyncio.start_server(server, "127.0.0.1", 0)
    port = serving.sockets[0].getsockname()[1]
    async with (
        serving,
        connect(
            f"ws://127.0.0.1:{port}/",
            create_connection=made,  # type: ignore[arg-type]  # a factory is all it is called as
            ping_interval=None,
            close_timeout=0.1,
        ),
    ):
        await asyncio.wait_for(whole.wait(), scaled(10))
    assert got == [b"one", b"one", b"one"]
