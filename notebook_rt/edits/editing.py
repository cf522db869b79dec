"""Local edits: from a user's call to an operation in the queue's file and a changed view.

There is one ``Editing`` per session: it holds the outbox, receives the worker's outcomes, and returns an
`Editor` per table. The order of an edit: the values are validated against the columns' types, the
operation is committed to the file, and only then the view shows it. If the disk is full, the error is
raised and nothing is shown. When a table is opened, its operations in the file are laid over it before
its first snapshot.

One lock guards every overlay of the session: callers that feed a mirror, or read a table that an overlay
writes, hold ``Editing.lock``.
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
    """The result of a broadcast or call: it is being sent (``queued=False``) or is in the queue."""

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
        Called with ``(kind, text)`` when something was merged, queued or failed.
    lock : context manager, optional
        Guards every overlay of the session; callers that feed the tables hold it, too.
    written : callable, optional
        Called with the number of rows whose write the server has accepted.
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
        """Return the editor of one live table.

        Parameters
        ----------
        changed : callable, optional
            Called with the changes that edits made to its view.
        columns_suspect : callable, optional
            Called when an edit was refused because of its columns, here or by the server.
        ordered : callable, optional
            Returns its shown view, if it has a limit.
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
        """Remove the editor of a closed table; its edits stay in the queue."""
        with self.lock, contextlib.suppress(ValueError):
            self._shared.editors.remove(editor)

    def strategies(self, op: Op) -> Strategies | None:
        """Return, for the worker, how the handle that made ``op`` merges, functions included, if one with
        these strategies is open here.
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
            Whether it may run twice. If not, and its answer is lost, it is set aside for the user.
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
                # Its own lane: a refused call does not block others (`may_pass` keeps their order).
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

    # --- outcomes from the worker (delivery.Listener) ---------------------------------------------

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
            kept = self._shared.outbox.get(op.id)  # a decision may have been made before this call
            for editor in self._shared.editors_of(op.schema, op.target):
                if kept is not None:
                    editor.overlay_ops([kept])
                if records:
                    editor.on_merge.notify(records)
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

    def stuck(self, message: str) -> None:
        self._note("failed", message)

    def elsewhere(self) -> None:
        """Show operations that another kernel on the file has queued, and settle those it has sent."""
        with self.lock:
            for editor in self._shared.editors:
                editor.catch_up()

    def tick(self) -> None:
        now = time.monotonic()
        with self.lock:
            for editor in self._shared.editors:
                if editor.overlay is not None:
                    editor.overlay.drop_shields(now)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards every overlay of the session."""
        return self._shared.lock
