"""The cache as a whole: its path, its contents, and what is removed when it grows too large.

One directory per project and login, with one `Shelf` per table, and an `Archive` for its past. Deleting
any of it at any time is safe.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import platformdirs

from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Facts, Identity
from notebook_rt.disk.shelf import JOURNAL, LOCK, PART, SNAPSHOT, Shelf, check_directory, head_of
from notebook_rt.model.spec import TableSpec

if TYPE_CHECKING:
    from notebook_rt.disk.archive import Archive


def root() -> Path:
    """Return the directory of the tables.

    Raises
    ------
    OSError
        If neither the environment nor the system defines a home directory.
    """
    try:
        return Path(platformdirs.user_cache_dir("notebook_rt")) / "tables"
    except RuntimeError as error:
        raise OSError(f"there is no directory for it: {error}") from None


def _there(pattern: str) -> list[Path]:
    """Return the paths below the root; none if it cannot be read."""
    with contextlib.suppress(OSError):
        return list(root().glob(pattern))
    return []


def directory_of(identity: Identity) -> Path:
    """Return the directory of the tables of the identity's project and login."""
    return root() / f"{_host(identity)}-{identity.login}"


def _host(identity: Identity) -> str:
    return re.sub(r"[^\w.-]", "_", urlsplit(identity.project).netloc).strip(".")[:80]


def path_of(identity: Identity) -> Path:
    """Return the path of a table's snapshot."""
    name = re.sub(r"[^\w.-]", "_", identity.table)[:60]
    digest = sha256(identity.asked.encode()).hexdigest()[:16]
    return directory_of(identity) / f"{name}-{digest}{SNAPSHOT}"


def shelf(identity: Identity) -> Shelf:
    """Return the shelf of a table."""
    return Shelf(path_of(identity), identity)


def archive(identity: Identity) -> Archive:
    """Return the archive of a table's past."""
    from notebook_rt.disk.archive import Archive

    return Archive(path_of(identity), identity)


class Entry(msgspec.Struct, frozen=True):
    """A table or a history in the cache, for listing."""

    path: Path
    """Path of a table's snapshot; for a history, that of its files without their numbers."""
    bytes: int
    used: float
    """When it was last read or written: seconds since the epoch."""
    project: str = ""
    table: str = ""
    rows: int = 0
    as_of: float = 0.0
    refused: str = ""
    """Why it is treated as missing; only its size is known then."""
    began: float | None = None
    """When a history begins; None: it is a table."""


def entries() -> list[Entry]:
    """Return all entries, the most recently used last."""
    found = []
    for path in _there(f"*/*{SNAPSHOT}"):
        with contextlib.suppress(OSError):
            found.append(_entry(path))
    for path in {path.with_suffix("").with_suffix(PART) for path in _there(f"*/*{PART}")}:
        with contextlib.suppress(OSError):
            found.append(_history(path))
    return sorted(found, key=lambda one: one.used)


def clear_user(project: str, login: str) -> int:
    """Remove a user's data of a project, in each role and tenant; return the number of bytes freed."""
    identity = Identity.of(project, login, TableSpec("any"))
    return _clear(_there(f"{_host(identity)}-{identity.user}-*"))


def clear() -> int:
    """Remove all data and return the number of bytes freed. A running kernel writes its tables again."""
    return _clear(_there("*"))


def _clear(directories: Iterable[Path]) -> int:
    freed = 0
    for directory in directories:
        try:
            check_directory(directory)
        except (RefusedFileError, OSError):  # a link, or another user's: not our directory
            continue
        for path in list(directory.glob("*")):
            with contextlib.suppress(OSError):
                size = path.lstat().st_size
                # Without the lock's file there might be two writers.
                if path.suffix != LOCK:
                    path.unlink()
                    freed += size
    return freed


def make_room(most: int, but: Path) -> int:
    """Remove the least recently used entries until at most ``most`` bytes are left; return their number.

    Tables are removed before histories, which cannot be fetched again. ``but``, and entries that a running
    kernel writes, are kept.
    """
    kept, gone = sorted(entries(), key=lambda one: one.began is not None), 0
    total = sum(one.bytes for one in kept)
    for one in kept:
        if total <= most:
            break
        if one.path != but and _remove(one):
            total -= one.bytes
            gone += 1
    return gone


def _remove(one: Entry) -> bool:
    """Remove an entry that no process writes; return whether it was removed."""
    nobody = Identity("", "", "", "")
    if one.began is None:
        held: Shelf | Archive = Shelf(one.path, nobody)
    else:
        from notebook_rt.disk.archive import Archive

        held = Archive(one.path, nobody)
    try:
        if not held.take():
            return False
    except (OSError, RefusedFileError):
        return False
    try:
        held.clear()
    except OSError:
        return False
    finally:
        held.close()
    return True


def _entry(path: Path) -> Entry:
    def stats(suffix: str) -> Iterator[tuple[int, float]]:
        with contextlib.suppress(FileNotFoundError):
            status = path.with_suffix(suffix).lstat()
            yield status.st_size, status.st_mtime

    found = [*stats(SNAPSHOT), *stats(JOURNAL), *stats(LOCK)]
    size, used = sum(one for one, _ in found), max((at for _, at in found), default=0.0)
    try:
        head = head_of(path)
        as_of = Facts.read(head["facts"]).as_of
    except (RefusedFileError, OSError, ValueError) as error:
        return Entry(path, size, used, refused=str(error))
    return Entry(path, size, used, head["project"], head["table"], head["rows"], as_of)


def _history(path: Path) -> Entry:
    parts = sorted(path.parent.glob(f"{path.stem}.*{PART}"))
    if not parts:
        raise FileNotFoundError(path)  # it was removed meanwhile
    found = [one.lstat() for one in parts]
    for one in parts:
        with contextlib.suppress(FileNotFoundError):
            found.append(one.with_suffix(JOURNAL).lstat())
    size, used = sum(one.st_size for one in found), max(one.st_mtime for one in found)
    try:
        heads = [head_of(one) for one in (parts[0], parts[-1])]
        began = Facts.read(heads[0]["facts"]).as_of
    except (RefusedFileError, OSError, ValueError) as error:
        return Entry(path, size, used, refused=str(error), began=0.0)
    head = heads[-1]
    return Entry(path, size, used, head["project"], head["table"], head["rows"], used, began=began)


def in_units(size: int) -> str:
    """Return a number of bytes in a human-readable unit.

    >>> in_units(999), in_units(1_500_000)
    ('999 B', '1.5 MB')
    """
    if size < 1000:
        return f"{size} B"
    units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
    length, unit = next(one for one in units if size >= one[0])
    return f"{size / length:.1f} {unit}"
