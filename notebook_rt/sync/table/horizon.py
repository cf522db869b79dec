"""Decides which is newer, a row that was read or a change that was received (promise 6).

A read happens at an unknown moment between its request and its answer; a change was committed at a
time known to the millisecond, and is received some time later, or never. Three facts order them:

* A change received well before a read was sent is in the read. Well before: the server's log contains a
  commit a moment before other sessions see it (``Options.visible_within``). A position of the log of changes
  is more exact: every read sent after it is known contains all changes before it.
* The read's answer carries the server's ``Date``; the read happened before that second ended. A
  change committed later than that, and a margin for two clocks of one server, is newer.
* Within one join, the order of arrival decides: after a change that is newer than the last read, all
  changes are newer, and so are all after a change whose whole row equals the last read.

Other cases are *unclear*: the caller compares values, and reads the row again if they differ.
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
"""Seconds after which the read of a single row is forgotten; no change arrives so late."""
LOOK_FOR_OLD: Final = 10.0
"""Seconds between two searches for such reads: an audit leaves tens of thousands."""
KEEP_FOLLOWED: Final = 120.0
"""Seconds (up to twice as many) for which it is remembered that a row equals a received change."""

UNKNOWN: Final = float("inf")
"""The floor while it is unknown which commits the rows contain: no change is certainly newer."""

Newer: TypeAlias = Literal["read", "told", "unclear"]


class Read(msgspec.Struct, frozen=True):
    """A page with its position among all events here."""

    page: Page
    sent: int
    """The number of the moment at which it was sent, comparable with the number of a change's arrival."""
    sent_at: float
    """When it was sent, monotonic seconds."""

    @property
    def happened_before(self) -> float:
        """The time by the REST server's clock before which the read certainly happened."""
        return self.page.server_time + 1.0

    def without_rows(self) -> Read:
        """Return only the times of the request and the answer, without the rows."""
        return replace(self, page=replace(self.page, rows=()))


def spanning(reads: Sequence[Read]) -> Read:
    """Return one read that represents several: sent with the first, answered with the last."""
    late = max(reads, key=lambda read: read.page.server_time)
    return Read(late.page, min(r.sent for r in reads), min(r.sent_at for r in reads))


class _Cover(NamedTuple):
    """The read of a single row."""

    until: float
    """A change committed later, by the server's clock, is newer."""
    at: float
    """When it was taken, monotonic seconds."""
    new: bool
    """Whether it returned another row than the one here, not yet contained in a change of this join."""
    passed: Row | None
    """The row visible before it, if that was such a row and the read found none. A deletion may be earlier or
    later than that row."""


