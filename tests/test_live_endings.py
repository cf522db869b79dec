"""A session ends at once in every way, silently, and cleans up."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import itertools
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.net.loop import shared
from notebook_rt.outbox.queue import Outbox
from notebook_rt.runtime.iteration import Changes
from tests.proxy import Proxy, Stall
from tests.waiting import scaled, until

_numbers = itertools.count(time.monotonic_ns())
AT_ONCE = 4.0
"""Seconds: a good-bye that is not answered takes one, the last writes may take one more."""


def names() -> set[str]:
    """The tasks on the network thread."""
    loop = shared().loop

    def running() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks(loop)} - {here()}

    def here() -> str:
        task = asyncio.current_task()
        return "" if task is None else task.get_name()

    return shared().call(running)


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts and never answers: its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def unread() -> Iterator[str]:
    """A server that opens a websocket, and reads nothing from it."""
    magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    open_sockets: list[socket.socket] = []

    def serve(server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            head = client.recv(65536).decode()
            found = re.search(r"Sec-WebSocket-Key: (\S+)", head)
            if found is not None:
                digest = hashlib.sha1((found[1] + magic).encode()).digest()
                accept = base64.b64encode(digest).decode()
                client.sendall(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    f"Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
                )
            open_sockets.append(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        # What it accepts has a small buffer that does not grow: else the system takes megabytes, and
        # more of them the slower the sender is.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for client in open_sockets:
        client.close()


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is logged."""
    yield
    found = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    assert not found


def close_at_once(rt: nrt.Session, seconds: float = AT_ONCE) -> None:
    """Close it; it takes no longer, and no task of it is left."""
    began = time.monotonic()
    rt.close()
    took = time.monotonic() - began
    assert took < scaled(seconds)
    assert rt.health.status == "closed"
    until(lambda: not names(), seconds=3, what=names)


# A session that is closed ------------------------------------------------------------------------


def test_while_nothing_answers(quiet: None) -> None:
    with silent() as url:
        rt = nrt.connect(url, "key")
        rt.table("t")
        rt.channel("room").presence.track(name="me")
        until(lambda: rt.metrics["requests"] > 0)
        close_at_once(rt, 1.5)
    rt = nrt.connect("http://127.0.0.1:9", "key")
    rt.table("t")
    until(lambda: rt.status == "reconnecting")
    close_at_once(rt, 1.5)


def test_while_the_server_does_not_read(quiet: None) -> None:
    with unread() as url:
        rt = nrt.connect(url, "key")
        for number in range(8):
            rt.channel(f"room {number}", presence_key="x" * 2_000_000)
        until(lambda: rt.status == "connected")
        # How many wait is the system's to say: its buffers take the first ones.
        until(lambda: any(name.startswith("join") for name in names()), what=names)
        close_at_once(rt)


