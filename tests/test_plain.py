"""An analyst's values become JSON, or an error that contains the place."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.coerce import coerce
from notebook_rt.model.plain import json_text, plain
from notebook_rt.model.rows import RowChange


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (np.int64(7), 7),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (pd.Series(["a", "b"]), ["a", "b"]),
        (pd.Timestamp("2024-01-02T03:04:05.6", tz="UTC"), "2024-01-02T03:04:05.600000+00:00"),
        (np.datetime64("2024-01-02T03:04:05.000000006", "ns"), "2024-01-02T03:04:05"),
        (pd.Series(pd.to_datetime(["2024-01-02"])), ["2024-01-02T00:00:00"]),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.timedelta(hours=1), "3600.0 seconds"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), str(UUID(int=1))),
        (b"\xde\xad", "\\xdead"),
        ((1, 2), [1, 2]),
        ({3}, [3]),
    ],
)
def test_values_of_pandas_and_python_become_json(value: Any, wanted: Any) -> None:
    assert plain({"deep": [value]}, "params") == {"deep": [wanted]}
    assert json.loads(json_text(value, "params")) == wanted


@pytest.mark.parametrize(("value", "error"), [(object(), TypeError), (float("nan"), ValueError)])
def test_what_has_no_form_in_json_is_said_with_its_place(
    value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^the payload: "):
        plain({"x": value}, "the payload")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"x": float("nan")}, "the payload: ['x']: nan has no form in JSON; None is null"),
        ({"a": [1, {"b": np.float64("-inf")}]}, "the payload: ['a'][1]['b']: -inf has no form"),
        ({"a": np.array([1.0, np.nan])}, "the payload: ['a'][1]: nan has no form"),
    ],
)
def test_a_number_that_json_has_not_is_named_with_its_field(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        plain(value, "the payload")


cells = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary(max_size=4)
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.dates()
    | st.timedeltas(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.dictionaries(st.text(), cells, max_size=4)


@given(
    st.one_of(cells.filter(lambda key: not isinstance(key, dict | list)), st.tuples(cells)), rows
)
def test_a_change_is_ready_for_json_whatever_its_row_holds(key: Any, row: dict[str, Any]) -> None:
    found = RowChange("insert", key, None, row).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["kind", "key", "old", "new"]
    assert list(found["new"]) == list(row)
    assert found["old"] is None


def test_a_float_that_is_no_number_is_postgresqls_text() -> None:
    row = {"a": float("nan"), "b": float("inf"), "c": [-float("inf")], "d": Decimal("NaN")}
    wanted = {"a": "NaN", "b": "Infinity", "c": ["-Infinity"], "d": "NaN"}
    assert RowChange("delete", (1, None), row, None).to_dict()["old"] == wanted


def test_what_pandas_knows_as_missing_is_null() -> None:
    """NaT was the text "NaT", and NA an error; NaN stays one, since a float's may be meant."""
    assert json_text({"at": pd.NaT, "n": [pd.NA, 1]}, "x") == '{"at": null, "n": [null, 1]}'
    assert coerce("jsonb", {"at": pd.NaT, "n": pd.NA}) == {"at": None, "n": None}
    with pytest.raises(ValueError, match="None is null"):
        json_text({"x": float("nan")}, "x")
