"""The stream of committed changes: logical replication, pushed by PostgreSQL as it commits.

In: a connection string. Out: `async for message in WalStream(...)`, pgoutput messages in commit order. It
uses the replication protocol through libpq (psycopg 3's `pq` layer) on the event loop, without a thread or
polling, so that a change arrives within a millisecond of its commit.

The slot is temporary, like the real server's: after a loss of PostgreSQL the stream starts again on a new
slot, and commits in between are silently lost.
"""

import asyncio
import logging
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import uuid4

from psycopg import OperationalError, conninfo, pq
from psycopg.pq.abc import PGconn

from notebook_rt.local.realtime import pgoutput

log = logging.getLogger(__name__)

FEEDBACK_EVERY = 10.0
"""Seconds between two reports of the position; PostgreSQL gives up after 60 s of silence."""
YIELD_EVERY = 200
"""Messages read before other tasks (sockets, heartbeats) get a turn."""

# Values arrive as text; these make the text independent of the database's settings.
_SETTINGS = (
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c extra_float_digits=1"
    " -c bytea_output=hex -c client_encoding=UTF8"
)


class WalStream:
    """The stream of messages of the publications' tables.

    Parameters
    ----------
    dsn
        The connection string of a role that may replicate.
    publications
        The names of existing publications.
    restart_delay
        Seconds to wait before starting again after the connection was lost.
    on_restart
        Awaited after a restart of the stream, before its first message.
    """

    def __init__(
        self,
        dsn: str,
        publications: list[str],
        restart_delay: float,
        on_restart: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._dsn = conninfo.make_conninfo(
            dsn, replication="database", options=_SETTINGS, application_name="realtime"
        )
        self._publications = ",".join(publications)
        self._restart_delay = restart_delay
        self._on_restart = on_restart
        self.streaming = asyncio.Event()
        """Set while changes flow."""
        self.starts = 0
        """Number of starts of the stream: more than one means that changes were lost."""

    async def messages(self) -> AsyncGenerator[pgoutput.PgMessage, None]:
        """Yield messages forever; reconnect automatically."""
        while True:
            connection: PGconn | None = None
            try:
                connection = await self._start()
                self.starts += 1
                if self.starts > 1 and self._on_restart is not None:
                    await self._on_restart()
                self.streaming.set()
                async for message in self._read(connection):
                    yield message
            except OperationalError as error:
                log.info("replication stopped, starting again: %s", str(error).strip())
            finally:
                self.streaming.clear()
                if connection is not None:
                    connection.finish()
            await asyncio.sleep(self._restart_delay)

    async def _start(self) -> PGconn:
        connection = pq.PGconn.connect_start(self._dsn.encode())
        try:
            while (status := connection.connect_poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.FAILED:
                    raise OperationalError(connection.error_message.decode())
                await _ready(connection.socket, write=status == pq.PollingStatus.WRITING)
            connection.nonblocking = 1
            slot = f"realtime_{uuid4().hex}"
            await _execute(connection, f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput")
            await _execute(
                connection,
                f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', "
                f"publication_names '{self._publications}', messages 'true')",
            )
        except BaseException:
            connection.finish()
            raise
        return connection

    async def _read(self, connection: PGconn) -> AsyncGenerator[pgoutput.PgMessage, None]:
        position, reported, seen = 0, time.monotonic(), 0
        while True:
            size, data = connection.get_copy_data(1)
            if size < 0:
                raise OperationalError(connection.error_message.decode() or "stream ended")
            now = time.monotonic()
            asked = False
            if size:
                message = bytes(data)
                if message[0] == 0x77:  # w: start, end of log, clock, then the message
                    position = max(position, struct.unpack_from("!Q", message, 1)[0])
                    try:
                        parsed = pgoutput.parse(message[25:])
                    except pgoutput.MalformedError:
                        log.exception("a message of the stream of changes was dropped")
                        parsed = None
                    if parsed is not None:
                        yield parsed
                    seen += 1
                    if seen % YIELD_EVERY == 0:
                        await asyncio.sleep(0)
                else:  # k: keepalive; its last byte asks for an answer
                    position = max(position, struct.unpack_from("!Q", message, 1)[0])
                    asked = message[17] == 1
            if asked or now - reported >= FEEDBACK_EVERY:
                reported = now
                await _report(connection, position)
            if not size:
                await _ready(connection.socket, at_most=FEEDBACK_EVERY)
                connection.consume_input()


async def _report(connection: PGconn, position: int) -> None:
    """Report the position, so that PostgreSQL can drop its log and knows that the reader is alive."""
    feedback = struct.pack("!cQQQqB", b"r", position, position, position, 0, 0)
    connection.put_copy_data(feedback)
    while connection.flush():
        await _ready(connection.socket, write=True)


async def _execute(connection: PGconn, command: str) -> None:
    connection.send_query(command.encode())
    while connection.flush():
        await _ready(connection.socket, write=True)
    while True:
        while connection.is_busy():
            await _ready(connection.socket)
            connection.consume_input()
        result = connection.get_result()
        if result is None:
            return
        if result.status == pq.ExecStatus.COPY_BOTH:
            return
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise OperationalError(result.error_message.decode())


async def _ready(descriptor: int, write: bool = False, at_most: float | None = None) -> None:
    """Wait until libpq's socket can be read (or written), or until a timeout."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(descriptor, wake)
    try:
        async with asyncio.timeout(at_most):
            await future
    except TimeoutError:
        pass
    finally:
        remove(descriptor)
