"""The Vega-Lite specification of a chart for columns of a DataFrame.

Input: a DataFrame, the kind of chart, the names of its columns. Output: a specification on a data source
named ``live`` with columns ``x``, ``y`` and ``c`` (which of several lines, or the value of ``color``). It is
written directly, without Altair, whose import takes a second, and three where JupyterLab is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import pandas as pd

from notebook_rt.widgets.order import column_of
from notebook_rt.widgets.state import cut

Spec: TypeAlias = dict[str, Any]
"""Vega-Lite's JSON, or a part of it."""

SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"
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
"""The format of a time on an axis: 24 hours, as in the grid."""
SMALL: Final = (
    "length(datum.label) < 7 || abs(datum.value) >= 1e-4 ? datum.label : format(datum.value, '~g')"
)
"""The format of a number on an axis: 3e-9, not 0.000000003."""
COLORS: Final = 6
"""Number of colours in ``chart.js``; after them the colours repeat with another dash or shape."""
DASHES: Final = ([1, 0], [6, 3], [2, 2])
SHAPES: Final = ("circle", "square", "triangle-up")


def kind_of(series: pd.Series[Any]) -> Any:
    """Return Vega-Lite's type of a column."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "temporal"
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    return "quantitative" if numeric and not pd.api.types.is_bool_dtype(series.dtype) else "nominal"


def picture(df: pd.DataFrame, kind: str, x: str, y: Sequence[str], color: str | None) -> Spec:
    """Return the chart without data."""
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
                order = {"sort": list(y)} if color is None else {}
                encode["xOffset"] = {"field": "c", "type": "nominal", **order}
    return {
        "$schema": SCHEMA,
        "data": {"name": "live"},
        "mark": mark,
        "encoding": encode,
        "width": "container",
        "height": 260,
    }


def _bar_width(series: int) -> str:
    """Return the width of bars on an axis of numbers or times: as wide as fits side by side."""
    return f"clamp(0.8 * width * {series} / max(1, length(data('live'))), 1, 60)"


def _histogram(name: str) -> Spec:
    return {
        "x": {"field": "x", "type": "quantitative", "bin": "binned", "title": cut(name, 60)},
        "x2": {"field": "x_end"},  # Vega-Lite expects this name for the bin's end
        # Not stacked: bars with round corners would be drawn as groups, which lose the bins' ends.
        "y": {"field": "y", "type": "quantitative", "title": "rows", "stack": None},
    }


def _x(series: pd.Series[Any], name: str, scale: Spec) -> Spec:
    of = kind_of(series)
    more: Spec = {}
    if of == "temporal":
        more["axis"] = {"format": TIMES}
        if pd.api.types.is_datetime64_dtype(series.dtype):
            scale["type"] = "utc"
    elif of == "quantitative":
        more["axis"] = {"labelExpr": SMALL}
        scale["zero"] = False
    elif _flat(series):
        more["axis"] = {"labelAngle": 0}
    if of == "nominal":  # in the table's order; alphabetically, 10 would come before 2
        more["sort"] = None
    return {"field": "x", "type": of, "title": cut(name, 60), "scale": scale, **more}


def _y(series: pd.Series[Any], names: Sequence[str], kind: str) -> Spec:
    of = kind_of(series)
    more: Spec = {}
    if of == "quantitative":
        more = {"scale": {"zero": kind in ("bar", "area")}, "axis": {"labelExpr": SMALL}}
    # Bars of one place are stacked, or one would hide the other.
    stack = "zero" if kind == "bar" and of == "quantitative" else None
    return {"field": "y", "type": of, "title": cut(", ".join(names), 60), "stack": stack, **more}


def _colours(df: pd.DataFrame, kind: str, y: Sequence[str], color: str | None) -> Spec:
    """Return colours, and after the last one another dash or shape."""
    of = "nominal" if color is None else kind_of(column_of(df, color))
    same = {"field": "c", "type": of, "title": cut(color, 60) if color else None}
    # For several lines, in the given order. (Two legends are merged only if nothing is sorted.)
    names = {"domain": list(y)} if color is None else {}
    encode: Spec = {"color": {**same, "scale": names}}
    if of == "nominal" and kind == "line":
        dashes = [dash for dash in DASHES for _ in range(COLORS)]
        encode["strokeDash"] = {**same, "scale": {"range": dashes, **names}}
    elif of == "nominal" and kind == "point":
        shapes = [shape for shape in SHAPES for _ in range(COLORS)]
        encode["shape"] = {**same, "scale": {"range": shapes, **names}}
    return encode


def _flat(series: pd.Series[Any]) -> bool:
    """Return whether the names on the axis fit side by side."""
    names = series.dropna().astype("str").unique()
    return len(names) * max((len(name) + 2 for name in names), default=0) < 90
