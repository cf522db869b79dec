"""The client side of presence: when a call may be sent, and who joined and left. Pure.

The server closes a channel at the sixth presence call within 30 s (``docs/design/facts.md``), so calls are
counted and coalesced: between two calls only the latest state matters. The more calls a window has had,
the longer the wait for the next, so that a fast series leaves calls for its last state; after a short
series, the last state is sent within a second. After every rejoin, the state is sent again at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from notebook_rt.sync.usage import PRESENCE_CALLS, PRESENCE_WINDOW

Meta: TypeAlias = Mapping[str, Any]
PACE: Final = 1.0
"""Seconds between the first call of a window and the next one."""
SLOWER: Final = 3.0
"""The factor by which each further wait is longer."""


class Throttle:
    """Decides when a presence call may be sent, and which. Times are monotonic seconds."""

    def __init__(self, calls: int, window: float) -> None:
        self.calls = calls
        self.window = window
        self._sent_at: deque[float] = deque()
        self._calls_at: deque[float] = deque(maxlen=2 * PRESENCE_CALLS)
        self._wanted: Meta | None = None
        self._pending = False
        self._forgotten = False

    @property
    def wanted(self) -> Meta | None:
        """The state that other clients should see; None: none."""
        return self._wanted

    def want(self, meta: Meta | None) -> None:
        """Set the state that other clients should see from now on; None: none."""
        if meta != self._wanted:
            self._wanted = meta
            self._pending = True

    def rejoined(self) -> None:
        """Handle that the server has forgotten this client's state."""
        self._forgotten = True
        self._pending = self._wanted is not None

    def due(self, now: float) -> float | None:
        """Return when the next call may be sent; None: there is nothing to send."""
        if not self._pending:
            return None
        while self._sent_at and self._sent_at[0] + self.window <= now:
            self._sent_at.popleft()
        used = len(self._sent_at)
        if used >= self.calls:
            return self._sent_at[0] + self.window
        if not used or self._forgotten:
            return now
        first, last = self._sent_at[0], self._sent_at[-1]
        share = (first + self.window - last) / (self.calls - used + 1)
        return max(now, last + min(PACE * SLOWER ** (used - 1), share))

    def used(self, now: float) -> int:
        """Return the number of calls within the server's window; from any thread."""
        calls = list(self._calls_at)  # atomic, unlike `tuple`: a call may be added meanwhile
        return sum(now - at < PRESENCE_WINDOW for at in calls)

    def take(self, now: float) -> Meta | None:
        """Return the call to send now, if one is due: the state to track, or None to untrack."""
        self._pending = self._forgotten = False
        self._sent_at.append(now)
        self._calls_at.append(now)
        return self._wanted


@dataclass(frozen=True, slots=True)
class Person:
    """A present user: a key, and a meta for each of their connections, oldest first."""

    key: str
    metas: tuple[Meta, ...]
    joined_at: float
    """When the user was first seen here, in seconds since the epoch."""
    last_seen: float
    """When the user's state last arrived, in seconds since the epoch."""


class People:
    """The present users, from the library's presence state; remembers when each joined."""

    def __init__(self) -> None:
        self.present: dict[str, Person] = {}
        self._last_reported: dict[str, Sequence[Meta]] = {}
        """The library's metas of each user: it creates a new list for a user that changes."""

    def update(
        self, state: Mapping[str, Sequence[Meta]], now: float
    ) -> tuple[list[Person], list[Person]]:
        """Take the whole state; return who joined and who left. ``now`` is in seconds since the epoch."""
        before, self.present = self.present, {}
        told, self._last_reported = self._last_reported, dict(state)
        came = []
        for key, metas in state.items():
            known = before.get(key)
            if known is not None and told[key] is metas:
                self.present[key] = known
                continue
            # The library's reference changes with every update of a meta.
            seen = tuple({k: v for k, v in meta.items() if k != "presence_ref"} for meta in metas)
            if known is None:
                person = Person(key, seen, now, now)
                came.append(person)
            else:
                last_seen = known.last_seen if known.metas == seen else now
                person = Person(key, seen, known.joined_at, last_seen)
            self.present[key] = person
        gone = [person for key, person in before.items() if key not in self.present]
        return came, gone
