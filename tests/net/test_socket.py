"""The client over the ``realtime`` package: the parts of the package that it uses."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from notebook_rt.errors import (
    AuthError,
    NotebookRTError,
    RateLimitedError,
    ServerError,
    UnreachableError,
)
from notebook_rt.local import LocalStack
from notebook_rt.model.classify import RETRY_AFTER_MAX
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.registry import Registry
from notebook_rt.net.websocket.socket import Socket
from notebook_rt.net.websocket.topic import SocketChannel
from notebook_rt.options import Options
from notebook_rt.sync.connection.joins import BURST
from notebook_rt.sync.events import Binding, Change
from tests.hostile import accepted, frame
from tests.test_terminal import is_text
from tests.waiting import scaled


class Ears:
    """Hears everything, as socket listener and as channel listener."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def next(self, kind: str, seconds: float = 5.0) -> tuple[Any, ...]:
        while True:
            event = await asyncio.wait_for(self.heard.get(), seconds)
            if event[0] == kind:
                return event

    def socket_closed(self, code: int | None, reason: str, here: bool) -> None:
        self.heard.put_nowait(("socket_closed", code, reason, here))

    def heartbeat_answered(self, ref: str) -> None:
        self.heard.put_nowait(("heartbeat", ref))

    def frame_unreadable(self, reason: str) -> None:
        self.heard.put_nowait(("unreadable", reason))

    def limit_near(self) -> None:
        self.heard.put_nowait(("limit",))

    def channel_joined(self) -> None:
        self.heard.put_nowait(("joined",))

    def channel_failed(self, reason: str) -> None:
        self.heard.put_nowait(("failed", reason))

    def channel_closed(self) -> None:
        self.heard.put_nowait(("closed",))

    def system(self, payload: Mapping[str, Any]) -> None:
        self.heard.put_nowait(("system", payload))

    def change(self, change: Change | None) -> None:
        self.heard.put_nowait(("change", change))

    def broadcast(self, payload: Mapping[str, Any]) -> None:
        self.heard.put_nowait(("broadcast", payload))

    def presence(self, event: str, payload: Mapping[str, Any]) -> None:
        self.heard.put_nowait(("presence", event, payload))


CONFIG = {
    "broadcast": {"ack": True, "self": True},
    "presence": {"key": "", "enabled": True},
    "private": False,
}


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def socket(stack: LocalStack, ears: Ears) -> AsyncIterator[Socket]:
    found = Socket(stack.url, Credentials(stack.anon_key), Options(), ears)
    await found.open()
    yield found
    if (ws := found.detach()) is not None:
        await ws.close()


@pytest.fixture
def table(sql: Callable[..., Any]) -> str:
    name = f"socket_{time.monotonic_ns()}"
    sql(f"create table {name} (id bigint primary key, price numeric, name text)")
    sql(f"alter publication supabase_realtime add table {name}")
    sql(f"grant all on {name} to anon")
    return name


async def test_joins_confirms_and_hands_over_changes(
    socket: Socket, ears: Ears, table: str, sql: Callable[..., Any]
) -> None:
    channel = socket.open_channel("changes", CONFIG, ears)
    await channel.subscribe_to((Binding("*", "public", table),))
    await ears.next("joined")
    _, system = await ears.next("system")
    assert system["status"] == "ok"
    sql(f"insert into {table} values (9007199254740993, 1.50, 'é')")
    _, change = await ears.next("change")
    assert change.kind == "INSERT"
    assert change.record == {"id": 9007199254740993, "price": 1.5, "name": "é"}
    assert {column.name: column.pg_type for column in change.columns}["id"] == "int8"
    assert abs(change.commit_time - time.time()) < 60
    sql(f"delete from {table}")
    _, change = await ears.next("change")
    assert change.kind == "DELETE"
    assert change.old_record["id"] == 9007199254740993


async def test_heartbeats_carry_a_ref_and_their_answer_is_heard(socket: Socket, ears: Ears) -> None:
    await socket.beat("hb7")
    assert await ears.next("heartbeat") == ("heartbeat", "hb7")


async def test_joining_again_survives_the_close_of_the_old_join(socket: Socket, ears: Ears) -> None:
    channel = socket.open_channel("twice", CONFIG, ears)
    for _ in range(2):
        await channel.subscribe_to(())
        await ears.next("joined")
    answer = await channel.ask(
        "broadcast", {"type": "broadcast", "event": "e", "payload": {"a": 1}}, 5
    )
    assert answer[0] == "ok"
    heard = [ears.heard.get_nowait()[0] for _ in range(ears.heard.qsize())]
    assert "closed" not in heard
    assert "broadcast" in heard


