"""The HTTP client of one project: a ``Request`` in, an ``Answer`` or a named error out.

Tables, the queue and signing in all go through here. HTTP/1.1 with connections kept alive; no redirect
is followed; no proxy reads what stays on this machine; an answer has bounds in bytes and in time. A
refused token is refreshed once and the request repeated.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from notebook_rt.errors import AnswerTooLargeError, ClosedError, UnreachableError
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.address import proxies
from notebook_rt.net.answers import http_date, read_answer
from notebook_rt.net.credentials import Credentials
from notebook_rt.options import MAX_ANSWER_BYTES
from notebook_rt.sync.clock import ServerClock
from notebook_rt.sync.usage import Purpose, Usage

_CHUNK: Final = 1024 * 1024
"""Bytes decompressed at a time."""


class NoAnswerError(UnreachableError):
    """The request got no answer. ``sent``: it may have reached the server and had its effect."""

    def __init__(self, url: str, reason: str, *, sent: bool) -> None:
        super().__init__(url, reason)
        self.sent = sent


class CancelledUnsentError(asyncio.CancelledError):
    """A request was cancelled before any of it left for the server."""


def new_client(url: str, timeout: httpx.Timeout, max_answer_bytes: int) -> httpx.AsyncClient:
    """A client of ``url`` whose answers have bounds."""

    async def bound(response: httpx.Response) -> None:
        response.stream = _BoundedStream(response, max_answer_bytes)

    return httpx.AsyncClient(
        base_url=url,
        timeout=timeout,
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
        follow_redirects=False,  # a password goes where the user said, nowhere else
        # An encoding that nobody asked for, or several on top of one another, which a few bytes can
        # blow up to any size, is refused.
        headers={"Accept-Encoding": "gzip"},
        # A hook, not a transport: with one, httpx does not look at the proxies of the environment.
        event_hooks={"response": [bound]},
        mounts=proxies(url),
    )


class HttpClient:
    """See the module.

    Parameters
    ----------
    url : str
        The project's, without ``/rest/v1``.
    refresh : async callable, optional
        Given the access token that the server refused, gets a new one; True: there is one, try again.
    seconds : float
        The longest from the beginning of a request to the end of its answer.
    chunk_seconds, connect_seconds : float, optional
        The longest that a piece of the answer, or a connection, may take.
    usage : Usage, optional
        Told of the bytes of each request.
    login : str, optional
        Whose requests these are; once somebody else has signed in, none is sent.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        refresh: Callable[[str | None], Awaitable[bool]] | None = None,
        *,
        seconds: float,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        chunk_seconds: float | None = None,
        connect_seconds: float | None = None,
        usage: Usage | None = None,
        login: str | None = None,
    ) -> None:
        self.url = url
        self.credentials = credentials
        self.requests = 0
        self.bytes_received = 0
        self.server_clock = ServerClock()
        self._refresh = refresh
        self._seconds = seconds
        self._usage = usage
        self._login = login
        timeout = httpx.Timeout(chunk_seconds or seconds, connect=connect_seconds or seconds)
        self._client = new_client(url, timeout, max_answer_bytes)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(
        self,
        request: Request,
        *,
        exact_numbers: bool = False,
        renew: bool = True,
        purpose: Purpose = "read",
    ) -> Answer:
        """Send one request; any status is an answer.

        ``renew``: if the token is refused, once more with a new one, where there is one.

        Raises
        ------
        NoAnswerError
            If none came.
        AnswerTooLargeError
            If it has more bytes than it may have.
        """
        token = self.credentials.access_token
        answer = await self._send(request, exact_numbers, purpose)
        renew = renew and self._refresh is not None and answer.token_refused
        if renew and self._refresh is not None and await self._refresh(token):
            answer = await self._send(request, exact_numbers, purpose)
        return answer

    async def _send(self, request: Request, exact_numbers: bool, purpose: Purpose) -> Answer:
        if self._client.is_closed:
            raise ClosedError("this session")
        if self._login is not None and self.credentials.login != self._login:
            raise NoAnswerError(self.url, "somebody else has signed in", sent=False)
        reading = request.method in ("GET", "HEAD")
        headers = {
            **self.credentials.headers(),
            "Accept-Profile" if reading else "Content-Profile": request.schema,
        }
        if request.prefer:
            headers["Prefer"] = request.prefer
        if request.accept:
            headers["Accept"] = request.accept
        self.requests += 1
        sent = time.monotonic()
        leaving = _Leaving()
        try:
            # httpx' own limit is for each chunk; a server that drips would hold a request for ever.
            async with asyncio.timeout(self._seconds):
                response = await self._client.request(
                    request.method,
                    request.path,
                    params=httpx.QueryParams(list(request.params)) if request.params else None,
                    headers=headers,
                    json=request.body,
                    extensions={"trace": leaving},
                )
        # Not as its cause: a traceback prints that with the server's words as they came.
        except (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL, OSError) as error:
            raise NoAnswerError(self.url, _reason(error), sent=leaving.began) from None
        except asyncio.CancelledError:
            if not leaving.began:
                raise CancelledUnsentError from None
            raise
        came, now = time.monotonic(), time.time()
        if isinstance(response.stream, _BoundedStream):
            received = response.stream.received
            self.bytes_received += received
            if self._usage is not None:
                self._usage.requested(purpose, received, len(response.request.content), came)
        if "date" in response.headers:
            self.server_clock.observe(http_date(response.headers["date"], now), sent, came)
        return read_answer(
            response.status_code, response.headers, response.content, now, exact_numbers
        )


class _Leaving:
    """Whether a request has begun to leave for the server (httpx' ``trace`` extension).

    Whatever fails before is certain: the name, the connection, TLS, a proxy's tunnel, the wait for a
    free connection.
    """

    def __init__(self) -> None:
        self.began = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            self.began = self.began or info["request"].method != b"CONNECT"  # that is the proxy's


def _reason(error: Exception) -> str:
    """What to say of a transport error, some of which say nothing themselves."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no answer when connecting"
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


class _BoundedStream(httpx.AsyncByteStream):
    """A response's body, decompressed, of at most ``most`` bytes."""

    def __init__(self, response: httpx.Response, most: int) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.received = 0
        """Bytes that came over the wire."""
        self._inner = response.stream
        self._most = most
        request = response.request
        self._what = f"{request.method} {request.url.path}"
        encoding = response.headers.pop("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise httpx.DecodingError(f"an answer encoded as {encoding[:80]!r}, not as gzip")
        self._gzip: Any = (
            None if encoding == "identity" else zlib.decompressobj(16 + zlib.MAX_WBITS)
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for raw in self._inner:
            self.received += len(raw)
            for piece in self._pieces(raw):
                size += len(piece)
                if size > self._most:
                    raise AnswerTooLargeError(self._what, self._most)
                yield piece
        if self._gzip is not None and self.received and not self._gzip.eof:
            raise httpx.RemoteProtocolError("the answer was cut short")

    def _pieces(self, raw: bytes) -> list[bytes]:
        if self._gzip is None:
            return [raw]
        pieces, size = [], 0
        try:
            while raw and size <= self._most:
                piece = self._gzip.decompress(raw, _CHUNK)
                pieces.append(piece)
                size += len(piece)
                raw = self._gzip.unconsumed_tail
        except zlib.error as error:
            raise httpx.DecodingError(f"an answer that is not gzip, as it says: {error}") from error
        return pieces

    async def aclose(self) -> None:
        await self._inner.aclose()
