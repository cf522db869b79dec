"""How to recover from a failure: an exception or HTTP status is classified by type, never by its text.

``classify`` sorts exceptions, ours or a library's, into the classes of the promises; ``by_status`` an HTTP
status; ``retry_after`` returns how long a server asks to wait. Used by the tables, the queue and the socket.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from notebook_rt.errors import (
    AnswerTooLargeError,
    AuthError,
    ChannelRefusedError,
    ClosedError,
    FilterError,
    NotebookRTError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TableError,
    UnreachableError,
)

Kind: TypeAlias = Literal["network", "auth", "rate_limit", "server", "refused", "unknown"]

RATE_LIMIT_WAIT: Final = 60.0
RETRY_AFTER_MAX: Final = 3600.0
"""The longest ``Retry-After`` that is obeyed. No gateway's own window is longer; without a limit a wrong
clock, or a malicious server, could stop a table or the queue for years."""
SERVER_WAIT: Final = 5.0
NETWORK_WAIT: Final = 1.0
UNKNOWN_WAIT: Final = 2.0


class ErrorClass(msgspec.Struct, frozen=True):
    """How to recover.

    ``network`` waits for the network, ``auth`` refreshes the token once and then asks, ``rate_limit`` waits
    as requested, ``server`` and ``unknown`` try again later, ``refused`` never.
    """

    kind: Kind
    wait: float | None
    """Seconds before the next try (backoff is added); None: trying again cannot help."""


def classify(error: BaseException) -> ErrorClass:
    """Classify an exception by its type and status.

    >>> classify(RateLimitedError("GET /rest/v1/t", retry_after=7))
    ErrorClass(kind='rate_limit', wait=7)
    >>> classify(ConnectionRefusedError()).kind
    'network'
    """
    match error:
        case UnreachableError():
            return ErrorClass("network", NETWORK_WAIT)
        case AuthError():
            return by_status(401)
        case RateLimitedError():
            return by_status(429, error.retry_after)
        case ServerError():
            return by_status(500, error.retry_after)
        case AnswerTooLargeError() | RefusedError() | TableError() | FilterError():
            return ErrorClass("refused", None)
        case ChannelRefusedError() | ClosedError():
            return ErrorClass("refused", None)
        case NotebookRTError():
            return ErrorClass("unknown", UNKNOWN_WAIT)
    if (status := _status_of(error)) is not None:
        return by_status(status)
    # A certificate that a proxy made up is an OSError, too: a retry does not fix it, but a laptop's network
    # may change. httpx' and websockets' own transport errors reach this function only from net/, which wraps
    # them as UnreachableError.
    if isinstance(error, OSError | EOFError):
        return ErrorClass("network", NETWORK_WAIT)
    return ErrorClass("unknown", UNKNOWN_WAIT)


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception of httpx, websockets or a Supabase package has, if any."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def by_status(status: int, retry_after: float | None = None) -> ErrorClass:
    """Return the class of an HTTP status.

    >>> by_status(503), by_status(409)
    (ErrorClass(kind='server', wait=5.0), ErrorClass(kind='refused', wait=None))
    """
    if status == 401:
        return ErrorClass("auth", None)
    if status == 429:
        return ErrorClass("rate_limit", RATE_LIMIT_WAIT if retry_after is None else retry_after)
    if status == 408 or status >= 500:
        return ErrorClass("server", retry_after or SERVER_WAIT)
    if status >= 400:
        return ErrorClass("refused", None)
    return ErrorClass("unknown", UNKNOWN_WAIT)


def http_date(header: str) -> float | None:
    """Return an HTTP date in seconds since the epoch; None if it is invalid.

    >>> http_date("Thu, 01 Jan 1970 00:01:00 GMT"), http_date("Thu, 01 Jan 99999999999999999999 00:00:00 GMT")
    (60.0, None)
    """
    import email.utils  # slow to import, and a stored table is shown before the first answer

    try:
        return email.utils.parsedate_to_datetime(header).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after(header: str | None, now: float) -> float | None:
    """Return ``Retry-After`` in seconds: a number, or a date relative to ``now``; None if there is none.

    At most `RETRY_AFTER_MAX`.

    >>> retry_after("120", 0.0), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 50.0)
    (120.0, 10.0)
    >>> retry_after("31536000000", 0.0), retry_after("nan", 0.0)
    (3600.0, None)
    """
    if header is None:
        return None
    try:
        wait = float(header)
    except ValueError:
        date = http_date(header)
        if date is None:
            return None
        wait = date - now
    return None if wait != wait else min(max(0.0, wait), RETRY_AFTER_MAX)
