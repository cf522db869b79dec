"""Types of columns without a description (a function's result), inferred from the JSON values.

Input: the values of a column. Output: a PostgreSQL type that holds them all. The rules, public in
``Session.query``: true and false are ``bool``; whole numbers ``int8``; other numbers ``float8`` (``numeric``
where numbers are exact); texts that all have PostgreSQL's own form of a moment are ``timestamptz``,
``timestamp`` or ``date``; other texts ``text``; objects, lists and mixtures ``json``. Nulls are ignored. A
type only ever widens, so that one odd answer does not make a column's type go back and forth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from notebook_rt.model.rows import Json

_MOMENTS: Final = (
    ("timestamptz", re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?[+-]\d\d:\d\d\Z")),
    ("timestamp", re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\Z")),
    ("date", re.compile(r"\d{4}-\d\d-\d\d\Z")),
)
_NUMBERS: Final = ("int8", "float8", "numeric")
_TEXTS: Final = ("timestamptz", "timestamp", "date", "text")


def inferred(values: Iterable[Json], before: str | None = None) -> str | None:
    """Return the type that holds ``values`` and the earlier values of type ``before``; None if all are null.

    Examples
    --------
    >>> inferred([1, None, 2]), inferred([1, 2.5]), inferred([None]), inferred([{"a": 1}, 2])
    ('int8', 'float8', None, 'json')
    >>> inferred(["2024-01-02"]), inferred(["soon"], before="date"), inferred([1], before="float8")
    ('date', 'text', 'float8')
    """
    found = before
    for value in values:
        if value is not None and found != "json":
            one = _type_of(value, found)
            found = one if found is None or found == one else _wider(found, one)
    return found


def _type_of(value: Json, hint: str | None) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return "int8" if -(2**63) <= value < 2**63 else "numeric"
        case float():
            return "float8"
        case Decimal():
            return "numeric"
        case str():
            if hint != "text" and len(value) >= 10 and value[4] == "-":
                return next((name for name, form in _MOMENTS if form.match(value)), "text")
            return "text"
        case _:
            return "json"


def _wider(one: str, other: str) -> str:
    if one in _NUMBERS and other in _NUMBERS:
        return max(one, other, key=_NUMBERS.index)
    return "text" if one in _TEXTS and other in _TEXTS else "json"
