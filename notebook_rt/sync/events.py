"""The events that go into a mirror, and the effects that it returns.

The mirror performs no I/O. ``mirror.handle(event, now)`` returns effects; the driver in ``runtime/``
carries them out and passes the results back as events. ``now`` is in monotonic seconds; server time
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
    """The change comes from the log of ``sync/table/broadcast.py``: the record is complete, in REST's format,
    and newer than the previous one of the same key; the key is passed separately."""


OPTIONAL_SQL_SCHEMA: Final = "public"
"""The schema of the optional SQL's functions, for tables of any schema."""


class Query(msgspec.Struct, frozen=True):
    """A read over REST. ``params`` are PostgREST's query parameters, in order, unencoded."""

    params: tuple[tuple[str, str], ...]
    count: Literal["exact", "estimated"] | None = None
    """Request the row count. An estimated count is exact up to the size of a page, and the planner's
    estimate above it: an exact count of a large table can exceed the statement timeout."""
    of: tuple[str, str] | None = None
    """Read this schema's table instead of the machine's own."""
    head: bool = False
    """Request no body, only the count."""
    rpc: str | None = None
    """Call this function instead of reading the table; ``args`` is its body."""
    rpc_schema: str | None = None
    """The schema of ``rpc``, if it differs from the table's."""
    args: Mapping[str, Any] | None = None
    describe: tuple[str, ...] = ()
    """Read the description of these tables instead of rows, into ``Page.value``: the answer of
    ``nrt_describe`` (``describe.sql``), else the API's OpenAPI description; None without either."""
    proves: tuple[str, ...] = ()
    """Ask whether these columns are the table's primary key, into ``Page.value``: True, False, or
    None if the server gives no answer. Writes nothing."""
    refusable: bool = False
    """Whether a refusal counts as an answer: ``Page.refusal``."""


class Page(msgspec.Struct, frozen=True):
    """The answer to a ``Query``."""

    rows: Sequence[WireRow]
    count: int | None
    server_time: float
    """The answer's ``Date`` header in whole seconds: the read happened before ``server_time + 1``."""
    value: Any = None
    """The body of an ``rpc`` that is not a list of rows, or of ``describe``, or of ``proves``."""
    scalar: bool = False
    """Whether the body is in ``value``, which may be null, instead of ``rows``."""
    refusal: Exception | None = None
    """The server's error, if the query is ``refusable``."""


# Events ---------------------------------------------------------------------------------------


class Joined(msgspec.Struct, frozen=True):
    """The join was answered ``ok``: changes may arrive from now on, but are not guaranteed yet."""


class Confirmed(msgspec.Struct, frozen=True):
    """A ``system`` ok of ``postgres_changes``. The first one of a join ends the wait; each is a gap."""


class Lost(msgspec.Struct, frozen=True):
    """The socket or channel is gone, or the table lost its channel: no changes until ``Joined``."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The server will not stream this table (``system`` error, join error). ``error`` says why."""

    error: Exception
    final: bool
    """True: a retry cannot help (not published, no such table). False: poll until it succeeds."""


class Received(msgspec.Struct, frozen=True):
    change: Change


class ReceivedMany(msgspec.Struct, frozen=True):
    """Several changes in order of arrival, applied as one, which is much faster."""

    changes: Sequence[Change]


class ReceivedMessages(msgspec.Struct, frozen=True):
    """Messages of a broadcast log in order of arrival (``sync/table/broadcast.py`` reads them)."""

    payloads: Sequence[Any]


class Gap(msgspec.Struct, frozen=True):
    """Changes may have been lost: an unreadable frame, an overflow, a sleeping machine, an exception."""

    reason: str
    missed: bool = True
    """False if the rows are compared as after a join without a sign of a loss."""


class Fetched(msgspec.Struct, frozen=True):
    request: int
    page: Page


class FetchFailed(msgspec.Struct, frozen=True):
    request: int
    error: Exception
    retry_after: float | None
    """Seconds to wait before the next attempt; None: a retry cannot help (a final 4xx)."""


class Tick(msgspec.Struct, frozen=True):
    """The time requested by ``Wake`` has come. An early tick does no harm.

    The first ``Tick`` starts the mirror.
    """


