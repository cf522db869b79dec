"""A cache of PostgreSQL's catalog, valid until a statement changes the schema.

In: a table's oid. Out: `Table`: its columns and types, primary key, whether row-level security is
on, and which columns each role may select. `Catalog` is cleared on request: an event trigger
(`bootstrap.sql`) writes a message into the stream of changes for every DDL statement, so the cache is correct
for the changes that follow.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime.protocol import dumps
from notebook_rt.local.realtime.values import Encoder, PgType, encoder, key_order

PUBLICATION = "supabase_realtime"


@dataclass(frozen=True, slots=True)
class Column:
    """`sql_type` is the type's name in SQL ("integer"), `encode` None: PostgreSQL encodes."""

    name: str
    type: PgType
    sql_type: str
    in_key: bool
    encode: Encoder | None


@dataclass(frozen=True, slots=True)
class Table:
    """A published table. `columns` in their order of definition."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    row_security: bool
    readable: dict[str, frozenset[str]]
    """The columns that each role may select."""

    @property
    def key(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.in_key)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def columns_json(self, names: frozenset[str]) -> str:
        """Return the `columns` of a change's frame, for these columns."""
        return (
            "["
            + ", ".join(
                f'{{"name": {dumps(column.name)}, "type": {dumps(column.type.name)}}}'
                for column in self.columns
                if column.name in names
            )
            + "]"
        )

    def ordered(self, names: frozenset[str]) -> list[Column]:
        """Return these columns in the order in which jsonb stores their names."""
        return sorted(
            (column for column in self.columns if column.name in names),
            key=lambda column: key_order(column.name),
        )


_TABLE = """
select n.nspname as schema, c.relname as name, c.relrowsecurity as row_security,
  (select jsonb_agg(jsonb_build_object('name', a.attname, 'type', a.atttypid::int8,
      'sql', format_type(a.atttypid, -1), 'key', coalesce(a.attnum = any(k.indkey), false),
      'readers', (select coalesce(jsonb_agg(r.rolname), '[]') from pg_roles r
                  where has_column_privilege(r.oid, c.oid, a.attnum, 'select')))
      order by a.attnum)
   from pg_attribute a left join pg_index k on k.indrelid = c.oid and k.indisprimary
   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %s
"""

_TYPES = """
select t.oid::int8, t.typname as name, t.typtype::text as kind, format_type(t.oid, -1) as sql,
  case when t.typcategory = 'A' then t.typelem::int8 else 0 end as element,
  t.typbasetype::int8 as base,
  exists (select from pg_cast where castsource = t.oid and casttarget in
    ('json'::regtype, 'jsonb'::regtype) and t.oid not in ('json'::regtype, 'jsonb'::regtype)
    and castmethod = 'f') as json_cast
from pg_type t
"""

_PUBLISHED = "select schemaname, tablename from pg_publication_tables where pubname = %s"


class Catalog:
    """Tables by oid, read once and cached until `forget`."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._tables: dict[int, Table | None] = {}
        self._types: dict[int, PgType] = {}
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        self._tables.clear()
        self._types.clear()

    def known(self, oid: int) -> bool:
        return oid in self._tables

    def get(self, oid: int) -> Table | None:
        """Return a table that was already read."""
        return self._tables.get(oid)

    async def table(self, oid: int) -> Table | None:
        """Return the table with this oid; None if it was dropped."""
        async with self._lock:
            if oid not in self._tables:
                self._tables[oid] = await self._read(oid)
            return self._tables[oid]

    async def published(self) -> frozenset[tuple[str, str]]:
        """Return the schema and name of every published table."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_PUBLISHED, [PUBLICATION])
            return frozenset(await cursor.fetchall())

    async def find(self, schema: str, name: str) -> Table | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select to_regclass(quote_ident(%s) || '.' || quote_ident(%s))::oid::int8",
                [schema, name],
            )
            row = await cursor.fetchone()
        return await self.table(row[0]) if row and row[0] else None

    async def _read(self, oid: int) -> Table | None:
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            row = await (await cursor.execute(_TABLE, [oid])).fetchone()
            if row is None:
                return None
            if any(column["type"] not in self._types for column in row["columns"]):
                await cursor.execute(_TYPES)
                self._types = _types(await cursor.fetchall())
        columns = []
        readable: dict[str, set[str]] = {}
        for raw in row["columns"]:
            kind = self._types[raw["type"]]
            columns.append(Column(raw["name"], kind, raw["sql"], raw["key"], encoder(kind)))
            for role in raw["readers"]:
                readable.setdefault(role, set()).add(raw["name"])
        return Table(
            oid,
            row["schema"],
            row["name"],
            tuple(columns),
            row["row_security"],
            {role: frozenset(names) for role, names in readable.items()},
        )


def _types(rows: list[dict[str, Any]]) -> dict[int, PgType]:
    raw = {row["oid"]: row for row in rows}
    made: dict[int, PgType] = {}

    def make(oid: int) -> PgType:
        if oid not in made:
            row = raw[oid]
            made[oid] = PgType(
                oid,
                row["name"],
                row["kind"],
                row["sql"],
                make(row["element"]) if row["element"] else None,
                make(row["base"]) if row["base"] else None,
                row["json_cast"],
            )
        return made[oid]

    for oid in raw:
        make(oid)
    return made
