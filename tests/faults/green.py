"""``python -m tests.faults.green [names]``: how long a session is green although rows are wrong.

One fault at a time begins at a random moment of a session with the default options, while somebody
writes a row now and then. From then on, many times a second: is the health green, and since when is it
wrong? Wrong are rows that were committed and are not shown, and a fact that the health should say (nothing
comes, nothing can be read or sent, an edit was refused). What is longer than the fault's bound is a defect.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import notebook_rt as nrt
from notebook_rt.errors import NotebookRTError
from notebook_rt.local import LocalStack, start
from tests.faults.lab import Lab, laboratory
from tests.proxy import Answer, Cut, Delay, Drop, Rule, Stall
from tests.waiting import scaled, until

ROWS: Final = 60
WATCHED: Final = 32.0
"""Seconds from the fault on: an audit and its verdict are within."""
ON_ITS_WAY: Final = 1.5
"""Seconds in which a change may be on its way (``Options.visible_within``)."""
SILENT: Final = 8.0
"""Seconds after which silence is told, of a connection that answered quickly until then."""
AUDITED: Final = 20.0 + 2.0
"""``Options.audit_interval``, and what an audit takes: what is lost without a word on a quiet table."""


@dataclass(frozen=True)
class Fault:
    """What is broken, and for how long green may last."""

    begin: Callable[[Lab], object]
    bound: float
    """Seconds for which rows may be wrong while green."""
    told_within: float | None = None
    """Seconds after which the health must not be green, whatever the rows are; None: it may stay so."""
    writes: bool = True
    options: dict[str, Any] = field(default_factory=dict)


def broken(*rules: Rule) -> Callable[[Lab], None]:
    def begin(lab: Lab) -> None:
        lab.proxy.rules = rules

    return begin


def cut(*rules: Rule, code: int = 1006) -> Callable[[Lab], None]:
    def begin(lab: Lab) -> None:
        lab.proxy.rules = rules
        lab.proxy.close_sockets(code)

    return begin


def refuse(lab: Lab) -> None:
    lab.frame.edit(2, qty=-1)


def shortage(lab: Lab) -> None:
    """More of the user's channels than there are places."""
    lab.rooms = [lab.session.channel(f"room {n}") for n in range(3)]


REST: Final = "/rest"
SOCKET: Final = "/websocket"
FAULTS: Final[dict[str, Fault]] = {
    "silent network": Fault(
        broken(Stall(path=SOCKET), Stall(path=REST, seconds=1e6)), SILENT, SILENT
    ),
    "silent socket": Fault(broken(Stall(path=SOCKET)), SILENT, SILENT),
    "silent REST": Fault(broken(Stall(path=REST, seconds=1e6)), ON_ITS_WAY, AUDITED + 5),
    "REST refused": Fault(broken(Cut(path=REST)), ON_ITS_WAY, AUDITED + 5),
    "REST answers 503": Fault(broken(Answer(status=503, path=REST)), ON_ITS_WAY, AUDITED + 5),
    "heartbeats unanswered": Fault(broken(Drop(kind="heartbeat")), ON_ITS_WAY),
    "nobody listens": Fault(lambda lab: lab.proxy.down(), ON_ITS_WAY, ON_ITS_WAY),
    "socket closed": Fault(cut(), ON_ITS_WAY),
    "socket refused": Fault(cut(Cut(path=SOCKET)), ON_ITS_WAY, ON_ITS_WAY),
    "channels closed": Fault(lambda lab: lab.proxy.close_channels(), ON_ITS_WAY),
    # Nothing tells of a change before it comes, of its lateness neither.
    "changes 6 s late": Fault(broken(Delay(seconds=6.0)), 6.0 + 0.5),
    "changes lost": Fault(broken(Drop()), AUDITED),
    "confirmation lost": Fault(cut(Drop(kind="system"), code=1012), ON_ITS_WAY),
    "truncate": Fault(lambda lab: lab.sql("truncate {t}"), AUDITED, writes=False),
    "a column more": Fault(
        lambda lab: lab.sql("alter table {t} add more int default 1"), AUDITED, writes=False
    ),
    "rows hidden by a policy": Fault(
        lambda lab: lab.sql("alter table {t} enable row level security"), AUDITED, writes=False
    ),
    "not published any more": Fault(
        lambda lab: lab.sql("alter publication supabase_realtime drop table {t}"), AUDITED
    ),
    "an edit refused": Fault(refuse, ON_ITS_WAY, 3.0, writes=False),
    "too few channels": Fault(shortage, ON_ITS_WAY, 3.0, options={"max_channels": 2}),
}


