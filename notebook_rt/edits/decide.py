"""What an answer, and the server's row in it, mean for an operation: pure (promises, edits, errors).

It turns an ``Answer`` into a ``Ruling``, and an ``Op`` and a row into the arguments and results of the
merge (``edits/merge.py``). Time and randomness are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from notebook_rt.edits.merge import (
    ANOTHER_ROW,
    RULES,
    Conflict,
    Edit,
    Kind,
    Rebased,
    Strategies,
    Strategy,
)
from notebook_rt.edits.ops import Json, Op, changes_key
from notebook_rt.model.classify import SERVER_WAIT, by_status
from notebook_rt.model.http import Answer
from notebook_rt.model.types import (
    Numeric,
    decode,
    equal,
    key_part,
    to_json,
)
from notebook_rt.quoting import identifier, qualified

_MANY_VERSION: Final = 1
"""Version of the arguments and results of `statements.MANY`; another version is not used."""
RENAMED: Final = "it was renamed or dropped since: discard this and edit the row again"
LOST: Final = (
    "its answer was lost, so the row may be in, under a key that is not known: look for it, then discard "
    "this if it is there, or retry it if it is not"
)
UNFILLED: Final = (
    "a NOT NULL column that no default and no sequence fills in must be given, the key too"
)
_OF_SEQUENCE: Final = "permission denied for sequence "
_UPDATE_INSTEAD: Final = {"23502", "42501", "428C9"}
"""NOT NULL, no right to insert, a key "generated always": an insert may fail where an update may not."""
_ABOUT_COLUMNS: Final = {"23502", "22P02", "42703", "42804", "428C9", "PGRST204"}
"""NOT NULL, no such label or value of the type, no such column, another type, generated."""
_FINAL: Final = {"0A", "21", "22", "23", "27", "42", "44", "P0"}
"""Classes of PostgreSQL errors about the statement and its values: a retry fails again."""
_NOT_PREPARED: Final = "55000"
"""The table cannot take such a statement now: an update or a delete without a replica identity."""

Meaning: TypeAlias = Literal["done", "refresh", "wait", "refused"]


class Ruling(msgspec.Struct, frozen=True):
    """The meaning of an answer for the operation."""

    meaning: Meaning
    message: str = ""
    """The server's message, for the user."""
    until: float = 0.0
    """When to try again (``wait``)."""
    counts: bool = False
    """Whether it counts as one of the attempts."""
    lost: bool = False
    """Whether it may have been applied nevertheless."""
    columns: bool = False
    """Whether a column's properties caused the refusal: what is known of the columns may be stale."""


class Record(msgspec.Struct, frozen=True):
    """A merge decision as the file stores it."""

    number: int
    op: str
    schema: str
    target: str
    open: bool
    record: dict[str, Json]


_BY_FIREWALL = (
    "; the project answers other requests: a firewall before it does not let this one through, perhaps for "
    "its text. Change what it writes, or have it let through and retry it"
)


def judge(
    answer: Answer, attempts: int, now: float, jitter: float = 0.0, max_attempts: int = 3
) -> Ruling:
    """Interpret an answer.

    Parameters
    ----------
    attempts : int
        Failed attempts before this one.
    jitter : float
        A share of the wait, 0 to 0.2, so that many kernels do not retry at the same time.

    Examples
    --------
    >>> judge(Answer(429, retry_after=7.0), 0, now=100.0).until
    107.0
    >>> judge(Answer(503), attempts=2, now=0.0).meaning
    'refused'
    >>> judge(Answer(500, {"code": "55000"}), attempts=0, now=0.0).meaning
    'refused'
    """
    if 200 <= answer.status < 300:
        return Ruling("done")
    words = message_of(answer)
    if answer.token_refused:
        return Ruling("refresh", words)
    why = by_status(answer.status, answer.retry_after)
    if why.kind == "rate_limit" and why.wait is not None:
        return Ruling("wait", words, now + why.wait * (1 + jitter))
    if why.kind == "server" and why.wait is not None and not _is_final(answer.code):
        if attempts + 1 >= max_attempts:
            return Ruling("refused", words, counts=True, lost=True)
        wait = max(SERVER_WAIT * 2**attempts, answer.retry_after or 0.0)
        return Ruling("wait", words, now + wait * (1 + jitter), True, lost=True)
    if answer.page:
        words += _BY_FIREWALL
    return Ruling("refused", words, columns=answer.code in _ABOUT_COLUMNS)


def _is_final(code: str) -> bool:
    """Return whether PostgreSQL reported, whatever the HTTP status, that a retry cannot help.

    The statement was then rolled back, so none of it was applied.
    """
    return len(code) == 5 and (code[:2] in _FINAL or code == _NOT_PREPARED)


def forbidden(answer: Answer) -> bool:
    """Return whether a grant or policy refused it; PostgREST uses status 401 for users not signed in."""
    return answer.code == "42501"


def lacks_value(answer: Answer) -> bool:
    """Return whether a NOT NULL column of a new row got no value."""
    return answer.code == "23502"


def renamed(answer: Answer) -> bool:
    """Return whether a column of a write does not exist."""
    return answer.code in ("PGRST204", "42703")


