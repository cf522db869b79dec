"""A view, a function and a scalar as live DataFrames, on the real stack."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.quoting import identifier
from tests.waiting import scaled, until

_numbers = itertools.count(time.monotonic_ns())
HOSTILE = """Robert'); drop table "students";-- <b>&/?#%,.()"""


@pytest.fixture
def trades(stack: LocalStack) -> Iterator[str]:
    """A published table of trades, and one of symbols; dropped with all that is made of them."""
    name = f"trades_{next(_numbers)}"
    stack.sql(f"create table {name}_symbols (symbol text primary key, sector text)")
    stack.sql(f"insert into {name}_symbols values ('A', 'tech'), ('B', 'bank')")
    stack.sql(
        f"create table {name} (id bigint primary key, symbol text references {name}_symbols, "
        "price numeric, at timestamptz not null default now())"
    )
    stack.sql(f"alter publication supabase_realtime add table {name}, {name}_symbols")
    stack.sql(f"grant select, insert, update, delete on {name}, {name}_symbols to anon")
    stack.sql(f"insert into {name} values (1, 'A', 1.5), (2, 'A', 2.5), (3, 'B', 10)")
    yield name
    stack.sql(f"drop table {name}, {name}_symbols cascade")


@pytest.fixture
def totals(stack: LocalStack, trades: str) -> str:
    """A view that joins and sums: by sector."""
    stack.sql(
        f"create view {trades}_totals as select s.sector, count(*) as trades, "
        f"sum(t.price) as total, max(t.at) as latest from {trades} t "
        f"join {trades}_symbols s using (symbol) group by s.sector order by 3 desc"
    )
    stack.sql(f"grant select on {trades}_totals to anon")
    return f"{trades}_totals"


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    options = nrt.Options(poll_interval=0.3)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        yield session


def test_a_view_with_a_join_follows_both_of_its_tables(
    stack: LocalStack, rt: nrt.Session, trades: str, totals: str
) -> None:
    query = rt.query(totals, depends_on=[trades, f"public.{trades}_symbols"], key="sector")
    df = query.wait(scaled(10)).df
    assert df.index.name == "sector"
    assert df["total"].to_dict() == {"bank": 10.0, "tech": 4.0}
    assert list(df.index) == ["bank", "tech"]  # the view's own order
    assert df.dtypes.astype(str).to_dict() == {
        "trades": "int64",
        "total": "float64",
        "latest": "datetime64[us, UTC]",
    }
    until(lambda: query.status == "live", what=lambda: repr(query))
    assert query._feed.snapshot() is query._feed.snapshot()
    stack.sql(f"insert into {trades} values (4, 'A', 100)")
    until(lambda: query.df["total"].to_dict() == {"tech": 104.0, "bank": 10.0})
    assert list(query.df.index) == ["tech", "bank"]
    assert df["total"].to_dict() == {"bank": 10.0, "tech": 4.0}
    stack.sql(f"update {trades}_symbols set sector = 'old' where symbol = 'B'")
    until(lambda: "old" in query.df.index)
    assert set(query.log["kind"]) == {"update", "insert", "delete"}
    assert query.get("old") is not None
    with pytest.raises(AttributeError, match="only a table can be edited"):
        query.edit("old", trades=0)  # type: ignore[attr-defined]


def test_a_set_returning_function_with_params(
    stack: LocalStack, rt: nrt.Session, trades: str
) -> None:
    stack.sql(
        f"create function {trades}_above(lowest numeric) returns setof {trades} "
        f"language sql stable as 'select * from {trades} where price >= lowest order by price desc'"
    )
    stack.sql(f"grant execute on function {trades}_above to anon")
    query = rt.query(f"{trades}_above", depends_on=trades, params={"lowest": 2}, key="id")
    assert list(query.wait(scaled(10)).df.index) == [3, 2]
    assert str(query.df["at"].dtype) == "datetime64[us, UTC]"  # inferred
    batches: list[nrt.ChangeBatch] = []
    query.on_change(batches.append)
    stack.sql(f"update {trades} set price = 5 where id = 1")
    until(lambda: len(query.df) == 3)
    until(lambda: batches)
    assert [(c.kind, c.key) for c in batches[0]] == [("insert", 1)]
    again = rt.query(f"{trades}_above", depends_on=trades, params={"lowest": 2}, key="id")
    assert again._feed.snapshot() is query._feed.snapshot()
    narrow = rt.query(
        f"{trades}_above",
        depends_on=trades,
        params={"lowest": 2},
        columns=["id", "price"],
        filter="price=lt.10",
        order="price",
        limit=1,
    )
    assert narrow.wait(scaled(10)).df.to_dict("list") == {"id": [2], "price": [2.5]}


def test_a_scalar_function_is_one_row(stack: LocalStack, rt: nrt.Session, trades: str) -> None:
    name = f"{trades}_sum"
    body = f"select sum(price) from {trades}"
    stack.sql(f"create function {name}() returns numeric language sql stable as '{body}'")
    stack.sql(f"grant execute on function {name} to anon")
    query = rt.query(name, depends_on=[trades])
    assert query.wait(scaled(10)).df[name].tolist() == [14]
    assert query.map(lambda df: df[name].iloc[0]).df == 14
    stack.sql(f"delete from {trades}")
    until(lambda: query.df[name].isna().all())
    assert len(query.df) == 1


