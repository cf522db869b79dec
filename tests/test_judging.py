"""Rows of computed frames that start and stop to match (``when`` of ``map`` and of SQL)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.errors import DerivationError
from notebook_rt.runtime.judging import Judge

KEYS = st.sampled_from(["a", "b", "c", 7, None])
VALUES = st.none() | st.integers(-3, 3) | st.floats(-3, 3) | st.just(float("nan"))


def frame(rows: dict[Any, Any], column: str = "n", dtype: Any = None) -> pd.DataFrame:
    index = pd.Index(list(rows), name="k", dtype=object)
    return pd.DataFrame({column: pd.Series(list(rows.values()), index, dtype)}, index)


def told(judge: Judge, value: Any, now: float = 0.0) -> list[tuple[str, Any]]:
    turns, wrong = judge.judge(value, now)
    assert wrong is None
    return [(turn.kind, turn.key) for turn in turns if turn.told]


@given(
    st.lists(st.dictionaries(KEYS, VALUES, max_size=5), max_size=8), st.booleans(), st.booleans()
)
def test_the_turns_replayed_are_the_rows_that_match(
    states: list[dict[Any, Any]], at_once: bool, by_function: bool
) -> None:
    """Whatever the values are: what has entered and not left is what pandas selects."""
    function = lambda row: row["n"] is not None and row["n"] > 0  # noqa: E731
    judge = Judge("it", function if by_function else "n=gt.0", at_once=at_once)
    entered: set[Any] = set()
    silent: set[Any] = set()
    for number, state in enumerate(states):
        df = frame(state, dtype="float64")
        matching = set(df.index[df.n > 0])
        if number == 0 and not at_once:
            silent = matching
        for kind, key in told(judge, df):
            assert (kind == "enter") == (key not in entered)
            (entered.add if kind == "enter" else entered.discard)(key)
        silent &= matching
        assert entered == matching - silent


def test_a_row_has_the_levels_of_its_index_and_none_for_null() -> None:
    seen: list[dict[str, Any]] = []
    judge = Judge("it", lambda row: bool(seen.append(row)), at_once=True)
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["shop", "day"])
    judge.judge(pd.DataFrame({"n": [1.5, float("nan")]}, index), 0.0)
    assert seen == [{"shop": "a", "day": 1, "n": 1.5}, {"shop": "b", "day": 2, "n": None}]


@pytest.mark.parametrize(
    ("values", "condition", "expected"),
    [
        ([1, 2, 3], "n=gte.2", 2),
        (pd.array([1, None, 3], dtype="Int64"), "n=is.null", 1),
        ([Decimal("1.10"), Decimal("2"), None], "n=gt.1.1", 1),
        ([True, False, None], "n=is.true", 1),
        (["a", "b", "a"], "n=eq.a", 2),
        (pd.to_datetime(["2026-01-01", "2026-01-02", None]), "n=gt.2026-01-01T00:00:00", 1),
        (
            pd.to_datetime(["2026-01-01", "2026-01-02", None], utc=True),
            "n=lt.2026-01-02T00:00:00Z",
            1,
        ),
        (pd.array(["a", None, "b"], dtype="string[pyarrow]"), {"n": ["a", "b"]}, 2),
    ],
)
def test_a_filter_compares_by_the_columns_type(values: Any, condition: Any, expected: int) -> None:
    df = pd.DataFrame({"n": values}, index=pd.Index(["x", "y", "z"], name="k"))
    assert len(told(Judge("it", condition, at_once=True), df)) == expected
    if not isinstance(condition, str) or "is." not in condition:
        series = df["n"].rename("n")
        assert len(told(Judge("it", condition, at_once=True), series)) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (pd.DataFrame({"n": [1]}), r"set_index\(\"column\"\)"),
        (pd.DataFrame({"n": [1, 2]}, index=["a", "a"]), "does not tell rows apart"),
        (7, "this is a int"),
        (frame({"a": 1}, column="m"), 'no column "n"'),
        (frame({"a": 1.0}), "is no number"),
    ],
)
def test_a_value_that_cannot_be_judged_says_why(value: Any, words: str) -> None:
    judge = Judge("it", "n=gt.soon" if words == "is no number" else "n=gt.0", at_once=True)
    with pytest.raises(DerivationError, match=words):
        judge.judge(value, 0.0)


def test_a_row_that_the_condition_cannot_judge_stays_as_it_was() -> None:
    judge = Judge("it", lambda row: 1 / row["n"] > 0, at_once=True)
    assert told(judge, frame({"a": 1, "b": -1})) == [("enter", "a")]
    turns, wrong = judge.judge(frame({"a": 0, "b": 1}), 1.0)
    assert isinstance(wrong, ZeroDivisionError)
    assert [(turn.kind, turn.key) for turn in turns] == [("enter", "b")]


def test_what_matches_for_less_than_the_debounce_is_not_told() -> None:
    judge = Judge("it", "n=gt.0", at_once=True, debounce=2.0)
    assert told(judge, frame({"a": 1, "b": 1}), 0.0) == []
    assert judge.next_due == 2.0
    assert told(judge, frame({"a": 1, "b": 0}), 1.0) == []
    assert [turn.key for turn in judge.due(2.0)] == ["a"]
    assert judge.next_due is None
