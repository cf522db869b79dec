"""``LiveTable``: a live frame whose rows can be written (promises, edits).

An edit goes to the table's `Editor`, which checks it, puts it down in the queue's file and
shows it. Looking at what is pending makes no file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast, overload

from notebook_rt.edits.at import At
from notebook_rt.edits.editor import Editor
from notebook_rt.edits.listing import conflicts_df, pending_df
from notebook_rt.edits.ops import Right
from notebook_rt.edits.report import WriteReport
from notebook_rt.edits.shown import Shown
from notebook_rt.errors import QueueError, UnreachableError
from notebook_rt.frame import LiveFrame
from notebook_rt.hints import known_keywords
from notebook_rt.model.plain import duration
from notebook_rt.model.spec import parse_names
from notebook_rt.model.types import Column
from notebook_rt.runtime.callbacks import Mailbox
from notebook_rt.runtime.feed import Feed, Verdict
from notebook_rt.runtime.following import note

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from notebook_rt.history import History
    from notebook_rt.runtime.changes import ChangeBatch
    from notebook_rt.runtime.recording import Recording
    from notebook_rt.runtime.table import TableDriver
    from notebook_rt.store.order import Ordered
    from notebook_rt.store.table import Table
    from notebook_rt.widgets.grid import GridWidget


T = TypeVar("T")

HOW_TO_EDIT = (
    "rows are edited by .edit(key, column=value), .at[key, column] = value or .edit_many(DataFrame)"
)


def _row(method: str, values: object, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of one row, as a dict and by name."""
    if values is None or isinstance(values, Mapping):
        return {**(values or {}), **columns}
    how = ""
    if hasattr(values, "to_dict") and getattr(values, "ndim", 0) == 1:
        how = ": pass its .to_dict()"
    raise TypeError(
        f"{method} takes the columns of one row, by name or as a dict; not {type(values).__name__}{how}"
    )


def _many(given: object) -> bool:
    """Whether these are several rows; a Series is one, and is answered with how rows are given."""
    one = isinstance(given, (str, bytes, Mapping)) or (
        hasattr(given, "to_dict") and getattr(given, "ndim", 0) == 1
    )
    return isinstance(given, Iterable) and not one


class Edits(Protocol):
    """The writing side of one table (``runtime/table_edits.py``)."""

    def open(self, right: Right | None = None, columns: Collection[str] = ()) -> Editor:
        """Its editor, which knows these columns even where no row was there to name them; the queue's
        file is made if it is not there.

        Refuses a ``right`` that this login has no grant for, where the project tells its grants.
        """

    def known(self) -> Editor | None:
        """Its editor, if there is a queue."""

    def granted(self, right: Right) -> bool:
        """Whether this login has the grant, as far as is known; never waits."""

    def insert(self, values: Mapping[str, Any]) -> Hashable:
        """Insert a row; what it lacks of the key is made or drawn. Gives the key."""

    def write_many(
        self, data: object, *, upsert: bool = False, on: Sequence[str] = ()
    ) -> WriteReport:
        """Insert or upsert rows; what they lack of the key is made or drawn."""

    def fills(self, column: Column) -> bool:
        """Whether a new row may go without this column of the key, as far as is known."""

    def on_merge(self, fn: Callable[[Sequence[Mapping[str, Any]]], None]) -> Callable[[], None]: ...

    def columns_suspect(self) -> None:
        """What is known of the columns has refused something: learn them again."""


