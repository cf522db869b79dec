"""From a view model to the browser, at the browser's pace. One for all widgets; pure.

A comm has no back-pressure: above some hundred messages a second the browser falls behind without
bound and updates are lost (design/notebooks.md, "The comm"). So every widget has a ``Link``, which asks its
``ViewModel`` for one coalesced message when there is something new **and** somebody looks **and**
fewer than two messages are on their way **and** the budgets of the widget and of the notebook
allow it. A view that comes back gets one whole state. In: changes, words from views, the time.
Out: messages. The thread that carries them is ``pump.py``; tests play it all with made-up times.
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
"""Seconds after a message in which what changes is of a stream."""
GATHER = 0.008
"""Seconds that a change of a stream waits for those that come with it, half a frame of the screen: else
a burst is two messages, its first changes and, 33 ms later, the rest."""
BEAT = 10.0
"""Seconds of silence after which a looking view is told that the kernel still lives."""
LISTEN = 0.1
"""Seconds after which a link that waits for a view asks again whether it can hear one: nobody tells
it that a cell has started, and what was drawn just before is acknowledged only after that cell."""


@dataclass(frozen=True, slots=True)
class Message:
    """What goes over the comm: JSON, and binary beside it. ``whole`` stands by itself."""

    content: Mapping[str, Any]
    buffers: tuple[bytes, ...] = ()
    whole: bool = False
    to: str | None = None
    """The one view it is for; None for all."""

    @property
    def size(self) -> int:
        """Bytes on the wire, near enough for a budget (the JSON is counted by its repr)."""
        return len(repr(self.content)) + sum(map(len, self.buffers)) + 400


class ViewModel(Protocol):
    """State in, at most one round of messages out."""

    def whole(self, view: str) -> Sequence[Message]:
        """All that the fresh ``view`` must know."""

    def update(self) -> Sequence[Message]:
        """What changed since the last call; empty if nothing a view would see."""

    def received(self, view: str, content: Mapping[str, Any]) -> None:
        """A word of the user from ``view``: a click, a scroll, an edit."""

    def view_closed(self, view: str) -> None:
        """``view`` looks no more."""

    def wants(self) -> float:
        """Seconds after which to ask again though nothing changed; infinite for never."""


class Budget:
    """Messages and bytes a second for the whole notebook, as two leaky buckets.

    A message's size is known only once it is made, so the bytes may go into debt once.
    """

    def __init__(self, rate: float = NOTEBOOK_RATE, bandwidth: float = NOTEBOOK_BYTES) -> None:
        self._rate = rate
        self._bandwidth = bandwidth
        self._messages = burst = rate / 5
        self._burst = burst
        self._bytes = bandwidth / 2
        self._at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until a message may leave."""
        passed = max(0.0, now - self._at)
        self._at = now
        self._messages = min(self._burst, self._messages + passed * self._rate)
        self._bytes = min(self._bandwidth / 2, self._bytes + passed * self._bandwidth)
        return max((1 - self._messages) / self._rate, -self._bytes / self._bandwidth, 0.0)

    def spend(self, size: int) -> None:
        self._messages -= 1
        self._bytes -= size


class Link:
    """One widget's way to its views.

    Parameters
    ----------
    model
        What is shown.
    budget
        Shared by the widgets of a notebook.
    eyes
        Told ``online``, ``offline``, ``visible``, ``hidden`` as the browser says them, and
        ``seen`` and ``unseen`` when the first view looks and the last one stops.
    deaf
        Tells whether no acknowledgement can be heard now: a cell runs, and its host hands on
        nothing from the browser meanwhile.
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
        """When the first change came of those that were not sent yet."""
        self._again = float("inf")

    def mark(self, now: float) -> bool:
        """Something changed; True if that is worth waking the pump for."""
        if self.dirty:
            return False
        self._marked_at = now
        self.dirty = True
        return len(self.leases) > 0

    def due(self, now: float) -> float | None:
        """When to call ``take`` next; None: not before something happens."""
        if not self.leases:
            return None
        beat = self._sent_at + BEAT
        if not (self.dirty or self._fresh):
            return min(beat, self._again)
        if not self._deaf() and self.leases.unacked >= MAX_UNACKED and not self._fresh:
            return now + LISTEN
        # While nothing can be heard, the pace alone has to do: a browser keeps up with more.
        together = self._marked_at - self._sent_at < STREAM
        gathered = self._marked_at + GATHER if together else now
        return max(self._sent_at + 1 / WIDGET_RATE, gathered, now + self._budget.wait(now))

    def take(self, now: float) -> list[tuple[dict[str, Any], tuple[bytes, ...]]]:
        """The messages to send now, numbered."""
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
        self.dirty = False  # before the model reads: what comes from now on marks it again
        if dirty and len(fresh) < len(self.leases):
            messages += self.model.update()
        for view in fresh:
            messages += self.model.whole(view)
        self._fresh = []  # only now: a model that raises is asked again
        self._again = now + self.model.wants()
        return [self._stamp(message, now) for message in messages]

    def receive(self, content: Mapping[str, Any], now: float) -> bool:
        """Take a view's word in; True if the pump should look at this link now."""
        view, kind = str(content.get("view", "")), content.get("t")
        if not view:
            return False
        if kind == "look":
            # A view that has nothing yet says it again.
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
