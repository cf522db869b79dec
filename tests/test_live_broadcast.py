"""A live table whose changes the database broadcasts, on the real stack."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack, start
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from notebook_rt.sync.table import broadcast as broadcasts
from tests.conftest import QUICK
from tests.faults.rules import Delay, Double, Drop, Rule
from tests.local.test_realtime_broadcasts import RefusedError, listening
from tests.proxy import Proxy
from tests.waiting import scaled, until

UNAUDITED = nrt.Options(audit_interval=0)
"""What is lost is found by the numbers, or never."""


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key, options=UNAUDITED) as session:
        yield session


@pytest.fixture
def broadcast(stack: LocalStack, make_table: Callable[..., str]) -> Iterator[Callable[..., str]]:
    """Makes a table whose changes are broadcast, and which is in no publication."""
    made: list[str] = []

    def make(columns: str = "id bigint primary key, name text, price numeric") -> str:
        name = make_table(columns)
        stack.sql(f"alter publication supabase_realtime drop table {name}")
        stack.sql(broadcast_sql("public", [name]))
        made.append(name)
        return name

    yield make
    if stack.sql("select to_regproc('notebook_rt.broadcast_remove')") != [(None,)]:
        stack.sql(broadcast_remove_sql("public", made))


def rows(frame: nrt.LiveFrame) -> dict[Any, list[Any]]:
    """What the frame shows, by key."""
    df = frame.df
    return dict(
        zip(df.index, df.astype(object).where(df.notna(), None).values.tolist(), strict=True)
    )


def test_what_is_written_is_in_df_by_broadcast(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    stack.sql(f"insert into {table} values (1, 'before', 0.5)")
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert repr(frame) == f"<LiveTable {table} live by broadcast, 1 row>"
    assert rt.health.sources == {table: "broadcast"}
    assert rt.metrics["broadcast_tables"] == 1
    stack.sql(
        f"insert into {table} values (2, 'new', null); update {table} set name = 'x' where id = 1"
    )
    until(lambda: rows(frame) == {1: ["x", 0.5], 2: ["new", None]}, what=lambda: frame.df)
    stack.sql(f"update {table} set id = 3 where id = 2; delete from {table} where id = 1")
    until(lambda: rows(frame) == {3: ["new", None]}, what=lambda: frame.df)
    stack.sql(f"truncate {table}")
    until(lambda: rows(frame) == {}, what=lambda: frame.df)


def test_changes_say_when_they_were_committed(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    """By the server's clock, so that lag and a history are as by Postgres Changes."""
    table = broadcast()
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    seen: list[nrt.ChangeBatch] = []
    frame.on_change(seen.append)
    history = frame.history("1h")
    (((before,),), (), ((after,),)) = (
        stack.sql(statement)
        for statement in (
            "select clock_timestamp()",
            f"insert into {table} values (1, 'a', 1)",
            "select clock_timestamp()",
        )
    )
    until(lambda: seen, what=lambda: repr(frame))
    (batch,) = seen
    assert batch.commit_time is not None
    assert before.timestamp() <= batch.commit_time <= after.timestamp()
    assert "lag_p50_ms" in rt.metrics
    (recorded,) = history.changes_df()["_commit_timestamp"]
    assert before <= recorded <= after


# What is lost ---------------------------------------------------------------------------------------

SOON = 6.0
"""Three seconds, which `test_mirror_laws.py` has by its own clock, and as many for a machine that does
other things.
"""


@pytest.fixture
def proxy(stack: LocalStack) -> Iterator[Proxy]:
    with Proxy(stack.url) as running:
        yield running


@pytest.fixture
def lossy(
    stack: LocalStack, proxy: Proxy, broadcast: Callable[..., str]
) -> Iterator[tuple[nrt.LiveTable, Callable[[str], None]]]:
    """A live table of 2,000 rows behind the proxy, and what runs a statement on it (``{}``) and waits
    until ``df`` is what the table holds.
    """
    table = broadcast()
    stack.sql(f"insert into {table} select i, 'old', 0 from generate_series(1, 2000) i")
    with nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt:
        frame = rt.table(table, source="broadcast")
        frame.wait(scaled(20))
        until(lambda: frame.status == "live", what=lambda: repr(frame))

        def run(*statements: str) -> None:
            for statement in statements:
                stack.sql(statement.replace("{}", table))
            found = stack.sql(f"select id, name, price::float8 from {table}")
            truth = {key: list(values) for key, *values in found}
            until(lambda: rows(frame) == truth, SOON, lambda: repr(frame))

        run("update {} set name = 'first' where id = 1")
        yield frame, run


