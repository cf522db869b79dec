"""The connection's state machine: when to open a socket, when to wait, when to call it dead.

Pure, as the mirror is: ``handle(event, now, wall)`` takes what happened and the time, and returns
what to do. ``net/supervisor.py`` does it. It keeps the design's section 5: four states, backoff
from ``backoff_base`` doubled to ``backoff_max`` with jitter, ``max_retries`` tries and then one
every ``retry_anyway`` seconds, retries from zero when the network is back, a tab becomes visible
or the user asks, heartbeats with a ref, silence, and a machine that slept.

A heartbeat is due ``heartbeat_interval`` after the last one, and as soon as nothing has come for
``silence_after``. An answer that is later than is usual on this connection is told (``Silence``), long
before the socket is given up for it.

Each socket has a number. What is said about a socket that is not the current one is ignored, so
there are never two, nor two heartbeats.
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
"""A socket that lived less than so many seconds does not start the backoff from zero: a server
that accepts and hangs up at once must not be hammered."""

LAST_LOOK: Final = 0.5
"""Seconds, or half of ``stale_check``, between finding a socket overdue and giving it up. A process
that was held up (a cell that never released the GIL) finds it overdue before it has read the answer
that lies in the kernel's buffer."""

KNOWN: Final = 16
"""Answers to heartbeats that say what is usual. One of them that was much later than the others does not
count: a connection that came back from silence is not slow from then on."""
USUAL: Final = 2.0
"""Times as long as the slowest of the answers that count: later than that is not usual."""
QUICK: Final = 2.0
"""Seconds within which no answer is late, however quick the others were."""
UNKNOWN: Final = 5.0
"""Seconds after which the first answer is late."""
AGAIN: Final = 1.0
"""Seconds between two words of a silence that goes on."""

SLEPT: Final = 30.0
"""A wall clock that ran so many seconds further than the monotonic one means a machine that slept."""

# Events ---------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True):
    """Somebody wants to be connected."""


class Stop(msgspec.Struct, frozen=True):
    """Nobody does any more."""


class Opened(msgspec.Struct, frozen=True):
    socket: int


class OpenFailed(msgspec.Struct, frozen=True):
    socket: int
    why: ErrorClass
    reason: str


class SocketClosed(msgspec.Struct, frozen=True):
    """The socket is gone: closed by a side (``code``), or by the network (None, 1006)."""

    socket: int
    code: int | None
    reason: str = ""
    here: bool = False
    """Whether it was closed here, for what the server sent."""


class Heard(msgspec.Struct, frozen=True):
    """A frame came; ``answer`` is the ref of the heartbeat it answers, if it does."""

    socket: int
    answer: str | None = None


class Retry(msgspec.Struct, frozen=True):
    """Try now, and from zero."""

    cause: Literal["network", "visible", "user", "token"]


class Tick(msgspec.Struct, frozen=True):
    """The time asked for by ``WakeAt`` has come (an early tick does no harm)."""


Event: TypeAlias = Start | Stop | Opened | OpenFailed | SocketClosed | Heard | Retry | Tick

# Effects --------------------------------------------------------------------------------------


class Open(msgspec.Struct, frozen=True):
    socket: int


class Close(msgspec.Struct, frozen=True):
    """Close this socket, or give up opening it; no answer is waited for."""

    socket: int
    reason: str


class Beat(msgspec.Struct, frozen=True):
    socket: int
    ref: str


class RefreshToken(msgspec.Struct, frozen=True):
    """The server refused the token; a new one is told by ``Retry("token")``."""


class StateChanged(msgspec.Struct, frozen=True):
    state: State
    reason: str


class Latency(msgspec.Struct, frozen=True):
    seconds: float


class Silence(msgspec.Struct, frozen=True):
    """``Supervisor.silent`` holds, told again and again; or does not any more."""


class WakeAt(msgspec.Struct, frozen=True):
    """Send a ``Tick`` at this monotonic time; replaces the one asked for before."""

    at: float


Effect: TypeAlias = Open | Close | Beat | RefreshToken | StateChanged | Latency | Silence | WakeAt


class Supervisor:
    """The machine. ``random`` gives numbers in [0, 1) for the jitter."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self.options = options
        self.random = random
        self.state: State = "disconnected"
        self.reason = "not started"
        self.socket: int | None = None
        """The current socket, opening or open."""
        self.retries = 0
        """Tries that failed since the last time it went well."""
        self.next_try: float | None = None
        """When the next try is due, while between two."""
        self.opened_at: float | None = None
        self.received_at = 0.0
        self.beat_due = 0.0
        self.beat_ref: str | None = None
        """The heartbeat that waits for its answer."""
        self.beat_sent = 0.0
        self.silent = False
        """Whether nothing has come, and an answer is later than is usual on this connection."""
        self._late_from: float | None = None
        """When that was seen first."""
        self._latencies: deque[float] = deque(maxlen=KNOWN)
        self.give_up_at: float | None = None
        """When a socket that is overdue is given up, unless a frame comes until then."""
        self.tries = 0
        """Sockets opened, or tried to."""
        self._wanted = False
        self._beats = 0
        self._refreshed = False
        self._ahead: float | None = None
        """Wall clock minus monotonic clock: jumps when the machine slept."""
        self._effects: list[Effect] = []

    @property
    def open(self) -> bool:
        return self.opened_at is not None

    def handle(self, event: Event, now: float, wall: float) -> list[Effect]:
        """Take one event; ``now`` is monotonic seconds, ``wall`` seconds since the epoch."""
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
                self._latencies.clear()  # another way to the server, perhaps
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

    # What time does

    def _slept(self, now: float, wall: float) -> bool:
        ahead = wall - now
        before, self._ahead = self._ahead, ahead
        return before is not None and ahead - before > SLEPT

    def _beat_or_bury(self, now: float) -> None:
        """Send the heartbeat that is due; give up a socket that does not answer."""
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
        """When the next heartbeat is due."""
        return min(
            self.beat_due, max(self.beat_sent, self.received_at) + self.options.silence_after
        )

    @property
    def patience(self) -> float:
        """Seconds within which an answer comes, as far as this connection is known."""
        known = sorted(self._latencies)
        usual = max(QUICK, USUAL * known[max(0, len(known) - 2)]) if known else UNKNOWN
        return min(usual, self.options.heartbeat_timeout)

    def _check_answer_time(self, now: float) -> None:
        """Tell of an answer that is late. As with a socket that is overdue, a second look comes first."""
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
        """When the answer to the last heartbeat is later than usual, unless a frame comes until then."""
        return max(self.beat_sent, self.received_at) + self.patience

    def _overdue(self, now: float) -> str | None:
        """Why the socket seems dead; None: it is alive.

        Any frame is a sign of life: in a flood, a heartbeat's answer comes behind it. Frames alone
        are not enough for ever, since they do not show that anything leaves here. Silence needs no
        rule of its own: a heartbeat breaks it in less than ``stale_after``.
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
            # Looked at in between as well: a slept machine is found by the clocks only.
            self._effects.append(WakeAt(min(self.next_try, now + options.stale_check)))

    # Losing and coming back

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
            self.beat_due = now  # is it really alive? ask now

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
