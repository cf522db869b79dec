"""How soon a received change is visible, also right after the first load (promise 5, 3.6)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Key
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.options import Options
from notebook_rt.sync.events import Change, Event, Gap, Joined, Lost, Received, ReceivedMessages
from tests.laws import examples
from tests.sync.simulation import Faults, World
from tests.sync.test_mirror_laws import converged, moves, pauses, play, server, sources, writes

many = settings(max_examples=examples(200), deadline=None, suppress_health_check=list(HealthCheck))


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
        self._revisions: dict[int, tuple[object, list[tuple[Key, int]]]] = {}
        """Each change or message by its identity, and the rows that it tells with their revisions."""
        super().__init__(*args, **more)

    def handle(self, event: Event) -> None:
        if isinstance(event, Joined | Lost | Gap):
            self._told.clear()
            self._unseen.clear()
        prompt: list[tuple[Key, int]] = []
        if self.mirror.rows is not None:
            for key, rev in self._tells(event):
                before = self._told.get(key)
                if before is not None and self._is_seen(key, before):
                    prompt.append((key, rev))
                self._told[key] = max(rev, before or 0)
                self._unseen.setdefault((key, rev), self.now)
        super().handle(event)
        self.late += [(key, rev) for key, rev in prompt if not self._is_seen(key, rev)]
        self._look()

    def _deliver(self, change: Change, join: int, rev: int) -> None:
        self._note(change, [(change.record or change.old_record or {})["id"]])
        super()._deliver(change, join, rev)

    def _sent(self, topic: str, message: dict[str, Any]) -> None:
        told = [row for one in message["changes"] for row in (one.get("rows") or one.get("gone"))]
        self._note(message, [row["id"] for row in told])
        super()._sent(topic, message)

    def _note(self, what: object, keys: list[Key]) -> None:
        told = [(key, self.server.history[key][-1][0]) for key in keys]
        self._revisions[id(what)] = (what, told)

    def _tells(self, event: Event) -> list[tuple[Key, int]]:
        """The rows of a change, or of messages, that came, with their revisions."""
        match event:
            case Received(change):
                return self._revisions[id(change)][1]
            case ReceivedMessages(messages):
                return [told for one in messages for told in self._revisions[id(one)][1]]
        return []

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
@given(stories, st.integers(0, 2**32), latencies, st.sampled_from((0.0, 0.15, 1.0)), sources)
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
    source="changes",
)
def test_behind_a_change_that_is_seen_the_next_of_its_row_is_seen_when_it_comes(
    story: list[Any], seed: int, latency: tuple[float, float], unseen: float, source: Source
) -> None:
    """Promise 6: within a join arrival order wins, from the first second on."""
    faults = Faults(latency=latency)
    one = server(source=source, entry_size=1_000)
    world = Watched(TableSpec("t", source=source), one, seed=seed, faults=faults)
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
    sources,
)
def test_no_change_waits_longer_than_reads_need_to_see_it(
    story: list[Any],
    seed: int,
    latency: tuple[float, float],
    unseen: float,
    text: str | None,
    toast: bool,
    source: Source,
) -> None:
    """Promise 5: what only a read can tell is read at once, and again soon if it sees less."""
    faults = Faults(latency=latency, read_time=(0.001, 0.01), toast=toast)
    options = Options(audit_interval=0)
    spec = TableSpec("t", filter=parse(text), source=source)
    one = server(source=source, entry_size=1_000)
    world = Watched(spec, one, seed=seed, options=options, faults=faults)
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
