"""Estimate the server's time from its answers, and how far a table is behind it. Pure.

An answer's ``Date`` header has whole seconds and was written between the request and the answer,
so each answer bounds the server's clock from both sides; together they are exact to a fraction of a second,
even if this machine's clock is wrong. A lag is measured from the lower bound, so a skewed or not yet
well-known clock is never mistaken for a late server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DRIFT: Final = 1e-4
"""Seconds per second by which two clocks may drift apart."""


class ServerClock:
    """The server's clock, in seconds since the epoch, against this process' monotonic clock."""

    def __init__(self) -> None:
        self._low = float("-inf")
        self._high = float("inf")
        """Bounds of server time minus monotonic time."""
        self._at = 0.0

    def observe(self, date: float, sent: float, received: float) -> None:
        """Record the ``date`` of an answer, with the monotonic times of its request and arrival."""
        low, high = date - received, date + 1.0 - sent
        drift = DRIFT * max(0.0, received - self._at)
        both = max(low, self._low - drift), min(high, self._high + drift)
        # Otherwise one of the clocks was set, or the machine slept: only the latest answer counts.
        self._low, self._high = both if both[0] <= both[1] else (low, high)
        self._at = received

    @property
    def is_known(self) -> bool:
        """Whether an answer has contained the server's time."""
        return self._high < float("inf")

    def now(self, monotonic: float, wall: float) -> float:
        """Return the best estimate: this machine's ``wall`` clock, corrected into the bounds."""
        return min(max(wall, monotonic + self._low), monotonic + self._high)

    def reader(
        self, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> Callable[[], float]:
        """Return a function that computes `now` from these two clocks."""
        return lambda: self.now(monotonic(), wall())

    def lag(self, commit_time: float, monotonic: float) -> float:
        """Return the minimum number of seconds since a commit; 0.0 while the server's time is unknown."""
        return max(0.0, monotonic + self._low - commit_time)


LATE_FOR: Final = 60.0
"""Seconds after which a late change is no longer counted, however late it was."""


class Freshness:
    """How far one table is behind, judged by the changes applied last.

    Changes that arrive more than ``bound`` seconds after their commit are late.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._lag = 0.0
        self._applied_at = float("-inf")
        self._latest = 0.0
        self._late_until = float("-inf")

    def applied(self, lag: float, now: float) -> None:
        """Record that a change was applied ``lag`` seconds after its commit."""
        self._lag, self._applied_at = lag, now
        if lag > self._bound:
            self._latest = max(lag, self.late(now))
            self._late_until = max(self._late_until, now + min(lag, LATE_FOR))

    def proven(self) -> None:
        """Record a comparison with the server: all earlier commits have been applied."""
        self._lag = 0.0

    def late(self, now: float) -> float:
        """Return the lag of the latest late change until that long has passed without another; then 0.0.

        Neither a punctual change nor a comparison ends it: the next change may be as late, and is
        missing until it arrives.
        """
        return self._latest if now < self._late_until else 0.0

    def behind(self, now: float, *, audited: bool) -> float:
        """Return by how many seconds the table may be behind.

        Later changes may be on their way until an audit proves otherwise; without audits, for as long
        as the last change took.
        """
        return self._lag if audited or now < self._applied_at + self._lag else 0.0
