"""A session's interface besides tables: ``rpc``, ``tables``, ``close`` and ``async with``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.local import LocalStack, StackOptions, start
from tests.waiting import until

pytestmark = pytest.mark.slow


def test_a_function_gives_its_result_at_once(stack: LocalStack) -> None:
    stack.sql(
        "create or replace function faces_add(a int, b int) returns int language sql as 'select a + b'"
    )
    stack.sql(
        "create or replace function faces_rows(n int) returns table (i int, name text) language sql as "
        "'select i, chr(64 + i) from generate_series(1, n) i'"
    )
    stack.sql(
        "create or replace function faces_nothing() returns void language sql as 'select null'"
    )
    stack.sql("grant execute on function faces_add, faces_rows, faces_nothing to anon")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        assert rt.rpc("faces_add", {"a": 2, "b": 40}) == 42
        assert rt.rpc("faces_rows", {"n": 2}) == [{"i": 1, "name": "A"}, {"i": 2, "name": "B"}]
        assert rt.rpc("faces_rows", {"n": 0}) == []
        assert rt.rpc("faces_nothing") is None
        with pytest.raises(errors.NotebookRTError, match="faces_absent"):
            rt.rpc("faces_absent")
        with pytest.raises(TypeError, match="must be a dict"):
            rt.rpc("faces_add", [2, 40])  # type: ignore[arg-type]
    with pytest.raises(errors.ClosedError):
        rt.rpc("faces_add", {"a": 1, "b": 1})
    stack.sql("drop function faces_add, faces_rows, faces_nothing")


@pytest.mark.usefixtures("described_by_sql")
def test_what_may_be_watched_is_a_dataframe_of_what_this_login_may_read(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    mine = make_table("sku text primary key, n int")
    theirs = make_table()
    stack.sql(f"revoke all on {theirs} from anon")
    unpublished = make_table()
    stack.sql(f"alter publication supabase_realtime drop table {unpublished}")
    with nrt.connect(stack.url, stack.anon_key) as rt:
        tables = rt.tables
    assert tables.loc[mine, "key"] == ("sku",)
    assert tables.loc[mine, "columns"] == ("sku", "n")
    assert tables.loc[mine, "published"]
    assert not tables.loc[unpublished, "published"]
    assert theirs not in tables.index


def test_a_project_that_does_not_tell_its_tables_says_how_to_have_it_told(
    stack_directory: Path,
) -> None:
    with start(stack_directory, options=StackOptions()) as plain:
        plain.sql("create table notes (id int primary key, body text)")
        plain.sql("grant select on notes to service_role")
        with (
            nrt.connect(plain.url, plain.publishable_key) as rt,
            pytest.raises(errors.NoTablesError, match="doctor --sql"),
        ):
            _ = rt.tables
        with nrt.connect(plain.url, plain.secret_key) as rt:
            assert rt.tables.loc["notes", "key"] == ("id",)


async def test_sessions_channels_and_tables_are_async_context_managers(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    name = make_table()
    async with nrt.connect(stack.url, stack.anon_key) as rt:
        async with rt.table(name) as table, rt.channel("faces") as room:
            assert table.status in ("live", "polling")
            assert room.status != "closed"
        assert (table.status, room.status) == ("closed", "closed")
    with pytest.raises(errors.ClosedError):
        rt.table(name)


def test_the_status_of_a_session_is_told_and_closes(stack: LocalStack) -> None:
    told: list[str] = []
    rt = nrt.connect(stack.url, stack.anon_key)
    rt.on_status(lambda status, reason: told.append(status))
    was = rt.status  # a fast machine is connected already, which nobody is told any more
    rt.channel("faces")
    until(lambda: rt.status == "connected")
    until(lambda: "connected" in told or was == "connected")
    rt.close()
    assert rt.status == "disconnected"
