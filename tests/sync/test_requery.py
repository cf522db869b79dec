"""The laws of a refetched query, on a model server under a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import (
    EndlessTableError,
    MissingColumnError,
    MissingQueryError,
    MissingTableError,
    NotPublishedError,
    QueryKeyError,
    RefusedError,
    ServerError,
)
from notebook_rt.model.inferred import inferred
from notebook_rt.model.rows import RowChange
from notebook_rt.model.spec import QuerySpec
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Cancel,
    Change,
    Closed,
    Confirmed,
    Event,
    Failed,
    Fetch,
    Fetched,
    FetchFailed,
    Gap,
    Joined,
    Lost,
    Page,
    Published,
    Query,
    Received,
    ReceivedMany,
    Refused,
    Tick,
    Wake,
)
from notebook_rt.sync.query.answer import POSITION
from notebook_rt.sync.query.requery import Requery
from notebook_rt.sync.rate import ChangeRate
from tests.sync.model import DictRows

CHANGE = Change("UPDATE", {}, {}, (), None)
OPTIONS = Options(page_size=4, poll_interval=5.0, audit_interval=60.0)


def spec(**given: Any) -> QuerySpec:
    return QuerySpec(**{"table": "totals", "depends_on": (("public", "trades"),), **given})


class World:
    """A server that holds rows, what is on its way, and a driver of one query."""

    def __init__(self, asked: QuerySpec, options: Options = OPTIONS, cap: int = 1_000) -> None:
        self.spec = asked
        self.cap = cap
        self.rows: list[dict[str, Any]] = []
        self.value: Any = None
        self.now = 0.0
        self.wake_at: float | None = None
        self.waiting: dict[int, Query] = {}
        self.asked_at: dict[int, int] = {}
        """How many events had been told when a request was sent."""
        self.told = 0
        self.requests = 0
        self.causes: list[str] = []
        self.changes: list[RowChange] = []
        self.error: Exception | None = None
        self.missing_view = False
        self.machine = Requery(asked, DictRows, options, ChangeRate(None))
        self.machine.want_changes = True
        self.feed(Tick())

    def feed(self, event: Event) -> None:
        if isinstance(event, (Received, ReceivedMany, Gap, Confirmed, Lost)):
            self.told += 1
        self.wake_at = None
        for effect in self.machine.handle(event, self.now):
            match effect:
                case Fetch(request, query):
                    self.waiting[request] = query
                    self.requests += not (query.describe or query.refusable)
                case Cancel(request):
                    self.waiting.pop(request, None)
                case Wake(at):
                    self.wake_at = at
                case Published(cause, changes):
                    self.causes.append(cause)
                    self.changes += changes
                case Failed(error):
                    self.error = error
                case _:
                    pass
        reads = [query for query in self.waiting.values() if not query.refusable]
        assert len(reads) <= 1, "never more than one read is under way"

    def answer(self) -> None:
        for request, query in list(self.waiting.items()):
            del self.waiting[request]
            if self.missing_view and query.rpc is None and not query.describe:
                error = MissingTableError("public", "totals", "")
                self.feed(FetchFailed(request, error, None))
                continue
            if query.refusable:
                self.feed(Fetched(request, Page((), None, 0.0, refusal=self.type_of(query))))
                continue
            scalar = self.value is not None
            rows = () if scalar or query.describe else self.select(query)
            self.feed(Fetched(request, Page(rows, None, 0.0, self.value, scalar)))

    def type_of(self, query: Query) -> Exception | None:
        """How a comparison that asks for a column's type is refused."""
        name = query.params[0][1]
        pg_type = inferred(row.get(name) for row in self.rows)
        if pg_type in (None, "text"):
            return None
        said = f'invalid input syntax for type {pg_type}: "x"'
        return RefusedError("GET /totals", 400, "22P02", said)

    def select(self, query: Query) -> list[dict[str, Any]]:
        asked = dict(query.params)
        rows = list(self.rows)
        if "order" in asked:
            names = [term.partition(".")[0] for term in asked["order"].split(",")]
            rows.sort(key=lambda row: [row[name] for name in names])
        if asked.get("id", "").startswith("gt."):
            rows = [row for row in rows if row["id"] > int(asked["id"][3:])]
        start = int(asked.get("offset", 0))
        return rows[start : start + min(int(asked["limit"]), self.cap)]

    def fail(self, error: Exception, retry_after: float | None) -> None:
        for request in list(self.waiting):
            del self.waiting[request]
            self.feed(FetchFailed(request, error, retry_after))

    def wait(self, seconds: float) -> None:
        """Let time pass; nobody answers meanwhile."""
        end = self.now + seconds
        while self.wake_at is not None and self.wake_at <= end:
            self.now = max(self.now, self.wake_at)
            self.feed(Tick())
        self.now = end

    def settle(self, seconds: float = 40.0) -> None:
        """Let time pass; everything is answered at once."""
        end = self.now + seconds
        self.answer_all()
        while self.wake_at is not None and self.wake_at <= end:
            self.now = max(self.now, self.wake_at)
            self.feed(Tick())
            self.answer_all()
        self.now = end

    def answer_all(self) -> None:
        while self.waiting:
            self.answer()

    def live(self) -> World:
        self.answer_all()
        self.feed(Joined())
        self.feed(Confirmed())
        self.answer_all()
        assert self.machine.status == "live"
        return self

    @property
    def shown(self) -> list[dict[str, Any]]:
        rows = self.machine.rows
        assert rows is not None
        found = [rows.get(key) or {} for key in list(rows.keys())]
        return [{n: v for n, v in row.items() if n != POSITION} for row in found]


