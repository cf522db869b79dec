"""A session's traffic report equals the counts, and a warning precedes every limit."""

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
    Counts,
    Usage,
)

PLAN = st.sampled_from(["free", "pro", "uncapped", None])
STEP = st.tuples(
    st.sampled_from(["received", "frame", "sent", "here", "told", "read", "audit", "poll"]),
    st.integers(1, 700),
    st.integers(0, 100_000),
    st.one_of(st.just(0.0), st.floats(0, 20), st.floats(0, 4000)),
)
"""What happened, how many times, the bytes of each, and the seconds since the step before.

``here`` is presence that was received and ``told`` presence that was sent.
"""
RECEIVED: dict[str, Counts] = {"received": "message", "frame": "nothing", "here": "presence"}
SENT: dict[str, Counts] = {"sent": "message", "told": "presence"}


def counted(plan: str | None, steps: Sequence[tuple[str, int, int, float]]) -> tuple[Usage, float]:
    """The usage after these steps, and the time of the last."""
    usage, now = Usage(plan), 1000.0
    for what, times, size, pause in steps:
        now += pause
        for _ in range(times):
            if what in RECEIVED:
                usage.received(size, RECEIVED[what], now)
            elif what in SENT:
                usage.sent(size, SENT[what], now)
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
    assert hour.messages == sum(n for what, n, _, _ in inside if what in ("received", "here"))
    assert hour.sent == sum(n for what, n, _, _ in inside if what in SENT)
    for purpose in ("read", "audit", "poll"):
        assert hour.http[purpose] == sum(n * size for what, n, size, _ in inside if what == purpose)
    assert hour.bytes_in == sum(n * size for what, n, size, _ in inside if what not in SENT)
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
    last = int(now // TICK)

    def rate(*counted: str) -> float:
        """A second, in the busiest tick of the last minute."""
        ticks: dict[int, int] = {}
        moment = 1000.0
        for what, times, _, pause in steps:
            moment += pause
            if what in counted:
                tick = int(moment // TICK)
                ticks[tick] = ticks.get(tick, 0) + times
        return max((n / TICK for t, n in ticks.items() if t >= last - PEAK_TICKS), default=0.0)

    assert hour.peak == rate("received", "here", *SENT)
    assert hour.presence_peak == rate("here", "told")
    used = {"channels": channels / CHANNELS, "presence": calls / PRESENCE_CALLS}
    if plan is not None:
        used["rate"] = hour.peak / PLANS[plan].messages_per_second
        used["presence_rate"] = hour.presence_peak / PLANS[plan].presence_per_second
        used["month"] = hour.messages * 720 / PLANS[plan].messages_per_month
    found = {near.limit: near.text for near in usage.near(hour, channels, calls)}
    assert found.keys() == {limit for limit, share in used.items() if share > NEAR}
    for limit, text in found.items():
        assert text.startswith("Over a limit: " if used[limit] > 1 else "Near a limit: ")


@given(st.lists(st.tuples(st.integers(1, 900), st.booleans(), st.floats(0, 12)), max_size=15))
def test_a_rate_that_comes_near_its_limit_says_so_at_once(
    steps: list[tuple[int, bool, float]],
) -> None:
    """Nobody looks at the counts in time of itself: a burst would be over."""
    usage, now, ticks = Usage("free"), 0.0, dict[int, list[int]]()
    near_rate, near_presence = (
        NEAR * most * TICK + 1 for most in (PLANS["free"].messages_per_second, 20)
    )
    for count, presence, pause in steps:
        now += pause
        for number in range(count):
            counts = ticks.setdefault(int(now // TICK), [0, 0])
            counts[0] += 1
            counts[1] += presence
            take = usage.received if number % 2 else usage.sent
            crossed = take(10, "presence" if presence else "message", now)
            assert crossed == (counts[0] == near_rate or (presence and counts[1] == near_presence))


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=20))
def test_a_warning_is_reported_once_an_hour_at_most_and_as_long_as_it_holds(
    waits: list[float],
) -> None:
    usage, now, told = Usage(None), 0.0, list[float]()
    for wait in waits:
        now += wait
        near = usage.near(usage.hour(now), CHANNELS, 0)
        due = usage.due(near, now)
        assert bool(due) == (not told or now - told[-1] >= TELL_AGAIN)
        told += [now] * len(due)


def test_a_limit_that_is_passed_is_told_though_it_was_told_to_be_near() -> None:
    usage = Usage("free")
    near = [
        usage.due(usage.near(usage.hour(0.0), channels, 0), 0.0)
        for channels in (CHANNELS, CHANNELS, CHANNELS + 1, CHANNELS + 1, CHANNELS)
    ]
    assert [[one.over for one in told] for told in near] == [[False], [], [True], [], []]


def test_memory_is_bounded() -> None:
    usage = Usage("free")
    for tick in range(10_000):
        usage.received(10, "message", tick * TICK)
    assert len(usage._ticks) == TICKS


@pytest.mark.parametrize(
    ("plan", "messages", "said"),
    [
        ("free", 0, "No messages this hour."),
        (
            "free",
            1,
            "1 message this hour: about 720 a month at this rate; the free plan includes 2 M.",
        ),
        (
            "free",
            1240,
            "1,240 messages this hour: about 0.9 M a month at this rate; the free plan includes 2 M.",
        ),
        (
            "pro",
            1240,
            "1,240 messages this hour: about 0.9 M a month at this rate; the pro plan includes 5 M.",
        ),
        (
            "uncapped",
            1240,
            "1,240 messages this hour: about 0.9 M a month at this rate; the uncapped pro plan includes 5 M.",
        ),
        (None, 60, "60 messages this hour: about 43,200 a month at this rate."),
    ],
)
def test_the_hour_is_said_in_one_sentence(plan: str | None, messages: int, said: str) -> None:
    usage = Usage(plan)
    for _ in range(messages):
        usage.received(10, "message", 5.0)
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
