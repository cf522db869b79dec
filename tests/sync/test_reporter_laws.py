"""The reported changes, replayed over the first view, equal the view after each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.filters import parse
from notebook_rt.model.order import parse_order
from notebook_rt.model.rows import RowChange, Upsert
from notebook_rt.model.spec import Source, TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.order import Ordered
from notebook_rt.store.reporter import Reporter
from notebook_rt.store.table import Table
from tests.sync.simulation import Faults, World
from tests.sync.test_mirror_laws import (
    COLUMNS,
    beginnings,
    many,
    pauses,
    play,
    server,
    sources,
    steps,
    writes,
)

ORDERS = ("", "grp", "grp.desc,note", "rev.desc", "note.desc")


def told_world(spec: TableSpec, one: Any, seed: int, **more: Any) -> World:
    world = World(spec, one, seed=seed, make_rows=Table, **more)
    world.mirror.want_changes = True
    world.connect()
    return world


@many
@given(
    steps,
    st.integers(0, 2**32),
    st.sampled_from(ORDERS),
    st.sampled_from((None, 1, 3, 6)),
    st.booleans(),
    st.sampled_from((None, ("note",), ("rev",))),
    sources,
)
def test_what_is_told_of_the_first_rows_is_what_is_shown(
    story: list[Any],
    seed: int,
    order: str,
    limit: int | None,
    filtered: bool,
    columns: tuple[str, ...] | None,
    source: Source,
) -> None:
    """Promises 5, 8: a row that leaves the first rows is told as deleted, one that enters as inserted."""
    where = parse("grp=neq.2" if filtered else None)
    by = parse_order(order) if order else ()
    spec = TableSpec("t", columns=columns, filter=where, order=by, limit=limit, source=source)
    with mock.patch("notebook_rt.sync.table.window.SPARE_LEAST", 1):
        world = told_world(spec, server(source=source), seed, faults=Faults(loss=0.1))
        play(world, story)
        world.settle(15)
        world.gap()
        world.settle(15)
    assert world.failed is None
    assert world.reporter is not None
    assert world.replayed.keys() == world.seen.keys()


changed_columns = st.sampled_from(
    (
        {**COLUMNS, "more": "int4"},
        {name: kind for name, kind in COLUMNS.items() if name != "note"},
        COLUMNS,
    )
)


@many
@given(
    st.lists(
        st.tuples(
            pauses,
            st.one_of(writes, writes, writes, st.tuples(st.just("alter"), changed_columns)),
        ),
        max_size=40,
    ),
    st.integers(0, 2**32),
    st.sampled_from((None, 3)),
    beginnings,
    sources,
)
def test_what_changes_while_the_table_is_read_again_is_told(
    story: list[Any], seed: int, limit: int | None, begins: dict[str, Any], source: Source
) -> None:
    """Promises 5, 9: a table that is read again, for its columns are others, tells what differs."""
    one = server(source=source, **begins)
    world = told_world(TableSpec("t", limit=limit, source=source), one, seed)
    for pause, step in story:
        if step[0] == "alter":
            world.run(pause)
            one.alter(dict(step[1]))
        elif step[2] is None or "note" in one.columns:
            play(world, [(pause, step)])
    world.settle(15)
    assert world.failed is None
    assert world.replayed.keys() == world.seen.keys()


tables = st.dictionaries(st.integers(0, 5), st.integers(0, 3), max_size=6)


@many
@given(
    st.lists(st.one_of(st.none(), tables), max_size=8),
    st.sampled_from((None, "n", "n.desc")),
    st.sampled_from((None, 2)),
    st.booleans(),
)
def test_what_is_told_when_one_login_follows_another_is_what_is_shown(
    story: list[dict[int, int] | None], order: str | None, limit: int | None, carried: bool
) -> None:
    """Nothing of the last login's rows stays, as told: they leave at once, and the next one's enter."""
    schema = Schema((Column("id", "int4"), Column("n", "int4")), key=("id",))
    reporter, told = Reporter(), dict[Any, Any]()
    first = True
    for rows in story:
        changes: Sequence[RowChange]
        if rows is None:
            changes, shown = reporter.drop(), {}
        else:
            table = Table(schema)
            table.apply([Upsert(key, {"id": key, "n": n}) for key, n in rows.items()])
            view = None
            if order or limit:
                by = parse_order(order or "id")
                view = Ordered(table, by, limit, {"n"} if carried else ())
            reporter.show(table, view)
            changes = reporter.report(())
            found = table.gather(table.keys() if view is None else view.keys())
            shown = {k: r if view is None else view.visible(r) for k, r in found.items() if r}
            if first:
                told, first = dict(shown), False
                assert not changes
        for change in changes:
            was = told.pop(change.key, None)
            assert was == change.old
            if change.new is not None:
                told[change.key] = change.new
        assert told == shown
