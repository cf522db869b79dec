"""Determine the types of undescribed columns, by comparisons that cannot succeed.

A column is compared with a literal that its type cannot read: PostgreSQL names the type in its refusal,
before it reads a row. That takes one request per column, which is expensive for a wide table. So if rows
suggest types, many columns are tested at once, each with a literal that its likely type can read and that
no other type of such values can: a request that is not refused proves them all. A refused literal shows
which column it belongs to; that type is then known, and the others are tested again.
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
"""Maximum number of concurrent requests."""
WIDE: Final = 2 * AT_ONCE
"""The number of columns up to which each is tested separately."""
FEWEST: Final = 3
"""Number of columns tested together."""
_NO_VALUE: Final = "\\xnotebook_rt asks for the type"
"""A literal that only text can read; bytea, which reads most texts as they are, cannot."""
_NO_ARRAY: Final = '{"\\\\xnotebook_rt asks for the type"}'
_TYPE_IN_ERROR: Final = re.compile(r"for (?:type|enum) (.+?)(?::|(?<=type json)(?: |$)|$)")
_TYPE_WITHOUT_EQUALITY: Final = re.compile(r"operator does not exist: (.+?) = ")
_TYPE_WITHOUT_CAST: Final = re.compile(r"cannot cast type (.+) to ")


class _Signature(msgspec.Struct, frozen=True):
    """How to distinguish a type from all others with such values in JSON."""

    literals: Callable[[int], tuple[str, ...]]
    """A literal that it can read and no other type that also casts to ``cast``; by a number, which a refusal
    repeats."""
    cast: str = ""


LIKELY: Final[Mapping[str, _Signature]] = {
    "text": _Signature(lambda n: (f"{_NO_VALUE} {n}",)),
    "bool": _Signature(lambda n: ("t",)),  # not jsonb, which writes true and false
    # Only int4 casts to bool, and jsonb, which reads no sign; only the integers of 4 and 8
    # bytes to bit. Only float8 reads a hexadecimal number of this size, only numeric a decimal one.
    "int4": _Signature(lambda n: ("+1",), cast="bool"),
    "int8": _Signature(lambda n: (str(3_000_000_000 + n),), cast="bit"),
    "float8": _Signature(lambda n: (f"0x1.{n:04x}p900",)),
    "numeric": _Signature(lambda n: (f"{n + 1}e400", "NaN")),
    "jsonb": _Signature(lambda n: (f'{{"notebook_rt": {n}}}',)),
}
_PLAIN_TEXT: Final = re.compile(r"(?!true$|false$)[^\W\d_]|$")
"""The beginning of a string that is probably of type text."""


def typed(
    names: Sequence[str], rows: Sequence[WireRow]
) -> Generator[Ask, Sequence[Read], tuple[Column, ...]]:
    """Return the existing columns with these names, each with its type."""
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
    """Return the type of each column, as named by the refusal of a comparison with ``value``."""
    found: dict[str, str | None] = {}
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        reads = yield [_comparison(name, value) for name in some]
        for name, read in zip(some, reads, strict=True):
            found[name] = type_in(read.page.refusal)
    return found


# Many columns at once -------------------------------------------------------------------------------


class _Group(msgspec.Struct, frozen=True):
    """Columns that probably have the same type."""

    pg_type: str
    names: Sequence[str]
    mixed: bool = False
    """Whether it contains several types in turn."""
    guessed_again: bool = False
    """Whether it follows a group of this type, among others."""

    def query(self) -> Query:
        """Return a request that is refused unless all columns have the type."""
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
        """Split it into parts that each fit into the URL of a request."""
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
        """Return the next groups to test; the type named by the refusal is added to ``types``."""
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
    """Return the type that a column with these values probably has; None: any.

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
    """Return the types of the columns whose values in ``rows`` suggest one, as far as that takes fewer
    requests than testing each separately.
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
    """Return a request that is refused with the type's name, unless the type is text; it reads no rows."""
    condition = Condition(name, "eq", (value,)).to_rest()
    return Query((("select", column_name(name)), condition, ("limit", "0")), refusable=True)


def _reason(refusal: Exception) -> str:
    return str(getattr(refusal, "reason", "") or refusal)


def type_in(refusal: Exception | None) -> str | None:
    """Return the type that a refused comparison names; None: no such column; ``"[]"``: an array; ``"?"``: no
    type is named. A comparison that is not refused means text.
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
    if "malformed" in reason:  # a range or a composite: its PostgreSQL text is kept
        return "text"
    if found := _TYPE_IN_ERROR.search(reason):
        name = type_name(found[1].strip('"'))
        return "jsonb" if name == "json" else name  # json has no equality operator
    if "invalid hexadecimal d" in reason:
        return "bytea"
    return "?"


def type_name(text: str) -> str:
    """Return a type's name in the socket's form; an enum loses its schema.

    >>> type_name("character varying"), type_name("public.mood"), type_name("public.mood[]")
    ('varchar', 'mood', '_mood')
    """
    head, dot, tail = text.rpartition(".")
    return canonical(tail.strip('"') if dot and "(" not in head else text)
