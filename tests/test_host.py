"""The notebook's environment: marimo's cells and visitors, and a marimo script."""

from __future__ import annotations

import gc
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import marimo
import pytest

from notebook_rt.runtime import host


@dataclass
class Execution:
    """marimo's own compares by value too: two runs of a cell are equal, and not the same."""

    cell_id: str


def test_outside_a_notebook_nothing_runs_and_nobody_looks() -> None:
    assert host.running() is None
    assert not host.has_front_end()
    assert not host.cell_runs()()


def test_a_marimo_notebook_run_as_a_script_has_no_front_end() -> None:
    app = marimo.App()

    @app.cell
    def _() -> tuple[object]:
        from notebook_rt.runtime import host

        found = (host.has_front_end(), host.running())
        return (found,)

    _, names = app.run()
    assert names["found"] == (False, None)


def test_each_run_of_a_marimo_cell_is_distinguished_and_each_visitor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = SimpleNamespace(execution_context=Execution("a"))
    monkeypatch.setattr(host, "_marimo", lambda: context)
    first = host.running()
    assert host.running() == first
    assert host.cell_runs()()
    context.execution_context = Execution("a")
    again = host.running()
    assert first is not None
    assert again is not None
    assert (again.cell == first.cell, again.number == first.number) == (True, False)
    of_others: list[host.Run | None] = []
    visitor = threading.Thread(target=lambda: of_others.append(host.running()))
    visitor.start()
    visitor.join()
    assert of_others[0] is not None
    assert of_others[0].cell != first.cell
    context.execution_context = None
    assert host.running() is None
    assert not host.cell_runs()()


def test_the_end_of_a_visitor_s_thread_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_marimo", lambda: object())
    told: list[str] = []

    def visit() -> None:
        host.at_session_end(lambda: told.append("left"))
        host.at_session_end(lambda: told.append("closed before"))()
        assert told == []

    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    del visitor
    gc.collect()
    assert told == ["left"]
