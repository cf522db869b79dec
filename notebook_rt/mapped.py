"""``MappedFrame``: something computed from live frames, as live as they are; made by ``map``.

In: live frames and the user's function. Out: its value for the present snapshots, computed once for
each; the same grid and charts as a table's. What the function reads of other live frames while it
runs is followed, too (``following.py``). Listeners and widgets have it computed on a callback's
thread, so that a slow function delays nothing else.
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
from notebook_rt.runtime.callbacks import FirstRow, Mailbox, check_told
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
    """What a run of the function has read and returned: one value, as any thread may run it."""

    given: tuple[Any, ...] | None
    """The snapshots it was given; None before the first run, and if the last one raised."""
    value: Any
    reads: Reads
    """What it has read besides."""
    versions: Mapping[Feed, int] = msgspec.field(default_factory=dict)
    """The versions of the frames it was given, from before they were read."""
    undeclared: str = ""
    """Why not all columns of what it has read were known then, if it has raised."""

    @property
    def is_ours(self) -> bool:
        """Whether all that it has read is what the present logins see."""
        read = {feed: version for feed, (_, version) in self.reads.items()} | {**self.versions}
        return all(version >= feed.login_version for feed, version in read.items())

    def is_fresh(self, now: Sequence[Any]) -> bool:
        """Whether another run would read the same."""
        return (
            self.given is not None
            and self.is_ours
            and all(one is other for one, other in zip(self.given, now, strict=True))
            and all(frame.version == version for frame, version in self.reads.values())
        )


class MappedFrame:
    """``fn`` of live frames' DataFrames; made by ``LiveFrame.map`` and ``map``."""

    def __init__(self, frames: Sequence[Followed], fn: Callable[..., Any]) -> None:
        if not callable(fn):
            raise TypeError(f"map needs a function of a DataFrame, not {fn!r}")
        self.frames = tuple(frames)
        """The live frames it is given."""
        self._fn = fn
        self._run = _Run(None, None, {})
        self._raised: AttributeError | None = None
        """What the function has just raised: Python takes it for a sign that there is no ``df``."""

    @property
    def _title(self) -> str:
        name = getattr(self._fn, "__name__", type(self._fn).__name__)
        return f"{name} of {', '.join(frame.name for frame in self.frames)}"

    def __repr__(self) -> str:
        return f"<MappedFrame {self._title}>"

    if not TYPE_CHECKING:  # a checker would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            if name == "df" and (raised := self._raised) is not None:
                self._raised = None
                raise raised  # of the function: df.price of a DataFrame without that column
            said = f"{type(self).__name__!r} has no attribute {name!r}{of_mapped(name)}"
            raise AttributeError(said, name=name, obj=self)

    @property
    def df(self) -> Any:
        """``fn`` of the frames' ``df``; the same object until one of them has changed, or another live
        frame that ``fn`` has read. Within ``fn``, the latest value.

        Raises
        ------
        Exception
            What ``fn`` raises.
        DerivationError
            If it raises where a table was empty when it was opened, and no row has named its columns yet.
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
        """Why not all columns of what is read are known yet; empty: they are."""
        feeds = [*(frame._feed for frame in self.frames), *reads]
        return next((why for feed in feeds if (why := feed.why_undeclared)), "")

    def _compute(self) -> tuple[_Run, BaseException | None]:
        """The latest run, made now unless that is fresh, and what the function has raised in it."""
        versions = {frame._feed: frame.version for frame in self.frames}
        before = self._why_undeclared(self._run.reads)  # a row may come while the function runs
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
        """What the function is given: an object a frame, the same while that has not changed."""
        return tuple(frame._whole for frame in self.frames)

    def _run_fn(self, given: tuple[Any, ...]) -> Any:
        """What the function returns: it may write to what it is given."""
        return self._fn(*(df.copy(deep=False) for df in given))

    def _pause(self) -> float:
        """Seconds to wait after a run for listeners, before the next one."""
        return 0.0

    @property
    def latest(self) -> Any:
        """The value computed last, without computing it anew; None before there is one, and where it is of
        rows that another login saw.
        """
        run = self._run
        return run.value if run.is_ours else None

    @property
    def sources(self) -> list[Followed]:
        """The live frames it is computed from: those it is given, and those its function has read."""
        return list(self._sources(self._run).values())

    def _sources(self, run: _Run) -> dict[Feed, Followed]:
        read = {frame._feed: frame for frame, _ in run.reads.values()}
        return {**read, **{frame._feed: frame for frame in self.frames}}

    def on_change(self, fn: Callable[[Any], Any], *, at_once: bool = False) -> Callable[[], None]:
        """Call ``fn(value)`` with the new value after each batch of changes, on a thread of its own.

        Parameters
        ----------
        fn : callable
            Given the new value. What it or the function of ``map`` raises is logged once.
        at_once : bool
            Call it now, too.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
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
        """Call ``enter(row)`` once for each row of ``df`` that begins to match, ``leave(row)`` once it stops.

        As `LiveFrame.when`, but for what is computed: every value is looked at whole, and its index
        tells its rows apart. What was told is not remembered on disk.

        Parameters
        ----------
        condition : str, dict, list or callable
            A filter as of `LiveFrame.where`: ``"total=gt.250"``; or a function of a row, a dict of the
            columns, and the levels of the index that have a name, that says whether it matches.
        enter : callable
            Given the row as it is now, a dict; null is None.
        leave : callable, optional
            Given the row as it is now or, if it is gone, as it was.
        at_once : bool
            Whether rows that match already the first time are told.
        debounce : float
            Seconds for which a row must go on matching, or not matching, before it is told.

        Returns
        -------
        callable
            Call it to end it.

        Raises
        ------
        FilterError
            If the filter cannot be read.
        DerivationError
            If the rows of the value cannot be told apart, or it lacks a column of the filter: at once where
            the first data is there, else it is logged then.
        TypeError, ValueError
            If what is to be called is no function, or ``debounce`` is negative.

        Notes
        -----
        A later value that cannot be looked at is logged once; so is what a function of yours raises.

        Examples
        --------
        >>> n = rt.sql("select symbol, sum(pieces) n from trades group by 1", key="symbol")  # doctest: +SKIP
        >>> stop = n.when("n=gt.1000", print)  # doctest: +SKIP
        """
        check_told(enter, leave, None, debounce)
        for frame in self.frames:
            frame._check()
        judge = Judge(repr(self), condition, at_once=at_once, debounce=debounce)
        if all(frame._feed.filled for frame in self.frames):
            run, error = self._compute()
            if error is None:  # what the function raises may be over with the next change
                judge.check(run.value)
        return _Watching(self, judge, enter, leave).unsubscribe

    def until(self, condition: Condition, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a row of ``df`` matches, and give it: at once, if one does already. Ctrl-C works.

        Parameters
        ----------
        condition : str, dict, list or callable
            As of `when`.
        timeout : float, optional
            Seconds; with 0, only the value of now is looked at.

        Returns
        -------
        dict
            The first row that matches.

        Raises
        ------
        WaitTimeoutError
            If none does in time.
        ClosedError
            If a frame that it is computed from, or its session, is closed meanwhile.
        FilterError, DerivationError
            As `when`; also what a function of yours raises.
        NotebookRTError
            Why a table that it is computed from is in error, if it comes to that.
        """
        timeout = seconds(timeout)
        ends = None if timeout is None else time.monotonic() + timeout
        judge = Judge(repr(self), condition, at_once=True)
        for frame in self.frames:
            frame.wait(None if ends is None else max(0.0, ends - time.monotonic()))
        found = FirstRow()
        watching = _Watching(self, judge, found.tell, failed=found.fail, looked=found.looked)
        try:
            return found.wait(timeout, ends, self._check, repr(self))
        finally:
            watching.unsubscribe()

    def _check(self) -> None:
        """Raise if a frame that it is computed from is closed or in error."""
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
        """The live grid, with the options of ``LiveFrame.grid``; nothing in it can be edited.

        Parameters
        ----------
        columns, formats, height, style, totals, group, title : optional
            As of ``LiveFrame.grid``.

        Returns
        -------
        GridWidget
            The widget.

        Raises
        ------
        TypeError, ValueError
            As ``LiveFrame.grid``.
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
        """A live chart, with the parameters of ``LiveFrame.plot``.

        Parameters
        ----------
        x : str, optional
            A column. Default: the index.
        y : str or sequence of str, optional
            Columns; several are several lines.
        kind, color, last, points, style : optional
            As of ``LiveFrame.plot``.

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
    """One listener of a ``MappedFrame``: called for every frame that is read, and those only."""

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
        self._box.holds = mapped  # who listens keeps the frames, though no variable does
        self._told: _Run | None = None
        self._worked = False
        """Whether there was ever a value."""
        self._failed_at: set[Faults] = set()
        """Where it is told that there is none now."""
        self._not_before = 0.0
        self._asked = False
        self._over = threading.Event()
        lists = (frame._removers for frame in mapped.frames)
        self.unsubscribe = feed.subscribers.add(named or fn, self._remove, *lists)
        for frame in mapped.frames:
            self._attached[frame._feed] = frame._attach(self._changed)
        self._box.put(at_once)  # even if not: what the function reads is known when it has run

    def _size(self, feed: Feed) -> int:
        """What may wait, at the most."""
        return feed.options.buffer_size

    def _changed(self, batch: ChangeBatch) -> None:
        # After a login there is nothing to compute from until there are rows.
        if batch.cause != "login" and not self._asked:
            self._asked = True  # one look shows all that has changed until then
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
                return None  # the first row that comes may mend it, or has come by now
            self._fails(run, error)
            raise error
        self._works()
        if run is self._told or not (tell or changed):
            return None
        self._told = run
        return self._fn(run.value)

    def _follow(self, run: _Run) -> bool:
        """Be called for what ``run`` has read; whether any of it changed after ``fn`` was subscribed,
        but before it was read, so that ``run`` shows it and nothing else tells it.
        """
        sources, changed = self._mapped._sources(run), False
        for feed in self._attached.keys() - sources.keys():
            self._attached.pop(feed)()
        for feed, frame in sources.items():
            if feed not in self._attached and not self._over.is_set():
                self._attached[feed] = frame._attach(self._changed)
                if frame.version != run.reads[feed][1]:
                    self._box.put(True)  # it changed between the reading and now
                changed = changed or feed.changed_at >= self._since
        if self._over.is_set():
            self._detach()
        return changed

    def _fails(self, run: _Run, error: BaseException) -> None:
        """Whoever listens goes without: the session's health says so, unless a table was closed."""
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
    """Who is told of rows that begin and stop to match; on the mailbox' thread, a row at a time."""

    def __init__(
        self,
        mapped: MappedFrame,
        judge: Judge,
        enter: Callable[[dict[str, Any]], Any],
        leave: Callable[[dict[str, Any]], Any] | None = None,
        failed: Callable[[Exception], object] | None = None,
        looked: Callable[[], object] | None = None,
    ) -> None:
        self._judge, self._enter, self._leave, self._failed = judge, enter, leave, failed
        self._looked = looked
        """Called when a value has been judged and told."""
        self._refused = False
        """Whether a value could not be looked at, which was told."""
        super().__init__(mapped, self._look, at_once=True, what="when", named=enter)

    def _size(self, feed: Feed) -> int:
        return sys.maxsize  # no row that is to be told is left out

    def _take(self, item: bool | Turn | None) -> Any:
        if isinstance(item, Turn):
            return self._call(item)
        if item is None:
            return None if self._looked is None else self._looked()
        try:
            super()._take(item)
        except Exception as error:
            if self._failed is not None:
                self._failed(error)
            elif not isinstance(error, DerivationError):
                raise
            elif not self._refused:  # the condition is at fault, not a function
                self._refused = True
                logger.error("when tells nothing while this is so: %s", printable(str(error)))
        self._give(self._judge.due(time.monotonic()))
        if self._looked is not None:
            self._box.put(None)
        return None

    def _look(self, value: Any) -> None:
        turns, wrong = self._judge.look(value, time.monotonic())
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
