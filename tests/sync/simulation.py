"""A model of PostgreSQL, Realtime and PostgREST under a virtual clock, and a driver for a mirror.

They can be made to fail like the real ones: changes are late, silently lost, or sent before the confirmation;
pages are read at different times and cut short; a read fails; clocks differ; a commit's time has only
milliseconds. After every step the driver checks that nothing shown goes back in time, and that no row is
shown that never existed.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

import msgspec
from msgspec import structs

from notebook_rt.errors import RefusedError, ServerError, StatementTimeoutError
from notebook_rt.local.realtime.limits import EventRate
from notebook_rt.model.filters import Filter
from notebook_rt.model.order import order_text
from notebook_rt.model.rows import Key, RowChange, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema, equal
from notebook_rt.options import Options
from notebook_rt.store.order import Ordered
from notebook_rt.store.reporter import Reporter
from notebook_rt.store.table import Table
from notebook_rt.sync.events import (
    Binding,
    Cancel,
    Change,
    Confirmed,
    Effect,
    Event,
    Failed,
    Fetch,
    Fetched,
    FetchFailed,
    Gap,
    Joined,
    Logged,
    Lost,
    Page,
    Published,
    Query,
    Ranked,
    Received,
    ReceivedMessages,
    Rejoin,
    Shown,
    StatusChanged,
    Tick,
    Turn,
    TurnWanted,
    Wake,
)
from notebook_rt.sync.rate import ChangeRate
from notebook_rt.sync.table.broadcast_answers import HEAD, SINCE, VERSION, Position
from notebook_rt.sync.table.heads import HEADS
from notebook_rt.sync.table.mirror import Mirror
from notebook_rt.sync.usage import Plan
from tests.sync.model import DictRows

EPOCH = 1_700_000_000.0
OPENAPI = {
    "int8": "bigint",
    "int4": "integer",
    "float8": "double precision",
    "numeric": "numeric",
    "jsonb": "jsonb",
    "_int4": "integer[]",
    "text": "text",
    "timestamptz": "timestamp with time zone",
}


Test = Callable[[dict[str, Any]], bool]
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_PLAIN = ("int4", "int8", "text", "timestamptz")
"""Types whose key values are their JSON."""
_FORMS = {
    "int4": r"-?\d+",
    "int8": r"-?\d+",
    "float8": r"-?[\d.]+(e-?\d+)?|NaN|-?Infinity",
    "timestamptz": r"\d{4}-.*",
}


BASE = "nrt:public.t"


def _untopical(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "topic"}


@dataclass
class Faults:
    """The faults, each a probability or seconds."""

    loss: float = 0.0
    """Frames lost silently."""
    doubled: float = 0.0
    failures: float = 0.0
    """Reads that fail and may be retried."""
    truncated: float = 0.0
    """Frames above the limit: large values are missing, and an error reports it."""
    toast: bool = False
    """An UPDATE lacks the text columns that it did not change."""
    latency: tuple[float, float] = (0.01, 0.4)
    read_time: tuple[float, float] = (0.005, 0.3)
    turns: tuple[float, float] = (0.0, 0.5)
    """Seconds for which a poll waits for those of other tables."""
    overtaking: float = 0.002
    """Seconds by which a message may overtake one that was sent earlier."""
    limit: float | None = None
    """Average changes, or messages, per second above which the server silently drops the following ones."""
    date_skew: float = 0.0
    """The REST server's clock, compared with the database's."""


@dataclass
class Server:
    """One table and its readers."""

    columns: dict[str, str]
    key: tuple[str, ...] = ("id",)
    max_rows: int = 1000
    passes_xmin: bool = True
    filters_xmin: bool = True
    planner: float = 1.0
    """The planner's estimate of the rows, as a multiple of their number."""
    counts_most: int | None = None
    """Maximum rows that it counts within the statement timeout; None: all."""
    describes: Literal["by the API", "by SQL", "not"] = "by the API"
    """How it describes a table's columns and key."""
    moves_watermark: bool = True
    allowed: Callable[[dict[str, Any]], bool] = lambda row: True
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    xmin: dict[Key, int] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    """Columns that were dropped at some time."""
    now: float = 0.0
    transaction: int = 100
    rev: int = 0
    published: bool = True
    """Whether Postgres Changes stream it."""
    broadcasts: bool = False
    """Whether the project has the SQL that broadcasts the table's changes (``broadcast.sql``)."""
    scope: str | None = None
    """The column whose values are each broadcast on a separate topic; None: one topic for the table."""
    epoch: int = 0
    numbers: list[tuple[str, int]] = field(default_factory=list)
    """Topic and transaction of each drawn number."""
    drawn: Counter[str] = field(default_factory=Counter)
    """How many numbers were drawn for each topic."""
    log: list[dict[str, Any]] = field(default_factory=list)
    entry: int = 0
    entry_size: int = 400_000
    part_rows: int = 2
    """Entries that fit into a message."""
    pruned: int = 0
    open: set[int] = field(default_factory=set)
    """Open transactions."""
    committed: dict[int, float] = field(default_factory=dict)
    waiting: dict[Key, list[Callable[[], None]]] = field(default_factory=dict)
    """Writes that wait for the lock of a row written by an open transaction."""
    unseen: float = 0.0
    """Seconds for which a reported commit is not yet visible to reads."""
    tells: Callable[[], bool] = lambda: True
    """Whether changes are sent now. (Unsent changes that are visible late are for the audit.)"""
    past: list[tuple[float, dict[Key, dict[str, Any]], dict[Key, int]]] = field(
        default_factory=list
    )
    """The rows visible before each change, and its time; kept with ``unseen``."""
    history: dict[Key, list[tuple[int, dict[str, Any] | None]]] = field(default_factory=dict)
    """Every state of a key: (rev, row or None)."""
    listener: Callable[[str, dict[str, Any] | None, dict[str, Any] | None, float], None] | None = (
        None
    )

    sender: Callable[[str, dict[str, Any]], None] | None = None
    """Called with the topic and each message when it is sent."""

    @cached_property
    def known(self) -> Schema:
        return Schema(tuple(Column(*one) for one in self.columns.items()), self.key)

    @cached_property
    def _plain_key(self) -> bool:
        return all(self.columns[name] in _PLAIN for name in self.key)

    @property
    def clock(self) -> float:
        return EPOCH + self.now

    def key_of(self, row: dict[str, Any]) -> Key:
        if self._plain_key:
            return row[self.key[0]] if len(self.key) == 1 else tuple([row[n] for n in self.key])
        return self.known.key_of(self.known.decode({name: row[name] for name in self.key}))

    def _placed(self, key: Any) -> tuple[Key, tuple[Any, ...]]:
        """Return a key in REST's form: like `key_of`, and the values of its columns."""
        parts = key if isinstance(key, tuple) else (key,)
        return self.key_of(dict(zip(self.key, parts, strict=True))), parts

    def write(self, key: Any, values: dict[str, Any] | None) -> None:
        """Insert, update or delete one row, in a separate transaction."""
        if self._waits(self._placed(key)[0], lambda: self.write(key, values)):
            return
        self.transaction += 1
        entries = self._write(key, values)
        self._commit(self.transaction, entries)

    def write_all(self, writes: Sequence[tuple[Any, dict[str, Any] | None]]) -> None:
        """Write several rows in one transaction."""
        for key, _ in writes:
            if self._waits(self._placed(key)[0], lambda: self.write_all(writes)):
                return
        self.transaction += 1
        entries = [entry for key, values in writes for entry in self._write(key, values)]
        self._commit(self.transaction, entries)

    def write_slowly(
        self, key: Any, values: dict[str, Any] | None, *, early: bool, commits: bool
    ) -> Callable[[], None]:
        """Write a row in a transaction that is open until the result is called.

        ``early``: its message has its number before it commits, as after ``set constraints all
        immediate``. With a scope it has no number, as if others held the counter.
        """
        placed = self._placed(key)[0]
        if placed in self.waiting:
            return lambda: None
        self.transaction += 1
        x = self.transaction
        self.open.add(x)
        self.waiting[placed] = []
        self.entry += 1
        entry = self.entry
        number = None
        if early and self.broadcasts and self.scope is not None:
            number = (self.epoch, 0)
        elif early and self.broadcasts:
            number = (self.epoch, self._draw(BASE, x))

        def end() -> None:
            self.open.discard(x)
            if commits:
                entries = self._write(key, values, x=x)
                if entries:
                    entries[0]["id"] = entry
                self._commit(x, entries, number)
            for waiting in self.waiting.pop(placed):
                waiting()

        return end

    def _waits(self, key: Key, do: Callable[[], None]) -> bool:
        if key in self.waiting:
            self.waiting[key].append(do)
        return key in self.waiting

    def _commit(
        self, x: int, entries: Sequence[dict[str, Any]], number: tuple[int, int] | None = None
    ) -> None:
        self.committed[x] = self.now
        if not self.broadcasts or not entries:
            return
        for entry in entries:  # the latest, except those of a slow transaction
            stamped = {**entry, "x": str(x), "at": self.clock}
            bisect.insort(self.log, stamped, key=lambda one: one["id"])
        for topic in dict.fromkeys(entry["topic"] for entry in entries):
            if (
                self.scope is not None and topic == self.base
            ):  # for all values: not sent to any client
                self._draw(topic, x)
                continue
            told = [_untopical(one) for one in entries if one["topic"] in (topic, self.base)]
            self._send(topic, x, told, number)

    def _send(
        self, topic: str, x: int, entries: Sequence[dict[str, Any]], number: tuple[int, int] | None
    ) -> None:
        size = self.part_rows
        parts = [entries[start : start + size] for start in range(0, len(entries), size)]
        for place, part in enumerate(parts, 1):
            drawn = number is not None and number[0] == self.epoch and place == 1
            if number is not None and number[1] == 0:  # it is counted, without a number
                self._draw(topic, x)
                drawn = True
            n = number[1] if drawn and number is not None else self._draw(topic, x)
            message = {
                "epoch": str(self.epoch),
                "n": n,
                "x": str(x),
                "at": self.clock,
                "part": place,
                "last": place == len(parts),
                "changes": list(part),
            }
            if self.scope is not None and n:
                message["series"] = self._series(topic)
            if self.sender is not None:
                self.sender(topic, message)

    @property
    def base(self) -> str:
        """The topic of the table, with which the topics of values begin."""
        return BASE if self.scope is None else f"{BASE}:{self.scope}"

    def _topic_of(self, row: dict[str, Any] | None) -> str | None:
        if row is None:
            return None
        if self.scope is None:
            return BASE
        value = row.get(self.scope)
        return None if value is None else f"{self.base}={value}"

    def _draw(self, topic: str, x: int) -> int:
        self.numbers.append((topic, x))
        self.drawn[topic] += 1
        return self._latest(topic)

    def _series(self, topic: str, at: Position | None = None) -> int:
        """For a value's topic the first counted transaction; 0: no number, or no scope."""
        counted = (x for one, x in self.numbers if one == topic and (at is None or at.sees(x)))
        return 0 if self.scope is None else next(counted, 0)

    def _latest(self, topic: str, at: Position | None = None) -> int:
        """The latest number: with a scope as seen by a snapshot, otherwise from a sequence."""
        topics = {topic, self.base}
        if at is None:
            return sum(self.drawn[one] for one in topics)
        return sum(one in topics and at.sees(x) for one, x in self.numbers)

    def install(self, scope: str | None = None) -> None:
        """Run the SQL of broadcasts again.

        It drops the table's triggers, so it waits for the locks of all writers; a transaction releases its
        own once its writes are visible.
        """
        self.past.clear()
        self.committed.clear()
        self.broadcasts = True
        self.scope = scope
        self.epoch += 1
        self.numbers, self.drawn, self.log = [], Counter(), []

    def prune(self) -> None:
        """Prune the log of entries that are visible to all."""
        before = min(self.open, default=self.transaction + 1)
        gone = [int(one["x"]) for one in self.log if int(one["x"]) < before]
        self.log = [one for one in self.log if int(one["x"]) >= before]
        self.pruned = max([self.pruned, *gone])
        # A value without entries in the log loses its counter.
        logged = {self.base, *(one["topic"] for one in self.log)}
        if self.scope is not None:
            self.numbers = [one for one in self.numbers if one[0] in logged]

    def _snapshot(self) -> str:
        """Return the current snapshot, in the form of ``pg_snapshot``."""
        late = self.now - self.unseen
        unseen = set[int]()
        if self.unseen:
            unseen = {x for x, at in self.committed.items() if at > late}
        hidden = sorted(self.open | unseen)
        high = self.transaction + 1
        return f"{min(hidden, default=high)}:{high}:{','.join(map(str, hidden))}"

    def _call(self, function: str, args: Mapping[str, Any]) -> Page:
        """Return the answers of the functions of ``broadcast.sql``."""
        if not self.broadcasts:
            raise RefusedError(f"POST /rpc/{function}", 404, "PGRST202", "no such function")
        if function == HEADS:
            heads, position = {}, self._snapshot()
            for place, asked in enumerate(args["p_tables"]):
                head = self._call(HEAD, {"p_equal": asked.get("equal")}).value
                if any(head.get(name) != asked[name] for name in ("topic", "epoch", "series", "n")):
                    heads[str(place)] = head
            said = {"version": VERSION, "position": position, "heads": heads}
            return Page((), None, 0.0, said, scalar=True)
        if function == HEAD:
            equal, topic, position = args.get("p_equal") or {}, BASE, self._snapshot()
            if self.scope is not None:
                if self.scope not in equal:
                    head = {"version": VERSION, "scope": self.scope}
                    return Page((), None, 0.0, head, scalar=True)
                topic = f"{self.base}={equal[self.scope]}"
            head = {"version": VERSION, "topic": topic, "epoch": str(self.epoch)}
            seen = None if self.scope is None else Position.of(position)
            head |= {"key": list(self.key), "position": position, "n": self._latest(topic, seen)}
            head |= {"series": self._series(topic, seen)}
            head |= {} if self.scope is None else {"scope": self.scope}
            return Page((), None, 0.0, head, scalar=True)
        if args["p_topic"].partition("=")[0] != self.base:
            return Page((), None, 0.0, None, scalar=True)
        since = Position.of(args["p_position"])
        until = Position.of(args.get("p_until") or self._snapshot())
        missed = [
            one
            for one in self.log
            if one["topic"] in (args["p_topic"], self.base)
            and one["id"] > args.get("p_after", 0)
            and not since.sees(int(one["x"]))
            and until.sees(int(one["x"]))
        ]
        fit = -(-args["p_bytes"] // self.entry_size)
        answer = {
            "until": until.text,
            "epoch": str(self.epoch),
            "too_old": self.pruned >= since.low,
            "behind": None if "p_until" in args else len(missed) * self.entry_size,
            "more": len(missed) > fit,
            "changes": [_untopical(one) for one in missed[:fit]],
        }
        return Page((), None, 0.0, answer, scalar=True)

    def _write(
        self, key: Any, values: dict[str, Any] | None, x: int | None = None
    ) -> list[dict[str, Any]]:
        """Carry it out; return the entries of the log."""
        key, parts = self._placed(key)
        old = self.rows.get(key)
        if old is None and values is None:
            return []
        self.rev += 1
        new: dict[str, Any] | None = None
        if values is not None:
            new = {**dict.fromkeys(self.columns), **(old or {}), **values}
            new.update(zip(self.key, parts, strict=True))
            if "rev" in self.columns:
                new["rev"] = self.rev
            if "updated_at" in self.columns and (self.moves_watermark or old is None):
                new["updated_at"] = _stamp(self.clock)
        self._set(key, new, x)
        kind = "INSERT" if old is None else "DELETE" if new is None else "UPDATE"
        if self.listener is not None:
            self.listener(kind, old, new, self.clock)
        return self._entries(kind[0], old, new)

    def _entries(
        self, op: str, old: dict[str, Any] | None, new: dict[str, Any] | None
    ) -> list[dict[str, Any]]:
        """Return the log's entry for a row: gone from one topic, or added to another."""
        left, right = self._topic_of(old), self._topic_of(new)
        entries = []
        if (
            old is not None
            and left is not None
            and (new is None or left != right or self.key_of(old) != self.key_of(new))
        ):
            self.entry += 1
            gone = {name: old[name] for name in self.key}
            entries.append({"id": self.entry, "topic": left, "op": "D", "gone": [gone]})
        if new is not None and right is not None:
            self.entry += 1
            entries.append({"topic": right, **self._told(op, new)})
        return entries

    def _told(self, op: str, row: dict[str, Any]) -> dict[str, Any]:
        if any(isinstance(value, str) and len(value) > 230_000 for value in row.values()):
            return {"id": self.entry, "op": op, "big": [{name: row[name] for name in self.key}]}
        return {"id": self.entry, "op": op, "rows": [dict(row)]}

    def move(self, key: Any, to: Any) -> None:
        """Update one row's key, if the row exists and the other key is free."""
        (key, before), (to, parts) = self._placed(key), self._placed(to)
        for one in (key, to):
            if self._waits(one, lambda: self.move(before if len(before) > 1 else before[0], to)):
                return
        old = self.rows.get(key)
        if old is None or to in self.rows:
            return
        self.transaction += 1
        self.rev += 1
        new = {**old, **dict(zip(self.key, parts, strict=True)), "rev": self.rev}
        if "updated_at" in self.columns and self.moves_watermark:
            new["updated_at"] = _stamp(self.clock)
        self._set(key, None)
        self._set(to, new)
        if self.listener is not None:
            self.listener("UPDATE", old, new, self.clock)
        self._commit(self.transaction, self._entries("U", old, new))

    def alter(self, columns: dict[str, str]) -> None:
        """Add and drop columns."""
        self.dropped |= self.columns.keys() - columns.keys()
        self.columns = columns
        self.__dict__.pop("known", None)
        self.__dict__.pop("_plain_key", None)
        for key, row in self.rows.items():
            self.rows[key] = {name: row.get(name) for name in columns}

    def truncate(self) -> None:
        """Truncate the table, which only a broadcast reports."""
        for key in list(self.waiting):  # it waits for all locks
            self.waiting[key].append(self.truncate)
            return
        self.transaction += 1
        self.rev += 1
        for key in list(self.rows):
            self._set(key, None)
        self.entry += 1
        self._commit(self.transaction, [{"id": self.entry, "topic": self.base, "op": "T"}])

    def _set(self, key: Key, new: dict[str, Any] | None, x: int | None = None) -> None:
        if self.unseen and self.tells():
            self.past.append((self.now, dict(self.rows), dict(self.xmin)))
        if new is None:
            self.rows.pop(key, None)
            self.xmin.pop(key, None)
        else:
            self.rows[key] = new
            self.xmin[key] = self.transaction if x is None else x
        self.history.setdefault(key, []).append((self.rev, None if new is None else dict(new)))

    def select(self, query: Query) -> Page:
        """Answer a read as PostgREST would, at this moment."""
        rows, xmin = self.rows, self.xmin
        seen = (one for one in self.past if one[0] > self.now - self.unseen)
        _, self.rows, self.xmin = next(seen, (0.0, rows, xmin))
        try:
            return self._select(query)
        finally:
            self.rows, self.xmin = rows, xmin

    def _select(self, query: Query) -> Page:
        if query.describe:
            return Page((), None, 0.0, self._description())
        if query.proves:
            return Page((), None, 0.0, bool(self.key) and set(query.proves) == set(self.key))
        if query.rpc in (HEAD, HEADS, SINCE):
            return self._call(query.rpc, query.args or {})
        if query.rpc is not None:
            raise RefusedError(f"POST /rpc/{query.rpc}", 404, "PGRST202", "no such function")
        params = dict(query.params)
        names = params["select"].split(",")
        if "xmin" in names and not self.passes_xmin:
            raise RefusedError("GET /t", 400, "42703", "column t.xmin does not exist")
        allowed = self.allowed
        found = [row for row in self.rows.values() if allowed(row)]
        for name, text in query.params:
            if name not in ("select", "order", "limit", "offset"):
                self._may_compare(name, text)
                test = self._test(name, text)
                found = [row for row in found if test(row)]
        for term in reversed(params.get("order", "").split(",") if "order" in params else []):
            found = _sorted(found, term, self.columns)
        count = len(found) if query.count else None
        if query.count == "exact" and len(found) > (self.counts_most or len(found)):
            raise StatementTimeoutError("HEAD /t", 500)
        if query.count == "estimated" and len(found) > self.max_rows:
            count = max(self.max_rows + 1, int(len(found) * self.planner))
        offset = int(params.get("offset", 0))
        if count is not None and offset > count:
            raise RefusedError("GET /t", 416, "PGRST103", "Requested range not satisfiable")
        found = found[offset:]
        limit = min(int(params.get("limit", self.max_rows)), self.max_rows)
        page = [] if query.head else [self._project(row, names) for row in found[:limit]]
        return Page(page, count, 0.0)

    def _description(self) -> Any:
        """Return the description of its table."""
        if self.describes == "not":
            return None
        if self.describes == "by SQL":
            columns = [
                {"name": name, "type": OPENAPI.get(pg_type, pg_type), "not_null": name in self.key}
                for name, pg_type in self.columns.items()
            ]
            said = {"columns": columns, "key": list(self.key), "grants": ["select"]}
            return {"tables": {"t": {**said, "published": self.published}}}
        properties = {
            name: {
                "format": OPENAPI.get(pg_type, pg_type),
                "description": "Note:\nThis is a Primary Key.<pk/>" if name in self.key else "",
            }
            for name, pg_type in self.columns.items()
        }
        return {"definitions": {"t": {"properties": properties}}}

    def _may_compare(self, name: str, text: str) -> None:
        """Parse a literal, which PostgreSQL does before it reads a row."""
        word, _, value = text.partition(".")
        if word == "eq" and name in self.columns:
            self._literal(name, value)
        elif word == "eq" and name == "xmin" and self.filters_xmin:
            pass
        elif word == "eq":
            raise RefusedError("GET /t", 400, "42703", f"column t.{name} does not exist")

    def _project(self, row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name in names:
            if name == "*":
                out.update(row)
            elif name == "xmin":
                out[name] = str(self.xmin[self.key_of(row)])
            elif name not in row:
                raise RefusedError("GET /t", 400, "42703", f"column t.{name} does not exist")
            else:
                out[name] = row[name]
        return out

    def _test(self, name: str, text: str) -> Test:
        """Return a filter as a function of a row; it is parsed once, as PostgreSQL plans a statement once."""
        if name in ("not.and", "not.or"):
            holds = self._test(name.removeprefix("not."), text)
            return lambda row: not holds(row)
        if name in ("and", "or"):
            parts = [self._logic(part) for part in _split(text[1:-1])]
            if name == "and":
                return lambda row: all(part(row) for part in parts)
            return lambda row: any(part(row) for part in parts)
        return self._operator(name, text)

    def _logic(self, text: str) -> Test:
        group = re.fullmatch(r"((?:not\.)?(?:and|or))(\(.*\))", text)
        if group:
            return self._test(group[1], group[2])
        name, _, rest = text.partition(".")
        return self._operator(name, rest)

    def _operator(self, name: str, text: str) -> Test:
        if name == "xmin" and self.filters_xmin and text.startswith("eq."):
            xmin, theirs = self.xmin, int(text.removeprefix("eq."))
            return lambda row: xmin[self.key_of(row)] == theirs
        if name not in self.columns:
            raise RefusedError("GET /t", 400, "42703", f"column t.{name} does not exist")
        negated = text.startswith("not.")
        word, _, value = text.removeprefix("not.").partition(".")
        if word == "is":
            return lambda row: (row[name] is None) is not negated
        pg_type = self.columns[name]
        if word == "in":
            among = [_rank(pg_type, self._literal(name, x)) for x in _split(value[1:-1])]
            return lambda row: (
                row[name] is not None and (_rank(pg_type, row[name]) in among) is not negated
            )
        theirs, compare = _rank(pg_type, self._literal(name, value)), _COMPARISONS[word]
        if pg_type in _PLAIN:  # a value represents itself
            return lambda row: (
                (mine := row[name]) is not None and compare(mine, theirs) is not negated
            )
        return lambda row: (
            (mine := row[name]) is not None and compare(_rank(pg_type, mine), theirs) is not negated
        )

    def _literal(self, name: str, text: str) -> Any:
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        pg_type = self.columns[name]
        form = _FORMS.get(pg_type)
        if form is not None and not re.fullmatch(form, text):
            said = f'invalid input syntax for type {OPENAPI[pg_type]}: "{text}"'
            raise RefusedError("GET /t", 400, "22P02", said)
        if pg_type == "jsonb":
            return json.loads(text)
        if pg_type == "_int4":
            return [int(one) for one in text[1:-1].split(",") if one]
        return int(text) if pg_type.startswith("int") else text


def _split(text: str) -> list[str]:
    out, depth, quoted, escaped = [""], 0, False, False
    for char in text:
        quoted ^= char == '"' and not escaped
        escaped = char == "\\" and not escaped
        depth += ((char == "(") - (char == ")")) * (not quoted)
        if char == "," and not depth and not quoted:
            out.append("")
        else:
            out[-1] += char
    return [one for one in out if one]


def _rank(pg_type: str, value: Any) -> Any:
    """Return the comparable form of a value: in PostgreSQL NaN equals itself, and is the largest."""
    if pg_type in ("float8", "numeric"):
        number = Decimal(str(value))
        return number.is_nan(), Decimal(0) if number.is_nan() else number
    return json.dumps(value, sort_keys=True) if pg_type in ("jsonb", "_int4") else value


def _sorted(rows: list[dict[str, Any]], term: str, columns: dict[str, str]) -> list[dict[str, Any]]:
    name, direction, nulls = term.split(".")

    pg_type = columns.get(name, "")
    plain = operator.itemgetter(name)

    def ranked(row: dict[str, Any]) -> Any:
        return _rank(pg_type, row[name])

    rank = plain if pg_type in _PLAIN else ranked
    none = [row for row in rows if row[name] is None]
    some = [row for row in rows if row[name] is not None]
    some = sorted(some, key=rank, reverse=direction == "desc")
    return none + some if nulls == "nullsfirst" else some + none


def _stamp(at: float) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat()


class World:
    """A server, a network and a mirror in virtual time."""

    def __init__(
        self,
        spec: TableSpec,
        server: Server,
        *,
        seed: int = 0,
        faults: Faults | None = None,
        options: Options | None = None,
        make_rows: Callable[[Schema], Any] = DictRows,
        before: World | None = None,
        phase: float = 0.0,
    ) -> None:
        self.spec = spec
        self.make_rows = make_rows
        self.server = server
        self.faults = faults or Faults()
        self.random = random.Random(seed)
        self.options = options or Options(page_size=7)
        limit = self.faults.limit
        self.rate = ChangeRate(None if limit is None else Plan("its", limit, limit, 10**12))
        self.limiter = EventRate(limit, lambda: self.now)
        self.mirror = Mirror(spec, make_rows, self.options, self.rate, phase)
        self.shown: dict[Key, int] = {}
        self._gone: dict[Key, int] = {}
        """The revisions of ``shown`` whose rows were not to be visible, by these rules."""
        self._rules: tuple[Any, ...] = ()
        self._checked: tuple[DictRows, int] | None = None
        """The rows that were checked last, and their version."""
        self.effects: list[tuple[float, Effect]] = []
        self.failed: Exception | None = None
        self.ranked: list[Key] = []
        self.reporter: Reporter | None = None
        self.view_of: Table | Ordered | None = None
        self.replayed: dict[Key, dict[str, Any]] = {}
        """The first view with all changes reported since."""
        self.requests = 0
        self.confirmed_at: float | None = None
        """When a join was first confirmed."""
        self.network = True
        self.events_stop = False
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._join = self._still = 0
        self._active: tuple[Binding, ...] | str | None = None
        """The joined bindings, or the topic of the broadcasts."""
        self._wants = False
        """Whether to join as soon as the bindings are known."""
        self._arrives = 0.0
        self._wakes = 0
        self._whole: dict[Key, int] = {}
        """The rev at which a row was last shown correctly."""
        self.lost: dict[Key, list[int]] = {}
        """The revs of each row that Postgres Changes silently did not send."""
        self._cancelled: set[int] = set()
        server.listener = self._committed
        server.sender = self._sent
        self.server.tells = lambda: bool(self._active)
        if before is not None:
            self._resume(before)
        self.handle(Tick())

    def _resume(self, before: World) -> None:
        """Start in another kernel, with the stored state of the previous one: its view, if it had one."""
        rows, schema = before.mirror.rows, before.mirror.schema
        replica = before.mirror._passes.replica
        if rows is None or schema is None or replica is None:
            return
        mine = self.make_rows(schema)
        mine.apply([Upsert(key, dict(row)) for key, row in before.view.items()])
        versions, memory = before.mirror.versions.known(), before.mirror.memory
        self.mirror.resume(mine, schema, replica.known, versions, memory, "as of 14:03")
        self.ranked = list(before.ranked)

    @property
    def now(self) -> float:
        return self.server.now

    @property
    def joined(self) -> tuple[Binding, ...] | str | None:
        """The source of changes: bindings, or the topic of the broadcasts."""
        return self._active

    @property
    def view(self) -> dict[Key, dict[str, Any]]:
        rows = self.mirror.rows
        return {} if rows is None else {key: rows.get(key) or {} for key in rows.keys()}  # noqa: SIM118

    @property
    def truth(self) -> dict[Key, dict[str, Any]]:
        """Return the current result of ``select``, with the types of the view."""
        schema = self.mirror.schema
        assert schema is not None
        return {self.server.key_of(row): schema.decode(row) for row in self.selected}

    @property
    def selected(self) -> list[dict[str, Any]]:
        """Return the rows of ``select`` with this filter, order and limit."""
        rows = [r for r in self.server.rows.values() if self.server.allowed(r) and self.inside(r)]
        for name in reversed(self.server.key):
            rows = _sorted(rows, f"{name}.asc.nullslast", self.server.columns)
        for term in reversed(self.spec.order):
            rows = _sorted(rows, order_text(term), self.server.columns)
        return rows[: self.spec.limit]

    @property
    def ordered(self) -> list[Key]:
        """Return the keys in the order of the view: ordered here, or as received from the server."""
        replica = self.mirror._passes.replica
        window = replica and replica.window  # the only way to know it
        if window is None:
            return list(self.view)
        if window.sortable:
            rows = [self.server.rows.get(key) or {} for key in self.view]
            for term in reversed(window.order):
                rows = _sorted(rows, order_text(term), self.server.columns)
            keys = [self.server.key_of(row) for row in rows]
        else:
            placed = [key for key in self.ranked if key in self.view]
            placed += [key for key in self.view if key not in {*placed}]
            rows = [self.server.rows.get(key) or {} for key in placed]
            for term in reversed(window.known):
                rows = _sorted(rows, order_text(term), self.server.columns)
            keys = [self.server.key_of(row) for row in rows]
        return keys[: self.spec.limit]

    @property
    def differences(self) -> dict[Key, tuple[Any, Any]]:
        """Return the shown and the true row of each key that differs."""
        view, truth = self.view, self.truth
        if self.spec.limit is not None or self.spec.order:
            assert self.ordered == [self.server.key_of(row) for row in self.selected]
            view = {key: view[key] for key in self.ordered}
        return {
            key: (view.get(key), truth.get(key))
            for key in {*view, *truth}
            if not equal(view.get(key), truth.get(key))
        }

    def inside(self, row: dict[str, Any]) -> bool:
        if not self.spec.filter:
            return True
        known = self.server.known
        return bool(self.spec.filter.matches(known.decode(row), known))

    # Time ---------------------------------------------------------------------------------------

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), do))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            when, _, do = heapq.heappop(self._heap)
            self._still = self._still + 1 if when == self.now else 0
            assert self._still < 2000, "it spins: time does not pass"
            self.server.now = when
            do()
        self.server.now = end

    def settle(self, seconds: float) -> None:
        """Heal the network, connect, and let time pass."""
        self.faults = replace(self.faults, loss=0.0, failures=0.0, doubled=0.0)
        self.network = True
        if self._active is None:
            self.connect()
        self.run(seconds)

    # The mirror ---------------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        if isinstance(event, Received | ReceivedMessages):
            self.rate.count(1, self.now)
        if isinstance(event, Confirmed) and self.confirmed_at is None:
            self.confirmed_at = self.now
        for effect in self.mirror.handle(event, self.now):
            self._carry_out(effect)
        self._check()

    def _carry_out(self, effect: Effect) -> None:
        self.effects.append((self.now, effect))
        match effect:
            case Fetch(request, query):
                self._fetch(request, query)
            case Cancel(request):
                self._cancelled.add(request)
            case Wake(at):
                self._wakes += 1
                number = self._wakes
                self.at(at, lambda: self._tick(number))
            case TurnWanted():
                wait = self.random.uniform(*self.faults.turns)
                self.at(self.now + wait, lambda: self.handle(Turn()))
            case Rejoin():
                if self._active is not None or self._wants:
                    self.at(self.now, self.connect)
            case Failed(error):
                self.failed = error
            case Shown(rows, _, keys):
                self.ranked = list(keys)
                if isinstance(rows, Table) and self.mirror.want_changes:
                    self._show(rows, keys)
            case Ranked(keys):
                self.ranked = list(keys)
                if self.reporter is not None and self.view_of is not None:
                    if isinstance(self.view_of, Ordered):
                        self.view_of.rank(keys)
                    self._tell(self.reporter.report(()))
            case Published(changes=changes):
                if self.reporter is not None:
                    self._tell(self.reporter.report(changes))
            case StatusChanged() | Logged() | _:
                pass

    # Listeners, if the rows are a `Table` --------------------------------------------------------

    def _show(self, table: Table, keys: Sequence[Key]) -> None:
        spec, first = self.spec, self.reporter is None
        ordered = None
        if spec.order or spec.limit is not None:
            carried = {term.column for term in spec.order} - {*(spec.columns or table.schema.names)}
            ordered = Ordered(table, spec.order, spec.limit, carried - {*table.schema.key})
            ordered.rank(keys)
        self.reporter, self.view_of = self.reporter or Reporter(), ordered or table
        self.reporter.show(table, ordered)
        if first:
            self.replayed = self.seen
        names = self.seen_columns  # a dropped column disappears with the schema, unreported
        self.replayed = {k: {n: r.get(n) for n in names} for k, r in self.replayed.items()}

    def _tell(self, changes: Sequence[RowChange]) -> None:
        """Replay the changes over the first view: the result equals the current view, after each batch."""
        for change in changes:
            was = self.replayed.pop(change.key, None)
            assert (was is None) == (change.kind == "insert"), change
            assert (change.new is None) == (change.kind == "delete"), change
            if change.new is not None:
                self.replayed[change.key] = change.new
        blank = dict.fromkeys(self.seen_columns)
        replayed = {key: {**blank, **row} for key, row in self.replayed.items()}
        assert {key: {n: row[n] for n in blank} for key, row in replayed.items()} == self.seen

    @property
    def seen_columns(self) -> list[str]:
        assert self.view_of is not None
        shown = self.view_of.snapshot()
        return [*shown.index.names, *shown.columns]

    @property
    def seen(self) -> dict[Key, dict[str, Any]]:
        """Return the rows of the user's view, with its columns."""
        shown, names = self.view_of, self.seen_columns
        assert shown is not None
        table = shown.table if isinstance(shown, Ordered) else shown
        rows = table.gather(shown.keys())
        return {key: {n: row[n] for n in names} for key, row in rows.items() if row is not None}

    def _tick(self, number: int) -> None:
        if self._wakes == number:
            self.handle(Tick())

    def _fetch(self, request: int, query: Query) -> None:
        self.requests += 1
        takes = self.random.uniform(*self.faults.read_time)
        happens = self.now + takes * self.random.random()

        def happen() -> None:
            if not self.network or self.random.random() < self.faults.failures:
                error: Exception = ServerError("GET /t", 503)
                self.at(self.now + takes, lambda: self._answer(FetchFailed(request, error, 0.5)))
                return
            try:
                page = self.server.select(query)
            except (RefusedError, StatementTimeoutError) as refused:
                refusal = refused
                if query.refusable and isinstance(refusal, RefusedError):
                    page = Page((), None, 0.0, refusal=refusal)
                    self.at(self.now, lambda: self._answer(Fetched(request, self._dated(page))))
                    return
                self.at(self.now, lambda: self._answer(FetchFailed(request, refusal, None)))
                return
            self.at(happens + takes, lambda: self._answer(Fetched(request, self._dated(page))))

        self.at(happens, happen)

    def _dated(self, page: Page) -> Page:
        return structs.replace(
            page, server_time=float(int(self.server.clock + self.faults.date_skew))
        )

    def _answer(self, event: Fetched | FetchFailed) -> None:
        if event.request not in self._cancelled:
            self.handle(event)

    # The stream ---------------------------------------------------------------------------------

    def connect_confirmed_twice(self, again: float) -> None:
        """Join; the join is confirmed again after these seconds, and nothing is lost from then on."""
        self.connect()

        def confirm_again() -> None:
            self.faults = replace(self.faults, loss=0.0)
            if self.joined:
                self.handle(Confirmed())

        while self.confirmed_at is None:
            self.run(0.01)
        self.at(self.now + again, confirm_again)

    def connect(self) -> None:
        """Join: first the reply, later the confirmation, with changes from a time in between."""
        self.disconnect(told=False)
        self._wants = not (self.mirror.bindings or self.mirror.topic)
        if self._wants:
            return
        self._join += 1
        join = self._join
        self.handle(Joined())
        begins = self.now + self.random.uniform(0, 1)
        self._arrives = begins

        def begin() -> None:
            if self._join == join:
                self._active = self.mirror.topic or self.mirror.bindings

        def confirm() -> None:
            if self._join == join:
                self.handle(Confirmed())

        self.at(begins, begin)
        self.at(begins + self.random.uniform(0, 1), confirm)

    def disconnect(self, *, told: bool = True) -> None:
        """Lose the socket, and the messages in transit."""
        self._join += 1
        self._active, self._wants = None, False
        if told:
            self.handle(Lost("the socket closed"))

    def _committed(
        self, kind: str, old: dict[str, Any] | None, new: dict[str, Any] | None, at: float
    ) -> None:
        if not self._active or isinstance(self._active, str):
            return
        commit = int(at * 1000) / 1000
        rev = self.server.rev
        frames = _frames(self.server, self._active, kind, old, new, commit)
        stays = new is not None and self.inside(new)
        widest = max((len(change.columns) for change in frames), default=0)
        told = not frames
        admitted = self.limiter.admit()
        for change in frames if admitted else ():
            for _ in range(1 + (self.random.random() < self.faults.doubled)):
                if self.random.random() < self.faults.loss or self.events_stop:
                    continue
                told |= (
                    not stays or len(change.columns) == widest
                )  # a narrow one does not contain it
                self._deliver(self._spoilt(change, old, new), self._join, rev)
        if not told:
            for key in {self.server.key_of(row) for row in (old, new) if row is not None}:
                self._lose(key, rev)

    def _sent(self, topic: str, message: dict[str, Any]) -> None:
        if self._active != topic:
            return
        if not self.limiter.admit():
            return
        for _ in range(1 + (self.random.random() < self.faults.doubled)):
            if self.random.random() < self.faults.loss or self.events_stop:
                continue
            join = self._join
            self._arrives = max(self._arrives, self.now + self.random.uniform(*self.faults.latency))
            # Two with nearly the same time may overtake each other.
            arrives = self._arrives + self.random.uniform(0, self.faults.overtaking)

            def arrive(join: int = join) -> None:
                if self._join == join:
                    self.handle(ReceivedMessages([message]))

            self.at(arrives, arrive)

    def _spoilt(
        self, change: Change, old: dict[str, Any] | None, new: dict[str, Any] | None
    ) -> Change:
        record = change.record
        if record is None or new is None:
            return change
        if self.random.random() < self.faults.truncated:
            left = {n: v for n, v in record.items() if not isinstance(v, str)}
            return msgspec.structs.replace(
                change, record=left, errors=("Error 413: Payload Too Large",)
            )
        if self.faults.toast and old is not None:
            large = {n for n in record if self.server.columns[n] == "text" and old[n] == new[n]}
            return msgspec.structs.replace(
                change, record={n: v for n, v in record.items() if n not in large}
            )
        return change

    def _deliver(self, change: Change, join: int, rev: int) -> None:
        # In order: no frame overtakes another of its join.
        self._arrives = max(self._arrives, self.now + self.random.uniform(*self.faults.latency))

        def arrive() -> None:
            if self._join == join:
                self._hear(change, rev)

        self.at(self._arrives, arrive)

    def _lose(self, key: Key, rev: int) -> None:
        """Record that the commit ``rev`` is not sent."""
        self.lost.setdefault(key, []).append(rev)

    def _hear(self, change: Change, rev: int) -> None:
        """Deliver a change, committed as ``rev``."""
        self.handle(Received(change))

    def gap(self) -> None:
        self.handle(Gap("made for a test"))

    # Invariants at every moment -------------------------------------------------------------

    def _check(self) -> None:
        schema = self.mirror.schema
        if schema is None or "rev" not in schema.types:
            all_asked = self.spec.columns is None and "rev" in self.server.columns
            assert not (all_asked and self.view), f"{self.view}: not all columns are known"
            return
        rows, decode = self.mirror.rows, self.mirror.schema.decode
        rules = (self.server.allowed, self.server.known)
        if isinstance(rows, DictRows):
            checked = (rows, rows.version)
            if checked == self._checked and rules == self._rules:
                return  # as it was at the last check
            self._checked = checked
        view = self.view
        if rules != self._rules:
            self._rules, self._gone = rules, {}
        for key in {*view, *self.shown}:
            row = view.get(key)
            before = self.shown.get(key, -1)
            if row is not None and row["rev"] == before:
                continue
            if row is None and self._gone.get(key) == before:
                continue
            history = self.server.history.get(key, [])
            if row is not None:
                rev = row["rev"]
                state = next((state for at, state in history if at == rev), None)
                assert state is not None, f"{key}: {row} never was"
                decoded = decode(state)
                whole = {n: v for n, v in decoded.items() if n not in self.server.dropped}
                if equal({name: row[name] for name in whole}, whole):
                    self._whole[key] = rev
                else:  # a partial change applies to a row without the lost changes
                    lost = self.lost.get(key, ())
                    explained = any(self._whole.get(key, -1) < one <= rev for one in lost)
                    assert explained, f"{key}: {row} is half of it"
                assert rev >= before, f"{key} went back in time, from rev {before} to {rev}"
                self.shown[key] = rev
            elif before >= 0 and self.spec.limit is None:
                outs = [at for at, state in history if at >= before and not self._visible(state)]
                assert outs, f"{key} is gone, and never was"
                self.shown[key] = self._gone[key] = min(outs)

    def _visible(self, state: dict[str, Any] | None) -> bool:
        return state is not None and self.server.allowed(state) and self.inside(state)


