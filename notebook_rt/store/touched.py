"""The rows that a batch touched in a table, before and after, for tables derived from it.

Its input is the operations of a table, noted before they are written; its output is `Delta`s, one per key,
whatever happened to it in between. A `Touched` is a follower of one table. It is bounded: beyond a share
of the table, and whenever the table is replaced, changes its columns or renumbers its rows, there are no
deltas, and the follower must read the whole table.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from notebook_rt.model.rows import Key

RANK: Final = "\0rank"
"""The hidden column of a derived table that defines its rows' order (int8): no PostgreSQL column has this
name."""
ALONE: Final = "\0alone"
"""The hidden column of a join's rows without a partner on the right (bool)."""
HIDDEN_PREFIX: Final = "\0"
"""Prefix of the names of hidden columns: no snapshot shows them. A key of such columns is not shown
either: the index is a RangeIndex."""

_LEAST: Final = 256
"""Number of rows that are remembered for tables of any size."""
_SHARE: Final = 16
"""Beyond the table's number of rows divided by this, reading the whole table is faster."""


class Place(msgspec.Struct, frozen=True):
    """A row, whole and typed, and its rank: ranks increase in the table's order."""

    rank: int
    row: dict[str, Any]


class Delta(msgspec.Struct, frozen=True):
    """A row before and after; None: it did not exist, or no longer does."""

    key: Key
    old: Place | None
    new: Place | None


class Touched:
    """The rows of one table touched since they were last taken, with their previous values.

    Written and read under the table's lock.
    """

    def __init__(self) -> None:
        self.whole = True
        """Whether nothing is remembered and the whole table must be read."""
        self.before: dict[Key, Place | None] = {}
        self.after: dict[Key, dict[str, Any] | None] = {}
        """The current rows, where known without reading them."""

    def __bool__(self) -> bool:
        """Return whether anything may have changed."""
        return self.whole or bool(self.before)

    def reset(self) -> None:
        """Forget everything: the whole table must be read."""
        self.whole = True
        self.before, self.after = {}, {}

    def take(self) -> tuple[dict[Key, Place | None], dict[Key, dict[str, Any] | None]]:
        """Return what is remembered, and forget it."""
        found = self.before, self.after
        self.before, self.after = {}, {}
        return found

    def has_room(self, more: int, rows: int) -> bool:
        """Return whether ``more`` keys can be remembered for a table of that many rows."""
        return len(self.before) + more <= _LEAST + rows // _SHARE
