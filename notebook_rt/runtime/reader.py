"""Runs the fetches of a table's machine: each is a task, its answer an event.

Input: ``Fetch`` effects. Output: ``Fetched`` or ``FetchFailed``, unless the fetch was cancelled meanwhile;
and whether the server was reached. Everything here runs on the loop thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from notebook_rt.errors import NotebookRTError, ProtocolError, UnreachableError
from notebook_rt.model.classify import classify
from notebook_rt.model.spec import TableSpec
from notebook_rt.runtime.services import Services
from notebook_rt.sync.events import Event, Fetch, Fetched, FetchFailed, Page
from notebook_rt.sync.table.heads import HEADS

logger = logging.getLogger("notebook_rt")


class Reader:
    """One table's requests in progress."""

    def __init__(
        self,
        spec: TableSpec,
        services: Services,
        contact: Callable[[NotebookRTError | None], None],
        answer: Callable[[Event], None],
    ) -> None:
        self._spec = spec
        self._services = services
        self._contact = contact
        self._answer = answer
        self._requests: dict[int, asyncio.Task[None]] = {}

    def fetch(self, effect: Fetch) -> None:
        name = f"read {self._spec.table}"
        self._requests[effect.request] = self._services.thread.spawn(self._fetch(effect), name)

    def cancel(self, request: int) -> None:
        if task := self._requests.pop(request, None):
            task.cancel()

    def clear(self) -> None:
        """Cancel all requests."""
        for task in self._requests.values():
            task.cancel()
        self._requests.clear()

    async def _fetch(self, effect: Fetch) -> None:
        spec, services = self._spec, self._services
        event: Event
        try:
            exact = self._spec.numeric == "decimal"
            if effect.query.rpc == HEADS:
                page = await services.heads.ask(effect.query)
            else:
                page = await services.rest.fetch(
                    spec.schema,
                    spec.table,
                    effect.query,
                    exact_numbers=exact,
                    purpose=effect.purpose,
                )
        except NotebookRTError as error:
            kind = classify(error)
            # A firewall may refuse one form of a query, with a page, and let a plainer one through.
            by_page = isinstance(error, UnreachableError) and error.status == 403
            if effect.query.refusable and (kind.kind == "refused" or by_page):
                self._contact(None)
                services.on_contact(True)
                self._finish(effect.request, Fetched(effect.request, _refused(error)))
                return
            services.on_contact(kind.kind != "network")
            known = services.known(error)
            services.metrics.last_error = str(known)
            self._contact(known)
            event = FetchFailed(effect.request, known, kind.wait)
        except Exception as problem:  # a bug here becomes an error, not a table that hangs
            logger.exception('reading table "%s"', spec.table)
            fault = ProtocolError(f'table "{spec.table}": {problem!r}')
            event = FetchFailed(effect.request, fault, None)
        else:
            self._contact(None)
            services.on_contact(True)
            event = Fetched(effect.request, page)
        self._finish(effect.request, event)

    def _finish(self, request: int, event: Event) -> None:
        if self._requests.pop(request, None) is not None:
            self._answer(event)


def _refused(error: NotebookRTError) -> Page:
    return Page((), None, 0.0, refusal=error)
