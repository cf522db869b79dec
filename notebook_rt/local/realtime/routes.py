"""Realtime's routes on the local stack.

- `GET /realtime/v1/websocket?apikey=…&vsn=…`: the socket
- `POST /realtime/v1/api/broadcast`, `…/api/broadcast/{topic}/events/{event}`: broadcasts over HTTP
- `GET /realtime/v1/api/ping`, `GET /realtime/v1/healthcheck`
- `POST /realtime/v1/local/faults` (service key only; not on a real server): intentional faults, see `faults`
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from aiohttp import web

from notebook_rt.local.bodies import BodyTooLargeError, BodyUnreadableError, read_up_to
from notebook_rt.local.realtime import private
from notebook_rt.local.realtime.protocol import VERSIONS, UserBroadcast, dumps, loads
from notebook_rt.local.realtime.socket import Socket
from notebook_rt.local.realtime.tenant import Tenant
from notebook_rt.local.realtime.tokens import Claims, TokenRefusedError

if TYPE_CHECKING:
    from notebook_rt.local.context import Context

_TENANT = web.AppKey("realtime", Tenant)
_BASE = "/realtime/v1"
MAX_BODY_BYTES = 8_000_000


def add_routes(app: web.Application, context: Context) -> None:
    """Run Realtime in the application, from its start to its clean-up."""

    async def run(app: web.Application) -> AsyncIterator[None]:
        await app[_TENANT].start()
        yield

    async def stop(app: web.Application) -> None:
        await app[_TENANT].stop()

    app[_TENANT] = Tenant(context)
    app.cleanup_ctx.append(run)
    # Before the server waits for its connections to end; open sockets would delay it.
    app.on_shutdown.append(stop)
    app.router.add_get(f"{_BASE}/websocket", _websocket)
    app.router.add_post(f"{_BASE}/api/broadcast", _broadcast)
    app.router.add_post(f"{_BASE}/api/broadcast/{{topic}}/events/{{event}}", _broadcast_one)
    app.router.add_get(f"{_BASE}/api/ping", _ping)
    app.router.add_get(f"{_BASE}/healthcheck", _healthcheck)
    app.router.add_post(f"{_BASE}/local/faults", faults)


async def disconnect_clients(app: web.Application) -> None:
    """Close every socket like the real server, after notifying each channel (1012)."""
    await asyncio.gather(*(socket.disconnect() for socket in list(app[_TENANT].sockets)))


async def _websocket(request: web.Request) -> web.StreamResponse:
    tenant = request.app[_TENANT]
    connection = request.headers.get("Connection", "")
    if "upgrade" not in connection.lower():
        text = f"'connection' header must contain 'upgrade', got {json.dumps([connection])}"
        return web.Response(status=400, text=text)
    vsn = next((v for v in VERSIONS if v == request.query.get("vsn", VERSIONS[0])), None)
    if vsn is None:
        return web.Response(status=403)
    try:
        key = request.query.get("apikey") or request.headers.get("x-api-key")
        if not key:
            raise TokenRefusedError("InvalidJWTToken", "API key is missing")
        claims = tenant.verify(key)
    except TokenRefusedError as refused:
        await asyncio.sleep(tenant.options.connect_error_delay)
        return _json({"error": refused.on_connect}, 401)
    websocket = web.WebSocketResponse(compress=False, max_msg_size=tenant.options.max_frame_bytes)
    await websocket.prepare(request)
    await Socket(tenant, websocket, request.transport, vsn, claims).run()
    return websocket


async def _broadcast(request: web.Request) -> web.Response:
    """Send several messages; a private one without permission is dropped silently."""
    tenant = request.app[_TENANT]
    claims = _claims(request)
    body = await _read_json(request)
    messages: Any = body.get("messages") if isinstance(body, dict) else None
    problems = _problems(messages)
    if problems:
        return _json({"errors": {"messages": problems}}, 422)
    for message in messages:
        key = (message["topic"], message.get("private") is True)
        if await _may_write(tenant, key, claims):
            payload = {"event": message["event"], "payload": message["payload"]}
            tenant.hub.broadcast(key, dumps({**payload, "type": "broadcast"}))
    return web.Response(status=202)


async def _broadcast_one(request: web.Request) -> web.Response:
    """Send one message: the body is its payload, JSON or raw bytes."""
    tenant = request.app[_TENANT]
    claims = _claims(request)
    key = (request.match_info["topic"], request.query.get("private") == "true")
    if await _may_write(tenant, key, claims):
        is_json = request.content_type == "application/json"
        payload = dumps(await _read_json(request)).encode() if is_json else await _body(request)
        message = UserBroadcast(request.match_info["event"], payload, is_json)
        tenant.hub.user_broadcast(key, message)
    return web.Response(status=202)


def _problems(messages: Any) -> list[Any]:
    if messages is None or messages == []:
        return ["can't be blank"]
    if not isinstance(messages, list):
        return ["is invalid"]
    found = [_message_problems(message) for message in messages]
    return found if any(found) else []


def _message_problems(message: Any) -> dict[str, list[str]]:
    if not isinstance(message, dict):
        return {"topic": ["is invalid"]}
    problems = {}
    for name, kind in (("topic", str), ("event", str), ("payload", dict)):
        value = message.get(name)
        if value is None or value == "":
            problems[name] = ["can't be blank"]
        elif not isinstance(value, kind):
            problems[name] = ["is invalid"]
    return problems


async def _may_write(tenant: Tenant, key: tuple[str, bool], claims: Claims) -> bool:
    name, is_private = key
    if not is_private:
        return True
    return "broadcast" in (await private.policies(tenant.callers, name, claims)).write


async def faults(request: web.Request) -> web.Response:
    """Cause faults intentionally, for tests of clients.

    The body is a JSON object with any of

    - `"drop_changes": true | false`: drop every change from now on, while heartbeats are answered;
    - `"disconnect": true`: close every socket, as an administrator of the real server can (1012);
    - `"abort": true`: cut every socket without a closing frame (1006).

    The answer contains the number of dropped changes, the number of starts of the stream of changes and its
    position in the log, and the numbers of sockets and channels.
    """
    tenant = request.app[_TENANT]
    if _claims(request).role != "service_role":
        raise _unauthorized()
    wanted = await _read_json(request) if request.can_read_body else {}
    if not isinstance(wanted, dict):
        raise _bad_request("the body is no JSON object")
    state = tenant.changes.faults
    if isinstance(wanted.get("drop_changes"), bool):
        state.drop_changes = wanted["drop_changes"]
    sockets = list(tenant.sockets)
    if wanted.get("disconnect"):
        await disconnect_clients(request.app)
    if wanted.get("abort"):
        for socket in sockets:
            socket.abort()
    return _json(
        {
            "drop_changes": state.drop_changes,
            "dropped": state.dropped,
            "stream_starts": tenant.wal.starts,
            "streaming": tenant.wal.streaming.is_set() and tenant.messages.streaming.is_set(),
            "read_to": tenant.changes.read_to,
            "sockets": len(tenant.sockets),
            "channels": len(tenant.hub.channels()),
        }
    )


async def _ping(request: web.Request) -> web.Response:
    return _json({"message": "Success"})


async def _healthcheck(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _claims(request: web.Request) -> Claims:
    """Return the caller's claims: from the bearer token, otherwise the key; 401 without a valid one."""
    header = request.headers.get("Authorization", "")
    token = header.removeprefix("Bearer ").strip() or request.headers.get("apikey", "")
    try:
        return request.app[_TENANT].verify(token)
    except TokenRefusedError:
        raise _unauthorized() from None


async def _read_json(request: web.Request) -> Any:
    """Return the body, which will be sent to clients."""
    try:
        return loads(await _body(request))
    except ValueError:
        raise _bad_request("the body is no JSON that can be read") from None


def _bad_request(message: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=dumps({"message": message}), content_type="application/json")


async def _body(request: web.Request) -> bytes:
    try:
        return await read_up_to(request, MAX_BODY_BYTES)
    except BodyTooLargeError:
        raise web.HTTPRequestEntityTooLarge(
            MAX_BODY_BYTES,
            text=dumps({"message": "Request Entity Too Large"}),
            content_type="application/json",
        ) from None
    except BodyUnreadableError:
        raise _bad_request("the body cannot be decompressed") from None


def _unauthorized() -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(
        text=dumps({"message": "Unauthorized"}), content_type="application/json"
    )


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=dumps)
