"""One background thread with one asyncio loop for every session of the process.

A cell that runs for a minute must not stop heartbeats or the processing of changes, so nothing live runs on
the kernel's loop (``docs/design/notebooks.md``, "Threads and loops"). The user's thread submits work with
``call`` and ``submit`` and waits on a lock, so Ctrl-C works. The thread is a daemon, starts with the first
session, and is shut down at exit: sessions are closed, tasks are cancelled and awaited, nothing is printed.
An exception of a task does not end it. After a fork, the child starts its own thread and forgets the
parent's.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent import futures
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from notebook_rt.errors import ClosedError

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger("notebook_rt")

EXIT_SECONDS = 2.0
"""Maximum seconds by which closing may delay the end of the process."""

IMPORT_SECONDS = 20.0
"""Additional seconds while the thread imports a library, as at the start of a session: a thread that ends
during an import keeps the import lock, for which Python then waits forever."""

LOOK_SECONDS = 0.5
"""Seconds between two checks for Ctrl-C while waiting: one at the beginning of the wait does not end it."""

PAUSE_SECONDS = 0.01
"""Minimum seconds between two wake-ups of the loop by a `WakingLock`."""

SLOW_SECONDS = 5.0
"""Longer turns of the loop are logged under ``python -X dev``; the first ones import libraries."""


def _into(future: Future[T], fn: Callable[[], T]) -> None:
    """Call ``fn`` and set its result or exception on the future."""
    if future.set_running_or_notify_cancel():
        try:
            result = fn()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)


class _Daemons(ThreadPoolExecutor):
    """Runs each call on a daemon thread: asyncio's blocking calls, such as resolving a host name. Python
    waits at exit for the threads of an ordinary pool, and so would wait for a name server that does not
    answer, and for a sleeping token function of the user.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        given = future, partial(fn, *args, **kwargs)
        name = "notebook_rt-beside"
        try:
            threading.Thread(target=_into, args=given, name=name, daemon=True).start()
        except RuntimeError as error:  # from Python 3.12 on, during its shutdown
            raise ConnectionAbortedError("Python is ending") from error
        return future


