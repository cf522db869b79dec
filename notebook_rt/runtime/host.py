"""The notebook that this code runs in: a Jupyter kernel, marimo, or none.

Output: the running cell and its run, whether there is a front end that can show a widget, and whether a cell
is running. Neither library is imported here: code that runs in one has it loaded. marimo exposes its cell in
a module that is not a stable API; without it, cells have no names, as in a front end that does not name them.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import msgspec


class Run(msgspec.Struct, frozen=True):
    """One run of one cell."""

    cell: str | None
    """The cell's name; None if the front end gives none."""
    number: object
    """Differs between runs."""


def running() -> Run | None:
    """Return the cell that runs in this thread; None outside a notebook."""
    context = _marimo()
    if context is not None:
        return _marimo_run(context)
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None:
        return None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    metadata = parent.get("metadata") if isinstance(parent, dict) else None
    # JupyterLab, Notebook 7 and VS Code name the cell; Voila and consoles do not.
    cell = metadata.get("cellId") if isinstance(metadata, dict) else None
    return Run(cell if isinstance(cell, str) else None, getattr(shell, "execution_count", 0))


def has_front_end() -> bool:
    """Return whether there is a front end that can show a widget."""
    return _marimo() is not None or kernel_shell() is not None


def is_interactive() -> bool:
    """Return whether the process is interactive: a notebook, IPython, or Python's own prompt."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None or _marimo() is not None or hasattr(sys, "ps1")


def cell_runs() -> Callable[[], bool]:
    """Return a function, for any thread, that returns whether marimo is running a cell of this session.

    While a cell runs, marimo forwards nothing from the browser, not even while the cell awaits.
    """
    context = _marimo()
    if context is None:
        return lambda: False
    return lambda: getattr(context, "execution_context", None) is not None


def at_session_end(fn: Callable[[], object]) -> Callable[[], object]:
    """Call ``fn`` when the session that runs in this thread ends; return a function that cancels this.

    ``marimo run`` serves each visitor from a thread of one process, and ends the thread without notifying the
    code that ran in it. Thread-local data is released with the thread; that is the notification used here.
    """
    if _marimo() is None:
        return lambda: None
    if _thread.session is None:
        _thread.session = _Session()
    finalizer = weakref.finalize(_thread.session, fn)
    finalizer.atexit = False
    return finalizer.detach


def kernel_shell() -> Any:
    """Return the shell of this Jupyter kernel, or None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _marimo() -> Any:
    """Return marimo's context of this thread, or None."""
    context = sys.modules.get("marimo._runtime.context")
    get = getattr(context, "safe_get_context", None)
    found = None if get is None else get()
    return found if type(found).__name__ == "KernelRuntimeContext" else None


class _Session:
    """Lives as long as a session of marimo."""


class _Thread(threading.local):
    """What is known about the marimo session that runs in a thread."""

    session: _Session | None = None
    execution: object = None
    """The current run: each run has its own object, and only the current one is kept."""
    runs = 0


_thread = _Thread()


def _marimo_run(context: Any) -> Run | None:
    execution = getattr(context, "execution_context", None)
    cell = getattr(execution, "cell_id", None)
    if cell is None:
        return None
    if execution is not _thread.execution:
        _thread.execution, _thread.runs = execution, _thread.runs + 1
    # Two visitors of one app run the same cells, each in a thread of its own.
    return Run(f"{cell} {threading.get_ident()}", _thread.runs)
