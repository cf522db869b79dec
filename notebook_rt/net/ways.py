"""The ways to sign in: a user's arguments as calls of Supabase's own client.

In: an address and a password, a code, a link, or nothing. Out: a function that is called with the client of
`/auth/v1` and returns its answer; or an error that describes what is missing, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Way = Callable[[Any], Awaitable[Any]]
"""Called with an ``AsyncGoTrueClient``; returns an ``AuthResponse``."""


def sign_in(
    email: str | None = None,
    password: str | None = None,
    phone: str | None = None,
    code: str | None = None,
    link: str | None = None,
    anonymous: bool = False,
) -> Way:
    """Return the way that the arguments select; raise TypeError or ValueError if none or several match."""
    given = [name for name, one in (("link", link), ("anonymous", anonymous)) if one]
    given += ["email" if email else "phone"] if email or phone else []
    if len(given) > 1 or (email and phone) or (password and code):
        raise TypeError(f"sign_in takes one way to sign in, not several. {_WAYS}")
    if given and given[0] in ("link", "anonymous") and (password or code):
        raise TypeError(f"sign_in({given[0]}=...) takes no password and no code. {_WAYS}")
    if anonymous:
        return lambda auth: auth.sign_in_anonymously()
    if link:
        return _by_link(link)
    who = _who(email, phone, "sign_in", _WAYS)
    if password:
        return lambda auth: auth.sign_in_with_password({**who, "password": password})
    if code:
        code = "".join(code.split())  # as written in a mail
        kind = "email" if email else "sms"
        return lambda auth: auth.verify_otp({**who, "token": code, "type": kind})
    (address,) = who.values()
    raise TypeError(
        f"sign_in needs password=... of {address}; without one, send_code({address!r}) has a code "
        "sent, and then sign_in(..., code=...)"
    )


def sign_up(
    email: str | None, password: str | None, phone: str | None, data: Mapping[str, Any] | None
) -> Way:
    """Sign up a new user with a password."""
    who = _who(email, phone, "sign_up", "sign_up(email, password)")
    if not password:
        raise TypeError("sign_up needs an address and a password: sign_up(email, password)")
    asked = {**who, "password": password, "options": {"data": dict(data or {})}}
    return lambda auth: auth.sign_up(asked)


def send_code(email: str | None, phone: str | None, create_user: bool) -> Way:
    """Request a code, with a link in addition if it is sent by mail."""
    who = _who(email, phone, "send_code", "send_code(email)")
    asked = {**who, "options": {"should_create_user": create_user}}
    return lambda auth: auth.sign_in_with_otp(asked)


_WAYS = (
    "There are sign_in(email, password), sign_in(email, code=...) after send_code(email), "
    "sign_in(link=...) and sign_in(anonymous=True)"
)


def _who(email: str | None, phone: str | None, call: str, ways: str) -> dict[str, str]:
    for name, one in (("email", email), ("phone", phone)):
        if one is not None and not isinstance(one, str):
            raise TypeError(f"{call}: {name} must be a string, not {type(one).__name__}")
    if email and phone:
        raise TypeError(f"{call} takes an email or a phone, not both")
    if email:
        if "@" not in email:
            raise ValueError(f"{call}: {email!r} is not an address; give a number as phone=...")
        return {"email": email.strip()}
    if phone:
        return {"phone": phone.strip()}
    raise TypeError(f"{call} needs who. {ways}")


def _by_link(link: str) -> Way:
    """Use the link of a mail, or the address of the page to which it led."""
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        raise ValueError("the link cannot be read: give it as it stands in the mail") from None
    query, fragment = parse_qs(parts.query), parse_qs(parts.fragment)
    said = query | fragment
    if failed := said.get("error_description") or said.get("error"):
        raise ValueError(f"the link did not work: {failed[0]}. Ask for another: send_code(email)")
    if "access_token" in fragment and "refresh_token" in fragment:
        access, refresh = fragment["access_token"][0], fragment["refresh_token"][0]
        return lambda auth: auth.set_session(access, refresh)
    hashed = query.get("token_hash") or query.get("token")
    if hashed is None:
        raise ValueError(
            "there is no token in the link: give it as it stands in the mail, or the address of the "
            "page that it has led to"
        )
    asked = {"token_hash": hashed[0], "type": query.get("type", ["email"])[0]}
    return lambda auth: auth.verify_otp(asked)
