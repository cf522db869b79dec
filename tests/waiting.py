"""Waiting in a test for what happens elsewhere: never a fixed sleep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(
    condition: Callable[[], Any], seconds: float = 10.0, what: Callable[[], object] = str
) -> float:
    """Wait until ``condition`` holds; the seconds it took. Fails, saying how things are instead."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not after {seconds:g} s: {what()}"
        time.sleep(0.005)
    return time.monotonic() - began
