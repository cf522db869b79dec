"""Decodes JSON fast without losing digits.

Input: the bytes of a socket frame or a REST page. Output: Python values whose integers are exact at any
length, and whose other numbers are floats, or Decimals if requested (promise 11). Any valid JSON is decoded,
at any depth; ``store.values`` handles the values that a cell cannot hold (promise 14).

A frame of 797 bytes in one run of ``tests/benchmarks``: this 7.4 µs, exact 9.2, bare msgspec 7.0, orjson 8.1
(which has no exact numbers and makes floats of integers past 64 bits), json 16.3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Any, Final

import msgspec

_FAST: Final = msgspec.json.Decoder()
_EXACT: Final = msgspec.json.Decoder(float_hook=Decimal)
_TOKEN: Final = re.compile(
    r"[ \t\n\r]*(?:([\[\]{},:\"])|(-?(?:0|[1-9][0-9]*))((?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
    r"|(true|false|null))"
)


def decode_json(data: bytes | str, exact_numbers: bool = False) -> Any:
    """Decode JSON.

    Parameters
    ----------
    data : bytes or str
        A whole JSON text.
    exact_numbers : bool
        Numbers with a point or an exponent become Decimal instead of float; without it only those that are
        past float's range. Integers with more digits than Python accepts are Decimal, too.

    Raises
    ------
    ValueError
        If ``data`` is not JSON.

    Examples
    --------
    >>> decode_json(b'[9007199254740993, 0.1]'), decode_json(b'[1.50]', exact_numbers=True)
    ([9007199254740993, 0.1], [Decimal('1.50')])
    """
    try:
        return (_EXACT if exact_numbers else _FAST).decode(data)
    except (msgspec.DecodeError, ArithmeticError, RecursionError):
        return _leniently(data, _exact if exact_numbers else _float)


def _leniently(data: bytes | str, parse_float: Callable[[str], Any]) -> Any:
    """Decode JSON that msgspec refuses. Raise ValueError if it is not JSON.

    That is a number past float's range (a numeric of 1e400) or of thousands of digits, half of a surrogate
    pair, or deep nesting.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        return json.loads(text, parse_float=parse_float, parse_int=_int, parse_constant=_not_json)
    except RecursionError:
        return _without_recursion(text, parse_float)


def _without_recursion(text: str, parse_float: Callable[[str], Any]) -> Any:
    """Decode JSON of any depth, a token at a time; slow."""
    top: list[Any] = []
    stack: list[list[Any] | dict[str, Any]] = [top]
    names: list[str] = []
    at, wanted = 0, "value"
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            if wanted == "end" and not text[at:].strip(" \t\n\r"):
                return top[0]
            raise ValueError(f"invalid JSON at character {at}")
        at, holder = found.end(), stack[-1]
        mark, number, fraction, word = found.groups()
        if mark and mark in "]}" and wanted in ("next", "value or close", "name or close"):
            if len(stack) == 1 or isinstance(holder, list) != (mark == "]"):
                raise ValueError(f"invalid JSON at character {at}")
            stack.pop()
            wanted = "next" if len(stack) > 1 else "end"
        elif mark == "," and wanted == "next":
            wanted = "name" if isinstance(holder, dict) else "value"
        elif mark == ":" and wanted == "colon":
            wanted = "value"
        elif mark == '"' and wanted.startswith("name"):
            name, at = scanstring(text, at, True)
            names.append(name)
            wanted = "colon"
        elif wanted.startswith("value"):
            value: Any
            if mark == '"':
                value, at = scanstring(text, at, True)
            elif mark and mark in "[{":
                value = [] if mark == "[" else {}
            elif mark:
                raise ValueError(f"invalid JSON at character {at}")
            elif number:
                value = parse_float(number + fraction) if fraction else _int(number)
            else:
                value = {"true": True, "false": False, "null": None}[word]
            if isinstance(holder, dict):
                holder[names.pop()] = value
            else:
                holder.append(value)
            wanted = "next" if len(stack) > 1 else "end"
            if mark and mark in "[{":
                stack.append(value)
                wanted = "value or close" if mark == "[" else "name or close"
        else:
            raise ValueError(f"invalid JSON at character {at}")


def _int(text: str) -> int | Decimal:
    """Return an integer; a Decimal if it has more digits than Python accepts for an int."""
    try:
        return int(text)
    except ValueError:
        return Decimal(text)


def _float(text: str) -> float | Decimal | str:
    value = float(text)
    return _exact(text) if math.isinf(value) else value


def _exact(text: str) -> Decimal | str:
    """Return a Decimal; the text if the exponent is out of its range."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return text


def _not_json(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
