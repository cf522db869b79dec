"""The live grid's view model: a window of rows for each view, by column, in binary.

Input: a ``FrameSource`` and messages from views (rows shown, sort, filter, edits, selection). Output: for
each view its window with a page on each side, after that only the cells that changed in it and the row count.
A row is identified by a number (``rid``) that stays with its key, so that the browser keeps focus, selection
and an open editor with the row wherever it moves. Nothing here uses a comm or a thread; ``grid.py`` does.
"""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import numpy as np
import pandas as pd

from notebook_rt.model.spec import parse_names
from notebook_rt.model.types import Column
from notebook_rt.widgets import cellpast, export, gridwindow
from notebook_rt.widgets.columns import shape_of, text_of
from notebook_rt.widgets.gridsummary import Summary, checked_style, checked_totals
from notebook_rt.widgets.gridwindow import Rids, Window
from notebook_rt.widgets.gridwrites import Answer, GridWrites
from notebook_rt.widgets.groups import Group
from notebook_rt.widgets.moments import LOOK, Moments
from notebook_rt.widgets.order import Order, column_of, keys_as, term_text
from notebook_rt.widgets.sources import FrameSource
from notebook_rt.widgets.state import cut, sentence
from notebook_rt.widgets.transport import Message

COPY_CELLS: Final = 500_000
FILTER: Final = 400
"""Maximum characters of a filter."""
LAYOUTS: Final = 100
"""Number of column layouts that a view's message may still refer to."""
PART: Final = 200_000
"""Bytes of a file per message: a Jupyter server drops output that is faster than 1 MB/s."""
FILE_BYTES: Final = 30_000_000
"""Maximum size of a file that is sent to the browser; the kernel saves a larger one."""
FOLLOWED: Final = 10_000
"""Maximum number of selected rows that are followed when they move; a larger selection is cleared."""
MAX_WINDOW: Final = 400
FORMAT: Final = re.compile(r",?(\.\d+)?[fd%]?")  # as in ``cell.js``


@dataclass(slots=True)
class _View:
    first: int = 0
    last: int = 30
    anchor: tuple[Hashable, int] | None = None
    """The row that must not move on the screen: its key, and its position."""
    held: bool = False
    sent: Window | None = None
    selection: pd.Index[Any] | None = None
    moved: bool = False
    """Whether rows may have moved since the view's last window."""
    replies: list[dict[str, Any]] = field(default_factory=list)
    file: bytes = b""
    """The file that this view is fetching, part by part."""


