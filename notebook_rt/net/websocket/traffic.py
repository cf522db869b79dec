"""Counters of a session's socket; they exist before the socket."""

from __future__ import annotations

import msgspec


class Traffic(msgspec.Struct):
    """Written on the loop, read from any thread."""

    frames: int = 0
    bytes_received: int = 0
    last_frame_at: float = 0.0
    """In monotonic seconds."""
    unknown: int = 0
    """Number of unknown frames, events, statuses and keys, which are ignored."""
