"""What every part of the local server is given: its options, its keys, the way to PostgreSQL.

In: the numbers a caller chose (`StackOptions`) and the secrets of one directory (`Secrets`).
Out: a `Context`, and tokens signed or verified with the secret of that directory alone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from notebook_rt.local.realtime.options import RealtimeOptions

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

TEN_YEARS = 10 * 365 * 24 * 3600
"""How long the anon and service keys of a stack are good for, in seconds; as on Supabase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What a test or a demo may change about the local stack.

    Parameters
    ----------
    row_limit
        Rows that one REST request returns at most; the real server's default, too.
    schemas
        Schemas that REST shows; the first is the default one.
    description
        Who may read the API's description, `GET /rest/v1/`: `"closed"`, secret keys only, as on a
        hosted project since March 2026; `"open"`, everybody.
    jwt_ttl
        Seconds that an access token of `/auth/v1` is good for.
    allowed_origins
        Web origins let in beside those of this machine, such as `"vscode-webview://abc"` or
        `"null"` (a page opened from a file; but also any web page's sandboxed frame).
    realtime
        The numbers of the Realtime server.

    Examples
    --------
    >>> StackOptions(row_limit=50).row_limit
    50
    """

    row_limit: int = 1000
    schemas: tuple[str, ...] = ("public",)
    description: Literal["closed", "open"] = "closed"
    jwt_ttl: int = 3600
    allowed_origins: tuple[str, ...] = ()
    realtime: RealtimeOptions = field(default_factory=RealtimeOptions)


class TokenError(Exception):
    """A token that this stack did not sign, or whose time is over.

    `reason` is for people; `kind` is what a program asks; `claims` are those of a token that is
    genuine and `"expired"`, else None.
    """

    def __init__(
        self,
        kind: Literal["expired", "signature", "malformed"],
        reason: str,
        claims: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.claims = claims


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one directory; made once, kept in a file that only its owner reads."""

    jwt_secret: str = field(repr=False)
    anon_key: str = field(repr=False)
    service_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    postgres_password: str = field(repr=False)
    lease_key: str = field(repr=False)

    @classmethod
    def make(cls) -> Secrets:
        """New secrets, from the operating system's randomness."""
        jwt_secret = secrets.token_urlsafe(48)
        return cls(
            jwt_secret=jwt_secret,
            anon_key=sign(jwt_secret, {"iss": "supabase", "role": "anon"}, TEN_YEARS),
            service_key=sign(jwt_secret, {"iss": "supabase", "role": "service_role"}, TEN_YEARS),
            publishable_key="sb_publishable_" + secrets.token_urlsafe(24),
            secret_key="sb_secret_" + secrets.token_urlsafe(24),
            postgres_password=secrets.token_urlsafe(32),
            lease_key=secrets.token_urlsafe(32),
        )


@dataclass(frozen=True, slots=True)
class Context:
    """What the parts of the server share. `dsn` and `pool` are the superuser's (autocommit)."""

    options: StackOptions
    secrets: Secrets = field(repr=False)
    dsn: str = field(repr=False)
    pool: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]] = field(repr=False)

    @property
    def jwt_secret(self) -> str:
        """What the tokens of this stack are signed with (HS256)."""
        return self.secrets.jwt_secret

    @property
    def anon_key(self) -> str:
        """The key for a browser or a notebook: role `anon`."""
        return self.secrets.anon_key

    @property
    def service_key(self) -> str:
        """The key that policies do not hold for: role `service_role`."""
        return self.secrets.service_key

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of a token of this stack; `sb_…` keys stand for their role's key.

        Raises
        ------
        TokenError
            If the token is not one, was signed by somebody else, or has expired.
        """
        by_new_key = {
            self.secrets.publishable_key: self.anon_key,
            self.secrets.secret_key: self.service_key,
        }
        return verify(self.jwt_secret, by_new_key.get(token, token))


def sign(jwt_secret: str, claims: Mapping[str, Any], ttl: float) -> str:
    """A token with these claims that expires in `ttl` seconds (the past, if negative)."""
    import jwt

    now = int(time.time())
    return jwt.encode({"iat": now, "exp": now + int(ttl), **claims}, jwt_secret, algorithm="HS256")


def verify(jwt_secret: str, token: str) -> dict[str, Any]:
    """The claims of `token`; see `Context.verify`."""
    import jwt

    try:
        # The times are checked below, so that the claims of an expired token can be told.
        claims: dict[str, Any] = jwt.decode(
            token,
            jwt_secret,
            algorithms=["HS256"],
            options={"verify_exp": False, "verify_aud": False, "verify_iat": False},
        )
    except jwt.InvalidSignatureError as error:
        raise TokenError("signature", "the token's signature is not this stack's") from error
    except jwt.InvalidTokenError as error:
        raise TokenError("malformed", f"not a token: {error}") from error
    expires = claims.get("exp")
    if expires is not None:
        if not isinstance(expires, int | float):
            raise TokenError("malformed", "not a token: exp is not a number")
        if expires <= time.time():
            raise TokenError("expired", "the token has expired", claims)
    return claims
