"""Small in-memory sources for widgets in tests and pictures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pandas as pd

from notebook_rt.errors import InvalidEditError
from notebook_rt.model.types import Column
from notebook_rt.sync.history.steps import Step
from notebook_rt.widgets.sources import (
    Conflict,
    HealthReport,
    Lost,
    Moment,
    Note,
    PastSource,
    Person,
    QueuedWrite,
    Reach,
)

HOSTILE = "<img src=x onerror='window.__ran=1'><b>bold</b>"


@dataclass
class Told:
    """Listeners, and a way to tell them."""

    listeners: list[Callable[[], object]] = field(default_factory=list)

    def listen(self, fn: Callable[[], object]) -> Callable[[], None]:
        self.listeners.append(fn)
        return lambda: self.listeners.remove(fn)

    def tell(self) -> None:
        for fn in tuple(self.listeners):
            fn()


class MemoryHealth(Told):
    def __init__(self, report: HealthReport | None = None) -> None:
        super().__init__()
        self.report = report or HealthReport("healthy", latency=12.0)
        self.verified: list[Callable[[str], object]] = []
        """Who waits for a comparison."""

    def health(self) -> HealthReport:
        return self.report

    def set(self, report: HealthReport) -> None:
        self.report = report
        self.tell()

    def verify(self, done: Callable[[str], object]) -> None:
        self.verified.append(done)

    on_health = Told.listen


class MemoryQueue(Told):
    def __init__(self, *writes: QueuedWrite) -> None:
        super().__init__()
        self.entries = list(writes)
        self.asked: list[tuple[str, str]] = []

    def writes(self) -> Sequence[QueuedWrite]:
        return self.entries

    def retry(self, id: str) -> None:
        self.asked.append(("retry", id))

    def discard(self, id: str) -> None:
        self.asked.append(("discard", id))
        self.entries = [write for write in self.entries if write.id != id]
        self.tell()

    on_queue = Told.listen


class MemoryPresence(Told):
    def __init__(self, *people: Person) -> None:
        super().__init__()
        self.here = list(people)

    def people(self) -> Sequence[Person]:
        return self.here

    on_presence = Told.listen


class MemoryNotes(Told):
    def __init__(self, *notes: Note) -> None:
        super().__init__()
        self.lines = list(notes)

    def notes(self) -> Sequence[Note]:
        return self.lines

    on_note = Told.listen


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


METRICS = {
    "time connected": "1 h",
    "connections lost": "1",
    "messages received": "48,211",
    "changes applied": "41,006",
    "changes a second": "18.4",
    "latency, median": "12 ms",
    "latency, 95th percentile": "31 ms",
    "lag, median": "44 ms",
    "audits": "216",
    "rows that audits repaired": "0",
}


class MemoryPast:
    """States of a table and when they began, in microseconds; what happened to rows, put in by hand."""

    def __init__(
        self, states: Mapping[int, pd.DataFrame], fields: Sequence[Column], now: int
    ) -> None:
        self.states = dict(sorted(states.items()))
        self.fields = tuple(fields)
        self.now = now
        self.lost: list[Lost] = []
        self.happened: dict[Hashable, list[Step]] = {}
        self.asked: list[int] = []

    def reach(self) -> Reach | None:
        return Reach(min(self.states), self.now, list(self.lost)) if self.states else None

    def at(self, when: int) -> Moment:
        self.asked.append(when)
        when = min(max(when, min(self.states)), self.now)
        df = self.states[max(began for began in self.states if began <= when)]
        names = [*df.index.names, *df.columns]
        fields = [column for column in self.fields if column.name in names]
        lost = next((one for one in self.lost if one.since < when < (one.until or self.now)), None)
        return Moment(when, df, fields, lost, lost.since if lost else 0)

    def steps(self, key: Hashable) -> Sequence[Step]:
        return self.happened.get(key, [])


class MemoryFrame(Told):
    """A DataFrame under its key that can be changed, with marks and conflicts put in by hand."""

    def __init__(self, df: pd.DataFrame, fields: Sequence[Column], name: str = "positions") -> None:
        super().__init__()
        self.df = df
        self.name = name
        self.fields = tuple(fields)
        self.status = "live"
        self.note = ""
        self.undeclared = ""
        self.editable = True
        self.past: PastSource | None = None
        self.why_no_past = 'No history of this table is recorded yet.\ntable.history("1h")'
        self.rights = {"insert", "update", "delete"}
        self.edits: list[tuple[Hashable, dict[str, Any]]] = []
        self.bases: list[dict[str, Any]] = []
        """What the cells showed, of each edit."""
        self.left = df.iloc[:0]
        self.doubts = 0
        self.before: list[pd.DataFrame] = []
        self.marked: dict[tuple[Hashable, str], tuple[str, str]] = {}
        self.disputed: list[Conflict] = []
        self.resolved: list[tuple[Hashable, str | None, str]] = []

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        return self.fields

    def set(self, df: pd.DataFrame) -> None:
        self.df = df
        self.tell()

    def _check(self, values: Mapping[str, Any]) -> None:
        for column in self.fields:
            refusal = column.refusal(values[column.name]) if column.name in values else None
            if refusal is not None:
                self.forget_columns()
                raise InvalidEditError(f'table "{self.name}": {refusal}', refusal, column.name)

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        self._check(values)
        self.bases.append(dict(shown))
        self.edits.append((key, dict(values)))
        self.before.append(self.df)
        df = self.df.copy()
        for column, value in values.items():
            if isinstance(value, Decimal):
                value = float(value)
            df.loc[key, column] = pd.Timestamp(value) if isinstance(value, date) else value
            self.marked[key, column] = ("pending", "waits to be sent")
        self.set(df)

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        """The row goes to the end, as in a table without an order."""
        self._check(values)
        (name,) = self.df.index.names
        row = {column: [values.get(column)] for column in self.df.columns}
        fresh = pd.DataFrame(row, index=pd.Index([values[name]], name=name))
        self.edits.append((values[name], dict(values)))
        self.before.append(self.df)
        self.marked |= {(values[name], column): ("pending", "") for column in values}
        self.set(pd.concat([self.df, fresh.astype(self.df.dtypes.to_dict(), errors="ignore")]))
        return cast("Hashable", values[name])

    def delete(self, key: Hashable, after: float) -> None:
        """The row is leaving until ``written``."""
        self.edits.append((key, {}))
        self.before.append(self.df)
        self.left = pd.concat([self.left, self.df.loc[[key]]])
        self.marked |= {(key, column.name): ("pending", "") for column in self.fields}
        self.set(self.df.drop(index=[key]))

    def leaving(self) -> pd.DataFrame:
        return self.left

    def written(self) -> None:
        """All that is pending is the server's."""
        self.marked, self.left = {}, self.left.iloc[:0]
        self.tell()

    def forget_columns(self) -> None:
        self.doubts += 1

    def batch(self) -> AbstractContextManager[None]:
        return nullcontext()

    def may(self, right: str) -> bool:
        return right in self.rights

    def undo(self) -> bool:
        if not self.edits:
            return False
        key, _ = self.edits.pop()
        self.left = self.left.drop(index=[key], errors="ignore")
        self.marked = {cell: mark for cell, mark in self.marked.items() if cell[0] != key}
        self.set(self.before.pop())
        return True

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        return self.marked

    def conflicts(self) -> Sequence[Conflict]:
        return self.disputed

    def resolve(self, key: Hashable, column: str | None, choice: str) -> None:
        self.resolved.append((key, column, choice))
        self.disputed = [c for c in self.disputed if c.key != key or column not in (None, c.column)]
        self.tell()

    on_change = Told.listen
