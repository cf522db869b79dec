"""The process of the local stack: ``python -m notebook_rt.local.server DIRECTORY``.

In: a directory, a port, options; leases (`leases.py`). Out: PostgreSQL as a child, and in front of it
`/rest/v1`, `/auth/v1`, `/realtime/v1` and `/health` on one port of 127.0.0.1. `stack.py` starts it and reads
JSON lines from its standard output: progress, then `ready` or one `error`. It ends with the last lease, and
stops PostgreSQL.

A web page that the user visits can also reach 127.0.0.1. So a request for another host than this machine
(DNS rebinding), or from a page of another origin, is refused before it is read; and everything except
`/health` requires one of the stack's keys.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from notebook_rt.local.context import Context, StackOptions
from notebook_rt.local.directory import Running, StackDirectory
from notebook_rt.local.errors import DirectoryError, PortInUseError, StackError
from notebook_rt.local.leases import Leases
from notebook_rt.local.postgres import Postgres

if TYPE_CHECKING:
    import psycopg
    from psycopg_pool import AsyncConnectionPool

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
MAX_BODY_BYTES = 64 * 1024 * 1024
ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip"})
"""Allowed compressions of a body: aiohttp never finishes a truncated `deflate` body, and the request would
wait forever."""
SHUTDOWN_SECONDS = 0.3
"""Maximum seconds for running requests when the stack stops."""

Say = Callable[[dict[str, str]], None]
Pool: TypeAlias = "AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]"
Reset: TypeAlias = "Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]"


def build(context: Context) -> web.Application:
    """Create the application: the routes of every part behind the guard."""
    from notebook_rt.local import auth
    from notebook_rt.local.realtime import routes as realtime
    from notebook_rt.local.rest import routes as rest

    allowed = context.options.allowed_origins
    app = web.Application(middlewares=[_guard(allowed)], client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(_share_with(allowed))
    app.router.add_get("/health", _health)
    realtime.add_routes(app, context)
    rest.add_routes(app, context)
    auth.add_routes(app, context)
    return app


def is_this_machine(host: str) -> bool:
    """Return whether a `Host` header (or the host of an origin) is this machine.

    >>> is_this_machine("localhost:54321"), is_this_machine("127.0.0.1.evil.example:54321")
    (True, False)
    """
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname in LOOPBACK and "@" not in parts.netloc
    except ValueError:
        return False


def is_own_origin(origin: str, allowed: tuple[str, ...] = ()) -> bool:
    """Return whether a page of that origin may access the stack.

    `null` may not, because a sandboxed frame of any web page has that origin.

    >>> is_own_origin("http://localhost:8888"), is_own_origin("https://evil.example")
    (True, False)
    """
    if origin in allowed or origin == "file://":
        return True
    scheme, _, host = origin.partition("://")
    return scheme in {"http", "https"} and is_this_machine(host)


def _guard(allowed: tuple[str, ...]) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_this_machine(request.headers.get("Host", "")):
            return _refused("this stack answers to 127.0.0.1 and localhost only")
        origin = request.headers.get("Origin")
        if origin is not None and not is_own_origin(origin, allowed):
            return _refused("pages of this origin may not use this stack")
        if (
            request.method == "OPTIONS"
            and origin is not None
            and "Access-Control-Request-Method" in request.headers
        ):
            return web.Response(status=204)
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ENCODINGS:
            words = {"message": "a body may be compressed by gzip, and by nothing else"}
            return web.json_response(words, status=415)
        return await handler(request)

    return guard


def _refused(reason: str) -> web.Response:
    return web.json_response({"message": reason}, status=403)


def _share_with(
    allowed: tuple[str, ...],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Add CORS headers for pages that the guard accepts."""

    async def share(request: web.Request, response: web.StreamResponse) -> None:
        origin = request.headers.get("Origin")
        if origin is None or not is_own_origin(origin, allowed):
            return
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers.add("Vary", "Origin")
        response.headers["Access-Control-Expose-Headers"] = "*"
        if request.method == "OPTIONS":
            asked = request.headers.get("Access-Control-Request-Headers", "*")
            response.headers["Access-Control-Allow-Headers"] = asked
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Max-Age"] = "600"

    return share


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def serve(
    directory: StackDirectory,
    port: int | None,
    options: StackOptions,
    say: Say,
    *,
    temporary: bool = False,
) -> None:
    """Run until the last lease is gone, a signal comes, or PostgreSQL ends."""
    loop = asyncio.get_running_loop()
    crashed = directory.crashed
    secrets = directory.renew_secrets() if crashed else directory.secrets()
    listener = _listen(port, directory.last_port())
    postgres = Postgres(
        directory.path,
        secrets.postgres_password,
        crashed,
        default_grants=options.default_grants,
        temporary=temporary,
        progress=lambda words: say({"progress": words}),
    )
    restarting = asyncio.Lock()

    async def restart_postgres() -> None:
        async with restarting:
            await postgres.restart()

    async def disconnect_clients() -> None:
        from notebook_rt.local.realtime import routes as realtime

        await realtime.disconnect_clients(app)

    leases = Leases(
        secrets.lease_key,
        {"restart_postgres": restart_postgres, "disconnect_clients": disconnect_clients},
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leases.ended.set)
    starter = asyncio.create_task(leases.starter(await _standard_input()))
    unwanted = asyncio.create_task(_give_up(leases, asyncio.current_task()))

    async with contextlib.AsyncExitStack() as closing:
        # Ended in reverse order: the server, PostgreSQL, the published address, the leases.
        closing.push_async_callback(leases.close)
        closing.callback(directory.forget_running)
        closing.push_async_callback(postgres.stop)
        await postgres.start()

        pool, callers = _pool(postgres.dsn), _pool(postgres.callers_dsn, reset=_discard)
        for opened in (pool, callers):
            closing.push_async_callback(opened.close, SHUTDOWN_SECONDS)
        await asyncio.gather(pool.open(wait=True), callers.open(wait=True))
        context = Context(
            options=options, secrets=secrets, dsn=postgres.dsn, pool=pool, callers=callers
        )
        app = build(context)  # before anyone can have a lease
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        closing.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        running = Running(
            pid=os.getpid(),
            port=listener.getsockname()[1],
            lease_port=await leases.listen(),
            dsn=postgres.dsn,
            options=options,
        )
        directory.write_running(running)
        unwanted.cancel()
        say({"ready": ""})
        await _until_over(leases, postgres, restarting)
    starter.cancel()


