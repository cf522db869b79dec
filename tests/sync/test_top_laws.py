"""The first rows of a table are pandas' after every batch, in the hardest cases.

Many rows sort alike, the keys are text, tables are so small that what is kept beyond the first rows runs
out and the rows are numbered anew all the time, joins move rows of both sides in one batch, and what
happens is about the rows at the border: they leave, come again, swap their keys and their values.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_rt.edits.merge import Edit
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store import contents
from notebook_rt.store import touched as touched_module
from notebook_rt.store.journal import JournalledTable
from notebook_rt.sync.derive import top as top_module
from notebook_rt.sync.derive.join import Keying
from notebook_rt.sync.derive.operator import Derived
from notebook_rt.sync.derive.ordering import Ordering
from notebook_rt.sync.derive.source import Source
from notebook_rt.sync.derive.top import Top
from tests.laws import examples
from tests.sync.test_derive_laws import (
    QUIET,
    Frame,
    Node,
    edit,
    groupby,
    joined,
    made,
    same,
    select,
    sort,
    where,
    with_index_of,
)

KEYS = [*"abcdef", "B", "é"]
NAMES = ("g", "day", "h")
TYPES = {"g": "text", "day": "date", "h": "int4"}
DAYS = [dt.date(2024, 2, 1), dt.date(2024, 2, 2), None]


def leaf(backend: Any) -> Node:
    columns = (Column("id", "text"), *(Column(name, TYPES[name]) for name in NAMES))
    table = JournalledTable(Schema(columns, ("id",)), backend)
    overlaid = Overlay(table, table.schema)
    return Node(None, table.snapshot, (), table, NAMES, ("id",), f"{backend}", overlaid)


def row(draw: Any, key: str) -> dict[str, Any]:
    return {
        "id": key,
        "g": draw(st.sampled_from(["a", "b"])),
        "day": draw(st.sampled_from(DAYS)),
        "h": draw(st.integers(0, 2)),
    }


def top(draw: Any, of: Node) -> Node:
    names = [*of.names, *of.keys]
    by = draw(
        st.sampled_from([["id", "day"], ["day"], ["g", "day"], ["h"]])
        | st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)
    )
    by = [name for name in by if name in names] or names[:1]
    ascending = [draw(st.booleans()) for _ in by]
    nulls = draw(st.sampled_from(["first", "last"]))
    count = draw(st.integers(1, 4))

    def expression(df: Frame) -> Frame:
        ordered = df.sort_values(by, ascending=ascending, na_position=nulls, kind="stable")
        return ordered.head(count)

    operator = Top(count, Ordering(by, ascending, nulls, "top"))
    said = f"top {count} ({by}, {ascending}, {nulls})"
    return made(operator, expression, [of], of.names, of.keys, said)


def by_key(left: Node, right: Node, how: Any) -> Node | None:
    """The rows of two tables with one key."""

    def expression(a: Frame, b: Frame) -> Frame:
        return with_index_of(a, a.join(b, how=how, lsuffix="", rsuffix="_r"))

    return joined(Keying(None, None, "join"), how, left, right, expression, ("", "_r"))


def under(draw: Any, leaves: list[Node]) -> Node:
    """What the first rows are of."""
    left, right = leaves
    what = draw(st.sampled_from(["table", "inner", "inner", "left", "where", "sort", "select"]))
    if what in ("inner", "left"):
        return by_key(left, right, what) or left
    if what == "table":
        return left
    return {"where": where, "sort": sort, "select": select}[what](draw, left) or left


def over(draw: Any, of: Node, leaves: list[Node]) -> Node:
    """What is made of the first rows."""
    what = draw(st.sampled_from(["nothing", "nothing", "inner", "groupby", "top"]))
    if what == "inner" and not {f"{name}_r" for name in NAMES} & {*of.names}:
        return by_key(of, draw(st.sampled_from(leaves)), "inner") or of
    if what == "groupby":
        return groupby(draw, of) or of
    return top(draw, of) if what == "top" else of


def happen(draw: Any, node: Node, first: Node) -> None:
    """A batch about the rows at the border, mostly."""
    table, overlaid = node.table, node.overlay
    assert table is not None
    assert overlaid is not None
    if draw(st.integers(0, 3)) == 0:
        edit(draw, node, nulls=True)
        return
    shown = [] if first.derived is None or first.derived.view is None else first.derived.view.keys()
    near = [key for key in [*shown[-2:], *shown[:1]] if key in KEYS]
    ops: list[Op] = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(near) if near and draw(st.booleans()) else st.sampled_from(KEYS))
        seen = table.get(key)
        what = draw(st.sampled_from(["again", "delete", "insert", "update", "rename", "swap"]))
        if what == "insert" or (seen is None and what != "update"):
            ops.append(Upsert(key, row(draw, key)))
        elif what == "again" and seen is not None:
            ops += [Delete(key), Upsert(key, seen)]
        elif what == "delete":
            ops.append(Delete(key))
        elif what == "update":
            name = draw(st.sampled_from(NAMES))
            ops.append(Upsert(key, {name: row(draw, key)[name]}))
        elif seen is not None:
            other = draw(st.sampled_from(KEYS))
            theirs = table.get(other)
            ops.append(Upsert(other, {**seen, "id": other}))
            if what == "rename" or theirs is None:
                ops.append(Delete(key))
            else:
                ops.append(Upsert(key, {**theirs, "id": key}))
    overlaid.apply(ops, want_changes=draw(st.booleans()))


def test_the_first_rows_by_key_are_true_after_my_insert_of_one_is_refused() -> None:
    """The server has told a part of the row meanwhile, and that is what is left of it."""
    table = JournalledTable(Schema((Column("id", "text"), Column("day", "date")), ("id",)))
    overlaid = Overlay(table, table.schema)
    overlaid.apply([Upsert(key, {"id": key, "day": DAYS[0]}) for key in "abc"])
    overlaid.put([Edit("e", "insert", "d", {"id": "d", "day": None}, {}, 0.0)])
    last = Derived(Top(3, Ordering(["id", "day"], False, "last", "top")), None)
    last.bind([Source(table)])
    last.advance(want_changes=True)
    overlaid.apply([Upsert("d", {"day": DAYS[1]})])
    last.advance(want_changes=True)
    overlaid.discard(["e"])
    last.advance(want_changes=True)
    assert last.view is not None
    wanted = table.snapshot().sort_values(["id", "day"], ascending=False).head(3)
    same(last.view.snapshot(), wanted, "top")


def play(data: st.DataObject) -> None:
    draw = data.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "_SPARSE", draw(st.sampled_from([2, 1024])))
        patch.setattr(touched_module, "_LEAST", draw(st.sampled_from([3, 256])))
        patch.setattr(top_module, "_RESERVE", draw(st.sampled_from([0, 1, 3])))
        backend = draw(st.sampled_from([None, None, "numpy_nullable", "pyarrow"]))
        leaves = [leaf(backend), leaf(backend)]
        for one in leaves:
            assert one.table is not None
            for key in draw(st.lists(st.sampled_from(KEYS), min_size=3, unique=True)):
                one.table.apply([Upsert(key, row(draw, key))])
        first = top(draw, under(draw, leaves))
        root = over(draw, first, leaves)
        root.advance()
        root.check()
        for _ in range(draw(st.integers(1, 12))):
            for one in leaves if draw(st.booleans()) else leaves[:1]:
                happen(draw, one, first)
            root.advance()
            root.check()


@pytest.mark.timeout(300)
@settings(max_examples=examples(40), deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_the_first_rows_are_pandas_whatever_happens_at_the_border(data: st.DataObject) -> None:
    play(data)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_the_first_rows_are_pandas_whatever_happens_at_the_border_of_many(
    data: st.DataObject,
) -> None:
    play(data)
