"""How soon a change is seen after it came, also right after the first load (promise 5, 3.6)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Key
from notebook_rt.model.spec import TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Change, Event, Gap, Joined, Lost, Received
from tests.sync.simulation import Faults, World
from tests.sync.test_mirror_laws import converged, moves, pauses, play, server, writes

many = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


class Watched(World):
    """A world that notes when each change came and when its row was first seen as it says, or newer."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self.waits: list[float] = []
        """Seconds from arrival to sight."""
        self.late: list[tuple[Key, int]] = []
        """Changes that were not seen on arrival, though the one before of their row had been."""
        self._told: dict[Key, int] = {}
        """The last revision told of each row in this join."""
        self._unseen: dict[tuple[Key, int], float] = {}
        self._revisions: dict[int, tuple[Change, int]] = {}
        """Each change by its identity, and the revision of its row that it tells."""
        super().__init__(*args, **more)

    def handle(self, event: Event) -> None:
        if isinstance(event, Joined | Lost | Gap):
            self._told.clear()
            self._unseen.clear()
        if not isinstance(event, Received) or self.mirror.rows is None:
            super().handle(event)
            self._look()
            return
        key, rev = self._version(event.change)
        before = self._told.get(key)
        seen_before = before is not None and self._is_seen(key, before)
        self._told[key] = max(rev, before or 0)
        self._unseen.setdefault((key, rev), self.now)
        super().handle(event)
        if seen_before and not self._is_seen(key, rev):
            self.late.append((key, rev))
        self._look()

    def _deliver(self, change: Change, join: int) -> None:
        self._revisions[id(change)] = (change, self.server.history[self._key(change)][-1][0])
        super()._deliver(change, join)

    def _key(self, change: Change) -> Key:
        key: Key = (change.record or change.old_record or {})["id"]
        return key

    def _version(self, change: Change) -> tuple[Key, int]:
        return self._key(change), self._revisions[id(change)][1]

    def _is_seen(self, key: Key, rev: int) -> bool:
        if self.shown.get(key, -1) >= rev:
            return True
        states = [state for at, state in self.server.history[key] if at >= rev]
        return key not in self.view and not all(map(self._visible, states))

    def _look(self) -> None:
        for (key, rev), at in tuple(self._unseen.items()):
            if self._is_seen(key, rev):
                self.waits.append(self.now - at)
                del self._unseen[key, rev]


stories = st.lists(st.tuples(pauses, st.one_of(writes, writes, moves)), max_size=40)
latencies = st.sampled_from(((0.001, 0.005), (0.01, 0.4), (0.3, 2.0)))


@many
@given(stories, st.integers(0, 2**32), latencies, st.sampled_from((0.0, 0.15, 1.0)))
@example(  # a read that shows what a change has told, between that change and the next
    story=[
        (1.0, ("write", 9, None, "a")),
        (1.0, ("write", 9, None, "a")),
        (1.0, ("move", 1, 1)),
        (0.001, ("write", 1, 0, "a")),
        (1.0, ("write", 1, None, "a")),
    ],
    seed=0,
    latency=(0.001, 0.005),
    unseen=0.0,
)
def test_behind_a_change_that_is_seen_the_next_of_its_row_is_seen_when_it_comes(
    story: list[Any], seed: int, latency: tuple[float, float], unseen: float
) -> None:
    """Promise 6: within a join arrival order wins, from the first second on."""
    faults = Faults(latency=latency)
    world = Watched(TableSpec("t"), server(), seed=seed, faults=faults)
    world.server.unseen = unseen
    world.connect()
    play(world, story)
    world.settle(10)
    converged(world)
    assert world.late == []


@many
@given(
    stories,
    st.integers(0, 2**32),
    latencies,
    st.sampled_from((0.0, 0.15, 1.0)),
    st.sampled_from((None, "grp=eq.1")),
    st.booleans(),
)
def test_no_change_waits_longer_than_reads_need_to_see_it(
    story: list[Any],
    seed: int,
    latency: tuple[float, float],
    unseen: float,
    text: str | None,
    toast: bool,
) -> None:
    """Promise 5: what only a read can tell is read at once, and again soon if it sees less."""
    faults = Faults(latency=latency, read_time=(0.001, 0.01), toast=toast)
    options = Options(audit_interval=0)
    spec = TableSpec("t", filter=parse(text))
    world = Watched(spec, server(), seed=seed, options=options, faults=faults)
    world.server.unseen = unseen
    world.connect()
    world.run(5)
    if (
        toast
    ):  # a row moved to a deleted key without all its values: a read may still see the old one
        story = [(pause, step) for pause, step in story if step[0] != "move"]
    play(world, story)
    world.settle(10)
    converged(world)
    # Of a row that is back in the filter, without all its values, a read may show those that it had
    # before it left: it is shown when a read certainly sees that it had left.
    back = options.visible_within if toast and text else 0.0
    assert max(world.waits, default=0.0) <= 0.2 + 2 * unseen + back
