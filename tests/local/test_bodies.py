"""For any body of a request, the stack's answer is never a 5xx, and limited in size."""

from __future__ import annotations

import gzip
import json
import random
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.auth.attributes import MAX_BODY_BYTES as LOGIN_BYTES
from notebook_rt.local.auth.limits import Attempts
from notebook_rt.local.realtime.routes import MAX_BODY_BYTES as MESSAGE_BYTES
from tests.conftest import QUICK
from tests.waiting import scaled

NAMES = (
    "email", "password", "data", "phone", "refresh_token", "messages", "topic", "event", "payload",
    "private", "user_metadata", "app_metadata", "role", "id", "should_soft_delete", "v", "n", "doc",
    "a", "drop_changes", "disconnect",
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["\0", "\ud800", "a\0@b.c", "x@y.z", "9" * 400, "{1,2}", "-0", "NaN", "/", ""]),
)
NUMBERS = st.one_of(
    st.integers(),
    st.sampled_from([10**400, -(10**19), 2**63, 1e308, float("inf"), float("nan"), -0.0]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)
BODIES = st.one_of(
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5).map(
        lambda value: json.dumps(value).encode()
    ),
    VALUES.map(lambda value: json.dumps(value).encode("utf-16")),
    st.binary(max_size=20),
    st.sampled_from(
        [b"1e999999", b"1" * 5000, b'{"n":1e400}', b'{"v":"\\u0000"}', b"\xff", b"null"]
    ),
)
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-16", "application/octet-stream", "text/plain",
     "text/html", "application/vnd.pgrst.object+json", "multipart/form-data", "", "a", "/", ";"]
)  # fmt: skip
ROUTES = (
    "POST /rest/v1/odd", "PATCH /rest/v1/odd?id=eq.1", "PUT /rest/v1/odd?id=eq.1",
    "POST /rest/v1/odd?columns=id,n,v,doc", "POST /rest/v1/odd?on_conflict=id",
    "DELETE /rest/v1/odd?id=eq.1",
    "POST /rest/v1/rpc/odd_json", "POST /rest/v1/rpc/odd_text", "POST /rest/v1/rpc/odd_two",
    "POST /auth/v1/signup", "POST /auth/v1/token?grant_type=password",
    "POST /auth/v1/token?grant_type=refresh_token", "POST /auth/v1/logout", "PUT /auth/v1/user",
    "POST /auth/v1/admin/users", "PUT /auth/v1/admin/users/{user}",
    "DELETE /auth/v1/admin/users/00000000-0000-0000-0000-000000000000",
    "POST /auth/v1/recover",
    "POST /realtime/v1/api/broadcast", "POST /realtime/v1/api/broadcast/t/events/e",
    "POST /realtime/v1/local/faults",
)  # fmt: skip


@pytest.fixture(scope="module")
def odd(stack: LocalStack) -> Iterator[str]:
    """A user; beside it a table and functions that take what is sent."""
    stack.sql(
        "create table odd (id bigint primary key, n int, v text, doc jsonb, a int[]);"
        "create function odd_json(json) returns json language sql as 'select $1';"
        "create function odd_text(text) returns text language sql as 'select $1';"
        "create function odd_two(n int default 1, v text default '') returns text language sql as"
        " 'select v || n';"
        "grant select, insert, update, delete on odd to anon, authenticated, service_role;"
        "grant execute on function odd_json, odd_text, odd_two to service_role"
    )
    made = httpx.post(
        f"{stack.url}/auth/v1/admin/users",
        headers={"apikey": stack.service_key, "Authorization": f"Bearer {stack.service_key}"},
        json={"email": f"{uuid.uuid4()}@example.org", "password": "correct horse"},
    )
    yield made.json()["id"]
    stack.sql("drop table odd; drop function odd_json, odd_text, odd_two")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.timeout(120)
