"""Failures while an operation is carried out: the disk, the lease, a foreign answer, a stop."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from notebook_rt.edits import decide
from notebook_rt.errors import QueueError
from notebook_rt.local import LocalStack
from notebook_rt.model.http import Answer as Reply
from notebook_rt.model.http import Request
from notebook_rt.net.http import NoAnswerError
from notebook_rt.outbox.queue import Outbox
from tests.outbox.kernel import OWNER, Kernel
from tests.proxy import Answer, Cut, Proxy, lost_answers
from tests.waiting import until

MakeKernel = Callable[..., Kernel]


@pytest.fixture
def keys(stack: LocalStack, table: str) -> list[str]:
    """The keys of three rows."""
    made = sorted(str(uuid.uuid4()) for _ in range(3))
    for key in made:
        stack.sql(
            f"insert into {table} values (%s, 10, 'old', 1.0 / 3, '{{a}}', '{{\"x\": 1}}')", key
        )
    return made


def notes(stack: LocalStack, table: str) -> list[Any]:
    return [note for (note,) in stack.sql(f"select note from {table} order by id")]


async def ends(kernel: Kernel) -> None:
    """Wait until nothing is in the queue."""
    for _ in range(200):
        if not len(kernel.outbox):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(kernel.outbox.ops())


async def test_a_full_disk_is_reported_once_and_what_waits_leaves_when_there_is_room(
    stack: LocalStack,
    table: str,
    keys: list[str],
    kernel: MakeKernel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("notebook_rt.outbox.worker.WATCH_SECONDS", 0.02)
    k = kernel()
    k.editor.edit(keys[0], {"note": "mine"})
    k.outbox._db.execute("pragma query_only = on")  # every write fails
    running = asyncio.create_task(k.worker.run())
    await asyncio.to_thread(until, lambda: k.notes)
    await asyncio.sleep(0.4)  # twenty more looks at the disk
    said = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [r.exc_info for r in said] == [None], "once, and no traceback"
    assert [kind for kind, _ in k.notes] == ["failed"]
    k.outbox._db.execute("pragma query_only = off")
    await ends(k)
    k.outbox._db.execute("pragma query_only = on")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await k.close()
    assert notes(stack, table)[0] == "mine"


async def test_an_answer_that_is_not_the_servers_settles_nothing(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.delete(keys[0])
    k.editor.edit(keys[1], {"note": "mine"})
    k.editor.insert({"note": "new", "tags": []})
    send, strangers = k.rest.send, [True]

    async def portal(request: Request) -> Reply:
        return Reply(200, "<html>Sign in to our Wi-Fi</html>") if strangers else await send(request)

    k.rest.send = portal  # type: ignore[method-assign]  # somebody in between answers
    for _ in range(3):
        await k.worker.step()
    assert [op.state for op in k.outbox.ops()] == ["waiting"] * 3
    strangers.clear()
    k.clock = lambda: time.time() + 60
    await k.drain()
    assert sorted(notes(stack, table)) == ["mine", "new", "old"]
    await k.close()


@pytest.mark.parametrize("refused", [False, True])
async def test_an_unseen_insert_whose_answer_was_lost_is_in_once_unless_it_was_another_that_refused(
    stack: LocalStack, table: str, kernel: MakeKernel, refused: bool
) -> None:
    stack.sql(
        f"alter table {table} enable row level security; create unique index on {table} (note); "
        f"create policy post on {table} for insert to anon with check (true)"
    )
    k = kernel()
    key = k.editor.insert({"note": "new", "tags": []})
    send, lost = k.rest.send, [True]

    async def lossy(request: Request) -> Reply:
        if request.prefer == "return=minimal" and lost:
            lost.clear()
            if not refused:
                assert (await send(request)).status == 201
            raise NoAnswerError("http://x", "the line went dead", sent=True)
        return await send(request)

    k.rest.send = lossy  # type: ignore[method-assign]  # somebody in between
    await k.worker.step()
    assert [op.sent for op in k.outbox.ops()] == [True]
    if refused:
        stack.sql(f"insert into {table} (id, note) values (gen_random_uuid(), 'new')")
    k.clock = lambda: time.time() + 60
    await k.drain()
    assert notes(stack, table) == ["new"]
    if refused:
        (op,) = k.outbox.ops()
        assert "duplicate key value" in op.error
    else:
        assert len(k.outbox) == 0
        assert stack.sql(f"select id::text from {table}") == [(key,)]
    await k.close()


async def test_a_sum_whose_row_could_not_be_read_has_not_left(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    k.editor.edit(keys[0], {"n": 15})
    proxy.rules = (Answer(status=404, path="/rpc/"), Answer(method="GET", status=503))
    await k.worker.step()
    (op,) = k.outbox.ops()
    assert (op.attempts, op.sent) == (1, False)
    proxy.heal()
    stack.sql(f"update {table} set n = n + 100 where id = %s", keys[0])
    k.clock = lambda: op.not_before + 1
    await k.drain()
    assert len(k.outbox) == 0, "nobody is asked"
    assert stack.sql(f"select n from {table} where id = %s", keys[0]) == [(115,)]
    await k.close()


async def test_digits_that_a_float_does_not_show_are_no_conflict(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel
) -> None:
    k = kernel()
    requests: list[str] = []
    send = k.rest.send

    async def counted(request: Request) -> Reply:
        requests.append(request.method)
        return await send(request)

    k.rest.send = counted  # type: ignore[method-assign]  # as it was, and counted
    k.editor.edit(keys[0], {"price": 7.5})
    await k.drain()
    assert requests == ["GET", "PATCH"]
    k.editor.delete(keys[1])
    await k.drain()
    assert len(k.editor.conflicts) == 0
    stack.sql(f"update {table} set price = price * 2 where id = %s", keys[2])
    k.editor.edit(keys[2], {"price": 9.0})
    await k.drain()
    assert list(k.editor.conflicts["theirs"].astype(float)) == [2 / 3], "another value is one"
    assert stack.sql(f"select price::float from {table} order by id") == [(7.5,), (9.0,)]
    await k.close()


async def test_rows_that_are_set_to_the_same_leave_as_one_statement_each_on_its_own_condition(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel
) -> None:
    k = kernel()
    send, sent = k.rest.send, list[Request]()

    async def noted(request: Request) -> Reply:
        sent.append(request)
        return await send(request)

    k.rest.send = noted  # type: ignore[method-assign]  # one that is watched
    for key in keys:
        k.editor.edit(key, {"note": "mine"})
    stack.sql(f"update {table} set note = 'theirs' where id = %s", keys[1])
    await k.drain()
    assert [request.method for request in sent[:2]] == ["PATCH", "PATCH"]
    assert all(key in str(sent[0].params) for key in keys)
    assert keys[0] not in str(sent[1].params), "only what was refused goes on by itself"
    assert len(k.outbox) == 0
    notes = dict(stack.sql(f"select id::text, note from {table}"))
    assert notes == {keys[0]: "mine", keys[2]: "mine", keys[1]: notes[keys[1]]}
    assert [one.record["theirs"] for one in k.outbox.conflicts()] == ["theirs"]


async def test_many_rows_leave_in_few_requests(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    """An ``edit_many`` of 3,000 rows took 3,000 requests, ten at a time, and 300 commits of the file."""
    k = kernel()
    send, sent = k.rest.send, list[Request]()

    async def noted(request: Request) -> Reply:
        sent.append(request)
        return await send(request)

    k.rest.send = noted  # type: ignore[method-assign]  # one that is watched
    for _ in range(300):
        k.editor.insert({"note": "made"})
    await k.drain()
    inserted, sent[:] = len(sent), []
    made = [str(row[0]) for row in stack.sql(f"select id from {table} where note = 'made'")]
    assert len(made) == 300
    for key in made:
        k.editor.edit(key, {"note": "done"})
    await k.drain()
    assert stack.sql(f"select count(*) from {table} where note = 'done'") == [(300,)]
    assert inserted <= 5
    assert len(sent) <= 20


async def test_a_step_ends_when_all_of_it_has_ended(
    table: str, keys: list[str], kernel: MakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    k = kernel()
    for number, key in enumerate(keys):
        k.editor.edit(key, {"note": f"mine {number}"})
    send, slow = k.rest.send, asyncio.Event()

    async def waits(request: Request) -> Reply:
        if keys[2] in str(request.params):
            await slow.wait()
        return await send(request)

    def full(*_: Any) -> None:
        raise QueueError("full")

    k.rest.send = waits  # type: ignore[method-assign]  # one that takes its time
    monkeypatch.setattr(k.outbox, "settle_all", full)
    step = asyncio.create_task(k.worker.step())
    await asyncio.sleep(0.3)
    assert not step.done(), "one is still on its way"
    monkeypatch.undo()
    slow.set()
    with pytest.raises(QueueError, match="full"):
        await step
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await k.drain()
    assert len(k.editor.conflicts) == 0
    await k.close()


@pytest.mark.parametrize("together", [True, False])
async def test_what_the_server_has_done_is_put_down_though_the_worker_is_stopped(
    table: str,
    keys: list[str],
    kernel: MakeKernel,
    monkeypatch: pytest.MonkeyPatch,
    together: bool,
) -> None:
    k = kernel()
    for key in keys:
        k.editor.edit(key, {"note": "done" if together else f"done {key}"})
    send, settle_all = k.rest.send, k.outbox.settle_all
    answers: list[Reply] = []
    answered = asyncio.Event()

    async def counted(request: Request) -> Reply:
        answer = await send(request)
        if request.method == "PATCH":
            answers.append(answer)
            if len(answers) == (1 if together else len(keys)):
                answered.set()
        return answer

    def slow(done: Sequence[Any], records: Sequence[Any] = ()) -> None:
        time.sleep(0.3)
        settle_all(done, records)

    k.rest.send = counted  # type: ignore[method-assign]  # as it was, and counted
    monkeypatch.setattr(k.outbox, "settle_all", slow)
    running = asyncio.create_task(k.worker.run())
    await answered.wait()
    for _ in range(10):  # turns of the loop
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert k.outbox.ops() == []
    await k.close()


async def test_the_lease_is_held_while_what_a_statement_refused_goes_one_by_one(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    k = kernel()
    now = [time.time()]
    k.clock = lambda: now[0]
    for n in (1, -1, 2, 3, 4):
        k.editor.insert({"n": n, "tags": []})
    send = k.rest.send
    with closing(Outbox(k.outbox.path, OWNER, lease=5.0)) as other:

        async def slow(request: Request) -> Reply:
            now[0] += 4.0
            assert not other.lease(now[0]), "nobody else sends meanwhile"
            return await send(request)

        k.rest.send = slow  # type: ignore[method-assign]  # four seconds each
        assert await k.worker.step() == 5
    assert [op.state for op in k.outbox.ops()] == ["failed"]
    assert stack.sql(f"select n from {table} order by n") == [(1,), (2,), (3,), (4,)]
    await k.close()


async def test_a_child_waits_for_its_parent_and_a_call_for_the_edit_before_it(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel
) -> None:
    stack.sql(f"alter table {table} add column up uuid references {table}")
    stack.sql(
        f"create function {table}_note() returns text language sql as "
        f"$$ update {table} set note = note || ', called' where id = '{keys[0]}' returning note $$"
    )
    stack.sql(f"grant execute on function {table}_note to anon")
    k = kernel()
    parent, child = str(uuid.uuid4()), str(uuid.uuid4())
    k.editor.insert({"id": parent, "note": "parent", "tags": []})
    k.editor.insert({"id": child, "note": "child", "tags": []})
    # The table was read before it had the column: what another kernel left may have it.
    (_, second) = k.outbox.ops()
    with closing(Outbox(k.outbox.path, OWNER)) as other:
        other.discard(second.id)
        other.put(replace(second, values={**second.values, "up": parent}))
    k.editor.edit(keys[0], {"note": "edited"})
    k.editing.call(f"{table}_note", {}, repeatable=True)
    send, failed = k.rest.send, {"POST", "PATCH"}

    async def failing(request: Request) -> Reply:
        if request.method in failed:
            failed.discard(request.method)
            return Reply(503)
        return await send(request)

    k.rest.send = failing  # type: ignore[method-assign]  # one 503 for the parent, one for the edit
    now = [time.time()]
    k.clock = lambda: now[0]
    for _ in range(4):
        await k.worker.step()
        now[0] += 60
    await k.drain()
    assert k.outbox.ops() == []
    assert stack.sql(f"select up::text from {table} where id = %s", child) == [(parent,)]
    assert stack.sql(f"select note from {table} where id = %s", keys[0]) == [("edited, called",)]
    await k.close()


@pytest.mark.parametrize("taken", [True, False])
async def test_a_sum_whose_ledger_is_not_there_is_in_no_doubt(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel, proxy: Proxy, taken: bool
) -> None:
    k = kernel(url=proxy.url)
    k.editor.edit(keys[0], {"n": 15})
    if taken:  # by a kernel that was killed before it sent anything
        k.outbox.take(1, time.time())
    else:
        proxy.rules = (Cut(path="/rpc/", when="after"),)
        await k.worker.step()
        proxy.heal()
    stack.sql(f"update {table} set n = n + 100 where id = %s", keys[0])
    k.worker.wake()
    await k.drain()
    assert len(k.outbox) == 0, "nobody is asked"
    assert stack.sql(f"select n from {table} where id = %s", keys[0]) == [(115,)]
    await k.close()


@pytest.mark.usefixtures("ledger")
async def test_a_sum_that_left_through_a_ledger_which_was_dropped_since_is_asked_about(
    stack: LocalStack, table: str, keys: list[str], kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    k.editor.edit(keys[0], {"n": 11})
    await k.drain()
    k.editor.edit(keys[0], {"n": 15})
    proxy.rules = lost_answers()
    await k.worker.step()
    proxy.rules = (Answer(status=404, path="/rpc/"),)
    k.editor.edit(keys[0], {"n": 16})  # parked behind it
    k.worker.wake()
    await k.drain()
    assert [op.state for op in k.outbox.ops()] == ["asking", "waiting"]
    assert k.editor.marks()[keys[0], "n"][0] == "conflict"
    assert stack.sql(f"select n from {table} where id = %s", keys[0]) == [(15,)]
    await k.close()


@given(
    st.sampled_from(
        ["22P02", "23505", "42703", "42P10", "44000", "0A000", "55000", "P0001", "21000"]
    ),
    st.integers(402, 599).filter(lambda status: status not in (429,)),
    st.integers(0, 2),
)
def test_what_postgresql_will_refuse_again_is_refused_at_once_whatever_the_status(
    code: str, status: int, attempts: int
) -> None:
    ruling = decide.judge(Reply(status, {"code": code, "message": "no"}), attempts, 0.0)
    assert (ruling.meaning, ruling.lost) == ("refused", False)


@given(
    st.sampled_from(
        ["57014", "40001", "40P01", "08006", "53300", "55P03", "XX000", "PGRST003", None]
    ),
    st.integers(500, 599),
)
def test_what_may_pass_is_tried_again(code: str | None, status: int) -> None:
    ruling = decide.judge(Reply(status, {"code": code} if code else None), 0, 0.0)
    assert (ruling.meaning, ruling.lost) == ("wait", True)
