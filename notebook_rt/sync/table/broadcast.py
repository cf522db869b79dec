"""Following the log of a table's changes: which messages came, which were lost, what of them is news.

The database sends a transaction's changes at its commit, in numbered messages, and keeps them in a log
(``broadcast.sql``, ``docs/design/broadcast.md``). In go messages, the answers of ``notebook_rt_head`` and
``notebook_rt_since``, and the time; out come the changes to apply, in the log's order, and what to ask next.

* **Numbers** show a loss: one that is still missing half a second after a later one came, or after the
  head named it, is a reason to ask ``since``. What a number is missing for (a loss, a rollback) does
  not matter: the log says what was committed.
* **The position** is a snapshot of PostgreSQL's: what it sees is in the rows here. What committed
  after it comes as a message, or from ``since``; what comes twice is known by the ids of the log.
* **Order** is the log's, for each key: of two transactions that changed one key, the later one waited
  for the other's lock before its entry had an id. Deletions count as any change.
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
"""Seconds after which a number that is missing was lost: late ones were late by 2.1 ms at most."""
HEAD_PAUSE: Final = 2.0
"""Seconds between two questions for the head, which show a loss that no later message shows."""
PAGE_BYTES: Final = 1_000_000
"""Of an answer of ``since``."""

_TOO_LARGE: Final = "the row is larger than a message may be"


class Hole(msgspec.Struct, frozen=True):
    """Numbers that did not come."""

    low: int
    high: int
    since: float
    """When it was seen that they are missing, monotonic seconds."""
    expected: bool = False
    """They were drawn before this join, as far as is known: they are asked for, and were not lost."""


class Numbers:
    """Which of the messages' numbers have come; ``top``: those up to it are in what is read first."""

    def __init__(self, top: int = 0) -> None:
        self._top = top
        self._holes: list[Hole] = []
        self._joining = True

    def add(self, number: int, now: float) -> None:
        """A message came."""
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
        """What is missing now, or at the next message, was sent before the join."""
        self._joining = True
        self._holes = [replace(hole, expected=True) for hole in self._holes]

    def restart(self, now: float) -> None:
        """Another series begins: what the one before had is in the log, as far as it is not here."""
        self._top, self._joining = 0, True
        self._holes = [Hole(-1, -1, now, expected=True)]

    def expect(self, number: int, now: float) -> None:
        """All up to ``number`` were drawn."""
        joining, self._joining = self._joining, False
        if number > self._top:
            self._holes.append(Hole(self._top + 1, number, now, joining))
            self._top = number

    @property
    def top(self) -> int:
        """The highest that is known to have been drawn."""
        return self._top

    def doubt(self, now: float) -> None:
        """Something may have been lost under a number that is not missing any more."""
        self._holes.append(Hole(0, -1, now, expected=True))

    def give_up(self, before: float) -> bool:
        """What was missing already at this time is in the log as it was read since; whether numbers were."""
        settled = [hole for hole in self._holes if hole.since <= before]
        self._holes = [hole for hole in self._holes if hole.since > before]
        return any(hole.low <= hole.high for hole in settled)

    @property
    def lost_at(self) -> float:
        """When the oldest hole is a loss; infinite without a hole."""
        return min((hole.since for hole in self._holes), default=float("inf")) + HOLE

    def lost(self, now: float) -> bool:
        """Whether a message was lost, that would have come in this join."""
        return any(hole.since + HOLE <= now and not hole.expected for hole in self._holes)

    @property
    def missing(self) -> Sequence[Hole]:
        return self._holes


class Truncated(msgspec.Struct, frozen=True):
    """A TRUNCATE: all rows go but those that are newer."""

    spared: frozenset[Key]
    at: float | None
    """When it was committed."""


class Batch(msgspec.Struct):
    """What is to be applied as one, in the order in which it was committed."""

    changes: list[tuple[Key, Change] | Truncated] = msgspec.field(default_factory=list)
    commit_time: float | None = None
    """Of the latest change among them."""
    overtaken: list[tuple[float, float]] = msgspec.field(default_factory=list)
    """When changes were committed that come now, and the later ones of their rows that have come before."""
    unknown: bool = False
    """Something changed, and the log does not know what: the table is to be read."""


