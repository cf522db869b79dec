"""The queue's file: durable, ordered by row, coalesced, leased, private, and robust."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from notebook_rt.edits.ops import Op, Put
from notebook_rt.errors import QueueError
from notebook_rt.outbox import file
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.lease import LeaseLostError
from notebook_rt.outbox.queue import TURNS, Outbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "queue.sqlite3"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    made = Outbox(path)
    yield made
    made.close()


def update(op: str, key: int, base: dict[str, Any] | None = None, **values: Any) -> Op:
    before = base if base is not None else dict.fromkeys(values, 0)
    types = {"id": "int8", **dict.fromkeys(values, "int8")}
    return Op(op, "update", "public", "t", 0.0, {"id": key}, values, before, types)


def insert(op: str, key: int, **values: Any) -> Op:
    return replace(update(op, key, {}, id=key, **values), kind="insert")


def delete(op: str, key: int, **base: Any) -> Op:
    return Op(op, "delete", "public", "t", 0.0, {"id": key}, {}, base)


def broadcast(op: str, ttl: float | None = None, topic: str = "room") -> Op:
    return Op(op, "broadcast", "realtime", topic, 0.0, values={"n": op}, event="e", expires_at=ttl)


def ids(ops: list[Op]) -> list[str]:
    return [op.id for op in ops]


def _anybodys(put: Put) -> Put:
    """``put``, whichever session it is of."""
    op, before = (None if one is None else replace(one, session="") for one in (put.op, put.before))
    return replace(put, op=op, before=before)


def test_many_put_at_once_are_as_if_put_one_by_one(outbox: Outbox, tmp_path: Path) -> None:
    outbox.put(update("old", 3, n=1))
    ops = [
        update("a", 1, n=1),
        broadcast("say"),
        update("c", 1, {"n": 1}, n=3),  # one with "a"
        update("d", 3, {"n": 1}, n=4),  # one with "old"
        update("e", 1, {"n": 7}, n=8),  # made on something else: behind "a"
        insert("b", 2, n=2),
        delete("f", 2, n=2),  # takes "b" back
        insert("g", 4, n=2),
        update("h", 3, {"n": 4}, n=5),  # not one with "old": it would overtake "g"
        *(update(f"u{key}", key, n=key) for key in range(10, 1200)),
        broadcast("again"),
    ]
    puts = outbox.put(*ops)
    single = Outbox(tmp_path / "single.sqlite3")
    single.put(update("old", 3, n=1))
    theirs = [put for op in ops for put in single.put(op)]
    assert [_anybodys(put) for put in puts] == [_anybodys(put) for put in theirs]
    assert ids(outbox.ops())[:7] == ["old", "a", "say", "e", "g", "h", "u10"]
    assert [replace(op, seq=0, session="") for op in outbox.ops()] == [
        replace(op, seq=0, session="") for op in single.ops()
    ]
    assert {op.id for op in outbox.ops() if op.blocked} == {"e", "h", "again"}
    single.close()


@pytest.mark.parametrize(
    ("between", "one"),
    [
        (update("x", 2, n=1), True),
        (broadcast("x"), True),
        (insert("x", 2, n=1), False),
        (delete("x", 2), False),
        (update("x", 2, id=3), False),  # its key
        (replace(insert("x", 2), kind="rpc", key={}, lane=""), False),
    ],
    ids=["update", "broadcast", "insert", "delete", "key", "call"],
)
def test_an_edit_joins_what_waits_only_where_it_overtakes_nothing(
    outbox: Outbox, between: Op, one: bool
) -> None:
    outbox.put(insert("a", 1, n=1))
    outbox.put(between)
    outbox.put(update("b", 1, {"n": 1}, up=2))
    assert ids(outbox.ops()) == (["a", "x"] if one else ["a", "x", "b"])


def test_what_was_put_is_there_for_another_kernel_as_it_was(outbox: Outbox, path: Path) -> None:
    op = replace(update("a", 1, n=5), rules={"n": "delta"}, made_at=12.5)
    outbox.put(op)
    other = Outbox(path)
    (found,) = other.ops(schema="public", target="t")
    assert found == replace(op, seq=1, lane=found.lane, session=found.session)
    assert found.session
    other.close()


def test_the_file_and_its_log_are_for_the_owner_only(outbox: Outbox, path: Path) -> None:
    outbox.put(update("a", 1, n=1))
    for one in path.parent.iterdir():
        assert stat.S_IMODE(one.stat().st_mode) == 0o600, one
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_edits_of_one_row_that_have_not_left_become_one(outbox: Outbox) -> None:
    outbox.put(update("a", 1, n=1))
    outbox.put(update("b", 2, n=1))
    (put,) = outbox.put(update("c", 1, {"n": 1, "m": 7}, n=2, m=8))
    assert put.op is not None
    assert put.before is not None
    assert (put.op.id, put.before.values) == ("a", {"n": 1})
    assert ids(outbox.ops()) == ["a", "b"]
    assert outbox.ops()[0].values == {"n": 2, "m": 8}
    assert outbox.ops()[0].base == {"n": 0, "m": 7}


def test_what_has_left_is_not_touched_by_what_follows(outbox: Outbox) -> None:
    outbox.put(update("a", 1, n=1))
    assert ids(outbox.take(10, 0.0)) == ["a"]
    outbox.put(update("b", 1, {"n": 1}, n=2))
    assert ids(outbox.ops()) == ["a", "b"]
    assert outbox.take(10, 0.0)[0].id == "a", "b waits for a"
    outbox.settle(outbox.ops()[0], {"id": 1, "n": 1})
    assert ids(outbox.take(10, 0.0)) == ["b"]
    assert outbox.outcome("a") == (True, {"id": 1, "n": 1})


def test_inserts_and_deletes_that_have_not_left_fold_together(outbox: Outbox) -> None:
    outbox.put(insert("a", 1, n=1))
    outbox.put(update("b", 1, {"n": 1}, n=2))
    assert outbox.ops()[0].kind == "insert"
    assert outbox.ops()[0].values == {"id": 1, "n": 2}
    (put,) = outbox.put(delete("c", 1, id=1, n=2))
    assert put.op is None
    assert len(outbox) == 0
    outbox.put(update("d", 2, n=1))
    outbox.put(delete("e", 2, id=2, n=1))
    (left,) = outbox.ops()
    assert (left.id, left.kind, left.base) == ("d", "delete", {"id": 2, "n": 0})


def test_undo_takes_back_only_what_has_not_left(outbox: Outbox) -> None:
    a = outbox.put(update("a", 1, n=1))
    b = outbox.put(update("b", 1, {"n": 1}, n=2))
    assert outbox.take_back(b) == b
    assert outbox.ops()[0].values == {"n": 1}
    outbox.take(1, 0.0)
    assert outbox.take_back(a) == []
    assert len(outbox) == 1


def test_a_refused_operation_parks_the_later_ones_of_its_row_only(outbox: Outbox) -> None:
    outbox.put(update("a", 1, n=1))
    (a,) = outbox.take(10, 0.0)
    outbox.put(update("b", 1, {"n": 1}, n=2), update("c", 2, n=1))
    outbox.back(replace(a, state="failed", error="23514: check"))
    assert ids(outbox.take(10, 0.0)) == ["c"]
    assert outbox.counts() == {"waiting": 2, "failed": 1, "asking": 0}
    assert outbox.retry("a") == 1
    assert ids(outbox.take(10, 0.0))[0] == "a"
    outbox.back(replace(a, state="failed", error="again"))
    assert ids(outbox.discard("a")) == ["a"]
    assert "b" in ids(outbox.take(10, 0.0))


def test_discarding_an_insert_drops_the_edits_that_stand_on_it(outbox: Outbox) -> None:
    outbox.put(insert("a", 1, n=1))
    outbox.take(10, 0.0)
    outbox.put(update("b", 1, {"n": 1}, n=2))
    assert ids(outbox.discard("a")) == ["a", "b"]
    assert len(outbox) == 0


def test_a_mended_operation_leaves_again(outbox: Outbox) -> None:
    outbox.put(update("a", 1, n=-1))
    (a,) = outbox.take(10, 0.0)
    outbox.back(replace(a, state="failed", error="n must be positive", attempts=1))
    assert outbox.mend(replace(a, values={"n": 1}))
    (again,) = outbox.take(10, 0.0)
    assert (again.values, again.error, again.attempts) == ({"n": 1}, "", 0)
    assert not outbox.mend(again), "it waits: there is nothing to mend"


def test_updates_are_taken_for_several_turns_and_broadcasts_for_one(outbox: Outbox) -> None:
    """Between two takings nothing is under way; but what has left can no longer be taken back."""
    outbox.put(*(update(f"u{n}", n, n=n + 1) for n in range(400)))
    taken = outbox.take(10, 0.0)
    assert 4 * 10 <= len(taken) <= TURNS * 10
    for op in taken:
        outbox.settle(op)
    assert len(outbox.take(1, 0.0)) == 1, "offline, one tries the network"
    for op in outbox.take(1000, 0.0):
        outbox.settle(op)
    outbox.put(*(broadcast(f"b{n}") for n in range(40)))
    assert len(outbox.take(10, 0.0)) == 10


def test_broadcasts_of_a_topic_leave_together_in_order_until_their_time_is_over(
    outbox: Outbox,
) -> None:
    outbox.put(*(broadcast(str(n), ttl=50.0 if n == 3 else None) for n in range(15)))
    taken = outbox.take(10, now=60.0)
    assert ids(taken) == ["0", "1", "2", "4", "5", "6", "7", "8", "9", "10"]
    for op in taken:
        outbox.settle(op)
    assert ids(outbox.take(10, now=60.0)) == ["11", "12", "13", "14"]


def test_one_kernel_at_a_time_sends_and_a_late_one_is_refused(path: Path) -> None:
    first, second = Outbox(path, kernel="elsewhere:1:a"), Outbox(path, kernel="elsewhere:2:b")
    first.put(update("a", 1, n=1))
    (op,) = first.take(10, now=100.0)
    assert second.take(10, now=110.0) == [], "the first has the lease"
    (again,) = second.take(10, now=120.0)
    assert again.sent, "it left before, and nobody knows what became of it"
    with pytest.raises(LeaseLostError):
        first.settle(op)
    second.settle(again)
    assert len(first) == 0
    second.release()
    assert first.lease(now=121.0)
    first.close()
    second.close()


def test_only_another_kernels_commit_is_news(outbox: Outbox, path: Path) -> None:
    before = outbox.changed()
    outbox.put(update("a", 1, n=1))
    outbox.flush()
    for op in outbox.take(10, 0.0):
        outbox.settle(op)
    assert outbox.changed() == before
    other = Outbox(path)
    other.put(update("b", 2, n=1))
    assert outbox.changed() != before
    other.close()


def test_a_dead_kernel_holds_nobody_up(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = os.uname().nodename
    dead, living = Outbox(path, kernel=f"{host}:{process.pid}:x"), Outbox(path)
    dead.put(update("a", 1, n=1))
    assert dead.lease(now=100.0)
    assert living.take(10, now=100.5)
    dead.close()
    living.close()


def test_what_cannot_leave_yet_is_synced_by_a_flush(outbox: Outbox, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    for number in range(3):
        outbox.put(update(str(number), number, n=1))
        before = log.read_bytes()
        outbox.flush()
        assert log.read_bytes() != before, "a commit that writes nothing syncs nothing"
    before = log.read_bytes()
    outbox.flush()
    assert log.read_bytes() == before, "there was nothing to sync"


def test_a_full_disk_is_said_and_nothing_of_it_is_kept(outbox: Outbox) -> None:
    outbox.put(update("a", 1, n=1))
    (pages,) = outbox._db.execute("pragma page_count").fetchone()
    outbox._db.execute(f"pragma max_page_count = {pages + 2}")
    with pytest.raises(QueueError, match="disk is full"):
        outbox.put(update("x", 7, n=1), *(update(str(n), n, text="x" * 900) for n in range(8, 99)))
    assert ids(outbox.ops()) == ["a"], "all or none"
    outbox._db.execute("pragma max_page_count = 1000000")
    outbox.put(update("b", 2, n=1))


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QueueError, match="queue_path"):
        Outbox(tmp_path / "file" / "queue.sqlite3")


def test_an_older_file_is_brought_up_and_a_newer_one_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Outbox(path)
    first.put(update("a", 1, n=1))
    first.close()
    steps = [*file.MIGRATIONS, "alter table ops add column colour text not null default 'red'"]
    monkeypatch.setattr(file, "MIGRATIONS", steps)
    second = Outbox(path)
    assert ids(second.ops()) == ["a"]
    second.close()
    with sqlite3.connect(path) as db:
        assert db.execute("select colour from ops").fetchall() == [("red",)]
    monkeypatch.undo()
    with pytest.raises(QueueError, match="newer"):
        Outbox(path)


def test_the_file_belongs_to_one_project_and_login() -> None:
    one = file.path_for(Owner("https://x.supabase.co", "anon"))
    assert one == file.path_for(Owner("https://x.supabase.co/", "anon"))
    others = {
        one,
        file.path_for(Owner("https://y.supabase.co", "anon")),
        file.path_for(Owner("https://x.supabase.co", "6f1c")),
    }
    assert len(others) == 3
    assert ".." not in file.path_for(Owner("https://../../etc", "x")).name


def test_a_forked_child_does_not_touch_its_parents_file(outbox: Outbox) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            outbox.put(update("child", 1, n=1))
        except QueueError as error:
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(outbox) == 0


WRITERS = """
import itertools, os, sys
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.queue import Outbox

