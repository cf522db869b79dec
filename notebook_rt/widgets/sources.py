"""The interfaces between the widgets and what they show: values to draw, and a notification of changes.

The widgets do not depend on sessions, sockets or queues. Each takes a *source*: a small protocol of this
module. ``adapters.py`` makes sources of live tables, ``sessions.py`` of a session; the tests make them from a
few lines of memory. A source's callback takes no argument and may be called from any thread, at any rate: it
only requests another look, and the transport decides when (``transport.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from notebook_rt.errors import ClosedError

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.model.types import Column
    from notebook_rt.sync.history.steps import Step

Unsubscribe: TypeAlias = Callable[[], None]
Health: TypeAlias = Literal[
    "healthy",
    "slow",
    "refused",
    "drifting",
    "behind",
    "polling",
    "stale",
    "offline",
    "connecting",
    "closed",
]
"""The states of docs/design/promises.md, plus the two of a session before and after its lifetime."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A measure over the last five minutes.

    It has a name, a meaning, the latest value with its unit, and a number for each 5 s (None: not measured).
    """

    name: str
    meaning: str
    now: str = ""
    points: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The state of the connection: ``latency`` in ms, ``metrics`` as short names to values."""

    state: Health
    sentences: Sequence[str] = ()
    """What is wrong, since when, what is being done about it, what the user can do."""
    audits: str = ""
    """The last audit and the next, in a sentence or two."""
    latency: float | None = None
    last_error: str | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    usage: str = ""
    """The traffic of the last hour, in a sentence."""
    near_limits: Sequence[str] = ()
    """A sentence for each limit that is near."""
    trends: Sequence[Trend] = ()


@dataclass(frozen=True, slots=True)
class QueuedWrite:
    """One entry of the queue: what it does, and why it has not been sent."""

    id: str
    what: str
    state: Literal["waiting", "sending", "failed", "parked", "asking"]
    why: str = ""
    attempts: int = 0
    queued_at: datetime | None = None
    payload: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """A person who is present: ``id`` is stable for the person and determines the colour."""

    id: str
    name: str
    joined_at: datetime | None = None
    idle: bool = False
    you: bool = False


Right: TypeAlias = Literal["insert", "update", "delete"]
"""A right of a login on a table."""
NoteKind: TypeAlias = Literal[
    "merged", "conflict", "queued", "failed", "live", "unavailable", "limit", "info"
]


@dataclass(frozen=True, slots=True)
class Note:
    """An event to show as a line."""

    id: int
    kind: NoteKind
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Conflict:
    """A conflict between two people's changes: the original, my and their value.

    It is about a cell, or, if ``column`` is None, about a row that one of them deleted: ``base``, ``mine``
    and ``theirs`` are then columns to values, and None for the side that deleted it.
    """

    key: Hashable
    column: str | None
    base: object
    mine: object
    theirs: object
    lost: bool = False
    """Perhaps no other person changed it: the answer to my write was lost."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A time in which changes may have been lost, in microseconds since 1970; ``until`` None: ongoing."""

    since: int
    until: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reach:
    """The start of a recorded past, the current time by the same clock, and the gaps."""

    began: int
    now: int
    lost: Sequence[Lost] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """A table at an earlier moment.

    ``lost`` is the gap that contains the moment, and ``known`` the latest moment before it at which the table
    was known.
    """

    when: int
    df: pd.DataFrame
    fields: Sequence[Column]
    lost: Lost | None = None
    known: int = 0


class PastSource(Protocol):
    """The recorded past of a table. Moments are microseconds since 1970, by the server's clock."""

    def reach(self) -> Reach | None:
        """Return how far it reaches; None if nothing is recorded yet. Never waits."""

    def at(self, when: int) -> Moment:
        """Return the table at a moment; it may take its time.

        If ``when`` is outside the past, use the earliest known moment, or now.
        """

    def steps(self, key: Hashable) -> Sequence[Step]:
        """Return what happened to a row, oldest first. It may take its time."""


