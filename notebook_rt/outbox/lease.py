"""Which of an owner's kernels on one file sends: a row in the file, with a fencing number.

Every owner (project and login) has its own lease, so that owners do not wait for each other's kernels.
The number increases whenever the lease changes hands, so a kernel that slept through the end of its
lease is distinguished from the holder, even if it has the same name. A holder whose process is dead
does not delay others.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import uuid
from pathlib import Path

import msgspec

from notebook_rt.errors import QueueError

LEASE_SECONDS = 15.0


class LeaseLostError(QueueError):
    """Another kernel sends from this file now."""


def kernel_name() -> str:
    """Return a new name: ``host:process:random``, and ``-began`` if the process's start time is known."""
    began = _began(os.getpid())
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}{began and '-'}{began}"


def _began(process: int) -> str:
    """Return when a living process started, in the system's units; empty if unknown (not Linux)."""
    try:
        stat = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return ""
    # Field 22 (proc(5)), in ticks since boot; the second field is a name in parentheses.
    return stat.rpartition(b")")[2].split()[19].decode()


class Lease(msgspec.Struct):
    """One kernel's side of the lease. Each method runs inside a transaction of the caller."""

    owner: str
    """Owner of the operations that are sent (``str`` of an `Owner`)."""
    kernel: str = msgspec.field(default_factory=kernel_name)
    """See `kernel_name`."""
    seconds: float = LEASE_SECONDS
    fence: int = 0
    """The number of this kernel's lease; 0: it never had one."""

    def take(self, db: sqlite3.Connection, now: float) -> bool:
        """Take or extend the lease. Return False if another living kernel has it."""
        kernel, fence, until = self._held(db)
        if (kernel, fence) == (self.kernel, self.fence):
            if until > now + self.seconds * 2 / 3:
                return True
        elif kernel and until > now and is_alive(kernel):
            self.fence = 0
            return False
        else:
            self.fence = fence + 1
        db.execute(
            "insert into leases (owner, kernel, fence, until) values (?, ?, ?, ?) "
            "on conflict (owner) do update set (kernel, fence, until) = "
            "(excluded.kernel, excluded.fence, excluded.until)",
            (self.owner, self.kernel, self.fence, now + self.seconds),
        )
        return True

    def check(self, db: sqlite3.Connection) -> None:
        """Raise `LeaseLostError` if another kernel has the lease."""
        if self._held(db)[:2] != (self.kernel, self.fence):
            raise LeaseLostError("another kernel sends from this queue now")

    def release(self, db: sqlite3.Connection) -> None:
        """Let another kernel take the lease at once."""
        db.execute(
            "update leases set until = 0, kernel = '' where owner = ? and kernel = ? and fence = ?",
            (self.owner, self.kernel, self.fence),
        )
        self.fence = 0

    def sync(self, db: sqlite3.Connection) -> None:
        """Write a change, so that the commit syncs the file; SQLite skips an unchanged page."""
        db.execute(
            "insert into leases values (?, '', 0, 0, 1) "
            "on conflict (owner) do update set syncs = syncs + 1",
            (self.owner,),
        )

    def _held(self, db: sqlite3.Connection) -> tuple[str, int, float]:
        held: tuple[str, int, float] | None = db.execute(
            "select kernel, fence, until from leases where owner = ?", (self.owner,)
        ).fetchone()
        return ("", 0, 0.0) if held is None else (held[0], held[1], held[2])


def is_alive(kernel: str) -> bool:
    """Return whether the process that a lease names is alive; on another machine, True until it expires.

    A different process may have the number of an ended one: its start time differs.
    """
    process, _, random = kernel.rpartition(":")
    host, _, rest = process.partition(":")
    if os.name == "nt" or host != socket.gethostname() or not rest.isdigit():
        return True  # on Windows signal 0 cannot be used to check: it would interrupt the process
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    began = random.partition("-")[2]
    return not began or _began(int(rest)) in ("", began)
