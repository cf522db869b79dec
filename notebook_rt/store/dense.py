"""A vector that is read without being copied: two buffers, left and right (promise 12).

In go steps (rows that leave, values that are set, rows that come), out come read-only views of the
whole vector in order. A step is never written into a buffer that somebody may be looking at: it
goes to the other one, which first makes up for the step it missed; then the two change places. So
a read costs nothing, a step costs what it changes (and the move of what lies behind a row that
left; of what lies ahead of it, where that is little, as in a window that slides), and a view never
changes. Only if somebody still holds a view of the other buffer, the buffer is left to them and a
copy takes its place.

Whether somebody does is told by the buffer's reference count: numpy's views hold the array that
owns the memory. On a build without the global lock counts prove nothing, and every step copies; so it
does with ``NOTEBOOK_RT_ALWAYS_COPY=1``. Why this is safe: ``docs/design/store.md``.
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
"""Rows that are copied one by one in the time that it takes to close a hole between others."""

Runs = list[tuple[slice, slice]]
"""Rows that stay neighbours: where they are in the end, and where they were."""


class Step(msgspec.Struct, frozen=True, eq=False, dict=True):
    """What happens to the rows of a table in one step: some leave, then some come.

    What is worked out of it is kept until all of a table's columns have taken it.
    """

    before: int
    """Rows before the step."""

    gone: Positions
    """Positions of the rows that leave, before the step, sorted."""

    added: int
    """Rows that come."""

    at: Positions | None = None
    """For each row that comes how many of those that stay are ahead of it, rising; None: it comes at the
    end."""

    _composed: dict[Step, Composed] = msgspec.field(default_factory=dict)
    _landed: dict[int, tuple[Positions, Positions]] = msgspec.field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Rows that stay."""
        return self.before - len(self.gone)

    @property
    def after(self) -> int:
        """Rows after the step."""
        return self.kept + self.added

    @cached_property
    def staying(self) -> Positions:
        """Positions of the rows that stay, before the step."""
        stay = np.ones(self.before, bool)
        stay[self.gone] = False
        return np.flatnonzero(stay)

    @cached_property
    def runs(self) -> Runs:
        """The rows that stay, those together that stay neighbours."""
        runs = _runs(self.gone, self.before)
        return runs if self.at is None else _parted(runs, self.at)

    @property
    def breaks(self) -> int:
        """How many times rows that stay stop being neighbours, at most."""
        return len(self.gone) + (0 if self.at is None else len(self.at))

    @cached_property
    def coming(self) -> slice | Positions:
        """Where the rows that come are after the step."""
        if self.at is None:
            return slice(self.kept, self.after)
        return self.at + np.arange(self.added)

    @property
    def moves(self) -> bool:
        """Whether rows come or go at all."""
        return bool(self.added or len(self.gone))

    def landing(self, places: Positions) -> Positions:
        """Where the rows at ``places``, all of which stay, are after the step."""
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
        """Which of the rows at ``places`` stay."""
        if not len(self.gone):
            return np.ones(len(places), bool)
        nearest = np.minimum(np.searchsorted(self.gone, places), len(self.gone) - 1)
        found: NDArray[np.bool_] = self.gone[nearest] != places
        return found

    def following(self, missed: Step) -> Composed:
        """``missed`` and then this step as one."""
        known = self._composed.get(missed)
        if known is None:
            known = self._composed[missed] = _compose(missed, self)
        return known

    def forget(self) -> None:
        """Let go of what was worked out: buffers that missed the step have it until the next one."""
        self._composed.clear()
        self._landed.clear()
        for name in ("staying", "runs", "coming"):
            vars(self).pop(name, None)


class Composed(msgspec.Struct, frozen=True):
    """Two steps as one, seen from before the first."""

    runs: Runs
    """The rows that stay through both, those together that stay neighbours."""

    tail: slice | Positions
    """Where, between the two, the rows lie that the first added and the second left."""

    landed: slice | Positions
    """Where those are in the end."""

    ahead: int
    """Holes that are closed from the front: those ahead of a run that is most of the table."""


def _compose(first: Step, second: Step) -> Composed:
    if first.at is not None or second.at is not None:
        coming = np.arange(first.after)[first.coming]
        left = coming[second.stays(coming)]
        return Composed(_through(first.runs, second.runs), left, second.landing(left), 0)
    cut = int(np.searchsorted(second.gone, first.kept))
    holes = first.gone
    if cut:
        # The p-th row that the first step kept lay as many places on as rows left before it.
        shift = np.searchsorted(first.gone - np.arange(len(first.gone)), second.gone[:cut], "right")
        holes = np.sort(np.concatenate([holes, second.gone[:cut] + shift]))
    tail: slice | Positions = slice(first.kept, first.after)
    if cut < len(second.gone):
        tail = np.delete(np.arange(first.kept, first.after), second.gone[cut:] - first.kept)
    runs = _runs(holes, first.before)
    # Closing from both ends was measured to be slower where it saves little: it must be worth it.
    most = [at for at, (_, of) in enumerate(runs) if 2 * (of.stop - of.start) > first.before]
    kept = first.before - len(holes)
    return Composed(runs, tail, slice(kept, second.kept), most[0] if most else 0)


