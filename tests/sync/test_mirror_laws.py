"""The laws of a live table (promises), with a server that is wrong, late and forgetful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Literal
from unittest import mock

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notebook_rt.edits.merge import Edit
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.filters import parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.model.types import Schema
from notebook_rt.options import Options
from notebook_rt.store.table import Table
from notebook_rt.sync.events import Logged, Published, RowSuspect
from tests.laws import WHOLE, examples
from tests.sync.simulation import Faults, Server, World

COLUMNS = {"id": "int8", "grp": "int4", "note": "text", "rev": "int8"}
many = settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
quiet_ones = settings(many, max_examples=examples(300, part=6))
"""For laws of long quiet times, which take most of what they cost."""

keys = st.integers(1, 12)
pauses = st.sampled_from((0.0, 0.0, 0.001, 0.05, 0.3, 1.0, 2.5))
writes = st.tuples(
    st.just("write"), keys, st.one_of(st.none(), st.integers(0, 2)), st.sampled_from("abc")
)
moves = st.tuples(st.just("move"), keys, keys)
PAIR = (1, 2, 3)
"""Rows that are written in one transaction."""
slow = st.tuples(
    st.just("slow"),
    keys,
    st.one_of(st.none(), st.integers(0, 2)),
    st.booleans(),
    st.booleans(),
    pauses,
)
logged = st.one_of(
    st.tuples(st.just("pair"), st.integers(0, 2)),
    slow,
    st.sampled_from((("truncate",), ("prune",), ("alter", "extra"))),
    st.sampled_from((("lose", 0.5), ("lose", 1.0), ("lose", 0.0))),
)
"""What only matters where changes come by broadcast."""
sources = st.sampled_from(("changes", "broadcast"))
faults = st.sampled_from((("disconnect",), ("connect",), ("gap",), ("network", False)))
steps = st.lists(st.tuples(pauses, st.one_of(writes, writes, writes, moves, faults)), max_size=40)


def play(world: World, story: list[tuple[float, tuple[Any, ...]]]) -> None:
    for pause, step in story:
        world.run(pause)
        match step:
            case ("write", key, None, _):
                world.server.write(key, None)
            case ("write", key, group, note):
                world.server.write(key, {"grp": group, "note": note})
            case ("move", key, to):
                world.server.move(key, to)
            case ("disconnect",):
                world.disconnect()
            case ("connect",):
                world.network = True
                world.connect()
            case ("gap",):
                world.gap()
            case ("network", up):
                world.network = up
            case ("truncate",):
                world.server.truncate()
            case ("pair", group):
                world.server.write_all([(key, {"grp": group}) for key in PAIR])
            case ("slow", key, group, early, commits, seconds):
                values = None if group is None else {"grp": group, "note": "slow"}
                end = world.server.write_slowly(key, values, early=early, commits=commits)
                world.at(world.now + seconds, end)
            case ("prune",):
                world.server.prune()
            case ("drop",):
                world.server.broadcasts = False
            case ("install", scope):
                world.server.install(scope)
            case ("renumber",):
                world.server.install(world.server.scope)
            case ("alter", name):
                added = {**world.server.columns, name: "int4"}
                world.server.alter(added if name not in world.server.columns else dict(COLUMNS))
            case ("lose", share):
                world.faults = replace(world.faults, loss=share)


def converged(world: World) -> None:
    assert world.failed is None
    assert world.differences == {}
    assert world.mirror.status == "live"


def server(rows: int = 8, source: str = "changes", **more: Any) -> Server:
    made = Server(dict(COLUMNS), broadcasts=source == "broadcast", **more)
    for key in range(1, rows + 1):
        made.write(key, {"grp": key % 3, "note": "start"})
    return made


beginnings = st.fixed_dictionaries(
    {
        "describes": st.sampled_from(("by the API", "by SQL", "not")),
        "rows": st.sampled_from((8, 8, 1, 0)),
    }
)
"""Who says which columns and key the table has, and how many rows there are to see them by."""


@many
@given(
    steps,
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from((3, 1000)),
    beginnings,
    sources,
    st.sampled_from((0.0, 0.3)),
    st.booleans(),
)
@example(  # the text that was committed before the join is not in the change that is told first
    story=[
        (0.0, ("disconnect",)),
        (0.0, ("connect",)),
        (0.0, ("connect",)),
        (0.3, ("write", 1, 0, "a")),
        (1.0, ("write", 1, 2, "a")),
    ],
    seed=885980845,
    passes_xmin=True,
    max_rows=1000,
    begins={"describes": "by the API", "rows": 8},
    source="changes",
    truncated=0.3,
    toast=True,
)
@example(  # a refused read, then a lost stream: the poll is due, and waits for the read's next try
    story=[
        (1.0, ("write", 1, 0, "a")),
        (0.0, ("write", 1, None, "a")),
        (1.0, ("disconnect",)),
    ],
    seed=1,
    passes_xmin=False,
    max_rows=3,
    begins={"describes": "not", "rows": 0},
    source="changes",
    truncated=0.0,
    toast=False,
)
def test_it_converges_and_never_goes_back(
    story: list[Any],
    seed: int,
    passes_xmin: bool,
    max_rows: int,
    begins: dict[str, Any],
    source: Source,
    truncated: float,
    toast: bool,
) -> None:
    """Promises 1, 2, 3, 5, 6, 9: whatever happens, ten quiet seconds later the view is the table."""
    one = server(passes_xmin=passes_xmin, max_rows=max_rows, source=source, **begins)
    faults = Faults(truncated=truncated, toast=toast)
    world = World(TableSpec("t", source=source), one, seed=seed, faults=faults)
    world.connect()
    play(world, story)
    world.settle(10)
    converged(world)


alters = st.sampled_from((("alter", "extra"), ("alter", "more")))


@quiet_ones
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, writes, moves, alters, faults)), max_size=30),
    st.integers(0, 2**32),
    st.booleans(),
    beginnings,
    sources,
    st.sampled_from(((0.005, 0.3), (0.005, 1.2), (1.0, 1.4))),
    st.booleans(),
    st.sampled_from((0.0, 0.15, 1.2)),
)
@example(  # a position was known that sees what was told, while a read was out that did not
    story=[
        (0.3, ("alter", "more")),
        (0.3, ("write", 1, None, "a")),
        (0.0, ("alter", "more")),
        (1.0, ("move", 1, 1)),
        (1.0, ("write", 1, 0, "a")),
    ],
    seed=11,
    passes_xmin=True,
    begins={"describes": "not", "rows": 8},
    source="broadcast",
    read_time=(0.005, 0.3),
    toast=False,
    unseen=1.2,
)
@example(  # the change came during the first load, and a second one read rows that were older
    story=[(0.3, ("alter", "extra")), (0.3, ("write", 1, 0, "a"))],
    seed=11,
    passes_xmin=True,
    begins={"describes": "not", "rows": 8},
    source="changes",
    read_time=(0.005, 0.3),
    toast=False,
    unseen=1.2,
)
@example(  # a deletion came with the columns of before, and the load of the new ones read the row
    story=[
        (0.0, ("move", 1, 1)),
        *[(0.0, ("write", 2, None, "a"))] * 6,
        (2.5, ("write", 2, None, "a")),
        (1.0, ("write", 3, None, "a")),
        (0.0, ("alter", "extra")),
        (0.0, ("move", 1, 2)),
    ],
    seed=0,
    passes_xmin=False,
    begins={"describes": "by the API", "rows": 8},
    source="changes",
    read_time=(0.005, 0.3),
    toast=False,
    unseen=1.2,
)
def test_columns_that_come_and_go_take_no_row_back(
    story: list[Any],
    seed: int,
    passes_xmin: bool,
    begins: dict[str, Any],
    source: Source,
    read_time: tuple[float, float],
    toast: bool,
    unseen: float,
) -> None:
    """Promises 1, 6, 9: also while reads are late; what nobody writes to is right after an audit."""
    one = server(passes_xmin=passes_xmin, source=source, **begins)
    faults = Faults(read_time=read_time, toast=toast)
    one.unseen = unseen
    world = World(TableSpec("t", source=source), one, seed=seed, faults=faults)
    world.connect()
    play(world, story)
    world.settle(2 * Options().audit_max)
    converged(world)


@quiet_ones
@given(
    st.lists(
        st.tuples(st.sampled_from((0.05, 0.3, 0.6)), writes),
        min_size=3,
        max_size=30,
    ),
    st.integers(0, 2**32),
    beginnings,
    st.sampled_from((0.0, 0.3, 1.0, 2.0, 3.0)),
    st.sampled_from(((5, 1), (1, 4))),
)
def test_what_is_lost_until_a_join_is_confirmed_twice_is_read(
    story: list[Any],
    seed: int,
    begins: dict[str, Any],
    again: float,
    pages: tuple[int, int],
) -> None:
    """Promises 1, 3: whenever the second confirmation comes in a long load, and without any audit."""
    one = server(**{**begins, "rows": 120})
    size, at_once = pages
    options = Options(page_size=size, audit_interval=0, reads_at_once=at_once)
    world = World(
        TableSpec("t"),
        one,
        seed=seed,
        faults=Faults(loss=1.0, read_time=(0.1, 0.5)),
        options=options,
    )
    world.connect_confirmed_twice(again)
    play(world, story)
    world.run(again)
    world.settle(30)
    converged(world)


@many
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, writes, moves, st.just(("gap",)))), max_size=40),
    st.integers(0, 2**32),
    st.sampled_from((0.15, 1.0)),
    st.sampled_from((None, "grp=eq.1")),
    st.sampled_from((0.0, 0.3)),
    st.booleans(),
    sources,
)
@example(  # the deletion says what is here, while a read is out that was sent before it
    story=[
        (0.0, ("write", 1, None, "a")),
        (1.0, ("write", 1, 0, "a")),
        (0.3, ("write", 1, None, "a")),
    ],
    seed=1,
    unseen=0.15,
    text=None,
    truncated=0.0,
    toast=False,
    source="changes",
)
def test_a_read_that_does_not_see_yet_what_was_told_takes_nothing_back(
    story: list[Any],
    seed: int,
    unseen: float,
    text: str | None,
    truncated: float,
    toast: bool,
    source: Source,
) -> None:
    """Promise 6: a commit is told a moment before other sessions see it."""
    unaudited = Options(audit_interval=0, page_size=5)
    faults = Faults(truncated=truncated, toast=toast, latency=(0.001, 0.05))
    spec = TableSpec("t", filter=parse(text), source=source)
    one = server(source=source)
    world = World(spec, one, seed=seed, options=unaudited, faults=faults)
    one.unseen = unseen
    world.connect()
    play(world, story)
    world.settle(10)
    converged(world)


ours = st.tuples(st.sampled_from(("edit", "insert", "delete")), keys, pauses, pauses)


@many
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, ours, ours)), max_size=30),
    st.integers(0, 2**32),
    st.sampled_from((None, "grp=eq.1")),
    st.sampled_from((0.0, 0.3)),
    st.booleans(),
    sources,
)
@example(  # the second edit of a row waits for the answer to the first, as in the queue
    story=[(0.0, ("edit", 1, 0.0, 0.05)), (0.0, ("edit", 1, 0.0, 0.0))],
    seed=1,
    text=None,
    truncated=0.3,
    toast=False,
    source="changes",
)
@example(  # ours came without its text, and the next one says what ours was based on
    story=[
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 2, 0, "b")),
        (0.0, ("write", 3, None, "a")),
        (0.3, ("write", 1, None, "a")),
        (0.0, ("edit", 2, 0.0, 0.05)),
        (0.0, ("write", 2, 0, "b")),
    ],
    seed=1,
    text=None,
    truncated=0.3,
    toast=False,
    source="changes",
)
@example(  # what changes no text comes behind what was held back as older than ours
    story=[
        (0.0, ("write", 1, 0, "a")),
        (0.0, ("insert", 9, 0.0, 0.0)),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 9, 0, "a")),
        (0.0, ("write", 9, 0, "a")),
    ],
    seed=166732,
    text=None,
    truncated=0.3,
    toast=True,
    source="changes",
)
@example(  # the event of the first comes while the answer to the third hides it
    story=[(0.0, ("edit", 1, 0.0, 0.0))] * 3,
    seed=1,
    text="grp=eq.1",
    truncated=0.0,
    toast=False,
    source="changes",
)
@example(  # the row of ours is gone before the answer to its insert, whose event was cut
    story=[
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("write", 1, None, "a")),
        (0.0, ("insert", 9, 0.0, 0.3)),
        (0.0, ("write", 9, None, "a")),
    ],
    seed=1,
    text=None,
    truncated=0.3,
    toast=False,
    source="changes",
)
@example(  # the event of the deletion comes after the answer to the insert
    story=[
        (0.0, ("write", 1, None, "a")),
        (0.0, ("delete", 2, 0.0, 0.0)),
        (0.0, ("insert", 2, 0.0, 0.0)),
    ],
    seed=0,
    text=None,
    truncated=0.0,
    toast=False,
    source="changes",
)
@example(  # ours is outside of the filter, so that no event of it comes
    story=[
        (0.0, ("edit", 1, 0.05, 0.0)),
        (0.0, ("insert", 9, 0.0, 0.0)),
        (0.0, ("write", 9, 1, "a")),
    ],
    seed=1,
    text="grp=eq.1",
    truncated=0.0,
    toast=False,
    source="changes",
)
def test_what_others_do_is_seen_soon_after_a_write_of_ours(
    story: list[Any],
    seed: int,
    text: str | None,
    truncated: float,
    toast: bool,
    source: Source,
) -> None:
    """A write's answer hides what is older, and nothing else, though no version tells the order."""
    spec = TableSpec("t", filter=parse(text), source=source)

    def make_rows(schema: Schema) -> Overlay:
        return Overlay(
            Table(schema),
            schema,
            matches=lambda row: spec.filter.matches(row, schema),
            suspect=lambda key: world.at(world.now, lambda: world.handle(RowSuspect(key))),
        )

    world = World(
        spec,
        server(source=source),
        seed=seed,
        options=Options(audit_interval=0, page_size=5),
        faults=Faults(truncated=truncated, toast=toast, latency=(0.001, 0.05)),
        make_rows=make_rows,
    )
    world.connect()
    world.run(8)
    one, numbers = world.server, iter(range(10**6))
    lanes: dict[int, list[Callable[[], None]]] = {}
    """A row's writes, the first under way: the next leaves when it was answered, as the queue has
    it (promises, edits: order is kept per row; ``outbox.rows.ready``)."""

    def next_of(key: int) -> None:
        lanes[key].pop(0)
        if lanes[key]:
            lanes[key][0]()

    def write(kind: str, key: int, until_sent: float, until_answered: float) -> None:
        overlay: Any = world.mirror.rows
        seen = overlay.view(key)
        if (seen is None) != (kind == "insert"):
            return
        number = next(numbers)
        values = {} if kind == "delete" else {"note": f"mine {number}"}
        edit: Any = Edit(str(number), kind, key, {**values, "id": key}, seen or {}, one.clock)
        if kind != "insert":
            edit = msgspec.structs.replace(edit, values=values)
        overlay.put([edit])

        def arrive() -> None:
            there = one.rows.get(key)
            refused = (there is None) != (kind == "insert")
            if kind == "edit" and there is not None:
                refused = there["note"] != edit.base["note"]
            if refused:
                world.mirror.rows.discard([edit.id])  # type: ignore[union-attr]
                next_of(key)
                return
            world.mirror.rows.sent([edit.id])  # type: ignore[union-attr]
            one.write(key, None if kind == "delete" else values)
            row = one.known.decode(one.rows[key]) if key in one.rows else None

            def answer() -> None:
                world.mirror.rows.settle(edit.id, row, now=one.now)  # type: ignore[union-attr]
                next_of(key)

            world.at(one.now + until_answered, answer)

        lane = lanes.setdefault(key, [])
        lane.append(lambda: world.at(one.now + until_sent, arrive))
        if len(lane) == 1:
            lane[0]()

    for pause, step in story:
        if step[0] == "write":
            play(world, [(pause, step)])
        else:
            world.run(pause)
            write(*step)
    world.settle(5)
    while any(lanes.values()):
        world.settle(5)
    world.settle(5)  # what was sent last has been told by then, and read again where need be
    converged(world)
    # Every row was seen or written here: where all have gone, no policy hides them.
    assert text or not world.mirror.may_be_hidden
    overlay: Any = world.mirror.rows
    assert {key: overlay.rows.get(key) for key in overlay.rows.keys()} == world.view  # noqa: SIM118


