"""The findings of ``notebook-rt doctor``: sentences about a project's answers, each with the SQL fix.

In: a key, the difference of two clocks, the descriptions of a project and its tables (``describe.sql``). Out:
findings.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from notebook_rt.errors import HOW_TO_EXPOSE
from notebook_rt.quoting import do_block, identifier, literal, qualified
from notebook_rt.runtime.optional_sql import function_sources

if TYPE_CHECKING:
    from notebook_rt.sync.table.broadcast_answers import Absence, Head

SKEW_SECONDS: Final = 60.0
"""Seconds from which a difference of the clocks is reported."""
KEY_SECONDS: Final = 30 * 86_400.0
"""Seconds within which an expiring key is reported."""
SHORT_TIMEOUT_SECONDS: Final = 2.0
"""A shorter statement timeout cancels reads of ordinary tables."""
NEEDED_SQL: Final = {
    "nrt_digest": "audits of a table in one or a few requests",
    "notebook_rt_write": "sums and calls that are sent exactly once",
    "notebook_rt_write_many": "many edits in one request",
}
KINDS_WITHOUT_CHANGES: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "partitioned, and only its partitions can be in the publication",
}
"""Relations that stream no changes of their own, by PostgreSQL's ``relkind``."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    level: Literal["ok", "note", "wrong"]
    about: str
    """``python``, ``project``, or a table's name."""
    text: str
    sql: str = ""
    """The fix, for the SQL editor."""


def of_key(key: str, key_role: str, role: str) -> Finding:
    """Report the kind of the key, without showing it."""
    if key.startswith("sb_secret_") or key_role in ("service_role", "supabase_admin"):
        words = (
            "the key is a secret one: it reads and writes everything, whatever the policies say. It "
            "belongs into no notebook; use the publishable (or anon) key and sign in"
        )
        return Finding("note", "project", words)
    kind = "publishable" if key.startswith("sb_publishable_") else "of the older kind (anon)"
    return Finding("ok", "project", f"the key is {kind}, the role {role}")


def of_expiry(expires: float | None, now: float) -> Iterator[Finding]:
    """Report until when a key of the older kind is valid; one of the new kind does not expire."""
    if expires is None:
        return
    try:
        day = f"{dt.datetime.fromtimestamp(expires, dt.UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):  # beyond the calendar
        return
    if expires < now:
        words = (
            f"the key has expired on {day}: take the publishable key (Supabase dashboard: API Keys)"
        )
        yield Finding("wrong", "project", words)
    elif expires < now + KEY_SECONDS:
        words = f"the key expires on {day}: the publishable key (Supabase dashboard: API Keys) has no end"
        yield Finding("note", "project", words)
    else:
        yield Finding("ok", "project", f"the key is accepted until {day}")


def of_clock(skew: float) -> Finding:
    """Report the difference between this machine's clock and the server's, in seconds."""
    if abs(skew) < SKEW_SECONDS:
        return Finding("ok", "project", "this machine's clock and the server's agree")
    words = f"this machine's clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} the server's"
    return Finding(
        "note", "project", f"{words}: times that you see and tokens' ends are off by that"
    )


def of_project(value: Mapping[str, Any] | None, *, hidden: bool = False) -> Iterator[Finding]:
    """Report on the login, from the answer of ``nrt_describe``. None: there is no such function, unless the
    API does not expose its schema (``hidden``).
    """
    if hidden:
        yield Finding(
            "note",
            "project",
            f"tables are described, audited and written the slower way. {HOW_TO_EXPOSE}. Then run this "
            "again: it says whether the SQL is there",
        )
        return
    if value is None or "tables" not in value:
        yield Finding(
            "note",
            "project",
            "the optional SQL is not there: tables are described, audited and written the slower way. "
            "Paste what `notebook-rt doctor --sql` prints into the SQL editor once",
        )
        return
    functions, sources = value.get("functions"), value.get("sources")
    told = functions if isinstance(functions, list) else []
    lacking = [f"{name} ({use})" for name, use in NEEDED_SQL.items() if name not in told]
    others = [
        name
        for name, source in function_sources().items()
        if name in told and isinstance(sources, list) and source not in sources
    ]
    if (lacking and told) or others or not isinstance(sources, list):
        words = "the optional SQL is of an earlier version"
        if lacking and told:
            words = f"of the optional SQL there is no {', no '.join(lacking)}"
        elif others:
            words = (
                f"of the optional SQL this notebook_rt has another version of {', '.join(others)}"
            )
        yield Finding(
            "note", "project", f"{words}: run again what `notebook-rt doctor --sql` prints"
        )
    else:
        yield Finding("ok", "project", "the optional SQL is there")
    if value.get("publication") is False:
        yield Finding(
            "wrong",
            "project",
            "there is no publication supabase_realtime, so no change of any table is streamed",
            "create publication supabase_realtime;",
        )
    seconds = _seconds(value.get("statement_timeout"))
    if seconds:
        short = seconds < SHORT_TIMEOUT_SECONDS
        role = str(value.get("role") or "anon")
        words = f"a statement of role {role} may take {seconds:g} s"
        sql = f"alter role {identifier(role)} set statement_timeout = '8s';\nnotify pgrst, 'reload config';"
        yield Finding("wrong" if short else "ok", "project", words, sql if short else "")


