"""Rows of a grid under headings: grouped by the values of a column, each group open or closed.

Input: rows in their order, a column's values. Output: lines, each a row or the heading of a group. Pure;
``Order`` knows which groups are closed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from notebook_rt.model.coerce import missing
from notebook_rt.widgets.columns import text_of


@dataclass(frozen=True, slots=True)
class Group:
    """The rows that have this value; identifies a heading as a key identifies a row."""

    text: str
    """The value as shown in the grid; ``null`` if there is none."""
    null: bool = False


def grouped(
    series: pd.Series[Any], rows: npt.NDArray[np.intp], pg_type: str = ""
) -> list[tuple[Group, npt.NDArray[np.intp]]]:
    """Return the groups of ``rows``, which are sorted by ``series``, in their order.

    >>> [(g.text, rows.tolist()) for g, rows in grouped(pd.Series(["a", "a", "b"]), np.arange(3))]
    [('a', [0, 1]), ('b', [2])]
    """
    found: dict[Group, list[npt.NDArray[np.intp]]] = {}
    values = series.array.take(rows)
    try:
        codes, _ = pd.factorize(values, use_na_sentinel=False)
    except TypeError:  # JSON
        codes, _ = pd.factorize(np.array([text_of(value) for value in values], dtype=object))
    starts = np.flatnonzero(np.diff(codes, prepend=-2))
    for part in np.split(rows, starts[1:]) if len(rows) else []:
        value = series.iloc[int(part[0])]
        null = missing(value)
        group = Group("null" if null else text_of(value, pg_type), null)
        found.setdefault(group, []).append(part)
    return [(group, np.concatenate(parts)) for group, parts in found.items()]


def lines(
    groups: Sequence[tuple[Group, npt.NDArray[np.intp]]], closed: Collection[Group], headings: int
) -> npt.NDArray[np.intp]:
    """Return the content of each line: a row, or from ``headings`` on the number of a group.

    >>> lines([(Group("a"), np.array([2, 0])), (Group("b"), np.array([1]))], [Group("b")], 3).tolist()
    [3, 2, 0, 4]
    """
    parts: list[npt.NDArray[np.intp]] = []
    for number, (group, rows) in enumerate(groups):
        parts.append(np.array([headings + number], dtype=np.intp))
        if group not in closed:
            parts.append(rows)
    return np.concatenate(parts) if parts else np.arange(0, dtype=np.intp)
