"""The transport to the browser: nothing without viewers, limited rates, and the whole state on return."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.widgets.leases import ASK, PROMPT, Leases
from notebook_rt.widgets.lifetime import UNNAMED, Cells
from notebook_rt.widgets.pump import Pump
from notebook_rt.widgets.transport import (
    BEAT,
    NOTEBOOK_BYTES,
    NOTEBOOK_RATE,
    WIDGET_RATE,
    Budget,
    Link,
    Message,
)


class Counter:
    """A model whose state is a number; ``size`` bytes ride along."""

    def __init__(self, size: int = 0) -> None:
        self.value = 0
        self.words: list[Mapping[str, Any]] = []
        self.gone: list[str] = []
        self._buffers = (b"x" * size,) if size else ()

    def whole(self, view: str) -> Sequence[Message]:
        return [Message({"t": "state", "n": self.value}, self._buffers, whole=True, to=view)]

    def update(self) -> Sequence[Message]:
        return [Message({"t": "state", "n": self.value}, self._buffers)]

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        self.words.append(content)

    def view_closed(self, view: str) -> None:
        self.gone.append(view)

    def wants(self) -> float:
        return float("inf")


def looking(link: Link, view: str = "v", now: float = 0.0) -> list[dict[str, Any]]:
    link.receive({"view": view, "t": "look"}, now)
    return [content for content, _ in link.take(now)]


def play(link: Link, seconds: float, *, answer: bool = True, step: float = 0.001) -> list[Any]:
    """A change every millisecond from time 1 on; what was sent."""
    sent = []
    for i in range(int(seconds / step)):
        now = 1 + i * step
        link.mark(now)
        for content, buffers in link.take(now):
            sent.append((now, content, buffers))
            if answer and content["ack"]:
                link.receive({"view": "v", "t": "ack", "seq": content["seq"]}, now)
    return sent


class Page:
    """A browser that draws in order, each message after a delay, and says so where it is asked."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.on_their_way: deque[tuple[float, dict[str, Any]]] = deque()
        self.drawn: list[dict[str, Any]] = []
        self.acks: list[float] = []

    def step(self, now: float, delay: float) -> None:
        """Take what is sent now, and draw what is due; one delayed more holds up those behind it."""
        for content, _ in self.link.take(now):
            self.on_their_way.append((now, content))
        while self.on_their_way and self.on_their_way[0][0] + delay <= now:
            _, content = self.on_their_way.popleft()
            self.drawn.append(content)
            if content["ack"]:
                self.acks.append(now)
                self.link.receive({"view": "v", "t": "ack", "seq": content["seq"]}, now)


def drawing(link: Link) -> Page:
    """A page that looks and has drawn the whole."""
    page = Page(link)
    link.receive({"view": "v", "t": "look"}, 0.0)
    page.step(0.0, 0.0)
    return page


def test_nothing_is_sent_to_nobody():
    link = Link(Counter(), Budget())
    assert not link.mark(5.0)
    assert link.due(5.0) is None
    assert link.take(5.0) == []


def test_a_view_that_looks_gets_one_whole_state():
    link = Link(Counter(), Budget())
    first = looking(link)
    assert [m["whole"] for m in first] == [True]
    assert first[0]["to"] == "v"
    assert link.take(1.0) == []


def test_a_view_that_returns_gets_one_whole_state_and_no_backlog():
    model = Counter()
    link = Link(model, Budget())
    looking(link)
    link.receive({"view": "v", "t": "leave"}, 1.0)
    assert model.gone == ["v"]
    for n in range(1000):
        model.value = n
        link.mark(2.0)
    assert link.take(2.0) == []
    link.receive({"view": "v", "t": "look"}, 3.0)
    back = [content for content, _ in link.take(3.0)]
    assert back[-1]["whole"]
    assert back[-1]["n"] == 999
    assert len(back) == 1


def test_a_widget_sends_at_most_thirty_messages_a_second():
    link = Link(Counter(), Budget())
    looking(link)
    sent = play(link, 3.0)
    assert 0.8 * 3 * WIDGET_RATE <= len(sent) <= 3 * WIDGET_RATE + 1


def test_what_comes_in_one_burst_of_a_stream_is_one_message():
    link = Link(Counter(), Budget())
    looking(link)
    sent = 0
    for millisecond in range(2000):
        now = 1 + millisecond / 1000
        if millisecond % 50 in (0, 3, 6):  # twenty bursts a second
            link.mark(now)
        for content, _ in link.take(now):
            sent += 1
            link.receive({"view": "v", "t": "ack", "seq": content["seq"]}, now)
    assert 40 <= sent <= 41  # the first one could not be told for a stream's


def test_what_changes_after_a_rest_is_sent_at_once():
    link = Link(Counter(), Budget())
    looking(link)
    link.mark(1.0)
    assert link.due(1.0) == 1.0
    assert len(link.take(1.0)) == 1