def whole_reads(proxy: Proxy) -> int:
    """Requests for rows: what reads the log is a POST, and a socket begins with a GET."""
    return proxy.counts["GET"] + proxy.counts["HEAD"] - proxy.counts["sockets"]


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "lost from the middle": lambda proxy: lose(proxy, 3),
    "lost at the tail": lambda proxy: lose(proxy, 5),
    "all lost": lambda proxy: lose(proxy, 3, 4, 5),
    "doubled": lambda proxy: set_rules(proxy, Double(kind="broadcast")),
    "late": lambda proxy: set_rules(proxy, Delay(kind="broadcast", seconds=0.3, in_order=False)),
    "channel closed": lambda proxy: proxy.close_channels(),
    "socket closed": lambda proxy: proxy.close_sockets(),
}


def set_rules(proxy: Proxy, *rules: Rule) -> None:
    proxy.rules = rules


def lose(proxy: Proxy, *numbers: int) -> None:
    set_rules(proxy, Drop(kind="broadcast", numbers=frozenset(numbers)))


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_lost_is_read_from_the_log_within_three_seconds(
    proxy: Proxy, lossy: tuple[nrt.LiveTable, Callable[..., None]], fault: str
) -> None:
    frame, run = lossy
    before = whole_reads(proxy)
    FAULTS[fault](proxy)
    run(
        "update {} set name = 'x', price = id where id < 500",
        "delete from {} where id % 7 = 0; update {} set id = -id where id = 1",
        "insert into {} values (7, 'again', 1)",
    )
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert whole_reads(proxy) == before


def test_who_was_away_goes_on_from_the_log(
    proxy: Proxy, lossy: tuple[nrt.LiveTable, Callable[..., None]], stack: LocalStack
) -> None:
    """What is missed while nobody answers costs what changed, and not what the table holds."""
    frame, run = lossy
    before = whole_reads(proxy)
    proxy.down()
    for number in range(20):
        stack.sql(f"update {frame.name} set price = {number} where id % 20 = {number}")
    stack.sql(f"delete from {frame.name} where id > 1900")
    proxy.up()
    until(lambda: len(frame.df) == 1900, 30, lambda: repr(frame))
    run("update {} set name = 'after' where id = 5")
    assert whole_reads(proxy) == before


def test_a_channel_that_is_silent_while_it_is_joined_is_found_by_the_head(
    proxy: Proxy, lossy: tuple[nrt.LiveTable, Callable[..., None]]
) -> None:
    _, run = lossy
    before = whole_reads(proxy)
    proxy.rules = (Drop(kind="broadcast"),)
    for number in range(3):
        run(f"update {{}} set price = {number} where id = {number + 1}")
    assert whole_reads(proxy) == before


def test_a_loss_after_a_quiet_time_is_made_up_for_within_three_seconds(
    proxy: Proxy, lossy: tuple[nrt.LiveTable, Callable[..., None]]
) -> None:
    _, run = lossy
    before, asked = whole_reads(proxy), proxy.counts["POST"]
    until(lambda: proxy.counts["POST"] >= asked + 4, 15)  # questions for the head, at rest
    proxy.rules = (Drop(kind="broadcast"),)
    run("update {} set name = 'lost' where id = 1")
    assert whole_reads(proxy) == before


def test_a_number_that_was_drawn_long_before_its_commit_hides_no_loss(
    stack: LocalStack, proxy: Proxy, broadcast: Callable[..., str]
) -> None:
    """As after ``set constraints all immediate``: the head names the number before its message is sent."""
    table = broadcast()
    stack.sql(f"insert into {table} values (1, 'a', 1), (2, 'b', 2)")
    with (
        psycopg.connect(stack.dsn) as writer,
        nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt,
    ):
        writer.execute("set constraints all immediate")
        writer.execute(f"delete from {table} where id = 1")
        frame = rt.table(table, source="broadcast")
        frame.wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        assert len(frame.df) == 2
        proxy.rules = (Drop(kind="broadcast"),)
        writer.commit()
        until(lambda: rows(frame) == {2: ["b", 2.0]}, 5, lambda: repr(frame))


