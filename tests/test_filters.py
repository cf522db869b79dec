"""Promise 7: one parser for the socket, REST and this side, and the three agree."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import FilterError
from notebook_rt.model.filters import MAX_DEPTH, OPERATORS, AnyOf, Condition, Filter, parse
from notebook_rt.model.types import Column, Schema

SCHEMA = Schema(
    (
        Column("id", "int8"),
        Column("name", "text"),
        Column("n", "int4"),
        Column("flag", "bool"),
        Column("note", "text"),
        Column("f", "float8"),
        Column("num", "numeric"),
        Column("at", "timestamptz"),
        Column("uid", "uuid"),
        Column("mood", "mood"),
        Column("js", "jsonb"),
    ),
    key=("id",),
)


def matches(text: str, **row: Any) -> bool | None:
    return parse(text).matches(row, SCHEMA)


def test_text_survives_parsing_and_writing() -> None:
    text = 'user_id=eq.42,status=in.(open,"a,b"),note=not.is.null,name=like.he%'
    assert str(parse(text)) == text
    assert parse(text).columns == ("user_id", "status", "note", "name")


values = st.text('abc é,()"\\.%*=', max_size=8)


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    operator = draw(st.sampled_from(OPERATORS))
    column = draw(st.sampled_from(["a", "b_2", "Some Name"]))
    if operator == "in":
        found = tuple(draw(st.lists(values, min_size=1, max_size=4)))
    elif operator == "is":
        found = (draw(st.sampled_from(["null", "true", "false", "unknown"])),)
    else:
        found = (draw(values),)
    return Condition(column, operator, found, draw(st.booleans()))


def groups(conditions: st.SearchStrategy[Any]) -> st.SearchStrategy[AnyOf]:
    alternatives = st.lists(conditions, min_size=1, max_size=3).map(tuple).map(Filter)
    return st.lists(alternatives, min_size=1, max_size=3).map(tuple).map(AnyOf)


members = st.recursive(conditions(), lambda inner: st.one_of(inner, groups(inner)), max_leaves=6)


@given(st.lists(members, max_size=4))
def test_every_filter_written_is_read_back_the_same(parts: list[Condition | AnyOf]) -> None:
    written = Filter(tuple(parts))
    assert parse(str(written)) == written


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    with suppress(FilterError):
        assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "position", "word"),
    [
        ("n", 0, "column=operator.value"),
        ("n=5", 2, "an operator is missing"),
        ("n=eq", 4, "dot"),
        ("n=foo.1", 2, "'foo' is no operator"),
        ("=eq.1", 0, "no column name"),
        ("a=eq.1,,b=eq.2", 7, "no column name"),
        ('a=eq."x', 5, "never closed"),
        ("a=in.(1,2", 5, "never closed"),
        ("a=in.1", 5, "in takes a list"),
        ("a=is.5", 2, "is takes"),
        ("a=eq.f(1,2)", 8, "double quotes"),
        ('a=eq."x"y', 8, "expected a comma"),
        ("or=(a.eq.1", 3, "never closed"),
        ("or=()", 4, "column.operator.value"),
        ("or=(a.eq.1)b", 11, "expected a comma"),
        ("or=(a=eq.1)", 4, "column.operator.value"),
        ("or=(a.foo.1)", 6, "'foo' is no operator"),
        ("or=" + "(or" * 30, 3 * MAX_DEPTH + 6, "nested more than 20 deep"),
        ("and=(a.eq.1,b.eq.2)", 0, "a comma is AND"),
        ("symbol=eq.KO and qty=gt.3", 13, "a comma is AND"),
        ("a=gt.3,b=lt.5 OR c=not.eq.4", 14, "for OR there is or="),
        ("not.or=(a.eq.1,b.eq.2)", 0, "a comma is AND"),
    ],
)
def test_an_error_names_the_position(text: str, position: int, word: str) -> None:
    with pytest.raises(FilterError, match=rf"position {position}: .*{re.escape(word)}"):
        parse(text)


def test_a_dict_is_shorthand_for_equality() -> None:
    uid = UUID("6a2f41a3-c54c-fce8-32d2-0324e1c32e22")
    found = parse(
        {"a": 42, "b": None, "c": ["x", "y,z"], "d": True, "e": uid, "f": dt.date(2024, 1, 2)}
    )
    assert found.to_rest() == [
        ("a", "eq.42"),
        ("b", "is.null"),
        ("c", 'in.(x,"y,z")'),
        ("d", "eq.true"),
        ("e", f"eq.{uid}"),
        ("f", "eq.2024-01-02"),
    ]
    with pytest.raises(FilterError, match="object"):
        parse({"a": object()})


def test_a_dict_compares_by_the_names_of_the_operators() -> None:
    found = parse({"a": {"gte": 1, "lt": 2.5}, "b": {"not.in": ["x", "y"]}, "c": {"not.is": None}})
    assert str(found) == "a=gte.1,a=lt.2.5,b=not.in.(x,y),c=not.is.null"
    with pytest.raises(FilterError, match="'>=' is not an operator; 'gte' is meant"):
        parse({"a": {">=": 1}})
    with pytest.raises(FilterError, match="not an operator; there are eq, neq"):
        parse({"a": {"above": 1}})
    for slip in ({"in": 5}, {"gt": None}, {"is": 5}, {}):
        with pytest.raises(FilterError, match="filter on 'a'"):
            parse({"a": slip})


def test_a_list_of_filters_means_that_one_must_hold() -> None:
    found = parse([{"n": {"gte": 3}}, "flag=is.true,n=eq.1"])
    assert str(found) == "or=(n.gte.3,and(flag.is.true,n.eq.1))"
    assert found.to_rest() == [("or", "(n.gte.3,and(flag.is.true,n.eq.1))")]
    assert found.to_realtime() is None
    assert found.columns == ("n", "flag")
    assert parse([{"n": 1}]) == parse({"n": 1})
    for slip in ([], [{}], [{"n": 1}, ""]):
        with pytest.raises(FilterError, match="a list of filters means OR"):
            parse(slip)


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=1, max_size=3), min_size=1, max_size=3),
    st.one_of(st.none(), st.integers(-2, 2)),
)
def test_or_is_certain_as_soon_as_one_alternative_is(
    values: list[list[int]], n: int | None
) -> None:
    found = Filter((AnyOf(tuple(parse([{"n": v} for v in one]) for one in values)),))
    assert found.matches({"n": n}, SCHEMA) is (n in {v for one in values for v in one})
    assert found.matches({}, SCHEMA) is None
    assert matches(f"or=({found.to_logic()},name.gt.a)", n=n) is (
        True if n in {v for one in values for v in one} else None
    )


def test_rest_takes_a_single_value_verbatim_and_quotes_in_lists() -> None:
    assert parse('name=eq."a,b"').to_rest() == [("name", "eq.a,b")]
    assert parse('name=not.in.("a,b","")').to_rest() == [("name", 'not.in.("a,b","")')]


def test_rest_takes_a_list_of_one_empty_text_for_an_empty_list_so_it_becomes_equality() -> None:
    assert parse('name=in.("")').to_rest() == [("name", "eq.")]
    assert parse('name=not.in.("")').to_rest() == [("name", "not.eq.")]
    assert parse('order=in.("")').to_rest() == [("and", '("order".eq.)')]
    assert parse("name=in.()").to_rest() == [("name", "in.()")]


def test_rest_reads_a_star_as_any_text_so_a_literal_star_becomes_a_regular_expression() -> None:
    assert parse("name=like.50*_%").to_rest() == [("name", r"match.^50\*..*$")]


def test_a_column_that_postgrest_reserves_is_quoted_in_a_group() -> None:
    assert parse("order=eq.a,b.c=eq.1").to_rest() == [
        ("and", '("order".eq.a)'),
        ("and", '("b.c".eq.1)'),
    ]


def test_more_than_a_hundred_values_do_not_go_over_the_socket() -> None:
    hundred = parse({"id": list(range(100))})
    assert hundred.to_realtime() is not None
    more = parse({"id": list(range(101))})
    assert more.to_realtime() is None
    assert more.matches({"id": 100}, SCHEMA) is True
    assert parse({"id": []}).matches({"id": 100}, SCHEMA) is False


def test_the_verdicts_of_the_real_server_are_ours() -> None:
    """Every insert of the transcript went to the topics whose filter matched (docs/design/wire.md)."""
    transcript = Path(__file__).parent / "wire" / "03-filters.jsonl"
    lines = [json.loads(line) for line in transcript.read_text().splitlines()]
    filters = {
        line["topic"].removeprefix("realtime:"): parse(line["filter"])
        for line in lines
        if line.get("note") == "filter" and line["topic"] != "realtime:fd"
    }
    seen = 0
    for line in lines:
        found = re.match(r"insert into wire_full values \((.*)\)", line.get("q", ""))
        if line.get("note") != "RESULT" or not found:
            continue
        texts = re.findall(r"'[^']*'|[^,]+", found[1])
        cells = [
            None if t == "null" else t.strip("'") if t[0] == "'" else json.loads(t) for t in texts
        ]
        row = dict(zip(("id", "name", "n", "flag", "note"), cells, strict=True))
        for topic, one in filters.items():
            ours = one.matches(row, SCHEMA)
            if ours is None:  # a regular expression
                assert {"match", "imatch"} & {c.operator for c in one.conditions}, topic
            else:
                assert ours is (topic in line["topics"]), (topic, line["q"])
        seen += 1
    assert seen == 4


# Against a naive model -----------------------------------------------------------------------

small = st.integers(-3, 3)


@given(st.one_of(st.none(), small), small, st.sampled_from(("eq", "neq", "lt", "lte", "gt", "gte")))
def test_integers_compare_as_numbers_and_null_matches_nothing(
    mine: int | None, theirs: int, operator: str
) -> None:
    plain = {
        "eq": int.__eq__,
        "neq": int.__ne__,
        "lt": int.__lt__,
        "lte": int.__le__,
        "gt": int.__gt__,
        "gte": int.__ge__,
    }[operator]
    assert matches(f"n={operator}.{theirs}", n=mine) is (mine is not None and plain(mine, theirs))
    expected = mine is not None and not plain(mine, theirs)
    assert matches(f"n=not.{operator}.{theirs}", n=mine) is expected


@given(st.one_of(st.none(), small), st.lists(small, max_size=3))
def test_in_is_equality_with_any(mine: int | None, theirs: list[int]) -> None:
    text = f"n=in.({','.join(map(str, theirs))})"
    assert matches(text, n=mine) is (mine is not None and mine in theirs)
    negated = text.replace("in", "not.in", 1)
    is_compared = mine is not None or not theirs  # with nothing: false, not NULL
    assert matches(negated, n=mine) is (is_compared and mine not in theirs)


alphabet = st.text("ab%_\\A.", max_size=6)


def naive_like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "%":
        return any(naive_like(text[i:], rest) for i in range(len(text) + 1))
    if head == "\\":
        return text[:1] == rest[:1] and naive_like(text[1:], rest[1:])
    return bool(text) and (head in ("_", text[0])) and naive_like(text[1:], rest)


@given(alphabet, alphabet)
def test_like_is_the_naive_like(text: str, pattern: str) -> None:
    mine = Filter((Condition("name", "like", (pattern,)),)).matches({"name": text}, SCHEMA)
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        assert mine is None
    else:
        assert mine is naive_like(text, pattern)


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        ("like.a%a%a%a%a%a%a%a%b", False),
        ("like.%a%a%a%a%a%a%a%a%", True),
        ("ilike.%A_A%_A_b%", False),
        ("like." + "%a_" * 30 + "b", None),
        ("match.a*a*a*a*a*a*b", None),
        ("match." + "a?" * 40 + "a{40}b", None),
        ("match." + "(a|a)" * 40 + "b", None),
        ("match.^a*b", None),
    ],
)
def test_a_long_text_costs_a_pattern_no_more_than_a_moment(
    condition: str, verdict: bool | None
) -> None:
    began = time.process_time()
    assert matches(f"name={condition}", name="a" * 200_000) is verdict
    assert time.process_time() - began < 2


def test_null_matches_only_is_and_isdistinct() -> None:
    assert matches("n=is.null", n=None) is True
    assert matches("n=not.is.null", n=None) is False
    assert matches("n=isdistinct.5", n=None) is True
    assert matches("n=not.isdistinct.5", n=None) is False
    assert matches("n=not.isdistinct.5", n=5) is True
    for operator in ("eq", "neq", "lt", "gte", "not.eq", "not.neq"):
        assert matches(f"n={operator}.5", n=None) is False
    assert matches("flag=is.unknown", flag=None) is True
    assert matches("flag=not.is.true", flag=None) is True
    assert matches("flag=is.true", flag=None) is False


def test_floats_follow_postgres_not_ieee() -> None:
    nan = float("nan")
    assert matches("f=eq.NaN", f=nan) is True
    assert matches("f=gt.1e300", f=nan) is True
    assert matches("f=lt.Infinity", f=1e308) is True
    assert matches("f=eq.0", f=-0.0) is True


def test_a_numeric_held_as_float_is_decided_by_floats_only_when_they_differ() -> None:
    assert matches("num=gt.10", num=10.5) is True
    assert matches("num=eq.10", num=10.5) is False
    assert matches("num=eq.10", num=10.0) is None
    assert matches("num=eq.10", num=Decimal("10.00")) is True
    assert matches("num=lt.10.00000000000000000001", num=Decimal(10)) is True


def test_spellings_of_booleans_uuids_and_times() -> None:
    for word in ("t", "TRUE", "yes", "on", "1", "tr"):
        assert matches(f"flag=eq.{word}", flag=True) is True
    assert matches("flag=eq.o", flag=True) is None
    uid = "6a2f41a3-c54c-fce8-32d2-0324e1c32e22"
    assert matches(f"uid=eq.{uid.upper()}", uid=uid) is True
    assert matches("uid=eq.nonsense", uid=uid) is None
    at = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert matches("at=eq.2024-01-02T04:04:05+01:00", at=at) is True
    assert matches("at=lt.2024-01-02T03:04:05.000001Z", at=at) is True
    assert matches("at=lt.2024-01-02 03:04:06", at=at) is None  # in the session's time zone
    assert matches("at=lt.now", at=at) is None
    assert matches("at=gt.2024-01-02T03:04:05Z", at="infinity") is None


def test_the_order_of_text_and_enums_is_the_servers() -> None:
    assert matches("name=gt.a", name="b") is None
    assert matches("name=gte.a", name="a") is True
    assert matches("name=gt.a", name="a") is False
    assert matches("mood=eq.ok", mood="ok") is True
    assert matches("mood=neq.ok", mood="sad") is True
    assert matches("mood=lt.ok", mood="sad") is None
    assert matches('js=eq."{}"', js={}) is None


def test_a_certain_no_outweighs_a_doubt_and_a_missing_column_is_a_doubt() -> None:
    assert matches("name=gt.a,n=eq.1", name="b", n=2) is False
    assert matches("name=gt.a,n=eq.1", name="b", n=1) is None
    assert matches("n=eq.1", name="b") is None
    assert matches("zzz=eq.1", zzz=1) is None


@pytest.mark.parametrize("pattern", ["^a", "(a+)+$", "(a|aa)*$", "(?i)x", "(a", r"\y"])
def test_a_regular_expression_is_the_servers_to_read(pattern: str) -> None:
    one = Filter((Condition("name", "match", (pattern,)),))
    assert one.matches({"name": "a" * 60 + "b"}, SCHEMA) is None


def test_null_is_not_in_an_empty_list() -> None:
    """``NULL = any('{}')`` is false, where ``NULL = any('{1}')`` is NULL."""
    assert matches("n=in.()", n=None) is False
    assert matches("n=not.in.()", n=None) is True
    assert matches("n=not.in.(1)", n=None) is False


def test_case_beyond_ascii_is_the_locales() -> None:
    assert matches("name=ilike.HE%", name="hello") is True
    assert matches("name=imatch.^H", name="hello") is None
    assert matches("name=ilike.É%", name="été") is None


def test_a_name_in_quotes_is_told_to_go_without_them_or_into_a_dict() -> None:
    with pytest.raises(FilterError, match="names go unquoted") as caught:
        parse('"Full Name"=eq.x')
    assert "{'Full Name': ...}" in str(caught.value)
    assert parse("Full Name=eq.x") == parse({"Full Name": "x"})
    with pytest.raises(FilterError) as other:
        parse("f(x)=eq.1")
    assert "unquoted" not in str(other.value)


def test_a_value_with_the_words_of_sql_is_a_value_where_it_is_quoted_or_no_condition_follows() -> (
    None
):
    for text in ('a=eq."x and b=eq.1"', "a=eq.this and that", "a=eq.x and y=z"):
        assert len(parse(text).conditions) == 1
    assert parse({"a": "x and b=eq.1"}).conditions
