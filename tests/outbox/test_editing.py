"""Edits of an analyst: many rows at once, undone, in blocks that fail."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from msgspec.structs import replace

from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import InvalidEditError, QueueError
from notebook_rt.local import LocalStack
from notebook_rt.model.types import Column, Schema
from notebook_rt.store.table import Table
from tests.outbox.kernel import Kernel

MakeKernel = Callable[..., Kernel]
A, B = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def rows(stack: LocalStack, table: str) -> tuple[str, str]:
    """Two rows of the table."""
    stack.sql(f"insert into {table} (id, n, note) values ('{A}', 1, 'a'), ('{B}', 2, 'b')")
    return A, B


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (pd.DataFrame({"n": [5, 6]}, index=[A, A.upper()]), "there twice"),
        (pd.DataFrame([[5, 6]], index=[A], columns=["n", "n"]), "'n' is there twice"),
        (pd.DataFrame({"n": [5, 6]}, index=[A, str(uuid.UUID(int=9))]), "no row"),
        (pd.DataFrame({"n": ["5", "x"]}, index=[A, B]), "no value"),
    ],
)
def test_many_rows_are_changed_as_they_say_or_none_is(
    rows: tuple[str, str], kernel: MakeKernel, changes: pd.DataFrame, words: str
) -> None:
    mine = kernel()
    with pytest.raises(InvalidEditError, match=words):
        mine.editor.edit_many(changes)
    assert len(mine.outbox) == 0
    assert [mine.view(key)["n"] for key in rows] == [1, 2]


def test_a_series_is_a_column_of_changes(rows: tuple[str, str], kernel: MakeKernel) -> None:
    mine = kernel()
    assert mine.editor.edit_many(pd.Series([5.0, None], index=list(rows), name="n")).changed == 2
    assert [mine.view(key)["n"] for key in rows] == [5, None]


def pending(kernel: Kernel) -> list[tuple[str, dict[str, object], str]]:
    found = kernel.editor.pending
    return list(zip(found["kind"], found["values"], found["state"], strict=True))


def test_undo_takes_back_no_edit_of_another_frame_of_the_table(
    rows: tuple[str, str], kernel: MakeKernel
) -> None:
    mine = kernel()
    other = mine.editing.editor("public", mine.table_name)
    other.attach(mine.overlay)
    mine.editor.edit(A, {"note": "first"})
    other.edit(A, {"n": 5})
    assert len(mine.outbox) == 1, "one write of the two"
    assert mine.editor.undo()
    assert (mine.view(A)["note"], mine.view(A)["n"]) == ("first", 1), "the last was the other's"
    assert other.undo()
    assert mine.view(A)["note"] == "a"
    assert len(mine.outbox) == 0


def test_undo_takes_back_no_edit_of_another_kernel(
    rows: tuple[str, str], kernel: MakeKernel
) -> None:
    mine, other = kernel(), kernel()
    mine.editor.edit(A, {"note": "mine"})
    other.editing.elsewhere()
    other.editor.edit(A, {"n": 5})
    assert not mine.editor.undo()
    (op,) = mine.outbox.ops()
    assert op.values == {"note": "mine", "n": 5}
    assert other.editor.undo()
    assert mine.outbox.ops()[0].values == {"note": "mine"}


def test_a_block_in_a_block_that_raises_takes_back_nothing_but_itself(
    rows: tuple[str, str], kernel: MakeKernel
) -> None:
    mine = kernel()

    def change_my_mind() -> None:
        with mine.editor.batch():
            mine.editor.edit(A, {"note": "inner"})
            mine.editor.delete(B)
            raise ZeroDivisionError

    with mine.editor.batch():
        mine.editor.edit(A, {"note": "outer"})
        with pytest.raises(ZeroDivisionError):
            change_my_mind()
        assert mine.view(A)["note"] == "outer"
        mine.editor.edit(B, {"n": 9})
    assert pending(mine) == [
        ("update", {"note": "outer"}, "waiting"),
        ("update", {"n": 9}, "waiting"),
    ]


def test_undo_in_a_block_takes_back_the_last_of_the_block(
    rows: tuple[str, str], kernel: MakeKernel
) -> None:
    mine = kernel()
    mine.editor.edit(B, {"note": "before"})
    with mine.editor.batch():
        mine.editor.edit(A, {"note": "one"})
        mine.editor.edit(A, {"n": 7})
        key = mine.editor.insert({"note": "new", "tags": []})
        assert mine.editor.undo()
        assert mine.editor.row(key) is None
        assert mine.editor.undo()
        assert mine.view(A)["n"] == 1
        assert mine.editor.undo()
        assert not mine.editor.undo(), "what is in the queue already is none of the block"
        mine.editor.edit(A, {"note": "two"})
    assert mine.view(B)["note"] == "before"
    assert pending(mine)[1:] == [("update", {"note": "two"}, "waiting")]


def refuse(kernel: Kernel, key: str) -> None:
    """Have the row's only operation refused, as the server would."""
    (op,) = (op for op in kernel.outbox.ops() if op.key == {"id": key})
    (taken,) = (one for one in kernel.outbox.take(10, 0.0) if one.id == op.id)
    kernel.outbox.back(replace(taken, state="failed", error="no"))


