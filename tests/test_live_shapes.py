"""Tables of every kind: ``doctor`` accepts them after its SQL fixes, and each can be written."""

from __future__ import annotations

import argparse
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import notebook_rt as nrt
from notebook_rt.cli import doctor
from notebook_rt.cli.findings import sql_of
from notebook_rt.errors import NotPublishedError, TableError
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.quoting import identifier
from notebook_rt.runtime.optional_sql import optional_sql
from tests.waiting import scaled, until

ODD = 'It\'s "ü" x'
GIVEN = """
grant select, insert, update, delete on {0} to anon, authenticated, service_role;
alter publication supabase_realtime add table {0};
"""
TABLES = {
    "generated": "create table {0} (id int primary key, a text, "
    "up text generated always as (upper(a)) stored)",
    "domain": "create domain short as text check (length(value) < 9); "
    "create table {0} (id int primary key, a short)",
    "composite": "create table {0} (k text default 'p', id int, a text, primary key (k, id))",
    ODD: 'create table {0} (id int primary key, a text, "Wéird, c.l" int)',
    "deferred": "create table {0} (id int primary key, a text, "
    "p int references {0} deferrable initially deferred)",
    "triggered": """create table {0} (id int primary key, a text);
        create function triggered_row() returns trigger language plpgsql as $$ begin
            if new.a = 'skip' then return null; end if;
            new.a = rtrim(new.a, '!') || '!'; return new; end $$;
        create trigger t before insert or update on {0} for each row execute function triggered_row()""",
}
OTHERS = f"""
create table bare (id int primary key, a text);
create table unshown (id int primary key, a text);
alter table unshown enable row level security;
{GIVEN.format("unshown")}
create table parted (id int primary key, a text) partition by range (id);
create table parted_1 partition of parted for values from (0) to (100);
create view view_of as select * from bare;
create view instead_of as select id, a || '' as a from bare;
create function instead_row() returns trigger language plpgsql as 'begin return new; end';
create trigger t instead of update on instead_of for each row execute function instead_row();
create extension file_fdw; create server files foreign data wrapper file_fdw;
create foreign table foreign_of (id int, a text) server files options (program 'echo 1,x', format 'csv');
grant select, insert, update, delete on parted, view_of, instead_of, foreign_of
    to anon, authenticated, service_role;
"""


def name_of(table: str) -> str:
    return identifier(table)


