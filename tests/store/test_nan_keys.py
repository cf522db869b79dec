"""A key of floats or numerics may be NaN, an infinity or a zero: one row each, as in PostgreSQL."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.rows import Delete, Upsert
from notebook_rt.model.types import Column, Numeric, Schema
from notebook_rt.store.table import Table

KEYS = ["NaN", "Infinity", "-Infinity", 0.0, 1.5]


@given(
    st.lists(st.sampled_from(KEYS), min_size=1, unique=True),
    st.sampled_from(["float8", "numeric"]),
    st.sampled_from(["float", "decimal"]),
    st.booleans(),
)
def test_a_row_is_found_again_by_any_key(
    keys: list[Any], pg_type: str, numeric: Numeric, composite: bool
) -> None:
    columns = Column("k", pg_type), Column("m", pg_type), Column("n", "text")
    schema = Schema(columns, ("k", "m") if composite else ("k",), numeric)
    page = [{"k": key, "m": key, "n": "a"} for key in keys]
    table = Table(schema)
    loading = table.load()
    loading.extend(page)
    loading.extend(page)
    assert len(loading) == len(keys)
    loading.commit()
    assert len(table) == len(keys)
    assert not list(table.differing(page))
    here = set(table.keys())
    assert here == set(schema.keys_of(page))
    for row in page:
        typed = schema.decode(row)
        key = schema.key_of(typed)
        assert table.get(key) is not None
        again = (typed["k"], typed["m"]) if composite else typed["k"]
        assert schema.coerce_key(again) in here
        table.apply([Upsert(key, {**typed, "n": "b"})])
    assert len(table) == len(keys)
    table.apply([Delete(key) for key in schema.keys_of(page)])
    assert len(table) == 0


PARTS: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float8": st.floats(allow_nan=False) | st.sampled_from(["NaN", "Infinity", 3]),
    "numeric": st.integers() | st.sampled_from(["NaN", "1.50"]),
    "text": st.text(),
    "bool": st.booleans(),
    "uuid": st.uuids().map(str),
    "date": st.dates().map(str) | st.just("infinity"),
    "timestamptz": st.datetimes(timezones=st.just(dt.UTC)).map(str)
    | (st.datetimes(timezones=st.timezones()).map(str) | st.just("-infinity")),
    "timestamp": st.datetimes().map(str),
    "bytea": st.binary().map(lambda value: "\\x" + value.hex()),
    "jsonb": st.lists(st.integers()) | st.dictionaries(st.text(), st.integers()),
    "_int4": st.lists(st.integers(0, 9) | st.none()),
}


@given(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=3), st.data())
def test_the_keys_of_a_page_are_those_of_its_rows(types: list[str], data: st.DataObject) -> None:
    """Law: a page's keys, decoded column by column, are the keys that its rows have one by one."""
    columns = tuple(Column(f"k{place}", pg_type) for place, pg_type in enumerate(types))
    numeric: Numeric = data.draw(st.sampled_from(["float", "decimal"]))
    schema = Schema((*columns, Column("note", "text")), tuple(c.name for c in columns), numeric)
    values = {column.name: st.none() | PARTS[column.pg_type] for column in columns}
    page = data.draw(st.lists(st.fixed_dictionaries({**values, "note": st.just("x")}), max_size=5))
    one_by_one = [schema.key_of(schema.decode(row)) for row in page]
    together = schema.keys_of(page)
    assert together == one_by_one
    assert [*map(hash, together)] == [*map(hash, one_by_one)]
    assert [*map(repr, together)] == [*map(repr, one_by_one)], "of the same classes, too"


@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_an_exact_infinity_is_shown_and_exported(backend: Any) -> None:
    schema = Schema((Column("id", "int8"), Column("v", "numeric")), ("id",), "decimal")
    table = Table(schema, backend)
    table.apply([Upsert(1, {"id": 1, "v": Decimal("Infinity")}), Upsert(2, {"id": 2, "v": None})])
    assert table.snapshot()["v"][1] == Decimal("Infinity")
    assert table.to_arrow()["v"].to_pylist() == ["Infinity", None]
