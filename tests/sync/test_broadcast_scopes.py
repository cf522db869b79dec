"""The SQL that broadcasts each value of a column on its own topic: the recipients of each row.

A reader of one value that holds only what its topic's log says, or its messages, holds the rows of that
value after each commit, whatever the other values are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql as q

from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from notebook_rt.sync.table.broadcast_answers import VERSION, topic_digest
from tests.laws import examples
from tests.sync.test_broadcast_sql import (
    READ_LOG,
    READ_MESSAGES,
    Connection,
    Reader,
    as_role,
    asked,
    doctor,
    made,
    one,
)

ANN, BOB = (str(UUID(int=number, version=4)) for number in (1, 2))
COLUMNS = "id int primary key, v text, owner uuid"


class Own(Reader):
    """A reader of the rows of one value."""

    def __init__(self, connection: Connection, table: str, scope: str, value: Any) -> None:
        self.scope, self.value = scope, value
        super().__init__(connection, table)
        self.series = self.head()["series"]

    def head(self) -> Any:
        query = "select notebook_rt_head('public', %s, %s)"
        return one(self.connection, query, self.table, json.dumps({self.scope: self.value}))

    def messages(self) -> list[dict[str, Any]]:
        """Of another series the log says what there was."""
        series = self.head()["series"]
        if series != self.series:
            self.series, self.n = series, 0
            self.by_messages = {self._key(row): row for row in self.truth()}
        query = (
            "select payload from realtime.messages where topic = %s and payload ->> 'epoch' = %s"
            " and (payload ->> 'series')::int = %s and (payload ->> 'n')::int > %s"
            " order by (payload ->> 'n')::int"
        )
        asked = (self.topic, self.epoch, series, self.n)
        sent = [row[0] for row in self.connection.execute(query, asked).fetchall()]
        self.n = max([self.n, *(payload["n"] for payload in sent)])
        return sent

    def truth(self) -> list[dict[str, Any]]:
        return [row for row in super().truth() if row[self.scope] == self.value]

    def check(self) -> None:
        """Of a TRUNCATE there is no message, and one of a strict isolation has no number: where one does
        not hold the rows by the messages, a number is missing, and the log says what it was.
        """
        before = self.n
        self.catch_up()
        truth = {self._key(row): row for row in self.truth()}
        assert self.by_log == truth
        if self.head()["n"] == self.n and self.by_messages != truth:
            assert self.n > before + 1
        self.by_messages = dict(truth)


@contextmanager
def scoped(
    connection: Connection,
    table: str,
    columns: str = COLUMNS,
    scope: str = "owner",
    policy: str | None = None,
) -> Iterator[None]:
    """A table of which each value of a column is broadcast apart."""
    name = q.Identifier(table).as_string(connection)
    connection.execute(f"drop table if exists {name} cascade; create table {name} ({columns})")
    connection.execute(
        f"grant select, insert, update, delete on {name} to anon, authenticated, service_role"
    )
    connection.execute(broadcast_sql("public", [table], policy, scope))
    try:
        yield
    finally:
        connection.execute("reset role")
        connection.execute(broadcast_remove_sql("public", [table]))
        connection.execute(f"drop table {name} cascade")


@pytest.fixture
def connection(stack: LocalStack) -> Iterator[Connection]:
    with psycopg.connect(stack.dsn, autocommit=True) as opened:
        yield opened


@pytest.fixture
def own(connection: Connection) -> Iterator[tuple[Own, Own]]:
    with scoped(connection, "bs"):
        yield Own(connection, "bs", "owner", ANN), Own(connection, "bs", "owner", BOB)


def insert(connection: Connection, *rows: tuple[int, str | None]) -> None:
    for key, owner in rows:
        connection.execute("insert into bs values (%s, 'v', %s)", (key, owner))


# What is told to whom ---------------------------------------------------------------------------


def test_each_value_has_a_topic_and_numbers_of_its_own(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, bob = own
    assert ann.topic == f"nrt:public.bs:owner={ANN}"
    insert(connection, (1, ANN), (2, ANN), (3, BOB))
    connection.execute("update bs set v = 'both'")
    assert [one["n"] for one in ann.messages()] == [1, 2, 3]
    assert [one["n"] for one in bob.messages()] == [1, 2]
    assert (ann.head()["n"], bob.head()["n"]) == (3, 2)
    ann.n = bob.n = 0
    ann.check()
    bob.check()


def test_a_row_that_moves_is_gone_from_one_topic_and_new_in_the_other(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, bob = own
    insert(connection, (1, ANN), (2, BOB))
    for reader in own:
        reader.check()
    connection.execute("update bs set owner = %s where id = 1", (BOB,))
    (left,), (came,) = ann.since(), bob.since()
    assert (left["op"], left["gone"]) == ("D", [{"id": 1}])
    assert (came["op"], came["rows"]) == ("U", [{"id": 1, "v": "v", "owner": BOB}])
    ann.by_log.clear()
    bob.by_log = {1: came["rows"][0], 2: bob.by_log[2]}
    connection.execute(  # two rows change places, in one statement
        "update bs set owner = case id when 1 then %s else null end::uuid", (ANN,)
    )
    ann.check()
    bob.check()
    assert (len(ann.truth()), len(bob.truth())) == (1, 0)


def test_keys_that_change_hands_in_one_statement_stay(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    columns = "k int primary key deferrable initially immediate, v text, owner uuid"
    with scoped(connection, "bs_swap", columns):
        connection.execute("insert into bs_swap values (1, 'a', %s), (2, 'b', %s)", (ANN, BOB))
        for value in (ANN, BOB):
            reader = Own(connection, "bs_swap", "owner", value)
            reader._key = lambda row: row["k"]  # type: ignore[method-assign]
            reader.by_log = {row["k"]: row for row in reader.truth()}
            connection.execute("update bs_swap set k = 3 - k")
            reader.catch_up()
            assert reader.by_log == {row["k"]: row for row in reader.truth()}


def test_rows_of_nobody_are_told_to_nobody(connection: Connection, own: tuple[Own, Own]) -> None:
    ann, bob = own
    insert(connection, (1, None))
    count = "select count(*) from notebook_rt.change_log"
    assert one(connection, count) == 0
    connection.execute("update bs set owner = %s", (ANN,))
    connection.execute("update bs set owner = null")
    assert [change["op"] for change in ann.since()] == ["U", "D"]
    assert bob.since() == []


def test_a_truncate_is_in_the_log_of_every_value_and_in_its_numbers(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    """Also of those of which nothing was ever told."""
    ann, bob = own
    insert(connection, (1, ANN))
    ann.check()
    connection.execute("truncate bs")
    assert (ann.head()["n"], bob.head()["n"]) == (2, 1)
    ann.check()
    assert [change["op"] for change in bob.since()] == ["T"]
    with connection.transaction():
        insert(connection, (1, ANN))
        connection.execute("truncate bs")
        insert(connection, (2, ANN))
    (message,) = ann.messages()
    assert [change["op"] for change in message["changes"]] == ["I", "T", "I"]
    assert message["n"] == ann.head()["n"] == 4
    ann.n = 3
    ann.check()
    assert bob.head()["n"] == 2


def test_what_is_rolled_back_leaves_no_number(connection: Connection, own: tuple[Own, Own]) -> None:
    ann, _ = own
    with connection.transaction(force_rollback=True):
        insert(connection, (1, ANN))
    with connection.transaction(force_rollback=True):
        connection.execute("set constraints all immediate")
        insert(connection, (1, ANN))
    with connection.transaction():
        insert(connection, (2, ANN))
        with connection.transaction(force_rollback=True):
            insert(connection, (3, ANN))
            connection.execute("truncate bs")
    assert ann.head()["n"] == 1
    ann.check()


def test_a_key_that_is_dropped_is_unknown_to_every_value(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, bob = own
    connection.execute(f"alter table bs drop column id; insert into bs values ('v', '{ANN}')")
    assert [change["op"] for change in ann.since()] == ["R"]
    assert [change["op"] for change in bob.since()] == ["R"]
    connection.execute("alter table bs rename column owner to whose")
    ann.scope = "whose"
    assert ann.head()["topic"] == ann.topic
    connection.execute("alter table bs drop column whose; insert into bs values ('v')")
    assert ann.head() is None


def test_writers_of_a_stricter_isolation_do_not_fail_and_are_counted(
    stack: LocalStack, connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, _ = own
    insert(connection, (1, ANN))
    for level in ("repeatable read", "serializable"):
        with psycopg.connect(stack.dsn) as slow:
            slow.execute(f"set transaction isolation level {level}")
            slow.execute("insert into bs values (%s, 'slow', %s)", (len(level), ANN))
            insert(connection, (100 + len(level), ANN))
            slow.commit()
    before = ann.head()["n"]
    assert before == 5
    insert(connection, (2, ANN))
    assert ann.messages()[-1]["n"] == ann.head()["n"] == 6
    ann.catch_up()
    assert set(ann.by_log) == {row["id"] for row in ann.truth()}


def test_a_counter_that_is_held_for_long_holds_up_no_writer(
    stack: LocalStack, connection: Connection, own: tuple[Own, Own]
) -> None:
    """Nor do two of them that take the counters in two orders wait for each other."""
    ann, bob = own
    with psycopg.connect(stack.dsn) as slow:
        slow.execute("set constraints all immediate")
        slow.execute("insert into bs values (1, 'slow', %s)", (ANN,))
        with connection.transaction():
            connection.execute("set constraints all immediate")
            insert(connection, (2, BOB), (3, ANN))
        slow.execute("insert into bs values (4, 'slow', %s)", (BOB,))
        slow.commit()
    assert (ann.head()["n"], bob.head()["n"]) == (2, 2)
    ann.catch_up()
    bob.catch_up()
    assert (set(ann.by_log), set(bob.by_log)) == ({1, 3}, {2, 4})


def test_concurrent_writers_of_one_value_leave_no_hole(
    stack: LocalStack, connection: Connection, own: tuple[Own, Own]
) -> None:
    def write(name: int) -> None:
        with psycopg.connect(stack.dsn, autocommit=True) as other:
            for turn in range(30):
                with other.transaction(force_rollback=turn % 7 == 0):
                    insert(other, (1000 * name + turn, BOB if turn % 3 else ANN))
                    other.execute("update bs set owner = %s where id = 0", ((ANN, BOB)[turn % 2],))

    insert(connection, (0, ANN))
    threads = [threading.Thread(target=write, args=(name,)) for name in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reader in own:
        sent = [message["n"] for message in reader.messages()]
        # Who would have waited too long has no number, and is counted.
        known = sorted(n for n in sent if n)
        assert len(set(known)) == len(known)
        assert reader.head()["n"] >= len(known)
        reader.catch_up()
        assert reader.by_log == {row["id"]: row for row in reader.truth()}


# Who may read -----------------------------------------------------------------------------------

HEAD = "select notebook_rt_head('public', 'bs', %s)"
SINCE = "select notebook_rt_since(%s, %s)"
READ_ALL = "select count(*) from notebook_rt.change_log where rows is not null or gone is not null"
READ_NUMBERS = "select count(*) from notebook_rt.broadcast_numbers where topic = %s"


def test_nobody_reads_another_users_rows_by_any_way(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    insert(connection, (1, ANN), (2, BOB))
    for mine, other, sub in ((own[0], own[1], ANN), (own[1], own[0], BOB)):
        role = "authenticated"
        assert as_role(connection, role, READ_ALL, sub=sub) == 1
        for reader, seen in ((mine, 1), (other, 0)):
            equal = json.dumps({"owner": reader.value})
            assert as_role(connection, role, READ_LOG, reader.topic, sub=sub) == seen
            assert as_role(connection, role, READ_NUMBERS, reader.topic, sub=sub) == seen
            joined = as_role(connection, role, READ_MESSAGES, reader.topic, reader.topic, sub=sub)
            assert bool(joined) == bool(seen)
            assert (as_role(connection, role, HEAD, equal, sub=sub) is not None) == bool(seen)
            answer = as_role(connection, role, SINCE, reader.topic, reader.position, sub=sub)
            assert (answer is not None) == bool(seen)
        # One's own topic is joined, and the rows of another's are asked for.
        assert as_role(connection, role, READ_MESSAGES, mine.topic, other.topic, sub=sub) == 0
    for role, sub in (("anon", ""), ("authenticated", "")):
        assert as_role(connection, role, READ_ALL, sub=sub) == 0
        for reader in own:
            assert as_role(connection, role, SINCE, reader.topic, reader.position, sub=sub) is None
    assert as_role(connection, "service_role", READ_ALL) == 2
    base = own[0].topic.partition("=")[0]
    for topic in (base, base + "=", "nrt:public.bs", f"{base}={ANN}x", f"{base}=%", f"{base}=~"):
        assert as_role(connection, "authenticated", SINCE, topic, own[0].position, sub=ANN) is None
        assert as_role(connection, "authenticated", READ_MESSAGES, topic, topic, sub=ANN) == 0


def test_without_the_grant_nobody_reads_their_own(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    insert(connection, (1, ANN))
    connection.execute("revoke select on bs from authenticated")
    ann = own[0]
    assert as_role(connection, "authenticated", READ_ALL, sub=ANN) == 0
    assert as_role(connection, "authenticated", SINCE, ann.topic, ann.position, sub=ANN) is None
    assert as_role(connection, "authenticated", READ_MESSAGES, ann.topic, ann.topic, sub=ANN) == 0


def test_a_head_without_the_scope_names_it_and_nothing_else(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    for equal in (None, json.dumps({"v": "x"})):
        said = as_role(connection, "authenticated", HEAD, equal, sub=ANN)
        assert said == {"version": VERSION, "scope": "owner"}
    for value in ("no uuid", None, "x" * 200):
        assert (
            as_role(connection, "authenticated", HEAD, json.dumps({"owner": value}), sub=ANN)
            is None
        )
    said = as_role(connection, "authenticated", HEAD, json.dumps({"owner": ANN.upper()}), sub=ANN)
    assert said["topic"] == own[0].topic


def test_a_source_policy_is_a_condition_on_the_scope(connection: Connection) -> None:
    connection.execute(
        "drop table if exists bs_members; create table bs_members (user_id uuid, team int);"
        "grant select on bs_members to authenticated"
    )
    connection.execute("insert into bs_members values (%s, 7), (%s, 8)", (ANN, BOB))
    policy = "team in (select m.team from public.bs_members m where m.user_id = auth.uid())"
    columns = "id int primary key, v text, team int"
    with scoped(connection, "bs", columns, "team", policy):
        for team in (7, 8, -2147483648):
            connection.execute("insert into bs values (%s, 'v', %s)", (team, team))
        for sub, seen in ((ANN, 7), (BOB, 8)):
            query = "select rows -> 0 ->> 'team' from notebook_rt.change_log"
            assert as_role(connection, "authenticated", query, sub=sub) == str(seen)
            assert as_role(connection, "authenticated", READ_ALL, sub=sub) == 1
            for team in (7, 8):
                topic = f"nrt:public.bs:team={team}"
                count = as_role(connection, "authenticated", READ_MESSAGES, topic, topic, sub=sub)
                assert bool(count) == (team == seen)
                head = as_role(
                    connection, "authenticated", HEAD, json.dumps({"team": team}), sub=sub
                )
                assert (head is not None) == (team == seen)
        # What is no value of the column opens nothing, and fails nobody.
        for unfit in ("x", "99999999999", "07", "-0", "~ff", "~37", "~zz", "2147483648", ""):
            topic = "nrt:public.bs:team=" + unfit
            assert as_role(connection, "authenticated", READ_MESSAGES, topic, topic, sub=ANN) == 0
            position = one(connection, HEAD, json.dumps({"team": 7}))["position"]
            assert as_role(connection, "authenticated", SINCE, topic, position, sub=ANN) is None
    connection.execute("drop table bs_members")


# Values -------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    "a/b?c#d",
    "O'Hara",
    'a"b',
    "=",
    "~",
    "~61",
    "a",
    "A",
    " a",
    "nrt:public.bs:owner=a",
    "\u202eabc",
    "é",
    "e\u0301",
    "%_",
    "\\",
    "\n",
    "{}",
    "null",
    "x" * 100,
    "x" * 101,
    "ä" * 50,
    "ä" * 51,
]


def test_hostile_values_meet_nobody_elses_topic(connection: Connection) -> None:
    columns = "id int primary key, v text, owner text"
    policy = "owner = auth.jwt() ->> 'sub'"
    with scoped(connection, "bs", columns, "owner", policy):
        for number, value in enumerate(HOSTILE):
            connection.execute("insert into bs values (%s, 'v', %s)", (number, value))
        topics = set()
        for number, value in enumerate(HOSTILE):
            head = one(connection, HEAD, json.dumps({"owner": value}))
            if len(value.encode()) > 100:
                assert head is None
                continue
            topics.add(head["topic"])
            assert set(head["topic"]) <= set(
                "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:.=~"
            )
            found = "select array_agg(r ->> 'id') from notebook_rt.change_log, jsonb_array_elements(rows) r"
            if value:
                assert as_role(connection, "authenticated", found, sub=value) == [str(number)]
            sent = one(
                connection, "select count(*) from realtime.messages where topic = %s", head["topic"]
            )
            assert sent >= 1
        assert len(topics) == sum(len(value.encode()) <= 100 for value in HOSTILE)


TEXTS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)


def test_a_topic_is_of_one_value_and_tells_it(connection: Connection) -> None:
    @settings(max_examples=examples(100))
    @given(TEXTS, TEXTS)
    def law(first: str, second: str) -> None:
        for value in (first, second):
            topic = one(connection, "select notebook_rt.broadcast_topic('t', %s)", value)
            assert (topic is None) == (len(value.encode()) > 100)
            if topic is not None:
                told = "select notebook_rt.broadcast_value(%s, 't', 'text'::regtype)"
                assert one(connection, told, topic) == value
        # Whatever is asked for as a topic is the one of what it tells, or of nothing.
        told = one(connection, "select notebook_rt.broadcast_value(%s, 't', 'text')", "t=" + first)
        if told is not None:
            again = one(connection, "select notebook_rt.broadcast_topic('t', %s)", told)
            assert again == "t=" + first

    with scoped(connection, "bs_law"):
        law()


def test_a_value_that_cannot_be_asked_for_spoils_no_other_head(connection: Connection) -> None:
    with scoped(connection, "bs", "id int primary key, x text", "x", "10 / length(x) > 1"):
        known = [
            {"schema": "public", "table": "bs", "equal": {"x": x}, "topic": "", "epoch": "", "n": 0}
            for x in ("a", "", "b")
        ]
        query = "select notebook_rt_heads(%s) -> 'heads'"
        told = as_role(connection, "authenticated", query, json.dumps(known))
        assert told["1"] is None
        assert [told[place]["topic"][-2:] for place in "02"] == ["=a", "=b"]


def test_odd_names_of_tables_and_scopes_have_topics_apart(connection: Connection) -> None:
    """A table may be called as the topic of another table's value."""
    with (
        scoped(connection, "bs", "id int primary key, x text", "x", "true"),
        scoped(connection, "bs:x=a", 'id int primary key, "y=b" text', "y=b", "true"),
    ):
        topics = {
            one(connection, "select notebook_rt_head('public', %s, %s)", table, json.dumps(equal))[
                "topic"
            ]
            for table, equal in (
                ("bs", {"x": "a"}),
                ("bs", {"x": "b"}),
                ("bs:x=a", {"y=b": "a"}),
                ("bs:x=a", {"y=b": ""}),
            )
        }
        assert len(topics) == 4
        connection.execute("insert into bs values (1, 'a')")
        connection.execute("insert into \"bs:x=a\" values (1, 'a')")
        for topic in topics:
            count = one(connection, READ_LOG, topic)
            assert count == topic.endswith("=a")


