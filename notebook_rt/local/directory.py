"""What a stack keeps in its directory, beside the database: its secrets, its lock, where it runs.

Every file belongs to one user and is readable by nobody else. `secrets.json` is made once;
`running.json` is there while a server runs (and after a crash: the lock tells the difference).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
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
            owner = path.stat().st_uid
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            raise DirectoryError(path, f"{error.strerror}. Pass a directory of your own") from error
        if owner != os.geteuid():
            raise DirectoryError(
                path, f"it belongs to user {owner}, not to you. Pass a directory of your own"
            )
        if not os.access(path, os.W_OK | os.X_OK):
            raise DirectoryError(path, "it is not writable. Pass a directory of your own")
        if "secrets.json" not in names and names - NAMES:
            raise DirectoryError(
                path, "it holds other files. Pass an empty or a new one: a stack fills its own"
            )
        return cls(path)

    def secrets(self) -> Secrets:
        """This directory's secrets; made now if there are none."""
        file = self.path / "secrets.json"
        try:
            found = msgspec.json.decode(file.read_bytes())
        except FileNotFoundError:
            made = Secrets.make()
            write_private(file, msgspec.json.encode({"format": FORMAT, **asdict(made)}))
            return made
        except (OSError, msgspec.DecodeError) as error:
            raise DirectoryError(self.path, f"its secrets.json cannot be read: {error}") from error
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise DirectoryError(
                self.path, "another version of notebook_rt made it. Use another directory"
            )
        if "signing_key" not in found:  # made when tokens were signed with the shared secret only
            found["signing_key"] = SigningKey.make().pem
            write_private(file, msgspec.json.encode({"format": FORMAT, **found}))
        return msgspec.convert(found, Secrets)

    def running(self) -> Running | None:
        """Where the server was last started; whether it still runs, a lease tells."""
        try:
            return msgspec.json.decode((self.path / "running.json").read_bytes(), type=Running)
        except (OSError, msgspec.DecodeError):
            return None

    def write_running(self, running: Running) -> None:
        """Tell others where the server is; the port is kept for the next start, too."""
        write_private(self.path / "running.json", msgspec.json.encode(running))
        write_private(self.path / "port", str(running.port).encode())

    def forget_running(self) -> None:
        """The server is gone."""
        (self.path / "running.json").unlink(missing_ok=True)

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


def write_private(file: Path, content: bytes) -> None:
    """Write as one, readable by the owner only."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
    aside.replace(file)
