"""Read the messages, heads and positions of the broadcast SQL, and build its queries.

A message or an answer that does not have the form of ``broadcast.sql`` is rejected; an `Absence` contains the
reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from notebook_rt.errors import MissingTableError
from notebook_rt.model.spec import TableSpec
from notebook_rt.sync.events import OPTIONAL_SQL_SCHEMA, Page, Query

VERSION: Final = 3
"""The version of ``broadcast.sql``, which defines its functions and messages."""
HEAD: Final = "notebook_rt_head"
SINCE: Final = "notebook_rt_since"

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """An entry of the log: the changes of one statement, or a part of them."""

    id: int
    op: str
    """``I``, ``U``: rows; ``D``: deleted; ``T``: all rows are deleted; ``R``: read the table again."""
    x: int = 0
    """The transaction; in a message, the message's own field contains it."""
    rows: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    """Keys."""
    big: list[dict[str, Any]] = []
    """Keys of rows that are too large for a message."""
    at: float | None = None
    """When it was written; for a transaction's last entry the commit time, within 10 ms. Seconds since the
    epoch by the database's clock; in a message, the message's own field contains it."""


class Message(msgspec.Struct, frozen=True):
    """A part of the changes of one transaction, as broadcast."""

    epoch: str
    """A different epoch means that the numbers restarted, or that rows are identified by another key."""
    n: int
    x: int
    part: int
    last: bool
    changes: list[Entry]
    at: float | None = None
    """When the transaction was about to commit, seconds since the epoch by the database's clock."""
    topics: list[str] = []
    """Digests of the topics that the transaction has messages in, where there are several."""
    series: int | None = None
    """Within the epoch; another one means that the numbers of a value's topic restarted. None: unknown."""


class Head(msgspec.Struct, frozen=True):
    """The state of the log at a moment: all changes that ``position`` sees have numbers up to ``n``."""

    version: int
    topic: str
    epoch: str
    position: str
    n: int
    series: int
    scope: str = ""
    """The column whose value selects the topic; empty: the topic covers the whole table."""
    key: tuple[str, ...] | None = None
    """The columns by which the log identifies rows: the primary key, empty without one. None: unknown,
    with older SQL."""


class Absence(msgspec.Struct, frozen=True):
    """Why there is no log to follow."""

    reason: str
    scope: str = ""
    """The column whose values are broadcast separately, if the filter does not select one."""
    key: tuple[str, ...] = ()
    """The primary key, if the rows are identified by other columns."""


class Heads(msgspec.Struct, frozen=True):
    version: int
    position: str
    heads: dict[str, dict[str, Any] | None]
    """The logs whose state is not the known one."""


class Since(msgspec.Struct, frozen=True):
    until: str
    changes: list[Entry]
    more: bool
    epoch: str | None = None
    """None: unknown, with older SQL."""
    too_old: bool | None = None
    behind: int | None = None


def read_message(payload: Any) -> Message | None:
    """Return a broadcast's payload as a message; None if it is not one."""
    return converted(payload, Message)


def commit_time(payload: Any) -> float | None:
    """Return the commit time in a broadcast's payload, if it contains one."""
    at = payload.get("at") if isinstance(payload, dict) else None
    return at if isinstance(at, int | float) else None


def topic_digest(topic: str) -> str:
    """Return the digest by which messages name a topic to clients that may not know its name."""
    return hashlib.md5(topic.encode(), usedforsecurity=False).hexdigest()[:8]


def converted(value: Any, into: type[T]) -> T | None:
    try:
        return msgspec.convert(value, into, strict=False)
    except msgspec.ValidationError:
        return None


class Position(msgspec.Struct, frozen=True):
    """A snapshot, as ``pg_snapshot`` writes it: which transactions it sees."""

    text: str
    low: int
    """All earlier transactions were over."""
    high: int
    """This one and all later ones had not begun."""
    open: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Position:
        """
        >>> position = Position.of("5:9:6,8")
        >>> [position.sees(x) for x in (4, 5, 6, 7, 8, 9)]
        [True, True, False, True, False, False]
        """
        low, high, between = text.split(":")
        return cls(text, int(low), int(high), frozenset(map(int, filter(None, between.split(",")))))

    def sees(self, transaction: int) -> bool:
        """Return whether the transaction was over: committed or rolled back."""
        return transaction < self.low or (transaction < self.high and transaction not in self.open)


def head_query(spec: TableSpec) -> Query:
    """Query whether a table's changes are broadcast, and where its log is."""
    args = {f"p_{name}": value for name, value in named(spec).items()}
    return call(HEAD, args)


def call(function: str, args: Mapping[str, Any]) -> Query:
    return Query((), rpc=function, rpc_schema=OPTIONAL_SQL_SCHEMA, args=args, refusable=True)


def named(spec: TableSpec) -> dict[str, Any]:
    """Return the table and the equality conditions on its rows."""
    names: dict[str, Any] = {"schema": spec.schema, "table": spec.table}
    if equal := spec.filter.equal:
        names["equal"] = equal  # one of them may be the scope, and its value may have a topic
    return names


def read_head(page: Page, key: tuple[str, ...] | None = None) -> tuple[Head | None, Absence | None]:
    """Read the answer to ``head_query``: the head, or None and the reason why there is no log to follow.

    ``key`` are the columns by which the user identifies rows; None: those of the log.
    """
    if page.refusal is not None or page.value is None:
        return None, _why(page)
    value = page.value if isinstance(page.value, dict) else {}
    version, scope = value.get("version"), value.get("scope")
    if version != VERSION:
        return None, Absence(f"its SQL has version {version}, and this notebook_rt needs {VERSION}")
    if isinstance(scope, str) and "topic" not in value:
        why = f'each value of "{scope}" is broadcast apart, and the filter does not say which one'
        return None, Absence(why, scope)
    head = converted(value, Head)
    if head is None:
        return None, Absence("its SQL says what this notebook_rt does not understand")
    if key is not None and head.key is None:
        return None, Absence("its SQL is too old for key=")
    if key is not None and set(key) != set(head.key or ()):
        primary = ", ".join(head.key or ()) or "missing now"
        why = f"they are told by the primary key ({primary}), and not by {', '.join(key)}"
        return None, Absence(why, key=head.key or ())
    return head, None


def _why(page: Page) -> Absence:
    if isinstance(page.refusal, MissingTableError) and not page.refusal.exposed:
        return Absence(
            f'the API does not expose schema "{OPTIONAL_SQL_SCHEMA}", which the functions of its SQL are in: '
            "add it to the exposed schemas (Supabase dashboard: Project Settings, Data API)"
        )
    if page.refusal is not None:
        return Absence("the project does not have the SQL")
    return Absence(
        "the table is not broadcast, or this login may not read its topic (which takes select on all "
        "columns, and with a scope a value that is this login's own)"
    )
