"""A table on disk: available before the network, and proven before it is ``live`` (a real stack)."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt import errors
from notebook_rt.disk import cache, snapshot
from notebook_rt.disk.shelf import Shelf
from notebook_rt.errors import UnreachableError
from notebook_rt.local import LocalStack, start
from notebook_rt.runtime.keeping import Keeping
from notebook_rt.runtime.optional_sql import broadcast_sql
from notebook_rt.runtime.table import TableDriver
from tests.ports import free_port
from tests.proxy import Answer, Proxy
from tests.waiting import scaled, until

pytestmark = pytest.mark.slow

QUICK = nrt.Options(audit_interval=2.0, poll_interval=0.3, connect_timeout=1.0, backoff_max=1.0)


@pytest.fixture
def table(make_table: Callable[..., str], sql: Any) -> str:
    name = make_table("id bigint primary key, note text, price numeric, updated_at timestamptz")
    sql(f"insert into {name} select n, 'note ' || n, n, now() from generate_series(1, 50) n")
    return name


def kept(
    url: str, stack: LocalStack, table: str, options: nrt.Options = QUICK, **more: Any
) -> tuple[nrt.Session, nrt.LiveTable]:
    session = nrt.connect(url, stack.anon_key, options=options)
    return session, session.table(table, keep=True, **more)


def first_kernel(stack: LocalStack, table: str, url: str = "", **more: Any) -> pd.DataFrame:
    """Keep the table, as a kernel does that ends."""
    session, frame = kept(url or stack.url, stack, table, **more)
    until(lambda: frame.status == "live", 10, lambda: frame)
    shown = frame.df
    session.close()
    return shown


ENDS_WHILE_IT_WRITES = """
import sys, threading, time
import notebook_rt as nrt
from notebook_rt.disk import snapshot

write, writes = snapshot._Summed.write, threading.Event()

def slow(self, raw):
    writes.set()
    time.sleep(0.5)  # a slow disk
    return write(self, raw)

