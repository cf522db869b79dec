"""What somebody asked for: one table, through a filter, a projection, an order and a limit; a query.

A ``TableSpec`` is a value: two equal ones share one subscription and one store. It comes from
``Session.table(...)`` and goes to the ``Mirror``; nothing in it is learnt from the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Final

from notebook_rt.errors import FilterError
from notebook_rt.model.filters import Filter, column_name
from notebook_rt.model.types import Numeric
from notebook_rt.store.order import OrderBy

_SQL_DIRECTION: Final = re.compile(r"(.*\S)\s+(asc|desc)(ending)?(\s+nulls\s+(first|last))?", re.I)


def parse_order(source: str | Sequence[str | OrderBy] | None) -> tuple[OrderBy, ...]:
    """Read PostgREST's order: ``"price.desc,name"`` or a list of such parts.

    Examples
    --------
    >>> [order_text(part) for part in parse_order("price.desc.nullslast, name")]
    ['price.desc.nullslast', 'name.asc.nullslast']
    """
    if source is None:
        return ()
    parts = source.split(",") if isinstance(source, str) else list(source)
    return tuple(part if isinstance(part, OrderBy) else _order_by(part) for part in parts)


def _order_by(text: object) -> OrderBy:
    if not isinstance(text, str):
        raise FilterError(f"order {text!r}: expected a text such as 'price.desc'")
    column, *words = text.strip().split(".")
    direction = [word for word in words if word in ("asc", "desc")]
    nulls = [word for word in words if word in ("nullsfirst", "nullslast")]
    if not column or [*direction, *nulls] != words or len(direction) > 1 or len(nulls) > 1:
        raise FilterError(
            f"order {text!r}: expected column, column.asc or column.desc, then perhaps "
            ".nullsfirst or .nullslast"
        )
    if column.startswith("-"):
        raise FilterError(f"order {text!r}: write '{column[1:]}.desc'")
    # As in SQL: the server would take it for a column's name. One that is called so: an OrderBy.
    if not words and (sql := _SQL_DIRECTION.fullmatch(column)):
        meant = f"{sql[1]}.{sql[2].lower()}" + (f".nulls{sql[5].lower()}" if sql[5] else "")
        raise FilterError(f"order {text!r}: write {meant!r}")
    return OrderBy(column, direction == ["desc"], nulls[0] == "nullsfirst" if nulls else None)


def parse_names(source: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Columns' names: a comma parts them in a text, as in ``select``; in a sequence it is a letter.

    >>> parse_names("id, price"), parse_names(["price, net"])
    (('id', 'price'), ('price, net',))
    """
    if isinstance(source, str) and source.strip() == "*":
        return None
    if isinstance(source, str):
        return tuple(name.strip() for name in source.split(","))
    return None if source is None else tuple(source)


def nulls_first(term: OrderBy) -> bool:
    """Where the nulls go: PostgreSQL puts them last, but first if descending."""
    return term.desc if term.nulls_first is None else term.nulls_first


def order_text(term: OrderBy) -> str:
    """``term`` as PostgREST reads it."""
    nulls = "nullsfirst" if nulls_first(term) else "nullslast"
    return f"{column_name(term.column)}.{'desc' if term.desc else 'asc'}.{nulls}"


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table as it was asked for."""

    table: str
    schema: str = "public"
    filter: Filter = field(default_factory=Filter)
    columns: tuple[str, ...] | None = None
    """None: all. The key, and the columns of the order, are carried in any case."""
    key: tuple[str, ...] | None = None
    """None: learnt from the server."""
    order: tuple[OrderBy, ...] = ()
    limit: int | None = None
    numeric: Numeric = "float"
    watermark: str | None = "updated_at"
    """A column that every change moves to the server's now; ignored where the table has none."""
    named: tuple[str, ...] = ()
    """Columns that are spoken of elsewhere (``merge=``): there though no row shows them."""

    def __post_init__(self) -> None:
        if not isinstance(self.table, str) or not self.table:
            raise TypeError(f"the name of a table is a text, not {self.table!r}")
        limit = self.limit
        number = isinstance(limit, Integral) and not isinstance(limit, bool)
        if limit is not None and not (number and limit >= 1):
            raise FilterError(
                f'table "{self.table}": limit must be a whole number, 1 or more, not {limit!r}'
            )


@dataclass(frozen=True, slots=True)
class QuerySpec(TableSpec):
    """A view or a function (``table``), and the tables that it is made of."""

    depends_on: tuple[tuple[str, str], ...] = ()
    """Schema and table of each."""
    args: str | None = None
    """A function's arguments as a JSON object; None: a view, or a function without arguments."""
    debounce: float = 0.25
