"""The worker against the real REST of the local stack: conditional, merged, never twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from notebook_rt.edits.listing import question
from notebook_rt.edits.merge import Strategies
from notebook_rt.edits.ops import Op
from notebook_rt.errors import ConflictError, InvalidEditError
from notebook_rt.local import LocalStack
from notebook_rt.model.http import Answer as Reply
from notebook_rt.model.http import Request
from notebook_rt.outbox.worker import Worker
from tests.outbox.kernel import Kernel
from tests.proxy import Answer, Proxy, lost_answers
from tests.waiting import scaled, until

MakeKernel = Callable[..., Kernel]


@pytest.fixture
def key(stack: LocalStack, table: str) -> str:
    made = str(uuid.uuid4())
    stack.sql(f"insert into {table} values (%s, 10, 'old', 1.50, '{{a,b}}', '{{\"x\": 1}}')", made)
    return made


def row(stack: LocalStack, table: str, key: Any) -> dict[str, Any] | None:
    found = stack.sql(f"select to_jsonb(t) from {table} t where id = %s", key)
    return found[0][0] if found else None


def states(kernel: Kernel) -> list[str]:
    return [op.state for op in kernel.outbox.ops()]


async def test_edit_insert_and_delete_reach_the_server(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.edit(key, {"note": "new", "price": "2.25", "doc": {"y": [1]}})
    made = k.editor.insert({"note": "made here", "tags": ["t"]})
    assert k.view(key)["note"] == "new"
    assert row(stack, table, key)["note"] == "old"  # type: ignore[index]  # it is there
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["price"], after["doc"]) == ("new", 2.25, {"y": [1]})
    assert row(stack, table, made)["note"] == "made here"  # type: ignore[index]  # it is there
    assert k.view(made)["n"] == 0, "the answer brought the server's default"
    k.editor.delete(made)
    await k.drain()
    assert row(stack, table, made) is None
    assert len(k.outbox) == 0
    await k.close()


async def test_no_lost_update_the_other_column_and_the_same_one(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.edit(key, {"note": "mine", "tags": ["b", "c"], "n": 13})
    stack.sql(f"update {table} set price = 9, tags = '{{a,b,d}}', n = 20 where id = %s", key)
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["price"]) == ("mine", 9)
    assert sorted(after["tags"]) == ["b", "c", "d"]
    assert after["n"] == 23
    conflicts = k.editor.conflicts.set_index("column")
    assert list(conflicts.loc["n", ["base", "mine", "theirs", "result"]]) == [10, 13, 20, 23]
    assert conflicts.loc["tags", "rule"] == "union"
    assert k.view(key) == {**k.view(key), "note": "mine", "n": 23}
    await k.close()


async def test_the_later_wins_by_server_time_though_one_clock_is_an_hour_off(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    early = kernel("early", clock_offset=3600.0, true_offset=3600.0)
    late = kernel("late")
    early.editor.edit(key, {"note": "early", "tags": ["b", "x"]})
    await asyncio.sleep(0.02)
    late.editor.edit(key, {"note": "late", "tags": ["a", "b", "y"], "price": 7})
    # Both were offline; the later one is back first, then the one whose clock runs ahead.
    await late.drain()
    await early.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["price"]) == ("late", 7)
    assert sorted(after["tags"]) == ["b", "x", "y"], "united, and the removal of a kept"
    late.read()
    assert late.view(key) == early.view(key)
    assert early.editor.conflicts["rule"].tolist() == ["lww", "union"]
    await early.close()
    await late.close()


async def test_ask_waits_for_a_decision_and_holds_back_that_row_only(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel(strategies=Strategies("ask"))
    k.editor.edit(key, {"note": "mine", "price": 3})
    stack.sql(f"update {table} set note = 'theirs' where id = %s", key)
    await k.drain()
    assert states(k) == ["asking"]
    assert k.editor.marks()[key, "note"][0] == "conflict"
    other = k.editor.insert({"note": "flows on", "tags": []})
    await k.drain()
    assert row(stack, table, other) is not None
    k.editor.resolve(key, "note", "theirs")
    with pytest.raises(ConflictError):
        k.editor.resolve(key, "note", "mine")
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["price"]) == ("theirs", 3)
    assert k.editor.conflicts["open"].tolist() == [False]
    await k.close()


async def test_who_decides_before_the_conflict_is_told_has_decided(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel(strategies=Strategies("ask"))
    told = k.editing.rebased

    def late(op: Op, records: Any) -> None:
        k.editor.resolve(key, "note", "theirs")  # seen in the file already
        told(op, records)

    k.editing.rebased = late  # type: ignore[method-assign]  # the moment between the two
    k.editor.edit(key, {"note": "mine"})
    stack.sql(f"update {table} set note = 'theirs' where id = %s", key)
    await k.drain()
    assert k.overlay.edits == []
    k.read()
    assert k.view(key)["note"] == "theirs"
    await k.close()


async def test_a_merge_function_decides_and_is_given_the_row(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    def both(base: Any, mine: Any, theirs: Any, row: Any) -> str:
        return f"{base}|{mine}|{theirs}|{row['n']}"

    k = kernel(strategies=Strategies(columns={"note": both}))
    told: list[Any] = []
    k.editor.on_merge.add(told.extend)
    k.editor.edit(key, {"note": "mine"})
    stack.sql(f"update {table} set note = 'theirs' where id = %s", key)
    await k.drain()
    assert row(stack, table, key)["note"] == "old|mine|theirs|10"  # type: ignore[index]  # it is there
    assert k.editor.conflicts["rule"].tolist() == ["both"]
    assert [(t["column"], t["mine"], t["theirs"]) for t in told] == [("note", "mine", "theirs")]
    assert [kind for kind, _ in k.notes] == ["merged"]
    await k.close()


async def test_an_edit_of_a_row_they_deleted_is_kept_and_can_bring_it_back(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.edit(key, {"note": "mine"})
    stack.sql(f"delete from {table} where id = %s", key)
    await k.drain()
    assert states(k) == ["asking"]
    k.editor.resolve(key, choice="mine")
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["n"]) == ("mine", 10)
    await k.close()


async def test_a_delete_of_a_row_they_edited_later_is_given_up(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.delete(key)
    await asyncio.sleep(0.02)
    stack.sql(f"update {table} set note = 'still needed' where id = %s", key)
    await k.drain()
    assert row(stack, table, key) is not None
    assert k.view(key)["note"] == "still needed"
    assert k.editor.conflicts["rule"].tolist() == ["lww"]
    await k.close()


@pytest.mark.parametrize("choice", ["mine", "theirs"])
async def test_the_second_of_two_inserts_of_one_key_asks(
    stack: LocalStack, table: str, kernel: MakeKernel, choice: Any
) -> None:
    a, b = kernel("a"), kernel("b")
    key = str(uuid.uuid4())
    a.editor.insert({"id": key, "note": "a", "n": 1, "tags": []})
    b.editor.insert({"id": key, "note": "b", "price": 2, "tags": []})
    await a.drain()
    await b.drain()
    first = row(stack, table, key)
    assert first is not None
    assert (first["note"], first["n"], first["price"]) == ("a", 1, None), "nothing is overwritten"
    (asked,) = b.editor.conflicts.to_dict("records")
    assert (asked["column"], asked["open"], asked["theirs"]["note"]) == (None, True, "a")
    b.editor.resolve(key, choice=choice)
    await b.drain()
    after = row(stack, table, key)
    assert after is not None
    changed = {"note": "b", "price": 2} if choice == "mine" else {}
    assert after == {**first, **changed, "updated_at": after.get("updated_at")}
    assert len(b.outbox) == 0
    await a.close()
    await b.close()


async def test_later_edits_of_a_row_that_is_theirs_after_all_are_edits_of_theirs(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    k = kernel()
    key = str(uuid.uuid4())
    k.editor.insert({"id": key, "note": "mine", "n": 1, "tags": ["mine"]})
    values = f"('{key}', 'theirs', 10, '{{theirs}}')"
    stack.sql(f"insert into {table} (id, note, n, tags) values {values}")
    await k.drain()
    k.editor.edit(key, {"price": 5})
    k.editor.edit(key, {"n": 4, "tags": ["mine", "later"]})
    k.editor.resolve(key, choice="theirs")
    assert k.view(key)["note"] == "theirs", "before any event or read tells of it"
    assert [(op.kind, op.state, op.blocked) for op in k.outbox.ops()] == [
        ("update", "waiting", False)
    ]
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert (after["note"], after["price"]) == ("theirs", 5)
    assert (after["n"], after["tags"]) == (13, ["theirs", "later"]), "by the rules of the columns"
    k.read()
    assert {**k.view(key), "n": 13, "price": 5, "note": "theirs"} == k.view(key)
    assert len(k.outbox) == 0
    await k.close()


@pytest.mark.parametrize("choice", ["mine", "theirs"])
@pytest.mark.parametrize("what", ["delete", "key"])
async def test_what_was_made_of_my_row_takes_theirs_from_its_key_only_when_told(
    stack: LocalStack, table: str, kernel: MakeKernel, what: str, choice: Any
) -> None:
    k = kernel()
    key, new = str(uuid.uuid4()), str(uuid.uuid4())
    k.editor.insert({"id": key, "note": "mine", "tags": []})
    stack.sql(f"insert into {table} (id, note) values ('{key}', 'theirs')")
    await k.drain()
    if what == "delete":
        k.editor.delete(key)
    else:
        k.editor.edit(key, {"id": new})
    k.editor.resolve(key, choice="theirs")
    await k.drain()
    assert row(stack, table, key)["note"] == "theirs"  # type: ignore[index]  # it is there
    assert states(k) == ["asking"]
    (asked,) = k.editor.open_conflicts()
    assert asked.record["rule"] == "made of another row"
    assert k.outbox.ops()[0].error == question(asked.record)
    k.editor.resolve(key, choice=choice)
    await k.drain()
    k.read()
    left, moved = row(stack, table, key), row(stack, table, new)
    if choice == "theirs":
        assert left is not None
        assert (left["note"], moved) == ("theirs", None)
    else:
        assert left is None
        assert (moved or {}).get("note") == (None if what == "delete" else "theirs")
    assert set(k.table.keys()) == {one for one, there in ((key, left), (new, moved)) if there}
    assert len(k.outbox) == 0
    await k.close()


async def test_a_changed_key_moves_the_row(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    new = str(uuid.uuid4())
    k.editor.edit(key, {"id": new})
    k.editor.edit(new, {"note": "after the move"})
    await k.drain()
    assert row(stack, table, key) is None
    assert row(stack, table, new)["note"] == "after the move"  # type: ignore[index]  # it is there
    assert k.view(new)["note"] == "after the move"
    await k.close()


@pytest.mark.parametrize("mine", [True, False])
async def test_a_changed_key_of_a_row_they_deleted_is_decided_once(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel, mine: bool
) -> None:
    k = kernel()
    new = str(uuid.uuid4())
    k.editor.edit(key, {"id": new})
    k.editor.edit(new, {"note": "mine"})
    stack.sql(f"delete from {table} where id = %s", key)
    await k.drain()
    assert states(k) == ["asking"]
    k.read()  # the view hears of the deletion
    k.editor.resolve(new, choice="mine" if mine else "theirs")
    await k.drain()
    after = row(stack, table, new)
    assert (after or {}).get("note") == ("mine" if mine else None)
    assert (k.editor.row(new) is not None) == mine
    k.read()
    assert k.overlay.edits == []
    assert list(k.table.keys()) == ([new] if mine else [])
    await k.close()


async def test_a_changed_key_whose_answer_was_lost_is_recognised_under_the_new_key(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    new = str(uuid.uuid4())
    k.editor.edit(key, {"id": new, "note": "mine", "n": 12})
    proxy.rules = (Answer(status=404, path="/rpc/"), *lost_answers())
    await k.worker.step()
    proxy.heal()
    stack.sql(f"update {table} set n = n + 100 where id = %s", new)
    k.worker.wake()
    await k.drain()
    assert len(k.outbox) == 0, "nobody is asked"
    after = row(stack, table, new)
    assert after is not None
    assert (after["note"], after["n"]) == ("mine", 112)
    assert k.view(new)["n"] == 112
    await k.close()


async def test_an_old_key_is_given_to_another_row_while_offline(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    other, moved = k.editor.insert({"note": "other", "tags": []}), str(uuid.uuid4())
    await k.drain()
    k.editor.edit(key, {"id": moved})
    k.editor.edit(other, {"id": key})
    k.editor.edit(key, {"note": "other, there"})
    k.editor.insert({"id": other, "note": "third", "tags": []})
    seen = {moved: "old", key: "other, there", other: "third"}
    assert {one: k.view(one)["note"] for one in k.table.keys()} == seen  # type: ignore[index]  # noqa: SIM118  a Table is no dict
    await k.drain()
    found = {str(one): note for one, note in stack.sql(f"select id, note from {table}")}
    assert found == seen
    k.read()
    assert {one: k.view(one)["note"] for one in k.table.keys()} == seen  # type: ignore[index]  # noqa: SIM118  a Table is no dict
    await k.close()


async def test_a_poison_write_is_kept_with_the_servers_words_and_the_others_drain(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    k = kernel()
    keys = [k.editor.insert({"note": str(i), "tags": []}) for i in range(25)]
    await k.drain()
    k.editor.edit(keys[12], {"n": -5})
    await k.drain()
    (failed,) = k.outbox.ops()
    assert failed.state == "failed"
    assert "n_check" in failed.error
    assert failed.values == {"n": -5}
    for number, one in enumerate(keys):
        k.editor.edit(one, {"note": f"later {number}"})
    await k.drain()
    notes = stack.sql(f"select count(*) from {table} where note like 'later%%'")
    assert notes == [(24,)], "the others flow on, the failed row's later edit is parked"
    assert ("failed", failed.error) in k.editor.marks().values()
    stack.sql(f"alter table {table} drop constraint {table}_n_check")
    assert k.outbox.retry() == 1
    await k.drain()
    after = row(stack, table, keys[12])
    assert after is not None
    assert (after["n"], after["note"]) == (-5, "later 12")
    await k.close()


WORDS = ["a,b", 'say "x"', "(1)", "back\\slash", "", " ", "x.eq.1", "or(", "null", "ä+&%=#", "*"]
"""Texts that PostgREST's filters have another use for."""


