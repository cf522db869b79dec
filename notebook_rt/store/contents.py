"""The contents of a table: its columns, the map from keys to rows, and changes noted since the last step.

Its input is typed operations, its output typed rows. A row gets a number when it arrives, which is never
reused. So numbers increase in the table's order, and a row's position is its number minus the number of
earlier rows that were removed. A row that is only hidden by an edit keeps its number and returns under
it. ``write`` only notes changes, the last value per row and column; ``step`` turns them into one
``Step``, which is applied to every column that it concerns (``store.dense``).

A derived table defines its own order: a row's number is its rank (`RANK`), a new row is inserted between
its neighbours, and a row whose rank changes is removed and added.

This module neither locks nor notifies: ``store.table`` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from notebook_rt.model.rows import Delete, Key, Op, Row, RowChange, Upsert
from notebook_rt.model.types import Backend, Column, Schema, differs, is_same, kind
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import FixedColumn, TextColumn, column_of, of_parts, pick
from notebook_rt.store.dense import Positions, Step
from notebook_rt.store.encode import unequal
from notebook_rt.store.frozen import freeze
from notebook_rt.store.keys import Keys
from notebook_rt.store.marks import Kept
from notebook_rt.store.parallel import in_parallel
from notebook_rt.store.touched import RANK

_NONE: Final[Positions] = np.empty(0, "int64")
_PENDING: Final = 8192
"""Number of rows whose changes are kept as dicts, or an eighth of the table; beyond it, a step is due."""

_SPARSE: Final = 1024
"""Minimum number of removed rows' numbers that are kept before the rows are renumbered."""

_BESIDE: Final = 100_000
"""Number of rows from which a text column that must be rebuilt is rebuilt on its own thread."""


class Preview(msgspec.Struct):
    """The changes that operations will make, and the rows that they concern, before and after."""

    changes: list[RowChange]
    moved: bool
    """Whether a row will move to the end without a change, or comes back to another place later."""
    old: dict[Key, dict[str, Any] | None]
    new: dict[Key, dict[str, Any] | None]
    numbers: dict[Key, int]
    """Numbers of the rows before."""


