"""PostgREST's grammar: from the pairs of a query string to a `Query`.

In: the decoded pairs of the query string. Out: a `Query`, or a `RestError` (PGRST100 if the text violates the
grammar, 501 if it requests a feature that this server lacks). Pure: it does not use the database, and creates
no SQL, which `compose` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from notebook_rt.local.rest.errors import RestError, not_supported, parse_error
from notebook_rt.local.rest.query import (
    AGGREGATES,
    COMPARISONS,
    IS_VALUES,
    OPERATORS,
    SEARCHES,
    Condition,
    Field,
    Filter,
    Item,
    Logic,
    Order,
    Query,
    Step,
)

T = TypeVar("T")


def parse(pairs: Iterable[tuple[str, str]], *, call: bool = False) -> Query:
    """Read the decoded pairs of a query string.

    Parameters
    ----------
    pairs
        Name and value, percent-decoded, in order.
    call
        For a function: pairs whose value has no operator are its arguments. For a table they are
        filters without an operator, and refused.

    Raises
    ------
    RestError
        PGRST100, PGRST103 (negative limit), PGRST123 (aggregates) or 501.

    Examples
    --------
    >>> parse([("id", "gte.7"), ("select", "id,n:name")]).where
    (Filter(field=Field(name='id', path=()), operator='gte', value='7', negated=False, \
modifier=None, language=None),)
    """
    first: dict[str, str] = {}
    where: list[Condition] = []
    arguments: list[tuple[str, str]] = []
    for key, value in pairs:
        if "\0" in key or "\0" in value:
            raise RestError(400, "22021", "invalid byte sequence for encoding: 0x00")
        if key in _RESERVED:
            first.setdefault(key, value)
        elif key in ("and", "or", "not.and", "not.or"):
            where.append(_read("logic tree", key + value, _logic_tree))
        elif "." in key and key.rsplit(".", 1)[1] in _EMBEDDABLE:
            raise not_supported("embedded resources")
        elif call and not _looks_like_filter(value):
            arguments.append((key, value))
        else:
            where.append(_filter(key, value))
    select = first.get("select", "*")
    columns = first.get("columns")
    on_conflict = first.get("on_conflict")
    return Query(
        select=_read("select parameter", select, _select) if select.strip() else (),
        where=tuple(where),
        order=_read("order", first["order"], _order) if first.get("order") else (),
        limit=_limit(first.get("limit")),
        offset=max(0, _integer(first.get("offset")) or 0),
        columns=_read("columns parameter", columns, _names) if columns else None,
        on_conflict=_read("on_conflict parameter", on_conflict, _names) if on_conflict else (),
        arguments=tuple(arguments),
    )


_RESERVED = frozenset({"select", "order", "limit", "offset", "columns", "on_conflict"})
_EMBEDDABLE = frozenset({"order", "limit", "offset", "and", "or"})


def _integer(text: str | None) -> int | None:
    """Read a limit; one that is not a number is ignored, as by PostgREST."""
    try:
        number = int(text) if text is not None and len(text) < 19 else None
    except ValueError:
        return None
    return number


def _limit(text: str | None) -> int | None:
    number = _integer(text)
    if number is not None and number < 0:
        raise RestError(
            416,
            "PGRST103",
            "Requested range not satisfiable",
            "Limit should be greater than or equal to zero.",
        )
    return number


def _looks_like_filter(value: str) -> bool:
    head, dot, _ = value.partition(".")
    return head.partition("(")[0] in OPERATORS or (head == "not" and dot == ".")


class _Scanner:
    """A text and a position in it; `refuse` reports the position of a syntax error."""

    def __init__(self, what: str, text: str) -> None:
        self.what = what
        self.text = text
        self.at = 0

    def refuse(self, problem: str) -> RestError:
        return parse_error(self.what, self.text, self.at, problem)

    def peek(self, token: str) -> bool:
        return self.text.startswith(token, self.at)

    def accept(self, token: str) -> bool:
        if self.peek(token):
            self.at += len(token)
            return True
        return False

    def expect(self, token: str) -> None:
        if not self.accept(token):
            seen = f'"{self.text[self.at]}"' if self.at < len(self.text) else "end of input"
            raise self.refuse(f'unexpected {seen} expecting "{token}"')

    def spaces(self) -> None:
        self.while_(lambda char: char in " \t")

    def while_(self, wanted: Callable[[str], bool]) -> str:
        start = self.at
        while self.at < len(self.text) and wanted(self.text[self.at]):
            self.at += 1
        return self.text[start : self.at]

    def rest(self) -> str:
        start, self.at = self.at, len(self.text)
        return self.text[start:]

    def done(self) -> bool:
        return self.at == len(self.text)


def _read(what: str, text: str, reader: Callable[[_Scanner], T]) -> T:
    scanner = _Scanner(what, text)
    result = reader(scanner)
    if not scanner.done():
        raise scanner.refuse(f'unexpected "{text[scanner.at]}"')
    return result


def _separated(scanner: _Scanner, reader: Callable[[_Scanner], T]) -> tuple[T, ...]:
    """Read one or more items, separated by commas, with optional spaces."""
    found: list[T] = []
    while True:
        scanner.spaces()
        found.append(reader(scanner))
        scanner.spaces()
        if not scanner.accept(","):
            return tuple(found)


def _quoted(scanner: _Scanner) -> str:
    """Read after the opening quote; a backslash escapes the next character."""
    parts: list[str] = []
    while not scanner.done():
        char = scanner.text[scanner.at]
        scanner.at += 1
        if char == '"':
            return "".join(parts)
        if char == "\\":
            if scanner.done():
                break
            char = scanner.text[scanner.at]
            scanner.at += 1
        parts.append(char)
    raise scanner.refuse('unexpected end of input expecting "\\""')


def _name(scanner: _Scanner) -> str:
    """Read a column's name: quoted, or letters, digits, `_`, `$`, inner spaces and dashes."""
    if scanner.accept('"'):
        return _quoted(scanner)
    start = scanner.at
    while not scanner.done():
        char = scanner.text[scanner.at]
        if not (char.isalnum() or char in "_ $" or (char == "-" and not scanner.peek("->"))):
            break
        scanner.at += 1
    name = scanner.text[start : scanner.at].strip()
    if not name:
        raise scanner.refuse("expecting field name (* or [a..z0..9_$])")
    return name


