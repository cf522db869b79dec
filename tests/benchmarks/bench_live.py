"""From the commit and from the socket to ``df``, compared with the unmodified realtime client.

Both sides follow the same server in one process, one after the other: the local stack for the way
from a commit, ``blaster.py`` for what can be taken from a socket. The peer's number is what it
needs to call an empty callback; ours ends with the change in the DataFrame.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import httpx
import psutil
import psycopg
from jupyter_client.manager import start_new_kernel
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_sql
from tests.benchmarks.harness import OURS, Result

PEER = "realtime"
SUITE = "live"


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# The peer ---------------------------------------------------------------------------------------


class Peer:
    """An unmodified ``AsyncRealtimeClient`` on a loop thread of its own, with one callback."""

    def __init__(
        self, url: str, key: str, tables: list[str], callback: Callable[[Any], None]
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.confirmed = threading.Semaphore(0)
        self.call(self.start(url, key, tables, callback))
        for _ in tables:
            assert self.confirmed.acquire(timeout=20)

    def call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def start(
        self, url: str, key: str, tables: list[str], callback: Callable[[Any], None]
    ) -> None:
        self.client = AsyncRealtimeClient(f"{url}/realtime/v1", token=key)
        for table in tables:
            channel = self.client.channel(f"bench-{table}")
            channel.on_postgres_changes(
                RealtimePostgresChangesListenEvent.All, callback, table=table, schema="public"
            )
            channel.on_system(lambda message: self.confirmed.release())
            await channel.subscribe()

    def close(self) -> None:
        self.call(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@contextlib.contextmanager
def peer(url: str, key: str, tables: list[str], callback: Callable[[Any], None]) -> Iterator[None]:
    found = Peer(url, key, tables, callback)
    try:
        yield
    finally:
        found.close()


@contextlib.contextmanager
def blaster(rows: int) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.blaster", "--rows", str(rows)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


def live(frame: nrt.LiveFrame, settle: float, seconds: float = 60) -> None:
    """Wait until changes flow, and the snapshot is old enough for them to be applied as they come."""
    frame.wait(seconds)
    end = time.monotonic() + seconds
    while frame.status != "live":
        assert time.monotonic() < end, repr(frame)
        time.sleep(0.01)
    time.sleep(settle)


# Commit to df -----------------------------------------------------------------------------------


def commit_to_df(stack: LocalStack, writes: int, settle: float) -> list[Result]:
    """From sending the INSERT to a DataFrame that has it: the statement itself is in it."""
    stack.sql("create table commits (id bigint primary key, price float8, note text)")
    stack.sql("alter publication supabase_realtime add table commits")
    stack.sql("grant all on commits to anon")
    arrived = threading.Event()
    numbers = iter(range(10**9))
    with psycopg.connect(stack.dsn, autocommit=True) as db:

        def write(seen: Callable[[int], bool]) -> float:
            number = next(numbers)
            arrived.clear()
            began = time.perf_counter()
            db.execute("insert into commits values (%s, 1.5, 'one')", (number,))
            while not seen(number):
                assert arrived.wait(10)
                arrived.clear()
            return (time.perf_counter() - began) * 1e3

        with nrt.connect(stack.url, stack.anon_key) as rt:
            frame = rt.table("commits")
            live(frame, settle)
            frame._feed.listeners.add(lambda batch: arrived.set())
            ours = []
            for _ in range(writes):
                ours.append(write(lambda number: number in frame.df.index))
                time.sleep(0.005)
        got: set[int] = set()

        def callback(payload: Any) -> None:
            got.add(payload["data"]["record"]["id"])
            arrived.set()

        with peer(stack.url, stack.anon_key, ["commits"], callback):
            theirs = []
            for _ in range(writes):
                theirs.append(write(lambda number: number in got))
                time.sleep(0.005)
    return [
        Result(SUITE, case, side, how(values), "ms", note=note if side == OURS else "")
        for case, note, how in (
            ("commit to df, median", "goal: 15 ms; the INSERT itself included", statistics.median),
            ("commit to df, 99th percentile", "goal: 60 ms", lambda v: percentile(v, 0.99)),
        )
        for side, values in ((OURS, ours), (PEER, theirs))
    ]


def broadcast_to_df(stack: LocalStack, writes: int, rows: int, settle: float) -> list[Result]:
    """Where the database broadcasts the changes, from the commit on; and one UPDATE of many rows, on a
    plan that lets a hundred messages a second through.
    """
    stack.sql(
        "create table sent (id bigint primary key, price float8, note text);"
        "create table bulk (id int primary key, v int);"
        f"insert into bulk select i, 0 from generate_series(1, {rows}) i;"
        "grant select, insert, update, delete on sent, bulk to anon"
    )
    stack.sql(broadcast_sql("public", ["sent", "bulk"]))
    arrived = threading.Event()
    took = []
    with (
        psycopg.connect(stack.dsn, autocommit=True) as db,
        nrt.connect(stack.url, stack.anon_key) as rt,
    ):
        frame, bulk = rt.table("sent", source="broadcast"), rt.table("bulk")
        live(frame, settle)
        live(bulk, settle)
        for one in (frame, bulk):
            one._feed.listeners.add(lambda batch: arrived.set())
        for number in range(writes):
            arrived.clear()
            db.execute("insert into sent values (%s, 1.5, 'one')", (number,))
            began = time.perf_counter()
            while number not in frame.df.index:
                assert arrived.wait(10)
                arrived.clear()
            took.append((time.perf_counter() - began) * 1e3)
            time.sleep(0.005)
        db.execute("update bulk set v = 1")
        began = time.perf_counter()
        while not (bulk.df["v"] == 1).all():
            assert arrived.wait(10)
            arrived.clear()
        many = (time.perf_counter() - began) * 1e3
    return [
        Result(SUITE, case, OURS, value, "ms", note=note)
        for case, value, note in (
            (
                "commit to df by broadcast, median",
                statistics.median(took),
                "goal: 5 ms; from the answer to the INSERT",
            ),
            ("commit to df by broadcast, 99th percentile", percentile(took, 0.99), "goal: 30 ms"),
            (
                f"UPDATE of {rows:,} rows to df by broadcast, after its commit",
                many,
                "goal: 1 s, where the server takes 100 messages a second",
            ),
        )
    ]


# Socket to table --------------------------------------------------------------------------------


def throughput(ours_frames: int, peer_frames: int, rows: int, settle: float) -> list[Result]:
    """Frames a second from a server that floods, until the last change is applied."""
    with blaster(rows) as url:
        done = threading.Event()

        def applied(listen: bool) -> tuple[float, int]:
            with nrt.connect(url, "key") as rt:
                frame = rt.table("quotes")
                live(frame, settle)
                if listen:
                    frame.on_change(lambda batch: None)
                began = time.perf_counter()
                httpx.post(f"{url}/blast", params={"frames": ours_frames})
                while (frame.get(0) or {}).get("last") != -1.0:
                    time.sleep(0.002)
                    assert time.perf_counter() - began < 120, frame
                took = time.perf_counter() - began
                assert frame.df.loc[0, "last"] == -1.0
                assert len(frame.log) > 0
                return ours_frames / took, rt.metrics["gaps"]

        ours, gaps = applied(listen=False)
        heard, more_gaps = applied(listen=True)

        def callback(payload: Any) -> None:
            if payload["data"]["record"]["last"] == -1.0:
                done.set()

        with peer(url, "key", ["quotes"], callback):
            began = time.perf_counter()
            httpx.post(f"{url}/blast", params={"frames": peer_frames})
            assert done.wait(120)
            theirs = peer_frames / (time.perf_counter() - began)
    told = "each change with its old and new row to an empty on_change"
    return [
        Result(SUITE, case, side, value, "frames/s", lower_is_better=False, goal=goal, note=note)
        for case, value, goal, note in (
            ("socket to applied change", ours, 10.0, f"goal: 10 times; {gaps} gaps on the way"),
            ("socket to on_change", heard, None, f"{told}; {more_gaps} gaps on the way"),
        )
        for side, value, goal, note in ((OURS, value, goal, note), (PEER, theirs, None, ""))
    ]


def frame_to_df(frames: int, rate: float, rows: int, settle: float) -> list[Result]:
    """From the sending of a frame to a DataFrame that has it, at a steady rate."""
    ours: list[float] = []
    theirs: list[float] = []
    with blaster(rows) as url:
        done = threading.Event()
        with nrt.connect(url, "key") as rt:
            frame = rt.table("quotes")
            live(frame, settle, 120)
            changes = frame.changes(timeout=30)
            gc.collect()  # what the imports left behind is not the frames'
            httpx.post(f"{url}/blast", params={"frames": frames, "rate": rate})
            for batch in changes:
                df = frame.df
                now = time.monotonic()
                assert len(df) == rows
                sent = [change.new["last"] for change in batch if change.new is not None]
                ours += [(now - at) * 1e3 for at in sent if at > 0]
                if -1.0 in sent:
                    break

        def callback(payload: Any) -> None:
            at = payload["data"]["record"]["last"]
            if at > 0:
                theirs.append((time.monotonic() - at) * 1e3)
            else:
                done.set()

        with peer(url, "key", ["quotes"], callback):
            gc.collect()
            httpx.post(f"{url}/blast", params={"frames": frames, "rate": rate})
            assert done.wait(120)
    what = f"frame to df at {rate:,.0f}/s, {rows:,} rows"
    return [
        Result(SUITE, f"{what}, {name}", side, how(values), "ms", note=note if side == OURS else "")
        for name, note, how in (
            ("median", "goal: 2 ms", statistics.median),
            ("99th percentile", "goal: 15 ms", lambda v: percentile(v, 0.99)),
        )
        for side, values in ((OURS, ours), (PEER, theirs))
    ]


def broadcast(stack: LocalStack, messages: int) -> list[Result]:
    """From ``send`` in one session to the callback in another, one at a time."""
    heard = threading.Event()
    theirs: list[float] = []
    ours: list[float] = []
    with (
        nrt.connect(stack.url, stack.anon_key) as one,
        nrt.connect(stack.url, stack.anon_key) as two,
    ):
        two.channel("bench").wait(10).on("e", lambda payload: heard.set())
        sender = one.channel("bench").wait(10)
        for number in range(messages):
            heard.clear()
            began = time.perf_counter()
            sender.send("e", {"n": number})
            assert heard.wait(5)
            ours.append((time.perf_counter() - began) * 1e3)

        async def peers() -> None:
            got = asyncio.Event()
            clients = [
                AsyncRealtimeClient(f"{stack.url}/realtime/v1", token=stack.anon_key)
                for _ in range(2)
            ]
            here, there = (client.channel("peers") for client in clients)
            there.on_broadcast("e", lambda message: got.set())
            await here.subscribe()
            await there.subscribe()
            for number in range(messages):
                got.clear()
                began = time.perf_counter()
                await here.send_broadcast("e", {"n": number})
                await asyncio.wait_for(got.wait(), 5)
                theirs.append((time.perf_counter() - began) * 1e3)
            for client in clients:
                await client.close()

        asyncio.run(peers())
    return [
        Result(SUITE, "broadcast to callback, median", side, statistics.median(values), note=note)
        for side, values, note in ((OURS, ours, "goal: 3 ms"), (PEER, theirs, ""))
    ]


# What it costs to be there ----------------------------------------------------------------------


def import_time(repeats: int) -> list[Result]:
    """Over ``import pandas``, in fresh processes."""

    def cost(module: str) -> float:
        code = f"import pandas, time; t = time.perf_counter(); import {module}; "
        code += "print((time.perf_counter() - t) * 1e3)"
        runs = [
            float(
                subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
            )
            for _ in range(repeats)
        ]
        return statistics.median(runs)

    return [
        Result(SUITE, "import, over pandas", OURS, cost("notebook_rt"), note="goal: 100 ms"),
        Result(SUITE, "import, over pandas", "supabase", cost("supabase")),
    ]


def quiet_tables(stack: LocalStack, count: int) -> list[str]:
    """The names of published tables, made here."""
    names = [f"quiet_{number}" for number in range(count)]
    for name in names:
        stack.sql(f"create table {name} (id bigint primary key, price float8)")
        stack.sql(f"insert into {name} select g, 1.5 from generate_series(1, 100) g")
        stack.sql(f"alter publication supabase_realtime add table {name}")
        stack.sql(f"grant all on {name} to anon")
    return names


@contextlib.contextmanager
def written_to(dsn: str, names: list[str], rate: int, begun: float) -> Iterator[None]:
    """``rate`` updates a second in all, by a process of its own, which has ``begun`` seconds to begin."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, dsn, str(rate), *names])
    try:
        time.sleep(begun)
        yield
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait()


