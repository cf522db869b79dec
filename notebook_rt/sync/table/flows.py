"""Run procedures of several reads: a flow yields queries and receives their answers.

A flow is a generator: ``reads = yield [query, ...]`` returns one ``Read`` per query, in order. A flow with
work that the next query does not depend on yields both (``Ahead``), to work while the server answers. A flow
whose queries depend on few answers yields a ``Pool``, which keeps several under way. ``Flows`` runs them: it
numbers the requests, retries those that may be retried, and throws ``ReadRefusedError`` into a flow whose
request the server refused permanently. So each procedure (a snapshot, a reconciliation, an audit) is written
from top to bottom, and still performs no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from inspect import GEN_RUNNING, getgeneratorstate
from typing import Any, Final, TypeAlias

import msgspec

from notebook_rt.errors import AnswerTooLargeError, RateLimitedError, StatementTimeoutError
from notebook_rt.sync.events import Cancel, Effect, Fetch, Fetched, FetchFailed, Query
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.usage import Purpose

BACKOFF_MAX: Final = 5.0
SLOW: Final = 1.5
"""Seconds after which an answer counts as slow: half of the statement timeout of anon on a hosted
project."""
SENDING: Final = 0.001
"""Seconds until a request is sent; then there is time for other work."""


class Ahead(msgspec.Struct, frozen=True):
    """A query that is sent before ``work`` starts; the work is finished before its answer is processed."""

    query: Query
    work: Callable[[], None]


class Pool(msgspec.Struct, eq=False):
    """Queries of which several are under way at a time; the flow continues when none is left.

    If the server answers slowly, returns 429 or cancels a statement, fewer are sent at a time, and one
    more after each fast answer.
    """

    take: Callable[[object, Read], None]
    """Called with the tag of a query and its answer; may add to ``waiting``."""
    refused: Callable[[object, Exception], bool]
    """Called with the tag of a refused query; returns True if other queries were added instead."""
    most: int
    """Maximum number under way."""
    waiting: deque[tuple[object, Query]] = msgspec.field(default_factory=deque)
    """Queries to send, in this order, each with its tag."""
    at_once: int = 0
    """Current limit of queries under way."""
    room: int = 0
    """Current limit set by the flow."""

    def __post_init__(self) -> None:
        self.at_once = self.room = self.most

    def fewer(self) -> None:
        """Send fewer at a time."""
        self.at_once = max(1, self.at_once // 2)

    def more(self) -> None:
        """Send one more at a time."""
        self.at_once = min(self.most, self.at_once + 1)


Ask: TypeAlias = Sequence[Query] | Ahead | Pool
Flow: TypeAlias = Generator[Ask, Sequence[Read], None]


class ReadRefusedError(Exception):
    """The server refused a request of a flow; ``error`` is its answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Running(msgspec.Struct, eq=False):
    name: str
    flow: Flow
    purpose: Purpose = "read"
    queries: Sequence[Query] = ()
    reads: list[Read | None] = msgspec.field(default_factory=list)
    failures: int = 0
    started: float = 0.0
    work: Callable[[], None] | None = None
    work_at: float = 0.0
    pool: Pool | None = None
    under_way: int = 0
    """Requests of ``pool``."""


class _Request(msgspec.Struct):
    running: _Running
    place: object
    """The index of its answer in its step, or its tag in a pool."""
    query: Query
    sent: int
    sent_at: float
    asked_at: float
    """When it was first sent."""
    retry_at: float | None = None


def together(
    *flows: Generator[Ask, Sequence[Read], Any],
) -> Generator[Ask, Sequence[Read], list[Any]]:
    """Run several flows that yield lists of queries; a step of all of them takes one round trip.

    Return the result of each.
    """
    results: list[Any] = [None] * len(flows)
    asked: dict[int, Sequence[Query]] = {}

    def step(place: int, reads: Sequence[Read] | None) -> None:
        flow = flows[place]
        try:
            queries = next(flow) if reads is None else flow.send(reads)
        except StopIteration as stop:
            asked.pop(place, None)
            results[place] = stop.value
        else:
            assert not isinstance(queries, Ahead | Pool)
            asked[place] = queries

    for place in range(len(flows)):
        step(place, None)
    while asked:
        reads = list((yield [query for queries in asked.values() for query in queries]))
        for place, queries in list(asked.items()):
            mine, reads = reads[: len(queries)], reads[len(queries) :]
            step(place, mine)
    return results


