"""Rows whose keys the server makes are in once, or it is said that they may be in; never twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from notebook_rt.model.http import Answer, Request
from notebook_rt.model.rows import Upsert
from tests.laws import directory, examples
from tests.outbox.postgrest import BAD, FAULTS, Table
from tests.outbox.test_delivery_laws import Kernel


class Killed(BaseException):
    """The kernel is killed while a request is under way."""


class Server(Table):
    """A `Table` to whose requests more may happen: ``then`` is called before and after the next one."""

    then: Callable[[str], None] | None = None

    async def send(self, request: Request) -> Answer:
        then, self.then = self.then, None
        if then is not None:
            then("before")
        answer = await super().send(request)
        if then is not None:
            then("after")
        return answer


steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["bad", "keyed", "hear", "they set", "they delete"]), st.just(0)),
        st.tuples(st.just("die"), st.sampled_from(["before", "after"])),
        st.tuples(st.just("race"), st.booleans()),
        st.tuples(st.just("send"), st.lists(st.sampled_from(FAULTS), max_size=3)),
    ),
    max_size=14,
)


def race(kernel: Kernel, gone: bool, when: str) -> None:
    """The newest rows are changed or deleted, and the kernel hears of it, before it has its answer."""
    server = kernel.server
    for key in [key for key in server.rows if key >= 100] if when == "after" else ():
        if gone:
            server.remove(key)
        else:
            server.put(key, {**server.rows[key], "up": 1})
    while kernel.heard < len(server.events):
        kernel.hear()


def kill(at: str, when: str) -> None:
    if at == when:
        raise Killed


async def play(server: Server, path: Path, steps: list[tuple[str, Any]]) -> None:
    kernel = Kernel(server, path)
    made: dict[str, str] = {}

    def insert(a: str, **values: Any) -> None:
        op = kernel.editor.insert_unkeyed({"a": a, "up": None, **values})
        made[op.id] = a

    for number, (what, of_it) in enumerate(steps):
        newest = max(server.rows)
        match what:
            case "insert":
                for other in range(of_it):
                    insert(f"row {number}.{other}", n=len(made))
            case "bad":
                insert(BAD, n=len(made))
            case "keyed":
                kernel.insert(number + 10)
            case "send":
                await kernel.step(*of_it)
            case "hear":
                kernel.hear()
            case "they set" if newest >= 100:
                server.put(newest, {**server.rows[newest], "up": 1})
            case "they delete" if newest >= 100:
                server.remove(newest)
            case "race":  # its event, and others, come before its answer
                server.then = partial(race, kernel, of_it)
                await kernel.step()
            case "die":  # another kernel takes over the file
                server.then = partial(kill, of_it)
                with contextlib.suppress(Killed):
                    await kernel.step()
                kernel.outbox.close()
                kernel = Kernel(server, path, 1000 * (number + 1))
        server.then = None
        overlaid = {op.id for op in kernel.outbox.ops() if op.key}
        assert {edit.id for edit in kernel.overlay.edits} == overlaid
    for _ in range(30):
        if kernel.outbox.counts()["waiting"]:
            await kernel.step()
    while kernel.heard < len(server.events):
        kernel.hear()
    kernel.overlay.drop_shields(float("inf"))
    assert kernel.rows.data == server.rows, "no ghost, and nobody is missing"

    times: dict[str, set[Any]] = {}
    for event in server.events:
        if isinstance(event, Upsert) and event.key >= 100:
            times.setdefault(event.row["a"], set()).add(event.key)
    assert all(len(keys) == 1 for keys in times.values()), "a row is in twice"
    left = {op.id: op for op in kernel.outbox.ops()}
    assert all(op.state == "failed" for op in left.values())
    for op_id, a in made.items():
        if a == BAD:
            assert op_id in left
        elif op_id not in left:
            assert a in times, "settled, and not in"
        else:
            assert left[op_id].sent, "it was refused, though nothing is wrong with it"
            assert "may be in" in left[op_id].error
    kernel.outbox.close()


@settings(max_examples=examples(200), deadline=None)
@given(steps)
@example([("insert", 2), ("die", "after")])
@example([("insert", 2), ("race", True)])
@example([("insert", 3), ("bad", 0), ("send", ["", "lost"])])
@example([("insert", 1), ("send", ["503 after"]), ("hear", 0), ("they delete", 0)])
def test_a_row_without_its_key_is_in_once_whatever_answers_are_lost(
    steps: list[tuple[str, Any]],
) -> None:
    with directory() as name:
        asyncio.run(play(Server([1]), Path(name) / "queue.sqlite3", steps))
