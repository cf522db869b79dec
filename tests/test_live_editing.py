"""Local edits on the real stack: shown at once, stored, sent, merged, refused (promises, edits)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.edits.decide import judge
from notebook_rt.edits.merge import Strategy
from notebook_rt.local import LocalStack
from notebook_rt.model.http import Answer
from notebook_rt.widgets.adapters import TableOf
from tests import proxy as faults
from tests.proxy import Proxy
from tests.waiting import scaled, throughout, until

OPTIONS = nrt.Options(backoff_base=0.1, backoff_max=0.3, poll_interval=0.3)

TABLE = """
create table {0} (
    id uuid primary key default gen_random_uuid(), name text not null, quantity int not null
        check (quantity >= 0), tags text[] not null default '{{}}', notes text,
    updated_at timestamptz not null default clock_timestamp());
create function {0}_touch() returns trigger language plpgsql as
    $$ begin new.updated_at = clock_timestamp(); return new; end $$;
create trigger touch before update on {0} for each row execute function {0}_touch();
alter publication supabase_realtime add table {0};
grant all on {0} to anon, authenticated, service_role;
"""
A, B = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def table(stack: LocalStack) -> Iterator[str]:
    """A table with two rows, ``A`` and ``B``."""
    name = f"edited_{uuid.uuid4().hex[:8]}"
    stack.sql(TABLE.format(name))
    stack.sql(
        f"insert into {name} (id, name, quantity, tags) values "
        f"('{A}', 'apples', 10, '{{fruit}}'), ('{B}', 'bolts', 20, '{{}}')"
    )
    yield name
    stack.sql(f"drop table {name} cascade; drop function {name}_touch")


@pytest.fixture
def open_session(stack: LocalStack, tmp_path: Path) -> Iterator[Callable[..., nrt.Session]]:
    """Opens sessions; each of another name has a queue of its own."""
    opened: list[nrt.Session] = []

    def make(name: str = "mine", url: str | None = None) -> nrt.Session:
        session = nrt.connect(
            url or stack.url,
            stack.anon_key,
            queue_path=tmp_path / f"{name}.sqlite3",
            options=OPTIONS,
        )
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()


def stored(stack: LocalStack, table: str, column: str, key: Hashable = A) -> Any:
    """What PostgreSQL has."""
    rows = stack.sql(f"select {column} from {table} where id = %s", key)
    return rows[0][0] if rows else None


def seen(frame: nrt.LiveFrame, column: str, key: Hashable = A) -> Any:
    """What the user sees."""
    return frame.df[column].to_dict()[key]


def _reads(frame: nrt.LiveFrame, notes: str | None) -> bool:
    found = seen(frame, "notes")
    return bool(pd.isna(found) if notes is None else found == notes)


def test_an_edit_is_seen_at_once_and_written(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    batches: list[Any] = []
    frame.on_change(batches.append)
    before, version = frame.df, frame.version
    frame.edit(A, quantity=11, notes="counted")
    assert seen(frame, "quantity") == 11
    assert frame.version > version
    assert before.loc[A, "quantity"] == 10, "a snapshot never changes under the user"
    frame.at[B, "name"] = "nuts"
    new = frame.insert(name="cherries", quantity=3)
    assert seen(frame, "name", B) == "nuts"
    assert seen(frame, "name", new) == "cherries"
    assert rt.queue.flush(10) == 0
    assert stored(stack, table, "quantity") == 11
    assert stored(stack, table, "name", B) == "nuts"
    assert stored(stack, table, "quantity", new) == 3
    frame.delete(new)
    assert new not in frame.df.index
    assert rt.queue.flush(10) == 0
    assert stored(stack, table, "id", new) is None
    until(lambda: {b.cause for b in batches} >= {"edit"})
    first = next(b for b in batches if b.cause == "edit")
    assert [(c.kind, c.key, c.old["quantity"], c.new["quantity"]) for c in first] == [
        ("update", A, 10, 11)
    ]
    assert "edit" in set(frame.log["cause"])
    assert len(frame.pending) == 0


def test_a_deletion_that_waits_a_moment_can_be_taken_back(
    table: str, stack: LocalStack, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    derived = frame.where("quantity=gte.0")
    order = list(frame.df.index)
    assert list(derived.df.index) == order == [A, B]
    frame.delete(A, after=60)
    assert A not in frame.df.index
    assert list(derived.df.index) == [B]
    assert [(key, row["name"]) for key, row in frame.leaving().items()] == [(A, "apples")]
    assert {mark for (key, _), mark in frame.marks().items() if key == A} == {("pending", "")}
    frame.edit(B, quantity=21)  # what is not held back leaves
    until(lambda: stored(stack, table, "quantity", B) == 21)
    assert stored(stack, table, "quantity") == 10
    until(lambda: len(rt.queue) == 1)
    assert frame.undo()
    assert seen(frame, "name") == "apples"
    assert list(frame.df.index) == order, "it is where it was"
    until(lambda: list(derived.df.index) == order)
    assert frame.leaving() == frame.marks() == {}
    # And if it is not, nobody who wants all of it sent waits so long.
    frame.delete(A, after=60)
    assert rt.queue.flush(10) == 0
    assert stored(stack, table, "id") is None
    frame.delete(B, after=60)
    rt.close()
    assert stored(stack, table, "id", B) is None


def test_an_edit_that_the_column_cannot_hold_is_refused_before_it_is_queued(
    table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    with pytest.raises(nrt.InvalidEditError, match="quantity"):
        frame.edit(A, quantity="many")
    with pytest.raises(nrt.InvalidEditError, match="no row"):
        frame.edit(str(uuid.uuid4()), quantity=1)
    assert len(rt.queue) == 0
    assert seen(frame, "quantity") == 10


@pytest.fixture
def tasks(stack: LocalStack) -> Iterator[str]:
    """A table with an enum and a domain, both NOT NULL, and one row with the key 1."""
    name = f"tasks_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f"create type {name}_state as enum ('open', 'held');"
        f"create domain {name}_size as int check (value > 0);"
        f"create table {name} (id int primary key, state {name}_state not null, "
        f"size {name}_size not null default 1, note text);"
        f"insert into {name} values (1, 'open', 5, 'n');"
        f"alter publication supabase_realtime add table {name};"
        f"grant all on {name} to anon, authenticated, service_role"
    )
    yield name
    stack.sql(f"drop table {name}; drop type {name}_state; drop domain {name}_size")


def test_what_not_null_and_an_enum_forbid_is_refused_before_it_is_queued(
    tasks: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(tasks).wait(scaled(10))
    with pytest.raises(nrt.InvalidEditError, match="size cannot be empty: it is NOT NULL"):
        frame.edit(1, size=None)
    with pytest.raises(nrt.InvalidEditError, match="state is one of open, held; not 'sold'"):
        frame.edit(1, state="sold")
    with pytest.raises(nrt.InvalidEditError, match="state cannot be empty"):
        frame.insert(id=2, state=None)
    with pytest.raises(nrt.InvalidEditError, match="id cannot be empty"):
        frame.edit(1, id=None)
    with pytest.raises(nrt.InvalidEditError, match="size cannot be empty"):
        frame.edit_many(pd.DataFrame({"id": [1], "size": [None]}))
    assert len(rt.queue) == 0
    frame.insert(id=2, state="held", note=None)
    assert rt.queue.flush(10) == 0
    until(lambda: str(frame.df.loc[2, "size"]) == "1")  # not given: the server's to fill in


def test_a_column_that_may_be_null_meanwhile_is_discovered_when_it_has_refused(
    tasks: str, stack: LocalStack, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(tasks).wait(scaled(10))
    stack.sql(
        f"alter table {tasks} alter column size drop not null;"
        f"alter type {tasks}_state add value 'sold'"
    )
    schema = frame.schema
    with pytest.raises(nrt.InvalidEditError, match="cannot be empty"):
        frame.edit(1, size=None)
    until(lambda: frame.schema is not schema)
    frame.edit(1, size=None, state="sold")
    assert rt.queue.flush(10) == 0
    assert stack.sql(f"select size, state::text from {tasks}") == [(None, "sold")]


def test_a_column_that_the_server_has_refused_a_value_for_is_discovered_again(
    tasks: str, stack: LocalStack, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(tasks).wait(scaled(10))
    stack.sql(f"alter table {tasks} alter column note set not null")
    frame.edit(1, note=None)  # nobody has told
    until(lambda: rt.queue.df["state"].tolist() == ["failed"])
    until(lambda: not frame.schema.column("note").nullable)
    with pytest.raises(nrt.InvalidEditError, match="note cannot be empty: it is NOT NULL"):
        frame.edit(1, note=None, size=3)


def test_a_check_that_fails_says_nothing_of_the_columns() -> None:
    judged = {code: judge(Answer(400, {"code": code}), 0, 0.0) for code in ("23502", "23514")}
    assert [verdict.columns for verdict in judged.values()] == [True, False]


def test_who_may_not_read_the_description_is_refused_by_the_server(
    tasks: str, open_session: Callable[..., nrt.Session], undescribed: None
) -> None:
    rt = open_session()
    frame = rt.table(tasks, key="id").wait(scaled(10))
    frame.edit(1, size=None)
    until(lambda: rt.queue.df["state"].tolist() == ["failed"])
    assert "null value in column" in rt.queue.df["why"].iloc[0]


def test_columns_are_edited_whose_names_mean_something_to_rest(
    stack: LocalStack, open_session: Callable[..., nrt.Session]
) -> None:
    name = f"named_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f'create table {name} ("order" int primary key, "limit" int, "a.b" text, "or" text);'
        f"insert into {name} select n, n, 'x', 'y' from generate_series(1, 5) n;"
        f"alter publication supabase_realtime add table {name};"
        f"grant all on {name} to anon"
    )
    rt = open_session()
    frame = rt.table(name).wait(scaled(10))
    rt.queue.pause()
    frame.edit(1, {"limit": 10, "a.b": "z"})
    frame.delete(2)
    frame.delete(3)
    frame.edit(4, {"order": 40})
    stack.sql(f'update {name} set "or" = \'theirs\' where "order" = 2')
    rt.queue.resume()
    assert rt.queue.flush(10) == 0
    left = stack.sql(f'select * from {name} order by "order"')
    assert left == [(1, 10, "z", "y"), (5, 5, "x", "y"), (40, 4, "x", "y")]
    stack.sql(f"drop table {name}")


def test_who_only_reads_makes_no_file(
    table: str, open_session: Callable[..., nrt.Session], tmp_path: Path
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    assert (len(rt.queue), len(rt.queue.df), len(frame.pending), len(frame.conflicts)) == (0,) * 4
    assert "0 waiting" in repr(rt.queue)
    assert list(tmp_path.iterdir()) == []


SEQUENCED = """
create table {0} (id bigint generated {1} as identity primary key, body text);
alter publication supabase_realtime add table {0};
grant all on {0} to anon, authenticated, service_role;
grant usage on sequence {0}_id_seq to anon;
"""


@pytest.fixture
def sequenced(stack: LocalStack) -> Iterator[Callable[..., str]]:
    """Makes tables whose key is an identity column."""
    made: list[str] = []

    def make(generated: str = "by default") -> str:
        made.append(f"sequenced_{uuid.uuid4().hex[:8]}")
        stack.sql(SEQUENCED.format(made[-1], generated))
        return made[-1]

    yield make
    for name in made:
        stack.sql(f"drop table {name}")


@pytest.mark.usefixtures("ledger")
def test_a_row_without_its_integer_key_draws_one_from_the_sequence(
    stack: LocalStack,
    proxy: Proxy,
    sequenced: Callable[..., str],
    open_session: Callable[..., nrt.Session],
) -> None:
    name = sequenced()
    frame = open_session(url=proxy.url).table(name).wait()
    assert frame.insert(body="first") == 1
    assert frame.df.body.to_dict() == {1: "first"}
    proxy.down()
    assert frame.insert(body="offline") == 2  # from those in reserve
    with frame.batch():
        assert [frame.insert(body="many") for _ in range(3)] == [3, 4, 5]
    proxy.up()
    rows = f"select id, body from {name} order by id"
    until(lambda: len(stack.sql(rows)) == 5)
    assert stack.sql(rows)[:2] == [(1, "first"), (2, "offline")]

    # Nobody else is given them; what was inserted beside the sequence is passed over.
    stack.sql(f"insert into {name} (id, body) overriding system value values (6, 'by hand')")
    assert stack.sql(f"insert into {name} (body) values ('by sql') returning id") == [(17,)]
    until(lambda: set(frame.df.index) == {1, 2, 3, 4, 5, 6, 17})
    assert frame.insert(body="next") == 7
    frame.undo()
    with frame.batch():
        assert [frame.insert(body="more") for _ in range(10)] == [*range(8, 17), 18]


def test_a_row_that_is_refused_while_its_key_is_made_is_told_as_one_exception(
    stack: LocalStack, sequenced: Callable[..., str], open_session: Callable[..., nrt.Session]
) -> None:
    name = sequenced("always")
    stack.sql(f"alter table {name} add check (body <> 'bad')")
    frame = open_session().table(name).wait()
    with pytest.raises(errors.InvalidEditError) as refused:
        frame.insert(body="bad")
    with frame.batch(), pytest.raises(errors.InvalidEditError) as held:
        frame.insert(body="good")
    for caught in (refused, held):
        told = "".join(traceback.format_exception(caught.value))
        assert told.count("Traceback (most recent call last)") == 1, told


@pytest.mark.usefixtures("ledger")
def test_of_a_composite_key_one_part_is_drawn_and_another_made_here(
    stack: LocalStack, make_table: Callable[..., str], open_session: Callable[..., nrt.Session]
) -> None:
    columns = "tenant uuid, id bigint generated by default as identity, primary key (tenant, id)"
    table = make_table(columns)
    stack.sql(f"grant usage on sequence {table}_id_seq to anon")
    frame = open_session().table(table).wait(scaled(10))
    keys = [frame.insert(), frame.insert()]
    assert [key[1] for key in keys if isinstance(key, tuple)] == [1, 2]
    assert set(frame.df.index) == set(keys)


def test_where_no_sequence_gives_the_key_an_insert_says_what_to_do(
    stack: LocalStack,
    proxy: Proxy,
    sequenced: Callable[..., str],
    make_table: Callable[..., str],
    open_session: Callable[..., nrt.Session],
    request: pytest.FixtureRequest,
) -> None:
    rt = open_session(url=proxy.url)

    def refused(frame: nrt.LiveTable) -> str:
        with pytest.raises(nrt.InvalidEditError) as caught:
            frame.insert(body="x")
        return caught.value.reason

    plain = rt.table(make_table("id bigint primary key, body text")).wait()
    assert 'null value in column "id"' in refused(plain), "nothing makes it: the server's words"
    assert len(rt.queue) == 0, "whoever was told need not drop it"
    request.getfixturevalue("ledger")
    drawn = rt.table(sequenced()).wait()
    until(lambda: drawn.insert(body="now it is there") in (1, 2))
    assert refused(plain) == 'give the key column "id" (int8): no sequence makes it'
    text = rt.table(make_table("id text primary key, body text")).wait()
    assert "only one of type uuid, or an integer of a sequence" in refused(text)
    other = rt.table(sequenced()).wait()
    proxy.down()
    assert "none is in reserve" in refused(other)
    assert "`notebook-rt doctor --sql`" in refused(other)


@pytest.mark.parametrize("generated", ["by default", "always"])
def test_without_our_sql_the_server_makes_the_key_and_the_row_comes_once(
    stack: LocalStack,
    sequenced: Callable[..., str],
    open_session: Callable[..., nrt.Session],
    generated: str,
) -> None:
    name = sequenced(generated)
    rt = open_session()
    frame = rt.table(name).wait()
    batches: list[Any] = []
    frame.on_change(batches.append)
    source = TableOf(frame)
    until(lambda: source.fields[0].filled)
    assert source.insert({"body": "first"}) == 1, "a grid's new row may go without its key, too"
    assert frame.df.body.to_dict() == {1: "first"}, "shown when the call returns"
    report = frame.insert(pd.DataFrame({"body": ["a", "b", "c"]}))
    assert (report.written, report.waiting) == (3, 0)
    assert frame.df.body.to_dict() == {1: "first", 2: "a", 3: "b", 4: "c"}
    frame.edit(1, body="edited")
    stack.sql(f"insert into {name} (body) values ('theirs')")
    until(lambda: set(frame.df.index) == {1, 2, 3, 4, 5})

    def told() -> list[tuple[str, Hashable]]:
        return [(change.kind, change.key) for batch in batches for change in batch]

    until(lambda: ("insert", 5) in told())
    assert sorted(key for kind, key in told() if kind != "update") == [1, 2, 3, 4, 5], (
        "each is told once, by its own key, and none goes"
    )
    assert rt.queue.flush(scaled(10)) == 0
    rows = stack.sql(f"select id, body from {name} order by id")
    assert rows == [(1, "edited"), (2, "a"), (3, "b"), (4, "c"), (5, "theirs")]
    assert frame.verify().differed == 0


def test_a_row_without_its_key_whose_answer_is_lost_is_kept_and_not_sent_again_unasked(
    stack: LocalStack,
    proxy: Proxy,
    sequenced: Callable[..., str],
    open_session: Callable[..., nrt.Session],
) -> None:
    name = sequenced()
    rt = open_session(url=proxy.url)
    frame = rt.table(name).wait()
    proxy.rules = (faults.Cut(path=f"/{name}", method="POST", when="after"),)
    with pytest.raises(errors.AnswerLostError, match="may be in") as caught:
        frame.insert(body="mine")
    report = frame.insert([{"body": "two"}, {"body": "three"}])
    assert report.refused == 2
    assert set(report.refused_df.reason.str.contains("may be in")) == {True}
    proxy.heal()
    until(lambda: sorted(frame.df.body) == ["mine", "three", "two"])
    lost = rt.queue.df
    assert set(lost.state) == {"failed"}
    assert caught.value.op in lost.index
    for op in lost.index:
        rt.queue.discard(op)
    assert frame.insert(body="next") == 4
    # Who looks and does not find it says so: then it leaves once more.
    proxy.rules = (faults.Cut(path=f"/{name}", method="POST"),)
    with pytest.raises(errors.AnswerLostError):
        frame.insert(body="never there")
    proxy.heal()
    assert rt.queue.retry() == 1
    assert rt.queue.flush(scaled(10)) == 0
    until(lambda: "never there" in set(frame.df.body))
    bodies = [body for (body,) in stack.sql(f"select body from {name}")]
    assert sorted(bodies) == ["mine", "never there", "next", "three", "two"]


def test_a_row_without_its_key_is_refused_in_the_servers_words_and_where_it_cannot_leave_now(
    stack: LocalStack,
    proxy: Proxy,
    sequenced: Callable[..., str],
    open_session: Callable[..., nrt.Session],
) -> None:
    name = sequenced()
    stack.sql(f"alter table {name} add check (body <> 'bad')")
    rt = open_session(url=proxy.url)
    frame = rt.table(name).wait()
    with pytest.raises(nrt.InvalidEditError, match="violates check constraint"):
        frame.insert(body="bad")
    report = frame.insert([{"body": "good"}, {"body": "bad"}, {"body": "fine"}])
    assert (report.written, report.refused) == (2, 1)
    assert list(report.refused_df.index) == [1]
    assert sorted(frame.df.body) == ["fine", "good"]
    with (
        pytest.raises(nrt.InvalidEditError, match="in a batch rows need their keys"),
        frame.batch(),
    ):
        frame.insert(body="x")
    rt.queue.pause()
    with pytest.raises(nrt.InvalidEditError, match=r"paused: resume\(\) it"):
        frame.insert(body="x")
    rt.queue.resume()
    proxy.down()
    with pytest.raises(nrt.InvalidEditError, match="`notebook-rt doctor --sql`"):
        frame.insert(body="x")
    with pytest.raises(nrt.InvalidEditError, match="cannot reach"):
        frame.insert([{"body": "x"}])
    assert list(rt.queue.df.state) == ["failed"], "nothing waits that nobody sees"
    assert stack.sql(f"select count(*) from {name}") == [(2,)]


def test_many_rows_at_once_in_a_batch_and_undone(
    stack: LocalStack, table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    frame = rt.table(table).wait(scaled(10))
    rt.queue.pause()
    batches: list[Any] = []
    stop = frame.on_change(batches.append)
    assert frame.edit_many(pd.DataFrame({"quantity": [1, 2]}, index=[A, B])).changed == 2
    with frame.batch():
        frame.edit(A, notes="first")
        frame.edit(A, quantity=5)
        frame.delete(B)
        assert B in frame.df.index, "nothing is shown before the block ends"
    assert B not in frame.df.index
    assert (seen(frame, "quantity"), seen(frame, "notes")) == (5, "first")
    until(lambda: len(batches) == 2)
    stop()
    with pytest.raises(ZeroDivisionError), frame.batch():
        frame.edit(A, quantity=1 // 0)
    assert frame.undo()
    assert (seen(frame, "quantity"), seen(frame, "quantity", B)) == (1, 2)
    assert frame.undo()
    assert not frame.undo()
    assert (seen(frame, "quantity"), seen(frame, "quantity", B)) == (10, 20)
    frame.edit(A, quantity=99)
    assert frame.discard(A) == 1
    assert seen(frame, "quantity") == 10
    rt.queue.resume()
    assert rt.queue.flush(10) == 0
    assert stored(stack, table, "quantity") == 10


def test_an_open_batch_holds_nothing_up(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    with frame.batch():
        frame.edit(A, quantity=5)
        other = threading.Thread(target=lambda: frame.edit(B, quantity=21))
        other.start()
        other.join(scaled(5))
        assert seen(frame, "quantity", B) == 21, "another thread's edit is not of this batch"
        stack.sql(f"update {table} set notes = 'by sql' where id = %s", B)
        until(lambda: seen(frame, "notes", B) == "by sql")
        assert rt.table(table, filter=f"id=eq.{B}").wait(scaled(5)).df.loc[B, "notes"] == "by sql"
    rt.queue.flush(10)
    assert stored(stack, table, "quantity") == 5


@pytest.fixture
def restock(stack: LocalStack, table: str) -> Iterator[str]:
    """A function that adds ``amount`` to the quantity of every row."""
    name = f"{table}_restock"
    stack.sql(
        f"create function {name}(amount int) returns int language sql as "
        f"$$ update {table} set quantity = quantity + amount; select amount $$; "
        f"grant execute on function {name} to anon; notify pgrst, 'reload schema'"
    )
    yield name
    stack.sql(f"drop function {name}")


def test_flush_says_that_the_login_is_refused_and_goes_on_when_it_is_not(
    table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    frame = rt.table(table).wait()
    proxy.rules = (faults.Answer(method="PATCH", status=401),)
    frame.edit(A, quantity=11)
    with pytest.raises(
        errors.QueueError, match=r"refuses the login .*sign_in\(\).*; 1 of the queue waits"
    ):
        rt.queue.flush()
    proxy.heal()
    assert rt.queue.flush(10) == 0


def test_a_call_waits_for_the_network_and_one_that_is_refused_is_kept_with_why(
    stack: LocalStack,
    table: str,
    restock: str,
    proxy: Proxy,
    open_session: Callable[..., nrt.Session],
) -> None:
    rt = open_session(url=proxy.url)
    frame = rt.table(table).wait(scaled(10))
    rt.queue.rpc(restock, {"amount": pd.Series([5])[0]})  # numpy's
    until(lambda: seen(frame, "quantity") == 15)
    rt.queue.flush(10)
    proxy.down()
    until(lambda: rt.status != "connected")
    kept = rt.queue.rpc(restock, {"amount": 1})
    assert kept.queued
    assert rt.queue.df.loc[kept.id, "what"] == f"call {restock}"
    proxy.up()
    until(lambda: seen(frame, "quantity") == 16, 15)
    rt.queue.flush(10)
    refused = rt.queue.rpc("no_such_function")
    until(lambda: rt.queue.df.loc[refused.id, "state"] == "failed")
    assert "no_such_function" in rt.queue.df.loc[refused.id, "why"]
    with pytest.raises(TypeError, match="dict"):
        rt.queue.rpc(restock, [1])  # type: ignore[arg-type]  # the slip that is tried here
    with pytest.raises((TypeError, ValueError), match=f'function "{restock}"'):
        rt.queue.rpc(restock, {"amount": object()})


def test_a_refused_call_holds_no_later_call_back(
    stack: LocalStack, table: str, restock: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    refused = rt.queue.rpc(restock, {"amount": -1000})  # the table's check refuses it
    rt.queue.rpc(restock, {"amount": 5})
    rt.queue.rpc(restock, {"amount": 2})
    assert rt.queue.flush(scaled(10)) == 1
    assert list(rt.queue.df.index) == [refused.id]
    assert "1 call of yours was refused" in rt.health.reason
    assert stored(stack, table, "quantity") == 17
    rt.queue.pause()
    rt.queue.rpc(restock, {"amount": 1})
    with pytest.raises(errors.QueueError, match="pause"):
        rt.queue.flush(scaled(10))
    rt.queue.resume()


WAYS: dict[str, Callable[[nrt.LiveTable], object]] = {
    "edit": lambda frame: frame.edit(A, notes="z"),
    "edit with more": lambda frame: frame.edit(A, notes="z", quantity=3),
    "edit_many": lambda frame: frame.edit_many(pd.DataFrame({"notes": ["z"]}, index=[A])),
    "at": lambda frame: frame.at.__setitem__((A, "notes"), "z"),
    "upsert": lambda frame: frame.upsert([{"id": A, "notes": "z"}]),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_value_that_was_refused_is_tried_again_when_it_is_edited_again(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session], way: str
) -> None:
    stack.sql(f"alter table {table} add constraint no_z check (notes <> 'z')")
    frame = (rt := open_session()).table(table).wait(scaled(10))
    frame.edit(A, notes="z")
    assert rt.queue.flush(scaled(10)) == 1
    WAYS[way](frame)
    assert rt.queue.flush(scaled(10)) == 1, "it is refused again"
    stack.sql(f"alter table {table} drop constraint no_z")
    WAYS[way](frame)
    assert rt.queue.flush(scaled(10)) == 0
    assert stored(stack, table, "notes") == "z"
    assert stored(stack, table, "quantity") == (3 if way == "edit with more" else 10)
    assert seen(frame, "notes") == "z"


def test_what_is_parked_says_behind_what(
    table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    frame.edit(A, quantity=-1)
    rt.queue.flush(scaled(10))
    frame.edit(A, notes="behind it")
    assert rt.queue.flush(scaled(10)) == 2
    assert list(rt.queue.df.state) == ["failed", "parked"]
    assert rt.queue.df.why.iloc[1] == (
        f"waits for update {table} {A} (quantity), which was refused: retry or discard that"
    )


@pytest.mark.parametrize("role", ["anon", "authenticated"])
def test_a_call_that_needs_a_grant_says_which(
    stack: LocalStack, restock: str, open_session: Callable[..., nrt.Session], role: str
) -> None:
    stack.sql(f"revoke execute on function {restock} from anon, authenticated, public")
    rt = open_session()
    if role == "authenticated":
        rt.set_auth(stack.token("authenticated", str(uuid.uuid4()), 600))
    grant = f"grant execute on function public.{restock} to {role}"
    with pytest.raises(errors.PermissionDeniedError, match=grant) as told:
        rt.rpc(restock, {"amount": 1})
    assert ("sign in" in str(told.value)) == (role == "anon")
    rt.queue.rpc(restock, {"amount": 1})
    rt.queue.flush(scaled(10))
    (why,) = rt.queue.df.why
    assert grant in why
    assert ("sign_in()" in why) == (role == "anon")


def test_a_function_that_is_refused_what_it_reads_names_that(
    stack: LocalStack, restock: str, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    stack.sql(f"revoke all on {table} from anon")
    rt = open_session()
    with pytest.raises(
        errors.PermissionDeniedError, match=f"permission denied for table {table}"
    ) as told:
        rt.rpc(restock, {"amount": 1})
    assert "grant execute" not in str(told.value)
    rt.queue.rpc(restock, {"amount": 1})
    rt.queue.flush(scaled(10))
    assert "grant execute" not in rt.queue.df.why.iloc[0]


def test_offline_edits_wait_and_drain(
    stack: LocalStack, table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    notes: list[tuple[str, str]] = []
    rt.on_note(lambda kind, text: notes.append((kind, text)))
    frame = rt.table(table).wait(scaled(10))
    proxy.down()
    until(lambda: rt.status != "connected")
    frame.edit(A, quantity=7)
    new = frame.insert(name="dates", quantity=1)
    assert rt.channel("room").send("hello", {"n": 1}).queued
    assert seen(frame, "quantity") == 7
    assert list(frame.pending["kind"]) == ["update", "insert"]
    assert len(rt.queue) == 3
    until(lambda: "queued" in [kind for kind, _ in notes])
    throughout(lambda: stored(stack, table, "quantity") == 10, 0.5)
    assert set(rt.queue.df["attempts"]) == {0}, "no network is no attempt"
    proxy.up()
    until(lambda: len(rt.queue) == 0, 15, lambda: rt.queue.df.to_string())
    assert stored(stack, table, "quantity") == 7
    assert stored(stack, table, "name", new) == "dates"
    until(lambda: frame.status == "live")
    assert seen(frame, "quantity") == 7
    assert seen(frame, "name", new) == "dates"


def check_that_the_loop_goes_on(rt: nrt.Session) -> None:
    for _ in range(3):
        rt._project.thread.wait(asyncio.sleep(0.05), scaled(5))


def test_a_commit_that_waits_for_the_disk_does_not_stop_the_loop(
    table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    _polled = rt.table(table).wait(scaled(10))
    outbox = rt._writes.opened().outbox
    proxy.down()
    until(lambda: not rt._project.reachable)
    with outbox._lock:  # as the thread holds it that commits
        outbox.notify()
        check_that_the_loop_goes_on(rt)


def test_a_session_that_closes_while_the_disk_is_waited_for_does_not_stop_the_loop(
    table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    rt.table(table).wait(scaled(10)).edit(A, quantity=7)
    assert rt.queue.flush(10) == 0
    closing = threading.Thread(target=rt.close)
    with rt._writes.opened().outbox._lock:  # as the thread holds it that commits
        closing.start()
        check_that_the_loop_goes_on(rt)
    closing.join()


KILLED = """
import os, sys, uuid
import notebook_rt as nrt
url, key, path, table = sys.argv[1:]
rt = nrt.connect(url, key, queue_path=path)
frame = rt.table(table).wait()
rt.queue.pause()
frame.edit(str(uuid.UUID(int=1)), notes="typed before the crash")
made = frame.insert(name="elderberries", quantity=4)
print(made, flush=True)
input()
"""


def test_what_was_typed_before_a_kill_is_in_the_first_df_and_is_sent(
    stack: LocalStack,
    table: str,
    proxy: Proxy,
    tmp_path: Path,
    open_session: Callable[..., nrt.Session],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "mine.sqlite3"
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, proxy.url, stack.anon_key, str(path), table],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert killed.stdout is not None
    made = killed.stdout.readline().strip()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    rt = open_session(url=proxy.url)
    frame = rt.table(table)
    first = frame.df
    assert first.loc[A, "notes"] == "typed before the crash"
    assert first.loc[made, "name"] == "elderberries"
    assert "2 edits of another session wait, the last by" in caplog.text
    assert rt.queue.flush(10) == 2, "it was paused: nobody sends them unasked"
    rt.queue.resume()
    until(lambda: len(rt.queue) == 0, 15, lambda: rt.queue.df.to_string())
    assert stored(stack, table, "notes") == "typed before the crash"
    assert stored(stack, table, "quantity", made) == 4


def test_the_queue_says_what_each_edit_waits_for(
    stack: LocalStack, table: str, tmp_path: Path
) -> None:
    def connect() -> nrt.Session:
        return nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path / "shared.sqlite3")

    with connect() as mine:
        theirs = connect()
        theirs.queue.pause()
        theirs.table(table).wait(scaled(10)).edit(A, notes="theirs")
        my = mine.table(table).wait(scaled(10))
        until(lambda: my.get(A)["notes"] == "theirs")
        my.edit(A, quantity=3)
        assert mine.queue.flush(10).own == 1
        paused, behind = mine.queue.df["why"]
        assert (
            paused == "its session is paused: it is sent once that goes on, or discard(id) drops it"
        )
        assert behind == f"waits for update {table} {A} (notes) before it: its session is paused"
        assert theirs.queue.df["why"].iloc[0] == "the queue is paused: resume() it"
        theirs.close()
        ended, behind = mine.queue.df["why"]
        assert ended == "its session ended while it was paused: resume(), or retry(id), sends it"
        assert behind.endswith("before it: its session ended while it was paused")
        mine.queue.resume()
        assert mine.queue.flush(10) == 0
        mine.queue.pause()
        my.edit(A, quantity=4)
        assert list(mine.queue.df["why"]) == ["the queue is paused: resume() it"]
        mine.queue.resume()
        assert mine.queue.flush(10) == 0


def test_what_waits_in_a_file_that_was_made_later_is_shown_by_who_was_there_before(
    stack: LocalStack, table: str, tmp_path: Path
) -> None:
    path = tmp_path / "shared.sqlite3"
    with (
        nrt.connect(stack.url, stack.anon_key, queue_path=path) as early,
        nrt.connect(stack.url, stack.anon_key, queue_path=path) as other,
    ):
        frame = early.table(table).wait(scaled(10))
        edited = other.table(table).wait(scaled(10))
        other.queue.pause()
        edited.edit(A, notes="not sent yet")
        until(lambda: seen(frame, "notes") == "not sent yet")
        assert len(early.queue) == 1
        edited.discard(A)
        until(lambda: seen(frame, "notes") != "not sent yet")


def test_two_who_edit_one_row_merge(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    mine, theirs = open_session("mine"), open_session("theirs")
    merge: dict[str, Strategy] = {"quantity": "delta", "tags": "union"}
    my, their = (
        mine.table(table, merge=merge).wait(scaled(10)),
        theirs.table(table, merge=merge).wait(scaled(10)),
    )
    merged: list[Any] = []
    my.on_merge(merged.extend)
    for session in (mine, theirs):
        session.queue.pause()
    my.edit(A, quantity=13, tags=["fruit", "red"])
    their.edit(A, quantity=15, tags=["sweet"], notes="from the other side")
    theirs.queue.resume()
    theirs.queue.flush(10)
    mine.queue.resume()
    mine.queue.flush(10)
    assert stored(stack, table, "quantity") == 18
    assert sorted(stored(stack, table, "tags")) == ["red", "sweet"]
    assert stored(stack, table, "notes") == "from the other side"
    until(lambda: all(seen(f, "quantity") == 18 and "red" in seen(f, "tags") for f in (my, their)))
    assert set(my.conflicts["column"]) >= {"quantity"}
    until(lambda: merged)


@pytest.mark.parametrize("first", ["plain", "derived", "asks"])
def test_each_handle_on_a_table_merges_as_it_says(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session], first: str
) -> None:
    rt = open_session()
    plain = rt.table(table, merge="ask" if first == "asks" else None).wait(scaled(10))
    alive = plain.where("quantity=gte.0") if first == "derived" else plain
    goods = rt.table(table, merge={"quantity": "delta"}).wait(scaled(10))
    until(lambda: goods.status == alive.status == "live")
    rt.queue.pause()
    goods.edit(A, quantity=lambda n: n - 1)
    stack.sql(f"update {table} set quantity = quantity - 1 where id = %s", A)
    until(lambda: goods.get(A)["quantity"] == 8)  # type: ignore[index]  # it is there
    rt.queue.resume()
    rt.queue.flush(scaled(10))
    assert stack.sql(f"select quantity from {table} where id = %s", A) == [(8,)]
    assert goods.conflicts["rule"].tolist() == ["delta"]


def test_a_change_that_comes_between_reading_a_cell_and_setting_it_is_kept(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table, merge={"quantity": "delta"}).wait(scaled(10))
    start = stored(stack, table, "quantity", A)
    cell = frame.at  # as in ``frame.at[A, "quantity"] += 1``
    seen = cell[A, "quantity"]
    stack.sql(f"update {table} set quantity = quantity + 100")
    until(lambda: frame.at[A, "quantity"] == start + 100)
    cell[A, "quantity"] = seen + 1
    assert frame.at[A, "quantity"] == start + 101
    rt.queue.flush(10)
    until(lambda: stored(stack, table, "quantity", A) == start + 101)


def test_three_who_get_and_edit_in_a_tight_loop_lose_no_item_of_one_another(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    merge: dict[str, Strategy] = {"quantity": "delta", "tags": "union"}
    sessions = {name: open_session(name) for name in ("ann", "bob", "cyd")}
    frames = {n: rt.table(table, merge=merge).wait(scaled(10)) for n, rt in sessions.items()}
    rounds = 60

    def write(name: str, frame: nrt.LiveFrame) -> None:
        for number in range(rounds):
            row = frame.get(A)
            assert row is not None
            tags, item = row["tags"], f"{name} {number}"
            frame.edit(A, tags=[*tags, item], quantity=row["quantity"] + 1)

    writers = [threading.Thread(target=write, args=one) for one in frames.items()]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for rt in sessions.values():
        rt.queue.flush(60)
    wanted = {"fruit", *(f"{name} {number}" for name in frames for number in range(rounds))}
    tags = stored(stack, table, "tags")
    assert len(tags) == len(wanted)
    assert set(tags) == wanted
    assert stored(stack, table, "quantity") == 10 + 3 * rounds
    assert not any(frame.conflicts["open"].any() for frame in frames.values())


def test_no_update_is_lost_between_edits_sql_and_a_breaking_socket(
    stack: LocalStack, table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    frame = rt.table(table, merge={"quantity": "delta"}).wait(scaled(10))
    start = {key: stored(stack, table, "quantity", key) for key in (A, B)}

    def others() -> None:
        for _ in range(40):
            stack.sql(f"update {table} set quantity = quantity + 100")
            time.sleep(0.02)

    writer = threading.Thread(target=others)
    writer.start()
    for number in range(60):
        key = (A, B)[number % 2]
        with frame.batch():
            frame.at[key, "quantity"] += 1
            frame.at[key, "notes"] = str(number)
        if number in (20, 40):
            proxy.close_sockets()
        time.sleep(0.01)
    writer.join()
    rt.queue.flush(30)
    for key in (A, B):
        assert stored(stack, table, "quantity", key) == start[key] + 40 * 100 + 30
    until(lambda: frame.status == "live")
    until(
        lambda: all(
            seen(frame, name, key) == stored(stack, table, name, key)
            for key in (A, B)
            for name in ("quantity", "notes")
        ),
        10,
        lambda: frame.df.to_string(),
    )


@pytest.mark.parametrize("pg_type", ["jsonpath", "point", "json"])
def test_a_column_of_a_type_without_equality_is_edited_and_meets_others(
    stack: LocalStack,
    make_table: Callable[..., str],
    open_session: Callable[..., nrt.Session],
    pg_type: str,
) -> None:
    """PostgreSQL has no ``=`` for it, so that no condition of a write may compare it."""
    old, new, theirs = {
        "jsonpath": ('$."a"', '$."b"', '$."c"'),
        "point": ("(1,2)", "(3,4)", "(5,6)"),
        "json": ('{"a":1}', '{"a":2}', '{"a":3}'),
    }[pg_type]
    name = make_table(f"id int primary key, v {pg_type}")
    stack.sql(f"insert into {name} values (1, '{old}'), (2, '{old}')")
    rt = open_session()
    frame = rt.table(name, merge={"v": "ask"}).wait(scaled(10))
    value = json.loads(new) if pg_type == "json" else new
    frame.edit(1, v=value)
    assert rt.queue.flush(scaled(10)) == 0, rt.queue.df.to_string()
    assert stack.sql(f"select v::text from {name} where id = 1") == [(new,)]
    rt.queue.pause()
    frame.edit(2, v=value)
    stack.sql(f"update {name} set v = '{theirs}' where id = 2")
    rt.queue.resume()
    until(lambda: frame.conflicts["open"].any(), 10, lambda: rt.queue.df.to_string())
    assert stack.sql(f"select v::text from {name} where id = 2") == [(theirs,)]


def test_a_cell_that_shows_a_composite_value_is_edited_by_what_it_shows(
    stack: LocalStack, make_table: Callable[..., str], open_session: Callable[..., nrt.Session]
) -> None:
    name = make_table("id int primary key")
    stack.sql(f"create type {name}_size as (width int, label text)")
    try:
        stack.sql(f"alter table {name} add size {name}_size")
        stack.sql(f"""insert into {name} values (1, row(3, 'a "b", (c)'))""")
        rt = open_session()
        frame = rt.table(name).wait(scaled(10))
        shown = frame.df["size"][1]
        assert shown == {"width": 3, "label": 'a "b", (c)'}
        frame.edit(1, size={**shown, "width": 4})
        assert frame.df["size"][1]["width"] == 4
        assert rt.queue.flush(scaled(10)) == 0, rt.queue.df.to_string()
        assert stack.sql(f"select (size).width, (size).label from {name}") == [(4, 'a "b", (c)')]
    finally:
        stack.sql(f"drop table {name}; drop type {name}_size")


def test_an_insert_made_offline_over_theirs_asks_in_words_and_is_shown_whole(
    stack: LocalStack, table: str, proxy: Proxy, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session(url=proxy.url)
    notes: list[tuple[str, str]] = []
    rt.on_note(lambda kind, text: notes.append((kind, text)))
    frame = rt.table(table, merge={"quantity": "delta", "name": "ask"}).wait(scaled(10))
    key = str(uuid.UUID(int=11))
    proxy.down()
    frame.insert(id=key, name="new", quantity=2)
    stack.sql(f"insert into {table} (id, name, quantity) values ('{key}', 'theirs', 111)")
    until(lambda: any(kind == "queued" for kind, _ in notes), scaled(5))  # and it was tried
    proxy.up()
    until(lambda: frame.conflicts["open"].any(), scaled(20))

    def shown() -> tuple[Any, Any]:
        return frame.at[key, "name"], frame.at[key, "quantity"]

    assert shown() == tuple(frame.df.loc[key, ["name", "quantity"]]) == ("new", 2)
    (conflict,) = frame.conflicts.to_dict("records")
    assert conflict["rule"] == "insert against insert", "it never left, so no answer was lost"
    assert "xmin" not in conflict["theirs"]
    (why,) = rt.queue.df["why"]
    assert why.startswith("another writer inserted a row of this key, too; .resolve(")
    until(lambda: ("conflict", f"{table} {key}: {why}") in notes, scaled(5))
    frame.resolve(key, choice="theirs")
    assert rt.queue.flush(scaled(10)) == 0
    until(lambda: shown() == ("theirs", 111), scaled(5))


def test_a_conflict_asks_and_is_resolved(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table, merge={"notes": "ask"}).wait(scaled(10))
    ways: list[tuple[dict[str, Any], str | None]] = [
        ({"choice": "mine"}, "m"),
        ({"choice": "theirs"}, "t"),
        ({"value": "both"}, "both"),
        ({"value": None}, None),
    ]
    for how, expected in ways:
        rt.queue.pause()
        frame.edit(A, notes="m")
        stack.sql(f"update {table} set notes = 't' where id = %s", A)
        rt.queue.resume()
        until(lambda: frame.conflicts["open"].any(), 10, lambda: rt.queue.df.to_string())
        assert seen(frame, "notes") == "m"
        assert rt.queue.df["state"].tolist() == ["asking"]
        with pytest.raises(ValueError, match="say which"):
            frame.resolve(A, value="all")
        with pytest.raises(ValueError, match='"mine" or "theirs", not \'yours\''):
            frame.resolve(A, "notes", "yours")  # type: ignore[arg-type]
        frame.resolve(A, "notes", **how)
        rt.queue.flush(10)
        assert stored(stack, table, "notes") == expected
        until(partial(_reads, frame, expected))
        assert not frame.conflicts["open"].any()
        stack.sql(f"update {table} set notes = null where id = %s", A)
        until(lambda: pd.isna(seen(frame, "notes")))
    with pytest.raises(errors.ConflictError):
        frame.resolve(A)


def test_what_an_earlier_run_left_is_sent_at_connect_and_the_log_says_so(
    stack: LocalStack,
    table: str,
    proxy: Proxy,
    open_session: Callable[..., nrt.Session],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = open_session(url=proxy.url)
    frame = first.table(table).wait(scaled(10))
    proxy.down()
    frame.edit(A, notes="offline")
    first.close()
    proxy.up()
    with caplog.at_level(logging.INFO, "notebook_rt"):
        second = open_session(url=proxy.url)
        until(lambda: stored(stack, table, "notes") == "offline", 15)
    assert "1 write of other sessions is sent" in caplog.text
    assert second.queue.flush(scaled(10)).own == 0


def test_what_was_merged_beside_a_conflict_is_listed_once(
    stack: LocalStack, make_table: Callable[..., str], open_session: Callable[..., nrt.Session]
) -> None:
    table = make_table("id text primary key, name text, price int")
    stack.sql(f"insert into {table} values ('a', 'old', 21)")
    rt = open_session()
    frame = rt.table(table, merge={"price": "delta", "name": "ask"}).wait(scaled(10))
    told: list[Any] = []
    frame.on_merge(lambda records: told.extend(r["column"] for r in records if not r["open"]))
    rt.queue.pause()
    frame.edit("a", name="mine", price=20)
    stack.sql(f"update {table} set name = 'theirs', price = 19")
    rt.queue.resume()
    until(lambda: frame.conflicts["open"].any(), 10, lambda: rt.queue.df.to_string())
    frame.resolve("a", choice="mine")
    rt.queue.flush(scaled(10))
    assert stack.sql(f"select name, price from {table}") == [("mine", 18)]
    found = frame.conflicts[["column", "base", "mine", "theirs", "result", "open"]]
    assert found.values.tolist() == [
        ["price", 21, 20, 19, 18, False],
        ["name", "old", "mine", "theirs", "mine", False],
    ]
    until(lambda: told == ["price"], what=lambda: told)


@pytest.mark.parametrize("choice", ["mine", "theirs"])
def test_a_row_they_deleted_under_my_edit_stays_in_sight_until_i_decide(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session], choice: str
) -> None:
    rt = open_session()
    frame = rt.table(table, merge={"notes": "ask"}).wait(scaled(10))
    source = TableOf(frame)
    rt.queue.pause()
    frame.edit(A, notes="m")
    stack.sql(f"delete from {table} where id = %s", A)
    until(lambda: A not in frame.df.index)
    assert source.leaving().loc[A, "notes"] == "m"
    rt.queue.resume()
    until(lambda: bool(source.conflicts()), 10, lambda: rt.queue.df.to_string())
    (conflict,) = source.conflicts()
    assert (conflict.key, conflict.column, conflict.theirs) == (A, None, None)
    source.resolve(A, None, choice)  # type: ignore[arg-type]
    rt.queue.flush(10)
    until(lambda: source.leaving().empty and not source.conflicts())
    until(lambda: (A in frame.df.index) == (choice == "mine"))
    there = stack.sql(f"select notes from {table} where id = %s", A)
    assert there == ([("m",)] if choice == "mine" else [])


def test_what_a_constraint_refuses_is_kept_with_the_servers_words(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    notes: list[tuple[str, str]] = []
    rt.on_note(lambda kind, text: notes.append((kind, text)))
    frame = rt.table(table).wait(scaled(10))
    frame.edit(A, quantity=-1)
    frame.edit(B, notes="flows on")
    until(lambda: "failed" in set(rt.queue.df["state"]))
    until(lambda: stored(stack, table, "notes", B) == "flows on")
    (why,) = frame.pending.query("state == 'failed'")["error"]
    assert "check" in why
    until(lambda: "failed" in [kind for kind, _ in notes])
    assert seen(frame, "quantity") == -1, "kept, until somebody decides"
    frame.edit(A, quantity=1)  # an edit of what was refused mends it
    assert rt.queue.flush(10) == 0
    assert stored(stack, table, "quantity") == 1
    frame.edit(A, quantity=-2)
    until(lambda: "failed" in set(rt.queue.df["state"]))
    [op] = rt.queue.df.index
    assert rt.queue.retry(op) == 1
    until(lambda: rt.queue.df["state"].tolist() == ["failed"])
    assert rt.queue.discard(op) == 1
    until(lambda: seen(frame, "quantity") == 1, 5)


def test_what_a_script_writes_last_leaves_before_the_session_closes(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    with open_session() as rt:
        rt.table(table).edit(A, quantity=12)
    assert stored(stack, table, "quantity") == 12
    with pytest.raises(errors.ClosedError):
        rt.table(table)


def test_a_table_that_was_closed_takes_no_edit_through_what_was_kept_of_it(
    table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    frame.edit(A, quantity=11)
    at, edits = frame.at, frame._edits
    frame.close()
    until(lambda: edits.known() is None)  # the last handle on it was let go
    with pytest.raises(errors.ClosedError, match=table):
        at[A, "quantity"] = 12
    assert rt.queue.flush(10) == 0


def test_a_session_whose_queue_cannot_be_written_any_more_closes_and_loses_nothing(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    frame.edit(A, quantity=11)
    assert rt.queue.flush(10) == 0  # it holds the lease
    rt.queue.pause()
    frame.edit(A, quantity=12)
    rt.queue.outbox._db.execute("pragma query_only = on")  # every write fails
    with pytest.raises(errors.QueueError, match="nothing was written"):
        frame.edit(A, quantity=13)
    assert seen(frame, "quantity") == 12
    rt.close()
    assert seen(open_session().table(table).wait(scaled(10)), "quantity") == 12


def test_a_number_of_more_digits_than_a_float_has_is_no_reason_to_refuse_an_edit(
    stack: LocalStack, make_table: Callable[..., str], open_session: Callable[..., nrt.Session]
) -> None:
    name = make_table("id int primary key, doc jsonb, mean numeric")
    doc = '{"mean": 0.12345678901234567890}'
    stack.sql(f"insert into {name} select n, '{doc}', n / 3.0 from generate_series(1, 3) n")
    rt = open_session()
    frame = rt.table(name).wait(scaled(10))
    frame.edit(1, doc={"mean": 2}, mean=5)
    frame.delete(2)
    assert rt.queue.flush(10) == 0
    assert stack.sql(f"select id, doc, mean::int from {name} order by id") == [
        (1, {"mean": 2}, 5),
        (3, {"mean": pytest.approx(0.123456789)}, 1),
    ]
    assert len(frame.conflicts) == 0


def test_another_login_has_another_queue(
    stack: LocalStack, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with nrt.connect(stack.url, stack.anon_key, options=OPTIONS) as rt:
        frame = rt.table(table).wait(scaled(10))
        rt.queue.pause()
        frame.edit(A, notes="of nobody")
        rt.set_auth(stack.token("authenticated", str(uuid.UUID(int=7)), 600))
        until(lambda: pd.isna(seen(frame, "notes")), 10)
        assert len(rt.queue) == 0
        rt.queue.resume()
        frame.edit(A, notes="of seven")
        assert rt.queue.flush(10) == 0
        assert stored(stack, table, "notes") == "of seven"
        rt.set_auth(None)
        until(lambda: len(rt.queue) == 1 or stored(stack, table, "notes") != "of seven")
    files = list((tmp_path / "notebook_rt" / "outbox").glob("*.sqlite3"))
    assert len(files) == 2


def test_only_tables_are_edited(open_session: Callable[..., nrt.Session]) -> None:
    rt = open_session()
    log = rt.channel("room").frame("tick")
    with pytest.raises(AttributeError, match="only a table can be edited"):
        log.edit(1, n=2)  # type: ignore[attr-defined]


def test_what_others_do_right_after_my_write_is_seen_though_no_version_tells_the_order(
    stack: LocalStack, make_table: Callable[..., str], tmp_path: Path
) -> None:
    table = make_table("id int primary key, name text, n int, tags text[]")
    stack.sql(f"insert into {table} values (1, 'here', 0), (2, 'there', 0)")
    options = nrt.Options(audit_interval=0)  # nothing but the changes tells of it
    queue = tmp_path / "queue.sqlite3"
    with nrt.connect(stack.url, stack.anon_key, queue_path=queue, options=options) as rt:
        everything, here = (
            rt.table(table).wait(scaled(10)),
            rt.table(table, filter="name=eq.here").wait(scaled(10)),
        )
        until(lambda: everything.status == here.status == "live")
        time.sleep(2.5)  # changes are newer than what was read at first

        everything.delete(1)
        until(lambda: not stack.sql(f"select from {table} where id = 1") and not len(rt.queue))
        throughout(lambda: 1 not in everything.df.index, 0.5)  # the deletion was told
        stack.sql(f"insert into {table} values (1, 'here', 7)")
        until(lambda: 1 in everything.df.index and 1 in here.df.index, 3)

        everything.edit(2, n=5)  # of a row that is not in the other view
        until(lambda: stored(stack, table, "n", 2) == 5 and not len(rt.queue))
        stack.sql(f"update {table} set name = 'here' where id = 2")
        until(lambda: 2 in here.df.index, 3)
        assert here.df.loc[2, "n"] == 5

        for key in range(10, 16):  # the nulls of their events are only read, not believed
            everything.insert(id=key, name="here")
        until(lambda: stored(stack, table, "name", 15) == "here" and not len(rt.queue))
        stack.sql(f"update {table} set n = 9 where id >= 10")
        until(lambda: (everything.df.loc[10:, "n"] == 9).all(), 3, lambda: everything.df)
        until(lambda: (here.df.loc[10:, "n"] == 9).all(), 3, lambda: here.df)


@pytest.mark.parametrize("kind", ["update", "insert", "delete"])
def test_a_trigger_that_skips_a_write_is_named_beside_the_policy(
    stack: LocalStack,
    make_table: Callable[..., str],
    open_session: Callable[..., nrt.Session],
    kind: str,
) -> None:
    table = make_table("id int primary key, n int")
    stack.sql(f"insert into {table} values (1, 1)")
    stack.sql(
        f"create function {table}_skip() returns trigger language plpgsql as "
        "$$ begin return null; end $$"
    )
    stack.sql(
        f"create trigger skip before {kind} on {table} for each row execute function {table}_skip()"
    )
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    match kind:
        case "update":
            frame.edit(1, n=2)
        case "insert":
            frame.insert(id=2, n=2)
        case _:
            frame.delete(1)
    until(lambda: rt.queue.df["state"].tolist() == ["failed"], 10, lambda: rt.queue.df.to_string())
    (why,) = rt.queue.df["why"]
    assert "trigger" in why
    assert "policy" in why
    assert stack.sql(f"select * from {table}") == [(1, 1)]
    frame.discard(2 if kind == "insert" else 1)
    until(lambda: frame.df.n.to_dict() == {1: 1})


def test_what_the_server_refused_is_told_until_somebody_decides(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    frame = rt.table(table).wait(scaled(10))
    other = rt.table(table, columns="name").wait(scaled(10))
    until(lambda: rt.health.status == "healthy", what=lambda: rt.health.reason)
    told: list[str] = []
    rt._project.health_listeners.add(lambda health: told.append(health.status))
    frame.edit(A, quantity=-1)
    assert rt.queue.flush(timeout=scaled(10)) == 1
    assert rt.queue.df["attempts"].tolist() == [1]
    assert (rt.health.status, rt.health.color) == ("refused", "yellow")
    for told_here in (rt.health.reason, frame.reason, repr(frame), other.reason):
        assert "1 edit of yours was refused by the server: update" in told_here
        assert "quantity_check" in told_here
    assert "discard(key)" in frame.reason
    until(lambda: "refused" in told)
    frame.edit(B, quantity=-1)
    assert rt.queue.flush(timeout=scaled(10)) == 2
    assert "2 writes of yours were refused by the server: the last, update" in rt.health.reason
    frame.discard(A)
    frame.discard(B)
    assert "refused" not in frame.reason + repr(frame)
    until(lambda: told[-1] == "healthy", what=lambda: told[-1])


def test_what_the_server_refused_is_taken_back_by_undo(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session]
) -> None:
    rt = open_session()
    stack.sql(f"create table {table}_of (id int primary key, part uuid references {table})")
    stack.sql(f"insert into {table}_of values (1, '{A}')")
    try:
        frame = rt.table(table).wait(scaled(10))
        frame.delete(A)
        assert rt.queue.flush(timeout=scaled(10)) == 1
        assert A not in frame.df.index
        assert frame.undo()
        assert seen(frame, "quantity") == 10
        assert len(rt.queue) == 0
        assert not frame.undo()
    finally:
        stack.sql(f"drop table {table}_of")


def test_a_write_that_can_never_succeed_is_refused_at_once(
    stack: LocalStack, open_session: Callable[..., nrt.Session]
) -> None:
    """Without a replica identity PostgREST answers 500, and another try cannot help."""
    name = f"edited_{uuid.uuid4().hex[:8]}"
    stack.sql(f"create table {name} (a int, b text); insert into {name} values (1, 'x')")
    stack.sql(
        f"grant select, insert, update, delete on {name} to anon, authenticated, service_role"
    )
    stack.sql(f"alter publication supabase_realtime add table {name}")
    try:
        rt = open_session()
        frame = rt.table(name, key="a").wait(scaled(10))
        frame.edit(1, b="y")
        assert rt.queue.flush(timeout=scaled(3)) == 1
        assert "replica identity" in rt.queue.df["why"].iloc[0]
    finally:
        stack.sql(f"drop table {name}")


def test_flush_that_gives_up_says_what_the_server_answered(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session], proxy: Proxy
) -> None:
    rt = open_session(url=proxy.url)
    frame = rt.table(table).wait(scaled(10))
    proxy.rules = (faults.Answer(method="PATCH", status=503),)
    frame.edit(A, quantity=11)
    until(lambda: rt.queue.df["why"].iloc[0])
    with pytest.raises(errors.WaitTimeoutError, match=r"1 operation still waits .*update.*503"):
        rt.queue.flush(timeout=0.1)


@pytest.mark.parametrize("by", ["frame", "queue", "other"])
def test_what_was_refused_and_discarded_may_be_edited_again_to_the_same_value(
    stack: LocalStack, table: str, open_session: Callable[..., nrt.Session], by: str
) -> None:
    rt = open_session()
    frame, other = rt.table(table).wait(scaled(10)), rt.table(table).wait(scaled(10))
    frame.edit(A, quantity=-1)
    assert rt.queue.flush(timeout=scaled(10)) == 1
    assert frame.df.quantity[A] == -1  # shown, and nobody's but mine
    match by:
        case "frame":
            frame.discard(A)
        case "queue":
            rt.queue.discard(rt.queue.df.index[0])
        case _:
            other.discard(A)
    stack.sql(f"alter table {table} drop constraint {table}_quantity_check")
    frame.edit(A, quantity=-1)
    assert len(rt.queue) == 1 or frame.df.quantity[A] == -1
    assert rt.queue.flush(timeout=scaled(10)) == 0
    assert stack.sql(f"select quantity from {table} where id = %s", A) == [(-1,)]


SCOPED = """
import sys
import notebook_rt as nrt
url, key, path, table, row = sys.argv[1:]
rt = nrt.connect(url, key, queue_path=path, options=nrt.Options(queue_scope="session"))
frame = rt.table(table).wait()
rt.queue.pause()
frame.edit(row, notes="of " + row)
for word in sys.stdin:
    match word.strip():
        case "send":
            rt.queue.resume()
            rt.queue.flush(30)
        case "resume":
            rt.queue.resume()
        case "close":
            rt.close()
    print(*rt.queue.df["what"], sep=", ", flush=True)
