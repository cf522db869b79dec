"""Decide when to retry a table in error. Pure.

A table that was dropped and created again, or is published or granted after all, recovers automatically:
it is retried after a pause that doubles with each attempt, up to a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from notebook_rt.errors import (
    MissingColumnError,
    MissingQueryError,
    MissingTableError,
    NoPrimaryKeyError,
    NotBroadcastError,
    NotPublishedError,
    PermissionDeniedError,
    RefusedError,
    UnknownKeyError,
)
from notebook_rt.options import Options

MENDABLE: Final = (
    MissingColumnError,
    MissingQueryError,
    MissingTableError,
    NoPrimaryKeyError,
    NotBroadcastError,
    NotPublishedError,
    PermissionDeniedError,
    RefusedError,
    UnknownKeyError,
)
"""Errors that can be fixed in the database, and that a few requests detect. A refused login is not
among them (a new token starts the table again), nor an error that only reading the whole table shows."""
LONGEST: Final = 60.0
"""Seconds of the longest pause; a table that was shown for that long starts with the shortest again."""


class Backoff:
    """The pauses of one table."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self._options = options
        self._random = random
        self._tries = 0
        self._shown_at: float | None = None

    def shown(self, now: float) -> None:
        """Record that the table is shown."""
        if self._shown_at is None:
            self._shown_at = now

    def failed(self, error: Exception, now: float) -> float | None:
        """Return the seconds until the next attempt; None: a retry cannot help."""
        if self._shown_at is not None and now - self._shown_at >= LONGEST:
            self._tries = 0
        self._shown_at = None
        if not isinstance(error, MENDABLE):
            return None
        self._tries += 1
        pause = min(self._options.backoff_base * 2.0 ** min(self._tries, 30), LONGEST)
        return pause * (1 + self._options.jitter * self._random())
