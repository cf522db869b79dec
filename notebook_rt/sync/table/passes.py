"""The passes over one table: what each reads, from its first request to its proof.

A pass is a flow (``flows.py``): loading the columns, the first load, a reconciliation, an audit, the
server's order, rows by key. The mirror decides when each runs; this module contains its steps and results:
the replica, a proof of the changes that cannot be missing any more, and the effects that report it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.errors import InexactKeyError
from notebook_rt.model.rows import Key, Rows, at_most
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema, built_in
from notebook_rt.model.xmins import Xmins
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Cause,
    Change,
    Effect,
    Logged,
    Progress,
    Published,
    Ranked,
    Rejoin,
    Shown,
)
from notebook_rt.sync.table import discovery
from notebook_rt.sync.table.broadcast import ChangeLog, Missed, Truncated
from notebook_rt.sync.table.broadcast_answers import Entry, Message
from notebook_rt.sync.table.change import (
    UnknownColumnsError,
    UnreadableError,
    columns_differ,
)
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.flows import Ask, Flow
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.memory import Memory
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.reading import (
    Beginning,
    Paging,
    by_keys,
    load,
    probe_columns,
    ranks,
    scan,
)
from notebook_rt.sync.table.reconcile import Reconciliation
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.restored import is_as_followed
from notebook_rt.sync.table.window import Window

LATENESS: Final = 5.0
"""Seconds within which the change that explains a difference would have arrived."""
ORDER_PAUSE: Final = 0.25
"""Seconds between two requests for the server's order; twice the duration of one, within limits."""
ORDER_PAUSE_MAX: Final = 5.0
MANY_PAGES: Final = 20
"""Number of pages from which a pass counts as long."""
JUST_BEGUN: Final = 0.1
"""The share of its rows up to which a load counts as just begun: a restart delays it by no more."""


class Proof(msgspec.Struct, frozen=True):
    """The proof that the table has every change committed before ``server_time``."""

    server_time: float | None
    took: float
    """Seconds of work."""
    differing: int = 0
    """Number of rows that had to be repaired."""
    closes_gaps: bool = True
    """False if an unreadable change arrived meanwhile."""
    sent: int | None = None
    """The moment since which all compared rows were read: gaps opened before it are closed, too. None: only
    gaps opened before the pass began are closed."""


Pass: TypeAlias = Generator[Ask, Sequence[Read], Proof]
Learning: TypeAlias = Generator[Ask, Sequence[Read], Proof | None]


