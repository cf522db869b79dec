"""Predict where the pages of uniform runs end, as those of many sensors that measure at the same times.

In: the first page of a table with a key of two columns, its last key, and an estimate of the number of rows.
Out: a key for each place between the first row and the last, or nothing if the page contradicts uniform
runs.

A run consists of all rows with one value in the first column. Runs are uniform if each number of that column
has one, all have the same number of rows, and their rows are evenly distributed over the same span of the
second column. The pages of such a table can be predicted, including those that cross the end of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from notebook_rt.sync.table.numbers import Numbers

NEAR: Final = 0.05
"""The share of a page by which its rows may deviate from the prediction."""
ROOM: Final = 0.02
"""The minimum share of a page that is left free: one excess row costs another request."""
TIMES_OFF: Final = 3
"""The factor of the first page's deviation that is left free, if that is more."""
LEAST: Final = 30
"""Minimum number of rows of a page for a judgment."""
MISSES: Final = 4
"""The excess of badly cut over well cut ranges at which runs are no longer considered uniform."""


class UniformRuns(msgspec.Struct):
    """The distribution of the keys of a table with uniform runs; see `seen`."""

    first: int
    """The number of the first run."""
    low: int
    """Where each run begins in the second column."""
    high: int
    """Where each run ends in it."""
    extent: float
    """The span of a run in numbers of the second column."""
    rows: float
    """Number of rows of a run."""
    fill: float
    """The share of a page for which a range may be cut."""
    end: float
    """The place of the last row."""
    missed: int = 0
    """The excess of badly cut over well cut ranges."""

    @classmethod
    def seen(
        cls, page: Sequence[tuple[int, Numbers]], last: Numbers, rows: float
    ) -> UniformRuns | None:
        """Derive the distribution from the first page and the last key; None: the page contradicts it.

        Parameters
        ----------
        page
            A sample of the page, including its first and last row: places and keys.
        last
            The last key of the table.
        rows
            The average number of rows of a run.
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
        """Return the position of a key, in runs from the beginning of the first one."""
        return key[0] - self.first + min(1.0, max(0.0, (key[1] - self.low) / self.extent))

    def key(self, place: float) -> Numbers:
        """Return the key at ``place``."""
        run = int(place)
        return self.first + run, min(self.high, self.low + int((place - run) * self.extent))

    def step(self, limit: int) -> float:
        """Return the extent of a range of one page of ``limit`` rows."""
        return self.fill * limit / self.rows

    def judge(self, rows: int, limit: int) -> bool:
        """Record the rows on the first page of a range cut for one page; return whether to continue."""
        well = self.fill * limit / 2 <= rows < limit
        self.missed = max(0, self.missed + (-1 if well else 1))
        return self.missed < MISSES
