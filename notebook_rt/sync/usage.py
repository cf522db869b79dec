"""What a session receives and sends in an hour, what that is in a month, and which limits are near.

Pure: sizes and times go in, numbers and sentences come out. An hour is kept as ticks of 5 s, each
eight numbers, so memory is bounded. The limits are those that Supabase publishes
(``guides/realtime/limits``); they hold for a whole project, of which a session sees its own part.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Purpose: TypeAlias = Literal["read", "audit", "poll"]
"""What a request over HTTP is for; ``read`` is everything that is neither an audit nor a poll."""

TICK: Final = 5.0
"""Seconds over which the server averages the rate of messages, and the step of the sliding hour."""
TICKS: Final = 720
"""Ticks in an hour."""
PEAK_TICKS: Final = 12
"""Ticks before the present one in which the highest rate is looked for: the server's window of 60 s."""
MONTH_HOURS: Final = 720
"""Hours in a month of 30 days."""
NEAR: Final = 0.8
"""Above this share of a limit the session warns."""
TELL_AGAIN: Final = 3600.0
"""Seconds until a warning that still holds is told again."""

CHANNELS: Final = 100
"""Channels of one connection, on every plan."""
PRESENCE_CALLS: Final = 5
"""Presence calls of one client in ``PRESENCE_WINDOW``, on every plan."""
PRESENCE_WINDOW: Final = 30.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The limits of a plan, as far as they are published."""

    name: str
    messages_per_second: float
    messages_per_month: int | None
    """None: not known."""


PLANS: Final = {"free": Plan("free", 100.0, 2_000_000), "pro": Plan("pro", 500.0, None)}


@dataclass(frozen=True, slots=True)
class Hour:
    """What the last hour had."""

    messages: int
    """Delivered to this session: changes, broadcasts, presence. Each counts toward the month."""
    sent: int
    """Broadcasts and presence calls that the session sent over the socket."""
    bytes_in: int
    bytes_out: int
    """Over the socket and HTTP, bodies only."""
    http: dict[Purpose, int]
    """Bytes received over HTTP, by purpose."""
    peak: float
    """Messages a second, received and sent, in the busiest tick of the last minute."""

    @property
    def month(self) -> int:
        """Messages in a month of hours like this one."""
        return self.messages * MONTH_HOURS

    def share(self, purpose: Purpose) -> float | None:
        """The part of ``purpose`` in what came over HTTP, from 0 to 1; None where nothing came."""
        total = sum(self.http.values())
        return self.http[purpose] / total if total else None


@dataclass(frozen=True, slots=True)
class Near:
    """A limit of which more than ``NEAR`` is used."""

    limit: Literal["rate", "month", "channels", "presence"]
    text: str
    """One sentence for the user."""


class _Tick:
    """The counts of one tick."""

    __slots__ = ("bytes_in", "bytes_out", "http", "messages", "number", "sent")

    def __init__(self, number: int) -> None:
        self.number = number
        self.messages = 0
        self.sent = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.http: dict[Purpose, int] = {"read": 0, "audit": 0, "poll": 0}


class Usage:
    """Counts the traffic of a session. ``now`` is in monotonic seconds and never goes back."""

    def __init__(self, plan: str | None) -> None:
        self.plan = None if plan is None else PLANS[plan]
        self._ticks: deque[_Tick] = deque(maxlen=TICKS)
        self._tick = _Tick(-1)
        self._ends = float("-inf")
        """When the present tick is over."""
        rate = float("inf") if self.plan is None else self.plan.messages_per_second
        self._near_rate = NEAR * rate * TICK
        """Messages in a tick above which the rate is near its limit."""
        self._told: dict[str, float] = {}
        """When each warning was told last."""

    def received(self, size: int, message: bool, now: float) -> bool:
        """Count a frame of ``size`` bytes; ``message``: it counts toward the limits.

        True with the message that brings the rate near its limit: look at ``due`` now.
        """
        tick = self._tick if now < self._ends else self._begin(now)
        tick.bytes_in += size
        if not message:
            return False
        tick.messages += 1
        return self._came_near(tick)

    def sent(self, size: int, message: bool, now: float) -> bool:
        """Count a frame that was sent, as ``received`` does."""
        tick = self._tick if now < self._ends else self._begin(now)
        tick.bytes_out += size
        if not message:
            return False
        tick.sent += 1
        return self._came_near(tick)

    def requested(self, purpose: Purpose, bytes_in: int, bytes_out: int, now: float) -> None:
        """Count a request over HTTP and its answer."""
        tick = self._tick if now < self._ends else self._begin(now)
        tick.http[purpose] += bytes_in
        tick.bytes_in += bytes_in
        tick.bytes_out += bytes_out

    def hour(self, now: float) -> Hour:
        """The last hour, to the tick; from any thread."""
        number = int(now // TICK)
        ticks = [tick for tick in tuple(self._ticks) if tick.number > number - TICKS]
        lately = (t.messages + t.sent for t in ticks if t.number >= number - PEAK_TICKS)
        purposes: tuple[Purpose, ...] = ("read", "audit", "poll")
        return Hour(
            messages=sum(tick.messages for tick in ticks),
            sent=sum(tick.sent for tick in ticks),
            bytes_in=sum(tick.bytes_in for tick in ticks),
            bytes_out=sum(tick.bytes_out for tick in ticks),
            http={name: sum(tick.http[name] for tick in ticks) for name in purposes},
            peak=max(lately, default=0) / TICK,
        )

    def near(self, hour: Hour, channels: int, presence_calls: int) -> list[Near]:
        """The limits of which more than ``NEAR`` is used.

        Parameters
        ----------
        channels : int
            Channels of the connection.
        presence_calls : int
            Presence calls of the last ``PRESENCE_WINDOW``, on the channel that has most.
        """
        found = []
        plan = self.plan
        if plan is not None and hour.peak > NEAR * plan.messages_per_second:
            most = f"{plan.messages_per_second:,.0f} a second"
            text = f"{hour.peak:,.0f} messages a second; the {plan.name} plan allows {most}."
            found.append(Near("rate", text))
        if plan is not None and plan.messages_per_month is not None:
            month = plan.messages_per_month
            if hour.month > NEAR * month:
                said = (
                    f"{amount(hour.messages)} messages this hour are {amount(hour.month)} a month"
                )
                text = f"{said}; the {plan.name} plan includes {amount(month)}."
                found.append(Near("month", text))
        if channels > NEAR * CHANNELS:
            text = f"{channels:,} channels are open; a connection may have {CHANNELS}."
            found.append(Near("channels", text))
        if presence_calls > NEAR * PRESENCE_CALLS:
            text = (
                f"{presence_calls} presence calls in {PRESENCE_WINDOW:.0f} s; the server allows "
                f"{PRESENCE_CALLS} on a channel."
            )
            found.append(Near("presence", text))
        return found

    def due(self, near: list[Near], now: float) -> list[Near]:
        """Those of ``near`` that are to be told now: each once an hour at most."""
        due = [n for n in near if now - self._told.get(n.limit, float("-inf")) >= TELL_AGAIN]
        self._told.update({each.limit: now for each in due})
        return due

    def sentence(self, hour: Hour) -> str:
        """The hour and its month in one sentence."""
        messages = f"{hour.messages:,} message{'s'[: hour.messages != 1]} this hour"
        if not hour.messages:
            return "No messages this hour."
        month = f"about {amount(hour.month)} a month"
        plan = self.plan
        if plan is None or plan.messages_per_month is None:
            return f"{messages}: {month}."
        return (
            f"{messages}: {month} of the {amount(plan.messages_per_month)} of the {plan.name} plan."
        )

    def _begin(self, now: float) -> _Tick:
        number = int(now // TICK)
        self._tick, self._ends = _Tick(number), (number + 1) * TICK
        self._ticks.append(self._tick)
        return self._tick

    def _came_near(self, tick: _Tick) -> bool:
        count = tick.messages + tick.sent
        return count > self._near_rate >= count - 1


def amount(count: int) -> str:
    """A number of messages as it is read.

    >>> amount(720), amount(43_200), amount(892_800), amount(2_000_000)
    ('720', '43,200', '0.9 M', '2 M')
    """
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f}".removesuffix(".0") + " M"
