"""The live chart: ``frame.plot(x=…, y=…, kind=…)``. Input: a frame. Output: a Vega-Lite picture and data.

Altair writes the specification, the browser's Vega draws it. Altair's own ``JupyterChart`` keeps the data in
its synced state and sends all of it with every change (34 % of a core at 10 Hz, and every row in the saved
notebook: docs/design/notebooks.md), so only its library is used: Vega is loaded from the ``vl-convert`` wheel
once per page, and the data is sent over our own transport, with limits on the number of points and on the
cost.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import platformdirs

from notebook_rt.errors import ClosedError
from notebook_rt.model.coerce import missing
from notebook_rt.widgets.base import LiveWidget, built, pump
from notebook_rt.widgets.chartspec import Spec, kind_of, picture
from notebook_rt.widgets.columns import NULL, Pack, cells, text_of
from notebook_rt.widgets.moments import LOOK, Moments
from notebook_rt.widgets.order import DUTY, column_of
from notebook_rt.widgets.sources import FrameSource, OnViewer
from notebook_rt.widgets.state import cut, sentence
from notebook_rt.widgets.transport import Message

if TYPE_CHECKING:
    import altair as alt

Kind: TypeAlias = Literal["line", "area", "bar", "point", "tick", "hist"]
Positions: TypeAlias = npt.NDArray[np.intp]
POINTS: Final = 2_000
BINS: Final = 40
SAVED: Final = ("png", "svg", "pdf", "json")
"""The file formats of a saved chart."""
WIDTH: Final = 720
"""Width of a saved chart in pixels, unless its style sets another."""
PRINTED: Final = {
    "background": "white",
    "view": {"stroke": None},
    "axisX": {"grid": False},
    "axis": {"gridColor": "#d8dee4", "domainColor": "#d8dee4", "tickColor": "#d8dee4"},
    "mark": {"color": "#0b62c4"},
    "area": {"fillOpacity": 0.35, "line": True},
    "point": {"filled": True, "size": 36, "opacity": 0.75},
    "range": {"category": ["#0b62c4", "#8b4600", "#5da200", "#a21774", "#748bff", "#d174a2"]},
}
"""The style of a saved chart: the same as ``chart.js`` draws on a light page."""
INTERVAL: Final = 0.1
"""Minimum seconds between two pictures: more are not visible, and Vega redraws each from scratch."""


def of_extra(name: str) -> Any:
    """Import a module that the extra ``plot`` installs.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'charts need the extra "plot": pip install "notebook_rt[plot]"', name=error.name
        ) from error


@cache
def vega() -> bytes:
    """Vega-Embed with its Vega as one gzipped ES module, from the ``vl-convert`` wheel."""
    vl_convert = of_extra("vl_convert")
    # Bundling takes seconds: done once per machine and version of the wheel.
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
    """Return at most ``points`` positions that draw the same line: minimum and maximum of equal stretches.
    ``x`` need not be sorted; the positions are returned in the order of ``x``.

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


def summed(part: dict[str, pd.Series[Any]]) -> dict[str, pd.Series[Any]]:
    """Sum the values of each place (and colour): bars that share one would hide each other."""
    places = [letter for letter in part if letter != "y"]
    if kind_of(part["y"]) != "quantitative":
        return part
    table = pd.DataFrame({letter: series.array for letter, series in part.items()})
    for letter in places:
        if table[letter].dtype == object:  # JSON and arrays, which cannot be hashed
            table[letter] = [None if missing(v) else text_of(v) for v in table[letter]]
    if not table.duplicated(places).any():
        return part
    sums = table.groupby(places, sort=False, dropna=False, observed=True)["y"].sum(min_count=1)
    return {letter: sums.reset_index()[letter] for letter in part}


def _floats(series: pd.Series[Any]) -> npt.NDArray[np.float64] | None:
    """Return numbers and times as floats; None for text."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return np.asarray(series.array.astype("int64"), dtype=np.float64)
    if pd.api.types.is_numeric_dtype(series.dtype):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return None


