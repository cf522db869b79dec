"""The ``xmin`` of many rows by their keys: in two arrays if the keys are integers, else in a dict.

A dict of a million integers takes a quarter of a second to make, and 100 MB.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from notebook_rt.model.rows import Key

Ints: TypeAlias = NDArray[np.int64]


def integers(keys: Collection[Key]) -> Ints | None:
    """Return ``keys`` as an array, if each is an int of at most 64 bits."""
    if not set(map(type, keys)) <= {int}:
        return None
    try:
        return np.fromiter(keys, np.int64, len(keys))
    except OverflowError:
        return None


def places(among: Ints, keys: Ints) -> Ints:
    """Return the position of each of ``keys`` in the sorted ``among``; -1 if it is not there."""
    if not len(among):
        return np.full(len(keys), -1, np.int64)
    found = np.minimum(among.searchsorted(keys), len(among) - 1)
    return np.where(among[found] == keys, found, -1)


def without(among: Ints, keys: Ints) -> Ints:
    """Return the sorted ``among`` without ``keys``."""
    at = places(among, keys)
    return np.delete(among, at[at >= 0])


def merge_sorted(among: Ints, keys: Ints) -> Ints:
    """Return the sorted union of ``among`` and ``keys``; a few keys do not need a full sort."""
    new = np.unique(keys[places(among, keys) < 0])
    return np.insert(among, among.searchsorted(new), new)


class Xmins(msgspec.Struct, frozen=True, eq=False):
    """The known ``xmin`` values at one time; no key is in both parts."""

    ints: Ints
    """Keys, sorted."""
    values: Ints
    """The ``xmin`` of each; -1 if unknown."""
    others: Mapping[Key, int]

    @classmethod
    def of(cls, known: Mapping[Key, int]) -> Xmins:
        """Make one from a dict."""
        return cls(np.empty(0, np.int64), np.empty(0, np.int64), known)

    def gather(self, keys: Sequence[Key]) -> list[int | None]:
        """Return the ``xmin`` of each of ``keys``; None if unknown."""
        found: list[int | None] = list(map(self.others.get, keys))
        if not len(self.ints) or None not in found:
            return found
        wanted = integers(keys)
        if wanted is None:
            return [
                self.get(key) if one is None else one for key, one in zip(keys, found, strict=True)
            ]
        at = places(self.ints, wanted)
        numbers = np.where(at < 0, -1, self.values[at]).tolist()
        pairs = zip(found, numbers, strict=True)
        return [number if one is None and number >= 0 else one for one, number in pairs]

    def column(self, keys: Ints) -> Ints:
        """Return the ``xmin`` of each of these integers, in any order; -1 if unknown."""
        at = places(self.ints, keys)
        values = np.where(at < 0, -1, self.values[at]) if len(self.ints) else at
        some = [key for key in self.others if key.__class__ is int]
        changed = integers(some)
        if changed is None:  # one has more than 64 bits
            some = [key for key in some if -(2**63) <= key < 2**63]
            changed = np.array(some, np.int64)
        order = np.argsort(keys, kind="stable")  # quick if most are in order
        found = places(keys[order], changed)
        new = np.array([self.others[key] for key in some], np.int64)
        values[order[found[found >= 0]]] = new[found >= 0]
        return values

    def get(self, key: Key) -> int | None:
        """Return the ``xmin`` of one key; None if unknown."""
        found = self.others.get(key)
        if found is None and (at := self.place(key)) >= 0:
            number = self.values.item(at)
            return None if number < 0 else number
        return found

    def place(self, key: Key) -> int:
        """Return the position of ``key`` among the sorted keys; -1 if it is not there."""
        if key.__class__ is not int or not len(self.ints):
            return -1
        if not self.ints.item(0) <= key <= self.ints.item(-1):
            return -1
        at = int(self.ints.searchsorted(key))
        return at if self.ints.item(at) == key else -1

    def known(self) -> tuple[Ints, Ints]:
        """Return the sorted keys whose ``xmin`` is known, and these values."""
        there = self.values >= 0
        return (
            (self.ints, self.values.copy())
            if there.all()
            else (self.ints[there], self.values[there])
        )