async def test_deletes_leave_together_each_on_the_condition_of_its_own_row(
    stack: LocalStack, table: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    rows = [{"note": word, "tags": [word, "t"], "price": "1.5"} for word in WORDS * 2]
    keys = [k.editor.insert(row) for row in rows] + [k.editor.insert({"tags": []})]
    kept = k.editor.insert({"note": "kept", "tags": []})
    await k.drain()
    before = proxy.counts["DELETE"], proxy.counts["GET"]
    for key in keys:
        k.editor.delete(key)
    await asyncio.sleep(0.02)
    stack.sql(f"update {table} set note = 'still needed' where id = %s", keys[3])
    await k.drain()
    left = dict(stack.sql(f"select id::text, note from {table}"))
    assert left == {str(keys[3]): "still needed", str(kept): "kept"}
    assert k.editor.conflicts["rule"].tolist() == ["lww"]
    assert k.view(keys[3])["note"] == "still needed"
    requests = proxy.counts["DELETE"] - before[0], proxy.counts["GET"] - before[1]
    assert requests == (3, 1), (
        "23 rows: as many as a URL has room for; and the one that was changed"
    )
    await k.close()


async def test_a_delete_that_is_refused_holds_up_none_that_leave_with_it(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    k = kernel()
    keys = [k.editor.insert({"note": str(n), "tags": []}) for n in range(6)]
    await k.drain()
    stack.sql(f"create table {table}_child (id int primary key, parent uuid references {table})")
    stack.sql(f"insert into {table}_child values (1, %s)", keys[2])
    for key in keys:
        k.editor.delete(key)
    await k.drain()
    (failed,) = k.outbox.ops()
    assert failed.key == {"id": str(keys[2])}
    assert "violates foreign key" in failed.error
    assert stack.sql(f"select id::text from {table}") == [(str(keys[2]),)]
    stack.sql(f"drop table {table}_child")
    k.outbox.retry()
    await k.drain()
    assert stack.sql(f"select * from {table}") == []
    await k.close()


async def test_deletes_whose_answer_was_lost_are_recognised(
    stack: LocalStack, table: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    keys = [k.editor.insert({"note": str(n), "tags": []}) for n in range(8)]
    await k.drain()
    proxy.rules = lost_answers()
    for key in keys:
        k.editor.delete(key)
    await k.worker.step()
    assert stack.sql(f"select * from {table}") == []
    assert [op.sent for op in k.outbox.ops()] == [True] * 8
    stack.sql(f"insert into {table} (id, note) values (%s, 'made anew by somebody')", keys[5])
    proxy.heal()
    k.worker.wake()
    await k.drain()
    assert stack.sql(f"select note from {table}") == [("made anew by somebody",)]
    assert len(k.outbox) == 0
    await k.close()


class TenAtOnce:
    """A server that answers updates when ten of them are there, in one turn of the loop."""

    def __init__(self) -> None:
        self.requests = 0
        self.there = asyncio.Event()

    async def send(self, request: Request) -> Reply:
        self.requests += 1
        if self.requests % 10 == 0:
            self.there.set()
        await self.there.wait()
        return Reply(200, [request.body])


async def test_what_is_answered_together_is_put_down_in_one_commit(
    stack: LocalStack, table: str, kernel: MakeKernel
) -> None:
    stack.sql(f"insert into {table} (id) select gen_random_uuid() from generate_series(1, 10)")
    k = kernel()
    with k.editor.batch():
        for number, key in enumerate(list(k.table.keys())):
            k.editor.edit(key, {"note": f"mine {number}"})
    commits: list[int] = []
    k.outbox.subscribe(lambda: commits.append(len(k.outbox)))
    worker = Worker(k.outbox, TenAtOnce(), k.editing, clock=k.clock)
    assert await asyncio.wait_for(worker.step(), scaled(10)) == 10
    assert commits == [0]
    await k.close()


async def test_editing_what_was_refused_fixes_it(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.edit(key, {"n": -1})
    await k.drain()
    assert states(k) == ["failed"]
    k.editor.edit(key, {"n": 42})
    await k.drain()
    assert states(k) == []
    assert row(stack, table, key)["n"] == 42  # type: ignore[index]  # it is there
    await k.close()


async def test_a_policy_that_forbids_the_update_is_said_not_tried_forever(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    stack.sql(f"alter table {table} enable row level security")
    stack.sql(f"create policy look on {table} for select using (true)")
    k = kernel()
    k.editor.edit(key, {"note": "mine"})
    made = k.editor.insert({"note": "mine", "tags": []})
    await k.drain()
    assert states(k) == ["failed", "failed"]
    first, second = (op.error for op in k.outbox.ops())
    assert "row-level security" in first
    assert "row-level security" in second
    k.editor.discard(key)
    k.editor.discard(made)
    assert k.view(key)["note"] == "old"
    await k.close()


@pytest.mark.parametrize("with_ledger", [True, False])
async def test_a_lost_answer_is_recognised(
    stack: LocalStack,
    table: str,
    key: str,
    kernel: MakeKernel,
    proxy: Proxy,
    with_ledger: bool,
    request: pytest.FixtureRequest,
) -> None:
    if with_ledger:
        request.getfixturevalue("ledger")
    k = kernel(url=proxy.url)
    if with_ledger:  # somebody signed in, whose ledger is his own
        token = stack.token("authenticated", str(uuid.uuid4()))
        k.credentials.access_token = token
    other = k.editor.insert({"note": "x", "tags": []})
    k.editor.edit(key, {"n": 11})
    await k.drain()
    proxy.rules = lost_answers()
    k.editor.edit(key, {"note": "mine", "n": 15})
    k.editor.delete(other)
    made = k.editor.insert({"note": "made", "tags": []})
    for _ in range(3):
        await k.worker.step()
        k.worker.wake()
    after = row(stack, table, key)
    assert after is not None
    assert after["n"] == 15
    assert len(k.outbox) > 0
    stack.sql(f"update {table} set n = n + 100 where id = %s", key)
    proxy.heal()
    k.worker.wake()
    await k.drain()
    after = row(stack, table, key)
    assert after is not None
    assert after["n"] == 115, "the sum was applied once"
    assert row(stack, table, other) is None
    assert stack.sql(f"select count(*) from {table} where id = %s", made) == [(1,)]
    assert states(k) == ([] if with_ledger else ["asking"])
    if not with_ledger:
        k.editor.resolve(key, choice="theirs")
        await k.drain()
        assert k.view(key)["n"] == 115
    await k.close()


async def test_a_sum_that_never_arrived_is_sent_again_without_a_ledger(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    k.editor.edit(key, {"n": 15})
    # No ledger; then a gateway that may have passed it on.
    proxy.rules = (Answer(status=404, path="/rpc/"), Answer(method="PATCH"))
    await k.worker.step()
    proxy.heal()
    assert k.outbox.ops()[0].sent
    moment = k.outbox.ops()[0].not_before
    k.clock = lambda: moment + 1
    await k.drain()
    assert states(k) == []
    assert row(stack, table, key)["n"] == 15  # type: ignore[index]  # it is there
    await k.close()


async def test_the_network_is_waited_for_and_that_is_no_attempt(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    k.editor.edit(key, {"note": "mine"})
    proxy.down()
    for _ in range(5):
        await k.worker.step()
        k.worker.wake()
    assert k.outbox.ops()[0].attempts == 0
    assert k.worker.outcomes.offline
    proxy.up()
    k.worker.wake()
    await k.drain()
    assert row(stack, table, key)["note"] == "mine"  # type: ignore[index]  # it is there
    await k.close()


async def test_answers_that_say_later_are_obeyed(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    k = kernel(url=proxy.url)
    now = [1_000.0]
    k.clock = lambda: now[0]
    k.editor.edit(key, {"note": "mine"})
    proxy.rules = (Answer(status=429, retry_after=30),)
    assert await k.worker.step() == 0, "nothing came to an end"
    assert await k.worker.step() == 0, "it was told to wait"
    now[0] += 31
    proxy.rules = (Answer(status=503),)
    for attempt in (1, 2):
        await k.worker.step()
        (op,) = k.outbox.ops()
        assert (op.attempts, op.state) == (attempt, "waiting")
        now[0] = op.not_before
    await k.worker.step()
    (op,) = k.outbox.ops()
    assert (op.attempts, op.state, op.error) == (3, "failed", "name resolution failed (HTTP 503)")
    proxy.heal()
    k.outbox.retry()
    await k.worker.step()
    assert row(stack, table, key)["note"] == "mine"  # type: ignore[index]  # it is there
    await k.close()


async def test_a_refused_token_is_refreshed_once_then_asked_for(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.credentials.access_token = stack.token("anon", ttl=-60)
    k.editor.edit(key, {"note": "mine"})
    await k.worker.step()
    assert "401" in k.worker.outcomes.unauthorized
    assert states(k) == ["waiting"]
    assert await k.worker.step() == 0
    k.refreshes.append(k.key)
    k.worker.wake()
    await k.drain()
    assert row(stack, table, key)["note"] == "mine"  # type: ignore[index]  # it is there
    await k.close()


async def test_a_paused_queue_sends_nothing_and_a_running_one_drains_as_it_fills(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k, later = kernel(), kernel()
    loop = asyncio.get_running_loop()
    k.outbox.subscribe(lambda: loop.call_soon_threadsafe(k.worker.waking.set))
    running = asyncio.create_task(k.worker.run())
    k.worker.pause()
    k.editor.edit(key, {"note": "held"})
    await asyncio.sleep(0.3)
    assert row(stack, table, key)["note"] == "old"  # type: ignore[index]  # it is there
    k.worker.resume()
    await asyncio.to_thread(until, lambda: not k.outbox.ops())
    assert row(stack, table, key)["note"] == "held"  # type: ignore[index]  # it is there

    def broken(records: Any) -> None:
        raise RuntimeError("a callback that raises stops nothing")

    k.editor.on_merge.add(broken)
    k.editor.edit(key, {"tags": ["mine"]})
    stack.sql(f"update {table} set tags = '{{theirs}}' where id = %s", key)
    await asyncio.to_thread(until, lambda: not k.outbox.ops())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert later.outbox.lease(k.clock()), "it let go of the lease"
    await later.close()
    await k.close()


async def test_what_was_typed_before_the_crash_is_on_the_screen_after_it(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    k = kernel()
    k.editor.edit(key, {"note": "typed", "n": 12})
    made = k.editor.insert({"note": "also", "tags": []})
    k.outbox._db.close()  # no orderly end
    again = kernel()
    assert again.view(key)["note"] == "typed"
    assert again.view(key)["n"] == 12
    assert again.view(made)["note"] == "also"
    assert again.editor.pending["kind"].tolist() == ["update", "insert"]
    await again.drain()
    assert row(stack, table, key)["note"] == "typed"  # type: ignore[index]  # it is there
    await again.close()


async def test_many_rows_in_a_batch_are_one_commit_and_none_if_it_raises(
    table: str, key: str, kernel: MakeKernel
) -> None:
    import pandas as pd

    k = kernel()
    with k.editor.batch():
        keys = [k.editor.insert({"note": str(i), "tags": []}) for i in range(5)]
        assert len(k.outbox) == 0
    assert len(k.outbox) == 5
    changes = pd.DataFrame({"note": ["x", "y"], "price": [1.0, None]}, index=[keys[0], key])
    assert k.editor.edit_many(changes).changed == 2
    assert k.view(key)["price"] is None

    def change_my_mind() -> None:
        with k.editor.batch():
            k.editor.delete(keys[1])
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError):
        change_my_mind()
    assert k.view(keys[1])["note"] == "1"
    with k.editor.batch():
        k.editor.edit(keys[1], {"note": "in the batch"})
        # Another thread (the network's) goes on meanwhile, and its edits are its own.
        await asyncio.to_thread(k.editor.edit, keys[2], {"note": "beside"})
        await asyncio.to_thread(k.editing.tick)
        assert k.view(keys[2])["note"] == "beside"
    assert k.view(keys[1])["note"] == "in the batch"
    assert k.editor.undo()
    assert k.editor.undo()
    assert k.editor.undo()
    assert (k.view(keys[0])["note"], k.view(key)["note"]) == ("0", "old")
    assert k.editor.undo()
    assert len(k.outbox) == 0
    assert k.editor.row(keys[0]) is None
    assert not k.editor.undo()
    await k.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n": "many"}, "'n'"),
        ({"n": 2**63}, "'n'"),
        ({"price": "a lot"}, "'price'"),
        ({"updated_at": "soon"}, "'updated_at'"),
        ({"tags": "a"}, "'tags'"),
        ({"colour": "red"}, "no column 'colour'"),
        ({"doc": object()}, "JSON"),
    ],
)
async def test_a_value_that_the_column_cannot_take_is_refused_before_it_is_queued(
    key: str, kernel: MakeKernel, values: dict[str, Any], words: str
) -> None:
    k = kernel()
    with pytest.raises(InvalidEditError, match=words):
        k.editor.edit(key, values)
    assert len(k.outbox) == 0
    assert k.view(key)["note"] == "old"
    with pytest.raises(InvalidEditError, match="no row"):
        k.editor.edit(str(uuid.uuid4()), {"note": "x"})
    await k.close()


async def test_what_another_kernel_edits_is_seen_here_and_what_it_sends_is_settled(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    here, there = kernel("same"), kernel("same")
    here.editor.edit(key, {"note": "mine at first"})
    there.editing.elsewhere()
    assert there.view(key)["note"] == "mine at first"
    here.editor.edit(key, {"note": "mine"})  # one with the first, which has not left
    there.editing.elsewhere()
    assert there.view(key)["note"] == "mine"
    await there.drain()
    assert row(stack, table, key)["note"] == "mine"  # type: ignore[index]  # it is there
    assert here.overlay.edits
    here.editing.elsewhere()
    assert here.overlay.edits == []
    assert here.view(key)["note"] == "mine"
    await here.close()
    await there.close()


async def test_calls_and_broadcasts_go_the_same_way(
    stack: LocalStack, table: str, kernel: MakeKernel, proxy: Proxy
) -> None:
    stack.sql(
        f"create function {table}_call(v int) returns void language sql as "
        f"$$ insert into {table} (id, n) values (gen_random_uuid(), v) $$"
    )
    stack.sql(f"grant execute on function {table}_call to anon")
    stack.sql("notify pgrst, 'reload schema'")
    k = kernel(url=proxy.url)
    assert k.editing.call(f"{table}_call", {"v": 1}, repeatable=False).queued
    await k.drain()
    proxy.rules = lost_answers()
    k.editing.call(f"{table}_call", {"v": 2}, repeatable=False)
    await k.worker.step()
    proxy.heal()
    k.worker.wake()
    await k.drain()
    (lost,) = k.outbox.ops()
    assert lost.state == "failed"
    assert "may have run" in lost.error
    assert stack.sql(f"select n from {table} order by n") == [(1,), (2,)]
    assert k.outbox.retry(lost.id) == 1
    await k.drain()
    assert stack.sql(f"select n from {table} order by n") == [(1,), (2,), (2,)], "it was asked for"
    assert len(k.outbox) == 0

    sent = [k.editing.broadcast("room", "price", {"n": n}) for n in range(25)]
    k.editing.broadcast("room", "late", {}, ttl=-1.0)
    assert all(result.queued and result.id for result in sent)
    posts = proxy.counts["POST"]
    await k.drain()
    assert proxy.counts["POST"] - posts == 3, "ten at a time"
    assert len(k.outbox) == 0
    await k.close()


async def test_a_worker_that_is_woken_as_it_is_cancelled_ends(kernel: MakeKernel) -> None:
    k = kernel()
    for turns in range(6):  # of the loop between the two
        running = asyncio.create_task(k.worker.run())
        await asyncio.sleep(0.1)
        k.worker.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait([running], timeout=scaled(2))
        assert done, f"{turns} turns of the loop"
    await k.close()


async def test_what_is_written_while_the_table_is_read_for_the_first_time_is_in_its_first_view(
    stack: LocalStack, table: str, key: str, kernel: MakeKernel
) -> None:
    before = kernel()
    before.editor.edit(key, {"note": "mine"})
    made = before.editor.insert({"note": "made"})
    gone = str(uuid.uuid4())
    stack.sql(f"insert into {table} (id) values (%s)", gone)
    before.read()
    before.editor.delete(gone)
    anew = kernel(opened=False)
    anew.read()
    await anew.drain()
    anew.editor.attach(anew.overlay)
    assert anew.view(key)["note"] == "mine"
    assert anew.view(made)["note"] == "made"
    assert anew.editor.row(gone) is None
    await before.close()
    await anew.close()
