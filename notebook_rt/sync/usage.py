"""Count a session's traffic per hour, project it to a month, and find the limits that are near. Pure.

In: sizes and times. Out: numbers and sentences. An hour is stored as ticks of 5 s, each of a few numbers,
so memory is bounded. The limits are those that Supabase publishes (``guides/realtime/limits``); they apply
to a whole project, of which a session sees only its own part.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal, TypeAlias

import msgspec

Purpose: TypeAlias = Literal["read", "audit", "poll", "heads"]
"""The purpose of an HTTP request. ``heads`` asks whether messages of the database were lost; ``read`` are all
others."""

Counts: TypeAlias = Literal["nothing", "message", "presence"]
"""The limits that a frame counts toward: none; the plan's messages; these and its presence messages."""

TICK: Final = 5.0
"""Seconds over which the server averages the message rate, and the step of the sliding hour."""
TICKS: Final = 720
"""Ticks in an hour."""
PEAK_TICKS: Final = 12
"""Past ticks among which the highest rate is taken: the server's window of 60 s."""
MONTH_HOURS: Final = 720
"""Hours in a month of 30 days."""
NEAR: Final = 0.8
"""The share of a limit above which the session warns."""
TELL_AGAIN: Final = 3600.0
"""Seconds until a warning that still holds is repeated."""

CHANNELS: Final = 100
"""Channels of one connection, on every plan."""
PRESENCE_CALLS: Final = 5
"""Presence calls of one client in ``PRESENCE_WINDOW``, on every plan."""
PRESENCE_WINDOW: Final = 30.0
"""Seconds."""


class Plan(msgspec.Struct, frozen=True):
    """The limits of a plan, as far as they are published."""

    name: str
    messages_per_second: float
    presence_per_second: float
    """Presence messages, which also count as messages."""
    messages_per_month: int


PLANS: Final = {
    "free": Plan("free", 100.0, 20.0, 2_000_000),
    "pro": Plan("pro", 500.0, 50.0, 5_000_000),
    "uncapped": Plan("uncapped pro", 2_500.0, 1_000.0, 5_000_000),
}


class Hour(msgspec.Struct, frozen=True):
    """The traffic of the last hour."""

    messages: int
    """Messages delivered to this session: changes, broadcasts, presence. Each counts toward the month."""
    sent: int
    """Broadcasts and presence calls sent over the socket."""
    bytes_in: int
    bytes_out: int
    """Bytes over the socket and HTTP, bodies only."""
    requests: int
    """Requests over HTTP."""
    http: dict[Purpose, int]
    """Bytes received over HTTP, by purpose."""
    peak: float
    """Messages per second, received and sent, in the busiest tick of the last minute."""
    presence_peak: float
    """Presence messages per second, received and sent, in the busiest tick of the last minute."""

    @property
    def month(self) -> int:
        """Messages in a month of such hours."""
        return self.messages * MONTH_HOURS

    def share(self, purpose: Purpose) -> float | None:
        """Return the share of ``purpose`` (0 to 1) in the bytes received over HTTP; None without any."""
        total = sum(self.http.values())
        return self.http[purpose] / total if total else None


Limit: TypeAlias = Literal["rate", "presence_rate", "month", "channels", "presence"]


class Near(msgspec.Struct, frozen=True):
    """A limit of which more than the share ``NEAR`` is used."""

    limit: Limit
    text: str
    """A line for the user: the limit, the usage, and whether it is near or exceeded."""
    over: bool
    """Whether it is exceeded."""


class _Tick:
    """The counts of one tick."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "http",
        "messages",
        "number",
        "presence",
        "requests",
        "sent",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages = 0
        self.sent = 0
        self.presence = 0
        """The presence messages among ``messages`` and ``sent``."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests = 0
        self.http: dict[Purpose, int] = {"read": 0, "audit": 0, "poll": 0, "heads": 0}


