"""Which row stands where in a grid: sorted and filtered in the kernel, and bounded in cost.

In: snapshots, what to sort and filter by, the time. Out: keys and positions for a window of rows.
A sort of a large table costs more than a screen frame, and a live table changes all the time; so
the order is computed anew only so often that it takes ``DUTY`` of one core, and between two
computations the rows stand where they stood, with their values of now. While somebody has an
editor open the order is held: nothing moves under the hand.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from notebook_rt.widgets.columns import is_null, text_of

DUTY: Final = 0.08
Positions: TypeAlias = npt.NDArray[np.intp]
_OPERATORS: Final = (">=", "<=", "!=", "=", ">", "<", ":")


@dataclass(frozen=True, slots=True)
class Term:
    """One word of the filter box: ``column operator value``, or a text in any column."""

    column: str | None
    operator: str
    value: str


def parse_terms(text: str, columns: Sequence[str]) -> list[Term]:
    """The filter box's words: ``price>10 status=open acme``; a known column before an operator.

    >>> parse_terms("price>10 acme", ["price"])
    [Term(column='price', operator='>', value='10'), Term(column=None, operator=':', value='acme')]
    """
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that is still being typed
        words = text.split()
    terms = []
    for word in words:
        found = [(word.index(o), -len(o), o) for o in _OPERATORS if o in word]
        if found:
            at, _, operator = min(found)
            name = word[:at]
            if name in columns:
                terms.append(Term(name, operator, word[at + len(operator) :]))
                continue
        terms.append(Term(None, ":", word))
    return terms


def column_of(df: pd.DataFrame, name: str) -> pd.Series[Any]:
    """A column, or a level of the index, as a series of positions."""
    if name in df.columns:
        series = df[name]
        return series.iloc[:, 0] if isinstance(series, pd.DataFrame) else series
    return pd.Series(df.index.get_level_values(name))


def _texts(series: pd.Series[Any]) -> pd.Series[Any]:
    """A column as it is read in the grid."""
    if isinstance(series.dtype, pd.StringDtype):
        return series
    if series.dtype == object:  # JSON, arrays, bytes, which need not be UTF-8
        texts = [None if is_null(value) else text_of(value) for value in series]
        return pd.Series(texts, dtype="str", index=series.index)
    return series.astype("str")


def _contains(series: pd.Series[Any], text: str) -> npt.NDArray[np.bool_]:
    found = _texts(series).str.contains(text, case=False, regex=False, na=False)
    return np.asarray(found, dtype=bool)


def _compared(series: pd.Series[Any], operator: str, value: str) -> npt.NDArray[np.bool_]:
    other: Any = value
    if pd.api.types.is_bool_dtype(series.dtype):
        other = value.casefold() in ("true", "t", "yes", "1")
    elif pd.api.types.is_numeric_dtype(series.dtype):
        try:
            other = float(value)
        except ValueError:
            return np.ones(len(series), dtype=bool)  # still being typed
    elif pd.api.types.is_datetime64_any_dtype(series.dtype):
        other = pd.to_datetime(
            value, errors="coerce", utc=isinstance(series.dtype, pd.DatetimeTZDtype)
        )
        if pd.isna(other):
            return np.ones(len(series), dtype=bool)
    else:
        series, other = _texts(series).str.casefold(), value.casefold()
    compare = {
        "=": series.eq,
        "!=": series.ne,
        ">": series.gt,
        "<": series.lt,
        ">=": series.ge,
        "<=": series.le,
    }[operator]
    result = compare(other)
    return np.asarray(result.fillna(False) if result.hasnans else result, dtype=bool)


def keep(df: pd.DataFrame, terms: Sequence[Term], columns: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows every term accepts."""
    mask = np.ones(len(df), dtype=bool)
    for term in terms:
        if term.column is None:
            found = np.zeros(len(df), dtype=bool)
            for name in columns:
                found |= _contains(column_of(df, name), term.value)
            mask &= found
        elif term.operator == ":":
            mask &= _contains(column_of(df, term.column), term.value)
        else:
            mask &= _compared(column_of(df, term.column), term.operator, term.value)
    return mask


