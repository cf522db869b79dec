"""Adapters that present a session to the status widgets: health, presence, queue, notes.

Input: the protocols of ``handles.py``. Output: the protocols of ``sources.py``. The widgets read from a
thread of their own, so nothing here may wait.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Final, cast, get_args

from notebook_rt.errors import ClosedError, NotebookRTError
from notebook_rt.runtime.feed import Verdict
from notebook_rt.sync.connection.health import Health
from notebook_rt.sync.connection.sentences import audits, compared, sentences, span
from notebook_rt.widgets.handles import Presence, Queue, Session
from notebook_rt.widgets.sources import (
    HealthReport,
    Note,
    NoteKind,
    Person,
    QueuedWrite,
    Trend,
    Unsubscribe,
    listen,
)

NOTES_KEPT: Final = 200
VERIFY_SECONDS: Final = 30.0
"""Maximum seconds to wait for a comparison of all tables."""
LATELY: Final = 12
"""The shown lag must be from this many last ticks of its trend, a minute."""
_SAID: Final = (
    "last_error",
    "status",
    "next_audit_s",
    "audited_s",
    "messages_this_hour",
    "messages_a_month",
)
"""Metrics that the panel shows in sentences, or separately."""
LABELS: Final = {
    "uptime_s": "time connected",
    "broadcast_tables": "tables whose changes the database broadcasts",
    "scoped_tables": "of those, tables of one user's rows",
    "kept_refused": "kept tables on disk that could not be used",
    "disconnects": "connections lost",
    "retries": "tries to connect again",
    "messages": "messages received",
    "events": "changes applied",
    "events_per_s": "changes a second",
    "latency_avg_ms": "latency, average",
    "latency_p50_ms": "latency, median",
    "latency_p95_ms": "latency, 95th percentile",
    "latency_p99_ms": "latency, 99th percentile",
    "lag_avg_ms": "lag, average",
    "lag_p50_ms": "lag, median",
    "lag_p95_ms": "lag, 95th percentile",
    "lag_p99_ms": "lag, 99th percentile",
    "audits": "audits",
    "drift": "rows that audits found wrong and repaired since nrt.connect()",
    "gaps": "times that changes may have been missed",
    "reconciliations": "comparisons after that",
    "tables": "tables and queries open",
    "rooms": "your channels open",
    "channels": "channels joined, tables' too",
    "requests": "requests",
    "requests_this_hour": "requests this hour",
    "bytes": "bytes received",
    "bytes_in_this_hour": "bytes received this hour",
    "bytes_out_this_hour": "bytes sent this hour",
    "sent_this_hour": "messages sent this hour",
    "peak_messages_per_s": "messages a second, at most",
    "peak_presence_messages_per_s": "presence messages a second, at most",
    "audit_share": "part of the reading that is for audits",
    "poll_share": "part of the reading that replaces live updates",
    "heads_share": "part of the reading that looks for lost broadcasts",
    "unknown": "messages of a kind that is not known",
    "callback_errors": "errors in your callbacks",
}
"""The panel's names of the metrics, in the order in which it lists them."""
_NAMES: Final = ("name", "username", "user_name", "display_name", "full_name", "email", "user")


