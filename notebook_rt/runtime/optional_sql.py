"""The optional SQL: what ``notebook-rt doctor --sql`` prints, and what a demo's stack has from the start.

Three files, each of which may be run more than once: tables that describe themselves, the audit's
digest, and operations with the keys that a sequence makes.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
DESCRIBE_SQL = PACKAGE / "sync" / "table" / "describe.sql"
AUDIT_SQL = PACKAGE / "sync" / "table" / "audit.sql"
LEDGER_SQL = PACKAGE / "outbox" / "ledger.sql"


def optional_sql() -> str:
    """All of it, as one text."""
    return "\n".join(file.read_text() for file in (DESCRIBE_SQL, AUDIT_SQL, LEDGER_SQL))
