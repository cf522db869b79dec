"""The functions of ``agg``, each with a state of one column of one group that supports removal.

In: the values of a group's rows with their ranks, all at once or one by one, and removed values. Out: the
result of pandas' function for the current values. Values are typed; None and NaN are null.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from notebook_rt.errors import DerivationError
from notebook_rt.model.types import Kind
from notebook_rt.quoting import did_you_mean
from notebook_rt.store.dense import Positions
from notebook_rt.sync.derive.exact import SCALE, exact, exact_sum, is_finite, quotient
from notebook_rt.sync.derive.operator import RebuildError

_ANY: Final = frozenset({"count", "size", "first", "last"})
_ORDERED: Final = _ANY | {"min", "max", "nunique"}
_NUMBER: Final = _ORDERED | {"sum", "mean", "std", "var", "median", "any", "all"}
FUNCTIONS: Final = tuple(sorted(_NUMBER))
"""The functions that ``agg`` accepts by name."""
_ELSEWHERE: Final = {
    **dict.fromkeys(("avg", "average"), "mean"),
    **dict.fromkeys(("stddev", "stdev", "stddev_samp"), "std"),
    **dict.fromkeys(("variance", "var_samp"), "var"),
    **dict.fromkeys(("count_distinct", "n_unique", "distinct"), "nunique"),
    **dict.fromkeys(("len", "count(*)"), "size"),
    **dict.fromkeys(("total", "add"), "sum"),
    **dict.fromkeys(("bool_or", "some"), "any"),
    **dict.fromkeys(("bool_and", "every"), "all"),
    **dict.fromkeys(("minimum", "least"), "min"),
    **dict.fromkeys(("maximum", "greatest"), "max"),
}
"""Their names in SQL, polars and other libraries."""

_OF_KIND: Final[dict[Kind, frozenset[str]]] = {
    **dict.fromkeys(("int", "float", "bool"), _NUMBER),
    **dict.fromkeys(("text", "timestamptz", "timestamp", "date"), _ORDERED),
    "decimal": _ANY | {"sum", "min", "max", "nunique"},
}
_EXACT: Final = Context(prec=400)
"""Precision of sums of decimals: PostgreSQL's have at most 131,072 digits, in practice some dozens."""


def check_known(function: str, column: str) -> None:
    """Raise for an unknown function."""
    if function not in _NUMBER:
        raise DerivationError(
            f'agg of "{column}": no function {function!r} is kept up{meant(function, FUNCTIONS)}; there '
            f"are {', '.join(FUNCTIONS)}, and a Python function; use map for others"
        )


def supported(function: str, kind: Kind, column: str) -> None:
    """Raise for a function that cannot be updated incrementally for this kind of column."""
    if function not in _OF_KIND.get(kind, _ANY):
        known = ", ".join(sorted(_OF_KIND.get(kind, _ANY)))
        raise DerivationError(
            f'agg of "{column}": {function!r} of {kind} is not kept up, {known} are; use map'
        )


def meant(function: str, functions: Sequence[str]) -> str:
    """Return a hint which of ``functions`` is meant by a foreign or mistyped name; may be empty.

    >>> print(meant("AVG", FUNCTIONS) + meant("medain", FUNCTIONS) + meant("sha256", FUNCTIONS))
     (did you mean 'mean'?) (did you mean 'median'?)
    """
    known = _ELSEWHERE.get(function.casefold())
    return (
        f" (did you mean {known!r}?)" if known in functions else did_you_mean(function, functions)
    )


class State(ABC):
    """The values of one column in one group."""

    def __init__(self, kind: Kind) -> None:
        self._float = kind == "float"

    def is_null(self, value: Any) -> bool:
        return value is None or value != value

    def present(self, values: Sequence[Any]) -> list[Any]:
        """Return the ``values`` that are not null."""
        if self._float:
            return [value for value in values if value is not None and value == value]
        return [value for value in values if value is not None]

    @abstractmethod
    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        """Take all values of the group in the order of their ranks; the state is empty before."""

    def fill_numbers(self, ranks: Positions, values: NDArray[Any]) -> None:
        """Like `fill`, with an array of ints or floats and NaN for null."""
        self.fill(ranks.tolist(), values.tolist())

    @abstractmethod
    def add(self, rank: int, value: Any) -> None: ...

    @abstractmethod
    def remove(self, rank: int, value: Any) -> None: ...

    @abstractmethod
    def result(self, function: str) -> Any:
        """Return the current result of ``function``."""


class Count(State):
    """The number of values that are not null."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._count = 0

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        self._count = len(self.present(values))

    def fill_numbers(self, ranks: Positions, values: NDArray[Any]) -> None:
        self._count = len(_there(values))

    def add(self, rank: int, value: Any) -> None:
        self._count += not self.is_null(value)

    def remove(self, rank: int, value: Any) -> None:
        self._count -= not self.is_null(value)

    def result(self, function: str) -> int:
        return self._count


def _there(values: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers that are not NaN."""
    return values[values == values] if values.dtype.kind == "f" else values


