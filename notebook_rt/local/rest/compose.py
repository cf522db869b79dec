"""A `Query` and a body, as one SQL statement.

In: the results of `parse`, and the `catalog` entry of the table or function. Out: a `Statement`: SQL text
with `$1…`, and the values. Names are quoted identifiers, values are always parameters of unknown type, so
that PostgreSQL reads them as the column's type. The only client input in the text is a cast's type name,
which the grammar limits to letters, digits, `_`, `$` and spaces.

Every statement returns one row: `total` (null unless counted), `page`, the number of rows, `body`,
the JSON that PostgreSQL built of them, and for a write `inserted` and `location`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from notebook_rt.local.rest.catalog import Function, Table
from notebook_rt.local.rest.errors import RestError
from notebook_rt.local.rest.query import Condition, Field, Filter, Item, Logic, Order, Query

_OPERATORS = {
    "eq": "=",
    "neq": "<>",
    "gt": ">",
    "gte": ">=",
    "lt": "<",
    "lte": "<=",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
    "cs": "@>",
    "cd": "<@",
    "ov": "&&",
    "sl": "<<",
    "sr": ">>",
    "nxr": "&<",
    "nxl": "&>",
    "adj": "-|-",
    "isdistinct": "is distinct from",
}
_SEARCHES = {
    "fts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}

Body = Callable[[str], str]
"""The form of a body: maps the rows' name to an SQL expression that aggregates them."""


def identifier(name: str) -> str:
    """A quoted identifier.

    Examples
    --------
    >>> identifier('a"b')
    '"a""b"'
    """
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    return f"{identifier(schema)}.{identifier(name)}"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `$1…` and its parameters."""

    text: str
    values: tuple[str, ...] = ()


@dataclass(slots=True)
class Composer:
    """Collects the parameters while the text is written; `source` is the owner of the columns."""

    source: str
    types: dict[str, str] | None = None
    values: list[str] = field(default_factory=list)

    def value(self, value: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def field(self, field: Field) -> str:
        column = f"{self.source}.{identifier(field.name)}"
        if not field.path:
            return column
        if self._type(field.name) not in ("json", "jsonb"):
            column = f"to_jsonb({column})"
        for step in field.path:
            key = self.value(str(step.key)) + ("::int" if isinstance(step.key, int) else "::text")
            column += ("->>" if step.as_text else "->") + key
        return f"({column})"

    def _type(self, name: str) -> str | None:
        return None if self.types is None else self.types.get(name)

    def item(self, item: Item) -> str:
        if _is_star(item):
            return f"{self.source}.*"
        text = self.field(item.field)
        if item.cast is not None:
            text = f"cast({text} as {item.cast})"
        name = item.alias or _name_of(item.field)
        return f"{text} as {identifier(name)}"

    def items(self, items: Iterable[Item]) -> str:
        return ", ".join(map(self.item, items))

    def condition(self, condition: Condition) -> str:
        if isinstance(condition, Logic):
            inner = f" {condition.operator} ".join(map(self.condition, condition.members))
            return f"{'not ' if condition.negated else ''}({inner})"
        text = self.filter(condition)
        return f"not ({text})" if condition.negated else text

    def filter(self, filter: Filter) -> str:
        column = self.field(filter.field)
        value = filter.value
        if isinstance(value, tuple):
            return f"{column} = any ({self.value(array_literal(value))})"
        if filter.operator == "is":
            return f"{column} is {value.replace('_', ' ')}"
        if search := _SEARCHES.get(filter.operator):
            language = f"{self.value(filter.language)}::regconfig, " if filter.language else ""
            if not filter.field.path and self._type(filter.field.name) != "tsvector":
                column = f"to_tsvector({language}{column})"
            return f"{column} @@ {search}({language}{self.value(value)})"
        if filter.operator in ("like", "ilike"):
            value = value.replace("*", "%")
        parameter = self.value(value)
        if filter.modifier:
            parameter = f"{filter.modifier} ({parameter})"
        return f"{column} {_OPERATORS[filter.operator]} {parameter}"

    def where(self, conditions: Sequence[Condition]) -> str:
        return " where " + " and ".join(map(self.condition, conditions)) if conditions else ""

    def order(self, terms: Sequence[Order]) -> str:
        return " order by " + ", ".join(map(self._order_term, terms)) if terms else ""

    def _order_term(self, term: Order) -> str:
        text = self.field(term.field)
        if term.descending is not None:
            text += " desc" if term.descending else " asc"
        if term.nulls_first is not None:
            text += " nulls first" if term.nulls_first else " nulls last"
        return text

    def page(self, limit: int | None, offset: int) -> str:
        text = "" if limit is None else f" limit {limit:d}"
        return text + (f" offset {offset:d}" if offset else "")


def array_literal(values: Iterable[str]) -> str:
    """A PostgreSQL array literal; each element quoted, so that none is read as NULL."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def _name_of(field: Field) -> str:
    """Return the name of a JSON path in the answer: its last key, or the column before an index."""
    for step in reversed(field.path):
        if isinstance(step.key, str):
            return step.key
    return field.name


