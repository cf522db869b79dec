"""What may be taken for an answer of the server's, and how large one may be (promise 13).

In go the HTTP responses of the session's clients (tables, the queue, signing in), out come their bytes
within bounds, or an error. A proxy, a login page and a broken gateway answer 200 too: what does not have
the form of a REST answer is an error, so no row is taken from it and none for gone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx

from notebook_rt.errors import AnswerTooLargeError

ENCODINGS: Final = {"Accept-Encoding": "gzip"}
"""What each client asks for. An encoding that nobody asked for, or several on top of one another, which
a few bytes can blow up to any size, is refused."""

_CHUNK: Final = 1024 * 1024
"""Bytes decompressed at a time."""

_RANGE: Final = re.compile(r"(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")


class BoundedStream(httpx.AsyncByteStream):
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


def bounded(most: int) -> dict[str, list[Callable[[httpx.Response], Awaitable[None]]]]:
    """The ``event_hooks`` of a client whose answers have at most ``most`` bytes, decompressed.

    A hook, not a transport of our own: with one, httpx does not look at the proxies of the environment.
    """

    async def bound(response: httpx.Response) -> None:
        response.stream = BoundedStream(response, most)

    return {"response": [bound]}


def row_range(response: httpx.Response) -> tuple[int | None, int | None] | None:
    """How many rows an answer says it has, and how many there are in all (None: it does not say).

    None if there is no ``Content-Range``, which PostgREST gives with each of its answers.

    >>> row_range(httpx.Response(206, headers={"Content-Range": "5-14/1500"}))
    (10, 1500)
    >>> row_range(httpx.Response(200, headers={"Content-Range": "*/*"}))
    (0, None)
    """
    found = _RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if found is None:
        return None
    first, last, total = found.groups()
    shown = 0 if first is None else int(last) - int(first) + 1
    return shown, None if total == "*" else int(total)


def not_rows(response: httpx.Response, body: Any, *, counted: bool = False) -> str | None:
    """Why ``body`` is no answer to a read of a table's rows; None: it is one."""
    said = row_range(response)
    if not isinstance(body, list) or not all(isinstance(row, dict) for row in body):
        return "its answer is no list of rows"
    if said is None:
        if body and not counted:
            return None
        return "its answer does not say how many rows it has (no Content-Range header)"
    if said[0] != len(body):
        return f"its answer was cut short: it says {said[0]} rows and has {len(body)}"
    if counted and said[1] is None:
        return "its answer does not count the rows, as it was asked to"
    return None
