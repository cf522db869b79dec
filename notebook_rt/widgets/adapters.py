"""Adapters that present live tables to grids and charts: for a ``LiveFrame``, and for the result of ``map``.

Input: the handle; also its feed, because ``LiveFrame.df`` waits for the first data. Output: the
``FrameSource`` of ``sources.py``. The widgets read from a thread of their own, so nothing here may wait: a
frame without data yet is shown empty, one that failed is shown with its reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Final, Literal, cast

import pandas as pd

from notebook_rt.edits.merge import ANSWER_LOST
from notebook_rt.errors import DerivationError, HistoryError, NotebookRTError, ReadOnlyError
from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Column
from notebook_rt.runtime.recording import Recording
from notebook_rt.store import table as store
from notebook_rt.sync.connection.health import UNAVAILABLE, every
from notebook_rt.sync.history import past as recorded
from notebook_rt.sync.history.past import Past
from notebook_rt.sync.history.steps import Step, steps_of
from notebook_rt.widgets import handles
from notebook_rt.widgets.sources import (
    Conflict,
    Lost,
    Moment,
    PastSource,
    Reach,
    Right,
    Unsubscribe,
    listen,
)

MARKS_FOR: Final = 0.25
"""Seconds for which the marks of pending edits are cached: they are read from the queue's file."""

CALM_WORDS: Final = {"stale": "comparing", "polling": "reconnecting"}
"""A grid's word for a status that usually ends soon; it must not alarm the user."""


_EMPTY: Final = pd.DataFrame()


class PastOf:
    """The recorded past of a table, as a grid or chart reads it."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._reach: Reach | None = None

    def reach(self) -> Reach | None:
        """Return how far it reaches; while another reader holds the lock, the last known value."""
        if self.recording.lock.acquire(blocking=False):
            try:
                self._reach = self.recording.read(self._reaches)
            finally:
                self.recording.lock.release()
        return self._reach

    def _reaches(self, past: Past) -> Reach | None:
        began, last = past.began, past.last
        if began is None or last is None:
            return None
        lost = [Lost(gap.since, gap.until, gap.reason) for gap in past.gaps]
        return Reach(began, max(self.recording.now(), last), lost)

    def at(self, when: int) -> Moment:
        def read(past: Past) -> recorded.Moment:
            reach = self._reaches(past)
            if reach is None:
                raise HistoryError("nothing is recorded any more")
            return past.at(min(max(when, reach.began), reach.now))

        found = self.recording.read(read)
        df = found.snapshot(self.recording.driver.dtype_backend)
        known = {column.name: column for column in found.schema.columns}
        names = [str(name) for name in (*df.index.names, *df.columns)]
        fields = tuple(known[name] for name in names)
        gap = found.gap
        if gap is None:
            return Moment(found.when, df, fields)
        lost = Lost(gap.since, gap.until, gap.reason)
        return Moment(found.when, df, fields, lost, gap.known(found.when))

    def steps(self, key: Hashable) -> Sequence[Step]:
        def read(past: Past) -> Sequence[Step]:
            return [] if past.schema is None else steps_of(past, past.schema.coerce_key(key))

        return self.recording.read(read)


class _ReadOnly:
    """Defaults of a source that cannot be written."""

    editable = False
    past: PastSource | None = None

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def why_no_past(self) -> str:
        return (
            "Only a table has a history, and this is made of tables. Record the table that you want to"
            " look back at; what is derived of its replay is shown as it was.\n"
            'table.history("1h")'
        )

    def may(self, right: Right) -> bool:
        return False

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        raise ReadOnlyError(self.name)

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        raise ReadOnlyError(self.name)

    def delete(self, key: Hashable, after: float) -> None:
        raise ReadOnlyError(self.name)

    def leaving(self) -> pd.DataFrame:
        return pd.DataFrame()

    def forget_columns(self) -> None:
        pass

    def batch(self) -> AbstractContextManager[None]:
        raise ReadOnlyError(self.name)

    def undo(self) -> bool:
        return False

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        return {}

    def conflicts(self) -> Sequence[Conflict]:
        return ()

    def resolve(self, key: Hashable, column: str | None, choice: Literal["mine", "theirs"]) -> None:
        raise ReadOnlyError(self.name)


class FrameOf(_ReadOnly):
    """A ``LiveFrame`` (a query, broadcasts) as a grid or chart reads it."""

    def __init__(self, frame: handles.Frame) -> None:
        self._frame = frame
        self._empty = pd.DataFrame()
        self._fields: tuple[Column, ...] = ()
        self._about: tuple[object, ...] = ()
        """What the fields depend on: the schema, the key's columns, and whether each is made if it is not
        given."""
        self._labels = self._empty.columns

    @property
    def name(self) -> str:
        return str(self._frame.name)

    @property
    def df(self) -> pd.DataFrame:
        """The snapshot; an empty one before the first data. Never waits."""
        feed = self._frame._feed  # ``LiveFrame.df`` waits for the first data; this must not wait
        if self.status != "closed":
            feed.touch()
        try:
            found = feed.snapshot()
        except NotebookRTError:  # it cannot be derived; ``note`` has the reason
            found = None
        return self._empty if found is None else found

    @property
    def status(self) -> str:
        """The frame's status; for live updates that may return soon, the word for the recovery."""
        status = str(self._frame.status)
        if status == "stale" and self._frame._feed.replayed():
            return "replay"
        return CALM_WORDS.get(status, status) if self._frame._feed.in_grace() else status

    @property
    def note(self) -> str:
        """A calm sentence above the data, never a traceback (promises, connection)."""
        match self.status:
            case "polling":
                return UNAVAILABLE.format(every=every(self._frame._feed.poll_every))
            case "stale":
                at = self._frame.synced_at
                since = "" if at is None else f"; these rows are as of {at:%H:%M:%S} UTC"
                if self._frame._feed.failure is None:
                    return f"Being compared with the server{since}"
                return f"No connection{since}. What you edit is kept, and sent when it is back"
            case "replay" | "error":
                return str(self._frame.reason)
        return self._frame._feed.why_empty()

    @property
    def undeclared(self) -> str:
        return self._frame._feed.why_undeclared

    @property
    def fields(self) -> Sequence[Column]:
        return self.fields_of(self.df)

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        schema = self._frame.schema
        known = {} if schema is None else {c.name: c for c in schema.columns}
        keys = [str(name) for name in df.index.names if name is not None]
        made = {n: self._fills(known[n]) for n in keys if n in known}
        about, labels = (schema, keys, made), self._labels
        # The labels of one table's snapshots are views of one index: the names are not compared.
        if about != self._about or not (labels.is_(df.columns) or labels.equals(df.columns)):
            known |= {name: replace(known[name], filled=filled) for name, filled in made.items()}
            names = [*keys, *(str(name) for name in df.columns if name not in keys)]
            self._fields = tuple(known.get(name) or Column(name, "") for name in names)
            self._about, self._labels = about, df.columns
        return self._fields

    def _fills(self, column: Column) -> bool:
        """Return whether a new row may omit this column of the key."""
        return False

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe:
        # This only requests a redraw and shows no batch: edits in code are not based on it.
        return listen(self._frame._on_batch, fn)


