"""What every operator is: a whole result made of whole inputs, then kept up by their changes.

``build`` is vectorised, and costs what pandas' own expression does. ``step`` takes the changes of each
input since, and gives the operations that make the old result the new one; it costs what was touched.
Where a change is beyond what the operator can follow, ``step`` raises `RebuildError`, and the result is built
anew: slower, and never wrong. What pandas' result cannot be kept up at all is refused by
`DerivationError`, when the operator is made or when its inputs are first seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.quoting import near
from notebook_rt.store.arranged import Arranged
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn
from notebook_rt.store.dense import Positions
from notebook_rt.store.table import Table
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.source import Source

Columns = Mapping[str, ColumnStore]


class RebuildError(Exception):
    """A change that cannot be followed: the result is to be built anew."""


class Operator(ABC):
    """See the module."""

    blank: Mapping[str, str] = {}
    """Columns that a row without a partner leaves empty, and the hidden column that says so."""
    index: tuple[str, ...] | None = None
    """The columns that are the index; empty: it counts; None: the key's, or the input's."""
    counted = False
    """Whether it takes an input whose index counts: a result that kept those labels would have to be
    numbered anew with each row that comes or goes."""
    why_empty = ""
    """Why its result may have no row, where that is the operator's doing."""
    of_no_rows = True
    """Whether it can be tried without rows: a function of the user's need not work then."""

    @abstractmethod
    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        """The whole result: its schema, `RANK` among the columns, and what it holds."""

    @abstractmethod
    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        """What the inputs' changes change in the result."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use beside the result, about."""
        return 0

    @abstractmethod
    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        """The dtypes of pandas' result, by the names of its columns and of its index."""


def ranked(columns: Iterable[Column], key: tuple[str, ...], like: Schema) -> Schema:
    """A result's schema: these columns and the hidden rank."""
    return Schema((*columns, Column(RANK, "int8")), key, like.numeric)


def rank_column(ranks: Positions, backend: Backend) -> ColumnStore:
    """Ranks as the hidden column, which keeps the array."""
    return FixedColumn(np.asarray(ranks, "int64"), None, "int8", backend, "float")


def placed(gone: Iterable[Key], come: Iterable[tuple[Key, Place]]) -> list[Op]:
    """The operations by which some rows leave the result and others come, in their order."""
    ops: list[Op] = [Delete(key) for key in gone]
    ops += [
        Upsert(key, {**place.row, RANK: place.rank})
        for key, place in sorted(come, key=lambda one: one[1].rank)
    ]
    return ops


def known(source: Source, names: Iterable[str], what: str) -> None:
    """Refuse a column that is not there."""
    types = source.schema.types
    for name in names:
        if name not in types:
            words = (
                f'{what}: no column "{name}"{near(name, list(types))}; there are {", ".join(types)}'
            )
            if what.startswith("select") and (name == "*" or "," in name):
                words += '. Each column is an argument of its own: select("a", "b"); select() has them all'
            raise DerivationError(words)


class Derived:
    """An operator, its inputs and its result; hold the inputs' locks to bring it up to date."""

    def __init__(self, operator: Operator, backend: Backend) -> None:
        self.operator = operator
        self.backend: Backend = backend
        self.table: Table | None = None
        """The result; None before it is first built."""
        self.view: Arranged | None = None
        self.builds = 0
        """How often the result was built as a whole."""
        self._sources: tuple[Source, ...] = ()

    @property
    def moved(self) -> bool:
        """Whether an input may have changed."""
        return self.table is None or any(source.moved for source in self._sources)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use: the result's, and about those of what the operator keeps."""
        return self.operator.nbytes + (0 if self.table is None else self.table.nbytes)

    def bind(self, sources: Sequence[Source]) -> None:
        """Take other inputs: the result is built anew."""
        self._sources = tuple(sources)

    def advance(self, *, want_changes: bool) -> Sequence[Any]:
        """Bring the result up to date; what changed in it, if asked."""
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
        except BaseException:  # the operator takes it for told
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
        """The result's index: the operator's, or that of the input whose key it keeps."""
        if self.operator.index is not None:
            return self.operator.index
        first = self._sources[0]
        return first.levels if schema.key == first.table.schema.key else schema.key

    def _forget(self) -> None:
        """Half of a step may have been taken: the next one builds anew."""
        for source in self._sources:
            source.forget()
