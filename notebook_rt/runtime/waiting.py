"""Who waits for what a table's machine finds out: the verdict of an audit, or columns that it learns.

In: what the machine tells (``Told``), on the loop. Out: futures, for threads of users.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from notebook_rt.runtime.feed import Verdict


@dataclass(slots=True)
class _Check:
    """Somebody who has asked for a comparison."""

    future: concurrent.futures.Future[Verdict] = field(default_factory=concurrent.futures.Future)
    since: float = field(default_factory=time.monotonic)
    found: tuple[int, float] | None = None
    """Rows and seconds of the audit, while it is not known whether what differed was on its way."""


class Checks:
    """Who has asked for a comparison, and waits for its verdict."""

    def __init__(self) -> None:
        self._checks: list[_Check] = []

    def ask(self) -> concurrent.futures.Future[Verdict]:
        """A future of the verdict of an audit that begins from now on."""
        check = _Check()
        self._checks = [one for one in self._checks if not one.future.done()] + [check]
        return check.future

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a verdict."""
        return any(not check.future.done() for check in self._checks)

    def audited(self, detail: Mapping[str, Any]) -> None:
        """An audit is over; what differed may yet be explained by changes on their way."""
        for check in self._checks:
            if check.found is None and detail["began"] >= check.since:
                check.found = int(detail["rows"]), float(detail["seconds"])
                if not detail.get("differing"):
                    _judge(check, int(detail.get("changed", 0)))

    def judged(self, differed: int) -> None:
        """What the audits have found is final: say so to who has asked."""
        for check in self._checks:
            _judge(check, differed)

    def fail(self, error: Exception) -> None:
        """There will be no audit any more."""
        for check in self._checks:
            if not check.future.done():
                check.future.set_exception(error)


def _judge(check: _Check, differed: int) -> None:
    if check.found is not None and not check.future.done():
        check.future.set_result(Verdict(check.found[0], differed, check.found[1]))


@dataclass(slots=True, eq=False)
class Question:
    """Somebody who waits for columns to be learnt."""

    columns: Sequence[str]
    future: concurrent.futures.Future[None] = field(default_factory=concurrent.futures.Future)

    def learnt(self, named: Sequence[str]) -> None:
        """The table was learnt, with these columns asked for by name."""
        if set(self.columns) <= set(named) and not self.future.done():
            self.future.set_result(None)
