"""Compare a whole table in few requests, with filters and counts alone (promises 3, 4; docs/design/disk.md).

A *run* is a range of integers that are keys here and whose rows have the same ``xmin``; rows inserted
together form few runs. The server is queried for the keys of all rows that are not in a run as claimed, and
for the number of rows that are. An integer is the key of at most one row, and a row with an unchanged
``xmin`` is unchanged: so the number is the expected one only if each of these rows still exists. If it is
less, the missing rows are searched, and the remaining ones are claimed and counted again.

Both queries are sent at the same time: a row that changes in between is missing in the number, or among
the others, or it changed after the comparison began.

The search proves nothing, so it may be fast: it counts rows regardless of their ``xmin``, which an index
alone can answer, and reads a page of keys with each count; the page's position shows how many rows are
missing before it. Keys on none of the pages are deleted; the last count proves that no others are.

This holds despite concurrent transactions, row policies and other pages, because the claim about a row is
what was read of that row. For the same reason a deleted row stays deleted: no later row has the key and the
``xmin`` of an earlier one.

A gap may open meanwhile, when a join is confirmed a second time. Earlier reads remain useful as a search:
the remaining rows are claimed, counted and compared once more, after the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Final, TypeAlias, cast

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from notebook_rt.model.filters import Condition, column_name
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import kind
from notebook_rt.model.xmins import Ints, merge_sorted, places, without
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Ask, Pool
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import URL_ROOM, Reads
from notebook_rt.sync.table.replica import Replica

SHORTEST: Final = 8
"""Minimum number of rows of a run; fewer are read by key, which is a shorter request."""
BRIDGED: Final = 8
"""Maximum number of other integers between two parts of a run; each is listed."""
SEARCHES: Final = 5
"""How often a range may have fewer rows than claimed before pages are compared."""
REPEATS: Final = 2
"""How often a range is compared again because a gap opened meanwhile."""

_MOST: Final = 2**63 - 1

Run: TypeAlias = tuple[int, int, int]
"""First key, last key, xmin."""


class Range(msgspec.Struct, frozen=True, eq=False):
    """A range of the table's key, and the claims about its rows."""

    first: int | None
    """Its lowest key; None: unbounded."""
    end: int | None
    """The lowest key after it; None: unbounded."""
    runs: Sequence[Run]
    spared: Ints
    """Keys within the runs without a claim."""
    claimed: Ints
    """The keys of all other rows in the runs, which are claimed."""

    def part(self, claimed: Ints) -> Range:
        """Return the part that spans ``claimed``, some of its claimed keys in order."""
        if not len(claimed):
            return replace(self, claimed=claimed)
        low, high = int(claimed[0]), int(claimed[-1])
        runs = [
            (max(first, low), min(last, high), xmin)
            for first, last, xmin in self.runs
            if first <= high and last >= low
        ]
        spared = self.spared[(self.spared >= low) & (self.spared <= high)]
        return Range(low, high + 1, runs, spared, claimed)

    def within(self, reads: Reads) -> list[tuple[str, str]]:
        """Return the parameters for the rows of this range."""
        return _between(reads, self.first, self.end)

    def like(self, name: str) -> list[tuple[str, str]]:
        """Return the parameters for rows that are as claimed."""
        spared = _one_of(name, self.spared)
        but = [] if spared is None else [replace(spared, negated=True).to_rest()]
        return [*but, ("and", f"({self._tree(name)})")]

    def unlike(self, name: str) -> list[tuple[str, str]]:
        """Return the parameters for all other rows."""
        if not self.runs:
            return []
        spared, tree = _one_of(name, self.spared), self._tree(name)
        if spared is None:
            return [("not.and", f"({tree})")]
        return [("or", f"({spared.to_logic()},not.and({tree}))")]

    def _tree(self, name: str) -> str:
        most = None if self.end is None else self.end - 1
        return _tree(column_name(name), self.runs, self.first, most)


