"""Read the filter of a binding, check it against its table, and apply it to rows.

In: `column=operator.value`, comma for AND, `not.` to negate. Out: `Condition`s, and for a row
true or false with PostgreSQL's semantics for the column's type. Comparisons that are certain in Python
(integers, numerics, booleans, uuids, equality of text) are decided here; the others (order of text, patterns,
regular expressions, other types) are decided by PostgreSQL, each once.

This intentionally does not use the client-side `notebook_rt.model.filters`: a test server with the same bugs
would prove nothing.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg_pool import AsyncConnectionPool

from notebook_rt.local.realtime.elixir import inspect
from notebook_rt.local.realtime.values import PgType, parse_array, quoted

OPERATORS = frozenset(
    (
        *("eq", "neq", "lt", "lte", "gt", "gte", "in", "is", "isdistinct"),
        *("like", "ilike", "match", "imatch"),
    )
)
MAX_IN = 100


class FilterError(ValueError):
    """An invalid filter, with the message that is sent to the client."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. The value of `in` is PostgreSQL's text of an array."""

    column: str
    operator: str
    value: str
    negated: bool

    def term(self) -> tuple[str, str, str, bool]:
        """Return the form in which the real server's messages show it."""
        return self.column, self.operator, self.value, self.negated


def parse(text: str) -> tuple[Condition, ...]:
    """Read a binding's filter.

    >>> parse("n=gt.1,name=not.in.(a,b)")[1]
    Condition(column='name', operator='in', value='{a,b}', negated=True)
    """
    return tuple(_condition(segment) for segment in _segments(text)) if text else ()


def _segments(text: str) -> list[str]:
    """Split at the commas outside quoted values and `in` lists."""
    segments, start, at, in_list = [], 0, 0, False
    while at < len(text):
        char = text[at]
        if char == '"' and (in_list or re.search(r"=(not\.)?\w+\.$", text[start:at])):
            at = _end_of_quotes(text, at)
            continue
        if char == "(" and re.search(r"=(not\.)?in\.$", text[start:at]):
            in_list = True
        elif char == ")":
            in_list = False
        elif char == "," and not in_list:
            segments.append(text[start:at])
            start = at + 1
        at += 1
    segments.append(text[start:])
    if not all(segments):
        raise FilterError("filter must not contain empty segments (check for extra commas)")
    return segments


def _end_of_quotes(text: str, at: int) -> int:
    try:
        return quoted(text, at)[1]
    except IndexError:
        return len(text)


def _condition(segment: str) -> Condition:
    column, equals, rest = segment.partition("=")
    if not equals:
        raise FilterError(inspect([segment]))
    negated = rest.startswith("not.")
    operator, dot, value = rest.removeprefix("not.").partition(".")
    if not dot or operator not in OPERATORS:
        raise FilterError(inspect([operator, value] if dot else [operator]))
    if operator == "in":
        return Condition(column, operator, _list(value), negated)
    if value.startswith('"') and len(value) > 1 and _end_of_quotes(value, 0) == len(value):
        value = quoted(value, 0)[0]
    return Condition(column, operator, value, negated)


def _list(value: str) -> str:
    if not (value.startswith("(") and value.endswith(")")):
        raise FilterError("`in` filter value must be wrapped by parentheses")
    items, at, inner = [], 0, value[1:-1]
    while at < len(inner):
        if inner[at] == '"' and _end_of_quotes(inner, at) <= len(inner):
            item, at = quoted(inner + '"', at)
        else:
            end = inner.find(",", at)
            end = len(inner) if end < 0 else end
            item, at = inner[at:end].strip(), end
        items.append(item)
        at += 1
    return "{" + ",".join(map(_array_item, items)) + "}"


def _array_item(item: str) -> str:
    if item and item.upper() != "NULL" and not re.search(r'[{}",\\\s]', item):
        return item
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


