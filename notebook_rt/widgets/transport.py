"""Sends from a view model to the browser, at the browser's pace. Shared by all widgets; pure.

A comm has no back-pressure: above some hundred messages a second the browser falls behind without limit and
updates are lost (design/notebooks.md, "The comm"). So every widget has a ``Link``, which requests one
coalesced message from its ``ViewModel`` when there is something new **and** a view is visible **and** fewer
than two messages are on their way **and** the budgets of the widget and of the notebook allow it. A view that
returns gets one whole state. Input: changes, messages from views, the time. Output: messages. The thread that
sends them is in ``pump.py``; the tests run all this with simulated times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from notebook_rt.widgets.leases import Leases
from notebook_rt.widgets.sources import OnViewer

WIDGET_RATE = 30.0
NOTEBOOK_RATE = 100.0
NOTEBOOK_BYTES = 2_000_000.0
MAX_UNACKED = 2
STREAM = 0.1
"""A change within this many seconds after a message belongs to a stream."""
GATHER = 0.008
"""Seconds that a change in a stream waits for further ones, half a frame of the screen: otherwise a burst is
two messages, its first changes and, 33 ms later, the rest."""
BEAT = 10.0
"""Seconds of silence after which a visible view gets a sign that the kernel is alive."""
LISTEN = 0.1
"""Seconds between two checks of a waiting link whether it can receive acknowledgements. The start of a cell
has no event, and what was drawn just before is acknowledged only after that cell."""


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the comm: JSON, and binary buffers. ``whole``: it does not depend on earlier ones."""

    content: Mapping[str, Any]
    buffers: tuple[bytes, ...] = ()
    whole: bool = False
    to: str | None = None
    """The view that it is for; None for all."""

    @property
    def size(self) -> int:
        """Approximate bytes on the wire, close enough for a budget (the JSON is counted by its repr)."""
        return len(repr(self.content)) + sum(map(len, self.buffers)) + 400


class ViewModel(Protocol):
    """Takes state; returns at most one round of messages."""

    def whole(self, view: str) -> Sequence[Message]:
        """Return everything that the new ``view`` needs."""

    def update(self) -> Sequence[Message]:
        """Return what changed since the last call; empty if nothing that a view would show."""

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        """Handle a user action from ``view``: a click, a scroll, an edit."""

    def view_closed(self, view: str) -> None:
        """Note that ``view`` is no longer visible."""

    def wants(self) -> float:
        """Return the seconds after which to call again even without changes; infinite for never."""


