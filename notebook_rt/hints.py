"""What to write for a name that a frame or a session does not have, but pandas or supabase-py does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from notebook_rt.model.types import Schema

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
"""What other libraries call a write, and what does it here."""

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
}
"""What a query of supabase-py's client says, and what says it here."""

_CLIENT: Final = {
    "auth": "a session signs in itself: sign_in(), sign_up(), sign_out(), user",
    "from_": 'a live table is rt.table("name"), its DataFrame .df',
    "functions": "Edge Functions are called by supabase-py's client, beside the session",
    "postgrest": 'a live table is rt.table("name"), a view rt.query("name"), a function rt.rpc("name")',
    "realtime": 'a channel is rt.channel("name")',
    "remove_channel": "a channel is left by its close()",
    "storage": "Storage is reached by supabase-py's client, beside the session",
}
"""What a client of supabase-py has, and what does it here."""


def of_frame(name: str, schema: Schema | None, *, editable: bool) -> str:
    """What to put behind the words that a frame has no attribute of this name; may be empty."""
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
    return hint


def of_session(name: str) -> str:
    """What to put behind the words that a session has no attribute of this name; may be empty."""
    return f"; {_CLIENT[name]}" if name in _CLIENT else ""
