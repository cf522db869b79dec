"""What is sent to the server: the request of an operation, and which are sent as one statement. Pure.

Its input is an ``Op`` and what is known of the row; its output is a ``Request`` for PostgREST.

A write is conditional on what it was based on: the base values of the changed columns if the server can
compare them, else the row's ``xmin``, read just before (``docs/design/facts.md``, "A version for every
table?"). A sum or a union uses ``xmin`` too, so that after a lost answer an unchanged row proves that it
was not applied; or it goes through the ledger function, which knows each operation's id.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from notebook_rt.edits.ops import Json, Op, changes_key
from notebook_rt.model.filters import Condition, column_name
from notebook_rt.model.http import Request
from notebook_rt.model.kinds import NUMBERS
from notebook_rt.model.stored import encode
from notebook_rt.model.types import canonical, decode, kind, to_json, to_rest

LEDGER: Final = "notebook_rt_write"
MANY: Final = "notebook_rt_write_many"
_INSERTING: Final = "return=representation,resolution=ignore-duplicates"
_UPSERTING: Final = "return=representation,resolution=merge-duplicates"
_MAX_BODY: Final = 500_000
"""Maximum number of bytes of the rows inserted by one statement."""
_MAX_CONDITION = 1_500
"""Maximum number of characters of base values in a URL; longer ones are compared through ``xmin``."""
_MAX_CONDITIONS = 4_000
"""Maximum number of characters of the conditions of several rows in a URL."""
_FLOAT_DIGITS: Final = 15
"""Number of digits that a float always represents."""
_NO_EQUALITY: Final = {
    "json",
    "xml",
    "point",
    "polygon",
    "path",
    "line",
    "box",
    "lseg",
    "circle",
    "jsonpath",
}


def fetch(op: Op, *, xmin: bool, narrow: bool = False) -> Request:
    """Return the request that reads the operation's row."""
    select = _back(op, narrow) + (",xmin" if xmin else "")
    return Request("GET", _table(op), (*_key_filters(op), ("select", select)), schema=op.schema)


def write_all(ops: Sequence[Op], *, narrow: bool = False) -> Request:
    """Return one statement for several inserts into one table, deletes from it, or updates to the same
    values: all or none.

    Deletes and updates apply only to rows that are what they were based on.
    """
    first = ops[0]
    select = ("select", _back(first, narrow))
    if first.kind == "insert":
        return _insert(first, (select,), [dict(op.values) for op in ops])
    either = f"({','.join(map(_row_condition, ops))})"
    if first.kind == "update":
        values, params = dict(first.values), (("or", either), select)
        return Request(
            "PATCH", _table(first), params, values, "return=representation", first.schema
        )
    params = (("or", either), ("select", ",".join(map(column_name, first.key))))
    return Request("DELETE", _table(first), params, None, "return=representation", first.schema)


def write(op: Op, *, by_xmin: bool = False, narrow: bool = False, unseen: bool = False) -> Request:
    """Return the conditional write of an insert, update or delete.

    Parameters
    ----------
    narrow : bool
        Request only the columns that the operation knows, because not every login may read all.
    unseen : bool
        An insert that reads nothing: it neither requests the row nor checks whether it exists.
    """
    if unseen:
        return Request("POST", _table(op), (), dict(op.values), "return=minimal", op.schema)
    select = ("select", _back(op, narrow))
    if op.kind == "insert":
        return _insert(op, (select,), dict(op.values))
    condition = [Condition("xmin", "eq", (op.xmin,))] if by_xmin else _conditions(op)[0]
    params = (*_key_filters(op), *(one.to_rest() for one in condition), select)
    method: Literal["DELETE", "PATCH"] = "DELETE" if op.kind == "delete" else "PATCH"
    body = None if op.kind == "delete" else dict(op.values)
    return Request(method, _table(op), params, body, "return=representation", op.schema)


def _insert(op: Op, params: tuple[tuple[str, str], ...], rows: Json) -> Request:
    """Insert rows; an existing row with the key stays, or an upsert sets its columns."""
    if not op.upsert:
        return Request("POST", _table(op), params, rows, _INSERTING, op.schema)
    on = ("on_conflict", ",".join(map(column_name, op.key)))
    return Request("POST", _table(op), (on, *params), rows, _UPSERTING, op.schema)


def insert_unkeyed(ops: Sequence[Op], *, narrow: bool = False) -> Request:
    """Insert rows whose keys the server generates, as one statement: all or none.

    A key that another row has is an error, unlike in `_insert`: such a row is never this one.
    """
    first = ops[0]
    rows = [dict(op.values) for op in ops]
    select = ("select", _back(first, narrow))
    return Request("POST", _table(first), (select,), rows, "return=representation", first.schema)


