"""The single thread that sends every widget's messages and handles every message from a browser.

The kernel's own loop is blocked while a cell runs, and its handlers may run on any of several threads
(design/notebooks.md, "Threads and loops"), so no work is done there: a comm handler only puts its message
into this thread's queue. View models are therefore used by this thread only and need no locks. Slow work (a
retry, an edit that writes the queue's file) is passed to one more thread, in order, so that a slow disk does
not delay drawing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeAlias

from notebook_rt.widgets.transport import Budget, Link

log = logging.getLogger("notebook_rt.widgets")
Send: TypeAlias = Callable[[dict[str, Any], tuple[bytes, ...]], object]
REST_SECONDS = 5.0
"""Seconds that a widget whose model raised is not called."""


class Pump:
    """Sends messages from links to comms.

    Parameters
    ----------
    clock
        Returns seconds, monotonic.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = Budget()
        self._clock = clock
        self._wake = threading.Condition()
        self._woken = False
        self._calls: deque[Callable[[], object]] = deque()
        self._links: dict[Link, Send] = {}
        self._resting: dict[Link, float] = {}
        self._thread: threading.Thread | None = None
        self._worker: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link, send: Send) -> None:
        """Send ``link``'s messages with ``send`` from now on."""
        self.call(lambda: self._links.__setitem__(link, send))

    def remove(self, link: Link) -> None:
        """Stop sending for ``link``."""
        self.call(lambda: (self._links.pop(link, None), self._resting.pop(link, None)))

    def mark(self, link: Link) -> None:
        """Note that ``link``'s model has something new; safe from any thread, cheap without visible views."""
        if link.mark(self.now()):
            self._notify()

    def now(self) -> float:
        """Return the time of the clock that all leases and budgets use, in seconds."""
        return self._clock()

    def call(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` on the pump's thread, soon."""
        self._calls.append(fn)
        self._notify()

    def act(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` after the earlier ones, on a thread that may wait."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="notebook_rt-actions")
        self._worker.submit(self._guarded, fn)

    def _notify(self) -> None:
        with self._wake:
            self._woken = True
            self._wake.notify()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="notebook_rt-widgets", daemon=True
                )
                with suppress(RuntimeError):  # from Python 3.12 on, at interpreter shutdown
                    self._thread.start()

    def _run(self) -> None:
        while True:
            pause = self.step()
            with self._wake:
                if not self._woken:
                    self._wake.wait(pause)
                self._woken = False

    def step(self) -> float | None:
        """Do what is due; return the seconds until the next step, or None."""
        while self._calls:
            self._guarded(self._calls.popleft())
        now = self.now()
        pauses: list[float] = []
        for link, send in tuple(self._links.items()):
            if self._resting.get(link, 0.0) > now:
                pauses.append(REST_SECONDS)
                continue
            try:
                for content, buffers in link.take(now):
                    send(content, buffers)
            except Exception:
                # One broken widget must not stop the others; it tries again with a whole state.
                log.exception("a widget could not be drawn: %s", type(link.model).__name__)
                self._resting[link] = now + REST_SECONDS
                link.mark(now)
            due = link.due(now)
            if due is not None:
                pauses.append(max(due - now, 0.001))
        return min(pauses, default=None)

    def _guarded(self, fn: Callable[[], object]) -> None:
        try:
            fn()
        except Exception:
            log.exception("a widget's handler failed")
