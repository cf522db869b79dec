"""User callbacks: each runs on a thread of its own, in order, isolated from everything else.

The network loop puts an item into a ``Mailbox`` and continues. A callback that sleeps delays only itself. An
exception in a callback is caught, counted, logged once with its traceback, and the callback is called again
for the next item. The thread starts with the first item and ends when no item arrives for a while.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from notebook_rt.errors import WaitTimeoutError
from notebook_rt.model.plain import duration
from notebook_rt.model.spec import check_text
from notebook_rt.runtime.host import running
from notebook_rt.sync.connection.metrics import Metrics

logger = logging.getLogger("notebook_rt")

IDLE_SECONDS = 5.0


class Mailbox:
    """Calls ``fn(*args)`` for each ``put(*args)``, one after the other.

    ``size`` limits the waiting items: above it the oldest item is dropped, and that is logged once. A
    coroutine function is run to its end on the mailbox's thread. ``counted`` counts its exceptions.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        size: int = 100_000,
        what: str = "callback",
        counted: Metrics | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"{what} needs a function to call, not {fn!r}")
        self.fn = fn
        self.what = what
        self.errors = 0
        self.dropped = 0
        self.holds: object = None
        """Kept alive as long as this mailbox."""
        self._size = size
        self._counted = counted
        self._items: deque[tuple[Any, ...]] = deque()
        self._ready = threading.Condition()
        self._running = False
        self._closed = False
        self._calling = False

    def put(self, *args: Any) -> None:
        with self._ready:
            if self._closed:
                return
            if len(self._items) >= self._size:
                self._items.popleft()
                self.dropped += 1
                if self.dropped == 1:
                    logger.warning("%s %r is too slow: its oldest items are lost", *self._name())
            self._items.append(args)
            if not self._running:
                thread = threading.Thread(target=self._run, name="notebook_rt-cb", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return  # from Python 3.12 on, while the interpreter shuts down
                self._running = True
            self._ready.notify()

    @property
    def waiting(self) -> int:
        """Number of waiting items."""
        return len(self._items)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being called."""
        return not self._items and not self._calling

    def close(self) -> None:
        """Drop the waiting items and make no more calls."""
        with self._ready:
            self._closed = True
            self.holds = None
            self._items.clear()
            self._ready.notify()

    def _name(self) -> tuple[str, str]:
        return self.what, getattr(self.fn, "__qualname__", type(self.fn).__name__)

    def _run(self) -> None:
        while True:
            with self._ready:
                if not self._items and not self._closed:
                    self._ready.wait(IDLE_SECONDS)
                if not self._items:
                    self._running = False
                    return
                args = self._items.popleft()
                self._calling = True
            try:
                result = self.fn(*args)
                if inspect.iscoroutine(result):
                    asyncio.run(result)
            except BaseException:  # sys.exit() in a callback, or a coroutine that was cancelled
                self.errors += 1
                if self._counted is not None:
                    self._counted.callback_errors += 1
                if self.errors == 1:
                    logger.exception("%s %r raised; it stays subscribed", *self._name())
            finally:
                self._calling = False


def wait_step(future: concurrent.futures.Future[Any], until: float | None) -> bool:
    """Return whether the future is done; wait for it a step short enough for Ctrl-C and a progress bar."""
    step = 0.1 if until is None else min(0.1, max(0.0, until - time.monotonic()))
    return bool(concurrent.futures.wait([future], step).done)


class FirstRow:
    """The first row that matches, or the error, for a thread that waits for it."""

    def __init__(self) -> None:
        self._future: concurrent.futures.Future[dict[str, Any]] = concurrent.futures.Future()
        self._reported: concurrent.futures.Future[None] = concurrent.futures.Future()

    def reported(self) -> None:
        """Note that the existing rows have been checked."""
        if not self._reported.done():
            self._reported.set_result(None)

    def notify(self, row: dict[str, Any]) -> None:
        """Report a row that matches."""
        if not self._future.done():
            self._future.set_result(row)
        self.reported()

    def fail(self, error: Exception) -> None:
        """Report that matches cannot be determined."""
        if not self._future.done():
            self._future.set_exception(error)
        self.reported()

    def wait(
        self, timeout: float | None, ends: float | None, check: Callable[[], object], what: str
    ) -> dict[str, Any]:
        """Return the row. Until monotonic ``ends``, ``timeout`` seconds; ``check`` raises if none will come.

        The existing rows are checked, however short the timeout is.

        Raises
        ------
        WaitTimeoutError
            If no row of ``what`` has matched by then.
        """
        while not wait_step(self._reported, None):
            check()
        while not wait_step(self._future, ends):
            check()
            if ends is not None and time.monotonic() >= ends:
                raise WaitTimeoutError(f"no row of {what} matches after {timeout:g} s")
        return self._future.result()


def check_alert(enter: object, leave: object, name: object, debounce: float) -> None:
    """Refuse arguments of ``when`` that cannot be called, stored as a name or waited for."""
    for called in (enter, leave):
        if not callable(called) and (called is enter or called is not None):
            raise TypeError(f"when needs a function to call with a row, not {called!r}")
    check_text(name, "name")
    if isinstance(name, str) and any("\ud800" <= one <= "\udfff" for one in name):
        raise ValueError(f"the name of an alert has half a character: {name!r}")
    duration(debounce, "debounce")


class Clock:
    """Puts into a mailbox every ``seconds`` seconds, on the loop; not while the last call still runs."""

    def __init__(self, box: Mailbox, seconds: float, over: Callable[[], bool]) -> None:
        self._box = box
        self._seconds = seconds
        self._over = over
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = loop.time() + self._seconds
        self._handle = loop.call_at(self._next, self._tick)

    def _tick(self) -> None:
        if self._over():
            return
        if self._box.idle:
            self._box.put()
        loop = asyncio.get_running_loop()
        self._next = max(self._next, loop.time() - self._seconds) + self._seconds
        self._handle = loop.call_at(self._next, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class _End:
    """A function that ends something, returned to the user; its repr, as a cell's last line, explains it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __call__(self) -> None:
        self._end()

    def __repr__(self) -> str:
        return "<ends when called>"


class Subscribers:
    """The callbacks of one object.

    When a cell is run again, its callbacks replace the earlier ones instead of being added a second time.
    """

    def __init__(self) -> None:
        self._places: dict[object, tuple[object, list[Callable[[], None]]]] = {}
        """Where callbacks were registered: the execution that registered them, and their unsubscribe
        functions."""

    def add(
        self,
        fn: Callable[..., Any],
        remove: Callable[[], None],
        *lists: list[Callable[[], None]],
    ) -> Callable[[], None]:
        """Remember ``fn``; return its unsubscribe function, which is in ``lists`` until it is called."""

        def end() -> None:
            remove()
            for some in lists:
                with contextlib.suppress(ValueError):
                    some.remove(unsubscribe)

        unsubscribe = _End(self._place(fn, end))
        for some in lists:
            some.append(unsubscribe)
        return unsubscribe

    def _place(self, fn: Callable[..., Any], remove: Callable[[], None]) -> Callable[[], None]:
        """Replace what the same cell registered in an earlier run."""
        run = running()
        if run is None:
            return remove
        execution = run.number
        place = _lines(fn) if run.cell is None else run.cell
        # Within one execution (a loop that registers lambdas) each one is a separate callback.
        before, removers = self._places.get(place, (execution, []))
        if before != execution:
            for unsubscribe_old in list(removers):
                unsubscribe_old()
            removers = []

        def unsubscribe() -> None:
            remove()
            with contextlib.suppress(ValueError):
                removers.remove(unsubscribe)
            if not removers and self._places.get(place, (0, None))[1] is removers:
                del self._places[place]

        removers.append(unsubscribe)
        self._places[place] = (execution, removers)
        return unsubscribe


def _lines(fn: Callable[..., Any]) -> object:
    """Identify a cell that has no name by the callback's code, and the object it is bound to.

    A callable without code, like ``print``, is the same wherever it is registered.
    """
    code = getattr(fn, "__code__", None)
    if code is None:
        return id(fn)
    bound = id(getattr(fn, "__self__", None))
    return code.co_filename, code.co_firstlineno, code.co_qualname, code.co_code, bound
