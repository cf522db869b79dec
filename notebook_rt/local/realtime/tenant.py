"""The parts of the local Realtime server, put together around one PostgreSQL.

In: the stack's `Context`. Out: a running `Tenant`: the stream of changes, the hub of topics, the
sockets. It follows the log from its start to `stop`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import Error as PgError

from notebook_rt.local.realtime import tokens
from notebook_rt.local.realtime.catalog import PUBLICATION, Catalog
from notebook_rt.local.realtime.changes import Changes
from notebook_rt.local.realtime.hub import Hub
from notebook_rt.local.realtime.limits import EventRate
from notebook_rt.local.realtime.protocol import UserBroadcast, dumps
from notebook_rt.local.realtime.tokens import Claims
from notebook_rt.local.realtime.wal import WalStream

if TYPE_CHECKING:
    from notebook_rt.local.context import Context

log = logging.getLogger(__name__)

MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"


class Client(Protocol):
    """A connection, as the tenant knows it."""

    async def close(self, code: int) -> None: ...

    async def disconnect(self) -> None: ...

    def abort(self) -> None: ...


class Tenant:
    """One project's Realtime."""

    def __init__(self, context: Context) -> None:
        self.options = context.options.realtime
        self.pool = context.pool
        self.callers = context.callers
        self.presence = EventRate(self.options.presence_per_second, time.monotonic)
        self.hub = Hub(self.presence.count)
        self.sockets: set[Client] = set()
        self.broadcasts = EventRate(self.options.events_per_second, time.monotonic)
        self.changes = Changes(
            catalog=Catalog(context.pool),
            callers=context.callers,
            rate=EventRate(self.options.events_per_second, time.monotonic),
            max_record_bytes=self.options.max_record_bytes,
            on_schema_change=self._schema_changed,
            on_message_row=self._database_broadcast,
            poll_interval=self.options.poll_interval,
        )
        self.wal = WalStream(
            context.dsn,
            [PUBLICATION, MESSAGES_PUBLICATION],
            self.options.restart_delay,
            # PostgreSQL was away: the pool would find its dead connections one by one, each
            # with a longer wait than the last.
            on_restart=self._check_pools,
        )
        self._context = context
        self._published: frozenset[tuple[str, str]] = frozenset()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Prepare the database and wait until changes flow."""
        statements = files(__package__).joinpath("bootstrap.sql").read_text(encoding="utf-8")
        async with self.pool.connection() as connection:
            await connection.execute(statements.encode())
        self._published = await self.changes.catalog.published()
        self._spawn(self._follow())
        await self.wal.streaming.wait()

    async def _check_pools(self) -> None:
        await asyncio.gather(self.pool.check(), self.callers.check())

    async def stop(self) -> None:
        """Close every socket with 1012 (service restart), as the real server does."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(socket.close(1012) for socket in list(self.sockets)))

    def verify(self, token: str) -> Claims:
        return tokens.verify(token, self._context)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        while True:
            try:
                await self.changes.run(self.wal.messages())
            except Exception:
                # The real server's worker is restarted by its supervisor; what was under way is
                # lost, and clients are not told.
                log.exception("the stream of changes broke, starting again")
                await asyncio.sleep(self.options.restart_delay)

    def _schema_changed(self) -> None:
        self._spawn(self._look_at_publication())

    async def _look_at_publication(self) -> None:
        try:
            published = await self.changes.catalog.published()
        except PgError:
            return  # PostgreSQL is going away; the next change of the schema says it again
        if published != self._published:
            self._published = published
            for channel in self.hub.channels():
                channel.rebind(self.options.publication_delay)

    def _database_broadcast(self, row: dict[str, str | None]) -> None:
        """A row of `realtime.messages` is a broadcast from the database."""
        if row.get("extension") != "broadcast" or row.get("topic") is None:
            return
        binary = row.get("binary_payload")
        payload = (
            bytes.fromhex(binary.removeprefix("\\x"))
            if binary is not None
            else (row.get("payload") or "null").encode()
        )
        message = UserBroadcast(
            row.get("event") or "", payload, binary is None, dumps({"id": row.get("id")})
        )
        self.hub.user_broadcast((row["topic"] or "", row.get("private") == "t"), message)
