"""Which messages of several tables are applied as one: those of one transaction, as far as they come.

The database sends a transaction's changes in a topic for each table (``broadcast.sql``), and says in each
message which topics those are; one of a whole table does not name the topics of values, which come before it
and name it. In go the messages of all topics of a session as they come, and the time;
out come the messages to apply now, as one. Pure.

A message waits for the others of its transaction, and what comes behind it waits with it, so that the
tables are seen as of one commit. A part that was lost delays the others by `PATIENCE`; then its log is
to be read, and until that was the tables are as of different commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from notebook_rt.sync.table.broadcast_answers import topic_digest

PATIENCE: Final = 0.2
"""Seconds that a transaction's messages wait for the others: they are sent one behind the other."""
PATIENCE_MAX: Final = 0.4
"""Seconds that a message waits at most, whatever comes before it; less than `broadcast.HOLE`."""
REMEMBERED: Final = 256
"""Transactions that are over: a message of theirs that comes late or once more waits for nothing."""


class Sent(NamedTuple):
    """A message of a topic."""

    topic: str
    payload: Any


class _Part(msgspec.Struct, frozen=True):
    """Of a message what is needed here (``broadcast.Message``)."""

    x: int
    part: int
    last: bool
    topics: list[str] = []


class _Transaction(msgspec.Struct):
    began: float
    topics: Collection[str]
    """Those of its topics that are followed here."""
    parts: dict[str, set[int]] = msgspec.field(default_factory=dict)
    lasts: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, topic: str, part: _Part) -> None:
        self.parts.setdefault(topic, set()).add(part.part)
        if part.last:
            self.lasts[topic] = part.part

    @property
    def missing(self) -> set[str]:
        """Topics of which parts are still to come."""
        return {
            topic
            for topic in self.topics
            if topic not in self.lasts or len(self.parts[topic]) < self.lasts[topic]
        }


class _Waiting(NamedTuple):
    at: float
    sent: Sent
    transaction: int | None
    """Of several tables; None: of one."""


class Together:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._open: dict[int, _Transaction] = {}
        """Of which messages are still to come."""
        self._over: deque[int] = deque(maxlen=REMEMBERED)
        self._lost: set[str] = set()

    @property
    def due(self) -> float | None:
        """When to ask `take` again, monotonic seconds; None: nothing waits."""
        if not self._waiting:
            return None
        waits = [one.began + PATIENCE for one in self._open.values()]
        return min([*waits, self._waiting[0].at + PATIENCE_MAX])

    def add(self, sent: Sent, followed: Collection[str], now: float) -> Sequence[Sent]:
        """A message came; ``followed``: the topics whose messages come. Returns what is to be applied."""
        x = self._see(sent, followed, now)
        if x is None and not self._waiting:
            return (sent,)
        self._waiting.append(_Waiting(now, sent, x))
        return self.take(now)

    def _see(self, sent: Sent, followed: Collection[str], now: float) -> int | None:
        """Which transaction of several tables a message is of."""
        if not isinstance(sent.payload, dict) or not (self._open or sent.payload.get("topics")):
            return None
        try:
            part = msgspec.convert(sent.payload, _Part, strict=False)
        except msgspec.ValidationError:
            return None
        found = self._open.get(part.x)
        if found is None:
            topics = [topic for topic in followed if topic_digest(topic) in part.topics]
            if len(topics) < 2 or part.x in self._over:
                return None
            found = self._open[part.x] = _Transaction(now, topics)
        found.add(sent.topic, part)
        if not found.missing:
            self._end(part.x)
        return part.x

    def _end(self, x: int) -> None:
        del self._open[x]
        self._over.append(x)

    def take(self, now: float) -> Sequence[Sent]:
        """What is to be applied now, as one."""
        for x in [x for x, one in self._open.items() if one.began + PATIENCE <= now]:
            self._lost |= self._open[x].missing
            self._end(x)
        waiting = self._waiting
        if waiting and waiting[0].at + PATIENCE_MAX <= now:
            return self.take_all()
        end = self._before_open(len(waiting), self._open)
        self._waiting = waiting[end:]
        return [one.sent for one in waiting[:end]]

    def _before_open(self, end: int, held: Collection[int]) -> int:
        """How many messages can go before the first of a transaction in ``held``, without parting another
        one.
        """
        while True:
            first = next(
                (place for place in range(end) if self._waiting[place].transaction in held), end
            )
            if first == end:
                return end
            later = (one.transaction for one in self._waiting[first:])
            held, end = {x for x in later if x is not None}, first

    def take_lost(self) -> Collection[str]:
        """Topics of which a part did not come in time: their logs are to be read."""
        lost, self._lost = self._lost, set()
        return lost

    def take_all(self) -> Sequence[Sent]:
        """Everything that waits, to be applied now: what follows is of another order."""
        for x in list(self._open):
            self._end(x)
        waiting, self._waiting = self._waiting, []
        return [one.sent for one in waiting]
