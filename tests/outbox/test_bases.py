"""The base of an edit: the value that its handle showed, regardless of later changes (promises, edits).

One law over any interleaving, on everything real but the network: handles, table, overlay, queue
file, worker. And what a base may be, in single cases.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.edits import shown
from notebook_rt.edits.editing import Editing
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.overlay import Overlay
from notebook_rt.errors import InvalidEditError
from notebook_rt.model.filters import Condition
from notebook_rt.model.http import Answer, Request
from notebook_rt.model.rows import Upsert
from notebook_rt.model.types import Column, Schema, to_rest
from notebook_rt.net.http import NoAnswerError
from notebook_rt.net.loop import shared
from notebook_rt.options import Options
from notebook_rt.outbox.queue import Outbox
from notebook_rt.outbox.worker import Worker
from notebook_rt.runtime.feed import Feed
from notebook_rt.store.journal import JournalledTable
from notebook_rt.sync.connection.metrics import Metrics
from notebook_rt.table import LiveTable
from tests.laws import directory, examples

SCHEMA = Schema(
    (
        Column("id", "int8"),
        Column("n", "int8"),
        Column("tags", "_text"),
        Column("note", "text"),
        Column("base", "text"),
        Column("price", "numeric"),
    ),
    key=("id",),
)
STRATEGIES = Strategies(columns={"n": "delta", "tags": "union"})
ROW: dict[str, Any] = {
    "id": 1,
    "n": 10,
    "tags": ["a", "b"],
    "note": "as it was",
    "base": "b",
    "price": 1.5,
}


class Server:
    """One table behind REST, as far as an update uses it, with the ledger or without; answers may be
    lost.
    """

    def __init__(self, *, with_ledger: bool = True) -> None:
        self.with_ledger = with_ledger
        self.rows = {key: {**ROW, "id": key} for key in (1, 2)}
        self.xmin = itertools.count(2)
        self.versions = dict.fromkeys(self.rows, 1)
        self.ledger: set[str] = set()
        self.events: list[dict[str, Any]] = []
        """Committed, and not delivered yet."""
        self.replaced: list[tuple[Any, Any]] = []
        """Notes that writes of the kernel's replaced, and by what."""
        self.lose = ""
        self.lose_write = False
        """The answer to the next request that changes a row is lost."""

    def change(self, key: int, **values: Any) -> None:
        self.rows[key] = {**self.rows[key], **values}
        self.versions[key] = next(self.xmin)
        self.events.append(self.rows[key])

    async def send(self, request: Request) -> Answer:
        lose, self.lose = self.lose, ""
        if lose == "request":
            raise NoAnswerError("http://server", "lost", sent=True)
        written = len(self.events)
        answer = self.answer(request)
        if lose == "answer" or (self.lose_write and len(self.events) > written):
            self.lose_write = False
            raise NoAnswerError("http://server", "lost", sent=True)
        return answer

    def answer(self, request: Request) -> Answer:
        if request.method == "POST":
            return self.add(request.body)
        key = int(dict(request.params)["id"].removeprefix("eq."))
        row = {**self.rows[key], "xmin": str(self.versions[key])}
        if request.method == "GET":
            return Answer(200, [row])
        types = {**SCHEMA.types, "xmin": "text"}
        conditions = {
            Condition(name, "eq", (to_rest(types[name], value),)).to_rest()
            for name, value in row.items()
        }
        if not all(one in conditions for one in request.params if one[0] != "select"):
            return Answer(200, [])
        self.write(key, request.body)
        return Answer(200, [self.rows[key]])

    def add(self, args: dict[str, Any]) -> Answer:
        if not self.with_ledger or "p_key" not in args:  # no function for many operations
            return Answer(404, {"code": "PGRST202"})
        key = args["p_key"]["id"]
        row = self.rows.get(key)
        if row is None:  # a null key asks whether there is a ledger
            return Answer(400, {"code": "NRT01"})
        if args["p_op"] not in self.ledger:
            if any(row[name] != value for name, value in args["p_base"].items()):
                return Answer(400, {"code": "NRT01"})
            self.ledger.add(args["p_op"])
            sums = {name: row[name] + value for name, value in args["p_add"].items()}
            self.write(key, {**args["p_set"], **sums})
        return Answer(200, {"row": self.rows[key]})

    def write(self, key: int, values: dict[str, Any]) -> None:
        if "note" in values:
            self.replaced.append((self.rows[key]["note"], values["note"]))
        self.change(key, **values)


