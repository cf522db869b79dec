"""What a session counts, in constant memory (percentiles by magnitude). Pure: times are arguments."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from notebook_rt.quoting import printable
from notebook_rt.sync.connection.supervisor import State


class Trend:
    """What was measured lately, a number for each 5 s of the last five minutes: for a small picture.

    Parameters
    ----------
    combine
        Makes one number of two within a tick.
    nothing
        What a tick is in which nothing was measured, from the first measure on.
    """

    TICK: Final = 5.0
    TICKS: Final = 60

    def __init__(
        self, combine: Callable[[float, float], float], nothing: float | None = None
    ) -> None:
        self._combine = combine
        self._nothing = nothing
        self._first = math.inf
        """The tick of the first measure."""
        self._ticks: deque[tuple[int, float]] = deque(maxlen=self.TICKS + 1)

    def add(self, value: float, now: float) -> None:
        number, ticks = int(now // self.TICK), self._ticks
        if ticks and ticks[-1][0] >= number:
            ticks[-1] = ticks[-1][0], self._combine(ticks[-1][1], value)
        else:
            ticks.append((number, value))
            self._first = min(self._first, number)

    def points(self, now: float) -> list[float | None]:
        """Of the ticks that are over, the latest last; None: nothing was measured. From any thread."""
        known = dict(list(self._ticks))  # at once, as `tuple` is not: the loop may add meanwhile
        first, number = self._first, int(now // self.TICK)
        return [
            known.get(tick, self._nothing if tick > first else None)
            for tick in range(number - self.TICKS, number)
        ]


class Series:
    """Measured seconds: count, average, percentiles (to 0.5 %), latest; bounded memory."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.latest: float | None = None
        self._counts: dict[int, int] = {}
        """Of the values by their logarithm, a hundred steps to the power of e."""

    def add(self, value: float) -> None:
        step = round(100 * math.log(min(max(value, 1e-6), 1e6)))
        self._counts[step] = self._counts.get(step, 0) + 1
        self.total += value
        self.latest = value
        self.count += 1  # last: who reads meanwhile finds what is counted

    def _quantile(self, share: float) -> float:
        counts = self._counts.copy()  # at once: the loop may add meanwhile
        left = share * sum(counts.values())
        for step in sorted(counts):
            left -= counts[step]
            if left <= 0:
                return math.exp(step / 100)
        raise AssertionError("a share is at most 1")

    def summary(self, prefix: str) -> dict[str, float | None]:
        """Average, median, 95th and 99th percentile, in milliseconds."""
        if not self.count:
            return {f"{prefix}_{name}_ms": None for name in ("avg", "p50", "p95", "p99")}
        return {
            f"{prefix}_avg_ms": 1000 * self.total / self.count,
            f"{prefix}_p50_ms": 1000 * self._quantile(0.50),
            f"{prefix}_p95_ms": 1000 * self._quantile(0.95),
            f"{prefix}_p99_ms": 1000 * self._quantile(0.99),
        }


class Metrics:
    """What a session counts. Times are monotonic seconds, given by the caller."""

    RATE_WINDOW: Final = 10.0
    RATE_STEP: Final = 0.1
    """Changes within so many seconds are counted together."""

    def __init__(self) -> None:
        self.connected_since: float | None = None
        self.connected_before = 0.0
        """Seconds connected, without the present connection."""
        self.disconnects = 0
        self.events = 0
        self.gaps = 0
        self.reconciliations = 0
        self.audits = 0
        self.drift = 0
        self.callback_errors = 0
        self.last_error: str | None = None
        self.latency = Series()
        """Heartbeat there and back."""
        self.lag = Series()
        """Commit on the server to applied here, by the server's clock (``sync/clock.py``)."""
        self._recent: deque[tuple[float, int]] = deque(
            maxlen=round(self.RATE_WINDOW / self.RATE_STEP) + 1
        )
        self._changes, self._lags, self._latencies = (
            Trend(operator.add, 0.0),
            Trend(max),
            Trend(max),
        )

    def state(self, state: State, reason: str, now: float) -> None:
        if state == "connected":
            if self.connected_since is None:
                self.connected_since = now
                self._changes.add(0, now)  # from here on, no change is a measure, too
        elif self.connected_since is not None:
            self.connected_before += now - self.connected_since
            self.connected_since = None
            self.disconnects += 1
        if state == "reconnecting":
            self.last_error = printable(reason)

    def applied(self, changes: int, now: float) -> None:
        self.events += changes
        if self._recent and now - self._recent[-1][0] < self.RATE_STEP:
            at, before = self._recent[-1]
            self._recent[-1] = (at, before + changes)
        else:
            self._recent.append((now, changes))
        self._changes.add(changes, now)

    def lagged(self, seconds: float, now: float) -> None:
        """A change was applied so long after its commit."""
        self.lag.add(seconds)
        self._lags.add(seconds, now)

    def answered(self, seconds: float, now: float) -> None:
        """A heartbeat took so long, there and back."""
        self.latency.add(seconds)
        self._latencies.add(seconds, now)

    def trends(self, now: float) -> dict[str, list[float | None]]:
        """What `Health.trends` is; from any thread."""

        def scaled(trend: Trend, factor: float) -> list[float | None]:
            return [None if point is None else point * factor for point in trend.points(now)]

        return {
            "changes_per_s": scaled(self._changes, 1 / Trend.TICK),
            "lag_ms": scaled(self._lags, 1000),
            "latency_ms": scaled(self._latencies, 1000),
        }

    def rate(self, now: float) -> float:
        """Changes a second over the last ten seconds; from any thread."""
        since = now - self.RATE_WINDOW
        recent = list(self._recent)  # in one go: more may come meanwhile
        return sum(count for at, count in recent if at >= since) / self.RATE_WINDOW

    def as_dict(self, now: float) -> dict[str, Any]:
        up = self.connected_before
        if self.connected_since is not None:
            up += now - self.connected_since
        return {
            "uptime_s": up,
            "disconnects": self.disconnects,
            "events": self.events,
            "events_per_s": self.rate(now),
            "gaps": self.gaps,
            "reconciliations": self.reconciliations,
            "audits": self.audits,
            "drift": self.drift,
            "callback_errors": self.callback_errors,
            "last_error": self.last_error,
            **self.latency.summary("latency"),
            **self.lag.summary("lag"),
        }
