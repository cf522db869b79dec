"""Operations as rows of the queue's file; each function runs inside a transaction of the caller.

It implements the rules of a lane: only its first row is not ``blocked``; unsent operations of one row of
a table become one (`ops.coalesce`); and an edit of a refused write mends it, together with the operations
parked behind it. Each owner has its own lanes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from notebook_rt.edits.ops import (
    WRITES,
    Op,
    Put,
    coalesce,
    keeps_place,
    lane_of,
    may_pass,
)
from notebook_rt.edits.statements import only_once
from notebook_rt.outbox.stored import body, fields_of_body

_INSERT = """insert into ops
    (id, kind, schema, target, lane, body, made_at, expires_at, state, blocked, sent, attempts,
     not_before, error, owner, session, barrier)
    values (:id, :kind, :schema, :target, :lane, :body, :made_at, :expires_at, :state,
     exists (select 1 from ops where owner = :owner and lane = :lane), :sent, :attempts,
     :not_before, :error, :owner, :session, :barrier)"""
_UPDATE = """update ops set kind = :kind, body = :body, made_at = :made_at,
    expires_at = :expires_at, state = :state, sent = :sent, attempts = :attempts,
    not_before = :not_before, error = :error, session = :session, barrier = :barrier where id = :id"""
_LANES = 500
"""Maximum number of lanes per query."""


def put(
    db: sqlite3.Connection,
    owner: str,
    ops: Sequence[Op],
    *,
    merge: bool,
    session: str = "",
    is_paused: Callable[[str], bool] = lambda session: False,
) -> list[Put]:
    """Append an owner's operations of a session, in order, or combine them with earlier ones if possible.

    Parameters
    ----------
    is_paused
        Whether a session is paused: its operations are not combined with those of another session.
    """
    ops = [op if op.lane else replace(op, lane=lane_of(op.schema, op.target, op.key)) for op in ops]
    # For a single operation, `_merge` looks up its lane.
    lanes = [op.lane for op in ops if op.kind in WRITES] if merge else []
    taken = _taken(db, owner, lanes) if len(ops) > 1 else set(lanes)
    results: list[Put] = []
    fresh: list[dict[str, object]] = []
    for op in ops:
        if merge and op.kind in WRITES and op.lane in taken:
            if fresh:
                db.executemany(_INSERT, fresh)
                fresh.clear()
            made_one = _merge(db, owner, op, session, is_paused)
            if made_one is not None:
                results.append(made_one)
                continue
        taken.add(op.lane)
        fresh.append({**_values(op), "owner": owner, "session": session})
        results.append(Put(op))
    db.executemany(_INSERT, fresh)
    return results


def _taken(db: sqlite3.Connection, owner: str, lanes: Sequence[str]) -> set[str]:
    """Return those of ``lanes`` that contain an operation."""
    found: set[str] = set()
    for start in range(0, len(lanes), _LANES):
        some = lanes[start : start + _LANES]
        marks = ", ".join("?" * len(some))
        rows = db.execute(
            f"select distinct lane from ops where owner = ? and lane in ({marks})", [owner, *some]
        )
        found.update(row["lane"] for row in rows)
    return found


def _merge(
    db: sqlite3.Connection, owner: str, op: Op, session: str, is_paused: Callable[[str], bool]
) -> Put | None:
    """Combine ``op`` with the last of its lane; None: they stay two."""
    last = db.execute(
        "select * from ops where owner = ? and lane = ? order by seq desc limit 1",
        (owner, op.lane),
    ).fetchone()
    if last is None:
        return None
    if last["session"] != session and any(map(is_paused, (last["session"], session))):
        return None
    if last["blocked"] or last["state"] == "failed":
        mended = _mend(db, owner, op, session)
        if mended is not None:
            return mended
    if last["state"] != "waiting" or last["sent"] or _would_overtake(db, owner, op, last["seq"]):
        return None
    before = op_of(last)
    whole, merged = coalesce(before, op)
    if not merged:
        return None
    if whole is None:
        remove(db, before)
    else:
        whole = replace(whole, session=session)
        store(db, whole)
    return Put(whole, before)


def _would_overtake(db: sqlite3.Connection, owner: str, op: Op, place: int) -> bool:
    """Return whether ``op``, at an earlier position, would be sent before one that it must not pass.

    A row that was inserted offline and edited later may refer to one that was inserted in between.
    """
    of = "kind != 'broadcast'" if keeps_place(op) else "barrier = 1"
    between = db.execute(
        f"select 1 from ops where owner = ? and seq > ? and {of} and lane != ? "
        "and state = 'waiting' limit 1",
        (owner, place, op.lane),
    )
    return between.fetchone() is not None


def _mend(db: sqlite3.Connection, owner: str, op: Op, session: str) -> Put | None:
    """Combine ``op`` with the first of its lane, which was refused; None: it is not about that one.

    A refused edit has lost its position: edited again, it is sent after everything that it must not pass.
    """
    found = db.execute(
        "select * from ops where owner = ? and lane = ? order by seq", (owner, op.lane)
    )
    failed, *parked = map(op_of, found.fetchall())
    about = op.kind == "delete" or op.values.keys() & failed.values
    if failed.state != "failed" or not about or any(one.sent for one in parked):
        return None
    if failed.sent and ((failed.kind == "insert" and not failed.upsert) or only_once(failed)):
        return None  # it may have been applied: only its original form would be recognized
    whole: Op | None = failed
    for one in (*parked, op):
        if whole is None or one.state != "waiting":
            return None
        whole, merged = coalesce(whole, one)
        if not merged:
            return None
    for one in (*parked, *([failed] if whole is None else [])):
        remove(db, one)
    if whole is not None:
        whole = replace(whole, state="waiting", attempts=0, error="", sent=False)
        whole = replace(whole, not_before=op.not_before, session=session)
        if _would_overtake(db, owner, whole, failed.seq):
            remove(db, failed)
            _add(db, owner, [whole])
        else:
            store(db, whole)
    return Put(whole, failed, tuple(parked))


def take_back(db: sqlite3.Connection, owner: str, done: Put) -> bool:
    """Undo a `put`; return False if it was sent and may be applied, or has another edit in it by now.

    A refused operation was not applied.
    """
    if done.op is None:
        if done.before is not None:
            _add(db, owner, [done.before, *done.parked])
        return True
    stored = db.execute(
        "select * from ops where owner = ? and id = ? and not sent and state in ('waiting', 'failed')",
        (owner, done.op.id),
    ).fetchone()
    if stored is None or stored["made_at"] != done.op.made_at:
        return False
    if done.before is None:
        remove(db, op_of(stored))
    else:
        store(db, done.before)
        db.execute("update ops set seq = ? where id = ?", (done.before.seq, done.before.id))
        _add(db, owner, done.parked)
    return True


def _add(db: sqlite3.Connection, owner: str, ops: Iterable[Op]) -> None:
    """Append operations that were in the file before."""
    db.executemany(_INSERT, [{**_values(op), "owner": owner} for op in ops])


def store(db: sqlite3.Connection, op: Op) -> None:
    """Replace an operation by another version."""
    db.execute(_UPDATE, _values(op))


def remove(db: sqlite3.Connection, op: Op) -> None:
    """Remove an operation; the next one of its lane may be sent."""
    db.execute("delete from ops where id = ?", (op.id,))
    db.execute(
        "update ops set blocked = 0 "
        "where seq = (select min(seq) from ops where owner = ? and lane = ?)",
        (op.owner, op.lane),
    )


def later(db: sqlite3.Connection, op: Op) -> Iterator[Op]:
    """Return the operations behind one in its lane, in order."""
    rows = db.execute(
        "select * from ops where owner = ? and lane = ? and seq > ? order by seq",
        (op.owner, op.lane, op.seq),
    )
    return map(op_of, rows.fetchall())


def ready(
    db: sqlite3.Connection, owner: str, limit: int, now: float, paused: Sequence[str] = ()
) -> tuple[list[Op], bool]:
    """Return what may be sent now, in order: the first of each lane that depends on no earlier waiting
    operation, and broadcasts one behind the other. Also return whether more waits, to be sent afterwards.

    An operation that is set aside, belongs to a ``paused`` session, or is held back so that it can be
    undone blocks only its own lane.
    """
    _expire(db, owner, now)
    # By the primary key, lazily: usually the first few rows suffice.
    found = db.execute(
        "select * from ops not indexed where owner = ? and state = 'waiting' and lane not in "
        "(select lane from ops where owner = ? and state in ('failed', 'asking')) "
        f"{_not_of(paused)} order by seq",
        (owner, owner, *paused),
    )
    ops: list[Op] = []
    held: list[Op] = []
    quiet: set[str] = set()
    seen = 0
    for row in found:
        seen += 1
        if len(ops) == limit:
            break
        if len(held) > 1 and row["kind"] != "broadcast":
            continue  # nothing passes the second held operation, which did not pass the first
        op = op_of(row)
        if op.lane in quiet:
            continue
        waits = op.not_before > now
        if waits and not (op.attempts or op.sent):
            quiet.add(op.lane)
        elif not all(may_pass(op, one) for one in held):
            held.append(op)
        elif not waits and not op.blocked:
            ops.append(op)
        elif op.kind != "broadcast" and not held:
            held.append(op)
    found.close()
    for op in list(ops):
        if op.kind == "broadcast" and len(ops) < limit:
            more = db.execute(
                "select * from ops where owner = ? and lane = ? and seq > ? and state = 'waiting' "
                f"{_not_of(paused)} order by seq limit ?",
                (owner, op.lane, op.seq, *paused, limit - len(ops)),
            )
            ops += map(op_of, more)
    return sorted(ops, key=lambda op: op.seq), seen > len(ops)


def next_at(db: sqlite3.Connection, where: str, given: list[object], paused: Sequence[str]) -> Any:
    """Return when the next waiting operation that is not blocked may be sent."""
    return db.execute(
        f"select min(not_before) from ops where {where} {_not_of(paused)}", [*given, *paused]
    ).fetchone()[0]


def waits(db: sqlite3.Connection, where: str, given: list[object], paused: Sequence[str]) -> bool:
    """Return whether there is a waiting operation that is not blocked."""
    found = db.execute(
        f"select 1 from ops where {where} {_not_of(paused)} limit 1", [*given, *paused]
    )
    return found.fetchone() is not None


def _not_of(paused: Sequence[str]) -> str:
    return f"and session not in ({', '.join('?' * len(paused))})" if paused else ""


def _expire(db: sqlite3.Connection, owner: str, now: float) -> None:
    """Drop operations that have expired."""
    expired = db.execute(
        "select * from ops where expires_at <= ? and owner = ?", (now, owner)
    ).fetchall()
    for row in expired:
        remove(db, op_of(row))


def claim(db: sqlite3.Connection, owner: str, left: str) -> None:
    """Assign to this owner the rows of another one; ``""`` is the unknown owner of an older file."""
    db.execute("update conflicts set owner = ? where owner = ?", (owner, left))
    db.execute("update ops set owner = ? where owner = ?", (owner, left))
    db.execute("delete from leases where owner = ?", (left,))
    db.execute(
        "update ops set blocked = exists (select 1 from ops as earlier where "
        "earlier.owner = ops.owner and earlier.lane = ops.lane and earlier.seq < ops.seq) "
        "where owner = ?",
        (owner,),
    )


def op_of(row: sqlite3.Row) -> Op:
    """Return the operation stored in a row of the file."""
    return Op(
        id=row["id"],
        kind=row["kind"],
        schema=row["schema"],
        target=row["target"],
        made_at=row["made_at"],
        expires_at=row["expires_at"],
        lane=row["lane"],
        state=row["state"],
        sent=bool(row["sent"]),
        attempts=row["attempts"],
        not_before=row["not_before"],
        error=row["error"],
        owner=row["owner"],
        session=row["session"],
        seq=row["seq"],
        blocked=bool(row["blocked"]),
        **fields_of_body(row["body"]),
    )


def _values(op: Op) -> dict[str, object]:
    return {
        "id": op.id,
        "kind": op.kind,
        "schema": op.schema,
        "target": op.target,
        "lane": op.lane,
        "body": body(op),
        "made_at": op.made_at,
        "expires_at": op.expires_at,
        "state": op.state,
        "sent": op.sent,
        "attempts": op.attempts,
        "not_before": op.not_before,
        "error": op.error,
        "session": op.session,
        "barrier": keeps_place(op),
    }
