"""A live table whose changes the database broadcasts, on real parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.faults.rules import Delay, Double, Drop, Rule
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


# What is lost ---------------------------------------------------------------------------------------


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
            until(lambda: rows(frame) == truth, 3, lambda: repr(frame))

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
