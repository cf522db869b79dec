"""The words between the mirror and the world: events go in, effects come out.

The mirror never does anything. ``mirror.handle(event, now)`` returns effects; the driver in ``net/``
carries them out and feeds what came of it back as events. ``now`` is monotonic seconds; server time
enters only through ``Page.server_time`` and ``Change.commit_time`` (seconds since the epoch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from notebook_rt.model.rows import Key, RowChange, Rows, WireRow
from notebook_rt.model.types import Column, Schema
from notebook_rt.sync.usage import Purpose

Status: TypeAlias = Literal["loading", "live", "polling", "stale", "closed", "error"]
Cause: TypeAlias = Literal[
    "snapshot", "stream", "reconcile", "audit", "poll", "refetch", "refill", "warm"
]


class Binding(msgspec.Struct, frozen=True):
    """One ``postgres_changes`` binding of a join."""

    event: Literal["*", "INSERT", "UPDATE", "DELETE"]
    schema: str
    table: str
    filter: str | None = None
    select: tuple[str, ...] | None = None


class Change(msgspec.Struct, frozen=True):
    """A ``postgres_changes`` frame, decoded once. ``record`` may lack columns (unchanged TOAST)."""

    kind: Literal["INSERT", "UPDATE", "DELETE"]
    record: WireRow | None
    old_record: WireRow | None
    columns: tuple[Column, ...]
    commit_time: float | None
    errors: tuple[str, ...] = ()
    exact: bool = False
    """Out of the log of ``sync/table/broadcast.py``: the record is whole and as REST has it, and is newer
    than the one before of the same key; the key goes beside it."""


OPTIONAL_SQL_SCHEMA: Final = "public"
"""Where the functions of the optional SQL are, whatever schema a table is in."""


class Query(msgspec.Struct, frozen=True):
    """A read over REST. ``params`` are PostgREST's query parameters, in order, unencoded."""

    params: tuple[tuple[str, str], ...]
    count: Literal["exact", "estimated"] | None = None
    """Ask for the count. An estimated one is exact up to the rows of a page, and beyond them what
    PostgreSQL's planner expects: to count a large table exactly may take longer than is allowed."""
    of: tuple[str, str] | None = None
    """Read this schema's table instead of the machine's own."""
    head: bool = False
    """No body: only the count."""
    rpc: str | None = None
    """Call this function instead of reading the table; ``args`` is its body."""
    rpc_schema: str | None = None
    """Where ``rpc`` is, if not in the table's own schema."""
    args: Mapping[str, Any] | None = None
    describe: tuple[str, ...] = ()
    """Read what the server says of these tables instead of rows, into ``Page.value``: the answer of
    ``nrt_describe`` (``describe.sql``), else the API's OpenAPI description; None: neither is there."""
    proves: tuple[str, ...] = ()
    """Ask whether these columns are the table's primary key, into ``Page.value``: True, False, or
    None where the server does not say. Writes nothing."""
    refusable: bool = False
    """A refusal is an answer too: ``Page.refusal``."""


class Page(msgspec.Struct, frozen=True):
    """What a ``Query`` brought."""

    rows: Sequence[WireRow]
    count: int | None
    server_time: float
    """The answer's ``Date`` header: whole seconds, so the read happened before ``server_time + 1``."""
    value: Any = None
    """The body of an ``rpc`` that is not a list of rows, or of ``describe``, or of ``proves``."""
    scalar: bool = False
    """Whether the body was ``value``, which may be null, and not ``rows``."""
    refusal: Exception | None = None
    """What the server answered instead, where the query is ``refusable``."""


# Events: what happened ------------------------------------------------------------------------


class Joined(msgspec.Struct, frozen=True):
    """The join was answered ``ok``: changes may come from now on, but are not promised yet."""


class Confirmed(msgspec.Struct, frozen=True):
    """A ``system`` ok of ``postgres_changes``. The first of a join ends the wait; each is a gap."""


class Lost(msgspec.Struct, frozen=True):
    """Socket or channel is gone, or the frame lost its place: no change will come until ``Joined``."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The server will not stream this table (``system`` error, join error). ``error`` says why."""

    error: Exception
    final: bool
    """True: asking again cannot help (not published, no such table); False: poll meanwhile."""


class Received(msgspec.Struct, frozen=True):
    change: Change


class ReceivedMany(msgspec.Struct, frozen=True):
    """Several changes in the order they came; applied as one, much faster than one by one."""

    changes: Sequence[Change]


class ReceivedMessages(msgspec.Struct, frozen=True):
    """Messages of a broadcast log, in the order they came (``sync/table/broadcast.py`` reads them)."""

    payloads: Sequence[Any]


class Gap(msgspec.Struct, frozen=True):
    """Something may have been lost: an unreadable frame, an overflow, a slept machine, an exception."""

    reason: str
    missed: bool = True
    """False where the rows are compared as after a join, and nothing has shown a loss."""


class Fetched(msgspec.Struct, frozen=True):
    request: int
    page: Page


class FetchFailed(msgspec.Struct, frozen=True):
    request: int
    error: Exception
    retry_after: float | None
    """Seconds to wait before the next try; None: asking again cannot help (a 4xx that is final)."""