class GridModel:
    """A live table as windows.

    Parameters
    ----------
    source
        The live table.
    act
        Runs a slow action (an edit) on another thread.
    changed
        Requests another ``update``; called from that thread.
    columns
        The columns to show, in this order; default all.
    editable
        The columns that may be edited; True for all but the key's, and whole rows; False for none.
    formats
        Column to a number format: ``",.2f"``, ``".1%"``, ``",d"``.
    style
        Column to the style of its cells (``gridsummary.STYLES``), or values to colours.
    totals
        Column to a function of its rows shown (``gridsummary.TOTALS``); a plain list of names means sums.
    group
        The column by which rows are grouped under headings; empty: none.
    title
        A caption above the grid, plain text, instead of the name; empty: the name.
    by
        The column with the author of a row; None: one of ``cellpast.BY``, if it exists.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        act: Callable[[Callable[[], object]], object],
        changed: Callable[[], object],
        columns: str | Sequence[str] | None = None,
        editable: bool | str | Sequence[str] = True,
        formats: Mapping[str, str] | None = None,
        height: int = 360,
        style: Mapping[str, str | Mapping[Any, str]] | None = None,
        totals: Mapping[str, str] | str | Sequence[str] | None = None,
        group: str = "",
        title: str = "",
        by: str | None = None,
    ) -> None:
        if not isinstance(editable, bool):
            names = parse_names(editable)
            editable = True if names is None else names
        self._source = Moments(source, act, changed)
        self._act = act
        self._writes = GridWrites(self._source, act, editable)
        self._by = by
        self._changed = changed
        self._wanted = parse_names(columns)
        self._formats = dict(formats or {})
        for name, text in self._formats.items():
            if not FORMAT.fullmatch(text):
                raise ValueError(f'{name}: a format is such as ",.2f", ".1%" or ",d", not {text!r}')
        if isinstance(height, bool) or not isinstance(height, int) or height <= 0:
            raise TypeError(f"height must be a whole number of pixels above 0, not {height!r}")
        self._height = height
        if not isinstance(title, str):
            raise TypeError(f"title must be a string, not {title!r}")
        self._title = cut(title)
        self._style = checked_style(style)
        self._totals = checked_totals(totals)
        self._summary = Summary(self._style, self._totals)
        self._order = Order()
        self._order.ask_group(group)
        self._hidden: list[str] = []
        self._pinned: list[str] | None = None
        """The columns pinned at the left, in this order; None: not set, so the key's."""
        self._laid: tuple[object, ...] = ()
        """The columns and what may be done to them, as last sent to the views."""
        self._views: defaultdict[str, _View] = defaultdict(_View)
        self._rids = Rids()
        self._fields: tuple[Column, ...] = ()
        self._names: list[str] = []
        self._layouts: dict[int, list[str]] = {}
        """The names by position, for each layout that views may still have."""
        self._meant: list[Column | None] = []
        """The columns by position, as in the view whose message is handled; None: no longer there."""
        self._leaving = pd.DataFrame()
        """Rows whose deletion is not written yet."""
        self.selection: pd.Index[Any] | None = None
        """The keys of the rows selected last, in any view."""
        if source.fields:
            self._fields = tuple(source.fields)
            named = () if isinstance(editable, bool) else editable
            asked = (*(self._wanted or ()), *self._formats, *named, *self._style, *self._totals)
            self._check([*asked, *(name for name in (group, by) if name)])

    # -- out ---------------------------------------------------------------------------------

    def wants(self) -> float:
        # A status has no event of its own, so it is polled.
        return min(self._order.wait(), self._summary.wait(), LOOK)

    def whole(self, view: str) -> Sequence[Message]:
        df = self._refresh()
        window = self._window(df, self._views[view])
        self._views[view].sent = window
        self._views[view].moved = False
        head = {
            "t": "grid",
            "name": cut(self._source.name, 80),
            "title": self._title,
            "columns": self._head(df),
            "height": self._height,
            "add": self._writes.adds and self._all_needed_shown(),
            "remove": self._writes.deletes,
            "pinned": self._pins(df),
            "hidden": len(self._asked()) - len(self._names),
            "layout": max(self._layouts, default=0),
        }
        return [gridwindow.whole(view, window, head, gridwindow.widest(df, self._names))]

    def update(self) -> Sequence[Message]:
        if self._source.refresh():  # another moment: all rows may have moved
            self._order.renew()
            self._summary.renew()
        # First the replies, then the snapshot: it shows what the replies refer to.
        replies = {name: view.replies for name, view in self._views.items()}
        for view in self._views.values():
            view.replies = []
        overlaid = self._laid
        df = self._refresh()
        if overlaid != self._laid:  # other columns, rights or types
            messages = [message for view in tuple(self._views) for message in self.whole(view)]
            return messages + [self._reply(df, name, r) for name, rs in replies.items() for r in rs]
        messages = []
        for name, view in self._views.items():
            if view.sent is not None:  # else it is not visible; when it is, it requests the whole
                sent, view.sent, view.moved = view.sent, self._window(df, view), False
                message = gridwindow.difference(name, view.sent, sent)
                messages += [] if message is None else [message]
            messages += [self._reply(df, name, reply) for reply in replies[name]]
        return messages

    def _reply(self, df: pd.DataFrame, view: str, content: dict[str, Any]) -> Message:
        if "key" in content:  # a new row: its position, if it is shown already
            key = content.pop("key")
            found = self._order.find(keys_as([key], df.index)).tolist()
            content |= {"rid": self._rids.of(key), "row": found[0] if found else -1}
        buffers = content.pop("buffers", ())
        return Message({"t": "reply", **content}, buffers, to=view)

    def view_closed(self, view: str) -> None:
        known = self._views.get(view)
        if known is not None:
            known.sent, known.held, known.file = None, False, b""

    def _refresh(self) -> pd.DataFrame:
        df = self._source.df
        overlaid = (
            tuple(self._source.fields_of(df)),
            tuple(self._hidden),
            None if self._pinned is None else tuple(self._pinned),
            self._writes.rights,
        )
        if overlaid != self._laid:
            self._laid, self._fields = overlaid, overlaid[0]
            self._names = [f.name for f in self._shown()]
            number = max(self._layouts, default=0) + 1
            self._layouts[number] = self._names
            self._layouts.pop(number - LAYOUTS, None)
        held = any(view.held for view in self._views.values())
        leaving = self._source.leaving()
        if len(leaving):  # a deletion that the snapshot does not show yet
            leaving = leaving[df.index.get_indexer(keys_as(leaving.index.tolist(), df.index)) < 0]
        self._leaving = leaving
        if self._order.refresh(df, self._names, held=held, leaving=self._leaving):
            for view in self._views.values():
                view.moved = True
        self._summary.refresh(df, self._order)
        return df

    def _asked(self) -> list[Column]:
        """Return the requested columns, including hidden ones."""
        if self._wanted is None or not self._fields:  # without data the columns are unknown
            return list(self._fields)
        if self._source.shown is None:  # an earlier moment may have had other columns
            self._check(self._wanted)
        by_name = {f.name: f for f in self._fields}
        return [by_name[name] for name in self._wanted if name in by_name]

    def _shown(self) -> list[Column]:
        """Return the columns in order: pinned ones first, without hidden ones."""
        there = {f.name: f for f in self._asked() if f.name not in self._hidden}
        first = [name for name in self._pinned or () if name in there]
        return [there[name] for name in (*first, *(n for n in there if n not in first))]

    def _pins(self, df: pd.DataFrame) -> int:
        """Return the number of pinned columns."""
        if self._pinned is not None:
            return len([name for name in self._pinned if name in self._names])
        keys = next((i for i, n in enumerate(self._names) if n not in df.index.names), 0)
        return keys if keys < 3 else 0

    def _check(self, names: Sequence[str]) -> None:
        """Raise if a requested column does not exist."""
        known = [f.name for f in self._fields]
        for name in names:
            if name not in known:
                there = ", ".join(known)
                raise ValueError(f'"{self._source.name}" has no column "{name}"; there are {there}')

    def _head(self, df: pd.DataFrame) -> list[dict[str, Any]]:
        head = []
        for shown in self._shown():
            key = shown.name in df.index.names
            shape = shape_of(column_of(df, shown.name).dtype, shown.pg_type)
            head.append(
                {
                    "name": cut(shown.name, 80),
                    "type": shown.pg_type,
                    "shape": shape,
                    "key": key,
                    "editable": self._writes.may_edit(shown.name) and not shown.generated,
                    "nullable": shown.nullable,
                    "needed": self._writes.needs(shown),
                    "filled": shown.filled,
                    "choices": list(shown.choices),
                    "format": self._formats.get(shown.name, ""),
                    "style": self._style.get(shown.name, ""),
                    "total": self._totals.get(shown.name, ""),
                }
            )
        return head

    def _all_needed_shown(self) -> bool:
        return all(f.name in self._names for f in self._fields if self._writes.needs(f))

    def _window(self, df: pd.DataFrame, view: _View) -> Window:
        total = len(self._order)
        if view.moved and view.anchor is not None:
            key, row = view.anchor
            found = self._order.find(keys_as([key], df.index))
            if len(found):
                shift = int(found[0]) - row
                view.first, view.last = view.first + shift, view.last + shift
                view.anchor = (key, int(found[0]))
        page = max(view.last - view.first, 10)
        first = max(0, min(view.first, total - page) - page)
        last = min(total, max(view.last, page) + page)
        keys, positions = self._order.rows(first, last)
        columns, unknown = gridwindow.columns_of(df, self._leaving, self._names, keys, positions)
        rids = [self._rids.of(key) for key in keys]
        frame = {
            "total": total,
            # Shared by all views: each one shows that it is filtered or sorted.
            "sort": [[self._names.index(n), up] for n, up in self._order.by if n in self._names],
            "filter": self._order.filter,
            "trouble": self._order.trouble,
            "ranges": [
                [self._names.index(name), *found]
                for name, found in self._summary.ranges.items()
                if name in self._names
            ],
            "totals": [
                [self._names.index(name), value]
                for name, value in self._summary.totals.items()
                if name in self._names
            ],
            "rows": self._order.count,
            "group": cut(self._order.group, 80),
            "groups": self._headings(keys),
            "leaving": self._order.leaving,
            "status": self._source.status,
            "note": cut(sentence(self._source.note)),
            "gone": [
                i for i in np.flatnonzero(positions < 0).tolist() if not isinstance(keys[i], Group)
            ],
            "marks": self._marks(keys),
            "anchor": view.anchor[1] if view.anchor else -1,
            "selection": self._selection_rows(view),
            "past": self._source.state(),
        }
        return Window(first, keys, rids, columns, frame, unknown)

    def _headings(self, keys: Sequence[Hashable]) -> list[list[Any]]:
        """Return the headings in a window: line, value, rows, whether it is open, and totals by column."""
        return [
            [
                line,
                cut(key.text, 160),
                self._order.rows_of(key),
                self._order.is_open(key),
                [
                    [self._names.index(name), value]
                    for name, value in self._summary.of_groups.get(key, {}).items()
                    if name in self._names
                ],
            ]
            for line, key in enumerate(keys)
            if isinstance(key, Group)
        ]

    def _marks(self, keys: Sequence[Hashable]) -> list[list[Any]]:
        """Return the marks: row in the window, column, kind, why; for a conflict base, mine and theirs.

        A conflict about a whole row has the column -1; see ``gridwindow.dispute``.
        """
        rows = {key: i for i, key in enumerate(keys)}
        numbers = {name: i for i, name in enumerate(self._names)}
        marks: list[list[Any]] = [
            [rows[key], numbers[column], kind, cut(why)]
            for (key, column), (kind, why) in self._source.marks().items()
            if key in rows and column in numbers
        ]
        marks += [
            [rows[c.key], numbers[c.column], "conflict"]
            + [cut(text_of(v)) for v in (c.base, c.mine, c.theirs)]
            + [c.lost]
            for c in self._source.conflicts()
            if c.key in rows and c.column in numbers
        ]
        types = {f.name: f.pg_type for f in self._fields}
        marks += [
            [rows[c.key], -1, "conflict", *gridwindow.dispute(c, types)]
            for c in self._source.conflicts()
            if c.key in rows and c.column is None
        ]
        return marks

    def _selection_rows(self, view: _View) -> list[list[int]] | None:
        """Return the current positions of the selected rows as runs; None: unchanged in the browser."""
        if view.selection is None or not view.moved:
            return None if view.sent is None else view.sent.frame["selection"]
        if len(view.selection) > FOLLOWED:
            return []
        rows = self._order.find(view.selection)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        return [[int(run[0]), int(run[-1])] for run in np.split(rows, breaks) if len(run)][:200]

    # -- in ----------------------------------------------------------------------------------

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        handler = {
            "window": self._on_window,
            "sort": self._on_sort,
            "filter": self._on_filter,
            "only": self._on_only,
            "columns": self._on_columns,
            "group": self._on_group,
            "toggle": self._on_toggle,
            "export": self._on_export,
            "hold": self._on_hold,
            "edit": self._on_edit,
            "insert": self._on_insert,
            "delete": self._on_delete,
            "doubt": self._on_refused,
            "select": self._on_select,
            "copy": self._on_copy,
            "paste": self._on_paste,
            "undo": self._on_undo,
            "text": self._on_text,
            "resolve": self._on_resolve,
            "past": self._on_past,
            "history": self._on_history,
        }.get(str(content.get("t")))
        if handler is None:
            return
        # Columns are sent by position, which may have changed: use the view's own layout.
        there = {f.name: f for f in self._asked()}
        names = self._layouts.get(int(content.get("layout", max(self._layouts, default=0))), [])
        self._meant = [there.get(name) for name in names]
        handler(self._views[view], content)

    def _column(self, place: object) -> Column | None:
        """Return the column at a position in the view's layout."""
        number = int(cast("Any", place))
        return self._meant[number] if 0 <= number < len(self._meant) else None

    def _on_window(self, view: _View, content: Mapping[str, Any]) -> None:
        first, last = int(content["first"]), int(content["last"])
        view.first, view.last = max(0, first), max(0, min(last, first + MAX_WINDOW))
        anchor = content.get("anchor")
        if anchor is None:
            view.anchor = None
        elif (key := self._rids.key(int(anchor[0]))) is not None and not isinstance(key, Group):
            view.anchor = (key, int(anchor[1]))

    def _on_sort(self, view: _View, content: Mapping[str, Any]) -> None:
        meant = [(self._column(c), bool(up)) for c, up in content["by"]]
        by = [(column.name, up) for column, up in meant if column is not None]
        self._order.ask(by, self._order.filter)
        view.first, view.last, view.anchor = 0, view.last - view.first, None

    def _on_filter(self, view: _View, content: Mapping[str, Any]) -> None:
        self._filter(view, str(content["text"])[:FILTER])

    def _filter(self, view: _View, text: str) -> None:
        self._order.ask(self._order.by, text)
        view.first, view.last, view.anchor = 0, view.last - view.first, None

    def _on_only(self, view: _View, content: Mapping[str, Any]) -> None:
        """Filter by the value of this cell, in addition to the current filter."""
        cell = self._cell(content)
        if cell is None:
            return
        found = self._value(*cell)
        if found is None:
            return
        term = term_text(cell[1].name, found[0], cell[1].pg_type)
        text = f"{self._order.filter} {term}".strip()
        if len(text) <= FILTER:
            self._filter(view, text)
        else:
            self._answer(view, content)("refused", why="This value is too long for a filter")

    def _on_group(self, view: _View, content: Mapping[str, Any]) -> None:
        """Group by a column, or without ``c`` by none; for the widget, not for one view."""
        column = self._column(content["c"]) if "c" in content else None
        self._order.ask_group("" if column is None else column.name)
        view.first, view.last, view.anchor = 0, view.last - view.first, None

    def _on_toggle(self, view: _View, content: Mapping[str, Any]) -> None:
        """Close an open group, or open a closed one."""
        group = self._rids.key(int(content["rid"]))
        if isinstance(group, Group):
            self._order.toggle(group)

    def _on_columns(self, view: _View, content: Mapping[str, Any]) -> None:
        """Hide, pin or unpin a column; for the widget, not for one view."""
        act, column, names = content.get("act"), self._column(content.get("c", -1)), self._names
        if act == "all":
            self._hidden = []
            return
        if column is None or column.name not in names:
            return
        name, pinned = column.name, names[: self._pins(self._source.df)]
        if act == "hide" and len(names) > 1:
            self._hidden.append(name)
        elif act == "pin" and name not in pinned:
            self._pinned = [*pinned, name]
        elif act == "unpin":
            self._pinned = [one for one in pinned if one != name]

    def _on_hold(self, view: _View, content: Mapping[str, Any]) -> None:
        view.held = bool(content["on"])

    def _cell(self, content: Mapping[str, Any]) -> tuple[Hashable, Column] | None:
        key = self._rids.key(int(content["rid"]))
        column = self._column(content["c"])
        here = key is not None and column is not None and not isinstance(key, Group)
        return (key, column) if here and key is not None and column is not None else None

    def _answer(self, view: _View, content: Mapping[str, Any]) -> Answer:
        """Return how to answer a view's request about the cell that it names; from any thread."""
        at = {name: content[name] for name in ("rid", "c") if name in content}

        def answer(kind: str, *, column: str | None = None, **more: Any) -> None:
            if column in self._names:
                more["c"] = self._names.index(column)
            view.replies.append({"kind": kind, **at, **more})
            self._changed()

        return answer

    def _on_edit(self, view: _View, content: Mapping[str, Any]) -> None:
        cell = self._cell(content)
        if cell is not None:
            answer, was = self._answer(view, content), content.get("was", ...)
            self._writes.edit(*cell, content.get("value"), answer, was)

    def _on_insert(self, view: _View, content: Mapping[str, Any]) -> None:
        typed = [(self._column(c), text) for c, text in content["cells"]]
        texts = {column.name: text for column, text in typed if column is not None}
        if self._writes.adds:
            self._writes.insert(self._shown(), texts, self._answer(view, content))

    def _on_delete(self, view: _View, content: Mapping[str, Any]) -> None:
        """Delete the named rows, or, if the browser does not know them all, the selected ones."""
        rids = content.get("rids")
        selected = [] if view.selection is None else view.selection.tolist()
        keys = selected if rids is None else [self._rids.key(int(rid)) for rid in rids]
        there = self._source.df.index
        keys = [key for key in keys if key is not None and key in there]
        if keys:
            self._writes.delete(keys, self._answer(view, content))

    def _on_refused(self, view: _View, content: Mapping[str, Any]) -> None:
        self._writes.forget_columns()

    def _on_paste(self, view: _View, content: Mapping[str, Any]) -> None:
        cell = self._cell(content)
        if cell is None:
            return
        found = self._order.find(keys_as([cell[0]], self._source.df.index))
        if not len(found):
            return
        first, texts = int(found[0]), content["cells"]
        keys, _ = self._order.rows(first, min(first + len(texts), len(self._order)))
        columns = [column for column in self._meant[int(content["c"]) :] if column is not None]
        self._writes.paste(keys, columns, texts, self._answer(view, content))

    def _on_undo(self, view: _View, content: Mapping[str, Any]) -> None:
        self._writes.undo(self._answer(view, content))

    def _on_resolve(self, view: _View, content: Mapping[str, Any]) -> None:
        """Decide a conflict of a cell, or without ``c`` of a whole row."""
        choice, answer = content.get("choice"), self._answer(view, content)
        key = self._rids.key(int(content["rid"]))
        cell = self._cell(content) if "c" in content else (key, None)
        if cell is None or key is None or choice not in ("mine", "theirs"):
            return
        column = None if cell[1] is None else cell[1].name
        self._writes.resolve(key, column, cast(Literal["mine", "theirs"], choice), answer)

    def _on_select(self, view: _View, content: Mapping[str, Any]) -> None:
        first, last = (int(n) for n in content["rows"])
        if view.sent is not None:
            view.sent.frame["selection"] = None
        if last < first:
            view.selection, self.selection = None, None
        else:
            keys = self._order.keys(max(first, 0), min(last + 1, len(self._order)))
            view.selection = self.selection = keys

    def _on_text(self, view: _View, content: Mapping[str, Any]) -> None:
        cell = self._cell(content)
        if cell is None:
            return
        found = self._value(*cell)
        if found is None:
            return
        text = cut(text_of(found[0]), 200_000)
        view.replies.append(
            {"kind": "text", "rid": content["rid"], "c": content["c"], "text": text}
        )

    def _value(self, key: Hashable, column: Column) -> tuple[Any] | None:
        """Return the value of a cell; None if the row is gone."""
        df = self._source.df
        (found,) = df.index.get_indexer(keys_as([key], df.index))
        return None if found < 0 else (column_of(df, column.name).iloc[int(found)],)

    def _on_past(self, view: _View, content: Mapping[str, Any]) -> None:
        """Show the table at a moment, or without ``at`` the live one; for the widget, not for one view."""
        at = content.get("at")
        self._source.ask(None if at is None else int(at))

    def _on_history(self, view: _View, content: Mapping[str, Any]) -> None:
        """Send the history of a cell, or without ``c`` of its row."""
        answer = self._answer(view, content)
        past, key = self._source.past, self._rids.key(int(content["rid"]))
        cell = self._cell(content) if "c" in content else None
        reach = None if past is None else past.reach()
        if key is None or isinstance(key, Group) or ("c" in content and cell is None):
            return
        if past is None or reach is None:
            answer("history", why=self._source.why_no_past)
            return
        df, columns = self._source.df, {f.name: f for f in self._fields}
        dtypes = {name: column_of(df, name).dtype for name in columns}
        by = self._by or next((name for name in cellpast.BY if name in columns), None)

        def tell() -> None:
            try:
                found, buffer = cellpast.cell_past(
                    past.steps(key),
                    reach,
                    columns,
                    dtypes,
                    column=None if cell is None else cell[1].name,
                    by=by,
                    formats=self._formats,
                )
            except Exception as error:
                answer("history", why=cut(error))
            else:
                answer("history", **found, buffers=(buffer,))

        self._act(tell)

    def shown(self) -> pd.DataFrame:
        """Return the rows and columns shown, in their order, with a plain index."""
        df = self._refresh()
        positions = self._order.shown()
        found = export.chosen(df, self._names)
        return found if positions is None else found.take(positions)

    @property
    def types(self) -> dict[str, str]:
        """Columns to PostgreSQL types."""
        return {f.name: f.pg_type for f in self._fields}

    @property
    def name(self) -> str:
        """The name of the table."""
        return self._source.name

    def _on_export(self, view: _View, content: Mapping[str, Any]) -> None:
        """Send a file of what is shown: made for the request of its first part, then sent in parts."""
        ending, part = str(content["as"]), int(content["part"])
        make, answer = export.MAKERS.get(ending), self._answer(view, content)
        if make is None:
            return
        if part:
            self._hand_out(view, part, answer)
            return
        df, types, name = self.shown().reset_index(drop=True), self.types, self.name
        at = self._source.shown
        if at is not None:
            name += f" as of {pd.Timestamp(at, unit='us'):%Y-%m-%d %H.%M.%S} UTC"

        def write() -> None:
            try:
                made = make(df, types, name)
                view.file = gzip.compress(made, 5) if ending == "csv" else made
                if len(view.file) > FILE_BYTES:
                    view.file, what = b"", {"csv": "to_csv", "xlsx": "to_excel"}[ending]
                    raise ValueError(
                        f"{len(df):,} rows are too many for the browser: in a cell,"
                        f' grid = table.grid(), then grid.{what}("{export.file_name(name, ending)}")'
                    )
            except Exception as error:
                answer("file", part=0, parts=0, why=cut(error))
            else:
                self._hand_out(view, 0, answer, name=export.file_name(name, ending), rows=len(df))

        self._act(write)

    def _hand_out(self, view: _View, part: int, answer: Answer, **more: Any) -> None:
        piece = view.file[part * PART : (part + 1) * PART]
        parts = -(-len(view.file) // PART)
        answer("file", part=part, parts=parts, buffers=(piece,), **more)
        if part >= parts - 1:
            view.file = b""

    def _on_copy(self, view: _View, content: Mapping[str, Any]) -> None:
        first, last, left, right = (int(n) for n in content["range"])
        shown = [column for column in self._meant[left : right + 1] if column is not None]
        rows = min(last + 1 - first, COPY_CELLS // max(len(shown), 1))
        _, positions = self._order.rows(first, first + rows)
        df = self._source.df
        there = positions[positions >= 0]
        if content.get("as") == "csv":
            names = [column.name for column in shown]
            text = export.csv_text(export.chosen(df, names).take(there), self.types)
        else:
            text = gridwindow.clipboard(df, there, shown)
        view.replies.append({"kind": "copy", "text": text, "rows": len(there)})
