"""For any edits in any order: the view, the file and the future server rows agree."""

from __future__ import annotations

import itertools
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.edits.decide import unchanged
from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.ops import Op
from notebook_rt.edits.overlay import Overlay
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.shown import Shown
from notebook_rt.edits.statements import _conditions
from notebook_rt.errors import QueueError
from notebook_rt.model.decode import decode_json
from notebook_rt.model.rows import Key, Upsert
from notebook_rt.model.types import Column, Schema
from notebook_rt.outbox.file import IN_MEMORY
from notebook_rt.outbox.queue import Outbox
from notebook_rt.store.table import Table
from tests.laws import directory, examples
from tests.store.test_hostile_values import deep
from tests.sync.test_overlay import DictRows

SCHEMA = Schema(
    (Column("id", "int8"), Column("a", "text"), Column("n", "int8"), Column("tags", "_text")),
    key=("id",),
)
STRATEGIES = Strategies(columns={"n": "delta", "tags": "union"})
ROWS = {key: {"id": key, "a": "a", "n": 0, "tags": ["t"]} for key in (1, 2, 3)}


class Kernel:
    """An editor on a file, over rows that nobody else changes."""

    def __init__(self, path: Path) -> None:
        self.outbox = Outbox(path)
        ids = itertools.count(len(self.outbox) * 1000)
        editing = Editing(self.outbox, clock=lambda: 0.0, make_id=lambda: f"op-{next(ids)}")
        self.rows = DictRows(SCHEMA)
        overlay = Overlay(self.rows, SCHEMA, STRATEGIES)
        overlay.apply([Upsert(key, row) for key, row in ROWS.items()])
        self.editor: Editor = editing.editor("public", "t", STRATEGIES)
        self.editor.attach(overlay)

    def do(self, what: str, key: int, number: int) -> None:
        row, editor = self.editor.row(key), self.editor
        if what == "undo":
            editor.undo()
        elif what == "discard":
            editor.discard(key)
        elif row is None:
            if what == "insert":
                editor.insert({"id": key, "a": f"new {number}", "n": number, "tags": []})
        elif what == "set":
            editor.edit(key, {"a": f"v{number}"})
        elif what == "add":
            editor.edit(key, {"n": row["n"] + number, "tags": [*row["tags"], f"t{number}"]})
        elif what == "back":
            editor.edit(key, {"a": "a", "n": 0})
        elif what == "delete":
            editor.delete(key)
        elif what == "leave":
            self.outbox.take(1, now=0.0)


def applied(ops: list[Op]) -> dict[Key, dict[str, Any]]:
    """The server's rows once every operation was written, in order."""
    server: dict[Key, dict[str, Any]] = {key: dict(row) for key, row in ROWS.items()}
    for op in ops:
        key = op.key["id"]
        if op.kind == "insert":
            assert key not in server
            server[key] = dict(op.values)
        else:
            found = server[key]
            assert {column: found[column] for column in op.base} == op.base, "its condition holds"
            if op.kind == "delete":
                del server[key]
            else:
                found.update(op.values)
    return server


steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "add", "back", "insert", "delete", "undo", "discard", "leave"]),
        st.sampled_from([1, 2, 9]),
        st.integers(1, 5),
    ),
    max_size=15,
)


@given(steps, st.booleans())
def test_view_file_and_server_to_be_agree_after_any_edits_and_a_restart(
    steps: list[tuple[str, int, int]], as_a_batch: bool
) -> None:
    with directory() as name:
        path = Path(name) / "queue.sqlite3"
        kernel = Kernel(path)
        if as_a_batch:
            with kernel.editor.batch():
                for step in steps:
                    if step[0] not in ("undo", "discard", "leave"):
                        kernel.do(*step)
        else:
            for step in steps:
                kernel.do(*step)
        view = dict(kernel.rows.data)
        assert applied(kernel.outbox.ops()) == view
        kernel.outbox.close()
        again = Kernel(path)
        assert again.rows.data == view
        again.outbox.close()


