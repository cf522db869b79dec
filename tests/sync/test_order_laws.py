"""With a key of text, the shown order is one that the server may return, after every change.

A text sorts by a collation that only the server knows (here: Python's order of strings, which nothing but
the simulated server uses). So of rows that are alike in the terms before the first text any order is
right until the server has said; all else is known at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.order import OrderBy, nulls_first, parse_order
from notebook_rt.model.rows import RowChange
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.sync.events import Effect, Fetch, Published
from notebook_rt.sync.table.mirror import MAIN
from notebook_rt.sync.table.window import Window
from tests.laws import examples
from tests.sync.simulation import Faults, Server, World
from tests.sync.test_mirror_laws import COLUMNS as LAW_COLUMNS
from tests.sync.test_mirror_laws import converged, play, sources
from tests.sync.test_mirror_laws import steps as story_steps

COLUMNS = {"id": "text", "a": "int4", "b": "float8", "note": "text", "rev": "int8"}
ORDERS = (
    "a",
    "a.desc",
    "a.desc.nullslast",
    "a.asc.nullsfirst,b.desc",
    "b.desc.nullslast,a",
    "b.desc",
    "a.desc,note",
    "b,note.desc,a",
    "note",
    "note.desc.nullslast,a",
)
TEXTS = ("note",)
AT_ONCE = Faults(latency=(0.001, 0.001), read_time=(0.02, 0.3))
many = settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))

keys = st.sampled_from([f"k{number}" for number in (1, 10, 11, 2, 3, 4, 5, 6, 7, 8)])
numbers = st.one_of(st.integers(0, 30), st.integers(0, 3), st.none())
values = st.fixed_dictionaries(
    {},
    optional={
        "a": numbers,
        "b": st.one_of(numbers, st.just("NaN")),
        "note": st.one_of(st.sampled_from("abc"), st.none()),
    },
)
steps = st.lists(
    st.tuples(
        st.sampled_from((0.0, 0.0, 0.01, 0.1, 0.4, 1.0)),
        keys,
        st.one_of(values, values, values, values, st.none()),
    ),
    max_size=20,
)


counts = st.sampled_from((2000, 2000, 3, 0))
"""Of how many rows it is counted which are alike."""


@contextmanager
def sizes(spare: int, counted: int) -> Iterator[None]:
    with (
        mock.patch("notebook_rt.sync.table.window.SPARE_LEAST", spare),
        mock.patch("notebook_rt.sync.table.replica.COUNTED_MOST", counted),
    ):
        yield


class Watched(World):
    """Says of each batch whether it could be right, as of what the server has at that moment."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.told: list[RowChange] = []
        super().__init__(*args, **options)

    def _tell(self, changes: Sequence[RowChange]) -> None:
        self.told += changes
        assert isinstance(self.view_of, Ordered)
        for change in changes:
            was = self.replayed.pop(change.key, None)
            assert (was is None) == (change.kind == "insert"), change
            if change.new is not None:
                self.replayed[change.key] = change.new
        assert {*self.replayed} == {*self.view_of.keys()}
        if self.look() and self.by_stream:
            self.look_at_told(changes)

    @property
    def seen_columns(self) -> list[str]:
        return list(COLUMNS)  # without a snapshot for each batch

    @property
    def by_stream(self) -> bool:
        effect: Effect = self.effects[-1][1]
        return isinstance(effect, Published) and effect.cause == "stream"

    @property
    def window(self) -> Window:
        replica = self.mirror._passes.replica
        assert replica is not None
        assert replica.window is not None
        return replica.window

    def place(self, key: Any) -> tuple[Any, ...]:
        """What the rows' order is known by, as a key to sort by."""
        row = self.server.rows[key]
        return tuple(_place(term, row[term.column]) for term in self.known)

    @property
    def known(self) -> list[OrderBy]:
        names = [term.column for term in self.spec.order]
        first = next((at for at, name in enumerate(names) if name in TEXTS), len(names))
        return list(self.spec.order[:first])

    def look(self) -> bool:
        """What is shown is the server's answer but for rows that are alike; False: a change is under
        way, or a row is being read, for what a change told of it may be older than what was read.
        """
        replica = self.mirror._passes.replica
        assert replica is not None
        assert isinstance(self.view_of, Ordered)
        if replica.undecided or self._arrives > self.now:
            return False
        shown, there = self.view_of.keys(), self.server.rows
        assert {*shown} <= {*there}
        assert {key: self.seen[key]["rev"] for key in shown} == {k: there[k]["rev"] for k in shown}
        places = [self.place(key) for key in shown]
        assert places == sorted(places), "in an order that the server does not give"
        outside = [self.place(key) for key in there if key not in {*shown}]
        if (
            places and outside and not self.is_read
        ):  # what the old edge kept out may be before the new
            assert min(outside) >= places[-1], "a row is missing before the last that is shown"
        full = len(there) if self.spec.limit is None else min(self.spec.limit, len(there))
        assert len(shown) == full or self.is_read, "rows are missing, and nobody asks for them"
        return True

    @property
    def is_read(self) -> bool:
        return self.window.stale or MAIN in self.mirror._flows

    def look_at_told(self, changes: Sequence[RowChange]) -> None:
        """What leaves is deleted, or sorts behind all that comes in its place and what is kept."""
        left = [one.key for one in changes if one.kind == "delete" and one.key in self.server.rows]
        came = [one.key for one in changes if one.kind == "insert"]
        for key in left:
            assert came or (key not in self.view and self.is_read), f"{key} had to stay"
            assert not came or max(map(self.place, came)) < self.place(key), f"{key} had to stay"


