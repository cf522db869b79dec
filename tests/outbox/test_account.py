"""A queue's file can be shared: each login of each project sees, sends and decides only its own edits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from notebook_rt.cli.main import main
from notebook_rt.edits.ops import Op
from notebook_rt.outbox.account import Owner
from notebook_rt.outbox.queue import Outbox
from notebook_rt.queue import Queue

ANN = Owner("https://x.supabase.co", "ann")
BEN = Owner("https://x.supabase.co", "ben")
ELSEWHERE = Owner("https://y.supabase.co", "ann")

Open = Callable[..., Outbox]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.sqlite3"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the one file, for whom is asked."""
    with ExitStack() as stack:
        yield lambda owner=None, **how: stack.enter_context(closing(Outbox(path, owner, **how)))


def update(op: str, key: int, base: dict[str, Any] | None = None, **values: Any) -> Op:
    before = base if base is not None else dict.fromkeys(values, 0)
    types = {"id": "int8", **dict.fromkeys(values, "int8")}
    return Op(op, "update", "public", "t", 0.0, {"id": key}, values, before, types)


def ids(ops: list[Op]) -> list[str]:
    return [op.id for op in ops]


def test_each_sees_only_its_own(opened: Open) -> None:
    ann, ben, elsewhere = opened(ANN), opened(BEN), opened(ELSEWHERE)
    ann.put(update("a", 1, n=1), update("a2", 2, n=1))
    ben.put(update("b", 1, n=2))
    assert (len(ann), len(ben), len(elsewhere)) == (2, 1, 0)
    assert ids(ben.ops(schema="public", target="t")) == ["b"]
    assert list(ben.versions("public", "t")) == ["b"]
    assert ben.counts()["waiting"] == 1
    assert list(Queue(ben).df.index) == ["b"]
    assert ben.get("a") is None
    assert elsewhere.next_at() is None
    assert ben.others() == {ANN: 2}
    assert len(opened()) == 3, "the command line sees them all"


def test_edits_of_one_row_by_two_logins_stay_two_and_hold_nobody_up(opened: Open) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann.put(update("a", 1, n=1))
    (put,) = ben.put(update("b", 1, n=1, m=2))
    assert put.before is None, "not made one with another's"
    assert ids(ann.take(10, 0.0)) == ["a"]
    ann.back(replace(ann.ops()[0], state="failed", error="no"))
    assert ids(ben.take(10, 0.0)) == ["b"], "another's failed write parks nothing"
    ben.put(update("b2", 1, {"n": 1}, n=3))
    ben.settle(ben.ops()[0])
    assert ids(ben.take(10, 0.0)) == ["b2"]
    assert [op.blocked for op in opened().ops()] == [False, False]


def test_each_sends_its_own_while_the_other_lives(opened: Open) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann.put(update("a", 1, n=1))
    ben.put(update("b", 2, n=1))
    assert ann.lease(100.0)
    assert ids(ben.take(10, 100.0)) == ["b"]
    assert ids(ann.take(10, 100.0)) == ["a"]
    other = opened(ANN)
    assert other.take(10, 100.0) == [], "of one login's kernels one sends"
    ben.release()
    assert ann.lease(101.0), "another's lease is another's"


def test_nobody_decides_about_anothers(opened: Open) -> None:
    ann, ben = opened(ANN), opened(BEN)
    ann.put(update("a", 1, n=1))
    (a,) = ann.take(10, 0.0)
    record = {"at": 0.0, "key": {"id": 1}, "column": "n", "open": True}
    ann.back(replace(a, state="failed", error="no"), records=[record])
    assert ben.conflicts() == []
    assert len(ann.conflicts(only_open=True)) == 1
    assert ben.retry() == 0
    assert ben.retry("a") == 0
    assert ben.discard("a") == []
    assert not ben.mend(replace(a, values={"n": 5}))
    assert ann.counts()["failed"] == 1
    assert ann.retry() == 1


def test_what_expires_is_its_owners(opened: Open) -> None:
    ann, ben = opened(ANN), opened(BEN)
    late = Op("late", "broadcast", "realtime", "room", 0.0, event="e", expires_at=5.0)
    ann.put(late)
    assert ben.take(10, 10.0) == []
    assert len(ann) == 1
    assert ann.take(10, 10.0) == []
    assert len(ann) == 0


def format_1(path: Path) -> None:
    """The file as a version without owners left it."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript((Path(__file__).parent / "format1.sql").read_text())


def test_an_older_file_is_the_first_logins_who_opens_it(path: Path, opened: Open) -> None:
    format_1(path)
    ann, ben = opened(ANN), opened(BEN)
    assert len(ben) == 0
    assert ben.conflicts() == []
    assert [(op.id, op.state, op.sent, op.blocked) for op in ann.ops()] == [
        ("failed-1", "failed", False, False),
        ("parked-1", "waiting", False, True),
        ("asking-1", "asking", False, False),
        ("waiting-1", "waiting", False, False),
        ("sent-1", "waiting", True, False),
    ]
    assert [(r.op, r.record["theirs"]) for r in ann.conflicts(only_open=True)] == [("asking-1", 3)]
    assert ann.outcome("done-1") == (True, {"id": 9, "n": 9})
    assert ben.others() == {ANN: 5}
    assert ids(ann.take(10, 100.0)) == ["waiting-1", "sent-1"]
    assert ann.retry() == 1
    assert ids(ann.take(10, 100.0)) == ["failed-1", "waiting-1", "sent-1"]


def test_looking_at_an_older_file_makes_it_nobodys(
    path: Path, opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    format_1(path)
    assert main(["queue", "--file", str(path)]) == 0
    assert "an unknown login" in capsys.readouterr().out
    assert len(opened(BEN)) == 5


def test_what_an_older_kernel_still_adds_stays_in_order_when_it_is_claimed(
    path: Path, opened: Open
) -> None:
    ann = opened(ANN)
    ann.put(update("first", 1, n=1))
    opened().put(update("second", 1, {"n": 7}, n=8))
    again = opened(ANN)
    assert [(op.id, op.blocked) for op in again.ops()] == [("first", False), ("second", True)]


def test_the_command_line_says_whose_it_is_and_shows_no_control_characters(
    opened: Open, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(ANN).put(update("a", 1, n=1))
    opened(Owner("https://x.supabase.co", "mallory\x1b[2J\n")).put(update("m", 1, n=1))
    assert main(["queue", "--file", str(path)]) == 0
    out = capsys.readouterr().out
    assert "login 'ann' of x.supabase.co" in out
    assert "\x1b" not in out
    assert main(["queue", "export", "--file", str(path)]) == 0
    exported = json.loads(capsys.readouterr().out)[str(path)]
    assert [op["login"] for op in exported] == ["ann", "mallory\x1b[2J\n"]