class AuditNow(msgspec.Struct, frozen=True):
    """An audit was requested."""


class Hint(msgspec.Struct, frozen=True):
    """Changes may have been lost silently: audit soon."""

    reason: str
    """The reason for the doubt until then, as part of a sentence; empty without a doubt."""


class Turn(msgspec.Struct, frozen=True):
    """The requested poll (``TurnWanted``) may start; it ends with ``TurnOver``."""


class ColumnsSuspect(msgspec.Struct, frozen=True):
    """The known columns are possibly outdated: they, or the server because of them, refused an edit."""

    named: tuple[str, ...] = ()
    """Unknown columns named by an edit: they may exist although no row contains them."""


class RowSuspect(msgspec.Struct, frozen=True):
    """The row must be read: the order of a received change and a write's answer is unknown."""

    key: Key


class Broken(msgspec.Struct, frozen=True):
    """An effect could not be carried out: the machine is in error."""

    error: Exception


class Closed(msgspec.Struct, frozen=True):
    """The last handle on the table was released."""


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

# Effects --------------------------------------------------------------------------------------


class Fetch(msgspec.Struct, frozen=True):
    """Read this over REST and answer with ``Fetched`` or ``FetchFailed`` of the same ``request``."""

    request: int
    query: Query
    purpose: Purpose = "read"
    """Counted in the session's metrics."""


class Cancel(msgspec.Struct, frozen=True):
    """The answer to ``request`` is no longer needed."""

    request: int


class Shown(msgspec.Struct, frozen=True):
    """From now on ``rows`` is the table: for the first time, or because its columns changed.

    Sent immediately before the ``Published`` that fills it; until then the old table is visible.
    """

    rows: Rows
    schema: Schema
    ranked: Sequence[Key] = ()
    """The keys in the server's order, for an order that only the server knows."""
    before: float | None = None
    """The commit time of the next change, which has named the columns of the empty table; None: the rows
    were read."""


class Published(msgspec.Struct, frozen=True):
    """The table changed, as one batch. ``changes`` is filled if there are listeners (``want_changes``)."""

    cause: Cause
    changes: Sequence[RowChange]
    commit_time: float | None = None
    """Commit time of the latest change in it, for the lag."""


class Ranked(msgspec.Struct, frozen=True):
    """The keys in the server's order, for an order that only the server knows (``Ordered.rank``).

    Sent immediately after the ``Published`` that it belongs to.
    """

    keys: Sequence[Key]


class StatusChanged(msgspec.Struct, frozen=True):
    status: Status
    reason: str


class Failed(msgspec.Struct, frozen=True):
    """The table cannot be mirrored; ``error`` is raised by ``wait``, ``ready`` and ``df``."""

    error: Exception


class Wake(msgspec.Struct, frozen=True):
    """Send a ``Tick`` at this monotonic time; replaces an earlier request."""

    at: float


class TurnWanted(msgspec.Struct, frozen=True):
    """A poll is due: send a ``Turn`` when it may begin (``sync/connection/poll_turns.py``)."""


class TurnOver(msgspec.Struct, frozen=True):
    """The poll is over: another table may poll."""


class Rejoin(msgspec.Struct, frozen=True):
    """Leave (if joined) and join again with the mirror's current ``bindings``."""

    reason: str


class Progress(msgspec.Struct, frozen=True):
    """The first snapshot has ``done`` of ``total`` rows (None: not counted)."""

    done: int
    total: int | None


class Logged(msgspec.Struct, frozen=True):
    """For metrics and the log: a gap opened, a reconciliation finished, an audit's verdict, drift.

    An audit's verdict is sent with its repair. Later ``explained`` revokes the differences, because late
    changes have arrived for all of them; otherwise ``drift`` counts the lost ones, and is ``final`` if that
    is known for all. ``refetch``: rows that an audit left undecided were read again, and this many differed.
    ``overtaken``: changes committed from ``since`` on are not reported, only later ones of their rows,
    committed up to ``until``; or, if rows are read instead of a log, possibly since ``ago`` seconds.
    A comparison started ``elapsed`` seconds ago, including waits; its ``undecided`` rows must be read again.
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
    | Logged
)
