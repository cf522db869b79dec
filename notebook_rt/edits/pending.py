"""The queued operations of one live table, laid over its view.

Its input is operations of the queue's file, the worker's outcomes, and notifications that another kernel
wrote to the file. It updates the view, and reports what waits, was refused or is in conflict. ``Editor``
adds the user's actions.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol
from weakref import WeakValueDictionary

import msgspec

from notebook_rt.edits.block import Blocks
from notebook_rt.edits.compose import Composer
from notebook_rt.edits.decide import Record
from notebook_rt.edits.listing import conflicts_df, pending_df, refused
from notebook_rt.edits.merge import Edit, Strategies
from notebook_rt.edits.ops import WRITES, Json, Op, Put, unkeyed
from notebook_rt.edits.overlay import SHIELD_SECONDS, Overlay
from notebook_rt.edits.report import WriteReport
from notebook_rt.errors import InvalidEditError
from notebook_rt.model.rows import Key, Row, RowChange
from notebook_rt.model.signal import Signal
from notebook_rt.store.order import Ordered

if TYPE_CHECKING:
    import pandas as pd

UNDONE = 100
"""Number of latest edits of a table that can be undone."""


class Operations(Protocol):
    """The interface to the durable operations that an editor needs (``outbox.queue.Outbox``)."""

    def put(self, *ops: Op, merge: bool = True) -> list[Put]: ...

    def get(self, op: str) -> Op | None: ...

    def ops(
        self,
        *,
        schema: str | None = None,
        target: str | None = None,
        state: Literal["waiting", "failed", "asking"] | None = None,
    ) -> list[Op]: ...

    def refused(self, **wanted: str) -> tuple[int, Op | None]: ...

    def versions(self, schema: str, target: str) -> dict[str, float]: ...

    def states(self, schema: str, target: str) -> dict[str, str]: ...

    def outcome(self, op: str) -> tuple[bool, dict[str, Json] | None]: ...

    def discard(self, op: str) -> list[Op]: ...

    def decline(self, op: str, theirs: Mapping[str, Json], now: float) -> list[Op]: ...

    def mend(self, op: Op, *, decided: Iterable[int] = (), asks: bool = False) -> bool: ...

    def take_back(self, puts: Iterable[Put]) -> list[Put]: ...

    def conflicts(
        self, schema: str | None = None, target: str | None = None, *, only_open: bool = False
    ) -> list[Record]: ...

    def record(self, op: Op, *records: dict[str, Json]) -> None: ...


class Shared(msgspec.Struct):
    """State shared by the editors of one session."""

    outbox: Operations
    clock: Callable[[], float]
    """Seconds since the epoch, in server time."""
    make_id: Callable[[], str]
    lock: AbstractContextManager[Any] = msgspec.field(default_factory=threading.RLock)
    """Guards every overlay of the session."""
    blocks: Blocks = msgspec.field(default_factory=Blocks)
    editors: list[PendingEdits] = msgspec.field(default_factory=list)
    """The editors of the open tables."""
    reports: WeakValueDictionary[str, WriteReport] = msgspec.field(
        default_factory=WeakValueDictionary
    )
    """The report that follows an operation, by the operation's id."""
    _done: dict[tuple[str, str], deque[list[Put]]] = msgspec.field(default_factory=dict)

    def editors_of(self, schema: str, table: str) -> list[PendingEdits]:
        return [e for e in self.editors if (e.schema_name, e.table) == (schema, table)]

    def done_to(self, schema: str, table: str) -> deque[list[Put]]:
        """Return the last edits of a table in this session, which can be undone."""
        return self._done.setdefault((schema, table), deque(maxlen=UNDONE))


