"""Tables of users' own rows, with a topic for each user, on the real stack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.faults.rules import Double, Drop
from tests.local.test_realtime_broadcasts import RefusedError, listening
from tests.proxy import Proxy
from tests.test_live_broadcast import UNAUDITED, rows, whole_reads
from tests.waiting import scaled, until

ANN, BOB = (str(UUID(int=number, version=4)) for number in (1, 2))
COLUMNS = "id bigint primary key, name text, user_id uuid"


@pytest.fixture
def scoped(stack: LocalStack, make_table: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Makes a table of which each user's rows are theirs alone, by row policies and by topics."""
    made: list[str] = []

    def make(columns: str = COLUMNS, policy: str = "user_id = (select auth.uid())") -> str:
        name = make_table(columns)
        stack.sql(
            f"alter table {name} enable row level security;"
            f"create policy own on {name} to authenticated using ({policy})"
        )
        stack.sql(broadcast_sql("public", [name], scope="user_id"))
        made.append(name)
        return name

    yield make
    stack.sql(broadcast_remove_sql("public", made))


@contextmanager
def signed_in(stack: LocalStack, user: str, url: str | None = None) -> Iterator[nrt.Session]:
    token = stack.token("authenticated", user)
    with nrt.connect(
        url or stack.url, stack.anon_key, access_token=token, options=UNAUDITED
    ) as session:
        yield session


def live(frame: nrt.LiveTable) -> nrt.LiveTable:
    frame.wait(scaled(15))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    return frame


def names(frame: nrt.LiveTable) -> dict[Any, Any]:
    return {key: row[0] for key, row in rows(frame).items()}


@pytest.mark.parametrize("source", ["auto", "broadcast"])
def test_two_users_each_follow_their_own_rows(
    stack: LocalStack, scoped: Callable[..., str], source: nrt.Source
) -> None:
    table = scoped()
    stack.sql(f"insert into {table} values (1, 'a', '{ANN}'), (2, 'b', '{BOB}')")
    with signed_in(stack, ANN) as ann, signed_in(stack, BOB) as bob:
        hers = live(ann.table(table, filter=f"user_id=eq.{ANN}", source=source))
        his = live(bob.table(table, filter={"user_id": BOB}, source=source))
        assert repr(hers) == f"<LiveTable {table} live by broadcast per user_id, 1 row>"
        assert ann.health.sources == {table: "broadcast per user_id"}
        assert (ann.metrics["broadcast_tables"], ann.metrics["scoped_tables"]) == (1, 1)
        stack.sql(
            f"insert into {table} values (3, 'c', '{ANN}'), (4, 'd', '{BOB}'), (5, 'nobody', null)"
        )
        until(lambda: names(hers) == {1: "a", 3: "c"}, what=lambda: hers.df)
        until(lambda: names(his) == {2: "b", 4: "d"}, what=lambda: his.df)
        stack.sql(f"update {table} set user_id = '{BOB}', name = 'given' where id = 1")
        until(lambda: names(hers) == {3: "c"}, what=lambda: hers.df)
        until(lambda: names(his) == {1: "given", 2: "b", 4: "d"}, what=lambda: his.df)
        stack.sql(f"update {table} set user_id = null where id = 3")
        until(lambda: names(hers) == {}, what=lambda: hers.df)
        stack.sql(f"truncate {table}")
        until(lambda: names(his) == {}, 3, what=lambda: his.df)
        for frame in (hers, his):
            assert frame.verify().differed == 0


async def test_nobody_joins_the_topic_of_another(
    stack: LocalStack, scoped: Callable[..., str]
) -> None:
    table = scoped()
    topic, token = f"nrt:public.{table}:user_id", stack.token("authenticated", ANN)
    async with listening(stack, f"{topic}={ANN}", token=token):
        pass
    for name in (f"{topic}={BOB}", topic, f"{topic}=", f"nrt:public.{table}", f"{topic}=~ff"):
        with pytest.raises(RefusedError):
            async with listening(stack, name, token=token):
                pass


