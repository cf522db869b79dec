"""The log has a commit a moment before others see it, which is waited for before PostgreSQL is asked.

On a busy machine, or where commits wait for a standby, that moment is long: a policy would not find the
row that it is asked about, and the catalog would say what it said before.
"""

import asyncio
from typing import Any, Final

from psycopg_pool import AsyncConnectionPool

LOOK_AGAIN: Final = 0.001
"""Seconds between two looks whether others see a transaction."""
_SEEN: Final = """
select pg_visible_in_snapshot((x - ((x - %s + 2147483648) & 4294967295) + 2147483648)::text::xid8, s)
from pg_current_snapshot() s, lateral (select pg_snapshot_xmax(s)::text::bigint as x) newest
"""
"""The log has the lower 32 bits of a transaction's number; the whole is the one nearest the newest."""


async def until_seen(pool: AsyncConnectionPool[Any], xid: int) -> None:
    """Wait until others see what the transaction has done."""
    async with pool.connection() as connection:
        while True:
            row = await (await connection.execute(_SEEN, [xid])).fetchone()
            if row is None or row[0]:
                return
            await asyncio.sleep(LOOK_AGAIN)
