"""What a handle on a live table has shown: the values that an edit was made from (promises, edits).

The base of an edit is not the current value, but the value that the new one was made from: what the
handle last showed of the cell, by ``df``, ``get``, ``at``, ``to_arrow``, or in a batch from ``changes`` or
``on_change``. An edit made through the handle counts too, because its user knows these values.

Each thread has its own record: a callback, or another worker on the same handle, does not change the
base of a value here. A thread that was shown nothing of a cell uses the handle's last read in any
thread; if nothing was ever shown, the base is the current value. What a grid shows is the base of edits
typed into that grid, and of nothing else, because the grid follows the table automatically, between any
two lines of a cell.

It is bounded: a read of the whole table is a `Mark`, which keeps what has changed since
(``store.marks``), and of rows that were shown one by one the latest ``MOST`` are kept. Beyond that, an
edit is refused, because guessing the base could silently lose another client's change.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from notebook_rt.model.rows import Key, Row, RowChange
from notebook_rt.model.types import equal
from notebook_rt.store.marks import Mark, OutOfReachError

MOST: Final = 100_000
"""Maximum number of rows shown one by one that are remembered."""


class _Memory:
    """What was shown last: the whole table at one moment, and rows and cells since."""

    def __init__(self, mark: Mark | None = None) -> None:
        self._mark = mark
        self._rows: dict[Key, dict[str, Any] | None] = {}
        """None: the row was shown as deleted."""
        self._forgot = False

    def note(self, key: Key, row: Row | None) -> None:
        """Record that the row, or its deletion, was shown."""
        rows = self._rows
        rows.pop(key, None)  # the latest last
        rows[key] = None if row is None else dict(row)
        if len(rows) > MOST:
            del rows[next(iter(rows))]
            self._forgot = True

    def note_cells(self, key: Key, cells: Row) -> None:
        """Record that cells of a row were shown, or written."""
        self.note(key, {**(self._rows.get(key) or {}), **cells})

    def cells(self, key: Key) -> Row:
        """Return the cells of the row that were shown individually."""
        return self._rows.get(key) or {}

    def fill(self, found: Mapping[Key, dict[str, Any]], columns: Collection[str]) -> None:
        """Add to the rows of ``found`` those of ``columns`` that they lack and that were shown."""
        lacking: list[Key] = []
        for key, row in found.items():
            if key in self._rows:
                known = self._rows[key]
                if known is None:
                    continue
                row.update((c, known[c]) for c in columns if c in known and c not in row)
            if any(column not in row for column in columns):
                lacking.append(key)
        if lacking and self._forgot:
            raise OutOfReachError(f"more than {MOST:,} rows were shown one by one since")
        whole = {} if self._mark is None or not lacking else self._mark.rows(lacking)
        for key, known in whole.items():
            row = found[key]
            row.update((c, known[c]) for c in columns if c in known and c not in row)


class Shown:
    """What one handle has shown. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._here = threading.local()
        self._last = _Memory()
        """The record of the thread that read last."""

    # --- shown -----------------------------------------------------------------------------------

    def whole(self, mark: Mark) -> None:
        """Record that the whole table was shown."""
        self._here.memory = self._last = _Memory(mark)

    def row(self, key: Key, row: Row) -> None:
        """Record that a row was shown."""
        self._last = memory = self._mine()
        memory.note(key, row)

    def cells(self, key: Key, cells: Row) -> None:
        """Record that some cells of a row were shown."""
        self._last = memory = self._mine()
        memory.note_cells(key, cells)

    def changes(self, changes: Iterable[RowChange]) -> None:
        """Record that a batch was shown to this thread: that of a callback, or one that iterates."""
        memory = self._mine()
        for change in changes:
            memory.note(change.key, change.new)

    # --- for the editor (based.Known) ------------------------------------------------------------

    def bases(self, keys: Collection[Key], columns: Collection[str]) -> dict[Key, dict[str, Any]]:
        """Return the known values of cells; raise `OutOfReachError` if they are out of reach."""
        found: dict[Key, dict[str, Any]] = {key: {} for key in keys}
        mine: _Memory | None = getattr(self._here, "memory", None)
        for memory in dict.fromkeys((mine, self._last)):
            if memory is not None:
                memory.fill(found, columns)
        return found

    def wrote(self, key: Key, new_key: Key, values: Row) -> None:
        """Record an edit through this handle: its user knows these values."""
        # A thread that was shown nothing records it for the thread that read last.
        memory: _Memory = getattr(self._here, "memory", self._last)
        if new_key != key:
            values = {**memory.cells(key), **values}
            memory.note(key, None)
        memory.note_cells(new_key, values)

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        """Handle an undone edit: restore what was known before, where nothing was shown since."""
        memory: _Memory = getattr(self._here, "memory", self._last)
        cells = memory.cells(key)
        again = {
            column: base[column]
            for column, value in values.items()
            if column in base and column in cells and equal(cells[column], value)
        }
        if again:
            memory.note_cells(key, again)

    def _mine(self) -> _Memory:
        memory: _Memory | None = getattr(self._here, "memory", None)
        if memory is None:
            memory = self._here.memory = _Memory()
        return memory
