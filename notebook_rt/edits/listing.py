"""Operations for display: in words, and as DataFrames of a table's edits and conflicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.edits.merge import ANOTHER_ROW, ANSWER_LOST
from notebook_rt.edits.ops import WRITES, Json, Op
from notebook_rt.model.values import ascii_json

if TYPE_CHECKING:
    import pandas as pd


def pending_df(ops: Sequence[Op]) -> pd.DataFrame:
    """Return a table's writes in the queue, one row each, with their id as index."""
    import pandas as pd

    ops = [op for op in ops if op.kind in WRITES]
    return pd.DataFrame(
        {
            "kind": [kind_of(op) for op in ops],
            "key": pd.Series([plain_key(op.key) for op in ops], dtype=object).to_numpy(),
            "values": [dict(op.values) for op in ops],
            "base": [dict(op.base) for op in ops],
            "state": [state(op) for op in ops],
            "attempts": pd.Series([op.attempts for op in ops], dtype="int64").to_numpy(),
            "error": [op.error for op in ops],
            "at": pd.to_datetime([op.made_at for op in ops], unit="s", utc=True).as_unit("us"),
        },
        index=pd.Index([op.id for op in ops], name="id", dtype=object),
    ).astype(
        {
            **dict.fromkeys(("kind", "state", "error"), "str"),
            **dict.fromkeys(("values", "base"), object),
        }
    )


def conflicts_df(records: Sequence[dict[str, Json]]) -> pd.DataFrame:
    """Return merge decisions, one row each, oldest first; ``open`` ones ask."""
    import pandas as pd

    names = ("column", "base", "mine", "theirs", "result", "rule", "who")
    columns: dict[str, Any] = {
        name: pd.Series([record[name] for record in records], dtype=object) for name in names
    }
    key = pd.Series([plain_key(record["key"]) for record in records], dtype=object)
    at = pd.to_datetime([record["at"] for record in records], unit="s", utc=True).as_unit("us")
    opened = pd.Series([record["open"] for record in records], dtype=bool)
    return pd.DataFrame({"at": at, "key": key, **columns, "open": opened})


def plain_key(key: Mapping[str, Json]) -> Any:
    """Return a key as the user knows it: a value, or a tuple; None: the server generates it."""
    values = tuple(key.values()) or (None,)
    return values[0] if len(values) == 1 else values


def kind_of(op: Op) -> str:
    """Return an operation's name: an insert that may set an existing row's columns is an upsert."""
    return "upsert" if op.upsert else op.kind


def what(op: Op) -> str:
    """Describe an operation in a few words; contains others' names, so never put it into HTML unescaped."""
    if op.kind == "broadcast":
        return f"broadcast {op.event} to {op.target}"
    if op.kind == "rpc":
        return f"call {op.target}"
    key = ", ".join(map(str, op.key.values())) or "without its key"
    columns = f" ({', '.join(op.values)})" if op.kind == "update" else ""
    return f"{kind_of(op)} {op.target} {key}{columns}"


SHORT: Final = 40
"""Maximum number of characters of a value in a sentence."""


def question(record: Mapping[str, Json]) -> str:
    """Return the question to the person who must decide an open conflict, and how to decide it."""
    column, rule = record["column"], str(record["rule"])
    who = record["who"] or "another writer"
    if column is not None:
        mine, theirs = short(record["mine"]), short(record["theirs"])
        if rule.startswith(ANSWER_LOST):
            happened = (
                f"the answer to this edit was lost, so {column} may have been written already: yours is "
                f"{mine}, the server has {theirs}"
            )
        else:
            why = "" if rule == "ask" else f" ({rule})"
            happened = f"{who} changed {column}, too: yours is {mine}, theirs is {theirs}{why}"
        choices = ""
    elif rule == ANOTHER_ROW:
        doing = "deleted" if record["mine"] is None else "gave another key"
        does = "deletes theirs" if record["mine"] is None else "gives theirs the new key"
        happened = f"the row that you {doing} was not inserted: its key is that of a row of {who}"
        choices = f', "mine" {does} and "theirs" keeps it as it is'
    elif record["mine"] is None:
        happened = f"{who} changed the row, which you deleted"
        choices = ', "mine" deletes it and "theirs" keeps it'
    elif record["theirs"] is None:
        happened = f"{who} deleted the row, which you edited"
        choices = ', "mine" inserts it again and "theirs" drops the edit'
    else:
        happened = (
            "the answer to this insert was lost, and the row of this key has other values: it may be yours, "
            "changed since, or another one"
            if rule.startswith(ANSWER_LOST)
            else f"{who} inserted a row of this key, too"
        )
        choices = ', "mine" gives it your values and "theirs" drops your insert'
    key = repr(plain_key(record["key"]))
    return f"{happened}; .resolve({key}, choice=...) of the table decides{choices}"


