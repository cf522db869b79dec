"""The SQL of broadcasts run by an ordinary owner: no superuser, and subject to policies.

Hosted, the owner of the tables in `public` may put policies on `realtime.messages`, which belongs to
another role; here it is that role's member while it runs the SQL, and not afterwards.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as q
from psycopg.conninfo import make_conninfo

from notebook_rt.local import LocalStack, start
from notebook_rt.runtime.optional_sql import broadcast_remove_sql, broadcast_sql
from tests.conftest import QUICK
from tests.local.test_realtime_broadcasts import listening
from tests.sync.test_broadcast_sql import Connection, Reader, one

OWNER = "nrt_owner"


@pytest.fixture(scope="module")
def stack(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """A project in which nobody has run SQL of ours yet, which would own it."""
    with start(ready_made(tmp_path_factory.mktemp("owners")), options=QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def owner_dsn(stack: LocalStack) -> Iterator[str]:
    """How an ordinary owner connects, with what a hosted project grants to its `postgres`."""
    stack.sql(
        f"create role {OWNER} login password 'owner';"
        "create role nrt_realtime_admin nologin;"
        f"grant create on database postgres to {OWNER};"
        f"grant usage, create on schema public to {OWNER};"
        f"grant usage on schema realtime, auth to {OWNER};"
        f"grant select, insert, update on realtime.messages to {OWNER};"
        "grant all on schema realtime to nrt_realtime_admin;"
        "alter table realtime.messages owner to nrt_realtime_admin"
    )
    yield make_conninfo(stack.dsn, user=OWNER, password="owner")
    stack.sql(
        "alter table realtime.messages owner to postgres;"
        f"drop owned by {OWNER}, nrt_realtime_admin; drop role {OWNER}, nrt_realtime_admin"
    )


@pytest.fixture
def owner(owner_dsn: str) -> Iterator[Connection]:
    with psycopg.connect(owner_dsn, autocommit=True) as opened:
        yield opened


@contextmanager
def may_make_policies(stack: LocalStack) -> Iterator[None]:
    stack.sql(f"grant nrt_realtime_admin to {OWNER} with inherit true")
    try:
        yield
    finally:
        stack.sql(f"revoke nrt_realtime_admin from {OWNER}")


@pytest.fixture
def live(stack: LocalStack, owner: Connection) -> Iterator[Reader]:
    owner.execute(
        "create table bc_owned (id int primary key, v text);"
        "grant select, insert, update, delete on bc_owned to anon, authenticated, service_role"
    )
    with may_make_policies(stack):
        owner.execute(broadcast_sql("public", ["bc_owned"]))
    yield Reader(owner, "bc_owned")
    with may_make_policies(stack):
        owner.execute(broadcast_remove_sql("public", ["bc_owned"]))
    owner.execute("drop table bc_owned")


def test_the_owner_is_ordinary(owner: Connection, live: Reader) -> None:
    assert one(owner, "select rolsuper or rolbypassrls from pg_roles where rolname = user") is False
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner"):
        owner.execute("create policy p on realtime.messages using (true)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute("create table realtime.t ()")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.execute(
            "insert into realtime.messages (topic, extension) values ('theirs', 'broadcast')"
        )


@pytest.mark.parametrize("writer", [OWNER, "anon", "authenticated", "service_role"])
async def test_whoever_writes_is_heard(stack: LocalStack, live: Reader, writer: str) -> None:
    """And no more can be sent by a writer than its changes."""

    def write() -> None:
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            connection.execute(q.SQL("set role {}").format(q.Identifier(writer)))
            connection.execute("insert into bc_owned values (1, 'a'), (2, 'b')")
            connection.execute("update bc_owned set id = 3 where id = 1")
            connection.execute("delete from bc_owned where id = 2")

    async with listening(stack, live.topic) as heard:
        await asyncio.to_thread(write)
        assert await heard.numbers(3) == [1, 2, 3]


def test_a_reader_follows_what_the_owner_broadcasts(
    stack: LocalStack, owner: Connection, live: Reader
) -> None:
    owner.execute(
        "insert into bc_owned select i, repeat('x', 1000) from generate_series(1, 2000) i"
    )
    owner.execute("update bc_owned set v = 'y' where id % 2 = 0; truncate bc_owned")
    owner.execute("insert into bc_owned values (7, 'a')")
    live.catch_up()
    assert live.by_log == {7: {"id": 7, "v": "a"}}
    live.connection = psycopg.connect(stack.dsn, autocommit=True)  # who sees realtime.messages
    live.check()
    live.connection.close()


def test_pruning_and_running_it_again_need_no_more_rights(
    stack: LocalStack, owner: Connection, live: Reader
) -> None:
    for number in range(10):
        owner.execute("insert into bc_owned values (%s, 'a')", (number,))
    assert one(owner, "select notebook_rt.broadcast_prune(4, '-1 s')") == 4
    with may_make_policies(stack):
        owner.execute(broadcast_sql("public", ["bc_owned"]))
    assert one(owner, "select notebook_rt_head('public', 'bc_owned') ->> 'n'") == "10"
    with psycopg.connect(stack.dsn, autocommit=True) as connection:
        connection.execute("set role service_role")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select notebook_rt.broadcast_prune()")


@pytest.mark.parametrize("policy", [None, "owner is not null"])
async def test_each_value_is_heard_on_its_topic(
    stack: LocalStack, owner: Connection, policy: str | None
) -> None:
    """Whoever writes; and who owns the SQL may send to no topic but those of the values."""
    user = "00000000-0000-4000-8000-000000000001"
    owner.execute(
        "create table bc_scoped (id int primary key, owner uuid);"
        "grant select, insert, update, delete on bc_scoped to anon, authenticated, service_role"
    )
    with may_make_policies(stack):
        owner.execute(broadcast_sql("public", ["bc_scoped"], policy, "owner"))
    topic = f"nrt:public.bc_scoped:owner={user}"

    def write() -> None:
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            connection.execute("set role anon")
            connection.execute("insert into bc_scoped values (1, %s)", (user,))
            connection.execute("update bc_scoped set owner = gen_random_uuid()")
            connection.execute("insert into bc_scoped values (2, %s)", (user,))

    try:
        signed_in = stack.token("authenticated", user)
        async with listening(stack, topic, token=signed_in) as heard:
            await asyncio.to_thread(write)
            assert await heard.numbers(3) == [1, 2, 3]
        for other in ("nrt:public.bc_scoped", "nrt:public.bc_scoped:owner", "theirs"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(
                    "insert into realtime.messages (topic, extension, private)"
                    " values (%s, 'broadcast', true)",
                    (other + "x",),
                )
    finally:
        with may_make_policies(stack):
            owner.execute(broadcast_remove_sql("public", ["bc_scoped"]))
        owner.execute("drop table bc_scoped")


# pg_cron ----------------------------------------------------------------------------------------

CRON = """
create schema cron;
create table cron.job (
    jobid bigint generated always as identity primary key, schedule text not null,
    command text not null, nodename text not null default 'localhost',
    nodeport int not null default 5432, database text not null default current_database(),
    username text not null default current_user, active boolean not null default true,
    jobname text, unique (jobname, username)
);
alter table cron.job enable row level security;
create policy cron_job_policy on cron.job using (username = current_user);
create function cron.schedule(job_name text, schedule text, command text) returns bigint
language sql as $$
    insert into cron.job (jobname, schedule, command) values ($1, $2, $3)
    on conflict (jobname, username) do update
        set schedule = excluded.schedule, command = excluded.command
    returning jobid
