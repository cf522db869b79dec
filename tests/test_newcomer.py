"""The first half hour of a user: typing mistakes, and the answer to each."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.model.rows import RowChange
from notebook_rt.runtime.callbacks import Subscribers
from notebook_rt.runtime.host import Run
from tests.waiting import scaled, until


@pytest.fixture
def people(stack: LocalStack) -> Iterator[str]:
    stack.sql("create table newcomers (id bigint primary key, name text, age int)")
    stack.sql("alter publication supabase_realtime add table newcomers")
    stack.sql("grant select, insert, update, delete on newcomers to anon, authenticated")
    stack.sql("insert into newcomers select g, 'name ' || g, g from generate_series(1, 5) g")
    yield "newcomers"
    stack.sql("drop table newcomers")


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


def test_a_limit_or_a_name_that_is_none_is_refused_at_once(rt: nrt.Session, people: str) -> None:
    for limit in (0, -1):
        with pytest.raises(errors.FilterError, match=f"1 or more, not {limit}"):
            rt.table(people, limit=limit)
    for name in ("", 42, None):
        with pytest.raises(TypeError, match="the name of a table must be a string"):
            rt.table(name)  # type: ignore[arg-type]  # the slip that is tried here


@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_that_is_a_step_in_a_url_is_told_so_at_once(rt: nrt.Session, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be addressed over REST"):
        rt.table(name)
    with pytest.raises(ValueError, match="cannot be addressed over REST"):
        rt.query(name, depends_on=["people"])
    for call in (rt.rpc, rt.queue.rpc):
        with pytest.raises(ValueError, match="cannot be addressed over REST"):
            call(name)


def test_one_column_may_be_named_as_a_text(rt: nrt.Session, people: str) -> None:
    assert rt.table(people, columns="name").df.columns.tolist() == ["name"]


def test_a_column_that_is_none_is_answered_with_those_that_are(
    rt: nrt.Session, people: str
) -> None:
    slips = (
        {"filter": "agee=eq.4"},
        {"columns": ["agee"]},
        {"order": "agee.desc"},
        {"key": "agee"},
    )
    for slip in slips:
        with pytest.raises(errors.MissingColumnError, match='"agee"; there are id, name, age'):
            rt.table(people, **slip).wait(scaled(10))


def test_a_slip_is_told_where_it_was_made_and_the_session_stays_healthy(
    rt: nrt.Session, people: str, stack: LocalStack
) -> None:
    good = rt.table(people).wait(scaled(10))
    stack.sql("create table if not exists newcomers_hidden (id int primary key)")
    stack.sql("grant select on newcomers_hidden to anon")
    try:
        slips = [rt.table("newcomers_hidden"), rt.table(people, filter="age=eq.old")]
        for slip in slips:
            with pytest.raises(errors.NotebookRTError):
                slip.wait(scaled(10))
            assert slip.status == "error"
            assert slip.reason
        # IPython keeps a failed cell's traceback, and with it the frame: for as long as it likes.
        until(lambda: rt.health.status == "healthy", what=lambda: rt.health.reason)
        assert rt.metrics["channels"] == 1
        until(lambda: good.status == "live", what=lambda: repr(good))
        assert 'table "newcomers_hidden"' in slips[0].reason
    finally:
        stack.sql("drop table newcomers_hidden")


def test_a_table_that_was_shown_and_is_gone_is_named_in_health(stack: LocalStack) -> None:
    stack.sql("create table newcomers_gone (id int primary key)")
    stack.sql("grant select, insert, update, delete on newcomers_gone to anon")
    stack.sql("alter publication supabase_realtime add table newcomers_gone")
    options = nrt.Options(audit_interval=0.1, poll_interval=0.1)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frame = rt.table("newcomers_gone").wait(scaled(10))
        until(lambda: frame.status == "live")
        stack.sql("drop table newcomers_gone")
        until(lambda: frame.status == "error", what=lambda: frame)
        assert (rt.health.status, rt.health.color) == ("stale", "yellow")
        assert 'table "newcomers_gone"' in rt.health.reason


def test_a_slip_that_nobody_holds_any_more_is_forgotten(rt: nrt.Session, people: str) -> None:
    rt.table(people).wait(scaled(10))
    for look in (
        lambda: rt.table("newcomers_wait").wait(scaled(10)),
        lambda: rt.table("newcomers_df").df,
        lambda: nrt.run(rt.table("newcomers_ready").ready()),
    ):
        for _ in range(2):
            with contextlib.suppress(errors.MissingTableError):
                look()
    until(
        lambda: gc.collect() >= 0 and rt.health.status == "healthy", what=lambda: rt.health.reason
    )


def test_health_is_red_and_says_so_with_a_wrong_key(stack: LocalStack) -> None:
    with nrt.connect(stack.url, "wrong") as session:
        held = session.table("newcomers")
        with pytest.raises(errors.AuthError):
            held.wait(scaled(10))
        assert (session.health.status, session.health.color) == ("offline", "red")
        assert "Pass the project's anon or publishable key" in session.health.reason
        assert f" {stack.url} refuses the key" in str(session.health)


def test_an_error_is_raised_again_without_growing(rt: nrt.Session, people: str) -> None:
    frame = rt.table("newcomers_not")
    depths = []
    for _ in range(3):
        with pytest.raises(errors.MissingTableError) as caught:
            _ = frame.df
        depths.append(len(caught.traceback))
    assert depths[1] == depths[2] <= 5


def test_a_closed_session_still_shows_what_it_was(stack: LocalStack) -> None:
    session = nrt.connect(stack.url, stack.anon_key)
    session.close()
    shown = session._repr_mimebundle_()
    assert shown == {"text/plain": f"<Session {stack.url} closed, 0 tables>"}


def test_a_batch_prints_as_one_line() -> None:
    rows = [RowChange("insert", n, None, {"id": n}) for n in range(1_200)]
    batch = nrt.ChangeBatch([*rows, RowChange("delete", 7, {"id": 7}, None)], "stream", 3)
    assert repr(batch) == "<ChangeBatch 1,200 inserts, 1 delete, stream, version 3>"
    assert repr(nrt.ChangeBatch([], "poll", 4)) == "<ChangeBatch empty, poll, version 4>"


def test_print_registered_by_a_cell_that_is_run_again_prints_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subscribers, removed = Subscribers(), []
    for cell in (1, 2):
        monkeypatch.setattr("notebook_rt.runtime.callbacks.running", lambda at=cell: Run(None, at))
        subscribers.add(print, lambda at=cell: removed.append(at))  # type: ignore[misc]  # bound now
    assert removed == [1]


def test_a_text_with_blanks_is_no_url() -> None:
    with pytest.raises(errors.UnreachableError, match="not the URL"):
        nrt.connect("not a url at all", "key")


def test_a_password_in_the_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(errors.UnreachableError, match="no place in the URL") as caught:
        nrt.connect("https://ann:secret@x.supabase.co", "key")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"filter": "age > 3"}, "such as price=gt.10"),
        ({"filter": "age==3"}, "an operator is missing, as eq is in price=eq.10"),
        ({"filter": "age=equals.3"}, "'equals' is no operator"),
        ({"filter": "and=(age.eq.1,age.eq.2)"}, "a comma is AND, and for OR there is or=("),
        ({"order": "-age"}, "write 'age.desc'"),
    ],
)
def test_what_is_written_as_elsewhere_is_answered_with_how_it_is_here(
    rt: nrt.Session, asked: dict[str, str], says: str
) -> None:
    with pytest.raises(errors.FilterError, match=re.escape(says)):
        rt.table("newcomers", **asked)  # type: ignore[arg-type]  # one of its texts


def test_a_table_that_is_named_otherwise_or_a_view_says_where_to_go(
    rt: nrt.Session, people: str, stack: LocalStack
) -> None:
    assert rt.table(people, columns="*").df.columns.tolist() == ["name", "age"]
    with pytest.raises(errors.MissingTableError, match=r'table\("newcomers", schema="public"\)'):
        rt.table("public.newcomers").wait(scaled(10))
    stack.sql("create view newcomers_view as select * from newcomers")
    stack.sql("grant select on newcomers_view to anon")
    try:
        for key in (None, "id"):
            says = r'([Aa] view.*) rt\.query\("newcomers_view", depends_on=\[\.\.\.\]\)'
            with pytest.raises(errors.TableError, match=says):
                rt.table("newcomers_view", key=key).wait(scaled(10))
    finally:
        stack.sql("drop view newcomers_view")


def test_what_a_dataframe_has_and_a_live_table_has_not_is_told(
    rt: nrt.Session, people: str
) -> None:
    table = rt.table(people).wait(scaled(10))
    for name in ("head", "age"):
        with pytest.raises(AttributeError, match=rf"a DataFrame, has it: \.df\.{name}"):
            getattr(table, name)
    with pytest.raises(AttributeError, match=r"no attribute 'agee'$"):
        _ = table.agee
    with pytest.raises(TypeError, match=r"\.df\['age'\]"):
        table["age"]
    with pytest.raises(ValueError, match="kind must be one of line, area, bar, point, tick, hist"):
        table.plot(y="age", kind="scatter")  # type: ignore[arg-type]  # the slip that is tried here


def test_what_is_done_to_a_live_table_and_belongs_to_its_snapshot_is_told(
    rt: nrt.Session, people: str
) -> None:
    table = rt.table(people).wait(scaled(10))
    for slip in (list, pd.DataFrame):
        with pytest.raises(TypeError, match=r"its snapshot, a DataFrame, is: \.df"):
            slip(table)
    with pytest.raises(AttributeError, match=r"\.edit\(key, column=value\)"):
        table.age = 3
    with pytest.raises(TypeError, match=r"\.at\[key, column\] = value"):
        table["age"] = 3
    for slip in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"copy or pickle its snapshot, \.df"):
            slip(table)
        for thing in (rt, rt.channel("slips")):
            with pytest.raises(TypeError, match="lives in this process"):
                slip(thing)
    for cell in (1, (1, "name", "age")):
        with pytest.raises(TypeError, match=r"a cell is at\[key, column\]"):
            table.at[cell]
    with pytest.raises(TypeError, match="edit_many takes a DataFrame"):
        table.edit_many({"age": [3]})  # type: ignore[arg-type]  # the slip that is tried here
    with pytest.raises(TypeError, match="map needs a function"):
        table.map("sum")  # type: ignore[arg-type]


@pytest.fixture
def shelves(stack: LocalStack, rt: nrt.Session) -> Iterator[nrt.LiveTable]:
    """A table with a key of text, which pandas' own numbering is not."""
    stack.sql("create table shelves (sku text primary key, stock int)")
    stack.sql("alter publication supabase_realtime add table shelves")
    stack.sql("grant select, insert, update, delete on shelves to anon")
    stack.sql("insert into shelves values ('a', 1), ('b', 2)")
    yield rt.table("shelves").wait(scaled(10))
    stack.sql("drop table shelves")


