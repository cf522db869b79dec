"""Many tables at once: one change to each and a read of each, from 1 to 1,000 tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.benchmarks.bench_table import ours
from tests.benchmarks.harness import OURS, Result, in_turns
from tests.benchmarks.peers import Peer, Rows, pandas_batched
from tests.benchmarks.workload import Batch, batches, rows


def all_of_them(sides: list[Peer], stream: Iterator[Batch]) -> Callable[[], object]:
    """A call that gives every table the next batch."""

    def run() -> object:
        batch = next(stream)
        return [side(batch) for side in sides]

    return run


def run(quick: bool) -> list[Result]:
    """Tables of 1,000 rows of ten columns."""
    first = rows(50 if quick else 1000)
    results = []
    for count in (1, 3) if quick else (1, 10, 100, 1000):
        made = batches(len(first), 1, 8)
        makers: dict[str, Callable[[Rows], Peer]] = {OURS: ours, "pandas batched": pandas_batched}
        sides = {
            name: all_of_them([make(first) for _ in range(count)], iter(made))
            for name, make in makers.items()
        }
        medians = in_turns(sides, 1 if quick else 5, budget=8.0)
        results += [
            Result("many tables, a change to each then a read of each", f"{count:,} tables", *one)
            for one in medians.items()
        ]
    return results
