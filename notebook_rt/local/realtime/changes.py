"""Match the stream of changes with every channel's bindings, and deliver the changes.

In: pgoutput messages and `Subscription`s. Out: calls of `Subscription.deliver` with the `data` of a frame and
the ids of the matching bindings. A chunk of a transaction is processed as one: filters in Python, then
everything that only PostgreSQL can decide, queried for all rows together (comparisons, unusual types,
row-level security per role and claims), then the frames, each created once for all subscribers with the same
view.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from psycopg import DataError, sql
from psycopg import Error as PgError
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime import pgoutput, rls
from notebook_rt.local.realtime.bindings import Binding
from notebook_rt.local.realtime.catalog import Catalog, Table
from notebook_rt.local.realtime.commits import until_seen
from notebook_rt.local.realtime.filters import Condition, Judge, Question
from notebook_rt.local.realtime.limits import EventRate
from notebook_rt.local.realtime.pgoutput import Relation, Row, Unchanged
from notebook_rt.local.realtime.protocol import dumps
from notebook_rt.local.realtime.rows import (
    NO_KEY,
    UNAUTHORIZED,
    Change,
    Layout,
    commit_timestamp,
    error_data,
)
from notebook_rt.local.realtime.values import Encoder, PgType

log = logging.getLogger(__name__)

CHUNK = 500
"""Maximum number of changes processed together; a larger transaction is sent in parts."""

Select = tuple[str, ...] | None


@dataclass(eq=False, slots=True)
class Subscription:
    """A channel's bindings under one login. `deliver(kind, data, ids)` sends a frame."""

    bindings: tuple[Binding, ...]
    role: str
    claims: str
    deliver: Callable[[str, str, list[int]], None]


@dataclass(slots=True)
class _Hit:
    """A change that a subscription's filters let through."""

    change: Change
    table: Table
    subscription: Subscription
    ids: dict[Select, list[int]]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    """A subscription's bindings that cover one table, their conditions with column and type."""

    subscription: Subscription
    bindings: tuple[tuple[Binding, tuple[tuple[int, PgType, Condition], ...]], ...]


class Encodings:
    """JSON of values whose types only PostgreSQL can encode, queried before it is needed."""

    MAX_REMEMBERED = 10_000

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._known: dict[tuple[str, str], str] = {}

    def encoder(self, kind: PgType) -> Encoder:
        return lambda text: self._known[(kind.sql, text)]

    async def learn(self, table: Table, changes: list[Change]) -> None:
        """Query the JSON of every such value in the changes."""
        wanted = {
            (column.type.sql, value)
            for change in changes
            for name in (c.name for c in table.columns if c.encode is None)
            for column in (table.column(name),)
            for row in (change.new, change.old)
            if column is not None and row is not None and name in change.relation.columns
            for value in (row[change.relation.columns.index(name)],)
            if isinstance(value, str)
        }
        missing = [pair for pair in wanted if pair not in self._known]
        if not missing:
            return
        if len(self._known) > self.MAX_REMEMBERED:
            self._known.clear()
            missing = list(wanted)
        async with self._pool.connection() as connection:
            for kind, text in missing:
                # The type's name comes from format_type(), which quotes what needs quoting.
                statement = sql.SQL("select to_jsonb(%s::{})::text").format(sql.SQL(kind))
                try:
                    row = await (await connection.execute(statement, [text])).fetchone()
                except (DataError, InsufficientPrivilege):
                    # A cast to json that refuses this value, or a schema without access for the API's roles.
                    self._known[(kind, text)] = dumps(text)
                else:
                    self._known[(kind, text)] = row[0] if row and row[0] is not None else "null"


@dataclass(slots=True)
class Faults:
    """Intentional losses of changes, for tests against the stack."""

    drop_changes: bool = False
    dropped: int = 0


