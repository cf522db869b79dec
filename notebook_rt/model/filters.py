"""The filter language of Supabase Realtime: one parser for the socket, for REST and for this side.

Input: ``column=operator.value`` (a comma means AND, ``not.`` negates, quotes protect a comma, a parenthesis
or outer blanks; ``or=(…)`` as in PostgREST), or a dict or list as shorthand. Output: a ``Filter`` that can be
written for Realtime (``to_realtime``) and for PostgREST (``to_rest``) and be applied to a typed row
(``matches``; the meaning of every operator is in ``predicates.py``). Keeps promise 7: the three must agree.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

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
"""Maximum number of values in one ``in`` for Realtime (docs/design/facts.md)."""
MAX_DEPTH: Final = 20
"""Maximum nesting of groups in an ``or``."""

_IS_VALUES: Final = ("null", "true", "false", "unknown")
_RESERVED_PARAMS: Final = frozenset(
    {"select", "order", "limit", "offset", "and", "or", "not.and", "not.or", "columns"}
    | {"on_conflict"}
    | {"apikey"}  # a project's gateway reads it as the key, and may drop it: all rows would match
)
_PLAIN_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$ ]*(?<! )\Z")
_SYMBOLS: Final = dict(
    zip(
        ("=", "==", "!=", "<>", "<", "<=", ">", ">="),
        ("eq", "eq", "neq", "neq", "lt", "lte", "gt", "gte"),
        strict=True,
    )
)
_NEEDS_QUOTES: Final = re.compile(r'[,(){}"\\]|^\s|\s\Z')
"""PostgREST reads ``{`` as the start of an array."""


class Condition(msgspec.Struct, frozen=True):
    """One ``column=[not.]operator.value``; ``values`` has several items only for ``in``."""

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
        """Return a query parameter for PostgREST, which reserves some names."""
        if _PLAIN_COLUMN.match(self.column) and self.column not in _RESERVED_PARAMS:
            return self.column, self._for_rest()._operation(quote=False)
        return "and", f"({self.to_logic()})"

    def to_logic(self, *, rest: bool = True) -> str:
        """Return a member of PostgREST's ``and=(…)`` and ``or=(…)``; without ``rest``, of a filter's text."""
        condition = self._for_rest() if rest else self
        return f"{column_name(self.column)}.{condition._operation(quote=True)}"

    def _for_rest(self) -> Condition:
        """Return the condition that PostgREST, for which ``*`` means ``%``, reads as this one."""
        if self.operator == "in" and self.values == ("",):
            # PostgREST reads in.("") like in.(): an empty list.
            return replace(self, operator="eq")
        if self.operator in ("like", "ilike") and "*" in self.value:
            pattern = "match" if self.operator == "like" else "imatch"
            return replace(self, operator=pattern, values=(like_to_regex(self.value),))
        return self

    def to_audit(self) -> dict[str, Any]:
        """Return the input for the SQL function ``nrt_predicate``."""
        names = ("column", "operator", "values", "negated")
        return {name: getattr(self, name) for name in names}

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that it uses."""
        return (self.column,)

    def holds(self, row: Mapping[str, Any], schema: Schema) -> bool | None:
        """Like `Filter.matches`."""
        pg_type = schema.types.get(self.column)
        if self.column not in row or pg_type is None:
            return None
        truth = holds(self.operator, row[self.column], self.values, canonical(pg_type))
        # holds() has SQL's three values and a fourth, "unknowable" here, so that NOT NULL stays NULL.
        if truth == "unknowable":
            return None
        return truth is (not self.negated)


class AnyOf(msgspec.Struct, frozen=True):
    """``or=(a.eq.1,and(b.gt.2,c.is.null))``: one of the filters must hold."""

    alternatives: tuple[Filter, ...]

    def to_realtime(self) -> str:
        """Return it as text. Realtime itself has no OR: `Filter.to_realtime` returns None."""
        return f"or={self._group(rest=False)}"

    def to_rest(self) -> tuple[str, str]:
        """Return a query parameter for PostgREST."""
        return "or", self._group(rest=True)

    def to_logic(self, *, rest: bool = True) -> str:
        """Return a member of PostgREST's ``and=(…)`` and ``or=(…)``."""
        return f"or{self._group(rest=rest)}"

    def _group(self, *, rest: bool) -> str:
        return f"({','.join(one.to_logic(rest=rest) for one in self.alternatives)})"

    def to_audit(self) -> dict[str, Any]:
        """Return the input for the SQL function ``nrt_predicate``."""
        return {"any": [one.to_audit() for one in self.alternatives]}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses."""
        return tuple(name for one in self.alternatives for name in one.columns)

    def holds(self, row: Mapping[str, Any], schema: Schema) -> bool | None:
        """Like `Filter.matches`."""
        verdicts = [one.matches(row, schema) for one in self.alternatives]
        return True if True in verdicts else None if None in verdicts else False


class Filter(msgspec.Struct, frozen=True):
    """Conditions that must all hold; the empty filter holds for every row.

    Examples
    --------
    >>> f = parse("user_id=eq.42,status=in.(open,held)")
    >>> f.to_rest()
    [('user_id', 'eq.42'), ('status', 'in.(open,held)')]
    >>> str(parse({"user_id": 42, "closed_at": None, "status": ["open", "held"]}))
    'user_id=eq.42,closed_at=is.null,status=in.(open,held)'
    """

    conditions: tuple[Condition | AnyOf, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.conditions)

    def __str__(self) -> str:
        return ",".join(condition.to_realtime() for condition in self.conditions)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses, each once, in order."""
        return tuple(dict.fromkeys(name for one in self.conditions for name in one.columns))

    @property
    def why_empty(self) -> str:
        """Why there may be no match: a value is in SQL's quotes, which are compared, too; else empty.

        >>> parse("company=eq.'J & J'").why_empty
        "no row matches company=eq.'J & J': a value has no quotes around it, and these are compared, too"
        """
        for one in self.conditions:
            inside = one.alternatives if isinstance(one, AnyOf) else ()
            if why := next((why for each in inside if (why := each.why_empty)), ""):
                return why
            if isinstance(one, Condition) and any(map(_SQL_QUOTED.fullmatch, one.values)):
                return (
                    f"no row matches {one.to_realtime()}: a value has no quotes around it, and these are "
                    "compared, too"
                )
        return ""

    @property
    def equal(self) -> dict[str, str]:
        """The columns that have the same value in all matching rows, and that value as text.

        >>> parse("user_id=eq.42,status=in.(open,held),price=gt.1").equal
        {'user_id': '42'}
        """
        return {
            one.column: one.value
            for one in self.conditions
            if isinstance(one, Condition)
            and not one.negated
            and (one.operator == "eq" or (one.operator == "in" and len(one.values) == 1))
        }

    def to_rest(self) -> list[tuple[str, str]]:
        """Return the query parameters for PostgREST, unencoded."""
        return [condition.to_rest() for condition in self.conditions]

    def to_logic(self, *, rest: bool = True) -> str:
        """Return it as a member of a group: ``a.eq.1``, or ``and(a.eq.1,b.eq.2)``."""
        members = [condition.to_logic(rest=rest) for condition in self.conditions]
        return members[0] if len(members) == 1 else f"and({','.join(members)})"

    def to_audit(self) -> list[dict[str, Any]]:
        """Return the input for the SQL function ``nrt_predicate``."""
        return [condition.to_audit() for condition in self.conditions]

    def to_realtime(self) -> str | None:
        """Return the text for a ``postgres_changes`` binding; None if Realtime does not support the filter.

        Not supported: an ``or``, more than 100 values in an ``in``, an empty ``in``, a column whose name has
        a reserved character. Then the table is subscribed unfiltered and ``matches`` decides.
        """
        for condition in self.conditions:
            if isinstance(condition, AnyOf):
                return None
            if condition.operator == "in" and not 0 < len(condition.values) <= IN_LIMIT:
                return None
            if not _PLAIN_COLUMN.match(condition.column):
                return None
        return str(self)

    def matches(self, row: Mapping[str, Any], schema: Schema) -> bool | None:
        """Return whether PostgreSQL would select ``row``; None if only the server knows.

        ``row`` is typed (``model.types``). The result is None for a column that is missing from the row, a
        comparison that depends on a collation, or a pattern or literal that cannot be read here with
        certainty, unless another condition is already false.
        """
        verdict: bool | None = True
        for condition in self.conditions:
            one = condition.holds(row, schema)
            if one is False:
                return False
            if one is None:
                verdict = None
        return verdict


FilterSource = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | Filter | None
"""The inputs of `parse`."""


def column_name(name: str) -> str:
    """Return ``name`` as PostgREST reads it in select, order and logic: quoted if necessary.

    >>> print(column_name("price"), column_name("a.b"))
    price "a.b"
    """
    if _PLAIN_COLUMN.match(name) and name not in _RESERVED_PARAMS:
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


_SQL_QUOTED: Final = re.compile(r"'.*'", re.DOTALL)
_SQL_JOINED: Final = re.compile(
    rf"\s(and|or)\s+\w+\s*=\s*(not\.)?({'|'.join(OPERATORS)})\.", re.IGNORECASE
)


def _quoted(value: str) -> str:
    if not _NEEDS_QUOTES.search(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Parsing ----------------------------------------------------------------------------------------


def parse(source: FilterSource) -> Filter:
    """Read a filter.

    Parameters
    ----------
    source
        Realtime's text, and ``or=(a.eq.1,b.gt.2)`` as in PostgREST; or a dict of column to value (equality; a
        list means ``in``, None means ``is.null``) or to a dict of comparisons (``{"gte": 10, "lt": 20}``); or
        a list of filters, at least one of which must hold; or a ``Filter``; None and ``""`` filter nothing.

    Raises
    ------
    FilterError
        With the problem and its position.

    Examples
    --------
    >>> parse("n=not.in.(1,2)").conditions[0]
    Condition(column='n', operator='in', values=('1', '2'), negated=True)
    >>> str(parse([{"status": "open"}, {"price": {"gte": 10, "lt": 20}, "held": True}]))
    'or=(status.eq.open,and(price.gte.10,price.lt.20,held.eq.true))'
    """
    if source is None:
        return Filter()
    if isinstance(source, Filter):
        return source
    if isinstance(source, str):
        return Filter(tuple(_Parser(source).conditions()))
    if isinstance(source, Mapping):
        return Filter(tuple(one for pair in source.items() for one in _from_pair(*pair)))
    if isinstance(source, (list, tuple)):
        return _any_of(source)
    raise FilterError(
        "a filter must be a string such as 'user_id=eq.42', a dict, or a list of them for OR, "
        f"not {type(source).__name__}"
    )


def _any_of(sources: Sequence[Any]) -> Filter:
    alternatives = tuple(map(parse, sources))
    if not (alternatives and all(alternatives)):
        raise FilterError("a list of filters means OR: it needs a filter, and none may be empty")
    if len(alternatives) == 1:
        return alternatives[0]
    return Filter((AnyOf(alternatives),))


def _from_pair(column: Any, value: Any) -> Iterator[Condition]:
    if not isinstance(column, str) or not column:
        raise FilterError(f"a filter's column must be a non-empty string, not {column!r}")
    if not isinstance(value, Mapping):
        yield _compared(column, "eq", value)
        return
    if not value:
        raise FilterError(f'filter on {column!r}: no comparison, such as {{"gte": 10}}')
    for operator, operand in value.items():
        name = str(operator).removeprefix("not.")
        if name not in OPERATORS:
            meant = _SYMBOLS.get(name)
            hint = f"{meant!r} is meant" if meant else f"there are {', '.join(OPERATORS)}"
            raise FilterError(f"filter on {column!r}: {operator!r} is not an operator; {hint}")
        yield replace(_compared(column, name, operand), negated=name != operator)


def _compared(column: str, operator: str, value: Any) -> Condition:
    """Return the condition; ``eq`` with None or a list becomes the condition that SQL needs instead."""
    several = isinstance(value, (list, tuple, set, frozenset, range)) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    )
    if operator == "is":
        word = "null" if value is None else str(_literal(column, value)).lower()
        if word not in _IS_VALUES:
            raise FilterError(f"filter on {column!r}: is takes {', '.join(_IS_VALUES)}")
        return Condition(column, "is", (word,))
    if value is None and operator == "eq":
        return Condition(column, "is", ("null",))
    if several and operator in ("eq", "in"):
        return Condition(column, "in", tuple(_literal(column, item) for item in value))
    if operator == "in":
        raise FilterError(f"filter on {column!r}: in takes a list, not {type(value).__name__}")
    if value is None:
        raise FilterError(f'filter on {column!r}: for null there are None and {{"not.is": None}}')
    return Condition(column, operator, (_literal(column, value),))


def _literal(column: str, value: Any) -> str:
    """Return the text that PostgreSQL reads as ``value``."""
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
    if value is None:
        raise FilterError(
            f"filter on {column!r}: null is in no list; ask for it beside that, "
            f"[{{{column!r}: [...]}}, {{{column!r}: None}}]"
        )
    raise FilterError(
        f"filter on {column!r}: cannot write a {type(value).__name__} as a filter's value; "
        "pass its text"
    )


class _Parser:
    """A recursive descent parser; errors name the position ``at``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def conditions(self) -> Iterator[Condition | AnyOf]:
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

    def _condition(self) -> Condition | AnyOf:
        start = self.at
        equals = self.text.find("=", start)
        if equals < 0:
            raise self._fail("expected column=operator.value, such as price=gt.10", start)
        column = self.text[start:equals].strip()
        if not column or re.search(r'[,()"]', column):
            words = f"{column!r} is no column name"
            if '"' in column and (bare := column.replace('"', "")):
                words += f": names go unquoted, and any name works in a dict: {{{bare!r}: ...}}"
            raise self._fail(words, start)
        self.at = equals + 1
        if self.text.startswith("(", self.at) and column in ("and", "or", "not.and", "not.or"):
            if column != "or":
                raise self._fail("a comma is AND, and for OR there is or=(a.eq.1,b.gt.2)", start)
            group = AnyOf(tuple(self._group()))
            if self.at < len(self.text) and self.text[self.at] != ",":
                raise self._fail("expected a comma or the end")
            return group
        condition = self._comparison(column, ends=",")
        if self.at < len(self.text) and self.text[self.at] != ",":
            raise self._fail("expected a comma or the end")
        return condition

    def _group(self, depth: int = 0) -> Iterator[Filter]:
        """Parse the members of ``(a.eq.1,and(b.gt.2,or(…)))``."""
        opened = self.at
        if depth > MAX_DEPTH:
            raise self._fail(f"groups are nested more than {MAX_DEPTH} deep")
        while self.at < len(self.text) and (self.at == opened or self.text[self.at] != ")"):
            if self.text[self.at] != ("(" if self.at == opened else ","):
                raise self._fail("expected a comma or ')'")
            self.at += 1
            yield self._member(depth)
        if self.at >= len(self.text):
            raise self._fail("the parenthesis is never closed", opened)
        self.at += 1

    def _member(self, depth: int) -> Filter:
        for word in ("and", "or"):
            if self.text.startswith(f"{word}(", self.at):
                self.at += len(word)
                members = tuple(self._group(depth + 1))
                if word == "or":
                    return Filter((AnyOf(members),))
                return Filter(tuple(one for member in members for one in member.conditions))
        start = self.at
        if self.text.startswith('"', start):
            column = self._quoted()
        else:
            found = re.compile(r'[^.,()"=]*').match(self.text, start)
            assert found is not None  # it may be empty
            column, self.at = found[0].strip(), found.end()
        if not column or not self.text.startswith(".", self.at):
            raise self._fail("expected column.operator.value, such as price.gt.10", start)
        self.at += 1
        return Filter((self._comparison(column, ends=",)"),))

    def _comparison(self, column: str, *, ends: str) -> Condition:
        """Parse ``[not.]operator.value``, up to one of ``ends``."""
        start = self.at
        negated = self.text.startswith("not.", self.at)
        if negated:
            self.at += len("not.")
        operator = self._operator()
        values = tuple(self._list()) if operator == "in" else (self._value(ends),)
        if operator == "is":
            keyword = values[0].lower()
            if keyword not in _IS_VALUES:
                raise self._fail(f"is takes {', '.join(_IS_VALUES)}, not {values[0]!r}", start)
            values = (keyword,)
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

    def _value(self, ends: str) -> str:
        """Parse a quoted text, or everything up to one of ``ends`` outside parentheses."""
        if self.text.startswith('"', self.at):
            return self._quoted()
        start, depth = self.at, 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in ends and depth <= 0:
                break
            if char == "," and depth > 0:
                raise self._fail("a comma inside parentheses; put the value in double quotes")
            depth += (char == "(") - (char == ")")
            self.at += 1
        value = self.text[start : self.at].strip()
        if joined := _SQL_JOINED.search(value):
            raise self._fail(
                "a comma is AND, and for OR there is or=(a.eq.1,b.gt.2); a value with these words is put in "
                "double quotes",
                self.text.index(joined[0], start) + 1,
            )
        return value

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