class ChartModel:
    """Chooses the points and sends them; the browser draws the picture.

    Parameters
    ----------
    source
        The live table.
    x, y, color
        Columns; without ``x`` the key. Several ``y`` make several lines.
    kind
        ``line``, ``area``, ``bar``, ``point``, ``tick``, ``hist``.
    last
        Show only this number of last rows, in the frame's order.
    points
        Maximum number of points.
    style
        Called with the Altair chart; returns it changed (size, scales, titles).
    act
        Runs slow work on another thread.
    changed
        Requests another ``update``; called from that thread.
    clock
        Returns seconds.
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
        style: Callable[[alt.Chart], alt.Chart] | None = None,
        act: Callable[[Callable[[], object]], object] = lambda fn: fn(),
        changed: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, not {kind!r}")
        for what, number in (("last", last), ("points", points)):
            if number is not None and not number >= 1:
                raise ValueError(f"{what} must be a number of rows, 1 or more, not {number!r}")
        if style is not None and not callable(style):
            raise TypeError(f"style must be a function of the Altair chart, not {style!r}")
        self.source = Moments(source, act, changed)
        self.kind: Kind = kind
        self.x = x or ""
        self.y = [y] if isinstance(y, str) else list(y)
        self.color = color
        self._choose_columns()
        if color is not None and len(self.y) > 1:
            raise ValueError("color= and several y: the lines are told apart by color already")
        unknown = self._unknown([field.name for field in source.fields])
        if unknown and not source.undeclared:
            raise ValueError(unknown)
        drawn = len(source.df.columns) and not unknown
        if drawn and (trouble := self._problem() or self._no_numbers()):
            raise ValueError(trouble)
        self._last = last
        self._points = points
        self._style = style
        self._clock = clock
        self._df: pd.DataFrame | None = None
        self._not_before = 0.0
        self._status = ""
        self._past: dict[str, Any] | None = None
        self._waiting = False
        self._drawn: tuple[str, ...] = ()
        self._owed = False
        """Whether a view has no picture yet, or a picture of columns that no longer exist."""

    @property
    def label(self) -> str:
        """A description of the picture."""
        live = "Live " if self.source.shown is None else "Past "
        self._choose_columns()
        if not self.y:
            return f"{live}{self.kind} chart of {self.source.name}"
        by = f" by {self.x}" if self.x else ""
        return f"{live}{self.kind} chart of {', '.join(self.y)}{by}, {self.source.name}"

    @property
    def caption(self) -> str:
        """The label, and the reason if there is no picture."""
        trouble = self.source.undeclared and self._problem()
        return f"{self.label}: {trouble}" if trouble else self.label

    def chart(self) -> alt.Chart:
        """Return the Altair chart, on a data source named ``live`` with columns ``x``, ``y``, ``c``."""
        if self.source.undeclared and (trouble := self._problem()):
            raise ValueError(trouble)
        made: alt.Chart = of_extra("altair").Chart.from_dict(self._plain(), validate=False)
        return made if self._style is None else self._style(made)

    def spec(self) -> Spec:
        """Return the same as a Vega-Lite specification."""
        if self._style is None:
            return self._plain()
        return dict(self.chart().to_dict(validate=False))

    def _plain(self) -> Spec:
        return picture(self.source.df, self.kind, self.x, self.y, self.color)

    def save(self, path: Path) -> None:
        """Write the picture, including its data, to a file; the suffix determines the format."""
        ending = path.suffix[1:].lower()
        if ending not in SAVED:
            endings = ", ".join(f".{kind}" for kind in SAVED)
            raise ValueError(f"a chart is saved as {endings}, not {path.name!r}")
        if trouble := self._problem():
            raise ValueError(trouble)
        vl_convert = of_extra("vl_convert")
        spec = self.spec()
        spec["data"] = {"name": "live", "values": self._rows()}
        spec["config"] = PRINTED | spec.get("config", {})
        if spec.get("width") == "container":
            spec["width"] = WIDTH
        if ending == "png":
            path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        elif ending == "pdf":
            path.write_bytes(vl_convert.vegalite_to_pdf(spec))
        elif ending == "svg":
            path.write_text(vl_convert.vegalite_to_svg(spec), "utf-8")
        else:
            path.write_text(json.dumps(spec), "utf-8")

    def _rows(self) -> list[dict[str, Any]]:
        """Return the points as the browser's Vega gets them: times in milliseconds, no value as null."""
        df = self.source.df if self._last is None else self.source.df.iloc[-self._last :]
        columns = self._histogram(df)[0] if self.kind == "hist" else self._points_of(df)[0]
        names = ["x", "y", "x_end" if self.kind == "hist" else "c"]
        read = []
        for column in columns:
            of = cells(column, np.arange(len(column)))
            values: list[Any] = of.values if isinstance(of.values, list) else of.values.tolist()
            if of.kind in ("instant", "local"):
                values = [value / 1000 for value in values]
            read.append([None if f & NULL else v for v, f in zip(values, of.flags, strict=True)])
        return [dict(zip(names, point, strict=False)) for point in zip(*read, strict=True)]

    def _kinds(self) -> tuple[str, ...]:
        """Return the types of the columns: the picture is replaced when a column's type changes."""
        return tuple(str(kind_of(column_of(self.source.df, name))) for name in self._named)

    def _choose_columns(self) -> None:
        """Choose the columns that the user did not name, as soon as any are known."""
        fields = self.source.fields
        if not self.x and fields:
            self.x = fields[0].name
        if not self.y:
            names = (field.name for field in fields if field.name != self.x)
            self.y = [name for name in names if _drawable(self.source, name)][:3]

    def _unknown(self, known: Sequence[str]) -> str:
        """Return which column is not among ``known``, or why that is unknown; empty if all are."""
        self._choose_columns()
        source = self.source
        missing = [name for name in self._named if name not in known]
        if self.y and not missing:
            return ""
        if source.undeclared:
            return source.undeclared
        if not self.y:
            return f"{source.name} has no column of numbers to draw; give y="
        return f'"{source.name}" has no column "{missing[0]}"; there are {", ".join(known)}'

    @property
    def _named(self) -> list[str]:
        """The columns that are drawn."""
        return [self.x, *self.y, *([self.color] if self.color else [])]

    def _problem(self) -> str:
        """Return why the current table cannot be drawn; empty if it can."""
        df = self.source.df
        if trouble := self._unknown([*map(str, df.index.names), *map(str, df.columns)]):
            return trouble
        if self.kind == "hist" and _floats(column_of(df, self.y[0])) is None:
            return f'kind="hist" counts numbers, and "{self.y[0]}" has none; draw names with "bar"'
        return ""

    def _no_numbers(self) -> str:
        """Return why the current data cannot be drawn as a line; empty if it can."""
        for name in self.y if self.kind in ("line", "area") else ():
            series = column_of(self.source.df, name)
            if kind_of(series) == "nominal" and series.notna().any():
                return f'kind="{self.kind}" draws numbers, and "{name}" has none; draw names with "bar"'
        return ""

    def whole(self, view: str) -> Sequence[Message]:
        if self._problem():
            self._owed = True
            return self._note(view)
        return [self._head(view if self._drawn in ((), self._kinds()) else None)]

    def update(self) -> Sequence[Message]:
        if self.source.refresh():
            self._not_before = 0.0  # a request for a moment is not delayed
        same = self.source.df is self._df and self.source.status == self._status
        if same and self.source.state() == self._past and not self._owed:
            self._waiting = False
            return []
        if self._problem():
            if same and self.source.state() == self._past:
                return []
            self._df, self._status = self.source.df, self.source.status
            return self._note(None)
        if self._owed:
            return [self._head(None)]
        if self._clock() < self._not_before:
            self._waiting = True
            return []
        if self._drawn != self._kinds():  # a column has another type
            return [self._head(None)]
        data, buffers = self._data()
        return [Message({"t": "data", **data}, buffers)]

    def _head(self, view: str | None) -> Message:
        """Return the picture and its data, for one view or for all."""
        spec = self.spec()
        spec.pop("config", None)
        self._drawn, self._owed = self._kinds(), self._owed and view is not None
        data, buffers = self._data()
        names = ["x", "y", "x_end" if self.kind == "hist" else "c"][: len(data["cols"])]
        head = {"t": "chart", "spec": spec, "name": cut(self.source.name, 80), "names": names}
        return Message({**head, **data}, buffers, whole=True, to=view)

    def _note(self, view: str | None) -> Sequence[Message]:
        """Return why there is no picture; nothing for a table that is being reset."""
        if not len(self.source.df.columns) and not self.source.undeclared:
            return []
        self._past = self.source.state()
        content = {"t": "note", "note": cut(self._problem()), "past": self._past}
        return [Message(content, whole=True, to=view)]

    def wants(self) -> float:
        # The start of a recording has no event of its own, so it is polled.
        return max(0.0, self._not_before - self._clock()) if self._waiting else LOOK

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        if content.get("t") == "past":  # for the widget, not for one view
            at = content.get("at")
            self.source.ask(None if at is None else int(at))

    def view_closed(self, view: str) -> None:
        pass

    def _data(self) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        started = self._clock()
        df = self._df = self.source.df
        self._status, self._waiting = self.source.status, False
        self._past = self.source.state()
        if self._last is not None:
            df = df.iloc[-self._last :]
        rows = len(df) * len(self.y)
        if self.kind == "hist":
            (columns, shown), points = self._histogram(df), rows
        else:
            columns, shown, points = self._points_of(df)
        pack = Pack()
        packed = [pack.add_cells(cells(c, np.arange(len(c)))) for c in columns]
        now = self._clock()
        self._not_before = now + max(INTERVAL, (now - started) * (1 / DUTY - 1))
        foot = [f"{shown:,} of {points:,} points"] if shown < points else []
        foot += [f"sums of {rows:,} values"] if points < rows else []
        foot += [] if rows else ["no rows yet"]
        content = {
            "cols": packed,
            "label": cut(f"{self.label}, {shown:,} points"),
            "foot": sentence(", ".join(foot)),
            "note": cut(sentence(self.source.note)),
            "past": self._past,
        }
        return content, (pack.bytes(),)

    def _histogram(self, df: pd.DataFrame) -> tuple[list[Any], int]:
        """Count every row here; return the bins' left edges, counts and right edges."""
        values = _floats(column_of(df, self.y[0]))
        assert values is not None  # checked by _trouble
        values = values[np.isfinite(values)]
        bins: Any = BINS
        if len(values) and pd.api.types.is_integer_dtype(column_of(df, self.y[0]).dtype):
            low, high = values.min(), values.max()  # the same number of integers in each bin
            bins = np.arange(low, high + 2 * (step := (high - low) // BINS + 1), step)
        counts, edges = np.histogram(values, bins=bins)
        columns = [pd.array(part, dtype="float64") for part in (edges[:-1], counts, edges[1:])]
        return columns, len(df)

    def _points_of(self, df: pd.DataFrame) -> tuple[list[Any], int, int]:
        """Return the columns to draw, the number of points in them, and the number of all points."""
        shown = bars = 0
        columns: dict[str, list[Any]] = {}
        share = max(self._points // len(self.y), 2)
        for name in self.y:
            part = {"x": column_of(df, self.x), "y": column_of(df, name)}
            if self.color is not None:
                part["c"] = column_of(df, self.color)
            if self.kind == "bar":
                part = summed(part)
            at = self._choose(part["x"], part["y"], share)
            shown, bars = shown + len(at), bars + len(part["x"])
            for letter, series in part.items():
                columns.setdefault(letter, []).append(series.array.take(at))
            if len(self.y) > 1:
                columns.setdefault("c", []).append(pd.array([name] * len(at), dtype="str"))
        return [self._joined(parts) for parts in columns.values()], shown, bars

    def _joined(self, parts: list[Any]) -> Any:
        return pd.concat([pd.Series(p) for p in parts], ignore_index=True).array

    def _choose(self, xs: pd.Series[Any], ys: pd.Series[Any], points: int) -> Positions:
        x, y = _floats(xs), _floats(ys)
        if self.kind in ("line", "area") and x is not None and y is not None and self.color is None:
            return thin(x, y, points)
        if len(xs) <= points:
            return np.arange(len(xs), dtype=np.intp)
        return np.linspace(0, len(xs) - 1, points).astype(np.intp)


class ChartWidget(LiveWidget):
    """A live chart of a frame; see ``ChartModel`` for the parameters."""

    _esm = built("chart.js")
    _css = built("chart.css")
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
        style: Callable[[alt.Chart], alt.Chart] | None = None,
        on_viewer: OnViewer | None = None,
    ) -> None:
        of_extra("vl_convert")  # fail here rather than in the browser
        model = ChartModel(
            source,
            x,
            y,
            kind=kind,
            color=color,
            last=last,
            points=points,
            style=style,
            act=pump.act,
            changed=lambda: self.changed(),
        )
        self._model: ChartModel | None = model
        super().__init__(
            model,
            subscribe=source.on_change,
            static=lambda: (model.caption, f"<p>{escape(model.caption)}</p>"),
            on_viewer=on_viewer,
            while_seen=True,
        )

    @property
    def chart(self) -> alt.Chart:
        """The Altair chart behind the picture, without data."""
        if self._model is None:
            raise ClosedError("this chart")
        return self._model.chart()

    def save(self, path: str | Path) -> None:
        """Save the picture with its current data, or that of the moment on its slider, on white.

        Parameters
        ----------
        path : str or Path
            The file, which is overwritten; its suffix sets the format: ``.png``, ``.svg``, ``.pdf``, or
            ``.json`` (Vega-Lite's specification).

        Raises
        ------
        ValueError
            If the suffix is none of those, or there is nothing to draw.
        """
        if self._model is None:
            raise ClosedError("this chart")
        self._model.save(Path(path))

    def _release(self) -> None:
        super()._release()
        self._model = None


def _drawable(source: FrameSource, name: str) -> bool:
    series = column_of(source.df, name)
    key = name in source.df.index.names
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    return numeric and not key and not pd.api.types.is_bool_dtype(series.dtype)
