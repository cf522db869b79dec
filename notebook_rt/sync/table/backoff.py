"""When a table in error is asked for again. Pure.

A table that is dropped and made anew, published or granted after all, comes back by itself: it is asked
for again after a pause that doubles from try to try, up to a minute.
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
"""What somebody may mend in the database, and a few requests find out. A refused login is not among
them (a new token begins anew), nor what only reading the whole table shows."""
LONGEST: Final = 60.0
"""Seconds of the longest pause; a table that was shown for so long starts with the shortest again."""


class Backoff:
    """The pauses of one table."""

    def __init__(self, options: Options, random: Callable[[], float]) -> None:
        self._options = options
        self._random = random
        self._tries = 0
        self._shown_at: float | None = None

    def shown(self, now: float) -> None:
        """There is something to show."""
        if self._shown_at is None:
            self._shown_at = now

    def failed(self, error: Exception, now: float) -> float | None:
        """Seconds after which to ask again; None: no asking helps."""
        if self._shown_at is not None and now - self._shown_at >= LONGEST:
            self._tries = 0
        self._shown_at = None
        if not isinstance(error, MENDABLE):
            return None
        self._tries += 1
        pause = min(self._options.backoff_base * 2.0 ** min(self._tries, 30), LONGEST)
        return pause * (1 + self._options.jitter * self._random())
