"""The writes of a live grid's view: typed and pasted cells, inserted and deleted rows, undo, decisions.

Input: keys, columns and texts, which ``GridModel`` has looked up for the browser's names. Output: calls of
the ``FrameSource``, on a thread that may wait, and an answer to the view. A text that is not a value of its
type, or a new row that lacks one, is refused here; the source refuses the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

from notebook_rt.errors import InvalidEditError
from notebook_rt.model.types import Column
from notebook_rt.widgets.sources import FrameSource, Right
from notebook_rt.widgets.state import cut
from notebook_rt.widgets.typed import parse_typed

PASTE_ROWS: Final = 2_000
DELETE_ROWS: Final = 2_000
"""Maximum number of rows deleted at once: they are sent a few at a time."""
UNDO_SECONDS: Final = 5.0
"""Seconds that a deletion waits before it is sent: there is no confirmation, so it can be undone."""


class Answer(Protocol):
    """Sends an answer to the view.

    ``kind`` is ``"refused"`` (with ``why``, and ``column`` if that is not the cell's), ``"said"`` (with
    ``text``, and ``undo``: seconds in which that is possible) or ``"inserted"`` (with ``key``).
    """

    def __call__(self, kind: str, **content: Any) -> None: ...


class GridWrites:
    """Writes to a live table.

    Parameters
    ----------
    source
        The live table.
    act
        Runs a slow action on another thread.
    editable
        The columns that may be edited; True for all but the key's, and whole rows; False for none.
    """

    def __init__(
        self,
        source: FrameSource,
        act: Callable[[Callable[[], object]], object],
        editable: bool | Sequence[str],
    ) -> None:
        self._source = source
        self._act = act
        self._editable = editable

    def may_edit(self, name: str) -> bool:
        """Return whether the column can be edited here."""
        if not self._may("update") or name in self._source.df.index.names:
            return False
        return self._editable if isinstance(self._editable, bool) else name in self._editable

    @property
    def adds(self) -> bool:
        """Whether rows can be added here."""
        return self._may("insert") and self._editable is True

    @property
    def deletes(self) -> bool:
        """Whether rows can be deleted here."""
        return self._may("delete") and self._editable is True

    @property
    def rights(self) -> tuple[bool, ...]:
        """The rights here, to be compared with earlier ones."""
        return tuple(self._may(right) for right in ("update", "insert", "delete"))

    def _may(self, right: Right) -> bool:
        return self._source.editable and self._source.may(right)

    def needs(self, column: Column) -> bool:
        """Return whether a new row must have a value for the column, as far as is known."""
        if column.name in self._source.df.index.names:
            return not column.filled
        return not (column.nullable or column.filled or column.generated)

    def edit(
        self, key: Hashable, column: Column, text: object, answer: Answer, was: object = ...
    ) -> None:
        """Write the text typed into one cell; None for null.

        ``was`` is the text with which the editor opened, which is what the cell showed then: the edit is
        based on it, even if the cell has changed since. Without it, the edit is based on the current value.
        """
        try:
            values = {column.name: self._parsed(column, None if text is None else str(text))}
        except ValueError as error:
            answer("refused", why=cut(error))
            return
        shown = {}
        if was is not ...:
            with contextlib.suppress(ValueError):  # a text that is not a value has no information
                shown = {column.name: parse_typed(column, None if was is None else str(was))}
        self._write({key: values}, answer, shown={key: shown})

    def insert(
        self, columns: Sequence[Column], texts: Mapping[str, object], answer: Answer
    ) -> None:
        """Insert a row of typed texts; the server fills the other columns."""
        values = {}
        for column in columns:
            text = texts.get(column.name)
            try:
                if column.name in texts:
                    values[column.name] = parse_typed(column, None if text is None else str(text))
                elif self.needs(column):
                    self.forget_columns()
                    raise ValueError(f"{column.name} is needed")
            except ValueError as error:
                answer("refused", why=cut(error), column=column.name)
                return

        def insert() -> None:
            try:
                answer("inserted", key=self._source.insert(values))
            except Exception as error:
                _refuse(error, answer)

        self._act(insert)

    def delete(self, keys: Sequence[Hashable], answer: Answer) -> None:
        """Delete rows: all of them, or none and why."""
        if not self.deletes:
            answer("refused", why="Rows cannot be deleted here")
            return
        if len(keys) > DELETE_ROWS:
            answer("refused", why=f"At most {DELETE_ROWS:,} rows are deleted at once")
            return

        def delete() -> None:
            try:
                with self._source.batch():
                    for key in keys:
                        self._source.delete(key, UNDO_SECONDS)
            except Exception as error:
                _refuse(error, answer)
            else:
                answer("said", text=f"Deleted {_rows(len(keys))}", undo=UNDO_SECONDS)

        self._act(delete)

    def forget_columns(self) -> None:
        """Note that the known columns have refused a text: they may be outdated."""
        self._source.forget_columns()

    def paste(
        self,
        keys: Sequence[Hashable],
        columns: Sequence[Column],
        rows: Sequence[Sequence[object]],
        answer: Answer,
    ) -> None:
        """Write texts by row and column: all of them, or none and why. An empty one is null."""
        edits: dict[Hashable, dict[str, Any]] = {}
        try:
            for key, texts in zip(keys, rows[:PASTE_ROWS], strict=False):
                for column, text in zip(columns, texts, strict=False):
                    typed = None if text == "" and column.nullable else str(text)
                    edits.setdefault(key, {})[column.name] = self._parsed(column, typed)
        except ValueError as error:
            answer("refused", why=cut(f"Not pasted: {error}"))
            return
        rest = len(rows) - len(edits)
        more = f"; {rest:,} more had no place" if rest else ""
        self._write(edits, answer, f"Pasted {_rows(len(edits))}{more}")

    def undo(self, answer: Answer) -> None:
        """Undo the last edit that has not been sent."""

        def undo() -> None:
            try:
                undone = self._source.undo()
            except Exception as error:
                _refuse(error, answer)
                return
            answer("said", text="Taken back" if undone else "Nothing to take back: all is sent")

        self._act(undo)

    def resolve(
        self,
        key: Hashable,
        column: str | None,
        choice: Literal["mine", "theirs"],
        answer: Answer,
    ) -> None:
        """Decide a conflict; ``column`` None: all open ones of the row."""

        def resolve() -> None:
            try:
                self._source.resolve(key, column, choice)
            except Exception as error:
                _refuse(error, answer)
            else:
                answer("said", text=f"Decided: {choice}")

        self._act(resolve)

    def _parsed(self, column: Column, text: str | None) -> Any:
        if not self.may_edit(column.name):
            raise ValueError(f"{column.name} cannot be edited")
        return parse_typed(column, text)

    def _write(
        self,
        edits: dict[Hashable, dict[str, Any]],
        answer: Answer,
        said: str = "",
        shown: Mapping[Hashable, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        def write() -> None:
            try:
                with self._source.batch():
                    for key, values in edits.items():
                        self._source.edit(key, values, shown.get(key, {}))
            except Exception as error:
                _refuse(error, answer)
            else:
                if said:
                    answer("said", text=said)

        self._act(write)


def _refuse(error: Exception, answer: Answer) -> None:
    if isinstance(error, InvalidEditError):  # the grid shows the table, the cell the column
        answer("refused", why=cut(error.reason), column=error.column)
    else:
        answer("refused", why=cut(error))


def _rows(n: int) -> str:
    return f"{n:,} row{'' if n == 1 else 's'}"
