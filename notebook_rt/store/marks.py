"""The past state of a table at a read: the base of an edit made from that read (promises, edits).

A `Mark` represents the rows at one moment. It holds no copy: each step of the table passes it the previous
values of the rows that the step changes or removes. So a mark costs what has changed since, and a read
costs nothing. A mark lives as long as it is referenced; reads between two steps share one.

It is bounded: once more than ``MOST`` rows have changed since, the mark is out of reach, and ``rows``
raises. When the whole table is replaced, the mark keeps the old table instead.
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
"""Maximum number of rows changed since a mark whose previous values it keeps."""
_STEPS: Final = 32
"""Number of steps that are kept separately; beyond it, each of their rows is kept once."""


class OutOfReachError(LookupError):
    """Too much has changed since the mark."""


class Kept:
    """Previous values of the rows that one step changed or removed; and the keys that it added.

    Shared by all marks that are older than the step.
    """

    def __init__(
        self, schema: Schema, columns: Mapping[str, ColumnStore], came: Sequence[Key]
    ) -> None:
        self.names = tuple(columns)
        self._schema = schema
        self._columns = columns
        self._added = came

    def __len__(self) -> int:
        return len(self._columns[self._schema.key[0]]) + len(self._added)

    @cached_property
    def places(self) -> Mapping[Key, int]:
        """Maps each key to its row's place; -1: there was no such row."""
        key = self._schema.key
        parts = zip(*(self._columns[name].everything() for name in key), strict=True)
        keys = (self._schema.key_of(dict(zip(key, values, strict=True))) for values in parts)
        return {**dict.fromkeys(self._added, -1), **{key: at for at, key in enumerate(keys)}}

    def row(self, place: int) -> dict[str, Any]:
        """Return the row at a place."""
        return {name: column.value(place) for name, column in self._columns.items()}

    def everything(self) -> list[tuple[Any, ...]]:
        """Return all rows, in the order of ``names``."""
        columns = [column.everything() for column in self._columns.values()]
        return list(zip(*columns, strict=True))


class Stored(Protocol):
    """The interface to the table that a mark needs."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def stored(self, keys: Collection[Key]) -> dict[Key, dict[str, Any]]: ...


class Mark:
    """The rows of ``table`` when the mark was made, by ``Table.mark``."""

    def __init__(self, table: Stored) -> None:
        self.table = table
        self.lost = False
        self._steps: list[Kept] = []
        self._noted = 0
        self._rows: dict[Key, tuple[tuple[str, ...], tuple[Any, ...]] | None] = {}
        """The oldest known state of rows that have changed; None: there was no such row."""

    def add(self, kept: Kept) -> None:
        """Keep the rows that a step is about to change."""
        self._steps.append(kept)
        self._noted += len(kept)
        if len(self._steps) > _STEPS or self._noted > MOST // 4:
            self._fold()

    def _fold(self) -> None:
        """Keep only the oldest values of each changed row."""
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
        """Return the rows of ``keys`` at the time of the mark, typed, without those that did not exist.

        Raises
        ------
        OutOfReachError
            If more than ``MOST`` rows have changed since.
        """
        while True:
            table = self.table
            with table.lock:
                if self.table is table:  # else it was replaced meanwhile
                    return self._read_rows(table, keys)

    def _read_rows(self, table: Stored, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
        found = table.stored(keys)  # takes a step if necessary, whose changes are kept
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
        """Return the past row of ``key``, or None if there was none; ``...``: it has not changed."""
        if key in self._rows:
            row = self._rows[key]
            return None if row is None else dict(zip(*row, strict=True))
        for kept in self._steps:
            place = kept.places.get(key)
            if place is not None:
                return None if place < 0 else kept.row(place)
        return ...
