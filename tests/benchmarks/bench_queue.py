"""Durable writes (design/performance.md §4): into the queue's file, edits of a live table, and the queue's
way to the server.

The peer is what somebody would write without this package: an insert into a SQLite file of its own
and a commit a row, in WAL mode as the queue is. It validates nothing, shows nothing, and knows no
order: what is done for an edit besides is what the ratio shows. Time is the process' own, since the
machine may be busy; writes wait for no disk (``synchronous=NORMAL``).

The queue is drained by the clock. Its peer writes the same rows by one httpx client, a request a
write, on no condition.
"""

from __future__ import annotations

import gc
import itertools
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pandas as pd

import notebook_rt as nrt
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox
from tests.benchmarks.harness import OURS, Result

PEER = "sqlite3, a commit a row"
HTTP = "httpx, a request a write"
TYPES = {"id": "int8", "bid": "float8", "updated_at": "timestamptz"}


def op(key: int) -> Op:
    """The update that an edit of one number makes."""
    return Op(
        str(uuid.uuid4()),
        "update",
        "public",
        "quotes",
        time.time(),
        key={"id": key},
        values={"bid": key + 0.5},
        base={"bid": 1.5},
        types=TYPES,
        rules={"bid": "lww", "": "lww"},
        version="updated_at",
    )


def run(quick: bool) -> list[Result]:
    """Writes a second of one kernel, and as a user makes them on a live table of 100k rows."""
    count, size, repeats = (200, 4, 1) if quick else (100_000, 1_000, 7)
    drained, turns = (15, 1) if quick else (600, 3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        plain = sqlite3.connect(directory / "plain.sqlite3", isolation_level=None)
        stack.enter_context(closing(plain))
        plain.execute("pragma journal_mode = wal")
        plain.execute("pragma synchronous = normal")
        plain.execute("create table writes (seq integer primary key, id text, body text)")
        outbox = Outbox(directory / "puts.sqlite3", Owner("https://x.supabase.co", "anon"))
        stack.enter_context(closing(outbox))
        local, rt, frame = stack.enter_context(live_table(directory, count, 0.0 if quick else 6.0))
        keys = itertools.cycle(range(count))

        def peer(some: list[int]) -> None:
            for key in some:
                row = (str(uuid.uuid4()), f'{{"id": {key}, "bid": {key + 0.5}}}')
                plain.execute("insert into writes (id, body) values (?, ?)", row)

        def puts(some: list[int]) -> None:
            for key in some:
                outbox.put(op(key))

        def edits(some: list[int]) -> None:
            for key in some:
                frame.edit(key, bid=key + 0.5)

        def cells(some: list[int]) -> None:
            for key in some:
                frame.at[key, "bid"] += 0.5

        def edit_many(some: list[int]) -> None:
            frame.edit_many(pd.DataFrame({"id": some, "bid": [key + 0.25 for key in some]}))

        def batch(some: list[int]) -> None:
            with frame.batch():
                edits(some)

        shown = {
            "frame.edit": edits,
            "frame.at[…] +=": cells,
            "frame.edit_many": edit_many,
            "frame.batch of edits": batch,
        }
        rates = per_second({PEER: peer, "put": puts, **shown}, keys, size, repeats)
        drains = per_second_drained(local, rt, frame, count, drained, turns)
    note = f"on a live table of {count:,} rows, shown in the view; nothing is sent meanwhile"
    return [
        Result("queue", case, side, rate, "writes/s of CPU time", False, note=words)
        for case in ("put", *shown)
        for side, rate, words in (
            (OURS, rates[case], note if case in shown else ""),
            (PEER, rates[PEER], ""),
        )
    ] + [
        Result("queue", case, side, rate, "writes/s", False, note=words if side == OURS else "")
        for case, sides in drains.items()
        for side, rate in sides.items()
        for words in ("ten at a time, each on a condition; the server is on the same machine",)
    ]


@contextmanager
def live_table(
    directory: Path, count: int, rest: float
) -> Iterator[tuple[nrt.local.LocalStack, nrt.Session, nrt.LiveFrame]]:
    """A table of ``count`` rows on the embedded stack, live, its queue paused."""
    with (
        nrt.local.start(directory / "stack") as local,
        nrt.connect(local.url, local.anon_key, queue_path=directory / "edits.sqlite3") as rt,
    ):
        local.sql(
            "create table quotes (id int8 primary key, symbol text, bid float8, ask float8, "
            "size int8, updated_at timestamptz default now())"
        )
        local.sql(
            "insert into quotes select n, 'S' || n, n, n + 1, n from generate_series(0, %s) n",
            count - 1,
        )
        local.sql("alter publication supabase_realtime add table quotes")
        local.sql("grant all on quotes to anon")
        rt.queue.pause()
        frame = rt.table("quotes").wait(120)
        time.sleep(rest)  # the stack has still to read the rows out of PostgreSQL's log
        yield local, rt, frame


def per_second_drained(
    local: nrt.local.LocalStack,
    rt: nrt.Session,
    frame: nrt.LiveFrame,
    count: int,
    size: int,
    turns: int,
) -> dict[str, dict[str, float]]:
    """Median writes a second that reach the server, by kind and side, the sides taking turns."""
    for key in frame.pending["key"].unique():
        frame.discard(key)
    spent: dict[str, dict[str, list[float]]] = {}
    there, new = iter(range(count)), itertools.count(count)
    with httpx.Client(base_url=local.url, headers={"apikey": local.anon_key}) as client:
        for _ in range(turns):
            for case in ("updates", "inserts", "deletes", "mixed, in runs of five"):
                kinds = [case] * size
                if case not in ("updates", "inserts", "deletes"):
                    kinds = [("updates", "inserts", "deletes")[n // 5 % 3] for n in range(size)]
                sides = spent.setdefault(case, {OURS: [], HTTP: []})
                with frame.batch():
                    for kind in kinds:
                        if kind == "updates":
                            frame.edit(next(there), bid=-1.0)
                        elif kind == "inserts":
                            frame.insert(id=next(new), bid=2.0)
                        else:
                            frame.delete(next(there))
                start = time.perf_counter()
                rt.queue.resume()
                rt.queue.flush(120)
                sides[OURS].append(time.perf_counter() - start)
                rt.queue.pause()
                start = time.perf_counter()
                for kind in kinds:
                    if kind == "inserts":
                        row = {"id": next(new), "bid": 2.0}
                        client.post("/rest/v1/quotes", json=row).raise_for_status()
                        continue
                    where = {"id": f"eq.{next(there)}"}
                    method, row = (
                        ("PATCH", {"bid": -2.0}) if kind == "updates" else ("DELETE", None)
                    )
                    client.request(
                        method, "/rest/v1/quotes", params=where, json=row
                    ).raise_for_status()
                sides[HTTP].append(time.perf_counter() - start)
    return {
        f"drain: {case}": {side: size / statistics.median(times) for side, times in sides.items()}
        for case, sides in spent.items()
    }


def per_second(
    sides: dict[str, Callable[[list[int]], None]], keys: Iterator[int], size: int, repeats: int
) -> dict[str, float]:
    """Median writes a second of each side, the sides taking turns, each with keys of its own."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            some = list(itertools.islice(keys, size))
            gc.collect()
            start = time.process_time()
            side(some)
            spent[name].append(time.process_time() - start)
    return {name: size / statistics.median(times) for name, times in spent.items()}