def ids(*values: int) -> list[dict[str, Any]]:
    return [{"id": value, "name": f"row {value}"} for value in values]


STEPS: dict[str, Callable[[World], None]] = {
    "answer": World.answer,
    "a change": lambda w: w.feed(Received(CHANGE)),
    "changes": lambda w: w.feed(ReceivedMany([CHANGE, CHANGE])),
    "a moment": lambda w: w.wait(0.1),
    "a while": lambda w: w.wait(7.0),
    "it fails": lambda w: w.fail(ServerError("x", 500), 1.0),
    "it refuses": lambda w: w.fail(RefusedError("x", 400), None),
    "gap": lambda w: w.feed(Gap("?")),
    "joined": lambda w: w.feed(Joined()),
    "confirmed": lambda w: w.feed(Confirmed()),
    "lost": lambda w: w.feed(Lost("the socket is gone")),
}


@given(
    st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 12)), max_size=40),
    st.booleans(),
    st.integers(1, 6),
)
def test_whatever_happens_an_answer_asked_for_after_the_last_change_is_shown(
    steps: list[tuple[str, int]], keyed: bool, cap: int
) -> None:
    world = World(spec(key=("id",) if keyed else None), cap=cap)
    world.rows = ids(1)
    world.live()
    for step, size in steps:
        if step in ("a change", "changes", "gap", "lost", "confirmed"):
            # What is told was committed before; committed and not told is the audit's to find.
            world.rows = ids(*range(size), 100 + world.told)
        STEPS[step](world)
    world.feed(Joined())
    world.feed(Confirmed())
    last = world.now
    world.settle()
    assert sorted(map(repr, world.shown)) == sorted(map(repr, world.rows))
    assert world.machine.status == "live"
    assert world.now - last == pytest.approx(40)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_the_changes_told_lead_from_each_answer_to_the_next(answers: list[int]) -> None:
    """Rows without a key: as many of each as there are, whatever their order."""
    world = World(spec(), Options(page_size=1_000)).live()
    counted: Counter[str] = Counter()
    for step, _ in enumerate(answers):
        world.rows = [{"a": value} for value in answers[step:]]
        world.changes.clear()
        world.feed(Received(CHANGE))
        world.settle(5)
        for change in world.changes:
            counted[repr(change.old)] -= change.old is not None
            counted[repr(change.new)] += change.new is not None
        assert +counted == Counter(map(repr, world.rows))
        assert world.shown == world.rows


