"""For any edits, losses and changes of others: the view is correct, and the order is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.merge import ANSWER_LOST, RULES, Edit, Rule, Strategies, merge_value
from notebook_rt.edits.ops import changes_key
from notebook_rt.edits.overlay import Overlay
from notebook_rt.edits.report import WriteReport
from notebook_rt.model.rows import Key, Upsert
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.worker import Worker
from tests.laws import directory, examples
from tests.outbox.postgrest import BAD, FAULTS, SCHEMA, Fault, Table
from tests.sync.model import DictRows

STRATEGIES = Strategies(columns={"n": "delta"})


class Kernel:
    """An editor, its queue and its worker, in front of a `Table`; time passes when it is told to."""

    def __init__(
        self, server: Table, path: Path, first_id: int = 0, strategies: Strategies = STRATEGIES
    ) -> None:
        self.server = server
        self.strategies = strategies
        self.now = 0.0
        self.heard = len(server.events)
        self.outbox = Outbox(path)
        ids = itertools.count(first_id)
        editing = Editing(self.outbox, clock=lambda: self.now, make_id=lambda: f"op-{next(ids):03}")
        self.rows = DictRows(SCHEMA)
        self.overlay = Overlay(self.rows, SCHEMA, strategies)
        self.overlay.apply([Upsert(key, dict(row)) for key, row in server.rows.items()])
        self.editor: Editor = editing.editor("public", "t", strategies)
        self.editor.attach(self.overlay)
        self.worker = Worker(
            self.outbox,
            server,
            editing,
            clock=lambda: self.now,
            strategies=lambda op: strategies,
        )

    def insert(self, key: int, **values: Any) -> None:
        if self.editor.row(key) is None:
            self.editor.insert({"id": key, "a": "new", "n": 0, "up": None, **values})

    def edit(self, key: int, **values: Any) -> None:
        if self.editor.row(key) is not None and self.editor.row(values.get("id", -1)) is None:
            self.editor.edit(key, values)

    def upsert(self, *rows: dict[str, Any]) -> WriteReport:
        given = self.editor.given(rows, "upsert")
        return self.editor.write_many(given, upsert=True)

    def delete(self, key: int) -> None:
        if self.editor.row(key) is not None:
            self.editor.delete(key)

    def hear(self) -> None:
        if self.heard < len(self.server.events):
            self.overlay.apply([self.server.events[self.heard]])
            self.heard += 1

    async def step(self, *faults: Fault) -> None:
        self.server.faults = list(faults)
        self.now += 30.0
        self.worker.wake()
        with contextlib.suppress(asyncio.CancelledError):
            await self.worker.step()
        self.server.faults = []

    def decide(self, mine: bool) -> None:
        """Decide what asks and drop what was refused."""
        for op in self.outbox.ops(state="failed"):
            self.editor.discard(next(iter(op.key.values())))
        for record in (records := self.outbox.conflicts(only_open=True)):
            key, column = record.record["key"]["id"], record.record["column"]
            if record.number in {one.number for one in self.outbox.conflicts(only_open=True)}:
                whole = column is None and mine and self.overlay.last(key) is None
                choice = "mine" if mine and not whole else "theirs"
                before = self.outbox.ops()
                self.editor.resolve(key, column, choice)  # type: ignore[arg-type]  # one of two words
                decided = {one.op for one in records if one.record["key"]["id"] == key}
                # What follows a change of the key of a row that is gone is of no other row.
                gone = {one.op for one in records if one.record["theirs"] is None}
                about = {op.lane for op in before if op.id in gone and changes_key(op)}
                kept = {op.id for op in before if op.id not in decided and op.lane not in about}
                assert kept <= {op.id for op in self.outbox.ops()}, "dropped unasked"

    async def drain(self, mine: bool) -> None:
        for _ in range(60):
            if not len(self.outbox):
                return
            await self.step()
            while self.heard < len(self.server.events):
                self.hear()
            self.decide(mine)
        raise AssertionError(self.outbox.ops())


def laid_over(
    rows: dict[Key, dict[str, Any]], edits: Iterable[Edit], strategies: Strategies
) -> dict[Key, dict[str, Any]]:
    """The plainest meaning of edits laid over rows: one after the other, as they were made."""
    seen = {key: dict(row) for key, row in rows.items()}
    for edit in edits:
        new = edit.values.get("id", edit.key) if edit.kind == "update" else edit.key
        row = seen.get(edit.key)
        if row is None and edit.kind == "update" and edit.sent:
            row = seen.get(new)
        if edit.kind == "delete":
            seen.pop(edit.key, None)
        elif row is not None or edit.kind == "insert":
            seen.pop(edit.key, None)
            seen[new] = _merged(edit, row, strategies)
    return seen


def _merged(edit: Edit, row: dict[str, Any] | None, strategies: Strategies) -> dict[str, Any]:
    if row is None:
        return {**dict.fromkeys(SCHEMA.names), **edit.values}
    by_person = strategies.default not in ("server", "local")
    if edit.upsert or (edit.kind == "insert" and by_person):
        return {**row, **edit.values}
    merged = dict(row)
    for column, mine in edit.values.items():
        strategy = strategies.of(column)
        if edit.kind == "insert":
            of_row = strategy == "delta"
            server = (strategies.default if of_row else strategy) == "server"
            merged[column] = row[column] if server else mine
            continue
        if edit.sent and strategy == "delta":
            merged[column] = mine
            continue
        base = edit.base.get(column, row[column])
        merged[column] = merge_value(
            base, mine, row[column], strategy, mine_at=edit.at, row=row
        ).value
    return merged


def check_view(kernel: Kernel) -> None:
    overlay = kernel.overlay
    known = {key: overlay.get(key) for key in overlay.keys()}  # noqa: SIM118  a Rows is no dict
    assert len(overlay) == len(known)
    there = {key: row for key, row in known.items() if row is not None}
    assert kernel.rows.data == laid_over(there, overlay.edits, kernel.strategies)
    assert {edit.id for edit in overlay.edits} == {op.id for op in kernel.outbox.ops()}


keys = st.sampled_from([1, 2, 3, 8, 9])
rules = st.sampled_from(RULES)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("key"), keys, keys),
        st.tuples(st.sampled_from(["set", "add", "insert", "delete", "upsert"]), keys, keys),
        st.tuples(
            st.sampled_from(["they delete", "they insert", "they set", "they add", "both insert"]),
            keys,
            keys,
        ),
        st.tuples(st.just("send"), st.lists(st.sampled_from(FAULTS), max_size=3), st.just(0)),
        st.tuples(st.sampled_from(["hear", "mine", "theirs"]), st.just(0), st.just(0)),
    ),
    max_size=14,
)


async def play(
    kernel: Kernel, steps: list[tuple[str, Any, int]], mine: bool = False, *, ends: bool = True
) -> None:
    server = kernel.server
    for number, (what, key, other) in enumerate(steps):
        match what:
            case "key":
                kernel.edit(key, id=other)
            case "set":
                kernel.edit(key, a=f"mine {number}")
            case "add":
                row = kernel.editor.row(key)
                kernel.edit(key, n=(row["n"] or 0) + other if row else 0)
            case "insert":
                kernel.insert(key, a=f"new {number}")
            case "delete":
                kernel.delete(key)
            case "upsert":
                kernel.upsert(*({"id": one, "a": f"up {number}"} for one in {key, other}))
            case "they delete" if key in server.rows:
                server.remove(key)
            case "they insert" if key not in server.rows:
                server.put(None, {"id": key, "a": "theirs", "n": other, "up": None})
            case "both insert" if key not in server.rows and kernel.editor.row(key) is None:
                kernel.insert(key, a=f"new {number}")
                server.put(None, {"id": key, "a": "theirs", "n": other, "up": None})
                await kernel.step()
            case "they set" if key in server.rows:
                server.put(key, {**server.rows[key], "a": f"theirs {number}"})
            case "they add" if key in server.rows:
                there = server.rows[key]
                server.put(key, {**there, "n": (there["n"] or 0) + other})
            case "send":
                await kernel.step(*key)
            case "hear":
                kernel.hear()
            case "mine" | "theirs":
                kernel.decide(what == "mine")
        check_view(kernel)
    if not ends:
        return
    await kernel.drain(mine)
    while kernel.heard < len(server.events):
        kernel.hear()
    kernel.overlay.drop_shields(float("inf"))
    assert kernel.overlay.edits == []
    assert kernel.rows.data == server.rows


@settings(max_examples=examples(100), deadline=None)
@given(steps, st.booleans(), st.booleans(), rules, rules)
@example([("key", 3, 8), ("insert", 3, 1), ("they delete", 3, 1)], False, False, "lww", "lww")
@example([("insert", 8, 1), ("they insert", 8, 2), ("hear", 0, 0)], False, False, "server", "lww")
@example([("insert", 8, 1), ("they insert", 8, 2), ("send", [], 0)], True, False, "local", "ask")
@example([("both insert", 8, 1), ("set", 8, 1), ("theirs", 0, 0)], False, False, "lww", "lww")
@example([("both insert", 8, 1), ("delete", 8, 1), ("insert", 8, 1)], False, False, "ask", "lww")
@example([("both insert", 8, 1), ("key", 8, 9), ("set", 9, 1)], False, False, "union", "lww")
@example([("both insert", 8, 1), ("set", 8, 1), ("key", 8, 9)], True, True, "delta", "lww")
def test_the_view_is_the_servers_rows_with_the_edits_over_it_whatever_becomes_of_keys(
    steps: list[tuple[str, Any, int]], mine: bool, many: bool, rule: Rule, of_a: Rule
) -> None:
    strategies = Strategies(rule, {"n": "delta", "a": of_a})
    with directory() as name:
        path = Path(name) / "queue.sqlite3"
        kernel = Kernel(Table([1, 2, 3], many=many), path, strategies=strategies)
        try:
            asyncio.run(play(kernel, steps, mine))
        finally:
            kernel.outbox.close()


@settings(max_examples=examples(100), deadline=None)
@given(steps, st.booleans(), st.lists(st.sampled_from(["", "away", "ended"]), max_size=20))
@example([("insert", 8, 8), ("they insert", 8, 1), ("send", [], 0)], False, ["away", "ended"])
def test_what_certainly_was_not_sent_is_in_no_doubt(
    steps: list[tuple[str, Any, int]], many: bool, faults: list[Fault]
) -> None:
    """Every answer of the server's comes, and what fails fails before anything has left."""
    certain = iter(faults)
    steps = [
        (what, [next(certain, "") for _ in key], 0) if what == "send" else (what, key, other)
        for what, key, other in steps
    ]

    async def played(kernel: Kernel) -> None:
        for step in steps:
            await play(kernel, [step], ends=False)
            assert not [op for op in kernel.outbox.ops(state="waiting") if op.sent]
        await kernel.step(*faults)
        assert not [op for op in kernel.outbox.ops(state="waiting") if op.sent]
        records = [one.record["rule"] for one in kernel.outbox.conflicts()]
        assert not [rule for rule in records if rule.startswith(ANSWER_LOST)]

    with directory() as name:
        kernel = Kernel(Table([1, 2, 3], many=many), Path(name) / "queue.sqlite3")
        try:
            asyncio.run(played(kernel))
        finally:
            kernel.outbox.close()


