"""What the SQL of broadcasts says: messages, heads and positions, as they are read; and how it is asked.

A message or an answer that is not as ``broadcast.sql`` makes it is none, and an `Absence` says why not.
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
"""Of ``broadcast.sql``: what its functions and messages mean."""
HEAD: Final = "notebook_rt_head"
SINCE: Final = "notebook_rt_since"

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """What one statement changed, or a part of that: an entry of the log."""

    id: int
    op: str
    """``I``, ``U``: rows; ``D``: gone; ``T``: all rows are gone; ``R``: read the table again."""
    x: int = 0
    """The transaction; in a message the message's own says it."""
    rows: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    """Keys."""
    big: list[dict[str, Any]] = []
    """Keys of rows that are too large for a message."""
    at: float | None = None
    """When it was written; of a transaction's last entry, when that was committed, to 10 ms. Seconds since
    the epoch by the database's clock; in a message the message's own says it."""


class Message(msgspec.Struct, frozen=True):
    """A part of what one transaction changed, as it was broadcast."""

    epoch: str
    """Another one: the numbers began anew, or rows are told by another key."""
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
    """Within the epoch; another one: the numbers of a value's topic began anew. None: it does not say."""


class Head(msgspec.Struct, frozen=True):
    """What the log has at a moment: all that ``position`` sees has a number of at most ``n``."""

    version: int
    topic: str
    epoch: str
    position: str
    n: int
    series: int
    scope: str = ""
    """The column whose value the topic is of; empty: it is of the whole table."""
    key: tuple[str, ...] | None = None
    """The columns that the log tells rows by: the primary key, empty without one. None: older SQL, which
    does not say."""


class Absence(msgspec.Struct, frozen=True):
    """Why there is nothing to follow."""

    reason: str
    scope: str = ""
    """The column of whose values each is broadcast apart, where the filter does not say which one."""
    key: tuple[str, ...] = ()
    """The primary key, where the rows are to be told apart by another one."""


class Heads(msgspec.Struct, frozen=True):
    version: int
    position: str
    heads: dict[str, dict[str, Any] | None]
    """Those that are not what was known of them."""


class Since(msgspec.Struct, frozen=True):
    until: str
    changes: list[Entry]
    more: bool
    epoch: str | None = None
    """None: older SQL, which does not say."""
    too_old: bool | None = None
    behind: int | None = None


def read_message(payload: Any) -> Message | None:
    """A broadcast's payload as a message; None: it is none."""
    return converted(payload, Message)


def commit_time(payload: Any) -> float | None:
    """When what a broadcast's payload tells was committed, where it says so."""
    at = payload.get("at") if isinstance(payload, dict) else None
    return at if isinstance(at, int | float) else None


def topic_digest(topic: str) -> str:
    """A topic as messages name it to those who may not know its name."""
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
    """All before were over."""
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
        """Whether it was committed, or rolled back, by then."""
        return transaction < self.low or (transaction < self.high and transaction not in self.open)


def head_query(spec: TableSpec) -> Query:
    """Ask whether a table's changes are broadcast, and where its log is."""
    args = {f"p_{name}": value for name, value in named(spec).items()}
    return call(HEAD, args)


def call(function: str, args: Mapping[str, Any]) -> Query:
    return Query((), rpc=function, rpc_schema=OPTIONAL_SQL_SCHEMA, args=args, refusable=True)


def named(spec: TableSpec) -> dict[str, Any]:
    """The table, and what its rows are equal to."""
    names: dict[str, Any] = {"schema": spec.schema, "table": spec.table}
    if equal := spec.filter.equal:
        names["equal"] = equal  # one of them may be the scope, and the value one that has a topic
    return names


def read_head(page: Page, key: tuple[str, ...] | None = None) -> tuple[Head | None, Absence | None]:
    """The answer to ``head_query``; None where there is nothing to follow, and why.

    ``key``: what the user tells rows apart by; None: by what the log does.
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
