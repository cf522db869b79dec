"""Specifications and their requests: orders (promise 8), and rows by unusual keys."""

from __future__ import annotations

import pytest

from notebook_rt.errors import FilterError
from notebook_rt.model.order import OrderBy, parse_order
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.sync.table.queries import Reads


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("age descending", "age.desc"),
        ("age DESC", "age.desc"),
        ("name,age  asc", "age.asc"),
        ("last seen ASC NULLS FIRST", "last seen.asc.nullsfirst"),
    ],
)
def test_an_order_as_in_sql_is_refused_at_once_with_how_to_write_it(
    written: str, meant: str
) -> None:
    with pytest.raises(FilterError, match=f"write '{meant}'"):
        parse_order(written)


def test_a_column_with_a_blank_in_its_name_is_one() -> None:
    assert parse_order("last seen.desc") == (OrderBy("last seen", desc=True),)
    assert parse_order([OrderBy("age desc")]) == (OrderBy("age desc"),)


def test_a_row_whose_key_is_the_empty_text_is_asked_for_so_that_it_is_found() -> None:
    """PostgREST reads ``in.("")`` as an empty list: the row would be taken for gone."""
    reads = Reads(TableSpec("t"), Schema((Column("code", "text"),), ("code",)), 1000)
    ((query, keys),) = reads.rows([""], at_most=100)
    assert ("code", "eq.") in query.params
    assert keys == [""]
