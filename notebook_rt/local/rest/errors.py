"""The refusals of the REST interface, with PostgREST's bodies and statuses.

In: a problem found here, or an error of PostgreSQL. Out: `RestError`, with its HTTP status and its body of
`code`, `message`, `details`, `hint`. Clients depend on these, so the codes, the messages and the mapping from
SQLSTATE to status are those of PostgREST's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class RestError(Exception):
    """An error answer.

    Parameters
    ----------
    status
        HTTP status.
    code
        `PGRST…` or an SQLSTATE.
    message, details, hint
        The body's texts.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint

    @property
    def body(self) -> dict[str, str | None]:
        return {
            "code": self.code,
            "details": self.details,
            "hint": self.hint,
            "message": self.message,
        }


def not_supported(feature: str) -> RestError:
    """Return the error for a feature of PostgREST that this server lacks: 501, with its name."""
    return RestError(
        501,
        "NRT501",
        f"{feature}: not supported by the local stack",
        hint="A Supabase project answers this; the local stack is a stand-in for one machine.",
    )


def parse_error(what: str, text: str, position: int, problem: str) -> RestError:
    """Return PGRST100: a query parameter that violates the grammar."""
    message = f'"failed to parse {what} ({text})" (line 1, column {position + 1})'
    return RestError(400, "PGRST100", message, problem)


def table_not_found(schema: str, table: str, near: Sequence[str] = ()) -> RestError:
    message = f"Could not find the table '{schema}.{table}' in the schema cache"
    hint = f"Perhaps you meant the table '{schema}.{near[0]}'" if near else None
    return RestError(404, "PGRST205", message, hint=hint)


def column_not_found(table: str, column: str) -> RestError:
    message = f"Could not find the '{column}' column of '{table}' in the schema cache"
    return RestError(400, "PGRST204", message)


def put_filters() -> RestError:
    message = "Filters must include all and only primary key columns with 'eq' operators"
    return RestError(405, "PGRST105", message)


# SQLSTATE, or the class of it, to HTTP status; the longest match wins, anything else is 400.
_STATUS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "21": 500,
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53400": 500,
    "53": 503,
    "54": 500,
    "55": 500,
    "57P01": 503,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0001": 400,
    "P0": 500,
    "XX": 500,
}


class PostgresError(Exception):
    """An error of PostgreSQL."""

    def __init__(
        self, code: str, message: str, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint


def is_missing_table(error: PostgresError, schema: str, table: str | None) -> bool:
    """Whether the requested table does not exist: PostgREST uses its schema cache, this server
    PostgreSQL's error.
    """
    missing = f'relation "{schema}.{table}" does not exist'
    return error.code == "42P01" and error.message == missing


def from_postgres(error: PostgresError, role: str) -> RestError:
    """Return PostgreSQL's message, with PostgREST's status."""
    code, message = error.code, error.message
    status = _status_of(code, message, role)
    return RestError(status, code, message, error.details, error.hint)


def _status_of(code: str, message: str, role: str) -> int:
    if code == "42501":  # insufficient privilege: a caller without a login gets 401
        return 401 if role == "anon" else 403
    if code == "22023" and re.fullmatch(r'role ".*" does not exist', message, re.DOTALL):
        return 401
    if custom := re.fullmatch(r"PT(\d{3})", code):  # raise sqlstate 'PT402'
        status = int(custom[1])
        return status if 400 <= status <= 599 else 500
    return _STATUS.get(code, _STATUS.get(code[:2], 400))
