"""The other client that writes: a process with its own connections, ``python -m notebook_rt.sample.writer``.

In: one line of JSON on standard input, the `Job`. Out: rows in the demo's database, and people in its
channel. It ends with its standard input: when the session is closed, or when the kernel ends in any way. It
is a process, so that a busy kernel does not delay it, in another session of the system, so that Ctrl-C in a
cell does not reach it. It prints nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from notebook_rt.sample.market import (
    PEOPLE,
    ROOM,
    TRADES_KEPT,
    Closed,
    Event,
    Market,
    Opened,
    Trade,
    looking,
)

if TYPE_CHECKING:
    import psycopg
    from realtime.types import RealtimeChannelConfig

    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

AGAIN_SECONDS = 1.0
"""Seconds between two attempts if the database is unavailable or a table was changed."""
LOOK_SECONDS = 9.0
"""About how many seconds a person looks at one stock: a client may make 5 presence calls in 30 s."""
STOP_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    """What to write, how fast, and where."""

    url: str
    key: str = field(repr=False)
    dsn: str = field(repr=False)
    seed: int
    rate: float
    tables: tuple[str, ...]


class Writer:
    """The demo's handle on the process, which imports its modules at once, and starts with `begin`."""

    def __init__(self, directory: Path) -> None:
        with (directory / "writer.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "notebook_rt.sample.writer"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=directory,
                start_new_session=True,
            )
        assert self._process.stdin is not None, "it was asked for"
        self._leash = self._process.stdin
        self.pid = self._process.pid
        # Waited for by a thread: no zombie if it ends first, no warning if this process does.
        waiting = threading.Thread(target=self._process.wait, name="notebook_rt-demo", daemon=True)
        waiting.start()

    def begin(self, job: Job) -> None:
        """Start writing."""
        with contextlib.suppress(BrokenPipeError):  # it ended at once; its log contains the reason
            self._leash.write(msgspec.json.encode(job) + b"\n")
            self._leash.flush()

    def let_go(self) -> None:
        """Make it end, without waiting."""
        with contextlib.suppress(OSError):
            self._leash.close()

    def stop(self) -> None:
        """Make it end, and wait for that."""
        self.let_go()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


async def run(job: Job, ended: asyncio.Event) -> None:
    """Trade, and be present, until ``ended``."""
    tasks = [asyncio.create_task(_trade(job))] if job.rate else []
    tasks.append(asyncio.create_task(_attend(job)))
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _trade(job: Job) -> None:
    import psycopg

    market = Market(Random(job.seed))
    pace = Random(job.seed)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(job.dsn) as connection:
                tables = await _existing(connection, job.tables)
                while True:
                    for event in market.step():
                        await _write(connection, event, tables, market)
                    await connection.commit()
                    await asyncio.sleep(pace.uniform(0.5, 1.5) / job.rate)
        except psycopg.Error:  # PostgreSQL was restarted, or a table was dropped
            await asyncio.sleep(AGAIN_SECONDS)


async def _existing(connection: Connection, tables: tuple[str, ...]) -> tuple[str, ...]:
    cursor = await connection.execute(
        "select name from unnest(%s::text[]) name where to_regclass('public.' || name) is not null",
        [list(tables)],
    )
    return tuple(name for (name,) in await cursor.fetchall())


async def _write(
    connection: Connection, event: Event, tables: tuple[str, ...], market: Market
) -> None:
    match event:
        case Trade():
            if "stocks" in tables:
                await connection.execute(
                    "update public.stocks set price = %s, change = %s, volume = volume + %s "
                    "where symbol = %s",
                    [event.price, event.change, event.size, event.symbol],
                )
            if "trades" in tables:
                [number] = await _insert(connection, "trades", event.row)
                await connection.execute(
                    "delete from public.trades where id <= %s", [number - TRADES_KEPT]
                )
        case Opened() if "orders" in tables:
            [number] = await _insert(connection, "orders", event.row)
            market.placed(number)
        case Closed() if "orders" in tables:
            await connection.execute(
                "update public.orders set status = %s where id = %s and status = 'open'",
                [event.status, event.id],
            )


async def _insert(connection: Connection, table: str, row: dict[str, Any]) -> tuple[int]:
    from psycopg import sql

    statement = sql.SQL("insert into {} ({}) values ({}) returning id").format(
        sql.Identifier("public", table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    cursor = await connection.execute(statement, list(row.values()))
    found: tuple[int] = await cursor.fetchone()  # type: ignore[assignment]  # `returning` returns one
    return found


async def _attend(job: Job) -> None:
    """Connect each person with Supabase's own client."""
    await asyncio.to_thread(import_module, "realtime")  # half a second, in which others trade
    from realtime import AsyncRealtimeClient, NotConnectedError

    async def attend(name: str) -> None:
        chance = Random(f"{job.seed} {name}")
        client = AsyncRealtimeClient(f"{job.url}/realtime/v1", job.key)
        await client.connect()
        config: RealtimeChannelConfig = {
            "broadcast": None,
            "presence": {"key": name, "enabled": True},
            "private": False,
        }
        channel = client.channel(ROOM, {"config": config})
        await channel.subscribe()
        while True:
            with contextlib.suppress(NotConnectedError):  # it reconnects automatically
                await channel.track(looking(chance, name))
            await asyncio.sleep(chance.uniform(0.8, 1.6) * LOOK_SECONDS)

    await asyncio.gather(*map(attend, PEOPLE))


async def _main() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    import_module("psycopg")  # while the tables are created
    job = msgspec.json.decode(await reader.readline(), type=Job)
    ended = asyncio.Event()
    working = asyncio.create_task(run(job, ended))
    await reader.read()
    ended.set()
    await working


if __name__ == "__main__":
    asyncio.run(_main())