class Budget:
    """Messages and bytes per second for the whole notebook, as two leaky buckets.

    A message's size is known only after it was made, so the bytes may go into debt once.
    """

    def __init__(self, rate: float = NOTEBOOK_RATE, bandwidth: float = NOTEBOOK_BYTES) -> None:
        self._rate = rate
        self._bandwidth = bandwidth
        self._messages = burst = rate / 5
        self._burst = burst
        self._bytes = bandwidth / 2
        self._at = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until a message may be sent."""
        passed = max(0.0, now - self._at)
        self._at = now
        self._messages = min(self._burst, self._messages + passed * self._rate)
        self._bytes = min(self._bandwidth / 2, self._bytes + passed * self._bandwidth)
        return max((1 - self._messages) / self._rate, -self._bytes / self._bandwidth, 0.0)

    def spend(self, size: int) -> None:
        self._messages -= 1
        self._bytes -= size


class Link:
    """One widget's connection to its views.

    Parameters
    ----------
    model
        The view model.
    budget
        Shared by the widgets of a notebook.
    eyes
        Called with ``online``, ``offline``, ``visible``, ``hidden`` when the browser reports them, and with
        ``seen`` and ``unseen`` when the first view becomes visible and the last one stops.
    deaf
        Returns whether no acknowledgement can be received now: a cell runs, and its host forwards nothing
        from the browser meanwhile.
    """

    def __init__(
        self,
        model: ViewModel,
        budget: Budget,
        *,
        on_viewer: OnViewer | None = None,
        deaf: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.leases = Leases()
        self.dirty = False
        self._budget = budget
        self._on_viewer = on_viewer
        self._deaf = deaf
        self._fresh: list[str] = []
        self._sent_at = float("-inf")
        self._marked_at = float("-inf")
        """When the first of the unsent changes arrived."""
        self._again = float("inf")

    def mark(self, now: float) -> bool:
        """Note a change; return True if the pump should be woken for it."""
        if self.dirty:
            return False
        self._marked_at = now
        self.dirty = True
        return len(self.leases) > 0

    def due(self, now: float) -> float | None:
        """Return when to call ``take`` next; None: not before the next event."""
        if not self.leases:
            return None
        beat = self._sent_at + BEAT
        if not (self.dirty or self._fresh):
            return min(beat, self._again)
        if not self._deaf() and self.leases.unacked >= MAX_UNACKED and not self._fresh:
            return now + LISTEN
        # While nothing can be received, only the rate limits apply: a browser can handle more.
        together = self._marked_at - self._sent_at < STREAM
        gathered = self._marked_at + GATHER if together else now
        return max(self._sent_at + 1 / WIDGET_RATE, gathered, now + self._budget.wait(now))

    def take(self, now: float) -> list[tuple[dict[str, Any], tuple[bytes, ...]]]:
        """Return the messages to send now, numbered."""
        if self._deaf():
            self.leases.excuse(now)
        else:
            for view in self.leases.lapse(now):
                self._unseen(view)
        due = self.due(now)
        if due is None or due > now:
            return []
        if not (self.dirty or self._fresh) and self._again > now:
            return [self._stamp(Message({"t": "beat"}), now)]
        messages: list[Message] = []
        fresh = [view for view in dict.fromkeys(self._fresh) if view in self.leases]
        dirty = self.dirty or self._again <= now
        self.dirty = False  # before the model reads: a later change sets it again
        if dirty and len(fresh) < len(self.leases):
            messages += self.model.update()
        for view in fresh:
            messages += self.model.whole(view)
        self._fresh = []  # only now: a model that raises is called again
        self._again = now + self.model.wants()
        return [self._stamp(message, now) for message in messages]

    def receive(self, content: Mapping[str, Any], now: float) -> bool:
        """Handle a view's message; return True if the pump should check this link now."""
        view, kind = str(content.get("view", "")), content.get("t")
        if not view:
            return False
        if kind == "look":
            # A view that has nothing yet repeats this.
            fresh = self.leases.renew(view)
            self._seen(view, fresh)
            if not fresh:
                self._fresh.append(view)
        elif kind == "leave":
            if self.leases.leave(view):
                self._unseen(view)
        elif kind == "ack":
            seq = content.get("seq")
            fresh = self.leases.acknowledge(view, seq if isinstance(seq, int) else 0, now)
            self._seen(view, fresh)
        elif kind in ("online", "offline", "visible", "hidden"):
            if self._on_viewer is not None:
                self._on_viewer(kind)
        else:
            self._seen(view, self.leases.renew(view))
            self.model.received(view, content)
            self.dirty = True
        return True

    def _stamp(self, message: Message, now: float) -> tuple[dict[str, Any], tuple[bytes, ...]]:
        self._budget.spend(message.size)
        self._sent_at = now
        seq, asks = self.leases.sent(now, whole=message.whole, deaf=self._deaf())
        content = {**message.content, "seq": seq, "whole": message.whole, "ack": asks}
        if message.to is not None:
            content["to"] = message.to
        return content, message.buffers

    def _seen(self, view: str, fresh: bool) -> None:
        if not fresh:
            return
        self._fresh.append(view)
        if len(self.leases) == 1 and self._on_viewer is not None:
            self._on_viewer("seen")

    def _unseen(self, view: str) -> None:
        self.model.view_closed(view)
        if not self.leases and self._on_viewer is not None:
            self._on_viewer("unseen")