@pytest.fixture
def open_policy(stack: LocalStack) -> Iterator[None]:
    """What many projects have for channels of their own: whoever is signed in may use any topic."""
    stack.sql(
        "create policy everybody on realtime.messages for all to authenticated"
        " using (true) with check (true)"
    )
    yield
    stack.sql("drop policy everybody on realtime.messages")


async def test_a_policy_that_opens_all_topics_opens_none_of_these(
    stack: LocalStack, scoped: Callable[..., str], open_policy: None
) -> None:
    table = scoped()
    topic, token = f"nrt:public.{table}:user_id", stack.token("authenticated", ANN)
    for name in (f"{topic}={BOB}", topic):
        with pytest.raises(RefusedError):
            async with listening(stack, name, token=token):
                pass
    async with listening(stack, f"{topic}={ANN}", token=token) as heard:
        stack.sql(f"insert into {table} values (1, 'hers', '{ANN}'), (2, 'his', '{BOB}')")
        assert [one["name"] for one in (await heard.message())["changes"][0]["rows"]] == ["hers"]
    async with listening(stack, "another", token=token, ready=False):
        pass  # what is not ours is as it was


def test_nobody_but_the_database_sends_in_its_topics(
    stack: LocalStack, scoped: Callable[..., str], open_policy: None
) -> None:
    table = scoped()
    topic = f"nrt:public.{table}:user_id={ANN}"
    with psycopg.connect(stack.dsn) as connection:
        connection.execute("set local role authenticated")
        connection.execute(
            "select set_config('request.jwt.claims', %s, true), set_config('realtime.topic', %s, true)",
            (json.dumps({"sub": ANN}), topic),
        )
        send = "insert into realtime.messages (topic, extension, private) values (%s, 'broadcast', true)"
        connection.execute(send, ("another",))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(send, (topic,))


def test_another_users_value_is_not_broadcast_to_a_login(
    stack: LocalStack, scoped: Callable[..., str]
) -> None:
    """Its rows are what the row policies show: none."""
    table = scoped()
    stack.sql(f"insert into {table} values (1, 'b', '{BOB}')")
    with signed_in(stack, ANN) as ann:
        frame = live(ann.table(table, filter={"user_id": BOB}))
        assert (len(frame.df), ann.health.sources) == (0, {table: "changes"})
        with pytest.raises(errors.NotBroadcastError, match="a value that is this login's own"):
            ann.table(table, filter={"user_id": BOB}, source="broadcast").wait(scaled(10))


def test_without_the_value_it_says_why_it_is_by_postgres_changes(
    stack: LocalStack, scoped: Callable[..., str]
) -> None:
    table = scoped()
    told: list[str] = []
    with signed_in(stack, ANN) as ann:
        ann.on_note(lambda kind, text: told.append(text))
        frame = live(ann.table(table))
        assert ann.health.sources == {table: "changes"}
        why = 'each value of "user_id" is broadcast apart'
        assert any(why in text for text in told)
        stack.sql(f"insert into {table} values (1, 'a', '{ANN}'), (2, 'b', '{BOB}')")
        until(lambda: names(frame) == {1: "a"}, what=lambda: frame.df)
        with pytest.raises(
            errors.NotBroadcastError, match=r'filter=\{"user_id": \.\.\.\}'
        ) as raised:
            ann.table(table, source="broadcast").wait(scaled(10))
        assert why in str(raised.value)
        assert "doctor" not in str(raised.value)


@pytest.mark.parametrize("described", [True, False])
def test_in_no_publication_the_value_is_what_is_missing(
    request: pytest.FixtureRequest,
    stack: LocalStack,
    scoped: Callable[..., str],
    described: bool,
) -> None:
    if not described:
        request.getfixturevalue("undescribed")
    table = scoped()
    stack.sql(f"alter publication supabase_realtime drop table {table}")
    with signed_in(stack, ANN) as ann:
        with pytest.raises(errors.NotBroadcastError, match="publication") as raised:
            ann.table(table).wait(scaled(10))
        assert 'filter={"user_id": ...}' in str(raised.value)
        assert "ask for the table with" not in str(raised.value), "it was"
        assert repr(live(ann.table(table, filter={"user_id": ANN}))).count("per user_id") == 1


