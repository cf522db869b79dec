"""What has come over a session's socket, counted; there before the socket is."""

from __future__ import annotations

import msgspec


class Traffic(msgspec.Struct):
    """Written on the loop, read from any thread."""

    frames: int = 0
    bytes_received: int = 0
    last_frame_at: float = 0.0
    """By the monotonic clock, in seconds."""
    unknown: int = 0
    """Frames, events, statuses and keys that this version does not know; they are ignored."""
