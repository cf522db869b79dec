"""The queue's file: its path, its tables, and how an older or a damaged one is taken over.

A damaged file does not prevent the start: it is set aside, and its readable part is saved (``salvage``).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

from notebook_rt.errors import QueueError
from notebook_rt.outbox import salvage
from notebook_rt.outbox.account import Owner

logger = logging.getLogger("notebook_rt")

MIGRATIONS: list[str] = [
    """
    create table ops (
        seq integer primary key autoincrement,
        id text not null unique,
        kind text not null,
        schema text not null,
        target text not null,
        lane text not null,
        body text not null,
        made_at real not null,
        expires_at real,
        state text not null default 'waiting',
        blocked integer not null default 0,
        sent integer not null default 0,
        attempts integer not null default 0,
        not_before real not null default 0,
        error text not null default ''
    );
    create index ops_lane on ops (lane, seq);
    create index ops_ready on ops (state, blocked, seq);
    create index ops_expiry on ops (expires_at) where expires_at is not null;
    create table lease (
        one integer primary key check (one = 1),
        owner text not null,
        fence integer not null,
        until real not null
    );
    insert into lease values (1, '', 0, 0);
    create table done (id text primary key, seq integer not null, row text) without rowid;
    create index done_seq on done (seq);
    create table conflicts (
        number integer primary key autoincrement,
        op text not null,
        schema text not null,
        target text not null,
        open integer not null,
        record text not null
    );
    create index conflicts_target on conflicts (schema, target, number);
    create index conflicts_op on conflicts (op);
    """,
    # The owner of each row (account.py); '' is unknown. Each owner's kernels have their own lease.
    """
    alter table ops add column owner text not null default '';
    alter table conflicts add column owner text not null default '';
    drop index ops_lane;
    drop index ops_ready;
    drop index conflicts_target;
    create index ops_lane on ops (owner, lane, seq);
    create index ops_ready on ops (owner, state, blocked, seq);
    create index conflicts_target on conflicts (owner, schema, target, number);
    drop table lease;
    create table leases (
        owner text primary key,
        kernel text not null,
        fence integer not null,
        until real not null,
        syncs integer not null default 0
    ) without rowid;
    """,
    # Operations that an older version sent may have used the ledger: it did not record that.
    """
    update ops set body = json_set(body, '$.untold', json('true'))
    where sent = 1 and kind = 'update' and json_valid(body);
    """,
    # Which session put an operation in (sessions.py); '' is unknown.
    """
    create table sessions (
        id text primary key,
        name text not null,
        started real not null,
        paused integer not null,
        ended real
    ) without rowid;
    alter table ops add column session text not null default '';
    """,
    # Whether an operation keeps its place among those of other rows (ops.keeps_place).
    """
    alter table ops add column barrier integer not null default 0;
    update ops set barrier = 1 where kind in ('insert', 'delete', 'rpc') or (
        kind = 'update' and json_valid(body) and exists (
            select 1 from json_each(body, '$.key') one join json_each(body, '$.values') other
            on one.key = other.key
        )
    );
    create index ops_barrier on ops (owner, seq) where barrier = 1;
    """,
]
"""Each step raises the file's version by one; steps are never changed, only added."""

IN_MEMORY = Path(":memory:")
LOCKED_SECONDS = 10.0
"""How long a write waits for another kernel's write to end."""


def directory() -> Path:
    """Return the default directory of the queues."""
    return Path(platformdirs.user_state_dir("notebook_rt")) / "outbox"


def path_for(owner: Owner) -> Path:
    """Return the path of one project and login's file, in the user's state directory."""
    netloc = urlsplit(owner.project).netloc
    host = "".join(c if c.isalnum() or c in ".-" else "_" for c in netloc).strip(".")[:80]
    named = f"{owner.project.rstrip('/')}\n{owner.login}"
    digest = hashlib.sha256(named.encode()).hexdigest()[:12]
    return directory() / f"{host}-{digest}.sqlite3"


