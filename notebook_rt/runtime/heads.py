"""Requests the heads of a session's logs, all in one request.

Tables check at the same moments (``ChangeLog``); their queries within ``GATHER`` seconds are combined into
one (``sync/table/heads.py``), and each table gets its own part of the answer. On the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from notebook_rt.errors import ClosedError
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.heads import MOST, answers, combined
from notebook_rt.tracebacks import fresh

GATHER: Final = 0.02
"""Seconds to wait for the queries of other tables: their timers differ by less."""


class Heads:
    """See the module. ``send`` sends a query to the server."""

    def __init__(self, send: Callable[[Query], Awaitable[Page]]) -> None:
        self._send = send
        self._waiting: list[tuple[Query, asyncio.Future[Page]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, question: Query) -> Page:
        """Return the answer to ``question``, which is sent together with other tables' queries.

        Raises
        ------
        NotebookRTError
            The same as for a separate request.
        """
        answer: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if len(self._waiting) == 1:
            task = asyncio.create_task(self._gather())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _gather(self) -> None:
        await asyncio.sleep(GATHER)
        waiting, self._waiting = self._waiting, []
        wanted = [one for one in waiting if not one[1].done()]
        for first in range(0, len(wanted), MOST):
            await self._ask_together(wanted[first : first + MOST])

    async def _ask_together(self, asked: list[tuple[Query, asyncio.Future[Page]]]) -> None:
        waiting = [answer for _, answer in asked]
        try:
            page = await self._send(combined([question for question, _ in asked]))
        except asyncio.CancelledError:
            _fail(waiting, ClosedError("this session"))
            raise
        except Exception as error:
            _fail(waiting, error)
            return
        for answer, part in zip(waiting, answers(page, len(asked)), strict=True):
            if not answer.done():
                answer.set_result(part)


def _fail(waiting: list[asyncio.Future[Page]], error: Exception) -> None:
    for answer in waiting:
        if not answer.done():
            answer.set_exception(fresh(error))
