"""How late one table's changes come, and how far it is behind the server (`sync/clock.py` decides).

In: what was applied, on the loop. Out: seconds, for any thread; a doubt for the table's machine, and word
to the session's health for as long as changes come late.
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
    """See the module. What waits in ``buffer`` is not applied yet."""

    def __init__(self, driver: Observed, buffer: Buffer) -> None:
        self.waiting_since: float | None = None
        """Since when what is shown lacks something that was received; monotonic."""
        self._driver = driver
        self._services = driver.services
        self._buffer = buffer
        self._bound = driver.services.options.behind_after
        self._freshness = Freshness(self._bound)
        self._late = False
        """Whether the change that was applied last was late."""
        self._timer: asyncio.TimerHandle | None = None
        """Tells by how much, while it is late."""

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
        """Seconds by which changes came late, until none has for a while; 0.0: none did."""
        return self._freshness.late(time.monotonic())

    def forget(self) -> None:
        """The table is read anew."""
        self._freshness = Freshness(self._bound)

    def proven(self) -> None:
        """The table was compared with the server."""
        self._freshness.proven()

    def applied(self, event: Event) -> None:
        """Note how late the changes are that were applied just now."""
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
            if self._driver.machine.topic is None:  # else numbers show whether something is lost
                self._buffer.event(Hint(f"changes come {lag:.0f} s late"))
            if self._timer is None:
                self._report()
        elif late != was_late:
            self._services.on_facts()

    def _report(self) -> None:
        """Tell by how much, once a second: by when it is over, nothing else may happen."""
        closed = self._driver.status == "closed"
        self._late = self.behind > self._bound and not closed
        self._timer = None
        self._services.on_facts()
        if self._late or (self.late and not closed):
            self._timer = asyncio.get_running_loop().call_later(1.0, self._report)