def test_at_most_two_messages_are_on_their_way():
    link = Link(Counter(), Budget())
    first = looking(link)
    link.receive({"view": "v", "t": "ack", "seq": first[0]["seq"]}, 0.5)
    sent = play(link, 3.0, answer=False)
    assert len(sent) == 2


def test_a_prompt_page_is_asked_four_times_a_second_and_a_late_one_each_time():
    page = drawing(Link(Counter(), Budget()))
    for millisecond in range(10_000):
        now = 1 + millisecond / 1000
        page.link.mark(now)
        page.step(now, 0.02 if now < 6 else 0.15)
    prompt = [at for at in page.acks if 1.5 < at < 6]
    assert 0.8 * 4 * 4.5 <= len(prompt) <= 4 * 4.5 + 1
    assert all(content["ack"] for content in page.drawn[-20:])


MOST_ON_THEIR_WAY = 13
"""To a page that stalls: those since it was asked last, those within ``PROMPT``, and one more."""


@given(
    delays=st.lists(
        st.tuples(st.floats(0.01, 1.5), st.sampled_from([0.0, 0.01, 0.05, 0.09, 0.11, 0.3, 1.0])),
        min_size=1,
        max_size=8,
    ),
    every=st.sampled_from([0.001, 0.005, 0.02, 0.05, 0.12, 0.3, 0.7]),
)
def test_whatever_the_page_s_delay_is_little_is_on_its_way_and_the_last_is_drawn(
    delays: list[tuple[float, float]], every: float
) -> None:
    model = Counter()
    page = drawing(Link(model, Budget()))
    now = changed = 1.0
    slow_since = float("inf")
    for seconds, delay in delays:
        end = now + seconds
        slow_since = min(slow_since, now) if delay > PROMPT else float("inf")
        while now < end:
            now += 0.001
            if now - changed >= every:
                changed = now
                model.value += 1
                page.link.mark(now)
            page.step(now, delay)
            assert len(page.on_their_way) <= MOST_ON_THEIR_WAY
            if now > slow_since + 1.5:  # what was sent before has been drawn, and told it
                assert len(page.on_their_way) <= 2
    for _ in range(1500):
        now += 0.001
        page.step(now, 0.3)
    assert len(page.link.leases) == 1
    assert page.drawn[-1]["n"] == model.value
    assert not page.on_their_way


@given(
    last=st.floats(1.0, 4.0),
    every=st.sampled_from([0.001, 0.03, 0.12, 0.3, 1.0]),
    delay=st.sampled_from([0.0, 0.2]),
)
def test_a_page_that_goes_without_a_word_is_missed_while_anything_changes(
    last: float, every: float, delay: float
) -> None:
    page = drawing(Link(Counter(), Budget()))
    changed = 0.0
    for millisecond in range(16_000):
        now = millisecond / 1000
        if now - changed >= every:
            changed = now
            page.link.mark(now)
        if now < last:
            page.step(now, delay)
        else:
            page.link.take(now)
        if now > last + page.link.leases.patience + ASK + every + delay + 0.1:
            assert not page.link.leases


def test_what_changed_meanwhile_is_sent_after_the_acknowledgement():
    model = Counter()
    link = Link(model, Budget())
    looking(link)
    play(link, 1.0, answer=False)
    model.value = 77
    link.mark(2.5)
    assert link.take(2.5) == []
    link.receive({"view": "v", "t": "ack", "seq": 99}, 2.6)
    (content, _), *rest = link.take(2.6)
    assert content["n"] == 77
    assert rest == []


def test_a_view_that_keeps_silent_is_taken_to_be_gone_and_welcomed_back_with_the_whole():
    on_viewer: list[str] = []
    link = Link(Counter(), Budget(), on_viewer=on_viewer.append)
    looking(link)
    play(link, 1.0, answer=False)
    link.mark(20.0)
    assert link.take(20.0) == []
    assert len(link.leases) == 0
    assert on_viewer == ["seen", "unseen"]
    link.receive({"view": "v", "t": "ack", "seq": 2}, 21.0)
    assert any(content["whole"] for content, _ in link.take(21.0))
    assert on_viewer == ["seen", "unseen", "seen"]


def test_a_busy_cell_that_hears_nothing_stops_neither_messages_nor_leases():
    link = Link(Counter(), Budget(), deaf=lambda: True)
    looking(link)
    sent = play(link, 10.0, answer=False)
    assert 0.8 * 10 * WIDGET_RATE <= len(sent) <= 10 * WIDGET_RATE + 1
    assert len(link.leases) == 1


