"""Which values are compared here as pandas compares them: checks that operators share.

`COMPARED` are the kinds whose values are. Among them a column may still hold values that are not: one
that does not fit its type, and with the nullable dtypes NaN and -0.0. A whole input that holds one is
refused; a change that brings one makes the operator build anew, and then refuse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from notebook_rt.errors import DerivationError
from notebook_rt.model.types import Numeric, fits
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.touched import Delta
from notebook_rt.sync.derive.operator import RebuildError

COMPARED: Final = frozenset(
    {"int", "float", "decimal", "bool", "text", "timestamptz", "timestamp", "date"}
)
"""Kinds whose values have an order and an equality."""


def refuse_unfit(column: ColumnStore, name: str, what: str) -> None:
    """Refuse a column that holds a value which does not fit its type; ``what`` says who asks."""
    if column.unfit_count():
        raise DerivationError(
            f'{what}: "{name}" holds a value that is not of its type, such as infinity among moments; '
            "use map"
        )


def has_nan(column: ColumnStore) -> bool:
    """Whether a column of floats holds a NaN that is not null."""
    if column.kind != "float":
        return False
    values = column.numpy()
    if values.dtype.kind == "f":
        return bool(np.isnan(values).any())
    return any(value is not None and value != value for value in values.tolist())


def has_negative_zero(column: ColumnStore) -> bool:
    """Whether a column of floats holds -0.0."""
    if column.kind != "float":
        return False
    return any(is_negative_zero(value) for value in column.everything())


def is_negative_zero(value: Any) -> bool:
    """Whether a value is the float -0.0."""
    return isinstance(value, float) and value == 0 and math.copysign(1, value) < 0


def check_values(
    deltas: Iterable[Delta],
    types: Mapping[str, str],
    numeric: Numeric,
    *,
    nan: bool = False,
    negative_zero: bool = False,
) -> None:
    """Build anew where a new row holds a value that a whole input is refused for.

    Parameters
    ----------
    types : mapping
        The PostgreSQL types of the columns to look at, by name.
    nan, negative_zero : bool
        Whether NaN and -0.0 are such values.

    Raises
    ------
    RebuildError
        If there is one.
    """
    for delta in deltas:
        if delta.new is None:
            continue
        row = delta.new.row
        before = delta.old.row if delta.old is not None else {}
        for name, pg_type in types.items():
            value = row[name]
            if value is None or before.get(name) is value:  # that was looked at when it came
                continue
            if not fits(pg_type, value, numeric=numeric):
                raise RebuildError
            if (nan and value != value) or (negative_zero and is_negative_zero(value)):
                raise RebuildError
