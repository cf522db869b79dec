"""What a chart looks like: Altair's specification for columns of a DataFrame.

In: a DataFrame, the kind of chart, the names of its columns. Out: an Altair chart on a data source
named ``live`` with columns ``x``, ``y`` and ``c`` (which of several lines, or what ``color`` says).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import pandas as pd

from notebook_rt.widgets.order import column_of
from notebook_rt.widgets.state import cut

if TYPE_CHECKING:
    import altair as alt

TIMES: Final = {
    "year": "%Y",
    "quarter": "%b %Y",
    "month": "%b %Y",
    "week": "%d %b",
    "date": "%d %b",
    "hours": "%H:%M",
    "minutes": "%H:%M",
    "seconds": "%H:%M:%S",
    "milliseconds": "%S.%L",
}
"""How a time is written on an axis: 24 hours, as in the grid."""
SMALL: Final = (
    "length(datum.label) < 7 || abs(datum.value) >= 1e-4 ? datum.label : format(datum.value, '~g')"
)
"""A number on an axis: 3e-9 and not 0.000000003."""
COLORS: Final = 6
"""How many colours ``chart.js`` has; then they begin again, with another dash or shape."""
DASHES: Final = ([1, 0], [6, 3], [2, 2])
SHAPES: Final = ("circle", "square", "triangle-up")


def kind_of(series: pd.Series[Any]) -> Any:
    """Vega-Lite's type of a column."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "temporal"
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    return "quantitative" if numeric and not pd.api.types.is_bool_dtype(series.dtype) else "nominal"


def picture(df: pd.DataFrame, kind: str, x: str, y: Sequence[str], color: str | None) -> alt.Chart:
    """The chart without data."""
    import altair as alt

    mark: dict[str, Any] = {"type": kind}
    if kind == "hist":
        mark, encode = {"type": "bar"}, _histogram(y[0])
    else:
        xs = column_of(df, x)
        names = kind_of(xs) == "nominal"
        scale: dict[str, Any] = {}
        if kind == "bar" and not names:
            mark["width"] = {"expr": (wide := _bar_width(len(y)))}
            scale["padding"] = {"expr": f"{wide} / 2 + 2"}
        encode = {"x": _x(xs, x, scale), "y": _y(column_of(df, y[0]), y, kind)}
        if color is not None or len(y) > 1:
            encode |= _colours(df, kind, y, color)
            if kind == "bar" and names:
                sort = list(y) if color is None else alt.Undefined
                encode["xOffset"] = alt.XOffset("c", type="nominal", sort=sort)
    return alt.Chart(
        alt.NamedData(name="live"), mark=cast(Any, mark), width="container", height=260
    ).encode(**encode)


def _bar_width(series: int) -> str:
    """Bars on an axis of numbers or times: as wide as there is room for them beside one another."""
    return f"clamp(0.8 * width * {series} / max(1, length(data('live'))), 1, 60)"


def _histogram(name: str) -> dict[str, Any]:
    import altair as alt

    return {
        "x": alt.X("x", type="quantitative", bin="binned", title=cut(name, 60)),
        "x2": alt.X2("x_end"),  # Vega-Lite looks for the bin's end by this name
        # Not stacked: bars with round corners would be drawn as groups, which lose the bins' ends.
        "y": alt.Y("y", type="quantitative", title="rows", stack=None),
    }


def _x(series: pd.Series[Any], name: str, scale: dict[str, Any]) -> Any:
    import altair as alt

    of = kind_of(series)
    axis: Any = alt.Undefined
    if of == "temporal":
        axis = alt.Axis(format=TIMES)
        if pd.api.types.is_datetime64_dtype(series.dtype):
            scale["type"] = "utc"
    elif of == "quantitative":
        axis = alt.Axis(labelExpr=SMALL)
        scale["zero"] = False
    elif _flat(series):
        axis = alt.Axis(labelAngle=0)
    # Names stand as the table has them: in order of the alphabet, 10 would come before 2.
    order = None if of == "nominal" else alt.Undefined
    return alt.X("x", type=of, title=cut(name, 60), scale=scale, axis=axis, sort=order)


def _y(series: pd.Series[Any], names: Sequence[str], kind: str) -> Any:
    import altair as alt

    of = kind_of(series)
    numeric = of == "quantitative"
    return alt.Y(
        "y",
        type=of,
        title=cut(", ".join(names), 60),
        scale=alt.Scale(zero=kind in ("bar", "area")) if numeric else alt.Undefined,
        axis=alt.Axis(labelExpr=SMALL) if numeric else alt.Undefined,
        # Bars of one place stand on one another, else one would hide the other.
        stack="zero" if kind == "bar" and numeric else None,
    )


def _colours(df: pd.DataFrame, kind: str, y: Sequence[str], color: str | None) -> dict[str, Any]:
    """Colours, and past the last of them another dash or shape."""
    import altair as alt

    of = "nominal" if color is None else kind_of(column_of(df, color))
    same: Any = {"type": of, "title": cut(color, 60) if color else None}
    # Of several lines, in the order given. (Two legends are made one only where nothing is sorted.)
    names: Any = {"domain": list(y)} if color is None else {}
    encode: dict[str, Any] = {"color": alt.Color("c", scale=alt.Scale(**names), **same)}
    if of == "nominal" and kind == "line":
        dashes = [dash for dash in DASHES for _ in range(COLORS)]
        encode["strokeDash"] = alt.StrokeDash("c", scale=alt.Scale(range=dashes, **names), **same)
    elif of == "nominal" and kind == "point":
        shapes = [shape for shape in SHAPES for _ in range(COLORS)]
        encode["shape"] = alt.Shape("c", scale=alt.Scale(range=shapes, **names), **same)
    return encode


def _flat(series: pd.Series[Any]) -> bool:
    """Whether the names on the axis have room beside one another."""
    names = series.dropna().astype("str").unique()
    return len(names) * max((len(name) + 2 for name in names), default=0) < 90
