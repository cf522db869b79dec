"""Build the REST reads of a mirror: pages by key, rows by key, counts (promises 1, 2, 8).

In: the spec, the schema and the place to continue from. Out: ``Query``s with PostgREST's parameters. Nothing
is fetched here, and values are only ever converted to text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.model.filters import Condition, column_name
from notebook_rt.model.order import OrderBy, nulls_first, order_text
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Schema, kind, to_rest
from notebook_rt.sync.events import Query

KEYS_PER_QUERY: Final = 500
"""Maximum rows requested by key at once; with ``URL_ROOM``, so that the URL stays short."""
URL_ROOM: Final = 4000
_COMMA: Final = len("%2C")
Count: TypeAlias = Literal["exact", "estimated"] | None


class Reads(msgspec.Struct, frozen=True):
    """Builds the reads of one table: with its filter, its projection, in an order without ties."""

    spec: TableSpec
    schema: Schema
    page_size: int
    xmin: bool = False
    """Whether to request the system column ``xmin`` too, a version of each row of every table."""

    def page(
        self,
        order: Sequence[OrderBy],
        after: Row | None = None,
        *,
        columns: Sequence[str] | None = None,
        extra: Sequence[tuple[str, str]] = (),
        limit: int | None = None,
        offset: int = 0,
        count: Count = None,
        near: bool = False,
    ) -> Query:
        """Return the page after the row ``after`` in ``order``; ``columns`` None: whole rows.

        ``near``: few rows share the value of ``after`` in the first column. Skipping them in the index is
        cheaper than a bitmap of both sides of the ``or``, which is sorted for each page.
        """
        params = [("select", self._select(columns)), *self.spec.filter.to_rest(), *extra]
        if after is not None:
            params += self._after(order, after, near)
        if offset:
            params.append(("offset", str(offset)))
        params.append(("order", ",".join(order_text(term) for term in order)))
        params.append(("limit", str(self.page_size if limit is None else limit)))
        return Query(tuple(params), count=count)

    def by_key(self) -> tuple[OrderBy, ...]:
        """Return the order of the key."""
        return tuple(OrderBy(name) for name in self.schema.key)

    def by_order(self, order: Sequence[OrderBy]) -> tuple[OrderBy, ...]:
        """Return ``order`` with the key as a tie-breaker."""
        named = {term.column for term in order}
        return (*order, *(term for term in self.by_key() if term.column not in named))

    def rows(
        self, keys: Sequence[Key], *, at_most: int, count: Count = None
    ) -> Iterator[tuple[Query, list[Key]]]:
        """Yield reads of whole rows by key, with the filter, each with its requested keys."""
        most = min(at_most, KEYS_PER_QUERY)
        chunk: list[Key] = []
        room = URL_ROOM
        for key in keys:
            size = self._size(key)
            if chunk and (len(chunk) == most or size > room):
                yield self._rows(chunk, count), chunk
                chunk, room = [], URL_ROOM
            chunk.append(key)
            room -= size
        if chunk:
            yield self._rows(chunk, count), chunk

    def rows_at_once(self, key: Key, at_most: int) -> int:
        """Return about how many rows with keys like ``key`` one read requests."""
        return max(1, min(at_most, KEYS_PER_QUERY, URL_ROOM // self._size(key)))

    def count(self, extra: Sequence[tuple[str, str]] = ()) -> Query:
        """Return a read of only the number of rows."""
        select = ",".join(column_name(name) for name in self.schema.key)
        params = [("select", select), *self.spec.filter.to_rest(), *extra]
        return Query(tuple(params), count="exact", head=True)

    def without_key(self) -> Query | None:
        """Return a read of a row with a null in the given key, which pages may omit; None: impossible."""
        nullable = {column.name for column in self.schema.columns if column.nullable}
        cases = [f"{column_name(name)}.is.null" for name in self.spec.key or () if name in nullable]
        if not cases:
            return None
        select = ("select", self._select(None))
        return Query(
            (select, *self.spec.filter.to_rest(), ("or", f"({','.join(cases)})"), ("limit", "1"))
        )

    def at_least(self, column: str, value: Any) -> tuple[str, str]:
        """Return the parameter for rows whose ``column`` is at least ``value``."""
        return Condition(column, "gte", (self._text(column, value),)).to_rest()

    def greater_than(self, column: str, value: Any) -> tuple[str, str]:
        """Return the parameter for rows whose ``column`` is greater than ``value``."""
        return Condition(column, "gt", (self._text(column, value),)).to_rest()

    def equal(self, column: str, value: Any) -> tuple[str, str]:
        """Return the parameter for rows whose ``column`` is ``value``."""
        return Condition(column, "eq", (self._text(column, value),)).to_rest()

    def less_than(self, column: str, value: Any) -> tuple[str, str]:
        """Return the parameter for rows whose ``column`` is less than ``value``."""
        return Condition(column, "lt", (self._text(column, value),)).to_rest()

    def with_xmin(self, xmin: bool) -> Reads:
        return replace(self, xmin=xmin)

    def _select(self, columns: Sequence[str] | None) -> str:
        if columns is None:
            everything = self.spec.columns is None
            names = ["*"] if everything else [column_name(name) for name in self.schema.names]
        else:
            names = [column_name(name) for name in dict.fromkeys((*self.schema.key, *columns))]
        return ",".join([*names, "xmin"] if self.xmin else names)

    def _rows(self, keys: Sequence[Key], count: Count) -> Query:
        params = [("select", self._select(None)), *self.spec.filter.to_rest()]
        if self._has_list:
            values = tuple(self._one_key(key) for key in keys)
            params.append(Condition(self.schema.key[0], "in", values).to_rest())
        elif len(keys) == 1:
            params.append(("and", f"({self._one_key(keys[0])})"))
        else:
            parts = (f"and({self._one_key(key)})" for key in keys)
            params.append(("or", f"({','.join(parts)})"))
        return Query(tuple(params), count=count)

    @property
    def _has_list(self) -> bool:
        """Return whether keys can be requested with ``in``: PostgreSQL has no list of arrays (42704)."""
        return len(self.schema.key) == 1 and kind(self.schema.types[self.schema.key[0]]) != "array"

    def _size(self, key: Key) -> int:
        return len(self._one_key(key)) + _COMMA

    def _one_key(self, key: Key) -> str:
        if self._has_list:
            return self._text(self.schema.key[0], key)
        if len(self.schema.key) == 1:
            return self._is(self.schema.key[0], key)
        assert isinstance(key, tuple)  # sync.rows: a composite key is a tuple
        return ",".join(self._is(name, v) for name, v in zip(self.schema.key, key, strict=True))

    def _text(self, column: str, value: Any) -> str:
        return to_rest(self.schema.types.get(column, "text"), value)

    def _is(self, column: str, value: Any) -> str:
        if value is None:
            return f"{column_name(column)}.is.null"
        return Condition(column, "eq", (self._text(column, value),)).to_logic()

    def up_to(self, order: Sequence[OrderBy], row: Row) -> list[tuple[str, str]]:
        """Return the parameters for rows that do not come after ``row`` in an order by the key."""
        if len(order) == 1:
            return [Condition(order[0].column, "lte", (self._bound(order[0], row),)).to_rest()]
        cases = []
        for place, term in enumerate(order):
            operator = "lte" if place == len(order) - 1 else "lt"
            within = Condition(term.column, operator, (self._bound(term, row),)).to_logic()
            same = [self._is(t.column, row[t.column]) for t in order[:place]]
            cases.append(f"and({','.join([*same, within])})" if same else within)
        first = Condition(order[0].column, "lte", (self._bound(order[0], row),)).to_rest()
        return [first, ("or", f"({','.join(cases)})")]

    def _bound(self, term: OrderBy, row: Row) -> str:
        return self._text(term.column, row[term.column])

    def _after(
        self, order: Sequence[OrderBy], row: Row, near: bool = False
    ) -> list[tuple[str, str]]:
        """Return ``(a, b) > (x, y)`` for mixed directions: ``a > x or (a = x and b > y)``.

        If no null comes after ``x``, ``a >= x`` is added: an index is then read from there, not from its
        beginning for each page (promise 15). Then ``a > x or b > y`` is equivalent, and used with ``near``.
        """
        first = order[0]
        value = row[first.column]
        bounded = value is not None and (nulls_first(first) or first.column in self.schema.key)
        if len(order) == 1 and first.column in self.schema.key:
            text = self._bound(first, row)
            return [Condition(first.column, "lt" if first.desc else "gt", (text,)).to_rest()]
        cases = []
        for place, term in enumerate(order):
            beyond = self._beyond(term, row[term.column])
            if beyond is None:
                continue
            equal = order[1 if near and bounded else 0 : place]
            same = [self._is(t.column, row[t.column]) for t in equal]
            cases.append(f"and({','.join([*same, beyond])})" if same else beyond)
        after = [("or", f"({','.join(cases)})")]
        if value is None and not nulls_first(first):
            return [Condition(first.column, "is", ("null",)).to_rest(), *after]
        if bounded:
            text = self._bound(first, row)
            after.insert(
                0, Condition(first.column, "lte" if first.desc else "gte", (text,)).to_rest()
            )
        return after

    def _beyond(self, term: OrderBy, value: Any) -> str | None:
        """Return the condition for values after ``value`` in one column's order; None: there are none."""
        name = column_name(term.column)
        if value is None:
            return f"{name}.not.is.null" if nulls_first(term) else None
        text = self._text(term.column, value)
        further = Condition(term.column, "lt" if term.desc else "gt", (text,)).to_logic()
        if nulls_first(term) or term.column in self.schema.key:
            return further
        return f"or({further},{name}.is.null)"