def _back(op: Op, narrow: bool) -> str:
    """Return the columns to request."""
    return ",".join(map(column_name, op.types)) if narrow else "*"


def through_ledger(op: Op) -> Request:
    """Return an update with sums or unions, applied exactly once: the function stores the operation's id."""
    sums = {column for column in op.values if adds(op, column)}
    args = {
        "p_op": op.id,
        "p_schema": op.schema,
        "p_table": op.target,
        "p_key": dict(op.key),
        "p_set": {c: v for c, v in op.values.items() if c not in sums},
        "p_base": {c: v for c, v in op.base.items() if c not in sums},
        "p_add": {c: difference(op, c) for c in sums},
    }
    return Request("POST", f"/rest/v1/rpc/{LEDGER}", (), args, schema="public")


def ledger_probe(op: Op) -> Request:
    """Return a request that checks for the ledger without an effect, even if its answer is lost.

    Nothing matches a null key, so the function raises and nothing is stored.
    """
    return through_ledger(replace(op, id="", key=dict.fromkeys(op.key)))


def through_many(ops: Sequence[Op]) -> Request:
    """Return updates of rows of one table, or deletes, for the function that carries out each separately."""
    asked = [
        {"key": dict(op.key), "base": {c: v for c, v in op.base.items() if c not in op.key}}
        | ({} if op.kind == "delete" else {"set": dict(op.values)})
        for op in ops
    ]
    first = ops[0]
    args = {"p_schema": first.schema, "p_table": first.target, "p_ops": asked}
    return Request("POST", f"/rest/v1/rpc/{MANY}", (), args, schema="public")


def many_probe(op: Op) -> Request:
    """Return a request that checks for the function for many operations, with no operations."""
    request = through_many([op])
    return replace(request, body={**request.body, "p_ops": []})


def call(op: Op) -> Request:
    """Return a queued call of a function."""
    path = f"/rest/v1/rpc/{urllib.parse.quote(op.target, safe='')}"
    return Request("POST", path, (), dict(op.values), schema=op.schema)


def broadcast(ops: Sequence[Op]) -> Request:
    """Return queued broadcasts, in one request."""
    messages = [
        {"topic": op.target, "event": op.event, "payload": dict(op.values), "private": op.private}
        for op in ops
    ]
    return Request("POST", "/realtime/v1/api/broadcast", (), {"messages": messages})


def needs_version(op: Op) -> bool:
    """Return whether the condition cannot be part of the write itself, or is not sufficient."""
    if op.kind not in ("update", "delete"):
        return False
    if only_once(op):
        return True
    return not _conditions(op)[1]


def adds(op: Op, column: str) -> bool:
    """Return whether a column's change is a sum."""
    return (
        op.kind == "update"
        and op.rules.get(column, op.rules.get("", "lww")) == "delta"
        and kind(op.types.get(column, "text")) in NUMBERS
        and op.values.get(column) is not None
        and op.base.get(column) is not None
    )


def merges_items(op: Op, column: str) -> bool:
    """Return whether a column's change adds items to a collection, or removes some."""
    return (
        op.kind == "update"
        and op.rules.get(column, op.rules.get("", "lww")) == "union"
        and all(isinstance(one.get(column), list | None) for one in (op.values, op.base))
    )


def only_once(op: Op) -> bool:
    """Return whether writing an update twice has another effect than writing it once.

    A sum is added again; a union restores an item that another client removed in between.
    """
    return any(adds(op, column) or merges_items(op, column) for column in op.values)


def difference(op: Op, column: str) -> Json:
    """Return what a sum adds, as the text or number that PostgreSQL reads exactly."""
    pg_type = op.types[column]
    mine, base = (decode(pg_type, row[column], numeric="decimal") for row in (op.values, op.base))
    return to_json(pg_type, mine - base)


def _key_filters(op: Op) -> list[tuple[str, str]]:
    return [_equals(op, name, value).to_rest() for name, value in op.key.items()]


def _conditions(op: Op) -> tuple[list[Condition], bool]:
    """Return the base values as filters, and whether they are complete."""
    found, length, whole = [], 0, True
    for column, value in op.base.items():
        if column in op.key:
            continue
        condition = _equals(op, column, value)
        longer = length + len(condition.value)
        if _comparable(op, column, value) and longer <= _MAX_CONDITION:
            length = longer
            found.append(condition)
        else:
            whole = False
    return found, whole


