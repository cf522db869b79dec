"""Tracks widgets that must be closed: those made by a cell that has been run again.

When a cell that makes a widget runs again, the old model would stay in the kernel forever
(design/notebooks.md, "When is somebody looking"). So each widget is filed under the cell that made it, and
the next run of that cell closes the widgets of the previous run. For front ends that do not name their cells,
all widgets are filed under one name, limited in number: the oldest one without a visible view is closed.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")
UNNAMED = 40
"""Maximum number of widgets if cells have no names."""


class Cells(Generic[W]):
    """The open widgets, by the cell and the run that made them."""

    def __init__(self, seen: Callable[[W], bool] = lambda _: False) -> None:
        self._seen = seen
        self._made: dict[str, tuple[object, list[W]]] = {}
        self._unnamed: list[W] = []

    def __len__(self) -> int:
        return len(self._unnamed) + sum(len(widgets) for _, widgets in self._made.values())

    def made(self, widget: W, cell: str | None, run: object) -> list[W]:
        """File ``widget``, made in this ``run`` of ``cell``; return those to close."""
        if cell is None:
            self._unnamed.append(widget)
            spare = len(self._unnamed) - UNNAMED
            old = [w for w in self._unnamed[:-1] if not self._seen(w)][: max(spare, 0)]
            self._unnamed = [w for w in self._unnamed if w not in old]
            return old
        last_run, widgets = self._made.get(cell, (run, []))
        if last_run == run:
            self._made[cell] = (run, [*widgets, widget])
            return []
        self._made[cell] = (run, [widget])
        return widgets

    def closed(self, widget: W) -> None:
        """Remove ``widget``, which was closed elsewhere."""
        self._unnamed = [w for w in self._unnamed if w is not widget]
        for cell, (run, widgets) in tuple(self._made.items()):
            left = [w for w in widgets if w is not widget]
            if left:
                self._made[cell] = (run, left)
            else:
                del self._made[cell]
