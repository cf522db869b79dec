"""What waits in the queue: one ``Op`` a write, broadcast or call, as plain JSON values.

An ``Op`` holds all that sending it takes, so that a kernel that never opened the table can send what
another one left behind: the key, the changed columns, the values they were based on, the columns'
types and the names of the merge rules. ``coalesce`` makes one write of two that have not left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

Json: TypeAlias = Any
Right: TypeAlias = Literal["insert", "update", "delete"]
"""A grant that an edit needs."""
OpKind: TypeAlias = Literal["insert", "update", "delete", "rpc", "broadcast"]
OpState: TypeAlias = Literal["waiting", "failed", "asking"]

WRITES = ("insert", "update", "delete")


class Op(msgspec.Struct, frozen=True):
    """One queued operation. Times are seconds since the epoch, in server time."""

    id: str
    kind: OpKind
    schema: str
    target: str
    """The table, function or topic."""
    made_at: float
    key: Mapping[str, Json] = msgspec.field(default_factory=dict)
    """The row's key columns before the write; empty for a row that is inserted and `unkeyed`."""
    values: Mapping[str, Json] = msgspec.field(default_factory=dict)
    """The changed columns; a call's arguments; a broadcast's payload."""
    base: Mapping[str, Json] = msgspec.field(default_factory=dict)
    """What the changed columns were; of a delete, the row as it was seen."""
    types: Mapping[str, str] = msgspec.field(default_factory=dict)
    """PostgreSQL's types of the columns in ``key``, ``values``, ``base`` and ``version``."""
    rules: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Merge strategies by column; ``""`` is the default."""
    version: str = ""
    """The column with the time of a row's last change, if the table has one."""
    own_key: bool = False
    upsert: bool = False
    """An insert that, where there is a row of its key, sets its columns instead, whatever they were."""
    drawn: str = ""
    """The key's column that a sequence gave: a row that is there already is somebody else's."""
    event: str = ""
    """A broadcast's event."""
    private: bool = False
    """A broadcast into a private channel."""
    repeatable: bool = False
    """A call that may be made twice."""
    xmin: str = ""
    """The row's version when the write left, where its answer could be lost beyond telling."""
    untold: bool = False
    """A sum that left by a way of which nothing tells afterwards: the ledger, or without a version."""
    expires_at: float | None = None
    lane: str = ""
    """What shares an order: the row, the topic; a call has one of its own."""
    state: OpState = "waiting"
    sent: bool = False
    """It left at least once and the answer is not known."""
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""
    """The server's words when it refused."""
    owner: str = ""
    """Whose it is (``str`` of an `Owner`); the queue puts it in."""
    session: str = ""
    """The session that edited it last; the queue puts it in."""
    seq: int = 0
    blocked: bool = False
    """An earlier operation of its lane has not been settled."""


_as_lane = json.JSONEncoder(ensure_ascii=False).encode


class Put(msgspec.Struct, frozen=True):
    """What became of an operation that was put into the queue."""

    op: Op | None
    """As it is stored now, but for its ``seq``, owner and session.

    None: it took back one that had not left, and nothing is left to send.
    """
    before: Op | None = None
    """The operation that it was made one with, as it was."""
    parked: tuple[Op, ...] = ()
    """What stood behind ``before``, which had failed, and is in ``op`` too."""


def lane_of(schema: str, target: str, key: Mapping[str, Json] | None = None) -> str:
    """The lane of a row, of a topic, or of a call."""
    return _as_lane([schema, target, *(key or {}).values()])


def changes_key(op: Op) -> bool:
    return op.kind == "update" and any(name in op.values for name in op.key)


def unkeyed(op: Op) -> bool:
    """Whether only the server can make the key of a row that is inserted.

    Nothing tells afterwards whether such a row is in, so it leaves once.
    """
    return op.kind == "insert" and not op.key


def keeps_place(op: Op) -> bool:
    """Whether nothing may overtake it, nor it anything: an insert, a delete, a call, a change of a key."""
    return op.kind in ("insert", "delete", "rpc") or changes_key(op)


def may_pass(op: Op, earlier: Op) -> bool:
    """Whether an operation may leave before an earlier one of another lane that still waits.

    A row may refer to what was inserted before it, take the key or the unique value that an update or
    a delete gives up, or be what a call is about: no insert, delete, call or change of a key overtakes
    a write or a call, nor is it overtaken. Updates of different rows that keep their keys may, and so
    may broadcasts of another topic.
    """
    if "broadcast" in (op.kind, earlier.kind):
        return op.lane != earlier.lane
    return not (keeps_place(op) or keeps_place(earlier))


def key_after(op: Op) -> dict[str, Json]:
    """The row's key columns after the write."""
    if op.kind != "update":
        return dict(op.key)
    return {name: op.values.get(name, value) for name, value in op.key.items()}


def coalesce(last: Op, new: Op) -> tuple[Op | None, bool]:
    """Make one write of two of the same row, of which ``last`` has not left.

    Returns
    -------
    tuple
        What takes the place of ``last`` (None: nothing is left to write), and whether the two could
        be made one at all.
    """
    if not _follows(last, new):
        return last, False
    match last.kind, new.kind:
        case "insert" | "update", "update" if not changes_key(new):
            return replace(
                last,
                values={**last.values, **new.values},
                base={} if last.kind == "insert" else {**new.base, **last.base},
                types={**last.types, **new.types},
                rules={**last.rules, **new.rules},
                made_at=new.made_at,
            ), True
        case "insert", "insert" if new.upsert:
            return replace(
                last,
                values={**last.values, **new.values},
                types={**last.types, **new.types},
                rules={**last.rules, **new.rules},
                made_at=new.made_at,
                upsert=True,
                own_key=False,
                drawn="",
            ), True
        case "update", "insert" if (
            new.upsert and not changes_key(last) and last.values.keys() <= new.values.keys()
        ):
            return replace(new, id=last.id, owner=last.owner, seq=last.seq, lane=last.lane), True
        case "insert", "delete" if not last.upsert:
            return None, True
        case "update", "delete" if not changes_key(last):
            return replace(
                new,
                id=last.id,
                key=last.key,
                base={**new.base, **last.base},
                types={**last.types, **new.types},
                owner=last.owner,
                seq=last.seq,
                lane=last.lane,
            ), True
        case _:
            return last, False


def _follows(last: Op, new: Op) -> bool:
    """Whether ``new`` was made on top of ``last``, and of its row.

    Another kernel may not have seen it yet; and a lane goes on with another row where that was given
    the key which the first one left.
    """
    return new.key == key_after(last) and all(
        new.base[column] == value for column, value in last.values.items() if column in new.base
    )
