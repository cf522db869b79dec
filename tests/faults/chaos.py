"""Any mix of faults: from a seed, in sequence and simultaneously, until it is healed."""

from __future__ import annotations

import random
import threading
from typing import Final

from tests.proxy import Answer, Cut, Delay, Double, Drop, HangUp, Proxy, Rule, Stall, Truncate
from tests.waiting import scaled

TOLD: Final[tuple[Rule, ...]] = (
    Double(chance=0.2),
    Delay(chance=0.3, seconds=0.6),
    Delay(chance=0.1, seconds=0.3, in_order=True, kind=None),
    Truncate(chance=0.2),
    HangUp(chance=0.01, code=1006),
    HangUp(chance=0.01, code=1012),
    HangUp(chance=0.01, code=1000),
    Drop(kind="heartbeat"),
    Drop(kind="system", chance=0.5),
    Drop(kind="reply", chance=0.5),
    Cut(chance=0.3),
    Cut(chance=0.3, when="after"),
    Cut(chance=0.3, when="within"),
    Cut(chance=0.7, path="/websocket"),
    Stall(chance=0.5, seconds=0.8),
    Stall(path="/websocket"),
    Answer(status=503, chance=0.4),
    Answer(status=503, chance=0.7, path="/websocket"),
    Answer(status=429, chance=0.3, retry_after=1),
    Answer(status=401, chance=0.2),
)
"""Faults that something tells of: a broken connection, a missing answer, a frame with errors."""

SILENT: Final[tuple[Rule, ...]] = (
    Drop(chance=0.05),
    Drop(chance=0.5),
    Drop(),
)
"""Faults that nothing tells of: only the audit finds them."""


class Chaos:
    """Breaks things on a thread of its own; leaving the ``with`` heals them."""

    def __init__(self, proxy: Proxy, seed: int, rules: tuple[Rule, ...] = TOLD) -> None:
        self.proxy = proxy
        self.rules = rules
        self.dice = random.Random(seed)
        self.error: Exception | None = None
        self._healed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def __enter__(self) -> Chaos:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._healed.set()
        self._thread.join(scaled(30))
        self.proxy.up()
        self.proxy.heal()
        if self.error is not None and not any(error):
            raise self.error

    def _run(self) -> None:
        try:
            while not self._healed.is_set():
                self._break()
                self._healed.wait(self.dice.uniform(0.1, 1.5))
                self.proxy.up()
        except Exception as error:  # told by the test's thread
            self.error = error

    def _break(self) -> None:
        proxy, dice = self.proxy, self.dice
        proxy.rules = tuple(dice.sample(self.rules, dice.randint(0, min(4, len(self.rules)))))
        match dice.random():
            case chance if chance < 0.05:
                proxy.down()
            case chance if chance < 0.10:
                proxy.close_channels()
            case chance if chance < 0.20:
                proxy.close_sockets(dice.choice((1000, 1006, 1012)))
