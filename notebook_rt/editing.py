"""Local edits: from what the user says to an operation in the queue's file and a changed view.

``Editing`` is one a session: it knows the outbox, hears from the worker, and hands out an `Editor`
a table. Order of things in an edit: the values are validated against the columns' types, the
operation is committed to the file, and only then the view shows it; if the disk is full, the error
is raised and nothing is shown. When a table is opened, what the file still holds is laid over it
before its first snapshot.

One lock guards every overlay of the session: whoever feeds a mirror, or reads a table that an
overlay writes, holds ``Editing.lock``.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from notebook_rt.errors import ConflictError, NotebookRTError, QueueError
from notebook_rt.outbox import decide
from notebook_rt.outbox.ops import WRITES, Json, Op, OpKind, coalesce, lane_of
from notebook_rt.outbox.queue import Outbox, Put, Record
from notebook_rt.store.types import canonical, equal, to_json
from notebook_rt.sync.merge import Edit, Strategies, Strategy
from notebook_rt.sync.overlay import Overlay
from notebook_rt.sync.rows import Key, Row, RowChange

if TYPE_CHECKING:
    import pandas as pd

_INT_BITS = {"int2": 16, "int4": 32, "int8": 64}
NoteKind = Literal["merged", "queued", "failed", "info"]


class InvalidEditError(NotebookRTError, ValueError):
    """A local edit that the table cannot take; nothing of it was queued."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a broadcast or call: on its way (``queued=False``) or in the queue."""

    queued: bool
    id: str | None = None