@many
@given(steps, st.integers(0, 2**32), sources)
def test_it_converges_with_a_watermark(story: list[Any], seed: int, source: Source) -> None:
    """Promise 3: changed rows by a watermark, keys that are gone by comparing."""
    broadcasts = source == "broadcast"
    one = Server({**COLUMNS, "updated_at": "timestamptz"}, max_rows=5, broadcasts=broadcasts)
    for key in range(1, 9):
        one.write(key, {"grp": key % 3, "note": "start"})
    world = World(TableSpec("t", source=source), one, seed=seed)
    world.connect()
    play(world, story)
    world.settle(10)
    converged(world)


@many
@given(
    steps,
    st.integers(0, 2**32),
    st.sampled_from(("grp=eq.1", "grp=in.(0,2),note=neq.a", "or=(grp.eq.1,note.eq.a)")),
    beginnings,
    sources,
)
def test_a_filtered_table_is_the_filtered_table(
    story: list[Any], seed: int, text: str, begins: dict[str, Any], source: Source
) -> None:
    """Promise 7: rows come and go by the filter, over the socket and by reconciliation."""
    spec = TableSpec("t", filter=parse(text), source=source)
    world = World(spec, server(source=source, **begins), seed=seed)
    world.connect()
    play(world, story)
    world.settle(10)
    converged(world)


