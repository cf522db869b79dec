"""A row differs if one of its values does, despite the fast path for values of the same class."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_rt.model.values import differs, equal
from tests.laws import examples

NAN = float("nan")
ATOMS: list[Any] = [
    None,
    *(True, False, 0, 1, 2**60),
    *(0.0, -0.0, 1.0, NAN, -NAN, float("inf")),
    *("", "1", "é", "e\u0301"),
    *(Decimal(1), Decimal("1.0"), Decimal("NaN")),
    *(dt.date(2026, 1, 1), dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
]
values = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=4,
)
rows = st.dictionaries(st.sampled_from("abc"), values)


@settings(max_examples=examples(300))
@given(rows, rows)
def test_a_row_differs_where_a_value_does(row: dict[str, Any], known: dict[str, Any]) -> None:
    for mine in (known, {**row, **known}, row):
        said = any(not equal(mine.get(name), value) for name, value in row.items())
        assert differs(row, mine) is said
