"""A table cut into ranges of its key, so that several of its pages are on their way at a time.

In: the first page, and each further one as it comes. Out: the queries to send next, and the pages in
the order of the key. Nothing is known of the table but what its pages show (promise 15): the rows of
a page and the span of their keys give the density that the next ranges are cut by. Where a key is no
number (text), or one value of its first column has many pages, a look at the index finds the bounds:
the key that comes so many rows after another.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from notebook_rt.errors import AnswerTooLargeError, StatementTimeoutError
from notebook_rt.model.kinds import INT_LIMITS
from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Row, WireRow
from notebook_rt.model.types import canonical, kind
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Pool
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Reads

FILL: Final = 0.9
"""The share of a page that a range is cut for: one row too many costs a request of its own."""
DENSE: Final = 0.98
"""From this share of the numbers of a range on, ranges are cut for full pages."""
LOOK_PAGES: Final = 20
"""The most pages between two looks at the index."""
LOOK_ROWS: Final = 50_000
"""Rows of the index that one look may pass over: then all bounds of a small table are asked for
together, and those of a large one one after the other."""
AHEAD_PAGES: Final = 64
"""Pages that may wait for one before them; then only that one is asked for."""
SMALLEST: Final = 16
"""Rows that a page is not made smaller than."""

_LARGEST: Final = {
    **{name: limit - 1 for name, limit in INT_LIMITS.items()},
    "oid": 2**32 - 1,
    "uuid": 2**128 - 1,
}
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def number(value: Any) -> int | None:
    """A number that sorts as PostgreSQL sorts ``value``; None: there is none.

    >>> number(7), number("00000000-0000-0000-0000-0000000000ff"), number("x")
    (7, 255, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=value.tzinfo or dt.UTC) - _EPOCH) // _MICROSECOND
    if isinstance(value, dt.date):
        return value.toordinal()
    if isinstance(value, str):
        try:
            return uuid.UUID(value).int
        except ValueError:
            return None
    return None


def from_number(pg_type: str, at: int) -> Any:
    """The value of a column of ``pg_type`` whose `number` is ``at``; None: no value is so large."""
    name = canonical(pg_type)
    if at > _LARGEST.get(name, at):
        return None
    try:
        match kind(pg_type):
            case "int":
                return at
            case "timestamptz":
                return _EPOCH + at * _MICROSECOND
            case "timestamp":
                return (_EPOCH + at * _MICROSECOND).replace(tzinfo=None)
            case "date":
                return dt.date.fromordinal(at)
    except (OverflowError, ValueError):
        return None
    return str(uuid.UUID(int=at)) if name == "uuid" else None


def is_numbered(pg_type: str) -> bool:
    """Whether the values of ``pg_type`` have numbers."""
    return canonical(pg_type) == "uuid" or kind(pg_type) in (
        "int",
        "timestamptz",
        "timestamp",
        "date",
    )


