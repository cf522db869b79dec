"""What named alerts (``LiveFrame.when``) remember, so that another kernel does not report a row again.

One SQLite file per project and login, in the user's state directory, mode 0600. It contains the keys of
the matching rows, and whether each was reported; no other column of a row, no key of a project and no
token.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import platformdirs

from notebook_rt.disk.shelf import check, make_directory
from notebook_rt.disk.values import dump, dump_key, key_of, load
from notebook_rt.model.rows import Key
from notebook_rt.model.types import Schema

_TABLES: Final = """
create table if not exists alerts (
    name text primary key,
    columns text not null
) without rowid;
create table if not exists matching (
    name text not null,
    key blob not null,
    told integer not null,
    primary key (name, key)
) without rowid;
"""
LOCKED_SECONDS: Final = 10.0
"""How long a write waits for another kernel's write to end."""


def path_for(project: str, login: str) -> Path:
    """Return the file of a project and login; its name reveals only the project's host."""
    project = project.rstrip("/")
    host = re.sub(r"[^\w.-]", "_", urlsplit(project).netloc).strip(".")[:80]
    digest = hashlib.sha256(f"{project}\n{login}".encode()).hexdigest()[:24]
    return Path(platformdirs.user_state_dir("notebook_rt")) / "alerts" / f"{host}-{digest}.sqlite3"


class Memory:
    """What the alert ``name`` remembers for one project and login. Used by one thread at a time.

    Raises
    ------
    OSError, sqlite3.Error, RefusedFileError
        Here and in each method, if the file cannot be accessed or is open to others.
    """

    def __init__(self, project: str, login: str, name: str, schema: Schema) -> None:
        self._name = name
        self._schema = schema
        path = path_for(project, login)
        make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        check(path.lstat(), path)
        self._file = sqlite3.connect(
            path, timeout=LOCKED_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._file.execute("pragma journal_mode = wal")
        self._file.execute("pragma synchronous = normal")
        self._file.executescript(_TABLES)

    def read(self) -> dict[Key, bool] | None:
        """Return each matching key and whether it was reported; None: nothing was ever stored.

        Entries of rows with another key are deleted.
        """
        columns = "\n".join(self._schema.key)
        known = self._file.execute(
            "select columns from alerts where name = ?", (self._name,)
        ).fetchone()
        if known is not None and known[0] == columns:
            rows = self._file.execute(
                "select key, told from matching where name = ?", (self._name,)
            )
            with contextlib.suppress(ValueError):
                return {key_of(load(key), self._schema): bool(told) for key, told in rows}
        self._file.execute("delete from matching where name = ?", (self._name,))
        self._file.execute("delete from alerts where name = ?", (self._name,))
        return None

    def write(self, turns: Iterable[tuple[Key, bool | None]], *, replace: bool = False) -> None:
        """Store that rows match, and whether each was reported; None: the row no longer matches.

        ``replace`` removes the stored rows first.
        """
        with self._file:
            self._file.execute("begin immediate")
            if replace:
                self._file.execute("delete from matching where name = ?", (self._name,))
                self._file.execute("delete from alerts where name = ?", (self._name,))
            self._file.execute(
                "insert or ignore into alerts values (?, ?)",
                (self._name, "\n".join(self._schema.key)),
            )
            for key, told in turns:
                raw = dump(dump_key(key, self._schema))
                if told is None:
                    self._file.execute(
                        "delete from matching where name = ? and key = ?", (self._name, raw)
                    )
                else:
                    self._file.execute(
                        "insert or replace into matching values (?, ?, ?)", (self._name, raw, told)
                    )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
