"""The contents of a table: rows by key, in the promised order, with the promised dtypes."""

from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest

from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Delete, Op, RowChange, Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.store import contents
from notebook_rt.store.column import ColumnStore
from notebook_rt.store.columns import ComputedFloats, column_of
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table
from notebook_rt.store.touched import RANK

SCHEMA = Schema((Column("id", "int8"), Column("n", "int4"), Column("t", "text")), ("id",))


def _filled() -> Table:
    table = Table(SCHEMA)
    load = table.load()
    load.extend([{"id": key, "n": key * 10, "t": f"row {key}"} for key in (1, 2, 3)])
    load.commit()
    return table


def test_rows_stay_as_loaded_then_as_arrived_and_a_deletion_moves_nothing() -> None:
    table = _filled()
    table.apply([Upsert(9, {"id": 9}), Upsert(0, {"id": 0}), Delete(2), Upsert(1, {"n": 5})])
    assert list(table.keys()) == [1, 3, 9, 0] == list(table.snapshot().index)


def test_an_absent_column_is_unchanged_in_an_update_and_null_in_an_insert() -> None:
    table = _filled()
    table.apply([Upsert(1, {"n": 5}), Upsert(4, {"id": 4, "t": "new"})])
    assert table.get(1) == {"id": 1, "n": 5, "t": "row 1"}
    assert table.get(4) == {"id": 4, "n": None, "t": "new"}


def test_a_column_that_the_table_does_not_know_is_never_seen() -> None:
    table = _filled()
    table.apply([Upsert(1, {"n": 5, "other": 1}), Upsert(4, {"id": 4, "other": 1})])
    pending = table.gather([1, 4])
    assert pending == {1: {"id": 1, "n": 5, "t": "row 1"}, 4: {"id": 4, "n": None, "t": None}}
    assert table.get(1) == pending[1]
    assert list(table.snapshot().columns) == ["n", "t"]


def test_a_batch_is_one_change_and_tells_old_and_new() -> None:
    table = _filled()
    changes = table.apply(
        [Upsert(1, {"n": 10}), Upsert(2, {"n": 0}), Delete(3), Upsert(3, {"id": 3}), Delete(7)],
        want_changes=True,
    )
    assert changes == [
        RowChange("update", 2, {"id": 2, "n": 20, "t": "row 2"}, {"id": 2, "n": 0, "t": "row 2"}),
        RowChange("update", 3, {"id": 3, "n": 30, "t": "row 3"}, {"id": 3, "n": None, "t": None}),
    ]


@pytest.mark.parametrize("telling", [False, True])
def test_a_batch_without_a_change_still_says_where_a_row_comes_back(telling: bool) -> None:
    """Whether anybody listens makes no difference to the order of the rows."""
    table = _filled()
    table.apply([Upsert(4, {"id": 4}), Delete(4, keeps_place=True)], want_changes=telling)
    table.apply([Delete(1, keeps_place=True)], want_changes=telling)
    table.apply([Delete(1)], want_changes=telling)  # the place of a row that is hidden
    table.apply([Upsert(5, {"id": 5}), Upsert(4, {"id": 4}), Upsert(1, {"id": 1})])
    assert list(table.snapshot().index) == [2, 3, 4, 5, 1]


def test_two_reads_without_a_change_between_them_are_one_object() -> None:
    table = _filled()
    first = table.snapshot()
    table.apply([Upsert(1, {"n": 10}), Delete(77)])
    assert table.snapshot() is first
    table.apply([Upsert(1, {"n": 11})])
    assert table.snapshot() is not first
    assert (first.loc[1, "n"], table.snapshot().loc[1, "n"]) == (10, 11)


def test_integers_with_nulls_are_nullable_and_plain_again_without() -> None:
    table = _filled()
    table.apply([Upsert(1, {"n": None})])
    assert table.snapshot()["n"].dtype == pd.Int64Dtype()
    table.apply([Delete(1)])
    assert table.snapshot()["n"].dtype == "int64"


def test_a_load_is_seen_when_it_is_committed() -> None:
    table = _filled()
    load = table.load()
    load.extend([{"id": 5, "n": 1, "t": None}])
    assert list(table.keys()) == [1, 2, 3]
    changes = load.commit([Upsert(6, {"id": 6})], want_changes=True)
    assert list(table.keys()) == [5, 6]
    assert [(change.kind, change.key) for change in changes] == [
        ("delete", 1),
        ("delete", 2),
        ("delete", 3),
        ("insert", 5),
        ("insert", 6),
    ]


