"""A read copies nothing, a snapshot never changes, and a user's writes stay in it."""

from __future__ import annotations

import copy
import gc
import pickle
import signal
import threading
import tracemalloc
import weakref
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from notebook_rt.model.order import OrderBy
from notebook_rt.model.rows import Delete, Op, Upsert
from notebook_rt.model.types import Backend, Column, Schema
from notebook_rt.store import dense
from notebook_rt.store.dense import Buffer, Dense, Step
from notebook_rt.store.order import Ordered
from notebook_rt.store.table import Table

ROWS = 40_000
COLUMNS = {
    "n": "int8",
    "x": "float8",
    "y": "float8",
    "b": "bool",
    "t": "text",
    "at": "timestamptz",
    "j": "jsonb",
}
SCHEMA = Schema(
    (Column("id", "int8"), *(Column(name, kind) for name, kind in COLUMNS.items())), ("id",)
)
BACKENDS: list[Backend] = [None, "numpy_nullable", "pyarrow"]


def loaded(rows: int = ROWS, backend: Backend = None) -> Table:
    table = Table(SCHEMA, backend)
    load = table.load()
    for start in range(0, rows, 10_000):
        load.extend(
            [
                {
                    "id": key,
                    "n": key,
                    "x": key / 2,
                    "y": 0.5,
                    "b": key % 2 == 0,
                    "t": f"row {key}",
                    "at": "2024-01-02T03:04:05.678901+00:00",
                    "j": {"a": [key]},
                }
                for key in range(start, min(start + 10_000, rows))
            ]
        )
    load.commit()
    return table


def allocated(read: Any) -> int:
    """The most bytes that numpy, Python and Arrow had allocated at once during ``read``."""
    pools = (pa.default_memory_pool(), pa.system_memory_pool())
    before = sum(pool.bytes_allocated() for pool in pools)
    tracemalloc.start()
    kept = read()
    arrow = sum(pool.bytes_allocated() for pool in pools) - before
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak + arrow


def changes(seed: int, count: int = 100) -> list[Op]:
    """Updates all over the table, and rows that come; none leaves."""
    keys = np.random.default_rng(seed).choice(ROWS, count, replace=False).tolist()
    updates: list[Op] = [Upsert(key, {"n": seed, "x": 0.25, "t": f"new {seed}"}) for key in keys]
    return [*updates, *(Upsert(ROWS + seed * 1000 + place, {"n": 0}) for place in range(5))]


def test_a_read_allocates_in_proportion_to_what_changed_not_to_the_table() -> None:
    table = loaded()
    size = table.snapshot().memory_usage(deep=False).sum()
    frame = None
    for seed in range(4):  # both sets of buffers come to be, and get room to grow
        table.apply(changes(seed, count=20))
        frame = table.snapshot()
    for seed in range(4, 8):
        table.apply(changes(seed, count=20))
        used = allocated(table.snapshot)
        assert used < size / 8, f"{used} bytes for a read of a table of {size}"
        frame = table.snapshot()
    assert frame is not None
    assert frame.loc[ROWS + 7000, "n"] == 0


def test_an_update_of_numbers_leaves_the_other_columns_buffers_where_they_are() -> None:
    table = loaded()
    for seed in range(3):
        table.apply([Upsert(5, {"n": seed, "x": float(seed), "t": "row 5", "y": 0.5})])
        before, index = table.snapshot(), table.snapshot().index
    table.apply([Upsert(7, {"n": 1, "x": 1.0, "t": "row 7", "y": 0.5})])
    assert allocated(table.snapshot) < 200_000
    after = table.snapshot()
    assert np.shares_memory(before["y"].to_numpy(), after["y"].to_numpy())
    assert np.shares_memory(index.to_numpy(), after.index.to_numpy())
    assert text_buffers(before) == text_buffers(after)
    assert not np.shares_memory(before["n"].to_numpy(), after["n"].to_numpy())


def text_buffers(frame: pd.DataFrame) -> list[int]:
    table = pa.Table.from_pandas(frame[["t"]], preserve_index=False)
    return [chunk.buffers()[2].address for chunk in table["t"].chunks]


def test_the_index_keeps_its_hash_table_while_the_keys_do_not_change() -> None:
    table = loaded(1000)
    first = table.snapshot().index
    assert first.get_loc(7) == 7
    table.apply([Upsert(3, {"n": -1})])
    second = table.snapshot().index
    assert second.is_(first)
    assert second._engine is first._engine


