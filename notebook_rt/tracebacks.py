"""Tracebacks of errors: which entries a notebook prints, and errors without the stack they came up on."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any, Final

_INSIDE: Final = ("notebook_rt", "concurrent.futures")
"""Packages whose calls are left out of what a notebook prints."""


def outside(stack: TracebackType | None) -> TracebackType | None:
    """The entries of a traceback that are not of this package."""
    kept = []
    while stack is not None:
        name = f"{stack.tb_frame.f_globals.get('__name__', '')}."
        if not any(name.startswith(f"{package}.") for package in _INSIDE):
            kept.append(stack)
        stack = stack.tb_next
    shown = None
    for entry in reversed(kept):
        shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shown


def rendered(error: Exception) -> list[str]:
    """What IPython prints for ``error``: the user's own lines and the message."""
    stack = outside(error.__traceback__)
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None:
        return traceback.format_exception(type(error), error, stack)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(error), error, stack)
    return lines


def fresh(error: Exception) -> Exception:
    """``error``, to be raised where it is asked for: without the stack of the thread it came up on.

    It is another object each time: one that is kept would keep the stack it was last raised in, and
    all that this holds, such as the frame of a table whose name was mistyped.
    """
    error.__traceback__ = None
    copy = remade(type(error), error.args)
    copy.__dict__.update(error.__dict__)
    return copy


def remade(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    """An error of this kind that says this: ``args`` are not what its ``__init__`` takes."""
    return kind.__new__(kind, *args)
