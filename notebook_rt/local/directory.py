"""What a stack keeps in its directory, beside the database: its secrets, its lock, where it runs.

Every file belongs to one user and is readable by nobody else. `secrets.json` is made once, and anew
after a crash; `running.json` is there while a server runs, and after a crash: the lock tells the
difference, and is asked first.
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
"""Of what lies in a directory; another number is refused, never guessed at."""
NAMES = frozenset(
    {"secrets.json", "running.json", "start.lock", "server.lock", "server.log", "port"}
)


@dataclass(frozen=True, slots=True)
class Running:
    """Where the server of a directory is to be found."""

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
        """Make the directory if need be.

        Raises
        ------
        DirectoryError
            If it is not writable, another user's, or holds something else.
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
        if status.st_mode & 0o022:  # whoever may write in it may exchange the secrets
            path.chmod(0o700)
        return cls(path)

    def secrets(self) -> Secrets:
        """This directory's secrets; made now if there are none."""
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
        if "signing_key" not in found:  # made when tokens were signed with the shared secret only
            found["signing_key"] = SigningKey.make().pem
            self._write_secrets(found)
        return msgspec.convert(found, Secrets)

    def _write_secrets(self, secrets: dict[str, str]) -> None:
        content = msgspec.json.encode({"format": FORMAT, **secrets})
        write_private(self.path / "secrets.json", content)

    def renew_secrets(self) -> Secrets:
        """New secrets in place of the old ones, if there are any."""
        made = Secrets.make()
        self._write_secrets(asdict(made))
        return made

    @property
    def crashed(self) -> bool:
        """Whether the last server ended without saying so; for whoever holds `server.lock`.

        Its ports were free for other users of the machine from then on, and whoever used the stack
        may have gone on sending its keys there.
        """
        return (self.path / "running.json").exists()

    def running(self) -> Running | None:
        """Where the server was last started; whether it still runs, the lock and a lease tell."""
        try:
            return msgspec.json.decode(read_private(self.path / "running.json"), type=Running)
        except (OSError, msgspec.DecodeError):
            return None

    def write_running(self, running: Running) -> None:
        """Tell others where the server is; the port is kept for the next start, too."""
        write_private(self.path / "running.json", msgspec.json.encode(running))
        write_private(self.path / "port", str(running.port).encode())

    def forget_running(self) -> None:
        """The server is gone."""
        (self.path / "running.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it; for whoever holds `server.lock`.

        Renamed first, so that nobody who looks at the lock puts a file into what is being removed.
        """
        aside = self.path.with_name(f".{self.path.name}.removed")
        self.path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def last_port(self) -> int:
        """The port of the last run, so that a URL stays good; 0 if there was none."""
        try:
            return int((self.path / "port").read_text())
        except (OSError, ValueError):
            return 0

    @contextlib.contextmanager
    def locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Hold the lock `name` (the system gives it back if this process dies); False: taken."""
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
    """What is in a file of this user's own."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as found:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(file))
        return found.read()


def write_private(file: Path, content: bytes) -> None:
    """Write as one, readable by the owner only."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
    aside.replace(file)
