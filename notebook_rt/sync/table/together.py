"""Group the messages of several tables that belong to one transaction, to apply them as one. Pure.

The database sends a transaction's changes in one topic for each table (``broadcast.sql``), and each message
lists these topics; the message of a whole table does not list the topics of values, which come before it and
list it. In: the messages of all topics of a session in order of arrival, and the time. Out: the messages to
apply now, as one.

A message waits for the others of its transaction, and later messages wait with it, so that the tables show
one commit. A lost part delays the others by `PATIENCE`; then its log must be read, and until then the tables
show different commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from notebook_rt.sync.table.broadcast_answers import topic_digest

PATIENCE: Final = 0.2
"""Seconds for which a transaction's messages wait for the others, which are sent in succession."""
PATIENCE_MAX: Final = 0.4
"""Maximum seconds for which a message waits; less than `broadcast.HOLE`."""
REMEMBERED: Final = 256
"""Number of finished transactions to remember: their late or repeated messages do not wait."""


class Sent(NamedTuple):
    """A message of a topic."""

    topic: str
    payload: Any


class _Part(msgspec.Struct, frozen=True):
    """The fields of a message that are needed here (``broadcast.Message``)."""

    x: int
    part: int
    last: bool
    topics: list[str] = []


class _Transaction(msgspec.Struct):
    began: float
    topics: Collection[str]
    """Its topics that are followed here."""
    parts: dict[str, set[int]] = msgspec.field(default_factory=dict)
    lasts: dict[str, int] = msgspec.field(default_factory=dict)

    def add(self, topic: str, part: _Part) -> None:
        self.parts.setdefault(topic, set()).add(part.part)
        if part.last:
            self.lasts[topic] = part.part

    @property
    def missing(self) -> set[str]:
        """Return the topics whose parts have not arrived."""
        return {
            topic
            for topic in self.topics
            if topic not in self.lasts or len(self.parts[topic]) < self.lasts[topic]
        }


class _Waiting(NamedTuple):
    at: float
    sent: Sent
    transaction: int | None
    """The transaction, if it has several tables; None: one table."""


class Together:
    """Groups messages by transaction; see the module docstring."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._open: dict[int, _Transaction] = {}
        """Transactions with messages still to come."""
        self._over: deque[int] = deque(maxlen=REMEMBERED)
        self._lost: set[str] = set()

    @property
    def due(self) -> float | None:
        """Return when to call `take` again, in monotonic seconds; None: nothing waits."""
        if not self._waiting:
            return None
        waits = [one.began + PATIENCE for one in self._open.values()]
        return min([*waits, self._waiting[0].at + PATIENCE_MAX])

    def add(self, sent: Sent, followed: Collection[str], now: float) -> Sequence[Sent]:
        """Take a message, with the topics that are followed; return the messages to apply."""
        x = self._see(sent, followed, now)
        if x is None and not self._waiting:
            return (sent,)
        self._waiting.append(_Waiting(now, sent, x))
        return self.take(now)

    def _see(self, sent: Sent, followed: Collection[str], now: float) -> int | None:
        """Return the transaction of several tables to which a message belongs."""
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
        """Return the messages to apply now, as one."""
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
        """Return how many messages precede the first of a transaction in ``held``, without splitting another
        transaction.
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
        """Return the topics whose part did not arrive in time: their logs must be read."""
        lost, self._lost = self._lost, set()
        return lost

    def take_all(self) -> Sequence[Sent]:
        """Return all waiting messages, to apply them before an event of another kind."""
        for x in list(self._open):
            self._end(x)
        waiting, self._waiting = self._waiting, []
        return [one.sent for one in waiting]
