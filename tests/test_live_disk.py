"""A disk that is read-only or full, files of another user, and a changed clock, on the real stack.

Said once, and nothing else comes of it: whether a table is kept (``keep=``) or its past (``on_disk=``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.disk import cache
from notebook_rt.local import LocalStack
from notebook_rt.runtime import archiving, keeping
from tests.proxy import Proxy
from tests.test_live_archive import connected, live
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow
same = pd.testing.assert_frame_equal


class Disk:
    """A disk of its own under the cache, which can be made read-only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mount("size=256k,nr_inodes=64")

    def read_only(self) -> None:
        self._mount("remount,ro")

    def _mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    try:
        made = Disk(path)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk of its own needs the right to mount one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    yield made
    subprocess.run(["umount", "-l", str(path)], check=True)


def one_kernel(stack: LocalStack, table: str) -> None:
    """Keeps the table and its past, and ends."""
    with connected(stack) as session:
        frame = live(session.table(table, keep=True))
        frame.history("24h", on_disk=True)
        until(lambda: len(cache.entries()) == 2, 10, cache.entries)


def nothing_else_comes_of_it(
    stack: LocalStack, table: str, sql: Any, said: Callable[[nrt.Session], bool], refused: int
) -> None:
    """It is said once, and the table is live and right all the same, and so is its past."""
    with connected(stack) as session:
        notes: list[str] = []
        session.on_note(lambda kind, text: notes.append(text))
        frame = live(session.table(table, keep=True))
        past = frame.history("24h", on_disk=True)
        until(lambda: said(session), 20, lambda: (session.health, notes))
        before = len(past)
        sql(f"update {table} set price = price + 1 where id = 7")
        until(lambda: len(past) == before + 1, 10, lambda: past)
        same(past.as_of("now"), frame.df)
        assert frame.df.loc[7, "price"] == sql(f"select price from {table} where id = 7")[0][0]
        assert len(notes) == len(set(notes))
        assert not any("another kernel" in text for text in notes)
        assert session.metrics["kept_refused"] == refused
        assert session.health.status in ("healthy", "connecting")


def test_a_read_only_disk_is_read_and_said_once(
    stack: LocalStack, table: str, sql: Any, disk: Disk
) -> None:
    one_kernel(stack, table)
    files = {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()}
    disk.read_only()
    nothing_else_comes_of_it(
        stack,
        table,
        sql,
        lambda session: "read-only" in session.health.disk.replace("readonly", "read-only").lower(),
        refused=0,
    )
    assert {path: path.read_bytes() for path in disk.path.rglob("*") if path.is_file()} == files


def test_a_full_disk_is_reported_once(stack: LocalStack, table: str, sql: Any, disk: Disk) -> None:
    (disk.path / "others").write_bytes(bytes(shutil.disk_usage(disk.path).free))
    nothing_else_comes_of_it(
        stack, table, sql, lambda session: session.health.disk != "", refused=0
    )
    assert cache.entries() == []


def test_a_disk_that_has_no_room_for_another_file_is_reported_once_however_often_it_is_tried(
    stack: LocalStack, table: str, sql: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "AGAIN_AFTER", 0.1)
    monkeypatch.setattr(keeping, "PAUSE", 0.1)
    monkeypatch.setattr(keeping, "MOST_NOTED", 0)  # so many changes are written as a whole
    fails, tried = keeping.Disk.fails, threading.Semaphore(0)
    notes: list[str] = []
    with connected(stack) as session:
        session.on_note(lambda kind, text: notes.append(text))
        frame = live(session.table(table, keep=True))
        until(cache.entries, 10)  # it is locked by now
        with suppress(OSError):
            for number in range(1000):
                (disk.path / f"other-{number}").touch()
        monkeypatch.setattr(
            keeping.Disk, "fails", lambda of, *what: (fails(of, *what), tried.release())
        )
        sql(f"update {table} set price = 77")
        until(lambda: frame.df.loc[7, "price"] == 77, 10)
        for _ in range(3):
            assert tried.acquire(timeout=scaled(10))
            sql(f"update {table} set price = price + 1")
    assert len([text for text in notes if "No space" in text]) == 1


