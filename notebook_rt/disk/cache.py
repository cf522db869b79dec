"""The cache as a whole: where it is, what is in it, and what gives way when it grows too large.

One directory a project and login, one `Shelf` a table in it, and an `Archive` for its past. Deleting any of
it at any time is safe.
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import platformdirs

from notebook_rt.disk import snapshot
from notebook_rt.disk.errors import RefusedFileError
from notebook_rt.disk.kept import Facts, Identity
from notebook_rt.disk.shelf import JOURNAL, LOCK, PART, SNAPSHOT, Shelf, check_directory, opened
from notebook_rt.model.spec import TableSpec

if TYPE_CHECKING:
    from notebook_rt.disk.archive import Archive


def root() -> Path:
    """Where tables are kept.

    Raises
    ------
    OSError
        If neither the environment nor the system knows a home.
    """
    try:
        return Path(platformdirs.user_cache_dir("notebook_rt")) / "tables"
    except RuntimeError as error:
        raise OSError(f"there is no directory for it: {error}") from None


def _there(pattern: str) -> list[Path]:
    """The paths below the root; none where it cannot be looked into."""
    with contextlib.suppress(OSError):
        return list(root().glob(pattern))
    return []


def directory_of(identity: Identity) -> Path:
    """Where the tables of the identity's project and login are kept."""
    return root() / f"{_host(identity)}-{identity.login}"


def _host(identity: Identity) -> str:
    return re.sub(r"[^\w.-]", "_", urlsplit(identity.project).netloc).strip(".")[:80]


def path_of(identity: Identity) -> Path:
    """Where a table's snapshot is kept."""
    name = re.sub(r"[^\w.-]", "_", identity.table)[:60]
    digest = sha256(identity.asked.encode()).hexdigest()[:16]
    return directory_of(identity) / f"{name}-{digest}{SNAPSHOT}"


def shelf(identity: Identity) -> Shelf:
    """The place of a table."""
    return Shelf(path_of(identity), identity)


def archive(identity: Identity) -> Archive:
    """The place of a table's past."""
    from notebook_rt.disk.archive import Archive

    return Archive(path_of(identity), identity)


class Entry(msgspec.Struct, frozen=True):
    """A table or a history in the cache, as a list shows it."""

    path: Path
    """Of a table's snapshot; of a history, that of its files without their numbers."""
    bytes: int
    used: float
    """When it was read or written last: seconds since the epoch."""
    project: str = ""
    table: str = ""
    rows: int = 0
    as_of: float = 0.0
    refused: str = ""
    """Why it is as if it were not there; then nothing is known of it but its size."""
    began: float | None = None
    """When a history begins; None: it is a table."""


def entries() -> list[Entry]:
    """All that is kept, what was used last at the end."""
    found = []
    for path in _there(f"*/*{SNAPSHOT}"):
        with contextlib.suppress(OSError):
            found.append(_entry(path))
    for path in {path.with_suffix("").with_suffix(PART) for path in _there(f"*/*{PART}")}:
        with contextlib.suppress(OSError):
            found.append(_history(path))
    return sorted(found, key=lambda one: one.used)


def clear_user(project: str, login: str) -> int:
    """Remove what is kept of a project for a login's user, in each role and tenant; the bytes freed."""
    identity = Identity.of(project, login, TableSpec("any"))
    return _clear(_there(f"{_host(identity)}-{identity.user}-*"))


def clear() -> int:
    """Remove all that is kept; the bytes freed. A kernel that runs goes on, and writes its tables again."""
    return _clear(_there("*"))


def _clear(directories: Iterable[Path]) -> int:
    freed = 0
    for directory in directories:
        try:
            check_directory(directory)
        except (RefusedFileError, OSError):  # a link, another user's: no directory of ours
            continue
        for path in list(directory.glob("*")):
            with contextlib.suppress(OSError):
                size = path.lstat().st_size
                # Without its lock's file there might be two writers.
                if path.suffix != LOCK:
                    path.unlink()
                    freed += size
    return freed


def make_room(most: int, but: Path) -> int:
    """Remove what was used least lately until at most ``most`` bytes are kept; how many went.

    Tables go before histories, which cannot be had again. ``but`` stays, and what a running kernel writes.
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
    """Remove what nobody writes."""
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
        head = _head(path)
        as_of = Facts.read(head["facts"]).as_of
    except (RefusedFileError, OSError, ValueError) as error:
        return Entry(path, size, used, refused=str(error))
    return Entry(path, size, used, head["project"], head["table"], head["rows"], as_of)


def _history(path: Path) -> Entry:
    parts = sorted(path.parent.glob(f"{path.stem}.*{PART}"))
    found = [one.lstat() for one in parts]
    for one in parts:
        with contextlib.suppress(FileNotFoundError):
            found.append(one.with_suffix(JOURNAL).lstat())
    size, used = sum(one.st_size for one in found), max(one.st_mtime for one in found)
    try:
        heads = [_head(one) for one in (parts[0], parts[-1])]
        began = Facts.read(heads[0]["facts"]).as_of
    except (RefusedFileError, OSError, ValueError) as error:
        return Entry(path, size, used, refused=str(error), began=0.0)
    head = heads[-1]
    return Entry(path, size, used, head["project"], head["table"], head["rows"], used, began=began)


def _head(path: Path) -> dict[str, Any]:
    with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return snapshot.read_head(raw)


def in_units(size: int) -> str:
    """Bytes in the unit that people read.

    >>> in_units(999), in_units(1_500_000)
    ('999 B', '1.5 MB')
    """
    if size < 1000:
        return f"{size} B"
    units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
    length, unit = next(one for one in units if size >= one[0])
    return f"{size / length:.1f} {unit}"