edits = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([1, 2]))
batches = st.recursive(
    edits,
    lambda inner: st.tuples(
        st.integers(0, 1),
        st.integers(0, 1),
        st.lists(inner, max_size=3),
        st.sampled_from(["", "raises", "disk full"]),
    ),
    max_leaves=8,
)
"""An edit of a row of one of two tables, through one of two handles of it; or a batch of such, and how
it ends.
"""


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(batches, max_size=4))
@example([(0, 0, [(1, 0, [(1, 0, 1)], "")], "raises")])
@example([(0, 0, [(1, 0, [(1, 0, 1)], "")], "disk full")])
@example([(0, 0, [(1, 0, [], ""), (0, 0, [(1, 0, 1)], "raises"), (1, 0, 2)], "")])
@example([(0, 0, [(1, 0, 1), (1, 0, [], "")], "raises")])
def test_a_batch_of_tables_is_queued_whole_or_taken_back_whole(steps: list[Any]) -> None:
    with closing(Outbox(IN_MEMORY)) as outbox:
        ids = itertools.count()
        editing = Editing(outbox, clock=lambda: 0.0, make_id=lambda: f"op-{next(ids)}")
        views = [DictRows(SCHEMA), DictRows(SCHEMA)]
        editors = [editing.editor("public", name, STRATEGIES) for name in ("t", "u")]
        for editor, view in zip(editors, views, strict=True):
            overlay = Overlay(view, SCHEMA, STRATEGIES)
            overlay.apply([Upsert(key, row) for key, row in ROWS.items()])
            editor.attach(overlay)
        handles = [[Shown(), Shown()], [Shown(), Shown()]]
        open_tables = set[int]()
        made: list[tuple[int, int, str, WriteReport]] = []
        at_once: list[tuple[int, int, str, WriteReport]] = []
        """Of tables without a batch: queued as they are made."""
        dropped: list[tuple[int, int, str, WriteReport]] = []

        def play(step: Any, depth: int) -> None:
            table, handle, what, *ending = step
            if not ending:
                value = f"v{next(ids)}"
                changes = pd.Series({what: value}, name="a").rename_axis("id")
                report = editors[table].edit_many(changes, handles[table][handle])
                (made if table in open_tables else at_once).append((table, what, value, report))
                return
            around = set(open_tables)
            open_tables.add(table)
            first = len(made)
            full = ending == ["disk full"] and not depth
            try:
                with editors[table].batch():
                    for one in what:
                        play(one, depth + 1)
                    if ending == ["raises"]:
                        raise ZeroDivisionError
                    if full:
                        outbox._db.execute("pragma query_only = on")
            except (ZeroDivisionError, QueueError):
                # What was edited of the tables of the blocks around is of these.
                inside = [one for one in made[first:] if one[0] == table or one[0] not in around]
                dropped.extend(inside)
                made[first:] = [one for one in made[first:] if one not in inside]
            if full:
                outbox._db.execute("pragma query_only = off")
            if not depth:
                open_tables.clear()
                queued.extend([*at_once, *made])
                at_once.clear()
                made.clear()

        queued: list[tuple[int, int, str, WriteReport]] = []
        for step in steps:
            play(step, 0)
        queued += at_once
        for place, view in enumerate(views):
            kept = {key: value for table, key, value, _ in queued if table == place}
            assert {key: row["a"] for key, row in view.data.items()} == {
                1: "a",
                2: "a",
                3: "a",
            } | kept
            lost = {value for table, _, value, _ in dropped if table == place}
            for known in handles[place]:
                assert not {cells.get("a") for cells in known.bases([1, 2], ["a"]).values()} & lost
        assert sum(report.waiting for *_, report in dropped) == 0
        in_file = {op.key["id"]: op.values["a"] for op in outbox.ops(target="u")}
        assert in_file == {key: value for table, key, value, _ in queued if table == 1}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["edit", "back", "discard", "undo"]), st.sampled_from([1, 2, 3])),
        max_size=12,
    )
)
@example([("edit", 1), ("edit", 2), ("discard", 2), ("undo", 1)])
@example([("edit", 1), ("back", 1), ("edit", 1), ("discard", 1), ("undo", 1)])
def test_undo_goes_on_with_the_edits_that_were_not_discarded(steps: list[tuple[str, int]]) -> None:
    kernel = Kernel(Path(IN_MEMORY))
    with closing(kernel.outbox):
        shown = dict.fromkeys([1, 2, 3], "a")
        done: list[tuple[int, str]] = []
        """The edits that can be taken back: the row, and what it was before."""
        for number, (what, key) in enumerate(steps):
            if what == "undo":
                assert kernel.editor.undo() == bool(done)
                if done:
                    last, before = done.pop()
                    shown[last] = before
            elif what == "discard":
                assert kernel.editor.discard(key) == any(one == key for one, _ in done)
                shown[key] = "a"
                done = [one for one in done if one[0] != key]
            else:
                value = "a" if what == "back" else f"v{number}"
                if shown[key] != value:
                    done.append((key, shown[key]))
                kernel.editor.edit(key, {"a": value})
                shown[key] = value
            assert {key: row["a"] for key, row in kernel.rows.data.items()} == shown


UNDECODED = [
    (pg_type, value)
    for value in (deep(900), "1" + "0" * 5_000, "1e400", '{"n": [1e400]}', r'"\ud800"')
    for pg_type in ("json", "jsonb", "_jsonb")
]


@pytest.mark.parametrize("what", ["edit", "edit the next cell", "delete"])
@pytest.mark.parametrize(("pg_type", "value"), UNDECODED)
def test_a_row_with_a_cell_that_no_cell_can_hold_is_edited_and_deleted_as_any_other(
    tmp_path: Path, pg_type: str, value: str, what: str
) -> None:
    schema = Schema((Column("id", "int8"), Column("v", pg_type), Column("n", "text")), ("id",))
    given = decode_json(f"[{value}]" if pg_type == "_jsonb" else value)
    rows = Table(schema)
    overlay = Overlay(rows, schema, Strategies())
    overlay.apply([Upsert(1, schema.decode({"id": 1, "v": given, "n": "x"}))])
    path = tmp_path / "queue.sqlite3"
    with closing(Outbox(path)) as outbox:
        editing = Editing(outbox, clock=lambda: 0.0, make_id=lambda: "op")
        editor = editing.editor("public", "t", Strategies())
        editor.attach(overlay)
        if what == "delete":
            editor.delete(1)
        else:
            editor.edit(1, {"v": None} if what == "edit" else {"n": "y"})
    with closing(Outbox(path)) as again:
        (op,) = again.ops()
    assert unchanged(op, {"id": 1, "v": given, "n": "x"})
    assert "v" not in {condition.column for condition in _conditions(op)[0]}
