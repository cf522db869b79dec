"""A window of rows as messages: all of it, or only the cells that differ from those sent before.

Input: what a view shows of a snapshot, by column. Output: messages as ``rows.js`` reads them, and rows as
tab-separated text for the clipboard. Pure; ``GridModel`` determines which rows are in a window.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from notebook_rt.model.coerce import missing
from notebook_rt.model.types import Column, equal
from notebook_rt.widgets.columns import NULL, Cells, Pack, cells, text_of
from notebook_rt.widgets.groups import Group
from notebook_rt.widgets.order import Positions, array_of, column_of, keys_as
from notebook_rt.widgets.sources import Conflict
from notebook_rt.widgets.state import cut
from notebook_rt.widgets.transport import Message

DISPUTED: Final = 8
"""Columns sent for a row that one side deleted."""
SAMPLED: Final = 300
"""Rows sampled for the widths of the columns."""


class Rids:
    """A number for each key that was ever sent: the browser's name of a row, wherever it moves."""

    def __init__(self) -> None:
        self._rids: dict[Hashable, int] = {}
        self._keys: dict[int, Hashable] = {}

    def of(self, key: Hashable) -> int:
        """Return the number of a key."""
        rid = self._rids.get(key)
        if rid is None:
            rid = self._rids[key] = len(self._rids) + 1
            self._keys[rid] = key
        return rid

    def key(self, rid: int) -> Hashable | None:
        """Return the key that has this number."""
        return self._keys.get(rid)


@dataclass(slots=True)
class Window:
    """The window that a view was sent."""

    first: int
    keys: list[Hashable]
    rids: list[int]
    cells: list[Cells]
    frame: dict[str, Any]
    """Row count, status, marks: the small rest of the state."""
    unknown: npt.NDArray[np.intp]
    """Rows that are gone completely: their cells stay unchanged in the browser."""


def columns_of(
    df: pd.DataFrame,
    leaving: pd.DataFrame,
    names: Sequence[str],
    keys: Sequence[Hashable],
    positions: Positions,
) -> tuple[list[Cells], npt.NDArray[np.intp]]:
    """Return the cells of rows by column, and the rows that were not found.

    A row is in the snapshot or, at position -1, among those that are leaving; the cells of a row in neither
    are null.
    """
    gone = np.flatnonzero(positions < 0)
    if not len(gone):
        return [cells(array_of(df, name), positions) for name in names], gone
    real = [i for i, at in enumerate(gone.tolist()) if not isinstance(keys[at], Group)]
    of = np.full(len(gone), -1, dtype=np.intp)  # a heading has no cells
    if real:
        of[real] = leaving.index.get_indexer(keys_as([keys[gone[i]] for i in real], df.index))
    there, unknown, found = positions[positions >= 0], gone[of < 0], of[of >= 0]
    take = np.zeros(len(positions), dtype=np.intp)
    take[positions >= 0] = np.arange(len(there))
    take[gone[of >= 0]] = len(there) + np.arange(len(found))
    columns = []
    for name in names:
        few = column_of(df, name).iloc[there]
        if len(found):
            few = pd.concat([few, column_of(leaving, name).iloc[found]])
        column = cells(few.array, take) if len(few) else cells(pd.array([None]), take)
        column.flags[unknown] |= NULL
        columns.append(column)
    return columns, unknown


def whole(
    view: str, window: Window, head: Mapping[str, Any], samples: Sequence[Cells] | None = None
) -> Message:
    """Return the message with all of a window; with ``samples``, of the grid."""
    pack = Pack()
    if samples is not None:
        head = {**head, "samples": [pack.add_cells(column) for column in samples]}
    content = {
        **head,
        **window.frame,
        "first": window.first,
        "rids": pack.add(np.array(window.rids, dtype=np.int32).tobytes()),
        "cols": [pack.add_cells(column) for column in window.cells],
    }
    return Message(content, (pack.bytes(),), whole=head["t"] == "grid", to=view)


def difference(view: str, window: Window, sent: Window) -> Message | None:
    """Return the message that turns ``sent`` into ``window``; None if they are equal."""
    if (window.first, window.rids) != (sent.first, sent.rids):
        return whole(view, window, {"t": "window"})
    pack = Pack()
    changed = []
    for number, (now, before) in enumerate(zip(window.cells, sent.cells, strict=True)):
        where = now.changed(before)
        if len(window.unknown):
            where = np.setdiff1d(where, window.unknown)
        if len(where):
            rows = pack.add(where.tobytes())
            changed.append({"c": number, "rows": rows, **pack.add_cells(now.take(where))})
    rest = {k: v for k, v in window.frame.items() if sent.frame[k] != v}
    if not changed and not rest:
        return None
    return Message({"t": "cells", "cols": changed, **rest}, (pack.bytes(),), to=view)


def dispute(conflict: Conflict, types: Mapping[str, str]) -> list[Any]:
    """Describe a row that one side deleted: which side, and what the other one changed in it.

    The first item, ``"mine"`` or ``"theirs"``, is the side that deleted it; then come column, before and
    after, and the number of further columns.
    """
    who = "theirs" if conflict.theirs is None else "mine"
    base, row = (
        side if isinstance(side, dict) else {}
        for side in (conflict.base, conflict.mine if who == "theirs" else conflict.theirs)
    )
    told = [
        [
            cut(name, 80),
            *(
                "null" if missing(v) else cut(text_of(v, types.get(name, "")), 120)
                for v in (base.get(name), value)
            ),
        ]
        for name, value in row.items()
        if not equal(base.get(name), value)
    ]
    return [who, told[:DISPUTED], max(0, len(told) - DISPUTED)]


def widest(df: pd.DataFrame, names: Sequence[str]) -> list[Cells]:
    """Return a cell of each column for its width: the longest in a sample of rows."""
    some = np.unique(np.linspace(0, len(df) - 1, min(SAMPLED, len(df))).astype(np.intp))
    found = []
    for name in names:
        few = cells(array_of(df, name), some)
        if isinstance(few.values, list):
            size = np.array([len(text) for text in few.values])
        else:  # all have the same digits after the point
            size = np.nan_to_num(np.abs(few.values), posinf=0)
        found.append(few.take(np.argsort(size)[-1:].astype(np.int32)))
    return found


def clipboard(df: pd.DataFrame, positions: Positions, columns: Sequence[Column]) -> str:
    """Return rows as tab-separated lines."""
    texts = [
        [tsv(v, column.pg_type) for v in array_of(df, column.name).take(positions)]
        for column in columns
    ]
    return "\n".join("\t".join(line) for line in zip(*texts, strict=True))


def tsv(value: Any, pg_type: str = "") -> str:
    """Return a cell as spreadsheets paste it: no tab, no line break; empty for null."""
    if value is None or value is pd.NA or value is pd.NaT or (value != value) is True:
        return ""
    return text_of(value, pg_type).replace("\t", " ").replace("\r", " ").replace("\n", " ")
