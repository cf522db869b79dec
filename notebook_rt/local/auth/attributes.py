"""Validate a user's attributes in a request, and refuse them with GoTrue's messages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiohttp import web

from notebook_rt.local.bodies import BodyTooLargeError, BodyUnreadableError, read_up_to

Json = dict[str, Any]

_SHORTEST_PASSWORD = 6
MAX_BODY_BYTES = 1_000_000


class AuthError(Exception):
    """A refusal: HTTP status, GoTrue's error code, message, headers of the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}
        self.more = more


def not_supported(feature: str) -> AuthError:
    return AuthError(501, "not_implemented", f"{feature}: not supported by the local stack")


@dataclass(frozen=True, slots=True)
class Attributes:
    """A user's attributes in a body; None: not given."""

    email: str | None
    password: str | None
    user_metadata: Json | None
    app_metadata: Json | None = None
    role: str | None = None


async def read_json(request: web.Request) -> Json:
    try:
        body = json.loads(await read_up_to(request, MAX_BODY_BYTES) or b"{}")
        json.dumps(body, ensure_ascii=False).encode()  # an unpaired surrogate is not text
    except BodyTooLargeError as error:
        raise AuthError(413, "bad_json", "http: request body too large") from error
    except (BodyUnreadableError, ValueError, RecursionError) as error:
        message = "Could not parse request body as JSON"
        raise AuthError(400, "bad_json", message) from error
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON: not an object")
    return body


def attributes(body: Json, *, metadata: str, trusted: bool = False) -> Attributes:
    """Read a user's attributes. Only the service role may set roles and `app_metadata`."""
    for name in ("phone", "ban_duration", "password_hash"):
        if body.get(name):
            raise not_supported(name)
    return Attributes(
        email=address(body.get("email")),
        password=_password(body.get("password")),
        user_metadata=_object(body, metadata),
        app_metadata=_object(body, "app_metadata") if trusted else None,
        role=_text(body, "role") if trusted else None,
    )


def address(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[^@\s\0]+@[^@\s\0]+", value):
        message = "Unable to validate email address: invalid format"
        raise AuthError(400, "validation_failed", message)
    return value.lower()


def _password(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise AuthError(400, "validation_failed", "password must be a text")
    if len(value) < _SHORTEST_PASSWORD:
        message = f"Password should be at least {_SHORTEST_PASSWORD} characters."
        raise AuthError(422, "weak_password", message, weak_password={"reasons": ["length"]})
    return value


def _object(body: Json, name: str) -> Json | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, dict) or "\\u0000" in json.dumps(value)):
        raise AuthError(400, "validation_failed", f"{name} must be an object")
    return value


def _text(body: Json, name: str) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or "\0" in value):
        raise AuthError(400, "validation_failed", f"{name} must be a text")
    return value or None


def merged(old: Json, new: Json | None) -> Json:
    merged = old | (new or {})
    return {key: value for key, value in merged.items() if value is not None}


def positive(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() and 0 < int(text) < 10**6 else default


def is_uuid(value: object) -> bool:
    try:
        return isinstance(value, str) and UUID(value) is not None
    except ValueError:
        return False
