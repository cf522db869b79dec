"""The optional SQL: printed by ``notebook-rt doctor --sql``, and part of a demo's stack from the start.

Three files, each of which may be run more than once: tables that describe themselves, the audit's digest, and
operations with keys from a sequence. For tables whose changes are broadcast from the database there is a
fourth (``docs/design/broadcast.md``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from notebook_rt.quoting import qualified

PACKAGE = Path(__file__).parent.parent
DESCRIBE_SQL = PACKAGE / "sync" / "table" / "describe.sql"
AUDIT_SQL = PACKAGE / "sync" / "table" / "audit.sql"
LEDGER_SQL = PACKAGE / "outbox" / "ledger.sql"
BROADCAST_SQL = PACKAGE / "sync" / "table" / "broadcast.sql"
BROADCAST_REMOVE_SQL = PACKAGE / "sync" / "table" / "broadcast_remove.sql"
_LOCKED = "'{}'::regclass[]"
"""In the SQL of broadcasts: the tables that it is about to be run for."""
_REMOVED = "'{}'::text[]"
"""In the SQL that removes them: the same."""


def optional_sql() -> str:
    """Return all of it as one text."""
    return "\n".join(file.read_text() for file in (DESCRIBE_SQL, AUDIT_SQL, LEDGER_SQL))


_FUNCTION = re.compile(
    r"create or replace function public\.(\w+)\(.*?\bas \$\$(.*?)\$\$;", re.DOTALL
)


def function_sources() -> dict[str, str]:
    """Return the functions of the optional SQL with the hashes that ``nrt_describe`` reports for them."""
    return {
        name: hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
        for name, body in _FUNCTION.findall(optional_sql())
    }


def broadcast_sql(
    schema: str,
    tables: Sequence[str],
    source_policy: str | None = None,
    scope: str | None = None,
) -> str:
    """Return the SQL that makes these tables' changes broadcast.

    ``source_policy`` is an SQL condition: who may read the changes of all rows. With ``scope``, a column,
    each of its values has a topic of its own, and the condition is about that column: who may read the rows
    of which value (None: the user whose id it is).
    """
    said = {"source_policy": source_policy, "scope": scope}
    options = [f", {name} => {_literal(one)}" for name, one in said.items() if one is not None]
    calls = [
        f"select notebook_rt.broadcast_add({_relation(schema, table)}{''.join(options)});\n"
        for table in tables
    ]
    relations = ", ".join(_relation(schema, table) for table in tables)
    text = BROADCAST_SQL.read_text().replace(_LOCKED, f"array[{relations}]::regclass[]")
    return text + "\n" + "".join(calls)


def broadcast_remove_sql(schema: str, tables: Sequence[str]) -> str:
    """Return the SQL that ends the broadcasts; with the last table it removes everything."""
    names = ", ".join(_literal(qualified(schema, table)) for table in tables)
    return BROADCAST_REMOVE_SQL.read_text().replace(_REMOVED, f"array[{names}]::text[]")


def _relation(schema: str, table: str) -> str:
    return f"{_literal(qualified(schema, table))}::regclass"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
