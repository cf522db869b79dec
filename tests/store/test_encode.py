"""Typed values become the same numbers as in Arrow, for any number of values."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from notebook_rt.model.types import Kind, arrow_type
from notebook_rt.store.encode import encode, moments, stamps

MOMENTS: dict[Kind, list[Any]] = {
    "timestamptz": [
        dt.datetime(1, 1, 2, tzinfo=dt.UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=dt.UTC),
        None,
        dt.datetime(9999, 12, 30, 1, 2, 3, 4, tzinfo=dt.UTC),
    ],
    "timestamp": [dt.datetime(1, 1, 1), None, dt.datetime(9999, 12, 31, 23, 59, 59, 999999)],
    "date": [dt.date(1, 1, 1), None, dt.date(9999, 12, 31)],
}


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize("times", [1, 100])
def test_moments_are_exact_to_the_microsecond_and_come_back(kind: Kind, times: int) -> None:
    values = MOMENTS[kind] * times
    encoded = encode(values, kind)
    assert encoded is not None
    numbers, mask = encoded
    assert mask is None
    assert numbers.tolist() == stamps(pa.array(values, arrow_type(kind))).tolist()
    assert moments(numbers, kind) == values


def test_a_moment_in_another_zone_is_the_same_moment() -> None:
    east = dt.datetime(2024, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    naive = dt.datetime(2024, 1, 1)
    for values in ([east], [naive, None], [east, naive]):
        encoded = encode(values, "timestamptz")
        assert encoded is not None
        assert moments(encoded[0], "timestamptz")[0] == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def test_a_value_that_does_not_fit_is_no_number() -> None:
    assert encode([1, True], "int") is None
    assert encode([2**63], "int") is None
    assert encode(["infinity"], "timestamptz") is None
    assert encode([dt.datetime(2024, 1, 1)], "date") is None
