"""An order as the user requested it: PostgREST's ``price.desc.nullslast``, read and written.

``store/order.py`` sorts rows by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Final

import msgspec

from notebook_rt.errors import FilterError
from notebook_rt.model.filters import column_name
from notebook_rt.model.kinds import sortable

_SQL_DIRECTION: Final = re.compile(r"(.*\S)\s+(asc|desc)(ending)?(\s+nulls\s+(first|last))?", re.I)

_COMMA: Final = re.compile(r',(?=(?:[^"]*"[^"]*")*[^"]*\Z)')
"""Outside quotes."""
_QUOTED: Final = re.compile(r'\s*"((?:[^"\\]|\\.)+)"((?:\.\w+)*)\s*\Z')


class OrderBy(msgspec.Struct, frozen=True):
    """One term of an order; ``nulls_first`` None is PostgreSQL's default: first if descending."""

    column: str
    desc: bool = False
    nulls_first: bool | None = None


def parse_order(source: str | Sequence[str | OrderBy] | None) -> tuple[OrderBy, ...]:
    """Read PostgREST's order: ``"price.desc,name"`` or a list of such parts.

    A name with a dot or a comma in it is in double quotes.

    Examples
    --------
    >>> [order_text(part) for part in parse_order("price.desc.nullslast, name")]
    ['price.desc.nullslast', 'name.asc.nullslast']
    >>> parse_order('"a.b".desc')
    (OrderBy(column='a.b', desc=True, nulls_first=None),)
    """
    if source is None:
        return ()
    parts = _COMMA.split(source) if isinstance(source, str) else list(source)
    return tuple(part if isinstance(part, OrderBy) else _order_by(part) for part in parts)


def _order_by(text: object) -> OrderBy:
    if not isinstance(text, str):
        raise FilterError(f"order {text!r}: expected a string such as 'price.desc'")
    if quoted := _QUOTED.match(text):
        column = re.sub(r"\\(.)", r"\1", quoted[1])
        words = quoted[2].split(".")[1:] if quoted[2] else []
    else:
        column, *words = text.strip().split(".")
    direction = [word for word in words if word in ("asc", "desc")]
    nulls = [word for word in words if word in ("nullsfirst", "nullslast")]
    if not column or [*direction, *nulls] != words or len(direction) > 1 or len(nulls) > 1:
        raise FilterError(
            f"order {text!r}: expected column, column.asc or column.desc, then perhaps .nullsfirst or "
            ".nullslast; a name with a dot in it is quoted: '\"a.b\".desc'"
        )
    if column.startswith("-"):
        raise FilterError(f"order {text!r}: write '{column[1:]}.desc'")
    # As in SQL: the server would read it as a column's name. A column with such a name must be quoted.
    if not quoted and not words and (sql := _SQL_DIRECTION.fullmatch(column)):
        meant = f"{sql[1]}.{sql[2].lower()}" + (f".nulls{sql[5].lower()}" if sql[5] else "")
        raise FilterError(f"order {text!r}: write {meant!r}")
    return OrderBy(column, direction == ["desc"], nulls[0] == "nullsfirst" if nulls else None)


def known_here(order: Sequence[OrderBy], types: Mapping[str, str]) -> tuple[OrderBy, ...]:
    """Return the first terms of ``order`` whose values sort here as they do on the server.

    The order of rows that differ in them is known here. For rows that are equal in them only the server knows
    which comes first, unless these are all terms.
    """
    return tuple(takewhile(lambda term: sortable(types[term.column]), order))


def nulls_first(term: OrderBy) -> bool:
    """Return whether nulls come first: in PostgreSQL they are last, but first if descending."""
    return term.desc if term.nulls_first is None else term.nulls_first


def order_text(term: OrderBy) -> str:
    """Return ``term`` as PostgREST reads it."""
    nulls = "nullsfirst" if nulls_first(term) else "nullslast"
    return f"{column_name(term.column)}.{'desc' if term.desc else 'asc'}.{nulls}"
