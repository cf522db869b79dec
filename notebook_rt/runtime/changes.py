"""A batch of changes, as ``on_change``, ``changes()`` and ``.log`` give it to the user."""

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

    ``for change in batch``, ``len(batch)`` and ``batch[0]`` give them. Each is a ``RowChange``: ``kind``
    (``"insert"``, ``"update"``, ``"delete"``), ``key``, ``old`` and ``new`` (whole rows, or None).
    """

    changes: Sequence[RowChange]
    cause: str
    """Why: ``stream`` (somebody committed it, and the server told), ``edit`` (yours), ``snapshot`` (the
    whole table was read), ``reconcile`` (what a gap had hidden), ``audit`` (what was lost without a
    word), ``poll`` (while the socket is away), ``refetch`` (asked for again: a row too large for a
    message, a query whose table changed), ``refill`` (a row that moved up into a ``limit``), ``login``
    (another user has signed in, or nobody: what was shown before is gone)."""
    version: int
    """The frame's version that shows them."""
    commit_time: float | None = None
    """Seconds since the epoch of the latest commit in it, by the server's clock, where known."""
    shown_at: float = field(default_factory=time.time, compare=False)
    """Seconds since the epoch when it became visible, by this machine's clock."""

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
        """One row a change: ``at``, ``version``, ``cause``, ``kind``, ``key``, ``old``, ``new``."""
        return changes_df([self])


def combined(batches: Sequence[ChangeBatch]) -> ChangeBatch:
    """Several batches as one: what each row was before the first, and is after the last.

    A row that came and went, or is again what it was, is not in it. The cause is the latest.
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
    """Hands on the batches of ``seconds`` as one. Called on the loop."""

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
    """The changes of ``batches`` as a DataFrame, the ``last`` so many of them.

    ``at`` is the time of the commit, or, where the cause has none (an edit, an audit), the time it was shown.
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
