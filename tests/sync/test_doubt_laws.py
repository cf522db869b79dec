"""Green is true (promise 4): a hint of a loss is a doubt until the end of an audit that began after it."""

from __future__ import annotations

import bisect
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Effect, Logged
from notebook_rt.sync.rate import WINDOW, ChangeRate
from notebook_rt.sync.table.auditing import HINTED_AFTER, HINTED_SHARE, SOON, AuditTimer
from notebook_rt.sync.usage import PLANS, TICK
from tests.laws import examples
from tests.sync.simulation import Faults, World
from tests.sync.test_mirror_laws import server, sources

many = settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))

steps = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.0, 10.0)),
    st.tuples(st.just("hint"), st.just(0.0)),
    st.tuples(st.just("hint until"), st.floats(0.0, 10.0)),
    st.tuples(st.just("audit"), st.floats(0.0, 1.0)),
)


@given(st.lists(steps, max_size=30), st.floats(0.5, 60.0), st.floats(0.0, 0.5))
def test_no_doubt_means_that_an_audit_began_after_the_last_hint_and_is_over(
    story: list[tuple[str, float]], interval: float, cost: float
) -> None:
    """And while there is doubt, an audit is due soon, at a bounded cost."""
    timer = AuditTimer(Options(audit_interval=interval, audit_max=60.0))
    now = 0.0
    timer.loaded(now, cost)
    hinted: list[float] = []
    """When each hint ended that no audit has answered."""
    for step, seconds in story:
        match step:
            case "wait":
                now += seconds
            case "hint":
                timer.hint(now, "a hint")
                hinted.append(now)
            case "hint until":
                timer.hint(now, "a burst", until=now + seconds)
                hinted.append(now + seconds)
            case _:
                began = now
                timer.began(began)
                answered = [end for end in hinted if end <= began]
                meanwhile = seconds > 0.5
                if meanwhile:
                    now += seconds / 2
                    timer.hint(now, "meanwhile")
                    hinted.append(now)
                now = began + seconds
                timer.ended(now, cost, clean=True)
                hinted = [
                    end for end in hinted if end not in answered or (meanwhile and end > began)
                ]
        assert bool(timer.doubt) == bool(hinted)
        if hinted:
            last_audit = max(HINTED_AFTER, cost / HINTED_SHARE)
            assert timer.at <= now + max(SOON, last_audit) + 1e-6


class Watched(World):
    """A world that knows whether its health would be green, and how old what it shows is."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.drifted = False
        self.committed: dict[int, float] = {}
        """When each revision was committed."""
        self.oldest = 0.0
        """Seconds for which a row was live and old, at the most."""
        super().__init__(*args, **more)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Logged) and effect.what in ("audit", "explained"):
            self.drifted = bool(effect.detail.get("differing"))
        super()._carry_out(effect)

    def change(self, key: int, note: str) -> None:
        self.server.write(key, {"note": note})
        self.committed[self.server.rev] = self.now

    @property
    def green(self) -> bool:
        return self.mirror.status == "live" and not self.mirror.doubt and not self.drifted

    @property
    def age(self) -> float:
        """Seconds since the first change that is not shown yet."""
        missed = []
        for key, row in self.view.items():
            history = self.server.history[key]  # the oldest first
            first = bisect.bisect_right(history, row["rev"], key=lambda state: state[0])
            if first < len(history):
                missed.append(self.committed[history[first][0]])
        return self.now - min(missed, default=self.now)

    def watch(self, seconds: float) -> None:
        """Let time pass; where it is green, what is not shown is on its way still."""
        end = self.now + seconds
        while self.now < end:
            self.run(min(0.1, end - self.now))
            age = self.age if self.mirror.status == "live" else 0.0
            self.oldest = max(self.oldest, age)
            if self.green:
                on_its_way = self.faults.latency[1] + 0.01
                if self.mirror.source == "broadcast":  # a loss that no later message shows
                    on_its_way = LOSS_SEEN
                assert age <= on_its_way, f"green, and {age:.1f} s old"


LOSS_SEEN = 3.0
"""Seconds in which a message that was lost is made up for."""
LIMIT = 10.0
"""Changes a second of the server's plan, so that a burst is small here."""
LONGEST = HINTED_AFTER + 2.0
"""Seconds for which a small table may be wrong after a burst: two audits, and what they take."""
bursts = st.tuples(
    st.integers(1, 400),  # changes
    st.sampled_from((0.0, 0.5, 3.0, 12.0)),  # seconds that they take
    st.sampled_from((1, 3, 8)),  # rows that they are of
    st.sampled_from((0.2, 1.0, 4.0, 9.0, 25.0)),  # seconds until the next
)