class Contents:
    """See the module. Made from whole ``columns`` and their ``keys``; a missing column is all null.

    Without ``keys``, they are collected from the columns when one is first looked up.
    """

    def __init__(
        self,
        schema: Schema,
        backend: Backend,
        columns: Mapping[str, ColumnStore] = MappingProxyType({}),
        keys: Keys | None = None,
    ) -> None:
        self.backend: Backend = backend
        self._know(schema)
        rows = 0 if keys is None else len(keys)
        self.columns: dict[str, ColumnStore] = {
            one.name: columns[one.name] if one.name in columns else self._store([None] * rows, one)
            for one in schema.columns
        }
        self.by_rank = RANK in schema.types
        """Whether the rows are in the order of their ranks, which are their numbers."""

        if keys is None:
            keys = self._collected_later() if columns else Keys()
        if self.by_rank:
            keys.anywhere()
        self.keys = keys
        self._dead: Positions = _NONE
        self.born = len(keys)
        """Rows with a number from here on are in no column yet."""

        self._next = len(keys)
        self._changed: dict[int, Row] = {}
        self.fresh: dict[int, dict[str, Any]] = {}
        """Rows that are in no column yet, by their numbers."""

        self._gone: list[int] = []
        self._stillborn: list[int] = []
        """Numbers of rows that were added and removed again before any step."""

        self._places_kept: dict[Key, int] = {}
        """Numbers of rows that are hidden and may return."""
        self._returning = False
        """Whether some of the ``fresh`` rows return to a position between others."""

        self._counted: Positions = _NONE
        """The positions from 0 on, as `ranks` last returned them: read-only, and therefore shared."""

    def _collected_later(self) -> Keys:
        schema, ranks = self.schema, self.columns[RANK].numpy() if self.by_rank else None
        of_key = [self.columns[name] for name in schema.key]
        held = [(one.parts(), one.pg_type, one.backend, one.numeric) for one in of_key]
        only = of_key[0]
        integers = len(of_key) == 1 and isinstance(only, FixedColumn) and only.kind == "int"

        def keys() -> Positions | Sequence[Key]:
            [first, *_], *_ = held
            if integers and first.mask is None:
                return np.asarray(first.data)
            return schema.keys_in([of_parts(*one).everything() for one in held])

        return Keys.later(len(only), keys, ranks)

    # --- its shape ----------------------------------------------------------------------------

    def _know(self, schema: Schema) -> None:
        self.schema = schema
        self.blank: dict[str, Any] = dict.fromkeys(schema.names)
        self.nested = [c.name for c in schema.columns if kind(c.pg_type) in ("json", "array")]

    def _store(self, values: Sequence[Any], column: Column) -> ColumnStore:
        return column_of(values, column.pg_type, self.backend, self.schema.numeric)

    def add_column(self, column: Column) -> None:
        """Add a column of nulls; nothing is noted."""
        columns = (*self.schema.columns, column)
        self._know(Schema(columns, self.schema.key, self.schema.numeric))
        self.columns[column.name] = self._store([None] * len(self.keys), column)

    def drop_column(self, name: str) -> None:
        """Drop a column that is not part of the key; nothing is noted."""
        columns = tuple(column for column in self.schema.columns if column.name != name)
        self._know(Schema(columns, self.schema.key, self.schema.numeric))
        del self.columns[name]

    @property
    def nbytes(self) -> int:
        """Bytes used by both sets of buffers, the text, and the map from keys to rows."""
        columns = sum(column.nbytes for column in self.columns.values())
        return columns + self.keys.nbytes + self._dead.nbytes + self._counted.nbytes

    # --- noting changes -----------------------------------------------------------------------

    @property
    def noted(self) -> int:
        """Number of rows noted since the last step."""
        return len(self._changed) + len(self.fresh) + len(self._gone)

    def write(self, ops: Sequence[Op], numbers: Mapping[Key, int] | None = None) -> bool:
        """Note ``ops``, in order; return whether so many changes are noted that a step is due.

        ``numbers`` are the current numbers of the operations' keys, if already looked up.
        """
        known = dict(self.keys.numbers({op.key for op in ops}) if numbers is None else numbers)
        if self.by_rank:
            ops = self._moving(ops, known)
        changed, fresh = self._changed, self.fresh
        nested = self.nested
        came: dict[Key, int] = {}
        left: list[Key] = []
        for op in ops:
            key = op.key
            number = known.get(key)
            if isinstance(op, Delete):
                if number is None:
                    self._places_kept.pop(key, None)
                else:
                    if op.keeps_place:
                        self._places_kept[key] = number
                    del known[key]
                    if came.pop(key, None) is None:
                        left.append(key)
                    if number in fresh:
                        del fresh[number]
                        self._stillborn.append(number)
                    else:
                        self._gone.append(number)
                        changed.pop(number, None)
                continue
            row = op.row
            if nested:
                row = {
                    name: freeze(value) if name in nested else value for name, value in row.items()
                }
            if number is None:
                number = self._places_kept.pop(key, None)
                if number is None:
                    number = row[RANK] if self.by_rank else self._next
                    self._next += 1
                else:
                    self._returning = True
                known[key] = came[key] = number
                fresh[number] = self.whole(key, row)
            elif number in fresh:
                fresh[number].update(row)
            elif number in changed:
                changed[number] = {**changed[number], **row}
            else:
                changed[number] = row
        if left:
            self.keys.remove(left)
        if came:
            if self._returning:
                self.keys.anywhere()
            self.keys.update(came.items())
        return self.noted > _PENDING and self.noted > len(self.keys) // 8

    def _moving(self, ops: Sequence[Op], numbers: Mapping[Key, int]) -> Sequence[Op]:
        """Return the operations for a table by rank: a row whose rank changes is removed, then added there.

        All removals come first, then all additions: a row may be added at the rank of a removed one.
        """
        left: dict[Key, Delete] = {}
        come: dict[Key, Row] = {}
        stay: dict[Key, Row] = {}
        for op in ops:
            key = op.key
            number = None if key in left else numbers.get(key)
            if isinstance(op, Delete):
                come.pop(key, None)
                stay.pop(key, None)
                if number is not None:
                    left[key] = op
            elif key in come:
                come[key] = {**come[key], **op.row}
            elif number is None:
                come[key] = op.row
            elif op.row.get(RANK, number) == number:
                stay[key] = {**stay[key], **op.row} if key in stay else op.row
            else:
                come[key] = {**self.row(number), **stay.pop(key, {}), **op.row}
                left[key] = Delete(key)
        known = [Upsert(key, row) for key, row in stay.items()]
        return [*left.values(), *known, *(Upsert(key, row) for key, row in come.items())]

    def whole(self, key: Key, row: Row) -> dict[str, Any]:
        """Return a new row: missing values are null, except the key, which the operation has."""
        names = self.schema.key
        if len(names) == 1:
            return {**self.blank, names[0]: key, **row}
        parts = zip(names, key, strict=True) if isinstance(key, tuple) else ()
        return {**self.blank, **dict(parts), **row}

    def preview(self, ops: Sequence[Op]) -> Preview:
        """Return the changes that ``ops`` will make."""
        old, numbers = self.looked_up(dict.fromkeys(op.key for op in ops))
        new = dict(old)
        moved = False
        for op in ops:
            row = new[op.key]
            if isinstance(op, Delete):
                # Where the row will be if it comes back.
                moved |= (op.keeps_place and row is not None) or op.key in self._places_kept
                new[op.key] = None
                continue
            if row is None:
                moved |= old[op.key] is not None
                row = self.whole(op.key, {})
            new[op.key] = _overlaid(row, op.row, self.blank)
        return Preview(list(changes_between(old, new)), moved, old, new, numbers)

    # --- reading rows -------------------------------------------------------------------------

    def row(self, number: int) -> dict[str, Any]:
        """Return the row with this number, with all noted changes; makes no arrays for a single row."""
        if number in self.fresh:
            return self._values_of(self.fresh[number])
        place = self.place(number)
        row = {name: column.value(place) for name, column in self.columns.items()}
        if number in self._changed:
            row.update(self._values_of(self._changed[number]))
        return row

    def rows(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """Return the rows of ``keys``, with all noted changes."""
        return self.looked_up(keys)[0]

    def looked_up(
        self, keys: Iterable[Key]
    ) -> tuple[dict[Key, dict[str, Any] | None], dict[Key, int]]:
        """As `rows`, with the numbers of the rows that exist."""
        found: dict[Key, dict[str, Any] | None] = dict.fromkeys(keys)
        numbers = self.keys.numbers(found.keys())
        stored: dict[Key, int] = {}
        for key, number in numbers.items():
            if number in self.fresh or len(numbers) == 1:
                found[key] = self.row(number)
            else:
                stored[key] = number
        for key, row in self.stored(stored).items():
            if stored[key] in self._changed:
                row.update(self._values_of(self._changed[stored[key]]))
            found[key] = row
        return found, numbers

    def stored(self, numbers: Mapping[Key, int]) -> dict[Key, dict[str, Any]]:
        """Return the rows with these numbers as the columns hold them, without changes noted since."""
        if not numbers:
            return {}
        places = self.places(list(numbers.values()))
        if len(places) == 1:  # no arrays for one row
            [key], at = numbers, int(places[0])
            return {key: {name: column.value(at) for name, column in self.columns.items()}}
        columns = [column.values(places) for column in self.columns.values()]
        return {
            key: dict(zip(self.columns, values, strict=True))
            for key, values in zip(numbers, zip(*columns, strict=True), strict=True)
        }

    def _values_of(self, row: Row) -> dict[str, Any]:
        """Return the values of a noted row that belong to columns of the table."""
        known = self.blank
        return {name: value for name, value in row.items() if name in known}

    def place(self, number: int) -> int:
        """As `places`, for one row."""
        if self.by_rank:
            return int(self.columns[RANK].numpy().searchsorted(number))
        return number - int(self._dead.searchsorted(number)) if len(self._dead) else number

    def places(self, numbers: Sequence[int] | Positions) -> Positions:
        """Return the positions in the columns of the rows with these numbers."""
        found = np.array(numbers, "int64")
        if self.by_rank:
            return self.columns[RANK].numpy().searchsorted(found)
        return found - np.searchsorted(self._dead, found) if len(self._dead) else found

    # --- once nothing is noted ----------------------------------------------------------------

    def ranks(self, places: Positions | None = None) -> Positions:
        """Return the rank of each row, or of those at ``places``: its number, or its `RANK` value."""
        if self.by_rank:
            ranks = self.columns[RANK].numpy()
        elif len(self._dead):
            born = np.ones(self.born, bool)
            born[self._dead] = False
            ranks = np.flatnonzero(born)
        elif places is not None:
            return places
        else:
            if len(self._counted) < self.born:
                self._counted = np.arange(self.born)
                self._counted.flags.writeable = False
            ranks = self._counted[: self.born]
        return ranks if places is None else ranks[places]

    def differing(self, keys: Sequence[Key], rows: Sequence[Row]) -> NDArray[np.bool_]:
        """Return which of ``rows`` are missing here, or differ in a column that they contain."""
        known = self.keys.numbers(keys)
        found = np.array([key not in known for key in keys], bool)
        here = np.flatnonzero(~found)
        places = self.places([known[keys[at]] for at in here.tolist()])
        mine = [rows[at] for at in here.tolist()]
        everywhere = np.arange(len(here))
        for name, column in self.columns.items():
            given, values = _values_given(mine, everywhere, name)
            found[here[given]] |= column.differs(places[given], values)
        return found

    def changes_to(self, new: Contents) -> list[RowChange]:
        """Return the differences of ``new``: deleted rows, then new or changed rows, in its order.

        A column that only ``new`` has is null here; a column that only this table has is not compared.
        """
        was, now = self.keys.as_dict(), new.keys.as_dict()
        gone = [key for key in was if key not in now]
        both = [key for key in now if key in was]
        before = self.places([was[key] for key in both])
        after = new.places([now[key] for key in both])
        differs = np.zeros(len(both), bool)
        for name, column in new.columns.items():
            mine = self.columns.get(name)
            values = [None] * len(both) if mine is None else mine.values(before)
            if mine is None or self.schema.types[name] == new.schema.types[name]:
                differs |= column.differs(after, values)
            else:
                differs |= unequal(column.values(after), values)
        moved = {both[at] for at in np.flatnonzero(differs).tolist()}
        keys = [*gone, *(key for key in now if key in moved or key not in was)]
        return list(changes_between(self.rows(keys), new.rows(keys)))

    # --- taking a step ------------------------------------------------------------------------

    def to_change(self) -> Kept:
        """Return the current rows that a step will change or remove, and the keys that it will add."""
        places = self.places(np.sort(np.array([*self._changed, *self._gone], "int64")))
        columns = {name: pick(column, places) for name, column in self.columns.items()}
        came = [self.schema.key_of(row) for row in self.fresh.values()]
        return Kept(self.schema, columns, came)

    def step(self) -> tuple[bool, bool]:
        """Apply the noted changes to the columns, only the last change of each row.

        Return whether rows were added, removed or moved, and whether any column's series was replaced.
        """
        numbers = np.sort(np.array(self._gone, "int64"))
        gone = self.places(numbers)
        step = Step(*self._coming(gone))
        back = np.fromiter(self.fresh, "int64", len(self.fresh)) if self._returning else _NONE
        changed = np.fromiter(self._changed, "int64", len(self._changed))
        order = np.argsort(changed)  # writing neighbours in memory one after the other is faster
        rows = list(self._changed.values())
        rows, fresh = [rows[at] for at in order.tolist()], list(self.fresh.values())
        places = self.places(changed[order])
        self._changed, self.fresh, self._gone = {}, {}, []
        other = False

        def advance(names: Iterable[str]) -> None:
            nonlocal other
            for name in names:
                known = name in self.schema.key
                where, values = (_NONE, []) if known else _values_given(rows, places, name)
                if step.moves or values:
                    added = [row[name] for row in fresh]
                    column, another = self.columns[name].advance(step, where, values, added)
                    self.columns[name] = column
                    if another:
                        other = True

        names = self.columns.keys() - self.schema.key
        texts = [
            name
            for name in names
            if step.before >= _BESIDE
            and isinstance(column := self.columns[name], TextColumn)
            and column.rebuilds(len(places) + len(gone))
        ]
        in_parallel(
            [partial(advance, [name]) for name in texts], partial(advance, names - {*texts})
        )
        # Key columns last: the guard of the other columns' buffers holds the index, and so the key's.
        advance(self.schema.key)
        step.forget()
        if step.moves:
            if not self.by_rank:
                left = np.concatenate([self._dead, numbers, np.array(self._stillborn, "int64")])
                self._dead = (
                    np.setdiff1d(left, back) if self._returning else np.sort(left, kind="stable")
                )
                self._returning = False
                self.born = self._next
            self._stillborn = []
            self.keys.compact()
        return step.moves, other

    def _coming(self, gone: Positions) -> tuple[int, Positions, int, Positions | None]:
        """Return the parts of a step: rows before it, removed rows, number of added rows and their places."""
        before = len(self.columns[RANK]) if self.by_rank else self.born - len(self._dead)
        if not self.by_rank and not self._returning:
            return before, gone, len(self.fresh), None
        self.fresh = dict(sorted(self.fresh.items()))
        coming = np.fromiter(self.fresh, "int64", len(self.fresh))
        at = np.minimum(self.places(coming), before)
        at -= gone.searchsorted(at)
        ends = not len(at) or at[0] == before - len(gone)
        return before, gone, len(coming), None if ends else at

    @property
    def is_sparse(self) -> bool:
        """Whether so many numbers are unused that a step is followed by renumbering all rows."""
        left = len(self._dead) + len(self._gone) + len(self._stillborn) - len(self._places_kept)
        return not self.by_rank and left > max(_SPARSE, len(self.keys))

    def holds(self, number: int) -> bool:
        """Return whether the columns hold this row: it was added before the last step and is not removed."""
        if number >= self.born:
            return False
        at = int(self._dead.searchsorted(number))
        return at == len(self._dead) or self._dead.item(at) != number

    def renumber(self) -> None:
        """Renumber the rows, including those that may return, to keep the list of the other removed
        numbers short.
        """
        kept = np.fromiter(self._places_kept.values(), "int64", len(self._places_kept))
        self._dead = np.setdiff1d(self._dead, kept)
        self.keys.renumber(self.places)
        kept = self.places(kept)
        self._places_kept = dict(zip(self._places_kept, kept.tolist(), strict=True))
        self._dead = np.sort(kept)
        self.born = self._next = len(self.keys) + len(kept)


def _values_given(rows: Sequence[Row], places: Positions, name: str) -> tuple[Positions, list[Any]]:
    """Return the values of a column in the ``rows`` that have one, and the places of those rows."""
    try:
        return places, list(map(itemgetter(name), rows))
    except KeyError:
        given = [at for at, row in enumerate(rows) if name in row]
        return places[given], [rows[at][name] for at in given]


def _overlaid(row: Row, given: Row, known: Collection[str]) -> dict[str, Any]:
    """Return ``row`` updated with the ``given`` values of the ``known`` columns.

    An unchanged value stays the same object, so that a later comparison immediately finds it
    unchanged.
    """
    found = dict(row)
    for name, value in given.items():
        if name in known and not is_same(found[name], value):
            found[name] = value
    return found


def changes_between(
    old: Mapping[Key, Row | None], new: Mapping[Key, Row | None]
) -> Iterator[RowChange]:
    """Yield the effective changes of rows, in the order of ``new``'s keys; both have the same keys.

    A column that a row only has in ``new`` counts as null before.
    """
    for key, now in new.items():
        was = old[key]
        if was is None:
            if now is not None:
                yield RowChange("insert", key, None, now)
        elif now is None:
            yield RowChange("delete", key, was, None)
        elif differs(now, was):
            yield RowChange("update", key, was, now)
