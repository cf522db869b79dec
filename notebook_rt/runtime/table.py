"""The driver of one live table, with the features that a query does not have.

Its rows lie under local edits (``overlay``) and can have their own order; changes are reported as its view
shows them. The table can be stored on disk, its past can be recorded, and it can start lazily.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Literal

import pandas as pd
import pyarrow as pa

from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import (
    MissingColumnError,
    NotebookRTError,
    NotPublishedError,
    UnreachableError,
    why_empty,
)
from notebook_rt.model.rows import Key, Row, RowChange, Rows
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Backend, Schema
from notebook_rt.runtime.driver import Driver
from notebook_rt.runtime.feed import T
from notebook_rt.runtime.grants import KNOW_SECONDS, Grants
from notebook_rt.runtime.keeping import Disk, Keeping, Warm
from notebook_rt.runtime.services import Services
from notebook_rt.runtime.waiting import Question
from notebook_rt.store.journal import JournalledTable
from notebook_rt.store.marks import Mark
from notebook_rt.store.order import Ordered
from notebook_rt.store.reporter import Reporter
from notebook_rt.store.table import Table
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.events import (
    ColumnsSuspect,
    Effect,
    Event,
    Gap,
    Logged,
    Ranked,
    ReceivedMany,
    RowSuspect,
)
from notebook_rt.sync.table.mirror import Mirror

if TYPE_CHECKING:
    from notebook_rt.runtime.recording import Recording

FLOOD = 50
"""Number of changes per batch from which their old and new rows are computed lazily."""
LOOK_EVERY = 0.01
"""Seconds between two checks whether changes are followed, while a caller waits for that."""
ANOTHER_LOGIN = "another login"
"""Reason while the rows shown may be invisible to this login."""


class TableDriver(Driver):
    """See the module docstring."""

    machine: Mirror

    def __init__(
        self,
        spec: TableSpec,
        topic: str,
        services: Services,
        *,
        dtype_backend: Backend = None,
        priority: Priority = "normal",
        strategies: Strategies | None = None,
        lazy: bool = False,
    ) -> None:
        super().__init__(spec, topic, services, dtype_backend=dtype_backend, priority=priority)
        self.lazy = lazy
        """Whether it starts with the first use and stops when it is no longer used."""
        self.used_at = 0.0
        self.strategies = strategies or Strategies()
        self.overlay: Overlay | None = None
        """The overlay of local edits; None before the first snapshot."""
        self.on_shown: list[Callable[[Overlay], None]] = []
        """Called with a new overlay before its rows are visible."""
        self._reporter = Reporter()
        self._edited: list[Sequence[RowChange]] = []
        """Changes of the view by local edits that are not reported yet."""
        self._edits = 0
        self._edits_reported = 0
        self._questions: list[Question] = []
        self._shown: JournalledTable | None = None
        self._made: dict[int, JournalledTable] = {}
        self.grants = Grants(self)
        """The grants of the login on the table."""
        self.disk: Disk | None = None
        """Writes the past to the disk."""
        self.keeping: Keeping | None = None
        """Stores the table on disk; None if not requested."""
        self.recording: Recording | None = None
        """Records the past; None if not requested."""
        self._early: list[Event] | None = None
        """Events that arrive while the stored table is read; None afterwards."""

    def _make_machine(self) -> Mirror:
        services = self.services
        return Mirror(self.spec, self._make_rows, services.options, services.rate, services.phase)

    # Life

    def start(self) -> None:
        """Start; a lazy table with its first use."""
        if not self._started and not (self.lazy and not self.used_at):
            self._started = True
            if self.keeping is not None and self.keeping.is_there:
                self._early = []
                self.thread.spawn(self._begin_warm(self.keeping), "read a kept table")
            else:
                self._begin()
            if self.lazy:
                self._leave_if_unused()

    def touch(self) -> None:
        self.used_at = time.monotonic()
        if not self._started and self.status != "closed":
            self.thread.call(self.start)

    def _leave_if_unused(self) -> None:
        """Leave the channel when there are no listeners and the table was not used for a while."""
        if self.status == "closed":
            return
        if self.awaited:  # regardless of the duration of the first load
            self.used_at = time.monotonic()
        idle = time.monotonic() - self.used_at
        unused = not self.listeners and self.recording is None
        if unused and idle >= self.options.lazy_after:
            self.place.leave()
            self._forget()  # also that the channel was left: that is no reason to poll
            self._reporter = Reporter()  # it would keep the rows
            self._started, self.used_at = False, 0.0
            self.set_status("loading", "nobody looks")
            return
        loop = asyncio.get_running_loop()
        loop.call_later(max(1.0, self.options.lazy_after - idle), self._leave_if_unused)

    def keep(self, disk: Disk, asked: bool) -> None:
        """Store the table on disk from now on; ``asked``: because it was requested for this table."""
        if self.keeping is None:
            try:
                self.keeping = Keeping(self, disk, asked)
            except OSError as error:
                disk.say(f'table "{self.name}" cannot be kept on disk: {error}')
                return
            self.keeping.schedule()
        self.keeping.asked |= asked

    def record(self, span: int, most: int, on_disk: bool = False) -> Recording:
        """Record the past from now on, or continue; ``span`` in microseconds, ``most`` in bytes."""
        from notebook_rt.runtime.recording import Recording

        if self.recording is None:
            self.recording = Recording(self, span, most)
            self.recording.start()
        self.recording.bound(span, most)
        if on_disk and self.disk is not None:
            self.recording.archive(self.disk)
        return self.recording

    async def arrived(self) -> None:
        """Wait until changes are followed, if that is imminent: an earlier recording starts with a gap."""
        while (  # noqa: ASYNC110 - not every condition tells when it changes
            self.status not in ("closed", "error")
            and self.machine.arriving(time.monotonic())
            and self.services.in_grace()
            and not self.place.crowded
        ):
            await asyncio.sleep(LOOK_EVERY)

    async def _begin_warm(self, keeping: Keeping) -> None:
        """Show the stored rows, then start with them. No request is sent before."""
        try:
            warm = await keeping.read()
            if warm is not None and self._early is not None:
                await self._show_kept(warm)
        finally:
            early, self._early = self._early, None
            if early is not None and self._started:
                self._begin()
                for event in early:
                    self._feed(event)

    async def _show_kept(self, warm: Warm) -> None:
        schema = warm.kept.schema
        try:
            rows = self._make_rows(schema)
        except MissingColumnError:  # of another table: the server knows the columns
            return
        self._made[id(rows)].adopt(warm.table)
        self._show(rows, schema, warm.ranked)
        with self.services.lock:
            self._reporter.report(())  # the first rows shown are not a change
        said = warm.said(dt.datetime.now(dt.UTC))
        self.synced_at = pd.Timestamp(warm.as_of)
        self.version += 1
        self.changed_at = time.monotonic()
        self.set_status("stale", said)
        self.wake_waiting(None)
        versions = await asyncio.to_thread(warm.versions.by_key)
        if self._early is not None:
            memory = warm.kept.latest.memory
            self.machine.resume(rows, schema, warm.kept.known, versions, memory, said)

    def close(self) -> None:
        if self.status == "closed":
            return
        self._early = None
        if self.keeping is not None:
            self.keeping.close()
        if self.recording is not None:
            self.recording.close()
        super().close()

    def login_changed(self) -> None:
        self._publish_edits()
        super().login_changed()

    def _drop(self) -> Sequence[RowChange]:
        gone: Sequence[RowChange] = ()
        if self.listeners:
            gone = self._reporter.drop()
        else:  # no report has to be revoked
            self._reporter = Reporter()
        self._forget()
        if self.recording is not None:
            self.recording.drop()
        self.grants.forget()
        return gone

    def _renew(self) -> None:
        if self.recording is not None:
            self.recording.lose(self.reason)
        super()._renew()
        self._made.clear()

    def _forget(self) -> None:
        self._early = None  # the rows being read from the disk are no longer shown
        super()._forget()
        self.overlay = self._shown = None

    # State; from any thread

    @property
    def source(self) -> Literal["changes", "broadcast"] | None:
        """How changes are received; None until that is known."""
        return self.machine.source

    @property
    def scope(self) -> str:
        return self.machine.scope

    def why_empty(self) -> str:
        if self.spec.filter or not (self._empty and self.machine.may_be_hidden):
            return super().why_empty()
        role, spec = self.services.rest.credentials.role, self.spec
        described = self.machine.described
        shows_some = bool(described.policies & {"select", "*"})
        return why_empty(
            spec.schema, spec.table, role, described.row_security, shows_some=shows_some
        )

    @property
    def declared(self) -> bool:
        return self.machine.complete

    @property
    def is_warm(self) -> bool:
        return self.machine.is_warm

    @property
    def why_undeclared(self) -> str:
        if self.declared:
            return ""
        return (
            f'table "{self.name}" was empty when it was opened, so no row has named its columns yet: '
            "wait for its first row, name them with columns=[...], or run the SQL of "
            "`notebook-rt doctor --sql` once"
        )

    @property
    def answered(self) -> bool:
        """Whether REST has said whether there is such a table."""
        failed = self.error is not None and not self._retrying
        return failed or self.machine.schema is not None

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        error, final = super().refusal(message)
        if isinstance(error, NotPublishedError):
            spec, told = self.spec, self.machine.described
            keyless = None if told.grants is None else not told.key
            if keyless is None and not spec.key:  # a key was found
                keyless = False
            error = NotPublishedError(
                spec.schema, spec.table, told.kind, keyless=keyless, key=spec.key or ()
            )
        return error, final

    # Events

    def handle(self, event: Event) -> Callable[[], None]:
        if self._early is not None:
            self._early.append(event)
            return lambda: None
        with self.services.lock:
            edited, self._edited = self._edited, []
            carry_out = super().handle(event)
        if not edited:
            return carry_out

        def report_and_carry_out() -> None:
            for changes in edited:  # before later ones
                self.publish(changes, "edit")
            carry_out()

        return report_and_carry_out

    @contextmanager
    def _applying(self, event: Event) -> Iterator[None]:
        """During a flood without listeners, compute only the changes that are still in the log when it is
        read.
        """
        flood = isinstance(event, ReceivedMany) and len(event.changes) >= FLOOD
        if not flood or self.listeners or self._shown is None or not self._reporter.plain:
            yield
            return
        self._shown.defer = True
        try:
            yield
        finally:
            self._shown.defer = False

    def _on_effects(self, event: Event, effects: Sequence[Effect]) -> None:
        if self._checks.waiting:
            self._checks.decided(self.machine.undecided)
        if self.recording is not None:
            self.recording.receive(effects)
        if self.keeping is not None:
            if isinstance(event, Gap) and event.reason == ANOTHER_LOGIN:
                self.keeping.arm()
            self.keeping.schedule()

    def _carry(self, effect: Effect) -> None:
        match effect:
            case Ranked(keys):
                if self.ordered is not None:
                    self.ordered.rank(keys)
                    self._handle_reorder()
            case Logged("learnt", detail):
                for question in self._questions:
                    question.learnt(detail["named"])
            case Logged("source", detail):
                self.services.on_note(
                    "info",
                    f'table "{self.spec.table}": the database does not broadcast its changes to it '
                    f"({detail['reason']}); they come by Postgres Changes",
                )
            case _:
                super()._carry(effect)

    # Local edits, laid over on whatever thread made them; the caller holds the lock

    def edited(self, changes: Sequence[RowChange]) -> None:
        """Schedule the report of an edit's change of the view on the loop, in order with others."""
        if self.overlay is None:  # the view has gone meanwhile, with the login
            return
        self._edited.append(changes)
        self._edits += 1
        self.services.lock.soon(self._publish_edits)

    def columns_suspect(self) -> None:
        """Schedule a new load of the columns on the loop, because they may be outdated."""
        self.thread.post(self._feed, ColumnsSuspect())

    def _row_suspect(self, key: Key) -> None:
        """Schedule a read of a row, because the order of a change and a write's answer is unknown."""
        self.thread.post(self._feed, RowSuspect(key))

    def know(self, columns: Collection[str]) -> None:
        """Ask the server for columns that an edit names, if no row has named them all yet, and wait.

        Raises
        ------
        UnreachableError
            If the server does not answer in time.
        """
        schema = self.schema
        unknown = tuple(name for name in columns if schema is not None and name not in schema.types)
        kept = (
            self._early is not None
        )  # the stored table is being read: its columns are unknown yet
        if not unknown or (self.machine.described.complete and not kept):
            return
        question = Question(unknown)

        def ask() -> None:
            self._questions.append(question)
            self._feed(ColumnsSuspect(unknown))

        self.thread.call(ask)
        try:
            question.future.result(KNOW_SECONDS)
        except concurrent.futures.TimeoutError:
            what = f'the columns of "{self.name}" are asked for, and there is no answer in time'
            raise UnreachableError(self.services.rest.url, what) from None
        finally:
            self.thread.call(self._questions.remove, question)

    def _publish_edits(self) -> None:
        with self.services.lock:
            edited, self._edited = self._edited, []
            edits = self._edits
        for changes in edited:
            self.publish(changes, "edit")
        self._edits_reported = edits

    def catch_up(self) -> None:
        super().catch_up()
        if self._edits_reported != self._edits:
            self.thread.call(self._publish_edits)

    def snapshot(self) -> pd.DataFrame | None:
        with self._read_lock():
            return super().snapshot()

    def arrow(self) -> pa.Table | None:
        with self._read_lock():
            return super().arrow()

    def shown(self, read: Callable[[Table | Ordered], T]) -> tuple[T, Mark] | None:
        with self._read_lock():
            return super().shown(read)

    def _read_lock(self) -> AbstractContextManager[object]:
        """The lock for a reader: without edits and order, the table's own lock suffices."""
        overlay = self.overlay
        plain = self.ordered is None and (overlay is None or overlay.transparent)
        return nullcontext() if plain else self.services.lock

    def _make_rows(self, schema: Schema) -> Rows:
        for column in self.strategies.columns:
            if column not in schema.types:
                names = schema.names
                raise MissingColumnError(self.spec.schema, self.spec.table, column, names)
        table = JournalledTable(schema, self.dtype_backend)
        matches = partial(self._matches, schema)
        overlay = Overlay(table, schema, self.strategies, matches, self._row_suspect)
        self._made[id(overlay)] = table
        return overlay

    def _matches(self, schema: Schema, row: Row) -> bool | None:
        return self.spec.filter.matches(row, schema)

    def _show(
        self, rows: Rows, schema: Schema, ranked: Sequence[Key], before: float | None = None
    ) -> None:
        assert isinstance(rows, Overlay)  # created by _make_rows
        table = self._made[id(rows)]
        # A later one is being loaded: columns may change again before this one is shown.
        made = list(self._made)
        self._made = {one: self._made[one] for one in made[made.index(id(rows)) :]}
        spec, carried = self.spec, self._carried(schema)
        self._shown = table
        with self.services.lock:
            edited, self._edited = self._edited, []
            for changes in edited:  # of the previous table
                self.publish(changes, "edit")
            self.schema = schema.project([name for name in schema.names if name not in carried])
            self.overlay = rows
            for listener in tuple(self.on_shown):
                listener(rows)
            self._edited = []  # what was laid over it is among the differences
            ordered = None
            if spec.order or spec.limit is not None:
                ordered = Ordered(table, spec.order, spec.limit, carried)
                ordered.rank(ranked)
            self.ordered, self.table = ordered, table
            self._reporter.show(table, ordered)
        if self.recording is not None:
            self.recording.show(rows, before=before)

    def _carried(self, schema: Schema) -> set[str]:
        """The columns that are read only for the order, and not shown."""
        spec = self.spec
        if spec.columns is None:
            return set()
        asked = {*spec.columns, *schema.key, spec.watermark}
        return {term.column for term in spec.order} - asked

    def publish(
        self, changes: Sequence[RowChange], cause: str, commit_time: float | None = None
    ) -> None:
        """Report the effect of a table's change on the view."""
        with self.services.lock:
            told = self._reporter.report(changes)
        super().publish(told, cause, commit_time)

    def _is_of_now(self, cause: str) -> bool:
        """Return whether a batch proves the other rows: not while a gap is open."""
        return super()._is_of_now(cause) and (cause == "snapshot" or self.machine.gapless)

    def _handle_reorder(self) -> None:
        """Handle a new order, in which other rows may be among the first."""
        with self.services.lock:
            told = self._reporter.report(())
        if told:
            super().publish(told, "refill")