def test_a_frame_whose_index_is_not_the_key_is_told_so(shelves: nrt.LiveTable) -> None:
    """Not that there is no row "0", of which nobody has spoken."""
    numbered = shelves.df.reset_index(drop=True).assign(stock=5)
    for write in (shelves.edit_many, shelves.delete):
        with pytest.raises(
            errors.InvalidEditError, match=r'only number the rows.*\.rename_axis\("sku"\)'
        ):
            write(numbered)
    code = pd.DataFrame({"stock": [1]}, index=pd.Index(["c"], name="code"))
    for put in (shelves.upsert, shelves.insert):
        with pytest.raises(
            errors.InvalidEditError, match=r"the index is named 'code'.*\.rename_axis\(\"sku\"\)"
        ):
            put(code)
    shelves.upsert(code.rename_axis("sku"))
    assert shelves.df.loc["c", "stock"] == 1


def test_a_key_that_is_null_is_told_so_and_a_column_in_capitals_is_found(
    shelves: nrt.LiveTable,
) -> None:
    with pytest.raises(
        errors.InvalidEditError, match=r'row 1: the key column "sku" \(text\) is null'
    ):
        shelves.upsert(pd.DataFrame({"sku": ["a", None], "stock": [1, 2]}))
    with pytest.raises(errors.InvalidEditError, match=r"no column 'SKU' \(did you mean 'sku'\?\)"):
        shelves.upsert(pd.DataFrame({"SKU": ["a"], "stock": [1]}))
    with pytest.raises(errors.InvalidEditError, match='give the key column "sku"'):
        shelves.upsert(pd.DataFrame({"stock": [1]}))


