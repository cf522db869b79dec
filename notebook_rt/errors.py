"""The errors of the package. Each message says what happened, to which object, and what to do.

No other part of the package raises a bare ``Exception`` at a user. ``model/classify.py`` decides how to
recover from an error. Table names and server messages come from other people and are quoted in
messages; keys and tokens are never included.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from notebook_rt.quoting import did_you_mean, do_block, identifier, literal, printable, qualified
from notebook_rt.tracebacks import remade, rendered

HOW_TO_RUN: Final = (
    "Run what `notebook-rt doctor --sql` prints once (in the SQL editor of a hosted project, by "
    "rt.stack.sql(...) in the embedded stack)"
)
"""The command that prints the optional SQL, with which tables describe themselves."""
HOW_TO_EXPOSE: Final = (
    'The API does not expose schema "public", in which the optional SQL has its functions: add it to the '
    "exposed schemas (Supabase dashboard: Project Settings, Data API)"
)


class NotebookRTError(Exception):
    """The base of every error of this package."""

    def __str__(self) -> str:
        # Not KeyError's, which is a repr. It quotes names, values and server messages.
        return printable(Exception.__str__(self), lines=True)

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, for other processes: ``args`` are not the arguments of ``__init__``."""
        return remade, (type(self), self.args), self.__dict__

    def _render_traceback_(self) -> list[str]:
        """Return the traceback that IPython prints: the user's own lines and the message.

        Calls inside this package do not help with a mistake made outside. ``%debug`` still has the whole
        stack.
        """
        return rendered(self)


# Connection -----------------------------------------------------------------------------------


class UnreachableError(NotebookRTError):
    """There is no answer from the URL, or the answer is not a Supabase project's.

    Attributes
    ----------
    what : str
        The message without the advice for a server that has never answered.
    status : int or None
        The HTTP status of an answer from something else than the project.

    Examples
    --------
    >>> ".." in str(UnreachableError("https://x.supabase.co", "no answer."))
    False
    """

    def __init__(
        self, url: str, reason: str, heard: str = "", *, status: int | None = None
    ) -> None:
        reason = reason.removesuffix(".")
        stop = "" if reason.endswith("?") else "."
        advice = (
            "Check the URL (Supabase dashboard: Project Settings, API) and the network, or use "
            'nrt.connect("local") for the embedded stack'
        )
        if heard:
            advice = (
                f"The server was heard of last at {heard}. The connection is retried automatically: what "
                "was read stays, and your edits are kept and sent when it is back. Check the network"
            )
        what = f"cannot reach {url}{' now' * bool(heard)}: {reason}"
        super().__init__(f"{what}{stop} {advice}")
        self.what = what if heard else str(self)
        self.url = url
        self.reason = reason
        self.status = status

    def after(self, heard: str) -> UnreachableError:
        """Return the error for a server that answered before, last at this time.

        >>> error = UnreachableError("https://x.supabase.co", "no answer").after("14:03:12 UTC")
        >>> "now: no answer. The server was heard of last at 14:03:12 UTC" in str(error)
        True
        """
        return UnreachableError(self.url, self.reason, heard, status=self.status)