def test_a_thousand_quick_changes_cost_few_requests_and_the_last_is_seen() -> None:
    world = World(spec(key=("id",))).live()
    before = world.requests
    for number in range(1_000):
        world.rows = ids(number)
        world.feed(Received(CHANGE))
        world.wait(0.001)
        world.answer_all()
    world.settle(2)
    assert world.shown == ids(999)
    assert world.requests - before <= 2 * 6  # one each debounce, each looked behind at most once


def test_changes_without_end_do_not_starve_it() -> None:
    world = World(spec(key=("id",))).live()
    for number in range(100):
        world.rows = ids(number)
        world.feed(Received(CHANGE))
        world.wait(0.1)
        world.answer_all()
    assert world.shown[0]["id"] > 90


def test_a_slow_answer_is_asked_for_at_most_half_of_the_time() -> None:
    world = World(spec(key=("id",))).live()
    asked: list[float] = []
    since = 0.0
    for number in range(400):
        world.rows = ids(number)
        world.feed(Received(CHANGE))
        world.wait(0.1)
        if world.waiting and not since:
            since = world.now
            asked.append(since)
        if world.waiting and world.now - since >= 3:
            world.answer_all()
            since = 0.0
    assert 6 <= len(asked) <= 7  # forty seconds: three of asking, three of rest


def test_a_failure_keeps_the_rows_says_stale_and_tries_again_ever_less_often() -> None:
    world = World(spec(key=("id",)))
    world.rows = ids(1, 2)
    world.live()
    world.feed(Received(CHANGE))
    times: list[float] = []
    for _ in range(5):
        while not world.waiting:
            world.wait(0.5)
        times.append(world.now)
        world.fail(RefusedError("it raises", 400), None)
        assert world.machine.status == "stale"
        assert world.shown == ids(1, 2)
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == sorted(pauses)
    assert 5 <= pauses[0] <= pauses[-1] <= 31
    world.rows = ids(3)
    world.settle()
    assert world.machine.status == "live"
    assert world.shown == ids(3)


def test_while_the_socket_is_down_it_polls_slower_while_nothing_changes() -> None:
    world = World(spec(key=("id",))).live()
    world.feed(Lost("the socket is gone"))
    world.answer_all()
    assert world.machine.status == "polling"
    before = world.requests
    world.settle(60)
    assert 3 <= world.requests - before <= 6
    world.rows = ids(7)
    world.settle(31)
    assert world.shown == ids(7)
    assert world.causes[-1] == "poll"


def test_events_lost_silently_are_found_by_the_audit() -> None:
    world = World(spec(key=("id",))).live()
    world.rows = ids(7)
    world.settle(61)
    assert world.shown == ids(7)
    assert world.causes[-1] == "audit"


def test_with_no_dependency_it_is_polled() -> None:
    world = World(spec(depends_on=(), key=("id",)))
    world.rows = ids(1)
    world.answer_all()
    assert world.machine.status == "polling"
    world.rows = ids(2)
    world.settle(6)
    assert world.shown == ids(2)


def test_nothing_is_read_before_changes_flow_but_not_forever() -> None:
    world = World(spec())
    world.answer_all()
    assert world.requests == 0
    world.settle(6)
    assert world.machine.status == "polling"


def test_the_same_answer_is_no_change() -> None:
    world = World(spec(key=("id",)))
    world.rows = ids(1)
    world.live()
    for _ in range(3):
        world.feed(Received(CHANGE))
        world.settle(2)
    assert world.causes == ["snapshot"]


def test_the_order_of_the_server_is_kept() -> None:
    world = World(spec(key=("id",)))
    world.rows = ids(3, 1, 2)
    world.live()
    assert world.shown == ids(3, 1, 2)
    world.rows = ids(1, 3, 2)
    world.feed(Received(CHANGE))
    world.settle(2)
    assert world.shown == ids(1, 3, 2)
    assert world.changes == []


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("cap", [1, 3, 4, 100])
@pytest.mark.parametrize("limit", [None, 10])
def test_an_answer_longer_than_a_page_is_whole_however_the_server_cuts(
    key: tuple[str, ...] | None, cap: int, limit: int | None
) -> None:
    world = World(spec(key=key, limit=limit), cap=cap)
    world.rows = ids(*range(13, 0, -1))
    world.live()
    assert world.shown == ids(*range(1, 14))[:limit]
    world.rows = ids(5)
    world.feed(Received(CHANGE))
    world.settle(2)
    assert world.shown == ids(5)


