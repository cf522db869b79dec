"""The queue count, which opens into its list. Input: a ``QueueSource``. Output: what waits, and why.

User actions here (retry, discard) run on the worker thread, never on the kernel's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from notebook_rt.widgets.base import LiveWidget, built, pump, static_table
from notebook_rt.widgets.sources import OnViewer, QueuedWrite, QueueSource
from notebook_rt.widgets.state import Handler, StateModel, cut

LOOK = 2.0
"""Seconds between two reads: another kernel may write to the same file."""
SHOWN = 50
"""Maximum number of writes listed; those that need the user come first."""
_FIRST = {"failed": 0, "asking": 1, "parked": 2, "sending": 3, "waiting": 4}


def queue_state(writes: Sequence[QueuedWrite]) -> dict[str, Any]:
    """Return what ``queue.js`` draws."""
    shown = sorted(writes, key=lambda write: _FIRST[write.state])[:SHOWN]
    return {
        "total": len(writes),
        "failed": sum(write.state in ("failed", "asking") for write in writes),
        "writes": [
            {
                "id": write.id,
                "what": cut(write.what, 120),
                "state": write.state,
                "why": cut(write.why),
                "attempts": write.attempts,
                "at": write.queued_at.isoformat() if write.queued_at else None,
                "payload": cut(write.payload, 200),
            }
            for write in shown
        ],
    }


def queue_handlers(source: QueueSource) -> Mapping[str, Handler]:
    """Return the handlers of retry and discard, by the id in the list."""
    return {
        "retry": lambda word: pump.act(lambda: source.retry(str(word.get("id")))),
        "discard": lambda word: pump.act(lambda: source.discard(str(word.get("id")))),
    }


def queue_text(writes: Sequence[QueuedWrite]) -> str:
    """Return one line: the number of writes, and of those that need a decision."""
    failed = sum(write.state in ("failed", "asking") for write in writes)
    if not writes:
        return "All saved"
    return f"{len(writes)} unsaved" + (f", {failed} to decide" if failed else "")


def queue_html(writes: Sequence[QueuedWrite]) -> str:
    """Return the static form: the line and the list, without the values."""
    rows = [(write.what, write.state, write.why) for write in writes[:SHOWN]]
    table = static_table(("what", "state", "why"), rows) if rows else ""
    return f"<p><b>{queue_text(writes)}</b></p>{table}"


class QueueWidget(LiveWidget):
    """The number of unsent writes, opening to the list of them."""

    _esm = built("queue.js")
    _css = built("queue.css")

    def __init__(self, source: QueueSource, *, on_viewer: OnViewer | None = None) -> None:
        super().__init__(
            StateModel(
                {"queue": lambda: queue_state(source.writes())}, queue_handlers(source), reread=LOOK
            ),
            subscribe=source.on_queue,
            static=lambda: (queue_text(source.writes()), queue_html(source.writes())),
            on_viewer=on_viewer,
        )