@dataclass(eq=False)
class Changes:
    """Distributes the changes of the log to the channels."""

    catalog: Catalog
    callers: AsyncConnectionPool[Any]
    """The pool for policies and for casts of values, as a type's functions may be a user's."""
    rate: EventRate
    max_record_bytes: int
    on_schema_change: Callable[[int], Awaitable[None]]
    """Called with a transaction, before the rest of the log is read. Called once per transaction, even with
    several DDL statements: the transaction is committed, so the first read sees all their effects."""
    poll_interval: float = 0.0
    """See `RealtimeOptions`."""
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.judge = Judge(self.callers)
        self._encodings = Encodings(self.callers)
        self._subscriptions: dict[Subscription, None] = {}
        self._routes: dict[int, dict[str, list[_Route]]] = {}
        self._layouts: dict[tuple[int, str, Select], Layout] = {}
        self._last_poll = 0.0
        self._xid = 0
        """The transaction being read."""
        self.read_to = 0
        """The position in the log at the end of the last transaction that was sent completely."""

    def subscribe(self, subscription: Subscription) -> None:
        self._subscriptions[subscription] = None
        self._routes.clear()

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription, None)
        self._routes.clear()

    async def run(self, messages: AsyncGenerator[pgoutput.PgMessage, None]) -> None:
        """Follow the log until cancelled."""
        async with aclosing(messages):
            await self._follow(messages)

    async def _follow(self, messages: AsyncGenerator[pgoutput.PgMessage, None]) -> None:
        relations: dict[int, Relation] = {}
        committed = ""
        looked = False
        chunk: list[Change] = []
        async for message in messages:
            match message:
                case pgoutput.Begin(committed=microseconds, xid=xid):
                    self._xid = xid
                    looked = False
                    committed = commit_timestamp(microseconds)
                    if self.poll_interval:
                        await self._polled(pgoutput.EPOCH + microseconds / 1e6)
                case pgoutput.Relation():
                    await self._flush(chunk)
                    relations[message.oid] = message
                    self._forget()
                case pgoutput.Insert(oid, new):
                    chunk.append(Change("INSERT", relations[oid], committed, new, None))
                case pgoutput.Update(oid, old, new):
                    chunk.append(Change("UPDATE", relations[oid], committed, new, old))
                case pgoutput.Delete(oid, old):
                    chunk.append(Change("DELETE", relations[oid], committed, None, old))
                case pgoutput.LogicalMessage(prefix="notebook_rt"):
                    await self._flush(chunk)
                    self._forget()
                    if not looked:
                        looked = True
                        await self.on_schema_change(self._xid)
                case pgoutput.Commit(end_lsn):
                    await self._flush(chunk)
                    self.read_to = end_lsn
            if len(chunk) >= CHUNK:
                await self._flush(chunk)

    async def _polled(self, committed: float) -> None:
        """Wait for the poll that finds a commit of this time (seconds since 1970).

        After a poll that found changes, the next follows at once; after others, an interval passes.
        """
        if committed > self._last_poll:
            since = time.time() - self._last_poll
            await asyncio.sleep(self.poll_interval - since % self.poll_interval)
            self._last_poll = time.time()

    def _forget(self) -> None:
        self.catalog.forget()
        self._routes.clear()
        self._layouts.clear()

    async def _flush(self, chunk: list[Change]) -> None:
        if not chunk:
            return
        changes, chunk[:] = list(chunk), []
        try:
            await self._deliver(changes)
        except PgError:
            # As on the real server (realtime#2093): a policy that raises loses the batch for all
            # subscribers, silently.
            log.exception("a batch of %d changes was dropped", len(changes))

    async def _deliver(self, changes: list[Change]) -> None:
        wanted: list[tuple[Change, Table]] = []
        for change in changes:
            relation = change.relation
            table = self.catalog.get(relation.oid) or await self.catalog.table(relation.oid)
            if table is not None and self._route(relation, table):
                wanted.append((change, table))
        wanted = [pair for pair in wanted if self._admitted()]
        if not wanted:
            return
        hits = await self._filtered(wanted)
        hits = await self._allowed(hits)
        for table in {table.oid: table for _, table in wanted}.values():
            if any(column.encode is None for column in table.columns):
                await self._encodings.learn(table, [c for c, t in wanted if t is table])
        self._send(hits)

    def _admitted(self) -> bool:
        """Count a change; return False if it is dropped silently, as on the real server."""
        if self.faults.drop_changes:
            self.faults.dropped += 1
            return False
        return self.rate.admit()

    def _route(self, relation: Relation, table: Table) -> dict[str, list[_Route]]:
        """Return the subscriptions that cover a table, by kind of change."""
        routes = self._routes.get(relation.oid)
        if routes is None:
            routes = self._routes[relation.oid] = {}
            index = {name: position for position, name in enumerate(relation.columns)}
            for subscription in self._subscriptions:
                covering = [b for b in subscription.bindings if b.covers(table.schema, table.name)]
                for kind in ("INSERT", "UPDATE", "DELETE"):
                    compiled = tuple(
                        (binding, _compiled(binding, table, index))
                        for binding in covering
                        if binding.event in ("*", kind)
                    )
                    if compiled:
                        routes.setdefault(kind, []).append(_Route(subscription, compiled))
        return routes

    async def _filtered(self, wanted: list[tuple[Change, Table]]) -> list[_Hit]:
        """Return the changes with the subscriptions whose filters they match."""
        while True:
            questions: set[Question] = set()
            hits: list[_Hit] = []
            for change, table in wanted:
                row = change.identity() if change.kind == "DELETE" else change.new
                assert row is not None
                for route in self._route(change.relation, table).get(change.kind, ()):
                    error = _error(change, table, route.subscription.role)
                    ids: dict[Select, list[int]] = {}
                    for binding, conditions in route.bindings:
                        if error is not None or self._meets(row, conditions, questions):
                            select = None if error is not None else binding.select
                            ids.setdefault(select, []).append(binding.id)
                    if ids:
                        hits.append(_Hit(change, table, route.subscription, ids, error))
            if not questions:
                return hits
            await self.judge.ask(questions)

    def _meets(
        self,
        row: Row,
        conditions: tuple[tuple[int, PgType, Condition], ...],
        questions: set[Question],
    ) -> bool:
        """Return whether a row passes; unknown answers are collected and count as no.

        A column that is not in the log (not in the identity, or unchanged TOAST) is ignored; a filter with
        only such columns matches no row.
        """
        if not conditions:
            return True
        used_at = False
        for index, kind, condition in conditions:
            value = row[index]
            if isinstance(value, Unchanged):
                continue
            used_at = True
            answer = self.judge.passes(kind, condition, value)
            if isinstance(answer, Question):
                questions.add(answer)
                return False
            if not answer:
                return False
        return used_at

    async def _allowed(self, hits: list[_Hit]) -> list[_Hit]:
        """Return the hits whose rows the policies show to the subscriber."""
        groups: dict[tuple[int, str, str], dict[rls.Key, None]] = {}
        tables: dict[int, Table] = {}
        for hit in hits:
            if _restricted(hit):
                subscription = hit.subscription
                group = (hit.table.oid, subscription.role, subscription.claims)
                groups.setdefault(group, {})[_key(hit)] = None
                tables[hit.table.oid] = hit.table
        if not groups:
            return hits
        await until_seen(self.callers, self._xid)
        seen = {
            group: await rls.visible(self.callers, tables[group[0]], group[1], group[2], list(keys))
            for group, keys in groups.items()
        }
        return [
            hit
            for hit in hits
            if not _restricted(hit)
            or _key(hit) in seen[(hit.table.oid, hit.subscription.role, hit.subscription.claims)]
        ]

    def _send(self, hits: list[_Hit]) -> None:
        made: dict[tuple[int, str, Select, str | None], str] = {}
        for hit in hits:
            change, role = hit.change, hit.subscription.role
            for select, ids in hit.ids.items():
                key = (id(change), role, select, hit.error)
                data = made.get(key)
                if data is None:
                    if hit.error is not None:
                        data = error_data(hit.table, change.kind, hit.error)
                    else:
                        layout = self._layout(change.relation, hit.table, role, select)
                        with _alone("a change"):
                            data = layout.data(change, change.size() > self.max_record_bytes)
                    if data is None:
                        continue
                    made[key] = data
                hit.subscription.deliver(change.kind, data, ids)

    def _layout(self, relation: Relation, table: Table, role: str, select: Select) -> Layout:
        key = (relation.oid, role, select)
        layout = self._layouts.get(key)
        if layout is None:
            layout = Layout(relation, table, role, select, self._encodings.encoder)
            self._layouts[key] = layout
        return layout


