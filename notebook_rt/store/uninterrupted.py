"""Work that Ctrl-C does not cut in two.

A read takes the columns' step in the thread that reads, which may be the one where Python raises
``KeyboardInterrupt``, between any two lines. In goes work that must be done whole; an interrupt that
comes meanwhile is delivered when it is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT until the block has ended; in another thread than the main one do nothing."""
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
