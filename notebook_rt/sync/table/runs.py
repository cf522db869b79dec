"""A whole table compared in few requests, by filters and counts alone (promises 3, 4; docs/design/disk.md).

A *run* is a stretch of integers that are keys here, whose rows have one ``xmin``: what was inserted
together is few of them. The server is asked for the keys of all rows that are in no run as they are
here, then for the number of those that are. An integer is the key of one row at most, and a row with the
``xmin`` that it had is as it was: so the number is the one expected only if each of these rows is there
still, and where it is less, halves are counted until the rest is one page.

That holds whatever transactions, row policies and other pages did meanwhile: what is claimed of a row is
what was read of that row. For the same reason what is gone stays gone: no later row has the key and the
``xmin`` of an earlier one. So it is first read which rows are others, and then counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from itertools import pairwise
from typing import Final, TypeAlias, cast

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from notebook_rt.model.filters import Condition, column_name
from notebook_rt.model.rows import Key, Row
from notebook_rt.model.types import kind
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Ask
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import KEYS_PER_QUERY, URL_ROOM, Reads
from notebook_rt.sync.table.replica import Replica

SHORTEST: Final = 8
"""Rows that make a run; fewer are read by their keys, which is shorter than to say what they are."""
BRIDGED: Final = 8
"""Other integers that may lie between two parts of one run; each is named."""
PARTS: Final = 4
"""So many parts of a range are counted, where it has fewer rows than it had."""

Ints: TypeAlias = NDArray[np.int64]
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
    some = keys[np.isin(keys, one.claimed)]
    if not 0 < len(some) <= KEYS_PER_QUERY:
        return one
    claimed = one.claimed[~np.isin(one.claimed, some)]
    return replace(one, spared=np.concatenate([one.spared, some]), claimed=claimed)


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
        schema, versions = replica.schema, replica.versions
        self.name = schema.key[0]
        keys, xmins = versions.arrays()
        ints = np.array(keys, np.int64)
        if (ints[1:] < ints[:-1]).any():
            order = np.argsort(ints)
            ints, xmins = ints[order], xmins[order]
        firsts = np.flatnonzero(
            np.concatenate([[True], (np.diff(ints) != 1) | (np.diff(xmins) != 0)])
        )
        lengths = np.diff(np.append(firsts, len(ints)))
        long = lengths >= SHORTEST
        self._claimed = np.repeat(long, lengths)
        self.others = ints[~self._claimed].tolist() + versions.without(replica.rows.keys())
        """The keys here of which nothing is claimed."""
        self.ranges = list(self._cut(ints, xmins, firsts[long], lengths[long], rows))

    def _cut(
        self, ints: Ints, xmins: Ints, firsts: Ints, lengths: Ints, rows: int
    ) -> Iterator[Range]:
        """All integers, in ranges that fit each into the address of a request."""
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
            claimed = ints[start:stop][self._claimed[start:stop]]
            yield Range(least, end, runs, spared[within], claimed)

    def requests(self, page_rows: int) -> int:
        """How many requests it takes, if nothing has changed."""
        return 2 * len(self.ranges) + len(self.others) // page_rows

    def steps(
        self, reads: Reads, at_once: int, page_rows: int, unknown: Callable[[Sequence[Key]], None]
    ) -> Generator[Ask, Sequence[Read], Sequence[Read] | None]:
        """Compare; tell the keys whose row must be read.

        Returns the reads that were of all rows; None: a count does not fit, or it would take as many requests
        as pages of all rows.
        """
        asks, order = reads.with_xmin(True), reads.by_key()
        whole: list[Read] = []
        seen: set[Key] = set()
        to_read: list[tuple[Range, Row | None]] = [(one, None) for one in self.ranges]
        while to_read:
            some, to_read = to_read[:at_once], to_read[at_once:]
            queries = [
                asks.page(
                    order,
                    after,
                    columns=(),
                    extra=[*one.within(reads), *one.unlike(self.name)],
                    limit=page_rows,
                )
                for one, after in some
            ]
            for (one, _), read in zip(some, (yield queries), strict=True):
                page = read.page.rows
                keys = self.replica.keys_of(page)
                unknown(self.replica.versions.differing(keys, page))
                seen.update(keys)
                whole.append(read)
                if len(page) >= page_rows:
                    to_read.append((one, reads.schema.decode({self.name: page[-1][self.name]})))
        unknown([key for key in self.others if key not in seen])
        most = len(self.replica.rows) // page_rows
        if not (yield from self._count(reads, at_once, page_rows, most, seen, unknown)):
            return None
        return whole

    def _count(
        self,
        reads: Reads,
        at_once: int,
        page_rows: int,
        most: int,
        seen: set[Key],
        unknown: Callable[[Sequence[Key]], None],
    ) -> Generator[Ask, Sequence[Read], bool]:
        """See that all other rows that are claimed are there, or which are not."""
        changed, told = _ints(seen), _ints(self.replica.versions.forgotten)
        left = [
            one.part(one.claimed[~np.isin(one.claimed, changed)])
            for one in (_without(one, told) for one in self.ranges)
        ]
        asked = 0
        while left := [one for one in left if len(one.claimed)]:
            asked += len(left)
            if asked > max(most, len(self.ranges)):
                return False
            smaller: list[Range] = []
            for start in range(0, len(left), at_once):
                some = left[start : start + at_once]
                queries = [self._ask(reads, one, page_rows) for one in some]
                for one, read in zip(some, (yield queries), strict=True):
                    expected, page = len(one.claimed), read.page
                    if expected <= page_rows:
                        there = set(self.replica.keys_of(page.rows))
                        unknown([key for key in one.claimed.tolist() if key not in there])
                    elif page.count is None or page.count > expected:
                        return False
                    elif page.count < expected:
                        smaller += map(one.part, np.array_split(one.claimed, PARTS))
            left = smaller
        return True

    def _ask(self, reads: Reads, one: Range, page_rows: int) -> Query:
        """How many rows of this part are as claimed; which ones, where they fit on a page."""
        last = Condition(self.name, "lte", (str(one.claimed[-1]),)).to_rest()
        extra = [reads.at_least(self.name, one.first), last, *one.like(self.name)]
        if len(one.claimed) <= page_rows:
            return reads.page(reads.by_key(), columns=(), extra=extra, limit=page_rows)
        return reads.count(extra)


def are_possible(replica: Replica) -> bool:
    """Whether rows have one integer for a key, and nearly all a known version."""
    key, types = replica.schema.key, replica.schema.types
    known = len(replica.versions)
    return len(key) == 1 and kind(types[key[0]]) == "int" and known * 10 > len(replica.rows) * 9