@contextlib.contextmanager
def _alone(what: str) -> Iterator[None]:
    """Deliver a change; a failure does not affect other changes."""
    try:
        yield
    except Exception:
        log.exception("%s was dropped", what)


def _compiled(
    binding: Binding, table: Table, index: dict[str, int]
) -> tuple[tuple[int, PgType, Condition], ...]:
    compiled = []
    for condition in binding.conditions:
        column = table.column(condition.column)
        if column is not None and column.name in index:
            compiled.append((index[column.name], column.type, condition))
    return tuple(compiled)


def _error(change: Change, table: Table, role: str) -> str | None:
    if change.kind == "DELETE":
        return None
    key = table.key
    if not key:
        return NO_KEY
    readable = table.readable.get(role, frozenset())
    return None if all(column.name in readable for column in key) else UNAUTHORIZED


def _restricted(hit: _Hit) -> bool:
    """Return whether the row is checked; not for a DELETE, which is sent to all subscribers.

    It is also checked for roles without restrictions: a row deleted meanwhile is not sent to them.
    """
    return hit.table.row_security and hit.error is None and hit.change.kind != "DELETE"


def _key(hit: _Hit) -> rls.Key:
    relation, row = hit.change.relation, hit.change.record()
    return tuple(str(row[relation.columns.index(column.name)]) for column in hit.table.key)