class AnswerTooLargeError(NotebookRTError):
    """An answer of the server has more than ``Options.max_answer_bytes`` bytes, decompressed."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(
            f"{what}: the answer has more than {most:,} bytes, decompressed, and was not read to its "
            "end. Ask for less (columns=, filter=, a smaller Options.page_size), or raise "
            "Options.max_answer_bytes"
        )
        self.what = what
        self.most = most


class AuthError(NotebookRTError):
    """The server does not accept the key or the token."""

    def __init__(self, what: str, url: str, reason: str = "") -> None:
        said = f" (it says: {reason})" if reason else ""
        super().__init__(
            f"{url} refuses the {what}{said}. Pass the project's anon or publishable key to "
            "nrt.connect(url, key) or set SUPABASE_KEY; a user's token goes to "
            "session.sign_in(...) or session.set_auth(token)"
        )
        self.url = url
        self.reason = reason


class NoKeyError(AuthError):
    """No key is given, or the given one is not valid."""

    def __init__(self, url: str, reason: str) -> None:
        NotebookRTError.__init__(
            self,
            f"no key for {url}: {reason}. Pass the project's anon or publishable key (Supabase "
            "dashboard: Project Settings, API keys) to nrt.connect(url, key), or set SUPABASE_KEY",
        )
        self.url = url
        self.reason = reason


class NoProjectError(NotebookRTError):
    """``connect()`` was called without a project.

    Attributes
    ----------
    seen : list of str
        Names of environment variables that look like a project's.
    """

    def __init__(self, seen: Sequence[str], *, has_key: bool = False) -> None:
        if seen:
            url = next((name for name in seen if name.upper().endswith(("_URL", "_REF"))), None)
            key = next((name for name in seen if name.upper().endswith("_KEY")), None)
            given = [f'os.environ["{name}"]' for name in (url, key) if name]
            pass_it = ", ".join(given if url else ["url", *(given or ["key"])])
            is_there = f"{', '.join(seen)} {'is' if len(seen) == 1 else 'are'}"
            why = f"SUPABASE_URL is not set, but {is_there}: pass nrt.connect({pass_it})"
        elif has_key:
            why = (
                "a key is given and no URL, and SUPABASE_URL is not set: pass nrt.connect(url, key)"
            )
        else:
            why = "SUPABASE_URL is not set, and nobody sits in front of a script: pass nrt.connect(url, key)"
        super().__init__(
            f"no project is named: {why}, set SUPABASE_URL and SUPABASE_KEY, or ask for the embedded "
            'stack of this machine with nrt.connect("local")'
        )
        self.seen = list(seen)


class LoginError(AuthError):
    """The credentials were rejected; or no user was created with them (``new``)."""

    def __init__(self, url: str, reason: str, *, new: bool = False) -> None:
        words = (
            f"{url} makes no user of this: {reason.rstrip('.')}"
            if new
            else (
                f"{url} does not sign in: {reason.rstrip('.')}. It takes sign_in(email, password) of a user "
                "of the project who has confirmed the address, or send_code(email) and "
                "sign_in(email, code=...)"
            )
        )
        NotebookRTError.__init__(self, words)
        self.url = url
        self.reason = reason


class TokenExpiredError(AuthError):
    """The access token has expired and could not be refreshed."""

    def __init__(self, url: str, reason: str = "") -> None:
        super().__init__("access token: it has expired", url, reason)


PAUSED: Final = 540
"""The status of a hosted project's answers while it is paused."""


class RateLimitedError(NotebookRTError):
    """The server asks to slow down (429)."""

    def __init__(
        self, what: str, retry_after: float | None = None, reason: str = "", *, again: bool = True
    ) -> None:
        said = f" (it says: {reason})" if reason else ""
        when = "a minute" if retry_after is None else f"{retry_after:g} s"
        todo = f"Tried again by itself in {when}" if again else f"Try again in {when}"
        super().__init__(f"{what}: too many requests{said}. {todo}")
        self.what = what
        self.retry_after = retry_after
        self.reason = reason

    def once(self) -> RateLimitedError:
        """Return the error for a call that is not retried automatically."""
        return RateLimitedError(self.what, self.retry_after, self.reason, again=False)


class ServerError(NotebookRTError):
    """The server failed (5xx); it may work later."""

    def __init__(
        self,
        what: str,
        status: int,
        reason: str = "",
        retry_after: float | None = None,
        *,
        again: bool = True,
    ) -> None:
        said = f": {reason.removesuffix('.')}" if reason else ""
        todo = (self._todo(status), "Tried again by itself" if again else "Try again later")
        super().__init__(
            f"{what}: the server answered {status}{said}. {'. '.join(filter(None, todo))}"
        )
        self.what = what
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @staticmethod
    def _todo(status: int) -> str:
        """Return advice other than to wait; empty if there is none."""
        return "The project is paused: resume it (Supabase dashboard)" if status == PAUSED else ""

    def once(self) -> ServerError:
        """Return the error for a call that is not retried automatically.

        >>> print(ServerError("GET /rest/v1/t", 503).once())
        GET /rest/v1/t: the server answered 503. Try again later
        """
        return type(self)(self.what, self.status, self.reason, self.retry_after, again=False)


class StatementTimeoutError(ServerError):
    """The database cancelled a statement that exceeded the role's ``statement_timeout``.

    On a hosted project that is 3 s for ``anon`` and 8 s for signed-in users.
    """

    @staticmethod
    def _todo(status: int) -> str:
        return "Ask for less (filter=, columns=), or raise the role's statement_timeout"


