"""Update a table and read it (design/performance.md §1): apply a batch, then get a consistent DataFrame."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from notebook_rt.model.types import Backend
from tests.benchmarks.harness import OURS, Result, in_turns
from tests.benchmarks.peers import PEERS, Peer, Rows
from tests.benchmarks.workload import Batch, batches, rows, table

GOALS = {1: 15.0, 100: 12.0, 10_000: 2.0}
"""At a million rows, with pandas' default ``str``."""

SLOW = {"pandas loop", "dict of dicts", "duckdb", "perspective"}
"""Sides for which a million rows are seconds a run: no first batch apart."""

TOO_SLOW = {("pandas loop", 10_000), ("pandas loop", 100)}
"""Sides that would need minutes for one run at a million rows."""


def ours(first: Rows, backend: Backend = None, keep: bool = False) -> Peer:
    """This package; ``keep`` holds on to every snapshot, as a user who compares them does."""
    made, kept = table(first, backend), []

    def apply(batch: Batch) -> object:
        made.apply(batch.ops())
        snapshot = made.snapshot()
        if keep:
            kept.append(snapshot)
            del kept[:-3]
        return snapshot

    return apply


def fed(side: Peer, stream: Iterator[Batch]) -> Callable[[], object]:
    """A call that gives ``side`` the next batch and holds what it read until the next one is read.

    As a user does in ``df = frame.df``.
    """
    held: list[object] = []

    def run() -> object:
        held[:] = [side(next(stream))]
        return None

    return run


def compare(count: int, size: int, repeats: int) -> list[Result]:
    """Every side on a table of ``count`` rows with batches of ``size`` changes."""
    first, made = rows(count), batches(count, size, repeats + 2)
    makers: dict[str, Callable[[Rows], Peer]] = {
        OURS: ours,
        f"{OURS} pyarrow": lambda start: ours(start, "pyarrow"),
        f"{OURS} held": lambda start: ours(start, keep=True),
        **PEERS,
    }
    if count > 100_000 or size >= 10_000:
        makers = {name: make for name, make in makers.items() if (name, size) not in TOO_SLOW}
    sides = {name: fed(make(first), iter(made)) for name, make in makers.items()}
    for name, run in sides.items():
        if count < 1_000_000 or name not in SLOW:
            run()  # the first batch meets cold caches and buffers not yet doubled
    medians = in_turns(sides, repeats, budget=5.0)
    at_goal = count == 1_000_000
    return [
        Result(
            f"table, {size:,} changes then a read",
            f"{count:,} rows",
            side,
            median,
            goal=(3.0 if side.endswith("held") else GOALS.get(size))
            if at_goal and OURS in side
            else None,
        )
        for side, median in medians.items()
    ]


def updates_only(count: int, repeats: int) -> list[Result]:
    """100 rows get two new numbers: whole rows arrive, as events do, their text as it was."""
    first, chance = rows(count), random.Random(3)
    made = []
    for number in range(repeats + 2):
        places = chance.sample(range(count), min(100, count // 2))
        made.append(
            Batch([{**first[at], "bid": float(number), "size": number} for at in places], [])
        )
    makers = {name: PEERS[name] for name in ("pandas batched", "polars", "pyarrow")}
    sides = {name: fed(make(first), iter(made)) for name, make in {OURS: ours, **makers}.items()}
    for run in sides.values():
        run()
    return [
        Result("table, 100 updates of two numbers then a read", f"{count:,} rows", side, median)
        for side, median in in_turns(sides, repeats, budget=6.0).items()
    ]


def memory(count: int) -> list[Result]:
    """What a table in use occupies, keys and both sets of buffers, beside the frame it shows."""
    made = table(rows(count))
    for batch in batches(count, max(10, count // 1000), 4):
        made.apply(batch.ops())
        frame = made.snapshot()
    sizes = {OURS: made.nbytes, "the DataFrame itself": int(frame.memory_usage().sum())}
    case = f"{count:,} rows"
    return [
        Result("memory", case, side, size / 1e6, "MB", goal=0.4 if side == OURS else None)
        for side, size in sizes.items()
    ]


def run(quick: bool) -> list[Result]:
    """The growth curves: 1k to 1M rows, batches of 1, 100 and 10,000 changes."""
    if quick:
        return [*compare(200, 10, 1), *updates_only(200, 1), *memory(200)]
    results = []
    for count in (1_000, 10_000, 100_000, 1_000_000):
        repeats = 9 if count < 1_000_000 else 5
        for size in (1, 100, 10_000):
            if size <= count:
                results += compare(count, size, repeats)
        results += [*updates_only(count, repeats), *memory(count)]
    return results
