"""By default the stack behaves like a hosted project on the free plan; each difference is an option."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import websockets
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from tests.waiting import scaled, until

MakeTable = Callable[..., str]


def as_json(answer: httpx.Response) -> dict[str, Any]:
    found = answer.json()
    assert isinstance(found, dict)
    return found


# Tokens --------------------------------------------------------------------------------------------


def test_a_users_token_is_verified_by_the_published_key(stack: LocalStack) -> None:
    credentials = {"email": f"u{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    headers = {"apikey": stack.publishable_key}
    session = as_json(httpx.post(f"{stack.url}/auth/v1/signup", json=credentials, headers=headers))
    for token in (session["access_token"], stack.token()):
        found = jwt.PyJWKClient(f"{stack.url}/auth/v1/.well-known/jwks.json")
        key = found.get_signing_key_from_jwt(token)
        assert jwt.get_unverified_header(token)["alg"] == "ES256"
        claims = jwt.decode(token, key.key, algorithms=["ES256"], audience="authenticated")
        assert claims["role"] == "authenticated"


def test_the_published_key_is_no_shared_secret(stack: LocalStack) -> None:
    """Who signs HS256 with the public key as the secret is nobody."""
    keys = as_json(httpx.get(f"{stack.url}/auth/v1/.well-known/jwks.json"))["keys"]
    assert "d" not in keys[0], "the private half"
    pem = jwt.PyJWK(keys[0]).key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = {"alg": "HS256"}, {"role": "service_role", "exp": int(time.time()) + 60}
    text = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    for secret in (pem, json.dumps(keys[0]).encode()):  # by hand: PyJWT refuses to sign with them
        signature = base64.urlsafe_b64encode(hmac.digest(secret, text.replace(b"=", b""), "sha256"))
        forged = b".".join((text, signature)).replace(b"=", b"").decode()
        headers = {"apikey": stack.anon_key, "Authorization": f"Bearer {forged}"}
        assert httpx.get(f"{stack.url}/rest/v1/x", headers=headers).status_code == 401


def test_tokens_of_the_older_kind_are_an_option(stack_directory: Path) -> None:
    with start(stack_directory, options=StackOptions(jwt_algorithm="HS256")) as stack:
        assert jwt.get_unverified_header(stack.token())["alg"] == "HS256"
        assert as_json(httpx.get(f"{stack.url}/auth/v1/.well-known/jwks.json")) == {"keys": []}
        headers = {"apikey": stack.anon_key, "Authorization": f"Bearer {stack.token()}"}
        assert httpx.get(f"{stack.url}/rest/v1/x", headers=headers).status_code == 404


def test_a_secret_key_is_refused_where_a_browser_sends_it(stack: LocalStack) -> None:
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
    for key, status in ((stack.secret_key, 401), (stack.publishable_key, 404)):
        answer = httpx.get(f"{stack.url}/rest/v1/x", headers={"apikey": key, **browser})
        assert answer.status_code == status
    assert (
        httpx.get(f"{stack.url}/rest/v1/x", headers={"apikey": stack.secret_key}).status_code == 404
    )


# REST ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(
    ready_made: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStack]:
    """The day of a connection, and the patience for a statement, are short."""
    realtime = RealtimeOptions(login_timeout=1.0, events_per_second=None)
    options = StackOptions(anon_timeout=0.2, authenticated_timeout=0.4, realtime=realtime)
    with start(ready_made(tmp_path_factory.mktemp("hasty")), options=options) as running:
        running.sql(
            "create function slow(seconds float8) returns int language sql as "
            "$$ select 1 from pg_sleep(seconds) $$"
        )
        running.sql("grant execute on function slow to anon, authenticated, service_role")
        yield running


@pytest.mark.parametrize(
    ("role", "limit"), [("anon", 0.2), ("authenticated", 0.4), ("service_role", 0.4)]
)
def test_a_statement_ends_at_the_roles_timeout(hasty: LocalStack, role: str, limit: float) -> None:
    headers = {"apikey": hasty.anon_key, "Authorization": f"Bearer {hasty.token(role)}"}
    url = f"{hasty.url}/rest/v1/rpc/slow"
    answer = httpx.post(url, json={"seconds": 5 * limit}, headers=headers)
    assert (answer.status_code, as_json(answer)["code"]) == (500, "57014")
    assert as_json(answer)["message"] == "canceling statement due to statement timeout"
    assert httpx.post(url, json={"seconds": limit / 10}, headers=headers).status_code == 200


def test_the_timeouts_are_a_hosted_projects() -> None:
    options = StackOptions()
    assert (options.anon_timeout, options.authenticated_timeout, options.row_limit) == (
        3.0,
        8.0,
        1000,
    )
    assert options.realtime.events_per_second == 100
    assert options.realtime.presence_per_second == 20
    assert options.realtime.login_timeout == 24 * 3600


def test_a_url_over_8_kb_is_refused(stack: LocalStack, make_table: MakeTable) -> None:
    table, headers = make_table(), {"apikey": stack.anon_key}
    for length, good in ((7_000, True), (9_000, False)):
        answer = httpx.get(f"{stack.url}/rest/v1/{table}?name=eq.{'x' * length}", headers=headers)
        assert (answer.status_code == 200) is good
        assert answer.status_code < 500


@pytest.mark.parametrize(
    ("options", "granted"), [(StackOptions(), False), (StackOptions(default_grants=True), True)]
)
def test_what_is_made_needs_a_grant_unless_told_otherwise(
    stack_directory: Path, options: StackOptions, granted: bool
) -> None:
    for _ in range(2):  # a second start on the same data says it again
        with start(stack_directory, options=options) as stack:
            stack.sql("drop table if exists bare; create table bare (id serial primary key)")
            stack.sql("create or replace function one() returns int language sql as 'select 1'")
            for key, role in ((stack.anon_key, "anon"), (stack.service_key, "service_role")):
                headers = {"apikey": key}
                table = httpx.get(f"{stack.url}/rest/v1/bare", headers=headers)
                call = httpx.post(f"{stack.url}/rest/v1/rpc/one", headers=headers)
                if granted:
                    assert (table.status_code, call.status_code) == (200, 200)
                else:
                    assert as_json(table)["code"] == as_json(call)["code"] == "42501"
                    assert table.status_code == (401 if role == "anon" else 403)


def test_the_functions_of_an_extension_are_everybodys_unless_it_says_otherwise(
    stack_directory: Path,
) -> None:
    with start(stack_directory) as stack:
        stack.sql("create extension citext; create extension dblink")
        stack.sql("create table names (id int primary key, v citext)")
        stack.sql("create function mine() returns int language sql as 'select 1'")
        stack.sql("grant select on names to anon; insert into names values (1, 'Ann')")
        headers = {"apikey": stack.anon_key}
        answer = httpx.get(f"{stack.url}/rest/v1/names?v=eq.ann&select=id", headers=headers)
        assert answer.json() == [{"id": 1}]
        for function in ("mine()", "dblink_connect_u(text)"):
            allowed = "select has_function_privilege('anon', %s, 'execute')"
            assert stack.sql(allowed, function) == [(False,)]


# Realtime ------------------------------------------------------------------------------------------


async def frames(stack: LocalStack, token: str, config: dict[str, Any]) -> list[Any]:
    """What a client hears until the server closes the socket, or for 2 s after the last frame."""
    url = (
        f"{stack.url.replace('http', 'ws')}/realtime/v1/websocket?apikey={stack.anon_key}&vsn=1.0.0"
    )
    heard = []
    async with websockets.connect(url) as socket:
        join = {"config": config, "access_token": token}
        text = {"topic": "realtime:x", "event": "phx_join", "payload": join, "ref": "1"}
        await socket.send(json.dumps(text))
        try:
            while True:
                async with asyncio.timeout(scaled(2)):
                    heard.append(json.loads(await socket.recv()))
        except TimeoutError:
            return heard
        except websockets.ConnectionClosed as closed:
            return [*heard, closed.rcvd and closed.rcvd.code]


async def test_a_connection_without_a_login_is_cut_after_its_day(hasty: LocalStack) -> None:
    alone, signed_in = await asyncio.gather(
        frames(hasty, hasty.anon_key, {}), frames(hasty, hasty.token(), {})
    )
    assert alone[-1] == 1000
    assert signed_in[-1]["event"] == "phx_reply", "still open"


async def test_changes_are_confirmed_a_second_time(
    stack: LocalStack, make_table: MakeTable
) -> None:
    binding = {"event": "*", "schema": "public", "table": make_table()}
    heard = await frames(stack, stack.anon_key, {"postgres_changes": [binding]})
    said = [frame["payload"].get("message") for frame in heard if frame["event"] == "system"]
    assert said == ["Subscribed to PostgreSQL"] * 2


def test_a_table_that_is_cut_after_a_day_is_live_again_without_alarm(hasty: LocalStack) -> None:
    hasty.sql("create table days (id int primary key)")
    hasty.sql("grant select, insert, update, delete on days to anon, authenticated, service_role")
    hasty.sql("alter publication supabase_realtime add table days")
    options = nrt.Options(backoff_base=0.05, poll_interval=0.3, audit_interval=0)
    with nrt.connect(hasty.url, hasty.anon_key, options=options) as rt:
        notes: list[tuple[str, str]] = []
        rt.on_note(lambda *note: notes.append(note))
        room = rt.channel("room").wait(scaled(10))
        room.presence.track(name="me")
        frame = rt.table("days").wait(scaled(10))
        until(lambda: rt.metrics["disconnects"] >= 2, what=lambda: rt.metrics.as_dict())
        hasty.sql("insert into days values (1)")
        until(lambda: list(frame.df.index) == [1])
        until(lambda: list(room.presence.df["name"]) == ["me"], what=lambda: room.presence.df)
        assert rt.metrics["gaps"] >= 2
        assert "failed" not in {kind for kind, _ in notes}


def test_a_server_that_polls_is_late_by_up_to_its_interval(stack_directory: Path) -> None:
    options = StackOptions(realtime=RealtimeOptions(poll_interval=0.5))
    with start(stack_directory, options=options) as stack:
        stack.sql("create table late (id int primary key)")
        stack.sql("grant select on late to anon")
        stack.sql("alter publication supabase_realtime add table late")
        with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=0)) as rt:
            frame = rt.table("late").wait(scaled(10))
            until(lambda: frame.status == "live")
            late = []
            for number in range(6):
                stack.sql("insert into late values (%s)", number)
                late.append(until(lambda seen=number: seen in frame.df.index))
    assert max(late) > 0.1, "not at once"
    assert sorted(late)[3] < scaled(1.0), "but with one of the next polls"