@dataclass(slots=True, eq=False)
class Range:
    """Part of the key's order. Its pages are asked for one after the other."""

    after: Row | None
    """Its last row that was read; None: the first is yet to come."""
    low: int | None = None
    """The number that its first column begins at; None: it begins after ``after``."""
    high: int | None = None
    """The number that its first column ends before; None: no end is known."""
    up_to: Row | None = None
    """The last row that it may have."""
    next: Range | None = None
    came: deque[Read] = field(default_factory=deque)
    """Its pages that wait for those of ranges before it."""
    full: int = 0
    """Full pages that it gave in a row."""
    pages: int | None = None
    """About how many pages it has, where that is known better than of the table."""
    looks: dict[int, Row | None] = field(default_factory=dict)
    """What the looks for its bounds have shown so far; None: it ends before."""
    looking: int = 0
    """How many looks are under way or waiting."""
    done: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a request of the pool is: a page of a range, or a look for where to cut it."""

    span: Range
    limit: int
    look: int = 0
    """Which look for a bound of the range it is; 0: it is a page."""


class Ranges:
    """One read of a whole table after its first page.

    Parameters
    ----------
    limit
        Rows of a full page.
    pages_left
        About how many pages are left, as far as the server has said.
    take
        Called with each page, in the order of the key.
    check
        Called with the rows so far, and the last row of a range before and after a page; raises
        where pages do not come to an end.
    """

    def __init__(
        self,
        reads: Reads,
        order: Sequence[OrderBy],
        first: Read,
        *,
        columns: Sequence[str] | None,
        limit: int,
        most: int,
        pages_left: int | None,
        take: Callable[[Read], None],
        check: Callable[[int, Row | None, Row], None],
    ) -> None:
        self._reads = reads
        self._order = order
        self._columns = columns
        self._limit = limit
        self._pages_left = pages_left
        self._take = take
        self._check = check
        self._got = len(first.page.rows)
        self._first_type = reads.schema.types.get(order[0].column, "text")
        self._can_look = True
        self._head: Range | None = Range(self._last(first.page.rows))
        self._waiting_pages = 0
        self.pool = Pool(self._took, self._refused, most)
        self._go_on(self._head, first.page.rows)

    # What comes --------------------------------------------------------------------------------

    def _took(self, tag: object, read: Read) -> None:
        assert isinstance(tag, _Asked)
        if tag.look:
            self._looked(tag, read.page.rows)
        else:
            self._paged(tag, read)
        self._deliver()

    def _paged(self, asked: _Asked, read: Read) -> None:
        span, rows = asked.span, read.page.rows
        if self._pages_left is not None:
            self._pages_left = max(self._pages_left - 1, 0)
        if rows:
            span.came.append(read)
            self._waiting_pages += 1
            self._got += len(rows)
            before, span.after = span.after, self._last(rows)
            self._check(self._got, before, span.after)
        if len(rows) < asked.limit or self._is_at_end(span):
            span.done = True
        else:
            span.full += 1
            self._go_on(span, rows)

    def _is_at_end(self, span: Range) -> bool:
        """Whether no further row can be in a range whose last page was full."""
        if span.up_to is not None and span.up_to == self._key_of(span.after):
            return True
        if span.high is None or len(self._order) > 1:
            return False
        last = self._number(span.after)
        return last is not None and last + 1 >= span.high

    def _refused(self, tag: object, error: Exception) -> bool:
        """What takes too long or is too large is asked for less; else a refusal ends the read."""
        assert isinstance(tag, _Asked)
        if not isinstance(error, StatementTimeoutError | AnswerTooLargeError):
            return False
        if tag.look:
            self._can_look = False
            self._looked(tag, ())
            return True
        if tag.limit <= SMALLEST:
            return False
        self._limit = max(SMALLEST, min(self._limit, tag.limit // 2))
        self._ask(tag.span, soon=True)
        return True

    def _deliver(self) -> None:
        """Hand on what has come in order so far."""
        while self._head is not None:
            while self._head.came:
                self._waiting_pages -= 1
                self._take(self._head.came.popleft())
            if not self._head.done:
                break
            self._head = self._head.next
        self.pool.one_by_one = self._waiting_pages >= AHEAD_PAGES
        self._head_first()

    def _head_first(self) -> None:
        """Ask first for what comes first: a page that is far ahead only waits for those before it.

        But the range at the end, while pages are not kept waiting: it shows where the next begin.
        """
        waiting, places, span = self.pool.waiting, dict[int, int](), self._head
        while span is not None:
            is_end = span.next is None and span.high is None and span.up_to is None
            places[id(span)] = -1 if is_end and not self.pool.one_by_one else len(places)
            span = span.next
        ranked = sorted(waiting, key=lambda one: places[id(_span(one))])
        waiting.clear()
        waiting.extend(ranked)

    # What to ask for next ----------------------------------------------------------------------

    def _go_on(self, span: Range, rows: Sequence[WireRow]) -> None:
        """A full page of ``span`` came, and there may be more: cut the rest, or go on with it."""
        if self._pages_left == 0:
            self._pages_left = None  # there is more than the server has said
        if span.pages is not None:
            span.pages = span.pages - 1 if span.pages else None
        density, room = self._density(rows), self._room()
        if room > 1 and density is not None and self._cut(span, density, room):
            return
        if room > 1 and self._is_worth_a_look(span):
            self._look(span)
        else:
            self._ask(span, soon=True)

    def _room(self) -> int:
        """How many ranges there may be more: enough to keep every request busy, and few at the end."""
        room = 2 * self.pool.most - len(self.pool.waiting)
        return room if self._pages_left is None else min(room, self._pages_left)

    def _density(self, rows: Sequence[WireRow]) -> float | None:
        """Rows for each number of the first column, in a page; None: it has no numbers, or one only."""
        first, last = (self._number(self._decoded(row)) for row in (rows[0], rows[-1]))
        if first is None or last is None or not is_numbered(self._first_type):
            return None
        if first == last and len(self._order) > 1:
            return None
        return len(rows) / (last - first + 1)

    def _cut(self, span: Range, density: float, most: int) -> bool:
        """Cut what is left of ``span`` into ranges of about a page; False: it is one number wide."""
        last = self._number(span.after)
        assert last is not None  # there is a density
        start = last + 1 if len(self._order) == 1 else last
        fill = 1.0 if density >= DENSE and len(self._order) == 1 else FILL
        width = max(1, int(fill * self._limit / density))
        ends = [span.high, None if span.up_to is None else self._number(span.up_to)]
        end = min((one for one in ends if one is not None), default=None)
        bounds = []
        for place in range(1, most):
            bound = start + place * width
            if from_number(self._first_type, bound) is None or (end is not None and bound >= end):
                break
            bounds.append(bound)
        if not bounds:
            return False
        high, behind = span.high, span.next
        span.high = bounds[0]
        pieces = [span]
        for low, until in zip(bounds, [*bounds[1:], high], strict=True):
            piece = Range(None, low, until, span.up_to)
            pieces[-1].next = piece
            pieces.append(piece)
        pieces[-1].next = behind
        # The last piece first: what it shows is where the next ranges begin.
        self._ask(span, soon=True)
        if high is None:
            self._ask(pieces[-1], soon=True)
            pieces.pop()
        for piece in pieces[1:]:
            self._ask(piece)
        return True

    def _is_worth_a_look(self, span: Range) -> bool:
        """Whether enough may be left of ``span`` to look for a bound in it."""
        open_end = span.up_to is None and (span.high is None or span.full >= 2)
        return self._can_look and open_end and self._left(span) > 2

    def _left(self, span: Range) -> int:
        """About how many pages are left of ``span``, which has no end but perhaps the table's."""
        known = span.pages if span.pages is not None else self._pages_left
        return LOOK_PAGES if known is None else known

    def _look(self, span: Range) -> None:
        """Ask for the keys some pages further on."""
        left = self._left(span)
        pages = min(max(1, -(-left // self.pool.most)), LOOK_PAGES)
        step = pages * self._limit
        span.looking = max(1, min(self.pool.most - 1, -(-left // pages) - 1, LOOK_ROWS // step))
        span.looks.clear()
        span.pages = None if self._pages_left is None else max(0, left - pages * span.looking)
        reads, bounds = self._reads.with_xmin(False), self._bounds(span)
        for place in range(span.looking, 0, -1):
            query = reads.page(
                self._order,
                span.after,
                columns=(),
                extra=bounds,
                limit=1,
                offset=place * step - 1,
            )
            self.pool.waiting.appendleft((_Asked(span, 1, look=place), query))

    def _looked(self, asked: _Asked, rows: Sequence[WireRow]) -> None:
        """A look has shown where a range may be cut; it is cut when all of them have."""
        span = asked.span
        span.looks[asked.look] = self._last(rows) if rows else None
        if len(span.looks) < span.looking:
            return
        bounds = [span.looks[place] for place in sorted(span.looks)]
        pieces = [span]
        for bound in bounds:
            if bound is None:
                break
            last = pieces[-1]
            rest = Range(bound, None, last.high, last.up_to, last.next, full=last.full)
            rest.pages, last.pages = last.pages, None
            last.up_to, last.next = bound, rest
            pieces.append(rest)
        *whole, rest = pieces
        for piece in whole:
            self._ask(piece)
        if whole and bounds[-1] is not None and self._is_worth_a_look(rest):
            self._look(rest)
        else:
            self._ask(rest)

    def _ask(self, span: Range, soon: bool = False) -> None:
        query = self._reads.page(
            self._order,
            span.after,
            columns=self._columns,
            extra=self._bounds(span),
            limit=self._limit,
        )
        put = self.pool.waiting.appendleft if soon else self.pool.waiting.append
        put((_Asked(span, self._limit), query))

    def _bounds(self, span: Range) -> list[tuple[str, str]]:
        column, bounds = self._order[0].column, []
        if span.after is None and span.low is not None:
            bounds.append(self._reads.at_least(column, from_number(self._first_type, span.low)))
        if span.high is not None:
            bounds.append(self._reads.less_than(column, from_number(self._first_type, span.high)))
        if span.up_to is not None:
            bounds += self._reads.up_to(self._order, span.up_to)
        return bounds

    # Rows --------------------------------------------------------------------------------------

    def _decoded(self, row: WireRow) -> Row:
        return self._reads.schema.decode({term.column: row[term.column] for term in self._order})

    def _last(self, rows: Sequence[WireRow]) -> Row:
        return self._decoded(rows[-1])

    def _key_of(self, row: Row | None) -> Row | None:
        return None if row is None else {term.column: row[term.column] for term in self._order}

    def _number(self, row: Row | None) -> int | None:
        return None if row is None else number(row[self._order[0].column])


def _span(waiting: tuple[object, Query]) -> Range:
    asked = waiting[0]
    assert isinstance(asked, _Asked)
    return asked.span
