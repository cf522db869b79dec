"""Derived live frames on the real stack: pandas' results, at a cost proportional to the changes."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.runtime.derived import GATHER_SECONDS
from notebook_rt.sync.events import Change
from notebook_rt.widgets.adapters import FrameOf
from tests.waiting import scaled, until

same = pd.testing.assert_frame_equal


@pytest.fixture
def session(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


@pytest.fixture
def trades(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> nrt.LiveTable:
    table = make_table("id bigint primary key, symbol text, size int, price numeric")
    stack.sql(
        f"insert into {table} values (1, 'a', 10, 1.5), (2, 'b', 20, 2), (3, 'a', 5, 4), (4, null, 1, 1)"
    )
    return session.table(table).wait(scaled(10))


def volumes(df: pd.DataFrame) -> pd.DataFrame:
    return df.groupby("symbol").agg(volume=("size", "sum"), high=("price", "max"))


def test_derived_frames_follow_the_table(stack: LocalStack, trades: nrt.LiveTable) -> None:
    large = trades.where("size=gte.10")
    by_symbol = trades.groupby("symbol").agg(volume=("size", "sum"), high=("price", "max"))
    of_large = large.groupby("symbol").agg(n=("id", "count"))
    same(large.df, trades.df[trades.df["size"] >= 10])
    same(by_symbol.df, volumes(trades.df))
    assert large._feed.snapshot() is large._feed.snapshot()
    told: list[nrt.ChangeBatch] = []
    by_symbol.on_change(told.append)
    stack.sql(f"update {trades.name} set size = 50 where id = 3")
    until(lambda: trades.df.loc[3, "size"] == 50)
    same(large.df, trades.df[trades.df["size"] >= 10])
    same(by_symbol.df, volumes(trades.df))
    assert of_large.df["n"].to_dict() == {"a": 2, "b": 1}
    until(lambda: told)
    [change] = told[0]
    assert (change.kind, change.key) == ("update", "a")
    assert told[0].cause == trades.log["cause"].tolist()[-1]
    assert change.old == {"symbol": "a", "volume": 15, "high": 4.0}
    assert change.new == {"symbol": "a", "volume": 60, "high": 4.0}
    assert by_symbol.log["key"].tolist()[-1] == "a"
    assert (large.status, by_symbol.synced_at) == ("live", trades.synced_at)
    assert by_symbol.to_arrow().to_pydict()["volume"] == [60, 20]
    assert by_symbol.get("b") == {"symbol": "b", "volume": 20, "high": 2.0}
    assert by_symbol.verify(scaled(20)).differed == 0
    assert not hasattr(by_symbol, "edit")


def test_what_is_computed_and_fails_is_said_by_health_until_it_works_or_is_closed(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable
) -> None:
    """A green dot over a chart that stands still is not true."""
    broken = threading.Event()

    def size(df: pd.DataFrame) -> int:
        if broken.is_set():
            raise ValueError("no such unit")
        return int(df["size"].sum())

    def twice(df: pd.DataFrame) -> Any:
        if broken.is_set():
            raise ValueError("too large")
        return df["size"] * 2

    def change() -> None:
        stack.sql(f"update {trades.name} set size = size + 1 where id = 1")

    def said() -> str:
        return str(session.health)

    until(lambda: session.health.status == "healthy", what=lambda: session.health)
    derived = trades.select(twice=twice)
    derived.df  # noqa: B018  # from now on it is kept up
    mapped = trades.map(size)
    unsubscribe = mapped.on_change(lambda value: None, at_once=True)
    until(lambda: mapped.latest is not None)
    never = trades.map(lambda df: df["nowhere"])
    with pytest.raises(KeyError):
        never.df  # noqa: B018  # whoever reads it is told
    assert session.health.status == "healthy"
    broken.set()
    change()
    until(lambda: "too large" in said() or "no such unit" in said(), what=said)
    until(lambda: f"size of {trades.name}" in said(), what=said)
    until(lambda: "select(twice=...)" in said(), what=said)
    assert (session.health.status, session.health.cause) == ("stale", "computed")
    unsubscribe()
    until(lambda: "size of" not in said(), what=said)
    assert "too large" in said()
    broken.clear()
    change()
    until(lambda: session.health.status == "healthy", what=said)
    broken.set()
    change()
    until(lambda: session.health.status == "stale", what=said)
    derived.close()
    until(lambda: session.health.status == "healthy", what=said)


def test_a_join_moves_when_either_side_does(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable, make_table: Callable[..., str]
) -> None:
    table = make_table("symbol text primary key, sector text, rank int")
    stack.sql(f"insert into {table} values ('a', 'tech', 1), ('z', 'oil', 2)")
    symbols = session.table(table).wait(scaled(10))
    rich = trades.join(symbols, on="symbol")
    by_sector = rich.groupby("sector").agg(volume=("size", "sum"))
    same(rich.df, trades.df.join(symbols.df, on="symbol"))
    stack.sql(f"insert into {table} values ('b', 'oil', 3)")
    until(lambda: len(symbols.df) == 3)
    same(rich.df, trades.df.join(symbols.df, on="symbol"))
    assert by_sector.df["volume"].to_dict() == {"oil": 20, "tech": 15}
    stack.sql(f"update {trades.name} set symbol = 'b' where id = 1")
    until(lambda: trades.df.loc[1, "symbol"] == "b")
    same(rich.df, trades.df.join(symbols.df, on="symbol"))
    with pytest.raises(errors.DerivationError, match="say by on="):
        _ = trades.join(symbols).df


def test_a_merge_has_pandas_own_pairs(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable, make_table: Callable[..., str]
) -> None:
    table = make_table("no int primary key, symbol text, side text, size int")
    stack.sql(
        f"insert into {table} values (1, 'a', 'buy', 3), (2, 'a', 'sell', 4), (3, null, 'buy', 5)"
    )
    orders = session.table(table).wait(scaled(10))
    pairs = trades.merge(orders, on="symbol", how="left")
    every = trades.merge(orders, on="symbol", how="outer", suffixes=("", "_ordered"))
    by_side = pairs.groupby("side").agg(volume=("size_x", "sum"))
    told: list[nrt.ChangeBatch] = []
    pairs.on_change(told.append)

    def check() -> None:
        same(pairs.df, trades.df.merge(orders.df, on="symbol", how="left"))
        outer = trades.df.merge(orders.df, on="symbol", how="outer", suffixes=("", "_ordered"))
        same(every.df, outer)
        same(by_side.df, pairs.df.groupby("side").agg(volume=("size_x", "sum")))

    check()
    found = pairs.get((1, 2))
    assert found is not None
    assert (found["side"], found["size_x"], found["size_y"]) == ("sell", 10, 4)
    stack.sql(f"delete from {table} where no = 1; insert into {table} values (4, 'b', 'buy', 6)")
    until(lambda: sorted(orders.df.index) == [2, 3, 4])
    check()
    until(lambda: sum(map(len, told)) == 4)
    assert sorted((c.kind, c.key) for batch in told for c in batch) == [
        ("delete", (1, 1)),
        ("delete", (2, None)),
        ("delete", (3, 1)),
        ("insert", (2, 4)),
    ]
    with pytest.raises(errors.DerivationError, match="counts its rows"):
        _ = pairs.where("side=eq.buy").df
    sides = orders.groupby("side").agg(n=("no", "count"))
    with pytest.raises(errors.DerivationError, match="counts its rows"):
        _ = pairs.join(sides, on="side", how="inner").df
    with pytest.raises(errors.DerivationError, match="say by what"):
        trades.merge(orders)
    with pytest.raises(errors.DerivationError, match="both frames have"):
        _ = trades.merge(orders, on="symbol", suffixes=("", "")).df


def test_windows_roll_with_the_rows(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, symbol text, size int, at timestamptz")
    stack.sql(
        f"insert into {table} values (1, 'b', 10, '2024-01-01 10:00Z'), (2, 'a', 5, "
        "'2024-01-01 10:01Z'), (3, 'b', 7, '2024-01-01 10:03Z')"
    )
    trades = session.table(table).wait(scaled(10))
    recent = trades.rolling("5min", on="at", by="symbol").agg(v=("size", "sum"), n=("id", "count"))

    def wanted() -> pd.DataFrame:
        df = trades.df.reset_index()
        return (
            df.groupby("symbol").rolling("5min", on="at").agg(v=("size", "sum"), n=("id", "count"))
        )

    same(recent.df, wanted())
    stack.sql(f"insert into {table} values (4, 'b', 1, '2024-01-01 10:06Z')")
    stack.sql(f"update {table} set size = 100 where id = 3")
    until(lambda: len(trades.df) == 4 and trades.df.loc[3, "size"] == 100)
    same(recent.df, wanted())
    assert recent.df["v"].tolist() == [5, 10, 110, 101]
    stack.sql(f"update {table} set at = '2024-01-01 09:00Z' where id = 4")
    until(lambda: trades.df.loc[4, "at"].hour == 9)
    with pytest.raises(errors.DerivationError, match="not in the order"):
        _ = recent.df
    assert recent.status == "error"
    assert "not in the order" in recent.reason
    stack.sql(f"update {table} set at = 'infinity' where id = 4")
    until(lambda: "infinity" in trades.df["at"].astype(str).tolist())
    with pytest.raises(errors.DerivationError, match="a value that is not of its type"):
        _ = recent.df
    stack.sql(f"update {table} set at = '2024-01-01 10:07Z' where id = 4")
    until(lambda: "infinity" not in trades.df["at"].astype(str).tolist())
    same(recent.df, wanted())
    assert (recent.status, recent.reason) == ("live", "")
    with pytest.raises(errors.DerivationError, match="not a time"):
        trades.rolling("soon", on="at", by="symbol").agg(v=("size", "sum"))


def test_an_edit_that_waits_shows_through(trades: nrt.LiveTable) -> None:
    by_symbol = trades.groupby("symbol").agg(volume=("size", "sum"), high=("price", "max"))
    assert by_symbol.df.loc["b", "volume"] == 20
    version = by_symbol.version
    trades.edit(2, size=7)
    assert by_symbol.df.loc["b", "volume"] == 7
    assert by_symbol.version > version
    same(by_symbol.df, volumes(trades.df))


def test_what_is_derived_of_what_is_not_there_yet_waits_for_it(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, n int")
    empty = session.table(table)
    rows = empty.where({"n": 1})
    assert rows.status in ("loading", "live")
    assert len(rows.wait(scaled(10)).df) == 0
    told: list[nrt.ChangeBatch] = []
    rows.on_change(told.append)
    stack.sql(f"insert into {table} values (1, 1), (2, 2)")
    until(lambda: told, 10)
    assert rows.df.index.tolist() == [1]


def test_what_cannot_be_derived_is_refused_by_name(trades: nrt.LiveTable) -> None:
    with pytest.raises(errors.DerivationError, match='no column "colour"'):
        _ = trades.where("colour=eq.red").df
    with pytest.raises(errors.DerivationError, match="use map"):
        _ = trades.where("symbol=gt.a").df
    with pytest.raises(errors.DerivationError, match="use map"):
        _ = trades.groupby("symbol").agg(middle=("symbol", "median")).df
    with pytest.raises(errors.DerivationError, match="all different"):
        trades.groupby("symbol").agg(symbol=("size", "sum"))


def test_the_column_and_the_function_may_be_named_as_in_pandas(trades: nrt.LiveTable) -> None:
    named = {"volume": pd.NamedAgg("size", "sum"), "n": pd.NamedAgg(column="id", aggfunc="count")}
    same(
        trades.groupby("symbol").agg(**named).df,
        trades.df.reset_index().groupby("symbol").agg(**named),
    )


def test_groups_that_are_not_kept_up_are_refused_by_the_words_of_pandas(
    trades: nrt.LiveTable,
) -> None:
    with pytest.raises(errors.DerivationError, match=r"groupby\(sort=False\): .*; use map"):
        trades.groupby("symbol", sort=False)
    with pytest.raises(errors.DerivationError, match=r"groupby\(dropna=False\): .*; use map"):
        trades.groupby("symbol", dropna=False)


def test_select_sort_top_distinct_and_concat_are_pandas_expressions(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    pairs: list[tuple[nrt.LiveFrame, Callable[[], pd.DataFrame]]] = [
        (
            trades.select("symbol", value="price * size", big=lambda df: df["size"] > 9),
            lambda: trades.df.assign(
                value=lambda df: df["price"] * df["size"], big=lambda df: df["size"] > 9
            )[["symbol", "value", "big"]],
        ),
        (trades.select(price="-price"), lambda: trades.df.assign(price=lambda df: -df["price"])),
        (
            trades.sort("symbol", ascending=False, na_position="first"),
            lambda: trades.df.sort_values(
                "symbol", ascending=False, na_position="first", kind="stable"
            ),
        ),
        (trades.top(2, by="size"), lambda: trades.df.nlargest(2, "size")),
        (
            trades.top(2, by="price", ascending=True),
            lambda: trades.df.sort_values("price", kind="stable").head(2),
        ),
        (trades.distinct("symbol"), lambda: trades.df.drop_duplicates("symbol")),
        (
            nrt.concat({"all": trades, "large": trades.where("size=gte.10")}, name="which"),
            lambda: pd.concat(
                [trades.df, trades.df[trades.df["size"] >= 10]],
                keys=["all", "large"],
                names=["which"],
            ),
        ),
        (
            nrt.concat([trades.select("symbol"), trades], keys=[1, 2]),
            lambda: pd.concat([trades.df[["symbol"]], trades.df], keys=[1, 2], names=["source"]),
        ),
        (
            trades.select(value="price * size").top(1, by="value").select("value"),
            lambda: trades.df.assign(value=trades.df["price"] * trades.df["size"]).nlargest(
                1, "value"
            )[["value"]],
        ),
    ]
    for frame, wanted in pairs:
        same(frame.df, wanted())
    stack.sql(f"update {trades.name} set size = 50, symbol = 'b' where id = 3")
    stack.sql(f"insert into {trades.name} values (9, 'c', 90, 0.1)")
    stack.sql(f"delete from {trades.name} where id = 1")
    until(lambda: trades.df.index.tolist() == [2, 3, 4, 9])
    for frame, wanted in pairs:
        same(frame.df, wanted())
        assert frame.verify(scaled(20)).differed == 0


def test_what_is_not_computed_row_by_row_is_refused(trades: nrt.LiveTable) -> None:
    for column, error in (
        (lambda df: df["size"].cumsum(), "not computed row by row; use map"),
        (lambda df: df["price"] - df["price"].mean(), "not computed row by row; use map"),
        (lambda df: df["symbol"].shift(1), "not computed row by row; use map"),
        (lambda df: df["colour"], "KeyError: 'colour'"),
        (lambda df: pd.Categorical(df["symbol"]), "its result is category"),
        ("colour + 1", 'no column "colour"'),
    ):
        with pytest.raises(errors.DerivationError, match=error):
            _ = trades.select(made=column).df
    for text in ("symbol.to_csv", "open('x')", "@x", "[1]", "'a' * 9", "9 ** 9", "a" * 2000, "1 +"):
        with pytest.raises(errors.DerivationError, match="write a function instead"):
            trades.select(made=text)
    with pytest.raises(errors.DerivationError, match="the key is not computed"):
        _ = trades.select(id="size + 1").df


def test_rows_of_one_key_are_distinguished_by_the_frame_they_are_of(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    small, large = trades.where("size=lt.10"), trades.where("size=gte.10")
    both = nrt.concat([small, large])
    same(both.df, pd.concat([small.df, large.df]))
    with pytest.raises(errors.DerivationError, match="say keys= to tell them apart"):
        _ = nrt.concat([trades, large]).df
    same(
        nrt.concat([trades, large], keys=[1, 2]).df,
        pd.concat([trades.df, large.df], keys=[1, 2], names=["source"]),
    )
    with pytest.raises(errors.DerivationError, match="3 keys"):
        nrt.concat([trades, large], keys=["a", "b", "c"])
    with pytest.raises(TypeError, match="live frames"):
        nrt.concat([trades.df])  # type: ignore[list-item]  # the wrong thing
    stack.sql(f"update {trades.name} set size = 10 where id = 3")
    until(lambda: trades.df.loc[3, "size"] == 10)
    same(both.df, pd.concat([small.df, large.df]))


def test_it_is_released_with_its_last_reader_and_kept_by_a_listener(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    told: list[int] = []
    large = trades.where("size=gte.10")
    ref = weakref.ref(large._feed)
    listeners = len(trades._feed.listeners)
    stop = large.where("price=gte.0").on_change(lambda batch: told.append(len(batch)))
    del large
    gc.collect()
    assert ref() is not None
    stack.sql(f"insert into {trades.name} values (9, 'c', 90, 1)")
    until(lambda: told == [1])
    stop()
    del stop
    until(lambda: gc.collect() >= 0 and ref() is None)
    until(lambda: len(trades._feed.listeners) < listeners)


def test_chains_that_begin_alike_share_an_operator_until_the_last_reader_is_gone(
    trades: nrt.LiveTable,
) -> None:
    def by_symbol() -> nrt.LiveFrame:
        large = trades.where("size=gte.10")
        return large.groupby("symbol").agg(volume=("size", "sum"))

    one, two = by_symbol(), by_symbol()
    same(one.df, two.df)
    assert one._feed is two._feed
    assert one._feed is not trades.groupby("symbol").agg(volume=("size", "sum"))._feed
    assert one.memory_usage > 0
    one.close()
    assert (one.status, two.status) == ("closed", "live")
    trades.edit(2, size=70)
    assert two.df.loc["b", "volume"] == 70
    feed = weakref.ref(two._feed)
    del one, two
    until(lambda: gc.collect() >= 0 and feed() is None)


@pytest.mark.parametrize(
    "make",
    [
        lambda of: of.select("symbol", double="size * 2"),
        lambda of: of.sort(["symbol", "size"], ascending=[True, False]),
        lambda of: of.top(2, by="size"),
        lambda of: of.distinct("symbol"),
        lambda of: nrt.concat([of, of], keys=["a", "b"]),
        lambda of: of.join(of, on=["id"], how="left", suffixes=("_x", "_y")),
    ],
    ids=["select", "sort", "top", "distinct", "concat", "join"],
)
def test_the_same_asked_twice_is_one_operator(
    make: Callable[[nrt.LiveFrame], nrt.LiveFrame], trades: nrt.LiveTable
) -> None:
    one, two = make(trades), make(trades)
    assert one._feed is two._feed
    same(one.df, two.df)


def test_a_function_that_has_no_hash_is_computed_for_each_who_asks(trades: nrt.LiveTable) -> None:
    class Doubled:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, df: pd.DataFrame) -> pd.Series:
            return df["size"] * 2

    one = trades.select(double=Doubled())
    same(one.df, trades.df.assign(double=trades.df["size"] * 2))


def test_a_frame_that_is_closed_takes_what_is_derived_of_it_along(trades: nrt.LiveTable) -> None:
    large = trades.where("size=gte.10")
    last = large.df
    trades.close()
    assert large.status == "closed"
    same(large.df, last)
    with pytest.raises(errors.ClosedError):
        large.on_change(print)


@pytest.mark.slow
def test_a_dashboard_follows_500_changes_a_second(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    """The frames of notebook 05: three tables, a join, a group-by, its top ten and what a chart shows."""
    names = [
        make_table("symbol text primary key, sector text, price float8"),
        make_table("id bigint primary key, symbol text, size int, price float8"),
        make_table("id bigint primary key, symbol text, status text"),
    ]
    stack.sql(
        f"insert into {names[0]} select 's' || n, 'sector ' || n % 4, n from generate_series(0, 19) n;"
        f"insert into {names[1]} select n, 's' || n % 20, n % 7, n from generate_series(1, 1000) n;"
        f"insert into {names[2]} select n, 's' || n % 20, 'open' from generate_series(1, 200) n"
    )
    stocks, trades, orders = (session.table(name).wait(scaled(20)) for name in names)
    waiting = orders.where("status=eq.open").join(stocks, on="symbol")
    traded = trades.groupby("symbol").agg(
        newest=("id", "max"), shares=("size", "sum"), last=("price", "last")
    )
    most, of_one = traded.top(10, by="shares"), trades.where("symbol=eq.s3")
    told: list[nrt.ChangeBatch] = []
    for frame in (waiting, most, of_one):
        frame.on_change(told.append)
    dice, newest, seconds = random.Random(2), 1000, 4
    for second in range(seconds):
        began, before = time.monotonic(), newest
        for tenth in range(10):  # 50 changes: 20 trades, 20 prices, 10 orders
            statements = [
                f"insert into {names[1]} select n, 's' || n * 7 % 20, n % 9, n * 0.5 "
                f"from generate_series({newest + 1}, {newest + 20}) n",
                f"update {names[0]} set price = price + {dice.uniform(-1, 1)}",
                f"update {names[2]} set status = '{dice.choice(['open', 'filled'])}' "
                f"where id % 20 = {dice.randrange(20)}",
            ]
            stack.sql("; ".join(statements))
            newest += 20
            time.sleep(max(0.0, began + (tenth + 1) / 10 - time.monotonic()))
        assert second == 0 or told
        # What was written a second ago is seen, while the next second's changes come.
        until(lambda seen=before: traded.df["newest"].max() >= seen, 5)
    truth = stack.sql(f"select id, symbol, size, price from {names[1]}")
    until(lambda: len(trades.df) == len(truth), 15)
    wanted = trades.df.reset_index().groupby("symbol")
    wanted = wanted.agg(newest=("id", "max"), shares=("size", "sum"), last=("price", "last"))
    same(traded.df, wanted)
    same(most.df, wanted.sort_values("shares", ascending=False, kind="stable").head(10))
    same(of_one.df, trades.df[trades.df["symbol"] == "s3"])
    prices = dict(stack.sql(f"select symbol, price from {names[0]}"))
    open_now = {key for (key,) in stack.sql(f"select id from {names[2]} where status = 'open'")}
    until(lambda: stocks.df["price"].to_dict() == prices and set(waiting.df.index) == open_now, 15)
    same(waiting.df, orders.df[orders.df["status"] == "open"].join(stocks.df, on="symbol"))


def streamed(feed: Any, size: int) -> None:
    """The stream tells that the first row has this size now; on the loop."""
    record = {"id": 1, "symbol": "a", "size": size}
    columns = feed.schema.columns
    feed._buffer.change(Change("UPDATE", record, {"id": 1}, columns, time.time() + 60))


def test_what_streams_in_fast_is_told_together_and_read_at_once(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """A hundred changes, each in a turn of the loop of its own; no audit takes them back."""
    table = make_table("id bigint primary key, symbol text, size int")
    stack.sql(f"insert into {table} values (1, 'a', 0), (2, 'b', 0)")
    options = nrt.Options(audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        trades = session.table(table).wait(scaled(10))
        feed = trades._feed
        volumes = trades.groupby("symbol").agg(volume=("size", "sum"))
        large = volumes.where("volume=gte.0")
        assert large.df["volume"].tolist() == [0, 0]
        until(lambda: volumes._feed.version and large._feed.version)  # the first rows are told
        told: list[nrt.ChangeBatch] = []
        feed.thread.call(volumes._feed.listeners.add, told.append)
        tables: list[nrt.ChangeBatch] = []
        feed.thread.call(feed.listeners.add, tables.append)

        async def stream() -> float:
            began = time.monotonic()
            for size in range(1, 101):
                streamed(feed, size)
                await asyncio.sleep(0.001)
            return time.monotonic() - began

        took = feed.thread.wait(stream())
        assert trades.df["size"].tolist() == [100, 0]
        assert len(tables) == 100
        assert volumes.df["volume"].tolist() == large.df["volume"].tolist() == [100, 0]
        until(lambda: told[-1][-1].new == {"symbol": "a", "volume": 100})
        assert len(told) <= took / GATHER_SECONDS + 3
        now: Any = 0
        for change in (change for batch in told for change in batch):
            assert change.key == "a"
            assert change.old == {"symbol": "a", "volume": now}
            now = change.new["volume"]


def test_a_widget_is_told_to_look_again_by_the_loop_and_knows_its_columns(
    stack: LocalStack, trades: nrt.LiveTable
) -> None:
    """A thread between would be woken to wake another one; the names are looked at once."""
    by_symbol = trades.groupby("symbol").agg(volume=("size", "sum"))
    source, on = FrameOf(by_symbol), []
    stop = source.on_change(lambda: on.append(threading.current_thread()))
    before, fields = source.df, source.fields
    stack.sql(f"update {trades.name} set size = 60 where id = 3")
    until(lambda: on and source.df is not before)
    assert {thread.name for thread in on} == {"notebook_rt"}
    assert source.fields is fields
    assert [column.name for column in fields] == ["symbol", "volume"]
    stop()
    told = len(on)
    stack.sql(f"update {trades.name} set size = 70 where id = 3")
    until(lambda: by_symbol.df.loc["a", "volume"] == 80)
    assert len(on) == told


def test_what_comes_in_one_burst_of_a_stream_is_reported_once(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """Bursts at 20 Hz, of two changes in turns of the loop of their own."""
    table = make_table("id bigint primary key, symbol text, size int")
    stack.sql(f"insert into {table} values (1, 'a', 0)")
    options, bursts = nrt.Options(audit_interval=0), 20
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        trades = session.table(table).wait(scaled(10))
        feed = trades._feed
        volumes = trades.groupby("symbol").agg(volume=("size", "sum"))
        assert volumes.df["volume"].tolist() == [0]
        until(lambda: volumes._feed.version)  # the first rows are told
        told: list[nrt.ChangeBatch] = []
        feed.thread.call(volumes._feed.listeners.add, told.append)

        async def stream() -> None:
            for size in range(1, 2 * bursts + 1):
                streamed(feed, size)
                await asyncio.sleep(0.05 if size % 2 == 0 else 0.002)

        feed.thread.wait(stream())
        until(lambda: told[-1][-1].new == {"symbol": "a", "volume": 2 * bursts})
        assert len(told) <= 1.5 * bursts  # some are torn apart where others have the processor


def test_who_is_told_of_rows_sees_no_column_that_nobody_named(trades: nrt.LiveTable) -> None:
    """What tells pairs and windows apart is not theirs to know."""
    pairs = trades.select("id", "size").merge(trades.select("symbol", "size"), on="size")
    seen: list[dict[str, Any]] = []

    def condition(row: dict[str, Any]) -> bool:
        seen.append(dict(row))
        return True

    found = pairs.until(condition, scaled(10))
    assert set(found) == {"size", "symbol"}
    assert all(set(row) == set(found) for row in seen)


def test_what_a_function_of_the_users_raises_is_an_error_with_its_lines(
    trades: nrt.LiveTable,
) -> None:
    wrong = trades.groupby("symbol").agg(n=("size", lambda sizes: sizes.nope))
    for _ in range(2):
        with pytest.raises(errors.DerivationError, match=r"AttributeError: .*nope") as raised:
            wrong.df  # noqa: B018  # that it raises is what is read
        cause = raised.value.__cause__
        assert isinstance(cause, AttributeError)
        assert cause.__traceback__ is not None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda t: t.select(v="log(size)"), r"^select 'log\(size\)': 'log\(size\)' is not in"),
        (
            lambda t: t.select(v="sizee * 2").df,
            r'no column "sizee" \(did you mean .size.\?\); there are id, ',
        ),
        (lambda t: t.rolling(5, on="price", by="id").agg(v=("size", "sum")), "5 rows is not kept"),
        (lambda t: t.join(t, suffixes="_r"), "suffixes must be two"),
        (
            lambda t: t.groupby("symbol").agg(v=pd.NamedAgg("size", "quantile", 0.9)),
            "v= is a column and its function, .*, not NamedAgg",
        ),
        (lambda t: t.groupby(None), "takes columns by name, not None; use map"),
        (lambda t: t.groupby(len), "takes columns by name, not <built-in"),
        (lambda t: t.select(["size"]), "select takes columns by name"),
        (lambda t: nrt.concat(t), "several live frames"),
        (lambda t: t.join(t.map(len)), r"\.map\(lambda df: df\.join\(other\.df, "),
        (lambda t: t.where({"size": [5, None]}), r"null is in no list; .*\{'size': None\}"),
    ],
)
def test_a_slip_is_told_in_words_that_help(
    trades: nrt.LiveTable, asked: Callable[[Any], object], said: str
) -> None:
    with pytest.raises((errors.NotebookRTError, TypeError), match=said):
        asked(trades)


def test_a_mistake_is_told_at_the_call_where_the_columns_are_known(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable, make_table: Callable[..., str]
) -> None:
    table = make_table("symbol text primary key, price numeric")
    stack.sql(f"insert into {table} values ('a', 1)")
    stocks = session.table(table).wait(scaled(10))
    large = trades.where("size=gte.10")
    small = large.select("size")
    assert (large._feed.table, small._feed.table) == (None, None)  # tried without rows
    for mistake, says in (
        (lambda: trades.groupby("nam").agg(n=("id", "count")), 'no column "nam"'),
        (lambda: trades.groupby("symbol").agg(n=("price", "kurtosis")), "no function 'kurtosis'"),
        (lambda: trades.where("stok=gt.1"), 'no column "stok"'),
        (lambda: large.select("nam"), 'no column "nam"'),
        (lambda: large.top(3, by="nam"), 'no column "nam"'),
        (lambda: trades.select(value="price * nam"), 'no column "nam"'),
        (lambda: large.join(stocks, on="symbol"), "both frames have price"),
    ):
        for _ in range(2):  # also of one whose error is kept
            with pytest.raises(errors.DerivationError, match=says) as caught:
                mistake()
            assert len(caught.traceback) <= 6
    lazy = trades.select(first=lambda df: df["symbol"].str.upper() if len(df) else 1 / 0)
    until(lambda: lazy.status == "live", what=lambda: repr(lazy))


def test_a_mistake_before_the_first_data_is_an_error_once_the_columns_are_known(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = make_table("id bigint primary key, price numeric")
    early = session.table(table, lazy=True)
    wrong = early.where("stok=gt.1")
    assert wrong.status == "loading"
    early.wait(scaled(10))
    until(lambda: wrong.status == "error", 10)
    assert 'no column "stok"; there are id, price' in repr(wrong)
    shown = wrong._repr_mimebundle_()
    assert "error: where 'stok=gt.1': no column \"stok\"" in shown["text/plain"]
    assert "<p>Where &#x27;stok=gt.1&#x27;: no column" in shown["text/html"]
    assert "no column" in shown["text/html"]
    stack.sql(f"alter table {table} add column stok int; insert into {table} values (1, 2, 0)")
    until(lambda: "stok" in early.df.columns, 10)
    assert early.where("stok=gt.1").df.empty
    assert wrong.df.empty
    until(lambda: wrong.status == "live", what=lambda: repr(wrong))


def test_a_literal_that_is_no_value_of_its_column_says_how_to_write_it(
    session: nrt.Session, make_table: Callable[..., str]
) -> None:
    table = session.table(
        make_table("id bigint primary key, price numeric, at timestamptz, day date, u uuid")
    ).wait(scaled(10))
    for filter, says in (
        ("price=gt.abc", r"'abc' is no number, for column 'price'"),
        ("id=in.(1,1.5)", r"'1\.5' is no int8"),
        ("or=(u.eq.5,id.eq.1)", "'5' is no uuid"),
        ("at=gt.2026-01-01", r"write the zone, 2026-01-01T00:00:00Z for UTC"),
        ({"at": {"gt": pd.Timestamp("2026-01-01")}}, "2026-01-01T00:00:00Z for UTC"),
        ("at=lt.2026-01-01T10:00Z", r"write 2026-01-01T10:00:00\+00:00"),
        ("day=lt.tomorrow", "write 2026-01-31, not 'tomorrow'"),
    ):
        with pytest.raises(errors.DerivationError, match=says):
            table.where(filter)
        with pytest.raises(errors.DerivationError, match=says):
            table.when(filter, print)
    assert table.where({"at": {"gt": pd.Timestamp("2026-01-01", tz="UTC")}}).df.empty
    assert table.where("day=gte.2026-01-31,price=gt.1e3").df.empty


def test_what_is_derived_of_a_table_that_was_dropped_raises_what_the_table_does(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveTable, make_table: Callable[..., str]
) -> None:
    name = make_table("symbol text primary key, sector text")
    stack.sql(f"insert into {name} values ('a', 'x')")
    stocks = session.table(name).wait(scaled(10))
    joined = trades.join(stocks, on="symbol")
    counted = joined.groupby("sector").agg(n=("size", "count"))
    assert counted.df["n"].sum() > 0
    stack.sql(f"drop table {name}; notify pgrst, 'reload schema'")
    until(lambda: joined.status == "error", 20, lambda: repr(joined))
    for frame in (stocks, joined, counted):
        with pytest.raises(errors.MissingTableError, match=name):
            frame.df  # noqa: B018  # that it raises is what is read
    stack.sql(f"delete from {trades.name}")
    until(lambda: len(trades.df) == 0)
    assert joined.status == "error"
    assert name in joined.reason
    assert "no row that role" not in joined.reason