def lacking(op: Op, answer: Answer, role: str) -> str:
    """Return advice for a ``role`` that may not write or call, which the server does not provide.

    The server's message distinguishes a missing grant from a policy's refusal.
    """
    of = qualified(op.schema, op.target)
    message = answer.error_fields.get("message", "")
    to, or_else = identifier(role), ", or sign_in()" if role == "anon" else ""
    if "row-level security policy" in message and op.kind != "rpc":
        return f"; this login needs a policy to {op.kind} {of}: add one{or_else}"
    if message.startswith(_OF_SEQUENCE):  # a serial column's is in the schema of its table
        sequence = qualified(op.schema, message.removeprefix(_OF_SEQUENCE))
        return f"; run: grant usage on sequence {sequence} to {to}{or_else}"
    if op.kind == "rpc" and message.startswith("permission denied for function"):
        return f"; run: grant execute on function {of} to {to}{or_else}"
    if op.kind == "rpc" or not message.startswith("permission denied for table"):
        return f"; grant what it names to this login's role{or_else}"
    columns = f" ({', '.join(map(identifier, op.values))})" if op.kind == "update" else ""
    return f"; run: grant {op.kind}{columns} on {of} to {to}{or_else}"


def same_key(op: Op, answer: Answer) -> bool:
    """Return whether an insert was refused because its key exists; not because of another unique column."""
    if answer.code != "23505":
        return False
    # A user who may not read the table does not get the columns, but the constraint's name.
    said, constraint = answer.error_fields.get("details", ""), answer.error_fields["message"]
    names = ", ".join(map(identifier, op.key))
    return said.startswith(f"Key ({names})=") or constraint.rstrip('"').endswith("_pkey")


def message_of(answer: Answer) -> str:
    """Return the server's message, in one line; parts that are only useful for a web search come last."""
    said = [
        answer.error_fields[name]
        for name in ("message", "details", "hint")
        if answer.error_fields.get(name)
    ]
    if not said:
        return f"the server answered {answer.status}"
    code = f"{answer.code}, " if answer.code else ""
    return f"{'; '.join(said)} ({code}HTTP {answer.status})"


def as_update(op: Op, answer: Answer) -> Op | None:
    """Return an upsert as an update of an existing row, if ``answer`` refuses its insert.

    PostgreSQL checks what an insert may not do before it checks whether a row with its key exists.
    """
    values = {name: value for name, value in op.values.items() if name not in op.key}
    if answer.code not in _UPDATE_INSTEAD or not values:
        return None
    return replace(op, kind="update", upsert=False, values=values, base={})


def no_ledger(answer: Answer) -> bool:
    """Return whether the ledger's function does not exist."""
    return answer.status == 404 or answer.code == "PGRST202"


def results_of(answer: Answer, number: int) -> list[Answer | None] | None:
    """Return the result of each of ``number`` operations; None in it: no row matched its base.

    None: the answer does not contain them.

    Examples
    --------
    >>> one = {"row": {"id": 1}}, {"row": None}, {"error": {"code": "23514", "message": "no"}}
    >>> [a and a.status for a in results_of(Answer(200, {"version": 1, "results": [*one]}), 3)]
    [200, None, 400]
    """
    said = answer.body
    if answer.status >= 300 or not isinstance(said, dict) or said.get("version") != _MANY_VERSION:
        return None
    results = said.get("results")
    if not isinstance(results, list) or len(results) != number:
        return None
    found: list[Answer | None] = []
    for one in results:
        if "error" in one:
            found.append(Answer(400, one["error"]))
        else:
            found.append(None if one["row"] is None else Answer(200, [one["row"]]))
    return found


def timed_out(answer: Answer) -> bool:
    """Return whether the statement exceeded the server's time limit: half of it takes less time."""
    return answer.code == "57014"


def is_final(answer: Answer) -> bool:
    """Return whether PostgreSQL's refusal is final, with the same message as for the row's own statement."""
    return _is_final(answer.code) and not forbidden(answer)


def unchanged(op: Op, row: Mapping[str, Json]) -> bool:
    """Return whether the server's row is what the operation was based on."""
    there = row_of(op, row)
    return all(
        equal(there.get(column), _typed(op, column, value)) for column, value in op.base.items()
    )


def written(op: Op, row: Mapping[str, Json]) -> bool:
    """Return whether the server's row is what the operation makes of it."""
    there = row_of(op, row)
    values = op.values.items()
    return all(equal(there.get(column), _typed(op, column, value)) for column, value in values)


def may_have_moved(op: Op, row: Mapping[str, Json]) -> bool:
    """Return whether the row under an update's new key is its own, if no row is under the old key.

    The write is one statement, so all of it was applied then, whatever changed in the columns since. A
    column that still equals the write's base shows that it is another row.
    """
    there = row_of(op, row)
    return not any(
        equal(there.get(column), _typed(op, column, base))
        for column, base in op.base.items()
        if column not in op.key
    )


