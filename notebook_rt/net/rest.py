"""The REST client of mirrors: a ``Query`` in, a ``Page`` or a named error out.

An error's body becomes a class of ``errors.py`` by its code and status (``answers.py``).
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from msgspec.structs import replace

from notebook_rt.errors import (
    ClosedError,
    MissingTableError,
    NotebookRTError,
    TokenExpiredError,
    UnreachableError,
)
from notebook_rt.model.classify import by_status, classify
from notebook_rt.model.filters import column_name
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.address import is_secret
from notebook_rt.net.answers import BETWEEN, not_rows, table_error
from notebook_rt.net.credentials import Credentials
from notebook_rt.net.http import HttpClient, NoAnswerError
from notebook_rt.options import Options
from notebook_rt.sync.events import OPTIONAL_SQL_SCHEMA, Page, Query
from notebook_rt.sync.table.discovery import DESCRIBE
from notebook_rt.sync.usage import Purpose, Usage
from notebook_rt.tracebacks import fresh

_PLANNED = {"PGRST204", "PGRST115", "42501", "42703", "42601"}
"""The answer to a PUT whose filters are the primary key, and whose body has no key."""
_NO_COLUMN = ""
"""A column that no table can have: PostgreSQL has no empty names."""
SLOW_ANSWER_FACTOR = 4
"""The factor of ``request_timeout`` that a request may take once its answer has begun to arrive."""


class RestClient:
    """The REST side of one project.

    Parameters
    ----------
    url : str
        The project's URL, without ``/rest/v1``.
    refresh, usage : optional
        As for `HttpClient`.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        options: Options,
        refresh: Callable[[str | None], Awaitable[bool]] | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.url = url
        self.credentials = credentials
        self.http = HttpClient(
            url,
            credentials,
            refresh,
            seconds=SLOW_ANSWER_FACTOR * options.request_timeout,
            chunk_seconds=options.request_timeout,
            connect_seconds=options.connect_timeout,
            max_answer_bytes=options.max_answer_bytes,
            usage=usage,
        )
        self.server_clock = self.http.server_clock
        self._reads = asyncio.Semaphore(options.reads_at_once)
        self.clock = self.server_clock.reader(time.monotonic, time.time)
        """Return the server's time, estimated from its ``Date`` headers, in seconds since the epoch."""
        self._descriptions: dict[str, asyncio.Task[Page | NotebookRTError]] = {}
        self._closed: set[str] = set()
        """Schemas whose description this key may not read."""

    async def aclose(self) -> None:
        for reading in self._descriptions.values():
            reading.cancel()
        await self.http.aclose()

    async def fetch(
        self,
        schema: str,
        table: str,
        query: Query,
        *,
        exact_numbers: bool = False,
        purpose: Purpose = "read",
    ) -> Page:
        """Read a page of ``table`` (or of ``query.of``), or call the function ``query.rpc``.

        Its bytes are counted for ``purpose``.

        Raises
        ------
        NotebookRTError
            A specific subclass; ``model.classify`` decides whether a retry can help.
        """
        if query.of is not None:
            schema, table = query.of
        if query.describe:
            return await self.describe(schema, query.describe)
        if query.proves:
            proven = await self.proves_key(schema, table, query.proves)
            return Page((), None, 0.0, value=proven)
        prefer = f"count={query.count}" if query.count else ""
        if query.rpc is None:
            path = f"/rest/v1/{_segment(table)}"
            method: Literal["HEAD", "GET"] = "HEAD" if query.head else "GET"
            request = Request(method, path, query.params, None, prefer, schema)
        else:
            path = f"/rest/v1/rpc/{_segment(query.rpc)}"
            home = query.rpc_schema or schema
            request = Request("POST", path, query.params, query.args or {}, prefer, home)
        async with self._reads:
            answer = await self.request(
                request, table, exact_numbers=exact_numbers, purpose=purpose
            )
        if query.head:
            if answer.shown is None or answer.shown[1] is None:
                raise self._not_supabase(f'it does not count the rows of table "{table}"')
        elif query.rpc is None:
            problem = not_rows(answer, counted=query.count is not None)
            if problem is not None:
                raise self._not_supabase(f'table "{table}": {problem}')
        elif answer.shown is None or (answer.empty and answer.status != 204):
            raise self._not_supabase(f'it does not answer for the function "{query.rpc}"')
        scalar = not query.head and not isinstance(answer.body, list)
        return Page(
            rows=answer.body if isinstance(answer.body, list) else (),
            count=None if answer.shown is None else answer.shown[1],
            server_time=answer.date,
            value=answer.body if scalar else None,
            scalar=scalar,
        )

    def _not_supabase(self, reason: str) -> UnreachableError:
        """Return the error for a success (2xx) that is not from the REST interface (promise 13)."""
        return UnreachableError(self.url, f"{reason}; {BETWEEN}")

    async def describe(self, schema: str, tables: Sequence[str] | None) -> Page:
        """Read the server's description of ``tables`` (None: all tables).

        It comes from the optional SQL, otherwise from the API's description; ``value`` is None if a project
        has no such SQL and shows its description to secret keys only, as a hosted one does. ``refusal`` is
        why the SQL was not queried, if the API does not expose its schema.
        """
        asked = {"source_schema": schema, "sources": None if tables is None else list(tables)}
        query = Query((), rpc=DESCRIBE, args=asked)
        if not is_secret(self.credentials.key, self.credentials.key_role):
            self._reading(schema)  # usually a refusal, which costs no additional round trip
        hidden: NotebookRTError | None = None
        try:
            page = await self.fetch(OPTIONAL_SQL_SCHEMA, DESCRIBE, query)
        except NotebookRTError as error:
            if classify(error).kind != "refused":
                raise
            if isinstance(error, MissingTableError) and not error.exposed:
                hidden = error
        else:
            if isinstance(page.value, dict) and "tables" in page.value:
                return page
        found = await self._describe(schema)
        return found if hidden is None else replace(found, refusal=hidden)

    async def proves_key(self, schema: str, table: str, columns: Sequence[str]) -> bool | None:
        """Return whether ``columns`` are the primary key of ``table``; None: the server does not show it.

        PostgREST plans a PUT only if its filters are exactly the primary key (otherwise PGRST105), before
        it checks rights or sends a statement. This PUT could not write anything even if it were executed:
        its body has a column that no table can have, so that its plan fails too (PGRST204), and lacks the
        key, so that none of its rows is the one in the URL.
        """
        params = tuple((column_name(name), "eq.") for name in columns)
        prefer = "return=minimal, tx=rollback"
        body = {_NO_COLUMN: None}
        request = Request("PUT", f"/rest/v1/{_segment(table)}", params, body, prefer, schema)
        answer = await self._send(request)
        if answer.code in _PLANNED:
            return True
        if answer.code == "PGRST105":
            return False
        if by_status(answer.status).kind in ("auth", "rate_limit", "server"):
            raise table_error(request, answer, self.url, table, self.credentials.role)
        return None  # a gateway that does not forward PUT, with any message

    async def _describe(self, schema: str) -> Page:
        """Return the API's OpenAPI description, read once for all tables that request it together."""
        reading = self._reading(schema)
        if reading is None:
            return _UNDESCRIBED
        await asyncio.wait([reading])
        if reading.cancelled():
            raise ClosedError("this session")
        found = reading.result()
        if isinstance(found, NotebookRTError):
            raise fresh(found)
        return found

    def _reading(self, schema: str) -> asyncio.Task[Page | NotebookRTError] | None:
        """Return the task that reads the description; None if this key may not read it."""
        if schema in self._closed:
            return None
        reading = self._descriptions.get(schema)
        if reading is None:
            reading = asyncio.ensure_future(self._read_description(schema))
            self._descriptions[schema] = reading
            reading.add_done_callback(lambda done: self._descriptions.pop(schema, None))
        return reading

    async def _read_description(self, schema: str) -> Page | NotebookRTError:
        """Read the description; return an error instead of raising it, as the caller may be gone."""
        accept = "application/openapi+json, application/json"
        request = Request("GET", "/rest/v1/", schema=schema, accept=accept)
        try:
            # A key without access is not an expired token: no token is refreshed for it.
            answer = await self.request(request, renew=False)
            value = answer.body
            if not isinstance(value, dict) or not isinstance(value.get("definitions"), dict):
                raise self._not_supabase("it does not describe its tables")
        except NotebookRTError as error:
            # A self-hosted gateway may refuse it with a page, and forward the rest.
            page = isinstance(error, UnreachableError) and error.status in (401, 403)
            if classify(error).kind not in ("refused", "auth") and not page:
                return error
            if not isinstance(error, TokenExpiredError):
                self._closed.add(schema)
            return _UNDESCRIBED
        return Page(rows=(), count=None, server_time=answer.date, value=value)

    async def request(
        self,
        request: Request,
        table: str = "",
        *,
        exact_numbers: bool = False,
        renew: bool = True,
        purpose: Purpose = "read",
    ) -> Answer:
        """Send one request; an answer that is not a success becomes a named error.

        ``table`` is the table that it concerns, if any; the other parameters are those of `HttpClient.send`.
        """
        answer = await self._send(
            request, exact_numbers=exact_numbers, renew=renew, purpose=purpose
        )
        if answer.status >= 300:
            raise table_error(request, answer, self.url, table, self.credentials.role)
        if not (answer.json or answer.empty):  # a page of HTML with status 200
            raise self._not_supabase("what answers there does not speak JSON")
        return answer

    async def _send(self, request: Request, **how: Any) -> Answer:
        try:
            return await self.http.send(request, **how)
        except NoAnswerError as error:  # whether it was sent matters to the queue only
            raise UnreachableError(
                error.url, error.reason
            ) from None  # a cause would be printed unescaped


_UNDESCRIBED = Page((), None, 0.0)


def _segment(name: str) -> str:
    """Encode a name as one path segment, even a hostile one."""
    return urllib.parse.quote(name, safe="")