@many
@given(
    st.lists(bursts, min_size=1, max_size=5),
    st.integers(0, 2**32),
    st.sampled_from((4.0, 20.0, 60.0)),
    st.sampled_from((7, 1000)),
    st.sampled_from(((0.001, 0.02), (0.01, 0.4))),
    sources,
)
@example(  # the first tick passes whole, and what follows for half a minute is dropped
    [(300, 0.0, 8, 9.0), (1, 0.0, 8, 25.0)], 0, 20.0, 1000, (0.001, 0.02), "changes"
)
@example(  # rows that change again and again: what came, and what was found, is less than there was
    [(400, 3.0, 1, 4.0), (400, 12.0, 1, 25.0), (1, 0.0, 8, 25.0)],
    0,
    20.0,
    1000,
    (0.01, 0.4),
    "changes",
)
@example(  # the table was read, as the log had more, right after messages of rows that it was read for
    [(1, 0.0, 1, 0.2), (225, 12.0, 3, 0.2)], 0, 20.0, 1000, (0.01, 0.4), "broadcast"
)
def test_green_is_never_wrong_for_longer_than_a_change_is_on_its_way(
    shapes: list[tuple[int, float, int, float]],
    seed: int,
    interval: float,
    page_size: int,
    latency: tuple[float, float],
    source: Source,
) -> None:
    """Bursts of any shape, against a server that then drops what follows without a word."""
    faults = Faults(latency=latency, read_time=(0.001, 0.05), limit=LIMIT)
    options = Options(audit_interval=interval, page_size=page_size, audit_max=60.0)
    spec = TableSpec("t", source=source)
    world = Watched(spec, server(source=source), seed=seed, faults=faults, options=options)
    world.connect()
    world.run(8)
    world.watch(4)
    n = 0
    for changes, takes, rows, pause in shapes:
        for _ in range(changes):
            n += 1
            world.change(n % rows + 1, str(n))
            if takes:
                world.watch(takes / changes)
        world.watch(pause)
    world.watch(2 * WINDOW)
    assert world.green
    assert world.oldest <= (LONGEST if source == "changes" else LOSS_SEEN)


def test_a_server_that_sends_a_minute_above_the_limit_has_a_higher_one() -> None:
    """As a project of the pro plan does, or one's own server: its tables are not in doubt for ever."""
    rate = ChangeRate(None)
    for second in range(int(WINDOW) + 3 * int(TICK)):
        rate.count(150, float(second))
        doubted = second < rate.until
        assert doubted or second < 2 or second > WINDOW
    assert not doubted
    assert rate.limit > 150
    rate.count(20_000, 100.0)
    rate.lost(101.0)  # what came was not all there was
    assert rate.limit == PLANS["free"].messages_per_second
    assert rate.until > 160


def test_what_the_session_writes_counts_before_it_comes_back() -> None:
    """It may be dropped, and then nothing comes back."""
    rate = ChangeRate(None)
    for n in range(300):
        rate.wrote(1, n / 1000)
    assert rate.until > 3
    assert not rate.count(1, 0.5)  # known already


def test_a_gap_that_is_known_brings_the_audit_forward_and_is_no_doubt() -> None:
    """It is closed by what it is reconciled with: a session that is cut and back alarms nobody."""
    timer = AuditTimer(Options())
    timer.loaded(0.0, 0.1)
    timer.began(1.0)
    timer.ended(1.1, 0.1, clean=True)
    timer.hint(5.0, "")
    assert timer.at == 5.0 + SOON
    assert not timer.doubt


def test_a_few_changes_at_once_are_no_burst() -> None:
    rate = ChangeRate(None)
    assert not any(rate.count(50, float(second)) for second in range(300))
    assert rate.until < 0
