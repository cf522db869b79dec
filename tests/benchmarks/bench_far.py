"""The first load over a link with a round trip of 50 ms (docs/design/performance.md §5).

Beside it in the same run: a bare client that knows the ranges of the key beforehand and keeps eight
requests under way, and one that asks page after page. Our side has the join, the columns and the key
to learn, too. And the same rows under a key of two columns, beside those under one.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import httpx
import orjson
import pandas as pd

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions
from notebook_rt.local.options import RealtimeOptions
from tests.benchmarks.harness import OURS, Result
from tests.link import Link

SUITE = "first load over a link of 50 ms"
ROUND_TRIP = 0.05
PAGE = 1000
AT_ONCE = 8
SENSORS = 60
ONE_BY_ONE_MOST = 50_000
TABLES = {
    "id": ("id bigint primary key", "g"),
    "sensor, at": (
        "sensor int, at timestamptz, primary key (sensor, at)",
        f"g % {SENSORS}, timestamptz '2026-01-01Z' + g * interval '1 s'",
    ),
}


@contextlib.contextmanager
def stack_with(rows: int) -> Iterator[LocalStack]:
    """Both tables, ``far_0`` and ``far_1``."""
    options = StackOptions(realtime=RealtimeOptions(events_per_second=None))
    with contextlib.ExitStack() as closing:
        directory = closing.enter_context(tempfile.TemporaryDirectory())
        stack = closing.enter_context(nrt.local.start(directory, options=options))
        for place, (columns, key) in enumerate(TABLES.values()):
            table = f"far_{place}"
            stack.sql(f"create table {table} ({columns}, bid float8, size int, note text)")
            stack.sql(
                f"insert into {table} select {key}, g / 3.0, g % 100, 'checked by the desk' "
                f"from generate_series(1, {rows}) g"
            )
            stack.sql(f"vacuum analyze {table}")
            stack.sql(f"grant select on {table} to anon")
            stack.sql(f"alter publication supabase_realtime add table {table}")
        yield stack


def ours(link: Link, stack: LocalStack, place: int, rows: int) -> float:
    """Milliseconds from asking a connected session for a table to its DataFrame."""
    with nrt.connect(link.url, stack.anon_key, options=nrt.Options(audit_interval=0)) as rt:
        rt.channel("warm").wait(30)
        began = time.perf_counter()
        df = rt.table(f"far_{place}").wait(300).df
        took = (time.perf_counter() - began) * 1e3
        assert len(df) == rows
    return took


async def bare(link: Link, stack: LocalStack, rows: int, at_once: int) -> float:
    """The same for a client with ``at_once`` requests under way, who knows every range beforehand."""
    headers = {"apikey": stack.anon_key}
    limits = httpx.Limits(max_connections=at_once)
    gate = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=link.url, headers=headers, limits=limits) as client:

        async def page(first: int) -> list[object]:
            async with gate:
                query = f"/rest/v1/far_0?id=gte.{first}&id=lt.{first + PAGE}&order=id"
                found: list[object] = orjson.loads((await client.get(query, timeout=60)).content)
                return found

        await asyncio.gather(*(page(-PAGE) for _ in range(at_once)))  # connected, as ours is
        began = time.perf_counter()
        pages = await asyncio.gather(*(page(first) for first in range(1, rows + 1, PAGE)))
        df = pd.DataFrame([row for found in pages for row in found]).set_index("id")
        assert len(df) == rows
    return (time.perf_counter() - began) * 1e3


def measured(rows: int, repeats: int) -> Iterator[Result]:
    """Every side, in turns."""
    with stack_with(rows) as stack, Link(stack.url, ROUND_TRIP) as link:
        sides: dict[str, Callable[[], float]] = {
            "httpx eight at a time": lambda: asyncio.run(bare(link, stack, rows, AT_ONCE)),
            **{
                f"{OURS} keyed by ({key})": partial(ours, link, stack, place, rows)
                for place, key in enumerate(TABLES)
            },
        }
        if rows <= ONE_BY_ONE_MOST:
            sides["httpx page after page"] = lambda: asyncio.run(bare(link, stack, rows, 1))
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(repeats):
            for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                times[side].append(sides[side]())
        eight, by_id, *_ = times.values()
        for place, (side, each) in enumerate(times.items()):
            notes = [f"{ratio(each, eight):.2f} x eight at a time"] if place else []
            notes += [f"{ratio(each, by_id):.2f} x keyed by (id)"] if place == 2 else []
            yield Result(SUITE, f"{rows:,} rows", side, median(each), note=", ".join(notes))


def ratio(ours: list[float], others: list[float]) -> float:
    """The median of the ratios of each turn: what else the machine does, it does to both sides."""
    return median(mine / theirs for mine, theirs in zip(ours, others, strict=True))


def run(quick: bool) -> list[Result]:
    """From 50,000 rows to a million."""
    if quick:
        return list(measured(1_500, 1))
    return [
        result
        for rows, repeats in ((50_000, 7), (200_000, 7), (1_000_000, 3))
        for result in measured(rows, repeats)
    ]
