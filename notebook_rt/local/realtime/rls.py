"""Row-level security, judged as the subscriber at the moment of delivery.

In: a table, the subscriber's role and claims, and keys. Out: the keys of existing rows that the policies show
to this subscriber now. Like the real server, it checks the current row, not the logged one: a row that was
deleted since, or that belongs to another user now, is not visible.
"""

from typing import Any

from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime.catalog import Table

Key = tuple[str, ...]


async def visible(
    pool: AsyncConnectionPool[Any], table: Table, role: str, claims: str, keys: list[Key]
) -> set[Key]:
    """Return the keys whose rows are visible to the role with these claims (JSON text)."""
    statement = _statement(table)
    arrays = [list(values) for values in zip(*keys, strict=True)]
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute(
            "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)",
            [role, claims],
        )
        cursor = await connection.execute(statement, arrays)
        seen = await cursor.fetchall()
    return {keys[position - 1] for (position,) in seen}


def _statement(table: Table) -> sql.Composed:
    names = [sql.Identifier(f"k{index}") for index in range(len(table.key))]
    matches = sql.SQL(" and ").join(
        # The type's name comes from format_type(), which quotes what needs quoting.
        sql.SQL("t.{} = k.{}::{}").format(
            sql.Identifier(column.name),
            name,
            sql.SQL("bpchar" if column.type.name == "bpchar" else column.sql_type),
        )
        for name, column in zip(names, table.key, strict=True)
    )
    # `limit` forces a lookup by key for each row: for a join of sets, PostgreSQL may scan the table
    # and evaluate the policy for every row.
    return sql.SQL(
        "select k.position from unnest({arrays}) with ordinality as k({names}, position),"
        " lateral (select from {table} t where {matches} limit 1) found"
    ).format(
        arrays=sql.SQL(", ").join([sql.SQL("%s::text[]")] * len(names)),
        names=sql.SQL(", ").join(names),
        table=sql.Identifier(table.schema, table.name),
        matches=matches,
    )