@pytest.mark.parametrize("backend", BACKENDS)
def test_buffers_serve_again_when_nobody_holds_them(backend: Backend) -> None:
    table = loaded(1000, backend)
    seen = set()
    for seed in range(20):
        table.apply([Upsert(seed, {"n": -seed})])
        frame = table.snapshot()
        seen.add(table.arrays(["n"])["n"].__array_interface__["data"][0])
        del frame
    assert len(seen) == 2


@pytest.mark.parametrize("held", [False, True])
def test_a_table_that_steps_forever_keeps_nothing_of_its_past(held: bool) -> None:
    table = loaded(1000)
    ordered = Ordered(table, [OrderBy("n")], 10)

    def objects(steps: range) -> int:
        last = None
        for step in steps:
            table.apply([Upsert(step % 900, {"n": step, "t": f"step {step}", "j": [step]})])
            frame = table.snapshot()
            assert len(ordered.snapshot()) == 10
            last = frame if held else None
        del last
        gc.collect()
        # pandas keeps up to 500 weak references to what was there of each column.
        return sum(type(thing) is not weakref.ref for thing in gc.get_objects())

    early = objects(range(60))
    later = objects(range(60, 560))
    assert later - early < 100


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("derive", ["itself", "copy", "column", "numpy", "rows", "array"])
def test_whatever_is_held_of_a_snapshot_never_changes(backend: Backend, derive: str) -> None:
    table = loaded(1000, backend)
    ways = {
        "itself": lambda frame: frame,
        "copy": lambda frame: frame.copy(deep=False),
        "column": lambda frame: frame["n"],
        "numpy": lambda frame: frame["n"].to_numpy(),
        "rows": lambda frame: frame.iloc[10:20],
        "array": lambda frame: frame["n"].array,
    }
    held = []
    for seed in range(12):
        table.apply([Upsert(key, {"n": key + seed, "t": f"{seed}"}) for key in range(30)])
        if seed % 4 == 3:
            table.apply([Delete(500 + seed)])
        one = ways[derive](table.snapshot())
        held.append((one, copy.deepcopy(one)))
    for one, before in held:
        assert pickle.dumps(one) == pickle.dumps(before) or one.equals(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_writing_to_a_snapshot_reaches_nobody_else(backend: Backend) -> None:
    table = loaded(1000, backend)
    for seed in range(6):
        frame, expected = table.snapshot(), table.get(5)
        frame.loc[5, ["n", "x", "t"]] = [-1, -1.0, "mine"]
        frame.loc[:, "y"] = 9.5
        frame["b"] = True
        frame.index.name = "mine"
        frame.columns.name = "mine"
        assert frame.loc[5, "n"] == -1
        assert table.get(5) == expected
        table.apply([Upsert(7, {"n": seed, "x": 0.0})])
        fresh = table.snapshot()
        assert (fresh.loc[5, "n"], fresh.loc[5, "t"], fresh.loc[5, "y"]) == (5, "row 5", 0.5)
        assert (fresh.index.name, fresh.columns.name) == ("id", None)
        assert frame.loc[5, "t"] == "mine"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["n", "x", "b", "at", "j"])
def test_the_buffers_themselves_refuse_a_write(backend: Backend, name: str) -> None:
    table = loaded(100, backend)
    frame = table.snapshot()
    value = frame[name].iloc[1]
    for write in (
        lambda: frame[name].array.__setitem__(0, value),
        lambda: frame[name].to_numpy().__setitem__(0, value),
        lambda: table.arrays([name])[name].__setitem__(0, value),
        lambda: frame.index.values.__setitem__(0, 7),
    ):
        try:
            write()
        except (ValueError, TypeError):
            continue
        assert table.get(0) == loaded(100, backend).get(0)
        pd.testing.assert_frame_equal(
            table.snapshot().iloc[1:], loaded(100, backend).snapshot()[1:]
        )
    assert table.get(0) == loaded(100, backend).get(0)


def test_a_json_cell_refuses_to_be_changed_in_place_and_copies_plainly() -> None:
    table = loaded(10)
    cell: Any = table.snapshot().loc[3, "j"]
    with pytest.raises(TypeError, match=r"frame\.edit"):
        cell["a"].append(1)
    mine = copy.deepcopy(cell)
    mine["a"].append(1)
    assert (mine, table.get(3)["j"]) == ({"a": [3, 1]}, {"a": [3]})  # type: ignore[index]  # 3 is there


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_snapshot_can_be_pickled_and_outlives_its_table(backend: Backend) -> None:
    table = loaded(1000, backend)
    frame = table.snapshot()
    expected = frame.copy()
    table.apply([Upsert(1, {"n": 0})])
    del table
    gc.collect()
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(frame)), expected)
    frame.loc[1, "n"] = 77
    assert frame.loc[1, "n"] == 77