Test = Callable[[str], bool]
"""Decides whether a value that is not null matches a condition."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "isdistinct": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
}
_SQL = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "like": "~~"}
_SQL |= {"ilike": "~~*", "match": "~", "imatch": "~*", "isdistinct": "is distinct from"}
_BOOLEANS = {"t": True, "true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"f": False, "false": False, "no": False, "off": False, "0": False}
_IS: dict[str, Callable[[str | None], bool]] = {
    "null": lambda value: value is None,
    "true": lambda value: value == "t",
    "false": lambda value: value == "f",
    "unknown": lambda value: value is None,
}


def _numeric(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():  # NaN equals itself and is the largest: PostgreSQL decides
        raise ValueError(text)
    return number


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("int2", "int4", "int8"), int),
    "numeric": _numeric,
    "bool": lambda text: _BOOLEANS[text.strip().lower()],
    "uuid": lambda text: text.strip("{}").replace("-", "").lower(),
    **dict.fromkeys(("text", "varchar"), lambda text: text),
}
_EQUALITY_ONLY = frozenset(("text", "varchar"))  # their order depends on the collation


def local_test(kind: PgType, condition: Condition) -> Test | None:
    """Return a condition as a function of the value's text; None: PostgreSQL must decide."""
    read = _READ.get(kind.name)
    operator = condition.operator
    if read is None:
        return None
    if kind.name in _EQUALITY_ONLY and operator not in ("eq", "neq", "in", "isdistinct"):
        return None
    try:
        if operator == "in":
            wanted = {read(item) for item in parse_array(condition.value) if item is not None}
            return lambda text: read(text) in wanted
        compare = _COMPARE.get(operator)
        if compare is None:
            return None
        right = read(condition.value)
    except (ValueError, KeyError, ArithmeticError):
        return None
    return lambda text: compare(read(text), right)


@dataclass(frozen=True, slots=True)
class Question:
    """A comparison that PostgreSQL must decide."""

    type: str
    operator: str
    left: str
    right: str


class Judge:
    """Decides whether rows pass conditions; queries PostgreSQL once for what it cannot decide."""

    MAX_REMEMBERED = 20_000

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._tests: dict[tuple[PgType, Condition], Test | None] = {}
        self._answers: dict[Question, bool | None] = {}

    def passes(self, kind: PgType, condition: Condition, value: str | None) -> bool | Question:
        """Return whether the value matches the condition, or the question to ask first."""
        if condition.operator == "is":
            test = _IS.get(condition.value.lower())
            return test is not None and test(value) != condition.negated
        if value is None:
            # NULL matches only `is` and `isdistinct`.
            return condition.operator == "isdistinct" and not condition.negated
        key = (kind, condition)
        if key not in self._tests:
            if len(self._tests) > self.MAX_REMEMBERED:
                self._tests.clear()
            self._tests[key] = local_test(kind, condition)
        test_value = self._tests[key]
        if test_value is not None:
            try:
                return test_value(value) != condition.negated
            except (ValueError, KeyError, ArithmeticError):
                pass  # a NaN in a numeric column: PostgreSQL decides its order
        question = Question(kind.sql, condition.operator, value, condition.value)
        if question not in self._answers:
            return question
        answer = self._answers[question]
        return answer is not None and answer != condition.negated

    async def ask(self, questions: Iterable[Question]) -> None:
        """Let PostgreSQL answer the questions, for later calls of `passes`."""
        if len(self._answers) > self.MAX_REMEMBERED:
            self._answers.clear()
        async with self._pool.connection() as connection:
            for question in set(questions):
                try:
                    cursor = await connection.execute(*_statement(question))
                except InsufficientPrivilege:  # a type without access for the API's roles
                    self._answers[question] = None
                    continue
                row = await cursor.fetchone()
                self._answers[question] = row[0] if row else None


def _statement(question: Question) -> tuple[sql.Composed, list[str]]:
    # The type's name comes from format_type(), which quotes what needs quoting.
    kind = sql.SQL(question.type)
    if question.operator == "in":
        statement = sql.SQL("select %s::{kind} = any (%s::{kind}[])").format(kind=kind)
    else:
        statement = sql.SQL("select %s::{kind} {operator} %s::{kind}").format(
            kind=kind, operator=sql.SQL(_SQL[question.operator])
        )
    return statement, [question.left, question.right]
