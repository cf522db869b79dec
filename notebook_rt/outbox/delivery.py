"""Delivery of operations to the server: as statements or one by one, merged with the row where it changed.

``edits/statements.py`` defines what is sent, and ``decide.py`` what an answer means. ``Outcomes``
stores the outcome of each operation and reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from notebook_rt.edits import decide, statements
from notebook_rt.edits.listing import question
from notebook_rt.edits.merge import Strategies, rebase
from notebook_rt.edits.ops import Json, Op, changes_key, key_after, unkeyed
from notebook_rt.errors import QueueError
from notebook_rt.model.classify import NETWORK_WAIT
from notebook_rt.model.http import Answer
from notebook_rt.net.http import CancelledUnsentError, NoAnswerError
from notebook_rt.outbox.lease import LeaseLostError
from notebook_rt.outbox.outcomes import Outcomes
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import Rest
from notebook_rt.outbox.writing import Writer

_PARALLEL = 10
"""Rounds of statements between two checks that this kernel still holds the lease."""
_MERGES = 8
"""Number of times that one row is merged again before the worker handles the others."""

_DENIED = (
    "the server did nothing, though the row is as it was: a row-level security policy of {} does not "
    "let this login {} it, or a trigger of the table skipped it (BEFORE, returning NULL)"
)
_SKIPPED = (
    "the server inserted nothing, or this login may not see the row: a trigger of {} skipped it (BEFORE, "
    "returning NULL), or a row-level security policy hides it"
)


class _Job(msgspec.Struct):
    """The current state of an operation while it is carried out: merged again, with the row's version."""

    op: Op


