"""What is discovered about a table: from descriptions, and otherwise from refusals."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import FilterError, MissingColumnError, NotPublishedError, RefusedError
from notebook_rt.model.spec import TableSpec
from notebook_rt.model.types import Column, Schema
from notebook_rt.sync.events import Page, Query
from notebook_rt.sync.table.change import columns_differ
from notebook_rt.sync.table.column_types import AT_ONCE, type_in, typed
from notebook_rt.sync.table.discovery import (
    COMPOSITES,
    SINGLES,
    WIDEST,
    Described,
    candidates,
    described,
    from_description,
    identifies_rows,
    learn,
)
from notebook_rt.sync.table.horizon import Read
from tests.sync.simulation import Server

DESCRIPTION = {
    "definitions": {
        "t": {
            "type": "object",
            "required": ["id", "state"],
            "properties": {
                "id": {"format": "bigint", "type": "integer", "description": "Note:\nKey.<pk/>"},
                "small": {"format": "int32", "type": "integer"},
                "large": {"format": "int64", "type": "integer", "default": 0},
                "state": {"format": "public.state", "type": "string", "enum": ["open", "held"]},
                "states": {"format": "public.state[]", "type": "array"},
            },
        }
    }
}


def test_types_key_not_null_and_labels_are_learnt() -> None:
    found = from_description(DESCRIPTION, "t")
    assert found.key == ("id",)
    assert found.columns == (
        Column("id", "int8", nullable=False),
        Column("small", "int4"),
        Column("large", "int8", filled=True),
        Column("state", "state", nullable=False, choices=("open", "held")),
        Column("states", "_state"),
    )


def test_a_description_that_does_not_say_what_is_required_refuses_nothing() -> None:
    described: dict[str, Any] = {"definitions": {"t": {"properties": {"id": {"format": "uuid"}}}}}
    (column,) = from_description(described, "t").columns
    assert column.refusal(None) is None
    assert column.refusal("x") is None


@pytest.mark.parametrize("description", [None, [], {}, {"definitions": []}, {"definitions": {}}])
def test_what_is_no_description_teaches_nothing(description: Any) -> None:
    assert from_description(description, "t") == Described()


def test_a_projection_keeps_what_the_columns_may_hold() -> None:
    found = from_description(DESCRIPTION, "t")
    kept = Schema(found.columns, found.key).project(["state"])
    assert kept.column("state").choices == ("open", "held")
    assert not kept.column("id").nullable


@pytest.mark.parametrize(
    ("told", "differ"),
    [
        ([Column("id", "int8"), Column("size", "positive"), Column("mood", "mood")], False),
        ([Column("id", "int8"), Column("size", "text"), Column("mood", "mood")], True),
        ([Column("id", "int8"), Column("size", "int4")], True),
    ],
)
def test_a_domain_named_in_a_change_is_the_type_below_it(told: list[Column], differ: bool) -> None:
    known = Schema((Column("id", "int8"), Column("size", "int4"), Column("mood", "mood")), ("id",))
    assert columns_differ(tuple(told), known) is differ


CATALOG = {
    "tables": {
        "t": {
            "kind": "r",
            "columns": [
                {"name": "day", "type": "date", "not_null": True},
                {"name": "id", "type": "bigint", "not_null": True, "identity": True},
                {"name": "state", "type": "public.state", "labels": ["open", "held"]},
                {"name": "at", "type": "timestamp with time zone", "default": "now()"},
                {"name": "twice", "type": "numeric", "generated": True},
            ],
            "key": ["id", "day"],
            "unique": [["state", "at"]],
        }
    }
}


def test_the_optional_sql_tells_all_of_a_table() -> None:
    found = described(CATALOG, "t")
    assert found.columns == (
        Column("day", "date", nullable=False),
        Column("id", "int8", nullable=False, filled=True),
        Column("state", "state", choices=("open", "held")),
        Column("at", "timestamptz", filled=True),
        Column("twice", "numeric", generated=True),
    )
    assert found.key == ("day", "id")  # in the columns' order, as the description gives it
    assert found.unique == (("state", "at"),)
    assert described(CATALOG, "another") == Described()


def test_a_column_that_is_dropped_while_the_sql_looks_is_not_there() -> None:
    """The columns are of the function's snapshot, the privileges of now: PostgreSQL's is null for it."""
    columns = [{"name": "id", "type": "bigint", "readable": True}]
    gone = {"name": "n", "type": "text", "readable": None}
    found = described({"tables": {"t": {"columns": [*columns, gone], "key": ["id"]}}}, "t")
    assert [column.name for column in found.columns] == ["id"]
    assert found.readable is None  # all that are there


def read(value: Any) -> Read:
    return Read(Page((), None, 0.0, value), 0, 0.0)


@pytest.mark.parametrize(
    ("kind", "todo"),
    [("r", "run: alter publication supabase_realtime add table public.t"), ("v", "rt.query")],
)
def test_a_table_that_is_said_not_to_be_published_is_refused_before_it_is_subscribed_to(
    kind: str, todo: str
) -> None:
    said = {**CATALOG["tables"]["t"], "kind": kind, "published": False, "grants": ["select"]}
    flow = learn(TableSpec("t"), lambda *found: None)
    next(flow)
    with pytest.raises(NotPublishedError) as caught:
        flow.send([read({"tables": {"t": said}}), read(None)])
    assert todo in str(caught.value)
    # Without the grant, no row can be read: that is the first thing to mend.
    flow = learn(TableSpec("t"), lambda *found: None)
    next(flow)
    with pytest.raises(StopIteration):
        flow.send([read({"tables": {"t": {**said, "grants": ["insert"]}}}), read(None)])


@pytest.mark.parametrize("answer", [{"tables": None}, {"tables": {"t": None}}, {"tables": {}}])
def test_an_answer_that_says_nothing_of_the_table_teaches_nothing(answer: Any) -> None:
    assert described(answer, "t") == Described()


@pytest.mark.parametrize(
    ("said", "pg_type"),
    [
        ('invalid input syntax for type integer: "x"', "int4"),
        ('invalid input syntax for type timestamp with time zone: "x"', "timestamptz"),
        ('invalid input value for enum mood: "x"', "mood"),
        ('invalid input value for enum app."Mood": "x"', "Mood"),
        ("invalid input syntax for type json", "jsonb"),
        ("invalid input syntax for type json Token is invalid.", "jsonb"),
        ("operator does not exist: json = unknown", "json"),
        ("operator does not exist: xml = unknown", "xml"),
        ('invalid hexadecimal digit: "n"', "bytea"),
        ('malformed array literal: "x"', "[]"),
        ('malformed range literal: "x"', "text"),
        ('ung\u00fcltige Eingabesyntax f\u00fcr Typ integer: "x"', "?"),
    ],
)
def test_a_refused_comparison_names_the_type(said: str, pg_type: str) -> None:
    assert type_in(RefusedError("GET /t", 400, "22P02", said)) == pg_type
    assert type_in(FilterError(f'table "t": {said}')) == pg_type


def test_a_comparison_that_is_not_refused_is_of_a_text() -> None:
    assert type_in(None) == "text"
    assert type_in(RefusedError("GET /t", 400, "42703", "column t.x does not exist")) is None
    assert type_in(MissingColumnError("public", "t", "x")) is None


cells = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from("abc"), st.just(1.5))


@given(st.integers(1, 12), st.data())
def test_candidates_are_few_identify_the_rows_and_name_the_key_if_it_is_short(
    width: int, data: st.DataObject
) -> None:
    """Law: whatever rows there are, each candidate could be the key, none comes twice, there is a
    bound, and a key of the leading columns is among them.
    """
    names = [f"c{n}" for n in range(width)]
    rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(names, cells)), min_size=1))
    size = data.draw(st.integers(1, min(width, WIDEST)))
    key = tuple(names[:size])
    for number, row in enumerate(rows):
        row |= dict.fromkeys(key[:-1], 0) | {key[-1]: number}
    found = list(candidates("t", names, rows))
    assert all(identifies_rows(rows, one) for one in found)
    assert len({frozenset(one) for one in found}) == len(found) <= SINGLES + COMPOSITES + WIDEST
    assert key in found


def test_the_likeliest_key_is_tried_first() -> None:
    rows = [{"name": f"n{n}", "price": n, "shop_id": n, "id": n, "on": True} for n in range(3)]
    assert list(candidates("t", list(rows[0]), rows))[:4] == [
        ("id",),
        ("name",),
        ("shop_id",),
        ("price",),
    ]


def test_two_columns_are_tried_before_four() -> None:
    """Also where a column called id is none of them: all are in the first handful of questions."""
    rows = [{"id": n, "sensor": n % 60, "at": f"{n}", "size": n, "note": "x"} for n in range(32)]
    found = list(candidates("t", list(rows[0]), rows))
    assert found.index(("sensor", "at")) <= AT_ONCE
    assert ("id", "sensor", "at", "size") in found


def test_without_a_row_the_usual_names_are_tried() -> None:
    found = list(candidates("positions", (), ()))
    assert found[0] == ("id",)
    assert {("position_id",), ("symbol",), ("email",)} <= set(found)
    assert len(set(found)) == len(found) <= 40


@pytest.mark.parametrize("key", [("id",), ("sensor", "at")])
@pytest.mark.parametrize("spec", [TableSpec("t"), TableSpec("t", limit=5)])
def test_a_table_without_a_description_is_discovered_in_few_round_trips(
    key: tuple[str, ...], spec: TableSpec
) -> None:
    """The description and some rows, then the likely keys and the types at once, and the first keys."""
    columns = {name: "text" if name == "at" else "int8" for name in (*key, "size")}
    server = Server(columns, key, describes="not")
    for n in range(50):
        server.write(n if len(key) == 1 else (n % 40, f"at {n}"), {"size": n % 7})
    learnt: list[Schema] = []
    flow = learn(spec, lambda kept, known, found: learnt.append(known), 1000)
    round_trips, requests = 0, 0
    reads: list[Read] | None = None
    while not learnt:
        try:
            asked = next(flow) if reads is None else flow.send(reads)
        except StopIteration:
            break
        assert isinstance(asked, list)
        round_trips, requests = round_trips + 1, requests + len(asked)
        reads = [Read(answered(server, query), 0, 0.0) for query in asked]
    assert learnt[0].key == key
    assert round_trips == 2  # the leading columns are tried beside the first
    ahead = key == ("id",) and spec.limit is None
    assert requests <= 2 + len(columns) + len(key) + ahead


def test_no_question_for_a_type_looks_at_a_row() -> None:
    """A text is compared with what no row has: all of a large table would be read to find none."""
    flow = typed(["note", "tags"], [{"note": "a", "tags": ["b"]}])
    refusal = RefusedError("GET /t", 400, "22P02", 'malformed array literal: "x"')
    steps, asked = 0, next(flow, None)
    while asked is not None:
        assert isinstance(asked, list)
        assert [dict(query.params)["limit"] for query in asked] == ["0"] * len(asked)
        refused = [None if "note" in dict(query.params) else refusal for query in asked]
        reads = [Read(Page((), None, 0.0, refusal=one), 0, 0.0) for one in refused]
        steps += 1
        with contextlib.suppress(StopIteration):
            asked = flow.send(reads)
            continue
        break
    assert steps == 2, "of the array's elements, too"


def answered(server: Server, query: Query) -> Page:
    try:
        return server.select(query)
    except RefusedError as refusal:
        assert query.refusable
        return Page((), None, 0.0, refusal=refusal)
