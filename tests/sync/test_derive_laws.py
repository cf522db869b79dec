"""Derived frames equal pandas' expression over the inputs' DataFrames, after every batch.

Random trees of operators over random tables of the real store, and any history: inserts, updates that
move rows between groups and partners, deletes, rows that leave and come again, whole tables that are read
anew, local edits that are laid over a table, merged with what the server says, written and refused. And
the changes that are told, played on the result before, give the result after.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notebook_rt.edits.merge import Edit
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import DerivationError
from notebook_rt.model.filters import parse
from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Column, Schema, equal, to_json
from notebook_rt.store import contents
from notebook_rt.store import touched as touched_module
from notebook_rt.store.journal import JournalledTable
from notebook_rt.store.reporter import Reporter
from notebook_rt.store.table import Table
from notebook_rt.store.touched import HIDDEN_PREFIX
from notebook_rt.sync.derive import join as join_module
from notebook_rt.sync.derive import sort as sort_module
from notebook_rt.sync.derive import top as top_module
from notebook_rt.sync.derive.concat import Concat
from notebook_rt.sync.derive.distinct import Distinct
from notebook_rt.sync.derive.expression import parsed
from notebook_rt.sync.derive.groupby import Aggregate, GroupBy
from notebook_rt.sync.derive.join import HOWS, Join, Keying
from notebook_rt.sync.derive.operator import Derived, Operator
from notebook_rt.sync.derive.ordering import Ordering
from notebook_rt.sync.derive.rolling import Rolling
from notebook_rt.sync.derive.select import Expression as Computed
from notebook_rt.sync.derive.select import Select
from notebook_rt.sync.derive.sort import Sort
from notebook_rt.sync.derive.source import Source
from notebook_rt.sync.derive.top import Top
from notebook_rt.sync.derive.where import Where

HISTORIES = 30

TYPES = {
    "g": "text",
    "h": "int4",
    "on": "bool",
    "n": "int8",
    "v": "float8",
    "w": "numeric",
    "at": "timestamptz",
    "day": "date",
    "doc": "jsonb",
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "g": st.sampled_from(["a", "b", "c", "é", "B", ""]),
    "h": st.integers(0, 3),
    "on": st.booleans(),
    "n": st.integers(-3, 3) | st.sampled_from([2**40, -(2**40) + 1]),
    "v": st.sampled_from([0.0, 0.1, 0.2, 2.5, -7.25, 1e6, 1e-9, 3.0]),
    "w": st.sampled_from([0.1, 2.0, -1.5, 1e5]),
    "at": st.integers(0, 3).map(lambda n: dt.datetime(2024, 1, 1 + n, 12, tzinfo=dt.UTC)),
    "day": st.integers(0, 3).map(lambda n: dt.date(2024, 2, 1 + n)),
    "doc": st.sampled_from([{"a": 1}, [1, 2], "x"]),
}
KEYS: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(0, 11),
    "text": st.sampled_from([*"abcdefghij", "B", "é"]),
}

Frame = pd.DataFrame
Expression = Callable[..., Frame]


@dataclass
class Node:
    """A derived result and pandas' expression for it."""

    derived: Derived | None
    expression: Expression
    inputs: Sequence[Node]
    table: Table | None = None
    names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    said: str = ""
    overlay: Overlay | None = None
    reporter: Reporter = field(default_factory=Reporter)
    bound: Sequence[Source] = ()

    @property
    def backend(self) -> Any:
        return self.inputs[0].backend if self.table is None else self.table.dtype_backend

    def advance(self) -> None:
        for one in self.inputs:
            one.advance()
        if self.derived is None:
            return
        before, shown = rows_of(self.derived), self.derived.table
        inputs = [one.source() for one in self.inputs]
        if [one.table for one in inputs] != [one.table for one in self.bound]:
            self.bound = inputs
            self.derived.bind(inputs)
        try:
            changes = self.derived.advance(want_changes=True)
        except DerivationError as error:
            try:
                wanted = self.wanted()
            except ValueError:  # pandas refuses it, too
                raise error from None
            if {*wanted.index.names} & {*wanted.columns} or RIGHTLY.search(str(error)):
                raise RefusedError from None
            raise
        if shown is not self.derived.table:
            assert self.derived.table is not None
            self.reporter.show(self.derived.table, self.derived.view)
        told = self.reporter.report(changes)
        if before is not None:
            check_alert(before, told, rows_of(self.derived), self.said)

    def source(self) -> Source:
        if self.derived is None:
            assert self.table is not None
            return Source(self.table)
        assert self.derived.table is not None
        return Source(self.derived.table, self.derived.view)

    def wanted(self) -> Frame:
        return self._computed([one.wanted() for one in self.inputs])

    def _computed(self, inputs: Sequence[Frame]) -> Frame:
        try:
            return self.expression(*inputs)
        except pa.ArrowInvalid:  # pandas cannot join by an empty index of text that it made itself
            raise RefusedError from None

    def check(self) -> Frame:
        """Compare with pandas' result, which is returned."""
        wanted = self._computed([one.check() for one in self.inputs])
        if self.derived is not None:
            assert self.derived.view is not None
            same(self.derived.view.snapshot(), wanted, self.said)
        return wanted


RIGHTLY = re.compile(
    "holds -0.0, which Arrow|holds NaN( or -0.0)?, which the nullable dtypes tell apart"
    "|the label of another row|the keys are .*right .*; use map"
    "|its result is object, which is not kept up"  # truths of which a join left some out
)
"""What is refused for the values that the tables have, and rows with both keys of a join beside others."""


class RefusedError(Exception):
    """pandas gives no result, or one in which a column and a level of the index have one name."""


def rows_of(derived: Derived) -> dict[Key, dict[str, Any]] | None:
    table, view = derived.table, derived.view
    if table is None or view is None:
        return None
    found = {}
    for key in list(view.keys()):
        row = view.get(key)
        assert row is not None
        found[key] = row
    return found


def check_alert(
    before: dict[Key, Any], changes: Sequence[Any], after: dict[Key, Any] | None, said: str
) -> None:
    """The changes, played on what was there, give what is there; each is of a row that was so."""
    now = dict(before)
    for change in changes:
        old, new = (
            None
            if row is None
            else {n: v for n, v in row.items() if not n.startswith(HIDDEN_PREFIX)}
            for row in (change.old, change.new)
        )
        assert equal(now.get(change.key), old), said
        if new is None:
            del now[change.key]
        else:
            now[change.key] = new
    assert now.keys() == (after or {}).keys(), said
    assert all(equal(row, (after or {})[key]) for key, row in now.items()), said


def same(found: Frame, wanted: Frame, said: str) -> None:
    """Equal, dtypes and index included. A missing cell of an object column may be None or NaN: which of
    them pandas takes depends on its way there, and each means null.
    """
    pd.testing.assert_frame_equal(
        _one_null(found),
        _one_null(wanted),
        rtol=1e-9,
        atol=1e-7,
        check_freq=False,
        obj=said,
        check_column_type=False,
    )


