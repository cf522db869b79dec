"""The map from keys to row numbers: a dict of recent keys, and two sorted arrays for many integers.

It is filled with keys and the numbers of their rows, and returns a row's number by its key, for one key or
for a batch at once. A dict of a million integers takes 98 MB, two arrays of them 16. So once the dict
holds many keys and all of them are integers, they are moved to the arrays, where they are found by binary
search: some 0.4 µs slower than in the dict for one key, a quarter of the dict's time for a batch. Any
other key stays in the dict. The results do not depend on where a key is: 1, 1.0 and True are equal.

The keys of a whole table may be collected later (`Keys.later`): sorting a million of them takes as long as
sorting the table, and a caller that only reads it looks none up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import numpy as np

from notebook_rt.model.rows import Key
from notebook_rt.model.xmins import integers
from notebook_rt.store.dense import Positions

_RECENT: Final = 65_536
"""Number of keys in the dict, or an eighth of those in the arrays; beyond it they are moved there."""

_FEW: Final = 8
"""Up to this number, keys are looked up one by one."""

_INT64: Final = range(-(2**63), 2**63)


class Keys:
    """Keys, each with the number of its row.

    A key is in the dict, or among the sorted ones with a number that is not -1, never in both.
    """

    def __init__(self) -> None:
        self._recent: dict[Key, int] = {}
        self._sorted: Positions = np.empty(0, "int64")
        self._numbers: Positions = np.empty(0, "int64")
        """The numbers of the sorted keys; -1: the key was removed."""

        self._left = 0
        """Number of sorted keys that were removed."""

        self._rising = True
        """Whether the numbers of new keys are higher than all earlier ones."""

        self._most = _RECENT
        """Number of keys in the dict from which it is tried to sort them in."""

        self._later: Callable[[], Positions | Sequence[Key]] | None = None
        """Returns the keys, which are not collected yet."""
        self._later_numbers: Positions | None = None
        """Their numbers; None: from 0 on."""
        self._awaited = 0
        """The count of these keys."""

    @classmethod
    def numbered(cls, keys: Positions | Sequence[Key]) -> Keys:
        """Return ``keys``, numbered from 0 on; an array of integers needs no dict.

        Raises
        ------
        ValueError
            If two keys are equal.
        """
        found = cls.later(len(keys), lambda: keys)
        found.collect()
        return found

    @classmethod
    def later(
        cls,
        count: int,
        keys: Callable[[], Positions | Sequence[Key]],
        numbers: Positions | None = None,
    ) -> Keys:
        """Return ``count`` keys, which ``keys`` returns at the first lookup, with these increasing numbers.

        Without ``numbers`` they are numbered from 0 on. The arguments must not change until then.
        """
        found = cls()
        found._later, found._later_numbers, found._awaited = keys, numbers, count
        return found

    def collect(self) -> None:
        """Collect the keys now.

        Raises
        ------
        ValueError
            If two keys are equal.
        """
        if self._later is None:
            return
        keys, numbers, count = self._later(), self._later_numbers, self._awaited
        self._later, self._later_numbers, self._awaited = None, None, 0
        if isinstance(keys, np.ndarray):
            once = _rising(keys)
            order = np.arange(count) if once else np.argsort(keys, kind="stable")
            self._sorted = keys.copy() if once else keys[order]
            self._numbers = order if numbers is None else numbers[order]
            self._most = max(_RECENT, count // 8)
            once = once or _rising(self._sorted)
        else:
            given = range(count) if numbers is None else numbers.tolist()
            self._recent = dict(zip(keys, given, strict=True))
            once = len(self._recent) == count
        if not once:
            raise ValueError("two rows have one key")

    def __len__(self) -> int:
        return len(self._recent) + len(self._sorted) - self._left + self._awaited

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use; estimated for the dict's objects."""
        some = islice(self._recent.items(), 1000)
        objects = sum(sys.getsizeof(key) + sys.getsizeof(number) for key, number in some)
        return (
            self._sorted.nbytes
            + self._numbers.nbytes
            + sys.getsizeof(self._recent)
            + objects * max(1, len(self._recent) // 1000)
        )

    def get(self, key: Key) -> int | None:
        """Return the number of ``key``, or None."""
        self.collect()
        number = self._recent.get(key)
        if number is None and len(self._sorted):
            place = self._place(key)
            number = -1 if place < 0 else self._numbers.item(place)
            return None if number < 0 else number
        return number

    def numbers(self, keys: Collection[Key]) -> dict[Key, int]:
        """Return the numbers of those of ``keys`` that are here."""
        self.collect()
        if not len(self._sorted) or len(keys) <= _FEW:
            get = self.get if len(self._sorted) else self._recent.get
            return {key: number for key in keys if (number := get(key)) is not None}
        places = self._places(keys)
        found = np.where(places < 0, -1, self._numbers[places]).tolist()
        known = {key: number for key, number in zip(keys, found, strict=True) if number >= 0}
        if self._recent and len(known) < len(keys):
            recent = self._recent
            others = [key for key, number in zip(keys, found, strict=True) if number < 0]
            known.update((key, recent[key]) for key in others if key in recent)
        return known

    def all_numbers(self, keys: Collection[Key]) -> Positions | None:
        """Return the number of each of ``keys``, or None if one is not here."""
        self.collect()
        places = self._places(keys) if len(self._sorted) and not self._recent else None
        if places is None or (places < 0).any():
            known = self.numbers(keys)
            found = list(map(known.get, keys))
            return None if None in found else np.array(found, "int64")
        numbers = self._numbers[places]
        return None if (numbers < 0).any() else numbers

    def isdisjoint(self, keys: Collection[Key]) -> bool:
        """Return whether none of ``keys`` is here."""
        self.collect()
        if len(self._sorted):
            return not self.numbers(keys)
        return self._recent.keys().isdisjoint(keys)

    def in_order(self) -> list[Key]:
        """Return all keys, in the order of the numbers."""
        self.collect()
        if self._rising:
            return [*self._by_number()[0].tolist(), *self._recent]
        return list(self.as_dict())

    def integers(self) -> Positions | None:
        """Return all keys, sorted, if each is an int of at most 64 bits."""
        self.collect()
        here = self._sorted[self._numbers >= 0] if self._left else self._sorted
        new = integers(self._recent)
        if new is None or not len(new):
            return None if new is None else here
        new.sort()
        return np.insert(here, here.searchsorted(new), new) if len(here) else new

    def as_dict(self) -> Mapping[Key, int]:
        """Return all keys with their numbers, in the order of the numbers; read-only."""
        self.collect()
        if not len(self._sorted) and self._rising:
            return self._recent
        keys, numbers = self._by_number()
        found = {**dict(zip(keys.tolist(), numbers.tolist(), strict=True)), **self._recent}
        return found if self._rising else dict(sorted(found.items(), key=itemgetter(1)))

    def update(self, new: Iterable[tuple[Key, int]]) -> None:
        """Add new keys; their numbers increase and exceed all earlier ones, except after `anywhere`."""
        self.collect()
        self._recent.update(new)

    def anywhere(self) -> None:
        """Allow any numbers for new keys from now on."""
        self._rising = False

    def remove(self, keys: Sequence[Key]) -> None:
        """Remove ``keys``, each of which is here."""
        self.collect()
        recent = self._recent
        keys = [key for key in keys if recent.pop(key, None) is None]
        if keys:
            self._numbers[self._places(keys)] = -1
            self._left += len(keys)

    def renumber(self, anew: Callable[[Positions], Positions]) -> None:
        """Replace each row's number by the result of ``anew``, which maps -1 to -1."""
        self.collect()
        self._numbers = anew(self._numbers)
        numbers = anew(np.fromiter(self._recent.values(), "int64", len(self._recent)))
        self._recent = dict(zip(self._recent, numbers.tolist(), strict=True))

    def compact(self) -> None:
        """Move the dict's keys to the arrays if there are many, and drop removed keys if there are many."""
        self.collect()
        many = len(self._recent) > self._most
        if not many and self._left <= max(_RECENT, len(self._sorted) // 2):
            return
        new = integers(self._recent)
        if new is None:  # not possible now, but perhaps when half of the keys are others
            self._most = 2 * len(self._recent)
            return
        keep = self._numbers >= 0
        numbers = np.fromiter(self._recent.values(), "int64", len(new))
        keys = np.concatenate([self._sorted[keep], new])
        numbers = np.concatenate([self._numbers[keep], numbers])
        if not _rising(keys):
            order = np.argsort(keys, kind="stable")  # fast if most are in order
            keys, numbers = keys[order], numbers[order]
        self._sorted, self._numbers, self._recent, self._left = keys, numbers, {}, 0
        self._most = max(_RECENT, len(keys) // 8)

    def _by_number(self) -> tuple[Positions, Positions]:
        """Return the sorted keys that are here and their numbers, in the order of the numbers.

        The numbers in the dict are higher, because all of its keys are moved at once.
        """
        here = self._numbers >= 0
        keys, numbers = self._sorted[here], self._numbers[here]
        if _rising(numbers):
            return keys, numbers
        order = np.argsort(numbers, kind="stable")
        return keys[order], numbers[order]

    def _place(self, key: Key) -> int:
        """Return the place of ``key`` among the sorted keys, which must exist; -1 if it has none."""
        whole = key if key.__class__ is int else _as_integer(key)
        if whole is None or whole not in _INT64:
            return -1
        place = int(self._sorted.searchsorted(whole))
        if place == len(self._sorted) or self._sorted.item(place) != whole:
            return -1
        return place

    def _places(self, keys: Collection[Key]) -> Positions:
        """As `_place`, for many keys."""
        wanted = integers(keys) if len(keys) > _FEW else None
        if wanted is None:
            return np.fromiter(map(self._place, keys), "int64", len(keys))
        order = np.argsort(wanted)  # neighbours are found in memory that was just accessed
        found = np.empty(len(wanted), "int64")
        found[order] = self._sorted.searchsorted(wanted[order])
        found[found == len(self._sorted)] = 0
        found[self._sorted[found] != wanted] = -1
        return found


def _rising(values: Positions) -> bool:
    return bool((values[1:] > values[:-1]).all())


def _as_integer(key: Any) -> int | None:
    """Return the integer that ``key``, of another class, equals, or None."""
    try:
        whole = int(key)
        return whole if whole == key else None
    except (ArithmeticError, TypeError, ValueError):
        return None
