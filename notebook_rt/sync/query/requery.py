"""The state machine of a query: when to fetch again what Realtime cannot stream, and what has changed.

It is a ``Machine`` like the mirror (``sync/table/machine.py``), so the same driver runs it. A change of a
table it depends on only indicates *that* something changed. The promises:

* **The trailing edge.** After the last change of a dependency, an answer requested later is shown.
* **One request at a time.** Changes during a request cause exactly one more, after a debounce, and not
  before the server has rested for as long as the last answer took.
* **A possible loss counts as a change** (a join, a reconnect, an overflow). The query is also fetched on a
  timer, and by polling while the socket is down.
* **An answer is shown whole,** as one change, or not at all; after a failure, the previous answer stays.

``sync/query/answer.py`` reads a whole answer and determines its columns.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from notebook_rt.errors import (
    MissingQueryError,
    MissingTableError,
    NotPublishedError,
    PermissionDeniedError,
    QueryKeyError,
)
from notebook_rt.model.rows import Key, Row, RowChange, Rows, WireRow
from notebook_rt.model.spec import QuerySpec, TableSpec
from notebook_rt.model.types import Schema
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Binding,
    Cause,
    Change,
    Event,
    Joined,
    Logged,
    Published,
    Query,
    Rejoin,
    Shown,
)
from notebook_rt.sync.query.answer import POSITION, Answers
from notebook_rt.sync.rate import ChangeRate
from notebook_rt.sync.table.column_types import typed
from notebook_rt.sync.table.discovery import Described, described, named
from notebook_rt.sync.table.flows import Flow, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon
from notebook_rt.sync.table.machine import JOIN_PATIENCE, Machine

READ: Final = "read"
RETRY_MAX: Final = 30.0
TORN: Final = 2
"""Number of consecutive answers that are read again at once because they changed between two pages."""


class Requery(Machine):
    """The state machine of one query; see the module docstring. Used like ``Mirror``."""

    def __init__(
        self,
        spec: QuerySpec,
        make_rows: Callable[[Schema], Rows],
        options: Options,
        rate: ChangeRate,
    ) -> None:
        self.spec = spec
        super().__init__(options, Horizon(options))
        self._schema: Schema | None = None
        self.rows: Rows | None = None
        self._make_rows = make_rows
        self._learnt = False
        self._answers = Answers(spec, options.page_size, options.max_rows, self._emit)
        self._bindings: tuple[Binding, ...] = ()
        self._shown: dict[Key, bytes] = {}
        self._marks = 1
        """Counts the events that may have changed the answer; the start is the first."""
        self._gap_mark = 1
        self._shown_mark = 0
        """The count when the shown answer was requested."""
        self._due = float("-inf")
        self._rest_until = float("-inf")
        self._rate = rate
        self._refusal: Exception | None = None
        self._refusals = 0

    @property
    def schema(self) -> Schema | None:
        """None until the first answer; without a key, the key column is ``POSITION``."""
        return self._schema

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """One binding per table, with its key only if that is known; empty until learned."""
        return self._bindings

    waiting_since = None
    """A change is never applied: it causes the query to be read."""

    @property
    def _shows(self) -> bool:
        return self.rows is not None

    def _begin(self) -> None:
        self._flows.start(READ, self._guard(self._learn()), self._now)

    # Events --------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        super()._take(event)
        if isinstance(event, Joined):
            self._patience_ends = self._now + JOIN_PATIENCE

    def _receive(self, changes: Sequence[Change]) -> None:
        self._marks += 1
        self._due = min(self._due, self._now + self.spec.debounce)

    def _note_gap(self) -> None:
        self._marks += 1
        self._gap_mark, self._due = self._marks, self._now

    def _refused_for_good(self, error: Exception) -> None:
        if isinstance(error, NotPublishedError):
            self._flows.stop_all()
            self._flows.start(READ, self._guard(self._end(error)), self._now)
        else:
            self._fail(error)

    # Next steps ------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        if self.rows is not None and self._now < self._rate.until:
            self._audits.hint(self._now, self._rate.reason, until=self._rate.until)
        if READ in self._flows or not self._learnt:
            return
        cause = self._next_cause()
        if cause is not None:
            self._flows.start(READ, self._guard(self._read(cause)), self._now)

    def _next_cause(self) -> Cause | None:
        if self._now < self._next_at():
            return None
        if self.rows is None:
            return "snapshot"
        if self._audits.asked:
            return "audit"
        if not self._confirmed:
            return "poll"
        if self._shown_mark >= self._marks:
            return "audit"
        return "reconcile" if self._shown_mark < self._gap_mark else "refetch"

    def _next_at(self) -> float:
        """Return when to read next."""
        if self.rows is None and self._bindings and not (self._confirmed or self._has_lost):
            return self._patience_ends
        if self._shown_mark < self._marks:
            return max(self._due, self._rest_until)
        return self._audits.at if self._confirmed or self._audits.asked else self._poll_at

    def _judge(self) -> None:
        failing = self._flows.failing or self._refusal
        if self.rows is None:
            self._set_status("loading", "")
        elif failing is not None:
            self._set_status("stale", str(failing))
        elif not self._confirmed and self._silence:
            self._set_status("stale", self._silence)
        elif not self._confirmed:
            why = self._gap_reason
            if not self._bindings:
                why = "depends_on= names no table, whose changes would say when to read it again"
            self._set_status("polling", why)
        elif self._shown_mark < self._gap_mark:
            self._set_status("stale", self._gap_reason)
        else:
            self._set_status("live", self.doubt)

    def _waits(self) -> Sequence[float | None]:
        return [self._flows.wake_at if READ in self._flows else self._next_at()]

    # Flows ----------------------------------------------------------------------------------------

    def _guard(self, flow: Flow) -> Flow:
        """Run ``flow``. Before the first answer, a refusal is the query's error; after it, the shown rows
        stay, and the query is retried at growing intervals.
        """
        try:
            yield from flow
        except Exception as error:  # an exception of a flow is the query's error, never a traceback
            named = self._named(error)
            if self.rows is None:
                self._fail(named)
                return
            self._refusal = named
            self._refusals += 1
            wait = min(self.options.poll_interval * 2.0 ** min(self._refusals - 1, 10), RETRY_MAX)
            self._marks += 1
            self._due = self._now + wait

    def _named(self, error: Exception) -> Exception:
        """Return the server's refusal as an error of this query."""
        spec = self.spec
        if isinstance(error, ReadRefusedError):
            error = error.error
        if isinstance(error, MissingTableError):
            return MissingQueryError(spec.schema, spec.table, error.hint)
        if isinstance(error, PermissionDeniedError) and self._answers.is_function:
            role, reason = error.role, error.reason
            return PermissionDeniedError(spec.schema, spec.table, role, "execute", reason)
        return error

    def _learn(self) -> Flow:
        """Read the server's description of the columns, and of the keys of the dependencies."""
        spec = self.spec
        beside = [table for schema, table in spec.depends_on if schema == spec.schema]
        said: Any = None
        try:
            (read,) = yield [Query((), describe=(spec.table, *beside))]
            said = read.page.value
        except ReadRefusedError:
            pass  # the first read will report the problem
        if not self._answers.is_function:
            found = described(said, spec.table)
            self._answers.described = found.columns
            self._answers.is_function = found.is_function
        bindings = []
        for schema, table in spec.depends_on:
            known = described(said, table) if schema == spec.schema else Described()
            bindings.append(Binding("*", schema, table, None, known.key or None))
        self._bindings = tuple(bindings)
        self._learnt = True
        if bindings:
            self._emit(Rejoin("the dependencies are known"))

    def _end(self, error: NotPublishedError) -> Flow:
        """Fail. Realtime has one message for a dependency that is not published and for one that does not
        exist; a read distinguishes them.
        """
        found: Exception = error
        try:
            yield [Query((("limit", "1"),), of=(error.schema, error.table))]
        except ReadRefusedError as refusal:
            of_it = named(refusal.error, TableSpec(error.table, schema=error.schema))
            if isinstance(of_it, PermissionDeniedError):
                found = PermissionDeniedError(
                    of_it.schema,
                    of_it.table,
                    of_it.role,
                    reason=of_it.reason,
                    instead="leave it out of depends_on: without any table the query is polled",
                )
            elif isinstance(of_it, MissingTableError):
                found = of_it
        self._fail(found)

    def _read(self, cause: Cause) -> Flow:
        answers = self._answers
        if cause in ("audit", "poll"):
            self._flows.serve(READ, cause)
        for _ in range(1 + TORN):
            mark, began = self._marks, self._now
            self._audits.began(began)
            self._due = float("inf")
            try:
                rows = yield from answers.read(self._schema)
            except ReadRefusedError as refusal:
                if self.rows is not None or answers.is_function or answers.described:
                    raise
                if not isinstance(refusal.error, MissingTableError):
                    raise
                answers.is_function = True  # no view of this name, or one without a description
                rows = yield from answers.read(self._schema)
            if answers.pages == 1 or mark == self._marks:
                break
        took = self._now - began
        if rows and not (answers.described or answers.is_function):
            # A view without a description: its columns can be compared, a function's result cannot.
            answers.described = yield from typed(tuple(rows[0]), rows)
        changed = self._show(rows, cause)
        self._refusal, self._refusals = None, 0
        self._shown_mark = mark
        self._rest_until = self._now + took
        self._audits.ended(self._now, took, clean=True)
        self._slow_down(changed=bool(changed))
        self._poll_at = self._next_poll(took)
        detail = {"rows": len(rows), "changed": changed, "seconds": took, "began": began}
        self._emit(Logged("audit" if cause == "audit" else "reconciled", detail))

    # Showing --------------------------------------------------------------------------------------

    def _show(self, rows: list[WireRow], cause: Cause) -> int:
        """Show the answer, as one change; return how many rows differ (1 if only the order does)."""
        spec = self.spec
        schema = self._answers.schema_of(rows)
        told = [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in rows]
        keys: Sequence[Key] = range(len(rows))
        if spec.key is not None:
            keys = schema.keys_of(rows)
        answer = dict(zip(keys, told, strict=True))
        if len(answer) < len(rows):
            raise QueryKeyError(spec.schema, spec.table, schema.key)
        before, old = self.rows, self._shown
        same = schema == self._schema
        if before is not None and same and list(answer.items()) == list(old.items()):
            return 0
        pairs: list[tuple[Key | None, Key | None]] = []
        if before is not None:
            pairs = list(_by_count(old, answer) if spec.key is None else _by_key(old, answer))
        told_of = pairs if self.want_changes else []
        was = [None if key is None or before is None else before.get(key) for key, _ in told_of]
        now = before if before is not None and same else self._make_rows(schema)
        load = now.load()
        places = [{POSITION: place} for place in range(len(rows))]
        load.extend(rows if spec.key else [{**r, **at} for r, at in zip(rows, places, strict=True)])
        load.commit()
        if now is not before:
            self.rows, self._schema = now, schema
            self._emit(Shown(now, schema))
        self._shown = answer
        changes = [
            _change(pair, gone, None if pair[1] is None else now.get(pair[1]))
            for pair, gone in zip(told_of, was, strict=True)
        ]
        self._emit(Published("snapshot" if before is None else cause, changes))
        return max(1, len(pairs))