class RefusedError(NotebookRTError):
    """The server refused the request (a 4xx): a constraint, a policy, an invalid value.

    Attributes
    ----------
    status : int
        The HTTP status.
    code : str
        PostgreSQL's SQLSTATE or PostgREST's ``PGRST…`` code; empty without one.
    details, hint : str
        Further texts of the server.
    """

    def __init__(
        self,
        what: str,
        status: int,
        code: str = "",
        reason: str = "",
        details: str = "",
        hint: str = "",
    ) -> None:
        words = "; ".join(w for w in (reason, details, hint) if w)
        said = f": {words}" if words else ""
        super().__init__(f"{what}: refused with {status}{' ' + code if code else ''}{said}")
        self.status = status
        self.code = code
        self.reason = reason
        self.details = details
        self.hint = hint


class ProtocolError(NotebookRTError):
    """The server sent data that this package cannot read."""


# A table that cannot be mirrored --------------------------------------------------------------


class TableError(NotebookRTError):
    """The base of errors of one table. ``schema`` and ``table`` name it."""

    def __init__(self, schema: str, table: str, message: str) -> None:
        super().__init__(message)
        self.schema = schema
        self.table = table


_CACHED: Final = (
    ", and that the schema is exposed by the API; a table made a moment ago is known after: "
    "notify pgrst, 'reload schema'"
)
_ANOTHER: Final = (
    "; if another project has it, connect to that: nrt.connect(url, key), "
    "or set SUPABASE_URL and SUPABASE_KEY"
)


class MissingTableError(TableError):
    """The table does not exist, or this login may not see it."""

    def __init__(
        self, schema: str, table: str, hint: str = "", *, exposed: bool = True, url: str = ""
    ) -> None:
        self.hint = hint
        self.exposed = exposed
        here = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        of = f", of the project on this machine ({url})" if here else ""
        if not exposed:
            told = f" ({hint})" if hint else ""
            super().__init__(
                schema,
                table,
                f'table "{table}" cannot be asked for: schema "{schema}" is not exposed by the API{told}. '
                "Add it to the exposed schemas (Supabase dashboard: Project Settings, Data API), or name "
                f'another schema: rt.table("{table}", schema=...)',
            )
            return
        apart = ""
        if "." in table:
            home, _, name = table.partition(".")
            apart = f' (a schema is given apart: table("{name}", schema="{home}"))'
            hint = ""  # the server's hint is a name in this schema
        super().__init__(
            schema,
            table,
            f'table "{table}" is not in schema "{schema}"{of}. Check its name{apart}'
            + (f" ({hint})" if hint else "")
            + (_ANOTHER if here else _CACHED),
        )


class MissingQueryError(TableError):
    """The view or function does not exist, or not with these parameters."""

    def __init__(self, schema: str, table: str, hint: str = "") -> None:
        super().__init__(
            schema,
            table,
            f'there is no view or function "{table}" with these parameters in schema "{schema}". '
            "Check its name and the names in `params`"
            + (f" ({hint})" if hint else "")
            + "; one made a moment ago is known after: notify pgrst, 'reload schema'",
        )


class QueryKeyError(TableError):
    """The key does not identify the rows of a query, or they cannot be paged without a key."""

    def __init__(self, schema: str, table: str, key: tuple[str, ...] = ()) -> None:
        if key:
            what = (
                f"several rows have the same {', '.join(key)}; name more columns with key=, or none"
            )
        else:
            what = (
                "it has more rows than the server gives at once, and columns without an order "
                "(json, xml, point, ...); name the columns that tell its rows apart with key="
            )
        super().__init__(schema, table, f'query "{table}": {what}')
        self.key = key


_JSON_PATH = (
    "A JSON path (->, ->>) cannot be used here: changes are compared column by column. Add a generated "
    "column that holds the value, filter a view with rt.query, or compute it by .map(lambda df: ...)"
)


class MissingColumnError(TableError):
    """A requested column is not in the table."""

    def __init__(self, schema: str, table: str, column: str, columns: Sequence[str] = ()) -> None:
        there = f"; there are {', '.join(columns)}" if columns else ""
        super().__init__(
            schema,
            table,
            f'table "{table}" has no column "{column}"{there}{did_you_mean(column, columns)}. '
            f"{_JSON_PATH if '->' in column else 'Check `columns`, `key`, `order`, `filter` and `merge`'}",
        )
        self.column = column


