"""Directories of local stacks, copied from one that ran before, so that a start needs no new database.

`initdb` takes 0.8 s of the processor, and some seconds where the disk is slow. How a directory is made
anew is a matter of ``local/test_stack.py``, which starts from nothing.
"""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from notebook_rt.local import start


def template(folder: Path) -> Path:
    """A stack's directory in ``folder``, made by the first process of a run that asks for it.

    Its PostgreSQL does not wait for the disk: what is committed survives its end, and that of the
    run's processes, but not the machine's.
    """
    made = folder / "stack-template"
    with (folder / "stack-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            aside = folder / "stack-template.new"
            with start(aside) as stack:
                stack.sql("alter system set fsync = off")
            (aside / "port").unlink()  # each copy has a port of its own
            aside.rename(made)
    return made


def copied(made: Path, into: Path) -> Path:
    """``into``, as a copy of ``made``; it may be there, and empty."""
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{made}/.", into], check=True)  # owners, too: shutil does not
    return into
