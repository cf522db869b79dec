"""The law of a comparison by runs of one ``xmin``: the state since its beginning is known at its end.

Nobody is told what is written here: each page of the load, and each request of the comparison, sees another
moment; transactions begin before a page and end behind it, or are rolled back; keys move, rows come back,
many rows go at once, and what row policies show changes between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.errors import StatementTimeoutError
from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Delete, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.comparison import Comparison
from notebook_rt.sync.table.flows import Ahead, Ask, Pool, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.queries import URL_ROOM, Reads
from notebook_rt.sync.table.reading import Paging, by_runs, scan
from notebook_rt.sync.table.replica import Replica
from notebook_rt.sync.table.runs import Runs
from tests.laws import examples
from tests.sync.model import DictRows
from tests.sync.simulation import RefusedError, Server

many = settings(max_examples=examples(400), deadline=None, suppress_health_check=list(HealthCheck))

COLUMNS = {"id": "int8", "grp": "int4", "rev": "int8"}
keys = st.integers(1, 24)
bulk = st.tuples(st.just("bulk"), st.integers(1, 90), st.integers(8, 40), st.integers(0, 1))
action = st.one_of(
    bulk,
    st.tuples(st.just("write"), keys, st.one_of(st.none(), st.integers(0, 1))),
    st.tuples(st.just("move"), keys, keys),
    st.tuples(st.just("slow"), keys, st.one_of(st.none(), st.integers(0, 1)), st.booleans()),
    st.just(("end",)),
    st.tuples(st.just("told"), keys),
    st.tuples(st.just("cut"), st.integers(1, 170), st.integers(1, 60)),
    st.tuples(st.just("some gone"), st.integers(1, 40), st.integers(2, 60)),
    st.tuples(st.just("show but"), st.sampled_from((None, 2, 3))),
    st.tuples(st.just("come"), st.integers(1, 3)),
    st.just(("gap",)),
)
actions = st.lists(action, max_size=4)


class Story:
    """A server, and a replica that nobody tells what is written there."""

    def __init__(self, server: Server, spec: TableSpec, seed: int = 0, page: int = 7) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.horizon = Horizon(Options())
        self.replica = Replica(spec, server.known, server.known, self.horizon)
        self.replica.rows = DictRows(server.known)
        self.reads = Reads(spec, server.known, page)
        self.paging = Paging(page, at_once=3)
        self.open: list[Callable[[], None]] = []
        self.asked: list[Query] = []
        self.told = False
        """Whether a change may be told: not while it is loaded."""
        self.toggled: set[int] = set()
        """What row policies hid or showed while it was compared, by the rest of the key."""
        self.base = self.gap = 0
        self.before: dict[int, int] = {}
        """How often each row had been written when the comparison began, or at the last gap."""
        self.comparison = Comparison(self.replica)

    def key(self, place: int) -> int:
        """The key at a place: thirty to a stretch, and then a gap."""
        return self.base + place + self.gap * (place // 30)

    def do(self, steps: Sequence[Any]) -> None:
        for step in steps:
            match step:
                case ("bulk", first, count, group):
                    keys = map(self.key, range(first, first + count))
                    self.server.write_all([(key, {"grp": group}) for key in keys])
                case ("write", place, group):
                    self.server.write(self.key(place), None if group is None else {"grp": group})
                case ("move", place, to):
                    self.server.move(self.key(place), self.key(to))
                case ("cut", first, count):
                    self._delete([self.key(place) for place in range(first, first + count)])
                case ("some gone", first, every):
                    self._delete(sorted(self.server.rows)[first::every])
                case ("come", count) if self.gap:
                    free = (self.key(place) - 1 for place in range(30, 180, 30))
                    new = [key for key in free if key not in self.server.rows][:count]
                    self.server.write_all([(key, {"grp": 1}) for key in new])
                case ("show but", hidden) if self.told:
                    self.hide(hidden)
                case ("slow", place, group, commits):
                    key = self.key(place)
                    values = None if group is None else {"grp": group}
                    self.open.append(
                        self.server.write_slowly(key, values, early=False, commits=commits)
                    )
                case ("end",) if self.open:
                    self.open.pop(0)()
                case ("told", place) if self.told:
                    self._tell(self.key(place))
                case ("gap",) if self.told:
                    self.horizon.gap_opens()
                    self.note()

    def note(self) -> None:
        """What is written from now on is told, or found later."""
        self.before = {key: len(states) for key, states in self.server.history.items()}
        self.toggled.clear()

    def _delete(self, keys: Sequence[int]) -> None:
        self.server.write_all([(key, None) for key in keys if key in self.server.rows])

    def hide(self, hidden: int | None) -> None:
        """A row policy hides a sixteenth of the rows from now on."""
        self.toggled |= {hidden} - {None}
        self.server.allowed = lambda row: hidden is None or row["id"] % 16 != hidden

    def _tell(self, key: int) -> None:
        """A change tells of a row, as it is."""
        replica, row = self.replica, self.seen.get(key)
        replica.versions.forget([key])
        self.horizon.applied(key, None)
        here = key in replica.rows
        if row is not None:
            replica.apply([Upsert(key, row)])
        elif here:
            replica.apply([Delete(key)])

    @property
    def seen(self) -> dict[Any, Any]:
        """What this login sees of the table."""
        server, spec = self.server, self.reads.spec
        return {
            key: dict(row)
            for key, row in server.rows.items()
            if server.allowed(row) and (not spec.filter or spec.filter.matches(row, server.known))
        }

    @property
    def shown(self) -> dict[Any, Any]:
        """The rows here."""
        return dict(self.replica.rows.gather(self.replica.rows.keys()))

    def is_true(self) -> bool:
        return self.shown == self.seen

    def load(self, between: Sequence[Sequence[Any]]) -> None:
        """Read all pages, and do something before each."""
        rest, after = list(between), None
        while True:
            self.do(rest.pop(0) if rest else ())
            asks = self.reads.with_xmin(True)
            page = self.server.select(asks.page(asks.by_key(), after)).rows
            found = self.replica.keys_of(page)
            self.replica.apply([Upsert(k, dict(r)) for k, r in zip(found, page, strict=True)])
            self.replica.versions.note_page(found, page)
            if len(page) < self.paging.rows:
                return
            after = {"id": page[-1]["id"]}

    def compare(
        self,
        flow: Callable[..., Generator[Ask, Sequence[Read], Any]] = by_runs,
        between: Sequence[Sequence[Any]] = (),
    ) -> Any:
        """Carry a comparison, do something before each answer, and apply what it found."""
        comparison, rest = Comparison(self.replica), list(between)
        self.told, self.comparison = True, comparison
        running = flow(self.replica, self.reads, self.paging, comparison)
        result = None
        try:
            ask: Ask = next(running)
            while True:
                try:
                    answers = self._answers(ask, rest)
                except (RefusedError, StatementTimeoutError) as error:
                    ask = running.throw(ReadRefusedError(error))
                else:
                    ask = running.send(answers)
        except StopIteration as stop:
            result = stop.value
        comparison.apply(self.horizon.now)
        return result

    def _answers(self, ask: Ask, rest: list[Sequence[Any]]) -> list[Read]:
        if isinstance(ask, Pool):
            self._fill(ask, rest)
            return []
        if isinstance(ask, Ahead):
            ask.work()
            return [self._answer(ask.query, self.horizon.moment())]
        sent = self.horizon.moment()
        answers: dict[int, Read] = {}
        for place in self.random.sample(range(len(ask)), len(ask)):
            self.do(rest.pop(0) if rest else ())
            answers[place] = self._answer(ask[place], sent)
        return [answers[place] for place in range(len(ask))]

    def _fill(self, pool: Pool, rest: list[Sequence[Any]]) -> None:
        """Answer what is asked for, several at a time, in any order; and do something before each."""
        under_way: list[tuple[object, Query, int]] = []
        while pool.waiting or under_way:
            while pool.waiting and len(under_way) < pool.most:
                under_way.append((*pool.waiting.popleft(), self.horizon.moment()))
            tag, query, sent = under_way.pop(self.random.randrange(len(under_way)))
            self.do(rest.pop(0) if rest else ())
            pool.take(tag, self._answer(query, sent))

    def _answer(self, query: Query, sent: int) -> Read:
        self.asked.append(query)
        assert len(str(query.params)) < 2 * URL_ROOM
        try:
            page = self.server.select(query)
        except RefusedError as refusal:
            if not query.refusable:
                raise
            page = Page((), None, 0.0, refusal=refusal)
        return Read(page, sent, self.horizon.now)


def bulky(*counts: int, **more: Any) -> Server:
    """A table that was written in transactions of so many rows."""
    made = Server(dict(COLUMNS), **more)
    first = 1
    for count in counts:
        made.write_all([(key, {"grp": 1}) for key in range(first, first + count)])
        first += count
    return made


def loaded(server: Server) -> Story:
    """A story in which all of the table has been read."""
    story = Story(server, TableSpec("t"), page=10)
    story.load(())
    return story


@many
@given(
    st.lists(st.integers(20, 40), min_size=2, max_size=5),
    st.lists(actions, max_size=8),
    actions,
    st.lists(actions, max_size=16),
    st.booleans(),
    st.sampled_from((None, 2, 3)),
    st.sampled_from((None, None, 2, 3)),
    st.sampled_from((None, 12)),
    st.sampled_from((200_000, 30)),
    st.sampled_from(((0, 0), (-77, 0), (0, 3), (-(2**63), 9), (-(10**6), 10**9))),
    st.integers(0, 2**32),
)
def test_what_stands_since_the_comparison_began_is_known(
    first: list[int],
    loading: list[Any],
    away: list[Any],
    comparing: list[Any],
    filtered: bool,
    hides: int | None,
    hides_later: int | None,
    counts_most: int | None,
    count_rows: int,
    placed: tuple[int, int],
    seed: int,
) -> None:
    server = bulky(counts_most=counts_most)
    spec = TableSpec("t", filter=parse("grp=eq.1")) if filtered else TableSpec("t")
    story = Story(server, spec, seed, page=4)
    story.base, story.gap = placed
    start = 1
    for count in first:
        story.do([("bulk", start, count, 1)])
        start += count
    story.paging.count_rows = count_rows
    story.hide(hides)
    story.load(loading)
    story.hide(hides_later)
    story.do(away)
    story.note()
    if not story.compare(between=comparing):
        return  # pages are compared
    sent = story.comparison.sent
    if sent is None or not story.horizon.is_behind_gaps(sent):
        return  # it closes no gap that opened meanwhile
    before, history = story.before, server.history
    moved = {key for key, states in history.items() if len(states) > before.get(key, 0)}
    open_still = moved | set(story.replica.undecided)
    there, here = story.seen, story.shown
    for key in {*there, *here} - open_still:
        if not story.toggled or key % 16 not in {2, 3}:
            assert here.get(key) == there.get(key), key


@pytest.mark.parametrize("counts", [(600,), (200, 200, 200), tuple([20] * 30)])
def test_a_table_that_nothing_has_changed_takes_few_requests(counts: tuple[int, ...]) -> None:
    """Sixty pages, in one transaction or thirty."""
    story = Story(bulky(*counts), TableSpec("t"), page=10)
    story.load(())
    assert story.compare() is True
    assert len(story.asked) <= 3


@pytest.mark.parametrize("gone", [1, 3])
def test_what_changed_came_and_went_is_found_in_few_requests(gone: int) -> None:
    server = bulky(3000)
    story = loaded(server)
    for key in range(100, 100 + gone * 700, 700):
        server.write(key, None)
    for key in (5, 1000, 2999, 3001, 3002):
        server.write(key, {"grp": 7})
    server.move(17, 4000)
    assert story.compare() is True
    assert story.is_true()
    assert len(story.asked) < 30 * (gone + 1)
    story.asked.clear()
    assert story.compare() is True  # what is known to be gone is no question any more
    assert len(story.asked) <= 3


def test_a_row_that_is_shown_since_hides_none_that_went() -> None:
    """As many came to be seen, of the same transaction, as are gone: no sum tells, each row does."""
    server = bulky(600, allowed=lambda row: row["id"] != 50)
    story = loaded(server)
    server.allowed = lambda row: row["id"] != 500
    server.write(60, None)
    server.write_all([(50, {"grp": 1})])
    server.xmin[50] = server.xmin[51]
    assert story.compare() is True
    assert story.is_true()


@pytest.mark.parametrize("until", range(6))
def test_what_was_lost_before_a_gap_is_found_by_the_comparison_under_way(until: int) -> None:
    """Whatever request had its answer by then: a change, a row that came, one that went."""
    server = bulky(600)
    story = loaded(server)
    server.write(60, None)
    lost = [("write", 50, 0), ("write", 70, None), ("write", 601, 1), ("gap",)]
    assert story.compare(between=[*[[]] * until, lost]) is True
    sent = story.comparison.sent
    assert sent is not None
    assert story.horizon.is_behind_gaps(sent)
    assert story.is_true()


def test_a_row_that_was_told_before_a_gap_is_read() -> None:
    server = bulky(600)
    story = loaded(server)
    told = [("write", 601, 1), ("told", 601), ("write", 601, None), ("gap",)]
    assert story.compare(between=[[], told]) is True
    assert story.is_true() or 601 in story.replica.undecided


def test_a_change_that_is_told_meanwhile_hides_none_that_went() -> None:
    server = bulky(600)
    story = loaded(server)
    server.write(60, None)
    assert story.compare(between=[[], [("told", 50)]]) is True
    assert story.is_true()


def test_a_row_that_was_written_alone_and_went_is_found() -> None:
    server = bulky(600)
    server.write(40, {"grp": 3})
    story = loaded(server)
    server.write(40, None)
    assert story.compare() is True
    assert story.is_true()


def gone_in(story: Story, keys: Sequence[int]) -> int:
    """Delete these, one by one, and compare; how many requests it took."""
    for key in keys:
        story.server.write(key, None)
    story.asked.clear()
    assert story.compare() is True
    assert story.is_true()
    return len(story.asked)


@pytest.mark.parametrize(
    ("keys", "most"),
    [
        (range(1, 2), 12),
        (range(3000, 3001), 12),
        (range(1, 700), 16),
        (range(2000, 3001), 24),
        (range(1000, 2000), 20),
        ((*range(1, 3), *range(1400, 1600), 3000), 34),
        (range(1, 3000, 100), 240),
    ],
)
def test_deletions_at_the_ends_and_in_clusters_take_few_requests(
    keys: Sequence[int], most: int
) -> None:
    """Of three hundred pages."""
    assert gone_in(loaded(bulky(3000)), keys) <= most


@pytest.mark.parametrize("left", [0, 1, 2500])
def test_a_table_that_was_emptied_is_compared(left: int) -> None:
    """Nothing is left, or the first row, or half a thousand at the end."""
    story = loaded(bulky(3000))
    keys = range(1, 2501) if left == 2500 else range(left + 1, 3001)
    story.server.write_all([(key, None) for key in keys])
    story.asked.clear()
    story.compare(scan)
    assert story.is_true()
    assert len(story.asked) <= 16


@pytest.mark.parametrize("base", [-(2**63), -1500, 2**63 - 3001])
def test_keys_may_be_any_integers_of_eight_bytes(base: int) -> None:
    server = bulky()
    server.write_all([(base + key, {"grp": 1}) for key in range(1500)])
    server.write_all([(base + key, {"grp": 1}) for key in range(1500, 3001)])
    story = loaded(server)
    assert gone_in(story, [base, base + 1700, base + 3000]) < 60
    assert gone_in(story, [base + 2999]) < 40


def test_rows_that_change_while_it_is_compared_are_read_not_searched_for() -> None:
    story = loaded(bulky(3000))
    changes = [("write", key, 7) for key in range(5, 2900, 100)]
    assert story.compare(between=[[], [], changes]) is True
    assert story.is_true()
    assert len(story.asked) <= 12


def test_rows_that_come_meanwhile_hide_none_that_went() -> None:
    """As many have come behind the look for others as are gone: the keys alone say nothing."""
    server = bulky(1000)
    server.write_all([(key, {"grp": 1}) for key in range(1100, 2000)])
    story = loaded(server)
    for key in (300, 700, 1500):
        server.write(key, None)
    came = [("write", key, 1) for key in (1020, 1040, 1060)]
    assert story.compare(between=[[], [], came]) is True
    assert {300, 700, 1500}.isdisjoint(story.replica.rows.keys())


def test_most_rows_go_while_what_is_missing_is_searched_for() -> None:
    """Fewer are left then than a page was to pass over, which the server refuses."""
    story = loaded(bulky(3000))
    story.server.write(700, None)
    story.compare(between=[[], [], [("cut", 1, 2900)]])
    story.compare(scan)
    assert story.is_true()


def test_where_much_has_gone_pages_are_compared() -> None:
    server = bulky(1000)
    story = loaded(server)
    for key in range(1, 1000, 9):
        server.write(key, None)
    assert story.compare() is False
    story.compare(scan)
    assert story.is_true()


@pytest.mark.parametrize("step", [8, 40, 200])
def test_where_rows_change_as_fast_as_they_are_counted_pages_are_compared(step: int) -> None:
    """As in a stream of changes all over the table: no count fits what was read before it."""
    story = loaded(bulky(3000))
    stream = [
        [("write", key, n % 5) for key in range(1 + n % step, 2900, step)] for n in range(400)
    ]
    assert story.compare(between=stream) is False
    pages = 3000 // story.paging.rows
    assert len(story.asked) <= pages + 1
    story.compare(scan)
    assert story.is_true()


def test_a_server_that_refuses_the_filter_is_asked_once() -> None:
    server = bulky(200, filters_xmin=False)
    story = loaded(server)
    server.write(7, None)
    story.compare(scan)
    assert 7 not in story.replica.rows
    assert sum("xmin.eq" in str(one.params) for one in story.asked) == 1
    story.asked.clear()
    story.compare(scan)
    assert not any("xmin.eq" in str(one.params) for one in story.asked)


def test_rows_that_were_each_written_alone_are_compared_in_pages() -> None:
    server = bulky(*[1] * 200)
    story = loaded(server)
    assert story.compare() is False
    assert story.asked == [] or len(story.asked) == 1


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 200), st.integers(1, 60)), min_size=1),
    st.sets(st.integers(0, 59)),
    st.integers(1, 200),
)
@settings(deadline=None)
def test_each_row_is_claimed_once_or_is_among_the_others(
    parts: list[tuple[int, int]], holes: set[int], rows: int
) -> None:
    """Over all integers of eight bytes, in whatever order the rows are here."""
    story = Story(bulky(), TableSpec("t"))
    replica = story.replica
    for xmin, (first, count) in enumerate(parts, 100):
        for key in range(first, first + count):
            if key - first not in holes:
                replica.apply([Upsert(key, {"id": key, "grp": None, "rev": None})])
                replica.versions.note(key, xmin)
    if not len(replica.rows):
        return
    runs = Runs(replica, rows)
    claimed = [key for one in runs.ranges for key in one.claimed.tolist()]
    assert sorted([*claimed, *runs.others]) == sorted(replica.rows.keys())
    versions = replica.versions.of(replica.rows.keys())
    for one in runs.ranges:
        said = {
            key: xmin
            for first, last, xmin in one.runs
            for key in range(first, last + 1)
            if key not in set(one.spared.tolist())
        }
        assert said == {key: versions[key] for key in one.claimed.tolist()}
        assert all(one.first is None or key >= one.first for key in said)
        assert all(one.end is None or key < one.end for key in said)