@many
@given(
    steps,
    st.integers(0, 2**32),
    st.sampled_from(("grp", "grp.desc,note", "grp.desc.nullslast", "note.desc")),
    st.sampled_from((1, 3, 6)),
    st.booleans(),
    sources,
)
def test_order_and_limit_hold(
    story: list[Any], seed: int, order: str, limit: int, filtered: bool, source: Source
) -> None:
    """Promise 8: the first rows in the server's order, refilled when one leaves."""
    spec = TableSpec(
        "t",
        filter=parse("grp=neq.2" if filtered else None),
        order=parse_order(order),
        limit=limit,
        source=source,
    )
    with mock.patch("notebook_rt.sync.table.window.SPARE_LEAST", 1):
        world = World(spec, server(source=source), seed=seed)
        world.connect()
        play(world, story)
        world.settle(15)
        converged(world)


@many
@given(steps, st.integers(0, 2**32), sources)
def test_the_order_of_text_is_the_servers(story: list[Any], seed: int, source: Source) -> None:
    """Promise 8: where this side cannot know the order, the server is asked."""
    spec = TableSpec("t", order=parse_order("note,grp.desc"), source=source)
    world = World(spec, server(source=source), seed=seed)
    world.connect()
    play(world, story)
    world.settle(15)
    converged(world)


