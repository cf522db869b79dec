"""Pages requested several at a time are the pages of the table: each row once, in the key's order."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import (
    AnswerTooLargeError,
    RateLimitedError,
    RefusedError,
    StatementTimeoutError,
)
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Confirmed,
    Effect,
    Fetch,
    Fetched,
    FetchFailed,
    Joined,
    Page,
    Query,
    Shown,
    Tick,
)
from notebook_rt.sync.rate import ChangeRate
from notebook_rt.sync.table.flows import Flows, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon, Read
from notebook_rt.sync.table.mirror import Mirror
from notebook_rt.sync.table.numbers import from_number, number
from notebook_rt.sync.table.queries import Reads
from notebook_rt.sync.table.ranges import AHEAD_PAGES, SMALLEST
from notebook_rt.sync.table.reading import Beginning, Paging, each_page
from notebook_rt.sync.table.uniform import LEAST
from tests.sync.model import DictRows
from tests.sync.simulation import Server, World


@dataclass
class Reading:
    """One read of a whole table from a server that answers in any order."""

    server: Server
    size: int
    at_once: int = 8
    chance: random.Random = field(default_factory=random.Random)
    fails: Callable[[Fetch], Exception | None] = lambda fetch: None
    rows: list[Any] = field(default_factory=list)
    meanwhile: Callable[[Server], None] = lambda server: None
    """What happens on the server between two answers."""
    together: bool = False
    """All that is under way is answered at the same moment: a round trip."""
    beginning: Beginning | None = None
    requests: int = 0
    round_trips: int = 0
    most_at_once: int = 0
    most_waiting: int = 0
    error: Exception | None = None

    def run(self) -> Reading:
        """Read it all; each request is answered at a moment of its own."""
        out: list[Fetch] = []

        def emit(effect: Effect) -> None:
            if isinstance(effect, Fetch):
                out.append(effect)

        horizon = Horizon(Options())
        flows = Flows(horizon, emit)
        known = self.server.known
        reads = Reads(TableSpec("t"), known, self.size)
        self.received = 0

        def take(read: Read) -> Callable[[], None]:
            return partial(put, read)

        def put(read: Read) -> None:
            self.rows += known.keys_of(read.page.rows)

        def flow() -> Any:
            try:
                paging = Paging(self.size, self.at_once)
                yield from each_page(reads, paging, take, beginning=self.beginning)
            except ReadRefusedError as refused:
                self.error = refused.error

        due = 0
        flows.start("load", flow(), 0.0)
        while out or flows:
            if not out:  # all wait to be tried again
                assert flows.wake_at is not None, "it waits for nothing"
                horizon.now = flows.wake_at
                flows.tick(horizon.now)
                continue
            self.most_at_once = max(self.most_at_once, len(out))
            if not self.together:
                fetch = out.pop(self.chance.randrange(len(out)))
            else:
                due = due or len(out)
                fetch, due = out.pop(0), due - 1
                self.round_trips += not due
            self.requests += 1
            self.meanwhile(self.server)
            horizon.now += 0.01
            failure = self.fails(fetch)
            if failure is not None:
                wait = getattr(failure, "retry_after", None) or 1.0
                flows.failed(FetchFailed(fetch.request, failure, wait), horizon.now)
                continue
            page: Page = self.server.select(fetch.query)
            self.received += len(page.rows) if len(page.rows) > 1 or self.size == 1 else 0
            self.most_waiting = max(self.most_waiting, self.received - len(self.rows))
            flows.fetched(Fetched(fetch.request, page))
        return self


def table(types: dict[str, str], keys: Iterable[Any], max_rows: int = 1000, **more: Any) -> Server:
    one = Server(types, tuple(types), max_rows=max_rows, **more)
    for key in keys:
        one.write(key, {})
    return one


INT8 = st.integers(-(2**63), 2**63 - 1)
NEAR = st.integers(-300, 300)
UUIDS = st.uuids().map(str)
WORDS = st.text(st.characters(min_codepoint=97, max_codepoint=122), max_size=4)
MOMENTS = st.integers(0, 90).map(
    lambda n: (dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + n * dt.timedelta(minutes=7)).isoformat()
)
DAYS = st.integers(0, 5).map(lambda n: str(dt.date(2026, 1, 30) + n * dt.timedelta(days=1)))
TABLES = {
    "dense": ({"id": "int8"}, NEAR),
    "anywhere": ({"id": "int8"}, INT8),
    "in two places": ({"id": "int8"}, NEAR | INT8.filter(lambda n: n > 2**62)),
    "uuid": ({"id": "uuid"}, UUIDS),
    "text": ({"id": "text"}, WORDS),
    "runs of the first": (
        {"a": "int4", "b": "int8"},
        st.builds(lambda n: (n // 9, n), st.integers(0, 150)),
    ),
    "few of the first": ({"a": "int4", "b": "int8"}, st.tuples(st.integers(0, 2), NEAR)),
    "one of the first": ({"a": "int4", "b": "int8"}, st.tuples(st.just(7), NEAR)),
    "many of the first": ({"a": "int8", "b": "text"}, st.tuples(NEAR, WORDS)),
    "text first": ({"a": "text", "b": "int8"}, st.tuples(WORDS, NEAR)),
    "few texts first": ({"a": "text", "b": "int8"}, st.tuples(st.sampled_from("xyz"), NEAR)),
    "sensors": ({"a": "int4", "b": "timestamptz"}, st.tuples(st.integers(0, 3), MOMENTS)),
    "days": ({"a": "date", "b": "int4"}, st.tuples(DAYS, st.integers(0, 40))),
    "tenants far apart": (
        {"a": "uuid", "b": "int8"},
        st.tuples(st.sampled_from([str(uuid.UUID(int=7**n)) for n in (9, 40, 45)]), NEAR),
    ),
    "one long run among short ones": (
        {"a": "int8", "b": "int8"},
        st.builds(lambda n: (n if n % 3 else 9, n), st.integers(-90, 90)),
    ),
    "at the end of its numbers": (
        {"a": "int2", "b": "int8"},
        st.tuples(st.sampled_from([-(2**15), 2**15 - 2, 2**15 - 1]), NEAR),
    ),
    "three columns": (
        {"a": "int4", "b": "text", "c": "int8"},
        st.tuples(st.integers(0, 1), st.sampled_from("xy"), NEAR),
    ),
    "three numbers": (
        {"a": "int4", "b": "int4", "c": "int8"},
        st.tuples(st.integers(0, 1), st.integers(0, 2), NEAR),
    ),
}
TEXTS = ("text", "text first", "few texts first", "three columns")
"""Tables whose bounds are looked for: two looks are two statements, between which rows may move."""


@pytest.mark.parametrize("name", TABLES)
@given(data=st.data())
def test_each_row_comes_once_and_in_order_whatever_the_keys(name: str, data: st.DataObject) -> None:
    types, keys = TABLES[name]
    some = data.draw(st.sets(keys, max_size=70))
    size, at_once = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    planner = data.draw(st.sampled_from([0.0, 0.3, 1.0, 5.0]))
    one = table(types, some, max_rows=data.draw(st.integers(1, 12)), planner=planner)
    read = Reading(one, size, at_once, random.Random(data.draw(st.integers(0, 99)))).run()
    assert read.rows == as_read(one, some)
    assert read.most_at_once <= at_once


@given(data=st.data())
def test_runs_that_seem_alike_are_read_whole_whatever_they_are(data: st.DataObject) -> None:
    """Sensors that measure at the same times, but for some that are others; bounds are told for all."""
    sensors, moments = data.draw(st.integers(2, 12)), data.draw(st.integers(20, 120))
    start, step = data.draw(st.integers(-300, 300)), data.draw(st.integers(1, 9))
    keys = {(a, start + step * b) for a in range(sensors) for b in range(moments)}
    for a in data.draw(st.sets(st.integers(1, sensors), max_size=4)):
        match data.draw(st.sampled_from(["gone", "half", "long", "one", "elsewhere"])):
            case "gone":
                keys = {key for key in keys if key[0] != a}
            case "half":
                keys = {key for key in keys if key[0] != a or key[1] % 2}
            case "long":
                keys |= {(a, start + step * b) for b in range(-moments, 4 * moments)}
            case "one":
                keys = {key for key in keys if key[0] != a} | {(a, start)}
            case _:
                keys = {(x, y + 9_999 * (x == a)) for x, y in keys}
    types = {"a": "int4", "b": data.draw(st.sampled_from(["int4", "int8"]))}
    one = table(types, keys, max_rows=data.draw(st.integers(LEAST, 60)))
    read = Reading(
        one, 60, data.draw(st.integers(2, 9)), random.Random(data.draw(st.integers(0, 99)))
    )
    assert read.run().rows == as_read(one, keys)


@pytest.mark.parametrize("sensors", [20, 60, 150])
def test_pages_that_go_over_the_end_of_a_run_are_told_beforehand(sensors: int) -> None:
    """100 pages of 60 rows, from 0.7 to 5 pages a sensor: hardly a page is short."""
    start, types = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), {"a": "int4", "b": "timestamptz"}
    seconds = [(n % sensors, start + n * dt.timedelta(seconds=1)) for n in range(6_000)]
    keys = [(sensor, moment.isoformat()) for sensor, moment in seconds]
    one = table(types, keys, max_rows=60)
    read = Reading(one, 60, 8, together=True).run()
    assert read.rows == as_read(one, keys)
    assert read.requests <= 107
    assert read.round_trips <= 15


def as_read(one: Server, keys: Iterable[Any]) -> list[Any]:
    """The keys in their order, as a load has them."""
    wire = [dict(zip(one.key, k if isinstance(k, tuple) else (k,), strict=True)) for k in keys]
    found: list[Any] = one.known.keys_of(wire)
    return sorted(found)


@pytest.mark.parametrize("name", [name for name in TABLES if name not in TEXTS])
@given(data=st.data())
def test_whatever_comes_and_goes_meanwhile_nothing_that_stays_is_missed_and_nothing_comes_twice(
    name: str, data: st.DataObject
) -> None:
    """Ranges share no key and leave none out, whatever was guessed when they were cut."""
    types, keys = TABLES[name]
    every = sorted(data.draw(st.sets(keys, max_size=70)))  # type: ignore[type-var]  # of one kind
    chance = random.Random(data.draw(st.integers(0, 99)))
    roles = [chance.choice(["stays", "goes", "comes"]) for _ in every]
    stay = [key for key, role in zip(every, roles, strict=True) if role == "stays"]
    moves = [(key, role) for key, role in zip(every, roles, strict=True) if role != "stays"]
    chance.shuffle(moves)

    def meanwhile(server: Server) -> None:
        for _ in range(min(len(moves), chance.randrange(4))):
            key, role = moves.pop()
            server.write(key, {} if role == "comes" else None)

    there = [key for key, role in zip(every, roles, strict=True) if role != "comes"]
    one = table(types, there, max_rows=data.draw(st.integers(1, 12)))
    size, at_once = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    read = Reading(one, size, at_once, chance, meanwhile=meanwhile).run()
    assert read.rows == sorted(set(read.rows)), "each once, and in order"
    assert set(as_read(one, stay)) <= set(read.rows) <= set(as_read(one, every))


@given(
    keys=st.sets(NEAR, max_size=200),
    seed=st.integers(0, 999),
    share=st.sampled_from([0.1, 0.5]),
    kind=st.sampled_from([StatementTimeoutError, RateLimitedError, AnswerTooLargeError]),
)
def test_a_server_that_has_had_enough_is_asked_for_less_and_gives_all(
    keys: set[int], seed: int, share: float, kind: type[Exception]
) -> None:
    """A statement over the time limit succeeds when it asks for fewer rows."""
    chance = random.Random(seed)

    def fails(fetch: Fetch) -> Exception | None:
        limit = int(dict(fetch.query.params)["limit"])
        if limit > SMALLEST and chance.random() < share:
            return kind("GET t") if kind is RateLimitedError else kind("GET t", 500)
        return None

    read = Reading(table({"id": "int8"}, keys), 40, chance=chance, fails=fails).run()
    assert read.error is None
    assert read.rows == sorted(keys)


def test_an_answer_too_large_for_the_fewest_rows_is_an_error_after_few_requests() -> None:
    def fails(fetch: Fetch) -> Exception | None:
        return AnswerTooLargeError("GET t", 500)

    read = Reading(table({"id": "int8"}, range(100)), 40, fails=fails).run()
    assert isinstance(read.error, AnswerTooLargeError)
    assert read.requests < 5


def test_a_statement_that_takes_too_long_for_the_fewest_rows_is_an_error_not_an_endless_read() -> (
    None
):
    def fails(fetch: Fetch) -> Exception | None:
        return StatementTimeoutError("GET t", 500)

    read = Reading(table({"id": "int8"}, range(100)), 40, fails=fails).run()
    assert isinstance(read.error, StatementTimeoutError)
    assert read.requests < 10


def spread(kind: str, count: int) -> Sequence[Any]:
    chance = random.Random(count)
    match kind:
        case "serial":
            return range(1, count + 1)
        case "a third deleted":
            return chance.sample(range(count * 3 // 2), count)
        case "uuid":
            return [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(count)]
        case "far apart":
            return [n * n * n for n in range(count)]
        case "text":
            return [f"item-{n:06}" for n in range(count)]
        case "runs of the first":
            return [(n // 37, n) for n in range(count)]
        case "one of the first":
            return [(7, n) for n in range(count)]
        case _:
            return [(n % 60, n // 60) for n in range(count)]


SHAPES: dict[str, tuple[dict[str, str], float]] = {
    "serial": ({"id": "int8"}, 1.25),
    "a third deleted": ({"id": "int8"}, 1.5),
    "uuid": ({"id": "uuid"}, 1.75),
    "far apart": ({"id": "int8"}, 2.0),
    "text": ({"id": "text"}, 1.5),
    "sixty of the first": ({"a": "int4", "b": "int8"}, 2.0),
    "runs of the first": ({"a": "int4", "b": "int8"}, 2.0),
    "one of the first": ({"a": "int4", "b": "int8"}, 2.0),
}
"""Shapes of tables, and how many times the pages that there are may be asked for."""


def even(shape: str, count: int) -> tuple[dict[str, str], list[Any]]:
    """A table of so many rows, as a log of measurements or of one customer has them."""
    start, types = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), {"a": "int4", "b": "timestamptz"}
    moments = [(start + n * dt.timedelta(seconds=1)).isoformat() for n in range(count)]
    match shape:
        case "id":
            return {"id": "int8"}, list(range(count))
        case "sixty sensors":
            return types, [(n % 60, moment) for n, moment in enumerate(moments)]
        case "twelve sensors":
            return types, [(n % 12, moment) for n, moment in enumerate(moments)]
        case "one sensor":
            return types, [(7, moment) for moment in moments]
        case "texts first":
            return {"a": "text", "b": "int8"}, [(f"symbol {n % 30:02}", n) for n in range(count)]
        case "uuids first":
            tenants = [str(uuid.UUID(int=(n + 1) * 7**42)) for n in range(40)]
            return {"a": "uuid", "b": "int8"}, [(tenants[n % 40], n) for n in range(count)]
        case "three columns":
            types = {"a": "int4", "b": "int4", "c": "int8"}
            return types, [(n % 5, n % 9, n) for n in range(count)]
        case "uneven":  # each sensor has half as many rows as the one before it
            return types, [(min(n & -n, 2**9), moment) for n, moment in enumerate(moments, 1)]
        case "one large":
            large = {n: 3 if n % 5 else n % 400 for n in range(count)}
            return types, [(large[n], moment) for n, moment in enumerate(moments)]
        case "skewed":  # most rows are of a few sensors, and all of them of the same days
            chance = random.Random(count)
            sensors = [min(int(chance.paretovariate(0.7)), 300) for _ in range(count)]
            return types, list(zip(sensors, moments, strict=True))
        case "numbers far apart":
            return types, [((n % 60) ** 2 * 37, moment) for n, moment in enumerate(moments)]
        case "numbers of their own":  # each tenant counts its rows, and one in ten has many
            sizes = [250 if tenant % 10 == 4 else 11 for tenant in range(count // 35)]
            keys = [(tenant, n) for tenant, size in enumerate(sizes) for n in range(size)]
            return {"a": "int4", "b": "int8"}, keys
        case "mostly small":
            return types, [(n // 4, moment) for n, moment in enumerate(moments)]
        case _:
            return {"a": "text", "b": "int8"}, [("acme", n) for n in range(count)]


LOADS = [
    ("id", 1_200, 201, 26),
    ("sixty sensors", 300, 53, 9),
    ("sixty sensors", 1_200, 218, 29),
    ("twelve sensors", 1_200, 206, 27),
    ("one sensor", 1_200, 203, 27),
    ("one tenant", 1_200, 202, 29),
    ("texts first", 1_200, 239, 32),
    ("uuids first", 1_200, 259, 34),
    ("three columns", 1_200, 233, 34),
    ("uneven", 1_200, 225, 29),
    ("one large", 1_200, 268, 41),
    ("mostly small", 1_200, 217, 30),
    ("skewed", 1_200, 324, 46),
    ("numbers far apart", 1_200, 259, 36),
    ("numbers of their own", 1_200, 210, 31),
]
"""Shapes of tables, six rows to a page: the most requests, and the most round trips of eight."""


@pytest.mark.parametrize("shape", ["sixty sensors", "twelve sensors", "one sensor", "one tenant"])
def test_a_key_of_two_columns_takes_little_more_round_trips_than_one_of_one(shape: str) -> None:
    """Runs of 3, of 17 pages and one of all of them, eight requests at a time."""
    trips = {}
    for name in ("id", shape):
        types, keys = even(name, 1_200)
        one = table(types, keys, max_rows=6)
        read = Reading(one, 6, 8, together=True).run()
        assert read.rows == as_read(one, keys)
        trips[name] = read.round_trips
        if name == "id":
            assert read.requests <= 200 + 2, "the last page is full, so one that is empty follows"
    assert trips["id"] <= 1 + 200 / 8
    assert trips[shape] <= 1.2 * trips["id"]


@pytest.mark.parametrize(("shape", "count", "requests", "trips"), LOADS)
def test_a_load_of_any_shape_takes_few_requests_and_few_round_trips(
    shape: str, count: int, requests: int, trips: int
) -> None:
    types, keys = even(shape, count)
    one = table(types, keys, max_rows=6)
    read = Reading(one, 6, 8, together=True).run()
    assert read.rows == as_read(one, keys)
    assert read.requests <= requests
    assert read.round_trips <= trips


def test_a_page_within_short_runs_passes_over_rows_and_is_not_sorted() -> None:
    """PostgreSQL makes a bitmap of ``a > x or (a = x and b > y)``, which it sorts for each page; beside
    ``a >= x`` it says no more than ``a > x or b > y``, which is read in the index's order.
    """
    types, keys = even("sixty sensors", 1_200)
    one, asked = table(types, keys, max_rows=6), list[str]()
    select = one.select

    def select_and_note(query: Query) -> Page:
        asked.extend(text for name, text in query.params if name == "or")
        return select(query)

    one.select = select_and_note  # type: ignore[method-assign]  # only to see what is asked
    assert Reading(one, 6, 8, together=True).run().rows == as_read(one, keys)
    assert asked
    assert not [text for text in asked if "and(" in text]


@pytest.mark.parametrize("shape", SHAPES)
def test_few_requests_are_wasted_and_most_are_under_way_together(shape: str) -> None:
    types, factor = SHAPES[shape]
    keys = spread(shape, 800)
    one = table(types, keys, max_rows=10)
    read = Reading(one, 10, 8, random.Random(1)).run()
    assert read.rows == sorted(keys)
    assert read.requests <= factor * 80 + 16
    assert read.most_at_once == 8


def test_one_page_that_does_not_come_holds_back_the_others() -> None:
    """Its rows wait for it in memory; so the rest is not asked for meanwhile."""
    first: list[int] = []

    def fails(fetch: Fetch) -> Exception | None:
        if dict(fetch.query.params).get("id") == "gt.25":
            first.append(fetch.request)
            if len(first) < 3:
                return ConnectionError("lost")
        return None

    one = table({"id": "int8"}, range(1, 5_001), max_rows=25)
    read = Reading(one, 25, 8, random.Random(1), fails=fails).run()
    assert read.rows == list(range(1, 5_001))
    assert len(first) == 3
    assert read.most_waiting <= (AHEAD_PAGES + 2 * 8) * 25


@given(st.sampled_from(["int8", "uuid", "timestamptz", "timestamp", "date"]), st.data())
def test_numbers_and_values_are_each_others_inverse_and_sort_alike(
    pg_type: str, data: st.DataObject
) -> None:
    values: dict[str, st.SearchStrategy[Any]] = {
        "int8": INT8,
        "uuid": UUIDS,
        "timestamptz": st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1)).map(
            lambda moment: moment.replace(tzinfo=dt.UTC)
        ),
        "timestamp": st.datetimes(),
        "date": st.dates(),
    }
    one, two = data.draw(values[pg_type]), data.draw(values[pg_type])
    first, second = number(one), number(two)
    assert first is not None
    assert second is not None
    assert from_number(pg_type, first) == one
    assert (first < second) == (one < two)


@pytest.mark.parametrize("seed", range(8))
def test_rows_that_come_between_two_looks_do_not_put_the_key_in_doubt(seed: int) -> None:
    """Looks are statements of their own: what is inserted between them puts their bounds out of order."""
    one = Server({"id": "text", "note": "text"}, max_rows=10)
    for n in range(300):
        one.write(f"m{n:04}", {})
    select, looks = one.select, []

    def select_and_insert(query: Query) -> Page:
        page = select(query)
        if "offset" in dict(query.params) and not looks:
            looks.append(query)
            for n in range(200):
                one.write(f"m0010{n:04}", {})
        return page

    one.select = select_and_insert  # type: ignore[method-assign]  # a server with a busy writer
    options = Options(page_size=10, audit_interval=0)
    world = World(TableSpec("t"), one, seed=seed, options=options)
    world.connect()
    world.settle(30)
    assert looks, "the way that is tried here"
    assert world.failed is None
    assert world.differences == {}


def asked_in_turns(describes: str, rows: int, latency: float = 0.05) -> list[list[Query]]:
    """What a mirror asks until it shows its first rows, by round trip, over a link of one length."""
    one = Server({"id": "int8", "note": "text"}, describes=describes, max_rows=10)  # type: ignore[arg-type]
    for n in range(rows):
        one.write(n, {})
    mirror = Mirror(
        TableSpec("t"), DictRows, Options(page_size=10, audit_interval=0), ChangeRate(None)
    )
    effects = [*mirror.handle(Tick(), 0.0), *mirror.handle(Joined(), 0.0)]
    effects += mirror.handle(Confirmed(), 0.0)
    turns: list[list[Query]] = []
    while not any(isinstance(effect, Shown) for effect in effects):
        fetches = [effect for effect in effects if isinstance(effect, Fetch)]
        turns.append([fetch.query for fetch in fetches])
        effects = []
        for fetch in fetches:
            try:
                page = one.select(fetch.query)
            except RefusedError as refusal:
                page = Page((), None, 0.0, refusal=refusal)
            effects += mirror.handle(Fetched(fetch.request, page), len(turns) * latency)
    return turns


@pytest.mark.parametrize(("describes", "learning"), [("by SQL", 1), ("by the API", 1), ("not", 2)])
def test_what_the_next_step_needs_is_asked_for_beside_each_question(
    describes: str, learning: int
) -> None:
    """The description and some rows; the key, the types and the first keys; then eight pages at once."""
    turns = asked_in_turns(describes, 400)
    assert [bool(query.describe) for query in turns[0]] == [True, False]
    if describes == "not":
        assert {len(query.proves) for query in turns[1]} == {0, 1}
        assert len(turns[2]) == 8, "all requests that may be under way are of rows at once"
        assert sum(map(len, turns[2:])) <= 40 + 2
    assert len(turns) <= learning + 40 // 8 + 1


def test_a_small_table_is_shown_after_as_many_round_trips_as_it_takes_to_know_it_and_one() -> None:
    assert len(asked_in_turns("by SQL", 5)) == 2
    assert len(asked_in_turns("not", 5)) == 3


@given(
    before=st.sets(NEAR, min_size=12, max_size=120),
    after=st.sets(NEAR, max_size=120),
    seed=st.integers(0, 99),
)
def test_keys_that_were_read_before_show_where_to_cut_and_are_believed_in_nothing_else(
    before: set[int], after: set[int], seed: int
) -> None:
    """The table may be another one by the time that it is read."""
    old = table({"id": "int8"}, before, max_rows=10)
    by_key = Reads(TableSpec("t"), old.known, 10, xmin=True)
    keys = old.select(by_key.page(by_key.by_key(), columns=(), count="estimated"))
    read = Reading(table({"id": "int8"}, after, max_rows=10), 10, 8, random.Random(seed))
    read.beginning = Beginning(Read(keys, 0, 0.0))
    assert read.run().rows == sorted(after)
