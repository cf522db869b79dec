"""Presence on the client side: never too many calls, and the last state is always sent."""

from __future__ import annotations

import gc
import time
from typing import Any

import hypothesis.strategies as st
from hypothesis import example, given

from notebook_rt.sync.connection.presence import PACE, SLOWER, People, Throttle

CALLS, WINDOW = 4, 30.0
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.one_of(st.none(), st.integers(0, 5))),
        st.tuples(st.just("wait"), st.floats(0, 40)),
        st.tuples(st.just("rejoin"), st.none()),
    ),
    max_size=80,
)


@given(STEPS)
@example(
    [("wait", 1.9620100708386445), *[("want", value) for value in (0, None, 0, None, 0)]]
)  # now - WINDOW is rounded to another side than now - at
def test_never_more_calls_in_a_window_than_allowed_and_the_last_state_is_told(
    steps: list[tuple[str, float | None]],
) -> None:
    throttle, now = Throttle(CALLS, WINDOW), 100.0
    sent: list[float] = []
    told: object = None

    def continue_from() -> None:
        nonlocal told
        due = throttle.due(now)
        if due is not None and due <= now:
            told = throttle.take(now)
            sent.append(now)
            assert sum(at + WINDOW > now for at in sent) <= CALLS

    for what, value in steps:
        if what == "want":
            throttle.want(None if value is None else {"n": value})
        elif what == "rejoin":
            throttle.rejoined()
            told = None
        else:
            now += value or 0.0
        continue_from()
    for _ in range(CALLS + 1):
        now += WINDOW
        continue_from()
    assert told == throttle.wanted


@given(st.integers(3, 5), st.floats(0.0, 29.0), st.floats(0.01, 0.5))
@example(CALLS, 0.5, 0.01)
def test_the_last_state_of_a_fast_series_is_told_soon_after_it(
    calls: int, lasts: float, pace: float
) -> None:
    """All calls were gone with its first states, and the last one came when the window was over."""
    throttle, now, told = Throttle(calls, WINDOW), 100.0, None
    tracked = [100.0 + pace * n for n in range(int(lasts / pace) + 1)]
    for number, at in enumerate(tracked):
        throttle.want({"n": number})
        until = tracked[number + 1] if number + 1 < len(tracked) else at + WINDOW
        while (due := throttle.due(now)) is not None and due < until:
            now = max(due, at)
            told = throttle.take(now)
        now = max(now, min(until, tracked[-1]))
    assert told == {"n": len(tracked) - 1}
    quick = sum(PACE * SLOWER**n for n in range(calls - 2))
    """Seconds in which no window is full."""
    late = now - tracked[-1]
    assert late <= (max(PACE, SLOWER * lasts) if lasts < quick else WINDOW - quick) + 1e-6


def test_a_state_that_the_server_has_forgotten_is_told_at_once() -> None:
    throttle = Throttle(CALLS, WINDOW)
    throttle.want({"n": 1})
    throttle.take(0.0)
    throttle.rejoined()
    assert throttle.due(0.1) == 0.1


def test_nothing_is_said_where_nothing_changed() -> None:
    throttle = Throttle(CALLS, WINDOW)
    throttle.want({"n": 1})
    throttle.take(0.0)
    throttle.want({"n": 1})
    assert throttle.due(1.0) is None


def test_people_keep_when_they_came_and_are_told_of_once() -> None:
    people = People()
    came, gone = people.update({"a": [{"presence_ref": "1", "name": "A"}]}, 10.0)
    assert [p.key for p in came] == ["a"]
    assert gone == []
    state = {
        "a": [{"presence_ref": "2", "name": "A"}],
        "b": [{"presence_ref": "3"}, {"presence_ref": "4"}],
    }
    came, gone = people.update(state, 20.0)
    assert [(p.key, len(p.metas)) for p in came] == [("b", 2)]
    assert people.present["a"].joined_at == people.present["a"].last_seen == 10.0
    people.update({"a": [{"presence_ref": "5", "name": "A", "away": True}], "b": state["b"]}, 30.0)
    assert (people.present["a"].joined_at, people.present["a"].last_seen) == (10.0, 30.0)
    came, gone = people.update({}, 40.0)
    assert came == []
    assert {p.key for p in gone} == {"a", "b"}


def test_who_has_not_changed_costs_next_to_nothing_in_a_storm_of_others() -> None:
    people = People()
    state: dict[str, list[dict[str, Any]]] = {
        str(n): [{"presence_ref": str(n), "name": "A"}] for n in range(1_000)
    }
    people.update(state, 10.0)
    before = people.present["7"]
    began = time.perf_counter()
    for number in range(100):
        state["1"] = [{"presence_ref": f"x{number}", "number": number}]
        assert people.update(state, 20.0) == ([], [])
    took = time.perf_counter() - began
    assert people.present["7"] is before
    assert people.present["1"].metas == ({"number": 99},)
    began = time.perf_counter()
    for _ in range(100):
        People().update(state, 20.0)
    assert took < (time.perf_counter() - began) / 2


def test_calls_are_counted_whatever_a_collection_of_garbage_lets_happen_meanwhile() -> None:
    """It runs finalizers, and other threads with them, of which one makes calls."""
    throttle = Throttle(CALLS, WINDOW)

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            throttle.take(0.0)
            if left.pop():
                Garbage()

    threshold, left = gc.get_threshold(), [False, *[True] * 200]
    try:
        gc.set_threshold(1)
        Garbage()
        kept = []
        while left:
            kept.append([tuple([0] * size) for size in range(21)])  # none is left to be used again
            assert throttle.used(0.0) >= 0
    finally:
        gc.set_threshold(*threshold)
    assert throttle.used(0.0) > 0