class Edits:
    """The writing side, as a session gives it to a handle."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def open(self, right: str | None = None, columns: object = ()) -> Editor:
        return self.editor

    def known(self) -> Editor:
        return self.editor


class Kernel:
    """A table that is live, with as many handles as one likes."""

    def __init__(self, path: Path, server: Server, strategies: Strategies = STRATEGIES) -> None:
        self.server = server
        self.now = 0.0
        self.outbox = Outbox(path)
        ids = itertools.count()
        self.editing = Editing(
            self.outbox, clock=lambda: self.now, make_id=lambda: f"op-{next(ids)}"
        )
        self.table = JournalledTable(SCHEMA)
        self.overlay = Overlay(self.table, SCHEMA, strategies)
        self.overlay.apply([Upsert(key, row) for key, row in server.rows.items()])
        self.feed = Feed("t", shared(), Options(), Metrics())
        self.feed.table, self.feed.schema, self.feed.status = self.table, SCHEMA, "live"
        self.editor = self.editing.editor(
            "public", "t", strategies, lambda changes: self.feed.publish(changes, "edit")
        )
        self.editor.attach(self.overlay)
        self.worker = Worker(
            self.outbox,
            server,
            self.editing,
            clock=lambda: self.now,
            strategies=self.editing.strategies,
        )

    def handle(self) -> LiveTable:
        return LiveTable(self.feed, lambda: None, self, Edits(self.editor))  # type: ignore[arg-type]  # as much of it as edits need

    def deliver(self, number: int | None = None) -> None:
        """The next events come."""
        events = self.server.events[:number]
        del self.server.events[:number]
        for row in events:
            with self.editing.lock:
                changes = self.overlay.apply([Upsert(row["id"], row)], want_changes=True)
            self.feed.publish(changes, "stream")

    async def step(self) -> int:
        self.now += 100.0
        self.worker.wake()
        return await self.worker.step()

    async def drain(self) -> None:
        for _ in range(50):
            if self.outbox.next_at() is None:
                break
            await self.step()
        self.deliver()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path / "queue.sqlite3", Server())
    yield made
    made.outbox.close()


READS: dict[str, Callable[[LiveTable, int], dict[str, Any]]] = {
    "df": lambda frame, key: frame.df.loc[key].to_dict(),
    "get": lambda frame, key: frame.get(key) or {},
    "at": lambda frame, key: {c: frame.at[key, c] for c in ("n", "tags", "note")},
    "arrow": lambda frame, key: next(r for r in frame.to_arrow().to_pylist() if r["id"] == key),
}
who = st.integers(0, 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), who, st.sampled_from([*READS, "changes"])),
        st.tuples(st.just("plain"), who, st.sampled_from(["n", "add tag", "drop tag", "note"])),
        st.tuples(
            st.sampled_from(["base", "function", "many", "batch", "raise"]),
            who,
            st.sampled_from(["n", "add tag", "drop tag", "note"]),
        ),
        st.tuples(
            st.sampled_from(["theirs", "theirs, not told"]),
            who,
            st.sampled_from(["n", "add", "drop", "note"]),
        ),
        st.tuples(
            st.just("theirs, after a lost answer"),
            who,
            st.sampled_from(["drop", "n", "add", "note"]),
        ),
        st.tuples(st.sampled_from(["told", "told", "other df"]), who, st.none()),
        st.tuples(st.just("send"), who, st.sampled_from(["", "", "request", "answer"])),
    ),
    min_size=3,
    max_size=20,
)


class Person:
    """Edits row 1 through one handle, from what the handle showed."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.frame = run.kernel.handle()
        self.iterator = self.frame.changes()
        self.seen: dict[str, Any] = {}
        """What this person knows of the row."""
        self.readings: list[dict[str, Any]] = []
        self.read("df")

    def read(self, how: str) -> None:
        if how != "changes":
            self.seen = {**self.seen, **READS[how](self.frame, 1)}
        elif self.iterator._batches:
            for change in next(self.iterator):
                if change.key == 1 and change.new is not None:
                    self.seen = dict(change.new)
        if {"n", "tags", "note"} <= self.seen.keys():
            self.readings.append(self.seen)

    def edit(self, how: str, what: str) -> None:
        row = self.seen
        if how == "base" and self.readings:
            row = self.readings[len(self.run.made) % len(self.readings)]
        run, column = self.run, {"n": "n", "note": "note"}.get(what, "tags")
        number = next(run.numbers)
        made: list[tuple[Any, Any]] = []

        def make(old: Any) -> Any:
            if how == "raise":
                raise ZeroDivisionError
            items = list(old) if column == "tags" else []
            values = {
                "n": lambda: old + number,
                "note": lambda: f"mine {number}",
                "add tag": lambda: [*items, f"mine {number}"],
                "drop tag": lambda: items[1:],
            }
            made.append((old, values[what]()))
            return made[-1][1]

        if how == "raise":
            with pytest.raises(ZeroDivisionError):
                self.frame.edit(1, {column: make})
            return
        if how == "function":
            self.frame.edit(1, {column: make})
        else:
            new = make(row[column])
            if how == "many":
                self.frame.edit_many(pd.DataFrame({column: [new]}, index=pd.Index([1], name="id")))
            elif how == "batch":
                with self.frame.batch():
                    self.frame.edit(1, {column: new})
            elif how == "base":
                self.frame.edit(1, {column: new}, base=row)
            else:
                self.frame.at[1, column] = new
        [(old, new)] = made
        self.seen = {**self.seen, column: new}
        run.made.append((what, number, old, new))


