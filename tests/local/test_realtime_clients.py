"""The unmodified `realtime` and `supabase` clients against the local stack."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from realtime import AsyncRealtimeClient, RealtimeSubscribeStates
from supabase import AsyncClient, acreate_client

from notebook_rt.local import LocalStack
from tests.waiting import scaled

USER = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"

Received = asyncio.Queue[Any]


@pytest.fixture
def table(stack: LocalStack) -> str:
    """A published table that anybody may read."""
    stack.sql(
        "drop table if exists rt_clients;"
        "create table rt_clients (id bigint primary key, name text, n int);"
        "grant select on rt_clients to anon, authenticated;"
        "alter publication supabase_realtime add table rt_clients"
    )
    return "rt_clients"


@pytest.fixture
async def client(stack: LocalStack) -> AsyncIterator[AsyncRealtimeClient]:
    made = AsyncRealtimeClient(f"{stack.url}/realtime/v1", stack.anon_key, auto_reconnect=False)
    await made.connect()
    yield made
    await made.remove_all_channels()
    await made.close()


async def subscribed(subscribe: Callable[[Any], Awaitable[Any]]) -> None:
    """Subscribe a channel and wait until the server said yes."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def status(state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if not done.done():
            if state == RealtimeSubscribeStates.SUBSCRIBED:
                done.set_result(None)
            else:
                done.set_exception(AssertionError(f"{state}: {error}"))

    await subscribe(status)
    await asyncio.wait_for(done, scaled(10))


async def following(channel: Any) -> None:
    """Subscribe a channel and wait until its changes come, which is later: what is committed between
    the two is lost, as with the real server.
    """
    follows = asyncio.Event()
    channel.on_system(lambda payload: follows.set())
    await subscribed(channel.subscribe)
    await asyncio.wait_for(follows.wait(), scaled(10))


async def received(queue: Received) -> Any:
    return await asyncio.wait_for(queue.get(), scaled(10))


async def test_changes_of_a_table_arrive(
    client: AsyncRealtimeClient, stack: LocalStack, table: str
) -> None:
    changes: Received = asyncio.Queue()
    channel = client.channel("changes")
    channel.on_postgres_changes("*", changes.put_nowait, schema="public", table=table)
    await following(channel)
    stack.sql(f"insert into {table} values (9007199254740993, 'a', 1)")
    stack.sql(f"update {table} set n = 2")
    stack.sql(f"delete from {table}")
    inserted, updated, deleted = [(await received(changes))["data"] for _ in range(3)]
    assert inserted["record"] == {"id": 9007199254740993, "name": "a", "n": 1}
    assert updated["record"]["n"] == 2
    assert updated["old_record"] == deleted["old_record"] == {"id": 9007199254740993}


async def test_a_filter_lets_through_what_it_says(
    client: AsyncRealtimeClient, stack: LocalStack, table: str
) -> None:
    changes: Received = asyncio.Queue()
    channel = client.channel("filtered")
    channel.on_postgres_changes(
        "INSERT", changes.put_nowait, schema="public", table=table, filter="name=like.b%"
    )
    await following(channel)
    stack.sql(f"insert into {table} values (1, 'abc', 1), (2, 'bcd', 2), (3, null, 3)")
    stack.sql(f"insert into {table} values (4, 'b', 4)")
    assert [(await received(changes))["data"]["record"]["id"] for _ in range(2)] == [2, 4]
    assert changes.empty()


async def test_a_broadcast_reaches_the_other_client(
    client: AsyncRealtimeClient, stack: LocalStack
) -> None:
    other = AsyncRealtimeClient(f"{stack.url}/realtime/v1", stack.anon_key)
    heard: Received = asyncio.Queue()
    there = other.channel("room")
    there.on_broadcast("shout", heard.put_nowait)
    await subscribed(there.subscribe)
    here = client.channel("room")
    await subscribed(here.subscribe)
    await here.send_broadcast("shout", {"price": 150.25})
    assert (await received(heard))["payload"] == {"price": 150.25}
    stack.sql("""select realtime.send('{"from": "sql"}', 'shout', 'room', false)""")
    assert (await received(heard))["payload"]["from"] == "sql"
    await other.close()


