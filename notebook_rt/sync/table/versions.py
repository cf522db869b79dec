"""What is known of each row's ``xmin``: an equality version that every table has (docs/design/facts.md).

Two reads of a key with the same ``xmin`` saw the same row. Changes do not carry it, so a row that a
change touched has none until it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import filterfalse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from notebook_rt.model.rows import Key, WireRow


class Versions:
    """Key to ``xmin``, for the rows whose last state came from a read."""

    def __init__(self) -> None:
        self._xmin: dict[Key, int] = {}
        self.forgotten: set[Key] = set()
        """The keys that have changed since `watch`."""
        self._watching = False

    def resume(self, known: dict[Key, int]) -> None:
        """Take what another kernel knew of the same rows."""
        self._xmin = known

    def known(self) -> dict[Key, int]:
        """A copy of all that is known."""
        return dict(self._xmin)

    def of(self, keys: Iterable[Key]) -> dict[Key, int]:
        """What is known of ``keys``."""
        return {key: xmin for key in keys if (xmin := self._xmin.get(key)) is not None}

    def note(self, key: Key, xmin: object) -> None:
        """A read brought ``key`` with this ``xmin`` (None: the read did not ask)."""
        if isinstance(xmin, (int, str)):
            self._xmin[key] = int(xmin)
        else:
            self._xmin.pop(key, None)

    def note_page(self, keys: Sequence[Key], page: Sequence[WireRow]) -> None:
        """A page brought ``keys``, if it asked with their ``xmin``."""
        versions: list[Any] = [row.get("xmin") for row in page]
        if set(map(type, versions)) <= {str}:
            self._xmin.update(zip(keys, map(int, versions), strict=True))
        else:
            for key, xmin in zip(keys, versions, strict=True):
                self.note(key, xmin)

    def without(self, keys: Iterable[Key]) -> list[Key]:
        """Those of ``keys`` whose version is not known."""
        return list(filterfalse(self._xmin.__contains__, keys))

    def forget(self, key: Key) -> None:
        """``key`` has changed, to an unknown version."""
        self._xmin.pop(key, None)
        if self._watching:
            self.forgotten.add(key)

    def watch(self) -> None:
        """Note from now on which keys change."""
        self.forgotten.clear()
        self._watching = True

    def unwatch(self) -> None:
        """Note that no longer."""
        self.forgotten.clear()
        self._watching = False

    def is_same(self, key: Key, xmin: object) -> bool:
        """Whether a read of this ``xmin`` shows the row that is here."""
        return isinstance(xmin, (int, str)) and self._xmin.get(key) == int(xmin)

    def differing(self, keys: Sequence[Key], page: Sequence[WireRow]) -> list[Key]:
        """Those of ``keys`` that a page has brought with another ``xmin`` than is known."""
        versions: list[Any] = [row.get("xmin") for row in page]
        if set(map(type, versions)) <= {str}:
            known, read = list(map(self._xmin.get, keys)), list(map(int, versions))
            if known == read:  # most pages: told at once
                return []
            pairs = zip(keys, known, read, strict=True)
            return [key for key, mine, theirs in pairs if mine != theirs]
        told = zip(keys, versions, strict=True)
        return [key for key, xmin in told if not self.is_same(key, xmin)]

    def arrays(self) -> tuple[list[Key], NDArray[np.int64]]:
        """All keys, and their versions."""
        return list(self._xmin), np.fromiter(self._xmin.values(), np.int64, len(self._xmin))

    def __contains__(self, key: Key) -> bool:
        return key in self._xmin

    def clear(self) -> None:
        self._xmin.clear()

    def __len__(self) -> int:
        return len(self._xmin)
