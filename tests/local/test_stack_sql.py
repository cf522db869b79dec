"""The local database has the same initial contents as a Supabase project's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from notebook_rt.local import LocalStack

USER = UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")

Sql = Callable[..., list[tuple[Any, ...]]]


class Caller:
    """One transaction as REST opens it: a role and the claims of a token."""

    def __init__(self, dsn: str, role: str, **claims: Any) -> None:
        self.connection = psycopg.connect(dsn)
        self.connection.execute("select set_config('role', %s, true)", (role,))
        everything = json.dumps({"role": role, **claims})
        self.connection.execute("select set_config('request.jwt.claims', %s, true)", (everything,))

    def __enter__(self) -> psycopg.Connection[tuple[Any, ...]]:
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.rollback()
        self.connection.close()


@pytest.fixture
def table(sql: Sql) -> Iterator[str]:
    sql("drop table if exists stack_t; create table stack_t (id bigserial primary key, v text)")
    sql("grant select, insert, update, delete on stack_t to anon, authenticated, service_role")
    sql("grant usage on sequence stack_t_id_seq to anon, authenticated, service_role")
    yield "stack_t"
    sql("drop table stack_t")


def test_the_roles_are_those_of_a_project(sql: Sql) -> None:
    rows = sql(
        "select rolname, rolbypassrls, rolsuper, rolcanlogin from pg_roles"
        " where rolname in ('anon', 'authenticated', 'service_role', 'authenticator') order by 1"
    )
    assert rows == [
        ("anon", False, False, False),
        ("authenticated", False, False, False),
        ("authenticator", False, False, True),
        ("service_role", True, False, False),
    ]


def test_changes_are_logged_for_replication(sql: Sql) -> None:
    assert sql("show wal_level") == [("logical",)]
    assert sql("show timezone") == [("UTC",)]
    assert sql("select current_setting('server_version_num')::int >= 180000") == [(True,)]


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role"])
def test_a_new_table_is_open_to_the_api_roles(stack: LocalStack, table: str, role: str) -> None:
    with Caller(stack.dsn, role) as connection:
        (key,) = connection.execute("insert into stack_t (v) values ('a') returning id").fetchall()[
            0
        ]
        connection.execute("update stack_t set v = 'b' where id = %s", (key,))
        assert connection.execute("select v from stack_t").fetchall() == [("b",)]
        connection.execute("delete from stack_t")


def test_nobody_reads_users_but_the_service(stack: LocalStack) -> None:
    for role in ("anon", "authenticated"):
        with (
            Caller(stack.dsn, role) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("select * from auth.users")
    with Caller(stack.dsn, "service_role") as connection:
        connection.execute("select * from auth.users")


def test_policies_know_who_asks(stack: LocalStack) -> None:
    with Caller(stack.dsn, "authenticated", sub=str(USER), email="a@b.example") as connection:
        found = connection.execute(
            "select auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'sub'"
        ).fetchone()
        assert found == (USER, "authenticated", "a@b.example", str(USER))
    with Caller(stack.dsn, "anon") as connection:
        assert connection.execute("select auth.uid(), auth.role()").fetchone() == (None, "anon")


def test_without_claims_nobody_asks(sql: Sql) -> None:
    assert sql("select auth.uid(), auth.role(), auth.email(), auth.jwt()") == [(None,) * 4]
    assert sql("select realtime.topic()") == [(None,)]


def test_row_level_security_holds_for_the_caller(stack: LocalStack, sql: Sql) -> None:
    sql(
        "create table stack_owned (id int primary key, owner uuid default auth.uid());"
        "alter table stack_owned enable row level security;"
        "create policy own on stack_owned for all using (owner = auth.uid());"
        "grant select, insert, update, delete on stack_owned to authenticated, service_role"
    )
    try:
        sql("insert into stack_owned values (1, %s), (2, gen_random_uuid())", USER)
        with Caller(stack.dsn, "authenticated", sub=str(USER)) as connection:
            assert connection.execute("select id from stack_owned").fetchall() == [(1,)]
            connection.execute("insert into stack_owned (id) values (3)")
        with Caller(stack.dsn, "service_role") as connection:
            found = connection.execute("select id from stack_owned order by 1").fetchall()
            assert found == [(1,), (2,)]
    finally:
        sql("drop table stack_owned")


def test_stored_generated_columns_are_published(sql: Sql) -> None:
    rows = sql("select pubname, pubgencols from pg_publication order by 1")
    assert ("supabase_realtime", "s") in rows
    assert sql(
        "select p.pubname, r.prrelid::regclass::text from pg_publication p"
        " join pg_publication_rel r on r.prpubid = p.oid"
        " where p.pubname = 'supabase_realtime_messages_publication'"
    ) == [("supabase_realtime_messages_publication", "realtime.messages")]


def test_send_keeps_a_message_with_an_id(sql: Sql) -> None:
    sql("""select realtime.send('{"a": 1}', 'news', 'stack:send')""")
    sql("""select realtime.send('{"id": "mine"}', 'news', 'stack:send', false)""")
    try:
        rows = sql(
            "select id, event, extension, private, payload from realtime.messages"
            " where topic = 'stack:send' order by inserted_at"
        )
        assert [row[1:4] for row in rows] == [
            ("news", "broadcast", True),
            ("news", "broadcast", False),
        ]
        assert rows[0][4] == {"a": 1, "id": str(rows[0][0])}
        assert rows[1][4] == {"id": "mine"}
    finally:
        sql("delete from realtime.messages where topic = 'stack:send'")


def test_a_message_that_may_not_be_sent_is_a_warning(stack: LocalStack, table: str) -> None:
    """A trigger that tells the world must not make the row's own write fail."""
    told: list[str] = []
    with Caller(stack.dsn, "anon") as connection:
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        connection.execute("""select realtime.send('{}', 'news', 'stack:refused')""")
        connection.execute("insert into stack_t (v) values ('written')")
        assert connection.execute("select v from stack_t").fetchall() == [("written",)]
    assert re.match("WarnSendingBroadcastMessage: .*row-level security", told[0])


