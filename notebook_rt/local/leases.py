"""The users of a running stack: one open connection each; the stack ends with the last one.

A lease is a TCP connection to 127.0.0.1 whose two ends know the directory's lease key. Each proves it with an
HMAC of the other's nonce, so that another listener on the port learns nothing (after a crash of a stack, any
process can take its port). The server proves it first, and the port is part of the HMAC, so that an answer
cannot be obtained from another stack.

The operating system closes the connection when its holder ends in any way, so no process is left running.
The two ends exchange JSON lines: a command such as `{"do": "restart_postgres"}` is answered when it is done;
`{"do": "release"}` is answered by whether it was the last lease, and then by the end of the connection, which
for the last one comes when everything has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from notebook_rt.local.errors import StackError

Command = Callable[[], Awaitable[None]]

_LONGEST = 4096
"""Maximum bytes of a line from a client that has not yet proven to know the key."""
_UNREADABLE = (ValueError, TypeError, KeyError, RecursionError)
"""Exceptions of reading such a line."""


def _proof(key: str, side: str, port: int, holders: object, servers: object) -> str:
    """Return the proof of one side of a lease, for the nonces of both."""
    said = json.dumps([side, port, holders, servers]).encode()
    return hmac.new(key.encode(), said, "sha256").hexdigest()


def _equal(shown: object, proof: str) -> bool:
    return isinstance(shown, str) and hmac.compare_digest(shown.encode(), proof.encode())


class Leases:
    """The server's side.

    Parameters
    ----------
    key
        The key that a connection must prove to know.
    commands
        The commands that a holder may send.
    """

    def __init__(self, key: str, commands: Mapping[str, Command]) -> None:
        self.ended = asyncio.Event()
        """Set when the last lease is gone."""
        self._key = key
        self._commands = commands
        self._holders: set[asyncio.StreamWriter] = set()
        self._starting = True
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Accept connections; return the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def starter(self, reader: asyncio.StreamReader) -> None:
        """Keep the stack until its starter has a lease, or closes its end of `reader`."""
        await reader.read()
        if self._starting:
            self.ended.set()

    async def close(self) -> None:
        """Close every connection, as the last step of a stopping stack."""
        if self._server is not None:
            self._server.close()
        for writer in self._holders:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                known = await self._challenge(reader, writer)
        except (*_UNREADABLE, TimeoutError, OSError):
            known = False
        if not known or self.ended.is_set():
            writer.close()
            return
        self._holders.add(writer)
        self._starting = False  # the first one is the starter's own: others wait for its lock
        with contextlib.suppress(OSError, ValueError, KeyError):
            await self._hold(reader, writer)
        last = self._holders == {writer}
        with contextlib.suppress(OSError):
            writer.write(json.dumps({"last": last}).encode() + b"\n")
        if last:
            self.ended.set()  # and `close` ends this connection when everything has stopped
        else:
            self._holders.discard(writer)
            writer.close()

    async def _challenge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Prove that this end knows the key; return whether the other end does, too."""
        theirs, ours = json.loads(await reader.readline())["nonce"], secrets.token_hex(16)
        port = writer.get_extra_info("sockname")[1]
        proof = _proof(self._key, "server", port, theirs, ours)
        writer.write(json.dumps({"nonce": ours, "proof": proof}).encode() + b"\n")
        shown = json.loads(await reader.readline())["proof"]
        return _equal(shown, _proof(self._key, "holder", port, theirs, ours))

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"ok": true}\n')
        while line := await reader.readline():
            name = json.loads(line)["do"]
            if name == "release":
                return
            try:
                await self._commands[name]()
                answer: dict[str, Any] = {"ok": True}
            except StackError as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")


class Lease:
    """The holder's side: blocking, for any thread, one call at a time."""

    def __init__(self, port: int, key: str) -> None:
        """Take a lease.

        Raises
        ------
        ConnectionError
            If there is no server, if it is stopping, or if it does not know the key.
        """
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        try:
            self._lines = self._socket.makefile("rb")
            self._challenge(port, key)
        except OSError:
            self._socket.close()
            raise

    def _challenge(self, port: int, key: str) -> None:
        """Check that the other end knows the key, and then prove it."""
        ours = secrets.token_hex(16)
        self._socket.sendall(json.dumps({"nonce": ours}).encode() + b"\n")
        try:
            answer = json.loads(self._lines.readline(_LONGEST))
            theirs, shown = answer["nonce"], answer["proof"]
        except _UNREADABLE as error:
            raise ConnectionRefusedError("what listens there is no stack") from error
        if not _equal(shown, _proof(key, "server", port, ours, theirs)):
            raise ConnectionRefusedError("what listens there is not this stack")
        proof = _proof(key, "holder", port, ours, theirs)
        self._socket.sendall(json.dumps({"proof": proof}).encode() + b"\n")
        if not self._lines.readline(_LONGEST):
            raise ConnectionRefusedError("the stack takes no more leases")

    def ask(self, command: str, timeout: float = 60.0) -> None:
        """Send `command` and wait until it is done.

        Raises
        ------
        StackError
            With the server's message if it failed, or if the stack is gone.
        """
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(json.dumps({"do": command}).encode() + b"\n")
            line = self._lines.readline()
        except OSError as error:
            raise StackError(
                f"the local stack does not answer ({error}): start it again"
            ) from error
        if not line:
            raise StackError("the local stack has stopped: start it again")
        answer = json.loads(line)
        if "error" in answer:
            raise StackError(answer["error"])

    def release(self, timeout: float = 15.0) -> bool:
        """Release the lease; return whether it was the last: then PostgreSQL has stopped."""
        last = True  # without an answer, no server runs
        with contextlib.suppress(OSError, ValueError):
            self._socket.settimeout(timeout)
            self._socket.sendall(b'{"do": "release"}\n')
            last = json.loads(self._lines.readline())["last"]
            self._lines.read()
        self.drop()
        return last

    def drop(self) -> None:
        """Close the connection without waiting, as the end of the process does."""
        with contextlib.suppress(OSError):
            self._lines.close()
            self._socket.close()
