"""The first rows of an order: a table with a limit (promise 8).

A few more rows than requested are kept, so that a row that leaves is replaced by a known one. The *edge* is
the last row read: rows that sort after it are not kept, and unknown.

Text has a collation, so the place of a row is known here only by the terms before the first text. A row that
is new or has moved is compared with the others: if another row, or the edge, is equal in these terms, the
server is queried. With ``price.desc`` and a key of text, that concerns only rows of one price; with an order
by text, every row.
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
"""Maximum number of rows for which equal ones are counted, as starting to count takes 7 µs a row; with
more, the server is queried after every move."""
_NAN: Final = object()
"""Represents NaN, which PostgreSQL treats as one value."""


class Alike:
    """Tracks which rows are equal in the terms of an order that are known here.

    Parameters
    ----------
    order
        All terms; the first ``known`` of them are known here.
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
        """Record that ``row`` is now at ``key``; return whether it is new or may have moved."""
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
        """Return whether another row equals that of ``key``."""
        values = self._values.get(key)
        return values is not None and self._counts[values[: self._known]] > 1


def _comparable(value: Any) -> Any:
    if isinstance(value, list | dict):  # equal values have equal texts: json and arrays
        return repr(value)
    return _NAN if value != value else value


class Window:
    """Decides which rows of an ordered table are kept, and whether their order is known here."""

    def __init__(self, spec: TableSpec, schema: Schema) -> None:
        named = {term.column for term in spec.order}
        rest = (OrderBy(name) for name in schema.key if name not in named)
        self.order: tuple[OrderBy, ...] = (*spec.order, *rest)
        self.limit = spec.limit
        self.size = None
        if spec.limit is not None:
            self.size = spec.limit + max(SPARE_LEAST, int(spec.limit * SPARE_SHARE))
        self.known = known_here(self.order, schema.types)
        """The first terms, which determine the known places."""
        self.sortable = len(self.known) == len(self.order)
        self.alike: Alike | None = None
        """The kept rows, unless all terms are known here; None: not counted, or too many."""
        self.edge: Row | None = None
        """The last row kept; None: there are no rows after it."""
        self.last_edge: Row | None = None
        """The edge before the last turn."""
        self.next_edge: Row | None = None
        """The edge of the window that is being read."""
        self.stale = False
        """Whether the window, or the order that only the server knows, must be read again."""
        self._unranked: set[Key] = set()
        """The rows without a place in the order that was read last."""
        self.missed: set[Key] | None = None
        """During a read of the window: keys whose change was judged by the old edge."""

    @property
    def wanted(self) -> bool:
        """Whether the rows or their order depend on the window."""
        return self.limit is not None or not self.sortable

    def holds(self, row: Row) -> bool | None:
        """Return whether ``row`` belongs to the window; None: only the server knows."""
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
        """Return whether ``row`` may have moved in an order that only the server knows."""
        if self.sortable:
            return False
        if old is None:
            return True
        names = [term.column for term in self.order if term.column in row]
        return any(not equal(old.get(name), row[name]) for name in names)

    def moved(self, rows: Mapping[Key, Row | None]) -> None:
        """Take changed rows: the server may have to be queried for the place of one of them."""
        if self.alike is not None:
            moved = [key for key, row in rows.items() if self.alike.put(key, row)]
            self.stale |= any(map(self.alike.has, moved))

    def ranked(self, keys: Iterable[Key], shown: Iterable[Key]) -> None:
        """Take the server's order of ``keys``, while ``shown`` are here.

        A row without a place was added, or restored, since the order was read, which is then read again;
        only once for the same rows, because a row hidden by a policy has no place either.
        """
        unranked = set(shown).difference(keys)
        new = unranked - self._unranked
        self.stale |= any(self.alike is None or self.alike.has(key) for key in new)
        self._unranked = unranked

    def passed_over(self, key: Key) -> None:
        """Record that a change of ``key`` was ignored because it is after the edge."""
        if self.missed is not None:
            self.missed.add(key)

    def turn(self) -> None:
        """Use the edge of the window that was just read."""
        self.last_edge, self.edge = self.edge, self.next_edge

    def turned(self, mine: Row | None, row: Row | None) -> bool:
        """Return whether the new edge alone may have made ``row`` enter or ``mine`` leave."""
        if row is None:
            return mine is not None and not self._within(mine, self.edge)
        return mine is None and not self._within(row, self.last_edge)

    def check_size(self, rows: int) -> None:
        """Check the number of rows: the window may be too small or too large."""
        if self.limit is None or self.edge is None or self.size is None:
            return
        if rows < self.limit or rows > 2 * self.size + 100:
            self.stale = True


def _compare(mine: Any, theirs: Any, term: OrderBy) -> int | None:
    """Return -1, 0 or 1 if ``mine`` comes before, with or after ``theirs``; None: only the server knows."""
    if mine is None or theirs is None:
        sign = int(mine is None) - int(theirs is None)
        return -sign if nulls_first(term) else sign
    try:
        if mine != mine or theirs != theirs:
            sign = int(mine != mine) - int(theirs != theirs)  # NaN sorts after every number
        else:
            sign = int(mine > theirs) - int(mine < theirs)
    except TypeError:
        return None  # 'infinity' among dates
    return -sign if term.desc else sign
