"""Read the body of a request, up to a limit.

The application's limit is that of REST, for bulk rows; a login or a message is much smaller.
"""

from __future__ import annotations

from aiohttp import web


class BodyTooLargeError(Exception):
    """The body of a request is larger than its path allows."""


class BodyUnreadableError(Exception):
    """The body of a request does not match its ``Content-Encoding``."""


async def read_up_to(request: web.Request, limit: int) -> bytes:
    """Return the whole decompressed body.

    Raises
    ------
    BodyTooLargeError
        If it has more than ``limit`` bytes; no more than that is kept in memory.
    BodyUnreadableError
        If it cannot be decompressed.
    """
    if (request.content_length or 0) > limit:
        raise BodyTooLargeError
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > limit:
                raise BodyTooLargeError
    except web.RequestPayloadError as error:
        raise BodyUnreadableError from error
    return bytes(body)
