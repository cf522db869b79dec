"""A server that does not answer a request causes a doubt, for tables and queries."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.errors import UnreachableError
from notebook_rt.sync.events import (
    AuditNow,
    Confirmed,
    Effect,
    Event,
    Fetch,
    FetchFailed,
    Joined,
    Lost,
    StatusChanged,
    Tick,
    Turn,
    TurnWanted,
    Wake,
)
from notebook_rt.sync.table.machine import UNANSWERED, Machine
from tests.laws import examples
from tests.sync.test_mirror_cases import live
from tests.sync.test_requery import World as QueryWorld
from tests.sync.test_requery import spec

laws = settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))


class Unanswered:
    """A live machine whose server gives no answer any more: it is silent, or requests fail."""

    def __init__(self, kind: str, fails: bool) -> None:
        self.machine: Machine
        if kind == "table":
            table = live()
            self.machine, self.now = table.mirror, table.now
        else:
            query = QueryWorld(spec())
            for event in (None, Joined(), Confirmed()):
                if event is not None:
                    query.feed(event)
                query.answer()
            query.now += 1.0
            query.feed(Tick())
            query.answer()
            self.machine, self.now = query.machine, query.now
        assert self.machine.status == "live"
        self.fails = fails
        self.wake = self.now
        self.asked: float | None = None
        """When the oldest question that has no answer was asked."""
        self.told = (self.machine.status, "")

    def feed(self, event: Event) -> None:
        effects: list[Effect] = self.machine.handle(event, self.now)
        then: list[Event] = []
        for effect in effects:
            match effect:
                case Fetch(request):
                    self.asked = self.now if self.asked is None else self.asked
                    if self.fails:
                        then.append(FetchFailed(request, UnreachableError("u", "gone"), 1.0))
                case Wake(at):
                    self.wake = at
                case StatusChanged(status, reason):
                    self.told = status, reason
                case TurnWanted():
                    then.append(Turn())
        for one in then:
            self.feed(one)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, max(self.wake, self.now + 0.01))
            self.feed(Tick())
            self.check()

    def check(self) -> None:
        if self.asked is not None and self.now >= self.asked + UNANSWERED + 0.05:
            status, reason = self.told
            assert status != "polling"
            assert status == "stale" or (self.machine.doubt and reason)
            assert "answered" in reason or "fail" in reason or "cannot reach" in reason


@laws
@given(
    st.sampled_from(["table", "query"]),
    st.booleans(),
    st.booleans(),
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=8),
)
def test_a_request_without_its_answer_is_a_doubt_of_a_table_and_of_a_query(
    kind: str, fails: bool, streams: bool, pauses: list[float]
) -> None:
    world = Unanswered(kind, fails)
    world.feed(AuditNow() if streams else Lost("the connection was lost"))
    for pause in pauses:
        world.run(pause)
    world.run(UNANSWERED + 1)
    assert world.asked is not None
    world.check()


@pytest.mark.parametrize("kind", ["table", "query"])
def test_a_doubt_is_told_when_it_begins_not_at_the_next_event(kind: str) -> None:
    world = Unanswered(kind, fails=False)
    world.feed(AuditNow())
    assert world.wake <= world.now + UNANSWERED