class Run:
    """One history, and what must come of it."""

    def __init__(self, path: Path, *, with_ledger: bool) -> None:
        self.server = Server(with_ledger=with_ledger)
        self.kernel = Kernel(path, self.server)
        self.numbers = itertools.count(100)
        self.made: list[tuple[str, int, Any, Any]] = []
        """What was edited here, its number, from what, to what."""
        self.theirs: list[tuple[str, Any]] = []
        self.asked: set[str] = set()
        """The columns of which somebody had to decide."""
        self.people = [Person(self), Person(self)]

    def change(self, what: str) -> None:
        row, number = self.server.rows[1], next(self.numbers)
        if what == "n":
            self.server.change(1, n=row["n"] + number)
        elif what == "note":
            self.server.change(1, note=f"theirs {number}")
        elif what == "add":
            self.server.change(1, tags=[*row["tags"], f"theirs {number}"])
        else:
            items = row["tags"]
            if items:
                self.theirs.append(("dropped", items[-1]))
                self.server.change(1, tags=items[:-1])
        self.theirs.append((what, number))

    async def do(self, steps: list[tuple[str, Any, Any]]) -> None:
        for step, who, what in steps:
            if step == "read":
                self.people[who].read(what)
            elif step == "other df":
                _ = self.kernel.handle().df  # steps of the table are not this handle's readings
            elif step.startswith("theirs"):
                if step == "theirs, after a lost answer":
                    self.server.lose_write = True
                    await self.kernel.step()
                    self.server.lose_write = False
                self.change(what)
                if step == "theirs":
                    self.kernel.deliver()
            elif step == "told":
                self.kernel.deliver(1)
            elif step == "send":
                self.server.lose = what
                await self.kernel.step()
                self.server.lose = ""
            else:
                self.people[who].edit(step, what)
        await self.end()

    async def end(self) -> None:
        kernel = self.kernel
        for _ in range(10):
            await kernel.drain()
            asking = kernel.editor.open_conflicts()
            if not asking:
                break
            # A value whose answer was lost while they wrote another: to be decided, not guessed.
            columns = {record.record["column"] for record in asking}
            assert columns <= ({"note"} if self.server.with_ledger else {"note", "n", "tags"})
            self.asked |= columns
            kernel.editor.resolve(1, None, "mine" if columns == {"note"} else "theirs")
        assert not kernel.outbox.ops()
        await kernel.worker.outcomes.end()

    def check(self) -> None:
        server = self.server.rows[1]
        mine = sum(number for what, number, *_ in self.made if what == "n")
        theirs = sum(number for what, number in self.theirs if what == "n")
        assert "n" in self.asked or server["n"] == 10 + mine + theirs
        dropped = {item for what, item in self.theirs if what == "dropped"}
        assert not dropped & set(server["tags"]), "what others removed does not come back"
        for what, _, old, new in self.made:
            if what == "drop tag":
                dropped |= set(old or []) - set(new)
        added = {"a", "b"}
        added |= {f"mine {number}" for what, number, *_ in self.made if what == "add tag"}
        added |= {f"theirs {number}" for what, number in self.theirs if what == "add"}
        if "tags" in self.asked:
            assert {
                f"theirs {number}" for what, number in self.theirs if what == "add"
            } - dropped <= {*server["tags"]}
        else:
            assert sorted(server["tags"]) == sorted(added - dropped)
        known = {old for what, _, old, _ in self.made if what == "note"}
        told = set(self.kernel.editor.conflicts["theirs"].dropna().map(str))
        for before, _ in self.server.replaced:
            assert not before.startswith("theirs") or before in known or before in told
        assert self.kernel.table.get(1) == server


