"""A live table, or its state at a moment of its recorded past: the time slider of grids and charts.

Input: a ``FrameSource``, and a moment that the user requests. Output: a ``FrameSource`` for the view model,
and the state of the slider. Moments are computed on another thread, one at a time: of the moments requested
meanwhile only the last one is computed. The live table continues to update; a moment cannot be edited.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

import pandas as pd

from notebook_rt.errors import HistoryError
from notebook_rt.model.types import Column
from notebook_rt.widgets.sources import (
    Conflict,
    FrameSource,
    Lost,
    Moment,
    PastSource,
    Right,
    Unsubscribe,
)
from notebook_rt.widgets.state import cut

MOST_LOST: Final = 60
"""Maximum number of gaps that the slider draws: the longest ones."""
CLOCK: Final = 10_000_000
"""Microseconds after which the current time is sent to the views again."""
LOOK: Final = 1.0
"""Seconds between two checks whether a past is recorded, and how far it reaches."""
FORGOTTEN: Final = "That moment is forgotten by now. This is the table as it is."
_NO_ROWS: Final = pd.DataFrame()


class Moments:
    """See the module. Used on the view model's thread.

    Parameters
    ----------
    live
        The live table.
    act
        Runs slow work on another thread.
    changed
        Requests another look at the view model; called from that thread.
    """

    def __init__(
        self,
        live: FrameSource,
        act: Callable[[Callable[[], object]], object],
        changed: Callable[[], object],
    ) -> None:
        self._live = live
        self._act = act
        self._changed = changed
        self._shown: Moment | None = None
        self._seen: Moment | None = None
        """What was shown at the last ``refresh``."""
        self._wanted: int | None = None
        self._reading = False
        self._read: tuple[int, Moment | None, str] | None = None
        """The other thread's result: the moment that was requested, and what was found, or the error."""
        self._why = ""
        self._answers = 0
        self._last_sent: dict[str, Any] | None = None

    # The slider

    def ask(self, when: int | None) -> None:
        """Show the table at a moment; None: the live table."""
        self._wanted, self._why = when, ""
        if when is None:
            self._shown = None
            self._answers += 1
        elif not self._reading:
            self._begin(when)

    def _begin(self, when: int) -> None:
        past = self._live.past
        if past is None:
            self._show(None, FORGOTTEN)
            return
        self._reading = True

        def read() -> None:
            try:
                self._read = (when, past.at(when), "")
            except Exception as error:  # the view gets the error
                self._read = (when, None, cut(error))
            self._changed()

        self._act(read)

    def _show(self, moment: Moment | None, why: str = "") -> None:
        self._shown, self._why = moment, why
        self._answers += 1
        if moment is None:
            self._wanted = None

    def refresh(self) -> bool:
        """Take the result of the other thread and drop a forgotten moment.

        Return True if another moment is shown than after the last call.
        """
        read, self._read = self._read, None
        if read is not None:
            self._reading = False
            when, moment, why = read
            if self._wanted == when:
                self._show(moment, why)
            elif self._wanted is not None:
                self._answers += 1
                self._begin(self._wanted)
        if self._shown is not None:
            past = self._live.past
            reach = None if past is None else past.reach()
            if reach is None or reach.began > self._shown.when:  # such as after another login
                self._show(None, FORGOTTEN)
        moved, self._seen = self._shown is not self._seen, self._shown
        return moved

    def state(self) -> dict[str, Any] | None:
        """Return the state of the slider; None if nothing is recorded."""
        past = self._live.past
        reach = None if past is None else past.reach()
        if reach is None:
            self._last_sent = None
            return None
        shown = self._shown
        longest = sorted(reach.lost, key=lambda lost: (lost.until or reach.now) - lost.since)
        lost = sorted(longest[-MOST_LOST:], key=lambda lost: lost.since)
        told = {
            "began": reach.began,
            "at": None if shown is None else shown.when,
            "gaps": [_as_list(one) for one in lost],
            "gap": None
            if shown is None or shown.lost is None
            else [*_as_list(shown.lost), shown.known],
            "why": self._why,
            "answers": self._answers,
        }
        before = self._last_sent
        if before is None or reach.now - before["now"] > CLOCK or told != _without_now(before):
            self._last_sent = {**told, "now": reach.now}
        return self._last_sent

    @property
    def shown(self) -> int | None:
        """The moment that is shown; None for the live table."""
        return None if self._shown is None else self._shown.when

    # As a source

    @property
    def df(self) -> pd.DataFrame:
        return self._live.df if self._shown is None else self._shown.df

    @property
    def name(self) -> str:
        return self._live.name

    @property
    def status(self) -> str:
        return self._live.status if self._shown is None else "past"

    @property
    def note(self) -> str:
        return self._live.note if self._shown is None else ""

    @property
    def undeclared(self) -> str:
        return self._live.undeclared if self._shown is None else ""

    @property
    def fields(self) -> Sequence[Column]:
        return self._live.fields if self._shown is None else self._shown.fields

    def fields_of(self, df: pd.DataFrame) -> Sequence[Column]:
        return self._live.fields_of(df) if self._shown is None else self._shown.fields

    @property
    def past(self) -> PastSource | None:
        return self._live.past

    @property
    def why_no_past(self) -> str:
        return self._live.why_no_past

    @property
    def editable(self) -> bool:
        return self._live.editable and self._shown is None

    def may(self, right: Right) -> bool:
        return self._shown is None and self._live.may(right)

    def on_change(self, fn: Callable[[], object]) -> Unsubscribe:
        return self._live.on_change(fn)

    def edit(self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]) -> object:
        return self._writable().edit(key, values, shown)

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        return self._writable().insert(values)

    def delete(self, key: Hashable, after: float) -> object:
        return self._writable().delete(key, after)

    def leaving(self) -> pd.DataFrame:
        return self._live.leaving() if self._shown is None else _NO_ROWS

    def forget_columns(self) -> object:
        return self._live.forget_columns()

    def batch(self) -> AbstractContextManager[None]:
        return self._writable().batch()

    def undo(self) -> bool:
        return self._writable().undo()

    def marks(self) -> Mapping[tuple[Hashable, str], tuple[str, str]]:
        return self._live.marks() if self._shown is None else {}

    def conflicts(self) -> Sequence[Conflict]:
        return self._live.conflicts() if self._shown is None else ()

    def resolve(
        self, key: Hashable, column: str | None, choice: Literal["mine", "theirs"]
    ) -> object:
        return self._writable().resolve(key, column, choice)

    def _writable(self) -> FrameSource:
        if self._shown is not None:
            raise HistoryError("This is the table as it was: go back to live to change it")
        return self._live


def _as_list(lost: Lost) -> list[Any]:
    return [lost.since, lost.until, cut(lost.reason, 200)]


def _without_now(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "now"}
