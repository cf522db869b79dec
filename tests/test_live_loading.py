"""A first load keeps several requests in progress, for any key, and adapts to the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.model.http import Answer, Request
from notebook_rt.net.http import HttpClient
from notebook_rt.runtime.optional_sql import AUDIT_SQL
from tests.benchmarks import bench_far
from tests.link import Link
from tests.waiting import scaled, until

ROWS = 12_000
KEYS = {
    "id": ("id bigint primary key, body text", "select n, 'row ' || n"),
    "sku": ("sku text primary key, body text", "select md5(n::text), 'row ' || n"),
    "sensor, at": (
        "sensor int, at timestamptz, body text, primary key (sensor, at)",
        "select n % 60, timestamptz '2026-01-01Z' + n * interval '1 s', 'row ' || n",
    ),
    "tenant, id": (
        "tenant uuid, id bigint, body text, primary key (tenant, id)",
        "select '00000000-0000-4000-8000-000000000007', n, 'row ' || n",
    ),
}


@pytest.fixture(scope="module", params=KEYS)
def key(request: pytest.FixtureRequest, stack: LocalStack) -> Iterator[str]:
    """A table of that key, named ``loaded``."""
    columns, rows = KEYS[request.param]
    stack.sql(f"create table loaded ({columns})")
    stack.sql(f"insert into loaded {rows} from generate_series(1, {ROWS}) n")
    stack.sql("grant select on loaded to anon; analyze loaded")
    stack.sql("alter publication supabase_realtime add table loaded")
    yield request.param
    stack.sql("drop table loaded")


def test_a_far_table_is_whole_and_in_the_keys_order_many_pages_at_a_time(
    stack: LocalStack, key: str
) -> None:
    with Link(stack.url, 0.25) as link, nrt.connect(link.url, stack.anon_key) as rt:
        df = rt.table("loaded").wait(scaled(60)).df.reset_index()
    order = ", ".join(
        f'"{name}" collate "C"' if name == "sku" else name for name in key.split(", ")
    )
    there = stack.sql(f"select * from loaded order by {order}")
    names = [*key.split(", "), "body"]
    expected = pd.DataFrame(there, columns=names)
    for name in names:
        assert df[name].astype(str).tolist() == [
            str(pd.Timestamp(v)) if name == "at" else str(v) for v in expected[name]
        ]
    assert link.at_once >= 6


def test_a_table_that_cannot_be_read_in_a_page_within_the_timeout_is_read_in_smaller_ones(
    stack_directory: Path,
) -> None:
    """A policy that is slow for each row: 1,000 rows take longer than a statement may."""
    with start(stack_directory, options=StackOptions(anon_timeout=0.25)) as stack:
        stack.sql("create table slow (id bigint primary key)")
        stack.sql("insert into slow select n from generate_series(1, 1500) n")
        stack.sql(
            "create function patience(id bigint) returns boolean language plpgsql as "
            "$$ begin perform pg_sleep(0.0005); return true; end $$"
        )
        stack.sql("grant execute on function patience to anon")
        stack.sql("alter table slow enable row level security")
        stack.sql("create policy p on slow using (patience(id))")
        stack.sql(
            "grant select on slow to anon; alter publication supabase_realtime add table slow"
        )
        refused = httpx.get(f"{stack.url}/rest/v1/slow", headers={"apikey": stack.anon_key})
        assert refused.json()["code"] == "57014"
        notes: list[tuple[str, str]] = []
        with nrt.connect(stack.url, stack.anon_key) as rt:
            rt.on_note(lambda *note: notes.append(note))
            frame = rt.table("slow").wait(scaled(60))
            assert frame.df.index.tolist() == list(range(1, 1501))
            assert not [text for _, text in notes if "timeout" in text]


def test_a_session_has_no_more_reads_under_way_than_it_is_told(
    stack: LocalStack, make_table: Callable[..., str]
) -> None:
    """Several tables at once included."""
    tables = [make_table("id bigint primary key") for _ in range(3)]
    for table in tables:
        stack.sql(f"insert into {table} select n from generate_series(1, 6000) n")
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        asked = (
            "select count(*) from pg_stat_activity where state = 'active' "
            "and query like 'with%' and pid <> pg_backend_pid()"
        )
        while not done.is_set():
            most = max(most, int(stack.sql(asked)[0][0]))

    options = nrt.Options(reads_at_once=3, page_size=500)
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with nrt.connect(stack.url, stack.anon_key, options=options) as rt:
            frames = [rt.table(table) for table in tables]
            for frame in frames:
                assert len(frame.wait(scaled(60))) == 6_000
    finally:
        done.set()
        watching.join()
    assert most <= 3


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sql", [False, True], ids=["without the SQL", "with the SQL"])
def test_a_million_rows_are_loaded_audited_and_reconciled_within_the_timeout(
    stack_directory: Path, monkeypatch: pytest.MonkeyPatch, sql: bool
) -> None:
    """A hosted project's 3 s for a statement of ``anon``; no request of ours needs a third of them."""
    asked: list[tuple[float, int]] = []
    send = HttpClient.send

    async def watched(self: HttpClient, request: Request, **how: Any) -> Answer:
        began = time.perf_counter()
        answer = await send(self, request, **how)
        asked.append((time.perf_counter() - began, answer.status))
        return answer

    monkeypatch.setattr(HttpClient, "send", watched)
    realtime = RealtimeOptions(events_per_second=None)
    with start(stack_directory, options=StackOptions(realtime=realtime)) as stack:
        stack.sql("create table big (id bigint primary key, bid float8, note text)")
        stack.sql("insert into big select n, n, 'checked' from generate_series(1, 1000000) n")
        stack.sql("analyze big; grant select on big to anon")
        stack.sql("alter publication supabase_realtime add table big")
        if sql:
            stack.sql(AUDIT_SQL.read_text())
            stack.sql("grant execute on all functions in schema public to anon")
        with nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=2)) as rt:
            frame = rt.table("big").wait(scaled(300))
            assert len(frame.df) == 1_000_000
            until(lambda: rt.metrics["audits"] >= 1, 120)
            stack.sql("update big set bid = -1 where id % 10000 = 0")
            until(lambda: (frame.df["bid"] == -1).sum() == 100, 60)
            audits = rt.metrics["audits"]
            until(lambda: rt.metrics["audits"] > audits, 120)
            # 100 changes at once are near what the smallest plan may have in a second: the session is
            # "behind" until an audit has looked that began after the server may have dropped some.
            until(lambda: rt.health.status == "healthy", 60, lambda: repr(rt.health))
    assert not [status for _, status in asked if status >= 500]
    assert max(seconds for seconds, _ in asked) < scaled(1.0)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [0, 1], ids=list(bench_far.KEYS))
