"""The writes of a session: the queue's file, opened when needed, and keys drawn from sequences.

The file is opened for the first edit or queued call, or at the start if it exists: it may contain edits of a
killed kernel, which are laid over a table before it is visible. A session that only reads creates no file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

from notebook_rt.edits.editing import SendResult
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import refused, undecided, what
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import ClosedError, QueueError, UnreachableError
from notebook_rt.model.signal import Signal
from notebook_rt.outbox import key_cache
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.file import IN_MEMORY, path_for
from notebook_rt.outbox.key_cache import ColumnName, KeyCache
from notebook_rt.outbox.lease import kernel_name
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import REQUEST_SECONDS
from notebook_rt.outbox.sessions import session_of
from notebook_rt.outbox.worker import Worker
from notebook_rt.quoting import printable
from notebook_rt.runtime.host import has_front_end, is_interactive
from notebook_rt.runtime.open_queue import Merges, OpenQueue
from notebook_rt.runtime.project import Project
from notebook_rt.runtime.table import TableDriver
from notebook_rt.sync.connection.supervisor import State
from notebook_rt.sync.events import Page, Query

logger = logging.getLogger("notebook_rt")

DRAW_SECONDS = 5.0
"""Maximum seconds that an insert waits for its key."""
FILE_SECONDS = 1.0
"""Seconds between two checks for a queue's file that does not exist yet."""
LEAVE_SECONDS = 5.0
"""Maximum seconds that an insert with keys created by the server waits until it is sent."""
ANSWER_SECONDS = LEAVE_SECONDS + 2 * REQUEST_SECONDS
"""Seconds after the call at which waiting for an answer ends."""
POLL_SECONDS = 0.1
"""Longest pause between two checks of a pending operation: another kernel may have sent it."""
OnMerge: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], object]


