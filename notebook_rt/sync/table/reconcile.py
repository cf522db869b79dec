"""Closing a gap (promise 3), and polling, which works the same way (promise 10).

With a trusted watermark only changed rows are read: rows from the cursor on, by time and key; then
deleted keys are found by counting. Counting proves something only if no row was inserted or deleted
between the reads: then the keys here are a superset of the server's, and equal counts mean equal
sets. Without a watermark, or if the counts differ, all keys are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence, Set
from math import log2
from typing import Any, Final, cast

from notebook_rt.errors import StatementTimeoutError
from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Key, Row
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.flows import Ask, ReadRefusedError
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Count, Reads
from notebook_rt.sync.table.reading import READS_AT_ONCE, Paging, Steps, by_digest, scan, try_out
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.restored import goes_on
from notebook_rt.sync.table.watermark import OVERLAP

COUNT_TRIES: Final = 3
"""Number of attempts to count while rows are inserted and deleted, before keys are compared."""


class Reconciliation:
    """One pass over the changes that may have been lost since ``since`` (server time; None: all)."""

    def __init__(
        self,
        replica: Replica,
        reads: Reads,
        paging: Paging,
        since: float | None,
        *,
        brief: bool,
        warm: bool = False,
    ) -> None:
        self.replica = replica
        self.reads = reads
        self.paging = paging
        self.since = since
        self.brief = brief
        """Whether this is a poll: the next one repairs what counting could not prove."""
        self.warm = warm
        """Whether the rows are those of an earlier kernel: a hash that can prove all of them is requested
        first, and a watermark that no observed change has moved is not trusted."""
        self.method = ""
        self.differing = 0
        self.order: list[Key] = []
        """The keys read by the last scan."""
        self.proven_at: float | None = None
        """Server time before which no change is missing, once done."""
        self.sent: int | None = None
        """The moment since which all rows were compared; None: not all were."""

    def steps(self, now: Callable[[], float]) -> Steps:
        """Return the flow. ``now`` is called whenever changes are applied."""
        if self.warm:
            yield from try_out(self.replica, self.reads, self.paging)
        small = len(self.replica.rows) <= self.paging.rows // 2
        whole = self.replica.window_read is not None or not self.replica.watermark.believed
        if self.warm and not small and not whole:
            if (yield from self._hashed(now)):
                return
            whole = not self.replica.watermark.moved
        if self.since is None or small or whole:
            yield from self._everything(now)
            return
        self.method = "watermark"
        since, changed = self.since, set[Key]()
        for turn in range(1 if self.brief else COUNT_TRIES):
            since = yield from self._changed(since, now, changed)
            if not self.brief and not turn and not (yield from self._goes_on(changed, now)):
                break
            self.proven_at = self.proven_at or since
            keys_before = self.replica.keys_moved
            there = yield from self._count()
            if there is None:
                break
            missing = len(self.replica.rows) - there
            if missing and (yield from self._hashed(now)):
                return
            if missing > 0 and self._worth_searching(missing):
                try:
                    yield from self._find_gone(missing, now)
                except ReadRefusedError:
                    break
                if self.brief:
                    return
                continue
            if missing:
                break
            if self.brief:
                return
            since = yield from self._changed(since, now, changed)
            if self.replica.keys_moved == keys_before:
                return
        yield from self._everything(now)

    def _count(self) -> Generator[Ask, Sequence[Read], int | None]:
        """Count the rows by ranges of the keys here, several at a time; None: the server gives no count.

        An estimate would not do, because only equal counts prove equal sets. As with a single count, each
        range contains no key that is not here, so equal sums mean equal ranges.
        """
        while True:
            edges = self._edges(self.paging.count_rows)
            asks = [self.reads.count(one) for one in edges]
            there = 0
            try:
                for place in range(0, len(asks), self.paging.at_once):
                    for read in (yield asks[place : place + self.paging.at_once]):
                        there += read.page.count or 0
            except ReadRefusedError as refused:
                smaller = min(self.paging.count_rows, len(self.replica.rows)) // 4
                too_long = isinstance(refused.error, StatementTimeoutError)
                if not too_long or not self.replica.is_sorted or smaller < self.paging.rows:
                    return None
                self.paging.count_rows = smaller
            else:
                return there

    def _edges(self, rows: int) -> list[list[tuple[str, str]]]:
        """Return the bounds of ranges of about this many rows each, which together cover all rows.

        A composite key is divided by its first column.
        """
        name, reads = self.replica.schema.key[0], self.reads
        return [
            [
                *([] if low is None else [reads.at_least(name, low)]),
                *([] if high is None else [reads.less_than(name, high)]),
            ]
            for low, high in self.replica.divided(rows)
        ]

    @property
    def _has_sorted_key(self) -> bool:
        return len(self.replica.schema.key) == 1 and self.replica.is_sorted

    def _worth_searching(self, missing: int) -> bool:
        """Return whether bisection finds ``missing`` keys with fewer reads than a comparison of all."""
        pages = len(self.replica.rows) / self.paging.rows
        return self._has_sorted_key and pages > 1 and missing * (log2(pages) + 2) < pages

    def _find_gone(self, missing: int, now: Callable[[], float]) -> Steps:
        """Bisect the range of keys in which the server counts fewer, down to a page, and compare that page.

        Rows that are inserted and deleted meanwhile mislead this; the following count detects it.
        """
        replica, reads, page_rows = self.replica, self.reads, self.paging.rows
        name = replica.schema.key[0]
        keys: list[Any] = sorted(cast("Iterator[Any]", replica.rows.keys()))
        comparison = Comparison(replica)
        ranges = [(0, len(keys), missing)]
        while ranges:
            asks = []
            for start, end, _ in ranges:
                stop = end if end - start < page_rows else (start + end) // 2
                edges = [reads.at_least(name, keys[start])]
                if stop < len(keys):
                    edges.append(reads.less_than(name, keys[stop]))
                whole = stop == end
                by_key = reads.by_key()
                asks.append(
                    reads.page(by_key, columns=(), extra=edges) if whole else reads.count(edges)
                )
            answers: list[Read] = []
            for place in range(0, len(asks), READS_AT_ONCE):
                answers += yield asks[place : place + READS_AT_ONCE]
            halves = []
            for (start, end, lost), read in zip(ranges, answers, strict=True):
                if end - start < page_rows:
                    theirs = {
                        replica.schema.key_of(replica.schema.decode(r)) for r in read.page.rows
                    }
                    comparison.gone([key for key in keys[start:end] if key not in theirs], read)
                    continue
                middle = (start + end) // 2
                left = middle - start - (read.page.count or 0)
                halves += [(start, middle, left), (middle, end, lost - left)]
            ranges = [one for one in halves if one[2] > 0]
        self.method = "watermark and counts"
        self.differing += comparison.apply(now())

    def _hashed(self, now: Callable[[], float]) -> Generator[Ask, Sequence[Read], bool]:
        comparison = Comparison(self.replica)
        hashed = by_digest(self.replica, self.reads, self.paging, comparison, likely=True)
        if not (yield from hashed):
            return False
        self.method = f"{self.method} and hash" if self.method else "hash"
        self.sent = comparison.sent
        self.differing += comparison.apply(now())
        self.proven_at = self.proven_at or comparison.began
        return True

    def _everything(self, now: Callable[[], float]) -> Steps:
        self.method = "rows" if not self.method else f"{self.method}, then rows"
        comparison = Comparison(self.replica)
        yield from scan(self.replica, self.reads, self.paging, comparison)
        self.sent = comparison.sent
        self.differing += comparison.apply(now())
        self.order = comparison.order
        if self.proven_at is None:
            self.proven_at = comparison.began

    def _goes_on(
        self, changed: Set[Key], now: Callable[[], float]
    ) -> Generator[Ask, Sequence[Read], bool]:
        """Whether the watermark reveals all changes, which is not so after a restore of an older database."""
        if (yield from goes_on(self.replica, self.reads, self.paging, changed, now)):
            return True
        self.replica.versions.clear()  # transaction numbers start again, too
        return False

    def _changed(
        self, since: float, now: Callable[[], float], changed: set[Key]
    ) -> Generator[Ask, Sequence[Read], float]:
        """Take the rows changed since ``since`` and record their keys; return the server time of the
        first read.
        """
        column = self.replica.watermark.column
        order = self.reads.by_order([OrderBy(column)])
        edge = self.reads.at_least(column, self.replica.watermark.value_at(since - OVERLAP))
        comparison = Comparison(self.replica)
        asks = self.reads.with_xmin(self.paging.xmin)
        after: Row | None = None
        began: float | None = None
        got = 0
        while True:
            count = after is None and self.paging.count and self.paging.cap is None
            counted: Count = "estimated" if count else None
            (read,) = yield [asks.page(order, after, extra=[edge], count=counted)]
            began = read.page.server_time if began is None else began
            comparison.whole(read)
            last = self.paging.is_last(read.page, got)
            got += len(read.page.rows)
            if last:
                break
            row = read.page.rows[-1]
            before = after
            after = self.reads.schema.decode({term.column: row[term.column] for term in order})
            self.paging.check(self.reads, got, before, after)
        self.differing += comparison.apply(now())
        changed.update(comparison.order)
        return began
