"""What the queue holds for one live table, laid over its view.

In come operations of the queue's file, the worker's word on what became of them, and the news that
another kernel wrote there; the view shows it, and what waits, was refused or is in conflict is told.
``Editor`` adds what a user does.
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
"""The last edits of a table that can be taken back."""


class Operations(Protocol):
    """The durable operations as an editor needs them (``outbox.queue.Outbox``)."""

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

    def fate(self, op: str) -> tuple[bool, dict[str, Json] | None]: ...

    def discard(self, op: str) -> list[Op]: ...

    def decline(self, op: str, theirs: Mapping[str, Json], now: float) -> list[Op]: ...

    def mend(self, op: Op, *, decided: Iterable[int] = (), asks: bool = False) -> bool: ...

    def take_back(self, puts: Iterable[Put]) -> list[Put]: ...

    def conflicts(
        self, schema: str | None = None, target: str | None = None, *, only_open: bool = False
    ) -> list[Record]: ...

    def record(self, op: Op, *records: dict[str, Json]) -> None: ...


class Shared(msgspec.Struct):
    """What the editors of one session share."""

    outbox: Operations
    clock: Callable[[], float]
    """Seconds since the epoch, in server time."""
    make_id: Callable[[], str]
    lock: AbstractContextManager[Any] = msgspec.field(default_factory=threading.RLock)
    """Guards every overlay of the session."""
    blocks: Blocks = msgspec.field(default_factory=Blocks)
    editors: list[PendingEdits] = msgspec.field(default_factory=list)
    """Of the open tables."""
    reports: WeakValueDictionary[str, WriteReport] = msgspec.field(
        default_factory=WeakValueDictionary
    )
    """Who follows an operation, by its id."""
    _done: dict[tuple[str, str], deque[list[Put]]] = msgspec.field(default_factory=dict)

    def editors_of(self, schema: str, table: str) -> list[PendingEdits]:
        return [e for e in self.editors if (e.schema_name, e.table) == (schema, table)]

    def done_to(self, schema: str, table: str) -> deque[list[Put]]:
        """The last edits of a table in this session, which can be taken back."""
        return self._done.setdefault((schema, table), deque(maxlen=UNDONE))


@dataclass(eq=False, repr=False)
class PendingEdits:
    """The pending operations of one table, as its view shows them.

    Whoever lays something over the view holds the session's one lock, but for ``attach``.
    """

    _shared: Shared
    schema_name: str
    table: str
    strategies: Strategies
    _changed: Callable[[Sequence[RowChange]], object] | None
    """Told what edits did to the view."""
    columns_suspect: Callable[[], object]
    """Told when what is known of the columns has refused an edit."""
    ordered: Callable[[], Ordered | None] | None = None
    """Gives the view that is shown of the table, where it has a limit."""
    overlay: Overlay | None = field(default=None, init=False)
    on_merge: Signal[Sequence[Mapping[str, Json]]] = field(default_factory=Signal, init=False)
    """Told the records of each merge (see ``conflicts``), on the loop thread."""
    _composer: Composer | None = field(default=None, init=False)
    _early: list[tuple[Op, Mapping[str, Json] | None, float]] = field(
        default_factory=list, init=False
    )
    """What was settled before the first snapshot, perhaps after the server had read it; and when."""

    @property
    def _outbox(self) -> Operations:
        return self._shared.outbox

    def attach(self, overlay: Overlay) -> None:
        """Use this overlay from now on, and lay over it what the queue holds for the table.

        Called before its first snapshot is shown, and again whenever the table is made anew.
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
            self.lay([op for op, *_ in early])
            for op, row, at in early:
                self._settle([(op.id, row)], at)
                self._insert([(op, row)], at)
            self.lay(self._ops())

    def lay(
        self,
        ops: Sequence[Op],
        made: Mapping[str, Edit] = MappingProxyType({}),
        seen: Mapping[Key, Row] = MappingProxyType({}),
    ) -> None:
        """Lay operations over the view; inserts only where the table's filter may take them.

        What is known already is not worked out again: ``made``, operations as edits of this schema,
        by their ids, and ``seen``, rows of the view as they are now.
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
        """Show what another kernel queued or edited, and settle what it sent."""
        if self.overlay is None:
            return
        known = {edit.id: edit.at for edit in self.overlay.edits}
        there = self._outbox.versions(self.schema_name, self.table)
        for op_id in known:  # the edits of a row in order: the answer to the last one stands
            if op_id in there:
                continue
            done, row = self._outbox.fate(op_id)
            if done:
                self._settle([(op_id, row)], time.monotonic())
            else:  # somebody discarded it
                self._say(self.overlay.discard([op_id], want_changes=True))
        news = [op_id for op_id, edited in there.items() if known.get(op_id) != edited]
        self.lay([op for op_id in news if (op := self._outbox.get(op_id)) is not None])

    def refresh(self) -> None:
        """Show what the queue holds now: somebody decided about it there."""
        self.catch_up()
        self.lay(self._ops())

    def settled(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]]) -> None:
        """The server has them, and answered these rows."""
        now = time.monotonic()
        if self.overlay is not None:
            self._settle([(op.id, row) for op, row in done], now)
            if not all(op.key for op, _ in done):
                self._insert(done, now)
            return
        self._early = [one for one in self._early if one[2] > now - SHIELD_SECONDS]
        self._early += [(op, row, now) for op, row in done]

    def _insert(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]], now: float) -> None:
        """Show the rows that could not be before they had a key."""
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

    def _lay_everywhere(self, ops: Sequence[Op]) -> None:
        for editor in self._shared.editors_of(self.schema_name, self.table):
            editor.lay(ops)

    def _tell_all(self, fn: Callable[[Overlay], Sequence[RowChange]]) -> None:
        for editor in self._shared.editors_of(self.schema_name, self.table):
            if editor.overlay is not None:
                editor._say(fn(editor.overlay))

    def _replace_shown(self, put: Put) -> None:
        if put.before is not None:
            self._lay_everywhere([put.before, *put.parked])
        elif put.op is not None:
            gone = put.op.id
            self._tell_all(lambda o: o.discard([gone], want_changes=True))

    # --- looking ---------------------------------------------------------------------------------

    @property
    def pending(self) -> pd.DataFrame:
        """The table's operations in the queue, in order: one row each, index their id."""
        return pending_df(self._ops())

    @property
    def conflicts(self) -> pd.DataFrame:
        """Every merge decision that the queue's file keeps, oldest first; ``open`` ones ask."""
        records = self._outbox.conflicts(self.schema_name, self.table)
        return conflicts_df([record.record for record in records])

    def refused(self) -> str:
        """What the server refused, in a sentence; empty: nothing."""
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
        """The rows that are shown otherwise than the server has them: their edits are not written."""
        with self._shared.lock:
            overlay = self.overlay
            return () if overlay is None else tuple(dict.fromkeys(e.key for e in overlay.edits))

    def open_conflicts(self) -> list[Record]:
        """The conflicts that ask."""
        return self._outbox.conflicts(self.schema_name, self.table, only_open=True)

    def leaving(self) -> dict[Key, Row]:
        """The rows that are not seen any more though that is not final.

        Those deleted here whose deletion is not written yet, as the server has them; those deleted
        there whose edits are not decided yet, as these would leave them.
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
        """``(key, column)`` to ``("pending" | "failed" | "conflict", why)`` of cells with edits.

        Of a deleted row that is every cell.
        """
        marks: dict[tuple[Key, str], tuple[str, str]] = {}
        composer = self._need()[1]
        # What is set aside last: an edit that is parked behind it is about the same cells.
        for op in sorted(self._ops(), key=lambda op: op.state != "waiting"):
            if unkeyed(op):
                continue
            edit = composer.edit(op)
            state = {"waiting": "pending", "asking": "conflict"}.get(op.state, op.state)
            for column in composer.schema.names if edit.kind == "delete" else edit.values:
                marks[edit.key, column] = (state, op.error)
        return marks
