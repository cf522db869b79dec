"""The connection's state machine: when to open a socket, when to wait, when to consider it dead. Pure.

``handle(event, now, wall)`` takes an event and the time, and returns effects, which ``net/supervisor.py``
carries out. There are four states. Backoff doubles from ``backoff_base`` to ``backoff_max`` with jitter;
after ``max_retries`` attempts there is one every ``retry_anyway`` seconds. The backoff starts from zero
when the network is back, a tab becomes visible, or the user asks. Heartbeats have a ref; silence and a
machine that slept are detected.

A heartbeat is due ``heartbeat_interval`` after the last one, or after ``silence_after`` without a frame.
An answer that is later than usual on this connection is reported (``Silence``), long before the socket is
given up.

Each socket has a number. Events of a socket that is not the current one are ignored, so there are never
two sockets or two heartbeats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from notebook_rt.model.classify import ErrorClass
from notebook_rt.options import Options

State: TypeAlias = Literal["disconnected", "connecting", "connected", "reconnecting"]

SHORT_LIVED: Final = 10.0
"""Seconds for which a socket must live to reset the backoff: a server that accepts and hangs up at once
must not be flooded."""

LAST_LOOK: Final = 0.5
"""Seconds, or half of ``stale_check``, between finding a socket overdue and giving it up. A process
that was blocked (a cell that did not release the GIL) finds the socket overdue before it has read the
answer in the kernel's buffer."""

KNOWN: Final = 16
"""Number of heartbeat answers that define the usual delay. A single much later one among them is
ignored: a connection that recovered from a silence is not slow from then on."""
USUAL: Final = 2.0
"""The factor: an answer is late after this many times the slowest of the counted answers."""
QUICK: Final = 2.0
"""Seconds within which no answer is late, however fast the others were."""
UNKNOWN: Final = 5.0
"""Seconds after which the first answer of a connection is late."""
AGAIN: Final = 1.0
"""Seconds between two reports of a continuing silence."""

SLEPT: Final = 30.0
"""Seconds by which the wall clock must gain on the monotonic one to indicate that the machine slept."""

# Events ---------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    """A connection is wanted."""


class Stop(msgspec.Struct, frozen=True):
    """No connection is wanted any more."""


class Opened(msgspec.Struct, frozen=True):
    socket: int


class OpenFailed(msgspec.Struct, frozen=True):
    socket: int
    why: ErrorClass
    reason: str


class SocketClosed(msgspec.Struct, frozen=True):
    """The socket is gone: closed by one side (``code``), or by the network (None, 1006)."""

    socket: int
    code: int | None
    reason: str = ""
    here: bool = False
    """Whether this side closed it because of what the server sent."""


class Heard(msgspec.Struct, frozen=True):
    """A frame arrived; ``answer`` is the ref of the heartbeat that it answers, if any."""

    socket: int
    answer: str | None = None


class Retry(msgspec.Struct, frozen=True):
    """Retry now, with the backoff reset."""

    cause: Literal["network", "visible", "user", "token"]


class Tick(msgspec.Struct, frozen=True):
    """The time requested by ``WakeAt`` has come (an early tick does no harm)."""


Event: TypeAlias = Start | Stop | Opened | OpenFailed | SocketClosed | Heard | Retry | Tick

# Effects --------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True):
    socket: int


class Close(msgspec.Struct, frozen=True):
    """Close this socket, or stop opening it, without waiting for an answer."""

    socket: int
    reason: str


class Beat(msgspec.Struct, frozen=True):
    socket: int
    ref: str


class RefreshToken(msgspec.Struct, frozen=True):
    """The server refused the token; a new one is announced by ``Retry("token")``."""


class StateChanged(msgspec.Struct, frozen=True):
    state: State
    reason: str


class Latency(msgspec.Struct, frozen=True):
    seconds: float


class Silence(msgspec.Struct, frozen=True):
    """``Supervisor.silent`` is true, sent repeatedly; or it is no longer true."""


class WakeAt(msgspec.Struct, frozen=True):
    """Send a ``Tick`` at this monotonic time; replaces an earlier request."""

    at: float


Effect: TypeAlias = Open | Close | Beat | RefreshToken | StateChanged | Latency | Silence | WakeAt


