"""Writes a table's past to the disk while it is recorded, and puts what an earlier kernel wrote ahead of it.

``Archiving`` is of one ``Recording``. It reads what was written, then gathers what is told for a second at
a time and writes it. All that touches the disk runs on a thread beside; the loop never waits for it. Where
the disk fails, or another kernel writes, that is said once (`keeping.Disk`), the past goes on in memory,
and it is tried again: what was not written is a gap for the next kernel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from notebook_rt.disk import cache
from notebook_rt.disk.archive import Archive, Found
from notebook_rt.disk.kept import Identity
from notebook_rt.runtime.keeping import AGAIN_AFTER, PAUSE, WRITER_AFTER, Disk, in_thread
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.sync.history.past import Beginning, Page, Past, View

T = TypeVar("T")

AHEAD: Final = 5_000_000
"""Microseconds by which a moment may be ahead of the server's clock as it is known here."""


class Recorded(Protocol):
    """What is recorded, as far as it is written."""

    def read(self, look: Callable[[Past], T]) -> T:
        """What ``schedule`` makes of the past, up to now. From any thread."""

    def now(self) -> int:
        """The server's time, in microseconds. From any thread."""

    @property
    def knows_the_time(self) -> bool:
        """Whether the server has told what time it is."""


class Archiving:
    """See the module. On the loop, but for what says otherwise."""

    def __init__(self, recording: Recorded, driver: ObservedTable, disk: Disk) -> None:
        self.recording = recording
        self.driver = driver
        self.disk = disk
        self._what = f'the history of table "{driver.name}"'
        self._archive: Archive | None = self._find()
        self._attached = False
        """What was written before is read."""
        self._due = False
        """Something was told since it was written last."""
        self._over = False
        self._not_before = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._working: asyncio.Task[None] | None = None
        self.attach()

    def _find(self) -> Archive:
        project, login = self.disk.owner()
        return cache.archive(Identity.of(project, login, self.driver.spec))

    # What was written

    def attach(self) -> None:
        """Put what was written ahead of what is recorded."""
        self._work(self._attach(), "read a history")

    async def attached(self) -> None:
        """Wait until that is done."""
        while not (self._attached or self._over) and self._working is not None:
            await asyncio.wait([self._working])

    async def _attach(self) -> None:
        archive = self._archive
        if archive is None:
            return
        try:
            found = await in_thread(lambda: self._read(archive))
        except FileNotFoundError:
            found = None
        except Exception as error:  # whatever is in a file: it is as if it were not there
            self._refuse(str(error))
            found = None
        if found is not None and found.refused:
            self._refuse(found.refused[-1], len(found.refused))
        elif found is not None and self._is_ahead(found.past):
            self.driver.services.on_note(
                "info",
                f'the history of table "{self.driver.name}" ends later than it is by the clock of this '
                "machine: until the server tells the time, what is recorded is dated at its end",
            )
        await in_thread(lambda: self.recording.read(Past.start_writing))
        self._attached = True

    def _read(self, archive: Archive) -> Found:
        """On a thread beside."""
        spec = self.driver.spec

        def view(carried: Sequence[str]) -> View:
            return View(spec.order, spec.limit, carried)

        found = archive.read(Past(1 << 62, 1 << 62), view)
        if self._is_ahead(found.past) and self.recording.knows_the_time:
            found.refused.append("it reaches to a time that is still to come: a clock was set back")
            return found

        def put(past: Past) -> None:
            if archive is self._archive:  # no other login has come
                past.prepend(found.past)

        self.recording.read(put)
        return found

    def _is_ahead(self, past: Past) -> bool:
        """Whether it reaches to a time that is still to come."""
        last = past.last
        return last is not None and last > self.recording.now() + AHEAD

    def _refuse(self, why: str, number: int = 1) -> None:
        self.disk.refused += number
        self.disk.say(f"{self._what} is not read from the disk: {why}")

    # What is written

    def schedule(self) -> None:
        """Something was told."""
        self._due = True
        if self._over or self._timer is not None or self._working is not None:
            return
        after = max(PAUSE, self._not_before - time.monotonic())
        self._timer = self.driver.thread.loop.call_later(after, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._working is None and not self._over and self._may_write():
            self._due = False
            self._work(self._write(), "write a history")

    def _work(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._working = self.driver.thread.spawn(work, name)
        self._working.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task is self._working:
            self._working = None
            if self._due:
                self.schedule()

    def _may_write(self) -> bool:
        """Whether what is shown was proven, and so the server's time is known."""
        return self._attached and self.driver.machine.proven

    async def _write(self) -> None:
        archive = self._archive
        if archive is None:
            return
        try:
            if not await in_thread(archive.take):
                self._not_before = time.monotonic() + WRITER_AFTER
                await in_thread(lambda: self.recording.read(Past.be_silent))
                self.disk.fails(
                    self._what,
                    "is written by another kernel: this one keeps what it records in memory",
                )
                return
            await in_thread(lambda: self._put(archive))
            self.disk.works(self._what)
        except FileNotFoundError:  # somebody has cleared the cache
            await in_thread(lambda: self.recording.read(Past.be_silent))
        except Exception as error:  # a full disk, a read-only one
            self._not_before = time.monotonic() + AGAIN_AFTER
            await in_thread(lambda: self.recording.read(Past.be_silent))
            self.disk.fails(self._what, f"cannot be written to the disk: {error}")

    def _put(self, archive: Archive) -> None:
        """On a thread beside."""
        span = most = 0

        def take(past: Past) -> list[Beginning | Page]:
            nonlocal span, most
            span, most = past.span, past.most
            if archive is not self._archive:  # another login has come
                return []
            if not past.writes:
                past.start_writing()
            return past.take(roll=archive.is_full)

        begun = False
        for one in self.recording.read(take):
            if isinstance(one, Beginning):
                archive.begin(one, most)
                begun = True
            else:
                archive.append(one)
        archive.trim(most, self.recording.now() - span)
        if begun:
            cache.make_room(self.disk.most, archive.path)

    # The end

    async def leave(self) -> None:
        """Another login comes: nothing is written any more for the one that goes."""
        archive, self._archive, self._attached = self._archive, None, False
        self._stop_timer()
        if self._working is not None:
            await asyncio.wait([self._working])
        if archive is not None:
            archive.close()

    def move(self) -> None:
        """The other login has come."""
        if not self._over:
            self._archive = self._find()
            self.attach()

    def close(self) -> None:
        """Write what is left; the disk's `drain` waits for that."""
        if self._over:
            return
        self._over = True
        self._stop_timer()
        task = self.driver.thread.spawn(self._finish(self._may_write()), "write a history")
        self.disk.ending.add(task)
        task.add_done_callback(self.disk.ending.discard)

    async def _finish(self, may_write: bool) -> None:
        if self._working is not None:
            await asyncio.wait([self._working])
        if self._archive is None:
            return
        if may_write and time.monotonic() >= self._not_before:
            await self._write()
        self._archive.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
