"""``LiveFrame``: a live DataFrame as the user holds it, and the frames derived from live frames.

Queries and the frames of channels are LiveFrames; a table is a LiveFrame that can be written (``table.py``).
Reading, listening and display are in ``handle.py``; the incremental update of derived frames is in
``sync/derive/``.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from notebook_rt.errors import DerivationError, NotebookRTError
from notebook_rt.handle import Handle
from notebook_rt.hints import known_keywords, of_groups
from notebook_rt.model.filters import FilterSource, parse
from notebook_rt.runtime.changes import ChangeBatch
from notebook_rt.runtime.feed import Verdict
from notebook_rt.runtime.iteration import Changes
from notebook_rt.sync import derive
from notebook_rt.tracebacks import fresh

if TYPE_CHECKING:
    import pandas as pd

    from notebook_rt.mapped import MappedFrame
    from notebook_rt.runtime.derived import DerivedFeed
    from notebook_rt.sync.derive.join import How
    from notebook_rt.sync.derive.operator import Operator
    from notebook_rt.sync.derive.ordering import NaPosition
    from notebook_rt.sync.derive.select import Expression
    from notebook_rt.sync.events import Status  # here for jedi's sake: see session.py

T = TypeVar("T")


class LiveFrame(Handle):
    """A pandas DataFrame that keeps itself up to date: a table, a query or a channel's messages.

    Returned by ``Session.table``, ``Session.query`` and ``Channel.frame``. As the last line of a cell it
    displays the live grid. The methods of a closed frame raise `ClosedError`; ``df`` still returns the last
    data.
    """

    def map(self, fn: Callable[[pd.DataFrame], Any]) -> MappedFrame:
        """Return a live view of ``fn(df)``, computed when it is read after this frame has changed, or another
        live frame that ``fn`` reads (by ``df``, ``get``, ``at``). For several frames: `notebook_rt.map`.

        Parameters
        ----------
        fn : callable
            Called with the snapshot, returns the result: ``lambda df: df.groupby("symbol").mean()``.
            As the last line of a cell, a DataFrame, Series or single value is displayed live.

        Returns
        -------
        MappedFrame
            The view.

        Raises
        ------
        TypeError
            If ``fn`` is not a function.
        """
        from notebook_rt.mapped import MappedFrame

        return MappedFrame((self,), fn)

    # Deriving

    def where(self, filter: FilterSource) -> LiveFrame:
        """Return a live frame of the rows that a filter selects: ``df[mask]``, updated incrementally.

        Parameters
        ----------
        filter : str, dict or list
            As for ``Session.table``: ``"price=gte.100,symbol=in.(AAPL,MSFT)"``, ``{"symbol": "AAPL"}``.

        Returns
        -------
        LiveFrame
            The rows, in this frame's order, with its dtypes and index.

        Raises
        ------
        FilterError
            If the filter cannot be read.
        DerivationError
            If a column does not exist, a literal is not a value of its type, or only the server can evaluate
            the filter: at once if the columns are known, else when the frame is read.
        """
        parsed = parse(filter)
        return DerivedFrame(
            f"{self.name}.where({str(parsed)!r})",
            (self,),
            lambda: derive.Where(parsed),
            ("where", str(parsed)),
        )

    @known_keywords
    def join(
        self,
        other: LiveFrame,
        on: str | Sequence[str] | None = None,
        how: How = "left",
        suffixes: tuple[str, str] = ("", ""),
    ) -> LiveFrame:
        """Return a live frame of the rows joined with their partners: ``df.join(other.df, on, how)``.

        Parameters
        ----------
        other : LiveFrame
            A frame of the same session. The partner of a row is the row whose key equals ``on``.
        on : str or sequence of str, optional
            Columns of this frame. Default: its key.
        how : {"left", "inner", "right", "outer"}
            Which rows without a partner are kept, with nulls in the other columns. An outer join is in the
            order of its keys, so it is not updated incrementally but computed again with each change.
        suffixes : tuple of str
            Appended to the names of columns that both frames have.

        Returns
        -------
        LiveFrame
            The rows with the order, index and dtypes of pandas. The key of a left or inner join is the key of
            this frame; of a right or outer join by columns, this frame's key and the other's.

        Raises
        ------
        DerivationError
            If ``how`` is invalid, the frames belong to two sessions, or, once the columns are known, ``on``
            is not the key of the other frame: use ``merge``. Also for a right or outer join ``on`` columns to
            a composite key while a row of the other frame has no partner, because pandas gives it the label
            of another row: use ``map``.
        TypeError
            If ``other`` is not a live frame: use ``map``.
        """
        by = (on,) if isinstance(on, str) else None if on is None else tuple(on)
        return self._joined(other, derive.Keying(by, None, "join"), how, suffixes)

    def merge(
        self,
        other: LiveFrame,
        how: How = "inner",
        on: str | Sequence[str] | None = None,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        left_index: bool = False,
        right_index: bool = False,
        suffixes: tuple[str, str] = ("_x", "_y"),
    ) -> LiveFrame:
        """Return a live frame of the pairs of rows with equal values: ``df.merge(other.df, ...)``.

        Parameters
        ----------
        other : LiveFrame
            A frame of the same session.
        how : {"inner", "left", "right", "outer"}
            Which rows without a partner are kept, with nulls in the other columns. An outer merge is in the
            order of its keys, so it is not updated incrementally but computed again with each change.
        on : str or sequence of str, optional
            Columns, or index levels, of both frames. A null matches a null.
        left_on, right_on : str or sequence of str, optional
            The columns of this frame and of the other, if their names differ.
        left_index, right_index : bool
            Merge by the index instead.
        suffixes : tuple of str
            Appended to the names of columns that both frames have.

        Returns
        -------
        LiveFrame
            The rows with the order, index and dtypes of pandas: for a merge by columns, the index is a
            RangeIndex. The key (for ``get`` and changes) is this frame's key if each of its rows has at most
            one partner, the other frame's if that holds for its rows, else both together.

        Raises
        ------
        DerivationError
            If ``how`` is invalid, the columns to merge by are not given, the frames belong to two sessions,
            or, when it is read, the merge cannot be updated incrementally, such as columns merged with a
            composite index where a row of that frame has no partner and is kept: use ``map``.
        TypeError
            If ``other`` is not a live frame: use ``map``.

        Examples
        --------
        >>> rich = trades.merge(symbols, on="symbol")  # doctest: +SKIP
        """
        sides = [(left_on, left_index), (right_on, right_index)]
        if on is not None:
            if any(one is not None or index for one, index in sides):
                raise DerivationError("merge: say either on=, or left_ and right_")
            sides = [(on, False), (on, False)]
        if any((one is None) != index for one, index in sides):
            raise DerivationError(
                "merge: say by what, for both frames: on='symbol', or left_on= or left_index=True and "
                "right_on= or right_index=True"
            )
        left, right = (
            (one,) if isinstance(one, str) else None if one is None else tuple(one)
            for one, _ in sides
        )
        return self._joined(other, derive.Keying(left, right), how, suffixes)

    def _joined(
        self, other: LiveFrame, keying: derive.Keying, how: How, suffixes: tuple[str, str]
    ) -> LiveFrame:
        if not isinstance(other, LiveFrame):
            from notebook_rt.mapped import MappedFrame

            follows = isinstance(other, MappedFrame)
            which = "what map and sql compute" if follows else "what does not change"
            raise TypeError(
                f"{keying.said} takes a live frame, not {type(other).__name__}: with {which}, "
                f".map(lambda df: df.{keying.said}({'other.df' if follows else 'other'}, ...))"
            )
        from notebook_rt.sync.derive.join import HOWS

        if how not in HOWS:
            raise DerivationError(
                f"{keying.said}: how must be one of {', '.join(HOWS)}, not {how!r}; use map for others"
            )
        if isinstance(suffixes, str) or len(suffixes) != 2:
            raise DerivationError(
                f'{keying.said}: suffixes must be two, such as ("", "_right"), not {suffixes!r}'
            )
        name = f"{self.name}.{keying.said}({other.name})"
        same = (keying, how, tuple(suffixes))
        return DerivedFrame(name, (self, other), lambda: derive.Join(keying, how, suffixes), same)

    def select(self, *columns: str, **computed: Expression) -> LiveFrame:
        """Return selected and computed columns: ``df.assign(**computed)[[*columns, *computed]]``.

        A function is called with a DataFrame, as by ``df.assign``: first with all rows, later only with the
        rows that changed. Its result for a row must therefore depend on that row only:
        ``df["price"] * df["size"]``, not ``df["price"].cumsum()``. This is checked with single rows when all
        rows are computed, and a function that fails the check is refused. The check cannot detect a function
        that reads the clock, another frame or a variable that changes: use ``map`` for these.

        Parameters
        ----------
        *columns : str
            The columns to keep, in this order. Default: all. The key is always the index.
        **computed : callable or str
            New column to a function of a DataFrame, or an expression such as ``"price * size"``: columns (in
            backticks if the name is not an identifier), numbers, ``+ - * / // %``, comparisons, ``and``,
            ``or``, ``not``. An expression can use the computed columns before it.

        Returns
        -------
        LiveFrame
            The same rows with the same index and the dtypes of pandas.

        Raises
        ------
        DerivationError
            At once if an expression is invalid; once the columns are known, if one does not exist; when the
            frame is read, if a function raises, does not compute row by row, or returns values other than
            numbers, booleans, text and timestamps: use ``map``.

        Examples
        --------
        >>> trades.select("symbol", value="price * size")  # doctest: +SKIP
        >>> trades.select(name=lambda df: df["name"].str.upper())  # doctest: +SKIP
        """
        if not all(isinstance(name, str) for name in columns):
            raise TypeError(f"select takes columns by name, one after the other, not {columns!r}")
        derive.Select(columns, computed)  # refused now, if at all
        said = ", ".join([*columns, *(f"{name}=..." for name in computed)])
        return DerivedFrame(
            f"{self.name}.select({said})",
            (self,),
            lambda: derive.Select(columns, computed),
            ("select", columns, tuple(computed.items())),
        )

    def sort(
        self,
        by: str | Sequence[str],
        ascending: bool | Sequence[bool] = True,
        na_position: NaPosition = "last",
    ) -> LiveFrame:
        """Return the rows in order: ``df.sort_values(by, ascending=, na_position=, kind="stable")``.

        Parameters
        ----------
        by : str or sequence of str
            Columns, which may include key columns. Text is sorted by code point, as in pandas.
        ascending : bool or sequence of bool
            For all columns, or one value for each.
        na_position : {"last", "first"}
            The position of nulls.

        Returns
        -------
        LiveFrame
            The rows; rows that compare equal keep the order of this frame.

        Raises
        ------
        DerivationError
            At once if the parameters do not match each other; once the columns are known, if one does not
            exist or has a type without an order, such as json: use ``map``.
        """
        ordering = derive.Ordering(by, ascending, na_position, "sort")
        name = f"{self.name}.sort({', '.join(ordering.by)})"
        return DerivedFrame(name, (self,), lambda: derive.Sort(ordering), ("sort", ordering.asked))

    def top(
        self,
        n: int,
        by: str | Sequence[str],
        ascending: bool | Sequence[bool] = False,
        na_position: NaPosition = "last",
    ) -> LiveFrame:
        """Return a live frame of the first rows in an order, by default those with the greatest values.

        This equals ``df.sort_values(by, ascending=ascending, kind="stable").head(n)``, which without nulls is
        ``df.nlargest(n, by)``, or ``df.nsmallest(n, by)`` with ``ascending=True``.

        Parameters
        ----------
        n : int
            The number of rows.
        by : str or sequence of str
            Columns, which may include key columns.
        ascending : bool or sequence of bool
            Whether the smallest values come first; for all columns, or one value for each.
        na_position : {"last", "first"}
            The position of nulls.

        Returns
        -------
        LiveFrame
            The rows in order; of rows that compare equal, the first ones of this frame.

        Raises
        ------
        DerivationError
            As raised by ``sort``.

        Examples
        --------
        >>> volumes.top(10, by="volume")  # doctest: +SKIP
        """
        ordering = derive.Ordering(by, ascending, na_position, "top")
        derive.Top(n, ordering)  # refused now, if at all
        name = f"{self.name}.top({n}, {', '.join(ordering.by)})"
        return DerivedFrame(
            name, (self,), lambda: derive.Top(n, ordering), ("top", n, ordering.asked)
        )

    def distinct(self, columns: str | Sequence[str] = ()) -> LiveFrame:
        """Return the first row of each combination of values: ``df.drop_duplicates(columns)``.

        Parameters
        ----------
        columns : str or sequence of str, optional
            The columns to compare. Default: all except the key.

        Returns
        -------
        LiveFrame
            Whole rows with the order, index and dtypes of this frame.

        Raises
        ------
        DerivationError
            Once the columns are known, if one does not exist, belongs to the key, or has a type that cannot
            be compared, such as json: use ``map``.
        """
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        return DerivedFrame(
            f"{self.name}.distinct({', '.join(names)})",
            (self,),
            lambda: derive.Distinct(names),
            ("distinct", names),
        )

    def groupby(
        self, by: str | Sequence[str], *, sort: bool = True, dropna: bool = True
    ) -> LiveGroupBy:
        """Group the rows by the values of columns, as ``DataFrame.groupby``; aggregate them with ``agg``.

        Parameters
        ----------
        by : str or sequence of str
            Columns, which may include key columns. A row with a null in one of them is in no group.
        sort : bool
            Must be True: groups are ordered by their values.
        dropna : bool
            Must be True: rows with null groups are left out.

        Returns
        -------
        LiveGroupBy
            An object whose ``agg`` returns the live frame.

        Raises
        ------
        DerivationError
            If ``sort`` or ``dropna`` is False, or ``by`` is not a column name: use `map`.
        """
        if not (sort and dropna):
            asked = "sort=False" if not sort else "dropna=False"
            what = "the order of the groups' first rows" if not sort else "a group of nulls"
            raise DerivationError(f"groupby({asked}): {what} is not kept up; use map")
        names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, Iterable) else ()
        if not names or not all(isinstance(name, str) for name in names):
            raise DerivationError(f"groupby takes columns by name, not {by!r}; use map for others")
        return LiveGroupBy(self, names)

    def rolling(
        self, window: str | pd.Timedelta, *, on: str, by: str | Sequence[str]
    ) -> LiveRolling:
        """Take the rows of each group in a time window: ``groupby(by).rolling(window, on=on)``.

        Parameters
        ----------
        window : str or Timedelta
            The length, such as ``"5min"``: from then, excluded, to the row itself, included.
        on : str
            The column of timestamps. In each group the rows must be in its order, as in pandas.
        by : str or sequence of str
            Columns to group by. A row with a null in one of them is in no group.

        Returns
        -------
        LiveRolling
            An object whose ``agg`` returns the live frame.
        """
        return LiveRolling(self, window, on, (by,) if isinstance(by, str) else tuple(by))


class DerivedFrame(LiveFrame):
    """The result of an operator on live frames, itself a live frame.

    Errors that the columns of the inputs reveal are raised when the frame is created, if the inputs are
    loaded by then; otherwise its status becomes ``error`` once they are.
    """

    def __init__(
        self,
        name: str,
        frames: Sequence[LiveFrame],
        make: Callable[[], Operator],
        same: Hashable = None,
    ) -> None:
        from notebook_rt.runtime.derived import derived_feed

        first = frames[0]
        for frame in frames:
            frame._check()
            if frame._feed.lock is not first._feed.lock:
                raise DerivationError(
                    f"{name}: the frames are of two sessions, whose changes do not come together; use map"
                )
        feed = derived_feed(name, [frame._feed for frame in frames], make, same)
        feed.holds = feed.holds or tuple(frames)
        try:
            feed.check()
        except NotebookRTError as error:
            raise fresh(error) from error.__cause__
        feed.readers.add(self)
        super().__init__(feed, partial(_leave, feed, weakref.ref(self)), first._session)
        self._frames = tuple(frames)

    @property
    def memory_usage(self) -> int:
        """Return the approximate size in bytes of the result and the operator's state, without the inputs."""
        return self._feed.nbytes

    @property
    def status(self) -> Status:
        """The worst status of the frames that it is derived from."""
        if self._closed or any(frame.status == "closed" for frame in self._frames):
            return "closed"
        return "error" if self._feed.error is not None else self._feed.status

    @property
    def reason(self) -> str:
        """The reason for the status."""
        why_empty = self._feed.why_empty() if self.status != "error" else ""
        return str(self._feed.error or why_empty or self._feed.reason)

    @property
    def synced_at(self) -> pd.Timestamp | None:
        """The last time at which all inputs were known to equal the server's rows (UTC)."""
        times = [frame.synced_at for frame in self._frames]
        known = [time for time in times if time is not None]
        return min(known) if len(known) == len(times) else None

    def _raise_error(self) -> None:
        """Raise the error of an input that cannot be shown: the rows derived from it may be wrong."""
        for frame in self._frames:
            frame._raise_error()

    def _read(self, snapshot: Callable[[], T | None]) -> T:
        self._feed.error = None  # the reason why an input was refused may be gone
        try:
            return super()._read(snapshot)
        except NotebookRTError as error:
            raise fresh(error) from error.__cause__

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the first data of the inputs, and derive this frame.

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
        NotebookRTError
            As raised by ``wait`` of the inputs.
        DerivationError
            If the frame cannot be derived.
        """
        self._check()
        until = None if timeout is None else time.monotonic() + timeout
        for frame in self._frames:
            frame.wait(None if until is None else max(0.0, until - time.monotonic()))
        self._derive()
        return self

    async def ready(self) -> Self:
        """Wait for the first data without blocking the caller's event loop. Raises as ``wait`` does.

        Returns
        -------
        LiveFrame
            Itself.
        """
        for frame in self._frames:
            await frame.ready()
        self._derive()
        return self

    def _derive(self) -> None:
        try:
            self._feed.snapshot()
        except NotebookRTError as error:
            raise fresh(error) from error.__cause__

    def verify(self, timeout: float | None = None) -> Verdict:
        """Compare the inputs with the server, and this frame with one that is derived again from scratch.

        Parameters
        ----------
        timeout : float, optional
            Seconds for each frame.

        Returns
        -------
        Verdict
            The total number of rows compared and of rows that differed.

        Raises
        ------
        NotebookRTError
            As raised by ``verify`` of the inputs.
        """
        began = time.monotonic()
        found = [frame.verify(timeout) for frame in self._frames]
        compared, differed = self._feed.compare()
        return Verdict(
            sum(one.compared for one in found) + compared,
            sum(one.differed for one in found) + differed,
            time.monotonic() - began,
        )

    def changes(self, timeout: float | None = None, *, for_: float | None = None) -> Changes:
        """Iterate over batches of changes as they arrive, as for every live frame.

        Parameters
        ----------
        timeout : float, optional
            Seconds without a change after which the iteration ends.
        for_ : float, optional
            Seconds from now after which the iteration ends, even if changes arrive.

        Returns
        -------
        Changes
            The iterator, of `ChangeBatch`.
        """
        self._feed.advance()  # changes from now on are reported
        return super().changes(timeout, for_=for_)

    def _attach(
        self, put: Callable[[ChangeBatch], object], *, gather: bool = True
    ) -> Callable[[], None]:
        try:
            self._feed.advance()  # changes from now on are reported
        except DerivationError:
            if not self._feed.why_undeclared:  # otherwise every row is still to come
                raise
        # A listener keeps the frame alive, through its inputs: nothing else refers to it.
        held = [frame._attach(lambda batch: self._held()) for frame in self._frames]
        detach = super()._attach(put, gather=gather)

        def end() -> None:
            detach()
            for let_go in held:
                let_go()

        return end

    def _held(self) -> None:
        """Do nothing: a reference to this method keeps the frame alive."""

    _feed: DerivedFeed


def _leave(feed: DerivedFeed, reader: weakref.ref[DerivedFrame]) -> None:
    feed.leave(reader())


class _Aggregated:
    """Base of the objects that have ``agg``; other attributes of pandas' groups raise a helpful error."""

    if not TYPE_CHECKING:  # otherwise type checkers accept any attribute name

        def __getattr__(self, name: str) -> Any:
            from notebook_rt.sync.derive.aggregates import FUNCTIONS

            said = f"{type(self).__name__!r} has no attribute {name!r}{of_groups(name, FUNCTIONS)}"
            raise AttributeError(said, name=name, obj=self)

    def __getitem__(self, column: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__!r} has no [...]: say column and function by name, such as "
            f".agg(mean=({column!r}, 'mean'))"
        )


