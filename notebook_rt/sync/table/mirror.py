"""One table's mirror: events in, effects out (promises 1 to 10).

The driver creates ``Mirror(spec, make_rows, options)``, calls ``handle(Tick(), now)`` once and then
``handle(event, now)`` for every event, and carries out the returned effects in order.

This module contains the life cycle of the table: loading the columns, starting the snapshot, opening and
closing gaps, polling and auditing. The steps of each are in ``passes.py``, the effect of a change on a row in
``replica.py``, the decision which of two states is newer in ``horizon.py``, and the reading of rows in
``reading.py`` and ``reconcile.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import structs

from notebook_rt.errors import (
    DuplicateKeyError,
    MissingColumnError,
    MissingTableError,
    NotBroadcastError,
    NotebookRTError,
    NotPublishedError,
    PermissionDeniedError,
)
from notebook_rt.model.classify import classify
from notebook_rt.model.rows import Key, Rows
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Schema
from notebook_rt.model.xmins import Xmins
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Binding,
    Change,
    ColumnsSuspect,
    Confirmed,
    Event,
    FetchFailed,
    Joined,
    Logged,
    ReceivedMessages,
    Rejoin,
    RowSuspect,
    Turn,
    TurnOver,
    TurnWanted,
)
from notebook_rt.sync.rate import ChangeRate
from notebook_rt.sync.table import discovery
from notebook_rt.sync.table.auditing import NEVER, Traffic
from notebook_rt.sync.table.broadcast import ChangeLog
from notebook_rt.sync.table.broadcast_answers import Absence, read_head, read_message
from notebook_rt.sync.table.change import UnknownColumnsError, UnreadableError
from notebook_rt.sync.table.flows import Flow, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.machine import LOAD_SHARE, POLL_SHARE, Machine
from notebook_rt.sync.table.memory import Memory
from notebook_rt.sync.table.passes import Learning, Pass, Passes, Proof
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.versions import Versions

MAIN: Final = "main"
LOG: Final = "log"
REFETCH: Final = "refetch"
LEARN_PAUSE: Final = 10.0
"""Seconds between two loads of the columns after a row has contained the same unknown columns again."""
UNSEEN_PAUSE: Final = 0.5
"""The same while a read may not see the first row of a table yet."""
ANOTHER_EPOCH: Final = "the table's messages are numbered anew, or tell rows by another key"
REFUSALS: Final = 3
"""Number of consecutive refused reads after which the table is in error."""


class Mirror(Machine):
    """The state machine that keeps one table equal to the server's.

    Parameters
    ----------
    make_rows
        Creates the empty table for a schema, once it is known (and again when columns change): the
        columnar table, or the overlay over it.
    rate
        The rate of the session's changes, counted by the caller, which shows whether the server may drop
        some.
    phase
        Offset in seconds at which the session's tables check the heads of their logs (``ChangeLog``).
    """

    def __init__(
        self,
        spec: TableSpec,
        make_rows: Callable[[Schema], Rows],
        options: Options,
        rate: ChangeRate,
        phase: float = 0.0,
    ) -> None:
        self.spec = spec
        self._phase = phase
        super().__init__(options, Horizon(options))
        self._passes = Passes(
            spec, make_rows, options, self._horizon, self._emit, lambda: self._flows.waited
        )
        self._source: Literal["changes", "broadcast"] | None = (
            "changes" if spec.source == "changes" else None
        )
        self._not_broadcast: Absence | None = None
        """Why changes are not received by broadcast although that was requested."""
        self._followed = ""
        """The topic that was or will be joined."""
        self._gaps = 0
        self._closed_gaps = 0
        self._since: float | None = None
        self._traffic = Traffic()
        self._rate = rate
        self._learn_at = self._retry_at = float("-inf")
        self._named_at: float | None = None
        """Time since which a row exists that can name the unknown columns; None: there is no such row."""
        self._first: Sequence[Change] = ()
        """The changes that named the columns of an empty table: applied once the table is shown with them,
        so that listeners see the row arrive."""
        self._turn: Literal["", "asked", "had"] = ""
        """Whether this table requested a poll and may start it."""
        self._asked_at = float("-inf")
        self._refusals = 0
        self._reads_all = False
        """Whether the main flow reads all rows and so proves them."""
        self._began_again = False
        """Whether it restarted for a second confirmation, and has proven nothing yet."""
        self._unproven = ""
        """The time of the rows while they are those of an earlier kernel and not yet compared."""

    # Queries of the driver ----------------------------------------------------------------------

    @property
    def schema(self) -> Schema | None:
        """The projection with its key, order and version columns; None until it is known."""
        return None if self._passes.replica is None else self._passes.replica.schema

    @property
    def rows(self) -> Rows | None:
        """The rows shown; None until the first load (``Shown``)."""
        replica = self._passes.replica
        return replica.rows if replica is not None and replica.loaded else None

    def resume(
        self,
        rows: Rows,
        kept: Schema,
        known: Schema,
        versions: Xmins,
        memory: Memory,
        as_of: str,
    ) -> None:
        """Start with rows stored by an earlier kernel, which the caller shows although they are not proven.

        Until a pass has compared them with the server, the table is ``stale``, with ``as_of`` as the reason.
        Called before the first event.
        """
        self._passes.resume(rows, kept, known, versions, memory)
        self._since, self._unproven = memory.since, as_of
        self._note_gap()

    @property
    def known(self) -> Schema:
        """Return all columns of the server's table."""
        assert self._passes.replica is not None  # called only for a table that is shown
        return self._passes.replica.known

    @property
    def complete(self) -> bool:
        """Whether all columns are known: no row is shown before that."""
        return self._passes.replica is None or self._passes.replica.complete

    @property
    def proven(self) -> bool:
        """Whether the rows shown were received from or compared with the server in this kernel."""
        return self._shows and not self._unproven

    @property
    def is_warm(self) -> bool:
        """Whether the rows were stored by an earlier kernel and not yet compared with the server."""
        return bool(self._unproven)

    @property
    def may_be_hidden(self) -> bool:
        """Whether the table is empty for another reason than received or local deletions."""
        rows, replica = self.rows, self._passes.replica
        if rows is None or replica is None or len(rows) or rows.pending_keys:
            return False
        return not replica.emptied_by_deletion

    @property
    def gapless(self) -> bool:
        """Whether no gap is open."""
        return self._gaps == self._closed_gaps

    @property
    def memory(self) -> Memory:
        """Return the state from which a later kernel continues."""
        return self._passes.memory(self._since, reading=REFETCH in self._flows)

    @property
    def undecided(self) -> frozenset[Key]:
        """Return the keys of rows that must be read, because nothing else can decide their state."""
        replica = self._passes.replica
        return frozenset() if replica is None else replica.undecided

    @property
    def versions(self) -> Versions:
        """The known versions of the rows; read only."""
        assert self._passes.replica is not None  # called only for a table that is shown
        return self._passes.replica.versions

    @property
    def described(self) -> discovery.Described:
        """The server's latest description of the table."""
        return self._passes.described

    @property
    def waiting_since(self) -> float | None:
        """Monotonic time since which a change has waited to be applied; None: none is waiting."""
        replica = self._passes.replica
        return None if replica is None else replica.waiting_since

    @property
    def source(self) -> Literal["changes", "broadcast"] | None:
        """How changes are received; None until that is known (then ``Rejoin`` is sent)."""
        return self._source

    @property
    def topic(self) -> str | None:
        """The private topic to join, if changes are received by broadcast."""
        return None if self._passes.log is None else self._passes.log.topic

    @property
    def scope(self) -> str:
        """The column whose value the topic contains; empty for a whole table's topic, or without one."""
        return "" if self._passes.log is None else self._passes.log.scope

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """The bindings to join with; empty with a ``topic``, and until they are known (see ``Rejoin``).

        A filter that Realtime supports needs four bindings (docs/design/facts.md): rows that enter it, rows
        that stay in it, a narrow one for rows that leave it, and deletions, which a filter would drop.
        """
        spec, schema = self.spec, self.schema
        if self._source != "changes":
            return ()
        if spec.columns is None:
            select = None
        elif schema is None:
            return ()
        else:
            select = tuple(dict.fromkeys((*schema.names, *spec.filter.columns)))
        table = (spec.schema, spec.table)
        text = spec.filter.to_realtime() if spec.filter else None
        if text is None:
            return (Binding("*", *table, None, select),)
        return (
            Binding("INSERT", *table, text, select),
            Binding("UPDATE", *table, text, select),
            Binding("UPDATE", *table, None, spec.filter.columns),
            Binding("DELETE", *table, None, select),
        )

    @property
    def _shows(self) -> bool:
        return self.rows is not None

    def _begin(self) -> None:
        if self._unproven:  # the first flow that is due loads the columns
            return
        self._flows.start(MAIN, self._guard(self._prove(self._learn())), self._now)

    def _learn(self) -> Learning:
        """Load the columns, and find out how changes are received if that is unknown."""
        found_log = self._found_log if self._source is None else None
        try:
            proof = yield from self._passes.learn(found_log)
        except NotPublishedError:
            if self._not_broadcast is None:
                raise
            raise self._refused(self._not_broadcast) from None
        if self._source is None and self._not_broadcast is not None:
            raise self._refused(self._not_broadcast)
        return proof

    def _refused(self, why: Absence) -> NotBroadcastError:
        spec, partly = self.spec, self.described.readable is not None
        role = self.described.role if partly else ""
        return NotBroadcastError(spec.schema, spec.table, why.reason, why.scope, why.key, role)

    def _found_log(self, read: Read) -> tuple[str, ...] | None:
        """Take the answer whether changes are broadcast; see `discovery.learn`."""
        head, why = read_head(read.page, self.spec.key)
        if head is not None:
            self._source = "broadcast"
            self._passes.log = ChangeLog(self.spec, head, self.options, self._now, self._phase)
            self._followed = head.topic
            self._horizon.logged = True
        elif self.spec.source == "broadcast":
            self._not_broadcast = why
            return ()
        else:
            self._source = "changes"
            if why is not None and (
                why.scope or why.key
            ):  # broadcast exists, but was not requested correctly
                self._not_broadcast = why
                self._emit(Logged("source", {"source": "changes", "reason": why.reason}))
        self._emit(Rejoin("the source is known"))
        return None if head is None else head.key or ()

    # Events -------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        if self._first:
            first, self._first = self._first, ()
            self._apply(first)
        match event:
            case FetchFailed():
                self._end_turn()  # a table that waits to retry does not block others
                if classify(event.error).kind == "server":
                    self._audits.hint(self._now, "the server has failed to answer")
                super()._take(self._excuse_refusal(event))
            case Joined():
                super()._take(event)
                self._horizon.joined()
                self._flows.stop(LOG)  # its earlier requests say nothing about this join
                self._open_gap("a new join", missed=False)
            case Confirmed():
                if self._passes.log is not None:
                    self._passes.log.numbers.joined()
                again = self._confirmed
                super()._take(event)
                if again:
                    self._begin_again()
            case ReceivedMessages(payloads):
                self._apply_messages(payloads)
            case Turn():
                self._turn = "had"
            case ColumnsSuspect(named):
                if self._passes.replica is not None:
                    self._passes.replica.schema_moved = True
                    if named:  # a caller waits for the answer
                        known = self._passes.replica.known.names
                        asked = dict.fromkeys((*known, *self._passes.named, *named))
                        self._passes.named = tuple(asked)
                        self._learn_at = self._now
            case RowSuspect(key):
                if self._passes.replica is not None:
                    self._passes.replica.want(key, self._now)
            case _:
                super()._take(event)

    def _begin_again(self) -> None:
        """Handle a second confirmation of a join, which is a gap: restart a long read that has just begun.

        Otherwise a second read would have to follow, because rows read before the gap prove nothing.
        """
        begun = self._reads_all and MAIN in self._flows and self._passes.has_just_begun
        if begun and not self._began_again and self._passes.log is None:
            self._began_again = True
            self._flows.stop(MAIN)
            self._passes.begin_again()

    def _refused_for_good(self, error: Exception) -> None:
        if self._passes.log is not None:
            if self.spec.source == "broadcast":
                self._leave_stream(str(error))
            else:
                self._fall_back(Absence(str(error)))
        elif self.rows is None:
            why = self._not_broadcast if isinstance(error, NotPublishedError) else None
            self._fail(error if why is None else self._refused(why))
        else:
            self._leave_stream(str(error))
            self._flows.stop_all()
            self._flows.start(MAIN, self._end(error), self._now)

    def _excuse_refusal(self, event: FetchFailed) -> FetchFailed:
        """Keep a table that is shown although its token was refused: a new token can fix that."""
        replica = self._passes.replica
        loaded = replica is not None and replica.loaded
        if loaded and event.retry_after is None and classify(event.error).kind == "auth":
            return structs.replace(event, retry_after=self.options.backoff_base)
        return event

    def _apply_messages(self, payloads: Sequence[object]) -> None:
        log = self._passes.log
        if log is None:
            return
        messages = []
        for payload in payloads:
            message = read_message(payload)
            if message is None:
                self._open_gap("a message that cannot be read")
            elif log.is_of_another_epoch(message):
                log.forget()
                log.kept.append(message)
                self._open_gap(ANOTHER_EPOCH)
                if self._passes.replica is not None:  # the key may be another one
                    self._passes.replica.schema_moved, self._learn_at = True, self._now
            else:
                messages.append(message)
        committed = None
        try:
            committed = self._passes.receive(messages)
        except UnreadableError as error:
            self._open_gap(str(error))
        self._passes.publish("stream", committed)

    def _receive(self, changes: Sequence[Change]) -> None:
        replica = self._passes.replica
        if self._source != "changes":
            return
        self._passes.keep_recent(changes)
        if self._passes.kept is not None:
            self._passes.kept += changes
            if len(self._passes.kept) > self.options.buffer_size:
                self._passes.kept.clear()
                self._open_gap("too many changes while loading")
            return
        if replica is None or not replica.loaded:
            return
        self._traffic.count_changes(len(changes), self._now)
        named = self._passes.named_by(replica, changes)
        if named is not None:
            self._flows.stop(MAIN)  # they read the previous columns
            self._flows.stop(REFETCH)
            self._passes.show_columns(named, changes[0].commit_time)
            self._first = changes
            return
        self._apply(changes)

    def _apply(self, changes: Sequence[Change]) -> None:
        replica = self._passes.replica
        if replica is None or self._passes.kept is not None:  # a load includes earlier changes
            return
        try:
            replica.receive(changes, self._now)
        except UnreadableError as error:
            self._open_gap(str(error))
        times = [change.commit_time for change in changes if change.commit_time is not None]
        self._passes.publish("stream", max(times, default=None))

    def _note_gap(self) -> None:
        self._gaps += 1
        self._horizon.gap_opens()
        if self._passes.replica is not None:
            self._passes.replica.gap_opens()
        log = self._passes.log
        followed = (
            log is not None and log.position is not None
        )  # the log contains everything that was lost
        if self._shows and not self._unproven and not followed:
            self._audits.hint(self._now, "")

    # Next steps ---------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        replica = self._passes.replica
        log = self._passes.log
        if log is not None and log.ended is not None:
            self._fall_back(log.ended)
            log = None
        if log is not None and log.restarted:
            log.restarted = False
            if log.topic == self._followed:
                self._open_gap(ANOTHER_EPOCH)
            else:
                self._followed = log.topic
                self._leave_stream("the table's changes are broadcast on another topic")
                self._emit(Rejoin("another topic"))
            if replica is not None and log.key and {*log.key} != {*replica.schema.key}:
                replica.schema_moved, self._learn_at = True, self._now
        if replica is None or self._failed is not None:
            return
        replica.want_changes = self.want_changes
        self._passes.forget_recent()
        self._see_what_hints(replica)
        if log is not None and log.position is not None and replica.loaded:
            self._follow_log(replica, log)
        if MAIN not in self._flows and self._now >= self._retry_at:
            flow = self._next_flow(replica)
            if flow is not None:
                self._flows.start(MAIN, self._guard(flow), self._now)
        if self._turn == "had" and MAIN not in self._flows:
            self._end_turn()  # the requested step is no longer due
        due = [key for key, at in replica.wanted.items() if at <= self._now]
        if due and replica.loaded and REFETCH not in self._flows:
            self._flows.start(REFETCH, self._guard(self._passes.refetch(replica)), self._now)

    def _see_what_hints(self, replica: Replica) -> None:
        """Bring the next audit forward if changes may be lost silently."""
        if self._passes.judge_audit(replica):
            self._rate.lost(self._now)
            self._audits.hint(self._now, "the last audit found rows that had been lost")
        if self._passes.log is not None:
            return  # its numbers reveal losses
        if self._traffic.fell_quiet(self._now):  # changes that are later than that are lost
            self._audits.hint(self._now, "changes have stopped coming", within=0.0)
        if replica.loaded and self._now < self._rate.until:
            self._audits.hint(self._now, self._rate.reason, until=self._rate.until)

    def _follow_log(self, replica: Replica, log: ChangeLog) -> None:
        """Read lost changes from the log, and check its head for losses."""
        if not self._confirmed or LOG in self._flows or self._now < self._retry_at:
            return
        if self._unproven:
            return
        if self.gapless and log.numbers.lost(self._now):
            self._open_gap("messages of the database were lost; they are read from its log")
        if not self.gapless or self._now >= log.numbers.lost_at:
            flow = self._follow(replica, log)
        elif self._now >= log.head_at:
            flow = self._check_head(log)
        else:
            return
        self._flows.start(LOG, self._guard(flow), self._now)

    def _fall_back(self, why: Absence) -> None:
        """Switch to Postgres Changes because the table is no longer broadcast."""
        self._flows.stop(LOG)
        self._passes.log = None
        self._horizon.unlogged()
        if self.spec.source == "broadcast":
            self._fail(self._refused(why))
            return
        self._source = "changes"
        self._emit(Logged("source", {"source": "changes", "reason": why.reason}))
        self._leave_stream(f"the database does not broadcast its changes any more: {why.reason}")
        self._emit(Rejoin("another source"))

    def _next_flow(self, replica: Replica) -> Flow | None:
        log = self._passes.log
        if replica.moved_to is not None:
            columns, replica.moved_to = replica.moved_to, None
            return self._prove(self._passes.change_columns(replica, columns))
        if not replica.loaded or not len(replica.rows) or self.described.complete:
            self._named_at = None
        else:
            replica.schema_moved = True  # a row was read, which names all columns
            if self._named_at is None:  # at once, although columns were just loaded for edits
                self._named_at = self._learn_at = self._now
        if replica.names_are_new:  # at once, although columns were just loaded
            replica.names_are_new, self._learn_at = False, self._now
        if replica.schema_moved and self._now >= self._learn_at:
            replica.schema_moved = False
            # The row may have been received before a read sees it.
            new = not replica.complete or (
                self._named_at is not None
                and self._now < self._named_at + self.options.visible_within
            )
            self._learn_at = self._now + (UNSEEN_PAUSE if new else LEARN_PAUSE)
            return self._prove(self._learn())
        if not replica.loaded or self._unproven:
            if not (self._confirmed or self._has_lost or self._now >= self._patience_ends):
                return None
            if not replica.loaded:
                return self._prove(self._passes.load(replica), LOAD_SHARE, reads_all=True)
            return self._prove(self._warm(replica), reads_all=True)
        if self._audits.asked and self._now >= self._audits.at:
            return self._audit(replica)
        if self._confirmed and self._gaps > self._closed_gaps:
            if self._now >= self._audits.by:  # it compares all rows, so it also closes gaps
                return self._audit(replica)
            if log is None or log.position is None:
                return self._prove(self._reconcile(replica, "reconcile"), reads_all=True)
        if (
            replica.window is not None
            and replica.window.stale
            and self._now >= self._passes.order_at
        ):
            return self._passes.order(replica, replica.window)
        if self._confirmed:
            if self._now >= self._audits.at or replica.nulls.betrayed:
                return self._audit(replica)
        elif self._now >= self._poll_at:
            if self._turn == "had":
                return self._poll(replica)
            if not self._turn:
                self._turn, self._asked_at = "asked", self._now
                self._emit(TurnWanted())
        return None

    def _end_turn(self) -> None:
        if self._turn == "had":
            self._turn = ""
            self._emit(TurnOver())

    def _judge(self) -> None:
        replica = self._passes.replica
        if self._failed is not None:
            return
        if replica is None or not replica.loaded:
            self._set_status("loading", "starting")
        elif self._unproven:
            self._set_status("stale", self._unproven)
        elif self._confirmed:
            if self._gaps > self._closed_gaps:
                self._set_status("stale", self._gap_reason)
            else:
                self._set_status("live", self.doubt)
        elif self._flows.failing is not None or self._refusals:
            self._set_status("stale", str(self._flows.failing or "refused"))
        elif self._silence:
            self._set_status("stale", self._silence)
        else:
            self._set_status("polling", self._gap_reason)

    def _waits(self) -> Sequence[float | None]:
        times: list[float] = [self._now] if self._first else []
        replica = self._passes.replica
        if replica is not None and MAIN not in self._flows:
            if not replica.loaded or self._unproven:
                times.append(self._patience_ends)
            else:
                if self._confirmed:
                    times.append(self._audits.at)
                elif not self._turn:
                    times.append(self._poll_at)
            if replica.window is not None and replica.window.stale:
                times.append(self._passes.order_at)
            if replica.schema_moved:
                times.append(self._learn_at)
            if self._gaps > self._closed_gaps and self._retry_at > self._now:
                times.append(self._retry_at)
            # None of these starts before a refused read may be retried.
            times = [max(time, self._retry_at) for time in times]
        log = self._passes.log
        if (
            log is not None
            and self._confirmed
            and LOG not in self._flows
            and log.position is not None
            and not self._unproven
        ):
            due = min(log.head_at, log.numbers.lost_at) if self.gapless else self._retry_at
            times.append(max(due, self._retry_at))
        if self._flows.wake_at is not None:
            times.append(self._flows.wake_at)
        if replica is not None and replica.wanted and REFETCH not in self._flows:
            times.append(min(replica.wanted.values()))
        if self._passes.verdicts:
            times.append(self._passes.verdicts[0])
        if self._audits.at != NEVER:
            times.append(self._traffic.quiet_at)
        return times

    # Flows --------------------------------------------------------------------------------------

    def _guard(self, flow: Flow) -> Flow:
        """Run ``flow``. A refusal by the server is a gap, and an error if it persists."""
        try:
            yield from flow
        except ReadRefusedError as refusal:
            error = discovery.named(refusal.error, self.spec)
            self._refusals += 1
            replica = self._passes.replica
            if replica is None or not replica.loaded or self._refusals >= REFUSALS:
                self._fail(error)
                return
            self._open_gap(str(error), missed=False)
            renamed = isinstance(error, MissingColumnError) and self._now >= self._learn_at
            replica.schema_moved |= renamed or bool(self._unproven)
            self._retry_at = self._now + (0.0 if renamed else self.options.poll_interval)
            if self._unproven:
                self._learn_at = self._retry_at
        except UnknownColumnsError:  # it is read again, with all columns
            replica = self._passes.replica
            if replica is not None:
                replica.schema_moved, self._learn_at = True, self._now
        except DuplicateKeyError as error:
            replica = self._passes.replica
            if replica is None or not replica.loaded or self.spec.key or replica.key_doubted:
                self._fail(error)
                return
            replica.key_doubted = replica.schema_moved = True
            self._learn_at = self._now
            self._open_gap("several rows have one key: it may be another one by now", missed=False)
        except NotebookRTError as error:
            self._fail(error)
        except Exception as error:  # a bug here: also a gap (promise 3), never a traceback
            self._refusals += 1
            replica = self._passes.replica
            if replica is None or not replica.loaded or self._refusals >= REFUSALS:
                self._fail(error)
                return
            self._open_gap(f"an exception while reading: {error!r:.200}", missed=False)
            replica.schema_moved = True  # columns that changed meanwhile are the likely cause
            first = self._refusals == 1  # a first change is read at once
            self._retry_at = self._now + (0.0 if first else self.options.poll_interval)
            if self._unproven:
                self._learn_at = self._retry_at
        else:
            self._refusals = 0

    def _end(self, error: Exception) -> Flow:
        """Fail with the cause. Realtime uses one message for several causes, so a read decides."""
        reads = self._passes.reads
        try:
            yield [reads.page(reads.by_key(), limit=1)]
        except ReadRefusedError as refusal:
            found = discovery.named(refusal.error, self.spec)
            plainer = (MissingTableError, PermissionDeniedError)
            error = found if isinstance(found, plainer) else error
            if isinstance(found, MissingColumnError):
                try:
                    yield from discovery.learn(self.spec, lambda *found: None)
                except MissingColumnError as missing:  # this error names the columns
                    error = missing
        self._fail(error)

    def _prove(
        self, one: Learning | Pass, share: float = POLL_SHARE, *, reads_all: bool = False
    ) -> Flow:
        gaps, self._reads_all = self._gaps, reads_all
        try:
            proof = yield from one
        finally:
            self._reads_all = False
        if proof is not None:
            self._proven(proof, gaps, share)

    def _audit(self, replica: Replica) -> Flow:
        gaps, began = self._gaps, self._now
        self._flows.serve(MAIN, "audit")
        self._audits.began(began)
        log, audit = self._passes.log, self._passes.audit(replica)
        if (
            log is not None and log.position is None
        ):  # otherwise later changes would not be followed
            audit = self._passes.rooted(replica, log, audit)
        proof = yield from audit
        self._audits.ended(self._now, proof.took, clean=not proof.differing)
        if not proof.differing:
            self._traffic.proven(began)
        self._proven(proof, gaps)

    def _reconcile(self, replica: Replica, cause: Literal["reconcile", "poll", "warm"]) -> Pass:
        log = self._passes.log
        if log is None:
            return (yield from self._passes.reconcile(replica, cause, self._since))
        # The missing changes have no time bound, because the log gave no time.
        one = self._passes.reconcile(replica, cause, None)
        return (yield from self._passes.rooted(replica, log, one))

    def _warm(self, replica: Replica) -> Pass:
        """Prove the rows of an earlier kernel, from the log if it reaches back to them."""
        log, proof = self._passes.log, None
        if log is not None and self._passes.resume_log(replica, log):
            proof = yield from self._passes.follow(replica, log, "warm")
        if proof is None:
            proof = yield from self._reconcile(replica, "warm")
        return proof

    def _follow(self, replica: Replica, log: ChangeLog) -> Flow:
        gaps = self._gaps
        proof = yield from self._passes.follow(replica, log, "reconcile")
        if proof is not None:
            self._proven(proof, gaps)
        else:
            log.forget()
            self._open_gap("what was missed is read from the table, not from its log")

    def _check_head(self, log: ChangeLog) -> Flow:
        self._flows.serve(LOG, "heads")
        yield from self._passes.check_head(log)

    def _poll(self, replica: Replica) -> Flow:
        gaps, log = self._gaps, self._passes.log
        self._flows.serve(MAIN, "poll")
        proof = None
        try:
            if log is not None and log.position is not None:
                proof = yield from self._passes.follow(replica, log, "poll")
            if proof is None:
                proof = yield from self._reconcile(replica, "poll")
        finally:
            self._end_turn()
        self._slow_down(changed=bool(proof.differing))
        self._proven(proof, gaps)
        # The interval counts from the time the poll was due, not from its start after a wait for others.
        self._poll_at = max(self._asked_at + self._poll_every, self._now + proof.took / POLL_SHARE)
        self.poll_every = self._poll_at - self._asked_at

    def _proven(self, proof: Proof, gaps: int, share: float = POLL_SHARE) -> None:
        """Record that no change committed before the proof is missing."""
        self._since = proof.server_time
        self._horizon.proven(proof.server_time)
        if proof.closes_gaps:
            sent = proof.sent if self._passes.log is None else None
            late = sent is not None and self._horizon.is_behind_gaps(sent)
            self._closed_gaps = self._gaps if late else gaps
            self._unproven = ""
        self._began_again = False
        if self._passes.replica is not None:
            self._passes.replica.gapless = self.gapless
        self._audits.loaded(self._now, proof.took)
        self._poll_at = self._next_poll(proof.took, share)
