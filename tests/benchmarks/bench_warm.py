"""A table stored by an earlier kernel, with the network back and 100 rows changed meanwhile.

Each start is a fresh process: how soon it has its ``df``, and how soon the table says ``live``, which it
may only when it is as SQL has it. With our SQL, with a column that every change moves (a watermark), and
with neither. Time counts from ``connect``, with what is imported behind it. Beside it, the first load of the
same table.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import notebook_rt as nrt
from notebook_rt.local import LocalStack, StackOptions
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.runtime.optional_sql import optional_sql
from tests.benchmarks.harness import OURS, Result

SUITE = "a kept table, 100 rows behind, until it is live"
CASES = {
    f"{OURS} with our SQL": ("plain", optional_sql()),
    f"{OURS} with a watermark": ("stamped", ""),
    OURS: ("plain", ""),
}
COLUMNS = "id bigint primary key, a bigint, b float8, c text, d int, e int, f numeric(9, 2), g bool, day date"
VALUES = "n, 7 * n, n / 3.0, 'd' || n % 9, n % 100, 0, n % 1000 / 8.0, n % 2 = 0, date '2026-01-01' + n % 365"
SCRIPT = """
import json, sys, time
import notebook_rt as nrt
url, key, table = sys.argv[1:4]
began = time.perf_counter()
session = nrt.connect(url, key)
frame = session.table(table, keep=True).wait(300)
df = frame.df
shown, status = time.perf_counter() - began, frame.status
while frame.status != "live":
    time.sleep(0.005)
proven = time.perf_counter() - began
df = frame.df
found = [len(df), int(df["a"].sum()), int(df["e"].sum())]
print(json.dumps([status, 1e3 * shown, 1e3 * proven, session.metrics["requests"], found]), flush=True)
session.close()
"""


@contextlib.contextmanager
def stack_with(rows: int, sql: str, stamped: bool) -> Iterator[LocalStack]:
    """The table ``kept``, filled by one statement, as an import leaves it."""
    options = StackOptions(realtime=RealtimeOptions(events_per_second=None))
    with contextlib.ExitStack() as closing:
        directory = closing.enter_context(tempfile.TemporaryDirectory())
        stack = closing.enter_context(nrt.local.start(directory, options=options))
        if sql:
            stack.sql(sql)
        stamp = ", updated_at timestamptz not null default clock_timestamp()" if stamped else ""
        stack.sql(f"create table kept ({COLUMNS}{stamp})")
        stack.sql(f"insert into kept select {VALUES} from generate_series(1, {rows}) n")
        if stamped:
            stack.sql("create index on kept (updated_at)")
        stack.sql("vacuum analyze kept")
        stack.sql("grant select on kept to anon")
        stack.sql("alter publication supabase_realtime add table kept")
        yield stack


def change(stack: LocalStack, rows: int, turn: int, stamped: bool) -> None:
    """60 rows change, 30 come and 10 go, all over the table."""
    stamp = ", updated_at = clock_timestamp()" if stamped else ""
    step = rows // 60
    stack.sql(f"update kept set e = e + 1{stamp} where id % {step} = {turn + 7} and id <= {rows}")
    first = rows + 1 + 30 * turn
    names = "id, a, b, c, d, e, f, g, day"
    stack.sql(
        f"insert into kept ({names}) select {VALUES} from generate_series({first}, {first + 29}) n"
    )
    stack.sql(f"delete from kept where id % {rows // 10} = {step // 2 + turn} and id <= {rows}")


def started(stack: LocalStack, home: str) -> tuple[str, float, float, int]:
    """One start in a process of its own; raises where the rows are not those of the server."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, stack.url, stack.anon_key, "kept"],
        env={**os.environ, "XDG_CACHE_HOME": home, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    status, shown, proven, requests, found = json.loads(done.stdout)
    (expected,) = stack.sql("select count(*), sum(a)::bigint, sum(e)::bigint from kept")
    assert found == list(expected), (found, expected)
    return status, shown, proven, requests


def measured(rows: int, repeats: int) -> Iterator[Result]:
    """Every way to prove it, one after the other."""
    for side, (kind, sql) in CASES.items():
        stamped = kind == "stamped"
        with stack_with(rows, sql, stamped) as stack, tempfile.TemporaryDirectory() as home:
            _, _, first, _ = started(stack, home)
            starts = []
            for turn in range(repeats):
                change(stack, rows, turn, stamped)
                starts.append(started(stack, home))
        statuses, shown, proven, requests = zip(*starts, strict=True)
        assert set(statuses) == {"stale"}, statuses
        note = f"{statistics.median(requests):.0f} requests, from {min(proven):,.0f} to {max(proven):,.0f} ms"
        case = f"{rows:,} rows"
        yield Result(SUITE, f"{case}, df", side, statistics.median(shown))
        yield Result(SUITE, f"{case}, live", side, statistics.median(proven), note=note)
        if side == OURS:
            yield Result(SUITE, f"{case}, live", "the first load", first)


def run(quick: bool) -> list[Result]:
    """A million rows of nine columns."""
    return list(measured(2_000, 1) if quick else measured(1_000_000, 5))
