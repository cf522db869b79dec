"""Follow the log of a table's changes: which messages arrived, which were lost, and which changes are new.

The database sends a transaction's changes at its commit, in numbered messages, and keeps them in a log
(``broadcast.sql``, ``docs/design/broadcast.md``). In: messages, the answers of ``notebook_rt_head`` and
``notebook_rt_since``, and the time. Out: the changes to apply, in the log's order, and the next query.

* **Numbers** show a loss: a number that is still missing half a second after a later one arrived, or after
  the head named it, is a reason to query ``since``. Why it is missing (a loss, a rollback) does not
  matter: the log contains what was committed.
* **The position** is a PostgreSQL snapshot: the changes that it sees are in the rows here. Later commits
  arrive as messages, or from ``since``; duplicates are recognized by the ids of the log.
* **Order** is the log's order, for each key: of two transactions that changed one key, the later one
  waited for the other's lock before its entry got an id. Deletions count like any change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from notebook_rt.errors import AnswerTooLargeError, StatementTimeoutError
from notebook_rt.model.rows import Key, WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Change, Page
from notebook_rt.sync.table.broadcast_answers import (
    SINCE,
    VERSION,
    Absence,
    Entry,
    Head,
    Heads,
    Message,
    Position,
    Since,
    call,
    converted,
    head_query,
    named,
    read_head,
)
from notebook_rt.sync.table.flows import Ask, ReadRefusedError
from notebook_rt.sync.table.heads import question
from notebook_rt.sync.table.horizon import Read

EVENT: Final = "changes"
"""The event of its messages."""
HOLE: Final = 0.5
"""Seconds after which a missing number counts as lost: late ones were late by at most 2.1 ms."""
HEAD_PAUSE: Final = 2.0
"""Seconds between two queries for the head, which reveal a loss that no later message reveals."""
PAGE_BYTES: Final = 1_000_000
"""The maximum of an answer of ``since``."""

_TOO_LARGE: Final = "the row is larger than a message may be"


class Hole(msgspec.Struct, frozen=True):
    """A range of missing numbers."""

    low: int
    high: int
    since: float
    """When they were found missing, in monotonic seconds."""
    expected: bool = False
    """They were drawn before this join, as far as is known: they are queried, but were not lost."""


class Numbers:
    """Which message numbers have arrived; numbers up to ``top`` are in the first read."""

    def __init__(self, top: int = 0) -> None:
        self._top = top
        self._holes: list[Hole] = []
        self._joining = True

    def add(self, number: int, now: float) -> None:
        """Record an arrived number."""
        if number > self._top:
            self.expect(number - 1, now)
            self._top = number
            return
        for place, hole in enumerate(self._holes):
            if hole.low <= number <= hole.high:
                parts = ((hole.low, number - 1), (number + 1, hole.high))
                self._holes[place : place + 1] = [
                    replace(hole, low=low, high=high) for low, high in parts if low <= high
                ]
                return

    def joined(self) -> None:
        """Mark numbers missing now, or at the next message, as sent before the join."""
        self._joining = True
        self._holes = [replace(hole, expected=True) for hole in self._holes]

    def restart(self, now: float) -> None:
        """Begin another series: what is missing of the previous one is in the log."""
        self._top, self._joining = 0, True
        self._holes = [Hole(-1, -1, now, expected=True)]

    def expect(self, number: int, now: float) -> None:
        """Record that all numbers up to ``number`` were drawn."""
        joining, self._joining = self._joining, False
        if number > self._top:
            self._holes.append(Hole(self._top + 1, number, now, joining))
            self._top = number

    @property
    def top(self) -> int:
        """The highest number known to have been drawn."""
        return self._top

    def doubt(self, now: float) -> None:
        """Record that a change may be lost under a number that is no longer missing."""
        self._holes.append(Hole(0, -1, now, expected=True))

    def give_up(self, before: float) -> bool:
        """Give up numbers missing before this time, as the log was read since; return whether any were."""
        settled = [hole for hole in self._holes if hole.since <= before]
        self._holes = [hole for hole in self._holes if hole.since > before]
        return any(hole.low <= hole.high for hole in settled)

    @property
    def lost_at(self) -> float:
        """When the oldest hole becomes a loss; infinite without a hole."""
        return min((hole.since for hole in self._holes), default=float("inf")) + HOLE

    def lost(self, now: float) -> bool:
        """Return whether a message of this join was lost."""
        return any(hole.since + HOLE <= now and not hole.expected for hole in self._holes)

    @property
    def missing(self) -> Sequence[Hole]:
        return self._holes


class Truncated(msgspec.Struct, frozen=True):
    """A TRUNCATE: all rows except newer ones are removed."""

    spared: frozenset[Key]
    at: float | None
    """When it was committed."""


class Batch(msgspec.Struct):
    """Changes to apply as one, in the order of their commits."""

    changes: list[tuple[Key, Change] | Truncated] = msgspec.field(default_factory=list)
    commit_time: float | None = None
    """The commit time of the latest change."""
    overtaken: list[tuple[float, float]] = msgspec.field(default_factory=list)
    """Commit times of changes that arrive only now, and of later changes of their rows that came before."""
    unknown: bool = False
    """An unknown change that the log does not describe: the table must be read."""


class Missed(msgspec.Struct, frozen=True):
    """The contents of the log since a position."""

    entries: Sequence[Entry]
    until: Position
    sent: Read
    """The first answer."""


class ChangeLog:
    """The log of one table as it is followed here.

    ``phase`` is when its head is queried, in seconds after a multiple of ``HEAD_PAUSE``. All tables of a
    session have the same phase, so that one query serves all of them.
    """

    def __init__(
        self, spec: TableSpec, head: Head, options: Options, now: float, phase: float = 0.0
    ) -> None:
        self.topic = head.topic
        self.scope = head.scope
        """The column whose value selects the topic; empty: the topic covers the whole table."""
        self.key = head.key or ()
        """The columns that identify rows; empty: unknown."""
        self.position: Position | None = None
        """The changes that it sees are in the rows; None: the rows must be read first."""
        self.complete_at = now
        """When the position was requested (monotonic): all earlier commits have arrived."""
        self.kept: list[Message] = []
        """Messages waiting for the position."""
        self.numbers = Numbers(head.n)
        self.ended: Absence | None = None
        """Why there is no log to follow any more; None while there is one."""
        self.restarted = False
        """Whether the head reported another epoch or another topic, which is a gap."""
        self._phase = phase
        self.head_at = self._next_look(now)
        """When to query the head next."""
        self._unheard = True
        """Whether numbers are given up at the next reading of the log: at first, all up to the head's."""
        self._late: frozenset[int] = frozenset()
        """Transactions open when numbers were given up, which may have drawn them: after ``set constraints
        all immediate``, numbers are drawn before the commit."""
        self._spec = spec
        self._visible_within = options.visible_within
        self._epoch, self._series = head.epoch, head.series
        self._found = Position.of(head.position)
        self._start: Position | None = self._found
        """The position at which the log was found; the first reading of the table starts there."""
        self._recent: deque[tuple[float, Message]] = deque()
        """Recently arrived changes and when they arrived: a read may not see them yet."""
        self._parts: dict[int, dict[int, Message]] = {}
        self._taken: dict[Key, tuple[int, int, float | None]] = {}
        """For each key the entry of its row, the entry's transaction if the position does not see it, and the
        commit time."""
        self._received: dict[int, int] = {}
        """The arrived entries with their transactions, if the position does not see those."""
        self._truncated = 0
        """The entry of the latest TRUNCATE."""
        self._truncated_at: float | None = None

    # Messages -----------------------------------------------------------------------------------

    def receive(self, message: Message, now: float) -> list[Entry]:
        """Take a message; return the entries of its transaction once all parts have arrived."""
        self._collect(message, now)
        if self.position is not None and self.position.sees(message.x):
            return []
        self._recent.append((now, message))
        while self._recent[0][0] <= now - self._visible_within:
            self._recent.popleft()
        parts = self._parts.setdefault(message.x, {})
        parts[message.part] = message
        last = max(parts)
        if len(parts) < last or not parts[last].last:
            return []
        del self._parts[message.x]
        return [
            msgspec.structs.replace(entry, x=message.x, at=message.at)
            for part in sorted(parts)
            for entry in parts[part].changes
        ]

    def _collect(self, message: Message, now: float) -> None:
        if message.series is not None:
            self._follow_series(message.series, now)
        self.numbers.add(message.n, now)

    def _follow_series(self, series: int, now: float) -> None:
        if series != self._series:
            self._series = series
            self.numbers.restart(now)

    def is_of_another_epoch(self, message: Message) -> bool:
        """Return whether the numbers restarted, or rows are identified by another key."""
        return message.epoch != self._epoch

    def resume(self, epoch: str, position: str) -> bool:
        """Follow from a position stored by another kernel; return whether it belongs to this log.

        The log of a database restored from an older backup is behind the stored position.
        """
        if not position or epoch != self._epoch or Position.of(position).high > self._found.high:
            return False
        self.position = Position.of(position)
        return True

    @property
    def kept_position(self) -> tuple[str, str]:
        """Return the arguments of `resume` for another kernel; empty: no position is known."""
        return self._epoch, "" if self.position is None else self.position.text

    def forget(self) -> None:
        """Forget the position: the rows must be compared, and followed from there."""
        self.position = None

    def restart(self, now: float) -> None:
        """Prepare for reading all rows again."""
        self.forget()
        late = now - self._visible_within
        self.kept = [*(one for at, one in self._recent if at > late), *self.kept]
        self._recent.clear()
        self._parts, self._taken, self._received = {}, {}, {}

    def keep(self, message: Message, now: float) -> None:
        """Keep a message that arrived without a position."""
        self._collect(message, now)
        self.kept.append(message)

    def take_kept(self) -> list[Message]:
        """Return the messages kept without a position, except late ones of numbers before a restart."""
        kept, self.kept = self.kept, []
        return [one for one in kept if not self.is_of_another_epoch(one)]

    # New changes -------------------------------------------------------------------------------

    def batch(
        self, entries: Iterable[Entry], keys_of: Callable[[Sequence[WireRow]], list[Key]]
    ) -> Batch:
        """Return the changes of ``entries`` that are newer than those taken before."""
        batch = Batch()
        entries = sorted(entries, key=lambda one: one.id)
        committed = _commit_times(entries)
        batch.commit_time = max(committed.values(), default=None)
        for entry in entries:
            at, before = committed.get(entry.x), entry.id <= self._truncated
            heard = entry.id in self._received
            self._received[entry.id] = entry.x
            if entry.op == "R":
                batch.unknown |= not before
            elif entry.op == "T" and not before:
                self._truncated, self._truncated_at = entry.id, at
                later = {key: one for key, one in self._taken.items() if one[0] > entry.id}
                self._taken = later
                batch.changes.append(Truncated(frozenset(later), at))
                overtook = [one[2] for one in later.values() if one[2] is not None]
                if overtook and at is not None and not heard:  # those rows were removed until then
                    batch.overtaken.append((at, max(overtook)))
            elif entry.op == "T" and at is not None and not heard:
                batch.overtaken.append((at, self._truncated_at or at))
            for key, change in _changes(entry, at, keys_of):
                if not before and self._is_news(key, entry, at):
                    batch.changes.append((key, change))
                elif not heard and at is not None:
                    by = self._truncated_at if before else self._taken[key][2]
                    batch.overtaken.append((at, at if by is None else by))
        batch.changes = _as_committed(batch.changes)
        return batch

    def _is_news(self, key: Key, entry: Entry, at: float | None) -> bool:
        before = self._taken.get(key)
        if before is not None and entry.id <= before[0]:
            return False
        self._taken[key] = (entry.id, entry.x, at)
        return True

    def seen_by(self, position: Position) -> list[Key]:
        """Return the keys that changed since the last position and whose latest change ``position`` sees."""
        return [key for key, (_, x, _) in self._taken.items() if position.sees(x)]

    # Reading the head and the log -----------------------------------------------------

    def adopt(self, position: Position) -> None:
        """Record that all changes that ``position`` sees are in the rows."""
        self.position = position
        self._parts = {x: parts for x, parts in self._parts.items() if not position.sees(x)}
        self._taken = {key: one for key, one in self._taken.items() if not position.sees(one[1])}
        self._received = {one: x for one, x in self._received.items() if not position.sees(x)}

    def ask_head(self, now: Callable[[], float]) -> Generator[Ask, Sequence[Read], Position | None]:
        """Query the current position; None: there is no log any more. ``now`` is called on arrival."""
        (read,) = yield [head_query(self._spec)]
        return self.take_head(read.page, now())

    def ask_head_together(
        self, now: Callable[[], float]
    ) -> Generator[Ask, Sequence[Read], Position | None]:
        """Like ``ask_head``, with a query that can be combined with those of other tables."""
        known = {
            "topic": self.topic,
            "epoch": self._epoch,
            "series": self._series,
            "n": self.numbers.top,
        }
        (read,) = yield [question({**named(self._spec), **known})]
        self.head_at = self._next_look(now())
        found = converted(read.page.value, Heads)
        if found is None or found.version != VERSION or found.heads.get("0", known) is None:
            return (
                yield from self.ask_head(now)
            )  # which reports that it has ended, or where it continues
        head = found.heads.get("0")
        if head is not None:
            return self.take_head(msgspec.structs.replace(read.page, value=head), now())
        if (self.topic, self._epoch) != (known["topic"], known["epoch"]):
            return None  # it belonged to another log
        return Position.of(found.position)

    def _next_look(self, now: float) -> float:
        return ((now - self._phase) // HEAD_PAUSE + 1) * HEAD_PAUSE + self._phase

    def take_head(self, page: Page, now: float) -> Position | None:
        """Return the position in an answer to ``head_query``; None: there is no log to follow any more."""
        head, self.ended = read_head(page, self._spec.key)
        if head is None:
            return None
        if head.epoch != self._epoch or head.topic != self.topic:
            self._epoch, self._series, self.numbers = head.epoch, head.series, Numbers()
            self._parts, self._taken, self._received, self._truncated = {}, {}, {}, 0
            self.topic, self.scope, self.key = head.topic, head.scope, head.key or ()
            self.kept = [one for one in self.kept if one.epoch == head.epoch]
            self.restarted = True
            self.forget()
        self._follow_series(head.series, now)
        self.numbers.expect(head.n, now)
        self.head_at = self._next_look(now)
        return Position.of(head.position)

    def begin(self, now: Callable[[], float]) -> Generator[Ask, Sequence[Read], Position | None]:
        """Return the position from which a reading of the table that begins now is followed; None: there is
        no log to follow any more.
        """
        start, self._start = self._start, None
        if start is None:
            start = yield from self.ask_head(now)
        return start

    def read_since(
        self, position: Position, now: Callable[[], float], at_most: int | None = None
    ) -> Generator[Ask, Sequence[Read], Missed | None]:
        """Return the contents of the log since ``position``; None: it does not reach back that far, or has
        more than about ``at_most`` rows.
        """
        entries: list[Entry] = []
        first: Read | None = None
        asked: dict[str, Any] = {"p_topic": self.topic, "p_position": position.text}
        while True:
            args = {**asked, "p_bytes": PAGE_BYTES}
            try:
                (read,) = yield [call(SINCE, args)]
            except ReadRefusedError as refused:
                if isinstance(refused.error, StatementTimeoutError | AnswerTooLargeError):
                    return None
                raise
            first = first or read
            page = converted(read.page.value, Since)
            if page is None or page.epoch not in (None, self._epoch):
                yield from self.ask_head(
                    now
                )  # which reports that it has ended, or where it continues
                return None
            if page.too_old:
                return None
            entries += page.changes
            if not page.more:
                return Missed(entries, Position.of(page.until), first)
            told = sum(len(one.rows) + len(one.gone) for one in page.changes)
            rows = told * (page.behind or 0) / PAGE_BYTES
            if at_most is not None and rows > at_most:
                return None
            asked |= {"p_until": page.until, "p_after": page.changes[-1].id}

    def took(self, missed: Missed) -> None:
        """Record that all missed changes are in the rows."""
        self.adopt(missed.until)
        self.complete_at = missed.sent.sent_at
        given_up = self.numbers.give_up(missed.sent.sent_at - HOLE) or self._unheard
        still_open = missed.until.open
        self._late = still_open if given_up else self._late & still_open
        self._unheard = False

    def move_on(self, position: Position, asked_at: float, now: float) -> None:
        """Take the head, requested at ``asked_at``, as the position of the rows if none is missing."""
        over = {x for x in self._late if position.sees(x)}
        if over:  # a number that was given up may be theirs
            self._late -= over
            self.numbers.doubt(now)
        if self.position is not None and not self.numbers.missing:
            self.adopt(position)
            self.complete_at = asked_at


def _changes(
    entry: Entry, at: float | None, keys_of: Callable[[Sequence[WireRow]], list[Key]]
) -> Generator[tuple[Key, Change]]:
    """Return the change of each row of an entry."""
    for key in keys_of(entry.gone) if entry.gone else ():
        yield key, Change("DELETE", None, None, (), at, exact=True)
    for rows, errors in ((entry.rows, ()), (entry.big, (_TOO_LARGE,))):
        # A row that a statement changed twice, as by a cascade in a table, is listed twice: the later counts.
        latest = dict(zip(keys_of(rows) if rows else (), rows, strict=True))
        for key, record in latest.items():
            yield key, Change("UPDATE", record, None, (), at, errors, exact=True)


def _commit_times(entries: Iterable[Entry]) -> dict[int, float]:
    """Return the commit time of each transaction, from its last entry or its message."""
    found: dict[int, float] = {}
    for entry in entries:
        if entry.at is not None:
            found[entry.x] = max(entry.at, found.get(entry.x, entry.at))
    return found


def _as_committed(
    changes: Sequence[tuple[Key, Change] | Truncated],
) -> list[tuple[Key, Change] | Truncated]:
    """Sort changes by commit; changes of one row, and changes before and after a TRUNCATE, keep the order
    of the log.
    """
    latest: dict[Key, float] = {}
    times: list[float] = []
    truncated = top = float("-inf")
    for one in changes:
        if isinstance(one, Truncated):
            at = truncated = max(top, top if one.at is None else one.at)
            latest.clear()
        else:
            key, change = one
            told = top if change.commit_time is None else change.commit_time
            at = latest[key] = max(told, latest.get(key, truncated))
        top = max(top, at)
        times.append(at)
    order = sorted(range(len(changes)), key=times.__getitem__)
    return [changes[place] for place in order]
