"""REST, as the mirror and the queue need it: a ``Query`` in, a ``Page`` or a named error out.

One ``httpx`` client a session, HTTP/1.1 with connections kept alive. A refused token is refreshed
once and the request repeated. What the server says in an error's body becomes one of ``errors.py``
by its code and status.
"""

from __future__ import annotations

import asyncio
import email.utils
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx

from notebook_rt.errors import (
    AuthError,
    ClosedError,
    FilterError,
    MissingColumnError,
    MissingTableError,
    NotebookRTError,
    PermissionDeniedError,
    RateLimitedError,
    RefusedError,
    ServerError,
    StatementTimeoutError,
    TokenExpiredError,
    UnreachableError,
    classify,
    fresh,
    retry_after,
)
from notebook_rt.model.decode import decode_json
from notebook_rt.model.filters import column_name
from notebook_rt.net.address import is_secret, proxies
from notebook_rt.net.answers import ENCODINGS, BoundedStream, bounded, not_rows, row_range
from notebook_rt.net.credentials import Credentials
from notebook_rt.options import Options
from notebook_rt.sync.clock import ServerClock
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.discovery import DESCRIBE
from notebook_rt.sync.usage import Purpose, Usage

_NO_TABLE = {"PGRST205", "PGRST106", "42P01", "PGRST202", "42883"}
_BAD_FILTER = {"PGRST100", "PGRST103", "PGRST108", "22P02", "22007", "22008", "22003", "42804"}
_TRANSPORT_ERRORS = (
    httpx.TransportError,
    httpx.DecodingError,
    OSError,
)  # TimeoutError is an OSError
_PLANNED = {"PGRST204", "PGRST115", "42501", "42703", "42601"}
"""What is answered to a PUT whose filters are the primary key, and whose body has no key."""
_NO_COLUMN = ""
"""A column that no table can have: PostgreSQL knows no empty name."""
SLOW_ANSWER_FACTOR = 4
"""How many times ``request_timeout`` a request may take whose answer has begun to come."""