class Passes:
    """The passes over one table, and the replica that they fill.

    Parameters
    ----------
    waited
        Total seconds that flows have spent waiting for a retry, which are not work.
    """

    def __init__(
        self,
        spec: TableSpec,
        make_rows: Callable[[Schema], Rows],
        options: Options,
        horizon: Horizon,
        emit: Callable[[Effect], None],
        waited: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.options = options
        self.replica: Replica | None = None
        self.described = discovery.Described()
        """The server's latest description of the table."""
        self.named: tuple[str, ...] = ()
        """Columns named by edits while the table had no row to name them."""
        self.kept: list[Change] | None = None
        """The changes that arrived during the load; None without a load."""
        self.log: ChangeLog | None = None
        """The followed log if changes are broadcast; None for Postgres Changes."""
        self._kept_position = ("", "")
        """The log's epoch and position in an earlier kernel."""
        self._recent: deque[tuple[float, Change]] = deque(maxlen=options.buffer_size)
        """The changes that arrived just before the load: it may not see them yet."""
        self.order_at = float("-inf")
        """Earliest time of the next request for the server's order."""
        self.verdicts: deque[float] = deque()
        """Time at which it is known whether differences repaired by an audit were drift."""
        self._left: frozenset[Key] = frozenset()
        """The rows that the last audit left undecided and that still are."""
        self._beginning: Beginning | None = None
        """The beginning of a load that was stopped."""
        self._loads = False
        """Whether the latest pass over all rows is a load."""
        self._total = 0
        """Approximate number of rows that the latest pass over all rows reads; 0: unknown."""
        self._make_rows = make_rows
        self._horizon = horizon
        self._emit = emit
        self._waited = waited
        self._paging = Paging(options.page_size, options.reads_at_once, most=options.max_rows)
        self._reads: Reads | None = None

    @property
    def reads(self) -> Reads:
        assert self._reads is not None  # loaded before anything else is read
        return self._reads

    @property
    def now(self) -> float:
        """Monotonic seconds of the current event."""
        return self._horizon.now

    def keep_recent(self, changes: Sequence[Change]) -> None:
        """Record received changes: a load that begins now may not see the latest ones yet."""
        self._recent.extend((self.now, change) for change in changes)
        self.forget_recent()

    def forget_recent(self) -> None:
        """Drop changes that every read sees by now."""
        while self._recent and self._recent[0][0] <= self.now - self.options.visible_within:
            self._recent.popleft()

    @property
    def has_just_begun(self) -> bool:
        """Return whether the current pass over all rows still has much to read.

        Rows that a load has requested count as read, because a restart would request them again. Rows that
        were compared are not counted: no user waits to see them.
        """
        if self._paging.proves_later:
            return False
        page, total = self._paging.rows, self._total
        asked = self._paging.came + self._paging.at_once * page if self._loads else 0
        much = total >= MANY_PAGES * page and asked < JUST_BEGUN * total
        return much and self.replica is not None and self.replica.window_read is None

    def begin_again(self) -> None:
        """Keep what a stopped load has found out for the next one."""
        if self._loads:
            self._beginning = self._paging.beginning or self._beginning

    # The rows of an earlier kernel --------------------------------------------------------------

    def resume(
        self, rows: Rows, kept: Schema, known: Schema, versions: Xmins, memory: Memory
    ) -> None:
        """Continue from the state of an earlier kernel; the columns are loaded again first."""
        # Of an empty table perhaps not all columns were known.
        complete = bool(len(rows)) or self.spec.columns is not None
        self.described = replace(self.described, complete=complete)
        self.replica = replica = Replica(self.spec, kept, known, self._horizon, complete=complete)
        self._reads = Reads(self.spec, kept, self.options.page_size)
        replica.rows = rows
        replica.versions.resume(versions)
        replica.watermark.believed &= memory.believed
        replica.watermark.moved = memory.moved
        replica.schema_moved = True
        self._horizon.resume(memory.heard)
        self._kept_position = memory.epoch, memory.position

    def memory(self, since: float | None, *, reading: bool) -> Memory:
        """Return the state from which a later kernel continues, with rows proven as of ``since``.

        ``reading``: rows named by the log are being read.
        """
        replica, log = self.replica, self.log
        assert replica is not None  # called only for a table that is shown
        watermark = replica.watermark
        heard = self._horizon.covered_until
        known = log is not None and not (reading or replica.wanted)
        epoch, position = log.kept_position if log is not None and known else ("", "")
        return Memory(since, heard, watermark.believed, watermark.moved, epoch, position)

    def resume_log(self, replica: Replica, log: ChangeLog) -> bool:
        """Return whether the stored rows can be followed from the stored position of the log.

        Rows behind the edge of a window, and an order that only the server knows, must be read.
        """
        window = replica.window
        return (window is None or not window.wanted) and log.resume(*self._kept_position)

    # The columns, and the load ------------------------------------------------------------------

    def learn(self, found_log: Callable[[Read], tuple[str, ...] | None] | None = None) -> Learning:
        """Load the columns, and the table again if they differ; ``found_log``: see `discovery.learn`."""
        log = self.log
        if log is not None:  # its key may have changed, too

            def found_log(read: Read) -> tuple[str, ...]:
                log.take_head(read.page, self.now)
                return log.key

        found: list[tuple[Schema, Schema, discovery.Described]] = []
        asked = self.named
        spec = replace(self.spec, named=(*self.spec.named, *asked))
        size = self.options.page_size if self.replica is None else None
        yield from discovery.learn(
            spec,
            lambda *schemas: found.append(schemas),
            size,
            found_log,
        )
        kept, known, described = found[0]
        # Until they are shown, an edit that names one waits.
        self.described = replace(described, complete=False)
        if described.grants is not None and self._paging.digest is None:
            self._paging.digest = True  # known from our SQL
        others = self.named is not asked  # they were named meanwhile, and are requested next
        if not others:
            self.named = tuple(name for name in asked if name in known.types)
        proof = yield from self._take_up(kept, known, described.complete)
        self.described = replace(self.described, complete=described.complete)
        if others and self.replica is not None:
            self.replica.schema_moved = True
        if asked:
            self._emit(Logged("learnt", {"named": asked}))
        return proof

    def _take_up(self, kept: Schema, known: Schema, complete: bool) -> Learning:
        """Continue with the loaded columns."""
        before = self.replica
        if before is None:
            self.replica = Replica(self.spec, kept, known, self._horizon, complete=complete)
            self._reads = Reads(self.spec, kept, self.options.page_size)
            if self.spec.columns is not None:  # else the bindings need no schema
                self._emit(Rejoin("the columns are known"))
            return None
        same_key = kept.key == before.schema.key
        if (
            before.complete
            and not complete
            and same_key
            and known.types.keys() <= before.known.types.keys()
        ):
            return None  # no row was there to name the columns that a change has named
        if before.known == known:
            before.complete = complete
            return None
        new = Replica(self.spec, kept, known, self._horizon, complete=complete)
        return (yield from self._replace(new))

    def change_columns(self, replica: Replica, columns: tuple[Column, ...]) -> Learning:
        """Take the columns named by a change, which differ from the known ones."""
        new = self._with_columns(replica, columns)
        return (yield from self.learn() if new is None else self._replace(new))

    def _with_columns(self, replica: Replica, columns: tuple[Column, ...]) -> Replica | None:
        """Return a replica with the columns named by a change; None if they lack a required one."""
        names = {column.name for column in columns}
        needed = {*replica.schema.key, *self.spec.filter.columns}
        needed.update(term.column for term in self.spec.order)
        if not needed <= names:
            return None
        known = Schema(_described(columns, replica.known), replica.schema.key, self.spec.numeric)
        return Replica(self.spec, known, known, self._horizon)

    def named_by(self, replica: Replica, changes: Iterable[Change]) -> Replica | None:
        """Return an empty replica with all columns, if these changes name them and they were unknown."""
        found = next((one for one in changes if replica.names_more(one)), None)
        return None if found is None else self._with_columns(replica, found.columns)

    def show_columns(self, replica: Replica, at: float | None) -> None:
        """Show the empty table with all columns, named by its first change; ``at``: its commit time."""
        before = self.replica
        assert before is not None  # it was empty, and shown
        self._emit(Logged("schema", {"columns": replica.known.names}))
        self._reads = Reads(self.spec, replica.schema, self.options.page_size)
        replica.rows = self._make_rows(replica.schema)
        replica.gapless = before.gapless
        for key in before.undecided:
            replica.want(key, self.now)
        self.replica = replica
        self._emit(Shown(replica.rows, replica.schema, [], before=at))
        replica.dirty = True
        self.publish("snapshot", None)

    def _replace(self, replica: Replica) -> Pass:
        """Load a table whose columns have changed, beside the visible one."""
        self._emit(Logged("schema", {"columns": replica.known.names}))
        self._reads = Reads(self.spec, replica.schema, self.options.page_size)
        # A refusal while a column was missing says nothing about the server's features.
        self._paging = Paging(
            self.options.page_size, self.options.reads_at_once, most=self.options.max_rows
        )
        return (yield from self.load(replica))

    def load(self, replica: Replica) -> Pass:
        """Read the whole table and show it as one."""
        log = self.log
        start = None
        if log is not None:
            log.restart(self.now)
            start = yield from log.begin(lambda: self.now)
        self.forget_recent()
        recent, older = [one for _, one in self._recent], list[Change]()
        if self.replica is not None and self.replica.loaded:  # other columns are the previous ones
            older = [one for one in recent if columns_differ(one.columns, replica.known)]
            recent = [one for one in recent if not columns_differ(one.columns, replica.known)]
        self.kept = recent
        rows = self._make_rows(replica.schema)
        took = self._stopwatch()
        beginning, self._beginning = (
            self._beginning,
            None,
        )  # only once: a later load has other pages
        first_keys = self.described.first_keys
        if first_keys is not None:
            self.described = replace(self.described, first_keys=None)
            beginning = Beginning(first_keys)
        self._loads, self._total = True, 0
        if beginning is not None:
            self._total = beginning.first.page.count or 0
        read = yield from load(replica, self.reads, self._paging, rows, self._progress, beginning)
        order: list[Key] = []
        window = replica.window
        if window is not None and not window.sortable:
            # Before anything is shown, so that rows are never visible in another order than requested.
            if window.limit is None:
                yield from ranks(replica, self.reads, self._paging, order)
            else:
                order = list(rows.keys())
        missed = None
        if log is not None and start is not None:
            missed = yield from log.read_since(start, lambda: self.now)
        kept, self.kept = self.kept, None
        named = self.named_by(replica, kept or ())
        if named is not None:  # while the empty table was read
            replica, rows = named, self._make_rows(named.schema)
            self._reads = Reads(self.spec, replica.schema, self.options.page_size)
        before = self.replica if self.replica is not None and self.replica.loaded else None
        self._horizon.whole(read)
        replica.rows = rows
        readable = True
        try:
            if before is not None:
                replica.continue_from(before, older)
            replica.receive(kept, self.now)
            if log is not None and missed is not None:
                self._take_missed(replica, log, missed)
        except UnreadableError:
            readable = False
        if before is not None:
            for key in replica.held():
                replica.show_as_before(key, before, replica.told(key))
        if window is not None and not window.sortable and window.limit is None:
            window.ranked(order, rows.keys())
        self.replica = replica  # only once it can be shown, which an error may prevent
        self._emit(Shown(rows, replica.schema, order))
        replica.dirty = True
        self.publish("snapshot", None)
        followed = log is None or missed is not None
        return Proof(read.page.server_time, took(), closes_gaps=readable and followed)

    # Following the log --------------------------------------------------------------------------

    def receive(self, messages: Sequence[Message]) -> float | None:
        """Apply the complete messages as one batch; return the latest commit time.

        Raises
        ------
        UnreadableError
            If rows changed and it is unknown which.
        """
        log, replica = self.log, self.replica
        assert log is not None  # messages belong to a log
        if log.position is None or replica is None or not replica.loaded:
            for message in messages:
                log.keep(message, self.now)
            if len(log.kept) > self.options.buffer_size:
                log.kept.clear()
                raise UnreadableError("too many messages while the table is read")
            return None
        entries = [entry for message in messages for entry in log.receive(message, self.now)]
        return self._take_entries(replica, log, entries)

    def _take_entries(
        self, replica: Replica, log: ChangeLog, entries: Sequence[Entry]
    ) -> float | None:
        try:
            batch = log.batch(entries, replica.keys_of)
        except (KeyError, InexactKeyError) as error:
            replica.schema_moved = True
            raise UnreadableError(f"a message whose keys cannot be read: {error!r:.100}") from None
        for one in () if replica.complete else batch.changes:
            try:
                if not isinstance(one, Truncated) and not one[1].errors and one[1].record:
                    replica.check_names([one[1].record])
            except UnknownColumnsError:
                log.forget()
                raise UnreadableError("the first row names columns that are not known") from None
        replica.receive_logged(batch.changes, self.now)
        replica.overtaken += batch.overtaken
        if batch.unknown:
            log.forget()
            raise UnreadableError("the table had no primary key when it changed")
        return batch.commit_time

    def _take_missed(self, replica: Replica, log: ChangeLog, missed: Missed) -> float | None:
        """Apply the entries of the log, then the messages received meanwhile."""
        self._horizon.logged_until(missed.sent.sent_at)
        self._horizon.see(log.seen_by(missed.until))
        log.took(missed)
        heard = [entry for message in log.take_kept() for entry in log.receive(message, self.now)]
        committed = self._take_entries(replica, log, [*missed.entries, *heard])
        self._horizon.see(log.seen_by(missed.until))
        return committed

    def follow(
        self, replica: Replica, log: ChangeLog, cause: Literal["reconcile", "poll", "warm"]
    ) -> Learning:
        """Read the log since the position; None if it has no answer, or reading the table costs less."""
        took, began, position = self._stopwatch(), self.now, log.position
        missed = None
        if position is not None:
            missed = yield from log.read_since(position, lambda: self.now, len(replica.rows))
        if missed is None or log.position is None:
            ago = self.now - log.complete_at + self.options.visible_within
            self._emit(Logged("overtaken", {"ago": ago}))
            return None
        try:
            committed = self._take_missed(replica, log, missed)
            if cause == "warm" and not (yield from self._is_as_followed(replica)):
                return None
        except UnreadableError:
            log.forget()
            return None
        changed = at_most(replica.published or ())
        self.publish(cause, committed)
        detail = {"method": "log", "differing": changed, "seconds": took(), "cause": cause}
        self._emit(Logged("reconciled", {**detail, **self._known_since(replica, began)}))
        return Proof(missed.sent.page.server_time, took(), changed)

    def _is_as_followed(self, replica: Replica) -> Generator[Ask, Sequence[Read], bool]:
        """Whether the log contains all changes, which is not so after a restore of an older database."""
        if not len(replica.rows):
            return True
        if (yield from is_as_followed(replica, self.reads, self._paging, lambda: self.now)):
            return True
        replica.versions.clear()  # transaction numbers start again, too
        return False

    def rooted(self, replica: Replica, log: ChangeLog, one: Pass) -> Pass:
        """Compare the whole table; afterwards it corresponds to a position of the log."""
        log.forget()
        start = yield from log.begin(lambda: self.now)
        if start is not None:  # recent changes are no reason to doubt this read
            self._horizon.see(log.seen_by(start))
        proof = yield from one
        missed = None
        if start is not None:
            missed = yield from log.read_since(start, lambda: self.now)
        if missed is None:
            return replace(proof, closes_gaps=False)
        try:
            self._take_missed(replica, log, missed)
        except UnreadableError:
            log.forget()
            proof = replace(proof, closes_gaps=False)
        self.publish("reconcile", None)
        return proof

    def check_head(self, log: ChangeLog) -> Generator[Ask, Sequence[Read], None]:
        """Check whether the latest messages were lost; if not, advance the position."""
        asked_at = self.now
        position = yield from log.ask_head_together(lambda: self.now)
        if position is not None:
            self._horizon.see(log.seen_by(position))
            log.move_on(position, asked_at, self.now)

    def _known_since(self, replica: Replica, began: float) -> dict[str, object]:
        """Return the result of a comparison for the time at which it began."""
        return {"elapsed": self.now - began, "undecided": replica.undecided}

    def _progress(self, done: int, total: int | None) -> None:
        self._total = total or 0
        self._emit(Progress(done, total))

    def _stopwatch(self) -> Callable[[], float]:
        """Return a clock of work in seconds, without the waits between retries."""
        began, waited = self.now, self._waited()
        return lambda: max(0.0, self.now - began - (self._waited() - waited))

    # Reconciliation and audit -------------------------------------------------------------------

    def reconcile(
        self, replica: Replica, cause: Literal["reconcile", "poll", "warm"], since: float | None
    ) -> Pass:
        """Repair changes lost since ``since``, a server time (None: at any time)."""
        took, began = self._stopwatch(), self.now
        brief, warm = cause == "poll", cause == "warm"
        self._loads, self._total = False, len(replica.rows)
        one = Reconciliation(replica, self.reads, self._paging, since, brief=brief, warm=warm)
        watched = self._watch_window()
        yield from one.steps(lambda: self.now)
        self.publish(cause, None)
        watched(one.order)
        if cause != "poll" and replica.window is not None:
            # An order that was read while changes were lost may be of rows that are back as they
            # were, and then nothing that was compared tells of it.
            replica.window.stale |= not replica.window.sortable
        detail: dict[str, object] = {
            "method": one.method,
            "differing": one.differing,
            "seconds": took(),
        }
        detail |= {"cause": cause, **self._known_since(replica, began)}
        self._emit(Logged("reconciled", detail))
        return Proof(one.proven_at, took(), one.differing, sent=one.sent)

    def audit(self, replica: Replica) -> Pass:
        """Compare the whole table and repair the differences (promise 4)."""
        took, began = self._stopwatch(), self.now
        watched = self._watch_window()
        comparison = Comparison(replica)
        yield from probe_columns(replica, self.reads, self._paging)
        yield from scan(replica, self.reads, self._paging, comparison)
        differing = comparison.apply(self.now)
        self.publish("audit", None)
        watched(comparison.order)
        replica.nulls.betrayed = False  # the believed state was read
        self._left = replica.undecided
        lost = len(comparison.lost)
        detail = {"rows": comparison.seen, "differing": lost, "seconds": took(), "began": began}
        self._emit(Logged("audit", {**detail, **self._known_since(replica, began)}))
        self._suspect(replica, comparison.lost)
        return Proof(comparison.began, took(), differing, sent=comparison.sent)

    def _suspect(self, replica: Replica, lost: Collection[Key]) -> None:
        """Record rows that differed for an unknown reason: without an explanation they become drift."""
        if lost:
            due = self.now + LATENESS
            for key in lost:
                replica.suspects.setdefault(key, due)
            self.verdicts.append(due)

    def judge_audit(self, replica: Replica) -> bool:
        """Count repaired differences without an explaining change as drift; return whether there are any."""
        if self.verdicts and not replica.suspects:
            self.verdicts.clear()
            self._emit(Logged("explained"))
        drifted = 0
        while self.verdicts and self.now >= self.verdicts[0]:
            due = self.verdicts.popleft()
            keys = [key for key, at in replica.suspects.items() if at <= due]
            for key in keys:
                del replica.suspects[key]
            drifted += len(keys)
        if drifted:
            self._emit(Logged("drift", {"rows": drifted, "final": not replica.suspects}))
        return drifted > 0

    def order(self, replica: Replica, window: Window) -> Flow:
        """Refill the window, or request the order that only the server knows."""
        took = self._stopwatch()
        window.stale = False
        if window.limit is None:
            keys: list[Key] = []
            yield from ranks(replica, self.reads, self._paging, keys)
            window.ranked(keys, replica.rows.keys())
            self._emit(Ranked(keys))
        else:
            watched = self._watch_window()
            comparison = Comparison(replica)
            yield from scan(replica, self.reads, self._paging, comparison)
            comparison.apply(self.now)
            self.publish("refill", None)
            watched(comparison.order)
        self.order_at = self.now + max(ORDER_PAUSE, min(2 * took(), ORDER_PAUSE_MAX))

    def _watch_window(self) -> Callable[[Sequence[Key]], None]:
        """Remember what is judged by the old edge until the new one holds; then call the result."""
        replica = self.replica
        window = None if replica is None else replica.window_read
        if replica is None or window is None:
            return lambda keys: None
        window.missed = set()

        def done(keys: Sequence[Key]) -> None:
            missed, window.missed = window.missed or set(), None
            for key in missed:
                replica.want(key, self.now)
            self._rank(keys)

        return done

    def _rank(self, keys: Sequence[Key]) -> None:
        """Report the server's order, if it contains these keys and cannot be computed here."""
        window = None if self.replica is None else self.replica.window
        if window is not None and not window.sortable:
            self._emit(Ranked(keys))

    def refetch(self, replica: Replica) -> Flow:
        """Read the rows whose state only a read can decide."""
        keys = [key for key, at in replica.wanted.items() if at <= self.now]
        for key in keys:
            del replica.wanted[key]
        comparison = Comparison(replica)
        replica.being_read = keys
        try:
            yield from by_keys(self.reads, self._paging, keys, comparison)
        except UnknownColumnsError:
            for key in keys:
                replica.fetched(key, self.now)
                replica.want(key, self.now)
            raise
        finally:
            replica.being_read = ()
        for key in keys:
            replica.fetched(key, self.now)
        comparison.apply(self.now)
        self.publish("refetch", None)
        lost = self._left.intersection(comparison.lost)
        self._left &= replica.undecided
        if lost:
            self._emit(Logged("refetch", {"differing": len(lost)}))
            self._suspect(replica, lost)

    def publish(self, cause: Cause, commit_time: float | None) -> None:
        """Report that the table changed, if it did."""
        replica = self.replica
        if replica is not None and replica.dirty:
            self._emit(Published(cause, replica.take(), commit_time))
        if replica is not None and replica.overtaken:
            since, until = zip(*replica.overtaken, strict=True)
            replica.overtaken = []
            self._emit(Logged("overtaken", {"since": min(since), "until": max(until)}))


def _described(columns: Iterable[Column], known: Schema) -> tuple[Column, ...]:
    """Return ``columns`` as named by a change, with the known properties of those that stayed."""
    before = {one.name: one for one in known.columns}
    return tuple(
        before[one.name]
        if one.name in before
        and (one.pg_type == before[one.name].pg_type or not built_in(one.pg_type))
        else one
        for one in columns
    )
