"""Which is newer, a row that was read or a change that was told? (promise 6)

A read happens at an unknown moment between its sending and its answer; a change was committed at a
time known to the millisecond, and is told some time later, or never. Three facts order them:

* What was received well before a read was sent is in the read. Well before: a commit is told out of
  the server's log a moment before other sessions see it (``VISIBLE_WITHIN``).
* The read's answer carries the server's ``Date``; the read happened before that second ended. A
  change committed later than that, and a margin for two clocks of one server, is newer.
* Within one join, arrival order wins: behind a change that is newer than the last read, all are.

What lies between is *unclear*: the caller compares values, and reads the row again where they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from notebook_rt.sync.events import Page
from notebook_rt.sync.rows import Key

CLOCK_MARGIN: Final = 1.0
"""Seconds by which the clock of the REST server may be behind the database's."""
VISIBLE_WITHIN: Final = 1.5
"""Seconds within which a commit that was told is visible to every read. Its process tells the log
first and the other sessions then, and may be kept waiting between the two (0.15 s were seen)."""
KEEP_COVERS: Final = 120.0
"""Seconds after which a single row's read is forgotten; no change is told so late."""

Newer: TypeAlias = Literal["read", "told", "unclear"]


@dataclass(frozen=True, slots=True)
class Read:
    """A page with its place among all that happened here."""

    page: Page
    sent: int
    """The number of the moment it was sent; compare with the number of a change's arrival."""
    sent_at: float
    """When it was sent, monotonic seconds."""

    @property
    def horizon(self) -> float:
        """Server time before which the read certainly happened."""
        return self.page.server_time + 1.0 + CLOCK_MARGIN


class Horizon:
    """Remembers what reads and changes said about which key, as long as it can matter."""

    def __init__(self) -> None:
        self.now = 0.0
        """Monotonic seconds, set with each event."""
        self._moment = 0
        self._floor = float("-inf")
        self._covers: dict[Key, tuple[float, float]] = {}
        self._touched: dict[Key, tuple[int, float | None, float]] = {}
        """When a change (with its commit time) or another read was last taken: its moment, and until
        when what is sent may not see it."""
        self._tidied_at = 0.0
        self._latest = float("-inf")
        self.watching = False
        """Whether reads are out, so that what others say meanwhile must be remembered by key."""

    def moment(self) -> int:
        """The number of this moment; later ones are greater."""
        self._moment += 1
        return self._moment

    @property
    def floor(self) -> float:
        """Server time: a change committed later is newer than every read of the whole table."""
        return self._floor

    def whole(self, horizon: float) -> None:
        """The whole table was read, before ``horizon``."""
        self._floor = max(self._floor, horizon)

    def one(self, key: Key, horizon: float, now: float) -> None:
        """What a read said of ``key`` was taken, as the last word until now."""
        if self.watching:
            self._touched[key] = (self.moment(), None, float("-inf"))
        if horizon > self._floor:
            self._covers[key] = (horizon, now)

    def joined(self) -> None:
        """A new join may repeat what the last one has told already."""
        self._floor = max(self._floor, self._latest)

    def is_news(self, key: Key, commit_time: float | None) -> bool:
        """Whether a change told now is certainly newer than every read of ``key``."""
        if commit_time is None or commit_time <= self._floor:
            return False
        cover = self._covers.get(key)
        return cover is None or commit_time > cover[0]

    def heard(self, commit_time: float | None) -> None:
        """A change of this commit time arrived."""
        if commit_time is not None and commit_time > self._latest:
            self._latest = commit_time

    def told(self, key: Key, commit_time: float | None) -> None:
        """A change of ``key``, newer than its last read, was applied."""
        self._touched[key] = (self.moment(), commit_time, self.now + VISIBLE_WITHIN)
        if self._covers:
            self._covers.pop(key, None)

    def newer(self, key: Key, read: Read) -> Newer:
        """What wins for ``key``: what ``read`` says, or what was taken since it was sent."""
        moment, commit_time, unseen_until = self._touched.get(key, (0, None, float("-inf")))
        if moment < read.sent and unseen_until <= read.sent_at:
            return "read"
        if commit_time is not None and commit_time > read.horizon:
            return "told"
        return "unclear"

    def forget(self, now: float, *, reads_out: bool) -> None:
        """Drop what can no longer matter."""
        self.watching = reads_out
        if not reads_out and self._touched and now - self._tidied_at > VISIBLE_WITHIN:
            self._tidied_at = now
            self._touched = {key: one for key, one in self._touched.items() if one[2] > now}
        if self._covers:
            old = [key for key, (_, at) in self._covers.items() if now - at > KEEP_COVERS]
            for key in old:
                del self._covers[key]
