"""Recovery of a damaged queue's file: it is kept under another name, its readable part put into a new one.

Every process opens a queue's file in `alone`, so a file is set aside once, by one process. A kill at any
moment loses nothing: the new file is complete, as ``….saved``, before the damaged one is replaced, and
the next process that opens the queue continues from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from notebook_rt.model.stored import decode
from notebook_rt.outbox.stored import fields_of_body

Connect: TypeAlias = Callable[[Path], sqlite3.Connection]

ALONE_SECONDS: Final = 60.0
"""How long to wait for another process that opens the file, or recovers it."""
_making = threading.Lock()
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error reports that the file is damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def is_foreign(path: Path) -> bool:
    """Return whether a file exists that was never opened as a queue (`alone`), and is not a database."""
    if _lock(path).exists() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(16) not in (b"", b"SQLite format 3\0")


def is_torn(connection: sqlite3.Connection) -> bool:
    """Return whether a row's JSON is damaged, which SQLite does not detect."""
    rows = connection.execute("select cast(body as blob) as body from ops")
    return not all(_is_whole("ops", row) for row in rows)


def make_private(path: Path) -> None:
    """Create a file that other users cannot read, if it does not exist.

    An existing file is not opened: closing it would release SQLite's locks on it in this process
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    with _making, contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from opening the queue's file meanwhile.

    Uses the lock of an empty database: it works wherever SQLite does, and ends with the process.
    """
    lock = _lock(path)
    make_private(lock)
    connection = sqlite3.connect(lock, timeout=ALONE_SECONDS, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("begin exclusive")
        yield


def is_unfinished(path: Path) -> bool:
    """Return whether a process was killed while it set the file aside."""
    return _saved(path).exists()


def save(path: Path, connect: Connect) -> None:
    """Copy the readable part of a damaged file into a new one, which `replace` puts in its place.

    Parameters
    ----------
    connect
        Opens a file as a queue; creates it if it does not exist.
    """
    with tempfile.TemporaryDirectory(prefix=".salvage-", dir=path.parent) as name:
        # A copy is read: the damaged file stays unchanged, for experts.
        copy, new = Path(name) / "damaged", Path(name) / "new"
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(path.with_name(path.name + suffix), f"{copy}{suffix}")
        make_private(new)
        with contextlib.closing(connect(new)) as fresh:
            fresh.execute("begin immediate")
            for table in _WHOLE:
                _fill(fresh, table, _readable(copy, table))
            # The earlier operations of a lane may have been lost.
            fresh.execute(
                "update ops set blocked = exists (select 1 from ops as earlier where "
                "earlier.owner = ops.owner and earlier.lane = ops.lane and earlier.seq < ops.seq)"
            )
            fresh.execute("commit")
        new.replace(_saved(path))


def replace(path: Path) -> Path:
    """Replace the damaged file by the saved one; return where the damaged one is kept."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        if aside.samefile(path):
            break  # a process was killed at this point
        number += 1
    else:
        try:
            aside.hardlink_to(path)
        except OSError:  # not every file system supports hard links
            shutil.copy2(path, aside)
    with contextlib.suppress(FileNotFoundError):
        path.with_name(path.name + "-wal").replace(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    _saved(path).replace(path)
    return aside


def _lock(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _saved(path: Path) -> Path:
    return path.with_name(path.name + ".saved")


_WHOLE: Final[dict[str, Callable[[sqlite3.Row], object]]] = {
    "ops": lambda row: fields_of_body(row["body"]),
    "conflicts": lambda row: decode(row["record"]),
    "done": lambda row: row["row"] is None or decode(row["row"]),
    "sessions": lambda row: row["started"] + row["paused"],
}
"""The tables that are saved, and a function that fails for a damaged row."""


def _is_whole(table: str, row: sqlite3.Row) -> bool:
    try:
        _WHOLE[table](row)
    except (ValueError, TypeError):
        return False
    return True


def _fill(fresh: sqlite3.Connection, table: str, rows: Iterator[sqlite3.Row]) -> None:
    known = {row["name"] for row in fresh.execute(f"pragma table_info({table})")}
    for row in rows:
        names = [name for name in row.keys() if name in known]  # noqa: SIM118  a Row's items are its values
        marks = ", ".join("?" * len(names))
        if not _is_whole(table, row):
            continue
        with contextlib.suppress(sqlite3.Error, ValueError):
            values = [row[name] for name in names]
            fresh.execute(
                f"insert or ignore into {table} ({', '.join(names)}) values ({marks})",
                [value.decode() if isinstance(value, bytes) else value for value in values],
            )


def _readable(copy: Path, table: str) -> Iterator[sqlite3.Row]:
    """Yield the rows of a table of a damaged file, from both ends until a page cannot be read."""
    by = {"ops": "seq", "conflicts": "number", "done": "id", "sessions": "id"}[table]
    # The table itself, by its key, because an index may be damaged.
    index = "" if by == "id" else "not indexed"
    for order in ("asc", "desc"):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(copy)) as db:
            db.row_factory = sqlite3.Row
            db.text_factory = bytes  # one row's damaged text must not end the reading
            yield from db.execute(f"select * from {table} {index} order by {by} {order}")
