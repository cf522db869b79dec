"""Adding and deleting rows in the grid, without a browser."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.types import Column
from notebook_rt.widgets.order import DUTY, Order
from tests.widgets.bench import FIELDS, Bench, rids, table
from tests.widgets.memory import HOSTILE


def replies(messages: list[Any]) -> list[dict[str, Any]]:
    return [m.content for m in messages if m.content["t"] == "reply"]


def keys(bench: Bench) -> list[Any]:
    """The keys in the order in which they are shown, from the first row on."""
    (bench.whole,) = bench.model.whole("v")
    return bench.shown(bench.whole, 0)


NEEDY = [
    FIELDS[0],
    Column("price", "float8", nullable=False),
    Column("name", "text"),
    Column("at", "timestamptz", nullable=False, filled=True),
]


def test_a_new_row_is_typed_text_by_text_and_inserted_as_one():
    bench = Bench(table(3), NEEDY)
    head = bench.whole.content
    assert (head["remove"], head["add"]) == (True, True)
    assert [c["needed"] for c in head["columns"]] == [True, True, False, False]
    messages = bench.say(t="insert", rid=0, cells=[[0, "7"], [1, "1,250.5"], [2, HOSTILE]])
    assert bench.source.edits == [(7, {"id": 7, "price": 1250.5, "name": HOSTILE})]
    (reply,) = replies(messages)
    assert (reply["kind"], reply["row"]) == ("inserted", 3)
    assert reply["rid"] == rids(messages[0])[3]


@pytest.mark.parametrize(
    ("cells", "c", "why", "doubts"),
    [
        ([[0, "7"]], 1, "price is needed", 1),
        ([[1, "2"]], 0, "id is needed", 1),
        ([[0, "7"], [1, "much"]], 1, "“much” is not a number", 0),
        ([[0, "7"], [1, None]], 1, "price cannot be empty: it is NOT NULL", 1),
    ],
)
def test_a_new_row_that_lacks_something_is_told_where(cells, c, why, doubts):
    bench = Bench(table(3), NEEDY)
    (reply,) = replies(bench.say(t="insert", rid=0, cells=cells))
    assert (reply["kind"], reply["rid"], reply["c"], reply["why"]) == ("refused", 0, c, why)
    assert bench.source.edits == []
    assert bench.source.doubts == doubts


def test_a_new_row_that_the_filter_hides_stands_in_no_row():
    bench = Bench(table(3))
    bench.say(t="filter", text="price>1")
    (reply,) = replies(bench.say(t="insert", rid=0, cells=[[0, "7"], [1, "0.5"]]))
    assert reply["row"] == -1


@pytest.mark.parametrize(
    ("options", "remove", "add"),
    [
        ({}, True, True),
        ({"editable": False}, False, False),
        ({"editable": ["price"]}, False, False),
        ({"columns": ["id", "name"]}, True, False),
    ],
)
def test_rows_are_added_where_everything_may_be_typed_and_is_shown(options, remove, add):
    bench = Bench(table(3), NEEDY, **options)
    assert (bench.whole.content["remove"], bench.whole.content["add"]) == (remove, add)
    messages = bench.say(t="delete", rids=rids(bench.whole)[:1])
    assert bool(bench.source.edits) == remove
    assert replies(messages)[0]["kind"] == ("said" if remove else "refused")


def test_nothing_is_added_to_what_is_read_only():
    bench = Bench(table(3))
    bench.source.editable = False
    (whole,) = bench.model.whole("v")
    assert (whole.content["remove"], whole.content["add"]) == (False, False)
    bench.say(t="insert", rid=0, cells=[[0, "7"]])
    bench.say(t="delete", rids=rids(whole))
    assert bench.source.edits == []


def test_a_deleted_row_stays_where_it_was_until_that_is_written():
    bench = Bench(table(9))
    (message, reply) = bench.say(t="delete", rids=[rids(bench.whole)[3]])
    assert bench.source.df.index.tolist() == [1, 2, 3, 5, 6, 7, 8, 9]
    assert (message.content["t"], message.content["cols"]) == ("cells", [])
    assert (message.content["gone"], message.content["leaving"]) == ([3], 1)
    assert [mark[:3] for mark in message.content["marks"]] == [[3, c, "pending"] for c in range(4)]
    assert reply.content["text"] == "Deleted 1 row"
    assert keys(bench) == list(range(1, 10))
    assert bench.shown(bench.whole, 2)[3] == "name 3"
    bench.say(t="delete", rids=[rids(bench.whole)[3]])
    assert len(bench.source.edits) == 1, "it is deleted already"
    bench.source.written()
    (message,) = bench.model.update()
    assert message.content["total"] == 8
    assert bench.shown(message, 0) == [1, 2, 3, 5, 6, 7, 8, 9]


def test_rows_that_are_leaving_are_sorted_and_filtered_with_the_others():
    bench = Bench(table(9))
    bench.say(t="delete", rids=[rids(bench.whole)[n] for n in (3, 4)])
    bench.say(t="sort", by=[[1, False]])
    assert keys(bench) == list(range(9, 0, -1))
    assert bench.whole.content["gone"] == [4, 5]
    bench.say(t="filter", text="price>=4")
    assert keys(bench) == [9, 8, 7, 6, 5]
    assert (bench.whole.content["gone"], bench.whole.content["leaving"]) == ([4], 1)


def test_the_only_row_can_be_deleted_and_taken_back():
    bench = Bench(table(1))
    bench.say(t="delete", rids=rids(bench.whole))
    assert len(bench.source.df) == 0
    assert keys(bench) == [1]
    bench.say(t="undo")
    assert keys(bench) == [1]
    assert bench.whole.content["gone"] == []


def test_many_selected_rows_are_deleted_by_what_the_kernel_has_selected():
    bench = Bench(table(5000))
    bench.say(t="select", rows=[0, 2499])
    (reply,) = replies(bench.say(t="delete"))
    assert reply["why"] == "At most 2,000 rows are deleted at once"
    bench.say(t="select", rows=[4990, 4999])
    (reply,) = replies(bench.say(t="delete"))
    assert reply["text"] == "Deleted 10 rows"
    assert bench.source.df.index[-1] == 4990


def ordered(order: Order, df: pd.DataFrame, leaving: pd.DataFrame) -> list[Any]:
    order.refresh(df, ["price"], held=False, leaving=leaving)
    return order.rows(0, len(order))[0]


def test_a_row_that_comes_back_stands_where_it_stood_though_the_table_has_it_last():
    full, order, none = table(8), Order(lambda: 0.0), table(0)
    assert ordered(order, full, none) == [1, 2, 3, 4, 5, 6, 7, 8]
    less = full.drop(index=[1, 4, 5])
    assert ordered(order, less, full.loc[[5, 1, 4]]) == [1, 2, 3, 4, 5, 6, 7, 8]
    # Meanwhile a row comes first, one goes, and one comes last.
    moved = pd.concat([table(1, first=100), less.drop(index=3), table(1, first=200)])
    assert ordered(order, moved, full.loc[[5, 1, 4]]) == [1, 100, 2, 4, 5, 6, 7, 8, 200]
    back = pd.concat([moved, full.loc[[4, 1]]])
    assert ordered(order, back, full.loc[[5]]) == [1, 100, 2, 4, 5, 6, 7, 8, 200]
    assert ordered(order, back, none) == [1, 100, 2, 4, 6, 7, 8, 200]
    assert order.rows(3, 4)[1].tolist() == [back.index.get_loc(4)]
    assert order.find(pd.Index([200, 4])).tolist() == [3, 7]


def test_keeping_places_in_a_changing_table_costs_a_bounded_share_of_a_core():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01  # each look at the clock is 10 ms of work
        return now[0]

    full, order = table(50), Order(clock)
    df, leaving = full.drop(index=[9]), full.loc[[9]]
    computed, start = 0, now[0]
    for n in range(200):
        df = pd.concat([df, table(1, first=100 + n)])
        computed += order.refresh(df, ["price"], held=False, leaving=leaving)
        now[0] += 0.03
    assert 2 <= computed <= (now[0] - start) * DUTY / 0.01 + 2
    assert order.stale


@given(st.data())
def test_whatever_is_deleted_and_taken_back_the_order_is_that_of_before(data):
    full, order = table(data.draw(st.integers(1, 30))), Order(lambda: 0.0)
    before = ordered(order, full, full.iloc[:0])
    df, leaving = full, full.iloc[:0]
    for _ in range(data.draw(st.integers(1, 4))):
        gone = data.draw(st.lists(st.sampled_from(before), unique=True))
        gone = [key for key in gone if key in df.index]
        leaving, df = pd.concat([leaving, df.loc[gone]]), df.drop(index=gone)
        assert ordered(order, df, leaving) == before
        back = data.draw(st.lists(st.sampled_from(before), unique=True))
        back = [key for key in back if key in leaving.index]
        df, leaving = pd.concat([df, leaving.loc[back]]), leaving.drop(index=back)
        assert ordered(order, df, leaving) == before
    chosen = order.rows(0, len(order))[1]
    assert [before[i] for i, at in enumerate(chosen) if at < 0] == sorted(leaving.index)
    assert all(df.index[at] == before[i] for i, at in enumerate(chosen) if at >= 0)


def test_a_composite_key_keeps_its_place_too():
    df = table(4).reset_index().assign(day=["mon", "tue"] * 2).set_index(["id", "day"])
    order = Order()
    assert ordered(order, df, df.iloc[:0]) == df.index.tolist()
    assert ordered(order, df.drop(index=[(2, "tue")]), df.iloc[[1]]) == df.index.tolist()
    assert ordered(order, pd.concat([df.drop(index=[(2, "tue")]), df.iloc[[1]]]), df.iloc[:0]) == (
        df.index.tolist()
    )


def test_a_generated_column_is_neither_edited_nor_needed():
    twice = Column("price", "float8", nullable=False, generated=True)
    bench = Bench(table(3), [FIELDS[0], twice, *FIELDS[2:]])
    (column,) = (one for one in bench.whole.content["columns"] if one["name"] == "price")
    assert (column["editable"], column["needed"]) == (False, False)
