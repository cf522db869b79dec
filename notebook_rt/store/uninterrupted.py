"""Work that Ctrl-C does not interrupt.

A read applies the columns' step in the reading thread, which may be the one where Python raises
``KeyboardInterrupt``, between any two lines. Work in `uninterrupted` is completed; an interrupt that
arrives meanwhile is delivered afterwards.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT until the block has ended; in other threads than the main thread do nothing."""
    here = threading.get_ident() == threading.main_thread().ident
    handler = signal.getsignal(signal.SIGINT) if here else None
    if not callable(handler):
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *came: held.append(came))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        handler(*held[0])
