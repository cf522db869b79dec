"""Whether the server may be dropping changes because there were too many of them.

Pure: numbers of changes and times go in, ``ChangeRate.until`` comes out. A project that had more
changes than its plan allows, on average over up to a minute, is not sent those that follow, and
its clients are told nothing (docs/design/facts.md, docs/design/wire.md). What a session receives, and
what it writes itself, shows when that may be so: a bucket that drains a little slower than the limit
is full when an average may be above it, and empty when the average is below it again.
"""

from __future__ import annotations

from typing import Final

from notebook_rt.sync.usage import NEAR, PLANS, TICK, Plan

WINDOW: Final = 60.0
"""Seconds over which the server averages, at the most."""
JUDGED: Final = 10.0
"""Seconds until it is known that a change was lost, and not late (``passes.LATENESS``), with room."""


class ChangeRate:
    """The changes of a session, against what its project may have. Times never go back.

    Parameters
    ----------
    plan
        None: not known, so it may be the smallest.
    """

    def __init__(self, plan: Plan | None) -> None:
        self.plan = plan or PLANS["free"]
        self.limit = self.plan.messages_per_second
        """Changes a second that the server sends, as far as is known."""
        self.until = float("-inf")
        """Until then the server may be dropping changes."""
        self._received = _Bucket()
        self._written = _Bucket()
        self._period_ends = float("-inf")
        self._in_period = 0
        self._full_periods = 0
        """Periods of ``TICK`` seconds, one after the other, with more changes than the limit."""

    @property
    def reason(self) -> str:
        """Why changes may be lost, in part of a sentence."""
        plan = self.plan
        return (
            f"more than {plan.messages_per_second:.0f} a second came, and above that a project of the "
            f"{plan.name} plan drops some for up to a minute"
        )

    def count(self, changes: int, now: float) -> bool:
        """So many changes were received; True: from now on the server may be dropping some."""
        self._learn(changes, now)
        return self._full(self._received, changes, now)

    def wrote(self, changes: int, now: float) -> bool:
        """The session itself has made so many, which come back as changes, unless they are dropped."""
        return self._full(self._written, changes, now)

    def lost(self, now: float) -> None:
        """Changes turned out to be lost. Where the rate explains that, it is higher than what came
        says, and so nothing else tells when it is below the limit again.
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
        # The server looks at the rate when a tick ends, and drops until the next one does.
        self.until = max(self.until, now + seconds + TICK)
        return begins

    def _learn(self, changes: int, now: float) -> None:
        """A server that limits sends nothing after a minute above the limit: this limit is higher."""
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
    """Changes above what is allowed; it drains as time passes."""

    def __init__(self) -> None:
        self.over = False
        """Whether it has been full since it was empty."""
        self._level = 0.0
        self._at = 0.0

    def add(self, changes: int, now: float, drain: float) -> float:
        """Seconds until it is empty, after so many more; it keeps no more than a minute's."""
        self._level -= drain * (now - self._at)
        if self._level <= 0:
            self._level, self.over = 0.0, False
        self._level, self._at = min(self._level + changes, drain * WINDOW), now
        self.over |= self._level > drain
        return self._level / drain
