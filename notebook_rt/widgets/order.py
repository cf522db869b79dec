"""The order of a grid's rows: sorted and filtered in the kernel, with a limited cost.

Input: snapshots, what to sort and filter by, the time. Output: keys and positions for a window of rows.
Sorting a large table takes longer than a screen frame, and a live table changes all the time. The order is
therefore recomputed only so often that it takes ``DUTY`` of one core; between two computations the rows keep
their places and show their current values. While an editor is open, the order is held: no row moves while the
user types. A row that is deleted here keeps its place until the deletion is written, and gets it back if the
deletion fails.
"""

from __future__ import annotations

import difflib
import re
import shlex
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from notebook_rt.model.coerce import missing
from notebook_rt.widgets.columns import text_of
from notebook_rt.widgets.groups import Group, grouped, lines

DUTY: Final = 0.08
LOOKED: Final = 100
"""Rows checked above a row that keeps its place, to find one that still exists."""
Positions: TypeAlias = npt.NDArray[np.intp]
NOTHING: Final = pd.DataFrame()
_OPERATORS: Final = (">=", "<=", "!=", "=", ">", "<", ":")
_WHOLE: Final = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Term:
    """One word of the filter box: ``column operator value``, or a text in any column."""

    column: str | None
    operator: str
    value: str


def parse_terms(text: str, columns: Sequence[str]) -> list[Term]:
    """Parse the filter box: ``price>10 status=open acme``; an operator must follow a known column.

    >>> parse_terms("price>10 acme", ["price"])
    [Term(column='price', operator='>', value='10'), Term(column=None, operator=':', value='acme')]
    """
    return [_term(word, columns) for word in _words(text, columns)[0]]


