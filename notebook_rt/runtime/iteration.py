"""Changes as an iterator, for ``for`` and ``async for``: the result of ``LiveFrame.changes``.

Input: the batches of a feed, on the loop thread. Output: the same batches, in order, on the thread or loop
that iterates. The waiting batches are limited: the oldest is dropped first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from notebook_rt.errors import ClosedError
from notebook_rt.quoting import printable
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.feed import Feed
from notebook_rt.sync.events import Status
from notebook_rt.tracebacks import fresh


class Changes:
    """Batches of changes as an iterator, sync and async; made by ``LiveFrame.changes``."""

    def __init__(
        self,
        feed: Feed,
        timeout: float | None,
        for_: float | None = None,
        taken: Callable[[ChangeBatch], object] | None = None,
        holds: object = None,
    ) -> None:
        self._feed = feed
        self._taken = taken
        """Called with each batch that is returned, in the thread that iterates."""
        self._holds = holds
        """Kept alive until the iteration is over or garbage-collected: the frame, even if no variable holds
        it."""
        self._timeout = timeout
        self._until = None if for_ is None else time.monotonic() + for_
        self._batches: deque[ChangeBatch] = deque(maxlen=feed.options.buffer_size)
        self._ready = threading.Condition()
        self._wake: Callable[[], object] | None = None
        self._over = False
        self._error: Exception | None = None
        """Why the table ended; raised once, after the earlier batches."""
        thread = feed.thread
        # Weakly: a loop that is left with ``break`` closes nothing, and must still be garbage-collected.
        weak = weakref.ref(self)

        def put(batch: ChangeBatch | None) -> None:
            if (changes := weak()) is not None:
                changes._put(batch)

        def on_status(status: Status, reason: str) -> None:
            if status == "closed":
                put(None)
            elif status == "error" and (changes := weak()) is not None:
                changes._fail(feed.error)

        def listen() -> None:
            feed.listeners.add(put)
            feed.status_listeners.add(on_status)
            on_status(feed.status, feed.reason)

        def leave() -> None:
            thread.post(feed.listeners.remove, put)
            thread.post(feed.status_listeners.remove, on_status)

        thread.call(listen)
        self._leave = weakref.finalize(self, _unless_closed, leave)
        self._leave.atexit = False

    def __repr__(self) -> str:
        state = "over" if self._over else f"{len(self._batches):,} waiting"
        return printable(f"<Changes of {self._feed.name}, {state}: iterate with for or async for>")

    def _fail(self, error: Exception | None) -> None:
        if not self._over:
            self._error = error
            self._put(None)

    def _put(self, batch: ChangeBatch | None) -> None:
        with self._ready:
            if batch is None:
                self._over = True
            else:
                self._batches.append(batch)
            self._ready.notify_all()
            if self._wake is not None:
                with contextlib.suppress(RuntimeError):  # the consumer's loop has ended
                    self._wake()

    def __iter__(self) -> Iterator[ChangeBatch]:
        return self

    def __next__(self) -> ChangeBatch:
        try:
            with self._ready:
                self._ready.wait_for(lambda: self._batches or self._over, self._patience())
        except KeyboardInterrupt as interrupt:
            raise interrupt.with_traceback(None) from None  # hides the lines of the wait
        batch = self._next()
        if batch is None:
            raise StopIteration
        return batch

    def __aiter__(self) -> AsyncIterator[ChangeBatch]:
        return self

    async def __anext__(self) -> ChangeBatch:
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        with self._ready:
            self._wake = lambda: loop.call_soon_threadsafe(event.set)
            if self._batches or self._over:
                event.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience()):
                    await event.wait()
        finally:
            with self._ready:
                self._wake = None
        batch = self._next()
        if batch is None:
            raise StopAsyncIteration
        return batch

    def _patience(self) -> float | None:
        """Return the seconds to wait for the next batch; None: no limit."""
        left = None if self._until is None else max(0.0, self._until - time.monotonic())
        return min((one for one in (self._timeout, left) if one is not None), default=None)

    def _next(self) -> ChangeBatch | None:
        """Return the next batch that is here. At the end, return None or raise the table's error."""
        with self._ready:
            batch = self._batches.popleft() if self._batches else None
        if batch is None:
            error, self._error = self._error, None
            self.close()
            if error is not None:
                raise fresh(error)
        elif self._taken is not None:
            self._taken(batch)
        return batch

    def close(self) -> None:
        """Stop listening; a waiting consumer gets the batches that are here, and no more."""
        self._leave()
        self._put(None)
        self._holds = None


def _unless_closed(leave: Callable[[], None]) -> None:
    with contextlib.suppress(ClosedError):
        leave()
