"""One request over HTTP and its answer, as values."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Request(msgspec.Struct, frozen=True):
    """One HTTP request, without the login."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: Any = None
    """Sent as JSON; None: no body."""
    prefer: str = ""
    schema: str = "public"
    accept: str = ""

    def __str__(self) -> str:
        return f"{self.method} {urllib.parse.unquote(self.path)}"


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request."""

    status: int
    body: Any = None
    """The decoded JSON; the text if it is not JSON (``json``)."""
    retry_after: float | None = None
    """Seconds, from the header."""
    json: bool = True
    shown: tuple[int | None, int | None] | None = None
    """The range of rows that it contains, and the number of all rows (``Content-Range``)."""
    date: float = 0.0
    """Seconds since the epoch at which the server answered."""
    head_code: str = ""
    """The error code in the headers: the answer to a HEAD has no body for it."""
    html: bool = False
    """Whether the headers call it a page for browsers."""
    server: str = ""
    """The sender according to the headers (``Server``, else ``Via``)."""

    @property
    def page(self) -> bool:
        """Whether it is a page for browsers, which Supabase's interfaces never send."""
        return self.html or (isinstance(self.body, str) and self.body.lstrip().startswith("<"))

    @property
    def empty(self) -> bool:
        """Whether there is no body."""
        return self.body is None and not self.json

    @property
    def error_fields(self) -> Mapping[str, str]:
        """The texts of an error: PostgREST's code, message, details and hint; a gateway's message.

        Nothing of a page for browsers is quoted, except its sender: anyone may have written its text.

        >>> Answer(502, {"error": "bad gateway"}).error_fields["message"]
        'bad gateway'
        >>> Answer(502, "<html>Log in to the wifi</html>", server="nginx").error_fields["message"]
        'a web page by "nginx", no answer of a Supabase project'
        """
        if self.page:
            by = f' by "{self.server}"' if self.server else ""
            return {"message": f"a web page{by}, no answer of a Supabase project"}
        if isinstance(self.body, str):
            return {"message": self.body[:500]}
        if not isinstance(self.body, dict):
            return {}
        words = {name: str(value) for name, value in self.body.items() if value is not None}
        if "message" not in words:
            words["message"] = words.get("msg") or words.get("error") or ""
        return words

    @property
    def code(self) -> str:
        """PostgreSQL's SQLSTATE or PostgREST's ``PGRST…``; empty if there is none."""
        return self.error_fields.get("code") or self.head_code

    @property
    def token_refused(self) -> bool:
        """Whether the login is refused; for a client that is not signed in, a missing grant is a 401, too."""
        return self.status == 401 and self.code != "42501" and not self.page
