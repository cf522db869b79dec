"""A SQL query over live frames is as live as they are, on the real stack."""

from __future__ import annotations

import datetime
import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.magics import live
from notebook_rt.sqlview import SHARE, tables_of
from notebook_rt.widgets.adapters import MappedOf
from tests.laws import examples
from tests.waiting import scaled, until


@pytest.fixture
def session(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


@pytest.fixture
def trades(
    stack: LocalStack, session: nrt.Session, make_table: Callable[..., str]
) -> nrt.LiveFrame:
    table = make_table()
    stack.sql(f"insert into {table} values (1, 'a', 1), (2, 'a', 2), (3, '<b>c</b>', 4)")
    return session.table(table).wait(scaled(10))


# What it shows


def test_it_is_the_querys_result_and_follows_the_tables(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveFrame, make_table: Callable[..., str]
) -> None:
    names = make_table()
    stack.sql(f"insert into {names} values (1, 'a', 0), (2, '<b>c</b>', 0)")
    people = session.table(names).wait(scaled(10))
    view = nrt.sql(
        "select p.id, sum(t.price) total, count(*) n from Trades t join people p using (name) "
        "where t.price < $below group by all order by 1",
        {"below": 100},
        trades=trades,
        people=people,
        key="id",
    )
    wanted = pd.DataFrame({"total": [3.0, 4.0], "n": [2, 1]}, pd.Index([1, 2], name="id"))
    pd.testing.assert_frame_equal(view.df, wanted)
    assert view.df is view.df
    told: list[Any] = []
    stop = view.on_change(lambda df: told.append(df.total.tolist()))
    stack.sql(f"insert into {trades.name} values (4, 'a', 10), (5, 'a', 1000)")
    until(lambda: told[-1:] == [[13.0, 4.0]], what=lambda: told)
    stack.sql(f"delete from {names} where id = 2")
    until(lambda: told[-1:] == [[13.0]], what=lambda: told)
    stop()
    assert "reads Trades, people; " in str(view.plan)
    assert "JOIN" in view.plan.explained.upper()


def test_what_it_is_given_is_the_memory_that_the_frames_show(trades: nrt.LiveTable) -> None:
    """No row is copied for DuckDB: of a table, and of what is derived of it."""
    for frame in (trades, trades.select("name", twice="price * 2")):
        given, shown = frame.to_arrow(), frame.df
        assert given["id"].chunk(0).buffers()[1].address == shown.index.to_numpy().ctypes.data
        for name in shown.columns:
            [mine] = given[name].chunks
            [theirs] = pa.Table.from_pandas(shown[[name]], preserve_index=False)[name].chunks
            assert mine.buffers()[-1].address == theirs.buffers()[-1].address, name


def test_a_table_of_the_project_is_opened_and_let_go_with_the_view(
    session: nrt.Session, trades: nrt.LiveFrame, stack: LocalStack
) -> None:
    table = trades.name
    trades.close()
    views = [session.sql(f'select max(price) top from public."{table}"')]
    assert views[0].df.top.tolist() == [4.0]
    stack.sql(f"update {table} set price = 9 where id = 1")
    until(lambda: views[0].df.top.tolist() == [9.0], what=lambda: views[0].df)
    with pytest.raises(errors.MissingTableError):
        _ = session.sql("select * from no_such_table_there").df
    views.clear()
    gc.collect()
    until(lambda: session.metrics["tables"] == 0, what=lambda: session.metrics)


def test_edits_show_through_before_they_are_written(trades: nrt.LiveFrame) -> None:
    assert isinstance(trades, nrt.LiveTable)
    view = nrt.sql("select sum(price) total from t", t=trades)
    assert view.df.total.tolist() == [7.0]
    trades.edit(1, price=101)
    assert view.df.total.tolist() == [107.0]


def test_it_reads_what_is_computed_and_what_stays(stack: LocalStack, trades: nrt.LiveFrame) -> None:
    doubled = trades.map(lambda df: df.assign(price=df.price * 2))
    view = nrt.sql("select sum(price) p from trades", trades=trades)
    above = nrt.sql(
        "select a.id, a.price, v.p, f.label from doubled a, v, fixed f where a.id = f.id",
        doubled=doubled,
        v=view,
        fixed=pd.DataFrame({"id": [1], "label": ["one"]}),
    )
    assert above.df.to_dict("records") == [{"id": 1, "price": 2.0, "p": 7.0, "label": "one"}]
    stack.sql(f"update {trades.name} set price = 5 where id = 1")
    until(lambda: above.df.p.tolist() == [11.0], what=lambda: above.df)
    assert above.df.price.tolist() == [10.0]


def test_whole_numbers_stay_whole_and_hostile_values_are_values(
    stack: LocalStack, session: nrt.Session, sql: Callable[..., object]
) -> None:
    sql(
        """create table "sql ""kinds" (id int8 primary key, "order" int4, ok bool, at timestamptz, d date,
        j jsonb, a int4[], big numeric); insert into "sql ""kinds" values
        (1, 5, true, '2026-01-02 03:04:05+00', '2026-01-02', '{"x": "\u2028</script>"}', '{1,2}', 1e20),
        (9007199254740993, null, null, null, null, null, null, null);
        grant select on "sql ""kinds" to anon;
        alter publication supabase_realtime add table "sql ""kinds" """
    )
    try:
        kinds = session.table('sql "kinds').wait(scaled(10))
        df = session.sql('select * exclude (big), big from "sql ""kinds" order by id').df
        assert df.id.tolist() == [1, 9007199254740993]
        assert str(df["order"].dtype) == "Int64"
        assert str(df.ok.dtype) == "boolean"
        assert json.loads(df.j[0]) == {"x": "\u2028</script>"}
        total = nrt.sql('select sum("order") s, sum(id) i from k', k=kinds).df
        assert total.s.tolist() == [5]
        assert str(total.i.dtype) == "int64"
        assert nrt.sql('select max("at") from k', k=kinds).df.iloc[0, 0] == pd.Timestamp(
            "2026-01-02 03:04:05", tz="UTC"
        )
    finally:
        sql('drop table "sql ""kinds"')


def test_a_value_is_bound_and_never_pasted(trades: nrt.LiveFrame) -> None:
    hostile = "a' or true --"
    for query, params in (
        ("select * from t where name = $name", {"name": hostile}),
        ("select * from t where name = ?", [hostile]),
    ):
        assert nrt.sql(query, params, t=trades).df.empty


def test_where_values_are_given_otherwise_it_is_said_how(
    session: nrt.Session, trades: nrt.LiveFrame
) -> None:
    for params in (3, "a", {1, 2}):
        with pytest.raises(TypeError, match=r"a dict, for \$name, or a list, for \?, not "):
            nrt.sql("select * from t where name = ?", params, t=trades)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=re.escape("sql(query, {'name': ...})")):
        session.sql("select * from t where name = $name", name="a")  # type: ignore[call-arg]


