"""Write a DataFrame to a table (design/performance.md §5): wall time until the server has all of it.

5,000 rows, half of them new and half changed, by ``upsert``; its peer is ``supabase-py``'s, one request
on no condition, which neither is kept nor shows anything. And 5,000 rows changed to as many different
values by ``edit_many``, each on the condition of what it was based on: with our SQL and without; its
peer is a bare httpx client that sends the same conditional PATCHes, ten at a time.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

import notebook_rt as nrt
from notebook_rt.runtime.optional_sql import optional_sql
from tests.benchmarks.harness import OURS, Result

SUPABASE = "supabase-py"
HTTP = "httpx, ten PATCHes at a time"
WITH_SQL = f"{OURS} with our SQL"
AT_ONCE = 10


def run(quick: bool) -> list[Result]:
    """Seconds until every row is at the server, the sides taking turns."""
    size, turns = (20, 1) if quick else (5_000, 3)
    with tempfile.TemporaryDirectory() as name:
        upserts, edits = written(Path(name), size, turns)
    note = f"{size:,} rows of 5 columns, checked, kept, shown and answered; half new, half changed"
    return [
        Result("many", "upsert", side, median, "s", note=note if side == OURS else "")
        for side, median in upserts.items()
    ] + [
        Result("many", "edit_many", side, median, "s", note=f"{size:,} rows, each on a condition")
        for side, median in edits.items()
    ]


def written(directory: Path, size: int, turns: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of the sides' upserts and conditional updates."""
    import supabase

    upserts: dict[str, list[float]] = {OURS: [], SUPABASE: []}
    edits: dict[str, list[float]] = {WITH_SQL: [], OURS: [], HTTP: []}
    with (
        nrt.local.start(directory / "stack") as local,
        httpx.Client(base_url=local.url, headers={"apikey": local.anon_key}) as client,
    ):
        local.sql(
            "create table trades (id int8 primary key, symbol text not null, bid float8, "
            "ask float8, size int8)"
        )
        local.sql("alter publication supabase_realtime add table trades")
        local.sql(
            "grant select, insert, update, delete on trades to anon, authenticated, service_role"
        )
        peer = supabase.create_client(local.url, local.anon_key)
        for turn in range(turns):
            rows = frame_of(size, turn + 0.5)
            prepare(local, size)
            with timing(upserts[SUPABASE]):
                peer.table("trades").upsert(rows.to_dict("records")).execute()
            prepare(local, size)
            with session(local, directory) as (rt, table), timing(upserts[OURS]):
                table.upsert(rows)
                rt.queue.flush(120)
            with timing(edits[HTTP]):
                asyncio.run(patches(local, rows))
            for side, sql in ((OURS, ""), (WITH_SQL, optional_sql())):
                if sql:
                    local.sql(sql)
                    client.get("/rest/v1/trades", params={"limit": "1"})
                with session(local, directory) as (rt, table):
                    changes = table.df[["bid"]] + 0.25
                    with timing(edits[side]):
                        table.edit_many(changes)
                        rt.queue.flush(120)
            local.sql(
                "drop function notebook_rt_write, notebook_rt_write_many, notebook_rt_keys, nrt_describe; "
                "drop schema notebook_rt cascade; notify pgrst, 'reload schema'"
            )
    return (
        {side: statistics.median(times) for side, times in upserts.items()},
        {side: statistics.median(times) for side, times in edits.items()},
    )


def frame_of(size: int, added: float) -> pd.DataFrame:
    ids = np.arange(size)
    symbols = [f"S{n}" for n in ids]
    return pd.DataFrame(
        {"id": ids, "symbol": symbols, "bid": ids + added, "ask": ids * added, "size": ids}
    )


def prepare(local: nrt.local.LocalStack, size: int) -> None:
    """Half of the rows are there, with other values."""
    local.sql("truncate trades")
    local.sql(
        f"insert into trades select n, 'old', 0, 0, 0 from generate_series(0, {size // 2 - 1}) n"
    )


@contextmanager
def session(
    local: nrt.local.LocalStack, directory: Path
) -> Iterator[tuple[nrt.Session, nrt.LiveTable]]:
    """A live table, loaded."""
    queue = directory / f"{time.monotonic_ns()}.sqlite3"
    with nrt.connect(local.url, local.anon_key, queue_path=queue) as rt:
        table = rt.table("trades").wait(60)
        assert len(table.df)
        yield rt, table


@contextmanager
def timing(spent: list[float]) -> Iterator[None]:
    gc.collect()
    start = time.perf_counter()
    yield
    spent.append(time.perf_counter() - start)


async def patches(local: nrt.local.LocalStack, rows: pd.DataFrame) -> None:
    """The same conditional updates by a client that does nothing else."""
    async with httpx.AsyncClient(base_url=local.url, headers={"apikey": local.anon_key}) as client:
        turns = asyncio.Semaphore(AT_ONCE)

        async def patch(key: int, bid: float) -> None:
            async with turns:
                params = {"id": f"eq.{key}", "bid": f"eq.{bid}"}
                headers = {"Prefer": "return=representation"}
                answer = await client.patch(
                    "/rest/v1/trades", params=params, json={"bid": bid + 0.125}, headers=headers
                )
                assert len(answer.json()) == 1

        pairs = zip(rows["id"].tolist(), rows["bid"].tolist(), strict=True)
        await asyncio.gather(*(patch(key, bid) for key, bid in pairs))
