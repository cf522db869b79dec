"""The past of one table as consecutive files, each a state and a journal of the changes since.

``sync/history`` writes through it, and it returns what an earlier kernel wrote. It uses the file formats
of tables (``snapshot.py``, ``journal.py``): a *part* is a snapshot, ``<table>.000007.past``, and its
journal, whose first record contains the time of the state and its relation to the previous part. Old
history is forgotten by removing the first part. A lock ensures that there is one writer at a time; any
process may read.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from notebook_rt.disk import journal, snapshot
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Facts, Identity, Kept
from notebook_rt.disk.shelf import (
    JOURNAL,
    LEAST_JOURNAL,
    LOCK,
    PART,
    Claim,
    append,
    check_directory,
    head_of,
    make_directory,
    opened,
    replacing,
    sweep,
)
from notebook_rt.disk.values import dump, load
from notebook_rt.model.types import Schema
from notebook_rt.store.arrays import objects
from notebook_rt.store.column import Parts
from notebook_rt.store.columns import one_chunk
from notebook_rt.sync.history.past import Beginning, Gap, Page, Past, View
from notebook_rt.sync.history.record import Chunk
from notebook_rt.sync.table.memory import Memory


class Found(msgspec.Struct):
    """What was read, as far as possible."""

    past: Past
    refused: list[str] = msgspec.field(default_factory=list)
    """The error of each part that is treated as missing."""


class _Part(msgspec.Struct, frozen=True, eq=False):
    beginning: Beginning
    after: Sequence[Any]
    """Generation and last checksum of the part that it continues."""
    pages: Sequence[Page]
    mark: Sequence[Any]
    """Its own generation and last checksum."""


class Archive:
    """One table's past in the cache. Used by one thread at a time.

    Parameters
    ----------
    path : Path
        Path of the table's snapshot (`cache.path_of`); the past is stored next to it.
    identity : Identity
        The owner; data of another identity is not read.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = replace(identity, asked=f"the history of {identity.asked}")
        self._claim = Claim(path.with_suffix(PART + LOCK))
        self._number = 0
        self._mark: tuple[str, int] = ("", 0)
        self._began: dict[int, int] = {}
        self._written = self._limit = 0

    @property
    def is_there(self) -> bool:
        """Whether there are files to read. Also true if unknown: reading then raises the reason."""
        try:
            return bool(self._parts())
        except OSError:  # in a directory of another user
            return True

    def read(self, past: Past, view: Callable[[Sequence[str]], View]) -> Found:
        """Read the written history into an empty ``past``.

        Parameters
        ----------
        view : callable
            Returns how the table shows its rows, given the columns that are only for its order.

        Raises
        ------
        RefusedFileError
            If the directory is not accessible to this user alone.
        OSError
            If there is no directory.
        """
        check_directory(self.path.parent)
        found = Found(past)
        parts: list[_Part] = []
        for number, path in sorted(self._parts().items()):
            try:
                part = self._read(path, view)
            except FileNotFoundError:  # it was removed meanwhile
                continue
            except (RefusedFileError, OSError, ValueError, LookupError, TypeError) as error:
                found.refused.append(str(error))
                continue
            self._began[number] = part.beginning.began
            parts.append(part)
        until, limits = 1 << 62, []
        for part in reversed(parts):
            limits.append(until)
            until = min(until, part.beginning.began)
        mark: Sequence[Any] = ()
        for part, limit in zip(parts, reversed(limits), strict=True):
            if part.beginning.began > limit:  # by a clock that was set back since
                continue
            goes_on = part.beginning.goes_on and list(part.after) == list(mark)
            past.resume(replace(part.beginning, goes_on=goes_on), limit)
            for page in part.pages:
                past.follow(page, limit)
            mark = part.mark
        return found

    # Writing

    def take(self) -> bool:
        """Become the writer if there is no other one; return whether this process is the writer."""
        if not self._claim.is_mine:
            if not self._claim.take():
                return False
            sweep(*self._parts().values(), *(self._journal(one) for one in self._parts()))
            self._number = max(self._parts(), default=0)
            if self._mark != (
                "",
                0,
            ):  # the lock was deleted with the directory: another part begins
                self._written, self._limit = 1, 0
        return True

    def begin(self, beginning: Beginning, most: int) -> int:
        """Start another part with a state; return its size in bytes, which is at most ``most``."""
        generation = uuid.uuid4().hex
        make_directory(self.path.parent)  # the whole cache may have been cleared
        number = self._number + 1
        gap = beginning.gap
        told = [
            beginning.began,
            beginning.cause,
            sorted(beginning.view.carried),
            gap and [gap.since, gap.reason, gap.proven],
            beginning.goes_on,
            beginning.rolled,
            self._mark,
        ]
        head, total = journal.begin(generation, snapshot.FORMAT)
        raw, total = journal.framed(dump(told), total)
        with replacing(
            self._journal(number)
        ) as file:  # before the part: an existing part has its journal
            file.write(head + raw)
        facts = Facts(beginning.began / 1e6, Memory())
        rows = len(next(iter(beginning.base.values())).data)
        kept = Kept(
            beginning.schema,
            beginning.schema.names,
            beginning.base,
            np.full(rows, -1),
            facts,
        )
        with replacing(self._part(number)) as file:
            snapshot.write(file, kept, self.identity, generation)
            size = file.tell()
        if size > most:
            self._remove(number)
            raise OSError(f"its beginning alone takes {size:,} bytes, and most_bytes is {most:,}")
        self._number, self._mark = number, (generation, total)
        self._began[number] = beginning.began
        self._written, self._limit = 0, max(min(LEAST_JOURNAL, most // 4), size // 2)
        return size

    def append(self, page: Page) -> None:
        """Append a page; only after `begin`."""
        chunks = [
            [
                one.times.tobytes(),
                one.kinds.tobytes(),
                one.causes.tobytes(),
                {name: _plain(parts) for name, parts in one.columns.items()},
                {name: given.tobytes() for name, given in one.given.items()},
            ]
            for one in page.chunks
        ]
        turns = [[what, list(facts)] for what, facts in page.turns]
        generation, total = self._mark
        raw, total = journal.framed(dump([page.known, turns, chunks, list(page.causes)]), total)
        append(self._journal(self._number), raw)
        self._mark = (generation, total)
        self._written += len(raw)

    @property
    def is_full(self) -> bool:
        """Whether another part is due."""
        return self._written > self._limit

    def trim(self, most: int, horizon: int) -> None:
        """Remove the oldest parts while there are more than ``most`` bytes, and those over at ``horizon``."""
        parts = sorted(self._parts())
        sizes = {number: self._size(number) for number in parts}
        current = max((one for one in parts if self._began_at(one) <= horizon), default=0)
        for number in parts[:-1]:
            if number >= current and sum(sizes.values()) <= most:
                return
            self._remove(number)
            del sizes[number]

    def clear(self) -> None:
        """Remove all parts."""
        for number in self._parts():
            self._remove(number)

    def close(self) -> None:
        """Let another process write."""
        self._mark = ("", 0)
        self._claim.close()

    # Files

    def _parts(self) -> dict[int, Path]:
        found = {}
        for path in self.path.parent.glob(f"{self.path.stem}.*{PART}"):
            number = path.name[len(self.path.stem) + 1 : -len(PART)]
            if number.isdecimal():
                found[int(number)] = path
        return found

    def _part(self, number: int) -> Path:
        return self.path.with_suffix(f".{number:06d}{PART}")

    def _journal(self, number: int) -> Path:
        return self.path.with_suffix(f".{number:06d}{JOURNAL}")

    def _began_at(self, number: int) -> int:
        """Return when a part begins, even if another kernel wrote it; a late time if unknown."""
        if number not in self._began:
            self._began[number] = 1 << 62
            with contextlib.suppress(RefusedFileError, OSError, ValueError):
                facts = Facts.read(head_of(self._part(number))["facts"])
                self._began[number] = round(facts.as_of * 1e6)
        return self._began[number]

    def _remove(self, number: int) -> None:
        self._part(number).unlink(missing_ok=True)
        self._journal(number).unlink(missing_ok=True)
        self._began.pop(number, None)

    def _size(self, number: int) -> int:
        size = 0
        for path in (self._part(number), self._journal(number)):
            with contextlib.suppress(FileNotFoundError):
                size += path.lstat().st_size
        return size

    def _read(self, path: Path, view: Callable[[Sequence[str]], View]) -> _Part:
        with opened(path) as file:
            kept, generation = snapshot.read(file, self.identity)
        with opened(path.with_suffix(JOURNAL)) as file:
            raw = file.read()
        bodies = journal.bodies(raw, generation, snapshot.FORMAT)
        first = next(bodies, None)
        if first is None:
            raise RefusedFileError("torn", "its journal belongs to another table, or is cut off")
        told, total = first
        began, cause, carried, gap, goes_on, rolled, after = load(told)
        pages = []
        for body, total in bodies:  # noqa: B007  # the last one counts
            pages.append(_page(load(body), kept.schema))
        beginning = Beginning(
            kept.schema,
            kept.columns,
            began,
            cause,
            view(carried),
            None if gap is None else Gap(gap[0], gap[1], None, gap[2]),
            goes_on=goes_on,
            rolled=rolled,
        )
        return _Part(beginning, after, pages, (generation, total))


def _page(told: Any, schema: Schema) -> Page:
    known, turns, chunks, causes = told
    return Page(
        known,
        [(what, facts) for what, facts in turns],
        [_chunk(one, schema) for one in chunks],
        causes,
    )


def _chunk(told: Any, schema: Schema) -> Chunk:
    times, kinds, causes, columns, given = told
    of = np.frombuffer(times, "int64")
    found = Chunk(
        of,
        np.zeros(len(of), "int32"),
        np.frombuffer(kinds, "uint8"),
        np.frombuffer(causes, "uint8"),
        {name: _column(columns[name]) for name in schema.names},
        {name: np.frombuffer(mask, bool) for name, mask in given.items()},
    )
    if {len(found.kinds), len(found.causes), *map(_length, found.columns.values())} != {len(of)}:
        raise ValueError("its parts do not agree")
    return found


def _length(parts: Parts) -> int:
    return len(parts.data)


def _plain(parts: Parts) -> list[Any]:
    """Return a column in a form for `dump`."""
    data = parts.data
    if isinstance(data, pa.ChunkedArray):
        return ["text", one_chunk(data).to_pylist()]
    if data.dtype == object:
        return ["object", data.tolist()]
    mask = parts.mask
    return [data.dtype.str, data.tobytes(), None if mask is None else mask.tobytes()]


def _column(told: Sequence[Any]) -> Parts:
    form, values, *more = told
    if form == "text":
        return Parts(pa.chunked_array([pa.array(values, pa.string())]))
    if form == "object":
        return Parts(objects(values))
    mask = more[0]
    return Parts(np.frombuffer(values, form), None if mask is None else np.frombuffer(mask, bool))
