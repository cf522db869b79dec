"""Reading the whole table, page by page: the first load, and the comparison of all rows.

Flows (``sync/table/flows.py``): they yield queries and receive the answers. A load collects a new table
beside the visible one and commits it as one change (promise 2); a scan compares every page with the rows
here, and at its end knows the differing and the deleted rows (promises 3, 4, 10).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from functools import partial
from itertools import islice
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.errors import (
    AnswerTooLargeError,
    DuplicateKeyError,
    EndlessTableError,
    InexactKeyError,
    StatementTimeoutError,
)
from notebook_rt.model.rows import Key, Row, Rows, WireRow
from notebook_rt.model.types import differs, kind
from notebook_rt.options import MAX_ROWS
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.comparison import Comparison, are_whole, duplicate_keys
from notebook_rt.sync.table.digest import DIGEST_ROWS, Digest, Hashes, is_digest
from notebook_rt.sync.table.flows import Ahead, Ask, Pool, ReadRefusedError
from notebook_rt.sync.table.horizon import Read, spanning
from notebook_rt.sync.table.numbers import has_counted_runs
from notebook_rt.sync.table.queries import Count, Reads
from notebook_rt.sync.table.ranges import SMALLEST, Ranges, Take, last_key
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.runs import Runs, are_possible
from notebook_rt.sync.table.window import Window

Steps: TypeAlias = Generator[Ask, Sequence[Read], None]
DIGEST_FROM: Final = 3
"""Number of pages from which a table is compared by a hash."""
COUNT_ROWS: Final = 200_000
"""Initial number of rows counted in one request: 20 ms for an idle server."""
SAMPLE: Final = 100
"""Number of rows that show whether a stored table belongs to the same database."""
READS_AT_ONCE: Final = 4
"""Number of concurrent requests by key."""


class Beginning(msgspec.Struct, frozen=True):
    """Earlier information on where to cut a whole table into ranges; none of it counts as read."""

    first: Read
    """The first page, or its keys."""
    last: Sequence[WireRow] | None = None
    """The last key, if it was requested."""


class Paging(msgspec.Struct):
    """How this server cuts pages: it may return fewer rows than requested without reporting it."""

    size: int
    at_once: int = 1
    """Maximum number of concurrent page requests."""
    cap: int | None = None
    """Its maximum number of rows, once known."""
    xmin: bool = True
    """Whether it allows to select ``xmin``, as far as is known."""
    digest: bool | None = None
    """Whether it has our SQL functions; None: unknown."""
    proves_later: bool = False
    """Whether the current comparison has proven nothing yet, so that a gap does not restart it."""
    runs: bool = True
    """Whether it accepts filters on ``xmin``, as far as is known."""
    count: bool = True
    """Whether the first page of a pass may request the count."""
    count_rows: int = COUNT_ROWS
    """Rows counted in one request; fewer after a slow answer."""
    digest_rows: int = DIGEST_ROWS
    """Rows hashed in one request; fewer after a slow answer."""
    most: int = MAX_ROWS
    """Maximum rows of a pass before it fails (``Options.max_rows``)."""
    came: int = 0
    """Rows received in the latest pass, in any order."""
    hashes: Hashes = msgspec.field(default_factory=Hashes)
    """The hashes computed here, for a comparison that restarts after a stop."""
    beginning: Beginning | None = None
    """The beginning of the latest pass that reads several pages at a time."""

    @property
    def rows(self) -> int:
        """The number of rows of a full page."""
        return self.size if self.cap is None else min(self.size, self.cap)

    def smaller(self, rows: int) -> None:
        """Request half as many rows from now on, because ``rows`` were too many for one answer."""
        self.size = max(SMALLEST, rows // 2)

    def is_last(self, page: Page, before: int, asked: int | None = None) -> bool:
        """Return whether ``page``, with ``before`` rows before it, is the last one.

        A short page is the end only if a page of the requested length was received before; otherwise the
        count decides, and without a count, an empty page.
        """
        got = len(page.rows)
        wanted = self.size if asked is None else asked
        if got >= self.size:
            self.cap = self.size
        if got == 0:
            return True
        if got >= wanted:
            return False
        if self.cap is not None:
            return got < self.cap
        if page.count is not None and before + got < page.count:
            self.cap = got
        return page.count is not None and before + got >= page.count

    def check(self, reads: Reads, got: int, before: Row | None, after: Row) -> None:
        """Raise if the pages do not end: ``got`` rows, the last of them ``after``."""
        spec, self.came = reads.spec, got
        if got > self.most:
            reason = (
                f"it has more than {self.most:,} rows (Options.max_rows); use filter= or limit="
            )
            raise EndlessTableError(spec.schema, spec.table, reason)
        if before is not None and not differs(after, before):
            reason = "the server gives the same page again, whatever it is asked for"
            raise EndlessTableError(spec.schema, spec.table, reason)


def each_page(
    reads: Reads,
    paging: Paging,
    take: Take,
    *,
    columns: Sequence[str] | None = None,
    window: Window | None = None,
    xmin: bool = True,
    estimate: int | None = None,
    beginning: Beginning | None = None,
) -> Steps:
    """Read all pages and pass each to ``take``, while other requests are in flight.

    The pages are read by key, several at a time (``ranges.py``), at once if ``beginning`` shows how to cut
    them; or in the order of ``window``, one after the other, and only its rows.
    """
    order = reads.by_key() if window is None else window.order
    most = None if window is None else window.size

    def take_now(read: Read) -> None:
        rest = take(read)
        if rest is not None:
            rest()

    def in_ranges(asks: Reads, begins: Beginning, got: int) -> Pool:
        first, paging.beginning = begins.first, begins
        total = first.page.count if first.page.count is not None else estimate
        return Ranges(
            asks,
            order,
            first,
            got,
            columns=columns,
            limit=paging.rows,
            most=paging.at_once,
            total=None if total is None else max(total, got + 1),  # a full page was received
            last=begins.last,
            take=take,
            check=partial(paging.check, reads),
        ).pool

    several = window is None and paging.at_once > 1
    paging.came, paging.beginning = 0, None
    more = several and beginning is not None and not paging.is_last(beginning.first.page, 0)
    if beginning is not None and more and paging.cap is not None:
        yield in_ranges(reads.with_xmin(paging.xmin and xmin), beginning, 0)
        return
    after: Row | None = None
    got = 0
    came: Read | None = None
    end: list[Read] = []
    ask_end = (
        several
        and len(order) > 1
        and has_counted_runs(reads.schema.types[order[0].column])
        and (estimate is None or estimate > paging.rows)
    )
    while True:
        asks = reads.with_xmin(paging.xmin and xmin)
        count = after is None and paging.count and paging.cap is None
        limit = paging.size if most is None else min(paging.size, most - got)
        counted: Count = "estimated" if count else None
        query = asks.page(order, after, columns=columns, count=counted, limit=limit)
        if came is not None:
            ask: Ask = Ahead(query, partial(take_now, came))
        elif ask_end:
            ask = [query, last_key(reads, order)]
        else:
            ask = [query]
        came, ask_end = None, False
        try:
            read, *end = yield ask
        except ReadRefusedError as refused:
            if isinstance(refused.error, StatementTimeoutError | AnswerTooLargeError):
                if limit <= SMALLEST:
                    raise
                paging.smaller(limit)
                if isinstance(refused.error, StatementTimeoutError):
                    paging.count = False  # to count reads rows, too
            elif paging.xmin and columns is None:
                paging.xmin = False
            elif count:
                paging.count = False
            else:
                raise
            continue
        last = paging.is_last(read.page, got, limit)
        got += len(read.page.rows)
        if read.page.rows:
            row, before = read.page.rows[-1], after
            after = reads.schema.decode({term.column: row[term.column] for term in order})
            paging.check(reads, got, before, after)
        if last or got == most:
            take_now(read)
            if window is not None and window.limit is not None:
                window.next_edge = None if last else after
            return
        if window is None and paging.cap is not None and paging.at_once > 1:
            take_now(read)
            yield in_ranges(asks, Beginning(read, end[0].page.rows if end else None), got)
            return
        came = read


def load(
    replica: Replica,
    reads: Reads,
    paging: Paging,
    into: Rows,
    progress: Callable[[int, int | None], None],
    beginning: Beginning | None = None,
) -> Generator[Ask, Sequence[Read], Read]:
    """Collect the whole table into the new ``into``, which becomes visible when it is committed.

    Returns a read that represents all: sent with the first, answered with the last.

    Pages that are read concurrently may overlap if rows are inserted or deleted between two looks at the
    index (``ranges.py``). A duplicate key is therefore an error only if pages are read one by one.
    """
    yield from each_has_a_key(replica, reads)
    try:
        return (yield from _load(replica, reads, paging, into, progress, beginning))
    except (DuplicateKeyError, InexactKeyError):
        if paging.at_once == 1 or replica.window_read is not None:
            raise
    one_by_one = replace(paging, at_once=1)
    return (yield from _load(replica, reads, one_by_one, into, progress, None))


def each_has_a_key(replica: Replica, reads: Reads) -> Steps:
    """Raise ``DuplicateKeyError`` if a row has a null in a named key: no page contains it."""
    query = reads.without_key()
    if query is None or replica.window_read is not None:
        return
    (read,) = yield [query]
    if read.page.rows:
        spec = reads.spec
        raise DuplicateKeyError(spec.schema, spec.table, reads.schema.key, read.page.rows)


def _load(
    replica: Replica,
    reads: Reads,
    paging: Paging,
    into: Rows,
    progress: Callable[[int, int | None], None],
    beginning: Beginning | None,
) -> Generator[Ask, Sequence[Read], Read]:
    loading = into.load()
    all_reads: list[Read] = []
    total: int | None = None if beginning is None else beginning.first.page.count
    came = 0

    def take(read: Read) -> Callable[[], None]:
        nonlocal came, total
        page = read.page
        keys = replica.keys_of(page.rows)
        replica.versions.note_page(keys, page.rows)
        if not replica.complete:
            replica.check_names(page.rows)
        replica.watermark.check_page(page.rows)
        replica.nulls.scan(page.rows)
        all_reads.append(read.without_rows())
        total = page.count if page.count is not None else total
        came += len(page.rows)
        progress(came, total)
        return partial(add, page.rows, keys, loading.prepare(page.rows, keys))

    def add(page: Sequence[WireRow], keys: Sequence[Key], adding: Callable[[], None]) -> None:
        before = len(loading)
        adding()
        apart = len(loading) == before + len(page) or replica.window_read is not None
        if not apart or (reads.spec.key and not are_whole(keys)):
            raise _same_keys(reads, page)

    replica.versions.clear()
    window = replica.window_read
    yield from each_page(reads, paging, take, window=window, beginning=beginning)
    if replica.window is not None:
        replica.window.turn()
    loading.commit()
    return spanning(all_reads)


def _same_keys(reads: Reads, page: Sequence[WireRow]) -> Exception:
    """Return why two rows have the same key: a float cannot distinguish them, or it is not a key."""
    spec, schema = reads.spec, reads.schema
    for name in schema.key:
        if kind(schema.types[name]) == "decimal" and schema.numeric == "float":
            keys = Counter(schema.decode({name: row[name]})[name] for row in page)
            ((value, _),) = keys.most_common(1)
            return InexactKeyError(spec.schema, spec.table, name, value)
    return DuplicateKeyError(spec.schema, spec.table, schema.key, duplicate_keys(schema, page))


def by_keys(reads: Reads, paging: Paging, keys: Sequence[Key], into: Comparison) -> Steps:
    """Read rows by key, with several concurrent requests; a short page hides no row."""
    left = list(dict.fromkeys(keys))
    while left:
        asks = reads.with_xmin(paging.xmin)
        count: Count = "exact" if paging.cap is None else None
        some = list(islice(asks.rows(left, at_most=paging.rows, count=count), READS_AT_ONCE))
        answers = yield [query for query, _ in some]
        for (_, asked), read in zip(some, answers, strict=True):
            page = read.page
            if page.count is not None and len(page.rows) < page.count:
                paging.cap = max(len(page.rows), 1)
                continue  # requested again, for fewer
            into.by_key(asked, read)
            left = left[len(asked) :] if left[: len(asked)] == asked else _without(left, asked)


def _without(keys: Sequence[Key], gone: Sequence[Key]) -> list[Key]:
    taken = set(gone)
    return [key for key in keys if key not in taken]


def by_digest(
    replica: Replica, reads: Reads, paging: Paging, into: Comparison, *, likely: bool = False
) -> Generator[Ask, Sequence[Read], bool]:
    """Compare a large table by hash; return False if that is impossible. ``likely``: it probably differs."""
    smallest = DIGEST_FROM * paging.rows
    large = len(replica.rows) >= smallest
    if paging.digest is False or not (large and Digest(replica).possible):
        return False
    while True:
        digest = Digest(replica, paging.digest_rows, likely=likely, hashes=paging.hashes)
        try:
            sure = paging.digest is True
            compared = yield from digest.steps(into.unknown.append, into.gone, sure=sure)
        except ReadRefusedError as refused:
            smaller = min(paging.digest_rows, len(replica.rows)) // 4
            too_long = isinstance(refused.error, StatementTimeoutError)
            if not too_long or not replica.is_sorted or smaller < smallest:
                paging.digest = False
                paging.hashes.forget()
                return False
            paging.digest_rows = smaller
        else:
            paging.digest = True
            paging.hashes.forget()
            break
    for read in compared:
        into.spans(read)
    yield from by_keys(reads, paging, into.unknown, into)
    return True


def by_runs(
    replica: Replica, reads: Reads, paging: Paging, into: Comparison
) -> Generator[Ask, Sequence[Read], bool]:
    """Compare a large table by unchanged versions and counts; return False if that is impossible."""
    large = len(replica.rows) >= DIGEST_FROM * paging.rows
    if not (paging.runs and large and are_possible(replica)):
        return False
    paging.proves_later = True
    try:
        return (yield from _by_runs(replica, reads, paging, into))
    finally:
        paging.proves_later = False


def _by_runs(
    replica: Replica, reads: Reads, paging: Paging, into: Comparison
) -> Generator[Ask, Sequence[Read], bool]:
    if paging.cap is None:  # otherwise a short page would hide rows
        try:
            (first,) = yield [_first_keys(reads, paging)]
        except ReadRefusedError:  # the pages are asked for as it can bear them
            return False
        paging.is_last(first.page, 0)
    unknown: list[Key] = []
    gone: list[tuple[Sequence[Key], Read]] = []

    def take_gone(keys: Sequence[Key], read: Read) -> None:
        gone.append((keys, read))

    while paging.cap is not None:
        runs = Runs(replica, paging.count_rows)
        pages = len(replica.rows) // paging.rows
        if runs.requests(paging.rows) > pages // 2:
            return False
        replica.versions.watch()
        try:
            compared = yield from runs.steps(
                reads, paging.at_once, paging.rows, unknown.extend, take_gone
            )
        except ReadRefusedError as refused:
            smaller = min(paging.count_rows, len(replica.rows)) // 4
            if not isinstance(refused.error, StatementTimeoutError) or smaller < paging.rows:
                paging.runs = False
                return False
            paging.count_rows = smaller
            continue
        finally:
            replica.versions.unwatch()
        if compared is None:
            return False
        for read in compared:
            into.spans(read)
        for keys, read in gone:
            into.gone(keys, read)
        into.unknown += unknown
        yield from by_keys(reads, paging, into.unknown, into)
        return True
    return False


def scan(replica: Replica, reads: Reads, paging: Paging, into: Comparison) -> Steps:
    """Compare all rows with those here: by ``xmin`` if that suffices, else row by row."""
    window = replica.window_read
    by_version = paging.xmin and are_worth_asking(replica, reads, paging.rows)
    yield from each_has_a_key(replica, reads)
    if window is None and (yield from by_digest(replica, reads, paging, into)):
        return
    if window is not None:
        yield from each_page(reads, paging, into.whole, window=window)
    elif paging.xmin and (yield from by_runs(replica, reads, paging, into)):
        return
    else:
        take, columns = (into.versions, ()) if by_version else (into.whole, None)
        yield from each_page(reads, paging, take, columns=columns, estimate=len(replica.rows))
    into.absent()
    yield from by_keys(reads, paging, [*into.twice, *into.unknown], into)


def are_worth_asking(replica: Replica, reads: Reads, page_rows: int) -> bool:
    """Return whether pages of versions, plus reads of rows with unknown ones, cost less than pages of rows.

    That is so while those rows need at most a quarter as many requests as the pages.
    """
    rows = len(replica.rows)
    if rows <= page_rows:
        return False
    at_once = reads.rows_at_once(next(iter(replica.rows.keys())), page_rows)
    unknown = rows - len(replica.versions)
    return 4 * unknown * page_rows <= rows * at_once


def probe_columns(replica: Replica, reads: Reads, paging: Paging) -> Steps:
    """Read one whole row: hashes and versions do not reveal an added or dropped column, and versions do not
    reveal that a column was created again.
    """
    if len(replica.rows) > paging.rows:
        one = reads.with_xmin(paging.xmin).page(reads.by_key(), None, limit=1)
        try:
            (read,) = yield [one]
        except ReadRefusedError:
            if not paging.xmin:
                raise
            paging.xmin = False
            (read,) = yield [reads.page(reads.by_key(), None, limit=1)]
        replica.check_page(read.page.rows)
        _doubt_versions(replica, read.page.rows)


def _doubt_versions(replica: Replica, page: Sequence[WireRow]) -> None:
    """Forget all versions if one of these rows differs from the row with the same version here."""
    theirs = dict(zip(replica.keys_of(page), page, strict=True))
    others = [key for key, _ in replica.rows.differing(page)]
    if any(replica.versions.is_same(key, theirs[key].get("xmin")) for key in others):
        replica.versions.clear()


def try_out(replica: Replica, reads: Reads, paging: Paging) -> Steps:
    """Find out in one round trip what a comparison of stored rows needs to know about the server.

    This is whether it allows ``xmin``, and whether the versions here belong to its rows: a recreated database
    numbers its transactions from the start, so rows can have the same versions with other values. For a large
    table it is also whether the server has our SQL, and how many rows it returns at a time.
    """
    if not paging.xmin:
        return
    asks = reads.with_xmin(True)
    keys = replica.some(len(replica.rows) // SAMPLE + 1)
    query, _ = next(asks.rows(keys, at_most=SAMPLE), (asks.page(asks.by_key(), limit=1), []))
    queries = {"rows": query}
    if len(replica.rows) >= DIGEST_FROM * paging.rows and replica.window_read is None:
        if paging.digest is None and Digest(replica).possible:
            queries["hash"] = Digest(replica).of_no_rows(keys[0])
        if paging.cap is None and are_possible(replica):
            queries["page"] = _first_keys(reads, paging)
    asked = [replace(one, refusable=True) for one in queries.values()]
    paging.proves_later = True
    try:
        found = dict(zip(queries, (yield asked), strict=True))
    finally:
        paging.proves_later = False
    if "hash" in found:
        page = found["hash"].page
        paging.digest = page.refusal is None and is_digest(page.value)
    if "page" in found and found["page"].page.refusal is None:
        paging.is_last(found["page"].page, 0)
    if found["rows"].page.refusal is not None:
        paging.xmin = False
        return
    replica.check_page(found["rows"].page.rows)
    _doubt_versions(replica, found["rows"].page.rows)


def _first_keys(reads: Reads, paging: Paging) -> Query:
    """Read the first page of keys, which shows how many rows the server returns at a time."""
    counted: Count = "estimated" if paging.count else None
    return reads.page(reads.by_key(), columns=(), count=counted)


def ranks(replica: Replica, reads: Reads, paging: Paging, keys: list[Key]) -> Steps:
    """Read all keys in the order that only the server knows."""
    window = replica.window
    assert window is not None  # called only for an ordered table

    def take(read: Read) -> None:
        keys.extend(reads.schema.keys_of(read.page.rows))

    names = [term.column for term in window.order]
    yield from each_page(reads, paging, take, columns=names, window=window, xmin=False)
