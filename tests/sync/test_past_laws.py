"""The law of a recorded past and its mirror, with a server that is wrong and forgetful."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.edits.merge import Edit
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Key
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.model.types import Schema, equal
from notebook_rt.options import Options
from notebook_rt.runtime.recording import PROOFS, Recording
from notebook_rt.store.table import Table
from notebook_rt.sync.events import Change, Effect, Event, Logged, RowSuspect, Shown
from notebook_rt.sync.history.past import ForgottenMomentError
from tests.laws import examples
from tests.sync.simulation import Faults, World
from tests.sync.test_mirror_laws import moves, pauses, play, server, slow, sources, writes

many = settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HOUR = 3600 * 10**6

ours = st.tuples(st.just("edit"), st.integers(1, 12), st.sampled_from((0.05, 0.3, 1.0)))
network = st.sampled_from(
    (("disconnect",), ("connect",), ("gap",), ("network", False), ("lose", 0.5), ("lose", 0.0))
)
told = st.sampled_from((("truncate",), ("prune",))) | st.tuples(st.just("pair"), st.integers(0, 2))
steps = st.lists(
    st.tuples(pauses, st.one_of(writes, writes, moves, ours, network, slow, told)), max_size=30
)
TOLD_TO = 10_000
"""Microseconds to which it is known when something was committed."""


class Recorded(World):
    """A world whose table is recorded, as `TableDriver` has it recorded, and who keeps every state."""

    def __init__(self, spec: TableSpec, one: Any, **more: Any) -> None:
        self.recording: Recording | None = None
        self.kept: list[tuple[int, dict[Key, dict[str, Any]]]] = []
        self.commits: list[int] = []
        self.unfound: dict[Key, list[tuple[int, float]]] = {}
        """What was lost of a row and neither overtaken yet nor compared: rev and time."""
        self.untold: list[tuple[Key, float, float]] = []
        """Rows, and when they lacked what was lost without a word, and overtaken by a change that came, or
        undone, before the table was compared: of that nothing tells.
        """
        self.numbers = iter(range(10**6))
        self.waiting: set[Key] = set()
        self.driver: Any = SimpleNamespace(
            name="t", spec=spec, dtype_backend=None, overlay=None, table=None, ordered=None
        )
        clock = SimpleNamespace(is_known=True)
        rest = SimpleNamespace(clock=lambda: one.clock, server_clock=clock)
        self.driver.services = SimpleNamespace(rest=rest, lock=threading.Lock())
        self.driver.thread = SimpleNamespace(spawn=self._spawn)

        def make_rows(schema: Schema) -> Overlay:
            table = Table(schema)
            made = Overlay(
                table,
                schema,
                matches=lambda row: spec.filter.matches(row, schema),
                suspect=lambda key: self.at(self.now, lambda: self.handle(RowSuspect(key))),
            )
            self.tables[id(made)] = table
            return made

        self.tables: dict[int, Table] = {}
        set_row = one._set

        def commit(*what: Any) -> None:
            self.commits.append(round(one.clock * 1e6))
            set_row(*what)

        truncate = one.truncate

        def truncate_untold() -> None:
            before = set(one.rows)
            truncate()
            if not one.broadcasts:
                for key in before.difference(one.rows):
                    self._lose(key, one.rev)

        one._set, one.truncate = commit, truncate_untold
        super().__init__(spec, one, make_rows=make_rows, **more)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> Any:
        work.close()  # nothing is old enough to be forgotten
        return SimpleNamespace(add_done_callback=lambda done: done(None))

    def handle(self, event: Event) -> None:
        self.driver.machine = self.mirror
        before = len(self.effects)
        super().handle(event)
        if self.recording is None and self.driver.overlay is not None:
            self.recording = Recording(self.driver, HOUR, 1 << 30)
            self.recording.start()
        elif self.recording is not None:
            self.recording.receive([effect for _, effect in self.effects[before:]])
        for _, effect in self.effects[before:]:
            if isinstance(effect, Logged) and effect.what in PROOFS:
                self._compared(effect)

    def _compared(self, effect: Logged) -> None:
        """What was lost before a comparison began is found by it, unless it was undone."""
        began = self.server.clock - effect.detail["elapsed"]
        for key in self.unfound.keys() - effect.detail["undecided"]:
            lost = [one for one in self.unfound[key] if one[1] < began]
            if lost and not (
                self._was_there(key, lost[0][0] - 1) or self._was_there(key, lost[-1][0])
            ):
                self.untold.append((key, lost[0][1], lost[-1][1]))
            self.unfound[key] = self.unfound[key][len(lost) :]

    def _was_there(self, key: Key, rev: int) -> bool:
        states = [state for at, state in self.server.history.get(key, ()) if at <= rev]
        return bool(states) and self._visible(states[-1])

    def _carry_out(self, effect: Effect) -> None:
        super()._carry_out(effect)
        if isinstance(effect, Shown):
            self.driver.overlay = effect.rows
            self.driver.table = self.tables[id(effect.rows)]
            if self.recording is not None:
                rows: Any = effect.rows  # an Overlay: made above
                self.recording.show(rows, before=effect.before)

    def _lose(self, key: Key, rev: int) -> None:
        super()._lose(key, rev)
        self.unfound.setdefault(key, []).append((rev, self.server.clock))

    def _hear(self, change: Change, rev: int) -> None:
        super()._hear(change, rev)
        names = {self.server.key_of(row) for row in (change.record, change.old_record) if row}
        for key in names:
            state = next(state for at, state in self.server.history[key] if at == rev)
            row = None if self.mirror.rows is None else self.mirror.rows.get(key)
            true = (
                state is not None
                and self.inside(state)
                and equal(row, self.server.known.decode(state))
            )
            left = state is None or not self.inside(state)
            earlier = [at for lost, at in self.unfound.get(key, ()) if lost < rev]
            if earlier and (left or true or change.errors):  # after errors it is read
                assert change.commit_time is not None
                self.untold.append((key, min(earlier), change.commit_time))
                self.unfound[key] = [one for one in self.unfound[key] if one[0] > rev]

    def is_untold(self, key: Key, when: int) -> bool:
        """Whether nothing tells what the row was."""
        return any(
            key == one and round(since * 1e6) - TOLD_TO <= when <= round(until * 1e6) + TOLD_TO
            for one, since, until in self.untold
        )

    def keep(self) -> None:
        """Note what the server has now."""
        if self.mirror.schema is not None:
            self.kept.append((round(self.server.clock * 1e6), self.truth))

    def edit(self, key: Key, until_answered: float) -> None:
        """A write of ours: shown, then sent, then answered."""
        overlay: Any = self.mirror.rows
        if overlay is None or key in self.waiting or overlay.view(key) is None:
            return
        one, number = self.server, next(self.numbers)
        seen = overlay.view(key)
        made = Edit(str(number), "edit", key, {"note": f"mine {number}"}, seen, one.clock)
        overlay.put([made])
        self.waiting.add(key)

        def arrive() -> None:
            rows: Any = self.mirror.rows
            there = one.rows.get(key)
            if there is None or there["note"] != seen["note"] or rows is not overlay:
                rows.discard([made.id])
                self.waiting.discard(key)
                return
            rows.sent([made.id])
            one.write(key, dict(made.values))
            row = one.known.decode(one.rows[key])

            def answer() -> None:
                rows.settle(made.id, row, now=one.now)
                self.waiting.discard(key)  # the next one leaves when it was answered

            self.at(one.now + until_answered, answer)

        self.at(one.now + 0.05, arrive)

    def live_through(self, story: list[Any]) -> None:
        for pause, step in story:
            if pause >= 0.05:
                self.run(pause - 0.01)
                self.keep()
                pause = 0.01  # so that what comes is committed later
            self.run(pause)
            if step[0] == "edit":
                self.edit(*step[1:])
            else:
                play(self, [(0.0, step)])

    def is_true(self) -> None:
        assert self.recording is not None
        for when, expected in self.kept:
            if any(abs(when - at) < TOLD_TO for at in self.commits):
                continue
            try:
                moment = self.recording.read(lambda past, when=when: past.at(when))  # type: ignore[misc]  # the default is of mypy's making
            except ForgottenMomentError:  # before it was recorded
                continue
            if moment.gap is not None:
                continue
            table = moment.table()
            for key in {*expected, *table.keys()}:
                if not self.is_untold(key, when):
                    gaps = self.recording.read(lambda past: past.gaps)
                    assert equal(table.get(key), expected.get(key)), (when, key, gaps)


worlds = st.tuples(
    steps,
    st.integers(0, 2**32),
    st.sampled_from((None, "grp=eq.1")),
    st.sampled_from((0.0, 0.3)),
    st.booleans(),
    sources,
)
"""A story, chance, a filter, and what goes wrong: frames that are cut, columns that are left out."""


@many
@given(worlds)
def test_where_no_gap_is_said_the_past_is_what_the_server_had(world: tuple[Any, ...]) -> None:
    """Frames lost without a word, cut or late; networks that go; reads, audits, and edits of ours."""
    live_through(*world)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("until_answered", [0.001, 0.02, 0.1])
def test_an_edit_is_recorded_once_whichever_comes_first_answer_or_change(
    until_answered: float, seed: int
) -> None:
    """The answer may be here, and nothing else have happened, when its change comes."""
    faults = Faults(latency=(0.01, 0.03))
    world = Recorded(TableSpec("t"), server(), seed=seed, faults=faults)
    clock = SimpleNamespace(monotonic=lambda: world.now)
    with mock.patch("notebook_rt.runtime.recording.time", clock):
        world.connect()
        world.run(8)
        world.edit(1, until_answered)
        world.run(30)
    assert world.differences == {}
    assert world.recording is not None
    assert world.recording.read(len) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_first_row_of_an_empty_table_is_recorded_at_its_commit(seed: int) -> None:
    """The change that brings it is the first to name the columns."""
    one = server(rows=0, describes="not")
    world = Recorded(TableSpec("t"), one, seed=seed)
    world.connect()
    world.run(8)
    one.write(1, {"grp": 1, "note": "x"})
    committed = round(one.clock * 1e6)
    world.run(8)
    assert world.differences == {}
    assert world.recording is not None
    assert world.recording.read(len) == 1
    assert world.recording.read(lambda past: (past.last, past.gaps)) == (committed, [])


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(many, max_examples=5_000)
@given(worlds)
def test_where_no_gap_is_said_the_past_is_what_the_server_had_of_many(
    world: tuple[Any, ...],
) -> None:
    live_through(*world)


def live_through(
    story: list[Any], seed: int, text: str | None, truncated: float, toast: bool, source: Source
) -> None:
    spec = TableSpec("t", filter=parse(text), source=source)
    options = Options(page_size=5, audit_interval=3.0)
    faults = Faults(truncated=truncated, toast=toast)
    world = Recorded(spec, server(source=source), seed=seed, options=options, faults=faults)
    clock = SimpleNamespace(monotonic=lambda: world.now)
    with mock.patch("notebook_rt.runtime.recording.time", clock):
        world.connect()
        world.run(8)
        world.live_through(story)
        world.settle(30)  # and audits have found what was lost
    world.keep()
    assert world.differences == {}
    world.is_true()
    assert world.recording is not None
    moment = world.recording.read(lambda past: past.at(world.kept[-1][0]))
    assert moment.gap is None
