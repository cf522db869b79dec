"""Part of a table in its key's order, and what is asked of it: the words of ``ranges.py``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from notebook_rt.model.rows import Row


class Range(msgspec.Struct, eq=False):
    """Part of the key's order. Its pages are asked for one after the other."""

    after: Row | None
    """Its last row that was read; None: the first is yet to come."""
    low: int | None = None
    """The number that its column begins at; None: it begins after ``after``."""
    high: int | None = None
    """The number that its column ends before; None: no end is known."""
    up_to: Row | None = None
    """The last row that it may have."""
    next: Range | None = None
    run: Row = msgspec.field(default_factory=dict)
    """The leading columns of the key that have one value in all its rows. Its column is the next."""
    behind: Any = None
    """The value of its column that all its rows come after, where that is not a number."""
    came: deque[tuple[Row, Callable[[], None] | None]] = msgspec.field(default_factory=deque)
    """Its pages that wait for those of ranges before it: the last row of each, and what is done then."""
    full: int = 0
    """About how many full pages came before the next one, in a row or in the ranges before it that it
    was cut from."""
    past: int = 0
    """How many of these came after it had passed where other runs end."""
    same: int = 0
    """How many of these, up to the last, had one value of its column only, and the same."""
    pages: int | None = None
    """About how many pages are left of it, where that is known better than of the table."""
    probes: dict[int, Row | None] = msgspec.field(default_factory=dict)
    """What the looks for its bounds have shown so far; None: it ends before."""
    probing: int = 0
    """How many looks are under way or waiting."""
    alike: bool = False
    """It begins where `UniformRuns` has told, and may go from one run to the next."""
    done: bool = False

    @property
    def depth(self) -> int:
        """The place of its column in the key: all before it have one value."""
        return len(self.run)

    @property
    def is_open(self) -> bool:
        """Whether it ends where the table does."""
        return self.next is None and self.high is None and self.up_to is None


class PageRequest(msgspec.Struct, frozen=True):
    """What a request of the pool is: a page of a range, or a look for where to cut it."""

    span: Range
    limit: int
    probe: int = 0
    """Which look for a bound of the range it is; 0: it is a page."""
    last: bool = False
    """It asks for the last key of the table, which tells how to cut the range."""
