"""The status bar: health, queue and people in one line and one widget.

Input: the three sources, any of which may be missing. Output: the states of the parts, in one message.
"""

from __future__ import annotations

from collections.abc import Callable

from notebook_rt.widgets.base import LiveWidget, built
from notebook_rt.widgets.health import (
    LOOK,
    HealthState,
    health_handlers,
    health_html,
    health_text,
)
from notebook_rt.widgets.presence import presence_html, presence_state, presence_text
from notebook_rt.widgets.queue import queue_handlers, queue_html, queue_state, queue_text
from notebook_rt.widgets.sources import (
    HealthSource,
    OnViewer,
    PresenceSource,
    QueueSource,
    Unsubscribe,
)
from notebook_rt.widgets.state import StateModel


class StatusBar(LiveWidget):
    """One line with the state of the session."""

    _esm = built("statusbar.js")
    _css = built("statusbar.css")

    def __init__(
        self,
        health: HealthSource,
        queue: QueueSource | None = None,
        presence: PresenceSource | None = None,
        *,
        on_viewer: OnViewer | None = None,
    ) -> None:
        state = HealthState(health)

        def subscribe(changed: Callable[[], object]) -> Unsubscribe:
            stops = [state.subscribe(changed)]
            if queue is not None:
                stops.append(queue.on_queue(changed))
            if presence is not None:
                stops.append(presence.on_presence(changed))

            def stop_all() -> None:
                for stop in stops:
                    stop()

            return stop_all

        def static() -> tuple[str, str]:
            text, html = [health_text(health.health())], [health_html(health.health())]
            if queue is not None:
                text.append(queue_text(queue.writes()))
                html.append(queue_html(queue.writes()))
            if presence is not None:
                text.append(presence_text(presence.people()))
                html.append(presence_html(presence.people()))
            return " · ".join(text), "".join(html)

        super().__init__(
            StateModel(
                {
                    "health": state,
                    "queue": lambda: None if queue is None else queue_state(queue.writes()),
                    "presence": lambda: (
                        None if presence is None else presence_state(presence.people())
                    ),
                },
                {
                    **health_handlers(state),
                    **({} if queue is None else queue_handlers(queue)),
                },
                reread=LOOK,
            ),
            subscribe=subscribe,
            static=static,
            on_viewer=on_viewer,
        )
