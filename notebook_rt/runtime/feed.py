"""The data behind a live frame, from a table's mirror, broadcasts or a query.

A ``Feed`` holds the store, the status, the log and the listeners; ``LiveFrame`` is its handle.
It is written on the loop thread only; the user's thread reads plain attributes and ``snapshot``
(the store has its own lock), and waits with ``wait_ready``.
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
"""Seconds without an answer from the URL after which ``wait`` raises."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a comparison with the server, returned by ``LiveFrame.verify``."""

    compared: int
    """Number of rows compared."""
    differed: int
    """Number of rows that differed from the server's without an explaining change in transit."""
    seconds: float
    """Duration in seconds."""
    unwritten: tuple[Key, ...] = ()
    """Keys of rows in which ``df`` shows edits of yours that are pending, refused or in conflict. They do not
    count as differences; the server's rows beneath them are compared."""

    @property
    def repaired(self) -> int:
        """Number of rows repaired: all that differed."""
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
    """See the module docstring. ``name`` is the name of the table, event or query."""

    why_not_compared = "the server does not keep messages"
    """Why there are no rows on the server to compare with; empty if there are."""

    def __init__(self, name: str, thread: LoopThread, options: Options, counters: Metrics) -> None:
        self.name = name
        self.thread = thread
        self.options = options
        self.counters = counters
        self.table: Table | None = None
        """The rows shown; None until the first data."""
        self.ordered: Ordered | None = None
        """The view of the rows in the requested order."""
        self.schema: Schema | None = None
        self.status: Status = "loading"
        self.reason = "the server has not answered yet"
        self.error: Exception | None = None
        self.failed_at = float("-inf")
        """Monotonic time of the last error."""
        self.version = 0
        self.login_version = 0
        """The first version with rows of the current login: earlier versions belong to another one."""
        self.changed_at = 0.0
        """Monotonic time of the latest version."""
        self.synced_at: pd.Timestamp | None = None
        self.progress: Progress | None = None
        self.log: deque[ChangeBatch] = deque()
        self.subscribers = Subscribers()
        self.listeners: Signal[ChangeBatch] = Signal()
        """Functions called with each batch, on the loop."""
        self.status_listeners: Signal[Status, str] = Signal()
        self._logged = 0
        self._waiters: list[_Waiter] = []
        self.failure: NotebookRTError | None = None
        """The error of the last request, until one succeeds."""
        self._unreachable: NotebookRTError | None = None

    @property
    def declared(self) -> bool:
        """Whether all columns are known; otherwise later rows or messages name them."""
        return True

    @property
    def why_undeclared(self) -> str:
        """Why they are unknown and what to do about it; empty if known, or if nothing can be done."""
        return ""

    @property
    def age(self) -> float | None:
        """Seconds since the rows were last known to equal the server's; None before the first data."""
        at = self.synced_at
        return None if at is None else time.time() - at.timestamp()

    # For the user's thread

    @property
    def lock(self) -> WakingLock:
        """The lock held while the shown rows are changed: the session's lock."""
        raise NotImplementedError

    def touch(self) -> None:
        """Record a use of the frame: a lazy feed starts."""

    def catch_up(self) -> None:
        """Count and log changes that are visible already."""

    @property
    def filled(self) -> bool:
        """Whether the first data has arrived."""
        return self.table is not None

    @property
    def is_whole(self) -> bool:
        """Whether the rows are complete."""
        return self.filled

    @property
    def is_warm(self) -> bool:
        """Whether its rows were stored on disk and not yet compared with the server."""
        return False

    @property
    def owner(self) -> tuple[str, str]:
        """The project and the login of the rows."""
        raise NotImplementedError

    @property
    def faults(self) -> tuple[Faults, ...]:
        """The place to report failures of computations on it: of its session, or of several."""
        raise NotImplementedError

    @property
    def view(self) -> Table | Ordered | None:
        """Return the table shown, or its ordered rows; None before the first data."""
        return (
            self.table if self.ordered is None else self.ordered
        )  # an empty table does not explain it

    def snapshot(self) -> pd.DataFrame | None:
        """Return the current snapshot; None before the first data."""
        shown = self.view
        return None if shown is None else shown.snapshot()

    def count(self) -> int | None:
        """Return the current number of rows; None before the first data."""
        shown = self.view
        return None if shown is None else len(shown)

    def arrow(self) -> pa.Table | None:
        """Return the snapshot as an Arrow table, including key columns; None before the first data."""
        shown = self.view
        return None if shown is None else shown.to_arrow()

    def shown(self, read: Callable[[Table | Ordered], T]) -> tuple[T, Mark] | None:
        """Return the result of ``read`` for the current rows, and a mark of these rows; None before the
        first data.
        """
        table, shown = self.table, self.view
        if table is None or shown is None:
            return None
        with table.lock:
            return read(shown), table.mark()

    def missing(self, seconds: float) -> str:
        """Return the error for a caller who has waited this long for the first data."""
        how = str(self.failure or f"{self.status}, {self.reason}")
        if self.progress is not None:
            of = "" if self.progress.total is None else f" of {self.progress.total:,}"
            how = f"{self.progress.done:,}{of} rows are here; it goes on"
        return f'table "{self.name}" is not whole after {seconds:g} s: {how}'

    def find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        """Return the typed key and the row shown for a user's ``key``; None if there is none.

        Raises
        ------
        InvalidKeyError
            If the key is not a value of the key's type.
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
        """How a table's changes are received; None for other frames, and until it is known."""
        return None

    @property
    def scope(self) -> str:
        """The column by whose value its changes are broadcast; empty for those of the whole table."""
        return ""

    # On the loop

    def publish(
        self, changes: Sequence[RowChange], cause: str, commit_time: float | None = None
    ) -> None:
        """Publish one batch of changes: count it, log it, notify listeners and waiting callers."""
        self.version += 1
        self.changed_at = time.monotonic()
        self.progress = None
        if self._is_of_now(cause):
            self.synced_at = pd.Timestamp.now("UTC")
        if at_most(changes):
            batch = ChangeBatch(changes, cause, self.version, commit_time)
            self._keep(batch)
            self.listeners.notify(batch)
        if self._waiters:  # only after the accompanying status is set
            self.thread.loop.call_soon(self.wake_waiting, None)

    def _is_of_now(self, cause: str) -> bool:
        """Return whether the table equals the server's after a batch with this cause."""
        return cause != "edit"  # it is only local so far

    def _keep(self, batch: ChangeBatch) -> None:
        """Limit the log by the number of changes, not of batches."""
        self.log.append(batch)
        self._logged += at_most(batch.changes)
        while self._logged - at_most(self.log[0].changes) >= self.options.log_size:
            self._logged -= at_most(self.log.popleft().changes)

    def set_status(self, status: Status, reason: str) -> None:
        before, self.status, self.reason = self.status, status, reason
        if status != before:
            self.status_listeners.notify(status, reason)

    def in_grace(self) -> bool:
        """Whether live updates, if interrupted, may return at once; from any thread."""
        return False

    @property
    def poll_every(self) -> float:
        """Current seconds between two polls while changes are not streamed."""
        return self.options.poll_interval

    def replayed(self) -> bool:
        """Whether it plays a recorded past; from any thread."""
        return False

    def why_empty(self) -> str:
        """Return why there is no row and what to do, if the login may not see existing rows."""
        return ""

    def fail(self, error: Exception) -> None:
        """Set the error that ``df`` and ``wait`` raise."""
        self.error, self.failed_at = error, time.monotonic()
        self.set_status("error", str(error))
        self.wake_waiting(error)

    def log_errors(self, what: str) -> Callable[[], None]:
        """Log errors of the table, during which ``what`` is not called; return a function that ends that."""

        def on_status(status: Status, reason: str) -> None:
            if status == "error":
                logger.warning(
                    "%s: nothing is called until it is back: %s", what, printable(reason)
                )

        self.thread.call(self.status_listeners.add, on_status)
        return lambda: self.thread.post(self.status_listeners.remove, on_status)

    def verify(self) -> concurrent.futures.Future[Verdict]:
        """Start a comparison with the server and return its future."""
        raise NotImplementedError

    # Waiting for the first data

    def wait_ready(self) -> concurrent.futures.Future[None]:
        """Return a future of the first data; it fails with the error if none will arrive."""
        waiter = _Waiter()
        if self.error is not None and not self.retry_if_failed():
            waiter.future.set_exception(self.error)
        elif self.error is None and (self.filled or self.status == "closed"):
            waiter.future.set_result(None)
        else:
            still = [other for other in self._waiters if not other.future.cancelled()]
            self._waiters = [*still, waiter]
            asyncio.get_running_loop().call_later(PATIENCE, self._fail_waiting)
        return waiter.future

    def retry_if_failed(self) -> bool:
        """Retry a table in error because a caller waits: it may have been fixed. Return whether it does."""
        return False

    @property
    def awaited(self) -> bool:
        """Whether a caller waits for the first data."""
        return any(not waiter.future.done() for waiter in self._waiters)

    def wake_waiting(self, error: Exception | None) -> None:
        """Wake all waiting callers."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if waiter.future.set_running_or_notify_cancel():
                if error is None:
                    waiter.future.set_result(None)
                else:
                    waiter.future.set_exception(error)

    def contact(self, error: NotebookRTError | None) -> None:
        """Record the outcome of the last request."""
        self.failure = error
        away = error is not None and classify(error).kind == "network"
        self._unreachable = error if away else None
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        """Raise to callers that have waited long for an answer from the URL, and continue to retry."""
        if self._unreachable is None:
            return
        since = time.monotonic() - PATIENCE
        patient = [waiter for waiter in self._waiters if waiter.since > since]
        self._waiters = [waiter for waiter in self._waiters if waiter.since <= since]
        self.wake_waiting(self._unreachable)
        self._waiters = patient
