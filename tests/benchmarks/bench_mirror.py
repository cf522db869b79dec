"""The cost of closing gaps and of audits (docs/design/performance.md §4).

Each beside the first load of the same rows in the same run, with our SQL in the project and without.
From the asking to the mirror's word that it is done, in a session over a local stack.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, cast

import httpx
import orjson
import pandas as pd

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from notebook_rt.runtime.optional_sql import AUDIT_SQL
from notebook_rt.runtime.table import TableDriver
from tests.benchmarks.harness import OURS, Result

SUITE = "true again, and proven"
CHANGES = 100
LOADS = 3
"""First loads, in turns with the bare client's, of which the median counts; and audits."""
SETTLE = 2.5
"""Seconds until changes are applied as they come."""
FIRST_LOAD = "the first load"
KEYS = {"bigint": "g", "uuid": "md5(g::text)::uuid"}


@contextlib.contextmanager
def a_stack() -> Iterator[LocalStack]:
    with tempfile.TemporaryDirectory() as directory, nrt.local.start(directory) as stack:
        yield stack


def make_table(stack: LocalStack, rows: int, key: str, with_sql: bool) -> None:
    """A table of ``rows`` rows, in place of another."""
    stack.sql("drop table if exists big")
    stack.sql(
        f"create table big (id {key} primary key, bid float8, ask float8, size int, "
        "open bool, symbol text, note text, updated_at timestamptz default now())"
    )
    stack.sql(
        f"insert into big select {KEYS[key]}, g / 3.0, g / 7.0, g % 100, true, 'S' || g % 500, "
        "'checked by the desk', now() - interval '1 hour' "
        f"from generate_series(1, {rows}) g"
    )
    stack.sql("vacuum analyze big")
    stack.sql("alter publication supabase_realtime add table big")
    stack.sql("grant all on big to anon")
    if with_sql:
        stack.sql(AUDIT_SQL.read_text())


class Watched:
    """A live table whose passes are started by hand."""

    def __init__(self, stack: LocalStack, rows: int, settle: float) -> None:
        self.session = nrt.connect(stack.url, stack.anon_key, options=nrt.Options(audit_interval=0))
        self.first_load, self.frame = timed_load(self.session, rows)
        self.feed = cast(TableDriver, self.frame._feed)
        until(lambda: self.frame.status == "live")
        time.sleep(settle)

    @property
    def requests(self) -> int:
        return self.session._project.rest.http.requests

    def audit(self) -> tuple[float, int]:
        """Milliseconds and requests of one."""
        return self.timed(lambda: self.feed.verify(), lambda: int(self.session.metrics["audits"]))

    def gap(self) -> tuple[float, int]:
        """Milliseconds and requests until it is closed."""
        return self.timed(
            lambda: self.feed.subscription.gap("made here"),
            lambda: int(self.session.metrics["reconciliations"]),
        )

    def timed(self, start: Callable[[], None], done: Callable[[], int]) -> tuple[float, int]:
        requests, count, began = self.requests, done(), time.perf_counter()
        self.feed.thread.post(start)
        until(lambda: done() > count)
        return (time.perf_counter() - began) * 1e3, self.requests - requests


def timed_load(session: nrt.Session, rows: int) -> tuple[float, nrt.LiveFrame]:
    """Milliseconds from the asking to the DataFrame, and the frame."""
    began = time.perf_counter()
    frame = session.table("big").wait(600)
    assert len(frame.df) == rows
    return (time.perf_counter() - began) * 1e3, frame


def load(stack: LocalStack, rows: int) -> float:
    """Milliseconds of a first load, by a session of its own."""
    options = nrt.Options(audit_interval=0)
    with nrt.connect(stack.url, stack.anon_key, options=options) as session:
        return timed_load(session, rows)[0]


