"""What a handle on a live table has shown: the values that an edit was made from (promises, edits).

The base of an edit is not what is there now, but what its values were made from: what the handle last
showed of the cell, by ``df``, ``get``, ``at``, ``to_arrow``, or in a batch that ``changes`` or
``on_change`` gave. An edit made through the handle counts too: it is what its user knows of the cell.

Each thread has what was shown to it: a callback, or another worker on the same handle, does not
change what a value here was made from. A thread that was shown nothing of a cell goes by what the handle
was last read as in any thread; where nothing was ever shown, the base is what is there now. What a
grid shows is the base of what is typed into that grid, and of nothing else: it follows the table by
itself, between any two lines of a cell.

It is bounded: a whole reading is a `Mark`, which keeps what has changed since (``store.marks``), and
of rows that were shown one by one the latest ``MOST`` are kept. Out of reach, an edit is refused:
to guess the base could lose somebody's change without a word.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from notebook_rt.model.rows import Key, Row, RowChange
from notebook_rt.model.types import equal
from notebook_rt.store.marks import Mark, OutOfReachError

MOST: Final = 100_000
"""Rows shown one by one that are remembered."""


class _Memory:
    """What was shown last: the whole table at one moment, and rows and cells since."""

    def __init__(self, mark: Mark | None = None) -> None:
        self._mark = mark
        self._rows: dict[Key, dict[str, Any] | None] = {}
        """None: the row was shown to be gone."""
        self._forgot = False

    def note(self, key: Key, row: Row | None) -> None:
        """The row was shown, or that it is gone."""
        rows = self._rows
        rows.pop(key, None)  # the latest last
        rows[key] = None if row is None else dict(row)
        if len(rows) > MOST:
            del rows[next(iter(rows))]
            self._forgot = True

    def note_cells(self, key: Key, cells: Row) -> None:
        """Cells of a row were shown, or written."""
        self.note(key, {**(self._rows.get(key) or {}), **cells})

    def cells(self, key: Key) -> Row:
        """What was shown of the row by itself."""
        return self._rows.get(key) or {}

    def fill(self, found: Mapping[Key, dict[str, Any]], columns: Collection[str]) -> None:
        """Put into the rows of ``found`` those of ``columns`` that they lack and that were shown."""
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
        """Of the thread that read last."""

    # --- shown -----------------------------------------------------------------------------------

    def whole(self, mark: Mark) -> None:
        """The whole table was shown."""
        self._here.memory = self._last = _Memory(mark)

    def row(self, key: Key, row: Row) -> None:
        """A row was shown."""
        self._last = memory = self._mine()
        memory.note(key, row)

    def cells(self, key: Key, cells: Row) -> None:
        """Some cells of a row were shown."""
        self._last = memory = self._mine()
        memory.note_cells(key, cells)

    def changes(self, changes: Iterable[RowChange]) -> None:
        """A batch was shown to this thread: a callback's, or one that iterates."""
        memory = self._mine()
        for change in changes:
            memory.note(change.key, change.new)

    # --- for the editor (based.Known) ------------------------------------------------------------

    def bases(self, keys: Collection[Key], columns: Collection[str]) -> dict[Key, dict[str, Any]]:
        """What is known of cells; raises `OutOfReachError`."""
        found: dict[Key, dict[str, Any]] = {key: {} for key in keys}
        mine: _Memory | None = getattr(self._here, "memory", None)
        for memory in dict.fromkeys((mine, self._last)):
            if memory is not None:
                memory.fill(found, columns)
        return found

    def wrote(self, key: Key, new_key: Key, values: Row) -> None:
        """An edit through this handle: its user knows these values."""
        # A thread that was shown nothing writes for the one that was.
        memory: _Memory = getattr(self._here, "memory", self._last)
        if new_key != key:
            values = {**memory.cells(key), **values}
            memory.note(key, None)
        memory.note_cells(new_key, values)

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        """An edit was taken back: where nothing was shown since, what was known before is again."""
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
