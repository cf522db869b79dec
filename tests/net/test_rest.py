"""REST against the local stack: pages, counts, and each refusal as its own error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpcore
import httpx
import pytest

from notebook_rt.errors import (
    AuthError,
    ClosedError,
    FilterError,
    MissingColumnError,
    MissingTableError,
    NotebookRTError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    StatementTimeoutError,
    TokenExpiredError,
    UnreachableError,
)
from notebook_rt.local import LocalStack
from notebook_rt.model.classify import classify
from notebook_rt.model.http import Request
from notebook_rt.net.answers import read_answer, table_error
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.http import CancelledUnsentError, HttpClient, NoAnswerError
from notebook_rt.net.rest import RestClient
from notebook_rt.options import Options
from notebook_rt.outbox.rest import HttpRest
from notebook_rt.sync.events import Query
from tests.waiting import scaled


@pytest.fixture
async def rest(stack: LocalStack) -> AsyncIterator[RestClient]:
    client = RestClient(stack.url, Credentials(stack.anon_key), Options())
    yield client
    await client.aclose()


@pytest.fixture
def table(sql: Callable[..., Any]) -> str:
    name = f"rest_{time.monotonic_ns()}"
    sql(f"create table {name} (id bigint primary key, name text)")
    sql(f"insert into {name} select g, 'n' || g from generate_series(1, 1500) g")
    sql(f"grant select on {name} to anon, service_role")
    return name


async def test_a_page_comes_with_its_count_and_the_servers_time(
    rest: RestClient, table: str
) -> None:
    page = await rest.fetch(
        "public", table, Query((("select", "*"), ("order", "id"), ("limit", "2")), count="exact")
    )
    assert page.rows == [{"id": 1, "name": "n1"}, {"id": 2, "name": "n2"}]
    assert page.count == 1500
    assert abs(page.server_time - time.time()) < 5


async def test_only_the_count(rest: RestClient, table: str) -> None:
    page = await rest.fetch("public", table, Query((("id", "gt.1000"),), count="exact", head=True))
    assert (list(page.rows), page.count) == ([], 500)


async def test_the_description_is_read_once_for_who_asks_at_once(
    stack: LocalStack, table: str, undescribed: None
) -> None:
    client = RestClient(stack.url, Credentials(stack.service_key), Options())
    query = Query((), describe=(table,))
    pages = await asyncio.gather(*(client.fetch("public", table, query) for _ in range(5)))
    assert table in pages[0].value["definitions"]
    assert client.http.requests == 6  # each asks the optional SQL first
    await client.aclose()


async def test_a_closed_description_is_asked_for_once_and_renews_no_token(
    stack: LocalStack, table: str, undescribed: None
) -> None:
    renewed: list[str | None] = []

    async def renew(token: str | None) -> bool:
        renewed.append(token)
        return True

    credentials = Credentials(stack.publishable_key, stack.token())
    client = RestClient(stack.url, credentials, Options(), refresh=renew)
    for _ in range(3):
        page = await client.fetch("public", table, Query((), describe=(table,)))
        assert page.value is None
    assert client.http.requests == 4  # the SQL three times: it may be there the next time
    assert renewed == []
    await client.aclose()


async def test_the_optional_sql_counts_more_than_the_description(
    rest: RestClient, table: str
) -> None:
    page = await rest.fetch("public", table, Query((), describe=(table,)))
    assert page.value["tables"][table]["key"] == ["id"]
    assert rest.http.requests == 2, "both are asked at once, for they take a round trip each"


async def test_what_answers_a_put_in_other_words_proves_nothing(
    stack: LocalStack, table: str
) -> None:
    client = RestClient(stack.url, Credentials(stack.anon_key), Options())
    assert await client.proves_key("public", "no_such_table", ["id"]) is None
    assert await client.proves_key("public", table, ["id"]) is True
    await client.aclose()


async def test_closed_while_the_description_is_read_nothing_is_left_behind() -> None:
    left: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    asked, goes = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        asked.set()
        await goes.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = RestClient(url, Credentials("key"), Options())
        reading = asyncio.ensure_future(client.describe("public", ["t"]))
        await asked.wait()
        reading.cancel()
        await asyncio.wait([reading])
        del reading
        await client.aclose()
        goes.set()
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=scaled(5))
    gc.collect()
    assert left == []


@pytest.mark.parametrize(
    ("table_name", "params", "expected"),
    [
        ("no_such_table", (), MissingTableError),
        ("../auth/v1/user", (), MissingTableError),
        ("{}", (("select", "nope"),), MissingColumnError),
        ("{}", (("id", "eq.x"),), FilterError),
        ("{}", (("id", "frob.1"),), FilterError),
    ],
)
async def test_each_refusal_has_its_name(
    rest: RestClient,
    table: str,
    table_name: str,
    params: tuple[tuple[str, str], ...],
    expected: type[NotebookRTError],
) -> None:
    with pytest.raises(expected) as caught:
        await rest.fetch("public", table_name.format(table), Query(params))
    assert classify(caught.value).kind == "refused"


async def test_no_grant_says_the_sql_that_fixes_it(
    rest: RestClient, sql: Callable[..., Any]
) -> None:
    name = f'no "grant" {time.monotonic_ns()}'
    quoted = '"' + name.replace('"', '""') + '"'
    sql(f"create table {quoted} (id bigint primary key)")
    sql(f"revoke all on {quoted} from anon")
    with pytest.raises(PermissionDeniedError) as caught:
        await rest.fetch("public", name, Query(()))
    assert f"grant select on public.{quoted} to anon" in str(caught.value)
    sql(f"drop table {quoted}")


async def test_a_wrong_key_and_an_expired_token(stack: LocalStack, table: str) -> None:
    expired = stack.token("authenticated", "00000000-0000-0000-0000-000000000001", -60)
    for credentials, expected in (
        (Credentials("wrong.key.here"), AuthError),
        (Credentials(stack.anon_key, expired), TokenExpiredError),
    ):
        client = RestClient(stack.url, credentials, Options())
        with pytest.raises(expected) as caught:
            await client.fetch("public", table, Query(()))
        assert "wrong.key" not in str(caught.value)
        assert expired not in str(caught.value)
        await client.aclose()


async def test_a_refused_token_is_refreshed_once_and_the_request_repeated(
    stack: LocalStack, table: str
) -> None:
    credentials = Credentials(stack.anon_key, stack.token("anon", "x", -60))
    asked = 0

    async def refresh(refused: str | None) -> bool:
        nonlocal asked
        asked += 1
        credentials.access_token = stack.anon_key
        return True

    client = RestClient(stack.url, credentials, Options(), refresh)
    page = await client.fetch("public", table, Query((("limit", "1"),)))
    assert len(page.rows) == 1
    assert asked == 1
    await client.aclose()


async def test_nobody_there_is_unreachable(table: str) -> None:
    client = RestClient("http://127.0.0.1:9", Credentials("k"), Options())
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        await client.fetch("public", table, Query(()))
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "expected", "wait"),
    [
        (httpx.Response(429, headers={"Retry-After": "7"}), RateLimitedError, 7),
        (httpx.Response(429), RateLimitedError, 60),
        (httpx.Response(503, headers={"Retry-After": "9"}), ServerError, 9),
        (httpx.Response(500, json={"message": "boom"}), ServerError, 5),
        (httpx.Response(409, json={"code": "23505", "message": "dup"}), RefusedError, None),
        (httpx.Response(404, text="<html>not here</html>"), UnreachableError, 1),
        (httpx.Response(302, headers={"Location": "/login"}), UnreachableError, 1),
        (httpx.Response(200, text="<html>Log in to the wifi</html>"), UnreachableError, 1),
        (httpx.Response(401, json={"message": "Invalid API key"}), AuthError, None),
        (
            httpx.Response(
                429,
                headers={
                    "Retry-After": "Mon, 23 Nov 2026 10:00:30 GMT",
                    "Date": "Mon, 23 Nov 2026 10:00:00 GMT",
                },
            ),
            RateLimitedError,
            30,
        ),
    ],
)
async def test_answers_of_gateways_and_strangers(
    answer: httpx.Response, expected: type[NotebookRTError], wait: float | None
) -> None:
    """What the local stack never says, said by httpx' own test transport."""
    client = RestClient("http://project.test", Credentials("k"), Options())
    await client.aclose()
    client.http._client = httpx.AsyncClient(
        base_url=client.url, transport=httpx.MockTransport(lambda request: answer)
    )
    with pytest.raises(expected) as caught:
        await client.fetch("public", "t", Query(()))
    assert classify(caught.value).wait == wait
    await client.aclose()


