"""What a table was when somebody read it: the base of an edit made from that reading (promises, edits).

A `Mark` stands for the rows at one moment. It holds no copy: a step of the table hands it the rows
that the step changes or takes away, as they were before, so a mark costs what has changed since, and
a reading costs nothing. A mark lives as long as somebody holds it; readings between two steps share one.

It is bounded: once more than ``MOST`` rows have changed since, the mark is out of reach, and
``rows`` raises. When the whole table is replaced, the mark keeps the old one instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol

from notebook_rt.model.rows import Key

if TYPE_CHECKING:
    from notebook_rt.model.types import Schema
    from notebook_rt.store.column import ColumnStore

MOST: Final = 100_000
"""Rows that have changed since a mark, of which it still knows what they were."""
_STEPS: Final = 32
"""Steps that are kept apart; then each of their rows is kept once."""


class OutOfReachError(LookupError):
    """Too much has changed since the mark."""


class Kept:
    """The rows that one step changed or took away, as they were; and the keys that it brought.

    Shared by all marks that are older than the step.
    """

    def __init__(
        self, schema: Schema, columns: Mapping[str, ColumnStore], came: Sequence[Key]
    ) -> None:
        self.names = tuple(columns)
        self._schema = schema
        self._columns = columns
        self._came = came

    def __len__(self) -> int:
        return len(self._columns[self._schema.key[0]]) + len(self._came)

    @cached_property
    def places(self) -> Mapping[Key, int]:
        """Each key to its row's place; -1: there was no such row."""
        key = self._schema.key
        parts = zip(*(self._columns[name].everything() for name in key), strict=True)
        keys = (self._schema.key_of(dict(zip(key, values, strict=True))) for values in parts)
        return {**dict.fromkeys(self._came, -1), **{key: at for at, key in enumerate(keys)}}

    def row(self, place: int) -> dict[str, Any]:
        """The row at a place."""
        return {name: column.value(place) for name, column in self._columns.items()}

    def everything(self) -> list[tuple[Any, ...]]:
        """All rows, in the order of ``names``."""
        columns = [column.everything() for column in self._columns.values()]
        return list(zip(*columns, strict=True))


class Stored(Protocol):
    """The table that a mark is of, as far as a mark looks at it."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def stored(self, keys: Collection[Key]) -> dict[Key, dict[str, Any]]: ...


class Mark:
    """The rows of ``table`` as they were when the mark was made. Made by ``Table.mark``."""

    def __init__(self, table: Stored) -> None:
        self.table = table
        self.lost = False
        self._steps: list[Kept] = []
        self._noted = 0
        self._rows: dict[Key, tuple[tuple[str, ...], tuple[Any, ...]] | None] = {}
        """The oldest known state of rows that have changed; None: there was no such row."""

    def add(self, kept: Kept) -> None:
        """Keep what a step is about to change."""
        self._steps.append(kept)
        self._noted += len(kept)
        if len(self._steps) > _STEPS or self._noted > MOST // 4:
            self._fold()

    def _fold(self) -> None:
        """Keep of each row that has changed only what it was at first."""
        rows, self._noted = self._rows, 0
        for kept in self._steps:
            values = kept.everything()
            for key, place in kept.places.items():
                if key not in rows:
                    rows[key] = None if place < 0 else (kept.names, values[place])
            if len(rows) > MOST:
                self.lost, self._rows = True, {}
                break
        self._steps.clear()

    def rows(self, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
        """The rows of ``keys`` as they were, typed; without those that were not there.

        Raises
        ------
        OutOfReachError
            If more than ``MOST`` rows have changed since.
        """
        while True:
            table = self.table
            with table.lock:
                if self.table is table:  # else it has been replaced meanwhile
                    return self._look(table, keys)

    def _look(self, table: Stored, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
        found = table.stored(keys)  # takes a step where it must, and what that changes is kept
        if self.lost:
            raise OutOfReachError("too many rows have changed since")
        for key in keys:
            known = self._kept(key)
            if known is None:
                found.pop(key, None)
            elif known is not ...:
                found[key] = known
        return found

    def _kept(self, key: Key) -> Any:
        """The row of ``key`` as it was, None if there was none; ``...``: it has not changed."""
        if key in self._rows:
            row = self._rows[key]
            return None if row is None else dict(zip(*row, strict=True))
        for kept in self._steps:
            place = kept.places.get(key)
            if place is not None:
                return None if place < 0 else kept.row(place)
        return ...
