"""Intentional faults: the switches for tests of clients."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from tests.waiting import scaled, throughout, until


async def faults(stack: LocalStack, **wanted: bool) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"apikey": stack.service_key}) as client:
        answer = await client.post(f"{stack.url}/realtime/v1/local/faults", json=wanted)
    return dict(answer.raise_for_status().json())


async def until_state(stack: LocalStack, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for what `faults` answers."""
    async with asyncio.timeout(scaled(20)):
        while not holds(await faults(stack)):  # noqa: ASYNC110 - what it asks is elsewhere
            await asyncio.sleep(0.02)


@asynccontextmanager
async def joined(stack: LocalStack, table: str) -> AsyncIterator[ClientConnection]:
    """A socket whose channel hears of a table."""
    address = stack.url.replace("http", "ws") + "/realtime/v1/websocket?vsn=1.0.0"
    async with connect(f"{address}&apikey={stack.anon_key}", max_size=None) as socket:
        binding = {"event": "*", "schema": "public", "table": table}
        config = {"config": {"postgres_changes": [binding]}}
        join = {"topic": "realtime:t", "event": "phx_join", "payload": config, "ref": "1"}
        await socket.send(json.dumps(join))
        assert json.loads(await socket.recv())["payload"]["status"] == "ok"
        assert json.loads(await socket.recv())["payload"]["message"] == "Subscribed to PostgreSQL"
        yield socket


async def next_frame(socket: ClientConnection) -> dict[str, Any]:
    """The next frame that is not the second confirmation, which comes at its own time."""
    while True:
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), scaled(10)))
        if frame["event"] != "system":
            return frame


async def heard(socket: ClientConnection) -> Any:
    return (await next_frame(socket))["payload"]["data"]["record"]["id"]


async def heartbeat(socket: ClientConnection) -> None:
    message = {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "9"}
    await socket.send(json.dumps(message))
    assert (await next_frame(socket))["ref"] == "9"


@pytest.fixture
def table(stack: LocalStack) -> str:
    stack.sql(
        "drop table if exists rt_faults; create table rt_faults (id int primary key, v text);"
        "grant select on rt_faults to anon;"
        "alter publication supabase_realtime add table rt_faults"
    )
    return "rt_faults"


async def test_dropped_changes_never_come_and_heartbeats_are_answered(
    stack: LocalStack, table: str
) -> None:
    async with joined(stack, table) as socket:
        before = (await faults(stack, drop_changes=True))["dropped"]
        stack.sql(f"insert into {table} select generate_series(1, 10)")
        await until_state(stack, lambda state: state["dropped"] >= before + 10)
        await heartbeat(socket)
        await faults(stack, drop_changes=False)
        stack.sql(f"insert into {table} values (11)")
        assert await heard(socket) == 11


async def test_an_aborted_connection_ends_without_a_word(stack: LocalStack, table: str) -> None:
    async with joined(stack, table) as socket:
        await faults(stack, abort=True)
        with pytest.raises(ConnectionClosed):
            await next_frame(socket)
        assert socket.close_code == 1006


async def test_only_the_service_key_may_break_things(stack: LocalStack) -> None:
    async with httpx.AsyncClient() as client:
        for headers in ({}, {"apikey": stack.anon_key}):
            answer = await client.post(
                f"{stack.url}/realtime/v1/local/faults", json={"abort": True}, headers=headers
            )
            assert answer.status_code == 401