class Delivery:
    """Delivery of operations to the server, and what is known about the server.

    Parameters are those of `Worker`.
    """

    def __init__(
        self,
        outbox: Outbox,
        rest: Rest,
        outcomes: Outcomes,
        clock: Callable[[], float],
        strategies: Callable[[Op], Strategies | None],
        at_once: int,
    ) -> None:
        self._outbox = outbox
        self._outcomes = outcomes
        self._left: set[str] = set()
        """Ids of the operations of this batch that may have been sent to the server."""
        self._clock = clock
        self._strategies = strategies
        self._at_once = at_once
        """Number of concurrent statements."""
        self._writer = Writer(rest)

    @property
    def many(self) -> bool:
        """Whether the server carries out many updates of any values in one request."""
        return bool(self._writer.many)

    def begin(self) -> None:
        """Reset the state for a new batch."""
        self._outcomes.waiting.clear()
        self._left.clear()

    async def interrupted(self, ops: Sequence[Op]) -> None:
        """Handle the early end of the batch ``ops``: operations that were not sent are not in doubt."""
        unsent = [op for op in ops if op.id not in self._left]
        if unsent:
            # If this cannot be stored, they are in doubt, and the user is asked.
            with contextlib.suppress(LeaseLostError, QueueError):
                await self._outcomes.store(self._outbox.unsent, unsent)

    @contextlib.contextmanager
    def _leaving(self, *ops: Op) -> Iterator[None]:
        """Track a request about ``ops`` that may have an effect."""
        ids = {op.id for op in ops} - self._left
        self._left |= ids
        try:
            yield
        except CancelledUnsentError:
            self._left -= ids
            raise

    async def send(self, group: Sequence[Op]) -> None:
        """Carry out operations that may be sent together."""
        self._outcomes.leaving(group)
        try:
            await self._send(group)
        finally:  # it is not taken again before it is stored
            await self._outcomes.settled()

    async def _send(self, group: Sequence[Op]) -> None:
        kind = group[0].kind
        if kind == "broadcast":
            return await self._broadcast(group)
        if kind == "insert":
            if unkeyed(group[0]):
                return await self._insert_unkeyed(group)
            if len(group) > 1:
                return await self._write_all(group)
        if kind == "update":
            group = await self._choose_way(group)
        if group:
            await self._each(statements.split(group, many=self.many))
        return None

    async def probe_many(self, groups: Sequence[Sequence[Op]]) -> bool:
        """Check once, if many rows wait, whether the server has the function for them.

        Return False if there was no answer; then all of them wait.
        """
        of_rows = [group for group in groups if group[0].kind in ("update", "delete")]
        if self._writer.many is not None or sum(map(len, of_rows)) < 2:
            return True
        try:
            await self._writer.probe_many(of_rows[0][0])
        except NoAnswerError as error:
            await self._outcomes.no_answer([op for group in groups for op in group], error)
            return False
        return True

    async def _each(self, parts: Sequence[Sequence[Op]]) -> None:
        """Carry out updates of different rows, several statements at a time."""
        at_once = _PARALLEL * self._at_once
        for place in range(0, len(parts), at_once):
            some = parts[place : place + at_once]
            if place:
                if self._outcomes.stopped:
                    await self._outcomes.put_back([op for ops in parts[place:] for op in ops])
                    break
                await self._outcomes.still_ours()
            left = iter(some)
            ways = (self._in_turn(left) for _ in range(min(self._at_once, len(some))))
            # Wait for all of them, even if some fail: none may continue during the next step.
            ends = await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException):
                    raise end

    async def _in_turn(self, parts: Iterator[Sequence[Op]]) -> None:
        """Carry out one statement after the other, until none is left or may be sent."""
        for ops in parts:
            if self._outcomes.stopped:
                await self._outcomes.put_back(ops)
            elif ops[0].kind == "insert" and unkeyed(ops[0]):
                await self._insert_unkeyed(ops)
            elif len(ops) == 1:
                await self._one(ops[0])
            elif self.many and ops[0].kind != "insert":
                await self._write_many(ops)
            else:
                await self._write_all(ops)

    async def _choose_way(self, group: Sequence[Op]) -> Sequence[Op]:
        """Store which sums go through the ledger, before they are sent; return what may still be sent.

        A sum that was taken, but for which neither this nor a row's version was noted, was never sent: in
        both cases the note is durable first. So the user need not be asked about it, even if the ledger
        does not exist (any more).
        """
        sums = [op for op in group if statements.only_once(op)]
        if not sums:
            return group
        if self._writer.ledger is None:
            try:
                problem = await self._writer.probe_ledger(sums[0])
            except NoAnswerError as error:
                await self._outcomes.no_answer(sums, error)
                return [op for op in group if op not in sums]
            if problem is not None:
                await self._outcomes.no_all(sums, problem, read=True)
                return [op for op in group if op not in sums]
        ready = []
        for op in group:
            if op in sums and not (op.untold or op.xmin):
                op = replace(op, sent=False)
                if self._writer.ledger:
                    noted = replace(op, sent=True, untold=True)
                    await self._outcomes.store(self._outbox.back, noted)
                    op = replace(op, untold=True)
            ready.append(op)
        return ready

    # --- one operation ---------------------------------------------------------------------------

    async def _one(self, op: Op) -> None:
        job = _Job(op)
        try:
            with self._leaving(op):
                if op.kind == "rpc":
                    await self._call(op)
                elif self._writer.ledger and statements.only_once(op):
                    await self._add(job)
                else:
                    await self._write(job)
        except NoAnswerError as error:
            await self._outcomes.no_answer([job.op], error)
            return
        self._outcomes.offline = False

    async def _write_all(self, group: Sequence[Op]) -> None:
        """Write several rows in one statement; those that the server did not take are sent one by one.

        A statement that is refused because of one row is halved, until that row is alone.
        """
        try:
            with self._leaving(*group):
                answer = await self._writer.write_all(group)
        except NoAnswerError as error:
            await self._outcomes.no_answer(group, error)
            return
        self._outcomes.offline = False
        rows = answer.body if isinstance(answer.body, list) and answer.status < 300 else []
        there = {decide.row_key(group[0], row): row for row in rows}
        done = [
            (op, None if op.kind == "delete" else there[key])
            for op in group
            if (key := decide.row_key(op, op.key)) in there
        ]
        if done:
            self._outcomes.settle(*done)
        taken = {one.id for one, _ in done}
        left = [op for op in group if op.id not in taken]
        if left and await self._outcomes.later(left, answer):
            return
        ruling, timed_out = decide.judge(answer, 0, 0.0), decide.timed_out(answer)
        if ruling.lost and not timed_out:
            left = [replace(op, sent=True) for op in left]
        if (ruling.meaning == "refused" or timed_out) and group[0].kind != "update":
            if group[0].upsert and decide.as_update(group[0], answer) is not None:
                await self._each([[op] for op in left])
            else:
                await self._halves(left)
            return
        if group[0].kind == "update":
            await self._each([[op] for op in left])
            return
        for op in left:
            if self._outcomes.stopped or self._outcomes.waiting:
                await self._outcomes.put_back([op])
            else:
                await self._outcomes.still_ours()
                await self._one(op)

    async def _insert_unkeyed(self, group: Sequence[Op]) -> None:
        """Insert rows whose keys the server generates: once, even if the answer is lost.

        Without an answer it is unknown whether the rows were inserted, so they are set aside.
        """
        for op in group:
            if op.sent:
                await self._outcomes.fail(op, decide.LOST)
        new = [op for op in group if not op.sent]
        if not new:
            return
        try:
            with self._leaving(*new):
                answer = await self._writer.insert_unkeyed(new)
        except NoAnswerError as error:
            if not error.sent:
                await self._outcomes.no_answer(new, error)
                return
            for op in new:
                await self._outcomes.fail(replace(op, sent=True), f"{decide.LOST} ({error.reason})")
            return
        self._outcomes.offline = False
        ruling = decide.judge(answer, 0, 0.0)
        rows = answer.body if isinstance(answer.body, list) else []
        if ruling.meaning == "done" and len(rows) == len(new):
            self._outcomes.settle(*zip(new, rows, strict=True))
        elif ruling.meaning == "done" or (ruling.lost and not decide.timed_out(answer)):
            message = ruling.message or f"{len(rows)} rows came back of {len(new)}"
            for op in new:
                await self._outcomes.fail(replace(op, sent=True), f"{decide.LOST} ({message})")
        elif len(new) > 1 and (ruling.meaning == "refused" or decide.timed_out(answer)):
            await self._halves(new)
        else:
            await self._outcomes.no_all(new, answer, read=decide.timed_out(answer))

    async def _write_many(self, group: Sequence[Op]) -> None:
        """Send updates or deletes by the function that carries out each; send the rest one by one."""
        try:
            with self._leaving(*group):
                answer = await self._writer.send(statements.through_many(group))
        except NoAnswerError as error:
            await self._outcomes.no_answer(group, error)
            return
        self._outcomes.offline = False
        results = decide.results_of(answer, len(group))
        if results is None:
            ruling = decide.judge(answer, 0, 0.0)
            if decide.no_ledger(answer) or ruling.meaning == "done":  # dropped or replaced since
                self._writer.many = False
            elif len(group) > 1 and (ruling.meaning == "refused" or decide.timed_out(answer)):
                await self._halves(group)
                return
            elif await self._outcomes.later(group, answer):
                return
            if ruling.lost or ruling.meaning == "done":
                group = [replace(op, sent=True) for op in group]
            await self._each([[op] for op in group])
            return
        alone = []
        for op, result in zip(group, results, strict=True):
            if result is None or (result.status >= 300 and not decide.is_final(result)):
                alone.append([op])
            elif result.status >= 300:
                await self._outcomes.no(op, result)
            else:
                self._outcomes.settle((op, None if op.kind == "delete" else result.body[0]))
        await self._each(alone)

    async def _halves(self, group: Sequence[Op]) -> None:
        """Carry out a refused statement as two, one after the other."""
        middle = (len(group) + 1) // 2
        for half in filter(None, (group[:middle], group[middle:])):
            if self._outcomes.stopped or self._outcomes.waiting:
                await self._outcomes.put_back(half)
                continue
            await self._outcomes.still_ours()
            await self._in_turn(iter([half]))

    async def _write(self, job: _Job) -> None:
        """Insert, update or delete a row, if it is what the operation was based on."""
        if job.op.upsert:
            await self._upsert(job.op)
            return
        denied = False
        for _ in range(_MERGES):
            by_xmin = False
            if statements.needs_version(job.op) or (denied and self._writer.gives_xmin(job.op)):
                ready = await self._compare_first(job)
                if ready is None:
                    return
                if not ready:
                    continue
                by_xmin = bool(job.op.xmin)
            op = job.op
            answer = await self._writer.write(op, by_xmin=by_xmin)
            if op.kind == "insert" and decide.forbidden(answer):
                await self._insert_unseen(op)
                return
            if answer.status >= 300:
                await self._outcomes.no(op, answer)
                return
            if isinstance(answer.body, list) and answer.body:
                self._outcomes.settle((op, None if op.kind == "delete" else answer.body[0]))
                return
            row, problem = await self._writer.fetch(op)
            if row is None and problem is None and op.sent and changes_key(op):
                problem, settled = await self._settle_moved(op)
                if settled:
                    return
            if problem is not None:
                await self._outcomes.no(op, problem, read=True)
                return
            if row is not None and op.kind != "insert" and decide.unchanged(op, row):
                # Once more by the row's version: the server may distinguish values that are equal here.
                if denied and (not by_xmin or str(row.get("xmin")) == op.xmin):
                    await self._outcomes.fail(op, _DENIED.format(op.target, op.kind))
                    return
                denied = True
            elif row is None and op.kind == "insert":
                await self._outcomes.fail(op, _SKIPPED.format(op.target))
                return
            elif row is not None and op.drawn and not op.sent and not decide.written(op, row):
                await self._outcomes.fail(op, decide.taken(op))
                return
            elif not await self._merge(job, row, None):
                return
        await self._outcomes.back(job.op, until=self._clock() + NETWORK_WAIT)

    async def _upsert(self, op: Op) -> None:
        """Insert a row, or set its columns; repeating it is harmless, so a lost answer is not asked about."""
        answer = await self._writer.write(op)
        update = decide.as_update(op, answer)
        if update is not None:
            updated = await self._writer.write(update)
            if updated.status >= 300 or updated.body:
                answer = updated
        if answer.status >= 300:
            await self._outcomes.no(op, answer)
        elif isinstance(answer.body, list) and answer.body:
            self._outcomes.settle((op, answer.body[0]))
        else:
            await self._outcomes.fail(op, _SKIPPED.format(op.target))

    async def _insert_unseen(self, op: Op) -> None:
        """Insert a row that may not be read: without returning it or comparing its key."""
        answer, row = await self._writer.insert_unseen(op)
        in_already = op.sent and op.own_key and decide.same_key(op, answer)
        if in_already or decide.judge(answer, 0, 0.0).meaning == "done":
            self._outcomes.settle((op, row))
        else:
            await self._outcomes.no(op, answer)

    async def _settle_moved(self, op: Op) -> tuple[Answer | None, bool]:
        """Settle a write that changed its row's key, and whose answer was lost, if the row is there.

        The first item is the answer that explains why this could not be determined.
        """
        row, problem = await self._writer.fetch(replace(op, key=key_after(op)))
        if row is None or not decide.may_have_moved(op, row):
            return problem, False
        self._outcomes.settle((op, row))
        return None, True

    async def _compare_first(self, job: _Job) -> bool | None:
        """Compare here the values that the server cannot compare, and note the row's version for the write.

        Return True to write, False if it was merged and must be looked up again, None if it has ended.
        """
        op = job.op
        row, problem = await self._writer.fetch(op)
        if problem is not None:
            await self._outcomes.no(op, problem, read=True)
            return None
        if row is None and op.sent and changes_key(op):
            problem, settled = await self._settle_moved(op)
            if problem is not None:
                await self._outcomes.no(op, problem, read=True)
            if settled or problem is not None:
                return None
        moved = None
        if op.xmin and row is not None and "xmin" in row:
            moved = str(row["xmin"]) != op.xmin
        lost = op.sent and moved is not False
        if row is None or lost or not decide.unchanged(op, row):
            return False if await self._merge(job, row, moved) else None
        if "xmin" in row:
            # Durable before it is sent: after a lost answer it shows whether the row changed.
            job.op = replace(op, xmin=str(row["xmin"]))
            await self._outcomes.store(self._outbox.back, replace(job.op, sent=True))
        elif statements.only_once(op):
            job.op = replace(op, untold=True)
            await self._outcomes.store(self._outbox.back, replace(job.op, sent=True))
        else:
            await self._outcomes.fail(
                op, "the server can neither compare a changed column nor give xmin"
            )
            return None
        return True

    async def _add(self, job: _Job) -> None:
        """Send an update with sums or unions, exactly once through the ledger."""
        for _ in range(_MERGES):
            op = job.op
            answer = await self._writer.send(statements.through_ledger(op))
            if decide.no_ledger(answer):  # dropped since: what was sent before is in doubt
                self._writer.ledger = False
                await self._write(job)
                return
            if answer.code != "NRT01":
                if decide.judge(answer, 0, 0.0).meaning != "done":
                    await self._outcomes.no(op, answer)
                    return
                row = answer.body.get("row") if isinstance(answer.body, dict) else None
                self._outcomes.settle((op, row))
                return
            # Its id is not in the ledger: it was certainly not applied.
            job.op = replace(op, sent=False)
            row, problem = await self._writer.fetch(op)
            if problem is not None:
                await self._outcomes.no(job.op, problem, read=True)
                return
            if not await self._merge(job, row, None):
                return
            if not statements.only_once(job.op):
                await self._write(job)
                return
        await self._outcomes.back(job.op, until=self._clock() + NETWORK_WAIT)

    async def _call(self, op: Op) -> None:
        if op.sent and not op.repeatable:
            message = "its answer was lost, so it may have run: retry it if it may run twice"
            return await self._outcomes.fail(op, message)
        answer = await self._writer.send(statements.call(op))
        if decide.judge(answer, 0, 0.0).meaning != "done":
            return await self._outcomes.no(op, answer)
        return self._outcomes.settle((op, None))

    async def _broadcast(self, group: Sequence[Op]) -> None:
        try:
            with self._leaving(*group):
                answer = await self._writer.send(statements.broadcast(group))
        except NoAnswerError as error:
            await self._outcomes.no_answer(group, error)
            return
        self._outcomes.offline = False
        if decide.judge(answer, 0, 0.0).meaning == "done":
            self._outcomes.settle(*((op, None) for op in group))
        else:
            await self._outcomes.no_all(group, answer)

    async def _merge(self, job: _Job, row: dict[str, Json] | None, moved: bool | None) -> bool:
        """Merge with the current row; return False if nothing is left to send (now)."""
        op = job.op
        strategies = self._strategies(op) or decide.strategies_of(op)
        typed = None if row is None else decide.row_of(op, row)
        left = rebase(decide.edit_of(op), typed, strategies, self._clock(), moved=moved)
        records = [decide.record_of(op, conflict) for conflict in left.conflicts]
        if records:
            records = await self._outcomes.on_disk(self._outbox.unrecorded, op, records)
        if left.open:
            asked = [question(record) for record in records if record["open"]]
            asking = replace(decide.in_doubt(op, left), state="asking", error="; ".join(asked))
            await self._outcomes.merged(asking, records)
            return False
        if left.edit is None:
            await self._outcomes.merged_away(op, row, records)
            return False
        job.op = decide.op_of(op, left)
        await self._outcomes.merged(replace(job.op, sent=True), records)  # it is sent again at once
        return True
