"""How often a password may be tried: GoTrue's limit of one address, here of the whole stack."""

from __future__ import annotations

from collections.abc import Callable

_ROUNDING = 1e-6
"""Who waits as long as they were told is admitted, whatever floats make of it."""


class Attempts:
    """A bucket of attempts that fills again at a steady rate.

    Parameters
    ----------
    limit
        Attempts in a row; None admits every one.
    window
        Seconds in which an empty bucket is full again.
    clock
        Monotonic time.
    """

    def __init__(self, limit: int | None, window: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._left = float(limit or 0)
        self._at = clock()

    def wait(self) -> float:
        """Take one attempt; the seconds until the next one, if no attempt is left now.

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
