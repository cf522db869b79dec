"""Read and check the `postgres_changes` bindings of a channel.

In: the JSON of a join. Out: `Binding`s, or `BindingError` with the real server's exact message; it answers an
invalid binding after the join's `ok`, with a system message.
"""

import re
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from psycopg import Error as PgError
from psycopg import sql
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime.catalog import Catalog, Column, Table
from notebook_rt.local.realtime.elixir import inspect
from notebook_rt.local.realtime.filters import MAX_IN, Condition, FilterError, parse
from notebook_rt.local.realtime.protocol import dumps
from notebook_rt.local.realtime.values import parse_array

EVENTS = ("INSERT", "UPDATE", "DELETE")
_TEXT_TYPES = frozenset(("text", "varchar", "bpchar", "name", "citext"))
_PATTERNS = frozenset(("like", "ilike", "match", "imatch"))


class BindingError(ValueError):
    """Why a join's bindings are invalid, with the server's message."""


@dataclass(frozen=True, slots=True)
class Binding:
    """`event`, `schema` and `table` may be `*`; `select` None means every column."""

    id: int
    event: str
    schema: str
    table: str
    conditions: tuple[Condition, ...]
    select: tuple[str, ...] | None

    def describe(self) -> str:
        """Return the form in which the real server's messages quote it."""
        terms = inspect([condition.term() for condition in self.conditions])
        select = inspect(list(self.select)) if self.select is not None else "nil"
        return (
            f"[event: {self.event}, schema: {self.schema}, table: {self.table}, "
            f"filters: {terms}, select: {select}]"
        )

    def covers(self, schema: str, table: str) -> bool:
        return self.schema in ("*", schema) and self.table in ("*", table)


def binding_id(params: dict[str, Any]) -> int:
    """Return the id, which is the same for the same parameters on every connection."""
    return crc32(dumps(sorted(params.items())).encode()) & 0x7FFFFFF


def read(params: dict[str, Any]) -> Binding:
    """Read one binding of a client."""
    schema, table = params.get("schema"), params.get("table")
    text = params.get("filter", "")
    named = isinstance(schema, str) or isinstance(table, str)
    if not named or not isinstance(text, str):
        raise BindingError(
            "No subscription params provided. Please provide at least a `schema` or `table` "
            f"to subscribe to: {inspect(params)}"
        )
    schema = schema if isinstance(schema, str) else "public"
    table = table if isinstance(table, str) else "*"
    select = params.get("select")
    if select is not None:
        if not isinstance(select, list) or not all(isinstance(name, str) for name in select):
            raise BindingError(
                "Error parsing `select` params: expected a list of column name strings, "
                'e.g. select: ["col1", "col2"]'
            )
        if select and "*" in (schema, table):
            raise BindingError(
                "Column selection is not supported for wildcard subscriptions. "
                "Provide an explicit schema and table name."
            )
    try:
        conditions = parse(text)
    except FilterError as error:
        raise BindingError(f"Error parsing `filter` params: {error}") from None
    event = str(params.get("event", "*")).upper()
    return Binding(
        binding_id(params),
        event if event in EVENTS else "*",
        schema,
        table,
        conditions,
        tuple(select) if select else None,
    )


async def check(
    binding: Binding, role: str, catalog: Catalog, pool: AsyncConnectionPool[Any]
) -> None:
    """Check a binding against the database, with the role of the client.

    Raises
    ------
    BindingError
        If the table is missing or not published, or a column, an operator or a value is invalid.
    """
    published = await catalog.published()
    found = [pair for pair in published if binding.covers(*pair)]
    if not found:
        raise BindingError(
            "Unable to subscribe to changes with given parameters. Please check Realtime is "
            f"enabled for the given connect parameters: {binding.describe()}"
        )
    try:
        async with pool.connection() as connection:
            await connection.execute("select %s::regrole", [f'"{role}"'])
            if binding.conditions or binding.select:
                for schema, name in found:
                    table = await catalog.find(schema, name)
                    if table is not None:
                        _check_select(binding, table, role)
                        for condition in binding.conditions:
                            column = _readable(table, role, condition.column, "filter")
                            _check_operator(condition, column)
                            await connection.execute(*_cast(condition, column))
    except PgError as error:
        state = error.sqlstate or "XX000"
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
        raise _refused(binding, f"{state} ({words}) {_primary(error)}") from None
    except _RuleError as error:
        raise _refused(binding, f"P0001 (raise_exception) {error}") from None


class _RuleError(Exception):
    """A violated rule of the real server's check (a PL/pgSQL exception there)."""


def _refused(binding: Binding, reason: str) -> BindingError:
    return BindingError(
        "Unable to subscribe to changes with given parameters. An exception happened so please "
        f"check your connect parameters: {binding.describe()}. Exception: ERROR {reason}"
    )


def _primary(error: PgError) -> str:
    return error.diag.message_primary or str(error)


def _readable(table: Table, role: str, name: str, what: str) -> Column:
    column = table.column(name)
    if column is None or name not in table.readable.get(role, ()):
        raise _RuleError(f"invalid column for {what} {name}")
    return column


def _check_select(binding: Binding, table: Table, role: str) -> None:
    for name in binding.select or ():
        _readable(table, role, name, "select")


def _check_operator(condition: Condition, column: Column) -> None:
    operator, value = condition.operator, condition.value
    if operator in _PATTERNS and column.type.name not in _TEXT_TYPES:
        raise _RuleError(
            f"operator {operator} requires a text-compatible column type, got {column.sql_type}"
        )
    if operator == "is":
        if value.lower() not in ("null", "true", "false", "unknown"):
            raise _RuleError(f"invalid value for is filter {value}")
        if value.lower() != "null" and column.type.name != "bool":
            raise _RuleError(f"is {value} filter requires a boolean column, got {column.sql_type}")
    if operator == "in" and len(parse_array(value)) > MAX_IN:
        raise _RuleError(f"too many values for `in` filter. Maximum {MAX_IN}")


def _cast(condition: Condition, column: Column) -> tuple[sql.Composable, list[str]]:
    """Return a statement that fails if the value does not fit the column."""
    if condition.operator == "is":
        return sql.SQL("select 1"), []
    if condition.operator in ("match", "imatch"):
        return sql.SQL("select realtime.notebook_rt_check_regex(%s, %s)"), [
            condition.value,
            condition.operator,
        ]
    # The type's name comes from format_type(), which quotes what needs quoting.
    kind = sql.SQL(column.type.sql)
    suffix = sql.SQL("[]" if condition.operator == "in" else "")
    return sql.SQL("select %s::{}{}").format(kind, suffix), [condition.value]
