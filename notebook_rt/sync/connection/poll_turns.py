"""Whose turn it is to poll: so many tables of a session at once, who has waited longest first. Pure.

A project with more tables than channels polls the rest. Each polls by its own clock; all at once they
would only wait for each other, and for what a user reads meanwhile. Whoever wants to poll asks, polls
once it is granted, and says when that is over.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """The turns of one session. Each method returns who may begin now.

    >>> turns = Turns[str](at_once=1)
    >>> turns.ask("a"), turns.ask("b"), turns.done("a")
    (['a'], [], ['b'])
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: dict[T, None] = {}
        """In the order they asked."""
        self._polling: set[T] = set()

    def ask(self, who: T) -> list[T]:
        """``who`` wants to poll; asking twice is asking once."""
        if who not in self._polling:
            self._waiting.setdefault(who)
        return self._grant()

    def done(self, who: T) -> list[T]:
        """``who`` has polled, or wants to no more."""
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
