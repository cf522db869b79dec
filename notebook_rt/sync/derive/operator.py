"""The base of all operators: build the whole result once, then update it incrementally.

``build`` is vectorised, and costs as much as the pandas expression. ``step`` takes the later changes of each
input, and returns the operations that turn the old result into the new one; its cost depends on the changed
rows. If the operator cannot follow a change, ``step`` raises `RebuildError`, and the result is built
again, which is slower but correct. A result that cannot be updated incrementally at all is refused with
`DerivationError`, when the operator is created or when its inputs are first seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.quoting import did_you_mean
from notebook_rt.store.arranged import Arranged
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn
from notebook_rt.store.dense import Positions
from notebook_rt.store.table import Table
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.source import Source

Columns = Mapping[str, ColumnStore]


class RebuildError(Exception):
    """A change cannot be followed: the result must be built again."""


class Operator(ABC):
    """See the module docstring."""

    blank: Mapping[str, str] = {}
    """Columns that are null in a row without a partner, and the hidden column that marks such rows."""
    index: tuple[str, ...] | None = None
    """The columns of the index; empty: a RangeIndex; None: the key, or the index of the input."""
    counted = False
    """Whether it accepts an input with a RangeIndex: a result with its labels would have to be renumbered
    with each inserted or deleted row."""
    why_empty = ""
    """Why its result may be empty, if the operator is the reason."""
    of_no_rows = True
    """Whether it can be tried without rows, which a function of the user may not support."""

    @abstractmethod
    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        """Return the whole result: its schema, with `RANK` among the columns, and its contents."""

    @abstractmethod
    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        """Return the changes of the result for the changes of the inputs."""

    @property
    def nbytes(self) -> int:
        """Return the approximate memory in bytes, without the result."""
        return 0

    @abstractmethod
    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        """Return the dtypes of pandas' result by the names of its columns and index."""


def ranked(columns: Iterable[Column], key: tuple[str, ...], like: Schema) -> Schema:
    """Return a result's schema: these columns and the hidden rank."""
    return Schema((*columns, Column(RANK, "int8")), key, like.numeric)


def rank_column(ranks: Positions, backend: Backend) -> ColumnStore:
    """Return ranks as the hidden column, which keeps the array."""
    return FixedColumn(np.asarray(ranks, "int64"), None, "int8", backend, "float")


def placed(gone: Iterable[Key], come: Iterable[tuple[Key, Place]]) -> list[Op]:
    """Return the operations that remove rows from the result and add others, in order."""
    ops: list[Op] = [Delete(key) for key in gone]
    ops += [
        Upsert(key, {**place.row, RANK: place.rank})
        for key, place in sorted(come, key=lambda one: one[1].rank)
    ]
    return ops


def known(source: Source, names: Iterable[str], what: str) -> None:
    """Raise if a column does not exist."""
    types = source.schema.types
    for name in names:
        if name not in types:
            hint = did_you_mean(name, list(types))
            message = f'{what}: no column "{name}"{hint}; there are {", ".join(types)}'
            if what.startswith("select") and (name == "*" or "," in name):
                message += '. Each column is an argument of its own: select("a", "b"); select() has them all'
            raise DerivationError(message)


class Derived:
    """An operator, its inputs and its result. Hold the inputs' locks to update it."""

    def __init__(self, operator: Operator, backend: Backend) -> None:
        self.operator = operator
        self.backend: Backend = backend
        self.table: Table | None = None
        """The result; None before it is first built."""
        self.view: Arranged | None = None
        self.builds = 0
        """Number of complete builds of the result."""
        self._sources: tuple[Source, ...] = ()

    @property
    def moved(self) -> bool:
        """Whether an input may have changed."""
        return self.table is None or any(source.moved for source in self._sources)

    @property
    def nbytes(self) -> int:
        """The memory in bytes of the result and, approximately, of the operator's state."""
        return self.operator.nbytes + (0 if self.table is None else self.table.nbytes)

    def bind(self, sources: Sequence[Source]) -> None:
        """Use other inputs: the result is built again."""
        self._sources = tuple(sources)

    def advance(self, *, want_changes: bool) -> Sequence[Any]:
        """Update the result; return its changes if requested."""
        deltas = [source.deltas() for source in self._sources]
        if self.table is not None and self.view is not None and None not in deltas:
            try:
                ops = self.operator.step(self._sources, [found or () for found in deltas])
            except RebuildError:
                pass
            except BaseException:
                self._forget()
                raise
            else:
                return self._apply(self.table, self.view, ops, want_changes=want_changes)
        return self._build(want_changes=want_changes)

    def _apply(
        self, table: Table, view: Arranged, ops: Sequence[Op], *, want_changes: bool
    ) -> Sequence[Any]:
        try:
            changes = table.apply(ops, want_changes=want_changes) if ops else ()
            view.dtypes = self.operator.dtypes(self._sources)
        except BaseException:  # the operator assumes that it was applied
            self._forget()
            raise
        return changes

    def _build(self, *, want_changes: bool) -> Sequence[Any]:
        self.builds += 1
        try:
            if not self.operator.counted and not all(source.levels for source in self._sources):
                raise DerivationError(
                    "the index of a merge on columns counts its rows, and what is derived of it would keep "
                    "those numbers; do this before the merge, join by the key, or use map"
                )
            schema, columns = self.operator.build(self._sources)
        except BaseException:
            self._forget()
            raise
        changes: Sequence[Any] = ()
        index = self._index(schema)
        if (
            self.table is None
            or self.view is None
            or self.table.schema != schema
            or self.view.index != index
        ):
            self.table = Table(schema, self.backend, columns)
            self.view = Arranged(self.table, index)
        else:
            changes = self.table.replace(columns, schema, want_changes=want_changes)
        self.view.blank = self.operator.blank
        self.view.dtypes = self.operator.dtypes(self._sources)
        return changes

    def _index(self, schema: Schema) -> tuple[str, ...]:
        """The index of the result: the operator's, or that of the input whose key it keeps."""
        if self.operator.index is not None:
            return self.operator.index
        first = self._sources[0]
        return first.levels if schema.key == first.table.schema.key else schema.key

    def _forget(self) -> None:
        """Build the result again with the next step, because this one may be incomplete."""
        for source in self._sources:
            source.forget()