@many
@given(steps, st.integers(0, 2**32), st.booleans(), beginnings, sources)
def test_polling_is_the_same_table(
    story: list[Any], seed: int, filtered: bool, begins: dict[str, Any], source: Source
) -> None:
    """Promise 10: without a socket, true to the table within the longest poll."""
    spec = TableSpec("t", filter=parse("grp=eq.1" if filtered else None), source=source)
    one = server(source=source, **begins)
    world = World(spec, one, seed=seed, options=Options(page_size=7, poll_max=8))
    play(world, [(pause, step) for pause, step in story if step[0] in ("write", "network")])
    world.network = True
    world.run(20)
    assert world.differences == {}
    assert world.mirror.status == "polling"
    world.connect()
    world.run(5)
    converged(world)


@many
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, writes, st.just(("truncate",)))), max_size=30),
    st.integers(0, 2**32),
    st.sampled_from((0.3, 1.0)),
    st.booleans(),
    st.floats(2.5, 19.0),
    sources,
    st.sampled_from((0.0, 0.3)),
    st.booleans(),
)
def test_the_audit_finds_what_was_lost_silently(
    story: list[Any],
    seed: int,
    loss: float,
    passes_xmin: bool,
    interval: float,
    source: Source,
    truncated: float,
    toast: bool,
) -> None:
    """Promise 4: with every light green, the audit alone keeps the table true."""
    # An audit takes less than a quarter of the interval.
    quick = Faults(read_time=(0.005, 0.1), truncated=truncated, toast=toast)
    world = World(
        TableSpec("t", source=source),
        server(passes_xmin=passes_xmin, source=source),
        seed=seed,
        faults=quick,
        options=Options(page_size=7, audit_interval=interval),
    )
    world.connect()
    world.run(5)
    world.faults = replace(world.faults, loss=loss)
    play(world, story)
    world.run(world.options.audit_interval + 10)
    assert world.differences == {}
    assert world.mirror.status == "live"


