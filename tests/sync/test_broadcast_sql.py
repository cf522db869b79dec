"""The SQL that broadcasts a table's changes, by itself: what it logs, sends, refuses and hides.

A reader that holds only what `notebook_rt_since` says, or only the messages in the order of their
numbers, holds the table after each commit.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql as q

from notebook_rt.cli import doctor
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from notebook_rt.sync.table.broadcast_answers import VERSION, topic_digest
from tests.laws import examples

Connection = psycopg.Connection[tuple[Any, ...]]
COLUMNS = "id int primary key, v text"


class Reader:
    """What a client knows of a table: applied from the log or from the messages, never read."""

    def __init__(self, connection: Connection, table: str, schema: str = "public") -> None:
        self.connection, self.table, self.schema = connection, table, schema
        head = self.head()
        self.topic, self.epoch = head["topic"], head["epoch"]
        self.position, self.n = head["position"], head["n"]
        rows = {self._key(row): row for row in self.truth()}
        self.by_log, self.by_messages = dict(rows), dict(rows)

    def head(self) -> dict[str, Any]:
        query = "select notebook_rt_head(%s, %s)"
        return one(self.connection, query, self.schema, self.table)

    def truth(self) -> list[dict[str, Any]]:
        name = q.Identifier(self.schema, self.table)
        return one(
            self.connection,
            q.SQL("select coalesce(jsonb_agg(to_jsonb(t)), '[]') from {} t").format(name),
        )

    def since(self, page: int = 1_000_000) -> list[dict[str, Any]]:
        """Everything missed, in pages, and move on."""
        until, after, changes = None, 0, []
        while True:
            query = "select notebook_rt_since(%s, %s, %s, %s, %s)"
            answer = one(self.connection, query, self.topic, self.position, until, after, page)
            assert not answer["too_old"]
            changes += answer["changes"]
            until = answer["until"]
            if not answer["more"]:
                self.position = until
                return changes
            after = changes[-1]["id"]

    def messages(self) -> list[dict[str, Any]]:
        """What was sent since the last time, in the order of the numbers."""
        query = (
            "select payload from realtime.messages where topic = %s and payload ->> 'epoch' = %s"
            " and (payload ->> 'n')::int > %s"
        )
        rows = self.connection.execute(query, (self.topic, self.epoch, self.n)).fetchall()
        sent = sorted((row[0] for row in rows), key=lambda payload: payload["n"])
        self.n = max([self.n, *(payload["n"] for payload in sent)])
        return sent

    def catch_up(self) -> None:
        self._apply(self.by_log, self.since())
        for message in self.messages():
            self._apply(self.by_messages, message["changes"])

    def check(self) -> None:
        """Both ways of following the table have led to what it holds."""
        self.catch_up()
        truth = {self._key(row): row for row in self.truth()}
        assert self.by_log == truth
        assert self.by_messages == truth

    def _key(self, row: dict[str, Any]) -> Any:
        return row[next(iter(row))] if "id" not in row else row["id"]

    def _apply(self, rows: dict[Any, Any], changes: list[dict[str, Any]]) -> None:
        for change in changes:
            if change["op"] == "T":
                rows.clear()
            for key in change.get("gone", ()):
                rows.pop(self._key(key), None)
            for row in change.get("rows", ()):
                rows[self._key(row)] = row
            for key in change.get("big", ()):
                name = q.Identifier(self.schema, self.table)
                read = q.SQL("select to_jsonb(t) from {} t where id = %s").format(name)
                rows[key["id"]] = one(self.connection, read, key["id"])


def one(connection: Connection, query: Any, *params: Any) -> Any:
    row = connection.execute(query, params or None).fetchone()
    return row[0] if row else None


@pytest.fixture
def connection(stack: LocalStack) -> Iterator[Connection]:
    with psycopg.connect(stack.dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture
def live(connection: Connection) -> Iterator[Reader]:
    """A table that is broadcast, of two columns, and its reader."""
    yield from made(connection, "bc", COLUMNS)


def made(connection: Connection, name: str, columns: str) -> Iterator[Reader]:
    table = q.Identifier(name).as_string(connection)
    connection.execute(f"drop table if exists {table} cascade; create table {table} ({columns})")
    connection.execute(
        f"grant select, insert, update, delete on {table} to anon, authenticated, service_role"
    )
    connection.execute(broadcast_sql("public", [name]))
    yield Reader(connection, name)
    connection.execute(broadcast_remove_sql("public", [name]))
    connection.execute(f"drop table {table} cascade")


# What is sent -----------------------------------------------------------------------------------


def test_a_transaction_is_one_message_with_a_number(connection: Connection, live: Reader) -> None:
    with connection.transaction():
        for number in range(50):
            connection.execute("insert into bc values (%s, 'a')", (number,))
        connection.execute("update bc set v = 'b' where id < 10; delete from bc where id = 3")
        assert live.messages() == []
    (message,) = live.messages()
    assert (message["n"], message["part"], message["last"]) == (1, 1, True)
    assert live.head()["n"] == 1
    live.n = 0
    live.check()


def test_messages_and_log_say_when_it_was_committed(connection: Connection, live: Reader) -> None:
    """To 10 ms, also of a transaction that is at work for long after its last change."""
    with connection.transaction():
        connection.execute("insert into bc values (1, 'a')")
        connection.execute("update bc set v = 'b'; select pg_sleep(0.2)")
        before = one(connection, "select extract(epoch from clock_timestamp())::float8")
    after = one(connection, "select extract(epoch from clock_timestamp())::float8")
    connection.execute("update bc set v = 'c'")
    (slow, quick), log = live.messages(), live.since()
    assert before <= slow["at"] <= after <= quick["at"]
    for message in (slow, quick):
        said = max(entry["at"] for entry in log if entry["x"] == message["x"])
        assert abs(said - message["at"]) < 0.05


def test_the_messages_of_several_tables_say_that_they_are_one_transaction(
    connection: Connection, live: Reader
) -> None:
    for other in made(connection, "bc_other", COLUMNS):
        with connection.transaction():
            connection.execute(
                "insert into bc values (1, 'a'); insert into bc_other values (1, 'a')"
            )
        (mine,), (theirs,) = live.messages(), other.messages()
        assert (mine["x"], mine["at"]) == (theirs["x"], theirs["at"])
        topics = {topic_digest(live.topic), topic_digest(other.topic)}
        assert {*mine["topics"]} == {*theirs["topics"]} == topics
        connection.execute("insert into bc values (2, 'a')")
        assert "topics" not in live.messages()[0]


def test_a_change_of_many_rows_is_a_handful_of_messages_that_fit(
    connection: Connection, live: Reader
) -> None:
    connection.execute("insert into bc select i, repeat('ä', 20) from generate_series(1, 7000) i")
    sent = live.messages()
    assert 2 <= len(sent) <= 6
    assert [one["part"] for one in sent] == list(range(1, len(sent) + 1))
    assert [one["last"] for one in sent] == [False] * (len(sent) - 1) + [True]
    assert max(len(json.dumps(one, ensure_ascii=False).encode()) for one in sent) < 256_000
    live.n = 0
    live.check()


def test_what_is_rolled_back_leaves_no_number_and_no_entry(
    connection: Connection, live: Reader
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("insert into bc values (1, 'a')")
    with connection.transaction():
        connection.execute("insert into bc values (2, 'a')")
        with connection.transaction(force_rollback=True):
            connection.execute("update bc set v = 'lost'; insert into bc values (3, 'lost')")
        connection.execute("insert into bc values (4, 'a')")
    assert live.head()["n"] == 1
    live.check()


def test_a_statement_that_touches_no_row_says_nothing(connection: Connection, live: Reader) -> None:
    connection.execute(
        "update bc set v = 'x'; delete from bc; insert into bc select 1, '' where false"
    )
    assert live.messages() == []
    assert live.head()["n"] == 0


def test_an_insert_that_meets_only_conflicts_says_nothing(
    connection: Connection, live: Reader
) -> None:
    connection.execute("insert into bc values (1, 'a')")
    live.check()
    for on in ("", "(id) ", "on constraint bc_pkey "):
        connection.execute(
            f"insert into bc values (1, 'b'), (1, 'c') on conflict {on}do nothing".encode()
        )
    assert (live.messages(), live.since(), live.head()["n"]) == ([], [], 1)
    connection.execute("insert into bc values (1, 'b'), (2, 'c') on conflict do nothing")
    live.check()
    assert live.head()["n"] == 2


# Several heads at once --------------------------------------------------------------------------


def heads(connection: Connection, *readers: Reader) -> dict[str, Any]:
    """What one question says of the tables, given what their readers know."""
    asked = [
        {
            "schema": reader.schema,
            "table": reader.table,
            "topic": reader.topic,
            "epoch": reader.epoch,
            "series": 0,
            "n": reader.n,
        }
        for reader in readers
    ]
    answer = one(connection, "select notebook_rt_heads(%s)", json.dumps(asked))
    assert isinstance(answer, dict)
    return answer


def test_one_question_tells_which_heads_are_others(connection: Connection, live: Reader) -> None:
    """What is as it was costs no byte of the answer but the position, which is of all of them."""
    for other in made(connection, "bc_other", COLUMNS):
        answer = heads(connection, live, other)
        assert (answer["version"], answer["heads"]) == (VERSION, {})
        connection.execute("insert into bc_other values (1, 'a')")
        answer = heads(connection, live, other)
        assert list(answer["heads"]) == ["1"]
        said, head = answer["heads"]["1"], other.head()
        assert {**said, "position": ""} == {**head, "position": ""}
        other.check()
        assert heads(connection, live, other)["heads"] == {}
        sees = "select pg_visible_in_snapshot(%s::text::xid8, %s::pg_snapshot)"
        (x,) = {entry["x"] for entry in one(connection, SINCE_EVER, other.topic)["changes"]}
        position = heads(connection, live, other)["position"]
        assert one(connection, sees, x, position)
        connection.execute(broadcast_remove_sql("public", ["bc_other"]))
        assert heads(connection, live, other)["heads"] == {"1": None}
        connection.execute(broadcast_sql("public", ["bc_other"]))
        assert heads(connection, live, other)["heads"]["1"]["epoch"] != other.epoch
    assert heads(connection)["heads"] == {}


SINCE_EVER = "select notebook_rt_since(%s, '1:1:')"


def test_nobody_is_told_a_head_that_they_may_not_read(connection: Connection, live: Reader) -> None:
    known = {"topic": live.topic, "epoch": live.epoch, "series": 0, "n": 0}
    asked = json.dumps([{"schema": "public", "table": "bc", **known}])
    query = "select notebook_rt_heads(%s) -> 'heads'"
    assert as_role(connection, "anon", query, asked) == {}
    connection.execute("revoke select on bc from anon")
    assert as_role(connection, "anon", query, asked) == {"0": None}


# Another name -----------------------------------------------------------------------------------


def test_a_renamed_table_keeps_its_topic_and_its_log(connection: Connection, live: Reader) -> None:
    connection.execute("insert into bc values (1, 'a')")
    connection.execute("alter table bc rename to bc_renamed")
    try:
        connection.execute("insert into bc_renamed values (2, 'b')")
        assert live.head() is None
        assert heads(connection, live)["heads"] == {"0": None}
        live.table = "bc_renamed"
        assert live.head()["topic"] == live.topic
        live.check()
        connection.execute(broadcast_sql("public", ["bc_renamed"]))
        connection.execute("insert into bc_renamed values (3, 'c')")
        live.check()
    finally:
        connection.execute("alter table bc_renamed rename to bc")


def test_a_table_that_takes_the_name_of_another_is_broadcast_apart(
    connection: Connection, live: Reader
) -> None:
    """As where a table is built anew beside the old one, which is kept under another name."""
    connection.execute("alter table bc rename to bc_old")
    try:
        for new in made(connection, "bc", COLUMNS):
            live.table = "bc_old"
            assert new.topic != live.topic
            connection.execute("insert into bc values (1, 'new')")
            connection.execute("insert into bc_old values (1, 'old')")
            live.check()
            new.check()
            assert (len(new.truth()), new.head()["n"], live.head()["n"]) == (1, 1, 1)
    finally:
        connection.execute("alter table bc_old rename to bc")


@pytest.mark.parametrize("length", [60_000, 300_000])
def test_a_row_too_large_for_a_message_is_named_by_its_key(
    connection: Connection, live: Reader, length: int
) -> None:
    connection.execute(
        "insert into bc select i, repeat('x', %s) from generate_series(1, 3) i", (length,)
    )
    sent = live.messages()
    assert any("big" in change for one in sent for change in one["changes"]) is (length > 230_000)
    assert max(len(json.dumps(one)) for one in sent) < 256_000
    live.n = 0
    live.check()


def test_copy_upsert_merge_key_changes_and_truncate_arrive(
    connection: Connection, live: Reader
) -> None:
    with connection.cursor().copy("copy bc from stdin") as copy:
        for number in range(5):
            copy.write_row((number, "copied"))
    live.check()
    for statement in (
        "insert into bc values (1, 'up'), (9, 'new') on conflict (id) do update set v = excluded.v",
        "update bc set id = id + 100",
        "update bc set id = -id where id < 103",
        "merge into bc using (values (104, 'm'), (77, 'n')) s (id, v) on bc.id = s.id"
        " when matched then update set v = s.v when not matched then insert values (s.id, s.v)",
        "merge into bc using (values (104, 0), (0, 104)) s (old, new) on bc.id = s.old"
        " when matched then delete when not matched then insert values (s.new, 'taken again')",
        "merge into bc using (values (77, 0), (0, 77)) s (old, new) on bc.id = s.old"
        " when matched then update set id = 78"
        " when not matched then insert values (s.new, 'taken again')",
        "insert into bc values (77, 'x'), (77, 'y') on conflict (id) do update set id = 79",
        "truncate bc",
    ):
        connection.execute(statement)
        live.check()


def test_a_key_that_is_equal_but_not_the_same_is_another(connection: Connection) -> None:
    for reader in made(connection, "bc_spans", "id interval primary key, v text"):
        connection.execute("insert into bc_spans values ('1 day', '')")
        reader.catch_up()
        connection.execute("update bc_spans set id = '24 hours'")
        reader.check()


def test_cascades_and_nested_triggers_arrive_in_order(connection: Connection, live: Reader) -> None:
    columns = (
        "id int primary key, v text, up int references bc_tree on update cascade on delete cascade"
    )
    for tree in made(connection, "bc_tree", columns):
        connection.execute(
            "create or replace function bc_nest() returns trigger language plpgsql as $$ begin"
            " insert into bc values (new.id, 'nested') on conflict (id) do update set v = 'again';"
            " return null; end $$;"
            "create trigger nest after insert or update on bc_tree for each row"
            " execute function bc_nest()"
        )
        for statement in (
            "insert into bc_tree values (1, 'root', null), (2, 'leaf', 1), (3, 'leaf', 2)",
            "update bc_tree set id = id + 100",
            "update bc_tree set v = 'x' where up is null",
            "delete from bc_tree where id = 101",
        ):
            connection.execute(statement)
            tree.check()
            live.check()
    connection.execute("drop function bc_nest")


def test_keys_that_cascade_within_their_table_arrive_in_order(connection: Connection) -> None:
    columns = "id int primary key, v int references bc_tree on update cascade on delete cascade"
    for reader in made(connection, "bc_tree", columns):
        connection.execute("insert into bc_tree values (1, null), (2, 1), (3, 2)")
        connection.execute("update bc_tree set id = id + 10")
        reader.check()
        connection.execute("delete from bc_tree where id = 12")
        reader.check()


def test_a_row_that_is_long_and_then_short_in_one_statement_is_short(
    connection: Connection,
) -> None:
    """A long row has an entry of its own, which came behind all short ones of the statement."""
    columns = "id text primary key, v text, up text references bc_tree on update cascade"
    for reader in made(connection, "bc_tree", columns):
        connection.execute("insert into bc_tree select repeat('k', 2000), '', null")
        connection.execute("insert into bc_tree select 'child', '', id from bc_tree")
        connection.execute(
            "update bc_tree set id = left(id, 5), v = repeat('x', case id when 'child' then 48500 else 1 end)"
        )
        reader.check()


@pytest.mark.parametrize("key", ["id int primary key", "id name, k bit(2), primary key (k, id)"])
@pytest.mark.parametrize("parents", ["1, 2", "2, 1"])
def test_a_row_that_one_cascade_sets_null_and_another_deletes_is_gone(
    connection: Connection, key: str, parents: str
) -> None:
    """PostgreSQL runs the triggers of the child for the deletions first, where a third cascade sets null."""
    connection.execute(
        "drop table if exists bc_up cascade; create table bc_up (id int primary key)"
    )
    columns = f"{key}, a int references bc_up on delete cascade, b int references bc_up on delete set null"
    for reader in made(connection, "bc_cascades", columns):
        connection.execute("insert into bc_up values (1), (2), (3)")
        names, values = ("id", "{}") if key.startswith("id int") else ("id, k", "{}, '01'")
        for row, (a, b) in enumerate([(2, 1), (1, 2), (3, 1), (3, 3)], 1):
            connection.execute(
                f"insert into bc_cascades ({names}, a, b) values ({values.format(row)}, {a}, {b})"
            )
        reader.check()
        connection.execute(f"delete from bc_up where id in ({parents})")
        assert len(reader.truth()) == 2
        reader.check()
        connection.execute("update bc_cascades set b = 3, id = '7' where id::text = '3'")
        reader.check()
    connection.execute("drop table bc_up")


def test_a_table_whose_rows_the_sql_may_not_see_fails_no_writer(connection: Connection) -> None:
    """Whether a row is still there is not looked up where policies hold for the role that ran the SQL."""
    connection.execute(
        "drop table if exists bc_up cascade; create table bc_up (id int primary key)"
    )
    connection.execute("drop role if exists bc_plain; create role bc_plain")
    columns = (
        "id int primary key, a int references bc_up on delete cascade,"
        " b int references bc_up on delete set null"
    )
    function = "notebook_rt.broadcast_present"
    for _ in made(connection, "bc_cascades", columns):
        asked = "'bc_cascades'::regclass"
        connection.execute(
            "grant usage on schema notebook_rt to bc_plain;"
            f"grant execute on function {function}, notebook_rt.broadcast_same to bc_plain"
        )
        with connection.transaction(force_rollback=True):
            connection.execute("set local role bc_plain")
            assert one(connection, f"select {function}({asked})") is None
        connection.execute("grant select on bc_cascades to bc_plain")
        with connection.transaction(force_rollback=True):
            connection.execute("set local role bc_plain")
            assert "operator(pg_catalog.=)" in one(connection, f"select {function}({asked})")
            connection.execute(
                "reset role; alter table bc_cascades enable row level security; set local role bc_plain"
            )
            assert one(connection, f"select {function}({asked})") is None
        connection.execute("drop owned by bc_plain; drop role bc_plain")
    connection.execute("drop table bc_up")


def test_columns_may_be_called_as_what_the_sql_has(connection: Connection) -> None:
    for reader in made(
        connection, "bc_r", "id int primary key, r int, a int, topic text, j int, len int, rn int"
    ):
        connection.execute("insert into bc_r values (1, 2, 3, 'x', 4, 5, 6); update bc_r set r = 7")
        reader.check()


def test_generated_columns_are_told_whether_they_are_kept_or_not(connection: Connection) -> None:
    kinds = ["stored", "virtual"] if connection.info.server_version >= 180000 else ["stored"]
    for kind in kinds:
        columns = f'id int primary key, v int, "o\'dd" int generated always as (v * 2) {kind}'
        for reader in made(connection, "bc_generated", columns):
            connection.execute("insert into bc_generated values (1, 2), (2, null)")
            connection.execute("update bc_generated set v = 5 where id = 1")
            reader.check()


def test_a_virtual_column_that_cannot_be_computed_fails_no_writer(connection: Connection) -> None:
    if connection.info.server_version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    columns = "id int primary key, v int, w int generated always as (1 / v) virtual"
    for reader in made(connection, "bc_virtual", columns):
        connection.execute("insert into bc_virtual values (1, 0)")
        assert [one["op"] for one in reader.since()] == ["R"]
        connection.execute("update bc_virtual set v = 1")
        assert [one["op"] for one in reader.since()] == ["U"]


KINDS = ["json", "json[]", "bc_json", "bc_pair", "bc_far", "bc_list", "bc_pairs"]


@pytest.mark.parametrize("kind", KINDS)
def test_json_that_is_none_for_jsonb_fails_no_writer(connection: Connection, kind: str) -> None:
    connection.execute(
        "create domain bc_json as json; create type bc_pair as (a int, b json);"
        "create domain bc_far as bc_json; create domain bc_list as json[]; create domain bc_pairs as bc_pair"
    )
    lists, pairs = dict.fromkeys(("json[]", "bc_list"), "array[%s]"), ("bc_pair", "bc_pairs")
    shape = {**lists, **dict.fromkeys(pairs, "row(1, %s)")}.get(kind, "%s")
    for reader in made(connection, "bc_none", f"id int primary key, v {kind}"):
        for value in (r'{"a": "\u0000"}', "1e999999", '"\\ud800"'):
            shaped = shape % "%s::json"
            connection.execute(f"insert into bc_none values (1, {shaped})", (value,))
            connection.execute(f"update bc_none set v = {shaped}", (value,))
            connection.execute("delete from bc_none")
            assert [one["op"] for one in reader.since()] == ["R", "R", "D"]
            assert [[c["op"] for c in m["changes"]] for m in reader.messages()] == [
                ["R"],
                ["R"],
                ["D"],
            ]
        shaped = shape % "%s::json"
        connection.execute(f"insert into bc_none values (1, {shaped})", ('{"a": 1}',))
        assert [one["op"] for one in reader.since()] == ["I"]
    connection.execute("drop domain bc_far, bc_json, bc_list, bc_pairs; drop type bc_pair")


def test_constraints_made_immediate_send_at_once_and_once(
    connection: Connection, live: Reader
) -> None:
    """Numbers of a transaction that is rolled back later are holes; the log says that nothing is lost."""
    with connection.transaction(force_rollback=True):
        connection.execute("set constraints all immediate; insert into bc values (1, 'a')")
    assert live.head()["n"] == 1
    assert live.since() == []
    with connection.transaction():
        connection.execute("set constraints all immediate")
        connection.execute("insert into bc values (1, 'a'); update bc set v = 'b'")
    assert [one["n"] for one in live.messages()] == [2, 3]
    live.n = 0
    live.check()


def test_prepared_transactions_are_right_or_refused(connection: Connection, live: Reader) -> None:
    connection.execute("begin; insert into bc values (1, 'a')")
    try:
        connection.execute("prepare transaction 'bc'")
    except psycopg.Error:  # max_prepared_transactions is 0, as on a hosted project
        connection.execute(
            "rollback"
        )  # its number is a hole, and the log says that nothing is lost
        assert live.since() == live.messages() == []
    else:
        live.check()
        connection.execute("commit prepared 'bc'")
    live.check()


def test_a_message_that_cannot_be_sent_is_a_hole_and_the_write_holds(
    connection: Connection, live: Reader
) -> None:
    connection.execute(
        "alter table realtime.messages add constraint bc_refuses check (topic <> 'nrt:public.bc')"
        " not valid"
    )
    try:
        connection.execute("insert into bc values (1, 'a')")
    finally:
        connection.execute("alter table realtime.messages drop constraint bc_refuses")
    assert live.head()["n"] == 1
    assert live.messages() == []
    assert [change["rows"] for change in live.since()] == [[{"id": 1, "v": "a"}]]


def test_settings_of_the_writer_do_not_show(connection: Connection) -> None:
    columns = "id int primary key, at timestamptz, span interval, bytes bytea, x float8"
    for reader in made(connection, "bc_values", columns):
        connection.execute(
            "set timezone = 'Asia/Tokyo'; set intervalstyle = 'sql_standard';"
            "set bytea_output = 'escape'; set extra_float_digits = -10;"
            "insert into bc_values values"
            " (1, '2026-01-01 00:00Z', '1 day 2 hours', '\\xff00', 0.1234567890123456);"
            "reset all"
        )
        connection.execute("set timezone = 'UTC'")
        reader.check()


def test_the_head_says_the_key_and_another_key_is_another_epoch(
    connection: Connection, live: Reader
) -> None:
    """What a reader holds is told apart by the key of before, and so is what it asks the log since then."""
    assert live.head()["key"] == ["id"]
    connection.execute("insert into bc values (1, 'a')")
    live.check()
    connection.execute(
        "alter table bc drop constraint bc_pkey; alter table bc add primary key (v, id)"
    )
    head = live.head()
    assert head["key"] == ["v", "id"]
    assert head["epoch"] != live.epoch
    assert heads(connection, live)["heads"]["0"]["epoch"] == head["epoch"]
    connection.execute("update bc set v = 'b'")
    query = "select payload ->> 'epoch' from realtime.messages where topic = %s"
    assert connection.execute(query, (live.topic,)).fetchall()[-1] == (head["epoch"],)
    since = one(connection, "select notebook_rt_since(%s, %s)", live.topic, live.position)
    assert since["epoch"] == head["epoch"]
    connection.execute(
        "alter table bc drop constraint bc_pkey; alter table bc add primary key (id)"
    )
    assert live.head()["epoch"] == live.epoch


def test_rows_that_have_one_key_for_a_while_are_read_and_not_told(connection: Connection) -> None:
    """Of two rows with one key, as a deferrable one lets be, an entry cannot say which one goes."""
    for reader in made(connection, "bc_deferrable", "id int primary key deferrable, v text"):
        connection.execute("insert into bc_deferrable values (1, 'a'), (2, 'b')")
        connection.execute(
            "update bc_deferrable set id = 3 - id"
        )  # in one statement: nothing unclear
        connection.execute("delete from bc_deferrable where id = 1")
        assert [one["op"] for one in reader.since()] == ["I", "U", "D"]
        connection.execute("insert into bc_deferrable values (1, 'b')")
        for swap, told in (
            (
                "insert into bc_deferrable values (1, 'c'); delete from bc_deferrable where v = 'b'",
                "RR",
            ),
            (
                "insert into bc_deferrable values (1, 'd'); delete from bc_deferrable where v = 'd'",
                "RR",
            ),
            (
                "update bc_deferrable set id = 2 where v = 'c';"
                "update bc_deferrable set id = 1 where v = 'a'",
                "RR",
            ),
            ("update bc_deferrable set id = id + 1", "UD"),
        ):
            reader.since()
            with connection.transaction():
                connection.execute("set constraints all deferred;" + swap)
            assert "".join(one["op"] for one in reader.since()) == told, swap


def test_a_key_column_that_is_renamed_is_another_epoch(
    connection: Connection, live: Reader
) -> None:
    connection.execute("alter table bc rename id to number")
    assert live.head()["key"] == ["number"]
    assert live.head()["epoch"] != live.epoch


def test_whoever_may_read_the_topic_is_told_the_key(connection: Connection, live: Reader) -> None:
    head = as_role(connection, "anon", "select notebook_rt_head('public', 'bc')")
    assert head["key"] == ["id"]
    since = "select notebook_rt_since(%s, %s)"
    assert as_role(connection, "anon", since, live.topic, live.position)["epoch"] == head["epoch"]


def test_a_renamed_column_or_table_goes_on(connection: Connection, live: Reader) -> None:
    connection.execute("insert into bc values (1, 'a')")
    live.catch_up()
    connection.execute("alter table bc rename column id to key; delete from bc where key = 1")
    (change,) = live.since()
    assert change["gone"] == [{"key": 1}]
    connection.execute("alter table bc drop column key; insert into bc values ('keyless')")
    assert [change["op"] for change in live.since()] == ["R"]


# Positions --------------------------------------------------------------------------------------


def test_a_transaction_that_is_open_across_a_position_comes_once(
    stack: LocalStack, connection: Connection, live: Reader
) -> None:
    with psycopg.connect(stack.dsn) as other:
        other.execute("insert into bc values (1, 'slow')")
        connection.execute("insert into bc values (2, 'quick')")
        live.check()
        other.commit()
        assert [change["rows"][0]["id"] for change in live.since()] == [1]
        assert live.since() == []


def test_pages_are_of_one_moment(connection: Connection, live: Reader) -> None:
    for number in range(20):
        connection.execute("insert into bc values (%s, %s)", (number, "x" * 100))
    changes = live.since(page=500)
    assert [change["rows"][0]["id"] for change in changes] == list(range(20))
    first = one(
        connection,
        "select notebook_rt_since(%s, %s, p_bytes => 1)",
        live.topic,
        live.position,
    )
    assert (first["changes"], first["behind"], first["more"]) == ([], 0, False)


def test_concurrent_writers_keep_order_by_key_and_every_number(
    stack: LocalStack, connection: Connection, live: Reader
) -> None:
    connection.execute("insert into bc select i, '' from generate_series(1, 5) i")

    def write(name: int) -> None:
        with psycopg.connect(stack.dsn, autocommit=True) as own:
            for turn in range(60):
                with own.transaction(force_rollback=turn % 7 == 0):
                    own.execute(
                        "update bc set v = %s where id = %s", (f"{name}.{turn}", turn % 5 + 1)
                    )
                    if turn % 3 == 0:
                        own.execute("insert into bc values (%s, 'own')", (1000 * name + turn,))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    truth = {row["id"]: row for row in live.truth()}
    live._apply(live.by_log, live.since())
    assert live.by_log == truth
    sent = live.messages()
    assert [message["n"] for message in sent] == list(range(1, live.head()["n"] + 1))
    newest: dict[int, tuple[int, Any]] = {}
    for (
        message
    ) in sent:  # concurrent transactions' numbers are near, not in order: entries' ids are
        for change in message["changes"]:
            for row in change["rows"]:
                newest[row["id"]] = max(newest.get(row["id"], (0, "")), (change["id"], row["v"]))
    assert {key: value for key, (_, value) in newest.items()} == {
        key: row["v"] for key, row in truth.items()
    }


def test_what_was_pruned_is_too_old_and_what_is_new_is_not(
    connection: Connection, live: Reader
) -> None:
    old = live.position
    for number in range(6):
        connection.execute("insert into bc values (%s, 'a')", (number,))
    live.catch_up()
    prune = "select notebook_rt.broadcast_prune(4, '-1 s')"
    assert one(connection, prune) == 4
    since = "select notebook_rt_since(%s, %s) -> 'too_old'"
    assert one(connection, since, live.topic, old) is True
    assert one(connection, since, live.topic, live.position) is False
    assert one(connection, since, live.topic, live.head()["position"]) is False
    live.check()


def test_the_log_is_pruned_by_size_about(connection: Connection, live: Reader) -> None:
    one(connection, "select notebook_rt.broadcast_prune(100000, '-1 s')")
    for number in range(60):
        connection.execute("insert into bc values (%s, %s)", (number, "x" * 1000))
    live.check()
    for _ in range(10):
        connection.execute("select notebook_rt.broadcast_prune(20, '1 day', 20000)")
    live.position = live.head()["position"]
    size = one(connection, "select sum(size) from notebook_rt.change_log")
    assert 10_000 <= size <= 21_000
    live.check()


def test_a_position_of_before_a_restored_backup_is_too_old(
    connection: Connection, live: Reader
) -> None:
    connection.execute("insert into bc values (1, 'a')")
    query = "select notebook_rt_since(%s, %s) -> 'too_old'"
    assert one(connection, query, live.topic, live.position) is False
    assert one(connection, query, live.topic, "999999999999:999999999999:") is True


def test_a_dump_that_was_restored_elsewhere_restarts(connection: Connection, live: Reader) -> None:
    """Its transactions are none of these: what it had pruned would make each position too old."""
    connection.execute(
        "update notebook_rt.broadcast_state set pruned = '999999999999';"
        "insert into notebook_rt.change_log (topic, xid, op, size)"
        " values ('nrt:public.bc', '999999999999', 'R', 20)"
    )
    connection.execute(broadcast_sql("public", ["bc"]))
    head = live.head()
    assert head["epoch"] != live.epoch
    live.position = head["position"]
    connection.execute("insert into bc values (1, 'a')")
    assert [one["op"] for one in live.since()] == ["I"]
    assert one(connection, "select max(xid) < '999999999999' from notebook_rt.change_log") is True


def test_an_open_transaction_does_not_make_positions_too_old(
    stack: LocalStack, connection: Connection, live: Reader
) -> None:
    with psycopg.connect(stack.dsn) as other:
        other.execute("insert into bc values (1, 'open')")
        connection.execute("insert into bc values (2, 'a')")
        position = live.head()["position"]
        assert one(connection, "select notebook_rt.broadcast_prune(100, '-1 s')") == 0
        since = "select notebook_rt_since(%s, %s) -> 'too_old'"
        assert one(connection, since, live.topic, position) is False


# Who may read -----------------------------------------------------------------------------------


def as_role(connection: Connection, role: str, query: str, *params: Any, sub: str = "") -> Any:
    with connection.transaction(force_rollback=True):
        connection.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
            (role, json.dumps({"role": role, "sub": sub})),
        )
        return one(connection, query, *params)


READ_LOG = "select count(*) from notebook_rt.change_log where topic = %s"
READ_MESSAGES = (
    "select count(*) from (select set_config('realtime.topic', %s, true)) s,"
    " lateral (select topic from realtime.messages where s is not null offset 0) m where topic = %s"
)


def test_who_may_not_read_the_table_reads_neither_channel_nor_log(
    connection: Connection, live: Reader
) -> None:
    connection.execute("insert into bc values (1, 'a')")
    head, since = "select notebook_rt_head('public', 'bc')", "select notebook_rt_since(%s, %s)"
    for role, grants, seen in (
        ("anon", "grant", 1),
        ("anon", "revoke", 0),
        ("service_role", "", 1),
    ):
        if grants:
            connection.execute(
                f"{grants} select on bc {'to' if grants == 'grant' else 'from'} {role}"
            )
        assert as_role(connection, role, READ_LOG, live.topic) == seen
        assert (as_role(connection, role, head) is not None) == bool(seen)
        answer = as_role(connection, role, since, live.topic, live.position)
        assert (answer is not None and len(answer["changes"])) == bool(seen)
        if role == "anon":
            count = as_role(connection, role, READ_MESSAGES, live.topic, live.topic)
            assert bool(count) == bool(seen)
    assert as_role(connection, "authenticated", READ_MESSAGES, live.topic, live.topic)


def test_the_name_of_another_topic_opens_nothing(connection: Connection, live: Reader) -> None:
    """realtime.topic() names an allowed topic; the rows of a topic that is not allowed stay hidden."""
    for other in made(connection, "bc_other", COLUMNS):
        connection.execute("insert into bc_other values (1, 'secret')")
        connection.execute("revoke select on bc_other from anon")
        assert as_role(connection, "anon", READ_MESSAGES, live.topic, other.topic) == 0
        assert as_role(connection, "anon", READ_LOG, other.topic) == 0


def test_writers_need_no_rights_on_the_log_or_the_messages(
    connection: Connection, live: Reader
) -> None:
    with connection.transaction():
        connection.execute("set local role anon; insert into bc values (1, 'anon')")
    live.check()
    for statement in (
        "insert into notebook_rt.change_log (topic, op, size) values ('nrt:public.bc', 'T', 1)",
        "delete from notebook_rt.change_log",
        "update notebook_rt.broadcast_state set version = 9",
        "select nextval((select numbers from notebook_rt.broadcast_tables limit 1))",
        "select notebook_rt.broadcast_prune()",
        "select notebook_rt.broadcast_remove('bc')",
    ):
        connection.execute("set role anon")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
        connection.execute("reset role")


def test_what_is_removed_may_be_removed_again(connection: Connection) -> None:
    for _ in made(connection, "bc_removed", COLUMNS):
        pass
    assert one(connection, "select to_regclass('notebook_rt.broadcast_tables')") is None
    connection.execute(broadcast_remove_sql("public", []))


def test_a_source_policy_says_who_reads(connection: Connection) -> None:
    connection.execute(f"drop table if exists bc_rls; create table bc_rls ({COLUMNS})")
    connection.execute(
        "grant select, insert, update, delete on bc_rls to anon, authenticated, service_role;"
        "alter table bc_rls enable row level security"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="row-level security"):
        connection.execute(broadcast_sql("public", ["bc_rls"]))
    policy = "current_setting('request.jwt.claims', true)::json ->> 'sub' = 'o''hara'"
    connection.execute(broadcast_sql("public", ["bc_rls"], policy))
    head = "select notebook_rt_head('public', 'bc_rls')"
    assert as_role(connection, "authenticated", head, sub="o'hara") is not None
    assert as_role(connection, "authenticated", head, sub="eve") is None
    connection.execute(broadcast_remove_sql("public", ["bc_rls"]) + "; drop table bc_rls")


# What is refused, run again, and taken back -----------------------------------------------------

REFUSED = {
    "create table bad (v text)": "no primary key",
    "create table bad (id int primary key deferrable initially deferred)": "initially deferred",
    "create table bad (id int primary key); create view bad_view as select * from bad": "",
    "create table root (id int primary key) partition by range (id);"
    "create table bad partition of root for values from (0) to (9)": "it is a partition",
    "create table bad (id int primary key) partition by range (id);"
    "create table part partition of bad for values from (0) to (9);"
    "grant insert on part to anon": "part may be written directly",
    "create table bad (id int primary key); create table child () inherits (bad)": "inherits",
    "create table bad (id int primary key, v int);"
    "create function w() returns trigger language plpgsql as"
    " $f$ begin UPDATE Bad set v = 1 where id = new.id; return null; end $f$;"
    "create trigger w after insert on bad for each row execute function w()": "AFTER ROW trigger w",
    "create table bad (id int primary key, v int);"
    "create function w() returns trigger language plpgsql as"
    " $f$ begin execute tg_argv[0]; return null; end $f$;"
    "create trigger w after insert on bad for each row execute function w('')": "may write",
    "create table bad (id int primary key, v int);"
    "create function w() returns trigger language plpgsql as"
    " $f$ begin update bad set v = 1; return null; end $f$;"
    "create trigger a after insert on bad for each statement execute function w()": "rename to z_a",
}


@pytest.mark.parametrize("statements", REFUSED)
def test_what_cannot_be_true_is_refused_with_the_reason(
    connection: Connection, statements: str
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("create schema bc_refused; set local search_path = bc_refused")
        connection.execute(statements)
        if reason := REFUSED[statements]:
            with pytest.raises(psycopg.errors.RaiseException, match=reason):
                connection.execute(broadcast_sql("bc_refused", ["bad"]))
        else:
            connection.execute(broadcast_sql("bc_refused", ["bad"]))
            with pytest.raises(psycopg.errors.RaiseException, match="not a permanent table"):
                connection.execute(broadcast_sql("bc_refused", ["bad_view"]))


@pytest.mark.parametrize("name", ["bc_heard", 'bc "odd". (name'])
def test_a_trigger_that_writes_elsewhere_is_no_reason(connection: Connection, name: str) -> None:
    table = q.Identifier(name).as_string(connection)
    audit = q.Identifier(name + "_audit").as_string(connection)
    body = "begin insert into {} select v from {} where id = new.id; return null; end"
    for written, refused in ((audit, False), (table, True), ("public . " + table, True)):
        with connection.transaction(force_rollback=True):
            connection.execute(f"create table {table} ({COLUMNS}); create table {audit} (v text)")
            connection.execute(
                "create function w() returns trigger language plpgsql as"
                f" $f$ {body.format(written, table)} $f$;"
                f"create trigger w after insert on {table} for each row execute function w()"
            )
            if refused:
                with pytest.raises(psycopg.errors.RaiseException, match="AFTER ROW trigger w"):
                    connection.execute(broadcast_sql("public", [name]))
            else:
                connection.execute(broadcast_sql("public", [name]))


def test_a_trigger_that_fires_behind_ours_may_write_to_its_table(connection: Connection) -> None:
    for reader in made(connection, "bc_behind", "id int primary key, v int"):
        connection.execute(
            "create function bc_w() returns trigger language plpgsql as"
            " $f$ begin update bc_behind set v = v + 1; return null; end $f$;"
            "create trigger z after insert on bc_behind for each statement execute function bc_w()"
        )
        connection.execute(broadcast_sql("public", ["bc_behind"]))
        connection.execute(
            "insert into bc_behind values (1, 1); insert into bc_behind values (2, 1)"
        )
        reader.check()
    connection.execute("drop function bc_w")


def test_a_partitioned_table_written_through_its_root_is_followed(connection: Connection) -> None:
    columns = "id int primary key, v text) partition by range (id"
    for reader in made(connection, "bc_parts", columns):
        connection.execute(
            "create table bc_p1 partition of bc_parts for values from (0) to (9);"
            "create table bc_p2 partition of bc_parts for values from (9) to (99)"
        )
        reader.epoch = reader.head()["epoch"]
        connection.execute(
            "insert into bc_parts values (1, 'a'), (10, 'b'); update bc_parts set id = id + 8"
        )
        reader.check()


def test_other_partitions_are_another_epoch(connection: Connection) -> None:
    """Their rows come and go with them, and no trigger fires."""
    columns = "id int primary key, v text) partition by range (id"
    for reader in made(connection, "bc_parts", columns):
        epochs = [reader.epoch]
        for change in (
            "create table bc_p1 partition of bc_parts for values from (0) to (9)",
            "create table bc_p2 partition of bc_parts for values from (9) to (99)",
            "insert into bc_parts values (1, 'a'), (10, 'b')",
            "alter table bc_parts detach partition bc_p1",
            "alter table bc_parts attach partition bc_p1 for values from (0) to (9)",
            "drop table bc_p2",
        ):
            connection.execute(change)
            epochs.append(reader.head()["epoch"])
        assert len(set(epochs)) == 6
        assert epochs[2] == epochs[3]
        assert reader.messages() == []  # of the epoch of before
        query = f"select payload ->> 'epoch' from realtime.messages where topic = '{reader.topic}'"
        assert one(connection, query + " order by inserted_at desc limit 1") == epochs[3]


@pytest.mark.parametrize("other", ["partition", "parent"])
def test_a_table_that_is_written_through_another_is_told_no_more(
    connection: Connection, live: Reader, other: str
) -> None:
    if other == "partition":
        begin = (
            "create table bc_root (id int primary key, v text) partition by range (id);"
            "alter table bc_root attach partition bc for values from (0) to (9)"
        )
        end = "alter table bc_root detach partition bc; drop table bc_root"
    else:
        begin, end = "create table bc_child () inherits (bc)", "drop table bc_child"
    connection.execute(begin)
    assert live.head() is None
    connection.execute("insert into bc values (1, 'a')")
    connection.execute(end)
    assert live.head()["n"] == 1  # so that it is seen to be missing
    assert live.messages() == []


def test_the_sql_runs_again_without_harm(connection: Connection, live: Reader) -> None:
    connection.execute("insert into bc values (1, 'a')")
    connection.execute(broadcast_sql("public", ["bc"]))
    connection.execute("insert into bc values (2, 'b')")
    assert live.head()["n"] == 2
    live.check()


@pytest.mark.parametrize("remove", [False, True])
def test_no_writer_fails_while_the_sql_runs_again(
    stack: LocalStack, connection: Connection, live: Reader, remove: bool
) -> None:
    for other in made(connection, "bc_other", COLUMNS):
        text = broadcast_sql("public", ["bc", "bc_other"])
        if remove:
            text = broadcast_remove_sql("public", ["bc"]) + text
        with psycopg.connect(stack.dsn) as writer, psycopg.connect(stack.dsn) as runner:
            writer.execute(
                "lock table bc_other, bc in row exclusive mode"
            )  # as a statement of it does
            running = threading.Thread(target=runner.execute, args=(text,))
            running.start()
            time.sleep(1.5)  # the one that waits longer has looked for a deadlock, and found none
            assert running.is_alive()
            writer.execute("insert into bc_other values (1, 'a'); insert into bc values (1, 'a')")
            writer.commit()
            running.join(30)
            runner.commit()
        assert not running.is_alive()
        connection.execute("insert into bc_other values (2, 'b')")
        other.check()


def test_who_cannot_lock_the_tables_is_told_and_holds_nobody_up(
    stack: LocalStack, connection: Connection, live: Reader
) -> None:
    with psycopg.connect(stack.dsn) as writer:
        writer.execute("insert into bc values (1, 'a')")
        with pytest.raises(psycopg.errors.LockNotAvailable, match="in use by long transactions"):
            connection.execute(broadcast_sql("public", ["bc"]))
        writer.execute("insert into bc values (2, 'b')")
    assert connection.execute("show lock_timeout").fetchone() == ("0",)
    live.check()


def test_a_table_dropped_and_made_again_restarts(connection: Connection, live: Reader) -> None:
    connection.execute("insert into bc values (1, 'a'); drop table bc")
    connection.execute(f"create table bc ({COLUMNS}); grant select on bc to anon")
    assert live.head() is None
    connection.execute(broadcast_sql("public", ["bc"]))
    head = live.head()
    assert (head["topic"], head["n"]) == (live.topic, 0)
    assert head["epoch"] != live.epoch


def test_nothing_is_left_after_the_last_table(connection: Connection) -> None:
    count = (
        "select (select count(*) from pg_proc where proname like any"
        " ('{broadcast_key,broadcast_l%,broadcast_capture,broadcast_m%,broadcast_p%,broadcast_f%,"
        "broadcast_r%,broadcast_e%,broadcast_add,notebook_rt_head,notebook_rt_since}') and pronamespace in"
        " ('public'::regnamespace, to_regnamespace('notebook_rt')))"
        " + (select count(*) from pg_class where relname like any ('{broadcast_%,change_log%}'))"
        " + (select count(*) from pg_policies where policyname like 'notebook_rt_broadcast_%')"
        " + (select count(*) from pg_trigger where tgname like 'notebook_rt_%')"
    )
    before = one(connection, count)
    for _ in made(connection, "bc_first", COLUMNS):
        for _ in made(connection, "bc_second", COLUMNS):
            assert one(connection, count) > before + 20
        assert one(connection, "select notebook_rt_head('public', 'bc_first')") is not None
    assert one(connection, count) == before
    assert one(connection, "select to_regclass('notebook_rt.change_log')") is None


def test_what_takes_it_back_knows_no_version(connection: Connection) -> None:
    """What later SQL may add to that of now, and needs the tables of now, goes as well."""
    for _ in made(connection, "bc_version", COLUMNS):
        connection.execute(
            "create function notebook_rt.broadcast_later(notebook_rt.broadcast_tables) returns text"
            " language sql return null"
        )
    assert one(connection, "select to_regproc('notebook_rt.broadcast_later')") is None
    assert one(connection, "select to_regclass('notebook_rt.broadcast_tables')") is None


def test_a_table_that_was_dropped_keeps_nothing_back(connection: Connection) -> None:
    connection.execute(f"create table bc_gone ({COLUMNS}); create table bc_stays ({COLUMNS})")
    connection.execute(broadcast_sql("public", ["bc_gone", "bc_stays"]))
    connection.execute("drop table bc_gone")
    connection.execute(broadcast_remove_sql("public", ["bc_gone"]))
    assert one(connection, "select count(*) from notebook_rt.broadcast_tables") == 1
    for _ in range(2):  # again does no harm
        connection.execute(broadcast_remove_sql("public", ["bc_stays"]))
        assert one(connection, "select to_regclass('notebook_rt.broadcast_tables')") is None
    connection.execute("drop table bc_stays")


# Laws -------------------------------------------------------------------------------------------

NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0", max_codepoint=0x2FFF),
    min_size=1,
    max_size=15,
)


@settings(max_examples=15)
@given(name=NAMES, key=NAMES)
def test_any_name_may_be_broadcast(stack: LocalStack, name: str, key: str) -> None:
    with psycopg.connect(stack.dsn, autocommit=True) as connection:
        column = q.Identifier(key).as_string(connection)
        for reader in made(connection, "bc " + name, f"{column} int primary key"):
            table = q.Identifier(reader.table)
            connection.execute(q.SQL("insert into {} values (1), (2)").format(table))
            connection.execute(
                q.SQL("update {0} set {1} = 3 where {1} = 2; delete from {0} where {1} = 1").format(
                    table, q.Identifier(key)
                )
            )
            reader.check()
            assert [row[key] for row in reader.truth()] == [3]


IDS = st.integers(0, 6)
STATEMENTS = st.one_of(
    st.builds("insert into bc values ({}, 'i') on conflict do nothing".format, IDS),
    st.builds(
        "insert into bc values ({}, 'u'), ({}, 'w') on conflict (id) do update set v = bc.v || '+'".format,
        st.integers(0, 3),
        st.integers(4, 6),
    ),
    st.builds("update bc set v = v || 'x' where id > {}".format, IDS),
    st.builds("update bc set id = id + 7 where id = {}".format, IDS),
    st.builds("update bc set id = id - 7 where id = {} + 7".format, IDS),
    st.builds("delete from bc where id = {}".format, IDS),
    st.builds(
        "merge into bc using (values ({}, {})) s (a, b) on id = s.a when matched and s.b > 3 then delete"
        " when matched then update set v = 'm' when not matched then insert values (s.a, 'n')".format,
        IDS,
        IDS,
    ),
    st.just("truncate bc"),
    st.sampled_from(["savepoint s", "rollback to s", "set constraints all immediate"]),
)


def test_a_reader_holds_the_table_after_every_transaction(
    connection: Connection, live: Reader
) -> None:
    @settings(max_examples=examples(60))
    @given(st.lists(st.tuples(st.lists(STATEMENTS, max_size=6), st.booleans()), max_size=5))
    def law(transactions: list[tuple[list[str], bool]]) -> None:
        connection.execute("truncate bc")
        reader = Reader(connection, "bc")
        for statements, commit in transactions:
            connection.execute("begin; savepoint s")
            for statement in statements:
                connection.execute("savepoint statement")
                try:
                    connection.execute(statement)
                except psycopg.errors.UniqueViolation:
                    connection.execute("rollback to statement")
            connection.execute("commit" if commit else "rollback")
            reader.check()

    law()


# The command ------------------------------------------------------------------------------------


def asked(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.arguments(parser)
    return parser.parse_args(arguments)


def test_doctor_prints_the_sql_and_what_takes_it_back(
    connection: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    connection.execute(f'drop table if exists "O\'Hara"; create table "O\'Hara" ({COLUMNS})')
    assert doctor.run(asked("--sql", "O'Hara", "--source-policy", "1 = 1")) == 0
    printed = capsys.readouterr().out
    assert "What writers pay" in printed
    connection.execute(printed)
    assert one(connection, "select notebook_rt_head('public', %s)", "O'Hara") is not None
    assert doctor.run(asked("--sql", "--remove", "O'Hara")) == 0
    connection.execute(capsys.readouterr().out)
    assert one(connection, "select to_regclass('notebook_rt.change_log')") is None
    connection.execute('drop table "O\'Hara"')


@pytest.mark.parametrize(
    "wrong", [["--remove"], ["--source-policy", "true"], ["--sql", "--remove"]]
)
def test_options_without_their_tables_are_an_error(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run(asked(*wrong)) == 2
    assert "needs --sql" in capsys.readouterr().err
