"""The state of a mirror from which a mirror in a later kernel continues."""

from __future__ import annotations

import msgspec


class Memory(msgspec.Struct, frozen=True):
    """Server times in seconds since the epoch, the state of the watermark, and the log's position."""

    since: float | None = None
    """No earlier commit is missing from the rows; None: this was never proven."""
    heard: float | None = None
    """Commits until this time may already be in the rows."""
    believed: bool = False
    """Whether every received change moved the watermark (``watermark.py``)."""
    moved: bool = False
    """Whether a received change moved it."""
    epoch: str = ""
    """The epoch of the followed log of changes (``broadcast.py``); empty: none."""
    position: str = ""
    """The changes that it sees are in the rows; empty: no position."""
