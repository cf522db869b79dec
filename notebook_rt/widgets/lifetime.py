"""Which widgets are over: those made by a cell that has been run again.

When a cell that makes a widget runs again, the old model would stay in the kernel for good
(design/notebooks.md, "When is somebody looking"). So each widget is filed under the cell that made it, and
the next run of that cell closes what the last one made. Front ends that do not name their cells
file everything under one name, bounded: the oldest that nobody looks at goes. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")
UNNAMED = 40
"""Widgets kept at most where cells have no names."""


class Cells(Generic[W]):
    """The living widgets, by the cell and the run that made them."""

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
        """``widget`` was closed by somebody else."""
        self._unnamed = [w for w in self._unnamed if w is not widget]
        for cell, (run, widgets) in tuple(self._made.items()):
            left = [w for w in widgets if w is not widget]
            if left:
                self._made[cell] = (run, left)
            else:
                del self._made[cell]