def _parted(runs: Runs, at: Positions) -> Runs:
    """``runs`` of rows that stay, moved apart where others come between them."""
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
    """The rows that stay through both of two steps."""
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

    The guard is a Series over a view of the buffer; pandas' copy-on-write sees that the user's
    frame is not the only one. What a user holds may be a view of the memory or an object that the
    guard holds too (``chain``), so the references to all of them are counted.
    """

    __slots__ = ("chain", "data", "guard", "resting", "start")

    guard: object
    chain: tuple[object, ...]
    resting: tuple[int, ...]

    def __init__(self, data: NDArray[Any]) -> None:
        self.data = data
        self.start = 0
        """Where the rows begin: those ahead of it have left."""

        self.release()

    def rows(self, size: int) -> NDArray[Any]:
        """A view of ``size`` rows, to write to."""
        return self.data[self.start : self.start + size]

    def shown(self, size: int) -> NDArray[Any]:
        """A view of ``size`` rows for others; ``setflags(write=True)`` raises, on its bases too.

        numpy lets a view be made writeable where what it is a view of is. A read-only memoryview
        between the two is not; it holds the memory, so the counts tell of it as of a view.
        """
        shown = memoryview(self.data)[self.start : self.start + size]  # type: ignore[arg-type]  # arrays are buffers
        return np.asarray(shown.toreadonly())

    def lend(self, guard: object, chain: tuple[object, ...], resting: tuple[int, ...]) -> None:
        """Keep ``guard`` while anybody has a view; ``resting`` are the counts when nobody has."""
        self.guard, self.chain, self.resting = guard, chain, resting

    def release(self) -> None:
        """Let go of the guard."""
        self.guard, self.chain, self.resting = None, (), _ALONE

    def counts(self) -> tuple[int, ...]:
        """References to the memory and to each link of the chain."""
        return (sys.getrefcount(self.data), *(sys.getrefcount(link) for link in self.chain))

    def held(self) -> bool:
        """Whether anybody but the guard has a view."""
        return not _COUNTS_ARE_TRUE or any(map(int.__gt__, self.counts(), self.resting))


_ORPHANS: list[Buffer] = []
_ORPHANAGE = threading.RLock()
"""Buffers of tables that are gone, in frames that users still have and may write to."""

_most_orphans = 0
"""With more of them it is looked which are still in a frame."""


def _adopt(buffers: Iterable[Buffer]) -> None:
    global _most_orphans
    with _ORPHANAGE:
        _ORPHANS.extend(filter(_wanted, buffers))
        if len(_ORPHANS) > _most_orphans:  # not each time: a wide table has thousands at once
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
        """Take ``data``, which nobody else writes to: its memory is its own, or mapped privately.

        What is read-only is shared, with another table's column most often: no step is written into it.
        """
        self.size = len(data)
        self._front = Buffer(data)
        self._back: Buffer | None = None
        self._missed: tuple[Step, Positions] | None = None
        self._lent: list[Buffer] = []

    def __del__(self) -> None:
        # Without its guard a frame that outlives the table could not be written to.
        _adopt(buffer for buffer in (self._front, self._back, *self._lent) if buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of memory in use, buffers left to others not counted."""
        return self._front.data.nbytes + (self._back.data.nbytes if self._back else 0)

    def view(self) -> NDArray[Any]:
        """The vector as it is now, for ever; read-only, not a copy."""
        return self._front.shown(self.size)

    def peek(self) -> NDArray[Any]:
        """The vector for a look that ends before the next step."""
        return self._front.rows(self.size)

    @property
    def guard(self) -> object:
        """What `lend` was given for the vector as it is now."""
        return self._front.guard

    def lend(self, guard: object, chain: tuple[object, ...], resting: tuple[int, ...]) -> None:
        """See `Buffer.lend`."""
        self._front.lend(guard, chain, resting)

    def advance(
        self,
        step: Step,
        places: Positions,
        values: NDArray[Any],
        added: NDArray[Any],
    ) -> None:
        """Set ``values`` at ``places`` (before the step, none of them leaving), then move rows."""
        self._lent = [buffer for buffer in self._lent if buffer.held()]
        front, back = self.peek(), self._back
        landing = step.landing(places)
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
        data[landing] = values
        data[step.coming] = added
        left = self._front
        self._back, self._missed = left, (step, landing)
        if not left.data.flags.writeable:  # shared
            self._back = self._missed = None
            if left.held():
                self._lent.append(left)
        self._front = back
        self.size = step.after

    def _fits(self, back: Buffer, step: Step) -> bool:
        # Where rows leave there must be room to slide, which the memory of a load has not.
        wanted, capacity = step.after + bool(len(step.gone)), len(back.data)
        return wanted <= capacity <= max(4 * step.after, 1024) and not back.held()


def _catch_up(
    back: Buffer, front: NDArray[Any], step: Step, missed: Step, written: Positions
) -> None:
    """Take ``step`` in a buffer that missed the one before it, which wrote to ``written``."""
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
    data[step.landing(written)] = front[written]


def _close(data: NDArray[Any], runs: Runs, old: int, new: int) -> None:
    """Close the holes between ``runs`` in place; the rows began at ``old``, and begin at ``new``."""
    moves = [(new + to.start, old + of.start, of.stop - of.start) for to, of in runs]
    back = [move for move in moves if move[0] > move[1]]
    up = [move for move in moves if move[0] < move[1]]
    for to, of, length in (*reversed(back), *up):  # none is written over before it has moved
        data[to : to + length] = data[of : of + length]


def _copy_kept(back: Buffer, old: NDArray[Any], step: Step) -> None:
    """Copy the rows of ``old`` that stay."""
    back.start = 0
    data = back.data
    if many_holes(step.breaks, len(old)):
        if step.at is None:
            np.take(old, step.staying, out=data[: step.kept], mode="clip")
        else:
            data[step.landing(step.staying)] = old[step.staying]
        return
    for to, of in step.runs:
        data[to] = old[of]


def _capacity(size: int, before: int) -> int:
    """Room for ``size`` rows and some to come, unless it is as it was."""
    return before if size < before <= 2 * size else size + size // 32 + 16


def many_holes(holes: int, size: int) -> bool:
    """Whether it is quicker to copy each row that stays than to close the holes one by one."""
    return holes * _ROWS_A_HOLE > size
