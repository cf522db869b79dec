"""Transport of the worker's requests: the ``Rest`` protocol, and an implementation over the HTTP client.

The worker must know whether a failed request can have reached the server. A request whose connection was
refused cannot; one whose connection broke after the first byte was sent can.
"""

from __future__ import annotations

from typing import Protocol

from notebook_rt.errors import AnswerTooLargeError
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.answers import no_supabase, not_written
from notebook_rt.net.http import HttpClient, NoAnswerError

REQUEST_SECONDS = 10.0
"""Less than the lease: while a request is in flight, no other kernel starts sending."""
_FIREWALL = (401, 403, 451)
"""Statuses of the page with which a firewall refuses a request, because of its text or its sender."""


class Rest(Protocol):
    """The interface to the network that the worker needs."""

    async def send(self, request: Request) -> Answer:
        """Send a request, with a new token if the server refuses the current one; any status is an answer.

        Raises `NoAnswerError` if none arrived.
        """


class HttpRest:
    """``Rest`` over HTTP."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(self, request: Request) -> Answer:
        try:
            # Exact: a base value that was converted to a float would match no numeric.
            answer = await self._http.send(request, exact_numbers=True)
        except AnswerTooLargeError as error:
            raise NoAnswerError(self._http.url, str(error), sent=True) from error
        not_supabase = not_written(request, answer)
        if not_supabase is None or (
            answer.page and answer.status in _FIREWALL and await self._there()
        ):
            return answer
        raise NoAnswerError(self._http.url, not_supabase, sent=True)

    async def _there(self) -> bool:
        """Return whether the project answers, so that the foreign answer concerned one request only."""
        probe = Request("HEAD", "/rest/v1/")
        try:
            answer = await self._http.send(probe)
        except NoAnswerError:
            return False
        there = answer.status < 300 or no_supabase(str(probe), answer) is None
        return there and not answer.page
