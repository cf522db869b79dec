"""The SQL of writes, by itself: what triggers see of the request, and interference of other writers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from notebook_rt.local import LocalStack

Connection = psycopg.Connection[tuple[Any, ...]]
SCHEMA = """
create schema {0};
create type {0}.mood as enum ('calm', 'cross');
create table {0}.audit (item int, what text);
create table {0}.items (id int primary key, n int not null default 0, mood {0}.mood);
insert into {0}.items select i, i from generate_series(1, 3) i;
create function {0}.note() returns trigger language plpgsql as $$
    begin
        insert into audit values (coalesce(new.id, old.id), tg_op || ' ' || 'calm'::mood);
        return coalesce(new, old);
    end $$;
create trigger note before update or delete on {0}.items for each row execute function {0}.note();
create function {0}.check_later() returns trigger language plpgsql as $$
    begin
        if new.n > 100 then raise 'too many' using errcode = '23514'; end if;
        insert into audit values (new.id, 'later');
        return null;
    end $$;
create constraint trigger later after update on {0}.items deferrable initially deferred
    for each row execute function {0}.check_later();
grant usage on schema {0} to anon;
grant select, insert, update, delete on all tables in schema {0} to anon;
"""


@pytest.fixture
def schema(stack: LocalStack, ledger: None) -> Iterator[str]:
    """A schema beside public whose triggers name its tables and types without it."""
    name = f"Beside {uuid.uuid4().hex[:8]}"
    stack.sql(SCHEMA.format(f'"{name}"'))
    yield name
    stack.sql(f'drop schema "{name}" cascade')


@pytest.fixture
def anon(stack: LocalStack) -> Iterator[Connection]:
    """A connection as PostgREST has it while it calls a function of public."""
    with psycopg.connect(stack.dsn) as connection:
        connection.execute("set role anon")
        connection.execute("select set_config('search_path', 'public, public, extensions', false)")
        yield connection


def add(connection: Connection, schema: str, key: int, more: int) -> Any:
    query = "select notebook_rt_write(%s, %s, 'items', %s, '{}', '{}', %s)"
    given = (str(uuid.uuid4()), schema, Jsonb({"id": key}), Jsonb({"n": more}))
    return connection.execute(query, given).fetchall()[0][0]


def many(connection: Connection, schema: str, *ops: dict[str, Any]) -> list[Any]:
    query = "select notebook_rt_write_many(%s, 'items', %s)"
    found: list[Any] = connection.execute(query, (schema, Jsonb(list(ops)))).fetchall()[0][0][
        "results"
    ]
    return found


def op(key: int, **values: Any) -> dict[str, Any]:
    return {"key": {"id": key}, "base": {}, **({"set": values} if values else {})}


def test_a_trigger_sees_the_schema_of_its_table_first_as_in_a_request(
    stack: LocalStack, schema: str, anon: Connection
) -> None:
    assert add(anon, schema, 1, 5)["row"] == {"id": 1, "n": 6, "mood": None}
    rows = many(anon, schema, op(2, n=7, mood="cross"), op(3))
    assert [row["row"]["id"] for row in rows] == [2, 3]
    anon.commit()
    assert stack.sql(f'select item, what from "{schema}".audit order by 1, what collate "C"') == [
        (1, "UPDATE calm"),
        (1, "later"),
        (2, "UPDATE calm"),
        (2, "later"),
        (3, "DELETE calm"),
    ]
    assert anon.execute("show search_path").fetchall() == [("public, public, extensions",)]


def test_a_deferred_constraint_refuses_its_own_row_alone(schema: str, anon: Connection) -> None:
    refused, written = many(anon, schema, op(1, n=500), op(2, n=7))
    anon.commit()
    assert refused["error"]["code"] == "23514"
    assert written["row"]["n"] == 7
    with pytest.raises(psycopg.errors.CheckViolation):
        add(anon, schema, 3, 500)


@pytest.mark.parametrize("call", [add, many])
def test_what_the_caller_has_in_its_path_gets_between_no_words_of_the_functions(
    stack: LocalStack, schema: str, anon: Connection, call: Callable[..., Any]
) -> None:
    evil = f"evil_{uuid.uuid4().hex[:8]}"
    stack.sql(
        f"create schema {evil}; grant usage on schema {evil} to anon;"
        f"create function {evil}.format(text, text, text) returns text language plpgsql as "
        "$$ begin raise 'hijacked'; end $$;"
        f"create function {evil}.jsonb_object_keys(jsonb) returns setof text language plpgsql as "
        "$$ begin raise 'hijacked'; end $$;"
        f"create function {evil}.set_config(text, text, boolean) returns text language plpgsql as "
        "$$ begin raise 'hijacked'; end $$"
    )
    try:
        anon.execute(f"set search_path = {evil}, pg_catalog, public")
        if call is add:
            add(anon, schema, 1, 1)
        else:
            many(anon, schema, op(1, n=2))
    finally:
        anon.rollback()
        stack.sql(f"drop schema {evil} cascade")


def test_the_path_of_the_database_or_role_comes_behind_the_schema(
    stack: LocalStack, schema: str
) -> None:
    with psycopg.connect(stack.dsn, options="-c search_path=elsewhere") as connection:
        path = connection.execute("select notebook_rt.request_path(%s)", (schema,)).fetchall()
    assert path == [(f'"{schema}", elsewhere, public, extensions',)]
