"""A part of a table in the order of its key, and the requests for it: the data types of ``ranges.py``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from notebook_rt.model.rows import Row


class Range(msgspec.Struct, eq=False):
    """A part of the key's order. Its pages are requested one after the other."""

    after: Row | None
    """The last row read; None: none yet."""
    low: int | None = None
    """The number at which its column begins; None: it begins after ``after``."""
    high: int | None = None
    """The number before which its column ends; None: unknown."""
    up_to: Row | None = None
    """The last row that it may contain."""
    next: Range | None = None
    run: Row = msgspec.field(default_factory=dict)
    """The leading key columns with one value in all its rows. Its column is the next one."""
    behind: Any = None
    """The value after which all its rows come in its column, if that is not a number."""
    came: deque[tuple[Row, Callable[[], None] | None]] = msgspec.field(default_factory=deque)
    """Its pages that wait for earlier ranges: the last row of each, and the callback."""
    full: int = 0
    """About how many full pages preceded the next one, consecutively or in the ranges it was cut from."""
    past: int = 0
    """How many of these came after the point where other runs end."""
    same: int = 0
    """How many of these, up to the last, had only one and the same value in its column."""
    pages: int | None = None
    """About how many pages of it are left, if that is known better than for the table."""
    probes: dict[int, Row | None] = msgspec.field(default_factory=dict)
    """The results of the probes for its bounds so far; None: it ends before."""
    probing: int = 0
    """Number of probes under way or waiting."""
    alike: bool = False
    """Whether it begins at a bound of `UniformRuns`, and may continue from one run to the next."""
    done: bool = False

    @property
    def depth(self) -> int:
        """The place of its column in the key; all earlier columns have one value."""
        return len(self.run)

    @property
    def is_open(self) -> bool:
        """Return whether it ends at the end of the table."""
        return self.next is None and self.high is None and self.up_to is None


class PageRequest(msgspec.Struct, frozen=True):
    """The meaning of a request of the pool: a page of a range, or a probe for a place to cut it."""

    span: Range
    limit: int
    probe: int = 0
    """The number of the probe for a bound of the range; 0: it is a page."""
    last: bool = False
    """Whether it requests the last key of the table, which shows how to cut the range."""
