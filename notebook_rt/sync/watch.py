"""Which rows begin and stop to match a condition, each told once (``when``, ``until``).

In go the rows of a frame: all of them at first and wherever changes may have been missed (``whole``),
one at a time in between (``change``), each with whether it matches. Out come `Turn`s: a row that begins
to match enters, one that stops leaves. What was said once is not said again, however often the rows
are read anew; what happened while nobody looked is said when they are.

A `Watch` is of one login. What it remembers is a flag for each row that matches: whether its enter was
told, since a row that matched at the very first is known and not told, and then its leave is not either.
With what another kernel remembered, it goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from notebook_rt.model.rows import Key, Row


class Turn(msgspec.Struct, frozen=True):
    """A row begins (``enter``) or stops (``leave``) to match."""

    kind: Literal["enter", "leave"]
    key: Key
    row: Row | None
    """The row as it is now; of one that is gone, as it was last, or None where nobody saw that."""
    told: bool
    """Whether the user is told; it is remembered all the same."""


class Watch:
    """See the module.

    Parameters
    ----------
    remembered : mapping, optional
        Each key that matches, and whether its enter was told. None: this is the very first time.
    at_once : bool
        Whether rows that match the very first time are told.
    debounce : float
        Seconds for which a row must go on matching, or not, before it is told.
    """

    def __init__(
        self,
        remembered: Mapping[Key, bool] | None = None,
        *,
        at_once: bool = False,
        debounce: float = 0.0,
    ) -> None:
        self._matching = dict(remembered or {})
        self._silent = remembered is None and not at_once
        self._debounce = debounce
        self._due: dict[Key, tuple[float, Row | None]] = {}
        """Rows that are to be told, when, and what they are now."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The rows of which something may be to be told when all rows are read."""
        return tuple({**self._matching, **self._due})

    def matches(self, key: Key) -> bool:
        """Whether the row matched when it was told last."""
        return key in self._matching

    @property
    def next_due(self) -> float | None:
        """When `due` is to be called."""
        return min((at for at, _ in self._due.values()), default=None)

    def whole(
        self, matching: Mapping[Key, Row], others: Mapping[Key, Row], now: float
    ) -> list[Turn]:
        """All rows are read: those that match, and those of ``keys`` that are there and do not."""
        if self._silent:
            self._silent = False
            self._matching = dict.fromkeys(matching, False)
            return [Turn("enter", key, row, False) for key, row in matching.items()]
        found = []
        for key in self.keys:
            if key not in matching:
                found += self.change(key, others.get(key), False, now)
        for key, row in matching.items():
            found += self.change(key, row, True, now)
        return found

    def change(self, key: Key, row: Row | None, matches: bool, now: float) -> list[Turn]:
        """A row is ``row`` now, or was, if it is gone."""
        if matches == (key in self._matching):
            self._due.pop(key, None)
            return []
        at = self._due[key][0] if key in self._due else now + self._debounce
        if at > now:
            self._due[key] = at, row
            return []
        return [self._turn(key, row)]

    def due(self, now: float) -> list[Turn]:
        """What is to be told by now."""
        ready = [(key, row) for key, (at, row) in self._due.items() if at <= now]
        return [self._turn(key, row) for key, row in ready]

    def _turn(self, key: Key, row: Row | None) -> Turn:
        self._due.pop(key, None)
        if key in self._matching:
            return Turn("leave", key, row, self._matching.pop(key))
        self._matching[key] = True
        return Turn("enter", key, row, True)
