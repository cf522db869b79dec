"""Outcomes of operations: stored durably first, then reported.

Its input is what the server did with operations, and its error answers. Its output is the queue's file
and calls of a ``Listener``. The file is read and written on a separate thread, so that neither a disk
sync nor another kernel's lock delays the heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from notebook_rt.edits import decide
from notebook_rt.edits.decide import Ruling
from notebook_rt.edits.ops import WRITES, Json, Op, unkeyed
from notebook_rt.errors import QueueError
from notebook_rt.model.classify import NETWORK_WAIT
from notebook_rt.model.http import Answer
from notebook_rt.net.http import NoAnswerError
from notebook_rt.outbox.lease import LeaseLostError
from notebook_rt.outbox.queue import Outbox

logger = logging.getLogger("notebook_rt")
T = TypeVar("T")


class Listener(Protocol):
    """Receives the outcomes of operations; called on the loop thread, after they are durable."""

    def leaving(self, ops: Sequence[Op]) -> None:
        """The operations are being sent."""

    def settled(self, done: Sequence[tuple[Op, Mapping[str, Json] | None]]) -> None:
        """The operations are done; with the rows that the server returned, if any."""

    def rebased(self, op: Op, records: Sequence[dict[str, Json]]) -> None:
        """An operation was merged with the server's row; ``op`` is what is left to send, or asks."""

    def failed(self, op: Op) -> None:
        """An operation was set aside, with the server's error message."""

    def columns_suspect(self, op: Op) -> None:
        """An operation was refused because of a column's properties: what is known of them may be stale."""

    def stuck(self, message: str) -> None:
        """Nothing is sent: the queue's file cannot be written."""

    def elsewhere(self) -> None:
        """Another process wrote to the file."""

    def tick(self) -> None:
        """Called about twice a second."""


