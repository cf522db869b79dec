"""Learning a table's columns and key (promise 9), from whoever tells.

1. The server describes the table: by the optional SQL (``describe.sql``), which says all of it to the
   login that has a grant on the table; or by the API's description, which a hosted project shows to
   secret keys only.
2. Else it is asked in other ways. A page of rows gives the names. A comparison that cannot succeed
   gives each type, for PostgreSQL names it in the error (``column_types.py``). The key is proven,
   candidate by candidate, by a request that writes nothing (``RestClient.proves_key``). NOT NULL,
   defaults and an enum's labels stay unknown: what a column may hold is then the server's to say, when
   it refuses a write. A table of which no row can be read has the columns that were named and those of
   its key, until an event or a row names the others, or an edit asks for them by name.
3. Else an error says that the key is not known, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from notebook_rt.errors import (
    DuplicateKeyError,
    MissingColumnError,
    MissingTableError,
    NoPrimaryKeyError,
    NotPublishedError,
    PermissionDeniedError,
    SomeColumnsError,
    StatementTimeoutError,
    UnfitMergeError,
    UnknownKeyError,
)
from notebook_rt.model.filters import column_name
from notebook_rt.model.kinds import NUMBERS, built_in, kind
from notebook_rt.model.rows import Json, WireRow
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.sync.events import Query
from notebook_rt.sync.table.broadcast_answers import head_query
from notebook_rt.sync.table.column_types import AT_ONCE, type_name, typed
from notebook_rt.sync.table.flows import Ask, Flow, ReadRefusedError, together
from notebook_rt.sync.table.horizon import Read
from notebook_rt.sync.table.queries import Reads

DESCRIBE: Final = "nrt_describe"
"""The function of ``describe.sql``."""
SAMPLE: Final = 32
"""Rows that are read to see which columns there are, and which of them tell rows apart."""
SINGLES: Final = 1 + AT_ONCE
COMPOSITES: Final = 3 * AT_ONCE
"""So many single columns, and so many sets of several, are tried as the key."""
WIDEST: Final = 5
"""Columns of the widest key that is tried."""


class Described(msgspec.Struct, frozen=True):
    """What the server says of a table; without columns, it says nothing."""

    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    """In the order of the columns; empty: the table has no primary key."""
    unique: tuple[tuple[str, ...], ...] = ()
    """The columns of its unique constraints, where they are known."""
    is_function: bool = False
    """There is no such table, but a function of that name."""
    kind: str = ""
    """PostgreSQL's ``relkind``: ``r`` a table, ``p`` a partitioned one, ``v`` a view; empty: not known."""
    row_security: bool | None = None
    """Whether policies decide which rows are seen; None: not known."""
    policies: frozenset[str] = frozenset()
    """What the asking role may do to some rows by a policy: ``select`` and so on, or ``*``; empty where that
    is not known."""
    published: bool | None = None
    """Whether its changes are streamed; None: not known."""
    grants: tuple[str, ...] | None = None
    """What this login may do with it (``select``, ``insert``, ...); None: not known."""
    readable: tuple[str, ...] | None = None
    """The columns that this login may read, where that is some of them; None: all, or not known."""
    role: str = ""
    """Of this login; empty: not known."""
    complete: bool = True
    """False: no row was there to name the columns, and there may be others."""
    first_keys: Read | None = None
    """The first page of keys, where it was read while the key was proven."""


Steps: TypeAlias = Generator[Ask, Sequence[Read], "Described"]