def _one_null(frame: Frame) -> Frame:
    objects = {
        at: frame.iloc[:, at].where(frame.iloc[:, at].notna(), None)
        for at, kind in enumerate(frame.dtypes)
        if kind == "object"
    }
    frame = frame.copy(deep=False)
    for at, column in objects.items():
        frame.isetitem(at, column)
    return frame


# Operators, and pandas' words for them


def column(frame: Frame, name: str) -> pd.Series[Any]:
    if name in frame.index.names:
        level = frame.index.get_level_values(name)
        return pd.Series(level.array, frame.index)
    return frame[name]


def flat(frame: Frame) -> Frame:
    """With the levels of the index as columns, too, where pandas asks for columns."""
    levels = {name: column(frame, str(name)) for name in frame.index.names if name}
    return frame.assign(**{str(name): level for name, level in levels.items()})


def truths(mask: pd.Series[Any]) -> np.ndarray:
    return np.array([one is not pd.NA and one == 1 for one in mask.tolist()], bool)


def every(*masks: pd.Series[Any]) -> pd.Series[Any]:
    return pd.Series(np.logical_and.reduce([truths(mask) for mask in masks]))


def some(*masks: pd.Series[Any]) -> pd.Series[Any]:
    return pd.Series(np.logical_or.reduce([truths(mask) for mask in masks]))


FILTERS: dict[str, Callable[[Frame], Any]] = {
    "h=gte.1": lambda df: column(df, "h") >= 1,
    "h=lt.1": lambda df: column(df, "h") < 1,
    "h=not.eq.2": lambda df: every(column(df, "h") != 2, column(df, "h").notna()),
    "g=in.(a,é)": lambda df: column(df, "g").isin(["a", "é"]),
    "g=is.null": lambda df: column(df, "g").isna(),
    "n=lt.2,g=neq.b": lambda df: every(
        column(df, "n") < 2, column(df, "g") != "b", column(df, "g").notna()
    ),
    "on=is.true": lambda df: column(df, "on") == True,  # noqa: E712  # of a Series
    "v=gt.0.15": lambda df: column(df, "v") > 0.15,
    "at=lte.2024-01-02T12:00:00+00:00": lambda df: (
        column(df, "at") <= pd.Timestamp("2024-01-02 12:00", tz="UTC")
    ),
    "day=eq.2024-02-02": lambda df: pd.to_datetime(column(df, "day")) == pd.Timestamp(2024, 2, 2),
    "or=(h.eq.1,v.lt.0)": lambda df: some(column(df, "h") == 1, column(df, "v") < 0),
    "rows=gte.2": lambda df: column(df, "rows") >= 2,
}
USES = {text: parse(text).columns for text in FILTERS}


def where(draw: Any, of: Node, given: str | None = None) -> Node | None:
    known = [text for text, used in USES.items() if {*used} <= {*of.names, *of.keys}]
    if not known or not of.keys:  # an index that counts would have to be counted anew
        return None
    text = given or draw(st.sampled_from(known))

    def expression(df: Frame) -> Frame:
        return df[truths(FILTERS[text](df))]

    return made(Where(parse(text)), expression, [of], of.names, of.keys, f"where {text}")


COMPUTED: dict[str, tuple[str, set[str], Computed, Callable[[Frame], Any]]] = {
    "total": ("int8", {"h", "n"}, "h + n * 2", lambda df: df["h"] + df["n"] * 2),
    "share": ("float8", {"v"}, "-v / 4", lambda df: -df["v"] / 4),
    "small": (
        "bool",
        {"h", "v"},
        "h > 1 and not v >= 2.5",
        lambda df: (df["h"] > 1) & ~(df["v"] >= 2.5),
    ),
    "upper": ("text", {"g"}, lambda df: df["g"].str.upper(), lambda df: df["g"].str.upper()),
    "later": (
        "timestamptz",
        {"at"},
        lambda df: df["at"] + pd.Timedelta(days=1),
        lambda df: df["at"] + pd.Timedelta(days=1),
    ),
    "told": (
        "text",
        {"v"},
        lambda df: np.where(df["v"].fillna(0) > 1, "much", "little"),
        lambda df: np.where(df["v"].fillna(0) > 1, "much", "little"),
    ),
    "v": ("float8", {"v"}, "v * 2", lambda df: df["v"] * 2),
}
"""Computed columns: their type, what they read, the expression, and the same of a DataFrame."""


def select(draw: Any, of: Node) -> Node | None:
    known = [name for name, (_, used, *_) in COMPUTED.items() if used <= {*of.names}]
    known = [name for name in known if name not in of.keys]
    names = draw(st.lists(st.sampled_from(of.names), unique=True)) if of.names else []
    computed = draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
    if {"share", "small", "told"} & {*computed}:
        computed = [name for name in computed if name != "v"]  # they would read the new one
    shown = list(dict.fromkeys([*(names or of.names), *computed]))
    if not shown:
        return None

    def expression(df: Frame) -> Frame:
        return df.assign(**{name: COMPUTED[name][3] for name in computed})[shown]

    operator = Select(names, {name: COMPUTED[name][2] for name in computed})
    said = f"select {names} {computed}"
    return made(operator, expression, [of], shown, of.keys, said)


def ordering(draw: Any, of: Node) -> tuple[list[str], list[bool], Any] | None:
    names = [name for name in [*of.names, *of.keys] if not name.startswith("doc")]
    if not names:
        return None
    by = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    ascending = [draw(st.booleans()) for _ in by]
    return by, ascending, draw(st.sampled_from(["first", "last"]))


def sort(draw: Any, of: Node) -> Node | None:
    given = ordering(draw, of)
    if given is None:
        return None
    by, ascending, nulls = given

    def expression(df: Frame) -> Frame:
        return df.sort_values(by, ascending=ascending, na_position=nulls, kind="stable")

    operator = Sort(Ordering(by, ascending, nulls, "sort"))
    return made(operator, expression, [of], of.names, of.keys, f"sort {given}")


def top(draw: Any, of: Node) -> Node | None:
    given = ordering(draw, of)
    if given is None:
        return None
    by, ascending, nulls = given
    count = draw(st.integers(0, 5))

    def expression(df: Frame) -> Frame:
        ordered = df.sort_values(by, ascending=ascending, na_position=nulls, kind="stable")
        return ordered.head(count)

    operator = Top(count, Ordering(by, ascending, nulls, "top"))
    return made(operator, expression, [of], of.names, of.keys, f"top {count} {given}")


