"""Progress bars for a first snapshot and for a flush of the queue."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from notebook_rt.runtime.feed import Feed

LOOK_SECONDS = 0.2
"""Seconds between two counts of waiting writes: the worker uses the file, too."""


def at_least(done: int, total: int | None) -> int | None:
    """Return the number of rows to load, where ``total`` is the server's estimate."""
    return None if total is None else max(done, total)


class WritesBar:
    """A progress bar for writes that take long to be sent, in a notebook or a terminal."""

    def __init__(self, after: float) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._seen = terminal or "ipykernel" in sys.modules
        self._at = time.monotonic() + after
        self._total = 0
        self._bar: Any = None

    def __enter__(self) -> WritesBar:
        return self

    def show(self, waiting: Callable[[], int]) -> None:
        """Show how many writes still wait; ``waiting`` is called only if the bar is shown."""
        if not self._seen or time.monotonic() < self._at:
            return
        left = waiting()
        self._total = max(self._total, left)
        if self._bar is None:
            from tqdm.auto import tqdm  # type: ignore[import-untyped]  # it ships no types

            self._bar = tqdm(total=self._total, desc="writes", unit=" writes")
        self._bar.total = self._total
        self._bar.update(self._total - left - self._bar.n)
        self._at = time.monotonic() + LOOK_SECONDS

    def __exit__(self, kind: object, *error: object) -> None:
        if self._bar is not None:
            if kind is None:  # a bar that is closed early is drawn as a failure
                self._bar.update(self._total - self._bar.n)
            self._bar.close()


class Bar:
    """A progress bar for a first snapshot that takes long; silent without a terminal or kernel."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._since = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def show(self) -> None:
        progress = self._feed.progress
        late = time.monotonic() - self._since > self._feed.options.progress_after
        if progress is None or not late:
            return
        if self._bar is None:
            from tqdm.auto import tqdm

            # A kernel's stderr is not a terminal, but its output is shown.
            silent = None if "ipykernel" not in sys.modules else False
            self._bar = tqdm(
                total=progress.total, desc=self._feed.name, unit=" rows", disable=silent
            )
        self._bar.total = at_least(progress.done, progress.total)
        self._bar.update(progress.done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            table = self._feed.table
            if table is not None:  # a bar that is closed early is drawn as a failure
                self._bar.total = len(table)
                self._bar.update(len(table) - self._bar.n)
            self._bar.close()
