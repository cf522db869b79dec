"""`kill -9` at any moment, with a proxy that loses answers: nothing is lost or sent twice (promises, edits).

Each round starts kernels on the queue's file and kills them in the middle of editing and sending.
Notes are each kernel's own; counters are shared by all of them and raised by amounts of 40 random
bits, so that the sum tells which increments were applied, and how often.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from notebook_rt.edits.statements import difference
from notebook_rt.local import LocalStack
from tests.outbox.kernel import Kernel, planned, row_of
from tests.proxy import Cut, Proxy, lost_answers

ROOT = Path(__file__).parents[2]


class Said:
    """What killed kernels said: ``word?`` before they did something, ``word!`` after it returned."""

    def __init__(self) -> None:
        self.tried: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.acknowledged: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))

    def hear(self, lines: Iterable[str]) -> None:
        for line in lines:
            word, key, number = line.split()
            heard = self.tried if word.endswith("?") else self.acknowledged
            heard[word[:-1]][key].append(int(number))


def sums_of(numbers: Iterable[int]) -> set[int]:
    """The sums of every subset."""
    sums = {0}
    for number in numbers:
        sums |= {number + one for one in sums}
    return sums


async def kill_again_and_again(
    stack: LocalStack,
    table: str,
    proxy: Proxy,
    path: Path,
    *,
    rounds: int,
    kernels: int,
) -> tuple[Said, Kernel]:
    counters = [str(uuid.uuid4()) for _ in range(3)]
    for counter in counters:
        stack.sql(f"insert into {table} (id, note) values (%s, 'counter')", counter)
    proxy.rules = (*lost_answers(0.2), Cut(chance=0.05))
    said, dice = Said(), random.Random(7)
    arguments = [stack.url, proxy.url, stack.anon_key, str(path), table]
    nursery = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.outbox.kernel", *arguments],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    for _ in range(rounds):
        nursery.stdin.write(b"go\n" * kernels)
        pids: list[int] = []
        inserted = 0
        while inserted < kernels:  # every one is up and editing
            line = (await nursery.stdout.readline()).decode()
            if line.startswith("pid"):
                pids.append(int(line.split()[-1]))
            else:
                said.hear([line])
                inserted += line.startswith("insert!")
        await asyncio.sleep(0.05 + 0.4 * dice.random())
        for number, pid in enumerate(pids):
            # With several, one ends in good order: it must take nothing of the others along.
            os.kill(pid, signal.SIGTERM if number == 3 else signal.SIGKILL)
        nursery.stdin.write(b"reap\n")
        while not (line := (await nursery.stdout.readline()).decode()).startswith("reaped"):
            said.hear([line])
    nursery.stdin.close()
    await nursery.wait()
    proxy.heal()
    last = Kernel(stack.url, stack.anon_key, path, table).open()
    await last.drain(60)
    return said, last


def check_notes(stack: LocalStack, table: str, said: Said) -> None:
    found = {str(key): note for key, note in stack.sql(f"select id, note from {table}")}
    for key in said.acknowledged["insert"]:
        assert key in found, "an acknowledged row is there (once: it is the key)"
        latest = max(said.acknowledged["note"].get(key, [0]))
        possible = {str(latest), str(max(said.tried["note"].get(key, [0])))}
        assert found[key] in possible, "the last acknowledged value, or the one in doubt"


def check_counters(stack: LocalStack, table: str, said: Said) -> int:
    """Every acknowledged increment once; one in doubt (said, not acknowledged) once or not."""
    total = 0
    for counter, n in stack.sql(f"select id, n from {table} where note = 'counter'"):
        acknowledged = said.acknowledged["add"].get(str(counter), [])
        doubtful = set(said.tried["add"].get(str(counter), [])) - set(acknowledged)
        assert n - sum(acknowledged) in sums_of(doubtful)
        total += len(acknowledged)
    return total


@pytest.mark.parametrize(
    "rounds",
    [pytest.param(12, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.nightly)],
)
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ledger")
async def test_kills_lose_nothing_and_repeat_nothing(
    stack: LocalStack, table: str, proxy: Proxy, tmp_path: Path, rounds: int
) -> None:
    said, last = await kill_again_and_again(
        stack, table, proxy, tmp_path / "queue", rounds=rounds, kernels=1
    )
    assert last.outbox.ops() == []
    check_notes(stack, table, said)
    assert check_counters(stack, table, said) > rounds
    await last.close()


@pytest.mark.parametrize(
    "rounds", [pytest.param(8, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ledger")
async def test_four_kernels_on_one_file_killed_again_and_again(
    stack: LocalStack, table: str, proxy: Proxy, tmp_path: Path, rounds: int
) -> None:
    said, last = await kill_again_and_again(
        stack, table, proxy, tmp_path / "queue", rounds=rounds, kernels=4
    )
    assert last.outbox.ops() == []
    check_notes(stack, table, said)
    assert check_counters(stack, table, said) > 2 * rounds
    await last.close()


@pytest.mark.parametrize(
    "rounds", [pytest.param(6, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(300)
async def test_without_the_ledger_every_increment_is_on_the_server_or_in_the_queue(
    stack: LocalStack, table: str, proxy: Proxy, tmp_path: Path, rounds: int
) -> None:
    said, last = await kill_again_and_again(
        stack, table, proxy, tmp_path / "queue", rounds=rounds, kernels=1
    )
    check_notes(stack, table, said)
    kept = last.outbox.ops()
    assert all(op.state == "asking" or op.blocked for op in kept)
    for counter, n in stack.sql(f"select id, n from {table} where note = 'counter'"):
        acknowledged = said.acknowledged["add"].get(str(counter), [])
        doubtful = set(said.tried["add"].get(str(counter), [])) - set(acknowledged)
        waiting = [(op, int(difference(op, "n"))) for op in kept if str(counter) in op.lane]
        # What asks is in already or not, and that is what it asks; then it is counted twice here.
        asks = {amount for op, amount in waiting if op.state == "asking"}
        over = n + sum(amount for _, amount in waiting) - sum(acknowledged)
        assert over in {one + twice for one in sums_of(doubtful) for twice in sums_of(asks)}
    await last.close()


async def drain_in_order(
    stack: LocalStack, table: str, path: Path, make: Callable[..., Kernel], edits: int
) -> None:
    """Edits of many rows, a `kill -9`, and the order in which another process brings them over."""
    kinds = planned(edits)
    rows = [row_of(number) for number, kind in enumerate(kinds) if kind != "insert"]
    stack.sql(f"insert into {table} (id, note) select unnest(%s::uuid[]), 'old'", rows)
    stack.sql(f"create table {table}_seen (number serial, id uuid)")
    stack.sql(f"grant all on {table}_seen, {table}_seen_number_seq to anon")
    stack.sql(
        f"create function {table}_log() returns trigger language plpgsql as $$ begin "
        f"insert into {table}_seen (id) values (coalesce(new.id, old.id)); "
        "return coalesce(new, old); end $$"
    )
    stack.sql(
        f"create trigger log after insert or update or delete on {table} for each row "
        f"execute function {table}_log()"
    )
    typist = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", TYPIST, stack.url, stack.anon_key, str(path), table, str(edits)],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert typist.stdout is not None
    assert await typist.stdout.readline() == b"typed\n"
    typist.kill()
    await typist.wait()

    again = make()
    assert len(again.outbox) == edits
    final = {row_of(number): str(number) for number, kind in enumerate(kinds) if kind != "delete"}
    assert {key: again.view(key)["note"] for key in again.table.keys()} == final  # noqa: SIM118  a Table is no dict
    start = time.perf_counter()
    await again.drain(seconds=edits / 20 + 10)
    took = time.perf_counter() - start
    print(f"{edits / took:,.0f} writes/s drained")
    seen = [
        uuid.UUID(str(key)).int
        for (key,) in stack.sql(f"select id from {table}_seen order by number")
    ]
    # Updates of different rows leave ten at a time, and so do deletes, in one statement; every kind
    # keeps its place among the others.
    runs = (list(run) for _, run in itertools.groupby(seen, key=lambda number: kinds[number]))
    in_order = (run if kinds[run[0]] == "insert" else sorted(run) for run in runs)
    assert list(itertools.chain.from_iterable(in_order)) == list(range(edits))
    assert {str(key): note for key, note in stack.sql(f"select id, note from {table}")} == final
    assert len(again.outbox) == 0
    await again.close()
    stack.sql(f"drop table {table}_seen")


TYPIST = """
import sys
from tests.outbox.kernel import type_ahead
type_ahead(*sys.argv[1:])
print("typed", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_thousand_queued_writes_survive_a_kill_and_drain_in_order(
    stack: LocalStack, table: str, kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    await drain_in_order(stack, table, tmp_path / "a.sqlite3", kernel, 1_000)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_ten_thousand_queued_writes_survive_a_kill_and_drain_in_order(
    stack: LocalStack, table: str, kernel: Callable[..., Kernel], tmp_path: Path
) -> None:
    await drain_in_order(stack, table, tmp_path / "a.sqlite3", kernel, 10_000)
