"""Determine a table's columns and key (promise 9), from any source.

1. The server describes the table: with the optional SQL (``describe.sql``), completely for a login with a
   grant on the table; or with the API's description, which a hosted project shows to secret keys only.
2. Otherwise the parts are found separately. A page of rows contains the names. A comparison that cannot
   succeed reveals each type, because PostgreSQL names it in the error (``column_types.py``). Key candidates
   are proven one by one with a request that writes nothing (``RestClient.proves_key``). NOT NULL, defaults
   and an enum's labels stay unknown: the server decides about a column's values when it refuses a write. A
   table without readable rows has the columns that were named and those of its key, until an event or a
   row contains the others, or an edit names them.
3. Otherwise an error explains that the key is unknown, and what to do.
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
"""Number of rows read to find the columns, and those that distinguish rows."""
SINGLES: Final = 1 + AT_ONCE
COMPOSITES: Final = 3 * AT_ONCE
"""Maximum numbers of single columns and of sets of columns that are tried as the key."""
WIDEST: Final = 5
"""Number of columns of the widest key that is tried."""


class Described(msgspec.Struct, frozen=True):
    """The server's description of a table; without columns, there is none."""

    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    """The primary key in the order of the columns; empty: the table has none."""
    unique: tuple[tuple[str, ...], ...] = ()
    """The columns of its unique constraints, if known."""
    is_function: bool = False
    """There is no such table, but a function with that name."""
    kind: str = ""
    """PostgreSQL's ``relkind``: ``r`` a table, ``p`` a partitioned one, ``v`` a view; empty: unknown."""
    row_security: bool | None = None
    """Whether policies restrict the visible rows; None: unknown."""
    policies: frozenset[str] = frozenset()
    """The commands that policies allow to this role: ``select`` and so on, or ``*``; empty if unknown."""
    published: bool | None = None
    """Whether its changes are streamed; None: unknown."""
    grants: tuple[str, ...] | None = None
    """The grants of this login (``select``, ``insert``, ...); None: unknown."""
    readable: tuple[str, ...] | None = None
    """The columns that this login may read, if not all; None: all, or unknown."""
    role: str = ""
    """The role of this login; empty: unknown."""
    complete: bool = True
    """False if no row revealed the columns, so that there may be others."""
    first_keys: Read | None = None
    """The first page of keys, if it was read while the key was proven."""


Steps: TypeAlias = Generator[Ask, Sequence[Read], "Described"]


def learn(
    spec: TableSpec,
    done: Callable[[Schema, Schema, Described], None],
    page_size: int | None = None,
    found_log: Callable[[Read], tuple[str, ...] | None] | None = None,
) -> Flow:
    """Determine the schema and call ``done(kept, known, found)``: the projection, all columns, and the rest
    of the description.

    A round trip costs more than a request, so each step also sends the queries that the next step
    usually needs: some rows with the description; with the proof of the key, the first ``page_size`` keys
    (None: no load follows), which show a load where to begin. ``found_log``, if given, is called first,
    with the answer to ``head_query``, which shows whether the table's changes are broadcast; it returns the
    columns by which these identify rows, which are the key (empty: unknown), or None if changes are
    received in another way.

    Raises
    ------
    TableError
        From the flow, if the table cannot be mirrored.
    """
    describe, some_rows = Query((), describe=(spec.table,)), replace(_some(), refusable=True)
    sample: Read | None = None
    heads = [] if found_log is None else [head_query(spec)]
    try:
        read, sample, *found_heads = yield [describe, some_rows, *heads]
    except ReadRefusedError:  # possibly of the rows only, which are not requested yet
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
    # A description without all key columns is older than these columns.
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


# The server's description ---------------------------------------------------------------------------


def described(value: Any, table: str) -> Described:
    """Return the description of ``table`` in the answer to ``Query.describe``."""
    if isinstance(value, Mapping) and "tables" in value:
        return from_catalog(value, table)
    return from_description(value, table)


def from_catalog(value: Mapping[str, Any], table: str) -> Described:
    """Return the description of ``table`` by the function of ``describe.sql``."""
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
    """Return the columns that a login may read, if they are some of those in ``nrt_describe``'s answer;
    None: all, no column, or unknown.
    """
    every = _columns(told)
    some = tuple(str(one.get("name")) for one in every if one.get("readable"))
    return some if 0 < len(some) < len(every) else None


