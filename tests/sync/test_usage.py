"""What a session says of its traffic is what was counted, and no limit comes without a warning."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.options import Options
from notebook_rt.sync.connection.presence import Throttle
from notebook_rt.sync.usage import (
    CHANNELS,
    NEAR,
    PEAK_TICKS,
    PLANS,
    PRESENCE_CALLS,
    TELL_AGAIN,
    TICK,
    TICKS,
    Usage,
)

PLAN = st.sampled_from(["free", "pro", None])
STEP = st.tuples(
    st.sampled_from(["received", "frame", "sent", "read", "audit", "poll"]),
    st.integers(1, 700),
    st.integers(0, 100_000),
    st.one_of(st.just(0.0), st.floats(0, 20), st.floats(0, 4000)),
)
"""What happened, how many times, the bytes of each, and the seconds since the step before."""


def counted(plan: str | None, steps: Sequence[tuple[str, int, int, float]]) -> tuple[Usage, float]:
    """The usage after these steps, and the time of the last."""
    usage, now = Usage(plan), 1000.0
    for what, times, size, pause in steps:
        now += pause
        for _ in range(times):
            if what in ("received", "frame"):
                usage.received(size, what == "received", now)
            elif what == "sent":
                usage.sent(size, True, now)
            else:
                usage.requested(what, size, 7, now)  # type: ignore[arg-type]  # drawn from the purposes
    return usage, now


@given(PLAN, st.lists(STEP, max_size=12), st.floats(0, 4000))
def test_an_hour_is_what_was_counted_in_it(
    plan: str | None, steps: list[tuple[str, int, int, float]], pause: float
) -> None:
    usage, at = counted(plan, steps)
    now = at + pause
    hour = usage.hour(now)
    first = int(now // TICK) - TICKS + 1
    times, moment = [], 1000.0
    for step in steps:
        moment += step[3]
        times.append(moment)
    inside = [s for s, t in zip(steps, times, strict=True) if int(t // TICK) >= first]
    assert hour.messages == sum(n for what, n, _, _ in inside if what == "received")
    assert hour.sent == sum(n for what, n, _, _ in inside if what == "sent")
    for purpose in ("read", "audit", "poll"):
        assert hour.http[purpose] == sum(n * size for what, n, size, _ in inside if what == purpose)
    assert hour.bytes_in == sum(n * size for what, n, size, _ in inside if what != "sent")
    assert hour.month == 720 * hour.messages
    shares = [hour.share(purpose) for purpose in ("read", "audit", "poll")]
    assert None in shares or sum(share or 0.0 for share in shares) == pytest.approx(1)


@given(
    PLAN,
    st.lists(STEP, max_size=12),
    st.integers(0, 2 * CHANNELS),
    st.integers(0, 2 * PRESENCE_CALLS),
)
def test_never_silent_above_80_percent_of_a_limit_and_never_a_warning_below(
    plan: str | None, steps: list[tuple[str, int, int, float]], channels: int, calls: int
) -> None:
    usage, now = counted(plan, steps)
    hour = usage.hour(now)
    ticks: dict[int, int] = {}
    moment = 1000.0
    for what, times, _, pause in steps:
        moment += pause
        if what in ("received", "sent"):
            tick = int(moment // TICK)
            ticks[tick] = ticks.get(tick, 0) + times
    last = int(now // TICK)
    rate = max((n / TICK for t, n in ticks.items() if t >= last - PEAK_TICKS), default=0.0)
    used = {"channels": channels / CHANNELS, "presence": calls / PRESENCE_CALLS}
    if plan is not None:
        used["rate"] = rate / PLANS[plan].messages_per_second
        month = PLANS[plan].messages_per_month
        if month is not None:
            used["month"] = hour.messages * 720 / month
    found = {near.limit for near in usage.near(hour, channels, calls)}
    assert found == {limit for limit, share in used.items() if share > NEAR}


@given(st.lists(st.tuples(st.integers(1, 900), st.floats(0, 12)), max_size=15))
def test_a_rate_that_comes_near_its_limit_says_so_at_once(steps: list[tuple[int, float]]) -> None:
    """Nobody looks at the counts in time of itself: a burst would be over."""
    usage, now, ticks = Usage("free"), 0.0, dict[int, int]()
    for count, pause in steps:
        now += pause
        for _ in range(count):
            tick = int(now // TICK)
            ticks[tick] = ticks.get(tick, 0) + 1
            crossed = usage.received(10, True, now)
            assert crossed == (ticks[tick] == NEAR * 100 * TICK + 1)


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=20))
def test_a_warning_is_told_once_an_hour_at_most_and_as_long_as_it_holds(waits: list[float]) -> None:
    usage, now, told = Usage(None), 0.0, list[float]()
    for wait in waits:
        now += wait
        near = usage.near(usage.hour(now), CHANNELS, 0)
        due = usage.due(near, now)
        assert bool(due) == (not told or now - told[-1] >= TELL_AGAIN)
        told += [now] * len(due)


def test_memory_is_bounded() -> None:
    usage = Usage("free")
    for tick in range(10_000):
        usage.received(10, True, tick * TICK)
    assert len(usage._ticks) == TICKS


@pytest.mark.parametrize(
    ("plan", "messages", "said"),
    [
        ("free", 0, "No messages this hour."),
        ("free", 1, "1 message this hour: about 720 a month of the 2 M of the free plan."),
        (
            "free",
            1240,
            "1,240 messages this hour: about 0.9 M a month of the 2 M of the free plan.",
        ),
        ("pro", 1240, "1,240 messages this hour: about 0.9 M a month."),
        (None, 60, "60 messages this hour: about 43,200 a month."),
    ],
)
def test_the_hour_is_said_in_one_sentence(plan: str | None, messages: int, said: str) -> None:
    usage = Usage(plan)
    for _ in range(messages):
        usage.received(10, True, 5.0)
    assert usage.sentence(usage.hour(5.0)) == said


def test_presence_as_the_session_paces_it_is_not_near_its_limit() -> None:
    """The default pace stays at 80 % of what the server allows; a faster one is warned about."""
    options = Options()
    for calls, near in ((options.presence_calls, False), (PRESENCE_CALLS, True)):
        throttle, now = Throttle(calls, options.presence_window), 0.0
        for state in range(20):
            throttle.want({"n": state})
            due = throttle.due(now)
            if due is not None and due <= now:
                throttle.take(now)
            now += 1.2
        usage = Usage(None)
        assert bool(usage.near(usage.hour(now), 0, throttle.used(now))) is near


@pytest.mark.parametrize("wrong", ["Free", "team", 1])
def test_a_plan_that_is_not_known_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"Options\.plan must be"):
        Options(plan=wrong)  # type: ignore[arg-type]  # the wrong ones are the test
