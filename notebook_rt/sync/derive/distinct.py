"""``distinct``: the first row of each combination of values, equal to ``df.drop_duplicates(columns)``.

The state of each group of equal rows is its size and the rank of its first row. When that row is removed,
the next one is searched among all rows, in one pass for all groups of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Key, Op
from notebook_rt.model.types import Schema
from notebook_rt.store.dense import Positions
from notebook_rt.store.touched import RANK, Delta, Place
from notebook_rt.sync.derive.comparing import (
    COMPARED,
    check_values,
    has_nan,
    has_negative_zero,
    refuse_unfit,
)
from notebook_rt.sync.derive.groups import Groups
from notebook_rt.sync.derive.operator import (
    Columns,
    Operator,
    known,
    placed,
    rank_column,
    ranked,
)
from notebook_rt.sync.derive.source import Source


class Distinct(Operator):
    """The first row of each combination of values of ``columns``; without columns, of all except the key."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = tuple(dict.fromkeys(columns))
        self.what = f"distinct {', '.join(self.columns)}".rstrip()

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        [source] = sources
        schema = self._schema = source.schema
        by = self.columns or tuple(name for name in schema.names if name not in source.held)
        self._check(source, by)
        groups = self._groups = Groups(source, by, nulls=True)
        rows = _firsts(groups.codes)
        ranks = source.ranks(rows)
        self._sizes = np.bincount(groups.codes, minlength=len(groups.values)).tolist()
        firsts = np.full(len(groups.values), -1)
        firsts[groups.codes[rows]] = ranks
        self._firsts: list[int] = firsts.tolist()
        """The rank of the shown row of each group; -1: the group is empty."""
        columns = {
            **source.picked(rows, schema.names),
            RANK: rank_column(ranks, source.table.dtype_backend),
        }
        return ranked(schema.columns, schema.key, schema), columns

    @property
    def nbytes(self) -> int:
        return self._groups.nbytes + 70 * len(self._sizes)

    def _check(self, source: Source, by: Sequence[str]) -> None:
        """Raise for values that are compared differently than in pandas."""
        known(source, by, self.what)
        if not by or {*by} & {*source.held}:
            raise DerivationError(f"{self.what}: the index is no column; say other columns")
        columns, backend = source.table.columns(), source.table.dtype_backend
        self._backend = backend
        for name in by:
            column = columns[name]
            if column.kind not in COMPARED:
                raise DerivationError(f'{self.what}: "{name}" is {column.kind}; use map')
            refuse_unfit(column, name, self.what)
            if backend and (has_nan(column) or has_negative_zero(column)):
                raise DerivationError(
                    f'{self.what}: "{name}" holds NaN or -0.0, which the nullable dtypes tell apart '
                    "from null and 0.0; use map"
                )

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        [source], [changes] = sources, deltas
        types, numeric = self._schema.types, self._schema.numeric
        by = {name: types[name] for name in self._groups.by}
        backend = self._backend is not None
        check_values(changes, by, numeric, nan=backend, negative_zero=backend)
        before: dict[int, int] = {}  # the changed groups, and their shown rows
        lost: set[int] = set()
        rows: dict[int, tuple[Key, dict[str, Any]]] = {}  # by rank, current
        keys: dict[int, Key] = {}  # by rank, before
        moved: list[Place] = []
        stay: list[tuple[Key, Place]] = []
        for delta in changes:
            old, new = delta.old, delta.new
            if old is not None:
                keys[old.rank] = delta.key
            if new is not None:
                rows[new.rank] = delta.key, dict(new.row)
            if old is None or new is None or self._differ(old, new):
                if old is not None:
                    self._leave(old.rank, before, lost)
                if new is not None:
                    moved.append(new)
            else:
                stay.append((delta.key, new))
        for place in moved:
            self._come(place, before, lost)
        self._find_next(lost)
        now = {code: self._firsts[code] for code in before}
        unknown = ({*before.values()} - keys.keys() | {*now.values()}) - rows.keys() - {-1}
        rows |= source.of_ranks(np.array(sorted(unknown), "int64"))
        gone: list[Key] = []
        come = [one for one in stay if self._shown(one[1].rank, besides=before)]
        for code, was in before.items():
            rank = now[code]
            key = rows[rank][0] if rank >= 0 else None
            if was >= 0:
                old_key = keys[was] if was in keys else rows[was][0]
                if was != rank or old_key != key:
                    gone.append(old_key)
            if key is not None:
                come.append((key, Place(rank, rows[rank][1])))
        return placed(gone, come)

    def _differ(self, old: Place, new: Place) -> bool:
        values = self._groups.values_of
        return old.rank != new.rank or values(old.row) != values(new.row)

    def _shown(self, rank: int, *, besides: Mapping[int, int]) -> bool:
        """Return whether the row is the first of its group, and the group is not in ``besides``."""
        code = int(self._groups.by_rank[rank])
        return code not in besides and self._firsts[code] == rank

    def _leave(self, rank: int, before: dict[int, int], lost: set[int]) -> None:
        code = self._groups.drop(rank)
        before.setdefault(code, self._firsts[code])
        self._sizes[code] -= 1
        if self._firsts[code] == rank:
            self._firsts[code] = -1
            lost.add(code)

    def _come(self, place: Place, before: dict[int, int], lost: set[int]) -> None:
        values = self._groups.values_of(place.row)
        assert values is not None  # null counts as a value
        code = self._groups.code_of(values)
        if code == len(self._sizes):
            self._sizes.append(0)
            self._firsts.append(-1)
        self._groups.put(place.rank, code)
        before.setdefault(code, self._firsts[code])
        first = self._firsts[code]
        if not self._sizes[code]:
            lost.discard(code)
        self._sizes[code] += 1
        if code not in lost and (first < 0 or place.rank < first):
            self._firsts[code] = place.rank

    def _find_next(self, lost: set[int]) -> None:
        """Return the first rows of groups whose first row was removed."""
        codes = [code for code in lost if self._sizes[code]]
        if not codes:
            return
        wanted = np.zeros(len(self._sizes) + 1, bool)  # the last code: no group
        wanted[codes] = True
        by_rank = self._groups.by_rank
        by_rank.flush()
        found = np.flatnonzero(wanted[by_rank.values])[::-1]
        ranks, groups = by_rank.ranks[found], by_rank.values[found]
        for rank, code in zip(ranks.tolist(), groups.tolist(), strict=True):
            self._firsts[code] = rank

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        return sources[0].dtypes()


def _firsts(codes: Positions) -> Positions:
    """Return the first position of each code, in ascending order."""
    positions = np.arange(len(codes))
    first = np.empty(int(codes.max(initial=-1)) + 1, "int64")
    first[codes[::-1]] = positions[::-1]  # of several, the last one is kept
    return np.flatnonzero(first[codes] == positions)