def open_file(path: Path) -> sqlite3.Connection:
    """Open (or create) the queue's file, migrated to this version; commits do not sync (``normal``).

    With ``:memory:`` no file is created: the queue of a session that has not written yet.

    Raises
    ------
    QueueError
        If the file cannot be created or opened, a damaged one cannot be set aside, a newer version of
        the package wrote it, or it is not a queue but another file of the user.
    """
    if path == IN_MEMORY:
        return _connect(path)
    try:
        _check_owner(path)
        if salvage.is_foreign(path):
            raise _no_queue(path)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with salvage.alone(path):
            return _open_alone(path)
    except OSError as error:
        raise QueueError(
            f"the queue's file {path} cannot be made: {error}. Pass queue_path=... to "
            "nrt.connect(...) to keep it elsewhere"
        ) from error
    except sqlite3.Error as error:
        raise QueueError(
            f"the queue's file {path} cannot be opened: {error}. Free some space if the disk is "
            "full, or pass queue_path=... to nrt.connect(...) to keep it elsewhere"
        ) from error


def _open_alone(path: Path) -> sqlite3.Connection:
    if not salvage.is_unfinished(path):
        # Created here, with its mode, before SQLite does, so that other users can read it at no time.
        salvage.make_private(path)
        _check_owner(path)
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError as error:
            if not salvage.is_damage(error):
                raise
        else:
            _close_to_others(path)
            return connection
    _close_to_others(path)
    try:
        if not salvage.is_unfinished(path):
            salvage.save(path, _connect)
        aside = salvage.replace(path)
        connection = _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise QueueError(
            f"the queue's file {path} is damaged, and could not be set aside: {error}. Free some "
            "space if the disk is full and end other kernels that use it, then connect again; or "
            "pass queue_path=... to nrt.connect(...): what can be read of it stays where it is"
        ) from error
    (saved,) = connection.execute("select count(*) from ops").fetchone()
    logger.warning(
        "the queue's file was damaged: it is kept as %s, and %d unsent operations of it were saved",
        aside,
        saved,
    )
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    # One connection is used by one thread at a time, under the Outbox' lock.
    connection = sqlite3.connect(
        path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.row_factory = sqlite3.Row
        tables = {name for (name,) in connection.execute("select name from sqlite_master")}
        if tables and "ops" not in tables:
            raise _no_queue(path)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        _migrate(connection, path)
        (verdict,) = connection.execute("pragma quick_check(1)").fetchone()
        if verdict != "ok" or salvage.is_torn(connection):
            damaged = sqlite3.DatabaseError(verdict)
            damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damaged
    except BaseException:
        connection.close()
        raise
    return connection


def _check_owner(path: Path) -> None:
    """Refuse a file that another user has, or may have, written: its operations would be sent.

    The same holds for the lock and SQLite's files next to it. Files are only checked, not opened (see
    `make_private`).
    """
    if not hasattr(os, "geteuid"):
        return
    for file in _files(path):
        if file.is_symlink() and (file != path or not file.exists()):
            raise _not_ours(file, "is a link to nothing" if file == path else "is a link")
        try:
            status = file.stat()
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid():
            raise _not_ours(file, f"belongs to user {status.st_uid}, not to you")
        if status.st_mode & 0o022:
            raise _not_ours(
                file, f"may be written by others; if you trust what is in it: chmod 600 {file}"
            )


def _close_to_others(path: Path) -> None:
    """Remove other users' read permission from a file that is now known to be a queue."""
    if not hasattr(os, "geteuid"):
        return
    for file in _files(path):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mode & 0o044:
                file.chmod(0o600)


def _files(path: Path) -> list[Path]:
    """Return the queue's file, the lock, and the files that SQLite may create next to it."""
    return [path.with_name(path.name + end) for end in ("", ".lock", "-wal", "-shm", "-journal")]


def _not_ours(file: Path, why: str) -> QueueError:
    return QueueError(
        f"the queue's file {file} {why}. It is left as it is; pass another queue_path=... to "
        "nrt.connect(...)"
    )


def _no_queue(path: Path) -> QueueError:
    return QueueError(
        f"{path} is no queue's file, and is left as it is: pass another queue_path=... to "
        "nrt.connect(...), or the right --file"
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("begin immediate")
    try:
        version = _version(connection)  # another kernel may have been first
        if version > len(MIGRATIONS):
            raise QueueError(
                f"the queue's file {path} was written by a newer notebook_rt (format {version}, "
                f"this one knows {len(MIGRATIONS)}): upgrade, or pass another queue_path"
            )
        for step in MIGRATIONS[version:]:
            for statement in step.split(";"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"pragma user_version = {len(MIGRATIONS)}")
        connection.execute("commit")
    except BaseException:
        connection.execute("rollback")
        raise


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("pragma user_version").fetchone()
    return int(version)
