"""The path of an edit through the package stays short (docs/design/architecture.md, "An edit leaves")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.benchmarks.ways import TABLE, Trace, Tracer, shortest
from tests.waiting import scaled


def test_an_edit_takes_few_calls_and_five_thread_crossings(
    stack: LocalStack, sql: Callable[..., object], tmp_path: Path
) -> None:
    tracer = Tracer()
    for statement in TABLE.format("ways").split(";"):
        sql(statement)
    try:
        with (
            tracer.installed(),
            nrt.connect(stack.url, stack.anon_key, queue_path=tmp_path / "q.sqlite3") as rt,
        ):
            trace = shortest(tracer, rt.table("ways").wait(scaled(30)))
    finally:
        sql("drop table ways")
    wakes = [one for one in trace.crossings if one.thread == "MainThread"]
    assert len(wakes) <= 1, told(trace)
    assert len(trace.crossings) <= 5, told(trace)
    assert len(trace.hops) <= 30, told(trace)
    assert len(trace.calls) <= 200, told(trace)


def told(trace: Trace) -> str:
    return "\n".join(map(str, (trace, *trace.crossings, *trace.hops)))
