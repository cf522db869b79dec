"""The columnar table: the data the user sees, as one pandas DataFrame (promises 2, 3.8 and 12).

Its input is batches of typed operations and whole loads; its output is typed rows by key and
snapshots. A snapshot's index is the key. Rows are ordered as loaded, then as arrived; a deletion moves
no other row.

``apply`` only notes changes, in the table's ``Contents``. The next read, or a large number of changes,
applies them to the columns in one step. One thread writes and any thread reads; the lock is held for a
batch or a step, never for a whole table.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from notebook_rt.model.rows import Key, Op, Row, RowChange, WireRow
from notebook_rt.model.types import Backend, Column, Schema, differs, key_part
from notebook_rt.store.column import ColumnStore, Parts
from notebook_rt.store.columns import of_parts
from notebook_rt.store.contents import Contents, Preview
from notebook_rt.store.dense import Positions
from notebook_rt.store.export import arrow_table
from notebook_rt.store.load import Pages
from notebook_rt.store.marks import Mark
from notebook_rt.store.touched import HIDDEN_PREFIX, RANK, Delta, Place, Touched
from notebook_rt.store.uninterrupted import uninterrupted


class Table:
    """A keyed, ordered, columnar table that implements ``model.rows.Rows``.

    Parameters
    ----------
    schema : Schema
        The columns and the key.
    dtype_backend : {None, "numpy_nullable", "pyarrow"}
        As in pandas' readers; the dtypes are those of ``store.types``.
    columns : mapping, optional
        The initial columns: made for this table, all of one length. Empty by default.

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
        columns: Mapping[str, ColumnStore] = MappingProxyType({}),
    ) -> None:
        self.dtype_backend: Backend = dtype_backend
        self.version = 0
        """Increases with every batch that may have changed something."""

        self.lock = threading.RLock()
        """Held for a batch or a step; hold it to make several reads of one state."""

        self._index: pd.Index | None = None
        self._snapshot: pd.DataFrame | None = None
        self._marks: weakref.WeakSet[Mark] = weakref.WeakSet()
        """The marks that need the rows as they were before a step."""

        self._mark: weakref.ref[Mark] | None = None
        """The mark of the current columns, if there is one."""

        self._followers: weakref.WeakSet[Touched] = weakref.WeakSet()
        """The followers that need to know which rows a batch touches, and their previous values."""

        self._hold(Contents(schema, dtype_backend, columns))

    def _hold(self, contents: Contents) -> None:
        self._held = contents
        self._know()

    def _know(self) -> None:
        self.schema = schema = self._held.schema
        self.shown_names = [
            name
            for name in schema.names
            if name not in schema.key and not name.startswith(HIDDEN_PREFIX)
        ]
        self._labels = _labels(*self.shown_names)

    # --- rows ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        with self.lock:
            return len(self._held.keys)

    def __contains__(self, key: Key) -> bool:
        with self.lock:
            return key in self._held.keys

    @property
    def pending_keys(self) -> Collection[Key]:
        """See ``Rows``: pending edits belong to the overlay."""
        return ()

    def admit(self, key: Key, sent_at: float) -> None:
        """See ``Rows``."""

    def keys(self) -> Iterator[Key]:
        """Return the keys, in the promised order."""
        with self.lock:
            return iter(self._held.keys.in_order())

    def integers(self) -> NDArray[np.int64] | None:
        """See ``Rows``."""
        with self.lock:
            return self._held.keys.integers()

    def latest(self, column: str, most: int) -> list[Key]:
        """See ``Rows``."""
        with self.lock:
            values = self.arrays([column])[column]
            if values.dtype.kind != "M" or np.isnat(values).any():
                return []
            first = max(0, len(values) - most)
            places = np.argpartition(values, first)[first:] if first else np.arange(len(values))
            keys = self._held.keys.in_order()
            return [keys[at] for at in places[np.argsort(values[places])][::-1]]

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the whole row, typed, or None."""
        with self.lock:
            number = self._held.keys.get(key)
            return None if number is None else self._held.row(number)

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        """Return the whole rows of many keys, typed; None where there is no row."""
        with self.lock:
            return self._held.rows(keys)

    def mark(self) -> Mark:
        """Return a mark for the current rows; hold the lock to read the same rows."""
        with self.lock:
            self._take_step()
            mark = None if self._mark is None else self._mark()
            if mark is None:
                mark = Mark(self)
                self._mark = weakref.ref(mark)
                self._marks.add(mark)
            return mark

    def stored(self, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
        """Return those rows of ``keys`` that the columns hold. A mark asks for the rows that no step has
        changed.
        """
        with self.lock:
            numbers = self._held.keys.numbers(keys)
            if any(key not in numbers or numbers[key] in self._held.fresh for key in keys):
                # A key may belong to a deleted row, or to its replacement: a step notifies the marks.
                self._take_step()
                numbers = self._held.keys.numbers(keys)
            return self._held.stored(numbers)

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        """Apply ``ops`` in order, as one change. Return the changes if requested."""
        with self.lock:
            changes: list[RowChange] = []
            preview = None
            if want_changes:
                preview = self._held.preview(ops)
                changes = preview.changes
                if not changes and not preview.moved:
                    return changes
            if not ops:
                return changes
            self.version += 1
            with uninterrupted():
                if self._followers:
                    self._record_for_followers(ops, preview)
                numbers = None if preview is None else preview.numbers
                full = self._held.write(ops, numbers)
            if full:
                self._take_step()
            return changes

    def load(self) -> TableLoad:
        """Start collecting a new whole table."""
        return TableLoad(self)

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        """Decode ``page`` and return the rows that are missing here or differ in a given column."""
        rows = [self.schema.decode(row) for row in page]
        keys = [self.schema.key_of(row) for row in rows]
        with self.lock:
            self._take_step()
            differs = self._held.differing(keys, rows)
        return [(keys[at], rows[at]) for at in np.flatnonzero(differs).tolist()]

    # --- following ----------------------------------------------------------------------------

    def follow(self) -> Touched:
        """Return a follower, which is notified of every batch as long as it is referenced."""
        with self.lock:
            follower = Touched()
            self._followers.add(follower)
            return follower

    def take_touched(self, follower: Touched) -> list[Delta] | None:
        """Return the changes since ``follower`` last took them, each row once; None: read the whole table."""
        with self.lock:
            if self._held.is_sparse:
                self._take_step()  # now: it gives the rows numbers that differ from those of the deltas
            before, known = follower.take()
            whole, follower.whole = follower.whole, False
            if whole:
                return None
            after = self._ranked(before, known)
            return [
                Delta(key, was, after[key])
                for key, was in before.items()
                if _moved(was, after[key])
            ]

    def ranks(self, places: Positions | None = None) -> Positions:
        """Return the rank of each row, or of those at ``places``: its number, or its `RANK` value."""
        with self.lock:
            self._take_step()
            return self._held.ranks(places)

    def numbered(self, numbers: Positions) -> Positions:
        """Return the positions of the rows with these numbers."""
        with self.lock:
            self._take_step()
            return self._held.places(numbers)

    def place(self, key: Key) -> Place | None:
        """Return the row under a typed key, with its rank, or None if there is none."""
        with self.lock:
            return self._ranked((key,))[key]

    def columns(self) -> Mapping[str, ColumnStore]:
        """Return the current columns; hold the lock while they are read."""
        with self.lock:
            self._take_step()
            return self._held.columns

    def replace(
        self, columns: Mapping[str, ColumnStore], schema: Schema, *, want_changes: bool = False
    ) -> list[RowChange]:
        """Become a table of ``columns``, made for this one, as one change; return changes if requested."""
        return self._become(Contents(schema, self.dtype_backend, columns), want_changes)

    def _record_for_followers(self, ops: Sequence[Op], preview: Preview | None) -> None:
        """Record for the followers the current values of the rows that ``ops`` change."""
        keys = dict.fromkeys(op.key for op in ops)
        before: dict[Key, Place | None] | None = None
        after: dict[Key, dict[str, Any] | None] | None = None
        if preview is not None:  # copied, because listeners may change the rows that they receive
            before = _placed(_copied(preview.old), preview.numbers)
            if not self._held.nested:  # nested values are noted in another form than they are given
                after = _copied(preview.new)
        for follower in tuple(self._followers):
            if follower.whole:
                continue
            fresh = [key for key in keys if key not in follower.before]
            if not follower.has_room(len(fresh), len(self._held.keys)):
                follower.reset()
                continue
            if before is not None:
                follower.before.update((key, before[key]) for key in fresh)
            else:
                follower.before.update(self._ranked(fresh))
            if after is not None:
                follower.after.update(after)
            else:
                for key in keys:
                    follower.after.pop(key, None)

    def _leave_followers(self) -> None:
        """Make the followers read the whole table: what they recorded is no longer valid."""
        for follower in tuple(self._followers):
            follower.reset()

    def _ranked(
        self,
        keys: Collection[Key],
        known: Mapping[Key, dict[str, Any] | None] = MappingProxyType({}),
    ) -> dict[Key, Place | None]:
        """Return the rows of ``keys`` with their ranks; rows in ``known`` are not read."""
        if known:
            rows = {key: known[key] for key in keys if key in known}
            rows |= self._held.rows([key for key in keys if key not in known])
            return _placed({key: rows[key] for key in keys}, self._held.keys.numbers(keys))
        return _placed(*self._held.looked_up(keys))

    # --- reading the whole --------------------------------------------------------------------

    def snapshot(self) -> pd.DataFrame:
        """Return the table as a DataFrame that the user owns; the same object until something changes.

        It never changes, whatever arrives later, and writes to it reach neither the table nor any other
        snapshot. It excludes hidden columns.
        """
        with self.lock:
            self._take_step()
            if self._snapshot is None:
                if self._index is None:
                    self._index = self._indexed()
                columns = [
                    column.series(self._index)
                    for name, column in self._held.columns.items()
                    if name in self.shown_names
                ]
                # Numbers as labels first, then the real ones: pandas looks up each label given.
                frame = pd.DataFrame(dict(enumerate(columns)), index=self._index, copy=False)
                # The user may change the names of the labels.
                frame.columns, frame.index = self._labels.view(), self._index.view()
                self._snapshot = frame
            return self._snapshot

    def arrays(self, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return columns as read-only numpy arrays in the promised order, for vectorised audits.

        int, float and bool columns without nulls are int64, float64 and bool, without a copy. Timestamps are
        ``M8[us]``, with NaT for null. All other columns, and those with nulls or with values that do not fit
        their type, are object arrays with None for null.
        """
        with self.lock:
            self._take_step()
            return {name: self._held.columns[name].numpy() for name in columns}

    def to_arrow(self) -> pa.Table:
        """Return the table as an Arrow table, with key columns; memory is shared where the layouts agree.

        json columns become their text, as do arrays that Arrow has no list type for.
        """
        with self.lock:
            self._take_step()
            return arrow_table(self.schema, self._held.columns)

    def parts(self) -> dict[str, Parts]:
        """Return the contents of each column, without a copy, as `restore` takes them."""
        with self.lock:
            self._take_step()
            return {name: column.parts() for name, column in self._held.columns.items()}

    def restore(self, parts: Mapping[str, Parts]) -> None:
        """Set the columns from ``parts``, taken from a table with this schema.

        Raises
        ------
        ValueError
            If they differ in length, or two rows have the same key.
        """
        schema, backend = self.schema, self.dtype_backend
        columns = {
            one.name: of_parts(parts[one.name], one.pg_type, backend, schema.numeric)
            for one in schema.columns
        }
        new = Contents(schema, backend, columns)
        new.keys.collect()
        sizes = set(map(len, columns.values()))
        if sizes != {len(new.keys)}:
            raise ValueError(f"columns of {sizes} rows, with {len(new.keys)} keys")
        self._become(new)

    def adopt(self, other: Table) -> None:
        """Take the contents of ``other``, which has this schema and has no other user yet."""
        self._become(other._held)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return Arrow's stream interface, through which polars, DuckDB and pyarrow read the table."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    @property
    def nbytes(self) -> int:
        """Bytes that the table occupies: both sets of buffers, the text, and the map from keys to rows."""
        with self.lock:
            return self._held.nbytes

    # --- the table's shape --------------------------------------------------------------------

    def add_column(self, column: Column) -> None:
        """Add a column that was added to the server's table; its values are null."""
        with self.lock:
            self._take_step()
            self._held.add_column(column)
            self._reshaped()

    def drop_column(self, name: str) -> None:
        """Drop a column that was removed from the server's table; a key column cannot be dropped."""
        with self.lock:
            self._take_step()
            self._held.drop_column(name)
            self._reshaped()

    def _reshaped(self) -> None:
        self._know()
        self._snapshot = None
        self._leave_followers()
        self.version += 1

    def _become(self, new: Contents, want_changes: bool = False) -> list[RowChange]:
        """Replace the contents by ``new``, which has no other user yet."""
        with self.lock:
            changes: list[RowChange] = []
            if want_changes:
                self._take_step()
                changes = self._held.changes_to(new)
            self._before_step()
            self._hand_to_marks()
            self._leave_followers()
            self._hold(new)
            self._index = self._snapshot = None
            self.version += 1
        return changes

    # --- taking a step ------------------------------------------------------------------------

    def _before_step(self) -> None:
        """Do what must be done while the columns still hold the rows from before the noted changes.

        A hook for a table that does more; called with the lock held.
        """

    def _take_step(self) -> None:
        """Apply the noted changes to the columns, only the last change of each row."""
        with uninterrupted():
            self._before_step()
            held = self._held
            if not held.noted:
                return
            self._record_for_marks()
            moves, other = held.step()
            if other:
                self._snapshot = None
            if moves:
                self._index = None
                if held.is_sparse:
                    held.renumber()
                    self._leave_followers()

    def _record_for_marks(self) -> None:
        """Give the marks the current values of the rows that the step will change."""
        self._mark = None
        marks = list(self._marks)
        if not marks:
            return
        kept = self._held.to_change()
        for mark in marks:
            mark.add(kept)
            if mark.lost:
                self._marks.discard(mark)

    def _hand_to_marks(self) -> None:
        """Leave the current rows to the marks, because other rows replace them."""
        self._mark = None
        marks, self._marks = list(self._marks), weakref.WeakSet()
        if not marks:
            return
        old = Table(self.schema, self.dtype_backend)
        old._hold(self._held)
        for mark in marks:
            mark.table = old
            old._marks.add(mark)

    def _indexed(self) -> pd.Index:
        if self.schema.key[0].startswith(HIDDEN_PREFIX):
            return pd.RangeIndex(len(self))
        arrays = [self._held.columns[name].array() for name in self.schema.key]
        if len(arrays) > 1:
            # A level holds only hashable values: lists and objects are stored as their JSON text.
            levels = [
                pd.Index([key_part(v) for v in array], dtype=object)
                if name in self._held.nested
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
    """Return the index of column labels, cached because pandas is slow to make one from names."""
    return pd.Index(names)


def _placed(
    rows: Mapping[Key, dict[str, Any] | None], numbers: Mapping[Key, int]
) -> dict[Key, Place | None]:
    return {
        key: None if row is None else Place(row.get(RANK, numbers[key]), row)
        for key, row in rows.items()
    }


def _copied(rows: Mapping[Key, dict[str, Any] | None]) -> dict[Key, dict[str, Any] | None]:
    return {key: row and {**row} for key, row in rows.items()}


def _moved(was: Place | None, now: Place | None) -> bool:
    """Return whether a row has changed or moved."""
    if was is None or now is None:
        return was is not now
    return was.rank != now.rank or differs(now.row, was.row)


class TableLoad(Pages):
    """A whole table that is collected next to ``table`` (``model.rows.Load``)."""

    def __init__(self, table: Table) -> None:
        super().__init__(table.schema, table.dtype_backend)
        self._table = table

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        """Replace the table by the collected rows with ``ops`` applied, as one change."""
        table = self._table
        self.keys.compact()  # once: page by page takes longer
        with table.lock:  # the table's columns may have changed by now
            new = Contents(table.schema, table.dtype_backend, self.columns(), self.keys)
            new.write([*self.again, *ops])
            if want_changes and new.noted:
                new.step()
            return table._become(new, want_changes)


def differences(old: Table, new: Table) -> list[RowChange]:
    """Return the differences of ``new``: deleted rows, then new or changed rows, in its order.

    A column that only ``new`` has is null in ``old``; a column that only ``old`` has is not compared.
    """
    with old.lock, new.lock:
        old._take_step()
        new._take_step()
        return old._held.changes_to(new._held)