def needs_types(query: Query) -> bool:
    """Return whether the SQL depends on a column's type, as for JSON paths and text searches."""

    def fields(conditions: Iterable[Condition]) -> bool:
        return any(
            fields(condition.members)
            if isinstance(condition, Logic)
            else bool(condition.field.path) or condition.operator in _SEARCHES
            for condition in conditions
        )

    return (
        any(item.field.path for item in query.select)
        or any(term.field.path for term in query.order)
        or fields(query.where)
    )


# -- how rows become a body ---------------------------------------------------------------------


def as_array(rows: str) -> str:
    return f"coalesce(json_agg({rows}), '[]')::text"


def as_object(rows: str) -> str:
    return f"coalesce(json_agg({rows})->0, 'null')::text"


def as_csv(rows: str) -> str:
    head = "(select string_agg(key, ',') from json_object_keys((json_agg(_t)->0)::json) key)"
    lines = "string_agg(substring(_t::text, 2, length(_t::text) - 2), E'\\n')"
    return f"coalesce({head} || E'\\n' || {lines}, '')"


def without_nulls(body: Body) -> Body:
    return lambda rows: f"json_strip_nulls({body(rows)}::json)::text"


def without_body(rows: str) -> str:
    return "''"


# -- statements ---------------------------------------------------------------------------------


def read(
    schema: str,
    table: str,
    types: dict[str, str] | None,
    query: Query,
    *,
    limit: int | None,
    offset: int,
    body: Body,
    count_upto: int | None = None,
    count: bool = False,
) -> Statement:
    """Rows of a table or view.

    Parameters
    ----------
    limit, offset
        The page, row limit and `Range` taken into account.
    count, count_upto
        Whether all matching rows are counted, and where counting may stop.
    """
    source = qualified(schema, table)
    composer = Composer(source, types)
    inner = (
        f"select {composer.items(query.select)} from {source}{composer.where(query.where)}"
        f"{composer.order(query.order)}{composer.page(limit, offset)}"
    )
    total = "null::bigint"
    if count:
        stop = "" if count_upto is None else f" limit {count_upto:d}"
        total = (
            f"(select count(*) from (select 1 from {source}{composer.where(query.where)}{stop}) _c)"
        )
    text = f"select {total} as total, count(*) as page, {body('_t')} as body from ({inner}) _t"
    return Statement(text, tuple(composer.values))


def explain_count(schema: str, table: str, types: dict[str, str] | None, query: Query) -> Statement:
    """Return the planner's estimate of the matching rows, for `count=planned` and `estimated`."""
    source = qualified(schema, table)
    composer = Composer(source, types)
    text = f"explain (format json) select 1 from {source}{composer.where(query.where)}"
    return Statement(text, tuple(composer.values))