async def test_a_restarted_postgres_is_followed_again(stack_directory: Path) -> None:
    with start(stack_directory) as stack:
        stack.sql(
            "create table rt_faults (id int primary key, v text);"
            "grant select on rt_faults to anon;"
            "alter publication supabase_realtime add table rt_faults"
        )
        async with joined(stack, "rt_faults") as socket:
            await asyncio.to_thread(stack.restart_postgres)
            await until_state(
                stack, lambda state: state["stream_starts"] == 2 and state["streaming"]
            )
            stack.sql("insert into rt_faults values (1)")
            assert await heard(socket) == 1


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_cut_and_delays_nobody(stack_directory: Path) -> None:
    options = StackOptions(realtime=RealtimeOptions(slow_reader_timeout=1.0))
    with start(stack_directory, options=options) as stack:
        stack.sql(
            "create table rt_faults (id int primary key, v text);"
            "grant select on rt_faults to anon;"
            "alter publication supabase_realtime add table rt_faults"
        )
        async with joined(stack, "rt_faults") as lazy, joined(stack, "rt_faults") as busy:
            lazy.transport.pause_reading()
            stack.sql(
                "insert into rt_faults select g, repeat('x', 100000) from generate_series(1, 300) g"
            )
            assert [await heard(busy) for _ in range(300)] == list(range(1, 301))
            await until_state(stack, lambda state: state["sockets"] == 1)
            lazy.transport.abort()  # its end would be waited for, unread


def run(dsn: str, statement: str) -> None:
    """On a connection of its own, which may have to wait."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextmanager
def committing(stack: LocalStack, statement: str) -> Iterator[None]:
    """The log has the commit of ``statement``, and nobody sees it yet, until the end.

    PostgreSQL waits in between for a standby; on a busy machine there is such a moment by itself.
    """
    stack.sql("alter system set synchronous_standby_names = 'nobody'")
    stack.sql("select pg_reload_conf()")
    until(lambda: stack.sql("show synchronous_standby_names") == [("nobody",)])
    writing = threading.Thread(target=run, args=[stack.dsn, statement])
    writing.start()
    until(lambda: stack.sql("select 1 from pg_stat_activity where wait_event = 'SyncRep'"))
    sent = "select 1 from pg_stat_replication where sent_lsn >= pg_current_wal_flush_lsn()"
    until(lambda: stack.sql(sent))
    yield
    stack.sql("alter system reset synchronous_standby_names")
    stack.sql("select pg_reload_conf()")
    writing.join()


def test_a_commit_that_others_do_not_see_yet_is_reported_once_they_do(
    stack_directory: Path,
) -> None:
    """The log has a commit before its rows can be read: policies are asked once they can."""
    with start(stack_directory) as stack:
        stack.sql("create table owned (id int primary key)")
        stack.sql("alter table owned enable row level security")
        stack.sql("create policy all_of_it on owned using (true)")
        stack.sql("grant select on owned to anon")
        stack.sql("alter publication supabase_realtime add table owned")
        options = nrt.Options(audit_interval=0)
        with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
            frame = rt.table("owned").wait(scaled(20))
            stack.sql("insert into owned values (1)")
            until(lambda: len(frame.df) == 1, 20)
            causes: list[str] = []
            frame.on_change(lambda batch: causes.append(batch.cause))
            with committing(stack, "insert into owned values (2)"):
                throughout(lambda: len(frame.df) == 1, 0.4)
            until(lambda: list(frame.df.index) == [1, 2])
            assert set(causes) <= {"stream", "refetch"}, "a message brought it"


async def test_a_publication_that_others_do_not_see_changed_yet_is_looked_at_once_they_do(
    stack_directory: Path,
) -> None:
    options = StackOptions(realtime=RealtimeOptions(confirm_again_delay=None))
    with start(stack_directory, options=options) as stack:
        stack.sql("create table heard (id int primary key); create table added (id int)")
        stack.sql("grant select on heard to anon")
        stack.sql("alter publication supabase_realtime add table heard")
        change = "alter publication supabase_realtime add table added"
        async with joined(stack, "heard") as socket:
            with committing(stack, change):
                await asyncio.sleep(0.4)  # a look that sees nothing new would be over
            told = json.loads(await asyncio.wait_for(socket.recv(), scaled(10)))
            assert told["payload"]["message"] == "Subscribed to PostgreSQL"
