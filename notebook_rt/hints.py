"""What to write for a name that a frame or a session does not have, but pandas or supabase-py does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import wraps
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from notebook_rt.quoting import did_you_mean

if TYPE_CHECKING:
    from notebook_rt.model.types import Schema

P = ParamSpec("P")
R = TypeVar("R")

_EDITS: Final = (
    "at",
    "batch",
    "delete",
    "discard",
    "edit",
    "edit_many",
    "insert",
    "pending",
    "undo",
    "upsert",
)
_WRITES: Final = {
    "add": "insert(column=value, ...)",
    "append": "insert(column=value, ...)",
    "drop": "delete(key)",
    "remove": "delete(key)",
    "set": "edit(key, column=value)",
    "to_sql": "upsert(DataFrame)",
    "update": "edit(key, column=value), or edit_many(DataFrame) of many rows,",
}
"""Names of writes in other libraries, and their equivalents here."""

_COMPARED: Final = 'rt.table(name, filter="column=eq.value"), or .where(filter) of this one'
_QUERIES: Final = {
    **dict.fromkeys(("eq", "neq", "gt", "gte", "lt", "lte", "like", "ilike"), _COMPARED),
    **dict.fromkeys(("is_", "in_", "or_", "not_", "match", "filter", "contains"), _COMPARED),
    "execute": ".df: the rows, kept up to date",
    "limit": "rt.table(name, order=, limit=), or .top(n, by=) of this one",
    "maybe_single": ".get(key)",
    "order": "rt.table(name, order=), or .sort(by) of this one",
    "range": "rt.table(name, order=, limit=), or a slice of .df",
    "single": ".get(key)",
    **dict.fromkeys(("on", "on_postgres_changes", "subscribe"), ".on_change(fn)"),
}
"""Methods of supabase-py's queries, and their equivalents here."""

_CLIENT: Final = {
    "auth": "a session signs in itself: sign_in(), sign_up(), sign_out(), user",
    "from_": 'a live table is rt.table("name"), its DataFrame .df',
    "functions": "Edge Functions are called by supabase-py's client, beside the session",
    "postgrest": 'a live table is rt.table("name"), a view rt.query("name"), a function rt.rpc("name")',
    "realtime": 'a channel is rt.channel("name")',
    "remove_channel": "a channel is left by its close()",
    "storage": "Storage is reached by supabase-py's client, beside the session",
    "verify": 'a table compares itself with the server: rt.table("name").verify()',
}
"""Methods of supabase-py's client, and their equivalents here."""


_ROOM: Final = {
    "on_broadcast": ".on(event, fn)",
    "on_postgres_changes": 'rt.table("name").on_change(fn)',
    "on_presence_join": ".presence.on_join(fn)",
    "on_presence_leave": ".presence.on_leave(fn)",
    "on_presence_sync": ".presence.on_change(fn)",
    "presence_state": ".presence.df",
    "send_broadcast": ".send(event, payload)",
    "subscribe": ".on(event, fn); it is joined by itself, and .wait() waits for that",
    "track": ".presence.track(...)",
    "unsubscribe": ".close()",
    "untrack": ".presence.untrack()",
}
"""Methods of realtime-py's channels, and their equivalents here."""


def of_frame(name: str, schema: Schema | None, names: Collection[str], *, editable: bool) -> str:
    """Return the advice for a missing attribute of a frame, which has ``names``; may be
    empty.
    """
    if name in _EDITS:
        return "; it is read only: only a table can be edited"
    if editable and name in _WRITES:
        return f"; a table has .{_WRITES[name]} for that"
    if name == "history":
        return (
            "; only a table has one: its changes come with the times of their commits. What is "
            "derived of a table has a past, too: table.history().replay().groupby(...)"
        )
    if name.startswith("_"):
        return ""
    import pandas as pd

    hint = ""
    if hasattr(pd.DataFrame, name) or (schema is not None and name in schema.types):
        hint = f"; its snapshot, a DataFrame, has it: .df.{name}"
    if name in _QUERIES:
        hint += f"; for what supabase-py calls so there is {_QUERIES[name]}"
    if name in ("every", "rpc", "queue", "health", "channel"):
        hint += f"; a session has it: rt.{name}"
    return hint or did_you_mean(name, names)


def of_session(name: str, names: Collection[str]) -> str:
    """Return the advice for a missing attribute of a session, which has ``names``; may be
    empty.
    """
    if name.startswith("_"):
        return ""
    return f"; {_CLIENT[name]}" if name in _CLIENT else did_you_mean(name, names)


def of_channel(name: str, names: Collection[str]) -> str:
    """Return the advice for a missing attribute of a channel, which has ``names``; may be
    empty.
    """
    if name.startswith("_"):
        return ""
    return f"; there is {_ROOM[name]}" if name in _ROOM else did_you_mean(name, names)


def public(of: object) -> list[str]:
    """Return the names of ``of`` that may be suggested for a mistyped one."""
    return [name for name in dir(of) if not name.startswith("_")]


def of_mapped(name: str) -> str:
    """Return the advice for a missing attribute of a computed frame; may be empty."""
    if name.startswith("_"):
        return ""
    hint = "; what is computed has .df, .latest, .on_change(fn), .when(condition, fn), .grid() and .plot()"
    if name in ("where", "changes", "log"):
        hint += f". A live frame has .{name}: ask it of what this is computed from, or derive without map"
    return hint


def of_groups(name: str, functions: tuple[str, ...]) -> str:
    """Return the advice for a missing attribute of groups; may be empty."""
    if name.startswith("_"):
        return ""
    function = name if name in functions else "mean"
    return f'; it has .agg(name=("column", function)), such as .agg({function}=("price", "{function}"))'


_PANDAS_KEYWORDS: Final = {
    "ascending": "the order of a table is a text, order='price.desc'",
    "index_col": "the index is the primary key, or key='column'",
    "lsuffix": "it is suffixes=('_mine', '_theirs')",
    "rsuffix": "it is suffixes=('', '_theirs')",
    "select": "it is columns=",
    "sort": "a left or inner join keeps the order of this frame; .sort(by) gives another",
    "usecols": "it is columns=",
    "validate": "a row's partner is the one whose key it holds",
    "where": "it is filter=",
}


def known_keywords(fn: Callable[P, R]) -> Callable[P, R]:
    """Refuse an unknown keyword of ``fn`` with advice, and positional arguments that need a keyword."""
    there = inspect.signature(fn).parameters
    placed = [
        name
        for name, one in there.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    named = [f"{name}=" for name, one in there.items() if one.kind is one.KEYWORD_ONLY]

    @wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in there:
                hint = _PANDAS_KEYWORDS.get(name)
                hint = f": {hint}" if hint else did_you_mean(name, list(there))
                if not hint and "params" in there:
                    behind = there["params"].kind is inspect.Parameter.POSITIONAL_ONLY
                    given = f"{{{name!r}: ...}}"
                    hint = (
                        f": the values of a query stand behind it: {fn.__name__}(query, {given})"
                        if behind
                        else f": a function's arguments are params={given}"
                    )
                raise TypeError(f"{fn.__name__}() has no {name}={hint}")
        if named and len(args) > len(placed):
            one, few = args[len(placed)], ", ".join(named[:4]) + ", ..." * (len(named) > 4)
            raise TypeError(
                f"{fn.__name__}() takes only {', '.join(placed[1:])} without a keyword; say which "
                f"{one!r:.80} is: {few}"
            )
        return fn(*args, **kwargs)

    return call
