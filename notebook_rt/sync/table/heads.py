"""The heads of all logs of a session in one question: what each table asks of its own, put together.

In go the questions that several tables ask at one moment (``question``), out comes one for the server
(``combined``); its answer is taken apart again into one for each (``answers``). Pure;
``runtime/heads.py`` carries the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from notebook_rt.sync.events import OPTIONAL_SQL_SCHEMA, Page, Query

HEADS: Final = "notebook_rt_heads"
MOST: Final = 100
"""Tables in one question: each costs the server a look at a log."""


def question(asked: Mapping[str, Any]) -> Query:
    """Ask for the head of one log; ``asked`` says which, and what is known of it."""
    return _of([dict(asked)])


def combined(questions: Sequence[Query]) -> Query:
    """One question in place of several."""
    return _of([one for each in questions for one in (each.args or {})["p_tables"]])


def _of(tables: list[dict[str, Any]]) -> Query:
    args = {"p_tables": tables}
    return Query((), rpc=HEADS, rpc_schema=OPTIONAL_SQL_SCHEMA, args=args, refusable=True)


def answers(page: Page, count: int) -> list[Page]:
    """The answer to a combined question, one for each; one that is not valid is the answer to each."""
    value = page.value
    if not (isinstance(value, dict) and isinstance(value.get("heads"), dict)):
        return [page] * count
    heads = value["heads"]
    return [
        replace(page, value={**value, "heads": {"0": heads[str(n)]} if str(n) in heads else {}})
        for n in range(count)
    ]