def test_the_heads_of_all_tables_are_one_question(
    stack: LocalStack, proxy: Proxy, broadcast: Callable[..., str]
) -> None:
    """Of which each answer says what is another one only, and each table's loss is seen by it."""
    names = [broadcast("id int primary key, v int") for _ in range(4)]
    with nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt:
        frames = [rt.table(name, source="broadcast").wait(scaled(20)) for name in names]
        until(lambda: {frame.status for frame in frames} == {"live"}, what=lambda: frames)
        asked, began = proxy.counts["POST"], time.monotonic()
        until(lambda: proxy.counts["POST"] >= asked + 3, 10)
        assert proxy.counts["POST"] - asked <= 3 + (time.monotonic() - began) / 2
        assert 0 < rt.metrics["heads_share"] < 1
        reads, proxy.rules = whole_reads(proxy), (Drop(kind="broadcast"),)
        for name in names:
            stack.sql(f"insert into {name} values (1, 1)")
        until(lambda: all(len(frame.df) == 1 for frame in frames), 10, lambda: frames)
        assert whole_reads(proxy) == reads


@pytest.mark.parametrize("times", [0, 1, 3], ids=["nothing", "half of it", "more than it has"])
def test_a_kernel_that_was_away_reads_what_costs_less(
    stack: LocalStack, proxy: Proxy, broadcast: Callable[..., str], times: int
) -> None:
    """The log, from the position that was kept, up to as many rows as the table has; else the table."""
    table = broadcast()
    stack.sql(f"insert into {table} select i, repeat('x', 400), 0 from generate_series(1, 4000) i")

    def kernel(check: Callable[[nrt.Session, nrt.LiveTable], None]) -> None:
        with nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt:
            frame = rt.table(table, source="broadcast", keep=True)
            until(lambda: frame.status == "live", 20, lambda: repr(frame))
            check(rt, frame)

    kernel(lambda rt, frame: None)
    for _ in range(times):
        for low in range(0, 2000, 500):
            stack.sql(
                f"update {table} set price = price + 1 where id > {low} and id <= {low + 500}"
            )
    before, posts = whole_reads(proxy), proxy.counts["POST"]

    def check(rt: nrt.Session, frame: nrt.LiveTable) -> None:
        assert (frame.df["price"] == [times] * 2000 + [0] * 2000).all()
        reads, asked = whole_reads(proxy) - before, proxy.counts["POST"] - posts
        read_the_table = times * 2000 > 4000
        assert (reads > LEARNING) is read_the_table, proxy.counts
        assert asked <= 10

    kernel(check)


LEARNING = 3
"""Requests by which a session learns of a project and of a table's columns."""


@pytest.mark.parametrize("fault", [None, "lost", "doubled"])
def test_a_transaction_over_two_tables_is_seen_as_one(
    stack: LocalStack, proxy: Proxy, broadcast: Callable[..., str], fault: str | None
) -> None:
    """A join of both never shows half of it, nor does who is called of either, but where a part was lost,
    or late: that is counted as a gap, and the log makes up for it.
    """
    names = broadcast("id int primary key, v int"), broadcast("id int primary key, w int")
    for name in names:
        stack.sql(f"insert into {name} values (1, 0)")
    with nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt:
        first, second = (rt.table(name, source="broadcast").wait(scaled(20)) for name in names)
        both = first.join(second)
        until(lambda: first.status == second.status == "live", what=lambda: repr(both))
        gaps, halves = rt.metrics["gaps"], list[tuple[int, ...]]()

        def look(batch: nrt.ChangeBatch | None = None) -> None:
            joined = tuple(map(int, both.df.iloc[0]))
            here = int(first.df["v"].iloc[0]), int(second.df["w"].iloc[0])
            told = max((v for one in batch or () for v in (one.new or {}).values()), default=0)
            if joined[0] != joined[1] or min(here) < told:
                halves.append((told, *joined, *here))

        for frame in (first, second, both):
            frame.on_change(look)
        if fault == "doubled":
            proxy.rules = (Double(kind="broadcast"),)
        if fault == "lost":
            proxy.rules = (Drop(kind="broadcast", chance=0.3),)
        for number in range(1, 31):
            updates = (
                f"update {name} set {c} = {number}" for name, c in zip(names, "vw", strict=True)
            )
            stack.sql(f"begin; {'; '.join(updates)}; commit")
            look()
        until(lambda: list(both.df.iloc[0]) == [30, 30], 4, lambda: both.df)
        assert not halves or rt.metrics["gaps"] > gaps, halves


