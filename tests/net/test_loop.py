"""The loop thread and the callback threads: safe from any thread, quiet at the end."""

from __future__ import annotations

import asyncio
import builtins
import logging
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from notebook_rt.errors import ClosedError
from notebook_rt.net import loop
from notebook_rt.net.loop import PAUSE_SECONDS, LoopThread, WakingLock, shared
from notebook_rt.runtime.callbacks import Mailbox, Subscribers
from notebook_rt.runtime.host import Run
from notebook_rt.sync.connection.metrics import Metrics
from tests.waiting import scaled, until


def test_one_loop_serves_the_process() -> None:
    assert shared() is shared()
    names = {shared().call(lambda: threading.current_thread().name) for _ in range(3)}
    assert names == {"notebook_rt"}


def test_waiting_on_the_loops_own_thread_is_refused_and_not_a_deadlock() -> None:
    thread = shared()
    with pytest.raises(RuntimeError, match="network thread"):
        thread.call(lambda: thread.wait(asyncio.sleep(0)))


def test_a_wait_that_times_out_cancels_what_it_waited_for() -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        shared().wait(forever(), 0.05)
    assert cancelled.wait(scaled(1))


def test_a_task_that_fails_is_logged_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("mine")

    thread = shared()
    thread.call(thread.spawn, fail(), "a doomed task")
    until(lambda: any("a doomed task failed" in r.message for r in caplog.records))
    assert thread.call(lambda: 1) == 1


def test_stopped_it_says_so_and_leaves_no_thread() -> None:
    thread = LoopThread()
    closed: list[bool] = []

    async def close() -> None:
        closed.append(True)

    thread.at_exit[1] = close
    thread.call(thread.spawn, asyncio.sleep(60), "a long sleep")
    began = time.monotonic()
    thread.stop()
    assert time.monotonic() - began < scaled(2)
    assert closed == [True]
    assert not thread._thread.is_alive()
    with pytest.raises(ClosedError):
        thread.call(lambda: 1)