class Owner:
    """Wants a topic, and hears what becomes of it."""

    def __init__(self) -> None:
        self.joined_by: asyncio.Queue[SocketChannel] = asyncio.Queue()

    def config(self) -> Mapping[str, Any]:
        return CONFIG

    def bindings(self) -> tuple[Binding, ...]:
        return ()

    def joined(self, channel: SocketChannel) -> None:
        self.joined_by.put_nowait(channel)

    def ignore(self, *_: Any) -> None:
        pass

    lost = evicted = token_refused = change = system = broadcast = presence = gap = ignore


@pytest.mark.parametrize("turns", range(4))
async def test_the_answer_to_a_join_that_was_left_is_of_no_channel(
    socket: Socket, turns: int
) -> None:
    """It comes while the next join of the topic waits for its turn: that one must be sent all the same."""
    pending: set[asyncio.Task[Any]] = set()

    def spawn(coroutine: Coroutine[Any, Any, Any], name: str) -> object:
        task = asyncio.create_task(coroutine, name=name)
        pending.add(task)
        return task

    registry = Registry(
        socket.url, Options(join_rate=2, max_channels=2 * BURST), lambda: 0.0, spawn, lambda _: None
    )
    registry.socket, owner = socket, Owner()
    registry.connected(True, "")
    registry.want("left", owner, "normal")
    for number in range(BURST):
        registry.want(f"other {number}", Owner(), "normal")
    for _ in range(turns):
        await asyncio.sleep(0)
    old = socket.channels["realtime:left"]
    registry.rejoin("left")
    assert registry.state_of("left") == "out", "it waits for its turn"
    owner.joined_by = asyncio.Queue()  # what was heard before that is past
    if socket.channels.get("realtime:left") is old and old.join_push.ref is not None:
        old.receive("phx_reply", {"status": "ok", "response": {}}, old.join_push.ref)
    async with asyncio.timeout(scaled(10)):
        joined = await owner.joined_by.get()
    assert joined is not old
    assert owner.joined_by.empty()
    assert registry.state_of("left") == "joined"
    assert old.join_push.timeout_task is None, "nobody waits for its answer"
    registry.connected(False, "the test ends")
    await asyncio.gather(*pending)


async def test_presence_is_kept_by_the_package(socket: Socket, ears: Ears) -> None:
    channel = socket.open_channel("people", CONFIG, ears)
    await channel.subscribe_to(())
    await ears.next("joined")
    await channel.ask("presence", {"event": "track", "payload": {"name": "<b>me</b>"}}, 5)
    while not channel.presence.state:
        await ears.next("presence")
    [[meta]] = channel.presence.state.values()
    assert meta["name"] == "<b>me</b>"  # type: ignore[typeddict-item]  # a user's own field


async def test_a_bad_join_is_told_with_the_servers_words(socket: Socket, ears: Ears) -> None:
    channel = socket.open_channel("secret", {**CONFIG, "private": True}, ears)
    await channel.subscribe_to(())
    _, reason = await ears.next("failed", 10)
    assert reason.startswith("Unauthorized")


