"""The server's time as far as its answers tell, and how far what is shown is behind it.

Pure. An answer's ``Date`` header has whole seconds and was written between the request and the answer,
so each bounds the server's clock from both sides; together they are exact to a fraction of a second,
however wrong the clock of this machine is. A lag is measured from the lower bound: a clock that is
skewed, or not yet well known, is never taken for a server that is late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DRIFT: Final = 1e-4
"""Seconds by which two clocks may drift apart in one."""


class ServerClock:
    """The server's clock, in seconds since the epoch, against this process' monotonic clock."""

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        """Between these lies server time minus monotonic time."""
        self._at = 0.0

    def observe(self, date: float, sent: float, received: float) -> None:
        """Take the ``date`` of an answer to what was sent and received at these monotonic times."""
        low, high = date - received, date + 1.0 - sent
        drift = DRIFT * max(0.0, received - self._at)
        both = max(low, self._low - drift), min(high, self._high + drift)
        # Else one of the clocks was set, or the machine slept: only the latest answer counts.
        self._low, self._high = both if both[0] <= both[1] else (low, high)
        self._at = received

    @property
    def is_known(self) -> bool:
        """Whether an answer has told the server's time."""
        return self._high < float("inf")

    def now(self, monotonic: float, wall: float) -> float:
        """The best guess: this machine's ``wall`` clock, put right as far as it must be wrong."""
        return min(max(wall, monotonic + self._low), monotonic + self._high)

    def reader(
        self, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> Callable[[], float]:
        """What gives `now` by these two clocks."""
        return lambda: self.now(monotonic(), wall())

    def lag(self, commit_time: float, monotonic: float) -> float:
        """Seconds that have passed since a commit, at the least; 0.0 while nothing is known."""
        return max(0.0, monotonic + self._low - commit_time)


LATE_FOR: Final = 60.0
"""Seconds after which a change that came late counts no more, however late it was."""


class Freshness:
    """How far one table is behind, by what was applied last.

    Changes that come more than ``bound`` seconds after their commit are late.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._lag = 0.0
        self._applied_at = float("-inf")
        self._latest = 0.0
        self._late_until = float("-inf")

    def applied(self, lag: float, now: float) -> None:
        """A change was applied so many seconds after its commit."""
        self._lag, self._applied_at = lag, now
        if lag > self._bound:
            self._latest = max(lag, self.late(now))
            self._late_until = max(self._late_until, now + min(lag, LATE_FOR))

    def proven(self) -> None:
        """The table was compared with the server: what was committed before is here."""
        self._lag = 0.0

    def late(self, now: float) -> float:
        """How late the latest of the late changes was, until none has come for as long as that; then 0.0.

        Neither a younger change nor a comparison ends it: the next change may be as late again, and
        is missing until it comes.
        """
        return self._latest if now < self._late_until else 0.0

    def behind(self, now: float, *, audited: bool) -> float:
        """Seconds. Later changes may be on their way as long as nothing proves otherwise; where no
        audit will, as long as the last one took.
        """
        return self._lag if audited or now < self._applied_at + self._lag else 0.0