def test_several_filters_of_one_value_share_its_channel(
    stack: LocalStack, scoped: Callable[..., str]
) -> None:
    table = scoped()
    with signed_in(stack, ANN) as ann:
        every = live(ann.table(table, filter={"user_id": ANN}))
        some = live(ann.table(table, filter=f"user_id=eq.{ANN.upper()},name=eq.x"))
        assert ann.metrics["channels"] == 1
        stack.sql(f"insert into {table} values (1, 'x', '{ANN}'), (2, 'y', '{ANN}')")
        until(lambda: names(every) == {1: "x", 2: "y"}, what=lambda: every.df)
        until(lambda: names(some) == {1: "x"}, what=lambda: some.df)


LOSSES = {
    "the middle": Drop(kind="broadcast", numbers=frozenset({3})),
    "the tail": Drop(kind="broadcast", numbers=frozenset({5})),
    "all": Drop(kind="broadcast"),
    "nothing, doubled": Double(kind="broadcast"),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_what_is_lost_of_a_value_is_read_from_its_log(
    stack: LocalStack, scoped: Callable[..., str], lost: str
) -> None:
    table = scoped()
    stack.sql(
        f"insert into {table} select i, 'old',"
        f" case when i % 2 = 0 then '{ANN}'::uuid else '{BOB}' end from generate_series(1, 600) i"
    )
    with Proxy(stack.url) as proxy, signed_in(stack, ANN, proxy.url) as ann:
        frame = live(ann.table(table, filter={"user_id": ANN}, source="broadcast"))

        def run(statement: str) -> None:
            stack.sql(statement)
            found = stack.sql(f"select id, name from {table} where user_id = '{ANN}'")
            until(lambda: names(frame) == dict(found), 3, lambda: repr(frame))

        run(f"update {table} set name = 'first' where id = 2")
        before = whole_reads(proxy)
        proxy.rules = (LOSSES[lost],)
        run(f"update {table} set name = 'x' where id < 100")
        run(f"update {table} set user_id = '{BOB}' where id between 100 and 200")
        run(
            f"update {table} set user_id = '{ANN}' where id > 500; delete from {table} where id < 9"
        )
        run(f"insert into {table} values (1000, 'new', '{ANN}')")
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        assert whole_reads(proxy) == before


def test_a_transaction_over_a_table_with_a_scope_and_others_is_seen_as_one(
    stack: LocalStack, scoped: Callable[..., str], make_table: Callable[..., str]
) -> None:
    """Joined, with one that is whole and one that has the same scope: no half is ever shown, and
    none waits for what has come already.
    """
    whole = make_table("id bigint primary key, name text")  # its name is the first of the three
    stack.sql(broadcast_sql("public", [whole]))
    own, more = scoped(), scoped()
    try:
        for name in (own, more):
            stack.sql(f"insert into {name} values (1, '0', '{ANN}'), (2, '0', '{BOB}')")
        stack.sql(f"insert into {whole} values (1, '0')")
        with signed_in(stack, ANN) as ann:
            frames = [
                live(ann.table(own, filter={"user_id": ANN}, source="broadcast")),
                live(ann.table(more, filter={"user_id": ANN}, source="broadcast")),
                live(ann.table(whole, source="broadcast")),
            ]
            one, two, three = (frame.select("name") for frame in frames)
            joined = one.join(two, suffixes=("_1", "_2")).join(three)
            halves: list[Any] = []

            def look(batch: nrt.ChangeBatch | None = None) -> None:
                seen = {str(value) for value in joined.df.iloc[0]}
                if len(seen) > 1:
                    halves.append(seen)

            for frame in (*frames, joined):
                frame.on_change(look)
            gaps = ann.metrics["gaps"]
            for number in range(1, 31):
                users = (BOB, ANN) if number % 3 else (ANN,)
                writes = [
                    f"update {name} set name = '{number}' where user_id = '{user}'"
                    for name in (own, more)
                    for user in users
                ]
                writes.insert(number % 3, f"update {whole} set name = '{number}'")
                stack.sql(f"begin; {'; '.join(writes)}; commit")
                look()
            until(lambda: set(joined.df.iloc[0]) == {"30"}, 4, lambda: joined.df)
            assert (halves, ann.metrics["gaps"]) == ([], gaps)
    finally:
        stack.sql(broadcast_remove_sql("public", [whole]))


@pytest.mark.parametrize("quiet", [False, True])
def test_a_truncate_is_seen_within_three_seconds_by_every_value(
    stack: LocalStack, scoped: Callable[..., str], quiet: bool
) -> None:
    """Nobody is sent it: the head says that there is something, and the log what it is."""
    table = scoped()
    stack.sql(f"insert into {table} values (1, 'a', '{ANN}'), (2, 'b', '{BOB}')")
    with Proxy(stack.url) as proxy, signed_in(stack, ANN, proxy.url) as ann:
        frame = live(ann.table(table, filter={"user_id": ANN}, source="broadcast"))
        reads, asked = whole_reads(proxy), proxy.counts["POST"]
        if quiet:
            until(lambda: proxy.counts["POST"] >= asked + 2)
        stack.sql(f"truncate {table}")
        until(lambda: names(frame) == {}, 3, lambda: repr(frame))
        assert whole_reads(proxy) == reads


def test_another_login_follows_its_own_topic_and_sees_nothing_of_the_last_ones(
    stack: LocalStack, scoped: Callable[..., str]
) -> None:
    table = scoped()
    with nrt.connect(stack.url, stack.anon_key, options=UNAUDITED) as rt:
        rt.sign_up(f"{table}-ann@example.com", "correct horse battery")
        ((ann,),) = stack.sql(f"select id from auth.users where email = '{table}-ann@example.com'")
        frame = live(rt.table(table, filter={"user_id": str(ann)}))
        assert rt.health.sources == {table: "broadcast per user_id"}
        stack.sql(f"insert into {table} values (1, 'a', '{ann}')")
        until(lambda: names(frame) == {1: "a"}, what=lambda: frame.df)
        rt.sign_out()
        rt.sign_up(f"{table}-bob@example.com", "correct horse battery")
        until(lambda: rt.health.sources == {table: "changes"}, what=lambda: rt.health.sources)
        stack.sql(f"insert into {table} values (2, 'a', '{ann}')")
        until(lambda: frame.status == "live" and names(frame) == {}, 15, lambda: repr(frame))


def test_a_scope_that_is_put_on_a_table_and_taken_off_is_followed(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """Nobody opens the table again: the head says that the topic is another one."""
    table = make_table(COLUMNS)
    stack.sql(broadcast_sql("public", [table]))
    try:
        with signed_in(stack, ANN) as ann:
            frame = live(ann.table(table, filter={"user_id": ANN}))
            told: list[str] = []
            ann.on_note(lambda kind, text: told.append(text))
            for number, scope in enumerate(("user_id", None, "user_id")):
                how = "broadcast per user_id" if scope else "broadcast"
                stack.sql(broadcast_sql("public", [table], scope=scope))
                stack.sql(f"insert into {table} values ({number}, 'x', '{ANN}')")
                until(
                    lambda how=how: ann.health.sources == {table: how} and frame.status == "live",  # type: ignore[misc]
                    20,
                    lambda: repr(frame) + repr((told, ann.health.sources, frame.log)),
                )
                stack.sql(f"update {table} set name = 'y'")
                until(lambda: set(frame.df["name"]) == {"y"}, 3, lambda: frame.df)
    finally:
        stack.sql(broadcast_remove_sql("public", [table]))


@pytest.mark.parametrize("value", ["a/b?c#d", 'O\'Hara "x"', "\u202eäö", "~61", "x" * 100, " a "])
def test_hostile_values_are_followed(
    stack: LocalStack, make_table: Callable[..., str], value: str
) -> None:
    table = make_table("id bigint primary key, name text, user_id text")
    stack.sql(broadcast_sql("public", [table], "true", "user_id"))
    try:
        with signed_in(stack, ANN) as ann:
            frame = live(ann.table(table, filter={"user_id": value}, source="broadcast"))
            quoted = value.replace("'", "''")
            stack.sql(f"insert into {table} values (1, 'mine', '{quoted}'), (2, 'other', 'other')")
            until(lambda: names(frame) == {1: "mine"}, what=lambda: frame.df)
    finally:
        stack.sql(broadcast_remove_sql("public", [table]))
