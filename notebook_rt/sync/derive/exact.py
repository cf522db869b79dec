"""Sums from which a float can be taken away again without a trace.

A float is a whole number of the smallest one that there is, 2 to the power of -1074. So the sum of
floats is kept as an int, which is exact, whatever came and went; it is rounded once, when it is read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCALE: Final = 1074
"""The smallest float is 2 to the power of minus this."""


def exact(value: float) -> int:
    """A finite float as a whole number of the smallest ones.

    >>> exact(0.1) + exact(0.2) - exact(0.1) == exact(0.2)
    True
    """
    above, below = value.as_integer_ratio()
    return above << (SCALE + 1 - below.bit_length())


def exact_sum(values: NDArray[np.float64]) -> int:
    """The sum of `exact` of finite floats.

    >>> exact_sum(np.array([1e300, 0.5, -1e300])) == exact(0.5)
    True
    """
    parts, exponents = np.frexp(values)
    whole = (parts * 2.0**53).astype("int64")
    total = 0
    for exponent in np.unique(exponents).tolist():
        of = whole[exponents == exponent]
        # In halves: the sum of 53-bit numbers does not fit 64 bits.
        number = (int((of >> 27).sum()) << 27) + int((of & (2**27 - 1)).sum())
        shift = exponent - 53 + SCALE
        total += number << shift if shift >= 0 else number >> -shift
    return total


def quotient(above: int, below: int) -> float:
    """``above / below`` as the nearest float; beyond the largest, an infinity.

    >>> quotient(2**2000, 1)
    inf
    """
    try:
        return above / below
    except OverflowError:
        return float("inf") if (above > 0) == (below > 0) else float("-inf")


def is_finite(values: NDArray[Any]) -> bool:
    """Whether all of some floats are numbers."""
    return bool(np.isfinite(values).all())
