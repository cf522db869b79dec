"""The chart without a browser: its points, their rate, and the specification."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from notebook_rt.model.types import Column
from notebook_rt.widgets import ChartWidget
from notebook_rt.widgets.base import HERE
from notebook_rt.widgets.chart import INTERVAL, POINTS, ChartModel, Kind, thin
from notebook_rt.widgets.chartspec import COLORS
from notebook_rt.widgets.moments import LOOK
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
    assert model.wants() == LOOK  # nothing is owed; whether a past is recorded has no event


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
    assert (message.content["t"], message.whole, message.to) == ("chart", True, None)


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
    color = lines.chart().to_dict(validate=False)["encoding"]["color"]
    assert color["scale"]["domain"] == ["b", "a"]
    assert lines.whole("v")[0].content["foot"] == ""
    source.df = names.iloc[:0]
    assert ChartModel(source, "id", "b").whole("v")[0].content["foot"] == "No rows yet"


def drawn(model: ChartModel, **config: object) -> str:
    """What Vega makes of it, as the browser would."""
    spec = model.chart().to_dict(validate=False) | {"width": 600, "config": config}
    columns, _, _ = model._points_of(model.source.df)
    rows = pd.DataFrame(dict(zip("xyc", columns, strict=False)))
    values = json.loads(rows.to_json(orient="records", date_format="iso"))
    spec["data"] = {"name": "live", "values": values}
    return vl_convert.vegalite_to_svg(spec)


def bars(model: ChartModel) -> list[tuple[float, float]]:
    """Left and right of each bar."""
    paths = re.findall(r'aria-roledescription="bar"[^>]* d="M([^"]*)"', drawn(model))
    return sorted((float(m[1]), float(m[1]) + float(m[2])) for m in map(RECTANGLE.match, paths))


RECTANGLE = re.compile(r"([-\d.]+),[-\d.]+h([-\d.]+)v")


def test_bars_of_one_place_are_summed_over_every_row():
    source = prices(50_000)
    model = ChartModel(source, "venue", "volume", kind="bar")
    (names, sums), shown, _ = model._points_of(source.df)
    expected = source.df.groupby("venue")["volume"].sum()
    assert dict(zip(names, sums, strict=True)) == expected.to_dict()
    assert shown == 3
    assert model.whole("v")[0].content["foot"] == "Sums of 50,000 values"
    each = ChartModel(source, "venue", "volume", kind="bar", color="bid")
    assert each._points_of(source.df)[1] <= POINTS


@pytest.mark.parametrize("x", ["venue", "id", "at"])
@pytest.mark.parametrize("n", [3, 40])
def test_no_bar_hides_another_or_leaves_the_picture(x, n):
    places = bars(ChartModel(prices(n), x, "volume", kind="bar"))
    assert len(places) == (3 if x == "venue" else n)
    assert places[0][0] >= 0
    assert places[-1][1] <= 600
    assert all(after[0] >= before[1] for before, after in pairwise(places))
    assert all(right - left > 8 for left, right in places), "wide enough to be seen as a bar"


def test_several_columns_are_bars_beside_one_another_or_on_one_another():
    beside = bars(ChartModel(prices(3), "venue", ["bid", "ask"], kind="bar"))
    assert len(beside) == 6
    assert all(after[0] >= before[1] for before, after in pairwise(beside))
    on = ChartModel(prices(3), "at", ["bid", "ask"], kind="bar")
    assert on.chart().to_dict(validate=False)["encoding"]["y"]["stack"] == "zero"


def palettes() -> list[list[str]]:
    script = (HERE / "chart.js").read_text()
    return [re.findall(r"#\w{6}", line) for line in re.findall(r"[?:] \[(\"#.*)\]", script)]


# Linear RGB as it is seen without green or red cones: Machado, Oliveira and Fernandes (2009).
EYES = {
    "all cones": np.eye(3),
    "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
}
# Björn Ottosson's Oklab, in which distances are about as they are seen.
CONES = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
LAB = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("palette", palettes(), ids=["dark", "light"])
def test_colours_are_distinguished_by_the_colour_blind(palette, eyes):
    srgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in palette])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(EYES[eyes]).T, 0, 1)
    lab = np.cbrt(seen @ np.array(CONES).T) @ np.array(LAB).T
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert apart[np.triu_indices(len(palette), 1)].min() > 0.1
    assert len(palette) == COLORS


def test_lines_past_the_last_colour_have_another_dash_and_one_legend():
    df = pd.DataFrame({f"s{i}": [i, i + 1.5] for i in range(10)}, index=pd.Index([1, 2], name="id"))
    fields = [Column("id", "int8"), *(Column(name, "float8") for name in df)]
    svg = drawn(ChartModel(MemoryFrame(df, fields), "id", list(df)))
    lines = re.findall(r'aria-roledescription="line mark"[^>]*', svg)
    assert len(lines) == 10
    assert sum('stroke-dasharray="6,3"' in line for line in lines) == 10 - COLORS
    assert svg.count('aria-roledescription="legend"') == 1


def test_a_small_number_on_an_axis_is_short():
    df = pd.DataFrame({"v": [1e-9, 4e-9]}, index=pd.Index([1, 2], name="id"))
    fields = [Column("id", "int8"), Column("v", "float8")]
    svg = drawn(ChartModel(MemoryFrame(df, fields), "id", "v"))
    assert ">4e-9<" in svg
    assert ">0.0000" not in svg


def test_a_histogram_of_names_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match='"venue" has none; draw names with "bar"'):
        ChartModel(prices(10), None, "venue", kind="hist")


def test_a_column_that_changes_its_type_is_drawn_again_and_one_that_goes_is_named():
    source = prices(10)
    now = [0.0]
    model = ChartModel(source, "at", "volume", clock=lambda: now[0])
    model.whole("v")
    now[0] += 1
    before = source.df
    source.set(before.assign(volume=pd.array([f"n{i}" for i in range(10)], dtype="str")))
    (message,) = model.update()
    assert (message.content["t"], message.to, message.whole) == ("chart", None, True)
    assert message.content["spec"]["encoding"]["y"]["type"] == "nominal"
    now[0] += 1
    source.set(before.drop(columns="volume"))
    (message,) = model.update()
    assert 'no column "volume"; there are id, at' in message.content["note"]
    assert model.update() == []
    (late,) = model.whole("late")
    assert (late.content["t"], late.to) == ("note", "late")
    source.set(before)
    messages = list(model.update())  # for the late one, and for the other, which has names still
    assert [(m.content["t"], m.to) for m in messages] == [("chart", None)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"y": ["bid", "ask"], "last": 50},
        {"x": "venue", "y": "volume", "kind": "bar"},
        {"y": "volume", "kind": "hist"},
        {"x": "at", "y": "bid", "kind": "point", "color": "venue"},
    ],
)
def test_a_chart_is_saved_with_its_data(options: dict[str, Any], tmp_path: Path) -> None:
    widget = ChartWidget(prices(300), **{"x": "at", "y": "bid"} | options)
    for ending, begin in (("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")):
        path = tmp_path / f"a.{ending}"
        widget.save(path)
        assert path.read_bytes().startswith(begin)
    widget.save(str(tmp_path / "a.json"))
    spec = json.loads((tmp_path / "a.json").read_text())
    assert spec["data"]["values"]
    assert (tmp_path / "a.svg").read_text().count("aria-roledescription") > 2, "marks, and axes"
    with pytest.raises(ValueError, match=r"a chart is saved as \.png, \.svg, \.pdf, \.json"):
        widget.save(tmp_path / "a.gif")
    widget.close()


def test_the_specification_is_one_that_altair_reads_as_it_is():
    """Altair checks it against Vega-Lite's schema; it is written without, since its import takes long."""
    source = MemoryFrame(
        pd.DataFrame(
            {
                "at": pd.date_range("2026-01-01", periods=30, freq="h", tz="UTC"),
                "day": pd.date_range("2026-01-01", periods=30),
                "v": np.linspace(-1, 1, 30),
                "w": range(30),
                "s": ["a", "b", "c"] * 10,
                "long": [f"a long name, {n}" for n in range(30)],
            },
            index=pd.RangeIndex(30, name="id"),
        ),
        [Column("id", "int8"), *(Column(name) for name in ("at", "day", "v", "w", "s", "long"))],
    )
    cases: list[tuple[Any, str | None, Any, str | None]] = [
        *((kind, x, "v", None) for kind, x in product(get_args(Kind), ("at", "s"))),
        *(("line", x, "v", None) for x in (None, "day", "v", "long")),
        *((kind, "s", ["v", "w"], None) for kind in ("line", "point", "bar")),
        *((kind, "at", "v", color) for kind, color in product(("line", "point"), ("s", "w"))),
    ]
    for kind, x, y, color in cases:
        spec = ChartModel(source, x, y, kind=kind, color=color).spec()
        read = alt.Chart.from_dict(spec, validate=True).to_dict(validate=True)
        assert {name: read[name] for name in spec if name != "$schema"} == {
            name: spec[name] for name in spec if name != "$schema"
        }


def test_no_chart_imports_altair_unless_it_is_asked_for(tmp_path: Path):
    """Its import takes 3 s where jsonschema has all its checkers, as it has beside JupyterLab."""
    code = """
        import sys
        from tests.browser.scenes import prices
        from notebook_rt.widgets import ChartWidget
        chart = ChartWidget(prices(10), "at", "bid")
        chart._model.whole("v")
        chart.save(sys.argv[1])
        print("altair" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "it.png")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_extra_a_chart_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r'pip install "notebook_rt\[plot\]"'):
        ChartWidget(prices(10), "at", "bid")
