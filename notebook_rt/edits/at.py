"""Reading and setting one cell of a live table: the object returned by ``LiveFrame.at``. Its input is a
key and a column, its output edits of the table's `Editor`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Any

from notebook_rt.edits.editor import Editor
from notebook_rt.edits.ops import Right
from notebook_rt.edits.shown import Shown
from notebook_rt.model.rows import Key
from notebook_rt.quoting import did_you_mean


class At:
    """``frame.at[key, column]``: one cell, read from the view and edited by assignment.

    An assigned value is based on the cell as this object last returned it, else, as in ``edit``, on what
    the frame last showed. In ``frame.at[7, "stock"] += 1``, another client's change may arrive between
    the read and the write, and is not part of the base. A function of the old value may be assigned.
    Reading raises KeyError for an unknown row or column, and UnreachableError if a column that is not
    known yet cannot be requested. Assigning raises as ``edit`` does, and TypeError for a cell that is not
    a pair of key and column.
    """

    def __init__(
        self,
        editor: Editor,
        shown: Shown,
        know: Callable[[Right | None, Collection[str]], object],
    ) -> None:
        self._editor = editor
        self._shown = shown
        self._know = know
        self._read: tuple[tuple[Key, str], Any] | None = None

    def __repr__(self) -> str:
        return f"<at of {self._editor.table}: at[key, column] reads, at[key, column] = value edits>"

    def __getitem__(self, cell: tuple[Hashable, str]) -> Any:
        key, column = self._parts(cell)
        found = self._editor.find(key)
        if found is not None and column not in found[1]:
            self._know(None, (column,))
            found = self._editor.find(key)
        table = self._editor.table
        if found is None:
            raise KeyError(f'table "{table}" shows no row with the key {key!r}')
        typed, row = found
        if column not in row:
            raise KeyError(
                f'table "{table}" has no column {column!r}{did_you_mean(column, list(row))}; there are '
                f"{', '.join(row)}"
            )
        value = row[column]
        self._shown.cells(typed, {column: value})
        self._read = ((typed, column), value)
        return value

    def __setitem__(self, cell: tuple[Hashable, str], value: Any) -> None:
        key, column = self._parts(cell)
        self._know("update", (column,))
        read, self._read = self._read, None
        typed = self._editor.key(key)
        if read is not None and read[0] == (typed, column):  # whatever was shown elsewhere since
            self._shown.cells(typed, {column: read[1]})
        self._editor.edit(key, {column: value}, self._shown)

    def _parts(self, cell: object) -> tuple[Hashable, str]:
        if isinstance(cell, tuple) and len(cell) == 2:
            return cell
        raise TypeError(
            f"a cell is at[key, column], the key of several columns a tuple; not {cell!r}"
        )