@dataclass(frozen=True, slots=True)
class Write:
    """The options of a write.

    `columns` are the written columns. `representation`: the rows are returned. `locate`: the first row's
    primary key is returned.
    """

    columns: tuple[str, ...]
    body: str
    many: bool
    defaults: bool = False
    resolution: str | None = None
    representation: bool = True
    locate: bool = False


def insert(
    schema: str, table: Table, query: Query, write: Write, body: Body, filtered: bool = False
) -> Statement:
    """Insert or merge the body's rows; `filtered`: only those that match the filters."""
    target = qualified(schema, table.name)
    composer = Composer("_w", table.types)
    names = ", ".join(map(identifier, write.columns))
    text = f"insert into {target}" + (f" ({names})" if write.columns else "")
    if write.columns:
        text += f" select {names} from {_payload(composer, table, write)}"
        text += _where_of(composer, "_p", query) if filtered else ""
    elif write.many:
        text += f" select from json_array_elements({composer.value(write.body)}::json)"
    else:
        text += " default values"
    conflict = table.key if filtered else query.on_conflict or table.key
    merges = write.resolution == "merge-duplicates"
    if write.resolution is not None and conflict:
        text += f" on conflict ({', '.join(map(identifier, conflict))}) do "
        if merges and write.columns:
            text += "update set " + ", ".join(
                f"{identifier(name)} = excluded.{identifier(name)}" for name in write.columns
            )
        else:
            text += "nothing"
    new = f"{target}.xmax = 0" if merges and table.is_table else "true"
    text += f" returning {_given_back(target, table, query, write, new)}"
    return _answer(composer, text, table, query, write, body)


def is_key(conditions: Sequence[Condition], table: Table) -> bool:
    """Return whether the filters are `eq` on exactly the columns of the primary key."""
    named = set()
    for condition in conditions:
        if isinstance(condition, Logic) or condition.field.path or condition.negated:
            return False
        if condition.operator != "eq" or condition.modifier is not None:
            return False
        named.add(condition.field.name)
    return bool(named) and named == set(table.key)


def put(schema: str, table: Table, query: Query, write: Write, body: Body) -> Statement:
    """Insert or merge the body's row with the key of the URL."""
    for name in table.key:
        if name not in write.columns:
            raise RestError(400, "42703", f"column pgrst_body.{name} does not exist")
    write = replace(write, resolution="merge-duplicates", defaults=False)
    return insert(schema, table, query, write, body, filtered=True)


def update(schema: str, table: Table, query: Query, write: Write, body: Body) -> Statement:
    target = qualified(schema, table.name)
    composer = Composer("_w", table.types)
    if not write.columns:  # an empty body changes nothing, and returns no rows
        back = _given_back(target, table, query, write, "false")
        return _answer(
            composer, f"select {back} from {target} where false", table, query, write, body
        )
    sets = ", ".join(f"{identifier(name)} = _p.{identifier(name)}" for name in write.columns)
    text = f"update {target} set {sets} from {_payload(composer, table, write)}"
    text += _where_of(composer, target, query)
    text += f" returning {_given_back(target, table, query, write, 'false')}"
    return _answer(composer, text, table, query, write, body)


def delete(schema: str, table: Table, query: Query, write: Write, body: Body) -> Statement:
    target = qualified(schema, table.name)
    composer = Composer("_w", table.types)
    text = f"delete from {target}" + _where_of(composer, target, query)
    text += f" returning {_given_back(target, table, query, write, 'false')}"
    return _answer(composer, text, table, query, write, body)


def _where_of(composer: Composer, target: str, query: Query) -> str:
    """Apply the filters to the written table, and the selection to the returned rows."""
    composer.source, source = target, composer.source
    text = composer.where(query.where)
    composer.source = source
    return text


