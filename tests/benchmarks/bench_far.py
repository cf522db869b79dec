"""The first load over a link with a round trip of 50 ms (docs/design/performance.md §5).

Beside it in the same run: a bare client that knows the ranges of the key beforehand and keeps eight
requests under way, and one that asks page after page. Our side has the join, the columns and the key
to learn, too. And the same rows under a key of two columns, which come first, as such a table has them, and
none is called ``id``: there the bare client knows the first key of each page, too, and so what that key costs
the server shows beside what we make of it.
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
PEER = "httpx eight at a time, keyed by"
KEYS = ("id", "sensor, at")


@contextlib.contextmanager
def stack_with(rows: int) -> Iterator[LocalStack]:
    """The same rows under each key, ``far_0`` and ``far_1``."""
    options = StackOptions(realtime=RealtimeOptions(events_per_second=None))
    with contextlib.ExitStack() as closing:
        directory = closing.enter_context(tempfile.TemporaryDirectory())
        stack = closing.enter_context(nrt.local.start(directory, options=options))
        for place, key in enumerate(KEYS):
            table = f"far_{place}"
            number = "id" if place == 0 else "number"
            columns = f"{number} bigint, sensor int, at timestamptz"
            if place:
                columns = f"sensor int, at timestamptz, {number} bigint"
            more = "bid float8, size int, note text"
            stack.sql(f"create table {table} ({columns}, {more}, primary key ({key}))")
            stack.sql(
                f"insert into {table} ({number}, sensor, at, bid, size, note) select g, g % {SENSORS}, "
                "timestamptz '2026-01-01Z' + g * interval '1 s', g / 3.0, g % 100, 'checked by the desk' "
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


def ranges(stack: LocalStack, place: int, rows: int) -> list[str]:
    """What a client that knows every page of a table beforehand asks for: ranges of whole pages."""
    if place == 0:
        return [f"id=gte.{at}&id=lt.{at + PAGE}&order=id" for at in range(1, rows + 1, PAGE)]
    firsts = stack.sql(
        'select sensor, to_char(at, \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') from '
        f"(select sensor, at, row_number() over (order by sensor, at) as n from far_{place}) numbered "
        f"where n % {PAGE} = 1 order by sensor, at"
    )
    queries = [f"sensor=gte.{sensor}&or=(sensor.gt.{sensor},at.gte.{at})" for sensor, at in firsts]
    for page, (sensor, at) in enumerate(firsts[1:]):
        queries[page] += f"&sensor=lte.{sensor}&or=(sensor.lt.{sensor},at.lt.{at})"
    return [f"{query}&order=sensor,at" for query in queries]


def bare(link: Link, stack: LocalStack, place: int, rows: int, at_once: int) -> float:
    """The same for a client with ``at_once`` requests under way, who knows every range beforehand."""
    return asyncio.run(_bare(link, stack, place, rows, at_once))


async def _bare(link: Link, stack: LocalStack, place: int, rows: int, at_once: int) -> float:
    headers = {"apikey": stack.anon_key}
    limits = httpx.Limits(max_connections=at_once)
    gate = asyncio.Semaphore(at_once)
    queries = ranges(stack, place, rows)
    async with httpx.AsyncClient(base_url=link.url, headers=headers, limits=limits) as client:

        async def page(query: str) -> list[object]:
            async with gate:
                answer = await client.get(f"/rest/v1/far_{place}?{query}", timeout=60)
                found: list[object] = orjson.loads(answer.content)
                return found

        await asyncio.gather(*(page("limit=0") for _ in range(at_once)))  # connected, as ours is
        began = time.perf_counter()
        pages = await asyncio.gather(*map(page, queries))
        df = pd.DataFrame([row for found in pages for row in found])
        df["at"] = pd.to_datetime(df["at"], format="ISO8601")
        df = df.set_index(KEYS[place].split(", "))
        assert len(df) == rows
    return (time.perf_counter() - began) * 1e3


def measured(rows: int, repeats: int) -> Iterator[Result]:
    """Every side, in turns."""
    with stack_with(rows) as stack, Link(stack.url, ROUND_TRIP) as link:
        sides: dict[str, Callable[[], float]] = {}
        for place, key in enumerate(KEYS):
            sides[f"{PEER} ({key})"] = partial(bare, link, stack, place, rows, AT_ONCE)
            sides[f"{OURS} keyed by ({key})"] = partial(ours, link, stack, place, rows)
        if rows <= ONE_BY_ONE_MOST:
            sides["httpx page after page"] = partial(bare, link, stack, 0, rows, 1)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(repeats):
            for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                times[side].append(sides[side]())
        by_id, by_two = (f"({key})" for key in KEYS)
        ours_by = {key: times[f"{OURS} keyed by {key}"] for key in (by_id, by_two)}
        bare_by = {key: times[f"{PEER} {key}"] for key in (by_id, by_two)}
        notes = {f"{OURS} keyed by {key}": against(ours_by[key], bare_by[key]) for key in bare_by}
        notes[f"{OURS} keyed by {by_two}"] += f", {against(ours_by[by_two], ours_by[by_id], by_id)}"
        notes[f"{PEER} {by_two}"] = against(bare_by[by_two], bare_by[by_id], by_id)
        for side, each in times.items():
            yield Result(SUITE, f"{rows:,} rows", side, median(each), note=notes.get(side, ""))


def against(mine: list[float], others: list[float], what: str = "eight at a time") -> str:
    return f"{ratio(mine, others):.2f} x {what}"


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
