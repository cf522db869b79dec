"""`/rest/v1`: tables, functions and their description over HTTP.

In: aiohttp requests. Out: PostgREST's answers; the rows' JSON is passed from PostgreSQL's reply to the socket
unchanged. Unsupported features answer 501 with their name.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, quote

import psycopg
from aiohttp import web

from notebook_rt.local.context import Context, TokenError
from notebook_rt.local.rest import catalog, compose, openapi
from notebook_rt.local.rest.body import argument_names, arguments, read_body, read_text
from notebook_rt.local.rest.errors import (
    PostgresError,
    RestError,
    column_not_found,
    from_postgres,
    is_missing_table,
    not_supported,
    put_filters,
    table_not_found,
)
from notebook_rt.local.rest.parse import parse
from notebook_rt.local.rest.query import Query
from notebook_rt.local.rest.request import (
    JSON,
    Caller,
    Form,
    GatewayError,
    Page,
    Preferences,
    caller,
    form_of,
    page_of,
    preferences_of,
    require_secret_key,
    schema_of,
)
from notebook_rt.local.rest.transact import Check, Row, run, settings

Handler = Callable[[web.Request], Awaitable[web.Response]]
Connection = psycopg.AsyncConnection[Any]

# The catalog is read with nothing on the path, so that types are spelled with their schema.
_BARE = settings({"search_path": ""})


def add_routes(app: web.Application, context: Context) -> None:
    """Add the routes of `/rest/v1` to an application."""
    rest = _Rest(context)
    app.router.add_get("/rest/v1/", _answering(rest.root))
    app.router.add_route("*", "/rest/v1/rpc/{function:[^/]+}", _answering(rest.function))
    app.router.add_route("*", "/rest/v1/{table:[^/]+}", _answering(rest.table))


def _answering(handler: Handler) -> Handler:
    """Convert refusals to answers."""

    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except GatewayError as refused:
            return _refusal(401, refused.body, {})
        except psycopg.OperationalError:  # PostgreSQL is down, or starting again
            message = "Database connection error. Retrying the connection."
            error = RestError(503, "PGRST000", message)
        except RestError as refused:
            error = refused
        headers = {"Proxy-Status": f"PostgREST; error={error.code}"}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _refusal(error.status, error.body, headers)

    return answer


def _refusal(status: int, body: dict[str, Any], headers: dict[str, str]) -> web.Response:
    text = json.dumps(body).encode()
    return web.Response(status=status, body=text, headers={"Content-Type": JSON, **headers})


@dataclass(frozen=True, slots=True)
class _Asked:
    """A parsed request."""

    caller: Caller
    schema: str
    form: Form
    preferences: Preferences
    query: Query
    page: Page
    head: bool
    headers: dict[str, str]

    @property
    def body(self) -> compose.Body:
        return compose.without_body if self.head else self.form.body


class _Rest:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.exposed = context.options.schemas
        self.row_limit = context.options.row_limit
        options = context.options
        self.timeouts = {
            "anon": _milliseconds(options.anon_timeout),
            "authenticated": _milliseconds(options.authenticated_timeout),
            "service_role": _milliseconds(options.authenticated_timeout),
        }
        """Statement timeouts by role."""

    def read(self, request: web.Request, *, call: bool = False) -> _Asked:
        who = caller(request, self.context)
        schema, by_profile = schema_of(request, self.exposed)
        form = form_of(request)
        pairs = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        query = parse([pair for pair in pairs if not self.is_key(*pair)], call=call)
        page = page_of(request, query.limit, query.offset, self.row_limit)
        preferences = preferences_of(request)
        headers = {"Content-Type": form.content_type}
        if by_profile:
            headers["Content-Profile"] = schema
        if preferences.applied:
            headers["Preference-Applied"] = preferences.applied
        head = request.method == "HEAD"
        return _Asked(who, schema, form, preferences, query, page, head, headers)

    def is_key(self, name: str, value: str) -> bool:
        """Return whether a parameter is for the gateway: `apikey` with a key, not a filter on a column.

        The gateway of a project drops every parameter of that name; without its filter, a DELETE would
        affect other rows, so here filters are kept.
        """
        if name != "apikey":
            return False
        try:
            self.context.verify(value)
        except TokenError as error:
            return error.kind == "expired"
        return True

    def settings(self, request: web.Request, asked: _Asked, read_only: bool) -> compose.Statement:
        """Return the caller's settings in the database, for one transaction."""
        values = {
            "search_path": f"{compose.identifier(asked.schema)}, public, extensions",
            "role": asked.caller.role,
            "request.jwt.claims": asked.caller.claims,
            "request.method": request.method,
            "request.path": request.path.removeprefix("/rest/v1"),
            "request.headers": json.dumps({k.lower(): v for k, v in request.headers.items()}),
        }
        if read_only:
            values["transaction_read_only"] = "on"
        # `set role` does not apply a role's settings; PostgREST applies them itself.
        if timeout := self.timeouts.get(asked.caller.role):
            values["statement_timeout"] = timeout
        return settings(values)

    async def execute(
        self,
        request: web.Request,
        connection: Connection,
        asked: _Asked,
        statements: list[compose.Statement],
        *,
        read_only: bool,
        table: str | None = None,
        check: Check | None = None,
    ) -> list[Row | None]:
        place = self.settings(request, asked, read_only)
        rollback = asked.preferences.values.get("tx") == "rollback"
        try:
            rows = await run(connection, [place, *statements], check=check, rollback=rollback)
        except PostgresError as error:
            if is_missing_table(error, asked.schema, table):
                raise await self.missing(connection, asked.schema, table or "") from error
            raise from_postgres(error, asked.caller.role) from error
        return rows[1:]

    async def missing(self, connection: Connection, schema: str, table: str) -> RestError:
        """Return the error for a missing table, with the most similar name, as PostgREST does."""
        others = json.loads(
            await self.look_up(connection, catalog.OTHER_TABLES, schema, table) or "[]"
        )
        return table_not_found(schema, table, get_close_matches(table, others, 1))

    async def look_up(
        self, connection: Connection, sql: str, schema: str, name: str
    ) -> bytes | None:
        rows = await run(connection, [_BARE, compose.Statement(sql, (schema, name))])
        row = rows[1]
        return None if row is None else next(iter(row.values()))

    # -- tables -----------------------------------------------------------------------------

    async def table(self, request: web.Request) -> web.Response:
        asked = self.read(request)
        name = request.match_info["table"]
        match request.method:
            case "GET" | "HEAD":
                return await self.get(request, asked, name)
            case "POST" | "PATCH" | "DELETE" | "PUT":
                return await self.write(request, asked, name)
        raise RestError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")

    async def get(self, request: web.Request, asked: _Asked, name: str) -> web.Response:
        async with self.context.callers.connection() as connection:
            types = None
            if compose.needs_types(asked.query):
                types = (await self.table_of(connection, asked, name)).types
            counting = asked.preferences.values.get("count")
            statements = []
            if counting in ("planned", "estimated"):
                statements.append(compose.explain_count(asked.schema, name, types, asked.query))
            upto = None
            if counting == "estimated" and self.row_limit is not None:
                upto = self.row_limit + 1
            statements.append(
                compose.read(
                    asked.schema,
                    name,
                    types,
                    asked.query,
                    limit=asked.page.limit,
                    offset=asked.page.offset,
                    body=asked.body,
                    count=counting in ("exact", "estimated"),
                    count_upto=upto,
                )
            )
            rows = await self.execute(
                request, connection, asked, statements, read_only=True, table=name
            )
        row = rows[-1]
        assert row is not None
        total = _number(row["total"])
        if len(rows) == 2 and (plan := rows[0]) is not None:
            guess = _planned(next(iter(plan.values())) or b"")
            if total is None or (upto is not None and total >= upto):
                total = max(guess, total or 0)
        return _page(asked, row, total)

    async def table_of(self, connection: Connection, asked: _Asked, name: str) -> catalog.Table:
        text = await self.look_up(connection, catalog.TABLE, asked.schema, name)
        if text is None:
            raise await self.missing(connection, asked.schema, name)
        return catalog.Table.read(name, text)

    async def write(self, request: web.Request, asked: _Asked, name: str) -> web.Response:
        wanted = asked.preferences.values.get("return", "minimal")
        method = request.method
        if method == "PUT":
            _guard_put(asked)
        elif method != "POST":
            _guard(method, asked)
        columns = None if method == "PUT" else asked.query.columns
        body, many, keys = (
            ("", False, ()) if method == "DELETE" else await read_body(request, columns)
        )
        write = compose.Write(
            columns=keys,
            body=body,
            many=many,
            defaults=asked.preferences.values.get("missing") == "default",
            resolution=asked.preferences.values.get("resolution"),
            representation=wanted == "representation",
            locate=wanted == "headers-only" and method == "POST",
        )
        form = asked.form.body if write.representation else compose.without_body
        async with self.context.callers.connection() as connection:
            table = await self.table_of(connection, asked, name)
            if method == "PUT" and not compose.is_key(asked.query.where, table):
                raise put_filters()
            for column in (*keys, *asked.query.on_conflict):
                if column not in table.types:
                    raise column_not_found(name, column)
            composer = {
                "POST": compose.insert,
                "PUT": compose.put,
                "PATCH": compose.update,
                "DELETE": compose.delete,
            }
            statement = composer[method](asked.schema, table, asked.query, write, form)
            rows = await self.execute(
                request,
                connection,
                asked,
                [statement],
                read_only=False,
                table=name,
                check=_put_one if method == "PUT" else _check_of(asked, write.representation),
            )
        row = rows[0]
        assert row is not None
        return _written(asked, method, table, write, row)

    # -- functions --------------------------------------------------------------------------

    async def function(self, request: web.Request) -> web.Response:
        asked = self.read(request, call=True)
        name = request.match_info["function"]
        if request.method not in ("GET", "HEAD", "POST"):
            raise RestError(405, "PGRST101", f"Cannot use the {request.method} method on RPC")
        if asked.preferences.max_affected is not None:
            raise not_supported("Prefer: max-affected on a function")
        reading = request.method != "POST"
        raw = None if reading else request.content_type
        if raw == "application/octet-stream" and not request.can_read_body:
            raw = "application/json"  # aiohttp's value for "no type given"
        argument = "" if reading else await read_text(request)
        if reading:
            names = tuple(dict.fromkeys(key for key, _ in asked.query.arguments))
        else:
            names = argument_names(argument) if raw == "application/json" else ()
        async with self.context.callers.connection() as connection:
            text = await self.look_up(connection, catalog.FUNCTIONS, asked.schema, name)
            candidates = catalog.Function.read_all(name, text or b"[]")
            function = catalog.choose(asked.schema, name, candidates, names, raw)
            if function.unnamed is not None:
                names = ()
            elif reading:
                argument = arguments(asked.query, function)
            statement = compose.call(
                asked.schema,
                function,
                asked.query,
                names,
                argument or "{}",
                limit=asked.page.limit,
                offset=asked.page.offset,
                body=_body_of(asked, function),
                count=asked.preferences.values.get("count") is not None,
            )
            single = asked.form.single and not function.void
            rows = await self.execute(
                request,
                connection,
                asked,
                [statement],
                read_only=reading or not function.volatile,
                check=_one_row if single else None,
            )
        row = rows[0]
        assert row is not None
        if function.void:
            return web.Response(status=204, headers={"Content-Range": "*/*"})
        return _page(asked, row, _number(row["total"]))

    # -- the description --------------------------------------------------------------------

    async def root(self, request: web.Request) -> web.Response:
        who = caller(request, self.context)
        if self.context.options.description == "closed":
            require_secret_key(request, self.context)
        schema, _ = schema_of(request, self.exposed)
        values = (schema, who.role)
        statements = [compose.Statement(sql, values) for sql in (openapi.TABLES, openapi.FUNCTIONS)]
        async with self.context.callers.connection() as connection:
            try:
                rows = await run(connection, [_BARE, *statements])
            except PostgresError as error:
                raise from_postgres(error, who.role) from error
        tables, functions = (row["found"] if row and row["found"] else b"[]" for row in rows[1:])
        return web.Response(
            body=openapi.document(tables, functions, request.host),
            headers={"Content-Type": "application/openapi+json; charset=utf-8"},
        )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}ms"