def _frames(
    server: Server,
    bindings: Sequence[Binding],
    kind: str,
    old: dict[str, Any] | None,
    new: dict[str, Any] | None,
    commit: float,
) -> list[Change]:
    """Return one frame for each different ``select`` among the matching bindings."""
    row = new if new is not None else old
    assert row is not None
    if kind != "DELETE" and not server.allowed(row):
        return []
    known = server.known
    frames: dict[tuple[str, ...] | None, Change] = {}
    for binding in bindings:
        if binding.event not in ("*", kind):
            continue
        if binding.filter:
            assert kind != "DELETE", "a filter swallows deletions; the mirror must not ask for it"
            if not Filter.matches(_parsed(binding.filter), known.decode(row), known):
                continue
        names = None if binding.select is None else (*server.key, *binding.select)
        chosen = [name for name in server.columns if names is None or name in names]
        key = {name: _on_socket(row[name]) for name in server.key}
        record = None if new is None else {name: _on_socket(new[name]) for name in chosen}
        old_key = None if old is None else {name: _on_socket(old[name]) for name in server.key}
        frames[binding.select] = Change(
            kind,  # type: ignore[arg-type]  # one of the three
            record,
            None if kind == "INSERT" else old_key or key,
            tuple(Column(name, server.columns[name]) for name in chosen),
            commit,
        )
    return list(frames.values())


def _on_socket(value: Any) -> Any:
    """Encode a value for the socket: non-JSON numbers are null (docs/design/wire.md "Values")."""
    return None if value in ("NaN", "Infinity", "-Infinity") else value


def _parsed(text: str) -> Filter:
    from notebook_rt.model.filters import parse

    return parse(text)
