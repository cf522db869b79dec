"""A session as the status widgets read it: its health, who is present, its queue, its notes.

In: what ``handles.py`` names. Out: the protocols of ``sources.py``. The widgets read from a thread of
their own, so nothing here may wait.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast, get_args

from notebook_rt.errors import ClosedError, NotebookRTError
from notebook_rt.sync.connection.health import Health
from notebook_rt.widgets.handles import Presence, Queue, Session
from notebook_rt.widgets.health import DETAILS
from notebook_rt.widgets.sources import (
    HealthReport,
    Note,
    NoteKind,
    Person,
    QueuedWrite,
    Unsubscribe,
    listen,
)

NOTES_KEPT: Final = 200
_UNITS: Final = {"ms": "{:,.0f} ms", "s": "{:,.1f} s"}
_SAID: Final = ("next_audit_s", "audited_s", "messages_this_hour", "messages_a_month")
"""Metrics that the panel says in sentences."""
_NAMES: Final = ("name", "username", "user_name", "display_name", "full_name", "email", "user")


class SessionHealth:
    """``Session.health`` and its metrics."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def health(self) -> HealthReport:
        health = self._session.health
        error = health.metrics.get("last_error")
        return HealthReport(
            health.status,
            _detail(health),
            health.latency_ms,
            None if error is None else str(error),
            dict(
                _metric(name, value)
                for name, value in health.metrics.items()
                if value is not None and name not in ("last_error", "status", *_SAID)
            ),
            health.usage,
            health.near_limits,
        )

    def on_health(self, fn: Callable[[], object]) -> Unsubscribe:
        return listen(self._session.on_health, fn)


def _metric(name: str, value: Any) -> tuple[str, str]:
    """A metric as it is read: its name without the unit, the value with it.

    >>> _metric("lag_p50_ms", 44.2), _metric("events_per_s", 0.44)
    (('lag p50', '44 ms'), ('events a second', '0.4'))
    >>> _metric("audit_share", 0.125)
    ('HTTP bytes for audits', '12%')
    """
    rest, _, unit = name.rpartition("_")
    if unit == "share":
        return f"HTTP bytes for {rest}s", f"{value:.0%}"
    if name.endswith("_per_s"):
        return f"{name.removesuffix('_per_s').replace('_', ' ')} a second", _plain(value)
    if unit in _UNITS:
        return rest.replace("_", " "), _UNITS[unit].format(value)
    return name.replace("_", " "), _plain(value)


def _detail(health: Health) -> str:
    """A sentence on the state, and one on the audits: when, and what the last of them found."""
    sentence = health.reason[:1].upper() + health.reason[1:] if health.reason else ""
    ends = sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."
    said = [DETAILS["healthy"] if health.status == "healthy" else ends]
    if health.status == "healthy" and health.audited_s is not None:
        said.append(f"The last audit, {health.audited_s:.0f} s ago, found every row right.")
    if health.next_audit_s is not None:
        said.append(f"Next audit in {health.next_audit_s:.0f} s.")
    return " ".join(said)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class PeoplePresent:
    """``Channel.presence``. A name is the first of the usual fields; idle is what they say."""

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
    """Everywhere: somebody with one busy tab is not idle."""
    return bool(metas) and all(m.get("idle") or m.get("status") in ("idle", "away") for m in metas)


class SessionQueue:
    """``Session.queue``: its DataFrame as a list."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._latest: list[QueuedWrite] = []

    def writes(self) -> Sequence[QueuedWrite]:
        try:
            df = self._queue.df.reset_index()
        except NotebookRTError:  # closed: as it was
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
    """What the session finds worth a line, kept for a while."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._notes: deque[Note] = deque(maxlen=NOTES_KEPT)
        self._count = 0

    def notes(self) -> Sequence[Note]:
        return list(self._notes)

    def on_note(self, fn: Callable[[], object]) -> Unsubscribe:
        # The listeners' list belongs to the loop thread; what is called there must be quick.
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
