"""The filter language of Supabase Realtime: one parser for the socket, for REST and for this side.

In goes ``column=operator.value`` (a comma means AND, ``not.`` negates, quotes protect a comma, a
parenthesis or outer blanks) or a dict as shorthand; out comes a ``Filter`` that can be said to
Realtime (``to_realtime``), to PostgREST (``to_rest``) and be asked about a typed row (``matches``,
whose meaning of every operator is in ``predicates.py``). Keeps promise 7: the three must agree.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from notebook_rt.errors import FilterError
from notebook_rt.model.patterns import like_to_regex
from notebook_rt.model.predicates import holds
from notebook_rt.model.types import canonical

if TYPE_CHECKING:
    from notebook_rt.model.types import Schema

OPERATORS: Final = (
    *("eq", "neq", "lt", "lte", "gt", "gte", "in"),
    *("like", "ilike", "is", "match", "imatch", "isdistinct"),
)
IN_LIMIT: Final = 100
"""Values that Realtime takes in one ``in`` (docs/design/facts.md)."""

_IS_VALUES: Final = ("null", "true", "false", "unknown")
_RESERVED_PARAMS: Final = frozenset(
    {"select", "order", "limit", "offset", "and", "or", "not.and", "not.or", "columns"}
    | {"on_conflict"}
    | {"apikey"}  # a project's gateway takes it for the key, and may drop it: all rows would match
)
_PLAIN_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$ ]*(?<! )\Z")
_NEEDS_QUOTES: Final = re.compile(r'[,(){}"\\]|^\s|\s\Z')
"""``{`` begins an array, to PostgREST."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One ``column=[not.]operator.value``; ``values`` holds several only for ``in``."""

    column: str
    operator: str
    values: tuple[str, ...]
    negated: bool = False

    @property
    def value(self) -> str:
        return self.values[0]

    def _operation(self, *, quote: bool) -> str:
        if self.operator == "in":
            value = "(" + ",".join(_quoted(v) or '""' for v in self.values) + ")"
        else:
            value = _quoted(self.value) if quote else self.value
        return f"{'not.' if self.negated else ''}{self.operator}.{value}"

    def to_realtime(self) -> str:
        return f"{self.column}={self._operation(quote=True)}"

    def to_rest(self) -> tuple[str, str]:
        """A query parameter of PostgREST, which knows ``*`` for ``%`` and reserves some names."""
        condition = self
        if self.operator == "in" and self.values == ("",):
            # PostgREST reads in.("") as it reads in.(): nothing is in it.
            condition = replace(self, operator="eq")
        if self.operator in ("like", "ilike") and "*" in self.value:
            condition = Condition(
                self.column,
                "match" if self.operator == "like" else "imatch",
                (like_to_regex(self.value),),
                self.negated,
            )
        if _PLAIN_COLUMN.match(self.column) and self.column not in _RESERVED_PARAMS:
            return self.column, condition._operation(quote=False)
        return "and", f"({condition.to_logic()})"

    def to_logic(self) -> str:
        """A part of PostgREST's ``and=(…)`` and ``or=(…)``."""
        return f"{column_name(self.column)}.{self._operation(quote=True)}"


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold; the empty filter holds for every row.

    Examples
    --------
    >>> f = parse("user_id=eq.42,status=in.(open,held)")
    >>> f.to_rest()
    [('user_id', 'eq.42'), ('status', 'in.(open,held)')]
    >>> str(parse({"user_id": 42, "closed_at": None, "status": ["open", "held"]}))
    'user_id=eq.42,closed_at=is.null,status=in.(open,held)'
    """

    conditions: tuple[Condition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __str__(self) -> str:
        return ",".join(condition.to_realtime() for condition in self.conditions)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it asks about, each once, in order."""
        return tuple(dict.fromkeys(condition.column for condition in self.conditions))

    def to_rest(self) -> list[tuple[str, str]]:
        """The query parameters for PostgREST, unencoded."""
        return [condition.to_rest() for condition in self.conditions]

    def to_realtime(self) -> str | None:
        """The text for a ``postgres_changes`` binding; None where the socket cannot carry it.

        It cannot: more than 100 values in an ``in``, an empty ``in``, a column whose name has a
        reserved character. Then the table is subscribed unfiltered and ``matches`` decides.
        """
        for condition in self.conditions:
            if condition.operator == "in" and not 0 < len(condition.values) <= IN_LIMIT:
                return None
            if not _PLAIN_COLUMN.match(condition.column):
                return None
        return str(self)

    def matches(self, row: Mapping[str, Any], schema: Schema) -> bool | None:
        """Whether PostgreSQL would select ``row``; None where only the server knows.

        ``row`` is typed (``store.types``). A column that is missing from it, a comparison that
        depends on a collation, a pattern or literal this side cannot read with certainty: None,
        unless another condition already says no.
        """
        verdict: bool | None = True
        for condition in self.conditions:
            one = _condition_holds(condition, row, schema)
            if one is False:
                return False
            if one is None:
                verdict = None
        return verdict


def column_name(name: str) -> str:
    """``name`` as PostgREST reads it in select, order and logic: quoted where it must be.

    >>> print(column_name("price"), column_name("a.b"))
    price "a.b"
    """
    if _PLAIN_COLUMN.match(name) and name not in _RESERVED_PARAMS:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _condition_holds(condition: Condition, row: Mapping[str, Any], schema: Schema) -> bool | None:
    if condition.column not in row:
        return None
    pg_type = schema.types.get(condition.column)
    if pg_type is None:
        return None
    value = row[condition.column]
    truth = holds(condition.operator, value, condition.values, canonical(pg_type))
    # holds() has SQL's three values and a fourth, "unknown to us", so that NOT NULL stays NULL.
    if truth == "unknowable":
        return None
    return truth is (not condition.negated)


def _quoted(value: str) -> str:
    if not _NEEDS_QUOTES.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Parsing ----------------------------------------------------------------------------------------


def parse(source: str | Mapping[str, Any] | Filter | None) -> Filter:
    """Read a filter.

    Parameters
    ----------
    source
        Realtime's text; or a dict of column to value (equality; a list means ``in``, None means
        ``is.null``); or a ``Filter``; None and ``""`` filter nothing.

    Raises
    ------
    FilterError
        Saying what is wrong and at which position.

    Examples
    --------
    >>> parse("n=not.in.(1,2)").conditions[0]
    Condition(column='n', operator='in', values=('1', '2'), negated=True)
    """
    if source is None:
        return Filter()
    if isinstance(source, Filter):
        return source
    if isinstance(source, str):
        return Filter(tuple(_Parser(source).conditions()))
    if isinstance(source, Mapping):
        return Filter(tuple(_from_pair(column, value) for column, value in source.items()))
    raise FilterError(
        f"a filter is a text such as 'user_id=eq.42' or a dict, not {type(source).__name__}"
    )


def _from_pair(column: Any, value: Any) -> Condition:
    if not isinstance(column, str) or not column:
        raise FilterError(f"a filter's column is a non-empty text, not {column!r}")
    if value is None:
        return Condition(column, "is", ("null",))
    if isinstance(value, (list, tuple, set, frozenset, range)) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    ):
        return Condition(column, "in", tuple(_literal(column, item) for item in value))
    return Condition(column, "eq", (_literal(column, value),))


