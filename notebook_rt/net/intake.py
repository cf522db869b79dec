"""A websocket connection that hands each message on the moment it is parsed.

``websockets`` puts frames into a queue that a task takes them out of, one at a time; here a message
goes straight to ``on_message``, in the turn of the loop in which its bytes came. Back-pressure stays
where it belongs: a turn reads one chunk of TCP, and its changes are applied before the next
(``net/driver.py``), so what cannot be applied stays in the server's and the kernel's buffers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

logger = logging.getLogger("notebook_rt")


class Intake(ClientConnection):
    """``process_event`` is ``websockets``' own hook for subclasses."""

    def __init__(self, *args: Any, on_message: Callable[[bytes], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_message = on_message
        self._parts: list[bytes] = []

    def process_event(self, event: Any) -> None:
        """Take a frame: text goes on, the rest is the base class' business."""
        if not isinstance(event, Frame) or event.opcode not in (
            Opcode.TEXT,
            Opcode.BINARY,
            Opcode.CONT,
        ):
            super().process_event(event)
            return
        data: bytes = bytes(event.data)
        if self._parts or not event.fin:
            self._parts.append(data)
            if not event.fin:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        try:
            self.on_message(data)
        except Exception:  # nothing of ours may break the protocol below
            logger.exception("a message could not be taken in")
