"""Read the body of a write or a call: its columns or arguments. Its values stay text, which PostgreSQL reads
as their types."""

from __future__ import annotations

import json

import msgspec
from aiohttp import web

from notebook_rt.local.rest.catalog import Function
from notebook_rt.local.rest.errors import RestError, not_supported
from notebook_rt.local.rest.query import Query


async def read_body(
    request: web.Request, columns: tuple[str, ...] | None
) -> tuple[str, bool, tuple[str, ...]]:
    """Return the body of a write, whether it is an array, and its columns."""
    if request.content_type in ("text/csv", "application/x-www-form-urlencoded"):
        raise not_supported(f"a body of type {request.content_type}")
    if request.content_type not in ("application/json", "application/octet-stream"):
        raise RestError(400, "PGRST102", f"Content-Type not acceptable: {request.content_type}")
    body = await read_text(request)
    many = body.lstrip()[:1] == "["
    if columns is not None:
        return body, many, tuple(dict.fromkeys(columns))
    rows = _rows(body)
    keys = tuple(rows[0]) if rows else ()
    if any(row.keys() != rows[0].keys() for row in rows):
        raise RestError(400, "PGRST102", "All object keys must match")
    return body, many, keys


async def read_text(request: web.Request) -> str:
    try:
        return (await request.read()).decode()
    except (UnicodeDecodeError, web.RequestPayloadError) as error:
        raise RestError(400, "PGRST102", "Empty or invalid json") from error


def _rows(body: str) -> list[dict[str, msgspec.Raw]]:
    try:
        if body.lstrip()[:1] == "[":
            return msgspec.json.decode(body, type=list[dict[str, msgspec.Raw]])
        return [msgspec.json.decode(body, type=dict[str, msgspec.Raw])]
    except (msgspec.MsgspecError, RecursionError) as error:
        raise RestError(400, "PGRST102", "Empty or invalid json") from error


def argument_names(body: str) -> tuple[str, ...]:
    """Return the names in a call's body; empty if it is not an object, but an unnamed parameter."""
    if body.lstrip()[:1] == "{":
        return tuple(_rows(body)[0])
    return ()


def arguments(query: Query, function: Function) -> str:
    """Return a GET's arguments as the body of a POST; a variadic parameter takes all its values."""
    given: dict[str, str | list[str]] = dict(query.arguments)
    if function.variadic in given:
        every = [value for key, value in query.arguments if key == function.variadic]
        given[function.variadic] = every
    return json.dumps(given)
