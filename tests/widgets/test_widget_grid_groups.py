"""Rows under headings, without a browser: the contents of groups, and their updates."""

from __future__ import annotations

from typing import Any

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.widgets.groups import Group
from notebook_rt.widgets.order import Order
from tests.widgets.bench import Bench, rids, table


def headings(bench: Bench) -> list[list[Any]]:
    """Line, value, rows, open and totals of each heading."""
    (bench.whole,) = bench.model.whole("v")
    return bench.whole.content["groups"]


def grouped_by_name(rows: int = 6, **options: Any) -> Bench:
    df = table(rows)
    df["name"] = ["b", "a"] * (rows // 2)
    return Bench(df, group="name", **options)


def test_rows_stand_under_headings_with_their_count_and_totals():
    bench = grouped_by_name(totals={"price": "sum"})
    price = bench.model._names.index("price")
    sums = bench.source.df.groupby("name")["price"].sum()
    assert headings(bench) == [
        [0, "a", 3, True, [[price, sums["a"]]]],
        [4, "b", 3, True, [[price, sums["b"]]]],
    ]
    content = bench.whole.content
    assert (content["total"], content["rows"], content["group"]) == (8, 6, "name")
    assert content["gone"] == []
    assert bench.shown(bench.whole, 0)[1:4] == [2, 4, 6]


def test_a_closed_group_hides_its_rows_and_keeps_its_count():
    bench = grouped_by_name(totals="price")
    totals = headings(bench)
    first = rids(bench.whole)[0]
    bench.say(t="toggle", rid=first)
    assert [one[:4] for one in headings(bench)] == [[0, "a", 3, False], [1, "b", 3, True]]
    assert [one[4] for one in headings(bench)] == [one[4] for one in totals]
    assert (bench.whole.content["total"], bench.whole.content["rows"]) == (5, 6)
    assert len(bench.model.shown()) == 6, "a file has what is folded away, too"
    bench.say(t="toggle", rid=first)
    assert [one[3] for one in headings(bench)] == [True, True]


def test_a_row_moves_to_the_group_of_its_new_value_and_an_empty_group_goes():
    bench = grouped_by_name(4)
    df = bench.source.df.copy()
    df["name"] = ["a", "a", "a", "c"]
    bench.source.set(df)
    bench.model._order._not_before = 0.0
    assert [one[1:3] for one in headings(bench)] == [["a", 3], ["c", 1]]


def test_a_heading_is_neither_edited_nor_deleted_nor_copied_and_no_group_is_plain_again():
    bench = grouped_by_name()
    heading = rids(bench.whole)[0]
    bench.say(t="edit", rid=heading, c=1, value="7")
    bench.say(t="only", rid=heading, c=1)
    bench.say(t="delete", rids=[heading])
    assert bench.source.edits == []
    bench.say(t="select", rows=[0, 2])
    assert bench.model.selection.tolist() == [2, 4]
    (copied,) = [m for m in bench.say(t="copy", range=[0, 2, 0, 0]) if m.content["t"] == "reply"]
    assert copied.content["text"].split("\n") == ["2", "4"]
    bench.say(t="group")
    assert headings(bench) == []
    assert bench.shown(bench.whole, 0) == [1, 2, 3, 4, 5, 6]


def test_the_group_is_asked_for_by_its_place_and_sorted_by_its_heading():
    bench = Bench(table(3))
    name = bench.model._names.index("name")
    bench.say(t="group", c=name)
    assert bench.whole is not None
    assert [one[1] for one in headings(bench)] == ["name 0", "name 1", "name 2"]
    bench.say(t="sort", by=[[name, False]])
    assert [one[1] for one in headings(bench)] == ["name 2", "name 1", "name 0"]


values = st.sampled_from(["a", "b", "c", None])


@given(
    st.lists(st.tuples(values, st.integers(0, 3)), max_size=12),
    st.sampled_from(["", "n>0", "g=a"]),
    st.sampled_from([(), (("n", False),), (("g", False),), (("g", False), ("n", True))]),
    st.sets(values, max_size=2),
)
def test_groups_are_those_of_pandas_however_filtered_sorted_and_closed(rows, text, by, closed):
    df = pd.DataFrame(rows, columns=["g", "n"]).astype({"n": "int64", "g": "str"})
    df.index = pd.RangeIndex(10, 10 + len(df), name="id")
    order = Order()
    order.ask(by, text)
    order.ask_group("g")
    for value in closed:
        order.toggle(Group("null" if value is None else value, value is None))
    order.refresh(df, ["g", "n"], held=False)
    kept = df.query({"": "n >= 0", "n>0": "n > 0", "g=a": "g == 'a'"}[text]) if len(df) else df
    keys, positions = order.rows(0, len(order))
    expected: list[Any] = []
    up = dict(by).get("g", True)
    for value, part in kept.groupby("g", dropna=False, sort=True):
        missing = pd.isna(value)
        if dict(by).get("n") is not None:
            part = part.sort_values("n", ascending=dict(by)["n"], kind="stable")
        shown = [] if (None if missing else value) in closed else part.index.tolist()
        expected.append([Group("null" if missing else value, missing), *shown])
    if not up:  # null stays last
        whole = [one for one in expected if not one[0].null]
        expected = [*whole[::-1], *(one for one in expected if one[0].null)]
    assert keys == [key for one in expected for key in one]
    assert [df.index[at] for at in positions[positions >= 0]] == [
        key for key in keys if not isinstance(key, Group)
    ]
    assert order.count == len(kept)
    there = [key for key in keys if not isinstance(key, Group)]
    assert order.keys(0, len(order)).tolist() == there
    assert order.find(pd.Index(there, dtype="int64")).tolist() == [
        line for line, key in enumerate(keys) if not isinstance(key, Group)
    ]
