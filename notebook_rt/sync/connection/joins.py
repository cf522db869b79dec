"""Which channels are joined, and when: places, pace and second tries. Pure.

A project allows so many channels at once (``max_channels``). The wanted topics share the places by
priority, then by number of subscribers, then by age; who has no place gives way and polls, and
comes back when there is room. Joins are paced, since a server hangs up on who joins too fast, and a
join that failed is tried again with backoff.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

from notebook_rt.options import Options

Priority: TypeAlias = Literal["high", "normal", "low"]
_RANK: Final = {"high": 0, "normal": 1, "low": 2}
SETTLED: Final = 30.0
"""A channel that stayed joined for so long starts its backoff from zero when it fails again."""

CONFIRM_WITHIN: Final = 30.0
"""A joined channel that was not told for so long whether its changes flow is joined again: the word
was lost, and without it they may never (design/wire.md, "Joining": 6 ms when warm, 2 s on a cold tenant)."""

BURST: Final = 10


class Join(msgspec.Struct, frozen=True):
    topic: str


class Leave(msgspec.Struct, frozen=True):
    topic: str


class Evicted(msgspec.Struct, frozen=True):
    """There is no place for this topic now: poll."""

    topic: str


Effect: TypeAlias = Join | Leave | Evicted


class _Topic(msgspec.Struct):
    name: str
    age: int
    priorities: list[Priority]
    """A subscriber's each."""
    state: Literal["out", "joining", "joined"] = "out"
    evicted: bool = False
    tries: int = 0
    due: float = 0.0
    joined_at: float = 0.0
    confirm_by: float | None = None
    """When changes must have been confirmed; None: nothing is to be confirmed any more."""
    final: bool = False
    """The server refuses it for good: no further try until somebody asks."""

    @property
    def rank(self) -> tuple[int, int, int]:
        """The least comes first: the highest priority asked for, the most subscribers, the oldest."""
        return min(map(_RANK.__getitem__, self.priorities)), -len(self.priorities), self.age


class Joins:
    """The machine. Its methods take what happened and ``now``, and return effects."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self.options = options
        self.random = random
        self.connected = False
        self._topics: dict[str, _Topic] = {}
        self._ages = 0
        self._next_join = float("-inf")

    def want(self, topic: str, priority: Priority, now: float) -> list[Effect]:
        """One more subscriber of ``topic``."""
        entry = self._topics.get(topic)
        if entry is None:
            self._ages += 1
            self._topics[topic] = _Topic(topic, self._ages, [priority])
        else:
            entry.priorities.append(priority)
        return self.tick(now)

    def unwant(self, topic: str, priority: Priority, now: float) -> list[Effect]:
        """One subscriber less, who had wanted it with this priority; with the last the channel goes."""
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
        """The socket opened or is gone; gone, every channel is out and due at once."""
        self.connected = connected
        if not connected:
            for entry in self._topics.values():
                entry.state = "out"
                entry.due = now
        return self.tick(now)

    def joined(self, topic: str, now: float, *, unconfirmed: bool = False) -> list[Effect]:
        """The join was answered; ``unconfirmed``: whether changes flow is still to be told."""
        if entry := self._topics.get(topic):
            entry.state = "joined"
            entry.joined_at = now
            entry.confirm_by = now + CONFIRM_WITHIN if unconfirmed else None
        return []

    def confirmed(self, topic: str) -> list[Effect]:
        """Changes flow."""
        if entry := self._topics.get(topic):
            entry.confirm_by = None
        return []

    def failed(
        self, topic: str, now: float, wait: float = 0.0, final: bool = False
    ) -> list[Effect]:
        """The join was refused or not answered, or the server closed the channel."""
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
        """Leave and join again, now (other bindings, another token, the user's word)."""
        entry = self._topics.get(topic)
        if entry is None:
            return []
        leave: list[Effect] = [Leave(topic)] if entry.state != "out" else []
        entry.state, entry.final, entry.due = "out", False, now
        return leave + self.tick(now)

    def retry_now(self, now: float) -> list[Effect]:
        """A reason to try again from zero: another token, the network, the user's word."""
        for entry in self._topics.values():
            entry.tries = 0
            entry.due = min(entry.due, now)
        return self.tick(now)

    def tick(self, now: float) -> list[Effect]:
        """Give out the places and send the joins that are due."""
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
                # Up to BURST joins at once, then join_rate a second.
                pace = 1.0 / self.options.join_rate
                self._next_join = max(self._next_join, now - BURST * pace) + pace
                effects.append(Join(entry.name))
        return effects

    def _due(self, entry: _Topic) -> bool:
        return self.connected and entry.state == "out" and not entry.evicted and not entry.final

    @property
    def wake_at(self) -> float | None:
        """When ``tick`` has something to do next; None: nothing waits."""
        due = [entry.due for entry in self._topics.values() if self._due(entry)]
        times = [max(min(due), self._next_join)] if due else []
        times += filter(None, map(self._unheard, self._topics.values()))
        return min(times, default=None)

    def _unheard(self, entry: _Topic) -> float | None:
        """When a joined channel that was not confirmed is given up."""
        return entry.confirm_by if entry.state == "joined" else None

    def state_of(self, topic: str) -> Literal["out", "joining", "joined", "evicted"]:
        entry = self._topics.get(topic)
        if entry is None:
            return "out"
        return "evicted" if entry.evicted else entry.state

    def topics(self) -> list[str]:
        return list(self._topics)
