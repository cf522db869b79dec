"""How late one table's changes arrive, and how far it is behind the server (`sync/clock.py` decides).

Input, on the loop: the applied events. Output: seconds, for any thread; a hint to the table's machine that
changes may be lost; and a notification of the session's health while changes arrive late.
"""

from __future__ import annotations

import asyncio
import time

from notebook_rt.runtime.buffer import Buffer
from notebook_rt.runtime.observed import Observed
from notebook_rt.sync.clock import Freshness
from notebook_rt.sync.events import Event, Hint, Received, ReceivedMany, ReceivedMessages
from notebook_rt.sync.table.broadcast_answers import commit_time


class Lateness:
    """See the module. The events in ``buffer`` are not applied yet."""

    def __init__(self, driver: Observed, buffer: Buffer) -> None:
        self.waiting_since: float | None = None
        """Since when the rows shown lack something that was received; monotonic."""
        self._driver = driver
        self._services = driver.services
        self._buffer = buffer
        self._bound = driver.services.options.behind_after
        self._freshness = Freshness(self._bound)
        self._late = False
        """Whether the last applied change was late."""
        self._timer: asyncio.TimerHandle | None = None
        """Notifies the health while changes are late."""

    @property
    def behind(self) -> float:
        """Seconds by which the table is behind the server, as far as is known."""
        now, since = time.monotonic(), self.waiting_since
        audited = self._services.options.audit_interval > 0
        behind = self._freshness.behind(now, audited=audited)
        oldest = self._buffer.oldest
        if oldest is not None:
            behind = max(behind, self._services.rest.server_clock.lag(oldest, now))
        return behind if since is None else max(behind, now - since)

    @property
    def late(self) -> float:
        """Seconds by which recent changes were late; 0.0 if none was late for a while."""
        return self._freshness.late(time.monotonic())

    def forget(self) -> None:
        """Start again: the whole table is read again."""
        self._freshness = Freshness(self._bound)

    def proven(self) -> None:
        """Note that the table was compared with the server."""
        self._freshness.proven()

    def applied(self, event: Event) -> None:
        """Note how late the changes are that were just applied."""
        match event:
            case Received(change):
                latest = change.commit_time
            case ReceivedMany(changes):
                latest = changes[-1].commit_time
            case ReceivedMessages(payloads):
                latest = commit_time(payloads[-1])
            case _:
                return
        if latest is None or self._driver.machine.status != "live":
            return
        rest, now = self._services.rest, time.monotonic()
        self._services.metrics.lagged(max(0.0, rest.clock() - latest), now)
        lag = rest.server_clock.lag(latest, now)
        self._freshness.applied(lag, now)
        late, was_late = lag > self._bound, self._late
        self._late = late
        if late and not was_late:
            if self._driver.machine.topic is None:  # else sequence numbers show lost changes
                self._buffer.event(Hint(f"changes come {lag:.0f} s late"))
            if self._timer is None:
                self._report()
        elif late != was_late:
            self._services.on_facts()

    def _report(self) -> None:
        """Notify the health once a second until changes are no longer late: there may be no other event."""
        closed = self._driver.status == "closed"
        self._late = self.behind > self._bound and not closed
        self._timer = None
        self._services.on_facts()
        if self._late or (self.late and not closed):
            self._timer = asyncio.get_running_loop().call_later(1.0, self._report)
