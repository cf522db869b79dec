"""A table whose schema changes while it is in use (promise 9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack
from notebook_rt.sync.table.replica import Replica
from tests.waiting import scaled, until


@pytest.fixture
def rt(stack: LocalStack) -> Iterator[nrt.Session]:
    options = nrt.Options(audit_interval=0.5, poll_interval=0.5)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        yield session


@pytest.fixture
def table(stack: LocalStack, make_table: Callable[..., str]) -> str:
    name = make_table("id int primary key, n int, t text")
    stack.sql(f"insert into {name} select g, g, 'row ' || g from generate_series(1, 5) g")
    return name


def live(frame: nrt.LiveFrame) -> nrt.LiveFrame:
    frame.wait(scaled(10))
    until(lambda: frame.status == "live", what=lambda: repr(frame))
    return frame


def test_a_key_that_is_renamed_is_discovered_again(
    stack: LocalStack, rt: nrt.Session, table: str
) -> None:
    frame = live(rt.table(table))
    stack.sql(f"alter table {table} rename id to number")
    stack.sql(f"insert into {table} values (6, 6, 'new')")
    until(lambda: frame.df.index.name == "number" and len(frame.df) == 6, what=lambda: repr(frame))
    stack.sql(f"update {table} set n = 60 where number = 6")
    until(lambda: frame.df.loc[6, "n"] == 60)
    until(lambda: frame.status == "live", what=lambda: repr(frame))


@pytest.mark.parametrize(
    "change",
    [
        "alter table {0} rename id to code",
        "begin; drop table {0}; create table {0} (code int primary key, n int, t text);"
        "grant select, insert, update, delete on {0} to anon;"
        "insert into {0} select g, g, 'row ' || g from generate_series(1, 5) g;"
        "alter publication supabase_realtime add table {0}; commit",
    ],
    ids=["renamed", "made anew"],
)
def test_a_key_that_becomes_another_just_after_a_change_is_discovered_again(
    stack: LocalStack, rt: nrt.Session, table: str, change: str
) -> None:
    """The change may be later than what is read, and does not tell rows by the new key."""
    frame = live(rt.table(table))
    stack.sql(f"update {table} set t = 'told' where id = 1")
    until(lambda: frame.df.loc[1, "t"] == "told")
    stack.sql(change.format(table))
    stack.sql(f"update {table} set n = 60 where code = 5")
    until(lambda: frame.df.index.name == "code", 20, what=lambda: (repr(frame), frame.df))
    until(lambda: frame.df.loc[5, "n"] == 60)
    until(lambda: frame.status == "live", what=lambda: repr(frame))


@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        ("alter n type text", "str"),
        ("alter t type jsonb using jsonb_build_object('t', t)", "object"),
    ],
)
def test_a_type_that_is_changed_without_a_write_is_found_by_the_audit(
    stack: LocalStack, rt: nrt.Session, table: str, change: str, dtype: str
) -> None:
    frame = live(rt.table(table))
    stack.sql(f"alter table {table} {change}")
    column = change.split()[1]
    until(lambda: frame.df[column].dtype == dtype, what=lambda: frame.df.dtypes)
    assert frame.df[column].tolist() == [
        value for (value,) in stack.sql(f"select {column} from {table} order by id")
    ]


@pytest.mark.parametrize("asked", [{"columns": "n"}, {"order": "n"}, {"filter": "n=gte.0"}])
def test_a_column_that_was_asked_for_and_is_gone_is_named(
    stack: LocalStack, rt: nrt.Session, table: str, asked: dict[str, str]
) -> None:
    frame = live(rt.table(table, **asked))
    stack.sql(f"alter table {table} drop n")
    until(lambda: frame.status == "error", 20, what=lambda: repr(frame))
    with pytest.raises(errors.MissingColumnError, match='has no column "n"; there are id, t'):
        frame.wait(scaled(1))


@pytest.mark.parametrize("change", ["drop table {0}", "alter table {0} rename to {0}_old"])
def test_a_table_that_is_gone_is_said_to_be_gone(
    stack: LocalStack, rt: nrt.Session, table: str, change: str
) -> None:
    frame = live(rt.table(table))
    stack.sql(change.format(table))
    until(lambda: frame.status == "error", 20, what=lambda: repr(frame))
    with pytest.raises(errors.MissingTableError, match=table):
        frame.wait(scaled(1))
    stack.sql(f"drop table if exists {table}_old")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("drop table {0}", errors.MissingTableError),
        ("revoke all on {0} from anon", errors.PermissionDeniedError),
    ],
)
def test_who_waits_for_changes_is_told_that_the_table_is_gone_and_edits_no_more(
    stack: LocalStack, rt: nrt.Session, table: str, change: str, error: type[Exception]
) -> None:
    frame = live(rt.table(table))
    assert isinstance(frame, nrt.LiveTable)
    batches, awaited = frame.changes(timeout=scaled(20)), frame.changes(timeout=scaled(20))
    stack.sql(f"update {table} set n = 7 where id = 1")
    assert [found.key for found in next(batches)] == [1]
    stack.sql(change.format(table))
    with pytest.raises(error, match=table):
        next(batches)
    assert list(batches) == []

    async def all_of_them() -> None:
        async for batch in awaited:
            assert [found.key for found in batch] == [1]

    with pytest.raises(error, match=table):
        asyncio.run(all_of_them())
    with pytest.raises(error, match=table):
        next(frame.changes(timeout=scaled(10)))
    with pytest.raises(error, match=table):
        frame.edit(1, n=8)
    assert frame.pending.empty


PUBLISH = "alter publication supabase_realtime add table {0}"
GRANT = "grant select, insert, update, delete on {0} to anon, authenticated, service_role"
ENDS = {
    "dropped": (
        "drop table {0}",
        f"create table {{0}} (id int primary key, n int); {GRANT}; {PUBLISH}",
    ),
    "revoked": ("revoke all on {0} from anon", GRANT),
    "published": ("alter publication supabase_realtime drop table {0}", PUBLISH),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_table_that_is_fixed_comes_back_by_itself_and_is_in_error_until_then(
    stack: LocalStack, table: str, end: str
) -> None:
    ends, mends = ENDS[end]
    options = nrt.Options(audit_interval=0.5, poll_interval=0.5, backoff_base=0.02)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        frame = live(rt.table(table))
        stack.sql(ends.format(table))
        until(lambda: frame.status == "error", 20, what=lambda: repr(frame))
        told: list[str] = []
        frame._feed.status_listeners.add(lambda status, reason: told.append(status))
        asked = rt.metrics["requests"]
        until(lambda: rt.metrics["requests"] > asked + 3)  # asked for again, in vain
        assert told == []
        with pytest.raises(errors.TableError, match=table):
            _ = frame.df
        stack.sql(mends.format(table))
        until(lambda: frame.status == "live", 20, what=lambda: repr(frame))
        stack.sql(f"insert into {table} values (9, 9)")
        until(lambda: 9 in frame.df.index, what=lambda: frame.df)
        assert len(frame.df) == (1 if end == "dropped" else 6)
        assert "error" not in told


TWO_STEPS = {
    "type, then rename": ("alter n type text using n::text", "rename n to m"),
    "type, then drop": ("alter n type text using n::text || '!'", "drop n"),
    "type, then drop another": ("alter n type text using n::text", "drop price"),
    "drop two": ("drop n", "drop price"),
}


@pytest.mark.parametrize("steps", TWO_STEPS)
def test_two_migrations_with_writes_between_end_in_the_new_columns(
    stack: LocalStack, make_table: Callable[..., str], steps: str
) -> None:
    with nrt.connect(stack.url, stack.anon_key) as rt:
        for _ in range(4):  # a race: one in three met it
            table = make_table("id bigint primary key, name text, n int, price numeric")
            stack.sql(f"insert into {table} select g, 'n', g, g from generate_series(1, 3) g")
            frame = rt.table(table).wait(scaled(10))
            until(lambda: frame.status == "live", what=lambda: frame)  # noqa: B023  # read now
            for number, step in enumerate(TWO_STEPS[steps]):
                stack.sql(f"alter table {table} {step}")
                stack.sql(f"insert into {table} (id) values ({100 + number})")
            names = [
                name
                for (name,) in stack.sql(
                    "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
                    "and not attisdropped order by attnum",
                    table,
                )
            ]

            def true(frame: nrt.LiveTable = frame, names: list[str] = names) -> bool:
                shown = frame.df.reset_index()
                return sorted(shown.columns) == sorted(names) and len(shown) == 5

            until(true, 15, lambda: (frame, frame.df))  # noqa: B023  # read now
            frame.close()


@pytest.mark.parametrize(
    ("step", "times", "poll_interval"), [("take_row", 1, 60.0), ("continue_from", 2, 0.5)]
)
def test_an_exception_while_columns_move_is_read_over_at_once(
    stack: LocalStack,
    make_table: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    times: int,
    poll_interval: float,
) -> None:
    """It waited for `poll_interval`, as after the second in a row it does still."""
    raised: list[int] = []
    works = getattr(Replica, step)

    def failing_once(self: Replica, *given: Any) -> Any:
        if len(raised) < times:
            raised.append(1)
            raise KeyError("price")
        return works(self, *given)

    options = nrt.Options(poll_interval=poll_interval, poll_max=60.0, audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
        table = make_table("id bigint primary key, name text, price numeric")
        stack.sql(f"insert into {table} values (1, 'a', 1)")
        frame = live(rt.table(table))
        monkeypatch.setattr(Replica, step, failing_once)
        stack.sql(f"alter table {table} drop price, add n int default 7")
        stack.sql(f"insert into {table} (id) values (2)")
        until(lambda: raised and frame.status == "live", 20, lambda: frame)
        until(lambda: list(frame.df.columns) == ["name", "n"], 20, lambda: frame.df)
        assert list(frame.df.index) == [1, 2]


@pytest.mark.parametrize("change", ["rename n to m", "add c int", "drop n"])
def test_columns_move_with_a_change_that_has_a_null_of_a_float_column(
    stack: LocalStack, make_table: Callable[..., str], change: str
) -> None:
    """Such a null is read again, for it may be a NaN."""
    table = make_table("id bigint primary key, name text, n float8, other float8")
    stack.sql(f"insert into {table} values (1, 'a', 1.5, null), (2, 'b', 2.5, null)")
    with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=0)) as rt:
        frame = live(rt.table(table))
        stack.sql(f"alter table {table} {change}")
        stack.sql(f"update {table} set name = 'c' where id = 1")
        names = {"rename n to m": ["name", "m", "other"], "drop n": ["name", "other"]}
        wanted = names.get(change, ["name", "n", "other", "c"])
        until(lambda: list(frame.df.columns) == wanted, 8, lambda: (frame, frame.df))
        until(lambda: frame.df["name"].to_dict() == {1: "c", 2: "b"}, 8, lambda: frame.df)


@pytest.mark.parametrize(
    "change", ["add c int default 7", "alter n type text using n::text", "drop n"]
)
@pytest.mark.parametrize("options", [{}, {"order": "id.desc", "limit": 3}])
def test_what_is_told_across_a_column_change_is_what_is_shown(
    stack: LocalStack,
    rt: nrt.Session,
    make_table: Callable[..., str],
    change: str,
    options: dict[str, object],
) -> None:
    table = make_table("id bigint primary key, name text, n int")
    stack.sql(f"insert into {table} select g, 'n', g from generate_series(1, 5) g")
    frame = live(rt.table(table, **options))  # type: ignore[arg-type]  # one of the two
    names = {key: frame.df.loc[key, "name"] for key in frame.df.index}

    def replay(batch: nrt.ChangeBatch) -> None:
        for one in batch:
            names.pop(one.key, None)
            if one.new is not None:
                names[one.key] = one.new["name"]

    frame.on_change(replay)
    stack.sql(f"alter table {table} {change}")
    stack.sql(f"insert into {table} (id, name) values (100, 'x')")
    stack.sql(f"delete from {table} where id = 1")
    stack.sql(f"update {table} set name = 'new' where id = 4")
    stack.sql(f"insert into {table} (id, name) values (101, 'x')")
    until(lambda: {100, 101} <= set(frame.df.index) and frame.df["name"].get(4, "new") == "new")
    until(lambda: names == frame.df["name"].to_dict(), what=lambda: (names, frame.df))


def test_a_column_that_only_orders_is_not_shown(
    stack: LocalStack, rt: nrt.Session, table: str
) -> None:
    frame = live(rt.table(table, columns=["t"], order="n.desc"))
    key = frame.df.index[0]
    assert list(frame.df.columns) == ["t"]
    assert frame.to_arrow().column_names == ["id", "t"]
    assert set(frame.get(key) or {}) == {"id", "t"}
    assert frame.schema is not None
    assert frame.schema.names == ("id", "t")
