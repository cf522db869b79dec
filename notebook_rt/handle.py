"""What every live frame has: it is read, listened to, waited for and shown. ``LiveFrame`` is one.

It owns nothing: what it shows is in ``store/``, what keeps it true in ``sync/`` and ``net/``. Every call is
synchronous and thread-safe; ``await frame.ready()`` works from any loop.
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
from notebook_rt.runtime.callbacks import FirstRow, Mailbox, came, check_told
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
"""Seconds for which an error is raised again as it is, and not asked after: ``df`` may be read in a loop."""


class Handle:
    """The thin handle on what is kept up to date, as the user holds it: a `LiveFrame`, apart from what can be
    derived of one.
    """

    editable = False
    """Whether its rows can be written: a `LiveTable`'s can."""

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
        told = self.status in ("error", "polling", "stale") or self._untold()
        why = f": {self.reason}" if told else ""
        by = " by broadcast" if feed.source == "broadcast" and self.status == "live" else ""
        by += f" per {feed.scope}" if by and feed.scope else ""
        return printable(f"<{type(self).__name__} {feed.name} {self.status}{by}{rows}{why}>")

    def _untold(self) -> str:
        """A reason to put behind the status; empty without one."""
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

        self._feed.look()
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
        """The live grid, with options.

        Parameters
        ----------
        columns : str or sequence of str, optional
            Which, in this order. Default: all, the key's first.
        formats : dict of str, optional
            Column to number format: ``",.2f"``, ``".1%"``, ``",d"``.
        height : int
            In pixels, at most: a few rows take less.
        style : dict, optional
            Column to how its cells are drawn: ``"bar"`` (as long as the number), ``"color"`` (as strong
            as the number; of texts, each its own), ``"updown"`` (above and below zero), or a dict of
            values to ``"blue"``, ``"green"``, ``"grey"``, ``"red"`` or ``"yellow"``.
        totals : dict, str or sequence of str, optional
            Column to ``"sum"``, ``"mean"``, ``"median"``, ``"min"``, ``"max"`` or ``"count"`` of the rows
            shown, in a line below them; names alone are summed.
        group : str, optional
            Column by whose values the rows stand under headings that open and close, each with its count and
            the ``totals`` of its rows.
        title : str, optional
            A caption above the grid, plain text, in place of the name. Default: the name.

        Returns
        -------
        GridWidget
            The widget.

        Raises
        ------
        TypeError
            If the title is no text, or the height no number of pixels.
        ValueError
            If a column is not there, or a format, a style or a total is invalid.

        Examples
        --------
        >>> trades.grid(  # doctest: +SKIP
        ...     formats={"price": ",.2f"},
        ...     style={"size": "bar", "change": "updown", "side": {"buy": "green", "sell": "red"}},
        ...     totals={"size": "sum", "price": "mean"},
        ... )
        """
        from notebook_rt.widgets import display

        self._feed.look()
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
        """A live chart. Waits for the first data; needs the extra ``plot``.

        Parameters
        ----------
        x : str, optional
            A column. Default: the key.
        y : str or sequence of str, optional
            Columns; several are several lines. Default: the first three columns of numbers.
        kind : {"line", "area", "bar", "point", "tick", "hist"}
            How each row is drawn; ``"hist"`` counts the values of the first ``y`` instead.
        color : str, optional
            A column, each of whose values has a color.
        last : int, optional
            Only the last so many rows.
        points : int
            How many are drawn at most; a line keeps its highest and lowest.
        style : callable, optional
            Given the Altair chart, returns it changed: size, scales, titles.

        Returns
        -------
        ChartWidget
            The widget.

        Raises
        ------
        ValueError
            If a column is not there, ``kind`` is invalid, ``last`` or ``points`` is less than 1, or
            ``color`` is given and several ``y``.
        TypeError
            If ``style`` is no function.
        ImportError
            If the extra is not installed: ``pip install 'notebook_rt[plot]'``.
        NotebookRTError
            What ``wait`` raises.
        """
        from notebook_rt.widgets import display

        names = [y] if isinstance(y, str) else [*y]
        self._ask_for([*names, *(name for name in (x, color) if name)])
        return display.plot(
            self, x, y, kind=kind, color=color, last=last, points=points, style=style
        )

    def _ask_for(self, columns: Sequence[str]) -> None:
        """Learn these columns, where no row was there to name them and they can be asked for by name."""

    # Reading

    @property
    def schema(self) -> Schema | None:
        """The columns with their PostgreSQL types, and the key; None before the first data."""
        return self._feed.schema

    @property
    def name(self) -> str:
        """The table's, the query's or the event's name."""
        return self._feed.name

    @property
    def df(self) -> pd.DataFrame:
        """The current snapshot, index = primary key: consistent, never half-applied.

        Each read is a DataFrame of its own, which shares its memory with the others until one is written
        to: what you do to it reaches neither the table nor any other reader. `version` says whether
        anything has changed since. The first read waits for the first data. A column of dates or times is
        ``object`` while it holds what no datetime can be: ``infinity``, a year BC or past 9999.

        Raises
        ------
        NotebookRTError
            By name, if the table cannot be had (not published, no key, wrong key, ...).
        """
        return self._show(_snapshot, self._feed.snapshot).copy(deep=False)

    @property
    def _whole(self) -> pd.DataFrame:
        """What `df` copies: the same object until something has changed, and nobody writes to it."""
        return self._show(_snapshot, self._feed.snapshot)

    def to_arrow(self) -> pa.Table:
        """The current snapshot as a ``pyarrow.Table``, key columns included; raises as `df` does.

        Numbers, moments and text share the table's memory, unless it is in an ``order``. json becomes
        its text, and so do arrays that Arrow has no list type for.

        Returns
        -------
        pyarrow.Table
            One row a row, key columns first.
        """
        return self._show(lambda shown: shown.to_arrow(), self._feed.arrow)

    def to_polars(self) -> polars.DataFrame:
        """The current snapshot as a ``polars.DataFrame``, as `to_arrow`; polars must be installed.

        Returns
        -------
        polars.DataFrame
            One row a row, key columns first.

        Raises
        ------
        ImportError
            If it is not.
        """
        try:
            import polars
        except ImportError as error:
            raise ImportError(f"to_polars needs polars: pip install polars ({error})") from error

        return cast("polars.DataFrame", polars.from_arrow(self.to_arrow()))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's stream interface, as `to_arrow`: polars, DuckDB and pyarrow read a live frame."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _show(self, read: Callable[[Table | Ordered], T], unmarked: Callable[[], T | None]) -> T:
        """What ``unmarked`` gives. `LiveTable` notes what ``read`` makes of the table: edits are made
        from it."""
        return self._read(unmarked)

    def _read(self, snapshot: Callable[[], T | None]) -> T:
        """What ``snapshot`` gives, once there is something; an error of the table is raised."""
        note(self)
        self._feed.look()
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

        What is in ``error`` for a reason that may be mended in the database, such as a table that was
        dropped, is asked for again, in the end about once a minute, and comes back by itself; ``wait``
        and ``df`` ask at once.
        """
        return "closed" if self._closed else self._feed.status

    @property
    def reason(self) -> str:
        """Why the status is what it is; of what is polled also how old it is.

        Of a live table: why changes may have been lost since it was compared with the server last, if
        anything hints at that; of one without a row, that a policy may hide its rows, and what to do.
        """
        feed, at = self._feed, self.synced_at
        if self.status == "loading" and feed.failure is not None:
            return str(feed.failure)  # what the first read has met, and goes on trying
        as_of = f"; as of {at:%H:%M:%S} UTC" if self.status == "polling" and at is not None else ""
        why_empty = feed.why_empty() if self.status != "error" else ""
        return why_empty or feed.reason + as_of

    @property
    def version(self) -> int:
        """Counts up with every change that became visible."""
        self._feed.catch_up()
        return self._feed.version

    @property
    def synced_at(self) -> pd.Timestamp | None:
        """When the table was last known to be the server's (UTC); None before the first data."""
        return self._feed.synced_at

    def __len__(self) -> int:
        return self._read(self._feed.count)

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """The row of ``key``, by column, or None; cheaper than ``df.loc``.

        It does not wait: before the first data there is no row.

        Parameters
        ----------
        key : hashable
            As the index of ``df`` has it, or any form that `LiveTable.edit` takes: a date or its
            text, a ``uuid.UUID``, a numpy scalar; a tuple for a composite key.

        Returns
        -------
        dict or None
            Columns to typed values, the key among them. None: ``df`` shows no such row.

        Raises
        ------
        InvalidKeyError
            If no row can have such a key: a text where keys are integers, one value where they are several.
        """
        found = self._find(key)
        return None if found is None else found[1]

    def __contains__(self, key: Hashable) -> bool:
        """Whether ``df`` shows a row of ``key``, in any form that `get` takes."""
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
        """Wait for the first data; shows a progress bar where that takes long. Ctrl-C works.

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
            If it did not come in time.
        UnreachableError
            If nobody answers at the URL, after some four seconds; it goes on trying.
        NotebookRTError
            By name, if it will not come: `MissingTableError`, `NotPublishedError`,
            `NoPrimaryKeyError`, `PermissionDeniedError`, `AuthError`, ...
        """
        timeout = seconds(timeout)
        self._check()
        self._feed.look()
        thread = self._feed.thread
        future = thread.call(self._feed.wait_ready)
        until = None if timeout is None else time.monotonic() + timeout
        try:
            with Bar(self._feed) as bar:
                while True:
                    if came(future, until):
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
        """Wait for the first data without blocking the caller's loop; raises as ``wait`` does.

        Returns
        -------
        LiveFrame
            Itself.
        """
        self._check()
        self._feed.look()
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
        """Compare with the server now, row by row, and repair what differs.

        An audit does the same on a timer (``Options.audit_interval``). Waits for the first data. A
        difference that a change on its way explains does not count: to know that takes some seconds. A row
        that has changed just now is read again before the verdict.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Verdict
            Rows that were compared (of a query: read again; of a derived table: those of the tables that
            it is made of), that differed, and the seconds it took.

        Raises
        ------
        WaitTimeoutError
            If the server could not be compared with in time; it goes on trying.
        TypeError
            If this is a channel's frame or a replay: the server has nothing to compare it with.
        NotebookRTError
            What ``wait`` raises.
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
        """Call ``fn(batch)`` with each `ChangeBatch`, in order, on a thread of its own.

        A coroutine function works too. One that raises is logged once and stays. What a cell has
        registered is replaced when the cell is run again. Where the table comes to be in error (it was
        dropped, a grant was taken away), nothing is called until it is back, and that is logged; `changes`
        raises it.

        Parameters
        ----------
        fn : callable
            Given the `ChangeBatch`.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        told = self._told
        if told is None or not callable(fn):
            return self._listen(fn, fn, log_errors=True)

        def show(batch: ChangeBatch) -> Any:
            told(batch)
            return fn(batch)

        # Logged under its own name if it raises.
        return self._listen(update_wrapper(show, fn, ("__qualname__",), ()), fn, log_errors=True)

    @property
    def _told(self) -> Callable[[ChangeBatch], object] | None:
        """What hears of each batch before the user does."""
        return None

    def _listen(
        self,
        call: Callable[[ChangeBatch], Any],
        fn: Callable[..., Any],
        *,
        log_errors: bool = False,
    ) -> Callable[[], None]:
        """Call ``call(batch)``, which is the user's ``fn`` or ends in it; log why the table is in error."""
        self._check()
        feed = self._feed
        box = Mailbox(call, feed.options.buffer_size, f"{self.name}.on_change", feed.counters)
        box.holds = self  # who listens keeps the frame, though no variable does
        detach = self._attach(box.put)
        be_quiet = feed.log_errors(box.what) if log_errors else lambda: None

        def remove() -> None:
            box.close()
            detach()
            be_quiet()

        return feed.subscribers.add(fn, remove, self._removers)

    def _hear(self, call: Callable[[ChangeBatch], object]) -> Callable[[], None]:
        """Call ``call(batch)`` on the loop: it is quick, does not raise, and keeps the frame.

        A widget is only told to look again: a thread between would be woken to wake another one.
        """
        self._check()
        return self._feed.subscribers.add(call, self._attach(call), self._removers)

    def _attach(
        self, put: Callable[[ChangeBatch], object], *, gather: bool = True
    ) -> Callable[[], None]:
        """Have the loop call ``put`` with each batch; returns how to end that."""
        feed = self._feed
        feed.look()
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
        """Call ``enter(row)`` once for each row that begins to match, and ``leave(row)`` once it stops.

        Once, whatever happens to the connection: rows that are read again tell nothing anew, and what
        began or stopped to match meanwhile is told then. Each login has its own: another one's rows begin as
        at first, and who comes back goes on. The functions are called as those of `on_change` are: in
        order, on a thread of their own; one that raises is logged once and stays; what a cell has registered
        is replaced when the cell is run again.

        Parameters
        ----------
        condition : str, dict, list or callable
            A filter as of `where`: ``"price=gt.250"``; or a function of a row, a dict, that says whether it
            matches. It is asked about every row at first, then about those that change.
        enter : callable
            Given the row as it is now, a dict of columns to typed values.
        leave : callable, optional
            Given the row as it is now or, if it is gone, as it was; of one that went while no kernel
            looked, its key alone. It is called only for a row that was told to ``enter``.
        name : str, optional
            Remember on disk what was told, for this project and login: a kernel that starts anew tells
            nothing twice, and tells what has changed in between. The name is one alert's alone: what uses it
            next in a session takes its place, and two kernels at the same time both tell.
        at_once : bool
            Whether rows that match already the first time are told. Otherwise they are when they have
            stopped to match and begin again.
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
            If there is no such column, only the server could decide, or the rows have no key; where the
            first data is still to come, it is logged then.
        TypeError, ValueError
            If what is to be called is no function, ``name`` is no text, or ``debounce`` is negative.

        Examples
        --------
        >>> stop = prices.when("price=gt.250", print)  # doctest: +SKIP
        >>> stop = prices.when(lambda row: row["bid"] > row["ask"], tell, name="crossed")  # doctest: +SKIP
        """
        from notebook_rt.runtime.watching import Watching

        self._check()
        check_told(enter, leave, name, debounce)
        watching = Watching(
            self, condition, enter, leave, name=name, at_once=at_once, debounce=debounce
        )
        return self._feed.subscribers.add(enter, watching.stop, self._removers)

    def until(self, condition: Condition, timeout: float | None = None) -> dict[str, Any]:
        """Wait until a row matches, and give it: at once, if one does already. Ctrl-C works.

        Parameters
        ----------
        condition : str, dict, list or callable
            As of `when`.
        timeout : float, optional
            Seconds; with 0, only the rows that are there now are looked at.

        Returns
        -------
        dict
            The first row that matches, columns to typed values.

        Raises
        ------
        WaitTimeoutError
            If none does in time.
        ClosedError
            If the frame or its session is closed meanwhile.
        FilterError, DerivationError
            As `when`; also what a function of yours raises.
        NotebookRTError
            What `wait` raises, and why the table is in error, if it comes to that.

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
            self, condition, found.tell, at_once=True, failed=found.fail, looked=found.looked
        )
        try:
            return found.wait(timeout, ends, self._check_all, f'"{self.name}"')
        finally:
            watching.stop()

    def _check_all(self) -> None:
        """Raise if it is closed or in error."""
        self._check()
        self._check_error()

    def changes(self, timeout: float | None = None, *, for_: float | None = None) -> Changes:
        """Iterate over batches of changes as they come, with ``for`` or ``async for``.

        The iterator keeps the frame: ``for batch in rt.table("orders").changes()`` needs no variable.

        Parameters
        ----------
        timeout : float, optional
            Seconds without a change after which the iteration ends. None: it ends with the frame or
            its session.
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
        self._feed.look()
        patience, span = seconds(timeout), seconds(for_, "for_")
        changes = Changes(self._feed, patience, span, self._told, holds=self)
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
