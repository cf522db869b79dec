"""The laws of the three-way merge, and the effect of each strategy on a conflict."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.edits.merge import (
    RULES,
    Edit,
    Strategies,
    Strategy,
    merge_value,
    rebase,
    seconds,
)
from notebook_rt.model.types import equal


def longest(base: Any, mine: Any, theirs: Any, row: Any) -> Any:
    return max(mine, theirs, key=lambda v: len(str(v)))


STRATEGIES: list[Strategy] = [*RULES, longest]
tags = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)
values = st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3) | tags
strategy = st.sampled_from(STRATEGIES)


@given(values, values, strategy)
def test_nothing_of_mine_changed_theirs_stands(base: Any, theirs: Any, rule: Strategy) -> None:
    assert equal(merge_value(base, base, theirs, rule).value, theirs)


@given(values, values, strategy)
def test_nothing_of_theirs_changed_mine_stands(base: Any, mine: Any, rule: Strategy) -> None:
    merged = merge_value(base, mine, base, rule)
    assert equal(merged.value, mine)
    assert not merged.conflict


@given(values, values, values, strategy, st.none() | st.floats(0, 9))
def test_merging_the_result_again_changes_nothing(
    base: Any, mine: Any, theirs: Any, rule: Strategy, theirs_at: float | None
) -> None:
    result = merge_value(base, mine, theirs, rule, mine_at=5, theirs_at=theirs_at).value
    again = merge_value(theirs, result, theirs, rule, mine_at=5, theirs_at=theirs_at)
    assert equal(again.value, result)
    if rule != "delta":  # a sum is idempotent only once it is based on what it was added to
        twice = merge_value(base, result, theirs, rule, mine_at=5, theirs_at=theirs_at)
        assert equal(twice.value, result)


@given(tags, tags, tags)
def test_union_keeps_every_addition_and_no_removal(
    base: list[str], mine: list[str], theirs: list[str]
) -> None:
    result = merge_value(base, mine, theirs, "union").value
    added = (set(mine) | set(theirs)) - set(base)
    removed = set(base) - (set(mine) & set(theirs))
    assert set(result) == (set(base) | added) - removed
    assert len(result) == len(set(result))


@given(st.integers(), st.integers(), st.integers())
def test_delta_adds_both_differences(base: int, mine: int, theirs: int) -> None:
    assert merge_value(base, mine, theirs, "delta").value - base == (mine - base) + (theirs - base)


def test_delta_of_two_equal_increments_is_two_increments() -> None:
    assert merge_value(5, 6, 6, "delta").value == 7
    assert merge_value(Decimal("0.1"), Decimal("0.3"), Decimal("0.2"), "delta").value == Decimal(
        "0.4"
    )


def test_the_later_wins_in_server_time() -> None:
    assert merge_value(1, 2, 3, "lww", mine_at=10, theirs_at=9).value == 2
    assert merge_value(1, 2, 3, "lww", mine_at=10, theirs_at=11).value == 3
    without_time = merge_value(1, 2, 3, "lww", mine_at=10)
    assert without_time.value == 2
    assert "order of arrival" in without_time.rule


def test_ask_decides_nothing_and_a_function_that_raises_asks() -> None:
    asked = merge_value(1, 2, 3, "ask")
    assert asked.open
    assert asked.value == 2

    def broken(base: Any, mine: Any, theirs: Any, row: Any) -> Any:
        raise RuntimeError("no idea")

    merged = merge_value(1, 2, 3, broken)
    assert merged.open
    assert "no idea" in merged.rule


def test_true_is_not_one() -> None:
    assert merge_value([True], [True, 1], [True, "x"], "union").value == [True, "x", 1]


def test_times_without_a_zone_are_utc() -> None:
    assert seconds("1970-01-01T00:01:00") == 60
    assert seconds(dt.datetime(1970, 1, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))) == 60
    assert seconds("infinity") is None


def test_unknown_strategy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'last'.*lww"):
        Strategies("last")  # type: ignore[arg-type]  # the mistake under test


# --- whole edits -------------------------------------------------------------------------------

AT = "2026-01-01T00:00:{:02}+00:00"


def update(**values: Any) -> Edit:
    at = seconds(AT.format(30))
    assert at is not None
    return Edit("e", "update", 7, values, dict.fromkeys(values, 0), at)


def test_only_conditions_move_when_others_changed_other_columns() -> None:
    left = rebase(update(a=1), {"id": 7, "a": 0, "b": 9}, Strategies(), 0)
    assert left.edit == update(a=1)
    assert left.conflicts == ()


def test_an_effect_that_is_there_leaves_nothing_to_send() -> None:
    assert rebase(update(a=1, b=2), {"a": 1, "b": 2}, Strategies(), 0).edit is None


def test_a_decision_is_recorded_with_both_sides_and_who() -> None:
    row = {"a": 5, "b": 0, "updated_at": AT.format(40), "updated_by": "ann"}
    left = rebase(update(a=1, b=2), row, Strategies(), 99.0)
    assert left.edit is not None
    assert left.edit.values == {"b": 2}
    (record,) = left.conflicts
    assert (record.at, record.column, record.base, record.mine, record.theirs) == (99, "a", 0, 1, 5)
    assert (record.result, record.rule, record.who, record.open) == (5, "lww", "ann", False)


def test_what_is_rebased_is_clean_against_the_same_row() -> None:
    row = {"a": 5, "b": 3}
    left = rebase(update(a=1, b=2), row, Strategies("delta"), 0).edit
    assert left is not None
    assert left.values == {"a": 6, "b": 5}
    again = rebase(left, row, Strategies("delta"), 0)
    assert again.edit == left
    assert again.conflicts == ()


@pytest.mark.parametrize(("moved", "open_"), [(False, False), (True, True), (None, True)])
def test_a_lost_answer_to_a_sum_is_sent_again_only_if_the_row_has_not_moved(
    moved: bool | None, open_: bool
) -> None:
    sent = Edit("e", "update", 7, {"n": 1}, {"n": 0}, 0, sent=True)
    for n in (0, 1, 5):
        left = rebase(sent, {"n": n}, Strategies("delta"), 0, moved=moved)
        assert left.open is open_


@pytest.mark.parametrize(("moved", "open_"), [(False, False), (True, True), (None, True)])
def test_a_lost_answer_to_a_union_is_sent_again_only_if_the_row_holds_it_or_has_not_moved(
    moved: bool | None, open_: bool
) -> None:
    sent = Edit("e", "update", 7, {"t": ["a", "m"]}, {"t": ["a", "b"]}, 0, sent=True)
    for tags in (["a", "b"], ["a"], ["a", "b", "m"], ["a", "x"]):
        assert rebase(sent, {"t": tags}, Strategies("union"), 0, moved=moved).open is open_
    assert rebase(sent, {"t": ["m", "x"]}, Strategies("union"), 0, moved=moved).edit is None


def test_a_lost_answer_to_a_value_that_was_replaced_meanwhile_is_asked_not_repeated() -> None:
    sent = Edit("e", "update", 7, {"a": 1}, {"a": 0}, 0, sent=True)
    assert rebase(sent, {"a": 1}, Strategies(), 0).edit is None
    assert rebase(sent, {"a": 0}, Strategies(), 0).edit is not None
    assert rebase(sent, {"a": 5}, Strategies(), 0).open
    assert not rebase(sent, {"a": 5, "updated_at": AT.format(1)}, Strategies(), 0).open


def test_my_edit_of_a_row_they_deleted_is_kept_and_asked() -> None:
    left = rebase(update(a=1), None, Strategies(), 0)
    assert left.open
    assert left.edit == update(a=1)
    assert left.conflicts[0].column is None
    dropped = rebase(update(a=1), None, Strategies("server"), 0)
    assert dropped.edit is None
    assert dropped.conflicts[0].rule == "server"


@pytest.mark.parametrize(
    ("rule", "time", "deleted"),
    [("lww", 20, True), ("lww", 40, False), ("server", 20, False), ("local", 40, True)],
)
def test_my_delete_of_a_row_they_edited(rule: str, time: int, deleted: bool) -> None:
    at = seconds(AT.format(30))
    assert at is not None
    delete = Edit("e", "delete", 7, {}, {"a": 0}, at)
    row = {"a": 1, "updated_at": AT.format(time)}
    left = rebase(delete, row, Strategies(rule), 0)  # type: ignore[arg-type]  # a name of RULES
    assert (left.edit is not None) is deleted
    assert len(left.conflicts) == 1
    assert rebase(delete, row, Strategies("ask"), 0).open
    assert rebase(delete, None, Strategies(), 0).edit is None


@given(st.sampled_from([*RULES, lambda base, mine, theirs, row: mine]), st.booleans())
def test_an_insert_overwrites_nobodys_row_unasked(strategy: Any, sent: bool) -> None:
    insert = Edit("e", "insert", 7, {"id": 7, "a": 1, "b": 2}, {}, 0, sent=sent)
    left = rebase(insert, {"id": 7, "a": 5, "b": 2}, Strategies(strategy), 0)
    if strategy in ("server", "local"):
        assert not left.open or sent
        return
    assert (left.open, left.edit) == (True, insert)
    (conflict,) = left.conflicts
    assert (conflict.column, conflict.theirs) == (None, {"id": 7, "a": 5, "b": 2})
    assert rebase(insert, {"id": 7, "a": 1, "b": 2}, Strategies(strategy), 0).edit is None


def test_insert_against_insert_becomes_an_update_of_what_differs() -> None:
    insert = Edit("e", "insert", 7, {"id": 7, "a": 1, "b": 2}, {}, 0)
    assert rebase(insert, None, Strategies(), 0).edit == insert
    assert rebase(insert, {"id": 7, "a": 1, "b": 2, "c": 3}, Strategies(), 0).edit is None
    left = rebase(insert, {"id": 7, "a": 5, "b": 2}, Strategies("local"), 0)
    assert left.edit is not None
    assert (left.edit.kind, left.edit.values, left.edit.base) == ("update", {"a": 1}, {"a": 5})
    assert [c.column for c in left.conflicts] == ["a"]


def test_a_row_under_a_key_that_was_made_here_is_my_insert() -> None:
    insert = Edit("e", "insert", "u-1", {"id": "u-1", "a": 1}, {}, 0, own_key=True, sent=True)
    assert rebase(insert, {"id": "u-1", "a": 9}, Strategies(), 0).edit is None
