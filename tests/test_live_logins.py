"""Sign-in and sign-out during a session: edits are shown to, and sent by, their user only."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.errors import InvalidEditError, PermissionDeniedError, QueueError
from notebook_rt.local import LocalStack
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.table import TableDriver
from notebook_rt.sync.events import Change
from notebook_rt.widgets.adapters import MappedOf
from tests.conftest import OLD_PLATFORM
from tests.waiting import scaled, until

OPTIONS = nrt.Options(backoff_base=0.1, backoff_max=0.3, poll_interval=0.3)
ANN, BEN = str(uuid.UUID(int=7)), str(uuid.UUID(int=8))


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    """Two rows; whoever writes one is put down in ``{table}_log`` by the server."""
    name = f"logins_{uuid.uuid4().hex[:8]}"
    stack.sql(f"create table {name} (id int primary key, notes text)")
    stack.sql(f"insert into {name} values (1), (2)")
    stack.sql(f"create table {name}_log (notes text, written_by text)")
    stack.sql(f"grant all on {name}, {name}_log to anon, authenticated")
    stack.sql(
        f"create function {name}_note() returns trigger language plpgsql as $$ begin "
        f"insert into {name}_log values (new.notes, coalesce(auth.uid()::text, 'anon')); "
        "return new; end $$"
    )
    stack.sql(
        f"create trigger log after update on {name} for each row execute function {name}_note()"
    )
    stack.sql(f"alter publication supabase_realtime add table {name}")
    yield name
    stack.sql(f"drop table {name}, {name}_log cascade; drop function {name}_note")


@pytest.fixture
def sign_in(stack: LocalStack) -> Callable[[nrt.Session, str], None]:
    return lambda rt, who: rt.set_auth(stack.token("authenticated", who, 600))


def log(stack: LocalStack, table: str) -> set[tuple[str, str]]:
    return set(stack.sql(f"select notes, written_by from {table}_log"))


def test_a_file_that_two_logins_share_keeps_their_edits_apart(
    stack: LocalStack,
    table: str,
    tmp_path: Path,
    sign_in: Callable[[nrt.Session, str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "shared.sqlite3"
    with nrt.connect(stack.url, stack.anon_key, queue_path=path, options=OPTIONS) as rt:
        notes: list[tuple[str, str]] = []
        rt.on_note(lambda kind, text: notes.append((kind, text)))
        frame = rt.table(table).wait(scaled(10))
        sign_in(rt, ANN)
        rt.queue.pause()
        frame.edit(1, notes="ann's")
        frame.edit(2, notes="ann's too")
        for _ in range(2):
            sign_in(rt, BEN)
            until(lambda: pd.isna(frame.df.loc[1, "notes"]))
            assert (len(rt.queue), len(rt.queue.df), len(frame.pending)) == (0, 0, 0)
            rt.set_auth(None)
        sign_in(rt, BEN)
        frame.edit(1, notes="ben's")
        rt.queue.resume()
        assert rt.queue.flush(10) == 0
        assert log(stack, table) == {("ben's", BEN)}
        until(lambda: notes)
        mentioned = [text for kind, text in notes if ANN in text]
        assert len(mentioned) == 1
        assert "2 unsent writes" in mentioned[0]
        assert [r.getMessage() for r in caplog.records if ANN in r.getMessage()] == mentioned
        assert stack.anon_key not in caplog.text

        rt.queue.pause()
        sign_in(rt, ANN)
        until(lambda: frame.df.loc[2, "notes"] == "ann's too")
        assert list(frame.pending["key"]) == [1, 2]
        rt.queue.resume()
        assert rt.queue.flush(10) == 0
    assert ("ann's too", ANN) in log(stack, table)
    assert {(n, who) for n, who in log(stack, table) if n.startswith("ann")} <= {
        ("ann's", ANN),
        ("ann's too", ANN),
    }


def test_what_was_shared_and_left_is_its_owners_in_another_session(
    stack: LocalStack,
    table: str,
    tmp_path: Path,
    sign_in: Callable[[nrt.Session, str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "shared.sqlite3"

    def connect(who: str) -> nrt.Session:
        return nrt.connect(
            stack.url,
            stack.anon_key,
            access_token=stack.token("authenticated", who, 600),
            queue_path=path,
            options=OPTIONS,
        )

    with connect(ANN) as rt:
        rt.queue.pause()
        rt.table(table).wait(scaled(10)).edit(1, notes="ann's")
    with caplog.at_level(logging.WARNING, "notebook_rt"), connect(BEN) as rt:
        frame = rt.table(table)
        assert pd.isna(frame.df.loc[1, "notes"]), "not laid over another's table"
        frame.edit(2, notes="ben's")
        assert rt.queue.flush(10) == 0
    assert caplog.text.count("1 unsent write in") == 1
    assert log(stack, table) == {("ben's", BEN)}
    with connect(ANN) as rt:
        assert rt.table(table).df.loc[1, "notes"] == "ann's", "there before the first df"
        rt.queue.resume()  # it was paused when it was left
        assert rt.queue.flush(10) == 0
    assert log(stack, table) == {("ben's", BEN), ("ann's", ANN)}


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_on_its_way_when_somebody_else_signs_in_is_never_sent_as_theirs(
    stack: LocalStack,
    table: str,
    tmp_path: Path,
    sign_in: Callable[[nrt.Session, str], None],
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "shared.sqlite3" if shared else None
    with nrt.connect(stack.url, stack.anon_key, queue_path=path, options=OPTIONS) as rt:
        frame = rt.table(table, merge="local").wait(scaled(10))
        for number in range(12):
            who = (ANN, BEN)[number % 2]
            sign_in(rt, who)
            frame.edit(1, notes=f"{who} {number}")
            frame.edit(2, notes=f"{who} {number} too")
        for who in (ANN, BEN):
            sign_in(rt, who)
            assert rt.queue.flush(scaled(10)) == 0, rt.queue.df.to_dict("records")
    wrote = log(stack, table)
    assert len(wrote) >= 4
    assert {who for _, who in wrote} == {ANN, BEN}
    for notes, who in wrote:
        assert notes.startswith(who)


@pytest.mark.parametrize("policy", ["", "auth.uid() = owner"], ids=["no policy", "own rows"])
def test_nobody_is_told_to_show_the_rows_of_all_users_to_everybody(
    stack: LocalStack,
    make_table: Callable[..., str],
    sign_in: Callable[[nrt.Session, str], None],
    policy: str,
) -> None:
    """A table of users' own rows is empty at first: the ordinary case, in which nothing is amiss."""
    table = make_table("id int primary key, owner uuid default auth.uid()")
    stack.sql(f"alter table {table} enable row level security")
    if policy:
        stack.sql(f"create policy own on {table} using ({policy})")
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, ANN)
        reason = rt.table(table).wait(scaled(10)).reason
        assert "it is empty, or" in reason
        assert "sign in" not in reason.lower()
        if policy and not OLD_PLATFORM:  # where the table describes itself
            assert "using" not in reason
        else:
            owns = reason.index("using ((select auth.uid()) = user_id)")
            assert owns < reason.index("only if everybody who is signed in may see every row")


