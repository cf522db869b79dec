"""The columnar table: what is seen, as one pandas DataFrame (promises 2, 3.8 and 12).

In go batches of typed operations and whole loads, out come typed rows by key and snapshots, whose
index is the key and whose order is: as loaded, then as arrived; a deletion moves nothing.

A row has a number, given when it arrives and never given again, so numbers rise in the table's
order, and a row's position is its number less the rows before it that have left. ``apply`` only
notes what changes, the last word per row and column; the next read, or a good many changes, makes
one ``Step`` of it, which every column takes that it touches (``store.dense``). One thread writes,
any thread reads; the lock is held for a batch or for a step, never for a whole table.

A derived table says the order itself: a row's number is its rank (`RANK`), a row that comes is put in
between its neighbours, and one that gets another rank leaves and comes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.model.rows import Delete, Key, Op, Row, RowChange, Upsert, WireRow
from notebook_rt.model.types import Backend, Column, Schema, differs, key_part, kind
from notebook_rt.store.column import ColumnStore, Parts
from notebook_rt.store.columns import FixedColumn, TextColumn, column_of, of_parts, pick
from notebook_rt.store.dense import Positions, Step
from notebook_rt.store.encode import unequal
from notebook_rt.store.export import arrow_table
from notebook_rt.store.frozen import freeze
from notebook_rt.store.keys import Keys
from notebook_rt.store.load import Pages
from notebook_rt.store.marks import Kept, Mark
from notebook_rt.store.parallel import in_parallel
from notebook_rt.store.touched import HIDDEN_PREFIX, RANK, Delta, Place, Touched
from notebook_rt.store.uninterrupted import uninterrupted

_NONE: Final[Positions] = np.empty(0, "int64")
_PENDING: Final = 8192
"""Rows whose changes are kept as dicts at most, or an eighth of the table; then they are taken."""

_SPARSE: Final = 1024
"""Numbers of rows that left are kept at least so long before the rows are numbered anew."""


_BESIDE: Final = 100_000
"""Rows from which on text that is made anew is made on a thread of its own, column by column."""


class Table:
    """A keyed, ordered, columnar table that implements ``model.rows.Rows``.

    Parameters
    ----------
    schema : Schema
        The columns and the key.
    dtype_backend : {None, "numpy_nullable", "pyarrow"}
        As in pandas' readers; the dtypes are those of ``store.types``.
    columns : mapping, optional
        What it holds: columns made for this table, of one length. By default it is empty.

    Examples
    --------
    >>> from notebook_rt.model.rows import Upsert
    >>> table = Table(Schema((Column("id", "int8"), Column("name", "text")), key=("id",)))
    >>> _ = table.apply([Upsert(7, {"id": 7, "name": "seven"})])
    >>> table.snapshot().loc[7, "name"]
    'seven'
    """

    def __init__(
        self,
        schema: Schema,
        dtype_backend: Backend = None,
        columns: Mapping[str, ColumnStore] | None = None,
    ) -> None:
        self.schema = schema
        """The columns and the key."""

        self.dtype_backend: Backend = dtype_backend
        self.version = 0
        """Rises with every batch that may have changed something."""

        self.lock = threading.RLock()
        """Held for a batch or a step; hold it to make several reads of one state."""

        self._columns: dict[str, ColumnStore] = {}
        self._keys = Keys()
        self._dead: Positions = _NONE
        self._born = 0
        """Rows with a number from here on are in no column yet."""

        self._next = 0
        self._changed: dict[int, Row] = {}
        self._fresh: dict[int, dict[str, Any]] = {}
        self._gone: list[int] = []
        self._stillborn: list[int] = []
        """Numbers of rows that came and left again before any step."""

        self._index: pd.Index | None = None
        self._snapshot: pd.DataFrame | None = None
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        """Who wants to know what rows were before a step."""

        self._mark: weakref.ref[Mark] | None = None
        """The mark of the columns as they are, if there is one."""

        self._followers: weakref.WeakSet[Touched] = weakref.WeakSet()
        """Who wants to know which rows a batch touches, and what they were."""

        self._know(schema)
        self._by_rank = RANK in schema.types
        """Whether the rows are in the order of their ranks, which are their numbers."""

        self._counted: Positions = _NONE
        """The positions from 0 on, as `ranks` gave them last: read-only, and so shared."""

        if columns is None:
            self._columns.update(
                (column.name, self._store([], column)) for column in schema.columns
            )
        else:
            self._columns.update((name, columns[name]) for name in schema.names)
            ranks = self._columns[RANK].numpy() if self._by_rank else None
            self._keys = _keys_of(schema, self._columns, ranks)
            self._born = self._next = len(self._keys)
        if self._by_rank:
            self._keys.anywhere()

    # --- rows ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self.lock:
            return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        with self.lock:
            return key in self._keys

    @property
    def pending_keys(self) -> Collection[Key]:
        """See ``Rows``: what is written is the overlay's."""
        return ()

    def admit(self, key: Key, sent_at: float) -> None:
        """See ``Rows``."""

    def keys(self) -> Iterator[Key]:
        """The keys, in the promised order."""
        with self.lock:
            return iter(self._keys.in_order())

    def get(self, key: Key) -> dict[str, Any] | None:
        """The whole row, typed, or None."""
        with self.lock:
            number = self._keys.get(key)
            return None if number is None else self._row(number)

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """The whole rows of many keys at once, typed; None where there is none."""
        with self.lock:
            return self._rows(keys)

    def mark(self) -> Mark:
        """What stands for the rows as they are now; hold the lock to read the same rows."""
        with self.lock:
            self._take_step()
            mark = None if self._mark is None else self._mark()
            if mark is None:
                mark = Mark(self)
                self._mark = weakref.ref(mark)
                self._marks.add(mark)
            return mark

    def stored(self, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
        """The rows of ``keys`` as the columns have them, where there are: a mark asks for those that
        no step has changed.
        """
        with self.lock:
            numbers = self._keys.numbers(keys)
            if any(key not in numbers or numbers[key] in self._fresh for key in keys):
                # It may be one that was deleted, or take the place of one: a step tells the marks.
                self._take_step()
                numbers = self._keys.numbers(keys)
            places = self._places(list(numbers.values()))
            if len(places) == 1:  # no arrays for one row
                [key], place = numbers, int(places[0])
                return {key: {name: one.value(place) for name, one in self._columns.items()}}
            columns = [column.values(places) for column in self._columns.values()]
            rows = zip(*columns, strict=True)
            return {
                key: dict(zip(self._columns, row, strict=True))
                for key, row in zip(numbers, rows, strict=True)
            }

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change; return what changed if asked."""
        with self.lock:
            changes: list[RowChange] = []
            if want_changes:
                changes, moved = self._foresee(ops)
                if not changes and not moved:
                    return changes
            if ops:
                self.version += 1
                with uninterrupted():
                    if self._followers:
                        self._tell_followers(ops)
                    self._write(self._moving(ops) if self._by_rank else ops)
            noted = len(self._changed) + len(self._fresh) + len(self._gone)
            if noted > _PENDING and noted > len(self._keys) // 8:
                self._take_step()
            return changes

    def load(self) -> TableLoad:
        """Begin to collect a whole new table."""
        return TableLoad(self)

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are not here or differ in a given column."""
        rows = [self.schema.decode(row) for row in page]
        keys = [self.schema.key_of(row) for row in rows]
        with self.lock:
            self._take_step()
            known = self._keys.numbers(keys)
            differs = np.array([key not in known for key in keys], bool)
            here = np.flatnonzero(~differs)
            places = self._places([known[keys[at]] for at in here.tolist()])
            for name, column in self._columns.items():
                given = np.array([name in rows[at] for at in here.tolist()], bool)
                values = [rows[at][name] for at in here[given].tolist()]
                differs[here[given]] |= column.differs(places[given], values)
        return [(keys[at], rows[at]) for at in np.flatnonzero(differs).tolist()]

    # --- following ----------------------------------------------------------------------------

    def follow(self) -> Touched:
        """A follower, told of every batch for as long as somebody holds it."""
        with self.lock:
            follower = Touched()
            self._followers.add(follower)
            return follower

    def take_touched(self, follower: Touched) -> list[Delta] | None:
        """What has changed since ``follower`` took it last, each row once; None: read the whole."""
        with self.lock:
            if self._too_sparse(len(self._dead) + len(self._gone) + len(self._stillborn)):
                self._take_step()  # now: it gives the rows other numbers than the deltas would have
            before, whole = follower.before, follower.whole
            follower.before, follower.whole = {}, False
            if whole:
                return None
            after = self._ranked(before)
            return [
                Delta(key, was, after[key])
                for key, was in before.items()
                if _moved(was, after[key])
            ]

    def ranks(self, places: Positions | None = None) -> Positions:
        """The rank of each row, or of those at ``places``: its number, or what its column `RANK` says."""
        with self.lock:
            self._take_step()
            if self._by_rank:
                ranks = self._columns[RANK].numpy()
            elif len(self._dead):
                born = np.ones(self._born, bool)
                born[self._dead] = False
                ranks = np.flatnonzero(born)
            elif places is not None:
                return places
            else:
                if len(self._counted) < self._born:
                    self._counted = np.arange(self._born)
                    self._counted.flags.writeable = False
                ranks = self._counted[: self._born]
            return ranks if places is None else ranks[places]

    def numbered(self, numbers: Positions) -> Positions:
        """Where the rows with these numbers are."""
        with self.lock:
            self._take_step()
            return self._places(numbers)

    def place(self, key: Key) -> Place | None:
        """The row under a typed key, with its rank; None: there is none."""
        with self.lock:
            return self._ranked((key,))[key]

    def columns(self) -> Mapping[str, ColumnStore]:
        """The columns as they are now; hold the lock for as long as they are read."""
        with self.lock:
            self._take_step()
            return self._columns

    def replace(
        self, columns: Mapping[str, ColumnStore], schema: Schema, *, want_changes: bool = False
    ) -> list[RowChange]:
        """Become a table of ``columns``, made for this one, as one change; return what changed if asked."""
        new = Table(schema, self.dtype_backend, columns)
        with self.lock:
            changes = _differences(self, new) if want_changes else []
            self._know(schema)
            self._adopt(new)
        return changes

    def _tell_followers(self, ops: Sequence[Op]) -> None:
        """Have the followers remember the rows that ``ops`` are about, as they are."""
        for follower in tuple(self._followers):
            if follower.whole:
                continue
            fresh = dict.fromkeys(op.key for op in ops if op.key not in follower.before)
            if follower.has_room(len(fresh), len(self._keys)):
                follower.before.update(self._ranked(fresh))
            else:
                follower.reset()

    def _leave_followers(self) -> None:
        """Have the followers read the whole: what they remember means nothing any more."""
        for follower in tuple(self._followers):
            follower.reset()

    def _ranked(self, keys: Collection[Key]) -> dict[Key, Place | None]:
        rows, numbers = self._rows(keys), self._keys.numbers(keys)
        return {
            key: None if row is None else Place(row.get(RANK, numbers[key]), row)
            for key, row in rows.items()
        }

    # --- reading the whole --------------------------------------------------------------------

    def snapshot(self) -> pd.DataFrame:
        """The table as a DataFrame of the user's own; the same object until something changed.

        It never changes, whatever arrives later, and what is written to it reaches neither the
        table nor any other snapshot. Hidden columns are not in it.
        """
        with self.lock:
            self._take_step()
            if self._snapshot is None:
                if self._index is None:
                    self._index = self._indexed()
                columns = [
                    column.series(self._index)
                    for name, column in self._columns.items()
                    if name in self.shown_names
                ]
                # Labels that are numbers, then the true ones: pandas looks up each label given.
                frame = pd.DataFrame(dict(enumerate(columns)), index=self._index, copy=False)
                # The names of the labels are the user's to change.
                frame.columns, frame.index = self._labels.view(), self._index.view()
                self._snapshot = frame
            return self._snapshot

    def arrays(self, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Columns as read-only numpy arrays in the promised order, for vectorised audits.

        int, float and bool columns without nulls are int64, float64 and bool, without a copy;
        moments ``M8[us]`` with NaT for null; everything else, and those with nulls or with values
        that do not fit their type, objects with None for null.
        """
        with self.lock:
            self._take_step()
            return {name: self._columns[name].numpy() for name in columns}

    def to_arrow(self) -> pa.Table:
        """The table as Arrow's, key columns too; memory is shared where the layouts agree.

        json becomes its text, and so do arrays that Arrow has no list type for.
        """
        with self.lock:
            self._take_step()
            return arrow_table(self.schema, self._columns)

    def parts(self) -> dict[str, Parts]:
        """What each column holds, without a copy: what `restore` makes the table of again."""
        with self.lock:
            self._take_step()
            return {name: column.parts() for name, column in self._columns.items()}

    def restore(self, parts: Mapping[str, Parts]) -> None:
        """Take the columns of a table with this schema, as ``parts`` gave them.

        Raises
        ------
        ValueError
            If they are not of one length, or two rows have one key.
        """
        schema = self.schema
        new = type(self)(schema, self.dtype_backend)
        for column in schema.columns:
            held = parts[column.name]
            new._columns[column.name] = of_parts(
                held, column.pg_type, self.dtype_backend, schema.numeric
            )
        sizes = set(map(len, new._columns.values()))
        new._keys = _keys_of(schema, new._columns)
        new._keys.collect()
        if sizes != {len(new._keys)}:
            raise ValueError(f"columns of {sizes} rows, with {len(new._keys)} keys")
        new._born = new._next = len(new._keys)
        self.adopt(new)

    def adopt(self, other: Table) -> None:
        """Become ``other``, which has this schema, and which nobody has seen yet."""
        with self.lock:
            self._adopt(other)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's stream interface: polars, DuckDB and pyarrow read the table through it."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    @property
    def nbytes(self) -> int:
        """Bytes that the table occupies: both sets of buffers, the text, and which row a key means."""
        with self.lock:
            columns = sum(column.nbytes for column in self._columns.values())
            return columns + self._keys.nbytes + self._dead.nbytes + self._counted.nbytes

    # --- the table's shape --------------------------------------------------------------------

    def add_column(self, column: Column) -> None:
        """Add a column that the server's table has got; its values are null."""
        with self.lock:
            self._take_step()
            columns = (*self.schema.columns, column)
            self._know(Schema(columns, self.schema.key, self.schema.numeric))
            self._columns[column.name] = self._store([None] * len(self), column)
            self._snapshot = None
            self._leave_followers()
            self.version += 1

    def drop_column(self, name: str) -> None:
        """Drop a column that the server's table has lost; a key column cannot go."""
        with self.lock:
            self._take_step()
            columns = tuple(column for column in self.schema.columns if column.name != name)
            self._know(Schema(columns, self.schema.key, self.schema.numeric))
            del self._columns[name]
            self._snapshot = None
            self._leave_followers()
            self.version += 1

    def _know(self, schema: Schema) -> None:
        self.schema = schema
        self._blank = dict.fromkeys(schema.names)
        self.shown_names = [
            name
            for name in schema.names
            if name not in schema.key and not name.startswith(HIDDEN_PREFIX)
        ]
        self._labels = _labels(*self.shown_names)
        self._nested = [c.name for c in schema.columns if kind(c.pg_type) in ("json", "array")]

    def _store(self, values: Sequence[Any], column: Column) -> ColumnStore:
        return column_of(values, column.pg_type, self.dtype_backend, self.schema.numeric)

    def _adopt(self, other: Table) -> None:
        """Become ``other``, which nobody has seen yet."""
        self._before_step()
        self._leave_to_marks()
        self._leave_followers()
        self._columns, self._keys, self._dead = other._columns, other._keys, other._dead
        self._born, self._next = other._born, other._next
        self._changed, self._fresh, self._gone = other._changed, other._fresh, other._gone
        self._stillborn = other._stillborn
        self._index = self._snapshot = None
        self.version += 1

    # --- noting changes -----------------------------------------------------------------------

    def _moving(self, ops: Sequence[Op]) -> Sequence[Op]:
        """Operations of a table by rank: a row that gets another rank leaves, and comes there.

        First all that leave, then all that come: a row may come where another one was.
        """
        numbers = self._keys.numbers({op.key for op in ops})
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
                come[key] = {**self._row(number), **stay.pop(key, {}), **op.row}
                left[key] = Delete(key)
        known = [Upsert(key, row) for key, row in stay.items()]
        return [*left.values(), *known, *(Upsert(key, row) for key, row in come.items())]

    def _write(self, ops: Sequence[Op]) -> None:
        changed, fresh = self._changed, self._fresh
        nested = self._nested
        known = self._keys.numbers([op.key for op in ops])
        came: dict[Key, int] = {}
        left: list[Key] = []
        for op in ops:
            key = op.key
            number = known.get(key)
            if isinstance(op, Delete):
                if number is not None:
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
                number = row[RANK] if self._by_rank else self._next
                known[key] = came[key] = number
                fresh[number] = self._whole(key, row)
                self._next += 1
            elif number in fresh:
                fresh[number].update(row)
            elif number in changed:
                changed[number] = {**changed[number], **row}
            else:
                changed[number] = row
        if left:
            self._keys.remove(left)
        if came:
            self._keys.update(came.items())

    def _whole(self, key: Key, row: Row) -> dict[str, Any]:
        """A new row: what is not given is null, but for the key, which the operation knows."""
        names = self.schema.key
        if len(names) == 1:
            return {**self._blank, names[0]: key, **row}
        parts = zip(names, key, strict=True) if isinstance(key, tuple) else ()
        return {**self._blank, **dict(parts), **row}

    def _foresee(self, ops: Sequence[Op]) -> tuple[list[RowChange], bool]:
        """What ``ops`` will change, and whether a row will move to the end without a change."""
        old = self._rows(dict.fromkeys(op.key for op in ops))
        new = dict(old)
        moved = False
        for op in ops:
            row = new[op.key]
            if isinstance(op, Delete):
                new[op.key] = None
                continue
            if row is None:
                moved |= old[op.key] is not None
                row = self._whole(op.key, {})
            given = {name: value for name, value in op.row.items() if name in self._blank}
            new[op.key] = {**row, **given}
        return list(changes_between(old, new)), moved

    def _row(self, number: int) -> dict[str, Any]:
        """The row with this number as it is with everything that was noted: no arrays for one row."""
        if number in self._fresh:
            return self._told(self._fresh[number])
        place = self._place(number)
        row = {name: column.value(place) for name, column in self._columns.items()}
        if number in self._changed:
            row.update(self._told(self._changed[number]))
        return row

    def _rows(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """The rows of ``keys`` as they are with everything that was noted."""
        found: dict[Key, dict[str, Any] | None] = dict.fromkeys(keys)
        numbers = self._keys.numbers(found.keys())
        stored: dict[Key, int] = {}
        for key, number in numbers.items():
            if number in self._fresh or len(numbers) == 1:
                found[key] = self._row(number)
            else:
                stored[key] = number
        if stored:
            places = self._places(list(stored.values()))
            columns = [column.values(places) for column in self._columns.values()]
            for (key, number), values in zip(
                stored.items(), zip(*columns, strict=True), strict=True
            ):
                row = dict(zip(self._columns, values, strict=True))
                if number in self._changed:
                    row.update(self._told(self._changed[number]))
                found[key] = row
        return found

    def _told(self, row: Row) -> dict[str, Any]:
        """What of a noted row is in columns that the table has."""
        known = self._blank
        return {name: value for name, value in row.items() if name in known}

    def _place(self, number: int) -> int:
        """As `_places`, of one row."""
        if self._by_rank:
            return int(self._columns[RANK].numpy().searchsorted(number))
        return number - int(self._dead.searchsorted(number)) if len(self._dead) else number

    def _places(self, numbers: Sequence[int] | Positions) -> Positions:
        """Where the rows with these numbers are in the columns."""
        found = np.array(numbers, "int64")
        if self._by_rank:
            return self._columns[RANK].numpy().searchsorted(found)
        return found - np.searchsorted(self._dead, found) if len(self._dead) else found

    # --- taking a step ------------------------------------------------------------------------

    def _before_step(self) -> None:
        """Do what must be done while the columns hold the rows from before what was noted.

        A hook for a table that does more; called with the lock held.
        """

    def _take_step(self) -> None:
        """Bring what was noted into the columns, each row's last word once."""
        with uninterrupted():
            self._before_step()
            if self._changed or self._fresh or self._gone:
                self._tell_marks()
                self._step()

    def _tell_marks(self) -> None:
        """Hand the marks the rows that the step will change, as they are."""
        self._mark = None
        marks = list(self._marks)
        if not marks:
            return
        places = self._places(np.sort(np.array([*self._changed, *self._gone], "int64")))
        columns = {name: pick(column, places) for name, column in self._columns.items()}
        came = [self.schema.key_of(row) for row in self._fresh.values()]
        kept = Kept(self.schema, columns, came)
        for mark in marks:
            mark.add(kept)
            if mark.lost:
                self._marks.discard(mark)

    def _leave_to_marks(self) -> None:
        """Leave the rows to the marks: others take their place."""
        self._mark = None
        marks, self._marks = list(self._marks), weakref.WeakSet()
        if not marks:
            return
        old = Table(self.schema, self.dtype_backend)
        old._columns, old._keys, old._dead = self._columns, self._keys, self._dead
        old._born, old._next = self._born, self._next
        old._changed, old._fresh, old._gone = self._changed, self._fresh, self._gone
        old._stillborn = self._stillborn
        for mark in marks:
            mark.table = old
            old._marks.add(mark)

    def _step(self) -> None:
        numbers = np.sort(np.array(self._gone, "int64"))
        gone = self._places(numbers)
        step = Step(*self._coming(gone))
        changed = np.fromiter(self._changed, "int64", len(self._changed))
        order = np.argsort(changed)  # what is near in memory is quicker written one after the other
        rows = list(self._changed.values())
        rows, fresh = [rows[at] for at in order.tolist()], list(self._fresh.values())
        places = self._places(changed[order])
        self._changed, self._fresh, self._gone = {}, {}, []

        def advance(names: Iterable[str]) -> None:
            for name in names:
                known = name in self.schema.key
                where, values = (_NONE, []) if known else _given(rows, places, name)
                if step.moves or values:
                    added = [row[name] for row in fresh]
                    column, other = self._columns[name].advance(step, where, values, added)
                    self._columns[name] = column
                    if other:
                        self._snapshot = None

        names = self._columns.keys() - self.schema.key
        texts = [
            name
            for name in names
            if step.before >= _BESIDE
            and isinstance(column := self._columns[name], TextColumn)
            and column.made_anew(len(places) + len(gone))
        ]
        in_parallel(
            [partial(advance, [name]) for name in texts], partial(advance, names - {*texts})
        )
        # The key's columns last: what guards the others' buffers holds the index, and so the key's.
        advance(self.schema.key)
        step.forget()
        if step.moves:
            self._index = None
            if self._by_rank:
                self._stillborn = []
                self._keys.settle()
                return
            stillborn = np.array(self._stillborn, "int64")
            self._dead = np.sort(np.concatenate([self._dead, numbers, stillborn]), kind="stable")
            self._born, self._stillborn = self._next, []
            self._keys.settle()
            if self._too_sparse(len(self._dead)):
                self._renumber()

    def _coming(self, gone: Positions) -> tuple[int, Positions, int, Positions | None]:
        """What a step is made of: the rows before it, those that leave, how many come, and where."""
        if not self._by_rank:
            return self._born - len(self._dead), gone, len(self._fresh), None
        self._fresh = dict(sorted(self._fresh.items()))
        ranks = self._columns[RANK].numpy()
        coming = np.fromiter(self._fresh, "int64", len(self._fresh))
        at = ranks.searchsorted(coming)
        at -= gone.searchsorted(at)
        ends = not len(at) or at[0] == len(ranks) - len(gone)
        return len(ranks), gone, len(coming), None if ends else at

    def _too_sparse(self, left: int) -> bool:
        """Whether a step after which the numbers of ``left`` rows are in no use numbers the rows anew."""
        return not self._by_rank and left > max(_SPARSE, len(self._keys))

    def _renumber(self) -> None:
        """Number the rows by their positions, so that the list of those that left stays short."""
        self._keys.renumber(self._places)
        self._dead = _NONE
        self._born = self._next = len(self._keys)
        self._leave_followers()

    def _indexed(self) -> pd.Index:
        if self.schema.key[0].startswith(HIDDEN_PREFIX):
            return pd.RangeIndex(len(self))
        arrays = [self._columns[name].array() for name in self.schema.key]
        if len(arrays) > 1:
            # A level holds nothing that cannot be hashed: lists and objects are there as their JSON text.
            levels = [
                pd.Index([key_part(v) for v in array], dtype=object)
                if name in self._nested
                else array
                for name, array in zip(self.schema.key, arrays, strict=True)
            ]
            return pd.MultiIndex.from_arrays(levels, names=list(self.schema.key))
        index: pd.Index = pd.Index(
            arrays[0], name=self.schema.key[0], copy=False, dtype=arrays[0].dtype
        )
        return index


@lru_cache(512)
def _labels(*names: str) -> pd.Index:
    """The labels of columns; pandas takes long to make them of names."""
    return pd.Index(names)


def _moved(was: Place | None, now: Place | None) -> bool:
    """Whether a row is other than it was, or elsewhere."""
    if was is None or now is None:
        return was is not now
    return was.rank != now.rank or differs(now.row, was.row)


def _keys_of(
    schema: Schema, columns: Mapping[str, ColumnStore], numbers: Positions | None = None
) -> Keys:
    """The keys of whole columns, collected when one is first looked up."""
    of_key = [columns[name] for name in schema.key]
    held = [(column.parts(), column.pg_type, column.backend, column.numeric) for column in of_key]
    only = of_key[0]
    integers = len(of_key) == 1 and isinstance(only, FixedColumn) and only.kind == "int"

    def keys() -> Positions | Sequence[Key]:
        [first, *_], *_ = held
        if integers and first.mask is None:
            return np.asarray(first.data)
        return schema.keys_in([of_parts(*one).everything() for one in held])

    return Keys.later(len(only), keys, numbers)


def _given(rows: Sequence[Row], places: Positions, name: str) -> tuple[Positions, list[Any]]:
    """The values of a column in those of ``rows`` that have one, and those rows' places."""
    try:
        return places, list(map(itemgetter(name), rows))
    except KeyError:
        given = [at for at, row in enumerate(rows) if name in row]
        return places[given], [rows[at][name] for at in given]


def changes_between(
    old: Mapping[Key, Row | None], new: Mapping[Key, Row | None]
) -> Iterator[RowChange]:
    """The effective changes of rows, in the order of ``new``'s keys; both have the same keys.

    A column that a row has only since is null before.
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


class TableLoad(Pages):
    """A whole table being collected beside ``table`` (``model.rows.Load``)."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.schema, table.dtype_backend)
        self._table = table

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by what was collected with ``ops`` laid over it, as one change."""
        table = self._table
        new = type(table)(self._schema, table.dtype_backend)
        new._columns |= self.columns()
        self.keys.settle()  # once: page by page it takes longer
        new._keys = self.keys
        new._born = new._next = len(self.keys)
        new.apply(self.again)
        with table.lock:
            for column in table.schema.columns:
                if column.name not in new.schema.types:
                    new.add_column(column)
            for name in set(new.schema.names) - set(table.schema.names):
                new.drop_column(name)
            new.apply(ops)
            changes = differences(table, new) if want_changes else []
            table._adopt(new)
        return changes


def differences(old: Table, new: Table) -> list[RowChange]:
    """What is different in ``new``: what is gone, then what is new or changed, in its order.

    A column that only ``new`` has is null in ``old``; one that only ``old`` has is not compared.
    """
    with old.lock, new.lock:
        return _differences(old, new)


def _differences(old: Table, new: Table) -> list[RowChange]:
    old._take_step()
    new._take_step()
    was, now = old._keys.as_dict(), new._keys.as_dict()
    gone = [key for key in was if key not in now]
    both = [key for key in now if key in was]
    before = old._places([was[key] for key in both])
    after = new._places([now[key] for key in both])
    differs = np.zeros(len(both), bool)
    for name, column in new._columns.items():
        mine = old._columns.get(name)
        values = [None] * len(both) if mine is None else mine.values(before)
        if mine is None or old.schema.types[name] == new.schema.types[name]:
            differs |= column.differs(after, values)
        else:
            differs |= unequal(column.values(after), values)
    moved = {both[at] for at in np.flatnonzero(differs).tolist()}
    keys = [*gone, *(key for key in now if key in moved or key not in was)]
    return list(changes_between(old._rows(keys), new._rows(keys)))
