"""Query the heads of all logs of a session with one request. Pure.

In: the queries of several tables at one moment (``question``). Out: one query for the server
(``combined``), whose answer is split into one for each table (``answers``). ``runtime/heads.py`` sends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from notebook_rt.sync.events import OPTIONAL_SQL_SCHEMA, Page, Query

HEADS: Final = "notebook_rt_heads"
MOST: Final = 100
"""Maximum number of tables in one query: each makes the server read a log."""


def question(asked: Mapping[str, Any]) -> Query:
    """Return the query for the head of one log; ``asked`` contains its name and its known state."""
    return _of([dict(asked)])


def combined(questions: Sequence[Query]) -> Query:
    """Combine several queries into one."""
    return _of([one for each in questions for one in (each.args or {})["p_tables"]])


def _of(tables: list[dict[str, Any]]) -> Query:
    args = {"p_tables": tables}
    return Query((), rpc=HEADS, rpc_schema=OPTIONAL_SQL_SCHEMA, args=args, refusable=True)


def answers(page: Page, count: int) -> list[Page]:
    """Split the answer to a combined query; an invalid answer is returned for each."""
    value = page.value
    if not (isinstance(value, dict) and isinstance(value.get("heads"), dict)):
        return [page] * count
    heads = value["heads"]
    return [
        replace(page, value={**value, "heads": {"0": heads[str(n)]} if str(n) in heads else {}})
        for n in range(count)
    ]