def test_while_a_large_table_loads(
    stack: LocalStack, make_table: Callable[..., str], quiet: None
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, repeat('x', 300), 1 from generate_series(1, 50000) g")
    rt = nrt.connect(stack.url, stack.anon_key)
    frame = rt.table(table)
    until(lambda: frame._feed.progress is not None)
    close_at_once(rt, 1.5)


@pytest.mark.parametrize("path", ["/rest", ""])
def test_while_the_queue_waits_for_an_answer_that_never_comes(
    stack: LocalStack,
    proxy: Proxy,
    make_table: Callable[..., str],
    tmp_path: Path,
    quiet: None,
    path: str,
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'x', 1 from generate_series(1, 20) g")
    rt = nrt.connect(proxy.url, stack.anon_key, queue_path=tmp_path / "queue")
    frame = rt.table(table).wait(scaled(10))
    proxy.rules = (Stall(path=path),)
    for number in range(1, 21):
        frame.edit(number, name="y")
    until(lambda: proxy.counts["Stall"] > 0)
    close_at_once(rt)


def test_while_a_token_function_takes_its_time(
    stack: LocalStack, make_table: Callable[..., str], quiet: None
) -> None:
    asked, answer = threading.Event(), threading.Event()
    first = iter([stack.token("authenticated", ttl=2)])

    def token() -> str:
        for given in first:
            return given
        asked.set()
        answer.wait(scaled(20))
        return stack.token("authenticated", ttl=100)

    rt = nrt.connect(stack.url, stack.anon_key, options=nrt.Options(token_margin=1.0))
    rt.set_auth(token)
    rt.table(make_table()).wait(scaled(10))
    assert asked.wait(scaled(10))
    close_at_once(rt, 1.5)
    answer.set()


def test_from_the_network_thread_as_a_garbage_collector_may(stack: LocalStack) -> None:
    rt = nrt.connect(stack.url, stack.anon_key)
    rt.channel("room").wait(scaled(10))
    shared().call(rt.close)
    until(lambda: not names(), seconds=3, what=names)
    assert rt.health.status == "closed"


def test_though_the_queue_cannot_be_closed(
    stack: LocalStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rt = nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path / "queue")
    rt.channel("room").wait(scaled(10))
    outbox = rt._writes.opened().outbox
    with outbox._lock:  # SQLite ends the process if another thread reads in that moment
        outbox._db.close()
    close_at_once(rt)
    assert id(rt._project) not in shared().at_exit


def test_the_queues_file_is_closed_beside_the_loop(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last commit waits for the disk, and every session's heartbeats for the loop."""
    close, on = Outbox.close, []

    def watched(outbox: Outbox) -> None:
        on.append(shared().here)
        close(outbox)

    name = make_table()
    stack.sql(f"insert into {name} values (1, 'one', 1.0)")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        rt.table(name).edit(1, price=2)
        monkeypatch.setattr(Outbox, "close", watched)
    until(lambda: on)
    assert on == [False]


def test_though_nobody_waits_for_the_end_of_it(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notebook_rt.session.CLOSE_SECONDS", 0.05)  # or Ctrl-C
    rt = nrt.connect(stack.url, stack.anon_key)
    rt.channel("room").wait(scaled(10))
    waits = threading.Event()

    async def slow() -> None:
        waits.set()
        await asyncio.sleep(0.4)

    rt._project.closers.append(slow)
    rt.close()
    assert waits.is_set()
    until(lambda: not names(), seconds=3, what=names)
    assert rt._project.connection.socket is None or not rt._project.connection.socket.is_connected


def test_twenty_at_once_and_a_cell_run_thirty_times(
    stack: LocalStack, make_table: Callable[..., str], quiet: None
) -> None:
    table = make_table()
    sessions = [nrt.connect(stack.url, stack.anon_key) for _ in range(20)]
    for rt in sessions:
        rt.table(table).wait(scaled(30))
    threads = [threading.Thread(target=rt.close) for rt in sessions]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < scaled(2 * AT_ONCE)
    for _ in range(30):
        rt = nrt.connect(stack.url, stack.anon_key)
        frame = rt.table(table).wait(scaled(10))
    del sessions, rt, frame
    gc.collect()
    until(lambda: not names(), seconds=10, what=names)


def test_a_session_whose_queue_cannot_be_opened_is_no_connection(
    stack: LocalStack, tmp_path: Path
) -> None:
    before = set(shared().at_exit)
    with pytest.raises(errors.QueueError):
        nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path)
    until(lambda: set(shared().at_exit) <= before)


# What is held of it ------------------------------------------------------------------------------


def test_what_is_asked_of_a_channel_afterwards_is_refused_by_name(stack: LocalStack) -> None:
    rt = nrt.connect(stack.url, stack.anon_key)
    channel = rt.channel("room").wait(scaled(10))
    presence = channel.presence
    rt.close()
    asked: list[Callable[[], Any]] = [
        lambda: channel.send("e", {}),
        channel.wait,
        lambda: channel.on("e", print),
        lambda: channel.frame("e"),
        lambda: presence.track(name="me"),
        presence.untrack,
    ]
    for ask in asked:
        with pytest.raises(errors.ClosedError):
            ask()
    assert (channel.status, len(channel.messages), len(presence.df)) == ("closed", 0, 0)


def test_who_waits_for_a_channel_is_told_that_it_is_closed() -> None:
    with silent() as url:
        rt = nrt.connect(url, "key")
        channel = rt.channel("room")
        threading.Timer(0.3, rt.close).start()
        with pytest.raises(errors.ClosedError):
            channel.wait(scaled(10))


@pytest.mark.timeout(30)
def test_who_iterates_over_changes_comes_to_their_end(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    rt = nrt.connect(stack.url, stack.anon_key)
    table = make_table()
    frame, same = rt.table(table).wait(scaled(10)), rt.table(table).wait(scaled(10))
    one = same.changes()
    for end in (frame.close, one.close, rt.close):
        changes = {frame.close: frame.changes, one.close: lambda: one}.get(end, same.changes)
        iterated = changes()
        threading.Timer(0.2, end).start()
        assert list(iterated) == []
    with pytest.raises(errors.ClosedError):
        same.changes()


def test_an_iteration_that_is_left_leaves_no_listener(
    stack: LocalStack, make_table: Callable[..., str], quiet: None
) -> None:
    table = make_table()
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(10))
        until(lambda: frame.status == "live")
        abandoned = frame.changes()

        async def for_a_moment(iterated: Changes) -> None:
            async with asyncio.timeout(0.1):
                async for _ in iterated:
                    pass

        with pytest.raises(TimeoutError):
            asyncio.run(for_a_moment(abandoned))  # and the loop is closed
        heard: list[Any] = []
        frame.on_change(heard.append)
        stack.sql(f"insert into {table} values (1, 'a', 1)")
        until(lambda: heard)
        for number in (2, 3):
            stack.sql(f"insert into {table} values ({number}, 'a', 1)")
            for batch in frame.changes(timeout=scaled(10)):
                assert batch
                break
        del abandoned
        gc.collect()  # the exception's traceback has it
        until(lambda: len(frame._feed.listeners) == 1, what=lambda: frame._feed.listeners)


# A process that ends -----------------------------------------------------------------------------

QUARRELSOME = ("-X", "dev", "-W", "always", "-W", "ignore::DeprecationWarning")


READY = """
import atexit, time
began = 0.0
def ready():
    global began
    began = time.monotonic()
    print("ready", flush=True)
# The first to be registered is the last to be called.
atexit.register(lambda: print(time.monotonic() - began))
"""


def ends_at_once(code: str, seconds: float = AT_ONCE, *, stop: int | None = None) -> None:
    """The script gets ``ready()`` and ends: in so many seconds, and without a word."""
    process = subprocess.Popen(
        [sys.executable, *QUARRELSOME, "-c", READY + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # communicate() does not know what a buffer has read beyond the line
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if first != b"ready\n":
        process.kill()
        raise AssertionError(first + process.communicate()[1])
    if stop is not None:
        process.send_signal(stop)
    out, err = process.communicate(timeout=scaled(60))
    assert err == b""
    assert float(out) < scaled(seconds)


def test_while_a_name_server_does_not_answer() -> None:
    ends_at_once("""
        import socket, time
        asked = []
        def getaddrinfo(host, *args, **kwargs):
            asked.append(host)
            time.sleep(30)
        socket.getaddrinfo = getaddrinfo
        import notebook_rt as nrt
        rt = nrt.connect("https://project.example", "key")
        rt.table("t")
        while len(asked) < 2:
            time.sleep(0.01)
        ready()
    """)


def test_while_a_token_function_sleeps() -> None:
    ends_at_once("""
        import threading, time
        import notebook_rt as nrt
        rt = nrt.connect("http://127.0.0.1:9", "key")
        asked = threading.Event()
        def token():
            asked.set()
            time.sleep(30)
        def sign_in():
            try:
                rt.set_auth(token)
            except nrt.errors.ClosedError:
                pass
        threading.Thread(target=sign_in, daemon=True).start()
        asked.wait()
        ready()
    """)


def test_while_it_connects_again_and_another_has_still_work_at_exit() -> None:
    """Python's own pools of threads have ended by then."""
    ends_at_once(
        """
        import notebook_rt as nrt, atexit, time
        rt = nrt.connect("http://localhost:9", "key", options=nrt.Options(backoff_base=0.1, max_retries=1000))
        rt.table("t")
        rt.on_status(lambda state, reason: None)
        atexit.register(time.sleep, 1)
        time.sleep(0.3)
        ready()
        """,
        1 + AT_ONCE,
    )


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ("silent", ""),
        ("silent", "with rt: raise SystemExit"),
        ("unread", "raise SystemExit"),
        ("unread", "with rt: raise SystemExit"),
        ("local", ""),
    ],
)
def test_whatever_it_is_connected_to(stack: LocalStack, how: str, end: str) -> None:
    servers = {"silent": silent, "unread": unread}
    with servers[how]() if how in servers else _given(stack.url) as url:
        ends_at_once(f"""
            import notebook_rt as nrt, time
            rt = nrt.connect({url!r}, {stack.anon_key!r})
            rt.table("t")
            room = rt.channel("room", presence_key="x" * 2_000_000)
            room.presence.track(name="me")
            room.on("e", print)
            time.sleep(0.5)
            ready()
            {end}
        """)


@contextmanager
def _given(url: str) -> Iterator[str]:
    yield url


@pytest.mark.parametrize("wait", ["room.wait()", "list(frame.changes())", "frame.wait()"])
def test_by_ctrl_c_in_whatever_waits(wait: str) -> None:
    with silent() as url:
        ends_at_once(
            f"""
            import notebook_rt as nrt
            rt = nrt.connect({url!r}, "key")
            room, frame = rt.channel("room"), rt.table("t")
            try:
                ready()
                {wait}
            except KeyboardInterrupt:
                pass
            """,
            stop=signal.SIGINT,
        )
