"""What a session writes: the queue's file, its worker, and an editor for each live table.

Puts together what ``outbox/``, ``editing.py`` and the project bring. The file is opened when somebody
edits or something must wait, or at the start when it is there already: then it may hold edits of a
kernel that was killed, and they are laid over a table before anybody sees it. Who only reads makes
no file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from notebook_rt.edits.editing import Editing, SendResult
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import in_states, refused, undecided, what
from notebook_rt.edits.ops import Op, Put, Right
from notebook_rt.edits.overlay import Overlay
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.tabular import columns_of
from notebook_rt.errors import (
    AnswerLostError,
    ClosedError,
    PermissionDeniedError,
    QueueError,
    UnreachableError,
)
from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.rows import Key
from notebook_rt.model.signal import Signal
from notebook_rt.model.types import Column, canonical
from notebook_rt.net.http import HttpClient
from notebook_rt.outbox import key_cache
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.file import IN_MEMORY, path_for
from notebook_rt.outbox.key_cache import (
    AHEAD,
    ColumnName,
    KeyCache,
    NoKeyDrawnError,
    ServerMakesKeyError,
)
from notebook_rt.outbox.lease import kernel_name
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import REQUEST_SECONDS, HttpRest
from notebook_rt.outbox.sessions import whose
from notebook_rt.outbox.worker import Worker
from notebook_rt.quoting import printable
from notebook_rt.runtime.host import has_front_end, is_interactive
from notebook_rt.runtime.keeping import beside
from notebook_rt.runtime.project import Project
from notebook_rt.runtime.table import TableDriver
from notebook_rt.sync.connection.supervisor import State
from notebook_rt.sync.events import Page, Query

logger = logging.getLogger("notebook_rt")

MAX_TAKEN_KEYS = 1000
"""Keys of a sequence that are tried for a row, while rows that were inserted beside it have them."""
DRAW_SECONDS = 5.0
"""How long somebody who inserts a row waits for its key."""
FILE_SECONDS = 1.0
"""Seconds between two looks for a queue's file that is not there yet."""
LEAVE_SECONDS = 5.0
"""How long somebody who inserts rows whose keys the server makes waits for them to leave."""
LINGER_SECONDS = 1.0
"""How long a closing session lets the last writes leave; the rest leaves with the next session."""
ANSWER_SECONDS = LEAVE_SECONDS + 2 * REQUEST_SECONDS
"""Seconds from the call after which an answer is waited for no more."""
POLL_SECONDS = 0.1
"""Longest pause between two looks at what is waited for: another kernel may have sent it."""
COUNT_SECONDS = 0.1
"""Pause between two looks at what was refused."""
Merges: TypeAlias = Signal[Sequence[Mapping[str, Any]]]
OnMerge: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], object]


