"""Tables of another exposed schema than `public`, in which the optional SQL has its functions."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

import notebook_rt as nrt
from notebook_rt.cli.main import main
from notebook_rt.errors import NoTablesError, NotBroadcastError, UnknownKeyError
from notebook_rt.local import LocalStack, start
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql, optional_sql
from tests.conftest import OLD_PLATFORM, QUICK
from tests.waiting import scaled, until

NAMES = [("sales", "orders"), ("Sales 2026", 'Orders "big"'), ("Küche", "Töpfe")]
"""A plain name, one that is quoted everywhere, and one that ASCII does not have."""


@pytest.fixture(scope="module")
def project(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    options = replace(QUICK, schemas=("public", *(schema for schema, _ in NAMES)))
    with start(ready_made(tmp_path_factory.mktemp("schemas")), options=options) as running:
        running.sql(optional_sql())
        yield running


@pytest.fixture(params=NAMES, ids=["plain", "quoted", "unicode"])
def table(request: pytest.FixtureRequest, project: LocalStack) -> Iterator[tuple[str, str, str]]:
    """A table of 2,000 rows in no publication: its schema, its name, and both as SQL has them."""
    schema, name = request.param
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
    home = quoted.split(".")[0]
    project.sql(
        f"create schema if not exists {home};"
        f"grant usage on schema {home} to anon, authenticated, service_role;"
        f"create table {quoted} (id bigint primary key, note text);"
        f"insert into {quoted} select n, 'old' from generate_series(1, 2000) n;"
        f"grant all on {quoted} to anon, authenticated, service_role"
    )
    yield schema, name, quoted
    if project.sql("select to_regproc('notebook_rt.broadcast_remove')") != [(None,)]:
        project.sql(broadcast_remove_sql(schema, [name]))
    project.sql(f"drop table {quoted}")


def truth(project: LocalStack, quoted: str) -> dict[Any, Any]:
    return dict(project.sql(f"select id, note from {quoted}"))  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["auto", "broadcast"])
def test_a_table_of_another_schema_is_found_broadcast(
    project: LocalStack, table: tuple[str, str, str], source: Literal["auto", "broadcast"]
) -> None:
    schema, name, quoted = table
    project.sql(broadcast_sql(schema, [name]))
    options = nrt.Options(audit_interval=0)
    with nrt.connect(project.url, project.anon_key, options=options) as rt:
        frame = rt.table(name, schema=schema, source=source)
        frame.wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        assert list(rt.health.sources.values()) == ["broadcast"]
        project.sql(f"update {quoted} set note = 'new' where id <= 3")
        until(lambda: frame.df["note"].to_dict() == truth(project, quoted), what=lambda: frame)
        project.sql(f"truncate {quoted}")
        until(lambda: frame.df.empty, what=lambda: frame)


def test_its_audit_and_its_writes_go_through_the_optional_sql(
    project: LocalStack, table: tuple[str, str, str]
) -> None:
    """As the database counts the calls."""
    schema, name, quoted = table
    project.sql("alter system set track_functions = 'pl'")
    project.sql("select pg_reload_conf(), pg_stat_reset()")

    def called() -> set[str]:
        return {str(row[0]) for row in project.sql("select funcname from pg_stat_user_functions")}

    project.sql(f"alter publication supabase_realtime add table {quoted}")
    options = nrt.Options(page_size=100)  # the table is a large one
    with nrt.connect(project.url, project.anon_key, options=options) as rt:
        frame = rt.table(name, schema=schema).wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))
        frame.edit_many(frame.df.head(100).assign(note="mine"))
        assert rt.queue.flush(scaled(20)) == 0
        until(lambda: frame.df["note"].to_dict() == truth(project, quoted), what=lambda: frame)
        assert frame.verify(scaled(20)).differed == 0
        until(lambda: {"nrt_digest", "notebook_rt_write_many"} <= called(), what=called)


def test_what_an_error_says_to_run_makes_it_broadcast(
    project: LocalStack, table: tuple[str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    schema, name, _ = table
    with nrt.connect(project.url, project.anon_key) as rt:
        with pytest.raises(NotBroadcastError) as caught:
            rt.table(name, schema=schema, source="broadcast").wait(scaled(10))
        (command,) = re.findall("`notebook-rt (.*)`", str(caught.value))
        assert main(shlex.split(command)) == 0
        project.sql(capsys.readouterr().out)
        frame = rt.table(name, schema=schema, source="broadcast").wait(scaled(10))
        until(lambda: frame.status == "live", what=lambda: repr(frame))


def test_where_public_is_not_exposed_a_table_is_live_and_says_what_it_lacks(
    stack_directory: Path,
) -> None:
    options = replace(QUICK, schemas=("api",))
    with start(stack_directory, options=options) as project:
        project.sql(
            "create schema api; grant usage on schema api to anon;"
            "create table api.items (sku text primary key, n int);"
            "insert into api.items values ('a', 1); grant select, update on api.items to anon;"
            "alter publication supabase_realtime add table api.items"
        )
        project.sql(optional_sql() + broadcast_sql("api", ["items"]))
        with nrt.connect(project.url, project.anon_key, schema="api") as rt:
            frame = rt.table("items").wait(scaled(10))
            until(lambda: frame.status == "live", what=lambda: repr(frame))
            frame.edit("a", n=2)
            assert rt.queue.flush(scaled(10)) == 0
            until(lambda: frame.df["n"].to_dict() == {"a": 2}, what=lambda: frame.df)
            assert list(rt.health.sources.values()) == ["changes"]
            with pytest.raises(NotBroadcastError, match='does not expose schema "public"'):
                rt.table("items", source="broadcast").wait(scaled(10))


@pytest.mark.skipif(OLD_PLATFORM, reason="the API's description tells the tables there")
def test_a_project_whose_api_hides_our_sql_is_told_to_expose_it_not_to_run_it(
    ready_made: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = replace(QUICK, schemas=("sales",))
    hides = 'does not expose schema "public"'
    with start(ready_made(tmp_path / "hidden"), options=options) as running:
        running.sql(optional_sql())
        running.sql(
            "create schema sales; grant usage on schema sales to anon;"
            "create table sales.rates (a float8, note text); grant select on sales.rates to anon;"
            "insert into sales.rates values (1.5, 'x')"
        )
        with nrt.connect(running.url, running.publishable_key, schema="sales") as rt:
            with pytest.raises(NoTablesError, match=hides):
                _ = rt.tables
            with pytest.raises(UnknownKeyError, match=hides):
                rt.table("rates").wait(scaled(20))
        monkeypatch.setenv("SUPABASE_URL", running.url)
        monkeypatch.setenv("SUPABASE_KEY", running.publishable_key)
        main(["doctor"])
        said = capsys.readouterr().out
        assert hides in said
        assert "the optional SQL is not there" not in said