def _names(scanner: _Scanner) -> tuple[str, ...]:
    return _separated(scanner, _name)


def _path(scanner: _Scanner) -> tuple[Step, ...]:
    steps: list[Step] = []
    while scanner.accept("->"):
        as_text = scanner.accept(">")
        start = scanner.at
        sign = -1 if scanner.accept("-") else 1
        digits = scanner.while_(lambda char: char in "0123456789")
        ends = scanner.done() or any(scanner.peek(end) for end in ("->", "::", ".", ",", ")"))
        if digits and ends and len(digits) < 10:
            steps.append(Step(as_text, sign * int(digits)))
            continue
        if sign < 0:
            raise scanner.refuse("expecting digit")
        scanner.at = start
        steps.append(Step(as_text, _name(scanner)))
    return tuple(steps)


def _field(scanner: _Scanner) -> Field:
    name = _name(scanner)
    return Field(name, _path(scanner))


def _select(scanner: _Scanner) -> tuple[Item, ...]:
    return _separated(scanner, _item)


def _item(scanner: _Scanner) -> Item:
    if scanner.peek("..."):
        raise not_supported("spread embedded resources")
    if scanner.accept("*"):
        return Item(Field("*"))
    name = _name(scanner)
    alias = None
    if scanner.peek(":") and not scanner.peek("::"):
        scanner.at += 1
        alias, name = name, _name(scanner)
    if scanner.peek("!") or (scanner.peek("(") and name not in AGGREGATES):
        raise not_supported("embedded resources")
    if scanner.peek("()"):
        raise _aggregates_refused()
    path = _path(scanner)
    cast = None
    if scanner.accept("::"):
        cast = scanner.while_(lambda char: char.isascii() and (char.isalnum() or char in "_ $"))
        cast = cast.strip() + ("[]" if scanner.accept("[]") else "")
        if not cast or cast == "[]":
            raise scanner.refuse("expecting letter or digit")
    if scanner.peek("."):
        start = scanner.at
        scanner.at += 1
        if scanner.while_(str.isalpha) in AGGREGATES and scanner.peek("()"):
            raise _aggregates_refused()
        scanner.at = start
    return Item(Field(name, path), alias, cast)


def _aggregates_refused() -> RestError:
    # A Supabase project has them switched off as well (db-aggregates-enabled).
    return RestError(400, "PGRST123", "Use of aggregate functions is not allowed")


def _order(scanner: _Scanner) -> tuple[Order, ...]:
    return _separated(scanner, _order_term)


