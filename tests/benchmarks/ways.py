"""Count the calls of one edit through the package: ``python -m tests.benchmarks.ways``.

On the embedded stack, in the steady state: the table is live, the file is open, the lease is held. In
goes one ``LiveTable.edit``; counted is what runs because of it, until the server's answer is merged:

- ``calls``: a function of the package is called, and the nearest function of the package below it on the
  stack is another module's. A coroutine counts when it is first run, not when it goes on.
- ``hops``: those of them from one folder of the tree to another. The words that all sides share
  (``model``, ``errors``), values that are made, and taking a lock are no hops.
- ``crossings``: work is handed to another thread, or a result comes back from one.

What the table's channel does with the event that the write causes is no part of it, nor are timers.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import notebook_rt as nrt
from notebook_rt.net.loop import PAUSE_SECONDS, shared
from tests.waiting import until

ELSEWHERE = (
    "local.",
    "net.supervisor",
    "net.websocket.",
    "runtime.buffer",
    "runtime.reader",
    "sync.",
    "widgets.",
)
"""Where something begins that is no part of the edit: the table's channel, timers, the embedded stack."""
WORDS = ("errors", "model")
CROSSINGS: frozenset[CodeType] = frozenset(
    fn.__code__
    for fn in (
        asyncio.BaseEventLoop.call_soon_threadsafe,
        concurrent.futures.ThreadPoolExecutor.submit,
    )
)
TABLE = """create table {0} (id int8 primary key, bid float8, size int8);
    insert into {0} select n, n, n from generate_series(1, 100) n;
    alter publication supabase_realtime add table {0};
    grant select, insert, update, delete on {0} to anon, authenticated, service_role"""


@dataclass(frozen=True, slots=True)
class Call:
    """One call between modules, or a crossing: names as ``module:function``."""

    thread: str
    caller: str
    callee: str

    @property
    def is_hop(self) -> bool:
        """Whether it leads from one folder of the tree to another."""
        there = _folder(self.callee)
        made = self.callee.endswith(".__init__")
        return there not in WORDS and not made and there != _folder(self.caller)

    def __str__(self) -> str:
        return f"{self.thread:20} {self.caller:50} {self.callee}"


@dataclass(slots=True)
class Trace:
    """What was counted of one edit."""

    calls: list[Call] = field(default_factory=list)
    crossings: list[Call] = field(default_factory=list)

    @property
    def hops(self) -> list[Call]:
        """The calls that lead from one folder of the tree to another."""
        return [call for call in self.calls if call.is_hop]

    @property
    def modules(self) -> set[str]:
        """The modules that it leads through."""
        named = (name for call in self.calls for name in (call.caller, call.callee))
        return {name.partition(":")[0] for name in named}

    def __str__(self) -> str:
        return (
            f"{len(self.calls)} calls between {len(self.modules)} modules, "
            f"{len(self.hops)} of them between folders; {len(self.crossings)} thread crossings"
        )


class Tracer:
    """Counts while it is on, on the threads that it was installed on."""

    def __init__(self) -> None:
        self._trace: Trace | None = None
        self._seen: dict[int, FrameType] = {}
        """By id, and kept, so that no other has it."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Be called for what runs on the loop's thread, and on those that start meanwhile."""
        threading.setprofile(self)
        shared().call(sys.setprofile, self)
        try:
            yield
        finally:
            threading.setprofile(None)  # type: ignore[arg-type]  # typeshed leaves out that None ends it
            shared().call(sys.setprofile, None)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        trace = self._trace
        if trace is None or event != "call":
            return
        crossing = frame.f_code in CROSSINGS
        if not (crossing or _module(frame)) or id(frame) in self._seen:
            return
        self._seen[id(frame)] = frame
        if frame.f_code.co_name in ("__enter__", "__exit__"):
            return
        below = [one for one in _below(frame) if _module(one) and not _is_loop(one)]
        if _module(below[-1] if below else frame).startswith(ELSEWHERE):
            return
        caller = _name(below[0]) if below else ""
        call = Call(threading.current_thread().name, caller, _name(frame))
        if crossing:
            trace.crossings.append(call)
        elif below and _module(below[0]) != _module(frame):
            trace.calls.append(call)

    def follow(self, edit: Callable[[], object], settled: Callable[[], object]) -> Trace:
        """The trace of one edit, until it is settled."""
        self._seen.clear()
        self._trace = trace = Trace()
        sys.setprofile(self)
        edit()
        sys.setprofile(None)
        while not settled():
            time.sleep(0.001)
        shared().call(lambda: None)  # what the loop was about to do is done
        self._trace = None
        return trace


def _below(frame: FrameType) -> Iterator[FrameType]:
    one = frame.f_back
    while one is not None:
        yield one
        one = one.f_back


def _module(frame: FrameType) -> str:
    """The package's module that a frame runs, without ``notebook_rt.``; empty: it is not ours."""
    name = str(frame.f_globals.get("__name__"))
    return name.removeprefix("notebook_rt.") if name.startswith("notebook_rt.") else ""


def _name(frame: FrameType) -> str:
    return f"{_module(frame)}:{frame.f_code.co_qualname}"


def _is_loop(frame: FrameType) -> bool:
    """Whether it only keeps the loop running."""
    return frame.f_code.co_qualname.startswith("LoopThread._run")


def _folder(name: str) -> str:
    """The folder of a function; empty: what a user holds, which stands beside the folders."""
    module = name.partition(":")[0]
    return module.partition(".")[0] if "." in module or module in WORDS else ""


def shortest(tracer: Tracer, table: nrt.LiveTable, edits: int = 12) -> Trace:
    """The shortest of several traces: now and then an edit meets the worker's look at the file.

    The rows are those with the keys from 1 on; the session began where ``tracer`` was installed.
    """
    traces = []
    table.edit(edits + 1, bid=-1.0)
    overlay = table._known().overlay  # the file says that an edit is done before the view does
    until(lambda: not overlay.edits)
    for key in range(1, edits + 1):
        assert len(table.df) > edits  # as a user does, and what an edit is based on
        time.sleep(2 * PAUSE_SECONDS)  # no wake of the edit before is still to come
        edit = partial(table.edit, key, bid=-1.0)
        traces.append(tracer.follow(edit, lambda: not overlay.edits))
    return min(traces, key=lambda trace: (len(trace.crossings), len(trace.hops), len(trace.calls)))


def main() -> None:
    """Print the way."""
    tracer = Tracer()
    with (
        tempfile.TemporaryDirectory() as name,
        nrt.local.start(Path(name) / "stack") as local,
        tracer.installed(),
        nrt.connect(local.url, local.anon_key, queue_path=Path(name) / "q.sqlite3") as rt,
    ):
        for statement in TABLE.format("quotes").split(";"):
            local.sql(statement)
        trace = shortest(tracer, rt.table("quotes").wait(60))
    print(*trace.calls, "", "Between folders", *trace.hops, "", "Between threads", sep="\n")
    print(*trace.crossings, "", trace, sep="\n")


if __name__ == "__main__":
    main()