def _comparable(op: Op, column: str, value: Json) -> bool:
    """Return whether the server can check if the column has this value."""
    name = canonical(op.types.get(column, "text"))
    if value is None:
        return True
    if isinstance(value, str) and kind(name.lstrip("_")) == "json":
        return False  # it may be the text of JSON that a cell cannot hold, which is another value
    if isinstance(value, dict) and kind(name) == "text":
        return False  # a composite's fields, whose text only the server knows
    if kind(name) == "decimal" and value.__class__ is float and len(repr(value)) > _FLOAT_DIGITS:
        return False  # a numeric that was read as a float may have more digits than it shows
    return name.lstrip("_") not in _NO_EQUALITY


def _row_condition(op: Op) -> str:
    """Return the condition that the operation's row is as it was based on: a part of ``or=(…)``."""
    key = [_equals(op, name, value) for name, value in op.key.items()]
    return f"and({','.join(one.to_logic() for one in (*key, *_conditions(op)[0]))})"


def _equals(op: Op, column: str, value: Json) -> Condition:
    if value is None:
        return Condition(column, "is", ("null",))
    return Condition(column, "eq", (to_rest(op.types.get(column, "text"), value),))


def _table(op: Op) -> str:
    return f"/rest/v1/{urllib.parse.quote(op.target, safe='')}"


def runs(ops: Sequence[Op], *, many: bool = False) -> list[list[Op]]:
    """Return groups that may be sent together: updates of different rows, broadcasts, and, as one
    statement, inserts of one shape and deletes from one table.

    The next row may refer to an inserted one, or need a deleted one gone: inserts and deletes keep their
    place. ``many``: deletes and updates are sent through `MANY`.
    """
    groups: list[list[Op]] = []
    length = 0
    for op in ops:
        more, most = _length(op, many)
        length += more
        if groups and _together(groups[-1][-1], op) and length <= most:
            groups[-1].append(op)
        else:
            groups.append([op])
            length = more
    return groups


def _length(op: Op, many: bool) -> tuple[int, int]:
    """Return what an operation adds to the length of a statement's URL or body, and the maximum length."""
    if op.kind == "delete" and not many:
        return len(urllib.parse.quote(_row_condition(op))), _MAX_CONDITIONS
    if op.kind in ("insert", "delete"):
        return len(encode(op.values or op.base)), _MAX_BODY
    return 0, 0


def split(group: Sequence[Op], *, many: bool = False) -> list[list[Op]]:
    """Split a group (`runs`) into statements: also updates of one table to the same values.

    Updates to any values, if they are sent through `MANY`.
    """
    if group[0].kind != "update" or len(group) == 1:
        return [list(group)]
    if many:
        return _by_table(group)
    found: list[list[Op]] = []
    last: dict[object, tuple[list[Op], int]] = {}
    """Maps what the updates write to the statement that takes more of them, and its length."""
    for op in group:
        if needs_version(op):
            found.append([op])
            continue
        alike = (op.schema, op.target, msgspec.json.encode(op.values), tuple(op.types))
        statement, length = last.get(alike, ([], _MAX_CONDITIONS))
        length += len(urllib.parse.quote(_row_condition(op)))
        if length > _MAX_CONDITIONS:
            statement, length = [], length - _MAX_CONDITIONS
            found.append(statement)
        statement.append(op)
        last[alike] = statement, length
    return found


def _by_table(group: Sequence[Op]) -> list[list[Op]]:
    """Group updates for the function for many; sums and unions are sent alone."""
    found: list[list[Op]] = []
    last: dict[object, tuple[list[Op], int]] = {}
    for op in group:
        if only_once(op):
            found.append([op])
            continue
        statement, length = last.get((op.schema, op.target), ([], _MAX_BODY))
        length += len(encode(op.values)) + len(encode(op.base))
        if length > _MAX_BODY:
            statement, length = [], length - _MAX_BODY
            found.append(statement)
        statement.append(op)
        last[op.schema, op.target] = statement, length
    return found


def _together(last: Op, op: Op) -> bool:
    if last.kind != op.kind:
        return False
    table = (op.schema, op.target) == (last.schema, last.target)
    match op.kind:
        case "broadcast":
            return True
        case "update":
            return not changes_key(op) and not changes_key(last)
        case "insert":
            alike = op.upsert == last.upsert and op.key.keys() == last.key.keys()
            return table and alike and op.values.keys() == last.values.keys()
        case "delete":
            return table and not needs_version(op) and not needs_version(last)
        case _:
            return False
