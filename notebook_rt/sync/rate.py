"""Decide whether the server may be dropping changes because there were too many. Pure.

In: numbers of changes and times. Out: ``ChangeRate.until``. If a project has more changes than its plan
allows, on average over up to a minute, the server drops the following ones without notifying the clients
(docs/design/facts.md, docs/design/wire.md). The changes that a session receives and makes show when this
is possible: a bucket that drains a little slower than the limit is full when an average may exceed the
limit, and empty when the average is below it again.
"""

from __future__ import annotations

from typing import Final

from notebook_rt.sync.usage import NEAR, PLANS, TICK, Plan

WINDOW: Final = 60.0
"""The longest period, in seconds, over which the server averages."""
JUDGED: Final = 10.0
"""Seconds after which a missing change is known to be lost, not late (``passes.LATENESS``), with a margin."""


class ChangeRate:
    """Compares the changes of a session with the limit of its project. Times never decrease.

    Parameters
    ----------
    plan
        None: unknown, so it may be the smallest.
    """

    def __init__(self, plan: Plan | None) -> None:
        self.plan = plan or PLANS["free"]
        self.limit = self.plan.messages_per_second
        """Changes per second that the server is known to send."""
        self.until = float("-inf")
        """The time until which the server may be dropping changes."""
        self._received = _Bucket()
        self._written = _Bucket()
        self._period_ends = float("-inf")
        self._in_period = 0
        self._full_periods = 0
        """Consecutive periods of ``TICK`` seconds with more changes than the limit."""

    @property
    def reason(self) -> str:
        """Why changes may be lost, as part of a sentence."""
        plan = self.plan
        return (
            f"more than {plan.messages_per_second:.0f} a second came, and above that a project of the "
            f"{plan.name} plan drops some for up to a minute"
        )

    def count(self, changes: int, now: float) -> bool:
        """Record received changes; return whether the server may be dropping some from now on."""
        self._learn(changes, now)
        return self._full(self._received, changes, now)

    def wrote(self, changes: int, now: float) -> bool:
        """Record the session's own writes, which arrive as changes unless they are dropped."""
        return self._full(self._written, changes, now)

    def lost(self, now: float) -> None:
        """Record that changes were lost. If the rate explains the loss, the true rate is higher than the
        received one, so the received changes cannot show when it is below the limit again.
        """
        if now < self.until + JUDGED:
            self.until = now + WINDOW + TICK
            self.limit = self.plan.messages_per_second

    def _full(self, bucket: _Bucket, changes: int, now: float) -> bool:
        drain = NEAR * self.limit
        seconds = bucket.add(changes, now, drain)
        if not bucket.over:
            return False
        begins = now >= self.until
        # The server checks the rate at the end of a tick, and drops until the end of the next one.
        self.until = max(self.until, now + seconds + TICK)
        return begins

    def _learn(self, changes: int, now: float) -> None:
        """A server that limits sends nothing after a minute above the limit, so the limit is higher."""
        if now >= self._period_ends:
            full = self._in_period > self.limit * TICK and now < self._period_ends + TICK
            self._full_periods = self._full_periods + 1 if full else 0
            self._in_period, self._period_ends = 0, now + TICK
            if self._full_periods * TICK > WINDOW:
                self.limit *= 2
                self._full_periods = 0
                self._received, self._written = _Bucket(), _Bucket()
                self.until = min(self.until, now)
        self._in_period += changes


class _Bucket:
    """Changes above the limit; the bucket drains as time passes."""

    def __init__(self) -> None:
        self.over = False
        """Whether it has been full since it was empty."""
        self._level = 0.0
        self._at = 0.0

    def add(self, changes: int, now: float, drain: float) -> float:
        """Add changes; return the seconds until the bucket is empty. It holds at most a minute's changes."""
        self._level -= drain * (now - self._at)
        if self._level <= 0:
            self._level, self.over = 0.0, False
        self._level, self._at = min(self._level + changes, drain * WINDOW), now
        self.over |= self._level > drain
        return self._level / drain