@settings(max_examples=examples(150))
@given(steps, st.booleans())
@example(  # the tags of the write whose answer was lost are in; only its sum is in doubt
    steps=[
        ("plain", 0, "n"),
        ("plain", 0, "add tag"),
        ("theirs, after a lost answer", 0, "n"),
        ("theirs, after a lost answer", 0, "drop"),
    ],
    with_ledger=False,
)
def test_nothing_of_anybody_is_lost_whatever_an_edit_was_made_from(
    steps: list[tuple[str, Any, Any]], with_ledger: bool
) -> None:
    with directory() as name:
        run = Run(Path(name) / "queue.sqlite3", with_ledger=with_ledger)
        asyncio.run(run.do(steps))
        run.check()
        run.kernel.outbox.close()


@pytest.mark.parametrize("with_ledger", [True, False])
def test_an_item_that_somebody_removed_is_not_put_back_after_a_lost_answer(
    tmp_path: Path, with_ledger: bool
) -> None:
    server = Server(with_ledger=with_ledger)
    kernel = Kernel(tmp_path / "queue.sqlite3", server)
    kernel.handle().edit(1, tags=["a", "b", "mine"])
    asyncio.run(kernel.step())
    kernel.deliver()
    kernel.handle().edit(1, tags=["a", "b", "mine", "mine, too"])
    server.lose_write = True
    asyncio.run(kernel.step())
    assert server.rows[1]["tags"] == ["a", "b", "mine", "mine, too"]
    server.change(1, tags=["a", "b", "mine"])
    kernel.deliver()
    assert values(kernel, "tags") == ["a", "b", "mine"]
    asked = [record.record["column"] for record in kernel.editor.open_conflicts()]
    assert asked == ([] if with_ledger else ["tags"])
    kernel.outbox.close()


