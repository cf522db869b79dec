"""The files of a stack's directory besides the database: its secrets, its lock, its address.

Every file belongs to one user and is readable only by that user. `secrets.json` is created once, and again
after a crash; `running.json` exists while a server runs, and after a crash: the lock distinguishes the two,
and is checked first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from notebook_rt.local.context import Secrets, StackOptions
from notebook_rt.local.errors import DirectoryError
from notebook_rt.local.signing import SigningKey

FORMAT = 1
"""The version of a directory's contents; another one is refused."""
NAMES = frozenset(
    {"secrets.json", "running.json", "start.lock", "server.lock", "server.log", "port"}
)


@dataclass(frozen=True, slots=True)
class Running:
    """The address of the server of a directory."""

    pid: int
    port: int
    lease_port: int
    dsn: str = field(repr=False)
    options: StackOptions


@dataclass(frozen=True, slots=True)
class StackDirectory:
    """The files of one stack."""

    path: Path

    @classmethod
    def prepare(cls, path: Path) -> StackDirectory:
        """Create the directory if necessary.

        Raises
        ------
        DirectoryError
            If it is not writable, belongs to another user, or contains other files.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = path.resolve()
            status = path.stat()
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise DirectoryError(path, f"{error.strerror}. Pass a directory of your own") from error
        if status.st_uid != os.geteuid():
            raise DirectoryError(
                path,
                f"it belongs to user {status.st_uid}, not to you. Pass a directory of your own",
            )
        if not os.access(path, os.W_OK | os.X_OK):
            raise DirectoryError(path, "it is not writable. Pass a directory of your own")
        if "secrets.json" not in names and names - NAMES:
            raise DirectoryError(
                path, "it holds other files. Pass an empty or a new one: a stack fills its own"
            )
        if status.st_mode & 0o022:  # a user who may write into it may replace the secrets
            path.chmod(0o700)
        return cls(path)

    def secrets(self) -> Secrets:
        """Return this directory's secrets; create them if there are none."""
        try:
            found = msgspec.json.decode(read_private(self.path / "secrets.json"))
        except FileNotFoundError:
            return self.renew_secrets()
        except (OSError, msgspec.DecodeError) as error:
            raise DirectoryError(self.path, f"its secrets.json cannot be read: {error}") from error
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise DirectoryError(
                self.path, "another version of notebook_rt made it. Use another directory"
            )
        if (
            "signing_key" not in found
        ):  # created when tokens were signed with the shared secret only
            found["signing_key"] = SigningKey.make().pem
            self._write_secrets(found)
        return msgspec.convert(found, Secrets)

    def _write_secrets(self, secrets: dict[str, str]) -> None:
        content = msgspec.json.encode({"format": FORMAT, **secrets})
        write_private(self.path / "secrets.json", content)

    def renew_secrets(self) -> Secrets:
        """Replace the secrets, if there are any."""
        made = Secrets.make()
        self._write_secrets(asdict(made))
        return made

    @property
    def crashed(self) -> bool:
        """Return whether the last server crashed; the caller must hold `server.lock`.

        Its ports were then free for other users of the machine, and clients of the stack may have
        continued to send its keys there.
        """
        return (self.path / "running.json").exists()

    def running(self) -> Running | None:
        """Return where the server was last started; the lock and a lease show whether it still runs."""
        try:
            return msgspec.json.decode(read_private(self.path / "running.json"), type=Running)
        except (OSError, msgspec.DecodeError):
            return None

    def write_running(self, running: Running) -> None:
        """Publish the server's address; the port is also remembered for the next start."""
        write_private(self.path / "running.json", msgspec.json.encode(running))
        write_private(self.path / "port", str(running.port).encode())

    def forget_running(self) -> None:
        """Record that the server has stopped."""
        (self.path / "running.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory; the caller must hold `server.lock`.

        It is renamed first, so that no process that checks the lock creates a file in it meanwhile.
        """
        aside = self.path.with_name(f".{self.path.name}.removed")
        self.path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def last_port(self) -> int:
        """The port of the last run, so that a URL stays valid; 0 if there was none."""
        try:
            return int((self.path / "port").read_text())
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the lock `name`, which the system releases if this process dies; False: it is taken."""
        descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def read_private(file: Path) -> bytes:
    """Return the contents of a file that belongs to this user."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as found:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(file))
        return found.read()


def write_private(file: Path, content: bytes) -> None:
    """Write a file atomically, readable by the owner only."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
    aside.replace(file)