def test_a_load_is_of_the_columns_that_the_table_has_when_it_is_committed() -> None:
    columns = [Column("id", "int8"), Column("a", "text"), Column("b", "int8"), Column("c", "int8")]
    table = Table(Schema(tuple(columns), key=("id",)))
    load = table.load()
    load.extend([{"id": 1, "a": "one", "b": 5, "c": 7}])
    table.drop_column("a")
    table.add_column(Column("a", "text"))  # behind the others now
    table.drop_column("c")
    table.add_column(Column("d", "text"))
    changes = load.commit([Upsert(2, {"a": "two", "b": 6})], want_changes=True)
    assert [change.kind for change in changes] == ["insert", "insert"]
    frame = table.snapshot()
    assert frame.columns.tolist() == ["b", "a", "d"]
    assert frame["a"].tolist() == ["one", "two"]
    assert frame["b"].tolist() == [5, 6]
    assert frame["d"].isna().all()


def test_an_empty_page_is_a_page_and_a_load_of_none_empties_the_table() -> None:
    table = _filled()
    load = table.load()
    load.extend([])
    load.extend([{"id": 4, "n": 40, "t": "row 4"}])
    load.extend([])
    load.commit()
    assert table.snapshot().to_dict("index") == {4: {"n": 40, "t": "row 4"}}
    load = table.load()
    load.extend([])
    changes = load.commit(want_changes=True)
    assert changes == [RowChange("delete", 4, {"id": 4, "n": 40, "t": "row 4"}, None)]
    assert len(table.snapshot()) == 0


def test_one_row_is_read_as_many_are() -> None:
    table = _filled()
    table.apply([Delete(1), Upsert(2, {"n": None}), Upsert(4, {"t": "new"})])
    assert table.gather([1, 2, 3, 4]) == {key: table.get(key) for key in (1, 2, 3, 4)}
    table.snapshot()
    assert table.gather([1, 2, 3, 4]) == {key: table.get(key) for key in (1, 2, 3, 4)}
    assert table.get(2) == {"id": 2, "n": None, "t": "row 2"}


def test_differing_names_the_rows_that_a_page_says_otherwise() -> None:
    page = [{"id": 1, "n": 10}, {"id": 2, "n": 0}, {"id": 8, "n": 1}]
    assert _filled().differing(page) == [(2, {"id": 2, "n": 0}), (8, {"id": 8, "n": 1})]


def test_a_column_comes_and_goes() -> None:
    table = _filled()
    table.add_column(Column("extra", "bool"))
    table.apply([Upsert(2, {"extra": True})])
    assert table.get(2) == {"id": 2, "n": 20, "t": "row 2", "extra": True}
    table.drop_column("n")
    assert list(table.snapshot().columns) == ["t", "extra"]


@pytest.mark.parametrize(
    ("order", "keys"),
    [
        ([OrderBy("n")], [1, 3, 2, 4]),
        ([OrderBy("n", desc=True)], [4, 2, 3, 1]),
        ([OrderBy("n", desc=True, nulls_first=False)], [2, 3, 1, 4]),
        ([OrderBy("n", nulls_first=True)], [4, 1, 3, 2]),
    ],
)
def test_an_order_puts_nulls_where_postgresql_does(order: list[OrderBy], keys: list[int]) -> None:
    table = _filled()
    table.apply([Upsert(2, {"n": 99}), Upsert(4, {"id": 4})])
    assert list(Ordered(table, order).snapshot().index) == keys
    assert Ordered(table, order, limit=2).keys() == keys[:2]


@pytest.mark.parametrize(
    ("desc", "keys"), [(False, [4, 1, 2, 5, 3, 6]), (True, [6, 3, 5, 2, 1, 4])]
)
@pytest.mark.parametrize("limit", [None, 3])
def test_a_nan_is_greater_than_every_number_and_null_beyond_it(
    desc: bool, keys: list[int], limit: int | None
) -> None:
    table = Table(Schema((Column("id", "int8"), Column("x", "float8")), ("id",)))
    values = [1.0, 2.0, math.nan, -math.inf, math.inf, None]
    table.apply([Upsert(at, {"id": at, "x": value}) for at, value in enumerate(values, 1)])
    view = Ordered(table, [OrderBy("x", desc)], limit)
    assert view.keys() == keys[:limit] == list(view.snapshot().index)
    table.apply([Delete(6)])
    assert view.keys() == [key for key in keys if key != 6][:limit]


@pytest.mark.parametrize("pg_type", ["timestamptz", "date"])
def test_moments_that_no_datetime_holds_have_their_place_in_an_order(pg_type: str) -> None:
    texts = ["-infinity", "0044-03-15 BC", "2024-01-02", "12024-01-01", "infinity"]
    if pg_type == "timestamptz":
        texts[2] = "2024-01-02T00:00:00+00:00"
    table = Table(Schema((Column("id", "int8"), Column("at", pg_type)), ("id",)))
    load = table.load()
    load.extend([{"id": 9 - place, "at": text} for place, text in enumerate(texts)])
    load.commit()
    assert Ordered(table, [OrderBy("at")]).keys() == [9, 8, 7, 6, 5]


