"""Keeps live tables on disk: the next kernel shows them first; this one updates them in the background.

``Keeping`` belongs to one driver. It reads the stored table before the server is asked for anything. Once the
mirror has proven its rows, it writes a snapshot, and from then on batches of changes. All disk access runs on
another thread; the data to be written is taken on the event loop, between two events, without a copy.
``Disk`` belongs to a session: it reports each failure once, and a failure has no other effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import pandas as pd

from notebook_rt.disk import cache, snapshot
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Batch, Facts, Identity, Kept, Versions, integers_of, keys_of
from notebook_rt.disk.shelf import Shelf
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.rows import Key, Op
from notebook_rt.model.types import Schema
from notebook_rt.model.xmins import Xmins
from notebook_rt.net.loop import after_exit
from notebook_rt.quoting import printable
from notebook_rt.runtime.observed import ObservedTable
from notebook_rt.store.column import Parts
from notebook_rt.store.table import Table
from notebook_rt.sync.table.mirror import Mirror

logger = logging.getLogger("notebook_rt")

PAUSE: Final = 1.0
"""Seconds for which changes are gathered before they are written."""
FACTS_AFTER: Final = 30.0
"""Seconds without changes after which it is written that the rows are still the server's."""
AGAIN_AFTER: Final = 60.0
"""Seconds before a disk that failed is tried again."""
WRITER_AFTER: Final = 10.0
"""Seconds before the next check whether another kernel still writes this table."""
MOST_NOTED: Final = 20_000
"""Operations that may wait to be written (or a quarter of the rows, if that is more); above it a snapshot is
written."""
DRAIN_SECONDS: Final = 2.0
"""How long a closing session waits for the disk."""
END_SECONDS: Final = 5.0
"""How long an ending process waits for the writer threads to give up."""


class Driver(ObservedTable, Protocol):
    """The part of a live table's driver that `Keeping` uses."""

    synced_at: pd.Timestamp | None


class Disk(msgspec.Struct):
    """The disk state that a session's tables share. Used on the loop; `say` and `problem` from any thread."""

    owner: Callable[[], tuple[str, str]]
    """The project, and the current login."""
    most: int
    """Bytes that the cache may take."""
    notify: Callable[[str], object]
    """Called with each new message about a failure, once."""
    heard: Callable[[], bool]
    """Whether the user sees the message; else, as in a script, it is logged as a warning."""
    refused: int = 0
    """Files that could not be used and were ignored."""
    problem: str = ""
    """The last failure that is not fixed yet; empty if there is none."""
    ending: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    """The last writes of tables that were closed."""
    _reported: set[str] = msgspec.field(default_factory=set)
    _unwritten: dict[str, str] = msgspec.field(default_factory=dict)
    """What is not being written now, and why."""

    def fails(self, what: str, why: str) -> None:
        """Report something that is not being written, for now."""
        self.say(f"{what} {why}")
        self._unwritten[what] = self.problem

    def works(self, what: str) -> None:
        """Note that it is being written again."""
        if self.problem and self._unwritten.pop(what, None) == self.problem:
            self.problem = next(reversed(self._unwritten.values()), "")

    def say(self, text: str) -> None:
        """Report that something went wrong, or is not done."""
        self.problem = printable(text)
        if self.problem not in self._reported:
            self._reported.add(self.problem)
            level = logging.INFO if self.heard() else logging.WARNING
            logger.log(level, "%s", self.problem)
            self.notify(self.problem)

    async def leave(self) -> None:
        """Wait, before another login, for the last writes of closed tables.

        They are then removed with the rest of what this login has kept.
        """
        if self.ending:
            await asyncio.wait(self.ending)

    async def drain(self) -> None:
        """Wait at most `DRAIN_SECONDS` for pending writes."""
        if self.ending:
            await asyncio.wait(self.ending, timeout=DRAIN_SECONDS)


class Warm(msgspec.Struct, frozen=True):
    """What was read: a table, and the state from which the mirror continues."""

    kept: Kept
    table: Table
    versions: Versions

    @property
    def ranked(self) -> list[Key]:
        """The keys in the order that only the server knows; empty if the order is known here."""
        ranks, later = self.kept.ranks, self.kept.ranked
        if later is not None:
            return [key for key in later if key in self.table]
        if ranks is None:
            return []
        keys = self.versions.keys()
        places = np.argsort(ranks, kind="stable").tolist()
        return [keys[at] for at in places if ranks[at] >= 0 and keys[at] in self.table]

    @property
    def as_of(self) -> dt.datetime:
        """When the rows were the server's, by this machine's clock."""
        return dt.datetime.fromtimestamp(self.kept.latest.as_of, dt.UTC)

    def said(self, now: dt.datetime) -> str:
        """Return `as_of` in words."""
        day = "" if self.as_of.date() == now.date() else f"{self.as_of:%Y-%m-%d} "
        return f"kept on disk, as of {day}{self.as_of:%H:%M} UTC"