def test_a_disk_that_is_full_for_a_while_is_written_to_again(
    stack: LocalStack, table: str, sql: Any, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (keeping, archiving):
        monkeypatch.setattr(module, "AGAIN_AFTER", 0.5)
    notes: list[str] = []
    with connected(stack) as session:
        session.on_note(lambda kind, text: notes.append(text))
        frame = live(session.table(table, keep=True))
        past = frame.history("24h", on_disk=True)
        until(lambda: len(cache.entries()) == 2, 10, cache.entries)  # what comes now is appended
        (disk.path / "others").write_bytes(bytes(shutil.disk_usage(disk.path).free))
        sql(f"update {table} set note = repeat('n', 20000) where id < 5")
        until(lambda: "No space left" in session.health.disk, 20, lambda: session.health)
        (disk.path / "others").unlink()
        sql(f"update {table} set price = 77 where id = 7")
        until(lambda: session.health.disk == "", 20, lambda: (session.health, notes))
        until(lambda: past.of(7, "price")["new"].tolist()[-1] == 77)
        shown = frame.df
    assert len(notes) == len(set(notes))
    with connected(stack) as session:
        frame = session.table(table, keep=True)
        same(frame.df, shown)
        past = live(frame).history("24h", on_disk=True)
        assert past.of(7, "price")["new"].tolist()[-1] == 77
        assert session.metrics["kept_refused"] == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="chown needs root")
def test_the_files_of_another_user_are_as_if_they_were_not_there(
    stack: LocalStack, table: str, sql: Any
) -> None:
    one_kernel(stack, table)
    for path in cache.root().rglob("*"):
        os.chown(path, 65534, 65534)
    nothing_else_comes_of_it(
        stack, table, sql, lambda session: "belongs to user 65534" in session.health.disk, refused=2
    )


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_wrong_when_a_kernel_starts_makes_nothing_wrong(
    stack: LocalStack,
    proxy: Proxy,
    table: str,
    sql: Any,
    hours: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Set back (or ahead) between two kernels; the second one starts without a network."""
    with connected(stack, proxy.url) as session:
        frame = live(session.table(table, keep=True))
        past = frame.history("24h", on_disk=True)
        sql(f"update {table} set price = 100 where id = 7")
        until(lambda: len(past) == 1, 10)
        until(lambda: len(cache.entries()) == 2, 10, cache.entries)
        at = past.end
    proxy.down()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + hours * 3600)
    with connected(stack, proxy.url) as session:
        frame = session.table(table, keep=True)
        past = frame.history("24h", on_disk=True)
        assert frame.status == "stale"
        assert past.as_of(at).loc[7, "price"] == 100
        sql(f"update {table} set price = 200 where id = 7")
        proxy.up()
        session.retry()
        live(frame)
        sql(f"update {table} set price = 300 where id = 7")
        until(lambda: past.of(7, "price")["new"].tolist()[-1] == 300, 10, lambda: past)
        same(past.as_of("now"), frame.df)
        cell = past.of(7, "price")
        assert cell["new"].tolist() == [7, 100, 200, 300]
        assert (
            abs((cell["at"].iloc[-1] - pd.Timestamp(wall(), unit="s", tz="UTC")).total_seconds())
            < 60
        )
        assert past.as_of(at).loc[7, "price"] == 100
    monkeypatch.setattr(time, "time", wall)
    with connected(stack, proxy.url) as session:
        past = live(session.table(table)).history("24h", on_disk=True)
        assert past.of(7, "price")["new"].tolist() == [7, 100, 200, 300]
        assert session.metrics["kept_refused"] == 0