async def test_a_lost_socket_is_reported_once_and_sending_into_it_fails(
    socket: Socket, ears: Ears
) -> None:
    ws = socket.ws
    assert ws is not None
    ws.transport.abort()
    _, code, _, _ = await ears.next("socket_closed")
    assert code in (None, 1006)
    with pytest.raises(ConnectionError):
        await socket.transmit({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"})


async def test_a_message_in_fragments_is_one_message(ears: Ears) -> None:
    parts = iter([b'{"topic":"phoenix","event":"phx_reply",', b'"payload":{},', b'"ref":"hb1"}'])

    async def server(ws: ServerConnection) -> None:
        await ws.send(part.decode() for part in parts)
        await ws.wait_closed()

    async with serve(server, "127.0.0.1", 0) as serving:
        port = next(iter(serving.sockets)).getsockname()[1]
        found = Socket(f"http://127.0.0.1:{port}", Credentials("k"), Options(), ears)
        await found.open()
        assert await ears.next("heartbeat") == ("heartbeat", "hb1")
        ws = found.detach()
        assert ws is not None
        await ws.close()


async def test_a_frame_over_the_limit_closes_the_socket_and_is_told(ears: Ears) -> None:
    async def server(ws: ServerConnection) -> None:
        await ws.send("x" * 3000)
        await ws.wait_closed()

    async with serve(server, "127.0.0.1", 0) as serving:
        port = next(iter(serving.sockets)).getsockname()[1]
        options = Options(max_frame_bytes=1000)
        found = Socket(f"http://127.0.0.1:{port}", Credentials("k"), options, ears)
        await found.open()
        _, code, _, here = await ears.next("socket_closed")
        assert here
        assert code == 1009


@pytest.mark.parametrize(
    ("sent", "code", "here"),
    [
        (frame(0x88, b"\x0f\xa0so long"), 4000, False),
        (frame(0x81, b"", 1 << 40), 1009, True),
        (frame(0xC1, b"deflated"), 1002, True),
        (frame(0x88, b"\x0f\xa0\xff"), 1007, True),
        (frame(0x89, b"") * 100_000, 1008, True),
        (frame(0x01, b"") + frame(0x00, b"") * 100_000, 1008, True),
    ],
    ids=["farewell", "too large", "deflated", "no unicode", "pings", "empty parts"],
)
async def test_an_end_is_told_soon_though_the_server_keeps_tcp_open(
    ears: Ears, sent: bytes, code: int, here: bool
) -> None:
    hung_up = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(accepted(head.decode()))
        await reader.readexactly(1)  # the client is there, and cuts its frames itself
        writer.write(sent)
        with contextlib.suppress(OSError):
            await reader.read()
        await hung_up.wait()
        writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = Socket(f"http://127.0.0.1:{port}", Credentials("k"), Options(), ears)
        await found.open()
        await found.beat("hb1")
        told = await ears.next("socket_closed", scaled(5))
        assert (told[1], told[3]) == (code, here)
        hung_up.set()


async def test_a_wrong_key_is_an_auth_error_that_does_not_show_it(
    stack: LocalStack, ears: Ears
) -> None:
    found = Socket(stack.url, Credentials("not.the.key"), Options(), ears)
    with pytest.raises(AuthError) as caught:
        await found.open()
    assert "not.the.key" not in str(caught.value)


async def test_nobody_there_is_unreachable(ears: Ears) -> None:
    found = Socket("http://127.0.0.1:9", Credentials("k"), Options(), ears)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        await found.open()


async def answered_with(answer: str, ears: Ears) -> NotebookRTError:
    """What is raised where an HTTP server answers the handshake like this."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NotebookRTError) as caught:
            await Socket(url, Credentials("k"), Options(), ears).open()
    return caught.value


async def test_a_redirect_takes_our_tokens_to_nobody(ears: Ears) -> None:
    followed: list[str] = []

    async def handler(ws: ServerConnection) -> None:
        followed.append("here")

    async with serve(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        location = f"Location: ws://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
        error = await answered_with(f"HTTP/1.1 302 Found\r\n{location}", ears)
    assert isinstance(error, UnreachableError)
    assert "answered with 302" in str(error)
    assert not followed


async def test_a_gateways_page_is_no_reason_to_read(ears: Ears) -> None:
    page = "<html><h1>502 Bad Gateway</h1></html>"
    head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Length: {len(page)}\r\n\r\n"
    error = await answered_with(head + page, ears)
    assert isinstance(error, ServerError)
    assert "502: a web page, no answer of a Supabase project. " in str(error)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_page_of_a_proxy_refuses_no_key(status: int, ears: Ears) -> None:
    head = f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nServer: squid\r\nContent-Length: 6\r\n\r\n"
    error = await answered_with(head + "<html>", ears)
    assert isinstance(error, UnreachableError)
    assert f'answers {status} to connecting with a web page by "squid"' in str(error)


@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\n\x1b[2J",
        "HTTP/1.1 401 \x1b[2J\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Ok\r\nUpgrade: \x1b[2J\r\nConnection: \x1b[2J\r\n\r\n",
        "HTTP/1.1 101 Ok\r\nUpgrade: \u009b31m\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Ok\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: \u009b31m\r\n\r\n",
        "\x1b[2J\r\n\r\n",
    ],
)
async def test_the_traceback_of_a_hostile_handshake_is_text(answer: str, ears: Ears) -> None:
    error = await answered_with(answer, ears)
    for text in (str(error), repr(error), *traceback.format_exception(error)):
        assert is_text(text)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "wait"),
    [
        ("Retry-After: 7\r\n", 7.0),
        ("Retry-After: 31536000000\r\n", RETRY_AFTER_MAX),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", RETRY_AFTER_MAX),
        ("Retry-After: inf\r\n", RETRY_AFTER_MAX),
        ("Retry-After: nan\r\n", None),
        ("Retry-After: -5\r\n", 0.0),
        ("Retry-After: soon\r\n", None),
        ("Retry-After: 5\r\nRetry-After: 900\r\n", None),
    ],
)
async def test_a_handshake_told_to_wait_waits_as_told_but_never_for_years(
    status: int, said: str, wait: float | None, ears: Ears
) -> None:
    error = await answered_with(f"HTTP/1.1 {status} No\r\n{said}Content-Length: 0\r\n\r\n", ears)
    assert isinstance(error, RateLimitedError if status == 429 else ServerError)
    assert error.retry_after == wait
