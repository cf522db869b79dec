"""The description of a schema at `/rest/v1/`: an OpenAPI 2.0 document for the caller's role.

Clients read tables, types, keys and functions from it. In: PostgreSQL's description of the schema. Out: the
document, with PostgREST's conventions: `format` is the SQL type, a primary key's description ends in `<pk/>`,
a foreign key's in `<fk …/>`, `required` lists the columns that are not nullable, `enum` an enum's labels; a
domain is described by its base type. The paths contain method, body and answer, but not the parameter of
every filter.
"""

from __future__ import annotations

import json
from typing import Any

TABLES = """
select coalesce(json_agg(json_build_object(
    'name', c.relname,
    'comment', obj_description(c.oid, 'pg_class'),
    'writable', c.relkind in ('r', 'p', 'f') or pg_relation_is_updatable(c.oid, true) & 28 <> 0,
    'key', coalesce((
        select json_agg(a.attname)
        from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
        where i.indrelid = c.oid and i.indisprimary), '[]'),
    'columns', coalesce((
        select json_agg(json_build_object(
            'name', a.attname,
            'format', format_type(
                case when b.typnamespace = 'pg_catalog'::regnamespace then b.oid else t.oid end,
                null),
            'required', a.attnotnull or t.typtype = 'd' and t.typnotnull,
            'default', pg_get_expr(d.adbin, d.adrelid),
            'comment', col_description(c.oid, a.attnum),
            'length', case when a.atttypid in (1042, 1043) and a.atttypmod > 4
                then a.atttypmod - 4 end,
            'enum', (select json_agg(e.enumlabel order by e.enumsortorder)
                from pg_enum e where e.enumtypid = coalesce(b.oid, t.oid)),
            'foreign', (
                select json_build_array(f.relname, fa.attname)
                from pg_constraint k
                join pg_class f on f.oid = k.confrelid
                join pg_attribute fa on fa.attrelid = f.oid and fa.attnum = k.confkey[1]
                where k.conrelid = c.oid and k.contype = 'f' and k.conkey = array[a.attnum]
                limit 1)) order by a.attnum)
        from pg_attribute a
        join pg_type t on t.oid = a.atttypid
        left join pg_type b on t.typtype = 'd' and b.oid = t.typbasetype
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '[]'))
    order by c.relname), '[]')::text as found
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'v', 'm', 'f', 'p') and not c.relispartition
    and (has_any_column_privilege($2, c.oid, 'select, insert, update')
        or has_table_privilege($2, c.oid, 'delete'))
"""

FUNCTIONS = """
select coalesce(json_agg(json_build_object(
    'name', p.proname,
    'comment', obj_description(p.oid, 'pg_proc'),
    'volatile', p.provolatile = 'v',
    'arguments', (
        select coalesce(json_agg(json_build_array(
            p.proargnames[a.position],
            format_type(a.type, null),
            a.position <= p.pronargs - p.pronargdefaults) order by a.position), '[]')
        from unnest(p.proargtypes::oid[]) with ordinality as a(type, position)
        where p.proargnames[a.position] <> '')) order by p.proname), '[]')::text as found
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname = $1 and p.prokind = 'f' and has_function_privilege($2, p.oid, 'execute')
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
"""

_TYPES: dict[str, str | None] = {
    "boolean": "boolean",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
    "json": None,
    "jsonb": None,
}


def document(tables: bytes, functions: bytes, host: str) -> bytes:
    """Return the whole document, from the results of `TABLES` and `FUNCTIONS`."""
    found_tables: list[dict[str, Any]] = json.loads(tables)
    found_functions: list[dict[str, Any]] = json.loads(functions)
    paths: dict[str, Any] = {
        "/": {"get": {"tags": ["Introspection"], "responses": {"200": {"description": "OK"}}}}
    }
    paths |= {f"/{table['name']}": _table_path(table) for table in found_tables}
    paths |= {f"/rpc/{one['name']}": _function_path(one) for one in found_functions}
    return json.dumps(
        {
            "swagger": "2.0",
            "info": {
                "title": "notebook_rt local stack",
                "description": "The part of PostgREST that the local stack speaks",
                "version": "13.0.0",
            },
            "host": host,
            "basePath": "/rest/v1",
            "schemes": ["http"],
            "consumes": ["application/json"],
            "produces": ["application/json", "application/vnd.pgrst.object+json", "text/csv"],
            "paths": paths,
            "definitions": {table["name"]: _definition(table) for table in found_tables},
        }
    ).encode()