def _words(text: str, columns: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words, and whether every quotation mark is closed."""
    try:
        return _joined(shlex.split(text), columns), True
    except ValueError:  # a quote that is not finished yet
        return text.split(), False


def _joined(words: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Join a comparison that was typed with spaces, ``price > 10``, into one word."""
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in columns and rest and rest[0].startswith(_OPERATORS[:-1]):
            word += (operator := rest.pop(0))
            if rest and operator in _OPERATORS:
                word += rest.pop(0)
        found.append(word)
    return found


def _term(word: str, columns: Sequence[str]) -> Term:
    # The longest name first: another name may be its prefix, and it may contain an operator.
    for name in sorted(columns, key=len, reverse=True):
        if word.startswith(name):
            rest = word[len(name) :]
            for operator in _OPERATORS:
                if rest.startswith(operator):
                    return Term(name, operator, rest[len(operator) :])
    return Term(None, ":", word)


def term_text(name: str, value: Any, pg_type: str = "") -> str:
    """Return the filter box's word that matches exactly the rows with this value.

    >>> term_text("price", 9.5), term_text("name", "a b"), term_text("price", None)
    ('price=9.5', "'name=a b'", 'price=null')
    """
    return shlex.quote(f"{name}=" + ("null" if missing(value) else text_of(value, pg_type)))


def misread(text: str, df: pd.DataFrame, columns: Sequence[str]) -> str:
    """Return, as a sentence, why a filter does not do what it appears to; empty if it does."""
    words, closed = _words(text, columns)
    if not closed:
        return "A quotation mark is not closed"
    for term in (_term(word, columns) for word in words):
        why = _unread(term, columns) if term.column is None else _unfit(term, df)
        if why:
            return why
    return ""


def _unread(term: Term, columns: Sequence[str]) -> str:
    """Return a sentence if a word that is searched as a text looks like a comparison."""
    found = [(term.value.index(o), -len(o), o) for o in _OPERATORS[:-1] if o in term.value]
    name = term.value[: min(found)[0]] if found else ""
    if not name.isidentifier():
        return ""
    near = difflib.get_close_matches(name.casefold(), columns, 1, 0.6)
    hint = f"; did you mean “{_brief(near[0])}”?" if near else ""
    return f"There is no column “{_brief(name)}”{hint}"


def _unfit(term: Term, df: pd.DataFrame) -> str:
    """Return a sentence if the value of a comparison is not of the column's type."""
    assert term.column is not None
    series, value, name = column_of(df, term.column), term.value, _brief(term.column)
    if term.operator == ":" or value == "null" or pd.api.types.is_bool_dtype(series.dtype):
        return ""
    number = pd.api.types.is_numeric_dtype(series.dtype)
    if not (number or pd.api.types.is_datetime64_any_dtype(series.dtype)):
        return ""
    if not value:
        return f"{name}{term.operator} needs a {'number' if number else 'date'} behind it"
    if number:
        return "" if _number(value) is not None else f"“{_brief(value)}” is not a number: {name}"
    if pd.isna(_time(value, series)):
        return f"“{_brief(value)}” is not a date like 2026-03-31 14:30: {name}"
    return ""


def _brief(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _time(text: str, series: pd.Series[Any]) -> Any:
    return pd.to_datetime(text, errors="coerce", utc=isinstance(series.dtype, pd.DatetimeTZDtype))


def column_of(df: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column, or a level of the index, as a series with one item per row."""
    if name in df.columns:
        series = df[name]
        return series.iloc[:, 0] if isinstance(series, pd.DataFrame) else series
    return pd.Series(df.index.get_level_values(name))


def array_of(df: pd.DataFrame, name: str) -> Any:
    """Return the values of a column, or of a level of the index."""
    there = name in df.columns
    return column_of(df, name).array if there else df.index.get_level_values(name).array


def _texts(series: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column as the grid shows it."""
    if isinstance(series.dtype, pd.StringDtype):
        return series
    if series.dtype == object:  # JSON, arrays, bytes, which need not be UTF-8
        texts = [None if missing(value) else text_of(value) for value in series]
        return pd.Series(texts, dtype="str", index=series.index)
    return series.astype("str")


def _contains(series: pd.Series[Any], text: str) -> npt.NDArray[np.bool_]:
    found = _texts(series).str.contains(text, case=False, regex=False, na=False)
    return np.asarray(found, dtype=bool)


def _compared(series: pd.Series[Any], operator: str, value: str) -> npt.NDArray[np.bool_]:
    other: Any = value
    if value == "null" and operator in ("=", "!="):
        null = np.asarray(series.isna(), dtype=bool)
        if not pd.api.types.is_numeric_dtype(series.dtype):  # a text column may contain this word
            null = null | np.asarray(
                _texts(series).str.casefold().eq("null").fillna(False), dtype=bool
            )
        return null if operator == "=" else ~null
    if pd.api.types.is_bool_dtype(series.dtype):
        other = value.casefold() in ("true", "t", "yes", "1")
    elif pd.api.types.is_numeric_dtype(series.dtype):
        other = _number(value)
        if other is None:
            return np.ones(len(series), dtype=bool)  # misread reports it
        if not pd.api.types.is_float_dtype(series.dtype) and _WHOLE.fullmatch(value):
            other = int(value)
    elif pd.api.types.is_datetime64_any_dtype(series.dtype):
        other = _time(value, series)
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
    """Return which rows match every term."""
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
    """Return ``positions`` sorted by columns, stable, nulls last; ``True`` is ascending."""
    for name, ascending in reversed(by):
        array = column_of(df, name).array.take(positions)
        try:
            ranks = array.argsort(ascending=ascending, kind="stable", na_position="last")
        except TypeError:  # JSON values cannot be compared
            texts = pd.array([str(value) for value in array], dtype="str")
            ranks = texts.argsort(ascending=ascending, kind="stable", na_position="last")
        positions = positions[ranks]
    return positions


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of an order that were requested."""

    index: pd.Index[Any]
    positions: Positions | None
    asked: tuple[int, int]
    keys: list[Hashable]
    found: Positions


class Order:
    """The rows of a grid, in the requested order.

    Parameters
    ----------
    clock
        Returns seconds; measures the cost of a computation.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.by: tuple[tuple[str, bool], ...] = ()
        self.filter = ""
        self.trouble = ""
        """Why the filter does not do what it appears to."""
        self.group = ""
        """The column that the rows are grouped by; empty if none."""
        self.groups: list[tuple[Group, Positions]] = []
        """The groups, in their order, with their rows as in ``_positions``."""
        self._sizes: dict[Group, int] = {}
        self._closed: set[Group] = set()
        self._every: Positions | None = None
        """All rows that match the filter, including those of closed groups; None: the same as ``_positions``.
        """
        self.version = 0
        """Number of orders that were computed."""
        self.stale = False
        """Whether a newer order is due once its cost allows."""
        self._clock = clock
        self._df: pd.DataFrame | None = None
        self._leaving = NOTHING
        self._index: pd.Index[Any] = pd.RangeIndex(0)
        """The rows of the snapshot that was ordered, followed by those that are leaving."""
        self._ordered: pd.Index[Any] = self._index
        """Only the rows of the snapshot."""
        self._places: dict[Hashable, None] = {}
        """In the plain order: the rows that are leaving, or have come back, and so have their own place."""
        self._same_keys = True
        self._window: _Rows | None = None
        """The rows that were requested last: usually only their values have changed since."""
        self._positions: Positions | None = None
        self._not_before = 0.0
        self._asked = True

    def __len__(self) -> int:
        return len(self._index) if self._positions is None else len(self._positions)

    @property
    def leaving(self) -> int:
        """Number of the rows that are leaving."""
        there = len(self._ordered)
        return (
            len(self._index) - there
            if self._positions is None
            else int((self._all() >= there).sum())
        )

    def ask(self, by: Sequence[tuple[str, bool]], text: str) -> None:
        """Sort by these columns and filter by this text, from the next ``refresh`` on."""
        if (tuple(by), text) != (self.by, self.filter):
            self.by, self.filter, self._asked = tuple(by), text, True

    def ask_group(self, name: str) -> None:
        """Group by this column, or by none, from the next ``refresh`` on; every group is open."""
        if name != self.group:
            self.group, self._closed, self._asked = name, set(), True

    def renew(self) -> None:
        """Forget the places of rows: the next ``refresh`` gets another table."""
        self._asked, self._places = True, {}

    def toggle(self, group: Group) -> None:
        """Close an open group, or open a closed one."""
        self._closed ^= {group}
        self._asked = True

    def is_open(self, group: Group) -> bool:
        """Return whether a group's rows are shown."""
        return group not in self._closed

    @property
    def count(self) -> int:
        """Number of rows that match the filter, including those of closed groups."""
        return len(self) if self._every is None else len(self._every)

    def rows_of(self, group: Group) -> int:
        """Return the number of rows in a group."""
        return self._sizes.get(group, 0)

    def wait(self) -> float:
        """Return the seconds until a stale order may be computed."""
        return max(0.0, self._not_before - self._clock()) if self.stale else float("inf")

    def refresh(
        self,
        df: pd.DataFrame,
        columns: Sequence[str],
        *,
        held: bool,
        leaving: pd.DataFrame = NOTHING,
    ) -> bool:
        """Take a new snapshot, and rows that keep their place without being in it.

        Returns
        -------
        bool
            Whether rows may have moved.
        """
        left = leaving is not self._leaving and not leaving.index.equals(self._leaving.index)
        if df is self._df and not (left or self._asked or (self.stale and not held)):
            return False
        self._df, self._leaving = df, leaving
        self._same_keys = self._ordered is df.index or self._ordered.equals(df.index)
        plain = not (self.by or self.filter or self.group)
        if plain and self._same_keys and not (left or self._asked or self.stale):
            return False
        cheap = plain and not (self._places or len(leaving))
        if self._asked or (not held and (cheap or left)):
            self._compute(df, columns)
            return True
        if cheap or held or self._clock() < self._not_before:
            self.stale = not plain or not self._same_keys
            return False
        self._compute(df, columns)
        return True

    def _compute(self, df: pd.DataFrame, columns: Sequence[str]) -> None:
        started = self._clock()
        plain = not (self.by or self.filter or self.group)
        self.groups, self._every = [], None
        if plain:
            self._positions, self.trouble = self._with_places(df.index), ""
        self._ordered, self._index = df.index, df.index
        self._same_keys, self._asked, self.stale = True, False, False
        self.version += 1
        if len(self._leaving):
            self._index = df.index.append(self._leaving.index)
            df = df if plain else pd.concat([df, self._leaving])
        if not plain:
            terms = parse_terms(self.filter, columns)
            self.trouble = misread(self.filter, df, columns) if self.filter else ""
            positions = np.flatnonzero(keep(df, terms, columns)) if terms else np.arange(len(df))
            known = [(name, ascending) for name, ascending in self.by if name in columns]
            self._positions = sort(df, positions.astype(np.intp), known)
            if self.group in df.columns or self.group in df.index.names:
                self._group_rows(df, positions.astype(np.intp), known)
        now = self._clock()
        self._not_before = now + (now - started) * (1 / DUTY - 1)

    def _group_rows(
        self, df: pd.DataFrame, positions: Positions, by: Sequence[tuple[str, bool]]
    ) -> None:
        """Put the rows under headings: the groups by their value, the rows in each in the requested order."""
        up = dict(by).get(self.group, True)
        within = [(name, ascending) for name, ascending in by if name != self.group]
        self._every = sort(df, positions, [(self.group, up), *within])
        self.groups = grouped(column_of(df, self.group), self._every)
        self._sizes = {group: len(rows) for group, rows in self.groups}
        self._positions = lines(self.groups, self._closed, len(self._index))

    def _all(self) -> Positions:
        """Return the rows without headings, including those of closed groups."""
        found = self._every if self._every is not None else self._positions
        return np.arange(len(self._index), dtype=np.intp) if found is None else found

    def _with_places(self, index: pd.Index[Any]) -> Positions | None:
        """Return the snapshot's order, except that rows that are leaving or have come back keep their places.

        Such a row stays after the row that it followed. None: the snapshot's order.
        """
        leaving = self._leaving.index.tolist()
        back = [key for key in self._places if key in index]
        self._places = dict.fromkeys([*leaving, *back])
        if not self._places:
            return None
        numbers = np.arange(len(index) + len(leaving), dtype=np.intp)
        returned = np.asarray(index.get_indexer(keys_as(back, index)), dtype=np.intp)
        others = np.delete(numbers[: len(index)], returned)
        own = np.concatenate([numbers[len(index) :], returned])
        stood = self._find(keys_as([*leaving, *back], index))
        stood[stood < 0] = len(self)
        places, last, place = [], -2, 0
        for row in np.sort(stood):
            if row != last + 1:
                place = self._behind(int(row), index, others)
            places.append(place)
            last = row
        return np.insert(others, places, own[np.argsort(stood, kind="stable")])

    def _behind(self, row: int, index: pd.Index[Any], others: Positions) -> int:
        """Return how many of ``others`` come before the former content of ``row``: up to the one above it."""
        for above in range(row - 1, max(row - LOOKED, 0) - 1, -1):
            (found,) = index.get_indexer(self.keys(above, above + 1)) if above < len(self) else [-1]
            place = int(np.searchsorted(others, found))
            if found >= 0 and place < len(others) and others[place] == found:
                return place + 1
        return min(row, len(others))

    def rows(self, first: int, last: int) -> tuple[list[Hashable], Positions]:
        """Return the keys of rows ``first`` to ``last`` (excluded), and their positions in the snapshot.

        A row that is gone meanwhile, or leaving, has position -1.
        """
        asked, last_time = (first, min(last, len(self))), self._window
        if not self._same_keys:
            return self._rows(*asked)
        if (
            last_time is None
            or last_time.asked != asked
            or last_time.index is not self._index
            or last_time.positions is not self._positions
        ):
            keys, found = self._rows(*asked)
            last_time = self._window = _Rows(self._index, self._positions, asked, keys, found)
        return list(last_time.keys), last_time.found

    def _rows(self, first: int, last: int) -> tuple[list[Hashable], Positions]:
        chosen = (
            np.arange(first, last, dtype=np.intp)
            if self._positions is None
            else self._positions[first:last]
        )
        headings = np.flatnonzero(chosen >= len(self._index))
        numbers = chosen[headings] - len(self._index)
        if len(headings):
            chosen = np.where(chosen < len(self._index), chosen, 0)
        index = self._index[chosen] if len(self._index) else self._index
        keys: list[Hashable] = index.tolist()
        if self._same_keys or self._df is None:
            found = np.where(chosen < len(self._ordered), chosen, -1)
        else:
            found = np.array(self._df.index.get_indexer(index), dtype=np.intp)
        for line, number in zip(headings.tolist(), numbers.tolist(), strict=True):
            keys[line], found[line] = self.groups[number][0], -1
        return keys, found

    def shown(self) -> Positions | None:
        """Return the positions of the shown rows in the snapshot, unordered; None: all rows."""
        if self._positions is None or self._df is None:
            return None
        return self._there(self._all())

    def shown_of(self, number: int) -> Positions:
        """Return the positions of a group's rows in the snapshot."""
        return self._there(self.groups[number][1])

    def _there(self, positions: Positions) -> Positions:
        chosen = positions[positions < len(self._ordered)]
        if self._same_keys or self._df is None:
            return chosen
        found = np.asarray(self._df.index.get_indexer(self._ordered[chosen]), dtype=np.intp)
        return found[found >= 0]

    def keys(self, first: int, last: int) -> pd.Index[Any]:
        """Return the keys of rows ``first`` to ``last`` (excluded)."""
        if self._positions is None:
            return self._index[first:last]
        where = self._positions[first:last]
        return self._index[where[where < len(self._index)]]

    def find(self, keys: pd.Index[Any]) -> Positions:
        """Return the rows in which ``keys`` are shown, ascending, without those that are not shown."""
        rows = self._find(keys)
        return np.sort(rows[rows >= 0])

    def _find(self, keys: pd.Index[Any]) -> Positions:
        """Return the row of each of ``keys``; -1 if it is not shown."""
        slots = np.asarray(self._index.get_indexer(keys), dtype=np.intp)
        if self._positions is None:
            return slots
        where = np.full(len(self._index) + 1, -1, dtype=np.intp)  # one more, for missing keys
        real = np.flatnonzero(self._positions < len(self._index))
        where[self._positions[real]] = real
        return where[slots]


def keys_as(keys: Sequence[Hashable], index: pd.Index[Any]) -> pd.Index[Any]:
    """Return ``keys`` as an index that compares with ``index``."""
    if not keys:
        return index[:0]
    if isinstance(index, pd.MultiIndex):
        return pd.MultiIndex.from_tuples(cast("list[tuple[Any, ...]]", list(keys)))
    return pd.Index(list(keys), dtype=index.dtype)
