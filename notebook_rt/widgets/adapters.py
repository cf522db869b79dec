"""The live classes as sources: what a ``Session``, a ``LiveFrame``, a ``Presence`` show.

In: the handles of DESIGN §1, by their public names only. Out: the protocols of ``sources.py``. The
widgets read from a thread of their own, so nothing here may wait: a frame without data yet is shown
empty, one that failed is shown with its reason.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import pandas as pd

from notebook_rt.errors import ClosedError, NotebookRTError, ReadOnlyError
from notebook_rt.store.table import Table
from notebook_rt.store.types import Column
from notebook_rt.sync.health import UNAVAILABLE
from notebook_rt.sync.merge import ANSWER_LOST
from notebook_rt.sync.rows import Upsert
from notebook_rt.widgets.sources import (
    Conflict,
    HealthReport,
    Note,
    NoteKind,
    Person,
    QueuedWrite,
    Unsubscribe,
)

if TYPE_CHECKING:
    from notebook_rt.channel import Presence
    from notebook_rt.frame import LiveFrame
    from notebook_rt.mapped import MappedFrame
    from notebook_rt.outbox.view import QueueView
    from notebook_rt.session import Session

MARKS_FOR: Final = 0.25
"""Seconds that the marks of pending edits are kept: they are read from the queue's file."""
NOTES_KEPT: Final = 200
_UNITS: Final = {"ms": "{:,.0f} ms", "s": "{:,.1f} s"}
_NAMES: Final = ("name", "username", "user_name", "display_name", "full_name", "email", "user")


def _quiet(fn: Callable[[], object], *_: object) -> None:
    """A listener that only says "look again", whatever it is told."""
    fn()


def _listen(
    subscribe: Callable[[Callable[..., object]], Unsubscribe], fn: Callable[[], object]
) -> Unsubscribe:
    # A partial has no code of its own: two widgets in two cells are never taken for one run twice.
    try:
        return subscribe(partial(_quiet, fn))
    except ClosedError:
        return lambda: None


class SessionHealth:
    """``Session.health`` and its metrics."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def health(self) -> HealthReport:
        health = self._session.health
        error = health.metrics.get("last_error")
        return HealthReport(
            health.state,
            "" if health.state == "healthy" else health.reason,
            health.latency_ms,
            None if error is None else str(error),
            {
                name.rpartition("_")[0].replace("_", " ")
                if unit in _UNITS
                else name.replace("_", " "): (
                    _UNITS[unit].format(value) if unit in _UNITS else _plain(value)
                )
                for name, value in health.metrics.items()
                if value is not None and name not in ("last_error", "state")
                for unit in [name.rpartition("_")[2]]
            },
        )

    def on_health(self, fn: Callable[[], object]) -> Unsubscribe:
        return _listen(self._session.on_health, fn)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class PeoplePresent:
    """``Channel.presence``. A name is the first of the usual fields; idle is what they say."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def people(self) -> Sequence[Person]:
        own = self._presence.key
        return [
            Person(
                person.key,
                _name(person.metas[-1] if person.metas else {}, person.key),
                datetime.fromtimestamp(person.joined_at, UTC),
                idle=_idle(person.metas),
                you=person.key == own,
            )
            for person in self._presence.people
        ]

    def on_presence(self, fn: Callable[[], object]) -> Unsubscribe:
        return _listen(self._presence.on_change, fn)


def _name(meta: Mapping[str, Any], key: str) -> str:
    return next((str(meta[name]) for name in _NAMES if meta.get(name)), key)


def _idle(metas: Sequence[Mapping[str, Any]]) -> bool:
    """Everywhere: somebody with one busy tab is not idle."""
    return bool(metas) and all(m.get("idle") or m.get("status") in ("idle", "away") for m in metas)


class SessionQueue:
    """``Session.queue``: its DataFrame as a list."""

    def __init__(self, queue: QueueView) -> None:
        self._queue = queue
        self._latest: list[QueuedWrite] = []

    def writes(self) -> Sequence[QueuedWrite]:
        try:
            df = self._queue.df.reset_index()
        except NotebookRTError:  # closed: as it was
            return self._latest
        df = df[["id", "what", "state", "why", "attempts", "at", "values"]]
        self._latest = [
            QueuedWrite(
                id, what, state, why, attempts, at.floor("us").to_pydatetime(), _json(values)
            )
            for id, what, state, why, attempts, at, values in df.itertuples(index=False, name=None)
        ]
        return self._latest

    def retry(self, id: str) -> object:
        return self._queue.retry(id)

    def discard(self, id: str) -> object:
        return self._queue.discard(id)

    def on_queue(self, fn: Callable[[], object]) -> Unsubscribe:
        return self._queue.on_change(fn)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str) if values else ""


