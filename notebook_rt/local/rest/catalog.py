"""Read PostgreSQL's catalog entry of a table or function when it is needed.

PostgREST keeps a schema cache that is reloaded on request. Here nothing is cached: a read needs no catalog,
and a write or a call reads the entry of its table or function (0.3 ms on loopback), so that schema changes
take effect at once.

In: a connection, a schema, a name. Out: `Table` or `Function`s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from notebook_rt.local.rest.errors import RestError

TABLE = """
select json_build_object(
    'is_table', c.relkind = 'r',
    'columns', coalesce((
        select json_agg(json_build_array(
            a.attname,
            format_type(a.atttypid, -1),
            case
                when a.attidentity <> '' then
                    format('nextval(%L)', (
                        select s.objid::regclass from pg_depend s
                        where s.classid = 'pg_class'::regclass and s.refclassid = s.classid
                            and s.refobjid = c.oid and s.refobjsubid = a.attnum
                            and s.deptype = 'i'))
                when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid)
            end) order by a.attnum)
        from pg_attribute a
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'),
    'key', coalesce((
        select json_agg(a.attname order by k.position)
        from pg_index i, unnest(i.indkey) with ordinality as k(number, position), pg_attribute a
        where i.indrelid = c.oid and i.indisprimary
            and a.attrelid = c.oid and a.attnum = k.number), '[]'))::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'v', 'm', 'f', 'p')
"""

FUNCTIONS = """
select coalesce(json_agg(json_build_object(
    'arguments', (
        select coalesce(json_agg(json_build_array(
            coalesce(p.proargnames[a.position], ''),
            format_type(a.type, -1),
            a.position > p.pronargs - p.pronargdefaults) order by a.position), '[]')
        from unnest(p.proargtypes::oid[]) with ordinality as a(type, position)),
    'modes', p.proargmodes::text[],
    'names', p.proargnames,
    'variadic', p.provariadic <> 0,
    'set', p.proretset,
    'volatile', p.provolatile = 'v',
    'void', p.prorettype = 'void'::regtype,
    'scalar', not (t.typtype = 'c' or p.prorettype = 'record'::regtype
        or coalesce(p.proargmodes::text[] && array['t', 'b', 'o'], false)))), '[]')::text
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_type t on t.oid = p.prorettype
where n.nspname = $1 and p.proname = $2 and p.prokind = 'f'
"""

OTHER_TABLES = """
select json_agg(c.relname)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname <> $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""


@dataclass(frozen=True, slots=True)
class Table:
    """`types` in column order, as SQL spells them; `defaults` are expressions; `key` may be ()."""

    name: str
    types: dict[str, str]
    defaults: dict[str, str]
    key: tuple[str, ...]
    is_table: bool

    @classmethod
    def read(cls, name: str, text: bytes) -> Table:
        found = json.loads(text)
        return cls(
            name,
            {column: type for column, type, _ in found["columns"]},
            {column: default for column, _, default in found["columns"] if default is not None},
            tuple(found["key"]),
            found["is_table"],
        )


@dataclass(frozen=True, slots=True)
class Function:
    """One overload. `unnamed` is the type of its only parameter where that has no name."""

    name: str
    types: dict[str, str]
    required: frozenset[str]
    unnamed: str | None
    variadic: str | None
    scalar: bool
    void: bool
    returns_set: bool
    volatile: bool

    @classmethod
    def read_all(cls, name: str, text: bytes) -> list[Function]:
        return [cls._read(name, found) for found in json.loads(text)]

    @classmethod
    def _read(cls, name: str, found: dict[str, object]) -> Function:
        arguments = _inputs(found)
        only = arguments[0] if len(arguments) == 1 and not arguments[0][0] else None
        return cls(
            name,
            {argument: type for argument, type, _ in arguments if argument},
            frozenset(argument for argument, _, optional in arguments if not optional),
            only[1] if only else None,
            arguments[-1][0] if found["variadic"] else None,
            bool(found["scalar"]),
            bool(found["void"]),
            bool(found["set"]),
            bool(found["volatile"]),
        )


def _inputs(found: dict[str, object]) -> list[tuple[str, str, bool]]:
    """Return the input parameters: with OUT parameters, names and types are numbered separately."""
    arguments = found["arguments"]
    modes, names = found["modes"], found["names"]
    assert isinstance(arguments, list)
    if isinstance(modes, list) and isinstance(names, list):
        inward = [name for name, mode in zip(names, modes, strict=True) if mode in "ibv"]
        return [(name, type, opt) for name, (_, type, opt) in zip(inward, arguments, strict=True)]
    return [(name, type, opt) for name, type, opt in arguments]


def choose(
    schema: str, name: str, candidates: list[Function], given: Iterable[str], raw: str | None
) -> Function:
    """Return the overload for these arguments.

    Parameters
    ----------
    given
        Names of the arguments.
    raw
        The body's content type, if a single unnamed parameter may take the whole body.

    Raises
    ------
    RestError
        PGRST202 if there is none, PGRST203 if there is more than one.
    """
    names = frozenset(given)
    fitting = [
        one
        for one in candidates
        if one.unnamed is None and one.required <= names and names <= one.types.keys()
    ]
    if not fitting and raw is not None:
        accepted = {"application/json": ("json", "jsonb"), "text/plain": ("text",)}.get(raw, ())
        fitting = [one for one in candidates if one.unnamed in accepted]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(
            f"{schema}.{name}({', '.join(f'{k} => {v}' for k, v in one.types.items())})"
            for one in fitting
        )
        raise RestError(
            300,
            "PGRST203",
            f"Could not choose the best candidate function between: {listed}",
            hint="Try renaming the parameters or the function itself in the database so function "
            "overloading can be resolved",
        )
    shown = f"({', '.join(sorted(names))})" if names else " without parameters"
    raise RestError(
        404,
        "PGRST202",
        f"Could not find the function {schema}.{name}{shown} in the schema cache",
        f"Searched for the function {schema}.{name}{shown}, but no matches were found in the "
        "schema cache.",
    )
