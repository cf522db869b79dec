"""When a socket is read next where messages come often: a few in one turn of the loop. Pure.

A turn of the loop for one message costs more than its share of a turn for several, and to be woken
costs as well (``docs/design/performance.md``, "Decided by measuring"). So while messages stream in, the
socket rests after each reading, for less the faster they come, and TCP keeps them meanwhile.
What comes after a silence is read at once: a change of a quiet table, the echo of an edit.
"""

from __future__ import annotations

from math import exp
from typing import Final

LONGEST: Final = 0.006
"""Seconds from one reading to the next: no message waits longer for the others."""
SHORTEST: Final = 0.001
"""A shorter pause is left out: messages that come so fast are read several at a time without it."""
FULL: Final = 1000.0
"""Messages a second up to which a pause is the longest one; of twice as many it is a quarter of that, 1.5 ms,
for `df` within 2 ms of the frame."""
RATE: Final = 400.0
"""Messages a second up to which each is read as it comes: a pause would rarely find two."""
MEMORY: Final = 0.05
"""Seconds after which a message counts for a third in the rate: what comes in bursts at 20 Hz is a stream."""


class Gathering:
    """The messages of one socket. Times never go back."""

    def __init__(self) -> None:
        self._lately = 0.0
        """The messages so far, each for less the longer ago it came."""
        self._at = float("-inf")

    def pause(self, messages: int, now: float) -> float:
        """Seconds after ``now``, when so many messages were read, in which to read no more; 0.0: read on."""
        self._lately = self._lately * exp((self._at - now) / MEMORY) + messages
        self._at = now
        rate = self._lately / MEMORY
        if rate < RATE:
            return 0.0
        pause = LONGEST * min(1.0, FULL / rate) ** 2
        return pause if pause >= SHORTEST else 0.0
