"""``MappedFrame``: a live computation over live frames, returned by ``map``.

In: live frames and the user's function. Out: its value for the current snapshots, computed once for
each; the same grid and charts as for a table. Other live frames that the function reads are followed,
too (``following.py``). For listeners and widgets it is computed on a callback thread, so that a slow
function delays nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

import msgspec

from notebook_rt.errors import DerivationError
from notebook_rt.hints import known_keywords, of_mapped
from notebook_rt.model.plain import seconds
from notebook_rt.quoting import printable
from notebook_rt.runtime.callbacks import FirstRow, Mailbox, check_alert
from notebook_rt.runtime.following import Followed, Reads, is_running, note_all, recording
from notebook_rt.runtime.judging import Condition, Judge
from notebook_rt.sync.watch import Turn

if TYPE_CHECKING:
    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.faults import Faults
    from notebook_rt.runtime.feed import Feed
    from notebook_rt.widgets.chart import ChartWidget, Kind
    from notebook_rt.widgets.grid import GridWidget

logger = logging.getLogger("notebook_rt")


class _Run(msgspec.Struct, frozen=True):
    """The inputs and the result of one run of the function, as one value: any thread may run it."""

    given: tuple[Any, ...] | None
    """The snapshots passed to it; None before the first run, and if the last run raised."""
    value: Any
    reads: Reads
    """Other frames that it has read."""
    versions: Mapping[Feed, int] = msgspec.field(default_factory=dict)
    """The versions of its input frames, from before they were read."""
    undeclared: str = ""
    """Why not all columns of the frames were known, if the run raised."""

    @property
    def is_ours(self) -> bool:
        """Return whether all that it has read belongs to the current logins."""
        read = {feed: version for feed, (_, version) in self.reads.items()} | {**self.versions}
        return all(version >= feed.login_version for feed, version in read.items())

    def is_fresh(self, now: Sequence[Any]) -> bool:
        """Return whether another run would read the same data."""
        return (
            self.given is not None
            and self.is_ours
            and all(one is other for one, other in zip(self.given, now, strict=True))
            and all(frame.version == version for frame, version in self.reads.values())
        )


class MappedFrame:
    """The value of ``fn`` for live frames' DataFrames, returned by ``LiveFrame.map`` and ``map``."""

    def __init__(self, frames: Sequence[Followed], fn: Callable[..., Any]) -> None:
        if not callable(fn):
            raise TypeError(f"map needs a function of a DataFrame, not {fn!r}")
        self.frames = tuple(frames)
        """The input frames."""
        self._fn = fn
        self._run = _Run(None, None, {})
        self._raised: AttributeError | None = None
        """Raise the error of the function: Python takes an AttributeError for a missing ``df``."""

    @property
    def _title(self) -> str:
        name = getattr(self._fn, "__name__", type(self._fn).__name__)
        return f"{name} of {', '.join(frame.name for frame in self.frames)}"

    def __repr__(self) -> str:
        return f"<MappedFrame {self._title}>"

    if not TYPE_CHECKING:  # otherwise type checkers accept any attribute name

        def __getattr__(self, name: str) -> Any:
            if name == "df" and (raised := self._raised) is not None:
                self._raised = None
                raise raised  # of the function: df.price of a DataFrame without that column
            said = f"{type(self).__name__!r} has no attribute {name!r}{of_mapped(name)}"
            raise AttributeError(said, name=name, obj=self)

    @property
    def df(self) -> Any:
        """The value of ``fn`` for the frames' ``df``; the same object until an input has changed, or another
        live frame that ``fn`` has read. Inside ``fn``, the latest value.

        Raises
        ------
        Exception
            As raised by ``fn``.
        DerivationError
            If ``fn`` raises and a table was empty when it was opened and no row has named its columns yet.
        """
        if is_running(self):
            return self.latest
        run, error = self._compute()
        if isinstance(error, AttributeError):
            self._raised = error
        if error is not None:
            raise error
        return run.value

    def _why_undeclared(self, reads: Reads) -> str:
        """Return why not all columns of the frames are known yet; empty if they are."""
        feeds = [*(frame._feed for frame in self.frames), *reads]
        return next((why for feed in feeds if (why := feed.why_undeclared)), "")

    def _compute(self) -> tuple[_Run, BaseException | None]:
        """Return the latest run, made now unless it is up to date, and the function's exception."""
        versions = {frame._feed: frame.version for frame in self.frames}
        before = self._why_undeclared(self._run.reads)  # a row may arrive while the function runs
        given, run = self._given(), self._run
        reads, error = run.reads, None
        if not run.is_fresh(given):
            try:
                with recording(self) as reads:
                    run = _Run(given, self._run_fn(given), reads, versions)
            except BaseException as raised:
                every, error = {**run.reads, **reads}, raised
                why = before or self._why_undeclared(every)
                run = _Run(None, self.latest, every, run.versions, why)
                if why and isinstance(raised, Exception):
                    error = DerivationError(f"{why} ({type(raised).__name__}: {raised})")
                    error.__cause__ = raised
            self._run = run
        note_all(reads)
        return run, error

    def _given(self) -> tuple[Any, ...]:
        """Return the function's arguments: one object per frame, the same while the frame has not changed."""
        return tuple(frame._whole for frame in self.frames)

    def _run_fn(self, given: tuple[Any, ...]) -> Any:
        """Return the function's result: it may write to its arguments."""
        return self._fn(*(df.copy(deep=False) for df in given))

    def _pause(self) -> float:
        """Seconds to wait after a run for listeners, before the next one."""
        return 0.0

    @property
    def latest(self) -> Any:
        """The value computed last, without computing it again; None before the first, and if it is computed
        from the rows of another login.
        """
        run = self._run
        return run.value if run.is_ours else None

    @property
    def sources(self) -> list[Followed]:
        """The live frames it is computed from: its inputs, and those that its function has read."""
        return list(self._sources(self._run).values())

    def _sources(self, run: _Run) -> dict[Feed, Followed]:
        read = {frame._feed: frame for frame, _ in run.reads.values()}
        return {**read, **{frame._feed: frame for frame in self.frames}}

    def on_change(self, fn: Callable[[Any], Any], *, at_once: bool = False) -> Callable[[], None]:
        """Call ``fn(value)`` with the new value after each batch of changes, on a separate thread.

        Parameters
        ----------
        fn : callable
            Called with the new value. Its exceptions, and those of the function of ``map``, are logged once.
        at_once : bool
            Whether to call it now, too.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        if not callable(fn):
            raise TypeError(f"{self!r}.on_change needs a function to call, not {fn!r}")
        for frame in self.frames:
            frame._check()
        return _Listening(self, fn, at_once=at_once).unsubscribe

    def when(
        self,
        condition: Condition,
        enter: Callable[[dict[str, Any]], Any],
        leave: Callable[[dict[str, Any]], Any] | None = None,
        *,
        at_once: bool = False,
        debounce: float = 0.0,
    ) -> Callable[[], None]:
        """Call ``enter(row)`` once for each row of ``df`` that starts to match, ``leave(row)`` once it stops.

        Like `LiveFrame.when`, for a computed value: every value is compared as a whole, and its index
        identifies the rows. Nothing is remembered on disk.

        Parameters
        ----------
        condition : str, dict, list or callable
            A filter as for `LiveFrame.where`: ``"total=gt.250"``; or a function that takes a row, a dict of
            the columns and the named index levels, and returns whether it matches.
        enter : callable
            Called with the current row, a dict; null is None.
        leave : callable, optional
            Called with the current row or, if it is gone, with its last state.
        at_once : bool
            Whether to report rows that match at the first evaluation.
        debounce : float
            Seconds for which a row must keep matching, or not matching, before it is reported.

        Returns
        -------
        callable
            A function that ends the alert.

        Raises
        ------
        FilterError
            If the filter cannot be read.
        DerivationError
            If the rows of the value cannot be identified, or it lacks a column of the filter: at once if
            there is data, else it is logged later.
        TypeError, ValueError
            If ``enter`` or ``leave`` is not a function, or ``debounce`` is negative.

        Notes
        -----
        A later value that cannot be compared is logged once, as are exceptions of your functions.

        Examples
        --------
        >>> n = rt.sql("select symbol, sum(pieces) n from trades group by 1", key="symbol")  # doctest: +SKIP
        >>> stop = n.when("n=gt.1000", print)  # doctest: +SKIP
        """
        check_alert(enter, leave, None, debounce)
        for frame in self.frames:
            frame._check()
        judge = Judge(repr(self), condition, at_once=at_once, debounce=debounce)
        if all(frame._feed.filled for frame in self.frames):
            run, error = self._compute()
            if error is None:  # the error of the function may disappear with the next change
                judge.check(run.value)
        return _Watching(self, judge, enter, leave).unsubscribe

    def until(self, condition: Condition, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a row of ``df`` matches and return it; at once if a row matches already.

        Parameters
        ----------
        condition : str, dict, list or callable
            As for `when`.
        timeout : float, optional
            Seconds; with 0, only the current value is checked.

        Returns
        -------
        dict
            The first row that matches.

        Raises
        ------
        WaitTimeoutError
            If no row matches in time.
        ClosedError
            If an input frame or its session is closed while waiting.
        FilterError, DerivationError
            As raised by `when`; exceptions of your function are raised, too.
        NotebookRTError
            The error of an input table, if it gets into one.
        """
        timeout = seconds(timeout)
        ends = None if timeout is None else time.monotonic() + timeout
        judge = Judge(repr(self), condition, at_once=True)
        for frame in self.frames:
            frame.wait(None if ends is None else max(0.0, ends - time.monotonic()))
        found = FirstRow()
        watching = _Watching(self, judge, found.notify, failed=found.fail, reported=found.reported)
        try:
            return found.wait(timeout, ends, self._check, repr(self))
        finally:
            watching.unsubscribe()

    def _check(self) -> None:
        """Raise if an input frame is closed or in error."""
        for frame in self.frames:
            frame._check()
            frame._check_error()

    # Looking

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        from notebook_rt.widgets import display

        return display.mapped_bundle(self)

    @known_keywords
    def grid(
        self,
        *,
        columns: str | Sequence[str] | None = None,
        formats: Mapping[str, str] | None = None,
        height: int = 360,
        style: Mapping[str, str | Mapping[Any, str]] | None = None,
        totals: Mapping[str, str] | str | Sequence[str] | None = None,
        group: str = "",
        title: str = "",
    ) -> GridWidget:
        """Return the live grid, with the options of ``LiveFrame.grid``; it cannot be edited.

        Parameters
        ----------
        columns, formats, height, style, totals, group, title : optional
            As for ``LiveFrame.grid``.

        Returns
        -------
        GridWidget
            The widget.

        Raises
        ------
        TypeError, ValueError
            As raised by ``LiveFrame.grid``.
        """
        from notebook_rt.widgets import display

        return display.mapped_grid(
            self,
            columns=columns,
            formats=formats,
            height=height,
            style=style,
            totals=totals,
            group=group,
            title=title,
        )

    @known_keywords
    def plot(
        self,
        x: str | None = None,
        y: str | Sequence[str] = (),
        kind: Kind = "line",
        *,
        color: str | None = None,
        last: int | None = None,
        points: int = 2_000,
        style: Callable[[Any], Any] | None = None,
    ) -> ChartWidget:
        """Return a live chart, with the parameters of ``LiveFrame.plot``.

        Parameters
        ----------
        x : str, optional
            A column. Default: the index.
        y : str or sequence of str, optional
            Columns; each is a line.
        kind, color, last, points, style : optional
            As for ``LiveFrame.plot``.

        Returns
        -------
        ChartWidget
            The widget.
        """
        from notebook_rt.widgets import display

        return display.mapped_plot(
            self, x, y, kind=kind, color=color, last=last, points=points, style=style
        )


