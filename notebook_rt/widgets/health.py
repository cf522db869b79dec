"""The health dot and its panel: a word, a colour and four sentences, three small charts, the metrics.
Input: a ``HealthSource``. Green is never shown by colour alone (docs/design/promises.md): every state has its
word and its glyph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any, Final

from notebook_rt.widgets.base import LiveWidget, built, pump, static_table
from notebook_rt.widgets.sources import HealthReport, HealthSource, OnViewer, Unsubscribe
from notebook_rt.widgets.state import LONG, Handler, StateModel, cut

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
LOOK = 2.0
"""Seconds between two reads of the metrics while a view is visible."""
COMPARING: Final = "Comparing every row with the server …"


class HealthState:
    """Reads a source into what ``health.js`` draws, and keeps the result of the last comparison."""

    def __init__(self, source: HealthSource) -> None:
        self._source = source
        self._changed: Callable[[], object] = lambda: None
        self._result = ""

    def __call__(self) -> dict[str, Any]:
        report = self._source.health()
        return {
            "state": report.state,
            "word": report.state.capitalize(),
            "colour": COLORS.get(report.state, "grey"),
            "sentences": [cut(text) for text in report.sentences],
            "audits": cut(report.audits),
            "latency": report.latency,
            "trends": [
                {"name": t.name, "meaning": t.meaning, "now": t.now, "points": list(t.points)}
                for t in report.trends
            ],
            "metrics": [[cut(k, 60), cut(v, 120)] for k, v in report.metrics.items()],
            "usage": cut(report.usage),
            "limits": [cut(text) for text in report.near_limits],
            "error": cut(report.last_error) if report.last_error else None,
            "compared": cut(self._result),
            "comparing": self._result == COMPARING,
        }

    def subscribe(self, changed: Callable[[], object]) -> Unsubscribe:
        """Listen to the source."""
        self._changed = changed
        return self._source.on_health(changed)

    def verify(self) -> None:
        """Compare with the server, unless a comparison is running; from the worker thread."""
        if self._result != COMPARING:
            self._say(COMPARING)
            self._source.verify(self._say)

    def _say(self, text: str) -> None:
        self._result = text
        self._changed()


def health_handlers(state: HealthState) -> Mapping[str, Handler]:
    """Return the handler of the button that compares."""
    return {"verify": lambda word: pump.act(state.verify)}


def health_text(report: HealthReport) -> str:
    """Return one line: the state, the latency."""
    latency = "" if report.latency is None else f", {report.latency:.0f} ms"
    return f"{report.state.capitalize()}{latency}"


def health_html(report: HealthReport) -> str:
    """Return the static form: the line, the sentences, then the metrics."""
    texts = [" ".join(report.sentences), report.audits, report.usage]
    said = "".join(f"<p>{escape(cut(text, 4 * LONG))}</p>" for text in texts if text)
    limits = "".join(f"<p><b>{escape(cut(text))}</b></p>" for text in report.near_limits)
    error = f"<p>Last error: {escape(report.last_error)}</p>" if report.last_error else ""
    table = static_table(("metric", "value"), list(report.metrics.items()))
    table = table if report.metrics else ""
    return f"<p><b>{escape(health_text(report))}</b></p>{said}{limits}{error}{table}"


class HealthWidget(LiveWidget):
    """The connection's health as a pill that opens to its metrics."""

    _esm = built("health.js")
    _css = built("health.css")

    def __init__(self, source: HealthSource, *, on_viewer: OnViewer | None = None) -> None:
        state = HealthState(source)
        super().__init__(
            StateModel({"health": state}, health_handlers(state), reread=LOOK),
            subscribe=state.subscribe,
            static=lambda: (health_text(source.health()), health_html(source.health())),
            on_viewer=on_viewer,
        )