@pytest.mark.usefixtures("ledger")
def test_the_optional_sql_runs_triggers_that_name_a_table_without_its_schema(
    stack: LocalStack, table: str, sign_in: Callable[[nrt.Session, str], None]
) -> None:
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, ANN)
        frame = rt.table(table).wait(scaled(10))
        frame.edit(1, notes="one")
        frame.edit_many(pd.DataFrame({"id": [1, 2], "notes": ["two", "three"]}))
        assert rt.queue.flush(scaled(10)) == 0, rt.queue.df.to_dict("records")
    assert {notes for notes, _ in log(stack, table)} >= {"two", "three"}


@pytest.mark.usefixtures("grants_untold")
def test_what_one_kind_of_key_left_no_other_roles_key_shows_or_sends(
    stack: LocalStack, tmp_path: Path
) -> None:
    """Anon may only read here: what it has edited must not go past the grants with a secret key."""
    table = f"logins_{uuid.uuid4().hex[:8]}"
    stack.sql(f"create table {table} (id int primary key, n int)")
    stack.sql(f"revoke all on {table} from anon; grant select on {table} to anon")
    stack.sql(f"grant select, insert, update, delete on {table} to service_role")
    stack.sql(f"insert into {table} values (1, 0)")
    stack.sql(f"alter publication supabase_realtime add table {table}")
    weak = {"anon": stack.anon_key, "publishable": stack.publishable_key}
    strong = {"service": stack.service_key, "secret": stack.secret_key}
    paths = {name: tmp_path / f"{name}.sqlite3" for name in weak | strong}
    pairs = [(name, key, strong) for name, key in weak.items()]
    pairs += [(name, key, weak) for name, key in strong.items()]
    try:
        for name, key, others in pairs:
            with nrt.connect(stack.url, key, queue_path=paths[name], options=OPTIONS) as rt:
                frame = rt.table(table).wait(scaled(10))
                rt.queue.pause()
                frame.edit(1, n=7)
            for other in others.values():
                with nrt.connect(stack.url, other, queue_path=paths[name], options=OPTIONS) as rt:
                    frame = rt.table(table).wait(scaled(10))
                    assert (len(rt.queue), frame.df.loc[1, "n"]) == (0, 0)
                    assert rt.queue.flush(timeout=scaled(10)) == 0
        assert stack.sql(f"select n from {table}") == [(0,)]
        for name, other, left in (("anon", "publishable", 1), ("secret", "service", 0)):
            key = (weak | strong)[other]  # the same role's: one login
            with nrt.connect(stack.url, key, queue_path=paths[name], options=OPTIONS) as rt:
                rt.queue.resume()  # they were left paused
                assert rt.queue.flush(timeout=scaled(10)) == left
        assert stack.sql(f"select n from {table}") == [(7,)]
    finally:
        stack.sql(f"drop table {table}")