class HealthSource(Protocol):
    """The connection."""

    def health(self) -> HealthReport: ...

    def on_health(self, fn: Callable[[], object]) -> Unsubscribe: ...

    def verify(self, done: Callable[[str], object]) -> object:
        """Compare every table with the server, and call ``done`` with the result, as a sentence."""


class QueueSource(Protocol):
    """The durable queue of unsent writes."""

    def writes(self) -> Sequence[QueuedWrite]: ...

    def retry(self, id: str) -> object: ...

    def discard(self, id: str) -> object: ...

    def on_queue(self, fn: Callable[[], object]) -> Unsubscribe: ...


class PresenceSource(Protocol):
    """The people who are present."""

    def people(self) -> Sequence[Person]: ...

    def on_presence(self, fn: Callable[[], object]) -> Unsubscribe: ...


class NoteSource(Protocol):
    """Recent events, oldest first."""

    def notes(self) -> Sequence[Note]: ...

    def on_note(self, fn: Callable[[], object]) -> Unsubscribe: ...


class FrameSource(Protocol):
    """A live table. ``df`` has the key as its index; a snapshot never changes."""

    @property
    def df(self) -> pd.DataFrame: ...

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> str: ...

    @property
    def note(self) -> str:
        """The calm sentence of degraded mode, or an empty string."""

    @property
    def undeclared(self) -> str:
        """Why some of its columns are not known yet; empty if all are known."""

    @property
    def fields(self) -> Sequence[Column]:
        """Every column that can be shown, the key's first.

        A column of the key is ``filled`` if it is made when it is not given.
        """

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        """Like `fields`, for an existing snapshot: another costs time, and may have other columns."""

    @property
    def past(self) -> PastSource | None:
        """Its recorded past; None if nothing is recorded."""

    @property
    def why_no_past(self) -> str:
        """Why nothing is recorded, in a sentence or two, and after a line break the code that records."""

    @property
    def editable(self) -> bool: ...

    def may(self, right: Right) -> bool:
        """Return whether this login has the right, as far as is known; never waits."""

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe: ...

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> object:
        """Change cells of a row; ``shown`` are the values that the edited cells showed, if known."""

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        """Insert a row, and return its key."""

    def delete(self, key: Hashable, after: float) -> object:
        """Delete a row; it is sent after ``after`` seconds."""

    def leaving(self) -> pd.DataFrame:
        """Return the rows that are no longer in ``df`` although that is not final.

        Those deleted here and not yet on the server, as ``df`` had them; and those deleted on the server and
        edited here, with the conflict open, as the edits would leave them.
        """

    def forget_columns(self) -> object:
        """Note that ``fields`` have made an edit be refused: they may be outdated."""

    def batch(self) -> AbstractContextManager[None]:
        """Store, show and send the edits of the block together; none of them if it raises."""

    def undo(self) -> bool:
        """Undo the last edit that has not been sent; return False if there is none."""

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        """Return cells with a local edit: ``(key, column)`` to ``("pending"|"failed"|"conflict", why)``."""

    def conflicts(self) -> Sequence[Conflict]: ...

    def resolve(
        self, key: Hashable, column: str | None, choice: Literal["mine", "theirs"]
    ) -> object:
        """Decide a conflict; ``column`` None: all open ones of the row."""


OnViewer: TypeAlias = Callable[
    [Literal["online", "offline", "visible", "hidden", "seen", "unseen"]], object
]
"""Called with the browser's reports: its network, its tab, and whether a view of the widget is visible."""


def _quiet(fn: Callable[[], object], *_: object) -> None:
    """A listener that ignores its arguments and only requests another look."""
    fn()


def listen(
    subscribe: Callable[[Callable[..., object]], Unsubscribe], fn: Callable[[], object]
) -> Unsubscribe:
    """Subscribe ``fn``, called without arguments; do nothing if the object is closed."""
    # A partial has no code of its own: two widgets in two cells are not mistaken for one that ran twice.
    try:
        return subscribe(partial(_quiet, fn))
    except ClosedError:
        return lambda: None
