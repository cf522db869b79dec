"""How the worker's requests travel: the ``Rest`` protocol, and one over ``httpx``.

The worker must know whether a request that failed can have reached the server. A connection that
was refused cannot; one that broke after the first byte left can.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import httpx

from notebook_rt.edits.decide import Answer, Request
from notebook_rt.errors import AnswerTooLargeError, UnreachableError, retry_after
from notebook_rt.model.decode import decode_json
from notebook_rt.net.address import proxies
from notebook_rt.net.answers import ENCODINGS, bounded, row_range
from notebook_rt.options import MAX_ANSWER_BYTES

REQUEST_SECONDS = 10.0
"""Less than the lease: while a request is out, no other kernel begins to send."""


class NoAnswerError(UnreachableError):
    """The request got no answer. ``sent``: it may have reached the server and had its effect."""

    def __init__(self, url: str, reason: str, *, sent: bool) -> None:
        super().__init__(url, reason)
        self.sent = sent


class Rest(Protocol):
    """What the worker needs of the network."""

    async def send(self, request: Request) -> Answer:
        """Carry one request out; any status is an answer. Raises `NoAnswerError` if none came."""

    async def refresh(self) -> bool:
        """Get a new access token; False if there is no new one."""


class HttpRest:
    """``Rest`` over httpx.

    Parameters
    ----------
    url : str
        The project's URL, without ``/rest/v1``.
    headers : callable
        The login's headers of now (``apikey``, ``Authorization``).
    refresh : async callable, optional
        Asked for a new token when the server refuses ours; True: there is one.
    """

    def __init__(
        self,
        url: str,
        headers: Callable[[], Mapping[str, str]],
        refresh: Callable[[], Awaitable[bool]] | None = None,
        *,
        timeout: float = REQUEST_SECONDS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self.url = url
        self._headers = headers
        self._refresh = refresh
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=timeout,
            follow_redirects=False,
            headers=ENCODINGS,
            event_hooks=bounded(max_answer_bytes),
            mounts=proxies(url),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def refresh(self) -> bool:
        return self._refresh is not None and await self._refresh()

    async def send(self, request: Request) -> Answer:
        profile = "Accept-Profile" if request.method == "GET" else "Content-Profile"
        headers = {**self._headers(), profile: request.schema}
        if request.prefer:
            headers["Prefer"] = request.prefer
        try:
            # In all: httpx' own limit is for each chunk, and an answer may drip.
            async with asyncio.timeout(self._timeout):
                response = await self._http.request(
                    request.method,
                    request.path,
                    params=httpx.QueryParams(list(request.params)) if request.params else None,
                    headers=headers,
                    json=request.body,
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NoAnswerError(self.url, _reason(error), sent=False) from error
        except (httpx.TransportError, httpx.DecodingError, OSError, AnswerTooLargeError) as error:
            raise NoAnswerError(self.url, _reason(error), sent=True) from error
        try:
            # Exact: a base value that went through a float would match no numeric.
            body = decode_json(response.content, True) if response.content else None
        except ValueError:
            body = response.text
        stranger = _stranger(request, response, body)
        if stranger is not None:
            raise NoAnswerError(self.url, stranger, sent=True)
        return Answer(
            response.status_code,
            body,
            retry_after(response.headers.get("retry-after"), time.time()),
        )


def _stranger(request: Request, response: httpx.Response, body: object) -> str | None:
    """Why a success (2xx) did not come from the server (promise 13); None: it did.

    What a proxy or a login page answers must not make a write done.
    """
    if not response.is_success:
        return None
    wants_rows = request.method == "GET" or "return=representation" in request.prefer
    if wants_rows:
        is_answer = isinstance(body, list) and all(isinstance(row, dict) for row in body)
    elif request.path.startswith("/rest/v1/rpc/"):
        is_answer = row_range(response) is not None
    else:  # "return=minimal" and broadcasts
        is_answer = body is None
    if is_answer:
        return None
    what = f"{request.method} {request.path} was answered {response.status_code} by somebody else"
    return f"{what}; is a proxy or a login page between?"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
