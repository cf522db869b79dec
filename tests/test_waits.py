"""No test sleeps for a fixed time, and each timeout goes through ``tests/waiting.py``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent

FIXED = {
    "test_live_session.py::test_a_process_that_was_stopped_for_a_while_is_live_again_at_once": (
        "the time for which the process is stopped; nightly"
    ),
    "test_live_editing.py::"
    "test_what_others_do_right_after_my_write_is_seen_though_no_version_tells_the_order": (
        "the two seconds after a read in which a change is compared with the row"
    ),
    "faults/test_single_faults.py::test_an_unchanged_toast_column_is_unchanged": "the same",
    "faults/test_single_faults.py::test_a_burst_over_the_rate_limit_is_lost_silently_and_found": (
        "the server's window of five seconds, which nothing tells of"
    ),
    "net/test_loop.py::test_a_wait_that_times_out_cancels_what_it_waited_for": (
        "a long task, which is cancelled"
    ),
    "net/test_loop.py::test_stopped_it_says_so_and_leaves_no_thread": "the same",
    "outbox/kernel.py::edit_until_killed": "a process that is killed while it waits for an answer",
    "proxy.py::Proxy": "how long the proxy, a server, waits for a client that does not say goodbye",
}
"""What may wait for a fixed time, and why."""

PROGRAMS = ("benchmarks", "faults/measure.py", "browser/contenders.py", "waiting.py")
"""What measures, or waits for the others: no tests."""

SIMULATED = ("sync", "store")
"""Tests of a clock that is an argument: their ``wait`` takes no time."""


def constant(node: ast.expr | None) -> float:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) else 0


def called(call: ast.Call) -> str:
    """Such as ``time.sleep``; empty for what is no function of a module."""
    match call.func:
        case ast.Attribute(ast.Name(module), name):
            return f"{module}.{name}"
        case _:
            return ""


def fault(call: ast.Call) -> str | None:
    """What is wrong with the time that ``call`` waits."""
    first = call.args[0] if call.args else None
    if called(call) in ("time.sleep", "asyncio.sleep"):
        return "sleeps; wait with until() or throughout()" if constant(first) >= 0.5 else None
    limits = [keyword.value for keyword in call.keywords if keyword.arg == "timeout"]
    if first and isinstance(call.func, ast.Attribute) and call.func.attr in ("wait", "join"):
        limits.append(first)
    if called(call) in ("asyncio.wait_for", "asyncio.timeout"):
        limits += call.args[-1:]
    return "has a limit without scaled()" if any(constant(n) >= 1 for n in limits) else None


def gives_up(loop: ast.For) -> str | None:
    """Whether ``loop`` looks so many times and then goes on, whatever it saw."""
    counted = ast.unparse(loop.iter).startswith("range(") and ast.unparse(loop.target) == "_"
    looks = any(isinstance(step, ast.If) and is_break(step.body) for step in loop.body)
    waits = ".sleep(" in ast.unparse(loop.body[-1])
    wrong = counted and looks and waits and not loop.orelse
    return "goes on after so many looks; wait with until()" if wrong else None


def is_break(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Break)


def faults(source: str, name: str) -> Iterator[str]:
    for top in ast.parse(source).body:
        where = f"{name}::{getattr(top, 'name', '')}"
        if where not in FIXED:
            for node in ast.walk(top):
                if isinstance(node, ast.Call) and (wrong := fault(node)):
                    yield f"{where}, line {node.lineno}: {ast.unparse(node)} {wrong}"
                if isinstance(node, ast.For) and (wrong := gives_up(node)):
                    yield f"{where}, line {node.lineno}: {wrong}"


def test_what_waits_for_seconds_is_found() -> None:
    looks = "for _ in range(100):\n        if f():\n            break\n        time.sleep(0.02)"
    limits = ("f.wait(10)", "q.get(timeout=5)", "asyncio.wait_for(f, 5)", "asyncio.timeout(5)")
    for wrong in ("time.sleep(0.5)", "asyncio.sleep(2)", *limits, looks):
        assert list(faults(f"def test():\n    {wrong}", "a.py")), wrong
    for right in ("time.sleep(0.01)", "f.wait(scaled(10))", "f.wait(0.1)", "q.get(timeout=0.2)"):
        assert not list(faults(f"def test():\n    {right}", "a.py")), right


def test_no_test_waits_for_seconds() -> None:
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        if not name.startswith((*PROGRAMS, *SIMULATED)):
            found += faults(path.read_text(), name)
    assert not found, "\n".join(found)