def sort(df: pd.DataFrame, positions: Positions, by: Sequence[tuple[str, bool]]) -> Positions:
    """``positions`` sorted by columns, stable, nulls last; ``True`` is ascending."""
    for name, ascending in reversed(by):
        array = column_of(df, name).array.take(positions)
        try:
            ranks = array.argsort(ascending=ascending, kind="stable", na_position="last")
        except TypeError:  # JSON values have no order among themselves
            texts = pd.array([str(value) for value in array], dtype="str")
            ranks = texts.argsort(ascending=ascending, kind="stable", na_position="last")
        positions = positions[ranks]
    return positions


class Order:
    """The rows of a grid, in the order asked for.

    Parameters
    ----------
    clock
        Seconds; measures what a computation costs.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.by: tuple[tuple[str, bool], ...] = ()
        self.filter = ""
        self.stale = False
        """A newer order is due once its cost allows."""
        self._clock = clock
        self._df: pd.DataFrame | None = None
        self._index: pd.Index[Any] = pd.RangeIndex(0)
        self._same_keys = True
        self._positions: Positions | None = None
        self._not_before = 0.0
        self._asked = True

    def __len__(self) -> int:
        return len(self._index) if self._positions is None else len(self._positions)

    def ask(self, by: Sequence[tuple[str, bool]], text: str) -> None:
        """Sort by these columns and filter by this text, from the next ``refresh`` on."""
        if (tuple(by), text) != (self.by, self.filter):
            self.by, self.filter, self._asked = tuple(by), text, True

    def wait(self) -> float:
        """Seconds until a stale order may be computed."""
        return max(0.0, self._not_before - self._clock()) if self.stale else float("inf")

    def refresh(self, df: pd.DataFrame, columns: Sequence[str], *, held: bool) -> bool:
        """Take a snapshot in; True if rows may stand elsewhere now."""
        if df is self._df and not self._asked and not (self.stale and not held):
            return False
        self._df = df
        self._same_keys = self._index is df.index or self._index.equals(df.index)
        plain = not self.by and not self.filter
        if self._asked or (plain and not held):
            moved = self._asked or not self._same_keys
            self._compute(df, columns)
            return moved
        if plain or held or self._clock() < self._not_before:
            self.stale = not plain or not self._same_keys
            return False
        self._compute(df, columns)
        return True

    def _compute(self, df: pd.DataFrame, columns: Sequence[str]) -> None:
        started = self._clock()
        self._index, self._same_keys, self._asked, self.stale = df.index, True, False, False
        if not self.by and not self.filter:
            self._positions = None
            return
        terms = parse_terms(self.filter, columns)
        positions = np.flatnonzero(keep(df, terms, columns)) if terms else np.arange(len(df))
        known = [(name, ascending) for name, ascending in self.by if name in columns]
        self._positions = sort(df, positions.astype(np.intp), known)
        now = self._clock()
        self._not_before = now + (now - started) * (1 / DUTY - 1)

    def rows(self, first: int, last: int) -> tuple[list[Hashable], Positions]:
        """The keys of rows ``first`` to ``last`` (excluded), and where they are in the snapshot.

        A row that is gone meanwhile has position -1.
        """
        chosen = (
            np.arange(first, min(last, len(self)), dtype=np.intp)
            if self._positions is None
            else self._positions[first:last]
        )
        keys = self._index[chosen]
        if not self._same_keys and self._df is not None:
            chosen = np.asarray(self._df.index.get_indexer(keys), dtype=np.intp)
        return keys.tolist(), chosen

    def keys(self, first: int, last: int) -> pd.Index[Any]:
        """The keys of rows ``first`` to ``last`` (excluded)."""
        where = slice(first, last) if self._positions is None else self._positions[first:last]
        return self._index[where]

    def find(self, keys: pd.Index[Any]) -> Positions:
        """In which rows ``keys`` stand, ascending; those that are not shown left out."""
        slots = self._index.get_indexer(keys)
        slots = slots[slots >= 0]
        if self._positions is None:
            return np.sort(slots).astype(np.intp)
        where = np.full(len(self._index), -1, dtype=np.intp)
        where[self._positions] = np.arange(len(self._positions))
        rows = where[slots]
        return np.sort(rows[rows >= 0])