class TableOf(FrameOf):
    """A ``LiveTable`` as a grid reads and writes it."""

    _frame: handles.Table

    def __init__(self, table: handles.Table) -> None:
        super().__init__(table)
        self._leaving: tuple[object, pd.DataFrame] = ((), self._empty)
        self._marks: tuple[float, dict[tuple[Hashable, str], tuple[str, str]]] = (-1.0, {})
        self._conflicts: tuple[float, list[Conflict]] = (-1.0, [])
        self._past: PastOf | None = None

    @property
    def past(self) -> PastSource | None:  # type: ignore[override]  # may differ on each access
        recording = self._frame._recording
        if recording is None:
            self._past = None
        elif self._past is None or self._past.recording is not recording:
            self._past = PastOf(recording)
        return self._past

    @property
    def why_no_past(self) -> str:
        return (
            "No history of this table is recorded yet. To keep what changes from now on, run this in a"
            " cell, with your own name for the table:\n"
            'table.history("1h")'
        )

    @property
    def editable(self) -> bool:  # type: ignore[override]  # a closed one is not
        return self.status != "closed"

    def may(self, right: Right) -> bool:
        return self._frame._edits.granted(right)

    def _fills(self, column: Column) -> bool:
        return self._frame._edits.fills(column)

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        self._marks = (-1.0, {})
        self._frame._edit_shown(key, values, shown)

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        self._marks = (-1.0, {})
        return self._frame.insert(values)

    def delete(self, key: Hashable, after: float) -> None:
        self._marks = (-1.0, {})
        self._frame.delete(key, after=after)

    def leaving(self) -> pd.DataFrame:
        schema = self._frame.schema
        rows = self._frame.leaving() if self.editable else {}
        shown = self._frame._feed.table
        if not rows or schema is None or shown is None:
            return self._empty
        about = (schema, tuple(rows))
        if self._leaving[0] != about:
            table = store.Table(schema, shown.dtype_backend)
            table.apply([Upsert(cast("Any", key), row) for key, row in rows.items()])
            self._leaving = (about, table.snapshot())
        return self._leaving[1]

    def forget_columns(self) -> None:
        self._frame._edits.columns_suspect()

    def batch(self) -> AbstractContextManager[None]:
        self._marks = (-1.0, {})
        return self._frame.batch()

    def undo(self) -> bool:
        self._marks, self._conflicts = (-1.0, {}), (-1.0, [])
        return self._frame.undo()

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        now = time.monotonic()
        if self.editable and now - self._marks[0] > MARKS_FOR:
            marks = self._frame.marks()  # open conflicts are returned with both sides, below
            self._marks = (now, {c: m for c, m in marks.items() if m[0] != "conflict"})
        return self._marks[1]

    def conflicts(self) -> Sequence[Conflict]:
        now = time.monotonic()
        if self.editable and now - self._conflicts[0] > MARKS_FOR:
            found = self._frame.conflicts
            names = ["key", "column", "base", "mine", "theirs", "rule"]
            rows = found.loc[found["open"], names].itertuples(index=False, name=None)
            asked = [
                Conflict(key, column, base, mine, theirs, str(rule).startswith(ANSWER_LOST))
                for key, column, base, mine, theirs, rule in rows
            ]
            self._conflicts = (now, asked)
        return self._conflicts[1]

    def resolve(self, key: Hashable, column: str | None, choice: Literal["mine", "theirs"]) -> None:
        try:
            self._frame.resolve(key, column, choice)
        finally:
            self._marks, self._conflicts = (-1.0, {}), (-1.0, [])


