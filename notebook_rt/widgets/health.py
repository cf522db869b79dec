"""The health dot. In: a ``HealthSource``. Out: its state in words and colour, latency, metrics.

Green is never told by colour alone (docs/design/promises.md): every state has its word and its glyph.
"""

from __future__ import annotations

from collections import deque
from html import escape
from typing import Any, Final

from notebook_rt.widgets.base import LiveWidget, built, static_table
from notebook_rt.widgets.sources import Eyes, HealthReport, HealthSource, Unsubscribe
from notebook_rt.widgets.state import StateModel, cut

COLORS: Final = {
    "healthy": "green",
    "slow": "yellow",
    "refused": "yellow",
    "drifting": "yellow",
    "behind": "yellow",
    "polling": "yellow",
    "stale": "yellow",
    "offline": "red",
    "connecting": "grey",
    "closed": "grey",
}
DETAILS: Final = {
    "healthy": "Changes arrive as they happen.",
    "slow": "Connected, but answers take longer than they should.",
    "refused": "The server refused an edit of yours, or one is in conflict. It is still shown: decide it.",
    "drifting": "The last check found differences from the server and repaired them.",
    "behind": "Changes arrive late, or some may have been lost: the data may not be the server's.",
    "polling": "Live updates temporarily unavailable; data refreshes every few seconds.",
    "stale": "Connected, but nothing has been heard for a while.",
    "offline": "No connection. Your edits are kept and will be sent.",
    "connecting": "Connecting.",
    "closed": "This session was closed. Connect again to see live data.",
}
LOOK = 2.0
"""Seconds between two looks at the metrics, while somebody looks at them."""
HISTORY = 60
"""Latencies kept for the sparkline."""


class HealthState:
    """Reads a source into what ``health.js`` draws, keeping the latest latencies."""

    def __init__(self, source: HealthSource) -> None:
        self._source = source
        self._latencies: deque[float] = deque(maxlen=HISTORY)

    def note(self) -> None:
        """Remember the latency of now, whether or not anybody looks."""
        latency = self._source.health().latency
        if latency is not None and (not self._latencies or self._latencies[-1] != latency):
            self._latencies.append(latency)

    def __call__(self) -> dict[str, Any]:
        report = self._source.health()
        return {
            "state": report.state,
            "word": report.state.capitalize(),
            "colour": COLORS.get(report.state, "grey"),
            "detail": cut(report.detail or DETAILS.get(report.state, "")),
            "latency": report.latency,
            "spark": [round(latency, 1) for latency in self._latencies],
            "metrics": [[cut(k, 60), cut(v, 120)] for k, v in report.metrics.items()],
            "usage": cut(report.usage),
            "limits": [cut(text) for text in report.near_limits],
            "error": cut(report.last_error) if report.last_error else None,
        }

    def subscribe(self, changed: Any) -> Unsubscribe:
        """Listen to the source: remember, then say that something changed."""
        self.note()

        def heard() -> None:
            self.note()
            changed()

        return self._source.on_health(heard)


def health_text(report: HealthReport) -> str:
    """One line: the state, the latency."""
    latency = "" if report.latency is None else f", {report.latency:.0f} ms"
    return f"{report.state.capitalize()}{latency}"


def health_html(report: HealthReport) -> str:
    """The static form: the line, what it means, then the metrics."""
    detail = escape(cut(report.detail or DETAILS.get(report.state, "")))
    rows = [(name, value) for name, value in report.metrics.items()]
    usage = f"<p>{escape(cut(report.usage))}</p>" if report.usage else ""
    limits = "".join(f"<p><b>{escape(cut(text))}</b></p>" for text in report.near_limits)
    error = f"<p>Last error: {escape(report.last_error)}</p>" if report.last_error else ""
    table = static_table(("metric", "value"), rows) if rows else ""
    return (
        f"<p><b>{escape(health_text(report))}</b></p><p>{detail}</p>{usage}{limits}{error}{table}"
    )


class HealthWidget(LiveWidget):
    """The connection's health as a pill that opens to its metrics."""

    _esm = built("health.js")
    _css = built("health.css")

    def __init__(self, source: HealthSource, *, eyes: Eyes | None = None) -> None:
        state = HealthState(source)
        super().__init__(
            StateModel({"health": state}, look=LOOK),
            subscribe=state.subscribe,
            static=lambda: (health_text(source.health()), health_html(source.health())),
            eyes=eyes,
        )
