"""A live table whose changes the database broadcasts, on real parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
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
    return dict(zip(df.index, df.astype(object).where(df.notna(), None).values.tolist(), strict=True))


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
    stack.sql(f"insert into {table} values (2, 'new', null); update {table} set name = 'x' where id = 1")
    until(lambda: rows(frame) == {1: ["x", 0.5], 2: ["new", None]}, what=lambda: frame.df)
    stack.sql(f"update {table} set id = 3 where id = 2; delete from {table} where id = 1")
    until(lambda: rows(frame) == {3: ["new", None]}, what=lambda: frame.df)
    stack.sql(f"truncate {table}")
    until(lambda: rows(frame) == {}, what=lambda: frame.df)
