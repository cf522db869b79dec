"""How the live classes display themselves: a widget if there is a kernel, else the static form.

The handles import this module only when they are displayed: a script never loads a widget. Input: a handle.
Output: the result of ``_repr_mimebundle_``, and the widgets behind ``.grid`` and ``.plot``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

from notebook_rt.errors import DerivationError
from notebook_rt.quoting import printable
from notebook_rt.runtime.host import has_front_end
from notebook_rt.widgets.adapters import FrameOf, MappedOf, TableOf
from notebook_rt.widgets.base import LiveWidget
from notebook_rt.widgets.chart import ChartWidget
from notebook_rt.widgets.grid import GridWidget, grid_html, grid_text
from notebook_rt.widgets.handles import Frame, Mapped, Presence, Queue, Session, Table
from notebook_rt.widgets.health import HealthWidget, health_html, health_text
from notebook_rt.widgets.notes import NotesWidget
from notebook_rt.widgets.presence import PresenceWidget, presence_html, presence_text
from notebook_rt.widgets.queue import QueueWidget, queue_html, queue_text
from notebook_rt.widgets.sessions import (
    PeoplePresent,
    SessionHealth,
    SessionNotes,
    SessionQueue,
)
from notebook_rt.widgets.statusbar import StatusBar

Bundle: TypeAlias = Any
"""The result of ``_repr_mimebundle_``: MIME types to content."""


def _bundle(make: Callable[[], LiveWidget], static: Callable[[], tuple[str, str]]) -> Bundle:
    if has_front_end():
        return make()._repr_mimebundle_()
    text, html = static()
    return {"text/plain": printable(text, lines=True), "text/html": html}


def _of(frame: Frame) -> FrameOf:
    return TableOf(cast("Table", frame)) if frame.editable else FrameOf(frame)


def frame_bundle(frame: Frame) -> Bundle:
    """Return the live grid."""
    source = _of(frame)
    return _bundle(lambda: grid(frame), lambda: (grid_text(source), grid_html(source)))


def mapped_bundle(mapped: Mapped) -> Bundle:
    """Return the live grid of a computed frame."""
    source = MappedOf(mapped)
    return _bundle(lambda: GridWidget(source), lambda: (grid_text(source), grid_html(source)))


def health_bundle(session: Session) -> Bundle:
    """Return the health dot."""
    source = SessionHealth(session)
    return _bundle(
        lambda: HealthWidget(source, on_viewer=_on_viewer(session)),
        lambda: (health_text(source.health()), health_html(source.health())),
    )


def queue_bundle(queue: Queue) -> Bundle:
    """Return the queue count and its list."""
    source = SessionQueue(queue)
    return _bundle(
        lambda: QueueWidget(source),
        lambda: (queue_text(source.writes()), queue_html(source.writes())),
    )


def presence_bundle(presence: Presence) -> Bundle:
    """Return the presence list."""
    source = PeoplePresent(presence)
    return _bundle(
        lambda: PresenceWidget(source),
        lambda: (presence_text(source.people()), presence_html(source.people())),
    )


def session_bundle(session: Session) -> Bundle:
    """Return the status bar."""
    source = SessionHealth(session)
    return _bundle(
        lambda: status_bar(session),
        lambda: (health_text(source.health()), health_html(source.health())),
    )


def grid(frame: Frame, **options: Any) -> GridWidget:
    """Return the live grid of ``frame``, with the options of ``GridWidget``."""
    return GridWidget(_of(frame), **options)


def plot(frame: Frame, x: str | None = None, y: Any = (), **options: Any) -> ChartWidget:
    """Return a live chart of ``frame``, with the options of ``ChartWidget``. Waits for the first data."""
    try:
        frame.wait()
    except DerivationError:  # the chart shows it until the first row arrives
        if not frame._feed.why_undeclared:
            raise
    return ChartWidget(_of(frame), x, y, **options)


def mapped_grid(mapped: Mapped, **options: Any) -> GridWidget:
    """Return the live grid of a computed frame, with the options of ``GridWidget``."""
    return GridWidget(MappedOf(mapped), **options)


def mapped_plot(mapped: Mapped, x: str | None, y: Any, **options: Any) -> ChartWidget:
    """Return a live chart of a computed frame, with the options of ``ChartWidget``."""
    return ChartWidget(MappedOf(mapped), x, y, **options)


def status_bar(session: Session, presence: Presence | None = None) -> StatusBar:
    """Return health, queue and, if given, people in one line."""
    return StatusBar(
        SessionHealth(session),
        SessionQueue(session.queue),
        None if presence is None else PeoplePresent(presence),
        on_viewer=_on_viewer(session),
    )


def notes(session: Session) -> NotesWidget:
    """Return the notes widget."""
    return NotesWidget(SessionNotes(session), on_viewer=_on_viewer(session))


def _on_viewer(session: Session) -> Callable[[str], None]:
    """Return a callback that retries at once when the browser is online again or its tab is visible again."""

    def on_viewer(word: str) -> None:
        if word in ("online", "visible") and session.status in ("disconnected", "reconnecting"):
            session.retry()

    return on_viewer
