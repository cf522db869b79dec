"""A table's past as Parquet files in a directory, and what comes since, a file at a time.

In: a ``Recording``. Out: ``part-000000.parquet`` and so on, of which a reader sees only whole ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from notebook_rt.errors import ClosedError
from notebook_rt.runtime.observed import Observed
from notebook_rt.runtime.recording import Recording
from notebook_rt.store.columns import of_parts
from notebook_rt.store.export import arrow_table
from notebook_rt.sync.history.past import Moment, Past
from notebook_rt.sync.history.record import KINDS, Told
from notebook_rt.sync.history.steps import SNAPSHOT

logger = logging.getLogger("notebook_rt")

COMMIT, CHANGE, CAUSE = "_commit_timestamp", "_change_type", "_cause"
"""The columns that a change has before the row's."""


class PastWriter:
    """See the module. `write` and `stop` are for any thread."""

    def __init__(self, recording: Recording, driver: Observed, path: Path) -> None:
        self._recording = recording
        self._driver = driver
        self._path = path
        self._written: int | None = None
        self._number = 0
        self._lock = threading.Lock()
        self.ended = asyncio.Event()

    def begin(self, every: float) -> None:
        """Go on writing. On the loop."""
        self._recording.listeners.append(self._see_whether_closed)
        self._see_whether_closed()
        self._driver.thread.spawn(self._go_on(every), "write a history")

    def write(self) -> None:
        """Write what has changed since the last time."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        known = sorted(self._path.glob("part-*.parquet"))
        if self._written is None:
            others = (one for one in self._path.iterdir() if one not in known)
            strange = [one.name for one in others if not one.name.startswith(".part-")]
            if strange:
                raise FileExistsError(f"{self._path} holds something else: {strange[0]}")
            self._number = 1 + max(
                (int(one.stem.removeprefix("part-")) for one in known), default=-1
            )
        found, until = self._recording.read(self._new)
        self._put([table for table in found if len(table)])
        self._written = until

    def _new(self, past: Past) -> tuple[list[pa.Table], int | None]:
        """What was not written yet, and up to which moment that is."""
        began = past.began
        if began is None:
            return [], self._written
        found: list[pa.Table] = []
        after = self._written
        if after is None or after < began:
            moment = past.at(began)
            found.append(_arrow(_as_told(moment), [SNAPSHOT], [SNAPSHOT]))
            after = began
        until = past.seal()
        found += [_arrow(told, past.causes) for told in past.told(after, until)]
        return found, max(until, after)

    def _put(self, tables: Sequence[pa.Table]) -> None:
        import pyarrow.parquet as pq  # takes a while to import

        paths = [
            self._path / f"part-{number:06d}.parquet"
            for number in range(self._number, self._number + len(tables))
        ]
        being_written = [
            one.with_name(f".{one.name}") for one in paths
        ]  # with a dot: nobody's to read
        for table, path in zip(tables, being_written, strict=True):
            pq.write_table(table, path)
        # All are written before the first is seen; a reader in between sees those of the earlier times.
        for hidden, path in zip(being_written, paths, strict=True):
            hidden.replace(path)
        self._number += len(tables)

    async def _go_on(self, every: float) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self.ended.wait()
            try:
                await asyncio.to_thread(self.write)
            except OSError as error:  # such as a full disk: the next time has it all
                logger.warning('history of "%s": %s', self._driver.name, error)
        self._recording.listeners.remove(self._see_whether_closed)

    def _see_whether_closed(self) -> None:
        if self._recording.closed:
            self.ended.set()

    def stop(self) -> None:
        """Write what is left, and end."""
        try:
            self._driver.thread.call(self.ended.set)
        except ClosedError:
            return
        self.write()


def _arrow(told: Told, causes: Sequence[str], kinds: Sequence[str] = KINDS) -> pa.Table:
    """Changes as Arrow's table, json as its text; of a deletion the row as it was."""
    schema = told.schema
    columns = {
        name: of_parts(parts.own(), schema.types[name], None, schema.numeric)
        for name, parts in told.new.items()
    }
    table = arrow_table(schema, columns)
    head = {
        COMMIT: pa.array(told.times, pa.timestamp("us", "UTC")),
        CHANGE: pa.array([kinds[kind] for kind in told.kinds.tolist()], pa.string()),
        CAUSE: pa.array([causes[cause] for cause in told.causes.tolist()], pa.string()),
    }
    return pa.table({**head, **dict(zip(table.column_names, table.columns, strict=True))})


def _as_told(moment: Moment) -> Told:
    """A state as if each of its rows had come then."""
    rows = len(next(iter(moment.columns.values())).data)
    zeros = np.zeros(rows, "uint8")
    times = np.full(rows, moment.when)
    return Told(moment.schema, times, zeros, zeros, moment.columns, moment.columns)