class _Listening:
    """One listener of a ``MappedFrame``, notified by exactly the frames that the function reads."""

    def __init__(
        self,
        mapped: MappedFrame,
        fn: Callable[[Any], Any],
        *,
        at_once: bool,
        what: str = "on_change",
        named: Callable[..., Any] | None = None,
    ) -> None:
        first = mapped.frames[0]
        feed = first._feed
        self._mapped = mapped
        self._fn = fn
        self._attached: dict[Feed, Callable[[], None]] = {}
        self._since = time.monotonic()
        take = update_wrapper(lambda item: self._take(item), named or fn, ("__qualname__",), ())
        self._box = Mailbox(take, self._size(feed), f"{first.name}.{what}", feed.counters)
        self._box.holds = mapped  # a listener keeps the frames alive without a variable
        self._last_reported: _Run | None = None
        self._worked = False
        """Whether there has been a value."""
        self._failed_at: set[Faults] = set()
        """The fault lists that contain its failure."""
        self._not_before = 0.0
        self._asked = False
        self._over = threading.Event()
        lists = (frame._removers for frame in mapped.frames)
        self.unsubscribe = feed.subscribers.add(named or fn, self._remove, *lists)
        for frame in mapped.frames:
            self._attached[frame._feed] = frame._attach(self._changed)
        self._box.put(at_once)  # even if not: a run shows which frames the function reads

    def _size(self, feed: Feed) -> int:
        """Maximum number of waiting items."""
        return feed.options.buffer_size

    def _changed(self, batch: ChangeBatch) -> None:
        # After a change of the login there is no input until rows arrive.
        if batch.cause != "login" and not self._asked:
            self._asked = True  # one run covers all changes until then
            self._box.put(True)

    def _take(self, tell: Any) -> Any:
        self._asked = False
        if self._over.wait(max(0.0, self._not_before - time.monotonic())):
            return None
        run, error = self._mapped._compute()
        self._not_before = time.monotonic() + self._mapped._pause()
        changed = self._follow(run)
        if error is not None:
            if run.undeclared:
                return None  # the first row may fix it, or has arrived by now
            self._fails(run, error)
            raise error
        self._works()
        if run is self._last_reported or not (tell or changed):
            return None
        self._last_reported = run
        return self._fn(run.value)

    def _follow(self, run: _Run) -> bool:
        """Listen to the frames that ``run`` has read; return whether one of them changed after ``fn`` was
        subscribed, but before it was read, so that only ``run`` shows the change.
        """
        sources, changed = self._mapped._sources(run), False
        for feed in self._attached.keys() - sources.keys():
            self._attached.pop(feed)()
        for feed, frame in sources.items():
            if feed not in self._attached and not self._over.is_set():
                self._attached[feed] = frame._attach(self._changed)
                if frame.version != run.reads[feed][1]:
                    self._box.put(True)  # it changed after it was read
                changed = changed or feed.changed_at >= self._since
        if self._over.is_set():
            self._detach()
        return changed

    def _fails(self, run: _Run, error: BaseException) -> None:
        """Report the failure in the session's health, unless a table was closed."""
        feeds = self._mapped._sources(run)
        if not self._worked or any(feed.status == "closed" for feed in feeds):
            return
        for each in dict.fromkeys(each for feed in feeds for each in feed.faults):
            each.failed(self, self._mapped._title, error)
            self._failed_at.add(each)
        if self._over.is_set():
            self._works()

    def _works(self) -> None:
        self._worked = True
        while self._failed_at:
            self._failed_at.pop().over(self)

    def _detach(self) -> None:
        while self._attached:
            self._attached.popitem()[1]()

    def _remove(self) -> None:
        self._over.set()
        self._box.close()
        self._detach()
        self._works()