class Outcomes:
    """See the module; also tracks what the outcomes imply for what may be sent next.

    Parameters are those of `Worker`.
    """

    def __init__(
        self,
        outbox: Outbox,
        listener: Listener,
        clock: Callable[[], float],
        random: Callable[[], float],
        max_attempts: int,
    ) -> None:
        self.offline = False
        """Whether the last request found no network."""
        self.unauthorized = ""
        """The server's message when it refused the login, until there is a new login."""
        self.retry_at = 0.0
        """Time before which nothing is sent."""
        self.waiting: list[Op] = []
        """Taken with this batch, then returned to the queue: dependent later operations must wait."""
        self.ended = 0
        """Number of operations that have ended here: they are settled, set aside, or ask."""
        self._outbox = outbox
        self._listener = listener
        self._clock = clock
        self._random = random
        self._max_attempts = max_attempts
        self._done: list[tuple[Op, Json]] = []
        """Done operations that are not stored yet."""
        self._settling: asyncio.Task[None] | None = None
        """The task that will store them, together with all that are done by then."""
        self._settlings: set[asyncio.Task[None]] = set()
        self._committing = asyncio.Lock()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="notebook_rt-outbox")

    @property
    def stopped(self) -> bool:
        """Whether nothing may be sent now."""
        return bool(self.unauthorized) or (self.retry_at > 0 and self.retry_at > self._clock())

    async def still_ours(self) -> None:
        """Extend the lease; raise `LeaseLostError` if another kernel holds it."""
        if not await self.on_disk(self._outbox.lease, self._clock()):
            raise LeaseLostError(f"another kernel sends from {self._outbox.path} now")

    def leaving(self, ops: Sequence[Op]) -> None:
        """Report that operations are being sent."""
        self.notify(self._listener.leaving, ops)

    def settle(self, *done: tuple[Op, dict[str, Json] | None]) -> None:
        """Schedule storing and reporting operations as done; `settled` waits for it."""
        self._done += done
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle_done())
            self._settlings.add(self._settling)

    async def _settle_done(self) -> None:
        """Store, in one commit that waits for the disk, everything done by the end of the previous commit."""
        async with self._committing:
            done, self._done, self._settling = self._done, [], None
            await self.store(self._outbox.settle_all, done)
            self.ended += len(done)
        self.notify(self._listener.settled, done)

    async def settled(self) -> None:
        """Wait until everything done is stored; raise the error if it could not be."""
        some = set(self._settlings)
        # What the server has done is stored in any case: a cancelled caller must not cancel it.
        ends = await asyncio.shield(asyncio.gather(*some, return_exceptions=True))
        self._settlings -= some
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def merged(self, op: Op, records: Sequence[dict[str, Json]]) -> None:
        """Store that an operation was merged with the server's row; ``op`` is what is left, or asks."""
        await self.store(self._outbox.back, op, records)
        self.ended += op.state == "asking"
        self.notify(self._listener.rebased, op, records)

    async def merged_away(
        self, op: Op, row: dict[str, Json] | None, records: Sequence[dict[str, Json]]
    ) -> None:
        """Store that an operation was merged with the server's row, and nothing is left to send."""
        await self.store(self._outbox.settle, op, row, records)
        self.ended += 1
        if records:
            self.notify(self._listener.rebased, op, records)
        self.notify(self._listener.settled, [(op, row)])

    async def no(self, op: Op, answer: Answer, *, read: bool = False) -> None:
        """Handle an error answer; one to a ``read`` has no effect that could be lost."""
        await self.no_all([op], answer, read=read)

    async def no_all(self, ops: Sequence[Op], answer: Answer, *, read: bool = False) -> None:
        """Handle the error answer to several operations, in one commit."""
        jitter = self._random() * 0.2
        rulings = [self._judged(op, answer, jitter, read) for op in ops]
        waiting: list[Op] = []
        failed: list[tuple[Op, Ruling]] = []
        for op, ruling in rulings:
            if ruling.meaning == "refresh":
                self.unauthorized = ruling.message
                waiting.append(replace(op, state="waiting", not_before=0.0, error=""))
            elif ruling.meaning == "wait":
                if answer.status == 429:
                    self.retry_at = max(self.retry_at, ruling.until)
                until, message = ruling.until, ruling.message
                waiting.append(replace(op, state="waiting", not_before=until, error=message))
            else:
                failed.append((_park(op, ruling.message), ruling))
        self.waiting += waiting
        await self.store(self._outbox.back_all, [*waiting, *(op for op, _ in failed)])
        self.ended += len(failed)
        for op, ruling in failed:
            self.notify(self._listener.failed, op)
            if ruling.columns:
                self.notify(self._listener.columns_suspect, op)

    def _judged(self, op: Op, answer: Answer, jitter: float, read: bool) -> tuple[Op, Ruling]:
        """Return the operation's new state, and what the answer means for it, with a message for the user."""
        ruling = decide.judge(answer, op.attempts, self._clock(), jitter, self._max_attempts)
        if read:
            ruling = replace(ruling, lost=False)
        elif op.kind != "broadcast" and decide.forbidden(answer):
            ruling = replace(
                ruling, message=ruling.message + decide.lacking(op, answer, self._outbox.role)
            )
        elif unkeyed(op) and decide.lacks_value(answer):
            ruling = replace(ruling, message=f"{ruling.message}; {decide.UNFILLED}")
        elif op.kind in WRITES and decide.renamed(answer):
            ruling = replace(ruling, message=f"{ruling.message}; {decide.RENAMED}")
        op = replace(op, attempts=op.attempts + ruling.counts, sent=op.sent or ruling.lost)
        return op, ruling

    async def later(self, group: Sequence[Op], answer: Answer) -> bool:
        """Return a statement's rows to the queue if the answer makes all of them wait, or needs a new login.

        Not rows that would be set aside: each is sent on its own, since one of them may cause the server's
        failure. Nor those of a statement that timed out, which takes less time in parts.
        """
        attempts = max(op.attempts for op in group)
        ruling = decide.judge(answer, attempts, 0.0, max_attempts=self._max_attempts)
        if ruling.meaning not in ("wait", "refresh") or decide.timed_out(answer):
            return False
        await self.no_all(group, answer)
        return True

    async def no_answer(self, ops: Sequence[Op], error: NoAnswerError) -> None:
        """Handle a missing network: the operations wait, and it does not count as an attempt."""
        self.offline = True
        wait = NETWORK_WAIT * (1 + 0.2 * self._random())
        self.retry_at = max(self.retry_at, self._clock() + wait)
        waiting = [
            replace(op, sent=op.sent or error.sent, state="waiting", not_before=0.0, error="")
            for op in ops
        ]
        self.waiting += waiting
        await self.store(self._outbox.back_all, waiting)

    async def put_back(self, ops: Sequence[Op]) -> None:
        """Return operations that were marked as sent when they were taken, but were not sent."""
        await self.store(self._outbox.back_all, ops)
        self.waiting += ops

    async def back(self, op: Op, *, until: float) -> None:
        self.waiting.append(op)
        await self.store(
            self._outbox.back, replace(op, state="waiting", not_before=until, error="")
        )

    async def fail(self, op: Op, message: str) -> None:
        failed = _park(op, message)
        await self.store(self._outbox.back, failed)
        self.ended += 1
        self.notify(self._listener.failed, failed)

    def notify(self, fn: Callable[..., object], *args: object) -> None:
        """Notify a listener. The outcome is already durable, so a listener that fails stops nothing."""
        try:
            fn(*args)
        except Exception:
            logger.exception("the queue's worker: telling what happened")

    # --- the file --------------------------------------------------------------------------------

    async def on_disk(self, fn: Callable[..., T], *args: Any) -> T:
        """Call a function that reads or writes the file, on the thread for it."""
        try:
            done = asyncio.get_running_loop().run_in_executor(self._disk, fn, *args)
        except RuntimeError:  # Python is ending: no executor takes work any more
            return fn(*args)
        return await done

    async def store(self, fn: Callable[..., None], *args: Any) -> None:
        """Store a change, and notify the queue's subscribers."""
        await self.on_disk(fn, *args)
        self.notify(self._outbox.notify)

    async def end(self) -> None:
        """Store what is done, and let another kernel send."""
        await asyncio.gather(*self._settlings, return_exceptions=True)
        try:
            await self.on_disk(self._outbox.release)
        except QueueError as error:  # it expires
            logger.warning("the queue: %s", error)
        self._disk.shutdown(wait=False)


def _park(op: Op, message: str) -> Op:
    return replace(op, state="failed", error=message, attempts=max(1, op.attempts))
