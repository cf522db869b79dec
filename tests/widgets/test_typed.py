"""What is typed into a cell, as a value of the column's type."""

from __future__ import annotations

import pandas as pd
import pytest

from notebook_rt.model.types import Column
from notebook_rt.widgets.typed import parse_typed


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int4", "1,200", 1200),
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
