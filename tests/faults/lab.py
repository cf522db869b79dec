"""One fault per test: a table, a proxy in front of the stack, and a live session through it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import notebook_rt as nrt
from notebook_rt.local import LocalStack
from tests.faults.truth import EVERYTHING, View, table_of, true_within
from tests.proxy import Proxy
from tests.waiting import TIME_FACTOR, scaled, until

_numbers = itertools.count(time.monotonic_ns())

NO_AUDIT: Final = nrt.Options(
    audit_interval=0, backoff_base=0.2, backoff_max=1.0, poll_interval=0.5, page_size=200
)
"""What is to be noticed at once must not be left to the audit, so there is none."""

AUDIT: Final = nrt.Options(audit_interval=1.0, page_size=200)
"""What nothing tells of is the audit's: all but its interval is as by default."""


@dataclass
class Lab:
    """What a test of one fault works with; ``views`` are live when it begins, and nothing is due."""

    stack: LocalStack
    proxy: Proxy
    session: nrt.Session
    table: str
    views: dict[View, nrt.LiveFrame] = field(default_factory=dict)
    rooms: list[nrt.Channel] = field(default_factory=list)
    """Channels that stay open as long as it does."""

    @property
    def frame(self) -> nrt.LiveFrame:
        """The first view's."""
        return next(iter(self.views.values()))

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """As superuser, past the proxy; ``{t}`` is the table."""
        return self.stack.sql(statement.replace("{t}", self.table))

    def open(self, *views: View) -> None:
        """Open these views and wait until they are live, and confirmed for good."""
        for view in views:
            self.views[view] = view.open(self.session, self.table)
        for frame in self.views.values():
            frame.wait(scaled(20))
        confirmed_for_good(self.stack, self.proxy, self.session, *self.views.values())

    def live_within(self, seconds: float) -> float:
        """Wait until every view is live."""
        return until(
            lambda: all(frame.status == "live" for frame in self.views.values()),
            seconds,
            lambda: [f"{frame.status}: {frame.reason}" for frame in self.views.values()],
        )

    def true_within(self, seconds: float) -> float:
        """Wait until every view equals its ``SELECT``."""
        return true_within(seconds, self.stack, self.table, self.views)

    def heals_within(self, seconds: float) -> None:
        """Live and true again; and what is written then arrives, too."""
        began = time.monotonic()
        self.live_within(seconds)
        self.true_within(max(1.0, seconds - (time.monotonic() - began) / TIME_FACTOR))
        self.sql("update {t} set name = 'after' where id between 5 and 9")
        self.true_within(5)


def confirmed_for_good(
    stack: LocalStack, proxy: Proxy, session: nrt.Session, *frames: nrt.LiveFrame
) -> None:
    """Wait until no join will be confirmed once more, and all is read again that this makes be read.

    The server confirms a join twice, and the second time is a gap: what a test breaks before that is
    mended by it, whatever else would have mended it. ``frames`` are all that the session has joined,
    through the proxy.
    """

    def live() -> bool:
        return all(frame.status == "live" for frame in frames)

    def how_it_is() -> object:
        return proxy.confirmed, [f"{frame.status}: {frame.reason}" for frame in frames]

    until(live, 20, how_it_is)
    times = 1 if stack.options.realtime.confirm_again_delay is None else 2
    until(lambda: min(proxy.confirmed, default=0) >= times, 20, how_it_is)
    passed = proxy.counts["passed"]
    until(lambda: session.metrics["messages"] >= passed, 20)
    for _ in range(2):  # turns of the loop: what came is buffered in one, and taken in the next
        frames[0].wait(scaled(20))
    until(live, 20, how_it_is)


@contextlib.contextmanager
def laboratory(
    stack: LocalStack,
    *views: View,
    rows: int = 300,
    options: nrt.Options = NO_AUDIT,
    version: str = "none",
) -> Iterator[Lab]:
    """A lab with these views (default: the whole table)."""
    with (
        table_of(stack, f"lab_{next(_numbers)}", rows, 1, version) as table,
        Proxy(stack.url) as proxy,
        nrt.connect(proxy.url, stack.anon_key, options=options) as session,
    ):
        lab = Lab(stack, proxy, session, table)
        lab.open(*(views or (EVERYTHING,)))
        yield lab
