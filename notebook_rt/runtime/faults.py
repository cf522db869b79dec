"""What is computed from a session's tables and fails now, for its health.

In: derived frames, and listeners of ``map`` and ``sql``, when they fail and when they work again. Out: their
names and errors, for as long as anybody has them. What is closed, or has never shown anything, is not among
them: its error is told by what the user has called.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Faults:
    """See the module; for any thread. ``changed`` is called when there are others."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._last_errors: weakref.WeakKeyDictionary[object, tuple[str, str]] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def failed(self, one: object, name: str, error: BaseException) -> None:
        """``one``, which is called ``name``, shows what it showed last, and why."""
        with self._lock:
            before, now = self._last_errors.get(one), (name, str(error))
            self._last_errors[one] = now
        if before != now:
            self._changed()

    def over(self, one: object) -> None:
        """It is computed again, or closed."""
        with self._lock:
            gone = self._last_errors.pop(one, None)
        if gone is not None:
            self._changed()

    def all(self) -> list[tuple[str, str]]:
        """Names and errors, each once; those of what has just gone, not any more."""
        with self._lock:
            return list(dict.fromkeys(self._last_errors.values()))
