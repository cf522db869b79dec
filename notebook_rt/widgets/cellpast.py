"""The history of a row or of one of its cells, as sent to a view: newest first, limited in length.

Input: the steps of a row and the gaps. Output: what ``history.js`` draws, and the values, by column in binary
as in the grid. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from notebook_rt.model.types import Column, equal
from notebook_rt.sync.history.steps import Step
from notebook_rt.widgets.columns import Pack, cells, shape_of
from notebook_rt.widgets.sources import Lost, Reach
from notebook_rt.widgets.state import cut

MOST: Final = 50
"""Maximum number of changes that are sent; earlier ones are only counted."""
ACROSS: Final = 8
"""Maximum number of columns that are sent per change."""
BY: Final = ("updated_by", "modified_by", "changed_by", "edited_by", "last_modified_by")
"""Usual names of the column in which tables store the author of a row."""
HEARD: Final = "stream"


class _Values:
    """The values sent for each column, to be packed."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._values: dict[str, list[Any]] = {}

    def put(self, name: str, value: Any) -> list[int]:
        """Add a value; return its position: the column's index and its own."""
        values = self._values.setdefault(name, [])
        values.append(value)
        return [list(self._values).index(name), len(values) - 1]

    def packed(
        self, dtypes: Mapping[str, Any], formats: Mapping[str, str]
    ) -> tuple[list[dict[str, Any]], bytes]:
        pack, head = Pack(), []
        for name, values in self._values.items():
            dtype, pg_type = dtypes.get(name), self._columns[name].pg_type
            of = cells(_array(values, dtype), np.arange(len(values)))
            shape = shape_of(np.dtype(object) if dtype is None else dtype, pg_type)
            told = {"name": cut(name, 80), "shape": shape, "format": formats.get(name, "")}
            head.append({**told, **pack.add_cells(of)})
        return head, pack.bytes()


def cell_past(
    steps: Sequence[Step],
    reach: Reach,
    columns: Mapping[str, Column],
    dtypes: Mapping[str, Any],
    *,
    column: str | None,
    by: str | None,
    formats: Mapping[str, str],
) -> tuple[dict[str, Any], bytes]:
    """Return the past of a row, or of the cell in ``column``; ``by`` is the column with the author.

    Returns
    -------
    dict, bytes
        ``steps``: for each its ``kind``, ``at``, whether it was ``heard`` (else read, later than it
        happened), ``who``, and ``cells``: old and new value, as positions in ``cols``; for a gap ``since``,
        ``until``, ``why``. Also the number of ``earlier`` ones that are left out, when the recording
        ``began``, and the columns.
    """
    values, found = _Values(columns), []
    wanted = [(step, names) for step in steps if (names := _changed(step, column, columns))]
    for step, names in wanted[-MOST:]:
        who = None if by is None or step.new is None else step.new.get(by)
        shown = [name for name in names if name != by or len(names) == 1][:ACROSS]
        row: dict[str, Any] = {"kind": step.kind, "at": step.at}
        row["heard"] = step.cause == HEARD or step.kind == "snapshot"
        row["who"] = "" if who is None else cut(who, 80)
        whole = column is None and step.kind != "update"
        row["cells"] = [] if whole else [_cell(values, name, step) for name in shown]
        row["more"] = 0 if whole else max(0, len(names) - (by in names and len(names) > 1) - ACROSS)
        found.append(row)
    first = found[0]["at"] if found and len(wanted) > MOST else reach.began
    lost = [one for one in reach.lost if one.until is None or one.until > first]
    gaps = [_gap(one) for one in lost][-MOST:]
    every = sorted([*gaps, *found], key=lambda row: row["at"], reverse=True)
    head, buffer = values.packed(dtypes, formats)
    earlier = len(wanted) - len(found)
    return {"steps": every, "earlier": earlier, "began": reach.began, "cols": head}, buffer


def _gap(lost: Lost) -> dict[str, Any]:
    return {"kind": "gap", "at": lost.since, "until": lost.until, "why": cut(lost.reason, 200)}


def _changed(step: Step, column: str | None, columns: Mapping[str, Column]) -> list[str]:
    """Return the columns to send for a step; empty: the step is left out."""
    old, new = step.old, step.new
    if old is None or new is None:  # the whole row
        every = [name for name in columns if name in (new or old or {})]
        return every[:1] if column is None else [name for name in every if name == column]
    names = columns if column is None else [column]
    return [
        name
        for name in names
        if name in new and (name not in old or not equal(old[name], new[name]))
    ]


def _cell(values: _Values, name: str, step: Step) -> list[Any]:
    """Return the column's position, and those of the old and the new value; None if there was none."""
    sides = [
        values.put(name, side[name]) if side is not None and name in side else None
        for side in (step.old, step.new)
    ]
    place = next(side[0] for side in sides if side is not None)
    return [place, *(None if side is None else side[1] for side in sides)]


def _array(values: list[Any], dtype: Any) -> Any:
    """Return values in their column's type; unchanged if of another type, or with nulls it cannot hold."""
    try:
        return pd.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return pd.array(values, dtype=object)
