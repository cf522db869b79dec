"""What a mirror knows that another one, in a kernel that starts later, goes on from."""

from __future__ import annotations

import msgspec


class Memory(msgspec.Struct, frozen=True):
    """Server times, in seconds since the epoch, how far the watermark is believed, and the log's position."""

    since: float | None = None
    """Nothing that was committed before is missing from the rows; None: it was never proven."""
    heard: float | None = None
    """What was committed until then may be in the rows already."""
    believed: bool = False
    """Whether no change was seen that did not move the watermark (``watermark.py``)."""
    moved: bool = False
    """Whether a change was seen that moved it."""
    epoch: str = ""
    """Of the log of changes that was followed (``broadcast.py``); empty: none was."""
    position: str = ""
    """What it sees is in the rows; empty: there was no such position."""