snapshot._Summed.write = slow
url, key, table, seconds = sys.argv[1:]
nrt.connect(url, key).table(table, keep=True).wait(float(seconds))
assert writes.wait(float(seconds))
"""


def test_a_process_that_ends_while_a_table_is_written_ends_in_peace(
    stack: LocalStack, table: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", ENDS_WHILE_IT_WRITES, stack.url, stack.anon_key, table]
    ended = subprocess.run([*command, str(scaled(20))], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not list(tmp_path.rglob("*.new"))
    assert cache.entries() == []


def test_a_kernel_that_starts_shows_the_table_before_the_network(
    stack: LocalStack, proxy: Proxy, table: str
) -> None:
    shown = first_kernel(stack, table, proxy.url)
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        pd.testing.assert_frame_equal(frame.df, shown)
        assert frame.status == "stale"
        assert "as of " in frame.reason
        assert "as of " in repr(frame)
        assert frame.synced_at is not None
        until(lambda: session.health.status == "offline", 10, lambda: session.health)
        assert "offline since" in session.health.reason


def test_what_was_missed_is_told_with_old_and_new_before_it_is_live(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any
) -> None:
    first_kernel(stack, table, proxy.url)
    sql(f"update {table} set note = 'other' where id = 7")
    sql(f"delete from {table} where id = 8")
    sql(f"insert into {table} values (51, 'new', 1, now())")
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        told: list[Any] = []
        frame.on_change(told.append)
        assert frame.df.loc[7, "note"] == "note 7"
        proxy.up()
        session.retry()
        until(lambda: told, 20, lambda: frame)
        (batch,) = told
        assert batch.cause == "warm"
        notes = {
            change.key: [one and one["note"] for one in (change.old, change.new)]
            for change in batch.changes
        }
        assert notes == {7: ["note 7", "other"], 8: ["note 8", None], 51: [None, "new"]}
        assert frame.df.loc[7, "note"] == "other"
        until(lambda: frame.status == "live", 10, lambda: frame)


@pytest.mark.parametrize("key", ["id", "the id, or key"])
def test_without_a_watermark_what_was_missed_is_read_and_not_the_table(
    stack: LocalStack, make_table: Callable[..., str], sql: Any, key: str
) -> None:
    """Sixty pages that were written at once, of which nearly nothing has changed."""
    name = make_table(f'"{key}" bigint primary key, n int')
    sql(f"insert into {name} select n, 0 from generate_series(1, 6000) n where n % 300 > 0")
    small = replace(QUICK, page_size=100)
    first_kernel(stack, name, options=small)
    sql(f'update {name} set n = n + 1 where "{key}" % 85 = 0')
    sql(f"insert into {name} select n, 2 from generate_series(6001, 6030) n")
    sql(f'delete from {name} where "{key}" = 7')
    session, frame = kept(stack.url, stack, name, options=small)
    with session:
        told: list[Any] = []
        frame.on_change(told.append)
        until(lambda: frame.status == "live", 20, lambda: frame)
        asked = session.metrics["requests"]
        rows = sql(f'select "{key}", n from {name} order by 1')
        assert sorted(frame.df["n"].items()) == rows
        until(lambda: len({one.key for batch in told for one in batch.changes}) == 100, 10)
        assert asked < 55  # 60 pages of keys and versions alone


@pytest.mark.parametrize("described", ["described_by_sql", "undescribed"])
def test_a_project_that_was_restored_from_an_older_backup_is_not_taken_for_the_later_one(
    stack: LocalStack, table: str, sql: Any, request: pytest.FixtureRequest, described: str
) -> None:
    """Its rows are behind the watermark, as they were before."""
    request.getfixturevalue(described)
    sql(f"update {table} set updated_at = now() - interval '2 days'")
    sql(f"create table {table}_backup as table {table}")
    sql(f"update {table} set note = 'other', updated_at = now() - interval '1 day' where id < 9")
    small = replace(QUICK, page_size=20)
    session, frame = kept(stack.url, stack, table, options=small)
    with session:
        until(lambda: frame.status == "live", 10, lambda: frame)
        sql(f"update {table} set note = 'last', updated_at = now() where id = 7")  # it is believed
        until(lambda: frame.df.loc[7, "note"] == "last", 10)
    sql(f"truncate {table}; insert into {table} table {table}_backup; drop table {table}_backup")
    session, frame = kept(stack.url, stack, table, options=replace(small, audit_interval=0))
    with session:
        until(lambda: frame.status == "live", 10, lambda: frame)
        assert list(frame.df["note"].items()) == sql(f"select id, note from {table} order by id")


def test_a_database_that_is_restored_from_a_copy_is_not_taken_for_the_later_one_by_its_log(
    tmp_path: Path, stack_directory: Path
) -> None:
    """Without a watermark, one row of many that was lost, and more transactions since than were lost."""
    home, copy, port = stack_directory, tmp_path / "copy", free_port()
    options = replace(QUICK, audit_interval=0)

    def kernel(stack: LocalStack, write: str = "select") -> pd.DataFrame:
        session, frame = kept(stack.url, stack, "log", options=options, source="broadcast")
        with session:
            until(lambda: frame.status == "live", 20, lambda: frame)
            before = frame.df
            stack.sql(write)
            until(lambda: write == "select" or frame.df is not before, 10)
            until(lambda: [one.rows for one in cache.entries()] == [3000], 10, cache.entries)
            return frame.df

    with start(directory=home, port=port) as stack:
        stack.sql(
            "create table log (id int primary key, note text);"
            "insert into log select n, 'first' from generate_series(1, 3000) n; grant all on log to anon"
        )
        stack.sql(broadcast_sql("public", ["log"]))
    subprocess.run(["cp", "-a", home, copy], check=True)  # with its owner
    with start(directory=home, port=port) as stack:
        shown = kernel(stack, "update log set note = 'lost' where id = 1234")
        assert shown.loc[1234, "note"] == "lost"
    shutil.rmtree(home)
    copy.rename(home)
    with start(directory=home, port=port) as stack:
        stack.sql(
            "do $$ begin for i in 1..9999 loop perform pg_current_xact_id(); commit; end loop; end $$"
        )
        shown = kernel(stack)
        assert list(shown["note"].items()) == stack.sql("select id, note from log order by id")


def test_without_a_network_it_is_read_and_edited_and_the_edit_leaves_later(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any
) -> None:
    first_kernel(stack, table, proxy.url)
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        frame.edit(3, note="on a train")
        assert frame.df.loc[3, "note"] == "on a train"
        assert len(session.queue) == 1
    session, frame = kept(proxy.url, stack, table)  # the kernel is restarted, and still no network
    with session:
        assert frame.df.loc[3, "note"] == "on a train"
        proxy.up()
        session.retry()
        until(
            lambda: sql(f"select note from {table} where id = 3") == [("on a train",)],
            20,
            lambda: frame,
        )
        until(lambda: frame.status == "live", 20, lambda: frame)


@pytest.mark.usefixtures("undescribed")
def test_without_a_network_the_url_of_what_was_kept_is_no_question(
    stack: LocalStack, proxy: Proxy, table: str
) -> None:
    """The rows are from there: nobody is to look for a mistake in the URL, or to try the embedded stack."""
    first_kernel(stack, table, proxy.url)
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        assert len(frame.df) == 50
        until(lambda: session.health.status == "offline", 10, lambda: session.health)
        until(lambda: "cannot reach" in session.health.reason, 10, lambda: session.health)
        said = str(session.health)
        assert f"cannot reach {proxy.url} now: " in said
        assert "Check the URL" not in said
        until(lambda: frame._feed.failure is not None, 10)
        with pytest.raises(errors.WaitTimeoutError, match="could not be compared") as caught:
            frame.verify(timeout=0.3)
        assert "cannot reach" in str(caught.value)
        asked: list[Callable[[], object]] = [
            lambda: session.rpc("now"),
            lambda: session.tables,
            lambda: session.sign_in("ada@example.com", "x"),
        ]
        for ask in asked:
            with pytest.raises(errors.UnreachableError, match=r"heard of last at \d\d:\d\d") as met:
                ask()
            assert "Check the URL" not in str(met.value)


def test_without_a_network_no_column_of_an_empty_table_is_said_not_to_be_there(
    stack: LocalStack, undescribed: None, proxy: Proxy, make_table: Callable[..., str]
) -> None:
    """No row has named its columns, and nobody can be asked."""
    table = make_table("id bigint primary key, note text")
    assert first_kernel(stack, table, proxy.url).empty
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        assert frame.df.empty
        with pytest.raises(UnreachableError, match="are asked for, and there is no answer"):
            frame.insert(id=1, note="x")


def test_a_local_edit_is_not_in_what_is_kept(stack: LocalStack, proxy: Proxy, table: str) -> None:
    """The queue has it; the table on disk is the server's."""
    session, frame = kept(proxy.url, stack, table)
    with session:
        until(lambda: frame.status == "live", 10, lambda: frame)
        session.queue.pause()
        frame.edit(3, note="mine")
        frame.insert(id=99, note="mine too")
    session, frame = kept(proxy.url, stack, table)
    with session:
        feed: Any = frame._feed
        assert frame.df.loc[3, "note"] == "mine"
        assert feed.overlay.get(3)["note"] == "note 3"
        assert feed.overlay.get(99) is None


