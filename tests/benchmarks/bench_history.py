"""The cost of recording a table's past, and of reading it (docs/design/history.md).

The processor's time for a change, from its frame to a snapshot ten times a second, with the past recorded
and without; then an hour of 100 changes a second on 100,000 rows: the bytes, and how soon a moment of it is
a frame. Beside it a copy of the frame a minute, which knows 60 moments of the hour.
"""

from __future__ import annotations

import datetime as dt
import gc
import json
import random
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from notebook_rt.disk.archive import Archive
from notebook_rt.disk.kept import Identity
from notebook_rt.edits.overlay import Overlay
from notebook_rt.model.rows import Op, Upsert
from notebook_rt.model.spec import TableSpec
from notebook_rt.net.websocket.frames import ChangeFrame, decode_frame
from notebook_rt.options import Options
from notebook_rt.store.journal import JournalledTable
from notebook_rt.sync.history.past import Beginning, Past, View
from notebook_rt.sync.table.horizon import Horizon
from notebook_rt.sync.table.replica import Replica
from tests.benchmarks.harness import OURS, Result
from tests.benchmarks.workload import SCHEMA, row, rows, table

SUITE = "history"
HOUR = 3600
TURN = 20
"""Changes that come in one turn of the loop, at 2,000 a second."""
BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def frames(count: int, number: int) -> list[bytes]:
    """Updates of random rows, as Realtime sends them."""
    chance = random.Random(3)
    columns = [{"name": one.name, "type": one.pg_type} for one in SCHEMA.columns]
    made = []
    for at in range(number):
        record = row(chance.randrange(count), chance)
        record["updated_at"] = record["updated_at"].isoformat()
        data = {
            "table": "prices",
            "type": "UPDATE",
            "record": record,
            "columns": columns,
            "errors": None,
            "schema": "public",
            "commit_timestamp": (BEGIN + dt.timedelta(milliseconds=at // 2)).isoformat(),
            "old_record": {"id": record["id"]},
        }
        message = {"ref": None, "event": "postgres_changes", "topic": "realtime:prices"}
        message["payload"] = {"data": data, "ids": [1]}  # type: ignore[assignment]  # of JSON
        made.append(json.dumps(message, separators=(",", ":")).encode())
    return made


def live(count: int, sent: list[bytes], recorded: bool, archive: Archive | None = None) -> float:
    """Microseconds of the processor for a change; with ``archive``, written to the disk each second."""
    below = JournalledTable(SCHEMA)
    below.apply([Upsert(one["id"], one) for one in rows(count)])
    overlay = Overlay(below, SCHEMA)
    replica = Replica(TableSpec("prices"), SCHEMA, SCHEMA, Horizon(Options()))
    replica.rows, replica.want_changes = overlay, True
    past = Past(HOUR * 10**6, 1 << 30)
    if recorded:
        past.begin(SCHEMA, below.parts(), 0, View(), "snapshot")
        overlay.heard = []
    if archive is not None:
        past.start_writing()
        write(past, archive)
    gc.collect()
    began = time.process_time()
    for at in range(0, len(sent), TURN):
        found = [decode_frame(frame) for frame in sent[at : at + TURN]]
        changes = [one.change for one in found if isinstance(one, ChangeFrame) and one.change]
        replica.receive(changes, at / 2000)
        replica.take()
        if overlay.heard:
            ops, overlay.heard = overlay.heard, []
            past.add(ops, "stream", at)
        if at % 200 == 0:
            below.snapshot()
        if archive is not None and at % 2000 == 0:
            write(past, archive)
    if recorded:
        past.close()
    return (time.process_time() - began) / len(sent) * 1e6


def write(past: Past, archive: Archive) -> None:
    """Write what was told, as ``runtime/archiving.py`` does."""
    for one in past.take(roll=archive.is_full):
        if isinstance(one, Beginning):
            archive.begin(one, 1 << 30)
        else:
            archive.append(one)


def hour(count: int, rate: int) -> list[Result]:
    """An hour of changes."""
    chance = random.Random(4)
    past = Past(2 * HOUR * 10**6, 1 << 30)
    first = table(rows(count))
    past.begin(SCHEMA, first.parts(), 0, View(), "snapshot")
    for second in range(HOUR):
        ops: list[Op] = []
        for at in range(rate):
            key = chance.randrange(count)
            ops.append(Upsert(key, row(key, chance), second + at / rate))
        past.add(ops, "stream", second * 10**6)
    last = past.close()
    moments = {}
    for name, when in (("the first", last // 100), ("the middle", last // 2), ("the last", last)):
        spent = []
        for _ in range(5):
            began = time.process_time()
            past.at(when).snapshot()
            spent.append((time.process_time() - began) * 1e3)
        moments[name] = median(spent)
    case = f"an hour of {rate} changes/s on {count:,} rows"
    copy = first.snapshot().memory_usage(deep=True).sum() * 60
    return [
        Result(SUITE, f"{case}: bytes", OURS, past.nbytes / 1e6, "MB"),
        Result(SUITE, f"{case}: bytes", "pandas, a copy a minute", copy / 1e6, "MB"),
        *(Result(SUITE, f"{case}: {one} moment", OURS, ms) for one, ms in moments.items()),
    ]


def run(quick: bool) -> list[Result]:
    """See the module."""
    count, number = (1_000, 2_000) if quick else (100_000, 40_000)
    sent = frames(count, number)
    spent: dict[str, list[float]] = {"without": [], "recorded": [], "on disk": []}
    with TemporaryDirectory() as name:
        for turn in range(1 if quick else 11):
            order = list(spent)
            for way in (
                order[turn % 3 :] + order[: turn % 3]
            ):  # whoever comes first is not always the same
                archive = None
                if way == "on disk":
                    archive = Archive(Path(name) / str(turn) / "t.arrow", Identity("", "", "", ""))
                    archive.take()
                spent[way].append(live(count, sent, way != "without", archive))
                if archive is not None:
                    archive.close()
    case = "processor time for a change, at 2,000/s"
    alone = median(spent["without"])

    def share(way: str) -> float:
        """A table's processor time, of that without a history: the median of rounds with both."""
        rounds = zip(spent[way], spent["without"], strict=True)
        return 100 * median(one / without for one, without in rounds)

    return [
        Result(SUITE, case, OURS, median(spent["recorded"]), "µs"),
        Result(SUITE, case, "ours, on disk", median(spent["on disk"]), "µs"),
        Result(SUITE, case, "without a history", alone, "µs"),
        Result(SUITE, "that, of what it takes without a history", OURS, share("recorded"), "%"),
        Result(
            SUITE,
            "that, of what it takes without a history",
            "ours, on disk",
            share("on disk"),
            "%",
        ),
        *hour(count, 1 if quick else 100),
    ]
