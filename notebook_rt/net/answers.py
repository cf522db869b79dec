"""Read HTTP answers, and decide whether they come from the server (promise 13). Pure.

In: status, headers and bytes. Out: an ``Answer``, or a named error if it is not a success. A proxy, a login
page or a broken gateway may also answer 200: an answer without the form of a REST answer is an error, from
which no row is taken or considered deleted, and no write considered done or refused.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from notebook_rt.errors import (
    AuthError,
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
)
from notebook_rt.model.classify import by_status, http_date, retry_after
from notebook_rt.model.decode import decode_json
from notebook_rt.model.http import Answer, Request
from notebook_rt.quoting import printable

BETWEEN: Final = "is a proxy or a login page between?"
_RANGE: Final = re.compile(r"(?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
_NO_TABLE: Final = {"PGRST205", "PGRST106", "42P01", "PGRST202", "42883"}
_BAD_FILTER: Final = {
    *("PGRST100", "PGRST103", "PGRST108", "22P02", "22007", "22008", "22003", "42804")
}
_INSTEAD: Final = {401, 403, 407, 451, 511}
"""Statuses with which a proxy, a firewall or a login page answers instead of the project."""
_SERVER: Final = 60
"""Maximum number of characters quoted of a server's own name."""
_RIGHTS: Final = {"POST": "insert", "PATCH": "update", "DELETE": "delete"}


def read_answer(
    status: int, headers: Mapping[str, str], content: bytes, now: float, exact_numbers: bool = False
) -> Answer:
    """Return a received answer; ``now``, in seconds since the epoch, replaces a missing date."""
    body: Any = None
    json = False
    if content:
        try:
            body, json = decode_json(content, exact_numbers), True
        except ValueError:
            body = content.decode(errors="replace")
    date = answered_at(headers.get("date"), now)
    wait = retry_after(headers.get("retry-after"), date)
    shown = row_range(headers.get("content-range"))
    _, _, code = headers.get("proxy-status", "").partition("PostgREST; error=")
    html = "html" in headers.get("content-type", "").lower()
    server = printable(headers.get("server") or headers.get("via", ""))[:_SERVER]
    return Answer(status, body, wait, json, shown, date, code, html, server)


def answered_at(header: str | None, now: float) -> float:
    """Return a ``Date`` header in seconds since the epoch; ``now`` if it is missing or invalid."""
    date = http_date(header or "")
    return float(int(now)) if date is None else date


def row_range(header: str | None) -> tuple[int, int | None] | None:
    """Return the number of rows in an answer and in total (None: unknown), according to its header.

    None if there is no ``Content-Range``, which PostgREST sends with each answer.

    >>> row_range("5-14/1500"), row_range("*/*")
    ((10, 1500), (0, None))
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None:
        return None
    first, last, total = found.groups()
    shown = 0 if first is None else int(last) - int(first) + 1
    return shown, None if total == "*" else int(total)


def not_rows(answer: Answer, *, counted: bool = False) -> str | None:
    """Return why a success is not an answer to a read of a table's rows; None: it is one."""
    body, said = answer.body, answer.shown
    if not isinstance(body, list) or not set(map(type, body)) <= {dict}:
        return "its answer is no list of rows"
    if said is None:
        if body and not counted:
            return None
        return "its answer does not say how many rows it has (no Content-Range header)"
    if said[0] != len(body):
        return f"its answer was cut short: it says {said[0]} rows and has {len(body)}"
    if counted and said[1] is None:
        return "its answer does not count the rows, as it was asked to"
    return None


def no_supabase(what: str, answer: Answer) -> str | None:
    """Return why an error answer is not from a Supabase project; None: it may be."""
    status, by = answer.status, f" with {answer.error_fields['message']}" if answer.page else ""
    said = f"it answers {status} to {what}{by}"
    if by and status in _INSTEAD:
        return (
            f"{said}: a proxy, a firewall or a login page of your network stands between, and the project's "
            "grants and policies were not asked. Open the URL in a browser to see what it wants, or have "
            "the network let the project through"
        )
    if status < 400 or (status == 404 and not answer.code):
        return f"{said}: this is no Supabase project{f', or {BETWEEN}' if by else ''}"
    return None


def not_written(request: Request, answer: Answer) -> str | None:
    """Return why an answer to a request of the queue is not the server's; None: it is."""
    if not 200 <= answer.status < 300:
        return no_supabase(str(request), answer)
    if request.method == "GET" or "return=representation" in request.prefer:
        body = answer.body
        is_answer = isinstance(body, list) and all(isinstance(row, dict) for row in body)
    elif request.path.startswith("/rest/v1/rpc/"):
        is_answer = answer.shown is not None
    else:  # "return=minimal" and broadcasts
        is_answer = answer.body is None
    return None if is_answer else f"somebody else answers {answer.status} to {request}; {BETWEEN}"


def named_error(what: str, answer: Answer, url: str) -> NotebookRTError:
    """Return the error for an answer that is not a success, for any request."""
    words, status, why = answer.error_fields, answer.status, by_status(answer.status)
    if (not_supabase := no_supabase(what, answer)) is not None:
        return UnreachableError(url, not_supabase, status=status)
    code, message = answer.code, words.get("message", "")
    if why.kind == "rate_limit":
        return RateLimitedError(what, answer.retry_after, message)
    if why.kind == "auth":
        if code == "PGRST303" or message == "JWT expired":  # the code is newer than the message
            return TokenExpiredError(url, message)
        return AuthError("key or token", url, message)
    if code == "57014":
        return StatementTimeoutError(what, status, message)
    if why.kind == "server":
        return ServerError(what, status, message, answer.retry_after)
    return RefusedError(
        what, status, code, message, words.get("details", ""), words.get("hint", "")
    )


def table_error(
    request: Request, answer: Answer, url: str, table: str, role: str
) -> NotebookRTError:
    """Return the error for an answer that is not a success, for a request about ``table``."""
    words, code, schema = answer.error_fields, answer.code, request.schema
    error = named_error(str(request), answer, url)
    message = words.get("message", "")
    if not table and code == "42501" and (called := _called(request)):
        return PermissionDeniedError(schema, called, role, "execute", message)
    if isinstance(error, RateLimitedError) or not table:
        return error
    if code == "42501":
        right = _RIGHTS.get(request.method, "select")
        return PermissionDeniedError(schema, table, role, right, message)
    if not isinstance(error, RefusedError):
        return error
    # 42883 also means an operator: a type without equality, which is not a missing table.
    if code in _NO_TABLE and not message.startswith("operator"):
        return MissingTableError(
            schema, table, words.get("hint", ""), exposed=code != "PGRST106", url=url
        )
    if code in ("42703", "PGRST204"):
        return MissingColumnError(schema, table, _quoted(message))
    if code in _BAD_FILTER and request.method in ("GET", "HEAD"):
        return FilterError(f'table "{table}": {message} {words.get("details", "")}'.strip())
    return error


def _called(request: Request) -> str:
    """Return the function that a request calls; empty if it calls none."""
    _, called, name = request.path.partition("/rest/v1/rpc/")
    return urllib.parse.unquote(name) if called else ""


def _quoted(message: str) -> str:
    """Return the column that an error concerns: the last quoted word, or ``column t.x does not exist``."""
    for quote in ("'", '"'):
        if message.count(quote) >= 2:
            return message.split(quote)[1]
    words = message.split()
    return words[1].rpartition(".")[2] if len(words) > 1 else message
