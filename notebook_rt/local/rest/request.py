"""Read a REST request except its query string: the caller, the schema, the form, the page.

In: aiohttp's request and the `Context`. Out: frozen values, or a `RestError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from notebook_rt.local.context import Context, TokenError
from notebook_rt.local.rest import compose
from notebook_rt.local.rest.errors import RestError, not_supported

JSON = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller: the role in PostgreSQL, and the token's claims as JSON."""

    role: str
    claims: str


def gateway(request: web.Request, context: Context) -> str:
    """Return a request's token: `Authorization: Bearer …`, otherwise its `apikey`.

    The gateway of a Supabase project requires an `apikey` of the project; here any token of this stack is
    accepted as one.

    Raises
    ------
    GatewayError
        If neither was sent, or the key is not of this stack.
    """
    key = request.headers.get("apikey")
    if not key:  # in the URL, where a column may have that name, too
        sent = request.query.getall("apikey", [])
        key = next(
            (value for value in sent if not _OPERATION.match(value)), sent[0] if sent else ""
        )
    if key == context.secrets.secret_key and "Mozilla/" in request.headers.get("User-Agent", ""):
        raise GatewayError(
            "Forbidden use of secret API key in browser",
            "Secret API keys can only be used in a protected environment and should never be used in "
            "a browser. Delete this secret API key immediately.",
        )
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else ""
    if not key and not token:
        raise GatewayError("No API key found in request", "No `apikey` request header was found.")
    if key and key not in (context.anon_key, context.service_key):
        try:
            context.verify(key)
        except TokenError as error:
            if error.kind != "expired" or key != token:
                raise GatewayError(
                    "Invalid API key",
                    "Double check your Supabase `anon` or `service_role` API key.",
                ) from error
    return token or key or ""


def caller(request: web.Request, context: Context) -> Caller:
    """Return the caller."""
    try:
        claims = context.verify(gateway(request, context))
    except TokenError as error:
        if error.kind == "expired":
            raise RestError(401, "PGRST303", "JWT expired") from error
        message = "No suitable key or wrong key type"
        raise RestError(401, "PGRST301", message, error.reason) from error
    role = claims.get("role", "anon")
    if not isinstance(role, str) or "\0" in role:
        raise RestError(401, "PGRST303", "Parsing claims failed")
    return Caller(role, json.dumps(claims, separators=(",", ":")))


_OPERATION = re.compile(r"(not\.)?[a-z]+(\([a-z]+\))?\.")
"""The beginning of a filter, which no key has: `eq.`, `not.in.`, `fts(english).`."""


def require_secret_key(request: web.Request, context: Context) -> None:
    """Refuse the `apikey` of a notebook or a browser, for any login.

    The two refusals are those measured on a hosted project (docs/design/hosted.md).

    Raises
    ------
    GatewayError
        If it is neither the secret key nor the legacy `service_role` key.
    """
    key = request.headers.get("apikey") or request.query.get("apikey") or gateway(request, context)
    if key in (context.service_key, context.secrets.secret_key):
        return
    if key.startswith("sb_"):
        hint = "Only secret API keys can be used for this endpoint."
        raise GatewayError("Secret API key required", hint)
    hint = "Only the `service_role` API key can be used for this endpoint."
    raise GatewayError("Invalid API key", hint)


class GatewayError(Exception):
    """Return 401 with the message of the gateway of a project."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.body = {"message": message, "hint": hint}


def schema_of(request: web.Request, exposed: tuple[str, ...]) -> tuple[str, bool]:
    """Return the requested schema, and whether it was given explicitly."""
    reading = request.method in ("GET", "HEAD")
    profile = request.headers.get("Accept-Profile" if reading else "Content-Profile")
    if profile is None:
        return exposed[0], False
    if profile not in exposed:
        raise RestError(
            406,
            "PGRST106",
            f"Invalid schema: {profile}",
            hint=f"Only the following schemas are exposed: {', '.join(exposed)}",
        )
    return profile, True


@dataclass(frozen=True, slots=True)
class Form:
    """Return the form of the answer's body."""

    body: compose.Body
    content_type: str
    single: bool = False


