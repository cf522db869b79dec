"""How the worker's requests travel: the ``Rest`` protocol, and one over the HTTP client.

The worker must know whether a request that failed can have reached the server. A connection that
was refused cannot; one that broke after the first byte left can.
"""

from __future__ import annotations

from typing import Protocol

from notebook_rt.errors import AnswerTooLargeError
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.answers import not_written
from notebook_rt.net.http import HttpClient, NoAnswerError

REQUEST_SECONDS = 10.0
"""Less than the lease: while a request is out, no other kernel begins to send."""


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
        if stranger is not None:
            raise NoAnswerError(self._http.url, stranger, sent=True)
        return answer