# What it costs


def test_runs_for_a_listener_take_a_part_of_a_core_and_the_last_state_is_told(
    stack: LocalStack, trades: nrt.LiveFrame
) -> None:
    view = nrt.sql(
        "select count(*) n, (select count(*) from range(3000000) r where r.range % 7 = 1) x from t",
        t=trades,
    )
    told: list[tuple[float, int]] = []
    view.on_change(lambda df: told.append((time.monotonic(), int(df.n[0]))), at_once=True)
    until(lambda: len(told) == 1)
    for key in range(10, 40):
        stack.sql(f"insert into {trades.name} values ({key}, 'x', 1)")
    until(lambda: told[-1][1] == 33, what=lambda: told)
    plan = view.plan
    assert plan.every == pytest.approx(plan.seconds / SHARE)
    assert len(told) < 31


def test_a_listener_that_waits_for_its_turn_ends_at_once(trades: nrt.LiveFrame) -> None:
    view = nrt.sql("select count(*) from t", t=trades)
    told: list[Any] = []
    stop = view.on_change(told.append, at_once=True)
    until(lambda: told != [])
    view._seconds = 1e6  # the next run would be weeks away
    trades._feed.thread.call(lambda: None)
    stop()
    assert len(told) == 1


def test_a_widget_shows_it_and_tells_what_it_is_computed_of(trades: nrt.LiveFrame) -> None:
    source = MappedOf(nrt.sql("select name, sum(price) p from t group by 1 order by 1", t=trades))
    assert [field.name for field in source.fields] == ["name", "p"]
    assert "&lt;b&gt;" in nrt.sql("from t", t=trades)._repr_mimebundle_()["text/html"]


