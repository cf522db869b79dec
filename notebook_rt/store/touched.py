"""What a batch touched in a table: each row as it was and as it is, for what is derived of it.

In go the operations of a table, noted before they are written; out come `Delta`s, one a key, whatever
happened to it in between. A `Touched` is a follower of one table. It is bounded: beyond a share of the
table, and whenever the table is replaced, changes its columns or gives its rows other numbers, there
is nothing to go on from, and whoever follows reads the whole table.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from notebook_rt.model.rows import Key

RANK: Final = "\0rank"
"""The hidden column of a derived table by which its rows are in order (int8): no column of PostgreSQL's
is called so."""
ALONE: Final = "\0alone"
"""The hidden column of a join's rows without a partner on the right (bool)."""
HIDDEN_PREFIX: Final = "\0"
"""What the names of hidden columns begin with: no snapshot shows them. A key of such columns is not shown
either: the index counts."""

_LEAST: Final = 256
"""Rows that are remembered however small the table is."""
_SHARE: Final = 16
"""Beyond a table's rows divided by this, to read the whole is quicker."""


class Place(msgspec.Struct, frozen=True):
    """A row, whole and typed, and its rank: ranks rise in the table's order."""

    rank: int
    row: dict[str, Any]


class Delta(msgspec.Struct, frozen=True):
    """A row before and after; None: it was not there, or is no more."""

    key: Key
    old: Place | None
    new: Place | None


class Touched:
    """The rows of one table that were touched since they were taken last, as they were before.

    Written and read under the table's lock.
    """

    def __init__(self) -> None:
        self.whole = True
        """Nothing is remembered: the whole table is to be read."""
        self.before: dict[Key, Place | None] = {}
        self.after: dict[Key, dict[str, Any] | None] = {}
        """The rows as they are now, of those of which that is known without reading them."""

    def __bool__(self) -> bool:
        """Whether anything may have changed."""
        return self.whole or bool(self.before)

    def reset(self) -> None:
        """Remember nothing: the whole table is to be read."""
        self.whole = True
        self.before, self.after = {}, {}

    def take(self) -> tuple[dict[Key, Place | None], dict[Key, dict[str, Any] | None]]:
        """What is remembered, once."""
        found = self.before, self.after
        self.before, self.after = {}, {}
        return found

    def has_room(self, more: int, rows: int) -> bool:
        """Whether ``more`` keys can be remembered of a table of so many rows."""
        return len(self.before) + more <= _LEAST + rows // _SHARE
