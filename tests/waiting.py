"""Waiting in a test for what happens elsewhere: never a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], seconds: float = 10.0, what: Callable[[], object] = str
) -> None:
    """Wait until ``condition`` holds; fails, saying how things are instead."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds:g} s: {what()}"
        time.sleep(0.005)