class _Watching(_Listening):
    """The alert of `when`; runs on the mailbox thread, one row at a time."""

    def __init__(
        self,
        mapped: MappedFrame,
        judge: Judge,
        enter: Callable[[dict[str, Any]], Any],
        leave: Callable[[dict[str, Any]], Any] | None = None,
        failed: Callable[[Exception], object] | None = None,
        reported: Callable[[], object] | None = None,
    ) -> None:
        self._judge, self._enter, self._leave, self._failed = judge, enter, leave, failed
        self._reported = reported
        """Called when a value has been evaluated and reported."""
        self._refused = False
        """Whether a value could not be compared, which was reported."""
        super().__init__(mapped, self._judge_value, at_once=True, what="when", named=enter)

    def _size(self, feed: Feed) -> int:
        return sys.maxsize  # no reported row is left out

    def _take(self, item: bool | Turn | None) -> Any:
        if isinstance(item, Turn):
            return self._call(item)
        if item is None:
            return None if self._reported is None else self._reported()
        try:
            super()._take(item)
        except Exception as error:
            if self._failed is not None:
                self._failed(error)
            elif not isinstance(error, DerivationError):
                raise
            elif not self._refused:  # the condition failed, not a function
                self._refused = True
                logger.error("when tells nothing while this is so: %s", printable(str(error)))
        self._give(self._judge.due(time.monotonic()))
        if self._reported is not None:
            self._box.put(None)
        return None

    def _judge_value(self, value: Any) -> None:
        turns, wrong = self._judge.judge(value, time.monotonic())
        self._give(turns)
        if wrong is not None:
            raise wrong

    def _give(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            if turn.told:
                self._box.put(turn)
        due = self._judge.next_due
        if due is not None:
            pause = max(0.0, due - time.monotonic())
            self._mapped.frames[0]._feed.thread.post(self._wake_in, pause)

    def _wake_in(self, pause: float) -> None:
        if not self._over.is_set():
            asyncio.get_running_loop().call_later(pause, self._box.put, False)

    def _call(self, turn: Turn) -> Any:
        fn = self._enter if turn.kind == "enter" else self._leave
        return None if fn is None else fn(dict(turn.row or {}))