class Writes:
    """The writing side of one session. Methods may be called from any thread."""

    def __init__(self, project: Project, path: str | Path | None) -> None:
        self.project = project
        self.paused = False
        self.listeners: Signal[()] = Signal()
        """Called after every change of the queue, on any thread; must be fast."""
        self.keys = KeyCache(self._fetch)
        self._asked: set[ColumnName] = set()
        self._path = None if path is None else Path(path)
        self._login = project.credentials.login
        self._session = kernel_name() if project.options.queue_scope == "session" else ""
        self._lock = project.services.lock
        self._open: OpenQueue | None = None
        self._ids: set[str] = set()
        """The ids of this session in queue files, one per login."""
        self._reported_owners: set[Owner] = set()
        self._drivers: dict[TableDriver, Merges] = {}
        """The open tables, and the listeners for their merges."""
        project.table_listeners.add(self._table_opened)
        project.login_listeners.add(self._login_changed)
        project.state_listeners.add(self._state_changed)
        project.closers.append(self._close)
        project.refused = self.refused
        self._open_if_there()
        self._opening_task: asyncio.Task[None] | None = None
        project.thread.post(self._find_file)

    @property
    def owner(self) -> Owner:
        """The current owner of new writes."""
        return Owner(self.project.url, self._login, self._session)

    @property
    def path(self) -> Path:
        """The queue's file: one per project and login, unless a path was given."""
        return self._path or path_for(self.owner)

    @property
    def outbox(self) -> Outbox:
        """The queue; an empty one without a file before the first write."""
        return self._empty if self._open is None else self._open.outbox

    @cached_property
    def _empty(self) -> Outbox:
        empty = Outbox(IN_MEMORY)
        weakref.finalize(self, empty.close)
        return empty

    def broadcast(
        self, topic: str, event: str, payload: Any, private: bool, ttl: float | None
    ) -> SendResult:
        """Queue a broadcast."""
        editing = self.opened().editing
        return editing.broadcast(topic, event, payload, private=private, ttl=ttl)

    def rpc(
        self, function: str, args: Mapping[str, Any], schema: str, repeatable: bool
    ) -> SendResult:
        """Queue a call of a function."""
        editing = self.opened().editing
        return editing.call(function, args, schema=schema, repeatable=repeatable)

    def opened(self) -> OpenQueue:
        """Return the open file; create it if it does not exist."""
        with self._lock:
            if self.project.closed:
                raise ClosedError("this session")
            if self._open is None:
                self._open = OpenQueue(
                    self.project,
                    self.path,
                    self.owner,
                    paused=self.paused,
                    changed=self.listeners.notify,
                )
                self._open.outbox.adopt(self._ids)
                self._ids.add(self._open.outbox.session.id)
                self._report_others(self._open.outbox)
                self._report_waiting(self._open.outbox)
                self._report_paused(self._open.outbox)
                self._report_refused(self._open.outbox)
                for driver, on_merge in self._drivers.items():
                    self._open.add(driver, on_merge)
                self.project.thread.post(self._open.start)
            return self._open

    def known(self) -> OpenQueue | None:
        """Return the file, if it exists."""
        return self._open

    def draws(self, column: ColumnName) -> bool:
        """Return whether a sequence provides the column's keys; ask the server if unknown."""
        known = self.keys.known.get(column)
        if known is None and column not in self._asked:
            self._asked.add(column)
            thread = self.project.thread
            thread.post(lambda: thread.spawn(self.keys.check(column, self._ask), "keys"))
        return bool(known)

    async def _ask(self, query: Query) -> Page:
        return await self.project.rest.fetch("public", key_cache.FUNCTION, query)

    def _fetch(self, query: Query) -> Sequence[Any]:
        """Return the answer to ``query``; wait for it."""
        try:
            return self.project.thread.wait(self._ask(query), DRAW_SECONDS).rows
        except TimeoutError:
            raise UnreachableError(self.project.url, "no answer in time") from None

    def wait_for(self, editor: Editor, ids: Collection[str]) -> None:
        """Wait until operations of a table are settled or set aside, and their effect is shown.

        Waiting for an operation that was not sent ends after `LEAVE_SECONDS`.
        """
        changed = threading.Event()
        outbox = self.opened().outbox
        self.call_worker(Worker.wake)
        with contextlib.ExitStack() as ends:
            ends.callback(outbox.subscribe(changed.set))
            leave, answer = (time.monotonic() + s for s in (LEAVE_SECONDS, ANSWER_SECONDS))
            while True:
                changed.clear()
                states = outbox.states(editor.schema_name, editor.table)
                first = next((op for op in ids if states.get(op) == "waiting"), None)
                op = None if first is None else outbox.get(first)
                end = answer if op is not None and op.sent else leave
                remaining = end - time.monotonic()
                if first is None or remaining <= 0 or self.project.closed:
                    break
                changed.wait(min(remaining, POLL_SECONDS))
        self.project.thread.wait(asyncio.sleep(0))  # the loop shows it right after storing

    def call_worker(self, what: Callable[[Worker], object]) -> None:
        """Call a function with the worker on the loop, if there is a worker."""
        if self._open is not None:
            self.project.thread.post(what, self._open.worker)

    def on_merge(self, driver: TableDriver, fn: OnMerge) -> Callable[[], None]:
        """Call ``fn`` with the records of each merge of a table; return a function that ends that."""
        return self._drivers[driver].add(fn)

    def decided(self) -> None:
        """Show an operation that was retried, edited or discarded, and continue sending."""
        worker = None
        with self._lock:
            if self._open is not None:
                for editor in self._open.editors.values():
                    editor.refresh()
                worker = self._open.worker
        if worker is not None:  # awake when this is over: `flush` then asks whether it may send
            self.project.thread.call(worker.wake)

    def send(self) -> None:
        """Send pending operations now."""
        opened = self._open
        if opened is not None:  # awake when this is over, as after `decided`
            self.project.thread.call(opened.worker.wake)

    def pause(self, paused: bool = True) -> None:
        self.paused = paused
        opened, thread = self._open, self.project.thread
        if opened is not None:
            opened.outbox.pause(paused)
            thread.call(opened.worker.pause if paused else opened.worker.resume)
            if paused and not thread.here:  # edits after this call wait
                thread.wait(opened.worker.taken())

    def held(self) -> str:
        """Return why pending writes are not sent; empty if they are."""
        if self.paused:
            return "the queue is paused: resume() it"
        refused = "" if self._open is None else self._open.worker.outcomes.unauthorized
        return (
            f"the server refuses the login ({refused}): sign_in() or set_auth()" if refused else ""
        )

    def refused(self) -> str:
        """Return a sentence about refused and conflicting edits; empty if there are none.

        On the loop, the state of the last check.
        """
        opened = self._open
        if opened is None:
            return ""
        if not self.project.thread.here:
            with contextlib.suppress(QueueError):  # damaged, or just closed
                opened.refused, opened.asking = self.outbox.undecided()
        then = "rt.queue.df lists it: rt.queue.retry() sends it again, .discard(id) drops it"
        said = refused(*opened.refused, then), undecided(*opened.asking)
        return "; ".join(filter(None, said))

    def listen(self, fn: Callable[[], object]) -> Callable[[], None]:
        return self.listeners.add(fn)

    def _report_others(self, outbox: Outbox) -> None:
        """Report once per login that the file contains its writes, too."""
        others = {
            owner: number
            for owner, number in outbox.others().items()
            if (owner.project, owner.login) != (self.owner.project.rstrip("/"), self._login)
        }
        for owner in others.keys() - self._reported_owners:
            number = others[owner]
            text = printable(
                f"{number} unsent {'write' if number == 1 else 'writes'} in {outbox.path} "
                f"{'is' if number == 1 else 'are'} of {owner.description}: kept until that login comes"
            )
            logger.warning(text)
            self.project.thread.post(self.project.note, "info", text)
        self._reported_owners |= others.keys()

    def _report_waiting(self, outbox: Outbox) -> None:
        """Report edits left by other sessions, which are sent when this one connects."""
        waiting = outbox.counts()["waiting"] - len(outbox.left())
        if waiting > 0:
            writes = "1 write" if waiting == 1 else f"{waiting:,} writes"
            logger.info("%s of other sessions %s sent", writes, "is" if waiting == 1 else "are")

    def _report_paused(self, outbox: Outbox) -> None:
        """Report edits of a session that ended while paused: they are not sent before ``resume``."""
        left = outbox.left()
        if not left:
            return
        one, by = len(left) == 1, session_of(left[-1], outbox.sessions())
        text = printable(
            f"{len(left)} {'edit' if one else 'edits'} of another session {'waits' if one else 'wait'}, "
            f"the last by {by}: rt.queue.resume() or rt.queue.retry() sends {'it' if one else 'them'}"
        )
        logger.warning(text)
        self.project.thread.post(self.project.note, "info", text)

    def _report_refused(self, outbox: Outbox) -> None:
        """Report refused edits of earlier sessions, which tables still show.

        A script that only reads gets no report: they are in ``repr``, ``reason`` and health.
        """
        failed = [op for op in outbox.ops(state="failed") if op.session not in self._ids]
        if not failed:
            return
        one, last = len(failed) == 1, failed[-1]
        many = (
            "1 edit of another session was"
            if one
            else f"{len(failed)} edits of other sessions were"
        )
        text = printable(
            f"{many} refused, and df still shows {'it' if one else 'them'}: {what(last)}: {last.error}; "
            "rt.queue.df lists what was refused, .retry() sends it again, .discard(id) drops it"
        )
        logger.log(logging.WARNING if is_interactive() else logging.INFO, "%s", text)
        self.project.thread.post(self.project.note, "info", text)

    def _open_if_there(self) -> None:
        path = self.path
        if path.exists() and path.stat().st_size:
            self.opened()

    # On the loop

    def _find_file(self) -> None:
        if not self.project.closed:
            self._opening_task = self.project.thread.spawn(
                self._open_once_there(), "looking for the queue's file"
            )

    async def _open_once_there(self) -> None:
        """Open a file created by another session: its edits are shown here, too."""
        with contextlib.suppress(QueueError):  # not a queue's file: a write raises
            while True:
                await asyncio.sleep(FILE_SECONDS)
                if self._open is None:
                    self._open_if_there()

    def _table_opened(self, driver: TableDriver) -> None:
        with self._lock:
            self._drivers[driver] = Signal()
            if self._open is not None:
                self._open.add(driver, self._drivers[driver])
        driver.on_shown.append(partial(self._shown, driver))
        driver.status_listeners.add(partial(self._status, driver))

    def _shown(self, driver: TableDriver, overlay: Overlay) -> None:
        with self._lock:
            if self._open is not None:
                self._open.editors[driver].attach(overlay)

    def _status(self, driver: TableDriver, status: str, reason: str) -> None:
        if status == "closed":
            with self._lock:
                self._drivers.pop(driver, None)
                if self._open is not None:
                    self._open.remove(driver)

    def _state_changed(self, state: State, reason: str) -> None:
        if state == "connected":
            self.call_worker(Worker.wake)

    def _login_changed(self) -> None:
        login, self._login = self._login, self.project.credentials.login
        if login == self._login:
            self.call_worker(Worker.wake)
            return
        # Operations of the other login are neither shown nor sent.
        with self._lock:
            old, self._open = self._open, None
            if old is not None:
                old.take_away()
        if old is not None:
            self.project.thread.spawn(old.aclose(), "close the queue")
        self._open_if_there()

    async def _close(self) -> None:
        if self._opening_task is not None:
            self._opening_task.cancel()
        with self._lock:
            old, self._open = self._open, None
        if old is not None:
            await old.send_last()
            if not has_front_end():  # a notebook's widgets show it
                with contextlib.suppress(QueueError):  # the file was damaged meanwhile
                    await old.worker.outcomes.on_disk(old.report_unsent)
            await old.aclose()