def taken(op: Op) -> str:
    """Return the message for a key from a sequence that another row has."""
    return (
        f"the key {op.key[op.drawn]}, which the sequence of {op.drawn} gave, is another row's: rows were "
        "inserted beside the sequence. Discard this and insert it again; "
        f"{advance_sequence_sql(op.schema, op.target, op.drawn)} moves the sequence on"
    )


def advance_sequence_sql(schema: str, target: str, column: str) -> str:
    """Return the SQL that advances the sequence of a key column past the table's existing rows."""
    table = qualified(schema, target)
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in (table, column))
    return f"select setval(pg_get_serial_sequence({names}), max({identifier(column)})) from {table}"


# --- merging ---------------------------------------------------------------------------------------


def _typed(op: Op, column: str, value: Json) -> Any:
    return decode(op.types.get(column, "text"), value, numeric="decimal")


def strategies_of(op: Op) -> Strategies:
    """Return how an operation merges if no frame of its table is open: by the names it carries.

    A function's name is not a rule; without the function, a person is asked.
    """

    def rule(name: str) -> Strategy:
        return next((known for known in RULES if known == name), "ask")

    columns = {column: rule(name) for column, name in op.rules.items() if column}
    return Strategies(rule(op.rules.get("", "lww")), columns, op.version or None)


def edit_of(op: Op, numeric: Numeric = "decimal") -> Edit:
    """Return the operation as an edit for the merge and the overlay."""

    def typed(row: Mapping[str, Json]) -> dict[str, Any]:
        types = op.types
        return {c: decode(types.get(c, "text"), v, numeric=numeric) for c, v in row.items()}

    keys = tuple(map(key_part, typed(op.key).values()))
    return Edit(
        op.id,
        cast(Kind, op.kind),
        keys[0] if len(keys) == 1 else keys,
        typed(op.values),
        typed(op.base),
        op.made_at,
        op.own_key,
        op.sent,
        op.lane,
        op.upsert,
    )


def takes_row(op: Op) -> bool:
    """Return whether no row is under the operation's key once it is written."""
    return op.kind == "delete" or changes_key(op)


def of_another_row(op: Op, theirs: Mapping[str, Json], now: float) -> dict[str, Json]:
    """Return the open conflict of an operation made for a row that gave way to ``theirs``."""
    who = theirs.get("updated_by")
    return {
        "at": now,
        "op": op.id,
        "key": dict(op.key),
        "column": None,
        "base": dict(op.base),
        "mine": None if op.kind == "delete" else dict(op.values),
        "theirs": dict(theirs),
        "result": None,
        "rule": ANOTHER_ROW,
        "who": None if who is None else str(who),
        "open": True,
    }


def row_key(op: Op, row: Mapping[str, Json]) -> tuple[Any, ...]:
    """Return the key of a row of the operation's table, for comparison."""
    return tuple(key_part(_typed(op, column, row.get(column))) for column in op.key)


def row_of(op: Op, row: Mapping[str, Json]) -> dict[str, Any]:
    """Return the server's row as the merge needs it.

    A numeric that, read as a float, equals the base is the base: its other digits were never shown. The
    row's version is not a column of it.
    """
    typed = {column: _typed(op, column, value) for column, value in row.items() if column != "xmin"}
    for column, base in op.base.items():
        value = typed.get(column)
        if base.__class__ is float and isinstance(value, Decimal) and float(value) == base:
            typed[column] = _typed(op, column, base)
    return typed


def op_of(op: Op, left: Rebased) -> Op:
    """Return the operation after a merge."""
    edit = left.edit
    if edit is None:
        return op
    return replace(
        op,
        kind=edit.kind,
        values={c: to_json(op.types.get(c, "text"), v) for c, v in edit.values.items()},
        base={c: to_json(op.types.get(c, "text"), v) for c, v in edit.base.items()},
        sent=edit.sent,
        xmin="",
    )


def in_doubt(op: Op, left: Rebased) -> Op:
    """Return the operation that asks after a merge, so that applied columns are not written again.

    Such columns, and those that stay theirs, get their target values as base: once the others are
    decided, they do not overwrite later changes. An insert with some columns that ask becomes an update
    of the existing row.
    """
    if left.edit is not None and left.edit.kind != op.kind:
        return replace(op_of(op, left), own_key=False, drawn="")
    if op.kind != "update" or left.edit is None:
        return op
    done = {c: v for c, v in op.values.items() if c not in left.edit.values}
    return replace(op, base={**op.base, **done})


def record_of(op: Op, conflict: Conflict) -> dict[str, Json]:
    """Return a merge record as JSON, as the file stores it."""

    def plain(value: Any) -> Json:
        if isinstance(value, dict):
            return {c: to_json(op.types.get(c, "text"), v) for c, v in value.items()}
        return to_json(op.types.get(conflict.column or "", "text"), value)

    return {
        "at": conflict.at,
        "op": conflict.op,
        "key": dict(op.key),
        "column": conflict.column,
        "base": plain(conflict.base),
        "mine": plain(conflict.mine),
        "theirs": plain(conflict.theirs),
        "result": plain(conflict.result),
        "rule": conflict.rule,
        "who": conflict.who,
        "open": conflict.open,
    }
