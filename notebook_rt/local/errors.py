"""The errors of the local stack."""

from __future__ import annotations

from pathlib import Path

from notebook_rt.errors import NotebookRTError


class StackError(NotebookRTError):
    """The base of the errors of the local stack."""


class MissingExtraError(StackError, ImportError):
    """A package that the local stack needs is not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"the local stack needs {package}, which is not installed: "
            "pip install 'notebook_rt[local]'"
        )


class UnsupportedSystemError(StackError):
    """The local stack does not run on this operating system."""


class DirectoryError(StackError):
    """The directory cannot hold this stack: another owner, another version, or not writable."""

    def __init__(self, directory: Path | str, reason: str) -> None:
        super().__init__(f"cannot keep a local stack in {directory}: {reason}")
        self.directory = Path(directory)


class PortInUseError(StackError):
    """Another process listens on the requested port."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} of this machine is in use by another program: "
            "pass another one, or none for a free one"
        )
        self.port = port


class OtherOptionsError(StackError):
    """The stack of this directory already runs, with another port or other options."""

    def __init__(self, directory: Path | str, what: str) -> None:
        super().__init__(
            f"the local stack in {directory} already runs with {what}: stop it first, "
            "use another directory, or ask for none to attach to it as it is"
        )


class PostgresError(StackError):
    """PostgreSQL did not start, or stopped unexpectedly; the message contains its last output."""