def write(name):
    outbox = Outbox(sys.argv[1])
    for number in itertools.count():
        key = f"{name}-{number}"
        outbox.put(Op(key, "update", "public", "t", 0.0, {"id": key}, {"n": number}, {"n": 0}))
        os.write(1, f"put {key}\\n".encode())

for name in map(str.strip, sys.stdin):  # forked: an interpreter that imports takes a second
    if name != "reap":
        pid = os.fork()
        if not pid:
            write(name)
        os.write(1, f"pid {pid}\\n".encode())
        continue
    for _ in range(4):
        os.wait()
    os.write(1, b"reaped all\\n")
"""
"""Four processes a round, each of which puts until it is killed; ``reap`` waits for their ends."""


PATIENT = """
import sys
from pathlib import Path
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.queue import Outbox
outbox = Outbox(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.readline()
outbox.put(Op("patient", "update", "public", "t", 0.0, {"id": 1}, {"n": 1}, {"n": 0}))
print("put", flush=True)
sys.stdin.readline()
"""


def test_a_kernel_that_ends_takes_nothing_along_that_others_write(path: Path) -> None:
    first = Outbox(path)
    patient = subprocess.Popen(
        [sys.executable, "-c", PATIENT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert patient.stdin is not None
    assert patient.stdout is not None
    assert patient.stdout.readline() == "open\n"
    first.put(update("first", 2, n=1))
    first.close()  # not the last on the file: the log must stay
    patient.stdin.write("\n")
    patient.stdin.flush()
    assert patient.stdout.readline() == "put\n"
    patient.kill()
    patient.communicate()
    last = Outbox(path)
    assert set(ids(last.ops())) == {"first", "patient"}
    last.close()


def test_four_processes_killed_again_and_again_lose_no_acknowledged_write(path: Path) -> None:
    acknowledged: set[str] = set()
    Outbox(path).close()
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for round_ in range(4):
            writers.stdin.writelines(f"{round_}{who}\n" for who in "abcd")
            writers.stdin.flush()
            pids: list[int] = []
            writing: set[str] = set()
            while len(pids) < 4 or len(writing) < 4:
                word, said = writers.stdout.readline().split()
                if word == "pid":
                    pids.append(int(said))
                else:
                    acknowledged.add(said)
                    writing.add(said.partition("-")[0])
            time.sleep(0.3)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            writers.stdin.write("reap\n")
            writers.stdin.flush()
            while (line := writers.stdout.readline()) != "reaped all\n":
                acknowledged.add(line.split()[1])
        writers.stdin.close()
    outbox = Outbox(path)
    found = set(ids(outbox.ops()))
    outbox.close()
    assert len(acknowledged) > 100
    assert acknowledged <= found


def test_a_queues_file_that_others_may_have_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    Outbox(path).close()
    path.chmod(0o666)
    with pytest.raises(QueueError, match="may be written by others"):
        Outbox(path)
    path.chmod(0o644)
    Outbox(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        with pytest.raises(QueueError, match="belongs to user 12345"):
            Outbox(path)


def test_a_queues_file_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "queue.sqlite3", tmp_path / "elsewhere"
    path.symlink_to(target)
    with pytest.raises(QueueError, match="a link to nothing"):
        Outbox(path)
    assert not target.exists()
    beside = tmp_path / "other.sqlite3"
    beside.with_name("other.sqlite3-wal").symlink_to(target)
    with pytest.raises(QueueError, match="is a link"):
        Outbox(beside)