def by_hand(stack: LocalStack) -> float:
    """Milliseconds that the bare client needs for the same rows: pages by key, one DataFrame."""
    headers = {"apikey": stack.anon_key, "Authorization": f"Bearer {stack.anon_key}"}
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    params = {"select": "*", "order": "id.asc", "limit": "1000"}
    with httpx.Client(base_url=f"{stack.url}/rest/v1", headers=headers, timeout=60) as client:
        while page := orjson.loads(client.get("/big", params=params).content):
            rows += page
            params["id"] = f"gt.{page[-1]['id']}"
    frame = pd.DataFrame(rows)
    frame["updated_at"] = pd.to_datetime(frame["updated_at"], format="ISO8601")
    assert len(frame.set_index("id")) == len(rows)
    return (time.perf_counter() - began) * 1e3


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def lost(stack: LocalStack, rows: int) -> None:
    """100 changes that nobody is told: 60 updates, 30 rows that come, 10 scattered ones that go."""
    stack.sql("alter publication supabase_realtime set (publish = 'truncate')")
    stack.sql("update big set bid = bid + 1, updated_at = now() where id in "
              "(select id from big order by id limit 60)")  # fmt: skip
    stack.sql("insert into big select id + 10000000, bid from big order by id limit 30")
    stack.sql(f"delete from big where id <= {rows} and id % {rows // 10} = {rows // 20}")
    stack.sql("alter publication supabase_realtime set (publish = 'insert, update, delete')")


def first_loads(stack: LocalStack, rows: int, what: str, loads: int) -> list[Result]:
    """A first load beside the bare client's."""
    pairs = [(load(stack, rows), by_hand(stack)) for _ in range(loads)]
    ours, bare = (median(one) for one in zip(*pairs, strict=True))
    case = f"first load, {what}"
    note = "goal: at most 1.5 times the bare client's time"
    return [
        Result(SUITE, case, OURS, ours, note=note),
        Result(SUITE, case, "httpx, orjson, DataFrame", bare),
    ]


def measured(
    stack: LocalStack,
    rows: int,
    key: str,
    with_sql: bool,
    loads: int = LOADS,
    settle: float = SETTLE,
) -> list[Result]:
    """An audit of the true table, and a gap of 100 changes where keys are numbers."""
    side = OURS if with_sql else f"{OURS}, without SQL"
    what = f"{rows:,} rows, {key} key"
    make_table(stack, rows, key, with_sql)
    results = first_loads(stack, rows, what, loads) if with_sql else []
    watched = Watched(stack, rows, settle)
    with watched.session:
        took, requests = min(watched.audit() for _ in range(loads))
        goal = "goal: 2 requests, 1 s" if with_sql and rows >= 1_000_000 else ""
        note = f"{requests} requests; {goal}"
        results += [
            Result(SUITE, f"audit of a true table, {what}", side, took, note=note),
            Result(SUITE, f"audit of a true table, {what}", FIRST_LOAD, watched.first_load),
        ]
        if key == "bigint":
            lost(stack, rows)
            took, requests = watched.gap()
            count = stack.sql("select count(*) from big")[0][0]
            assert len(watched.frame.df) == count
            case = f"a gap of {CHANGES} changes, {what}"
            note = f"{requests} requests; goal: a tenth of the first load"
            results += [
                Result(SUITE, case, side, took, note=note),
                Result(SUITE, case, FIRST_LOAD, watched.first_load),
            ]
    return results


def run(quick: bool) -> list[Result]:
    """100k rows and, for audits, a million."""
    if quick:
        with a_stack() as stack:  # one; without the SQL first
            return [
                *measured(stack, 1_500, "bigint", False, loads=1, settle=0.0),
                *measured(stack, 1_500, "uuid", True, loads=1, settle=0.0),
            ]
    results = []
    for rows, key, with_sql in (
        (100_000, "bigint", True),
        (100_000, "bigint", False),
        (100_000, "uuid", True),
        (1_000_000, "bigint", True),
        (1_000_000, "bigint", False),
    ):
        with a_stack() as stack:
            results += measured(stack, rows, key, with_sql)
    return results