class RestClient:
    """The REST side of one project.

    Parameters
    ----------
    url : str
        The project's, without ``/rest/v1``.
    refresh : async callable, optional
        Given the access token that the server refused, gets a new one; True: there is one, try again.
    usage : Usage, optional
        Told of the bytes of each request.
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
        self.refresh = refresh
        self.usage = Usage(options.plan) if usage is None else usage
        self.requests = 0
        self.bytes_received = 0
        self._reads = asyncio.Semaphore(options.reads_at_once)
        self.server_clock = ServerClock()
        self.clock = self.server_clock.reader(time.monotonic, time.time)
        """Seconds since the epoch, in server time as far as its ``Date`` headers tell."""
        self._descriptions: dict[str, asyncio.Task[Page | NotebookRTError]] = {}
        self._closed: set[str] = set()
        """Schemas whose description this key may not read."""
        self._timeout = options.request_timeout
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(options.request_timeout, connect=options.connect_timeout),
            limits=httpx.Limits(max_connections=20, max_keepalive_connections=10),
            follow_redirects=False,
            headers=ENCODINGS,
            event_hooks=bounded(options.max_answer_bytes),
            mounts=proxies(url),
        )

    async def aclose(self) -> None:
        for reading in self._descriptions.values():
            reading.cancel()
        await self._http.aclose()

    async def fetch(
        self,
        schema: str,
        table: str,
        query: Query,
        *,
        exact_numbers: bool = False,
        purpose: Purpose = "read",
    ) -> Page:
        """Read a page of ``table``, or call the function ``query.rpc``.

        ``purpose`` is what its bytes are counted as.

        Raises
        ------
        NotebookRTError
            By name; ``errors.classify`` says whether trying again can help.
        """
        if query.describe:
            return await self.describe(schema, query.describe)
        if query.proves:
            proven = await self.proves_key(schema, table, query.proves)
            return Page((), None, 0.0, value=proven)
        headers = {"Prefer": f"count={query.count}"} if query.count else {}
        if query.rpc is None:
            method = "HEAD" if query.head else "GET"
            path, body = f"/rest/v1/{_segment(table)}", None
        else:
            method, path, body = "POST", f"/rest/v1/rpc/{_segment(query.rpc)}", query.args or {}
        async with self._reads:
            response = await self.request(
                method,
                path,
                schema=schema,
                table=table,
                params=query.params,
                headers=headers,
                body=body,
                purpose=purpose,
            )
        said = row_range(response)
        count = None if said is None else said[1]
        answer: Any = []
        if query.head:
            if count is None:
                raise self._stranger(f'it does not count the rows of table "{table}"')
        else:
            answer = self.decode(response, exact_numbers)
            if query.rpc is None:
                problem = not_rows(response, answer, counted=query.count is not None)
                if problem is not None:
                    raise self._stranger(f'table "{table}": {problem}')
            elif said is None:
                raise self._stranger(f'it does not answer for the function "{query.rpc}"')
        rows: Sequence[Any] = answer if isinstance(answer, list) else ()
        return Page(
            rows=rows,
            count=count,
            server_time=_date(response.headers.get("date")),
            value=None if isinstance(answer, list) else answer,
            scalar=not isinstance(answer, list),
        )

    def _stranger(self, reason: str) -> UnreachableError:
        """The error of a success (2xx) that did not come from the REST interface (promise 13)."""
        return UnreachableError(self.url, f"{reason}; is a proxy or a login page between?")

    async def describe(self, schema: str, tables: Sequence[str] | None) -> Page:
        """What the server says of ``tables`` (None: of all).

        By the optional SQL, else by the API's description; ``value`` is None where a project has no such
        SQL and shows its description to secret keys only, as a hosted one does.
        """
        asked = {"source_schema": schema, "sources": None if tables is None else list(tables)}
        query = Query((), rpc=DESCRIBE, args=asked)
        if not is_secret(self.credentials.key, self.credentials.key_role):
            self._reading(schema)  # a word of refusal, as a rule, which costs no round trip beside
        try:
            page = await self.fetch("public", DESCRIBE, query)
        except NotebookRTError as error:
            if classify(error).kind != "refused":
                raise
        else:
            if isinstance(page.value, dict) and "tables" in page.value:
                return page
        return await self._describe(schema)

    async def proves_key(self, schema: str, table: str, columns: Sequence[str]) -> bool | None:
        """Whether ``columns`` are the primary key of ``table``; None: the server does not say.

        PostgREST plans a PUT only if its filters are exactly the primary key (else PGRST105), before
        it looks at a right or sends a statement. This one could write nothing if it were carried out:
        its body has a column that no table can have, so that its plan fails too (PGRST204), and lacks
        the key, so that no row of it is the one that the URL names.
        """
        response = await self._exchange(
            "PUT",
            f"/rest/v1/{_segment(table)}",
            schema=schema,
            params=[(column_name(name), "eq.") for name in columns],
            headers={"Prefer": "return=minimal, tx=rollback"},
            body={_NO_COLUMN: None},
        )
        code = _words(response).get("code", "")
        if code in _PLANNED:
            return True
        if code == "PGRST105":
            return False
        if response.status_code in (401, 408, 429) or response.status_code >= 500:
            raise self.error(response, schema, table)
        return None  # a gateway that lets no PUT through, in whatever words

    async def _describe(self, schema: str) -> Page:
        """The API's OpenAPI description. Read once for all tables that ask in the same moment."""
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
        """The description as it is being read; None where it is known to be closed."""
        if schema in self._closed:
            return None
        reading = self._descriptions.get(schema)
        if reading is None:
            reading = asyncio.ensure_future(self._read_description(schema))
            self._descriptions[schema] = reading
            reading.add_done_callback(lambda done: self._descriptions.pop(schema, None))
        return reading

    async def _read_description(self, schema: str) -> Page | NotebookRTError:
        """An error is given back, not raised: perhaps nobody waits for it any more."""
        headers = {"Accept": "application/openapi+json, application/json"}
        try:
            # A key that may not read it is no token that has expired: nothing is refreshed for it.
            response = await self.request(
                "GET", "/rest/v1/", schema=schema, headers=headers, renew=False
            )
            value = self.decode(response)
            if not isinstance(value, dict) or not isinstance(value.get("definitions"), dict):
                raise self._stranger("it does not describe its tables")
        except NotebookRTError as error:
            if classify(error).kind not in ("refused", "auth"):
                return error
            if not isinstance(error, TokenExpiredError):
                self._closed.add(schema)
            return _UNDESCRIBED
        date = _date(response.headers.get("date"))
        return Page(rows=(), count=None, server_time=date, value=value)

    async def request(
        self,
        method: str,
        path: str,
        *,
        schema: str = "public",
        table: str = "",
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        renew: bool = True,
        purpose: Purpose = "read",
    ) -> httpx.Response:
        """Send one request; an answer of 400 and above becomes its named error."""
        response = await self._exchange(
            method,
            path,
            schema=schema,
            params=params,
            headers=headers,
            body=body,
            renew=renew,
            purpose=purpose,
        )
        if response.status_code >= 300:
            raise self.error(response, schema, table, right=_RIGHTS.get(method, "select"))
        return response

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        schema: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str] | None,
        body: Any,
        renew: bool = True,
        purpose: Purpose = "read",
    ) -> httpx.Response:
        """Send one request; ``renew``: after a 401 with a new token once more, if there is one."""
        reading = method in ("GET", "HEAD")
        sent = {("Accept-Profile" if reading else "Content-Profile"): schema, **(headers or {})}
        token = self.credentials.access_token
        response = await self._send(method, path, params, sent, body, purpose)
        refresh = self.refresh if renew and response.status_code == 401 else None
        if refresh is not None and await refresh(token):
            response = await self._send(method, path, params, sent, body, purpose)
        return response

    def decode(self, response: httpx.Response, exact_numbers: bool = False) -> Any:
        """The body as JSON. A page of HTML with status 200 is somebody else's server, and so is
        nothing at all, but for the 204 of a function that returns nothing.
        """
        if response.status_code == 204:
            return None
        try:
            return decode_json(response.content, exact_numbers)
        except ValueError as error:
            raise self._stranger("what answers there does not speak JSON") from error

    async def _send(
        self,
        method: str,
        path: str,
        params: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: Any,
        purpose: Purpose,
    ) -> httpx.Response:
        if self._http.is_closed:
            raise ClosedError("this session")
        self.requests += 1
        sent = time.monotonic()
        try:
            # httpx' own limit is for each chunk; a server that drips would hold a request for ever.
            async with asyncio.timeout(SLOW_ANSWER_FACTOR * self._timeout):
                response = await self._http.request(
                    method,
                    path,
                    params=httpx.QueryParams(list(params)) if params else None,
                    headers={**self.credentials.headers(), **headers},
                    json=body,
                )
        except _TRANSPORT_ERRORS as error:
            raise UnreachableError(self.url, _reason(error)) from error
        except httpx.InvalidURL as error:
            raise UnreachableError(self.url, str(error)) from error
        if isinstance(response.stream, BoundedStream):
            self.bytes_received += response.stream.received
            size = len(response.request.content)
            self.usage.requested(purpose, response.stream.received, size, time.monotonic())
        if "date" in response.headers:
            self.server_clock.observe(_date(response.headers["date"]), sent, time.monotonic())
        return response

    def error(
        self, response: httpx.Response, schema: str, table: str, right: str = "select"
    ) -> NotebookRTError:
        """The named error of an answer that is not a success (2xx)."""
        status = response.status_code
        what = f"{response.request.method} {response.request.url.path}"
        words = _words(response)
        code, message = words.get("code", ""), words.get("message", "")
        if status == 429:
            return RateLimitedError(what, _retry(response), message)
        if code == "42501" and table:
            return PermissionDeniedError(schema, table, self.credentials.role, right, message)
        if status == 401:
            if code == "PGRST303" or message == "JWT expired":  # the code is newer than the words
                return TokenExpiredError(self.url, message)
            return AuthError("key or token", self.url, message)
        if code == "57014":
            return StatementTimeoutError(what, status, message)
        if status in (408, 500, 502, 503, 504) or status > 504:
            return ServerError(what, status, message, _retry(response))
        # 42883 stands for an operator, too: a type without equality, which is no table that is missing.
        absent = code in _NO_TABLE and not message.startswith("operator")
        if absent and table:
            return MissingTableError(schema, table, words.get("hint", ""))
        if code in ("42703", "PGRST204") and table:
            return MissingColumnError(schema, table, _quoted(message))
        if code in _BAD_FILTER and response.request.method in ("GET", "HEAD"):
            return FilterError(f'table "{table}": {message} {words.get("details", "")}'.strip())
        if status < 400 or (status == 404 and not code):
            reason = f"it answers {status} to {response.request.url.path}"
            return UnreachableError(self.url, f"{reason}: this is no Supabase project")
        return RefusedError(
            what, status, code, message, words.get("details", ""), words.get("hint", "")
        )


