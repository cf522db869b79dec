"""``merge`` and ``join``: pairs of matching rows of two tables, equal to ``pandas.merge``.

The build is pandas' own merge of the join columns and the positions of the rows. Later changes
affect a set of pairs: for each changed row of one side, its partners on the other side, found
by their key if that is the join column, else in `Groups`, which are created with the first change.

The rank of a pair is the left row's rank, then the right row's (for a right join vice versa), which is
pandas' order. An outer join is in the order of its keys, and is built again with each change.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from notebook_rt.errors import DerivationError
from notebook_rt.model.rows import Key, Op, Row
from notebook_rt.model.types import Column, Kind, Schema
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn, column_of, shared, take
from notebook_rt.store.dense import Positions
from notebook_rt.store.touched import ALONE, HIDDEN_PREFIX, RANK, Delta, Place
from notebook_rt.sync.derive.comparing import refuse_unfit
from notebook_rt.sync.derive.operator import Columns, Operator, RebuildError, known, rank_column
from notebook_rt.sync.derive.pairs import Pairs, Side
from notebook_rt.sync.derive.source import Source

How: TypeAlias = Literal["left", "right", "inner", "outer"]
HOWS: Final[tuple[How, ...]] = get_args(How)

ALONE_LEFT: Final = "\0alone left"
"""The hidden column of the rows without a partner on the left (bool)."""

_JOINED: Final = frozenset({"int", "bool", "text", "timestamptz", "timestamp", "date"})
_HIGHEST: Final = 2**62
_FEW: Final = 4
"""Factor from which the left side counts as large, compared with the right side and its distinct values."""
_WIDER: Final[dict[Kind, str]] = {"int": "int8", "text": "text"}


class Keying(msgspec.Struct, frozen=True):
    """The join columns: columns or levels of the index, or (None) the whole index."""

    left: tuple[str, ...] | None
    right: tuple[str, ...] | None
    said: str = "merge"

    def merge(
        self, left: pd.DataFrame, right: pd.DataFrame, how: How, suffixes: tuple[str, str]
    ) -> pd.DataFrame:
        """Return the arguments of pandas."""
        by: dict[str, Any] = {}
        if self.left is not None and self.left == self.right:
            by["on"] = list(self.left)
        else:
            by |= {"left_index": True} if self.left is None else {"left_on": list(self.left)}
            by |= {"right_index": True} if self.right is None else {"right_on": list(self.right)}
        return left.merge(right, how=how, suffixes=suffixes, **by)


class Taken(msgspec.Struct, frozen=True):
    """A column of the result: from the left, from the right, or from either."""

    name: str
    left: str | None
    right: str | None

    def of(self, left: Row | None, right: Row | None) -> Any:
        """Return its value in a pair of rows."""
        if left is not None and self.left is not None:
            return left[self.left]
        return None if right is None or self.right is None else right[self.right]


class Join(Operator):
    """The pairs of rows of two tables with equal values in the columns of ``keying``."""

    counted = True

    def __init__(self, keying: Keying, how: How, suffixes: tuple[str, str]) -> None:
        self.keying = keying
        self.how = how
        self.suffixes = suffixes
        self.keeps_left, self.keeps_right = how in ("left", "outer"), how in ("right", "outer")
        self._known: dict[Any, Mapping[str, Any]] = {}

    # The whole

    def build(self, sources: Sequence[Source]) -> tuple[Schema, Columns]:
        left, right = sources
        self._find_keys(left, right)
        self._name_columns(left, right)
        places, partners = self._pairs(left, right)
        alone, alone_left = partners < 0, places < 0
        self._check_labels(left, right, alone, alone_left)
        of_left, of_right = int(np.count_nonzero(alone)), int(np.count_nonzero(alone_left))
        both = len(places) - of_left - of_right
        self._counts = {"left": of_left, "right": of_right, "both": both}
        backend = left.table.dtype_backend
        columns: dict[str, ColumnStore] = {}
        made: list[Column] = []
        mine, theirs = left.table.columns(), right.table.columns()
        rows, there = left.rows(places), right.rows(partners)
        whole = _is_whole(places, len(left))
        shared_left = whole if rows is places else _is_whole(rows, len(left.table))
        here = None if shared_left else rows
        for one in (*self._shown, *self._hidden):
            columns[one.name] = _taken(
                one, (mine, rows if one.left is None else here), (theirs, there)
            )
            made.append(Column(one.name, columns[one.name].pg_type))
        for name, flags in ((ALONE, alone), (ALONE_LEFT, alone_left)):
            columns[name] = FixedColumn(flags, None, "bool", backend, "float")
            made.append(Column(name, "bool"))
        made.append(Column(RANK, "int8"))
        columns[RANK] = rank_column(self._ranked(left, right, places, partners, whole), backend)
        blank = {one.name: ALONE for one in self._shown if one.left is None}
        self.blank = blank | {one.name: ALONE_LEFT for one in self._shown if one.right is None}
        self._sides: tuple[Side, Side] | None = None
        self._result = Schema(tuple(made), self._key, left.schema.numeric)
        self._built = self._emptiness(sources)
        return self._result, columns

    def _check_labels(
        self, left: Source, right: Source, alone: NDArray[np.bool_], alone_left: NDArray[np.bool_]
    ) -> None:
        """Raise for rows to which pandas gives the label of another row."""
        of_left = self.keying.right is None and len(right.levels) > 1
        of_right = self.keying.left is None and len(left.levels) > 1
        self._mislabels_right = self.keying.left is not None and of_left and self.keeps_right
        self._mislabels_left = self.keying.right is not None and of_right and self.keeps_left
        if (self._mislabels_right and alone_left.any()) or (self._mislabels_left and alone.any()):
            raise DerivationError(
                f"{self.keying.said}: pandas gives rows without a partner the label of another row, where "
                "the other frame's key has several columns; say another how=, or use map"
            )

    def _emptiness(self, sources: Sequence[Source]) -> tuple[bool, bool]:
        return len(sources[0]) == 0, len(sources[1]) == 0

    def _find_keys(self, left: Source, right: Source) -> None:
        """Find the join columns, or raise."""
        keying, said = self.keying, self.keying.said
        by_columns = keying.left is not None and keying.right is not None
        for source, on in ((left, keying.left), (right, keying.right)):
            if not by_columns and not source.levels:
                raise DerivationError(
                    f"{said}: the index of a merge on columns counts its rows; say by which columns to join"
                )
            known(source, on or (), said)
        mine = self._mine = left.levels if keying.left is None else keying.left
        theirs = self._theirs = right.levels if keying.right is None else keying.right
        if keying.right is None and (
            len(mine) != len(theirs) or (keying.left is None and mine != theirs)
        ):
            raise DerivationError(
                f"{said} on {', '.join(mine)}: the key of the other frame is {', '.join(theirs)}; say by on= "
                "which columns hold that, or merge by other columns"
            )
        if len(mine) != len(theirs):
            raise DerivationError(
                f"{said}: {len(mine)} columns on the left, {len(theirs)} on the right"
            )
        if left.schema.numeric != right.schema.numeric:
            raise DerivationError(
                f"{said}: one frame has exact numbers, the other has not; use map"
            )
        mine_of, theirs_of = left.table.columns(), right.table.columns()
        for name, other in zip(mine, theirs, strict=True):
            column, partner = mine_of[name], theirs_of[other]
            if column.kind == partner.kind and column.kind not in _JOINED:
                raise DerivationError(
                    f'{said}: frames are not joined by "{name}", which is {column.kind}; use map'
                )
            if column.kind != partner.kind:
                raise DerivationError(
                    f'{said}: "{name}" is {column.kind} and the other\'s "{other}" {partner.kind}; use map'
                )
            refuse_unfit(column, name, said)
            refuse_unfit(partner, other, said)

    def _name_columns(self, left: Source, right: Source) -> None:
        """Map the columns of the result to those of the inputs, the index and the key."""
        keying = self.keying
        mine = [name for name in left.schema.names if _is_shown(name, left)]
        theirs = [name for name in right.schema.names if _is_shown(name, right)]
        pairs = dict(zip(self._mine, self._theirs, strict=True))
        back = {other: name for name, other in pairs.items()}
        both: dict[str, str] = {}
        """Return the left columns that are merged with the right ones."""
        index: list[Taken] = []
        if keying.left is not None and keying.right is not None:
            both = {name: name for name, other in pairs.items() if name == other}
            index = [Taken(n, n, n) for n in both if n not in mine and n not in theirs]
        elif keying.left is None and keying.right is None:
            index = [Taken(name, name, other) for name, other in pairs.items()]
        elif keying.right is None:
            both = pairs
            # For an empty frame pandas uses the other's index, even if a column has the same name.
            no_row = self.how in ("left", "inner") or not len(right)
            if len(left) or (no_row and {*right.levels} & {*mine}):
                index = [Taken(name, name, pairs.get(name)) for name in left.levels]
            else:
                index = [Taken(name, None, name) for name in right.levels]
        else:
            both = pairs
            no_row = self.how in ("right", "inner") or not len(left)
            if len(right) or (no_row and {*left.levels} & {*theirs}):
                index = [Taken(name, back.get(name), name) for name in right.levels]
            else:
                index = [Taken(name, name, None) for name in left.levels]
        by_columns = keying.left is not None and keying.right is not None
        dropped = {*both} if by_columns else set()  # for a column of both, the right one
        added = [name for name in theirs if name not in dropped]
        twice = {*mine} & {*added}
        shown = [Taken(n + self.suffixes[0] if n in twice else n, n, both.get(n)) for n in mine]
        for name in added:
            new = name + self.suffixes[1] if name in twice else name
            as_left = None if by_columns or keying.right is None else back.get(name)
            shown.append(Taken(new, as_left, name))
        for at, name in enumerate(pairs):
            if (
                name in dropped and name in theirs and name not in mine
            ):  # an index level of the left
                shown.insert(at, Taken(name, name, name))
        self._refuse_twice([one.name for one in shown], [one.name for one in index])
        self._columns, self._index = tuple(shown), tuple(one.name for one in index)
        self.index = self._index
        self._shown = (*index, *shown)
        self._name_key(left, right, index)

    def _refuse_twice(self, shown: Sequence[str], index: Sequence[str]) -> None:
        """Raise if two columns, or a column and an index level, have the same name."""
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise DerivationError(
                f"{self.keying.said}: both frames have {', '.join(twice)}; say suffixes=('_mine', '_theirs')"
            )
        both = sorted({*shown} & {*index})
        if both:
            raise DerivationError(
                f"{self.keying.said}: {', '.join(both)} would be in the index and a column of the result; "
                f"select the column by another name before, such as .select(..., my_{both[0]}={both[0]!r}), "
                "or use map"
            )

    def _name_key(self, left: Source, right: Source, index: Sequence[Taken]) -> None:
        """Choose the key: the left one if rows have at most one partner, else likewise the right, or both."""
        mine, theirs = left.table.schema.key, right.table.schema.key
        self._one_right, self._one_left = {*theirs} <= {*self._theirs}, {*mine} <= {*self._mine}
        by_keys = {*mine} == {*self._mine} and {*theirs} == {*self._theirs}
        self._hidden: tuple[Taken, ...] = ()
        left_key = tuple(Taken(f"{HIDDEN_PREFIX}left {name}", name, None) for name in mine)
        right_key = tuple(Taken(f"{HIDDEN_PREFIX}right {name}", None, name) for name in theirs)
        if by_keys and len(index) == len(mine) and all(one.left and one.right for one in index):
            self._key, self._key_of = self._index, tuple(index)
            return
        if self.how in ("left", "inner") and self._one_right:
            if tuple(one.left for one in index) == mine:
                self._key, self._key_of = self._index, tuple(index)
                return
            self._hidden = left_key
        elif self.how in ("right", "inner") and self._one_left:
            if tuple(one.right for one in index) == theirs:
                self._key, self._key_of = self._index, tuple(index)
                return
            self._hidden = right_key
        else:
            self._hidden = (*left_key, *right_key)
        self._key, self._key_of = tuple(one.name for one in self._hidden), self._hidden

    def _pairs(self, left: Source, right: Source) -> tuple[Positions, Positions]:
        """Return the positions of the rows of all pairs in pandas' order; -1: no row."""
        if not len(left) and not len(right):  # pandas fails if both indexes contain text
            return np.empty(0, "int64"), np.empty(0, "int64")
        found = self._looked_up(left, right)
        if found is not None:
            return found
        frames = []
        for at, (source, on) in enumerate(((left, self.keying.left), (right, self.keying.right))):
            frame = source.frame
            names = [name for name in on or () if name in frame.columns]
            frames.append(frame[names].assign(**{f"{HIDDEN_PREFIX}{at}": np.arange(len(frame))}))
        merged = self._merge(*frames)
        return _positions(merged[f"{HIDDEN_PREFIX}0"]), _positions(merged[f"{HIDDEN_PREFIX}1"])

    def _looked_up(self, left: Source, right: Source) -> tuple[Positions, Positions] | None:
        """Return `_pairs` for many rows with at most one of few partners each; None for other joins.

        pandas' merge factorizes both sides together; here each value is looked up once. Nulls are left to
        pandas.
        """
        many = _FEW * (len(right) + 1) <= len(left)
        by_one = self.keying.left is not None and len(self._mine) == 1
        if not (many and by_one and self._one_right and self.how in ("left", "inner")):
            return None
        mine, theirs = left.series(self._mine[0]), right.series(self._theirs[0])
        codes, values = pd.factorize(mine.array)
        if mine.dtype != theirs.dtype or theirs.isna().any() or codes.min() < 0:
            return None
        if _FEW * len(values) > len(codes):
            return None
        partners = pd.Index(theirs.array).get_indexer(values)[codes]
        if self.how == "left" or partners.min() >= 0:
            return np.arange(len(codes)), partners
        places = np.flatnonzero(partners >= 0)
        return places, partners[places]

    def _merge(self, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        try:
            return self.keying.merge(left, right, self.how, self.suffixes)
        except ValueError as error:
            raise DerivationError(f"{self.keying.said}: {error}") from None

    # The order

    def _ranked(
        self, left: Source, right: Source, places: Positions, partners: Positions, whole: bool
    ) -> Positions:
        """Return the ranks of the pairs; if they cannot be maintained, `step` requests a rebuild.

        ``whole``: whether they are the rows of the left, in order.
        """
        first, second = (left.ranks(), places), (right.ranks(), partners)
        alone = self._one_right
        if self.how == "right":
            first, second, alone = second, first, self._one_left
        highest = int(second[0].max(initial=-1))
        self._factor = 1 if alone else 1 << (2 * highest + 1024).bit_length()
        self._whole = self.how == "outer" or not (left.lasting and right.lasting)
        if not self._whole and 4 * int(first[0].max(initial=0)) * self._factor < _HIGHEST:
            if whole and self.how != "right" and self._factor == 1:
                return first[0]
            ranks = _at(first[0], first[1])
            if self._factor > 1:
                ranks = ranks * self._factor + _at(second[0], second[1]) + 1
            if (ranks[1:] > ranks[:-1]).all():
                return ranks
        self._whole = True
        return np.arange(len(places))

    def _rank(self, left: Place | None, right: Place | None) -> int:
        first, second = (right, left) if self.how == "right" else (left, right)
        assert first is not None  # it always exists, except in an outer join
        if self._factor == 1:
            return first.rank
        after = 0 if second is None else second.rank + 1
        if after >= self._factor or first.rank * self._factor >= _HIGHEST:
            raise RebuildError
        return first.rank * self._factor + after

    # What changes

    def step(self, sources: Sequence[Source], deltas: Sequence[Sequence[Delta]]) -> list[Op]:
        if not any(deltas):
            return []
        if self._whole or self._emptiness(sources) != self._built:
            raise RebuildError
        if self._sides is None:
            bys = (self._mine, self._theirs)
            self._sides = (
                Side(sources[0], bys[0], deltas[0]),
                Side(sources[1], bys[1], deltas[1]),
            )
        left, right = self._sides
        left.begin(sources[0], deltas[0])
        right.begin(sources[1], deltas[1])
        pairs = Pairs(self, left, right, sum(self._counts.values()))
        pairs.before()
        left.move()
        right.move()
        pairs.after()
        return pairs.ops(self._counts)

    def pair(self, left: Place | None, right: Place | None) -> tuple[Key, int]:
        """Return the key and the rank of a pair."""
        if (left is None and self._mislabels_right) or (right is None and self._mislabels_left):
            raise RebuildError
        mine, theirs = None if left is None else left.row, None if right is None else right.row
        key = {one.name: one.of(mine, theirs) for one in self._key_of}
        return self._result.key_of(key), self._rank(left, right)

    def row(self, left: Place | None, right: Place | None) -> dict[str, Any]:
        """Return the result's row for a pair."""
        mine, theirs = None if left is None else left.row, None if right is None else right.row
        found = {one.name: one.of(mine, theirs) for one in (*self._shown, *self._hidden)}
        return {**found, ALONE: right is None, ALONE_LEFT: left is None}

    # dtypes

    def dtypes(self, sources: Sequence[Source]) -> Mapping[str, Any]:
        left, right = sources
        counts = self._counts
        mine, theirs = left.dtypes(), right.dtypes()
        shape = (
            counts["both"] > 0,
            counts["left"] > 0 or (len(left) > 0 and not counts["both"]),
            counts["right"] > 0 or (len(right) > 0 and not counts["both"]),
        )
        about = (shape, tuple(mine.items()), tuple(theirs.items()))
        if about not in self._known:
            self._known[about] = self._found_dtypes(left, right, shape)
        return self._known[about]

    def _found_dtypes(
        self, left: Source, right: Source, shape: tuple[bool, bool, bool]
    ) -> Mapping[str, Any]:
        """Return the dtypes of pandas' merge of a few similar rows."""
        mine, theirs = left.dtypes(), right.dtypes()
        keys = _examples(
            [(mine[n], theirs[o]) for n, o in zip(self._mine, self._theirs, strict=True)], shape
        )
        both, only_left, only_right = shape
        lefts = [key for key, there in zip(keys, (both, only_left, False), strict=True) if there]
        rights = [key for key, there in zip(keys, (both, False, only_right), strict=True) if there]
        # Without rows they are sliced, not created: pandas fails with an index created from no text.
        examples = (
            _example(left, mine, self._mine, lefts or keys[:1])[: len(lefts)],
            _example(right, theirs, self._theirs, rights or keys[:1])[: len(rights)],
        )
        merged = self._merge(*examples)
        by_one_index = (self.keying.left is None) != (self.keying.right is None)
        own = examples[0 if self.keying.right is None else 1].index
        if by_one_index and not len(merged) and self._index == tuple(own.names):
            merged.index = own[:0]  # if a column has the same name; see `_name_columns`
        names, levels = [*merged.columns], [str(n) for n in merged.index.names if n is not None]
        if names != [one.name for one in self._columns] or tuple(levels) != self._index:
            raise DerivationError(
                f"{self.keying.said}: pandas names the columns {', '.join(map(str, names))}, in a way "
                "that is not kept up; name them otherwise, or use map"
            )
        index = merged.index
        found = {name: index.get_level_values(name).dtype for name in levels}
        return {**found, **{name: merged[name].dtype for name in names}}

    @property
    def nbytes(self) -> int:
        """Return the approximate memory in bytes, without the result."""
        return 0 if self._sides is None else sum(side.nbytes for side in self._sides)


def _is_shown(name: str, source: Source) -> bool:
    """Return whether a column of the input is a column of its DataFrame."""
    return name not in source.levels and not name.startswith(HIDDEN_PREFIX)


def _positions(column: pd.Series) -> Positions:
    values = column.to_numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -1, values)
    return values.astype("int64", copy=False)


