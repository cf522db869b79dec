"""When a table is audited (promise 4), and when its verdict is reported."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.errors import ServerError
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Confirmed, FetchFailed, Hint, Logged, Published
from notebook_rt.sync.table.auditing import HINTED_AFTER, QUIET, SOON, AuditTimer, Traffic
from tests.sync.simulation import Faults, Server, World
from tests.sync.test_mirror_cases import live, server, told
from tests.sync.test_mirror_laws import moves, pauses, writes

QUICK = Faults(read_time=(0.001, 0.05))
laws = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def audits(world: World) -> list[float]:
    return [at for at, e in world.effects if isinstance(e, Logged) and e.what == "audit"]


@laws
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, moves, st.just(("gap",)))), max_size=20),
    st.integers(0, 2**32),
    st.floats(0.5, 8.0),
    st.floats(1.0, 4.0),
    st.sampled_from((0.4, 7.0)),
)
def test_audits_end_at_most_audit_max_apart(
    story: list[tuple[float, tuple[object, ...]]],
    seed: int,
    interval: float,
    stretch: float,
    gaps: float,
) -> None:
    """While the server answers: whatever happens, gaps without end among it."""
    from tests.sync.test_mirror_laws import play

    most = max(interval * stretch, 4.0)
    options = Options(audit_interval=interval, audit_max=most, page_size=7)
    world = World(TableSpec("t"), server(), seed=seed, faults=QUICK, options=options)
    world.connect()
    world.run(5)
    play(world, story)
    until = world.now + 2.5 * most
    while world.now < until:
        world.run(gaps)
        world.gap()
    ends = [0.0, *audits(world), world.now]
    one_read = QUICK.read_time[1]  # an audit that begins in time ends when its last read does
    assert max(b - a for a, b in itertools.pairwise(ends[1:])) <= most + one_read
    assert ends[1] <= 5 + most


@given(
    st.floats(0.5, 100.0),
    st.floats(1.0, 5.0),
    st.lists(st.tuples(st.floats(0.0, 50.0), st.floats(0.0, 5.0), st.booleans()), min_size=1),
)
def test_hints_never_take_more_than_their_share_nor_put_an_audit_off(
    interval: float, stretch: float, story: list[tuple[float, float, bool]]
) -> None:
    timer = AuditTimer(Options(audit_interval=interval, audit_max=interval * stretch))
    now = 0.0
    timer.loaded(now, 0.0)
    for pause, took, clean in story:
        due = timer.at
        timer.hint(now + min(pause, max(0.0, due - now)), "why")
        assert timer.at <= due
        now = max(now, timer.at)
        timer.began(now)
        now += took
        timer.ended(now, took, clean=clean)
        timer.hint(now, "why")
        if clean:
            least = min(interval / 4, HINTED_AFTER)
            assert timer.at - now >= min(took, interval * stretch - 2 * took, least) - 1e-6
        assert timer.at - now <= max(interval * stretch, timer._cost) + 1e-6


def test_audits_switched_off_stay_off_but_for_who_asks() -> None:
    timer = AuditTimer(Options(audit_interval=0))
    timer.loaded(1.0, 1.0)
    timer.hint(2.0, "why")
    timer.ended(3.0, 1.0, clean=True)
    assert timer.at == timer.by == float("inf")
    assert not timer.doubt  # nothing would ever end it
    timer.ask(4.0)
    assert timer.at == 4.0


def test_an_interval_that_was_asked_for_is_obeyed_on_a_slow_server() -> None:
    """An audit of 0.3 s every 4 s was made every 30 s: 1 % of the time."""
    slow = Faults(read_time=(0.1, 0.15))
    options = Options(audit_interval=4.0, page_size=100)
    world = live(options=options, faults=slow)
    world.run(30)
    world.server.truncate()
    world.run(5)
    assert world.view == {}


def _burst(world: World) -> None:
    for n in range(150):
        world.server.write(n % 8 + 1, {"grp": n})


def _activity_that_stops(world: World) -> None:
    for n in range(20):
        world.server.write(n % 8 + 1, {"grp": n})
        world.run(0.1)
    world.run(QUIET)


def test_silence_that_an_audit_has_explained_is_no_doubt() -> None:
    """A million rows are audited for seconds: the next answer would be long in coming."""
    world = live(options=Options(page_size=100, audit_interval=2.0), faults=QUICK)
    world.run(5)
    for n in range(20):
        world.server.write(n % 8 + 1, {"grp": n})
    before, now = len(audits(world)), world.now
    while len(audits(world)) == before or world.now < now + QUIET + 2:
        world.run(0.1)
        if world.now > now + 2.5:
            assert not world.mirror.doubt


def test_silence_is_not_explained_by_an_audit_that_comes_right_after_a_change() -> None:
    traffic = Traffic()
    traffic.count_changes(20, 1.0)
    traffic.proven(1.5)
    assert traffic.fell_quiet(1.0 + QUIET)
    traffic.count_changes(20, 10.0)
    traffic.proven(11.5)
    assert not traffic.fell_quiet(10.0 + QUIET)


def _server_error(world: World) -> None:
    world.handle(FetchFailed(10**6, ServerError("GET /t", 503), 1.0))


@pytest.mark.parametrize(
    "hint",
    [
        lambda world: world.handle(Confirmed()),
        lambda world: world.handle(Hint("changes come late")),
        lambda world: world.connect(),
        _burst,
        _activity_that_stops,
        _server_error,
    ],
    ids=["system message", "lag", "reconnect", "burst", "silence after many", "server error"],
)
def test_what_hints_at_a_loss_brings_the_next_audit_forward(hint: Callable[[World], None]) -> None:
    world = live(options=Options(page_size=100), faults=QUICK)
    world.run(1)
    while audits(world)[-1] < world.now - 7:
        world.run(1)
    world.run(6)
    before = len(audits(world))
    hint(world)
    world.run(SOON + 2.5)
    assert len(audits(world)) > before


def test_the_first_audit_follows_the_load() -> None:
    world = live(options=Options(page_size=100), faults=QUICK)
    assert len(audits(world)) == 1
    assert world.mirror.next_audit == pytest.approx(audits(world)[0] + 20, abs=0.1)


def test_the_verdict_is_told_with_the_repair() -> None:
    world = live(options=Options(page_size=100), faults=QUICK)
    world.server.truncate()
    world.run(25)
    repaired = [at for at, e in world.effects if isinstance(e, Published) and e.cause == "audit"]
    verdicts = [
        (at, e.detail["differing"])
        for at, e in world.effects
        if isinstance(e, Logged) and e.what == "audit"
    ]
    assert (repaired[0], 8) in verdicts


def test_a_verdict_is_taken_back_when_changes_that_were_late_explain_it() -> None:
    slow = Faults(read_time=(0.001, 0.05), latency=(2.0, 2.1))
    world = live(options=Options(page_size=100, audit_interval=2.0), faults=slow)
    for n in range(10):
        world.server.write(n % 8 + 1, {"grp": 50 + n})
        world.run(0.9)
    world.run(6)
    what = [e.what for e in told(world, Logged)]
    assert "explained" in what
    assert "drift" not in what


def test_while_polling_no_audit_is_promised() -> None:
    world = live(one=Server({"id": "int8", "grp": "int4", "rev": "int8"}))
    assert world.mirror.next_audit is not None
    world.disconnect()
    assert world.mirror.next_audit is None
