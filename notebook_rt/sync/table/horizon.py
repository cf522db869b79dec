"""Which is newer, a row that was read or a change that was told? (promise 6)

A read happens at an unknown moment between its sending and its answer; a change was committed at a
time known to the millisecond, and is told some time later, or never. Three facts order them:

* What was received well before a read was sent is in the read. Well before: a commit is told out of
  the server's log a moment before other sessions see it (``Options.visible_within``). A position of the
  log of changes says more: what it sees is in each read that is sent after it is known.
* The read's answer carries the server's ``Date``; the read happened before that second ended. A
  change committed later than that, and a margin for two clocks of one server, is newer.
* Within one join, arrival order wins: behind a change that is newer than the last read, all are; and
  so are all behind a change whose whole row is what the last read showed.

What lies between is *unclear*: the caller compares values, and reads the row again where they differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.model.rows import Key, Row
from notebook_rt.options import Options
from notebook_rt.sync.events import Page

KEEP_COVERS: Final = 120.0
"""Seconds after which a single row's read is forgotten; no change is told so late."""
LOOK_FOR_OLD: Final = 10.0
"""Seconds from one look for such reads to the next: an audit leaves tens of thousands."""
KEEP_FOLLOWED: Final = 120.0
"""Seconds for which it is remembered, and for as long again at most, that a row is as a change told it."""

UNKNOWN: Final = float("inf")
"""The floor while it is not known which commits are in the rows: no change is certainly newer."""

Newer: TypeAlias = Literal["read", "told", "unclear"]


class Read(msgspec.Struct, frozen=True):
    """A page with its place among all that happened here."""

    page: Page
    sent: int
    """The number of the moment it was sent; compare with the number of a change's arrival."""
    sent_at: float
    """When it was sent, monotonic seconds."""

    @property
    def happened_before(self) -> float:
        """The time by the REST server's clock before which the read certainly happened."""
        return self.page.server_time + 1.0

    def without_rows(self) -> Read:
        """When it was sent and answered, which is all that is kept of it."""
        return replace(self, page=replace(self.page, rows=()))


def spanning(reads: Sequence[Read]) -> Read:
    """One read that stands for several: sent as early as the first, answered as late as the last."""
    late = max(reads, key=lambda read: read.page.server_time)
    return Read(late.page, min(r.sent for r in reads), min(r.sent_at for r in reads))


class _Cover(NamedTuple):
    """What a read of a single row was."""

    until: float
    """A change committed later, by the server's clock, is newer."""
    at: float
    """When it was taken, monotonic seconds."""
    new: bool
    """Whether it showed another row than was here, which no change of this join has told yet."""
    passed: Row | None
    """The row shown before it, where that was such a one and it shows none. A deletion may be of the
    time before that row, or behind it."""


