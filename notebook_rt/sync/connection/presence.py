"""Presence as this side keeps it: what may be sent when, and who came and went. Pure.

The server closes a channel at the sixth presence call within 30 s (``docs/design/facts.md``), so calls are
counted, and what is wanted is coalesced: between two calls only the latest state counts. The more of
them a window has had, the longer is the wait for the next: so a fast series leaves calls for its last
state, which is told within a second of a short one. After every rejoin the state is wanted again, at
once.
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
"""How many times as long each further wait is."""


class Throttle:
    """Says when a presence call may go out, and which. Times are monotonic seconds."""

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
        """What others should see of us; None: nothing."""
        return self._wanted

    def want(self, meta: Meta | None) -> None:
        """From now on others should see this; None: not us."""
        if meta != self._wanted:
            self._wanted = meta
            self._pending = True

    def rejoined(self) -> None:
        """The server has forgotten us."""
        self._forgotten = True
        self._pending = self._wanted is not None

    def due(self, now: float) -> float | None:
        """When the next call may go out; None: there is nothing to say."""
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
        """Calls within the server's own window, whatever the one of this throttle; from any thread."""
        calls = list(self._calls_at)  # in one go, as `tuple` is not: one may be made meanwhile
        return sum(now - at < PRESENCE_WINDOW for at in calls)

    def take(self, now: float) -> Meta | None:
        """The call that goes out now: what to track, or None to untrack. Only when it is due."""
        self._pending = self._forgotten = False
        self._sent_at.append(now)
        self._calls_at.append(now)
        return self._wanted


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody present: a key, and a meta for each of their connections, oldest first."""

    key: str
    metas: tuple[Meta, ...]
    joined_at: float
    """Seconds since the epoch when they were first seen here."""
    last_seen: float
    """Seconds since the epoch of the last word about them."""


class People:
    """Who is there, from the package's presence state; keeps when each came."""

    def __init__(self) -> None:
        self.present: dict[str, Person] = {}
        self._last_reported: dict[str, Sequence[Meta]] = {}
        """What the package had of each: it makes a new list for whoever changes."""

    def update(
        self, state: Mapping[str, Sequence[Meta]], now: float
    ) -> tuple[list[Person], list[Person]]:
        """Take the whole state; gives who came and who went. ``now`` is seconds since the epoch."""
        before, self.present = self.present, {}
        told, self._last_reported = self._last_reported, dict(state)
        came = []
        for key, metas in state.items():
            known = before.get(key)
            if known is not None and told[key] is metas:
                self.present[key] = known
                continue
            # The package's reference changes with every update of a meta.
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