class LiveGroupBy(_Aggregated):
    """The groups of a live frame's rows, returned by ``LiveFrame.groupby``."""

    def __init__(self, frame: LiveFrame, by: tuple[str, ...]) -> None:
        self._frame = frame
        self._by = by

    def __repr__(self) -> str:
        return f"<LiveGroupBy {', '.join(self._by)} of {self._frame!r}>"

    def agg(
        self,
        *unnamed: object,
        **columns: tuple[str, str | Callable[[pd.Series], Any]] | pd.NamedAgg,
    ) -> LiveFrame:
        """Return a live frame with one row per group: ``df.groupby(by).agg(...)``, updated incrementally.

        A custom function is called again with all values of each group that has changed.

        Parameters
        ----------
        *unnamed : object
            Not accepted: every new column needs a name.
        **columns : tuple of (str, str or callable), or pandas.NamedAgg
            New column to a column and its function: ``n=("id", "count")``. Functions by name: all, any,
            count, first, last, max, mean, median, min, nunique, size, std, sum, var. Or a function of a
            Series.

        Returns
        -------
        LiveFrame
            One row per group, sorted by the groups, which are its index; with the dtypes of pandas.

        Raises
        ------
        DerivationError
            If a column does not exist, or a function cannot be updated incrementally, at once or when the
            type of the column is known: use ``map``.
        TypeError
            If no column is given, or one is not given as ``name=(column, function)``.

        Examples
        --------
        >>> by_symbol = trades.groupby("symbol").agg(volume=("size", "sum"))  # doctest: +SKIP
        """
        named = _named(unnamed, columns)
        aggregates = [derive.Aggregate(name, *given) for name, given in named.items()]
        derive.GroupBy(self._by, aggregates)  # refused now, if at all
        name = f"{self._frame.name}.groupby({', '.join(self._by)})"
        return DerivedFrame(
            name,
            (self._frame,),
            lambda: derive.GroupBy(self._by, aggregates),
            ("groupby", self._by, tuple(aggregates)),
        )


