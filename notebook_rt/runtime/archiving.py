"""Writes a table's past to the disk while it is recorded, and puts what an earlier kernel wrote before it.

``Archiving`` belongs to one ``Recording``. It reads the stored past, then gathers new entries for a second at
a time and writes them. All disk access runs on another thread; the loop never waits for it. If the disk
fails, or another kernel writes, that is reported once (`keeping.Disk`), the past continues in memory, and the
write is tried again later; what was not written is a gap for the next kernel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from notebook_rt.disk import cache
from notebook_rt.disk.archive import Archive, Found
from notebook_rt.disk.kept import Identity
from notebook_rt.disk.shelf import PART
from notebook_rt.runtime.keeping import AGAIN_AFTER, PAUSE, WRITER_AFTER, Disk, in_thread
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.sync.history.past import Beginning, Page, Past, View

T = TypeVar("T")

AHEAD: Final = 5_000_000
"""Microseconds by which a moment may be ahead of the server's clock as it is known here."""


class Recorded(Protocol):
    """The part of a recording that `Archiving` uses."""

    def read(self, fn: Callable[[Past], T]) -> T:
        """Return ``schedule(past)`` for the past up to now. From any thread."""

    def now(self) -> int:
        """Return the server's time in microseconds. From any thread."""

    @property
    def knows_the_time(self) -> bool:
        """Whether the server's time is known."""


class Archiving:
    """See the module. Everything runs on the loop, except where noted."""

    def __init__(self, recording: Recorded, driver: ObservedTable, disk: Disk) -> None:
        self.recording = recording
        self.driver = driver
        self.disk = disk
        self._what = f'the history of table "{driver.name}"'
        self._archive: Archive | None = self._find()
        self._attached = False
        """Whether the stored past has been read."""
        self._due = False
        """Whether there are new entries since the last write."""
        self._over = False
        self._not_before = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._working: asyncio.Task[None] | None = None
        self.attach()

    def _find(self) -> Archive:
        project, login = self.disk.owner()
        return cache.archive(Identity.of(project, login, self.driver.spec))

    # Reading

    def attach(self) -> None:
        """Put the stored past before what is recorded."""
        self._work(self._attach(), "read a history")

    async def attached(self) -> None:
        """Wait until the stored past has been read."""
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
        except Exception as error:  # any error in a file: treat the file as missing
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
        """Read the archive. Runs on another thread."""
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
        """Return whether the past ends in the future."""
        last = past.last
        return last is not None and last > self.recording.now() + AHEAD

    def _refuse(self, why: str, number: int = 1) -> None:
        self.disk.refused += number
        self.disk.say(f"{self._what} is not read from the disk: {why}")

    # Writing

    def schedule(self) -> None:
        """Schedule a write of new entries."""
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
        """Return whether the rows shown were proven, which implies that the server's time is known."""
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
        except FileNotFoundError:  # the cache was cleared
            await in_thread(lambda: self.recording.read(Past.be_silent))
        except Exception as error:  # a full or read-only disk
            self._not_before = time.monotonic() + AGAIN_AFTER
            await in_thread(lambda: self.recording.read(Past.be_silent))
            self.disk.fails(self._what, f"cannot be written to the disk: {error}")

    def _put(self, archive: Archive) -> None:
        """Write the new entries. Runs on another thread."""
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
            cache.make_room(self.disk.most, archive.path.with_suffix(PART))

    # The end

    async def leave(self) -> None:
        """Prepare for another login: nothing more is written for the old one."""
        archive, self._archive, self._attached = self._archive, None, False
        self._stop_timer()
        if self._working is not None:
            await asyncio.wait([self._working])
        if archive is not None:
            archive.close()

    def move(self) -> None:
        """Use the archive of the new login."""
        if not self._over:
            self._archive = self._find()
            self.attach()

    def close(self) -> None:
        """Write what is left; `Disk.drain` waits for it."""
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
