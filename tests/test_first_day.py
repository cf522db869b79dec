"""The first day of a user: errors that contain advice, a queue that names its owner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from tests.waiting import scaled, until


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    with nrt.connect(stack.url, stack.anon_key) as session:
        yield session


@pytest.fixture
def table(stack: LocalStack, make_table: Callable[..., str]) -> str:
    name = make_table("id bigint primary key, name text, price numeric, qty int check (qty >= 0)")
    stack.sql(f"insert into {name} values (1, 'a', 12.34, 1), (2, 'b', 12345678901234567.89, 2)")
    return name


def test_an_error_of_a_column_names_the_columns_and_the_one_like_it(
    rt: nrt.Session, table: str, undescribed: None
) -> None:
    with pytest.raises(
        errors.MissingColumnError, match=r"there are id, name, price, qty \(did you mean 'price'"
    ):
        rt.table(table, columns=["pric"]).wait(scaled(10))
    frame = rt.table(table).wait(scaled(10))
    with pytest.raises(nrt.InvalidEditError, match="mean 'name'"):
        frame.edit(1, nam="x")
    with pytest.raises(errors.DerivationError, match="mean 'name'"):
        _ = frame.where("nam=eq.a").df
    with pytest.raises(KeyError, match="did you mean"):
        _ = frame.at[1, "nam"]
    with pytest.raises(KeyError, match=f"{table}.*no row with the key 99"):
        _ = frame.at[99, "name"]


def test_an_edit_of_several_keys_says_what_writes_many_rows(rt: nrt.Session, table: str) -> None:
    frame = rt.table(table).wait(scaled(10))
    df = frame.df
    keys: list[Any] = [[1, 2], df["qty"] > 1, df.index, (df["qty"] > 1).to_numpy()]
    for several in keys:
        with pytest.raises(nrt.InvalidEditError, match=r"one row's key.*edit_many"):
            frame.edit(several, name="x")


@pytest.mark.parametrize(
    ("name", "meant"), [("update", "edit"), ("append", "insert"), ("drop", "delete")]
)
def test_what_other_libraries_call_a_write_names_ours(
    rt: nrt.Session, table: str, name: str, meant: str
) -> None:
    with pytest.raises(AttributeError, match=rf"a table has \.{meant}\("):
        getattr(rt.table(table).wait(scaled(10)), name)


def test_a_function_that_is_not_there_is_an_error_by_name(rt: nrt.Session) -> None:
    with pytest.raises(errors.MissingQueryError, match='no view or function "nope"'):
        rt.rpc("nope")


def test_a_missing_table_of_this_machine_says_which_project_it_is(rt: nrt.Session) -> None:
    with pytest.raises(
        errors.MissingTableError, match=r"of the project on this machine \(http://"
    ) as told:
        rt.table("not_there").wait(scaled(10))
    # Who has set no project is on the embedded stack, and looks for a table of their own there.
    assert "set SUPABASE_URL and SUPABASE_KEY" in str(told.value)


def test_a_table_that_is_nearly_named_is_named(rt: nrt.Session, table: str) -> None:
    with pytest.raises(errors.MissingTableError, match=f"you meant the table 'public.{table}'"):
        rt.table(f"{table}s").wait(scaled(10))


def test_an_error_of_a_login_ends_in_one_full_stop() -> None:
    error = errors.LoginError("https://x.supabase.co", "Password is too short.")
    assert "too short. It takes" in str(error)


def test_nothing_is_computed_from_a_numeric_that_has_lost_digits(
    stack: LocalStack, rt: nrt.Session, table: str
) -> None:
    frame = rt.table(table).wait(scaled(10))
    frame.edit(1, price=lambda price: price + 1)
    with pytest.raises(nrt.InvalidEditError, match=r'numeric="decimal"'):
        frame.edit(2, price=lambda price: price + 1)
    exact = rt.table(table, numeric="decimal").wait(scaled(10))
    exact.edit(2, price=lambda price: price + 1)
    assert rt.queue.flush(scaled(10)) == 0
    rows = stack.sql(f"select price from {table} order by id")
    assert rows == [(Decimal("13.34"),), (Decimal("12345678901234568.89"),)]
    with pytest.raises(ValueError, match="numeric must be"):
        rt.table(table, numeric="exact")  # type: ignore[arg-type]  # on purpose


@pytest.mark.usefixtures("described_by_sql")
def test_a_number_that_no_numeric_of_so_many_digits_holds_is_refused_before_it_is_queued(
    rt: nrt.Session, make_table: Callable[..., str]
) -> None:
    name = make_table("id int primary key, price numeric(6,2), name text not null, small int2")
    frame = rt.table(name).wait(scaled(10))
    frame.insert(id=1, price=9999.99, name="a")
    frame.edit(1, price=9999.994)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"price": 9999.995}, r"numeric\(6,2\)"),
        ({"price": Decimal(-10000)}, r"numeric\(6,2\)"),
        ({"price": float("inf")}, r"numeric\(6,2\)"),
        ({"small": 40_000}, "too large for int2"),
        ({"name": None}, "NOT NULL"),
    ]
    for values, why in wrong:
        with pytest.raises(nrt.InvalidEditError, match=why):
            frame.edit(1, values)
    assert rt.queue.flush(scaled(10)) == 0


def test_flush_tells_what_is_left_of_this_session_from_that_of_others(
    stack: LocalStack, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queue.sqlite3"
    with nrt.connect(stack.url, stack.anon_key, queue_path=path) as yesterday:
        frame = yesterday.table(table).wait(scaled(10))
        frame.edit(1, qty=-1)
        assert yesterday.queue.flush(scaled(10)).own == 1
    caplog.clear()
    with (
        caplog.at_level(logging.INFO, "notebook_rt"),
        nrt.connect(stack.url, stack.anon_key, queue_path=path) as today,
    ):
        frame = today.table(table).wait(scaled(10))
        frame.edit(2, name="x")
        left = today.queue.flush(scaled(10))
        assert (left, left.own, left.others) == (1, 0, 1)
        assert "1 edit of another session was refused, and df still shows it" in caplog.text
        assert caplog.text.count("was refused, and df still") == 1
        frame.edit(2, qty=-5)
        left = today.queue.flush(scaled(10))
        assert repr(left) == "2 left: 1 of this session, 1 of others"
        verdict = frame.verify(scaled(20))
        assert verdict.differed == 0
        assert sorted(verdict.unwritten) == [1, 2]
        assert "2 shown as edited here" in str(verdict)
        for op in today.queue.df.index:
            today.queue.discard(op)
        assert frame.verify(scaled(20)).unwritten == ()


@pytest.mark.parametrize(
    ("name", "here"), [("auth", "sign_in"), ("from_", "rt.table"), ("storage", "supabase-py")]
)
def test_what_a_client_of_supabase_py_has_is_answered_with_what_does_it_here(
    rt: nrt.Session, name: str, here: str
) -> None:
    with pytest.raises(AttributeError, match=here):
        getattr(rt, name)
    assert not hasattr(rt, "no_such_thing")


def test_retry_asks_again_for_a_table_that_is_in_error(
    stack: LocalStack, caplog: pytest.LogCaptureFixture
) -> None:
    options = nrt.Options(backoff_base=100.0, backoff_max=100.0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as patient:
        frame = patient.table("comes_later")
        told: list[nrt.ChangeBatch] = []
        stop = frame.on_change(told.append)
        with pytest.raises(errors.MissingTableError):
            frame.wait(scaled(10))
        until(lambda: "comes_later.on_change: nothing is called until it is back" in caplog.text)
        stack.sql("create table comes_later (id int primary key)")
        stack.sql(
            "grant select, insert, update, delete on comes_later to anon, authenticated, service_role"
        )
        stack.sql("alter publication supabase_realtime add table comes_later")
        try:
            patient.retry()
            until(lambda: frame.status == "live")
        finally:
            stop()
            stack.sql("drop table comes_later")


@pytest.mark.parametrize("ask", [lambda frame: frame.wait(scaled(10)), lambda frame: frame.df])
def test_who_asks_a_table_in_error_is_answered_as_it_is_now(
    stack: LocalStack, ask: Callable[[nrt.LiveTable], object]
) -> None:
    """What was wrong when it was opened is the first thing that its user mends."""

    def meets() -> type[Exception] | None:
        try:
            ask(frame)
        except errors.TableError as error:
            return type(error)
        return None

    options = nrt.Options(backoff_base=100.0, backoff_max=100.0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as patient:
        frame = patient.table("mended_later")
        assert meets() is errors.MissingTableError
        stack.sql("create table mended_later (id int primary key)")
        stack.sql("revoke all on mended_later from anon")
        try:
            until(lambda: meets() is errors.PermissionDeniedError, 3)
            stack.sql("grant select on mended_later to anon")
            until(lambda: meets() is errors.NotPublishedError, 3)
            stack.sql("alter publication supabase_realtime add table mended_later")
            until(lambda: meets() is None, 3)
            assert frame.df.empty
        finally:
            stack.sql("drop table mended_later")


def test_json_of_every_kind_is_written_to_parquet_as_its_text(
    stack: LocalStack, rt: nrt.Session, make_table: Callable[..., str], tmp_path: Path
) -> None:
    name = make_table("id int primary key, data jsonb")
    stack.sql(f"insert into {name} values (1, '{{}}'), (2, '[1]')")
    path = tmp_path / "x.parquet"
    pq.write_table(rt.table(name).wait(scaled(10)).to_arrow(), path)
    assert pq.read_table(path).column("data").to_pylist() == ["{}", "[1]"]


@pytest.mark.parametrize("name", ["At", "Health", "MappedFrame", "Queue"])
def test_what_a_user_holds_can_be_named_in_an_annotation(name: str) -> None:
    assert isinstance(getattr(nrt, name), type)
    assert name in nrt.__all__


def test_a_json_path_in_a_filter_is_told_what_can_be_filtered_instead(
    rt: nrt.Session, table: str
) -> None:
    with pytest.raises(errors.MissingColumnError, match="JSON path") as caught:
        rt.table(table, filter="name->>0=eq.1").wait(scaled(10))
    assert "generated column" in str(caught.value)
    with pytest.raises(errors.MissingColumnError) as other:
        rt.table(table, filter="nam=eq.1").wait(scaled(10))
    assert "JSON path" not in str(other.value)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("eq", "filter="),
        ("neq", "filter="),
        ("order", "order="),
        ("single", r"get\(key\)"),
        ("execute", r"\.df"),
        ("update", "edit_many"),
    ],
)
def test_what_a_query_of_supabase_py_has_is_answered_with_what_does_it_here(
    rt: nrt.Session, table: str, name: str, here: str
) -> None:
    frame = rt.table(table).wait(scaled(10))
    with pytest.raises(AttributeError, match=here):
        getattr(frame, name)
    assert not hasattr(frame, "no_such_thing")


@pytest.mark.parametrize("columns", ["*", "id, name"])
def test_columns_as_supabase_py_writes_them_are_told_how_select_takes_them(
    rt: nrt.Session, table: str, columns: str
) -> None:
    frame = rt.table(table).wait(scaled(10))
    with pytest.raises(errors.DerivationError, match=r'select\("a", "b"\)'):
        frame.select(columns).wait(scaled(10))


def test_a_name_that_is_mistyped_or_another_librarys_is_told_ours(
    rt: nrt.Session, table: str
) -> None:
    frame: Any = rt.table(table).wait(scaled(10))
    room: Any = rt.channel("room")
    session: Any = rt
    package: Any = nrt
    for told, call in (
        ("did you mean 'table'", lambda: session.tabel),
        (r"rt\.table\(\"name\"\)\.verify\(\)", lambda: session.verify),
        ("did you mean 'verify'", lambda: frame.verfy),
        (r"a session has it: rt\.every", lambda: frame.every),
        (r"there is \.on_change\(fn\)", lambda: frame.subscribe),
        (r"\.on\(event, fn\); it is joined by itself", lambda: room.subscribe),
        (r"there is \.presence\.track", lambda: room.track),
        ("did you mean 'send'", lambda: room.sned),
        ("did you mean 'connect'", lambda: package.conect),
    ):
        with pytest.raises(AttributeError, match=told):
            call()  # type: ignore[no-untyped-call]
    with pytest.raises(
        TypeError, match=r"no Options\(pol_interval=\) \(did you mean 'poll_interval'"
    ):
        nrt.Options(pol_interval=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"grid\(\) has no column= \(did you mean 'columns'"):
        frame.grid(column=["name"])
    with pytest.raises(TypeError, match=r"plot\(\) has no colour= \(did you mean 'color'"):
        frame.plot(colour="name")


def test_a_column_that_is_not_there_needs_no_grant(
    stack: LocalStack, rt: nrt.Session, table: str
) -> None:
    stack.sql(f"revoke update on {table} from anon")
    frame = rt.table(table).wait(scaled(10))
    with pytest.raises(nrt.InvalidEditError, match="did you mean 'price'"):
        frame.edit(1, pric=3)
