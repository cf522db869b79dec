"""The interface that all live frames share: reading, listening, waiting and display. `LiveFrame` extends it.

A handle owns no data: the rows are in ``store/``; ``sync/`` and ``net/`` keep them up to date. Every call is
synchronous and thread-safe; ``await frame.ready()`` works from any event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar, cast

from notebook_rt.errors import ClosedError, InvalidKeyError, NotebookRTError, WaitTimeoutError
from notebook_rt.hints import known_keywords, of_frame, public
from notebook_rt.model.plain import seconds
from notebook_rt.quoting import printable
from notebook_rt.runtime.callbacks import FirstRow, Mailbox, check_alert, wait_step
from notebook_rt.runtime.changes import ChangeBatch, Gathering, changes_df
from notebook_rt.runtime.feed import Feed, Verdict
from notebook_rt.runtime.following import note
from notebook_rt.runtime.iteration import Changes
from notebook_rt.runtime.progress import Bar
from notebook_rt.tracebacks import fresh

if TYPE_CHECKING:
    import pandas as pd
    import polars
    import pyarrow as pa

    from notebook_rt.model.rows import Key
    from notebook_rt.model.types import Schema
    from notebook_rt.runtime.judging import Condition
    from notebook_rt.store.order import Ordered
    from notebook_rt.store.table import Table
    from notebook_rt.sync.events import Status  # here for jedi's sake: see session.py
    from notebook_rt.widgets.chart import ChartWidget, Kind
    from notebook_rt.widgets.grid import GridWidget

T = TypeVar("T")
FRESH: Final = 1.0
"""Seconds for which an error is raised again without asking the server: ``df`` may be read in a loop."""


class Handle:
    """The object that the user holds: a `LiveFrame` without the methods that derive other frames."""

    editable = False
    """Whether its rows can be written, as those of a `LiveTable`."""

    def __init__(
        self,
        feed: Feed,
        release: Callable[[], None],
        session: object,
        debounce: float = 0.0,
    ) -> None:
        self._feed = feed
        self._release = release
        self._debounce = debounce
        self._session = session  # a session lives as long as one of its frames
        self._removers: list[Callable[[], None]] = []
        self._iterations: weakref.WeakSet[Changes] = weakref.WeakSet()
        self._closed = False

    def __repr__(self) -> str:
        feed = self._feed
        shown = feed.table if feed.ordered is None else feed.ordered
        number = 0 if shown is None else len(shown)
        rows = "" if shown is None else f", {number:,} row{'s' * (number != 1)}"
        told = self.status in ("error", "polling", "stale") or self._status_detail()
        why = f": {self.reason}" if told else ""
        by = " by broadcast" if feed.source == "broadcast" and self.status == "live" else ""
        by += f" per {feed.scope}" if by and feed.scope else ""
        return printable(f"<{type(self).__name__} {feed.name} {self.status}{by}{rows}{why}>")

    def _status_detail(self) -> str:
        """Return the reason to show after the status; empty if there is none."""
        return self._feed.why_empty()

    def __getattr__(self, name: str) -> Any:
        schema = None if name.startswith("_") else self.schema  # which asks for ``_feed``
        error = f"{type(self).__name__!r} has no attribute {name!r}"
        raise AttributeError(
            error + of_frame(name, schema, public(type(self)), editable=self.editable)
        )

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(
                f"{type(self).__name__!r} has no {name!r} to set; {self._how_to_edit}"
            )
        super().__setattr__(name, value)

    def __setitem__(self, item: object, value: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__!r} has no [...] to set; {self._how_to_edit}")

    _how_to_edit = "it is read only"

    def __getitem__(self, item: object) -> NoReturn:
        shown = repr(item) if isinstance(item, str | list | int) else "..."
        raise TypeError(f"{type(self).__name__!r} has no [...]; its snapshot has: .df[{shown}]")

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__!r} is not iterated; its snapshot, a DataFrame, is: .df. What "
            "changes is: .changes()"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__!r} lives in this process: copy or pickle its snapshot, .df"
        )

    # Looking

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        from notebook_rt.widgets import display

        self._feed.touch()
        return display.frame_bundle(self)

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
        """Return the live grid, with options.

        Parameters
        ----------
        columns : str or sequence of str, optional
            The columns to show, in this order. Default: all, key columns first.
        formats : dict of str, optional
            Column to number format: ``",.2f"``, ``".1%"``, ``",d"``.
        height : int
            Maximum height in pixels; a few rows take less.
        style : dict, optional
            Column to the style of its cells: ``"bar"`` (a bar as long as the number), ``"color"`` (a color as
            strong as the number; for text, one color per value), ``"updown"`` (above and below zero), or a
            dict of values to ``"blue"``, ``"green"``, ``"grey"``, ``"red"`` or ``"yellow"``.
        totals : dict, str or sequence of str, optional
            Column to ``"sum"``, ``"mean"``, ``"median"``, ``"min"``, ``"max"`` or ``"count"`` of the
            shown rows, in a line below them; columns without a function are summed.
        group : str, optional
            Column to group by. Each value has a heading that opens and closes its rows, with their count and
            ``totals``.
        title : str, optional
            Plain text shown above the grid. Default: the name.

        Returns
        -------
        GridWidget
            The widget.

        Raises
        ------
        TypeError
            If the title is not a string, or the height is not a number of pixels.
        ValueError
            If a column does not exist, or a format, a style or a total is invalid.

        Examples
        --------
        >>> trades.grid(  # doctest: +SKIP
        ...     formats={"price": ",.2f"},
        ...     style={"size": "bar", "change": "updown", "side": {"buy": "green", "sell": "red"}},
        ...     totals={"size": "sum", "price": "mean"},
        ... )
        """
        from notebook_rt.widgets import display

        self._feed.touch()
        return display.grid(
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
        """Return a live chart. Waits for the first data; requires the extra ``plot``.

        Parameters
        ----------
        x : str, optional
            A column. Default: the key.
        y : str or sequence of str, optional
            Columns; each is a line. Default: the first three numeric columns.
        kind : {"line", "area", "bar", "point", "tick", "hist"}
            How each row is drawn; ``"hist"`` counts the values of the first ``y`` instead.
        color : str, optional
            A column; each of its values gets a color.
        last : int, optional
            Draw only this many rows, the last ones.
        points : int
            Maximum number of rows to draw; a line keeps its extreme values.
        style : callable, optional
            Called with the Altair chart; returns the chart to draw, with another size, scales or titles.

        Returns
        -------
        ChartWidget
            The widget.

        Raises
        ------
        ValueError
            If a column does not exist, ``kind`` is invalid, ``last`` or ``points`` is less than 1, or
            ``color`` is given with several ``y``.
        TypeError
            If ``style`` is not a function.
        ImportError
            If the extra is not installed: ``pip install 'notebook_rt[plot]'``.
        NotebookRTError
            As raised by ``wait``.
        """
        from notebook_rt.widgets import display

        names = [y] if isinstance(y, str) else [*y]
        self._ask_for([*names, *(name for name in (x, color) if name)])
        return display.plot(
            self, x, y, kind=kind, color=color, last=last, points=points, style=style
        )

    def _ask_for(self, columns: Sequence[str]) -> None:
        """Ask the server for these columns if no row has named them yet."""

    # Reading

    @property
    def schema(self) -> Schema | None:
        """The columns with their PostgreSQL types, and the key. None before the first data."""
        return self._feed.schema

    @property
    def name(self) -> str:
        """The name of the table, query or event."""
        return self._feed.name

    @property
    def df(self) -> pd.DataFrame:
        """The current snapshot, index = primary key: consistent, never half-applied.

        Each read returns a new DataFrame that shares its memory with the others until one of them is written
        to: a change that you make reaches neither the table nor another reader. `version` shows whether
        the data has changed. The first read waits for the first data. A column of dates or times has dtype
        ``object`` while it holds a value that no datetime can have: ``infinity``, a year BC or past 9999.

        Raises
        ------
        NotebookRTError
            A subclass that names the reason, if the table cannot be read (not published, no key, ...).
        """
        return self._show(_snapshot, self._feed.snapshot).copy(deep=False)

    @property
    def _whole(self) -> pd.DataFrame:
        """The snapshot that `df` copies: the same object until the data changes. It is never written to."""
        return self._show(_snapshot, self._feed.snapshot)

    def to_arrow(self) -> pa.Table:
        """Return the current snapshot as a ``pyarrow.Table``, key columns included. Raises as `df` does.

        Numbers, timestamps and text share the memory of the table, unless it has an ``order``. JSON becomes
        text, as do arrays for which Arrow has no list type.

        Returns
        -------
        pyarrow.Table
            One row per row, key columns first.
        """
        return self._show(lambda shown: shown.to_arrow(), self._feed.arrow)

    def to_polars(self) -> polars.DataFrame:
        """Return the current snapshot as a ``polars.DataFrame``, like `to_arrow`. Requires polars.

        Returns
        -------
        polars.DataFrame
            One row per row, key columns first.

        Raises
        ------
        ImportError
            If polars is not installed.
        """
        try:
            import polars
        except ImportError as error:
            raise ImportError(f"to_polars needs polars: pip install polars ({error})") from error

        return cast("polars.DataFrame", polars.from_arrow(self.to_arrow()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Implement Arrow's stream interface: polars, DuckDB and pyarrow can read a live frame."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _show(self, read: Callable[[Table | Ordered], T], unmarked: Callable[[], T | None]) -> T:
        """Return the result of ``read``. `LiveTable` records it: edits are based on the rows shown."""
        return self._read(unmarked)

    def _read(self, snapshot: Callable[[], T | None]) -> T:
        """Return the result of ``snapshot`` once there is data; raise the error of the table."""
        note(self)
        self._feed.touch()
        self._raise_error()
        found = snapshot()
        if found is None:
            self.wait()
            found = snapshot()
            if found is None:
                raise ClosedError(f'table "{self.name}"')
        return found

    def _raise_error(self) -> None:
        error = self._feed.error
        if error is not None:
            if time.monotonic() < self._feed.failed_at + FRESH:
                raise fresh(error)
            self.wait()  # it is raised, unless it has been mended

    @property
    def status(self) -> Status:
        """``loading``, ``live``, ``polling``, ``stale``, ``closed`` or ``error``.

        A table in ``error`` for a reason that can be fixed in the database, such as a dropped table, is
        retried automatically, eventually about once a minute; ``wait`` and ``df`` retry at once.
        """
        return "closed" if self._closed else self._feed.status

    @property
    def reason(self) -> str:
        """The reason for the status; for a polled table also the age of its data.

        For a live table: why changes may have been lost since the last comparison with the server, if there
        is a sign of that; for an empty table, that a policy may hide its rows, and what to do.
        """
        feed, at = self._feed, self.synced_at
        if self.status == "loading" and feed.failure is not None:
            return str(feed.failure)  # what the first read has met, and goes on trying
        as_of = f"; as of {at:%H:%M:%S} UTC" if self.status == "polling" and at is not None else ""
        why_empty = feed.why_empty() if self.status != "error" else ""
        return why_empty or feed.reason + as_of

    @property
    def version(self) -> int:
        """A counter that increases with every visible change."""
        self._feed.catch_up()
        return self._feed.version

    @property
    def synced_at(self) -> pd.Timestamp | None:
        """The last time at which the rows were known to equal the server's (UTC), or None."""
        return self._feed.synced_at

    def __len__(self) -> int:
        return self._read(self._feed.count)

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """Return the row with this key as a dict, or None. Cheaper than ``df.loc``.

        It does not wait: before the first data it returns None.

        Parameters
        ----------
        key : hashable
            As in the index of ``df``, or in any form that `LiveTable.edit` accepts: a date or its
            text, a ``uuid.UUID``, a numpy scalar; a tuple for a composite key.

        Returns
        -------
        dict or None
            Columns to typed values, including the key. None if ``df`` shows no such row.

        Raises
        ------
        InvalidKeyError
            If no row can have such a key: text if keys are integers, one value for a composite key.
        """
        found = self._find(key)
        return None if found is None else found[1]

    def __contains__(self, key: Hashable) -> bool:
        """Return whether ``df`` shows a row with this key, in any form that `get` accepts."""
        try:
            return self._find(key) is not None
        except InvalidKeyError:
            schema = self.schema
            if isinstance(key, str) and schema is not None and key in schema.types:
                raise TypeError(
                    f'"{key}" is a column, and `in` asks for a row\'s key: "{key}" in frame.df'
                ) from None
            return False

    def _find(self, key: Hashable) -> tuple[Key, dict[str, Any]] | None:
        note(self)
        return self._feed.find(key)

    # Waiting

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the first data. Shows a progress bar if that takes long; Ctrl-C interrupts it.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        LiveFrame
            Itself.

        Raises
        ------
        WaitTimeoutError
            If no data arrived in time.
        UnreachableError
            If there is no answer from the URL for about four seconds; the session continues to retry.
        NotebookRTError
            If no data will arrive: `MissingTableError`, `NotPublishedError`,
            `NoPrimaryKeyError`, `PermissionDeniedError`, `AuthError`, ...
        """
        timeout = seconds(timeout)
        self._check()
        self._feed.touch()
        thread = self._feed.thread
        future = thread.call(self._feed.wait_ready)
        until = None if timeout is None else time.monotonic() + timeout
        try:
            with Bar(self._feed) as bar:
                while True:
                    if wait_step(future, until):
                        future.result()
                        return self
                    if until is not None and time.monotonic() >= until:
                        raise WaitTimeoutError(self._feed.missing(timeout or 0.0))
                    bar.show()
        except NotebookRTError as error:
            raise fresh(error) from None
        finally:
            future.cancel()  # its caller has gone

    async def ready(self) -> Self:
        """Wait for the first data without blocking the caller's event loop. Raises as ``wait`` does.

        Returns
        -------
        LiveFrame
            Itself.
        """
        self._check()
        self._feed.touch()
        thread = self._feed.thread

        async def first() -> concurrent.futures.Future[None]:
            return self._feed.wait_ready()

        future = await asyncio.wrap_future(thread.submit(first()))
        try:
            await asyncio.wrap_future(future)
        except NotebookRTError as error:
            raise fresh(error) from None
        return self

    def verify(self, timeout: float | None = None) -> Verdict:
        """Compare with the server now, row by row, and repair the differences.

        An audit does the same on a timer (``Options.audit_interval``). Waits for the first data. A
        difference that is explained by a change in transit does not count, which takes a few seconds to
        find out. A row that has just changed is read again before the verdict.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Verdict
            The number of rows compared (for a query: read again; for a derived table: the rows of its
            inputs), the number that differed, and the duration in seconds.

        Raises
        ------
        WaitTimeoutError
            If the comparison did not finish in time; it continues in the background.
        TypeError
            If this is a channel's frame or a replay, for which the server has no rows.
        NotebookRTError
            As raised by ``wait``.
        """
        if why := self._feed.why_not_compared:
            raise TypeError(f'"{self.name}": {why}, so there is nothing to compare with')
        timeout = seconds(timeout)
        until = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        future = self._feed.thread.call(self._feed.verify)
        try:
            return future.result(None if until is None else max(0.0, until - time.monotonic()))
        except concurrent.futures.TimeoutError:
            why = str(self._feed.failure or self.reason or self.status)
            raise WaitTimeoutError(
                f'table "{self.name}" could not be compared within {timeout:g} s: {why}'
            ) from None
        except NotebookRTError as error:
            raise fresh(error) from None
        finally:
            future.cancel()

    def _check(self) -> None:
        if self.status == "closed":
            raise ClosedError(f'table "{self.name}"')

    def _check_error(self) -> None:
        error = self._feed.error
        if error is not None:
            raise fresh(error)

    # Listening

    def on_change(self, fn: Callable[[ChangeBatch], Any]) -> Callable[[], None]:
        """Call ``fn(batch)`` with each `ChangeBatch`, in order, on a separate thread.

        ``fn`` may be a coroutine function. If it raises, the exception is logged once and ``fn`` stays
        registered. Running a notebook cell again replaces the functions that the cell registered. If the
        table gets into an error (it was dropped, a grant was revoked), the error is logged and ``fn`` is not
        called until the table is back; `changes` raises the error.

        Parameters
        ----------
        fn : callable
            Called with the `ChangeBatch`.

        Returns
        -------
        callable
            A function that unsubscribes ``fn``.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        told = self._listener
        if told is None or not callable(fn):
            return self._listen(fn, fn, log_errors=True)

        def show(batch: ChangeBatch) -> Any:
            told(batch)
            return fn(batch)

        # Logged under its own name if it raises.
        return self._listen(update_wrapper(show, fn, ("__qualname__",), ()), fn, log_errors=True)

    @property
    def _listener(self) -> Callable[[ChangeBatch], object] | None:
        """The function that receives each batch before the user does."""
        return None

    def _listen(
        self,
        call: Callable[[ChangeBatch], Any],
        fn: Callable[..., Any],
        *,
        log_errors: bool = False,
    ) -> Callable[[], None]:
        """Call ``call(batch)``, which wraps the user's ``fn``; log why the table is in error."""
        self._check()
        feed = self._feed
        box = Mailbox(call, feed.options.buffer_size, f"{self.name}.on_change", feed.counters)
        box.holds = self  # a listener keeps the frame alive without a variable
        detach = self._attach(box.put)
        be_quiet = feed.log_errors(box.what) if log_errors else lambda: None

        def remove() -> None:
            box.close()
            detach()
            be_quiet()

        return feed.subscribers.add(fn, remove, self._removers)

    def _on_batch(self, call: Callable[[ChangeBatch], object]) -> Callable[[], None]:
        """Call ``call(batch)`` on the event loop: it must be fast and must not raise. Keeps the frame alive.

        Widgets use it: they are only told to refresh, and need no thread of their own.
        """
        self._check()
        return self._feed.subscribers.add(call, self._attach(call), self._removers)

    def _attach(
        self, put: Callable[[ChangeBatch], object], *, gather: bool = True
    ) -> Callable[[], None]:
        """Have the loop call ``put`` with each batch; return a function that ends that."""
        feed = self._feed
        feed.touch()
        listener = Gathering(put, self._debounce) if self._debounce and gather else put
        feed.thread.call(feed.listeners.add, listener)
        return lambda: feed.thread.post(feed.listeners.remove, listener)

    def when(
        self,
        condition: Condition,
        enter: Callable[[dict[str, Any]], Any],
        leave: Callable[[dict[str, Any]], Any] | None = None,
        *,
        name: str | None = None,
        at_once: bool = False,
        debounce: float = 0.0,
    ) -> Callable[[], None]:
        """Call ``enter(row)`` once for each row that starts to match, and ``leave(row)`` once it stops.

        This holds across reconnects: rows that are only read again cause no call, and rows that started or
        stopped to match in the meantime are reported then. The state is kept per login: after a change of
        the login, the rows of the new one count as seen for the first time, and a login that returns
        continues where it was. The functions are called like those of `on_change`: in order, on a separate
        thread; an exception is logged once; running a cell again replaces the functions it registered.

        Parameters
        ----------
        condition : str, dict, list or callable
            A filter as for `where`: ``"price=gt.250"``; or a function that takes a row, a dict, and returns
            whether it matches. It is called for every row first, then for the rows that change.
        enter : callable
            Called with the current row, a dict of columns to typed values.
        leave : callable, optional
            Called with the current row or, if it was deleted, with its last state; for a row deleted while
            no kernel ran, with its key only. It is called only for rows that ``enter`` was called for.
        name : str, optional
            Remember on disk, for this project and login, which rows were reported: a new kernel reports no
            row twice, and reports the rows that changed in between. A name belongs to one alert: the next
            `when` with the name in a session replaces it. Two kernels at the same time both report.
        at_once : bool
            Whether to report rows that match at the first look. Otherwise such a row is reported after it has
            stopped to match and starts again.
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
            If a column does not exist, only the server can evaluate the filter, or the rows have no key. If
            there is no data yet, the error is logged later.
        TypeError, ValueError
            If ``enter`` or ``leave`` is not a function, ``name`` not a string, or ``debounce`` negative.

        Examples
        --------
        >>> stop = prices.when("price=gt.250", print)  # doctest: +SKIP
        >>> stop = prices.when(lambda row: row["bid"] > row["ask"], tell, name="crossed")  # doctest: +SKIP
        """
        from notebook_rt.runtime.watching import Watching

        self._check()
        check_alert(enter, leave, name, debounce)
        watching = Watching(
            self, condition, enter, leave, name=name, at_once=at_once, debounce=debounce
        )
        return self._feed.subscribers.add(enter, watching.stop, self._removers)

    def until(self, condition: Condition, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a row matches and return it; at once if a row matches already. Ctrl-C interrupts it.

        Parameters
        ----------
        condition : str, dict, list or callable
            As for `when`.
        timeout : float, optional
            Seconds; with 0, only the current rows are checked.

        Returns
        -------
        dict
            The first row that matches, columns to typed values.

        Raises
        ------
        WaitTimeoutError
            If no row matches in time.
        ClosedError
            If the frame or its session is closed while waiting.
        FilterError, DerivationError
            As raised by `when`; exceptions of your function are raised, too.
        NotebookRTError
            As raised by `wait`, and the error of the table if it gets into one.

        Examples
        --------
        >>> jobs.until({"id": 7, "status": "done"}, timeout=600)  # doctest: +SKIP
        """
        from notebook_rt.runtime.watching import Watching

        self._check()
        timeout = seconds(timeout)
        ends = None if timeout is None else time.monotonic() + timeout
        self.wait(timeout)
        found = FirstRow()
        watching = Watching(
            self, condition, found.notify, at_once=True, failed=found.fail, reported=found.reported
        )
        try:
            return found.wait(timeout, ends, self._check_all, f'"{self.name}"')
        finally:
            watching.stop()

    def _check_all(self) -> None:
        """Raise if the frame is closed or in error."""
        self._check()
        self._check_error()

    def changes(self, timeout: float | None = None, *, for_: float | None = None) -> Changes:
        """Iterate over batches of changes as they arrive, with ``for`` or ``async for``.

        The iterator keeps the frame alive: ``for batch in rt.table("orders").changes()`` needs no variable.

        Parameters
        ----------
        timeout : float, optional
            Seconds without a change after which the iteration ends. None: it ends when the frame or its
            session is closed.
        for_ : float, optional
            Seconds from now after which the iteration ends, whatever changes.

        Returns
        -------
        Changes
            The iterator, of `ChangeBatch`. It raises the table's error, by name as `df` does, where the
            table is gone or cannot be had.

        Examples
        --------
        >>> for batch in prices.changes(timeout=60):  # doctest: +SKIP
        ...     for change in batch:
        ...         print(change.kind, change.key, change.old, change.new)
        """
        self._check()
        self._feed.touch()
        patience, span = seconds(timeout), seconds(for_, "for_")
        changes = Changes(self._feed, patience, span, self._listener, holds=self)
        self._iterations.add(changes)
        return changes

    @property
    def log(self) -> pd.DataFrame:
        """The latest ``Options.log_size`` changes, oldest first, one row each.

        ``at`` (datetime64, UTC) is the time of the commit by the server's clock; for what has none (an
        edit, an audit), when it was shown by this one's. ``version`` (int64), ``cause`` and ``kind``
        (str), ``key``, ``old`` and ``new`` (object) are those of a `ChangeBatch` and its changes. What
        the reading of the whole table brings (``snapshot``) is not in it.
        """
        feed = self._feed
        batches = feed.thread.call(list, feed.log)
        return changes_df(batches, feed.options.log_size)

    def close(self) -> None:
        """Let go. The last handle on a table ends its subscription; ``df`` keeps the last data."""
        if not self._closed:
            self._closed = True
            for remove in tuple(self._removers):
                remove()
            for changes in tuple(self._iterations):
                changes.close()
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(self, *error: object) -> None:
        self.close()


def _snapshot(shown: Table | Ordered) -> pd.DataFrame:
    return shown.snapshot()
