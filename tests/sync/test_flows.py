"""A flow sends its next query first, and does the remaining work of the last answer meanwhile."""

from collections.abc import Callable

import pytest

from notebook_rt.sync.events import Cancel, Effect, Fetch, Fetched, FetchFailed, Page, Query
from notebook_rt.sync.table.flows import SENDING, Ahead, Flow, Flows, ReadRefusedError
from notebook_rt.sync.table.horizon import Horizon

PAGE = Page(rows=(), count=None, server_time=0.0)


class Play:
    """A flow that asks twice, the second time ahead of ``work``; what it does is in ``done``."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.done: list[str] = []
        self.out: list[Effect] = []
        self.flows = Flows(Horizon(), self.out.append)
        self.flows.start("main", self.flow(work), 0.0)
        self.flows.fetched(Fetched(1, PAGE))

    def flow(self, work: Callable[[], None]) -> Flow:
        yield [Query(())]
        try:
            yield Ahead(Query(()), lambda: (self.done.append("work"), work())[0])
        except ReadRefusedError:
            self.done.append("refused")
        except ValueError:
            self.done.append("failed")
        else:
            self.done.append("answered")


def nothing() -> None:
    pass


def broken() -> None:
    raise ValueError("this page")


def test_the_next_query_is_sent_before_the_work_and_the_answer_given_after_it() -> None:
    play = Play(nothing)
    assert [type(one) for one in play.out] == [Fetch, Fetch]
    assert play.done == []
    assert play.flows.wake_at == SENDING
    play.flows.tick(SENDING)
    assert play.done == ["work"]
    assert play.flows.wake_at is None
    play.flows.fetched(Fetched(2, PAGE))
    assert play.done == ["work", "answered"]


def test_an_answer_that_comes_at_once_waits_for_the_work() -> None:
    play = Play(nothing)
    play.flows.fetched(Fetched(2, PAGE))
    assert play.done == ["work", "answered"]


def test_a_refusal_too_waits_for_the_work() -> None:
    play = Play(nothing)
    play.flows.failed(FetchFailed(2, RuntimeError("no"), None), 0.0)
    assert play.done == ["work", "refused"]
    assert "main" not in play.flows


@pytest.mark.parametrize("at_once", [False, True])
def test_work_that_fails_is_the_flows_error_and_its_query_is_not_waited_for(at_once: bool) -> None:
    play = Play(broken)
    if at_once:
        play.flows.fetched(Fetched(2, PAGE))
    else:
        play.flows.tick(SENDING)
        assert play.out[-1] == Cancel(2)
    assert play.done == ["work", "failed"]
    assert "main" not in play.flows


def test_a_flow_that_is_stopped_leaves_its_work() -> None:
    play = Play(nothing)
    play.flows.stop("main")
    play.flows.tick(SENDING)
    assert play.done == []
    assert play.flows.wake_at is None
