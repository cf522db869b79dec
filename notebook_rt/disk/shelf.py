"""The files of one table in the cache: a snapshot, its journal, and the lock of who writes them.

One writer at a time, told by the lock; everybody may read. A snapshot takes the place of the one before
as a whole, and the journal after it: whoever reads the journal first and the snapshot then has a state
that was once written, whatever is written meanwhile. Only files are read that are this user's alone.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from msgspec.structs import replace

from notebook_rt.disk import journal, snapshot
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Batch, Identity, Kept
from notebook_rt.model.types import Schema

SNAPSHOT: Final = ".arrow"
JOURNAL: Final = ".journal"
LOCK: Final = ".lock"
PART: Final = ".past"
"""Of a table's past (``archive.py``)."""
LEAST_JOURNAL: Final = 4 << 20
"""Bytes that a journal may have, or half of its snapshot's: then it is time for another snapshot."""


class Shelf:
    """One table's place in the cache. Used by one thread at a time.

    Parameters
    ----------
    path : Path
        Of the snapshot (`cache.path_of`); its directory is made with mode 0700 when something is written.
    identity : Identity
        Whose it is; what is there of another one is not read.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self.identity = identity
        self._generation = ""
        self._total = 0
        self._written = self._limit = 0
        self._claim = Claim(self._file(LOCK))

    @property
    def is_there(self) -> bool:
        """Whether there is a file to read, or it cannot be told: then reading it says why."""
        try:
            return self.path.exists()
        except OSError:  # in a directory of another user
            return True

    def read(self) -> Kept:
        """What was kept last.

        Raises
        ------
        RefusedFileError
            If what is there is not to be read.
        OSError
            If there is nothing, or the disk does not give it.
        """
        check_directory(self.path.parent)
        raw = b""
        with contextlib.suppress(FileNotFoundError), opened(self._file(JOURNAL)) as file:
            raw = file.read()  # before the snapshot: a later one has all of it
        with opened(self.path) as file:
            kept, generation = snapshot.read(file, self.identity)
        self._touch()
        found = journal.batches(raw, kept.schema, generation, snapshot.FORMAT)
        return replace(kept, batches=tuple(found))

    # Writing

    def take(self) -> bool:
        """Become the one who writes here, if nobody else is. True: it is so, or was before."""
        if not self._claim.is_mine:
            self._generation = ""
            if not self._claim.take():
                return False
            sweep(self.path, self._file(JOURNAL))
        return True

    def write(self, kept: Kept) -> int:
        """Put a whole state in the place of what is there; gives its size in bytes."""
        generation = uuid.uuid4().hex
        make_directory(self.path.parent)  # somebody may have cleared all of it
        with replacing(self.path) as file:
            snapshot.write(file, kept, self.identity, generation)
            size = file.tell()
        head, self._total = journal.begin(generation, snapshot.FORMAT)
        with replacing(self._file(JOURNAL)) as file:
            file.write(head)
        self._generation = generation
        self._written, self._limit = 0, max(LEAST_JOURNAL, size // 2)
        self._touch()
        return size

    def append(self, batch: Batch, schema: Schema) -> None:
        """Put a batch behind what is there, for rows of ``schema``; only after `write`."""
        raw, total = journal.record(batch, schema, self._total)
        append(self._file(JOURNAL), raw)
        self._total = total
        self._written += len(raw)

    @property
    def is_full(self) -> bool:
        """Whether it is time for another snapshot."""
        return not self._generation or self._written > self._limit

    def clear(self) -> None:
        """Remove what is kept."""
        self._generation = ""
        for suffix in (SNAPSHOT, JOURNAL):
            self._file(suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Let somebody else write."""
        self._generation = ""
        self._claim.close()

    def _file(self, suffix: str) -> Path:
        return self.path.with_suffix(suffix)

    def _touch(self) -> None:
        """Note that it was used: what was used least lately gives way first."""
        with contextlib.suppress(OSError):
            os.utime(self._file(LOCK))


class Claim:
    """The right to write in a place, which one process has at a time; it ends with the process.

    Parameters
    ----------
    path : Path
        Of a file for that alone; it is made, private, and stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: sqlite3.Connection | None = None
        self._claimed = os.stat_result(range(10))

    @property
    def is_mine(self) -> bool:
        """Whether it was claimed, and the file is there still: else somebody may have claimed another one."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(self._path.lstat(), self._claimed)
        except OSError:
            return False

    def take(self) -> bool:
        """Claim it, if nobody else has it. True: it is so, or was before."""
        if self.is_mine:
            return True
        self.close()
        path = self._path
        make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        check(claimed := path.lstat(), path)
        # An empty database's lock: it is everywhere SQLite is, and ends with the process.
        lock = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("begin exclusive")
        except sqlite3.OperationalError as error:
            lock.close()
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                return False
            raise OSError(f"{path} cannot be locked: {error}") from error  # such as over NFS
        self._lock, self._claimed = lock, claimed
        return True

    def close(self) -> None:
        """Let somebody else have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def sweep(*paths: Path) -> None:
    """Remove what a writer that was killed had begun to put in the place of files."""
    for path in paths:
        for half in path.parent.glob(f"{path.name}*.new"):
            half.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, private, that takes the place of ``path`` when all of it is on the disk."""
    try:
        number, name = tempfile.mkstemp(".new", path.name, path.parent)  # 0600
    except OSError as error:  # its name is another one each time: the same error is the same words
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append(path: Path, raw: bytes) -> None:
    """Put bytes at the end of a file that is there."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        done = 0
        while done < len(raw):  # a disk that is full writes a part
            done += os.write(file, raw[done:])
    finally:
        os.close(file)


def check(status: os.stat_result, path: Path) -> None:
    """Refuse what is not this user's alone.

    Raises
    ------
    RefusedFileError
        If it is a link, another user's, or others may read or write it.
    """
    if stat.S_ISLNK(status.st_mode):
        raise RefusedFileError("unsafe", f"{path} is a link")
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid():
        raise RefusedFileError("unsafe", f"{path} belongs to user {status.st_uid}, not to you")
    if status.st_mode & 0o077:
        raise RefusedFileError("unsafe", f"{path} is open to others: chmod go-rwx {path}")


def check_directory(directory: Path) -> None:
    """As `check`, of a directory in which files are kept.

    Raises
    ------
    RefusedFileError
        If it is not this user's alone.
    """
    check(directory.lstat(), directory)


def make_directory(directory: Path) -> None:
    """Make a directory that is this user's alone, if it is not there; refuse one that is not."""
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.mkdir(exist_ok=True, mode=0o700)
    check_directory(directory)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to read, if it is this user's alone."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb") as file:
        check(os.fstat(file.fileno()), path)
        yield file
