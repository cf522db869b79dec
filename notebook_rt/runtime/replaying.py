"""The feed of a replay: a recorded past that is played back.

Input: a recording and a speed. Output: the same as any live frame's feed. It is played on the loop, twenty
times a second, all changes since the last step as one batch. The changes are read from the past on another
thread, some thousand ahead. ``lock`` is the session's, so that frames can be derived from it as from any
other.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import pandas as pd

from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Schema
from notebook_rt.net.loop import WakingLock
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.feed import Feed
from notebook_rt.runtime.recording import Recording
from notebook_rt.runtime.table import TableDriver
from notebook_rt.store.reporter import Reporter
from notebook_rt.sync.history import pieces
from notebook_rt.sync.history.past import ForgottenMomentError, Moment, Past
from notebook_rt.sync.history.record import DELETE, RecordedChanges

TICK: Final = 0.05
"""Seconds between two batches."""
AHEAD: Final = 4096
"""Number of changes that are read ahead."""


class ReplayFeed(Feed):
    """See the module. ``start`` and ``end`` are microseconds of the server's time."""

    def __init__(
        self, recording: Recording, driver: TableDriver, speed: float, start: int, end: int
    ) -> None:
        super().__init__(f"{driver.name} replayed", driver.thread, driver.options, driver.counters)
        self.recording = recording
        self.speed = speed
        self.start, self.end = start, end
        self.at = start
        """The moment that is shown, in microseconds."""
        self._backend = driver.dtype_backend
        self._lock = driver.services.lock
        self._faults = driver.faults
        self._reporter = Reporter()
        self._ahead: deque[tuple[int, str, Schema, Op]] = deque()
        self._read_until = start
        self._task: asyncio.Task[None] | None = None
        self._show(self._moment(start))
        self._reporter.report(())  # the first rows shown are not a change
        self.version = 1
        self._say()

    @property
    def lock(self) -> WakingLock:
        return self._lock

    @property
    def faults(self) -> tuple[Faults, ...]:
        return self._faults

    @property
    def playing(self) -> bool:
        """Whether it is playing. From any thread."""
        return self._task is not None

    why_not_compared = "it shows what was recorded"

    def replayed(self) -> bool:
        return True

    # On the loop

    def play(self) -> None:
        """Continue from the moment that is shown.

        Raises
        ------
        ForgottenMomentError
            If all of it has been forgotten.
        """
        if self._task is None and self.status != "closed":
            if self.at >= self.end:
                self.seek(self._moment(self.start))
            self._task = self.thread.spawn(self._play(), f"replay {self.name}")

    def pause(self) -> None:
        """Stop at the moment that is shown."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._say()

    def seek(self, moment: Moment) -> None:
        """Show another moment, as one change; if it was playing, continue from there."""
        task = self._task
        if task is not None:
            task.cancel()  # stays set, so that ``playing`` is still true meanwhile
        self._ahead.clear()
        self._read_until = self.at = moment.when
        with self._lock:
            self._show(moment)
            changes = self._reporter.report(())
        self._say()
        self.publish(changes, "seek", moment.when / 1e6)
        if task is not None:
            self._task = self.thread.spawn(self._play(), f"replay {self.name}")

    def close(self) -> None:
        """Close the feed; the last data stays."""
        self.pause()
        self.set_status("closed", "closed")

    async def _play(self) -> None:
        began, since = time.monotonic(), self.at
        while self.at < self.end:
            if len(self._ahead) < AHEAD // 4 and self._read_until < self.end:
                try:
                    read, self._read_until = await asyncio.to_thread(self._read_ahead)
                except ForgottenMomentError:
                    if not self._ahead:
                        self._jump(self.at)
                        return
                else:
                    self._ahead += read
            due = (time.monotonic() - began) * self.speed * 1e6
            self._advance(since + round(min(due, self.end - since)))
            await asyncio.sleep(TICK)
        self._task = None
        self._say()

    def _jump(self, when: int) -> None:
        """Continue from a moment, or from the first one after it that has not been forgotten."""
        try:
            self.seek(self._moment(when))
        except ForgottenMomentError:
            self.end = self.at
            self.pause()

    def _advance(self, until: int) -> None:
        """Show the changes up to a moment, as far as they have been read."""
        until = min(until, self._read_until)
        batch: list[Op] = []
        cause, last = "", self.at
        while self._ahead and self._ahead[0][0] <= until:
            when, cause, schema, op = self._ahead.popleft()
            if schema != (None if self.table is None else self.table.schema):
                batch.clear()
                self._ahead.clear()
                self._jump(when)
                return
            batch.append(op)
            last = when
        self.at = until
        if batch and self.table is not None:
            with self._lock:
                told = self._reporter.report(self.table.apply(batch, want_changes=True))
            self.publish(told, cause, last / 1e6)
        self._say()

    def _say(self) -> None:
        at = pd.Timestamp(self.at, unit="us", tz="UTC")
        gap = self.recording.read(lambda past: past.gap(self.at))
        how = f"at {self.speed:g}×" if self.playing else "over" if self.at >= self.end else "paused"
        lost = "" if gap is None else f"; changes may be missing: {gap.reason}"
        self.synced_at = at
        self.set_status("stale", f"a replay, {how}, as of {at:%Y-%m-%d %H:%M:%S} UTC{lost}")

    def _show(self, moment: Moment) -> None:
        table = moment.table(self._backend)
        view = moment.shown(table)
        self.schema = moment.schema.project(
            [name for name in moment.schema.names if name not in moment.view.carried]
        )
        self.table, self.ordered = table, view
        self._reporter.show(table, view)

    def _moment(self, when: int) -> Moment:
        """Return a moment, or the first one after it that has not been forgotten."""

        def read(past: Past) -> Moment:
            known = max(when, past.began or when)
            if known > self.end:
                raise ForgottenMomentError
            return past.at(known)

        return self.recording.read(read)

    # On another thread

    def _read_ahead(self) -> tuple[list[tuple[int, str, Schema, Op]], int]:
        after = self._read_until

        def read(past: Past) -> tuple[list[RecordedChanges], Sequence[str], int]:
            if past.began is None or past.began > after:
                raise ForgottenMomentError
            moments = past.moments(after, self.end)
            until = moments[AHEAD - 1] if len(moments) > AHEAD else self.end
            return list(past.changes_between(after, until)), past.causes, until

        told, causes, until = self.recording.read(read)
        return [op for one in told for op in _ops(one, causes)], until


def _ops(told: RecordedChanges, causes: Sequence[str]) -> Iterator[tuple[int, str, Schema, Op]]:
    schema = told.schema
    rows = pieces.rows_of(schema, told.new)
    for when, kind, cause, row in zip(
        told.times.tolist(), told.kinds.tolist(), told.causes.tolist(), rows, strict=True
    ):
        key = schema.key_of(row)
        op: Op = Delete(key) if kind == DELETE else Upsert(key, row)
        yield when, causes[cause], schema, op