class UnfitMergeError(TableError):
    """A column to merge by ``"delta"`` has no numbers, or one to merge by ``"union"`` has no lists."""

    def __init__(
        self, schema: str, table: str, column: str, pg_type: str, rule: Literal["delta", "union"]
    ) -> None:
        does = {"delta": "adds differences of numbers", "union": "merges the items of two lists"}
        super().__init__(
            schema,
            table,
            f'table "{table}": column "{column}" is {pg_type}, and merge="{rule}" {does[rule]}; '
            'of other values, "ask" asks you, and "lww" keeps what is written last',
        )
        self.column = column


class NotPublishedError(TableError):
    """Realtime does not stream the table: it is not in the publication.

    ``kind`` is PostgreSQL's ``relkind``, if known. ``keyless``: the table has no primary key (None: unknown);
    ``key``: the columns named as the key.
    """

    def __init__(
        self,
        schema: str,
        table: str,
        kind: str = "",
        *,
        keyless: bool | None = False,
        key: Sequence[str] = (),
    ) -> None:
        first = (
            "; a table without a primary key needs one first, or PostgreSQL refuses every update and "
            "delete of it once it is published, so this "
            + ("adds one where there is none" if key or keyless else "publishes none without")
        )
        todo = (
            f"run: {_publish(qualified(schema, table), keyless, key)} "
            "(a view or a foreign table cannot be in one, and of a partitioned table only its partitions "
            f"are: {_query(table)} follows those{'' if keyless is False else first})"
        )
        if kind in ("v", "m", "f", "p"):
            what = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}.get(
                kind, "a partitioned table, and only its partitions can be in it"
            )
            todo = f"it is {what}. It is fetched again when tables that it depends on change: {_query(table)}"
        super().__init__(
            schema, table, f'table "{table}" is not in the publication supabase_realtime; {todo}'
        )


def _publish(table: str, keyless: bool | None, key: Sequence[str]) -> str:
    """Return the statement that publishes a table and keeps its rows writable with any key."""
    publish = f"alter publication supabase_realtime add table {table}"
    if keyless is False:
        return publish
    new = "add column id bigint generated always as identity primary key"
    add = f"add primary key ({', '.join(map(identifier, key))})" if key else new
    first = (
        f"alter table {table} {add};"
        if key or keyless
        else f"raise exception '%', {literal(f'{table} needs a primary key first')};"
    )
    return do_block(
        f"if not (select relreplident in ('f', 'i') or exists (select from pg_index where indrelid = "
        f"pg_class.oid and indisprimary) from pg_class where oid = {literal(table)}::regclass) then "
        f"{first} end if; {publish};"
    )


class NotBroadcastError(TableError):
    """The database does not broadcast the changes of a table opened with ``source="broadcast"``.

    ``reason`` is the missing part. Depending on it, ``scope`` is the column by whose values the table is
    broadcast; ``key`` is the primary key, if another key was given; ``role`` is the role of a login that may
    read only some columns, because broadcasts contain whole rows.
    """

    def __init__(
        self,
        schema: str,
        table: str,
        reason: str,
        scope: str = "",
        key: Sequence[str] = (),
        role: str = "",
    ) -> None:
        of = "" if schema == "public" else f"--schema {shlex.quote(schema)} "
        command = f"notebook-rt doctor --sql {of}{shlex.quote(table)}"
        todo = (
            f'name the value whose rows are to be followed, as in filter={{"{scope}": ...}}; or put the '
            'table into the publication supabase_realtime: source="auto" then follows all its rows by '
            "Postgres Changes"
            if scope
            else "leave out key=, or put the table into the publication supabase_realtime: "
            'source="auto" then follows it by Postgres Changes'
            if key
            else f'run the SQL that `{command}` prints, or ask for the table with source="auto"'
        )
        if role and not (scope or key):
            reason = (
                f'role "{role}" may read some of its columns only, and a broadcast has whole rows'
            )
            todo = (
                f'ask for the table with source="auto", or let the role read all of it: '
                f"grant select on {qualified(schema, table)} to {identifier(role)}"
            )
        super().__init__(
            schema,
            table,
            f'the database does not broadcast the changes of table "{table}" to this login: {reason}; {todo}',
        )


class NoTablesError(TableError):
    """The project does not describe its tables to this login.

    ``hidden``: the API does not expose the schema of the optional SQL.
    """

    def __init__(self, schema: str, *, hidden: bool = False) -> None:
        super().__init__(
            schema,
            "*",
            "the project tells its tables to secret keys only. "
            f"{f'{HOW_TO_EXPOSE}. ' if hidden else ''}{HOW_TO_RUN}, and every login sees those "
            "that it may read; a table that you know by name opens without it: rt.table(name)",
        )


