"""The scenes of the pictures and the browser tests: each widget over memory, in a named state."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from notebook_rt.errors import why_empty
from notebook_rt.model.types import Column
from notebook_rt.sync.connection.health import Health
from notebook_rt.sync.connection.sentences import audits, sentences
from notebook_rt.sync.history.steps import Step
from notebook_rt.widgets import (
    ChartWidget,
    GridWidget,
    HealthWidget,
    NotesWidget,
    PresenceWidget,
    QueueWidget,
    StatusBar,
)
from notebook_rt.widgets.base import LiveWidget
from notebook_rt.widgets.sessions import _took
from notebook_rt.widgets.sources import (
    Conflict,
    HealthReport,
    Lost,
    Note,
    Person,
    QueuedWrite,
    Trend,
)
from tests.widgets.memory import (
    HOSTILE,
    METRICS,
    MemoryFrame,
    MemoryHealth,
    MemoryNotes,
    MemoryPast,
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


HEALTH = {
    "healthy": Health("healthy", "live", audited_s=12, next_audit_s=8, since_s=750, cause="live"),
    "slow": Health(
        "slow", "latency 640 ms", audited_s=12, next_audit_s=8, since_s=95, cause="slow"
    ),
    "behind": Health(
        "behind",
        "17 s behind the server: positions; 1,240 changes wait to be applied",
        audited_s=41,
        next_audit_s=2,
        since_s=19,
        cause="late",
    ),
    "drifting": Health(
        "drifting",
        "the last audit found a difference, and repaired it: positions",
        audited_s=3,
        next_audit_s=17,
        since_s=3,
        cause="drifted",
    ),
    "refused": Health(
        "refused",
        '1 edit to decide: positions 42 violates check constraint "price_positive"',
        audited_s=12,
        next_audit_s=8,
        since_s=300,
        cause="refused",
    ),
    "polling": Health(
        "polling",
        "Live updates temporarily unavailable, data refreshes every 5 s",
        audited_s=31,
        since_s=41,
        cause="polling",
    ),
    "stale": Health(
        "stale",
        'table "trades" is not published; run: alter publication supabase_realtime add table '
        "public.trades",
        since_s=3700,
        cause="failed",
    ),
    "offline": Health(
        "offline", "connection lost", audited_s=190, since_s=180, cause="unreachable"
    ),
    "connecting": Health(
        "connecting", "reconnecting", audited_s=20, since_s=2, cause="reconnecting"
    ),
    "closed": Health("closed", "closed", since_s=200_000, cause="closed"),
}
"""What a session finds, a state each."""
_EVERY = "at this rate; the free plan includes 2 M."
USAGE = f"1,240 messages this hour: about 0.9 M a month {_EVERY}"
MUCH_USAGE = f"2,400 messages this hour: about 1.7 M a month {_EVERY}"
NEAR_LIMITS = (
    "Near a limit: 96 messages a second; the free plan allows 100 a second, and above it the server"
    " drops changes.",
    "Near a limit: 2,400 messages this hour are 1.7 M a month; the free plan includes 2 M.",
)
"""What a session says of its traffic (``sync/usage.py``)."""


def trends(state: str) -> list[Trend]:
    rng = np.random.default_rng(3)
    late = state == "behind"
    changes = np.round(np.abs(rng.normal(18, 9, 60)) + np.linspace(0, 70, 60) * late, 1).tolist()
    lag = np.round(np.abs(rng.normal(44, 15, 60)) + np.geomspace(1, 17_000, 60) * late, 1).tolist()
    latency: list[float | None] = [None] * 60
    latency[2::5] = [float(value) for value in LATENCIES[:12]]
    gone = state in ("offline", "closed")
    if gone or state == "polling":
        changes[-36 if gone else -8 :] = [0.0] * (36 if gone else 8)
        lag[-36 if gone else -8 :] = [None] * (36 if gone else 8)
        latency[-36:] = [None] * 36
    now = ("18", _took(lag[-1]) if lag[-1] else "", "640 ms" if state == "slow" else "14 ms")
    if state == "slow":
        latency[-13::5] = [310.0, 590.0, 640.0]
    now = ("", "", "") if gone else now
    return [
        Trend("Changes a second", "changes applied to your tables", now[0], changes),
        Trend("Lag", "from a commit on the server until the change is here", now[1], lag),
        Trend("Latency", "of an answer of the server, there and back", now[2], latency),
    ]


def health_source(state: str) -> MemoryHealth:
    found = HEALTH[state]
    quiet = state in ("healthy", "slow", "behind", "drifting", "refused")
    return MemoryHealth(
        HealthReport(
            found.status,
            sentences(found),
            audits(found),
            latency={"healthy": 12.0, "slow": 640.0, "behind": 14.0}.get(state),
            metrics=METRICS,
            last_error=None if quiet else "1006: the socket closed without a close frame",
            usage=MUCH_USAGE if state == "behind" else USAGE,
            near_limits=NEAR_LIMITS if state == "behind" else (),
            trends=trends(state),
        )
    )


def health(state: str, compared: str = "") -> HealthWidget:
    source = health_source(state)
    widget = HealthWidget(source)
    if compared:
        widget._enqueue(widget, {"view": "picture", "t": "verify"}, [])
        while not source.verified:
            time.sleep(0.01)
        source.verified.pop()(compared)
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


def status_bar(state: str = "healthy") -> StatusBar:
    people_here = MemoryPresence(*people(5))
    return StatusBar(health_source(state), MemoryQueue(*WRITES), people_here)


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


FIELDS = [
    Column("id", "int8", nullable=False),
    Column("symbol", "text", nullable=False),
    Column("status", "position_status", choices=("open", "held", "closed")),
    Column("quantity", "int4", nullable=False),
    Column("price", "numeric"),
    Column("change", "float8"),
    Column("hedged", "bool"),
    Column("updated_at", "timestamptz"),
    Column("notes", "text"),
    Column("tags", "jsonb"),
]
SYMBOLS = ["AAPL", "MSFT", "NVDA", "AMZN", "GOOGL", "META", "TSM", "ASML", "SAP", "NESN"]
REMARKS = [
    "checked with the desk",
    None,
    "roll before expiry; the counterparty asked for a call on Thursday about the collateral, "
    "and for the new settlement instructions before the end of the month, in writing, please",
    "",
    "hedge with the index",
]


def positions(n: int = 1000) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    start = pd.Timestamp("2026-11-23T09:30:00Z")
    return pd.DataFrame(
        {
            "symbol": pd.array([SYMBOLS[i % 10] for i in range(n)], dtype="str"),
            "status": pd.array([("open", "held", "closed")[i % 3] for i in range(n)], dtype="str"),
            "quantity": rng.integers(-500, 2000, n),
            "price": np.round(rng.uniform(10, 900, n), 2),
            "change": np.where(np.arange(n) % 11 == 3, np.nan, np.round(rng.normal(0, 0.02, n), 4)),
            "hedged": rng.integers(0, 2, n).astype(bool),
            "updated_at": start - pd.to_timedelta(rng.integers(0, 86_400, n), unit="s"),
            "notes": pd.array([REMARKS[i % 5] for i in range(n)], dtype="str"),
            "tags": [{"book": "eq", "desk": i % 4} if i % 2 else ["fx", "eu"] for i in range(n)],
        },
        index=pd.Index(np.arange(1, n + 1), name="id"),
    )


def frame(n: int = 1000, state: str = "live") -> MemoryFrame:
    source = MemoryFrame(positions(n), FIELDS)
    if state == "marked":
        source.marked[2, "quantity"] = ("pending", "waits to be sent")
        source.marked[4, "price"] = ("failed", 'violates check constraint "price_positive"')
        source.df.loc[5, "notes"] = "sell"  # mine is shown until somebody decides
        source.disputed.append(
            Conflict(5, "notes", "hedge with the index", "sell", "keep to Friday")
        )
    source.status, source.note = NOTED.get(state, ("live", ""))
    if state == "loading":
        source.df, source.fields = pd.DataFrame(), ()
    return source


NOTED = {
    "loading": ("loading", ""),
    "polling": ("polling", "Live updates temporarily unavailable, data refreshes every 5 s"),
    "comparing": ("comparing", "Being compared with the server; these rows are as of 14:03:12 UTC"),
    "offline": (
        "stale",
        "No connection; these rows are as of 14:03:12 UTC. What you edit is kept, and sent when it is back",
    ),
    "error": (
        "error",
        'table "positions" is not in the publication supabase_realtime; run: alter publication '
        "supabase_realtime add table public.positions",
    ),
    "hidden": (
        "live",
        why_empty("public", "positions", "anon", True),
    ),
}
"""What a grid says of its table, by state (``adapters.FrameOf.note``)."""


def disputed() -> MemoryFrame:
    """They deleted row 2, which I edited; I deleted row 4, which they edited."""
    full = positions(8)
    source = MemoryFrame(full.drop(index=[2, 4]), FIELDS)
    left = full.loc[[2, 4]].copy()
    left.loc[2, "notes"] = "sell on Friday"
    source.left = left
    theirs = {"id": 4, "symbol": "AMZN", "quantity": 2500, "notes": "counterparty confirmed"}
    base = {"id": 4, "symbol": "AMZN", "quantity": 1743, "notes": ""}
    source.disputed = [
        Conflict(2, None, {"notes": None}, {"notes": "sell on Friday"}, None),
        Conflict(4, None, base, None, theirs),
    ]
    return source


def grid(n: int = 1000, state: str = "live", **options: object) -> GridWidget:
    return GridWidget(frame(n, state), formats={"change": ".2%"}, **options)


def styled(n: int = 40) -> GridWidget:
    """Bars, colours, up and down, totals; wider than the page."""
    return GridWidget(
        frame(n, "marked"),
        height=300,
        formats={"change": ".2%", "quantity": ",d"},
        style={
            "quantity": "bar",
            "price": "color",
            "change": "updown",
            "symbol": "color",
            "status": {"open": "green", "held": "yellow", "closed": "grey"},
        },
        totals={"quantity": "sum", "price": "mean", "symbol": "count"},
    )


def unread() -> GridWidget:
    """A filter that cannot be read."""
    widget = grid(8, columns=HERO, height=200)
    widget._link.model.received("v", {"t": "filter", "text": "pric>10"})
    return widget


def closed() -> GridWidget:
    source = frame(5)
    source.status, source.editable = "closed", False
    return GridWidget(source, columns=HERO)


def with_past(n: int = 40) -> MemoryFrame:
    """An hour was recorded, with two gaps; what happened to row 3, whose writer is in ``notes``."""
    source = frame(n)
    now = int(time.time() * 1e6)
    minute = 60_000_000
    rng = np.random.default_rng(5)
    states = {}
    for ago_min in range(60, 0, -1):
        df = positions(n)
        df["price"] = np.round(df["price"] * (1 - ago_min * rng.uniform(-0.002, 0.003, n)), 2)
        states[now - ago_min * minute] = df
    source.past = past = MemoryPast(states, FIELDS, now)
    past.lost = [
        Lost(now - 41 * minute, now - 34 * minute, "connection lost"),
        Lost(now - 12 * minute, now - 12 * minute + 400_000, "rows were read before"),
    ]
    key = {"id": 3, **source.df.loc[3].to_dict()}
    row = {**key, "price": 151.25, "notes": "ada"}
    steps = [Step(now - 60 * minute, "snapshot", "snapshot", None, row)]
    for i in range(1, 62):
        by = ("ada", "grace", HOSTILE)[i % 3]
        more = {"quantity": 100 * i, "status": "held"} if i % 4 == 0 else {}
        fresh = {**row, "price": 151.25 + i / 4, "notes": by, **more}
        heard = "reconcile" if i == 26 else "stream"
        steps.append(Step(now - (60 - i) * minute + 1_230_000 * i, "update", heard, row, fresh))
        row = fresh
    past.happened[3] = steps
    return source


def past_grid(at: float | None = None, **options: object) -> GridWidget:
    """A grid with a past, at so many minutes ago."""
    source = with_past()
    widget = GridWidget(source, columns=HERO, height=240, formats={"change": ".2%"}, **options)
    return _at(widget, source, at)


def past_chart(at: float | None = None) -> ChartWidget:
    source = with_past()
    return _at(ChartWidget(source, "id", "price", kind="bar"), source, at)


def _at(widget: LiveWidget, source: MemoryFrame, ago_min: float | None) -> LiveWidget:
    if ago_min is not None:
        when = source.past.now - int(ago_min * 60e6)
        widget._enqueue(widget, {"view": "picture", "t": "past", "at": when}, [])
        widget._enqueue(widget, {"view": "picture", "t": "leave"}, [])
        while not source.past.asked:
            time.sleep(0.01)
    return widget


def prices(n: int = 4000) -> MemoryFrame:
    rng = np.random.default_rng(11)
    at = pd.Timestamp("2026-11-23T09:30:00Z") + pd.to_timedelta(np.arange(n) * 5, unit="s")
    walk = 184 + np.cumsum(rng.normal(0, 0.06, n))
    df = pd.DataFrame(
        {
            "at": at,
            "bid": np.round(walk, 2),
            "ask": np.round(walk + 0.4 + rng.exponential(0.1, n), 2),
            "volume": rng.poisson(40, n),
            "venue": pd.array([("XNAS", "ARCA", "BATS")[i % 3] for i in range(n)], dtype="str"),
        },
        index=pd.Index(np.arange(n), name="id"),
    )
    fields = [
        Column("id", "int8"),
        Column("at", "timestamptz"),
        Column("bid", "numeric"),
        Column("ask", "numeric"),
        Column("volume", "int4"),
        Column("venue", "text"),
    ]
    return MemoryFrame(df, fields, name="quotes")


def hero() -> None:
    """The first screen of the README: a status bar, a live table being edited, a live chart."""
    from IPython.display import display

    display(status_bar())
    display(grid(100_000, "marked", height=284, columns=HERO))
    display(chart(y=["bid", "ask"], last=400, style=lambda c: c.properties(height=150)))


HERO = ["id", "symbol", "status", "quantity", "price", "change", "updated_at", "notes"]


def chart(x: str | None = "at", y: str | list[str] = "bid", **options: object) -> ChartWidget:
    return ChartWidget(prices(), x, y, **options)