class Tick(msgspec.Struct, frozen=True):
    """The time asked for by ``Wake`` has come (or any time: an early tick does no harm).

    The first ``Tick`` starts the mirror.
    """


class AuditNow(msgspec.Struct, frozen=True):
    """Somebody asked for an audit."""


class Hint(msgspec.Struct, frozen=True):
    """Changes may have been lost without a word, though nothing says so: audit soon."""

    reason: str
    """Why there is doubt until then, in part of a sentence; empty: no doubt."""


class Turn(msgspec.Struct, frozen=True):
    """The poll that was asked for (``TurnWanted``) may begin; it ends with ``TurnOver``."""


class ColumnsSuspect(msgspec.Struct, frozen=True):
    """What is known of the columns has refused an edit, or the server one for them: it may be old."""

    named: tuple[str, ...] = ()
    """Columns that an edit names and that are not known: there though no row shows them, perhaps."""


class RowSuspect(msgspec.Struct, frozen=True):
    """Nobody knows which is later, what came of this row or the answer to a write: it is to be read."""

    key: Key


class Broken(msgspec.Struct, frozen=True):
    """What the machine said could not be carried out: it is in error."""

    error: Exception


class Closed(msgspec.Struct, frozen=True):
    """The last user of the table let go."""


Event: TypeAlias = (
    Joined
    | Confirmed
    | Lost
    | Refused
    | Received
    | ReceivedMany
    | ReceivedMessages
    | Gap
    | Fetched
    | FetchFailed
    | Tick
    | AuditNow
    | Hint
    | Turn
    | ColumnsSuspect
    | RowSuspect
    | Broken
    | Closed
)

# Effects: what to do --------------------------------------------------------------------------


class Fetch(msgspec.Struct, frozen=True):
    """Read this over REST and answer with ``Fetched`` or ``FetchFailed`` of the same ``request``."""

    request: int
    query: Query
    purpose: Purpose = "read"
    """Counted in the session's metrics."""


class Cancel(msgspec.Struct, frozen=True):
    """The answer to ``request`` no longer matters."""

    request: int


class Shown(msgspec.Struct, frozen=True):
    """From now on ``rows`` is the table: the first time, or because its columns changed.

    Comes right before the ``Published`` that fills it; until then the old one is what is seen.
    """

    rows: Rows
    schema: Schema
    ranked: Sequence[Key] = ()
    """The keys in the server's order, for an order that only the server knows."""
    before: float | None = None
    """The commit time of the change that comes next and has named the columns; the table was empty until
    then. None: the rows were read."""


class Published(msgspec.Struct, frozen=True):
    """The table changed, as one. ``changes`` is filled where somebody listens (``want_changes``)."""

    cause: Cause
    changes: Sequence[RowChange]
    commit_time: float | None = None
    """Of the latest change in it, for the lag."""


class Ranked(msgspec.Struct, frozen=True):
    """The keys in the server's order, for an order that only the server knows (``Ordered.rank``).

    Comes right after the ``Published`` that it belongs to.
    """

    keys: Sequence[Key]


class StatusChanged(msgspec.Struct, frozen=True):
    status: Status
    reason: str


class Failed(msgspec.Struct, frozen=True):
    """The table cannot be mirrored; ``error`` is raised by ``wait``, ``ready`` and ``df``."""

    error: Exception


class Wake(msgspec.Struct, frozen=True):
    """Send a ``Tick`` at this monotonic time; replaces the wake-up asked for before."""

    at: float


class TurnWanted(msgspec.Struct, frozen=True):
    """A poll is due: send a ``Turn`` when it may begin (``sync/connection/poll_turns.py``)."""


class TurnOver(msgspec.Struct, frozen=True):
    """The turn is another table's."""


class Rejoin(msgspec.Struct, frozen=True):
    """Leave (if joined) and join again, with the mirror's current ``bindings``."""

    reason: str


class Progress(msgspec.Struct, frozen=True):
    """The first snapshot has ``done`` of ``total`` rows (None: not counted)."""

    done: int
    total: int | None


class Told(msgspec.Struct, frozen=True):
    """For metrics and the log: a gap opened, a reconciliation finished, an audit's verdict, drift.

    An audit's verdict comes with its repair. Then ``explained`` takes back that rows differed, because
    changes that were late have come for all of them; or else ``drift`` counts those that were lost, and is
    ``final`` where that is known of all. ``refetch``: rows that an audit had left undecided were read again,
    and so many differed too.
    ``overtaken``: changes that were committed from ``since`` on are not told, only later ones of their rows,
    committed up to ``until``; or, where rows are read instead of a log, it may be so since ``ago`` seconds.
    A comparison began ``elapsed`` seconds ago, waits included; rows that it leaves ``undecided`` are to be
    read again.
    """

    what: Literal[
        "gap",
        "reconciled",
        "audit",
        "explained",
        "drift",
        "overtaken",
        "schema",
        "learnt",
        "refetch",
        "source",
    ]
    detail: Mapping[str, Any] = msgspec.field(default_factory=dict)


Effect: TypeAlias = (
    Fetch
    | Cancel
    | Shown
    | Published
    | Ranked
    | StatusChanged
    | Failed
    | Wake
    | TurnWanted
    | TurnOver
    | Rejoin
    | Progress
    | Told
)