WRITER = """
import itertools, sys, time, psycopg
dsn, rate, *names = sys.argv[1:]
with psycopg.connect(dsn, autocommit=True) as db:
    began = time.monotonic()
    for number in itertools.count():
        name = names[number % len(names)]
        key = number // len(names) % 100 + 1
        db.execute(f"update {name} set price = %s where id = %s", (number, key))
        time.sleep(max(0.0, began + number / int(rate) - time.monotonic()))
"""
NOTEBOOK = """
import notebook_rt as nrt, time
rt = nrt.connect({url!r}, {key!r})
frames = [rt.table(name) for name in {names!r}]
for frame in frames:
    frame.wait(60)
while any(frame.status != "live" for frame in frames):
    time.sleep(0.1)
rt.status_bar()
"""


class Kernel:
    """A real kernel with live tables and a status bar that a front end looks at: this one."""

    def __init__(self, url: str, key: str, names: list[str]) -> None:
        self.manager, self.client = start_new_kernel()
        self.messages = 0
        self._stopped = False
        self.client.execute(NOTEBOOK.format(url=url, key=key, names=names))
        assert self.client.get_shell_msg(timeout=120)["content"]["status"] == "ok"
        kernel = self.manager.provisioner.process
        self.process = psutil.Process(kernel.pid)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def share(self, seconds: float) -> float:
        """Percent of a core."""
        before, began = self._used(), time.monotonic()
        time.sleep(seconds)
        return 100 * (self._used() - before) / (time.monotonic() - began)

    def _used(self) -> float:
        times = self.process.cpu_times()
        return times.user + times.system

    def _look(self) -> None:
        while not self._stopped:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            content = message["content"]
            data = content.get("data", {})
            if message["msg_type"] == "comm_open" and "_esm" in data.get("state", {}):
                self._say(content["comm_id"], {"view": "v", "t": "look"})
            elif message["msg_type"] == "comm_msg" and data.get("method") == "custom":
                self.messages += 1
                seq = data["content"]["seq"]
                self._say(content["comm_id"], {"view": "v", "t": "ack", "seq": seq})

    def _say(self, comm: str, content: dict[str, Any]) -> None:
        data = {"method": "custom", "content": content}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)

    def close(self) -> None:
        self._stopped = True
        self._thread.join()
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def kernel_share(
    stack: LocalStack, tables: int, rate: int, seconds: float, settle: float
) -> list[Result]:
    """What live tables and a status bar on screen cost a kernel, quiet and written to."""
    names = quiet_tables(stack, tables)
    with contextlib.closing(Kernel(stack.url, stack.anon_key, names)) as kernel:
        time.sleep(settle)
        quiet = kernel.share(seconds)
        with written_to(stack.dsn, names, rate, min(2.0, seconds)):
            before = kernel.messages
            busy = kernel.share(seconds)
            told = (kernel.messages - before) / seconds
    with peer(stack.url, stack.anon_key, names, lambda payload: None):
        began = time.process_time()
        time.sleep(seconds)
        peer_quiet = 100 * (time.process_time() - began) / seconds
        with written_to(stack.dsn, names, rate, min(2.0, seconds)):
            began = time.process_time()
            time.sleep(seconds)
            peer_busy = 100 * (time.process_time() - began) / seconds
    unit, what = "% of a core", f"{tables} tables"
    idle, used = f"idle with {what} and a status bar", f"{what}, {rate} changes/s and a status bar"
    note = f"goal: 10 %; {told:.1f} messages a second to the status bar"
    # In a short time it may be less than the processor's clock has.
    quiet, busy, peer_quiet, peer_busy = (
        max(n, 0.001) for n in (quiet, busy, peer_quiet, peer_busy)
    )
    return [
        Result(SUITE, idle, OURS, quiet, unit, note="goal: 1 %"),
        Result(SUITE, idle, PEER, peer_quiet, unit),
        Result(SUITE, used, OURS, busy, unit, note=note),
        Result(SUITE, used, PEER, peer_busy, unit, note="an empty callback, no table, no widget"),
    ]


def run(quick: bool) -> list[Result]:
    """All of it; quick ones only show that they work."""
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
        if quick:
            return [
                *commit_to_df(stack, 3, settle=0.0),
                *broadcast_to_df(stack, 3, 100, settle=0.0),
                *throughput(500, 100, 100, settle=0.0),
                *frame_to_df(200, 2000, 100, settle=0.0),
                *broadcast(stack, 3),
                *import_time(1),
                # At 20 changes a second a kernel can spend less than the 10 ms that the system counts in.
                *kernel_share(stack, 1, 500, 0.5, settle=0.0),
            ]
        return [
            *commit_to_df(stack, 200, settle=2.5),
            *broadcast_to_df(stack, 200, 7_000, settle=2.5),
            *throughput(200_000, 20_000, 10_000, settle=2.5),
            *frame_to_df(10_000, 2000, 100_000, settle=2.5),
            *broadcast(stack, 300),
            *import_time(5),
            *kernel_share(stack, 10, 200, 15.0, settle=10.0),
        ]