def test_an_edit_of_what_was_refused_fixes_it_with_all_that_was_parked_behind_it(
    rows: tuple[str, str], kernel: MakeKernel
) -> None:
    mine = kernel()
    mine.editor.edit(A, {"n": -1})
    refuse(mine, A)
    mine.editor.edit(A, {"note": "parked"})
    refused = [("update", {"n": -1}, "failed"), ("update", {"note": "parked"}, "parked")]
    assert pending(mine) == refused
    changes = pd.DataFrame({"n": [5, 6]}, index=list(rows))
    assert mine.editor.edit_many(changes).changed == 2
    assert pending(mine) == [
        ("update", {"n": 5, "note": "parked"}, "waiting"),
        ("update", {"n": 6}, "waiting"),
    ]
    assert (mine.view(A)["n"], mine.view(A)["note"]) == (5, "parked")
    assert mine.editor.undo()
    assert pending(mine) == refused
    assert (mine.view(A)["n"], mine.view(A)["note"]) == (-1, "parked")
    mine.editor.delete(A)
    assert pending(mine) == [("delete", {}, "waiting")]
    assert mine.editor.row(A) is None


def test_deleting_a_row_whose_insert_was_refused_leaves_nothing_to_send(
    kernel: MakeKernel,
) -> None:
    mine = kernel()
    key = mine.editor.insert({"n": -1, "tags": []})
    refuse(mine, str(key))
    mine.editor.delete(key)
    assert (len(mine.outbox), mine.editor.row(key)) == (0, None)
    assert mine.editor.undo()
    assert pending(mine)[0][2] == "failed"


def test_what_may_be_in_already_is_not_mended_by_an_edit(kernel: MakeKernel) -> None:
    """Three times no answer but an error: the row may be there, and is recognised as it was sent."""
    mine = kernel()
    key = mine.editor.insert({"n": 1, "tags": []})
    (taken,) = mine.outbox.take(1, 0.0)
    mine.outbox.back(replace(taken, state="failed", sent=True, error="503"))
    mine.editor.edit(key, {"n": 2})
    assert [state for _, _, state in pending(mine)] == ["failed", "parked"]
    assert mine.view(key)["n"] == 2


def test_undo_on_a_full_disk_can_be_done_again(rows: tuple[str, str], kernel: MakeKernel) -> None:
    mine = kernel()
    mine.editor.edit(A, {"note": "x"})
    mine.outbox._db.execute("pragma query_only = on")  # every write fails
    with pytest.raises(QueueError):
        mine.editor.undo()
    assert mine.view(A)["note"] == "x"
    mine.outbox._db.execute("pragma query_only = off")
    assert mine.editor.undo()
    assert (mine.view(A)["note"], len(mine.outbox)) == ("a", 0)


@pytest.mark.parametrize("choice", ["mine", "theirs", "discard"])
async def test_a_conflict_of_a_table_that_is_made_again_is_decided_by_the_key_of_then(
    stack: LocalStack, table: str, rows: tuple[str, str], kernel: MakeKernel, choice: Any
) -> None:
    """Its key is of another type now, so that the old one is no value of it."""
    mine = kernel(strategies=Strategies(default="ask"))
    mine.editor.edit(A, {"note": "mine"})
    stack.sql(f"update {table} set note = 'theirs'")
    await mine.drain()
    assert list(mine.editor.conflicts["key"]) == [A]
    stack.sql(f"drop table {table}")
    stack.sql(
        f"create table {table} (id bigint primary key, note text); "
        f"grant select, insert, update, delete on {table} to anon, authenticated, service_role; "
        "notify pgrst, 'reload schema'"
    )
    schema = Schema((Column("id", "int8"), Column("note", "text")), key=("id",))
    mine.editor.attach(Overlay(Table(schema), schema, Strategies(default="ask")))
    assert list(mine.editor.conflicts["key"]) == [A], "as it was then"
    with pytest.raises(InvalidEditError, match="no value"):
        mine.editor.discard(B)
    if choice == "discard":
        assert mine.editor.discard(A) == 1
    else:
        mine.editor.resolve(A, None, choice)
    assert not mine.editor.conflicts["open"].any()
    await mine.drain()
    assert [op.state for op in mine.outbox.ops()] == (["failed"] if choice == "mine" else [])
    await mine.close()
