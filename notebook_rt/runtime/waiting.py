"""Who waits for what a table's machine finds out: the verdict of an audit, or columns that it learns.

In: what the machine tells (``Logged``), on the loop. Out: futures, for threads of users.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from notebook_rt.model.rows import Key
from notebook_rt.runtime.feed import Verdict


class _Check(msgspec.Struct):
    """Somebody who has asked for a comparison."""

    future: concurrent.futures.Future[Verdict] = msgspec.field(
        default_factory=concurrent.futures.Future
    )
    since: float = msgspec.field(default_factory=time.monotonic)
    found: tuple[int, float] | None = None
    """Rows and seconds of the audit; None before it is over."""
    differed: int = 0
    """Rows that differed, as far as that is final."""
    judging: bool = False
    """Whether rows differed of which it is not known yet if their change was on its way."""
    undecided: frozenset[Key] = frozenset()
    """Rows that the audit could not decide, and that were not read again yet."""

    def resolve(self) -> None:
        """Say the verdict, if it is final."""
        final = not (self.judging or self.undecided)
        if self.found is not None and final and not self.future.done():
            rows, took = self.found
            self.future.set_result(Verdict(rows, self.differed, took))


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
                check.differed = int(detail.get("changed", 0))
                check.judging = bool(detail.get("differing"))
                check.undecided = detail.get("undecided", frozenset())
                check.resolve()

    def differed(self) -> None:
        """Rows that an audit had left undecided were read again, and were others."""
        for check in self._checks:
            check.judging |= bool(check.undecided)

    def decided(self, undecided: Collection[Key]) -> None:
        """Only these rows are undecided now."""
        for check in self._checks:
            if check.undecided:
                check.undecided &= frozenset(undecided)
                check.resolve()

    def judged(self, differed: int, *, final: bool) -> None:
        """So many rows that the audits have found were lost; ``final``: of all it is known now."""
        for check in self._checks:
            if check.found is not None:
                check.differed += differed
                check.judging &= not final
                check.resolve()

    def reset(self) -> None:
        """Nothing that was found counts any more."""
        for check in self._checks:
            check.found = None  # the next audit says the rest anew

    def fail(self, error: Exception) -> None:
        """There will be no audit any more."""
        for check in self._checks:
            if not check.future.done():
                check.future.set_exception(error)


class Question(msgspec.Struct, eq=False):
    """Somebody who waits for columns to be learnt."""

    columns: Sequence[str]
    future: concurrent.futures.Future[None] = msgspec.field(
        default_factory=concurrent.futures.Future
    )

    def learnt(self, named: Sequence[str]) -> None:
        """The table was learnt, with these columns asked for by name."""
        if set(self.columns) <= set(named) and not self.future.done():
            self.future.set_result(None)