class LiveTable(LiveFrame):
    """A table of the project as a pandas DataFrame that keeps itself up to date, and can be written.

    Made by ``Session.table``. What is edited is shown at once, kept in the queue's file, written and
    merged with what others changed.
    """

    editable = True
    _how_to_edit = HOW_TO_EDIT

    def __init__(
        self,
        feed: Feed,
        release: Callable[[], None],
        session: object,
        edits: Edits,
        debounce: float = 0.0,
    ) -> None:
        super().__init__(feed, release, session, debounce)
        self._edits = edits
        self._shown = Shown()
        """What this handle has shown: what edits through it are made from."""

    # The past

    def history(
        self, span: Any = "1h", *, most_bytes: int = 256 << 20, on_disk: bool = False
    ) -> History:
        """Record the table's past from now on: what changed, and when it was committed.

        Waits for the first data and, where the table was opened a moment ago, until its changes are
        followed: some tenths of a second, 5 s at the most. A table has one history: asked for again, it
        goes on, bounded anew.

        Parameters
        ----------
        span : str, timedelta or float
            How much is kept: ``"1h"``, ``"30min"``, seconds. What is older may be forgotten.
        most_bytes : int
            Memory that it takes at most; before it takes more, the oldest is forgotten. Default: 256 MB.
            On disk it takes as much at most.
        on_disk : bool
            Whether it is written to the disk, too, and begins with what an earlier kernel wrote for this
            project, login and table; the time between is a gap. One kernel writes; another one says so,
            and records in memory. ``sign_out`` and ``notebook-rt cache clear`` remove it. Asked for once,
            it stays so until the history is closed.

        Returns
        -------
        History
            Its ``as_of``, ``diff``, ``changes_df``, ``of``, ``replay`` and ``to_parquet``. Recording ends
            with its ``close``, or with the table.

        Raises
        ------
        ValueError
            If ``span`` is no span, or ``most_bytes`` is not above 0.
        TypeError
            If ``on_disk`` is neither True nor False.
        NotebookRTError
            What ``wait`` raises.

        Examples
        --------
        >>> past = prices.history("1h")  # doctest: +SKIP
        >>> past.as_of("-10min")  # ten minutes later  # doctest: +SKIP
        """
        from notebook_rt.history import History
        from notebook_rt.model.times import microseconds_of

        microseconds = microseconds_of(span)
        if not isinstance(on_disk, bool):
            raise TypeError(f"on_disk must be True or False, not {on_disk!r}")
        if isinstance(most_bytes, bool) or not (isinstance(most_bytes, Real) and most_bytes > 0):
            raise ValueError(f"most_bytes must be a number of bytes above 0, not {most_bytes!r}")
        self.wait()
        driver = cast("TableDriver", self._feed)
        driver.thread.wait(driver.arrived())
        recording = driver.thread.call(driver.record, microseconds, most_bytes, on_disk)
        if recording.archiving is not None:
            driver.thread.wait(recording.archiving.attached())
        return History(self, driver, recording)

    @property
    def _recording(self) -> Recording | None:
        """What is recorded of the past; None: nothing."""
        return cast("TableDriver", self._feed).recording

    # Reading

    def _show(self, read: Callable[[Table | Ordered], T], unmarked: Callable[[], T | None]) -> T:
        value, mark = self._read(lambda: self._feed.shown(read))
        self._shown.whole(mark)
        return value

    def get(self, key: Hashable) -> dict[str, Any] | None:
        """The row of ``key``, by column, or None; cheaper than ``df.loc``, and it does not wait.

        What it shows is what an edit of this handle is made from.

        Parameters
        ----------
        key : hashable
            As the index of ``df`` has it, or any form that `edit` takes: a date or its text, a
            ``uuid.UUID``, a numpy scalar; a tuple for a composite key.

        Returns
        -------
        dict or None
            Columns to typed values, the key among them. None: ``df`` shows no such row.
        """
        found = self._find(key)
        if found is None:
            return None
        self._shown.row(*found)
        return found[1]

    @property
    def _told(self) -> Callable[[ChangeBatch], object]:
        return self._shown.changes

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
        editable: bool | str | Sequence[str] = True,
        by: str | None = None,
    ) -> GridWidget:
        """The live grid, with options. Of a table with a `history` it has a time slider.

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
        editable : bool, str or sequence of str
            Which columns may be edited in place. True: all but the key's, and rows can be added and
            deleted.
        by : str, optional
            The column in which the table notes who wrote a row, for the history of a cell in the menu.
            Default: ``updated_by``, ``modified_by``, ``changed_by``, ``edited_by`` or
            ``last_modified_by``, if there is one.

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
        UnreachableError
            If a column is named that is not known yet, since the table has no row, and the server does
            not answer what it is.
        """
        from notebook_rt.widgets import display

        self._feed.look()
        named = (() if isinstance(one, bool) else parse_names(one) for one in (columns, editable))
        summed = (totals,) if isinstance(totals, str) else totals or ()
        asked = {*chain.from_iterable(names or () for names in named), *(formats or ())}
        asked |= {*(style or ()), *summed, *(name for name in (group, by) if name)}
        if asked:
            self._edits.open(columns=asked)
        return display.grid(
            self,
            columns=columns,
            formats=formats,
            height=height,
            editable=editable,
            style=style,
            totals=totals,
            group=group,
            title=title,
            by=by,
        )

    def _ask_for(self, columns: Sequence[str]) -> None:
        if columns and self._feed.why_undeclared:
            with suppress(UnreachableError):
                self._edits.open(columns=columns)
                schema = self.schema
                for name in columns:
                    if schema is not None and name not in schema.types:
                        raise ValueError(f'"{self.name}" has no column "{name}"')

    # Editing

    def edit(
        self,
        key: Hashable,
        values: Mapping[str, Any] | None = None,
        /,
        *,
        base: Mapping[str, Any] | pd.Series[Any] | pd.DataFrame | None = None,
        **columns: Any,
    ) -> None:
        """Change columns of a row: shown now, queued, written, merged.

        What others changed meanwhile is told from what the values were made from: the row ``base``, else
        what this handle last showed of each cell (by ``df``, ``get``, ``at``, ``to_arrow``, ``changes``, or
        an edit of its own; each thread has its own last), else what is there now. asyncio's tasks on one
        thread share what was shown last: one that awaits between a read and its edit is to say
        ``base=row``. A value equal to that changes nothing. A value may also be a function of the old
        one, such as ``lambda n: n - 1``: it is called once, in this thread, with the value of now.

        Parameters
        ----------
        key : hashable
            The row's key; a tuple for a composite key.
        values : dict, optional
            Columns and what they become, for columns whose names are no Python names, or are ``base``.
        base : dict, Series or DataFrame, optional
            The row that the values were made from, where it is not what was last shown: what ``get``
            gave, ``df.loc[key]``, or a DataFrame of one row. It must have the columns that are edited.
        **columns
            Columns and what they become: values, or functions of the old value.

        Raises
        ------
        TypeError
            If ``values`` is no dict.
        PermissionDeniedError
            If this login has no grant for it, where the project has the SQL of ``notebook-rt doctor
            --sql``, which tells; elsewhere the server refuses it, and the queue says why.
        InvalidEditError
            If there is no such row or column, a value does not fit the column's type, or ``base`` is
            not the row; or if what was shown is not known any more, since more than 100,000 rows
            have changed or were shown one by one: read the row again, or say ``base``.
        QueueError
            If it could not be put down in the queue's file; then it is not shown either.
        NotebookRTError
            What ``wait`` raises: the first edit waits for the first data. What a function of yours raises
            is raised here, and nothing is changed.

        Examples
        --------
        >>> positions.edit(7, notes="checked")  # doctest: +SKIP
        >>> held.edit(("ada", "AAPL"), {"last price": 251.0})  # doctest: +SKIP
        >>> positions.edit(7, stock=lambda n: n - 1)  # doctest: +SKIP
        >>> row = positions.get(7)  # doctest: +SKIP
        >>> positions.edit(7, tags=[*row["tags"], "mine"], base=row)  # doctest: +SKIP
        """
        wanted = _row("edit", values, columns)
        self._changing(wanted).edit(key, wanted, self._shown, base)

    def _edit_shown(
        self, key: Hashable, values: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> None:
        """Change columns of a row, from what a grid has ``shown`` of them; else from what is there."""
        self._changing(values).edit(key, values, base=shown or None)

    @overload
    def insert(self, rows: Mapping[str, Any] | None = None, /, **columns: Any) -> Hashable: ...

    @overload
    def insert(self, rows: pd.DataFrame | Iterable[Mapping[str, Any]], /) -> WriteReport: ...

    def insert(
        self,
        rows: Mapping[str, Any] | pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
        /,
        **columns: Any,
    ) -> Hashable | WriteReport:
        """Insert a row, and give its key; or many rows, and report of them.

        Many rows are checked before anything is queued: if a cell is wrong, the error names its row and
        column (the first few), and none is queued. What the server refuses it refuses row by row: the other
        rows are written, and the report says which were not, and why. They leave in few requests, in their
        order.

        A key that is not given is made here if its type is uuid, and drawn from its sequence if it is an
        integer and the project has the SQL of ``notebook-rt doctor --sql``: the first time, and now and
        then, that is a request to the server. Without that SQL the server makes the integer key as it
        inserts the row: the call waits for its answer, and cannot be made offline or in a `batch`. If the
        answer is lost the row is not sent again unasked, so that it is never in twice.

        If somebody else inserts a row of that key meanwhile, theirs is not overwritten: it is an open
        conflict of the whole row (`resolve`), unless ``merge=`` is ``"server"`` or ``"local"``.

        Parameters
        ----------
        rows : dict, DataFrame or iterable of dict, optional
            Columns and what they hold, of one row (for columns whose names are no Python names), or of many.
            Of a DataFrame, a named index is columns, an unnamed one is not read; NaN, NaT and NA mean null.
        **columns
            Columns and what they hold, of one row; those left out get the server's defaults.

        Returns
        -------
        hashable or WriteReport
            Of one row, its key, as `get` and `edit` take it and changes have it: a date is a
            ``datetime.date``, for which ``df.loc`` wants a Timestamp. Of many, what becomes of them.

        Raises
        ------
        TypeError
            If ``rows`` is none of these.
        InvalidEditError
            If there is a row with this key already, or the key is there twice, the key is not given and can
            be neither made nor drawn now, a column is not there, a value does not fit, or the server, which
            was to make the key, refuses the row.
        AnswerLostError
            If the server was to make the key and its answer was lost: the row may be in.
        QueueError, NotebookRTError
            As `edit`.

        Examples
        --------
        >>> positions.insert(symbol="AAPL", size=3)  # doctest: +SKIP
        >>> positions.insert(pd.read_csv("new.csv"))  # doctest: +SKIP
        """
        if _many(rows) and not columns:
            return self._loaded().write_many(rows)
        return self._loaded().insert(_row("insert", rows, columns))

    def upsert(
        self,
        rows: Mapping[str, Any] | pd.DataFrame | Iterable[Mapping[str, Any]],
        /,
        *,
        on: str | Sequence[str] | None = None,
    ) -> WriteReport:
        """Insert rows, or where there is one of that key already, set its columns.

        As the database's own upsert, it says how the rows are to be: what others changed of these columns
        meanwhile is overwritten, and not merged. `edit_many` writes only on top of what was seen. Columns
        that are not named stay as they are, and a row that is as it is shown is not sent.

        Everything is checked before anything is queued, and the server refuses row by row, as in `insert`.

        Parameters
        ----------
        rows : dict, DataFrame or iterable of dict
            One row or many, with their keys: as columns, or as a DataFrame's named index. NaN, NaT and NA in
            a DataFrame mean null. A row whose key is null is inserted, as by `insert`.
        on : str or sequence of str, optional
            Columns of a unique constraint by which a row is found instead of the key, among the rows
            that are shown. Default: the key.

        Returns
        -------
        WriteReport
            What becomes of the rows.

        Raises
        ------
        TypeError
            If ``rows`` is none of these.
        InvalidEditError
            If the key is not among the columns, or is there twice, a column is not there, a value does not
            fit, or two rows that are shown have the same ``on``.
        QueueError, NotebookRTError
            As `edit`.

        Examples
        --------
        >>> report = positions.upsert(df)  # doctest: +SKIP
        >>> users.upsert([{"email": "ada@x.org", "name": "Ada"}], on="email")  # doctest: +SKIP
        """
        if isinstance(rows, Mapping):
            rows = [rows]
        return self._loaded().write_many(rows, upsert=True, on=parse_names(on) or ())

    @overload
    def delete(
        self,
        key: list[Any] | pd.Index | pd.Series[Any] | pd.DataFrame | np.ndarray,
        *,
        after: float = 0.0,
    ) -> WriteReport: ...

    @overload
    def delete(self, key: Hashable, *, after: float = 0.0) -> None: ...

    def delete(
        self,
        key: Hashable | list[Any] | pd.Index | pd.Series[Any] | pd.DataFrame | np.ndarray,
        *,
        after: float = 0.0,
    ) -> WriteReport | None:
        """Delete a row, or the rows of many keys.

        Parameters
        ----------
        key : hashable, list, Index, Series, array or DataFrame
            The row's key; a tuple for a composite key. Many: a list, an Index, a Series or an array of
            keys, or a DataFrame with the keys as its index or among its columns.
        after : float
            Seconds that it waits in the queue before it is sent, in which `undo` takes it back.

        Returns
        -------
        WriteReport or None
            Of many, what becomes of the rows.

        Raises
        ------
        InvalidEditError
            If there is no such row; of many, nothing is deleted then.
        TypeError, ValueError
            If ``after`` is no number, negative or infinite.
        QueueError, NotebookRTError
            As `edit`.
        """
        after = duration(after, "after")
        editor = self._loaded().open("delete")
        if isinstance(key, Hashable):
            editor.delete(key, after)
            return None
        return editor.delete_many(key, after)

    def edit_many(
        self,
        changes: pd.DataFrame | pd.Series[Any],
        *,
        base: pd.DataFrame | pd.Series[Any] | None = None,
    ) -> WriteReport:
        """Change many rows, all or none: index = key, columns = the columns to set.

        Where the index has no name and the key is among the columns, as in a file that was just read, it is
        taken from there. NaN, NaT and NA mean null, as in a DataFrame that was read from SQL.

        Each row is written on the condition of what it was made from, and merged with what others changed
        meanwhile, as by `edit`. What the server refuses it refuses row by row: the others are written. With
        the SQL of ``notebook-rt doctor --sql`` a few hundred rows are one request.

        Parameters
        ----------
        changes : DataFrame or Series
            A Series is one column, named as it is.
        base : DataFrame or Series, optional
            What the changes were made from, where it is not what this handle last showed (see `edit`):
            an earlier ``df``, say. It must have the rows and columns that are changed.

        Returns
        -------
        WriteReport
            What becomes of the rows; its ``changed`` is how many it changes.

        Raises
        ------
        TypeError
            If it is neither a DataFrame nor a Series.
        InvalidEditError
            If a row or a column is not there, or is named twice, or a value does not fit: the error names
            the rows and columns; or if ``base`` lacks what is changed, or what was shown is not known any
            more.
        QueueError, NotebookRTError
            As `edit`.
        """
        named = getattr(changes, "columns", ())
        return self._changing(named).edit_many(changes, self._shown, base)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Keep and show what is edited in the block as one; nothing of it if it raises.

        It is written in the order in which it was edited, and no transaction on the server: what that
        refuses is set aside alone, and the rest is written. A function of your own (`Session.rpc`) does all
        or nothing.

        Only this thread's edits; everything else goes on meanwhile. A block in a block is a part
        of it, and takes nothing but itself back if it raises. So are blocks of several tables:
        ``with orders.batch(), items.batch():`` keeps an order before the items that refer to it.
        """
        with self._loaded().open().batch():
            yield

    @property
    def at(self) -> At:
        """``frame.at[key, column] = value`` is ``frame.edit(key, column=value)``; see `At`."""
        note(self)
        return At(self._loaded().open(), self._shown, self._edits.open)

    def undo(self) -> bool:
        """Take back the last edit (or batch) of this table that has not left, or that the server
        refused; False: there is nothing to take back.

        In a ``batch`` block, the last edit of it. What the server did not answer may be written, and
        is not taken back: `discard` drops it.

        Returns
        -------
        bool
            Whether something was taken back.
        """
        editor = self._known()
        return editor is not None and editor.undo(self._shown)

    def verify(self, timeout: float | None = None) -> Verdict:
        """Compare with the server now, as `LiveFrame.verify`.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Returns
        -------
        Verdict
            Rows that were compared and that differed; ``unwritten`` are the keys of those that ``df`` shows
            with edits of yours that wait, were refused or are in conflict.

        Raises
        ------
        NotebookRTError
            As `LiveFrame.verify`.
        """
        found = super().verify(timeout)
        editor = self._edits.known()
        return found if editor is None else replace(found, unwritten=editor.unwritten())

    @property
    def reason(self) -> str:
        """Why the status is what it is, as `LiveFrame.reason`; and what of your edits the server refused,
        or waits for your decision, which ``df`` still shows.
        """
        return "; ".join(one for one in (super().reason, self._asking()) if one)

    def _asking(self) -> str:
        """What of the edits asks for something; empty: nothing does."""
        editor = self._edits.known()
        if editor is None or self._closed:
            return ""
        with contextlib.suppress(QueueError):  # a damaged file; who edits is told
            number = len(editor.open_conflicts())
            open_ones = f"{number} conflict{'s' * (number != 1)} to resolve, see .conflicts"
            return "; ".join(filter(None, (editor.refused(), open_ones if number else "")))
        return ""

    def _untold(self) -> str:
        return super()._untold() or self._asking()

    @property
    def pending(self) -> pd.DataFrame:
        """The edits of this table that are not written yet, in order: one row each, index their id.

        ``kind`` (``insert``, ``upsert``, ``update``, ``delete``), ``key``, ``values`` and the ``base`` they
        were made from (dicts as JSON has them), ``state`` and ``attempts`` as in ``Session.queue.df``,
        ``error`` (the server's words), and ``at`` (datetime64, UTC), when it was made.
        """
        editor = self._known()
        return pending_df([]) if editor is None else editor.pending

    @property
    def conflicts(self) -> pd.DataFrame:
        """Every merge decision, oldest first, and what asks for yours: one row each.

        ``at`` (datetime64, UTC), ``key``, ``column`` (None: the whole row, which one of you deleted, or
        both inserted),
        ``base``, ``mine``, ``theirs`` and ``result`` (values as JSON has them), ``rule`` (the strategy, or
        how it was resolved), ``who`` (the other one, where the row has a column ``updated_by``), and ``open``
        (bool): `resolve` it.
        """
        editor = self._known()
        return conflicts_df([]) if editor is None else editor.conflicts

    def marks(self) -> dict[tuple[Hashable, str], tuple[str, str]]:
        """``(key, column)`` to ``("pending" | "failed" | "conflict", why)`` of edited cells; of a
        deleted row, all of them.

        Returns
        -------
        dict
            A tuple of key and column to a tuple of state and reason.
        """
        editor = self._known()
        return {} if editor is None or editor.overlay is None else editor.marks()

    def leaving(self) -> dict[Hashable, Mapping[str, Any]]:
        """The rows that ``df`` has no more though that is not final: their keys to what they are, typed.

        Deleted here and not written yet; or deleted there, with edits of yours that are not decided.

        Returns
        -------
        dict
            Keys to rows.
        """
        editor = self._known()
        return {} if editor is None else dict(editor.leaving())

    def resolve(
        self,
        key: Hashable,
        column: str | None = None,
        choice: Literal["mine", "theirs"] = "mine",
        *,
        value: Any = ...,
    ) -> None:
        """Decide an open conflict.

        Parameters
        ----------
        key : hashable
            The row's key.
        column : str, optional
            One column. Default: everything that is open of the row.
        choice : {"mine", "theirs"}
            What stands.
        value : object, optional
            A third value instead, for one column; None is null.

        Raises
        ------
        ConflictError
            If nothing is open there.
        ValueError
            If ``choice`` is neither, or a value is given without the column.
        InvalidEditError
            If the value does not fit the column's type, or ``key`` no key.
        QueueError, NotebookRTError
            As `edit`.
        """
        editor = self._loaded().open()
        editor.resolve(key, column, choice, value=value)
        row = editor.row(key)
        if row is not None:  # who decides knows what stands
            shown = row if column is None else {column: row[column]}
            self._shown.cells(editor.key(key), shown)

    def discard(self, key: Hashable) -> int:
        """Drop the pending edits of a row, refused ones too; the server's row is seen again.

        Parameters
        ----------
        key : hashable
            The row's key; a tuple for a composite key.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        InvalidEditError
            If ``key`` is no key.
        """
        editor = self._known()
        return 0 if editor is None else editor.discard(key, self._shown)

    def on_merge(self, fn: Callable[[Sequence[Mapping[str, Any]]], Any]) -> Callable[[], None]:
        """Call ``fn(records)`` after each merge of your edits with what others changed, on a thread of
        its own; the records are as the rows of `conflicts`.

        Parameters
        ----------
        fn : callable
            Given the records, a sequence of dicts.

        Returns
        -------
        callable
            Call it to unsubscribe.

        Raises
        ------
        TypeError
            If ``fn`` is no function.
        """
        edits = self._writable()
        box = Mailbox(fn, what=f"{self._feed.name}.on_merge", counted=self._feed.counters)
        box.holds = self
        stop = edits.on_merge(box.put)

        def remove() -> None:
            box.close()
            stop()

        return self._feed.subscribers.add(fn, remove, self._removers)

    def _writable(self) -> Edits:
        self._check()
        return self._edits

    def _loaded(self) -> Edits:
        edits = self._writable()
        self._check_error()
        if self._feed.table is None:
            self.wait()
        return edits

    def _changing(self, columns: Collection[str]) -> Editor:
        """The table's editor, where this login may change these columns, as far as is known."""
        return self._loaded().open("update", columns)

    def _known(self) -> Editor | None:
        return self._writable().known()
