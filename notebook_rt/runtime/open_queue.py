"""The open queue file of one login: its worker, and an editor for each live table.

Input: the project and the open tables. Output: the number of operations that were refused or need a decision;
notes about the network and, when the session closes, about what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import in_states, what
from notebook_rt.edits.ops import Op
from notebook_rt.errors import QueueError
from notebook_rt.model.signal import Signal
from notebook_rt.net.http import HttpClient
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import REQUEST_SECONDS, HttpRest
from notebook_rt.outbox.sessions import session_of
from notebook_rt.outbox.worker import Worker
from notebook_rt.quoting import printable
from notebook_rt.runtime.keeping import in_thread
from notebook_rt.runtime.project import Project
from notebook_rt.runtime.table import TableDriver

logger = logging.getLogger("notebook_rt")

LINGER_SECONDS = 1.0
"""How long a closing session lets the last writes leave; the next session sends the rest."""
COUNT_SECONDS = 0.1
"""Pause between two counts of refused operations."""
Merges: TypeAlias = Signal[Sequence[Mapping[str, Any]]]


class OpenQueue:
    """The open file of one login; ``start`` runs its worker on the loop.

    ``changed`` is called after every change of the queue, on any thread.
    """

    def __init__(
        self,
        project: Project,
        path: Path,
        owner: Owner,
        *,
        paused: bool,
        changed: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.project = project
        self._notify_changed = changed
        self.outbox = Outbox(path, owner)
        self.editing = Editing(
            self.outbox,
            clock=project.rest.clock,
            note=self._note,
            lock=project.services.lock,
            written=self._count_written,
        )
        self.editors: dict[TableDriver, Editor] = {}
        http = HttpClient(
            project.url,
            project.credentials,
            project.login.refresh,
            seconds=REQUEST_SECONDS,
            max_answer_bytes=project.options.max_answer_bytes,
            usage=project.usage,
            login=self.owner.login,
        )
        self._rest = HttpRest(http)
        self.worker = Worker(
            self.outbox,
            self._rest,
            self.editing,
            clock=project.rest.clock,
            random=random.random,
            strategies=self.editing.strategies,
            batch=project.options.queue_batch,
            max_attempts=project.options.queue_max_attempts,
        )
        self.worker.paused = paused
        if paused:
            self.outbox.pause(True)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.refused: tuple[int, Op | None] = (0, None)
        """The number of refused operations, and the last of them, at the last count."""
        self.asking: tuple[int, Op | None] = (0, None)
        """The number of operations in conflict, likewise."""
        self._recount = False
        self._counting: asyncio.Task[None] | None = None
        self._waited = False
        """Whether it was reported that something waits for the network."""
        self._closed = False
        self.outbox.subscribe(self._changed)

    @property
    def _ours(self) -> bool:
        """Whether no other login has signed in meanwhile."""
        return self.project.credentials.login == self.owner.login

    def _count_written(self, rows: int) -> None:
        """Count rows that were written here: the server reports their changes, too, or drops the reports."""
        services = self.project.services
        if services.rate.wrote(rows, time.monotonic()):
            services.on_overload()

    def start(self) -> None:
        self._task = self.project.thread.spawn(self.worker.run(), "the queue")
        self._count_refused()

    def _note(self, kind: str, text: str) -> None:
        if kind in ("failed", "conflict", "merged"):
            self._count_refused()
        self.project.note(kind, text)

    def _count_refused(self) -> None:
        """Count what was refused or in conflict, and check for waiting writes; calls are combined."""
        self._recount = True
        if self._counting is None:
            self._counting = self.project.thread.spawn(self._count(), "what was refused")

    async def _count(self) -> None:
        with contextlib.suppress(QueueError):  # damaged, or closed meanwhile
            while self._recount:
                self._recount = False
                self.refused, self.asking = await self.worker.undecided()
                self.project.schedule_health()
                await self._report_waiting()
                await asyncio.sleep(COUNT_SECONDS)
        self._counting = None

    def add(self, driver: TableDriver, on_merge: Merges) -> None:
        """Add an editor for an open table."""
        spec = driver.spec
        editor = self.editing.editor(
            spec.schema,
            spec.table,
            driver.strategies,
            driver.edited,
            driver.columns_suspect,
            (lambda: driver.ordered) if spec.limit is not None else None,
        )
        editor.on_merge = on_merge
        self.editors[driver] = editor
        if driver.overlay is not None:
            editor.attach(driver.overlay)

    def remove(self, driver: TableDriver) -> None:
        editor = self.editors.pop(driver, None)
        if editor is not None:
            self.editing.forget(editor)

    def take_away(self) -> None:
        """Remove the overlays from the tables; the edits have gone with their rows."""
        for editor in self.editors.values():
            self.editing.forget(editor)
        self.editors.clear()

    def _changed(self) -> None:
        self.project.services.lock.soon(self._on_change)
        self._notify_changed()

    def _on_change(self) -> None:
        """The queue has changed: wake the worker and the counter if needed."""
        if self._closed:  # this call was scheduled before the close
            return
        if self.outbox.more:
            self.worker.waking.set()
        self._news.set()
        if self.refused[0] or self.asking[0] or self._offline != self._waited:
            self._count_refused()

    @property
    def _offline(self) -> bool:
        """Whether this login's writes must wait for the network."""
        return (self.worker.outcomes.offline or not self.project.reachable) and self._ours

    async def _report_waiting(self) -> None:
        """Report, once, that writes wait for the network, or that all of them were sent."""
        if self._offline == self._waited:
            return
        waits = bool((await self.worker.outcomes.on_disk(self.outbox.counts))["waiting"])
        if self._closed or self._offline == self._waited or waits == self._waited:
            return
        self._waited = waits
        if waits:
            self.project.note("queued", "No connection: what you write is kept, and sent later")
        else:
            self.project.note("info", "Everything that waited was sent")

    async def _sent(self) -> None:
        """Wait until everything that can be sent has been sent."""
        on_disk = self.worker.outcomes.on_disk
        await on_disk(self.outbox.send_held)
        self._news.clear()
        while await on_disk(self.outbox.next_at) is not None:
            await self._news.wait()
            self._news.clear()

    async def send_last(self) -> None:
        """Let the last writes leave, if they can."""
        worker, outcomes = self.worker, self.worker.outcomes
        away = outcomes.offline or worker.paused or outcomes.unauthorized
        if self._ours and self.project.reachable and not away:
            with contextlib.suppress(TimeoutError, QueueError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._sent()

    def report_unsent(self) -> None:
        """Log once, as the session closes, what is left: a script has no other way to know."""
        if not self.outbox.edited:
            return
        mine, everything = self.outbox.session.id, self.outbox.ops()
        ops = [op for op in everything if op.session == mine]
        if ops and self.project.temporary:
            logger.warning(
                "not written: %s. It is gone with the database",
                in_states(ops),
            )
        elif ops:
            failed = next((f": {what(op)}: {op.error}" for op in ops if op.state == "failed"), "")
            logger.warning(
                "not written yet: %s%s. Kept in %s: what waits is sent by the next session%s, "
                "`notebook-rt queue` shows all of it",
                in_states(ops),
                printable(failed),
                self.outbox.path,
                " once rt.queue.resume() is said there" if self.outbox.session.paused else "",
            )
        refused = [op for op in everything if op.session != mine and op.state == "failed"]
        if refused:
            by = session_of(refused[-1], self.outbox.sessions())
            logger.warning(
                "%d failed %s of other sessions %s in %s, too; the last by %s",
                len(refused),
                "write" if len(refused) == 1 else "writes",
                "is" if len(refused) == 1 else "are",
                self.outbox.path,
                printable(by or "an unknown session"),
            )

    async def aclose(self) -> None:
        self._closed = True
        try:
            for task in (self._counting, self._task):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            await self._rest.aclose()
        finally:
            await in_thread(self.outbox.close)  # its last commit waits for the disk
