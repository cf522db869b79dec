"""Use a column such as ``updated_at`` as a version, until a change shows that it is unreliable.

In many tables no trigger maintains it, or clients fill it from their own clocks. It is trusted only while
every received change moved it to about the time of its commit (promise 3). Once distrusted, it stays so, and
rows are compared instead.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Final

from notebook_rt.model.rows import Row, WireRow
from notebook_rt.model.types import Schema, decode, kind
from notebook_rt.sync.events import Change

OVERLAP: Final = 60.0
"""Seconds before its cursor from which a reconciliation reads: a transaction that began earlier and
commits later is behind the cursor (docs/design/facts.md)."""
_AHEAD: Final = 5.0


class Watermark:
    """The version column of one table, if any."""

    def __init__(self, column: str | None, schema: Schema) -> None:
        pg_type = schema.types.get(column or "")
        usable = pg_type is not None and kind(pg_type) in ("timestamptz", "timestamp")
        self.column = (column or "") if usable else ""
        self.pg_type = pg_type or ""
        self.believed = usable
        self.moved = False
        """Whether a received change moved it to the time of its commit."""

    def value_at(self, server_time: float) -> Any:
        """Return the typed value of the column for a moment of server time."""
        at = dt.datetime.fromtimestamp(server_time, dt.UTC)
        return at if kind(self.pg_type) == "timestamptz" else at.replace(tzinfo=None)

    def moves_on(self, record: WireRow | None, row: Row | None) -> bool:
        """Return whether ``record`` is certainly a later version of ``row``."""
        if not self.believed or record is None or row is None or self.column not in record:
            return False
        theirs, mine = self._moment(record), _seconds(row.get(self.column))
        return theirs is not None and mine is not None and theirs > mine

    def check(self, change: Change) -> None:
        """Distrust the column if a change did not move it to about the time of its commit.

        A deviation below the overlap does not matter: a reconciliation still finds the row.
        """
        record = change.record
        if not self.believed or record is None or self.column not in record:
            return
        theirs = self._moment(record)
        if theirs is None:
            self.believed = False  # it can be null
        elif change.commit_time is not None:
            # otherwise a change did not move it to its own time
            self.believed = self.moved = -OVERLAP < theirs - change.commit_time < _AHEAD

    def check_page(self, page: Iterable[WireRow]) -> None:
        """Distrust the column if it can be null: such rows are behind every cursor."""
        if self.believed and any(row.get(self.column) is None for row in page):
            self.believed = False  # it can be null

    def _moment(self, record: WireRow) -> float | None:
        return _seconds(decode(self.pg_type, record[self.column]))


def _seconds(value: Any) -> float | None:
    if not isinstance(value, dt.datetime):
        return None
    return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)).timestamp()
