"""``kill -9`` at any moment while a table is stored: never torn, never wrong after its comparison."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.disk import cache
from notebook_rt.local import LocalStack
from tests.waiting import until

ROOT = Path(__file__).parents[2]
ROWS = 2000
MOST_BYTES = 200_000
"""A snapshot of the rows takes some 65 kB, its journal half of that and a batch."""
pytestmark = pytest.mark.slow


def kill_again_and_again(stack: LocalStack, table: str, rounds: int) -> list[float]:
    """Kills so many kernels; gives the seconds from each one's start to its ``df``."""
    took = []
    stack.sql(f"insert into {table} select n, n, 7 * n from generate_series(1, {ROWS}) n")
    over = threading.Event()

    def write() -> None:
        """Some 500 changes a second."""
        dice = random.Random(1)
        while not over.wait(0.04):
            first = dice.randrange(1, ROWS - 20)
            stack.sql(
                f"update {table} set a = a + 1, b = 7 * (a + 1) where id between {first} and {first + 19}"
            )

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    dice = random.Random(2)
    command = [sys.executable, "-m", "tests.disk.kernel", stack.url, stack.anon_key, table]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for number in range(rounds):
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            said: dict[str, list[str]] = {}
            while not {"pid", "shown", "live"} <= said.keys():
                word, *more = nursery.stdout.readline().split()
                said[word] = more
            rows, torn, refused, status, seconds = said["shown"]
            took.append(float(seconds))
            assert (int(rows), int(torn), int(refused)) == (ROWS, 0, 0)
            if number:
                assert status == "stale"  # what was kept was there
            else:
                until(lambda: cache.entries(), 20)
            over.wait(dice.uniform(0, 0.4))
            os.kill(int(said["pid"][0]), signal.SIGKILL)
            # What a start reads does not grow with the kernels before it.
            assert sum(entry.bytes for entry in cache.entries()) < MOST_BYTES
        nursery.stdin.close()
    over.set()
    writer.join()
    with nrt.connect(stack.url, stack.anon_key) as session:
        frame = session.table(table, keep=True)
        assert frame.df is not None
        assert session.metrics["kept_refused"] == 0
        until(lambda: frame.status == "live", 20, lambda: frame)
        found = pd.DataFrame(stack.sql(f"select id, a, b from {table} order by id"))
        until(lambda: frame.df.reset_index().to_numpy().tolist() == found.to_numpy().tolist(), 10)
    return took


COLUMNS = "id bigint primary key, a bigint, b bigint"


def test_a_kernel_that_is_killed_leaves_a_table_that_is_right(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    kill_again_and_again(stack, make_table(COLUMNS), rounds=3)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_thirty_kernels_that_are_killed_leave_a_table_that_is_right(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    took = kill_again_and_again(stack, make_table(COLUMNS), rounds=30)
    first, last = statistics.median(took[1:11]), statistics.median(took[-10:])
    assert last < 2 * first, "no start is slower for the kills before it"