# Counters that go with the log ---------------------------------------------------------------------

PRUNE = "select notebook_rt.broadcast_prune(100000, '-1 s')"
ROWS = "select count(*) from notebook_rt.broadcast_numbers"


def test_the_counter_of_a_value_goes_with_its_last_entry_of_the_log(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    """Who held an older position is told that it is too old; who follows sees another series."""
    ann, bob = own
    for number in range(5):
        insert(connection, (number, ANN))
    insert(connection, (5, BOB))
    old = ann.position
    for reader in own:
        reader.check()
    assert one(connection, ROWS) == 2
    connection.execute(PRUNE)
    assert one(connection, ROWS) == 0
    heads = [reader.head() for reader in own]
    assert [(head["n"], head["series"]) for head in heads] == [(0, 0), (0, 0)]
    since = "select notebook_rt_since(%s, %s) -> 'too_old'"
    assert one(connection, since, ann.topic, old) is True
    for reader in own:
        reader.check()
    first = ann.series
    insert(connection, (6, ANN))
    (message,) = ann.messages()
    assert (message["n"], message["series"]) == (1, ann.head()["series"])
    assert message["series"] > first
    ann.by_messages = {}
    ann._apply(ann.by_messages, message["changes"])
    assert list(ann.by_messages) == [6]
    assert bob.head()["n"] == 0


def test_a_counter_that_is_written_meanwhile_is_not_pruned(
    stack: LocalStack, connection: Connection, own: tuple[Own, Own]
) -> None:
    insert(connection, (1, ANN), (2, BOB))
    for reader in own:
        reader.check()
    insert(connection, (3, ANN), (4, BOB))
    for reader in own:
        reader.check()
    with psycopg.connect(stack.dsn) as slow:
        slow.execute("set constraints all immediate")
        slow.execute("insert into bs values (5, 'slow', %s)", (ANN,))
        connection.execute(PRUNE)
        slow.commit()
    for reader in own:
        reader.check()
    insert(connection, (6, ANN), (7, BOB))
    for reader in own:
        reader.check()


def test_writers_and_prunings_at_once_lose_nothing(
    stack: LocalStack, connection: Connection, own: tuple[Own, Own]
) -> None:
    """No number is given twice, whoever counts while a counter goes."""

    def write(first: int) -> None:
        with psycopg.connect(stack.dsn, autocommit=True) as mine:
            for number in range(40):
                owner = (ANN, BOB)[number % 2]
                mine.execute("insert into bs values (%s, 'w', %s)", (first + number, owner))
                mine.execute(PRUNE)

    threads = [threading.Thread(target=write, args=(1000 * name,)) for name in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for reader in own:
        reader.n = -1  # also those of the number 0: of who would have waited too long
        sent = super(Own, reader).messages()
        numbers = [(one["series"], one["n"]) for one in sent if one["n"]]
        assert len(set(numbers)) == len(numbers)
        written = {row["id"] for message in sent for c in message["changes"] for row in c["rows"]}
        assert written == {row["id"] for row in reader.truth()}


def test_the_rows_that_truncates_leave_are_added_up(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, _ = own
    insert(connection, (1, ANN))
    for _ in range(5):
        connection.execute("truncate bs")
    assert (one(connection, ROWS), ann.head()["n"]) == (6, 6)
    ann.check()
    connection.execute(PRUNE)
    assert one(connection, ROWS) == 1
    ann.check()
    assert (ann.head()["n"], ann.head()["series"]) == (5, 0)


# One transaction over several tables -----------------------------------------------------------------


def test_a_message_of_a_value_names_the_tables_of_its_transaction(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    """Those without a scope, which come after it, and the same value of the same column of others; no other
    value's, and nobody is told of a value who reads a whole table.
    """
    ann, bob = own
    with scoped(connection, "bs_more"):
        for whole in made(connection, "bs_all", "id int primary key, v text"):
            more = Own(connection, "bs_more", "owner", ANN)
            with connection.transaction():
                connection.execute("insert into bs_all values (1, 'a')")
                insert(connection, (1, ANN), (2, BOB))
                connection.execute("insert into bs_more values (1, 'v', %s)", (ANN,))
            names = {topic_digest(reader.topic): reader for reader in (ann, bob, more, whole)}
            (mine,), (his,), (others,), (all_,) = (
                reader.messages() for reader in (ann, bob, more, whole)
            )
            assert [names[name] for name in sorted(mine["topics"])] == [
                names[name] for name in sorted(others["topics"])
            ]
            assert {names[name].topic for name in mine["topics"]} == {
                reader.topic for reader in (ann, more, whole)
            }
            assert {names[name].topic for name in his["topics"]} == {bob.topic, whole.topic}
            assert "topics" not in all_
            order = connection.execute(
                "select topic from realtime.messages where payload ->> 'x' = %s", (mine["x"],)
            ).fetchall()
            assert order[-1] == (whole.topic,)


# Said again, and taken back -----------------------------------------------------------------------


def test_another_scope_restarts_and_the_same_goes_on(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, _ = own
    insert(connection, (1, ANN))
    connection.execute(broadcast_sql("public", ["bs"], scope="owner"))
    assert (ann.head()["n"], ann.head()["epoch"]) == (1, ann.epoch)
    epochs = {ann.epoch}
    for scope in (None, "v", "owner"):
        connection.execute(broadcast_sql("public", ["bs"], scope=scope))
        head = one(connection, HEAD, json.dumps({"owner": ANN, "v": "v"}))
        epochs.add(head["epoch"])
        assert head["n"] == 0
        assert (head["topic"] == "nrt:public.bs") == (scope is None)
        assert one(connection, "select count(*) from notebook_rt.change_log") == 0
    assert len(epochs) == 4
    insert(connection, (2, ANN))
    again = Own(connection, "bs", "owner", ANN)
    assert again.head()["n"] == 1


def test_a_table_dropped_and_made_again_restarts(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    ann, _ = own
    insert(connection, (1, ANN))
    connection.execute(f"drop table bs; create table bs ({COLUMNS})")
    assert ann.head() is None
    connection.execute(broadcast_sql("public", ["bs"], scope="owner"))
    assert (ann.head()["topic"], ann.head()["n"]) == (ann.topic, 0)
    assert ann.head()["epoch"] != ann.epoch


REFUSED = {
    "missing": "no column missing",
    "price": "neither a uuid, an integer nor a text",
    "team": "is an integer",
}


@pytest.mark.parametrize("scope", REFUSED)
def test_a_scope_that_cannot_be_one_is_refused_with_the_reason(
    connection: Connection, scope: str
) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("create table bs_bad (id int primary key, price numeric, team int)")
        with pytest.raises(psycopg.errors.RaiseException, match=REFUSED[scope]):
            connection.execute(broadcast_sql("public", ["bs_bad"], scope=scope))


def test_row_level_security_needs_a_policy_or_a_scope(connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(f"create table bs_rls ({COLUMNS})")
        connection.execute("alter table bs_rls enable row level security")
        connection.execute(broadcast_sql("public", ["bs_rls"], scope="owner"))
        with pytest.raises(psycopg.errors.RaiseException, match="which column says whose"):
            connection.execute(broadcast_sql("public", ["bs_rls"]))


def test_what_version_1_made_goes_on(connection: Connection) -> None:
    """The SQL is run over what an earlier one has left."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"create table bs_old ({COLUMNS})")
        connection.execute(broadcast_sql("public", ["bs_old"]))
        connection.execute(
            "drop function public.notebook_rt_head;"
            "create function public.notebook_rt_head(p_schema text, p_table text) returns jsonb"
            " language sql as 'select null::jsonb';"
            "drop table notebook_rt.broadcast_numbers;"
            "alter table notebook_rt.broadcast_tables alter column numbers set not null"
        )
        connection.execute("set constraints all immediate")
        connection.execute("insert into bs_old values (1, 'a', null)")
        connection.execute(broadcast_sql("public", ["bs_old"]))
        assert one(connection, "select notebook_rt_head('public', 'bs_old') ->> 'n'") == "1"


def test_nothing_is_left_of_a_scope(connection: Connection) -> None:
    count = (
        "select (select count(*) from pg_proc where proname ~ '^(broadcast_|notebook_rt_(head|since))'"
        " and pronamespace in ('public'::regnamespace, to_regnamespace('notebook_rt')))"
        " + (select count(*) from pg_class where relname ~ '^(broadcast_|change_log)')"
        " + (select count(*) from pg_policies where policyname like 'notebook_rt_broadcast_%')"
    )
    before = one(connection, count)
    with scoped(connection, "bs"):
        insert(connection, (1, ANN))
        assert one(connection, count) > before + 20
    assert one(connection, count) == before


def test_doctor_prints_a_scope(connection: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(asked("--sql", "--scope", "o'ner")) == 2
    assert "--scope needs --sql and at least one table" in capsys.readouterr().err
    connection.execute(
        'drop table if exists bs_cli; create table bs_cli (id int primary key, "o\'ner" uuid)'
    )
    assert doctor.run(asked("--sql", "bs_cli", "--scope", "o'ner")) == 0
    connection.execute(capsys.readouterr().out)
    query = "select notebook_rt_head('public', 'bs_cli', %s)"
    assert one(connection, query, json.dumps({"o'ner": ANN}))["topic"].endswith(f'"o\'ner"={ANN}')
    connection.execute(broadcast_remove_sql("public", ["bs_cli"]) + "; drop table bs_cli")


# The law --------------------------------------------------------------------------------------------

IDS = st.integers(0, 5)
OWNERS = st.sampled_from(("null", f"'{ANN}'", f"'{BOB}'"))
STATEMENTS = st.one_of(
    st.builds("insert into bs values ({}, 'i', {}) on conflict do nothing".format, IDS, OWNERS),
    st.builds(
        "insert into bs values ({}, 'u', {}) on conflict (id) do update"
        " set v = bs.v || '+', owner = excluded.owner".format,
        IDS,
        OWNERS,
    ),
    st.builds("update bs set owner = {} where id > {}".format, OWNERS, IDS),
    st.builds("update bs set v = v || 'x' where id > {}".format, IDS),
    st.builds("update bs set id = id + 6, owner = {} where id = {}".format, OWNERS, IDS),
    st.builds("update bs set id = id - 6 where id = {} + 6".format, IDS),
    st.builds("delete from bs where owner = {}".format, OWNERS),
    st.builds(
        "merge into bs using (values ({}, {})) s (a, b) on id = s.a when matched and s.b > 3 then delete"
        " when matched then update set v = 'm'"
        " when not matched then insert values (s.a, 'n', {}::uuid)".format,
        IDS,
        IDS,
        OWNERS,
    ),
    st.just("truncate bs"),
    st.sampled_from(["savepoint s", "rollback to s", "set constraints all immediate"]),
)


LEVELS = st.sampled_from(("read committed", "read committed", "repeatable read", "serializable"))


def test_each_reader_holds_its_rows_after_every_transaction(
    connection: Connection, own: tuple[Own, Own]
) -> None:
    @settings(max_examples=examples(60))
    @given(
        st.lists(
            st.tuples(st.lists(STATEMENTS, max_size=6), st.booleans(), LEVELS, st.booleans()),
            max_size=5,
        )
    )
    def law(transactions: list[tuple[list[str], bool, str, bool]]) -> None:
        connection.execute("truncate bs")
        readers = [Own(connection, "bs", "owner", value) for value in (ANN, BOB)]
        for statements, commit, level, prune in transactions:
            connection.execute(f"begin isolation level {level}; savepoint s".encode())
            for statement in statements:
                connection.execute("savepoint statement")
                try:
                    connection.execute(statement)
                except psycopg.errors.UniqueViolation:
                    connection.execute("rollback to statement")
            connection.execute("commit" if commit else "rollback")
            for reader in readers:
                reader.check()
            if prune:
                connection.execute(PRUNE)

    law()