class LiveRolling(_Aggregated):
    """The windows of a live frame's rows, returned by ``LiveFrame.rolling``."""

    def __init__(
        self, frame: LiveFrame, window: str | pd.Timedelta, on: str, by: tuple[str, ...]
    ) -> None:
        self._frame = frame
        self._window = window
        self._on = on
        self._by = by

    def __repr__(self) -> str:
        return f"<LiveRolling {self._window} of {self._frame!r}>"

    def agg(self, *unnamed: object, **columns: tuple[str, str] | pd.NamedAgg) -> LiveFrame:
        """Return one row per row, as pandas' ``agg`` of the windows, updated incrementally.

        Parameters
        ----------
        *unnamed : object
            Not accepted: every new column needs a name.
        **columns : tuple of (str, str), or pandas.NamedAgg
            New column to a numeric column and its function: ``volume=("size", "sum")``. Functions: count,
            first, last, max, mean, median, min, nunique, std, sum, var.

        Returns
        -------
        LiveFrame
            Sorted by the groups; the groups and ``on`` are its index, and its key is this frame's.

        Raises
        ------
        DerivationError
            If the window is not a time, a column does not exist, is a group column or ``on``, or a function
            cannot be updated incrementally; when the frame is read, if the rows of a group are not in the
            order of ``on``: use ``map``.
        TypeError
            If no column is given, or one is not given as ``name=(column, function)``.

        Examples
        --------
        >>> recent = trades.rolling("5min", on="at", by="symbol").agg(v=("size", "sum"))  # doctest: +SKIP
        """
        named = _named(unnamed, columns)
        window, on, by = self._window, self._on, self._by
        derive.Rolling(window, on, by, named)  # refused now, if at all
        name = f"{self._frame.name}.rolling({window!r})"
        return DerivedFrame(
            name,
            (self._frame,),
            lambda: derive.Rolling(window, on, by, named),
            ("rolling", window, on, by, tuple(named.items())),
        )


