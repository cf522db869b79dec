"""A table reports later about a batch what it would have reported at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_rt.model.rows import Delete, LaterChanges, Op, RowChange, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.store import journal
from notebook_rt.store.journal import JournalledTable
from tests.laws import examples
from tests.store.model import Model

SCHEMA = Schema(
    (Column("id", "int8"), Column("n", "float8"), Column("t", "text"), Column("j", "jsonb")),
    key=("id",),
)
KEYS = st.integers(0, 8)
VALUES = {
    "n": st.sampled_from([None, 1.0, 2.5, float("nan")]),
    "t": st.sampled_from([None, "a", "b"]),
    "j": st.sampled_from([None, 1, True, [1, {"a": None}]]),
}
OPS = st.lists(
    st.builds(Delete, KEYS, keeps_place=st.booleans())
    | st.tuples(KEYS, st.fixed_dictionaries({}, optional=VALUES)).map(
        lambda pair: Upsert(pair[0], {"id": pair[0], **pair[1]})
    ),
    max_size=6,
)
STEPS = st.lists(
    st.tuples(st.just("later"), OPS)
    | st.tuples(st.just("at once"), OPS)
    | st.tuples(st.just("unasked"), OPS)
    | st.tuples(st.sampled_from(["read", "look", "let go", "load"]), st.integers(0, 9)),
    max_size=25,
)


def same(told: Sequence[RowChange], expected: Sequence[RowChange]) -> bool:
    def plain(changes: Sequence[RowChange]) -> list[tuple[Any, ...]]:
        return [
            (c.kind, c.key, repr(dict(c.old) if c.old else c.old), repr(c.new)) for c in changes
        ]

    return plain(told) == plain(expected)


@given(STEPS)
@settings(max_examples=examples(300), deadline=None)
def test_what_is_told_later_is_what_would_have_been_told_at_once(
    steps: list[tuple[str, Any]],
) -> None:
    table, model = JournalledTable(SCHEMA), Model(SCHEMA, None)
    held: list[tuple[Sequence[RowChange], list[RowChange]]] = []
    for what, detail in steps:
        if what in ("later", "at once"):
            table.defer = what == "later"
            held.append((table.apply(detail, want_changes=True), model.apply(detail)))
            assert len(detail) >= len(held[-1][1])
        elif what == "unasked":
            table.apply(detail)
            model.apply(detail)
        elif what == "read":
            assert set(table.snapshot().index) == set(model.rows)
        elif what == "look" and held:
            told, expected = held[detail % len(held)]
            assert same(told, expected)
        elif what == "let go" and held:
            del held[detail % len(held)]
        elif what == "load":
            page = [{"id": key, "n": 1, "t": "x", "j": None} for key in range(detail)]
            load = table.load()
            load.extend(page)
            load.commit()
            model.replace([page], [])
    for told, expected in reversed(held):
        assert same(told, expected)


def test_what_nobody_holds_is_never_worked_out() -> None:
    table = JournalledTable(SCHEMA)
    table.apply([Upsert(1, {"n": 1.0})])
    table.defer = True
    let_go = weakref.ref(table.apply([Upsert(1, {"n": 2.0})], want_changes=True))
    kept = table.apply([Upsert(1, {"n": 3.0})], want_changes=True)
    gc.collect()
    assert let_go() is None
    assert [(change.old, change.new) for change in kept] == [
        ({"id": 1, "n": 2.0, "t": None, "j": None}, {"id": 1, "n": 3.0, "t": None, "j": None})
    ]


def test_one_row_that_changes_forever_makes_no_endless_journal(monkeypatch: Any) -> None:
    monkeypatch.setattr(journal, "_MOST", 20)
    table = JournalledTable(SCHEMA)
    table.defer = True
    first = table.apply([Upsert(1, {"n": 0.0})], want_changes=True)
    for n in range(1, 200):
        batch: list[Op] = [Upsert(1, {"n": float(n)})]
        table.apply(batch, want_changes=True)
        assert len(table._journal) <= 21
    assert isinstance(first, LaterChanges)
    assert first.at_most == 1
    assert [(change.kind, change.key) for change in first] == [("insert", 1)]
