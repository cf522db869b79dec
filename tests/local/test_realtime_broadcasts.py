"""Broadcasts from the database on the local stack: sent and lost like on the real server.

The unmodified `realtime` client joins the private topic of a table whose changes are broadcast.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from realtime import AsyncRealtimeClient
from websockets.asyncio.client import ClientConnection, connect

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.faults.rules import Delay, Double, Drop, Frame
from tests.proxy import Proxy
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

    async def words(self) -> list[str]:
        """Column ``v`` of the next message's rows."""
        return [row["v"] for change in (await self.message())["changes"] for row in change["rows"]]


class RefusedError(Exception):
    """A join's other answers."""


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, scaled(10))


@asynccontextmanager
async def listening(
    stack: LocalStack, topic: str = TOPIC, ready: bool = True, token: str = "", **broadcast: Any
) -> AsyncIterator[Heard]:
    """A client of its own in a private topic; with ``ready``, once its messages come."""
    login = token or stack.anon_key
    client = AsyncRealtimeClient(f"{stack.url}/realtime/v1", login, auto_reconnect=False)
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
    if (answer := await within(heard.states.get())) != ("SUBSCRIBED", ""):
        await client.close()
        raise RefusedError(answer)
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


# What the real server does otherwise than one might think ---------------------------------------


