"""The credentials sent to the server: the project's key and, after sign-in, a user's access token.

REST, the socket and the queue's worker share them, so that all use a refreshed token at once. Neither value
is ever shown in a repr, a log line or an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any, Final

_TOKEN: Final = re.compile(r"[!-~]+")
"""Characters allowed in a token of an HTTP header."""
_OF_ONE_TOKEN: Final = frozenset(
    (
        *("sub", "role"),  # told apart
        *("iat", "nbf", "exp", "jti", "session_id", "aal", "amr"),
        *("sid", "auth_time", "acr", "nonce", "at_hash", "fva", "sts", "event_id", "origin_jti"),
        "user_metadata",
    )
)
"""Claims that do not affect which rows are visible: those of a single token or sign-in, of Supabase's and
other logins that a project may accept, and those that users set themselves, which policies must not use."""


class Credentials:
    """The key and the current token. Read and written on the loop thread."""

    def __init__(self, key: str, access_token: str | None = None) -> None:
        self.key = key
        self.access_token = None if access_token is None else checked_token(access_token)

    def __repr__(self) -> str:
        return f"Credentials(role={self.role!r})"

    @property
    def bearer(self) -> str | None:
        """The value of ``Authorization``: the user's token, otherwise a key of the old (JWT) kind.

        A key of the new kind (``sb_publishable_…``) is not a token, and is sent only as ``apikey``.
        """
        if self.access_token is not None:
            return self.access_token
        return None if self.key.startswith("sb_") else self.key

    @property
    def spoken(self) -> str:
        """The token sent to channels: after sign-out it is the key, because a null would change nothing
        (``docs/design/wire.md``, "Tokens").
        """
        return self.access_token or self.key

    def headers(self) -> dict[str, str]:
        """The two headers of every request."""
        headers = {"apikey": self.key}
        if bearer := self.bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        return headers

    @property
    def role(self) -> str:
        """The PostgreSQL role of this login, according to the token or the kind of the key."""
        if self.bearer is None and self.key.startswith("sb_secret_"):
            return "service_role"
        role = claims(self.bearer).get("role")
        return role if isinstance(role, str) else "anon"

    @property
    def login(self) -> str:
        """The owner of the requests: the user's id, or the key's role."""
        subject = claims(self.bearer).get("sub")
        return subject if isinstance(subject, str) else self.role

    @property
    def identity(self) -> tuple[str, ...]:
        """Identifies the visible rows and the grants; equal for all tokens of the same login.

        In addition to the user and the role, policies may use any claim of a token: an organisation, a
        tenant in ``app_metadata``, an address. So all claims count, except those specific to each token.
        """
        said = claims(self.access_token)
        told = {name: value for name, value in said.items() if name not in _OF_ONE_TOKEN}
        if not told:
            return self.login, self.role
        text = json.dumps(told, sort_keys=True)
        return self.login, self.role, hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def owner(self) -> str:
        """`identity` as one string: the owner of data stored on disk."""
        return "\n".join(self.identity)

    @property
    def key_role(self) -> str:
        """The role in a key of the old (JWT) kind; empty for a key of the new kind."""
        return str(claims(self.key).get("role", ""))

    @property
    def key_expires_at(self) -> float | None:
        """When a key of the old kind expires, in seconds since the epoch; None for the new kind."""
        expiry = claims(self.key).get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None

    @property
    def expires_at(self) -> float | None:
        """When the user's token expires, in seconds since the epoch."""
        expiry = claims(self.access_token).get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None


def checked_token(token: object) -> str:
    """Return ``token`` if its form is valid.

    Raises
    ------
    TypeError, ValueError
        If it is invalid. The error does not contain it.
    """
    if not isinstance(token, str):
        what = "None (set_auth(None) is the key again)" if token is None else type(token).__name__
        raise TypeError(f"an access token must be a str, not {what}")
    if not _TOKEN.fullmatch(token):
        raise ValueError('an access token is one word, without "Bearer", spaces and line ends')
    return token


def check_jwt(token: str) -> None:
    """Refuse a user's token that is not a JWT, without showing it.

    Raises
    ------
    ValueError
        If it is another string.
    """
    if not claims(token):
        raise ValueError(
            "an access token is a JWT, three parts with a dot between them (eyJ….eyJ….…); for a key "
            "there is nrt.connect(url, key)"
        )


def claims(token: str | None) -> dict[str, Any]:
    """Return a JWT's claims, unverified (the server verifies them); empty if it is not a JWT.

    >>> claims("not a token")
    {}
    """
    if token is None or token.count(".") != 2:
        return {}
    body = token.split(".")[1]
    try:
        decoded = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return decoded if isinstance(decoded, dict) else {}
