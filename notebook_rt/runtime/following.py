"""Records which live frames a function reads while it runs, so that its result can be kept up to date.

Input: ``note(frame)`` for each frame that is read. Output: the frames with the versions they had. Reads in
another thread are not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.feed import Feed


class Followed(Protocol):
    """The part of a live frame that computations from it use."""

    _feed: Feed
    _removers: list[Callable[[], None]]

    @property
    def name(self) -> str: ...

    @property
    def _whole(self) -> pd.DataFrame:
        """The snapshot, the same object until it has changed; it must not be modified."""

    @property
    def version(self) -> int: ...

    def wait(self, timeout: float | None = None) -> object:
        """Wait for its first data."""

    def _check(self) -> None:
        """Raise if it is closed."""

    def _check_error(self) -> None:
        """Raise if it is in error."""

    def _attach(self, put: Callable[[ChangeBatch], None]) -> Callable[[], None]:
        """Have the loop call ``put`` with each batch; return a function that ends that."""


Reads: TypeAlias = "dict[Feed, tuple[Followed, int]]"
"""The frames that were read: a handle on each feed, and its version before the first read."""

_reads: ContextVar[Reads | None] = ContextVar("_reads", default=None)
_readers: ContextVar[tuple[object, ...]] = ContextVar("_readers", default=())


@contextmanager
def recording(reader: object) -> Iterator[Reads]:
    """Record in the result what the block, run for ``reader``, reads."""
    reads: Reads = {}
    before, readers = _reads.set(reads), _readers.set((*_readers.get(), reader))
    try:
        yield reads
    finally:
        _reads.reset(before)
        _readers.reset(readers)


def is_running(reader: object) -> bool:
    """Return whether its own function reads it, directly or through other readers."""
    return any(one is reader for one in _readers.get())


def note(frame: Followed) -> None:
    """Note that ``frame`` is about to be read."""
    reads = _reads.get()
    if reads is not None and frame._feed not in reads:
        reads[frame._feed] = (frame, frame.version)


def note_all(reads: Reads) -> None:
    """Note that a result computed from these reads is about to be read."""
    outer = _reads.get()
    if outer is not None:
        for feed, read in reads.items():
            outer.setdefault(feed, read)