def _place(term: OrderBy, value: Any) -> tuple[Any, ...]:
    if value is None:
        return (not nulls_first(term), 0, 0)
    nan = value == "NaN"
    sign = -1 if term.desc else 1
    return (nulls_first(term), sign * nan, 0 if nan else sign * value)


def watched(order: str, limit: int | None, seed: int, rows: dict[str, Any]) -> Watched:
    one = Server(dict(COLUMNS))
    for key, row in rows.items():
        one.write(key, {"a": None, "b": None, "note": None, **row})
    spec = TableSpec("t", order=parse_order(order), limit=limit, source="changes")
    world = Watched(spec, one, seed=seed, faults=AT_ONCE, make_rows=Table)
    world.mirror.want_changes = True
    world.connect()
    world.run(4)
    assert world.mirror.status == "live"
    world.told.clear()
    return world


def right(world: Watched) -> None:
    assert isinstance(world.view_of, Ordered)
    assert world.view_of.keys() == [world.server.key_of(row) for row in world.selected]


@many
@given(
    st.dictionaries(keys, values, min_size=4),
    steps,
    st.sampled_from(ORDERS),
    st.sampled_from((None, 1, 3, 5)),
    st.sampled_from((1, 3)),
    counts,
    st.integers(0, 2**32),
)
def test_an_order_with_a_key_of_text_is_right_after_every_change(
    rows: dict[str, Any],
    story: list[Any],
    order: str,
    limit: int | None,
    spare: int,
    counted: int,
    seed: int,
) -> None:
    """Promise 8: at once but for rows that are alike, and these as soon as the server has said."""
    with sizes(spare, counted):
        world = watched(order, limit, seed, rows)
        right(world)
        for pause, key, changed in story:
            world.run(pause)
            if changed is None:
                world.server.write(key, None)
            else:
                new = {} if key in world.server.rows else {"a": None, "b": None, "note": None}
                world.server.write(key, {**new, **changed})
            world.run(0.002)
            world.look()
        world.settle(5)
        right(world)


def test_the_leader_that_falls_a_little_is_told_as_one_update_and_nothing_is_read() -> None:
    rows = {f"k{number}": {"b": 100.0 - number} for number in range(1, 10)}
    world = watched("b.desc", 3, 1, rows)
    world.run(5)
    world.effects.clear()
    world.server.write("k1", {"b": 98.9})
    world.run(1)
    assert [(one.kind, one.key) for one in world.told] == [("update", "k1")]
    assert not any(isinstance(effect, Fetch) for _, effect in world.effects)
    right(world)


@pytest.mark.parametrize(("value", "asked"), [(97.5, False), (98.0, True), (1.0, False)])
def test_the_server_is_asked_only_where_a_row_is_alike_another(value: float, asked: bool) -> None:
    rows = {f"k{number}": {"b": 100.0 - number} for number in range(1, 10)}
    world = watched("b.desc.nullslast", None, 1, rows)
    world.run(5)
    world.effects.clear()
    world.server.write("k1", {"b": value})
    world.run(1)
    assert any(isinstance(effect, Fetch) for _, effect in world.effects) is asked
    right(world)


@many
@given(
    story_steps,
    st.integers(0, 2**32),
    st.sampled_from(("grp", "grp.desc", "grp.desc.nullslast,note", "note.desc,grp")),
    st.sampled_from((None, 1, 3, 6)),
    st.booleans(),
    sources,
    counts,
    st.booleans(),
)
def test_an_order_with_a_key_of_text_holds_whatever_is_lost(
    story: list[Any],
    seed: int,
    order: str,
    limit: int | None,
    filtered: bool,
    source: Source,
    counted: int,
    lossy: bool,
) -> None:
    """Promise 8: as `test_order_and_limit_hold`, where most rows are alike in what is known here."""
    one = Server({**LAW_COLUMNS, "id": "text"}, broadcasts=source == "broadcast")
    for number in range(1, 9):
        one.write(f"k{number}", {"grp": number % 3, "note": "start"})
    spec = TableSpec(
        "t",
        filter=parse("grp=neq.2" if filtered else None),
        order=parse_order(order),
        limit=limit,
        source=source,
    )
    with sizes(1, counted):
        world = World(spec, one, seed=seed, faults=Faults(loss=0.1 * lossy))
        world.connect()
        play(world, [(pause, _with_keys_of_text(step)) for pause, step in story])
        world.settle(15)
        if lossy:
            world.gap()
            world.settle(15)
        converged(world)


def _with_keys_of_text(step: tuple[Any, ...]) -> tuple[Any, ...]:
    match step:
        case ("write", key, *rest):
            return ("write", f"k{key}", *rest)
        case ("move", key, to):
            return ("move", f"k{key}", f"k{to}")
    return step
