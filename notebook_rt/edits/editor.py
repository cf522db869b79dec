"""The edits of one live table: the implementation of ``LiveTable.edit``, ``insert``, ``delete``,
``batch``, ``undo``, ``resolve`` and ``discard``.

Values are checked first, then the operation is committed to the queue's file, and only then the
view shows it. `Editing.editor` makes the editors; all of them hold the session's one lock.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from notebook_rt.edits import tabular
from notebook_rt.edits.based import NOW, Known, called, known_of, row_said, rows_said
from notebook_rt.edits.block import Block, EditListener, in_order
from notebook_rt.edits.decide import Record
from notebook_rt.edits.listing import question
from notebook_rt.edits.merge import Edit
from notebook_rt.edits.ops import Json, Op, Put, changes_key
from notebook_rt.edits.pending import PendingEdits
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.tabular import (
    Checks,
    InputRow,
    cells_of,
    find_by,
    keyed,
    keys_given,
    rows_given,
    typed_keys,
)
from notebook_rt.errors import ConflictError, InvalidEditError, InvalidKeyError, QueueError
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import equal

if TYPE_CHECKING:
    from collections import deque

    import pandas as pd


@dataclass(eq=False, repr=False)
class Editor(PendingEdits):
    """Edits of one live table. Every method may be called from any thread.

    Values are checked against the column's type first; `InvalidEditError` describes the problem.
    """

    # --- editing ---------------------------------------------------------------------------------

    def edit(
        self,
        key: Hashable,
        values: Mapping[str, Any],
        known: Known = NOW,
        base: object = None,
    ) -> None:
        """Change columns of a row. An edit that changes nothing is not queued.

        A value may be a function of the old value: it is called here, without the lock, and the value that
        it received is its base. The base of the other values is the row ``base``, else ``known``, else the
        current row.

        Raises
        ------
        InvalidEditError
            If there is no such row or column, a value does not fit the column's type, or ``base`` is
            not the row.
        QueueError
            If the edit could not be committed; the view then does not show it.
        """
        plain = [column for column, value in values.items() if not callable(value)]
        old: dict[str, Any] = {}
        if len(plain) < len(values):
            with self._shared.lock:
                composer = self._need()[1]
                there = self._there(composer.key(key))
            values, old = called(composer, there, values)
        with self._shared.lock:
            composer = self._need()[1]
            key = composer.key(key)
            there = self._there(key)
            if base is not None:
                cells = row_said(composer, key, base, plain)
            else:
                cells = known_of(composer, known, [key], plain)[key]
            op = self._edit(key, there, values, {**cells, **old})
            if op is not None:
                self._notify_written(self._put([op], [there]), known)

    def drawn(self, values: Mapping[str, Any]) -> list[str]:
        """Return the key columns that a new row of these values lacks, and that a sequence may provide."""
        with self._shared.lock:
            return self._need()[1].drawn(values)

    def has(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row with its key is already known here."""
        with self._shared.lock:
            composer = self._need()[1]
            parts = tuple(row.get(name) for name in composer.schema.key)
            return self._seen(composer.key(parts if len(parts) > 1 else parts[0])) is not None

    def keyless(self, column: str, why: str) -> InvalidEditError:
        """Return the error to raise if a sequence provides no key."""
        with self._shared.lock:
            return self._need()[1].keyless(column, why)

    def overtaken(self, column: str) -> InvalidEditError:
        """Return the error to raise if a sequence provides only keys that rows already have."""
        with self._shared.lock:
            return self._need()[1].overtaken(column)

    def refusal(self, words: str) -> InvalidEditError:
        """Return the error to raise if the server refuses a row."""
        with self._shared.lock:
            return self._need()[1].invalid(words)

    def key_of(self, row: Mapping[str, Json]) -> Key:
        """Return the key of a row from the server."""
        with self._shared.lock:
            schema = self._need()[1].schema
            return schema.key_of(schema.decode({name: row[name] for name in schema.key}))

    def insert(self, values: Mapping[str, Any], drawn: str = "") -> Key:
        """Insert a row and return its key. A key of type uuid is generated here if it is not given.

        ``drawn`` is the key column whose value came from a sequence.
        """
        with self._shared.lock:
            composer = self._need()[1]
            op = composer.insert(values, drawn)
            key = composer.edit(op).key
            if self._seen(key) is not None:
                if drawn:
                    raise composer.overtaken(drawn)
                how = "it is outside the limit" if self._outside([key]) else "edit() changes it"
                raise composer.invalid(
                    f"there is a row with the key {key!r}: {how}", composer.schema.key[0]
                )
            self._put([self._in_lane(key, op)], [{}])
            return key

    def insert_unkeyed(self, values: Mapping[str, Any]) -> Op:
        """Insert a row whose key the server generates; the row is shown once the server has answered.

        Return the operation.
        """
        with self._shared.lock:
            op = self._need()[1].unkeyed(values)
            self._put([op], [{}])
            return op

    @property
    def in_batch(self) -> bool:
        """Whether this thread has a batch open."""
        return self._batch is not None

    def delete(self, key: Hashable, after: float = 0.0) -> None:
        """Delete a row; the delete is sent after that many seconds."""
        with self._shared.lock:
            composer = self._need()[1]
            key = composer.key(key)
            row = self._there(key)
            self._put([self._in_lane(key, composer.delete(key, row, after))], [row])

    def edit_many(
        self,
        changes: pd.DataFrame | pd.Series[Any],
        known: Known = NOW,
        base: pd.DataFrame | pd.Series[Any] | None = None,
    ) -> WriteReport:
        """Change many rows at once, all or none: index = key, columns = the columns to set.

        NaN, NaT and NA mean null, as in a DataFrame that was read from SQL. A Series is one column.
        The changes are based on the rows of ``base``, as in `edit`.
        """
        from pandas import DataFrame, Series

        if isinstance(changes, Series):
            changes = changes.to_frame()
        if not isinstance(changes, DataFrame):
            raise TypeError(
                "edit_many takes a DataFrame, its index the keys, its columns what to set; not "
                f"{type(changes).__name__}"
            )
        with self._shared.lock:
            composer = self._need()[1]
            labels = list(changes.index)
            changes = keyed(composer, changes)
            names = list(changes.columns)
            tabular.known(composer, names)
            wanted = {}
            checks = Checks(composer, len(changes))
            rows_in = zip(labels, changes.index, cells_of(changes), strict=True)
            for label, key, cells in rows_in:
                with checks.of(label):
                    key = composer.key(key)
                    if key in wanted:
                        raise composer.invalid(
                            f"the row {key!r} is there twice: which is it to be?"
                        )
                    wanted[key] = (label, cells)
            checks.end()
            there = self._all_there(wanted)
            if base is not None:
                based_on = rows_said(composer, wanted, base, names)
            else:
                based_on = known_of(composer, known, wanted, names)
            made: list[tuple[Hashable, Op, Row]] = []
            for key, (label, cells) in wanted.items():
                with checks.of(label):
                    named = dict(zip(names, cells, strict=True))
                    op = self._edit(key, there[key], named, based_on[key])
                    if op is not None:
                        made.append((label, op, there[key]))
            checks.end()
            report, edits = self._put_all("edit", len(wanted), made, _name_of(changes))
            self._notify_written(edits, known)
            return report

    def given(self, data: object, verb: str, on: Sequence[str] = ()) -> list[InputRow]:
        """Return the rows to write; parts of their keys may still be missing.

        If ``on`` names columns other than the key's, find the shown rows by them and fill in their keys.
        """
        with self._shared.lock:
            composer = self._need()[1]
            rows = rows_given(composer, data, verb)
            on = list(on)
            if on and on != list(composer.schema.key):
                tabular.known(composer, on)
                batch = self._batch
                held = [*self._need()[0].rows.keys(), *([] if batch is None else batch.rows)]
                find_by(composer, on, rows, self._shown_now(held))
            typed_keys(composer, rows, on)
            return rows

    def write_many(
        self, rows: Sequence[InputRow], *, upsert: bool, name: Any = None
    ) -> WriteReport:
        """Insert rows; with ``upsert``, set the columns of existing rows. All or none are queued."""
        with self._shared.lock:
            composer = self._need()[1]
            keys = typed_keys(composer, rows)
            shown = self._shown_now([key for key in keys if key is not None])
            outside = set(self._outside(list(shown)))
            checks = Checks(composer, len(rows))
            made: list[tuple[Hashable, Op, Row]] = []
            for row, key in zip(rows, keys, strict=True):
                with checks.of(row.label):
                    there = None if key is None else shown.get(key)
                    op: Op | None
                    if row.unkeyed:
                        op = composer.unkeyed(row.values)
                    elif there is None or key is None:
                        sets = upsert and key is not None and not row.drawn
                        op = composer.insert(row.values, row.drawn, upsert=sets)
                        op = self._in_lane(composer.edit(op).key if key is None else key, op)
                    elif row.drawn:
                        raise composer.overtaken(row.drawn)
                    elif upsert:
                        refused = self._refused(key, row.values)
                        op = composer.upsert(key, there, row.values, refused)
                        op = op and self._in_lane(key, op)
                    else:
                        how = "it is outside the limit" if key in outside else "upsert() changes it"
                        raise composer.invalid(
                            f"there is a row with the key {key!r}: {how}", composer.schema.key[0]
                        )
                    if op is not None:
                        made.append((row.label, op, there or {}))
            checks.end()
            what = "upsert" if upsert else "insert"
            return self._put_all(what, len(rows), made, name)[0]

    def delete_many(self, data: object, after: float = 0.0) -> WriteReport:
        """Delete the rows of many keys, all or none; the deletes are sent after that many seconds."""
        with self._shared.lock:
            composer = self._need()[1]
            given = keys_given(composer, data)
            keys = dict.fromkeys(map(composer.key, given))
            if len(keys) < len(given):
                raise composer.invalid("a key is there twice: which rows are to be deleted?")
            there = self._all_there(keys)
            made: list[tuple[Hashable, Op, Row]] = [
                (key, self._in_lane(key, composer.delete(key, there[key], after)), there[key])
                for key in keys
            ]
            names = composer.schema.key
            return self._put_all("delete", len(keys), made, names if len(names) > 1 else names[0])[
                0
            ]

    def _put_all(
        self, what: str, number: int, made: Sequence[tuple[Hashable, Op, Row]], name: Any
    ) -> tuple[WriteReport, list[Edit]]:
        """Commit many operations, and report on their rows by their labels."""
        labels = {op.id: label for label, op, _ in made}
        report = WriteReport(self._outbox, self.schema_name, self.table, what, number, labels, name)
        self._shared.reports.update(dict.fromkeys(labels, report))
        return report, self._put([op for _, op, _ in made], [row for _, _, row in made])

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Commit and show the edits of the block as one, at its end; nothing if it raises.

        Only edits of this thread count. The lock is not held meanwhile: the block may take long, and the
        table keeps receiving changes. A nested block is part of the outer one, even for another table.
        """
        blocks = self._shared.blocks
        outermost = not blocks.open
        around = set(blocks.open)
        before = len(blocks.open.setdefault(self, Block()))
        try:
            yield
            if outermost:
                self._commit_blocks()
        except BaseException:
            self._take_back(blocks.open.get(self, Block()), before)
            for editor in blocks.open.keys() - around - {self}:
                editor._take_back(blocks.open[editor], 0)
            if outermost:
                blocks.open = {}
            raise

    def undo(self, known: Known = NOW) -> bool:
        """Undo the last edit (or batch) of the table made in this session that has not been sent or was
        refused; within a batch, its last edit. Return False if there is nothing to undo.
        """
        batch = self._batch
        if batch is not None:
            there = len(batch)
            self._take_back(batch, max(0, there - 1))
            return there > 0
        with self._shared.lock:
            while self._undo:
                undone = self._outbox.take_back(self._undo[-1])
                self._undo.pop()
                for put in undone:
                    self._replace_shown(put)
                    if put.op is not None and put.op.kind == "update":
                        before = {} if put.before is None else put.before.values
                        op = replace(put.op, base={**put.op.base, **before})
                        self._notify_undone([self._need()[1].edit(op)], known)
                if undone:
                    return True
            return False

    def discard(self, key: Hashable, known: Known = NOW) -> int:
        """Drop the pending edits of a row, in any state, and return the number of operations."""
        with self._shared.lock:
            overlay, composer = self._need()
            key = self._key_of_edits(key)
            ids = dict.fromkeys(edit.id for edit in overlay.edits_of(key))
            # Also those that the view cannot show: edits of a column that no longer exists.
            ids.update((op.id, None) for op in self._ops() if composer.edit(op).key == key)
            dropped = [op for op_id in ids for op in self._outbox.discard(op_id)]
            self._forget_undo({op.lane for op in dropped})
            self._notify_all(lambda o: o.discard([op.id for op in dropped], want_changes=True))
            self._notify_undone(list(map(composer.edit, dropped)), known)
            return len(dropped)

    def resolve(
        self,
        key: Hashable,
        column: str | None = None,
        choice: Literal["mine", "theirs"] = "mine",
        *,
        value: Any = ...,
    ) -> None:
        """Decide an open conflict; parameters and errors are those of `LiveTable.resolve`."""
        if choice not in ("mine", "theirs"):
            raise ValueError(
                f'choice must be "mine" or "theirs", not {choice!r}; a third value is value=...'
            )
        if value is not ... and column is None:
            raise ValueError(
                "a value decides one column: say which, resolve(key, column, value=...)"
            )
        with self._shared.lock:
            overlay, composer = self._need()
            key = self._key_of_edits(key)
            ids = {edit.id for edit in overlay.edits_of(key)}
            # The key that an edit gave up may belong to another row by now.
            ids.update(edit.id for edit in overlay.edits if edit.key == key)
            records = [
                r
                for r in self._outbox.conflicts(self.schema_name, self.table, only_open=True)
                if r.op in ids and column in (None, r.record["column"])
            ]
            if not records:
                where = f"{key!r}" + (f", column {column!r}" if column else "")
                raise ConflictError(
                    f'table "{self.table}": no conflict is open at {where}; the open ones are those '
                    "of .conflicts"
                )
            third: tuple[Json, ...] = ()
            if value is not ... and column is not None:
                third = (composer.json(composer.typed({column: value}))[column],)
            for op_id in dict.fromkeys(r.op for r in records):
                theirs = [r for r in records if r.op == op_id]
                self._resolve_one(op_id, theirs, choice == "mine", third, overlay.last(key))

    # --- looking ---------------------------------------------------------------------------------

    def find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        """Return the key, typed, and the row as the user sees it, or None if there is none.

        Raises
        ------
        InvalidKeyError
            If the key is not a value of the key's type.
        """
        with self._shared.lock:
            try:
                typed = self._need()[1].schema.coerce_key(key)
            except ValueError as error:
                raise InvalidKeyError(self.table, str(error)) from None
            row = None if self._outside([typed]) else self._seen(typed)
            return None if row is None else (typed, row)

    def row(self, key: Hashable) -> dict[str, Any] | None:
        """Return one row as the user sees it."""
        found = self.find(key)
        return None if found is None else found[1]

    def key(self, key: Hashable) -> Key:
        """Return a user's key, typed."""
        with self._shared.lock:
            return self._need()[1].key(key)

    # --- inside: making operations ---------------------------------------------------------------

    def _key_of_edits(self, key: Hashable) -> Key:
        """Return a user's key, typed; or as given, if an edit from when the key had another type has it."""
        composer = self._need()[1]
        edited: set[Key] = {composer.edit(op).key for op in self._ops()}
        return key if key in edited else composer.key(key)

    def _edit(self, key: Key, there: Row, values: Mapping[str, Any], known: Row) -> Op | None:
        overlay, composer = self._need()
        based_on = {**there, **self._based(key, there, known)}
        op = composer.update(key, based_on, values, self._refused(key, values))
        if op is None:
            return None
        if changes_key(op):
            moved = overlay.new_key(composer.edit(op))
            if moved != key and self._seen(moved) is not None:
                raise composer.invalid(f"there is a row with the key {moved!r}")
        return self._in_lane(key, op)

    def _refused(self, key: Key, columns: Collection[str]) -> set[str]:
        """Return the columns, of those given, in which the row shows a value that the server refused."""
        found: set[str] = set()
        for edit in self._need()[0].edits_of(key):
            named = edit.values.keys() & columns
            if named and (op := self._outbox.get(edit.id)) is not None and op.state == "failed":
                found |= named
        return found

    def _in_lane(self, key: Key, op: Op) -> Op:
        """Return the operation, in the lane of the row's earlier ones, which may have had another key."""
        earlier = self._need()[0].edits_of(key)
        lane = earlier[-1].lane if earlier else op.lane
        if self._batch is not None:
            lane = self._batch.lanes.get(key, lane)
        return op if lane == op.lane else replace(op, lane=lane)

    def _based(self, key: Key, there: Row, known: Row) -> Row:
        """Return the base of an edit: the ``known`` values that it was made from.

        A cell may now hold an edit of this queue that the editing user has not seen (made in a grid, or
        through another handle). The later of two edits wins, and neither is a conflict; but sums and unions
        are each computed from the value that they were made from.
        """
        other = {c for c, value in known.items() if not equal(value, there.get(c))}
        other -= {c for c in other if self.strategies.of(c) in ("delta", "union")}
        if not other:
            return known
        dropped = self._need()[0].dropped.get(key, {})  # shown, and only this user's
        mended = {c: there[c] for c in other if c in dropped and equal(dropped[c], known[c])}
        known = {**known, **mended}
        mine: dict[str, Any] = {}
        batch = self._batch
        edits = [*self._need()[0].edits_of(key), *([] if batch is None else batch.edits)]
        for edit in edits:
            if edit.kind != "delete" and self._need()[0].new_key(edit) == key:
                mine.update(edit.values)
        return {
            c: there[c] if c in other and c in mine and equal(mine[c], there.get(c)) else value
            for c, value in known.items()
        }

    def _notify_written(self, edits: Sequence[Edit], known: Known) -> None:
        if self._batch is not None:
            self._batch.told[known] = None
        overlay = self._need()[0]
        for edit in edits:
            known.wrote(edit.key, overlay.new_key(edit), edit.values)

    def _notify_undone(self, edits: Sequence[Edit], told: EditListener) -> None:
        for edit in reversed(edits):
            if edit.kind == "update":
                told.took_back(self._need()[0].new_key(edit), edit.values, edit.base)

    def _take_back(self, block: Block, to: int) -> None:
        """Undo the steps of a block after the first ``to``."""
        before = list(block.edits)
        block.take_back(to)
        for edit in before[len(block.edits) :]:
            report = self._shared.reports.pop(edit.id, None)
            if report is not None:
                report._taken_back(edit.id)
        for told in block.told:
            self._notify_undone(before[len(block.edits) :], told)

    def _forget_undo(self, lanes: Collection[str]) -> None:
        """Make the edits of these lanes no longer undoable."""
        kept = [
            [put for put in puts if (op := put.op or put.before) is None or op.lane not in lanes]
            for puts in self._undo
        ]
        self._undo.clear()
        self._undo.extend(filter(None, kept))

    def _there(self, key: Key) -> Row:
        return self._all_there([key])[key]

    def _all_there(self, keys: Collection[Key]) -> dict[Key, Row]:
        """Return the rows as the user sees them; raise `InvalidEditError` if one does not exist."""
        found = self._shown_now(keys)
        there: dict[Key, Row] = {key: row for key, row in found.items() if row is not None}
        for key in self._outside(keys):
            del there[key]
        for key in found.keys() - there.keys():
            ordered = self.ordered and self.ordered()
            limited = (
                ""
                if ordered is None or ordered.limit is None
                else (
                    f" within limit={ordered.limit}; one outside the limit is edited through a table "
                    "that is opened with a higher limit, or with none"
                )
            )
            raise self._need()[1].invalid(f"there is no row with the key {key!r}{limited}")
        return there

    def _shown_now(self, keys: Collection[Key]) -> dict[Key, dict[str, Any] | None]:
        """Return the rows as the user sees them, with the open batch's edits; None where there is no row."""
        batch = self._batch
        edited = {} if batch is None else {k: batch.rows[k] for k in keys if k in batch.rows}
        return self._need()[0].views([key for key in keys if key not in edited]) | edited

    def _outside(self, keys: Collection[Key]) -> list[Key]:
        """Return those of ``keys`` whose rows are held but not shown because of the ``limit``.

        Rows that the open batch edited are not among them.
        """
        ordered, batch = self.ordered and self.ordered(), self._batch
        if ordered is None:
            return []
        return [key for key in ordered.beyond(keys) if batch is None or key not in batch.rows]

    def _seen(self, key: Key) -> dict[str, Any] | None:
        """Return the row as the user sees it, with the open batch's edits."""
        batch = self._batch
        if batch is not None and key in batch.rows:
            return batch.rows[key]
        return self._need()[0].view(key)

    @property
    def _undo(self) -> deque[list[Put]]:
        """The edits that can be undone, shared by the frames of one table, since they edit the same rows."""
        return self._shared.done_to(self.schema_name, self.table)

    @property
    def _batch(self) -> Block | None:
        """The batch that this thread has open."""
        return self._shared.blocks.open.get(self)

    # --- inside: laying over ---------------------------------------------------------------------

    def _put(self, ops: Sequence[Op], rows: Sequence[Row]) -> list[Edit]:
        """Commit operations, or keep them for the end of the batch; ``rows`` are the rows that they edit.

        Return the operations as edits for the overlay.
        """
        overlay, composer = self._need()
        edits = list(map(composer.edit, ops))
        batch = self._batch
        if batch is None:
            seen = {edit.key: row for edit, row in zip(edits, rows, strict=True) if row}
            if ops:
                self._show(self._keep(ops), edits, seen)
            return edits
        left: dict[Key, dict[str, Any] | None] = {}
        for edit, row in zip(edits, rows, strict=True):
            left[edit.key] = None
            if edit.kind != "delete":
                new = overlay.new_key(edit)
                left[new] = composer.whole({**row, **edit.values})
                if new != edit.key:
                    batch.lanes[new] = edit.lane
        batch.add(ops, edits, left)
        return edits

    def _commit_blocks(self) -> None:
        """Commit this thread's edits of several tables as one, and close the blocks."""
        blocks = self._shared.blocks
        with self._shared.lock:
            ops = in_order(blocks.open)
            kept = dict(zip((op.id for op in ops), self._keep(ops), strict=True)) if ops else {}
            done, blocks.open = blocks.open, {}
            for editor, block in done.items():
                if block.ops:
                    editor._show([kept[op.id] for op in block.ops], block.edits)

    def _keep(self, ops: Sequence[Op]) -> list[Put]:
        """Write operations to the queue's file, all or none."""
        try:
            return self._outbox.put(*ops)
        except TypeError as error:
            raise InvalidEditError(
                f'table "{self.table}": this cannot be written as JSON: {error}'
            ) from error

    def _show(
        self,
        puts: list[Put],
        edits: Sequence[Edit],
        seen: Mapping[Key, Row] = MappingProxyType({}),
    ) -> None:
        """Update the view to the queue's current state; ``edits`` are the edits that were put into it."""
        self._undo.append(puts)
        for put, edit in zip(puts, edits, strict=True) if self._shared.reports else ():
            report = self._shared.reports.get(edit.id)
            if report is not None:
                self._shared.reports[report._put(edit.id, put)] = report
        stored: dict[str, Op | None] = {}
        for put in puts:
            if put.op is not None:
                stored[put.op.id] = put.op
            elif put.before is not None:
                stored[put.before.id] = None
            stored.update((one.id, None) for one in put.parked)
        gone = [op for op, now in stored.items() if now is None]
        if gone:
            self._notify_all(lambda overlay: overlay.discard(gone, want_changes=True))
        overlaid = [op for op in stored.values() if op is not None]
        made = {
            edit.id: edit
            for put, edit in zip(puts, edits, strict=True)
            if put.before is None and stored.get(edit.id) is put.op
        }
        self.overlay_ops(overlaid, made, seen)
        for editor in self._shared.editors_of(self.schema_name, self.table):
            if editor is not self:
                editor.overlay_ops(overlaid)

    # --- inside: conflicts -----------------------------------------------------------------------

    def _resolve_one(
        self,
        op_id: str,
        records: list[Record],
        mine: bool,
        third: tuple[Json, ...],
        last: Mapping[str, Any] | None,
    ) -> None:
        composer = self._need()[1]
        op = self._outbox.get(op_id)
        if op is None or op.state != "asking":
            raise ConflictError(
                f'table "{self.table}": the conflict was decided meanwhile, as .conflicts tells'
            )
        numbers = {record.number for record in records}
        still = [r for r in self.open_conflicts() if r.op == op_id and r.number not in numbers]
        rule = "resolved" if third else f"resolved: {'mine' if mine else 'theirs'}"
        left: Op | None = op
        decided = []
        for record in records:
            result = None
            if left is not None:
                left, result = composer.decided(
                    left, record.record, mine=mine, third=third, last=last
                )
            now = self._shared.clock()
            decided.append(
                {**record.record, "at": now, "open": False, "result": result, "rule": rule}
            )
        if left is None:
            rows = [r.record["theirs"] for r in records if r.record["column"] is None]
            theirs: Mapping[str, Json] | None = rows[0] if rows else {}
            if theirs is None:  # later edits of the row have no row to apply to
                dropped = [one.id for one in self._outbox.discard(op_id)]
                self._notify_all(lambda o: o.discard(dropped, want_changes=True))
            else:
                self._give_way(op, theirs)
        else:
            left = replace(left, error="; ".join(question(r.record) for r in still))
            if not self._outbox.mend(left, decided=numbers, asks=bool(still)):
                raise QueueError(
                    f'table "{self.table}": the edit left the queue meanwhile; .pending has what is left'
                )
            self._overlay_everywhere([left])
        self._outbox.record(op, *decided)

    def _give_way(self, op: Op, theirs: Mapping[str, Json]) -> None:
        self._outbox.decline(op.id, theirs, self._shared.clock())
        if op.kind != "insert" or not theirs:
            self._notify_all(lambda o: o.discard([op.id], want_changes=True))
            return
        now = time.monotonic()
        self._notify_all(
            lambda o: o.give_way(op.id, o.schema.decode(theirs), now=now, want_changes=True)
        )


def _name_of(frame: pd.DataFrame) -> Any:
    """Return the name of an index, or the names of its levels."""
    names = tuple(frame.index.names)
    return names if len(names) > 1 else names[0]