def decision(record: Mapping[str, Json]) -> str:
    """Describe in a sentence what a merge has decided by a rule."""
    column, rule, result = record["column"], str(record["rule"]), record["result"]
    mine, theirs = record["mine"], record["theirs"]
    who = record["who"] or "another writer"
    if column is None and mine is None:
        then = "is deleted all the same" if result is None else "is kept"
        return f"{who} changed the row, which you deleted: it {then} ({rule})"
    if column is None:
        return f"{who} deleted the row, which you edited: your edit is dropped ({rule})"
    if result == mine:
        stands = f"yours stands, {short(mine)} instead of {short(theirs)}"
    elif result == theirs:
        stands = f"theirs stands, {short(theirs)} instead of {short(mine)}"
    else:
        stands = f"yours, {short(mine)}, and theirs, {short(theirs)}, became {short(result)}"
    return f"{who} changed {column}, too: {stands} ({rule})"


def short(value: Json) -> str:
    """Return a value as JSON, text in quotes, cut if it is long; null is ``empty``."""
    if value is None:
        return "empty"
    text = value if isinstance(value, str) else ascii_json(value)
    text = text if len(text) <= SHORT else text[: SHORT - 1] + "…"
    return f"'{text}'" if isinstance(value, str) else text


def undecided(number: int, last: Op | None) -> str:
    """Return a sentence about the edits that wait for a decision, ``last`` the latest; empty if none."""
    if last is None:
        return ""
    latest, others = ("the last, ", "; rt.queue.df lists what asks") if number > 1 else ("", "")
    return f"{number} conflict{'s' * (number != 1)} to resolve: {latest}{what(last)}: {last.error}{others}"


def refused(number: int, last: Op | None, then: str) -> str:
    """Return a sentence about the operations that were refused, ``last`` the latest; empty if none.

    ``then`` describes what to do about one.
    """
    if last is None:
        return ""
    name = {"rpc": "call", "broadcast": "broadcast"}.get(last.kind, "edit")
    many = f"{number} writes of yours were" if number > 1 else f"1 {name} of yours was"
    latest = "the last, " if number > 1 else ""
    return f"{many} refused by the server: {latest}{what(last)}: {last.error}; {then}"


STATES: Final = ("waiting", "sending", "parked", "failed", "asking")


def state(op: Op) -> str:
    """Return ``waiting``, ``sending``, ``parked`` (behind a failed or asking one), ``failed``, ``asking``."""
    if op.state == "waiting":
        return "parked" if op.blocked else "sending" if op.sent else "waiting"
    return op.state


def reasons(ops: Sequence[Op], holds: Callable[[Op], str] = lambda op: "") -> list[str]:
    """Return the reason for each queued operation's state: the server's message, or what it waits for.

    ``holds`` returns why an operation that could be sent is not; text after a colon is advice.
    """
    first: dict[tuple[str, str], Op] = {}
    found = []
    for op in ops:
        before = first.setdefault((op.owner, op.lane), op)
        if op.error:
            found.append(op.error)
        elif op.blocked:
            held = holds(before).partition(":")[0]
            found.append(_behind(before) + (f": {held}" if held else ""))
        else:
            found.append(holds(op))
    return found


def _behind(op: Op) -> str:
    """Describe why an operation waits for an earlier one of its lane."""
    if op.state == "failed":
        return f"waits for {what(op)}, which was refused: retry or discard that"
    if op.state == "asking":
        return f"waits for {what(op)}, which asks: resolve that"
    return f"waits for {what(op)} before it"


def in_states(ops: Iterable[Op], always: Collection[str] = ()) -> str:
    """Describe how many operations are in each state; states in ``always`` are included even if 0."""
    counts = Counter(map(state, ops))
    return ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name] or name in always)