def _seconds(text: object) -> float | None:
    """Parse the interval of a PostgreSQL setting: ``3s``, ``1500ms``, ``2min``, ``0``."""
    units = {"": 0.001, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
    if not isinstance(text, str):
        return None
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    return int(digits) * units[unit] if digits.isdecimal() and unit in units else None


# Tables -----------------------------------------------------------------------------------------


def of_broadcast(name: str, head: Head | None, absence: Absence | None) -> Iterator[Finding]:
    """Report on a table, from the answer of ``notebook_rt_head``."""
    if head is not None:
        words = "the database broadcasts its changes, so it need not be in the publication"
        yield Finding("ok", name, words)
    elif absence is not None and (scope := absence.scope):
        shown, by = (json.dumps(one, ensure_ascii=False) for one in (name, scope))
        words = (
            f"the database broadcasts its changes, those of each {scope} apart: "
            f"rt.table({shown}, filter={{{by}: ...}}) needs no publication, only the whole table does"
        )
        yield Finding("ok", name, words)
    elif absence is not None:
        words = (
            f"its changes are not broadcast: {absence.reason}. Run again what "
            f"`notebook-rt doctor --sql {name}` prints"
        )
        yield Finding("note", name, words)


def of_table(
    schema: str, name: str, told: Mapping[str, Any], role: str, *, by_broadcast: bool = False
) -> Iterator[Finding]:
    """Report on a table, from its description (``nrt_describe``) for a login of this role.

    ``by_broadcast``: its changes are received without the publication.

    The SQL of a problem changes rights and streaming, never the table's columns or key; that of a note may
    add a key or a trigger.
    """
    table = qualified(schema, name)
    kind = str(told.get("kind", "r"))
    if kind in KINDS_WITHOUT_CHANGES and not by_broadcast:
        session_of = "its partitions" if kind == "p" else "the tables that it reads"
        what = KINDS_WITHOUT_CHANGES[kind]
        words = f"it is {what}: {query_call(name)} follows it, with the names of {session_of}"
        yield Finding("note", name, words)
        if kind == "p":
            yield from _rights(schema, name, told, role)
        return
    if told.get("published") is False and not by_broadcast:
        words, sql = "it is not in the publication: no change is streamed", publish_sql(table)
        if not (told.get("key") or told.get("replica_identity") in ("f", "i")):
            words += f", and to put it there needs a primary key first: {UPDATES_REFUSED}"
            sql = ""
        yield Finding("wrong", name, words, sql)
    columns = {one.get("name") for one in told.get("columns") or () if isinstance(one, Mapping)}
    if not told.get("key"):
        unique = unique_columns(told)
        key = "..." if not unique else json.dumps(unique if len(unique) > 1 else unique[0])
        by = ", ".join(map(identifier, unique)) if unique else ""
        sql = (
            f"alter table {table} add primary key ({by});"
            if unique
            else new_key_sql(schema, name, columns)
        )
        words = f'it has no primary key: add one, or say rt.table("{name}", key={key})'
        yield Finding("note", name, words, sql)
    if told.get("replica_identity") == "n":
        sql = f"alter table {table} replica identity default;"
        words = (
            "its replica identity is nothing, so PostgreSQL refuses to update and delete its rows"
        )
        yield Finding("wrong", name, words, sql)
    yield from _rights(schema, name, told, role)
    if "updated_at" in columns and told.get("set_by_trigger") is False:
        yield Finding(
            "note",
            name,
            "no trigger sets updated_at, so which edit is the later one (lww) is what writers say",
            "create extension if not exists moddatetime schema extensions;\n"
            f"create trigger set_updated_at before update on {table} for each row\n"
            "    execute function extensions.moddatetime(updated_at);",
        )


def _rights(schema: str, name: str, told: Mapping[str, Any], role: str) -> Iterator[Finding]:
    table, to = qualified(schema, name), identifier(role)
    grants, policies = told.get("grants") or (), told.get("policies")
    secured = bool(told.get("row_security")) and role != "service_role"

    def allowed(verb: str) -> bool:
        by_policy = not secured or policies is None or verb in policies or "*" in policies
        return verb in grants and by_policy

    if some := readable_columns(told):
        shown, columns = (json.dumps(one, ensure_ascii=False) for one in (name, ",".join(some)))
        words = (
            f"role {role} may read its columns {', '.join(some)} and no other: "
            f"rt.table({shown}, columns={columns})"
        )
        yield Finding("note", name, words)
    if "select" not in grants:
        yield Finding(
            "wrong", name, f"role {role} may not read it", f"grant select on {table} to {to};"
        )
    elif not allowed("select"):
        policy = identifier(f"{role}_reads")
        who = "everybody" if role == "anon" else "everybody who is signed in"
        sign_in = ". Sign in, if its rows are for users" if role == "anon" else ""
        words = (
            f"row-level security is on, and no policy shows role {role} a row{sign_in}. Which rows it may "
            "see is your decision: where a row belongs to a user, a policy for authenticated using "
            f"((select auth.uid()) = user_id); this one shows every row to {who}"
        )
        sql = f"create policy {policy} on {table} for select to {to} using (true);"
        yield Finding("note", name, words, sql)
    verbs = [verb for verb in ("select", "insert", "update", "delete") if allowed(verb)]
    if verbs:
        rows = ", the rows that policies let it" if secured else ""
        yield Finding("ok", name, f"role {role} may {', '.join(verbs)}{rows}")
    if verbs and not secured and role == "anon":
        sql = f"alter table {table} enable row level security;"
        words = "row-level security is off: whoever has the key may do that to every row"
        yield Finding("note", name, words, sql)
    if not {"insert", "update", "delete"} & set(grants):
        yield to_write(schema, name, role)
    for sequence in told.get("closed_sequences") or ():
        if allowed("insert"):
            sql = f"grant usage on sequence {qualified(schema, str(sequence))} to {to};"
            words = f"role {role} may insert, but not take a key from the sequence {sequence}"
            yield Finding("wrong", name, words, sql)


def to_write(schema: str, name: str, role: str) -> Finding:
    return Finding(
        "note",
        name,
        f"if role {role} is to write it, too, it needs grants for that (row-level security, where it is "
        "on, decides of which rows; where it is off, these are all rows)",
        f"grant insert, update, delete on {qualified(schema, name)} to {identifier(role)};",
    )


def not_joined(name: str) -> Finding:
    return Finding(
        "wrong",
        name,
        "this login may not join the channel that its changes are broadcast on: private channels have to be "
        f"allowed (dashboard: Realtime, Settings), and `notebook-rt doctor --sql {name}` prints the policies",
    )


def some_columns(schema: str, name: str, role: str) -> Finding:
    """Report on a table with a column that this login may not read, possibly on purpose."""
    shown = json.dumps(name, ensure_ascii=False)
    return Finding(
        "note",
        name,
        f"role {role} may read some of its columns, id among them, and not all: name those, "
        f'rt.table({shown}, columns="id,..."). Perhaps the others are hidden on purpose; this shows them',
        f"grant select on {qualified(schema, name)} to {identifier(role)};",
    )


def unique_columns(told: Mapping[str, Any]) -> list[str] | None:
    """Return the columns of a unique constraint, by which a table without a key can be opened."""
    return next((list(map(str, names)) for names in told.get("unique") or () if names), None)


def readable_columns(told: Mapping[str, Any]) -> tuple[str, ...] | None:
    from notebook_rt.sync.table.discovery import readable  # imports pandas: not for --help

    return readable(told)


def shows_rows(told: Mapping[str, Any]) -> bool:
    """Return whether a policy may show rows to this login, as far as is known."""
    policies = told.get("policies")
    return not told.get("row_security") or policies is None or bool({"select", "*"} & {*policies})


# SQL fixes ---------------------------------------------------------------------------------


def publish_sql(table: str) -> str:
    return f"alter publication supabase_realtime add table {table};"


UPDATES_REFUSED: Final = (
    "of a published table without one PostgreSQL refuses every update and delete"
)


def for_a_table(table: str, sql: str, *, updated: bool = False) -> str:
    """Return a statement for a relation that may be a view, which would otherwise make the whole script fail.

    ``updated``: only for a table whose rows can be updated once they are published.
    """
    able = ""
    if updated:
        able = (
            "\n        and (relreplident in ('f', 'i') or exists (\n"
            "            select from pg_index where indrelid = pg_class.oid and indisprimary))\n        "
        )
    condition = (
        f"select relkind = 'r'{able or ' '}from pg_class where oid = {literal(table)}::regclass"
    )
    return do_block(f"\n    if ({condition}) then\n        {sql}\n    end if;\n") + ";"


def query_call(name: str) -> str:
    return f"rt.query({json.dumps(name, ensure_ascii=False)}, depends_on=[...], key=...)"


def new_key_sql(schema: str, name: str, columns: Collection[object]) -> str:
    """Return the SQL that adds a primary key column with an unused name."""
    key = "id"
    while key in columns:
        key = f"row_{key}"
    return (
        f"alter table {qualified(schema, name)} add column {key} "
        "bigint generated always as identity primary key;"
    )


def sql_of(words: str) -> str:
    """Return the statement that an error advises."""
    _, run, rest = words.partition("; run: ")
    if not run:
        return ""
    for end in (", or sign in", " (a view"):
        rest = rest.partition(end)[0]
    return f"{rest};"