def test_a_policy_on_messages_sees_the_topic(stack: LocalStack, sql: Sql) -> None:
    sql(
        "create policy stack_write on realtime.messages for insert to authenticated"
        " with check (realtime.topic() = 'stack:open' and extension = 'broadcast')"
    )
    try:
        with Caller(stack.dsn, "authenticated", sub=str(USER)) as connection:
            told: list[Any] = []
            connection.add_notice_handler(told.append)
            connection.execute("""select realtime.send('{}', 'news', 'stack:open')""")
            assert not told
            connection.execute("""select realtime.send('{}', 'news', 'stack:closed')""")
            assert len(told) == 1
    finally:
        sql("drop policy stack_write on realtime.messages")


def test_broadcast_changes_tells_what_happened_to_a_row(sql: Sql, table: str) -> None:
    sql("""
        create function stack_told() returns trigger language plpgsql as $$
        begin
          perform realtime.broadcast_changes(
            'stack:rows', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
          return null;
        end $$;
        create trigger told after insert or update or delete on stack_t
          for each row execute function stack_told()
    """)
    try:
        sql("insert into stack_t values (1, 'a')")
        sql("update stack_t set v = 'b'")
        sql("delete from stack_t")
        rows = sql(
            "select event, private, payload - 'id' from realtime.messages"
            " where topic = 'stack:rows' order by inserted_at"
        )
        a, b, at = {"id": 1, "v": "a"}, {"id": 1, "v": "b"}, {"schema": "public", "table": table}
        assert rows == [
            ("INSERT", True, {"operation": "INSERT", "record": a, "old_record": None, **at}),
            ("UPDATE", True, {"operation": "UPDATE", "record": b, "old_record": a, **at}),
            ("DELETE", True, {"operation": "DELETE", "record": None, "old_record": b, **at}),
        ]
        with pytest.raises(psycopg.errors.RaiseException, match="each row"):
            sql(
                "select realtime.broadcast_changes('t', 'e', 'INSERT', 't', 's',"
                " null::stack_t, null::stack_t, 'STATEMENT')"
            )
        with pytest.raises(psycopg.errors.RaiseException, match="Unexpected operation type: X"):
            sql(
                "select realtime.broadcast_changes('t', 'e', 'X', 't', 's',"
                " null::stack_t, null::stack_t)"
            )
    finally:
        sql("drop function stack_told cascade")
        sql("delete from realtime.messages where topic = 'stack:rows'")


def test_sql_takes_parameters_and_several_statements(sql: Sql) -> None:
    assert sql("select %s::text", "'; drop table x; --") == [("'; drop table x; --",)]
    assert sql("select 1; select 2, 3; set work_mem = '4MB'") == [(2, 3)]
    assert sql("select 'a%b' like 'a%'") == [(True,)]
    with pytest.raises(psycopg.errors.SyntaxError):
        sql("selekt 1")
    assert sql("select 1") == [(1,)]