def test_a_key_of_several_columns_that_is_a_list_is_told_to_be_a_tuple(
    stack: LocalStack, rt: nrt.Session
) -> None:
    stack.sql("create table held (owner text, symbol text, n int, primary key (owner, symbol))")
    stack.sql("alter publication supabase_realtime add table held; grant all on held to anon")
    stack.sql("insert into held values ('ada', 'KO', 1)")
    held = rt.table("held").wait(scaled(10))
    with pytest.raises(errors.InvalidEditError, match=r"is a tuple: \('ada', 'KO'\)"):
        held.edit(["ada", "KO"], n=2)
    with pytest.raises(errors.InvalidEditError, match='columns "owner" and "symbol"'):
        held.edit_many(held.df.reset_index(drop=True).assign(n=5))
    stack.sql("drop table held")


def test_what_is_none_of_the_kind_that_is_asked_for_is_refused_at_once(
    rt: nrt.Session, people: str
) -> None:
    with pytest.raises(errors.FilterError, match=r"expected a string such as 'price\.desc'"):
        rt.table(people, order=[("age", "desc")])  # type: ignore[list-item]  # slips, all of them
    with pytest.raises(errors.FilterError, match="limit must be a whole number"):
        rt.table(people, limit=True)
    with pytest.raises(TypeError, match=r"options are nrt\.Options\("):
        nrt.connect(rt.url, "key", options={"poll_interval": 2})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Options\.page_size must be a whole number, not 1\.5"):
        nrt.Options(page_size=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the name of a function must be a string"):
        rt.queue.rpc(print)  # type: ignore[arg-type]
    slips = rt.channel("slips")
    with pytest.raises(TypeError, match="the name of an event must be a string"):
        slips.send(3, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="limit must be a number of rows, 1 or more"):
        slips.frame("said", limit=0)
    with pytest.raises(ValueError, match="open with other settings"):
        rt.channel("slips", presence_key="another")
    with pytest.raises(TypeError, match="params must be a dict"):
        rt.query(people, params=[1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match='the payload of "said" must be a dict'):
        slips.send("said", "hello")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the name of an event must be a string"):
        slips.on(3, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ttl must be a number of seconds, not '1s'"):
        slips.send("said", {}, ttl="1s")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replay must be a dict"):
        rt.channel("past", private=True, replay=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replay is for private channels only"):
        rt.channel("past", replay={"since": 0})
    for wrong in (
        {},
        {"sinc": 0},
        {"since": 1.5},
        {"since": 0, "limit": 26},
        {"since": 0, "to": 1},
    ):
        with pytest.raises(ValueError, match="replay takes since, whole milliseconds"):
            rt.channel("past", private=True, replay=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="presence_key must be a string, not 5"):
        rt.channel("here", presence_key=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schema must be a string, not 3"):
        rt.table(people, schema=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schema must be a string, not 3"):
        rt.query(people, schema=3)  # type: ignore[arg-type]
    for call in (rt.rpc, rt.queue.rpc):
        with pytest.raises(TypeError, match="schema must be a string, not 3"):
            call("add", schema=3)  # type: ignore[operator]
    with pytest.raises(TypeError, match="schema must be a string, not 3"):
        nrt.connect(rt.url, "key", schema=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Queue\.on_change needs a function"):
        rt.queue.on_change(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="debounce must be a number of seconds, not -1"):
        rt.query(people, debounce=-1)
    with pytest.raises(TypeError, match="keep must be True, False or None, not 'yes'"):
        rt.table(people, keep="yes")  # type: ignore[arg-type]
    table = rt.table(people).wait(scaled(10))
    with pytest.raises(TypeError, match="name must be a string, not 3"):
        table.when("age=gt.1", print, name=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"run\(\) takes a coroutine"):
        nrt.run(table)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="most_bytes must be a number of bytes above 0, not 0"):
        table.history(most_bytes=0)
    with pytest.raises(TypeError, match="after must be a number of seconds, not '5s'"):
        table.delete(1, after="5s")  # type: ignore[call-overload]
    for never in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"after must be a number of seconds, not {never}"):
            table.delete(1, after=never)
        with pytest.raises(ValueError, match=f"ttl must be a number of seconds, not {never}"):
            rt.channel("desk").send("bell", {}, ttl=never)
    with pytest.raises(ValueError, match="points must be a number of rows, 1 or more, not 0"):
        table.plot("id", "age", points=0)
    with pytest.raises(TypeError, match="style must be a function of the Altair chart"):
        table.plot("id", "age", style="dark")  # type: ignore[arg-type]


def test_a_frame_that_is_not_live_is_joined_by_map(rt: nrt.Session, people: str) -> None:
    table = rt.table(people).wait(scaled(10))
    with pytest.raises(
        TypeError, match=r"join takes a live frame, not DataFrame: .*df\.join\(other"
    ):
        table.join(table.df)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"merge takes a live frame, .*df\.merge\(other"):
        table.merge(table.df, on="id")  # type: ignore[arg-type]
    for several in (3, [table.df]):
        with pytest.raises(TypeError, match="takes live frames"):
            nrt.concat(several)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="takes live frames"):
            nrt.map(several, len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="agg: name each new column"):
        table.groupby("name").agg()


def test_whole_numbers_may_be_written_as_floats(stack: LocalStack, people: str) -> None:
    options = nrt.Options(page_size=1e3, buffer_size=1e5, batch_size=2e3)  # type: ignore[arg-type]
    assert repr(options.page_size) == "1000"
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        assert len(rt.table(people).wait(scaled(10)))
    with pytest.raises(TypeError, match=r"Options\.page_size must be a number, not True"):
        nrt.Options(page_size=True)


def test_a_grid_is_told_at_once_what_it_cannot_do(rt: nrt.Session, people: str) -> None:
    table = rt.table(people).wait(scaled(10))
    for slip in ({"columns": "agee"}, {"editable": "name,agee"}, {"formats": {"agee": ",d"}}):
        with pytest.raises(
            ValueError, match='"newcomers" has no column "agee"; there are id, name'
        ):
            table.grid(**slip)  # type: ignore[arg-type]  # one of its options
    with pytest.raises(ValueError, match="a format is such as"):
        table.grid(formats={"age": "%.2f"})
    assert table.grid(columns="name, age", editable="name", formats={"age": ",.2f"})


def test_who_waits_too_short_is_told_why_nobody_answers() -> None:
    with nrt.connect("http://127.0.0.1:9", "key") as session:
        frame = session.table("prices")
        until(lambda: frame._feed._unreachable is not None)  # the first try has failed
        with pytest.raises(errors.WaitTimeoutError, match=r"cannot reach http://127\.0\.0\.1:9"):
            frame.wait(0.1)


def test_https_of_a_server_that_speaks_http_is_told_so(stack: LocalStack) -> None:
    """As of `supabase start` on this machine, whose address is given without its scheme."""
    for url in (stack.url.replace("http://", "https://"), stack.url.removeprefix("http://")):
        said = pytest.raises(errors.UnreachableError, match=r"is it http://\? Check the URL")
        with nrt.connect(url, stack.anon_key) as session, said:
            session.rpc("add", {"a": 1})


def test_a_console_says_how_many_rows_a_limit_shows(rt: nrt.Session, stack: LocalStack) -> None:
    stack.sql(
        "create table many_rows (id int primary key); alter publication supabase_realtime add table many_rows"
    )
    stack.sql(
        "insert into many_rows select generate_series(1, 30); grant select on many_rows to anon"
    )
    try:
        first = rt.table("many_rows", order="id", limit=3).wait(scaled(10))
        assert len(first.df) == 3
        assert ", 3 rows" in repr(first)
    finally:
        stack.sql("drop table many_rows")


def test_what_a_console_shows_says_what_it_is(rt: nrt.Session, people: str) -> None:
    table = rt.table(people).wait(scaled(10))
    assert repr(table.changes(0)).startswith("<Changes of newcomers, 0 waiting")
    assert repr(table.at).startswith("<at of newcomers: at[key, column]")
    assert [name for name in dir(nrt) if not name.startswith("_")] == sorted(nrt.__all__)
    with pytest.raises(TypeError, match=r"Options\.poll_interval must be a number, not '3'"):
        nrt.Options(poll_interval="3")  # type: ignore[arg-type]  # the slip that is tried here


TAB = """
import sys, jedi, notebook_rt as nrt
url, key, people = sys.argv[1:]
with nrt.connect(url, key) as rt:
    table, room = rt.table(people).wait(), rt.channel("tab")
    query, mapped = rt.query(people, depends_on=people), table.map(len)
    objects = (rt, table, query, room, room.presence, mapped, rt.queue, rt.health, rt.metrics)
    called = []
    for thing in (*objects, nrt.Options(), nrt, nrt.errors, nrt.local):
        here = [{"it": thing}]
        offered = {name.name for name in jedi.Interpreter("it.", here).complete()}
        public = {name for name in dir(thing) if not name.startswith("_")}
        assert public, thing
        assert public == {name for name in offered if not name.startswith("_")}, thing
        for name in public & set(dir(nrt.LiveFrame)):
            member = getattr(type(thing), name, None)
            if member is None or member not in called:  # most are inherited
                called.append(member)
                asked = jedi.Interpreter(f"it.{name}(", here)
                asked.complete() if callable(member) else asked.get_signatures()
"""


def test_the_tab_key_offers_every_name_and_no_other(stack: LocalStack, people: str) -> None:
    """As IPython and Jupyter ask: jedi offers nothing at all where one annotation is too much.

    What is no function (``df``, ``log``) has its annotation read alone, for nobody calls it: all that may be
    written in a call of a DataFrame takes seconds. In a process of its own: other tests may have given our
    modules more names than they have.
    """
    asked = [sys.executable, "-c", TAB, stack.url, stack.anon_key, people]
    # What jedi has parsed of pandas is kept at home, as it is for a user; nothing of ours is.
    env = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    process = subprocess.run(asked, capture_output=True, text=True, timeout=scaled(100), env=env)
    assert process.returncode == 0, process.stderr
    assert "UnreachableError" in dir(nrt.errors)
    assert [name for name in dir(nrt.errors) if not name.endswith("Error")] == []
    assert sorted(dir(nrt.local)) == ["LocalStack", "StackOptions", "start"]


@pytest.mark.parametrize(
    ("reason", "what_to_do"),
    [
        ("Unauthorized: You do not have permissions", "policy on realtime.messages"),
        ("PrivateOnly: This project only allows private channels", "private=True"),
        ("RealtimeDisabledForTenant: Realtime disabled", "Switch it on"),
    ],
)
def test_who_is_not_let_into_a_channel_is_told_what_to_do(reason: str, what_to_do: str) -> None:
    with pytest.raises(errors.ChannelRefusedError, match=what_to_do):
        raise errors.ChannelRefusedError("floor", reason)


def test_an_error_of_another_process_arrives() -> None:
    sent = errors.MissingColumnError("public", "prices", "agee", ["age"])
    for arrived in (pickle.loads(pickle.dumps(sent)), copy.copy(sent)):
        assert (type(arrived), str(arrived)) == (errors.MissingColumnError, str(sent))
        assert (arrived.table, arrived.column) == ("prices", "agee")


def test_a_closed_connection_has_no_latency(stack: LocalStack) -> None:
    with nrt.connect(stack.url, stack.anon_key) as session:
        until(lambda: session.health.latency_ms is not None, what=lambda: session.health)
    assert session.health.latency_ms is None


KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.c2lnbmVk"


@pytest.mark.parametrize(
    ("url", "key", "says"),
    [
        ("", KEY, "the URL is empty"),
        ("https://supabase.com/dashboard/project/abcd", KEY, "project is at https://abcd.supa"),
        ("htp://abcd.supabase.co", None, "not the URL of a Supabase project"),
        (f"https://{'a' * 64}.supabase.co", KEY, "not the URL of a Supabase project"),
        (KEY, "https://abcd.supabase.co", "what was given as its URL is a key"),
        ("sb_publishable_x", "https://abcd.supabase.co", "what was given as its URL is a key"),
        ("abcd.supabase.co", "https://abcd.supabase.co", "what was given as the key is a URL"),
        ("abcd.supabase.co", "eyJhbGci…", "not copied whole"),
        ("abcd.supabase.co", "sb_secret", "the beginning of a key"),
        ("abcd.supabase.co", "sb_publishable_", "the beginning of a key"),
        ("locl", KEY, 'the embedded stack is nrt.connect("local")'),
        ("Local", None, 'the embedded stack is nrt.connect("local")'),
        ("abcd.supabase.co", " \n", "none is given, and SUPABASE_KEY is not set"),
    ],
)
def test_a_url_or_a_key_that_is_none_is_refused_at_once_and_no_key_repeated(
    url: str, key: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUPABASE_KEY", raising=False)
    with pytest.raises(errors.NotebookRTError, match=re.escape(says)) as caught:
        nrt.connect(url, key)
    assert KEY not in str(caught.value)


def test_a_url_and_a_key_are_taken_as_they_were_copied(stack: LocalStack) -> None:
    with nrt.connect(f" {stack.url}/rest/v1/\n", f"{stack.anon_key}\n") as session:
        assert session.url == stack.url
        until(lambda: session.status == "connected", what=lambda: session.health.reason)
    for url, key in ((8000, "key"), ("abcd.supabase.co", 8000)):
        with pytest.raises(TypeError, match="of a project must be a string, not int"):
            nrt.connect(url, key)  # type: ignore[arg-type]  # the slip that is tried here


def test_a_login_that_fails_says_what_it_takes(rt: nrt.Session) -> None:
    with pytest.raises(errors.LoginError, match=r"It takes sign_in\(email, password\)"):
        rt.sign_in("nobody@example.com", "wrong")
    with pytest.raises(
        TypeError, match=r"sign_in needs who\. There are sign_in\(email, password\)"
    ):
        rt.sign_in()
    with pytest.raises(TypeError, match=r"send_code\('a@b\.c'\) has a code sent"):
        rt.sign_in("a@b.c")
    assert rt.user is None


def test_a_query_without_a_key_is_exported_without_an_index(rt: nrt.Session, people: str) -> None:
    query = rt.query(people, depends_on=people).wait(scaled(10))
    assert pa.table(query).column_names == ["id", "name", "age"]
    assert pa.table(rt.table(people).wait(scaled(10))).column_names == ["id", "name", "age"]


def script(stack: LocalStack, people: str, queue: Path, then: str) -> tuple[int, str, str]:
    code = (
        "import sys, notebook_rt as nrt; rt = nrt.connect(*sys.argv[1:3], queue_path=sys.argv[3]); "
        f"t = rt.table('{people}').wait({scaled(20)}); {then}"
    )
    asked = [sys.executable, "-c", code, stack.url, stack.anon_key, str(queue)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=scaled(60), check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_script_that_edits_and_ends_without_close_says_nothing(
    stack: LocalStack, people: str, tmp_path: Path
) -> None:
    then = "t.on_change(lambda batch: None); t.edit(1, name='x')"
    assert script(stack, people, tmp_path / "queue.db", then) == (0, "", "")


@pytest.mark.parametrize("ending", ["", "; rt.close()"])
def test_a_script_that_leaves_something_unwritten_is_told_so_once(
    ending: str, stack: LocalStack, people: str, tmp_path: Path
) -> None:
    queue = tmp_path / "queue.db"
    stack.sql(f"alter table {people} add check (name <> 'x')")
    code, out, err = script(stack, people, queue, f"t.edit(1, name='x'){ending}")
    said = f"not written yet: 1 failed: update {people} 1 (name): "
    assert (code, out, err.count("\n")) == (0, "", 1)
    assert err.startswith(f"{said}new row for relation")
    assert f"Kept in {queue}: what waits is sent by the next session" in err


def test_a_script_is_told_of_others_failed_edits_in_one_line_if_it_edited_and_else_not_at_all(
    stack: LocalStack, people: str, tmp_path: Path
) -> None:
    queue = tmp_path / "queue.db"
    stack.sql(f"alter table {people} add constraint no_x check (name <> 'x')")
    assert "1 failed" in script(stack, people, queue, "t.edit(1, name='x')")[2]
    assert script(stack, people, queue, "t.get(1)") == (0, "", "")
    stack.sql(f"alter table {people} drop constraint no_x")
    code, out, err = script(stack, people, queue, "t.edit(2, name='y')")
    assert (code, out, err.count("\n")) == (0, "", 1)
    assert err.startswith(
        f"1 failed write of other sessions is in {queue}, too; the last by python ("
    )
    assert err.endswith(" UTC, ended)\n")


def test_a_frame_and_a_channel_of_a_closed_session_say_so(
    stack: LocalStack, people: str, tmp_path: Path
) -> None:
    with nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path / "queue.db") as session:
        table, room = session.table(people).wait(scaled(10)), session.channel("closed")
        table.edit(1, name="edited")
        read = table.df
    pd.testing.assert_frame_equal(table.df, read)  # what was read stays
    asked = (
        lambda: table.on_change(print),
        lambda: table.changes(60),
        lambda: table.pending,
        lambda: room.on("said", print),
        lambda: room.send("said", {}),
    )
    for ask in asked:
        with pytest.raises(errors.ClosedError, match="is closed"):
            ask()


def test_a_row_that_is_no_dict_is_answered_with_how_rows_are_given(
    rt: nrt.Session, people: str
) -> None:
    frame = rt.table(people).wait(scaled(10))
    row: Any = pd.Series({"id": 9, "name": "n"})
    with pytest.raises(TypeError, match=r"by name or as a dict; not Series: pass its .to_dict"):
        frame.insert(row)
    rows: Any = [{"id": 9}, "name"]
    with pytest.raises(TypeError, match=r"sequence of dicts, one a row; row 1 is str"):
        frame.insert(rows)
    with pytest.raises(TypeError, match="edit takes the columns of one row"):
        frame.edit(1, "name")  # type: ignore[arg-type]  # the slip that is tried here
    assert len(frame.pending) == 0


def test_an_operation_that_is_none_is_not_retried_silently(rt: nrt.Session) -> None:
    for slip in (rt.queue.retry, rt.queue.discard):
        with pytest.raises(errors.QueueError, match="operation zz is not in the queue"):
            slip("zz")


def test_a_key_that_is_not_given_is_answered_with_all_that_may_be_so(
    rt: nrt.Session, people: str
) -> None:
    """A plain integer key: without the optional SQL only the server tells whether a sequence makes it."""
    with pytest.raises(errors.InvalidEditError) as caught:
        rt.table(people).wait(scaled(10)).insert(name="x")
    said = str(caught.value)
    assert 'null value in column "id"' in said
    assert "no default and no sequence fills in must be given, the key too" in said
    assert len(rt.queue) == 0


def test_what_is_given_in_place_of_another_is_said(rt: nrt.Session, people: str) -> None:
    room = rt.channel("slips")
    with pytest.raises(TypeError, match=r"rt\.status_bar\(channel\.presence\), not <Channel"):
        rt.status_bar(room)  # type: ignore[arg-type]  # the slip that is tried here
    with pytest.raises(TypeError, match=r"track takes fields, .* not 'Ada'"):
        room.presence.track("Ada")  # type: ignore[arg-type]  # the slip that is tried here
    for slip in ("abc", KEY[:20], KEY.rpartition(".")[0]):
        with pytest.raises(ValueError, match="an access token is a JWT"):
            rt.set_auth(slip)
        with pytest.raises(ValueError, match="an access token is a JWT"):
            nrt.connect(rt.url, KEY, access_token=slip)
    table = rt.table(people).wait(scaled(10))
    for height in ("3", 0, 2.5, True):
        with pytest.raises(TypeError, match="height must be a whole number of pixels"):
            table.grid(height=height)  # type: ignore[arg-type]  # the slip that is tried here
    with pytest.raises(ValueError, match='kind="line" draws numbers, and "name" has none'):
        table.plot(x="id", y="name")


def test_presence_takes_a_dict_as_supabases_clients_do(rt: nrt.Session) -> None:
    room = rt.channel("dicts")
    room.presence.track({"name": "Ada", "status": "here"}, status="away")
    until(lambda: len(room.presence.df) == 1, what=lambda: room.presence.df)
    ((name, status),) = room.presence.df[["name", "status"]].to_numpy().tolist()
    assert (name, status) == ("Ada", "away")


def test_an_order_by_a_name_with_a_dot_or_a_comma_is_quoted(
    stack: LocalStack, rt: nrt.Session
) -> None:
    stack.sql(
        'create table odd_order (id int primary key, "a.b" int, "c,d" int);'
        "insert into odd_order values (1, 2, 5), (2, 1, 6), (3, 2, 4);"
        "grant select on odd_order to anon; alter publication supabase_realtime add table odd_order"
    )
    try:
        df = rt.table("odd_order", order='"a.b".desc,"c,d"').df
        assert df.index.tolist() == [3, 1, 2]
        with pytest.raises(
            errors.FilterError, match=r"""a name with a dot in it is quoted: '"a\.b"\.desc'"""
        ):
            rt.table("odd_order", order="a.b.desc")
    finally:
        stack.sql("drop table odd_order")


def test_how_to_end_something_is_said_where_it_is_shown(rt: nrt.Session, people: str) -> None:
    table = rt.table(people).wait(scaled(10))
    ends = [
        table.on_change(print),
        table.when("age=gt.100", print),
        table.map(len).on_change(print),
        table.map(lambda df: df).when("age=gt.100", print),
        rt.every(60, lambda: None),
    ]
    for end in ends:
        assert repr(end) == "<ends when called>"
        end()


def test_a_queue_that_is_paused_says_so_and_every_takes_the_seconds_first(rt: nrt.Session) -> None:
    rt.queue.pause()
    assert str(rt.queue).endswith("0 asking; the queue is paused: resume() it>")
    rt.queue.resume()
    assert str(rt.queue).endswith("0 asking>")
    with pytest.raises(TypeError, match=r"every takes seconds, then the function, as in every\(60"):
        rt.every(print, 1)  # type: ignore[arg-type]  # the slip that is tried here


def test_a_merge_that_does_not_fit_a_column_is_refused_when_the_table_is_read(
    rt: nrt.Session, people: str
) -> None:
    wrong = rt.table(people, merge={"age": "delta", "name": "delta"})
    with pytest.raises(errors.UnfitMergeError, match='column "name" is text, and merge="delta"'):
        wrong.wait(scaled(10))
    assert wrong.status == "error"
    with pytest.raises(errors.UnfitMergeError, match=r'column "age" is int., and merge="union"'):
        rt.table(people, merge={"age": "union"}).wait(scaled(10))
    assert len(rt.table(people, merge={"age": "delta", "name": "ask"}).wait(scaled(10))) == 5


def test_what_pandas_calls_otherwise_is_told_with_what_it_is_here(
    rt: nrt.Session, people: str
) -> None:
    table: Any = rt.table(people).wait(scaled(10))
    groups, mapped = table.groupby("name"), table.map(len)
    with pytest.raises(TypeError, match=r"\.agg\(mean=\('age', 'mean'\)\)"):
        groups["age"]
    with pytest.raises(AttributeError, match=r'\.agg\(mean=\("price", "mean"\)\)$'):
        groups.mean()
    with pytest.raises(TypeError, match=r"\.agg\(age=\('age', 'mean'\)\)$"):
        groups.agg({"age": "mean"})
    with pytest.raises(TypeError, match=r"n=\('price', 'mean'\), not 'count'"):
        groups.agg(n="count")
    with pytest.raises(TypeError, match=r"not 'avg' \(did you mean 'mean'\?\)$"):
        groups.agg(n="avg")
    with pytest.raises(errors.DerivationError, match=r"'avg' is kept up \(did you mean 'mean'\?\)"):
        groups.agg(n=("age", "avg"))
    with pytest.raises(errors.DerivationError, match=r"\(did you mean 'median'\?\)"):
        table.rolling("5min", on="at", by="name").agg(n=("age", "medain"))
    with pytest.raises(TypeError, match=r"join\(\) has no rsuffix=: it is suffixes="):
        table.join(table, rsuffix="_b")
    with pytest.raises(TypeError, match=r"^table\(\) has no ascending=: .*order='price\.desc'"):
        rt.table(people, ascending=False)  # type: ignore[call-arg]  # the slip that is tried here
    with pytest.raises(TypeError, match=r"table\(\) has no filters= \(did you mean 'filter'\?\)"):
        rt.table(people, filters="age=eq.1")  # type: ignore[call-arg]
    for call in (rt.rpc, rt.queue.rpc, rt.query):
        with pytest.raises(TypeError, match=r"has no a=: a function's arguments are params=\{'a'"):
            call("add", a=2)  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"^table\(\) has no where=: it is filter=$"):
        rt.table(people, where="age=eq.1")  # type: ignore[call-arg]
    with pytest.raises(
        TypeError,
        match=r"^table\(\) takes only name without a keyword; say which 'age=eq.1' is: filter=",
    ):
        rt.table(people, "age=eq.1")  # type: ignore[call-arg]
    with pytest.raises(errors.MissingTableError, match=r'schema="public"\)\)'):
        rt.table(f"public.{people}").wait(scaled(10))
    for name in ("where", "changes"):
        with pytest.raises(AttributeError, match=rf"has \.df, .*\. A live frame has \.{name}"):
            getattr(mapped, name)
    assert repr(mapped) == f"<MappedFrame len of {people}>"
    assert table.groupby("name").agg(n=("age", "count")).df["n"].sum() == 5


def test_a_value_in_the_quotes_of_sql_is_told_where_no_row_matches(
    rt: nrt.Session, people: str
) -> None:
    says = "no row matches name=eq.'name 1': a value has no quotes around it"
    quoted = rt.table(people, filter="name=eq.'name 1'").wait(scaled(10))
    until(lambda: quoted.status == "live", 20, lambda: quoted)
    derived = rt.table(people).wait(scaled(10)).where("name=eq.'name 1'")
    for frame in (quoted, derived):
        assert len(frame) == 0
        assert frame.reason.startswith(says)
        assert says in repr(frame)
    assert len(rt.table(people, filter="name=eq.name 1").wait(scaled(10))) == 1
