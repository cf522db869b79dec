"""What leaves for the server: the request of an operation, and which leave as one statement. Pure.

In go an ``Op`` and what is known of the row; out comes a ``Request`` as PostgREST takes it.

A write is sent on the condition of what it was based on: the changed columns' base values where the
server can compare them, else the row's ``xmin``, read just before (``docs/design/facts.md``, "A version for
every table?"). A sum or a union goes by ``xmin`` too, so that after a lost answer an unmoved row says
that it was not applied; or through the ledger function, which knows each operation's id.
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
"""Bytes of the rows that are inserted by one statement."""
_MAX_CONDITION = 1_500
"""Characters of base values in a URL; what is longer is compared through ``xmin``."""
_MAX_CONDITIONS = 4_000
"""Characters of the conditions of several rows in a URL."""
_FLOAT_DIGITS: Final = 15
"""Of so many a float holds each."""
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
    """Read the operation's row."""
    select = _back(op, narrow) + (",xmin" if xmin else "")
    return Request("GET", _table(op), (*_key_filters(op), ("select", select)), schema=op.schema)


def write_all(ops: Sequence[Op], *, narrow: bool = False) -> Request:
    """Several inserts into one table, deletes from it, or updates to the same values, as one statement:
    all or none.

    Of the deletes and updates only of those whose rows are what they were based on.
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
    """The conditional write of an insert, update or delete.

    Parameters
    ----------
    narrow : bool
        Ask only for those columns back that the operation knows: not everybody may read all.
    unseen : bool
        An insert that reads nothing: neither asks for the row back, nor looks whether it is there.
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
    """Insert rows; where there is one of the key already, it stays, or an upsert sets its columns."""
    if not op.upsert:
        return Request("POST", _table(op), params, rows, _INSERTING, op.schema)
    on = ("on_conflict", ",".join(map(column_name, op.key)))
    return Request("POST", _table(op), (on, *params), rows, _UPSERTING, op.schema)


def insert_unkeyed(ops: Sequence[Op], *, narrow: bool = False) -> Request:
    """Insert rows whose keys the server makes, as one statement: all or none.

    A key that another row has is an error, unlike in `_insert`: no such row is this one.
    """
    first = ops[0]
    rows = [dict(op.values) for op in ops]
    select = ("select", _back(first, narrow))
    return Request("POST", _table(first), (select,), rows, "return=representation", first.schema)


def _back(op: Op, narrow: bool) -> str:
    """The columns to give back."""
    return ",".join(map(column_name, op.types)) if narrow else "*"


def through_ledger(op: Op) -> Request:
    """An update with sums or unions, exactly once: the function keeps the operation's id."""
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
    """Whether there is a ledger, asked so that an answer which is lost has had no effect.

    Under a null key nothing matches, so that the function raises and nothing of it stays.
    """
    return through_ledger(replace(op, id="", key=dict.fromkeys(op.key)))


def through_many(ops: Sequence[Op]) -> Request:
    """Updates of rows of one table, or deletes, by the function that carries each out by itself."""
    asked = [
        {"key": dict(op.key), "base": {c: v for c, v in op.base.items() if c not in op.key}}
        | ({} if op.kind == "delete" else {"set": dict(op.values)})
        for op in ops
    ]
    first = ops[0]
    args = {"p_schema": first.schema, "p_table": first.target, "p_ops": asked}
    return Request("POST", f"/rest/v1/rpc/{MANY}", (), args, schema="public")


def many_probe(op: Op) -> Request:
    """Whether there is the function for many operations: asked for none."""
    request = through_many([op])
    return replace(request, body={**request.body, "p_ops": []})


def call(op: Op) -> Request:
    """A queued call of a function."""
    path = f"/rest/v1/rpc/{urllib.parse.quote(op.target, safe='')}"
    return Request("POST", path, (), dict(op.values), schema=op.schema)


