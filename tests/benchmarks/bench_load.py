"""The first snapshot: from REST's pages of JSON bytes to a DataFrame (design/performance.md §4)."""

from __future__ import annotations

import msgspec
import orjson
import pandas as pd

from notebook_rt.model.decode import decode_json
from notebook_rt.model.types import to_json
from notebook_rt.store.table import Table
from tests.benchmarks.harness import OURS, Result, in_turns
from tests.benchmarks.workload import SCHEMA, rows

PAGE = 1000


def pages(count: int) -> list[bytes]:
    """The workload's first rows in pages of a thousand."""
    wire = [
        {name: to_json(SCHEMA.types[name], value) for name, value in row.items()}
        for row in rows(count)
    ]
    return [msgspec.json.encode(wire[start : start + PAGE]) for start in range(0, count, PAGE)]


def load(data: list[bytes]) -> pd.DataFrame:
    """A page at a time into a table, then its snapshot."""
    table = Table(SCHEMA)
    collected = table.load()
    for page in data:
        collected.extend(decode_json(page))
    collected.commit()
    return table.snapshot()


def by_hand(data: list[bytes]) -> pd.DataFrame:
    """All rows decoded by orjson, then one DataFrame of the same dtypes."""
    everything = [row for page in data for row in orjson.loads(page)]
    frame = pd.DataFrame(everything)
    frame["updated_at"] = pd.to_datetime(frame["updated_at"], format="ISO8601")
    return frame.set_index("id")


def run(quick: bool) -> list[Result]:
    """From 1k to 1M rows."""
    results = []
    for count in (100,) if quick else (1_000, 10_000, 100_000, 1_000_000):
        data = pages(count)
        sides = {OURS: lambda d=data: load(d), "orjson, DataFrame": lambda d=data: by_hand(d)}
        results += [
            Result("first load, JSON pages to a frame", f"{count:,} rows", side, median)
            for side, median in in_turns(sides, 1 if quick else 5, budget=20.0).items()
        ]
    return results
