"""A ``with frame.batch():`` block that is open: what one thread has edited in it, step by step.

Nothing of it is in the queue yet. A block inside of it that raises, and ``undo``, take steps back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from notebook_rt.outbox.ops import Op
from notebook_rt.sync.merge import Edit
from notebook_rt.sync.rows import Key


@dataclass(slots=True)
class Block:
    """The edits of one thread, in order."""

    ops: list[Op] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    """As the overlay lays the operations."""
    rows: dict[Key, dict[str, Any] | None] = field(default_factory=dict)
    """Rows as the block leaves them; None: deleted."""
    _steps: list[tuple[int, dict[Key, Any]]] = field(default_factory=list)
    """How many operations there were before each step, and the rows it changed; ``...``: not here."""

    def __len__(self) -> int:
        """The steps."""
        return len(self._steps)

    def add(
        self, ops: Sequence[Op], edits: Sequence[Edit], rows: dict[Key, dict[str, Any] | None]
    ) -> None:
        """Make one step more, which leaves ``rows``."""
        self._steps.append((len(self.ops), {key: self.rows.get(key, ...) for key in rows}))
        self.ops += ops
        self.edits += edits
        self.rows |= rows

    def take_back(self, to: int) -> None:
        """Undo the steps after the first ``to``."""
        while len(self._steps) > to:
            length, rows = self._steps.pop()
            del self.ops[length:], self.edits[length:]
            for key, row in rows.items():
                if row is ...:
                    del self.rows[key]
                else:
                    self.rows[key] = row
