"""Private channels: the rights of a login in a topic, by the policies on `realtime.messages`.

In: a topic and claims. Out: whether the login may read and write broadcasts and presence. They are determined
as on the real server: rows are inserted and selected with that role in a transaction that is rolled back,
while `realtime.topic()` returns the topic. Policies are user code with a caller's input, so all of it runs in
a session of `authenticator`, never in the superuser's. The replay of a private topic's messages is here, too.
"""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import AsyncConnection, errors
from psycopg import Error as PgError
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime.tokens import Claims

log = logging.getLogger(__name__)

Extension = Literal["broadcast", "presence"]
EXTENSIONS: tuple[Extension, ...] = ("broadcast", "presence")
MAX_REPLAY = 25

_SETTINGS = """
select set_config('role', %s, true), set_config('realtime.topic', %s, true),
  set_config('request.jwt.claims', %s, true), set_config('request.jwt.claim.sub', %s, true),
  set_config('request.jwt.claim.role', %s, true)
"""

_REPLAY = """
select id::text, event, payload::text, binary_payload from realtime.messages
where topic = %s and private and extension = 'broadcast'
  and inserted_at >= to_timestamp(%s / 1000.0) order by inserted_at desc limit %s
"""


@dataclass(frozen=True, slots=True)
class Policies:
    """The rights, by extension."""

    read: frozenset[str]
    write: frozenset[str]


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stored broadcast; `binary` is set instead of `payload` for raw bytes."""

    id: str
    event: str
    payload: str | None
    binary: bytes | None


async def policies(callers: AsyncConnectionPool[Any], topic: str, claims: Claims) -> Policies:
    """Evaluate the policies; a missing role has no rights."""
    settings = [claims.role, topic, claims.json, claims.subject, claims.role]
    try:
        async with callers.connection() as connection, connection.transaction(force_rollback=True):
            await connection.execute("set local role service_role")  # it bypasses policies
            ids = {}
            for extension in EXTENSIONS:
                cursor = await connection.execute(
                    "insert into realtime.messages (topic, extension, private)"
                    " values (%s, %s, true) returning id",
                    [topic, extension],
                )
                row = await cursor.fetchone()
                assert row is not None  # an insert without conflict clause returns its row
                ids[row[0]] = extension
            await connection.execute(_SETTINGS, settings)
            cursor = await connection.execute(
                "select id from realtime.messages where id = any(%s)", [list(ids)]
            )
            read = frozenset(ids[row[0]] for row in await cursor.fetchall())
            write = [e for e in EXTENSIONS if await _may_insert(connection, topic, e)]
            return Policies(read, frozenset(write))
    except PgError as error:
        log.warning("the policies of topic %r could not be asked: %s", topic, error)
        return Policies(frozenset(), frozenset())


async def _may_insert(connection: AsyncConnection[Any], topic: str, extension: Extension) -> bool:
    try:
        async with connection.transaction():
            await connection.execute(
                "insert into realtime.messages (topic, extension) values (%s, %s)",
                [topic, extension],
            )
    except errors.InsufficientPrivilege:
        return False
    return True


async def replay(
    pool: AsyncConnectionPool[Any], topic: str, since: int, limit: int
) -> list[Replayed]:
    """Return a private topic's stored broadcasts since this time (ms), oldest first."""
    async with pool.connection() as connection:
        cursor = await connection.execute(_REPLAY, [topic, since, max(0, min(limit, MAX_REPLAY))])
        rows = await cursor.fetchall()
    return [Replayed(*row) for row in reversed(rows)]