def test_credentials_never_show_themselves() -> None:
    credentials = Credentials("sb_secret_abc", "head.e30.sig")
    assert "abc" not in repr(credentials)
    assert "e30" not in repr(credentials)


def test_a_publishable_key_is_no_bearer_token() -> None:
    assert Credentials("sb_publishable_x").headers() == {"apikey": "sb_publishable_x"}
    assert "Authorization" in Credentials("sb_publishable_x", "a.b.c").headers()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that comes byte by byte and never ends."""
    await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_an_answer_that_drips_is_no_answer() -> None:
    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = RestClient(url, Credentials("k"), Options(request_timeout=0.1))
    with pytest.raises(UnreachableError, match="no answer in time"):
        await client.fetch("public", "t", Query(()))
    await client.aclose()
    # The queue's: another kernel may send what this one has waited for longer than its lease.
    queue = HttpRest(HttpClient(url, Credentials("k"), seconds=0.2))
    with pytest.raises(NoAnswerError, match="no answer in time") as caught:
        await queue.send(Request("GET", "/rest/v1/t"))
    assert caught.value.sent
    await queue.aclose()
    server.close()


async def test_of_many_requests_at_once_each_is_given_a_connection_once(
    rest: RestClient, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx would give all of them the same idle one, and look through all for each that comes too late."""
    page = Query((("limit", "1"),))

    async def ask() -> None:
        await asyncio.gather(*(rest.fetch("public", table, page) for _ in range(8)))

    await ask()  # now there are connections
    looked = []
    assign = httpcore.AsyncConnectionPool._assign_requests_to_connections

    def counted(pool: httpcore.AsyncConnectionPool) -> Any:
        looked.append(pool)
        return assign(pool)

    monkeypatch.setattr(httpcore.AsyncConnectionPool, "_assign_requests_to_connections", counted)
    await ask()
    assert len(looked) == 16  # as each begins, and as it ends


