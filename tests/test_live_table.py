"""A live table on the real stack: reading, changes, listeners, and named refusals."""

from __future__ import annotations

import asyncio
import pydoc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import supabase

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.widgets.adapters import FrameOf
from tests.waiting import scaled, until


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


def select(
    stack: LocalStack, table: str, columns: str = "id, name, price"
) -> list[tuple[Any, ...]]:
    return stack.sql(f"select {columns} from {table} order by 1")


def same(frame: nrt.LiveFrame, rows: list[tuple[Any, ...]]) -> bool:
    """Whether the frame shows exactly these rows (id, name, price)."""
    df = frame.df.sort_index()
    found = [(key, *values) for key, values in zip(df.index, df.values.tolist(), strict=True)]
    wanted = [(i, n, None if p is None else float(p)) for i, n, p in rows]
    return str(found) == str(wanted)


def test_rows_written_by_supabase_py_and_by_sql_are_in_df(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'before', 0.5)")
    frame = rt.table(table)
    frame.wait(scaled(10))
    assert same(frame, [(1, "before", 0.5)])
    client = supabase.create_client(stack.url, stack.anon_key)
    client.table(table).insert({"id": 2, "name": "by client", "price": 2.5}).execute()
    stack.sql(f"insert into {table} values (3, 'by sql', 3.5)")
    client.table(table).update({"name": "changed"}).eq("id", 1).execute()
    client.table(table).delete().eq("id", 3).execute()
    wanted = [(1, "changed", 0.5), (2, "by client", 2.5)]
    until(lambda: same(frame, wanted), what=lambda: f"{frame.df} {frame!r}")
    assert same(frame, select(stack, table))
    until(lambda: frame.status == "live", what=lambda: repr(frame))


