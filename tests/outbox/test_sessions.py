"""The session of an operation, which may be paused, and the effect on other sessions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from notebook_rt.edits.ops import Op
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.lease import kernel_name
from notebook_rt.outbox.queue import Outbox
from notebook_rt.queue import Queue

OWNER = Owner("http://x", "me")
SCRIPT = """
import sys
from pathlib import Path
from notebook_rt.outbox.lease import kernel_name
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox

outbox = Outbox(Path(sys.argv[1]), Owner("http://x", "me"))
outbox.pause(True)
for key in (1, 2):
    outbox.put(Op(f"theirs-{key}", "update", "public", "t", 0.0, {"id": key}, {"n": 1}, {"n": 0}))
print("ready", flush=True)
for word in sys.stdin:
    outbox.pause(False) if word.strip() == "resume" else outbox.close()
    print("done", flush=True)
"""


class Script:
    """Another process that edits rows 1 and 2, paused, in the same file."""

    def __init__(self, directory: Path) -> None:
        script = directory / "restock.py"
        script.write_text(SCRIPT)
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(directory / "queue.sqlite3")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        self._answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path)
    yield made
    made.kill()
    for pipe in (made.process.stdin, made.process.stdout):
        assert pipe is not None
        pipe.close()


@pytest.fixture
def outbox(tmp_path: Path, script: Script) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path / "queue.sqlite3", OWNER)) as opened:
        yield opened


def mine(key: int) -> Op:
    return Op(f"mine-{key}", "update", "public", "t", 1.0, {"id": key}, {"n": 5}, {"n": 1})


def taken(outbox: Outbox) -> list[str]:
    return [op.id for op in outbox.take(10, 100.0)]


def test_what_a_paused_process_edited_is_sent_by_no_other_until_it_resumes(
    outbox: Outbox, script: Script
) -> None:
    assert outbox.next_at() is None, "nobody need wait for it"
    outbox.put(mine(3))
    assert taken(outbox) == ["mine-3"]
    script.tell("resume")
    assert taken(outbox) == ["theirs-1", "theirs-2", "mine-3"]


@pytest.mark.parametrize("decided", ["resume", "retry", "retry of one"])
@pytest.mark.parametrize("end", ["close", "kill"])
def test_what_a_session_edited_that_ended_while_paused_stays_until_somebody_has_it_sent(
    outbox: Outbox, script: Script, tmp_path: Path, end: str, decided: str
) -> None:
    outbox.put(mine(3))
    df = Queue(outbox).df
    assert df.loc["theirs-1", "session"].startswith(f"restock.py (process {script.process.pid} on ")
    assert df.loc["theirs-1", "session"].endswith(" UTC, paused)")
    assert outbox.left() == []
    assert outbox.retry() == 0, "it lives: the pause is its own"
    script.kill() if end == "kill" else script.tell("close")
    assert Queue(outbox).df.loc["theirs-1", "session"].endswith(" UTC, ended while paused)")
    assert taken(outbox) == ["mine-3"]
    with closing(Outbox(tmp_path / "queue.sqlite3", OWNER)) as later:
        assert [op.id for op in later.left()] == ["theirs-1", "theirs-2"]
        later.put(mine(4))
        later.put(mine(2))
        assert later.next_at() is not None
    assert taken(outbox) == ["mine-3", "mine-4"]
    if decided == "resume":
        outbox.pause(False)
        assert taken(outbox) == ["theirs-1", "theirs-2", "mine-3", "mine-4"]
    elif decided == "retry":
        assert outbox.retry() == 2
        assert taken(outbox) == ["theirs-1", "theirs-2", "mine-3", "mine-4"]
    else:
        assert outbox.retry("theirs-1") == 1
        assert taken(outbox) == ["theirs-1", "mine-3", "mine-4"]
        assert [op.id for op in outbox.left()] == ["theirs-2"]
    assert all(op.session == outbox.session.id for op in outbox.ops() if op.id == "theirs-1")


def test_an_edit_of_a_row_that_a_paused_process_edited_stays_one_of_its_own_behind_it(
    outbox: Outbox, script: Script
) -> None:
    outbox.put(mine(1))
    assert [op.id for op in outbox.ops()] == ["theirs-1", "theirs-2", "mine-1"]
    assert taken(outbox) == []
    script.tell("resume")
    outbox.put(mine(2))
    assert {op.id: op.session == outbox.session.id for op in outbox.ops()} == {
        "theirs-1": False,
        "theirs-2": True,
        "mine-1": True,
    }, "where nobody is paused, two edits are one, of who edited last"


def test_a_session_of_its_own_scope_shares_nothing_until_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    with closing(Outbox(path, OWNER)) as shared:
        alone = Outbox(path, replace(OWNER, session=kernel_name()))
        alone.put(mine(1))
        shared.put(mine(2))
        assert [op.id for op in alone.ops()] == taken(alone) == ["mine-1"]
        assert [op.id for op in shared.ops()] == taken(shared) == ["mine-2"]
        with closing(Outbox(path, OWNER)) as later:
            assert len(later) == 1, "it lives"
        alone.close()
        with closing(Outbox(path, replace(OWNER, login="somebody"))) as not_supabase:
            assert len(not_supabase) == 0
        with closing(Outbox(path, replace(OWNER, session=kernel_name()))) as other:
            assert len(other) == 0
    with closing(Outbox(path, OWNER)) as later:
        assert {op.id for op in later.ops()} == {"mine-1", "mine-2"}
        assert set(taken(later)) == {"mine-1", "mine-2"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux says when one began")
def test_a_killed_session_is_over_though_another_process_has_its_number_now(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite3"
    living = kernel_name()
    earlier = living.rpartition("-")[0] + "-1"  # of this number, and began when the machine did
    with (
        closing(Outbox(path, OWNER, kernel=earlier)) as killed,
        closing(Outbox(path, OWNER, kernel=living)) as paused,
        closing(Outbox(path, OWNER)) as other,
    ):
        for one, key in ((killed, 1), (paused, 2)):
            one.pause(True)
            one.put(mine(key))
        assert [op.id for op in other.left()] == ["mine-1"]
        assert killed.lease(1.0)
        assert other.lease(1.0), "nobody waits for it"


@pytest.mark.parametrize("closed", ["closed", "still closing"])
@pytest.mark.parametrize("paused", [True, False])
def test_what_a_session_edited_before_another_login_is_its_own_when_that_is_over(
    tmp_path: Path, paused: bool, closed: str
) -> None:
    path = tmp_path / "queue.sqlite3"
    before = Outbox(path, OWNER)
    before.pause(True)
    before.put(mine(1))
    if closed == "closed":
        before.close()
    with closing(Outbox(path, OWNER)) as again:
        if paused:
            again.pause(True)
        again.adopt({before.session.id})
        assert again.left() == []
        with closing(Outbox(path, OWNER)) as other:
            assert (other.next_at() is None) == paused
        if closed == "still closing":
            before.close()
        if paused:
            again.pause(False)
        assert taken(again) == ["mine-1"]
