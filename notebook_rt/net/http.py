"""The HTTP client of one project: a ``Request`` in, an ``Answer`` or a named error out.

Tables, the queue and sign-in use it. It speaks HTTP/1.1 with keep-alive, follows no redirects, uses no proxy
for this machine, and limits an answer's bytes and time. A refused token is refreshed once, and the request
repeated.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from notebook_rt.errors import ClosedError, UnreachableError
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.answers import answered_at, read_answer
from notebook_rt.net.credentials import Credentials
from notebook_rt.options import MAX_ANSWER_BYTES
from notebook_rt.sync.clock import ServerClock
from notebook_rt.sync.usage import Purpose, Usage

if TYPE_CHECKING:
    import httpx


class NoAnswerError(UnreachableError):
    """The request got no answer. ``sent``: it may have reached the server and taken effect."""

    def __init__(self, url: str, reason: str, *, sent: bool) -> None:
        super().__init__(url, reason)
        self.sent = sent


class CancelledUnsentError(asyncio.CancelledError):
    """A request was cancelled before any part of it was sent."""


class HttpClient:
    """The HTTP client of one project; see the module docstring.

    Parameters
    ----------
    url : str
        The project's URL, without ``/rest/v1``.
    refresh : async callable, optional
        Called with the refused access token to get a new one; returns True if the request can be retried.
    seconds : float
        Maximum time from the start of a request to the end of its answer.
    chunk_seconds, connect_seconds : float, optional
        Maximum time for a chunk of the answer, or for a connection.
    usage : Usage, optional
        Counts the bytes of each request.
    login : str, optional
        The login of these requests; once another user has signed in, none is sent.
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
        self._limits = (
            chunk_seconds or seconds,
            connect_seconds or seconds,
            max_answer_bytes,
        )
        self._client: httpx.AsyncClient | None = None
        """Created with the first request."""
        self._opening: asyncio.Future[httpx.AsyncClient] | None = None
        self._choosing = asyncio.Lock()
        """Held by the request that is assigned a connection. Otherwise httpx assigns the same connection to
        several requests, and all but one search again, which takes a fifth of an audit's time."""
        self._closed = False
        """Whether it was closed before the client was created."""

    async def aclose(self) -> None:
        if self._client is None:
            self._closed = True
        else:
            await self._client.aclose()

    async def _open(self) -> httpx.AsyncClient:
        """Return the client, created on another thread that imports ``httpx`` and reads the certificates."""
        if self._client is None and not self._closed:
            if self._opening is None:
                making = asyncio.to_thread(_new_client, self.url, *self._limits)
                self._opening = asyncio.ensure_future(making)
            try:
                made = await asyncio.shield(self._opening)
            except asyncio.CancelledError:
                raise CancelledUnsentError from None
            except Exception as error:  # a proxy of the environment that httpx cannot use
                self._opening = None
                raise NoAnswerError(self.url, str(error), sent=False) from None
            if not self._closed:
                self._client = made
        if self._client is None or self._client.is_closed:
            raise ClosedError("this session")
        return self._client

    async def send(
        self,
        request: Request,
        *,
        exact_numbers: bool = False,
        renew: bool = True,
        purpose: Purpose = "read",
    ) -> Answer:
        """Send one request; any status is an answer.

        ``renew``: if the token is refused, retry once with a new one, if there is one.

        Raises
        ------
        NoAnswerError
            If there is no answer.
        AnswerTooLargeError
            If the answer exceeds the limit of bytes.
        """
        token = self.credentials.access_token
        answer = await self._send(request, exact_numbers, purpose)
        renew = renew and self._refresh is not None and answer.token_refused
        if renew and self._refresh is not None and await self._refresh(token):
            answer = await self._send(request, exact_numbers, purpose)
        return answer

    async def _send(self, request: Request, exact_numbers: bool, purpose: Purpose) -> Answer:
        client = await self._open()
        from notebook_rt.net.client import FAILURES, BoundedStream, Leaving, exchange, reason

        if self._login is not None and self.credentials.login != self._login:
            raise NoAnswerError(self.url, "another user has signed in", sent=False)
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
        leaving = Leaving(self._choosing.release)
        try:
            # httpx' own limit applies to each chunk; a slow server could hold a request forever.
            async with asyncio.timeout(self._seconds):
                await self._choosing.acquire()
                try:
                    response = await exchange(client, request, headers, leaving)
                finally:
                    leaving.has_one()
        # Not as the cause: a traceback would print the server's message unescaped.
        except FAILURES as error:
            raise NoAnswerError(self.url, reason(error), sent=leaving.began) from None
        except asyncio.CancelledError:
            if not leaving.began:
                raise CancelledUnsentError from None
            raise
        came, now = time.monotonic(), time.time()
        if isinstance(response.stream, BoundedStream):
            received = response.stream.received
            self.bytes_received += received
            if self._usage is not None:
                self._usage.requested(purpose, received, len(response.request.content), came)
        if "date" in response.headers:
            self.server_clock.observe(answered_at(response.headers["date"], now), sent, came)
        return read_answer(
            response.status_code, response.headers, response.content, now, exact_numbers
        )


def _new_client(
    url: str, seconds: float, connect_seconds: float, max_answer_bytes: int
) -> httpx.AsyncClient:
    from notebook_rt.net.client import new_client, timeouts

    return new_client(url, timeouts(seconds, connect_seconds), max_answer_bytes)
