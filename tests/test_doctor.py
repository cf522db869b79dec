"""A project broken in many ways: ``notebook-rt doctor`` finds each problem, and its SQL fixes it."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import notebook_rt as nrt
from notebook_rt.cli import doctor, findings
from notebook_rt.cli.findings import Finding
from notebook_rt.cli.main import main
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.runtime.optional_sql import (
    AUDIT_SQL,
    DESCRIBE_SQL,
    LEDGER_SQL,
    broadcast_remove_sql,
    broadcast_sql,
)
from notebook_rt.session import Session, connect
from notebook_rt.table import LiveTable
from tests.proxy import Proxy
from tests.waiting import scaled, until

WHOLE = """
drop table if exists ill cascade; drop table if exists "Ill one" cascade; drop sequence if exists ill_ids;
create sequence ill_ids;
create table ill (id int primary key default nextval('ill_ids'), name text, updated_at timestamptz);
insert into ill (name) values ('a'), ('b');
alter table ill enable row level security;
create policy read_all on ill for select to anon using (true);
create policy insert_all on ill for insert to anon with check (true);
grant select, insert on ill to anon;
grant usage on sequence ill_ids to anon;
create or replace function ill_now() returns trigger language plpgsql as
    $$ begin new.updated_at = now(); return new; end $$;
create trigger ill_now before update on ill for each row execute function ill_now();
do $$ begin create publication supabase_realtime; exception when duplicate_object then null; end $$;
alter publication supabase_realtime add table ill
"""

ILLS = {
    "alter publication supabase_realtime drop table ill": "not in the publication",
    "revoke select on ill from anon": "may not read it",
    "revoke all on ill from anon": "may not select",
    "alter table ill replica identity nothing": "replica identity is nothing",
    "revoke usage on sequence ill_ids from anon": "not take a key from the sequence ill_ids",
    "drop publication supabase_realtime": "there is no publication",
}


NOTED = {
    "alter table ill drop constraint ill_pkey; create unique index on ill (id)": "no primary key",
    "drop trigger ill_now on ill": "no trigger sets updated_at",
    "drop policy read_all on ill": "no policy shows role anon a row",
    "alter table ill disable row level security": "row-level security is off",
    "revoke insert on ill from anon": "if role anon is to write it",
}
"""What is broken so that the mend is somebody's decision: a note, with the SQL."""


