"""The queue from the user's view, in a session and on the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from notebook_rt.cli.main import main
from notebook_rt.edits.listing import pending_df
from notebook_rt.edits.ops import Op
from notebook_rt.errors import InvalidEditError, QueueError, WaitTimeoutError
from notebook_rt.outbox.queue import Outbox
from notebook_rt.queue import Queue
from tests.waiting import scaled

HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """One that failed, one parked behind it, one that waits."""
    made = Outbox(tmp_path / "queue.sqlite3")

    def op(name: str, key: int, base: int = 0) -> Op:
        return Op(name, "update", "public", "t", 60.0, {"id": key}, {"n": key}, {"n": base})

    made.put(op("aa-1", 1))
    (taken,) = made.take(10, 0.0)
    made.put(op("ab-2", 1, base=7), op("b-3", 2))
    made.back(replace(taken, state="failed", error=f"23514: {HOSTILE}", attempts=1))
    yield made
    made.close()


def test_the_frame_says_what_waits_and_why(outbox: Outbox) -> None:
    queue = Queue(outbox)
    assert len(queue) == 3
    assert queue.df["state"].tolist() == ["failed", "parked", "waiting"]
    assert queue.df.loc["aa-1", "what"] == "update t 1 (n)"
    assert repr(queue) == "<queue: 1 waiting, 1 parked, 1 failed, 0 asking>"
    assert "<img" not in queue._repr_mimebundle_()["text/html"]


def test_an_empty_frame_has_the_types_of_a_full_one(outbox: Outbox) -> None:
    queue = Queue(outbox)
    full = queue.df.dtypes
    for op in list(queue.df.index):
        outbox.discard(op)
    assert len(queue.df) == 0
    assert queue.df.dtypes.to_dict() == full.to_dict()
    ops = [Op(name, "update", "public", "t", 60.0, {"id": 1}, {"n": 1}, {"n": 0}) for name in "ab"]
    assert pending_df([]).dtypes.to_dict() == pending_df(ops).dtypes.to_dict()


def test_a_listener_that_raises_hurts_nobody_who_edits_and_is_logged_once(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []

    def hear() -> None:
        called.append(1)
        raise RuntimeError("a slip")

    queue = Queue(outbox)
    stop = queue.on_change(hear)
    queue.discard("b-3")
    queue.retry()
    stop()
    queue.discard("aa-1")
    assert len(called) == 2
    assert [record.message.startswith("Queue.on_change") for record in caplog.records] == [True]
    with pytest.raises(TypeError, match="needs a function to call, not 3"):
        queue.on_change(3)  # type: ignore[arg-type]


def test_what_failed_is_edited_retried_or_discarded(outbox: Outbox) -> None:
    woken: list[int] = []
    queue = Queue(outbox, wake=lambda: woken.append(1))
    with pytest.raises(QueueError, match="has not failed"):
        queue.edit("b-3", n=5)
    with pytest.raises(QueueError, match="not in the queue"):
        queue.edit("zz-9", n=5)
    queue.edit("aa-1", n=5)
    assert outbox.ops()[0].values == {"n": 5}
    assert queue.df["state"].tolist() == ["waiting", "parked", "waiting"]
    assert queue.discard("aa-1") == 1
    assert queue.df["state"].tolist() == ["waiting", "waiting"]
    with pytest.raises(QueueError, match="not in the queue"):
        queue.discard("aa-1")
    assert woken


def test_flush_waits_until_nothing_waits_and_says_what_was_set_aside(outbox: Outbox) -> None:
    def send() -> None:
        for op in outbox.take(10, 0.0):
            outbox.settle(op)

    queue = Queue(outbox, send=lambda: threading.Timer(0.1, send).start())
    assert queue.flush(timeout=scaled(5)) == 2
    outbox.retry()
    with pytest.raises(WaitTimeoutError):
        Queue(outbox).flush(timeout=0.1)


def test_flush_of_a_held_queue_says_so_and_does_not_wait_forever(outbox: Outbox) -> None:
    with pytest.raises(QueueError, match=r"paused: resume\(\) it; 2 of the queue wait"):
        Queue(outbox, held=lambda: "the queue is paused: resume() it").flush()
    for op in outbox.ops():
        outbox.discard(op.id)
    assert Queue(outbox, held=lambda: "it is paused").flush() == 0


def test_what_failed_is_edited_with_values_that_fit_its_columns_only(outbox: Outbox) -> None:
    queue = Queue(outbox)
    (failed,) = outbox.ops(state="failed")
    outbox.mend(replace(failed, types={"id": "int8", "n": "int4"}))
    (failed,) = outbox.take(1, 0.0)
    outbox.back(replace(failed, state="failed", error="no"))
    for values in ({"n": "many"}, {"n": 1.5}, {"colour": "red"}):
        with pytest.raises(InvalidEditError):
            queue.edit("aa-1", **values)
    assert outbox.ops(state="failed")[0].values == {"n": 1}
    queue.edit("aa-1", n=np.int64(5))
    assert outbox.ops()[0].values == {"n": 5}


def test_the_command_line_says_nothing_that_a_terminal_would_obey(
    outbox: Outbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b[2J\x9b31m\u202e\r\n\U000e0041"
    types = {"id": "int8", "n": "text"}
    op = Op(f"zz{evil}", "insert", "public", f"t{evil}", 0.0, {"id": 9}, {"n": evil}, {}, types)
    outbox.put(op)
    said = ""
    for action in (["list"], ["show", "zz"], ["export"], ["discard", "zz"]):
        assert main(["queue", *action, "--file", str(outbox.path)]) == 0
        out = capsys.readouterr().out
        said += out
        if action[0] == "show":
            assert json.loads(out)["values"] == {"n": evil}
    assert [c for c in said if not c.isprintable() and c != "\n"] == []
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", ascii_only)
    assert main(["queue", "--file", str(outbox.path)]) == 0


def test_the_command_line_may_be_read_from_the_beginning_only(outbox: Outbox) -> None:
    code = "import sys; from notebook_rt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "queue", "list", "--file", str(outbox.path)]
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does
    try:
        done = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, timeout=scaled(60), check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_command_line_lists_shows_retries_discards_and_exports(
    outbox: Outbox, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["queue", *arguments, "--file", str(outbox.path)])
        said = capsys.readouterr()
        return status, said.out, said.err

    status, out, _ = run()
    assert status == 0
    assert "aa-1  failed   update t 1 (n): 23514" in out
    assert "\x1b" not in out
    assert json.loads(run("show", "b")[1])["values"] == {"n": 2}
    assert len(json.loads(run("export")[1])[str(outbox.path)]) == 3
    status, _, err = run("show", "a")
    assert (status, "2 operations" in err) == (1, True)
    assert "leaves with the next kernel" in run("retry", "aa")[1]
    assert outbox.counts()["failed"] == 0
    assert "discarded aa-1" in run("discard", "aa")[1]
    assert run("show", "aa")[0] == 1
    assert main(["queue", "--file", str(outbox.path) + "nowhere"]) == 1