class Missed(msgspec.Struct, frozen=True):
    """What the log had since a position."""

    entries: Sequence[Entry]
    until: Position
    sent: Read
    """The first of the answers."""


class ChangeLog:
    """The log of one table as it is followed here.

    ``phase``: when its head is looked at, in seconds after a multiple of ``HEAD_PAUSE``. The tables of a
    session have the same, so that one question serves all of them.
    """

    def __init__(
        self, spec: TableSpec, head: Head, options: Options, now: float, phase: float = 0.0
    ) -> None:
        self.topic = head.topic
        self.scope = head.scope
        """The column whose value the topic is of; empty: it is of the whole table."""
        self.key = head.key or ()
        """The columns that rows are told by; empty: that is not known."""
        self.position: Position | None = None
        """What it sees is in the rows; None: they are to be read first."""
        self.complete_at = now
        """When it was asked for the position: of what was committed before, all has come (monotonic)."""
        self.kept: list[Message] = []
        """Messages that wait for the position."""
        self.numbers = Numbers(head.n)
        self.ended: Absence | None = None
        """Why there is nothing to follow any more; None while there is."""
        self.restarted = False
        """Whether the head said that another epoch began, or on another topic: that is a gap."""
        self._phase = phase
        self.head_at = self._next_look(now)
        """When the head is to be asked for."""
        self._unheard = True
        """Whether numbers are given up at the next reading of the log: at first all up to the head's."""
        self._late: frozenset[int] = frozenset()
        """Transactions that were open when numbers were given up, of which some may be theirs: they are drawn
        before the commit after ``set constraints all immediate``."""
        self._spec = spec
        self._visible_within = options.visible_within
        self._epoch, self._series = head.epoch, head.series
        self._found = Position.of(head.position)
        self._start: Position | None = self._found
        """Where the first reading of the table begins: the position as the log was found."""
        self._recent: deque[tuple[float, Message]] = deque()
        """What came just now, and when: a read may not see it yet."""
        self._parts: dict[int, dict[int, Message]] = {}
        self._taken: dict[Key, tuple[int, int, float | None]] = {}
        """The entry that a key's row is from, its transaction, where the position does not see that, and when
        it was committed."""
        self._received: dict[int, int] = {}
        """The entries that have come, and their transactions, where the position does not see these."""
        self._truncated = 0
        """The entry of the latest TRUNCATE."""
        self._truncated_at: float | None = None

    # Messages -----------------------------------------------------------------------------------

    def receive(self, message: Message, now: float) -> list[Entry]:
        """A message came: the entries of its transaction, once all parts are here."""
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
        """Whether the numbers began anew, or rows are told by another key."""
        return message.epoch != self._epoch

    def resume(self, epoch: str, position: str) -> bool:
        """Follow from a position that another kernel had kept; whether it is one of this log's.

        That of a database that was restored from an older backup is behind what was kept.
        """
        if not position or epoch != self._epoch or Position.of(position).high > self._found.high:
            return False
        self.position = Position.of(position)
        return True

    @property
    def kept_position(self) -> tuple[str, str]:
        """What another kernel goes on from, the arguments of `resume`; empty: no position is known."""
        return self._epoch, "" if self.position is None else self.position.text

    def forget(self) -> None:
        """The rows are not known to be as of any position: they are to be compared, and then followed."""
        self.position = None

    def restart(self, now: float) -> None:
        """All rows are read anew."""
        self.forget()
        late = now - self._visible_within
        self.kept = [*(one for at, one in self._recent if at > late), *self.kept]
        self._recent.clear()
        self._parts, self._taken, self._received = {}, {}, {}

    def keep(self, message: Message, now: float) -> None:
        """A message came while there is no position."""
        self._collect(message, now)
        self.kept.append(message)

    def take_kept(self) -> list[Message]:
        """What came while there was no position; what came late of numbers that began anew is left out."""
        kept, self.kept = self.kept, []
        return [one for one in kept if not self.is_of_another_epoch(one)]

    # What is news -------------------------------------------------------------------------------

    def batch(
        self, entries: Iterable[Entry], keys_of: Callable[[Sequence[WireRow]], list[Key]]
    ) -> Batch:
        """What of ``entries`` is newer than what was taken before."""
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
                if overtook and at is not None and not heard:  # those rows were gone until then
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
        """Of the keys that changed since the last position those whose latest change ``position`` sees."""
        return [key for key, (_, x, _) in self._taken.items() if position.sees(x)]

    # The head and the log, as they are read -----------------------------------------------------

    def adopt(self, position: Position) -> None:
        """All that ``position`` sees is in the rows."""
        self.position = position
        self._parts = {x: parts for x, parts in self._parts.items() if not position.sees(x)}
        self._taken = {key: one for key, one in self._taken.items() if not position.sees(one[1])}
        self._received = {one: x for one, x in self._received.items() if not position.sees(x)}

    def ask_head(self, now: Callable[[], float]) -> Generator[Ask, Sequence[Read], Position | None]:
        """The position of now; None: there is none any more. ``now`` is asked when it has come."""
        (read,) = yield [head_query(self._spec)]
        return self.take_head(read.page, now())

    def ask_head_together(
        self, now: Callable[[], float]
    ) -> Generator[Ask, Sequence[Read], Position | None]:
        """As ``ask_head``, by a question that may be asked together with those of other tables."""
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
            )  # which says that it is over, or where it goes on
        head = found.heads.get("0")
        if head is not None:
            return self.take_head(msgspec.structs.replace(read.page, value=head), now())
        if (self.topic, self._epoch) != (known["topic"], known["epoch"]):
            return None  # it was of another log
        return Position.of(found.position)

    def _next_look(self, now: float) -> float:
        return ((now - self._phase) // HEAD_PAUSE + 1) * HEAD_PAUSE + self._phase

    def take_head(self, page: Page, now: float) -> Position | None:
        """The position that an answer to ``head_query`` says; None: there is nothing to follow any more."""
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
        """The position at which a reading of the table that begins now starts to follow; None: there is
        nothing to follow any more.
        """
        start, self._start = self._start, None
        if start is None:
            start = yield from self.ask_head(now)
        return start

    def read_since(
        self, position: Position, now: Callable[[], float], at_most: int | None = None
    ) -> Generator[Ask, Sequence[Read], Missed | None]:
        """What the log has since ``position``; None: it does not reach so far back, or has more than about
        ``at_most`` rows.
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
                yield from self.ask_head(now)  # which says that it is over, or where it goes on
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
        """All that was missed is in the rows."""
        self.adopt(missed.until)
        self.complete_at = missed.sent.sent_at
        given_up = self.numbers.give_up(missed.sent.sent_at - HOLE) or self._unheard
        still_open = missed.until.open
        self._late = still_open if given_up else self._late & still_open
        self._unheard = False

    def move_on(self, position: Position, asked_at: float, now: float) -> None:
        """The head, asked for at ``asked_at``, is at ``position``; so are the rows, if nothing is missing."""
        over = {x for x in self._late if position.sees(x)}
        if over:  # a number that was given up may have been theirs
            self._late -= over
            self.numbers.doubt(now)
        if self.position is not None and not self.numbers.missing:
            self.adopt(position)
            self.complete_at = asked_at


def _changes(
    entry: Entry, at: float | None, keys_of: Callable[[Sequence[WireRow]], list[Key]]
) -> Generator[tuple[Key, Change]]:
    """What an entry tells of each of its rows."""
    for key in keys_of(entry.gone) if entry.gone else ():
        yield key, Change("DELETE", None, None, (), at, exact=True)
    for rows, errors in ((entry.rows, ()), (entry.big, (_TOO_LARGE,))):
        # What a statement changed twice, as a cascade within a table does, stands twice: the later counts.
        latest = dict(zip(keys_of(rows) if rows else (), rows, strict=True))
        for key, record in latest.items():
            yield key, Change("UPDATE", record, None, (), at, errors, exact=True)


def _commit_times(entries: Iterable[Entry]) -> dict[int, float]:
    """When transactions were committed: what their last entry, or their message, says."""
    found: dict[int, float] = {}
    for entry in entries:
        if entry.at is not None:
            found[entry.x] = max(entry.at, found.get(entry.x, entry.at))
    return found


def _as_committed(
    changes: Sequence[tuple[Key, Change] | Truncated],
) -> list[tuple[Key, Change] | Truncated]:
    """Changes in the order of their commits; those of one row, and those before a TRUNCATE and after it,
    stay in that of the log.
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
