"""One live table's driver: feeds the mirror with what happens, and carries out what it says.

Everything runs on the loop thread; the user's thread reads ``table`` (which has a lock of its own)
and the plain attributes, and waits with ``wait_ready``. What the socket (its ``Subscription``) and REST
bring comes through one bounded ``Buffer``, in order.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa

from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import (
    AuthError,
    ClosedError,
    FilterError,
    MissingColumnError,
    NotebookRTError,
    NotPublishedError,
    ProtocolError,
    ServerError,
    UnreachableError,
    why_empty,
)
from notebook_rt.model.rows import Key, Row, RowChange, Rows, at_most
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Backend, Schema
from notebook_rt.net.loop import WakingLock
from notebook_rt.runtime.buffer import Buffer
from notebook_rt.runtime.feed import Feed, T, Verdict
from notebook_rt.runtime.grants import KNOW_SECONDS, Grants
from notebook_rt.runtime.keeping import Disk, Keeping, Warm
from notebook_rt.runtime.lateness import Lateness
from notebook_rt.runtime.reader import Reader
from notebook_rt.runtime.services import Services
from notebook_rt.runtime.subscription import Subscription
from notebook_rt.runtime.waiting import Checks, Question
from notebook_rt.store.journal import JournalledTable
from notebook_rt.store.marks import Mark
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.store.telling import Telling
from notebook_rt.sync.connection.health import TableFacts
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.events import (
    AuditNow,
    Broken,
    Cancel,
    Closed,
    ColumnsSuspect,
    Effect,
    Event,
    Failed,
    Fetch,
    Gap,
    Progress,
    Published,
    Ranked,
    ReceivedMany,
    Rejoin,
    RowSuspect,
    Shown,
    Status,
    StatusChanged,
    Tick,
    Told,
    Turn,
    TurnOver,
    TurnWanted,
    Wake,
)
from notebook_rt.sync.query.requery import Requery
from notebook_rt.sync.table.again import Again
from notebook_rt.sync.table.mirror import Mirror

if TYPE_CHECKING:
    from notebook_rt.runtime.recording import Recording

logger = logging.getLogger("notebook_rt")

FLOOD = 50
"""Changes in one batch from which on their old and new rows are worked out later, if ever."""
LOOK_EVERY = 0.01
"""Seconds between two looks whether changes are followed, while somebody waits for that."""
ANOTHER_LOGIN = "another login"
"""Why what is shown may be what this login does not see."""


class TableDriver(Feed):
    """One mirrored table: its mirror, its store, its listeners.

    ``topic`` names its channel. Made on any thread; ``start`` begins.
    """

    why_not_compared = ""

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
        super().__init__(spec.table, services.thread, services.options, services.metrics)
        self.spec = spec
        self.services = services
        self.dtype_backend: Backend = dtype_backend
        self.drifted = 0
        """Rows in which the last audit found a difference."""
        self.replaced = False
        """Whether the last audit has replaced rows."""
        self.audited_at: float | None = None
        """Monotonic time of the last audit; None before the first."""
        self._checks = Checks()
        self._questions: list[Question] = []
        self.mirror = self._machine()
        self.lazy = lazy
        """Begins when it is looked at, and ends when it is not any more."""
        self.looked_at = 0.0
        self.strategies = strategies or Strategies()
        self.overlay: Overlay | None = None
        """Local edits are laid over the table here; None before the first snapshot."""
        self.on_shown: list[Callable[[Overlay], None]] = []
        """Called with a new overlay before anybody sees what is under it."""
        self._telling = Telling()
        self._edited: list[Sequence[RowChange]] = []
        """What local edits did to the view, and who listens was not told yet."""
        self._edits = 0
        self._edits_told = 0
        self._shown: JournalledTable | None = None
        self._made: dict[int, JournalledTable] = {}
        options = services.options
        self._buffer = Buffer(options.buffer_size, options.batch_size, self._feed)
        # Through the buffer: what the socket brought before an answer comes before it.
        self._reader = Reader(spec, services, self.contact, self._buffer.event)
        self._timer: asyncio.TimerHandle | None = None
        self._again = Again(options, random.random)
        self._again_timer: asyncio.TimerHandle | None = None
        self._asking_again = False
        """In error, and tried anew beneath it."""
        self._lateness = Lateness(self, self._buffer)
        self.grants = Grants(self)
        """What this login may do to the table."""
        self.subscription = Subscription(self, topic, self._buffer, priority)
        self.place = self.subscription.place
        self._started = False
        self.disk: Disk | None = None
        """Where its past may be written."""
        self.keeping: Keeping | None = None
        """Keeps it on disk; None: nobody asked for that."""
        self.recording: Recording | None = None
        """Records its past; None: nobody asked for that."""
        self._early: list[Event] | None = None
        """What happens while it is read what was kept; None: that is over."""

    def _machine(self) -> Mirror | Requery:
        """What decides; this carries out what it says."""
        services = self.services
        return Mirror(self.spec, self._make_rows, services.options, services.rate, services.phase)

    # Life

    def start(self) -> None:
        """Begin; a lazy one when somebody has looked."""
        if not self._started and not (self.lazy and not self.looked_at):
            self._started = True
            if self.keeping is not None and self.keeping.is_there:
                self._early = []
                self.thread.spawn(self._begin_warm(self.keeping), "read a kept table")
            else:
                self._begin()
            if self.lazy:
                self._see_who_looks()

    @property
    def lock(self) -> WakingLock:
        return self.services.lock

    @property
    def owner(self) -> tuple[str, str]:
        return self.services.owner

    def look(self) -> None:
        self.looked_at = time.monotonic()
        if not self._started and self.status != "closed":
            self.thread.call(self.start)

    def _see_who_looks(self) -> None:
        """Leave the channel when nobody listens and nobody has looked for a while."""
        if self.status == "closed":
            return
        idle = time.monotonic() - self.looked_at
        unused = not self.listeners and self.recording is None
        if unused and idle >= self.options.lazy_after:
            self.place.leave()
            self._forget()  # that it was left, too: it is no reason to poll
            self._telling = Telling()  # it would keep the rows
            self._started, self.looked_at = False, 0.0
            self.set_status("loading", "nobody looks")
            return
        loop = asyncio.get_running_loop()
        loop.call_later(max(1.0, self.options.lazy_after - idle), self._see_who_looks)

    def keep(self, disk: Disk, asked: bool) -> None:
        """Keep it on disk from now on; ``asked``: because somebody asked for this very table."""
        if self.keeping is None:
            self.keeping = Keeping(self, disk, asked)
            self.keeping.look()
        self.keeping.asked |= asked

    def record(self, span: int, most: int, on_disk: bool = False) -> Recording:
        """Record its past from now on, or go on with that; ``span`` in microseconds, ``most`` in bytes."""
        from notebook_rt.runtime.recording import Recording

        if self.recording is None:
            self.recording = Recording(self, span, most)
            self.recording.start()
        self.recording.bound(span, most)
        if on_disk and self.disk is not None:
            self.recording.archive(self.disk)
        return self.recording

    async def arrived(self) -> None:
        """Wait while changes are to be followed at any moment: what is recorded before begins with a gap."""
        while (  # noqa: ASYNC110 - not every condition tells when it changes
            self.status not in ("closed", "error")
            and self.mirror.arriving(time.monotonic())
            and self.services.calm()
            and not self.place.crowded
        ):
            await asyncio.sleep(LOOK_EVERY)

    async def _begin_warm(self, keeping: Keeping) -> None:
        """Show what was kept, then begin with it. Nothing is asked of the server before."""
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
        except MissingColumnError:  # of another table: the server says which columns there are
            return
        self._made[id(rows)].adopt(warm.table)
        self._show(rows, schema, warm.ranked)
        with self.services.lock:
            self._telling.tell(())  # what is shown first is no change
        said = warm.said(dt.datetime.now(dt.UTC))
        self.synced_at = pd.Timestamp(warm.as_of)
        self.version += 1
        self.changed_at = time.monotonic()
        self.set_status("stale", said)
        self.settle(None)
        versions = await asyncio.to_thread(warm.versions.by_key)
        if self._early is not None and isinstance(self.mirror, Mirror):
            memory = warm.kept.latest.memory
            self.mirror.resume(rows, schema, warm.kept.known, versions, memory, said)

    def _begin(self) -> None:
        self.services.registry.needed.set()
        self.mirror.want_changes = True
        self._feed(Tick())
        if self._asking_again:
            return  # no channel for a table that is not there: it is joined once REST has spoken
        self.subscription.rejoin()  # where it is not known yet what to join, a Rejoin comes

    def close(self) -> None:
        """The last user let go."""
        if self.status == "closed":
            return
        self._early = None
        if self.keeping is not None:
            self.keeping.close()
        if self.recording is not None:
            self.recording.close()
        self._feed(Closed())
        self.set_status("closed", "closed")
        self.subscription.close()
        self._stop_work()
        self.settle(ClosedError(f'table "{self.spec.table}"'))

    def restart(self) -> None:
        """Begin anew after a failure that something may have mended: a new token, the user's SQL."""
        if self.error is not None and self._started:
            self._forget()
            self.set_status("loading", "starting again")
            self._begin()

    def retry(self) -> None:
        """The user asks: try anew now what has failed; the error stands until there is something to show."""
        if self.error is not None and self._started and self.status != "closed":
            self._ask_again()

    def login_changed(self) -> None:
        """Show nothing any more of what another login saw, and begin anew as the present one."""
        if not self._started or self.status == "closed":
            return
        filled = self.filled
        self.subscription.leave_login()
        self._publish_edits()
        with self.services.lock:
            gone: Sequence[RowChange] = ()
            if self.listeners:
                gone = self._drop()
            else:  # nobody was told anything that is to be taken back
                self._telling = Telling()
            self._forget()
            if self.recording is not None:
                self.recording.drop()
            self.grants.forget()
        self.set_status("loading", "another login: its rows are read")
        self.login_version = self.version + filled
        if filled:
            super().publish(gone, "login")
        self.synced_at = None
        self.log.clear()
        self._logged = 0
        self._begin()
        if self._checks.waiting:
            self._checks.again()
            self._feed(AuditNow())

    def _drop(self) -> Sequence[RowChange]:
        """What is to be told when nothing is shown any more."""
        return self._telling.drop()

    def _ask_again(self) -> None:
        """Try anew what has failed; the error stands until there is something to show."""
        self._renew()
        self._asking_again = True
        self._begin()

    def _renew(self) -> None:
        self._stop_work()
        if self.recording is not None:
            self.recording.lose(self.reason)
        self.mirror, self.subscription.refused = self._machine(), None
        self._made.clear()
        self.drifted, self.audited_at = 0, None
        self._lateness.forget()

    def _forget(self) -> None:
        self._renew()
        self._early = None  # what is being read from the disk is not shown any more
        self._asking_again = False
        self.table = self.ordered = self.overlay = self.error = self._shown = None

    # How fresh it is; from any thread

    @property
    def unaudited(self) -> bool:
        """Whether the first audit of what is shown is still to come."""
        return self.audited_at is None and self.options.audit_interval > 0

    @property
    def source(self) -> Literal["changes", "broadcast"] | None:
        """How changes come; None until that is known."""
        return self.mirror.source if isinstance(self.mirror, Mirror) else None

    @property
    def scope(self) -> str:
        return self.mirror.scope if isinstance(self.mirror, Mirror) else ""

    @property
    def poll_every(self) -> float:
        return self.mirror.poll_every

    def facts(self, now: float) -> TableFacts:
        """What counts of it for the session's health, at a monotonic time."""
        status, mirror, audited_at = self.status, self.mirror, self.audited_at
        live, next_audit = status == "live", mirror.next_audit
        return TableFacts(
            self.spec.table,
            status,
            self.drifted,
            error=self.reason if status in ("error", "stale") else "",
            denied=isinstance(self.error, AuthError),
            unaudited=live and self.unaudited,
            behind=self._lateness.behind if live else 0.0,
            waiting=len(self._buffer),
            age=self.age,
            shown=self.filled,
            doubt=mirror.doubt if live else "",
            audit_in=next_audit and max(0.0, next_audit - now),
            crowded=self.place.crowded,
            poll_every=self.poll_every,
            audited=None if audited_at is None else now - audited_at,
            replaced=self.replaced,
            late=self._lateness.late if live else 0.0,
            missing=mirror.missing,
        )

    def verify(self) -> concurrent.futures.Future[Verdict]:
        verdict = self._checks.ask()
        if self.status in ("closed", "error"):
            self._checks.fail(self._end)
        else:
            self._feed(AuditNow())
        return verdict

    @property
    def _end(self) -> Exception:
        """Why it shows nothing any more."""
        return self.error or ClosedError(f'table "{self.name}"')

    def set_status(self, status: Status, reason: str) -> None:
        super().set_status(status, reason)
        if status in ("closed", "error"):
            self._checks.fail(self._end)

    def calm(self) -> bool:
        return self.services.calm()

    def why_empty(self) -> str:
        if self.status != "live" or self.table is None or len(self.table):
            return ""
        if self.spec.filter:
            return self.spec.filter.why_empty
        if not isinstance(self.mirror, Mirror) or not self.mirror.may_be_hidden:
            return ""
        role, spec, described = (
            self.services.rest.credentials.role,
            self.spec,
            self.mirror.described,
        )
        shows_some = bool(described.policies & {"select", "*"})
        return why_empty(
            spec.schema, spec.table, role, described.row_security, shows_some=shows_some
        )

    def _my_turn(self) -> None:
        self._buffer.event(Turn())

    def _begin_polls(self, granted: Sequence[Callable[[], None]]) -> None:
        for begin in granted:
            begin()

    def _stop_work(self) -> None:
        self._begin_polls(self.services.turns.done(self._my_turn))
        self._reader.clear()
        self._buffer.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stop_asking()

    def _stop_asking(self) -> None:
        if self._again_timer is not None:
            self._again_timer.cancel()
            self._again_timer = None
        self._asking_again = False

    # What its subscription asks (subscription.Subscriber)

    def overloaded(self) -> None:
        """The server may be dropping changes of this table as well."""
        if self._started:
            self._buffer.event(Tick())  # its machine looks at the rate with each event

    @property
    def answered(self) -> bool:
        failed = self.error is not None and not self._asking_again
        return failed or self.mirror.schema is not None

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        """The server says why only in words (docs/design/wire.md, "Joining"); these are its own."""
        spec = self.spec
        if "Please check Realtime is enabled for the given connect parameters" in message:
            kind = self.mirror.described.kind if isinstance(self.mirror, Mirror) else ""
            return NotPublishedError(spec.schema, spec.table, kind), True
        if "invalid column for filter" in message or message.startswith("Error parsing `filter`"):
            return FilterError(
                f'table "{spec.table}": Realtime refuses the filter: {message}'
            ), True
        return ServerError(f'streaming table "{spec.table}"', 500, message), False

    # Feeding the mirror and carrying out

    def _feed(self, event: Event) -> None:
        self.handle(event)()

    def handle(self, event: Event) -> Callable[[], None]:
        """Have the machine take what happened; what this returns carries out what it says."""
        if self._early is not None:
            self._early.append(event)
            return lambda: None
        problem, effects = None, []
        with self.services.lock:
            edited, self._edited = self._edited, []
            try:
                with self._maybe_later(event):
                    effects = self.mirror.handle(event, time.monotonic())
            except Exception as error:
                problem = error
        return partial(self._carry_out, event, edited, effects, problem)

    def _carry_out(
        self,
        event: Event,
        edited: Sequence[Sequence[RowChange]],
        effects: Sequence[Effect],
        problem: Exception | None,
    ) -> None:
        for changes in edited:  # before what came after them
            self.publish(changes, "edit")
        failed: Exception | None = None
        for effect in effects:
            try:
                self._carry(effect)
            except Exception as error:  # the others are carried out: a read waits for its answer
                failed = failed or error
        if self._asking_again and self.mirror.schema is not None and not self.place.taken:
            self.subscription.rejoin()
        self._lateness.waiting_since = self.mirror.waiting_since
        self._lateness.applied(event)
        if self._checks.waiting and isinstance(self.mirror, Mirror):
            self._checks.decided(self.mirror.undecided)
        self.subscription.tell_refused()
        if self.recording is not None:
            self.recording.hear(effects)
        if self.keeping is not None:
            if isinstance(event, Gap) and event.reason == ANOTHER_LOGIN:
                self.keeping.arm()
            self.keeping.look()
        problem, at_gap = failed or problem, isinstance(event, Gap)
        if problem is None:
            return
        what = f'table "{self.spec.table}"'
        logger.error("%s: %s", what, type(event).__name__, exc_info=problem)
        if failed is None and not at_gap:
            self._feed(Gap(f"an exception while applying: {problem!r}"))
            return
        told = (
            problem
            if isinstance(problem, NotebookRTError)
            else ProtocolError(f"{what}: {problem!r}")
        )
        if isinstance(event, Broken):
            self.fail(told)
        else:  # the machine takes it for done: no status of its own is true any more
            self._feed(Broken(told))

    def _carry(self, effect: Effect) -> None:
        match effect:
            case Published():
                self._published(effect)
            case Fetch():
                self._reader.fetch(effect)
            case Cancel(request):
                self._reader.cancel(request)
            case Shown(rows, schema, ranked):
                self._show(rows, schema, ranked)
                self._again.shown(time.monotonic())
                self.error, self._asking_again = None, False
            case Ranked(keys):
                if self.ordered is not None:
                    self.ordered.rank(keys)
                    self._tell_moved()
            case StatusChanged() if self._asking_again:
                pass  # it is loading, and the error stands
            case StatusChanged(status, reason):
                before = self.status
                self.set_status(status, reason)
                if status == before:  # such as live, and in doubt now
                    self.services.on_facts()
            case Failed():
                self.fail(effect.error)
            case Wake(at):
                self._wake(at)
            case TurnWanted():
                self._begin_polls(self.services.turns.ask(self._my_turn))
            case TurnOver():
                self._begin_polls(self.services.turns.done(self._my_turn))
            case Rejoin(_):
                self.subscription.rejoin()
            case Progress():
                self.progress = effect
            case Told(what, detail):
                self._told(what, detail)

    @contextmanager
    def _maybe_later(self, event: Event) -> Iterator[None]:
        """In a flood without listeners, only what is still in the log when it is read
        is worked out.
        """
        flood = isinstance(event, ReceivedMany) and len(event.changes) >= FLOOD
        if not flood or self.listeners or self._shown is None or not self._telling.plain:
            yield
            return
        self._shown.defer = True
        try:
            yield
        finally:
            self._shown.defer = False

    # Local edits, laid over on whatever thread made them; the caller holds the lock

    def edited(self, changes: Sequence[RowChange]) -> None:
        """An edit has changed the view: tell so soon, on the loop, in its place among the others."""
        if self.overlay is None:  # the view has gone meanwhile, with the login
            return
        self._edited.append(changes)
        self._edits += 1
        self.services.lock.soon(self._publish_edits)

    def columns_suspect(self) -> None:
        """What is known of the columns may be old: learn them again, soon, on the loop."""
        self.thread.post(self._feed, ColumnsSuspect())

    def _row_suspect(self, key: Key) -> None:
        """Nobody knows which is later, a change of the row or the answer to a write: read it, soon."""
        self.thread.post(self._feed, RowSuspect(key))

    def know(self, columns: Collection[str]) -> None:
        """Ask the server for columns that an edit names, where no row was there to name them all; waits.

        Raises
        ------
        UnreachableError
            If it does not answer in time.
        """
        mirror, schema = self.mirror, self.schema
        unknown = tuple(name for name in columns if schema is not None and name not in schema.types)
        if not unknown or not isinstance(mirror, Mirror) or mirror.described.complete:
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
        self._edits_told = edits

    def catch_up(self) -> None:
        if self._edits_told != self._edits:
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
        """What a reader holds: with nothing laid over and no order, the table's own lock is enough."""
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

    def _show(self, rows: Rows, schema: Schema, ranked: Sequence[Key]) -> None:
        assert isinstance(rows, Overlay)  # _make_rows made it
        table = self._made[id(rows)]
        # What was made after it is being loaded: columns may move again before this is shown.
        made = list(self._made)
        self._made = {one: self._made[one] for one in made[made.index(id(rows)) :]}
        spec, carried = self.spec, self._carried(schema)
        self._shown = table
        with self.services.lock:
            edited, self._edited = self._edited, []
            for changes in edited:  # of the table before
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
            self._telling.show(table, ordered)
        if self.recording is not None:
            self.recording.show(rows)

    def _carried(self, schema: Schema) -> set[str]:
        """The columns that are read for the order only, and not shown."""
        spec = self.spec
        if spec.columns is None:
            return set()
        asked = {*spec.columns, *schema.key, spec.watermark}
        return {term.column for term in spec.order} - asked

    def publish(
        self, changes: Sequence[RowChange], cause: str, commit_time: float | None = None
    ) -> None:
        """The table has changed: tell what that did to the view."""
        with self.services.lock:
            told = self._telling.tell(changes)
        super().publish(told, cause, commit_time)

    def _tell_moved(self) -> None:
        """Another order of the same rows may have other rows among the first."""
        with self.services.lock:
            told = self._telling.tell(())
        if told:
            super().publish(told, "refill")

    def _published(self, effect: Published) -> None:
        self.services.metrics.applied(at_most(effect.changes), time.monotonic())
        self.publish(effect.changes, effect.cause, effect.commit_time)

    def fail(self, error: Exception) -> None:
        self.services.metrics.last_error = str(error)
        self.place.leave()  # it is another's
        self._begin_polls(self.services.turns.done(self._my_turn))
        self._stop_asking()
        super().fail(error)
        pause = self._again.failed(error, time.monotonic())
        if pause is not None:
            loop = asyncio.get_running_loop()
            self._again_timer = loop.call_later(pause, self._ask_again)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._buffer.event, Tick())

    def _told(self, what: str, detail: Mapping[str, Any]) -> None:
        metrics = self.services.metrics
        match what:
            case "gap":
                metrics.gaps += 1
            case "reconciled":
                metrics.reconciliations += 1
                self.synced_at = pd.Timestamp.now("UTC")
                self._lateness.proven()
            case "source":
                self.services.on_note(
                    "info",
                    f'table "{self.spec.table}": the database does not broadcast its changes to it '
                    f"({detail['reason']}); they come by Postgres Changes",
                )
            case "learnt":
                for question in self._questions:
                    question.learnt(detail["named"])
            case "audit":
                metrics.audits += 1
                self.synced_at = pd.Timestamp.now("UTC")
                self.drifted = int(detail.get("differing", 0))
                self.replaced = bool(self.drifted or detail.get("changed"))
                self.audited_at = time.monotonic()
                self._lateness.proven()
                self.services.on_facts()
                self._checks.audited(detail)
            case "explained":
                self.drifted, self.replaced = 0, False
                self.services.on_facts()
                self._checks.judged(0, final=True)
            case "refetch":  # of rows that the audit had left undecided
                self.drifted += int(detail["differing"])
                self.replaced = True
                self.services.on_facts()
                self._checks.differed()
            case "drift":
                metrics.drift += (rows := int(detail["rows"]))
                self._checks.judged(rows, final=detail["final"])
                found = "1 row" if rows == 1 else f"{rows:,} rows"
                was = "was" if rows == 1 else "were"
                self.services.on_note(
                    "info",
                    f'table "{self.spec.table}": an audit found {found} that differed from the server\'s, '
                    f"and that {was} repaired",
                )
            case _:
                pass
