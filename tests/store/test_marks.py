"""A mark knows every row as it was at its creation, after any changes of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebook_rt.model.rows import Delete, Key, Op, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store import marks
from notebook_rt.store.journal import JournalledTable
from notebook_rt.store.marks import Mark, OutOfReachError

SCHEMA = Schema(
    (Column("id", "int8"), Column("name", "text"), Column("n", "int8"), Column("tags", "_text")),
    key=("id",),
)
KEYS = range(6)

values = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | st.sampled_from(["a", "b"]),
        "n": st.none() | st.integers(0, 3),
        "tags": st.none() | st.lists(st.sampled_from("xy"), max_size=2),
    },
)
ops = st.lists(
    st.builds(Upsert, st.sampled_from(KEYS), values)
    | st.builds(Delete, st.sampled_from(KEYS), keeps_place=st.booleans()),
    max_size=6,
)
steps = st.lists(
    st.tuples(st.sampled_from(["apply", "apply", "load", "mark", "read", "ask"]), ops), max_size=25
)


def state(table: JournalledTable) -> dict[Key, dict[str, Any] | None]:
    return {key: table.get(key) for key in KEYS}


def told(mark: Mark) -> dict[Key, dict[str, Any] | None]:
    found = mark.rows(KEYS)
    assert all(mark.rows([key]).get(key) == found.get(key) for key in KEYS)
    return {key: found.get(key) for key in KEYS}


@given(steps)
def test_a_mark_knows_every_row_as_it_was(steps: list[tuple[str, Sequence[Op]]]) -> None:
    table = JournalledTable(SCHEMA)
    made: list[tuple[Mark, dict[Key, dict[str, Any] | None]]] = []
    for what, ops in steps:
        if what == "apply":
            table.defer = len(ops) % 2 == 0
            table.apply(ops, want_changes=True)
        elif what == "load":
            table.apply(ops)  # noted, and not in the columns when they are replaced
            load = table.load()
            load.extend([{"id": k, "name": "new", "n": 9, "tags": []} for k in (1, 3, 5)])
            load.commit()
        elif what == "mark":
            made.append((table.mark(), state(table)))
        elif what == "read":
            table.snapshot()
        else:
            assert all(told(mark) == then for mark, then in made)
    assert all(told(mark) == then for mark, then in made)


def test_readings_between_two_steps_share_a_mark_and_who_let_go_costs_nothing() -> None:
    table = JournalledTable(SCHEMA)
    table.apply([Upsert(1, {"n": 1})])
    mark = table.mark()
    assert table.mark() is mark
    table.apply([Upsert(1, {"n": 2})])
    later = table.mark()
    assert later is not mark
    assert mark.rows([1])[1]["n"] == 1
    assert later.rows([1])[1]["n"] == 2
    del mark, later
    assert not table._marks


def test_a_mark_is_bounded_and_says_when_it_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MOST", 8)
    table = JournalledTable(SCHEMA)
    table.apply([Upsert(key, {"n": 0}) for key in range(20)])
    mark = table.mark()
    for n in range(1, 100):  # the same few rows: each is kept once
        table.apply([Upsert(key, {"n": n}) for key in range(8)])
        table.snapshot()
    assert mark.rows([3])[3]["n"] == 0
    table.apply([Upsert(key, {"n": 1}) for key in range(20)])
    table.snapshot()
    with pytest.raises(OutOfReachError):
        mark.rows([3])
