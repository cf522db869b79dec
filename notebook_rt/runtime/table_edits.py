"""The writing side of one live table: its editor, and keys that are drawn or left to the server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from notebook_rt.edits.editor import Editor
from notebook_rt.edits.ops import Op, Put, Right
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.tabular import columns_of
from notebook_rt.errors import AnswerLostError, ClosedError, PermissionDeniedError, QueueError
from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.rows import Key
from notebook_rt.model.types import Column, canonical
from notebook_rt.outbox.key_cache import AHEAD, NoKeyDrawnError, ServerMakesKeyError
from notebook_rt.runtime.table import TableDriver
from notebook_rt.runtime.writes import OnMerge, Writes

MAX_TAKEN_KEYS = 1000
"""Maximum number of keys of a sequence that are tried for a row, while rows inserted elsewhere have them."""


class TableEdits(msgspec.Struct, frozen=True):
    """The writing side of one live table, as its ``LiveFrame`` holds it."""

    writes: Writes
    driver: TableDriver

    def _are_there(self, columns: Collection[str]) -> bool:
        """Return whether the table has these columns, as far as is known: a mistyped one needs no grant."""
        schema = self.driver.schema
        return schema is None or bool(self.driver.spec.columns) or {*columns} <= schema.types.keys()

    def open(self, right: Right | None = None, columns: Collection[str] = ()) -> Editor:
        """Return its editor, which then knows these columns even if no row has named them.

        The queue's file is made if it does not exist. Refuse a ``right`` that this login has no grant for, if
        the project reports its grants.
        """
        if right and not self.driver.grants.allow(right) and self._are_there(columns):
            spec, role = self.driver.spec, self.writes.project.credentials.role
            named = columns if right == "update" else ()
            raise PermissionDeniedError(spec.schema, spec.table, role, right, columns=named)
        self.driver.know(columns)
        editor = self.writes.opened().editors.get(self.driver)
        if editor is None:  # closed, perhaps while the columns were requested
            raise ClosedError(f'table "{self.driver.spec.table}"')
        return editor

    def known(self) -> Editor | None:
        """Return its editor, if there is a queue."""
        opened = self.writes.known()
        return None if opened is None else opened.editors.get(self.driver)

    def granted(self, right: Right) -> bool:
        """Return whether this login has the grant, as far as is known; never waits."""
        return self.driver.grants.allow_as_known(right)

    def insert(self, values: Mapping[str, Any]) -> Key:
        """Insert a row; missing parts of its key are made or drawn. Return the key."""
        editor = self.open("insert", values)
        wanted = editor.drawn(values)
        undrawn: ServerMakesKeyError | None = None
        try:
            row = {**values, **self._draw(editor, values, wanted)}
        except ServerMakesKeyError as error:
            undrawn = error
        # Outside of the except block: its error would be shown as the cause of what is raised here.
        if undrawn is not None:
            self._may_go_unkeyed(editor, wanted[-1], undrawn)
            return self._inserted(editor, wanted[-1], editor.insert_unkeyed(values))
        return editor.insert(row, *wanted[-1:])

    def write_many(
        self, data: object, *, upsert: bool = False, on: Sequence[str] = ()
    ) -> WriteReport:
        """Insert or upsert rows; missing parts of their keys are made or drawn."""
        editor = self.open("insert", columns_of(data))
        if upsert:
            editor = self.open("update")
        rows = editor.given(data, "upsert" if upsert else "insert", on)
        unkeyed = False
        for row in rows:
            wanted = editor.drawn(row.values)
            row.unkeyed = bool(wanted) and unkeyed
            if not wanted or unkeyed:
                continue
            try:
                row.values |= self._draw(editor, row.values, wanted)
                row.drawn = wanted[-1]
            except ServerMakesKeyError as why:
                self._may_go_unkeyed(editor, wanted[-1], why)
                row.unkeyed = unkeyed = True
        names = tuple(getattr(getattr(data, "index", None), "names", (None,)))
        report = editor.write_many(rows, upsert=upsert, name=names if len(names) > 1 else names[0])
        if unkeyed:
            self.writes.wait_for(editor, report.ops)
        return report

    def _may_go_unkeyed(self, editor: Editor, column: str, why: ServerMakesKeyError) -> None:
        """Raise if the server cannot make the key of a row right now."""
        held = "in a batch rows need their keys" if editor.in_batch else self.writes.held()
        if held:
            raise editor.keyless(column, f"{held}; {why}") from None

    def _inserted(self, editor: Editor, column: str, op: Op) -> Key:
        """Wait for a row whose key the server makes, and return that key.

        A row that has not been sent when the time is over is taken back, and so is one that was refused; the
        caller gets an error. A row that may have been inserted stays in the queue.
        """
        outbox, table = self.writes.outbox, editor.table
        self.writes.wait_for(editor, [op.id])
        left = outbox.get(op.id)
        if left is None:
            row = outbox.outcome(op.id)[1]
            if row is None:
                raise QueueError(f'table "{table}": the row was discarded before it was inserted')
            return editor.key_of(row)
        if left.state == "failed" and not left.sent:
            outbox.discard(op.id)
            raise editor.refusal(f"the server refuses the row: {left.error}")
        if outbox.take_back([Put(op)]):
            reason = f"cannot reach {self.writes.project.url}, and only the server makes it: "
            raise editor.keyless(column, reason + AHEAD)
        raise AnswerLostError(editor.schema_name, table, op.id)

    def _draw(
        self, editor: Editor, values: Mapping[str, Any], wanted: Sequence[str]
    ) -> dict[str, int]:
        """Draw the ``wanted`` columns of a new row's key; with ``values`` they form a key that no row has."""
        if not wanted:
            return {}
        for _ in range(MAX_TAKEN_KEYS):
            drawn = {column: self._take(editor, column) for column in wanted}
            if not editor.has({**values, **drawn}):
                return drawn
        raise editor.overtaken(wanted[-1])

    def _take(self, editor: Editor, column: str) -> int:
        try:
            return self.writes.keys.take((editor.schema_name, editor.table, column))
        except ServerMakesKeyError:
            raise
        except NoKeyDrawnError as error:
            raise editor.keyless(column, str(error)) from None

    def fills(self, column: Column) -> bool:
        """Return whether a new row may omit this column of the key, as far as is known."""
        spec, pg_type = self.driver.spec, canonical(column.pg_type)
        if pg_type in INT_LIMITS:
            if self.driver.machine.described.grants is not None and not column.filled:
                return False  # the table's description has neither a default nor a sequence
            return self.writes.draws((spec.schema, spec.table, column.name))
        return pg_type == "uuid"

    def on_merge(self, fn: OnMerge) -> Callable[[], None]:
        """Call ``fn`` with the records of each merge; return a function that stops it."""
        return self.writes.on_merge(self.driver, fn)

    def columns_suspect(self) -> None:
        """Read the columns again: the server refused something that they seemed to allow."""
        self.driver.columns_suspect()
