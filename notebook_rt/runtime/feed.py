"""What a live frame shows, whatever feeds it: a table's mirror, broadcasts, a query.

A ``Feed`` holds the store, the status, the log and who listens; ``LiveFrame`` is the handle on one.
It is written on the loop thread only; the user's thread reads plain attributes and ``snapshot``
(the store has a lock of its own), and waits with ``wait_ready``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import pandas as pd
import pyarrow as pa

from notebook_rt.errors import InvalidKeyError, NotebookRTError
from notebook_rt.model.classify import classify
from notebook_rt.model.rows import Key, RowChange, at_most
from notebook_rt.model.signal import Signal
from notebook_rt.model.types import Schema
from notebook_rt.net.loop import LoopThread, WakingLock
from notebook_rt.options import Options
from notebook_rt.quoting import printable
from notebook_rt.runtime.callbacks import Subscribers
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.faults import Faults
from notebook_rt.store.marks import Mark
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.sync.connection.metrics import Metrics
from notebook_rt.sync.events import Progress, Status

logger = logging.getLogger("notebook_rt")
T = TypeVar("T")

PATIENCE = 4.0
"""Seconds that ``wait`` goes on while the URL does not answer, before it raises."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison with the server has found; made by ``LiveFrame.verify``."""

    compared: int
    """Rows that were compared."""
    differed: int
    """Rows that were not the server's, and that no change on its way has explained."""
    seconds: float
    """How long it took."""
    unwritten: tuple[Key, ...] = ()
    """Rows that ``df`` shows otherwise than the server has them, for edits of yours that wait, were refused
    or are in conflict; they are no difference, and are compared as the server has them."""

    @property
    def repaired(self) -> int:
        """Rows that are now as the server has them: whatever differed."""
        return self.differed

    def __str__(self) -> str:
        found = "no row differed"
        if self.differed:
            found = (
                f"{self.differed:,} differed and {'was' if self.differed == 1 else 'were'} repaired"
            )
        if self.unwritten:
            some = ", ".join(map(repr, self.unwritten[:5])) + ", ..." * (len(self.unwritten) > 5)
            found += (
                f"; {len(self.unwritten):,} shown as edited here, not as the server has it: {some}"
            )
        return f"{self.compared:,} rows compared in {self.seconds:.2g} s: {found}"


class _Waiter(msgspec.Struct):
    future: concurrent.futures.Future[None] = msgspec.field(
        default_factory=concurrent.futures.Future
    )
    since: float = msgspec.field(default_factory=time.monotonic)


