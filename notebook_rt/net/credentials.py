"""Who we are to the server: the project's key and, after signing in, a user's access token.

Shared by REST, the socket and the queue's worker, so that a refreshed token reaches all of them at
once. Neither value is ever shown: not in a repr, a log line or an error.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import Any, Final

_TOKEN: Final = re.compile(r"[!-~]+")
"""What an HTTP header can carry as one word."""
_OF_ONE_TOKEN: Final = frozenset(
    (
        *("sub", "role"),  # told apart
        *("iat", "nbf", "exp", "jti", "session_id", "aal", "amr"),
        *("sid", "auth_time", "acr", "nonce", "at_hash", "fva", "sts", "event_id", "origin_jti"),
        "user_metadata",
    )
)
"""Claims that say nothing of whose rows are read: those of one token or one signing-in, of Supabase's own
logins and of the others that a project may take, and what users set themselves, by which no policy can go."""


class Credentials:
    """The key and the current token. Read and written on the loop thread."""

    def __init__(self, key: str, access_token: str | None = None) -> None:
        self.key = key
        self.access_token = None if access_token is None else checked_token(access_token)

    def __repr__(self) -> str:
        return f"Credentials(role={self.role!r})"

    @property
    def bearer(self) -> str | None:
        """What goes into ``Authorization``: the user's token, else a key of the old (JWT) kind.

        A key of the new kind (``sb_publishable_…``) is no token and goes into ``apikey`` only.
        """
        if self.access_token is not None:
            return self.access_token
        return None if self.key.startswith("sb_") else self.key

    @property
    def spoken(self) -> str:
        """What the channels are told: whoever signs out is the key again, and a null would change
        nothing (``docs/design/wire.md``, "Tokens").
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
        """The PostgreSQL role this login has, as far as the token, or the kind of the key, says."""
        if self.bearer is None and self.key.startswith("sb_secret_"):
            return "service_role"
        role = claims(self.bearer).get("role")
        return role if isinstance(role, str) else "anon"

    @property
    def login(self) -> str:
        """Whose requests these are: the user's id, or the key's role."""
        subject = claims(self.bearer).get("sub")
        return subject if isinstance(subject, str) else self.role

    @property
    def identity(self) -> tuple[str, ...]:
        """Whose rows are read, and with which grants: another token of the same login has the same.

        Besides the user and the role, policies may go by anything that a token claims: an organisation, a
        tenant in ``app_metadata``, an address. So all of that counts, but for what is each token's own.
        """
        said = claims(self.access_token)
        told = {name: value for name, value in said.items() if name not in _OF_ONE_TOKEN}
        if not told:
            return self.login, self.role
        text = json.dumps(told, sort_keys=True)
        return self.login, self.role, hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def owner(self) -> str:
        """`identity` as one text: whose what is kept on a disk is."""
        return "\n".join(self.identity)

    @property
    def key_role(self) -> str:
        """The role that a key of the old (JWT) kind names; of a key of the new kind, nothing."""
        return str(claims(self.key).get("role", ""))

    @property
    def key_expires_at(self) -> float | None:
        """Seconds since the epoch at which a key of the old kind ends; of the new kind, None."""
        expiry = claims(self.key).get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None

    @property
    def expires_at(self) -> float | None:
        """Seconds since the epoch at which the user's token ends."""
        expiry = claims(self.access_token).get("exp")
        return float(expiry) if isinstance(expiry, int | float) else None


def checked_token(token: object) -> str:
    """``token``, if it can be one.

    Raises
    ------
    TypeError, ValueError
        If it cannot. Neither shows it.
    """
    if not isinstance(token, str):
        what = "None (set_auth(None) is the key again)" if token is None else type(token).__name__
        raise TypeError(f"an access token must be a str, not {what}")
    if not _TOKEN.fullmatch(token):
        raise ValueError('an access token is one word, without "Bearer", spaces and line ends')
    return token


def check_jwt(token: str) -> None:
    """Refuse what is no JWT where a user's token is given; it is not shown.

    Raises
    ------
    ValueError
        If it is another text.
    """
    if not claims(token):
        raise ValueError(
            "an access token is a JWT, three parts with a dot between them (eyJ….eyJ….…); for a key "
            "there is nrt.connect(url, key)"
        )


def claims(token: str | None) -> dict[str, Any]:
    """What a JWT says of itself, unverified (verifying is the server's business); else empty.

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