def test_while_it_loads_a_module_the_end_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by Python in the middle of that, it would keep the lock that every import needs."""
    (tmp_path / "slow_to_load.py").write_text("import builtins\nbuiltins.let_it.wait(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loop, "EXIT_SECONDS", 0.0)
    let_it = threading.Event()
    monkeypatch.setattr(builtins, "let_it", let_it, raising=False)
    thread = LoopThread()
    thread.post(lambda: import_module("slow_to_load"))
    until(lambda: "slow_to_load" in sys.modules)
    threading.Timer(2.0, let_it.set).start()  # stop() has asked the loop in vain by then
    thread.stop()
    assert let_it.is_set()
    until(lambda: not thread._thread.is_alive())


def test_what_is_asked_for_again_and_again_is_done_soon_but_not_each_time() -> None:
    asked: list[int] = []
    seen: list[int] = []
    lock = WakingLock(shared())

    def look() -> None:
        seen.append(len(asked))

    began = time.monotonic()
    for number in range(20_000):
        asked.append(number)
        lock.soon(look)
    until(lambda: seen and seen[-1] == 20_000)
    assert len(seen) <= (time.monotonic() - began) / PAUSE_SECONDS + 1


def test_what_is_asked_for_after_a_rest_or_a_failure_is_done_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = 0

    def fail_at_first() -> None:
        nonlocal done
        done += 1
        if done == 1:
            raise ValueError("mine")

    lock = WakingLock(shared())
    for times in (1, 2, 3):
        lock.soon(fail_at_first)
        until(lambda times=times: done == times)
        time.sleep(PAUSE_SECONDS * (times - 1) * 2)
    assert "on the network thread" in caplog.text


def test_what_is_asked_for_under_the_lock_is_done_by_one_wake_once_it_is_released() -> None:
    thread, done = LoopThread(), []
    wakes = []
    post = thread.post
    thread.post = lambda fn, *args: (wakes.append(fn), post(fn, *args))  # type: ignore[method-assign]  # counted
    lock = WakingLock(thread)

    def show() -> None:
        done.append("show")

    def send() -> None:
        done.append("send")

    with lock:
        lock.soon(show)
        with lock:
            lock.soon(send)
            lock.soon(show)
        thread.call(lambda: None)
        assert not done
    until(lambda: len(done) == 2)
    thread.call(lambda: None)
    assert (done, len(wakes)) == (["show", "send"], 1)
    thread.stop()


def test_a_mailbox_calls_in_order_on_one_thread_and_its_thread_goes() -> None:
    heard: list[int] = []
    box = Mailbox(heard.append)
    for number in range(1000):
        box.put(number)
    until(lambda: len(heard) == 1000)
    assert heard == list(range(1000))


def test_a_mailbox_is_bounded_and_drops_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    go, heard = threading.Event(), []

    def slow(number: int) -> None:
        go.wait(scaled(5))
        heard.append(number)

    box = Mailbox(slow, size=10)
    box.put(0)
    until(lambda: not box._items)
    for number in range(1, 101):
        box.put(number)
    go.set()
    until(lambda: len(heard) == 11)
    assert heard == [0, *range(91, 101)]
    assert box.dropped == 90
    assert sum("too slow" in record.message for record in caplog.records) == 1


def test_a_coroutine_function_is_awaited() -> None:
    heard: list[Any] = []

    async def fn(item: int) -> None:
        await asyncio.sleep(0)
        heard.append(item)

    Mailbox(fn).put(7)
    until(lambda: heard == [7])


def test_closed_a_mailbox_calls_nobody() -> None:
    heard: list[int] = []
    box = Mailbox(heard.append)
    box.close()
    box.put(1)
    time.sleep(0.05)
    assert heard == []


def test_a_cell_run_again_replaces_its_callback_a_loop_in_one_cell_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cell = 1
    monkeypatch.setattr("notebook_rt.runtime.callbacks.running", lambda: Run(None, cell))
    removed: list[str] = []
    subscribers = Subscribers()

    def register(name: str) -> None:
        subscribers.add(lambda: None, lambda: removed.append(name))

    register("a")
    register("b")
    assert removed == []
    cell = 2
    register("c")
    assert removed == ["a", "b"]
    cell = 3
    subscribers.add(print, lambda: removed.append("print"))
    subscribers.add(print, lambda: removed.append("print too"))()
    assert removed == ["a", "b", "print too"]


def test_a_cell_with_a_name_replaces_what_it_registered_and_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    present = Run("a", 1)
    monkeypatch.setattr("notebook_rt.runtime.callbacks.running", lambda: present)
    removed: list[str] = []
    subscribers = Subscribers()

    def register(name: str) -> None:
        subscribers.add(lambda: None, lambda: removed.append(name))

    register("first of a")
    present = Run("b", 2)
    register("of b, by the same lines")
    assert removed == []
    present = Run("a", 3)
    subscribers.add(print, lambda: removed.append("edited"))
    assert removed == ["first of a"]


def test_two_objects_methods_are_two_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def show(self) -> None: ...

    subscribers, removed, screens = Subscribers(), list[int](), [Screen(), Screen()]
    for number, screen in enumerate(screens):
        monkeypatch.setattr(
            "notebook_rt.runtime.callbacks.running", lambda number=number: Run(None, number)
        )
        subscribers.add(screen.show, lambda number=number: removed.append(number))
    assert removed == []


def test_a_logger_that_says_everything_never_says_a_token(
    stack: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import notebook_rt as nrt

    caplog.set_level(logging.DEBUG)
    token = stack.token("authenticated", "00000000-0000-0000-0000-000000000001", 600)
    with nrt.connect(stack.url, stack.anon_key, access_token=token) as rt:
        rt.channel("logged").wait(scaled(10))
        with pytest.raises(nrt.NotebookRTError):
            rt.table("no_such_table").wait(scaled(10))
        said = repr([rt, rt.metrics, rt.health, rt.channel("logged")])
    said += caplog.text
    assert token not in said
    assert token.split(".")[2] not in said
    assert stack.anon_key not in said


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_callback_that_ends_python_is_counted_and_called_again(
    ending: type[BaseException],
) -> None:
    counted, heard = Metrics(), list[int]()

    async def later(number: int) -> None:
        heard.append(number)
        raise ending

    box = Mailbox(later, counted=counted)
    for number in range(3):
        box.put(number)
    until(lambda: heard == [0, 1, 2])
    until(lambda: counted.callback_errors == 3)


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_nothing_that_a_task_raises_ends_the_thread_of_everybody(
    ending: type[BaseException],
) -> None:
    async def end() -> None:
        raise ending

    thread = LoopThread()
    try:
        with pytest.raises(ending):
            thread.wait(end(), 5)
        assert thread.call(lambda: 1) == 1
    finally:
        thread.stop()
