"""Conversion of lists of Python values to arrays, without guessing their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa


def objects(values: Sequence[Any]) -> np.ndarray:
    """Return ``values`` as a one-dimensional object array, even if they are lists."""
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found


def exact_arrow(values: Sequence[Decimal | None]) -> pa.Array | None:
    """Return Decimals as an Arrow array; None if Arrow has no such decimal: NaN, infinity, over 76 digits."""
    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, TypeError):  # TypeError: an infinity
        return None
    if pa.types.is_null(found.type):
        return found.cast(pa.decimal128(38, 0))
    return found if pa.types.is_decimal(found.type) else None
