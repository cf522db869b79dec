"""The laws of a table that another kernel has kept: shown as it was, proven before it is ``live``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Fetch, Published, Received, StatusChanged
from tests.sync.simulation import Faults, Server, World
from tests.sync.test_mirror_laws import COLUMNS, converged, play, server, steps

many = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))

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


def marked(rows: int = 8, **more: Any) -> Server:
    """A server whose table has a watermark, which changes move or not."""
    made = Server({**COLUMNS, "updated_at": "timestamptz"}, **more)
    for key in range(1, rows + 1):
        made.write(key, {"grp": key % 3, "note": "start"})
    return made


def statuses(world: World) -> list[str]:
    return [one.status for _, one in world.effects if isinstance(one, StatusChanged)]


def away(one: Server, story: list[Any]) -> None:
    """What others write while no kernel runs."""
    one.listener = None
    for _, step in story:
        match step:
            case ("write", key, group, note):
                one.write(key, None if group is None else {"grp": group, "note": note})
            case ("move", key, to):
                one.move(key, to)


@many
@given(
    specs,
    st.lists(st.tuples(steps, steps, waits), min_size=1, max_size=2),
    steps,
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_a_kernel_that_begins_with_what_was_kept_shows_it_and_converges(
    spec: TableSpec, lives: list[Any], last: list[Any], moves: bool, xmin: bool, seed: int
) -> None:
    """Whatever one kernel has seen, wherever it was killed, whatever was written then: it converges,
    and no row goes back in time.
    """
    one = marked(passes_xmin=xmin, moves_watermark=moves)
    world = World(spec, one, seed=seed)
    world.connect()
    for story, absent, pause in lives:
        play(world, story)
        away(one, absent)
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
@given(steps, st.sampled_from((True, False)), st.sampled_from((True, False)), st.integers(0, 99))
@example(story=[(0.0, ("write", 1, 1, "b"))], moves=False, xmin=False, seed=0)
def test_it_is_never_live_before_it_was_proven(
    story: list[Any], moves: bool, xmin: bool, seed: int
) -> None:
    """What was written while no kernel ran, also past a watermark that nothing moves, is there when
    the table first says that it is live.
    """
    one = marked(60, passes_xmin=xmin, moves_watermark=moves)
    one.now = 1000.0  # the rows are older than a reconciliation looks back
    first = World(TableSpec("t"), one, seed=seed)
    first.settle(10)
    converged(first)
    away(one, story)
    one.now += 1000
    world = World(TableSpec("t"), one, seed=seed, before=first, options=Options(page_size=7))
    world.connect()
    while "live" not in statuses(world):
        assert {*statuses(world)} <= {"stale"}
        world.run(0.01)
    assert world.differences == {}
    told = [one for _, one in world.effects if isinstance(one, Published)]
    assert {one.cause for one in told} <= {"warm"}


def test_a_change_that_is_told_once_more_takes_nothing_back() -> None:
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
    assert world.mirror._told_reason == "as of 14:03"
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


def test_other_columns_are_loaded_anew_and_shown_as_one() -> None:
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