class LoopThread:
    """The thread and its loop. Use ``shared()``: there is one per process."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.slow_callback_duration = SLOW_SECONDS
        self.loop.set_default_executor(_Daemons())
        self.pid = os.getpid()
        self.at_exit: dict[int, Callable[[], Awaitable[None]]] = {}
        """Functions to await before the loop ends, by the ``id`` of their owner."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="notebook_rt", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_log_unhandled)
        try:
            while not self._run_until_stopped():
                pass
        finally:
            self.loop.close()

    def _run_until_stopped(self) -> bool:
        """Run the loop. Return False if asyncio let an exception through (``SystemExit`` of a user's
        function), while other sessions still need the loop.
        """
        try:
            self.loop.run_forever()
        except BaseException:
            logger.exception("on the network thread, which goes on")
            return False
        return True

    @property
    def here(self) -> bool:
        """Whether the caller runs on the loop's own thread."""
        return threading.current_thread() is self._thread

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task from the loop's thread, keep it alive, and log its failure."""
        task = self.loop.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)

    def post(self, fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run ``fn`` on the loop soon, from any thread, without a result."""
        self._check()
        with contextlib.suppress(RuntimeError):  # the loop ended after the check
            self.loop.call_soon_threadsafe(lambda: fn(*args, **kwargs))

    def submit(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coro`` on the loop, from any thread."""
        try:
            self._check()
            return asyncio.run_coroutine_threadsafe(coro, self.loop)
        except BaseException:  # Ctrl-C can come at any time
            coro.close()
            raise

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` on the loop and return its result; used by the user's thread to access the loop's
        state. On the loop's thread, call it directly.
        """
        if self.here:
            return fn(*args, **kwargs)

        future: Future[T] = Future()
        self._check()
        self.loop.call_soon_threadsafe(_into, future, partial(fn, *args, **kwargs))
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def wait(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run ``coro`` on the loop and wait for it; Ctrl-C cancels it.

        Raises
        ------
        TimeoutError
            If it took longer than ``timeout`` seconds; it is then cancelled.
        """
        if self.here:
            coro.close()
            raise RuntimeError("notebook_rt: waiting on the network thread would block it forever")
        future = self.submit(coro)
        ends = float("inf") if timeout is None else time.monotonic() + timeout
        try:
            while not future.done() and (left := ends - time.monotonic()) > 0:
                futures.wait([future], min(left, LOOK_SECONDS))
            return future.result(0)
        except CancelledError:
            raise ClosedError("the network thread") from None  # it is ending
        except BaseException:
            future.cancel()
            raise

    def _check(self) -> None:
        if self.pid != os.getpid():
            raise ClosedError("a session from before a fork")
        if self.loop.is_closed():
            raise ClosedError("the network thread")

    def stop(self) -> None:
        """Close every session, cancel and await the remaining tasks, and end the thread."""
        if self.pid != os.getpid() or not self._thread.is_alive():
            return

        async def shut_down() -> None:
            closings = [asyncio.ensure_future(close()) for close in list(self.at_exit.values())]
            if closings:
                await asyncio.wait(closings, timeout=EXIT_SECONDS / 2)
            rest = [t for t in asyncio.all_tasks(self.loop) if t is not asyncio.current_task()]
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest, timeout=EXIT_SECONDS / 2)
            for task in (*closings, *rest):
                if task.done() and not task.cancelled():
                    task.exception()  # retrieved, so that asyncio logs nothing at exit

        self.loop.set_exception_handler(lambda loop, context: None)
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(shut_down(), self.loop).result(EXIT_SECONDS + 0.5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1.0)
        ends = time.monotonic() + IMPORT_SECONDS
        while self._thread.is_alive() and _imports(self._thread) and time.monotonic() < ends:
            self._thread.join(0.02)


def _imports(thread: threading.Thread) -> bool:
    """Return whether a thread is importing a module."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


class WakingLock:
    """A reentrant lock with calls to make on the loop after its release, by one wake-up for all of them.

    An edit is stored in the queue's file and shown under one lock; one wake-up then notifies the worker
    and the listeners of both. A series of edits makes thousands of requests a second: requests within
    `PAUSE_SECONDS` are combined, because each wake-up costs both threads a byte through a pipe, and a
    transfer of the GIL.
    """

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._lock = threading.RLock()
        self._depth = 0
        self._holder = 0
        self._request_lock = threading.Lock()
        self._asked: dict[Callable[[], object], None] = {}
        self._busy = False
        """Whether the loop is being woken, or was within the last `PAUSE_SECONDS`."""

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        self._holder = threading.get_ident()

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        released = not self._depth
        if released:
            self._holder = 0
        self._lock.release()
        if released and self._asked:
            self._wake()

    def soon(self, fn: Callable[[], object]) -> None:
        """Call ``fn`` on the loop, once for several requests; from any thread, with or without the lock."""
        with self._request_lock:
            self._asked[fn] = None
        if self._holder != threading.get_ident():
            self._wake()

    def _wake(self) -> None:
        with self._request_lock:
            if self._busy or not self._asked:
                return
            self._busy = True
        if self._thread.here:
            self._thread.loop.call_soon(self._run)
            return
        with contextlib.suppress(ClosedError):  # the loop has ended: there is nobody to notify
            self._thread.post(self._run)

    def _run(self) -> None:
        with self._request_lock:
            asked, self._asked = self._asked, {}
            self._busy = bool(asked)
        for fn in asked:
            self._thread.loop.call_soon(fn)
        if asked:
            self._thread.loop.call_later(PAUSE_SECONDS, self._run)


def _log_unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    logger.error("on the network thread: %s", context["message"], exc_info=context.get("exception"))


_lock = threading.Lock()
_shared: LoopThread | None = None


def shared() -> LoopThread:
    """Return the process' loop thread; start it if there is none."""
    global _shared
    with _lock:
        if _shared is None or _shared.pid != os.getpid() or not _shared._thread.is_alive():
            _shared = LoopThread()
        return _shared


after_exit: list[Callable[[], object]] = []
"""Called when the process ends, after the end of the loop."""


def _stop_shared() -> None:
    if _shared is not None:
        _shared.stop()
    for end in after_exit:
        end()


def _forget_after_fork() -> None:
    global _shared, _lock
    _shared, _lock = None, threading.Lock()


atexit.register(_stop_shared)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_after_fork)