def _by_key(
    old: dict[Key, bytes], new: dict[Key, bytes]
) -> Iterator[tuple[Key | None, Key | None]]:
    """Return pairs of old and new keys: first of removed rows, then of added or changed ones."""
    for key in old:
        if key not in new:
            yield key, None
    for key, told in new.items():
        if key not in old:
            yield None, key
        elif old[key] != told:
            yield key, key


def _by_count(
    old: dict[Key, bytes], new: dict[Key, bytes]
) -> Iterator[tuple[Key | None, Key | None]]:
    """Compare rows without a key by how often each occurs; of equal rows, the later ones are the changed."""
    places: defaultdict[bytes, deque[Key]] = defaultdict(deque)
    for place, told in old.items():
        places[told].append(place)
    came = []
    for place, told in new.items():
        if places[told]:
            places[told].popleft()
        else:
            came.append(place)
    yield from ((place, None) for rest in places.values() for place in rest)
    yield from ((None, place) for place in came)


def _change(pair: tuple[Key | None, Key | None], old: Row | None, new: Row | None) -> RowChange:
    rows = [
        None if row is None else {name: value for name, value in row.items() if name != POSITION}
        for row in (old, new)
    ]
    before, after = pair
    if before is None:
        return RowChange("insert", after, None, rows[1])
    return RowChange("delete" if after is None else "update", before, *rows)
