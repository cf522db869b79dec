"""Keeps live tables on disk: shown first by the next kernel, and written behind while this one runs.

``Keeping`` is of one driver. It reads what was kept before anything is asked of the server; once the
mirror has proven its rows, it writes a snapshot, and from then on what changed, some of it at a time. All
that touches the disk runs on a thread beside; what is written is taken on the loop, between two events,
without a copy. ``Disk`` is of a session: it says, once, what goes wrong, and nothing else comes of that.
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
"""Seconds after which it is written that the rows are still the server's, where nothing changed."""
AGAIN_AFTER: Final = 60.0
"""Seconds until a disk that failed is tried again."""
WRITER_AFTER: Final = 10.0
"""Seconds until it is looked whether another kernel still writes this table."""
MOST_NOTED: Final = 20_000
"""Operations that wait to be written, at least; or a quarter of the rows: then a snapshot is taken."""
DRAIN_SECONDS: Final = 2.0
"""How long a closing session waits for the disk."""
END_SECONDS: Final = 5.0
"""How long an ending process waits for what is written to be given up."""


class Driver(ObservedTable, Protocol):
    """A live table's driver, as far as what keeps it looks at it."""

    synced_at: pd.Timestamp | None


class Disk(msgspec.Struct):
    """What a session's tables share of the disk. Used on the loop; the words from any thread."""

    owner: Callable[[], tuple[str, str]]
    """The project, and whose login it is now."""
    most: int
    """Bytes that the cache may take."""
    notify: Callable[[str], object]
    """Told each new sentence of what goes wrong, once."""
    heard: Callable[[], bool]
    """Whether somebody is told: else, as in a script, it is logged as a warning."""
    refused: int = 0
    """Files that were as if they were not there."""
    problem: str = ""
    """What went wrong last, and was not mended since; empty: nothing."""
    ending: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    """The last writes of tables that were closed."""
    _reported: set[str] = msgspec.field(default_factory=set)
    _unwritten: dict[str, str] = msgspec.field(default_factory=dict)
    """What is not written now, and why."""

    def fails(self, what: str, why: str) -> None:
        """Something is not written, for now."""
        self.say(f"{what} {why}")
        self._unwritten[what] = self.problem

    def works(self, what: str) -> None:
        """It is written."""
        if self.problem and self._unwritten.pop(what, None) == self.problem:
            self.problem = next(reversed(self._unwritten.values()), "")

    def say(self, text: str) -> None:
        """Something went wrong, or is not done."""
        self.problem = printable(text)
        if self.problem not in self._reported:
            self._reported.add(self.problem)
            level = logging.INFO if self.heard() else logging.WARNING
            logger.log(level, "%s", self.problem)
            self.notify(self.problem)

    async def leave(self) -> None:
        """Another login comes: wait for what is written of tables that were closed, for it is removed with
        the rest of what this one has kept.
        """
        if self.ending:
            await asyncio.wait(self.ending)

    async def drain(self) -> None:
        """Wait, not for long, for what is being written."""
        if self.ending:
            await asyncio.wait(self.ending, timeout=DRAIN_SECONDS)


class Warm(msgspec.Struct, frozen=True):
    """What was read: a table, and all that the mirror goes on from."""

    kept: Kept
    table: Table
    versions: Versions

    @property
    def ranked(self) -> list[Key]:
        """The keys in the order that only the server knows; empty, where it is known here."""
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
        """When it was the server's, by this machine's clock."""
        return dt.datetime.fromtimestamp(self.kept.latest.as_of, dt.UTC)

    def said(self, now: dt.datetime) -> str:
        """That, in words."""
        day = "" if self.as_of.date() == now.date() else f"{self.as_of:%Y-%m-%d} "
        return f"kept on disk, as of {day}{self.as_of:%H:%M} UTC"