def test_what_another_kernel_has_sent_is_shown_in_the_order_in_which_it_left(
    tmp_path: Path,
) -> None:
    """Two edits of a row, both sent between two looks at the file: the later one stands."""
    path, server = tmp_path / "queue.sqlite3", Server()
    here, there = Kernel(path, server), Kernel(path, server)
    frame = here.handle()

    async def send(number: int) -> None:
        frame.edit(1, note=f"first {number}")
        server.lose = "request"
        await here.step()
        frame.edit(1, note=f"second {number}")
        there.editing.elsewhere()
        await here.drain()
        there.editing.elsewhere()
        assert there.table.get(1) == server.rows[1]

    async def end() -> None:
        for number in range(10):
            await send(number)
        await here.worker.outcomes.end()

    asyncio.run(end())
    here.outbox.close()
    there.outbox.close()


def values(kernel: Kernel, column: str) -> Any:
    """What stands once everything was told and sent."""

    async def end() -> None:
        kernel.deliver()
        await kernel.drain()
        await kernel.worker.outcomes.end()

    asyncio.run(end())
    return kernel.server.rows[1][column]


@pytest.mark.parametrize("how", READS)
def test_what_others_did_after_a_reading_is_kept(kernel: Kernel, how: str) -> None:
    frame = kernel.handle()
    row = READS[how](frame, 1)
    kernel.server.change(1, n=7, tags=["a", "b", "theirs"])
    kernel.deliver()
    frame.edit(1, n=row["n"] - 1, tags=[*row["tags"], "mine"])
    assert values(kernel, "n") == 6
    assert kernel.server.rows[1]["tags"] == ["a", "b", "theirs", "mine"]


def test_what_a_callback_is_given_is_what_its_edits_are_made_from(kernel: Kernel) -> None:
    frame = kernel.handle()
    batches = frame.changes()
    kernel.server.change(1, n=20)
    kernel.deliver()
    [change] = next(batches)
    kernel.server.change(1, n=25)
    kernel.deliver()
    assert change.new is not None
    frame.edit(1, n=change.new["n"] + 1)
    assert values(kernel, "n") == 26


def test_the_last_that_was_shown_counts_unless_the_base_is_said(kernel: Kernel) -> None:
    frame = kernel.handle()
    earlier = frame.df
    kernel.server.change(1, n=7)
    kernel.server.change(2, n=7)
    kernel.deliver()
    _ = frame.df
    frame.edit(1, n=earlier.loc[1, "n"] - 1, base=earlier.loc[1])
    frame.edit_many(earlier[["n"]] - 1, base=earlier)  # on top: from what it was made from, again
    assert values(kernel, "n") == 5
    assert kernel.server.rows[2]["n"] == 6


def test_an_edit_of_my_own_is_known_and_one_that_was_taken_back_is_not(kernel: Kernel) -> None:
    frame = kernel.handle()
    _ = frame.df
    kernel.server.change(1, n=8)  # two are gone, and nobody here has read it
    kernel.deliver()
    frame.edit(1, n=9)
    frame.edit(1, n=5)
    assert frame.undo()
    frame.edit(1, n=7)  # nine less two
    frame.discard(1)
    with contextlib.suppress(ZeroDivisionError), frame.batch():
        frame.edit(1, n=1)
        raise ZeroDivisionError
    frame.edit(1, n=11)  # ten and one
    assert values(kernel, "n") == 9


def test_of_two_edits_of_mine_through_two_handles_the_later_stands(kernel: Kernel) -> None:
    one, other = kernel.handle(), kernel.handle()
    _ = one.df, other.df
    one.edit(1, note="first")
    other.edit(1, note="second")
    assert values(kernel, "note") == "second"
    assert kernel.editor.conflicts.empty


def test_a_function_is_given_the_value_of_now_and_may_read_the_table(kernel: Kernel) -> None:
    frame = kernel.handle()
    _ = frame.df
    kernel.server.change(1, n=7)
    kernel.deliver()
    frame.edit(1, n=lambda n: n - len(frame.df))
    frame.edit(1, n=lambda n: n * 2, tags=lambda tags: [*tags, "mine"])
    assert len(kernel.outbox) == 1, "edits that have not left are one"
    frame.at[1, "n"] = lambda n: n + 1
    assert values(kernel, "n") == 11
    assert kernel.server.rows[1]["tags"] == ["a", "b", "mine"]


