"""A websocket connection that passes on each message in the turn of the loop in which it arrives.

``websockets`` puts messages into a queue, from which a task takes them one at a time. Here ``process_event``,
its hook for subclasses, passes them directly to ``on_message``. Cutting whole frames out of the bytes before
``websockets`` reads them was faster, but not worth its code (``docs/design/performance.md``, "Decided by
measuring").

Back-pressure is preserved: a turn reads one chunk of TCP, and its changes are applied before the next one
(``runtime/driver.py``), so excess data stays in the buffers of the server and the operating system. There,
streaming messages also wait for a few more, at most 6 ms (``sync/connection/gathering.py``).
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
"""Number of consecutive frames that end no message (pings, fragments) at which the connection is closed;
fragments of 1 KiB allow a message of 10 MiB. A server that sends them endlessly would keep the loop busy,
and fill the memory with answers if it does not read them."""
_STEP: Final = 16_384
"""Bytes passed to ``websockets`` at a time: at most 8,000 empty frames before they are counted."""


class Intake(ClientConnection):
    """``data_received`` is called by asyncio; ``process_event`` is a hook of ``websockets``."""

    def __init__(self, *args: Any, on_message: Callable[[bytes], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.on_message = on_message
        self._parts: list[bytes] = []
        self._deferred = 0
        """Number of frames since the last whole message."""
        self._ending = False
        self._gathering = Gathering()
        self._messages = 0
        """Number of whole messages in this turn."""
        self._resting: asyncio.TimerHandle | None = None
        """The timer that ends a pause of reading TCP; None: no pause."""

    def data_received(self, data: bytes) -> None:
        """Process data from TCP."""
        now = self.loop.time()
        self._messages = 0
        for at in range(0, len(data), _STEP):
            super().data_received(data[at : at + _STEP])
        pause = self._gathering.pause(self._messages, now)
        if pause and self._resting is None and self.protocol.state is State.OPEN:
            self.transport.pause_reading()
            self._resting = self.loop.call_at(now + pause, self._read_on)
        if self.protocol.state is State.CLOSING and not self._ending:
            # Nothing matters any more, but websockets would wait forever for the server to close TCP.
            self._ending = True
            self.loop.call_later(self.close_timeout or 0.0, self.transport.abort)

    def _read_on(self) -> None:
        self._resting = None
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of TCP."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connection_lost(exc)

    def process_event(self, event: Any) -> None:
        """Handle a frame from ``websockets``: pass on text, and leave the rest to the base class."""
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
        except Exception:  # our exceptions must not break the protocol
            logger.exception("a message could not be taken in")