_FORMS = {
    "*/*": Form(compose.as_array, JSON),
    "application/*": Form(compose.as_array, JSON),
    "application/json": Form(compose.as_array, JSON),
    "application/vnd.pgrst.array": Form(compose.as_array, JSON),
    "application/vnd.pgrst.array+json": Form(compose.as_array, JSON),
    "application/vnd.pgrst.object": Form(
        compose.as_object, "application/vnd.pgrst.object+json; charset=utf-8", single=True
    ),
    "application/vnd.pgrst.object+json": Form(
        compose.as_object, "application/vnd.pgrst.object+json; charset=utf-8", single=True
    ),
    "text/csv": Form(compose.as_csv, "text/csv; charset=utf-8"),
}
_LATER = ("application/vnd.pgrst.plan", "application/geo+json", "application/octet-stream")


def form_of(request: web.Request) -> Form:
    """Return the first supported type in `Accept`."""
    accept = request.headers.get("Accept", "*/*")
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind.startswith(_LATER):
            raise not_supported(kind)
        if form := _FORMS.get(kind):
            if "nulls=stripped" in parameters:
                return Form(compose.without_nulls(form.body), form.content_type, form.single)
            return form
    raise RestError(406, "PGRST107", f"None of these media types are available: {accept}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """The `Prefer` header. `applied` lists the preferences applied to the answer."""

    values: Mapping[str, str]
    applied: str

    @property
    def strict(self) -> bool:
        return self.values.get("handling") == "strict"

    @property
    def max_affected(self) -> int | None:
        text = self.values.get("max-affected", "")
        return int(text) if self.strict and text.isdecimal() and len(text) < 19 else None


_PREFERENCES = {
    "count": {"exact", "planned", "estimated"},
    "return": {"representation", "minimal", "headers-only"},
    "resolution": {"merge-duplicates", "ignore-duplicates"},
    "missing": {"default", "null"},
    "handling": {"strict", "lenient"},
    "tx": {"commit", "rollback"},
}


def preferences_of(request: web.Request) -> Preferences:
    known: dict[str, str] = {}
    invalid: list[str] = []
    for header in request.headers.getall("Prefer", []):
        for part in filter(None, (piece.strip() for piece in header.split(","))):
            name, _, value = part.partition("=")
            if name == "timezone":
                raise not_supported("Prefer: timezone")
            if value in _PREFERENCES.get(name, ()) or name == "max-affected":
                known.setdefault(name, value)
            else:
                invalid.append(part)
    if invalid and known.get("handling") == "strict":
        raise RestError(
            400,
            "PGRST122",
            "Invalid preferences given with handling=strict",
            f"Invalid preferences: {', '.join(invalid)}",
        )
    return Preferences(known, ", ".join(f"{name}={value}" for name, value in known.items()))


@dataclass(frozen=True, slots=True)
class Page:
    """Rows `offset` to `offset + limit`; no limit is every row."""

    offset: int
    limit: int | None

    def content_range(self, rows: int, total: int | None) -> str:
        shown = "*" if total is None else str(total)
        span = f"{self.offset}-{self.offset + rows - 1}" if rows and total != 0 else "*"
        return f"{span}/{shown}"

    def status(self, rows: int, total: int | None) -> int:
        """Return 200, or 206 if rows are omitted; a range past the end is an error."""
        if total is None:
            return 200
        if self.offset > total:
            raise RestError(
                416,
                "PGRST103",
                "Requested range not satisfiable",
                f"An offset of {self.offset} was requested, but there are only {total} rows.",
            )
        return 206 if rows < total else 200


def page_of(request: web.Request, limit: int | None, offset: int, row_limit: int | None) -> Page:
    """Return `limit` and `offset`, restricted by the `Range` header and the maximum rows of an answer."""
    last = None if limit is None else offset + limit
    header = request.headers.get("Range", "")
    if request.method in ("GET", "HEAD") and header:
        low, dash, high = header.removeprefix("items=").strip().partition("-")
        if dash and low.isdecimal() and len(low) < 19 and (not high or high.isdecimal()):
            if high and int(high) < int(low):
                raise RestError(
                    416,
                    "PGRST103",
                    "Requested range not satisfiable",
                    "The lower boundary must be lower than or equal to the upper boundary in the "
                    "Range header.",
                )
            offset = max(offset, int(low))
            if high:
                last = int(high) + 1 if last is None else min(last, int(high) + 1)
    if last is not None:
        limit = max(0, last - offset)
    if row_limit is not None:
        limit = row_limit if limit is None else min(limit, row_limit)
    return Page(offset, limit)
