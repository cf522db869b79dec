"""What the pictures and the browser tests show: each widget over memory, in a named state."""

from __future__ import annotations

from notebook_rt.widgets import (
    HealthWidget,
    NotesWidget,
    PresenceWidget,
    QueueWidget,
    StatusBar,
)
from notebook_rt.widgets.sources import HealthReport, Note, Person, QueuedWrite
from tests.widgets.memory import (
    METRICS,
    MemoryHealth,
    MemoryNotes,
    MemoryPresence,
    MemoryQueue,
    ago,
)

LATENCIES = [12, 14, 11, 13, 18, 15, 12, 11, 22, 31, 19, 14, 13, 12, 16, 12, 11, 13, 41, 24, 14, 12]
NAMES = """Ada Lovelace,Grace Hopper,Edgar Codd,Barbara Liskov,Michael Stonebraker,Radia Perlman,
Katherine Johnson,Jim Gray,Frances Allen,Ken Thompson,Margaret Hamilton,Dennis Ritchie,
Hedy Lamarr,Alan Turing""".replace("\n", "").split(",")
WRITES = [
    QueuedWrite("1", "update positions 7: notes", "sending", queued_at=ago(2)),
    QueuedWrite("2", "update positions 12: quantity", "waiting", queued_at=ago(31)),
    QueuedWrite(
        "3",
        "update positions 42: price",
        "failed",
        'new row violates check constraint "price_positive" (23514)',
        1,
        ago(95),
        '{"price": -3.5}',
    ),
    QueuedWrite(
        "4",
        "update positions 42: notes",
        "parked",
        "Waits for the failed edit of this row",
        0,
        ago(60),
    ),
    QueuedWrite(
        "5", "insert orders", "waiting", "503 from the server; tries again in 4 s", 2, ago(12)
    ),
]


def health_source(state: str) -> MemoryHealth:
    source = MemoryHealth()
    for latency in LATENCIES:
        source.report = HealthReport("healthy", latency=float(latency))
        source.tell()
    latency = {"healthy": 12.0, "slow": 640.0}.get(state)
    error = None if state == "healthy" else "1006: the socket closed without a close frame"
    source.report = HealthReport(state, latency=latency, metrics=METRICS, last_error=error)
    return source


def health(state: str) -> HealthWidget:
    source = health_source("healthy")
    widget = HealthWidget(source)
    for latency in LATENCIES:
        source.set(HealthReport("healthy", latency=float(latency)))
    source.set(health_source(state).report)
    return widget


def queue(n: int) -> QueueWidget:
    return QueueWidget(MemoryQueue(*WRITES[:n]))


def people(n: int) -> list[Person]:
    return [
        Person(f"u{i}", name, ago(60 * i * i + 20), idle=i % 4 == 3, you=i == 1)
        for i, name in enumerate(NAMES[:n])
    ]


def presence(n: int) -> PresenceWidget:
    return PresenceWidget(MemoryPresence(*people(n)))


def status_bar() -> StatusBar:
    source = health_source("healthy")
    bar = StatusBar(source, MemoryQueue(*WRITES), MemoryPresence(*people(5)))
    for latency in LATENCIES:
        source.set(HealthReport("healthy", latency=float(latency), metrics=METRICS))
    return bar


def notes() -> NotesWidget:
    lines = [
        ("info", "Subscribed to public.positions"),
        ("info", "Snapshot of 100,000 rows in 1.4 s"),
        ("unavailable", "Live updates temporarily unavailable, data refreshes every 5 s"),
        ("queued", "Kept for later: update positions 7 (notes)"),
        ("live", "Live again after 41 s; 3 rows had changed"),
        ("merged", "Merged row 12: your notes, Grace's quantity"),
        ("failed", 'Refused: positions 42, check constraint "price_positive"'),
    ]
    return NotesWidget(
        MemoryNotes(
            *(Note(i, kind, text, ago(400 - 66 * i)) for i, (kind, text) in enumerate(lines))
        )
    )
