"""When a table is compared with the server next (promise 4), and what brings that forward.

Pure: what happened and the time go in, ``at`` comes out. An audit is due ``audit_interval`` after the
last one, later where audits cost more than their share, never later than ``audit_max`` allows, and
sooner after a hint: a lag, a burst, silence after many changes, a repeated system message, a
reconnect, a server that failed. Each of these was seen to come with changes that were lost without a
word (docs/design/facts.md).
"""

from __future__ import annotations

from typing import Final

from notebook_rt.options import Options

LONG_INTERVAL: Final = Options().audit_interval
AUDIT_SHARE: Final = 0.01
"""At most this share of the time is spent auditing a true table, at ``LONG_INTERVAL`` and above."""
SHORT_SHARE: Final = 0.25
"""The same for an interval that is shorter than that: who asks for it wants it."""
HINTED_SHARE: Final = 0.05
"""At most this share of the time is spent on audits that hints have brought forward."""
HINTED_PART: Final = 0.25
"""A hint brings an audit forward to this part of its interval after the last one, at the most."""
SOON: Final = 2.0
"""Seconds between a hint and the audit that it asks for: what comes late is there by then."""
FIRST: Final = 1.0
"""Seconds between the load and the first audit; as long as the load took, if that is more."""

BURST: Final = 100
"""Changes in a second above which a project may drop some (100 on the free plan)."""
BUSY: Final = 10
"""Changes in ``BUSY_SECONDS`` that make silence after them a hint."""
BUSY_SECONDS: Final = 10.0
QUIET: Final = 3.0
"""Seconds without a change that are silence on a busy table."""

NEVER: Final = float("inf")


class AuditTimer:
    """The time of one table's next audit."""

    def __init__(self, options: Options) -> None:
        self.at = NEVER
        """When the next one is due; ``NEVER`` where audits are switched off."""
        self.by = NEVER
        """When it cannot wait any longer, not even for a reconciliation."""
        self._every = options.audit_interval
        self._most = options.audit_max
        self._share = AUDIT_SHARE if self._every >= LONG_INTERVAL else SHORT_SHARE
        self._cost = 0.0
        """Seconds of work that the last audit of a true table took."""
        self._hinted_from = 0.0
        self._hinted = False
        """Whether a hint has come since the last audit began."""
        self.asked = False
        """Whether somebody has asked for one since the last audit began."""

    def loaded(self, now: float, took: float) -> None:
        """The table was loaded, which took so long: the first audit is due soon."""
        if self._every and self.at == NEVER:
            self.by = now + self._most
            self.at = min(now + max(FIRST, took), now + self._every)

    def resumed(self, now: float) -> None:
        """Changes flow again: until now the table was polled, which is a comparison as well."""
        if self._every:
            self.by = now + self._most

    def began(self) -> None:
        """An audit has begun."""
        self._hinted = self.asked = False

    def ended(self, now: float, took: float, *, clean: bool) -> None:
        """An audit is over, after so many seconds of work; ``clean``: it found no difference."""
        if clean:
            self._cost = took
        if self.asked:
            self.at = now
            return
        if not self._every:
            self.at = NEVER
            return
        cost = self._cost
        latest = max(self._most - 2 * cost, cost)
        self.by = now + latest
        self.at = now + min(max(self._every, cost / self._share), latest)
        self._hinted_from = now + max(self._every * HINTED_PART, cost / HINTED_SHARE)
        if self._hinted:
            self.at = min(self.at, self._hinted_from)

    def hint(self, now: float) -> None:
        """Something may have been lost without a word."""
        if self._every:
            self._hinted = True
            soon = now + min(SOON, self._every / 2)
            self.at = min(self.at, max(soon, self._hinted_from))

    def ask(self, now: float) -> None:
        """Somebody wants one now."""
        self.at, self.asked = now, True


class Traffic:
    """How a table's changes come: whether that hints at a loss."""

    def __init__(self) -> None:
        self.quiet_at = NEVER
        """When silence is a hint."""
        self._second = self._while = float("-inf")
        self._in_second = self._in_while = 0

    def came(self, changes: int, now: float) -> bool:
        """So many changes came; True: that is a burst."""
        if now - self._second >= 1.0:
            self._second, self._in_second = now, 0
        if now - self._while >= BUSY_SECONDS:
            self._while, self._in_while = now, 0
        self._in_second += changes
        self._in_while += changes
        if self._in_while >= BUSY or self.quiet_at != NEVER:
            self.quiet_at = now + QUIET
        return self._in_second > BURST

    def fell_quiet(self, now: float) -> bool:
        """Whether a busy table has fallen silent; said once."""
        if now < self.quiet_at:
            return False
        self.quiet_at, self._in_while = NEVER, 0
        return True