class Writes:
    """The writing side of one session. Methods may be called from any thread."""

    def __init__(self, project: Project, path: str | Path | None) -> None:
        self.project = project
        self.paused = False
        self.listeners: Signal[()] = Signal()
        """Called after every change of the queue, on any thread; quick."""
        self.keys = KeyCache(self._fetch)
        self._asked: set[ColumnName] = set()
        self._path = None if path is None else Path(path)
        self._login = project.credentials.login
        self._session = kernel_name() if project.options.queue_scope == "session" else ""
        self._lock = project.services.lock
        self._open: _Open | None = None
        self._ids: set[str] = set()
        """The ids that this session has had in queue files: another one with each login."""
        self._told: set[Owner] = set()
        self._drivers: dict[TableDriver, Merges] = {}
        """The open tables, and who hears of their merges."""
        project.table_listeners.add(self._table_opened)
        project.login_listeners.add(self._login_changed)
        project.state_listeners.add(self._state_changed)
        project.closers.append(self._close)
        project.refused = self.refused
        self._open_if_there()
        self._looking: asyncio.Task[None] | None = None
        project.thread.post(self._look_for_file)

    @property
    def owner(self) -> Owner:
        """Whose writes are made now."""
        return Owner(self.project.url, self._login, self._session)

    @property
    def path(self) -> Path:
        """The queue's file: one a project and login, unless it was given."""
        return self._path or path_for(self.owner)

    @property
    def outbox(self) -> Outbox:
        """The queue; an empty one without a file while nothing was written."""
        return self._empty if self._open is None else self._open.outbox

    @cached_property
    def _empty(self) -> Outbox:
        empty = Outbox(IN_MEMORY)
        weakref.finalize(self, empty.close)
        return empty

    def table(self, driver: TableDriver) -> TableEdits:
        """The writing side of one live table."""
        return TableEdits(self, driver)

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

    def opened(self) -> _Open:
        """The open file; made if it is not there."""
        with self._lock:
            if self.project.closed:
                raise ClosedError("this session")
            if self._open is None:
                self._open = _Open(self, self.path, self.owner)
                self._open.outbox.adopt(self._ids)
                self._ids.add(self._open.outbox.session.id)
                self._tell_of_others(self._open.outbox)
                self._tell_of_waiting(self._open.outbox)
                self._tell_of_paused(self._open.outbox)
                self._tell_of_refused(self._open.outbox)
                for driver, on_merge in self._drivers.items():
                    self._open.add(driver, on_merge)
                self.project.thread.post(self._open.start)
            return self._open

    def known(self) -> _Open | None:
        """The file, if there is one."""
        return self._open

    def draws(self, column: ColumnName) -> bool:
        """Whether a sequence is known to give the column's keys; asks who can tell."""
        known = self.keys.known.get(column)
        if known is None and column not in self._asked:
            self._asked.add(column)
            thread = self.project.thread
            thread.post(lambda: thread.spawn(self.keys.look(column, self._ask), "keys"))
        return bool(known)

    async def _ask(self, query: Query) -> Page:
        return await self.project.rest.fetch("public", key_cache.FUNCTION, query)

    def _fetch(self, query: Query) -> Sequence[Any]:
        """What ``query`` gives; waits for it."""
        try:
            return self.project.thread.wait(self._ask(query), DRAW_SECONDS).rows
        except TimeoutError:
            raise UnreachableError(self.project.url, "no answer in time") from None

    def wait_for(self, editor: Editor, ids: Collection[str]) -> None:
        """Wait until operations of a table are settled or set aside, and what they did is shown.

        One that has not left after `LEAVE_SECONDS` is waited for no more.
        """
        changed = threading.Event()
        outbox = self.opened().outbox
        self.tell_worker(Worker.wake)
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
        self.project.thread.wait(asyncio.sleep(0))  # the loop shows right after it has put down

    def tell_worker(self, what: Callable[[Worker], object]) -> None:
        """Have something said to the worker, on the loop, if there is one."""
        if self._open is not None:
            self.project.thread.post(what, self._open.worker)

    def on_merge(self, driver: TableDriver, fn: OnMerge) -> Callable[[], None]:
        """Call ``fn`` with the records of each merge of a table; gives back how to stop it."""
        return self._drivers[driver].add(fn)

    def decided(self) -> None:
        """Something in the queue was retried, edited or discarded: show it, and go on."""
        worker = None
        with self._lock:
            if self._open is not None:
                for editor in self._open.editors.values():
                    editor.refresh()
                worker = self._open.worker
        if worker is not None:  # awake when this is over: `flush` then asks whether it may send
            self.project.thread.call(worker.wake)

    def send(self) -> None:
        """Have what waits sent now."""
        opened = self._open
        if opened is not None:  # awake when this is over, as after `decided`
            self.project.thread.call(opened.worker.wake)

    def pause(self, paused: bool = True) -> None:
        self.paused = paused
        opened, thread = self._open, self.project.thread
        if opened is not None:
            opened.outbox.pause(paused)
            thread.call(opened.worker.pause if paused else opened.worker.resume)
            if paused and not thread.here:  # what is edited when this returns waits
                thread.wait(opened.worker.taken())

    def held(self) -> str:
        """Why waiting writes are not sent; empty if they are."""
        if self.paused:
            return "the queue is paused: resume() it"
        refused = "" if self._open is None else self._open.worker.outcomes.unauthorized
        return (
            f"the server refuses the login ({refused}): sign_in() or set_auth()" if refused else ""
        )

    def refused(self) -> str:
        """What the server refused, and what is in conflict, in a sentence; empty: nothing.

        On the loop as it was last looked at.
        """
        opened = self._open
        if opened is None:
            return ""
        if not self.project.thread.here:
            with contextlib.suppress(QueueError):  # damaged, or closed this moment
                opened.refused, opened.asking = self.outbox.undecided()
        then = "rt.queue.df lists it: rt.queue.retry() sends it again, .discard(id) drops it"
        said = refused(*opened.refused, then), undecided(*opened.asking)
        return "; ".join(filter(None, said))

    def listen(self, fn: Callable[[], object]) -> Callable[[], None]:
        return self.listeners.add(fn)

    def _tell_of_others(self, outbox: Outbox) -> None:
        """Say, once of each, whose writes the file holds besides."""
        others = {
            owner: number
            for owner, number in outbox.others().items()
            if (owner.project, owner.login) != (self.owner.project.rstrip("/"), self._login)
        }
        for owner in others.keys() - self._told:
            number = others[owner]
            text = printable(
                f"{number} unsent {'write' if number == 1 else 'writes'} in {outbox.path} "
                f"{'is' if number == 1 else 'are'} of {owner.words}: kept until that login comes"
            )
            logger.warning(text)
            self.project.thread.post(self.project.note, "info", text)
        self._told |= others.keys()

    def _tell_of_waiting(self, outbox: Outbox) -> None:
        """Say what other sessions have left that is sent as this one connects."""
        waiting = outbox.counts()["waiting"] - len(outbox.left())
        if waiting > 0:
            writes = "1 write" if waiting == 1 else f"{waiting:,} writes"
            logger.info("%s of other sessions %s sent", writes, "is" if waiting == 1 else "are")

    def _tell_of_paused(self, outbox: Outbox) -> None:
        """Say that edits of a session that ended while paused wait: they are not sent before ``resume``."""
        left = outbox.left()
        if not left:
            return
        one, by = len(left) == 1, whose(left[-1], outbox.sessions())
        text = printable(
            f"{len(left)} {'edit' if one else 'edits'} of another session {'waits' if one else 'wait'}, "
            f"the last by {by}: rt.queue.resume() or rt.queue.retry() sends {'it' if one else 'them'}"
        )
        logger.warning(text)
        self.project.thread.post(self.project.note, "info", text)

    def _tell_of_refused(self, outbox: Outbox) -> None:
        """Say that edits of earlier sessions were refused: tables still show them.

        A script that only reads is not bothered: it finds it in ``repr``, ``reason`` and health.
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

    def _look_for_file(self) -> None:
        if not self.project.closed:
            self._looking = self.project.thread.spawn(
                self._open_once_there(), "looking for the queue's file"
            )

    async def _open_once_there(self) -> None:
        """Open the file that another session makes: what is edited there is shown here, too."""
        with contextlib.suppress(QueueError):  # a file that is no queue: who writes is told
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
            self.tell_worker(Worker.wake)

    def _login_changed(self) -> None:
        login, self._login = self._login, self.project.credentials.login
        if login == self._login:
            self.tell_worker(Worker.wake)
            return
        # What the other login has queued is not this one's to show or to send.
        with self._lock:
            old, self._open = self._open, None
            if old is not None:
                old.take_away()
        if old is not None:
            self.project.thread.spawn(old.aclose(), "close the queue")
        self._open_if_there()

    async def _close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        with self._lock:
            old, self._open = self._open, None
        if old is not None:
            await old.linger()
            if not has_front_end():  # a notebook's widgets have shown it
                with contextlib.suppress(QueueError):  # the file has been damaged meanwhile
                    await old.worker.outcomes.on_disk(old.tell_what_is_left)
            await old.aclose()


class _Open:
    """The file of one login, open; ``start`` lets its worker run on the loop."""

    def __init__(self, writes: Writes, path: Path, owner: Owner) -> None:
        project = writes.project
        self.writes = writes
        self.owner = owner
        self.project = project
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
        self.worker.paused = writes.paused
        if writes.paused:
            self.outbox.pause(True)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self.refused: tuple[int, Op | None] = (0, None)
        """How many operations were refused, and the last of them, as was last looked at."""
        self.asking: tuple[int, Op | None] = (0, None)
        """How many are in conflict, likewise."""
        self._recount = False
        self._counting: asyncio.Task[None] | None = None
        self._waited = False
        """It was said that something waits for the network."""
        self._closed = False
        self.outbox.subscribe(self._changed)

    @property
    def _ours(self) -> bool:
        """Nobody else has signed in meanwhile."""
        return self.project.credentials.login == self.owner.login

    def _count_written(self, rows: int) -> None:
        """Rows were written here: the server tells of them, or drops that, too."""
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
        """Look what was refused or asks, and whether anything waits; many are counted at once."""
        self._recount = True
        if self._counting is None:
            self._counting = self.project.thread.spawn(self._count(), "what was refused")

    async def _count(self) -> None:
        with contextlib.suppress(QueueError):  # damaged, or closed meanwhile
            while self._recount:
                self._recount = False
                self.refused, self.asking = await self.worker.undecided()
                self.project.look_at_health()
                await self._tell_of_waiting()
                await asyncio.sleep(COUNT_SECONDS)
        self._counting = None

    def add(self, driver: TableDriver, on_merge: Merges) -> None:
        """An editor for a table that is open."""
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
        """Lay nothing over the tables any more; what was laid over them has gone with their rows."""
        for editor in self.editors.values():
            self.editing.forget(editor)
        self.editors.clear()

    def _changed(self) -> None:
        self.project.services.lock.soon(self._look)
        self.writes.listeners.tell()

    def _look(self) -> None:
        """The queue has changed: there may be something to send, and something to say."""
        if self._closed:  # this was asked for before
            return
        if self.outbox.more:
            self.worker.waking.set()
        self._news.set()
        if self.refused[0] or self.asking[0] or self._offline != self._waited:
            self._count_refused()

    @property
    def _offline(self) -> bool:
        """What this login writes has to wait for the network."""
        return (self.worker.outcomes.offline or not self.project.reachable) and self._ours

    async def _tell_of_waiting(self) -> None:
        """Say, once, that something waits for the network, or that all of it was sent."""
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
        """Wait until what can leave has left."""
        on_disk = self.worker.outcomes.on_disk
        await on_disk(self.outbox.hurry)
        self._news.clear()
        while await on_disk(self.outbox.next_at) is not None:
            await self._news.wait()
            self._news.clear()

    async def linger(self) -> None:
        """Let the last writes leave, where they can."""
        worker, outcomes = self.worker, self.worker.outcomes
        away = outcomes.offline or worker.paused or outcomes.unauthorized
        if self._ours and self.project.reachable and not away:
            with contextlib.suppress(TimeoutError, QueueError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._sent()

    def tell_what_is_left(self) -> None:
        """Said once, as the session closes: a script has no other way to know."""
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
            by = whose(refused[-1], self.outbox.sessions())
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
            await beside(self.outbox.close)  # its last commit waits for the disk


class TableEdits(msgspec.Struct, frozen=True):
    """The writing side of one live table, as its ``LiveFrame`` holds it."""

    writes: Writes
    driver: TableDriver

    def _are_there(self, columns: Collection[str]) -> bool:
        """Whether the table has these columns, as far as is known: one that is mistyped needs no grant."""
        schema = self.driver.schema
        return schema is None or bool(self.driver.spec.columns) or {*columns} <= schema.types.keys()

    def open(self, right: Right | None = None, columns: Collection[str] = ()) -> Editor:
        """Its editor, which knows these columns even where no row was there to name them; the queue's
        file is made if it is not there.

        Refuses a ``right`` that this login has no grant for, where the project tells its grants.
        """
        if right and not self.driver.grants.allow(right) and self._are_there(columns):
            spec, role = self.driver.spec, self.writes.project.credentials.role
            named = columns if right == "update" else ()
            raise PermissionDeniedError(spec.schema, spec.table, role, right, columns=named)
        self.driver.know(columns)
        editor = self.writes.opened().editors.get(self.driver)
        if editor is None:  # it was closed, perhaps while the columns were asked for
            raise ClosedError(f'table "{self.driver.spec.table}"')
        return editor

    def known(self) -> Editor | None:
        """Its editor, if there is a queue."""
        opened = self.writes.known()
        return None if opened is None else opened.editors.get(self.driver)

    def granted(self, right: Right) -> bool:
        """Whether this login has the grant, as far as is known; never waits."""
        return self.driver.grants.allow_as_known(right)

    def insert(self, values: Mapping[str, Any]) -> Key:
        """Insert a row; what it lacks of the key is made or drawn. Gives the key."""
        editor = self.open("insert", values)
        wanted = editor.drawn(values)
        undrawn: ServerMakesKeyError | None = None
        try:
            row = {**values, **self._draw(editor, values, wanted)}
        except ServerMakesKeyError as error:
            undrawn = error
        # Outside of the except block, whose error would be told as the cause of what is raised here.
        if undrawn is not None:
            self._may_go_unkeyed(editor, wanted[-1], undrawn)
            return self._inserted(editor, wanted[-1], editor.insert_unkeyed(values))
        return editor.insert(row, *wanted[-1:])

    def write_many(
        self, data: object, *, upsert: bool = False, on: Sequence[str] = ()
    ) -> WriteReport:
        """Insert or upsert rows; what they lack of the key is made or drawn."""
        editor = self.open("insert", columns_of(data))
        if upsert:
            editor = self.open("update")
        rows = editor.given(data, "upsert" if upsert else "insert", on)
        unkeyed = False
        for row in rows:
            wanted = editor.drawn(row.values)
            row.unkeyed = bool(wanted) and unkeyed
            if not wanted or unkeyed:
                continue
            try:
                row.values |= self._draw(editor, row.values, wanted)
                row.drawn = wanted[-1]
            except ServerMakesKeyError as why:
                self._may_go_unkeyed(editor, wanted[-1], why)
                row.unkeyed = unkeyed = True
        names = tuple(getattr(getattr(data, "index", None), "names", (None,)))
        report = editor.write_many(rows, upsert=upsert, name=names if len(names) > 1 else names[0])
        if unkeyed:
            self.writes.wait_for(editor, report.ops)
        return report

    def _may_go_unkeyed(self, editor: Editor, column: str, why: ServerMakesKeyError) -> None:
        """Raise if the server cannot make the key of a row right now."""
        held = "in a batch rows need their keys" if editor.in_batch else self.writes.held()
        if held:
            raise editor.keyless(column, f"{held}; {why}") from None

    def _inserted(self, editor: Editor, column: str, op: Op) -> Key:
        """Wait for a row whose key the server makes, and give that.

        A row that has not left when the time is over is taken back, and so is one that was refused: whoever
        waits is told. One that may be in stays in the queue.
        """
        outbox, table = self.writes.outbox, editor.table
        self.writes.wait_for(editor, [op.id])
        left = outbox.get(op.id)
        if left is None:
            row = outbox.fate(op.id)[1]
            if row is None:
                raise QueueError(f'table "{table}": the row was discarded before it was inserted')
            return editor.key_of(row)
        if left.state == "failed" and not left.sent:
            outbox.discard(op.id)
            raise editor.refusal(f"the server refuses the row: {left.error}")
        if outbox.take_back([Put(op)]):
            reason = f"cannot reach {self.writes.project.url}, and only the server makes it: "
            raise editor.keyless(column, reason + AHEAD)
        raise AnswerLostError(editor.schema_name, table, op.id)

    def _draw(
        self, editor: Editor, values: Mapping[str, Any], wanted: Sequence[str]
    ) -> dict[str, int]:
        """The ``wanted`` columns of the key of a new row, drawn; together with ``values`` no row has it."""
        if not wanted:
            return {}
        for _ in range(MAX_TAKEN_KEYS):
            drawn = {column: self._take(editor, column) for column in wanted}
            if not editor.has({**values, **drawn}):
                return drawn
        raise editor.overtaken(wanted[-1])

    def _take(self, editor: Editor, column: str) -> int:
        try:
            return self.writes.keys.take((editor.schema_name, editor.table, column))
        except ServerMakesKeyError:
            raise
        except NoKeyDrawnError as error:
            raise editor.keyless(column, str(error)) from None

    def fills(self, column: Column) -> bool:
        """Whether a new row may go without this column of the key, as far as is known."""
        spec, pg_type = self.driver.spec, canonical(column.pg_type)
        if pg_type in INT_LIMITS:
            if self.driver.machine.described.grants is not None and not column.filled:
                return False  # the table's own description knows of no default and no sequence
            return self.writes.draws((spec.schema, spec.table, column.name))
        return pg_type == "uuid"

    def on_merge(self, fn: OnMerge) -> Callable[[], None]:
        """Call ``fn`` with the records of each merge; gives back how to stop it."""
        return self.writes.on_merge(self.driver, fn)

    def columns_suspect(self) -> None:
        """What is known of the columns has refused something: learn them again."""
        self.driver.columns_suspect()
