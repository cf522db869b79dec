"""Assign turns to poll: a limited number of tables of a session at once, the longest waiting first. Pure.

A session with more tables than channels polls the rest. Each table has its own poll timer; if all polled at
once, they would only delay each other and the user's own reads. A table asks for a turn, polls when the
turn is granted, and reports when the poll is over.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """The turns of one session. Each method returns the pollers that may begin now.

    >>> turns = Turns[str](at_once=1)
    >>> turns.ask("a"), turns.ask("b"), turns.done("a")
    (['a'], [], ['b'])
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: dict[T, None] = {}
        """In the order of their requests."""
        self._polling: set[T] = set()

    def ask(self, who: T) -> list[T]:
        """Request a turn for ``who``; a repeated request has no effect."""
        if who not in self._polling:
            self._waiting.setdefault(who)
        return self._grant()

    def done(self, who: T) -> list[T]:
        """End the turn or the request of ``who``."""
        self._polling.discard(who)
        self._waiting.pop(who, None)
        return self._grant()

    def _grant(self) -> list[T]:
        granted: list[T] = []
        while self._waiting and len(self._polling) < self._at_once:
            who = next(iter(self._waiting))
            del self._waiting[who]
            self._polling.add(who)
            granted.append(who)
        return granted