@dataclass(eq=False, repr=False)
class PendingEdits:
    """The pending operations of one table, as its view shows them.

    The caller of any method that changes the view, except ``attach``, holds the session's one lock.
    """

    _shared: Shared
    schema_name: str
    table: str
    strategies: Strategies
    _changed: Callable[[Sequence[RowChange]], object] | None
    """Called with the changes that edits made to the view."""
    columns_suspect: Callable[[], object]
    """Called when an edit was refused because of what is known about the columns."""
    ordered: Callable[[], Ordered | None] | None = None
    """Returns the shown view of the table, if it has a limit."""
    overlay: Overlay | None = field(default=None, init=False)
    on_merge: Signal[Sequence[Mapping[str, Json]]] = field(default_factory=Signal, init=False)
    """Notified with the records of each merge (see ``conflicts``), on the loop thread."""
    _composer: Composer | None = field(default=None, init=False)
    _early: list[tuple[Op, Mapping[str, Json] | None, float]] = field(
        default_factory=list, init=False
    )
    """Operations settled before the first snapshot, perhaps after the server read it, with their times."""

    @property
    def _outbox(self) -> Operations:
        return self._shared.outbox

    def attach(self, overlay: Overlay) -> None:
        """Use this overlay from now on, and lay the queue's operations for the table over it.

        Called before its first snapshot is shown, and again whenever the table is rebuilt.
        """
        with self._shared.lock:
            self.overlay = overlay
            self._composer = Composer(
                overlay.schema,
                self.schema_name,
                self.table,
                self.strategies,
                self._shared.make_id,
                self._shared.clock,
                self.columns_suspect,
            )
            early, self._early = self._early, []
            self.overlay_ops([op for op, *_ in early])
            for op, row, at in early:
                self._settle([(op.id, row)], at)
                self._insert([(op, row)], at)
            self.overlay_ops(self._ops())

    def overlay_ops(
        self,
        ops: Sequence[Op],
        made: Mapping[str, Edit] = MappingProxyType({}),
        seen: Mapping[Key, Row] = MappingProxyType({}),
    ) -> None:
        """Lay operations over the view; inserts only if they may match the table's filter.

        Known values are not computed again: ``made`` maps ids to operations as edits of this schema, and
        ``seen`` contains current rows of the view.
        """
        if self.overlay is None:
            return
        overlay, composer = self._need()
        types = overlay.schema.types
        writes = (op for op in ops if op.kind in WRITES and op.key)  # others are `unkeyed`
        known = (op for op in writes if all(name in types for name in (*op.values, *op.key)))
        edits = [made.get(op.id) or composer.edit(op) for op in known]
        shown = [
            edit
            for edit in edits
            if edit.kind != "insert"
            or (edit.upsert and (edit.key in seen or overlay.view(edit.key) is not None))
            or overlay.accepts(edit.values)
        ]
        self._say(overlay.put(shown, seen=seen, want_changes=self._changed is not None))

    def catch_up(self) -> None:
        """Show operations that another kernel queued or edited, and settle those it sent."""
        if self.overlay is None:
            return
        known = {edit.id: edit.at for edit in self.overlay.edits}
        there = self._outbox.versions(self.schema_name, self.table)
        for op_id in known:  # the edits of a row in order: the answer to the last one counts
            if op_id in there:
                continue
            done, row = self._outbox.outcome(op_id)
            if done:
                self._settle([(op_id, row)], time.monotonic())
            else:  # it was discarded
                self._say(self.overlay.discard([op_id], want_changes=True))
        news = [op_id for op_id, edited in there.items() if known.get(op_id) != edited]
        self.overlay_ops([op for op_id in news if (op := self._outbox.get(op_id)) is not None])

    def refresh(self) -> None:
        """Show the queue's current state after a decision was made there."""
        self.catch_up()
        self.overlay_ops(self._ops())

    def settled(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]]) -> None:
        """Handle operations that the server has applied, with the rows that it returned."""
        now = time.monotonic()
        if self.overlay is not None:
            self._settle([(op.id, row) for op, row in done], now)
            if not all(op.key for op, _ in done):
                self._insert(done, now)
            return
        self._early = [one for one in self._early if one[2] > now - SHIELD_SECONDS]
        self._early += [(op, row, now) for op, row in done]

    def _insert(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]], now: float) -> None:
        """Show rows that could not be shown before they had a key."""
        overlay, composer = self._need()
        made = [row for op, row in done if row is not None and unkeyed(op)]
        rows = [composer.whole(overlay.schema.decode(row)) for row in made]
        self._say(overlay.inserted(rows, now=now, want_changes=True))
        overlay.expect_no_more(op.id for op, _ in done)

    def _settle(self, done: Iterable[tuple[str, Mapping[str, Json] | None]], now: float) -> None:
        overlay = self._need()[0]
        typed = ((op, None if row is None else overlay.schema.decode(row)) for op, row in done)
        self._say(overlay.settle_all(typed, now=now, want_changes=True))

    def _say(self, changes: Sequence[RowChange]) -> None:
        if changes and self._changed is not None:
            self._changed(changes)

    def _need(self) -> tuple[Overlay, Composer]:
        if self.overlay is None or self._composer is None:
            raise InvalidEditError(f'table "{self.table}" is not loaded yet: wait() for it')
        return self.overlay, self._composer

    def _ops(self) -> list[Op]:
        return self._outbox.ops(schema=self.schema_name, target=self.table)

    def _overlay_everywhere(self, ops: Sequence[Op]) -> None:
        for editor in self._shared.editors_of(self.schema_name, self.table):
            editor.overlay_ops(ops)

    def _notify_all(self, fn: Callable[[Overlay], Sequence[RowChange]]) -> None:
        for editor in self._shared.editors_of(self.schema_name, self.table):
            if editor.overlay is not None:
                editor._say(fn(editor.overlay))

    def _replace_shown(self, put: Put) -> None:
        if put.before is not None:
            self._overlay_everywhere([put.before, *put.parked])
        elif put.op is not None:
            gone = put.op.id
            self._notify_all(lambda o: o.discard([gone], want_changes=True))

    # --- looking ---------------------------------------------------------------------------------

    @property
    def pending(self) -> pd.DataFrame:
        """The table's operations in the queue, in order: one row each, with their id as index."""
        return pending_df(self._ops())

    @property
    def conflicts(self) -> pd.DataFrame:
        """All merge decisions in the queue's file, oldest first; ``open`` ones ask."""
        records = self._outbox.conflicts(self.schema_name, self.table)
        return conflicts_df([record.record for record in records])

    def refused(self) -> str:
        """Return a sentence about what the server refused; empty if nothing."""
        number, last = self._outbox.refused(schema=self.schema_name, target=self.table)
        said = refused(number, last, "discard(key) drops it, rt.queue.retry() sends it again")
        return "; ".join(one for one in (said, said and self._left_out()) if one)

    def _left_out(self) -> str:
        with self._shared.lock:
            keys = [] if self.overlay is None else self.overlay.outside()
        if not keys:
            return ""
        some = ", ".join(map(repr, keys[:5])) + ", ..." * (len(keys) > 5)
        are, them = ("is", "it") if len(keys) == 1 else ("are", "them")
        return f"{some} {are} shown as edited here, though the filter leaves {them} out"

    def unwritten(self) -> tuple[Key, ...]:
        """Return the rows that are shown differently from the server's: their edits are not written."""
        with self._shared.lock:
            overlay = self.overlay
            return () if overlay is None else tuple(dict.fromkeys(e.key for e in overlay.edits))

    def open_conflicts(self) -> list[Record]:
        """Return the conflicts that ask."""
        return self._outbox.conflicts(self.schema_name, self.table, only_open=True)

    def leaving(self) -> dict[Key, Row]:
        """Return rows that are no longer shown although that is not final.

        Rows deleted here whose deletion is not written yet, as the server has them; and rows deleted on the
        server whose edits are undecided, as the edits would leave them.
        """
        with self._shared.lock:
            overlay = self.overlay
            if overlay is None or overlay.transparent:
                return {}
            found: dict[Key, Row] = {}
            for edit in overlay.edits:
                key, row = edit.key, overlay.last(edit.key)
                if edit.kind == "delete":
                    if row is not None:
                        found[key] = row
                elif edit.kind == "update" and overlay.view(overlay.new_key(edit)) is None:
                    known = found.get(key, row) or self._need()[1].with_key(key, edit.base)
                    found[key] = {**known, **edit.values}
            return found

    def marks(self) -> dict[tuple[Key, str], tuple[str, str]]:
        """Map ``(key, column)`` to ``("pending" | "failed" | "conflict", why)`` for cells with edits.

        For a deleted row, that is every cell.
        """
        marks: dict[tuple[Key, str], tuple[str, str]] = {}
        composer = self._need()[1]
        # Operations set aside come last: an edit that is parked behind one concerns the same cells.
        for op in sorted(self._ops(), key=lambda op: op.state != "waiting"):
            if unkeyed(op):
                continue
            edit = composer.edit(op)
            state = {"waiting": "pending", "asking": "conflict"}.get(op.state, op.state)
            for column in composer.schema.names if edit.kind == "delete" else edit.values:
                marks[edit.key, column] = (state, op.error)
        return marks
