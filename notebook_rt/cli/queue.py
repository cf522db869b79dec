"""``notebook-rt queue``: list, show, retry, discard and export unsent writes, when no kernel runs.

It only reads and marks them; nothing is sent from here. Retried writes are sent by the next kernel of their
login.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from notebook_rt.edits.listing import in_states, state, what
from notebook_rt.edits.ops import Op
from notebook_rt.errors import QueueError
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.file import directory
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.sessions import session_of
from notebook_rt.queue import Queue, as_json, dumps
from notebook_rt.quoting import printable


def run(arguments: argparse.Namespace) -> int:
    """Run ``notebook-rt queue``; return the exit status.

    Raises
    ------
    QueueError
        If there is no such file or operation.
    """
    try:
        _carry_out(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _carry_out(arguments: argparse.Namespace) -> None:
    if arguments.file is not None and not arguments.file.is_file():
        raise QueueError(f"there is no file {arguments.file}")
    if arguments.action in ("show", "discard") and not arguments.id:
        raise QueueError(f"which operation? notebook-rt queue {arguments.action} ID")
    if isinstance(sys.stdout, io.TextIOWrapper):  # for a terminal that cannot show a character
        sys.stdout.reconfigure(errors="replace")
    files = [arguments.file] if arguments.file is not None else list(queue_files())
    match arguments.action:
        case "list":
            _list(files)
        case "export":
            print(dumps({str(file): _export(file) for file in files}))
        case "retry" if not arguments.id:
            number = sum(map(_retry_all, files))
            leave = "operation leaves" if number == 1 else "operations leave"
            print(f"{number} {leave} with the next kernel")
        case _:
            _one(files, arguments.action, arguments.id)


def queue_files() -> Iterator[Path]:
    """Return the files of this user's queues, one for each project and login."""
    if directory().is_dir():
        yield from sorted(directory().glob("*.sqlite3"))


def _list(files: list[Path]) -> None:
    empty = True
    for file in files:
        with closing(Outbox(file)) as outbox:
            ops, sessions = outbox.ops(), outbox.sessions()
        for owner, its in itertools.groupby(sorted(ops, key=_owner), key=_owner):
            empty = False
            ops = list(its)
            _say(f"{file}: {Owner.read(owner).description}")
            _say(f"  {in_states(ops)}")
            for op in ops:
                why = f": {op.error}" if op.error else ""
                by = session_of(op, sessions)
                _say(f"  {op.id}  {state(op):8} {what(op)}{why}{f'  by {by}' if by else ''}")
    if empty:
        print("nothing waits")


def _owner(op: Op) -> str:
    return op.owner


def _export(file: Path) -> list[object]:
    with closing(Outbox(file)) as outbox:
        return list(Queue(outbox).export())


def _retry_all(file: Path) -> int:
    with closing(Outbox(file)) as outbox:
        return outbox.retry()


def _one(files: list[Path], action: str, beginning: str) -> None:
    found = []
    for file in files:
        with closing(Outbox(file)) as outbox:
            found += [(file, op) for op in outbox.ops() if op.id.startswith(beginning)]
    if len(found) != 1:
        number = "no operation" if not found else f"{len(found)} operations"
        raise QueueError(f"{number} with an id that begins with {beginning!r}")
    ((file, op),) = found
    with closing(Outbox(file)) as outbox:
        if action == "show":
            print(dumps(as_json(op)))
        elif action == "retry":
            if not outbox.retry(op.id):
                raise QueueError(f"{op.id} has not failed: it leaves with the next kernel")
            _say(f"{op.id} leaves with the next kernel")
        else:
            for dropped in outbox.discard(op.id):
                _say(f"discarded {dropped.id}  {what(dropped)}")


def _say(text: str) -> None:
    print(printable(text))