def test_a_part_of_a_transaction_that_is_lost_is_read_at_once(
    stack: LocalStack,
    proxy: Proxy,
    broadcast: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The part that came shows that the other was lost: nobody waits for the next look at the head."""
    # Neither that look nor the patience with a number that is late can be what finds it.
    monkeypatch.setattr(broadcasts, "HEAD_PAUSE", 1e6)
    monkeypatch.setattr(broadcasts, "HOLE", 1e6)
    one, other = broadcast("id int primary key, v int"), broadcast("id int primary key, w int")
    stack.sql(f"insert into {one} values (1, 0); update {one} set v = 0")
    stack.sql(f"insert into {other} values (1, 0)")
    with nrt.connect(proxy.url, stack.anon_key, options=UNAUDITED) as rt:
        first, second = (
            rt.table(name, source="broadcast").wait(scaled(20)) for name in (one, other)
        )
        until(lambda: first.status == second.status == "live", what=lambda: repr(second))
        numbers = stack.sql(
            f"select (notebook_rt_head('public', '{one}') ->> 'n')::int,"
            f" (notebook_rt_head('public', '{other}') ->> 'n')::int"
        )
        ((ahead, behind),) = numbers
        if ahead == behind:
            stack.sql(f"update {one} set v = 0")
        until(lambda: first.status == second.status == "live", what=lambda: repr(second))
        proxy.rules = (Drop(kind="broadcast", numbers=frozenset({behind + 1})),)
        reads = whole_reads(proxy)
        stack.sql(f"begin; update {one} set v = 1; update {other} set w = 1; commit")
        until(lambda: first.df["v"].iloc[0] == 1, what=lambda: repr(first))
        until(lambda: second.df["w"].iloc[0] == 1, what=lambda: repr(second))
        assert whole_reads(proxy) == reads


# What it takes to have them -------------------------------------------------------------------------


def test_auto_is_by_postgres_changes_where_the_table_is_not_broadcast(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert rt.health.sources == {table: "changes"}
    assert "broadcast" not in repr(frame)
    with pytest.raises(errors.NotBroadcastError, match=f"notebook-rt doctor --sql {table}"):
        rt.table(table, source="broadcast").wait(scaled(10))
    with pytest.raises(errors.MissingTableError):
        rt.table("no_such_table", source="broadcast").wait(scaled(10))


def test_a_table_asked_for_by_broadcast_begins_when_its_sql_has_run(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    frame = rt.table(table, source="broadcast")
    until(lambda: frame.status == "error", what=lambda: repr(frame))
    stack.sql(broadcast_sql("public", [table]))
    try:
        until(lambda: frame.status == "live", 20, lambda: repr(frame))
        stack.sql(f"insert into {table} values (1, 'a', 1)")
        until(lambda: rows(frame) == {1: ["a", 1.0]}, what=lambda: repr(frame))
    finally:
        stack.sql(broadcast_remove_sql("public", [table]))


def test_a_table_whose_sql_is_removed_goes_on_by_postgres_changes(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    stack.sql(f"alter publication supabase_realtime add table {table}")
    frame, demanded = rt.table(table), rt.table(table, source="broadcast")
    until(lambda: frame.status == demanded.status == "live", what=lambda: repr(frame))
    assert rt.health.sources == {table: "broadcast"}
    stack.sql(broadcast_remove_sql("public", [table]))
    stack.sql(f"insert into {table} values (1, 'not broadcast', 1)")
    until(lambda: rows(frame) == {1: ["not broadcast", 1.0]}, 15, lambda: repr(frame))
    until(lambda: frame.status == "live", 15, lambda: repr(frame))
    assert "broadcast" not in repr(frame)
    stack.sql(f"update {table} set name = 'by changes'")
    until(lambda: rows(frame) == {1: ["by changes", 1.0]}, what=lambda: repr(frame))
    until(lambda: demanded.status == "error", 15, lambda: repr(demanded))


def test_who_may_not_read_the_topic_has_postgres_changes(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(broadcast_sql("public", [table], "auth.uid() is not null"))
    try:
        frame = rt.table(table)
        frame.wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        assert rt.health.sources == {table: "changes"}
        token = stack.token("authenticated", "00000000-0000-4000-8000-000000000001")
        with nrt.connect(stack.url, stack.anon_key, access_token=token) as other:
            theirs = other.table(table)
            theirs.wait(scaled(10))
            until(lambda: theirs.status == "live", what=lambda: repr(theirs))
            assert other.health.sources == {table: "broadcast"}
            stack.sql(f"insert into {table} values (1, 'a', 1)")
            until(lambda: rows(frame) == rows(theirs) == {1: ["a", 1.0]})
    finally:
        stack.sql(broadcast_remove_sql("public", [table]))


async def test_row_level_security_that_is_turned_on_later_ends_the_broadcast(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    """Nothing was said of who may read all rows, so nobody does, also who had joined before."""
    table = broadcast()
    frame = rt.table(table, source="broadcast").wait(scaled(10))
    topic = f"nrt:public.{table}"
    with psycopg.connect(stack.dsn, autocommit=True) as writer:
        async with listening(stack, topic) as heard:
            writer.execute(f"alter table {table} enable row level security")
            writer.execute(f"insert into {table} values (1, 'hidden', 1)")
            with pytest.raises(RefusedError):
                async with listening(stack, topic):
                    pass
            until(lambda: frame.status == "error", 10)
            writer.execute(f"alter table {table} disable row level security")
            writer.execute(f"insert into {table} values (2, 'shown', 2)")
            (change,) = (await heard.message())["changes"]
            assert [one["id"] for one in change["rows"]] == [2]
    until(lambda: frame.status == "live", 20)
    assert set(rows(frame)) == {1, 2}


async def test_row_level_security_is_no_end_where_it_is_said_who_reads(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, name text, price numeric")
    stack.sql(
        f"alter table {table} enable row level security;"
        + broadcast_sql("public", [table], "auth.role() = 'anon'")
    )
    async with listening(stack, f"nrt:public.{table}") as heard:
        stack.sql(f"insert into {table} values (1, 'told', 1)")
        assert (await heard.message())["changes"][0]["rows"][0]["name"] == "told"
    stack.sql(broadcast_remove_sql("public", [table]))


@pytest.mark.usefixtures("described_by_sql")
@pytest.mark.parametrize("published", [True, False])
def test_who_may_read_some_columns_is_told_what_a_broadcast_takes(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str], published: bool
) -> None:
    """Running the SQL again would mend nothing."""
    table = broadcast()
    if published:
        stack.sql(f"alter publication supabase_realtime add table {table}")
    stack.sql(f"revoke all on {table} from anon; grant select (id, name) on {table} to anon")
    frame = rt.table(table, columns=["id", "name"], source="broadcast")
    with pytest.raises(errors.NotBroadcastError) as refused:
        frame.wait(scaled(10))
    told = str(refused.value)
    assert f"grant select on public.{table} to anon" in told
    assert 'source="auto"' in told
    assert "run the SQL" not in told


def test_another_login_has_the_source_that_it_may_read(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(broadcast_sql("public", [table], "auth.uid() is not null"))
    frame, dear = rt.table(table), rt.table(table, filter="price=gt.5")

    def follows_by(source: str, key: int) -> None:
        until(lambda: rt.health.sources == {table: source}, what=lambda: rt.health.sources)
        until(lambda: frame.status == dear.status == "live", 15, lambda: repr(frame))
        stack.sql(f"insert into {table} values ({key}, 'a', 9)")
        until(lambda: key in frame.df.index and key in dear.df.index, what=lambda: repr(frame))

    try:
        follows_by("changes", 1)
        rt.sign_up(f"{table}@example.com", "correct horse battery")
        follows_by("broadcast", 2)
        rt.sign_out()
        follows_by("changes", 3)
    finally:
        stack.sql(broadcast_remove_sql("public", [table]))


def test_several_tables_of_one_topic_share_its_channel(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    stack.sql(f"insert into {table} select i, 'n', i from generate_series(1, 9) i")
    whole = rt.table(table)
    whole.wait(scaled(10))
    until(lambda: whole.status == "live", what=lambda: repr(whole))
    dear = rt.table(table, filter="price=gt.5")
    first = rt.table(table, order="price.desc", limit=2, columns="price")
    until(lambda: dear.status == first.status == "live", what=lambda: repr(first))
    assert rt.metrics["channels"] == 1
    stack.sql(
        f"update {table} set price = 100 where id = 1; update {table} set price = 0 where id = 9"
    )
    until(lambda: set(dear.df.index) == {1, 6, 7, 8}, what=lambda: dear.df)
    until(lambda: list(first.df.index) == [1, 8], what=lambda: first.df)
    whole.close()
    stack.sql(f"delete from {table} where id = 8")
    until(lambda: set(dear.df.index) == {1, 6, 7}, what=lambda: dear.df)
    dear.close()
    first.close()
    until(lambda: rt.metrics["channels"] == 0)


# Values ---------------------------------------------------------------------------------------------


def test_values_are_those_of_rest_and_large_rows_arrive(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast(
        "id uuid primary key, big int8, num numeric, f float8, at timestamptz, span interval,"
        " b bytea, j jsonb, a int[], t text, day date, ok bool"
    )
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    stack.sql(
        f"insert into {table} values"
        " ('00000000-0000-4000-8000-000000000001', 9223372036854775807, 'NaN', 'Infinity', now(),"
        "  '1 month 2 days', '\\xdead', '{\"a\": [1, 2.50]}', '{1,null,3}', 'x', '2024-02-29', true),"
        " ('00000000-0000-4000-8000-000000000002', null, null, null, null, null, null, null, null, null,"
        "  null, null),"
        " ('00000000-0000-4000-8000-000000000003', 1, 1.5, 0.1, '2024-01-01', '1 day', '', '1', '{}',"
        "  repeat('x', 300000), null, false)"
    )
    until(lambda: len(frame.df) == 3, what=lambda: repr(frame))
    assert len(frame.df["t"].iloc[-1]) == 300_000
    stack.sql(f"alter publication supabase_realtime add table {table}")
    with nrt.connect(stack.url, stack.anon_key) as other:
        read = other.table(table, source="changes")
        pd.testing.assert_frame_equal(frame.df.sort_index(), read.df.sort_index())
    stack.sql(f"update {table} set t = repeat('y', 300000)")
    until(lambda: set(frame.df["t"].str[0]) == {"y"}, what=lambda: frame.df["t"].str[:9])
    verdict = frame.verify()
    assert (verdict.compared, verdict.differed) == (3, 0)


def test_numbers_are_exact_where_they_are_asked_for(
    stack: LocalStack, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(numeric="decimal")) as rt:
        frame = rt.table(table, source="broadcast")
        frame.wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        stack.sql(f"insert into {table} values (1, 'a', 0.1234567890123456789012345678901)")
        until(lambda: len(frame.df) == 1)
        assert frame.df["price"].iloc[0] == Decimal("0.1234567890123456789012345678901")


def test_a_column_that_is_added_appears(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    stack.sql(f"alter table {table} add more int default 7")
    stack.sql(f"update {table} set name = 'b'")
    until(lambda: rows(frame) == {1: ["b", 1.0, 7]}, 15, lambda: frame.df)


def test_a_table_distinguished_by_another_key_has_postgres_changes(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    """The log tells rows by the primary key: by another one, a row of the old value stayed for good."""
    table = broadcast("id int primary key, name text not null unique, price int")
    stack.sql(f"insert into {table} values (1, 'x', 1), (2, 'y', 2)")
    with pytest.raises(errors.NotBroadcastError, match=r"primary key \(id\), and not by name"):
        rt.table(table, source="broadcast", key="name").wait(scaled(10))
    stack.sql(f"alter publication supabase_realtime add table {table}")
    frame = rt.table(table, key="name")
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert rt.health.sources == {table: "changes"}
    stack.sql(f"update {table} set name = 'q' where id = 2")
    until(lambda: rows(frame) == {"x": [1, 1], "q": [2, 2]}, what=lambda: frame.df)


def test_the_rows_of_a_partition_go_and_come_with_it(stack: LocalStack, rt: nrt.Session) -> None:
    stack.sql(
        "create table parts (id int primary key, v text) partition by range (id);"
        "create table parts_old partition of parts for values from (0) to (9);"
        "create table parts_new partition of parts for values from (9) to (99);"
        "revoke all on parts_old, parts_new from anon, authenticated, service_role;"
        "insert into parts values (1, 'a'), (10, 'b'); grant select on parts to anon;"
        + broadcast_sql("public", ["parts"])
    )
    try:
        frame = rt.table("parts", source="broadcast").wait(scaled(10))
        until(lambda: frame.status == "live", 10)
        stack.sql("alter table parts detach partition parts_old")
        until(lambda: rows(frame) == {10: ["b"]}, 5)
        stack.sql("alter table parts attach partition parts_old for values from (0) to (9)")
        until(lambda: rows(frame) == {1: ["a"], 10: ["b"]}, 5)
        stack.sql("drop table parts_new; insert into parts values (2, 'c')")
        until(lambda: rows(frame) == {1: ["a"], 2: ["c"]} and frame.status == "live", 5)
    finally:
        stack.sql(broadcast_remove_sql("public", ["parts"]) + "drop table parts")


@pytest.mark.parametrize("given", [None, "id"])
def test_a_primary_key_that_changes_is_learnt(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str], given: str | None
) -> None:
    table = broadcast("id int primary key, b int not null, v text")
    stack.sql(f"insert into {table} values (1, 0, 'a'), (2, 0, 'b')")
    stack.sql(f"alter publication supabase_realtime add table {table}")
    frame = rt.table(table, key=given)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert rt.health.sources == {table: "broadcast"}
    seen: list[dict[Any, list[Any]]] = []
    frame.on_change(lambda batch: seen.append(rows(frame)))
    stack.sql(
        f"alter table {table} drop constraint {table}_pkey; alter table {table} add primary key (id, b)"
    )
    stack.sql(f"update {table} set b = 4 where id = 1")
    if given is None:
        truth: dict[Any, list[Any]] = {(1, 4): ["a"], (2, 0): ["b"]}
        until(lambda: rows(frame) == truth, what=lambda: repr(frame))
        stack.sql(f"insert into {table} values (1, 5, 'c'); delete from {table} where id = 2")
        truth = {(1, 4): ["a"], (1, 5): ["c"]}
        until(lambda: rows(frame) == truth, what=lambda: repr(frame))
    else:
        until(lambda: rt.health.sources == {table: "changes"}, what=lambda: repr(frame))
        until(lambda: rows(frame) == {1: [4, "a"], 2: [0, "b"]}, what=lambda: repr(frame))
    until(lambda: frame.status == "live", 15, lambda: repr(frame))
    assert all(len(one) == 2 for one in seen)
    assert rt.health.sources == {table: "broadcast" if given is None else "changes"}


def test_a_key_column_that_is_renamed_is_discovered_though_others_have_just_been(
    stack: LocalStack, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    stack.sql(f"alter table {table} rename price to cost; update {table} set name = 'b'")
    until(lambda: "cost" in frame.df, what=lambda: repr(frame))
    stack.sql(f"alter table {table} rename id to number; update {table} set name = 'c'")
    stack.sql(f"insert into {table} values (2, 'd', 2)")
    until(lambda: rows(frame) == {1: ["c", 1.0], 2: ["d", 2.0]}, 5, what=lambda: repr(frame))
    assert frame.df.index.name == "number"


def test_an_empty_table_without_a_description_has_the_key_of_its_log(
    stack: LocalStack, undescribed: None, rt: nrt.Session, broadcast: Callable[..., str]
) -> None:
    table = broadcast("code text not null unique, a int, b int, primary key (a, b)")
    frame = rt.table(table)
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    assert list(frame.df.index.names) == ["a", "b"]
    stack.sql(f"insert into {table} values ('x', 1, 2)")
    until(lambda: rows(frame) == {(1, 2): ["x"]}, 15, lambda: repr(frame))


# How fast -------------------------------------------------------------------------------------------


def test_a_bulk_change_is_in_df_on_a_small_plan(
    stack_directory: Path,
) -> None:
    """7,000 rows are a handful of messages, which a limit of 100 a second lets through."""
    options = replace(QUICK, realtime=replace(QUICK.realtime, events_per_second=100.0))
    with start(stack_directory, options=options) as stack:
        stack.sql(
            "create table bulk (id int primary key, v int);"
            "insert into bulk select i, 0 from generate_series(1, 7000) i;"
            "grant select, insert, update, delete on bulk to anon, authenticated, service_role"
        )
        stack.sql(broadcast_sql("public", ["bulk"]))
        with nrt.connect(stack.url, stack.anon_key, options=UNAUDITED) as rt:
            frame = rt.table("bulk", source="broadcast")
            frame.wait(scaled(20))
            until(lambda: frame.status == "live", what=lambda: repr(frame))
            stack.sql("update bulk set v = 1")
            until(lambda: (frame.df["v"] == 1).all(), what=lambda: frame.df)
            assert rt.metrics["gaps"] <= 2  # of the join