def _at(ranks: Positions, places: Positions) -> Positions:
    """Return the ranks at these positions; -1 without a row."""
    if not len(ranks):
        return np.full(len(places), -1)
    return np.where(places < 0, -1, ranks[places])


def _is_whole(places: Positions, rows: int) -> bool:
    """Return whether these are all rows, in order."""
    if len(places) != rows or (rows and (places[0] != 0 or places[-1] != rows - 1)):
        return False
    return bool((places[1:] > places[:-1]).all())  # so many, rising, between the two ends


def _taken(
    one: Taken,
    left: tuple[Mapping[str, ColumnStore], Positions | None],
    right: tuple[Mapping[str, ColumnStore], Positions],
) -> ColumnStore:
    """Return a column of the result; without positions, all of it."""
    if one.right is None or left[1] is None:
        assert one.left is not None  # it is of one of the two, and the right one is never whole
        column = left[0][one.left]
        return shared(column) if left[1] is None else take(column, left[1])
    if one.left is None:
        return take(right[0][one.right], right[1])
    mine, theirs = left[0][one.left], right[0][one.right]
    pg_type = mine.pg_type
    if pg_type != theirs.pg_type:
        pg_type = _WIDER.get(mine.kind, pg_type)
    missing = np.flatnonzero(left[1] < 0)
    taken = take(mine, left[1])
    if not len(missing):
        taken.pg_type = pg_type
        return taken
    values = taken.everything()
    for at, value in zip(missing.tolist(), theirs.values(right[1][missing]), strict=True):
        values[at] = value
    return column_of(values, pg_type, mine.backend, mine.numeric)


