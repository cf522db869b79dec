"""The files of one table in the cache: a snapshot, its journal, and the lock of their writer.

The lock ensures that there is one writer at a time; any process may read. A new snapshot replaces the
previous one as a whole, and then the journal is replaced. So a reader that reads first the journal and
then the snapshot gets a state that was once written, whatever is written meanwhile. Only files that are
accessible to this user alone are read.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from msgspec.structs import replace

from notebook_rt.disk import journal, snapshot
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Batch, Identity, Kept
from notebook_rt.model.types import Schema

SNAPSHOT: Final = ".arrow"
JOURNAL: Final = ".journal"
LOCK: Final = ".lock"
PART: Final = ".past"
"""Suffix of a part of a table's past (``archive.py``)."""
LEAST_JOURNAL: Final = 4 << 20
"""Bytes that a journal may have at least; its limit is this or half of its snapshot's size."""


class Shelf:
    """One table's place in the cache. Used by one thread at a time.

    Parameters
    ----------
    path : Path
        Path of the snapshot (`cache.path_of`); the first write creates its directory with mode 0700.
    identity : Identity
        The owner; data of another identity is not read.
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
        """Whether there is a file to read. Also true if unknown: reading then raises the reason."""
        try:
            return self.path.exists()
        except OSError:  # in a directory of another user
            return True

    def read(self) -> Kept:
        """Return the state that was stored last.

        Raises
        ------
        RefusedFileError
            If the file must not be read.
        OSError
            If there is no file, or it cannot be read from disk.
        """
        check_directory(self.path.parent)
        raw = b""
        with contextlib.suppress(FileNotFoundError), opened(self._file(JOURNAL)) as file:
            raw = file.read()  # before the snapshot: a later snapshot contains all of it
        with opened(self.path) as file:
            kept, generation = snapshot.read(file, self.identity)
        self._touch()
        found = journal.batches(raw, kept.schema, generation, snapshot.FORMAT)
        return replace(kept, batches=tuple(found))

    # Writing

    def take(self) -> bool:
        """Become the writer if there is no other one; return whether this process is the writer."""
        if not self._claim.is_mine:
            self._generation = ""
            if not self._claim.take():
                return False
            sweep(self.path, self._file(JOURNAL))
        return True

    def write(self, kept: Kept) -> int:
        """Replace the stored state by a whole new one; return its size in bytes."""
        generation = uuid.uuid4().hex
        make_directory(self.path.parent)  # the whole cache may have been cleared
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
        """Append a batch for rows of ``schema``; only after `write`."""
        raw, total = journal.record(batch, schema, self._total)
        append(self._file(JOURNAL), raw)
        self._total = total
        self._written += len(raw)

    @property
    def is_full(self) -> bool:
        """Whether another snapshot is due."""
        return not self._generation or self._written > self._limit

    def clear(self) -> None:
        """Remove the stored state."""
        self._generation = ""
        for suffix in (SNAPSHOT, JOURNAL):
            self._file(suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process write."""
        self._generation = ""
        self._claim.close()

    def _file(self, suffix: str) -> Path:
        return self.path.with_suffix(suffix)

    def _touch(self) -> None:
        """Note that it was used: the least recently used table is removed first."""
        with contextlib.suppress(OSError):
            os.utime(self._file(LOCK))


class Claim:
    """The right to write in a place, which one process has at a time; it ends with the process.

    Parameters
    ----------
    path : Path
        Path of a file used only for this; it is created, private, and stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: sqlite3.Connection | None = None
        self._claimed = os.stat_result(range(10))

    @property
    def is_mine(self) -> bool:
        """Whether it is claimed, and the file still exists: else another process may claim a new one."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(self._path.lstat(), self._claimed)
        except OSError:
            return False

    def take(self) -> bool:
        """Claim it, if no other process has; return whether this process has it."""
        if self.is_mine:
            return True
        self.close()
        path = self._path
        make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        check(claimed := path.lstat(), path)
        # The lock of an empty database: it works wherever SQLite does, and ends with the process.
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
        """Let another process claim it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def sweep(*paths: Path) -> None:
    """Remove unfinished replacements of files that a killed writer has left."""
    for path in paths:
        for half in path.parent.glob(f"{path.name}*.new"):
            half.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new, private file that replaces ``path`` once all of it is on disk."""
    try:
        number, name = tempfile.mkstemp(".new", path.name, path.parent)  # 0600
    except (
        OSError
    ) as error:  # the temporary name always differs: the same error needs the same message
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
    """Append bytes to an existing file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        done = 0
        while done < len(raw):  # a full disk writes only a part
            done += os.write(file, raw[done:])
    finally:
        os.close(file)


def check(status: os.stat_result, path: Path) -> None:
    """Refuse a file that is not accessible to this user alone.

    Raises
    ------
    RefusedFileError
        If it is a link, belongs to another user, or others may read or write it.
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
    """As `check`, for a directory in which files are kept.

    Raises
    ------
    RefusedFileError
        If it is not accessible to this user alone.
    """
    check(directory.lstat(), directory)


def make_directory(directory: Path) -> None:
    """Create a directory for this user alone, if it does not exist; refuse one open to other users."""
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.mkdir(exist_ok=True, mode=0o700)
    check_directory(directory)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, if it is accessible to this user alone."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb") as file:
        check(os.fstat(file.fileno()), path)
        yield file


def head_of(path: Path) -> dict[str, Any]:
    """Return the head of a snapshot without reading the rest.

    Raises
    ------
    RefusedFileError
        If it is not a snapshot, or is accessible to other users.
    """
    with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return snapshot.read_head(raw)
