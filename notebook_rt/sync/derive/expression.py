"""A computed column as a text: ``"price * size"``, as ``DataFrame.eval`` reads it, and nothing more.

Only columns, numbers, arithmetic, comparisons, ``and``, ``or`` and ``not``: a text from elsewhere can name no
function and no attribute. A column whose name is no identifier stands in backticks. What is not in that
language is written as a function.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any, Final

import pandas as pd

from notebook_rt.errors import DerivationError
from notebook_rt.quoting import did_you_mean

_BINARY: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.And: operator.and_,
    ast.Or: operator.or_,
}
_UNARY: Final[Mapping[type, Callable[[Any], Any]]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.invert,
    ast.Invert: operator.invert,
}
_COMPARE: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST: Final = 1000
"""Characters: what is longer is no formula."""
_QUOTED: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")
"""A text, which is left as it is, or a name in backticks."""


class Formula:
    """The function of a DataFrame that a text stands for."""

    def __init__(self, tree: ast.AST) -> None:
        self._tree = tree
        self._nodes = [*ast.walk(tree)]
        self.columns = frozenset(node.id for node in self._nodes if isinstance(node, ast.Name))
        """What it reads."""

    def __call__(self, frame: pd.DataFrame) -> Any:
        return _value(self._tree, frame)

    @property
    def makes(self) -> bool:
        """Whether its result is a column with memory of its own: no column as it is, no number."""
        operation = isinstance(self._tree, ast.BinOp | ast.BoolOp | ast.Compare)
        return operation and bool(self.columns)

    def by_row(self, objects: Collection[str]) -> bool:
        """Whether the value and the dtype of a row depend on that row and the columns' dtypes alone.

        Not where pandas looks at the values for a dtype: of ``objects``, the columns of that dtype, and in a
        division that gives floats as soon as one integer is divided by 0.
        """
        divides = any(isinstance(node, ast.FloorDiv | ast.Mod) for node in self._nodes)
        return not divides and self.columns.isdisjoint(objects)


def parsed(text: str) -> Formula:
    """The function of a DataFrame that ``text`` stands for.

    >>> parsed("(a + 1) * 2 > b")(pd.DataFrame({"a": [1, 2], "b": [4, 4]})).tolist()
    [False, True]
    """
    plain, names = _named(text.strip()[: _LONGEST + 1])
    try:
        tree = ast.parse(plain, mode="eval").body
        _check(tree, text)
    except DerivationError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DerivationError(f"select {text[:80]!r}: {error}; write a function instead") from None
    if len(text) > _LONGEST:
        raise DerivationError(
            f"select: a text of over {_LONGEST} characters; write a function instead"
        )
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    return Formula(tree)


def _named(text: str) -> tuple[str, dict[str, str]]:
    """``text`` with an identifier for each name in backticks, and the names of these identifiers."""
    names: dict[str, str] = {}
    prefix = "_"
    while prefix in text:
        prefix += "_"

    def put(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        name = f"{prefix}{len(names)}"
        names[name] = found[1]
        return name

    return _QUOTED.sub(put, text), names


def _check(node: ast.AST, text: str, *, compared: bool = False) -> None:
    """Refuse what is not in the language."""
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            parts = [left, right]
        case ast.BoolOp(values=values):
            parts = values
        case ast.UnaryOp(operand=operand):
            parts = [operand]
        case ast.Compare(left=left, ops=ops, comparators=right) if {*map(type, ops)} <= {*_COMPARE}:
            parts, compared = [left, *right], True
            for part in parts:
                _check(part, text, compared=True)
            return
        case ast.Name():
            return
        case ast.Constant(value=bool() | int() | float()):
            return
        case ast.Constant(value=str()) if compared:
            return
        case _:
            raise DerivationError(
                f"select {text!r}: {ast.unparse(node)!r} is not in the language of a text (columns, "
                "`a column with a blank`, numbers, + - * / // %, comparisons, and, or, not); write a "
                "function instead"
            )
    for part in parts:
        _check(part, text)


def _value(node: ast.AST, frame: pd.DataFrame) -> Any:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left, frame), _value(right, frame))
        case ast.BoolOp(op=op, values=values):
            return reduce(_BINARY[type(op)], [_value(one, frame) for one in values])
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand, frame))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [_value(one, frame) for one in (left, *comparators)]
            found = [
                _COMPARE[type(op)](a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False)
            ]
            return reduce(operator.and_, found)
        case ast.Name(id=name):
            return _column(frame, name)
        case ast.Constant(value=value):
            return value
    raise AssertionError(node)  # it was checked


def _column(frame: pd.DataFrame, name: str) -> Any:
    if name in frame.index.names:
        return pd.Series(frame.index.get_level_values(name), frame.index)
    if name not in frame.columns:
        names = [*(str(level) for level in frame.index.names if level is not None), *frame.columns]
        raise DerivationError(
            f'select: no column "{name}"{did_you_mean(name, names)}; there are {", ".join(names)}'
        )
    return frame[name]
