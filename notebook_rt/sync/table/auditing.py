"""When a table is compared with the server next (promise 4), and what brings that forward.

Pure: what happened and the time go in, ``at`` comes out. An audit is due ``audit_interval`` after the
last one, later where audits cost more than their share, never later than ``audit_max`` allows, and
sooner after a hint: a lag, a burst, silence after many changes, a repeated system message, a
reconnect, a server that failed. Each of these was seen to come with changes that were lost without a
word (docs/design/facts.md). From the hint on, and until an audit is over that began after it, the
table is in doubt: its session is not healthy. A gap that is known is no doubt: the table is stale
until it is closed.
"""

from __future__ import annotations

from typing import Final

from notebook_rt.options import Options

LONG_INTERVAL: Final = Options().audit_interval
AUDIT_SHARE: Final = 0.01
"""At most this share of the time is spent auditing a true table, at ``LONG_INTERVAL`` and above."""
SHORT_SHARE: Final = 0.25
"""The same for a shorter interval, which the user has asked for."""
HINTED_SHARE: Final = 0.1
"""At most this share of the time is spent on audits that hints have brought forward."""
HINTED_PART: Final = 0.25
"""A hint brings an audit forward to this part of its interval after the last one, at the most."""
HINTED_AFTER: Final = 2.0
"""Seconds between two audits that hints bring forward, where that part is longer."""
SOON: Final = 2.0
"""Seconds between a hint and the audit that it asks for: what comes late is there by then."""
FIRST: Final = 1.0
"""Seconds between the load and the first audit; as long as the load took, if that is more."""

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
        self._hinted_until = float("-inf")
        """When the hint that lasts longest ends."""
        self._began_at = float("-inf")
        self.doubt = ""
        """Why rows may be wrong, until an audit is over that began after the last hint; empty: no hint."""
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

    def began(self, now: float) -> None:
        """An audit has begun."""
        self._hinted = self.asked = False
        self._began_at = now

    def ended(self, now: float, took: float, *, clean: bool) -> None:
        """An audit is over, after so many seconds of work; ``clean``: it found no difference."""
        if clean:
            self._cost = took
        doubted = self._hinted or self._hinted_until > self._began_at
        self.doubt = self.doubt if doubted else ""
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
        least = min(self._every * HINTED_PART, HINTED_AFTER)
        self._hinted_from = now + max(least, cost / HINTED_SHARE)
        if doubted:
            self.at = min(self.at, self._hinted_from)

    def hint(self, now: float, why: str, *, within: float = SOON, until: float = NEVER) -> None:
        """Something may have been lost without a word.

        Parameters
        ----------
        why
            Part of a sentence; empty where something else proves that nothing is missing, as the
            reconciliation does that closes a gap: that is no doubt.
        within
            Seconds in which what comes late is there, so that an audit is worth its cost.
        until
            When that is over, where it is not over at once: until then there are several audits.
        """
        if self._every:
            if until == NEVER:
                self._hinted = True
            else:
                self._hinted_until = max(self._hinted_until, until)
            self.doubt = why or self.doubt
            soon = now + min(within, self._every / 2)
            self.at = min(self.at, max(soon, self._hinted_from))

    def ask(self, now: float) -> None:
        """Somebody wants one now."""
        self.at, self.asked = now, True


class Traffic:
    """How a table's changes come: whether they have stopped in a way that hints at a loss."""

    def __init__(self) -> None:
        self.quiet_at = NEVER
        """When silence is a hint."""
        self._while = float("-inf")
        self._in_while = 0

    def count_changes(self, changes: int, now: float) -> None:
        """So many changes came."""
        if now - self._while >= BUSY_SECONDS:
            self._while, self._in_while = now, 0
        self._in_while += changes
        if self._in_while >= BUSY or self.quiet_at != NEVER:
            self.quiet_at = now + QUIET

    def proven(self, since: float) -> None:
        """An audit that began at ``since`` found nothing lost.

        Where a busy table's next change would have been there by then, it is quiet because its writers are.
        """
        if since - (self.quiet_at - QUIET) >= BUSY_SECONDS / BUSY:
            self.quiet_at, self._in_while = NEVER, 0

    def fell_quiet(self, now: float) -> bool:
        """Whether a busy table has fallen silent; said once."""
        if now < self.quiet_at:
            return False
        self.quiet_at, self._in_while = NEVER, 0
        return True