def test_no_body_is_the_servers_fault(stack: LocalStack, odd: str, route: str) -> None:
    method, path = route.format(user=odd).split(" ")
    signed_in = path == "/auth/v1/user"
    token = stack.token("authenticated", odd) if signed_in else stack.service_key
    headers = {"apikey": stack.service_key, "Authorization": f"Bearer {token}"}

    # A connection for each, which takes most of the time.
    @settings(max_examples=10)
    @given(BODIES, TYPES, st.sampled_from(["", "gzip", "deflate"]))
    @example(b'{"disconnect": 0, "drop_changes": []}', "application/json", "")
    @example(b"[]", "application/json", "")
    @example(b"{}", "application/json", "gzip")
    @example(b'{"n": 1e400, "id": 1}', "application/json", "")
    @example(
        b'[{"id": 7, "doc": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "application/json", ""
    )
    @example(b'{"role": "\\ud800", "email": "a@b.c"}', "application/json", "")
    def law(body: bytes, content_type: str, encoding: str) -> None:
        more = {"Content-Type": content_type, "Connection": "close"} | (
            {"Content-Encoding": encoding} if encoding else {}
        )
        answer = client.request(method, path, content=body, headers=more)
        beyond_us = answer.status_code == 501 and "not supported" in answer.text
        # PostgREST answers 500, too, where PostgreSQL finds a body too deep (54001, class "54").
        beyond_us |= answer.status_code == 500 and '"54001"' in answer.text
        assert answer.status_code < 500 or beyond_us, answer.text

    with httpx.Client(base_url=stack.url, headers=headers, timeout=scaled(30)) as client:
        law()


@pytest.mark.parametrize("encoding", ["deflate", "gzip", "br"])
def test_a_compressed_body_that_is_cut_short_is_answered_at_once(
    stack: LocalStack, encoding: str
) -> None:
    """`deflate` that begins well and never ends kept the request waiting for ever."""
    packed = zlib.compressobj(wbits=31 if encoding == "gzip" else -15)
    body = packed.compress(random.Random(1).randbytes(200_000)) + packed.flush(zlib.Z_SYNC_FLUSH)
    for path in ("/rest/v1/rpc/nothing", "/auth/v1/signup", "/realtime/v1/api/broadcast"):
        answer = httpx.post(
            stack.url + path,
            content=body,
            headers={"apikey": stack.anon_key, "Content-Encoding": encoding},
            timeout=scaled(10),
        )
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/auth/v1/signup", LOGIN_BYTES),
        ("/auth/v1/token?grant_type=password", LOGIN_BYTES),
        ("/realtime/v1/api/broadcast", MESSAGE_BYTES),
        ("/realtime/v1/api/broadcast/t/events/e", MESSAGE_BYTES),
    ],
)
def test_a_body_over_the_limit_is_413(
    stack: LocalStack, path: str, limit: int, zipped: bool
) -> None:
    for size, large in ((limit - 100, False), (limit + 100, True)):
        body = json.dumps({"email": "x" * size}).encode()
        headers = {"apikey": stack.anon_key, "Content-Type": "application/json"}
        if zipped:
            body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
        answer = httpx.post(stack.url + path, content=body, headers=headers, timeout=scaled(30))
        assert (answer.status_code == 413) is large, answer.text
        assert answer.status_code < 500


def test_a_password_may_be_tried_so_often_and_then_the_answer_says_when_again(
    stack_directory: Path,
) -> None:
    assert StackOptions().password_attempts == 30
    with start(stack_directory, options=replace(QUICK, password_attempts=3)) as stack:
        headers = {"apikey": stack.anon_key}
        answers = [
            httpx.post(
                f"{stack.url}/auth/v1/token?grant_type=password",
                headers=headers,
                json={"email": f"{number}@example.org", "password": "wrong guess"},
            )
            for number in range(4)
        ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 429]
    assert answers[-1].json() == {
        "code": 429,
        "error_code": "over_request_rate_limit",
        "msg": "Request rate limit reached",
    }
    assert 90 < int(answers[-1].headers["Retry-After"]) <= 100


@given(
    st.integers(1, 5),
    st.floats(1, 100),
    st.lists(st.floats(0, 50), min_size=1, max_size=40),
)
def test_attempts_never_exceed_the_bucket_and_the_wait_that_is_told_is_enough(
    limit: int, window: float, pauses: list[float]
) -> None:
    now = 0.0
    attempts = Attempts(limit, window, lambda: now)
    for admitted, pause in enumerate(pauses, 1):
        now += pause
        told = 0
        while wait := attempts.wait():
            now += wait * (1 + 1e-9)
            told += 1
            assert told < 4, "the wait that is told is enough, but for a rounding"
        assert admitted <= limit + now * limit / window + 1e-3
