"""What a session writes: the queue's file, its worker, and an editor for each live table.

Puts together what ``outbox/``, ``editing.py`` and the project bring. The file is opened when somebody
edits, sends or looks at the queue, or when a table is opened and the file is there already: then it
may hold edits of a kernel that was killed, and they are laid over the table before anybody sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from notebook_rt.editing import Editing, Editor, SendResult
from notebook_rt.net.credentials import claims
from notebook_rt.net.driver import TableDriver
from notebook_rt.net.project import Project
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import HttpRest
from notebook_rt.outbox.schema import path_for
from notebook_rt.outbox.view import QueueView
from notebook_rt.outbox.worker import Worker
from notebook_rt.sync.overlay import Overlay
from notebook_rt.sync.rows import RowChange
from notebook_rt.sync.supervisor import State


def _display(view: QueueView) -> Any:
    from notebook_rt.widgets import display

    return display.queue_bundle(view)


class _Open:
    """The file of one login, open: its worker runs on the loop."""

    def __init__(self, project: Project, path: Path) -> None:
        self.project = project
        self.outbox = Outbox(path)
        self.editing = Editing(self.outbox, clock=project.rest.clock, note=project.note)
        self.editing.lock = project.services.lock
        self.rest = HttpRest(project.url, project.credentials.headers, project.refresh)
        self.worker = Worker(
            self.outbox,
            self.rest,
            self.editing,
            clock=project.rest.clock,
            random=random.random,
            strategies=self.editing.strategies,
            batch=project.options.queue_batch,
            max_attempts=project.options.queue_max_attempts,
        )
        post, worker = project.thread.post, self.worker
        self.unsubscribe = self.outbox.subscribe(lambda: post(worker.put))
        self.view = QueueView(
            self.outbox,
            wake=lambda: post(worker.wake),
            pause=lambda: post(worker.pause),
            resume=lambda: post(worker.resume),
            display=_display,
        )
        self.editors: dict[TableDriver, Editor] = {}
        self.task = project.thread.call(project.thread.spawn, self.worker.run(), "the queue")

    def editor(self, driver: TableDriver) -> Editor:
        found = self.editors.get(driver)
        if found is None:
            spec, thread = driver.spec, self.project.thread

            def changed(changes: Sequence[RowChange]) -> None:
                if thread.here:
                    driver.publish(changes, "edit")
                else:
                    thread.post(driver.publish, changes, "edit")

            found = self.editing.editor(spec.schema, spec.table, driver.strategies, changed)
            self.editors[driver] = found
            if driver.overlay is not None:
                found.attach(driver.overlay)
        return found

    def forget(self, driver: TableDriver) -> None:
        editor = self.editors.pop(driver, None)
        if editor is not None:
            self.editing.forget(editor)

    async def aclose(self) -> None:
        self.unsubscribe()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        await self.rest.aclose()
        self.outbox.close()


class Writes:
    """The writing side of one session. Methods may be called from any thread."""

    def __init__(self, project: Project, path: str | Path | None) -> None:
        self.project = project
        self._path = None if path is None else Path(path)
        self._open: _Open | None = None
        self._login = self._who()
        self._lock = project.services.lock
        project.table_listeners.append(self._table_opened)
        project.login_listeners.append(self._login_changed)
        project.state_listeners.append(self._state_changed)
        project.closers.append(self.aclose)

    @property
    def path(self) -> Path:
        """The queue's file: one a project and login, unless it was given."""
        return self._path or path_for(self.project.url, self._login)

    @property
    def queue(self) -> QueueView:
        """What waits to be sent."""
        return self._opened().view

    def editor(self, driver: TableDriver) -> Editor:
        """The editor of one live table."""
        with self._lock:
            return self._opened().editor(driver)

    def broadcast(
        self, topic: str, event: str, payload: Any, private: bool, ttl: float | None
    ) -> SendResult:
        """Queue a broadcast."""
        editing = self._opened().editing
        return editing.broadcast(topic, event, payload, private=private, ttl=ttl)

    def waiting(self) -> int:
        """How much is in the queue, as far as it was opened."""
        return 0 if self._open is None else len(self._open.outbox)

    def _who(self) -> str:
        """The login whose queue it is: the user's id, or the key's role."""
        subject = claims(self.project.credentials.bearer).get("sub")
        return subject if isinstance(subject, str) else self.project.credentials.role

    def _opened(self) -> _Open:
        with self._lock:
            if self._open is None:
                self._open = _Open(self.project, self.path)
            return self._open

    # On the loop

    def _table_opened(self, driver: TableDriver) -> None:
        driver.on_shown.append(lambda overlay: self._shown(driver, overlay))
        driver.status_listeners.append(lambda status, reason: self._status(driver, status))
        if self._open is None and self.path.exists():
            self._opened()

    def _shown(self, driver: TableDriver, overlay: Overlay) -> None:
        if self._open is not None:
            editor = self._open.editor(driver)
            if editor.overlay is not overlay:
                editor.attach(overlay)

    def _status(self, driver: TableDriver, status: str) -> None:
        if status == "closed" and self._open is not None:
            self._open.forget(driver)

    def _state_changed(self, state: State, reason: str) -> None:
        if state == "connected" and self._open is not None:
            self._open.worker.wake()

    def _login_changed(self) -> None:
        login, self._login = self._login, self._who()
        if self._open is None:
            return
        if login == self._login or self._path is not None:
            self._open.worker.wake()
            return
        # Another login's queue: what this one's tables show of the old one is gone with its editor.
        old, self._open = self._open, None
        self.project.thread.spawn(old.aclose(), "close the queue")
        for driver in list(old.editors):
            driver.restart()
        if self.path.exists():
            self._opened()

    async def aclose(self) -> None:
        """Close the file; what waits in it leaves with the next session."""
        old, self._open = self._open, None
        if old is not None:
            await old.aclose()