class SessionNotes:
    """What the session finds worth a line, kept for a while."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self._count = 0

    def notes(self) -> Sequence[Note]:
        return list(self._notes)

    def on_note(self, fn: Callable[[], object]) -> Unsubscribe:
        # The listeners' list belongs to the loop thread; what is called there must be quick.
        project = self._session._project

        def note(kind: str, text: str) -> None:
            self._keep(kind, text)
            fn()

        project.thread.call(project.note_listeners.append, note)

        def stop() -> None:
            with contextlib.suppress(ClosedError, RuntimeError, ValueError):
                project.thread.post(project.note_listeners.remove, note)

        return stop

    def _keep(self, kind: str, text: str) -> None:
        self._count += 1
        known = cast("Any", kind if kind in get_args(NoteKind) else "info")
        self._notes.append(Note(self._count, known, text, datetime.now(UTC)))


class FrameOf:
    """A ``LiveFrame`` (a table, a query, broadcasts) as a grid or chart reads it."""

    def __init__(self, frame: LiveFrame) -> None:
        self._frame = frame
        self._empty = pd.DataFrame()
        self._fields: tuple[object, tuple[Column, ...]] = (None, ())
        self._made: dict[str, bool] = {}
        """The key's columns, and whether each is made where it is not given."""
        self._leaving: tuple[object, pd.DataFrame] = ((), self._empty)
        self._marks: tuple[float, dict[tuple[Hashable, str], tuple[str, str]]] = (-1.0, {})
        self._conflicts: tuple[float, list[Conflict]] = (-1.0, [])

    @property
    def name(self) -> str:
        return str(self._frame.name)

    @property
    def df(self) -> pd.DataFrame:
        """The snapshot; an empty one while there is none. Never waits."""
        feed = self._frame._feed  # ``LiveFrame.df`` waits for the first data; here nobody may
        if self.status != "closed":
            feed.look()
        found = feed.snapshot()
        return self._empty if found is None else found

    @property
    def status(self) -> str:
        return str(self._frame.status)

    @property
    def note(self) -> str:
        """A calm sentence above the data, never a traceback (DESIGN 5)."""
        match self.status:
            case "polling":
                return UNAVAILABLE.format(interval=self._frame._feed.options.poll_interval)
            case "stale":
                at = self._frame.synced_at
                since = "" if at is None else f", this is the data of {at:%H:%M:%S} UTC"
                return f"No connection{since}. What you edit is kept, and sent when it is back"
            case "error":
                return str(self._frame.reason)
        return ""

    @property
    def fields(self) -> Sequence[Column]:
        df, schema, edits = self.df, self._frame.schema, self._frame._edits
        known = {} if schema is None else {c.name: c for c in schema.columns}
        keys = [str(name) for name in df.index.names if name is not None]
        made = {n: edits is not None and edits.fills(known[n]) for n in keys if n in known}
        if self._fields[0] is not df or self._made != made:
            known |= {name: replace(known[name], filled=filled) for name, filled in made.items()}
            names = [*keys, *(str(name) for name in df.columns if name not in keys)]
            self._fields = (df, tuple(known.get(name) or Column(name, "") for name in names))
            self._made = made
        return self._fields[1]

    @property
    def editable(self) -> bool:
        return self._frame.editable and self.status != "closed"

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe:
        return _listen(self._frame.on_change, fn)

    def edit(self, key: Hashable, values: Mapping[str, Any]) -> None:
        self._marks = (-1.0, {})
        self._frame.edit(key, values)

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
            table = Table(schema, shown.dtype_backend)
            table.apply([Upsert(cast("Any", key), row) for key, row in rows.items()])
            self._leaving = (about, table.snapshot())
        return self._leaving[1]

    def doubt(self) -> None:
        self._frame._writable().doubted()

    def batch(self) -> AbstractContextManager[None]:
        self._marks = (-1.0, {})
        return self._frame.batch()

    def undo(self) -> bool:
        self._marks, self._conflicts = (-1.0, {}), (-1.0, [])
        return self._frame.undo()

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        now = time.monotonic()
        if self.editable and now - self._marks[0] > MARKS_FOR:
            marks = self._frame.marks()  # an open conflict comes with its sides, below
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


class MappedOf:
    """A ``MappedFrame`` as a grid or chart reads it: whatever it is as a table, nothing to edit."""

    editable = False

    def __init__(self, mapped: MappedFrame) -> None:
        self._mapped = mapped
        self._table = FrameOf(mapped.frame)
        self._shown: tuple[object, pd.DataFrame] = (None, pd.DataFrame())
        _ = mapped.df  # computed here once, where the user sees what it raises

    @property
    def name(self) -> str:
        return f"computed of {self._table.name}"

    @property
    def df(self) -> pd.DataFrame:
        value = self._mapped.latest
        if self._shown[0] is not value:
            self._shown = (value, tabular(value))
        return self._shown[1]

    @property
    def status(self) -> str:
        return self._table.status

    @property
    def note(self) -> str:
        return self._table.note

    @property
    def fields(self) -> Sequence[Column]:
        df = self.df
        names = [str(name) for name in (*df.index.names, *df.columns) if name is not None]
        return tuple(Column(name, "", nullable=name not in df.index.names) for name in names)

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe:
        # At once, too: nobody listened while nobody looked.
        return _listen(partial(self._mapped.on_change, at_once=True), fn)

    def edit(self, key: Hashable, values: Mapping[str, Any]) -> None:
        raise ReadOnlyError(self.name)

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        raise ReadOnlyError(self.name)

    def delete(self, key: Hashable, after: float) -> None:
        raise ReadOnlyError(self.name)

    def leaving(self) -> pd.DataFrame:
        return pd.DataFrame()

    def doubt(self) -> None:
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


def tabular(value: object) -> pd.DataFrame:
    """Anything as a DataFrame with columns named by text and an index that tells its rows apart.

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
    df = df.set_axis(names, axis=1)
    if not df.index.is_unique:
        return df.reset_index(drop=all(name is None for name in df.index.names))
    if not isinstance(df.index, pd.RangeIndex):
        levels = (
            [f"level_{n}" for n in range(df.index.nlevels)] if df.index.nlevels > 1 else ["index"]
        )
        found = [given or made for given, made in zip(df.index.names, levels, strict=True)]
        df.index = df.index.set_names([str(name) for name in found])
    return df