def test_it_is_not_kept_unless_said(stack: LocalStack, table: str) -> None:
    with nrt.connect(stack.url, stack.anon_key, options=QUICK) as session:
        frame = session.table(table)
        until(lambda: frame.status == "live", 10, lambda: frame)
    assert cache.entries() == []


@pytest.mark.usefixtures("described_by_sql")
def test_a_session_keeps_its_tables_but_those_with_row_policies(
    stack: LocalStack, table: str, make_table: Callable[..., str], sql: Any
) -> None:
    other = make_table("id bigint primary key")
    sql(f"alter table {other} enable row level security")
    sql(f"create policy all_of_them on {other} for select using (true)")
    options = nrt.Options(keep=True, audit_interval=2.0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        notes: list[str] = []
        session.on_note(lambda kind, text: notes.append(text))
        frames = [
            session.table(table),
            session.table(other),
            session.table(table, keep=False, limit=3),
        ]
        until(lambda: all(one.status == "live" for one in frames), 10, lambda: frames)
        until(lambda: any("row policies" in text for text in notes), 10)
    assert [one.table for one in cache.entries()] == [f"public.{table}"]


def test_a_script_that_keeps_its_tables_is_told_of_one_that_is_not(
    stack: LocalStack, undescribed: None, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It has nobody who is shown notes, and would find out without a network."""
    options = nrt.Options(keep=True, audit_interval=2.0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        session.table(table).wait(scaled(10))
        until(lambda: "keep=True) keeps it" in caplog.text, 10)
    assert [one.levelname for one in caplog.records if "keep=True" in one.message] == ["WARNING"]


def test_signing_out_removes_what_was_kept_and_no_login_sees_anothers(
    stack: LocalStack, table: str, sql: Any
) -> None:
    sql(f"alter table {table} enable row level security")
    sql(f"create policy mine on {table} for select to authenticated using (true)")
    user = "6f1c1c1e-0000-4000-8000-000000000001"
    session, frame = kept(stack.url, stack, table)
    with session:
        until(lambda: [one.rows for one in cache.entries()] == [0], 10, lambda: frame)
        session.set_auth(stack.token("authenticated", user))
        until(lambda: len(frame.df) == 50, 10)
        until(lambda: sorted(one.rows for one in cache.entries()) == [0, 50], 10, cache.entries)
        for path in cache.root().rglob("*"):
            if path.is_file():
                raw = path.read_bytes()
                assert user.encode() not in raw
                assert b"eyJ" not in raw  # how each token and key begins
        session.sign_out()
        until(lambda: len(frame.df) == 0, 10)
        assert [one.rows for one in cache.entries()] == [0]
    assert [one.rows for one in cache.entries()] == [0]


def test_what_was_kept_of_one_login_is_not_shown_to_the_next_that_comes_while_it_is_read(
    stack: LocalStack, table: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(f"alter table {table} enable row level security")
    sql(f"create policy mine on {table} for select to authenticated using (true)")
    token = stack.token("authenticated", "6f1c1c1e-0000-4000-8000-000000000001")
    session, frame = kept(stack.url, stack, table)
    with session:
        session.set_auth(token)
        until(lambda: 50 in [one.rows for one in cache.entries()], 10, cache.entries)
    reading, may_end, shown = threading.Event(), threading.Event(), []
    read, show = Keeping.read, TableDriver._show_kept

    async def slowly(keeping: Keeping) -> Any:
        found = await read(keeping)
        reading.set()
        await asyncio.to_thread(may_end.wait, scaled(10))
        return found

    async def noted(driver: TableDriver, warm: Any) -> None:
        shown.append(warm.table)
        await show(driver, warm)

    monkeypatch.setattr(Keeping, "read", slowly)
    monkeypatch.setattr(TableDriver, "_show_kept", noted)
    with nrt.connect(stack.url, stack.anon_key) as session:
        session.set_auth(token)
        frame = session.table(table, keep=True)
        assert reading.wait(scaled(10))
        session.sign_out()
        may_end.set()
        until(lambda: frame.status == "live", 10, lambda: frame)
        assert frame.df.empty
        assert shown == []


def test_signing_out_removes_what_a_table_writes_that_was_closed_just_before(
    stack: LocalStack, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writes, may_write = Shelf.write, threading.Event(), threading.Event()

    def slowly(*given: Any) -> int:
        writes.set()
        assert may_write.wait(scaled(10))
        return write(*given)

    session, frame = kept(stack.url, stack, table)
    with session:
        session.set_auth(stack.token("authenticated", "6f1c1c1e-0000-4000-8000-000000000001"))
        until(lambda: frame.status == "live" and cache.entries(), 10, lambda: frame)
        assert cache.clear() > 0
        monkeypatch.setattr(Shelf, "write", slowly)
        keeping: Any = frame._feed.keeping  # type: ignore[attr-defined]
        frame._feed.thread.call(lambda: setattr(keeping, "_whole", True))
        frame.close()
        assert writes.wait(scaled(10))
        ending = threading.Timer(1.0, may_write.set)  # a slow disk
        ending.start()
        session.sign_out()
        ending.join()
    assert cache.entries() == []


@pytest.mark.parametrize("other", ["role", "claim", "tenant"])
def test_what_one_token_may_see_is_not_shown_for_one_that_may_see_other_rows(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any, other: str
) -> None:
    """Of the same user in another role or tenant, and of nobody with another claim that policies go by."""
    sql(f"alter table {table} enable row level security")
    claim = "auth.jwt()->>'tenant'" if other == "claim" else "auth.jwt()->'app_metadata'->>'tenant'"
    by = "true" if other == "role" else f"({claim})::int = id % 2"
    to = "service_role" if other == "role" else "authenticated"
    sql(f"create policy theirs on {table} for select to {to} using ({by})")
    user = "6f1c1c1e-0000-4000-8000-000000000001"
    if other == "role":
        tokens = [stack.token("service_role", user), stack.token("authenticated", user)]
    elif other == "claim":
        tokens = [stack.token("authenticated", tenant=tenant) for tenant in ("1", "0")]
    else:
        said = [{"tenant": tenant} for tenant in ("1", "0")]
        tokens = [stack.token("authenticated", user, app_metadata=one) for one in said]
    session, frame = kept(proxy.url, stack, table)
    with session:
        session.set_auth(tokens[0])
        seen = 50 if other == "role" else 25
        until(lambda: seen in [one.rows for one in cache.entries()], 10, cache.entries)
    proxy.down()
    with nrt.connect(proxy.url, stack.anon_key, options=QUICK) as session:
        session.set_auth(tokens[1])
        frame = session.table(table, keep=True)
        until(lambda: session.health.status == "offline", 10, lambda: session.health)
        assert frame.status == "loading"
    proxy.up()
    session, frame = kept(proxy.url, stack, table)
    with session:
        for token in tokens:
            session.set_auth(token)
            until(lambda: frame.status == "live", 10, lambda: frame)
            rows = set(frame.df.index)
            until(cache.entries, 10)
        assert rows == (set() if other == "role" else {n for n in range(1, 51) if n % 2 == 0})


def test_a_fresh_token_of_the_same_user_in_another_tenant_shows_and_keeps_none_of_the_firsts_rows(
    stack: LocalStack, table: str, sql: Any
) -> None:
    by = "(auth.jwt()->'app_metadata'->>'tenant')::int = id % 2"
    sql(f"alter table {table} enable row level security")
    sql(f"create policy theirs on {table} for select to authenticated using ({by})")
    user = "6f1c1c1e-0000-4000-8000-000000000001"
    first, later = [
        stack.token("authenticated", user, app_metadata={"tenant": one}, session_id=one)
        for one in ("1", "0")
    ]
    session, frame = kept(stack.url, stack, table)
    seen: list[set[int]] = []
    with session:
        session.set_auth(first)
        until(lambda: frame.status == "live" and 1 in frame.df.index, 10, lambda: frame)
        until(lambda: 25 in [one.rows for one in cache.entries()], 10, cache.entries)
        frame.on_change(lambda batch: seen.append(set(frame.df.index)))
        session._thread.wait(session._project._refreshed(later))
        until(lambda: frame.status == "live" and 2 in frame.df.index, 10, lambda: frame)
        until(lambda: [one.rows for one in cache.entries()] == [25, 25], 10, cache.entries)
        assert not any({1, 2} <= rows for rows in seen)
        other = stack.token("authenticated", "6f1c1c1e-0000-4000-8000-000000000002")
        session.set_auth(other)
        until(lambda: [one.rows for one in cache.entries()] == [25, 25, 0], 10, cache.entries)
        session.set_auth(later)
        session.sign_out()  # of every tenant, and of nobody else
        until(lambda: {one.rows for one in cache.entries()} <= {0}, 10, cache.entries)
        assert cache.entries()


def test_a_file_that_cannot_be_used_is_as_if_it_were_not_there(
    stack: LocalStack, table: str
) -> None:
    shown = first_kernel(stack, table)
    (one,) = cache.entries()
    raw = bytearray(one.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    one.path.write_bytes(raw)
    session, frame = kept(stack.url, stack, table)
    with session:
        until(lambda: frame.status == "live", 10, lambda: frame)
        pd.testing.assert_frame_equal(frame.df, shown)
        assert session.metrics["kept_refused"] == 1
        assert "checksum" in session.health.disk


@pytest.mark.skipif(os.name == "nt", reason="a directory's mode")
def test_a_disk_that_cannot_be_written_harms_nothing_and_is_reported_once(
    stack: LocalStack, table: str, monkeypatch: pytest.MonkeyPatch, sql: Any
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "write", full)
    session, frame = kept(stack.url, stack, table)
    with session:
        notes: list[str] = []
        session.on_note(lambda kind, text: notes.append(text))
        until(lambda: "No space left" in session.health.disk, 10, lambda: session.health)
        sql(f"update {table} set note = 'other' where id = 7")
        until(lambda: frame.df.loc[7, "note"] == "other", 10)
        assert session.health.status in ("healthy", "connecting")
        assert sum("No space left" in text for text in notes) <= 1
    assert cache.entries() == []


def test_two_kernels_read_one_cache_and_one_writes(stack: LocalStack, table: str, sql: Any) -> None:
    session, frame = kept(stack.url, stack, table)
    with session:
        until(lambda: cache.entries(), 10)
        other, again = kept(stack.url, stack, table)
        with other:
            until(lambda: again.status == "live", 10, lambda: again)
            sql(f"update {table} set note = 'other' where id = 7")
            until(lambda: again.df.loc[7, "note"] == "other", 10)
            until(lambda: frame.df.loc[7, "note"] == "other", 10)
        assert "disk" not in other.health.disk
    session, frame = kept("http://127.0.0.1:9", stack, table)
    session.close()
    session, frame = kept(stack.url, stack, table)
    with session:
        assert frame.df.loc[7, "note"] == "other"
        assert frame.wait(timeout=scaled(10)) is not None


def test_a_table_in_an_order_that_only_the_server_knows_is_kept_in_it(
    stack: LocalStack, proxy: Proxy, make_table: Callable[..., str], sql: Any
) -> None:
    name = make_table("id bigint primary key, name text")
    sql(f"insert into {name} values (1, 'b'), (2, 'A'), (3, 'a'), (4, 'B'), (5, 'c')")
    shown = first_kernel(stack, name, proxy.url, order="name", limit=4)
    proxy.down()
    session, frame = kept(proxy.url, stack, name, order="name", limit=4)
    with session:
        pd.testing.assert_frame_equal(frame.df, shown)
        proxy.up()
        session.retry()
        until(lambda: frame.status == "live", 20, lambda: frame)
        pd.testing.assert_frame_equal(frame.df, shown)


@pytest.mark.parametrize("limit", [None, 4])
def test_an_order_that_the_server_has_told_since_the_snapshot_is_kept(
    stack: LocalStack,
    proxy: Proxy,
    make_table: Callable[..., str],
    sql: Any,
    limit: int | None,
) -> None:
    name = make_table("id bigint primary key, name text")
    sql(f"insert into {name} values (1, 'b'), (2, 'A'), (3, 'a'), (4, 'B'), (5, 'c')")
    session, frame = kept(proxy.url, stack, name, order="name", limit=limit)
    with session:
        until(lambda: [one.rows for one in cache.entries()] == [5], 10, cache.entries)
        sql(f"update {name} set name = 'aa' where id = 5; insert into {name} values (6, 'Ä')")
        right = [key for (key,) in sql(f"select id from {name} order by name, id")][:limit]
        until(lambda: list(frame.df.index) == right, 10, lambda: frame.df)
        shown = frame.df
    proxy.down()
    session, frame = kept(proxy.url, stack, name, order="name", limit=limit)
    with session:
        pd.testing.assert_frame_equal(frame.df, shown)


def test_other_columns_on_the_server_replace_what_was_kept(
    stack: LocalStack, table: str, sql: Any
) -> None:
    first_kernel(stack, table)
    sql(f"alter table {table} add column more text default 'x'")
    session, frame = kept(stack.url, stack, table)
    with session:
        until(lambda: frame.status == "live", 20, lambda: frame)
        assert set(frame.df["more"]) == {"x"}


@pytest.mark.usefixtures("undescribed")
def test_another_key_on_the_server_is_discovered_though_rows_are_read_by_the_old_one(
    stack: LocalStack, table: str, sql: Any
) -> None:
    first_kernel(stack, table)
    sql(f"alter table {table} drop constraint {table}_pkey, add primary key (id, note)")
    sql(f"insert into {table} values (1, 'once more', 1, now())")
    session, frame = kept(stack.url, stack, table)
    with session:
        feed: Any = frame._feed
        feed._row_suspect(1)
        until(lambda: frame.status in ("live", "error"), 20, lambda: frame)
        assert frame.df.index.names == ["id", "note"]
        assert len(frame.df) == 51


def test_as_of_is_when_it_was_proven_whatever_is_heard_in_a_gap(
    stack: LocalStack, proxy: Proxy, table: str, sql: Any
) -> None:
    """Changes come again, and what was missed cannot be read: the rows are as of before the gap."""
    quiet = replace(QUICK, audit_interval=0)
    session, frame = kept(proxy.url, stack, table, options=quiet)
    with session:
        feed: Any = frame._feed
        until(lambda: frame.status == "live" and cache.entries(), 10, lambda: frame)
        # Soon after the table was read, what comes may be in what was read: the row is read again.
        until(lambda: feed.services.rest.clock() > feed.machine._horizon.floor, 10)
        proxy.rules = (Answer(status=503),)
        feed.thread.call(feed.subscription.gap, "a cable was pulled")
        before = frame.synced_at
        sql(f"update {table} set note = 'heard' where id = 7")
        until(lambda: frame.df.loc[7, "note"] == "heard", 10, lambda: frame)
        assert frame.synced_at == before
    (one,) = cache.entries()
    assert before is not None
    assert one.as_of <= before.timestamp()
    proxy.down()
    session, frame = kept(proxy.url, stack, table)
    with session:
        assert frame.df.loc[7, "note"] == "heard"
        assert frame.synced_at == before


def test_nothing_of_it_is_open_to_others(stack: LocalStack, table: str, tmp_path: Path) -> None:
    first_kernel(stack, table)
    (one,) = cache.entries()
    assert one.path.is_relative_to(tmp_path)
    assert {path.stat().st_mode & 0o077 for path in one.path.parent.iterdir()} == {0}
    assert one.path.parent.stat().st_mode & 0o077 == 0