def _example(
    source: Source, dtypes: Mapping[str, Any], by: Sequence[str], keys: Sequence[Sequence[Any]]
) -> pd.DataFrame:
    """Return a few rows with the dtypes of ``source``, joined by ``keys``."""
    columns: dict[str, Any] = {}
    for name in source.schema.names:
        if name.startswith(HIDDEN_PREFIX):
            continue
        if name in by:
            at = list(by).index(name)
            columns[name] = pd.Series([key[at] for key in keys], dtype=dtypes[name])
        else:
            columns[name] = pd.Series(_blank(dtypes[name], len(keys)))
    frame = pd.DataFrame(columns)
    return frame.set_index(list(source.levels)) if source.levels else frame


def _blank(dtype: Any, length: int) -> Any:
    if isinstance(dtype, np.dtype):
        return np.zeros(length, dtype)
    return pd.array([None] * length, dtype=dtype)


def _examples(
    dtypes: Sequence[tuple[Any, Any]], shape: tuple[bool, bool, bool]
) -> list[tuple[Any, ...]]:
    """Return up to three different keys: of both sides, of the left, of the right."""
    choices = [_values(mine, theirs) for mine, theirs in dtypes]
    keys = list(product(*choices))
    wanted = sum(shape)
    while len(keys) < wanted:  # for booleans the third key is the null that one side must have
        keys.append(tuple(None for _ in dtypes))
    rest = iter(keys)
    found = [next(rest) if there else keys[0] for there in shape]
    if shape[1] and None in found[1] and not _nullable(dtypes[0][0]):
        found[1], found[2] = found[2], found[1]
    return found


def _nullable(dtype: Any) -> bool:
    return not isinstance(dtype, np.dtype) or dtype.kind not in "ib"


@lru_cache(maxsize=256)
def _values(mine: Any, theirs: Any) -> list[Any]:
    """Return up to three values that fit both dtypes; for objects, those of the other side."""
    both = [_some(mine), _some(theirs)]
    if any(pd.api.types.is_bool_dtype(one.dtype) for one in both):
        return [True, False]
    if any(pd.api.types.is_numeric_dtype(one.dtype) for one in both):
        return [1, 2, 3]  # integers become floats if a merge left some out
    for one in both:
        if pd.api.types.is_datetime64_any_dtype(one.dtype) or "timestamp" in str(one.dtype):
            zone = getattr(one.dtype, "tz", None)
            return [pd.Timestamp(2024, 1, day, tz=zone) for day in (1, 2, 3)]
    if any("date" in str(one.dtype) for one in both):
        return [dt.date(2024, 1, day) for day in (1, 2, 3)]
    return ["a", "b", "c"]


def _some(dtype: Any) -> pd.Series:
    """Return a value of this dtype."""
    return pd.Series(np.zeros(1, dtype) if isinstance(dtype, np.dtype) else pd.array([None], dtype))
