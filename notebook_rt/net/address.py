"""Read a project's URL and key as given by the user, before anything is sent.

In: a string copied from a dashboard, another library or an environment variable. Out: the normalized URL, the
key, or an error that describes what was given instead. A key given as the URL, or a database's password, is
never repeated.
"""

from __future__ import annotations

import ipaddress
import re
import warnings
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from notebook_rt.errors import NoKeyError, NoProjectError, UnreachableError

_AROUND: Final = "\ufeff\u200b\u200e\u200f \t\r\n\"'`“”‘’«»<>,;"
"""Characters around a copied string: quotes of a file, a comma, invisible characters."""
_INTERFACE: Final = re.compile(r"/(rest|realtime|auth|storage|functions|graphql)/v1(/.*)?\Z")
_REF: Final = re.compile(r"[a-z]{20}")
"""A project's reference, the first label of its host; twenty letters."""
_DASHBOARD: Final = re.compile(
    r"(?:https?://)?(?:(?:www\.)?supabase\.(?:com|io)|app\.supabase\.(?:com|io))"
    r"(?:/dashboard)?(?:/project/([a-z0-9]+))?(?![\w.-])"
)
_DATABASE: Final = re.compile(
    r"postgres(?:ql)?://|(?:https?://)?(?:db\.[a-z]{20}\.supabase|[\w.-]+\.pooler\.supabase)\."
)
_DATABASE_REF: Final = re.compile(r"\b(?:db\.|postgres\.)([a-z]{20})\b")
"""The reference in a direct connection (``db.REF.supabase.co``) or a pooler's user (``postgres.REF``)."""
_KEY: Final = re.compile(r"(https?://|Bearer\s+)?(eyJ|sb_)", re.ASCII)
_SECRET: Final = re.compile(r"eyJ|sb_|@|[?#]", re.ASCII)
"""In a string that is not an address: the rest may be a key or a password."""
_NO_HOST: Final = re.compile(r"[^\w.:\[\]-]|:\Z")
_NAMES_PROJECT: Final = re.compile(
    r"SUPABASE_(.*_)?(URL|KEYS?|REF|PROJECT_ID)\Z|(^|_)(ANON|SERVICE_ROLE)_KEY\Z", re.IGNORECASE
)
"""Variables of other tools: ``NEXT_PUBLIC_SUPABASE_URL``, ``VITE_SUPABASE_ANON_KEY``, …"""
_HOSTED: Final = re.compile(
    r"\b[a-z]{20}\.supabase\.(co|in)\b|\.pooler\.supabase\.com\b|\bsb_(publishable|secret)_"
)
_KINDS: Final = ("sb_publishable_", "sb_secret_")
_KEY_WORDS: Final = re.compile(r"[A-Za-z0-9_.+/-]+", re.ASCII)


class SupabaseClient(Protocol):
    """The used part of a client created by ``supabase.create_client`` or ``acreate_client``."""

    supabase_url: Any
    supabase_key: str
    options: Any
    auth: Any


def is_client(given: object) -> bool:
    """Return whether ``given`` is a client of the ``supabase`` package, sync or async."""
    return all(hasattr(given, name) for name in SupabaseClient.__annotations__)


def environment_url(environment: Mapping[str, str], *, has_key: bool = False) -> str | None:
    """Return ``$SUPABASE_URL``, or None if no project is given.

    Raises
    ------
    NoProjectError
        If it is not set, but another variable looks like a project's, or a key was given
        (``has_key``): the user means that project, and must not write into another database.
    """
    if url := environment.get("SUPABASE_URL", "").strip():
        return url
    seen = _projects(environment)
    if seen or has_key:
        raise NoProjectError(seen, has_key=has_key)
    return None


def environment_key(environment: Mapping[str, str], url: str) -> str:
    """Return ``$SUPABASE_KEY``.

    Raises
    ------
    NoKeyError
        If it is not set; the error lists variables that look like a project's key.
    """
    if key := environment.get("SUPABASE_KEY", "").strip():
        return key
    seen = [name for name in _projects(environment) if name.upper().endswith("_KEY")]
    reason = "none is given, and SUPABASE_KEY is not set"
    if seen:
        reason += f", but {', '.join(seen)} is: nrt.connect(url, os.environ[{seen[0]!r}])"
    raise NoKeyError(url, reason)


def _projects(environment: Mapping[str, str]) -> list[str]:
    """Return the names of variables that look like a project's."""
    return sorted(
        name
        for name, value in environment.items()
        if value.strip() and (_NAMES_PROJECT.search(name) or _HOSTED.search(value))
    )


def is_secret(key: str, role: str) -> bool:
    """Return whether ``key``, whose token contains ``role``, bypasses every policy."""
    return key.startswith("sb_secret_") or (not key.startswith("sb_") and role == "service_role")