def _columns(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the columns in ``nrt_describe``'s answer that still exist.

    It lists the columns as of its snapshot, but their readability as of now: null for a column dropped
    meanwhile.
    """
    every = [one for one in told.get("columns") or () if isinstance(one, Mapping)]
    return [one for one in every if one.get("readable", False) is not None]


class Watchable(msgspec.Struct, frozen=True):
    """A table or view that a login may read."""

    name: str
    described: Described


def listed(value: Any) -> list[Watchable] | None:
    """Return every table in a description of all tables; None if it is not such an answer."""
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
"""OpenAPI's type names, which newer PostgRESTs use; a smallint is also described as ``int32``."""


def from_description(description: Any, table: str) -> Described:
    """Return the description of ``table`` in an OpenAPI document."""
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
    """Return the precision and scale in a type's name; None if there are none.

    >>> numeric_digits("numeric(6,2)"), numeric_digits("numeric")
    ((6, 2), None)
    """
    found = _NUMERIC.fullmatch(text.strip())
    return None if found is None else (int(found[1]), int(found[2]))


# Other sources ----------------------------------------------------------------------


def _probed(
    spec: TableSpec,
    sample: Read | None,
    page_size: int | None,
    told: tuple[str, ...],
    hidden: bool,
) -> Steps:
    """Find the columns and the key without a description.

    ``told``: the key, if it is known and not given by the user; it needs no proof. ``hidden``: the API
    does not expose the schema of the optional SQL.
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
    """Return the columns whose types are needed."""
    terms = tuple(term.column for term in spec.order)
    asked = (*(spec.columns or ()), *key, *spec.filter.columns, *terms, *spec.named)
    named = dict.fromkeys(asked)
    wanted = list(dict.fromkeys((*names, *named)))
    if spec.columns is not None and names:
        # The types of other columns are not needed: these are not kept.
        wanted = [name for name in wanted if name in named or name == spec.watermark]
    return wanted


def _some(select: str = "*") -> Query:
    return Query((("select", select), ("limit", str(SAMPLE))))


def _first_keys(spec: TableSpec, key: tuple[str, ...], page_size: int | None) -> Query | None:
    """Return a query for the first page of keys, if ``key`` is so likely that an index has their order."""
    if page_size is None or key != ("id",) or spec.order or spec.limit is not None:
        return None
    schema = Schema((Column("id", "text"),), key)
    reads = Reads(spec, schema, page_size, xmin=True)
    return replace(reads.page(reads.by_key(), columns=(), count="estimated"), refusable=True)


def _answer(query: Query | None) -> Generator[Ask, Sequence[Read], Read | None]:
    """Return the answer to ``query``, if there is a query and it is not refused."""
    if query is None:
        return None
    (read,) = yield [query]
    return read if read.page.refusal is None else None


def _sample(
    spec: TableSpec, sample: Read | None
) -> Generator[Ask, Sequence[Read], Sequence[WireRow]]:
    """Read some rows with all columns, or with the requested ones if a login may not read the others.

    ``sample`` is the answer, if it has already arrived.
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
    """Raise `SomeColumnsError` if a login may read only a part of the requested columns.

    Without a description, only columns with a known name can be tried: the requested ones or, if all
    were requested, the usual names of keys.
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
    """Return whether no two rows have the same ``key``, and no part of it is null."""
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
    """Return the primary key among the candidates; ``told``: the key, if it is known."""
    if told:
        return tuple(name for name in names if name in told) if set(told) <= set(names) else told
    likely = list(candidates(spec.table, names, rows))
    # It is nearly always the first one; otherwise the leading columns together, as keys are usually defined.
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
            break  # something in between does not forward the query
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
    """Yield the likely primary keys, the most likely first, of columns that distinguish ``rows``.

    Without rows, the names are unknown too; the usual ones are tried.

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
    # Booleans and fractions are rarely part of a key, but may be.
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
    """Yield sets of columns: first two or three leading ones, as keys usually are, then likely pairs."""
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
            continue  # possibly a domain: its base type is not described
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
    """Return the server's refusal of a read as an error of this table."""
    code = getattr(error, "code", "")
    if code in ("42P01", "PGRST205"):
        return MissingTableError(spec.schema, spec.table, str(getattr(error, "hint", "")))
    if code == "42501":
        return PermissionDeniedError(spec.schema, spec.table)
    return error
