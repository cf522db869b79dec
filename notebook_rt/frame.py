"""``LiveFrame``: a live DataFrame as the user holds it, and what is derived of live frames.

A query and a channel's frame are one; a table is one that can be written (``table.py``). How it is read,
listened to and shown is in ``handle.py``; how what is derived is kept up, in ``sync/derive/``.
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

    Made by ``Session.table``, ``Session.query`` and ``Channel.frame``. As a cell's last line it is the
    live grid. What is asked of a closed one raises `ClosedError`; ``df`` still gives the last data.
    """

    def map(self, fn: Callable[[pd.DataFrame], Any]) -> MappedFrame:
        """A live view: ``fn(df)``, computed when it is read and the table has changed, or another
        live frame that ``fn`` reads (its ``df``, ``get``, ``at``). Of several frames: `notebook_rt.map`.

        Parameters
        ----------
        fn : callable
            Given the snapshot, returns what is made of it: ``lambda df: df.groupby("symbol").mean()``.
            As a cell's last line a DataFrame, Series or single value is shown live.

        Returns
        -------
        MappedFrame
            The view.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        from notebook_rt.mapped import MappedFrame

        return MappedFrame((self,), fn)

    # Deriving

    def where(self, filter: FilterSource) -> LiveFrame:
        """A live frame of the rows that a filter selects: ``df[mask]``, at the cost of what changed.

        Parameters
        ----------
        filter : str, dict or list
            As of ``Session.table``: ``"price=gte.100,symbol=in.(AAPL,MSFT)"``, ``{"symbol": "AAPL"}``.

        Returns
        -------
        LiveFrame
            The rows, in this frame's order, with its dtypes and index.

        Raises
        ------
        FilterError
            If the filter cannot be read.
        DerivationError
            If there is no such column, a literal is no value of it, or only the server could decide: at
            once where the columns are known, else when it is read.
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
        """A live frame of the rows with the columns of their partners: ``df.join(other.df, on, how)``.

        Parameters
        ----------
        other : LiveFrame
            Of the same session. A row's partner is its row whose key is what ``on`` holds.
        on : str or sequence of str, optional
            Columns of this frame. Default: its key.
        how : {"left", "inner", "right", "outer"}
            Which rows without a partner stay, their other columns empty. An outer join is in the order of its
            keys, so it is not kept up but made anew with each change, as ``map`` does.
        suffixes : tuple of str
            What is added to the names of columns that both have.

        Returns
        -------
        LiveFrame
            The rows in the order, with the index and the dtypes of pandas. Left and inner: its key is this
            frame's. Right and outer by columns: this frame's key and the other's.

        Raises
        ------
        DerivationError
            If ``how`` is another, the frames are of two sessions, or, once the columns are known, ``on`` is
            not the other's key: use ``merge``. Also of a right or outer join ``on`` columns to a key of
            several columns, while a row of the other's has no partner: pandas gives it another row's label;
            use ``map``.
        TypeError
            If ``other`` is no live frame: use ``map``.
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
        """A live frame of the pairs of rows that hold the same: ``df.merge(other.df, ...)``.

        Parameters
        ----------
        other : LiveFrame
            Of the same session.
        how : {"inner", "left", "right", "outer"}
            Which rows without a partner stay, their other columns empty. An outer merge is in the order of
            its keys, so it is not kept up but made anew with each change, as ``map`` does.
        on : str or sequence of str, optional
            Columns, or levels of the index, of both. A null is the partner of a null.
        left_on, right_on : str or sequence of str, optional
            Those of this frame and of the other, where they are called differently.
        left_index, right_index : bool
            By the index instead.
        suffixes : tuple of str
            What is added to the names of columns that both have.

        Returns
        -------
        LiveFrame
            The rows in the order, with the index and the dtypes of pandas: merged by columns, the index
            counts. The key (of ``get`` and of changes) is this frame's key where a row has one partner
            at most, the other's where that is so of the other's rows, else both, one after the other.

        Raises
        ------
        DerivationError
            If ``how`` is another, it is not said by what to merge, the frames are of two sessions, or,
            when it is read, it cannot be kept up, such as columns merged with an index of several columns
            where a row of that frame has no partner and stays: use ``map``.
        TypeError
            If ``other`` is no live frame: use ``map``.

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
                f"{keying.said}: how is one of {', '.join(HOWS)}, not {how!r}; others with map"
            )
        if isinstance(suffixes, str) or len(suffixes) != 2:
            raise DerivationError(
                f'{keying.said}: suffixes are two, such as ("", "_right"), not {suffixes!r}'
            )
        name = f"{self.name}.{keying.said}({other.name})"
        same = (keying, how, tuple(suffixes))
        return DerivedFrame(name, (self, other), lambda: derive.Join(keying, how, suffixes), same)

    def select(self, *columns: str, **computed: Expression) -> LiveFrame:
        """A live frame of some columns, and computed ones: ``df.assign(**computed)[[*columns, *computed]]``.

        A function of yours is given a DataFrame, as ``df.assign`` gives it: the whole at first, and then
        only the rows that have changed. So what it computes of a row must depend on that row alone:
        ``df["price"] * df["size"]``, not ``df["price"].cumsum()``. Whether it does is tried with single rows
        when the whole is computed, and refused if not. What that cannot show, such as a function that reads
        the clock, another frame or a variable that changes, is not noticed: use ``map``.

        Parameters
        ----------
        *columns : str
            In this order. Default: all. The key is the index in any case.
        **computed : callable or str
            New column to a function of a DataFrame, or a text such as ``"price * size"``: columns (in
            backticks where a name is no identifier), numbers, ``+ - * / // %``, comparisons, ``and``, ``or``,
            ``not``. A later one sees those before it.

        Returns
        -------
        LiveFrame
            The same rows, with the same index; dtypes are those of pandas.

        Raises
        ------
        DerivationError
            At once, if a text is not of that language; once the columns are known, if one is not there;
            when it is read, if a function raises, does not compute row by row, or gives what is neither
            number, truth, text nor moment: use ``map``.

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
        """A live frame of the rows in order: ``df.sort_values(by, ascending=, na_position=, kind="stable")``.

        Parameters
        ----------
        by : str or sequence of str
            Columns, those of the key among them. Text is sorted as pandas does, by code point.
        ascending : bool or sequence of bool
            For all columns, or for each.
        na_position : {"last", "first"}
            Where the nulls go.

        Returns
        -------
        LiveFrame
            The rows; those that are alike stay in this frame's order.

        Raises
        ------
        DerivationError
            At once, if the parameters do not fit each other; once the columns are known, if one is not there
            or is of a type that has no order, such as json: use ``map``.
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
        """A live frame of the first rows in an order, the greatest unless said otherwise.

        It is ``df.sort_values(by, ascending=ascending, kind="stable").head(n)``, which without nulls is
        ``df.nlargest(n, by)``, or ``df.nsmallest(n, by)`` with ``ascending=True``.

        Parameters
        ----------
        n : int
            How many rows.
        by : str or sequence of str
            Columns, those of the key among them.
        ascending : bool or sequence of bool
            Whether the least come first; for all columns, or for each.
        na_position : {"last", "first"}
            Where the nulls go.

        Returns
        -------
        LiveFrame
            The rows in order; of those that are alike the first ones of this frame.

        Raises
        ------
        DerivationError
            As ``sort``.

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
        """A live frame of the first row of each combination of values: ``df.drop_duplicates(columns)``.

        Parameters
        ----------
        columns : str or sequence of str, optional
            Whose values are compared. Default: all but the key.

        Returns
        -------
        LiveFrame
            Whole rows, in this frame's order, with its index and dtypes.

        Raises
        ------
        DerivationError
            Once the columns are known, if one is not there, is of the key, or is of a type that is not
            compared, such as json: use ``map``.
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
        """Group the rows by the values of columns, as ``DataFrame.groupby``; say what of them by ``agg``.

        Parameters
        ----------
        by : str or sequence of str
            Columns, those of the key among them. A row with a null in one of them is in no group.
        sort : bool
            The groups are in the order of their values; in that of their first rows they are not kept up.
        dropna : bool
            A group of nulls is not kept up.

        Returns
        -------
        LiveGroupBy
            Its ``agg`` gives the live frame.

        Raises
        ------
        DerivationError
            With ``sort=False`` or ``dropna=False``, or by what is no column's name: use `map`.
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
        """For each row, the rows of its group in a time before it, as ``groupby(by).rolling(window, on=on)``.

        Parameters
        ----------
        window : str or Timedelta
            How long, such as ``"5min"``: from then, not included, to the row itself.
        on : str
            The column of moments. In each group the rows must be in its order, as pandas asks.
        by : str or sequence of str
            Columns to group by. A row with a null in one of them is in no group.

        Returns
        -------
        LiveRolling
            Its ``agg`` gives the live frame.
        """
        return LiveRolling(self, window, on, (by,) if isinstance(by, str) else tuple(by))


class DerivedFrame(LiveFrame):
    """What an operator makes of live frames: as live as they are, and all that a live frame is.

    What the columns of those frames show to be wrong is raised when it is made, if they are loaded by then;
    else its status is ``error`` once they are.
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
        """Bytes that the result and what the operator keeps take, about; its inputs are not counted."""
        return self._feed.nbytes

    @property
    def status(self) -> Status:
        """The worst of the statuses of the frames that it is derived of."""
        if self._closed or any(frame.status == "closed" for frame in self._frames):
            return "closed"
        return "error" if self._feed.error is not None else self._feed.status

    @property
    def reason(self) -> str:
        """Why the status is what it is."""
        why_empty = self._feed.why_empty() if self.status != "error" else ""
        return str(self._feed.error or why_empty or self._feed.reason)

    @property
    def synced_at(self) -> pd.Timestamp | None:
        """When all of what it is derived of was last known to be the server's (UTC)."""
        times = [frame.synced_at for frame in self._frames]
        known = [time for time in times if time is not None]
        return min(known) if len(known) == len(times) else None

    def _raise_error(self) -> None:
        """An input that cannot be shown: what was last derived of it would look as if it were true."""
        for frame in self._frames:
            frame._raise_error()

    def _read(self, snapshot: Callable[[], T | None]) -> T:
        self._feed.error = None  # what an input was refused for may be gone
        try:
            return super()._read(snapshot)
        except NotebookRTError as error:
            raise fresh(error) from error.__cause__

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the first data of the frames that it is derived of, and derive it.

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
            What ``wait`` of those frames raises.
        DerivationError
            If it cannot be derived.
        """
        self._check()
        until = None if timeout is None else time.monotonic() + timeout
        for frame in self._frames:
            frame.wait(None if until is None else max(0.0, until - time.monotonic()))
        self._derive()
        return self

    async def ready(self) -> Self:
        """Wait for the first data without blocking the caller's loop; raises as ``wait`` does.

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
        """Compare the frames that it is derived of with the server, and it with what is derived anew.

        Parameters
        ----------
        timeout : float, optional
            Seconds for each frame.

        Returns
        -------
        Verdict
            Rows that were compared and that differed, in all.

        Raises
        ------
        NotebookRTError
            What ``verify`` of those frames raises.
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
        """Iterate over batches of changes as they come; as of every live frame.

        Parameters
        ----------
        timeout : float, optional
            Seconds without a change after which the iteration ends.
        for_ : float, optional
            Seconds from now after which the iteration ends, whatever changes.

        Returns
        -------
        Changes
            The iterator, of `ChangeBatch`.
        """
        self._feed.advance()  # what changes from now on is told
        return super().changes(timeout, for_=for_)

    def _attach(
        self, put: Callable[[ChangeBatch], object], *, gather: bool = True
    ) -> Callable[[], None]:
        try:
            self._feed.advance()  # what changes from now on is told
        except DerivationError:
            if not self._feed.why_undeclared:  # else each row has yet to come
                raise
        # Who listens to it keeps it: by what it is derived of, since nothing else holds it.
        held = [frame._attach(lambda batch: self._held()) for frame in self._frames]
        detach = super()._attach(put, gather=gather)

        def end() -> None:
            detach()
            for let_go in held:
                let_go()

        return end

    def _held(self) -> None:
        """Nothing: that it can be called keeps it alive."""

    _feed: DerivedFeed


def _leave(feed: DerivedFeed, reader: weakref.ref[DerivedFrame]) -> None:
    feed.leave(reader())


class _Aggregated:
    """What has ``agg`` and nothing else of pandas' groups; says how the rest is written here."""

    if not TYPE_CHECKING:  # a checker would take any name for an attribute

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
    """The groups of a live frame's rows; made by ``LiveFrame.groupby``."""

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
        """A live frame of a row a group: ``df.groupby(by).agg(...)``, at the cost of what changed.

        A function of yours is called again with all values of each group that has changed.

        Parameters
        ----------
        *unnamed : object
            Refused: each new column is named.
        **columns : tuple of (str, str or callable), or pandas.NamedAgg
            New column to a column and its function: ``n=("id", "count")``. By name: all, any, count, first,
            last, max, mean, median, min, nunique, size, std, sum, var. Or a function of a Series.

        Returns
        -------
        LiveFrame
            One row a group, sorted by the groups, which are its index; dtypes are those of pandas.

        Raises
        ------
        DerivationError
            If a column is not there, or a function is not kept up, at once or when the column's type is
            known: use ``map``.
        TypeError
            If no column is given, or one not by a name, and as a column and its function.

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
    """The windows of a live frame's rows; made by ``LiveFrame.rolling``."""

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
        """A live frame of a row a row, as pandas' ``agg`` of the windows; those that changed are computed.

        Parameters
        ----------
        *unnamed : object
            Refused: each new column is named.
        **columns : tuple of (str, str), or pandas.NamedAgg
            New column to a column of numbers and its function: ``volume=("size", "sum")``. There are count,
            first, last, max, mean, median, min, nunique, std, sum, var.

        Returns
        -------
        LiveFrame
            Sorted by the groups; the groups and ``on`` are its index, and its key is this frame's.

        Raises
        ------
        DerivationError
            If the window is no time, a column is not there, is one of the groups or ``on``, or a function is
            not kept up; when it is read, if the rows of a group are not in the order of ``on``: use ``map``.
        TypeError
            If no column is given, or one not by a name, and as a column and its function.

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
    """New columns to their column and function; refuses what is not ``name=(column, function)``."""
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
    """A live frame of the rows of several, one after the other: ``pd.concat([a.df, b.df], keys=keys)``.

    Its index is theirs, so no two of them may have a row with the same key; with ``keys`` they may: then
    the first level of the index says of which frame a row is.

    Parameters
    ----------
    frames : sequence of LiveFrame, or dict of them
        Of one session, with keys of the same columns. A dict says ``keys``, too. A column that one does not
        have is empty there.
    keys : sequence of str or of int, optional
        A name for each frame.
    name : str
        What the level of the index that ``keys`` makes is called: ``names=[name]`` of ``pd.concat``.

    Returns
    -------
    LiveFrame
        The rows; dtypes are those of pandas.

    Raises
    ------
    DerivationError
        If the frames are of two sessions, or ``keys`` are not one for each frame and all different; once
        the columns are known, if a column has another type in another frame or their keys are other
        columns; when it is read, if two have a row with the same key and there are no ``keys``.
    TypeError
        If ``frames`` are no live frames.

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
    """A live view of several frames: ``fn(a.df, b.df)``, computed when it is read and one has changed.

    Parameters
    ----------
    frames : sequence of LiveFrame
        Whose snapshots ``fn`` is given, in this order. They are read one after the other.
    fn : callable
        Returns what is made of them. Other live frames that it reads are followed, too.

    Returns
    -------
    MappedFrame
        The view.

    Raises
    ------
    TypeError
        If ``fn`` is no function, or ``frames`` are no live frames.

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
