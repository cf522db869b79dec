"""A history on disk, on the real stack: kernels in sequence and simultaneously, logins, disk failures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.disk import cache, journal, shelf, snapshot, values
from notebook_rt.local import LocalStack
from notebook_rt.runtime import archiving
from notebook_rt.sync.history.past import UNRECORDED
from tests.proxy import Proxy
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow
same = pd.testing.assert_frame_equal

KERNEL = """
import signal, sys
import notebook_rt as nrt
from tests.test_live_archive import live
from tests.waiting import until
url, key, table = sys.argv[1:]
frame = live(nrt.connect(url, key).table(table))
past = frame.history("24h", on_disk=True)
print("live", flush=True)
sys.stdin.readline()
until(lambda: len(past) >= 3, 20)
print(past.end.isoformat(), flush=True)
signal.pause()
"""
"""A kernel that records three changes, and is killed."""


def connected(stack: LocalStack, url: str = "") -> nrt.Session:
    options = nrt.Options(audit_interval=1.0, connect_timeout=1.0)
    return nrt.connect(url or stack.url, stack.anon_key, options=options)


def histories() -> list[cache.Entry]:
    return [one for one in cache.entries() if one.began is not None]


def written(changes: int) -> bool:
    """Whether so many changes of the one table are on disk."""
    found = 0
    for part in cache.root().glob("*/*.past"):
        head = snapshot.read_head(part.read_bytes())
        raw = part.with_suffix(shelf.JOURNAL).read_bytes()
        _, *pages = journal.bodies(raw, head["generation"], snapshot.FORMAT)
        found += sum(len(times) // 8 for page, _ in pages for times, *_ in values.load(page)[2])
    return found >= changes


def live(frame: nrt.LiveTable) -> nrt.LiveTable:
    """Live, and so long that no change that comes may be in what was read."""
    until(lambda: frame.status == "live", 20, lambda: frame)
    driver: Any = frame._feed
    until(lambda: driver.services.rest.clock() > driver.machine._horizon.floor, 20)
    return frame


def test_the_past_survives_a_kernel_that_is_killed(stack: LocalStack, table: str, sql: Any) -> None:
    command = [sys.executable, "-c", KERNEL, stack.url, stack.anon_key, table]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        assert kernel.stdin is not None
        assert kernel.stdout is not None
        assert kernel.stdout.readline() == "live\n"
        for price in (100, 200, 300):
            sql(f"update {table} set price = {price} where id = 7")
            sql("select 1 from (select pg_sleep(0.005)) as a")  # the server tells milliseconds
        kernel.stdin.write("go\n")
        kernel.stdin.flush()
        end = pd.Timestamp(kernel.stdout.readline().strip())
        try:
            until(lambda: written(3), 20, histories)
        finally:
            kernel.kill()
    sql(f"update {table} set price = 400 where id = 7")
    with connected(stack) as session:
        frame = session.table(table)
        past = frame.history("24h", on_disk=True)
        live(frame)
        until(lambda: past.gaps["until"].notna().all(), 10, lambda: past.gaps)
        assert len(past) == 3
        assert past.of(7, "price")["new"].tolist() == [7, 100, 200, 300, 400]
        just_before = end - pd.Timedelta(1, "us")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert past.as_of(just_before).loc[7, "price"] == 200
        with pytest.warns(errors.HistoryGapWarning, match="no kernel"):
            assert past.as_of(end + pd.Timedelta(1, "ms")).loc[7, "price"] == 300
        assert past.gaps["reason"].tolist()[0] == UNRECORDED
        same(past.as_of("now"), frame.df)
        assert session.metrics["kept_refused"] == 0
    for path in cache.root().rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            assert b"eyJ" not in raw  # how each token and key begins
            assert stack.anon_key.encode() not in raw
            assert path.stat().st_mode & 0o077 == 0


def test_two_kernels_have_one_history_and_one_writes_it(
    stack: LocalStack, table: str, sql: Any
) -> None:
    with connected(stack) as first:
        mine = live(first.table(table)).history("24h", on_disk=True)
        sql(f"update {table} set price = 100 where id = 7")
        until(lambda: len(mine) == 1 and written(1), 20, lambda: mine)
        with connected(stack) as second:
            theirs = live(second.table(table)).history("24h", on_disk=True)
            assert len(theirs) == 1  # what the first has written
            until(lambda: "written by another kernel" in second.health.disk, 10)
            sql(f"update {table} set price = 200 where id = 7")
            until(lambda: len(theirs) == 2 and len(mine) == 2, 10, lambda: theirs)
        until(lambda: written(2), 10)
        assert first.health.disk == ""
    with connected(stack) as session:
        past = live(session.table(table)).history("24h", on_disk=True)
        assert past.of(7, "price")["new"].tolist() == [7, 100, 200]


def test_who_reads_writes_once_the_one_who_wrote_is_killed(
    stack: LocalStack, table: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "WRITER_AFTER", 0.5)
    command = [sys.executable, "-c", KERNEL, stack.url, stack.anon_key, table]
    with connected(stack) as session:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as kernel:
            assert kernel.stdout is not None
            try:
                assert kernel.stdout.readline() == "live\n"
                sql(f"update {table} set price = 100 where id = 7")
                until(lambda: written(1), 20)
                past = live(session.table(table)).history("24h", on_disk=True)
                until(lambda: "written by another kernel" in session.health.disk, 20)
            finally:
                kernel.kill()
        for price in (200, 300):  # the one is heard before the other begins to be written
            sql(f"update {table} set price = {price} where id = 7")
            until(lambda: session.health.disk == "", 20, lambda: session.health)
        until(lambda: past.of(7, "price")["new"].tolist() == [7, 100, 200, 300], 20)
    with connected(stack) as session:
        past = live(session.table(table)).history("24h", on_disk=True)
        assert past.of(7, "price")["new"].tolist() == [7, 100, 200, 300]
        assert past.gaps["reason"].tolist()[0] == UNRECORDED


def test_signing_out_removes_a_past_and_no_login_sees_anothers(
    stack: LocalStack, table: str, sql: Any
) -> None:
    sql(f"alter table {table} enable row level security")
    sql(f"create policy mine on {table} for select to authenticated using (true)")
    user = "6f1c1c1e-0000-4000-8000-000000000001"
    with connected(stack) as session:
        frame = live(session.table(table))
        past = frame.history("24h", on_disk=True)
        until(lambda: len(histories()) == 1, 10, histories)
        session.set_auth(stack.token("authenticated", user))
        until(lambda: len(frame.df) == 20, 10)
        live(frame)
        until(lambda: sorted(one.rows for one in histories()) == [0, 20], 10, histories)
        assert len(past.as_of("now")) == 20
        session.sign_out()
        until(lambda: len(frame.df) == 0, 10)
        live(frame)
        until(lambda: past.start is not None and len(past.as_of("now")) == 0, 10, lambda: past)
        assert {one.rows for one in histories()} == {0}
    assert {one.rows for one in histories()} == {0}


def test_the_past_is_there_without_a_network(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any
) -> None:
    with connected(stack, proxy.url) as session:
        frame = live(session.table(table, keep=True))
        past = frame.history("24h", on_disk=True)
        sql(f"update {table} set price = 100 where id = 7")
        until(lambda: len(past) == 1, 10)
        until(lambda: len(cache.entries()) == 2, 10, cache.entries)
        at = past.end
    proxy.down()
    with connected(stack, proxy.url) as session:
        frame = session.table(table, keep=True)
        past = frame.history("24h", on_disk=True)
        assert frame.status == "stale"
        assert past.as_of(at).loc[7, "price"] == 100
        with pytest.warns(errors.HistoryGapWarning):
            past.as_of("now")
        sql(f"update {table} set price = 200 where id = 7")
        proxy.up()
        session.retry()
        live(frame)
        until(lambda: past.of(7, "price")["new"].tolist() == [7, 100, 200], 10, lambda: past)


def test_a_clock_that_is_behind_what_was_written_is_said_and_times_rise(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network nothing else tells the time; with one, the server does."""
    with connected(stack, proxy.url) as session:
        frame = live(session.table(table, keep=True))
        past = frame.history("24h", on_disk=True)
        sql(f"update {table} set price = 100 where id = 7")
        until(lambda: written(1), 10)
        until(lambda: len(cache.entries()) == 2, 10, cache.entries)
    proxy.down()
    behind = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() - 3600)
    monkeypatch.setattr("notebook_rt.net.rest.time", behind)
    with connected(stack, proxy.url) as session:
        notes: list[str] = []
        session.on_note(lambda kind, text: notes.append(text))
        frame = session.table(table, keep=True)
        past = frame.history("24h", on_disk=True)
        until(lambda: any("ends later than it is" in one for one in notes), 10, lambda: notes)
        proxy.up()
        session.retry()
        live(frame)
        sql(f"update {table} set price = 200 where id = 7")
        until(lambda: past.of(7, "price")["new"].tolist()[-2:] == [100, 200], 10, lambda: past)
        assert past.of(7)["at"].is_monotonic_increasing
        assert past.end is not None
        assert abs(past.end.timestamp() - time.time()) < 60


