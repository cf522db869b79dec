"""Drives a live table or query: feeds events to its machine and carries out the effects.

``Driver`` is the common base of the drivers of tables (``table.py``) and queries (``query.py``). Everything
runs on the loop thread; the user's thread reads ``table`` (which has its own lock) and plain attributes, and
waits with ``wait_ready``. Events of the socket (its ``Subscription``) and of REST pass through one bounded
``Buffer``, in order.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import pandas as pd

from notebook_rt.errors import (
    AuthError,
    ClosedError,
    FilterError,
    NotebookRTError,
    NotPublishedError,
    ProtocolError,
    ServerError,
)
from notebook_rt.model.rows import Key, RowChange, Rows, at_most
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Backend, Schema
from notebook_rt.net.loop import WakingLock
from notebook_rt.runtime.buffer import Buffer
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.feed import Feed, Verdict
from notebook_rt.runtime.lateness import Lateness
from notebook_rt.runtime.reader import Reader
from notebook_rt.runtime.services import Services
from notebook_rt.runtime.subscription import Subscription
from notebook_rt.runtime.waiting import Checks
from notebook_rt.sync.connection.health import TableFacts
from notebook_rt.sync.connection.joins import Priority
from notebook_rt.sync.events import (
    AuditNow,
    Broken,
    Cancel,
    Closed,
    Effect,
    Event,
    Failed,
    Fetch,
    Gap,
    Logged,
    Progress,
    Published,
    Rejoin,
    Shown,
    Status,
    StatusChanged,
    Tick,
    Turn,
    TurnOver,
    TurnWanted,
    Wake,
)
from notebook_rt.sync.table.backoff import Backoff
from notebook_rt.sync.table.machine import Machine

logger = logging.getLogger("notebook_rt")


class Driver(Feed):
    """The driver of one machine, with its store and listeners. See the module docstring.

    ``topic`` names its channel. Created on any thread; ``start`` starts it.
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
    ) -> None:
        super().__init__(spec.table, services.thread, services.options, services.metrics)
        self.spec = spec
        self.services = services
        self.dtype_backend: Backend = dtype_backend
        self.drifted = 0
        """Number of rows in which the last audit found a difference."""
        self.replaced = False
        """Whether the last audit replaced rows."""
        self.audited_at: float | None = None
        """Monotonic time of the last audit; None before the first."""
        self._checks = Checks()
        self.machine: Machine = self._make_machine()
        """The machine, which decides; the driver carries out its effects."""
        options = services.options
        self._buffer = Buffer(options.buffer_size, options.batch_size, self._feed)
        # Through the buffer: events of the socket before an answer are processed before it.
        self._reader = Reader(spec, services, self.contact, self._buffer.event)
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(options, random.random)
        self._again_timer: asyncio.TimerHandle | None = None
        self._retrying = False
        """Whether a retry is in progress while the error is shown."""
        self._lateness = Lateness(self, self._buffer)
        self.subscription = Subscription(self, topic, self._buffer, priority)
        self.place = self.subscription.place
        self._started = False
        self._taking = 0
        """Number of events being processed: their changes may be visible but not counted yet."""

    # To be implemented

    @abstractmethod
    def _make_machine(self) -> Machine:
        """Return a new machine in its initial state."""

    @abstractmethod
    def _make_rows(self, schema: Schema) -> Rows:
        """Return the empty rows of this schema, which the machine fills."""

    @abstractmethod
    def _show(
        self, rows: Rows, schema: Schema, ranked: Sequence[Key], before: float | None = None
    ) -> None:
        """Show these rows, created by ``_make_rows``, from now on; ``ranked``: in the server's order."""

    @abstractmethod
    def _drop(self) -> Sequence[RowChange]:
        """Stop showing rows; return the changes to report to listeners."""

    def _on_effects(self, event: Event, effects: Sequence[Effect]) -> None:
        """Called when the effects of an event have been carried out."""

    def _applying(self, event: Event) -> AbstractContextManager[object]:
        """The lock held while the machine processes an event."""
        return nullcontext()

    # Life

    def start(self) -> None:
        """Start."""
        if not self._started:
            self._started = True
            self._begin()

    @property
    def lock(self) -> WakingLock:
        return self.services.lock

    @property
    def owner(self) -> tuple[str, str]:
        return self.services.owner

    @property
    def faults(self) -> tuple[Faults, ...]:
        return (self.services.faults,)

    def _begin(self) -> None:
        self.services.registry.needed.set()
        self.machine.want_changes = True
        self._feed(Tick())
        if self._retrying:
            return  # no channel for a missing table: it is joined once REST has answered
        self.subscription.rejoin()  # if the bindings are unknown yet, a Rejoin follows

    def close(self) -> None:
        """Stop, because the last handle was released."""
        if self.status == "closed":
            return
        self._feed(Closed())
        self.set_status("closed", "closed")
        self.subscription.close()
        self._stop_work()
        self.wake_waiting(ClosedError(f'table "{self.spec.table}"'))

    def restart(self) -> None:
        """Start again after a failure that may be fixed: by a new token, or the user's SQL."""
        if self.error is not None and self._started:
            self._forget()
            self.set_status("loading", "starting again")
            self._begin()

    def retry(self) -> None:
        """Retry after a failure at the user's request; the error remains until there are rows to show."""
        if self.error is not None and self._started and self.status != "closed":
            self._retry()

    def retry_if_failed(self) -> bool:
        if self._again_timer is not None:  # else a retry is in progress, or cannot help
            self._retry()
        return self._retrying

    def login_changed(self) -> None:
        """Stop showing the rows of another login, and start again with the current one."""
        if not self._started or self.status == "closed":
            return
        filled = self.filled
        self.subscription.leave_login()
        with self.services.lock:
            gone = self._drop()
        self.set_status("loading", "another login: its rows are read")
        self.login_version = self.version + filled
        if filled:
            Feed.publish(self, gone, "login")  # unchanged: nothing is shown that it could be cut to
        self.synced_at = None
        self.log.clear()
        self._logged = 0
        self._begin()
        if self._checks.waiting:
            self._checks.reset()
            self._feed(AuditNow())

    def _retry(self) -> None:
        """Retry after a failure; the error remains until there are rows to show."""
        self._renew()
        self._retrying = True
        self._begin()

    def _renew(self) -> None:
        self._stop_work()
        self.machine, self.subscription.refused = self._make_machine(), None
        self.drifted, self.audited_at = 0, None
        self._lateness.forget()

    def _forget(self) -> None:
        self._renew()
        self._retrying = False
        self.table = self.ordered = self.error = None

    # Freshness; from any thread

    @property
    def unaudited(self) -> bool:
        """Whether the shown rows have not been audited yet."""
        return self.audited_at is None and self.options.audit_interval > 0

    @property
    def poll_every(self) -> float:
        return self.machine.poll_every

    def facts(self, now: float) -> TableFacts:
        """Return the facts for the session's health at a monotonic time."""
        status, machine, audited_at = self.status, self.machine, self.audited_at
        live, next_audit = status == "live", machine.next_audit
        # A table that is shown waits for another login, and is not in error.
        refused = self.error if status == "error" else self.failure if status == "stale" else None
        denied = isinstance(refused, AuthError)
        return TableFacts(
            self.spec.table,
            status,
            self.drifted,
            error=str(refused) if denied else self.reason if status in ("error", "stale") else "",
            denied=denied,
            unaudited=live and self.unaudited,
            behind=self._lateness.behind if live else 0.0,
            waiting=len(self._buffer),
            age=self.age,
            shown=self.filled,
            doubt=machine.doubt if live else "",
            audit_in=next_audit and max(0.0, next_audit - now),
            crowded=self.place.crowded,
            poll_every=self.poll_every,
            audited=None if audited_at is None else now - audited_at,
            replaced=self.replaced,
            late=self._lateness.late if live else 0.0,
            missing=machine.missing,
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
        """The error because of which no rows are shown."""
        return self.error or ClosedError(f'table "{self.name}"')

    def set_status(self, status: Status, reason: str) -> None:
        super().set_status(status, reason)
        if status in ("closed", "error"):
            self._checks.fail(self._end)

    def in_grace(self) -> bool:
        return self.services.in_grace()

    @property
    def _empty(self) -> bool:
        """Whether it is live and empty."""
        return self.status == "live" and self.table is not None and not len(self.table)

    def why_empty(self) -> str:
        return self.spec.filter.why_empty if self._empty and self.spec.filter else ""

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
        self._retrying = False

    # The interface for its subscription (subscription.Subscriber)

    def overloaded(self) -> None:
        """Handle that the server may drop changes of this table, too."""
        if self._started:
            self._buffer.event(Tick())  # its machine checks the rate with each event

    @property
    @abstractmethod
    def answered(self) -> bool:
        """Whether REST has answered whether the table exists."""

    def refusal(self, message: str) -> tuple[NotebookRTError, bool]:
        """Classify a refusal by its text (docs/design/wire.md, "Joining"), the only information given."""
        spec = self.spec
        if "Please check Realtime is enabled for the given connect parameters" in message:
            return NotPublishedError(spec.schema, spec.table), True
        if "invalid column for filter" in message or message.startswith("Error parsing `filter`"):
            return FilterError(
                f'table "{spec.table}": Realtime refuses the filter: {message}'
            ), True
        return ServerError(f'streaming table "{spec.table}"', 500, message), False

    # Events and effects

    def _feed(self, event: Event) -> None:
        self.handle(event)()

    def handle(self, event: Event) -> Callable[[], None]:
        """Let the machine process an event; return a function that carries out the effects."""
        problem, effects = None, []
        self._taking += 1
        with self.services.lock:
            try:
                with self._applying(event):
                    effects = self.machine.handle(event, time.monotonic())
            except Exception as error:
                problem = error
        return partial(self._carry_out, event, effects, problem)

    def catch_up(self) -> None:
        if self._taking and not self.thread.here:
            with suppress(ClosedError):
                self.thread.call(lambda: None)  # after the current turn of the loop

    def _carry_out(
        self, event: Event, effects: Sequence[Effect], problem: Exception | None
    ) -> None:
        try:
            self._carry_all(event, effects, problem)
        finally:
            self._taking -= 1

    def _carry_all(
        self, event: Event, effects: Sequence[Effect], problem: Exception | None
    ) -> None:
        failed: Exception | None = None
        for effect in effects:
            try:
                self._carry(effect)
            except (
                Exception
            ) as error:  # the other effects are carried out: a read waits for its answer
                failed = failed or error
        if self._retrying and self.machine.schema is not None and not self.place.taken:
            self.subscription.rejoin()
        self._lateness.waiting_since = self.machine.waiting_since
        self._lateness.applied(event)
        self.subscription.report_refused()
        self._on_effects(event, effects)
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
        else:  # the machine assumes that it was carried out: its status would be wrong
            self._feed(Broken(told))

    def _carry(self, effect: Effect) -> None:
        match effect:
            case Published():
                self._published(effect)
            case Fetch():
                self._reader.fetch(effect)
            case Cancel(request):
                self._reader.cancel(request)
            case Shown(rows, schema, ranked, commit_time):
                self._show(rows, schema, ranked, commit_time)
                self._backoff.shown(time.monotonic())
                self.error, self._retrying = None, False
            case StatusChanged() if self._retrying:
                pass  # it is loading, and the error remains
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
            case Logged(what, detail):
                self._report(what, detail)

    def _published(self, effect: Published) -> None:
        self.services.metrics.applied(at_most(effect.changes), time.monotonic())
        self.publish(effect.changes, effect.cause, effect.commit_time)

    def fail(self, error: Exception) -> None:
        self.services.metrics.last_error = str(error)
        self.place.leave()  # it belongs to another one
        self._begin_polls(self.services.turns.done(self._my_turn))
        self._stop_asking()
        super().fail(error)
        pause = self._backoff.failed(error, time.monotonic())
        if pause is not None:
            loop = asyncio.get_running_loop()
            self._again_timer = loop.call_later(pause, self._retry)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, at - time.monotonic()), self._buffer.event, Tick())

    def _report(self, what: str, detail: Mapping[str, Any]) -> None:
        metrics = self.services.metrics
        match what:
            case "gap":
                metrics.gaps += 1
            case "reconciled":
                metrics.reconciliations += 1
                self.synced_at = pd.Timestamp.now("UTC")
                self._lateness.proven()
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
