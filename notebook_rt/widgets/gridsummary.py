"""Summaries of a grid's columns: the range, by which cells are coloured, and the total.

Input: a snapshot, the order that determines which of its rows are shown, the time. Output: the minimum and
maximum for columns with a style, one number for columns with a total. Like an order (``order.py``) they are
recomputed only so often that this takes ``DUTY`` of one core. Pure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd

from notebook_rt.model.coerce import missing
from notebook_rt.quoting import did_you_mean
from notebook_rt.widgets.groups import Group
from notebook_rt.widgets.order import DUTY, Order, Positions, column_of

Total: TypeAlias = float | int | str | None
STYLES: Final = ("bar", "color", "updown")
COLORS: Final = ("blue", "green", "grey", "red", "yellow")
TOTALS: Final = ("count", "max", "mean", "median", "min", "sum")
MOST_GROUPS: Final = 200
"""Groups whose totals are computed; the others have only a count."""
_SAFE: Final = 2**53


def checked_style(
    style: Mapping[str, str | Mapping[Any, str]] | None,
) -> dict[str, str | dict[str, str]]:
    """Return the argument ``grid(style=)``, its keys as the browser shows them.

    Raises
    ------
    ValueError
        If there is no such style or colour.
    """
    found: dict[str, str | dict[str, str]] = {}
    for name, how in (style or {}).items():
        if isinstance(how, str):
            if how not in STYLES:
                hint = did_you_mean(how, STYLES)
                raise ValueError(
                    f"{name}: a style must be one of {', '.join(STYLES)}, not {how!r}{hint}"
                )
            found[name] = how
            continue
        for color in how.values():
            if color not in COLORS:
                hint = did_you_mean(color, COLORS)
                raise ValueError(
                    f"{name}: a color must be one of {', '.join(COLORS)}, not {color!r}{hint}"
                )
        found[name] = {_shown(value): color for value, color in how.items()}
    return found


def _shown(value: object) -> str:
    if missing(value):
        return "null"
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def checked_totals(totals: Mapping[str, str] | str | Sequence[str] | None) -> dict[str, str]:
    """Return the argument ``grid(totals=)`` as columns to functions; plain names mean sums.

    Raises
    ------
    ValueError
        If there is no such function.
    """
    if totals is None:
        return {}
    if not isinstance(totals, Mapping):
        names = [totals] if isinstance(totals, str) else totals
        return dict.fromkeys(names, "sum")
    for name, function in totals.items():
        if function not in TOTALS:
            from notebook_rt.sync.derive.aggregates import meant

            hint = meant(str(function), TOTALS)
            raise ValueError(
                f"{name}: a total must be one of {', '.join(TOTALS)}, not {function!r}{hint}"
            )
    return dict(totals)


class Summary:
    """Ranges and totals of the rows shown.

    Parameters
    ----------
    style
        Columns to their style; ``bar`` and ``color`` need the range.
    totals
        Columns to functions.
    clock
        Returns seconds; measures the cost of a computation.
    """

    def __init__(
        self,
        style: Mapping[str, str | Mapping[str, str]],
        totals: Mapping[str, str],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.ranges: dict[str, tuple[float, float]] = {}
        self.totals: dict[str, Total] = {}
        self.of_groups: dict[Group, dict[str, Total]] = {}
        """The totals of each group, for the first `MOST_GROUPS` groups."""
        self._ranged = [name for name, how in style.items() if how in ("bar", "color")]
        self._functions = dict(totals)
        self._clock = clock
        self._of: tuple[object, int] = (None, -1)
        self._filter = ""
        self._not_before = 0.0
        self._stale = False

    def wait(self) -> float:
        """Return the seconds until a stale summary may be computed."""
        return max(0.0, self._not_before - self._clock()) if self._stale else float("inf")

    def renew(self) -> None:
        """Make the next ``refresh`` compute immediately."""
        self._not_before = 0.0

    def refresh(self, df: pd.DataFrame, order: Order) -> None:
        """Take a snapshot that ``order`` has taken.

        After a new filter, compute immediately: the user is waiting.
        """
        if not (self._ranged or self._functions):
            return
        if self._of[0] is df and self._of[1] == order.version:
            return
        filter = order.filter
        self._stale = filter == self._filter and self._clock() < self._not_before
        if self._stale:
            return
        self._filter = filter
        started = self._clock()
        self._of = (df, order.version)
        positions, there = order.shown(), {*df.columns, *df.index.names}
        self.ranges = {
            name: found
            for name in self._ranged
            if name in there and (found := _range(_taken(df, name, positions))) is not None
        }
        self.totals = {
            name: _total(_taken(df, name, positions), function)
            for name, function in self._functions.items()
            if name in there  # a table without data has no columns yet; a column may be dropped
        }
        self.of_groups = {
            group: {
                name: _total(_taken(df, name, order.shown_of(number)), function)
                for name, function in self._functions.items()
                if name in there
            }
            for number, (group, _) in enumerate(order.groups[:MOST_GROUPS])
        }
        now = self._clock()
        self._not_before = now + (now - started) * (1 / DUTY - 1)


def _taken(df: pd.DataFrame, name: str, positions: Positions | None) -> pd.Series[Any]:
    series = column_of(df, name)
    return series if positions is None else series.iloc[positions]


def _numbers(series: pd.Series[Any]) -> pd.Series[Any]:
    """Return the column as numbers; other values become null."""
    if pd.api.types.is_numeric_dtype(series.dtype):
        return series
    return pd.to_numeric(series, errors="coerce")


def _range(series: pd.Series[Any]) -> tuple[float, float] | None:
    if series.dtype == object and not series.map(lambda v: isinstance(v, Decimal)).any():
        return None
    if not (pd.api.types.is_numeric_dtype(series.dtype) or series.dtype == object):
        return None  # text, coloured by its values
    values = _numbers(series).to_numpy(dtype=np.float64, na_value=np.nan)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def _total(series: pd.Series[Any], function: str) -> Total:
    if function == "count":
        return int(series.notna().sum())
    if series.dtype == object:  # exact decimals
        exact = [value for value in series if isinstance(value, Decimal) and value.is_finite()]
        if function == "sum" and exact:
            return str(sum(exact, Decimal(0)))
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        found = getattr(series, function)() if function in ("min", "max") else None
        return None if found is None or missing(found) else f"{found:%Y-%m-%d %H:%M:%S}"
    numbers = _numbers(series)
    if not numbers.notna().any():
        return None
    value = getattr(numbers, function)()
    if missing(value):
        return None
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, int | np.integer):
        return int(value) if abs(int(value)) <= _SAFE else str(value)
    return float(value) if math.isfinite(value) else str(value)
