"""Descriptions of merges: plain sentences without internal terms."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from notebook_rt.edits import decide
from notebook_rt.edits.listing import SHORT, decision, question
from notebook_rt.edits.merge import RULES, Rule, Strategies, rebase
from notebook_rt.edits.ops import Op

TYPES = {"id": "int8", "a": "text", "n": "int8", "updated_by": "text"}
INSERT = Op("o", "insert", "public", "t", 0.0, {"id": 1}, {"id": 1, "a": "mine"}, types=TYPES)
UPDATE = replace(INSERT, kind="update", values={"a": "mine"}, base={"a": "old"})
DELETE = replace(INSERT, kind="delete", values={}, base={"id": 1, "a": "old", "n": 1})
THEIRS = {"id": 1, "a": "theirs", "n": 7, "updated_by": None, "xmin": "758"}


def records(op: Op, row: dict[str, Any] | None, strategies: Strategies) -> list[dict[str, Any]]:
    """What the queue's file keeps of a merge."""
    typed = None if row is None else decide.row_of(op, row)
    left = rebase(decide.edit_of(op), typed, strategies, 0.0)
    return [decide.record_of(op, conflict) for conflict in left.conflicts]


def said(op: Op, row: dict[str, Any] | None, rule: Rule) -> str:
    (record,) = records(op, row, Strategies(rule))
    return question(record) if record["open"] else decision(record)


def test_who_is_to_decide_is_told_what_happened_and_what_each_choice_does() -> None:
    assert said(UPDATE, THEIRS, "ask") == (
        "another writer changed a, too: yours is 'mine', theirs is 'theirs'; "
        ".resolve(1, choice=...) of the table decides"
    )
    nothing = said(replace(UPDATE, values={"a": ""}), {**THEIRS, "a": None}, "ask")
    assert nothing.startswith("another writer changed a, too: yours is '', theirs is empty; ")
    ada = {**THEIRS, "updated_by": "ada"}
    assert said(UPDATE, ada, "ask").startswith("ada changed a, too: ")
    assert said(INSERT, THEIRS, "lww") == (
        "another writer inserted a row of this key, too; .resolve(1, choice=...) of the table decides, "
        '"mine" gives it your values and "theirs" drops your insert'
    )
    assert said(UPDATE, None, "lww").startswith("another writer deleted the row, which you edited;")
    assert said(DELETE, THEIRS, "ask").startswith(
        "another writer changed the row, which you deleted"
    )
    moved = replace(UPDATE, values={"id": 2}, base={"id": 1})
    assert question(decide.of_another_row(moved, THEIRS, 0.0)) == (
        "the row that you gave another key was not inserted: its key is that of a row of another writer; "
        '.resolve(1, choice=...) of the table decides, "mine" gives theirs the new key and "theirs" '
        "keeps it as it is"
    )
    assert question(decide.of_another_row(DELETE, THEIRS, 0.0)).endswith(
        '"mine" deletes theirs and "theirs" keeps it as it is'
    )
    lost = said(replace(INSERT, sent=True), THEIRS, "lww")
    assert lost.startswith("the answer to this insert was lost, and the row of this key has other")
    lost = said(replace(UPDATE, sent=True), THEIRS, "lww")
    assert lost.startswith("the answer to this edit was lost, so a may have been written already")


def test_what_a_rule_has_decided_is_told_in_a_sentence() -> None:
    assert said(UPDATE, THEIRS, "server") == (
        "another writer changed a, too: theirs stands, 'theirs' instead of 'mine' (server)"
    )
    sums = replace(UPDATE, values={"n": 6}, base={"n": 1})
    assert said(sums, THEIRS, "delta") == (
        "another writer changed n, too: yours, 6, and theirs, 7, became 12 (delta)"
    )
    assert said(DELETE, THEIRS, "server") == (
        "another writer changed the row, which you deleted: it is kept (server)"
    )
    assert said(DELETE, THEIRS, "local") == (
        "another writer changed the row, which you deleted: it is deleted all the same (local)"
    )
    assert said(UPDATE, None, "server") == (
        "another writer deleted the row, which you edited: your edit is dropped (server)"
    )


def test_a_merge_function_that_raises_is_named() -> None:
    def broken(base: Any, mine: Any, theirs: Any, row: Any) -> Any:
        raise ValueError("no")

    (record,) = records(UPDATE, THEIRS, Strategies(columns={"a": broken}))
    assert "theirs is 'theirs' (broken raised ValueError: no);" in question(record)


def test_a_merge_function_is_given_the_columns_and_nothing_else() -> None:
    given: list[dict[str, Any]] = []
    function = lambda base, mine, theirs, row: given.append(row)  # noqa: E731  one word of a test
    records(UPDATE, THEIRS, Strategies(columns={"a": function}))
    assert [set(row) for row in given] == [{"id", "a", "n", "updated_by"}]


texts = st.none() | st.text(max_size=2 * SHORT)


@pytest.mark.parametrize("op", [INSERT, UPDATE, DELETE])
@given(st.sampled_from(RULES), st.booleans(), texts, texts, st.booleans())
def test_no_record_of_a_merge_shows_what_is_no_column_or_has_no_sentence(
    op: Op, rule: Rule, sent: bool, mine: str | None, theirs: str | None, there: bool
) -> None:
    if op.kind != "delete":
        op = replace(op, values={**op.values, "a": mine})
    row = {**THEIRS, "a": theirs} if there else None
    for record in records(replace(op, sent=sent), row, Strategies(rule)):
        assert "xmin" not in repr(record)
        words = question(record) if record["open"] else decision(record)
        assert re.match(r"(another writer|the answer to this) \w+ ", words)
        assert len(words) < 400
