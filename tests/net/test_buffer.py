"""A table's events are passed on in order, and unrepeatable ones are never lost."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from notebook_rt.runtime.buffer import Buffer
from notebook_rt.sync.events import Change, Event, Gap, Received, ReceivedMany, Turn


def change(number: int) -> Change:
    return Change("INSERT", {"id": number}, None, (), float(number))


def test_an_overflow_loses_changes_behind_a_gap_and_no_event() -> None:
    fed: list[Event] = []

    async def play() -> None:
        buffer = Buffer(4, 100, fed.append)
        buffer.event(Turn())
        for number in range(9):
            buffer.change(change(number))
        buffer.event(Turn())
        await asyncio.sleep(0)
        buffer.change(change(9))
        await asyncio.sleep(0)

    asyncio.run(play())
    # What came behind the gap was dropped too, before anybody could read on account of it.
    assert [type(one) for one in fed] == [Turn, Gap, ReceivedMany, Turn, Received]


def test_what_is_dropped_after_a_gap_was_fed_is_behind_another() -> None:
    fed: list[Event] = []

    async def play() -> None:
        buffer = Buffer(4, 1, fed.append)  # one item a turn: it is never empty in this flood
        for number in range(30):
            for _ in range(4):
                buffer.change(change(number))
            await asyncio.sleep(0)
        for _ in range(8):
            await asyncio.sleep(0)

    asyncio.run(play())
    assert sum(isinstance(one, Gap) for one in fed) > 1
    received = [one for one in fed if isinstance(one, Gap | Received)]
    for before, after in itertools.pairwise(received):
        if isinstance(before, Received) and isinstance(after, Received):
            was, now = before.change.commit_time, after.change.commit_time
            assert was is not None
            assert now is not None
            assert now - was <= 1.0  # four of each number came: one that is missing is behind a gap


def test_what_is_fed_may_fail_and_the_next_is_fed(caplog: pytest.LogCaptureFixture) -> None:
    fed: list[Event] = []

    def feed(event: Event) -> None:
        fed.append(event)
        if isinstance(event, Gap):
            raise RuntimeError("a test")

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        buffer = Buffer(100, 100, feed)
        buffer.event(Gap("lost"))
        buffer.event(Turn())
        buffer.change(change(1))
        buffer.change(change(2))
        for _ in range(3):
            await asyncio.sleep(0)
        buffer.event(Turn())
        await asyncio.sleep(0)

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(play())
    assert [type(one) for one in fed] == [Gap, Turn, ReceivedMany, Turn]