_UNDESCRIBED = Page((), None, 0.0)
_RIGHTS = {"POST": "insert", "PATCH": "update", "DELETE": "delete"}


def _segment(name: str) -> str:
    """A name as one path segment: a hostile one stays one segment."""
    return urllib.parse.quote(name, safe="")


def _reason(error: Exception) -> str:
    """What to say of a transport error, some of which say nothing themselves."""
    if isinstance(error, httpx.ConnectTimeout):
        return "no answer when connecting"
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


def _words(response: httpx.Response) -> dict[str, str]:
    """PostgREST's error body; a gateway's ``{"message"}`` or ``{"error"}``; else empty."""
    try:
        body = decode_json(response.content)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    words = {name: str(value) for name, value in body.items() if value is not None}
    if "message" not in words:
        words["message"] = words.get("msg") or words.get("error") or ""
    return words


def _quoted(message: str) -> str:
    """The column an error is about: its last word in quotes, or ``column t.x does not exist``."""
    for quote in ("'", '"'):
        if message.count(quote) >= 2:
            return message.split(quote)[1]
    words = message.split()
    return words[1].rpartition(".")[2] if len(words) > 1 else message


def _retry(response: httpx.Response) -> float | None:
    headers = response.headers
    return retry_after(headers.get("retry-after"), _date(headers.get("date")))


def _date(header: str | None) -> float:
    """The ``Date`` header in seconds since the epoch; this machine's clock where there is none."""
    try:
        return email.utils.parsedate_to_datetime(header or "").timestamp()
    except ValueError:
        return float(int(time.time()))
