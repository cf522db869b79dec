"""How the worker's requests travel: the ``Rest`` protocol, and one over the HTTP client.

The worker must know whether a request that failed can have reached the server. A connection that
was refused cannot; one that broke after the first byte left can.
"""

from __future__ import annotations

from typing import Protocol

from notebook_rt.errors import AnswerTooLargeError
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.answers import no_supabase, not_written
from notebook_rt.net.http import HttpClient, NoAnswerError

REQUEST_SECONDS = 10.0
"""Less than the lease: while a request is out, no other kernel begins to send."""
_FIREWALL = (401, 403, 451)
"""What a firewall answers with a page to what it does not let through, for its text or its sender."""


class Rest(Protocol):
    """What the worker needs of the network."""

    async def send(self, request: Request) -> Answer:
        """Carry one request out, with a new token if the server refuses ours; any status is an answer.

        Raises `NoAnswerError` if none came.
        """


class HttpRest:
    """``Rest`` over HTTP."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(self, request: Request) -> Answer:
        try:
            # Exact: a base value that went through a float would match no numeric.
            answer = await self._http.send(request, exact_numbers=True)
        except AnswerTooLargeError as error:
            raise NoAnswerError(self._http.url, str(error), sent=True) from error
        stranger = not_written(request, answer)
        if stranger is None or (answer.page and answer.status in _FIREWALL and await self._there()):
            return answer
        raise NoAnswerError(self._http.url, stranger, sent=True)

    async def _there(self) -> bool:
        """Whether the project answers, so that what came in its place was for one request only."""
        probe = Request("HEAD", "/rest/v1/")
        try:
            answer = await self._http.send(probe)
        except NoAnswerError:
            return False
        there = answer.status < 300 or no_supabase(str(probe), answer) is None
        return there and not answer.page