def _named(unnamed: Sequence[object], columns: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return new columns with their column and function; raise for other arguments."""
    if not unnamed and not columns:
        raise TypeError("agg: name each new column, such as .agg(mean=('price', 'mean'))")
    for given in unnamed:
        pairs: list[tuple[Any, Any]] = [("price", given)]
        if isinstance(given, Mapping) and given:
            pairs = list(given.items())
        said = ", ".join(f"{column}=({column!r}, {function!r})" for column, function in pairs)
        raise TypeError(f"agg: name each new column, such as .agg({said})")

    import pandas as pd

    named: dict[str, tuple[Any, Any]] = {}
    for name, given in columns.items():
        if isinstance(given, pd.NamedAgg) and given == pd.NamedAgg(given.column, given.aggfunc):
            named[name] = (given.column, given.aggfunc)
        elif isinstance(given, tuple) and len(given) == 2:
            named[name] = given
        else:
            from notebook_rt.sync.derive.aggregates import FUNCTIONS, meant

            hint = ""
            if isinstance(given, str) and given not in FUNCTIONS:
                hint = meant(given, FUNCTIONS)
            raise TypeError(
                f"agg: {name}= is a column and its function, such as {name}=('price', 'mean'), not {given!r}"
                f"{hint}"
            )
    return named


def concat(
    frames: Sequence[LiveFrame] | Mapping[Any, LiveFrame],
    keys: Sequence[str] | Sequence[int] | None = None,
    name: str = "source",
) -> LiveFrame:
    """Return a live frame of the rows of several frames: ``pd.concat([a.df, b.df], keys=keys)``.

    The index consists of the indexes of the frames, so two frames must not have a row with the same key.
    With ``keys`` they may: the first level of the index then identifies the frame.

    Parameters
    ----------
    frames : sequence of LiveFrame, or dict of them
        Frames of one session, with the same key columns. A dict also provides ``keys``. A column that a frame
        does not have is null there.
    keys : sequence of str or of int, optional
        A name for each frame.
    name : str
        The name of the index level of ``keys``: ``names=[name]`` of ``pd.concat``.

    Returns
    -------
    LiveFrame
        The rows, with the dtypes of pandas.

    Raises
    ------
    DerivationError
        If the frames belong to two sessions, or ``keys`` are not different names, one for each frame; once
        the columns are known, if a column has different types or the frames have different key columns;
        when the frame is read, if two frames have a row with the same key and there are no ``keys``.
    TypeError
        If ``frames`` are not live frames.

    Examples
    --------
    >>> both = concat({"paper": paper, "real": real}, name="book")  # doctest: +SKIP
    """
    if isinstance(frames, LiveFrame):
        raise TypeError(
            f"concat takes several live frames, such as [paper, real], not {frames!r} alone"
        )
    if isinstance(frames, Mapping):
        keys = list(frames) if keys is None else keys
        frames = list(frames.values())
    several = tuple(frames) if isinstance(frames, Iterable) else ()
    if not several or not all(isinstance(frame, LiveFrame) for frame in several):
        raise TypeError(f"concat takes live frames, such as [paper, real], not {frames!r}")
    if keys is not None and len(keys) != len(several):
        raise DerivationError(f"concat: {len(several)} frames, and {len(keys)} keys")
    derive.Concat(keys, name)  # refused now, if at all
    said = f"concat({', '.join(frame.name for frame in several)})"
    same = ("concat", None if keys is None else tuple(keys), name)
    return DerivedFrame(said, several, lambda: derive.Concat(keys, name), same)


def map(frames: LiveFrame | Sequence[LiveFrame], fn: Callable[..., Any]) -> MappedFrame:
    """Return a live view of several frames: ``fn(a.df, b.df)``, computed when it is read after a change.

    Parameters
    ----------
    frames : sequence of LiveFrame
        ``fn`` is called with their snapshots, in this order. They are read one after the other.
    fn : callable
        Returns the result. Other live frames that it reads are followed, too.

    Returns
    -------
    MappedFrame
        The view.

    Raises
    ------
    TypeError
        If ``fn`` is not a function, or ``frames`` are not live frames.

    Examples
    --------
    >>> value = map([trades, prices], lambda t, p: t.join(p, on="symbol"))  # doctest: +SKIP
    >>> value.df  # doctest: +SKIP
    """
    given = (frames,) if isinstance(frames, LiveFrame) else frames
    several = tuple(given) if isinstance(given, Iterable) else ()
    if not several or not all(isinstance(frame, LiveFrame) for frame in several):
        raise TypeError(f"map takes live frames, such as [trades, prices], not {frames!r}")
    from notebook_rt.mapped import MappedFrame

    return MappedFrame(several, fn)
