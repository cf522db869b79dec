"""A new user's way: a URL, a publishable key, tables and policies, without our grants, publication or SQL.

Each step fails with an error that says the next step. The steps are read out of the errors and done
as a user does them in the project's SQL editor; at most six of them end in a table that moves.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

import notebook_rt as nrt
from notebook_rt.cli.main import main
from notebook_rt.local import LocalStack, start
from tests.conftest import OLD_PLATFORM, QUICK
from tests.waiting import scaled, until

STEPS = 6
SQL = re.compile(r"run: (?P<sql>.+?)(?: \(a view|, or sign|$)")
PASTE = "`notebook-rt doctor --sql`"
WITHOUT_SQL = (
    "drop function if exists nrt_describe, notebook_rt_write, notebook_rt_write_many, "
    "notebook_rt_keys"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A project of its own, in which nobody has run anything of ours."""
    options = replace(QUICK, schemas=("public", "sales"))
    with start(tmp_path_factory.mktemp("new_project"), options=options) as running:
        yield running


def next_step(said: str) -> str:
    """The SQL that ``said`` asks to be run; what our command prints, where it asks for that."""
    if found := SQL.search(said):
        return found["sql"]
    assert PASTE in said, f"no next step: {said}"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["doctor", "--sql"]) == 0
    return printed.getvalue()


@dataclass
class Way:
    """What was said, and what was done, in order."""

    project: LocalStack
    table: str
    schema: str = "public"

    def __post_init__(self) -> None:
        self.said: list[str] = []
        self.ran: list[str] = []

    def do(self, said: str) -> None:
        step = next_step(said)
        assert step not in self.ran, f"the same step again: {said}"
        self.said.append(said)
        self.ran.append(step)
        assert len(self.ran) < STEPS, self.ran  # one more is the table itself
        self.project.sql(step)

    def see(self, rt: nrt.Session, *, empty: bool = False) -> nrt.LiveTable:
        """Open the table, as often as an error says what is missing; ``empty``: it has no row."""
        while True:
            frame = rt.table(self.table, schema=self.schema)
            try:
                frame.wait(scaled(10))
                until(
                    lambda frame=frame: frame.status in ("live", "error"),
                    what=lambda frame=frame: repr(frame),
                )
                frame.wait(scaled(10))  # Realtime may refuse a table after its rows have come
            except nrt.errors.TableError as error:
                self.do(str(error))
                continue
            if not len(frame) and not empty:
                self.do(frame.reason)
                until(lambda frame=frame: len(frame) > 0, scaled(30))
            return frame

    def wrote(self, rt: nrt.Session, write: Callable[[], object]) -> bool:
        """Write, and again as often as the queue says what is missing.

        False: it could not be queued; the error said what is missing, and that was done.
        """
        try:
            write()
        except (nrt.InvalidEditError, nrt.errors.PermissionDeniedError) as error:
            self.do(str(error))
            return False
        while True:
            rt.queue.flush(scaled(10))
            refused = rt.queue.df
            if refused.empty:
                return True
            self.do(str(refused["why"].iloc[0]))
            rt.queue.retry()


def moves(way: Way, frame: nrt.LiveTable, statement: str) -> None:
    version = frame.version
    way.project.sql(statement)
    until(lambda: frame.version > version, scaled(10), what=lambda: frame)


def test_a_table_with_policies_and_no_grants_is_live_and_written_in_six_steps(
    project: LocalStack,
) -> None:
    project.sql(
        "create table steps (sku text primary key, n int);"
        "insert into steps values ('a', 1), ('b', 2);"
        "alter table steps enable row level security;"
        "create policy everybody on steps using (true) with check (true)"
    )
    way = Way(project, "steps")
    with nrt.connect(project.url, project.publishable_key) as rt:
        frame = way.see(rt)
        moves(way, frame, "update steps set n = 3 where sku = 'a'")
        assert frame.df.n.to_dict() == {"a": 3, "b": 2}
        assert way.wrote(rt, lambda: frame.edit("b", n=5))
        assert way.wrote(rt, lambda: frame.insert(sku="c", n=6))
        assert way.wrote(rt, lambda: frame.delete("a"))
    published = "alter publication supabase_realtime add table public.steps"
    assert way.ran == (
        [published]
        if OLD_PLATFORM
        else [
            "grant select on public.steps to anon",
            published,
            "grant update (n) on public.steps to anon",
            "grant insert on public.steps to anon",
            "grant delete on public.steps to anon",
        ]
    ), "tables have grants by default there"
    assert project.sql("select * from steps order by sku") == [("b", 5), ("c", 6)]


