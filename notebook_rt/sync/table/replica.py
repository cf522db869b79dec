"""The known rows of the server, and the effects of reads and changes on them.

In: changes (in order of arrival) and reads. Out: ``Op``s for ``Rows``, and the keys of rows that
must be read because nothing else can decide their state. Implements promises 5 (events patch), 6 (no going
back in time) and 7 (a filtered table is the filtered table).

A change that cannot be applied with certainty is *held*: it may be older than the row read last, its values
may be lossy, or only the server can evaluate the filter for it. The row is then requested: it is read at
once, and again after doubling pauses until a read contains the change. If the row keeps changing, held
changes are dropped as soon as a change arrives that is certainly newer than the read. Once a read returns a
row as a change of this join describes it, the next change is applied directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from notebook_rt.errors import InexactKeyError
from notebook_rt.model.rows import Delete, Key, Op, Row, RowChange, Rows, Upsert, WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema, differs, equal, kind, may_be_of, sortable
from notebook_rt.sync.events import Change
from notebook_rt.sync.table.broadcast import Truncated
from notebook_rt.sync.table.change import (
    ChangeReader,
    UnknownColumnsError,
    UnreadableError,
    columns_differ,
)
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.versions import Versions
from notebook_rt.sync.table.watermark import Watermark
from notebook_rt.sync.table.window import COUNTED_MOST, Alike, Window

_WITH_NAN: Final = ("float", "decimal")
EDGE_SAMPLE: Final = 16
"""Number of keys per range from which the bounds of ranges are chosen."""


class Held(NamedTuple):
    """A held change."""

    moment: int
    """The moment of its arrival."""
    change: Change
    unseen_until: float
    """Monotonic seconds: a read sent before then may not see it."""


class Replica:
    """The server's rows of one table. ``rows`` is None until the first load."""

    def __init__(
        self,
        spec: TableSpec,
        schema: Schema,
        known: Schema,
        horizon: Horizon,
        *,
        complete: bool = True,
    ) -> None:
        self.spec = spec
        self.schema = schema
        """The schema of the rows: the projection with its key, order and version columns."""
        self.known = known
        """All columns of the server's table."""
        self.horizon = horizon
        self.versions = Versions()
        self.watermark = Watermark(spec.watermark, schema)
        self.window = Window(spec, schema) if spec.order or spec.limit is not None else None
        """The order, and the part of it that is kept."""
        self.wanted: dict[Key, float] = {}
        """Keys of rows that must be read, with the (monotonic) time."""
        self.being_read: Sequence[Key] = ()
        """Keys of rows that are being read for that."""
        self.suspects: dict[Key, float] = {}
        """Rows that differed in an audit, with the (monotonic) time at which that counts as drift: a change
        that arrives before shows that it was only late."""
        self.want_changes = False
        self.published: Sequence[RowChange] | None = None
        self.dirty = False
        """Whether a change was applied since the last ``take``."""
        self.gapless = True
        """Whether no change can have been lost, as far as is known."""
        self._whole_in_gap: set[Key] = set()
        """Keys whose whole row was received since the last gap opened."""
        self.overtaken: list[tuple[float, float]] = []
        """Commit times of changes that were replaced by later ones, and the times of those."""
        self.keys_moved = 0
        """A counter that increases whenever a key is added or removed."""
        self.schema_moved = False
        """Whether a row contained unknown columns."""
        self.names_are_new = False
        """Whether these differ from the unknown columns seen before."""
        self._names_shown: set[frozenset[str]] = set()
        self.emptied_by_deletion = False
        """For an empty table: whether the last row is known to have been deleted."""
        self._left_last: Key | None = None
        """The row that a read last found missing; the change that deletes it may be late."""
        self.key_doubted = False
        """Whether several rows had the same key, and the key was loaded again since."""
        self.moved_to: tuple[Column, ...] | None = None
        """The columns named by a change, if they differ from the known ones."""
        self._last_columns: tuple[Column, ...] | None = None
        self._names = set(known.types)
        self._unfit: set[str] = set()
        """Columns that have contained values that do not fit their type."""
        self._rows: Rows | None = None
        self._pending: list[Op] = []
        self._applied_keys: list[Key] = []
        """Keys of which changes were applied since the last flush."""
        self._present: dict[Key, bool] = {}
        self._indexed = 0
        self._held: dict[Key, list[Held]] = {}
        self._fetched: dict[Key, tuple[float, float]] = {}
        """The time of the last read of a single key, and the pause until the next."""
        self._reader = ChangeReader(spec, schema, complete=complete)
        self._unbounded = not spec.filter and self.window_read is None
        """Whether every row of the server's table belongs to this one."""
        self._width = len(schema.types)
        self.nulls = self._reader.nulls

    # Rows ---------------------------------------------------------------------------------------

    @property
    def rows(self) -> Rows:
        assert self._rows is not None  # the mirror applies nothing before the first load
        return self._rows

    @rows.setter
    def rows(self, rows: Rows) -> None:
        self._rows = rows
        self.emptied_by_deletion = False
        if self.window is not None:
            self.window.alike = None

    @property
    def complete(self) -> bool:
        """Whether all columns of the server's table are known; if not, there is no row."""
        return self._reader.complete

    @complete.setter
    def complete(self, complete: bool) -> None:
        self._reader.complete = complete

    @property
    def loaded(self) -> bool:
        return self._rows is not None

    def apply(self, ops: Sequence[Op]) -> None:
        """Change the rows and remember the changes until ``take``."""
        if ops:
            rows = self.rows
            before = len(rows)
            gone = [op.key for op in ops if op.__class__ is Delete and op.key in rows]
            changes = self._apply(ops)
            self.published = changes if self.published is None else [*self.published, *changes]
            self.keys_moved += bool(gone) or len(rows) != before
            self.dirty = True
            if self.window is not None:
                self.window.check_size(len(rows))
            if rows.pending_keys:  # an ignored change may have been later: a read decides
                for op in ops:
                    if op.key in rows.pending_keys:
                        self.horizon.unfollow(op.key)
                        self.want(op.key, self.horizon.now)

    def _apply(self, ops: Sequence[Op]) -> Sequence[RowChange]:
        """Change the rows, and check whether only the server knows the position of one."""
        rows, window = self.rows, self.window
        if window is None or window.sortable:
            return rows.apply(ops, want_changes=self.want_changes)
        if window.alike is None and len(rows) <= COUNTED_MOST:
            known = rows.gather(list(rows.keys()))
            window.alike = Alike(window.order, len(window.known), known)
        if window.alike is None:
            moved = (
                isinstance(op, Upsert) and window.moves(rows.get(op.key), op.row) for op in ops
            )
            window.stale |= any(moved)
            return rows.apply(ops, want_changes=self.want_changes)
        changes = rows.apply(ops, want_changes=self.want_changes)
        window.moved(rows.gather({op.key for op in ops}))
        if len(rows) > 2 * COUNTED_MOST:
            window.alike = None
        return changes

    @property
    def waiting_since(self) -> float | None:
        """The arrival time of the oldest held change; None if there is none."""
        oldest = next(iter(self._held.values()), None)
        return None if not oldest else oldest[0].unseen_until - self.horizon.options.visible_within

    @property
    def window_read(self) -> Window | None:
        """The window, if only a part of the table is kept."""
        window = self.window
        return window if window is not None and window.limit is not None else None

    def keeps(self, key: Key, row: Row, before: Sequence[Op] = ()) -> bool:
        """Return whether a row that was read by its key belongs to the window, as far as is known."""
        window = self.window_read
        held = True if window is None else window.holds(row)
        if held is None and window is not None:
            here = self._has(key, before)
            window.stale |= not here or window.moves(self._row(key, before), row)
            if not here:
                window.passed_over(key)
            return here
        if held is False and window is not None:
            window.passed_over(key)
        return bool(held)

    def is_alike_edge(self, key: Key, row: Row) -> bool:
        """Return whether only a new read of the window can decide whether ``row`` belongs to it."""
        window = self.window_read
        if window is None or key in self.rows or window.holds(row) is not None:
            return False
        window.stale = True
        return True

    def take(self) -> Sequence[RowChange]:
        """Return the changes since the last call."""
        taken, self.published, self.dirty = self.published, None, False
        return [] if taken is None else taken

    # Changes ------------------------------------------------------------------------------------

    def receive(self, changes: Iterable[Change], now: float) -> None:
        """Apply changes in order as one batch, including those before an unreadable one."""
        horizon, believed, reader = self.horizon, self.watermark, self._reader
        try:
            for change in changes:
                key = reader.key_of(change)
                horizon.received(change.commit_time)
                if believed.believed:
                    believed.check(change)
                if reader.moves(change):
                    for part in reader.apart(change):
                        self._receive(part, reader.key_of(part), now)
                else:
                    if reader.hides_key(change) and not reader.is_of(change, self._row(key)):
                        raise UnreadableError("an UPDATE that may have been of another key")
                    self._receive(change, key, now)
        finally:
            self._flush()

    def receive_logged(self, changes: Iterable[tuple[Key, Change] | Truncated], now: float) -> None:
        """Apply changes from the log as one batch."""
        self.watermark.believed = False  # nothing shows whether a change moved it to its own time
        for one in changes:
            if isinstance(one, Truncated):
                gone = Change("DELETE", None, None, (), one.at, exact=True)
                came = {op.key for op in self._pending}
                here = {*self.rows.keys(), *self.rows.pending_keys, *self._held, *came}
                for key in here - one.spared:
                    self._receive(gone, key, now)
            else:
                self._receive(one[1], one[0], now)
        self._flush()

    def _is_news(self, change: Change, key: Key) -> bool:
        """Return whether a change received now is certainly newer than every read of ``key``."""
        if change.exact:
            return self.horizon.is_next(key)
        return self.horizon.is_news(key, change.commit_time)

    def _receive(
        self, change: Change, key: Key, now: float, unseen_until: float | None = None
    ) -> None:
        if self.suspects:
            self.suspects.pop(key, None)
        if change.kind == "DELETE":
            here = self._has(key) or key in self.rows.pending_keys
            self.emptied_by_deletion |= here or key == self._left_last
        if unseen_until is None:
            unseen_until = now + self.horizon.options.visible_within
        if key in self._held or not self._is_news(change, key):
            self._unclear(change, key, now, unseen_until)
            return
        ops = self._ops(change, key)
        if ops is None:
            self._hold(change, key, now, unseen_until)
            return
        self._pending += ops
        self._applied(key, change)
        if not self.gapless and self._reader.is_whole(change):
            self._whole_in_gap.add(key)

    def gap_opens(self) -> None:
        """Record that changes may have been lost: columns missing in a later change may have changed."""
        self.gapless = False
        self._whole_in_gap.clear()

    def _flush(self) -> None:
        if self._applied_keys:
            told, self._applied_keys = self._applied_keys, []
            self.versions.forget(told)
        if self._pending:
            pending, self._pending = self._pending, []
            self._present.clear()
            self._indexed = 0
            self.apply(pending)

    def _row(self, key: Key, before: Sequence[Op] = ()) -> dict[str, Any] | None:
        """Return the row with the unapplied operations ``before`` applied."""
        self._flush()
        row = self.rows.get(key)
        for op in before:
            if op.key == key:
                row = {**(row or {}), **op.row} if isinstance(op, Upsert) else None
        return row

    def _has(self, key: Key, before: Sequence[Op] = ()) -> bool:
        for op in reversed(before):
            if op.key == key:
                return isinstance(op, Upsert)
        for op in self._pending[self._indexed :]:
            self._present[op.key] = isinstance(op, Upsert)
        self._indexed = len(self._pending)
        present = self._present.get(key)
        return key in self.rows if present is None else present

    def _applied(self, key: Key, change: Change) -> None:
        self.horizon.applied(key, _order_of(change))
        self._applied_keys.append(key)
        if self.wanted:
            self.wanted.pop(key, None)

    def _unclear(self, change: Change, key: Key, now: float, unseen_until: float) -> None:
        news = self._is_news(change, key)
        news = news or self.watermark.moves_on(change.record, self._row(key))
        held = self._held.get(key, [])
        passed = self.horizon.passed(key)
        if passed is not None and self._shows(passed, change, key):
            self.horizon.caught_up(key)
        if not news and self._agrees(change, key):
            tells_all = change.kind == "DELETE" or self._reader.is_complete(change)
            if tells_all:  # held changes arrived before it
                self.horizon.agreed(key, _order_of(change))
                self._drop_held(key, change)
                self.horizon.follow(key)
            if tells_all or not held:
                if key in self.rows.pending_keys:
                    self._pending += self._ops(change, key) or []
                return
        ops = self._replay([*(one.change for one in held), change], key) if news else None
        if ops is None:
            self._hold(change, key, now, unseen_until)
            return
        self._drop_held(key, change)
        self._pending += ops
        self._applied(key, change)

    def _overtake(self, times: Sequence[float | None]) -> None:
        """Record that of changes of a row with these commit times only the last was applied."""
        known = [at for at in times if at is not None]
        if len(times) > 1 and known:
            self.overtaken.append((min(known), max(known)))

    def _drop_held(self, key: Key, change: Change) -> None:
        """Drop held changes of a row, because ``change`` is later and contains the row."""
        held = self._held.pop(key, ())
        self._overtake([*(one.change.commit_time for one in held), change.commit_time])

    def _hold(self, change: Change, key: Key, now: float, unseen_until: float) -> None:
        self._held.setdefault(key, []).append(Held(self.horizon.moment(), change, unseen_until))
        narrow = self._reader.is_narrow(change)
        self.want(key, now + (self.horizon.options.companion_delay if narrow else 0.0))

    def want(self, key: Key, at: float) -> None:
        """Request the row of ``key``, not before ``at``."""
        read_at, pause = self._fetched.get(key, (float("-inf"), 0.0))
        due = max(at, read_at + pause)
        self.wanted[key] = min(due, self.wanted.get(key, float("inf")))

    def _replay(self, changes: Sequence[Change], key: Key) -> list[Op] | None:
        """Return the effect of all ``changes`` from the last whole row on; None: a read is needed."""
        start = 0
        for place, change in enumerate(changes):
            whole = change.kind == "DELETE" or self._reader.is_whole(change)
            if whole and (change.kind == "DELETE" or self._ops(change, key)):
                start = place
        ops: list[Op] = []
        for change in changes[start:]:
            found = self._ops(change, key, ops)
            if found is None:
                return None
            ops += found
        return ops

    def _ops(self, change: Change, key: Key, before: Sequence[Op] = ()) -> list[Op] | None:
        """Return the effect of ``change`` after ``before``; None if only a read can decide."""
        if change.kind == "DELETE":
            return self._end(key, before, change.commit_time)
        record = change.record or {}
        if change.columns is not self._last_columns and not self._reader.is_narrow(change):
            self._check_columns(change.columns)  # also if the values must be read
        if change.errors or self._reader.lossy(change):
            return None
        row = self.schema.decode(record, "socket")
        if change.exact and record.keys() != self._names and self.spec.columns is None:
            self._names_moved(record)
        whole = len(row) == self._width
        if whole and self._unbounded and change.columns is self._last_columns:
            return [Upsert(key, row, change.commit_time)]  # nearly every change
        narrow = self._reader.is_narrow(change)
        verdict = self._verdict(record, key, before, vouched=not (narrow or change.exact))
        if verdict is None:
            return None
        if not verdict:
            return self._end(key, before, change.commit_time)
        if narrow:  # the full frame of the same change follows if the table has other columns
            return [] if self.complete else None
        if not whole and not self._has(key, before):
            return None
        if not (whole or before or self.gapless or key in self._whole_in_gap):
            return None  # missing columns are unchanged on the server, but may differ here
        if self.window_read is not None:
            return self._ops_in_window(key, row, before, change.commit_time)
        return [Upsert(key, row, change.commit_time)]

    def _end(self, key: Key, before: Sequence[Op], at: float | None) -> list[Op]:
        """Remove the row, if it exists."""
        return [Delete(key, at)] if self._has(key, before) or key in self.rows.pending_keys else []

    def _ops_in_window(
        self, key: Key, row: Row, before: Sequence[Op], at: float | None
    ) -> list[Op] | None:
        whole = row
        if self.window is not None and not self.window.knows(row):
            known = self._row(key, before)
            if known is None:
                return None
            whole = {**known, **row}
        if self.keeps(key, whole, before):
            return [Upsert(key, row, at)]
        return self._end(key, before, at)

    def _agrees(self, change: Change, key: Key) -> bool:
        """Return whether the rows already equal ``change``, so that it has no effect."""
        mine = self._row(key)
        if change.kind == "DELETE":
            return mine is None
        record = change.record or {}
        narrow = self._reader.is_narrow(change)
        if change.columns is not self._last_columns and not narrow:
            self._check_columns(change.columns)
        if change.errors or self._reader.lossy(change):
            return False
        verdict = self._verdict(record, key, vouched=not (narrow or change.exact))
        if not verdict:
            return verdict is False and mine is None
        if narrow:
            return self.complete
        row = self.schema.decode(record, "socket")
        if mine is None and self.window_read is not None:
            return self.window_read.knows(row) and not self.keeps(key, row)
        return mine is not None and not differs(row, mine)

    def _verdict(
        self,
        record: Mapping[str, Any],
        key: Key,
        before: Sequence[Op] = (),
        *,
        vouched: bool,
    ) -> bool | None:
        """Return whether the changed row belongs to the table."""
        if not self.spec.filter:
            return True
        row: dict[str, Any] = self.known.decode(
            {name: record[name] for name in self.spec.filter.columns if name in record}, "socket"
        )
        if len(row) < len(self.spec.filter.columns):
            row = {**(self._row(key, before) or {}), **row}
        matches = self.spec.filter.matches(row, self.known)
        if vouched and self._reader.by_bindings:
            return True if matches is None else matches or None
        return matches

    def _check_columns(self, columns: tuple[Column, ...]) -> None:
        """Check the columns of a full frame, which names all current columns of the table."""
        self._last_columns = columns
        if self.spec.columns is not None or not columns:
            return
        self.moved_to = columns if columns_differ(columns, self.known) else None

    @property
    def is_sorted(self) -> bool:
        """Whether Python sorts the key's first column as the server does; NaN has no position in it."""
        pg_type = self.schema.types[self.schema.key[0]]
        return sortable(pg_type) and kind(pg_type) not in _WITH_NAN

    def some(self, every: int) -> Sequence[Key]:
        """Return a sample of the keys, one of every ``every``."""
        ints = self.rows.integers()
        return (
            list(islice(self.rows.keys(), 0, None, every))
            if ints is None
            else ints[::every].tolist()
        )

    def divided(self, rows: int) -> list[tuple[Any, Any]]:
        """Return ranges of about ``rows`` rows by the key's first column, which together cover all values.

        Each includes its lower and excludes its upper bound; None: no bound.
        """
        parts = -(-len(self.rows) // rows)
        if parts < 2 or not self.is_sorted:
            return [(None, None)]
        some = self.some(max(1, rows // EDGE_SAMPLE))
        keys: list[Any] = sorted(key[0] if isinstance(key, tuple) else key for key in some)
        bounds = sorted({keys[place * len(keys) // parts] for place in range(1, parts)})
        return list(zip([None, *bounds], [*bounds, None], strict=True))

    def keys_of(self, page: Sequence[WireRow]) -> list[Key]:
        """Return the keys of a page of undecoded rows; raise InexactKeyError if they are rounded."""
        schema = self.schema
        for name in schema.key:
            if kind(schema.types[name]) == "decimal":
                for row in page:
                    if schema.rounds(row, name):
                        raise InexactKeyError(self.spec.schema, self.spec.table, name, row[name])
        return schema.keys_of(page)

    def check_page(self, page: Sequence[WireRow]) -> None:
        """Check the columns and types of a page of whole rows."""
        self.nulls.scan(page)
        if not page:
            return
        self.check_names(page)
        types = self.known.types
        unfit = {n for n, v in page[0].items() if n in types and not may_be_of(types[n], v)}
        if unfit - self._unfit:  # only once: nothing more can be found out about their types
            self._unfit |= unfit
            self.schema_moved = True

    def check_names(self, page: Sequence[WireRow]) -> None:
        """Take the column names of rows as the table's columns.

        Raises
        ------
        UnknownColumnsError
            If not all columns are known: no row is shown in part.
        """
        if not page or self.spec.columns is not None:
            return
        if page[0].keys() - {"xmin"} == self._names:
            self.complete = True
            return
        self._names_moved(page[0])
        if not self.complete:
            raise UnknownColumnsError

    def names_more(self, change: Change) -> bool:
        """Return whether a change names columns of a table whose columns are not all known."""
        if self.complete or not change.columns or self._reader.is_narrow(change):
            return False
        if columns_differ(change.columns, self.known):
            return True
        self.complete = True
        return False

    def _names_moved(self, row: Iterable[str]) -> None:
        self.schema_moved = True
        names = frozenset(row) - {"xmin"}
        self.names_are_new |= names not in self._names_shown
        self._names_shown.add(names)

    # Reads --------------------------------------------------------------------------------------

    def take_row(
        self,
        key: Key,
        mine: Row | None,
        row: Row | None,
        read: Read,
        now: float,
        xmin: object = None,
    ) -> Op | None:
        """Take the row of ``key`` from ``read``, with ``mine`` the row here (None: no such row); return
        the changes.
        """
        held = self._held.get(key)
        if held is not None and row is not None:
            records = [one.change.record or {} for one in held if not one.change.exact]
            self.nulls.learn(records, row)
        agrees = mine is None if row is None else mine is not None and not differs(row, mine)
        newer = self.horizon.newer(key, read)
        if not agrees and newer == "unclear":
            self.want(key, now)
            return None
        if newer == "told":
            return None
        if not (agrees and self.horizon.follows(key)):
            before = mine if row is None else None
            self.horizon.one(key, read, now, agrees=agrees, before=before)
        at = None
        if held is not None and len(held) == 1 and self._shows(row, held[0].change, key):
            at = held[0].change.commit_time  # the read only adds what a change did not contain
        if self._release_held(key, row, read):
            self.horizon.follow(key)
        self.versions.note(key, xmin)
        pending_keys = key in self.rows.pending_keys
        if row is None and (mine is not None or pending_keys):
            told = held is not None and held[-1].change.kind == "DELETE"
            self.emptied_by_deletion = told or pending_keys
            self._left_last = key
        op = Delete(key, at) if row is None else Upsert(key, row, at)
        if pending_keys:
            self.rows.admit(key, read.sent_at)
        if not agrees:
            return op
        if pending_keys:
            self.rows.apply([op])
            if self.window is not None:
                self.window.moved({key: row})
        return None

    def fetched(self, key: Key, now: float) -> None:
        """Record that ``key`` has just been read by itself."""
        options = self.horizon.options
        read_at, pause = self._fetched.get(key, (float("-inf"), 0.0))
        quiet = now - read_at > 2 * options.reread_max
        pause = options.reread_pause if quiet else min(2 * pause, options.reread_max)
        self._fetched[key] = (now, pause)
        if len(self._fetched) > 10_000:
            late = now - 2 * options.reread_max
            self._fetched = {k: one for k, one in self._fetched.items() if one[0] > late}

    def reread(self, keys: Iterable[Key], now: float) -> None:
        """Check the held changes of ``keys`` again after they were read."""
        for key in keys:
            for one in self._held.pop(key, ()):
                self._receive(one.change, key, now, one.unseen_until)
        self._flush()

    def _release_held(self, key: Key, row: Row | None, read: Read) -> bool:
        """Drop held changes that the read includes: those held well before it was sent, those that it shows,
        and all before a change with the whole row. Return whether the row equals the last one.
        """
        held = self._held.get(key)
        if held is None:
            return False
        seen = 0
        follows = False
        for count, one in enumerate(held, 1):
            sure = one.unseen_until <= read.sent_at
            shown = self._shows(row, one.change, key)
            is_complete = one.change.kind == "DELETE" or self._reader.is_complete(one.change)
            follows = shown and is_complete
            if not sure and shown:
                sure = row is None or seen == count - 1 or is_complete
            if sure and one.moment <= read.sent:
                seen = count
        times = [one.change.commit_time for one in held[:seen]]
        if seen and not self._shows(row, held[seen - 1].change, key):
            times.append(read.happened_before)  # of a later one that was lost
        self._overtake(times)
        if held[seen:]:
            self._held[key] = held[seen:]
            return False
        del self._held[key]
        return follows

    def _shows(self, row: Row | None, change: Change, key: Key) -> bool:
        """Return whether a row that was read equals ``change``."""
        if change.kind == "DELETE":
            return row is None
        record = change.record or {}
        if change.exact and change.errors:
            return False  # a key alone says nothing about the row
        if row is None:
            return self._verdict(record, key, vouched=False) is False
        said = (self.schema.decode(record) if change.exact else self._reader.sure(record)).items()
        return all(equal(row[name], value) for name, value in said if name in row)  # else dropped

    def continue_from(self, before: Replica, changes: Iterable[Change]) -> None:
        """Continue from ``before``, which had other columns and just received these changes.

        The changes have the previous columns, and the rows read may be older: a later read decides. Rows read
        with a key that the changes do not have are later: the columns were altered after the changes.
        """
        reader, key_names = self._reader, {*self.schema.key}
        for change in changes:
            if change.columns and not {one.name for one in change.columns} >= key_names:
                continue
            for part in reader.apart(change) if reader.moves(change) else (change,):
                key = reader.key_of(part)
                self.show_as_before(key, before, self.schema.decode(part.record or {}, "socket"))
                self.horizon.agreed(key, _order_of(part))
                self.want(key, self.horizon.now)

    def show_as_before(self, key: Key, before: Replica, told: Row) -> None:
        """Keep the visible values of a row, which are not older than the read; the others are as received."""
        if before.schema.key != self.schema.key:  # it had another key
            return
        row, types = before.rows.get(key), before.schema.types
        same = [name for name, pg_type in self.schema.types.items() if types.get(name) == pg_type]
        kept = {name: row[name] for name in same if name in row} if row is not None else {}
        if key not in self.rows:
            kept = {**told, **kept}
        self.apply([Delete(key) if row is None else Upsert(key, kept)])

    def is_held(self, key: Key) -> bool:
        """Return whether changes of ``key`` are held."""
        return key in self._held

    def is_open(self, key: Key) -> bool:
        """Return whether the row of ``key`` is known to be in doubt and will be read."""
        return key in self._held or key in self.wanted

    @property
    def undecided(self) -> frozenset[Key]:
        """The keys of rows that must be read and are not proven by earlier reads."""
        return frozenset((*self._held, *self.wanted, *self.being_read))

    def held(self) -> list[Key]:
        return list(self._held)

    def told(self, key: Key) -> Row:
        """Return the row of the latest held change of ``key``."""
        return self.schema.decode(self._held[key][-1].change.record or {}, "socket")


def _order_of(change: Change) -> float | None:
    """Return the commit time if it decides the order; the log has its own order."""
    return None if change.exact else change.commit_time
