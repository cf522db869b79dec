"""The current failures of what is computed from a session's tables, for its health.

Input: derived frames, and listeners of ``map`` and ``sql``, when they fail and when they work again. Output:
their names and errors, as long as they are alive. Objects that are closed, or have never shown anything, are
not included: their error is raised by the user's own call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable


class Faults:
    """See the module; for any thread. ``changed`` is called when the failures change."""

    def __init__(self, changed: Callable[[], object]) -> None:
        self._changed = changed
        self._last_errors: weakref.WeakKeyDictionary[object, tuple[str, str]] = (
            weakref.WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def failed(self, one: object, name: str, error: BaseException) -> None:
        """Note that ``one``, named ``name``, still shows its last result, because of ``error``."""
        with self._lock:
            before, now = self._last_errors.get(one), (name, str(error))
            self._last_errors[one] = now
        if before != now:
            self._changed()

    def over(self, one: object) -> None:
        """Note that it is computed again, or closed."""
        with self._lock:
            gone = self._last_errors.pop(one, None)
        if gone is not None:
            self._changed()

    def all(self) -> list[tuple[str, str]]:
        """Return names and errors, each once; not those of objects that no longer exist."""
        with self._lock:
            return list(dict.fromkeys(self._last_errors.values()))