def distinct(draw: Any, of: Node) -> Node | None:
    names = [name for name in of.names if not name.startswith("doc")]
    if not names:
        return None
    by = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    if not by and len(names) < len(of.names):
        return None

    def expression(df: Frame) -> Frame:
        return df.drop_duplicates(by or None)

    return made(Distinct(by), expression, [of], of.names, of.keys, f"distinct {by}")


def concat(draw: Any, of: Node, nodes: Sequence[Node]) -> Node | None:
    if not of.keys:  # an index that counts would have to be counted anew
        return None
    if "h" in of.names and draw(st.booleans()):
        halves = [where(draw, of, text) for text in ("h=gte.1", "h=lt.1")]
        inputs = [half for half in halves if half is not None]
        keys = None
    else:
        inputs = [of, draw(st.sampled_from(nodes))]
        keys = draw(st.sampled_from([["x", "y"], [2, 1]]))
    first, second = inputs
    if first.backend != second.backend or first.keys != second.keys or "source" in first.keys:
        return None
    if first is not second:
        shared = [
            name for name in (*first.names, *first.keys) if name in (*second.names, *second.keys)
        ]
        if keys and any(of_kind(first, name) != of_kind(second, name) for name in shared):
            return None
        if keys and "total" in shared:  # a float where h may be missing
            return None
    names = tuple(dict.fromkeys((*first.names, *second.names)))
    if "source" in names or {*names} & {*first.keys}:
        return None

    def expression(a: Frame, b: Frame) -> Frame:
        return pd.concat([a, b], keys=keys, names=["source"] if keys else None)

    named = first.keys if keys is None else ("source", *first.keys)
    return made(Concat(keys, "source"), expression, inputs, names, named, f"concat {keys}")


NUMBER = ["count", "size", "sum", "mean", "min", "max", "first", "last", "std", "var", "median"]
ORDERED = ["count", "size", "min", "max", "first", "last", "nunique"]
FUNCTIONS = {
    **{
        name: [*NUMBER, "nunique", "any", "all"]
        for name in ("h", "on", "n", "v", "w", "total", "share", "small")
    },
    **dict.fromkeys(("g", "at", "day", "upper", "later", "told"), ORDERED),
    "doc": ["count", "size", "first", "last"],
}


def spread(values: pd.Series[Any]) -> float:
    return float(values.max()) - float(values.min()) if values.count() else 0.0


def groupby(draw: Any, of: Node) -> Node | None:
    names = [*of.names, *of.keys]
    by = draw(
        st.lists(
            st.sampled_from([n for n in names if not n.startswith("doc")]), min_size=1, max_size=2
        )
    )
    by = list(dict.fromkeys(by))
    used = [name for name in names if name in FUNCTIONS]
    if not used:
        return None
    columns = draw(st.lists(st.sampled_from(used), min_size=1, max_size=3))
    given = {"rows": (columns[0], "size")} if "rows" not in by else {}
    for at, name in enumerate(columns):
        given[f"{name}_{len(names)}_{at}"] = (name, draw(st.sampled_from(FUNCTIONS[name])))
    if "v" in names and "spread" not in by and draw(st.booleans()):
        given["spread"] = ("v", spread)
    aggregates = [Aggregate(name, *what) for name, what in given.items()]

    def expression(df: Frame) -> Frame:
        groups = flat(df).reset_index(drop=True).groupby(by)
        return groups.agg(**given)

    if {*by} & {*given}:
        return None
    said = f"groupby {by} {given}"
    return made(GroupBy(by, aggregates), expression, [of], tuple(given), tuple(by), said)


def made(
    operator: Operator,
    expression: Expression,
    inputs: Sequence[Node],
    names: Sequence[str],
    keys: Sequence[str],
    said: str,
) -> Node:
    of = inputs[0]
    while of.table is None:
        of = of.inputs[0]
    derived = Derived(operator, of.table.dtype_backend)
    inner = ", ".join(one.said for one in inputs)
    return Node(
        derived, expression, inputs, names=tuple(names), keys=tuple(keys), said=f"{said} <- {inner}"
    )


def of_kind(node: Node, name: str) -> str:
    """The PostgreSQL type of a column of a node that is not built yet, by its name; else where it is from."""
    if node.table is not None:
        return node.table.schema.types[name]
    if name in COMPUTED:
        return COMPUTED[name][0]
    if name in TYPES:
        return TYPES[name]
    having = [one for one in node.inputs if name in (*one.names, *one.keys)]
    return of_kind(having[0], name) if having else f"made by {node.said}"


JOINED = {"g", "h", "on", "n", "at", "day"}


def join(draw: Any, of: Node, nodes: Sequence[Node]) -> Node | None:
    """``DataFrame.join``: to the key of the other, by columns or by one's own key."""
    left, right = of, draw(st.sampled_from(nodes))
    if left.backend != right.backend or not right.keys:
        return None
    on: tuple[str, ...] | None
    if right.keys == ("id",):
        on = None
        if left.keys != ("id",) or len({of_kind(one, "id") for one in (left, right)}) > 1:
            return None
    else:
        on = right.keys
        if not {*on} <= {*left.names, *left.keys} or not {*on} <= JOINED or not left.keys:
            return None
    how = draw(st.sampled_from(HOWS))

    def expression(a: Frame, b: Frame) -> Frame:
        found = a.join(b, on=None if on is None else list(on), how=how, suffixes=("_x", "_y"))
        return with_index_of(a, found)

    return joined(Keying(on, None, "join"), how, left, right, expression)


def merge(draw: Any, of: Node, nodes: Sequence[Node]) -> Node | None:
    """``pandas.merge``: by columns or levels of both, or one's columns and the other's index."""
    left, right = of, draw(st.sampled_from(nodes))
    if left.backend != right.backend:
        return None
    how = draw(st.sampled_from(HOWS))
    mine, theirs = [*left.names, *left.keys], [*right.names, *right.keys]
    same = [n for n in mine if n in theirs and n in JOINED | {"id"}]
    alike = [n for n in same if of_kind(left, n) == of_kind(right, n)]
    what = draw(st.sampled_from(["on", "on", "different", "right_index", "left_index"]))
    if what == "on":
        if not alike:
            return None
        on = draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2, unique=True))
        keying = Keying(tuple(on), tuple(on))
    elif what == "different":
        pairs = [(a, b) for a in mine for b in theirs if a != b and {a, b} <= {"h", "n"}]
        if not pairs:
            return None
        a, b = draw(st.sampled_from(pairs))
        keying = Keying((a,), (b,))
    elif what == "right_index":
        if not left.keys or not right.keys or not {*right.keys} <= {*mine} & JOINED:
            return None
        keying = Keying(right.keys, None)
    else:
        if not left.keys or not right.keys or not {*left.keys} <= {*theirs} & JOINED:
            return None
        keying = Keying(None, left.keys)

    def expression(a: Frame, b: Frame) -> Frame:
        found = keying.merge(a, b, how, ("_x", "_y"))
        return with_index_of(b if keying.left is None else a, found)

    return joined(keying, how, left, right, expression)