class Usage:
    """Counts the traffic of a session. ``now`` is in monotonic seconds and never decreases."""

    def __init__(self, plan: str | None) -> None:
        self.plan = None if plan is None else PLANS[plan]
        self._ticks: deque[_Tick] = deque(maxlen=TICKS)
        self._tick = _Tick(-1)
        self._ends = float("-inf")
        """The end of the current tick."""
        never = float("inf")
        rate = never if self.plan is None else self.plan.messages_per_second
        presence = never if self.plan is None else self.plan.presence_per_second
        self._near_rate, self._near_presence = NEAR * rate * TICK, NEAR * presence * TICK
        """Messages and presence messages per tick above which the rate is near its limit."""
        self._last_reported: dict[tuple[Limit, bool], float] = {}
        """The time of each last warning, for limits that are near and for limits that are exceeded."""

    def received(self, size: int, counts: Counts, now: float) -> bool:
        """Count a received frame of ``size`` bytes.

        Return True for the message that brings a rate near its limit: ``due`` has news.
        """
        tick = self._tick if now < self._ends else self._begin(now)
        tick.bytes_in += size
        if counts == "nothing":
            return False
        tick.messages += 1
        return self._update_limits(tick, counts)

    def sent(self, size: int, counts: Counts, now: float) -> bool:
        """Count a sent frame, as ``received`` does."""
        tick = self._tick if now < self._ends else self._begin(now)
        tick.bytes_out += size
        if counts == "nothing":
            return False
        tick.sent += 1
        return self._update_limits(tick, counts)

    def requested(self, purpose: Purpose, bytes_in: int, bytes_out: int, now: float) -> None:
        """Count an HTTP request and its answer."""
        tick = self._tick if now < self._ends else self._begin(now)
        tick.requests += 1
        tick.http[purpose] += bytes_in
        tick.bytes_in += bytes_in
        tick.bytes_out += bytes_out

    def hour(self, now: float) -> Hour:
        """Return the last hour, exact to a tick; from any thread."""
        number = int(now // TICK)
        ticks = [tick for tick in list(self._ticks) if tick.number > number - TICKS]
        lately = [tick for tick in ticks if tick.number >= number - PEAK_TICKS]
        purposes: tuple[Purpose, ...] = ("read", "audit", "poll", "heads")
        return Hour(
            messages=sum(tick.messages for tick in ticks),
            sent=sum(tick.sent for tick in ticks),
            bytes_in=sum(tick.bytes_in for tick in ticks),
            bytes_out=sum(tick.bytes_out for tick in ticks),
            requests=sum(tick.requests for tick in ticks),
            http={name: sum(tick.http[name] for tick in ticks) for name in purposes},
            peak=max((tick.messages + tick.sent for tick in lately), default=0) / TICK,
            presence_peak=max((tick.presence for tick in lately), default=0) / TICK,
        )

    def near(self, hour: Hour, channels: int, presence_calls: int) -> list[Near]:
        """Return the limits of which more than the share ``NEAR`` is used.

        Parameters
        ----------
        channels : int
            Number of channels of the connection.
        presence_calls : int
            Presence calls within the last ``PRESENCE_WINDOW``, on the channel with the most.
        """
        plan, found = self.plan, list[Near]()

        def measure(limit: Limit, used: float, most: float, text: str) -> None:
            if used > NEAR * most:
                over = used > most
                found.append(Near(limit, f"{'Over' if over else 'Near'} a limit: {text}", over))

        if plan is not None:
            most = plan.messages_per_second
            text = (
                f"{hour.peak:,.0f} messages a second; the {plan.name} plan allows {most:,.0f} a "
                "second, and above it the server drops changes."
            )
            measure("rate", hour.peak, most, text)
            most = plan.presence_per_second
            text = (
                f"{hour.presence_peak:,.0f} presence messages a second; the {plan.name} plan allows "
                f"{most:,.0f} a second, and above it the server closes channels."
            )
            measure("presence_rate", hour.presence_peak, most, text)
            text = (
                f"{hour.messages:,} messages this hour are {amount(hour.month)} a month; the "
                f"{plan.name} plan includes {amount(plan.messages_per_month)}."
            )
            measure("month", hour.month, plan.messages_per_month, text)
        text = f"{channels:,} channels are open; a connection may have {CHANNELS}."
        measure("channels", channels, CHANNELS, text)
        text = (
            f"{presence_calls} presence calls in {PRESENCE_WINDOW:.0f} s; the server allows "
            f"{PRESENCE_CALLS} on a channel."
        )
        measure("presence", presence_calls, PRESENCE_CALLS, text)
        return found

    def due(self, near: list[Near], now: float) -> list[Near]:
        """Return the limits of ``near`` to warn of now: each at most once an hour, and once more when it is
        exceeded.
        """
        never = float("-inf")
        due = [
            n for n in near if now - self._last_reported.get((n.limit, n.over), never) >= TELL_AGAIN
        ]
        self._last_reported.update({(each.limit, each.over): now for each in due})
        return due

    def sentence(self, hour: Hour) -> str:
        """Return the hour and its month in one sentence."""
        messages = f"{hour.messages:,} message{'s'[: hour.messages != 1]} this hour"
        if not hour.messages:
            return "No messages this hour."
        month = f"about {amount(hour.month)} a month at this rate"
        plan = self.plan
        if plan is None:
            return f"{messages}: {month}."
        return (
            f"{messages}: {month}; the {plan.name} plan includes {amount(plan.messages_per_month)}."
        )

    def _begin(self, now: float) -> _Tick:
        number = int(now // TICK)
        self._tick, self._ends = _Tick(number), (number + 1) * TICK
        self._ticks.append(self._tick)
        return self._tick

    def _update_limits(self, tick: _Tick, counts: Counts) -> bool:
        count = tick.messages + tick.sent
        near = count > self._near_rate >= count - 1
        if counts == "presence":
            tick.presence += 1
            near |= tick.presence > self._near_presence >= tick.presence - 1
        return near


def amount(count: int) -> str:
    """Format a number of messages.

    >>> amount(720), amount(43_200), amount(892_800), amount(2_000_000)
    ('720', '43,200', '0.9 M', '2 M')
    """
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f}".removesuffix(".0") + " M"
