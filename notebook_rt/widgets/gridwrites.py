"""What a view of the live grid wants written: a typed cell, pasted ones, a step back, a decision.

In: keys, columns and texts, as ``GridModel`` has found them for what the browser named. Out: calls of
the ``FrameSource``, on a thread that may wait, and an answer to the view. What can be said before
anything is queued is said here; the rest is the source's to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Literal, Protocol

from notebook_rt.store.types import Column
from notebook_rt.widgets.sources import FrameSource
from notebook_rt.widgets.state import cut
from notebook_rt.widgets.typed import parse_typed

PASTE_ROWS: Final = 2_000


class Answer(Protocol):
    """Tells the view: ``kind`` is ``"refused"`` (with ``why``) or ``"said"`` (with ``text``)."""

    def __call__(self, kind: str, **content: Any) -> None: ...


class GridWrites:
    """Writes to a live table.

    Parameters
    ----------
    source
        The live table.
    act
        Runs an action that may take its time, on another thread.
    editable
        Which columns may be edited; True for all but the key, False for none.
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
        """Whether the column can be edited here."""
        if not self._source.editable or name in self._source.df.index.names:
            return False
        return self._editable if isinstance(self._editable, bool) else name in self._editable

    def edit(self, key: Hashable, column: Column, text: object, answer: Answer) -> None:
        """Write what was typed into one cell; None for null."""
        try:
            values = {column.name: self._parsed(column, None if text is None else str(text))}
        except ValueError as error:
            answer("refused", why=cut(error))
            return
        self._write({key: values}, answer)

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
        self._write(edits, answer)
        said = f"Pasted {len(edits):,} row{'' if len(edits) == 1 else 's'}"
        rest = len(rows) - len(edits)
        answer("said", text=said + (f"; {rest:,} more had no place" if rest else ""))

    def undo(self, answer: Answer) -> None:
        """Take back the last edit that has not left."""

        def undo() -> None:
            undone = self._source.undo()
            answer("said", text="Taken back" if undone else "Nothing to take back: all is sent")

        self._act(undo)

    def resolve(self, key: Hashable, column: str, choice: Literal["mine", "theirs"]) -> None:
        """Decide a conflict."""
        self._act(lambda: self._source.resolve(key, column, choice))

    def _parsed(self, column: Column, text: str | None) -> Any:
        if not self.may_edit(column.name):
            raise ValueError(f"{column.name} cannot be edited")
        return parse_typed(column, text)

    def _write(self, edits: dict[Hashable, dict[str, Any]], answer: Answer) -> None:
        def write() -> None:
            try:
                with self._source.batch():
                    for key, values in edits.items():
                        self._source.edit(key, values)
            except Exception as error:
                answer("refused", why=cut(error))

        self._act(write)
