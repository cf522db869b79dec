"""Wait until a commit in the log is visible to other transactions, before PostgreSQL is queried.

On a busy machine, or if commits wait for a standby, the delay is long: a policy would not find the row, and
the catalog would return the previous state.
"""

import asyncio
from typing import Any, Final

from psycopg_pool import AsyncConnectionPool

LOOK_AGAIN: Final = 0.001
"""Seconds between two checks whether a transaction is visible."""
_SEEN: Final = """
select pg_visible_in_snapshot((x - ((x - %s + 2147483648) & 4294967295) + 2147483648)::text::xid8, s)
from pg_current_snapshot() s, lateral (select pg_snapshot_xmax(s)::text::bigint as x) newest
"""
"""Return the full number of a transaction, of which the log has the lower 32 bits: the nearest to the
newest."""


async def until_seen(pool: AsyncConnectionPool[Any], xid: int) -> None:
    """Wait until the transaction is visible to others."""
    async with pool.connection() as connection:
        while True:
            row = await (await connection.execute(_SEEN, [xid])).fetchone()
            if row is None or row[0]:
                return
            await asyncio.sleep(LOOK_AGAIN)