def test_clock_skew_within_the_margin_changes_nothing() -> None:
    for seed in range(30):
        world = World(TableSpec("t"), server(), seed=seed, faults=Faults(date_skew=-0.9))
        world.connect()
        for n in range(40):
            world.run(0.1)
            world.server.write(n % 5, {"grp": n})
        world.settle(5)
        converged(world)


@pytest.mark.parametrize("source", ["changes", "broadcast"])
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_commits_in_one_millisecond_keep_their_order(seed: int, source: Source) -> None:
    world = World(TableSpec("t", source=source), server(source=source), seed=seed)
    world.connect()
    world.run(5)
    for n in range(1000):
        world.server.write(n % 10, {"grp": n} if n % 7 else None)
    world.settle(3)
    converged(world)


prices = st.sampled_from((None, None, None, 1.5, "Infinity", "-Infinity"))


@many
@given(
    st.lists(st.tuples(pauses, keys, prices, prices), max_size=60),
    st.integers(0, 2**32),
    st.integers(1, 3),
)
def test_nulls_that_are_believed_too_soon_are_true_after_an_audit(
    story: list[Any], seed: int, enough: int
) -> None:
    """Promise 11: what a null over the socket hides is shown at the next audit at the latest."""
    one = Server({"id": "int8", "price": "float8", "cost": "float8"})
    with mock.patch("notebook_rt.sync.table.nulls.TRUE_NULLS", enough):
        # An audit takes less than a quarter of the interval.
        quick, options = Faults(read_time=(0.005, 0.1)), Options(audit_interval=5.0)
        world = World(TableSpec("t"), one, seed=seed, faults=quick, options=options)
        world.connect()
        for pause, key, price, cost in story:
            world.run(pause)
            one.write(key, {"price": price, "cost": cost})
        world.settle(15)  # the next audit
    converged(world)


