"""Is anybody looking? A browser does not say goodbye, so looking is a lease (docs/design/notebooks.md).

In: what views say (I look, I do not, I have drawn message 7) and when messages were sent. Out:
whether anybody looks, which messages ask to be acknowledged, and how many of these the slowest
view has not drawn yet. An acknowledgement costs the kernel more than what it acknowledges, so
where they come promptly only some messages ask; where one is late, every message does. A view that
leaves one undrawn for ``patience`` seconds is taken to be gone: its lease lapses, and the next word
from it starts a new one with one whole state. Pure: the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ASK = 0.25
"""Seconds between the messages that ask to be acknowledged, while views are prompt."""
PROMPT = 0.1
"""Seconds in which a prompt view acknowledges."""


@dataclass(slots=True)
class _Lease:
    asked: dict[int, float] = field(default_factory=dict)
    """The messages that asked and that this view has not drawn; when they were sent."""
    waiting_since: float = 0.0
    """Since when it could have acknowledged the oldest of them."""
    late: bool = True
    """Its last acknowledgement came late, or none has come yet."""

    def lags(self, now: float) -> bool:
        oldest = next(iter(self.asked.values()), now)
        return self.late or now - oldest > PROMPT


class Leases:
    """The views of one widget that are looking."""

    def __init__(self, patience: float = 5.0) -> None:
        self.patience = patience
        self._leases: dict[str, _Lease] = {}
        self._seq = 0
        self._asked_at = float("-inf")

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, view: str) -> bool:
        return view in self._leases

    @property
    def unacked(self) -> int:
        """How many messages that asked for it the slowest looking view has not drawn."""
        return max((len(lease.asked) for lease in self._leases.values()), default=0)

    def renew(self, view: str) -> bool:
        """``view`` looks; True if it did not before, and so needs the whole state."""
        if view in self._leases:
            return False
        self._leases[view] = _Lease()
        return True

    def leave(self, view: str) -> bool:
        """``view`` looks no more; True if it did."""
        return self._leases.pop(view, None) is not None

    def acknowledge(self, view: str, seq: int, now: float) -> bool:
        """``view`` has drawn ``seq``; True if its lease had lapsed, so that it needs the whole."""
        if view not in self._leases:
            return self.renew(view)
        lease = self._leases[view]
        for number in [number for number in lease.asked if number <= seq]:
            lease.late = now - lease.asked.pop(number) > PROMPT
        lease.waiting_since = now
        return False

    def sent(self, now: float, *, whole: bool = False, deaf: bool = False) -> tuple[int, bool]:
        """A message leaves.

        Parameters
        ----------
        whole
            It stands by itself: whether it was drawn must be known.
        deaf
            No acknowledgement can be heard now: to ask for more of them brings nothing.

        Returns
        -------
        tuple of (int, bool)
            The message's number, and whether it asks to be acknowledged.
        """
        self._seq += 1
        lags = not deaf and any(lease.lags(now) for lease in self._leases.values())
        if not (whole or lags or now - self._asked_at >= ASK):
            return self._seq, False
        self._asked_at = now
        for lease in self._leases.values():
            if not lease.asked:
                lease.waiting_since = now
            lease.asked[self._seq] = now
        return self._seq, True

    def lapse(self, now: float) -> list[str]:
        """End the leases of views that have kept silent too long, and name them."""
        gone = [
            view
            for view, lease in self._leases.items()
            if lease.asked and now - lease.waiting_since > self.patience
        ]
        for view in gone:
            del self._leases[view]
        return gone

    def excuse(self, now: float) -> None:
        """Nobody could be heard until ``now`` (a busy cell): silence so far counts for nothing."""
        for lease in self._leases.values():
            lease.waiting_since = now
            lease.asked = dict.fromkeys(list(lease.asked)[-1:], now)