def project_url(url: object) -> str:
    """Return ``url`` with a scheme, and without a slash or a path of an interface at its end.

    ``url`` is a string or a URL object of another library; a project's reference alone is completed.

    >>> project_url("abc.supabase.co/"), project_url("wss://abc.supabase.co/realtime/v1/websocket")
    ('https://abc.supabase.co', 'https://abc.supabase.co')
    >>> project_url("abcdefghijklmnopqrst")
    'https://abcdefghijklmnopqrst.supabase.co'
    """
    if not isinstance(url, str) and not hasattr(url, "scheme"):  # for yarl, httpx and pydantic
        raise TypeError(f"the URL of a project must be a string, not {type(url).__name__}")
    text = str(url).strip(_AROUND).rstrip("/")
    if not text:
        raise UnreachableError("the project", "the URL is empty")
    if _KEY.match(text):
        raise UnreachableError(
            "the project", "what was given as its URL is a key: it is nrt.connect(url, key)"
        )
    if found := _DASHBOARD.match(text):
        there = f"https://{found[1]}.supabase.co" if found[1] else "what its API settings say"
        raise UnreachableError(found[0], f"this is the dashboard; the project is at {there}")
    if _DATABASE.match(text):
        found = _DATABASE_REF.search(text)
        there = f"https://{found[1]}.supabase.co" if found else "its https:// address"
        raise UnreachableError(
            "the project",
            f"what was given is the address of its database; nrt.connect() takes {there} and a key",
        )
    if "." not in text and get_close_matches(text, ["local"], cutoff=0.7):
        raise UnreachableError(
            text, 'this is not the address of a project; the embedded stack is nrt.connect("local")'
        )
    if _REF.fullmatch(text):
        text = f"{text}.supabase.co"
    if "://" not in text:
        text = f"https://{text}"
    text = re.sub(r"\Aws(s?)://", r"http\1://", text, flags=re.IGNORECASE)
    shown = "the project" if _SECRET.search(text) else text
    if "?" in text or "#" in text:  # every path would be appended to it, and it may contain a key
        raise UnreachableError(shown, "a query or a fragment has no place in the URL of a project")
    text = _INTERFACE.sub("", text)
    try:
        parts = urlsplit(text)
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise UnreachableError(shown, "this is not the URL of a Supabase project") from None
    if "@" in parts.netloc:  # it would appear in errors and in the queue's file
        host = parts.netloc.rpartition("@")[2]
        raise UnreachableError(host, "a user and a password have no place in the URL: give the key")
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or _NO_HOST.search(parts.netloc):
        raise UnreachableError(shown, "this is not the URL of a Supabase project")
    if len(text.split()) != 1:
        raise UnreachableError(shown, "this is not the URL of a Supabase project")
    # A project has one address: the queue's file is named after it.
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"


def is_loopback(url: str) -> bool:
    """Return whether ``url`` is on this machine, for which no proxy is used.

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
    """Return ``httpx``' ``mounts`` for a client of ``url``; None: the proxies of the environment.

    A proxy of the environment could read the key and the passwords of a stack on this machine.
    """
    return {"http://": None, "https://": None, "all://": None} if is_loopback(url) else None


def warn_if_readable(url: str, stacklevel: int) -> None:
    """Warn if the key and the passwords of a project are sent without encryption."""
    if urlsplit(url).scheme == "http" and not is_loopback(url):
        warnings.warn(
            f"the key, the passwords and the rows of {url} go over the network in clear, to a proxy "
            "of $HTTP_PROXY too: use https",
            stacklevel=stacklevel + 1,
        )


def project_key(key: object, url: str) -> str:
    """Return ``key`` in a form valid for a header."""
    if not isinstance(key, str | None):
        raise TypeError(f"the key of a project must be a string, not {type(key).__name__}")
    text = (key or "").strip(_AROUND)
    if not text:
        raise NoKeyError(url, "none is given, and SUPABASE_KEY is not set")
    if "://" in text:
        raise NoKeyError(url, "what was given as the key is a URL: it is nrt.connect(url, key)")
    if text.startswith("Bearer "):
        raise NoKeyError(
            url, 'what was given begins with "Bearer", which is of a header; leave it out'
        )
    if text.endswith("...") or not text.isascii():
        raise NoKeyError(
            url, "what was given was not copied whole; use the dashboard's copy button"
        )
    if not _KEY_WORDS.fullmatch(text):
        raise NoKeyError(url, "what was given has characters that no key has; copy it again")
    is_token = text.startswith("eyJ")
    is_start = len(text) > 2 and any(kind.startswith(text) for kind in _KINDS)
    if (is_token and not all((text + "..").split(".")[:3])) or is_start:
        raise NoKeyError(url, "what was given is the beginning of a key; copy it again, all of it")
    return text
