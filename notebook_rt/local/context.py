"""The shared state of the local server: its options, its keys, its connections to PostgreSQL.

In: the caller's options (`StackOptions`) and the secrets of a directory (`Secrets`). Out: a `Context`, and
tokens signed and verified with the secrets of that directory only.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from notebook_rt.local.options import RealtimeOptions
from notebook_rt.local.signing import SigningKey

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

TEN_YEARS = 10 * 365 * 24 * 3600
"""Lifetime of the anon and service keys of a stack in seconds; as on Supabase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """The options of the local stack, for tests and demos.

    The defaults are those of a hosted project on the free plan.

    Parameters
    ----------
    default_grants
        Whether ``anon``, ``authenticated`` and ``service_role`` have all rights on new objects in
        ``public``, as on projects created before 2026. If not, a table needs a ``grant``.
    jwt_algorithm
        The signature of access tokens: ``"ES256"``, with the public key at
        ``/auth/v1/.well-known/jwks.json``, or the older ``"HS256"``. Keys of the old kind
        (``anon_key``, ``service_key``) are always HS256.
    anon_timeout, authenticated_timeout
        The ``statement_timeout`` of the role in seconds; the second also applies to ``service_role``.
        A longer statement answers 500 with code 57014. 0: no limit.
    row_limit
        Maximum number of rows of a REST request; as the real server's default.
    schemas
        Schemas that REST exposes; the first is the default.
    description
        Access to the API's description, `GET /rest/v1/`: `"closed"`, secret keys only, as on a hosted
        project since March 2026; `"open"`, all keys.
    jwt_ttl
        Lifetime of an access token of `/auth/v1` in seconds.
    password_attempts
        Maximum sign-ins with a password in five minutes, successful or not; then 429 with
        ``over_request_rate_limit`` and ``Retry-After``. None: no limit.
    email_confirmation
        Whether a user who signs up with a password must confirm the address before signing in, as on a
        hosted project. If not, signing up also signs in.
    allowed_origins
        Web origins allowed in addition to those of this machine, such as `"vscode-webview://abc"` or
        `"null"` (a page opened from a file; but also any web page's sandboxed frame).
    realtime
        The options of the Realtime server.

    Examples
    --------
    >>> StackOptions(row_limit=50).row_limit
    50
    """

    default_grants: bool = False
    jwt_algorithm: Literal["ES256", "HS256"] = "ES256"
    anon_timeout: float = 3.0
    authenticated_timeout: float = 8.0
    row_limit: int = 1000
    schemas: tuple[str, ...] = ("public",)
    description: Literal["closed", "open"] = "closed"
    jwt_ttl: int = 3600
    password_attempts: int | None = 30
    email_confirmation: bool = False
    allowed_origins: tuple[str, ...] = ()
    realtime: RealtimeOptions = field(default_factory=RealtimeOptions)


class TokenError(Exception):
    """A token that this stack did not sign, or that has expired.

    `reason` is for people; `kind` is for programs; `claims` are those of a genuine `"expired"` token,
    otherwise None.
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
    """The secrets of one directory, created once and stored in a file that only its owner can read."""

    jwt_secret: str = field(repr=False)
    signing_key: str = field(repr=False)
    """A private P-256 key in PEM, for ES256."""
    anon_key: str = field(repr=False)
    service_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    postgres_password: str = field(repr=False)
    lease_key: str = field(repr=False)

    @classmethod
    def make(cls) -> Secrets:
        """Create new secrets from the operating system's randomness."""
        jwt_secret = secrets.token_urlsafe(48)
        return cls(
            jwt_secret=jwt_secret,
            signing_key=SigningKey.make().pem,
            anon_key=sign(jwt_secret, {"iss": "supabase", "role": "anon"}, TEN_YEARS),
            service_key=sign(jwt_secret, {"iss": "supabase", "role": "service_role"}, TEN_YEARS),
            publishable_key="sb_publishable_" + secrets.token_urlsafe(24),
            secret_key="sb_secret_" + secrets.token_urlsafe(24),
            postgres_password=secrets.token_urlsafe(32),
            lease_key=secrets.token_urlsafe(32),
        )

    def sign(
        self, claims: Mapping[str, Any], ttl: float, algorithm: Literal["ES256", "HS256"]
    ) -> str:
        """Return a token with these claims that expires in `ttl` seconds (in the past, if negative)."""
        if algorithm == "HS256":
            return sign(self.jwt_secret, claims, ttl)
        return SigningKey.of(self.signing_key).sign(_timed(claims, ttl))

    def verify(self, token: str) -> dict[str, Any]:
        """The claims of `token`; see `Context.verify`."""
        return verify(self.jwt_secret, SigningKey.of(self.signing_key), token)


@dataclass(frozen=True, slots=True)
class Context:
    """The state shared by the parts of the server.

    `dsn` and `pool` (autocommit) are the superuser's, for the stack's own statements. A caller's
    statements, functions and policies run in `callers`, whose sessions belong to `authenticator`: even if
    they escape from their role, they gain no more than the roles of the API. Each session is reset when
    it is returned.
    """

    options: StackOptions
    secrets: Secrets = field(repr=False)
    dsn: str = field(repr=False)
    pool: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]] = field(repr=False)
    callers: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]] = field(repr=False)

    def sign(self, claims: Mapping[str, Any], ttl: float) -> str:
        """Return an access token with these claims that expires in `ttl` seconds."""
        return self.secrets.sign(claims, ttl, self.options.jwt_algorithm)

    @property
    def anon_key(self) -> str:
        """The key for a browser or a notebook, with role `anon`."""
        return self.secrets.anon_key

    @property
    def service_key(self) -> str:
        """The key that bypasses policies, with role `service_role`."""
        return self.secrets.service_key

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a token of this stack; `sb_…` keys represent their role's key.

        Raises
        ------
        TokenError
            If it is not a token, has another signature, or has expired.
        """
        by_new_key = {
            self.secrets.publishable_key: self.anon_key,
            self.secrets.secret_key: self.service_key,
        }
        return self.secrets.verify(by_new_key.get(token, token))


def sign(jwt_secret: str, claims: Mapping[str, Any], ttl: float) -> str:
    """Return a token of the older kind (HS256); see `Secrets.sign`."""
    import jwt

    return jwt.encode(_timed(claims, ttl), jwt_secret, algorithm="HS256")


def _timed(claims: Mapping[str, Any], ttl: float) -> dict[str, Any]:
    now = int(time.time())
    return {"iat": now, "exp": now + int(ttl), **claims}


def verify(jwt_secret: str, signing_key: SigningKey, token: str) -> dict[str, Any]:
    """The claims of `token`; see `Context.verify`."""
    import jwt

    try:
        # Each algorithm has its own key: a public key must never verify as a shared secret.
        algorithm = jwt.get_unverified_header(token).get("alg")
        by_signature = algorithm == "ES256"
        # The times are checked below, so that the claims of an expired token can be returned.
        claims: dict[str, Any] = jwt.decode(
            token,
            signing_key.public if by_signature else jwt_secret,
            algorithms=["ES256" if by_signature else "HS256"],
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
