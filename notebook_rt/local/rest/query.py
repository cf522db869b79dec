"""The query string of a REST request, as values.

`parse` creates them from text, `compose` converts them to SQL. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

COMPARISONS = frozenset(["eq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch"])
CONTAINMENTS = frozenset(["neq", "cs", "cd", "ov", "sl", "sr", "nxr", "nxl", "adj", "isdistinct"])
SEARCHES = frozenset(["fts", "plfts", "phfts", "wfts"])
OPERATORS = COMPARISONS | CONTAINMENTS | SEARCHES | {"in", "is"}
IS_VALUES = frozenset(["null", "not_null", "true", "false", "unknown"])
AGGREGATES = frozenset(["avg", "count", "max", "min", "sum"])


@dataclass(frozen=True, slots=True)
class Step:
    """One arrow of a JSON path: `->key`, `->>key`, `->0`."""

    as_text: bool
    key: str | int


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a place inside its JSON."""

    name: str
    path: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One selected item; the name `*` alone means every column."""

    field: Field
    alias: str | None = None
    cast: str | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """`column=operator.value`; `modifier` is `any` or `all`, `language` a text search
    configuration. `value` is a tuple for `in` only."""

    field: Field
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False
    modifier: Literal["any", "all"] | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Logic:
    """`and(…)`, `or(…)`."""

    operator: Literal["and", "or"]
    members: tuple[Condition, ...]
    negated: bool = False


Condition = Filter | Logic


@dataclass(frozen=True, slots=True)
class Order:
    field: Field
    descending: bool | None = None
    nulls_first: bool | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A whole query string. `arguments` are those of a function: pairs that are not filters."""

    select: tuple[Item, ...] = (Item(Field("*")),)
    where: tuple[Condition, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