# What is wrong is said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select * from tradse", "tradse is not a frame; did you mean trades? (given: trades)"),
        ("selec 1", "syntax error"),
        ("drop table trades", "only a SELECT is live"),
        ("select 1 from trades; select 2", "one SELECT is wanted, not 2 statements"),
        ("", "one SELECT is wanted, not 0 statements"),
        ("select * from a.b.c", "a.b.c is not a frame: write schema.table, or table"),
        ("select * from 'secrets.csv'", "secrets.csv is not a frame"),
    ],
)
def test_a_query_that_cannot_be_is_refused_by_name(
    trades: nrt.LiveFrame, query: str, said: str
) -> None:
    with pytest.raises(errors.SqlError, match=re.escape(said)):
        nrt.sql(query, trades=trades)


def test_an_error_of_the_query_is_said_and_leaves_it_alive(trades: nrt.LiveFrame) -> None:
    with pytest.raises(errors.SqlError, match=r"(?s)nosuch.*\nin: select nosuch from t"):
        _ = nrt.sql("select nosuch from t", t=trades).df
    with pytest.raises(errors.SqlError, match=r"no column 'x' for key=; it has name, n"):
        _ = nrt.sql("select name, count(*) n from t group by 1", t=trades, key="x").df
    with pytest.raises(TypeError, match="reads no live frame"):
        nrt.sql("select 1")
    with pytest.raises(TypeError, match="t must be a live frame or a DataFrame, not int"):
        nrt.sql("select 1 from t", t=5)  # type: ignore[arg-type]
    local = pd.DataFrame({"x": [1]})  # a variable of the caller's is never read by its name
    with pytest.raises(errors.SqlError, match="local is not a frame"):
        nrt.sql("select * from local, t", t=trades)
    assert len(local) == 1


def test_a_cell_of_sql_in_a_notebook(session: nrt.Session, trades: nrt.LiveFrame) -> None:
    names: dict[str, Any] = {"rt": session, "trades": trades}
    view = live(names, "totals name", "select name, sum(price) p from trades group by 1")
    assert names["totals"] is view
    assert view.df.loc["a", "p"] == 3.0
    of_project = live(names, "", f"select count(*) n from {trades.name}")
    assert of_project.df.n.tolist() == [3]
    with pytest.raises(errors.NotebookRTError, match="no live frame of this notebook is named nix"):
        live({"trades": trades}, "", "select * from nix, trades")


# Which tables a query reads

_NAMES = st.sampled_from(["t", "Prices", "two words", 'qu"ote', "select", "naïve", "a.b"])


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@st.composite
def queries(draw: st.DrawFn, depth: int = 3) -> tuple[str, frozenset[str]]:
    """A query, and the tables that it reads, by their names in small letters."""
    kinds = ["table", "join", "in", "with", "union", "from", "recursive"] if depth else ["table"]
    kind, name = draw(st.sampled_from(kinds)), draw(_NAMES)
    if kind == "table":
        return f"select 1 as x from {quoted(name)}", frozenset({name.casefold()})
    one, reads = draw(queries(depth - 1))
    if kind == "join":
        return f"select 1 as x from ({one}) q1, {quoted(name)} q2", reads | {name.casefold()}
    if kind == "in":
        return (
            f"select 1 as x from {quoted(name)} where 1 in ({one})",
            reads | {name.casefold()},
        )
    if kind == "from":
        return f"select x from ({one}) where $p = 1", reads
    other, more = draw(queries(depth - 1))
    if kind == "union":
        return f"({one}) union all select * from ({other}) q", reads | more
    if kind == "recursive":
        again = f"select x + 1 from {quoted(name)} where x < 3"
        query = (
            f"with recursive {quoted(name)} as (({one}) union {again}) select * from ({other}) q"
        )
        return query, (reads | more) - {name.casefold()}
    # The first query of a WITH does not see itself: there its name is a table's.
    return f"with {quoted(name)} as ({one}) select * from ({other}) q", reads | (
        more - {name.casefold()}
    )


