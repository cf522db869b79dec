"""The types of columns that nobody describes, each as a comparison that cannot succeed tells it.

A column is compared with a literal that its type cannot read: PostgreSQL names the type when it refuses,
before it looks for a row. That is a request for each column, which is much for a wide table. So where rows
have shown likely types, many columns are asked about at once, each with what its likely type can read and no
other type that such values could be of: a request that is not refused has proven them all. The literal that
is refused says of which column it was; its type is known then, and the others are asked about again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final, cast
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from notebook_rt.errors import MissingColumnError
from notebook_rt.model.filters import Condition, column_name
from notebook_rt.model.inferred import inferred
from notebook_rt.model.rows import Json, WireRow
from notebook_rt.model.types import Column, canonical
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.flows import Ask
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import URL_ROOM

AT_ONCE: Final = 8
"""Requests that are under way at a time."""
WIDE: Final = 2 * AT_ONCE
"""Columns up to which each is asked about by itself."""
FEWEST: Final = 3
"""Columns that are asked about together."""
_NO_VALUE: Final = "\\xnotebook_rt asks for the type"
"""A literal of no type but text, and not of bytea either, which reads most texts as they are."""
_NO_ARRAY: Final = '{"\\\\xnotebook_rt asks for the type"}'
_TYPE_IN_ERROR: Final = re.compile(r"for (?:type|enum) (.+?)(?::|(?<=type json)(?: |$)|$)")
_TYPE_WITHOUT_EQUALITY: Final = re.compile(r"operator does not exist: (.+?) = ")
_TYPE_WITHOUT_CAST: Final = re.compile(r"cannot cast type (.+) to ")


class _Signature(msgspec.Struct, frozen=True):
    """How a type is told from all others that have such values in JSON."""

    literals: Callable[[int], tuple[str, ...]]
    """What it can read, and no other that also casts to ``cast``; by a number, which a refusal repeats."""
    cast: str = ""


LIKELY: Final[Mapping[str, _Signature]] = {
    "text": _Signature(lambda n: (f"{_NO_VALUE} {n}",)),
    "bool": _Signature(lambda n: ("t",)),  # not jsonb, whose truth is written out
    # Nothing but int4 casts to bool, except jsonb, which reads no sign; only the integers of 4 and 8
    # bytes to bit. Only float8 reads a hexadecimal number of this size, only numeric a decimal one.
    "int4": _Signature(lambda n: ("+1",), cast="bool"),
    "int8": _Signature(lambda n: (str(3_000_000_000 + n),), cast="bit"),
    "float8": _Signature(lambda n: (f"0x1.{n:04x}p900",)),
    "numeric": _Signature(lambda n: (f"{n + 1}e400", "NaN")),
    "jsonb": _Signature(lambda n: (f'{{"notebook_rt": {n}}}',)),
}
_PLAIN_TEXT: Final = re.compile(r"(?!true$|false$)[^\W\d_]|$")
"""How a text begins that is probably of no type but text."""


def typed(
    names: Sequence[str], rows: Sequence[WireRow]
) -> Generator[Ask, Sequence[Read], tuple[Column, ...]]:
    """The columns of these names that there are, each with its type."""
    types: dict[str, str | None] = {}
    if len(names) > WIDE:
        types |= yield from _of_likely_types(names, rows)
    types |= yield from _types([name for name in names if name not in types], _NO_VALUE)
    arrays = [name for name, pg_type in types.items() if pg_type == "[]"]
    elements = yield from _types(arrays, _NO_ARRAY)
    types |= {name: f"_{element or 'text'}" for name, element in elements.items()}
    columns = []
    for name in names:
        pg_type = types[name]
        if pg_type == "?":
            pg_type = inferred(row.get(name) for row in rows) or "text"
        if pg_type is not None:
            columns.append(Column(name, pg_type))
    return tuple(columns)


def _types(
    names: Sequence[str], value: str
) -> Generator[Ask, Sequence[Read], dict[str, str | None]]:
    """The type of each column, as a comparison with ``value`` is refused."""
    found: dict[str, str | None] = {}
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        reads = yield [_comparison(name, value) for name in some]
        for name, read in zip(some, reads, strict=True):
            found[name] = type_in(read.page.refusal)
    return found


# Many columns at once -------------------------------------------------------------------------------


class _Group(msgspec.Struct, frozen=True):
    """Columns that are probably all of one type."""

    pg_type: str
    names: Sequence[str]
    mixed: bool = False
    """Whether types take turns in it."""
    guessed_again: bool = False
    """Whether it follows one of this type, among others of another."""

    def query(self) -> Query:
        """A request that is refused unless all of them are of it."""
        likely = LIKELY[self.pg_type]
        cast = f"::{likely.cast}"
        selected = [column_name(one) + cast for one in self.names] if likely.cast else []
        conditions = [
            Condition(name, "eq", (literal,)).to_rest()
            for number, name in enumerate(self.names)
            for literal in likely.literals(number)
        ]
        select = ",".join(selected) or column_name(self.names[0])
        return Query((("select", select), *conditions, ("limit", "0")), refusable=True)

    def parts(self) -> Iterator[_Group]:
        """In parts of which each fits into the address of a request."""
        start, room = 0, URL_ROOM
        for place, name in enumerate(self.names):
            params = _Group(self.pg_type, [name]).query().params
            size = sum(len(quote(text)) + 1 for param in params for text in param)
            if size > room and place > start:
                yield replace(self, names=self.names[start:place])
                start, room = place, URL_ROOM
            room -= size
        yield replace(self, names=self.names[start:])

    def after(self, refusal: Exception, types: dict[str, str | None]) -> list[_Group]:
        """What to ask next; ``types``: takes the type that the refusal tells."""
        reason, literals, names = _reason(refusal), LIKELY[self.pg_type].literals, self.names
        told = type_in(refusal)
        for place, name in enumerate(names):
            if f'"{literals(place)[0]}"' in reason and literals(0) != literals(1):
                if told not in ("?", "[]"):
                    types[name] = told
                if self.mixed or told not in LIKELY:
                    return [replace(self, names=[one for one in names if one != name])]
                after = _Group(str(told), names[place + 1 :], guessed_again=True)
                return [replace(self, names=names[:place]), after]
        uncast = _TYPE_WITHOUT_CAST.search(reason)
        other = type_name(uncast[1]) if uncast else told
        is_few = len(names) <= AT_ONCE
        if other in LIKELY and other != self.pg_type and (is_few or not self.guessed_again):
            return [_Group(str(other), names, mixed=self.guessed_again)]
        half = len(names) // 2
        return [replace(self, names=names[:half]), replace(self, names=names[half:])]


def likely_type(values: Iterable[Json]) -> str | None:
    """The type that a column with these values probably has; None: any.

    >>> likely_type([None, 3]), likely_type([1, 2.5]), likely_type(["soon"]), likely_type(["2024-01-02"])
    ('int4', 'numeric', 'text', None)
    """
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    if kinds == {str}:
        return "text" if all(map(_PLAIN_TEXT.match, cast("list[str]", there))) else None
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        small = all(-(2**31) <= value < 2**31 for value in cast("list[int]", there))
        return "int4" if small else "int8"
    if kinds and kinds <= {int, float, Decimal}:
        return "numeric"
    return "jsonb" if kinds == {dict} else None


def _of_likely_types(
    names: Sequence[str], rows: Sequence[WireRow]
) -> Generator[Ask, Sequence[Read], dict[str, str | None]]:
    """The types of those columns whose values in ``rows`` make one likely, as far as that takes fewer
    requests than to ask about each by itself.
    """
    guessed: dict[str, list[str]] = {}
    for name in names:
        guess = likely_type(row.get(name) for row in rows)
        if guess is not None:
            guessed.setdefault(guess, []).append(name)
    waiting = deque(one for guess, some in guessed.items() for one in _Group(guess, some).parts())
    left = sum(map(len, guessed.values()))
    types: dict[str, str | None] = {}
    while waiting and left > 0:
        some = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
        some = [group for group in some if len(group.names) >= FEWEST]
        left -= len(some)
        for group, read in zip(some, (yield [one.query() for one in some]), strict=True):
            refusal = read.page.refusal
            if refusal is None:
                types |= dict.fromkeys(group.names, group.pg_type)
            else:
                next_ones = group.after(refusal, types)
                waiting += [one for one in next_ones if one.names]
    return types


# One column ---------------------------------------------------------------------------------------


def _comparison(name: str, value: str) -> Query:
    """Refused with the type's name, or of text: then no row is looked at, not even to find none."""
    condition = Condition(name, "eq", (value,)).to_rest()
    return Query((("select", column_name(name)), condition, ("limit", "0")), refusable=True)