def test_rows_without_a_key_are_compared_whole_and_counted(
    stack: LocalStack, rt: nrt.Session, trades: str
) -> None:
    stack.sql(f"create view {trades}_plain as select symbol from {trades} order by 1")
    stack.sql(f"grant select on {trades}_plain to anon")
    query = rt.query(f"{trades}_plain", depends_on=[trades])
    df = query.wait(scaled(10)).df
    assert isinstance(df.index, pd.RangeIndex)
    assert df["symbol"].tolist() == ["A", "A", "B"]
    assert query._feed.snapshot() is query._feed.snapshot()
    seen = query.changes(timeout=scaled(10))
    stack.sql(f"delete from {trades} where id = 1")
    batch = next(iter(seen))
    assert [(c.kind, c.old, c.new) for c in batch] == [("delete", {"symbol": "A"}, None)]
    assert query.df["symbol"].tolist() == ["A", "B"]
    assert query.get(1) == {"symbol": "B"}


def test_a_thousand_quick_changes_cost_few_requests_and_the_last_is_shown(
    stack: LocalStack, rt: nrt.Session, trades: str, totals: str
) -> None:
    query = rt.query(totals, depends_on=[trades], key="sector").wait(scaled(10))
    until(lambda: query.status == "live")
    before, began = rt.metrics["requests"], time.monotonic()
    for number in range(1_000):
        stack.sql(f"update {trades} set price = {number} where id = 3")
    until(lambda: query.df.loc["bank", "total"] == 999.0)
    took = time.monotonic() - began
    assert rt.metrics["requests"] - before <= took / rt.options.debounce + 2
    assert query.version < 5 * took + 4


def test_more_rows_than_a_page_are_all_there_with_and_without_a_key(
    stack: LocalStack, rt: nrt.Session, trades: str
) -> None:
    stack.sql(f"create view {trades}_all as select id, symbol, price from {trades}")
    stack.sql(f"grant select on {trades}_all to anon")
    stack.sql(f"insert into {trades} select g, 'A', g % 7 from generate_series(10, 3509) g")
    keyed = rt.query(f"{trades}_all", depends_on=[trades], key="id")
    plain = rt.query(f"{trades}_all", depends_on=[trades], columns=["symbol", "price"])
    assert list(keyed.wait(scaled(10)).df.index) == [1, 2, 3, *range(10, 3510)]
    assert len(plain.wait(scaled(10)).df) == 3503
    stack.sql(f"delete from {trades} where id % 2 = 0")
    until(lambda: len(keyed.df) == 1752 and len(plain.df) == 1752)
    assert plain.df["price"].sum() == keyed.df["price"].sum()
    assert len(plain.log) == 1_000  # bounded


def test_names_of_others_are_names_and_nothing_else(stack: LocalStack, rt: nrt.Session) -> None:
    table, view, function = (f"{kind} {HOSTILE}" for kind in "tvf")
    quoted = [identifier(name) for name in (table, view, function)]
    column = identifier(HOSTILE)
    stack.sql(f"create table {quoted[0]} (id bigint primary key, {column} text)")
    try:
        stack.sql(f"alter publication supabase_realtime add table {quoted[0]}")
        stack.sql(f"create view {quoted[1]} as select * from {quoted[0]}")
        stack.sql(
            f"create function {quoted[2]}({column} text) returns setof {quoted[0]} language sql "
            f"stable as $$ select * from {quoted[0]} where {column} = $1 $$"
        )
        stack.sql(f"grant select on {quoted[0]}, {quoted[1]} to anon")
        stack.sql(f"grant execute on function {quoted[2]} to anon")
        listed = rt.query(view, depends_on=[table], key=[HOSTILE], order="id")
        with pytest.raises(errors.MissingQueryError):
            rt.query(f"{view}!", depends_on=[table]).wait(scaled(10))
        found = rt.query(function, depends_on=[table], params={HOSTILE: HOSTILE}, key="id")
        assert len(listed.wait(scaled(10)).df) == len(found.wait(scaled(10)).df) == 0
        stack.sql(f"insert into {quoted[0].replace('%', '%%')} values (1, %s)", HOSTILE)
        until(lambda: len(listed.df) == len(found.df) == 1, what=lambda: (listed, found))
        assert listed.df.index[0] == found.df[HOSTILE].iloc[0] == HOSTILE
        assert listed.df.columns.tolist() == ["id"]
    finally:
        stack.sql(f"drop table {quoted[0]} cascade")


