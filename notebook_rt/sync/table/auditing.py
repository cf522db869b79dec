"""Decide when a table is next compared with the server (promise 4). Pure.

In: events and the time. Out: ``at``. An audit is due ``audit_interval`` after the last one, later if audits
cost more than their share, never later than ``audit_max`` allows, and sooner after a hint: a lag, a burst,
silence after many changes, a repeated system message, a reconnect, a server that failed. Each of these was
observed together with silently lost changes (docs/design/facts.md). From the hint until the end of an audit
that began after it, the table is in doubt: its session is not healthy. A known gap is not a doubt: the table
is stale until the gap is closed.
"""

from __future__ import annotations

from typing import Final

from notebook_rt.options import Options

LONG_INTERVAL: Final = Options().audit_interval
AUDIT_SHARE: Final = 0.01
"""The maximum share of time spent on audits of a correct table, at ``LONG_INTERVAL`` and above."""
SHORT_SHARE: Final = 0.25
"""The same for a shorter interval, which the user has requested."""
HINTED_SHARE: Final = 0.1
"""The maximum share of time spent on audits brought forward by hints."""
HINTED_PART: Final = 0.25
"""The earliest time to which a hint brings an audit forward, as a share of the audit interval."""
HINTED_AFTER: Final = 2.0
"""Maximum seconds between two audits brought forward by hints, if that share is longer."""
SOON: Final = 2.0
"""Seconds between a hint and its audit: late changes have arrived by then."""
FIRST: Final = 1.0
"""Seconds between the load and the first audit; the duration of the load if that is longer."""

BUSY: Final = 10
"""Number of changes in ``BUSY_SECONDS`` after which silence is a hint."""
BUSY_SECONDS: Final = 10.0
QUIET: Final = 3.0
"""Seconds without a change that count as silence on a busy table."""

NEVER: Final = float("inf")


class AuditTimer:
    """The time of one table's next audit."""

    def __init__(self, options: Options) -> None:
        self.at = NEVER
        """When the next audit is due; ``NEVER`` if audits are switched off."""
        self.by = NEVER
        """When it must no longer wait, not even for a reconciliation."""
        self._every = options.audit_interval
        self._most = options.audit_max
        self._share = AUDIT_SHARE if self._every >= LONG_INTERVAL else SHORT_SHARE
        self._cost = 0.0
        """Seconds of work of the last audit that found no difference."""
        self._hinted_from = 0.0
        self._hinted = False
        """Whether there was a hint since the last audit began."""
        self._hinted_until = float("-inf")
        """When the hint that lasts longest ends."""
        self._began_at = float("-inf")
        self.doubt = ""
        """Why rows may be wrong, until the end of an audit that began after the last hint; empty: no hint."""
        self.asked = False
        """Whether an audit was requested since the last one began."""

    def loaded(self, now: float, took: float) -> None:
        """Record that the table was loaded, in this time: the first audit is due soon."""
        if self._every and self.at == NEVER:
            self.by = now + self._most
            self.at = min(now + max(FIRST, took), now + self._every)

    def resumed(self, now: float) -> None:
        """Record that changes flow again: until now the table was polled, which also compares it."""
        if self._every:
            self.by = now + self._most

    def began(self, now: float) -> None:
        """Record the beginning of an audit."""
        self._hinted = self.asked = False
        self._began_at = now

    def ended(self, now: float, took: float, *, clean: bool) -> None:
        """Record the end of an audit after these seconds of work; ``clean``: it found no difference."""
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
        """Record a hint that changes may have been lost silently.

        Parameters
        ----------
        why
            Part of a sentence; empty if something else proves that nothing is missing, such as the
            reconciliation that closes a gap: that is not a doubt.
        within
            Seconds within which late changes have arrived, so that an audit is worth its cost.
        until
            When the cause ends, if it continues: until then there are several audits.
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
        """Request an audit now."""
        self.at, self.asked = now, True


class Traffic:
    """The traffic of a table: whether its changes have stopped in a way that hints at a loss."""

    def __init__(self) -> None:
        self.quiet_at = NEVER
        """When silence becomes a hint."""
        self._while = float("-inf")
        self._in_while = 0

    def count_changes(self, changes: int, now: float) -> None:
        """Record received changes."""
        if now - self._while >= BUSY_SECONDS:
            self._while, self._in_while = now, 0
        self._in_while += changes
        if self._in_while >= BUSY or self.quiet_at != NEVER:
            self.quiet_at = now + QUIET

    def proven(self, since: float) -> None:
        """Record that an audit begun at ``since`` found no lost change.

        If a busy table's next change would have arrived by then, it is quiet because its writers are.
        """
        if since - (self.quiet_at - QUIET) >= BUSY_SECONDS / BUSY:
            self.quiet_at, self._in_while = NEVER, 0

    def fell_quiet(self, now: float) -> bool:
        """Return whether a busy table has fallen silent; True only once."""
        if now < self.quiet_at:
            return False
        self.quiet_at, self._in_while = NEVER, 0
        return True
