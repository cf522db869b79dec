"""Which of the kernels on one file sends: a row in it, with a fencing number.

The number goes up whenever the lease changes hands, so a kernel that slept through its end is told
apart from the holder, even if it has the same name. A holder whose process is dead holds nobody up.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import uuid
from dataclasses import dataclass, field

from notebook_rt.errors import QueueError

LEASE_SECONDS = 15.0


class LeaseLostError(QueueError):
    """Another kernel sends from this file now."""


def _name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


@dataclass(slots=True)
class Lease:
    """One kernel's side of the lease. Each method runs inside a transaction of the caller's."""

    owner: str = field(default_factory=_name)
    """``host:process:random``."""
    seconds: float = LEASE_SECONDS
    fence: int = 0
    """Our number; 0: we never had it."""

    def take(self, db: sqlite3.Connection, now: float) -> bool:
        """Take or extend it. False: another living kernel has it."""
        held = db.execute("select owner, fence, until from lease").fetchone()
        if (held["owner"], held["fence"]) == (self.owner, self.fence):
            if held["until"] > now + self.seconds * 2 / 3:
                return True
        elif held["owner"] and held["until"] > now and _alive(held["owner"]):
            self.fence = 0
            return False
        else:
            self.fence = int(held["fence"]) + 1
        db.execute(
            "update lease set owner = ?, fence = ?, until = ?",
            (self.owner, self.fence, now + self.seconds),
        )
        return True

    def check(self, db: sqlite3.Connection) -> None:
        """Raise `LeaseLostError` if it is another's."""
        held = db.execute("select owner, fence from lease").fetchone()
        if (held["owner"], held["fence"]) != (self.owner, self.fence):
            raise LeaseLostError("another kernel sends from this queue now")

    def release(self, db: sqlite3.Connection) -> None:
        """Let another have it at once."""
        db.execute(
            "update lease set until = 0, owner = '' where owner = ? and fence = ?",
            (self.owner, self.fence),
        )
        self.fence = 0


def _alive(owner: str) -> bool:
    """Whether the process that a lease names lives; of another machine, yes until it expires."""
    host, _, rest = owner.rpartition(":")[0].partition(":")
    if os.name == "nt" or host != socket.gethostname() or not rest.isdigit():
        return True  # on Windows signal 0 is no question: it would interrupt the process
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