def learn(
    spec: TableSpec,
    done: Callable[[Schema, Schema, Described], None],
    page_size: int | None = None,
    found_log: Callable[[Read], tuple[str, ...] | None] | None = None,
) -> Flow:
    """Ask for the schema and call ``done(kept, known, found)``: the projection, all columns, and what
    else was said.

    A round trip costs more than a request, so what the next step needs, if the usual answer comes, is
    asked for beside each question: some rows beside the description; beside the proof of the key, the
    first ``page_size`` keys (None: a load does not come next), which show a load where to begin.
    With ``found_log`` it is asked, too, whether the table's changes are broadcast: called with the answer
    to ``head_query`` before anything else; returns the columns that these tell rows by, which are the key
    (empty: it does not say), or None where changes come another way.

    Raises
    ------
    TableError
        Out of the flow, where the table cannot be mirrored.
    """
    describe, some_rows = Query((), describe=(spec.table,)), replace(_some(), refusable=True)
    sample: Read | None = None
    heads = [] if found_log is None else [head_query(spec)]
    try:
        read, sample, *found_heads = yield [describe, some_rows, *heads]
    except ReadRefusedError:  # perhaps of the rows only, which are not asked for yet
        read, *found_heads = yield [describe, *heads]
    log_key = None if found_log is None else found_log(found_heads[0])
    found = described(read.page.value, spec.table)
    unpublished = found.published is False and "select" in (found.grants or ())
    if unpublished and log_key is None and spec.source != "broadcast":
        raise NotPublishedError(
            spec.schema, spec.table, found.kind, keyless=not found.key, key=spec.key or ()
        )
    if found.readable is not None and spec.columns is None:
        key, role = spec.key or found.key, str(read.page.value.get("role") or "anon")
        raise SomeColumnsError(spec.schema, spec.table, role, found.readable, key)
    told = () if spec.key else log_key or ()
    # A description without all of the key's columns is of before they were made.
    if not {column.name for column in found.columns}.issuperset(told):
        found = Described()
    if not found.columns:
        hidden = read.page.refusal is not None
        found = yield from _probed(spec, sample, page_size, told, hidden)
    elif told:
        found = replace(found, key=tuple(one.name for one in found.columns if one.name in told))
    elif not (found.key or spec.key):
        raise NoPrimaryKeyError(spec.schema, spec.table, found.unique)
    names = {column.name for column in found.columns}
    for name in told:
        if name not in names:  # renamed since the answers came
            raise ReadRefusedError(MissingColumnError(spec.schema, spec.table, name, sorted(names)))
    known = _known(spec, found)
    done(_kept(spec, known), known, found)


# What the server says ---------------------------------------------------------------------------


def described(value: Any, table: str) -> Described:
    """What ``table`` is in the answer to ``Query.describe``."""
    if isinstance(value, Mapping) and "tables" in value:
        return from_catalog(value, table)
    return from_description(value, table)


def from_catalog(value: Mapping[str, Any], table: str) -> Described:
    """What the function of ``describe.sql`` says of ``table``."""
    tables = value.get("tables")
    found = tables.get(table) if isinstance(tables, Mapping) else None
    if not isinstance(found, Mapping):
        return Described()
    columns = [
        Column(
            str(one["name"]),
            type_name(str(one["type"])),
            nullable=not one.get("not_null"),
            choices=tuple(map(str, one.get("labels") or ())),
            filled=one.get("default") is not None or bool(one.get("identity")),
            generated=bool(one.get("generated")),
            digits=numeric_digits(str(one["type"])),
        )
        for one in _columns(found)
    ]
    names = found.get("key") or ()
    key = tuple(column.name for column in columns if column.name in names)
    return Described(
        tuple(columns),
        key,
        tuple(map(tuple, found.get("unique") or ())),
        kind=str(found.get("kind") or ""),
        row_security=bool(found["row_security"]) if "row_security" in found else None,
        policies=frozenset(map(str, found.get("policies") or ())),
        published=bool(found["published"]) if "published" in found else None,
        grants=tuple(map(str, found["grants"] or ())) if "grants" in found else None,
        readable=readable(found),
        role=str(value.get("role") or ""),
    )


