"""Convert the advice in messages from Python to the command line.

In: a session's messages (health, a table's reason, the log). Out: those that ``doctor`` and ``watch`` print.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Final

_COMMANDS: Final = {
    "rt.queue.resume() or rt.queue.retry()": "retry",
    "rt.queue.retry()": "retry",
    ".retry()": "retry",
    ".discard(id)": "discard ID",
    "discard(key)": "discard ID",
    "rt.queue.df": "list",
    "rt.queue": "list",
}
_SAID: Final = re.compile("|".join(rf"(?<![\w.]){re.escape(said)}(?![\w(.])" for said in _COMMANDS))


def in_shell(text: str) -> str:
    """Return ``text`` with the queue's commands instead of its methods.

    >>> in_shell("rt.queue.df lists it: rt.queue.retry() sends it again")
    '`notebook-rt queue list` lists it: `notebook-rt queue retry` sends it again'
    """
    return _SAID.sub(lambda found: f"`notebook-rt queue {_COMMANDS[found.group()]}`", text)


def _say_in_shell(record: logging.LogRecord) -> bool:
    record.msg, record.args = in_shell(record.getMessage()), ()
    return True


@contextlib.contextmanager
def log_in_shell() -> Iterator[None]:
    """Convert the messages of the package's log, too."""
    logger = logging.getLogger("notebook_rt")
    logger.addFilter(_say_in_shell)
    try:
        yield
    finally:
        logger.removeFilter(_say_in_shell)