def test_what_cannot_be_had_is_said_by_name(
    stack: LocalStack, rt: nrt.Session, trades: str, totals: str
) -> None:
    stack.sql(f"create table {trades}_secret (id int primary key)")
    stack.sql(f"grant select on {trades}_secret to anon")
    with pytest.raises(errors.NotPublishedError, match=f"add table public.{trades}_secret"):
        rt.query(totals, depends_on=[trades, f"{trades}_secret"]).wait(scaled(10))
    stack.sql(f"alter publication supabase_realtime add table {trades}_secret")
    assert len(rt.query(totals, depends_on=[trades, f"{trades}_secret"]).wait(scaled(10)).df)
    stack.sql(f"drop table {trades}_secret")
    with pytest.raises(errors.MissingTableError, match=f'"{trades}_secret" is not in schema'):
        rt.query(f"{trades}_totals", depends_on=[trades, f"{trades}_secret"], key="sector").wait(
            scaled(10)
        )
    with pytest.raises(errors.MissingQueryError, match="nothing_such"):
        rt.query("nothing_such", depends_on=[trades]).wait(scaled(10))
    with pytest.raises(errors.MissingQueryError):
        rt.query("nothing_such", depends_on=[trades], params={"a": 1}).wait(scaled(10))
    stack.sql(f"update {trades} set symbol = 'B' where id = 2")
    stack.sql(f"insert into {trades} values (9, 'A', 1)")
    with pytest.raises(errors.QueryKeyError, match="same trades"):
        rt.query(totals, depends_on=[trades], key="trades").wait(scaled(10))
    with pytest.raises(errors.MissingColumnError, match="colour"):
        rt.query(totals, depends_on=[trades], key="colour").wait(scaled(10))
    with pytest.raises(errors.FilterError):
        rt.query(totals, depends_on=[trades], filter="total=about.4")
    stack.sql(f"revoke select on {trades} from anon")
    stack.sql(f"alter view {totals} set (security_invoker = true)")
    with pytest.raises(
        errors.PermissionDeniedError,
        match=f"permission denied for table {trades}.*run: grant select on public.{trades} to anon",
    ):
        rt.query(totals, depends_on=[trades], key="sector").wait(scaled(10))
    stack.sql(f"alter view {totals} set (security_invoker = false)")
    stack.sql(f"alter publication supabase_realtime drop table {trades}")
    with pytest.raises(errors.PermissionDeniedError, match="leave it out of depends_on"):
        rt.query(totals, depends_on=[trades], key="symbol", limit=9).wait(scaled(10))
    assert rt.query(totals).wait(scaled(10)).status == "polling"


def test_a_function_that_starts_to_fail_keeps_its_rows_and_recovers(
    stack: LocalStack, rt: nrt.Session, trades: str
) -> None:
    name = f"{trades}_strict"
    stack.sql(
        f"create function {name}() returns setof {trades} language plpgsql stable as $$ begin "
        f"if exists (select from {trades} where price < 0) then raise 'below zero'; end if; "
        f"return query select * from {trades} order by id; end $$"
    )
    stack.sql(f"grant execute on function {name} to anon")
    query = rt.query(name, depends_on=[trades], key="id").wait(scaled(10))
    stack.sql(f"update {trades} set price = -1 where id = 1")
    until(lambda: query.status == "stale" and "below zero" in query.reason, what=lambda: query)
    assert query.df["price"].tolist() == [1.5, 2.5, 10]
    stack.sql(f"update {trades} set price = 7 where id = 1")
    until(lambda: query.status == "live", what=lambda: query)
    assert query.df["price"].tolist() == [7, 2.5, 10]


def test_a_query_that_is_made_later_comes_to_life_by_itself(stack: LocalStack, trades: str) -> None:
    name = f"{trades}_later"
    options = nrt.Options(poll_interval=0.3, backoff_base=0.02)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        query = rt.query(name, depends_on=[trades], key="id")
        with pytest.raises(errors.MissingQueryError):
            query.wait(scaled(10))
        stack.sql(f"create view {name} as select * from {trades}")
        stack.sql(f"grant select on {name} to anon")
        until(lambda: query.status == "live", what=lambda: query)
        stack.sql(f"delete from {trades} where id = 1")
        until(lambda: list(query.df.index) == [2, 3], what=lambda: query.df)


def test_with_no_dependency_it_is_polled(
    stack: LocalStack, rt: nrt.Session, trades: str, totals: str
) -> None:
    query = rt.query(totals, key="sector").wait(scaled(10))
    assert query.status == "polling"
    stack.sql(f"delete from {trades} where id = 3")
    until(lambda: list(query.df.index) == ["tech"])


async def test_it_is_awaited_and_closed(rt: nrt.Session, trades: str, totals: str) -> None:
    query = rt.query(totals, depends_on=[trades], key="sector")
    await asyncio.wait_for(query.ready(), scaled(10))
    query.close()
    assert query.status == "closed"
    assert len(query.df) == 2
    until(lambda: rt.metrics["tables"] == 0)


def test_arrow_has_what_df_shows(rt: nrt.Session, trades: str, totals: str) -> None:
    keyed = rt.query(totals, depends_on=[trades], key="sector")
    plain = rt.query(totals, depends_on=[trades], columns="sector,total")
    assert sorted(keyed.to_arrow()["sector"].to_pylist()) == ["bank", "tech"]
    assert plain.to_arrow().column_names == list(plain.df.columns) == ["sector", "total"]
