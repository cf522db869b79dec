"""From the commit and from the socket to ``df``, beside the unmodified realtime client (PERFORMANCE 2-4).

Both sides follow the same server in one process, one after the other: the local stack for the way
from a commit, ``blaster.py`` for what can be taken from a socket. The peer's number is what it
needs to call an empty callback; ours ends with the change in the DataFrame.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pandas as pd
import psycopg
from realtime import AsyncRealtimeClient, RealtimePostgresChangesListenEvent

import notebook_rt as nrt
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


def live(frame: nrt.LiveFrame, seconds: float = 60) -> None:
    """Wait until changes flow, and the snapshot is old enough for them to be applied as they come."""
    frame.wait(seconds)
    end = time.monotonic() + seconds
    while frame.status != "live":
        assert time.monotonic() < end, repr(frame)
        time.sleep(0.01)
    time.sleep(2.5)


# Commit to df -----------------------------------------------------------------------------------


def commit_to_df(writes: int) -> list[Result]:
    """From sending the INSERT to a DataFrame that has it: the statement itself is in it."""
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
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
                live(frame)
                frame._feed.listeners.append(lambda batch: arrived.set())
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


# Socket to table --------------------------------------------------------------------------------


def throughput(ours_frames: int, peer_frames: int, rows: int) -> list[Result]:
    """Frames a second from a server that floods, until the last change is applied."""
    with blaster(rows) as url:
        done = threading.Event()

        def applied(listen: bool) -> tuple[float, int]:
            with nrt.connect(url, "key") as rt:
                frame = rt.table("quotes")
                live(frame)
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


def frame_to_df(frames: int, rate: float, rows: int) -> list[Result]:
    """From the sending of a frame to a DataFrame that has it, at a steady rate."""
    ours: list[float] = []
    theirs: list[float] = []
    with blaster(rows) as url:
        done = threading.Event()
        with nrt.connect(url, "key") as rt:
            frame = rt.table("quotes")
            live(frame, 120)
            changes = frame.changes(timeout=30)
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


def broadcast(messages: int) -> list[Result]:
    """From ``send`` in one session to the callback in another, one at a time."""
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
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


def first_snapshot(rows: int) -> list[Result]:
    """The first data of a table, beside paging the same rows with bare httpx and orjson."""
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
        stack.sql(
            "create table big (id bigint primary key, bid float8, ask float8, last float8, "
            "size int, venue int, open bool, symbol text, note text, at timestamptz)"
        )
        stack.sql(
            "insert into big select g, g / 3.0, g / 7.0, 1.5, g % 100, 7, true, 'S' || g % 500, "
            f"'checked by the desk', now() from generate_series(1, {rows}) g"
        )
        stack.sql("analyze big")
        stack.sql("alter publication supabase_realtime add table big")
        stack.sql("grant all on big to anon")
        began = time.perf_counter()
        with nrt.connect(stack.url, stack.anon_key) as rt:
            assert len(rt.table("big").wait(600).df) == rows
            ours = (time.perf_counter() - began) * 1e3
        headers = {"apikey": stack.anon_key, "Authorization": f"Bearer {stack.anon_key}"}
        began = time.perf_counter()
        with httpx.Client(base_url=stack.url, headers=headers) as http:
            found: list[dict[str, Any]] = []
            params = {"select": "*", "order": "id.asc", "limit": "1000"}
            while page := orjson.loads(http.get("/rest/v1/big", params=params).content):
                found += page
                params["id"] = f"gt.{page[-1]['id']}"
        assert len(pd.DataFrame(found).set_index("id")) == rows
        theirs = (time.perf_counter() - began) * 1e3
    case = f"first snapshot of {rows:,} rows"
    return [
        Result(SUITE, case, OURS, ours, note="goal: at most 1.5 times the bare client"),
        Result(SUITE, case, "httpx + orjson", theirs),
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


def idle(tables: int, seconds: float) -> list[Result]:
    """The share of a core that live, quiet tables cost."""
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
        names = [f"idle_{number}" for number in range(tables)]
        for name in names:
            stack.sql(f"create table {name} (id bigint primary key)")
            stack.sql(f"alter publication supabase_realtime add table {name}")
            stack.sql(f"grant all on {name} to anon")

        def share() -> float:
            began, wall = time.process_time(), time.monotonic()
            time.sleep(seconds)
            return 100 * (time.process_time() - began) / (time.monotonic() - wall)

        with nrt.connect(stack.url, stack.anon_key) as rt:
            frames = [rt.table(name) for name in names]
            for frame in frames:
                live(frame)
            ours = share()
        with peer(stack.url, stack.anon_key, names, lambda payload: None):
            theirs = share()
    case = f"idle with {tables} tables"
    return [
        Result(SUITE, case, OURS, max(ours, 0.001), "% of a core", note="goal: 1 %"),
        Result(SUITE, case, PEER, max(theirs, 0.001), "% of a core"),
    ]


def run(quick: bool) -> list[Result]:
    """All of it; quick ones only show that they work."""
    if quick:
        return [
            *commit_to_df(3),
            *throughput(500, 100, 100),
            *frame_to_df(200, 2000, 100),
            *broadcast(3),
            *first_snapshot(1500),
            *import_time(1),
        ]
    return [
        *commit_to_df(200),
        *throughput(200_000, 20_000, 10_000),
        *frame_to_df(10_000, 2000, 100_000),
        *broadcast(300),
        *first_snapshot(1_000_000),
        *import_time(5),
        *idle(10, 10.0),
    ]