class Supervisor:
    """The state machine. ``random`` returns numbers in [0, 1) for the jitter."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self.options = options
        self.random = random
        self.state: State = "disconnected"
        self.reason = "not started"
        self.socket: int | None = None
        """The current socket, opening or open."""
        self.retries = 0
        """Failed attempts since the last success."""
        self.next_try: float | None = None
        """When the next attempt is due, between two attempts."""
        self.opened_at: float | None = None
        self.received_at = 0.0
        self.beat_due = 0.0
        self.beat_ref: str | None = None
        """The ref of the unanswered heartbeat."""
        self.beat_sent = 0.0
        self.silent = False
        """Whether no frame has arrived and an answer is later than usual on this connection."""
        self._late_from: float | None = None
        """When that was first detected."""
        self._latencies: deque[float] = deque(maxlen=KNOWN)
        self.give_up_at: float | None = None
        """When an overdue socket is given up, unless a frame arrives before."""
        self.tries = 0
        """Number of sockets opened or attempted."""
        self._wanted = False
        self._beats = 0
        self._refreshed = False
        self._ahead: float | None = None
        """Wall clock minus monotonic clock; it jumps when the machine slept."""
        self._effects: list[Effect] = []

    @property
    def open(self) -> bool:
        return self.opened_at is not None

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        """Handle one event; ``now`` is in monotonic seconds, ``wall`` in seconds since the epoch."""
        self._effects = []
        if self._slept(now, wall) and self._wanted:
            self._drop("the machine slept")
            self._from_zero(now, "the machine slept")
        match event:
            case Start():
                if not self._wanted:
                    self._wanted = True
                    self._from_zero(now, "starting", "connecting")
            case Stop():
                self._wanted = False
                self._drop("closed here")
                self.next_try = None
                self._go("disconnected", "closed here")
            case Opened(socket) if socket == self.socket and not self.open:
                self.opened_at = self.received_at = self.beat_due = now
                self._latencies.clear()  # possibly another route to the server
                self._go("connected", "connected")
                self._beat_or_bury(now)
            case OpenFailed(socket, why, reason) if socket == self.socket and not self.open:
                self.socket = None
                self._failed(now, why, reason)
            case SocketClosed(socket, code, reason, here) if socket == self.socket and self.open:
                by = "here" if here else "by the server"
                said = f"closed {by} ({code})" if code not in (None, 1006) else "lost"
                self._lost(now, f"connection {said}{': ' if reason else ''}{reason}")
            case Heard(socket, answer) if socket == self.socket and self.open:
                self.received_at = now
                if answer is not None and answer == self.beat_ref:
                    self.beat_ref = None
                    self._latencies.append(now - self.beat_sent)
                    self._effects.append(Latency(now - self.beat_sent))
            case Retry(cause):
                self._retry(now, cause)
            case _:
                pass
        if self.open:
            self._beat_or_bury(now)
            self._check_answer_time(now)
        if self.next_try is not None and now >= self.next_try:
            self._try_now()
        self._wake(now)
        return self._effects

    # Time

    def _slept(self, now: float, wall: float) -> bool:
        ahead = wall - now
        before, self._ahead = self._ahead, ahead
        return before is not None and ahead - before > SLEPT

    def _beat_or_bury(self, now: float) -> None:
        """Send a due heartbeat; give up a socket that does not answer."""
        why = self._overdue(now)
        if why is not None:
            if self.give_up_at is None:
                self.give_up_at = now + min(LAST_LOOK, self.options.stale_check / 2)
            elif now >= self.give_up_at:
                self._lost(now, why)
            return
        self.give_up_at = None
        if self.beat_ref is None and now >= self._beat_at and self.socket is not None:
            self._beats += 1
            self.beat_ref = f"hb{self._beats}"
            self.beat_sent = now
            self.beat_due = now + self.options.heartbeat_interval
            self._effects.append(Beat(self.socket, self.beat_ref))

    @property
    def _beat_at(self) -> float:
        """Return when the next heartbeat is due."""
        return min(
            self.beat_due, max(self.beat_sent, self.received_at) + self.options.silence_after
        )

    @property
    def patience(self) -> float:
        """Seconds within which an answer usually arrives on this connection."""
        known = sorted(self._latencies)
        usual = max(QUICK, USUAL * known[max(0, len(known) - 2)]) if known else UNKNOWN
        return min(usual, self.options.heartbeat_timeout)

    def _check_answer_time(self, now: float) -> None:
        """Report a late answer, after a second check, as for an overdue socket."""
        was = self.silent
        if self.beat_ref is None or now < self._late_at:
            self._late_from, self.silent = None, False
        elif self._late_from is None:
            self._late_from = now
        else:
            self.silent = self.silent or now >= self._late_from + LAST_LOOK
        if self.silent or was:
            self._effects.append(Silence())

    @property
    def _late_at(self) -> float:
        """When the answer to the last heartbeat becomes late, unless a frame arrives before."""
        return max(self.beat_sent, self.received_at) + self.patience

    def _overdue(self, now: float) -> str | None:
        """Return why the socket seems dead; None: it is alive.

        Any frame is a sign of life: in a flood, a heartbeat's answer comes after it. Frames alone do
        not suffice forever, because they do not show that this side can send. Silence needs no separate
        rule: a heartbeat ends it in less than ``stale_after``.
        """
        if self.beat_ref is None or now < self._answer_due:
            return None
        return f"no answer to a heartbeat for {now - self.beat_sent:.0f} s"

    @property
    def _answer_due(self) -> float:
        answered_by = max(self.beat_sent, self.received_at) + self.options.heartbeat_timeout
        return min(answered_by, self.beat_sent + self.options.stale_after)

    def _wake(self, now: float) -> None:
        options = self.options
        if self.open:
            due = self._beat_at if self.beat_ref is None else self._answer_due
            if self.give_up_at is not None:
                due = self.give_up_at
            elif self.silent:
                due = min(due, now + AGAIN)
            elif self._late_from is not None:
                due = min(due, self._late_from + LAST_LOOK)
            elif self.beat_ref is not None:
                due = min(due, self._late_at)
            self._effects.append(WakeAt(min(due, now + options.stale_check)))
        elif self.next_try is not None:
            # Checked in between as well: only the clocks reveal that the machine slept.
            self._effects.append(WakeAt(min(self.next_try, now + options.stale_check)))

    # Loss and recovery

    def _drop(self, reason: str) -> None:
        if self.socket is not None:
            self._effects.append(Close(self.socket, reason))
        self.socket = None
        self._forget()

    def _forget(self) -> None:
        self.opened_at = self.beat_ref = self.give_up_at = self._late_from = None
        self.silent = False

    def _lost(self, now: float, reason: str) -> None:
        if self.opened_at is not None and now - self.opened_at >= SHORT_LIVED:
            self.retries = 0
            self._refreshed = False
        self._drop(reason)
        self._failed(now, ErrorClass("network", None), reason)

    def _failed(self, now: float, why: ErrorClass, reason: str) -> None:
        self._forget()
        options = self.options
        if why.kind == "auth" and not self._refreshed:
            self._refreshed = True
            self._effects.append(RefreshToken())
        self.retries += 1
        if self.retries > options.max_retries:
            self.next_try = now + options.retry_anyway
            self._go("disconnected", reason)
            return
        wait = min(options.backoff_base * 2.0 ** (self.retries - 1), options.backoff_max)
        wait *= 1.0 + options.jitter * self.random()
        if why.kind in ("rate_limit", "server") and why.wait is not None:
            wait = max(wait, why.wait)
        self.next_try = now + wait
        self._go("reconnecting", reason)

    def _retry(self, now: float, cause: str) -> None:
        if not self._wanted:
            return
        self.retries = 0
        if cause in ("user", "token"):
            self._refreshed = cause == "token"
        if self.socket is None:
            self._from_zero(now, f"trying again ({cause})")
        elif self.open and self.beat_ref is None:
            self.beat_due = now  # check at once whether it is alive

    def _from_zero(self, now: float, reason: str, state: State = "reconnecting") -> None:
        self.retries = 0
        self.next_try = now
        self._go(state, reason)

    def _try_now(self) -> None:
        self.tries += 1
        self.socket = self.tries
        self.next_try = None
        if self.state == "disconnected":
            self._go("reconnecting", self.reason)
        self._effects.append(Open(self.socket))

    def _go(self, state: State, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._effects.append(StateChanged(state, reason))