def _reason(refusal: Exception) -> str:
    return str(getattr(refusal, "reason", "") or refusal)


def type_in(refusal: Exception | None) -> str | None:
    """The type that a refused comparison names; None: there is no such column; ``"[]"``: an array;
    ``"?"``: it names none. Not refused: a text.
    """
    if refusal is None:
        return "text"
    code = getattr(refusal, "code", "")
    reason = _reason(refusal)
    if isinstance(refusal, MissingColumnError) or code == "42703":
        return None
    if found := _TYPE_WITHOUT_EQUALITY.search(reason):
        return type_name(found[1].strip('"'))
    if "malformed array literal" in reason:
        return "[]"
    if "malformed" in reason:  # a range or a composite: PostgreSQL's text of it is what is kept
        return "text"
    if found := _TYPE_IN_ERROR.search(reason):
        name = type_name(found[1].strip('"'))
        return "jsonb" if name == "json" else name  # json has no equality at all
    if "invalid hexadecimal d" in reason:
        return "bytea"
    return "?"


def type_name(text: str) -> str:
    """A type's name in the socket's form; an enum loses its schema.

    >>> type_name("character varying"), type_name("public.mood"), type_name("public.mood[]")
    ('varchar', 'mood', '_mood')
    """
    head, dot, tail = text.rpartition(".")
    return canonical(tail.strip('"') if dot and "(" not in head else text)
