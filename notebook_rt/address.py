"""What somebody gives as a project's URL and key, read before anything is sent.

In: a text as it was copied, from a dashboard or an environment variable. Out: the URL without what
does not belong to it, the key, or an error that says what was given instead. A key that was given as
the URL is never repeated.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from typing import Final
from urllib.parse import urlsplit

from notebook_rt.errors import NoKeyError, UnreachableError

_INTERFACE: Final = re.compile(r"/(rest|realtime|auth|storage|functions)/v1\Z")
_DASHBOARD: Final = re.compile(r"https://supabase\.com/dashboard/project/([a-z0-9]+)")
_KEY: Final = re.compile(r"(https?://)?(eyJ|sb_)", re.ASCII)


def project_url(url: str) -> str:
    """``url`` with a scheme, and without a slash or one of the interfaces' paths at its end.

    >>> project_url("abc.supabase.co/"), project_url("https://abc.supabase.co/rest/v1/")
    ('https://abc.supabase.co', 'https://abc.supabase.co')
    """
    if not isinstance(url, str):
        raise TypeError(f"the URL of a project is a text, not {type(url).__name__}")
    text = url.strip().rstrip("/")
    if not text:
        raise UnreachableError("the project", "the URL is empty")
    if _KEY.match(text):
        raise UnreachableError(
            "the project", "what was given as its URL is a key: it is nrt.connect(url, key)"
        )
    if found := _DASHBOARD.match(text):
        raise UnreachableError(
            text, f"this is the dashboard; the project is at https://{found[1]}.supabase.co"
        )
    if "://" not in text:
        text = f"https://{text}"
    if "?" in text or "#" in text:  # every path would be put behind it, and it may hold a key
        raise UnreachableError(
            re.split("[?#]", text)[0], "a query or a fragment has no place in the URL of a project"
        )
    text = _INTERFACE.sub("", text)
    try:
        parts = urlsplit(text)
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise UnreachableError(url, "this is no URL of a Supabase project") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or len(text.split()) != 1:
        raise UnreachableError(url, "this is no URL of a Supabase project")
    if "@" in parts.netloc:  # it would be in errors, and in the queue's file
        host = parts.netloc.rpartition("@")[2]
        raise UnreachableError(host, "a user and a password have no place in the URL: give the key")
    return text


def is_loopback(url: str) -> bool:
    """Whether ``url`` is on this machine: no proxy has a business with what goes there.

    >>> is_loopback("http://localhost:54321"), is_loopback("http://127.0.0.1.example.com")
    (True, False)
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxies(url: str) -> dict[str, None] | None:
    """What ``httpx`` takes as ``mounts`` for a client of ``url``; None: what the environment says.

    A proxy of the environment would read the key and the passwords of a stack on this machine.
    """
    return {"http://": None, "https://": None, "all://": None} if is_loopback(url) else None


def warn_if_readable(url: str, stacklevel: int) -> None:
    """Warn of a project whose key and passwords everybody on the way can read."""
    if urlsplit(url).scheme == "http" and not is_loopback(url):
        warnings.warn(
            f"the key, the passwords and the rows of {url} go over the network in clear, to a proxy "
            "of $HTTP_PROXY too: use https",
            stacklevel=stacklevel + 1,
        )


def project_key(key: str | None, url: str) -> str:
    """``key`` as a header takes it."""
    if not isinstance(key, str | None):
        raise TypeError(f"the key of a project is a text, not {type(key).__name__}")
    text = (key or "").strip()
    if not text:
        raise NoKeyError(url, "none is given, and SUPABASE_KEY is not set")
    if "://" in text:
        raise NoKeyError(url, "what was given as the key is a URL: it is nrt.connect(url, key)")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise NoKeyError(url, "what was given has characters that no key has; copy it again")
    return text