ODD_KEYS: dict[str, tuple[Any, ...]] = {
    "float8": ("NaN", "Infinity", "-Infinity", 0, -0.0, 1.5, 7),
    "numeric": ("NaN", "Infinity", Decimal("1.5"), Decimal("1.50"), 0, Decimal("0.00"), 2),
    "jsonb": ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, [], [1, "x"], "x", 7, True),
    "_int4": ([], [1], [1, 2], [2], [-3, 4]),
}
"""Keys as REST has them: special numbers, equal ones that are written otherwise, nested ones."""
places = st.integers(0, 6)


@many
@given(
    st.sampled_from(sorted(ODD_KEYS)),
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.tuples(st.just("write"), places, st.one_of(st.none(), st.integers(0, 2))),
                st.tuples(st.just("write"), places, st.integers(0, 2)),
                st.tuples(st.just("move"), places, places),
                st.tuples(st.sampled_from(("disconnect", "connect", "gap")), places, places),
            ),
        ),
        max_size=25,
    ),
    st.integers(0, 2**32),
    st.booleans(),
    st.sampled_from((2, 1000)),
    st.sampled_from(("by the API", "by SQL")),
    st.booleans(),
    sources,
)
def test_it_converges_whatever_a_key_is(
    pg_type: str,
    story: list[Any],
    seed: int,
    composite: bool,
    max_rows: int,
    describes: Literal["by the API", "by SQL"],
    filtered: bool,
    source: Source,
) -> None:
    """Promises 1, 2, 3, 5, 11: a key of NaN, of an infinity, of a zero, of a list or an object."""
    columns = {"k": pg_type, "m": "int8", "grp": "int4", "note": "text", "rev": "int8"}
    key = ("k", "m") if composite else ("k",)
    broadcasts = source == "broadcast"
    one = Server(columns, key, max_rows=max_rows, describes=describes, broadcasts=broadcasts)
    known = ODD_KEYS[pg_type]

    def place(number: int) -> Any:
        value = known[number % len(known)]
        return (value, number % 2) if composite else value

    for number in range(4):
        one.write(place(number), {"grp": number % 3, "note": "start"})
    spec = TableSpec("t", filter=parse("grp=eq.1" if filtered else None), source=source)
    world = World(spec, one, seed=seed, options=Options(page_size=3))
    world.connect()
    for pause, (what, first, second) in story:
        world.run(pause)
        match what:
            case "write":
                one.write(place(first), None if second is None else {"grp": second, "note": "a"})
            case "move":
                one.move(place(first), place(second))
            case "disconnect":
                world.disconnect()
            case "connect":
                world.connect()
            case "gap":
                world.gap()
    world.settle(60)  # an audit, too
    converged(world)


# Changes that come by broadcast -------------------------------------------------------------------

told = st.lists(
    st.tuples(
        pauses,
        st.one_of(writes, writes, moves, logged, logged, st.one_of(faults, st.just(("renumber",)))),
    ),
    max_size=40,
)