def test_readers_on_other_threads_see_whole_batches() -> None:
    table = loaded(2000)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            frame = table.snapshot()
            if frame["n"].iloc[:50].nunique() != 1 and frame["n"].iloc[49] != 49:
                torn.append(frame["n"].iloc[:50].tolist())
            row = table.get(7)
            if row is not None and len(row) != len(SCHEMA.columns):
                torn.append(row)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for seed in range(300):
        table.apply([Upsert(key, {"n": -seed}) for key in range(50)])
        table.apply([Upsert(5000 + seed, {"n": 1}), Delete(1000 + seed)])
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == []
    assert len(table.snapshot()) == 2000


def test_arrow_polars_and_duckdb_read_it_without_a_copy_of_numbers_and_text() -> None:
    table = loaded(5000)
    exported = table.to_arrow()
    numbers = table.arrays(["x"])["x"]
    assert exported["x"].chunk(0).buffers()[1].address == numbers.__array_interface__["data"][0]
    assert exported.schema.field("at").type == pa.timestamp("us", "UTC")
    assert pl.DataFrame(table)["t"].to_list()[:2] == ["row 0", "row 1"]
    view = pa.RecordBatchReader.from_stream(table)
    assert duckdb.sql("select max(n), count(*) from view").fetchall() == [(4999, 5000)]
    assert view is not None


def test_a_step_is_kept_by_the_buffers_that_missed_it_and_by_no_later_step() -> None:
    def steps() -> list[Step]:
        gc.collect()
        return [one for one in gc.get_objects() if isinstance(one, Step)]

    others = {id(one) for one in steps()}
    table = loaded(5000)
    for key in range(50):
        ops: list[Op] = [Upsert(7000, {"n": key}), Delete(key), Upsert(9000 + key, {"n": key})]
        table.apply(ops)
        table.snapshot()
    kept = [one for one in steps() if id(one) not in others]
    assert len(kept) <= 2
    assert not any(vars(one).keys() & {"staying", "runs"} for one in kept)


def test_the_buffers_are_at_most_two_and_a_half_times_the_frames_own() -> None:
    table = loaded()
    for seed in range(4):
        table.apply(changes(seed))
        frame = table.snapshot()
    buffers = sum(column.nbytes for column in table.columns().values())
    assert buffers < 2.5 * frame.memory_usage().sum()
    assert table.nbytes > buffers  # the keys come on top; the benchmark reports the sum


def test_a_text_that_is_no_unicode_breaks_no_batch() -> None:
    table = loaded(1000)
    table.snapshot()
    table.apply([Upsert(1, {"n": 9, "t": "\ud800"}), Delete(2), Upsert(5000, {"t": "new"})])
    frame = table.snapshot()
    assert (frame.loc[1, "n"], frame.loc[1, "t"]) == (9, "\ud800")
    assert (frame.loc[3, "n"], frame.loc[3, "t"], frame.loc[5000, "t"]) == (3, "row 3", "new")
    assert table.to_arrow()["t"][1].as_py() == "?"
    table.apply([Upsert(1, {"t": "mended"}), Upsert(6000, {"t": "a \udfff"}), Delete(6000)])
    assert table.snapshot()["t"].dtype == loaded(1).snapshot()["t"].dtype


def test_a_wide_table_that_is_dropped_before_its_frame_costs_what_its_columns_are() -> None:
    looks = 0

    class Counted(Buffer):
        def held(self) -> bool:
            nonlocal looks
            looks += 1
            return True

    buffers = [Counted(np.zeros(1)) for _ in range(2000)]
    for buffer in buffers:
        buffer.share(object(), (), (0,))
        dense._adopt([buffer])
    assert looks < 10 * len(buffers)
    dense._ORPHANS[:] = [one for one in dense._ORPHANS if not isinstance(one, Counted)]


def test_an_interrupt_while_a_read_takes_its_step_is_raised_and_tears_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = loaded(1000)
    table.snapshot()
    advance = Dense.advance

    def interrupted(self: Dense, *step: Any) -> None:
        monkeypatch.undo()
        advance(self, *step)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Dense, "advance", interrupted)
    table.apply([Delete(2), Upsert(5, {"n": -5, "t": "five"}), Upsert(2000, {"n": 1})])
    with pytest.raises(KeyboardInterrupt):
        table.snapshot()
    frame = table.snapshot()
    assert list(frame.index) == [0, 1, *range(3, 1000), 2000]
    assert (frame.loc[5, "n"], frame.loc[5, "t"], frame.loc[3, "t"]) == (-5, "five", "row 3")
    assert frame["x"].iloc[2] == 1.5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
