"""Broadcasts as a live table: the last value of each key, or an append-only log.

Payloads have no declared columns, so the columns are learned from the messages: a column gets the PostgreSQL
type that fits its values, and a wider one when they no longer fit. The rows are kept in the same kind of
store as a table's, so the same frame and widgets show them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from typing import Any

from notebook_rt.model.rows import Delete, Key, Op, Row, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.net.loop import WakingLock
from notebook_rt.runtime.faults import Faults
from notebook_rt.runtime.feed import Feed
from notebook_rt.runtime.room import Message, Room
from notebook_rt.store.table import Table

NUMBER = "n"
"""The log's key: a running number."""
AT = "at"
"""The log's time of receipt."""


class BroadcastFeed(Feed):
    """The messages of one event of one channel.

    ``key`` None: a log, numbered (``n``), with the time of receipt (``at``); a payload's fields with these
    names are renamed to ``n_`` and ``at_``. Else the last value per key.
    """

    def __init__(self, room: Room, event: str, key: tuple[str, ...] | None, limit: int) -> None:
        services = room.services
        super().__init__(event, services.thread, services.options, services.metrics)
        self.room = room
        self.key = key
        self.limit = limit
        self._types: dict[str, str] = {} if key else {NUMBER: "int8", AT: "timestamptz"}
        self._rows: dict[Key, dict[str, Any]] = {}
        self._received = 0
        self._new: list[Message] = []
        self._make_table()

    @property
    def declared(self) -> bool:
        return False

    @property
    def lock(self) -> WakingLock:
        return self.room.services.lock

    @property
    def owner(self) -> tuple[str, str]:
        return self.room.services.owner

    @property
    def faults(self) -> tuple[Faults, ...]:
        return (self.room.services.faults,)

    @property
    def filled(self) -> bool:
        return self.version > 0

    @property
    def is_whole(self) -> bool:
        return True

    def missing(self, seconds: float) -> str:
        return f'nobody has sent "{self.name}" to the channel "{self.room.topic}" in {seconds:g} s'

    def start(self) -> None:
        self._leave = self.room.listeners.add(self._receive)
        self.set_status("live", "")

    def close(self) -> None:
        self._leave()
        self.set_status("closed", "closed")

    def _receive(self, message: Message) -> None:
        if self.name in ("*", message.event):
            self.receive(message)

    def receive(self, message: Message) -> None:
        """Take a message; all messages of one turn of the loop are applied as one batch."""
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
            if not all(isinstance(row.get(name), str | int | float) for name in self.key or ()):
                continue  # a message without its key, or with a list as key, has no row
            key = self._key_of(row)
            self._rows.pop(key, None)  # the latest is last, so the first is dropped first
            self._rows[key] = row
            touched[key] = None
        if not self._rows:
            return
        ops: list[Op] = []
        while len(self._rows) > self.limit:
            gone = next(iter(self._rows))
            del self._rows[gone]
            ops.append(Delete(gone))
        with self.lock:  # derived frames never see half of a batch
            table = self.table
            if widened or table is None:
                known = set() if table is None else set(table.keys())
                table = self._make_table()
                table.apply(
                    [Upsert(k, self._typed(row)) for k, row in self._rows.items() if k in known]
                )
            ops += [Upsert(k, self._typed(self._rows[k])) for k in touched if k in self._rows]
            changes = table.apply(ops, want_changes=True)
        self.publish(changes, "stream", messages[-1].at)

    def _make_table(self) -> Table:
        """Make an empty table with the columns known so far; a key column without values yet is text."""
        types = {**dict.fromkeys(self.key or (), "text"), **self._types}
        columns = tuple(Column(name, pg_type) for name, pg_type in types.items())
        self.schema = Schema(columns, self.key or (NUMBER,))
        self.table = Table(self.schema)
        return self.table

    def _row(self, message: Message) -> dict[str, Any]:
        payload = message.payload
        row = dict(payload) if isinstance(payload, Mapping) else {"value": payload}
        if not self.key:
            self._received += 1
            at = dt.datetime.fromtimestamp(message.at, dt.UTC)
            # A payload's own fields of these names are renamed, or they would overwrite other messages.
            row = {f"{k}_" if k in (NUMBER, AT) else k: value for k, value in row.items()}
            row = {NUMBER: self._received, AT: at, **row}
        return row

    def _key_of(self, row: Row) -> Key:
        names = self.key or (NUMBER,)
        columns = tuple(Column(name, self._types[name]) for name in names)
        return Schema(columns, names).key_of(row)

    def _typed(self, row: Row) -> dict[str, Any]:
        """Return the whole row: fields that the message leaves out are null."""
        return {
            name: float(value) if pg_type == "float8" and value is not None else value
            for name, pg_type in self._types.items()
            for value in (row.get(name),)
        }


def wider(pg_type: str | None, value: object) -> str:
    """Return the type that holds the values of ``pg_type`` and ``value``.

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