def _pool(dsn: str, reset: Reset | None = None) -> Pool:
    from psycopg_pool import AsyncConnectionPool

    return AsyncConnectionPool(
        dsn,
        # A reset drops prepared statements, but psycopg would continue to use their names.
        kwargs={"autocommit": True} | ({"prepare_threshold": None} if reset else {}),
        min_size=2,
        max_size=16,
        open=False,
        # Callers must not get a connection that PostgreSQL has closed; the check takes 0.1 ms.
        check=AsyncConnectionPool.check_connection,
        reset=reset,
    )


async def _discard(connection: psycopg.AsyncConnection[Any]) -> None:
    """Reset a session for the next caller: settings, temporary tables, locks; it takes 0.04 ms."""
    await connection.execute("discard all")


async def _give_up(leases: Leases, starting: asyncio.Task[None] | None) -> None:
    """Abort the start, because its starter is gone."""
    await leases.ended.wait()
    if starting is not None:
        starting.cancel()


async def _until_over(leases: Leases, postgres: Postgres, restarting: asyncio.Lock) -> None:
    over = asyncio.create_task(leases.ended.wait())
    while not over.done():
        gone = asyncio.create_task(postgres.ended())
        await asyncio.wait({over, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        async with restarting:  # a requested restart is not an end
            pass
        if not over.done() and postgres.has_ended:
            logging.error("PostgreSQL ended by itself; its words are in postgres.log")
            over.cancel()
            return


async def _standard_input() -> asyncio.StreamReader:
    """Return standard input, whose end shows that the starter of this process has finished or is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    return reader


def _listen(port: int | None, last_port: int) -> socket.socket:
    """Return a socket that listens on `port`, else on the last port if that is free, else on a free one."""
    for candidate in (port,) if port else (last_port, 0):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(128)
        except OSError as error:
            listener.close()
            if port and error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortInUseError(port) from error
            if port:
                raise
        else:
            return listener
    raise StackError("this machine has no free port on 127.0.0.1")


def main() -> int:
    """Run the server; the exit status is 1 if it could not start."""
    parser = argparse.ArgumentParser(prog="python -m notebook_rt.local.server", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the stack keeps its data")
    parser.add_argument("--port", type=int, help="on 127.0.0.1 (default: the last one, or any)")
    parser.add_argument(
        "--temporary", action="store_true", help="remove the directory when the stack ends"
    )
    parser.add_argument("--options", default="{}", help="StackOptions as JSON")
    arguments = parser.parse_args()
    os.umask(0o077)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")

    def say(words: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # the starter may be gone
            print(json.dumps(words), flush=True)

    try:
        directory = StackDirectory.prepare(arguments.directory)
        options = msgspec.json.decode(arguments.options, type=StackOptions)
        with directory.locked("server.lock", wait=False) as ours:
            if not ours:
                raise DirectoryError(directory.path, "another server runs on it")
            with contextlib.suppress(asyncio.CancelledError):  # nobody waits for it any more
                asyncio.run(
                    serve(directory, arguments.port, options, say, temporary=arguments.temporary)
                )
            if arguments.temporary:
                directory.remove()
    except StackError as error:
        say({"error": type(error).__name__, "message": str(error)})
        if arguments.temporary:
            shutil.rmtree(arguments.directory, ignore_errors=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
