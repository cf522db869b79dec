"""The parts of the HTTP client that use ``httpx``.

A separate module, because importing ``httpx`` takes a fifth of the time of importing pandas: ``http.py``
imports it with the first request, on another thread, so that a kept table is shown before.
"""

from __future__ import annotations

import functools
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from notebook_rt.errors import AnswerTooLargeError
from notebook_rt.model.http import Request
from notebook_rt.net.address import is_loopback, proxies

FAILURES: Final = (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL, OSError)
"""Exceptions raised if a request gets no answer."""
_CHUNK: Final = 1024 * 1024
"""Bytes decompressed at a time."""


def new_client(url: str, timeout: httpx.Timeout, max_answer_bytes: int) -> httpx.AsyncClient:
    """Create a client for ``url``."""

    async def bound(response: httpx.Response) -> None:
        response.stream = BoundedStream(response, max_answer_bytes)

    return httpx.AsyncClient(
        base_url=url,
        timeout=timeout,
        limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
        follow_redirects=False,  # passwords are sent only to the user's URL
        # An encoding that nobody asked for, or several on top of one another, which a few bytes can
        # blow up to any size, is refused.
        headers={"Accept-Encoding": "gzip"},
        # A hook, not a transport: with a transport, httpx ignores the proxies of the environment.
        event_hooks={"response": [bound]},
        mounts=proxies(url),
        verify=_trust(url),
    )


def _trust(url: str) -> ssl.SSLContext:
    """Return the TLS context for a client of ``url``.

    Reading the certificate authorities takes 40 ms of the processor: a process does it once for all its
    sessions, and not at all for a stack on this machine.
    """
    if urlsplit(url).scheme == "http" and is_loopback(url):
        return ssl.SSLContext(
            ssl.PROTOCOL_TLS_CLIENT
        )  # checks certificates, and trusts no authority
    return _authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=1)
def _authorities(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return a TLS context with the authorities that ``httpx`` uses, which the environment may set."""
    return httpx.create_ssl_context()


def reason(error: Exception) -> str:
    """Return a message for a transport error, some of which have no message."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no answer when connecting"
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if "WRONG_VERSION_NUMBER" in str(error):  # OpenSSL's message for an answer that is not TLS
        return "what answers there speaks no TLS (https://); is it http://?"
    return str(error) or type(error).__name__


def timeouts(seconds: float, connect_seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=connect_seconds)


class Leaving:
    """Records whether the sending of a request to the server has begun (httpx' ``trace`` extension).

    A failure before that had no effect: the name, the connection, TLS, a proxy's tunnel, the wait for a
    free connection. ``taken`` is called with the first event: the request has a connection.
    """

    began = False

    def __init__(self, taken: Callable[[], object]) -> None:
        self._taken: Callable[[], object] | None = taken

    def has_one(self) -> None:
        """Record that the request has a connection, or needs none any more."""
        taken, self._taken = self._taken, None
        if taken is not None:
            taken()

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        self.has_one()
        if event.endswith("send_request_headers.started"):
            self.began = (
                self.began or info["request"].method != b"CONNECT"
            )  # that is the proxy's request


async def exchange(
    client: httpx.AsyncClient, request: Request, headers: Mapping[str, str], leaving: Leaving
) -> httpx.Response:
    """Send ``request`` and read its answer; one of `FAILURES` is raised if no answer comes."""
    return await client.request(
        request.method,
        request.path,
        params=httpx.QueryParams(list(request.params)) if request.params else None,
        # A schema's name may contain characters outside ASCII, httpx' encoding of headers.
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        json=request.body,
        extensions={"trace": leaving},
    )


class BoundedStream(httpx.AsyncByteStream):
    """A response's decompressed body, limited to ``most`` bytes."""

    def __init__(self, response: httpx.Response, most: int) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.received = 0
        """Number of bytes received over the wire."""
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
            raise httpx.DecodingError(
                f"an answer that is not gzip, though its header says so: {error}"
            ) from error
        return pieces

    async def aclose(self) -> None:
        await self._inner.aclose()