few = st.sampled_from([1, 2, 3])
fails = st.lists(st.sampled_from(("503", *FAULTS)), min_size=1, max_size=4)
orders = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["insert", "refer", "key", "release", "delete"]), few, few),
        st.tuples(st.sampled_from(["bad", "anew"]), few, few),
        st.tuples(st.just("send"), fails, st.just(0)),
    ),
    min_size=3,
    max_size=14,
)


async def play_in_order(kernel: Kernel, steps: list[tuple[str, Any, int]], batched: bool) -> None:
    """Edit what refers to what was edited before; the server could take it in this order."""
    editor = kernel.editor

    def referred(key: int) -> bool:
        return any(row["up"] == key for k, row in kernel.rows.data.items() if k != key)

    def write_anew(key: int, up: int | None) -> None:
        if any(op.key["id"] == key for op in kernel.outbox.ops(state="failed")):
            editor.edit(key, {"a": "good", "up": up} if up else {"a": "good"})

    async def send_all() -> None:
        for _ in range(30):
            if kernel.outbox.counts()["waiting"]:
                await kernel.step()

    for what, key, other in steps:
        there = what != "send" and editor.row(key) is not None
        if there and (editor.row(key) or {})["a"] == BAD:
            if what == "anew":
                write_anew(key, other if editor.row(other) else None)
            continue  # what was refused is written anew before anything else is done with it
        match what:
            case "insert":
                kernel.insert(key, up=other if editor.row(other) else None)
            case "refer" if there and other != key and editor.row(other):
                editor.edit(key, {"up": other})
            case "bad" if there and not any(
                key in (op.key["id"], op.values.get("id")) for op in kernel.outbox.ops()
            ):
                editor.edit(key, {"a": BAD})
            case "release" if there:
                editor.edit(key, {"up": None})
            case "key" if not referred(key):
                kernel.edit(key, id=other)
            case "delete" if not referred(key):
                kernel.delete(key)
            case "send" if not batched:
                await kernel.step(*key)
    for what, faults, _ in steps:
        if what == "send":
            await kernel.step(*faults)
    await send_all()
    for key in [key for key, row in kernel.rows.data.items() if row["a"] == BAD]:
        write_anew(key, None)
    await send_all()
    assert kernel.server.refused == []
    assert kernel.outbox.ops() == []
    assert kernel.rows.data == kernel.server.rows


@settings(max_examples=examples(100), deadline=None)
@given(orders, st.booleans(), st.booleans())
@example([("bad", 1, 1), ("send", [""], 0), ("insert", 2, 2), ("anew", 1, 2)], False, False)
def test_whatever_the_server_fails_nothing_leaves_before_what_it_depends_on(
    steps: list[tuple[str, Any, int]], batched: bool, many: bool
) -> None:
    with directory() as name:
        kernel = Kernel(Table([1], many=many), Path(name) / "queue.sqlite3")
        kernel.worker.outcomes._max_attempts = 1000  # nothing is given up
        try:
            asyncio.run(play_in_order(kernel, steps, batched))
        finally:
            kernel.outbox.close()
