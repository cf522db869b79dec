"""Finds the rows that start and stop to match a condition, and reports each once (``when``, ``until``).

In: the rows of a frame, all of them at first and whenever changes may have been missed (``whole``), and
single ones in between (``change``), each with whether it matches. Out: `Turn`s: a row that starts to match
enters, one that stops leaves. Each turn is reported once, even if the rows are read again; turns that
happened in the meantime are reported with the next read.

A `Watch` belongs to one login. It remembers a flag for each matching row: whether its enter was
reported, because rows that match at the first look are not reported, and their leave is not either.
With the memory of another kernel, it continues from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from notebook_rt.model.rows import Key, Row


class Turn(msgspec.Struct, frozen=True):
    """A row starts (``enter``) or stops (``leave``) to match."""

    kind: Literal["enter", "leave"]
    key: Key
    row: Row | None
    """The current row; for a deleted row its last state, or None if that is unknown."""
    told: bool
    """Whether the turn is reported to the user; it is remembered in any case."""


class Watch:
    """See the module docstring.

    Parameters
    ----------
    remembered : mapping, optional
        Each matching key, and whether its enter was reported. None: this is the first look.
    at_once : bool
        Whether rows that match at the first look are reported.
    debounce : float
        Seconds for which a row must keep matching, or not matching, before it is reported.
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
        """Rows to be reported later, with the time and their current state."""

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys for which a turn may be due when all rows are read."""
        return tuple({**self._matching, **self._due})

    def matches(self, key: Key) -> bool:
        """Return whether the row matched at its last turn."""
        return key in self._matching

    @property
    def next_due(self) -> float | None:
        """The time of the next call of `due`."""
        return min((at for at, _ in self._due.values()), default=None)

    def whole(
        self, matching: Mapping[Key, Row], others: Mapping[Key, Row], now: float
    ) -> list[Turn]:
        """Take all rows: the matching ones, and existing ones of ``keys`` that do not match."""
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
        """Take the current state of a row, or its last one if it was deleted."""
        if matches == (key in self._matching):
            self._due.pop(key, None)
            return []
        at = self._due[key][0] if key in self._due else now + self._debounce
        if at > now:
            self._due[key] = at, row
            return []
        return [self._turn(key, row)]

    def due(self, now: float) -> list[Turn]:
        """Return the turns that are due."""
        ready = [(key, row) for key, (at, row) in self._due.items() if at <= now]
        return [self._turn(key, row) for key, row in ready]

    def _turn(self, key: Key, row: Row | None) -> Turn:
        self._due.pop(key, None)
        if key in self._matching:
            return Turn("leave", key, row, self._matching.pop(key))
        self._matching[key] = True
        return Turn("enter", key, row, True)