def test_a_function_that_raises_leaves_everything_as_it_was(kernel: Kernel) -> None:
    frame = kernel.handle()
    with pytest.raises(ZeroDivisionError):
        frame.edit(1, note="never", n=lambda n: n / 0)
    with pytest.raises(InvalidEditError, match="no column 'm'"):
        frame.edit(1, m=lambda m: m)
    assert not len(kernel.outbox)
    assert kernel.table.get(1) == ROW


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (5, "A column named base is edited by"),
        ({"n": 10, "stock": 1}, "has a column 'stock', which the table has not"),
        ({"note": "x"}, "lacks the column 'n'"),
        ({"id": 2, "n": 10}, "is another row"),
        (pd.Series({"n": 10}, name=2), "is another row"),
        (pd.DataFrame({"n": [1, 2]}), "is one row, and this DataFrame has 2"),
        ({"n": "many"}, "base=: column 'n'"),
    ],
)
def test_a_base_that_is_not_the_row_is_refused(kernel: Kernel, base: Any, why: str) -> None:
    with pytest.raises(InvalidEditError, match=why):
        kernel.handle().edit(1, n=11, base=base)
    assert not len(kernel.outbox)


def test_a_base_is_a_row_in_any_form_in_which_rows_are_read(kernel: Kernel) -> None:
    frame = kernel.handle()
    df = frame.df
    kernel.server.change(1, n=0)
    kernel.deliver()
    row = frame.get(1)
    _ = frame.df
    forms: list[Any] = [
        df.loc[1],
        df.loc[[1]],
        df.reset_index().iloc[[0]],
        {**(row or {}), "n": 10},
    ]
    for form in forms:
        frame.edit(1, n=11, price=2.5, base=form)
        frame.edit(1, price=1.5)
    assert values(kernel, "n") == len(forms)


def test_a_column_named_base_is_edited_by_a_dict(kernel: Kernel) -> None:
    frame = kernel.handle()
    frame.edit(1, {"base": "new"}, base=frame.get(1))
    assert values(kernel, "base") == "new"


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (pd.DataFrame({"id": [2], "n": [10]}), "lacks the row 1"),
        (pd.DataFrame({"id": [1], "note": ["x"]}), "lacks the column 'n'"),
        (pd.DataFrame({"id": [1, 1], "n": [1, 2]}), "twice"),
        (pd.DataFrame({"n": [10]}), "only number the rows"),
        ({"n": 10}, "is the DataFrame that the changes were made from"),
    ],
)
def test_a_base_of_many_that_lacks_what_is_changed_is_refused(
    kernel: Kernel, base: Any, why: str
) -> None:
    with pytest.raises(InvalidEditError, match=why):
        kernel.handle().edit_many(pd.DataFrame({"id": [1], "n": [11]}), base=base)


def test_what_is_out_of_reach_is_refused_and_not_guessed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "MOST", 1)
    frame = kernel.handle()
    row = frame.get(1)
    _ = frame.get(2)
    with pytest.raises(InvalidEditError, match="read the row again"):
        frame.edit(1, n=11)
    frame.edit(1, n=11, base=row)
    _ = frame.df
    frame.edit(1, n=12)
    assert values(kernel, "n") == 12


def test_another_threads_reading_is_not_what_mine_was_made_from(kernel: Kernel) -> None:
    frame = kernel.handle()
    _ = frame.df
    kernel.server.change(1, n=7)
    kernel.deliver()
    other = threading.Thread(target=lambda: frame.get(1))
    other.start()
    other.join()
    frame.edit(1, n=9)
    assert values(kernel, "n") == 6
