"""Queued operations: one ``Op`` per write, broadcast or call, as plain JSON values.

An ``Op`` contains everything needed to send it, so that a kernel that never opened the table can send
what another one left behind: the key, the changed columns, the values they were based on, the columns'
types and the names of the merge rules. ``coalesce`` combines two unsent writes into one.
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
    """The row's key columns before the write; empty for an inserted row that is `unkeyed`."""
    values: Mapping[str, Json] = msgspec.field(default_factory=dict)
    """The changed columns; a call's arguments; a broadcast's payload."""
    base: Mapping[str, Json] = msgspec.field(default_factory=dict)
    """Previous values of the changed columns; for a delete, the row as it was seen."""
    types: Mapping[str, str] = msgspec.field(default_factory=dict)
    """PostgreSQL types of the columns in ``key``, ``values``, ``base`` and ``version``."""
    rules: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Merge strategies by column; ``""`` is the default."""
    version: str = ""
    """The column with the time of a row's last change, if the table has one."""
    own_key: bool = False
    upsert: bool = False
    """An insert that sets the columns of an existing row with its key instead, whatever their values."""
    drawn: str = ""
    """The key column whose value came from a sequence: an existing row with this key is another one."""
    event: str = ""
    """A broadcast's event."""
    private: bool = False
    """Whether a broadcast goes to a private channel."""
    repeatable: bool = False
    """Whether a call may be made twice."""
    xmin: str = ""
    """The row's version when the write was sent, if a lost answer would otherwise leave it in doubt."""
    untold: bool = False
    """A sum sent in a way that cannot be verified afterwards: through the ledger, or without a version."""
    expires_at: float | None = None
    lane: str = ""
    """Operations with the same lane keep their order: the row, the topic; a call has its own lane."""
    state: OpState = "waiting"
    sent: bool = False
    """Whether it was sent at least once and the answer is not known."""
    attempts: int = 0
    not_before: float = 0.0
    error: str = ""
    """The server's message when it refused the operation."""
    owner: str = ""
    """The owner (``str`` of an `Owner`); the queue sets it."""
    session: str = ""
    """The session that edited it last; the queue sets it."""
    seq: int = 0
    blocked: bool = False
    """Whether an earlier operation of its lane has not been settled."""


_as_lane = json.JSONEncoder(ensure_ascii=False).encode


class Put(msgspec.Struct, frozen=True):
    """The result of putting an operation into the queue."""

    op: Op | None
    """The operation as it is stored now, except its ``seq``, owner and session.

    None: it cancelled an unsent one, and nothing is left to send.
    """
    before: Op | None = None
    """The earlier operation that it was combined with, in its previous state."""
    parked: tuple[Op, ...] = ()
    """Operations parked behind ``before``, which had failed, that ``op`` also includes."""


def lane_of(schema: str, target: str, key: Mapping[str, Json] | None = None) -> str:
    """Return the lane of a row, of a topic, or of a call."""
    return _as_lane([schema, target, *(key or {}).values()])


def changes_key(op: Op) -> bool:
    return op.kind == "update" and any(name in op.values for name in op.key)


def unkeyed(op: Op) -> bool:
    """Return whether only the server can generate the key of an inserted row.

    It cannot be checked afterwards whether such a row was inserted, so it is sent once.
    """
    return op.kind == "insert" and not op.key


def keeps_place(op: Op) -> bool:
    """Return whether it may neither overtake nor be overtaken: an insert, delete, call or change of a key."""
    return op.kind in ("insert", "delete", "rpc") or changes_key(op)


def may_pass(op: Op, earlier: Op) -> bool:
    """Return whether an operation may be sent before an earlier one of another lane that still waits.

    A row may refer to one inserted before it, take the key or the unique value that an update or a
    delete gives up, or be used by a call. So no insert, delete, call or change of a key overtakes a
    write or a call, nor is it overtaken. Updates of different rows that keep their keys may be
    reordered, and so may broadcasts of another topic.
    """
    if "broadcast" in (op.kind, earlier.kind):
        return op.lane != earlier.lane
    return not (keeps_place(op) or keeps_place(earlier))


def key_after(op: Op) -> dict[str, Json]:
    """Return the row's key columns after the write."""
    if op.kind != "update":
        return dict(op.key)
    return {name: op.values.get(name, value) for name, value in op.key.items()}


def coalesce(last: Op, new: Op) -> tuple[Op | None, bool]:
    """Combine two writes of the same row into one, if ``last`` has not been sent.

    Returns
    -------
    tuple
        The replacement of ``last`` (None: nothing is left to write), and whether the two could be
        combined at all.
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
    """Return whether ``new`` was made on top of ``last``, and for its row.

    Another kernel may not have seen it yet; and a lane continues with another row if that row got the
    key that the first one gave up.
    """
    return new.key == key_after(last) and all(
        new.base[column] == value for column, value in last.values.items() if column in new.base
    )
