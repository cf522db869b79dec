"""The simplest possible ``Rows``: a dict of dicts. The laws are tried on it first."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from notebook_rt.model.rows import Key, Op, Row, RowChange, Upsert, WireRow
from notebook_rt.model.types import Schema, equal
from notebook_rt.model.xmins import integers


class DictRows:
    """A keyed, ordered table as a dict."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.data: dict[Key, dict[str, Any]] = {}
        self.places: dict[Key, None] = {}
        """The keys of the rows, and of those that come back to their place."""
        self.version = 0
        """Counts what was applied: what has the same was not changed."""

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, key: Key) -> bool:
        return key in self.data

    @property
    def pending_keys(self) -> Collection[Key]:
        return ()

    def admit(self, key: Key, sent_at: float) -> None:
        pass

    def get(self, key: Key) -> dict[str, Any] | None:
        row = self.data.get(key)
        return None if row is None else dict(row)

    def gather(self, keys: Iterable[Key]) -> dict[Key, dict[str, Any] | None]:
        return {key: self.get(key) for key in keys}

    def keys(self) -> Iterator[Key]:
        return iter(list(self.data))

    def integers(self) -> Any:
        found = integers(self.data)
        return None if found is None else np.sort(found)

    def latest(self, column: str, most: int) -> list[Key]:
        moments = {key: row[column] for key, row in self.data.items()}
        if not all(isinstance(one, dt.datetime) for one in moments.values()):
            return []
        return sorted(moments, key=moments.__getitem__, reverse=True)[:most]

    def apply(self, ops: Sequence[Op], *, want_changes: bool = False) -> Sequence[RowChange]:
        self.version += 1
        before = {op.key: self.get(op.key) for op in ops}
        for op in ops:
            if isinstance(op, Upsert):
                row = self.data.setdefault(op.key, dict.fromkeys(self.schema.names))
                row.update({n: v for n, v in op.row.items() if n in self.schema.types})
                self.places.setdefault(op.key)
            elif self.data.pop(op.key, None) is None or not op.keeps_place:
                self.places.pop(op.key, None)
        self.data = {key: self.data[key] for key in self.places if key in self.data}
        return [c for key, old in before.items() for c in _change(key, old, self.get(key))]

    def load(self) -> DictLoad:
        return DictLoad(self)

    def differing(self, page: Sequence[WireRow]) -> list[tuple[Key, Row]]:
        found: list[tuple[Key, Row]] = []
        for wire in page:
            row = self.schema.decode(wire)
            mine = self.data.get(self.schema.key_of(row))
            if mine is None or any(not equal(mine[n], row[n]) for n in row):
                found.append((self.schema.key_of(row), row))
        return found


class DictLoad:
    def __init__(self, rows: DictRows) -> None:
        self.rows = rows
        self.collected = DictRows(rows.schema)

    def __len__(self) -> int:
        return len(self.collected)

    def extend(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> None:
        self.prepare(page, keys)()

    def prepare(self, page: Sequence[WireRow], keys: list[Key] | None = None) -> Callable[[], None]:
        schema = self.rows.schema
        rows = [schema.decode(wire) for wire in page]
        ops = [Upsert(schema.key_of(row), row) for row in rows]

        def add() -> None:
            self.collected.apply(ops)

        return add

    def commit(self, ops: Sequence[Op] = (), *, want_changes: bool = False) -> Sequence[RowChange]:
        self.collected.apply(ops)
        self.rows.version += 1
        before, self.rows.data = self.rows.data, self.collected.data
        self.rows.places = self.collected.places
        keys = {**before, **self.rows.data}
        return [c for key in keys for c in _change(key, before.get(key), self.rows.get(key))]


def _change(
    key: Key, old: dict[str, Any] | None, new: dict[str, Any] | None
) -> Iterator[RowChange]:
    if old is None and new is not None:
        yield RowChange("insert", key, None, new)
    elif old is not None and new is None:
        yield RowChange("delete", key, old, None)
    elif old is not None and not equal(old, new):
        yield RowChange("update", key, old, new)