"""


@pytest.mark.parametrize("end", ["close", "kill"])
@pytest.mark.parametrize("paused", [True, False])
def test_two_processes_of_a_scope_of_their_own_send_nothing_of_each_other(
    stack: LocalStack, table: str, proxy: Proxy, tmp_path: Path, end: str, paused: bool
) -> None:
    path = tmp_path / "shared.sqlite3"

    def start(row: str) -> subprocess.Popen[str]:
        given = [proxy.url, stack.anon_key, str(path), table, row]
        return subprocess.Popen(
            [sys.executable, "-c", SCOPED, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )

    def tell(process: subprocess.Popen[str], word: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    def connect(**options: Any) -> nrt.Session:
        given = replace(OPTIONS, **options)
        return nrt.connect(proxy.url, stack.anon_key, queue_path=path, options=given)

    one, two = start(A), start(B)
    try:
        assert tell(one, "list") == f"update {table} {A} (notes)"
        assert tell(two, "list") == f"update {table} {B} (notes)"
        assert tell(two, "send") == ""
        assert stored(stack, table, "notes", B) == f"of {B}"
        assert stored(stack, table, "notes", A) is None
        if not paused:
            proxy.down()
            tell(one, "resume")
        assert tell(one, "list") == f"update {table} {A} (notes)"
        if end == "close":
            tell(one, "close")
        one.kill()
        one.wait()
        proxy.up()
        assert tell(two, "send") == "", "of another session, over or not"
        with connect(queue_scope="session") as rt:
            assert rt.queue.flush(10) == len(rt.queue) == 0
        assert stored(stack, table, "notes", A) is None
        with connect() as rt:
            assert rt.queue.flush(30) == paused, "it takes over what is left; what was paused waits"
            if paused:
                rt.queue.resume()
            assert rt.queue.flush(10) == 0
        assert stored(stack, table, "notes", A) == f"of {A}"
    finally:
        for process in (one, two):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


def test_a_refused_row_that_the_filter_leaves_out_is_named_where_the_table_is_looked_at(
    open_session: Callable[..., nrt.Session], table: str
) -> None:
    rt = open_session()
    some = rt.table(table, filter="quantity=gte.1").wait(scaled(10))
    some.edit(A, quantity=-1)
    some.edit(B, quantity=-2)
    assert rt.queue.flush(scaled(10)) == 2
    assert sorted(some.df["quantity"]) == [-2, -1]
    told = "are shown as edited here, though the filter leaves them out"
    assert f"'{A}', '{B}' {told}" in some.reason
    assert told in repr(some)
    some.edit(A, quantity=7)  # in again, and written
    until(lambda: f"'{B}' is shown as edited here, though the filter leaves it out" in some.reason)
    some.discard(B)
    assert "the filter" not in some.reason
    assert sorted(some.df["quantity"]) == [7, 20]