def _order_term(scanner: _Scanner) -> Order:
    field = _field(scanner)
    if scanner.peek("("):
        raise not_supported("order by an embedded resource")
    descending: bool | None = None
    nulls_first: bool | None = None
    if scanner.accept(".asc"):
        descending = False
    elif scanner.accept(".desc"):
        descending = True
    if scanner.accept(".nullsfirst"):
        nulls_first = True
    elif scanner.accept(".nullslast"):
        nulls_first = False
    if not scanner.done() and not scanner.peek(",") and not scanner.peek(" "):
        raise scanner.refuse('expecting "asc", "desc", "nullsfirst" or "nullslast"')
    return Order(field, descending, nulls_first)


def _filter(key: str, value: str) -> Filter:
    field = _read("tree path", key, _filter_path)
    scanner = _Scanner("filter", value)
    condition = _operation(scanner, field, _Scanner.rest)
    if not scanner.done():
        raise scanner.refuse(f'unexpected "{value[scanner.at]}"')
    return condition


def _filter_path(scanner: _Scanner) -> Field:
    field = _field(scanner)
    if scanner.peek("."):
        raise not_supported("filters on embedded resources")
    return field


def _operation(scanner: _Scanner, field: Field, value_of: Callable[[_Scanner], str]) -> Filter:
    negated = scanner.accept("not.")
    start = scanner.at
    operator = scanner.while_(lambda char: char not in ".(,)")
    if operator not in OPERATORS:
        scanner.at = start
        raise scanner.refuse(f"unknown single value operator {operator}")
    modifier: Literal["any", "all"] | None = None
    language: str | None = None
    if scanner.accept("("):
        word = scanner.while_(lambda char: char.isalnum() or char in "_ $").strip()
        scanner.expect(")")
        if operator in SEARCHES and word:
            language = word
        elif operator in COMPARISONS and word == "any":
            modifier = "any"
        elif operator in COMPARISONS and word == "all":
            modifier = "all"
        else:
            scanner.at = start
            raise scanner.refuse(f"unknown single value operator {operator}({word})")
    scanner.expect(".")
    value: str | tuple[str, ...]
    if operator == "in":
        value = _list(scanner)
    elif operator == "is":
        value = scanner.while_(lambda char: char.isalpha() or char == "_").lower()
        if value not in IS_VALUES:
            raise scanner.refuse("expecting null, not_null, true, false or unknown")
    else:
        value = value_of(scanner)
    return Filter(field, operator, value, negated, modifier, language)


def _list(scanner: _Scanner) -> tuple[str, ...]:
    scanner.spaces()
    scanner.expect("(")
    values: list[str] = []
    while True:
        values.append(_value(scanner))
        if not scanner.accept(","):
            break
    scanner.expect(")")
    scanner.spaces()
    return () if values == [""] else tuple(values)


def _value(scanner: _Scanner) -> str:
    """Read inside parentheses: quoted, or everything up to a comma or the closing parenthesis."""
    start = scanner.at
    if scanner.accept('"'):
        value = _quoted(scanner)
        if scanner.done() or scanner.peek(",") or scanner.peek(")"):
            return value
        scanner.at = start
    return scanner.while_(lambda char: char not in ",)")


def _logic_value(scanner: _Scanner) -> str:
    """Read inside `and(…)`, where an array literal may contain commas, too."""
    start = scanner.at
    if scanner.accept("{"):
        scanner.while_(lambda char: char not in "{}")
        if scanner.accept("}"):
            return scanner.text[start : scanner.at]
        scanner.at = start
    return _value(scanner)


# A request is refused before its nesting exhausts Python's stack.
_DEEPEST = 60


def _logic_tree(scanner: _Scanner, depth: int = 0) -> Condition:
    start = scanner.at
    negated = scanner.accept("not.")
    operator: Literal["and", "or"] | None = None
    if scanner.accept("and"):
        operator = "and"
    elif scanner.accept("or"):
        operator = "or"
    scanner.spaces()
    if operator is None or not scanner.accept("("):
        if depth == 0:
            raise scanner.refuse('expecting "("')
        scanner.at = start
        field = _field(scanner)
        scanner.expect(".")
        return _operation(scanner, field, _logic_value)
    if depth >= _DEEPEST:
        raise scanner.refuse("nested too deeply")
    members = _separated(scanner, lambda inner: _logic_tree(inner, depth + 1))
    scanner.expect(")")
    return Logic(operator, members, negated)