class Horizon:
    """Remembers reads and changes by key, as long as they can matter."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.now = 0.0
        """Monotonic seconds, set with each event."""
        self._moment = self._gap = 0
        self._floor = float("-inf")
        self._covers: dict[Key, _Cover] = {}
        self._followed: set[Key] = set()
        """Keys whose row equals a change of this join, so that the next change is newer."""
        self._followed_before: set[Key] = set()
        """The same for the previous period; forgetting one costs a read, not correctness."""
        self._followed_since = 0.0
        self._touched: dict[Key, tuple[int, float | None, float]] = {}
        """The moment of the last change (with its commit time) or other read of a key, and the time until
        which a request may not see it."""
        self._tidied_at = self._swept_at = 0.0
        self._latest = float("-inf")
        self.logged = False
        """Whether changes are read from a log with its own order, without commit times."""
        self.watching = False
        """Whether reads are in flight, so that other information must be remembered by key."""

    def moment(self) -> int:
        """The number of this moment; later ones are greater."""
        self._moment += 1
        return self._moment

    def gap_opens(self) -> None:
        """Record that changes received until now may be incomplete."""
        self._gap = self.moment()

    def is_behind_gaps(self, moment: int) -> bool:
        """Return whether requests sent at ``moment`` or later cannot precede the opening of a gap."""
        return moment > self._gap

    @property
    def floor(self) -> float:
        """Server time: a change committed later is newer than every read of the whole table."""
        return self._floor

    @property
    def covered_until(self) -> float | None:
        """Commits until this time may be in the rows already; None without such a time."""
        covers = (cover.until for cover in self._covers.values())
        found = max(self._floor, self._latest, *covers)
        return None if found == float("-inf") else found

    def resume(self, heard: float | None) -> None:
        """Take the rows of a horizon with this `covered_until`."""
        self._floor = max(self._floor, float("-inf") if heard is None else heard)

    def whole(self, read: Read) -> None:
        """Record that the whole table was read."""
        before = self._before(read)
        self._floor = before if self._floor == UNKNOWN else max(self._floor, before)
        self._follow_none()

    def unlogged(self) -> None:
        """Expect changes with commit times from now on, unlike those of the log."""
        self.logged = False
        self._floor = UNKNOWN

    def proven(self, server_time: float | None) -> None:
        """Record that the whole table was compared by reads from this time on."""
        if self._floor == UNKNOWN and server_time is not None:
            self._floor = server_time + 1.0 + self.options.clock_margin

    def one(
        self, key: Key, read: Read, now: float, *, agrees: bool = True, before: Row | None = None
    ) -> None:
        """Record that the row of ``key`` was taken from a read, as the latest state.

        ``agrees``: it equals the row here; ``before``: that row, if the read found none.
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
        """Record that the row read for ``key`` equals the latest change of this join."""
        cover = self._covers.get(key)
        if cover is not None:
            if cover.passed is not None:
                return
            self._covers[key] = cover._replace(new=False)
        self._followed.add(key)

    def unfollow(self, key: Key) -> None:
        """Record that the row of ``key`` is not known to equal a change of this join."""
        self._followed.discard(key)
        self._followed_before.discard(key)

    def passed(self, key: Key) -> Row | None:
        """Return the row of ``key`` that reads skipped before a change contained it."""
        cover = self._covers.get(key)
        return None if cover is None else cover.passed

    def caught_up(self, key: Key) -> None:
        """Record that a change contained the row of ``key`` that reads skipped."""
        self._covers[key] = self._covers[key]._replace(passed=None)

    def follows(self, key: Key) -> bool:
        """Return whether the next change of ``key`` is newer than its row by the order of arrival."""
        return key in self._followed or key in self._followed_before

    def joined(self) -> None:
        """Start a new join, which may repeat changes of the previous one."""
        self._floor = max(self._floor, self._latest)
        self._follow_none()

    def _follow_none(self) -> None:
        self._followed.clear()
        self._followed_before.clear()

    def is_news(self, key: Key, commit_time: float | None) -> bool:
        """Return whether a change received now is certainly newer than every read of ``key``."""
        if key in self._followed or key in self._followed_before:
            return True
        if commit_time is None or commit_time <= self._floor:
            return False
        cover = self._covers.get(key)
        return cover is None or commit_time > cover.until

    def is_next(self, key: Key) -> bool:
        """Return whether a change of the log is certainly newer than every read of ``key``."""
        return self.follows(key) or key not in self._covers

    def logged_until(self, sent_at: float) -> None:
        """Record a read of the log requested at this time: its entries and all later changes are newer than
        earlier reads of any key.
        """
        self._covers = {key: one for key, one in self._covers.items() if one.at > sent_at}

    def received(self, commit_time: float | None) -> None:
        """Record the arrival of a change with this commit time."""
        if commit_time is not None and commit_time > self._latest:
            self._latest = commit_time

    def applied(self, key: Key, commit_time: float | None) -> None:
        """Record that a change of ``key``, newer than its last read, was applied."""
        self.agreed(key, commit_time)
        self._followed.add(key)
        if self._covers:
            self._covers.pop(key, None)

    def agreed(self, key: Key, commit_time: float | None) -> None:
        """Record that a change of ``key`` equals the row here: earlier reads are not the latest state."""
        unseen_until = self.now + self.options.visible_within
        self._touched[key] = (self.moment(), commit_time, unseen_until)

    def see(self, keys: Iterable[Key]) -> None:
        """Record that every read sent from now on contains the changes of these keys."""
        moment = self.moment()
        for key in keys:
            if key in self._touched:
                _, commit_time, unseen_until = self._touched[key]
                if unseen_until > self.now:  # a read in flight may not have seen it
                    self._touched[key] = (moment, commit_time, float("-inf"))

    def newer(self, key: Key, read: Read) -> Newer:
        """Return which state of ``key`` wins: that of ``read``, or one taken since it was sent."""
        moment, commit_time, unseen_until = self._touched.get(key, (0, None, float("-inf")))
        if moment < read.sent and unseen_until <= read.sent_at:
            return "read"
        if commit_time is not None and commit_time > self._before(read):
            return "told"
        return "unclear"

    def _before(self, read: Read) -> float:
        """Return the database's time before which ``read`` certainly happened."""
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
        if self._covers and now - self._swept_at > LOOK_FOR_OLD:
            self._swept_at = now
            old = [key for key, cover in self._covers.items() if now - cover.at > KEEP_COVERS]
            for key in old:
                del self._covers[key]