def readable(told: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The columns that a login may read, where those are some of what ``nrt_describe`` told of a table;
    None: all, no column, or not known.
    """
    every = _columns(told)
    some = tuple(str(one.get("name")) for one in every if one.get("readable"))
    return some if 0 < len(some) < len(every) else None


def _columns(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Of the columns that ``nrt_describe`` told, those that are still there.

    It lists them as of its snapshot, but whether one is readable as of now: null where it was dropped
    meanwhile.
    """
    every = [one for one in told.get("columns") or () if isinstance(one, Mapping)]
    return [one for one in every if one.get("readable", False) is not None]


class Watchable(msgspec.Struct, frozen=True):
    """A table or view that a login may read."""

    name: str
    described: Described


def listed(value: Any) -> list[Watchable] | None:
    """Every table in the answer to a description of all; None if there is no such answer."""
    if not isinstance(value, Mapping):
        return None
    tables = value.get("tables")
    if isinstance(tables, Mapping):
        every = [Watchable(name, from_catalog(value, name)) for name in sorted(tables)]
        return [one for one in every if "select" in (one.described.grants or ())]
    names = value.get("definitions")
    if not isinstance(names, Mapping):
        return None
    return [Watchable(name, from_description(value, name)) for name in sorted(names)]


_OPENAPI_INTEGERS: Final = {"int32": "int4", "int64": "int8"}
"""OpenAPI's own words, which newer PostgRESTs use; a smallint is said to be ``int32`` too."""


def from_description(description: Any, table: str) -> Described:
    """What an OpenAPI description says of ``table``."""
    definitions = description.get("definitions") if isinstance(description, Mapping) else None
    found = definitions.get(table) if isinstance(definitions, Mapping) else None
    found = found if isinstance(found, Mapping) else {}
    properties, required = found.get("properties"), found.get("required") or ()
    if not isinstance(properties, Mapping):
        paths = description.get("paths") if isinstance(description, Mapping) else None
        return Described(is_function=f"/rpc/{table}" in (paths or ()))
    columns, key = [], []
    for name, one in properties.items():
        pg_type = str(one.get("format") or one.get("type") or "text")
        if one.get("type") == "integer":
            pg_type = _OPENAPI_INTEGERS.get(pg_type, pg_type)
        choices = tuple(map(str, one.get("enum") or ()))
        filled = one.get("default") is not None
        digits = numeric_digits(pg_type)
        columns.append(
            Column(name, type_name(pg_type), name not in required, choices, filled, digits=digits)
        )
        if "<pk/>" in str(one.get("description", "")):
            key.append(name)
    return Described(tuple(columns), tuple(key))


_NUMERIC: Final = re.compile(r"(?:numeric|decimal)\((\d+),\s*(-?\d+)\)")


def numeric_digits(text: str) -> tuple[int, int] | None:
    """The precision and scale that a type's name says; None: it says none.

    >>> numeric_digits("numeric(6,2)"), numeric_digits("numeric")
    ((6, 2), None)
    """
    found = _NUMERIC.fullmatch(text.strip())
    return None if found is None else (int(found[1]), int(found[2]))


# What is found out otherwise ----------------------------------------------------------------------


def _probed(
    spec: TableSpec,
    sample: Read | None,
    page_size: int | None,
    told: tuple[str, ...],
    hidden: bool,
) -> Steps:
    """``told``: the key, where it is known and not the user's; it needs no proof. ``hidden``: the API does
    not expose the schema of the optional SQL.
    """
    rows = yield from _sample(spec, sample)
    names = tuple(rows[0]) if rows else ()
    key = spec.key or ()
    for name in (*key, *(spec.columns or ())) if names else ():
        if name not in names:
            raise MissingColumnError(spec.schema, spec.table, name, names)
    if not key and names and spec.columns is None:
        likely = told or next(candidates(spec.table, names, rows), ())
        first = _first_keys(spec, likely, page_size)
        ask = (_proven(spec, names, rows, told, hidden), typed(_wanted(spec, names, told), rows))
        try:
            found = yield from together(*ask, _answer(first))
        except ReadRefusedError as refusal:
            if not (first and isinstance(refusal.error, StatementTimeoutError)):
                raise
            found = yield from together(
                _proven(spec, names, rows, told, hidden),
                typed(_wanted(spec, names, told), rows),
                _answer(None),
            )
        ahead = found[2] if found[0] == likely else None
        return Described(found[1], found[0], first_keys=ahead)
    if not key:
        key = yield from _proven(spec, names, rows, told, hidden)
    elif set(key) <= set(names) and not identifies_rows(rows, key):
        raise DuplicateKeyError(spec.schema, spec.table, key)
    columns = yield from typed(_wanted(spec, names, key), rows)
    return Described(columns, key, complete=bool(rows) or spec.columns is not None)


def _wanted(spec: TableSpec, names: Sequence[str], key: Sequence[str] = ()) -> list[str]:
    """The columns whose type is to be asked for."""
    terms = tuple(term.column for term in spec.order)
    asked = (*(spec.columns or ()), *key, *spec.filter.columns, *terms, *spec.named)
    named = dict.fromkeys(asked)
    wanted = list(dict.fromkeys((*names, *named)))
    if spec.columns is not None and names:
        # Of the others no type is needed: they are not kept.
        wanted = [name for name in wanted if name in named or name == spec.watermark]
    return wanted


def _some(select: str = "*") -> Query:
    return Query((("select", select), ("limit", str(SAMPLE))))


def _first_keys(spec: TableSpec, key: tuple[str, ...], page_size: int | None) -> Query | None:
    """The first page of keys, if the likely ``key`` is so likely that an index has their order."""
    if page_size is None or key != ("id",) or spec.order or spec.limit is not None:
        return None
    schema = Schema((Column("id", "text"),), key)
    reads = Reads(spec, schema, page_size, xmin=True)
    return replace(reads.page(reads.by_key(), columns=(), count="estimated"), refusable=True)


def _answer(query: Query | None) -> Generator[Ask, Sequence[Read], Read | None]:
    """What ``query`` brings, if it is asked at all and not refused."""
    if query is None:
        return None
    (read,) = yield [query]
    return read if read.page.refusal is None else None


def _sample(
    spec: TableSpec, sample: Read | None
) -> Generator[Ask, Sequence[Read], Sequence[WireRow]]:
    """Some rows, with all columns; with those asked for where a login may not read the others.

    ``sample`` is the answer, if it has come already.
    """
    refused = None if sample is None else sample.page.refusal
    if sample is not None and refused is None:
        return sample.page.rows
    selects = ["*"] if refused is None else []
    if spec.columns is not None:
        selects.append(",".join(map(column_name, (*spec.columns, *(spec.key or ())))))
    while True:
        error = None if refused is None else named(refused, spec)
        if error is not None and not (selects and isinstance(error, PermissionDeniedError)):
            if isinstance(error, PermissionDeniedError):
                yield from _some_columns(spec, error.role)
            raise error
        try:
            (read,) = yield [_some(selects.pop(0))]
        except ReadRefusedError as refusal:
            refused = refusal.error
        else:
            return read.page.rows


def _some_columns(spec: TableSpec, role: str) -> Generator[Ask, Sequence[Read], None]:
    """Raise ``SomeColumnsError`` where a login that may not read what was asked for may read a part.

    Of a table that says nothing of itself only columns of a known name can be tried: those that were
    asked for or, where all were, those that keys are usually called.
    """
    asked = tuple(dict.fromkeys((*(spec.columns or ()), *(spec.key or ()))))
    likely = [key[0] for key in candidates(spec.table, (), ())][: 2 * AT_ONCE]
    names = asked if spec.columns is not None else tuple(dict.fromkeys((*asked, *likely)))
    queries = [
        Query((("select", column_name(name)), ("limit", "0")), refusable=True) for name in names
    ]
    reads = yield queries
    may = [name for name, read in zip(names, reads, strict=True) if read.page.refusal is None]
    if may:
        withheld = [name for name in asked if name not in may]
        raise SomeColumnsError(
            spec.schema, spec.table, role, may, (), withheld=withheld, complete=False
        )


def identifies_rows(rows: Iterable[WireRow], key: Sequence[str]) -> bool:
    """Whether no two rows have the same ``key``, and no part of it is null."""
    seen = set()
    for row in rows:
        values = [row.get(name) for name in key]
        if None in values or repr(values) in seen:
            return False
        seen.add(repr(values))
    return True


def _proven(
    spec: TableSpec,
    names: Sequence[str],
    rows: Sequence[WireRow],
    told: tuple[str, ...],
    hidden: bool,
) -> Generator[Ask, Sequence[Read], tuple[str, ...]]:
    """The primary key, of the candidates; ``told``: it is known."""
    if told:
        return tuple(name for name in names if name in told) if set(told) <= set(names) else told
    likely = list(candidates(spec.table, names, rows))
    # Nearly always the first one is it; else the leading columns together, as keys are written.
    some = likely[:1]
    if some != [("id",)]:
        some += [key for key in likely if len(key) > 1][:1]
    rest = iter([key for key in likely if key not in some])
    tried: list[tuple[str, ...]] = []
    while some:
        reads = yield [Query((), proves=key) for key in some]
        for key, read in zip(some, reads, strict=True):
            if read.page.value is True:
                return tuple(name for name in names if name in key) or key
        if reads[0].page.value is None and not tried:
            break  # something between does not let the question through
        tried += some
        some = list(islice(rest, AT_ONCE))
    if not tried and "id" in names and identifies_rows(rows, ("id",)):
        return ("id",)
    in_order = [key for key in likely if key in tried]
    raise UnknownKeyError(
        spec.schema, spec.table, in_order, empty=not rows, alike=not likely, hidden=hidden
    )


_USUAL: Final = ("id", "uuid", "guid", "slug", "key", "code", "sku", "name")
_NATURAL: Final = (
    *("symbol", "ticker", "isin", "user_id", "username", "email", "uid", "pk", "ref", "number"),
    *("no", "label", "title", "date", "day", "at", "time", "ts", "timestamp", "url"),
)
_ENDINGS: Final = ("_id", "_uuid", "_key", "_code", "_no", "_slug")


def candidates(
    table: str, names: Sequence[str], rows: Sequence[WireRow]
) -> Iterator[tuple[str, ...]]:
    """The likely primary keys, likeliest first, of columns that tell ``rows`` apart.

    Without rows the names are not known either: the usual ones.

    >>> row = {"sku": "a", "shop": 1, "price": 1.5}
    >>> list(candidates("goods", list(row), [row]))
    [('sku',), ('shop',), ('sku', 'shop'), ('sku', 'shop', 'price')]
    """
    if not rows:
        singular = table[:-1] if table.endswith("s") else table
        own = [f"{singular}_id", f"{singular}id", f"{singular}_code", f"{singular}_key", singular]
        yield from ((name,) for name in dict.fromkeys((*_USUAL, *own, *_NATURAL)))
        return
    places = {name: place for place, name in enumerate(names)}
    able = [name for name in names if all(_may_be_key(row.get(name)) for row in rows)]
    able.sort(key=lambda name: (_rank(name, places[name]), places[name]))
    singles = ((name,) for name in able if identifies_rows(rows, (name,)))
    yield from islice(singles, SINGLES)
    yield from islice(_composites(able, places, rows), COMPOSITES)
    # Truth and fractions are seldom part of a key, but may be.
    whole = [name for name in names if not any(_is_no_key(row.get(name)) for row in rows)]
    for size in range(1, WIDEST + 1):
        leading = tuple(whole[:size])
        if len(leading) == size and not {*leading} <= {*able} and identifies_rows(rows, leading):
            yield leading


def _rank(name: str, place: int) -> int:
    word = name.lower()
    if word == "id":
        return 0
    if place == 0 or word in _USUAL or word.endswith(_ENDINGS):
        return 1
    return 2


def _is_no_key(value: Json) -> bool:
    return value is None or isinstance(value, list | dict)


def _may_be_key(value: Json) -> bool:
    return not (_is_no_key(value) or isinstance(value, bool | float))


def _composites(
    able: Sequence[str], places: Mapping[str, int], rows: Sequence[WireRow]
) -> Iterator[tuple[str, ...]]:
    """Sets of several columns: two or three leading ones first, as keys are written, then likely pairs."""
    in_order = sorted(able, key=places.__getitem__)
    leading = [tuple(in_order[:size]) for size in range(2, min(WIDEST, len(in_order)) + 1)]
    likely = able[: 2 * AT_ONCE]
    pairs, triples = (
        sorted(combinations(likely, size), key=lambda one: sum(map(likely.index, one)))
        for size in (2, 3)
    )
    sets = [*leading[:2], *pairs[:AT_ONCE], *leading[2:], *pairs[AT_ONCE:], *triples]
    seen = set()
    for one in sets:
        if frozenset(one) not in seen and identifies_rows(rows, one):
            seen.add(frozenset(one))
            yield one


# The schema -----------------------------------------------------------------------------------------


def _known(spec: TableSpec, found: Described) -> Schema:
    names = [column.name for column in found.columns]
    chosen = spec.key or found.key
    asked = (*(spec.columns or ()), *spec.filter.columns, *(term.column for term in spec.order))
    for name in (*chosen, *asked):
        if name not in names:
            raise MissingColumnError(spec.schema, spec.table, name, names)
    for column in found.columns:
        pg_type = column.pg_type
        if not built_in(pg_type):
            continue  # a domain, perhaps: what it is of is not told
        if column.name in spec.summed and kind(pg_type) not in NUMBERS:
            raise UnfitMergeError(spec.schema, spec.table, column.name, pg_type, "delta")
        if column.name in spec.united and kind(pg_type) not in ("array", "json"):
            raise UnfitMergeError(spec.schema, spec.table, column.name, pg_type, "union")
    return Schema(found.columns, chosen, spec.numeric)


def _kept(spec: TableSpec, known: Schema) -> Schema:
    if spec.columns is None:
        return known
    carried = [term.column for term in spec.order]
    if spec.watermark in known.types:
        carried.append(str(spec.watermark))
    return known.project((*known.key, *spec.columns, *carried))


def named(error: Exception, spec: TableSpec) -> Exception:
    """The server's refusal of a read as the error of this table that it is."""
    code = getattr(error, "code", "")
    if code in ("42P01", "PGRST205"):
        return MissingTableError(spec.schema, spec.table, str(getattr(error, "hint", "")))
    if code == "42501":
        return PermissionDeniedError(spec.schema, spec.table)
    return error
