"""The live grid: ``LiveFrame``'s own display. Input: a ``FrameSource``. Output: SlickGrid over a window.

Neither SlickGrid nor the code that draws with it (``gridview.js`` and its imports) is part of the widget's
state: a page requests each once, gzipped, and keeps it (design/notebooks.md: "a big library is loaded once a
page"). The state contains only ``grid.js``, which requests them.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from notebook_rt.errors import ClosedError
from notebook_rt.model.coerce import missing
from notebook_rt.model.spec import parse_names
from notebook_rt.widgets.base import HERE, LiveWidget, built, pump, static_table
from notebook_rt.widgets.columns import text_of
from notebook_rt.widgets.export import MAKERS
from notebook_rt.widgets.gridmodel import GridModel
from notebook_rt.widgets.sources import FrameSource, OnViewer
from notebook_rt.widgets.state import cut, sentence

PREVIEW, ACROSS = 10, 30
"""Rows and columns of the static form."""


@cache
def slickgrid() -> bytes:
    """Return SlickGrid as one gzipped ES module."""
    return (HERE / "vendor" / "slickgrid.js.gz").read_bytes()


@cache
def gridview() -> bytes:
    """Return the code that draws the grid, as one gzipped ES module."""
    return gzip.compress(built("gridview.js").encode(), mtime=0)


def _named(name: str, content: bytes) -> str:
    """Return a library's name in the page, as ``build.mjs`` writes it into ``grid.js``.

    Kernels with other versions of this package may share the page.
    """
    return f"{name}-{sha256(content).hexdigest()[:12]}"


def grid_text(source: FrameSource, title: str = "") -> str:
    """Return one line: name, size, status; above it the title, if there is one."""
    df = source.df
    above = f"{title}\n" if title else ""
    if source.status == "error":
        return f"{above}{source.name}: error: {source.note}"
    rows, columns = len(df), len(source.fields)
    size = f"{rows:,} row{'s' * (rows != 1)} × {columns} column{'s' * (columns != 1)}"
    return f"{above}{source.name}: {size}, {source.status}"


def grid_html(source: FrameSource, columns: Sequence[str] | None = None, title: str = "") -> str:
    """Return the first rows as a plain table, every text escaped and cut."""
    df = source.df.head(PREVIEW).reset_index()
    types = {column.name: column.pg_type for column in source.fields}
    wanted = [name for name in (types if columns is None else columns) if name in df.columns]
    names = wanted[:ACROSS]
    rows = [
        [
            "" if missing(value) else cut(text_of(value, types[name]), 80)
            for name, value in zip(names, row, strict=True)
        ]
        for row in df[names].itertuples(index=False, name=None)
    ]
    above = f"<p><b>{escape(title)}</b></p>" if title else ""
    above += f"<p>{escape(sentence(source.note))}</p>" if source.note else ""
    parts = [
        f"the first {part} {word}"
        for part, there, word in (
            (PREVIEW, len(source.df), "rows"),
            (ACROSS, len(wanted), "columns"),
        )
        if there > part
    ]
    return above + static_table(names, rows, caption="; ".join([grid_text(source), *parts]))


class GridWidget(LiveWidget):
    """A live table of any size, sorted and filtered in the kernel, edited in place.

    Parameters
    ----------
    source
        The live table.
    columns
        The columns, in this order; default all, the key's first.
    formats
        Column to number format: ``",.2f"``, ``".1%"``, ``",d"``.
    editable
        True: every column but the key's, and rows can be added and deleted; False: none; or the columns'
        names.
    height
        In pixels.
    style
        Column to ``"bar"``, ``"color"`` or ``"updown"``, or to a dict of values to colours.
    totals
        Column to ``"sum"``, ``"mean"``, ``"median"``, ``"min"``, ``"max"`` or ``"count"`` of the rows shown;
        a plain list of names means sums.
    group
        The column by which the rows are grouped under headings; empty: none.
    title
        A caption above the grid, plain text, instead of the name; empty: the name.
    by
        The column with the person who wrote a row, for the history of a cell; None: one with a common name,
        such as ``updated_by``.
    """

    _esm = built("grid.js")
    _css = built("grid.css")
    libraries: Mapping[str, Callable[[], bytes]] = {
        _named("slickgrid", slickgrid()): slickgrid,
        _named("gridview", built("gridview.js").encode()): gridview,
    }

    def __init__(
        self,
        source: FrameSource,
        *,
        columns: str | Sequence[str] | None = None,
        formats: Mapping[str, str] | None = None,
        editable: bool | str | Sequence[str] = True,
        height: int = 360,
        style: Mapping[str, str | Mapping[Any, str]] | None = None,
        totals: Mapping[str, str] | str | Sequence[str] | None = None,
        group: str = "",
        title: str = "",
        by: str | None = None,
        on_viewer: OnViewer | None = None,
    ) -> None:
        model = GridModel(
            source,
            act=pump.act,
            changed=lambda: self.changed(),
            columns=columns,
            editable=editable,
            formats=formats,
            height=height,
            style=style,
            totals=totals,
            group=group,
            title=title,
            by=by,
        )
        self._model: GridModel | None = model

        def selected() -> pd.DataFrame:
            df, keys = source.df, model.selection
            return df.iloc[:0] if keys is None else df.loc[df.index.isin(keys)]

        self._selected: Callable[[], pd.DataFrame] = selected
        super().__init__(
            model,
            subscribe=source.on_change,
            static=lambda: (
                grid_text(source, title),
                grid_html(source, parse_names(columns), title),
            ),
            on_viewer=on_viewer,
            while_seen=True,
        )

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows with their current values; empty if nothing is selected."""
        return self._selected()

    @property
    def shown(self) -> pd.DataFrame:
        """What the grid shows: its rows, filtered and sorted, and its columns, in their order."""
        return self._read()[0]

    def to_csv(self, path: str | Path) -> None:
        """Save what the grid shows as CSV: UTF-8, with a heading.

        A text that a spreadsheet would read as a formula gets a leading apostrophe.

        Parameters
        ----------
        path : str or Path
            The file, which is overwritten.

        Raises
        ------
        ValueError
            If there is no data yet.
        """
        self._save(path, "csv")

    def to_excel(self, path: str | Path) -> None:
        """Save what the grid shows as an Excel file; needs the extra ``excel``.

        Parameters
        ----------
        path : str or Path
            The file, which is overwritten.

        Raises
        ------
        ModuleNotFoundError
            If openpyxl is not installed.
        ValueError
            If there is no data yet, or there are more rows than an Excel sheet can hold.
        """
        self._save(path, "xlsx")

    def _save(self, path: str | Path, ending: str) -> None:
        df, types, name = self._read()
        if not len(df.columns):
            raise ValueError(f'table "{name}" has no data yet: wait for it with .wait()')
        Path(path).write_bytes(MAKERS[ending](df, types, name))

    def _read(self) -> tuple[pd.DataFrame, Mapping[str, str], str]:
        """Return what is shown, read on the model's thread."""
        model = self._model
        if model is None:
            raise ClosedError("this grid")
        found: Future[tuple[pd.DataFrame, Mapping[str, str], str]] = Future()

        def read() -> None:
            try:
                found.set_result((model.shown().reset_index(drop=True), model.types, model.name))
            except Exception as error:
                found.set_exception(error)

        pump.call(read)
        return found.result()

    def _release(self) -> None:
        super()._release()
        self._selected, self._model = pd.DataFrame, None
