"""The merge decisions that the queue's file keeps, and conflicts that still need a decision.

Each function runs inside a transaction of the caller.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from notebook_rt.edits.decide import Record
from notebook_rt.edits.ops import Json, Op
from notebook_rt.model.stored import decode, encode

KEPT = 10_000
"""Number of past decisions that are kept."""


def find(
    db: sqlite3.Connection,
    owner: str | None,
    schema: str | None,
    target: str | None,
    *,
    only_open: bool,
) -> list[Record]:
    """Return the decisions of an owner, about a table, or all, oldest first."""
    wanted = {"owner": owner, "schema": schema, "target": target}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = " and ".join([*(f"{name} = ?" for name in given), "open" if only_open else "true"])
    rows = db.execute(
        f"select * from conflicts where {where} order by number", list(given.values())
    )
    return [
        Record(
            row["number"],
            row["op"],
            row["schema"],
            row["target"],
            bool(row["open"]),
            decode(row["record"]),
        )
        for row in rows
    ]


def keep(db: sqlite3.Connection, op: Op, records: Iterable[dict[str, Json]]) -> None:
    """Add decisions about an operation."""
    for record in records:
        number = db.execute(
            "insert into conflicts (op, schema, target, open, record, owner) "
            "values (?, ?, ?, ?, ?, ?)",
            (
                *(op.id, op.schema, op.target, bool(record.get("open"))),
                *(encode(record).decode(), op.owner),
            ),
        ).lastrowid
        db.execute("delete from conflicts where number <= ? and not open", ((number or 0) - KEPT,))


def unrecorded(
    db: sqlite3.Connection, op: str, records: Iterable[dict[str, Json]]
) -> list[dict[str, Json]]:
    """Return the decisions about an operation that are not stored yet.

    An operation that has asked merges its other columns again, which may already have been merged.
    """
    rows = db.execute("select record from conflicts where op = ? and not open", (op,))
    known = [_undated(decode(row["record"])) for row in rows]
    return [record for record in records if _undated(record) not in known]


def _undated(record: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in record.items() if name != "at"}


def close(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Delete open conflicts that were decided."""
    db.executemany("delete from conflicts where number = ?", [(number,) for number in numbers])


def drop_open(db: sqlite3.Connection, op: Op) -> None:
    """Delete the open conflicts of an operation that is being dropped."""
    db.execute("delete from conflicts where op = ? and open", (op.id,))
