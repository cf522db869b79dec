"""Waiting for events in tests: never a fixed sleep, and every timeout in one place.

``NRT_TIME_FACTOR`` (default 1) makes every limit so many times as long, for a slow machine. A limit
says when a test gives up; it is no claim about speed. Each number of a test that limits a wait goes
through ``scaled``; ``until`` does so itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

TIME_FACTOR = float(os.environ.get("NRT_TIME_FACTOR", "1"))


def scaled(limit: float) -> float:
    """``limit`` on this machine: seconds, or Playwright's milliseconds."""
    return limit * TIME_FACTOR


def until(
    condition: Callable[[], Any], seconds: float = 10.0, what: Callable[[], object] = str
) -> float:
    """Wait until ``condition`` holds; the seconds it took. Fails, saying how things are instead.

    ``seconds`` are those of a machine of normal speed. The longer it waits, the less often it looks, at
    most a tenth of the time late: a look costs the processor a millisecond in SQL, ten in a browser.
    """
    limit, began = scaled(seconds), time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < limit, f"not after {limit:g} s: {what()}"
        time.sleep(min(max(waited / 10, 0.005), 0.1))
    return time.monotonic() - began


def throughout(
    condition: Callable[[], Any], seconds: float, what: Callable[[], object] = str
) -> None:
    """Check for ``seconds`` that ``condition`` holds: for what must not happen, which no signal tells.

    The time belongs to the claim and gives nobody up, so no factor makes it longer.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        assert condition(), f"no longer: {what()}"
        time.sleep(0.02)
    assert condition(), f"no longer: {what()}"