@pytest.fixture
def private(stack: LocalStack) -> Iterator[str]:
    """A row each of two users, which only its owner sees, and nobody without a login."""
    name = f"logins_{uuid.uuid4().hex[:8]}"
    stack.sql(f"create table {name} (id int primary key, owner uuid, body text)")
    stack.sql(f"insert into {name} values (1, '{ANN}', 'ann''s'), (2, '{BEN}', 'ben''s')")
    stack.sql(f"revoke all on {name} from anon, authenticated")
    stack.sql(f"grant select, insert, update, delete on {name} to authenticated, service_role")
    stack.sql(f"alter table {name} enable row level security")
    stack.sql(f"create policy own on {name} for all to authenticated using (owner = auth.uid())")
    stack.sql(f"alter publication supabase_realtime add table {name}")
    yield name
    stack.sql(f"drop table {name}")


def test_rows_of_one_login_are_shown_to_no_other(
    stack: LocalStack, private: str, sign_in: Callable[[nrt.Session, str], None]
) -> None:
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, ANN)
        frame = rt.table(private).wait(scaled(10))
        first = rt.table(private, order="body", limit=1).wait(scaled(10))
        query = rt.query(private, depends_on=[private], key="id").wait(scaled(10))
        bodies = frame.map(lambda df: [*df["body"]])
        grid, computed = frame.grid(), MappedOf(frame.map(lambda df: df[["body"]]))
        seen: list[int] = []
        computed.on_change(lambda: seen.append(len(computed.df)))
        live = (frame, first, query)
        assert [[*one.df["body"]] for one in live] == [["ann's"]] * 3
        assert bodies.df == ["ann's"]
        assert [*grid.shown["body"]] == ["ann's"]
        until(lambda: seen)
        told: list[ChangeBatch] = []
        frame.on_change(told.append)
        answers: list[ChangeBatch] = []
        query.on_change(answers.append)
        frame.edit(1, body="ann's new")
        assert rt.queue.flush(scaled(10)) == 0

        rt.sign_out()
        assert [one.status in ("loading", "error") for one in live] == [True] * 3
        assert bodies.latest is None
        assert (len(grid.shown), len(computed.df)) == (0, 0)
        until(lambda: seen[-1] == 0)
        assert len(frame.log) == 0
        assert frame.get(1) is None
        for read in (*live, bodies, rt.table(private)):
            with pytest.raises(PermissionDeniedError):
                _ = read.df
        with pytest.raises(PermissionDeniedError):
            frame.edit(1, body="nobody's")
        until(lambda: any(batch.cause == "login" for batch in told))
        assert [(one.kind, one.key) for one in told[-1]] == [("delete", 1)]
        until(lambda: any(batch.cause == "login" for batch in answers))
        assert [(one.kind, one.key) for one in answers[-1]] == [("delete", 1)]

        sign_in(rt, BEN)
        assert bodies.latest is None
        with pytest.raises(InvalidEditError):  # it waits for the rows of ben's
            frame.edit(1, body="ben over ann")
        for one in live:
            assert [*one.wait(scaled(10)).df["body"]] == ["ben's"]
        assert bodies.df == ["ben's"]
        assert [*grid.shown["body"]] == ["ben's"]
        until(lambda: seen[-1] == 1 and [*computed.df["body"]] == ["ben's"])
        until(lambda: [(one.kind, one.key) for one in told[-1]] == [("insert", 2)])
        until(lambda: [(one.kind, one.key) for one in answers[-1]] == [("insert", 2)])

        sign_in(rt, ANN)
        for one in live:
            assert [*one.df["body"]] == ["ann's new"]
        assert stack.sql(f"select body from {private} order by id") == [("ann's new",), ("ben's",)]