class Flows:
    """The running flows, by name."""

    def __init__(self, horizon: Horizon, emit: Callable[[Effect], None]) -> None:
        self._horizon = horizon
        self._emit = emit
        self._running: dict[str, _Running] = {}
        self._requests: dict[int, _Request] = {}
        self._number = 0
        self.failing: Exception | None = None
        """Why the last request failed; None once one succeeds."""
        self.waited = 0.0
        """Total seconds of waiting between attempts, which are not work."""

    def __contains__(self, name: str) -> bool:
        return name in self._running

    @property
    def unanswered_since(self) -> float | None:
        """Return when the oldest unanswered request was first sent; None: all have been answered.

        A failure that is retried is not an answer.
        """
        return min((one.asked_at for one in self._requests.values()), default=None)

    def __bool__(self) -> bool:
        return bool(self._running)

    def serve(self, name: str, purpose: Purpose) -> None:
        """Set the purpose of the further reads of the flow that calls this."""
        self._running[name].purpose = purpose

    def start(self, name: str, flow: Flow, now: float) -> None:
        """Start ``flow``; no other flow of that name may be running."""
        running = self._running[name] = _Running(name, flow, started=now)
        self._horizon.watching = True
        self._step(running, None)

    def stop(self, name: str) -> None:
        """Forget a flow and its requests."""
        running = self._running.pop(name, None)
        if running is None:
            return
        self._cancel(running)
        if (
            getgeneratorstate(running.flow) != GEN_RUNNING
        ):  # otherwise the flow itself ends everything
            running.flow.close()

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)

    def fetched(self, event: Fetched) -> None:
        """Handle a successful request; the flow continues after the last one of its step."""
        request = self._requests.pop(event.request, None)
        if request is None:
            return
        self.failing = None
        running = request.running
        if not self._worked(running):
            return
        running.failures = 0
        read = Read(event.page, request.sent, request.sent_at)
        if running.pool is not None:
            self._pooled(running, running.pool, request, read)
            return
        assert isinstance(request.place, int)
        running.reads[request.place] = read
        reads = [read for read in running.reads if read is not None]
        if len(reads) == len(running.queries):
            self._step(running, reads)

    def failed(self, event: FetchFailed, now: float) -> None:
        """Handle a failed request: retry it later, or give up."""
        request = self._requests.get(event.request)
        if request is None:
            return
        self.failing = event.error
        running, pool = request.running, request.running.pool
        too_large = isinstance(event.error, StatementTimeoutError | AnswerTooLargeError)
        if pool is not None and (too_large or isinstance(event.error, RateLimitedError)):
            pool.fewer()
        if event.retry_after is not None and not too_large:
            doubled = min(event.retry_after * 2 ** min(running.failures, 10), BACKOFF_MAX)
            running.failures += 1
            pause = max(event.retry_after, doubled)
            request.retry_at = now + pause
            self.waited += pause
            return
        del self._requests[event.request]
        if pool is not None and pool.refused(request.place, event.error):
            running.under_way -= 1
            self._fill(running, pool)
        elif self._worked(running):
            self._cancel(running)
            self._step(running, ReadRefusedError(event.error))

    def _pooled(self, running: _Running, pool: Pool, request: _Request, read: Read) -> None:
        running.under_way -= 1
        if self._horizon.now - request.sent_at > SLOW:
            pool.fewer()
        else:
            pool.more()
        try:
            pool.take(request.place, read)
        except Exception as error:
            self._cancel(running)
            self._step(running, error)
            return
        self._fill(running, pool)

    def _fill(self, running: _Running, pool: Pool) -> None:
        """Send what may be sent; the flow continues if nothing is left."""
        while pool.waiting and running.under_way < min(pool.room, pool.at_once):
            tag, query = pool.waiting.popleft()
            running.under_way += 1
            self._send(running, tag, query)
        if not running.under_way:
            self._step(running, [])

    def tick(self, now: float) -> None:
        """Retry what is due, and do waiting work."""
        due = [n for n, r in self._requests.items() if r.retry_at is not None and r.retry_at <= now]
        for number in due:
            request = self._requests.pop(number)
            self._send(request.running, request.place, request.query, request.asked_at)
        for running in tuple(self._running.values()):
            if running.work_at <= now:
                self._worked(running)

    def retry_now(self) -> None:
        """Retry waiting requests now, because the network is back."""
        for request in self._requests.values():
            if request.retry_at is not None:
                request.retry_at = float("-inf")

    @property
    def wake_at(self) -> float | None:
        times = [r.retry_at for r in self._requests.values() if r.retry_at is not None]
        times += [r.work_at for r in self._running.values() if r.work is not None]
        return min(times, default=None)

    def _worked(self, running: _Running) -> bool:
        """Do the waiting work; return False if the flow received its error instead of an answer."""
        work, running.work = running.work, None
        if work is not None:
            try:
                work()
            except Exception as error:
                self._cancel(running)
                self._step(running, error)
                return False
        return True

    def _cancel(self, running: _Running) -> None:
        for number in [n for n, r in self._requests.items() if r.running is running]:
            if self._requests.pop(number).retry_at is None:
                self._emit(Cancel(number))

    def _step(self, running: _Running, outcome: Sequence[Read] | Exception | None) -> None:
        running.pool, running.under_way = None, 0
        try:
            while True:
                if isinstance(outcome, Exception):
                    asked = running.flow.throw(outcome)
                elif outcome is None:
                    asked = next(running.flow)
                else:
                    asked = running.flow.send(outcome)
                if isinstance(asked, Pool):
                    if asked.waiting:
                        break
                    outcome = []
                    continue
                if isinstance(asked, Ahead):
                    running.queries = [asked.query]
                    running.work, running.work_at = asked.work, self._horizon.now + SENDING
                    break
                running.queries = asked
                if asked:
                    break
                outcome = []
        except StopIteration:
            if self._running.get(running.name) is running:
                del self._running[running.name]
            return
        if isinstance(asked, Pool):
            running.pool = asked
            self._fill(running, asked)
            return
        running.reads = [None] * len(running.queries)
        for place, query in enumerate(running.queries):
            self._send(running, place, query)

    def _send(
        self, running: _Running, place: object, query: Query, asked_at: float | None = None
    ) -> None:
        self._number += 1
        now = self._horizon.now
        self._requests[self._number] = _Request(
            running,
            place,
            query,
            self._horizon.moment(),
            now,
            now if asked_at is None else asked_at,
        )
        self._emit(Fetch(self._number, query, running.purpose))
