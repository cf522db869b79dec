"""Decide when to read a socket next, so that frequent messages share a turn of the event loop. Pure.

One turn of the loop for several messages costs less than one turn each, and each wake-up costs as well
(``docs/design/performance.md``, "Decided by measuring"). So while messages stream in, reading pauses after
each read, more briefly the faster they arrive, and TCP buffers them meanwhile. A message after a silence
is read at once: a change of a quiet table, the echo of an edit.
"""

from __future__ import annotations

from math import exp
from typing import Final

LONGEST: Final = 0.006
"""Maximum seconds between two reads: no message waits longer for others."""
SHORTEST: Final = 0.001
"""Shorter pauses are skipped: at that rate, several messages are read at a time without a pause."""
FULL: Final = 1000.0
"""Messages per second up to which the pause has its maximum; at twice that rate it is a quarter, 1.5 ms, so
that `df` follows the frame within 2 ms."""
RATE: Final = 400.0
"""Messages per second up to which each is read on arrival: a pause would rarely collect two."""
MEMORY: Final = 0.05
"""Seconds after which a message has a third of its weight in the rate: bursts at 20 Hz are a stream."""


class Gathering:
    """The messages of one socket. Times never decrease."""

    def __init__(self) -> None:
        self._lately = 0.0
        """The number of messages, weighted less the older they are."""
        self._at = float("-inf")

    def pause(self, messages: int, now: float) -> float:
        """Return the seconds to pause after reading this many messages at ``now``; 0.0: read on."""
        self._lately = self._lately * exp((self._at - now) / MEMORY) + messages
        self._at = now
        rate = self._lately / MEMORY
        if rate < RATE:
            return 0.0
        pause = LONGEST * min(1.0, FULL / rate) ** 2
        return pause if pause >= SHORTEST else 0.0
