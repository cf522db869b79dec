"""The server's clock from whole seconds, and a lag that is never caused by skew."""

from __future__ import annotations

from math import floor

from hypothesis import example, given
from hypothesis import strategies as st

from notebook_rt.sync.clock import DRIFT, LATE_FOR, Freshness, ServerClock
from notebook_rt.sync.connection.health import Facts, TableFacts, health

EPOCH = 1_700_000_000.0
skews = st.floats(-1e5, 1e5)
answers = st.lists(
    st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 20.0), st.floats(0.0, 20.0)),
    min_size=1,
    max_size=30,
)
"""For each: the pause before it, the way there and the way back."""


def heard(
    skew: float, found: list[tuple[float, float, float]], drift: float
) -> tuple[ServerClock, float]:
    """A clock that has seen these answers, and the monotonic time then."""
    clock, now = ServerClock(), 0.0
    for pause, there, back in found:
        sent = now + pause
        now = sent + there + back
        clock.observe(float(floor(EPOCH + skew + (sent + there) * (1 + drift))), sent, now)
    return clock, now


@given(skews, answers, st.floats(0.0, 100.0), st.floats(-DRIFT / 2, DRIFT / 2))
def test_a_skewed_clock_is_never_taken_for_a_lag(
    skew: float, found: list[tuple[float, float, float]], lag: float, drift: float
) -> None:
    """Whatever the clocks say and however slow the answers: never more than the true lag."""
    clock, now = heard(skew, found, drift)
    committed = EPOCH + skew + now * (1 + drift) - lag
    assert clock.lag(committed, now) <= lag + 1e-3


@given(skews, st.lists(st.floats(0.0, 1.0), min_size=20, max_size=20), st.floats(2.0, 100.0))
def test_a_lag_of_seconds_is_seen_after_a_few_answers(
    skew: float, pauses: list[float], lag: float
) -> None:
    clock, now = heard(skew, [(pause, 0.02, 0.02) for pause in pauses], 0.0)
    assert clock.lag(EPOCH + skew + now - lag, now) > lag - 1.1


@given(skews, answers, st.floats(-50.0, 50.0))
def test_the_clock_of_this_machine_is_put_right_and_never_made_worse(
    skew: float, found: list[tuple[float, float, float]], wrong: float
) -> None:
    clock, now = heard(skew, found, 0.0)
    true = EPOCH + skew + now
    assert abs(clock.now(now, true) - true) < 1e-3
    slowest = max(there + back for _, there, back in found)
    assert (
        abs(clock.now(now, true + wrong) - true)
        <= min(abs(wrong), 1.0 + slowest + DRIFT * now) + 1e-3
    )


def test_before_the_first_answer_nothing_is_claimed() -> None:
    assert ServerClock().lag(0.0, 1e9) == 0.0
    assert ServerClock().now(5.0, EPOCH) == EPOCH


def test_a_clock_that_was_set_restarts_its_count() -> None:
    clock = ServerClock()
    clock.observe(EPOCH, 0.0, 0.1)
    clock.observe(EPOCH + 3600, 1.0, 1.1)
    assert clock.lag(EPOCH + 3600 - 10, 1.1) >= 9


def test_what_was_applied_late_is_behind_until_something_proves_otherwise() -> None:
    fresh = Freshness(3.0)
    fresh.applied(17.0, 100.0)
    assert fresh.behind(150.0, audited=True) == 17.0
    fresh.applied(0.1, 151.0)
    assert fresh.behind(151.0, audited=True) == 0.1
    fresh.applied(17.0, 160.0)
    fresh.proven()
    assert fresh.behind(160.0, audited=True) == 0.0


def test_without_audits_silence_for_as_long_as_the_lag_proves_it() -> None:
    fresh = Freshness(3.0)
    fresh.applied(17.0, 100.0)
    assert fresh.behind(116.9, audited=False) == 17.0
    assert fresh.behind(117.1, audited=False) == 0.0


stories = st.lists(
    st.one_of(
        st.tuples(st.just("applied"), st.floats(0.0, 90.0)),
        st.tuples(st.just("wait"), st.floats(0.0, 60.0)),
        st.tuples(st.just("proven"), st.just(0.0)),
    ),
    max_size=20,
)
"""What happens to a table whose changes come so many seconds after their commits."""
bounds = st.floats(0.1, 20.0)
LIMITS = {"slow_ms": 500.0, "stale_after": 60.0, "poll_interval": 5.0}


def word(fresh: Freshness, now: float, bound: float, *, audited: bool, **facts: bool) -> str:
    """What the health says of a session with one table."""
    behind, late = fresh.behind(now, audited=audited), fresh.late(now)
    table = TableFacts("t", "live", behind=behind, late=late, **facts)
    return health(Facts("connected", tables=[table]), behind_after=bound, **LIMITS).status


@given(stories, bounds, st.booleans())
def test_never_healthy_while_what_was_applied_last_is_older_than_the_bound(
    story: list[tuple[str, float]], bound: float, audited: bool
) -> None:
    """Nor before a clean audit; until a younger change, a proof, or silence where none will come, and
    then until nothing has come late for as long as the latest was.
    """
    fresh, now, late, at = Freshness(bound), 0.0, 0.0, 0.0
    last: list[tuple[float, float]] = []
    """Each change that came late: when, and how late."""
    for what, seconds in story:
        match what:
            case "applied":
                fresh.applied(seconds, now)
                late, at = seconds, now
                if seconds > bound:
                    last.append((now, seconds))
            case "proven":
                fresh.proven()
                late = 0.0
            case _:
                now += seconds
        silent = not audited and now >= at + late
        lately = any(now < when + min(max(lag, bound), LATE_FOR) for when, lag in last)
        assert (word(fresh, now, bound, audited=audited) == "healthy") == (
            (late <= bound or silent) and not lately
        )
        assert word(fresh, now, bound, audited=audited, unaudited=True) != "healthy"


@given(stories, bounds, st.booleans(), st.floats(0.01, 1.0))
@example([("applied", 6.0), ("proven", 0.0)] * 10, 3.0, True, 0.1)
@example([("applied", 3.1), ("applied", 2.9), ("wait", 0.2)] * 5, 3.0, True, 0.1)
def test_changes_about_as_late_as_the_bound_do_not_have_it_flicker(
    story: list[tuple[str, float]], bound: float, audited: bool, pause: float
) -> None:
    """Once behind, a session stays so for as long as the bound at the least, whatever comes."""
    fresh, now = Freshness(bound), 0.0
    begun: float | None = None
    for what, seconds in story:
        now += pause
        if what == "wait":
            now += seconds
        elif what == "applied":
            fresh.applied(seconds, now)
        else:
            fresh.proven()
        behind = word(fresh, now, bound, audited=audited) == "behind"
        if begun is not None and not behind:
            assert now >= begun + bound
        begun = (now if begun is None else begun) if behind else None
