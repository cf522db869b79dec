"""HTTP answers of foreign or hostile servers: no row is taken from them, and their size is limited.

Each answer is sent by a real server on loopback, byte by byte as it stands here.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from notebook_rt.edits.decide import judge
from notebook_rt.errors import AnswerTooLargeError, NotebookRTError, UnreachableError
from notebook_rt.model.classify import classify
from notebook_rt.model.http import Request
from notebook_rt.net import ways
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.http import HttpClient, NoAnswerError
from notebook_rt.net.rest import RestClient
from notebook_rt.options import Options
from notebook_rt.outbox.rest import HttpRest
from notebook_rt.sync.events import Query
from tests.net.test_login import login

ROWS = b'[{"id":1},{"id":2}]'


def answer(
    body: bytes, content_range: str | None = None, status: str = "200 OK", **headers: str
) -> bytes:
    """An answer as it goes over the wire."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    if content_range is not None:
        lines.append(f"Content-Range: {content_range}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def server(
    said: bytes | Callable[[asyncio.StreamWriter], Any] | dict[bytes, bytes],
) -> AsyncIterator[str]:
    """A server that says the same to everybody, or by what is in the request's head; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if isinstance(said, dict):
                writer.write(next(what for word, what in said.items() if word in head))
                await writer.drain()
            elif callable(said):
                await said(writer)
            else:
                writer.write(said)
                await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[RestClient]:
    one = RestClient(url, Credentials("k"), Options(**options))
    try:
        yield one
    finally:
        await one.aclose()


STRANGERS = [
    answer(b'{"message": "please log in"}'),
    answer(b'{"message": "please log in"}', "0-0/*"),
    answer(b"{}"),
    answer(b"null"),
    answer(b"null", "0-0/*"),
    answer(b""),
    answer(b"", "*/*"),
    answer(b"[]"),
    answer(b"true"),
    answer(b"[1, 2]", "0-1/*"),
    answer(b"<html>Log in to the wifi</html>"),
    answer(ROWS, "0-19/20"),
    answer(b"[]", "0-19/20"),
    answer(b"", status="204 No Content"),
    answer(ROWS[:-3], "0-1/2"),
    answer(ROWS, "0-1/2")[:-4],
    answer(gzip.compress(ROWS, mtime=0)[:-6], "0-1/2", Content_Encoding="gzip"),
]


@pytest.mark.parametrize("said", STRANGERS)
@pytest.mark.parametrize("count", [False, True])
async def test_what_is_no_list_of_rows_is_an_error_and_never_an_empty_table(
    said: bytes, count: bool
) -> None:
    async with server(said) as url, client(url) as rest:
        with pytest.raises(UnreachableError) as caught:
            await rest.fetch("public", "t", Query((), count=count))
    assert classify(caught.value).kind == "network"


async def test_rows_with_and_without_compression_are_read() -> None:
    for said in (
        answer(ROWS, "0-1/2"),
        answer(gzip.compress(ROWS), "0-1/2", Content_Encoding="gzip"),
    ):
        async with server(said) as url, client(url) as rest:
            page = await rest.fetch("public", "t", Query((), count=True))
            assert (list(page.rows), page.count) == (json.loads(ROWS), 2)
            assert rest.http.bytes_received == len(said.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("said", [answer(b"", None), answer(b"", "*/*"), answer(b"", "0-1/x")])
async def test_a_count_that_was_not_said_is_not_zero(said: bytes) -> None:
    async with server(said) as url, client(url) as rest:
        with pytest.raises(UnreachableError, match="does not count the rows"):
            await rest.fetch("public", "t", Query((), count=True, head=True))


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b'{"message": "please log in"}', b"[]"])
async def test_a_functions_answer_comes_from_the_rest_interface(body: bytes) -> None:
    async with server(answer(body)) as url, client(url) as rest:
        with pytest.raises(UnreachableError, match="login page"):
            await rest.fetch("public", "nrt_digest", Query((), rpc="nrt_digest", args={}))


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"[]", b'{"definitions": []}'])
async def test_a_description_describes_tables(body: bytes) -> None:
    async with server(answer(body)) as url, client(url) as rest:
        with pytest.raises(UnreachableError, match=r"does not (describe|answer)|not speak JSON"):
            await rest.fetch("public", "t", Query((), describe=("t",)))


REQUESTS = [
    Request("GET", "/rest/v1/t"),
    Request("PATCH", "/rest/v1/t", (), {"a": 1}, "return=representation"),
    Request("POST", "/rest/v1/t", (), {"a": 1}, "return=minimal"),
    Request("POST", "/rest/v1/rpc/nrt_apply", (), {}),
    Request("POST", "/realtime/v1/api/broadcast", (), {"messages": []}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one.method} {one.path}")
@pytest.mark.parametrize("body", [b'{"message": "please log in"}', b"<html>Log in</html>", b"{}"])
async def test_a_login_page_makes_no_write_done(request_: Request, body: bytes) -> None:
    async with server(answer(body)) as url:
        queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10))
        with pytest.raises(NoAnswerError, match="login page") as caught:
            await queue.send(request_)
        assert caught.value.sent
        await queue.aclose()


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: f"{one.method} {one.path}")
@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "404 Not Found"])
async def test_a_portal_or_another_site_refuses_no_write(request_: Request, status: str) -> None:
    said = answer(b"<html>Log in</html>", status=status, Location="http://portal.example/login")
    async with server(said) as url:
        queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10))
        with pytest.raises(NoAnswerError, match="no Supabase project"):
            await queue.send(request_)
        await queue.aclose()


PAGE = b"<html><script>alert(1)</script>\x1b[2J Denied by policy, grant yourself</html>"


@pytest.mark.parametrize("root", ["200 OK", "401 Unauthorized"])
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "451 No"])
async def test_what_a_firewall_refuses_of_a_project_that_answers_is_set_aside(
    status: str, root: str
) -> None:
    by = {"Content_Type": "text/html; charset=utf-8", "Server": "cloudflare"}
    said = {b"HEAD ": answer(b"", status=root), b"": answer(PAGE, status=status, **by)}
    async with server(said) as url:
        queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10))
        ruling = judge(await queue.send(REQUESTS[1]), 0, now=0.0)
        await queue.aclose()
    assert ruling.meaning == "refused"
    assert 'a web page by "cloudflare"' in ruling.message
    assert "firewall" in ruling.message
    assert "Denied" not in ruling.message


PAGES = ["401 Unauthorized", "403 Forbidden", "404 Not Found", "407 No", "451 No", "511 No"]


@pytest.mark.parametrize("status", PAGES)
@pytest.mark.parametrize("head", [False, True])
async def test_a_page_of_a_proxy_says_who_answers_and_that_it_is_the_network(
    status: str, head: bool
) -> None:
    by = {"Content_Type": "text/html; charset=utf-8", "Server": "squid/5.7 \x1b[2J"}
    said = answer(b"" if head else PAGE, status=status, **by)
    async with server(said) as url, client(url) as rest:
        with pytest.raises(UnreachableError) as caught:
            await rest.fetch("public", "t", Query((), count=head, head=head))
        text = str(caught.value)
        assert url in text
        assert f"{status[:3]} to {'HEAD' if head else 'GET'} /rest/v1/t with a web page" in text
        assert '"squid/5.7 ' in text
        assert "proxy" in text
        assert ("grants and policies were not asked" in text) == (status[:3] != "404")
        assert not {"\x1b", "<", "Denied", "alert"} & set(re.findall(r"\w+|\W", text))
        assert classify(caught.value).kind == "network"
        assert caught.value.status == int(status[:3])
        if not head:
            queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10))
            with pytest.raises(NoAnswerError, match="squid"):
                await queue.send(REQUESTS[1])
            await queue.aclose()
            with pytest.raises(UnreachableError, match="squid"):
                await login(Credentials("k"), url).sign_in(BY_PASSWORD)


@pytest.mark.parametrize("status", ["413 Too Large", "429 No", "502 Bad Gateway", "400 No"])
async def test_what_a_gateway_says_in_a_page_keeps_its_meaning_and_names_it(status: str) -> None:
    async with server(answer(PAGE, status=status, Server="cloudflare")) as url, client(url) as rest:
        with pytest.raises(NotebookRTError) as caught:
            await rest.fetch("public", "t", Query(()))
    assert not isinstance(caught.value, UnreachableError)
    assert 'a web page by "cloudflare"' in str(caught.value)
    assert "alert" not in str(caught.value)


async def test_a_gateway_that_closes_the_description_with_a_page_closes_it_only() -> None:
    async with server(answer(PAGE, status="403 Forbidden")) as url, client(url) as rest:
        assert (await rest._describe("public")).value is None


# Bounds

MIB = 1024 * 1024
BOMB = gzip.compress(b"[" + b" " * (64 * MIB) + b"]", compresslevel=1)


def endless(head: bytes, piece: bytes) -> Callable[[asyncio.StreamWriter], Any]:
    async def say(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return say


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Range: 0-0/*\r\n\r\n"
BY_PASSWORD = ways.sign_in("a@b.c", "x")

TOO_LARGE: list[Any] = [
    answer(BOMB, "*/*", Content_Encoding="gzip"),
    answer(b"[" + b" " * (2 * MIB) + b"]", "*/*"),
    endless(CHUNKED, b"10000\r\n" + b" " * 0x10000 + b"\r\n"),
]


@pytest.mark.parametrize("said", TOO_LARGE, ids=["bomb", "long", "endless"])
async def test_an_answer_has_a_size_and_says_which_table_and_option(said: Any) -> None:
    async with server(said) as url, client(url, max_answer_bytes=MIB) as rest:
        with pytest.raises(AnswerTooLargeError, match=r"/rest/v1/t.*max_answer_bytes") as caught:
            await rest.fetch("public", "t", Query(()))
        assert classify(caught.value).wait is None, "asked again it would be as large"
        assert rest.http.bytes_received <= 2 * MIB
    async with server(said) as url:
        queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10, max_answer_bytes=MIB))
        with pytest.raises(NoAnswerError, match="max_answer_bytes"):
            await queue.send(REQUESTS[1])
        await queue.aclose()
    async with server(said) as url:
        one = login(Credentials("k"), url, max_answer_bytes=MIB)
        with pytest.raises(NotebookRTError, match="max_answer_bytes"):
            await one.sign_in(BY_PASSWORD)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "zstd", "gzip,gzip,gzip"])
async def test_only_the_encoding_that_was_asked_for_is_decoded(encoding: str) -> None:
    body = gzip.compress(gzip.compress(ROWS))
    async with (
        server(answer(body, "0-1/2", Content_Encoding=encoding)) as url,
        client(url) as rest,
    ):
        with pytest.raises(UnreachableError, match="not as gzip"):
            await rest.fetch("public", "t", Query(()))


DRIPS = [
    (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\nContent-Range: 0-0/*\r\n\r\n", b" "),
]


@pytest.mark.parametrize(("head", "drop"), DRIPS, ids=["header", "body"])
async def test_an_answer_that_comes_drop_by_drop_is_given_up(head: bytes, drop: bytes) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with server(drip) as url, client(url, request_timeout=0.1) as rest:
        with pytest.raises(UnreachableError, match="no answer in time"):
            await rest.fetch("public", "t", Query(()))
        one = login(Credentials("k"), url, request_timeout=0.1)
        with pytest.raises(UnreachableError, match="no answer in time"):
            await one.sign_in(BY_PASSWORD)


@pytest.mark.parametrize("after", ["31536000000", "inf", "Fri, 01 Jan 3026 00:00:00 GMT"])
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_nobody_stops_a_table_or_the_queue_for_a_thousand_years(
    after: str, status: str
) -> None:
    said = answer(b"{}", status=status, Retry_After=after)
    async with server(said) as url, client(url) as rest:
        with pytest.raises(NotebookRTError) as caught:
            await rest.fetch("public", "t", Query(()))
        wait = classify(caught.value).wait
        assert wait is not None
        assert wait <= 3600
        queue = HttpRest(HttpClient(url, Credentials("k"), seconds=10))
        assert (await queue.send(REQUESTS[1])).retry_after == wait
        await queue.aclose()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"1", b'{"message": "log in"}'])
async def test_signing_in_at_a_login_page_names_it(body: bytes) -> None:
    async with server(answer(body)) as url:
        with pytest.raises(NotebookRTError, match=r"login page|no session"):
            await login(Credentials("k"), url).sign_in(BY_PASSWORD)
