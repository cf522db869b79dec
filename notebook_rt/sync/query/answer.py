"""The answer of a query, whole: how it is asked for, and what its columns are.

In goes what was asked for; out come ``Query``s, and in the end all rows in the order the server gave
them. An answer longer than a page is read by its order and its key; without a key by its whole rows
in their order, where equal rows cannot be told apart and need not be.
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
"""The key of rows without one: their place. No column of PostgreSQL can have this name."""

_NO_ORDER: Final = frozenset(
    {"json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"}
)
Answer: TypeAlias = Generator[Ask, Sequence[Read], list[WireRow]]


class Answers:
    """The answers of one query, and what they have taught of the server and of the columns."""

    def __init__(
        self, spec: QuerySpec, page_size: int, most: int, emit: Callable[[Effect], None]
    ) -> None:
        self.spec = spec
        self.page_size = page_size
        self.most = most
        """Rows of an answer that is given up (``Options.max_rows``)."""
        self.is_function = spec.args is not None
        self.described: tuple[Column, ...] = ()
        """The columns as the API describes them; empty: it does not."""
        self.pages = 0
        """The requests that brought rows of the last answer."""
        self._emit = emit
        self._types: dict[str, str] = {}
        self._whole = page_size // 10
        """Fewer rows than this are a whole answer: so many came uncut (no server cuts so short)."""
        self._cut = 0
        """The server cuts an answer at so many rows; 0: it never did."""

    def read(self, schema: Schema | None) -> Answer:
        """All rows. The server may cut an answer short without saying so: an answer as long as
        the longest answer that is known to be whole is looked behind.
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
        """All rows of an answer that is longer than a page, in an order that has no ties."""
        spec, limit = self.spec, self.spec.limit
        schema = schema if not first else self.schema_of(first)
        assert schema is not None  # known from the rows that made the answer too long
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
        """Raise if the answer does not come to an end: ``got`` rows so far."""
        if got > self.most:
            spec = self.spec
            reason = f"it has more than {self.most:,} rows (Options.max_rows); use limit="
            raise EndlessTableError(spec.schema, spec.table, reason)

    def _by_rows(self, schema: Schema) -> tuple[OrderBy, ...]:
        """The order of whole rows: equal rows are the same, so it has no ties that matter."""
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
        """The rows of a page; a value that is no row is a column named as the function is."""
        values = [page.value] if page.scalar else page.rows
        return [row if isinstance(row, dict) else {self.spec.table: row} for row in values]

    def schema_of(self, rows: Sequence[WireRow]) -> Schema:
        """The columns: as they are described; else as they came, of types that hold the values."""
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
