"""A signal: something happens, and whoever has asked is told. The one way in which parts listen to others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVarTuple

Args = TypeVarTuple("Args")


class Signal(Generic[*Args]):
    """Listeners, told in the order in which they came, on the thread that tells.

    A listener may come or go while others are told. It must be quick and must not raise.

    >>> heard = []
    >>> signal = Signal()
    >>> stop = signal.add(heard.append)
    >>> signal.notify(1)
    >>> stop()
    >>> signal.notify(2)
    >>> heard
    [1]
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[*Args], object]] = []

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, fn: Callable[[*Args], object]) -> Callable[[], None]:
        """Have ``fn`` told from now on; returns what ends it."""
        self._listeners.append(fn)
        return partial(self.remove, fn)

    def remove(self, fn: Callable[[*Args], object]) -> None:
        """Tell ``fn`` no more, if it was."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(fn)

    def notify(self, *args: *Args) -> None:
        for listener in tuple(self._listeners):
            listener(*args)
