"""Runs that are alike, as those of many sensors that measure at the same times: where their pages end.

In: the first page of a table keyed by two columns, its last key, and about how many rows there are. Out:
a key for each place between the first row and the last, or nothing where the page is not as
runs that are alike would have it.

A run is all rows with one value in the first column. Runs are alike where each number of that column has
one, all have as many rows, and their rows lie evenly over the same span of the second column. Pages of
such a table can be told beforehand, also those that go over the end of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from notebook_rt.sync.table.numbers import Numbers

NEAR: Final = 0.05
"""The share of a page by which its rows may lie elsewhere than told."""
ROOM: Final = 0.02
"""The share of a page that is left free at least: one row too many costs a request of its own."""
TIMES_OFF: Final = 3
"""As many times as the rows of the first page lie off is left free where that is more."""
LEAST: Final = 30
"""Rows of a page that is large enough to judge by."""
MISSES: Final = 4
"""So many ranges more that were cut badly than well, and runs are not alike after all."""


class UniformRuns(msgspec.Struct):
    """How the keys of a table lie, if its runs are alike; see `seen`."""

    first: int
    """The number of the first run."""
    low: int
    """Where each run begins in the second column."""
    high: int
    """Where each run ends in it."""
    extent: float
    """How many numbers of the second column a run takes."""
    rows: float
    """Of a run."""
    fill: float
    """The share of a page that a range may be cut for."""
    end: float
    """The place of the last row."""
    missed: int = 0
    """How many more ranges were cut badly than well."""

    @classmethod
    def seen(
        cls, page: Sequence[tuple[int, Numbers]], last: Numbers, rows: float
    ) -> UniformRuns | None:
        """What the first page and the last key tell; None: the page is not as it would be then.

        Parameters
        ----------
        page
            Some rows of the page, the first and the last of it among them: which one, and its key.
        last
            The last key of the table.
        rows
            Of a run, on average.
        """
        (_, (first, low)), (count, _) = page[0], page[-1]
        extent = (last[1] - low) * rows / (rows - 1) if rows > 1 else 0.0
        if extent <= 0 or count + 1 < LEAST:
            return None
        runs = cls(first, low, last[1], extent, rows, 1.0, 0.0)
        off = max(abs(runs.place(key) * rows - at) for at, key in page) / count
        if off > NEAR:
            return None
        runs.fill = 1 - max(ROOM, TIMES_OFF * off)
        runs.end = runs.place(last)
        return runs

    def place(self, key: Numbers) -> float:
        """Where the row with that key is, in runs from the beginning of the first one."""
        return key[0] - self.first + min(1.0, max(0.0, (key[1] - self.low) / self.extent))

    def key(self, place: float) -> Numbers:
        """The key at ``place``."""
        run = int(place)
        return self.first + run, min(self.high, self.low + int((place - run) * self.extent))

    def step(self, limit: int) -> float:
        """How far a range of one page of ``limit`` rows goes."""
        return self.fill * limit / self.rows

    def judge(self, rows: int, limit: int) -> bool:
        """A range that was cut for one page has brought so many rows first: whether to go on so."""
        well = self.fill * limit / 2 <= rows < limit
        self.missed = max(0, self.missed + (-1 if well else 1))
        return self.missed < MISSES