class Horizon:
    """Remembers what reads and changes said about which key, as long as it can matter."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.now = 0.0
        """Monotonic seconds, set with each event."""
        self._moment = self._gap = 0
        self._floor = float("-inf")
        self._covers: dict[Key, _Cover] = {}
        self._followed: set[Key] = set()
        """Keys whose row is as a change of this join says, so that the next change is newer."""
        self._followed_before: set[Key] = set()
        """Those of the time before; forgetting one costs a read and no truth."""
        self._followed_since = 0.0
        self._touched: dict[Key, tuple[int, float | None, float]] = {}
        """When a change (with its commit time) or another read was last taken: its moment, and until
        when what is sent may not see it."""
        self._tidied_at = self._looked_for_old = 0.0
        self._latest = float("-inf")
        self.logged = False
        """Whether changes come out of a log that has its own order, and no commit times."""
        self.watching = False
        """Whether reads are out, so that what others say meanwhile must be remembered by key."""

    def moment(self) -> int:
        """The number of this moment; later ones are greater."""
        self._moment += 1
        return self._moment

    def gap_opens(self) -> None:
        """What was told until now may have lacked something."""
        self._gap = self.moment()

    def is_behind_gaps(self, moment: int) -> bool:
        """Whether nothing that was sent at ``moment``, or later, can be of the time before a gap opened."""
        return moment > self._gap

    @property
    def floor(self) -> float:
        """Server time: a change committed later is newer than every read of the whole table."""
        return self._floor

    @property
    def heard_until(self) -> float | None:
        """What was committed until then may be in the rows already; None: there is no such time."""
        covers = (cover.until for cover in self._covers.values())
        found = max(self._floor, self._latest, *covers)
        return None if found == float("-inf") else found

    def resume(self, heard: float | None) -> None:
        """The rows are those of a horizon that had `heard_until` this."""
        self._floor = max(self._floor, float("-inf") if heard is None else heard)

    def whole(self, read: Read) -> None:
        """The whole table was read."""
        before = self._before(read)
        self._floor = before if self._floor == UNKNOWN else max(self._floor, before)
        self._follow_none()

    def unlogged(self) -> None:
        """Changes come with their commit times from now on, which what the log told had not."""
        self.logged = False
        self._floor = UNKNOWN

    def proven(self, server_time: float | None) -> None:
        """The whole table was compared, by reads from this time on."""
        if self._floor == UNKNOWN and server_time is not None:
            self._floor = server_time + 1.0 + self.options.clock_margin

    def one(
        self, key: Key, read: Read, now: float, *, agrees: bool = True, before: Row | None = None
    ) -> None:
        """What a read said of ``key`` was taken, as the last word until now.

        ``agrees``: it is as the row was that is here; ``before``: that row, if the read shows none.
        """
        cover = self._covers.get(key)
        untold = cover is not None and cover.new and not self.follows(key)
        passed = before if untold else None
        if cover is not None and agrees:
            passed = cover.passed
        if self.watching:
            self._touched[key] = (self.moment(), None, float("-inf"))
        self.unfollow(key)
        horizon = self._before(read)
        if horizon > self._floor or self.logged:
            new = not agrees or (cover is not None and cover.new)
            self._covers[key] = _Cover(horizon, now, new, passed)

    def follow(self, key: Key) -> None:
        """The row of ``key`` that was read is the one that the latest change of this join tells."""
        cover = self._covers.get(key)
        if cover is not None:
            if cover.passed is not None:
                return
            self._covers[key] = cover._replace(new=False)
        self._followed.add(key)

    def unfollow(self, key: Key) -> None:
        """The row of ``key`` is not known to be as a change of this join tells it."""
        self._followed.discard(key)
        self._followed_before.discard(key)

    def passed(self, key: Key) -> Row | None:
        """The row of ``key`` that reads have passed over before a change told it."""
        cover = self._covers.get(key)
        return None if cover is None else cover.passed

    def caught_up(self, key: Key) -> None:
        """A change told the row of ``key`` that reads have passed over."""
        self._covers[key] = self._covers[key]._replace(passed=None)

    def follows(self, key: Key) -> bool:
        """Whether the next change of ``key`` is newer than its row by the order of arrival."""
        return key in self._followed or key in self._followed_before

    def joined(self) -> None:
        """A new join may repeat what the last one has told already."""
        self._floor = max(self._floor, self._latest)
        self._follow_none()

    def _follow_none(self) -> None:
        self._followed.clear()
        self._followed_before.clear()

    def is_news(self, key: Key, commit_time: float | None) -> bool:
        """Whether a change told now is certainly newer than every read of ``key``."""
        if key in self._followed or key in self._followed_before:
            return True
        if commit_time is None or commit_time <= self._floor:
            return False
        cover = self._covers.get(key)
        return cover is None or commit_time > cover.until

    def is_next(self, key: Key) -> bool:
        """Whether a change out of the log is certainly newer than every read of ``key``."""
        return self.follows(key) or key not in self._covers

    def logged_until(self, sent_at: float) -> None:
        """The log was read, which was asked for at this time: what it tells, and all that comes later, is
        newer than what was read of any key before.
        """
        self._covers = {key: one for key, one in self._covers.items() if one.at > sent_at}

    def heard(self, commit_time: float | None) -> None:
        """A change of this commit time arrived."""
        if commit_time is not None and commit_time > self._latest:
            self._latest = commit_time

    def told(self, key: Key, commit_time: float | None) -> None:
        """A change of ``key``, newer than its last read, was applied."""
        self.agreed(key, commit_time)
        self._followed.add(key)
        if self._covers:
            self._covers.pop(key, None)

    def agreed(self, key: Key, commit_time: float | None) -> None:
        """A change of ``key`` says what is here: a read that was sent before it is not the last word."""
        unseen_until = self.now + self.options.visible_within
        self._touched[key] = (self.moment(), commit_time, unseen_until)

    def see(self, keys: Iterable[Key]) -> None:
        """What was told of these keys is in every read that is sent from now on."""
        moment = self.moment()
        for key in keys:
            if key in self._touched:
                _, commit_time, unseen_until = self._touched[key]
                if unseen_until > self.now:  # a read that is out already may not have seen it
                    self._touched[key] = (moment, commit_time, float("-inf"))

    def newer(self, key: Key, read: Read) -> Newer:
        """What wins for ``key``: what ``read`` says, or what was taken since it was sent."""
        moment, commit_time, unseen_until = self._touched.get(key, (0, None, float("-inf")))
        if moment < read.sent and unseen_until <= read.sent_at:
            return "read"
        if commit_time is not None and commit_time > self._before(read):
            return "told"
        return "unclear"

    def _before(self, read: Read) -> float:
        """The database's time before which ``read`` certainly happened."""
        return read.happened_before + self.options.clock_margin

    def forget(self, now: float, *, reads_out: bool) -> None:
        """Drop what can no longer matter."""
        self.watching = reads_out
        pause = self.options.visible_within
        if now - self._followed_since > KEEP_FOLLOWED:
            self._followed_since = now
            self._followed_before, self._followed = self._followed, set()
        if not reads_out and self._touched and now - self._tidied_at > pause:
            self._tidied_at = now
            self._touched = {key: one for key, one in self._touched.items() if one[2] > now}
        if self._covers and now - self._looked_for_old > LOOK_FOR_OLD:
            self._looked_for_old = now
            old = [key for key, cover in self._covers.items() if now - cover.at > KEEP_COVERS]
            for key in old:
                del self._covers[key]