class NoPrimaryKeyError(TableError):
    """Rows cannot be identified, so changes cannot be applied.

    ``unique`` are the columns of its unique constraints, as far as they are known.
    """

    def __init__(self, schema: str, table: str, unique: Sequence[Sequence[str]] = ()) -> None:
        there = " or ".join(f"key={_as_key(names)}" for names in unique) or "key=..."
        super().__init__(
            schema,
            table,
            f'table "{table}" has no primary key, so its changes cannot be told apart; name columns '
            f'that are unique and never null: rt.table("{table}", {there}). '
            f"A view or a foreign table has no key: {_query(table)} follows it",
        )


class EndlessTableError(TableError):
    """Reading the table does not end."""

    def __init__(self, schema: str, table: str, reason: str) -> None:
        super().__init__(schema, table, f'table "{table}" cannot be read to its end: {reason}')
        self.reason = reason


class UnknownKeyError(TableError):
    """The primary key of a table could not be found; ``tried`` are columns that are not the key.

    ``empty``: no row could be read. ``alike``: no candidate columns identify the rows that were read.
    ``hidden``: the API does not expose the schema of the optional SQL.
    """

    def __init__(
        self,
        schema: str,
        table: str,
        tried: Sequence[Sequence[str]] = (),
        *,
        empty: bool = False,
        alike: bool = False,
        hidden: bool = False,
    ) -> None:
        said = "the server does not say which columns are it"
        if alike:
            said = "no columns of a type that keys have tell its rows apart"
        if empty:
            said = "no row can be read (it is empty, or a policy hides its rows) to see its columns"
        elif tried:
            some = ", ".join(map(_as_key, tried[:5])) + (", ..." if len(tried) > 5 else "")
            said = f"it is not {some}"
        super().__init__(
            schema,
            table,
            f'the primary key of table "{table}" cannot be found out: the project describes its tables to '
            f'secret keys only, and {said}. Name the key: rt.table("{table}", key=...), with columns that '
            f"are unique and never null. {f'{HOW_TO_EXPOSE}. ' if hidden else ''}{HOW_TO_RUN}: "
            "then tables describe themselves. "
            f"A view or a foreign table has no key: {_query(table)} follows it",
        )
        self.tried = tuple(map(tuple, tried))


class DuplicateKeyError(TableError):
    """The named key does not identify the rows of a table; ``rows`` are examples."""

    def __init__(
        self, schema: str, table: str, key: Sequence[str], rows: Sequence[Mapping[str, object]] = ()
    ) -> None:
        such = f" ({' and '.join(_start(repr(dict(row))) for row in rows)})" if rows else ""
        super().__init__(
            schema,
            table,
            f'several rows of table "{table}" have the same {", ".join(key)}, or a null there{such}; '
            "name columns that are unique and never null with key=",
        )
        self.key = tuple(key)


def _start(text: str) -> str:
    """Return a value shortened for a sentence."""
    return text if len(text) <= 120 else f"{text[:119]}…"


def _query(table: str) -> str:
    """Return the call that follows a relation without its own stream of changes."""
    return f"rt.query({json.dumps(table, ensure_ascii=False)}, depends_on=[...])"


def _as_key(names: Sequence[str]) -> str:
    return repr(names[0]) if len(names) == 1 else repr(tuple(names))


class InexactKeyError(TableError):
    """The table has keys that a float cannot distinguish."""

    def __init__(self, schema: str, table: str, column: str, value: object) -> None:
        super().__init__(
            schema,
            table,
            f'table "{table}": its key "{column}" is numeric, and {value} is more than a float holds '
            'exactly; keep numbers as Decimal: connect(..., options=nrt.Options(numeric="decimal"))',
        )


_OF_TABLE: Final = re.compile(r"permission denied for (?:table|view|materialized view) (.+)")
_OF_SCHEMA: Final = re.compile(r"permission denied for schema (.+)")