def test_a_far_first_load_takes_little_longer_than_bare_requests_whatever_the_key(
    place: int,
) -> None:
    """Loosely, for a machine that does other things: what is meant is 1.3, and what is asked when is
    held by ``tests/sync/test_ranges.py``.
    """
    rows, turns = 100_000, 5
    with bench_far.stack_with(rows) as stack, Link(stack.url, bench_far.ROUND_TRIP) as link:
        bare, mine = [], []
        for _ in range(turns):
            bare.append(bench_far.bare(link, stack, place, rows, bench_far.AT_ONCE))
            mine.append(bench_far.ours(link, stack, place, rows))
    assert bench_far.ratio(mine, bare) < 1.8


@pytest.mark.parametrize("sign", ["{", "}", "{}", '"', "\\", "(", ",", ".", " ", "%", "'"])
def test_keys_of_several_columns_may_begin_with_any_sign(
    stack: LocalStack, make_table: Callable[..., str], sign: str
) -> None:
    table = make_table("a text, b int, n int, primary key (a, b)")
    stack.sql(
        f"insert into {table} select %s || mod(g, 7) || %s, g, g from generate_series(1, 2500) g",
        sign,
        sign,
    )
    with nrt.connect(stack.url, stack.anon_key) as rt:
        frame = rt.table(table).wait(scaled(20))
        assert len(frame.df) == 2500
        until(lambda: frame.status == "live", what=lambda: frame)
        stack.sql(f"update {table} set n = -1 where b = 1")
        stack.sql(f"insert into {table} values (%s, 1, 0)", sign)
        until(lambda: (frame.df.n == -1).sum() == 1 and (sign, 1) in frame.df.index, 3)
        assert frame.verify(scaled(20)).differed == 0
        frame.edit((sign, 1), n=5)
        assert rt.queue.flush(scaled(10)) == 0
        assert stack.sql(f"select n from {table} where a = %s and b = 1", sign) == [(5,)]