@many
@given(
    told,
    st.integers(0, 2**32),
    st.sampled_from((0.0, 0.15, 1.2)),
    st.sampled_from(((None, None), ("grp=eq.1", None), ("grp=eq.1", "grp"))),
    st.sampled_from((0.0, 0.3)),
    st.sampled_from((10_000, 400_000, 1_000_000)),
    st.sampled_from((0.002, 0.4)),
)
@example(
    [(2.5, ("write", 1, 0, "a")), (0.0, ("renumber",)), (1.0, ("move", 1, 1))],
    0,
    0.0,
    (None, None),
    0.0,
    10_000,
    0.4,
)
@example(
    [(2.5, ("write", 2, None, "a")), (0.0, ("renumber",))],
    0,
    1.2,
    (None, None),
    0.0,
    10_000,
    0.002,
)
@example(
    [(0.0, ("alter", "extra")), (0.0, ("write", 1, None, "a")), (0.05, ("alter", "extra"))],
    1,
    0.0,
    ("grp=eq.1", "grp"),
    0.0,
    10_000,
    0.002,
)
def test_no_message_that_is_lost_late_or_doubled_leaves_a_wrong_row(
    story: list[Any],
    seed: int,
    unseen: float,
    followed: tuple[str | None, str | None],
    doubled: float,
    size: int,
    overtaking: float,
) -> None:
    """Promises 1, 2, 3, 5, 6 without any audit: numbers show a loss, and the log says what it was.

    Also where the topic is that of one value of a column.
    """
    unaudited = Options(audit_interval=0, page_size=5)
    text, scope = followed
    one = server(
        source="broadcast", entry_size=size, published=False, describes="by SQL", scope=scope
    )
    spec = TableSpec("t", filter=parse(text), source="broadcast")
    late = Faults(doubled=doubled, overtaking=overtaking)
    world = World(spec, one, seed=seed, options=unaudited, faults=late)
    one.unseen = unseen
    world.connect()
    play(world, story)
    world.settle(20)
    one.write(1, {"note": "end", "grp": 1})  # which shows the columns of now, in each topic
    world.settle(20)
    converged(world)


@many
@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                writes,
                moves,
                logged,
                faults,
                st.sampled_from((("drop",), ("install", None), ("install", "grp"))),
            ),
        ),
        max_size=40,
    ),
    st.integers(0, 2**32),
    st.sampled_from(("changes", "broadcast")),
    st.sampled_from((None, "grp")),
    st.sampled_from((None, "grp=eq.1", "note=eq.a")),
)
def test_a_table_whose_sql_is_dropped_or_other_goes_on_without_a_gap(
    story: list[Any], seed: int, source: str, scope: str | None, text: str | None
) -> None:
    """What falls back to Postgres Changes, or has another topic, is true again at once, and does not go
    back in time.
    """
    one = server(source=source, scope=scope)
    spec = TableSpec("t", filter=parse(text), source="auto")
    world = World(spec, one, seed=seed, options=Options(page_size=5))
    world.connect()
    play(world, story)
    world.settle(120)  # an audit finds what a TRUNCATE did that Postgres Changes do not tell
    converged(world)
    assert world.mirror.source == ("broadcast" if world.mirror.topic else "changes")
    assert world.joined == (world.mirror.topic or world.mirror.bindings)
    if source == "broadcast" and text == "grp=eq.1" and ("drop",) not in [one for _, one in story]:
        assert world.mirror.source == "broadcast"
    asked = text == "grp=eq.1" or one.scope is None
    assert world.mirror.source == "changes" or (one.broadcasts and asked)


def losses(most: int, quiet: st.SearchStrategy[float]) -> Callable[[Any], Any]:
    """Stories of so many steps at ``most``, each with a quiet time after which messages are lost."""
    return given(
        st.lists(st.tuples(pauses, st.one_of(writes, moves, logged, faults)), max_size=most),
        quiet,
        st.sampled_from((1, 3)),
        st.integers(0, 2**32),
        st.floats(0.0, 2.0),
    )


@quiet_ones
@losses(20, st.floats(0.0, 600.0))
@example(  # its number was drawn before the head was asked for, and it committed after the table was read
    [(0.0, ("slow", 2, None, True, True, 2.5)), (0.0, ("lose", 0.5)), (2.5, ("prune",))],
    0.0,
    1,
    0,
    0.0,
)
@example(  # its number was missing, and was given up while it was open
    [
        (2.5, ("slow", 2, None, True, True, 2.5)),
        (0.0, ("write", 3, 1, "a")),
        (1.0, ("lose", 1.0)),
        (2.0, ("lose", 0.0)),
    ],
    0.0,
    1,
    0,
    0.0,
)
def test_every_message_that_is_lost_is_made_up_for_within_three_seconds(
    story: list[Any], quiet: float, writes: int, seed: int, phase: float
) -> None:
    """Also the last ones, of a table at which nothing has happened for a while."""
    made_up_for(story, quiet, writes, seed, phase)


@settings(many, max_examples=4)
@losses(5, st.floats(600.0, (6 if WHOLE else 3) * 3600.0))
def test_hours_of_quiet_make_no_loss_last_longer(
    story: list[Any], quiet: float, writes: int, seed: int, phase: float
) -> None:
    made_up_for(story, quiet, writes, seed, phase)


