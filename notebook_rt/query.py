"""``LiveQuery``: a view, a join or a function that Realtime cannot stream, kept up to date.

It is fetched again, debounced, when a table that it depends on changes. It has the interface of a
``LiveFrame``: ``.df``, ``.status``, ``.version``, ``.wait``, ``.on_change``, ``.log``.
``sync/query/requery.py`` decides when to fetch. Returned by ``Session.query``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from notebook_rt.frame import LiveFrame
from notebook_rt.model.filters import FilterSource, parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.plain import duration, json_text
from notebook_rt.model.spec import QuerySpec, parse_names
from notebook_rt.options import Options


class LiveQuery(LiveFrame):
    """The answer to a query as a pandas DataFrame that keeps itself up to date.

    Returned by ``Session.query``. ``df`` has the rows in the order of the server's answer. With a
    ``key``, rows are compared by it; without one the index is a ``RangeIndex``, and a changed row is
    a deleted and an inserted row.
    """


def query_spec(
    name: str,
    schema: str,
    options: Options,
    *,
    depends_on: str | Sequence[str | tuple[str, str]],
    params: Mapping[str, Any] | None,
    key: str | Sequence[str] | None,
    filter: FilterSource,
    columns: str | Sequence[str] | None,
    order: str | Sequence[str] | None,
    limit: int | None,
    debounce: float | None,
) -> QuerySpec:
    """The arguments of ``Session.query`` as a value: equal ones share one subscription."""
    if not isinstance(params, Mapping | None):
        raise TypeError(f"params must be a dict, a function's arguments by name, not {params!r}")
    tables = (depends_on,) if isinstance(depends_on, str) else depends_on
    return QuerySpec(
        table=name,
        schema=schema,
        filter=parse(filter),
        columns=parse_names(columns),
        key=parse_names(key),
        order=parse_order(order),
        limit=limit,
        numeric=options.numeric,
        depends_on=tuple(dict.fromkeys(_table(table, schema) for table in tables)),
        args=None if params is None else json_text(dict(params), "params"),
        debounce=options.debounce if debounce is None else duration(debounce, "debounce"),
    )


def _table(name: str | tuple[str, str], schema: str) -> tuple[str, str]:
    """Return a table's schema and name. A dot separates two plain words; in other names it is a character."""
    if not isinstance(name, str):
        return name
    before, dot, after = name.partition(".")
    parted = dot and before.isidentifier() and after.isidentifier()
    return (before, after) if parted else (schema, name)
