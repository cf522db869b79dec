"""Cut a table into ranges of its key, so that several pages are requested at a time.

In: the first page, and each further page on arrival. Out: the queries to send next, and the pages in the
order of the key. The pages are the only information about the table (promise 15): the rows of a page and the
span of their keys give the density by which the next ranges are cut.

A run consists of all rows with one value in the first column of a composite key. With the first page, or if
a page contains only one run, the last key of the table is requested, which gives the average number of pages
of a run. Several short runs form a range. A run that is longer than most is a separate range, whose first
column is fixed; it is cut by the next column in the same way, up to the point where other runs ended, and
beyond it by as much as has been read so far. Uniform runs are cut into full pages wherever they end
(``uniform.py``). If a column is not a number (text), probes of the index find the bounds: the key a given
number of rows after another.

Ranges are correct for any keys: badly guessed bounds cost requests, never rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from notebook_rt.errors import AnswerTooLargeError, StatementTimeoutError
from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Row, WireRow
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Pool
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.numbers import SAMPLES, KeyNumbers, from_number
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.span import PageRequest, Range
from notebook_rt.sync.table.uniform import UniformRuns

Take: TypeAlias = Callable[[Read], Callable[[], None] | None]
"""Called with each page on arrival; the function it returns, if any, is called in the order of the pages."""
FILL: Final = 0.9
"""The share of a page for which a range is cut: one excess row costs another request."""
DENSE: Final = 0.98
"""The density of a range from which ranges are cut for full pages."""
EVEN: Final = 0.003
"""The share of a page by which evenly spaced keys may deviate from a line."""
LOOK_PAGES: Final = 20
"""Maximum number of pages between two probes of the index."""
LOOK_ROWS: Final = 50_000
"""Maximum rows of the index that a probe skips: so all bounds of a small table are requested together, and
those of a large table one after the other."""
AHEAD_PAGES: Final = 64
"""Maximum number of pages that wait for an earlier one; then only earlier pages are requested."""
WALK_PAGES: Final = 8
"""Maximum number of pages of a range of several runs; its last page is short, so it needs some full ones."""
FEW: Final = 4
"""The number of numbers per page up to which ranges of one page would be cut too short or too long."""
ENDS: Final = 8
"""Number of runs whose ends are used to predict the ends of others."""
HALF: Final = 0.5
"""Pages per number from which the average of runs determines how to cut."""
ALIKE_PAGES: Final = 16
"""Maximum pages per run for cutting them as uniform: a page that crosses the end of a run skips all of it in
the index, which costs as much as the short page that is saved.
"""
SMALLEST: Final = 16
"""Minimum number of rows of a page."""


class Ranges:
    """One read of a whole table with more than a page.

    Parameters
    ----------
    first
        The first page, or its keys as they were before this read began.
    got
        How many rows of ``first`` count as read: all or none.
    limit
        Number of rows of a full page.
    total
        About how many rows there are, if the server has reported it.
    last
        The last key of the table, if it was requested with the first page, else None. It indicates the
        length of runs.
    take
        Called with each page.
    check
        Called with the number of rows so far, and the last row of a range before and after a page; raises
        if the pages do not end.
    """

    def __init__(
        self,
        reads: Reads,
        order: Sequence[OrderBy],
        first: Read,
        got: int,
        *,
        columns: Sequence[str] | None,
        limit: int,
        most: int,
        total: int | None,
        last: Sequence[WireRow] | None,
        take: Take,
        check: Callable[[int, Row | None, Row], None],
    ) -> None:
        self._reads = reads
        self._order = order
        self._columns = columns
        self._limit = limit
        self._total = total
        self._beyond = 0
        """Ranges that may be cut now, because all pages that the server reported have arrived."""
        self._take = take
        self._check = check
        self._got = got
        self._keys = KeyNumbers(reads.schema, order)
        self._may_probe = True
        self._walk = max(1, min(WALK_PAGES, AHEAD_PAGES // most - 1))
        """Maximum number of pages of a range that are requested one after the other."""
        self._first = self._keys.row(first.page.rows[0])
        self._sample = self._keys.sample(first.page.rows)
        """A sample of the first page, including its first and last row: places and keys."""
        self._alike: UniformRuns | None = None
        self._highest: int | None = None
        """The number of the first column in the last row of the table, once known."""
        self._run_pages: float | None = None
        """About how many pages each number of the first column has, once known."""
        self._asked_last = self._spread = False
        self._ends: dict[int, deque[int]] = {}
        """For each key column, the numbers with which the last runs ended."""
        self._delivered: Row | None = None
        """The last key that was passed on."""
        self._held: list[Range] = []
        """Ranges waiting for the last key of the table."""
        self._waiting_pages = 0
        self._later: list[tuple[object, Query]] = []
        """Requests to send when fewer pages wait."""
        self.pool = Pool(self._took, self._refused, most)
        behind = Range(self._keys.last(first.page.rows))
        self._head: Range | None = behind
        if not got:
            self._head = Range(None, up_to=behind.after, next=behind)
            self._ask(self._head)
        if last is not None:
            self._asked_last = True
            self._saw_last(last)
        self._go_on(behind, first.page.rows)

    # Arriving pages --------------------------------------------------------------------------------

    def _took(self, tag: object, read: Read) -> None:
        assert isinstance(tag, PageRequest)
        if tag.last:
            self._saw_last(read.page.rows)
        elif tag.probe:
            self._take_probe(tag, read.page.rows)
        else:
            self._paged(tag, read)
        self._deliver()

    def _paged(self, asked: PageRequest, read: Read) -> None:
        span, rows = asked.span, read.page.rows
        if rows:
            self._waiting_pages += 1
            self._got += len(rows)
            before, span.after = span.after, self._keys.last(rows)
            self._check(self._got, before, span.after)
            span.came.append((span.after, self._take(read)))
            span.same = span.same + 1 if self._is_of_one_run(span, rows) else 0
            if span.alike and not span.full and span.up_to is not None:
                self._judge_runs(len(rows), asked.limit)
            self._note_ends(span, rows)
        if len(rows) < asked.limit or self._is_at_end(span):
            span.done = True
        else:
            span.full += 1
            has_passed = self._ends.get(span.depth) and self._likely_end(span) is None
            span.past = span.past + 1 if has_passed else 0
            self._go_on(span, rows)

    def _is_at_end(self, span: Range) -> bool:
        """Return whether a range whose last page was full can have no further row."""
        if span.up_to is not None and span.up_to == self._keys.of(span.after):
            return True
        if span.high is None or self._keys.has_more(span.depth):
            return False
        last = self._keys.number(span.after, span.depth)
        return last is not None and last + 1 >= span.high

    def _refused(self, tag: object, error: Exception) -> bool:
        """Request less of what takes too long or is too large; any other refusal ends the read."""
        assert isinstance(tag, PageRequest)
        if not isinstance(error, StatementTimeoutError | AnswerTooLargeError):
            return False
        if tag.last:
            self._saw_last(())
            return True
        if tag.probe:
            self._may_probe = False
            self._take_probe(tag, ())
            return True
        if tag.limit <= SMALLEST:
            return False
        self._limit = max(SMALLEST, min(self._limit, tag.limit // 2))
        self._ask(tag.span, soon=True)
        return True

    def _deliver(self) -> None:
        """Pass on the pages that have arrived in order so far."""
        while self._head is not None:
            head = self._head
            while head.came:
                self._waiting_pages -= 1
                last, rest = head.came.popleft()
                if head.run and not head.alike:
                    self._delivered = last
                if rest is not None:
                    rest()
            if not head.done:
                break
            self._head = head.next
            if self._is_at_end_of_run(head):
                self._ended(len(head.run), self._delivered)
        self._head_first()

    def _head_first(self) -> None:
        """Request earlier pages first: a page that is far ahead only waits for those before it.

        Exception: pages at the end, while few pages wait, because they show where the next ranges begin,
        or that the table ends. While many pages wait, no page after the first of them is requested.
        """
        most, many = self.pool.most, self._waiting_pages >= AHEAD_PAGES
        self.pool.room = min(most, max(1, AHEAD_PAGES + 2 * most - self._waiting_pages))
        places, span, first_waiting = dict[int, int](), self._head, -1
        while span is not None:
            by_number = len(self._order) == 1 and self._keys.is_numbered(span.after, span.depth)
            first = span.after is None or span.alike or by_number
            shows = span.is_open and first and not many
            places[id(span)] = -1 if shows else len(places)
            if span.came and first_waiting < 0:
                first_waiting = len(places) - 1
            span = span.next

        def rank(waiting: tuple[object, Query]) -> int:
            asked = _asked(waiting)
            return -2 if asked.last else places[id(asked.span)]

        ranked = sorted([*self.pool.waiting, *self._later], key=rank)
        self.pool.waiting.clear()
        self._later.clear()
        for one in ranked:
            later = many and rank(one) >= first_waiting
            (self._later if later else self.pool.waiting).append(one)

    # The next requests ----------------------------------------------------------------------

    def _go_on(self, span: Range, rows: Sequence[WireRow]) -> None:
        """Handle a full page of ``span`` with more to come: cut the rest, or continue with it."""
        if self._pages_left == 0:
            self._total, self._beyond = None, 1  # there may be more than the server has reported
        elif self._beyond:
            self._beyond *= 2
        if span.pages is not None:
            span.pages = span.pages - 1 if span.pages else None
        self._cut_or_ask(span, rows, self._room(span))

    def _cut_or_ask(self, span: Range, rows: Sequence[WireRow], room: int) -> None:
        if self._alike is not None and self._cut_uniform(span, self._alike, room):
            return
        is_numbered = self._keys.is_numbered(span.after, span.depth)
        if self._is_of_one_run(span, rows):
            if self._has_short_runs(span) and not self._has_few():
                if room < 2 or not self._cut_into_runs(span, self._last_number(span), room):
                    self._ask(span, soon=True)
                return
            # Only the server knows a text's place relative to `up_to`, and where the next run ends.
            if is_numbered or (
                span.up_to is None and span.behind is None and self._keys.is_text(span.depth)
            ):
                self._set_run_apart(span, rows, room)
                return
        elif is_numbered and room > 1 and self._cut(span, rows, room):
            return
        if room > 1 and not is_numbered and self._is_worth_probing(span):
            self._probe(span)
        else:
            self._ask(span, soon=True)

    def _room(self, span: Range) -> int:
        """Return into how many ranges to cut ``span``: enough to use all requests, and few at the end."""
        room = 2 * self.pool.most - self._waiting_before(span)
        if span.is_open:
            room = max(room, self.pool.most)
        if span.pages is not None:
            return min(room, max(1, span.pages))
        if self._likely_end(span) is not None:
            return room
        if (left := self._pages_left) is not None:
            others = self._planned(span)
            room = min(room, left - (min(others, left // 2) if span.run else others))
        if self._beyond:
            room = min(room, self._beyond)
        if not span.run:
            return room
        if self._ends.get(span.depth):  # it has passed the point where others end
            return min(room, 2 * (span.past - 1))
        # The length of the run is unknown; while everything else waits, a large guess is acceptable.
        return min(room, self.pool.most - 1 if self._held else max(2, span.full))

    @property
    def _pages_left(self) -> int | None:
        """Return about how many pages are left, if the server has reported it."""
        return None if self._total is None else max(0, -(-(self._total - self._got) // self._limit))

    def _has_few(self) -> bool:
        """Return whether there are fewer ranges than allowed requests."""
        span, ranges = self._head, 0
        while span is not None and ranges < self.pool.most:
            ranges += not span.done
            span = span.next
        return ranges < self.pool.most

    def _waiting_before(self, span: Range) -> int:
        """Return how many waiting requests are sent before those of ``span``."""
        before, one = set[int](), self._head
        while one is not None and one is not span:
            before.add(id(one))
            one = one.next
        return sum(id(_asked(waiting).span) in before for waiting in self.pool.waiting)

    def _planned(self, but: Range) -> int:
        """Return about how many pages the other ranges have left."""
        pages, span = 0, self._head
        while span is not None:
            if span is not but and not span.done:
                pages += max(1, span.pages or 0)
            span = span.next
        return pages

    # Cutting by numbers ------------------------------------------------------------------------------

    def _cut(self, span: Range, rows: Sequence[WireRow], most: int) -> bool:
        """Cut the rest of ``span`` by the density of its last page; return False if that is impossible."""
        first, last = (
            self._keys.number(self._keys.row(rows[0]), span.depth),
            self._last_number(span),
        )
        if first is None:
            return False
        deeper = self._keys.has_more(span.depth)
        if deeper and not span.run and (self._run_pages or 0.0) >= HALF:
            return self._cut_into_runs(span, last, most)
        density = len(rows) / (last - first + 1)
        step = None if deeper else self._even_step(rows, span)
        per_page = FILL * self._limit / density if step is None else self._limit * step
        width, pages = max(1, int(per_page)), 1
        if deeper and width < FEW:  # then ranges of one page are cut badly
            pages = self._pages_in_a_row()
            width = max(1, int(pages * self._limit / density))
        return self._cut_at(span, last if deeper else last + 1, width, most, pages)

    def _even_step(self, rows: Sequence[WireRow], span: Range) -> float | None:
        """Return the distance between the keys of a page, if it is even enough to predict the next pages;
        otherwise None.
        """
        depth, count = span.depth, len(rows)
        places = [*range(0, count, max(1, count // SAMPLES)), count - 1]
        numbers = [self._keys.number(self._keys.row(rows[place]), depth) for place in places]
        first, last = numbers[0], numbers[-1]
        if first is None or last is None or last == first:
            return None
        step = (last - first) / (count - 1)
        if step * DENSE <= 1:
            return 1.0
        off: float = max(
            abs((one - first) / step - place)
            for place, one in zip(places, numbers, strict=True)
            if one is not None
        )
        return step if off <= EVEN * count else None

    def _cut_into_runs(self, span: Range, start: int, most: int) -> bool:
        """Cut from the number ``start`` on into ranges of as many runs as are read in succession."""
        assert self._run_pages is not None  # as known so far
        width = max(1, int(self._pages_in_a_row() / self._run_pages))
        return self._cut_at(span, start, width, most, max(1, round(width * self._run_pages)))

    def _pages_in_a_row(self) -> int:
        """Return the maximum pages of a range of several runs: fewer near the end, to use all requests."""
        left = self._pages_left
        most = self._walk if left is None else min(self._walk, left // self.pool.most)
        return max(1, most)

    def _cut_at(self, span: Range, start: int, width: int, most: int, pages: int | None) -> bool:
        """Cut ``span`` at each ``width`` numbers from ``start`` into at most ``most`` ranges, each of
        about ``pages``; return False if there is at most one.
        """
        pg_type = self._keys.types[span.depth]
        up_to = None if span.up_to is None else self._keys.number(span.up_to, span.depth)
        end = min((one for one in (span.high, up_to) if one is not None), default=None)
        last = self._likely_end(span) if span.run else self._highest
        bounds = []
        for place in range(1, most):
            bound = start + place * width
            if from_number(pg_type, bound) is None:
                break
            if end is not None and bound + width // 2 >= end:
                break  # a separate range would be short
            if last is not None and bound > last:
                break
            bounds.append(bound)
        if not bounds:
            return False
        high, behind, left = span.high, span.next, span.pages
        span.high, span.pages = bounds[0], pages
        pieces = [span]
        for low, until in zip(bounds, [*bounds[1:], high], strict=True):
            piece = Range(None, low, until, span.up_to, run=span.run, pages=pages)
            piece.full = pieces[-1].full + (pages or 1)
            piece.past = pieces[-1].past + (pages or 1) if span.past else 0
            pieces[-1].next = piece
            pieces.append(piece)
        pieces[-1].next = behind
        pieces[-1].pages = None
        if left is not None and pages is not None:
            pieces[-1].pages = max(1, left - pages * len(bounds))
        # The last piece first: it shows where the next ranges begin.
        self._ask(span, soon=True)
        if high is None:
            self._ask(pieces[-1], soon=True)
            pieces.pop()
        for piece in pieces[1:]:
            self._ask(piece)
        return True

    def _last_number(self, span: Range) -> int:
        last = self._keys.number(span.after, span.depth)
        assert last is not None  # its column has numbers
        return last

    # Uniform runs ---------------------------------------------------------------------------

    def _cut_uniform(self, span: Range, alike: UniformRuns, most: int) -> bool:
        """Cut the rest of ``span`` into pages of uniform runs; return False if that is impossible."""
        start, end = self._keys.pair(span.after), alike.end
        if span.up_to is not None:
            until = self._keys.pair(span.up_to)
            end = alike.place(until) if until is not None else end
        if start is None or span.run or span.high is not None:
            return False
        place, step = alike.place(start), alike.step(self._limit)
        count = min(most, round((end - place) / step))
        if count < 2:
            return False
        bounds = [self._keys.row_of(alike.key(place + step * part)) for part in range(1, count)]
        pieces, column = [span], self._order[0].column
        for bound in bounds:
            before = pieces[-1]
            assert before.after is not None  # the first one continues, and others begin at a bound
            piece = Range(bound, None, None, before.up_to, before.next, alike=True)
            before.up_to, before.next, before.pages, before.alike = bound, piece, 1, True
            if before.after[column] == bound[column]:
                before.run = {column: bound[column]}
            pieces.append(piece)
        *whole, rest = pieces
        rest.full = span.full + len(whole)
        if rest.up_to is None:
            self._ask(rest, soon=True)  # it shows where the next ranges begin
        for piece in reversed(whole):
            self._ask(piece, soon=True)
        if rest.up_to is not None:
            self._ask(rest)
        return True

    def _judge_runs(self, rows: int, limit: int) -> None:
        if self._alike is not None and not self._alike.judge(rows, limit):
            self._alike = None

    def _is_at_end_of_run(self, span: Range) -> bool:
        """Return whether the last row passed on, of ``span``, is the last one of a separated run."""
        if span.alike or not span.run:
            return False
        return span.next is None or span.next.run != span.run

    # Runs ----------------------------------------------------------------------------------------

    def _is_of_one_run(self, span: Range, rows: Sequence[WireRow]) -> bool:
        """Return whether a page has only one value in the column of ``span``, and more rows follow in it."""
        column = self._order[span.depth].column
        return self._keys.has_more(span.depth) and bool(rows[0][column] == rows[-1][column])

    def _has_short_runs(self, span: Range) -> bool:
        """Return whether the runs of ``span`` are known to be short, and its pages do not contradict that."""
        short = self._run_pages is not None and HALF <= self._run_pages <= self._walk
        return short and not span.run and span.same <= 1 + 2 * (self._run_pages or 0.0)

    def _note_ends(self, span: Range, rows: Sequence[WireRow]) -> None:
        """Note where the first runs of a page of several runs end: others may end there, too."""
        depth = span.depth
        if not self._keys.has_more(span.depth):
            return
        column, start = self._order[depth].column, 0
        for _ in range(ENDS):
            value = rows[start][column]
            if rows[-1][column] == value:
                break
            start = bisect_left(rows, True, start, key=lambda row: bool(row[column] != value))
            self._ended(depth + 1, self._keys.row(rows[start - 1]))

    def _ended(self, depth: int, row: Row | None) -> None:
        """Note that a run whose rows differ in the column of ``depth`` ends with ``row``."""
        at = self._keys.number(row, depth)
        if at is not None:
            self._ends.setdefault(depth, deque(maxlen=ENDS)).append(at)

    def _likely_end(self, span: Range) -> int | None:
        """Return the number that the run of ``span`` probably reaches, as two of the last runs did; None:
        unknown, or it has passed that.
        """
        ends, last = self._ends.get(span.depth), self._keys.number(span.after, span.depth)
        if not (span.run and ends) or last is None:
            return None
        end = sorted(ends)[-2:][0]
        return end if end > last else None

    def _set_run_apart(self, span: Range, rows: Sequence[WireRow], room: int) -> None:
        """Limit ``span`` to the run of its last page, and make another range of the rest."""
        column, value = self._order[span.depth].column, self._keys.row(rows[-1])
        at, rest = self._keys.number(value, span.depth), Range(None, high=span.high, run=span.run)
        known = None if span.run else self._run_pages
        pg_type = self._keys.types[span.depth]
        if at is None or from_number(pg_type, at + 1) is None:
            rest.behind = value[column]
        else:
            rest.low = at + 1
        rest.done = at is not None and span.high is not None and at + 1 >= span.high
        if span.up_to is not None:
            if span.up_to[column] != value[column]:
                rest.up_to, span.up_to = span.up_to, None
            else:
                rest.done = True
        rest.next, span.next = span.next, rest
        pages = None if known is None or known < HALF else round(known) - span.same
        span.run, span.low, span.high = {**span.run, column: value[column]}, None, None
        span.pages = pages if pages is None or pages > 0 else None  # None: longer than most
        span.same, span.full = 0, max(1, span.same)
        if rest.done:
            span.next = rest.next
        else:
            self._begin(rest)
        self._cut_or_ask(span, rows, min(room, self._room(span)))

    def _begin(self, rest: Range) -> None:
        """Cut ``rest``, of which nothing was read, by what is known from the run before it."""
        if rest.low is None or rest.run:
            self._ask(rest)
        elif not self._asked_last and self._left(rest) > 2:
            self._asked_last = True
            self._held.append(rest)
            query = last_key(self._reads, self._order)
            self.pool.waiting.appendleft((PageRequest(rest, 1, last=True), query))
        elif self._highest is None and self._held:
            self._held.append(rest)
        elif not self._cut_unread(rest, rest.low):
            self._ask(rest)

    def _cut_unread(self, rest: Range, low: int) -> bool:
        if self._highest is None or self._highest <= low:
            return False
        room = max(self._room(rest), self.pool.most)
        if (self._run_pages or 0.0) >= HALF:
            return self._cut_into_runs(rest, low, room)
        if self._spread:
            return False
        # The runs are far apart, possibly evenly; if not, probes find them later.
        self._spread = True
        return self._cut_at(rest, low, -(-(self._highest - low + 1) // room), room, None)

    def _saw_last(self, rows: Sequence[WireRow]) -> None:
        """Take the last key of the table, and continue with the ranges that waited for it."""
        last = self._keys.row(rows[0]) if rows else None
        self._highest = self._keys.number(last, 0)
        low, high = self._keys.number(self._first, 0), self._highest
        if low is not None and high is not None and high >= low and self._total is not None:
            self._run_pages = self._total / self._limit / (high - low + 1)
            ends = self._keys.pair(last)
            if ends is not None and self._sample and HALF <= self._run_pages <= ALIKE_PAGES:
                self._alike = UniformRuns.seen(self._sample, ends, self._run_pages * self._limit)
        held, self._held = self._held, []
        for rest in held:
            self._begin(rest)

    # Probes of the index ----------------------------------------------------------------------------

    def _is_worth_probing(self, span: Range) -> bool:
        """Return whether enough of ``span`` may be left to probe for a bound."""
        open_end = span.up_to is None and (span.high is None or span.full >= 2)
        return self._may_probe and open_end and self._left(span) > 2

    def _left(self, span: Range) -> int:
        """Return about how many pages are left of ``span``, which ends at most at the table's end."""
        known = span.pages if span.pages is not None else self._pages_left
        return LOOK_PAGES if known is None else known

    def _probe(self, span: Range) -> None:
        """Request the keys some pages ahead."""
        left = self._left(span)
        pages = min(max(1, -(-left // self.pool.most)), self._walk)
        step = pages * self._limit
        span.probing = max(1, min(self.pool.most - 1, -(-left // pages) - 1, LOOK_ROWS // step))
        span.probes.clear()
        span.pages = None if self._pages_left is None else max(0, left - pages * span.probing)
        reads, bounds = self._reads.with_xmin(False), self._bounds(span)
        for place in range(span.probing, 0, -1):
            query = reads.page(
                self._order[span.depth :],
                span.after,
                columns=(),
                extra=bounds,
                limit=1,
                offset=place * step - 1,
            )
            self.pool.waiting.appendleft((PageRequest(span, 1, probe=place), query))

    def _take_probe(self, asked: PageRequest, rows: Sequence[WireRow]) -> None:
        """Take a probe's bound; the range is cut once all its probes are answered."""
        span = asked.span
        span.probes[asked.probe] = self._keys.last(rows) if rows else None
        if len(span.probes) < span.probing:
            return
        bounds = [span.probes[place] for place in sorted(span.probes)]
        pieces = [span]
        for bound in bounds:
            if bound is None:
                break
            last = pieces[-1]
            rest = Range(bound, None, last.high, last.up_to, last.next, last.run, full=last.full)
            rest.behind = last.behind
            rest.pages, last.pages = last.pages, None
            last.up_to, last.next = bound, rest
            pieces.append(rest)
        *whole, rest = pieces
        for piece in whole:
            self._ask(piece)
        if whole and bounds[-1] is not None and self._is_worth_probing(rest):
            self._probe(rest)
        else:
            self._ask(rest)

    # Queries ---------------------------------------------------------------------------------------

    def _ask(self, span: Range, soon: bool = False) -> None:
        query = self._reads.page(
            self._order[span.depth :],
            span.after,
            columns=self._columns,
            extra=self._bounds(span),
            limit=self._limit,
            near=span.same < WALK_PAGES,
        )
        put = self.pool.waiting.appendleft if soon else self.pool.waiting.append
        put((PageRequest(span, self._limit), query))

    def _bounds(self, span: Range) -> list[tuple[str, str]]:
        reads, depth = self._reads, span.depth
        column, pg_type = self._order[depth].column, self._keys.types[depth]
        bounds = [reads.equal(name, value) for name, value in span.run.items()]
        if span.after is None and span.low is not None:
            bounds.append(reads.at_least(column, from_number(pg_type, span.low)))
        if span.after is None and span.behind is not None:
            bounds.append(reads.greater_than(column, span.behind))
        if span.high is not None:
            bounds.append(reads.less_than(column, from_number(pg_type, span.high)))
        if span.up_to is not None:
            bounds += reads.up_to(self._order[depth:], span.up_to)
        return bounds


def last_key(reads: Reads, order: Sequence[OrderBy]) -> Query:
    """Return a query for the last key of the table in ``order``, the order of the key."""
    backwards = [OrderBy(term.column, desc=True) for term in order]
    return reads.with_xmin(False).page(backwards, columns=(), limit=1)


def _asked(waiting: tuple[object, Query]) -> PageRequest:
    asked = waiting[0]
    assert isinstance(asked, PageRequest)
    return asked
