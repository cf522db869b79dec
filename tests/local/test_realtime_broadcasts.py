"""Broadcasts from the database on the local stack: what the real server sends, and what it loses.

The unmodified `realtime` client joins the private topic of a table whose changes are broadcast.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeClient

from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.waiting import scaled

TABLE = "rt_broadcasts"
TOPIC = f"nrt:public.{TABLE}"
READY = "Replication connection established"


def make_table(stack: LocalStack) -> None:
    stack.sql(
        f"drop table if exists {TABLE}; create table {TABLE} (id int primary key, v text);"
        f"grant select, insert, update, delete on {TABLE} to anon, authenticated, service_role"
    )
    stack.sql(broadcast_sql("public", [TABLE]))


@pytest.fixture
def live(stack: LocalStack) -> Iterator[LocalStack]:
    """The stack, with a table whose changes are broadcast."""
    make_table(stack)
    yield stack
    stack.sql(broadcast_remove_sql("public", [TABLE]))
    stack.sql(f"drop table {TABLE}")


@dataclass
class Heard:
    """What a channel was sent."""

    changes: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    said: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    states: asyncio.Queue[tuple[str, str]] = field(default_factory=asyncio.Queue)

    async def message(self) -> dict[str, Any]:
        """The payload of the next message."""
        payload: dict[str, Any] = (await within(self.changes.get()))["payload"]
        return payload

    async def numbers(self, count: int) -> list[int]:
        return [(await self.message())["n"] for _ in range(count)]


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, scaled(10))


@asynccontextmanager
async def listening(
    stack: LocalStack, topic: str = TOPIC, ready: bool = True, **broadcast: Any
) -> AsyncIterator[Heard]:
    """A client of its own in a private topic; with ``ready``, once its messages come."""
    client = AsyncRealtimeClient(f"{stack.url}/realtime/v1", stack.anon_key, auto_reconnect=False)
    config: Any = {
        "config": {
            "private": True,
            "broadcast": {"ack": False, "self": False, "replication_ready": ready, **broadcast},
        }
    }
    heard = Heard()

    def state(now: Any, error: Exception | None) -> None:
        heard.states.put_nowait((now.name, str(error or "")))

    await client.connect()
    channel = client.channel(topic, config)
    channel.on_broadcast("changes", heard.changes.put_nowait)
    channel.on_system(lambda payload: heard.said.put_nowait(payload.message))
    await channel.subscribe(state)
    assert await within(heard.states.get()) == ("SUBSCRIBED", "")
    if ready:
        assert await within(heard.said.get()) == READY
    try:
        yield heard
    finally:
        await client.remove_all_channels()
        await client.close()


async def test_a_tables_changes_reach_who_joined_its_topic(live: LocalStack) -> None:
    async with listening(live) as heard:
        live.sql(f"insert into {TABLE} values (1, 'a'), (2, 'b')")
        live.sql(f"update {TABLE} set v = 'c' where id = 1; delete from {TABLE} where id = 2")
        inserted, updated = await heard.message(), await heard.message()
        assert [change["rows"] for change in inserted["changes"]] == [
            [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}]
        ]
        assert [change["op"] for change in updated["changes"]] == ["U", "D"]
        assert (inserted["n"], updated["n"]) == (1, 2)


async def test_messages_come_in_the_order_of_commits(live: LocalStack) -> None:
    """Four writers at once: a transaction of several messages is not torn apart by another's."""

    def write(writer: int) -> None:
        with psycopg.connect(live.dsn, autocommit=True) as connection:
            for turn in range(20):
                connection.execute(
                    f"insert into {TABLE} select {writer * 100_000 + turn * 1000} + i,"
                    " repeat('x', 60000) from generate_series(1, 6) i"
                )

    async with listening(live) as heard:
        writers = [threading.Thread(target=write, args=[each]) for each in range(4)]
        for each in writers:
            each.start()
        messages = []
        while sum(message["last"] for message in messages) < 80:
            messages.append(await heard.message())
        for each in writers:
            each.join()
        assert sorted(message["n"] for message in messages) == list(range(1, len(messages) + 1))
        transactions = [message["x"] for message in messages]
        seen = [
            x for x, before in zip(transactions, [None, *transactions], strict=False) if x != before
        ]
        assert len(seen) == 80
        parts = {x: [m["part"] for m in messages if m["x"] == x] for x in seen}
        assert all(every == list(range(1, len(every) + 1)) for every in parts.values())