def _tree(name: str, runs: Sequence[Run], least: int | None, most: int | None) -> str:
    """Return the condition that a row is in one of ``runs``, by bisection; its key is within these limits."""
    if len(runs) > 1:
        right = runs[len(runs) // 2 :]
        start, left = right[0][0], runs[: len(runs) // 2]
        lower = f"and({name}.lt.{start},{_tree(name, left, least, start - 1)})"
        return f"or({lower},and({name}.gte.{start},{_tree(name, right, start, most)}))"
    ((first, last, xmin),) = runs
    parts = [] if first == least else [f"{name}.gte.{first}"]
    parts += [] if last == most else [f"{name}.lte.{last}"]
    return f"and({','.join([*parts, f'xmin.eq.{xmin}'])})" if parts else f"xmin.eq.{xmin}"


def _ints(keys: Collection[Key]) -> Ints:
    return np.array(sorted(cast("Collection[int]", keys)), np.int64)


def _one_of(name: str, keys: Ints) -> Condition | None:
    return Condition(name, "in", tuple(map(str, keys.tolist()))) if len(keys) else None


def _between(reads: Reads, first: int | None, end: int | None) -> list[tuple[str, str]]:
    name = reads.schema.key[0]
    return [
        *([] if first is None else [reads.at_least(name, first)]),
        *([] if end is None else [reads.less_than(name, end)]),
    ]


class Runs:
    """The runs of the rows here, in ranges of at most about ``rows`` rows each."""

    def __init__(self, replica: Replica, rows: int) -> None:
        self.replica = replica
        self.name = replica.schema.key[0]
        keys, xmins = replica.versions.arrays()
        ints = np.asarray(keys, np.int64)  # sorted, because each is an integer
        self._ints, self._xmins = ints, xmins
        self.ranges, short = self._cut(ints, xmins, rows)
        self.others = short.tolist() + replica.versions.missing(replica.rows)
        """The keys here without a claim."""

    def _cut(self, ints: Ints, xmins: Ints, rows: int) -> tuple[list[Range], Ints]:
        """Return ranges over all integers that claim the rows of these keys, and the keys outside runs."""
        firsts = np.flatnonzero(
            np.concatenate([[True], (np.diff(ints) != 1) | (np.diff(xmins) != 0)])
        )
        lengths = np.diff(np.append(firsts, len(ints)))
        long = lengths >= SHORTEST
        claimed = np.repeat(long, lengths)
        ranges = self._fitting(ints, xmins, firsts[long], lengths[long], claimed, rows)
        return list(ranges), ints[~claimed]

    def _fitting(
        self,
        ints: Ints,
        xmins: Ints,
        firsts: Ints,
        lengths: Ints,
        claimed: NDArray[np.bool_],
        rows: int,
    ) -> Iterator[Range]:
        """Yield ranges of at most ``rows`` rows, each small enough for the URL of a request."""
        first, last, xmin = ints[firsts], ints[firsts + lengths - 1], xmins[firsts]
        between = (first[1:] - last[:-1] - 1).view(np.uint64)  # also over more than 2^63
        bridged = (xmin[1:] == xmin[:-1]) & (between <= BRIDGED)
        gaps = between[bridged].astype(np.int64)
        starts = np.repeat(last[:-1][bridged] + 1 - (np.cumsum(gaps) - gaps), gaps)
        spared = starts + np.arange(len(starts))
        begins = np.concatenate([[True], ~bridged])[: len(first)]
        ends = np.concatenate([~bridged, [True]])[: len(first)]
        heads, tails, xmin = first[begins], last[ends], xmin[begins]
        digits = max(len(str(key)) for key in (ints[0], ints[-1]))
        run_size = 4 * (len(column_name(self.name)) + digits) + 60
        edges = [0, len(ints)]
        size = len(heads) * run_size + len(spared) * (digits + 1)
        if len(ints) / rows + size / URL_ROOM > 1:
            begun = np.searchsorted(heads, ints, "right") * run_size
            named = np.searchsorted(spared, ints, "right") * (digits + 1)
            weight = np.arange(len(ints)) / rows + (begun + named) / URL_ROOM
            edges[1:1] = (np.flatnonzero(np.diff(weight.astype(np.int64))) + 1).tolist()
        for start, stop in pairwise(edges):
            least = None if start == 0 else int(ints[start])
            end = None if stop == len(ints) else int(ints[stop])
            low, high = int(ints[start]), int(ints[stop - 1])
            some = slice(np.searchsorted(tails, low), np.searchsorted(heads, high, "right"))
            clipped = (np.maximum(heads[some], low), np.minimum(tails[some], high), xmin[some])
            runs = list(zip(*(one.tolist() for one in clipped), strict=True))
            within = slice(np.searchsorted(spared, low), np.searchsorted(spared, high, "right"))
            yield Range(least, end, runs, spared[within], ints[start:stop][claimed[start:stop]])

    def requests(self, page_rows: int) -> int:
        """Return the number of requests if nothing has changed."""
        return 2 * len(self.ranges) + len(self.others) // page_rows

    def recut(self, within: Range, claimed: Ints) -> tuple[list[Range], Ints]:
        """Split ``within`` into ranges that claim only these keys; return also the keys outside them."""
        if not len(claimed):
            return [replace(within, runs=[], spared=claimed, claimed=claimed)], claimed
        xmins = self._xmins[self._ints.searchsorted(claimed)]
        ranges, short = self._cut(claimed, xmins, 2 * len(claimed))  # no more rows than before
        ranges[0] = replace(ranges[0], first=within.first)
        ranges[-1] = replace(ranges[-1], end=within.end)
        return ranges, short

    def steps(
        self,
        reads: Reads,
        at_once: int,
        page_rows: int,
        unknown: Callable[[Sequence[Key]], None],
        gone: Callable[[Sequence[Key], Read], None],
    ) -> Generator[Ask, Sequence[Read], Sequence[Read] | None]:
        """Compare; report the keys whose rows must be read, and the deleted ones.

        Return the reads that cover all rows; None: a count does not fit, or it would take as many requests
        as reading all pages.
        """
        began = self.replica.horizon.moment()
        proof = _Comparison(self, reads, at_once, page_rows, unknown, gone)
        yield proof.pool
        while not proof.failed and proof.recheck():
            yield proof.pool
        if proof.failed:
            return None
        shown = {key for one in proof.proven for key in one.shown}
        unknown([key for key in self.others if key not in shown])
        if not self.replica.horizon.is_behind_gaps(began):
            unknown(list(self.replica.versions.forgotten))  # a later change may be lost
        return [read for one in proof.proven for read in one.proof]


class _Check(msgspec.Struct, eq=False):
    """A range that is being compared."""

    range: Range
    seen: set[int] = msgspec.field(default_factory=set)
    """The keys of rows that are not as claimed."""
    gone: set[int] = msgspec.field(default_factory=set)
    """Keys without a row, according to a search."""
    others: Sequence[Read] = ()
    """The pages of the other rows."""
    shown: set[Key] = msgspec.field(default_factory=set)
    """The keys on these pages."""
    count: Read | None = None
    """The answer with the number of rows as claimed; None: there are no claims."""
    missing: int = 0
    """The number of missing rows."""
    under_way: int = 0
    """Number of requests, or sequences of pages, to wait for before it continues."""
    compared: bool = False
    """Whether the others and the number were requested together."""
    searches: int = 0
    repeats: int = 0

    @property
    def proof(self) -> list[Read]:
        """Return the reads that prove its rows: the others and the number as claimed."""
        return [*self.others, *([] if self.count is None else [self.count])]


class _Part(msgspec.Struct, frozen=True, eq=False):
    """Some of a range's expected keys, of which the server has fewer."""

    keys: Ints
    missing: int


class _Comparison:
    """One comparison: each range is compared separately, with its next request as soon as it is known."""

    def __init__(
        self,
        runs: Runs,
        reads: Reads,
        at_once: int,
        page_rows: int,
        unknown: Callable[[Sequence[Key]], None],
        gone: Callable[[Sequence[Key], Read], None],
    ) -> None:
        self.runs = runs
        self.reads = reads
        self.page_rows = page_rows
        self.unknown = unknown
        self.gone = gone
        self.replica = runs.replica
        self.pool = Pool(self._answered, lambda tag, error: False, at_once)
        self.proven: list[_Check] = []
        self.stale: list[_Check] = []
        """Ranges to compare again because of a later gap, once no other request is needed: yet another gap
        may open until then."""
        self.failed = False
        pages = len(self.replica.rows) // page_rows
        self._left = max(pages // 2, 4 * len(runs.ranges))
        """Remaining number of requests: if rows change as fast as they are counted, no count fits."""
        for one in runs.ranges:
            self._compare(_Check(one))

    def _answered(self, tag: object, read: Read) -> None:
        if not self.failed:
            cast("Callable[[Read], None]", tag)(read)

    def _ask(self, query: Query, then: Callable[[Read], None]) -> None:
        self._left -= 1
        if self._left < 0:
            self._fail()
        else:
            self.pool.waiting.append((then, query))

    def _fail(self) -> None:
        self.failed = True
        self.pool.waiting.clear()

    # Claimed and other rows ------------------------------------------------------------

    def recheck(self) -> bool:
        """Compare again the ranges that are older than the last gap; return False if there are none."""
        proven, self.proven = self.proven, []
        for check in proven:
            if self._is_recent(check.proof) or check.repeats == REPEATS:
                self.proven.append(check)
            else:
                check.repeats += 1
                self._reduce(check)
        stale, self.stale = self.stale, []
        for check in stale:
            self._compare(check)
        return bool(self.pool.waiting)

    def _is_recent(self, reads: Sequence[Read]) -> bool:
        """Return whether all reads were sent since the last gap."""
        return all(self.replica.horizon.is_behind_gaps(read.sent) for read in reads)

    def _compare(self, check: _Check) -> None:
        """Query which rows are not as claimed, and how many are."""
        check.others, check.shown = (), set()
        check.compared, check.under_way = True, 1
        self._ask_for_others(check, None)
        self._count(check)

    def _ask_for_others(self, check: _Check, after: Row | None) -> None:
        asks, one = self.reads.with_xmin(True), check.range
        extra = [*one.within(self.reads), *one.unlike(self.runs.name)]
        order, limit = asks.by_key(), self.page_rows
        query = asks.page(order, after, columns=(), extra=extra, limit=limit)
        self._ask(query, partial(self._take_others, check))

    def _take_others(self, check: _Check, read: Read) -> None:
        page, name = read.page.rows, self.runs.name
        keys = self.replica.keys_of(page)
        self.unknown(self.replica.versions.differing(keys, page))
        check.seen.update(cast("list[int]", keys))
        check.shown.update(keys)
        check.others = [*check.others, replace(read, page=replace(read.page, rows=()))]
        if len(page) >= self.page_rows:
            self._ask_for_others(check, self.reads.schema.decode({name: page[-1][name]}))
        else:
            self._counted(check)

    def _count(self, check: _Check) -> None:
        """Query how many rows are as claimed; if they fit on a page, which ones."""
        check.count, check.missing = None, 0
        claimed = check.range.claimed
        if not len(claimed):
            return
        check.under_way += 1
        one, reads = check.range.part(claimed), self.reads
        last = Condition(self.runs.name, "lte", (str(claimed[-1]),)).to_rest()
        extra = [reads.at_least(self.runs.name, one.first), last, *one.like(self.runs.name)]
        if len(claimed) <= self.page_rows:
            query = reads.page(reads.by_key(), columns=(), extra=extra, limit=self.page_rows)
            self._ask(query, partial(self._take_keys, check))
        else:
            self._ask(reads.count(extra), partial(self._take_count, check))

    def _take_keys(self, check: _Check, read: Read) -> None:
        there = set(self.replica.keys_of(read.page.rows))
        others = [key for key in check.range.claimed.tolist() if key not in there]
        self.unknown(others)
        check.seen.update(others)
        check.count = read
        self._counted(check)

    def _take_count(self, check: _Check, read: Read) -> None:
        count, claimed = read.page.count, len(check.range.claimed)
        if count is None or count > claimed:
            self._fail()
            return
        check.count, check.missing = read, claimed - count
        self._counted(check)

    def _counted(self, check: _Check) -> None:
        """Once both answers are known, the claims are proven, or missing rows are searched."""
        check.under_way -= 1
        if check.under_way or self.failed:
            return
        if not check.missing:
            self.proven.append(check)
            return
        if check.searches == SEARCHES:
            self._fail()
            return
        check.searches += 1
        told = _ints(self.replica.versions.forgotten)
        changed = places(check.range.claimed, _ints({*check.seen, *told.tolist()})) >= 0
        missing = check.missing - int(np.count_nonzero(changed))
        if check.compared and missing > 0:
            self._search(check, told, missing)
        else:
            self._reduce(check, compare=not check.compared)

    def _reduce(self, check: _Check, *, compare: bool = False) -> None:
        """Reduce the claims to rows not known to be changed or deleted, and count again; with ``compare``,
        query the others again, too.

        The others were read for the whole range, but changes lost before a later gap may be newer.
        """
        recent = self._is_recent(check.proof)
        others = _ints({*check.gone, *check.seen, *self.replica.versions.forgotten})
        ranges, short = self.runs.recut(check.range, without(check.range.claimed, others))
        self.unknown(short.tolist())
        check.seen.update(short.tolist())
        for one in ranges:
            part = replace(check, range=one, compared=False, under_way=1)
            if not recent:
                self.stale.append(part)
            elif compare:
                self._compare(part)
            else:
                self._count(part)
                self._counted(part)

    # Missing rows ----------------------------------------------------------------------------

    def _search(self, check: _Check, told: Ints, missing: int) -> None:
        """Find the claimed rows that are deleted; more than ``missing`` if others were inserted."""
        rows, claimed = self.replica.rows, check.range.claimed
        known = {key for key in check.seen if key not in self.replica.versions.forgotten}
        known.update(cast("int", key) for key in told.tolist() if key in rows)
        here = _ints([key for key in known if claimed[0] <= key <= claimed[-1]])
        keys = merge_sorted(without(claimed, _ints({*check.seen, *told.tolist()})), here)
        check.under_way = 1
        self._narrow(check, keys, missing)
        self._searched(check)

    def _read_part(self, check: _Check, part: _Part, count: int, offset: int) -> None:
        """Count the first ``count`` keys of ``part``, and read a page of them."""
        reads, keys = self.reads, part.keys
        last = Condition(self.runs.name, "lte", (str(keys[count - 1]),)).to_rest()
        query = reads.page(
            reads.by_key(),
            columns=(),
            extra=[reads.at_least(self.runs.name, int(keys[0])), last],
            limit=self.page_rows,
            offset=offset,
            count="exact",
        )
        check.under_way += 1
        then = partial(self._take_part, check, part, count, offset)
        self._ask(replace(query, refusable=True), then)

    def _take_part(self, check: _Check, part: _Part, count: int, offset: int, read: Read) -> None:
        keys, counted = part.keys[:count], read.page.count
        there = _ints(self.replica.keys_of(read.page.rows))
        if counted is None:  # fewer rows are left than the offset
            if offset:
                self._read_part(check, part, count, 0)
            else:
                self._fail()
            self._searched(check)
            return
        if len(there) != min(self.page_rows, max(0, counted - offset)):
            self._fail()  # a page that is cut short would hide rows
            return
        missing = count - counted
        self._narrow(check, part.keys[count:], part.missing - missing)
        if offset and not len(there):
            self._narrow(check, keys, missing)
        else:
            start = int(keys.searchsorted(there[0])) if offset else 0
            is_full = len(there) == self.page_rows
            stop = int(keys.searchsorted(there[-1], "right")) if is_full else count
            on_page = keys[start:stop]
            gone = without(on_page, there).tolist()
            check.gone.update(gone)
            self.gone(gone, read)
            before = start - offset
            after = missing - before - (len(on_page) - len(there))
            self._narrow(check, keys[:start], before)
            self._narrow(check, keys[stop:], after)
        self._searched(check)

    def _narrow(self, check: _Check, keys: Ints, missing: int) -> None:
        """Continue where rows are missing: by thirds, minus the page that is read between two of them."""
        if missing <= 0 or not len(keys):
            return
        third = max(0, len(keys) - self.page_rows) // 3
        count = len(keys) - third
        offset = min(third, max(0, count - missing - 1))  # among this many rows, one exists
        self._read_part(check, _Part(keys, missing), count, offset)

    def _searched(self, check: _Check) -> None:
        """After the search, count the remaining claims separately."""
        check.under_way -= 1
        if not check.under_way and not self.failed:
            self._reduce(check)


def are_possible(replica: Replica) -> bool:
    """Return whether the key is one integer, and nearly all rows have a known version."""
    key, types = replica.schema.key, replica.schema.types
    known = len(replica.versions)
    return len(key) == 1 and kind(types[key[0]]) == "int" and known * 10 > len(replica.rows) * 9