class Sums(State):
    """The exact sum of numbers (see ``exact.py``)."""

    squared = False
    """Whether the sum of squares is kept, too."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._count = self._sum = self._squares = 0
        self._infinite: Counter[float] = Counter()

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        numbers = self.present(values)
        if self._float:
            self._fill_floats(np.array(numbers, "float64"))
            return
        self._count, self._sum = len(numbers), sum(numbers)
        if self.squared:
            self._squares = sum(number * number for number in numbers)

    def fill_numbers(self, ranks: Positions, values: NDArray[Any]) -> None:
        if self._float:
            self._fill_floats(_there(values))
        else:
            self.fill(ranks.tolist(), values.tolist())

    def _fill_floats(self, array: NDArray[np.float64]) -> None:
        if not is_finite(array):
            for number in array.tolist():
                self._move(number, 1)
            return
        self._count, self._sum = len(array), exact_sum(array)
        if not self.squared:
            return
        parts, exponents = np.frexp(array)
        whole = (parts * 2.0**53).astype("int64")
        for exponent in np.unique(exponents).tolist():
            squares = sum(one * one for one in whole[exponents == exponent].tolist())
            shift = 2 * (exponent - 53 + SCALE)
            self._squares += squares << shift if shift >= 0 else squares >> -shift

    def add(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._move(value, 1)

    def remove(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._move(value, -1)

    def _move(self, value: Any, sign: int) -> None:
        self._count += sign
        if self._float:
            if math.isinf(value):
                self._infinite[value] += sign
                return
            value = exact(value)
        self._sum += sign * value
        if self.squared:
            self._squares += sign * value * value

    def result(self, function: str) -> Any:
        scale = 1 << SCALE if self._float else 1
        infinite = [value for value, count in self._infinite.items() if count]
        count = self._count
        match function:
            case "sum" if self._float:
                return sum(infinite) if infinite else quotient(self._sum, scale)
            case "sum":
                return (self._sum + 2**63) % 2**64 - 2**63  # as in int64
            case "mean":
                if not count:
                    return None
                return sum(infinite) if infinite else quotient(self._sum, count * scale)
        if count < 2:
            return None
        if infinite:
            return math.nan
        above = count * self._squares - self._sum**2
        variance = quotient(above, count * (count - 1) * scale**2)
        return variance if function == "var" else math.sqrt(variance)


class Squares(Sums):
    """The exact sum of numbers and of their squares."""

    squared = True


class DecimalSum(State):
    """The exact sum of decimals."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._count, self._sum = 0, Decimal(0)

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        for value in values:
            self.add(0, value)

    def add(self, rank: int, value: Any) -> None:
        self._move(value, 1)

    def remove(self, rank: int, value: Any) -> None:
        self._move(value, -1)

    def _move(self, value: Any, sign: int) -> None:
        if value is not None:
            if not value.is_finite():
                raise RebuildError
            self._count += sign
            self._sum = _EXACT.add(self._sum, value if sign > 0 else -value)

    def result(self, function: str) -> Any:
        if not self._count:
            raise RebuildError  # pandas' sum of no objects is the int 0, or None
        return self._sum


class Sorted(State):
    """The sorted values, for minimum, maximum and median."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._values: list[Any] = []

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        self._values = sorted(self.present(values))

    def fill_numbers(self, ranks: Positions, values: NDArray[Any]) -> None:
        self._values = np.sort(_there(values)).tolist()

    def add(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            insort(self._values, value)

    def remove(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            del self._values[bisect_left(self._values, value)]

    def result(self, function: str) -> Any:
        values = self._values
        if not values:
            return None
        if function == "min":
            return values[0]
        if function == "max":
            return values[-1]
        middle = len(values) // 2
        if len(values) % 2:
            return float(values[middle])
        return (float(values[middle - 1]) + float(values[middle])) / 2


class Distinct(State):
    """The number of occurrences of each value."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._counts: Counter[Any] = Counter()

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        self._counts = Counter(self.present(values))

    def add(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._counts[value] += 1

    def remove(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._counts[value] -= 1
            if not self._counts[value]:
                del self._counts[value]

    def result(self, function: str) -> int:
        return len(self._counts)


class Ends(State):
    """The values by rank, for the first and the last that are not null."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._ranks: list[int] = []
        self._values: dict[int, Any] = {}

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        pairs = zip(ranks, values, strict=True)
        self._values = {rank: value for rank, value in pairs if not self.is_null(value)}
        self._ranks = sorted(self._values)

    def add(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            insort(self._ranks, rank)
            self._values[rank] = value

    def remove(self, rank: int, value: Any) -> None:
        if self._values.pop(rank, None) is not None:
            del self._ranks[bisect_left(self._ranks, rank)]

    def result(self, function: str) -> Any:
        if not self._ranks:
            return None
        return self._values[self._ranks[0 if function == "first" else -1]]


class Truths(State):
    """The number of values that are not null, and of true ones."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._count = self._true = 0

    def fill(self, ranks: Sequence[int], values: Sequence[Any]) -> None:
        there = self.present(values)
        self._count, self._true = len(there), sum(map(bool, there))

    def add(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._count += 1
            self._true += bool(value)

    def remove(self, rank: int, value: Any) -> None:
        if not self.is_null(value):
            self._count -= 1
            self._true -= bool(value)

    def result(self, function: str) -> bool:
        return bool(self._true) if function == "any" else self._true == self._count


_STATES: Final[dict[str, type[State]]] = {
    "count": Count,
    **dict.fromkeys(("sum", "mean"), Sums),
    **dict.fromkeys(("std", "var"), Squares),
    **dict.fromkeys(("min", "max", "median"), Sorted),
    "nunique": Distinct,
    **dict.fromkeys(("first", "last"), Ends),
    **dict.fromkeys(("any", "all"), Truths),
}


def state_of(function: str, kind: Kind) -> type[State]:
    """Return the state for ``function``; functions with the same class share it."""
    return DecimalSum if (function, kind) == ("sum", "decimal") else _STATES[function]