def _literal(column: str, value: Any) -> str:
    """The text that PostgreSQL reads as ``value``."""
    if hasattr(value, "item") and callable(value.item) and not isinstance(value, str):
        value = value.item()  # a NumPy scalar
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return repr(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (str, int, float, decimal.Decimal)) or type(value).__name__ == "UUID":
        return str(value)
    raise FilterError(
        f"filter on {column!r}: cannot write a {type(value).__name__} as a filter's value; "
        "pass its text"
    )


class _Parser:
    """A recursive descent over the text; ``at`` is the position an error names."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def conditions(self) -> Iterator[Condition]:
        if not self.text.strip():
            return
        while True:
            yield self._condition()
            if self.at >= len(self.text):
                return
            self.at += 1  # the comma

    def _fail(self, message: str, at: int | None = None) -> FilterError:
        where = self.at if at is None else at
        return FilterError(f"filter {self.text!r}, position {where}: {message}")

    def _condition(self) -> Condition:
        start = self.at
        equals = self.text.find("=", start)
        if equals < 0:
            raise self._fail("expected column=operator.value, such as price=gt.10", start)
        column = self.text[start:equals].strip()
        if not column or re.search(r'[,()"]', column):
            raise self._fail(f"{column!r} is no column name", start)
        if column in ("and", "or", "not.and", "not.or") and self.text[equals + 1 :].startswith("("):
            raise self._fail(
                "Realtime knows no groups: a comma is AND, and for OR there is in.(a,b), "
                "match.^(a|b)$, or a table for each",
                start,
            )
        self.at = equals + 1
        negated = self.text.startswith("not.", self.at)
        if negated:
            self.at += len("not.")
        operator = self._operator()
        values = tuple(self._list()) if operator == "in" else (self._value(),)
        if operator == "is":
            keyword = values[0].lower()
            if keyword not in _IS_VALUES:
                raise self._fail(f"is takes {', '.join(_IS_VALUES)}, not {values[0]!r}", equals + 1)
            values = (keyword,)
        if self.at < len(self.text) and self.text[self.at] != ",":
            raise self._fail("expected a comma or the end")
        return Condition(column, operator, values, negated)

    def _operator(self) -> str:
        found = re.compile(r"([a-zA-Z]*)(\.?)").match(self.text, self.at)
        assert found is not None  # both groups may be empty
        operator = found[1]
        if operator not in OPERATORS:
            what = f"{operator!r} is no operator" if operator else "an operator is missing"
            raise self._fail(f"{what}, as eq is in price=eq.10; there are {', '.join(OPERATORS)}")
        if not found[2]:
            raise self._fail(f"expected a dot after {operator!r}", found.end())
        self.at = found.end()
        return operator

    def _value(self) -> str:
        """A quoted text, or everything up to the next comma outside parentheses."""
        if self.text.startswith('"', self.at):
            return self._quoted()
        start, depth = self.at, 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "," and depth <= 0:
                break
            if char == "," and depth > 0:
                raise self._fail("a comma inside parentheses; put the value in double quotes")
            depth += (char == "(") - (char == ")")
            self.at += 1
        return self.text[start : self.at].strip()

    def _quoted(self) -> str:
        start = self.at
        self.at += 1
        out = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\" and self.at + 1 < len(self.text):
                out.append(self.text[self.at + 1])
                self.at += 2
                continue
            self.at += 1
            if char == '"':
                return "".join(out)
            out.append(char)
        raise self._fail("the quote is never closed", start)

    def _list(self) -> Iterator[str]:
        if not self.text.startswith("(", self.at):
            raise self._fail("in takes a list in parentheses, such as in.(1,2)")
        opened = self.at
        self.at += 1
        if self.text.startswith(")", self.at):
            self.at += 1
            return
        while True:
            if self.text.startswith('"', self.at):
                yield self._quoted()
            else:
                start = self.at
                while self.at < len(self.text) and self.text[self.at] not in ",()":
                    self.at += 1
                yield self.text[start : self.at].strip()
            if self.at >= len(self.text):
                raise self._fail("the parenthesis is never closed", opened)
            char = self.text[self.at]
            self.at += 1
            if char == ")":
                return
            if char != ",":
                raise self._fail("expected a comma or ')'", self.at - 1)
