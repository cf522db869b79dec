"""``join``: each row with its partner in another table, as ``DataFrame.join`` gives them.

A row's partner is the row of the other table whose key is what the row's columns ``on`` hold; so there is
one at most, and the result has the rows, order and index of the left table. What changes on the left
looks its partner up; what changes on the right is looked up in the groups of the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pandas as pd

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Delete, Key, Op, Row, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.arranged import ALONE
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn
from notebook_rt.store.touched import RANK, Delta
from notebook_rt.sync.derive.groups import NO_GROUP, Groups
from notebook_rt.sync.derive.operator import Columns, Operator, known, rank_column
from notebook_rt.sync.derive.source import Source

How: TypeAlias = Literal["left", "inner"]

_JOINED: Final = frozenset({"int", "bool", "text", "timestamptz", "timestamp", "date"})


class Join(Operator):
    """The left table with the columns of the right one. ``on`` None: by the left table's own key."""

    def __init__(self, on: tuple[str, ...] | None, how: How, suffixes: tuple[str, str]) -> None:
        self.on = on
        self.how = how
        self.suffixes = suffixes

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        left, right = sources
        self._name_columns(left, right)
        backend = left.table.dtype_backend
        groups = self._groups = Groups(left, self._by)
        places = {key: at for at, key in enumerate(_keys(right))}
        partners = [places.get(self._partner(values), -1) for values in groups.values]
        where = np.array([*partners, -1], "int64")[groups.codes]  # the code -1 is the last one
        rows = np.arange(len(where))
        if self.how == "inner":
            rows = np.flatnonzero(where >= 0)
        alone = where[rows] < 0
        columns: dict[str, ColumnStore] = {}
        for name, column in left.picked(rows, self._left).items():
            columns[self._left[name]] = column
        for name, column in right.picked(where[rows], self._right).items():
            columns[self._right[name]] = column
        columns[ALONE] = FixedColumn(alone, None, "bool", backend, "float")
        columns[RANK] = rank_column(left.ranks()[rows], backend)
        keys = list(left.picked(rows[alone], left.schema.key).values())
        values = zip(*(column.everything() for column in keys), strict=True)
        names = left.schema.key
        self._alone = {left.schema.key_of(dict(zip(names, one, strict=True))) for one in values}
        self.blank = frozenset(self._right.values()) if self.how == "left" else frozenset()
        made = [
            *(Column(self._left[one.name], one.pg_type) for one in left.schema.columns),
            *(
                Column(self._right[one.name], one.pg_type)
                for one in right.schema.columns
                if one.name in self._right
            ),
            Column(ALONE, "bool"),
            Column(RANK, "int8"),
        ]
        return Schema(tuple(made), left.schema.key, left.schema.numeric), columns

    def _name_columns(self, left: Source, right: Source) -> None:
        """Which column of an input is called what in the result."""
        mine, theirs = left.schema, right.schema
        by = self._by = mine.key if self.on is None else self.on
        known(left, by, f"join on {', '.join(by)}")
        if len(by) != len(theirs.key) or (self.on is None and by != theirs.key):
            raise DerivationError(
                f"join on {', '.join(by)}: the key of the other frame is {', '.join(theirs.key)}; say by on= "
                "which columns hold that; what is joined by other columns is made by map"
            )
        if mine.numeric != theirs.numeric:
            raise DerivationError("join: one frame has exact numbers, the other has not; use map")
        mine_of, theirs_of = left.table.columns(), right.table.columns()
        for name, key in zip(by, theirs.key, strict=True):
            kinds = mine_of[name].kind, theirs_of[key].kind
            if kinds[0] != kinds[1] or kinds[0] not in _JOINED:
                raise DerivationError(
                    f'join: "{name}" is {kinds[0]} and the other\'s "{key}" {kinds[1]}; use map'
                )
        added = [name for name in theirs.names if name not in theirs.key]
        both = {name for name in mine.names if name not in mine.key} & {*added}
        self._left = {n: n + self.suffixes[0] if n in both else n for n in mine.names}
        self._right = {n: n + self.suffixes[1] if n in both else n for n in added}
        names = [*self._left.values(), *self._right.values()]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DerivationError(
                f"join: both frames have {', '.join(twice)}; say suffixes=('_mine', '_theirs')"
            )

    def _partner(self, values: tuple[Any, ...]) -> Key:
        return values[0] if len(values) == 1 else values

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        left, right = sources
        groups = self._groups
        gone: dict[Key, None] = {}
        rows: dict[Key, tuple[int, Row]] = {}
        for delta in deltas[0]:
            if delta.old is not None:
                groups.drop(delta.old.rank)
                if delta.new is None or delta.new.rank != delta.old.rank:
                    gone[delta.key] = None  # it is no more, or comes again at its new place
        for delta in deltas[0]:
            if delta.new is not None:
                values = groups.values_of(delta.new.row)
                code = NO_GROUP if values is None else groups.code_of(values)
                groups.put(delta.new.rank, code)
                rows[delta.key] = delta.new.rank, delta.new.row
        rows |= self._joined_with(left, [delta.key for delta in deltas[1]], rows)
        self._alone -= gone.keys()
        ops: list[Op] = [Delete(key) for key in gone]
        for key, (rank, row) in sorted(rows.items(), key=lambda item: item[1][0]):
            values = groups.values_of(row)
            partner = None if values is None else _row(right, self._partner(values))
            (self._alone.add if partner is None else self._alone.discard)(key)
            if partner is None and self.how == "inner":
                self._alone.discard(key)
                ops.append(Delete(key))
                continue
            whole = {to: row[name] for name, to in self._left.items()}
            for name, to in self._right.items():
                whole[to] = None if partner is None else partner[name]
            ops.append(Upsert(key, {**whole, ALONE: partner is None, RANK: rank}))
        return ops

    def _joined_with(
        self, left: Source, keys: Sequence[Key], known: Mapping[Key, object]
    ) -> dict[Key, tuple[int, Row]]:
        """The rows of the left table whose partner has one of these keys, without those of ``known``."""
        codes = [self._groups.code(key if isinstance(key, tuple) else (key,)) for key in keys]
        members = [self._groups.members(code) for code in codes if code is not None]
        if not members:
            return {}
        ranks = np.concatenate(members)
        names = left.schema.names
        picked = left.picked(np.searchsorted(left.ranks(), ranks), names)
        values = zip(*(picked[name].everything() for name in names), strict=True)
        found: dict[Key, tuple[int, Row]] = {}
        for rank, one in zip(ranks.tolist(), values, strict=True):
            row = dict(zip(names, one, strict=True))
            key = left.schema.key_of(row)
            if key not in known:
                found[key] = rank, row
        return found

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        mine, theirs = sources[0].dtypes(), sources[1].dtypes()
        found = {to: mine[name] for name, to in self._left.items()}
        for name, to in self._right.items():
            found[to] = with_missing(theirs[name]) if self._alone else theirs[name]
        return found


def _keys(source: Source) -> list[Key]:
    return list(source.table.keys() if source.view is None else source.view.keys())


def _row(source: Source, key: Key) -> dict[str, Any] | None:
    return source.table.get(key) if source.view is None else source.view.get(key)


@lru_cache(maxsize=256)
def with_missing(dtype: Any) -> Any:
    """The dtype that pandas gives a column in which a row has no partner."""
    return pd.Series(pd.array([], dtype=dtype)).reindex([0]).dtype
