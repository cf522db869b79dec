"""The worker: takes operations from the queue's head, ten at a time, as long as there are any.

It runs on the loop thread. ``delivery`` carries operations out and ``outcomes`` handles their results.
Between two batches it checks the file for operations of other kernels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from notebook_rt.edits import statements
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.ops import Op, may_pass
from notebook_rt.errors import QueueError
from notebook_rt.outbox.delivery import Delivery
from notebook_rt.outbox.lease import LeaseLostError
from notebook_rt.outbox.outcomes import Listener, Outcomes
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.rest import Rest

logger = logging.getLogger("notebook_rt")

WATCH_SECONDS = 0.5
"""Interval at which the file is checked for other kernels' changes, and unsent operations are synced."""


class Worker:
    """Drains an outbox.

    Parameters
    ----------
    outbox, rest, listener
        The queue, the connection to the server, and the listener for outcomes.
    clock : callable
        Seconds since the epoch, in server time.
    random : callable
        A number in [0, 1), for jitter.
    strategies : callable, optional
        How an operation merges, with the functions, if a frame with these strategies is open here.
    """

    def __init__(
        self,
        outbox: Outbox,
        rest: Rest,
        listener: Listener,
        *,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = lambda: 0.0,
        strategies: Callable[[Op], Strategies | None] = lambda op: None,
        batch: int = 10,
        max_attempts: int = 3,
    ) -> None:
        self.outbox = outbox
        self.paused = False
        self.outcomes = Outcomes(outbox, listener, clock, random, max_attempts)
        self.delivery = Delivery(outbox, rest, self.outcomes, clock, strategies, batch)
        self._listener = listener
        self._clock = clock
        self._batch = batch
        self.waking = asyncio.Event()
        """Set when there may be new operations in the queue."""
        self._busy = asyncio.Lock()
        self._taking = asyncio.Lock()
        self._changed = -1
        self._problem = ""
        """The last logged reason why nothing is sent."""

    async def undecided(self) -> tuple[tuple[int, Op | None], tuple[int, Op | None]]:
        """Return how many operations were refused, and how many ask, each with the last of them."""
        return await self.outcomes.on_disk(self.outbox.undecided)

    # --- from outside, on the loop thread --------------------------------------------------------

    def wake(self) -> None:
        """Continue at once after a change: a new operation, the network, the login."""
        self.outcomes.unauthorized = ""
        self.outcomes.retry_at = 0.0
        self.waking.set()

    def pause(self) -> None:
        """Stop sending until `resume`; operations in flight are still settled."""
        self.paused = True

    async def taken(self) -> None:
        """Wait until the take from the queue in progress has ended."""
        async with self._taking:
            pass

    def resume(self) -> None:
        self.paused = False
        self.wake()

    async def run(self) -> None:
        """Drain the queue as it fills, until cancelled."""
        watch_at = 0.0
        try:
            while True:
                self.waking.clear()
                ended = 0
                try:
                    if time.monotonic() >= watch_at:
                        await self._watch()
                        watch_at = time.monotonic() + WATCH_SECONDS
                    ended = await self.step()
                    self._problem = ""
                except LeaseLostError:
                    pass  # the kernel that now holds the lease continues
                except Exception as error:
                    self._say(error)
                    await asyncio.sleep(WATCH_SECONDS)
                if not (ended and self.outbox.more):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(0.0, watch_at - time.monotonic())):
                            await self.waking.wait()
        finally:
            await self.outcomes.end()

    async def step(self) -> int:
        """Take a batch and carry it out; return the number of operations that ended."""
        delivery, outcomes = self.delivery, self.outcomes
        async with self._busy:
            async with self._taking:
                if self.paused or outcomes.stopped:
                    return 0
                limit = 1 if outcomes.offline else self._batch
                many = delivery.many
                ops = await outcomes.on_disk(self.outbox.take, limit, self._clock(), many)
            try:
                return await self._carry_out(ops, many)
            except BaseException:
                await delivery.interrupted(ops)
                raise

    async def _carry_out(self, ops: Sequence[Op], many: bool) -> int:
        delivery, outcomes = self.delivery, self.outcomes
        groups = statements.runs(ops, many=many)
        before = outcomes.ended
        delivery.begin()
        several = self.outbox.more or len(ops) > self._batch
        if several and not await delivery.probe_many(groups):
            return 0
        for place, group in enumerate(groups):
            if outcomes.stopped or not all(may_pass(group[0], one) for one in outcomes.waiting):
                await outcomes.put_back(group)
                continue
            if place:  # the first group is sent right after its take extended the lease
                await outcomes.still_ours()
            await delivery.send(group)
        return outcomes.ended - before

    # --- the file --------------------------------------------------------------------------------

    def _say(self, error: Exception) -> None:
        """Report why nothing is sent, once for repeated errors."""
        if str(error) == self._problem:
            return
        self._problem = str(error)
        if isinstance(error, QueueError):
            logger.warning("the queue's worker tries again and again: %s", error)
            self.outcomes.notify(self._listener.stuck, self._problem)
        else:
            logger.error("the queue's worker tries again and again", exc_info=error)

    async def _watch(self) -> None:
        changed = await self.outcomes.on_disk(self.outbox.changed)
        if changed != self._changed:
            self._changed = changed
            self.outcomes.notify(self._listener.elsewhere)
        self.outcomes.notify(self._listener.tick)
        await self.outcomes.on_disk(self.outbox.flush)