@pytest.mark.parametrize("key", [("id",), None])
@pytest.mark.parametrize("cap", [4, 1_000])
def test_an_answer_of_more_than_max_rows_is_an_error(key: tuple[str, ...] | None, cap: int) -> None:
    options = replace(OPTIONS, max_rows=20)
    world = World(spec(key=key), options, cap)
    world.rows = ids(*range(1, 21))
    world.live()
    assert world.shown == ids(*range(1, 21))

    world = World(spec(key=key), options, cap)
    world.rows = ids(*range(1, 200))
    world.settle()
    assert isinstance(world.error, EndlessTableError)
    assert "Options.max_rows" in str(world.error)
    assert world.requests < 12


def test_a_change_between_two_pages_reads_them_again() -> None:
    world = World(spec(key=("id",)))
    world.rows = ids(*range(10))
    world.live()
    world.feed(Received(CHANGE))
    world.wait(1)
    world.answer()
    world.rows = ids(*range(2, 13))
    world.feed(Received(CHANGE))
    world.answer_all()
    assert world.shown == ids(*range(2, 13))


def failing(asked: QuerySpec, rows: Sequence[Any], event: Event | None = None) -> Exception | None:
    world = World(asked)
    world.rows = list(rows)
    world.answer_all()
    world.feed(event or Confirmed())
    world.answer_all()
    return world.error


def test_what_cannot_be_shown_is_refused_by_name() -> None:
    assert isinstance(failing(spec(key=("id",)), ids(1, 1)), QueryKeyError)
    assert isinstance(failing(spec(key=("key",)), ids(1)), MissingColumnError)
    nested = [{"id": n, "what": {"json": n}} for n in range(9)]
    assert isinstance(failing(spec(), nested), QueryKeyError)
    unpublished = NotPublishedError("public", "trades")
    assert failing(spec(), [], Refused(unpublished, True)) is unpublished


def test_a_name_that_is_no_view_is_tried_as_a_function() -> None:
    world = World(spec())
    world.missing_view = True
    world.rows = ids(1)
    world.live()
    assert world.shown == ids(1)


def test_neither_view_nor_function_is_said() -> None:
    world = World(spec(args="{}"))
    world.answer_all()
    world.feed(Confirmed())
    world.fail(MissingTableError("public", "totals", "perhaps total"), None)
    assert isinstance(world.error, MissingQueryError)
    assert "perhaps total" in str(world.error)


@pytest.mark.parametrize("value", [42, "text", [1, 2], {"a": 1}, False])
def test_a_scalar_is_one_row(value: Any) -> None:
    world = World(spec(args="{}"))
    if isinstance(value, list):
        world.rows = value
    else:
        world.value = value
    world.live()
    wanted = [value] if not isinstance(value, list) else value
    assert world.shown == [v if isinstance(v, dict) else {"totals": v} for v in wanted]


def test_closed_it_asks_for_nothing() -> None:
    world = World(spec()).live()
    world.feed(Received(CHANGE))
    world.feed(Closed())
    before = world.requests
    world.feed(Received(CHANGE))
    world.settle()
    assert world.requests == before
    assert world.machine.status == "closed"


MOMENTS = ("2024-01-02", "2024-01-02T03:04:05", "2024-01-02T03:04:05.25+00:00", "2024-01-02x")
JSON: st.SearchStrategy[Any] = st.sampled_from([None, True, 1, 2**70, 1.5, "a", {}, [1], *MOMENTS])


@given(st.lists(JSON), st.lists(JSON))
def test_a_type_only_widens_and_does_not_depend_on_the_order(a: list[Any], b: list[Any]) -> None:
    both = inferred(a + b)
    assert inferred(b, inferred(a)) == both == inferred(b + a)
    assert inferred(a, both) == both
