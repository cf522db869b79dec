"""``History``: the recorded past of a live table.

``sync/history`` has the record and reconstructs a moment from it; ``runtime/recording.py`` decides when to
record.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, Self

from notebook_rt.errors import HistoryError, HistoryGapWarning
from notebook_rt.frame import LiveFrame
from notebook_rt.model.plain import duration
from notebook_rt.model.times import clock_text, clock_texts, microseconds, speed_of, timestamp
from notebook_rt.model.types import equal
from notebook_rt.quoting import printable
from notebook_rt.replay import Replay
from notebook_rt.runtime.archiving import AHEAD
from notebook_rt.runtime.past_writer import CAUSE, CHANGE, COMMIT, writing_to
from notebook_rt.runtime.recording import Recording
from notebook_rt.runtime.replaying import ReplayFeed
from notebook_rt.runtime.table import TableDriver
from notebook_rt.store.columns import of_parts
from notebook_rt.store.table import differences
from notebook_rt.sync.history.past import ForgottenMomentError, Gap, Moment, Past
from notebook_rt.sync.history.record import KINDS, RecordedChanges
from notebook_rt.sync.history.steps import Step, steps_of

if TYPE_CHECKING:
    import pandas as pd

CLOCKS_DIFFER: Final = 1_000_000
"""Microseconds by which a moment may be ahead of both clocks: the server's is known in whole seconds."""