@pytest.mark.skipif(os.name == "nt", reason="a directory's mode")
@pytest.mark.parametrize("what", ["torn", "of another user", "full"])
def test_a_disk_that_fails_is_reported_once_and_harms_nothing(
    stack: LocalStack, table: str, sql: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(stack) as session:
        live(session.table(table)).history("24h", on_disk=True)
        until(histories, 10)
    (part,) = cache.root().glob("*/*.past")
    said = {
        "torn": "cut off",
        "of another user": "is open to others",
        "full": "No space left on device",
    }[what]
    match what:
        case "torn":
            part.write_bytes(part.read_bytes()[:-7])
        case "of another user":
            part.chmod(0o666)
        case _:

            def full(*args: Any) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(snapshot, "write", full)
    with connected(stack) as session:
        notes: list[str] = []
        session.on_note(lambda kind, text: notes.append(text))
        frame = live(session.table(table))
        past = frame.history("24h", on_disk=True)
        until(lambda: said in session.health.disk, 10, lambda: session.health)
        sql(f"update {table} set price = 100 where id = 7")
        until(lambda: len(past) == 1, 10)
        same(past.as_of("now"), frame.df)
        assert sum(said in text for text in notes) <= 1
        assert session.metrics["kept_refused"] == (what != "full")
        assert frame.wait(scaled(5)) is not None