def made_up_for(story: list[Any], quiet: float, writes: int, seed: int, phase: float) -> None:
    """After a quiet time the last messages are lost; three seconds later they have been read."""
    unaudited = Options(audit_interval=0, page_size=5)
    quick = Faults(read_time=(0.001, 0.1))
    spec = TableSpec("t", source="broadcast")
    one = server(source="broadcast")
    world = World(spec, one, seed=seed, options=unaudited, faults=quick, phase=phase)
    world.connect()
    play(world, story)
    world.settle(20)
    world.server.write(1, {"note": "the last that comes"})
    world.run(quiet)
    world.faults = replace(world.faults, loss=1.0)
    for number in range(writes):
        world.server.write(1 + number, {"note": "lost"})
    world.run(3.0)
    converged(world)


@many
@given(
    st.lists(st.tuples(pauses, st.one_of(writes, moves)), max_size=20),
    st.integers(0, 2**32),
    st.sampled_from((0.0, 0.4)),
    sources,
)
def test_what_is_told_says_when_it_was_committed(
    story: list[Any], seed: int, loss: float, source: Source
) -> None:
    """By either source; what is read from the table has no such time."""
    unaudited = Options(audit_interval=0, page_size=5)
    world = World(TableSpec("t", source=source), server(source=source), options=unaudited)
    world.connect()
    world.settle(10)
    known = len(world.effects)
    committed: set[float] = set()
    write = world.server._set

    def note(*args: Any) -> None:
        committed.add(world.server.clock)
        write(*args)

    world.server._set = note  # type: ignore[method-assign]  # notes when something was committed
    if source == "broadcast":
        world.faults = replace(world.faults, loss=loss)
    play(world, story)
    world.settle(20)
    converged(world)
    for _, effect in world.effects[known:]:
        if isinstance(effect, Published):
            assert effect.commit_time is not None or effect.cause in ("reconcile", "refetch")
            if source == "broadcast":  # by Postgres Changes in whole milliseconds
                assert effect.commit_time in {None, *committed}


def test_what_a_quiet_table_asks_is_counted() -> None:
    """An hour of rest costs what the design notes say, whatever was before: a question every 2 s."""
    unaudited = Options(audit_interval=0)
    world = World(TableSpec("t", source="broadcast"), server(source="broadcast"), options=unaudited)
    world.connect()
    world.run(10)
    for _ in range(3):
        before = world.requests
        world.run(3600)
        assert world.requests - before <= 1801


@many
@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                st.tuples(st.just("pair"), st.integers(0, 50)),
                st.sampled_from((("lose", 0.5), ("lose", 0.0), ("disconnect",), ("connect",))),
            ),
        ),
        max_size=40,
    ),
    st.integers(0, 2**32),
)
def test_a_transaction_is_seen_as_one(story: list[Any], seed: int) -> None:
    """Nobody sees half of what one transaction wrote, however many messages it came in, as long as the
    log is followed: what compares the whole table, an audit, applies what it finds.
    """
    one = server(source="broadcast", entry_size=1_000)
    one.write_all([(key, {"grp": 0}) for key in PAIR])
    unaudited = Options(audit_interval=0, page_size=2)
    world = World(TableSpec("t", source="broadcast"), one, seed=seed, options=unaudited)
    halves: list[Any] = []
    check = world._check

    def check_and_look() -> None:
        check()
        if len({row["grp"] for key, row in world.view.items() if key in PAIR}) > 1:
            halves.append((world.now, world.view))

    world._check = check_and_look  # type: ignore[method-assign]  # looks after every event
    world.connect()
    play(world, story)
    world.settle(15)
    converged(world)
    assert halves == []


@many
@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(
                writes,
                st.tuples(st.just("pair"), st.integers(0, 50)),
                st.sampled_from((("disconnect",), ("connect",))),
            ),
        ),
        max_size=40,
    ),
    st.integers(0, 2**32),
)
def test_where_nothing_is_lost_nothing_is_said_to_be(story: list[Any], seed: int) -> None:
    """What was sent before a join was not lost in it, however high its number."""
    world = World(TableSpec("t", source="broadcast"), server(source="broadcast"), seed=seed)
    world.connect()
    play(world, story)
    world.settle(30)
    converged(world)
    told = [
        effect.detail.get("reason", "") for _, effect in world.effects if isinstance(effect, Logged)
    ]
    assert not [reason for reason in told if "lost" in reason]