class _Taken(msgspec.Struct, frozen=True):
    """A whole state, taken on the loop."""

    known: Schema
    schema: Schema
    parts: Mapping[str, Parts]
    reverting: Sequence[Op]
    versions: Xmins
    ranked: Sequence[Key]
    facts: Facts

    def kept(self) -> Kept:
        """Return what is written: the server's rows, without local edits."""
        parts, known = self.parts, self.versions
        if self.reverting:
            table = Table(self.schema)
            table.restore({name: one.own() for name, one in parts.items()})
            table.apply(self.reverting)
            parts = table.parts()
        ints = integers_of(self.schema, parts)
        keys = [] if ints is not None and not self.ranked else keys_of(self.schema, parts)
        if ints is not None:
            versions = known.column(ints)
        else:
            found = (-1 if one is None else one for one in known.gather(keys))
            versions = np.fromiter(found, "int64", len(keys))
        ranks = None
        if self.ranked:
            places = {key: place for place, key in enumerate(self.ranked)}
            ranks = np.fromiter((places.get(key, -1) for key in keys), "int64", len(keys))
        return Kept(self.known, self.schema.names, parts, versions, self.facts, ranks)


class Keeping:
    """Keeps one driver's table on disk. Everything runs on the loop, except where noted.

    Parameters
    ----------
    asked : bool
        Whether the user asked to keep this table, with or without row policies.
    """

    def __init__(self, driver: Driver, disk: Disk, asked: bool) -> None:
        self.driver = driver
        self.disk = disk
        self.asked = asked
        self._what = f'table "{driver.name}"'
        self._shelf = self._find()
        self._overlay: Overlay | None = None
        """The overlay whose operations are noted; another overlay means another table."""
        self._whole = True
        """Whether a snapshot is due."""
        self._ranking: Mapping[Key, int] = {}
        """The server's order of the rows that was written last."""
        self._armed = True
        """False: the rows shown may still be another login's."""
        self._arming = False
        """Whether to set ``_armed`` as soon as there is no gap."""
        self._over = False
        self._not_before = self._written_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def _find(self) -> Shelf:
        project, login = self.disk.owner()
        return cache.shelf(Identity.of(project, login, self.driver.spec))

    # Reading

    @property
    def is_there(self) -> bool:
        """Whether a stored table may exist."""
        return self._shelf.is_there

    async def read(self) -> Warm | None:
        """Read the stored table. Return None if there is nothing usable; the reason is reported."""
        try:
            return await asyncio.to_thread(self._read)
        except Exception as error:  # any error in a file: treat the file as missing
            self.disk.refused += 1
            self.disk.say(f"{self._what} is not read from the disk: {error}")
            return None

    def _read(self) -> Warm:
        kept = self._shelf.read()
        table = Table(kept.schema, self.driver.dtype_backend)
        versions = kept.fill(table)
        table.snapshot()  # made here, so that no reader waits for it
        return Warm(kept, table, versions)

    # Writing

    def schedule(self) -> None:
        """Schedule a write if something has changed."""
        overlay, driver = self.driver.overlay, self.driver
        if self._over or overlay is None:
            return
        if overlay is not self._overlay:
            self._overlay, overlay.noted, self._whole = overlay, [], True
        noted = overlay.noted
        if noted is not None and len(noted) > max(MOST_NOTED, len(overlay) // 4):
            self._whole, overlay.noted = True, []
        now = time.monotonic()
        moved = self._server_order() is not self._ranking
        wanted = self._whole or bool(noted) or moved or now - self._written_at > FACTS_AFTER
        if wanted and self._timer is None and self._writing is None:
            after = max(PAUSE, self._not_before - now)
            self._timer = driver.thread.loop.call_later(after, self._begin)

    def arm(self) -> None:
        """Treat the rows shown as this login's from the next moment without a gap."""
        self._arming = True

    def _begin(self) -> None:
        self._timer = None
        if self._writing is None and not self._over and self._may_write():
            self._writing = self.driver.thread.spawn(self._write(), "keep a table")
            self._writing.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if task is self._writing:
            self._writing = None
            self.schedule()

    def _may_write(self) -> bool:
        """Return whether the rows shown may be written: they are proven, and this login may keep them.

        If the table must not be kept at all, report it and give up.
        """
        mirror = self.driver.machine
        self._armed |= self._arming and mirror.gapless
        if not (self._armed and mirror.proven):
            return False
        policies = mirror.described.row_security
        if self.asked or policies is False:
            return True
        why = "it has row policies" if policies else "whether it has row policies is not known"
        self.disk.say(
            f"{self._what} is not kept on disk: {why}; "
            f'rt.table("{self.driver.name}", keep=True) keeps it'
        )
        self._over = True
        with contextlib.suppress(OSError):
            self._shelf.clear()
        return False

    async def _write(self) -> None:
        try:
            if not await in_thread(self._shelf.take):
                self._whole, self._not_before = True, time.monotonic() + WRITER_AFTER
                return
            if self._may_write() and not self._over:
                await self._put()
                self.disk.works(self._what)
        except FileNotFoundError:  # the cache was cleared
            self._whole = True
        except Exception as error:  # a full or read-only disk, a value that cannot be written
            self._whole, self._not_before = True, time.monotonic() + AGAIN_AFTER
            self.disk.fails(self._what, f"cannot be kept on disk: {error}")

    async def _put(self) -> None:
        """Take what there is to write, in one step of the loop, and write it on another thread."""
        overlay = self._overlay
        if overlay is None:
            return
        if self._whole or self._shelf.is_full:
            taken = self._take(overlay)
            self._whole = False
            await in_thread(lambda: self._write_whole(taken))
            return
        batch = self._batch(overlay)
        if batch is not None:
            schema = overlay.schema
            await in_thread(lambda: self._shelf.append(batch, schema))

    def _take(self, overlay: Overlay) -> _Taken:
        driver, mirror = self.driver, self.driver.machine
        assert driver.table is not None
        with driver.services.lock:
            overlay.noted, self._ranking = [], self._server_order()
            return _Taken(
                mirror.known,
                overlay.schema,
                driver.table.parts(),
                overlay.reverting(),
                mirror.versions.known(),
                list(self._ranking),
                self._facts(mirror),
            )

    def _batch(self, overlay: Overlay) -> Batch | None:
        mirror = self.driver.machine
        with self.driver.services.lock:
            noted, overlay.noted = overlay.noted or [], []
            before, self._ranking = self._ranking, self._server_order()
        ranked = None if self._ranking == before else list(self._ranking)
        quiet = not noted and ranked is None
        if quiet and time.monotonic() - self._written_at <= FACTS_AFTER:
            return None
        versions = mirror.versions.of({op.key for op in noted})
        return Batch(noted, versions, self._facts(mirror), ranked)

    def _server_order(self) -> Mapping[Key, int]:
        """Return the server's order of the rows; empty if the order is known here."""
        ordered = self.driver.ordered
        return self._ranking if ordered is None else ordered.ranking

    def _facts(self, mirror: Mirror) -> Facts:
        self._written_at = time.monotonic()
        at = self.driver.synced_at
        return Facts(time.time() if at is None else at.timestamp(), mirror.memory)

    def _write_whole(self, taken: _Taken) -> None:
        """Write a snapshot. Runs on another thread."""
        size = self._shelf.write(taken.kept())
        if size > self.disk.most:
            self._shelf.clear()
            takes, most = cache.in_units(size), cache.in_units(self.disk.most)
            raise OSError(f"it takes {takes}, and Options.keep_bytes is {most}")
        cache.make_room(self.disk.most, self._shelf.path)

    # The end

    async def leave(self) -> None:
        """Prepare for another login: the rows shown are written for neither the old nor the new one."""
        self._armed, self._arming, self._whole = False, False, True
        self._stop_timer()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._shelf.close()
        self._shelf = self._find()

    def move(self) -> None:
        """Use the shelf of the new login."""
        self._shelf = self._find()

    def close(self) -> None:
        """Write what is left; `Disk.drain` waits for it."""
        if self._over:
            return
        self._stop_timer()
        task = self.driver.thread.spawn(self._finish(self._last()), "keep a table")
        self.disk.ending.add(task)
        task.add_done_callback(self.disk.ending.discard)
        self._over = True

    def _last(self) -> _Taken | Batch | None:
        """Take what there is to write at the end, while the mirror still reports."""
        overlay = self._overlay
        if overlay is None or not self._may_write() or time.monotonic() < self._not_before:
            return None
        self._written_at = float("-inf")
        return self._take(overlay) if self._whole else self._batch(overlay)

    async def _finish(self, last: _Taken | Batch | None) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        try:
            if last is not None and await in_thread(self._shelf.take):
                await in_thread(lambda: self._write_last(last))
        except (OSError, RefusedFileError, ValueError) as error:
            self.disk.fails(self._what, f"cannot be kept on disk: {error}")
        finally:
            self._shelf.close()

    def _write_last(self, last: _Taken | Batch) -> None:
        if isinstance(last, _Taken):
            self._write_whole(last)
        elif self._overlay is not None and not self._shelf.is_full:
            self._shelf.append(last, self._overlay.schema)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_threads: set[threading.Thread] = set()


async def in_thread(fn: Callable[[], Any]) -> Any:
    """Run ``fn`` on another thread, or here if Python is shutting down and starts no more threads."""

    def noted() -> Any:
        thread = threading.current_thread()
        _threads.add(thread)
        try:
            return fn()
        finally:
            _threads.discard(thread)

    try:
        return await asyncio.to_thread(noted)
    except ConnectionAbortedError:
        return fn()


def _end_threads() -> None:
    """Give up pending writes: a thread that is in Arrow's code when Python ends aborts the process."""
    snapshot.ending.set()
    ends = time.monotonic() + END_SECONDS
    for thread in tuple(_threads):
        thread.join(max(0.0, ends - time.monotonic()))


after_exit.append(_end_threads)