@settings(max_examples=examples(150))
@given(queries())
def test_the_tables_of_a_query_are_those_it_reads(drawn: tuple[str, frozenset[str]]) -> None:
    query, reads = drawn
    assert {table.casefold() for _, table in tables_of(query)} == reads


@settings(max_examples=examples(50))
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.integers(-(2**63), 2**63 - 1),
            st.booleans(),
            st.floats(allow_nan=False),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            st.datetimes(datetime.datetime(1900, 1, 1)),
            st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**9),
        ),
        min_size=1,
        max_size=1,
    )
)
def test_a_parameter_arrives_as_it_was_given(values: list[Any]) -> None:
    from notebook_rt.sqlview import _dataframe, _new_connection

    result = _new_connection().sql("select ? as v", params=values)
    (back,) = _dataframe(result.to_arrow_table(), [str(k) for k in result.types]).v.tolist()
    (value,) = values
    if value is None:
        assert back is None or pd.isna(back)
    elif isinstance(value, Decimal):
        assert Decimal(str(back)) == value
    else:
        assert back == value or back == pytest.approx(value)


def test_times_are_utc_wherever_the_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from notebook_rt.sqlview import _new_connection

    monkeypatch.setenv("TZ", "America/New_York")
    (row,) = (
        _new_connection()
        .execute("select date_trunc('day', timestamptz '2026-01-01 00:30+00')::text")
        .fetchall()
    )
    assert row == ("2026-01-01 00:00:00+00",)


def test_duckdb_is_told_of_no_variable() -> None:
    from notebook_rt.sqlview import _new_connection

    rows = [1]
    with pytest.raises(duckdb.CatalogException):
        _new_connection().sql("select * from rows")
    assert rows == [1]


def test_two_columns_of_one_name_are_refused_with_how_to_name_them(
    session: nrt.Session, trades: nrt.LiveTable
) -> None:
    view = nrt.sql("select * from t join w using (id)", t=trades, w=trades)
    for read in (lambda: view.df, lambda: view.grid(), lambda: view.on_change(print) and view.df):
        with pytest.raises(errors.SqlError, match=r"2 columns .* are named 'name'.* as "):
            read()
    named = nrt.sql("select t.*, w.price as theirs from t join w using (id)", t=trades, w=trades)
    assert list(named.df.columns) == ["id", "name", "price", "theirs"]


def test_a_dataframe_in_place_of_the_live_frame_is_told(trades: nrt.LiveTable) -> None:
    with pytest.raises(TypeError, match=r"t is a DataFrame, .* not t=trades\.df"):
        nrt.sql("select * from t", t=trades.df)


def test_when_tells_rows_of_the_result_that_begin_and_stop_to_match(
    stack: LocalStack, session: nrt.Session, trades: nrt.LiveFrame
) -> None:
    sums = nrt.sql("select name, sum(price) total from t group by 1", t=trades, key="name")
    told: list[tuple[str, float]] = []
    sums.when(
        "total=gte.5",
        lambda row: told.append((row["name"], row["total"])),
        leave=lambda row: told.append((row["name"], -row["total"])),
    )
    stack.sql(f"insert into {trades.name} values (4, 'a', 10)")
    until(lambda: told == [("a", 13.0)], what=lambda: told)
    stack.sql(f"delete from {trades.name} where id = 4")
    until(lambda: told == [("a", 13.0), ("a", -3.0)], what=lambda: told)
    assert sums.until("total=eq.4", scaled(10)) == {"name": "<b>c</b>", "total": 4.0}
    unkeyed = nrt.sql("select sum(price) total from t", t=trades)
    with pytest.raises(errors.DerivationError, match='key="column" to sql'):
        unkeyed.until("total=gt.0", scaled(10))