def _number(text: bytes | None) -> int | None:
    return None if text is None else int(text)


def _planned(text: bytes) -> int:
    plan: list[dict[str, dict[str, int]]] = json.loads(text)
    return plan[0]["Plan"]["Plan Rows"]


def _one_row(row: Row) -> None:
    """Check that there is exactly one row, because an object was requested."""
    found = _number(row["page"])
    if found != 1:
        raise RestError(
            406,
            "PGRST116",
            "Cannot coerce the result to a single JSON object",
            f"The result contains {found} rows",
        )


def _put_one(row: Row) -> None:
    """Refuse a body whose key differs from the URL, and roll back the effects of triggers."""
    if _number(row["page"]) != 1:
        message = "Payload values do not match URL in primary key column(s)"
        raise RestError(400, "PGRST115", message)


def _check_of(asked: _Asked, representation: bool) -> Check | None:
    """The conditions on a write's result for the write to be committed."""
    most = asked.preferences.max_affected
    single = asked.form.single and representation
    if most is None and not single:
        return None

    def judge(row: Row) -> None:
        affected = _number(row["page"]) or 0
        if most is not None and affected > most:
            raise RestError(
                400,
                "PGRST124",
                "Query result exceeds max-affected preference constraint",
                f"The query affects {affected} rows",
            )
        if single:
            _one_row(row)

    return judge