class MappedOf(_ReadOnly):
    """A ``MappedFrame`` as a grid or chart reads it: any value as a table, not editable."""

    def __init__(self, mapped: handles.Mapped) -> None:
        self._mapped = mapped
        self._shown: tuple[object, pd.DataFrame] = (None, pd.DataFrame())
        try:
            _ = mapped.df  # computed here once, so that the user sees the error
        except DerivationError:
            if not self.undeclared:
                raise

    @property
    def name(self) -> str:
        return "computed from " + ", ".join(frame.name for frame in self._mapped.frames)

    @property
    def df(self) -> pd.DataFrame:
        value = self._mapped.latest
        if value is None:  # such as after another login
            value = _EMPTY
        if self._shown[0] is not value:
            self._shown = (value, tabular(value))
        return self._shown[1]

    @property
    def status(self) -> str:
        return self._worst.status

    @property
    def note(self) -> str:
        undeclared = self.undeclared if self._mapped.latest is None else ""
        return undeclared or self._worst.note

    @property
    def undeclared(self) -> str:
        feeds = (frame._feed for frame in self._mapped.sources)
        return next((why for feed in feeds if (why := feed.why_undeclared)), "")

    @property
    def _worst(self) -> FrameOf:
        """The frame with the worst status."""
        order = (
            "error",
            "closed",
            "stale",
            "loading",
            "polling",
            "replay",
            *CALM_WORDS.values(),
            "live",
        )
        sources = (FrameOf(cast("handles.Frame", one)) for one in self._mapped.sources)
        return min(sources, key=lambda one: order.index(one.status))

    @property
    def fields(self) -> Sequence[Column]:
        return self.fields_of(self.df)

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        names = [str(name) for name in (*df.index.names, *df.columns) if name is not None]
        return tuple(Column(name, "", nullable=name not in df.index.names) for name in names)

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe:
        # Also at once: without a view nothing was listening.
        stop = listen(partial(self._mapped.on_change, at_once=True), fn)

        def check_alive(batch: object) -> None:
            if self._mapped.latest is None:
                fn()

        # After another login the value is gone long before a new one is published.
        stops = [stop, *(source._attach(check_alive) for source in self._mapped.sources)]

        def stop_all() -> None:
            for each in stops:
                each()

        return stop_all


def tabular(value: object) -> pd.DataFrame:
    """Convert a value to a DataFrame with string column names and a unique index.

    >>> tabular(pd.Series([1.5], index=pd.Index(["a"], name="symbol"))).reset_index().values.tolist()
    [['a', 1.5]]
    >>> tabular(3).values.tolist()
    [[3]]
    """
    if isinstance(value, pd.Series):
        value = value.to_frame("value" if value.name is None else value.name)
    df = value if isinstance(value, pd.DataFrame) else pd.DataFrame({"value": [value]})
    names = [
        " ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in df.columns
    ]
    index, unnamed = df.index, all(name is None for name in df.index.names)
    many = index.nlevels > 1
    levels = [
        (f"level_{n}" if many else "index") if name is None else str(name)
        for n, name in enumerate(index.names)
    ]
    if unnamed and (isinstance(index, pd.RangeIndex) or not index.is_unique):
        levels = []  # it only numbers the rows
    said = _distinct([*levels, *names])
    df = df.set_axis(said[len(levels) :], axis=1)
    if levels:
        df.index = index.set_names(said[: len(levels)])
    return df if index.is_unique else df.reset_index(drop=unnamed)


def _distinct(names: Sequence[str]) -> list[str]:
    """Make the names unique, as pandas' readers do.

    >>> _distinct(["a", "b", "a", "a.1", "a"])
    ['a', 'b', 'a.1', 'a.1.1', 'a.2']
    """
    found: dict[str, None] = {}
    for name in names:
        tries = (name if n == 0 else f"{name}.{n}" for n in count())
        found[next(one for one in tries if one not in found)] = None
    return list(found)
