"""Which session of which notebook or script put an operation into the queue, and which are paused.

A session has a row from its first operation, or its first pause, until no operation of it is left. The
operations of a paused session are sent by no other session. If it ends while paused, this lasts until
the user requests that they be sent (`Outbox.retry`). Each function runs inside a transaction of the
caller.
"""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from notebook_rt.edits.ops import Op
from notebook_rt.outbox.lease import is_alive


class Session(msgspec.Struct, frozen=True):
    """One session; ``id`` is its kernel's name (`Lease`)."""

    id: str
    name: str
    """The notebook's or script's file name."""
    started: float
    """Seconds since the epoch."""
    paused: bool = False
    ended: float | None = None


def program() -> str:
    """Return the file name of this process' notebook or script; empty if it has none.

    Jupyter puts a notebook's path into ``JPY_SESSION_NAME``.
    """
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    script = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return Path(notebook or script).name


def note(db: sqlite3.Connection, session: Session) -> None:
    """Store a session, and delete ended ones without operations."""
    known = db.execute("select paused from sessions where id = ?", (session.id,)).fetchone()
    if known is not None and bool(known["paused"]) == session.paused:
        return
    db.execute(
        "insert into sessions values (?, ?, ?, ?, null) "
        "on conflict (id) do update set paused = excluded.paused",
        (session.id, session.name, session.started, session.paused),
    )
    db.execute(
        "delete from sessions where ended is not null and id not in (select session from ops)"
    )


def end(db: sqlite3.Connection, session: Session, now: float) -> None:
    """Store that a session has ended; it stays paused if it was."""
    db.execute("update sessions set ended = ? where id = ?", (now, session.id))


def is_paused(db: sqlite3.Connection, session: str) -> bool:
    """Return whether a session is paused, or was when it ended."""
    found = db.execute("select 1 from sessions where id = ? and paused", (session,))
    return found.fetchone() is not None


def held(db: sqlite3.Connection, but: str) -> list[str]:
    """Return the other sessions that are paused, or were when they ended."""
    rows = db.execute("select id from sessions where paused and id != ?", (but,))
    return [row["id"] for row in rows]


def left(db: sqlite3.Connection, but: str) -> list[str]:
    """Return the other sessions that were paused when they ended."""
    return [session for session in held(db, but) if is_over(db, session)]


def is_over(db: sqlite3.Connection, session: str) -> bool:
    """Return whether a session has ended, or was killed."""
    ended = db.execute(
        "select 1 from sessions where id = ? and ended is not null", (session,)
    ).fetchone()
    return ended is not None or not is_alive(session)


def find(db: sqlite3.Connection) -> dict[str, Session]:
    """Return all known sessions, by their id."""
    return {
        row["id"]: Session(
            row["id"], row["name"], row["started"], bool(row["paused"]), row["ended"]
        )
        for row in db.execute("select * from sessions")
    }


def is_ended(session: Session) -> bool:
    """Return whether a session has ended, or was killed."""
    return session.ended is not None or not is_alive(session.id)


def session_of(op: Op, sessions: Mapping[str, Session]) -> str:
    """Describe the session that last edited an operation in a few words; empty if unknown."""
    session = sessions.get(op.session)
    if session is None:
        return ""
    host, _, rest = session.id.rpartition(":")[0].partition(":")
    since = dt.datetime.fromtimestamp(session.started, dt.UTC)
    state = ", paused" if session.paused else ""
    if is_ended(session):
        state = ", ended while paused" if session.paused else ", ended"
    name = session.name or "python"
    return f"{name} (process {rest} on {host}, since {since:%Y-%m-%d %H:%M} UTC{state})"
