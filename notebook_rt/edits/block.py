"""A ``with frame.batch():`` block that is open: what one thread has edited in it, step by step.

Nothing of it is in the queue yet. A block inside of it that raises, and ``undo``, take steps back.
Blocks of several tables of a session, one inside of another, are one: what was edited leaves in the
order in which it was, so that a row comes before those that refer to it.
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


class Told(Protocol):
    """Who is told of edits (``shown.Shown``)."""

    def took_back(self, key: Key, values: Row, base: Row) -> None:
        """An edit was taken back, which was based on ``base``."""


class Block(msgspec.Struct):
    """The edits of one thread to one table, in order."""

    ops: list[Op] = msgspec.field(default_factory=list)
    edits: list[Edit] = msgspec.field(default_factory=list)
    """As the overlay lays the operations."""
    numbers: list[int] = msgspec.field(default_factory=list)
    """Of the operations: their order among those of all tables."""
    rows: dict[Key, dict[str, Any] | None] = msgspec.field(default_factory=dict)
    """Rows as the block leaves them; None: deleted."""
    lanes: dict[Key, str] = msgspec.field(default_factory=dict)
    """The keys that the block gives to rows, to the lane of the row."""
    told: dict[Told, None] = msgspec.field(default_factory=dict)
    """Who was told of the edits; in order, each once."""
    _steps: list[tuple[int, dict[Key, Any]]] = msgspec.field(default_factory=list)
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
    """The blocks that each thread has open, by who edits the table."""

    def __init__(self) -> None:
        self.open: dict[Any, Block] = {}


def in_order(blocks: Mapping[Hashable, Block]) -> list[Op]:
    """The operations of several blocks, as they were made."""
    made = [pair for one in blocks.values() for pair in zip(one.numbers, one.ops, strict=True)]
    return [op for _, op in sorted(made, key=lambda pair: pair[0])]
