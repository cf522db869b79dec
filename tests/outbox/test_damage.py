"""A damaged queue file does not prevent a start: it is set aside once, and its readable part is saved."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from notebook_rt.edits.ops import Op
from notebook_rt.errors import QueueError
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox

ANN, BEN = Owner("https://x.supabase.co", "ann"), Owner("https://x.supabase.co", "ben")
ROOT = Path(__file__).parents[2]
TEXT = "x" * 200
RECORD = {"at": 0.0, "key": {"id": 1}, "column": "text", "theirs": 3, "open": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


def update(op: str, key: int, base: int = 0) -> Op:
    types = {"id": "int8", "text": "text"}
    return Op(op, "update", "public", "t", 0.0, {"id": key}, {"text": TEXT}, {"text": base}, types)


def fill(path: Path) -> None:
    """A write that is settled, one that failed, one that asks, and 300 that wait, of two logins."""
    with closing(Outbox(path, ANN)) as ann, closing(Outbox(path, BEN)) as ben:
        ann.put(update("done", 1), update("failed", 2), update("asks", 3))
        done, failed, asks = ann.take(10, 0.0)
        ann.settle(done, {"id": 1, "text": TEXT})
        ann.back(replace(failed, state="failed", error="no"))
        ann.put(update("parked", 2, base=7))
        ann.back(replace(asks, state="asking"), records=[RECORD])
        ann.put(*(update(f"a{number}", 100 + number) for number in range(150)))
        ben.put(*(update(f"b{number}", 100 + number) for number in range(150)))


def damage_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:100] = b"\x13" * 100
    path.write_bytes(data)


def damage_middle(path: Path) -> None:
    """Two pages of operations, away from both ends."""
    data, page = bytearray(path.read_bytes()), 4096
    numbers = [n for n in range(len(data) // page) if b"types" in data[n * page : (n + 1) * page]]
    middle = len(numbers) // 2
    for number in numbers[middle : middle + 2]:
        data[number * page : (number + 1) * page] = b"\xff" * page
    path.write_bytes(data)


def asides(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.glob("*.damaged-*"))


@pytest.mark.parametrize(("damage", "least"), [(damage_header, 0), (damage_middle, 250)])
def test_a_damaged_file_is_set_aside_and_its_rows_are_saved(
    path: Path, damage: Callable[[Path], None], least: int, caplog: pytest.LogCaptureFixture
) -> None:
    fill(path)
    damage(path)
    data = path.read_bytes()
    with closing(Outbox(path)) as outbox:
        saved = outbox.ops()
        assert len(saved) >= least
        assert all(op.values == {"text": TEXT} for op in saved)
        outbox.put(update("new", 1000))
    assert path.with_name(path.name + ".damaged-1").read_bytes() == data
    assert "damaged" in caplog.text
    left = {file.name for file in path.parent.iterdir()}
    assert left == {path.name, f"{path.name}.damaged-1", f"{path.name}.lock"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in path.parent.iterdir())


def test_what_asks_and_what_is_done_is_saved_too_and_whose_it_is(path: Path) -> None:
    fill(path)
    damage_middle(path)
    with closing(Outbox(path, ANN)) as ann, closing(Outbox(path, BEN)) as ben:
        assert [record.record for record in ann.conflicts(only_open=True)] == [RECORD]
        assert ann.outcome("done") == (True, {"id": 1, "text": TEXT})
        first = {op.id: (op.state, op.sent, op.blocked) for op in ann.ops()[:3]}
        assert first == {
            "failed": ("failed", False, False),
            "asks": ("asking", False, False),
            "parked": ("waiting", False, True),
        }
        assert ann.next_at() == 0.0
        assert {op.id[0] for op in ben.ops()} == {"b"}
        assert len(ann) + len(ben) >= 250


def test_what_stood_behind_a_lost_write_may_leave(path: Path) -> None:
    with closing(Outbox(path, ANN)) as ann:
        ann.put(update("first", 1))
        ann.take(1, 0.0)
        ann.put(update("second", 1, base=7), *(update(f"a{n}", 100 + n) for n in range(99)))
    data = path.read_bytes()
    assert data.count(b'{"key":{"id":1}') == 2
    path.write_bytes(data.replace(b'{"key":{"id":1}', b'{"\xff\xff\xff":{"id":1}', 1))
    with path.open("r+b") as file:  # and the file says so
        file.seek(data.rindex(b'"types"') // 4096 * 4096)
        file.write(b"\xff" * 4096)
    with closing(Outbox(path, ANN)) as ann:
        (again,) = (op for op in ann.ops() if op.lane == '["public", "t", 1]')
        assert again.id in ("first", "second")
        assert not again.blocked
        assert again.id in {op.id for op in ann.take(100, 0.0)}


@pytest.mark.parametrize("torn", [b'"\xff\xff"', b'"a"!'])
def test_a_row_that_is_torn_where_the_file_says_it_is_whole_keeps_no_other_back(
    path: Path, torn: bytes
) -> None:
    with closing(Outbox(path, ANN)) as ann:
        ann.put(*(update(f"a{number}", number) for number in range(20)))
    data = path.read_bytes().replace(b'{"key":{"id":7}', b'{"key":{' + torn + b":7}")
    path.write_bytes(data)
    with closing(Outbox(path, ANN)) as ann:
        assert {op.id for op in ann.ops()} == {f"a{number}" for number in range(20) if number != 7}
    assert path.with_name(path.name + ".damaged-1").read_bytes() == data


def test_a_file_that_is_no_queue_is_left_as_it_is(tmp_path: Path) -> None:
    csv, other = tmp_path / "prices.csv", tmp_path / "other.sqlite3"
    csv.write_text("symbol,price\n" * 500)
    with closing(sqlite3.connect(other)) as db:
        db.execute("create table mine (n)")
    for path in (csv, other):
        path.chmod(0o644)
        data = path.read_bytes()
        with pytest.raises(QueueError, match="is no queue's file"):
            Outbox(path)
        assert path.read_bytes() == data
        assert path.stat().st_mode & 0o777 == 0o644
    assert {p.name for p in tmp_path.glob("*") if p.suffix != ".lock"} == {csv.name, other.name}
    (tmp_path / "new.sqlite3").touch()
    with closing(Outbox(tmp_path / "new.sqlite3")) as outbox:
        assert len(outbox) == 0


OPENER = """
import sys
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.queue import Outbox
from pathlib import Path
path, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
while sys.stdin.readline():
    outbox = Outbox(path)
    outbox.put(Op(name, "update", "public", "t", 0.0, {"id": name}, {"n": 1}, {"n": 0}))
    print(len(outbox), flush=True)
    sys.stdin.readline()
    outbox.put(Op(name + "-later", "update", "public", "u", 0.0, {"id": name}, {"n": 1}, {"n": 0}))
    outbox.close()
    print("closed", flush=True)