class _Taken(msgspec.Struct, frozen=True):
    """A whole state, as it is taken on the loop."""

    known: Schema
    schema: Schema
    parts: Mapping[str, Parts]
    reverting: Sequence[Op]
    versions: Xmins
    ranked: Sequence[Key]
    facts: Facts

    def kept(self) -> Kept:
        """What is written of it: the server's rows, without local edits."""
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
    """Keeps one driver's table. On the loop, but for what says otherwise.

    Parameters
    ----------
    asked : bool
        Whether the table itself was asked to be kept, row policies or not.
    """

    def __init__(self, driver: Driver, disk: Disk, asked: bool) -> None:
        self.driver = driver
        self.disk = disk
        self.asked = asked
        self._what = f'table "{driver.name}"'
        self._shelf = self._find()
        self._overlay: Overlay | None = None
        """Of which operations are noted; another one is another table."""
        self._whole = True
        """A snapshot is due."""
        self._ranking: Mapping[Key, int] = {}
        """The server's order of the rows that was written last."""
        self._armed = True
        """False: what is shown may be another login's still."""
        self._arming = False
        """It is that no longer once the gap is closed."""
        self._over = False
        self._not_before = self._written_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def _find(self) -> Shelf:
        project, login = self.disk.owner()
        return cache.shelf(Identity.of(project, login, self.driver.spec))

    # What was kept

    @property
    def is_there(self) -> bool:
        """Whether something may have been kept."""
        return self._shelf.is_there

    async def read(self) -> Warm | None:
        """What was kept; None: nothing that can be used, and the reason is told."""
        try:
            return await asyncio.to_thread(self._read)
        except Exception as error:  # whatever is in a file: it is as if it were not there
            self.disk.refused += 1
            self.disk.say(f"{self._what} is not read from the disk: {error}")
            return None

    def _read(self) -> Warm:
        kept = self._shelf.read()
        table = Table(kept.schema, self.driver.dtype_backend)
        versions = kept.fill(table)
        table.snapshot()  # made here, so that nobody waits for it
        return Warm(kept, table, versions)

    # What is written

    def schedule(self) -> None:
        """Something may have changed."""
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
        """What is shown once no gap is open any more is this login's."""
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
        """Whether what is shown may be written: it was proven, and is this login's to keep.

        What is not to be kept at all is said, and given up.
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
        except FileNotFoundError:  # somebody has cleared the cache
            self._whole = True
        except Exception as error:  # a full disk, a read-only one, a value that cannot be written
            self._whole, self._not_before = True, time.monotonic() + AGAIN_AFTER
            self.disk.fails(self._what, f"cannot be kept on disk: {error}")

    async def _put(self) -> None:
        """Take what there is to write, in one step of the loop, and write it beside."""
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
        """The server's order of the rows; empty, where it is known here."""
        ordered = self.driver.ordered
        return self._ranking if ordered is None else ordered.ranking

    def _facts(self, mirror: Mirror) -> Facts:
        self._written_at = time.monotonic()
        at = self.driver.synced_at
        return Facts(time.time() if at is None else at.timestamp(), mirror.memory)

    def _write_whole(self, taken: _Taken) -> None:
        """On a thread beside."""
        size = self._shelf.write(taken.kept())
        if size > self.disk.most:
            self._shelf.clear()
            takes, most = cache.in_units(size), cache.in_units(self.disk.most)
            raise OSError(f"it takes {takes}, and Options.keep_bytes is {most}")
        cache.make_room(self.disk.most, self._shelf.path)

    # The end

    async def leave(self) -> None:
        """Another login comes: what is shown is not written for it, nor for the one that goes."""
        self._armed, self._arming, self._whole = False, False, True
        self._stop_timer()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        self._shelf.close()
        self._shelf = self._find()

    def move(self) -> None:
        """The other login has come."""
        self._shelf = self._find()

    def close(self) -> None:
        """Write what is left; the disk's `drain` waits for that."""
        if self._over:
            return
        self._stop_timer()
        task = self.driver.thread.spawn(self._finish(self._last()), "keep a table")
        self.disk.ending.add(task)
        task.add_done_callback(self.disk.ending.discard)
        self._over = True

    def _last(self) -> _Taken | Batch | None:
        """What there is to write at the end, taken while the mirror still tells."""
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
    """On a thread beside, or here where Python is ending and starts no more threads."""

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
    """What is still being written is given up: a thread in Arrow's code when Python ends aborts it."""
    snapshot.ending.set()
    ends = time.monotonic() + END_SECONDS
    for thread in tuple(_threads):
        thread.join(max(0.0, ends - time.monotonic()))


after_exit.append(_end_threads)
