"""Broadcasts as a live table: the last value of each key, or an append-only log.

Payloads have no declared columns, so they are learnt from what comes: a column gets the PostgreSQL
type that its values fit, a wider one when they no longer do. The same store as a table's holds them,
so the same frame and the same widgets show them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from notebook_rt.net.feed import Feed
from notebook_rt.net.room import Message, Room
from notebook_rt.store.table import Table
from notebook_rt.store.types import Column, Schema
from notebook_rt.sync.rows import Delete, Key, Op, Row, Upsert

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

NUMBER = "n"
"""The log's key: a running number."""


class BroadcastFeed(Feed):
    """What one event of one channel brought.

    ``key`` None: a log, numbered, with the time of receipt (``at``). Else the last value per key.
    """

    def __init__(self, room: Room, event: str, key: tuple[str, ...] | None, limit: int) -> None:
        super().__init__(event, room.services.thread, room.services.options)
        self.room = room
        self.key = key
        self.limit = limit
        self._types: dict[str, str] = {} if key else {NUMBER: "int8", "at": "timestamptz"}
        self._rows: dict[Key, dict[str, Any]] = {}
        self._received = 0
        self._new: list[Message] = []
        known = {**dict.fromkeys(key or (), "text"), **self._types}
        columns = tuple(Column(name, pg_type) for name, pg_type in known.items())
        self._silence = Table(Schema(columns, key or (NUMBER,)))

    def snapshot(self) -> pd.DataFrame | None:
        """Empty before the first broadcast: there may never be one."""
        return self._silence.snapshot() if self.table is None else super().snapshot()

    def arrow(self) -> pa.Table | None:
        return self._silence.to_arrow() if self.table is None else super().arrow()

    def start(self) -> None:
        self.room.listeners.append((self.name, self.receive))
        self.set_status("live", "")

    def close(self) -> None:
        entry = (self.name, self.receive)
        if entry in self.room.listeners:
            self.room.listeners.remove(entry)
        self.set_status("closed", "closed")

    def receive(self, message: Message) -> None:
        """Take a message; all of one turn of the loop are applied as one."""
        self._new.append(message)
        if len(self._new) == 1:
            asyncio.get_running_loop().call_soon(self._apply)

    def _apply(self) -> None:
        messages, self._new = self._new, []
        touched: dict[Key, None] = {}
        widened = False
        for message in messages:
            row = self._row(message)
            for name, value in row.items():
                before = self._types.get(name)
                self._types[name] = wider(before, value)
                widened |= self._types[name] != before
            if self.key and any(row.get(name) is None for name in self.key):
                continue  # a message without its key belongs to no row
            key = self._key_of(row)
            self._rows.pop(key, None)  # the latest is last, so the first is the one to go
            self._rows[key] = row
            touched[key] = None
        if not self._rows:
            return
        ops: list[Op] = []
        while len(self._rows) > self.limit:
            gone = next(iter(self._rows))
            del self._rows[gone]
            ops.append(Delete(gone))
        if widened or self.table is None:
            columns = tuple(Column(name, pg_type) for name, pg_type in self._types.items())
            self.schema = Schema(columns, self.key or (NUMBER,))
            old, self.table = self.table, Table(self.schema)
            known = set() if old is None else set(old.keys())
            self.table.apply(
                [Upsert(k, self._typed(row)) for k, row in self._rows.items() if k in known]
            )
        ops += [Upsert(key, self._typed(self._rows[key])) for key in touched if key in self._rows]
        self.publish(self.table.apply(ops, want_changes=True), "stream", messages[-1].at)

    def _row(self, message: Message) -> dict[str, Any]:
        payload = message.payload
        row = dict(payload) if isinstance(payload, Mapping) else {"value": payload}
        if not self.key:
            self._received += 1
            at = dt.datetime.fromtimestamp(message.at, dt.UTC)
            row = {NUMBER: self._received, "at": at, **row}
        return row

    def _key_of(self, row: Row) -> Key:
        names = self.key or (NUMBER,)
        columns = tuple(Column(name, self._types[name]) for name in names)
        return Schema(columns, names).key_of(row)

    def _typed(self, row: Row) -> dict[str, Any]:
        """Whole: what a message leaves out is null."""
        return {
            name: float(value) if pg_type == "float8" and value is not None else value
            for name, pg_type in self._types.items()
            for value in (row.get(name),)
        }


def wider(pg_type: str | None, value: object) -> str:
    """The type that holds what ``pg_type`` holds and ``value``.

    >>> wider(None, 1), wider("int8", 0.5), wider("float8", 2), wider("int8", "x")
    ('int8', 'float8', 'float8', 'jsonb')
    """
    if isinstance(value, bool):
        mine = "bool"
    elif isinstance(value, int):
        mine = "int8"
    elif isinstance(value, float):
        mine = "float8"
    elif isinstance(value, str):
        mine = "text"
    elif isinstance(value, dt.datetime):
        mine = "timestamptz"
    elif value is None:
        return pg_type or "text"
    else:
        mine = "jsonb"
    if pg_type is None or pg_type == mine:
        return mine
    return "float8" if {pg_type, mine} == {"int8", "float8"} else "jsonb"