def with_index_of(frame: Frame, found: Frame) -> Frame:
    """Where pandas takes the index of the other frame, since this one is empty, and a column is called the
    same: the index that it would have otherwise.
    """
    if not len(found) and {*found.index.names} & {*found.columns}:
        found.index = frame.index[:0]
    return found


def joined(
    keying: Keying,
    how: Any,
    left: Node,
    right: Node,
    expression: Expression,
    suffixes: tuple[str, str] = ("_x", "_y"),
) -> Node | None:
    """The node, with the names that pandas gives it; None where it has one twice."""
    empty = [
        Frame({name: [] for name in [*one.keys, *one.names]}).set_index([*one.keys])
        if one.keys
        else Frame({name: [] for name in one.names})
        for one in (left, right)
    ]
    try:
        shape = expression(*empty)
    except ValueError:
        return None
    names = [*shape.columns]
    index = [n for n in shape.index.names if n is not None]
    if len({*names, *index}) < len(names) + len(index) or "date" in names:
        return None
    operator = Join(keying, how, suffixes)
    return made(operator, expression, [left, right], names, index, f"{keying} {how}")


def both_keys(draw: Any, left: Node, of: Node) -> Node:
    """A join that keeps rows of the other without a partner: its rows have both keys, which are hidden."""
    aggregates = [Aggregate("r", "h", "count"), Aggregate("q", "h", "max")]

    def grouped(df: Frame) -> Frame:
        return df.groupby("g").agg(r=("h", "count"), q=("h", "max"))

    right = made(GroupBy(("g",), aggregates), grouped, [of], ["r", "q"], ["g"], "groupby g")
    how = draw(st.sampled_from(["right", "outer"]))

    def expression(a: Frame, b: Frame) -> Frame:
        return with_index_of(a, a.join(b, on="g", how=how))

    node = joined(Keying(("g",), None, "join"), how, left, right, expression)
    assert node is not None
    return node


OPERATORS = [where, groupby, select, sort, top, distinct]
COUNTED = [groupby]
"""Those that take a table whose index counts."""
OF_SEVERAL = [join, merge, concat]


# Tables and their histories


def leaf(draw: Any, backend: Any) -> Node:
    key = draw(st.sampled_from(list(KEYS)))
    types = draw(st.permutations(list(TYPES)))
    names = ["g", "h", *[name for name in types if name not in ("g", "h")][:5]]
    columns = [Column("id", key), *(Column(name, TYPES[name]) for name in names)]
    table = JournalledTable(Schema(tuple(columns), ("id",)), backend)

    def expression() -> Frame:
        return table.snapshot()

    said = f"{key} {names} {backend}"
    overlaid = Overlay(table, table.schema)
    return Node(None, expression, (), table, tuple(names), ("id",), said, overlaid)


def row(draw: Any, names: Sequence[str], nulls: bool, nan: bool) -> dict[str, Any]:
    found = {}
    for name in names:
        values = VALUES[name]
        if name in ("v", "w") and nan:
            values |= st.sampled_from([-0.0, float("nan")] if name == "w" else [-0.0])
        found[name] = draw(st.none() | values if nulls else values)
    return found


def op(draw: Any, node: Node, nulls: bool) -> list[Op]:
    table = node.table
    assert table is not None
    schema = table.schema
    key = draw(KEYS[schema.types["id"]])
    what = draw(st.sampled_from(["insert", "insert", "update", "update", "delete", "again"]))
    whole = {"id": key, **row(draw, node.names, nulls, table.dtype_backend is None)}
    if what == "insert":
        return [Upsert(key, whole)]
    if what == "update":
        some = draw(st.lists(st.sampled_from(node.names), min_size=1, max_size=2))
        return [Upsert(key, {name: whole[name] for name in some})]
    if what == "delete":
        return [Delete(key)]
    return [Delete(key), Upsert(key, whole)]


def edit(draw: Any, node: Node, nulls: bool) -> None:
    """A local edit is laid over the table, written, or refused."""
    table, overlaid = node.table, node.overlay
    assert table is not None
    assert overlaid is not None
    known = overlaid.edits
    what = draw(st.sampled_from(["put", "put", "sent", "written", "refused"]))
    if what != "put" and known:
        one = draw(st.sampled_from(known))
        if what == "sent":
            overlaid.sent([one.id])
        elif what == "refused":
            overlaid.discard([one.id])
        else:
            written = {**(overlaid.last(one.key) or {}), **one.values, "id": overlaid.new_key(one)}
            overlaid.settle(one.id, None if one.kind == "delete" else written, now=0.0)
        return
    key = draw(KEYS[table.schema.types["id"]])
    seen, values = table.get(key), row(draw, node.names, nulls, table.dtype_backend is None)
    name = f"e{draw(st.integers(0, 10**9))}"
    if seen is None:
        overlaid.put([Edit(name, "insert", key, {"id": key, **values}, {}, 0.0)])
    elif draw(st.integers(0, 3)) == 0:
        overlaid.put([Edit(name, "delete", key, {}, seen, 0.0)])
    else:
        some = draw(st.lists(st.sampled_from(node.names), min_size=1, max_size=2))
        given = {column: values[column] for column in some}
        overlaid.put(
            [Edit(name, "update", key, given, {column: seen[column] for column in some}, 0.0)]
        )


def batch(draw: Any, node: Node, nulls: bool) -> None:
    """Something happens to a table."""
    table, overlaid = node.table, node.overlay
    assert table is not None
    assert overlaid is not None
    what = draw(st.integers(0, 11))
    if what == 0:  # it is read anew
        load = overlaid.load()
        keys = draw(st.lists(KEYS[table.schema.types["id"]], max_size=8, unique=True))
        types = table.schema.types
        page = []
        for key in keys:
            whole = {"id": key, **row(draw, node.names, nulls, table.dtype_backend is None)}
            page.append({name: to_json(types[name], value) for name, value in whole.items()})
        load.extend(page)
        load.commit()
    elif what <= 3:
        edit(draw, node, nulls)
    else:
        rows_change(draw, node, nulls)


def rows_change(draw: Any, node: Node, nulls: bool) -> None:
    """Some rows of a table change, come or go."""
    assert node.overlay is not None
    ops = [one for _ in range(draw(st.integers(1, 5))) for one in op(draw, node, nulls)]
    node.overlay.apply(ops, want_changes=draw(st.booleans()))


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.timeout(300)
@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_derived_is_pandas_after_every_batch(data: st.DataObject) -> None:
    play(data)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_derived_is_pandas_after_every_batch_of_many(data: st.DataObject) -> None:
    play(data)