def _typed(format: str) -> dict[str, Any]:
    if format.endswith("[]"):
        return {"format": format, "type": "array", "items": _kind(format[:-2])}
    return {"format": format, **_kind(format)}


def _kind(format: str) -> dict[str, str]:
    kind = _TYPES.get(format, "string")
    return {} if kind is None else {"type": kind}


def _definition(table: dict[str, Any]) -> dict[str, Any]:
    columns = table["columns"]
    definition = {
        "type": "object",
        "required": [column["name"] for column in columns if column["required"]],
        "properties": {column["name"]: _property(table, column) for column in columns},
    }
    if table["comment"]:
        definition["description"] = table["comment"]
    return definition


def _property(table: dict[str, Any], column: dict[str, Any]) -> dict[str, Any]:
    found = _typed(column["format"])
    notes = []
    if column["name"] in table["key"]:
        notes.append("This is a Primary Key.<pk/>")
    if column["foreign"]:
        other, name = column["foreign"]
        notes.append(
            f"This is a Foreign Key to `{other}.{name}`.<fk table='{other}' column='{name}'/>"
        )
    text = [column["comment"]] if column["comment"] else []
    if notes:
        text.append("\n".join(["Note:", *notes]))
    if text:
        found["description"] = "\n\n".join(text)
    if column["enum"]:
        found["enum"] = column["enum"]
    if column["length"]:
        found["maxLength"] = column["length"]
    if (default := _default(column)) is not None:
        found["default"] = default
    return found


def _default(column: dict[str, Any]) -> Any:
    """Return a text default without quotes and cast; other defaults only if they are valid JSON."""
    text: str | None = column["default"]
    if text is None:
        return None
    if _kind(column["format"]) == {"type": "string"}:
        bare = text.removesuffix(f"::{column['format']}")
        return bare if bare == text else bare.strip("'")
    try:
        return json.loads(text)
    except ValueError:
        return None


def _table_path(table: dict[str, Any]) -> dict[str, Any]:
    name = table["name"]
    schema = {"$ref": f"#/definitions/{name}"}
    body = {"name": name, "in": "body", "required": False, "schema": schema}
    answer = {"description": "OK", "schema": {"type": "array", "items": schema}}
    path: dict[str, Any] = {"get": {"tags": [name], "responses": {"200": answer}}}
    if table["writable"]:
        none = {"204": {"description": "No Content"}}
        created = {"201": {"description": "Created"}}
        path["post"] = {"tags": [name], "parameters": [body], "responses": created}
        path["patch"] = {"tags": [name], "parameters": [body], "responses": none}
        path["delete"] = {"tags": [name], "responses": none}
    return path


def _function_path(function: dict[str, Any]) -> dict[str, Any]:
    tags = [f"(rpc) {function['name']}"]
    responses = {"200": {"description": "OK"}}
    arguments: list[tuple[str, str, bool]] = function["arguments"]
    schema = {
        "type": "object",
        "required": [name for name, _, required in arguments if required],
        "properties": {name: _typed(format) for name, format, _ in arguments},
    }
    if function["comment"]:
        schema["description"] = function["comment"]
    body = {"name": "args", "in": "body", "required": True, "schema": schema}
    path: dict[str, Any] = {"post": {"tags": tags, "parameters": [body], "responses": responses}}
    if not function["volatile"]:
        query = [
            {"name": name, "in": "query", "required": required, "type": "string", "format": format}
            for name, format, required in arguments
        ]
        path["get"] = {"tags": tags, "parameters": query, "responses": responses}
    return path