$$;
create function cron.unschedule(job_name text) returns boolean language plpgsql as $$
begin
    delete from cron.job where jobname = job_name and username = current_user;
    if not found then
        raise exception 'could not find valid entry for job %', job_name;
    end if;
    return true;
end $$;
grant select, insert, update, delete on cron.job to public;
"""
"""What pg_cron 1.6 has of its own, as far as this SQL uses it; nothing runs the jobs."""


@pytest.fixture
def cron(stack: LocalStack) -> Iterator[None]:
    """The extension pg_cron, whose schema the owner may use."""
    with tempfile.TemporaryDirectory() as name:
        files = Path(name, "extension")
        files.mkdir()
        files.joinpath("pg_cron.control").write_text("default_version = '1.6'\n")
        files.joinpath("pg_cron--1.6.sql").write_text(CRON)
        Path(name).chmod(0o755)  # PostgreSQL may run as another user
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            connection.execute(f"set extension_control_path = '{name}'".encode())
            connection.execute("create extension pg_cron")
    stack.sql(f"grant usage on schema cron to {OWNER}")
    yield
    stack.sql("drop extension if exists pg_cron cascade; drop schema if exists cron")


def test_where_pg_cron_is_it_prunes_and_writers_do_not(
    stack: LocalStack, owner: Connection, live: Reader, cron: None
) -> None:
    state = "select by_cron from notebook_rt.broadcast_state"
    assert one(owner, state) is False
    for _ in range(2):
        with may_make_policies(stack):
            owner.execute(broadcast_sql("public", ["bc_owned"]))
    assert one(owner, state) is True
    ((name, schedule, command, username),) = owner.execute(
        "select jobname, schedule, command, username from cron.job"
    ).fetchall()
    assert (name, schedule, username) == ("notebook_rt_broadcast_prune", "* * * * *", OWNER)
    for number in range(150):
        owner.execute("insert into bc_owned values (%s, 'a')", (number,))
    owner.execute("update notebook_rt.change_log set at = at - interval '2 days'")
    for number in range(300):  # of a writer's commits one in fifty would prune
        owner.execute("insert into bc_owned values (%s, 'b')", (1000 + number,))
    count = "select count(*) from notebook_rt.change_log"
    assert one(owner, count) == 450
    owner.execute(command.encode())
    assert one(owner, count) == 300
    with may_make_policies(stack):
        owner.execute(broadcast_remove_sql("public", ["bc_owned"]))
    assert owner.execute("select * from cron.job").fetchall() == []
    with may_make_policies(stack):
        owner.execute(broadcast_sql("public", ["bc_owned"]))


@pytest.mark.parametrize(
    "gone", [f"revoke usage on schema cron from {OWNER}", "drop extension pg_cron"]
)
def test_without_pg_cron_writers_prune(
    stack: LocalStack, owner: Connection, live: Reader, cron: None, gone: str
) -> None:
    """Also where it is there and this role may not use it, and where it has gone since."""
    with may_make_policies(stack):
        owner.execute(broadcast_sql("public", ["bc_owned"]))
        stack.sql(gone)
        owner.execute(broadcast_sql("public", ["bc_owned"]))
    assert one(owner, "select by_cron from notebook_rt.broadcast_state") is False
    owner.execute("insert into bc_owned values (0, 'a')")
    owner.execute("update notebook_rt.change_log set at = at - interval '2 days'")
    old = "select count(*) from notebook_rt.change_log where at < now() - interval '1 day'"
    for number in range(2000):
        owner.execute("insert into bc_owned values (%s, 'b')", (1 + number,))
        if not one(owner, old):
            break
    assert one(owner, old) == 0
