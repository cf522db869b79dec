"""The table equals a dict of dicts after any operations, whatever users do to snapshots."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Delete, Key, Op, Upsert, WireRow
from notebook_rt.model.types import Column, Schema, equal, to_json
from notebook_rt.store import columns, contents, dense, keys
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from tests.store.model import Model

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
MOMENTS = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(2**63), 2**63 - 1) | st.just(2**70),
    "float8": FLOATS,
    "bool": st.booleans(),
    "text": TEXTS | st.just("half a pair: \ud800"),
    "mood": st.sampled_from(["sad", "ok", "happy"]) | st.just(5),
    "timestamptz": MOMENTS.map(lambda m: m.replace(tzinfo=dt.UTC)) | st.just("infinity"),
    "timestamp": MOMENTS | st.just("-infinity"),
    "date": st.dates() | st.just("0044-03-15 BC"),
    "time": st.times() | st.just("24:00:00"),
    "bytea": st.binary(max_size=3),
    "jsonb": JSON,
    "_int4": st.lists(st.integers(-5, 5) | st.none(), max_size=3),
    "numeric": st.decimals(-1000, 1000, places=2) | st.just(Decimal("NaN")),
}
TYPES = list(VALUES)
KEYS: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("int8",): st.integers(0, 12),
    ("text",): st.sampled_from("abcdefghij"),
    ("uuid",): st.uuids(version=4).map(str) | st.sampled_from(["u1", "u2"]),
    ("timestamptz",): st.integers(0, 9).map(lambda d: dt.datetime(2024, 1, d + 1, tzinfo=dt.UTC)),
    ("int8", "text"): st.tuples(st.integers(0, 3), st.sampled_from("abc")),
}


SMALL = [
    (columns, "CHUNK", 3),
    (columns, "_MANY", 0.4),
    (dense, "_ROWS_A_HOLE", 4),
    (keys, "_RECENT", 3),
    (keys, "_FEW", 1),
    (contents, "_BESIDE", 4),
    (contents, "_SPARSE", 2),
    (contents, "_PENDING", 3),
]


def value_of(pg_type: str, numeric: str) -> st.SearchStrategy[Any]:
    values = VALUES[pg_type]
    if pg_type == "numeric" and numeric == "float":
        values = FLOATS
    return st.none() | values


class TableLaws(RuleBasedStateMachine):
    """A table and its model, side by side."""

    @initialize(
        backend=st.sampled_from([None, None, "numpy_nullable", "pyarrow"]),
        numeric=st.sampled_from(["float", "decimal"]),
        key=st.sampled_from(list(KEYS)),
        types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=5),
        small=st.booleans(),
    )
    def begin(
        self, backend: Any, numeric: Any, key: tuple[str, ...], types: list[str], small: bool
    ) -> None:
        # The limits that a table of ten rows never meets, where it meets all of them.
        self.limits = pytest.MonkeyPatch()
        if small:
            for module, name, limit in SMALL:
                self.limits.setattr(module, name, limit)
        of_key = [Column(f"k{place}", pg_type) for place, pg_type in enumerate(key)]
        names = tuple(column.name for column in of_key)
        others = [Column(f"c{place}", pg_type) for place, pg_type in enumerate(types)]
        schema = Schema((*of_key, *others), names, numeric)
        self.key = KEYS[key]
        self.table, self.model = Table(schema, backend), Model(schema, backend)
        self.held: list[tuple[pd.DataFrame, pd.DataFrame]] = []
        self.views: list[tuple[np.ndarray, list[Any]]] = []
        self.former: tuple[Table, Model] | None = None
        """A table whose memory is shared."""

    def teardown(self) -> None:
        self.limits.undo()

    def _ops(self, data: st.DataObject, most: int = 8) -> list[Op]:
        return data.draw(st.lists(self._op(), max_size=most))

    @st.composite
    @staticmethod
    def _row(draw: st.DrawFn, model: Model, key: Key, whole: bool) -> dict[str, Any]:
        schema = model.schema
        parts = key if isinstance(key, tuple) else (key,)
        row = dict(zip(schema.key, parts, strict=True))
        for column in schema.columns:
            if column.name not in schema.key and (whole or draw(st.booleans())):
                row[column.name] = draw(value_of(column.pg_type, schema.numeric))
        return row

    def _op(self) -> st.SearchStrategy[Op]:
        return self._op_of(self.model)

    def _op_of(self, model: Model) -> st.SearchStrategy[Op]:
        upserts = self.key.flatmap(
            lambda key: TableLaws._row(model, key, False).map(lambda row: Upsert(key, row))
        )
        deletes = st.builds(Delete, self.key, keeps_place=st.booleans())
        return upserts | upserts | deletes

    def _page(self, data: st.DataObject) -> list[WireRow]:
        types = self.model.schema.types
        keys = data.draw(st.lists(self.key, max_size=6))
        rows = [data.draw(TableLaws._row(self.model, key, True)) for key in keys]
        return [{name: to_json(types[name], value) for name, value in row.items()} for row in rows]

    @rule(data=st.data(), telling=st.booleans())
    def apply(self, data: st.DataObject, telling: bool) -> None:
        ops = self._ops(data)
        changes = self.table.apply(ops, want_changes=telling)
        expected = self.model.apply(ops)
        if telling:
            assert equal([vars_of(c) for c in changes], [vars_of(c) for c in expected])

    @rule(data=st.data(), telling=st.booleans())
    def load(self, data: st.DataObject, telling: bool) -> None:
        pages = [self._page(data) for _ in range(data.draw(st.integers(0, 3)))]
        load = self.table.load()
        for page in pages:
            load.extend(page)
        ops = self._ops(data, 4)
        changes = load.commit(ops, want_changes=telling)
        expected = self.model.replace(pages, ops)
        if telling:
            found = {change.key: vars_of(change) for change in changes}
            assert len(found) == len(changes)
            assert equal(found, {change.key: vars_of(change) for change in expected})

    @rule(read=st.booleans())
    def share(self, read: bool) -> None:
        """A table made of another's columns shares its memory, and neither sees the other's steps."""
        former, schema = self.table, self.model.schema
        made = {name: columns.shared(one) for name, one in former.columns().items()}
        self.table, self.former = (
            Table(schema, former.dtype_backend),
            (former, deepcopy(self.model)),
        )
        self.table.replace(made, schema)
        self.model.places = list(self.model.rows)  # where a row was that is gone is the former's
        assert len(self.table) == len(self.model.rows)
        if read:  # before a key was looked up
            pd.testing.assert_frame_equal(self.table.snapshot(), self.model.frame())

    @precondition(lambda self: self.former)
    @rule(data=st.data(), last=st.booleans())
    def apply_to_the_former(self, data: st.DataObject, last: bool) -> None:
        assert self.former is not None
        table, model = self.former
        for _ in range(data.draw(st.integers(1, 3))):
            ops = data.draw(st.lists(self._op_of(model), max_size=4))
            table.apply(ops)
            model.apply(ops)
            pd.testing.assert_frame_equal(table.snapshot(), model.frame())
        if last:
            self.former = None

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        key = data.draw(self.key)
        assert equal(self.table.get(key), self.model.rows.get(key))
        assert (key in self.table) == (key in self.model.rows)

    @rule(data=st.data())
    def differ(self, data: st.DataObject) -> None:
        page = self._page(data)
        found, expected = self.table.differing(page), self.model.differing(page)
        assert equal([list(pair) for pair in found], [list(pair) for pair in expected])

    @rule()
    def read(self) -> None:
        pd.testing.assert_frame_equal(self.table.snapshot(), self.model.frame())
        assert self.table.snapshot() is self.table.snapshot()

    @rule(own=st.booleans())
    def hold(self, own: bool) -> None:
        frame = self.table.snapshot()
        if own:  # as LiveFrame.df gives it
            frame = frame.copy(deep=False)
        self.held.append((frame, frame.copy()))

    @rule()
    def force(self) -> None:
        """No flag that numpy lets be set makes the table's own memory writeable."""
        frame = self.table.snapshot()
        lent = [*memory_of(frame.index), *(a for name in frame for a in memory_of(frame[name]))]
        assert not self._kept() & {id(a) for array in lent for a in forced(array)}

    def _kept(self) -> set[int]:
        """The memory that the table writes to."""
        return {id(array) for column in self.table.columns().values() for array in own(column)}

    @rule(name=st.sampled_from(["k0", "c0"]))
    def hold_arrays(self, name: str) -> None:
        if name in self.table.schema.types:
            array = self.table.arrays([name])[name]
            assert not self._kept() & {id(a) for a in forced(array)}
            self.views.append((array, array.tolist()))

    @precondition(lambda self: self.held or self.views)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        for kept in (self.held, self.views):
            if kept:
                del kept[data.draw(st.integers(0, len(kept) - 1))]  # type: ignore[attr-defined]  # lists of two types

    @precondition(lambda self: any(len(frame) and len(frame.columns) for frame, _ in self.held))
    @rule(data=st.data())
    def write_to_a_snapshot(self, data: st.DataObject) -> None:
        places = [p for p, (f, _) in enumerate(self.held) if len(f) and len(f.columns)]
        frame, _ = self.held.pop(data.draw(st.sampled_from(places)))
        if data.draw(st.booleans()):
            self.held = [pair for pair in self.held if pair[0] is not frame]
        others = [pair for pair in self.held if pair[0] is not frame]
        row = data.draw(st.integers(0, len(frame) - 1))
        column = data.draw(st.integers(0, len(frame.columns) - 1))
        value = frame.iloc[len(frame) - 1 - row, column]
        if pd.api.types.is_scalar(value):  # pandas takes a list for many cells' values
            frame.iloc[row, column] = value
        with suppress(TypeError):  # pandas refuses a null in a column of plain bool
            frame.iloc[row, column] = None
        frame["mine"] = 1
        frame.index.names = ["mine"] * frame.index.nlevels
        self.held = [*others]
        # The same object would show what its owner wrote to it.
        self.table._snapshot = None
        if self.former is not None:
            self.former[0]._snapshot = None

    @rule(pg_type=st.sampled_from(TYPES))
    def add_a_column(self, pg_type: str) -> None:
        column = Column(f"c{len(self.model.schema.columns) + 10}", pg_type)
        if column.name not in self.model.schema.types:
            self.table.add_column(column)
            self.model.add_column(column)

    @precondition(lambda self: len(self.model.schema.columns) > len(self.model.schema.key))
    @rule(data=st.data())
    def drop_a_column(self, data: st.DataObject) -> None:
        schema = self.model.schema
        name = data.draw(st.sampled_from([n for n in schema.names if n not in schema.key]))
        self.table.drop_column(name)
        self.model.drop_column(name)

    @rule(desc=st.booleans(), limit=st.none() | st.integers(0, 4))
    def order(self, desc: bool, limit: int | None) -> None:
        schema = self.model.schema
        view = Ordered(self.table, [OrderBy(schema.key[0], desc)], limit)
        if view.sortable:
            keys = sorted(self.model.rows, reverse=desc)  # type: ignore[type-var]  # sortable keys
            assert view.keys() == keys[:limit]
            assert list(view.snapshot().index) == keys[:limit]

    @rule()
    def export(self) -> None:
        table = self.table.to_arrow()
        assert table.num_rows == len(self.model.rows)
        assert table.column_names == list(self.model.schema.names)
        for name in table.column_names:
            column = table[name]
            nulls = [row[name] is None for row in self.model.rows.values()]
            assert column.is_null().to_pylist() == nulls

    @invariant()
    def the_keys_are_in_order(self) -> None:
        assert list(self.table.keys()) == list(self.model.rows)
        assert len(self.table) == len(self.model.rows)

    @invariant()
    def what_is_held_never_changes(self) -> None:
        for frame, before in self.held:
            pd.testing.assert_frame_equal(frame, before)
        for array, values in self.views:
            assert equal(array.tolist(), values)


