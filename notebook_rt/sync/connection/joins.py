"""Decide which channels are joined, and when: places, pace and retries. Pure.

A project allows ``max_channels`` channels at once. The requested topics get places by priority, then by
number of subscribers, then by age; a topic without a place is polled until a place is free. Joins are
paced, because a server hangs up on clients that join too fast, and a failed join is retried with backoff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from notebook_rt.options import Options

Priority: TypeAlias = Literal["high", "normal", "low"]
_RANK: Final = {"high": 0, "normal": 1, "low": 2}
SETTLED: Final = 30.0
"""Seconds of being joined after which a channel that fails starts its backoff from zero."""

CONFIRM_WITHIN: Final = 30.0
"""Seconds after which a joined channel without a confirmation of its changes is joined again: the
confirmation was lost, or changes may never flow (design/wire.md, "Joining": 6 ms when warm, 2 s on a
cold tenant)."""

BURST: Final = 10


class Join(msgspec.Struct, frozen=True):
    topic: str


class Leave(msgspec.Struct, frozen=True):
    topic: str


class Evicted(msgspec.Struct, frozen=True):
    """This topic has no place now: poll."""

    topic: str


Effect: TypeAlias = Join | Leave | Evicted


class _Topic(msgspec.Struct):
    name: str
    age: int
    priorities: list[Priority]
    """One for each subscriber."""
    state: Literal["out", "joining", "joined"] = "out"
    evicted: bool = False
    tries: int = 0
    due: float = 0.0
    joined_at: float = 0.0
    confirm_by: float | None = None
    """The deadline of the confirmation of changes; None: no confirmation is pending."""
    final: bool = False
    """Whether the server refuses it permanently: no retry before one is requested."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort key; the smallest is first: the highest priority, the most subscribers, the oldest."""
        return min(map(_RANK.__getitem__, self.priorities)), -len(self.priorities), self.age


class Joins:
    """The state machine. Its methods take an event and ``now``, and return effects."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self.options = options
        self.random = random
        self.connected = False
        self._topics: dict[str, _Topic] = {}
        self._ages = 0
        self._next_join = float("-inf")

    def want(self, topic: str, priority: Priority, now: float) -> list[Effect]:
        """Add a subscriber of ``topic``."""
        entry = self._topics.get(topic)
        if entry is None:
            self._ages += 1
            self._topics[topic] = _Topic(topic, self._ages, [priority])
        else:
            entry.priorities.append(priority)
        return self.tick(now)

    def unwant(self, topic: str, priority: Priority, now: float) -> list[Effect]:
        """Remove a subscriber with this priority; with the last one, the channel is left."""
        entry = self._topics.get(topic)
        if entry is None:
            return []
        entry.priorities.remove(priority)
        if entry.priorities:
            return self.tick(now)
        del self._topics[topic]
        leave: list[Effect] = [Leave(topic)] if entry.state != "out" else []
        return leave + self.tick(now)

    def socket(self, connected: bool, now: float) -> list[Effect]:
        """Handle that the socket has opened or is gone; if gone, every channel is out and due at once."""
        self.connected = connected
        if not connected:
            for entry in self._topics.values():
                entry.state = "out"
                entry.due = now
        return self.tick(now)

    def joined(self, topic: str, now: float, *, unconfirmed: bool = False) -> list[Effect]:
        """Handle a successful join; ``unconfirmed``: the confirmation that changes flow is still to come."""
        if entry := self._topics.get(topic):
            entry.state = "joined"
            entry.joined_at = now
            entry.confirm_by = now + CONFIRM_WITHIN if unconfirmed else None
        return []

    def confirmed(self, topic: str) -> list[Effect]:
        """Handle the confirmation that changes flow."""
        if entry := self._topics.get(topic):
            entry.confirm_by = None
        return []

    def failed(
        self, topic: str, now: float, wait: float = 0.0, final: bool = False
    ) -> list[Effect]:
        """Handle a refused or unanswered join, or a channel that the server closed."""
        entry = self._topics.get(topic)
        if entry is None:
            return []
        if entry.state == "joined" and now - entry.joined_at >= SETTLED:
            entry.tries = 0
        entry.final = final
        self._back_off(entry, now, wait)
        return self.tick(now)

    def _back_off(self, entry: _Topic, now: float, wait: float = 0.0) -> None:
        entry.state = "out"
        backoff = self.options.backoff_base * 2.0 ** min(entry.tries, 30)
        backoff = min(backoff, self.options.backoff_max) * (1 + self.options.jitter * self.random())
        entry.tries += 1
        entry.due = now + max(backoff, wait)

    def rejoin(self, topic: str, now: float) -> list[Effect]:
        """Leave and join again now (other bindings, another token, the user's request)."""
        entry = self._topics.get(topic)
        if entry is None:
            return []
        leave: list[Effect] = [Leave(topic)] if entry.state != "out" else []
        entry.state, entry.final, entry.due = "out", False, now
        return leave + self.tick(now)

    def retry_now(self, now: float) -> list[Effect]:
        """Retry everything now, with the backoff reset: another token, the network, the user's request."""
        for entry in self._topics.values():
            entry.tries = 0
            entry.due = min(entry.due, now)
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Assign the places and return the joins that are due."""
        effects: list[Effect] = []
        for entry in self._topics.values():
            until = self._unheard(entry)
            if until is not None and until <= now:
                self._back_off(entry, now)
                effects.append(Leave(entry.name))
        ranked = sorted(
            (t for t in self._topics.values() if not t.final),
            key=lambda t: t.rank,
        )
        for place, entry in enumerate(ranked):
            if place >= self.options.max_channels:
                if not entry.evicted:
                    entry.evicted = True
                    if entry.state != "out":
                        entry.state = "out"
                        effects.append(Leave(entry.name))
                    effects.append(Evicted(entry.name))
            elif entry.evicted:
                entry.evicted = False
                entry.due = now
        for entry in ranked:
            if self._due(entry) and entry.due <= now and self._next_join <= now:
                entry.state = "joining"
                # Up to BURST joins at once, then join_rate per second.
                pace = 1.0 / self.options.join_rate
                self._next_join = max(self._next_join, now - BURST * pace) + pace
                effects.append(Join(entry.name))
        return effects

    def _due(self, entry: _Topic) -> bool:
        return self.connected and entry.state == "out" and not entry.evicted and not entry.final

    @property
    def wake_at(self) -> float | None:
        """Return when ``tick`` has something to do next; None: nothing waits."""
        due = [entry.due for entry in self._topics.values() if self._due(entry)]
        times = [max(min(due), self._next_join)] if due else []
        times += filter(None, map(self._unheard, self._topics.values()))
        return min(times, default=None)

    def _unheard(self, entry: _Topic) -> float | None:
        """Return when a joined channel without a confirmation is given up."""
        return entry.confirm_by if entry.state == "joined" else None

    def state_of(self, topic: str) -> Literal["out", "joining", "joined", "evicted"]:
        entry = self._topics.get(topic)
        if entry is None:
            return "out"
        return "evicted" if entry.evicted else entry.state

    def topics(self) -> list[str]:
        return list(self._topics)
