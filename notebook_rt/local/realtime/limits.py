"""Rate limits: the events of a tenant, and the presence calls of a client.

In: events, and the time from a given clock. Out: whether an event is admitted. As on the real server, the
rate of events is an average over ticks of 5 s, at most the last twelve, and is computed only at the end of a
tick: a burst passes, and the events after it do not.
"""

from collections import deque
from collections.abc import Callable

TICK = 5.0
TICKS = 12


class EventRate:
    """Average events per second; `limit` None admits all events."""

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
        """Whether the average exceeds the limit, as of the last computed tick."""
        return self._limit is not None and self._average > self._limit

    def has_room(self) -> bool:
        """Return whether one more event would be within the limit, without counting it."""
        if self._limit is None:
            return True
        self._advance(self._clock())
        return self._average + 1 <= self._limit

    def admit(self) -> bool:
        """Count one event; return False if the average exceeds the limit."""
        self.count()
        return not self.exceeded

    def count(self, events: int = 1) -> None:
        """Count deliveries, which are never refused."""
        if self._limit is not None:
            self._advance(self._clock())
            self._count += events

    def _advance(self, now: float) -> None:
        """Close the ended ticks; the window starts with the first event after silence."""
        while now - self._started >= self._tick:
            self._ticks.append(self._count)
            self._count = 0
            self._started += self._tick
            if not any(self._ticks):
                self._ticks.clear()
                self._started = now
            self._average = sum(self._ticks) / (len(self._ticks) or 1) / self._tick


class CallLimit:
    """Limits the calls in a window that starts with the first of them."""

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
