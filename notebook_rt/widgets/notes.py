"""The notes: merged, queued, failed, live again, unavailable; a few lines, never a hundred.

Input: a ``NoteSource``. Output: the latest lines that the user has not dismissed, newest first, and the
number of earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from notebook_rt.widgets.base import LiveWidget, built, static_table
from notebook_rt.widgets.sources import NoteSource, OnViewer
from notebook_rt.widgets.state import StateModel, cut

SHOWN = 5


class NotesState:
    """The latest notes without the dismissed ones."""

    def __init__(self, source: NoteSource) -> None:
        self._source = source
        self._dismissed: set[int] = set()

    def __call__(self) -> dict[str, Any]:
        notes = self._source.notes()
        self._dismissed &= {note.id for note in notes}
        left = [note for note in notes if note.id not in self._dismissed]
        return {
            "earlier": max(0, len(left) - SHOWN),
            "lines": [
                {
                    "id": note.id,
                    "kind": note.kind,
                    "text": cut(note.text),
                    "at": note.at.isoformat(),
                }
                for note in reversed(left[-SHOWN:])
            ],
        }

    def dismiss(self, word: Mapping[str, Any]) -> None:
        """Do not show this note again."""
        note_id = word.get("id")
        if isinstance(note_id, int):
            self._dismissed.add(note_id)


class NotesWidget(LiveWidget):
    """Recent events, announced politely by screen readers."""

    _esm = built("notes.js")
    _css = built("notes.css")

    def __init__(self, source: NoteSource, *, on_viewer: OnViewer | None = None) -> None:
        state = NotesState(source)

        def static() -> tuple[str, str]:
            lines = [(f"{note.at:%H:%M:%S}", note.text) for note in source.notes()[-SHOWN:]]
            text = "\n".join(f"{at} {what}" for at, what in lines) or "Nothing happened yet"
            return text, static_table(("when", "what"), lines) if lines else f"<p>{text}</p>"

        super().__init__(
            StateModel({"notes": state}, {"dismiss": state.dismiss}),
            subscribe=source.on_note,
            static=static,
            on_viewer=on_viewer,
        )
