"""Read the whole answer of a query, and determine its columns.

In: the query. Out: ``Query``s, and finally all rows in the server's order. An answer longer than a page is
read by its order and its key; without a key, in the order of its whole rows, where equal rows cannot be
distinguished and need not be.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from itertools import chain
from typing import Final, TypeAlias

from msgspec.structs import replace

from notebook_rt.errors import EndlessTableError, MissingColumnError, QueryKeyError
from notebook_rt.model.filters import column_name
from notebook_rt.model.inferred import inferred
from notebook_rt.model.order import OrderBy, order_text
from notebook_rt.model.rows import WireRow
from notebook_rt.model.spec import QuerySpec
from notebook_rt.model.types import Column, Schema, canonical
from notebook_rt.sync.events import Effect, Page, Progress, Query
from notebook_rt.sync.table.flows import Ask
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Reads

POSITION: Final = ""
"""The key column of rows without a key: their position. No column of PostgreSQL can have this name."""

_NO_ORDER: Final = frozenset(
    {"json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"}
)
Answer: TypeAlias = Generator[Ask, Sequence[Read], list[WireRow]]


class Answers:
    """The answers of one query, and what they revealed about the server and the columns."""

    def __init__(
        self, spec: QuerySpec, page_size: int, most: int, emit: Callable[[Effect], None]
    ) -> None:
        self.spec = spec
        self.page_size = page_size
        self.most = most
        """The number of rows at which an answer is given up (``Options.max_rows``)."""
        self.is_function = spec.args is not None
        self.described: tuple[Column, ...] = ()
        """The columns as the API describes them; empty if it does not."""
        self.pages = 0
        """The requests that returned rows of the last answer."""
        self._emit = emit
        self._types: dict[str, str] = {}
        self._whole = page_size // 10
        """An answer with fewer rows than this is whole: that many rows arrived uncut."""
        self._cut = 0
        """The number of rows at which the server cuts an answer; 0: it never did."""

    def read(self, schema: Schema | None) -> Answer:
        """Return all rows. The server may cut an answer without reporting it, so if an answer is as long
        as the longest answer known to be whole, the rows after it are requested.
        """
        self.pages = 0
        size = self.page_size if self.spec.limit is None else self.spec.limit
        if not self._cut or schema is None:
            (read,) = yield [self._ask(self.spec.order, 0, min(size, self.page_size))]
            self.pages += 1
            rows = self._rows_of(read.page)
            self._check(len(rows))
            if read.page.scalar or len(rows) < self._whole or len(rows) == self.spec.limit:
                return rows
            (behind,) = yield [self._ask((), len(rows), 1)]
            if not behind.page.rows:
                self._whole = len(rows)
                return rows
            self._cut = len(rows)
        else:
            rows = []
        return (yield from self._pages_of(rows, schema))

    def _pages_of(self, first: list[WireRow], schema: Schema | None) -> Answer:
        """Return all rows of an answer that is longer than a page, in an order without ties."""
        spec, limit = self.spec, self.spec.limit
        schema = schema if not first else self.schema_of(first)
        assert schema is not None  # known from the rows of the answer that was too long
        reads = Reads(spec, schema, self._cut)
        by_rows = self._by_rows(schema) if spec.key is None else ()
        rows: list[WireRow] = []
        while True:
            size = self._cut if limit is None else min(self._cut, limit - len(rows))
            if spec.key is None:
                query = self._ask(by_rows, len(rows), size)
            else:
                after = schema.decode(rows[-1]) if rows else None
                query = reads.page(reads.by_order(spec.order), after, limit=size)
                query = self._called(query)
            (read,) = yield [query]
            self.pages += 1
            rows += self._rows_of(read.page)
            self._check(len(rows))
            self._emit(Progress(len(rows), limit))
            if len(read.page.rows) < size or len(rows) == limit:
                return rows

    def _check(self, got: int) -> None:
        """Raise if the answer does not end; ``got`` rows were read so far."""
        if got > self.most:
            spec = self.spec
            reason = f"it has more than {self.most:,} rows (Options.max_rows); use limit="
            raise EndlessTableError(spec.schema, spec.table, reason)

    def _by_rows(self, schema: Schema) -> tuple[OrderBy, ...]:
        """Return the order by whole rows: only equal rows are ties, which do not matter."""
        spec = self.spec
        given = [term.column for term in spec.order]
        rest = [column for column in schema.columns if column.name not in (*given, POSITION)]
        if any(canonical(column.pg_type) in _NO_ORDER for column in rest):
            raise QueryKeyError(spec.schema, spec.table)
        return (*spec.order, *(OrderBy(column.name) for column in rest))

    def _ask(self, order: Sequence[OrderBy], offset: int, limit: int) -> Query:
        spec = self.spec
        params = spec.filter.to_rest()
        if spec.columns is not None:
            names = dict.fromkeys((*spec.columns, *(spec.key or ())))
            params.insert(0, ("select", ",".join(map(column_name, names))))
        if order:
            ties = [OrderBy(name) for name in spec.key or ()]
            named = {term.column for term in order}
            terms = [*order, *(term for term in ties if term.column not in named)]
            params.append(("order", ",".join(map(order_text, terms))))
        if offset:
            params.append(("offset", str(offset)))
        params.append(("limit", str(limit)))
        return self._called(Query(tuple(params)))

    def _called(self, query: Query) -> Query:
        if not self.is_function:
            return query
        return replace(query, rpc=self.spec.table, args=json.loads(self.spec.args or "{}"))

    def _rows_of(self, page: Page) -> list[WireRow]:
        """Return the rows of a page; a value that is not a row becomes a column with the function's name."""
        values = [page.value] if page.scalar else page.rows
        return [row if isinstance(row, dict) else {self.spec.table: row} for row in values]

    def schema_of(self, rows: Sequence[WireRow]) -> Schema:
        """Return the columns as described, otherwise as received, with types that hold the values."""
        spec = self.spec
        names = tuple(dict.fromkeys(chain.from_iterable(rows)))
        described = {column.name: column for column in self.described}
        if not names:
            known = described or self._types
            names = spec.columns or tuple(known)
            names = tuple(dict.fromkeys((*names, *(spec.key or ()))))
        columns = []
        for name in names:
            column = described.get(name)
            if column is None:
                pg_type = inferred((row.get(name) for row in rows), self._types.get(name))
                if pg_type is not None:
                    self._types[name] = pg_type
                column = Column(name, pg_type or "text")
            columns.append(column)
        for name in spec.key or ():
            if name not in names:
                raise MissingColumnError(spec.schema, spec.table, name, names)
        if spec.key is None:
            columns.append(Column(POSITION, "int8"))
        return Schema(tuple(columns), spec.key or (POSITION,), spec.numeric)
