"""The limit of password attempts: in GoTrue for each address, here for the whole stack."""

from __future__ import annotations

from collections.abc import Callable

_ROUNDING = 1e-6
"""A tolerance, so that a client that waits as long as requested is admitted despite rounding."""


class Attempts:
    """A bucket of attempts that refills at a constant rate.

    Parameters
    ----------
    limit
        Maximum consecutive attempts; None: no limit.
    window
        Seconds in which an empty bucket refills.
    clock
        Returns the monotonic time.
    """

    def __init__(self, limit: int | None, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._left = float(limit or 0)
        self._at = clock()

    def wait(self) -> float:
        """Take one attempt; return the seconds to wait if none is left now, otherwise 0.

        >>> now = iter([0.0, 0.0, 0.0, 5.0]).__next__
        >>> attempts = Attempts(1, 10.0, now)
        >>> attempts.wait(), attempts.wait(), attempts.wait()
        (0.0, 10.0, 5.0)
        """
        if self._limit is None:
            return 0.0
        now = self._clock()
        rate = self._limit / self._window
        self._left = min(float(self._limit), self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1 - _ROUNDING:
            return (1 - self._left) / rate
        self._left -= 1
        return 0.0