class History:
    """The states of a table since it is recorded, returned by ``LiveTable.history``.

    A moment is a ``Timestamp`` or ``datetime``, a text (``"2026-03-01 14:03"``; without a zone: UTC),
    seconds since the epoch, or a time before now: ``"-10min"``, a negative ``timedelta``. Moments refer to
    the server's clock, which dates the commits.
    """

    def __init__(self, frame: LiveFrame, driver: TableDriver, recording: Recording) -> None:
        self._frame = frame  # a history keeps its table alive
        self._driver = driver
        self._recording = recording

    def __repr__(self) -> str:
        return self._recording.read(self._described)

    def _described(self, past: Past) -> str:
        name, began, last = self._driver.name, past.began, past.last
        if began is None or last is None:
            return printable(f"<History of {name}, nothing is recorded yet>")
        gaps = len(past.gaps)
        begin, end = clock_text(began), clock_text(max(last, began))
        parts = [
            f"{len(past):,} change{'s' * (len(past) != 1)}",
            f"{gaps or 'no'} gap{'s' * (gaps != 1)}",
            f"{begin} to {end.removeprefix(begin[:11])} UTC",
            _bytes(past.nbytes),
        ]
        if past.forgotten:
            why = "there were too many bytes" if past.squeezed else "older than that"
            parts.append(f"{past.forgotten:,} changes forgotten: {why}")
        if self._recording.closed:
            parts.append("closed")
        return printable(f"<History of {name}, {', '.join(parts)}>")

    # Extent

    def __len__(self) -> int:
        """Return the number of recorded changes."""
        return self._recording.read(len)

    @property
    def start(self) -> pd.Timestamp | None:
        """The earliest known moment; None if nothing is recorded yet."""
        began = self._recording.read(lambda past: past.began)
        return None if began is None else timestamp(began)

    @property
    def end(self) -> pd.Timestamp | None:
        """The time of the last change; None if nothing is recorded yet."""
        last = self._recording.read(lambda past: past.last)
        return None if last is None else timestamp(last)

    @property
    def nbytes(self) -> int:
        """The size in memory in bytes."""
        return self._recording.read(lambda past: past.nbytes)

    @property
    def forgotten(self) -> int:
        """Number of changes that were forgotten because of the span or the size."""
        return self._recording.read(lambda past: past.forgotten)

    @property
    def gaps(self) -> pd.DataFrame:
        """The periods in which changes may have been lost, one row each.

        Columns: ``since`` and ``until`` (datetime64, UTC; NaT: still open), ``reason`` (str).
        """
        import pandas as pd

        found = self._recording.read(lambda past: list(past.gaps))
        frame = pd.DataFrame(
            {
                "since": [one.since for one in found],
                "until": [one.until for one in found],
                "reason": [one.reason for one in found],
            }
        )
        for name in ("since", "until"):
            frame[name] = pd.to_datetime(frame[name], unit="us", utc=True).dt.as_unit("us")
        return frame.astype({"reason": "str"})

    # Looking

    def as_of(self, time: Any) -> pd.DataFrame:
        """Return the table as it was on the server at a moment, without pending edits.

        Parameters
        ----------
        time : Timestamp, datetime, timedelta, str or float
            The moment: see `History`.

        Returns
        -------
        DataFrame
            With the index, dtypes and order that ``df`` had. ``attrs["as_of"]`` is the moment; in a gap,
            ``attrs["gap"]`` has ``since``, ``until``, ``reason``, and ``known``, the latest earlier moment at
            which the table was known. In an order by text, which only the server knows, rows with values
            that the server has not sorted since this kernel opened the table come last.

        Raises
        ------
        HistoryError
            If the moment is before the recorded time, or in the future.
        ValueError
            If it is not a moment.

        Warns
        -----
        HistoryGapWarning
            If it lies in a gap: changes inside a gap are known only from the read that closed it.

        Examples
        --------
        >>> past = prices.history("1h")  # doctest: +SKIP
        >>> past.as_of("-10min")  # ten minutes later  # doctest: +SKIP
        """
        moment = self._at(time)
        self._warn(moment)
        frame = moment.snapshot(self._driver.dtype_backend)
        frame.attrs["as_of"] = timestamp(moment.when).isoformat()
        gap = moment.gap
        if gap is not None:
            known = gap.known(moment.when)
            frame.attrs["gap"] = {
                "since": timestamp(gap.since).isoformat(),
                "until": None if gap.until is None else timestamp(gap.until).isoformat(),
                "reason": gap.reason,
                "known": timestamp(known).isoformat(),
            }
        return frame

    def diff(self, start: Any, end: Any = None) -> pd.DataFrame:
        """Return the difference between two moments: one row for each row that differs.

        Parameters
        ----------
        start, end : Timestamp, datetime, timedelta, str or float
            The moments: see `History`. Default of ``end``: now.

        Returns
        -------
        DataFrame
            ``kind`` (``"insert"``, ``"update"``, ``"delete"``), ``key``, ``old`` and ``new`` (whole rows, or
            None) as in ``LiveFrame.log``, and ``changed``: the names of the columns that differ (tuple of
            str). ``kind`` is str, the others are object. With ``end`` before ``start``, the changes that
            lead back.

        Raises
        ------
        HistoryError, ValueError
            As raised by `as_of`.

        Warns
        -----
        HistoryGapWarning
            If one of the moments lies in a gap.
        """
        import pandas as pd

        old, new = self._at(start), self._at("now" if end is None else end)
        self._warn(old, new)
        changes = differences(old.table(), new.table())
        rows = [
            (one.kind, one.key, one.old, one.new, _changed(one.old, one.new)) for one in changes
        ]
        names = ["kind", "key", "old", "new", "changed"]
        return pd.DataFrame(rows, columns=names).astype({"kind": "str"})

    def changes_df(self, start: Any = None, end: Any = None) -> pd.DataFrame:
        """Return all changes after one moment and up to another, in order, one row each.

        Parameters
        ----------
        start, end : Timestamp, datetime, timedelta, str or float, optional
            The moments: see `History`. Default: all that is recorded.

        Returns
        -------
        DataFrame
            ``_commit_timestamp`` (datetime64, UTC), ``_change_type`` (``"insert"``, ``"update"``,
            ``"delete"``) and ``_cause``, then the table's columns, including the key, after the
            change; for a deleted row, before it. A change that was found by a read, such as the outcome
            of a gap (``reconcile``, ``audit``, ``poll``, ``snapshot``), has the time of the read.

        Raises
        ------
        HistoryError, ValueError
            As raised by `as_of`; also if nothing is recorded yet, or ``end`` is before ``start``.
        """
        import pandas as pd

        after, until = self._range(start, end)
        told, causes = self._recording.read(
            lambda past: (list(past.changes_between(after, until)), list(past.causes))
        )
        frames = [_frame(one, causes) for one in told]
        return pd.concat(
            [frame for frame in frames if len(frame)] or frames[-1:], ignore_index=True
        )

    def of(
        self, key: Hashable, column: str | None = None, *, by: str | None = None
    ) -> pd.DataFrame:
        """Return the history of one row, or of one cell.

        Parameters
        ----------
        key : hashable
            The row's key, in any form that ``LiveFrame.get`` accepts.
        column : str, optional
            Return the history of this cell only.
        by : str, optional
            A column that records who wrote the row, such as ``"updated_by"``.

        Returns
        -------
        DataFrame
            One row per change: ``at`` (datetime64, UTC), ``kind`` (str; ``"snapshot"``: the state when the
            history began), ``cause`` (str); ``by`` (object), if requested; ``changed``, the columns that
            differ (tuple of str); ``old`` and ``new`` (object), the row's or the cell's values.

        Raises
        ------
        HistoryError
            If nothing is recorded.
        ValueError
            If the column does not exist, or the key is not valid.
        """
        import pandas as pd

        def read(past: Past) -> list[Step]:
            schema = past.schema
            if schema is None:
                raise HistoryError(f'table "{self._driver.name}": nothing is recorded yet')
            for name in (column, by):
                if name is not None and name not in schema.types:
                    raise ValueError(f'table "{self._driver.name}" has no column "{name}"')
            return steps_of(past, schema.coerce_key(key))

        rows = []
        for step in self._recording.read(read):
            old, new = step.old, step.new
            changed = _changed(old, new)
            if column is not None and step.kind == "update" and column not in changed:
                continue
            who = None if by is None or new is None else new.get(by)
            shown: tuple[Any, Any] = (old, new)
            if column is not None:
                shown = (old and old.get(column), new and new.get(column))
            rows.append((timestamp(step.at), step.kind, step.cause, who, changed, *shown))
        names = ["at", "kind", "cause", "by", "changed", "old", "new"]
        frame = pd.DataFrame(
            rows, columns=names, dtype=object
        )  # integers stay integers beside None
        frame["at"] = pd.to_datetime(frame["at"], utc=True).dt.as_unit("us")
        frame = frame.astype({"kind": "str", "cause": "str"})
        return frame if by is not None else frame.drop(columns="by")

    # Leaving the kernel

    def to_parquet(
        self, path: str | os.PathLike[str], *, every: float = 60.0
    ) -> Callable[[], None]:
        """Write the recorded changes to a directory of Parquet files, and continue to write new ones.

        Each file is complete as soon as it appears, so that polars, DuckDB and
        ``pandas.read_parquet(path, dtype_backend="pyarrow")`` can read the directory at any time. Without
        that backend pandas reads integers with nulls as floats, which have 53 bits.

        Parameters
        ----------
        path : path
            The directory; it is created if it does not exist. It must be empty, or belong to an earlier call:
            a call that is still active is continued, so that nothing is written twice.
        every : float
            Seconds between two files, if something changed.

        Returns
        -------
        callable
            A function that writes the rest and stops; closing the history does so, too.

        Raises
        ------
        FileExistsError
            If ``path`` contains something else, or another table's history is being written there.
        OSError
            If the first file cannot be written. Later files are retried.
        ValueError
            If ``every`` is not positive.
        TypeError
            If ``every`` is not a number.
        """
        if not duration(every, "every") > 0:
            raise ValueError(f"every must be a number of seconds above 0, not {every!r}")
        writer = writing_to(self._recording, self._driver, Path(path))
        writer.write()
        self._driver.thread.call(writer.begin, every)
        return writer.stop

    def replay(self, speed: float = 10.0, start: Any = None, end: Any = None) -> Replay:
        """Return a live frame that plays the recorded changes from one moment to another.

        Parameters
        ----------
        speed : float
            Recorded seconds a second.
        start, end : Timestamp, datetime, timedelta, str or float, optional
            The moments: see `History`. Default: all that is recorded.

        Returns
        -------
        Replay
            A live frame: ``df``, ``on_change``, ``plot``, ``groupby``, ... It starts at once. Changes that
            are forgotten before they are played are skipped.

        Raises
        ------
        HistoryError, ValueError
            As raised by `changes_df`; also if ``speed`` is not positive.

        Examples
        --------
        >>> trades.history("1h").replay(speed=60).plot("at", "price")  # doctest: +SKIP
        """
        speed = speed_of(speed)
        after, until = self._range(start, end)
        feed = ReplayFeed(self._recording, self._driver, speed, after, until)
        replay = Replay(feed, self._frame._session)
        feed.thread.call(feed.play)
        return replay

    # The end

    def close(self) -> None:
        """Stop recording, for all histories of this table. The recorded changes can still be read."""
        if not self._recording.closed:
            self._driver.thread.call(self._recording.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Moments

    def _at(self, time: Any) -> Moment:
        when = self._moment(time)
        try:
            return self._recording.read(lambda past: past.at(when))
        except ForgottenMomentError:
            raise HistoryError(self._why_not(when)) from None

    def _range(self, start: Any, end: Any) -> tuple[int, int]:
        began, last = self._recording.read(lambda past: (past.began, past.last))
        if began is None or last is None:
            raise HistoryError(f'table "{self._driver.name}": nothing is recorded yet')
        after = began if start is None else self._moment(start)
        until = max(last, began) if end is None else self._moment(end)
        if after < began:
            raise HistoryError(self._why_not(after))
        if until < after:
            ends, begins = clock_texts(until, after)
            raise ValueError(f"the end, {ends}, is before the start, {begins}")
        return after, until

    def _moment(self, time: Any) -> int:
        # The server's clock is known to a second: a received change is not in the future.
        clock, last = self._recording.now(), self._recording.read(lambda past: past.last) or 0
        now = last if clock < last <= clock + AHEAD else clock
        when, latest = microseconds(time, now), max(now, last)
        # This machine's time means "now", also if its clock is ahead of the server's.
        here = time_ns() // 1000
        ours = here if here <= now + AHEAD else now
        if when > max(latest, ours) + CLOCKS_DIFFER:
            raise HistoryError(
                f"{clock_text(when)} UTC is still to come: it is {clock_text(now)} UTC"
            )
        return min(when, latest)

    def _why_not(self, when: int) -> str:
        past = self._recording.read(lambda past: past)
        name, began = self._driver.name, past.began
        if began is None:
            return f'table "{name}": nothing is recorded yet'
        why = "its recording began then"
        if past.forgotten:
            why = "what was before is forgotten"
            more = "most_bytes" if past.squeezed else "span"
            why += f"; a larger {more} keeps more: history(span, most_bytes=...)"
        known, asked = clock_texts(began, when)
        return f'table "{name}" is known from {known} UTC on, not at {asked}: {why}'

    def _warn(self, *moments: Moment) -> None:
        """Warn about moments that lie in a gap."""
        for moment in moments:
            if moment.gap is not None:
                text = self._warning(moment.when, moment.gap)
                warnings.warn(text, HistoryGapWarning, stacklevel=3)

    def _warning(self, when: int, gap: Gap) -> str:
        known = gap.known(when)
        until = "now" if gap.until is None else f"{clock_text(gap.until)} UTC"
        return printable(
            f'table "{self._driver.name}" at {clock_text(when)} UTC: changes from '
            f"{clock_text(gap.since)} UTC to {until} may be missing ({gap.reason}). "
            f"Shown is what was known at {clock_text(known)} UTC, and what was heard since"
        )


def _bytes(number: int) -> str:
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number} B"


def _changed(old: Any, new: Any) -> tuple[str, ...]:
    """Return the names of the columns that differ."""
    if old is None or new is None:
        return tuple(old or new or ())
    return tuple(name for name in new if name not in old or not equal(old[name], new[name]))


def _frame(told: RecordedChanges, causes: Sequence[str]) -> pd.DataFrame:
    """Return changes as a DataFrame; for a deletion, the row before it."""
    import pandas as pd

    schema, backend = told.schema, None
    columns: dict[str, Any] = {
        COMMIT: pd.to_datetime(told.times, unit="us", utc=True).as_unit("us"),
        CHANGE: pd.array([KINDS[kind] for kind in told.kinds.tolist()], "str"),
        CAUSE: pd.array([causes[cause] for cause in told.causes.tolist()], "str"),
    }
    for name, parts in told.new.items():
        column = of_parts(parts.own(), schema.types[name], backend, schema.numeric)
        columns[name] = column.array()
    return pd.DataFrame(columns, copy=True)
