"""Callers that wait for a result of a table's machine: the verdict of an audit, or columns that it learns.

Input, on the loop: the machine's reports (``Logged``). Output: futures for the user's threads.
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
    """A caller that has requested a comparison."""

    future: concurrent.futures.Future[Verdict] = msgspec.field(
        default_factory=concurrent.futures.Future
    )
    since: float = msgspec.field(default_factory=time.monotonic)
    found: tuple[int, float] | None = None
    """Rows and seconds of the audit; None before it is over."""
    differed: int = 0
    """Rows that differed, as far as that is final."""
    judging: bool = False
    """Whether rows differed whose change may still be on its way."""
    undecided: frozenset[Key] = frozenset()
    """Rows that the audit could not decide, and that have not been read again yet."""

    def resolve(self) -> None:
        """Set the verdict if it is final."""
        final = not (self.judging or self.undecided)
        if self.found is not None and final and not self.future.done():
            rows, took = self.found
            self.future.set_result(Verdict(rows, self.differed, took))


class Checks:
    """The callers that have requested a comparison and wait for its verdict."""

    def __init__(self) -> None:
        self._checks: list[_Check] = []

    def ask(self) -> concurrent.futures.Future[Verdict]:
        """Return a future for the verdict of an audit that begins from now on."""
        check = _Check()
        self._checks = [one for one in self._checks if not one.future.done()] + [check]
        return check.future

    @property
    def waiting(self) -> bool:
        """Whether a caller waits for a verdict."""
        return any(not check.future.done() for check in self._checks)

    def audited(self, detail: Mapping[str, Any]) -> None:
        """Take the result of an audit; changes on their way may still explain the differences."""
        for check in self._checks:
            if check.found is None and detail["began"] >= check.since:
                check.found = int(detail["rows"]), float(detail["seconds"])
                check.differed = int(detail.get("changed", 0))
                check.judging = bool(detail.get("differing"))
                check.undecided = detail.get("undecided", frozenset())
                check.resolve()

    def differed(self) -> None:
        """Note that rows which an audit had left undecided were read again and differed."""
        for check in self._checks:
            check.judging |= bool(check.undecided)

    def decided(self, undecided: Collection[Key]) -> None:
        """Note that only these rows are still undecided."""
        for check in self._checks:
            if check.undecided:
                check.undecided &= frozenset(undecided)
                check.resolve()

    def judged(self, differed: int, *, final: bool) -> None:
        """Note that ``differed`` of the rows found by audits were lost; ``final``: all are decided."""
        for check in self._checks:
            if check.found is not None:
                check.differed += differed
                check.judging &= not final
                check.resolve()

    def reset(self) -> None:
        """Discard what was found."""
        for check in self._checks:
            check.found = None  # the next audit decides

    def fail(self, error: Exception) -> None:
        """Fail all waiting callers: there will be no more audits."""
        for check in self._checks:
            if not check.future.done():
                check.future.set_exception(error)


class Question(msgspec.Struct, eq=False):
    """A caller that waits for columns to be learned."""

    columns: Sequence[str]
    future: concurrent.futures.Future[None] = msgspec.field(
        default_factory=concurrent.futures.Future
    )

    def learnt(self, named: Sequence[str]) -> None:
        """Note that the table was learned, with these columns requested by name."""
        if set(self.columns) <= set(named) and not self.future.done():
            self.future.set_result(None)