def _page(asked: _Asked, row: Row, total: int | None) -> web.Response:
    shown = _number(row["page"]) or 0
    if asked.form.single:
        _one_row(row)
    status = asked.page.status(shown, total)
    headers = {**asked.headers, "Content-Range": asked.page.content_range(shown, total)}
    return web.Response(status=status, body=row["body"], headers=headers)


def _written(
    asked: _Asked, method: str, table: catalog.Table, write: compose.Write, row: Row
) -> web.Response:
    affected = _number(row["page"]) or 0
    counted = str(affected) if "count" in asked.preferences.values else "*"
    span = f"0-{affected - 1}" if method == "PATCH" and affected else "*"
    headers = {**asked.headers, "Content-Range": f"{span}/{counted}"}
    if row["location"] is not None:
        values = json.loads(row["location"])
        pairs = zip(table.key, values, strict=True)
        headers["Location"] = f"/{quote(table.name)}?" + "&".join(
            f"{quote(name)}=" + ("is.null" if value is None else f"eq.{quote(value)}")
            for name, value in pairs
        )
    if not write.representation:
        del headers["Content-Type"]
    if method == "PUT" and write.representation:
        status = 201 if _number(row["inserted"]) else 200
    elif method == "POST":
        merged = write.resolution == "merge-duplicates" and not _number(row["inserted"])
        status = 200 if merged else 201
    else:
        status = 200 if write.representation else 204
    return web.Response(status=status, body=row["body"] or None, headers=headers)


def _guard_put(asked: _Asked) -> None:
    if asked.query.limit is not None or asked.query.offset:
        message = "limit/offset querystring parameters are not allowed for PUT"
        raise RestError(400, "PGRST114", message)


def _guard(method: str, asked: _Asked) -> None:
    """Refuse to write a whole table by mistake, like a project (pg-safeupdate)."""
    if asked.query.limit is not None or asked.query.offset:
        raise not_supported(f"limit and offset on {method}")
    if not asked.query.where:
        verb = "UPDATE" if method == "PATCH" else "DELETE"
        raise RestError(400, "21000", f"{verb} requires a WHERE clause")


def _body_of(asked: _Asked, function: catalog.Function) -> compose.Body:
    """Return a single result directly, and a set as an array."""
    if asked.head or function.returns_set or asked.form.body is not compose.as_array:
        return asked.body
    return compose.as_object
