"""Text typed into a cell, as a value of the column's type."""

from __future__ import annotations

from decimal import Decimal

import pandas as pd
import pytest

from notebook_rt.model.types import Column
from notebook_rt.widgets.typed import parse_typed


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int4", "1,200", 1200),
        ("int4", "1,20,000", 120_000),
        ("int8", "1\u202f200\u202f300", 1_200_300),
        ("float8", "1,250.5", 1250.5),
        ("numeric", "-Infinity", Decimal("-Infinity")),
        ("float8", "-1.5e3", -1500.0),
        ("bool", "Yes", True),
        ("jsonb", '{"a": 1}', {"a": 1}),
        ("_int4", "[1, 2]", [1, 2]),
        ("text", "", ""),
        ("int4", "", None),
        ("uuid", "F47AC10B-58CC-4372-A567-0E02B2C3D479", "f47ac10b-58cc-4372-a567-0e02b2c3d479"),
        ("timestamptz", "2026-01-02T03:04+01:00", pd.Timestamp("2026-01-02T02:04Z")),
    ],
)
def test_typed(kind, text, value):
    assert parse_typed(Column("c", kind), text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int4", "1.5"),
        ("int4", "3000000000"),
        ("int4", "1_000"),
        ("float8", "0x10"),
        ("numeric", "ten"),
        ("bool", "maybe"),
        ("jsonb", "{"),
        ("_int4", "3"),
        ("date", "yesterday"),
        ("uuid", "x"),
    ],
)
def test_typed_refuses_with_a_sentence(kind, text):
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse_typed(Column("c", kind), text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("numeric", "1,5"),
        ("float8", "2,75"),
        ("int4", "12,34"),
        ("numeric", "1.234,56"),
        ("float8", "1 5"),
        ("int8", "1,0000"),
    ],
)
def test_a_comma_that_groups_no_thousands_is_refused_and_not_left_out(kind, text):
    with pytest.raises(ValueError, match="a comma groups thousands"):
        parse_typed(Column("c", kind), text)
