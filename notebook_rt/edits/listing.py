"""Operations as people read them: in words, and as DataFrames of a table's edits and conflicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from notebook_rt.edits.ops import WRITES, Json, Op

if TYPE_CHECKING:
    import pandas as pd


def pending_df(ops: Sequence[Op]) -> pd.DataFrame:
    """A table's writes in the queue, one row each, index their id."""
    import pandas as pd

    ops = [op for op in ops if op.kind in WRITES]
    return pd.DataFrame(
        {
            "kind": [kind_of(op) for op in ops],
            "key": pd.Series([plain_key(op.key) for op in ops], dtype=object).tolist(),
            "values": [dict(op.values) for op in ops],
            "base": [dict(op.base) for op in ops],
            "state": [state(op) for op in ops],
            "attempts": pd.Series([op.attempts for op in ops], dtype="int64").to_numpy(),
            "error": [op.error for op in ops],
            "at": pd.to_datetime([op.made_at for op in ops], unit="s", utc=True),
        },
        index=pd.Index([op.id for op in ops], name="id", dtype=object),
    )


def conflicts_df(records: Sequence[dict[str, Json]]) -> pd.DataFrame:
    """Merge decisions, one row each, oldest first; ``open`` ones ask."""
    import pandas as pd

    names = ("column", "base", "mine", "theirs", "result", "rule", "who")
    columns: dict[str, Any] = {
        name: pd.Series([record[name] for record in records], dtype=object) for name in names
    }
    key = pd.Series([plain_key(record["key"]) for record in records], dtype=object)
    at = pd.to_datetime([record["at"] for record in records], unit="s", utc=True)
    opened = pd.Series([record["open"] for record in records], dtype=bool)
    return pd.DataFrame({"at": at, "key": key, **columns, "open": opened})


def plain_key(key: Mapping[str, Json]) -> Any:
    """A key as the user knows it: a value, or a tuple; None: the server makes it."""
    values = tuple(key.values()) or (None,)
    return values[0] if len(values) == 1 else values


def kind_of(op: Op) -> str:
    """What an operation is called: an insert that may set an existing row's columns is an upsert."""
    return "upsert" if op.upsert else op.kind


def what(op: Op) -> str:
    """An operation in a few words; names of others, so never put it into HTML unescaped."""
    if op.kind == "broadcast":
        return f"broadcast {op.event} to {op.target}"
    if op.kind == "rpc":
        return f"call {op.target}"
    key = ", ".join(map(str, op.key.values())) or "without its key"
    columns = f" ({', '.join(op.values)})" if op.kind == "update" else ""
    return f"{kind_of(op)} {op.target} {key}{columns}"


def undecided(number: int, last: Op | None) -> str:
    """In a sentence, that so many edits wait for a decision, ``last`` the latest; empty: none does."""
    if last is None:
        return ""
    why = "somebody else has changed it, too" if last.error == "ask" else last.error
    latest = "the last, " if number > 1 else ""
    return (
        f"{number} conflict{'s' * (number != 1)} to resolve: {latest}{what(last)}: {why}; rt.queue.df lists "
        "what asks, .conflicts of its table has both values, and .resolve(key) decides"
    )


def refused(number: int, last: Op | None, then: str) -> str:
    """In a sentence, that so many operations were refused, ``last`` the latest; empty: none was.

    ``then`` says what to do about one.
    """
    if last is None:
        return ""
    many = f"{number} edits of yours were" if number > 1 else "1 edit of yours was"
    latest = "the last, " if number > 1 else ""
    return f"{many} refused by the server: {latest}{what(last)}: {last.error}; {then}"


def state(op: Op) -> str:
    """``waiting``, ``sending``, ``parked`` (behind one that failed or asks), ``failed``, ``asking``."""
    if op.state == "waiting":
        return "parked" if op.blocked else "sending" if op.sent else "waiting"
    return op.state


def in_states(counts: Mapping[str, int]) -> str:
    """How many operations are in each state, in a few words."""
    return ", ".join(f"{number} {name}" for name, number in counts.items())
