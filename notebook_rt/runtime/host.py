"""Which notebook this code runs in: a Jupyter kernel, marimo, or none of them.

Nothing in. Out: the running cell and its run, whether there is a front end to show a widget in, and
whether a cell runs now. Neither library is imported here: whoever runs in one has it loaded. marimo
tells its cell in a module that it does not promise to keep; where that is missing, cells have no
names, which is what a front end that does not name them looks like.
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
    """The cell's name; None where the front end gives none."""
    number: object
    """Differs from run to run."""


def running() -> Run | None:
    """The cell that runs in this thread; None outside a notebook."""
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
    """Whether somebody may be shown a widget."""
    return _marimo() is not None or kernel_shell() is not None


def is_interactive() -> bool:
    """Whether somebody sits in front of this process: a notebook, IPython, or Python's own prompt."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None or _marimo() is not None or hasattr(sys, "ps1")


def cell_runs() -> Callable[[], bool]:
    """What tells, from any thread, whether marimo runs a cell of this session now.

    It hands on nothing from the browser meanwhile, not even while the cell awaits.
    """
    context = _marimo()
    if context is None:
        return lambda: False
    return lambda: getattr(context, "execution_context", None) is not None


def at_session_end(fn: Callable[[], object]) -> Callable[[], object]:
    """Call ``fn`` when the session that runs in this thread ends; gives back how not to.

    ``marimo run`` serves each visitor from a thread of one process, and ends it without a word to
    what ran in it. What is kept for a thread alone goes with it, which is a word.
    """
    if _marimo() is None:
        return lambda: None
    if _thread.session is None:
        _thread.session = _Session()
    finalizer = weakref.finalize(_thread.session, fn)
    finalizer.atexit = False
    return finalizer.detach


def kernel_shell() -> Any:
    """The shell of the Jupyter kernel that this is, or None."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell if getattr(shell, "kernel", None) is not None else None


def _marimo() -> Any:
    """marimo's context of this thread, or None."""
    context = sys.modules.get("marimo._runtime.context")
    get = getattr(context, "safe_get_context", None)
    found = None if get is None else get()
    return found if type(found).__name__ == "KernelRuntimeContext" else None


class _Session:
    """Lives as long as a session of marimo."""


class _Thread(threading.local):
    """What is known of the session of marimo that runs in a thread."""

    session: _Session | None = None
    execution: object = None
    """The present run: each has an object of its own, and only this one is kept."""
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
