"""The grid without a browser: windows, changed cells, order, edits, selection."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import ConflictError
from notebook_rt.model.types import Column
from notebook_rt.widgets import GridWidget
from notebook_rt.widgets.columns import CUT, LONG, Cells, Pack, cells
from notebook_rt.widgets.grid import grid_html
from notebook_rt.widgets.gridmodel import LOOK, GridModel
from notebook_rt.widgets.order import DUTY, Order, parse_terms
from notebook_rt.widgets.sources import Conflict
from tests.widgets.bench import FIELDS, Bench, rids, table, values
from tests.widgets.memory import HOSTILE, MemoryFrame

NUMBERS = st.none() | st.floats(allow_nan=False)  # Float64 takes NaN for null


def test_a_window_goes_by_column_in_binary():
    bench = Bench(table(3))
    assert [bench.shown(bench.whole, c) for c in range(3)] == [
        [1, 2, 3],
        [0, 1, 2],
        ["name 0", "name 1", "name 2"],
    ]
    at = pd.Timestamp("2026-01-01T00:00:02Z")
    assert bench.shown(bench.whole, 3)[2] == at.value // 1000
    assert bench.whole.whole


def test_what_is_sent_depends_on_the_window_and_not_on_the_table():
    small, large = Bench(table(1_000)), Bench(table(200_000))
    assert large.whole.size < small.whole.size * 1.1


def test_every_view_is_told_what_is_filtered_and_sorted_in_one():
    bench = Bench(table(30))
    bench.model.whole("other")
    assert (bench.whole.content["filter"], bench.whole.content["sort"]) == ("", [])
    bench.say(t="filter", text="price>20")
    messages = {m.to: m.content for m in bench.say(t="sort", by=[[1, False]])}
    assert messages["other"]["sort"] == messages["v"]["sort"] == [[1, False]]
    assert messages["other"]["filter"] == "price>20"
    # And one whose rows stay as they are: everything costs more than 20 already.
    (content,) = [m.content for m in bench.say(t="filter", text="price>=21") if m.to == "other"]
    assert (content["t"], content["filter"]) == ("cells", "price>=21")


def test_after_the_window_only_changed_cells_are_sent():
    bench = Bench(table(1000))
    df = table(1000)
    df.loc[2, "price"] = 99.5
    df.loc[900, "price"] = 1.5  # far outside the window
    (message,) = bench.set(df)
    (column,) = message.content["cols"]
    assert column["c"] == 1
    at, size = column["rows"]
    assert np.frombuffer(message.buffers[0], np.int32, size // 4, at).tolist() == [1]
    assert values(column, message.buffers[0]) == [99.5]


def test_a_change_that_nobody_sees_sends_nothing():
    bench = Bench(table(1000))
    df = table(1000)
    df.loc[900, "price"] = 1.5
    assert bench.set(df) == []


def test_a_view_that_scrolls_gets_its_window_with_a_page_on_each_side():
    bench = Bench(table(100_000))
    (message,) = bench.say(t="window", first=80_000, last=80_020, anchor=None)
    assert message.content["first"] == 79_980
    assert bench.shown(message, 0)[0] == 79_981
    assert len(rids(message)) == 60


def test_rows_keep_their_number_wherever_they_move():
    bench = Bench(table(10))
    first = dict(zip(bench.shown(bench.whole, 0), rids(bench.whole), strict=True))
    (message,) = bench.say(t="sort", by=[[1, False]])
    assert bench.shown(message, 0) == [float(n) for n in range(10, 0, -1)]
    assert dict(zip(bench.shown(message, 0), rids(message), strict=True)) == first


def test_a_deleted_row_disappears_and_the_count_with_it():
    bench = Bench(table(10))
    (message,) = bench.set(table(10).drop(index=4))
    assert message.content["total"] == 9
    assert 4 not in bench.shown(message, 0)


def test_rows_that_arrive_above_do_not_move_the_row_on_the_screen():
    bench = Bench(table(1000, first=1000))
    (message,) = bench.say(t="window", first=500, last=520, anchor=None)
    rid = rids(message)[500 - message.content["first"]]
    bench.say(t="window", first=500, last=520, anchor=[rid, 500])
    (message,) = bench.set(pd.concat([table(7), table(1000, first=1000)]))
    assert message.content["anchor"] == 507
    at = rids(message).index(rid) + message.content["first"]
    assert at == 507


def test_while_an_editor_is_open_nothing_moves_and_values_still_change():
    bench = Bench(table(10))
    bench.say(t="hold", on=True)
    df = pd.concat([table(2, first=100), table(10).drop(index=3)])
    df.loc[5, "price"] = 77.0
    (message,) = bench.set(df)
    assert message.content["t"] == "cells"
    assert message.content["gone"] == [2]
    changed = {c["c"]: values(c, message.buffers[0]) for c in message.content["cols"]}
    assert changed == {1: [77.0]}, "the row that is gone keeps its values"
    (message,) = bench.say(t="hold", on=False)
    assert message.content["total"] == 11
    assert bench.shown(message, 0)[:2] == [100.0, 101.0]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("price>7", [9, 10]),
        ("price>=7 price<8", [8]),
        ("name:3", [4]),
        ("3", [3, 4]),
        ("NAME=“name 3”", []),
        ('name="name 3"', [4]),
        ("price!=0", list(range(2, 11))),
        ("at<2026-01-01T00:00:02Z", [1, 2]),
        ("price>", list(range(1, 11))),
        ('"name 3', []),
    ],
)
def test_filters(text, kept):
    bench = Bench(table(10))
    bench.say(t="filter", text=text)
    (message,) = bench.model.whole("v")
    assert [int(k) for k in bench.shown(message, 0)] == kept


def test_a_word_with_an_operator_that_names_no_column_is_a_text():
    assert parse_terms("a=b", ["price"])[0].column is None
    spaced = parse_terms(
        "acme price > 10 price <=5 'last price' != 3 price", ["price", "last price"]
    )
    assert [(term.column, term.operator, term.value) for term in spaced] == [
        (None, ":", "acme"),
        ("price", ">", "10"),
        ("price", "<=", "5"),
        ("last price", "!=", "3"),
        (None, ":", "price"),
    ]
    assert [term.value for term in parse_terms("a > b", ["price"])] == ["a", ">", "b"]


def test_nulls_are_sorted_last_both_ways():
    df = table(4)
    df.loc[2, "price"] = np.nan
    bench = Bench(df)
    for ascending in (True, False):
        messages = bench.say(t="sort", by=[[1, ascending]])
        if messages:
            assert bench.shown(messages[0], 0)[-1] == 2


def test_sorting_a_changing_table_costs_a_bounded_share_of_a_core():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01  # each look at the clock is 10 ms of work
        return now[0]

    order = Order(clock)
    order.ask([("price", True)], "")
    computed = 0
    df = table(100)
    start = now[0]
    while now[0] - start < 10:
        df = df.copy()
        df["price"] = -df["price"]
        computed += order.refresh(df, ["price"], held=False)
        now[0] += 0.03
    assert 2 <= computed <= 10 * DUTY / 0.01 + 2


def test_an_order_that_waits_asks_to_be_called_again():
    bench = Bench(table(1000))
    bench.say(t="sort", by=[[1, True]])
    bench.set(table(1000).iloc[::-1])
    df = table(1000)
    df["price"] = -df["price"]
    bench.model._order._not_before = time.perf_counter() + 0.05
    bench.set(df)
    assert 0 < bench.model.wants() <= 0.05
    time.sleep(0.06)
    (message,) = bench.model.update()
    assert bench.shown(message, 0)[0] == 1000
    assert bench.model.wants() == LOOK


def test_an_edit_is_parsed_and_given_to_the_frame():
    seen: list[Any] = []
    bench = Bench(table(10))
    bench.source.edit = lambda *args: seen.append(args)  # type: ignore[method-assign]
    rid = rids(bench.whole)[4]
    bench.say(t="edit", rid=rid, c=1, value="12.5")
    assert seen == [(5, {"price": 12.5}, {})]


def test_an_edit_is_based_on_what_the_editor_began_with_and_not_on_what_came_since():
    bench = Bench(table(10))
    rid = rids(bench.whole)[4]
    bench.say(t="edit", rid=rid, c=1, value="12.5", was="4.0")
    bench.say(t="edit", rid=rid, c=1, value="13", was=None)
    bench.say(t="edit", rid=rid, c=1, value="14", was="cut off by an old browser")
    assert bench.source.bases == [{"price": 4.0}, {"price": None}, {}]


def test_what_cannot_be_is_refused_before_it_is_queued():
    bench = Bench(table(10))
    rid = rids(bench.whole)[4]
    (reply,) = bench.say(t="edit", rid=rid, c=1, value="a lot")
    assert reply.content["kind"] == "refused"
    assert "not a number" in reply.content["why"]
    (reply,) = bench.say(t="edit", rid=rid, c=0, value="9")
    assert "cannot be edited" in reply.content["why"]
    assert bench.source.edits == []
    assert bench.woken == 2


def test_an_edit_that_the_frame_refuses_is_told():
    def refuse(*_: object) -> None:
        raise RuntimeError("the frame is closed")

    bench = Bench(table(10))
    bench.source.edit = refuse  # type: ignore[method-assign]
    rid = rids(bench.whole)[4]
    (reply,) = bench.say(t="edit", rid=rid, c=2, value="x")
    assert reply.content["why"] == "the frame is closed"


def test_pending_failed_and_conflicting_cells_are_marked():
    bench = Bench(table(10))
    bench.source.marked[3, "price"] = ("failed", "no")
    bench.source.marked[999, "price"] = ("pending", "")
    bench.source.disputed = [Conflict(4, "name", "a", "b", HOSTILE)]
    (message,) = bench.set(table(10))
    assert message.content["marks"] == [
        [2, 1, "failed", "no"],
        [3, 2, "conflict", "a", "b", HOSTILE, False],
    ]
    rid = rids(bench.whole)[3]
    bench.say(t="resolve", rid=rid, c=2, choice="theirs")
    assert bench.source.resolved == [(4, "name", "theirs")]


def test_a_row_that_one_side_deleted_stays_in_sight_and_is_decided_as_a_whole():
    full = table(10)
    bench = Bench(full)
    bench.source.left = full.loc[[4, 6]].assign(name=["mine", "name 5"])
    theirs = {"id": 6, "price": 5.0, "name": HOSTILE}
    bench.source.disputed = [
        Conflict(4, None, {"name": "name 3"}, {"name": "mine"}, None),
        Conflict(6, None, {"id": 6, "price": 5.0, "name": None}, None, theirs),
    ]
    (message,) = bench.set(full.drop(index=[4, 6]))
    content = message.content
    assert (content["gone"], content["leaving"]) == ([3, 5], 2)
    assert content["marks"] == [
        [3, -1, "conflict", "theirs", [["name", "name 3", "mine"]], 0],
        [5, -1, "conflict", "mine", [["name", "null", HOSTILE]], 0],
    ]
    rid = rids(bench.whole)[3]
    (*_, said) = bench.say(t="resolve", rid=rid, choice="mine")
    assert bench.source.resolved == [(4, None, "mine")]
    assert said.content["kind"] == "said"


def test_a_decision_that_cannot_be_made_is_told():
    def refuse(*_: object) -> None:
        raise ConflictError("the row is no longer known here")

    bench = Bench(table(3))
    bench.source.resolve = refuse  # type: ignore[method-assign]
    (reply,) = bench.say(t="resolve", rid=rids(bench.whole)[1], choice="mine")
    assert (reply.content["kind"], reply.content["why"]) == (
        "refused",
        "the row is no longer known here",
    )


def test_a_selection_follows_its_rows_and_reaches_the_kernel():
    source = MemoryFrame(table(100), FIELDS)
    widget = GridWidget(source)
    model = widget._link.model
    model.whole("v")
    assert len(widget.selected) == 0
    model.received("v", {"t": "select", "rows": [2, 4]})
    assert widget.selected.index.tolist() == [3, 4, 5]
    source.set(pd.concat([table(3, first=500), table(100).drop(index=4)]))
    (message,) = model.update()
    assert message.content["selection"] == [[5, 6]]
    assert widget.selected.index.tolist() == [3, 5]
    widget.close()


def test_copy_is_tab_separated_and_has_rows_outside_the_window():
    bench = Bench(table(10_000))
    (reply,) = bench.say(t="copy", range=[0, 4999, 0, 2])
    lines = reply.content["text"].split("\n")
    assert len(lines) == 5000
    assert lines[4999] == "5000\t4999.0\tname 4999"


def test_a_long_text_is_cut_and_fetched_when_asked_for():
    df = table(3)
    long = "x" * 5000
    df["name"] = pd.array([long, "y", None], dtype="str")
    bench = Bench(df)
    assert bench.shown(bench.whole, 2) == [long[:LONG], "y", None]
    (reply,) = bench.say(t="text", rid=rids(bench.whole)[0], c=2)
    assert reply.content["text"] == long


def test_large_integers_decimals_and_json_keep_every_digit():
    from decimal import Decimal

    big = cells(pd.array([2**60 + 1, None], dtype="Int64"), np.arange(2))
    assert big.values == ["1152921504606846977", ""]
    exact = cells(pd.Series([Decimal("0.10"), None]).array, np.arange(2))
    assert exact.values == ["0.10", ""]
    json_ = cells(pd.Series([{"a": [1, None]}, [1]], dtype=object).array, np.arange(2))
    assert json_.values == ['{"a": [1, null]}', "[1]"]


@given(st.lists(st.none() | st.text(max_size=200), max_size=30))
def test_any_text_arrives_as_it_was(texts):
    packed = Pack()
    packed.add(b"123")  # so that nothing is aligned by luck
    column = cells(pd.Series(texts, dtype=object).array, np.arange(len(texts)))
    header = packed.add_cells(column)
    got = values(header, packed.bytes())
    assert got == [None if t is None else t[:LONG] for t in texts]
    assert [bool(f & CUT) for f in column.flags] == [t is not None and len(t) > LONG for t in texts]


LARGE = st.integers(2**53 - 3, 2**53 + 3).flatmap(lambda n: st.sampled_from([n, -n]))


@given(
    st.lists(st.none() | LARGE | st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.sampled_from(["Int64", "object"]),
)
def test_any_integer_arrives_with_every_digit(numbers, dtype):
    packed = Pack()
    header = packed.add_cells(cells(pd.array(numbers, dtype=dtype), np.arange(len(numbers))))
    got = values(header, packed.bytes())
    assert [None if n is None else int(n) for n in got] == numbers


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30))
def test_changed_cells_are_those_that_differ(pairs):
    def column(side: int) -> Cells:
        return cells(pd.array([p[side] for p in pairs], dtype="Float64"), np.arange(len(pairs)))

    changed = set(column(1).changed(column(0)).tolist())
    for i, (a, b) in enumerate(pairs):
        assert (i in changed) == (a != b)


def test_what_a_column_may_not_hold_is_the_frames_to_refuse_and_is_told_at_the_cell():
    fields = [FIELDS[0], Column("price", "float8", nullable=False), *FIELDS[2:]]
    bench = Bench(table(3), fields)
    (reply,) = bench.say(t="edit", rid=rids(bench.whole)[0], c=1, value=None)
    assert reply.content["why"] == "price cannot be empty: it is NOT NULL"
    assert reply.content["c"] == 1
    assert bench.source.edits == []
    assert bench.source.doubts == 1, "what was learnt of the column may be old"
    bench.say(t="doubt")  # an editor has refused
    assert bench.source.doubts == 2


def test_an_unknown_column_is_named_at_once():
    with pytest.raises(ValueError, match="pricee"):
        Bench(table(3), columns=["pricee"])


def test_an_empty_table_and_a_column_that_is_added_later():
    bench = Bench(table(0))
    assert bench.whole.content["total"] == 0
    assert rids(bench.whole) == []
    bench.source.fields = (*FIELDS, Column("extra", "int4"))
    (message,) = bench.set(table(3).assign(extra=[1, 2, 3]))
    assert message.whole
    assert bench.shown(message, 4) == [1, 2, 3]


def test_a_composite_key():
    df = table(4).reset_index().assign(day=["mon", "tue"] * 2).set_index(["id", "day"])
    source = MemoryFrame(df, [Column("id", "int8"), Column("day", "text"), *FIELDS[1:]])
    model = GridModel(source, act=lambda fn: fn(), changed=lambda: None)
    (whole,) = model.whole("v")
    assert [c["key"] for c in whole.content["columns"]] == [True, True, False, False, False]
    rid = rids(whole)[1]
    edits: list[Any] = []
    source.edit = lambda *args: edits.append(args)  # type: ignore[method-assign]
    model.received("v", {"t": "edit", "rid": rid, "c": 2, "value": "5"})
    assert edits == [((2, "tue"), {"price": 5.0}, {})]
    model.received("v", {"t": "window", "first": 0, "last": 4, "anchor": [rid, 1]})
    source.set(df.iloc[1:])
    (message,) = model.update()
    assert message.content["anchor"] == 0


def test_the_static_form_has_ten_rows_and_no_markup_of_others():
    df = table(100)
    df["name"] = HOSTILE
    widget = GridWidget(MemoryFrame(df, FIELDS, name=HOSTILE))
    bundle = widget._repr_mimebundle_()[0]
    assert bundle["text/html"].count("<tr>") == 11
    assert "<img" not in bundle["text/html"]
    assert "100 rows" in bundle["text/plain"]
    assert "name 5" not in json.dumps(widget.get_state(), default=str)
    widget.close()


def test_a_title_is_plain_text_above_the_grid_and_in_its_static_form():
    bench = Bench(table(3), title=HOSTILE)
    assert bench.whole.content["title"] == HOSTILE
    assert Bench(table(3)).whole.content["title"] == ""
    widget = GridWidget(MemoryFrame(table(3), FIELDS), title=HOSTILE)
    text, html = widget._static()
    assert text.splitlines() == [HOSTILE, "positions: 3 rows × 4 columns, live"]
    assert html.index("&lt;img src=x") < html.index("<table>")
    assert "<img" not in html
    with pytest.raises(TypeError, match="title must be a string, not 7"):
        GridWidget(MemoryFrame(table(3), FIELDS), title=7)


def test_a_grid_listens_to_its_table_only_while_somebody_looks():
    source = MemoryFrame(table(10), FIELDS)
    widget = GridWidget(source)
    assert source.listeners == []
    widget._link.receive({"view": "v", "t": "look"}, 0.0)
    assert len(source.listeners) == 1
    widget._link.receive({"view": "v", "t": "leave"}, 1.0)
    assert source.listeners == []
    widget._link.receive({"view": "w", "t": "look"}, 2.0)
    widget.close()
    assert source.listeners == []


# --- pasting and taking back ---------------------------------------------------------------------


def pasted(bench: Bench, row: int, column: int, cells: list[list[str]]) -> dict[str, Any]:
    """Paste from a row and a column on; the reply."""
    rid = rids(bench.whole)[row]
    messages = bench.say(t="paste", rid=rid, c=column, cells=cells)
    (reply,) = [m.content for m in messages if m.content["t"] == "reply"]
    return reply


def test_what_is_pasted_goes_down_from_the_cell_as_the_rows_are_shown():
    bench = Bench(table(9))
    bench.say(t="sort", by=[[1, False]])
    (bench.whole,) = bench.model.whole("v")
    reply = pasted(bench, 0, 1, [["1.5", "a"], ["", "b"], ["2,000", ""]])
    assert reply["text"] == "Pasted 3 rows"
    assert bench.source.edits == [
        (9, {"price": 1.5, "name": "a"}),
        (8, {"price": None, "name": "b"}),
        (7, {"price": 2000.0, "name": None}),
    ]


@pytest.mark.parametrize(
    ("column", "cells", "why"),
    [(1, [["1"], ["many"]], "“many” is not a number"), (0, [["1"]], "id cannot be edited")],
)
def test_all_that_is_pasted_is_taken_or_nothing(column, cells, why):
    bench = Bench(table(9))
    assert why in pasted(bench, 2, column, cells)["why"]
    assert bench.source.edits == []


def test_what_is_pasted_past_the_last_row_is_told():
    bench = Bench(table(3))
    assert pasted(bench, 2, 1, [["1"], ["2"]])["text"] == "Pasted 1 row; 1 more had no place"


def test_an_edit_is_taken_back():
    bench = Bench(table(3))
    bench.say(t="edit", rid=rids(bench.whole)[0], c=1, value="5")
    (*_, reply) = bench.say(t="undo")
    assert reply.content["text"] == "Taken back"
    assert bench.source.df.loc[1, "price"] == 0.0
    (*_, reply) = bench.say(t="undo")
    assert "Nothing to take back" in reply.content["text"]


def test_a_date_is_copied_and_shown_without_a_time():
    df = pd.DataFrame({"day": pd.to_datetime(["2026-03-31"])}, index=pd.Index([1], name="id"))
    source = MemoryFrame(df, [Column("id", "int8"), Column("day", "date")])
    model = GridModel(source, act=lambda fn: fn(), changed=lambda: None)
    model.whole("v")
    model.received("v", {"t": "copy", "range": [0, 0, 0, 1]})
    assert model.update()[-1].content["text"] == "1\t2026-03-31"
    assert "<td>2026-03-31</td>" in grid_html(source)


def test_the_static_form_is_bounded_and_says_of_what_it_is_a_part():
    df = pd.DataFrame({f"c{i}": range(50) for i in range(200)})
    df.index.name = "id"
    fields = [Column("id", "int8"), *(Column(name, "int8") for name in df)]
    html = grid_html(MemoryFrame(df, fields))
    assert "positions: 50 rows × 201 columns, live; the first 10 rows; the first 30 col" in html
    assert (html.count("<th>"), html.count("<tr>")) == (30, 11)
    few = grid_html(MemoryFrame(df.head(3), fields), ["id", "c1"])
    assert "first" not in few


def test_any_column_can_be_filtered_by_what_is_read_in_it():
    values = [b"\xde\xad\xbe\xef", {"k": [1, 2]}, ["a"], None]
    df = pd.DataFrame({"v": pd.Series(values, dtype=object)}, index=pd.Index(range(4), name="id"))
    for text, expected in (("beef", 1), ("'[1, 2]'", 1), ("nothing", 0), ("v=deadbeef", 0)):
        order = Order()
        order.ask((), text)
        order.refresh(df, ["id", "v"], held=False)
        assert len(order) == expected, text


def test_the_widest_value_of_rows_far_away_is_told_for_the_width():
    df = table(10_000)
    df.loc[9_999:, "name"] = "a very long name indeed"
    bench = Bench(df)
    sample = bench.whole.content["samples"][2]
    assert values(sample, bench.whole.buffers[0]) == ["a very long name indeed"]
