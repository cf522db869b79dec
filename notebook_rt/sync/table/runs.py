"""A whole table compared in few requests, by filters and counts alone (promises 3, 4; docs/design/disk.md).

A *run* is a stretch of integers that are keys here, whose rows have one ``xmin``: what was inserted
together is few of them. The server is asked for the keys of all rows that are in no run as they are
here, then for the number of those that are. An integer is the key of one row at most, and a row with the
``xmin`` that it had is as it was: so the number is the one expected only if each of these rows is there
still. Where it is less, what is missing is searched for, and what is left is claimed and counted again.

The search proves nothing, so it may be quick: it counts rows whatever their ``xmin``, which an index
alone can tell, and has a page of keys with each count, whose place says how many rows are missing before
it. What is on none of them is gone; that nothing else is, the last count says.

That holds whatever transactions, row policies and other pages did meanwhile: what is claimed of a row is
what was read of that row. For the same reason what is gone stays gone: no later row has the key and the
``xmin`` of an earlier one. So it is first read which rows are others, and then counted.
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
from notebook_rt.model.xmins import Ints, places, together, without
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Ask, Pool
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import URL_ROOM, Reads
from notebook_rt.sync.table.replica import Replica

SHORTEST: Final = 8
"""Rows that make a run; fewer are read by their keys, which is shorter than to say what they are."""
BRIDGED: Final = 8
"""Other integers that may lie between two parts of one run; each is named."""
TOLD_MOST: Final = 100
"""Keys that changes have told of meanwhile, and that are named beside those of a range."""
FEW: Final = 8
"""Rows of a range that may change between two reads of it, however few pages it has."""
SEARCHES: Final = 4
"""How often it is searched in one range for what is missing, before pages are compared."""

_MOST: Final = 2**63 - 1

Run: TypeAlias = tuple[int, int, int]
"""First key, last key, xmin."""


class Range(msgspec.Struct, frozen=True, eq=False):
    """A part of the table by its key, and what is claimed of it."""

    first: int | None
    """Its lowest key; None: it has no such end."""
    end: int | None
    """The lowest key behind it; None: it has no such end."""
    runs: Sequence[Run]
    spared: Ints
    """Keys within the runs of which nothing is claimed."""
    claimed: Ints
    """The keys of all other rows in the runs."""

    def part(self, claimed: Ints) -> Range:
        """The part that ``claimed``, some of its claimed keys in their order, reach over."""
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
        """The parameters that ask for rows of this range."""
        return _between(reads, self.first, self.end)

    def like(self, name: str) -> list[tuple[str, str]]:
        """The parameters that ask for rows that are as claimed."""
        spared = _one_of(name, self.spared)
        but = [] if spared is None else [replace(spared, negated=True).to_rest()]
        return [*but, ("and", f"({self._tree(name)})")]

    def unlike(self, name: str) -> list[tuple[str, str]]:
        """The parameters that ask for all other rows."""
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
    """That a row is in one of ``runs``, by halves; its key is known to be in these limits."""
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


def _without(one: Range, keys: Ints) -> Range:
    """``one`` without a claim of ``keys``, of which changes have told meanwhile, unless they are many."""
    told = keys[places(one.claimed, keys) >= 0]
    if not 0 < len(told) <= TOLD_MOST:
        return one
    spared = np.concatenate([one.spared, told])
    return replace(one, spared=spared, claimed=without(one.claimed, told))


def _one_of(name: str, keys: Ints) -> Condition | None:
    return Condition(name, "in", tuple(map(str, keys.tolist()))) if len(keys) else None


def _between(reads: Reads, first: int | None, end: int | None) -> list[tuple[str, str]]:
    name = reads.schema.key[0]
    return [
        *([] if first is None else [reads.at_least(name, first)]),
        *([] if end is None else [reads.less_than(name, end)]),
    ]


class Runs:
    """The runs of one table as it is here, in ranges of at most some ``rows`` rows each."""

    def __init__(self, replica: Replica, rows: int) -> None:
        self.replica = replica
        self.name = replica.schema.key[0]
        keys, xmins = replica.versions.arrays()
        ints = np.asarray(keys, np.int64)  # sorted, for each is an integer
        self._ints, self._xmins = ints, xmins
        self.ranges, short = self._cut(ints, xmins, rows)
        self.others = short.tolist() + replica.versions.missing(replica.rows)
        """The keys here of which nothing is claimed."""

    def _cut(self, ints: Ints, xmins: Ints, rows: int) -> tuple[list[Range], Ints]:
        """All integers, in ranges that claim the rows of these keys; and the keys that are in no run."""
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
        """Ranges of at most ``rows`` rows that fit each into the address of a request."""
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
        begun = np.searchsorted(heads, ints, "right") * run_size
        named = np.searchsorted(spared, ints, "right") * (digits + 1)
        weight = np.arange(len(ints)) / rows + (begun + named) / URL_ROOM
        cuts = np.flatnonzero(np.diff(weight.astype(np.int64))) + 1
        edges = [0, *cuts.tolist(), len(ints)]
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
        """How many requests it takes, if nothing has changed."""
        return 2 * len(self.ranges) + len(self.others) // page_rows

    def again(self, claimed: Ints) -> tuple[list[Range], Ints]:
        """Ranges that claim the rows of these keys only, whatever else the runs had; and those in none."""
        xmins = self._xmins[self._ints.searchsorted(claimed)]
        ranges, short = self._cut(claimed, xmins, 2 * len(claimed))  # no more rows than before
        low, high = int(claimed[0]), int(claimed[-1])
        ranges[0] = replace(ranges[0], first=low)
        ranges[-1] = replace(ranges[-1], end=None if high == _MOST else high + 1)
        return ranges, short

    def steps(
        self,
        reads: Reads,
        at_once: int,
        page_rows: int,
        unknown: Callable[[Sequence[Key]], None],
        gone: Callable[[Sequence[Key], Read], None],
    ) -> Generator[Ask, Sequence[Read], Sequence[Read] | None]:
        """Compare; tell the keys whose row must be read, and those that are gone.

        Returns the reads that were of all rows; None: a count does not fit, or it would take as many requests
        as pages of all rows.
        """
        proof = _Proof(self, reads, at_once, page_rows, unknown, gone)
        yield proof.pool
        if proof.failed:
            return None
        unknown([key for key in self.others if key not in proof.seen])
        return proof.whole


class _Doubt(msgspec.Struct, eq=False):
    """A range that is being compared."""

    range: Range
    claimed: Ints
    """The keys of which it is claimed that their rows are as they are here."""
    seen: set[int] = msgspec.field(default_factory=set)
    """The keys of rows that are others."""
    gone: set[int] = msgspec.field(default_factory=set)
    """Keys that a search has found no row of."""
    under_way: int = 0
    """Requests of its search."""
    searches: int = 0


class _Part(msgspec.Struct, frozen=True, eq=False):
    """Some of the keys that a range should have, in which the server has fewer."""

    keys: Ints
    missing: int


class _Proof:
    """One comparison: each range by itself, and what it needs next as soon as it is known."""

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
        self.whole: list[Read] = []
        """The reads that were of all rows."""
        self.seen: set[Key] = set()
        """The keys of rows that are others than the runs claim."""
        self.failed = False
        pages = len(self.replica.rows) // page_rows
        self._left = max(pages, len(runs.ranges))
        """Requests that it may take beside those that look for others."""
        for one in runs.ranges:
            self._look_for_others(_Doubt(one, one.claimed), None)

    def _answered(self, tag: object, read: Read) -> None:
        if not self.failed:
            cast("Callable[[Read], None]", tag)(read)

    def _ask(self, query: Query, then: Callable[[Read], None]) -> None:
        self.pool.waiting.append((then, query))

    def _spend(self, query: Query, then: Callable[[Read], None]) -> None:
        self._left -= 1
        if self._left < 0:
            self._fail()
        else:
            self._ask(query, then)

    def _fail(self) -> None:
        self.failed = True
        self.pool.waiting.clear()

    # Which rows are others ----------------------------------------------------------------------

    def _look_for_others(self, doubt: _Doubt, after: Row | None) -> None:
        asks, one = self.reads.with_xmin(True), doubt.range
        extra = [*one.within(self.reads), *one.unlike(self.runs.name)]
        order, limit = asks.by_key(), self.page_rows
        query = asks.page(order, after, columns=(), extra=extra, limit=limit)
        self._ask(query, partial(self._take_others, doubt))

    def _take_others(self, doubt: _Doubt, read: Read) -> None:
        page, name = read.page.rows, self.runs.name
        keys = self.replica.keys_of(page)
        self.unknown(self.replica.versions.differing(keys, page))
        doubt.seen.update(cast("list[int]", keys))
        self.seen.update(keys)
        self.whole.append(read)
        if len(page) >= self.page_rows:
            self._look_for_others(doubt, self.reads.schema.decode({name: page[-1][name]}))
        elif doubt.under_way:
            self._searched(doubt)
        else:
            told = _ints(self.replica.versions.forgotten)
            doubt.claimed = without(doubt.claimed, _ints(doubt.seen))
            self._count(doubt, _without(replace(doubt.range, claimed=doubt.claimed), told))

    # Whether all others are there ---------------------------------------------------------------

    def _count(self, doubt: _Doubt, one: Range) -> None:
        """Ask how many rows of ``one`` are as claimed; which ones, where they fit on a page."""
        claimed = one.claimed
        if not len(claimed):
            return
        one, reads = one.part(claimed), self.reads
        last = Condition(self.runs.name, "lte", (str(claimed[-1]),)).to_rest()
        extra = [reads.at_least(self.runs.name, one.first), last, *one.like(self.runs.name)]
        if len(claimed) <= self.page_rows:
            query = reads.page(reads.by_key(), columns=(), extra=extra, limit=self.page_rows)
            self._spend(query, partial(self._take_keys, claimed))
        else:
            self._spend(reads.count(extra), partial(self._take_count, doubt, claimed))

    def _take_keys(self, claimed: Ints, read: Read) -> None:
        there = set(self.replica.keys_of(read.page.rows))
        self.unknown([key for key in claimed.tolist() if key not in there])

    def _take_count(self, doubt: _Doubt, claimed: Ints, read: Read) -> None:
        count = read.page.count
        if count is None or count > len(claimed):
            self._fail()
        elif count < len(claimed):
            self._search(doubt, claimed, len(claimed) - count)

    # What is missing ----------------------------------------------------------------------------

    def _search(self, doubt: _Doubt, claimed: Ints, missing: int) -> None:
        """See which rows of those ``claimed`` are gone, and which others have come or changed since."""
        if doubt.searches == SEARCHES:
            self._fail()
            return
        rows, told = self.replica.rows, self.replica.versions.forgotten
        others = {key for key in doubt.seen if key not in told}
        others.update(cast("int", key) for key in told if key in rows)
        here = _ints([key for key in others if claimed[0] <= key <= claimed[-1]])
        keys = together(without(claimed, _ints(told)), here)
        found = _Doubt(doubt.range, claimed, doubt.seen, set(), 0, doubt.searches + 1)
        if not len(keys):
            self._look_again(found)
            return
        middle = max(0, len(keys) - missing - self.page_rows) // 2
        self._look_at(found, _Part(keys, missing), len(keys), middle, whole=True)

    def _look_again(self, doubt: _Doubt) -> None:
        """Read anew which rows are others."""
        doubt.under_way += 1
        self._look_for_others(doubt, None)

    def _look_at(
        self, doubt: _Doubt, part: _Part, count: int, offset: int, *, whole: bool = False
    ) -> None:
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
        doubt.under_way += 1
        then = partial(self._take_part, doubt, part, count, offset, whole)
        self._spend(replace(query, refusable=True), then)

    def _take_part(
        self, doubt: _Doubt, part: _Part, count: int, offset: int, whole: bool, read: Read
    ) -> None:
        keys, counted = part.keys[:count], read.page.count
        there = _ints(self.replica.keys_of(read.page.rows))
        if counted is None:  # fewer rows are left than were to be passed over
            if offset:
                self._look_at(doubt, part, count, 0, whole=whole)
            else:
                self._fail()
            self._searched(doubt)
            return
        if len(there) != min(self.page_rows, max(0, counted - offset)):
            self._fail()  # cut short, it would hide rows
            return
        missing = count - counted
        if whole and missing < part.missing:  # the others have changed, or as many have come
            if part.missing - missing > max(len(doubt.claimed) // self.page_rows, FEW):
                self._fail()  # until the next count as many will: of some page none would fit
                return
            self._look_again(doubt)
        self._narrow(doubt, part.keys[count:], part.missing - missing)
        if offset and not len(there):
            self._narrow(doubt, keys, missing)
        else:
            start = int(keys.searchsorted(there[0])) if offset else 0
            is_full = len(there) == self.page_rows
            stop = int(keys.searchsorted(there[-1], "right")) if is_full else count
            on_page = keys[start:stop]
            gone = without(on_page, there).tolist()
            doubt.gone.update(gone)
            self.gone(gone, read)
            before = start - offset
            after = missing - before - (len(on_page) - len(there))
            self._narrow(doubt, keys[:start], before)
            self._narrow(doubt, keys[stop:], after)
        self._searched(doubt)

    def _narrow(self, doubt: _Doubt, keys: Ints, missing: int) -> None:
        """Go on where rows are missing: by thirds, less the page that is read between two of them."""
        if missing <= 0 or not len(keys):
            return
        third = max(0, len(keys) - self.page_rows) // 3
        count = len(keys) - third
        offset = min(third, max(0, count - missing - 1))  # of so many rows one is there
        self._look_at(doubt, _Part(keys, missing), count, offset)

    def _searched(self, doubt: _Doubt) -> None:
        """When all is: count what is claimed still, by itself."""
        doubt.under_way -= 1
        if doubt.under_way or self.failed:
            return
        others = _ints({*doubt.gone, *doubt.seen, *self.replica.versions.forgotten})
        claimed = without(doubt.claimed, others)
        doubt.seen -= doubt.gone
        if not len(claimed):
            return
        ranges, short = self.runs.again(claimed)
        self.unknown(short.tolist())
        for one in ranges:
            again = _Doubt(one, one.claimed, doubt.seen, set(), 0, doubt.searches)
            self._count(again, one)


def are_possible(replica: Replica) -> bool:
    """Whether rows have one integer for a key, and nearly all a known version."""
    key, types = replica.schema.key, replica.schema.types
    known = len(replica.versions)
    return len(key) == 1 and kind(types[key[0]]) == "int" and known * 10 > len(replica.rows) * 9