def _payload(composer: Composer, table: Table, write: Write) -> str:
    """Return the body as rows, with each value read by PostgreSQL as its column's type."""
    typed = ", ".join(f"{identifier(name)} {table.types[name]}" for name in write.columns)
    body = composer.value(write.body) + "::json"
    if not write.defaults:
        return f"json_to_record{'set' if write.many else ''}({body}) as _p({typed})"
    columns = []
    for name in write.columns:
        column = f"_r.{identifier(name)}"
        if name in table.defaults:  # missing, not null: a JSON null is not an SQL null here
            missing = f"_e.value->{composer.value(name)}::text is null"
            column = f"case when {missing} then {table.defaults[name]} else {column} end"
        columns.append(f"{column} as {identifier(name)}")
    rows = f"json_array_elements({body})" if write.many else f"(values ({body}))"
    record = f"json_to_record(_e.value) as _r({typed})"
    return f"(select {', '.join(columns)} from {rows} as _e(value), {record}) as _p"


def _given_back(target: str, table: Table, query: Query, write: Write, new: str) -> str:
    """Return only needed columns, because reading a column is a separate privilege."""
    needed = list(table.key) if write.locate else []
    if write.representation:
        for item in query.select:
            needed += table.types if _is_star(item) else [item.field.name]
        needed += [term.field.name for term in query.order]
    columns = [f"{target}.{identifier(name)}" for name in dict.fromkeys(needed)]
    return ", ".join([*columns, f"{new} as _nrt_new"])


def _answer(
    composer: Composer, text: str, table: Table, query: Query, write: Write, body: Body
) -> Statement:
    rows = "_w"
    if write.representation:
        stars = [Item(Field(name)) for name in table.types]
        items = [one for item in query.select for one in (stars if _is_star(item) else [item])]
        rows = f"(select {composer.items(items)} from _w{composer.order(query.order)})"
    key = ", ".join(f"_w.{identifier(name)}::text" for name in table.key)
    location = f"(select json_build_array({key}) from _w limit 1)" if write.locate else "null"
    return Statement(
        f"with _w as ({text}) select null::bigint as total, count(*) as page, "
        f"{body('_t')} as body, "
        f"(select count(*) from _w where _w._nrt_new) as inserted, {location}::text as location "
        f"from {rows} _t",
        tuple(composer.values),
    )


def _is_star(item: Item) -> bool:
    return item.field.name == "*" and not item.field.path


def call(
    schema: str,
    function: Function,
    query: Query,
    names: Sequence[str],
    argument: str,
    *,
    limit: int | None,
    offset: int,
    body: Body,
    count: bool = False,
) -> Statement:
    """Return a function's result, which is filtered, ordered and limited like a table's rows.

    Parameters
    ----------
    names
        The given parameters; `argument` is then a JSON object with them. None: `argument` is the value of
        the function's single unnamed parameter.
    """
    composer = Composer("_f")
    source = ""
    if function.unnamed is not None:
        given = f"{composer.value(argument)}::{function.unnamed}"
    else:
        given = ", ".join(
            f"{'variadic ' if name == function.variadic else ''}"
            f"{identifier(name)} := _p.{identifier(name)}"
            for name in names
        )
    if names:
        typed = ", ".join(f"{identifier(name)} {function.types[name]}" for name in names)
        source = f"json_to_record({composer.value(argument)}::json) as _p({typed}), lateral "
    result = "_r(pgrst_scalar)" if function.scalar else "_r"
    rows = f"select _r.* from {source}{qualified(schema, function.name)}({given}) as {result}"
    items = "*" if function.scalar else composer.items(query.select)
    where = composer.where(query.where)
    page = f"{composer.order(query.order)}{composer.page(limit, offset)}"
    total = f"(select count(*) from _f{where})" if count else "null::bigint"
    built = "''" if function.void else body("_t.pgrst_scalar" if function.scalar else "_t")
    return Statement(
        f"with _f as ({rows}) select {total} as total, count(*) as page, {built} as body "
        f"from (select {items} from _f{where}{page}) _t",
        tuple(composer.values),
    )