def test_a_table_of_more_than_two_pages_is_whole_and_int8_is_intact(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(
        f"insert into {table} select 9007199254740993 + g, 'row ' || g, g "
        "from generate_series(0, 2599) g"
    )
    frame = rt.table(table)
    assert len(frame.df) == 2600
    assert frame.df.index.dtype == "int64"
    assert frame.df.loc[9007199254740993, "name"] == "row 0"
    assert same(frame, select(stack, table))
    stack.sql(f"update {table} set name = 'moved' where id = 9007199254740993 + 2599")
    until(lambda: frame.df["name"].iloc[-1] == "moved")


def test_rows_written_while_the_snapshot_is_read_are_neither_lost_nor_doubled(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'old', 0 from generate_series(1, 5000) g")
    stop = threading.Event()

    written = [0]

    def write() -> None:
        number = 0
        while not stop.is_set():
            number = written[0] = number + 1
            stack.sql(f"update {table} set price = price + 1 where id = {1 + number * 37 % 5000}")
            stack.sql(f"insert into {table} values ({10_000 + number}, 'new', {number})")
            stack.sql(f"delete from {table} where id = {number * 11}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        frame = rt.table(table)
        frame.wait(scaled(20))
        loaded = written[0]
        until(lambda: written[0] >= loaded + 100, 30, lambda: written)
    finally:
        stop.set()
        writer.join()
    until(lambda: same(frame, select(stack, table)), what=lambda: repr(frame))


def shares_memory(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the numbers of two snapshots are the same memory."""
    names = one.select_dtypes("number").columns
    return all(np.shares_memory(one[name].to_numpy(), other[name].to_numpy()) for name in names)


def test_two_reads_with_no_change_between_share_their_memory(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    frame = rt.table(table)
    first, whole = frame.df, frame._feed.snapshot()
    assert shares_memory(frame.df, first)
    assert frame._feed.snapshot() is whole
    version = frame.version
    stack.sql(f"insert into {table} values (2, 'b', 2)")
    until(lambda: len(frame.df) == 2)
    assert not shares_memory(frame.df, first)
    assert frame.version > version


def test_a_snapshot_kept_aside_never_changes_and_writing_to_it_reaches_nobody(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'a' || g, g from generate_series(1, 100) g")
    frame = rt.table(table)
    kept = frame.df
    copy = kept.copy(deep=True)
    stack.sql(f"update {table} set price = -1, name = 'changed'")
    stack.sql(f"delete from {table} where id > 90")
    until(lambda: len(frame.df) == 90 and (frame.df["price"] == -1).all())
    pd.testing.assert_frame_equal(kept, copy)
    mine = frame.df
    mine.loc[1, "price"] = 1e9
    stack.sql(f"update {table} set name = 'again' where id = 2")
    until(lambda: frame.get(2) is not None and frame.df.loc[2, "name"] == "again")
    assert frame.df.loc[1, "price"] == -1


def test_what_is_written_into_a_snapshot_is_seen_by_no_other_reader(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'a' || g, g from generate_series(1, 10) g")
    frame, other = rt.table(table).wait(scaled(10)), rt.table(table)
    cheap = frame.where("price=lt.5")
    given: list[pd.DataFrame] = []

    def spoil(df: pd.DataFrame) -> int:
        given.append(df)
        df["price"] = 0
        df["of_map"] = 1
        return len(df)

    before, of_cheap = frame.df.copy(deep=True), cheap.df.copy(deep=True)
    mapped = frame.map(spoil)
    assert mapped.df == 10
    mine, second = frame.df, cheap.df
    for df in (mine, second):
        df.loc[1, "price"] = 1e9
        df["mine"] = "x"
        df.pop("name")
        df.index.name = "key"
    for reader in (frame, other):
        pd.testing.assert_frame_equal(reader.df, before)
    pd.testing.assert_frame_equal(cheap.df, of_cheap)
    assert frame.to_arrow().column_names == ["id", "name", "price"]
    assert FrameOf(frame).df.columns.tolist() == ["name", "price"]
    with pytest.warns(pd.errors.ChainedAssignmentError):
        frame.df["lost"] = 1


def test_asking_twice_shares_one_subscription_and_one_store(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    first, second = rt.table(table), rt.table(table)
    assert first.wait(scaled(10))._feed.snapshot() is second.wait(scaled(10))._feed.snapshot()
    assert rt.metrics["tables"] == 1
    first.close()
    assert first.status == "closed"
    stack.sql(f"insert into {table} values (2, 'b', 2)")
    until(lambda: len(second.df) == 2)
    second.close()
    until(lambda: rt.metrics["tables"] == 0 and rt.metrics["channels"] == 0)


def test_a_handle_nobody_holds_lets_go_as_when_a_cell_is_run_again(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    for _ in range(3):
        frame = rt.table(table)
        frame.wait(scaled(10))
    assert rt.metrics["tables"] == 1
    del frame
    until(lambda: rt.metrics["tables"] == 0)


def test_on_change_tells_old_and_new_on_its_own_thread(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    heard: list[tuple[Any, ...]] = []
    threads: set[str] = set()

    def listen(batch: Any) -> None:
        threads.add(threading.current_thread().name)
        for change in batch:
            old, new = change.old, change.new
            heard.append((change.kind, change.key, old and old["name"], new and new["name"]))

    frame = rt.table(table).wait(scaled(10))
    until(lambda: frame.status == "live")
    unsubscribe = frame.on_change(listen)
    wanted = [("insert", 2, None, "b"), ("update", 1, "a", "c"), ("delete", 2, "b", None)]
    for number, statement in enumerate(
        (
            f"insert into {table} values (2, 'b', 2)",
            f"update {table} set name = 'c' where id = 1",
            f"delete from {table} where id = 2",
        ),
        1,
    ):
        stack.sql(statement)
        until(lambda upto=number: heard == wanted[:upto], what=lambda: heard)
    assert threads == {"notebook_rt-cb"}
    assert list(frame.log["kind"]) == ["insert", "update", "delete"]
    unsubscribe()
    stack.sql(f"insert into {table} values (4, 'd', 4)")
    until(lambda: 4 in frame.df.index)
    assert heard == wanted


def test_a_callback_that_raises_or_sleeps_hurts_nobody(
    stack: LocalStack,
    rt: nrt.Session,
    make_table: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = make_table()
    frame = rt.table(table).wait(scaled(10))
    until(lambda: frame.status == "live")
    heard: list[int] = []

    def raises(batch: Any) -> None:
        raise RuntimeError("the user's mistake")

    frame.on_change(raises)
    released = threading.Event()
    frame.on_change(lambda batch: released.wait(scaled(10)))
    frame.on_change(lambda batch: heard.extend(change.key for change in batch))
    for number in range(20):
        stack.sql(f"insert into {table} values ({number}, 'x', 0)")
    until(lambda: heard == list(range(20)), seconds=3, what=lambda: heard)
    released.set()
    assert sum("raised" in record.message for record in caplog.records) == 1


def test_changes_iterates_and_ends_when_the_frame_closes(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    frame = rt.table(table).wait(scaled(10))
    until(lambda: frame.status == "live")
    batches = frame.changes(timeout=scaled(5))
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    assert [change.key for change in next(batches)] == [1]
    frame.close()
    assert list(batches) == []


def test_changes_end_after_their_time_whatever_changes(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    frame = rt.table(table).wait(scaled(10))
    until(lambda: frame.status == "live")
    began = time.monotonic()
    assert list(frame.changes(for_=0.2)) == []
    assert time.monotonic() - began >= 0.2

    stack.sql(f"insert into {table} values (0, 'a', 1)")
    seen = 0
    for batch in frame.changes(for_=scaled(1)):  # each makes the next
        seen += len(batch)
        stack.sql(f"insert into {table} values ({seen}, 'a', 1)")
    assert seen > 1
    assert time.monotonic() - began < scaled(10)


async def test_in_a_running_loop_with_and_without_await(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = await rt.table(table).ready()
        assert len(frame.df) == 1
        assert len(rt.table(table, filter="id=gt.0").df) == 1  # blocks, and works all the same
        await asyncio.to_thread(until, lambda: frame.status == "live")
        stack.sql(f"insert into {table} values (2, 'b', 2)")
        async for batch in frame.changes(timeout=scaled(5)):
            assert [change.key for change in batch] == [2]
            break


def test_who_iterates_keeps_the_frame_though_no_variable_does(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    batches = rt.table(table).changes(timeout=scaled(10))
    until(lambda: batches._feed.status == "live", what=lambda: batches._feed.reason)
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    assert [change.key for change in next(batches)] == [1]

    async def first() -> list[Any]:
        iterated = rt.table(table, filter="id=gt.0").changes(timeout=scaled(10))
        await asyncio.to_thread(until, lambda: iterated._feed.status == "live")
        stack.sql(f"insert into {table} values (2, 'b', 2)")
        return [change.key for change in await anext(iterated)]

    assert asyncio.run(first()) == [2]
    batches.close()
    until(lambda: not rt._project.tables, what=lambda: rt._project.tables)  # who stops lets go


@pytest.mark.parametrize(
    "filter",
    ["price=gt.5", {"price": {"gt": 5, "neq": 50}}, [{"price": {"gt": 8}}, {"price": [6, 7, 8]}]],
)
def test_a_filtered_table_is_the_filtered_table(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str], filter: Any
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'a', g from generate_series(1, 10) g")
    frame = rt.table(table, filter=filter).wait(scaled(10))
    assert list(frame.df.index) == [6, 7, 8, 9, 10]
    until(lambda: frame.status == "live")
    stack.sql(f"update {table} set price = 0 where id = 6")
    stack.sql(f"update {table} set price = 100 where id = 1")
    stack.sql(f"delete from {table} where id = 7")
    until(lambda: sorted(frame.df.index) == [1, 8, 9, 10], what=lambda: frame.df)
    assert frame.verify(scaled(30)).differed == 0


def test_a_table_filtered_by_a_regular_expression_asks_the_server_about_each_change(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, 'a' || g, g from generate_series(1, 5) g")
    frame = rt.table(table, filter=r"name=match.^a\d$").wait(scaled(10))
    until(lambda: frame.status == "live")
    stack.sql(f"update {table} set name = 'b' where id = 1")
    stack.sql(f"update {table} set price = 100 where id = 2")
    stack.sql(f"insert into {table} values (6, 'a6', 6), (7, 'b7', 7)")
    stack.sql(f"delete from {table} where id = 3")
    until(lambda: sorted(frame.df.index) == [2, 4, 5, 6], what=lambda: frame.df)
    until(lambda: frame.df.price[2] == 100)


# What goes wrong --------------------------------------------------------------------------------


def fails(make: Callable[[], Any], expected: type[BaseException], seconds: float = 10.0) -> str:
    """``make`` and reading raise this error in time; gives its words."""
    began = time.monotonic()
    with pytest.raises(expected) as caught:
        assert make().df is not None
    assert time.monotonic() - began < scaled(seconds)
    return str(caught.value)


def test_an_order_that_only_the_server_knows_is_there_at_the_first_read(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    stack.sql(f"insert into {table} select g, md5(g::text), g from generate_series(1, 2500) g")
    df = rt.table(table, order="name.desc").df
    wanted = stack.sql(f"select id from {table} order by name desc, id")
    assert df.index.tolist() == [key for (key,) in wanted]


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [("char(3)", "EUR", "ETB"), ("bit(4)", "1010", "1011"), ("float8", "Infinity", "-Infinity")],
)
def test_a_key_that_realtime_does_not_send_whole_is_followed_without_an_audit(
    stack: LocalStack, make_table: Callable[..., str], key: str, first: str, second: str
) -> None:
    table = make_table(f"id {key} primary key, n int")
    with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=0)) as rt:
        stack.sql(f"insert into {table} values (%s, 1)", first)
        frame = rt.table(table).wait(scaled(10))
        until(lambda: frame.status == "live")

        def same() -> bool:
            shown = frame.df["n"]
            return sorted(zip(shown.index.astype(str), shown, strict=True)) == wanted()

        def wanted() -> list[tuple[Any, ...]]:
            rows = stack.sql(f"select id, n from {table}")
            return sorted((str(key), n) for key, n in rows)

        stack.sql(f"insert into {table} values (%s, 2)", second)
        until(same, what=lambda: f"{frame!r} {frame.df}")
        stack.sql(f"update {table} set n = n + 1")
        until(same, what=lambda: f"{frame!r} {frame.df}")
        stack.sql(f"delete from {table} where id = %s", first)
        until(same, what=lambda: f"{frame!r} {frame.df}")


def test_numeric_keys_that_a_float_rounds_are_refused_and_kept_as_decimals(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id numeric primary key, n int")
    keys = [12345678901234567890, 12345678901234567891]
    stack.sql(f"insert into {table} values (%s, 1), (%s, 1)", *keys)
    with pytest.raises(errors.InexactKeyError, match=r'key "id" .*1234.*numeric="decimal"'):
        rt.table(table).wait(scaled(10))
    options = nrt.Options(numeric="decimal")
    with nrt.connect(stack.url, stack.anon_key, options=options) as exact:
        frame = exact.table(table).wait(scaled(10))
        until(lambda: frame.status == "live")
        stack.sql(f"update {table} set n = 2 where id = %s", keys[1])
        until(lambda: frame.df["n"].tolist() == [1, 2], what=lambda: frame.df)
        assert frame.df.index.tolist() == keys


def test_a_numeric_key_that_comes_to_be_rounded_is_refused_too(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id numeric primary key, n int")
    stack.sql(f"insert into {table} values (1, 1)")
    frame = rt.table(table).wait(scaled(10))
    until(lambda: frame.status == "live")
    stack.sql(f"insert into {table} values (12345678901234567890, 1)")
    until(lambda: frame.status == "error", what=lambda: repr(frame))
    assert "Decimal" in frame.reason


def test_a_wrong_key(stack: LocalStack, make_table: Callable[..., str]) -> None:
    table = make_table()
    with nrt.connect(stack.url, "eyJhbGciOiJIUzI1NiJ9.e30.wrong") as rt:
        words = fails(lambda: rt.table(table), errors.AuthError)
    assert "SUPABASE_KEY" in words
    assert "e30.wrong" not in words


def test_an_unreachable_url(make_table: Callable[..., str]) -> None:
    with nrt.connect("http://127.0.0.1:9", "key") as rt:
        words = fails(lambda: rt.table("t"), errors.UnreachableError)
        assert "http://127.0.0.1:9" in words
        assert rt.health.status == "offline"


def test_a_url_that_swallows_everything(make_table: Callable[..., str]) -> None:
    """Something accepts and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        options = nrt.Options(request_timeout=5.0)
        with nrt.connect(f"http://127.0.0.1:{port}", "key", options=options) as rt:
            fails(lambda: rt.table("t"), errors.UnreachableError)


def test_an_unpublished_table(stack: LocalStack, rt: nrt.Session) -> None:
    stack.sql("create table if not exists unpublished (id bigint primary key)")
    stack.sql("grant select on unpublished to anon")
    words = fails(lambda: rt.table("unpublished"), errors.NotPublishedError)
    assert "alter publication supabase_realtime add table public.unpublished" in words


def test_a_table_without_a_key(stack: LocalStack, rt: nrt.Session, make_table: Any) -> None:
    table = make_table("a int, b text")
    words = fails(lambda: rt.table(table), errors.NoPrimaryKeyError)
    assert f'rt.table("{table}", key=...)' in words
    assert "alter table" not in words


PUBLISH = "alter publication supabase_realtime add table {0}"
GRANT = "grant select on {0} to anon"


@pytest.mark.parametrize(
    ("columns", "broken", "mended"),
    [
        ("id int primary key", "alter publication supabase_realtime drop table {0}", PUBLISH),
        ("id int primary key", "revoke all on {0} from anon", GRANT),
        ("id int", None, "alter table {0} add primary key (id)"),
        (
            "id int primary key",
            "drop table {0}",
            f"create table {{0}} (id int primary key); {PUBLISH}; {GRANT}",
        ),
    ],
    ids=["not published", "not granted", "no key", "missing"],
)
def test_what_was_refused_is_there_once_it_is_fixed_and_asked_for_again(
    stack: LocalStack,
    rt: nrt.Session,
    make_table: Any,
    columns: str,
    broken: str | None,
    mended: str,
) -> None:
    table = make_table(columns)
    if broken is not None:
        stack.sql(broken.format(table))
    first = rt.table(table)
    with pytest.raises(errors.NotebookRTError):
        first.wait(scaled(10))
    stack.sql(mended.format(table))
    again = rt.table(table).wait(scaled(10))
    stack.sql(f"insert into {table} values (7)")
    until(lambda: list(again.df.index) == [7], what=lambda: again)
    assert first._feed.snapshot() is again._feed.snapshot()
    assert first.status in ("live", "stale")


def test_a_missing_table(rt: nrt.Session) -> None:
    assert "no_such_table" in fails(lambda: rt.table("no_such_table"), errors.MissingTableError)


def test_no_select_grant(stack: LocalStack, rt: nrt.Session, make_table: Any) -> None:
    table = make_table()
    stack.sql(f"revoke all on {table} from anon")
    words = fails(lambda: rt.table(table), errors.PermissionDeniedError)
    assert f"grant select on public.{table} to anon" in words
    assert "policy" not in words


def test_a_filter_that_cannot_be(rt: nrt.Session, make_table: Callable[..., str]) -> None:
    table = make_table()
    with pytest.raises(errors.FilterError):
        rt.table(table, filter="price")
    fails(lambda: rt.table(table, filter="price=eq.abc"), errors.FilterError)
    fails(lambda: rt.table(table, columns=["nope"]), errors.MissingColumnError)


def test_closed_means_closed(stack: LocalStack, make_table: Callable[..., str]) -> None:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1)")
    rt = nrt.connect(stack.url, stack.anon_key)
    frame = rt.table(table).wait(scaled(10))
    rt.close()
    rt.close()
    assert frame.status == "closed"
    assert len(frame.df) == 1
    with pytest.raises(errors.ClosedError):
        rt.table(table)


def test_waiting_has_a_limit_and_says_where_it_stands() -> None:
    with (
        nrt.connect("http://127.0.0.1:9", "key") as rt,
        pytest.raises(errors.WaitTimeoutError, match=r'"t" is not whole after 0\.2 s'),
    ):
        rt.table("t").wait(0.2)


def test_no_url_and_no_key_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUPABASE_KEY", raising=False)
    with pytest.raises(errors.AuthError, match="SUPABASE_KEY is not set"):
        nrt.connect("http://127.0.0.1:9")
    with pytest.raises(errors.UnreachableError):
        nrt.connect("ftp://example.com", "key")


def test_a_slip_is_answered_in_words(
    stack: LocalStack, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(10))
        assert repr(rt).endswith(" 1 table>")
        slips: tuple[Callable[[Any], object], ...] = (
            frame.wait,
            frame.verify,
            frame.changes,
            partial(frame.until, {"id": 1}),
            rt.queue.flush,
            rt.channel("room").wait,
        )
        for wait in slips:
            with pytest.raises(TypeError, match="timeout must be a number of seconds, not '5'"):
                wait("5")
        with pytest.raises(TypeError, match=r"until\(condition\) waits for a row"):
            frame.wait(lambda df: len(df) > 3)  # type: ignore[arg-type]  # the slip
        assert frame.wait(np.float64(5)) is frame
        monkeypatch.setitem(sys.modules, "polars", None)
        with pytest.raises(ImportError, match="pip install polars"):
            frame.to_polars()
    assert "lambda" not in pydoc.render_doc(nrt.Queue)


def test_arrow_polars_and_duckdb_read_a_live_frame_in_its_order_with_edits_laid_over(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, price float8, tags jsonb")
    stack.sql(
        f"""insert into {table} values (1, 1.5, '[1, "a"]'), (2, 2.5, '"text"'), (3, null, null)"""
    )
    frame = rt.table(table)
    top = rt.table(table, order="price.desc.nullslast", limit=2)
    assert frame.to_arrow().to_pylist()[0] == {"id": 1, "price": 1.5, "tags": '[1, "a"]'}
    assert top.to_polars()["id"].to_list() == [2, 1]
    assert duckdb.sql("select sum(price), count(*) from frame").fetchall() == [(4.0, 3)]
    frame.edit(3, price=9.0)
    assert frame.to_polars()["price"].to_list() == [1.5, 2.5, 9.0]
    nobody = rt.table("no_such_table")
    with pytest.raises(errors.MissingTableError):
        nobody.to_arrow()


def test_the_leader_that_falls_a_little_stays_where_the_key_is_text(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    """No other row takes its place meanwhile, and it is told as one update."""
    table = make_table("id text primary key, price numeric")
    stack.sql(f"insert into {table} select 'K' || i, 100 - i from generate_series(1, 20) i")
    top = rt.table(table, order="price.desc", limit=3).wait(scaled(10))
    whole = rt.table(table, order="price.desc").wait(scaled(10))
    until(lambda: (top.status, whole.status) == ("live", "live"), 20)
    told: list[tuple[str, object]] = []
    top.on_change(lambda batch: told.extend((one.kind, one.key) for one in batch))
    stack.sql(f"update {table} set price = 98.9 where id = 'K1'")
    until(lambda: top.df["price"].tolist() == [98.9, 98.0, 97.0])
    until(lambda: whole.df["price"].tolist()[:3] == [98.9, 98.0, 97.0])
    until(lambda: told == [("update", "K1")], what=lambda: told)
    stack.sql(f"update {table} set price = 97 where id in ('K1', 'K10')")
    until(lambda: list(top.df.index) == ["K2", "K1", "K10"], what=lambda: top.df)
    until(lambda: list(whole.df.index[:4]) == ["K2", "K1", "K10", "K3"], what=lambda: whole.df)


def test_debounced_changes_are_reported_once_and_df_never_waits(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table()
    told: list[nrt.ChangeBatch] = []
    frame = rt.table(table, debounce=1.0)
    frame.wait(scaled(10))
    frame.on_change(told.append)
    for number in range(20):
        stack.sql(
            f"insert into {table} values (1, 'one', %s) on conflict (id) do update "
            "set price = excluded.price",
            number,
        )
    until(lambda: len(frame.df) == 1 and frame.df.loc[1, "price"] == 19)
    until(lambda: told and told[-1][0].new["price"] == 19)
    assert [change.kind for change in told[0]] == ["insert"]
    assert len(told) <= 2
    with pytest.raises(ValueError, match="debounce"):
        rt.table(table, debounce=-1)


def test_the_length_of_a_frame_makes_no_dataframe(
    stack: LocalStack, make_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_table("id int primary key, n int")
    stack.sql(f"insert into {name} select i, -i from generate_series(1, 3) i")

    def made(*args: object) -> None:
        raise AssertionError("a DataFrame was made")

    with nrt.connect(stack.url, stack.anon_key) as rt:
        whole, top = rt.table(name).wait(), rt.table(name, order="n", limit=2).wait()
        monkeypatch.setattr(Table, "snapshot", made)
        monkeypatch.setattr(Ordered, "snapshot", made)
        assert (len(whole), len(top)) == (3, 2)


def test_an_empty_table_has_the_columns_that_were_asked_for(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """And not those besides that its order needs."""
    name = make_table("id int primary key, n int, at timestamptz default now()")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(name, columns="n", order="at").wait()
        assert list(frame.df.columns) == ["n"]
        stack.sql(f"insert into {name} values (1, 2)")
        until(lambda: len(frame) == 1, 20, what=lambda: frame)
        assert list(frame.df.columns) == ["n"]
