"""A window of rows as messages: the whole of it, or only the cells that differ from those sent before.

In: what a view shows of a snapshot, by column. Out: messages as ``rows.js`` reads them, and rows as
tab separated text for the clipboard. Pure; which rows are in a window is ``GridModel``'s to say.
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
"""Columns told of a row that one side deleted."""
SAMPLED: Final = 300
"""Rows looked at for the widths of the columns."""


class Rids:
    """A number for each key that was ever sent: what the browser calls a row, wherever it moves."""

    def __init__(self) -> None:
        self._rids: dict[Hashable, int] = {}
        self._keys: dict[int, Hashable] = {}

    def of(self, key: Hashable) -> int:
        """The number of a key."""
        rid = self._rids.get(key)
        if rid is None:
            rid = self._rids[key] = len(self._rids) + 1
            self._keys[rid] = key
        return rid

    def key(self, rid: int) -> Hashable | None:
        """The key that has this number."""
        return self._keys.get(rid)


@dataclass(slots=True)
class Window:
    """What a view was sent."""

    first: int
    keys: list[Hashable]
    rids: list[int]
    cells: list[Cells]
    frame: dict[str, Any]
    """Row count, status, marks: the small rest of the state."""
    unknown: npt.NDArray[np.intp]
    """Rows that are gone without a trace: their cells stay in the browser as they were."""


def columns_of(
    df: pd.DataFrame,
    leaving: pd.DataFrame,
    names: Sequence[str],
    keys: Sequence[Hashable],
    positions: Positions,
) -> tuple[list[Cells], npt.NDArray[np.intp]]:
    """The cells of rows by column: of the snapshot, or, at position -1, of those that are leaving.

    And which rows are in neither; their cells are null.
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
    """All of a window; with ``samples``, of the grid."""
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
    """What makes ``window`` of what was ``sent``; None: nothing."""
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
    """Of a row that one side deleted: who did, and what the other changed in it.

    ``"mine"`` or ``"theirs"`` is who deleted it; then column, before and after, and how many more
    columns there are.
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
    """A cell of each column for its width: the longest of rows here and there."""
    some = np.unique(np.linspace(0, len(df) - 1, min(SAMPLED, len(df))).astype(np.intp))
    found = []
    for name in names:
        few = cells(array_of(df, name), some)
        if isinstance(few.values, list):
            size = np.array([len(text) for text in few.values])
        else:  # digits after the point are the same in all
            size = np.nan_to_num(np.abs(few.values), posinf=0)
        found.append(few.take(np.argsort(size)[-1:].astype(np.int32)))
    return found


def clipboard(df: pd.DataFrame, positions: Positions, columns: Sequence[Column]) -> str:
    """Rows as tab separated lines."""
    texts = [
        [tsv(v, column.pg_type) for v in array_of(df, column.name).take(positions)]
        for column in columns
    ]
    return "\n".join("\t".join(line) for line in zip(*texts, strict=True))


def tsv(value: Any, pg_type: str = "") -> str:
    """A cell as spreadsheets paste it: no tab, no line break; empty for null."""
    if value is None or value is pd.NA or value is pd.NaT or (value != value) is True:
        return ""
    return text_of(value, pg_type).replace("\t", " ").replace("\r", " ").replace("\n", " ")