async def test_after_the_end_a_request_is_refused_by_name() -> None:
    client = RestClient("http://127.0.0.1:9", Credentials("k"), Options())
    await client.aclose()
    with pytest.raises(ClosedError):
        await client.fetch("public", "t", Query(()))


def test_a_count_that_takes_too_long_is_told_from_a_broken_server() -> None:
    """A HEAD has no body: PostgREST says why in a header."""
    request = Request("HEAD", "/rest/v1/t")
    said = {"proxy-status": "PostgREST; error=57014"}
    late, broken = (
        table_error(request, read_answer(500, headers, b"", 0.0), "http://x", "t", "anon")
        for headers in (said, {})
    )
    assert isinstance(late, StatementTimeoutError)
    assert isinstance(broken, ServerError)
    assert not isinstance(broken, StatementTimeoutError)


async def _refuse_the_tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def _say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    await reader.read()
    writer.close()


async def _insert_through(url: str, proxy: str | None = None, seconds: float = 5.0) -> bool:
    """Whether a write to there that gets no answer may have left."""
    client = HttpClient(url, Credentials("k"), seconds=seconds)
    if proxy is not None:
        client._client = httpx.AsyncClient(base_url=url, proxy=proxy)
    try:
        with pytest.raises(NoAnswerError) as caught:
            await client.send(Request("POST", "/rest/v1/t", (), {"id": 1}))
    finally:
        await client.aclose()
    return caught.value.sent


@contextlib.asynccontextmanager
async def _serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server on loopback; its address without the scheme."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_what_failed_before_the_request_began_was_certainly_not_sent() -> None:
    assert not await _insert_through("http://127.0.0.1:9"), "refused"
    assert not await _insert_through("http://nobody.invalid"), "no such name"
    async with _serving(_hang_up) as there:
        assert not await _insert_through(f"https://{there}"), "TLS: the other side hung up"
    async with _serving(_say_nothing) as there:
        assert not await _insert_through(f"https://{there}", seconds=0.2), "TLS: no answer in time"
    async with _serving(_refuse_the_tunnel) as there:
        assert not await _insert_through("https://x.invalid", f"http://{there}"), "a proxy's no"
    async with _serving(_hang_up) as there:
        assert not await _insert_through("https://x.invalid", f"http://{there}"), (
            "a proxy that dies"
        )


async def test_a_wait_for_a_free_connection_is_no_request() -> None:
    accepted = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        await _say_nothing(reader, writer)

    async with _serving(accept) as there:
        limits = httpx.Limits(max_connections=1)
        pool = httpx.AsyncClient(base_url=f"http://{there}", limits=limits, timeout=scaled(10))
        clients = [HttpClient(f"http://{there}", Credentials("k"), seconds=s) for s in (10, 0.05)]
        for client in clients:
            await client.aclose()
            client._client = pool
        first = asyncio.ensure_future(clients[0].send(Request("POST", "/rest/v1/t", (), {})))
        await accepted.wait()
        with pytest.raises(NoAnswerError) as second:
            await clients[1].send(Request("POST", "/rest/v1/t", (), {}))
        assert not second.value.sent
        first.cancel()
        with pytest.raises(asyncio.CancelledError) as ended:
            await first
        assert not isinstance(ended.value, CancelledUnsentError)
        await pool.aclose()


async def test_what_failed_after_the_request_began_may_have_arrived() -> None:
    async with _serving(_hang_up) as there:
        assert await _insert_through(f"http://{there}")
    async with _serving(_say_nothing) as there:
        assert await _insert_through(f"http://{there}", seconds=0.2)
        assert await _insert_through("http://x.invalid", f"http://{there}", seconds=0.2), (
            "a proxy hands it on as it is"
        )


async def test_a_request_that_is_cancelled_while_it_connects_says_so() -> None:
    heard = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # of TLS or of HTTP
        heard.set()
        await reader.read()
        writer.close()

    async with _serving(hear) as there:
        for scheme, unsent in (("https", True), ("http", False)):
            heard.clear()
            client = HttpClient(f"{scheme}://{there}", Credentials("k"), seconds=5)
            task = asyncio.ensure_future(client.send(Request("POST", "/rest/v1/t", (), {})))
            await heard.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert isinstance(caught.value, CancelledUnsentError) == unsent
            await client.aclose()