async def test_presence_is_seen_and_leaves_with_the_connection(
    client: AsyncRealtimeClient, stack: LocalStack
) -> None:
    other = AsyncRealtimeClient(f"{stack.url}/realtime/v1", stack.anon_key, auto_reconnect=False)
    joins: Received = asyncio.Queue()
    leaves: Received = asyncio.Queue()
    here = client.channel("lobby", {"config": {"presence": {"key": "here", "enabled": True}}})
    here.on_presence_join(lambda key, _, new: joins.put_nowait((key, new)))
    here.on_presence_leave(lambda key, _, old: leaves.put_nowait((key, old)))
    await subscribed(here.subscribe)
    there = other.channel("lobby", {"config": {"presence": {"key": "there", "enabled": True}}})
    await subscribed(there.subscribe)
    await there.track({"name": "ann"})
    key, metas = await received(joins)
    assert key == "there"
    assert metas[0]["name"] == "ann"
    await other.close()
    key, metas = await received(leaves)
    assert key == "there"


async def test_a_private_channel_is_for_those_whom_the_policy_lets_in(
    client: AsyncRealtimeClient, stack: LocalStack
) -> None:
    stack.sql(
        "drop policy if exists rt_clients_read on realtime.messages;"
        "drop policy if exists rt_clients_write on realtime.messages;"
        "create policy rt_clients_read on realtime.messages for select to authenticated"
        "  using (realtime.topic() = 'desk:' || auth.uid());"
        "create policy rt_clients_write on realtime.messages for insert to authenticated"
        "  with check (realtime.topic() = 'desk:' || auth.uid())"
    )
    config: Any = {"config": {"private": True, "broadcast": {"self": True, "ack": False}}}
    await client.set_auth(stack.token("authenticated", OTHER))
    with pytest.raises(AssertionError, match="CHANNEL_ERROR"):
        await subscribed(client.channel(f"desk:{USER}", config).subscribe)
    await client.remove_all_channels()

    await client.connect()
    await client.set_auth(stack.token("authenticated", USER))
    heard: Received = asyncio.Queue()
    channel = client.channel(f"desk:{USER}", config)
    channel.on_broadcast("note", heard.put_nowait)
    await subscribed(channel.subscribe)
    await channel.send_broadcast("note", {"n": 1})
    assert (await received(heard))["payload"] == {"n": 1}


async def test_supabase_client_follows_a_table_as_its_user(stack: LocalStack) -> None:
    stack.sql(
        "drop table if exists rt_owned;"
        "create table rt_owned (id bigint primary key, owner uuid, name text);"
        "alter table rt_owned enable row level security;"
        "create policy own on rt_owned to authenticated using (owner = auth.uid());"
        "grant select on rt_owned to anon, authenticated;"
        "alter publication supabase_realtime add table rt_owned"
    )
    supabase: AsyncClient = await acreate_client(stack.url, stack.anon_key)
    await supabase.realtime.set_auth(stack.token("authenticated", USER))
    changes: Received = asyncio.Queue()
    channel = supabase.channel("mine")
    channel.on_postgres_changes("*", changes.put_nowait, schema="public", table="rt_owned")
    await following(channel)
    stack.sql("insert into rt_owned values (1, %s, 'theirs')", OTHER)
    stack.sql("insert into rt_owned values (2, %s, 'mine')", USER)
    assert (await received(changes))["data"]["record"]["name"] == "mine"
    stack.sql("delete from rt_owned")
    deleted = [(await received(changes))["data"]["old_record"] for _ in range(2)]
    assert deleted == [{"id": 1}, {"id": 2}]  # DELETE goes to everybody, with the key only
    await supabase.remove_all_channels()
    await supabase.realtime.close()
