"""The number of examples of a law, all at night and a part in other runs; and the place of its files.

CI draws the same ones each time, so that there more of them are more time and nothing else.
``HYPOTHESIS_PROFILE=whole`` draws all; ``./do nightly`` does so.
"""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
WHOLE = PROFILE != "ci"
FEWEST = 25


def examples(whole: int, part: int = 3) -> int:
    """``whole`` at night; else one of ``part`` of them, but no fewer than 25 where there are so many."""
    return whole if WHOLE else max(whole // part, min(whole, FEWEST))


def directory() -> TemporaryDirectory[str]:
    """A new directory for one example, in memory where the system has a place there.

    An outbox or a kept table waits for the disk with each write, which was most of a law's time.
    """
    memory = "/dev/shm"
    return TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
