"""The common base of the machines of tables and queries.

A ``Machine`` takes events and a time, and returns effects (``sync/events.py``). This module contains the
parts that do not depend on the rows: the active flows, the gaps that events open, whether the channel
streams, the waits (for a join, between polls, for the next audit), the status and the last error.
``Mirror`` (``sync/table``) and ``Requery`` (``sync/query``) decide what is read, and when.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from notebook_rt.model.types import Schema
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    AuditNow,
    Binding,
    Broken,
    Change,
    Closed,
    Confirmed,
    Effect,
    Event,
    Failed,
    Fetched,
    FetchFailed,
    Gap,
    Hint,
    Joined,
    Logged,
    Lost,
    Received,
    ReceivedMany,
    Refused,
    Status,
    StatusChanged,
    Tick,
    Wake,
)
from notebook_rt.sync.table.auditing import NEVER, AuditTimer
from notebook_rt.sync.table.flows import Flows
from notebook_rt.sync.table.horizon import Horizon

JOIN_PATIENCE: Final = 5.0
"""Seconds to wait for the first ``Confirmed`` before reading without it."""
UNANSWERED: Final = 5.0
"""Seconds after which a request without an answer puts the rows in doubt."""
POLL_SHARE: Final = 0.2
"""Maximum share of the time spent polling."""
LOAD_SHARE: Final = 1.0
"""The same for the first poll after the load. The duration of the load does not predict that of a poll, which
reads only changes, and other tables may have been loaded at the same time."""
POLL_GROWTH: Final = 1.5


class Machine(ABC):
    """See the module docstring."""

    def __init__(self, options: Options, horizon: Horizon) -> None:
        self.options = options
        self.want_changes = False
        """Whether there are listeners: then ``Published.changes`` is filled."""
        self.status: Status = "loading"
        self._now = 0.0
        self._out: list[Effect] = []
        self._horizon = horizon
        self._flows = Flows(horizon, self._emit)
        self._begun = self._confirmed = self._closed = False
        self._failed: Exception | None = None
        self._gap_reason = self._reported_reason = "starting"
        self._missed = False
        self._turned_away = False
        """Whether the server has refused the stream."""
        self._patience_ends = float("inf")
        self._poll_at = float("inf")
        """Time of the next poll; infinite before the stream was lost or rows were read."""
        self._poll_every = options.poll_interval
        self.poll_every = options.poll_interval
        """Current seconds between two polls: they grow while nothing changes."""
        self._audits = AuditTimer(options)

    @property
    @abstractmethod
    def schema(self) -> Schema | None:
        """The schema; None until the columns are known."""

    @property
    @abstractmethod
    def bindings(self) -> tuple[Binding, ...]:
        """The bindings to join with; empty until they are known (then ``Rejoin`` is sent)."""

    @property
    @abstractmethod
    def waiting_since(self) -> float | None:
        """Monotonic time since which a change has waited to be applied; None: none is waiting."""

    @property
    def topic(self) -> str | None:
        """The private topic on which changes are broadcast; None: they are received by bindings."""
        return None

    @property
    def next_audit(self) -> float | None:
        """Monotonic time of the next audit; None if there is none."""
        return self._audits.at if self._confirmed and self._audits.at != NEVER else None

    @property
    def reported_reason(self) -> str:
        """The reason for the status."""
        return self._reported_reason

    @property
    def missing(self) -> bool:
        """Whether changes were lost although they are followed, and are being read."""
        return self._missed and self._confirmed and self.status == "stale"

    def arriving(self, now: float) -> bool:
        """Whether changes may be followed soon: the machine just started, and nothing was refused."""
        followed = self.status in ("live", "error", "closed")
        refused = self._turned_away or self._flows.failing is not None
        return not followed and not refused and now < self._patience_ends

    @property
    def doubt(self) -> str:
        """Why the rows may be wrong although changes flow, until the next audit; empty without a reason."""
        return self._audits.doubt or self._silence

    @property
    def _silence(self) -> str:
        """A text about a request that has had no answer for a long time; else empty."""
        if self._now < self._silent_at:
            return ""
        if self._flows.failing is not None:
            return f"reads from the server have failed for {UNANSWERED:g} s or more"
        return f"the server has not answered for {UNANSWERED:g} s or more"

    @property
    def _silent_at(self) -> float:
        """The time at which a request counts as unanswered; infinite without open requests."""
        since = self._flows.unanswered_since
        return float("inf") if since is None else since + UNANSWERED

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Process an event at monotonic ``now`` (seconds) and return the effects."""
        self._out = []
        if self._closed or (self._failed is not None and not isinstance(event, Closed)):
            return []
        self._now = self._horizon.now = now
        if not self._begun:
            self._begun = True
            self._patience_ends = now + JOIN_PATIENCE
            self._begin()
        self._take(event)
        if self._failed is None and not self._closed:
            self._start_what_is_due()
            self._judge()
            times = [*self._waits(), self._silent_at if self._silent_at > now else None]
            due = [at for at in times if at is not None and abs(at) != float("inf")]
            if due:
                self._emit(Wake(max(min(due), now)))
        self._horizon.forget(now, reads_out=bool(self._flows))
        return self._out

    # To be implemented ----------------------------------------------------------------------------

    @property
    @abstractmethod
    def _shows(self) -> bool:
        """Whether rows are shown already."""

    @abstractmethod
    def _begin(self) -> None:
        """Start the first flow."""

    @abstractmethod
    def _receive(self, changes: Sequence[Change]) -> None:
        """Process received changes."""

    @abstractmethod
    def _note_gap(self) -> None:
        """Invalidate reads made before now."""

    @abstractmethod
    def _refused_for_good(self, error: Exception) -> None:
        """Handle that Realtime will never stream this."""

    @abstractmethod
    def _start_what_is_due(self) -> None:
        """Start the flow that is due now."""

    @abstractmethod
    def _judge(self) -> None:
        """Set the status."""

    @abstractmethod
    def _waits(self) -> Sequence[float | None]:
        """Return the times at which something is due."""

    # Events ---------------------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        match event:
            case Received(change):
                self._receive([change])
            case ReceivedMany(changes):
                self._receive(changes)
            case Fetched():
                self._flows.fetched(event)
            case FetchFailed():
                self._flows.failed(event, self._now)
            case Tick():
                self._flows.tick(self._now)
            case Joined():
                self._confirmed = False
            case Confirmed():
                if not self._confirmed:
                    self._audits.resumed(self._now)
                self._confirmed = True
                self._flows.retry_now()
                self._flows.tick(self._now)
                reason = "live updates have begun; what came before them is compared"
                self._open_gap(reason, missed=False)
            case Lost(reason):
                self._leave_stream(reason)
            case Refused(error, final):
                self._turned_away = True
                if final:
                    self._refused_for_good(error)
                else:
                    self._leave_stream(str(error))
            case Gap(reason, missed):
                self._open_gap(reason, missed)
            case Broken(error):
                self._fail(error)
            case AuditNow():
                self._audits.ask(self._now)
            case Hint(reason):
                self._audits.hint(self._now, reason)
            case Closed():
                self._flows.stop_all()
                self._set_status("closed", "closed")
                self._closed = True

    def _open_gap(self, reason: str, missed: bool = True) -> None:
        self._gap_reason = reason
        self._missed = missed
        self._note_gap()
        if self._shows:
            self._emit(Logged("gap", {"reason": reason}))

    def _leave_stream(self, reason: str) -> None:
        self._confirmed = False
        self._open_gap(reason, missed=False)
        self._poll_every = self.poll_every = self.options.poll_interval
        self._poll_at = self._now

    @property
    def _has_lost(self) -> bool:
        """Return whether the stream was lost, if no rows are shown yet."""
        return self._poll_at != float("inf")

    def _slow_down(self, changed: bool) -> None:
        """Poll less often while polls find nothing."""
        grown = min(self._poll_every * POLL_GROWTH, self.options.poll_max)
        self._poll_every = self.options.poll_interval if changed else grown

    def _next_poll(self, took: float, share: float = POLL_SHARE) -> float:
        """Schedule the next poll after a read of this duration."""
        self.poll_every = max(self._poll_every, took / share)
        return self._now + self.poll_every

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self._failed = error
            self._flows.stop_all()
            self._emit(Failed(error))
            self._set_status("error", str(error))

    def _set_status(self, status: Status, reason: str) -> None:
        if (status, reason) != (self.status, self._reported_reason):
            self.status, self._reported_reason = status, reason
            self._emit(StatusChanged(status, reason))

    def _emit(self, effect: Effect) -> None:
        self._out.append(effect)
