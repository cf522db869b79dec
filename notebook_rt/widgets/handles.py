"""The live classes as the widgets use them: protocols of this layer.

An entry class (``session.py``, ``table.py``, ...) passes itself to ``display.py``; neither imports the
other's class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from notebook_rt.runtime.following import Followed

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.model.types import Column, Schema
    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.feed import Feed
    from notebook_rt.runtime.project import Project
    from notebook_rt.runtime.recording import Recording
    from notebook_rt.sync.connection.health import Health
    from notebook_rt.sync.connection.presence import Person
    from notebook_rt.widgets.sources import Unsubscribe


class Frame(Protocol):
    """A live frame."""

    _feed: Feed

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def schema(self) -> Schema | None: ...

    @property
    def synced_at(self) -> pd.Timestamp | None: ...

    @property
    def editable(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> object: ...

    def _on_batch(self, call: Callable[[ChangeBatch], object]) -> Callable[[], None]: ...


class Edits(Protocol):
    """What is known about writing to a table."""

    def fills(self, column: Column) -> bool: ...

    def columns_suspect(self) -> None: ...

    def granted(self, right: str) -> bool: ...


class Table(Frame, Protocol):
    """A live table: a frame whose rows can be written."""

    _edits: Edits

    @property
    def _recording(self) -> Recording | None: ...

    @property
    def conflicts(self) -> pd.DataFrame: ...

    def _edit_shown(
        self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> None: ...

    def insert(self, values: Mapping[str, Any] | None = None, /) -> Hashable: ...

    def delete(self, key: Hashable, *, after: float = 0.0) -> None: ...

    def leaving(self) -> dict[Hashable, Mapping[str, Any]]: ...

    def batch(self) -> AbstractContextManager[None]: ...

    def undo(self) -> bool: ...

    def marks(self) -> dict[tuple[Hashable, str], tuple[str, str]]: ...

    def resolve(
        self, key: Hashable, column: str | None = None, choice: Literal["mine", "theirs"] = "mine"
    ) -> None: ...


class Mapped(Protocol):
    """The result of ``map`` on live frames."""

    @property
    def frames(self) -> Sequence[Followed]: ...

    @property
    def sources(self) -> Sequence[Followed]: ...

    @property
    def df(self) -> Any: ...

    @property
    def latest(self) -> Any: ...

    def on_change(self, fn: Callable[[Any], Any], *, at_once: bool = False) -> Unsubscribe: ...


class Presence(Protocol):
    """The people in a channel."""

    @property
    def key(self) -> str: ...

    @property
    def people(self) -> Sequence[Person]: ...

    def on_change(self, fn: Callable[[], Any]) -> Unsubscribe: ...


class Queue(Protocol):
    """The writes that wait to be sent."""

    @property
    def df(self) -> pd.DataFrame: ...

    def retry(self, op: str | None = None) -> int: ...

    def discard(self, op: str) -> int: ...

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe: ...


class Session(Protocol):
    """A connected project."""

    _project: Project

    @property
    def health(self) -> Health: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def status(self) -> str: ...

    def retry(self) -> None: ...

    def on_health(self, fn: Callable[[Health], Any]) -> Unsubscribe: ...
