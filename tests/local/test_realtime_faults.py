"""Losing things on purpose: the switches that others test against."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions


async def faults(stack: LocalStack, **wanted: bool) -> dict[str, Any]:
    async with httpx.AsyncClient(headers={"apikey": stack.service_key}) as client:
        answer = await client.post(f"{stack.url}/realtime/v1/local/faults", json=wanted)
    return dict(answer.raise_for_status().json())


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
        frame: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 5))
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
        for _ in range(100):
            if (await faults(stack))["dropped"] >= before + 10:
                break
            await asyncio.sleep(0.02)
        await heartbeat(socket)
        await faults(stack, drop_changes=False)
        stack.sql(f"insert into {table} values (11)")
        assert await heard(socket) == 11


async def test_an_aborted_connection_ends_without_a_word(stack: LocalStack, table: str) -> None:
    async with joined(stack, table) as socket:
        await faults(stack, abort=True)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 5)
        assert socket.close_code == 1006


async def test_only_the_service_key_may_break_things(stack: LocalStack) -> None:
    async with httpx.AsyncClient() as client:
        for headers in ({}, {"apikey": stack.anon_key}):
            answer = await client.post(
                f"{stack.url}/realtime/v1/local/faults", json={"abort": True}, headers=headers
            )
            assert answer.status_code == 401


async def test_a_restarted_postgres_is_followed_again(tmp_path: Any) -> None:
    with start(tmp_path) as stack:
        stack.sql(
            "create table rt_faults (id int primary key, v text);"
            "grant select on rt_faults to anon;"
            "alter publication supabase_realtime add table rt_faults"
        )
        async with joined(stack, "rt_faults") as socket:
            await asyncio.to_thread(stack.restart_postgres)
            for _ in range(100):
                state = await faults(stack)
                if state["streaming"] and state["stream_starts"] == 2:
                    break
                await asyncio.sleep(0.05)
            stack.sql("insert into rt_faults values (1)")
            assert await heard(socket) == 1


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_cut_and_delays_nobody(tmp_path: Any) -> None:
    options = StackOptions(realtime=RealtimeOptions(slow_reader_timeout=1.0))
    with start(tmp_path, options=options) as stack:
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
            for _ in range(100):
                if (await faults(stack))["sockets"] == 1:
                    break
                await asyncio.sleep(0.05)
            assert (await faults(stack))["sockets"] == 1