@pytest.fixture(scope="module")
def home(ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack's directory, for tests that start it with options of their own."""
    return ready_made(tmp_path_factory.mktemp("broadcasts"))


@contextmanager
def running(home: Path, **realtime: Any) -> Iterator[LocalStack]:
    """A stack that has just started, with the table."""
    with start(home, options=StackOptions(realtime=RealtimeOptions(**realtime))) as stack:
        stack.sql("delete from realtime.messages")
        make_table(stack)
        yield stack


async def test_a_message_over_the_size_is_stored_and_not_sent(home: Path) -> None:
    """A payload of 256,494 bytes is the last that passes, as measured on the real server."""
    send = "select realtime.send(jsonb_build_object('id', 1, 'x', repeat('x', %s)), 'changes', %s)"
    frame = len('{"x": "", "id": 1}')
    with running(home, events_per_second=None) as stack:
        async with listening(stack) as heard:
            stack.sql(send, 256_495 - frame, TOPIC)
            stack.sql(send, 256_494 - frame, TOPIC)
            assert len((await heard.message())["x"]) == 256_494 - frame
        stored = "select octet_length(payload::text) from realtime.messages where event = 'changes'"
        assert stack.sql(stored + " and octet_length(payload::text) > 200000 order by 1") == [
            (256_494,),
            (256_495,),
        ]
        log = (stack.directory / "server.log").read_text()
        assert [line for line in log.splitlines() if "256495 bytes" in line and TOPIC in line]
        assert "256494 bytes" not in log


def send(stack: LocalStack, first: int, last: int) -> None:
    """Messages with these numbers, in one transaction."""
    message = "jsonb_build_object('n', n, 'changes', '[]'::jsonb)"
    stack.sql(
        f"select realtime.send({message}, 'changes', %s) from generate_series(%s::int, %s::int) n",
        TOPIC,
        first,
        last,
    )


async def send_until(stack: LocalStack, number: int, over: Callable[[], bool]) -> None:
    """One message after another, from that number on, until something is seen."""
    async with asyncio.timeout(scaled(20)):
        while not over():
            send(stack, number, number)
            number += 1
            await asyncio.sleep(0.05)


async def test_over_the_rate_messages_are_lost_silently(home: Path) -> None:
    """From the middle: once the average is within the rate again, messages come, and none says why.

    A tick begins with the burst, which is sent at once. Its 40 events are too many for five ticks.
    """
    with running(home, events_per_second=20, rate_tick=0.5) as stack:
        async with listening(stack) as heard:
            send(stack, 1, 20)
            assert await heard.numbers(20) == list(range(1, 21)), "a burst passes"
            numbers = [20]

            def some_are_missing() -> bool:
                while not heard.changes.empty():
                    numbers.append(heard.changes.get_nowait()["payload"]["n"])
                return numbers[-1] - 20 >= len(numbers)

            await send_until(stack, 21, some_are_missing)
            assert numbers == sorted(set(numbers))
            assert heard.states.empty()
            assert heard.said.empty()


async def test_over_the_rate_a_channel_may_be_told_and_closed(home: Path) -> None:
    """It may join anew, and the next message closes it again.

    The burst is too much for the average of twelve ticks, so there are 11 s for joining anew.
    """
    with running(home, events_per_second=20, rate_tick=1.0, over_rate="closed") as stack:
        async with listening(stack) as heard:
            send(stack, 1, 200)
            await send_until(stack, 201, lambda: not heard.states.empty())
            name, error = await within(heard.states.get())
            assert (name, json.loads(error)["message"]) == (
                "CHANNEL_ERROR",
                "Too many messages per second",
            )
            assert (await within(heard.states.get()))[0] == "CLOSED"
        async with listening(stack) as again:
            send(stack, 0, 0)
            assert await again.numbers(1) == [0]
            assert (await within(again.states.get()))[0] == "CHANNEL_ERROR"


async def test_a_cold_join_is_answered_before_anything_is_sent(home: Path) -> None:
    with running(home, events_per_second=None, replication_delay=1.0) as stack:
        async with listening(stack, ready=False) as hasty:
            stack.sql(f"insert into {TABLE} values (1, 'lost')")
            async with listening(stack):  # which is told when the stream runs
                stack.sql(f"insert into {TABLE} values (2, 'sent')")
                assert await hasty.numbers(1) == [2]
        async with listening(stack, ready=False) as warm:
            stack.sql(f"insert into {TABLE} values (3, 'sent')")
            assert await warm.numbers(1) == [3]


async def test_a_stream_that_does_not_start_closes_who_waits_for_it(home: Path) -> None:
    with running(home, replication_delay=60.0, replication_timeout=0.05) as stack:
        async with listening(stack, ready=False, replication_ready=True) as heard:
            name, error = await within(heard.states.get())
            assert name == "CHANNEL_ERROR"
            assert "Replication connection was not established in time" in error
            assert (await within(heard.states.get()))[0] == "CLOSED"
            assert heard.said.empty()


async def test_what_is_committed_while_postgres_is_away_is_not_sent_again(home: Path) -> None:
    """The slot is temporary; a join that waits is told once the stream runs anew."""
    with running(home, events_per_second=None, restart_delay=1.0) as stack:
        async with listening(stack) as heard:
            stack.sql(f"insert into {TABLE} values (0, 'sent')")
            assert await heard.words() == ["sent"]
            await asyncio.to_thread(commit_while_nobody_follows, stack)
            async with listening(stack):
                stack.sql(f"insert into {TABLE} values (2, 'sent again')")
                assert await heard.words() == ["sent again"]


def commit_while_nobody_follows(stack: LocalStack) -> None:
    """Restart PostgreSQL, and commit a row before the stream begins anew.

    A slot's changes begin once the transactions are over that were open when it was made. So the
    stream waits for one that stays open, if that one is older than its slot.
    """
    slots = "select count(*) from pg_replication_slots"
    while True:
        stack.restart_postgres()
        with psycopg.connect(stack.dsn) as holding:
            holding.execute("select pg_current_xact_id()")
            if stack.sql(slots) == [(0,)]:  # else this process was slow, and the stream is back
                stack.sql(f"insert into {TABLE} values (1, 'lost')")
                return


async def test_no_poll_of_changes_holds_up_a_broadcast(home: Path) -> None:
    with running(home, events_per_second=None, poll_interval=60.0) as stack:
        stack.sql(f"alter publication supabase_realtime add table {TABLE}")
        async with listening(stack) as heard:
            stack.sql(f"insert into {TABLE} values (1, 'a')")
            assert await heard.numbers(1) == [1]


async def test_the_proxy_loses_doubles_and_delays_numbered_messages(live: LocalStack) -> None:
    """As faults of other tests: by the number that the message has."""
    for version in ("1.0.0", "2.0.0"):
        numbers = []
        with Proxy(live.url) as proxy:
            first = live.sql("select notebook_rt_head('public', %s) ->> 'n'", TABLE)[0][0]
            second, third, fourth = (frozenset({int(first) + more}) for more in (2, 3, 4))
            proxy.rules = (
                Drop(kind="broadcast", numbers=second),
                Double(kind="broadcast", numbers=third),
                Delay(kind="broadcast", numbers=fourth, seconds=1.0, in_order=False),
            )
            async with raw(proxy.url, live.anon_key, version) as socket:
                for _ in range(5):
                    live.sql(
                        f"insert into {TABLE} values (1, '') on conflict (id) do update set v = ''"
                    )
                while len(numbers) < 5:
                    numbers.append(Frame.read(await within(socket.recv())).number)
            assert proxy.counts["Drop"] == proxy.counts["Double"] == 1
        assert [number - int(first) for number in numbers if number] == [1, 3, 3, 5, 4]


@asynccontextmanager
async def raw(url: str, key: str, version: str) -> AsyncIterator[ClientConnection]:
    """A socket that has joined the table's topic, and whose messages come."""
    address = f"{url.replace('http', 'ws')}/realtime/v1/websocket?vsn={version}&apikey={key}"
    topic = f"realtime:{TOPIC}"
    config = {"config": {"private": True, "broadcast": {"replication_ready": True}}}
    join: Any = ["1", "1", topic, "phx_join", config]
    if version == "1.0.0":
        join = {"topic": topic, "event": "phx_join", "payload": config, "ref": "1"}
    async with connect(address) as socket:
        await socket.send(json.dumps(join))
        while READY not in str(await within(socket.recv())):
            pass
        yield socket


# realtime.messages ------------------------------------------------------------------------------


async def test_at_most_25_messages_are_replayed(live: LocalStack) -> None:
    for number in range(30):
        live.sql(f"insert into {TABLE} values ({number}, 'a')")
    async with listening(live, ready=False, replay={"since": 0, "limit": 25}) as heard:
        assert await heard.numbers(25) == list(range(6, 31))
    with pytest.raises(RefusedError, match="params are not valid"):
        async with listening(live, ready=False, replay={"since": 0, "limit": "all"}):
            pass


async def test_who_may_not_read_the_table_may_not_join_its_topic(live: LocalStack) -> None:
    live.sql(f"revoke select on {TABLE} from anon")
    with pytest.raises(RefusedError, match="You do not have permissions to read"):
        async with listening(live):
            pass
    live.sql(f"grant select on {TABLE} to anon")
    with pytest.raises(RefusedError, match="You do not have permissions to read"):
        async with listening(live, topic=TOPIC + "x"):
            pass
    async with listening(live):
        pass


def test_messages_are_partitioned_by_day(stack: LocalStack) -> None:
    names = (
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'realtime.messages'::regclass order by 1"
    )
    stack.sql(
        "create table realtime.messages_2001_01_01 partition of realtime.messages"
        " for values from ('2001-01-01') to ('2001-01-02')"
    )
    stack.sql("select realtime.notebook_rt_partitions()")
    (today,) = stack.sql("select (now() at time zone 'UTC')::date")[0]
    days = [today + timedelta(days=offset) for offset in range(-3, 4)]
    assert [name for (name,) in stack.sql(names)] == [f"messages_{day:%Y_%m_%d}" for day in days]


def test_making_partitions_changes_nothing_where_none_is_missing(stack: LocalStack) -> None:
    """It is done every half minute, and must not say that the schema changed."""
    version = "select count(*), max(xmin::text::bigint) from pg_class"
    before = stack.sql(version)
    stack.sql("select realtime.notebook_rt_partitions()")
    assert stack.sql(version) == before


def test_who_holds_the_messages_does_not_make_senders_wait_for_a_partition(
    live: LocalStack,
) -> None:
    (last,) = live.sql(
        "select 'realtime.' || to_char((now() at time zone 'UTC') + interval '3 days',"
        " '\"messages_\"YYYY_MM_DD')"
    )[0]
    live.sql(f"drop table {last}")
    with psycopg.connect(live.dsn) as holder:
        holder.execute("select realtime.send('{}', 'e', 't')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            live.sql("select realtime.notebook_rt_partitions()")
        live.sql(f"insert into {TABLE} values (1, 'a')")
    live.sql("select realtime.notebook_rt_partitions()")
    assert live.sql("select to_regclass(%s) is not null", last) == [(True,)]


def test_without_a_partition_the_message_is_a_warning_and_the_write_holds(
    live: LocalStack,
) -> None:
    (partition,) = live.sql(
        "select 'realtime.' || to_char(now() at time zone 'UTC', '\"messages_\"YYYY_MM_DD')"
    )[0]
    warnings: list[str] = []
    live.sql(f"alter table realtime.messages detach partition {partition}")
    try:
        with psycopg.connect(live.dsn, autocommit=True) as connection:
            connection.add_notice_handler(
                lambda notice: warnings.append(notice.message_primary or "")
            )
            connection.execute(f"insert into {TABLE} values (1, 'a')".encode())
    finally:
        live.sql(f"drop table {partition}; select realtime.notebook_rt_partitions()")
    assert warnings == [
        'WarnSendingBroadcastMessage: no partition of relation "messages" found for row'
    ]
    assert live.sql(f"select v from {TABLE}") == [("a",)]
    assert live.sql("select n from (select notebook_rt_head('public', %s) ->> 'n' n) h", TABLE) == [
        ("1",)
    ]


async def test_a_directory_of_an_older_version_keeps_its_messages_and_policies(
    home: Path,
) -> None:
    """Before, `realtime.messages` was not partitioned."""
    with running(home, events_per_second=None) as stack:
        stack.sql(f"insert into {TABLE} values (1, 'a')")
        policies = (
            "select policyname, roles, cmd, qual, with_check from pg_policies order by 1, tablename"
        )
        stack.sql(
            "create policy desk_write on realtime.messages for insert to authenticated"
            " with check (realtime.topic() = 'desk')"
        )
        before = stack.sql(policies)
        stack.sql(
            "create table realtime.old (like realtime.messages including defaults);"
            "alter table realtime.old add primary key (id, inserted_at);"
            "insert into realtime.old select * from realtime.messages"
        )
        for statement in stack.sql(
            "select format('create policy %I on realtime.old as %s for %s to %s', policyname,"
            " permissive, cmd, array_to_string(roles, ', ')) || coalesce(' using (' || qual || ')', '')"
            " || coalesce(' with check (' || with_check || ')', '')"
            " from pg_policies where tablename = 'messages'"
        ):
            stack.sql(statement[0])
        stack.sql("drop table realtime.messages; alter table realtime.old rename to messages")
    with start(home) as stack:
        assert stack.sql(policies) == before
        assert stack.sql(
            "select relkind from pg_class where oid = 'realtime.messages'::regclass"
        ) == [("p",)]
        async with listening(stack, replay={"since": 0, "limit": 25}) as heard:
            assert (await heard.message())["changes"][0]["rows"] == [{"id": 1, "v": "a"}]
            stack.sql(f"insert into {TABLE} values (2, 'b')")
            assert (await heard.message())["changes"][0]["rows"] == [{"id": 2, "v": "b"}]
