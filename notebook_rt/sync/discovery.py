"""Learning a table's columns and key (promise 9).

The API's own description says all of it, NOT NULL and an enum's labels included, where this login
may read it. Where it may not: a probe of one row gives the names, a comparison that cannot succeed
gives each type (PostgreSQL names it in the error), and the key is the one that was asked for, or
``id``; what a column may hold is then the server's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

from notebook_rt.errors import (
    AuthError,
    MissingColumnError,
    MissingTableError,
    NoPrimaryKeyError,
    PermissionDeniedError,
    RefusedError,
    ServerError,
)
from notebook_rt.filters import Condition, column_name
from notebook_rt.store.types import Column, Schema, canonical
from notebook_rt.sync.events import Query
from notebook_rt.sync.flows import Ask, Flow, ReadRefusedError
from notebook_rt.sync.horizon import Read
from notebook_rt.sync.spec import TableSpec

_PROBE: Final = "notebook_rt probes the type"
_TYPE_IN_ERROR: Final = re.compile(r"for (?:type|enum) ([^:]+?):|malformed (array) literal")


def learn(spec: TableSpec, done: Callable[[Schema, Schema], None]) -> Flow:
    """Ask for the schema and call ``done(kept, known)``: the projection, and all columns.

    Raises
    ------
    TableError
        Out of the flow, where the table cannot be mirrored.
    """
    columns, key = yield from _described(spec)
    if not columns:
        columns, key = yield from _probed(spec)
    known = _known(spec, columns, key)
    done(_kept(spec, known), known)


def _described(spec: TableSpec) -> Generator[Ask, Sequence[Read], _Found]:
    try:
        (read,) = yield [Query((), describe=True)]
    except ReadRefusedError as refusal:
        if isinstance(refusal.error, AuthError) or _is_refusal(refusal.error):
            return (), ()  # many projects show the description to nobody
        raise refusal.error from None
    return from_description(read.page.value, spec.table)


_Found = tuple[tuple[Column, ...], tuple[str, ...]]
_OPENAPI_INTEGERS: Final = {"int32": "int4", "int64": "int8"}
"""OpenAPI's own words, which newer PostgRESTs use; a smallint is said to be ``int32`` too."""


def from_description(description: Any, table: str) -> _Found:
    """The columns and the key of ``table`` from an OpenAPI description; empty if not in it."""
    definitions = description.get("definitions") if isinstance(description, Mapping) else None
    found = definitions.get(table) if isinstance(definitions, Mapping) else None
    found = found if isinstance(found, Mapping) else {}
    properties, required = found.get("properties"), found.get("required") or ()
    if not isinstance(properties, Mapping):
        return (), ()
    columns, key = [], []
    for name, one in properties.items():
        pg_type = str(one.get("format") or one.get("type") or "text")
        if one.get("type") == "integer":
            pg_type = _OPENAPI_INTEGERS.get(pg_type, pg_type)
        choices = tuple(map(str, one.get("enum") or ()))
        filled = one.get("default") is not None
        columns.append(Column(name, type_name(pg_type), name not in required, choices, filled))
        if "<pk/>" in str(one.get("description", "")):
            key.append(name)
    return tuple(columns), tuple(key)


def type_name(text: str) -> str:
    """A type's name in the socket's form; an enum loses its schema.

    >>> type_name("character varying"), type_name("public.mood"), type_name("public.mood[]")
    ('varchar', 'mood', '_mood')
    """
    head, dot, tail = text.rpartition(".")
    return canonical(tail.strip('"') if dot and "(" not in head else text)


def _probed(spec: TableSpec) -> Generator[Ask, Sequence[Read], _Found]:
    wanted = spec.columns or ()
    select = ",".join(map(column_name, wanted)) if wanted else "*"
    try:
        (read,) = yield [Query((("select", select), ("limit", "1")))]
    except ReadRefusedError as refusal:
        raise named(refusal.error, spec) from None
    names = tuple(read.page.rows[0]) if read.page.rows else ()
    extra = (*wanted, *(spec.key or ()), *(term.column for term in spec.order))
    names = tuple(dict.fromkeys((*names, *extra, *spec.filter.columns)))
    if not names:
        names = ("id",)
    columns = []
    for name in names:
        pg_type = yield from _type_of(name)
        if pg_type is not None:
            columns.append(Column(name, pg_type))
    return tuple(columns), ("id",) if "id" in names and spec.key is None else ()


def _type_of(name: str) -> Generator[Ask, Sequence[Read], str | None]:
    params = (("select", column_name(name)), Condition(name, "eq", (_PROBE,)).to_rest())
    try:
        yield [Query((*params, ("limit", "1")))]
    except ReadRefusedError as refusal:
        code = getattr(refusal.error, "code", "")
        if code == "42703":
            return None
        reason = str(getattr(refusal.error, "reason", refusal.error))
        if code == "42883" or "operator does not exist" in reason:
            return "json"
        found = _TYPE_IN_ERROR.search(reason)
        if found:
            return "_text" if found[2] else type_name(found[1].strip('"'))
    return "text"


def _known(spec: TableSpec, columns: Sequence[Column], key: Sequence[str]) -> Schema:
    names = [column.name for column in columns]
    chosen = spec.key or tuple(key)
    asked = (*(spec.columns or ()), *spec.filter.columns, *(term.column for term in spec.order))
    for name in (*chosen, *asked):
        if name not in names:
            raise MissingColumnError(spec.schema, spec.table, name, names)
    if not chosen:
        raise NoPrimaryKeyError(spec.schema, spec.table)
    return Schema(tuple(columns), chosen, spec.numeric)


def _kept(spec: TableSpec, known: Schema) -> Schema:
    if spec.columns is None:
        return known
    carried = [term.column for term in spec.order]
    if spec.watermark in known.types:
        carried.append(str(spec.watermark))
    return known.project((*known.key, *spec.columns, *carried))


def named(error: Exception, spec: TableSpec) -> Exception:
    """The server's refusal of a read as the error of this table that it is."""
    code = getattr(error, "code", "")
    if code in ("42P01", "PGRST205"):
        return MissingTableError(spec.schema, spec.table, str(getattr(error, "hint", "")))
    if code == "42501":
        return PermissionDeniedError(spec.schema, spec.table)
    return error


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, (RefusedError, PermissionDeniedError, ServerError, MissingTableError))
