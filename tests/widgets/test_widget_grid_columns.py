"""The grid's columns without a browser: hidden, pinned, coloured, summed; unread filters; files."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.types import Column
from notebook_rt.widgets import GridWidget
from notebook_rt.widgets.export import csv_text, excel_bytes, file_name
from notebook_rt.widgets.gridmodel import PART, GridModel
from notebook_rt.widgets.gridsummary import Summary, checked_style, checked_totals
from notebook_rt.widgets.order import DUTY, Order, keep, misread, parse_terms, term_text
from tests.widgets.bench import FIELDS, Bench, rids, table
from tests.widgets.memory import HOSTILE, MemoryFrame

FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1", "=cmd|' /C calc'!A0")


def names(message: Any) -> list[str]:
    return [column["name"] for column in message.content["columns"]]


def replies(messages: Any) -> list[dict[str, Any]]:
    return [m.content for m in messages if m.content["t"] == "reply"]


# Hidden and pinned


def test_a_column_is_hidden_in_every_view_and_all_are_shown_again():
    bench = Bench(table(5))
    bench.model.whole("other")
    messages = {m.to: m for m in bench.say(t="columns", act="hide", c=1)}
    for message in messages.values():
        assert (message.content["t"], names(message)) == ("grid", ["id", "name", "at"])
        assert message.content["hidden"] == 1
    assert len(messages) == 2
    (message, _) = bench.say(t="columns", act="all")
    assert (names(message), message.content["hidden"]) == (["id", "price", "name", "at"], 0)


def test_the_last_column_cannot_be_hidden():
    bench = Bench(table(5), columns=["id"])
    assert bench.say(t="columns", act="hide", c=0) == []
    assert bench.say(t="columns", act="hide", c=7) == []


def test_pinned_columns_come_first_and_go_back_to_their_place():
    bench = Bench(table(5))
    assert bench.whole.content["pinned"] == 1  # the key
    (message,) = bench.say(t="columns", act="pin", c=2)
    assert (names(message), message.content["pinned"]) == (["id", "name", "price", "at"], 2)
    (message,) = bench.say(t="columns", act="unpin", c=0)
    assert (names(message), message.content["pinned"]) == (["name", "id", "price", "at"], 1)
    (message,) = bench.say(t="columns", act="unpin", c=0)
    assert (names(message), message.content["pinned"]) == (["id", "price", "name", "at"], 0)


def test_order_and_filter_stay_with_their_columns_when_these_move():
    bench = Bench(table(9))
    bench.say(t="sort", by=[[2, False]])
    (message,) = bench.say(t="columns", act="pin", c=2)
    assert message.content["sort"] == [[1, False]]
    bench.say(t="filter", text="price>6")
    (message,) = bench.say(t="columns", act="hide", c=2)
    assert message.content["total"] == 2
    assert bench.shown(message, 0) == [9, 8]


def test_a_new_row_is_offered_only_where_all_that_it_needs_is_shown():
    needy = [FIELDS[0], Column("price", "float8", nullable=False), *FIELDS[2:]]
    bench = Bench(table(3), needy)
    assert bench.whole.content["add"]
    (message,) = bench.say(t="columns", act="hide", c=1)
    assert not message.content["add"]


def test_a_word_said_before_columns_moved_is_about_the_column_it_was_said_of():
    """A kernel that was busy hears what was done meanwhile, one after the other."""
    bench = Bench(table(9))
    layout, rid = bench.whole.content["layout"], rids(bench.whole)[4]
    say = {"layout": layout, "rid": rid}
    bench.say(t="columns", act="hide", c=1, layout=layout)
    bench.say(t="columns", act="pin", c=2, layout=layout)
    bench.say(t="edit", c=2, value="renamed", **say)
    bench.say(t="edit", c=1, value="7.5", **say)
    assert bench.source.edits == [(5, {"name": "renamed"}), (5, {"price": 7.5})]
    bench.say(t="sort", by=[[2, False]], layout=layout)
    bench.say(t="only", c=2, **say)
    (whole,) = bench.model.whole("v")
    assert names(whole) == ["id", "name", "at"]
    assert (whole.content["sort"], whole.content["filter"]) == ([[1, False]], "name=renamed")
    (reply,) = replies(bench.say(t="copy", range=[0, 0, 1, 2], layout=layout))
    assert reply["text"] == "7.5\trenamed"
    assert bench.say(t="edit", c=2, value="x", rid=rid, layout=999) == []


# What this login may write


def test_what_the_login_may_not_write_is_not_offered_and_offered_once_it_may():
    bench = Bench(table(3))
    bench.source.rights = {"update"}
    (message,) = bench.model.update()
    assert (message.content["add"], message.content["remove"]) == (False, False)
    assert [c["editable"] for c in message.content["columns"]] == [False, True, True, True]
    (reply,) = replies(bench.say(t="delete", rids=rids(message)[:1]))
    assert reply["why"] == "Rows cannot be deleted here"
    bench.source.rights = {"insert", "delete"}
    (message,) = bench.model.update()
    assert (message.content["add"], message.content["remove"]) == (True, True)
    assert not any(c["editable"] for c in message.content["columns"])


# Filters


def test_rows_with_the_value_of_a_cell_are_filtered_besides_what_is_filtered_already():
    bench = Bench(table(9))
    bench.say(t="filter", text="price>2")
    (message,) = bench.say(t="only", rid=rids(bench.whole)[6], c=2)
    assert message.content["filter"] == "price>2 'name=name 6'"
    assert bench.shown(message, 0) == [7]


def test_a_value_too_long_for_a_filter_is_refused():
    df = table(3)
    df["name"] = pd.array(["x" * 500, "b", "c"], dtype="str")
    bench = Bench(df)
    (reply,) = replies(bench.say(t="only", rid=rids(bench.whole)[0], c=2))
    assert reply["why"] == "This value is too long for a filter"


VALUES = st.one_of(
    st.none(),
    st.text(max_size=12).filter(lambda t: "\x00" not in t),
    st.sampled_from(["", "null", "a b", "it's", '"q"', "a=b", ">=", "\\", HOSTILE]),
)


@given(st.lists(VALUES, min_size=1, max_size=6), st.integers(0, 5))
def test_the_filter_of_a_value_keeps_its_row(texts: list[str | None], at: int) -> None:
    df = pd.DataFrame({"a=b >c": pd.array(texts, dtype="str"), "a": texts})
    row = at % len(texts)
    for name in df.columns:
        value = df[name].iloc[row]
        text = term_text(name, value)
        kept = keep(df, parse_terms(text, list(df.columns)), list(df.columns))
        assert kept[row]
        assert misread(text, df, list(df.columns)) == ""
        folded = None if value is None or value != value else str(value).casefold()
        for other, is_kept in zip(texts, kept, strict=True):
            same = other == folded if None in (other, folded) else other.casefold() == folded
            assert is_kept == same or "null" in (folded, (other or "").casefold())


@given(st.lists(st.floats(allow_nan=False) | st.none(), min_size=1, max_size=5), st.integers(0, 4))
def test_the_filter_of_a_number_keeps_its_row(numbers: list[float | None], at: int) -> None:
    df = pd.DataFrame({"n": pd.array(numbers, dtype="Float64")})
    value = df["n"].iloc[at % len(numbers)]
    kept = keep(df, parse_terms(term_text("n", value), ["n"]), ["n"])
    assert kept[at % len(numbers)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", ""),
        ("name 3", ""),
        ("price>7 name:x", ""),
        ("at>2026-01-01", ""),
        ("price=null", ""),
        ("http://x.y/?a=b", ""),
        ("price>abc", "“abc” is not a number: price"),
        ("price>", "price> needs a number behind it"),
        ("at<soon", "“soon” is not a date like 2026-03-31 14:30: at"),
        ("pric>7", "There is no column “pric”; did you mean “price”?"),
        ("volume>7", "There is no column “volume”"),
        ('name="a', "A quotation mark is not closed"),
    ],
)
def test_a_filter_that_cannot_be_read_says_so(text: str, why: str) -> None:
    bench = Bench(table(9))
    bench.say(t="filter", text=text)
    (message,) = bench.model.whole("v")
    assert message.content["trouble"] == why
    bench.say(t="filter", text="")
    assert bench.model.whole("v")[0].content["trouble"] == ""


# Ranges and totals


def test_ranges_and_totals_are_those_of_the_rows_shown():
    bench = Bench(table(9), style={"price": "bar"}, totals={"price": "sum", "name": "count"})
    assert bench.whole.content["ranges"] == [[1, 0.0, 8.0]]
    assert bench.whole.content["totals"] == [[1, 36.0], [2, 9]]
    (message,) = bench.say(t="filter", text="price>5")
    assert (message.content["ranges"], message.content["totals"]) == (
        [[1, 6.0, 8.0]],
        [[1, 21.0], [2, 3]],
    )
    bench.say(t="filter", text="nobody")
    assert bench.model.whole("v")[0].content["totals"] == [[1, None], [2, 0]]


def test_while_rows_are_held_the_totals_are_of_their_values_of_now():
    bench = Bench(table(9), totals={"price": "sum"})
    bench.say(t="filter", text="price>=7")
    bench.say(t="hold", on=True)
    bench.model._summary._not_before = 0.0
    df = pd.concat([table(1, first=100), table(9).drop(index=8)])
    df.loc[9, "price"] = 50.0
    bench.set(df)
    assert bench.model.whole("v")[0].content["totals"] == [[1, 50.0]]


def test_totals_of_decimals_and_large_integers_keep_every_digit():
    df = pd.DataFrame(
        {
            "exact": pd.Series([Decimal("0.10"), Decimal("0.20"), None], dtype=object),
            "big": pd.array([2**60, 1, None], dtype="Int64"),
            "at": pd.to_datetime(["2026-01-02", "2026-01-01", None]),
            "none": pd.array([None, None, None], dtype="Float64"),
        }
    )
    functions = {"exact": "sum", "big": "sum", "at": "max", "none": "mean"}
    summary = Summary({}, functions, lambda: 0.0)
    summary.refresh(df, Order())
    assert summary.totals == {
        "exact": "0.30",
        "big": str(2**60 + 1),
        "at": "2026-01-02 00:00:00",
        "none": None,
    }


def test_totals_of_a_changing_table_cost_a_bounded_share_of_a_core():
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01  # each look at the clock is 10 ms of work
        return now[0]

    summary = Summary({}, {"price": "sum"}, clock)
    computed, before = 0, None
    while now[0] < 10:
        summary.refresh(table(5), Order())
        computed += summary._of is not before
        before = summary._of
        now[0] += 0.03
    assert 2 <= computed <= 10 * DUTY / 0.01 + 2
    assert summary.wait() < 1


def test_what_is_no_style_and_no_total_is_refused():
    with pytest.raises(
        ValueError, match="price: a style must be one of bar, color, updown, not 'x'"
    ):
        checked_style({"price": "x"})
    with pytest.raises(
        ValueError, match="s: a color must be one of blue, green, grey, red, yellow"
    ):
        checked_style({"s": {"open": "url(javascript:x)"}})
    with pytest.raises(ValueError, match="price: a total must be one of count, max, mean"):
        checked_totals({"price": "eval"})
    with pytest.raises(ValueError, match=r"not 'avg' \(did you mean 'mean'\?\)"):
        checked_totals({"price": "avg"})
    with pytest.raises(ValueError, match=r"not 'colour' \(did you mean 'color'\?\)"):
        checked_style({"price": "colour"})
    with pytest.raises(ValueError, match='"positions" has no column "cost"'):
        Bench(table(3), totals="cost")
    assert checked_style({"ok": {True: "green", None: "red", 3: "blue"}}) == {
        "ok": {"true": "green", "null": "red", "3": "blue"}
    }


# Files


def fetched(bench: Bench, ending: str) -> tuple[bytes, list[dict[str, Any]]]:
    """A file as the browser fetches it."""
    pieces, told = [], []
    part, parts = 0, 1
    while part < parts:
        (message,) = [
            m for m in bench.say(t="export", part=part, **{"as": ending}) if "kind" in m.content
        ]
        told.append(dict(message.content))
        if "why" in message.content:
            break
        assert len(message.buffers[0]) <= PART
        pieces.append(message.buffers[0])
        part, parts = part + 1, message.content["parts"]
    return b"".join(pieces), told


def test_a_file_has_all_rows_as_they_are_shown():
    bench = Bench(table(5000))
    bench.say(t="filter", text="price>=10")
    bench.say(t="sort", by=[[1, False]])
    bench.say(t="columns", act="hide", c=3)
    content, told = fetched(bench, "csv")
    assert (told[0]["name"], told[0]["rows"]) == ("positions.csv", 4990)
    text = gzip.decompress(content).decode("utf-8-sig")
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["id", "price", "name"]
    assert lines[1] == ["5000", "4999.0", "name 4999"]
    assert len(lines) == 4991


def test_a_large_file_comes_in_parts_and_is_let_go():
    df = table(60_000)
    rng = np.random.default_rng(1)
    df["price"] = rng.random(60_000)
    bench = Bench(df)
    content, told = fetched(bench, "csv")
    assert len(told) == told[0]["parts"] > 2
    assert gzip.decompress(content).count(b"\r\n") == 60_001
    assert bench.model._views["v"].file == b""


def test_a_file_too_large_for_the_browser_says_what_to_do(monkeypatch):
    monkeypatch.setattr("notebook_rt.widgets.gridmodel.FILE_BYTES", 10)
    _, (told,) = fetched(Bench(table(5)), "csv")
    assert 'grid.to_csv("positions.csv")' in told["why"]


def test_without_openpyxl_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    _, (told,) = fetched(Bench(table(5)), "xlsx")
    assert told["why"] == 'Excel files need the extra "excel": pip install "notebook_rt[excel]"'


@given(st.lists(st.text(max_size=8) | st.sampled_from(FORMULAS), min_size=1, max_size=8))
def test_no_text_of_a_csv_file_runs_as_a_formula(texts: list[str]) -> None:
    texts = [text.replace("\x00", "") for text in texts]
    df = pd.DataFrame({texts[0]: pd.array(texts, dtype="str")})
    rows = list(csv.reader(io.StringIO(csv_text(df, {}), newline="")))
    assert len(rows) == len(texts) + 1
    for row, text in zip(rows, [texts[0], *texts], strict=True):
        assert row in ([text], [f"'{text}"])
        begins = row[0].lstrip()[:1]
        assert begins not in tuple("=@＝＋－＠") or begins == ""
        if begins and begins in "+-":
            float(row[0])  # a number, and nothing else


def test_numbers_truths_and_times_stay_what_they_are_in_csv():
    df = pd.DataFrame(
        {
            "n": [-1.5, np.nan],
            "i": pd.array([-(2**60), None], dtype="Int64"),
            "d": [Decimal("-0.10"), None],
            "b": pd.array([True, None], dtype="boolean"),
            "at": pd.to_datetime(["2026-01-01T00:00:00.5Z", None]),
            "day": pd.to_datetime(["2026-01-01", None]),
            "j": [{"a": [1]}, None],
        }
    )
    text = csv_text(df, {"day": "date", "j": "jsonb"})
    assert text.splitlines() == [
        '"n","i","d","b","at","day","j"',
        f'-1.5,{-(2**60)},-0.10,true,2026-01-01 00:00:00.500000+00:00,2026-01-01,"{{""a"": [1]}}"',
        ",,,,,,",
    ]


def test_an_excel_file_has_values_and_no_formulas():
    from openpyxl import load_workbook

    df = pd.DataFrame(
        {
            "=evil()": [*FORMULAS, HOSTILE, "\x07bell", None],
            "n": [*range(-5, 5), 2**60, None],
            "at": pd.to_datetime(["2026-01-01T00:00:00+00:00"] * 11 + [None]),
            "day": pd.to_datetime(["2026-01-01"] * 12),
        }
    )
    df["n"] = df["n"].astype("Int64")
    content = excel_bytes(df, {"day": "date"}, "[a]:*?/\\'" + "x" * 40)
    sheet = load_workbook(io.BytesIO(content)).active
    rows = list(sheet.iter_rows())
    assert {cell.data_type for row in rows for cell in row} <= {"s", "n", "d"}
    assert [cell.value for cell in rows[0]] == ["=evil()", "n", "at (UTC)", "day"]
    assert [row[0].value for row in rows[1:4]] == list(FORMULAS[:3])
    assert rows[11][0].value == "bell"
    assert [rows[1][1].value, rows[11][1].value] == [-5, str(2**60)]
    assert rows[1][2].value == pd.Timestamp("2026-01-01")
    assert rows[1][3].is_date


def test_a_file_s_name_is_harmless():
    assert file_name("../../etc/passwd", "csv") == "etc_passwd.csv"
    assert file_name(HOSTILE, "csv").count(".") == 1
    assert file_name("=", "xlsx") == "table.xlsx"


def test_copy_as_csv_has_a_heading_and_guards_formulas():
    df = table(3)
    df["name"] = pd.array(["=1+1", "b", "c"], dtype="str")
    (reply,) = replies(Bench(df).say(t="copy", range=[0, 1, 1, 2], **{"as": "csv"}))
    assert reply["text"].splitlines() == ['"price","name"', '0.0,"\'=1+1"', '1.0,"b"']


def test_a_widget_saves_what_it_shows(tmp_path):
    widget = GridWidget(MemoryFrame(table(20), FIELDS))
    model = widget._link.model
    assert isinstance(model, GridModel)
    assert len(widget.shown) == 20
    model.received("v", {"t": "filter", "text": "price>=18"})
    model.received("v", {"t": "columns", "act": "hide", "c": 3})
    assert widget.shown.to_dict("list") == {
        "id": [19, 20],
        "price": [18.0, 19.0],
        "name": ["name 18", "name 19"],
    }
    widget.to_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), widget.shown)
    widget.to_excel(tmp_path / "a.xlsx")
    pd.testing.assert_frame_equal(
        pd.read_excel(tmp_path / "a.xlsx"), widget.shown, check_dtype=False
    )
    widget.close()


def test_a_grid_whose_table_has_no_data_yet_says_so_and_shows_it_when_it_comes(tmp_path):
    source = MemoryFrame(table(3), FIELDS)
    full, fields = source.df, source.fields
    source.df, source.fields = pd.DataFrame(), ()
    widget = GridWidget(source, columns=["id", "name"], totals="price", style={"price": "bar"})
    assert widget.shown.empty
    with pytest.raises(ValueError, match=r'table "positions" has no data yet.*\.wait\(\)'):
        widget.to_csv(tmp_path / "a.csv")
    source.fields, source.df = fields, full
    assert widget.shown.columns.tolist() == ["id", "name"]
    widget.close()