@pytest.mark.timeout(300)
@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_a_group_by_is_pandas_after_every_batch_of_a_long_history(data: st.DataObject) -> None:
    draw = data.draw
    backend = draw(st.sampled_from([None, None, "numpy_nullable", "pyarrow"]))
    nulls = draw(st.booleans())
    table = leaf(draw, backend)
    groups = groupby(draw, table)
    if groups is None:
        return
    for _ in range(3):
        rows_change(draw, table, nulls)
    with suppress(RefusedError):
        groups.advance()
        groups.check()
        for _ in range(draw(st.integers(4, 12))):
            rows_change(draw, table, nulls)
            groups.advance()
            groups.check()


def play(data: st.DataObject) -> None:
    """A random tree of operators, and a random history of its tables."""
    draw = data.draw
    with pytest.MonkeyPatch.context() as patch:
        if draw(st.booleans()):  # the limits that a table of ten rows never meets
            patch.setattr(contents, "_SPARSE", 2)
            patch.setattr(touched_module, "_LEAST", draw(st.sampled_from([3, 256])))
            patch.setattr(join_module, "_FEW", draw(st.sampled_from([1, 4])))
            patch.setattr(sort_module, "_BLOCK", 2)
            patch.setattr(sort_module, "_GAP", draw(st.sampled_from([2, 16])))
            patch.setattr(top_module, "_RESERVE", draw(st.sampled_from([0, 2])))
        backend = draw(st.sampled_from([None, None, "numpy_nullable", "pyarrow"]))
        nulls = draw(st.booleans())
        leaves = [leaf(draw, backend) for _ in range(2)]
        nodes = list(leaves)
        if draw(st.integers(0, 5)) == 0:
            nodes.append(both_keys(draw, *leaves))
        for _ in range(draw(st.integers(1, 4))):
            of = draw(st.sampled_from(nodes[-3:]))
            if draw(st.integers(0, 3)):
                operator = draw(st.sampled_from(OPERATORS if of.keys else COUNTED))
                found = operator(draw, of)
            else:
                found = draw(st.sampled_from(OF_SEVERAL))(draw, of, nodes)
            if found is not None:
                nodes.append(found)
        for one in leaves:
            batch(draw, one, nulls)
        root = nodes[-1]
        with suppress(RefusedError):
            root.advance()
            root.check()
            for _ in range(draw(st.integers(1, 6))):
                batch(draw, draw(st.sampled_from(leaves)), nulls)
                root.advance()
                root.check()


def test_a_join_is_true_when_its_table_renumbers_its_rows_in_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contents, "_SPARSE", 2)
    trades = Table(Schema((Column("id", "int8"), Column("g", "text")), ("id",)))
    symbols = Table(Schema((Column("g", "text"), Column("m", "int8")), ("g",)))
    trades.apply([Upsert(key, {"id": key, "g": "abcd"[key % 4]}) for key in range(12)])
    symbols.apply([Upsert(g, {"g": g, "m": ord(g)}) for g in "abcd"])
    join = Derived(Join(Keying(("g",), None, "join"), "left", ("", "")), None)
    join.bind([Source(trades), Source(symbols)])
    join.advance(want_changes=True)
    trades.apply([Delete(key) for key in range(7)])
    symbols.apply([Upsert("d", {"m": 0})])
    join.advance(want_changes=True)
    assert join.view is not None
    same(join.view.snapshot(), trades.snapshot().join(symbols.snapshot(), on="g"), "join")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("pg_type", ["timestamptz", "text"])
@pytest.mark.parametrize("mine", [[], [0], [0, 1]])
@pytest.mark.parametrize("theirs", [[], [0], [2]])
def test_the_index_of_a_merge_is_named_as_pandas_names_it_where_there_is_no_row(
    how: Any, pg_type: str, mine: list[int], theirs: list[int]
) -> None:
    values = (
        [dt.datetime(2024, 1, 1 + n, 12, tzinfo=dt.UTC) for n in range(3)]
        if pg_type == "timestamptz"
        else ["a", "b", "c"]
    )
    left = Table(Schema((Column("id", "int8"), Column("k", pg_type)), ("id",)))
    left.apply([Upsert(n, {"id": n, "k": values[n]}) for n in mine])
    right = Table(Schema((Column("k", pg_type), Column("m", "int8")), ("k",)))
    right.apply([Upsert(values[n], {"k": values[n], "m": n}) for n in theirs])
    keying = Keying(("k",), None)
    merge = Derived(Join(keying, how, ("_x", "_y")), None)
    merge.bind([Source(left), Source(right)])
    a, b = left.snapshot(), right.snapshot()
    wanted = with_index_of(a, keying.merge(a, b, how, ("_x", "_y")))
    if {*wanted.index.names} & {*wanted.columns}:
        with pytest.raises(DerivationError, match="k would be in the index and a column"):
            merge.advance(want_changes=True)
        return
    merge.advance(want_changes=True)
    assert merge.view is not None
    same(merge.view.snapshot(), wanted, how)


def test_a_name_of_the_index_and_of_a_column_is_refused_with_what_helps() -> None:
    left = Table(Schema((Column("id", "int8"), Column("g", "text")), ("id",)))
    right = Table(Schema((Column("g", "text"), Column("id", "int8"), Column("m", "int8")), ("g",)))
    left.apply([Upsert(1, {"id": 1, "g": "a"})])
    right.apply([Upsert("a", {"g": "a", "id": 7, "m": 8})])
    join = Derived(Join(Keying(("g",), None, "join"), "left", ("_l", "_r")), None)
    join.bind([Source(left), Source(right)])
    with pytest.raises(DerivationError, match=r"such as .select\(..., my_id='id'\), or use map"):
        join.advance(want_changes=True)
    renamed = Derived(Select(("m",), {"my_id": "id"}), None)
    renamed.bind([Source(right)])
    renamed.advance(want_changes=True)
    assert renamed.table is not None
    join = Derived(Join(Keying(("g",), None, "join"), "left", ("_l", "_r")), None)
    join.bind([Source(left), Source(renamed.table, renamed.view)])
    join.advance(want_changes=True)
    assert join.view is not None
    assert renamed.view is not None
    same(join.view.snapshot(), left.snapshot().join(renamed.view.snapshot(), on="g"), "join")


