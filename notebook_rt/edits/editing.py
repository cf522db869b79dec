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
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import decision, question
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.ops import WRITES, Json, Op, lane_of, unkeyed
from notebook_rt.edits.pending import Operations, Shared
from notebook_rt.errors import InvalidEditError
from notebook_rt.model.rows import RowChange
from notebook_rt.store.order import Ordered

__all__ = ["Editing", "SendResult"]

NoteKind = Literal["merged", "conflict", "queued", "failed", "info"]


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a broadcast or call: on its way (``queued=False``) or in the queue."""

    queued: bool
    id: str | None = None


class Editing:
    """The local edits of one session.

    Parameters
    ----------
    outbox : Operations
        The queue's file.
    clock : callable
        Seconds since the epoch, in server time.
    make_id : callable
        New random ids, for operations and for keys of type uuid.
    note : callable, optional
        Told ``(kind, text)`` when something was merged, queued or failed.
    lock : context manager, optional
        Guards every overlay of the session, in the hand of who feeds the tables, too.
    written : callable, optional
        Told of how many rows the server has taken the write.
    """

    def __init__(
        self,
        outbox: Operations,
        *,
        clock: Callable[[], float],
        make_id: Callable[[], str] = lambda: str(uuid.uuid4()),
        note: Callable[[NoteKind, str], object] | None = None,
        lock: AbstractContextManager[Any] | None = None,
        written: Callable[[int], object] = lambda rows: None,
    ) -> None:
        self._shared = Shared(outbox, clock, make_id, lock or threading.RLock())
        self._note = note or (lambda kind, text: None)
        self._written = written

    def editor(
        self,
        schema: str,
        table: str,
        strategies: Strategies | None = None,
        changed: Callable[[Sequence[RowChange]], object] | None = None,
        columns_suspect: Callable[[], object] = lambda: None,
        ordered: Callable[[], Ordered | None] | None = None,
    ) -> Editor:
        """The editor of one live table.

        Parameters
        ----------
        changed : callable, optional
            Told what edits did to its view.
        columns_suspect : callable, optional
            Told when what is known of its columns has refused an edit, or the server one for it.
        ordered : callable, optional
            Gives the view that is shown of it, where it has a limit.
        """
        editor = Editor(
            self._shared,
            schema,
            table,
            strategies or Strategies(),
            changed,
            columns_suspect,
            ordered,
        )
        with self.lock:
            self._shared.editors.append(editor)
        return editor

    def forget(self, editor: Editor) -> None:
        """The table is no longer open; its edits stay in the queue."""
        with self.lock, contextlib.suppress(ValueError):
            self._shared.editors.remove(editor)

    def strategies(self, op: Op) -> Strategies | None:
        """For the worker: how the handle that ``op`` was made with merges, functions included, if one that
        merges so is open here.
        """
        columns = op.rules.keys() - {""}
        open_here = (e.strategies for e in self._shared.editors_of(op.schema, op.target))
        return next((one for one in open_here if one.names(columns) == op.rules), None)

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
        now = self._shared.clock()
        return self._queue(
            Op(
                self._shared.make_id(),
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
        made_id = self._shared.make_id()
        return self._queue(
            Op(
                made_id,
                "rpc",
                schema,
                function,
                self._shared.clock(),
                values=args,
                repeatable=repeatable,
                # Its own: one that is refused holds no other call back (`may_pass` keeps their order).
                lane=lane_of(schema, function, {"": made_id}),
            )
        )

    def _queue(self, op: Op) -> SendResult:
        try:
            self._shared.outbox.put(op)
        except TypeError as error:
            raise InvalidEditError(
                f"{op.target}: this cannot be written as JSON: {error}"
            ) from error
        return SendResult(queued=True, id=op.id)

    # --- what the worker says (delivery.Listener) -------------------------------------------------

    def leaving(self, ops: Sequence[Op]) -> None:
        with self.lock:
            for editor in self._shared.editors:
                if editor.overlay is not None:
                    editor.overlay.sent(op.id for op in ops)
            for op in ops:
                if op.kind == "insert" and unkeyed(op):
                    for editor in self._shared.editors_of(op.schema, op.target):
                        if editor.overlay is not None:
                            editor.overlay.expect([op.id])

    def settled(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]]) -> None:
        self._written(sum(op.kind in WRITES for op, _ in done))
        with self.lock:
            by_table: dict[tuple[str, str], list[tuple[Op, Mapping[str, Json] | None]]] = {}
            for op, row in done:
                by_table.setdefault((op.schema, op.target), []).append((op, row))
                report = self._shared.reports.pop(op.id, None)
                if report is not None:
                    report._settled(op.id)
            for (schema, target), some in by_table.items():
                for editor in self._shared.editors_of(schema, target):
                    editor.settled(some)

    def rebased(self, op: Op, records: Sequence[dict[str, Json]]) -> None:
        with self.lock:
            kept = self._shared.outbox.get(op.id)  # somebody may have decided before this is told
            for editor in self._shared.editors_of(op.schema, op.target):
                if kept is not None:
                    editor.lay([kept])
                if records:
                    editor.on_merge.tell(records)
        for record in records:
            what = f"{op.target} {', '.join(map(str, record['key'].values()))}"
            if record["open"]:
                self._note("conflict", f"{what}: {question(record)}")
            else:
                self._note("merged", f"{what}: {decision(record)}")

    def failed(self, op: Op) -> None:
        kept = (
            "it is still shown: retry or discard it"
            if op.kind in WRITES and not unkeyed(op)
            else "retry or discard it"
        )
        if unkeyed(op):
            with self.lock:
                for editor in self._shared.editors_of(op.schema, op.target):
                    if editor.overlay is not None:
                        editor.overlay.expect_no_more([op.id])
        self._note("failed", f"{op.target}: {op.error}; {kept} (rt.queue)")

    def columns_suspect(self, op: Op) -> None:
        for editor in self._shared.editors_of(op.schema, op.target):
            editor.columns_suspect()

    def stuck(self, words: str) -> None:
        self._note("failed", words)

    def elsewhere(self) -> None:
        """Show what another kernel on the file has queued, and settle what it has sent."""
        with self.lock:
            for editor in self._shared.editors:
                editor.catch_up()

    def tick(self) -> None:
        now = time.monotonic()
        with self.lock:
            for editor in self._shared.editors:
                if editor.overlay is not None:
                    editor.overlay.lower_shields(now)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards every overlay of the session."""
        return self._shared.lock
