"""Requests for operations, as far as the server permits this login to read rows back.

Its input is operations, its output the server's answers. A login may be allowed to read only some columns
of a table, or to insert rows that it may not see. If a request is refused because of what it reads back,
it is repeated with less, and that is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from notebook_rt.edits import decide, statements
from notebook_rt.edits.ops import Json, Op
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.http import NoAnswerError
from notebook_rt.outbox.rest import Rest

TableName: TypeAlias = tuple[str, str]


class Writer:
    """The requests of operations, and what they have shown about the server."""

    def __init__(self, rest: Rest) -> None:
        self.ledger: bool | None = None
        """Whether the server has the function for sums; None: not checked yet (`probe_ledger`)."""
        self.many: bool | None = None
        """Whether it has the function for many operations; None: not checked yet (`probe_many`)."""
        self._rest = rest
        self._no_xmin: set[TableName] = set()
        self._narrow: set[TableName] = set()
        """Tables with columns that may not be read."""

    def gives_xmin(self, op: Op) -> bool:
        """Return whether the operation's table may have a version of each row."""
        return not {_table(op)} & (self._no_xmin | self._narrow)

    async def probe_ledger(self, op: Op) -> Answer | None:
        """Check whether there is a ledger; return the answer if it leaves that open."""
        try:
            answer = await self.send(statements.ledger_probe(op))
        except NoAnswerError as error:
            error.sent = False  # nothing matched
            raise
        if decide.no_ledger(answer):
            self.ledger = False
        elif decide.judge(answer, 0, 0.0).meaning in ("refresh", "wait"):
            return answer
        else:
            self.ledger = True
        return None

    async def probe_many(self, op: Op) -> None:
        """Check whether there is a function for many operations, if the answer shows it."""
        try:
            answer = await self.send(statements.many_probe(op))
        except NoAnswerError as error:
            error.sent = False  # it asks for nothing
            raise
        if decide.no_ledger(answer):
            self.many = False
        elif decide.judge(answer, 0, 0.0).meaning in ("done", "refused"):
            self.many = decide.results_of(answer, 0) is not None

    async def send(self, request: Request) -> Answer:
        return await self._rest.send(request)

    async def write(self, op: Op, *, by_xmin: bool = False) -> Answer:
        """Send the conditional write, and return the row with the answer."""
        table = _table(op)
        answer = await self.send(
            statements.write(op, by_xmin=by_xmin, narrow=table in self._narrow)
        )
        if answer.status >= 400 and decide.forbidden(answer) and table not in self._narrow:
            answer = await self.send(statements.write(op, by_xmin=by_xmin, narrow=True))
            if not decide.forbidden(answer):
                self._narrow.add(table)
        return answer

    async def write_all(self, group: Sequence[Op]) -> Answer:
        """Send several inserts, deletes or updates as one statement."""
        return await self.send(statements.write_all(group, narrow=_table(group[0]) in self._narrow))

    async def insert_unkeyed(self, group: Sequence[Op]) -> Answer:
        """Insert rows whose keys the server generates, and return the rows; a refusal had no effect."""
        table = _table(group[0])
        answer = await self.send(statements.insert_unkeyed(group, narrow=table in self._narrow))
        if decide.forbidden(answer) and table not in self._narrow:
            answer = await self.send(statements.insert_unkeyed(group, narrow=True))
            if not decide.forbidden(answer):
                self._narrow.add(table)
        return answer

    async def insert_unseen(self, op: Op) -> tuple[Answer, dict[str, Json] | None]:
        """Insert a row that may not be read when it is written; return the answer, and the row if it can be
        read afterwards.

        For example, a trigger that makes its owner a member runs after the policy is checked.
        """
        answer = await self.send(statements.write(op, unseen=True))
        if decide.judge(answer, 0, 0.0).meaning != "done":
            return answer, None
        try:
            row, _ = await self.fetch(op)
        except NoAnswerError:  # it was inserted nevertheless
            row = None
        return answer, row

    async def fetch(self, op: Op) -> tuple[dict[str, Json] | None, Answer | None]:
        """Return the server's current row, or the answer that explains why it cannot be read."""
        table = _table(op)
        try:
            answer = await self._fetch(op)
            if answer.status == 400 and self.gives_xmin(op):
                self._no_xmin.add(table)
                answer = await self._fetch(op)
                if not 200 <= answer.status < 300:  # that was not the cause
                    self._no_xmin.discard(table)
            if decide.forbidden(answer) and table not in self._narrow:
                self._narrow.add(table)
                answer = await self._fetch(op)
                if not 200 <= answer.status < 300:
                    self._narrow.discard(table)
        except NoAnswerError as error:
            error.sent = False  # a read that is lost has no effect
            raise
        if not 200 <= answer.status < 300:
            return None, answer
        if not isinstance(answer.body, list):  # an intermediary has answered
            return None, Answer(502, f"no answer of the REST interface: {answer.body}")
        return (answer.body[0] if answer.body else None), None

    async def _fetch(self, op: Op) -> Answer:
        narrow = _table(op) in self._narrow
        return await self.send(statements.fetch(op, xmin=self.gives_xmin(op), narrow=narrow))


def _table(op: Op) -> TableName:
    return op.schema, op.target
