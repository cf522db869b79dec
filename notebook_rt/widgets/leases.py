"""Tracks visible views. A browser does not sign off, so visibility is a lease (docs/design/notebooks.md).
Input: reports from views (visible, not visible, message 7 drawn) and the times at which messages were sent.
Output: whether any view is visible, which messages request an acknowledgement, and how many of these the
slowest view has not drawn yet. An acknowledgement costs the kernel more than the message itself, so while
they arrive promptly only some messages request one; when one is late, every message does. A view that leaves
a message undrawn for ``patience`` seconds is considered gone: its lease lapses, and its next report starts a
new lease with one whole state. Pure: the time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ASK = 0.25
"""Seconds between the messages that request an acknowledgement, while views are prompt."""
PROMPT = 0.1
"""Seconds within which a prompt view acknowledges."""


@dataclass(slots=True)
class _Lease:
    asked: dict[int, float] = field(default_factory=dict)
    """The messages that requested an acknowledgement and are not drawn by this view; when they were sent."""
    waiting_since: float = 0.0
    """The time since which it could have acknowledged the oldest of them."""
    late: bool = True
    """Whether its last acknowledgement was late, or none has arrived yet."""

    def lags(self, now: float) -> bool:
        oldest = next(iter(self.asked.values()), now)
        return self.late or now - oldest > PROMPT


class Leases:
    """The visible views of one widget."""

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
        """Number of messages not acknowledged by the slowest visible view, of those that requested it."""
        return max((len(lease.asked) for lease in self._leases.values()), default=0)

    def renew(self, view: str) -> bool:
        """Note that ``view`` is visible; return True if it was not before and so needs the whole state."""
        if view in self._leases:
            return False
        self._leases[view] = _Lease()
        return True

    def leave(self, view: str) -> bool:
        """Note that ``view`` is no longer visible; return True if it was."""
        return self._leases.pop(view, None) is not None

    def acknowledge(self, view: str, seq: int, now: float) -> bool:
        """Note that ``view`` has drawn ``seq``; return True if it needs the whole: its lease had lapsed."""
        if view not in self._leases:
            return self.renew(view)
        lease = self._leases[view]
        for number in [number for number in lease.asked if number <= seq]:
            lease.late = now - lease.asked.pop(number) > PROMPT
        lease.waiting_since = now
        return False

    def sent(self, now: float, *, whole: bool = False, deaf: bool = False) -> tuple[int, bool]:
        """Note that a message is sent.

        Parameters
        ----------
        whole
            It does not depend on earlier ones: whether it was drawn must be known.
        deaf
            No acknowledgement can be received now: requesting more of them is useless.

        Returns
        -------
        tuple of (int, bool)
            The message's number, and whether it requests an acknowledgement.
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
        """End the leases of views that have been silent too long, and return them."""
        gone = [
            view
            for view, lease in self._leases.items()
            if lease.asked and now - lease.waiting_since > self.patience
        ]
        for view in gone:
            del self._leases[view]
        return gone

    def excuse(self, now: float) -> None:
        """Ignore the silence so far: nothing could be received until ``now`` (a busy cell)."""
        for lease in self._leases.values():
            lease.waiting_since = now
            lease.asked = dict.fromkeys(list(lease.asked)[-1:], now)
