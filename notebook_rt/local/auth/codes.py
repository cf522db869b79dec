"""One-time codes and their links, which GoTrue mails, stored here to be read on this machine.

In: a user who requests a code. Out: a row of `auth.local_mails` instead of a mail, and later the user of the
code or link. A code works once, for an hour, and a new code invalidates it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

from notebook_rt.local.auth.attributes import Json

VALID_SECONDS = 3600
"""Lifetime in seconds, as on a hosted project."""

Fetch = Callable[..., Awaitable[Json | None]]


def token_hash(email: str, code: str) -> str:
    """The token in a link, instead of a code."""
    return hashlib.sha224((email + code).encode()).hexdigest()


class Codes:
    """The codes of one stack.

    Parameters
    ----------
    fetch : async callable
        Runs SQL; returns the JSON object in the first column of the first row.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def send(self, user: Json, kind: str, verify_url: str, redirect_to: str | None) -> None:
        """Create a code for ``user`` and "mail" it; ``verify_url`` is the beginning of the link."""
        code = f"{secrets.randbelow(10**6):06}"
        hashed = token_hash(user["email"], code)
        query = {"token": hashed, "type": kind}
        if redirect_to is not None:
            query["redirect_to"] = redirect_to
        await self._fetch(
            "with _old as (delete from auth.one_time_tokens where user_id = %s),"
            " _new as (insert into auth.one_time_tokens (user_id, token_type, token_hash, relates_to)"
            " values (%s, %s, %s, %s))"
            " insert into auth.local_mails (recipient, kind, code, link) values (%s, %s, %s, %s)"
            " returning to_json(id)",
            user["id"],
            *(user["id"], kind, hashed, user["email"]),
            *(user["email"], kind, code, f"{verify_url}?{urlencode(query)}"),
        )

    async def take(self, hashed: str) -> str | None:
        """Return the id of the user of this code, and invalidate it."""
        found = await self._fetch(
            "with _t as (delete from auth.one_time_tokens where token_hash = %s"
            " returning user_id, created_at)"
            " update auth.users set email_confirmed_at = coalesce(email_confirmed_at, now())"
            " from _t where auth.users.id = _t.user_id"
            " and _t.created_at > now() - make_interval(secs => %s)"
            " returning json_build_object('id', auth.users.id)",
            hashed,
            VALID_SECONDS,
        )
        return None if found is None else str(found["id"])
