"""Track each row's ``xmin``, a version that every table has (docs/design/facts.md).

Two reads of a key with the same ``xmin`` saw the same row. Changes do not contain it, so a row touched by a
change has no known version until it is read again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import filterfalse
from typing import Any, Final

import numpy as np

from notebook_rt.model.rows import Key, Rows, WireRow
from notebook_rt.model.xmins import Ints, Xmins, integers, places

MANY: Final = 20_000
"""Number of integers from which on they are stored in arrays, once all are requested."""
FEW: Final = 8
"""Number of keys up to which they are looked up individually."""


class Versions:
    """Key to ``xmin``, for the rows whose last state came from a read.

    An entry of the dict has the ``xmin`` -1 in the arrays, like a key that has changed.
    """

    def __init__(self) -> None:
        self._xmin: dict[Key, int] = {}
        self._sorted = Xmins.of(self._xmin)
        self._left = 0
        """Sorted keys whose ``xmin`` is unknown."""
        self.forgotten: set[Key] = set()
        """The keys that have changed since `watch`."""
        self._watching = False

    def resume(self, known: Xmins) -> None:
        """Take the versions of another kernel for the same rows."""
        self._xmin = dict(known.others)
        self._sort(known.ints, known.values.copy())

    def _sort(self, ints: Ints, values: Ints) -> None:
        self._sorted = Xmins(ints, values, self._xmin)
        self._left = int(np.count_nonzero(values < 0))

    def known(self) -> Xmins:
        """Return a copy of all known versions."""
        return Xmins(self._sorted.ints, self._sorted.values.copy(), dict(self._xmin))

    def of(self, keys: Iterable[Key]) -> dict[Key, int]:
        """Return the known versions of ``keys``."""
        keys = list(keys)
        pairs = zip(keys, self._sorted.gather(keys), strict=True)
        return {key: xmin for key, xmin in pairs if xmin is not None}

    def note(self, key: Key, xmin: object) -> None:
        """Record a read of ``key`` with this ``xmin`` (None: not requested)."""
        self._drop(key)
        if isinstance(xmin, (int, str)):
            self._xmin[key] = int(xmin)

    def note_page(self, keys: Sequence[Key], page: Sequence[WireRow]) -> None:
        """Record a page of ``keys``, with their ``xmin`` if requested."""
        versions: list[Any] = [row.get("xmin") for row in page]
        if set(map(type, versions)) <= {str}:
            if len(self._sorted.ints):
                self._drop_all(keys)
            self._xmin.update(zip(keys, map(int, versions), strict=True))
        else:
            for key, xmin in zip(keys, versions, strict=True):
                self.note(key, xmin)

    def without(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of ``keys`` whose version is unknown."""
        if not len(self._sorted.ints):
            return list(filterfalse(self._xmin.__contains__, keys))
        keys = list(keys)
        pairs = zip(keys, self._sorted.gather(keys), strict=True)
        return [key for key, xmin in pairs if xmin is None]

    def missing(self, rows: Rows) -> list[Key]:
        """Return the keys of ``rows`` whose version is unknown."""
        here, known = rows.integers(), self.arrays()[0]
        if here is None or not isinstance(known, np.ndarray):
            return self.without(rows.keys())
        if len(here) == len(known) and (here == known).all():
            return []
        unknown: list[Key] = here[places(known, here) < 0].tolist()
        return unknown

    def forget(self, keys: Collection[Key]) -> None:
        """Record that ``keys`` have changed, to unknown versions."""
        self._drop_all(keys)
        if self._watching:
            self.forgotten.update(keys)

    def _drop(self, key: Key) -> None:
        if self._xmin.pop(key, None) is None and len(self._sorted.ints):
            place = self._sorted.place(key)
            if place >= 0 and self._sorted.values[place] >= 0:
                self._sorted.values[place] = -1
                self._left += 1

    def _drop_all(self, keys: Collection[Key]) -> None:
        """Like `_drop`, for many keys: individually they take three times as long."""
        wanted = integers(keys) if len(self._sorted.ints) and len(keys) > FEW else None
        if wanted is None:
            for key in keys:
                self._drop(key)
            return
        values = self._sorted.values
        at = places(self._sorted.ints, wanted)
        at = np.unique(at[at >= 0])
        self._left += int(np.count_nonzero(values[at] >= 0))
        values[at] = -1
        for key in keys:
            self._xmin.pop(key, None)

    def watch(self) -> None:
        """Record the changed keys from now on."""
        self.forgotten.clear()
        self._watching = True

    def unwatch(self) -> None:
        """Stop recording the changed keys."""
        self.forgotten.clear()
        self._watching = False

    def is_same(self, key: Key, xmin: object) -> bool:
        """Return whether a read with this ``xmin`` shows the row that is here."""
        return isinstance(xmin, (int, str)) and self._sorted.get(key) == int(xmin)

    def differing(self, keys: Sequence[Key], page: Sequence[WireRow]) -> list[Key]:
        """Return those of ``keys`` that have another ``xmin`` on the page than the known one."""
        versions: list[Any] = [row.get("xmin") for row in page]
        if set(map(type, versions)) <= {str}:
            return self.unlike(keys, list(map(int, versions)))
        told = zip(keys, versions, strict=True)
        return [key for key, xmin in told if not self.is_same(key, xmin)]

    def unlike(self, keys: Sequence[Key], xmins: Sequence[int]) -> list[Key]:
        """Return those of ``keys`` whose known version differs from these, or is unknown."""
        known = self._sorted.gather(keys)
        if known == xmins:  # most pages: decided at once
            return []
        pairs = zip(keys, known, xmins, strict=True)
        return [key for key, mine, theirs in pairs if mine != theirs]

    def arrays(self) -> tuple[Sequence[Key] | Ints, Ints]:
        """Return all keys and their versions; integers as a sorted array."""
        found = integers(self._xmin)
        ints, values = self._sorted.known()
        if found is None:
            own = np.fromiter(self._xmin.values(), np.int64, len(self._xmin))
            return [*ints.tolist(), *self._xmin], np.concatenate([values, own])
        if len(found):
            order = np.argsort(found, kind="stable")
            new = np.fromiter(self._xmin.values(), np.int64, len(found))[order]
            found = found[order]
            at = ints.searchsorted(found)
            ints, values = np.insert(ints, at, found), np.insert(values, at, new)
            if len(found) >= MANY:
                self._xmin = {}
                self._sort(ints, values.copy())
        return ints, values

    def __contains__(self, key: Key) -> bool:
        return self._sorted.get(key) is not None

    def clear(self) -> None:
        self._xmin = {}
        self._sort(np.empty(0, np.int64), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self._xmin) + len(self._sorted.ints) - self._left
