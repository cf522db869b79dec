"""The body of a request, up to a limit.

The application's own limit is REST's, for rows in bulk; a login or a message is far smaller.
"""

from __future__ import annotations

from aiohttp import web


class BodyTooLargeError(Exception):
    """The body of a request is larger than its address takes."""


class BodyUnreadableError(Exception):
    """The body of a request is not what its ``Content-Encoding`` says."""


async def read_up_to(request: web.Request, limit: int) -> bytes:
    """The whole body, decompressed.

    Raises
    ------
    BodyTooLargeError
        It has more than ``limit`` bytes; no more than that was kept.
    BodyUnreadableError
        It cannot be decompressed.
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