class PermissionDeniedError(TableError):
    """This login may not read (or write) the table, or call the function."""

    def __init__(
        self,
        schema: str,
        table: str,
        role: str = "anon",
        right: str = "select",
        reason: str = "",
        columns: Collection[str] = (),
        instead: str = "",
    ) -> None:
        name, to = qualified(schema, table), identifier(role)
        of = f" ({', '.join(identifier(str(one)) for one in columns)})" if len(columns) else ""
        what, run = f'{right} on table "{table}"', f"grant {right}{of} on {name} to {to}"
        if (below := _OF_TABLE.match(reason)) and right != "execute" and below[1] != table:
            run = f"grant {right} on {qualified(schema, below[1])} to {to}"  # what a view reads
        if right == "execute":
            what = f'execute function "{table}"'
            run = f"grant execute on function {name} to {to}"
            if not reason.startswith(
                ("permission denied for function", "permission denied for schema")
            ):
                run = ""  # an object that the function uses
        if home := _OF_SCHEMA.match(reason):
            run = f"grant usage on schema {identifier(home[1])} to {to}"
        todo = f"run: {run}" if run else "grant what it names"
        if "row-level security policy" in reason:
            todo = "add a policy that lets this role do it"
        if role == "anon":
            todo += ", or sign in"
        if instead:
            todo += f", or {instead}"
        super().__init__(
            schema,
            table,
            f'role "{role}" may not {what}'
            + (f" (the server says: {reason})" if reason else "")
            + f"; {todo}",
        )
        self.role = role
        self.right = right
        self.reason = reason


class SomeColumnsError(PermissionDeniedError):
    """This login may read only some columns of the table, which must be named.

    >>> print(SomeColumnsError("public", "staff", "anon", ["id", "name"], ["id"]))
    role "anon" may read some columns of table "staff" only: name them, rt.table("staff", columns="id,name")

    ``complete``: False if there may be further readable columns. ``withheld``: requested columns that it may
    not read.

    >>> print(SomeColumnsError("public", "staff", "anon", ["id"], [], withheld=["pay"]))  # doctest: +ELLIPSIS
    role "anon" may not read pay of table "staff": leave it out, or run: grant select (pay) on public.staff...
    """

    def __init__(
        self,
        schema: str,
        table: str,
        role: str,
        columns: Collection[str],
        key: Collection[str],
        *,
        withheld: Collection[str] = (),
        complete: bool = True,
    ) -> None:
        said = ",".join(columns)
        named = f'"{said}"' if said.replace(",", "").replace("_", "").isalnum() else [*columns]
        todo = f"name them, rt.table({json.dumps(table, ensure_ascii=False)}, columns={named})"
        if unread := [name for name in key if name not in columns]:
            what = ", ".join(map(identifier, unread))
            todo = (
                f"{', '.join(columns)}; its rows cannot be told apart without the key; run: "
                f"grant select ({what}) on {qualified(schema, table)} to {identifier(role)}"
            )
        words = f'role "{role}" may read some columns of table "{table}" only: {todo}'
        if withheld:
            what = ", ".join(map(identifier, withheld))
            words = (
                f'role "{role}" may not read {what} of table "{table}": leave '
                f"{'it' if len(withheld) == 1 else 'them'} out, or run: "
                f"grant select ({what}) on {qualified(schema, table)} to {identifier(role)}"
            )
        elif not complete:
            words = (
                f'role "{role}" may read some columns of table "{table}" only, {", ".join(columns)} among '
                f"them: name each one that it may read, rt.table({json.dumps(table, ensure_ascii=False)}, "
                f'columns="{said},..."), or run: grant select on {qualified(schema, table)} to '
                f"{identifier(role)}"
            )
        TableError.__init__(self, schema, table, words)
        self.role = role
        self.right = "select"
        self.reason = ""
        self.columns = tuple(columns)
        """Return the readable columns."""


def why_empty(
    schema: str, table: str, role: str, row_security: bool | None, *, shows_some: bool = False
) -> str:
    """Return why a table has no visible row, and what to do; empty if no row can be hidden.

    No policy hides a row from a secret key's role. ``row_security``: whether policies decide which rows
    are visible; None: unknown. ``shows_some``: there is a policy that shows rows to this role.

    >>> why_empty("public", "t", "anon", False), why_empty("public", "t", "service_role", True)
    ('', '')
    >>> why_empty("public", "t", "authenticated", True, shows_some=True)
    'table "t" has no row that this login may see: it is empty, or its policies show them to others'
    """
    if row_security is False or role == "service_role":
        return ""
    if row_security and shows_some:
        return (
            f'table "{table}" has no row that this login may see: it is empty, or its policies show '
            "them to others"
        )
    policy = f"create policy {identifier(role + '_reads')} on {qualified(schema, table)}"
    policy = f"{policy} for select to {identifier(role)} using"
    security = "row-level security" if row_security else "row-level security, where it is on,"
    why = f'table "{table}" has no row that role "{role}" may see: it is empty, or its {security} hides them'
    if role == "anon":
        return f"{why}. Sign in; or, only if everybody may see every row, run: {policy} (true)"
    return (
        f"{why}. Where a row belongs to a user, a policy says so: {policy} ((select auth.uid()) = user_id); "
        f"only if everybody who is signed in may see every row, run: {policy} (true)"
    )


