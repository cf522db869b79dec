"""A vector that is read without being copied: two buffers, left and right (promise 12).

Its input is steps (removed rows, changed values, added rows); its output is read-only views of the whole
vector in order. A step is never written into a buffer that may have readers. It is written to the other
buffer, which first applies the step that it missed; then the two swap. So a read costs nothing, and a
step costs what it changes (plus moving the rows behind a removed one; or those ahead of it, if they are
few, as in a sliding window), and a view never changes. Only if a view of the other buffer is still
referenced, that buffer is left to its users and replaced by a copy.

Whether it is referenced is determined by the buffer's reference count: numpy's views hold the array that
owns the memory. On a build without the global lock the counts prove nothing, and every step copies; the
same holds with ``NOTEBOOK_RT_ALWAYS_COPY=1``. Why this is safe: ``docs/design/store.md``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
_COUNTS_ARE_TRUE = (
    getattr(sys, "_is_gil_enabled", lambda: True)()
    and os.environ.get("NOTEBOOK_RT_ALWAYS_COPY", "0") == "0"
)
_ROWS_A_HOLE = 1000
"""Number of rows that are copied individually in the time that it takes to close one hole."""

Runs = list[tuple[slice, slice]]
"""Runs of rows that stay adjacent: their final positions, and their earlier ones."""


class Step(msgspec.Struct, frozen=True, eq=False, dict=True):
    """The changes to the rows of a table in one step: rows are removed, then rows are added.

    Derived values are cached until all of a table's columns have applied the step.
    """

    before: int
    """Number of rows before the step."""

    gone: Positions
    """Sorted positions of the removed rows, before the step."""

    added: int
    """Number of added rows."""

    at: Positions | None = None
    """For each added row, the number of staying rows ahead of it, increasing; None: all are added at the
    end."""

    _composed: dict[Step, Composed] = msgspec.field(default_factory=dict)
    _landed: dict[int, tuple[Positions, Positions]] = msgspec.field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Number of rows that stay."""
        return self.before - len(self.gone)

    @property
    def after(self) -> int:
        """Number of rows after the step."""
        return self.kept + self.added

    @cached_property
    def staying(self) -> Positions:
        """Positions of the rows that stay, before the step."""
        stay = np.ones(self.before, bool)
        stay[self.gone] = False
        return np.flatnonzero(stay)

    @cached_property
    def runs(self) -> Runs:
        """The rows that stay, in runs that stay adjacent."""
        runs = _runs(self.gone, self.before)
        return runs if self.at is None else _parted(runs, self.at)

    @property
    def breaks(self) -> int:
        """Maximum number of times that adjacent staying rows are separated."""
        return len(self.gone) + (0 if self.at is None else len(self.at))

    @cached_property
    def coming(self) -> slice | Positions:
        """Positions of the added rows after the step."""
        if self.at is None:
            return slice(self.kept, self.after)
        return self.at + np.arange(self.added)

    @property
    def moves(self) -> bool:
        """Whether rows are added or removed at all."""
        return bool(self.added or len(self.gone))

    def positions_after(self, places: Positions) -> Positions:
        """Return the positions after the step of the rows at ``places``, all of which stay."""
        if not self.breaks:
            return places
        known = self._landed.get(id(places))
        if known is None:
            landed = places - np.searchsorted(self.gone, places)
            if self.at is not None:
                landed += np.searchsorted(self.at, landed, "right")
            known = self._landed[id(places)] = (places, landed)
        return known[1]

    def stays(self, places: Positions) -> NDArray[np.bool_]:
        """Return which of the rows at ``places`` stay."""
        if not len(self.gone):
            return np.ones(len(places), bool)
        nearest = np.minimum(np.searchsorted(self.gone, places), len(self.gone) - 1)
        found: NDArray[np.bool_] = self.gone[nearest] != places
        return found

    def following(self, missed: Step) -> Composed:
        """Return ``missed`` and then this step as one."""
        known = self._composed.get(missed)
        if known is None:
            known = self._composed[missed] = _compose(missed, self)
        return known

    def forget(self) -> None:
        """Clear the cached values, because buffers that missed the step hold it until the next one."""
        self._composed.clear()
        self._landed.clear()
        for name in ("staying", "runs", "coming"):
            vars(self).pop(name, None)


class Composed(msgspec.Struct, frozen=True):
    """Two steps as one, seen from before the first."""

    runs: Runs
    """The rows that stay through both, in runs that stay adjacent."""

    tail: slice | Positions
    """Positions, between the two, of the rows that the first added and the second kept."""

    landed: slice | Positions
    """Final positions of those rows."""

    ahead: int
    """Number of holes closed from the front: those ahead of a run that is most of the table."""


