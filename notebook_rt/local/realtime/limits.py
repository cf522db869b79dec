"""Rates: how many events a tenant has had, how many presence calls a client made.

In: events, and the time from a clock that is an argument. Out: whether this one is still admitted.
Like the real server's, the rate of events is an average over ticks of 5 s, at most the last twelve
of them, and is only looked at when a tick ends: a burst passes, and what follows it does not.
"""

from collections import deque
from collections.abc import Callable

TICK = 5.0
TICKS = 12


class EventRate:
    """Average events a second; `limit` None admits everything."""

    def __init__(self, limit: float | None, clock: Callable[[], float], tick: float = TICK) -> None:
        self._limit = limit
        self._clock = clock
        self._tick = tick
        self._ticks: deque[int] = deque(maxlen=TICKS)
        self._started = clock()
        self._count = 0
        self._average = 0.0

    @property
    def exceeded(self) -> bool:
        """Whether the average is over the limit, as of the last tick that was looked at."""
        return self._limit is not None and self._average > self._limit

    def has_room(self) -> bool:
        """Whether one event more would be within the limit; it is not counted."""
        if self._limit is None:
            return True
        self._advance(self._clock())
        return self._average + 1 <= self._limit

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
        while now - self._started >= self._tick:
            self._ticks.append(self._count)
            self._count = 0
            self._started += self._tick
            if not any(self._ticks):
                self._ticks.clear()
                self._started = now
            self._average = sum(self._ticks) / (len(self._ticks) or 1) / self._tick


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
