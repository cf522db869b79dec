"""``Past``: the recorded past of a table, with its eras and gaps.

An *era* begins when the whole table was read or its columns changed; within an era, every change is
recorded. A *gap* is a period in which changes may have been lost: only its outcome is known, and the
states that were read in between. The past is limited by a span and by bytes; the oldest changes are
forgotten first.

On request (`Past.start_writing`, `Past.take`), what is recorded is also written: a `Beginning` for each
state from which changes count, and `Page`s of the changes since. From these, the next kernel restores the
past, and `prepend` puts it before its own.

Times are microseconds since 1970 by the server's clock, as of ``record.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import pandas as pd
from msgspec.structs import replace
from numpy.typing import NDArray

from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Delete, Key, Op, RowChange, Upsert
from notebook_rt.model.types import Backend, Schema
from notebook_rt.store.column import Parts
from notebook_rt.store.order import Ordered
from notebook_rt.store.places import Placed, Places
from notebook_rt.store.table import Table, differences
from notebook_rt.sync.history.record import (
    BATCH,
    Chunk,
    Record,
    RecordedChanges,
    microseconds,
    span_of,
)

SHARE: Final = 8
"""A past is cut when an eighth of its changes are too old: the cost of a cut is proportional to the table."""
READ: Final = "rows were read before their changes were heard"
LATE: Final = "changes were heard after later ones"
TOLD_TO: Final = 10_000
"""Microseconds of resolution of the commit times."""
UNRECORDED: Final = "nothing recorded it: no kernel did, or what it wrote is lost"

Turn: TypeAlias = tuple[str, Sequence[Any]]
"""Events of gaps: ``lost`` (since, reason), ``widened`` (since), ``proven`` (at), ``regained`` (at),
``found`` (since, until, reason).
"""


class ForgottenMomentError(LookupError):
    """The moment is before the recorded past."""


class Gap(msgspec.Struct, eq=False):
    """A period in which changes may have been lost."""

    since: int
    """The last moment before it at which everything was known."""
    reason: str
    until: int | None = None
    """When the table was compared with the server again; None: not yet."""
    proven: list[int] = msgspec.field(default_factory=list)
    """Times of comparisons within the gap: at these moments the table was known."""

    def __contains__(self, when: int) -> bool:
        inside = self.since < when and (self.until is None or when < self.until)
        return inside and when not in self.proven

    def known(self, when: int) -> int:
        """Return the last moment up to ``when`` at which the table was known."""
        return max((at for at in self.proven if at <= when), default=self.since)


class View(msgspec.Struct, frozen=True):
    """How a table shows its rows: in an order, limited, without the columns kept only for the order."""

    by: Sequence[OrderBy] = ()
    limit: int | None = None
    carried: Collection[str] = ()

    def of(self, table: Table, places: Places | None = None) -> Ordered | None:
        """Return the view of ``table``; None: the whole table as it is.

        ``places`` are the positions in an order that only the server knows, as far as they are known.
        """
        if not (self.by or self.carried or self.limit is not None):
            return None
        made = Ordered(table, self.by, self.limit, self.carried)
        if made.sortable:
            return made
        known = Places(self.by) if places is None or places.by != tuple(self.by) else places
        return Placed(table, self.by, known, self.limit, self.carried)


class Moment(msgspec.Struct, frozen=True, eq=False):
    """The state of a table at a moment."""

    when: int
    schema: Schema
    columns: Mapping[str, Parts]
    view: View
    gap: Gap | None = None
    """The gap in which it lies."""
    places: Places | None = None
    """The positions in an order that only the server knows."""

    def shown(self, table: Table) -> Ordered | None:
        """Return the view of this state, given as ``table``; None: the whole table as it is."""
        return self.view.of(table, self.places)

    def table(self, backend: Backend = None) -> Table:
        """Return the state as a new table."""
        made = Table(self.schema, backend)
        made.restore(self.columns)
        return made

    def snapshot(self, backend: Backend = None) -> pd.DataFrame:
        """Return the state as it was shown."""
        table = self.table(backend)
        return (self.shown(table) or table).snapshot()


class _Era(msgspec.Struct, eq=False):
    record: Record
    view: View
    cause: str


class Beginning(msgspec.Struct, frozen=True, eq=False):
    """A state from which changes count, in the form in which it is written."""

    schema: Schema
    base: Mapping[str, Parts]
    began: int
    cause: str
    view: View
    gap: Gap | None
    """The gap in which it lies."""
    goes_on: bool = False
    """Whether it continues what was written before without a gap."""
    rolled: bool = False
    """Whether it is exactly the state to which the changes written before lead."""


class Page(msgspec.Struct, frozen=True, eq=False):
    """The changes since the previous page, in the form in which they are written."""

    known: int
    """The time until which everything is known, unless a gap is open."""
    turns: Sequence[Turn]
    chunks: Sequence[Chunk]
    causes: Sequence[str]
    """The causes by their numbers."""


class Past:
    """The recorded past of one table; see the module docstring.

    Parameters
    ----------
    span : int
        Microseconds to keep, as far as the bytes suffice.
    most : int
        Maximum number of bytes.
    """

    def __init__(self, span: int, most: int) -> None:
        self.span = span
        self.most = most
        self.gaps: list[Gap] = []
        self.forgotten = 0
        """Number of forgotten changes."""
        self.squeezed = False
        """Whether changes within the span were forgotten because of the limit of bytes."""
        self._eras: list[_Era] = []
        self._causes: list[str] = []
        self._known = 0
        """The time until which everything is known, unless a gap is open."""
        self._proven = 0
        self._unproven: dict[Key, int] = {}
        """Rows that the last comparison did not prove, and when they are proven."""
        self._unwritten: list[Beginning | Chunk | Turn] | None = None
        """What is still to be written; None: writing is off."""
        self._written_known = 0
        self._begun = False
        """Whether a beginning was recorded for writing."""
        self.places: Places | None = None
        """The positions in an order that only the server knows, as received."""

    # Recording ---------------------------------------------------------------------------------

    def begin(
        self, schema: Schema, base: Mapping[str, Parts], now: int, view: View, cause: str
    ) -> None:
        """Start an era: from now on, this is the whole table."""
        now = self._after(now)
        if self._eras:
            self._eras[-1].record.pack()
        self._eras.append(_Era(Record(schema, base, now), view, cause))
        if not self._open:
            # If it turns out that no changes arrive from then on, that moment is not known, either.
            self._known = max(self._known, now - 1)
        if self._unwritten is not None:
            self._write_beginning(base, now)

    def add(self, ops: Sequence[Op], cause: str, now: int) -> None:
        """Record changes of rows; ``now`` is the time of operations without a time."""
        if not self._eras or not ops:
            return
        if cause not in self._causes:
            self._causes.append(cause)
        times = [op.at for op in ops]
        self._date(ops, times, now, read=cause != "stream")
        self._eras[-1].record.add(ops, times, self._causes.index(cause), now)
        at = times[-1]
        if at is not None and not self._open:
            self._known = max(self._known, microseconds(at))

    def _date(
        self, ops: Sequence[Op], times: Sequence[float | None], now: int, *, read: bool
    ) -> None:
        """Note which of these changes are recorded at a later time than their commit."""
        record = self._eras[-1].record
        latest = record.latest
        span = span_of(times)
        if span is not None and span[0] >= max(latest, span[1]) - TOLD_TO:
            return  # in any order, none is late
        late: int | None = None
        untimed: list[int] = []
        for op in ops:
            if op.at is None:
                untimed.append(self._proven_row(op.key))
                latest = max(latest, now)
                continue
            at = microseconds(op.at)
            if at < latest - TOLD_TO:
                late = at if late is None else min(at, late)
            latest = max(latest, at)
        if late is not None:
            self._lost_at(late, latest, LATE)
        if untimed and read:
            # Changes that arrived meanwhile prove nothing about the rows read: only a comparison does.
            since = max(min(untimed), record.began - 1)
            if self._open:
                self._widen(since)
            else:
                self.found(min(self._known, since), latest, READ)
                self._known = latest

    def _proven_row(self, key: Key) -> int:
        """Return when a row was last compared with the server."""
        return self._unproven.get(key, self._proven)

    def overtaken(self, since: int, until: int) -> None:
        """Record that changes committed from then on are not reported, only later ones of their rows."""
        if self._eras and since < until - TOLD_TO:
            self._lost_at(since, until, LATE)

    def _lost_at(self, at: int, until: int, reason: str) -> None:
        """Record that changes committed at this time are missing until then."""
        if self._open:
            self._widen(at - 1)
        else:
            self.found(at - 1, until, reason)

    def lose(self, reason: str) -> None:
        """Open a gap: from the last known moment on, changes may be lost."""
        if self._eras and not self._open:
            self.gaps.append(Gap(self._known, reason))
            self._log("lost", self._known, reason)

    def prove(self, now: int, began: int | None = None, undecided: Collection[Key] = ()) -> int:
        """Record a comparison with the server, whose rows were read from ``began`` on (default: at once), and
        return the time of the previous one. The state of ``undecided`` rows is still unknown.
        """
        since = now if began is None else began  # later commits may not have been read
        self._unproven = {key: self._proven_row(key) for key in undecided}
        before, self._proven = self._proven or self._known, since
        if self._eras:
            self._known = max(self._known, self._after(since))
            if self._open:
                now = self._after(now)
                self.gaps[-1].proven.append(now)
                self._log("proven", now)
        return before

    def _widen(self, since: int) -> None:
        """Extend the open gap back to ``since``: changes found in it may have been lost earlier."""
        if self._open and since < self.gaps[-1].since:
            self.gaps[-1].since = since
            self._log("widened", since)

    def regain(self, now: int) -> None:
        """Close the gap: no more changes are lost."""
        if self._open:
            # The estimate of the server's clock may have been corrected: no gap ends before it began.
            self.gaps[-1].until = self._known = max(self._after(now), self.gaps[-1].since)
            self._log("regained", self._known)
        elif self._eras:
            self._known = max(self._known, self._eras[-1].record.began)

    def correct(self, now: int) -> bool:
        """Drop eras that began after ``now``, by a clock that was ahead; return whether there were any."""
        if not self._eras or self._eras[-1].record.began <= now:
            return False
        while self._eras and self._eras[-1].record.began > now:
            self._eras.pop()
        if (
            self._unwritten is not None
        ):  # none of it was written: writing waits for the server's time
            self._unwritten, self._begun = [], False
        self._known = min(self._known, now)
        self.gaps = [gap for gap in self.gaps if self._eras and gap.since <= now]
        return True

    def found(self, since: int, until: int, reason: str) -> None:
        """Record a gap that was found later: changes were lost without a sign of it."""
        until = max(since, until)
        for gap in self.gaps:
            if gap.since <= since and until <= (gap.until or 0) and not gap.proven:
                return  # already known, as for each change while a clock that was set back is behind
        self._log("found", since, until, reason)
        self.gaps.insert(len(self.gaps) - self._open, Gap(since, reason, until))

    def close(self) -> int:
        """Return the time of the last change; later changes are recorded with later times."""
        if not self._eras:
            return 0
        record = self._eras[-1].record
        found = record.last
        record.close()
        return found

    def drop(self) -> None:
        """Forget everything, for example what another login saw."""
        self.forgotten += len(self)
        self._eras.clear()
        self.gaps.clear()
        self._known = self._proven = 0
        self._unproven = {}
        self._unwritten = None

    # Writing ------------------------------------------------------------------------------

    @property
    def writes(self) -> bool:
        """Whether recorded changes are also written."""
        return self._unwritten is not None

    def start_writing(self) -> None:
        """Write everything recorded from now on, beginning with the current state."""
        self._unwritten, self._begun = [], False
        if self._eras:
            record, now = self._eras[-1].record, self._latest
            self._write_beginning(record.at(now), now)

    def be_silent(self) -> None:
        """Write nothing from now on."""
        self._unwritten = None
        if self._eras:
            self._eras[-1].record.on_packed = None

    def take(self, *, roll: bool = False) -> list[Beginning | Page]:
        """Return what to write now, in order; with ``roll``, also the state after it as a beginning."""
        reporter = self._unwritten
        if reporter is None or not self._begun:
            return []
        record = self._eras[-1].record
        # Later changes may have the time of the last one, and may never be written.
        known = self._known - (self._known == record.last)
        found: list[Beginning | Page] = []
        turns: list[Turn] = []
        chunks: list[Chunk] = []

        def end_page() -> None:
            if turns or chunks or known != self._written_known:
                found.append(Page(known, (*turns,), (*chunks,), (*self._causes,)))
                self._written_known = known
            turns.clear()
            chunks.clear()

        for one in reporter:
            if isinstance(one, Beginning):
                if found or turns or chunks:
                    end_page()
                found.append(one)
            elif isinstance(one, Chunk):
                chunks.append(one)
            else:
                turns.append(one)
        end_page()
        reporter.clear()
        if roll:
            now = self._latest
            found.append(self._beginning(record.at(now), now, goes_on=True, rolled=True))
        return found

    def _write_beginning(self, base: Mapping[str, Parts], now: int) -> None:
        assert self._unwritten is not None
        self._unwritten.append(self._beginning(base, now, goes_on=self._begun))
        self._eras[-1].record.on_packed = self._unwritten.append
        self._begun = True

    @property
    def _latest(self) -> int:
        """Return the latest known moment."""
        return max(self._after(0), self.gaps[-1].since if self._open else self._known)

    def _beginning(
        self, base: Mapping[str, Parts], now: int, *, goes_on: bool = False, rolled: bool = False
    ) -> Beginning:
        era = self._eras[-1]
        gap = self.gaps[-1] if self._open else None
        held = gap and replace(gap, proven=list(gap.proven))
        self._written_known = 0  # the next page contains it
        return Beginning(
            era.record.schema, base, now, era.cause, era.view, held, goes_on=goes_on, rolled=rolled
        )

    def _log(self, what: str, *facts: Any) -> None:
        if self._unwritten is not None:
            self._unwritten.append((what, facts))

    # Restoring ------------------------------------------------------------------------------

    def resume(self, beginning: Beginning, until: int) -> None:
        """Continue with a written beginning after everything here; nothing after ``until`` counts."""
        goes_on = beginning.goes_on and bool(self._eras)
        began, gap = beginning.began, beginning.gap
        if self._eras and not goes_on:
            self._known = min(self._known, began)
            self.lose(UNRECORDED)
            if gap is None or gap.since == began:  # at that time this state was known
                self.gaps[-1].until = began
            elif began in gap.proven:
                self.gaps[-1].proven.append(began)
        if gap is not None and not self._open:
            self.gaps.append(replace(gap, proven=[at for at in gap.proven if at <= until]))
        if not (beginning.rolled and goes_on):
            record = Record(beginning.schema, beginning.base, began)
            self._eras.append(_Era(record, beginning.view, beginning.cause))
        if not goes_on:
            self._known = began - 1

    def follow(self, page: Page, until: int) -> None:
        """Continue with a written page after the last beginning."""
        for what, facts in page.turns:
            match what:
                case "lost":
                    self._known = min(facts[0], until)
                    self.lose(facts[1])
                case "widened":
                    self._widen(facts[0])
                case "proven":
                    if self._open and facts[0] <= until:
                        self.gaps[-1].proven.append(facts[0])
                case "regained":
                    if self._open and facts[0] <= until:
                        self.gaps[-1].until = facts[0]
                case "found":
                    self.found(facts[0], min(facts[1], until), facts[2])
                case _:
                    pass
        record = self._eras[-1].record
        for chunk in page.chunks:
            count = int(chunk.times.searchsorted(until, "right"))
            if count:
                mine = chunk if count == len(chunk) else chunk.part(0, count)
                record.extend(replace(mine, causes=self._numbered(page.causes)[mine.causes]))
        self._known = min(page.known, until)

    def prepend(self, before: Past) -> None:
        """Insert an earlier kernel's past before this one; for the time of both, the earlier one counts."""
        last = before.last
        if last is None:
            return
        while len(self._eras) > 1 and self._eras[1].record.began <= last:
            self._drop_first()
        if self._eras and self._eras[0].record.began <= last:
            self._eras[0].record.forget(last + 1)
        began = self.began
        if began is not None:
            before._known = min(before._known, began)
        before.lose(UNRECORDED)
        gap = before.gaps[-1]  # continues until something was known here
        if began is None:
            self._known = before._known
        else:
            gap.until = began
            mine = next((one for one in self.gaps if one.since < began), None)
            if mine is not None and (mine.until is None or mine.until >= began):
                gap.until, gap.proven = mine.until, gap.proven + mine.proven
                self.gaps.remove(mine)
        self.gaps = sorted([*before.gaps, *self.gaps], key=lambda one: one.until is None)
        for era in before._eras:
            era.record.renumber_causes(self._numbered(before._causes))
        self._eras[:0] = before._eras

    def _numbered(self, causes: Sequence[str]) -> NDArray[np.uint8]:
        """Return the numbers of causes in this past."""
        self._causes += [one for one in causes if one not in self._causes]
        return np.array([self._causes.index(one) for one in causes], "uint8")

    @property
    def _open(self) -> bool:
        return bool(self.gaps) and self.gaps[-1].until is None

    def _after(self, now: int) -> int:
        """Return ``now``, or the time of the last change if that is later."""
        return max(now, self._eras[-1].record.last) if self._eras else now

    # Reading --------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of recorded changes."""
        return sum(len(era.record) for era in self._eras)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use."""
        return sum(era.record.nbytes for era in self._eras)

    @property
    def began(self) -> int | None:
        """The earliest known moment; None: nothing is recorded yet."""
        return self._eras[0].record.began if self._eras else None

    @property
    def last(self) -> int | None:
        """The time of the last change; None: nothing is recorded yet."""
        return self._eras[-1].record.last if self._eras else None

    @property
    def schema(self) -> Schema | None:
        """The current columns."""
        return self._eras[-1].record.schema if self._eras else None

    @property
    def causes(self) -> Sequence[str]:
        """The causes by their numbers."""
        return self._causes

    def at(self, when: int) -> Moment:
        """Return the state of the table at ``when``.

        Raises
        ------
        ForgottenMomentError
            If that is before the earliest known moment.
        """
        era = self._era(when)
        record = era.record
        columns = record.at(when)
        return Moment(when, record.schema, columns, era.view, self.gap(when), self.places)

    def gap(self, when: int) -> Gap | None:
        """Return the gap that contains a moment."""
        return next((gap for gap in reversed(self.gaps) if when in gap), None)

    def changes_between(
        self, after: int, until: int, key: Key | None = None
    ) -> Iterator[RecordedChanges]:
        """Yield the changes after one moment up to another, of all rows or of one: those of each era, and
        the differences that the beginning of the next era revealed.
        """
        for place, era in enumerate(self._eras):
            began = era.record.began
            if began > until:
                return
            if place and began > after:
                yield self._changes_between(place, key)
            yield era.record.changes_between(after, until, key)

    def first_row(self, key: Key) -> dict[str, Any] | None:
        """Return the row of ``key`` at the earliest known moment."""
        return self._eras[0].record.row_at_the_beginning(key) if self._eras else None

    def moments(self, after: int, until: int) -> list[int]:
        """Return the distinct times of changes after one moment up to another."""
        found: list[int] = []
        for place, era in enumerate(self._eras):
            if place and after < era.record.began <= until:
                found.append(era.record.began)
            found += era.record.moments(after, until)
        return sorted(set(found))

    def changes_at(self, place: int) -> list[RowChange]:
        """Return the differences that the beginning of an era revealed."""
        before, now = self._eras[place - 1].record, self._eras[place].record
        old = Moment(now.began, before.schema, before.at(now.began), View()).table()
        new = Moment(now.began, now.schema, now.base, View()).table()
        return differences(old, new)

    def _changes_between(self, place: int, key: Key | None) -> RecordedChanges:
        now = self._eras[place]
        changes = [one for one in self.changes_at(place) if key is None or one.key == key]
        # Recorded separately, on the previous state, so that they are read like all others.
        record = now.record
        names = record.schema.names
        old = [one for one in changes if one.old is not None]
        base = Table(record.schema)
        base.apply(
            [Upsert(one.key, {name: (one.old or {}).get(name) for name in names}) for one in old]
        )
        alone = Record(record.schema, base.parts(), 0)
        if now.cause not in self._causes:
            self._causes.append(now.cause)
        ops: list[Op] = [
            Delete(one.key) if one.new is None else Upsert(one.key, one.new) for one in changes
        ]
        alone.add(ops, [op.at for op in ops], self._causes.index(now.cause), record.began)
        return alone.changes_between(0, record.began)

    def _era(self, when: int) -> _Era:
        for era in reversed(self._eras):
            if era.record.began <= when:
                return era
        raise ForgottenMomentError

    # Forgetting -----------------------------------------------------------------------------------

    def forget(self, now: int) -> None:
        """Drop changes older than the span, and the oldest while there are too many bytes."""
        horizon = now - self.span
        while len(self._eras) > 1 and self._eras[1].record.began <= horizon:
            self._drop_first()
        if self._eras:
            record = self._eras[0].record
            old = record.until(horizon)
            if old >= max(BATCH, len(record) // SHARE, record.base_rows // 2):
                self._cut(record, horizon)
        while self._eras and self.nbytes > self.most:
            record = self._eras[0].record
            if len(record):
                self._cut(record, record.time_of(max(1, len(record) // 4) - 1))
            elif len(self._eras) > 1:
                self._drop_first()
            else:
                break
            self.squeezed = True
        began = self.began
        if began is not None:
            self.gaps = [gap for gap in self.gaps if gap.until is None or gap.until > began]

    def _cut(self, record: Record, when: int) -> None:
        before = len(record)
        record.forget(when)
        self.forgotten += before - len(record)

    def _drop_first(self) -> None:
        self.forgotten += len(self._eras.pop(0).record)
