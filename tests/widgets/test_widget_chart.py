"""The chart without a browser: which points, how often, and what the specification says."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from notebook_rt.store.types import Column
from notebook_rt.widgets import ChartWidget
from notebook_rt.widgets.chart import INTERVAL, POINTS, ChartModel, thin
from tests.browser.scenes import prices
from tests.widgets.memory import HOSTILE, MemoryFrame


@given(npst.arrays(np.float64, st.integers(1, 3000)), st.integers(2, 500))
def test_a_thinned_line_is_bounded_and_keeps_its_extremes(y, points):
    x = np.random.default_rng(0).permutation(len(y)).astype(float)
    at = thin(x, y, points)
    assert len(at) <= max(points, 0) or len(at) == len(y) <= points
    assert np.all(np.diff(x[at]) > 0)
    finite = y[~np.isnan(y)]
    if len(finite):
        assert np.nanmin(y[at]) == finite.min()
        assert np.nanmax(y[at]) == finite.max()


def test_what_is_sent_is_bounded_in_points_and_in_time():
    now = [100.0]
    source = prices(50_000)
    model = ChartModel(source, "at", ["bid", "ask"], clock=lambda: now[0])
    (whole,) = model.whole("v")
    assert whole.whole
    assert whole.size < POINTS * 3 * 8 + 20_000
    assert whole.content["foot"] == "2,000 of 100,000 points"
    sent = 0
    for _ in range(100):  # a change every 10 ms
        now[0] += 0.01
        source.set(source.df.copy())
        sent += len(model.update())
    assert 8 <= sent <= 1 / INTERVAL + 1


def test_the_last_change_is_drawn_though_nothing_follows():
    now = [0.0]
    source = prices(100)
    model = ChartModel(source, "at", "bid", clock=lambda: now[0])
    model.whole("v")
    source.set(source.df.copy())
    assert model.update() == []
    now[0] += model.wants()
    assert len(model.update()) == 1
    assert model.wants() == float("inf")


def test_names_are_titles_and_never_field_expressions():
    df = pd.DataFrame({HOSTILE: [1.0, 2.0], "a.b[0]": [3.0, 4.0]})
    df.index.name = "id"
    fields = [Column("id", "int8"), Column(HOSTILE, "float8"), Column("a.b[0]", "float8")]
    model = ChartModel(MemoryFrame(df, fields), "a.b[0]", HOSTILE)
    encoding = model.chart().to_dict()["encoding"]
    assert (encoding["x"]["field"], encoding["y"]["field"]) == ("x", "y")
    assert encoding["y"]["title"] == HOSTILE


def test_times_without_a_zone_are_shown_as_they_are():
    df = pd.DataFrame({"at": pd.to_datetime(["2026-01-01", "2026-01-02"]), "v": [1.0, 2.0]})
    df.index.name = "id"
    fields = [Column("id", "int8"), Column("at", "timestamp"), Column("v", "float8")]
    encoding = ChartModel(MemoryFrame(df, fields), "at", "v").chart().to_dict()["encoding"]
    assert encoding["x"]["type"] == "temporal"
    assert encoding["x"]["scale"]["type"] == "utc"


def test_without_y_the_columns_of_numbers_are_drawn():
    widget = ChartWidget(prices(10), "at")
    assert widget._model.y == ["bid", "ask", "volume"]
    assert widget._repr_mimebundle_()[0]["text/plain"].startswith("Live line chart of bid")
    widget.close()


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="prize"):
        ChartModel(prices(10), "at", "prize")


def test_the_style_function_has_the_last_word():
    model = ChartModel(prices(10), "at", "bid", style=lambda chart: chart.properties(height=77))
    assert model.whole("v")[0].content["spec"]["height"] == 77


def test_a_histogram_counts_every_row():
    model = ChartModel(prices(50_000), None, "volume", kind="hist")
    (head,) = model.whole("v")
    assert head.content["names"] == ["x", "y", head.content["spec"]["encoding"]["x2"]["field"]]
    spec = head.content["spec"] | {"config": {"bar": {"cornerRadiusEnd": 2}}, "width": 300}
    spec["data"] = {"name": "live", "values": [{"x": 1, "x_end": 2, "y": 3}]}
    drawn = vl_convert.vegalite_to_svg(spec)
    (bar,) = re.findall(r'aria-roledescription="bar"[^>]* d="([^"]*)"', drawn)
    assert "h0v" not in bar, "a bar without width is not seen"
    columns, shown = model._histogram(model.source.df)
    assert shown == 50_000
    assert sum(columns[1]) == 50_000


def test_bars_of_whole_numbers_hold_as_many_of_them_each():
    source = prices(50_000)
    model = ChartModel(source, None, "volume", kind="hist")
    (left, counts, right), _ = model._histogram(source.df)
    assert {float(b - a) % 1 for a, b in zip(left, right, strict=True)} == {0.0}
    assert len({b - a for a, b in zip(left, right, strict=True)}) == 1
    assert sum(counts) == 50_000


def test_a_chart_whose_table_has_no_data_yet_is_drawn_when_it_comes():
    source = prices(10)
    df = source.df
    model = ChartModel(source, "at", "bid")
    source.set(pd.DataFrame())
    assert model.whole("v") == []
    assert model.update() == []
    source.set(df)
    (message,) = model.update()
    assert (message.whole, message.to) == (True, "v")


def test_names_and_lines_stand_in_the_order_they_were_given_and_an_empty_chart_says_so():
    names = pd.DataFrame({"name": pd.array(["n2", "n10"], dtype="str"), "b": [1, 2], "a": [3, 4]})
    names.index.name = "id"
    fields = [
        Column("id", "int8"),
        Column("name", "text"),
        Column("b", "int8"),
        Column("a", "int8"),
    ]
    source = MemoryFrame(names, fields)
    bars = ChartModel(source, "name", "b", kind="bar")
    lines = ChartModel(source, "id", ["b", "a"])
    assert bars.chart().to_dict(validate=False)["encoding"]["x"]["sort"] is None
    assert lines.chart().to_dict(validate=False)["encoding"]["color"]["sort"] == ["b", "a"]
    assert lines.whole("v")[0].content["foot"] == ""
    source.df = names.iloc[:0]
    assert ChartModel(source, "id", "b").whole("v")[0].content["foot"] == "No rows yet"