class Editing:
    """The local edits of one session.

    Parameters
    ----------
    outbox : Outbox
        The queue's file.
    clock : callable
        Seconds since the epoch, in server time.
    make_id : callable
        New random ids, for operations and for keys of type uuid.
    note : callable, optional
        Told ``(kind, text)`` when something was merged, queued or failed.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        clock: Callable[[], float],
        make_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        note: Callable[[NoteKind, str], object] | None = None,
    ) -> None:
        self.outbox = outbox
        self.lock = threading.RLock()
        self.clock = clock
        self.make_id = make_id
        self._note = note or (lambda kind, text: None)
        self._editors: list[Editor] = []

    def editor(
        self,
        schema: str,
        table: str,
        strategies: Strategies | None = None,
        changed: Callable[[Sequence[RowChange]], object] | None = None,
    ) -> Editor:
        """The editor of one live table; ``changed`` is told what edits did to its view."""
        editor = Editor(self, schema, table, strategies or Strategies(), changed)
        with self.lock:
            self._editors.append(editor)
        return editor

    def forget(self, editor: Editor) -> None:
        """The table is no longer open; its edits stay in the queue."""
        with self.lock, contextlib.suppress(ValueError):
            self._editors.remove(editor)

    def strategies(self, schema: str, table: str) -> Strategies | None:
        """For the worker: how a table that is open here merges, functions included."""
        return next((e.strategies for e in self._of(schema, table)), None)

    # --- broadcasts and calls --------------------------------------------------------------------

    def broadcast(
        self,
        topic: str,
        event: str,
        payload: Mapping[str, Json],
        *,
        private: bool = False,
        ttl: float | None = None,
    ) -> SendResult:
        """Queue a broadcast; dropped unsent after ``ttl`` seconds, if given.

        Raises
        ------
        QueueError
            If it could not be committed.
        """
        now = self.clock()
        return self._queue(
            Op(
                self.make_id(),
                "broadcast",
                "realtime",
                topic,
                now,
                values=payload,
                event=event,
                private=private,
                expires_at=None if ttl is None else now + ttl,
            )
        )

    def call(
        self, function: str, args: Mapping[str, Json], *, schema: str = "public", repeatable: bool
    ) -> SendResult:
        """Queue a call of a function.

        Parameters
        ----------
        repeatable : bool
            It may run twice. If not, and its answer is lost, it is set aside for the user.
        """
        return self._queue(
            Op(
                self.make_id(),
                "rpc",
                schema,
                function,
                self.clock(),
                values=args,
                repeatable=repeatable,
            )
        )

    def _queue(self, op: Op) -> SendResult:
        try:
            self.outbox.put(op)
        except TypeError as error:
            raise InvalidEditError(f"{op.target}: this cannot be said in JSON: {error}") from error
        return SendResult(queued=True, id=op.id)

    # --- what the worker says (worker.Listener) --------------------------------------------------

    def leaving(self, ops: Sequence[Op]) -> None:
        with self.lock:
            for editor in self._editors:
                if editor.overlay is not None:
                    editor.overlay.sent(op.id for op in ops)

    def settled(self, op: Op, row: Mapping[str, Json] | None) -> None:
        with self.lock:
            for editor in self._of(op.schema, op.target):
                editor._settled(op.id, row)

    def rebased(self, op: Op, records: Sequence[dict[str, Json]]) -> None:
        with self.lock:
            for editor in self._of(op.schema, op.target):
                editor._lay([op])
                for fn in editor.on_merge if records else ():
                    fn(records)
        for record in records:
            what = f"{op.target} {', '.join(map(str, record['key'].values()))}"
            column = f", {record['column']}" if record["column"] else ""
            self._note("merged", f"{what}{column}: {record['rule']}")

    def failed(self, op: Op) -> None:
        self._note("failed", f"{op.target}: {op.error}")

    def elsewhere(self) -> None:
        """Show what another kernel on the file has queued, and settle what it has sent."""
        with self.lock:
            for editor in self._editors:
                editor._catch_up()

    def tick(self, now: float) -> None:
        with self.lock:
            for editor in self._editors:
                if editor.overlay is not None:
                    editor.overlay.lower_shields(now)

    def _of(self, schema: str, table: str) -> list[Editor]:
        return [e for e in self._editors if (e.schema_name, e.table) == (schema, table)]


class Editor:
    """Edits of one live table. Every method may be called from any thread.

    Values are checked against the column's type first; `InvalidEditError` says what is wrong.
    """

    def __init__(
        self,
        editing: Editing,
        schema: str,
        table: str,
        strategies: Strategies,
        changed: Callable[[Sequence[RowChange]], object] | None,
    ) -> None:
        self.schema_name = schema
        self.table = table
        self.strategies = strategies
        self.overlay: Overlay | None = None
        self._editing = editing
        self._outbox = editing.outbox
        self.on_merge: list[Callable[[Sequence[Mapping[str, Json]]], object]] = []
        """Called with the records of each merge (see ``conflicts``), on the loop thread."""
        self._changed = changed
        self._undo: list[list[Put]] = []
        self._batch: list[Op] | None = None

    def attach(self, overlay: Overlay) -> None:
        """Use this overlay from now on, and lay over it what the queue holds for the table.

        Called before its first snapshot is shown, and again whenever the table is made anew.
        """
        with self._editing.lock:
            self.overlay = overlay
            self._lay(self._outbox.ops(schema=self.schema_name, target=self.table))

    # --- editing ---------------------------------------------------------------------------------

    def edit(self, key: Hashable, values: Mapping[str, Any]) -> None:
        """Change columns of a row. What does not change anything is not queued.

        Raises
        ------
        InvalidEditError
            If there is no such row or column, or a value is none of the column's type.
        QueueError
            If it could not be committed; the view then does not show it.
        """
        with self._editing.lock:
            op = self._edit(key, values)
            if op is not None:
                self._put([op])

    def insert(self, values: Mapping[str, Any]) -> Key:
        """Insert a row; a key of type uuid is made here if it is not given. Returns the key."""
        with self._editing.lock:
            op = self._insert(values)
            self._put([op])
            return self._as_edit(op).key

    def delete(self, key: Hashable) -> None:
        """Delete a row."""
        with self._editing.lock:
            self._put([self._delete(key)])

    def edit_many(self, changes: pd.DataFrame) -> int:
        """Change many rows at once, all or none: index = key, columns = the columns to set.

        NaN, NaT and NA mean null, as in a DataFrame that was read from SQL.

        Returns
        -------
        int
            The rows that it changes.
        """
        from pandas import isna
        from pandas.api.types import is_scalar

        with self._editing.lock:
            ops = []
            for key, *cells in changes.itertuples(name=None):
                values = [None if is_scalar(cell) and isna(cell) else cell for cell in cells]
                op = self._edit(key, dict(zip(changes.columns, values, strict=True)))
                if op is not None:
                    ops.append(op)
            self._put(ops)
            return len(ops)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Commit and show what is edited in the block as one, at its end; nothing if it raises."""
        with self._editing.lock:
            if self._batch is not None:
                yield
                return
            self._batch = []
            try:
                yield
                ops, self._batch = self._batch, None
                self._put(ops)
            finally:
                self._batch = None

    def undo(self) -> bool:
        """Take back the last edit (or batch) made here that has not left; False: there is none."""
        with self._editing.lock:
            while self._undo:
                puts = self._undo.pop()
                undone = False
                for put in reversed(puts):
                    if self._outbox.take_back(put.op, put.before):
                        undone = True
                        self._replace_shown(put)
                if undone:
                    return True
            return False

    def discard(self, key: Hashable) -> int:
        """Drop the pending edits of a row, whatever their state; how many operations it were."""
        with self._editing.lock:
            overlay, key = self._need(), self._key(key)
            dropped = [op for edit in overlay.edits_of(key) for op in self._outbox.discard(edit.id)]
            self._undo.clear()
            self._tell_all(lambda o: o.discard([op.id for op in dropped], want_changes=True))
            return len(dropped)

    def resolve(
        self,
        key: Hashable,
        column: str | None = None,
        choice: Literal["mine", "theirs"] = "mine",
        *,
        value: Any = None,
    ) -> None:
        """Decide a conflict that is open.

        Parameters
        ----------
        column : str, optional
            One column; default: everything open of the row.
        choice : {"mine", "theirs"}
            What stands.
        value
            A third value instead, for one column.

        Raises
        ------
        ConflictError
            If nothing is open there.
        """
        with self._editing.lock:
            overlay, key = self._need(), self._key(key)
            ids = {edit.id for edit in overlay.edits_of(key)}
            records = [
                r
                for r in self._outbox.conflicts(self.schema_name, self.table, only_open=True)
                if r.op in ids and column in (None, r.record["column"])
            ]
            if not records:
                where = f"{key!r}" + (f", column {column!r}" if column else "")
                raise ConflictError(f'table "{self.table}": no conflict is open at {where}')
            if value is not None and column is not None:
                value = self._json(self._typed({column: value}))[column]
            for op_id in dict.fromkeys(r.op for r in records):
                self._resolve_one(op_id, [r for r in records if r.op == op_id], choice, value)

    # --- looking ---------------------------------------------------------------------------------

    @property
    def pending(self) -> pd.DataFrame:
        """The table's operations in the queue, in order: one row each, index their id."""
        import pandas as pd

        ops = [op for op in self._ops() if op.kind in WRITES]
        return pd.DataFrame(
            {
                "kind": [op.kind for op in ops],
                "key": [self._as_edit(op).key for op in ops],
                "values": [dict(op.values) for op in ops],
                "base": [dict(op.base) for op in ops],
                "state": ["parked" if _parked(op) else op.state for op in ops],
                "attempts": pd.Series([op.attempts for op in ops], dtype="int64"),
                "error": [op.error for op in ops],
                "at": pd.to_datetime([op.made_at for op in ops], unit="s", utc=True),
            },
            index=pd.Index([op.id for op in ops], name="id", dtype=object),
        )

    @property
    def conflicts(self) -> pd.DataFrame:
        """Every merge decision that the queue's file keeps, oldest first; ``open`` ones ask."""
        import pandas as pd

        records = [r.record for r in self._outbox.conflicts(self.schema_name, self.table)]
        names = ("key", "column", "base", "mine", "theirs", "result", "rule", "who", "open")
        columns: dict[str, Any] = {
            name: pd.Series([record[name] for record in records], dtype=object) for name in names
        }
        columns["key"] = pd.Series([_plain_key(record["key"]) for record in records], dtype=object)
        columns["open"] = columns["open"].astype(bool)
        at = pd.to_datetime([record["at"] for record in records], unit="s", utc=True)
        return pd.DataFrame({"at": at, **columns})

    def row(self, key: Hashable) -> dict[str, Any] | None:
        """One row as the user sees it."""
        with self._editing.lock:
            return self._seen(self._key(key))

    def open_conflicts(self) -> list[Record]:
        """The conflicts that ask."""
        return self._outbox.conflicts(self.schema_name, self.table, only_open=True)

    def marks(self) -> dict[tuple[Key, str], tuple[str, str]]:
        """``(key, column)`` to ``("pending" | "failed" | "conflict", why)`` of cells with edits."""
        marks = {}
        for op in self._ops():
            edit = self._as_edit(op)
            state = {"waiting": "pending", "asking": "conflict"}.get(op.state, op.state)
            for column in edit.values:
                marks[edit.key, column] = (state, op.error)
        return marks

    # --- inside: making operations ---------------------------------------------------------------

    def _edit(self, key: Hashable, values: Mapping[str, Any]) -> Op | None:
        overlay, key = self._need(), self._key(key)
        row = self._seen(key)
        if row is None:
            raise InvalidEditError(f'table "{self.table}" has no row with the key {key!r}')
        typed = self._typed(values)
        changed = {c: v for c, v in typed.items() if not equal(v, row[c])}
        if not changed:
            return None
        names = overlay.schema.key
        if any(name in changed for name in names):
            moved = overlay.schema.key_of({**row, **changed})
            if overlay.view(moved) is not None:
                raise InvalidEditError(f'table "{self.table}" has a row with the key {moved!r}')
        return self._op("update", key, changed, {c: row[c] for c in changed})

    def _insert(self, values: Mapping[str, Any]) -> Op:
        schema = self._need().schema
        typed = self._typed(values)
        made = False
        for name in schema.key:
            if typed.get(name) is not None:
                continue
            pg_type = canonical(schema.types[name])
            if pg_type != "uuid":
                raise InvalidEditError(
                    f'table "{self.table}": give the key column "{name}". The server makes it '
                    f"({pg_type}), so a row whose answer is lost could not be told from a second "
                    "one; a key of type uuid is made here by itself"
                )
            typed[name] = self._editing.make_id()
            made = True
        key = schema.key_of(typed)
        if self._seen(key) is not None:
            raise InvalidEditError(f'table "{self.table}" has a row with the key {key!r}')
        return replace(self._op("insert", key, typed, {}), own_key=made)

    def _delete(self, key: Hashable) -> Op:
        key = self._key(key)
        row = self._seen(key)
        if row is None:
            raise InvalidEditError(f'table "{self.table}" has no row with the key {key!r}')
        return self._op("delete", key, {}, row)

    def _op(self, what: OpKind, key: Key, values: Row, base: Row) -> Op:
        overlay = self._need()
        schema, strategies = overlay.schema, self.strategies
        parts = key if len(schema.key) > 1 else (key,)
        named = dict(zip(schema.key, parts, strict=True))  # type: ignore[call-overload]  # a Key of several columns is a tuple (rows.py)
        version = strategies.version if strategies.version in schema.types else None
        wanted = {*named, *values, *base, *([version] if version else [])}
        lane = None
        if edits := overlay.edits_of(key):
            first = self._outbox.get(edits[-1].id)
            lane = first.lane if first else None
        return Op(
            self._editing.make_id(),
            what,
            self.schema_name,
            self.table,
            self._editing.clock(),
            key=self._json(named),
            values=self._json(values),
            base=self._json(base),
            types={name: schema.types[name] for name in wanted},
            rules={c: _rule(strategies.of(c)) for c in values} | {"": _rule(strategies.default)},
            version=version or "",
            lane=lane or lane_of(self.schema_name, self.table, self._json(named)),
        )

    def _typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        schema = self._need().schema
        try:
            typed = schema.coerce(values)
        except ValueError as error:
            raise InvalidEditError(f'table "{self.table}": {error}') from None
        for name, value in typed.items():
            bits = _INT_BITS.get(canonical(schema.types[name]))
            if bits and value is not None and not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
                raise InvalidEditError(
                    f'table "{self.table}": column {name!r}: {value} is too large for '
                    f"{canonical(schema.types[name])}"
                )
        return typed

    def _as_edit(self, op: Op) -> Edit:
        return decide.edit_of(op, "float" if self.overlay is None else self.overlay.schema.numeric)

    def _json(self, row: Row) -> dict[str, Json]:
        types = self._need().schema.types
        return {name: to_json(types[name], value) for name, value in row.items()}

    def _key(self, key: Hashable) -> Key:
        try:
            return self._need().schema.coerce_key(key)
        except ValueError as error:
            raise InvalidEditError(f'table "{self.table}": {error}') from None

    def _seen(self, key: Key) -> dict[str, Any] | None:
        """The row as the user sees it, with what the open batch did to it."""
        row = self._need().view(key)
        for op in self._batch or ():
            edit = self._as_edit(op)
            if edit.key == key:
                whole = {**dict.fromkeys(self._need().schema.names), **(row or {})}
                row = None if edit.kind == "delete" else {**whole, **edit.values}
        return row

    def _need(self) -> Overlay:
        if self.overlay is None:
            raise InvalidEditError(f'table "{self.table}" is not loaded yet: wait() for it')
        return self.overlay

    # --- inside: laying over ---------------------------------------------------------------------

    def _put(self, ops: Sequence[Op]) -> None:
        if self._batch is not None:
            self._batch.extend(ops)
            return
        if not ops or (len(ops) == 1 and self._mend_failed(ops[0])):
            return
        try:
            puts = self._outbox.put(*ops)
        except TypeError as error:
            raise InvalidEditError(
                f'table "{self.table}": this cannot be said in JSON: {error}'
            ) from error
        self._undo = [*self._undo[-99:], puts]
        for put in puts:
            if put.op is None and put.before is not None:
                gone = put.before.id
                self._tell_all(lambda o, gone=gone: o.discard([gone], want_changes=True))  # type: ignore[misc]  # a default binds the loop's variable
        self._lay_everywhere([put.op for put in puts if put.op is not None])

    def _mend_failed(self, op: Op) -> bool:
        """An edit of what was refused, same row and column, mends that write: it is sent again."""
        edits = self._need().edits_of(self._as_edit(op).key)
        failed = self._outbox.get(edits[0].id) if len(edits) == 1 else None
        if failed is None or failed.state != "failed" or not op.values.keys() & failed.values:
            return False
        whole, merged = coalesce(failed, op)
        if not merged or whole is None or not self._outbox.mend(whole):
            return False
        self._lay_everywhere([whole])
        return True

    def _lay_everywhere(self, ops: Sequence[Op]) -> None:
        for editor in self._editing._of(self.schema_name, self.table):
            editor._lay(ops)

    def _lay(self, ops: Sequence[Op]) -> None:
        if self.overlay is None:
            return
        mine = [op for op in ops if op.kind in WRITES and self._concerns(op)]
        edits = [self._as_edit(op) for op in mine]
        self._say(self.overlay.put(edits, want_changes=self._changed is not None))

    def _concerns(self, op: Op) -> bool:
        """Whether this table (one of several over the server's, by filter) shows the operation."""
        overlay = self._need()
        known = all(name in overlay.schema.types for name in (*op.values, *op.key))
        if not known or op.kind != "insert":
            return known
        return overlay.accepts(self._as_edit(op).values)

    def _catch_up(self) -> None:
        if self.overlay is None:
            return
        known = {edit.id for edit in self.overlay.edits}
        there = self._outbox.numbers(self.schema_name, self.table)
        for op_id in known - there.keys():
            self._settled(op_id, self._outbox.fate(op_id)[1])
        new = sorted(there.keys() - known, key=there.__getitem__)
        self._lay([op for op_id in new if (op := self._outbox.get(op_id)) is not None])

    def _settled(self, op: str, row: Mapping[str, Json] | None) -> None:
        if self.overlay is None:
            return
        typed = None if row is None else self.overlay.schema.decode(row)
        now = self._editing.clock()
        self._say(self.overlay.settle(op, typed, now=now, want_changes=True))

    def _say(self, changes: Sequence[RowChange]) -> None:
        if changes and self._changed is not None:
            self._changed(changes)

    def _tell_all(self, fn: Callable[[Overlay], Sequence[RowChange]]) -> None:
        for editor in self._editing._of(self.schema_name, self.table):
            if editor.overlay is not None:
                editor._say(fn(editor.overlay))

    def _replace_shown(self, put: Put) -> None:
        if put.before is not None:
            self._lay_everywhere([put.before])
        elif put.op is not None:
            gone = put.op.id
            self._tell_all(lambda o: o.discard([gone], want_changes=True))

    # --- inside: conflicts -----------------------------------------------------------------------

    def _resolve_one(
        self, op_id: str, records: list[Record], choice: Literal["mine", "theirs"], value: Json
    ) -> None:
        op = self._outbox.get(op_id)
        if op is None or op.state != "asking":
            raise ConflictError(f'table "{self.table}": the conflict was decided meanwhile')
        still = {r.number for r in self.open_conflicts() if r.op == op_id}
        still -= {r.number for r in records}
        left: Op | None = op
        decided = []
        for record in records:
            result = record.record["mine" if choice == "mine" else "theirs"]
            if left is not None:
                left, result = self._decided(left, record.record, choice, value, result)
            decided.append(
                {
                    **record.record,
                    "at": self._editing.clock(),
                    "open": False,
                    "result": result,
                    "rule": "resolved" if value is not None else f"resolved: {choice}",
                }
            )
        if left is None:
            self._outbox.discard(op_id)
            self._tell_all(lambda o: o.discard([op_id], want_changes=True))
        else:
            numbers = [record.number for record in records]
            if not self._outbox.mend(left, decided=numbers, asks=bool(still)):
                raise QueueError("the operation left the queue meanwhile")
            self._lay_everywhere([left])
        self._outbox.record(op, *decided)

    def _decided(
        self,
        op: Op,
        record: Mapping[str, Json],
        choice: Literal["mine", "theirs"],
        value: Json,
        result: Json,
    ) -> tuple[Op | None, Json]:
        """The operation after a decision (None: nothing is left of it), and what stands."""
        column = record["column"]
        if column is None:
            if choice == "theirs":
                return None, record["theirs"]
            if op.kind == "delete":
                return replace(op, base=record["theirs"]), None
            last = self._need().last(self._as_edit(op).key)
            if last is None:
                raise ConflictError(
                    f'table "{self.table}": the row was deleted and is not known here any more; '
                    "insert it again, or resolve with choice='theirs'"
                )
            whole = {**self._json(last), **op.values}
            types = dict(self._need().schema.types)
            return replace(op, kind="insert", values=whole, base={}, types=types), whole
        if value is not None:
            result = value
        values = {c: v for c, v in op.values.items() if c != column}
        base = {c: v for c, v in op.base.items() if c != column}
        if not equal(result, record["theirs"]):
            values[column], base[column] = result, record["theirs"]
        return (replace(op, values=values, base=base, xmin="") if values else None), result

    def _ops(self) -> list[Op]:
        return self._outbox.ops(schema=self.schema_name, target=self.table)


class At:
    """``frame.at[key, column]``: one cell, read from the view and edited by assignment."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def __getitem__(self, cell: tuple[Hashable, str]) -> Any:
        key, column = cell
        row = self._editor.row(key)
        if row is None:
            raise KeyError(key)
        return row[column]

    def __setitem__(self, cell: tuple[Hashable, str], value: Any) -> None:
        key, column = cell
        self._editor.edit(key, {column: value})


def _rule(strategy: Strategy) -> str:
    return f"function {getattr(strategy, '__name__', '')}" if callable(strategy) else strategy


def _parked(op: Op) -> bool:
    return op.state == "waiting" and op.blocked


def _plain_key(key: Mapping[str, Json]) -> Any:
    values = tuple(key.values())
    return values[0] if len(values) == 1 else values
