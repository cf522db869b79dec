"""JSON web tokens of connections and channels.

In: a token. Out: `Claims`, or `TokenRefusedError` with the real server's messages, which differ between a
refused connection, a refused join and a pushed token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from notebook_rt.local.context import Context, TokenError
from notebook_rt.local.realtime.protocol import dumps

MALFORMED = "The token provided is not a valid JWT"
BAD_SIGNATURE = "Failed to validate JWT signature"
MISSING_CLAIMS = "Fields `role` and `exp` are required in JWT"


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token's claims; `json` is their text for policies."""

    role: str
    expires: float
    subject: str
    json: str


class TokenRefusedError(ValueError):
    """Why a token is invalid: the messages for a join, a connection and a push."""

    def __init__(self, code: str, message: str, on_connect: str = "", on_push: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.on_connect = on_connect or message
        self.on_push = on_push or message


def verify(token: str, context: Context) -> Claims:
    """Return the claims of a valid token of this stack.

    Raises
    ------
    TokenRefusedError
        Not a token, another signature, no `role` or `exp`, or expired.
    """
    try:
        payload = context.verify(token)
    except TokenError as error:
        if error.kind == "signature":
            raise TokenRefusedError(
                "JwtSignatureError", BAD_SIGNATURE, on_push=":signature_error"
            ) from None
        if error.kind == "expired" and error.claims is not None:
            raise expired(float(error.claims["exp"])) from None
        raise TokenRefusedError("MalformedJWT", MALFORMED) from None
    role, expires = payload.get("role"), payload.get("exp")
    if not isinstance(role, str) or not isinstance(expires, int | float):
        raise TokenRefusedError("InvalidJWTToken", MISSING_CLAIMS)
    return Claims(role, float(expires), str(payload.get("sub", "")), dumps(payload))


def expired(at: float) -> TokenRefusedError:
    """The refusal of a token that ran out at that time (seconds since 1970)."""
    message = f"Token has expired {int(time.time() - at)} seconds ago"
    return TokenRefusedError("InvalidJWTToken", message, on_connect="Token has expired")