class SessionHealth:
    """Adapter for ``Session.health`` and its metrics."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def health(self) -> HealthReport:
        health = self._session.health
        metrics = health.metrics
        error = metrics.get("last_error")
        return HealthReport(
            health.status,
            sentences(health),
            audits(health),
            health.latency_ms,
            None if error is None else str(error),
            {
                label: _written(name, value)
                for name, label in LABELS.items()
                if (value := metrics.get(name)) is not None
            },
            health.usage,
            health.near_limits,
            _trends(health),
        )

    def on_health(self, fn: Callable[[], object]) -> Unsubscribe:
        return listen(self._session.on_health, fn)

    def verify(self, done: Callable[[str], object]) -> None:
        project = self._session._project

        def over(future: Future[list[tuple[str, Verdict | Exception]]]) -> None:
            error = future.exception()
            done(f"Not compared: {error}" if error else compared(_found(future.result())))

        project.thread.submit(project.verify(VERIFY_SECONDS)).add_done_callback(over)


def _found(
    results: Sequence[tuple[str, Verdict | Exception]],
) -> list[tuple[str, int, int, float, str]]:
    return [
        (name, 0, 0, 0.0, str(result))
        if isinstance(result, Exception)
        else (name, result.compared, result.differed, result.seconds, "")
        for name, result in results
    ]


def _trends(health: Health) -> list[Trend]:
    def points(key: str) -> list[float | None]:
        return [None if p is None else round(p, 1) for p in health.trends.get(key, ())]

    gone = health.status in ("offline", "closed")
    changes, lags = points("changes_per_s"), points("lag_ms")
    rate = "" if gone or not changes or changes[-1] is None else f"{changes[-1]:,.0f}"
    lag = "" if gone else next((_took(p) for p in lags[: -LATELY - 1 : -1] if p is not None), "")
    latency = "" if health.latency_ms is None else _took(health.latency_ms)
    from_there = "from a commit on the server until the change is here"
    return [
        Trend("Changes a second", "changes applied to your tables", rate, changes),
        Trend("Lag", from_there, lag, lags),
        Trend(
            "Latency", "of an answer of the server, there and back", latency, points("latency_ms")
        ),
    ]


def _took(milliseconds: float) -> str:
    """Return a duration as text.

    >>> _took(1024.0), _took(17_024.0)
    ('1,024 ms', '17 s')
    """
    return f"{milliseconds:,.0f} ms" if milliseconds < 10_000 else span(milliseconds / 1000)


def _written(name: str, value: Any) -> str:
    """Return the value of a metric with its unit.

    >>> _written("lag_p50_ms", 44.2), _written("audit_share", 0.125), _written("uptime_s", 750.0)
    ('44 ms', '12%', '12 min')
    """
    if name.endswith("_share"):
        return f"{value:.0%}"
    if name.endswith("_ms"):
        return _took(value)
    if name == "uptime_s":
        return span(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


class PeoplePresent:
    """Adapter for ``Channel.presence``. A name is the first of the usual fields; so is the idle state."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def people(self) -> Sequence[Person]:
        own = self._presence.key
        return [
            Person(
                person.key,
                _name(person.metas[-1] if person.metas else {}, person.key),
                datetime.fromtimestamp(person.joined_at, UTC),
                idle=_idle(person.metas),
                you=person.key == own,
            )
            for person in self._presence.people
        ]

    def on_presence(self, fn: Callable[[], object]) -> Unsubscribe:
        return listen(self._presence.on_change, fn)


def _name(meta: Mapping[str, Any], key: str) -> str:
    return next((str(meta[name]) for name in _NAMES if meta.get(name)), key)


def _idle(metas: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all tabs are idle: a person with one busy tab is not."""
    return bool(metas) and all(m.get("idle") or m.get("status") in ("idle", "away") for m in metas)


class SessionQueue:
    """Adapter for ``Session.queue``: its DataFrame as a list."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._latest: list[QueuedWrite] = []

    def writes(self) -> Sequence[QueuedWrite]:
        try:
            df = self._queue.df.reset_index()
        except NotebookRTError:  # closed: the last known list
            return self._latest
        df = df[["id", "what", "state", "why", "attempts", "at", "values"]]
        self._latest = [
            QueuedWrite(
                id, what, state, why, attempts, at.floor("us").to_pydatetime(), _json(values)
            )
            for id, what, state, why, attempts, at, values in df.itertuples(index=False, name=None)
        ]
        return self._latest

    def retry(self, id: str) -> object:
        return self._queue.retry(id)

    def discard(self, id: str) -> object:
        return self._queue.discard(id)

    def on_queue(self, fn: Callable[[], object]) -> Unsubscribe:
        return self._queue.on_change(fn)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str) if values else ""


class SessionNotes:
    """The session's notes, kept for a while."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self._count = 0

    def notes(self) -> Sequence[Note]:
        return list(self._notes)

    def on_note(self, fn: Callable[[], object]) -> Unsubscribe:
        # The list of listeners belongs to the loop thread; callbacks there must be quick.
        project = self._session._project

        def note(kind: str, text: str) -> None:
            self._keep(kind, text)
            fn()

        project.thread.call(project.note_listeners.add, note)

        def stop() -> None:
            with contextlib.suppress(ClosedError, RuntimeError, ValueError):
                project.thread.post(project.note_listeners.remove, note)

        return stop

    def _keep(self, kind: str, text: str) -> None:
        self._count += 1
        known = cast("Any", kind if kind in get_args(NoteKind) else "info")
        self._notes.append(Note(self._count, known, text, datetime.now(UTC)))