def _compose(first: Step, second: Step) -> Composed:
    if first.at is not None or second.at is not None:
        coming = np.arange(first.after)[first.coming]
        left = coming[second.stays(coming)]
        return Composed(_through(first.runs, second.runs), left, second.positions_after(left), 0)
    cut = int(np.searchsorted(second.gone, first.kept))
    holes = first.gone
    if cut:
        # The p-th row that the first step kept was as many positions later as rows were removed before it.
        shift = np.searchsorted(first.gone - np.arange(len(first.gone)), second.gone[:cut], "right")
        holes = np.sort(np.concatenate([holes, second.gone[:cut] + shift]))
    tail: slice | Positions = slice(first.kept, first.after)
    if cut < len(second.gone):
        tail = np.delete(np.arange(first.kept, first.after), second.gone[cut:] - first.kept)
    runs = _runs(holes, first.before)
    # Closing from both ends was measured to be slower where it saves little, so it must be worth it.
    most = [at for at, (_, of) in enumerate(runs) if 2 * (of.stop - of.start) > first.before]
    kept = first.before - len(holes)
    return Composed(runs, tail, slice(kept, second.kept), most[0] if most else 0)


def _parted(runs: Runs, at: Positions) -> Runs:
    """Return ``runs`` of staying rows, moved apart where added rows come between them."""
    found = []
    for to, of in runs:
        first, last = np.searchsorted(at, [to.start, to.stop], "right").tolist()
        cuts = [to.start, *(cut for cut in at[first:last].tolist() if cut < to.stop), to.stop]
        for moved, (start, stop) in enumerate(pairwise(cuts), first):
            begin = of.start + start - to.start
            piece = slice(begin, begin + stop - start)
            found.append((slice(start + moved, stop + moved), piece))
    return found


def _through(first: Runs, second: Runs) -> Runs:
    """Return the rows that stay through both of two steps."""
    found = []
    others = iter(second)
    to, of = next(others, (slice(0, 0), slice(0, 0)))
    for between, before in first:
        while True:
            start, stop = max(between.start, of.start), min(between.stop, of.stop)
            if start < stop:
                landed, began = start + to.start - of.start, start + before.start - between.start
                length = stop - start
                found.append((slice(landed, landed + length), slice(began, began + length)))
            if of.stop > between.stop:
                break  # the next run of the first step may be in it, too
            following = next(others, None)
            if following is None:
                break
            to, of = following
    return found


def _runs(holes: Positions, size: int) -> Runs:
    ends = holes.tolist()
    starts = [0, *(hole + 1 for hole in ends)]
    return [
        (slice(start - left, end - left), slice(start, end))
        for left, (start, end) in enumerate(zip(starts, [*ends, size], strict=True))
    ]


class Buffer:
    """Memory, and the guard that makes pandas copy before a user's write reaches it.

    The guard is a Series over a view of the buffer: pandas' copy-on-write detects that the user's frame is
    not the only one. The user may hold a view of the memory or an object that the guard holds too
    (``chain``), so the references to all of them are counted.
    """

    __slots__ = ("chain", "data", "guard", "resting", "start")

    guard: object
    chain: tuple[object, ...]
    resting: tuple[int, ...]

    def __init__(self, data: NDArray[Any]) -> None:
        self.data = data
        self.start = 0
        """Position of the first row: the rows ahead of it were removed."""

        self.release()

    def rows(self, size: int) -> NDArray[Any]:
        """Return a writable view of ``size`` rows."""
        return self.data[self.start : self.start + size]

    def shown(self, size: int) -> NDArray[Any]:
        """Return a view of ``size`` rows for readers; ``setflags(write=True)`` raises, on its bases too.

        numpy permits making a view writeable if its base is. A read-only memoryview between the two is not
        writeable. It holds the memory, so the counts include it like a view.
        """
        shown = memoryview(self.data)[self.start : self.start + size]  # type: ignore[arg-type]  # arrays are buffers
        return np.asarray(shown.toreadonly())

    def share(self, guard: object, chain: tuple[object, ...], resting: tuple[int, ...]) -> None:
        """Keep ``guard`` while there are views; ``resting`` are the counts without any."""
        self.guard, self.chain, self.resting = guard, chain, resting

    def release(self) -> None:
        """Release the guard."""
        self.guard, self.chain, self.resting = None, (), _ALONE

    def counts(self) -> tuple[int, ...]:
        """Return the number of references to the memory and to each link of the chain."""
        return (sys.getrefcount(self.data), *(sys.getrefcount(link) for link in self.chain))

    def held(self) -> bool:
        """Return whether there are views other than the guard's."""
        return not _COUNTS_ARE_TRUE or any(map(int.__gt__, self.counts(), self.resting))


_ORPHANS: list[Buffer] = []
_ORPHANAGE = threading.RLock()
"""Buffers of deleted tables, in frames that users still have and may write to."""

_most_orphans = 0
"""Number of orphans beyond which those no longer in a frame are removed."""


def _adopt(buffers: Iterable[Buffer]) -> None:
    global _most_orphans
    with _ORPHANAGE:
        _ORPHANS.extend(filter(_wanted, buffers))
        if len(_ORPHANS) > _most_orphans:  # not each time: a wide table adds thousands at once
            _ORPHANS[:] = filter(_wanted, _ORPHANS)
            _most_orphans = 2 * len(_ORPHANS)


