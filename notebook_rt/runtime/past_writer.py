"""Writes a table's past as Parquet files into a directory, and new changes as further files.

Input: a ``Recording``. Output: ``part-000000.parquet`` and so on; a reader sees only complete files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from notebook_rt.errors import ClosedError
from notebook_rt.runtime.observed import Observed
from notebook_rt.runtime.recording import Recording
from notebook_rt.store.columns import of_parts
from notebook_rt.store.export import arrow_table
from notebook_rt.sync.history.past import Moment, Past
from notebook_rt.sync.history.record import KINDS, RecordedChanges
from notebook_rt.sync.history.steps import SNAPSHOT

logger = logging.getLogger("notebook_rt")

COMMIT, CHANGE, CAUSE = "_commit_timestamp", "_change_type", "_cause"
"""The columns of a change that precede the row's."""
_NAME: Final = re.compile(r"part-(\d+)\.parquet")

_writing = threading.Lock()
"""Held while files are written: all writers to a directory share its numbers."""
_going_on: dict[str, PastWriter] = {}
"""The continuous writers, by the directory's real path."""


def writing_to(recording: Recording, driver: Observed, path: Path) -> PastWriter:
    """Return the writer of this past to a directory; a cell that is run again gets the same one.

    Raises
    ------
    FileExistsError
        If the past of another table is being written there.
    """
    there = _going_on.get(os.path.realpath(path))
    if there is None or there.ended.is_set():
        return PastWriter(recording, driver, path)
    if there.recording is not recording:
        what = there.driver.name
        raise FileExistsError(f'{path} holds the history of "{what}", which is being written')
    return there


class PastWriter:
    """See the module. `write` and `stop` are for any thread."""

    def __init__(self, recording: Recording, driver: Observed, path: Path) -> None:
        self.recording = recording
        self.driver = driver
        self._path = path
        self._real = os.path.realpath(path)
        self._written: int | None = None
        self._number = 0
        self._every: float | None = None
        self.ended = asyncio.Event()

    def begin(self, every: float) -> None:
        """Start writing continuously. On the loop."""
        before, self._every = self._every, every
        if before is not None:
            return
        _going_on[self._real] = self
        self.recording.listeners.append(self._see_whether_closed)
        self._see_whether_closed()
        self.driver.thread.spawn(self._go_on(), "write a history")

    def write(self) -> None:
        """Write the changes since the last call."""
        with _writing:
            self._write()

    def _write(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        names = [one.name for one in self._path.iterdir()]
        numbers = [int(known[1]) for known in map(_NAME.fullmatch, names) if known]
        if self._written is None:
            strange = (name for name in names if not name.startswith(".part-"))
            for name in strange:
                if not _NAME.fullmatch(name):
                    raise FileExistsError(f"{self._path} holds something else: {name}")
        self._number = max(self._number, 1 + max(numbers, default=-1))  # other writers may exist
        found, until = self.recording.read(self._new)
        self._put([table for table in found if len(table)])
        self._written = until

    def _new(self, past: Past) -> tuple[list[pa.Table], int | None]:
        """Return what was not written yet, and the moment up to which that is."""
        began = past.began
        if began is None:
            return [], self._written
        found: list[pa.Table] = []
        after = self._written
        if after is None or after < began:
            moment = past.at(began)
            found.append(_arrow(_as_inserted(moment), [SNAPSHOT], [SNAPSHOT]))
            after = began
        until = past.close()
        found += [_arrow(told, past.causes) for told in past.changes_between(after, until)]
        return found, max(until, after)

    def _put(self, tables: Sequence[pa.Table]) -> None:
        import pyarrow.parquet as pq  # takes a while to import

        paths = [
            self._path / f"part-{number:06d}.parquet"
            for number in range(self._number, self._number + len(tables))
        ]
        being_written = [
            one.with_name(f".{one.name}") for one in paths
        ]  # the dot hides it from readers
        for table, path in zip(tables, being_written, strict=True):
            pq.write_table(table, path)
        # All files are written before the first is visible; a reader in between sees the earlier times only.
        for hidden, path in zip(being_written, paths, strict=True):
            hidden.replace(path)
        self._number += len(tables)

    async def _go_on(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self.ended.wait()
            try:
                await asyncio.to_thread(self.write)
            except OSError as error:  # such as a full disk: the next call writes it all
                logger.warning('history of "%s": %s', self.driver.name, error)
        self.recording.listeners.remove(self._see_whether_closed)
        if _going_on.get(self._real) is self:
            del _going_on[self._real]

    def _see_whether_closed(self) -> None:
        if self.recording.closed:
            self.ended.set()

    def stop(self) -> None:
        """Write what is left, and end."""
        try:
            self.driver.thread.call(self.ended.set)
        except ClosedError:
            return
        self.write()


def _arrow(told: RecordedChanges, causes: Sequence[str], kinds: Sequence[str] = KINDS) -> pa.Table:
    """Return changes as an Arrow table, json as text; a deletion has the row as it was."""
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


def _as_inserted(moment: Moment) -> RecordedChanges:
    """Return a state as if all of its rows had been inserted at that moment."""
    rows = len(next(iter(moment.columns.values())).data)
    zeros = np.zeros(rows, "uint8")
    times = np.full(rows, moment.when)
    return RecordedChanges(moment.schema, times, zeros, zeros, moment.columns, moment.columns)