class FilterError(NotebookRTError, ValueError):
    """A filter that cannot be parsed, or that the table refuses."""


class SqlError(NotebookRTError, ValueError):
    """A query of `sql` that DuckDB cannot run, or that reads a table that is not a frame."""

    def __init__(self, query: str, reason: str) -> None:
        super().__init__(f"{reason.strip()}\nin: {query.strip()}")
        self.query = query
        self.reason = reason


class DerivationError(NotebookRTError, ValueError):
    """A derived table cannot be updated incrementally with pandas' result; use ``map`` to compute it."""


# Channels -------------------------------------------------------------------------------------


class ChannelRefusedError(NotebookRTError):
    """The server refused to let this login join the channel, or closed it."""

    def __init__(self, topic: str, reason: str) -> None:
        what_to_do = (
            "A private channel needs a policy on realtime.messages for this login; see Supabase's "
            "Realtime Authorization"
        )
        match reason.partition(":")[0]:  # the server's code
            case "PrivateOnly":
                what_to_do = (
                    "The project lets nobody into public channels: rt.channel(name, private=True), or "
                    "allow public access (Supabase dashboard: Realtime, Settings)"
                )
            case "RealtimeDisabledForTenant":
                what_to_do = "Switch it on (Supabase dashboard: Realtime, Settings)"
        super().__init__(f'channel "{topic}": refused: {reason}. {what_to_do}')
        self.topic = topic
        self.reason = reason


# Local ----------------------------------------------------------------------------------------


class ClosedError(NotebookRTError):
    """A closed object was used."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is closed. Ask for it again: nrt.connect(...), or .table(...), .query(...), "
            ".channel(...) of an open session"
        )


class ReadOnlyError(NotebookRTError):
    """A local edit of a frame that is not a table."""

    def __init__(self, what: str) -> None:
        super().__init__(f'"{what}" cannot be edited: edit the table that its rows come from')


class WaitTimeoutError(NotebookRTError, TimeoutError):
    """A wait exceeded its timeout."""


class InvalidEditError(NotebookRTError, ValueError):
    """An invalid local edit; nothing of it was queued.

    ``reason`` is the reason without the table's name; ``column`` is the column, if there is one.
    """

    def __init__(self, message: str, reason: str = "", column: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message
        self.column = column


class InvalidKeyError(NotebookRTError, KeyError, ValueError):
    """A row was requested by an impossible key, such as text if keys are integers.

    Writes raise `InvalidEditError` instead; ``in`` is False, as for an index of pandas.
    """

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f'table "{table}": {reason}; no row can have that key')
        self.reason = reason


class AnswerLostError(TableError):
    """The answer to an insert without a key was lost: the row may be in the table.

    Attributes
    ----------
    op : str
        The operation, which stays in ``rt.queue`` and is not sent again automatically.
    """

    def __init__(self, schema: str, table: str, op: str) -> None:
        super().__init__(
            schema,
            table,
            f'table "{table}": the answer to an insert without its key was lost, so the row may be in. It '
            f"is not sent again unasked: look for it, then rt.queue.discard({op!r}) if it is there, or "
            f"rt.queue.retry({op!r}) if it is not",
        )
        self.op = op


class ConflictError(NotebookRTError):
    """A local edit and another client's change exclude each other, which requires a decision."""


class HistoryError(NotebookRTError, LookupError):
    """The past of a moment is not recorded or forgotten, or the moment is in the future."""


class HistoryGapWarning(UserWarning):
    """A moment lies in a period in which changes may have been lost; it is known from later reads."""


class QueueError(NotebookRTError):
    """The file of unsent writes cannot be used."""


def __dir__() -> list[str]:
    """Return the names to complete: the errors that can be caught."""
    return [name for name in globals() if name.endswith("Error")]