class Feed:
    """See the module. ``name`` is the table's, the event's, the query's."""

    why_not_compared = "the server does not keep messages"
    """Why there is nothing on the server to compare with; empty: there is."""

    def __init__(self, name: str, thread: LoopThread, options: Options, counters: Metrics) -> None:
        self.name = name
        self.thread = thread
        self.options = options
        self.counters = counters
        self.table: Table | None = None
        """What is shown; None until the first data."""
        self.ordered: Ordered | None = None
        """The view of it in an order that was asked for."""
        self.schema: Schema | None = None
        self.status: Status = "loading"
        self.reason = "the server has not answered yet"
        self.error: Exception | None = None
        self.failed_at = float("-inf")
        """Monotonic time when it came to be in error last."""
        self.version = 0
        self.login_version = 0
        """The version with which the rows of the present login began: what was shown before is another's."""
        self.changed_at = 0.0
        """Monotonic time of the latest version."""
        self.synced_at: pd.Timestamp | None = None
        self.progress: Progress | None = None
        self.log: deque[ChangeBatch] = deque()
        self.subscribers = Subscribers()
        self.listeners: Signal[ChangeBatch] = Signal()
        """Told of each batch, on the loop."""
        self.status_listeners: Signal[Status, str] = Signal()
        self._logged = 0
        self._waiters: list[_Waiter] = []
        self.failure: NotebookRTError | None = None
        """What the last request met, until one succeeds."""
        self._unreachable: NotebookRTError | None = None

    @property
    def declared(self) -> bool:
        """Whether all columns are known; else rows or messages that come bring them."""
        return True

    @property
    def why_undeclared(self) -> str:
        """Why they are not, and what to do about it; empty: they are, or nothing can be done."""
        return ""

    @property
    def age(self) -> float | None:
        """Seconds since it was last known to be the server's; None before the first data."""
        at = self.synced_at
        return None if at is None else time.time() - at.timestamp()

    # For the user's thread

    @property
    def lock(self) -> WakingLock:
        """What whoever changes what is shown holds: the session's lock."""
        raise NotImplementedError

    def look(self) -> None:
        """Somebody looks at it: a lazy feed begins."""

    def catch_up(self) -> None:
        """Have counted and logged what is seen already."""

    @property
    def filled(self) -> bool:
        """Whether the first data has come."""
        return self.table is not None

    @property
    def is_whole(self) -> bool:
        """Whether the rows that are there are all."""
        return self.filled

    @property
    def owner(self) -> tuple[str, str]:
        """The project, and the login whose rows these are."""
        raise NotImplementedError

    @property
    def faults(self) -> tuple[Faults, ...]:
        """Where it is told that what is computed from it fails: its session's, or those of several."""
        raise NotImplementedError

    @property
    def view(self) -> Table | Ordered | None:
        """What is shown: the table, or its rows in an order; None before the first data."""
        return self.table if self.ordered is None else self.ordered  # an empty one is no reason

    def snapshot(self) -> pd.DataFrame | None:
        """The table as it is now; None before the first data."""
        shown = self.view
        return None if shown is None else shown.snapshot()

    def count(self) -> int | None:
        """How many rows it shows now; None before the first data."""
        shown = self.view
        return None if shown is None else len(shown)

    def arrow(self) -> pa.Table | None:
        """What ``snapshot`` shows as Arrow's table, key columns included; None before the first data."""
        shown = self.view
        return None if shown is None else shown.to_arrow()

    def shown(self, read: Callable[[Table | Ordered], T]) -> tuple[T, Mark] | None:
        """What ``read`` makes of what is shown now, and what stands for those rows; None before the
        first data.
        """
        table, shown = self.table, self.view
        if table is None or shown is None:
            return None
        with table.lock:
            return read(shown), table.mark()

    def missing(self, seconds: float) -> str:
        """What to tell somebody who has waited so long for the first data."""
        how = str(self.failure or f"{self.status}, {self.reason}")
        if self.progress is not None:
            of = "" if self.progress.total is None else f" of {self.progress.total:,}"
            how = f"{self.progress.done:,}{of} rows are here; it goes on"
        return f'table "{self.name}" is not whole after {seconds:g} s: {how}'

    def find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        """The row that is shown under a user's ``key``, after the key, typed; None: there is none.

        Raises
        ------
        InvalidKeyError
            If the key is no value of the key's type.
        """
        table, shown = self.table, self.view
        if table is None or shown is None:
            return None
        try:
            typed = table.schema.coerce_key(key)
        except ValueError as error:
            raise InvalidKeyError(self.name, str(error)) from None
        row = shown.get(typed)
        return None if row is None else (typed, row)

    @property
    def source(self) -> Literal["changes", "broadcast"] | None:
        """How a table's changes come; None for what is no table, and until it is known."""
        return None

    @property
    def scope(self) -> str:
        """The column whose value its changes are broadcast by; empty: they are those of the whole table."""
        return ""

    # On the loop

    def publish(
        self, changes: Sequence[RowChange], cause: str, commit_time: float | None = None
    ) -> None:
        """The table has changed, as one: count, keep in the log, tell who listens and waits."""
        self.version += 1
        self.changed_at = time.monotonic()
        self.progress = None
        if self._is_of_now(cause):
            self.synced_at = pd.Timestamp.now("UTC")
        if at_most(changes):
            batch = ChangeBatch(changes, cause, self.version, commit_time)
            self._keep(batch)
            self.listeners.tell(batch)
        if self._waiters:  # not before the status that comes with it is set
            self.thread.loop.call_soon(self.settle, None)

    def _is_of_now(self, cause: str) -> bool:
        """Whether the table is the server's, now that what has this cause is in it."""
        return cause != "edit"  # that is only here as yet

    def _keep(self, batch: ChangeBatch) -> None:
        """The log is bounded by changes, not by batches."""
        self.log.append(batch)
        self._logged += at_most(batch.changes)
        while self._logged - at_most(self.log[0].changes) >= self.options.log_size:
            self._logged -= at_most(self.log.popleft().changes)

    def set_status(self, status: Status, reason: str) -> None:
        before, self.status, self.reason = self.status, status, reason
        if status != before:
            self.status_listeners.tell(status, reason)

    def calm(self) -> bool:
        """Whether live updates, if they are away, may be back at once; from any thread."""
        return False

    @property
    def poll_every(self) -> float:
        """Seconds from one poll to the next while changes are not streamed, as it is now."""
        return self.options.poll_interval

    def replayed(self) -> bool:
        """Whether what it shows is a recorded past that is played; from any thread."""
        return False

    def why_empty(self) -> str:
        """Why it shows no row, and what to do, where there may be rows that this login does not see."""
        return ""

    def fail(self, error: Exception) -> None:
        """It cannot be shown, for a reason that ``df`` and ``wait`` raise."""
        self.error, self.failed_at = error, time.monotonic()
        self.set_status("error", str(error))
        self.settle(error)

    def log_errors(self, what: str) -> Callable[[], None]:
        """Log when it comes to be in error, for ``what`` is not called then; returns how to end that."""

        def look(status: Status, reason: str) -> None:
            if status == "error":
                logger.warning(
                    "%s: nothing is called until it is back: %s", what, printable(reason)
                )

        self.thread.call(self.status_listeners.add, look)
        return lambda: self.thread.post(self.status_listeners.remove, look)

    def verify(self) -> concurrent.futures.Future[Verdict]:
        """A future of a comparison with the server that begins now."""
        raise NotImplementedError

    # Waiting for the first data

    def wait_ready(self) -> concurrent.futures.Future[None]:
        """A future of the first data; fails with the named error where none will come."""
        waiter = _Waiter()
        if self.error is not None and not self.asks_again():
            waiter.future.set_exception(self.error)
        elif self.error is None and (self.filled or self.status == "closed"):
            waiter.future.set_result(None)
        else:
            still = [other for other in self._waiters if not other.future.cancelled()]
            self._waiters = [*still, waiter]
            asyncio.get_running_loop().call_later(PATIENCE, self._lose_patience)
        return waiter.future

    def asks_again(self) -> bool:
        """Whether what is in error is asked for anew, now that somebody waits: it may have been mended."""
        return False

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the first data."""
        return any(not waiter.future.done() for waiter in self._waiters)

    def settle(self, error: Exception | None) -> None:
        """Wake everybody who waits."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if waiter.future.set_running_or_notify_cancel():
                if error is None:
                    waiter.future.set_result(None)
                else:
                    waiter.future.set_exception(error)

    def contact(self, error: NotebookRTError | None) -> None:
        """How the last request went."""
        self.failure = error
        away = error is not None and classify(error).kind == "network"
        self._unreachable = error if away else None
        self._lose_patience()

    def _lose_patience(self) -> None:
        """Nobody answers at the URL: say so to who has waited long, and go on trying."""
        if self._unreachable is None:
            return
        since = time.monotonic() - PATIENCE
        patient = [waiter for waiter in self._waiters if waiter.since > since]
        self._waiters = [waiter for waiter in self._waiters if waiter.since <= since]
        self.settle(self._unreachable)
        self._waiters = patient
