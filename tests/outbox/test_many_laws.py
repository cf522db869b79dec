"""Many rows at once, with losses, refusals and duplicates: each row is reported once and correctly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebook_rt.edits.report import WriteReport
from notebook_rt.errors import InvalidEditError
from notebook_rt.model.http import Answer, Request
from notebook_rt.outbox.file import IN_MEMORY
from tests.laws import examples
from tests.outbox.postgrest import BAD, FAULTS, SCHEMA, Fault, Table
from tests.outbox.test_delivery_laws import Kernel

THERE = range(1, 13)
rows = st.dictionaries(
    st.integers(1, 30), st.sampled_from(["a", "b", "c", BAD]), min_size=1, max_size=24
)
faults = st.lists(st.sampled_from(FAULTS), max_size=8)


@contextmanager
def opened(many: bool) -> Iterator[Kernel]:
    kernel = Kernel(Table(THERE, many=many), IN_MEMORY)  # no disk is waited for
    kernel.worker.outcomes._max_attempts = 1000  # nothing is given up
    try:
        yield kernel
    finally:
        kernel.outbox.close()


def drain(kernel: Kernel, faults: list[Fault]) -> None:
    """Send, some requests at a time with each of the faults, until nothing waits."""

    async def all_of_it() -> None:
        for fault in faults:
            await kernel.step("", fault)
        for _ in range(60):
            if kernel.outbox.counts()["waiting"]:
                await kernel.step()

    asyncio.run(all_of_it())
    for _ in range(len(kernel.server.events)):
        kernel.hear()


def check(report: WriteReport, refused: set[int]) -> None:
    assert report.waiting == report.conflicts == 0
    assert report.written + report.refused == report.changed
    assert set(report.refused_df.index) == refused
    assert all("a is bad" in reason for reason in report.refused_df["reason"])


@settings(max_examples=examples(60), deadline=None)
@given(rows, faults, st.booleans(), st.booleans())
def test_an_upsert_writes_all_rows_but_those_that_are_refused_whatever_is_lost(
    rows: dict[int, str], faults: list[Fault], many: bool, as_index: bool
) -> None:
    with opened(many) as kernel:
        server = kernel.server
        before = {key: dict(row) for key, row in server.rows.items()}
        frame = pd.DataFrame({"id": list(rows), "a": list(rows.values())}).set_index("id")
        report = kernel.editor.write_many(
            kernel.editor.given(frame if as_index else frame.reset_index(), "upsert"),
            upsert=True,
            name="id",
        )
        assert all(kernel.rows.data[key]["a"] == a for key, a in rows.items()), "shown at once"
        unchanged = [key for key, a in rows.items() if key in before and a == "a"]
        assert report.changed == len(rows) - len(unchanged)
        drain(kernel, faults)
        bad = {key for key, a in rows.items() if a == BAD}
        # Of dicts and of a column, the rows are known by their places.
        places = bad if as_index else {list(rows).index(key) for key in bad}
        check(report, places)
        good = {key: a for key, a in rows.items() if key not in bad}
        none = dict.fromkeys(SCHEMA.names)
        new = {key: {**before.get(key, {**none, "id": key}), "a": a} for key, a in good.items()}
        assert server.rows == {**before, **new}


@given(rows, st.sets(st.integers(1, 30)), st.booleans())
def test_a_key_that_was_drawn_overwrites_no_row(
    rows: dict[int, str], drawn: set[int], upsert: bool
) -> None:
    with opened(False) as kernel:
        given_rows = kernel.editor.given([{"id": key, "a": a} for key, a in rows.items()], "upsert")
        for row in given_rows:
            row.drawn = "id" if row.values["id"] in drawn else ""
        before = dict(kernel.rows.data)
        taken = rows.keys() & before & (drawn if upsert else rows.keys())
        if taken:
            with pytest.raises(InvalidEditError):
                kernel.editor.write_many(given_rows, upsert=upsert)
            assert kernel.outbox.ops() == []
            assert kernel.rows.data == before
        else:
            kernel.editor.write_many(given_rows, upsert=upsert)
            assert all(kernel.rows.data[key]["a"] == a for key, a in rows.items())


@settings(max_examples=examples(60), deadline=None)
@given(rows, faults, st.booleans())
def test_an_insert_doubles_no_row_and_loses_none_whatever_is_lost(
    rows: dict[int, str], faults: list[Fault], many: bool
) -> None:
    with opened(many) as kernel:
        rows = {key + 100: a for key, a in rows.items()}
        given_rows = [{"id": key, "a": a, "n": 1, "up": None} for key, a in rows.items()]
        report = kernel.editor.write_many(kernel.editor.given(given_rows, "insert"), upsert=False)
        drain(kernel, faults)
        check(report, {place for place, row in enumerate(given_rows) if row["a"] == BAD})
        good = [key for key, a in rows.items() if a != BAD]
        assert [op.key for op in kernel.server.events] == good, "each once, in their order"


@settings(max_examples=examples(60), deadline=None)
@given(rows, faults, st.booleans(), st.sets(st.sampled_from(THERE)))
def test_many_edits_are_written_on_what_they_were_based_on_whatever_is_lost(
    rows: dict[int, str], faults: list[Fault], many: bool, theirs: set[int]
) -> None:
    with opened(many) as kernel:
        server = kernel.server
        mine = {key: f"{a} {key}" for key, a in rows.items() if key in THERE}
        report = kernel.editor.edit_many(pd.Series(mine, name="a", dtype=object).rename_axis("id"))
        assert report.changed == len(mine)
        for key in theirs:  # another column, and the same one
            server.put(key, {**server.rows[key], "n": key})
        contested = {key for key in theirs if key % 2}
        for key in contested:
            server.put(key, {**server.rows[key], "a": "theirs"})
        drain(kernel, faults)
        # Where an answer was lost and somebody else wrote the same cell, only a person can tell.
        assert report.waiting == report.refused == 0
        assert report.written + report.conflicts == len(mine)
        if not faults:
            assert report.conflicts == 0
        for key in THERE:
            assert server.rows[key]["n"] == (key if key in theirs else 0), "nobody's change is lost"
            told = any(one.record["key"] == {"id": key} for one in kernel.outbox.conflicts())
            if key in mine and not told:
                assert server.rows[key]["a"] == mine[key]
            assert told == (key in mine and key in contested)


@settings(max_examples=examples(40), deadline=None)
@given(st.sets(st.sampled_from(THERE), min_size=1), faults, st.booleans())
def test_many_deletes_delete_these_rows_and_no_others_whatever_is_lost(
    keys: set[int], faults: list[Fault], many: bool
) -> None:
    with opened(many) as kernel:
        report = kernel.editor.delete_many(pd.Index(sorted(keys), name="id"))
        assert kernel.rows.data.keys() == set(THERE) - keys
        drain(kernel, faults)
        check(report, set())
        assert kernel.server.rows.keys() == set(THERE) - keys
        assert kernel.rows.data == kernel.server.rows


cells = st.one_of(
    st.none(),
    st.sampled_from([float("nan"), pd.NA, pd.NaT]),
    st.integers(-5, 5),
    st.integers(-5, 5).map(np.int64),
    st.integers(-5, 5).map(float),
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), cells, st.text("xyz", max_size=3)), max_size=8),
    st.sampled_from(["index", "column", "category", "Int64"]),
)
def test_a_frame_is_its_rows_however_it_says_them(
    rows: list[tuple[int, Any, str]], form: str
) -> None:
    frame = pd.DataFrame(rows, columns=["id", "n", "a"])
    if form == "index":
        frame = frame.set_index("id")
    elif form == "category":
        frame["a"] = frame["a"].astype("category")
    elif form == "Int64":
        frame["n"] = pd.array([None if pd.isna(n) else int(n) for n in frame["n"]], dtype="Int64")
    with opened(False) as kernel:
        if len({key for key, *_ in rows}) < len(rows):
            with pytest.raises(InvalidEditError, match="there twice"):
                kernel.editor.given(frame, "upsert")
            return
        given_rows = kernel.editor.given(frame, "upsert")
        kernel.editor.write_many(given_rows, upsert=True)
        for key, n, a in rows:
            row = kernel.rows.data[key]
            assert (row["n"], row["a"]) == (None if pd.isna(n) else int(n), a)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"id": [1, 2, 1], "a": ["x", "y", "z"]}, "its key 1 is there twice, in row 0 too"),
        (
            pd.DataFrame({"id": [1, 2, 1], "a": ["x", "y", "z"]}, index=[0, 1, 0]),
            "its key 1 is there twice, at places 0 and 2, counted from 0",
        ),
        ({"id": [1], "prise": [2.0], "b": [1]}, r"no column 'prise', no column 'b'; there are id"),
        ({"id": [1], "aa": [2.0]}, r"no column 'aa' \(did you mean 'a'\?\)"),
        (
            {"id": [1, 2, 3], "n": [1, 2.5, "x"]},
            r"2 of 3 rows .* row 1: column 'n'.* row 2: column",
        ),
    ],
)
def test_what_is_wrong_with_a_frame_is_told_before_anything_is_queued(
    frame: Any, words: str
) -> None:
    with opened(False) as kernel:
        before = dict(kernel.rows.data)
        with pytest.raises(InvalidEditError, match=words):
            kernel.editor.write_many(
                kernel.editor.given(pd.DataFrame(frame), "upsert"), upsert=True
            )
        assert kernel.outbox.ops() == []
        assert kernel.rows.data == before


def test_an_empty_frame_writes_nothing() -> None:
    with opened(False) as kernel:
        for empty in (pd.DataFrame(), pd.DataFrame({"id": [], "a": []}), []):
            report = kernel.editor.write_many(kernel.editor.given(empty, "insert"), upsert=False)
            assert (report.rows, report.waiting, report.refused) == (0, 0, 0)
        assert kernel.editor.delete_many([]).rows == 0
        assert kernel.editor.edit_many(pd.DataFrame()).rows == 0


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(["insert", "upsert", "edit", "delete"]),
    st.sets(st.sampled_from(THERE), min_size=2),
    st.booleans(),
    st.sampled_from(["429", "401", "503", "away"]),
)
def test_a_server_that_says_later_to_many_rows_is_not_asked_before(
    what: str, keys: set[int], many: bool, fault: Fault
) -> None:
    with opened(many) as kernel:
        kernel.worker.delivery._writer.many = many  # it has been asked
        if what == "edit":
            report = kernel.editor.edit_many(
                pd.Series(dict.fromkeys(keys, "b"), name="a").rename_axis("id")
            )
        elif what == "delete":
            report = kernel.editor.delete_many(keys)
        else:
            given_rows = [{"id": 100 * (what == "insert") + key, "a": "b"} for key in keys]
            report = kernel.editor.write_many(
                kernel.editor.given(given_rows, what), upsert=what == "upsert"
            )

        commits: list[None] = []

        async def refuse() -> None:
            kernel.now += 30.0
            kernel.server.faults = [fault]
            kernel.outbox.subscribe(lambda: commits.append(None))
            assert await kernel.worker.step() == 0, "nothing came to an end"
            assert await kernel.worker.step() == 0, "before it is woken, and time passes"

        asyncio.run(refuse())
        assert kernel.server.requests == 1
        assert len(commits) == 1
        assert {op.not_before - kernel.now for op in kernel.outbox.ops()} == (
            {-kernel.now} if fault in ("401", "away") else {20.0}
        )
        drain(kernel, [])
        assert report.written == len(keys)


@pytest.mark.parametrize("many", [True, False])
def test_a_row_that_makes_the_server_fail_holds_up_no_other(many: bool) -> None:
    with opened(many) as kernel:
        kernel.worker.outcomes._max_attempts = 3
        send = kernel.server.send

        async def failing(request: Request) -> Answer:
            return Answer(500) if BAD in str(request.body) else await send(request)

        kernel.server.send = failing  # type: ignore[method-assign]  # a trigger that crashes
        rows = [{"id": 100 + n, "a": BAD if n == 7 else "a"} for n in range(20)]
        report = kernel.editor.write_many(kernel.editor.given(rows, "insert"), upsert=False)
        drain(kernel, [])
        assert (report.written, report.refused) == (19, 1)


@pytest.mark.parametrize("many", [True, False])
def test_many_rows_are_few_requests_also_where_one_is_refused(many: bool) -> None:
    with opened(many) as kernel:
        frame = pd.DataFrame({"id": range(100, 300), "a": "x"})
        frame.loc[117, "a"] = BAD
        report = kernel.editor.write_many(kernel.editor.given(frame, "insert"), upsert=False)
        drain(kernel, [])
        assert (report.written, report.refused) == (199, 1)
        assert kernel.server.requests <= 4 * 8 + 10, "halved until it is alone"
        kernel.server.requests = 0
        values = pd.Series({key: f"v {key}" for key in range(250, 290)}, name="a").rename_axis("id")
        assert kernel.editor.edit_many(values).changed == 40
        drain(kernel, [])
        assert all(kernel.server.rows[key]["a"] == f"v {key}" for key in range(250, 290))
        if many:
            assert kernel.server.requests < 20


def test_a_report_in_a_batch_waits_and_knows_when_it_is_taken_back() -> None:
    with opened(False) as kernel:
        with kernel.editor.batch():
            report = kernel.editor.delete_many([1, 2])
            assert report.waiting == 2
        reports = []

        def fail() -> None:
            with kernel.editor.batch():
                reports.append(kernel.editor.delete_many([3]))
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        (dropped,) = reports
        drain(kernel, [])
        assert (report.written, dropped.written, dropped.waiting) == (2, 0, 0)
        assert 3 in kernel.server.rows
        assert "2 written" in repr(report)
