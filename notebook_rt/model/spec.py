"""What the user requested: one table, with a filter, a projection, an order and a limit; or a query.

A ``TableSpec`` is a value: two equal ones share one subscription and one store. It comes from
``Session.table(...)`` and goes to the ``Mirror``; nothing in it is learned from the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, TypeAlias

import msgspec

from notebook_rt.errors import FilterError
from notebook_rt.model.filters import Filter
from notebook_rt.model.order import OrderBy
from notebook_rt.model.types import Numeric

Source: TypeAlias = Literal["auto", "changes", "broadcast"]


def parse_names(source: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return column names: a comma separates them in a string, as in ``select``, but not in a sequence.

    >>> parse_names("id, price"), parse_names(["price, net"])
    (('id', 'price'), ('price, net',))
    """
    if isinstance(source, str) and source.strip() == "*":
        return None
    if isinstance(source, str):
        return tuple(name.strip() for name in source.split(","))
    return None if source is None else tuple(source)


def check_text(given: object, what: str) -> None:
    """Raise TypeError if ``given``, an option called ``what``, is neither a string nor None."""
    if not isinstance(given, str | None):
        raise TypeError(f"{what} must be a string, not {given!r}")


def check_name(name: object, kind: str) -> None:
    """Raise if no table or function (``kind``) can be requested by this name.

    In a URL "." and ".." are path steps, not names, also as "%2E" (RFC 3986, 6.2.2): a proxy may resolve
    them.

    Raises
    ------
    TypeError, ValueError
        If it is not a string, or empty; if it is "." or "..".
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a {kind} must be a string, not {name!r}")
    if name in (".", ".."):
        instead = "make a view of it with another name" if kind == "table" else "rename it"
        raise ValueError(
            f"a {kind} named {name!r} cannot be addressed over REST, as in a URL that is a step and no "
            f"name: {instead}"
        )


class TableSpec(msgspec.Struct, frozen=True):
    """One table as it was requested."""

    table: str
    schema: str = "public"
    filter: Filter = msgspec.field(default_factory=Filter)
    columns: tuple[str, ...] | None = None
    """None: all. The key, and the columns of the order, are always included."""
    key: tuple[str, ...] | None = None
    """None: learned from the server."""
    order: tuple[OrderBy, ...] = ()
    limit: int | None = None
    numeric: Numeric = "float"
    watermark: str | None = "updated_at"
    """A column that every change sets to the server's now; ignored if the table does not have it."""
    source: Source = "changes"
    """How changes arrive: by Postgres Changes, by broadcast from the database, or by broadcast if possible.
    """
    named: tuple[str, ...] = ()
    """Columns that are mentioned elsewhere (``merge=``): fetched even if no row shows them."""
    summed: tuple[str, ...] = ()
    """Those of them whose differences are added (``"delta"``): numbers."""
    united: tuple[str, ...] = ()
    """Those of them whose items are merged (``"union"``): lists."""

    def __post_init__(self) -> None:
        check_name(self.table, "table")
        check_text(self.schema, "schema")
        limit = self.limit
        number = isinstance(limit, Integral) and not isinstance(limit, bool)
        if limit is not None and not (number and limit >= 1):
            raise FilterError(
                f'table "{self.table}": limit must be a whole number, 1 or more, not {limit!r}'
            )


class QuerySpec(TableSpec, frozen=True):
    """A view or a function (``table``), and the tables that it depends on."""

    depends_on: tuple[tuple[str, str], ...] = ()
    """Schema and table of each."""
    args: str | None = None
    """A function's arguments as a JSON object; None: a view, or a function without arguments."""
    debounce: float = 0.25
