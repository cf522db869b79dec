"""What a widget needs of the thing it shows: values to draw, and a word when they changed.

The widgets know nothing of sessions, sockets or queues. Each takes a *source*: a small protocol of
this module. ``adapters.py`` makes sources of live tables, ``sessions.py`` of a session; the tests make
them of a few lines of memory. A source's callback takes no argument and may be called from any
thread, as often as it likes: it only says "look again", and the transport decides when
(``transport.py``).
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
"""The states of docs/design/promises.md, plus the two a session is in before and after it lives."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A measure of the last five minutes: what it is, its latest value with the unit, a number for each
    5 s (None: nothing was measured).
    """

    name: str
    meaning: str
    now: str = ""
    points: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the connection is doing: ``latency`` in ms, ``metrics`` as short names to values."""

    state: Health
    sentences: Sequence[str] = ()
    """What is wrong, since when, what is done about it, what to do."""
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
    """One entry of the queue: what it would do, and why it has not."""

    id: str
    what: str
    state: Literal["waiting", "sending", "failed", "parked", "asking"]
    why: str = ""
    attempts: int = 0
    queued_at: datetime | None = None
    payload: str = ""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody present: ``id`` is stable for the person and gives the colour."""

    id: str
    name: str
    joined_at: datetime | None = None
    idle: bool = False
    you: bool = False


Right: TypeAlias = Literal["insert", "update", "delete"]
"""What a login may do to a table."""
NoteKind: TypeAlias = Literal[
    "merged", "conflict", "queued", "failed", "live", "unavailable", "limit", "info"
]


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened and is worth a line."""

    id: int
    kind: NoteKind
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Conflict:
    """What two people changed: what it was, what I wrote, what they wrote.

    A cell, or with ``column`` None a row that one of them deleted: ``base``, ``mine`` and ``theirs`` are
    then columns to values, and None for the side that deleted it.
    """

    key: Hashable
    column: str | None
    base: object
    mine: object
    theirs: object
    lost: bool = False
    """Nobody else needs to have changed it: the answer to my write was lost."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A time in which changes may have been lost, in microseconds since 1970; ``until`` None: it goes on."""

    since: int
    until: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reach:
    """From when on a past is recorded, what time it is, by the same clock, and what is not known."""

    began: int
    now: int
    lost: Sequence[Lost] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """A table as it was; ``lost`` is the time without knowledge in which the moment lies, and ``known`` the
    latest moment before at which the table was known.
    """

    when: int
    df: pd.DataFrame
    fields: Sequence[Column]
    lost: Lost | None = None
    known: int = 0


class PastSource(Protocol):
    """The recorded past of a table. Moments are microseconds since 1970, by the server's clock."""

    def reach(self) -> Reach | None:
        """How far it reaches; None: nothing is recorded yet. Never waits."""

    def at(self, when: int) -> Moment:
        """The table as it was; at the earliest known moment, or now, if ``when`` is outside. It may take
        its time.
        """

    def steps(self, key: Hashable) -> Sequence[Step]:
        """What happened to a row, the oldest first. It may take its time."""


class HealthSource(Protocol):
    """The connection."""

    def health(self) -> HealthReport: ...

    def on_health(self, fn: Callable[[], object]) -> Unsubscribe: ...

    def verify(self, done: Callable[[str], object]) -> object:
        """Compare every table with the server, and call ``done`` with what was found, in a sentence."""


class QueueSource(Protocol):
    """The durable queue of unsent writes."""

    def writes(self) -> Sequence[QueuedWrite]: ...

    def retry(self, id: str) -> object: ...

    def discard(self, id: str) -> object: ...

    def on_queue(self, fn: Callable[[], object]) -> Unsubscribe: ...


class PresenceSource(Protocol):
    """Who is there."""

    def people(self) -> Sequence[Person]: ...

    def on_presence(self, fn: Callable[[], object]) -> Unsubscribe: ...


class NoteSource(Protocol):
    """What happened lately, oldest first."""

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
        """Why not all of its columns are known yet; empty: they are."""

    @property
    def fields(self) -> Sequence[Column]:
        """Every column that can be shown, the key's first; one of the key is ``filled`` if it is made
        where it is not given.
        """

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        """As `fields`, of a snapshot that was just taken: another would cost, and may have other columns."""

    @property
    def past(self) -> PastSource | None:
        """What is recorded of its past; None: nothing."""

    @property
    def why_no_past(self) -> str:
        """Why nothing is recorded, in a sentence or two, and after a line break the code that records."""

    @property
    def editable(self) -> bool: ...

    def may(self, right: Right) -> bool:
        """Whether this login may write so, as far as is known; never waits."""

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe: ...

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> object:
        """Change cells of a row; ``shown`` is what those showed that were typed into, where it is known."""

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        """Insert a row, and give its key."""

    def delete(self, key: Hashable, after: float) -> object:
        """Delete a row; it is sent after so many seconds."""

    def leaving(self) -> pd.DataFrame:
        """The rows that ``df`` has no more though that is not final: deleted here and not there yet, as
        ``df`` had them; deleted there and edited here, undecided, as the edits would leave them.
        """

    def forget_columns(self) -> object:
        """What ``fields`` say has refused something: it may be old."""

    def batch(self) -> AbstractContextManager[None]:
        """What is edited in the block is kept, shown and sent as one; nothing of it if it raises."""

    def undo(self) -> bool:
        """Take back the last edit that has not left; False: there is nothing to take back."""

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        """Cells with a local edit: ``(key, column)`` to ``("pending"|"failed"|"conflict", why)``."""

    def conflicts(self) -> Sequence[Conflict]: ...

    def resolve(
        self, key: Hashable, column: str | None, choice: Literal["mine", "theirs"]
    ) -> object:
        """Decide a conflict; ``column`` None: all that are open of the row."""


OnViewer: TypeAlias = Callable[
    [Literal["online", "offline", "visible", "hidden", "seen", "unseen"]], object
]
"""Told what the browser tells: its network, its tab, and whether a view of the widget is seen."""


def _quiet(fn: Callable[[], object], *_: object) -> None:
    """A listener that only says "look again", whatever it is told."""
    fn()


def listen(
    subscribe: Callable[[Callable[..., object]], Unsubscribe], fn: Callable[[], object]
) -> Unsubscribe:
    """Have ``fn()`` called whatever ``subscribe`` tells; of what is closed, never."""
    # A partial has no code of its own: two widgets in two cells are never taken for one run twice.
    try:
        return subscribe(partial(_quiet, fn))
    except ClosedError:
        return lambda: None
