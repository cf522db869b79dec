"""The live chart: ``frame.plot(x=…, y=…, kind=…)``. In: a frame. Out: a Vega-Lite picture and data.

Altair writes the specification, the browser's Vega draws it. Altair's own ``JupyterChart`` keeps
the data in its synced state and sends all of it with every change (34 % of a core at 10 Hz, and
every row in the saved notebook: NOTEBOOK.md), so only its library is used: Vega comes out of the
``vl-convert`` wheel once a page, and the data goes over our own transport, bounded in points and in
what it costs.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs

from notebook_rt.errors import ClosedError
from notebook_rt.widgets.base import LiveWidget, module, styles
from notebook_rt.widgets.columns import Pack, cells
from notebook_rt.widgets.order import DUTY, column_of
from notebook_rt.widgets.sources import Eyes, FrameSource
from notebook_rt.widgets.state import cut
from notebook_rt.widgets.transport import Message

if TYPE_CHECKING:
    import altair as alt

Kind: TypeAlias = Literal["line", "area", "bar", "point", "tick", "hist"]
Positions: TypeAlias = npt.NDArray[np.intp]
POINTS: Final = 2_000
BINS: Final = 40
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
INTERVAL: Final = 0.1
"""Seconds between two pictures at least: more is not seen, and Vega draws each anew."""


@cache
def vega() -> bytes:
    """Vega-Embed with its Vega as one gzipped ES module, from the ``vl-convert`` wheel."""
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'charts need the extra "plot": pip install "notebook_rt[plot]"', name=error.name
        ) from error
    # Bundling takes seconds: done once a machine, for each version of the wheel.
    wheel = version("vl-convert-python")
    kept = platformdirs.user_cache_path("notebook_rt") / f"vega-{wheel}.js.gz"
    with contextlib.suppress(OSError):
        return kept.read_bytes()
    text = vl_convert.javascript_bundle("export { vegaEmbed };")
    bundle = gzip.compress(text.encode(), 6)
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        half = kept.with_name(f"{kept.name}.{os.getpid()}")
        half.write_bytes(bundle)
        half.replace(kept)
    return bundle


def thin(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], points: int) -> Positions:
    """At most ``points`` positions that draw the same line: lowest and highest of equal stretches.

    ``x`` need not be sorted; the positions come in the order of ``x``.

    >>> thin(np.arange(6.0), np.array([0, 9, 1, 2, -5, 3.0]), 4).tolist()
    [0, 1, 4, 5]
    """
    order = np.argsort(x, kind="stable")
    if len(x) <= points:
        return order
    buckets = points // 2
    edges = np.linspace(0, len(x), buckets + 1).astype(np.intp)
    values = y[order]
    low, high = (
        np.where(np.isnan(values), np.inf, values),
        np.where(np.isnan(values), -np.inf, values),
    )
    chosen = {
        int(start + where(part[start:stop]))
        for start, stop in pairwise(edges)
        for where, part in ((np.argmin, low), (np.argmax, high))
    }
    return order[np.fromiter(sorted(chosen), dtype=np.intp, count=len(chosen))]


def _floats(series: pd.Series[Any]) -> npt.NDArray[np.float64] | None:
    """Numbers and times as floats; None for text."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return np.asarray(series.array.astype("int64"), dtype=np.float64)
    if pd.api.types.is_numeric_dtype(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return None


class ChartModel:
    """Chooses the points and sends them; the picture is the browser's.

    Parameters
    ----------
    source
        The live table.
    x, y, color
        Columns; without ``x`` the key. Several ``y`` are several lines.
    kind
        ``line``, ``area``, ``bar``, ``point``, ``tick``, ``hist``.
    last
        Only the last so many rows, in the frame's order.
    points
        At most so many.
    style
        Given the Altair chart, returns it changed (size, scales, titles).
    clock
        Seconds.
    """

    def __init__(
        self,
        source: FrameSource,
        x: str | None,
        y: str | Sequence[str],
        *,
        kind: Kind = "line",
        color: str | None = None,
        last: int | None = None,
        points: int = POINTS,
        style: Callable[[alt.Chart], alt.Chart] = lambda chart: chart,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}")
        self.source = source
        self.kind: Kind = kind
        self.x = x or source.fields[0].name
        self.y = [y] if isinstance(y, str) else list(y)
        self.color = color
        if color is not None and len(self.y) > 1:
            raise ValueError("color= and several y: the lines are told apart by colour already")
        known = [f.name for f in source.fields]
        for name in [self.x, *self.y, *([color] if color else [])]:
            if name not in known:
                there = ", ".join(known)
                raise ValueError(f'"{source.name}" has no column "{name}"; there are {there}')
        self._last = last
        self._points = points
        self._style = style
        self._clock = clock
        self._df: pd.DataFrame | None = None
        self._not_before = 0.0
        self._status = ""
        self._waiting = False
        self._owed: list[str] = []
        """Views that wait for the first data."""

    @property
    def label(self) -> str:
        """The picture in words."""
        return f"Live {self.kind} chart of {', '.join(self.y)} by {self.x}, {self.source.name}"

    def chart(self) -> alt.Chart:
        """The Altair chart, on a data source named ``live`` with columns ``x``, ``y``, ``c``."""
        import altair as alt

        df = self.source.df
        mark: Any = {"hist": "bar"}.get(self.kind, self.kind)
        encode: dict[str, Any] = {}
        kind_x = self._type(column_of(df, self.x))
        naive = pd.api.types.is_datetime64_dtype(column_of(df, self.x).dtype)
        scale = alt.Scale(type="utc") if naive else alt.Undefined
        title = cut(self.x, 60)
        if self.kind == "hist":
            encode["x"] = alt.X("x", type="quantitative", bin="binned", title=cut(self.y[0], 60))
            encode["x2"] = alt.X2("x_end")  # Vega-Lite looks for the bin's end by this name
            # Not stacked: bars with round corners would be drawn as groups, which lose the bins' ends.
            encode["y"] = alt.Y("y", type="quantitative", title="rows", stack=None)
        else:
            kind_y = self._type(column_of(df, self.y[0]))
            zero = alt.Scale(zero=self.kind in ("bar", "area"))
            if kind_x == "quantitative" and self.kind != "bar":
                scale = alt.Scale(zero=False)
            axis: Any = alt.Undefined
            if kind_x == "temporal":
                axis = alt.Axis(format=TIMES)
            elif kind_x == "nominal" and self._flat(column_of(df, self.x)):
                axis = alt.Axis(labelAngle=0)
            # Names stand as the table has them: in order of the alphabet, 10 would come before 2.
            order = None if kind_x == "nominal" else alt.Undefined
            encode["x"] = alt.X("x", type=kind_x, title=title, scale=scale, axis=axis, sort=order)
            encode["y"] = alt.Y(
                "y",
                type=kind_y,
                title=cut(", ".join(self.y), 60),
                scale=zero if kind_y == "quantitative" else alt.Undefined,
                stack=None,
            )
        if self.kind != "hist" and (self.color is not None or len(self.y) > 1):
            name = cut(self.color, 60) if self.color else None
            kind_c: Any = "nominal" if self.color is None else self._type(column_of(df, self.color))
            sort = list(self.y) if self.color is None else alt.Undefined
            encode["color"] = alt.Color("c", type=kind_c, title=name, sort=sort)
        chart = alt.Chart(alt.NamedData(name="live"), mark=mark, width="container", height=260)
        return self._style(chart.encode(**encode))

    def _flat(self, series: pd.Series[Any]) -> bool:
        """Whether the names on the axis have room beside one another."""
        names = series.dropna().unique()
        return len(names) * max((len(str(name)) + 2 for name in names), default=0) < 90

    def _type(self, series: pd.Series[Any]) -> Any:
        if pd.api.types.is_datetime64_any_dtype(series.dtype):
            return "temporal"
        numeric = pd.api.types.is_numeric_dtype(series.dtype)
        return (
            "quantitative"
            if numeric and not pd.api.types.is_bool_dtype(series.dtype)
            else "nominal"
        )

    def whole(self, view: str) -> Sequence[Message]:
        if not {self.x, *self.y} <= {
            *self.source.df.columns,
            *self.source.df.index.names,
        }:  # a lazy table that begins again
            self._owed.append(view)
            return []
        spec = self.chart().to_dict(validate=False)
        spec.pop("config", None)
        data, buffers = self._data()
        names = ["x", "y", "x_end" if self.kind == "hist" else "c"][: len(data["cols"])]
        head = {"t": "chart", "spec": spec, "names": names}
        return [Message({**head, **data}, buffers, whole=True, to=view)]

    def update(self) -> Sequence[Message]:
        if self._owed:
            owed, self._owed = self._owed, []
            return [message for view in owed for message in self.whole(view)]
        if self.source.df is self._df and self.source.status == self._status:
            self._waiting = False
            return []
        if self._clock() < self._not_before:
            self._waiting = True
            return []
        data, buffers = self._data()
        return [Message({"t": "data", **data}, buffers)]

    def wants(self) -> float:
        return max(0.0, self._not_before - self._clock()) if self._waiting else float("inf")

    def heard(self, view: str, content: Mapping[str, Any]) -> None:
        pass

    def left(self, view: str) -> None:
        pass

    def _data(self) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        started = self._clock()
        df = self._df = self.source.df
        self._status, self._waiting = self.source.status, False
        if self._last is not None:
            df = df.iloc[-self._last :]
        columns, shown = self._histogram(df) if self.kind == "hist" else self._points_of(df)
        pack = Pack()
        module = [pack.add_cells(cells(c, np.arange(len(c)))) for c in columns]
        rows = len(df) * len(self.y)
        now = self._clock()
        self._not_before = now + max(INTERVAL, (now - started) * (1 / DUTY - 1))
        content = {
            "cols": module,
            "label": cut(f"{self.label}, {shown:,} points"),
            "foot": (
                f"{shown:,} of {rows:,} points" if shown < rows else "" if rows else "No rows yet"
            ),
            "note": cut(self.source.note),
        }
        return content, (pack.bytes(),)

    def _histogram(self, df: pd.DataFrame) -> tuple[list[Any], int]:
        """Counted here, over every row; the bins' left edges, counts and right edges."""
        values = _floats(column_of(df, self.y[0]))
        if values is None:
            raise ValueError(f"{self.y[0]} is not a column of numbers")
        values = values[np.isfinite(values)]
        bins: Any = BINS
        if len(values) and pd.api.types.is_integer_dtype(column_of(df, self.y[0]).dtype):
            low, high = values.min(), values.max()  # as many whole numbers in each
            bins = np.arange(low, high + 2 * (step := (high - low) // BINS + 1), step)
        counts, edges = np.histogram(values, bins=bins)
        columns = [pd.array(part, dtype="float64") for part in (edges[:-1], counts, edges[1:])]
        return columns, len(df)

    def _points_of(self, df: pd.DataFrame) -> tuple[list[Any], int]:
        shown = 0
        xs, ys, cs = [], [], []
        share = max(self._points // len(self.y), 2)
        for name in self.y:
            at = self._choose(df, name, share)
            shown += len(at)
            xs.append(column_of(df, self.x).array.take(at))
            ys.append(column_of(df, name).array.take(at))
            if self.color is not None:
                cs.append(column_of(df, self.color).array.take(at))
            elif len(self.y) > 1:
                cs.append(pd.array([name] * len(at), dtype="str"))
        return [self._joined(parts) for parts in (xs, ys, cs) if parts], shown

    def _joined(self, parts: list[Any]) -> Any:
        return pd.concat([pd.Series(p) for p in parts], ignore_index=True).array

    def _choose(self, df: pd.DataFrame, name: str, points: int) -> Positions:
        y = _floats(column_of(df, name))
        x = _floats(column_of(df, self.x))
        if self.kind in ("line", "area") and x is not None and y is not None and self.color is None:
            return thin(x, y, points)
        if len(df) <= points:
            return np.arange(len(df), dtype=np.intp)
        return np.linspace(0, len(df) - 1, points).astype(np.intp)


class ChartWidget(LiveWidget):
    """A live chart of a frame; see ``ChartModel`` for the parameters."""

    _esm = module("chart")
    _css = styles("chart")
    libraries: Mapping[str, Callable[[], bytes]] = {"vega": vega}

    def __init__(
        self,
        source: FrameSource,
        x: str | None = None,
        y: str | Sequence[str] = (),
        *,
        kind: Kind = "line",
        color: str | None = None,
        last: int | None = None,
        points: int = POINTS,
        style: Callable[[alt.Chart], alt.Chart] = lambda chart: chart,
        eyes: Eyes | None = None,
    ) -> None:
        if not y:
            y = [f.name for f in source.fields if _drawable(source, f.name) and f.name != x][:3]
            if not y:
                raise ValueError(f"{source.name} has no column of numbers to draw; give y=")
        model = ChartModel(
            source, x, y, kind=kind, color=color, last=last, points=points, style=style
        )
        self._model: ChartModel | None = model
        super().__init__(
            model,
            subscribe=source.on_change,
            static=lambda: (model.label, f"<p>{escape(model.label)}</p>"),
            eyes=eyes,
            while_seen=True,
        )

    @property
    def chart(self) -> alt.Chart:
        """The Altair chart behind the picture, without data."""
        if self._model is None:
            raise ClosedError("this chart")
        return self._model.chart()

    def _let_go(self) -> None:
        super()._let_go()
        self._model = None


def _drawable(source: FrameSource, name: str) -> bool:
    series = column_of(source.df, name)
    key = name in source.df.index.names
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    return numeric and not key and not pd.api.types.is_bool_dtype(series.dtype)