@pytest.mark.parametrize(
    ("pg_type", "hidden", "shown", "dtype"),
    [
        ("int4", None, 1, "int64"),
        ("bool", None, True, "bool"),
        ("date", "infinity", "2024-01-02", "datetime64[us]"),
    ],
)
def test_the_dtypes_of_the_first_rows_do_not_depend_on_those_behind_them(
    pg_type: str, hidden: object, shown: object, dtype: str
) -> None:
    table = Table(Schema((Column("id", "int8"), Column("x", pg_type)), ("id",)))
    load = table.load()
    load.extend([{"id": 1, "x": shown}, {"id": 2, "x": shown}, {"id": 3, "x": hidden}])
    load.commit()
    assert Ordered(table, [OrderBy("id")], limit=2).snapshot()["x"].dtype == dtype
    assert Ordered(table, [OrderBy("id", desc=True)], limit=2).snapshot()["x"].dtype != dtype


def test_the_key_breaks_ties() -> None:
    table = Table(SCHEMA)
    table.apply([Upsert(key, {"id": key, "n": 1}) for key in (3, 1, 2)])
    assert Ordered(table, [OrderBy("n", desc=True)]).keys() == [1, 2, 3]


def test_an_order_by_text_is_the_servers_and_what_has_moved_since_stays_until_it_has_said() -> None:
    table = _filled()
    view = Ordered(table, [OrderBy("t")], limit=2)
    assert not view.sortable
    view.rank([3, 1, 2])
    assert view.keys() == [3, 1]
    table.apply([Upsert(1, {"t": "moved"}), Upsert(3, {"n": 0}), Upsert(4, {"id": 4})])
    assert view.keys() == [3, 1]
    view.rank([4, 3, 2, 1])
    assert view.keys() == [4, 3]


def test_rows_alike_in_what_is_sorted_here_stay_in_the_first_until_the_server_has_said() -> None:
    """By n, then by the text: that is the server's, and only needed where n is the same."""
    table = Table(SCHEMA)
    table.apply(
        [Upsert(key, {"id": key, "n": 20 - 4 * key, "t": f"t{key}"}) for key in (1, 2, 3, 4)]
    )
    view = Ordered(table, [OrderBy("n", desc=True), OrderBy("t")], limit=2)
    view.rank([1, 2, 3, 4])
    assert view.keys() == [1, 2]
    table.apply([Upsert(1, {"n": 11})])
    assert view.keys() == [2, 1]
    table.apply([Upsert(4, {"n": 11})])  # alike the last that is shown
    assert view.keys() == [2, 1]
    table.apply([Upsert(2, {"n": 0})])
    assert view.keys() == [1, 4]
    view.rank([4, 1, 3, 2])
    assert view.keys() == [4, 1]


@pytest.mark.parametrize("seed", range(6))
def test_a_table_by_rank_is_in_the_order_of_its_ranks_whatever_comes_and_moves(seed: int) -> None:
    """Of many rows, so that columns move them in place; some batches change most chunks of text."""
    chance = random.Random(seed)
    columns = (*SCHEMA.columns, Column(RANK, "int8"))
    schema = Schema(columns, ("id",))
    table = Table(schema)
    ranks = sorted(chance.sample(range(10**6), 20_000))
    model = {
        key: {"id": key, "n": key, "t": f"row {key}", RANK: rank} for key, rank in enumerate(ranks)
    }
    table.apply([Upsert(key, row) for key, row in model.items()])
    for number in range(25):
        taken = {row[RANK] for row in model.values()}
        free = [rank for rank in chance.sample(range(10**6), 200) if rank not in taken]
        ops: list[Op] = []
        for _ in range(chance.choice([1, 2, 30, 80])):
            key = chance.choice([chance.randrange(20_100), *(op.key for op in ops[-3:])])
            what = chance.choice(["set", "move", "leave", "again"])
            row = {"n": number, "t": chance.choice([None, "new", f"{number}"])}
            if what in ("leave", "again") and key in model:
                ops.append(Delete(key))
                was = model.pop(key)
                if what == "again":
                    ops.append(Upsert(key, {**was, **row}))
                    model[key] = {**was, **row}
            elif key not in model or what == "move":
                row[RANK] = free.pop()
                whole = {**model.get(key, {"id": key}), **row}
                ops.append(Upsert(key, row if key in model else whole))
                model[key] = whole
            else:
                ops.append(Upsert(key, row))
                model[key] = {**model[key], **row}
        told = table.apply(ops, want_changes=chance.random() < 0.5)
        assert len(told) <= len(ops)
        some = chance.sample(list(model), 5)
        assert [table.get(key) for key in some] == [model[key] for key in some]
        if chance.random() < 0.6:
            wanted = sorted(model.values(), key=lambda row: row[RANK])
            df = table.snapshot()
            assert list(table.keys()) == [row["id"] for row in wanted] == df.index.tolist()
            assert df["n"].tolist() == [row["n"] for row in wanted]
            assert df["t"].astype(object).where(df["t"].notna(), None).tolist() == [
                row["t"] for row in wanted
            ]
            assert table.ranks().tolist() == [row[RANK] for row in wanted]


