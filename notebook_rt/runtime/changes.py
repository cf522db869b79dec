"""A batch of changes, as ``on_change``, ``changes()`` and ``.log`` pass it to the user."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from notebook_rt.model.rows import Key, RowChange
from notebook_rt.store.contents import changes_between

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, repr=False)
class ChangeBatch:
    """Row changes that became visible together.

    A sequence: ``for change in batch``, ``len(batch)``, ``batch[0]``. Each item is a ``RowChange``: ``kind``
    (``"insert"``, ``"update"``, ``"delete"``), ``key``, ``old`` and ``new`` (whole rows, or None).
    """

    changes: Sequence[RowChange]
    cause: str
    """The cause: ``stream`` (a message of the server), ``edit`` (yours), ``snapshot`` (the whole table was
    read), ``reconcile`` (changes during a gap), ``audit`` (changes lost silently), ``poll`` (without the
    socket), ``refetch`` (read again: a row too large for a message, a query whose table changed), ``refill``
    (a row that moved up into a ``limit``), ``login`` (another user signed in, or the user signed out: the
    previous rows are gone)."""
    version: int
    """The version of the frame that contains them."""
    commit_time: float | None = None
    """Time of the latest commit in it, in seconds since the epoch by the server's clock, if known."""
    shown_at: float = field(default_factory=time.time, compare=False)
    """Time at which it became visible, in seconds since the epoch by this machine's clock."""

    def __repr__(self) -> str:
        kinds = Counter(change.kind for change in self.changes)
        what = ", ".join(f"{count:,} {kind}{'s'[: count > 1]}" for kind, count in kinds.items())
        return f"<ChangeBatch {what or 'empty'}, {self.cause}, version {self.version}>"

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[RowChange]:
        return iter(self.changes)

    def __getitem__(self, place: int) -> RowChange:
        return self.changes[place]

    @property
    def df(self) -> pd.DataFrame:
        """One row per change: ``at``, ``version``, ``cause``, ``kind``, ``key``, ``old``, ``new``."""
        return changes_df([self])


def combined(batches: Sequence[ChangeBatch]) -> ChangeBatch:
    """Combine several batches: the state of each row before the first and after the last.

    Rows that were inserted and deleted, or are unchanged in the end, are left out. The cause is the latest.
    """
    first: dict[Key, RowChange] = {}
    last: dict[Key, RowChange] = {}
    for change in (change for batch in batches for change in batch):
        first.setdefault(change.key, change)
        last[change.key] = change
    before = {key: change.old for key, change in first.items()}
    after = {key: change.new for key, change in last.items()}
    times = [batch.commit_time for batch in batches if batch.commit_time is not None]
    latest = batches[-1]
    return ChangeBatch(
        list(changes_between(before, after)),
        latest.cause,
        latest.version,
        max(times, default=None),
        latest.shown_at,
    )


class Gathering:
    """Passes on the batches of ``seconds`` as one. Called on the loop."""

    def __init__(self, hand_on: Callable[[ChangeBatch], object], seconds: float) -> None:
        self._hand_on = hand_on
        self._seconds = seconds
        self._batches: list[ChangeBatch] = []

    def __call__(self, batch: ChangeBatch) -> None:
        self._batches.append(batch)
        if len(self._batches) == 1:
            asyncio.get_running_loop().call_later(self._seconds, self._end)

    def _end(self) -> None:
        batches, self._batches = self._batches, []
        one = combined(batches)
        if len(one):
            self._hand_on(one)


def changes_df(batches: Iterable[ChangeBatch], last: int | None = None) -> pd.DataFrame:
    """Return the changes of ``batches`` as a DataFrame, only the ``last`` ones if given.

    ``at`` is the commit time, or the time at which the change was shown if it has none (an edit, an audit).
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for batch in batches:
        seconds = batch.shown_at if batch.commit_time is None else batch.commit_time
        at = dt.datetime.fromtimestamp(seconds, dt.UTC)
        rows.extend(
            (at, batch.version, batch.cause, change.kind, change.key, change.old, change.new)
            for change in batch.changes
        )
    names = ["at", "version", "cause", "kind", "key", "old", "new"]
    frame = pd.DataFrame(rows if last is None else rows[-last:], columns=names)
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    return frame.astype({"version": "int64", "cause": "str", "kind": "str"})
