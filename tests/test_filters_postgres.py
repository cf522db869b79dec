"""Promise 7: ``Filter.matches``, where it is certain, agrees with PostgreSQL."""

from __future__ import annotations

import itertools
import random

import pytest

from notebook_rt.local import LocalStack
from notebook_rt.model.decode import decode_json
from notebook_rt.model.filters import Condition, Filter
from notebook_rt.model.predicates import holds
from notebook_rt.model.types import Column, Schema

VALUES: dict[str, list[str | None]] = {
    "int4": ["-1", "0", "5", "2147483647", None],
    "int8": ["9007199254740993", "-9223372036854775808", "7", None],
    "float8": ["NaN", "Infinity", "-Infinity", "0.1", "-0", "1e300", None],
    "float4": ["0.1", "16777217", "NaN", None],
    "numeric": ["0.1", "10.00", "NaN", "12345678901234567890.5", None],
    "bool": ["true", "false", None],
    "text": ["", "a", "A", "b%", "a\\b", "hello\n", "été", "a_b", "null", None],
    "bpchar": ["a", "a ", "b", None],
    "uuid": ["6a2f41a3-c54c-4ce8-92d2-0324e1c32e22", "00000000-0000-4000-8000-000000000000", None],
    "date": ["2024-01-02", "1999-12-31", "infinity", None],
    "timestamp": ["2024-01-02 03:04:05.678901", "1970-01-01 00:00:00", None],
    "timestamptz": ["2024-01-02 03:04:05+00", "2024-01-02 05:04:05+02", None],
    "time": ["00:00:00", "23:59:59.5", None],
    "filter_mood": ["sad", "ok", "happy", None],
}
LITERALS: dict[str, list[str]] = {
    "int4": ["5", " 5 ", "+5", "-1"],
    "bool": ["true", "t", "YES", "on", "0", "off", "fal"],
    "text": ["", "a", "A", "b%", "%", "a_b", "a\\_b", "A%", "h%", "_", "^a", "b$", "[a-z]+", "o$"],
    "timestamptz": ["2024-01-02T03:04:05Z", "2024-01-02T04:04:05+01:00", "2023-12-31T00:00:00Z"],
    "timestamp": ["2024-01-02T03:04:05.678901", "2024-01-02T03:04:05"],
    "float8": ["NaN", "0.1", "inf", "1e300", "0", ".1"],
    "numeric": ["0.1", "10", "1e1", "NaN"],
}
SQL_OPERATORS = {
    "eq": "=",
    "neq": "<>",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "like": "~~",
    "ilike": "~~*",
    "match": "~",
    "imatch": "~*",
    "isdistinct": "is distinct from",
}


def conditions(pg_type: str) -> list[Condition]:
    literals = LITERALS.get(pg_type) or [v for v in VALUES[pg_type] if v is not None]
    names = [n for n in SQL_OPERATORS if pg_type == "text" or n not in _PATTERNS]
    found = [Condition("v", name, (one,)) for name in names for one in literals]
    found.append(Condition("v", "in", tuple(literals)))
    found.append(Condition("v", "is", ("null",)))
    if pg_type == "bool":
        found += [Condition("v", "is", (word,)) for word in ("true", "false", "unknown")]
    negated = [Condition(c.column, c.operator, c.values, True) for c in found]
    return [*found, *negated]


_PATTERNS = ("like", "ilike", "match", "imatch")


def sql_of(condition: Condition) -> tuple[str, list[str]]:
    if condition.operator == "is":
        text, literals = f"v is {condition.value}", []
    elif condition.operator == "in":
        holes = ", ".join(["%s"] * len(condition.values))
        text, literals = f"v in ({holes})", list(condition.values)
    else:
        text, literals = f"v {SQL_OPERATORS[condition.operator]} %s", [condition.value]
    return (f"not ({text})" if condition.negated else text), literals


@pytest.mark.parametrize("pg_type", VALUES)
def test_certain_verdicts_are_postgresqls(stack: LocalStack, pg_type: str) -> None:
    stack.sql(
        "do $$ begin create type filter_mood as enum ('sad', 'ok', 'happy'); "
        "exception when duplicate_object then null; end $$"
    )
    table = f"filter_{pg_type}"
    column = "char(2)" if pg_type == "bpchar" else pg_type
    stack.sql(f"drop table if exists {table}")
    stack.sql(f"create table {table} (id int primary key, v {column})")
    for number, value in enumerate(VALUES[pg_type]):
        literal = "null" if value is None else "'" + value.replace("'", "''") + "'"
        stack.sql(f"insert into {table} values ({number}, {literal})")
    schema = Schema((Column("id", "int4"), Column("v", pg_type)), ("id",), "decimal")
    wire = [
        decode_json(text, exact_numbers=True)
        for (text,) in stack.sql(f"select row_to_json({table})::text from {table} order by id")
    ]
    rows = [schema.decode(row) for row in wire]
    certain = 0
    for condition in conditions(pg_type):
        text, literals = sql_of(condition)
        quoted = tuple("'" + one.replace("'", "''") + "'" for one in literals)
        statement = f"select id from {table} where {text % quoted if quoted else text}"
        theirs = {number for (number,) in stack.sql(statement)}
        mine = {row["id"]: Filter((condition,)).matches(row, schema) for row in rows}
        for number, verdict in mine.items():
            assert verdict in (None, number in theirs), (condition, rows[number], theirs)
            certain += verdict is not None
    stack.sql(f"drop table {table}")
    asked = len(conditions(pg_type)) * len(rows)
    assert certain > asked * 0.3, "most verdicts must be certain"


@pytest.mark.parametrize("operator", ["like", "ilike"])
def test_patterns_of_random_texts_are_postgresqls(stack: LocalStack, operator: str) -> None:
    chance = random.Random(operator)
    letters = "aabB._\\n%\\\\€"
    pairs = [
        (
            "".join(chance.choices("aabB._\\n%\\\\€"[: 4 + i % 7], k=chance.randrange(9))),
            "".join(chance.choices(letters + "%%_", k=i % 8)),
        )
        for i in range(4_000)
    ]
    mine = [holds(operator, text, (pattern,), "text") for text, pattern in pairs]
    certain = [
        (*pair, verdict)
        for pair, verdict in zip(pairs, mine, strict=True)
        if verdict in (True, False)
    ]
    assert len(certain) > 400
    assert {verdict for *_, verdict in certain} == {True, False}
    texts, patterns, verdicts = zip(*certain, strict=True)
    wrong = stack.sql(
        "select t, p, v from unnest(%s::text[], %s::text[], %s::bool[]) as asked(t, p, v) "
        f"where (t {SQL_OPERATORS[operator]} p) <> v limit 5",
        list(texts),
        list(patterns),
        list(verdicts),
    )
    assert wrong == []


def test_every_operator_is_covered() -> None:
    covered = {c.operator for c in itertools.chain.from_iterable(map(conditions, VALUES))}
    assert len(covered) == 13


def test_null_is_not_in_an_empty_list_over_there_either(stack: LocalStack) -> None:
    null = "null::int4 = any('{}')"
    assert stack.sql(f"select {null}, not {null}, null::int4 = any('{{1}}')") == [
        (False, True, None)
    ]