def test_what_was_touched_is_told_by_ranks_that_the_table_still_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many rows have left that the step to come numbers the rows anew: the whole is to be read."""
    monkeypatch.setattr(contents, "_SPARSE", 2)
    table = Table(SCHEMA)
    table.apply([Upsert(key, {"n": key}) for key in range(8)])
    follower = table.follow()
    table.take_touched(follower)
    table.apply([*(Delete(key) for key in range(6)), Upsert(7, {"n": 0})])
    deltas = table.take_touched(follower)
    ranks = dict(zip(table.keys(), table.ranks().tolist(), strict=True))
    assert deltas is None or {d.key: d.new.rank for d in deltas if d.new} == {7: ranks[7]}


def test_a_listener_may_change_the_rows_that_it_is_told() -> None:
    table = Table(SCHEMA)
    table.apply([Upsert(key, {"n": key, "t": "a"}) for key in range(3)])
    follower = table.follow()
    table.take_touched(follower)
    for change in table.apply([Upsert(1, {"n": 7}), Upsert(2, {"n": 8})], want_changes=True):
        assert change.old is not None
        assert change.new is not None
        change.old["n"] = change.new["n"] = -1
    table.apply([Upsert(2, {"n": 9})])
    rows = [
        (delta.old.row, delta.new.row)
        for delta in table.take_touched(follower) or ()
        if delta.old is not None and delta.new is not None
    ]
    assert rows == [
        ({"id": 1, "n": 1, "t": "a"}, {"id": 1, "n": 7, "t": "a"}),
        ({"id": 2, "n": 2, "t": "a"}, {"id": 2, "n": 9, "t": "a"}),
    ]


@pytest.mark.parametrize(
    ("was", "given", "told"), [(0.0, -0.0, -0.0), (1, 1, 1), (None, None, None), (1.5, 2.5, 2.5)]
)
def test_what_is_told_of_a_value_is_the_value_that_was_given(
    was: float | None, given: float | None, told: float | None
) -> None:
    schema = Schema((Column("id", "int8"), Column("v", "float8"), Column("n", "int4")), ("id",))
    table = Table(schema)
    table.apply([Upsert(1, {"v": was, "n": 1})])
    [change] = table.apply([Upsert(1, {"v": given, "n": 2})], want_changes=True)
    assert change.new is not None
    assert repr(change.new["v"]) == repr(told)


@pytest.mark.parametrize("backend", [None, "numpy_nullable", "pyarrow"])
def test_nulls_of_computed_floats_are_found_when_first_asked(backend: Backend) -> None:
    schema = Schema((Column("id", "int8"), Column("cost", "float8")), ("id",))

    def columns() -> dict[str, ColumnStore]:
        data = np.array([1.5, np.nan, np.inf])
        ids = column_of([1, 2, 3], "int8", backend, "float")
        return {"id": ids, "cost": ComputedFloats(data, "float8", backend, "float")}

    known = {1: 1.5, 2: None, 3: np.inf}
    table = Table(schema, backend, columns())
    before = table.snapshot()
    assert before["cost"].isna().tolist() == [False, True, False]
    # The step writes where a null was, before anybody has asked for nulls.
    changed = table.apply([Upsert(2, {"cost": 2.0}), Upsert(1, {"cost": None})], want_changes=True)
    assert [(one.old, one.new) for one in changed] == [
        ({"id": 2, "cost": None}, {"id": 2, "cost": 2.0}),
        ({"id": 1, "cost": 1.5}, {"id": 1, "cost": None}),
    ]
    assert table.snapshot()["cost"].isna().tolist() == [True, False, False]
    assert before["cost"].isna().tolist() == [False, True, False]
    fresh = Table(schema, backend, columns())
    assert {key: (fresh.get(key) or {})["cost"] for key in known} == known
    fresh.apply([Delete(1)])
    assert fresh.snapshot()["cost"].isna().tolist() == [True, False]
    assert (fresh.get(2) or {})["cost"] is None