def broadcast(ops: Sequence[Op]) -> Request:
    """Queued broadcasts, in one request."""
    messages = [
        {"topic": op.target, "event": op.event, "payload": dict(op.values), "private": op.private}
        for op in ops
    ]
    return Request("POST", "/realtime/v1/api/broadcast", (), {"messages": messages})


def needs_version(op: Op) -> bool:
    """Whether the condition cannot be put into the write itself, or not tell enough."""
    if op.kind not in ("update", "delete"):
        return False
    if only_once(op):
        return True
    return not _conditions(op)[1]


def adds(op: Op, column: str) -> bool:
    """Whether a column's change is a sum."""
    return (
        op.kind == "update"
        and op.rules.get(column, op.rules.get("", "lww")) == "delta"
        and kind(op.types.get(column, "text")) in NUMBERS
        and op.values.get(column) is not None
        and op.base.get(column) is not None
    )


def unites(op: Op, column: str) -> bool:
    """Whether a column's change adds items to a collection, or removes some."""
    return (
        op.kind == "update"
        and op.rules.get(column, op.rules.get("", "lww")) == "union"
        and all(isinstance(one.get(column), list | None) for one in (op.values, op.base))
    )


def only_once(op: Op) -> bool:
    """Whether an update that is written twice does more than one that is written once.

    A sum is added again; a union puts back an item that somebody removed in between.
    """
    return any(adds(op, column) or unites(op, column) for column in op.values)


def difference(op: Op, column: str) -> Json:
    """What a sum adds, as the text or number that PostgreSQL reads exactly."""
    pg_type = op.types[column]
    mine, base = (decode(pg_type, row[column], numeric="decimal") for row in (op.values, op.base))
    return to_json(pg_type, mine - base)


def _key_filters(op: Op) -> list[tuple[str, str]]:
    return [_equals(op, name, value).to_rest() for name, value in op.key.items()]


def _conditions(op: Op) -> tuple[list[Condition], bool]:
    """The base values as filters, and whether they are all of them."""
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
    """Whether the server can tell if the column has this value."""
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
    """The row of an operation, if it is what that was based on: a part of ``or=(…)``."""
    key = [_equals(op, name, value) for name, value in op.key.items()]
    return f"and({','.join(one.to_logic() for one in (*key, *_conditions(op)[0]))})"


def _equals(op: Op, column: str, value: Json) -> Condition:
    if value is None:
        return Condition(column, "is", ("null",))
    return Condition(column, "eq", (to_rest(op.types.get(column, "text"), value),))


def _table(op: Op) -> str:
    return f"/rest/v1/{urllib.parse.quote(op.target, safe='')}"


def runs(ops: Sequence[Op], *, many: bool = False) -> list[list[Op]]:
    """What may leave together: updates of different rows, broadcasts, and as one statement inserts
    of one shape and deletes from one table.

    An insert may be what the next row refers to, and a delete what stood in its way: they keep
    their place. ``many``: deletes and updates leave through `MANY`.
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
    """What an operation adds to a statement's URL, or its body, and how long that may be."""
    if op.kind == "delete" and not many:
        return len(urllib.parse.quote(_row_condition(op))), _MAX_CONDITIONS
    if op.kind in ("insert", "delete"):
        return len(encode(op.values or op.base)), _MAX_BODY
    return 0, 0


def split(group: Sequence[Op], *, many: bool = False) -> list[list[Op]]:
    """What of a group (`runs`) leaves as one statement: updates of one table to the same values, too.

    Of any values, where they leave through `MANY`.
    """
    if group[0].kind != "update" or len(group) == 1:
        return [list(group)]
    if many:
        return _by_table(group)
    found: list[list[Op]] = []
    last: dict[object, tuple[list[Op], int]] = {}
    """By what the updates write: the statement that takes more of them, and how long it is."""
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
    """Updates as the function for many takes them; sums and unions are not among them."""
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
