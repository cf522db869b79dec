"""Assemble the parts of the local Realtime server for one PostgreSQL.

In: the stack's `Context`. Out: a running `Tenant`: the stream of changes, the hub of topics, the sockets. It
follows the log from its start to `stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import Error as PgError

from notebook_rt.local.realtime import pgoutput, tokens
from notebook_rt.local.realtime.broadcasts import DatabaseBroadcasts
from notebook_rt.local.realtime.catalog import PUBLICATION, Catalog
from notebook_rt.local.realtime.changes import Changes
from notebook_rt.local.realtime.commits import until_seen
from notebook_rt.local.realtime.hub import Hub
from notebook_rt.local.realtime.limits import EventRate
from notebook_rt.local.realtime.tokens import Claims
from notebook_rt.local.realtime.wal import WalStream

if TYPE_CHECKING:
    from notebook_rt.local.context import Context

log = logging.getLogger(__name__)

MESSAGES_PUBLICATION = "supabase_realtime_messages_publication"


PARTITIONS_EVERY = 30.0
"""Seconds between two checks for a missing partition; they are created three days ahead."""
LOOK_AGAIN = 0.5
"""Seconds after which the publication is checked again if PostgreSQL did not answer."""


class Reader(Protocol):
    """A reader of the log."""

    async def run(self, messages: AsyncGenerator[pgoutput.PgMessage, None]) -> None: ...


class Client(Protocol):
    """The interface of a connection."""

    async def close(self, code: int) -> None: ...

    async def disconnect(self) -> None: ...

    def abort(self) -> None: ...


class Tenant:
    """One project's Realtime."""

    def __init__(self, context: Context) -> None:
        self.options = context.options.realtime
        self.pool = context.pool
        self.callers = context.callers
        self.presence = self._rate(self.options.presence_per_second)
        self.hub = Hub(self.presence.count)
        self.sockets: set[Client] = set()
        self.broadcasts = self._rate(self.options.events_per_second)
        self.changes = Changes(
            catalog=Catalog(context.pool),
            callers=context.callers,
            rate=self._rate(self.options.events_per_second),
            max_record_bytes=self.options.max_record_bytes,
            on_schema_change=self._schema_changed,
            poll_interval=self.options.poll_interval,
        )
        self.wal = WalStream(
            context.dsn,
            [PUBLICATION],
            self.options.restart_delay,
            # PostgreSQL was away: the pool would find its dead connections one by one, each
            # with a longer wait than the last.
            on_restart=self._restarted,
        )
        self.messages = WalStream(
            context.dsn, [MESSAGES_PUBLICATION], self.options.restart_delay, on_restart=None
        )
        self.from_database = DatabaseBroadcasts(
            self.options, self.hub, self.broadcasts, self.messages
        )
        self._context = context
        self._published: frozenset[tuple[str, str]] = frozenset()
        self._check_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Prepare the database and wait until changes flow."""
        statements = files(__package__).joinpath("bootstrap.sql").read_text(encoding="utf-8")
        async with self.pool.connection() as connection:
            await connection.execute(statements.encode())
        self._published = await self.changes.catalog.published()
        self._spawn(self._follow(self.changes, self.wal))
        self._spawn(self._follow(self.from_database, self.messages))
        self._spawn(self._keep_partitions())
        await self.wal.streaming.wait()
        await self.messages.streaming.wait()

    def _rate(self, limit: float | None) -> EventRate:
        return EventRate(limit, time.monotonic, self.options.rate_tick)

    async def _restarted(self) -> None:
        await asyncio.gather(self.pool.check(), self.callers.check())
        # Changes meanwhile are not in the log that is read now.
        await self._check_publication()

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

    async def _follow(self, reader: Reader, stream: WalStream) -> None:
        while True:
            try:
                await reader.run(stream.messages())
            except Exception:
                # The real server's worker is restarted by its supervisor; messages in progress are
                # lost, and clients are not notified.
                log.exception("a stream of the log broke, starting again")
                await asyncio.sleep(self.options.restart_delay)

    async def _keep_partitions(self) -> None:
        """Create the partitions of the next days, which pass while a stack runs or a laptop sleeps."""
        while True:
            await asyncio.sleep(PARTITIONS_EVERY)
            try:
                async with self.pool.connection() as connection:
                    await connection.execute("select realtime.notebook_rt_partitions()")
            except PgError as error:  # PostgreSQL is unavailable, or the table is locked for long
                log.warning("the partitions of realtime.messages are not up to date: %s", error)

    async def _schema_changed(self, xid: int) -> None:
        with contextlib.suppress(PgError):  # PostgreSQL is stopping: the check detects that
            await until_seen(self.callers, xid)
        await self._check_publication()

    async def _check_later(self) -> None:
        await asyncio.sleep(LOOK_AGAIN)
        self._check_scheduled = False
        await self._check_publication()

    async def _check_publication(self) -> None:
        try:
            published = await self.changes.catalog.published()
        except PgError:  # PostgreSQL is stopping, or has just restarted
            if not self._check_scheduled:
                self._check_scheduled = True
                self._spawn(self._check_later())
            return
        if published != self._published:
            self._published = published
            for channel in self.hub.channels():
                channel.rebind(self.options.publication_delay)