def test_a_cell_that_starts_while_acknowledgements_are_due_holds_up_nothing():
    busy = False
    model = Counter()
    link = Link(model, Budget(), deaf=lambda: busy)
    looking(link)
    play(link, 1.0, answer=False)
    model.value = 77
    link.mark(1.0)
    assert link.take(1.0) == []  # two are on their way
    due = link.due(1.0)
    assert due is not None
    assert due <= 1.1
    busy = True  # what says that they were drawn waits for the cell now
    assert [content["n"] for content, _ in link.take(due)] == [77]


def test_two_views_each_get_the_whole_and_the_slower_one_sets_the_pace():
    link = Link(Counter(), Budget())
    looking(link, "v")
    assert looking(link, "w", now=0.1)[0]["to"] == "w"
    sent = play(link, 2.0)  # only v answers
    assert len(sent) <= 2


def test_a_silent_widget_says_that_it_lives():
    link = Link(Counter(), Budget())
    link.receive({"view": "v", "t": "ack", "seq": looking(link)[0]["seq"]}, 0.1)
    assert link.take(BEAT - 1) == []
    assert [content["t"] for content, _ in link.take(BEAT + 0.1)] == ["beat"]


def test_a_notebook_sends_at_most_a_hundred_messages_a_second():
    budget = Budget()
    links = [Link(Counter(), budget) for _ in range(20)]
    for link in links:
        link.receive({"view": "v", "t": "look"}, 0.0)
    count = 0
    for i in range(3000):
        now = i / 1000
        for link in links:
            link.mark(now)
            for content, _ in link.take(now):
                count += 1
                link.receive({"view": "v", "t": "ack", "seq": content["seq"]}, now)
    assert count <= 3 * NOTEBOOK_RATE * 1.1 + 20


def test_a_notebook_sends_at_most_two_megabytes_a_second():
    link = Link(Counter(size=400_000), Budget())
    looking(link)
    sent = sum(len(buffers[0]) for _, _, buffers in play(link, 5.0))
    assert sent <= 5 * NOTEBOOK_BYTES + NOTEBOOK_BYTES


def test_the_browser_s_network_and_tab_are_told_to_the_session():
    on_viewer: list[str] = []
    link = Link(Counter(), Budget(), on_viewer=on_viewer.append)
    for kind in ("offline", "online", "hidden", "visible"):
        link.receive({"view": "v", "t": kind}, 0.0)
    assert on_viewer == ["offline", "online", "hidden", "visible"]


def test_a_word_of_the_user_reaches_the_model_and_is_answered():
    model = Counter()
    link = Link(model, Budget())
    looking(link)
    link.receive({"view": "v", "t": "retry", "id": "7"}, 1.0)
    assert model.words == [{"view": "v", "t": "retry", "id": "7"}]
    assert len(link.take(1.0)) == 1


def test_an_acknowledgement_of_what_was_never_sent_counts_for_nothing():
    leases = Leases()
    leases.renew("v")
    assert leases.sent(0.0) == (1, True)
    leases.acknowledge("v", 10**9, 0.0)
    assert leases.unacked == 0
    assert leases.sent(1.0) == (2, True)
    assert leases.unacked == 1


def test_a_model_that_raises_stops_no_other_widget(caplog):
    class Broken(Counter):
        def whole(self, view: str) -> Sequence[Message]:
            raise ValueError("no")

    time = [0.0]
    pump = Pump(clock=lambda: time[0])
    broken, good = Link(Broken(), pump.budget), Link(Counter(), pump.budget)
    sent: list[Any] = []
    pump._links = {broken: lambda c, b: None, good: lambda c, b: sent.append(c)}
    for link in (broken, good):
        link.receive({"view": "v", "t": "look"}, 0.0)
        link.mark(0.0)
    pump.step()
    assert sent
    assert caplog.text.count("could not be drawn") == 1
    time[0] = 1.0
    pump.step()
    assert caplog.text.count("could not be drawn") == 1
    time[0] = 10.0
    pump.step()
    assert caplog.text.count("could not be drawn") == 2


def test_a_cell_run_again_closes_what_it_made_before():
    cells: Cells[str] = Cells()
    assert cells.made("a", "cell", "run 1") == []
    assert cells.made("b", "cell", "run 1") == []
    assert cells.made("c", "other", "run 2") == []
    assert cells.made("d", "cell", "run 3") == ["a", "b"]
    assert len(cells) == 2


def test_without_names_of_cells_the_oldest_unseen_go():
    cells: Cells[int] = Cells(seen=lambda w: w == 0)
    closed = [old for n in range(3 * UNNAMED) for old in cells.made(n, None, "")]
    assert len(cells) == UNNAMED
    assert 0 not in closed
    assert closed == list(range(1, 2 * UNNAMED + 1))


def test_a_view_that_asks_again_because_it_has_nothing_gets_the_whole():
    link = Link(Counter(), Budget())
    looking(link)
    assert [m["whole"] for m in looking(link, now=1.0)] == [True]
    assert len(link.leases) == 1