def _wanted(buffer: Buffer) -> bool:
    return buffer.guard is not None and buffer.held()


_ALONE: tuple[int, ...] = ()
_ALONE = Buffer(np.empty(0)).counts()


class Dense:
    """A vector of one numpy dtype in a left and a right buffer."""

    __slots__ = ("_back", "_front", "_lent", "_missed", "size")

    def __init__(self, data: NDArray[Any]) -> None:
        """Take ``data``, which has no other writer: its memory is its own, or mapped privately.

        Read-only data is shared, most often with another table's column: no step is written into it.
        """
        self.size = len(data)
        self._front = Buffer(data)
        self._back: Buffer | None = None
        self._missed: tuple[Step, Positions] | None = None
        self._lent: list[Buffer] = []

    def __del__(self) -> None:
        # Without its guard, a frame that outlives the table could not be written to.
        _adopt(buffer for buffer in (self._front, self._back, *self._lent) if buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, buffers left to others not counted."""
        return self._front.data.nbytes + (self._back.data.nbytes if self._back else 0)

    def view(self) -> NDArray[Any]:
        """Return the current vector, read-only and without a copy; it never changes."""
        return self._front.shown(self.size)

    def peek(self) -> NDArray[Any]:
        """Return the vector for access that ends before the next step."""
        return self._front.rows(self.size)

    @property
    def guard(self) -> object:
        """The guard passed to `share` for the current vector."""
        return self._front.guard

    def share(self, guard: object, chain: tuple[object, ...], resting: tuple[int, ...]) -> None:
        """See `Buffer.share`."""
        self._front.share(guard, chain, resting)

    def advance(
        self,
        step: Step,
        places: Positions,
        values: NDArray[Any],
        added: NDArray[Any],
    ) -> None:
        """Set ``values`` at ``places`` (before the step, none of them removed), then move rows."""
        self._lent = [buffer for buffer in self._lent if buffer.held()]
        front, back = self.peek(), self._back
        positions_after = step.positions_after(places)
        if back is not None and not self._fits(back, step):
            if back.held():
                self._lent.append(back)
            back = None
        missed = self._missed
        if back is None:
            back = Buffer(np.empty(_capacity(step.after, len(self._front.data)), front.dtype))
            missed = None
        if missed is None or many_holes(step.breaks + missed[0].breaks, self.size):
            _copy_kept(back, front, step)
        else:
            _catch_up(back, front, step, *missed)
        back.release()
        data = back.rows(step.after)
        data[positions_after] = values
        data[step.coming] = added
        left = self._front
        self._back, self._missed = left, (step, positions_after)
        if not left.data.flags.writeable:  # shared
            self._back = self._missed = None
            if left.held():
                self._lent.append(left)
        self._front = back
        self.size = step.after

    def _fits(self, back: Buffer, step: Step) -> bool:
        # If rows are removed there must be room to slide, which the memory of a load does not have.
        wanted, capacity = step.after + bool(len(step.gone)), len(back.data)
        return wanted <= capacity <= max(4 * step.after, 1024) and not back.held()


def _catch_up(
    back: Buffer, front: NDArray[Any], step: Step, missed: Step, written: Positions
) -> None:
    """Apply ``step`` to a buffer that missed the previous one, which wrote to ``written``."""
    both = step.following(missed)
    start = back.start + both.ahead
    if start + step.after > len(back.data):
        start = 0
    _close(back.data, both.runs, back.start, start)
    back.start = start
    data = back.rows(step.after)
    data[both.landed] = front[both.tail]
    if len(step.gone):
        written = written[step.stays(written)]
    data[step.positions_after(written)] = front[written]


def _close(data: NDArray[Any], runs: Runs, old: int, new: int) -> None:
    """Close the holes between ``runs`` in place; the rows started at ``old``, and will start at ``new``."""
    moves = [(new + to.start, old + of.start, of.stop - of.start) for to, of in runs]
    back = [move for move in moves if move[0] > move[1]]
    up = [move for move in moves if move[0] < move[1]]
    for to, of, length in (*reversed(back), *up):  # none is overwritten before it has moved
        data[to : to + length] = data[of : of + length]


def _copy_kept(back: Buffer, old: NDArray[Any], step: Step) -> None:
    """Copy the rows of ``old`` that stay."""
    back.start = 0
    data = back.data
    if many_holes(step.breaks, len(old)):
        if step.at is None:
            np.take(old, step.staying, out=data[: step.kept], mode="clip")
        else:
            data[step.positions_after(step.staying)] = old[step.staying]
        return
    for to, of in step.runs:
        data[to] = old[of]


def _capacity(size: int, before: int) -> int:
    """Return the capacity for ``size`` rows and some more, or the previous one if that fits."""
    return before if size < before <= 2 * size else size + size // 32 + 16


def many_holes(holes: int, size: int) -> bool:
    """Return whether copying each row that stays is faster than closing the holes one by one."""
    return holes * _ROWS_A_HOLE > size
