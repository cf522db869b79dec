"""Rates: how many events a tenant has had, how many presence calls a client made.

In: events, and the time from a clock that is an argument. Out: whether this one is still admitted.
Like the real server's, the rate of events is an average over ticks of 5 s, at most the last 60 s
of them, and is only looked at when a tick ends: a burst passes, and what follows it does not.
"""

from collections import deque
from collections.abc import Callable

TICK = 5.0
WINDOW = 60.0


class EventRate:
    """Average events a second; `limit` None admits everything."""

    def __init__(self, limit: float | None, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._ticks: deque[int] = deque(maxlen=int(WINDOW / TICK))
        self._started = clock()
        self._count = 0
        self.exceeded = False

    def admit(self) -> bool:
        """Count one event; False when the average is over the limit."""
        self.count()
        return not self.exceeded

    def count(self, events: int = 1) -> None:
        """Count what was delivered, which is never refused."""
        if self._limit is not None:
            self._advance(self._clock())
            self._count += events

    def _advance(self, now: float) -> None:
        """Close the ticks that ended; the window starts with the first event after silence."""
        while now - self._started >= TICK:
            self._ticks.append(self._count)
            self._count = 0
            self._started += TICK
            if not any(self._ticks):
                self._ticks.clear()
                self._started = now
            average = sum(self._ticks) / (len(self._ticks) or 1) / TICK
            self.exceeded = self._limit is not None and average > self._limit


class CallLimit:
    """At most so many calls in a window that starts with the first of them."""

    def __init__(self, calls: int, window: float, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._window = window
        self._clock = clock
        self._since = clock()
        self._count = 0

    def admit(self) -> bool:
        now = self._clock()
        if now - self._since >= self._window:
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= self._calls
