"""An open ``with frame.batch():`` block: the edits of one thread in it, step by step.

None of them is in the queue yet. A nested block that raises, and ``undo``, remove steps. Nested blocks
of several tables of a session are one block: their edits are sent in the order in which they were made,
so that a row comes before those that refer to it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from notebook_rt.edits.merge import Edit
from notebook_rt.edits.ops import Op
from notebook_rt.model.rows import Key, Row

_numbers = itertools.count()


class EditListener(Protocol):
    """Receives notifications of edits (``shown.Shown``)."""

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        """An edit was undone, which was based on ``base``."""


class Block(msgspec.Struct):
    """The edits of one thread to one table, in order."""

    ops: list[Op] = msgspec.field(default_factory=list)
    edits: list[Edit] = msgspec.field(default_factory=list)
    """The operations as the overlay lays them."""
    numbers: list[int] = msgspec.field(default_factory=list)
    """The operations' positions in the order across all tables."""
    rows: dict[Key, dict[str, Any] | None] = msgspec.field(default_factory=dict)
    """Rows as the block leaves them; None: deleted."""
    lanes: dict[Key, str] = msgspec.field(default_factory=dict)
    """Maps keys that the block gives to rows to the lane of the row."""
    told: dict[EditListener, None] = msgspec.field(default_factory=dict)
    """The objects notified of the edits, in order, each once."""
    _steps: list[tuple[int, dict[Key, Any]]] = msgspec.field(default_factory=list)
    """Number of operations before each step, and the previous rows it changed; ``...``: not in ``rows``."""

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def add(
        self, ops: Sequence[Op], edits: Sequence[Edit], rows: dict[Key, dict[str, Any] | None]
    ) -> None:
        """Add a step that leaves ``rows``."""
        self._steps.append((len(self.ops), {key: self.rows.get(key, ...) for key in rows}))
        self.ops += ops
        self.edits += edits
        self.numbers += (next(_numbers) for _ in ops)
        self.rows |= rows

    def take_back(self, to: int) -> None:
        """Undo the steps after the first ``to``."""
        while len(self._steps) > to:
            length, rows = self._steps.pop()
            del self.ops[length:], self.edits[length:], self.numbers[length:]
            for key, row in rows.items():
                if row is ...:
                    del self.rows[key]
                else:
                    self.rows[key] = row


class Blocks(threading.local):
    """The blocks that each thread has open, by the table's editor."""

    def __init__(self) -> None:
        self.open: dict[Any, Block] = {}


def in_order(blocks: Mapping[Hashable, Block]) -> list[Op]:
    """Return the operations of several blocks, in the order in which they were made."""
    made = [pair for one in blocks.values() for pair in zip(one.numbers, one.ops, strict=True)]
    return [op for _, op in sorted(made, key=lambda pair: pair[0])]
