"""The events of one table, in order, bounded, and passed on in batches.

In: changes and events from the socket and REST. Out: events for the table's machine; a burst costs one turn
of the loop instead of one per frame. A full buffer opens a gap (promise 3); a change is never lost silently.
Everything here runs on the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from notebook_rt.sync.events import Change, Event, Gap, Received, ReceivedMany, ReceivedMessages
from notebook_rt.sync.table.broadcast_answers import commit_time


class _Message(msgspec.Struct, frozen=True):
    payload: object


class Buffer:
    """A buffer of at most ``size`` items; ``feed`` receives up to ``batch`` of them per turn of the loop."""

    def __init__(self, size: int, batch: int, feed: Callable[[Event], None]) -> None:
        self._size = size
        self._batch = batch
        self._feed = feed
        self._items: deque[Event | Change | _Message] = deque()
        self._draining = False
        self._overflow: Gap | None = None
        """The waiting gap; changes dropped before it is fed need no other gap."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> float | None:
        """The commit time of the next waiting change, if any; from any thread."""
        try:
            item = self._items[0]
        except IndexError:
            return None
        if isinstance(item, _Message):
            return commit_time(item.payload)
        return item.commit_time if isinstance(item, Change) else None

    def change(self, change: Change | None) -> None:
        """Add a change; None if it could not be decoded."""
        self._take(Gap("a change of an unknown kind") if change is None else change)

    def message(self, payload: object) -> None:
        """Add a message of a broadcast log."""
        self._take(_Message(payload))

    def _take(self, item: Event | Change | _Message) -> None:
        if len(self._items) >= self._size:
            if self._overflow is None:
                # Events are kept: an answer or a turn is sent only once. The gap makes up for the changes.
                kept = [one for one in self._items if not isinstance(one, Change | _Message)]
                self._items = deque(kept)
                self._overflow = Gap("changes came faster than they could be applied")
                self.event(self._overflow)
            return
        self._items.append(item)
        if not self._draining:
            self._drain_soon()

    def event(self, item: Event) -> None:
        self._items.append(item)
        self._drain_soon()

    def _drain_soon(self) -> None:
        if not self._draining:
            self._draining = True
            asyncio.get_running_loop().call_soon(self._drain)

    def clear(self) -> None:
        self._items.clear()
        self._overflow = None

    def flush(self) -> None:
        """Feed all items now."""
        while self._items:
            self._feed_batch()

    def _drain(self) -> None:
        """Feed one batch in order, then let the loop handle other events."""
        try:
            self._feed_batch()
        finally:  # the next events are fed even if one fails
            if self._items:
                asyncio.get_running_loop().call_soon(self._drain)
            else:
                self._draining = False

    def _feed_batch(self) -> None:
        """Feed one batch in order."""
        budget = self._batch
        changes: list[Change] = []
        messages: list[object] = []
        while self._items and budget:
            budget -= 1
            item = self._items.popleft()
            if isinstance(item, Change):
                changes.append(item)
            elif isinstance(item, _Message):
                messages.append(item.payload)
            else:
                self._feed_all(changes, messages)
                changes, messages = [], []
                if item is self._overflow:
                    self._overflow = None
                self._feed(item)
        self._feed_all(changes, messages)

    def _feed_all(self, changes: list[Change], messages: list[object]) -> None:
        """Return the waiting items of both kinds; a table uses one kind at a time."""
        if changes:
            self._feed(Received(changes[0]) if len(changes) == 1 else ReceivedMany(changes))
        if messages:
            self._feed(ReceivedMessages(messages))
