"""Is anybody looking? A browser does not say goodbye, so looking is a lease (docs/design/notebooks.md).

In: what views say (I look, I do not, I have drawn message 7) and when messages were sent. Out:
whether anybody looks, and how many messages the slowest of them has not drawn yet. A view that
leaves a message undrawn for ``patience`` seconds is taken to be gone: its lease lapses, and the
next word from it starts a new one with one whole state. Pure: the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Lease:
    acked: int
    """The last message this view has drawn."""
    waiting_since: float | None = None
    """When the oldest message that it has not drawn was sent."""


class Leases:
    """The views of one widget that are looking."""

    def __init__(self, patience: float = 5.0) -> None:
        self.patience = patience
        self._leases: dict[str, _Lease] = {}
        self._seq = 0

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, view: str) -> bool:
        return view in self._leases

    @property
    def unacked(self) -> int:
        """How many messages the slowest looking view has not drawn."""
        return max((self._seq - lease.acked for lease in self._leases.values()), default=0)

    def look(self, view: str) -> bool:
        """``view`` looks; True if it did not before, and so needs the whole state."""
        if view in self._leases:
            return False
        self._leases[view] = _Lease(self._seq)
        return True

    def leave(self, view: str) -> bool:
        """``view`` looks no more; True if it did."""
        return self._leases.pop(view, None) is not None

    def acknowledge(self, view: str, seq: int, now: float) -> bool:
        """``view`` has drawn ``seq``; True if its lease had lapsed, so that it needs the whole."""
        if view not in self._leases:
            return self.look(view)
        lease = self._leases[view]
        lease.acked = max(lease.acked, min(seq, self._seq))
        lease.waiting_since = None if lease.acked == self._seq else now
        return False

    def sent(self, now: float) -> int:
        """A message leaves; its number."""
        self._seq += 1
        for lease in self._leases.values():
            if lease.waiting_since is None:
                lease.waiting_since = now
        return self._seq

    def lapse(self, now: float) -> list[str]:
        """End the leases of views that have kept silent too long, and name them."""
        gone = [
            view
            for view, lease in self._leases.items()
            if lease.waiting_since is not None and now - lease.waiting_since > self.patience
        ]
        for view in gone:
            del self._leases[view]
        return gone

    def excuse(self, now: float) -> None:
        """Nobody could be heard until ``now`` (a busy cell): silence so far counts for nothing."""
        for lease in self._leases.values():
            if lease.waiting_since is not None:
                lease.waiting_since = now
