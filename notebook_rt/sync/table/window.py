"""The first rows of an order: a table with a limit (promise 8).

A few rows more than asked are kept, so that one that leaves is followed by one that is here. The
*edge* is the last row that was read: what sorts behind it is not kept, and nothing is known of it.

Text has a collation, so the place of a row is known here only by the terms before the first text. A
row that came or changed its place is looked up among the others: where one is alike in these terms,
or the edge is, the server is asked. By ``price.desc`` with a key of text that is only for rows of
one price; by a text, for every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from notebook_rt.model.order import OrderBy, known_here, nulls_first
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Schema, equal

SPARE_SHARE: Final = 0.25
SPARE_LEAST: Final = 10
COUNTED_MOST: Final = 2000
"""Rows of which it is counted which are alike; of more the server is asked after every move, for to
begin to count takes 7 µs a row."""
_NAN: Final = object()
"""Stands for NaN, which PostgreSQL takes for one value."""


class Alike:
    """Which rows are alike in the terms of an order that are known here.

    Parameters
    ----------
    order
        All terms, of which the first ``known`` are known here.
    """

    def __init__(
        self, order: Iterable[OrderBy], known: int, rows: Mapping[Key, Row | None]
    ) -> None:
        self._names = [term.column for term in order]
        self._known = known
        self._values: dict[Key, tuple[Any, ...]] = {}
        self._counts: Counter[tuple[Any, ...]] = Counter()
        for key, row in rows.items():
            self.put(key, row)

    def put(self, key: Key, row: Row | None) -> bool:
        """``row`` is now under ``key``; True: it came, or may have another place."""
        before = self._values.pop(key, None)
        if before is not None:
            self._counts[before[: self._known]] -= 1
            if not self._counts[before[: self._known]]:
                del self._counts[before[: self._known]]
        if row is None:
            return False
        values = tuple([_comparable(row.get(name)) for name in self._names])
        self._values[key] = values
        self._counts[values[: self._known]] += 1
        return values != before

    def has(self, key: Key) -> bool:
        """Whether another row is as that of ``key``."""
        values = self._values.get(key)
        return values is not None and self._counts[values[: self._known]] > 1


def _comparable(value: Any) -> Any:
    if isinstance(value, list | dict):  # equal values have equal texts: json and arrays
        return repr(value)
    return _NAN if value != value else value


class Window:
    """Which rows of an ordered table are kept, and whether their order is known here."""

    def __init__(self, spec: TableSpec, schema: Schema) -> None:
        named = {term.column for term in spec.order}
        rest = (OrderBy(name) for name in schema.key if name not in named)
        self.order: tuple[OrderBy, ...] = (*spec.order, *rest)
        self.limit = spec.limit
        self.size = None
        if spec.limit is not None:
            self.size = spec.limit + max(SPARE_LEAST, int(spec.limit * SPARE_SHARE))
        self.known = known_here(self.order, schema.types)
        """The first terms, by which places are known here."""
        self.sortable = len(self.known) == len(self.order)
        self.alike: Alike | None = None
        """The rows that are kept, unless all terms are known here; None: not counted, or too many."""
        self.edge: Row | None = None
        """The last row kept; None: nothing lies behind."""
        self.last_edge: Row | None = None
        """The edge before the last turn."""
        self.next_edge: Row | None = None
        """The edge of the window that is being read."""
        self.stale = False
        """Whether the window, or the order that only the server knows, must be read again."""
        self._unranked: set[Key] = set()
        """The rows that had no place in the order that was read last."""
        self.missed: set[Key] | None = None
        """While the window is being read: keys whose change was judged by the old edge."""

    @property
    def wanted(self) -> bool:
        """Whether rows, or their order, depend on this at all."""
        return self.limit is not None or not self.sortable

    def holds(self, row: Row) -> bool | None:
        """Whether ``row`` belongs to the window; None: only the server knows."""
        return self._within(row, self.edge)

    def _within(self, row: Row, edge: Row | None) -> bool | None:
        if edge is None:
            return True
        for term in self.known:
            sign = _compare(row.get(term.column), edge.get(term.column), term)
            if sign is None:
                return None
            if sign:
                return sign < 0
        rest = self.order[len(self.known) :]
        same = all(equal(row.get(term.column), edge.get(term.column)) for term in rest)
        return True if same else None

    def knows(self, row: Row) -> bool:
        return all(term.column in row for term in self.order)

    def moves(self, old: Row | None, row: Row) -> bool:
        """Whether ``row`` may change its place in an order that only the server knows."""
        if self.sortable:
            return False
        if old is None:
            return True
        names = [term.column for term in self.order if term.column in row]
        return any(not equal(old.get(name), row[name]) for name in names)

    def moved(self, rows: Mapping[Key, Row | None]) -> None:
        """These rows have changed: must the server say where one of them belongs?"""
        if self.alike is not None:
            moved = [key for key, row in rows.items() if self.alike.put(key, row)]
            self.stale |= any(map(self.alike.has, moved))

    def ranked(self, keys: Iterable[Key], shown: Iterable[Key]) -> None:
        """The server's order was read: of ``keys``, while ``shown`` are here.

        A row without a place has come, or come back as it was, since the order was read: it is read
        again. Once for the same rows, for what a policy has hidden meanwhile has no place either.
        """
        unranked = set(shown).difference(keys)
        new = unranked - self._unranked
        self.stale |= any(self.alike is None or self.alike.has(key) for key in new)
        self._unranked = unranked

    def passed_over(self, key: Key) -> None:
        """A change of ``key`` was ignored, for it lies behind the edge."""
        if self.missed is not None:
            self.missed.add(key)

    def turn(self) -> None:
        """The window was read: from now on its edge holds."""
        self.last_edge, self.edge = self.edge, self.next_edge

    def turned(self, mine: Row | None, row: Row | None) -> bool:
        """Whether the turn of the edge may be all that made ``row`` come or ``mine`` leave."""
        if row is None:
            return mine is not None and not self._within(mine, self.edge)
        return mine is None and not self._within(row, self.last_edge)

    def check_size(self, rows: int) -> None:
        """Rows came and went: is the window still full, and not too full?"""
        if self.limit is None or self.edge is None or self.size is None:
            return
        if rows < self.limit or rows > 2 * self.size + 100:
            self.stale = True


def _compare(mine: Any, theirs: Any, term: OrderBy) -> int | None:
    """-1, 0, 1 as ``mine`` comes before, with, after ``theirs``; None: the server knows."""
    if mine is None or theirs is None:
        sign = int(mine is None) - int(theirs is None)
        return -sign if nulls_first(term) else sign
    try:
        if mine != mine or theirs != theirs:
            sign = int(mine != mine) - int(theirs != theirs)  # NaN sorts behind every number
        else:
            sign = int(mine > theirs) - int(mine < theirs)
    except TypeError:
        return None  # 'infinity' among dates
    return -sign if term.desc else sign
