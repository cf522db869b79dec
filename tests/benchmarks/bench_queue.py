"""Durable writes (PERFORMANCE.md §4): into the queue's file, and edits of a live table.

The peer is what somebody would write without this package: an insert into a SQLite file of its own
and a commit a row, in WAL mode as the queue is. It validates nothing, shows nothing, and knows no
order: what is done for an edit besides is what the ratio shows. Time is the process' own, since the
machine may be busy; writes wait for no disk (``synchronous=NORMAL``).
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
from contextlib import ExitStack, closing
from pathlib import Path

import pandas as pd

from notebook_rt.editing import Editing
from notebook_rt.editor import Editor
from notebook_rt.outbox.ops import Op
from notebook_rt.outbox.queue import Outbox
from notebook_rt.sync.overlay import Overlay
from tests.benchmarks.harness import OURS, Result
from tests.benchmarks.workload import rows, table

PEER = "sqlite3, a commit a row"
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
    """Writes a second of one kernel, on a table of 100k rows."""
    count, size, repeats = (200, 10, 1) if quick else (100_000, 1_000, 7)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        plain = sqlite3.connect(directory / "plain.sqlite3", isolation_level=None)
        stack.enter_context(closing(plain))
        plain.execute("pragma journal_mode = wal")
        plain.execute("pragma synchronous = normal")
        plain.execute("create table writes (seq integer primary key, id text, body text)")
        outbox = Outbox(directory / "puts.sqlite3")
        stack.enter_context(closing(outbox))
        edited = Outbox(directory / "edits.sqlite3")
        stack.enter_context(closing(edited))
        editor = editor_of(edited, count)
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
                editor.edit(key, {"bid": key + 0.5})

        def edit_many(some: list[int]) -> None:
            bids = [key + 0.25 for key in some]
            editor.edit_many(pd.DataFrame({"bid": bids}, index=some))

        def batch(some: list[int]) -> None:
            with editor.batch():
                edits(some)

        sides = {"put": puts, "edit": edits, "edit_many": edit_many, "batch of edits": batch}
        rates = per_second({PEER: peer, **sides}, keys, size, repeats)
    note = "on a table of 100k rows, shown in the view"
    return [
        Result("queue", case, side, rate, "writes/s of CPU time", False, note=words)
        for case in sides
        for side, rate, words in (
            (OURS, rates[case], "" if case == "put" else note),
            (PEER, rates[PEER], ""),
        )
    ]


def editor_of(outbox: Outbox, count: int) -> Editor:
    """The editor of a table of ``count`` rows, as a live frame has it."""
    view = table(rows(count))
    editor = Editing(outbox, clock=time.time).editor("public", "quotes", changed=lambda _: None)
    editor.attach(Overlay(view, view.schema))
    return editor


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
