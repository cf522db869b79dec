"""A websocket connection that hands each message on in the turn of the loop in which it came.

``websockets`` puts messages into a queue that a task takes them out of, one at a time. Here
``process_event``, its own hook for subclasses, hands them straight to ``on_message``. To cut whole frames
out of the bytes before ``websockets`` sees them was quicker, and not worth its lines
(``docs/design/performance.md``, "Decided by measuring").

Back-pressure stays where it belongs: a turn reads one chunk of TCP, and its changes are applied before
the next (``runtime/driver.py``), so what cannot be applied stays in the server's and the kernel's buffers.
There messages that stream in also wait for a few more, at most 6 ms (``sync/connection/gathering.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State

from notebook_rt.sync.connection.gathering import Gathering

logger = logging.getLogger("notebook_rt")

MAX_ASIDE: Final = 10_000
"""Frames in a row that end no message (pings, parts) before the connection is closed: parts of 1 KiB
make up a message of 10 MiB. A server that sends them without end would keep the loop busy, and fill
the memory with what they are answered with where it does not read."""
_STEP: Final = 16_384
"""Bytes that ``websockets`` is given at a time: 8,000 empty frames at most before they are counted."""


class Intake(ClientConnection):
    """``data_received`` is asyncio's, ``process_event`` is ``websockets``' own hook for subclasses."""

    def __init__(self, *args: Any, on_message: Callable[[bytes], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_message = on_message
        self._parts: list[bytes] = []
        self._deferred = 0
        """Frames since the last whole message."""
        self._ending = False
        self._gathering = Gathering()
        self._messages = 0
        """Whole messages in this turn."""
        self._resting: asyncio.TimerHandle | None = None
        """What ends the pause in which TCP is not read; None: it is read."""

    def data_received(self, data: bytes) -> None:
        """Take what came over TCP."""
        now = self.loop.time()
        self._messages = 0
        for at in range(0, len(data), _STEP):
            super().data_received(data[at : at + _STEP])
        pause = self._gathering.pause(self._messages, now)
        if pause and self._resting is None and self.protocol.state is State.OPEN:
            self.transport.pause_reading()
            self._resting = self.loop.call_at(now + pause, self._read_on)
        if self.protocol.state is State.CLOSING and not self._ending:
            # Nothing counts any more, but websockets waits for the server to close TCP, for ever.
            self._ending = True
            self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def _read_on(self) -> None:
        self._resting = None
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """TCP has ended."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connection_lost(exc)

    def process_event(self, event: Any) -> None:
        """Take a frame from ``websockets``: text goes on, the rest is the base class' business."""
        self._deferred += 1
        if self._deferred > MAX_ASIDE and self.protocol.state is State.OPEN:
            self.protocol.fail(CloseCode.POLICY_VIOLATION, f"{MAX_ASIDE} frames without a message")
            self.send_data()
            return
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
        self._deferred = 0
        self._messages += 1
        try:
            self.on_message(data)
        except Exception:  # nothing of ours may break the protocol below
            logger.exception("a message could not be taken in")
