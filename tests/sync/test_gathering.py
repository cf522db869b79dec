"""The laws of reading a socket."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.sync.connection.gathering import LONGEST, MEMORY, RATE, SHORTEST, Gathering

gaps = st.lists(st.sampled_from([0.0, 1e-5, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 0.03, 1.0]), max_size=200)


def readings(times: list[float], gathering: Gathering) -> list[tuple[float, list[float]]]:
    """When each of the messages that come at ``times`` is read: the readings, and what each finds."""
    found: list[tuple[float, list[float]]] = []
    free = 0.0
    waiting = list(times)
    while waiting:
        now = max(free, waiting[0])
        read = [at for at in waiting if at <= now]
        waiting = waiting[len(read) :]
        found.append((now, read))
        free = now + gathering.pause(len(read), now)
    return found


@given(gaps)
def test_no_message_waits_longer_than_a_pause_and_none_after_a_silence(
    between: list[float],
) -> None:
    times = list(accumulate(between))
    found = readings(times, Gathering())
    assert [at for _, read in found for at in read] == times
    before = float("-inf")
    for now, read in found:
        assert now - read[0] <= LONGEST
        if read[0] - before >= LONGEST:
            assert now == read[0]
        before = now


@given(gaps, st.integers(1, 10_000))
def test_a_pause_is_within_its_bounds(between: list[float], messages: int) -> None:
    gathering = Gathering()
    for now in accumulate(between):
        pause = gathering.pause(messages, now)
        assert pause == 0.0 or SHORTEST <= pause <= LONGEST


@given(gaps, st.lists(st.floats(1.05 / RATE, 1.0), max_size=50))
def test_what_comes_seldom_is_read_as_it_comes_whatever_came_before(
    stormy: list[float], in_grace: list[float]
) -> None:
    gathering = Gathering()
    now = 0.0
    for gap in stormy:
        now += gap
        gathering.pause(1, now)
    now += 10 * MEMORY
    for gap in in_grace:
        now += gap
        assert gathering.pause(1, now) == 0.0


@pytest.mark.parametrize(
    ("rate", "least", "most"), [(100, 1.0, 1.0), (1000, 5.0, 6.5), (2000, 2.7, 3.3)]
)
def test_a_stream_is_read_a_few_messages_at_a_time(rate: int, least: float, most: float) -> None:
    times = [number / rate for number in range(2 * rate)]
    found = readings(times, Gathering())
    later = [read for now, read in found if now > 1.0]  # the rate is known by then
    assert least <= sum(map(len, later)) / len(later) <= most


def test_a_burst_twenty_times_a_second_is_gathered_from_its_first_messages_on() -> None:
    times = [burst / 20 + number / 3000 for burst in range(40) for number in range(50)]
    found = readings(times, Gathering())
    later = [read for now, read in found if now > 1.0]
    assert 50 * 20 / len(later) >= 5


def test_what_comes_faster_than_a_pause_would_help_is_not_held_up() -> None:
    gathering = Gathering()
    assert [gathering.pause(100, number / 100) for number in range(20)][-1] == 0.0
