"""The laws of a table stored by another kernel: shown as stored, proven before it is ``live``."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import (
    Fetch,
    Logged,
    Page,
    Published,
    Query,
    Received,
    StatusChanged,
)
from notebook_rt.sync.table.broadcast_answers import SINCE
from tests.laws import examples
from tests.sync.simulation import Faults, Server, World
from tests.sync.test_mirror_laws import COLUMNS, converged, play, server, sources, steps

many = settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))

specs = st.sampled_from(
    [
        TableSpec("t"),
        TableSpec("t", filter=parse("grp=eq.1")),
        TableSpec("t", order=parse_order("rev.desc"), limit=3),
        TableSpec("t", order=parse_order("note"), limit=3),
        TableSpec("t", columns=("grp", "rev")),
    ]
)
waits = st.sampled_from((0.0, 0.3, 3.0, 100.0, 1e6))


def marked(rows: int = 8, source: Source = "changes", **more: Any) -> Server:
    """A server whose table has a watermark, which changes move or not."""
    broadcasts = source == "broadcast"
    made = Server({**COLUMNS, "updated_at": "timestamptz"}, broadcasts=broadcasts, **more)
    for key in range(1, rows + 1):
        made.write(key, {"grp": key % 3, "note": "start"})
    return made


def statuses(world: World) -> list[str]:
    return [one.status for _, one in world.effects if isinstance(one, StatusChanged)]


def away(one: Server, story: list[Any]) -> None:
    """What others write while no kernel runs."""
    one.listener = one.sender = None
    for _, step in story:
        match step:
            case ("write", key, group, note):
                one.write(key, None if group is None else {"grp": group, "note": note})
            case ("move", key, to):
                one.move(key, to)
            case ("prune",):
                one.prune()
            case ("install",):
                one.install()
            case ("drop",):
                one.broadcasts = False


absences = st.tuples(steps, st.lists(st.sampled_from((("prune",), ("install",), ("drop",)))), steps)
"""What is written while no kernel runs, and what becomes of the log between."""


@many
@given(
    specs,
    st.lists(st.tuples(steps, absences, waits), min_size=1, max_size=2),
    steps,
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
    sources,
    st.sampled_from((1_000, 400_000)),
)
def test_a_kernel_that_begins_with_what_was_kept_shows_it_and_converges(
    spec: TableSpec,
    lives: list[Any],
    last: list[Any],
    moves: bool,
    xmin: bool,
    seed: int,
    source: Source,
    size: int,
) -> None:
    """Whatever one kernel has seen, wherever it was killed, whatever was written then: it converges,
    and no row goes back in time.
    """
    one = marked(passes_xmin=xmin, moves_watermark=moves, source=source, entry_size=size)
    world = World(spec, one, seed=seed)
    world.connect()
    for story, (before_log, becomes, after_log), pause in lives:
        play(world, story)
        logged = [(0.0, step) for step in becomes] if source == "broadcast" else []
        away(one, [*before_log, *logged, *after_log])
        one.now += pause
        before = world.view
        world = World(spec, one, seed=seed, before=world)
        assert world.view == before
        world.shown = {key: row["rev"] for key, row in before.items()}
        world.connect()
    play(world, last)
    world.settle(30)
    converged(world)


@many
@given(
    steps,
    st.sampled_from((True, False)),
    st.sampled_from((True, False)),
    st.integers(0, 99),
    sources,
)
@example(story=[(0.0, ("write", 1, 1, "b"))], moves=False, xmin=False, seed=0, source="changes")
def test_it_is_never_live_before_it_was_proven(
    story: list[Any], moves: bool, xmin: bool, seed: int, source: Source
) -> None:
    """What was written while no kernel ran, also past a watermark that nothing moves, is there when
    the table first says that it is live.
    """
    one = marked(60, passes_xmin=xmin, moves_watermark=moves, source=source)
    one.now = 1000.0  # the rows are older than a reconciliation looks back
    spec = TableSpec("t", source=source)
    first = World(spec, one, seed=seed)
    first.settle(10)
    converged(first)
    away(one, story)
    one.now += 1000
    world = World(spec, one, seed=seed, before=first, options=Options(page_size=7))
    world.connect()
    while "live" not in statuses(world):
        assert {*statuses(world)} <= {"stale"}
        world.run(0.01)
    assert world.differences == {}
    told = [one for _, one in world.effects if isinstance(one, Published)]
    assert {one.cause for one in told} <= {"warm"}


def test_a_change_that_is_reported_once_more_takes_nothing_back() -> None:
    """Promise 6, over the end of a kernel: what a new join repeats may be older than what was kept."""
    first = World(TableSpec("t"), server())
    first.settle(10)
    told: list[Any] = []
    take = first.handle
    first.handle = lambda event: (told.append(event), take(event))[1]  # type: ignore[method-assign]
    for note in ("a", "b"):
        first.server.write(1, {"note": note})
    first.run(10)
    (old, _) = [event for event in told if isinstance(event, Received)]
    world = World(TableSpec("t"), first.server, before=first)
    world.shown = {key: row["rev"] for key, row in world.view.items()}
    world.connect()
    world.handle(old)
    assert world.view[1]["note"] == "b"
    world.settle(10)
    converged(world)


def test_without_a_network_it_stays_stale_and_says_as_of_when() -> None:
    first = World(TableSpec("t"), server())
    first.settle(10)
    world = World(TableSpec("t"), first.server, before=first)
    world.network = False
    world.disconnect()
    world.run(300)
    assert world.mirror.status == "stale"
    assert len(world.view) == 8
    assert world.mirror._reported_reason == "as of 14:03"
    world.settle(10)
    converged(world)


def test_where_only_polling_is_to_be_had_it_is_proven_by_a_poll() -> None:
    first = World(TableSpec("t"), server())
    first.settle(10)
    away(first.server, [(0, ("write", 1, 1, "b"))])
    world = World(TableSpec("t"), first.server, before=first)
    world.run(20)
    assert statuses(world) == ["stale", "polling"]
    assert world.differences == {}


def test_other_columns_are_loaded_again_and_shown_as_one() -> None:
    first = World(TableSpec("t"), server())
    first.settle(10)
    first.server.alter({**COLUMNS, "more": "text"})
    away(first.server, [(0, ("write", 1, 1, "b"))])
    world = World(TableSpec("t"), first.server, before=first)
    world.settle(10)
    converged(world)
    assert "more" in world.view[1]


@pytest.mark.parametrize("rows", [300])
def test_what_was_missed_is_read_and_not_the_table(rows: int) -> None:
    """With a watermark that changes have moved, a warm start reads what has changed since."""
    one = marked(rows)
    first = World(TableSpec("t"), one)
    first.settle(10)
    one.write(1, {"grp": 0, "note": "seen to move"})
    first.run(100)
    converged(first)
    one.now += 1000
    away(one, [(0, ("write", key, 2, "missed")) for key in range(5)])
    world = World(TableSpec("t"), one, before=first, faults=Faults())
    world.connect()
    while "live" not in statuses(world):
        world.run(0.01)
    assert world.differences == {}
    asked = [effect for _, effect in world.effects if isinstance(effect, Fetch)]
    assert len(asked) < 15 < rows / 7


def counted(one: Server) -> list[Query]:
    """What is asked of it from now on."""
    select, asked = one.select, list[Query]()

    def count(query: Query) -> Page:
        asked.append(query)
        return select(query)

    one.select = count  # type: ignore[method-assign]  # counts what is asked for
    return asked


def proven(first: World, **options: Any) -> World:
    """A kernel that starts with what ``first`` has kept, until it is live."""
    world = World(first.spec, first.server, before=first, options=Options(page_size=7, **options))
    world.connect()
    while "live" not in statuses(world):
        world.run(0.01)
    return world


def test_without_a_watermark_what_was_missed_is_read_by_filters_and_counts() -> None:
    """Of rows that were written together: a change, a row that came and one that went, of 900."""
    one = Server(dict(COLUMNS))
    one.write_all([(key, {"grp": key % 3, "note": "start"}) for key in range(1, 901)])
    first = World(TableSpec("t"), one)
    first.settle(10)
    story = (("write", 5, 1, "b"), ("write", 901, 1, "b"), ("write", 400, None, ""))
    away(one, [(0, step) for step in story])
    asked = counted(one)
    world = proven(first)
    assert world.differences == {}
    assert len(asked) < 45 < 900 / 7


def begun(missed: list[Any], again: float, **more: Any) -> World:
    """A kernel that starts with 300 kept rows, and whose join is confirmed twice; what is written between
    is told to nobody.
    """
    one = Server(dict(COLUMNS))
    one.write_all([(key, {"grp": key % 3, "note": "start"}) for key in range(1, 301)])
    first = World(TableSpec("t"), one)
    first.settle(10)
    away(one, missed)
    faults = Faults(loss=1.0, read_time=(0.02, 0.3))
    options = Options(page_size=7, audit_interval=0)
    world = World(first.spec, one, before=first, faults=faults, options=options, **more)
    world.connect_confirmed_twice(again)
    return world


@many
@given(steps, steps, st.integers(0, 2**32), st.sampled_from((0.0, 0.1, 0.3, 0.6, 1.0, 2.0)))
def test_what_is_lost_until_a_join_is_confirmed_twice_is_found_by_one_comparison(
    missed: list[Any], lost: list[Any], seed: int, again: float
) -> None:
    """Of rows that were written together, without any audit."""
    world = begun(missed, again, seed=seed)
    play(world, lost)
    world.run(again)
    world.settle(30)
    converged(world)


@pytest.mark.parametrize("again", [0.1, 0.3, 0.5, 0.7])
def test_a_second_confirmation_does_not_double_a_comparison(again: float) -> None:
    missed = [(0, ("write", key, group, "b")) for key, group in ((5, 1), (90, None), (301, 0))]
    once, twice = (begun(missed, at) for at in (60.0, again))
    for world in (once, twice):
        world.run(again)
        while world.mirror.status != "live":
            world.run(0.01)
    assert twice.differences == {}
    compared = [
        one for _, one in twice.effects if isinstance(one, Logged) and one.what == "reconciled"
    ]
    assert len(compared) == 1
    assert requests(twice) <= requests(once) + 1
    assert twice.now <= once.now + 0.1


def requests(world: World) -> int:
    return sum(isinstance(one, Fetch) for _, one in world.effects)


@pytest.mark.parametrize("rows", [60, 900])
def test_a_database_that_was_recreated_is_not_taken_for_the_old_one(rows: int) -> None:
    """Its transactions are counted anew: rows have versions that they had, and other values."""
    one = Server(dict(COLUMNS))
    one.write_all([(key, {"grp": key % 3, "note": "start"}) for key in range(1, rows + 1)])
    first = World(TableSpec("t"), one)
    first.settle(10)
    versions = dict(one.xmin)
    one.listener = None
    one.write_all([(key, {"grp": 1, "note": "anew"}) for key in range(1, rows + 1)])
    one.xmin = versions
    assert proven(first).differences == {}


@pytest.mark.parametrize("source", ["changes", "broadcast"])
@pytest.mark.parametrize("since", [0, 5, 60])
@pytest.mark.parametrize("ago", [1, 200])
def test_a_database_that_was_restored_from_an_older_backup_is_not_taken_for_a_later_one(
    source: Source, since: int, ago: int
) -> None:
    """Its rows are as they were before, behind the watermark and the log's position; ``since`` of them
    were changed after that.
    """
    one = marked(300, source=source)
    one.now = 1000.0
    first = World(TableSpec("t", source=source), one)
    first.settle(10)
    one.write(1, {"grp": 0, "note": "seen to move"})
    first.run(100)
    names = ("rows", "xmin", "transaction", "numbers", "drawn", "log", "entry", "committed")
    backup = copy.deepcopy({name: getattr(one, name) for name in names})
    for key in range(40, 60):
        one.write(key, {"note": "later"})
    first.run(ago)
    converged(first)
    for name, value in backup.items():
        setattr(one, name, value)
    for key in range(40, 60):  # for the model they are new: nothing else goes back in time
        one.rev += 1
        one.rows[key]["rev"] = one.rev
        one.history[key].append((one.rev, dict(one.rows[key])))
    away(one, [(0, ("write", key, 2, "since")) for key in range(100, 100 + since)])
    one.now += 1000
    assert proven(first).differences == {}


@pytest.mark.parametrize("what", ["nothing", "some", "too much", "pruned", "numbered anew"])
def test_what_was_missed_is_read_from_the_log_and_not_the_table(what: str) -> None:
    """Where the log reaches back to the position that was kept, and has less than the table: as after ten
    hours, in which fifty rows of 300 changed, or 12,000 changes were made.
    """
    one = marked(300, source="broadcast", entry_size=200)
    spec = TableSpec("t", source="broadcast")
    first = World(spec, one)
    first.settle(10)
    one.write(1, {"grp": 0, "note": "seen"})
    first.run(100)
    converged(first)
    one.now += 36_000
    missed = {"nothing": 0, "too much": 12_000}.get(what, 50)
    away(one, [(0, ("write", key % 300, 2, "missed")) for key in range(missed)])
    if what == "pruned":
        one.prune()
    if what == "numbered anew":
        one.install()
    select, read = one.select, Counter[str]()

    def count(query: Query) -> Page:
        page = select(query)
        read["requests"] += 1
        read["rows"] += len(page.rows)
        read["changes"] += len(page.value["changes"]) if query.rpc == SINCE else 0
        return page

    one.select = count  # type: ignore[method-assign]  # counts what is asked for, and what that brings
    world = World(spec, one, before=first)
    world.connect()
    while "live" not in statuses(world):
        world.run(0.01)
    assert world.differences == {}
    if what in ("nothing", "some"):
        assert read["changes"] == missed
        again = 120  # by which it is seen that the database is not an older one
        assert read["rows"] <= 32 + again  # they tell what the columns are
        assert read["requests"] <= 5 + -(-again // 7)
    else:
        assert read["rows"] >= 300
        assert read["changes"] < 12_000
        assert read["requests"] > 300 / 7