@dataclass
class Seen:
    """What was measured."""

    name: str
    wrong: float = 0.0
    """Seconds for which rows were wrong while green, at the most."""
    told: float | None = None
    """Seconds from the fault until the health was not green; None: it always was."""
    said: list[str] = field(default_factory=list)
    """The words of the health, in order."""

    def findings(self) -> list[str]:
        fault = FAULTS[self.name]
        found = []
        if self.wrong > scaled(fault.bound):
            found.append(f"{self.name}: green though wrong for {self.wrong:.1f} s")
        if fault.told_within is not None and (
            self.told is None or self.told > scaled(fault.told_within)
        ):
            found.append(f"{self.name}: not told within {fault.told_within:g} s ({self.told})")
        return found


class Writer:
    """Writes a row now and then, and knows since when each is to be seen."""

    def __init__(self, lab: Lab, dice: random.Random) -> None:
        self.lab = lab
        self.dice = dice
        self.waits: dict[int, list[tuple[int, float]]] = {}
        """Of each row the numbers that were written, and when; those that were seen are taken off."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 1000
        while not self._stop.wait(self.dice.uniform(0.3, 3.0)):
            number, key = number + 1, self.dice.randint(3, ROWS)
            self.lab.sql(f"update {{t}} set qty = {number} where id = {key}")
            self.waits.setdefault(key, []).append((number, time.monotonic()))

    def oldest(self) -> float | None:
        """When the first row was written that is not shown yet."""
        try:
            qty = self.lab.frame.df["qty"]
        except NotebookRTError:  # nothing is shown, so that nothing shown is wrong
            return None
        since: list[float] = []
        for key, written in list(self.waits.items()):
            shown = qty.get(key, 0)
            written[:] = [(number, at) for number, at in written if number > shown]
            since += [at for _, at in written[:1]]
        return min(since, default=None)


def truth(lab: Lab) -> Callable[[], bool]:
    """Whether what is shown is what the server has, of faults that somebody makes by SQL."""

    def right() -> bool:
        hidden = lab.sql("select relrowsecurity from pg_class where relname = '{t}'")[0][0]
        rows = 0 if hidden else lab.sql("select count(*) from {t}")[0][0]
        names = {
            name
            for (name,) in lab.sql(
                "select column_name from information_schema.columns where table_name = '{t}'"
            )
        }
        df = lab.frame.df
        return len(df) == rows and {*df.columns, *df.index.names} == names

    return right


def watch(stack: LocalStack, name: str, seed: int) -> Seen:
    """One fault, from a random moment on."""
    fault, dice, seen = FAULTS[name], random.Random(f"{name} {seed}"), Seen(name)
    options = nrt.Options(**fault.options)
    with laboratory(stack, rows=ROWS, options=options) as lab, Writer(lab, dice) as writer:
        if not fault.writes:
            writer._stop.set()
        lab.sql("alter table {t} add check (qty >= 0)")
        session = lab.session
        until(lambda: session.health.status == "healthy", 40, lambda: repr(session.health))
        wait, right = dice.uniform(0.0, 6.0), truth(lab)
        threading.Event().wait(wait)
        if not fault.writes:
            until(lambda: session.health.status == "healthy", 40, lambda: repr(session.health))
        began = time.monotonic()
        fault.begin(lab)
        since: float | None = None
        while (now := time.monotonic()) < began + WATCHED:
            health = session.health
            oldest = writer.oldest() if fault.writes else None
            if not fault.writes:
                since = None if right() else (since or now)
                oldest = since
            if health.color == "green" and oldest is not None:
                seen.wrong = max(seen.wrong, now - oldest)
            if health.color != "green" and seen.told is None:
                seen.told = now - began
            if seen.said[-1:] != [health.status]:
                seen.said.append(health.status)
            threading.Event().wait(0.05)
        lab.proxy.heal()
        lab.proxy.up()
    return seen


def main(names: Sequence[str]) -> int:
    chosen, seed = names or list(FAULTS), random.randrange(10**6)
    print(f"seed {seed}")
    found: list[str] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.dict(os.environ, XDG_STATE_HOME=directory),  # the queue's file of refused edits
        start(Path(directory) / "stack") as stack,
        ThreadPoolExecutor(4) as pool,
    ):
        for seen in pool.map(lambda name: watch(stack, name, seed), chosen):
            told = "always green" if seen.told is None else f"told after {seen.told:.1f} s"
            print(f"{seen.name:26} wrong {seen.wrong:4.1f} s, {told}: {', '.join(seen.said)}")
            found += seen.findings()
    print("\n".join(found) or "nothing was green for longer than its bound")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