@pytest.fixture(scope="module", params=[True, False], ids=["with our SQL", "without"])
def project(
    request: pytest.FixtureRequest,
    ready_made: Callable[[Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LocalStack, bool]]:
    with start(ready_made(tmp_path_factory.mktemp("shapes")), options=StackOptions()) as stack:
        if request.param:
            stack.sql(optional_sql())
        for table, made in TABLES.items():
            stack.sql(made.format(name_of(table)) + ";" + GIVEN.format(name_of(table)))
            stack.sql(f"insert into {name_of(table)} (id, a) values (1, 'x'), (2, 'y')")
        stack.sql(OTHERS)
        yield stack, request.param


@pytest.fixture(params=["anon", "authenticated"])
def key(
    request: pytest.FixtureRequest,
    project: tuple[LocalStack, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    stack = project[0]
    anon = request.param == "anon"
    key = stack.publishable_key if anon else stack.token("authenticated", sub=str(uuid.UUID(int=1)))
    monkeypatch.setenv("SUPABASE_URL", stack.url)
    monkeypatch.setenv("SUPABASE_KEY", key)
    return key


def looked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    status = doctor.run(parser.parse_args(arguments))
    return status, capsys.readouterr().out


def test_doctor_is_content_with_what_its_own_sql_fixes(
    project: tuple[LocalStack, bool], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, described = project
    tables = [*TABLES, "bare", "unshown"]
    unknown = ["parted", "view_of", "instead_of", "foreign_of"]
    """Without our SQL nothing tells these from a table whose key is not known."""
    tables += unknown if described else []
    stack.sql("revoke all on bare from anon, authenticated")
    for table in tables:
        for _ in range(2):
            _, sql = looked(capsys, table, "--mend")
            stack.sql(sql or "select")
        status, found = looked(capsys, table, "--json")
        wrong = [one["text"] for one in json.loads(found) if one["level"] == "wrong"]
        assert (table, status, wrong) == (table, 0, [])
    if not described:
        for table in unknown:  # what is printed is harmless, however often it is run
            for _ in range(2):
                _, sql = looked(capsys, table, "--mend")
                stack.sql(sql or "select")


def test_a_table_without_a_key_is_not_published_as_it_is(
    project: tuple[LocalStack, bool], key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL would refuse what its own application writes."""
    stack, _ = project
    stack.sql(
        "drop table if exists keyless; create table keyless (a int, b int);"
        "insert into keyless values (1, 1), (1, 1)"
    )
    for _ in range(3):
        _, sql = looked(capsys, "keyless", "--mend")
        stack.sql(sql or "select")
        stack.sql("update keyless set b = b + 1")
    _, found = looked(capsys, "keyless")
    assert "refuses every update and delete" in found
    stack.sql("update keyless set a = b, b = 0 where ctid = (select min(ctid) from keyless)")
    with nrt.connect(stack.url, key) as rt:
        with pytest.raises(NotPublishedError, match="needs one first") as caught:
            rt.table("keyless", key="a").wait(scaled(10))
        sql = sql_of(str(caught.value))
        stack.sql("insert into keyless values (1, 0)")
        with pytest.raises(psycopg.Error, match="could not create unique index"):
            stack.sql(sql)
        stack.sql("update keyless set b = 2 where b = 0")
        stack.sql("delete from keyless where b = 2")
        for _ in range(2):  # the second: it has a primary key by now
            stack.sql(sql)
            stack.sql("update keyless set b = b + 1")
            stack.sql("alter publication supabase_realtime drop table keyless")
        assert "alter table" in sql
        with pytest.raises(NotPublishedError) as caught:
            rt.table("keyless", key="b").wait(scaled(10))
        stack.sql(sql_of(str(caught.value)))
        stack.sql("update keyless set b = b + 1")
    stack.sql("drop table keyless")


def test_what_a_query_depends_on_is_published_only_with_a_key(
    project: tuple[LocalStack, bool], key: str
) -> None:
    stack, _ = project
    stack.sql(
        "drop table if exists keyless cascade; create table keyless (a int); insert into keyless values (1);"
        "create or replace view keyless_seen as select * from keyless;"
        "grant select on keyless, keyless_seen to anon, authenticated"
    )
    with nrt.connect(stack.url, key) as rt:
        query = rt.query("keyless_seen", depends_on="keyless", key="a")
        with pytest.raises(NotPublishedError, match="publishes none without") as caught:
            query.wait(scaled(10))
    with pytest.raises(psycopg.Error, match="needs a primary key first"):
        stack.sql(sql_of(str(caught.value)))
    stack.sql("update keyless set a = 2")
    stack.sql("drop table keyless cascade")


@pytest.mark.parametrize("named", [None, "id"])
def test_a_foreign_table_is_said_to_be_one_for_a_query(
    project: tuple[LocalStack, bool], key: str, named: str | None
) -> None:
    """Its changes cannot be published, and it has no primary key: SQL that would fail is no advice."""
    with nrt.connect(project[0].url, key) as rt:
        with pytest.raises(TableError, match=r"foreign table.*rt\.query"):
            rt.table("foreign_of", key=named).wait(scaled(30))
        assert rt.query("foreign_of").wait(scaled(30)).df["a"].tolist() == ["x"]


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_any_shape_is_written_as_any_other(
    project: tuple[LocalStack, bool], key: str, tmp_path: Path, table: str
) -> None:
    stack, quoted = project[0], name_of(table)
    stack.sql(f"delete from {quoted}; insert into {quoted} (id, a) values (1, 'x'), (2, 'y')")
    of: Callable[[int], Any] = (
        (lambda one: ("p", one)) if table == "composite" else (lambda one: one)
    )

    def row(one: int, a: str) -> dict[str, Any]:
        return {"id": one, "a": a, **({"k": "p"} if table == "composite" else {})}

    with nrt.connect(stack.url, key, queue_path=tmp_path / "queue.sqlite3") as rt:
        frame = rt.table(table).wait()
        for write in (
            lambda: frame.insert(**row(5, "new")),
            lambda: frame.edit(of(1), a="edited"),
            lambda: frame.delete(of(2)),
            lambda: frame.upsert([row(1, "up"), row(7, "in"), row(8, "in")]),
            lambda: frame.edit_many(frame.df[["a"]].assign(a="many")),
            lambda: frame.delete([of(5), of(7)]),
        ):
            write()
            assert rt.queue.flush(30) == 0, rt.queue.df["why"].tolist()
        truth = stack.sql(f"select id, a from {quoted} order by 1")
        assert [one[0] for one in truth] == [1, 8]
        until(lambda: sorted(frame.df.reset_index()[["id", "a"]].itertuples(False, None)) == truth)
        if table in ("triggered", "deferred"):
            frame.edit(of(1), **({"a": "skip"} if table == "triggered" else {"p": 99}))
            assert rt.queue.flush(30) == 1
            why = rt.queue.df["why"].iloc[0]
            assert ("BEFORE, returning NULL" if table == "triggered" else "23503") in why
            assert frame.discard(of(1)) == 1
            assert stack.sql(f"select id, a from {quoted} order by 1") == truth
