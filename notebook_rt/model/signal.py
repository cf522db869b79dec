"""A signal: notifies its listeners of events. The only way in which components listen to each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVarTuple

Args = TypeVarTuple("Args")


class Signal(Generic[*Args]):
    """Listeners, called in the order in which they were added, on the notifying thread.

    A listener may be added or removed during a notification. It must be quick and must not raise.

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
        """Call ``fn`` from now on; return a function that ends it."""
        self._listeners.append(fn)
        return partial(self.remove, fn)

    def remove(self, fn: Callable[[*Args], object]) -> None:
        """Stop calling ``fn``, if it is a listener."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(fn)

    def notify(self, *args: *Args) -> None:
        for listener in tuple(self._listeners):
            listener(*args)