def test_listeners_of_a_derived_frame_are_told_that_the_rows_of_another_login_are_gone(
    stack: LocalStack, private: str, sign_in: Callable[[nrt.Session, str], None]
) -> None:
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, ANN)
        rows = rt.table(private).wait(scaled(10)).where("id=gte.1")
        of_rows = rows.groupby("owner").agg(n=("id", "count"))
        told: list[ChangeBatch] = []
        of_rows.on_change(told.append)
        more: list[ChangeBatch] = []
        rows.on_change(more.append)
        assert of_rows.df.index.tolist() == [ANN]
        rt.sign_out()
        until(lambda: told and more)
        assert [(one.kind, one.key) for one in told[-1]] == [("delete", ANN)]
        assert [(one.kind, one.key) for one in more[-1]] == [("delete", 1)]
        assert (told[-1].cause, len(rows.log)) == ("login", 0)
        assert rows.get(1) is None
        with pytest.raises(PermissionDeniedError):
            _ = of_rows.df
        sign_in(rt, BEN)
        assert of_rows.wait(scaled(10)).df.index.tolist() == [BEN]
        until(lambda: [(one.kind, one.key) for one in told[-1]] == [("insert", BEN)])
        until(lambda: [(one.kind, one.key) for one in more[-1]] == [("insert", 2)])


def test_another_token_of_the_same_user_keeps_what_is_shown(
    stack: LocalStack, private: str
) -> None:
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        rt.set_auth(stack.token("authenticated", ANN, 600))
        frame = rt.table(private).wait(scaled(10))
        told: list[ChangeBatch] = []
        frame.on_change(told.append)
        rt.set_auth(stack.token("authenticated", ANN, 900))
        assert frame.status != "loading"
        assert frame.get(1) is not None
        assert frame.verify(scaled(10)).differed == 0
        assert told == []


def test_a_login_whose_time_is_over_is_said_until_there_is_another(
    stack: LocalStack, private: str
) -> None:
    """It said that the rows are being compared, and that one can wait: for ever."""
    token = stack.token("authenticated", ANN, 4)
    with nrt.connect(stack.url, stack.anon_key, access_token=token, options=OPTIONS) as rt:
        frame = rt.table(private).wait(scaled(10))
        until(lambda: rt.health.cause == "denied", 20, what=lambda: str(rt.health))
        assert "The server does not accept the key or the login." in str(rt.health)
        assert "expired" in str(rt.health)
        assert "You can wait" not in str(rt.health)
        assert any("expired" in need for need in rt.health.needs)
        assert frame.get(1) is not None, "what was read stays"
        rt.set_auth(stack.token("authenticated", ANN, 600))
        until(lambda: rt.health.status == "healthy", 20, what=lambda: str(rt.health))


def test_what_was_edited_while_paused_is_sent_after_its_user_is_back(
    stack: LocalStack,
    private: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sign_in: Callable[[nrt.Session, str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, ANN)
        frame = rt.table(private).wait(scaled(10))
        rt.queue.pause()
        frame.edit(1, body="ann's draft")
        rt.sign_out()
        sign_in(rt, ANN)
        assert frame.df.loc[1, "body"] == "ann's draft"
        with pytest.raises(QueueError, match="paused"):
            rt.queue.flush(scaled(10))
        rt.sign_out()
        rt.queue.resume()
        sign_in(rt, ANN)
        assert rt.queue.flush(scaled(10)) == 0
    assert stack.sql(f"select body from {private} where id = 1") == [("ann's draft",)]
    assert "another session" not in caplog.text


def test_a_change_on_its_way_to_the_last_login_is_not_shown_to_the_next(
    stack: LocalStack, private: str, sign_in: Callable[[nrt.Session, str], None]
) -> None:
    """What the server sent before it heard of the other login comes under the same topic."""
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        sign_in(rt, BEN)
        frame = rt.table(private).wait(scaled(10))
        assert frame.schema is not None
        record = {"id": 1, "owner": ANN, "body": "ann's"}
        late = Change("UPDATE", record, {"id": 1}, frame.schema.columns, time.time() + 60)
        driver = frame._feed
        assert isinstance(driver, TableDriver)

        def change_login() -> None:
            driver.login_changed()
            driver.subscription.change(late)

        rt._thread.call(change_login)
        assert list(frame.df.index) == [2]
        until(lambda: frame.status == "live")
        assert list(frame.df.index) == [2]
        stack.sql(f"update {private} set body = 'ben''s new' where id = 2")
        until(lambda: frame.df.loc[2, "body"] == "ben's new")