def memory_of(values: Any) -> list[np.ndarray]:
    """The numpy arrays that an index or a column shows, its own and its array's."""
    if isinstance(values, pd.MultiIndex):
        return [array for level in values.levels for array in memory_of(level)]
    held = [values.values, values.array]
    held += [getattr(values.array, name, None) for name in ("_ndarray", "_data", "_mask")]
    return [array for array in held if isinstance(array, np.ndarray)]


def own(column: Any) -> list[np.ndarray]:
    """The memory that a column of the table writes to."""
    vectors = [v for v in (getattr(column, "_data", None), getattr(column, "_mask", None)) if v]
    buffers = [b for v in vectors if isinstance(v, dense.Dense) for b in (v._front, v._back) if b]
    return [buffer.data for buffer in buffers]


def forced(array: Any) -> list[np.ndarray]:
    """Those of ``array`` and the arrays it is a view of that can be made writeable."""
    found: list[np.ndarray] = []
    while isinstance(array, np.ndarray):
        was = array.flags.writeable
        with suppress(ValueError):
            array.setflags(write=True)
            array.setflags(write=was)
            found.append(array)
        array = array.base
    return found


def vars_of(change: Any) -> dict[str, Any]:
    return {"kind": change.kind, "key": change.key, "old": change.old, "new": change.new}


QUICK = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestTableLaws = TableLaws.TestCase
TestTableLaws.settings = QUICK


def test_the_laws_hold_where_every_step_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """``NOTEBOOK_RT_ALWAYS_COPY``: whoever doubts a reused buffer can tell the two apart."""
    monkeypatch.setattr(dense, "_COUNTS_ARE_TRUE", False)
    run_state_machine_as_test(TableLaws, settings=settings(QUICK, max_examples=10))


def test_the_environment_has_every_step_copy() -> None:
    script = (
        "import numpy as np\n"
        "from notebook_rt.store.dense import Buffer\n"
        "print(Buffer(np.empty(1)).held())"
    )
    for value, held in (("0", "False"), ("1", "True")):
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "NOTEBOOK_RT_ALWAYS_COPY": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert told.strip() == held


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_the_laws_hold_all_night() -> None:
    long = settings(QUICK, max_examples=2000, stateful_step_count=60)
    run_state_machine_as_test(TableLaws, settings=long)