@pytest.fixture(scope="module")
def project(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """A stack of its own: publications and roles are everybody's."""
    with start(ready_made(tmp_path_factory.mktemp("ill")), options=StackOptions()) as stack:
        yield stack


@pytest.fixture
def whole(project: LocalStack, monkeypatch: pytest.MonkeyPatch) -> LocalStack:
    for file in (DESCRIBE_SQL, AUDIT_SQL, LEDGER_SQL):
        project.sql(file.read_text())
    project.sql(WHOLE)
    monkeypatch.setenv("SUPABASE_URL", project.url)
    monkeypatch.setenv("SUPABASE_KEY", project.publishable_key)
    return project


def asked(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    return parser.parse_args(arguments)


def looked(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Finding]:
    capsys.readouterr()  # a stack that takes long to start says so
    status = doctor.run(asked(*arguments, "--json"))
    found = [Finding(**one) for one in json.loads(capsys.readouterr().out)]
    assert status == any(one.level == "wrong" for one in found)
    return found


def wrong(found: list[Finding]) -> list[str]:
    return [one.text for one in found if one.level == "wrong"]


def test_a_whole_project_has_nothing_wrong(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    found = looked(capsys, "ill")
    assert wrong(found) == []
    said = "\n".join(one.text for one in found)
    assert "the key is publishable, the role anon" in said
    assert "role anon may select, insert, the rows that policies let it" in said
    assert "2 rows, live" in said
    assert "the optional SQL is there" in said
    assert whole.publishable_key not in said


def test_what_only_the_user_can_decide_is_a_note_beside_the_connection(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.sql("alter table ill add check (name <> 'x')")
    with connect(whole.url, whole.publishable_key) as rt:
        rt.table("ill").wait(scaled(10)).insert(id=9, name="x")
        until(lambda: rt.health.status == "refused", 10, lambda: rt.health)
        [one] = [one for one in looked(capsys) if one.text.startswith("connected: 1 ")]
        assert one.level == "note"


def test_what_waits_is_decided_by_commands_and_not_in_python(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole.sql("alter table ill add check (name <> 'x')")
    with connect(whole.url, whole.publishable_key) as rt:
        rt.table("ill").wait(scaled(10)).insert(id=9, name="x")
        rt.queue.flush(scaled(10))
        rt.queue.pause()
        rt.table("ill").wait(scaled(10)).insert(id=10, name="y")
    caplog.clear()
    said = "\n".join(one.text for one in looked(capsys, "ill"))
    assert "`notebook-rt queue list` lists it: `notebook-rt queue retry` sends it again" in said
    assert "`notebook-rt queue discard ID` drops it" in said
    assert "`notebook-rt queue retry` sends it" in caplog.text
    assert not re.search(r"rt\.queue|\.(retry|resume|discard)\(", said + caplog.text)
    main(["queue", "retry"])
    assert "2 operations" in capsys.readouterr().out


def test_who_names_no_table_is_told_how_to(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor.run(asked())
    assert "notebook-rt doctor TABLE" in capsys.readouterr().out
    doctor.run(asked("ill"))
    assert "doctor TABLE" not in capsys.readouterr().out


@pytest.mark.parametrize("ill", ILLS)
def test_what_is_wrong_is_found_and_mended_by_its_sql(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], ill: str
) -> None:
    whole.sql(ill)
    before = wrong(looked(capsys, "ill"))
    assert any(ILLS[ill] in text for text in before), before
    for _ in range(3):  # what was hidden by the first may be wrong, too
        doctor.run(asked("ill", "--mend"))
        if not (sql := capsys.readouterr().out.strip()):
            break
        whole.sql(sql)
    assert wrong(looked(capsys, "ill")) == []


def test_all_that_is_wrong_at_once_is_fixed_in_rounds(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    for ill in ILLS:
        whole.sql(ill)
    assert len(wrong(looked(capsys, "ill"))) >= 3
    for _ in range(5):
        doctor.run(asked("ill", "--mend"))
        if not (sql := capsys.readouterr().out.strip()):
            break
        whole.sql(sql)
    found = looked(capsys, "ill")
    assert wrong(found) == []
    assert any(one.text.startswith("2 rows, live") for one in found)


@pytest.mark.parametrize("ill", NOTED)
def test_what_is_to_be_decided_is_noted_and_mended_by_its_sql(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], ill: str
) -> None:
    whole.sql(ill)
    assert doctor.run(asked("ill", "--mend")) == 0
    printed = capsys.readouterr().out
    assert NOTED[ill] in printed
    assert all(line.startswith("--") or not line for line in printed.splitlines())
    (noted,) = [one for one in looked(capsys, "ill") if NOTED[ill] in one.text and one.sql]
    whole.sql(noted.sql)
    found = looked(capsys, "ill")
    assert wrong(found) == []
    assert not [one for one in found if NOTED[ill] in one.text]


def test_a_partitioned_table_is_told_what_follows_it_and_no_sql_that_does_nothing(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.sql(
        'create table "Ill one" (id int, at date, primary key (id, at)) partition by range (at);'
        "create table ill_2026 partition of \"Ill one\" for values from ('2026-01-01') to ('2027-01-01');"
        'grant select on "Ill one" to anon; alter publication supabase_realtime add table "Ill one"'
    )
    found = [one for one in looked(capsys, "Ill one") if one.about == "Ill one"]
    assert any('rt.query("Ill one", depends_on=[...], key=...)' in one.text for one in found)
    assert wrong(found) == [], "a note: no SQL mends it"


def test_a_project_that_gives_few_rows_a_request_is_told_what_that_costs(
    stack_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = StackOptions(row_limit=40, anon_timeout=1.0)
    with start(stack_directory, options=options) as stack:
        stack.sql(DESCRIBE_SQL.read_text())
        stack.sql(WHOLE)
        stack.sql("insert into ill (name) select 'x' from generate_series(1, 118)")
        monkeypatch.setenv("SUPABASE_URL", stack.url)
        monkeypatch.setenv("SUPABASE_KEY", stack.publishable_key)
        found = looked(capsys, "ill")
        (few,) = [one for one in found if "at most 40 rows a request" in one.text]
        assert "takes 3 requests" in few.text
        assert any("120 rows, live" in one.text for one in found), "and nothing is missing"
        (slow,) = [one for one in found if one.level == "wrong"]
        assert "may take 1 s" in slow.text
        for finding in (few, slow):  # as the hosted platform reads them
            stack.sql(finding.sql)
        settings = stack.sql(
            "select rolname, unnest(rolconfig) from pg_roles where rolname in ('anon', 'authenticator')"
        )
        assert ("anon", "statement_timeout=8s") in settings
        assert ("authenticator", "pgrst.db_max_rows=1000") in settings
        monkeypatch.setenv("SUPABASE_KEY", stack.token("anon", ttl=-100))
        assert any("Token has expired" in text for text in wrong(looked(capsys)))


def test_a_key_of_the_older_kind_says_until_when_it_is_accepted(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_800_000_000.0
    assert not list(findings.of_expiry(None, now))
    levels = []
    for days in (-1, 10, 400):
        (finding,) = findings.of_expiry(now + days * 86_400, now)
        levels.append(finding.level)
    assert levels == ["wrong", "note", "ok"]
    assert not any("accepted until" in one.text for one in looked(capsys))
    monkeypatch.setenv("SUPABASE_KEY", whole.token("anon", ttl=86_400 * 10))
    assert any(one.text.startswith("the key expires on 20") for one in looked(capsys))


@pytest.mark.parametrize(("skew", "words"), [(3600.0, "3,600 s behind"), (-90.0, "90 s ahead of")])
def test_a_clock_that_is_wrong_is_said(skew: float, words: str) -> None:
    assert words in findings.of_clock(skew).text
    assert findings.of_clock(skew).level == "note"
    assert findings.of_clock(skew / 1000).level == "ok"


def test_a_table_that_is_not_there_names_the_one_that_is(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = wrong(looked(capsys, "il"))
    assert 'Is "ill" meant?' in text


def test_what_no_sql_fixes_is_said_beside_the_sql(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run(asked("ill", "il", "--mend")) == 1
    captured = capsys.readouterr()
    assert captured.out.strip() == ""
    assert captured.err.startswith("There is no SQL that mends this: il: ")


LACKING = """
drop view if exists ill_counts; drop table if exists bare, ill_log;
create table bare (id int primary key, v text);
alter table bare enable row level security;
insert into bare values (1, 'x');
create table ill_log (id text, v text);
create view ill_counts as select v, count(*) from bare group by v;
revoke all on bare, ill_log, ill_counts from anon, authenticated, service_role;
grant select on ill_log, ill_counts to anon
"""


@pytest.fixture
def lacking(whole: LocalStack) -> Iterator[LocalStack]:
    whole.sql(LACKING)
    yield whole
    whole.sql("drop view ill_counts; drop table bare, ill_log")


@pytest.mark.parametrize("described", [True, False])
def test_what_a_refused_table_lacks_besides_is_fixed_in_the_same_round(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    if not described:
        lacking.sql("drop function nrt_describe")
    assert doctor.run(asked("bare", "--mend")) == 1
    said = capsys.readouterr()
    assert "grant select on public.bare to anon;" in said.out.splitlines()
    assert "alter publication supabase_realtime add table public.bare;" in said.out
    assert "--   grant insert, update, delete on public.bare to anon;" in said.out.splitlines()
    assert "Not mended: bare: whether row-level security hides its rows" in said.err
    lacking.sql(said.out)
    granted = (
        "select privilege_type from information_schema.role_table_grants where grantee = 'anon'"
    )
    assert lacking.sql(f"{granted} and table_name = 'bare'") == [("SELECT",)], (
        "not what is a choice"
    )
    streamed = "select tablename from pg_publication_tables where tablename = 'bare'"
    assert lacking.sql(streamed) == [("bare",)]
    levels = [one.level for one in looked(capsys, "bare") if one.text.startswith("0 rows, live")]
    assert levels == ["note"], "a row is there, and none is seen"


@pytest.mark.parametrize("described", [True, False])
def test_a_column_that_is_hidden_on_purpose_stays_hidden(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    lacking.sql("alter table bare add column salary int; grant select (id, v) on bare to anon")
    lacking.sql("alter publication supabase_realtime add table bare")
    if not described:
        lacking.sql("drop function nrt_describe")
    assert doctor.run(asked("bare", "--mend")) == 0
    out = capsys.readouterr().out
    assert all(line.startswith("--") or not line for line in out.splitlines())
    found = looked(capsys, "bare")
    assert wrong(found) == []
    names = "id,v" if described else "id,..."
    assert [f'rt.table("bare", columns="{names}")' in one.text for one in found].count(True) == 1
    assert [one.text for one in found if one.text.startswith("0 rows, live")]
    with nrt.connect(lacking.url, lacking.anon_key) as rt:
        if described:
            assert rt.tables.loc["bare", "columns"] == ("id", "v")
            with pytest.raises(nrt.errors.PermissionDeniedError, match='columns="id,v"'):
                rt.table("bare").wait(scaled(10))
        assert list(rt.table("bare", columns="id,v").wait(scaled(10)).df.columns) == ["v"]
    if described:
        lacking.sql("revoke select (id) on bare from anon")
        with (
            nrt.connect(lacking.url, lacking.anon_key) as rt,
            pytest.raises(
                nrt.errors.PermissionDeniedError,
                match=r"grant select \(id\) on public.bare to anon",
            ),
        ):
            rt.table("bare").wait(scaled(10))


@pytest.mark.parametrize("name", ["ill_view", "Ill's $do$ view"])
def test_what_is_refused_may_be_a_view_and_the_sql_for_it_runs(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    view = f'"{name}"'
    lacking.sql(f"create view {view} as select 1 as id; revoke all on {view} from anon")
    try:
        doctor.run(asked(name, "--mend"))
        lacking.sql(capsys.readouterr().out)
        allowed = "select has_table_privilege('anon', %s, 'select')"
        assert lacking.sql(allowed, view) == [(True,)]
    finally:
        lacking.sql(f"drop view {view}")


def test_a_table_that_is_refused_and_published_is_not_published_again(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking.sql("alter publication supabase_realtime add table bare")
    assert not [one for one in looked(capsys, "bare") if "publication" in one.sql]


@pytest.mark.parametrize("described", [True, False])
def test_a_column_that_could_be_the_key_is_offered_as_a_comment(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    if not described:
        lacking.sql("drop function nrt_describe")
    doctor.run(asked("ill_log", "--mend"))
    said = capsys.readouterr()
    name = "row_id" if described else "id"  # which columns there are is not known without the SQL
    column = f"add column {name} bigint generated always as identity primary key;"
    commented = [
        line.removeprefix("--").strip() for line in said.out.splitlines() if line[:2] == "--"
    ]
    assert f"alter table public.ill_log {column}" in commented
    lacking.sql(said.out)
    doctor.run(asked("ill_log", "--mend"))
    assert "There is no SQL that mends this: ill_log: " in capsys.readouterr().err
    assert lacking.sql("select count(*) from pg_index where indrelid = 'ill_log'::regclass") == [
        (0,)
    ]


@pytest.fixture
def unpublished(whole: LocalStack) -> Iterator[LocalStack]:
    """`ill` with an owner's column, in no publication."""
    whole.sql("alter table ill add column owner uuid; grant delete, update on ill to anon")
    whole.sql("alter publication supabase_realtime drop table ill")
    yield whole
    whole.sql(broadcast_remove_sql("public", ["ill"]))


@pytest.mark.parametrize("described", [True, False])
def test_a_table_that_is_broadcast_needs_no_publication(
    unpublished: LocalStack, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    unpublished.sql(broadcast_sql("public", ["ill"], "true"))
    if not described:
        unpublished.sql("drop function nrt_describe")
    found = looked(capsys, "ill")
    assert wrong(found) == []
    said = [one.text for one in found if one.about == "ill"]
    assert "the database broadcasts its changes, so it need not be in the publication" in said
    assert "2 rows, live by broadcast" in said
    assert ["publication" in one for one in said].count(True) == 1


def test_a_broadcast_that_this_login_cannot_join_is_wrong(
    unpublished: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    unpublished.sql(broadcast_sql("public", ["ill"], "true"))
    for (policy,) in unpublished.sql(
        "select policyname from pg_policies where tablename = 'messages' and policyname like 'notebook_rt%'"
    ):
        unpublished.sql(f"drop policy {policy} on realtime.messages")
    (text,) = wrong(looked(capsys, "ill"))
    assert "may not join the channel" in text
    assert text.endswith("`notebook-rt doctor --sql ill` prints the policies")
    unpublished.sql("alter publication supabase_realtime add table ill")
    found = looked(capsys, "ill")
    assert ["may not join the channel" in one for one in wrong(found)] == [True]
    assert any(one.text == "2 rows, live" for one in found), "by Postgres Changes"


@pytest.mark.parametrize("described", [True, False])
def test_a_table_of_own_rows_by_broadcast_is_told_how_it_is_opened(
    unpublished: LocalStack, capsys: pytest.CaptureFixture[str], described: bool
) -> None:
    unpublished.sql(broadcast_sql("public", ["ill"], scope="owner"))
    if not described:
        unpublished.sql("drop function nrt_describe")
    found = looked(capsys, "ill")
    assert wrong(found) == []
    (said,) = [one for one in found if one.about == "ill" and "publication" in one.text]
    assert said.level == "ok"
    assert 'rt.table("ill", filter={"owner": ...}) needs no publication' in said.text


def test_broadcasts_of_another_version_are_told_to_be_run_again(
    unpublished: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    unpublished.sql(broadcast_sql("public", ["ill"], "true"))
    unpublished.sql("update notebook_rt.broadcast_state set version = 0")
    found = [one for one in looked(capsys, "ill") if one.about == "ill"]
    (note,) = [one.text for one in found if "not broadcast" in one.text]
    assert "has version 0" in note
    assert note.endswith("Run again what `notebook-rt doctor --sql ill` prints")
    assert any(text.startswith("it is not in the publication") for text in wrong(found))


def test_a_view_is_a_note_with_the_line_that_follows_it(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    line = 'rt.query("ill_counts", depends_on=[...], key=...)'
    (one,) = [one for one in looked(capsys, "ill_counts") if one.about == "ill_counts"]
    assert (one.level, line in one.text) == ("note", True)
    lacking.sql("drop function nrt_describe")
    assert any(line in one.text for one in looked(capsys, "ill_counts"))


def test_what_a_table_lacks_is_reported_once(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking.sql("grant select on bare to anon")
    found = [one for one in looked(capsys, "bare") if one.about == "bare"]
    assert ["publication" in one.text for one in found].count(True) == 1
    lacking.sql("alter publication supabase_realtime add table bare")
    found = [one for one in looked(capsys, "bare") if one.about == "bare"]
    assert ["policy" in one.text for one in found].count(True) == 1
    assert [one.level for one in found if one.text == "0 rows, live"] == ["note"]


def test_the_sql_for_what_may_be_a_view_alters_tables_only(
    lacking: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking.sql("drop function nrt_describe")
    for finding in looked(capsys, "ill_counts"):
        if finding.about == "ill_counts" and finding.sql:
            lacking.sql(finding.sql)


def test_a_schema_in_front_of_the_name_is_told_where_it_goes(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = wrong(looked(capsys, "public.ill"))
    assert text.endswith("notebook-rt doctor --schema public ill")


def test_a_table_whose_rows_may_be_hidden_is_not_said_to_be_well(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.sql("delete from ill")
    levels = [one.level for one in looked(capsys, "ill") if one.text.startswith("0 rows, live: ")]
    assert levels == ["note"]


def test_a_table_whose_live_updates_restart_meanwhile_is_looked_at_after_that(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project may confirm twice that changes flow: the table is compared again, for a moment."""
    first = doctor._row_limit

    def begun_anew(session: Session, table: LiveTable, name: str) -> Iterator[Finding]:
        until(lambda: table.status == "live", what=lambda: repr(table))
        proxy.close_channels()
        until(lambda: table.status != "live", what=lambda: repr(table))
        yield from first(session, table, name)

    with Proxy(whole.url) as proxy:
        monkeypatch.setenv("SUPABASE_URL", proxy.url)
        monkeypatch.setattr(doctor, "_row_limit", begun_anew)
        found = looked(capsys, "ill")
    assert wrong(found) == []
    assert any(one.text == "2 rows, live" for one in found)


@pytest.mark.parametrize("described", [True, False])
def test_the_empty_table_of_a_secret_key_is_empty(
    whole: LocalStack,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    described: bool,
) -> None:
    """It passes every policy, so none hides a row from it."""
    whole.sql("delete from ill; grant select on ill to service_role")
    if not described:
        whole.sql("drop function nrt_describe")
    monkeypatch.setenv("SUPABASE_KEY", whole.secret_key)
    assert [one.level for one in looked(capsys, "ill") if one.text == "0 rows, live"] == ["ok"]


def test_a_project_without_the_optional_sql_is_reported_once(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    whole.sql("drop function nrt_describe")
    found = looked(capsys, "ill")
    assert wrong(found) == []
    assert ["the optional SQL is not there" in one.text for one in found].count(True) == 1
    whole.sql(DESCRIBE_SQL.read_text())
    whole.sql("drop function nrt_digest")
    assert any("there is no nrt_digest" in one.text for one in looked(capsys, "ill"))


def test_an_earlier_version_of_the_optional_sql_is_told(
    whole: LocalStack, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where each of its functions is there; how its lines end is nothing."""

    def of_sql() -> str:
        (said,) = [one.text for one in looked(capsys) if "optional SQL" in one.text]
        return said

    describe, ledger = DESCRIBE_SQL.read_text(), LEDGER_SQL.read_text()
    assert of_sql() == "the optional SQL is there"
    whole.sql(describe.replace("'set_by_trigger'", "'sets'"))
    assert "another version of nrt_describe:" in of_sql()
    whole.sql(re.sub(r"'sources', \(.*?\n        \),", "", describe, flags=re.DOTALL))
    assert "of an earlier version: run again" in of_sql()
    whole.sql(describe.replace("\n", "\r\n"))
    assert of_sql() == "the optional SQL is there"
    whole.sql(ledger.replace("-- ", "-- Once: "))
    assert "another version of notebook_rt_write, " in of_sql()


def test_notes_say_what_may_be_better(
    whole: LocalStack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole.sql(
        'create table "Ill one" (sku text not null unique, updated_at timestamptz);'
        'grant select on "Ill one" to anon, service_role;'
        'alter publication supabase_realtime add table "Ill one"'
    )
    notes = [
        one for one in looked(capsys, "Ill one") if one.level == "note" and one.about == "Ill one"
    ]
    said = {one.text: one.sql for one in notes}
    key = 'it has no primary key: add one, or say rt.table("Ill one", key="sku")'
    assert said[key] == 'alter table public."Ill one" add primary key (sku);'
    (off,) = [sql for text, sql in said.items() if "row-level security is off" in text]
    assert off == 'alter table public."Ill one" enable row level security;'
    assert any("no trigger sets updated_at" in text for text in said)
    monkeypatch.setenv("SUPABASE_KEY", whole.secret_key)
    assert any("a secret one" in one.text for one in looked(capsys))
    monkeypatch.setenv("SUPABASE_KEY", "sb_publishable_nobodys")
    assert wrong(looked(capsys))


def test_a_role_whose_statements_are_cut_soon_is_told_how_to_give_it_time() -> None:
    told = {"tables": {}, "functions": [*findings.NEEDED_SQL], "role": "anon"}
    for setting, seconds in (("900ms", "0.9"), ("1s", "1")):
        (_, finding) = findings.of_project({**told, "statement_timeout": setting})
        assert f"may take {seconds} s" in finding.text
        assert finding.sql.startswith("alter role anon set statement_timeout = '8s';")
    for setting in ("0", "3s", "2min", "odd", None):
        levels = [one.level for one in findings.of_project({**told, "statement_timeout": setting})]
        assert "wrong" not in levels


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
lists = st.lists(st.text(max_size=4) | st.lists(st.text(max_size=4), max_size=2), max_size=2)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "kind": st.sampled_from("rpvm"),
            "published": st.booleans(),
            "key": lists,
            "unique": st.lists(st.lists(st.text(max_size=4), max_size=2), max_size=2),
            "replica_identity": st.sampled_from("dnfi"),
            "columns": st.lists(json_values, max_size=2),
            "grants": st.lists(st.sampled_from(["select", "insert", "update", "delete"])),
            "policies": st.none() | st.lists(st.sampled_from(["*", "select", "insert"])),
            "row_security": st.booleans(),
            "closed_sequences": st.lists(st.text(min_size=1, max_size=5), max_size=2),
            "set_by_trigger": st.booleans(),
        },
    ),
    st.text(min_size=1, max_size=8),
)
def test_whatever_a_table_says_is_told_and_quoted(told: dict[str, object], name: str) -> None:
    for finding in findings.of_table("public", name, told, "anon"):
        assert finding.about == name
        quoted = doctor.qualified("public", name)
        assert not finding.sql or quoted in finding.sql or "sequence" in finding.sql
        if finding.level == "wrong":  # it is printed to be run as it is
            assert "policy" not in finding.sql, "which rows somebody may see is a decision"
            assert "alter table" not in finding.sql or "replica identity" in finding.sql


@given(json_values)
def test_a_description_of_any_form_is_no_crash(value: object) -> None:
    list(findings.of_project(value if isinstance(value, dict) else None))