"""


def test_processes_that_open_a_damaged_file_at_once_set_it_aside_once(path: Path) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for name in "pqr"
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for round_ in range(4):
        fill(path)
        damage_middle(path)
        for _ in range(2):  # all open it, then all write on
            for opener in openers:
                assert opener.stdin is not None
                opener.stdin.write("\n")
                opener.stdin.flush()
            for opener in openers:
                assert opener.stdout is not None
                assert opener.stdout.readline()
        with closing(Outbox(path)) as outbox:
            found = {op.id for op in outbox.ops()}
        assert found >= {"p", "q", "r", "p-later", "q-later", "r-later", "failed", "a0", "b149"}
        assert asides(path) == [f"{path.name}.damaged-1"], round_
        for file in path.parent.iterdir():
            file.unlink()
    for opener in openers:
        opener.communicate()
        assert opener.returncode == 0


KILLED = """
import os, sys
from pathlib import Path
from notebook_rt.outbox import file, salvage
from notebook_rt.outbox.queue import Outbox
def die(*_, **__):
    os._exit(9)
if sys.argv[2] == "saved":
    salvage.replace = die
else:
    Path.unlink = die
Outbox(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["saved", "replacing"])
def test_a_kill_while_it_is_set_aside_loses_nothing(path: Path, moment: str) -> None:
    fill(path)
    damage_middle(path)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT)
    assert killed.returncode == 9
    with closing(Outbox(path, ANN)) as ann, closing(Outbox(path, BEN)) as ben:
        assert len(ann) + len(ben) >= 250
        assert len(ann.conflicts(only_open=True)) == 1
    assert asides(path) == [f"{path.name}.damaged-1"]


LIMITED = """
import resource, sys
from pathlib import Path
from notebook_rt.errors import QueueError
from notebook_rt.outbox.queue import Outbox
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Outbox(Path(sys.argv[1]))
except QueueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("allowed", "words"),
    [(0, "cannot be opened"), (100_000, "is damaged, and could not be set aside")],
)
def test_where_nothing_can_be_written_it_says_what_to_do_and_loses_nothing(
    path: Path, allowed: int, words: str
) -> None:
    fill(path)
    damage_middle(path)
    data = path.read_bytes()
    assert len(data) > 100_000
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(allowed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert words in said.stdout, said.stderr
    assert "Free some space" in said.stdout
    assert path.read_bytes() == data
    with closing(Outbox(path)) as outbox:
        assert len(outbox) >= 250


def test_a_kernel_whose_file_was_set_aside_goes_on_with_the_new_one(path: Path) -> None:
    fill(path)
    with closing(Outbox(path, ANN)) as living:
        living.put(update("before", 1))
        living._db.execute("pragma wal_checkpoint(truncate)")
        damage_middle(path)
        with closing(Outbox(path, BEN)) as other:
            assert f"{path.name}.damaged-1" in asides(path)
            living.put(update("after", 2000))
            assert "after" in {op.id for op in living.ops()}
            assert {"before", "after"} <= set(living.versions("public", "t"))
            assert other.others()[ANN] == len(living)
    with closing(Outbox(path, ANN)) as again:
        assert "after" in {op.id for op in again.ops()}


def test_what_a_damaged_file_says_while_it_is_used(path: Path) -> None:
    fill(path)
    with closing(Outbox(path, ANN)) as living:
        living._db.execute("pragma wal_checkpoint(truncate)")
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
        living._db.execute("pragma shrink_memory")
        with pytest.raises(QueueError, match="damaged"):
            living.put(*(update(f"n{number}", number) for number in range(50)))