def test_a_table_of_another_schema_asks_for_the_schema_its_grant_and_the_publication(
    project: LocalStack,
) -> None:
    project.sql(
        'create schema sales; create table sales."Big orders" (day date, "a,b" int, n int, '
        'primary key (day, "a,b")); insert into sales."Big orders" values (\'2026-01-02\', 1, 1);'
        "create schema kept; create table kept.orders (id int primary key)"
    )
    way = Way(project, "Big orders", "sales")
    with nrt.connect(project.url, project.publishable_key) as rt:
        frame = way.see(rt)
        moves(way, frame, 'update sales."Big orders" set n = 2')
        assert frame.df.n.tolist() == [2]
        with pytest.raises(nrt.errors.MissingTableError) as caught:
            rt.table("orders", schema="kept").wait(scaled(10))
    assert way.ran == [
        "grant usage on schema sales to anon",
        'grant select on sales."Big orders" to anon',
        'alter publication supabase_realtime add table sales."Big orders"',
    ]
    words = str(caught.value)
    assert 'schema "kept" is not exposed by the API' in words
    assert "public, sales" in words
    assert "Add it to the exposed schemas" in words
    assert "Check its name" not in words


def test_a_table_whose_policies_hide_every_row_says_so_and_which_policy_shows_them(
    project: LocalStack,
) -> None:
    project.sql(
        "create table hidden_steps (id int primary key, n int);"
        "insert into hidden_steps values (1, 1);"
        "alter table hidden_steps enable row level security"
    )
    way = Way(project, "hidden_steps")
    with nrt.connect(
        project.url, project.publishable_key, options=nrt.Options(audit_interval=0.5)
    ) as rt:
        frame = way.see(rt)
        assert "row-level security" in way.said[-1]
        until(lambda: frame.df.columns.tolist() == ["n"], what=lambda: frame.df)
        assert frame.df.n.to_dict() == {1: 1}
        assert frame.reason == ""
        moves(way, frame, "insert into hidden_steps values (2, 2)")
    assert (
        way.ran[-1]
        == "create policy anon_reads on public.hidden_steps for select to anon using (true)"
    )


@pytest.mark.skipif(OLD_PLATFORM, reason="the API's description tells every key there")
def test_an_empty_table_of_an_unusual_key_asks_for_key_or_the_sql_once(
    project: LocalStack,
) -> None:
    project.sql("create table odd_steps (colour_of_it text primary key, n int)")
    way = Way(project, "odd_steps")
    try:
        with nrt.connect(project.url, project.publishable_key) as rt:
            frame = way.see(rt, empty=True)
            assert frame.df.columns.tolist() == ["n"]
            assert "key=" in way.said[1]
            assert "alter table" not in way.said[1]
            assert frame.reason == "", "the SQL says that no policy hides a row"
            moves(way, frame, "insert into odd_steps values ('red', 1)")
    finally:
        project.sql(WITHOUT_SQL)
        project.sql("drop schema if exists notebook_rt cascade; notify pgrst, 'reload schema'")


def test_a_serial_key_is_asked_for_step_by_step(project: LocalStack) -> None:
    project.sql("create table serial_steps (id serial primary key, n int)")
    way = Way(project, "serial_steps")
    try:
        written = False
        while not written:  # the cell is run again, from its connect on
            with nrt.connect(project.url, project.publishable_key) as rt:
                frame = way.see(rt, empty=True)
                written = way.wrote(rt, lambda frame=frame: frame.insert(n=1))
                if written:
                    assert frame.df.n.tolist() == [1]
        assert len(way.ran) == (1 if OLD_PLATFORM else 4), way.ran
    finally:
        project.sql(WITHOUT_SQL)
        project.sql("drop schema if exists notebook_rt cascade; notify pgrst, 'reload schema'")


@pytest.mark.parametrize("described", [False, True])
def test_a_view_is_never_told_to_be_published(project: LocalStack, described: bool) -> None:
    project.sql("create or replace view view_steps as select 1 as id")
    project.sql("grant select on view_steps to anon")
    if described:
        project.sql(next_step(PASTE))
    try:
        with (
            nrt.connect(project.url, project.publishable_key) as rt,
            pytest.raises(nrt.errors.TableError) as caught,
        ):
            rt.table("view_steps", key="id").wait(scaled(10))
        assert "rt.query" in str(caught.value)
        if described:
            assert "run: alter publication" not in str(caught.value)
            assert 'rt.query("view_steps"' in str(caught.value)
    finally:
        project.sql("drop view view_steps")
        if described:
            project.sql(WITHOUT_SQL)
            project.sql("drop schema if exists notebook_rt cascade; notify pgrst, 'reload schema'")