def test_a_running_sum_of_integers_with_a_null_is_refused_as_one() -> None:
    """pandas sums up an array with a mask in place, which a table's does not allow."""
    table = Table(Schema((Column("id", "int8"), Column("v", "int8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "v": key or None}) for key in range(4)])
    selected = Derived(Select((), {"sum": lambda df: df["v"].cumsum()}), None)
    selected.bind([Source(table)])
    with pytest.raises(DerivationError, match="not computed row by row; use map"):
        selected.advance(want_changes=True)


def test_frames_are_joined_by_integers_that_another_join_made_floats() -> None:
    def table(name: str, rows: dict[int, int]) -> Table:
        made = Table(Schema((Column("id", "int8"), Column(name, "int8")), ("id",)))
        made.apply([Upsert(key, {"id": key, name: value}) for key, value in rows.items()])
        return made

    first, second, third = table("a", {1: 1, 2: 2}), table("n", {1: 7}), table("n", {5: 7, 6: 8})
    inner = Derived(Join(Keying(None, None, "join"), "left", ("", "")), None)
    inner.bind([Source(first), Source(second)])
    inner.advance(want_changes=False)
    assert inner.table is not None
    outer = Derived(Join(Keying(("n",), ("n",)), "inner", ("", "")), None)
    outer.bind([Source(inner.table, inner.view), Source(third)])
    outer.advance(want_changes=False)
    wanted = first.snapshot().join(second.snapshot()).merge(third.snapshot(), on="n")
    assert wanted["n"].dtype == "float64"
    assert outer.view is not None
    same(outer.view.snapshot(), wanted, "merge")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_frames_of_no_row_are_joined_by_levels_of_text(how: Any, backend: Any) -> None:
    """pandas' merge fails where it has made an index of several levels of no text at all."""
    table = Table(
        Schema((Column("id", "int8"), Column("n", "int8"), Column("g", "text")), ("id",)), backend
    )

    def groups(name: str) -> Derived:
        made = Derived(GroupBy(("n", "g"), [Aggregate(name, "id", "max")]), backend)
        made.bind([Source(table)])
        made.advance(want_changes=True)
        return made

    left, right = groups("a"), groups("b")
    join = Derived(Join(Keying(("n", "g"), None, "join"), how, ("", "")), backend)
    join.bind([Source(one.table, one.view) for one in (left, right) if one.table is not None])
    join.advance(want_changes=True)
    assert join.view is not None
    assert len(join.view.snapshot()) == 0
    table.apply([Upsert(1, {"id": 1, "n": 2, "g": "a"}), Upsert(2, {"id": 2, "n": 2, "g": "b"})])
    for one in (left, right, join):
        one.advance(want_changes=True)
    both = [
        table.snapshot().reset_index().groupby(["n", "g"]).agg(**{n: ("id", "max")}) for n in "ab"
    ]
    same(join.view.snapshot(), both[0].join(both[1], on=["n", "g"], how=how), how)


def test_a_row_without_a_partner_is_refused_where_pandas_gives_it_the_label_of_another() -> None:
    """pandas takes the last label of the left where the right one's key has several columns."""
    left = Table(Schema((Column("id", "int8"), Column("g", "text"), Column("h", "int4")), ("id",)))
    right = Table(
        Schema((Column("g", "text"), Column("h", "int4"), Column("m", "int8")), ("g", "h"))
    )
    left.apply([Upsert(1, {"id": 1, "g": "a", "h": 1})])
    right.apply([Upsert(("a", 1), {"g": "a", "h": 1, "m": 0})])
    join = Derived(Join(Keying(("g", "h"), None, "join"), "right", ("", "")), None)
    join.bind([Source(left), Source(right)])
    join.advance(want_changes=True)
    assert join.view is not None
    wanted = left.snapshot().join(right.snapshot(), on=["g", "h"], how="right")
    same(join.view.snapshot(), wanted, "join")
    right.apply([Upsert(("b", 1), {"g": "b", "h": 1, "m": 0})])
    with pytest.raises(DerivationError, match="the label of another row"):
        join.advance(want_changes=True)


def test_a_function_that_keeps_its_frame_cannot_write_into_the_result() -> None:
    """It is given the DataFrame in which the columns computed before it are."""
    table = Table(Schema((Column("id", "int8"), Column("v", "float8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "v": key / 2}) for key in range(4)])
    kept: list[Frame] = []

    def keeps(df: Frame) -> pd.Series[Any]:
        kept.append(df)
        return df["v"]

    selected = Derived(Select((), {"twice": "v * 2", "kept": keeps}), None)
    selected.bind([Source(table)])
    selected.advance(want_changes=False)
    assert selected.view is not None
    wanted = table.snapshot().assign(twice=lambda df: df["v"] * 2, kept=lambda df: df["v"])
    for frame in kept:
        frame.loc[:, ["v", "twice"]] = -1.0
    same(selected.view.snapshot(), wanted, "select")
    table.apply([Upsert(1, {"v": 7.0})])
    selected.advance(want_changes=False)
    same(selected.view.snapshot().loc[[0, 2, 3]], wanted.loc[[0, 2, 3]], "select")


@pytest.mark.parametrize("text", ["v", "+v", "v * 2", "v > 1", "-v", "1 + 2"])
def test_what_a_user_writes_to_a_frame_stays_out_of_what_a_text_computes_of_it(text: str) -> None:
    """A filter's column that is nullable still, of another dtype than its table's, is the user's to write."""
    table = Table(Schema((Column("id", "int8"), Column("v", "int8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "v": key or None}) for key in range(4)])
    filtered = Derived(Where(parse("v=gte.1")), None)
    filtered.bind([Source(table)])
    filtered.advance(want_changes=False)
    assert filtered.table is not None
    assert filtered.view is not None
    selected = Derived(Select(("v",), {"x": text}), None)
    selected.bind([Source(filtered.table, filtered.view)])
    selected.advance(want_changes=False)
    assert selected.view is not None
    shown = filtered.view.snapshot()
    assert shown["v"].dtype == "Int64"
    wanted = shown.assign(x=parsed(text)).copy(deep=True)
    shown.loc[:, "v"] = -5
    mine = selected.view.snapshot()
    same(mine, wanted, text)
    mine.loc[:, "x"] = mine["x"].iloc[0]
    table.apply([Upsert(7, {"id": 7, "v": 7})])
    filtered.advance(want_changes=False)
    selected.advance(want_changes=False)
    same(selected.view.snapshot().iloc[:3], wanted, text)


@given(
    st.lists(
        st.text(min_size=1, max_size=8).filter(lambda name: "`" not in name),
        min_size=3,
        max_size=3,
        unique=True,
    )
)
def test_any_name_stands_in_backticks(names: list[str]) -> None:
    one, other, third = names
    df = pd.DataFrame({one: [1, 2], other: [3, 4], third: ["a`b`", "c"]})
    formula = parsed(f"`{one}` + (`{other}` > 3) * 2 > 2 and `{third}` == 'a`b`'")
    assert formula.columns == {*names}
    assert formula(df).tolist() == [False, False]
    assert parsed(f"`{one}` * 10 + `{other}`")(df).tolist() == [13, 24]
    assert parsed(f"`{third}` == 'a`b`'")(df).tolist() == [True, False]


def test_a_text_that_divides_integers_by_zero_somewhere_is_refused() -> None:
    """Of them all pandas makes floats, and integers of the rows without a 0."""
    table = Table(Schema((Column("id", "int8"), Column("a", "int8"), Column("b", "int8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "a": 7, "b": key - 2}) for key in range(6)])
    assert table.snapshot().eval("a // b").dtype == "float64"
    selected = Derived(Select((), {"x": "a // b"}), None)
    selected.bind([Source(table)])
    with pytest.raises(DerivationError, match="it depends on the values"):
        selected.advance(want_changes=False)


@pytest.mark.parametrize(
    ("pg_type", "values"),
    [
        ("timestamptz", [dt.datetime(2026, 1, day, tzinfo=dt.UTC) for day in (1, 2)]),
        ("timestamp", [dt.datetime(2026, 1, day) for day in (1, 2)]),
        ("date", [dt.date(2026, 1, day) for day in (1, 2)]),
    ],
)
def test_moments_beside_an_infinite_one_that_is_left_out_are_those_of_the_table(
    pg_type: str, values: list[Any]
) -> None:
    columns = (Column("id", "int8"), Column("n", "int8"), Column("at", pg_type))
    table = Table(Schema(columns, ("id",)))
    table.apply([Upsert(key, {"id": key, "n": key, "at": at}) for key, at in enumerate(values)])
    top = Derived(Top(2, Ordering("n", True, "last", "top")), None)
    top.bind([Source(table)])
    top.advance(want_changes=False)
    table.apply([Upsert(9, {"id": 9, "n": 9, "at": "infinity"})])
    top.advance(want_changes=False)
    assert top.view is not None
    shown = top.view.snapshot()
    pd.testing.assert_frame_equal(shown, table.snapshot().iloc[:2])
    assert shown["at"].tolist() == values


def test_the_ranks_of_a_table_are_made_once_and_true_as_it_grows_and_shrinks() -> None:
    table = Table(Schema((Column("id", "int8"), Column("v", "int8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "v": key}) for key in range(5)])
    ranks = table.ranks()
    assert np.shares_memory(ranks, table.ranks())
    with pytest.raises(ValueError, match="read-only"):
        ranks[0] = 3
    table.apply([Upsert(5, {"id": 5, "v": 5})])
    assert table.ranks().tolist() == [0, 1, 2, 3, 4, 5]
    table.apply([Delete(2)])
    assert table.ranks().tolist() == [0, 1, 3, 4, 5]
    assert ranks.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("operator", "least"),
    [
        (Sort(Ordering("n", True, "last", "sort")), 3 * 8 * 1000),  # n, the key, the ranks
        (Distinct(("n",)), 4 * 1000),
        (GroupBy(("n",), [Aggregate("of", "id", "count")]), 4 * 1000),
        (Top(10, Ordering("n", True, "last", "top")), 8 * 10),
    ],
)
def test_the_memory_of_what_an_operator_keeps_is_said(operator: Operator, least: int) -> None:
    table = Table(Schema((Column("id", "int8"), Column("n", "int8")), ("id",)))
    table.apply([Upsert(key, {"id": key, "n": key % 7}) for key in range(1000)])
    derived = Derived(operator, None)
    derived.bind([Source(table)])
    derived.advance(want_changes=False)
    assert derived.table is not None
    assert operator.nbytes >= least
    assert derived.nbytes == operator.nbytes + derived.table.nbytes


@pytest.mark.parametrize("how", ["right", "outer"])
@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_rows_of_a_join_with_both_keys_are_selected_made_distinct_and_put_together(
    how: Any, backend: Any
) -> None:
    left = Table(
        Schema((Column("id", "int8"), Column("g", "text"), Column("n", "int8")), ("id",)), backend
    )
    right = Table(Schema((Column("g", "text"), Column("m", "int8")), ("g",)), backend)
    left.apply([Upsert(key, {"id": key, "g": g, "n": 1}) for key, g in enumerate("aab")])
    right.apply([Upsert(g, {"g": g, "m": 1}) for g in "abc"])

    def of(operator: Operator, *inputs: Derived) -> Derived:
        made = Derived(operator, backend)
        made.bind([Source(one.table, one.view) for one in inputs if one.table is not None])
        return made

    join = Derived(Join(Keying(("g",), None, "join"), how, ("", "")), backend)
    join.bind([Source(left), Source(right)])
    join.advance(want_changes=True)
    twice = {"double": lambda df: df["m"] * 2}
    select, distinct = of(Select(("g",), twice), join), of(Distinct(()), join)
    concat = of(Concat(("x", "y"), "source"), join, join)
    for ops in ([], [Upsert("d", {"g": "d", "m": 2})], [Delete("b"), Upsert("c", {"m": 7})]):
        right.apply(ops)
        for one in (join, select, distinct, concat):
            one.advance(want_changes=True)
        df = left.snapshot().join(right.snapshot(), on="g", how=how)
        wanted = (
            (select, df.assign(**twice)[["g", "double"]]),
            (distinct, df.drop_duplicates()),
            (concat, pd.concat([df, df], keys=["x", "y"], names=["source"])),
        )
        for one, frame in wanted:
            assert one.view is not None
            same(one.view.snapshot(), frame, how)


def test_a_row_with_both_keys_of_a_join_comes_into_the_top_from_beyond_it() -> None:
    left = Table(Schema((Column("id", "int8"), Column("g", "text")), ("id",)))
    right = Table(Schema((Column("g", "text"), Column("m", "int8")), ("g",)))
    left.apply([Upsert(key, {"id": key, "g": g}) for key, g in enumerate("aabc")])
    right.apply([Upsert(g, {"g": g, "m": at}) for at, g in enumerate("abcd")])
    join = Derived(Join(Keying(("g",), None, "join"), "right", ("", "")), None)
    join.bind([Source(left), Source(right)])
    join.advance(want_changes=True)
    assert join.table is not None
    top = Derived(Top(2, Ordering("m", False, "last", "top")), None)
    top.bind([Source(join.table, join.view)])
    top.advance(want_changes=True)
    right.apply([Upsert("d", {"m": -1})])
    join.advance(want_changes=True)
    top.advance(want_changes=True)
    df = left.snapshot().join(right.snapshot(), on="g", how="right")
    assert top.view is not None
    wanted = df.sort_values("m", ascending=False, kind="stable").head(2)
    same(top.view.snapshot(), wanted, "top")


def test_groups_of_integers_that_a_join_made_floats_are_joined_again() -> None:
    left = Table(Schema((Column("id", "int8"), Column("g", "text")), ("id",)))
    right = Table(Schema((Column("g", "text"), Column("m", "int8")), ("g",)))
    left.apply([Upsert(key, {"id": key, "g": g}) for key, g in enumerate("aab")])
    right.apply([Upsert(g, {"g": g, "m": 1}) for g in "abc"])
    join = Derived(Join(Keying(("g",), None, "join"), "right", ("", "")), None)
    join.bind([Source(left), Source(right)])
    join.advance(want_changes=True)
    assert join.table is not None
    groups = Derived(GroupBy(("id",), [Aggregate("rows", "m", "count")]), None)
    groups.bind([Source(join.table, join.view)])
    groups.advance(want_changes=True)
    assert groups.table is not None
    again = Derived(Join(Keying(None, None, "join"), "inner", ("", "")), None)
    again.bind([Source(left), Source(groups.table, groups.view)])
    again.advance(want_changes=True)
    assert again.view is not None
    df = left.snapshot().join(right.snapshot(), on="g", how="right")
    assert df.index.dtype == "float64"
    wanted = left.snapshot().join(df.groupby("id").agg(rows=("m", "count")), how="inner")
    same(again.view.snapshot(), wanted, "join")


@pytest.mark.parametrize("how", ["left", "inner", "right", "outer"])
@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize(
    ("pg_type", "value"),
    [
        ("bool", True),
        ("int4", 7),
        ("text", "x"),
        ("date", dt.date(2024, 2, 1)),
        ("timestamptz", dt.datetime(2024, 2, 1, tzinfo=dt.UTC)),
    ],
)
def test_a_column_that_a_join_has_filled_with_nulls_is_joined_by(
    pg_type: str, value: Any, nulls: bool, how: Any
) -> None:
    """Of truths and nulls the dtype is object on one side, and boolean or bool on the other."""
    left = Table(
        Schema((Column("id", "int8"), Column("g", "text"), Column("on", pg_type)), ("id",))
    )
    groups = Table(Schema((Column("g", "text"), Column("m", "int8")), ("g",)))
    other = Table(Schema((Column("id", "int8"), Column("on", pg_type)), ("id",)))
    left.apply([Upsert(1, {"id": 1, "g": "a", "on": value})])
    groups.apply([Upsert(g, {"g": g, "m": 1}) for g in "ab"])
    other.apply([Upsert(1, {"id": 1, "on": value}), Upsert(2, {"id": 2, "on": None})][: 1 + nulls])
    join = Derived(Join(Keying(("g",), None, "join"), "right", ("", "")), None)
    join.bind([Source(left), Source(groups)])
    join.advance(want_changes=True)
    assert join.table is not None
    merge = Derived(Join(Keying(("on",), ("on",), "merge"), how, ("_x", "_y")), None)
    merge.bind([Source(join.table, join.view), Source(other)])
    for ops in ([], [Upsert("c", {"g": "c", "m": 2})], [Delete("a")]):
        groups.apply(ops)
        join.advance(want_changes=True)
        merge.advance(want_changes=True)
        df = left.snapshot().join(groups.snapshot(), on="g", how="right")
        assert merge.view is not None
        same(merge.view.snapshot(), df.merge(other.snapshot(), on="on", how=how), how)


# Windows: their tables are in the order of time, or they are refused

ROLLED = ["count", "sum", "mean", "min", "max", "std", "var", "median", "first", "last", "nunique"]


@pytest.mark.timeout(300)
@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_rolling_is_pandas_after_every_batch(data: st.DataObject) -> None:
    roll(data)


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@settings(max_examples=5_000, deadline=None, suppress_health_check=QUIET)
@given(st.data())
def test_rolling_is_pandas_after_every_batch_of_many(data: st.DataObject) -> None:
    roll(data)


def rolling(draw: Any, of: Node) -> Node:
    by = draw(st.sampled_from([("g",), ("h",), ("on", "g")]))
    numbers = [name for name in ("n", "v", "on") if name not in by]
    what = st.tuples(st.sampled_from(numbers), st.sampled_from(ROLLED))
    wanted = draw(st.lists(what, min_size=1, max_size=3, unique=True))
    given = {f"r{at}": one for at, one in enumerate(wanted)}
    window = draw(st.sampled_from(["1min", "90s", "5min", "1h"]))

    def expression(df: Frame) -> Frame:
        if not df[list(by)].notna().all(axis=1).any():
            df = df[:0]  # pandas fails where there are rows and no group
        return df.groupby(list(by)).rolling(window, on="at").agg(**given)

    node = made(
        Rolling(window, "at", by, given), expression, [of], [*given], [*by, "at"], "rolling"
    )
    node.said += f" {window} {by} {given}"
    return node


def roll(data: st.DataObject) -> None:
    """Windows of a table whose times rise, mostly; what is derived of them in turn."""
    draw = data.draw
    backend = draw(st.sampled_from([None, None, "numpy_nullable", "pyarrow"]))
    names = ("g", "h", "on", "n", "v", "at")
    columns = [Column("id", "int8"), *(Column(name, TYPES[name]) for name in names)]
    table = JournalledTable(Schema(tuple(columns), ("id",)), backend)
    leaf = Node(None, table.snapshot, (), table, names, ("id",), f"{backend}")
    root = rolling(draw, leaf)
    if draw(st.booleans()):
        root = draw(st.sampled_from([groupby, *OPERATORS]))(draw, root) or root
    nulls = draw(st.booleans())
    now, number = dt.datetime(2024, 1, 1, tzinfo=dt.UTC), 0
    for _ in range(draw(st.integers(1, 6))):
        ops: list[Op] = []
        for _ in range(draw(st.integers(1, 6))):
            values = row(draw, names[:-1], nulls, nan=False)
            what = draw(st.sampled_from(["insert", "insert", "insert", "update", "delete", "late"]))
            if what == "insert" or not number:
                now += dt.timedelta(seconds=draw(st.sampled_from([0, 30, 60, 61, 300])))
                number += 1
                ops.append(Upsert(number, {"id": number, **values, "at": now}))
                continue
            key = draw(st.integers(1, number))
            if Delete(key) in ops:  # an update would make a row without a time
                continue
            if what == "delete":
                ops.append(Delete(key))
            elif what == "update" and table.get(key) is not None:
                some = draw(st.lists(st.sampled_from(names[:-1]), min_size=1, max_size=2))
                ops.append(Upsert(key, {name: values[name] for name in some}))
            elif draw(st.integers(0, 9)) == 0 and table.get(key) is not None:
                ops.append(Upsert(key, {"at": now - dt.timedelta(days=draw(st.integers(0, 1)))}))
        table.apply(ops)
        df = table.snapshot()
        keyed = df[df[list(root_by(root))].notna().all(axis=1)]
        falls = [
            not group.is_monotonic_increasing
            for _, group in keyed.groupby(list(root_by(root)))["at"]
        ]
        if any(falls):
            with pytest.raises(DerivationError, match="order of"):
                root.advance()
            return
        root.advance()
        root.check()


def root_by(node: Node) -> tuple[str, ...]:
    """What the windows at the bottom of a tree are grouped by."""
    while node.inputs[0].inputs:
        node = node.inputs[0]
    assert node.derived is not None
    assert isinstance(node.derived.operator, Rolling)
    return node.derived.operator.by
